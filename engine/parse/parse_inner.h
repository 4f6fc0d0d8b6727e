/* parse/parse_inner.h - what the files of parse share. */
#ifndef BSI_PARSE_INNER_H
#define BSI_PARSE_INNER_H

#include "core/limits.h"
#include "flow/block.h"
#include "flow/rows.h"

/**
 * Where fields and records of a run of bytes end. Arrays are reused; zero-initialise, bsi_parse_index_free.
 *
 *   bytes  i d , q t y \n A , " 5 , 0 " \n B , 7          n = 17, the last line has no end
 *   pos    -1, 2, 6, 8, 15, 17, 19(n)                      pos[0] is the end before the first field
 *   end        2, 4, 6                                     indices in pos
 */
typedef struct bsi_parse_index {
    uint32_t *pos, *end;
    uint32_t *odd;       /* bytes that need care: bare and doubled quotes, data behind a closing quote, NUL */
    uint32_t *quote;     /* all quotes */
    uint32_t *high_at;   /* where chunks of 64 bytes begin that hold a byte >= 0x80 */
    size_t pos_count, end_count, odd_count, quote_count, high_count, cap;
    bool quotes, cr, nul, high, open; /* any quote that counts, CR, NUL, byte >= 0x80; a quote is open at the end */
} bsi_parse_index;
void bsi_parse_index_build(bsi_parse_index *ix, const bsi_dialect *d, const uint8_t *p, size_t n);
void bsi_parse_index_free(bsi_parse_index *ix);

/* The variants; ix has room. */
void bsi_parse_index_scalar(bsi_parse_index *ix, const bsi_dialect *d, const uint8_t *p, size_t n);
#if defined(__x86_64__)
void bsi_parse_index_avx2(bsi_parse_index *ix, const bsi_dialect *d, const uint8_t *p, size_t n);
void bsi_parse_index_avx512(bsi_parse_index *ix, const bsi_dialect *d, const uint8_t *p, size_t n);
void bsi_parse_index_vbmi2(bsi_parse_index *ix, const bsi_dialect *d, const uint8_t *p, size_t n);
#endif

/**
 * The rows of the simple records at the front of a block, without hashes, as bsi_parse_block makes them: for layouts
 * without null texts and absent slots. Returns the bytes that are done; the next record wants a closer look, or the
 * block is done.
 *
 * Where chunks of 64 bytes begin that hold a byte >= 0x80 is left in ix->pos[0..ix->high_count), ascending: they are
 * not looked at, see bsi_parse_utf8_chunks. Up to 128 kB; 0 where no such instructions are.
 */
size_t bsi_parse_simple(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t n, bsi_parse_index *ix);
#if defined(__x86_64__)
/* enc has room for 2 n + 512 bytes, high_at for n + 256. */
size_t bsi_parse_simple_vbmi2(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t n, uint32_t *high_at,
                              size_t *high_count);
/* The same for records of up to 512 bytes from p[from] on, added to what out and high_at have. Returns where it stops: behind a short
 * record, or before one that is not simple. */
size_t bsi_parse_long_vbmi2(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t from, size_t n, uint32_t *high_at, size_t *high_count);
#endif
/** Room for `count` rows and one. */
void bsi_parse_rows_room(bsi_rows *r, size_t count);

/** One field as it stands in the file to its text. */
typedef struct bsi_parse_field {
    const uint8_t *p;    /* in the file, or in the text buffer if quotes were taken out of its middle */
    uint32_t len;
    uint32_t bare;       /* offset of a bare quote or of data behind a closing quote; UINT32_MAX: none */
    bool unclosed;       /* its quote is open at the end of the bytes */
} bsi_parse_field;
/** text must have room for to - from more bytes: what is borrowed from it must not move. */
void bsi_parse_unquote(bsi_parse_field *f, bsi_buf *text, const bsi_dialect *d, const uint8_t *p, uint32_t from, uint32_t to);

/** Is all of it UTF-8? Only these chunks of 64 bytes are looked at: the others are ASCII. */
bool bsi_parse_utf8_chunks(const uint8_t *p, size_t n, const uint32_t *chunk, size_t count);

#endif
