/* diff/lines.h - the lines of a stretch of a file as two files are walked side by side, and whether their keys ascend.
 *
 *   bytes  p 1 , a , 3 \n p 1 , b , 7 \n p 1 , c          n = 17; the last line is not whole
 *   start  0, 7, 14                                       two lines; start[2] is where the rest begins
 *   seps   0, 2, 4                                        delimiters before it: each line must have columns - 1
 *   key    0, 7                                           where its key columns begin
 */
#ifndef BSI_DIFF_LINES_H
#define BSI_DIFF_LINES_H

#include "flow/align.h"
#include "flow/block.h"
#include "flow/rows.h"

enum { LINE_GOOD, LINE_BLANK, LINE_BAD };

/** Lines of one stretch. Arrays are reused; zero-initialise, bsi_lines_free. One thread. */
typedef struct bsi_lines {
    size_t count;
    uint32_t *start;     /* [count + 1] */
    uint32_t *seps;      /* [count + 1] */
    uint32_t *key;       /* [count]; start itself where the key stands in front */
    uint8_t *kind;       /* [count] LINE_*; NULL: all good */
    uint32_t *odd;       /* [odd_count] bytes that keep their record back: bare quote, NUL, invalid UTF-8 */
    size_t odd_count, odd_cap;
    bool lone_cr;        /* a CR outside quotes that no LF follows: such a file is not walked */
    bool key_quote;      /* a quote stands in a key column */
    bool bad_utf8, quotes;
    bool open;           /* the stretch ends inside quotes */
    size_t crlf;         /* line ends that are CRLF */
    size_t line_bytes;   /* mean length, to read the next stretch the better way */
    /* working memory */
    size_t cap;
    uint32_t *key_own;
    uint8_t *kind_own;
    uint64_t *mask;      /* delimiters outside quotes, 64 bytes a word */
    uint32_t *before;    /* how many of them stand before the word */
} bsi_lines;

/** Cost: one pass over p[0..n); p may be read up to 64 bytes past n. */
void bsi_lines_read(bsi_lines *l, const bsi_line_shape *s, int isa, const uint8_t *p, size_t n);
void bsi_lines_free(bsi_lines *l);

/** The first i > from whose key is not seen at a glance to be above that of i - 1 (and, with key_quoted, to be so); count: all ascend. key[] are offsets in p, of good
 *  lines; p may be read up to 64 bytes past the last one's start. Order: see bsi_keys_compare. */
size_t bsi_lines_ascend(const bsi_line_shape *s, int isa, const uint8_t *p, const uint32_t *key, size_t from, size_t count);
/** Keys as they stand, field by field: by bytes where by_text says so, else the shorter one first: 90 < 100. Any total order would do. */
int bsi_keys_compare(const bsi_line_shape *s, const uint8_t *a, const uint8_t *b);
/** a stands before b in a file: the field in which they differ, and which of the two orders that speaks for: above 0 bytes, below 0
 *  numbers, 0 both or neither. */
uint32_t bsi_keys_vote(const bsi_line_shape *s, const uint8_t *a, const uint8_t *b, int *vote);
/** Length of the key that begins at p, its last delimiter or line end not counted. */
size_t bsi_keys_length(const bsi_line_shape *s, const uint8_t *p);
/** Each of its fields stands in quotes, and nothing between them needs care. */
bool bsi_keys_quoted(const bsi_line_shape *s, const uint8_t *p);
/** All its fields are empty. */
bool bsi_keys_empty(const bsi_line_shape *s, const uint8_t *p);

/* The variants; l has room. */
#define BSI_LINES_VARIANT(isa)                                                                              \
    void bsi_lines_read_##isa(bsi_lines *l, const bsi_line_shape *s, const uint8_t *p, size_t n);           \
    size_t bsi_lines_ascend_##isa(const bsi_line_shape *s, const uint8_t *p, const uint32_t *key, size_t from, size_t count)
BSI_LINES_VARIANT(scalar);
#if defined(__x86_64__)
BSI_LINES_VARIANT(avx2);
BSI_LINES_VARIANT(avx512);
#endif
void bsi_lines_odd(bsi_lines *l, size_t at);

#endif
