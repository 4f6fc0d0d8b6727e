/* emit/emit_inner.h - what the files of emit/ share. */
#ifndef BSI_EMIT_INNER_H
#define BSI_EMIT_INNER_H

#include "flow/lines.h"

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

#endif
