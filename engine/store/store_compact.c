/* store/store_compact.c - blocks that many syncs have patched, made whole again, by gc.
 *
 *   state    s1  p2  p3  s4  p5  s6 ...        p: a patch, in the segment of the night that made it, over a block elsewhere
 *   after    s1  n2  n3  s4  n5  s6 ...        n: written whole, side by side; what they stood on goes with its segment
 *
 * A sync writes what changed and nothing else. So after some hundred of them most blocks are read from two segments, of which one
 * holds hardly anything that the same sync wants: it opens three and a half times as many as the second sync did. And a segment stays as long as one of its
 * blocks is in use. Neither is mended while a sync waits for it. gc does so where a quarter of the blocks are patches; and, if no older
 * generation stays that needs what it leaves behind, where a quarter of what lies in the segments is dead, or they are twice as many as they would be.
 *
 * The records stay what they are, in their order: the feed's last generation and its image get new lists, in one transaction of the root.
 * Killed before, what was written is cut off; killed after, the rest of gc is still to do.
 *
 * The image must name the state's blocks in the order of the state, as it does unless a snapshot was sorted otherwise: then a walk
 * through both finds the entries of blocks that were written again. Else the feed is left as it is: a map of all blocks would take more memory
 * than all the rest.
 */
#include "store/store_inner.h"

#include "core/vast.h"

enum { TASK_BLOCKS = 4096, FEW_SEGMENTS = 8 };

typedef struct compact {
    bsi_store *s;
    bsi_feed *feed;
    bsi_generation *g;     /* its last one */
    int64_t previous;
    bool outbox;
    bool alone;            /* no older generation of the feed stays */
    bsi_ref *old, *now;    /* [count] the state */
    size_t count;
    uint64_t *again;       /* bits: blocks that are written again */
    uint16_t *live, *all;  /* [segments + 1] blocks of each that stay in use; and that it has, of those that were looked at */
    uint64_t *small;       /* bits: segments that are less than a quarter full */
    size_t segments;       /* that were looked at */
    bsi_image image;
    size_t at, piece;      /* the walk through state and image: where it stands in them */
    bsi_ref *orphan;       /* blocks that no entry names: first their places in the state, then as they are named now */
    size_t orphans, orphan_cap;
    bsi_block_writer **writer; /* [workers] */
    bsi_block_data *data;  /* [workers] */
    atomic_int status;
    bomsync_error err;     /* of the first that failed */
} compact;

static uint64_t segment_of(bsi_ref ref) { return ref >> BSI_REF_BITS; }

/* ---- which ---- */

static bomsync_status note_segment(compact *c, uint64_t id, const bsi_rows_segment *rows, bomsync_error *err) {
    MDB_val data;
    bomsync_status st = bsi_shard_get(&data, c->s, BSI_DB_DATA, id, err);
    if (st) return st;
    size_t bytes = BSI_MAX(data.mv_size, (size_t)rows->start[rows->blocks] * 8);
    if (rows->blocks * 4 <= BSI_SEGMENT_BLOCKS && bytes * 4 <= BSI_STORE_SEGMENT_BYTES) bsi_bit_set(c->small, id);
    c->all[id] = (uint16_t)rows->blocks;
    c->segments++;
    return BOMSYNC_OK;
}

/* Of a state block: is it a patch, and what is it over? Its segment is noted. No segment may be newer than the state. */
static bomsync_status look(bsi_patch *p, compact *c, bsi_ref ref, bomsync_error *err) {
    bsi_rows_view *v = bsi_rows_here();
    uint64_t id = segment_of(ref), newest = c->s->counters.segment;
    bomsync_status st = bsi_patch_get(p, v, c->s, ref, err);
    if (!st && (id > newest || (p->base != BSI_REF_NONE && segment_of(p->base) > newest)))
        return bsi_fail(err, BOMSYNC_E_INTEGRITY, "the state names a block that was never published");
    return st || c->all[id] ? st : note_segment(c, id, &v->segment[v->last], err);
}

