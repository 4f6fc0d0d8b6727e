/* run/diff_reconcile.c - two files in which hardly a block is the same, and hardly a record is not.
 *
 * The same records in another order, as two systems export them; or other delimiters, quotes, line ends, an order of columns of their own.
 * No block of NEW stands in OLD then, and to join all records by their keys takes seconds and a gigabyte for ten million. So the two sets
 * are subtracted first, as sync does with its state (sync_reconcile.c):
 *
 *   OLD, open blocks ──> hashes of their rows ──┐                         and the upper half of each key hash,
 *   NEW, open blocks ──> hashes of their rows ──┴──> difference               in the order of the file
 *   what is left: rows that only one side has ──> their keys among those halves ──> the few blocks that are really open
 *
 * Rows of these blocks with another key are the same on both sides, wherever they stand. That holds since all copies of a key that is not
 * simply unchanged are looked at: on one side more often than on the other it is left over; as often on both, it stands more than once in
 * NEW, which flow/twins.h finds; and those of records that cannot be read are added here.
 *
 * If more rows differ than the difference has room for, both files are read again, and the hashes are put into partitions, in memory and
 * above the cap in a file, and compared there (bsi_join_differ). That takes room for all rows, but there is no limit to it. If most rows
 * differ nothing is won, and all are joined. Which it will be is told by some hundred rows of NEW once OLD was read: those with certain key
 * hashes, looked up among OLD's.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/vast.h"
#include "flow/difference.h"
#include "flow/join.h"
#include "run/diff_inner.h"

enum { SAMPLE_BITS = 15 }; /* some thousand rows of either side */
#define SEEN 0ull /* the tag of a block without records that cannot be read, until it is clear whether it stays open */

typedef struct key_list { /* of one side */
    bsi_diff_side *side;
    uint32_t *upper; /* of the key hash of each record of its open blocks that are not settled */
    uint64_t *start; /* [tasks + 1] where a task's begin */
    bool done;       /* filled; so are the odd keys, and the twins */
} key_list;

typedef struct sample { /* rows of OLD with key hashes whose lowest bits are 0 */
    bsi_difference_row *row;
    size_t count, cap;
} sample;

typedef struct lane {
    bsi_difference *difference;
    uint64_t *odd; /* keys of records that cannot be read */
    size_t odds, odd_cap;
    size_t task;   /* that it is at, and where in it */
    uint64_t at;
    uint64_t *good; /* key hashes, for the twins */
    size_t good_cap;
    sample sample;
    size_t seen, same; /* of NEW: those with such key hashes, and those of them that OLD has */
} lane;

struct bsi_diff_reconcile {
    bsi_diff_run *d;
    key_list old, now, *list; /* list: that which is filled */
    bsi_twins *twins;
    lane *lane; /* [workers] */
    bsi_row_store *old_rows, *new_rows; /* NULL: a difference is made */
    uint64_t sample_mask;
    sample sample;      /* of all lanes, ascending */
    atomic_bool unsure; /* a block has other records than when it was cut: whoever reads it next tells why */
};

/* ---- does it pay? ---- */

static uint64_t open_records(const bsi_diff_side *s) {
    uint64_t n = 0;
    for (size_t i = 0; i < s->scan.block_count; i++)
        if (s->scan.block[i].tag != BSI_DIFF_SETTLED) n += s->scan.block[i].records;
    return n;
}

/* If most blocks are open, most are not so for a record that differs. */
static bool pays(const bsi_diff_run *d, uint64_t now) {
    return strstr(d->tiers, "block") && now >= BSI_RECONCILE_RECORDS && now * 2 >= (uint64_t)d->records_new;
}

/* ---- the rows of both sides ---- */

static void start_list(key_list *l, bsi_diff_side *s, uint64_t records) {
    size_t tasks = bsi_diff_tasks(s);
    *l = (key_list){.side = s, .upper = bsi_vast_alloc((records + 1) * sizeof *l->upper), .start = bsi_calloc(tasks + 1, sizeof *l->start)};
    for (size_t t = 0; t < tasks; t++) {
        size_t end = BSI_MIN((t + 1) * BSI_DIFF_TASK_BLOCKS, s->scan.block_count);
        l->start[t + 1] = l->start[t];
        for (size_t i = t * BSI_DIFF_TASK_BLOCKS; i < end; i++)
            if (s->scan.block[i].tag != BSI_DIFF_SETTLED) l->start[t + 1] += s->scan.block[i].records;
    }
}

static void add_odd(lane *l, uint64_t kh) {
    if (l->odds == l->odd_cap) l->odd = bsi_realloc(l->odd, (l->odd_cap = l->odd_cap ? l->odd_cap * 2 : 64) * sizeof *l->odd);
    l->odd[l->odds++] = kh;
}

