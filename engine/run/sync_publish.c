/* run/sync_publish.c - from decided changes to a published generation.
 *
 *   new state blocks (shards) -> chunks in outbox/.tmp-g -> root commit -> rename to outbox/g
 *     sync_state.c                 publish_chunks.c            with the image: sync_image.c
 *
 * The image that is written beside it says of each block of this snapshot whether one state block holds just its
 * records; only such a block is skipped next time.
 */
#include <stdlib.h>

#include "core/limits.h"
#include "run/manifest.h"
#include "run/publish_inner.h"

/* ---- the manifest ---- */

/* Where the lists take some milliseconds to write, the disk is waited for beside them. */
typedef struct manifest {
    bsi_store *store;
    int64_t number;
    char *json;
    bsi_beside beside;
    bomsync_status st;
    bomsync_error err;
} manifest;

static bool beside(const bsi_sync *s) { return s->amended_count >= BSI_BESIDE_BLOCKS && s->workers > 1; }

static void *manifest_thread(void *ctx) {
    manifest *m = ctx;
    m->st = bsi_put_manifest(m->store, m->number, m->json, &m->err);
    return NULL;
}

/* Any number of times; also if it was never started. */
static bomsync_status end_manifest(void *ctx, bomsync_error *err) {
    manifest *m = ctx;
    bsi_beside_end(&m->beside);
    free(m->json);
    m->json = NULL;
    if (m->st && err) *err = m->err;
    return m->st;
}

static bomsync_status start_manifest(manifest *m, const bsi_sync *s, const bsi_generation *g, bomsync_error *err) {
    *m = (manifest){.store = s->store, .number = g->number, .json = bsi_manifest_json(g, bsi_store_id(s->store)), .err = BOMSYNC_ERROR_INIT};
    if (beside(s) && bsi_beside_start(&m->beside, manifest_thread, m)) return BOMSYNC_OK;
    manifest_thread(m);
    return end_manifest(m, err);
}

/* ---- publish ---- */

typedef struct teller {
    bsi_sync *s;
    const bsi_generation *g;
    int64_t start;
} teller;

static char *tell_stats(void *ctx) {
    teller *t = ctx;
    bsi_sync_stage_ends(t->s, BSI_SYNC_COMMIT, &t->start);
    return bsi_sync_stats(t->s, t->g);
}

/* No record is looked at any more: what was kept of them makes room for the lists that are written now. */
static void forget_records(bsi_sync *s) {
    bsi_sync_memory(s);
    bool many = s->memory_peak > s->memory_bytes * 5 / 8 && !s->ahead; /* else there is room for both, and fresh pages cost time */
    if (!many && bsi_sync_leaves(s)) return;
    bsi_scan_forget(&s->scan);
    bsi_amend_forget_rows(s);
    bsi_block_cache_close(s->cache);
    s->cache = NULL;
    if (many) bsi_memory_give_back();
}

/* One publish, step by step. */
typedef struct publisher {
    bsi_sync *s;
    bsi_generation *g;
    bool make;             /* there is a generation */
    bool edit;             /* and so the state changes, or it stands in another order without one */
    int64_t at;            /* when the stage at hand began */
    bsi_next_state state;
    bsi_next_image image;
    manifest manifest;
} publisher;

static bomsync_status write_state(publisher *x, bomsync_error *err) {
    bsi_sync *s = x->s;
    bomsync_status st;
    bsi_items_sort(s->item, s->item_count, &s->parts);
    if (s->first_ref) {
        st = bsi_sync_state_first(s, &x->state, err);
    } else {
        x->state.exact = bsi_sync_no_refs(s);
        st = bsi_sync_state_edit(s, &x->state, err);
    }
    bsi_store_flush(s->store);
    if (x->make) bsi_generation_partitions(x->g, s->last, s->item, s->item_count, &s->parts, s->part_made);
    bsi_sync_stage_ends(s, BSI_SYNC_STORE, &x->at);
    return st;
}

static bomsync_status write_chunks(bsi_sync *s, bsi_generation *g, bomsync_error *err) {
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count,
                          .by_open = s->amended, .amended_count = s->amended_count};
    bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .by_ordinal = s->amended_state, .amended_count = s->amended_count,
                          .slot_count = s->feed->slots.count};
    bsi_item_array array = {.item = s->item, .count = s->o->baseline ? 0 : s->item_count};
    bsi_item_source items = bsi_items_of(&array);
    bsi_creates *creates = NULL;
    bomsync_status st = BOMSYNC_OK;
    if (s->counted && !s->o->baseline) {
        st = bsi_creates_open(&creates, s, err);
        items = bsi_creates_source(creates);
    }
    if (!st) st = bsi_send_items(s->store, g, items, &s->parts, &s->feed->slots, &now, &was, s->workers, err);
    bsi_creates_close(creates);
    return st;
}