/* Patches, if they are many; of the others those that share their segment with few. */
static bomsync_status choose(bool *any, compact *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    bsi_patch p;
    size_t patches = 0, dead = 0, all = 0;
    uint64_t *patch = bsi_vast_calloc(c->count / 64 + 1, sizeof *patch);
    for (size_t i = 0; !st && i < c->count; i++) {
        st = look(&p, c, c->old[i], err);
        if (st || p.base == BSI_REF_NONE) continue;
        bsi_bit_set(patch, i);
        patches++;
    }
    bool many = patches * 4 >= c->count;
    for (size_t i = 0; !st && i < c->count; i++) {
        if (bsi_bit_has(patch, i) && many) bsi_bit_set(c->again, i);
        else c->live[segment_of(c->old[i])]++;
        if (!bsi_bit_has(patch, i) || many) continue;
        st = look(&p, c, c->old[i], err);
        if (!st) c->live[segment_of(p.base)]++;
    }
    for (uint64_t id = 0; id <= c->s->counters.segment; id++) {
        all += c->all[id];
        dead += (size_t)(c->all[id] - BSI_MIN(c->live[id], c->all[id]));
    }
    bool sparse = c->alone && (dead * 4 >= all || c->segments > 2 * (c->count / BSI_SEGMENT_BLOCKS + FEW_SEGMENTS));
    for (size_t i = 0; sparse && i < c->count; i++) {
        uint64_t id = segment_of(c->old[i]);
        if ((c->live[id] * 4u <= c->all[id] * 3u || bsi_bit_has(c->small, id)) && (!bsi_bit_has(patch, i) || many)) bsi_bit_set(c->again, i);
    }
    *any = !st && (many || sparse) && c->count;
    bsi_vast_free(patch);
    return st;
}

/* ---- written again ---- */

static bomsync_status write_block(compact *c, bsi_block_writer *w, bsi_block_data *d, size_t i, bomsync_error *err) {
    bsi_block_rows rows;
    bomsync_status st = bsi_store_data(d, c->s, c->old[i], err);
    if (st || d->slot_count != c->feed->slots.count) return st; /* of fewer columns: it stays until a sync writes it */
    st = bsi_store_rows(&rows, c->s, c->old[i], err);
    if (!st && rows.count != d->count) st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "rows and data of a block have different counts");
    return st ? st : bsi_block_writer_add(&c->now[i], w, d->count, d->raw.data, d->image, d->body, rows.kh, rows.rh, err);
}

static void write_task(void *ctx, size_t index) {
    compact *c = ctx;
    int lane = bsi_lane(), none = 0;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = (bomsync_status)atomic_load(&c->status);
    if (!st && !c->writer[lane]) st = bsi_block_writer_open(&c->writer[lane], c->s, c->feed->slots.count, c->feed->dictionary, &err);
    for (size_t i = index * TASK_BLOCKS; !st && i < BSI_MIN((index + 1) * TASK_BLOCKS, c->count); i++)
        if (bsi_bit_has(c->again, i)) st = write_block(c, c->writer[lane], &c->data[lane], i, &err);
    if (st && atomic_compare_exchange_strong(&c->status, &none, (int)st)) c->err = err;
}

static bomsync_status write_blocks(compact *c, bomsync_error *err) {
    int workers = bsi_usable_cores();
    c->writer = bsi_calloc((size_t)workers, sizeof *c->writer);
    c->data = bsi_calloc((size_t)workers, sizeof *c->data);
    c->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    bsi_parallel(workers, (c->count + TASK_BLOCKS - 1) / TASK_BLOCKS, write_task, c);
    bomsync_status st = (bomsync_status)atomic_load(&c->status);
    if (st && err) *err = c->err;
    for (int i = 0; i < workers; i++) {
        bomsync_status closed = bsi_block_writer_close(c->writer[i], st ? NULL : err);
        if (!st) st = closed;
        bsi_block_data_free(&c->data[i]);
    }
    free(c->writer);
    free(c->data);
    return st ? st : bsi_shards_flush(c->s, err);
}

/* ---- the lists ---- */

static void add_orphan(compact *c, size_t place) {
    if (c->orphans == c->orphan_cap) c->orphan = bsi_vast_realloc(c->orphan, (c->orphan_cap = c->orphan_cap ? c->orphan_cap * 2 : 64) * sizeof *c->orphan);
    c->orphan[c->orphans++] = place;
}

/* Goes on to the block `ref` of the state, and past it: its place, or count if it is not there. Those before it are orphans. */
static size_t go_to(compact *c, bsi_ref ref) {
    while (c->at < c->count && c->old[c->at] != ref) add_orphan(c, c->at++);
    return c->at < c->count ? c->at++ : c->count;
}

/* Does each exact entry name a block of the state behind the one before? Finds the orphans. Asked before anything is written. */
static bomsync_status walks_along(bool *along, compact *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    *along = true;
    for (size_t p = 0; !st && *along && p < c->image.piece_count; p++) {
        const bsi_image_piece *piece = &c->image.piece[p];
        st = bsi_store_image_check(c->s, piece, err);
        for (uint32_t i = 0; !st && *along && i < piece->count; i++)
            if (piece->entry[i].flags & BSI_IMAGE_EXACT) *along = go_to(c, piece->entry[i].ref) < c->count;
    }
    if (!st && *along && c->image.count) go_to(c, BSI_REF_NONE);
    return st;
}

