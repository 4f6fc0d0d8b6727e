/* run/sync_base.c - the refs of the state blocks, read while the snapshot is.
 *
 *   scan     w1 ────●──────────────────────   first block that is not what was expected: there is something to look at
 *            w2 ──────────────────────────
 *   base            └─ read ─┘             ●  wanted here (bsi_sync_base), where nothing else could be done meanwhile
 *
 * An unchanged snapshot needs no list. Of ten million records it has 830,000 refs: a few milliseconds, most of them for fresh memory,
 * which one core would spend while the other waits. The thread is the only one that reads the root while it runs: workers of the
 * scan look at the image's pages and at shards.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/vast.h"
#include "run/sync.h"

typedef struct bsi_base_reader {
    bsi_sync *s;
    bsi_beside beside;
    atomic_bool asked;
    bsi_ref *base;
    size_t count;
    bomsync_status status;
    bomsync_error err;
} bsi_base_reader;

void bsi_sync_base_open(bsi_sync *s) {
    if (!s->last || s->base || s->workers < 2) return;
    s->base_reader = bsi_calloc(1, sizeof *s->base_reader);
    s->base_reader->s = s;
    s->base_reader->err = (bomsync_error)BOMSYNC_ERROR_INIT;
}

static void *read_base(void *ctx) {
    bsi_base_reader *a = ctx;
    a->status = bsi_store_state(&a->base, &a->count, a->s->store, a->s->last->state_list, &a->err);
    return NULL;
}

void bsi_sync_base_ahead(bsi_sync *s) {
    bsi_base_reader *a = s->base_reader;
    if (!a || atomic_load_explicit(&a->asked, memory_order_relaxed) || atomic_exchange(&a->asked, true)) return;
    bsi_beside_start(&a->beside, read_base, a);
}

void bsi_sync_base_close(bsi_sync *s) {
    bsi_base_reader *a = s->base_reader;
    if (!a) return;
    bsi_beside_end(&a->beside);
    bsi_vast_free(a->base);
    free(a);
    s->base_reader = NULL;
}

/* What the thread read, or its fault. */
static bomsync_status take_ahead(bsi_sync *s, bomsync_error *err) {
    bsi_base_reader *a = s->base_reader;
    if (!a->beside.running) return BOMSYNC_OK;
    bsi_beside_end(&a->beside);
    s->base = a->base;
    s->base_count = a->count;
    a->base = NULL;
    if (a->status && err) *err = a->err;
    return a->status;
}

bomsync_status bsi_sync_base(bsi_sync *s, bomsync_error *err) {
    if (s->base) return BOMSYNC_OK;
    bomsync_status st = s->base_reader ? take_ahead(s, err) : BOMSYNC_OK;
    if (st || s->base) return st;
    return bsi_store_state_by(&s->base, &s->base_count, s->store, s->last->state_list, s->workers, err);
}