static void list_upper(bsi_diff_reconcile *r, lane *l, size_t task, const bsi_rows *w) {
    if (l->task != task) l->at = r->list->start[task];
    l->task = task;
    uint32_t *to = r->list->upper + l->at;
    for (uint32_t i = 0; i < w->count; i++) to[i] = (uint32_t)(w->kh[i] >> 32);
    l->at += w->count;
}

/* Those that can be read, and those of which that can be said of the key. */
static bomsync_status add_twins(bsi_diff_reconcile *r, lane *l, const bsi_rows *w, bomsync_error *err) {
    if (!w->bad_count) return bsi_twins_add(r->twins, bsi_lane(), w->kh, w->count, err);
    if (l->good_cap < w->count) l->good = bsi_realloc(l->good, (l->good_cap = w->count) * sizeof *l->good);
    uint32_t n = 0;
    for (uint32_t i = 0, bad = 0; i < w->count; i++)
        if (!w->bad[i] || w->bads[bad++].key_read) l->good[n++] = w->kh[i];
    return bsi_twins_add(r->twins, bsi_lane(), l->good, n, err);
}

/* Into the difference, or in partitions, without those that cannot be read. */
static bomsync_status put_rows(bsi_diff_reconcile *r, lane *l, bool is_new, const bsi_rows *w, bomsync_error *err) {
    bsi_row_store *store = is_new ? r->new_rows : r->old_rows;
    void (*put)(bsi_difference *, const uint64_t *, const uint64_t *, size_t) = is_new ? bsi_difference_add : bsi_difference_take;
    bomsync_status st = BOMSYNC_OK;
    if (!store && !l->difference) l->difference = bsi_difference_open(BSI_DIFF_ROWS);
    if (!store && !w->bad_count) put(l->difference, w->kh, w->rh, w->count);
    for (uint32_t i = 0; (store || w->bad_count) && i < w->count && !st; i++) {
        if (w->bad[i]) continue;
        if (store) st = bsi_row_store_add(store, bsi_lane(), &(bsi_row){w->kh[i], w->rh[i], 0}, err);
        else put(l->difference, &w->kh[i], &w->rh[i], 1);
    }
    return st;
}

static void take_sample(const bsi_diff_reconcile *r, lane *l, const bsi_rows *w) {
    sample *s = &l->sample;
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->kh[i] & r->sample_mask || w->bad[i]) continue;
        if (s->count == s->cap) s->row = bsi_realloc(s->row, (s->cap = s->cap ? s->cap * 2 : 64) * sizeof *s->row);
        s->row[s->count++] = (bsi_difference_row){w->kh[i], w->rh[i]};
    }
}

static bomsync_status take_block(void *ctx, size_t task, size_t block, const bsi_rows *w, bomsync_error *err) {
    bsi_diff_reconcile *r = ctx;
    lane *l = &r->lane[bsi_lane()];
    bsi_diff_side *s = r->list->side;
    bool is_new = s == &r->d->now;
    if (w->count != s->scan.block[block].records) atomic_store(&r->unsure, true);
    if (atomic_load_explicit(&r->unsure, memory_order_relaxed)) return BOMSYNC_OK;
    bomsync_status st = put_rows(r, l, is_new, w, err);
    if (st || r->list->done) return st;
    if (!is_new) take_sample(r, l, w);
    list_upper(r, l, task, w);
    s->scan.block[block].tag = w->bad_count ? BSI_NO_TAG : SEEN;
    for (uint32_t i = 0; i < w->bad_count; i++)
        if (w->bads[i].key_read) add_odd(l, w->kh[w->bads[i].row]);
    return is_new ? add_twins(r, l, w, err) : BOMSYNC_OK;
}

static bomsync_status take_side(bsi_diff_reconcile *r, key_list *list, bomsync_error *err) {
    r->list = list;
    for (int i = 0; i < r->d->workers; i++) r->lane[i].task = SIZE_MAX;
    bomsync_status st = bsi_diff_each(r->d, list->side, take_block, r, err);
    list->done = true;
    return st;
}

/* ---- how much differs, about? ---- */

static int by_row(const void *a, const void *b) {
    const bsi_difference_row *x = a, *y = b;
    if (x->kh != y->kh) return x->kh < y->kh ? -1 : 1;
    return (x->rh > y->rh) - (x->rh < y->rh);
}

