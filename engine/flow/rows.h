/* flow/rows.h - parse hands rows to diff: the records of one block in canonical form (flow/layout.h). */
#ifndef BSI_FLOW_ROWS_H
#define BSI_FLOW_ROWS_H

#include "flow/layout.h"

/** Why a record is kept back. The names stand in exceptions: bsi_rule_name. */
typedef enum bsi_rule {
    BSI_RULE_NONE,
    BSI_RULE_COLUMNS,      /* "columns": too few or too many */
    BSI_RULE_QUOTE,        /* "quote": bare quote, strict */
    BSI_RULE_ENCODING,     /* "encoding": invalid UTF-8 */
    BSI_RULE_NUL,          /* "nul": NUL byte */
    BSI_RULE_FIELD_SIZE,   /* "field-size" */
    BSI_RULE_RECORD_SIZE,  /* "record-size" */
    BSI_RULE_KEY_EMPTY,    /* "key-empty": all key columns empty */
    BSI_RULE_DUPLICATE,    /* "duplicate": key with different contents */
    BSI_RULE_UNFINISHED    /* "unfinished": last record without line end and without evidence */
} bsi_rule;
const char *bsi_rule_name(bsi_rule r);

/** A record that parse could not take. */
typedef struct bsi_bad_row {
    uint32_t row;          /* its number in the block, blank lines not counted */
    bsi_rule rule;
    uint32_t byte;         /* offset in the block of what is wrong */
    uint32_t column;       /* column concerned, UINT32_MAX: the record */
    bool key_read;         /* its key columns are all there and clean: kh and the image's key part are valid */
    bool partition_read;   /* the partition column is there and clean (or there is no partition column) */
    bsi_buf partition;     /* its partition's text where partition_read; owned */
} bsi_bad_row;

/** Where the fields of a row begin, if that is known without going through it: bit i of word w: at byte 64 w + i of its image. Bits behind
 *  its end do not count, so words behind it may hold anything. word[0] is 0: not known. */
#define BSI_ROW_LINES 8
typedef struct bsi_row_starts {
    uint64_t word[BSI_ROW_LINES];
} bsi_row_starts;

/** Rows of one block. Arrays are owned by the struct, reused by the next parse; zero-initialise, bsi_rows_free. */
typedef struct bsi_rows {
    uint32_t count;        /* all records of the block in order, bad ones included */
    uint32_t cap;
    uint64_t *kh, *rh;     /* [count]; of bad rows: kh valid only if key_read, rh 0 */
    uint32_t *raw;         /* [count + 1] byte offset of each record in the block */
    uint32_t *image;       /* [count + 1] offset of each row image in enc; image i: body then nulls */
    uint32_t *body;        /* [count] bytes of the body; the nulls part follows it */
    uint32_t *key;         /* [count] bytes of the key slots at the front of the body */
    bsi_row_starts *starts; /* [count]; NULL in a kept copy */
    uint8_t *bad;          /* [count] bsi_rule, 0 good */
    bsi_buf enc;
    bsi_bad_row *bads;     /* in order of row */
    uint32_t bad_count, bad_cap;
    uint32_t blanks;       /* blank lines passed over */
    uint64_t only;         /* a kept copy of some rows: row i of the block is there if bit i is set, see bsi_rows_index. 0: all rows */
    struct bsi_parse_scratch *scratch; /* parse's own working memory */
} bsi_rows;
void bsi_rows_free(bsi_rows *r);
/** Where row `row` of the block stands in the arrays; UINT32_MAX: it is not there. */
static inline uint32_t bsi_rows_index(const bsi_rows *w, uint32_t row) {
    if (w->only && (row >= 64 || !(w->only >> row & 1))) return UINT32_MAX;
    uint32_t at = w->only ? (uint32_t)__builtin_popcountll(w->only & ((1ull << row) - 1)) : row;
    return at < w->count ? at : UINT32_MAX;
}

/** Read a header record. names: header names, free each and the array; bytes: length of the header with its line end and of
 *  blank lines before it. No header at all (empty file): count 0. E_REFUSED: open quote, too many columns, invalid UTF-8. */
bomsync_status bsi_parse_header(char ***names, uint32_t *count, size_t *bytes, const bsi_dialect *d, const uint8_t *p,
                                size_t n, bool at_end, bomsync_error *err);

/**
 * Make the layout of a file with this header, adding slots to the feed for columns it does not know yet.
 *
 * Shape:     slots may be empty (count 0): then key[0..key_count) become its first slots. ignore: names without a slot
 * Errors:    E_REFUSED: a name stands twice, a key column is missing (hint: the nearest name)
 * Ownership: free with bsi_layout_close; slots gets new entries (its arrays are malloc'ed, bsi_slots_free)
 */
bomsync_status bsi_layout_open(bsi_layout **out, bsi_slots *slots, const bsi_dialect *d, const char *const *header,
                               uint32_t column_count, const char *const *key, uint32_t key_count, const char *partition,
                               const char *const *ignore, uint32_t ignore_count, const char *const *nulls,
                               uint32_t null_count, bomsync_error *err);
void bsi_layout_close(bsi_layout *l);
/** Slots that a later file of the snapshot added are absent in this layout: its row images then say null, not empty.
 *  Call it for all layouts once all files are open. The digest does not change. */
void bsi_layout_widen(bsi_layout *l, const bsi_slots *slots);
void bsi_slots_free(bsi_slots *s);

/**
 * Parse one block into rows.
 *
 * Shape:   p[0..n) is one block of bsi_cut_block; ends_file: a last record without line end is normal here
 * Cost:    one pass, no allocation once the arrays have grown; p may be read up to 64 bytes past n
 * Hashes:  with secret as flow/layout.h says; without (NULL) none are made, kh and rh hold nothing. keys_only: only kh, key, raw, bad are filled (enc holds the keys)
 */
void bsi_parse_block(bsi_rows *out, const bsi_layout *l, const bsi_secret *secret, const uint8_t *p, size_t n, bool keys_only);
typedef enum bsi_hashes { BSI_HASH_ROWS, BSI_HASH_BOTH } bsi_hashes; /* rh alone; kh and rh */
/** The hashes of a block that was parsed without a secret. */
void bsi_rows_hash(bsi_rows *w, const bsi_secret *secret, bsi_hashes which);
/** Both hashes of some of the first 64 rows, bit i: of row i. None of these is bad. */
void bsi_rows_hash_some(bsi_rows *w, const bsi_secret *secret, uint64_t rows);
/** Offset of the first byte that is not UTF-8, n if there is none. */
size_t bsi_parse_utf8(const uint8_t *p, size_t n);
/* Instructions that parse uses from now on, as bsi_isa_choose said (block.h); without a call: the best of this machine.
 * Call it before the first worker starts. */
void bsi_parse_use_isa(int isa);

/* Reading row images. */
typedef struct bsi_field {
    const uint8_t *p;
    uint32_t len;
    bool null;  /* null or absent; len 0 */
} bsi_field;
/** A row image to fields of slot 0..slot_count-1 of the feed. made_with: slots of the feed when it was made.
 *  image_bytes: body and nulls. Returns false if the bytes are not a row image. Fields borrow image. */
bool bsi_image_fields(bsi_field *out, uint32_t slot_count, const uint8_t *image, uint32_t body_bytes, uint32_t image_bytes,
                      uint32_t made_with);
/** Fields of slots to a row image appended to b (body then nulls); returns the body's length; *key_bytes the key part. */
uint32_t bsi_image_build(bsi_buf *b, const bsi_field *f, uint32_t slot_count, uint32_t key_count, uint32_t *key_bytes);

#endif
