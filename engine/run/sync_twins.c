/* run/sync_twins.c - does a record that looks new stand in a block that nobody looked at?
 *
 *   candidates   key hashes of records that no old row was found for
 *   state        | skipped | skipped | changed in place | joined | skipped | ..      their key hashes, one after the other
 *                     └ a twin: opened         └ a twin: given up        └ asked already
 *
 * The snapshot may hold a record twice, or at another place than the state. Few key hashes are looked for among all that there are: a filter
 * in the cache says no to most. Where one is found, the join is made again with the blocks that hold it. A block that was changed in place
 * is joined then as well if the twin is one of its old records, or if what came with it was the candidate; the others stay settled, so that a
 * few records that move cost what they cost and no more.
 *
 * Equal key hashes prove nothing yet: what is found by chance is joined in vain.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/sync.h"

enum { AT_ONCE = 4096 }; /* state blocks that a worker goes through */

typedef struct search {
    bsi_sync *s;
    uint64_t *kh;           /* candidates: a hash table, 0: free; one that is 0 itself stands in its last slot, behind the others */
    uint64_t mask;
    bsi_key_filter filter;
    uint64_t *is_open;      /* bit a state block: its rows were joined */
    pthread_mutex_t lock;   /* guards what is below */
    bsi_ref *hit;           /* blocks that hold one */
    size_t hit_count, hit_cap;
    bomsync_status status;
    bomsync_error *err;
} search;

/* Found by their low bits, as the filter looks at the high ones. */
static void list_candidates(search *r, const uint64_t *kh, size_t count) {
    for (r->mask = 63; r->mask < count * 2;) r->mask = r->mask * 2 + 1;
    r->kh = bsi_vast_calloc(r->mask + 2, sizeof *r->kh);
    r->filter = bsi_key_filter_for(count);
    for (size_t i = 0; i < count; i++) {
        uint64_t h = kh[i] & r->mask;
        while (r->kh[h] && r->kh[h] != kh[i]) h = (h + 1) & r->mask;
        r->kh[h] = kh[i];
        if (!kh[i]) r->kh[r->mask + 1] = 1;
        bsi_key_filter_add(&r->filter, kh[i]);
    }
}

static bool is_candidate(const search *r, uint64_t kh) {
    if (!kh) return r->kh[r->mask + 1];
    uint64_t h = kh & r->mask;
    while (r->kh[h] && r->kh[h] != kh) h = (h + 1) & r->mask;
    return r->kh[h] != 0;
}

static void fail_search(search *r, bomsync_status st, const bomsync_error *err) {
    pthread_mutex_lock(&r->lock);
    if (!r->status) *r->err = *err;
    if (!r->status) r->status = st;
    pthread_mutex_unlock(&r->lock);
}

static void add_hit(search *r, bsi_ref ref) {
    pthread_mutex_lock(&r->lock);
    if (r->hit_count == r->hit_cap) r->hit = bsi_realloc(r->hit, (r->hit_cap = r->hit_cap ? r->hit_cap * 2 : 16) * sizeof *r->hit);
    r->hit[r->hit_count++] = ref;
    pthread_mutex_unlock(&r->lock);
}

static void search_task(void *ctx, size_t index) {
    search *r = ctx;
    bsi_sync *s = r->s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    const bsi_key_filter filter = r->filter;
    size_t end = BSI_MIN((index + 1) * AT_ONCE, s->base_count);
    for (size_t i = index * AT_ONCE; i < end; i++) {
        if (bsi_bit_has(r->is_open, i)) continue;
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows(&rows, s->store, s->base[i], &err);
        if (st) {
            fail_search(r, st, &err);
            return;
        }
        for (uint32_t k = 0; k < rows.count; k++) {
            if (!bsi_key_filter_has(&filter, rows.kh[k]) || !is_candidate(r, rows.kh[k])) continue;
            add_hit(r, s->base[i]);
            break;
        }
    }
}

/* ---- what is done about it ---- */

typedef struct twins {
    bsi_ref_set blocks;
    uint64_t *kh; /* candidates that were found, ascending */
    size_t count;
} twins;

static bomsync_status list_twins(twins *t, const search *r, bomsync_error *err) {
    size_t cap = 0;
    for (size_t i = 0; i < r->hit_count; i++) {
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows(&rows, r->s->store, r->hit[i], err);
        if (st) return st;
        bsi_ref_add(&t->blocks, r->hit[i]);
        for (uint32_t k = 0; k < rows.count; k++) {
            if (!is_candidate(r, rows.kh[k])) continue;
            if (t->count == cap) t->kh = bsi_realloc(t->kh, (cap = cap ? cap * 2 : 64) * sizeof *t->kh);
            t->kh[t->count++] = rows.kh[k];
        }
    }
    bsi_sort(t->kh, t->count, sizeof *t->kh, bsi_by_u64);
    return BOMSYNC_OK;
}

/* Does it hold a twin, or was a candidate of it one? */
static bool concerns(void *ctx, const bsi_amended *a, const bsi_early_block *e) {
    const twins *t = ctx;
    bool found = bsi_ref_has(&t->blocks, a->ref);
    for (uint32_t i = 0; i < e->count && !found; i++) found = bsi_u64_has(t->kh, t->count, e->hash[i]);
    return found;
}

static bool stands_for(void *ctx, uint64_t index, const bsi_image_entry *e) {
    (void)index;
    return bsi_ref_has(ctx, e->ref);
}

static bomsync_status open_twins(bool *opened, bsi_sync *s, const search *r, bomsync_error *err) {
    twins t = {0};
    bomsync_status st = list_twins(&t, r, err);
    if (!st) {
        bsi_sync_end_digest(s); /* it reads the lists of the scan */
        bsi_scan_forget(&s->scan);
        bsi_amend_give_up(s, concerns, &t);
        bsi_scan_reopen(&s->scan, &s->image, stands_for, &t.blocks);
        *opened = true;
    }
    bsi_vast_free(t.blocks.slot);
    free(t.kh);
    return st;
}

bomsync_status bsi_sync_twins(bool *opened, bsi_sync *s, const uint64_t *kh, size_t count, bomsync_error *err) {
    *opened = false;
    if (!count || !s->base_count) return BOMSYNC_OK;
    search r = {.s = s, .is_open = bsi_calloc(s->base_count / 64 + 1, sizeof(uint64_t)), .err = err};
    for (size_t i = 0; i < s->open_state_count; i++)
        if (!bsi_is_amended(s, s->open_state[i])) bsi_bit_set(r.is_open, s->open_state[i]);
    list_candidates(&r, kh, count);
    pthread_mutex_init(&r.lock, NULL);
    bsi_parallel(s->workers, (s->base_count + AT_ONCE - 1) / AT_ONCE, search_task, &r);
    pthread_mutex_destroy(&r.lock);
    bomsync_status st = r.status;
    if (!st && r.hit_count) st = open_twins(opened, s, &r, err);
    free(r.is_open);
    free(r.filter.word);
    bsi_vast_free(r.kh);
    free(r.hit);
    return st;
}
