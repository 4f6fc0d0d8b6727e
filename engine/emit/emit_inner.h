/* emit/emit_inner.h - what the files of emit/ share. */
#ifndef BSI_EMIT_INNER_H
#define BSI_EMIT_INNER_H

#include "flow/rendered.h"

/** Lines first..first+count-1. */
typedef struct bsi_slice {
    const bsi_lines *lines;
    uint32_t first, count;
} bsi_slice;

static inline uint64_t bsi_slice_start(const bsi_slice *s) { return s->first ? s->lines->end[s->first - 1] : 0; }
static inline uint64_t bsi_slice_bytes(const bsi_slice *s) {
    return s->count ? s->lines->end[s->first + s->count - 1] - bsi_slice_start(s) : 0;
}

/** Working memory of one thread that makes frames. */
typedef struct bsi_frame bsi_frame;
bsi_frame *bsi_frame_open(void);
void bsi_frame_close(bsi_frame *f);
/**
 * One zstd frame with content size and checksum of the slices' text; content gets its unseeded XXH3-128.
 *
 * Shape: lines are told (bsi_lines.told); only the first slice may start inside of its lines, only the last end there;
 *        at most 2^31 bytes
 * Same slices, same bytes: nothing else decides.
 */
void bsi_frame_make(bsi_buf *out, bsi_hash128 *content, bsi_frame *f, const bsi_slice *slices, size_t count);

/* ---- a renderer (emit_lines.c, and emit_lines_loop.h for each set of instructions) ---- */

enum {
    BSI_LINE_MARGIN = 64,                   /* bytes behind a text that copies and comparisons may touch */
    BSI_TOLD_BYTES_MAX = 1u << 28      /* of one bsi_lines: above, its text is not told, and numbers stay small */
};

typedef struct bsi_piece {
    const uint8_t *text;
    uint32_t len, value_len; /* value_len: of when it was last written */
    uint64_t at;             /* where it was last written, from the renderer's base; below the base: not in these lines */
} bsi_piece;

/* What can stand before an attribute, and with one more bit: it is null. */
enum { BSI_FIRST_BEHIND_STRING, BSI_FIRST_BEHIND_NULL, BSI_BEHIND_STRING, BSI_BEHIND_NULL, BSI_BEHIND_KINDS };

typedef struct bsi_side {
    bsi_piece *plain;            /* [attributes] none before it is left out, and none of both is null */
    bsi_piece *attribute;        /* [attributes][BSI_BEHIND_KINDS * 2] all else */
    bsi_piece none[2];           /* no attribute; [1]: behind a null */
} bsi_side;

struct bsi_renderer {
    void (*add)(bsi_renderer *r, const bsi_change *c); /* of the instructions that are used */
    const bsi_slots *slots;
    const bsi_change_head *head;
    bool tell, tell_now;     /* tell_now: of the lines at hand */
    bsi_piece seq, id, op[3], end[2];
    bsi_piece *key;
    bsi_side before, after;
    uint32_t *attribute;     /* slots of attributes, in order */
    uint32_t attributes;
    bool high;               /* constant texts */
    bsi_buf *texts;          /* all constant texts */
    size_t text_count, text_cap;
    char digits[64];
    uint8_t filler[BSI_LINE_MARGIN];
    uint32_t digit_count;
    uint64_t number;
    size_t text_bytes;       /* of constant texts, at most, in one line */
    /* the lines at hand */
    bsi_lines *to;
    uint64_t base;           /* position of the text's first byte */
    uint32_t match, goes_on; /* as in pen, between lines */
};

/** Number v as digits. */
void bsi_lines_count_to(bsi_renderer *r, uint64_t v);
/** Room for the longest that a line with so many bytes of values can be, of all that is written without looking. */
void bsi_lines_room(bsi_renderer *r, const bsi_change *c, size_t values);
void bsi_lines_add_scalar(bsi_renderer *r, const bsi_change *c);
void bsi_lines_add_avx2(bsi_renderer *r, const bsi_change *c);
void bsi_lines_add_avx512(bsi_renderer *r, const bsi_change *c);

/** bsi_isa (flow/block.h) that emit uses: of bsi_emit_use_isa, else the best of this machine. */
int bsi_emit_isa(void);

#endif
