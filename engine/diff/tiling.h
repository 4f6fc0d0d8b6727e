/* diff/tiling.h - what align puts into a tiling. */
#ifndef BSI_DIFF_TILING_H
#define BSI_DIFF_TILING_H

#include "flow/align.h"

void bsi_tiling_add_piece(bsi_piece **v, size_t *count, size_t *cap, bsi_piece p); /* none without bytes */
void bsi_tiling_add_same(bsi_tiling *t, bsi_same s);
/** All of t behind what `all` holds; t is empty then. */
void bsi_tiling_gather(bsi_tiling *all, bsi_tiling *t);
/** Just n bytes at `at` of a source into b, with a margin of 64. E_REFUSED: it is shorter now. */
bomsync_status bsi_tiling_fill(bsi_buf *b, bsi_source *s, uint64_t at, size_t n, bomsync_error *err);

#endif