static void join_samples(bsi_diff_reconcile *r) {
    sample *all = &r->sample;
    for (int i = 0; i < r->d->workers; i++) all->cap += r->lane[i].sample.count;
    all->row = bsi_alloc((all->cap + 1) * sizeof *all->row);
    for (int i = 0; i < r->d->workers; i++) {
        const sample *one = &r->lane[i].sample;
        if (one->count) memcpy(all->row + all->count, one->row, one->count * sizeof *one->row);
        all->count += one->count;
    }
    bsi_sort(all->row, all->count, sizeof *all->row, by_row);
}

static bomsync_status look_up(void *ctx, size_t task, size_t block, const bsi_rows *w, bomsync_error *err) {
    (void)task, (void)block, (void)err;
    bsi_diff_reconcile *r = ctx;
    lane *l = &r->lane[bsi_lane()];
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->kh[i] & r->sample_mask || w->bad[i]) continue;
        bsi_difference_row row = {w->kh[i], w->rh[i]};
        l->seen++;
        l->same += r->sample.count && bsearch(&row, r->sample.row, r->sample.count, sizeof row, by_row) != NULL;
    }
    return BOMSYNC_OK;
}

/* Of some tasks of NEW the rows with such keys: *differ in *seen. */
static bomsync_status estimate(bsi_diff_reconcile *r, uint64_t *differ, uint64_t *seen, bomsync_error *err) {
    enum { TASKS = 32 };
    bsi_diff_side *now = &r->d->now;
    join_samples(r);
    bomsync_status st = bsi_diff_some(r->d, now, BSI_MAX(bsi_diff_tasks(now) / TASKS, (size_t)1), look_up, r, err);
    *differ = *seen = 0;
    for (int i = 0; i < r->d->workers; i++) {
        *seen += r->lane[i].seen;
        *differ += r->lane[i].seen - r->lane[i].same;
    }
    return st;
}

/* ---- what differs ---- */

/* With the keys of records that cannot be read. */
static void keys_are(bsi_diff_reconcile *r, uint64_t *kh, size_t count) {
    size_t n = count;
    for (int i = 0; i < r->d->workers; i++) n += r->lane[i].odds;
    kh = bsi_vast_realloc(kh, (n + 1) * sizeof *kh);
    for (int i = 0; i < r->d->workers; i++)
        for (size_t k = 0; k < r->lane[i].odds; k++) kh[count++] = r->lane[i].odd[k];
    bsi_diff_keys_make(&r->d->keys, kh, n);
}

/* False: more than can be told. */
static bool subtract(bsi_diff_reconcile *r) {
    bsi_difference *all = NULL;
    bsi_difference_row *added = NULL, *taken = NULL;
    size_t more = 0, less = 0;
    for (int i = 0; i < r->d->workers; i++) {
        bsi_difference *one = r->lane[i].difference;
        if (!all) all = one;
        else if (one) bsi_difference_merge(all, one);
    }
    if (!all || !bsi_difference_settle(all, &added, &more, &taken, &less)) return false;
    uint64_t *kh = bsi_vast_alloc((more + less + 1) * sizeof *kh);
    for (size_t i = 0; i < more; i++) kh[i] = added[i].kh;
    for (size_t i = 0; i < less; i++) kh[more + i] = taken[i].kh;
    free(added);
    free(taken);
    keys_are(r, kh, more + less);
    return true;
}

static void forget_difference(bsi_diff_reconcile *r) {
    for (int i = 0; i < r->d->workers; i++) {
        bsi_difference_close(r->lane[i].difference);
        r->lane[i].difference = NULL;
    }
}

/* From now on rows go into partitions. */
static void start_partitions(bsi_diff_reconcile *r) {
    const bsi_diff_run *d = r->d;
    forget_difference(r);
    r->old_rows = bsi_row_store_open(d->workers, d->memory_bytes / 8, d->tmp);
    r->new_rows = bsi_row_store_open(d->workers, d->memory_bytes / 8, d->tmp);
}

static void end_partitions(bsi_diff_reconcile *r) {
    bsi_row_store_close(r->old_rows);
    bsi_row_store_close(r->new_rows);
    r->old_rows = r->new_rows = NULL;
}

/* All rows by partition; those of OLD may be there. */
static bomsync_status partition(bsi_diff_reconcile *r, bomsync_error *err) {
    uint64_t *kh = NULL;
    size_t count = 0;
    bomsync_status st = BOMSYNC_OK;
    if (!r->old_rows) {
        start_partitions(r);
        st = take_side(r, &r->old, err);
    }
    if (!st) st = take_side(r, &r->now, err);
    if (!st) st = bsi_join_differ(&kh, &count, r->new_rows, r->old_rows, r->d->workers, err);
    end_partitions(r);
    if (!st) keys_are(r, kh, count);
    else bsi_vast_free(kh);
    return st;
}

/* ---- the blocks that stay open ---- */

