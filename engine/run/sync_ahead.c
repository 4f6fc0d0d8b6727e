/* run/sync_ahead.c - the lists of a first load, written while keys that stand twice are looked for.
 *
 *   blocks are written ─┬─> keys that stand twice? ──> changes ──> generation ─┬─> commit
 *                       └─> lists of state and image, by a thread of their own ─┘
 *
 * Writing these lists takes one core a twentieth of a first load, and all that the steps beside it could find out is that some
 * record stands twice, or may not count. That is rare: then the pieces, which nothing names yet, are dropped, and the lists
 * are made as ever. Whether each block is a state block for itself is known before (s->all_exact).
 */
#include <stdlib.h>

#include "core/limits.h"
#include "run/sync.h"

struct bsi_sync_ahead {
    bsi_sync *s;
    bsi_beside beside;
    bool made;
};

static void entries(void *ctx, bsi_image_entry *out, size_t first, size_t count) {
    const bsi_sync *s = ctx;
    for (size_t i = 0; i < count; i++) out[i] = bsi_sync_entry(s, &s->scan.block[first + i], first + i, s->first_ref[first + i]);
}

static void *write_lists(void *ctx) {
    struct bsi_sync_ahead *a = ctx;
    bsi_sync *s = a->s;
    bomsync_error err = BOMSYNC_ERROR_INIT; /* publish tries again, and tells it */
    bsi_ahead lists = {.state = s->first_ref, .state_count = s->open_count, .image_count = s->open_count, .entries = entries, .ctx = s};
    a->made = bsi_store_lists_ahead(s->store, &lists, &err) == BOMSYNC_OK;
    return NULL;
}

void bsi_sync_ahead_start(bsi_sync *s) {
    bool first = !s->last && !s->image.count && !s->feed->image_list && s->scan.blocks == s->open_count;
    if (s->workers < 2 || !first || !s->all_exact || !s->all_new || s->scope || s->o->upsert || s->open_count < BSI_AHEAD_BLOCKS) return;
    s->ahead = bsi_calloc(1, sizeof *s->ahead);
    s->ahead->s = s;
    bsi_beside_start(&s->ahead->beside, write_lists, s->ahead);
}

bool bsi_sync_ahead_end(bsi_sync *s) {
    if (s->ahead) bsi_beside_end(&s->ahead->beside);
    bool made = s->ahead && s->ahead->made;
    free(s->ahead);
    s->ahead = NULL;
    return made && s->all_new;
}