static void next_entries(void *ctx, bsi_image_entry *out, size_t first, size_t count) {
    compact *c = ctx;
    for (size_t i = 0; i < count; i++) {
        while (first + i - c->image.piece[c->piece].first >= c->image.piece[c->piece].count) c->piece++;
        out[i] = c->image.piece[c->piece].entry[first + i - c->image.piece[c->piece].first];
        if (!(out[i].flags & BSI_IMAGE_EXACT)) continue;
        while (c->old[c->at] != out[i].ref) c->at++; /* it is there: walks_along has passed it */
        out[i].ref = c->now[c->at++];
    }
}

static bomsync_status commit(compact *c, bsi_lister *l, bsi_list *state, bsi_list *image, bomsync_error *err) {
    bsi_store *s = c->s;
    bomsync_status st = bsi_lister_begin_last(l, err);
    if (!st) st = bsi_list_save(l, state, err);
    if (!st && image->count) st = bsi_list_save(l, image, err);
    c->g->state_list = state->id;
    if (image->count) c->feed->image_list = image->id;
    if (!st) st = bsi_generation_save(s, l->txn, c->g, c->previous, c->outbox, err);
    if (!st) st = bsi_feed_save(s, l->txn, c->feed, err);
    l->counters.segment = atomic_load(&s->next_segment) - 1;
    if (!st) st = bsi_store_counters_put(s, l->txn, &l->counters, err);
    if (st) return st;
    MDB_txn *txn = l->txn;
    l->txn = NULL;
    return bsi_env_commit(&s->root, txn, err);
}

static bomsync_status write_lists(compact *c, bsi_lister *l, bomsync_error *err) {
    bsi_list before = {0}, state = {0}, image = {0};
    bsi_ahead a = {.image_count = (size_t)c->image.count, .entries = next_entries, .ctx = c};
    c->at = c->piece = 0;
    for (size_t i = 0; i < c->orphans; i++) c->orphan[i] = c->now[c->orphan[i]];
    bomsync_status st = bsi_list_load(&before, c->s, c->s->root.read, c->g->state_list, BSI_DB_STATE, err);
    if (!st) st = bsi_lister_state(&state, l, c->now, c->count, &before, err);
    if (!st && a.image_count) st = bsi_lister_entries(&image, l, &a, err);
    if (!st && a.image_count) bsi_list_orphans(&image, c->orphan, c->orphans);
    if (!st) st = commit(c, l, &state, &image, err);
    if (l->txn) mdb_txn_abort(l->txn);
    bsi_list_free(&before);
    bsi_list_free(&state);
    bsi_list_free(&image);
    return st;
}

/* ---- a feed ---- */

static bomsync_status write_again(compact *c, bomsync_error *err) {
    bsi_lister l = {.s = c->s, .counters = c->s->counters};
    c->now = bsi_vast_alloc(c->count * sizeof *c->now);
    memcpy(c->now, c->old, c->count * sizeof *c->now);
    bomsync_status st = write_blocks(c, err);
    if (!st) st = write_lists(c, &l, err);
    return st ? st : bsi_store_adopt(c->s, &l.counters, err);
}

static bomsync_status compact_state(compact *c, bomsync_error *err) {
    bool any = false, along = true;
    size_t segments = (size_t)c->s->counters.segment + 1;
    c->again = bsi_vast_calloc(c->count / 64 + 1, sizeof *c->again);
    c->live = bsi_vast_calloc(segments, sizeof *c->live);
    c->all = bsi_vast_calloc(segments, sizeof *c->all);
    c->small = bsi_vast_calloc(segments / 64 + 1, sizeof *c->small);
    bomsync_status st = choose(&any, c, err);
    if (st || !any) return st;
    if (c->feed->image_list) st = bsi_store_image(&c->image, c->s, c->feed->image_list, err);
    if (!st) st = walks_along(&along, c, err);
    if (!st && along) st = write_again(c, err);
    bsi_image_free(&c->image);
    return st;
}

bomsync_status bsi_store_compact(bsi_store *s, const char *feed, int64_t oldest, bomsync_error *err) {
    compact c = {.s = s};
    bomsync_status st = bsi_store_feed(&c.feed, s, feed, err);
    if (!st && c.feed) st = bsi_generation_load(&c.g, &c.previous, &c.outbox, s, s->root.read, c.feed->generation, err);
    if (!st && c.g && c.g->state_list) {
        c.alone = c.g->number <= oldest || c.previous <= 0; /* what was valid at the oldest generation stays as well */
        st = bsi_store_state_by(&c.old, &c.count, s, c.g->state_list, bsi_usable_cores(), err);
        if (!st) st = compact_state(&c, err);
    }
    bsi_vast_free(c.old);
    bsi_vast_free(c.orphan);
    bsi_vast_free(c.now);
    bsi_vast_free(c.again);
    bsi_vast_free(c.live);
    bsi_vast_free(c.all);
    bsi_vast_free(c.small);
    bsi_generation_free(c.g);
    if (c.feed) bsi_feed_free(c.feed);
    return st;
}