static bool has_upper(const bsi_diff_keys *k, uint32_t upper) {
    uint64_t least = (uint64_t)upper << 32;
    if (!bsi_diff_keys_may(k, least)) return false;
    size_t at = bsi_u64_first(k->kh, k->count, least);
    return at < k->count && k->kh[at] >> 32 == upper;
}

static void settle_task(void *ctx, size_t task) {
    bsi_diff_reconcile *r = ctx;
    bsi_scan *scan = &r->list->side->scan;
    const uint32_t *upper = r->list->upper + r->list->start[task];
    size_t end = BSI_MIN((task + 1) * BSI_DIFF_TASK_BLOCKS, scan->block_count);
    for (size_t i = task * BSI_DIFF_TASK_BLOCKS; i < end; i++) {
        bsi_scan_block *b = &scan->block[i];
        if (b->tag == BSI_DIFF_SETTLED) continue;
        bool hit = b->tag != SEEN;
        for (uint32_t k = 0; k < b->records && !hit; k++) hit = has_upper(&r->d->keys, upper[k]);
        upper += b->records;
        b->tag = hit ? BSI_NO_TAG : BSI_DIFF_SETTLED;
    }
}

void bsi_diff_reconcile_settle(bsi_diff_reconcile *r) {
    key_list *lists[] = {&r->old, &r->now};
    for (int i = 0; i < 2; i++) {
        r->list = lists[i];
        bsi_parallel(r->d->workers, bsi_diff_tasks(r->list->side), settle_task, r);
    }
    r->d->reconciled = true;
    r->d->same_records += (int64_t)(r->now.start[bsi_diff_tasks(&r->d->now)] - open_records(&r->d->now));
}

/* ---- the whole ---- */

/* As if nobody had looked. */
static void undo(bsi_diff_side *s) {
    for (size_t i = 0; i < s->scan.block_count; i++)
        if (s->scan.block[i].tag != BSI_DIFF_SETTLED) s->scan.block[i].tag = BSI_NO_TAG;
}

static void close_list(key_list *l) {
    bsi_vast_free(l->upper);
    free(l->start);
}

/* *found false: nothing is won this way. */
static bomsync_status find_keys(bsi_diff_reconcile *r, bool *found, bomsync_error *err) {
    uint64_t old = r->old.start[bsi_diff_tasks(&r->d->old)], now = r->now.start[bsi_diff_tasks(&r->d->now)], differ, seen;
    uint64_t least = old > now ? old - now : now - old; /* so many differ in any case */
    bool few = least <= BSI_DIFF_ROWS;
    *found = false;
    if (!few) start_partitions(r);
    bomsync_status st = take_side(r, &r->old, err);
    if (!st) st = estimate(r, &differ, &seen, err);
    if (st || atomic_load(&r->unsure) || differ * 2 > seen) return st;
    few = few && (double)differ * 2 * (double)now <= (double)BSI_DIFF_ROWS * (double)seen;
    if (few) st = take_side(r, &r->now, err);
    if (!st && !atomic_load(&r->unsure) && !(few && subtract(r))) st = partition(r, err);
    *found = !atomic_load(&r->unsure);
    return st;
}

bomsync_status bsi_diff_reconcile_open(bsi_diff_reconcile **out, bsi_diff_run *d, bsi_twins *twins, bomsync_error *err) {
    uint64_t old = open_records(&d->old), now = open_records(&d->now);
    bool found;
    *out = NULL;
    if (!pays(d, now)) return BOMSYNC_OK;
    bsi_diff_reconcile *r = bsi_calloc(1, sizeof *r);
    r->d = d;
    r->twins = twins;
    r->lane = bsi_calloc((size_t)d->workers, sizeof *r->lane);
    while (r->sample_mask < now >> SAMPLE_BITS) r->sample_mask = r->sample_mask * 2 + 1;
    start_list(&r->old, &d->old, old);
    start_list(&r->now, &d->now, now);
    bomsync_status st = find_keys(r, &found, err);
    if (!st && found) {
        forget_difference(r);
        *out = r;
        return BOMSYNC_OK;
    }
    undo(&d->old);
    undo(&d->now);
    bsi_diff_reconcile_close(r);
    return st;
}

void bsi_diff_reconcile_close(bsi_diff_reconcile *r) {
    if (!r) return;
    forget_difference(r);
    end_partitions(r);
    for (int i = 0; i < r->d->workers; i++) {
        free(r->lane[i].odd);
        free(r->lane[i].good);
        free(r->lane[i].sample.row);
    }
    close_list(&r->old);
    close_list(&r->now);
    free(r->sample.row);
    free(r->lane);
    free(r);
}