/* Chunks and manifest, and by them the digest of the generation. */
static bomsync_status write_outbox(publisher *x, bomsync_error *err) {
    bsi_sync *s = x->s;
    bsi_generation *g = x->g;
    bsi_sync_trim(s);
    bomsync_status st = write_chunks(s, g, err);
    forget_records(s);
    g->slot_count = s->feed->slots.count;
    bsi_sync_note_digest(s, g);
    bsi_store_rest(s->store); /* not sooner: its threads would take the digest's core */
    bsi_generation_digest(g);
    if (!st) st = start_manifest(&x->manifest, s, g, err);
    bsi_sync_stage_ends(s, BSI_SYNC_EMIT, &x->at);
    return st;
}

/* The two lists of the feed, and what is kept: what p is to commit. */
static bomsync_status prepare(publisher *x, bsi_publish *p, bomsync_error *err) {
    bsi_sync *s = x->s;
    bsi_next_state *n = &x->state;
    bomsync_status st = BOMSYNC_OK;
    bsi_sync_note_digest(s, x->g); /* the image is written anew below */
    if (!n->exact) n->exact = bsi_sync_no_refs(s);
    if (x->edit && !n->refs) bsi_sync_state_swap(s, n);
    *p = (bsi_publish){.feed = s->feed, .generation = x->make ? x->g : NULL, .outbox = x->make, .journal_kind = "snapshot", .at = s->clock};
    if (!s->all_held) bsi_sync_image_note(s, n);
    st = bsi_sync_image_put(s, n, x->edit, &x->image, p, err);
    bsi_amend_rest(s); /* the lists that are written now take as much memory */
    p->mark = s->scan.mark;
    p->mark_count = s->scan.mark_count;
    p->mark_entries = s->scan.blocks;
    p->state = n->refs;
    p->state_count = n->ref_count;
    p->edit_state = x->edit && !n->refs;
    p->state_base = s->base;
    p->state_base_count = s->base_count;
    p->state_swapped = n->swapped;
    p->state_beside = beside(s);
    p->state_edit = n->edit;
    p->state_edit_count = n->edit_count;
    p->kept = &s->kept;
    p->set_kept = !s->all_held && !bsi_kept_same(&s->kept, &s->old_kept);
    p->holds = s->hold;
    p->hold_count = s->hold_count;
    p->set_holds = true;
    p->ready = end_manifest;
    p->ready_ctx = &x->manifest;
    return st;
}

static bomsync_status commit(publisher *x, bsi_publish *p, bomsync_error *err) {
    bsi_sync *s = x->s;
    bomsync_status st = BOMSYNC_OK;
    char *journal = bsi_generation_journal(x->g);
    p->journal_json = journal;
    bsi_sync_stage_ends(s, BSI_SYNC_STORE, &x->at);
    teller stats = {.s = s, .g = x->g, .start = x->at};
    p->stats = tell_stats;
    p->stats_ctx = &stats;
    uint32_t slot_count = s->feed->slots.count;
    if (s->all_held && !s->new_feed) s->feed->slots.count = s->slots_before; /* nothing is made of it: its new columns are not known either */
    if (!(s->new_feed && !x->make && s->all_held && !s->feed->slots.count)) st = bsi_store_publish(s->store, p, err);
    p->stats_ctx = NULL; /* it ends here, p does not */
    s->feed->slots.count = slot_count;
    bsi_sync_stage_ends(s, BSI_SYNC_COMMIT, &stats.start);
    free(journal);
    return st;
}

bomsync_status bsi_sync_publish(bsi_sync *s, bsi_generation *g, bomsync_error *err) {
    publisher x = {.s = s, .g = g, .make = !s->all_held && s->t.created + s->t.updated + s->t.deleted > 0, .at = bsi_now_ns()};
    bsi_publish p;
    x.edit = x.make || s->reorder;
    bomsync_status st = bsi_sync_keep_back(s, err);
    if (!st && x.edit) st = write_state(&x, err);
    if (!st && x.make) st = write_outbox(&x, err);
    if (!st) st = prepare(&x, &p, err);
    if (!st) st = commit(&x, &p, err);
    bomsync_status ended = end_manifest(&x.manifest, st ? NULL : err); /* nobody may have waited for it */
    if (!st) st = ended;
    bsi_sync_state_release(s, &x.state);
    bsi_sync_image_release(&x.image);
    return st;
}
