/* run/sync_reconcile.c - a snapshot in which hardly a block is as it was, and hardly a record is not.
 *
 * Records in another order, or a column that is ignored and differs on each line: no block can be skipped. Then all records
 * are hashed once, while the scan has their bytes at hand, and the two sets are subtracted (flow/difference.h):
 *
 *   scan     each open block ──> hashes of its rows ──> difference        and 4 bytes of each key hash, in a list
 *   state    hashes as stored ─────────────────────────────┘
 *   what is left: rows that only one side has ──> their keys in the list ──> the few blocks that are really open
 *
 * Where records stand as they did, most blocks need neither: they claim the state block with the same rows (sync_claim.c), and
 * their keys are looked for there.
 *
 * Everything after that works as it does for a snapshot that was skipped through: only open blocks are parsed again and
 * joined. Three things must hold for it:
 *   - all copies of a key that is not simply unchanged are in open blocks. They are: if a key stands twice, a row of it is
 *     left over or kept back, and every block that holds the key is opened;
 *   - the old rows of all rows in open blocks are known: one more pass over the stored key hashes finds them;
 *   - a new record knows what stands before it: if it is the first of its block, the block before is opened, too.
 *
 * Whether it pays is asked before the scan (scan_probe.c): if less than half of the blocks that are looked at is known, the image is left
 * aside. But where the first and last blocks hold the keys that they held, and more of their rows differ than could be told here, values
 * changed on many lines: then each block is changed in place (sync_amend.c). If too much differs after all, nothing is lost but the time: all
 * blocks stay open, and the join settles them. Few rows are expected to differ, since cells for few stay in the cache (half the time a
 * row); where they were too few, the rows are put into more.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/vast.h"
#include "flow/difference.h"
#include "run/scan_probe.h"
#include "run/sync.h"

enum {
    ENTRIES_OF_END = 64,    /* of the image, that blocks of the snapshot's ends are looked for among */
    LANE_SHIFT = 56,        /* a tag: lane, bits for rows that must be looked at and for claims, place in the lane's list */
    OLD_BLOCKS = 4096,
    UNSEEN_TASK = 32
};
#define TAG_OPEN (1ull << 55)
#define TAG_CLAIM (1ull << 54) /* its rows are in no list: the place is that of the state block that it claims */
#define TAG_PLACE (TAG_CLAIM - 1)

typedef struct key_part { /* BSI_RECONCILE_PART low halves of key hashes */
    uint32_t *kh;   /* NULL: they are in the file */
    uint64_t place; /* there */
} key_part;

typedef struct lane {
    bsi_rows rows;
    bsi_claim_cursor cursor;
    bsi_difference *difference;
    key_part *part; /* of the list of all rows' key hashes, in the order of the blocks that this worker saw; in parts that stay
                       where they are: a list that grows would be copied, into memory that is fresh each time */
    size_t count, parts;
    uint64_t *hit; /* places in kh, ascending */
    size_t hits, hit_cap;
    uint32_t *odd; /* the same of rows that are kept back and have a key */
    size_t odds, odd_cap;
} lane;

typedef struct bsi_reconcile {
    bsi_sync *s;
    lane *lane;
    int lanes;
    bsi_claims *claims; /* NULL: --tiers says that the order of records is not looked at */
    uint8_t *hit_state, *hit_front; /* bit a state block that is claimed: its block of the snapshot is opened; its first row is wanted */
    bsi_scan_block *dropped;
    size_t dropped_count, dropped_cap;
    bsi_difference_row *added, *taken;
    size_t added_count, taken_count;
    uint64_t *gone;  /* key hashes of taken, ascending */
    bool settled;    /* the difference could be told: only open blocks are in the scan */
    size_t most;     /* rows that may differ */
    /* low halves of key hashes: a filter, and a table of 2^x slots, 0: empty (then want_zero speaks of 0 itself) */
    uint64_t *filter;
    unsigned filter_bits;
    uint32_t *want;
    size_t want_count, want_mask;
    bool want_zero;
    uint8_t *open_state; /* bit a state block */
    bsi_row_store *old;
    int fd;          /* parts of lists that are too many; -1: not yet */
    atomic_ullong kept, spilled; /* bytes of parts in memory, in the file */
    atomic_int status;
    pthread_mutex_t lock; /* of err and fd */
    bomsync_error err;
} bsi_reconcile;

static void fail(bsi_reconcile *r, bomsync_status st, const bomsync_error *err) {
    pthread_mutex_lock(&r->lock);
    if (!atomic_load(&r->status)) r->err = *err;
    pthread_mutex_unlock(&r->lock);
    int none = 0;
    atomic_compare_exchange_strong(&r->status, &none, (int)st);
}

static bomsync_status outcome(bsi_reconcile *r, bomsync_error *err) {
    bomsync_status st = (bomsync_status)atomic_load(&r->status);
    if (st && err) *err = r->err;
    return st;
}

/* ---- is it the cheapest way? ---- */

/* All of the feed is spoken of, and there is enough to gain. */
static bool may_reconcile(const bsi_sync *s) {
    if (!s->last || !s->image.count || !s->tier_block || s->scope || s->o->upsert || s->feed->records < BSI_RECONCILE_RECORDS) return false;
    return bsi_scan_may_probe(&s->scan);
}

typedef struct places { /* blocks of one end of the snapshot, and entries of the image's */
    bsi_sync *s;
    bsi_rows rows;
    uint64_t entry, end; /* those that may stand for the next one */
    size_t blocks, in_place, records, changed;
} places;

static bool same_keys(const bsi_block_rows *old, const bsi_rows *w) {
    return old->count == w->count && memcmp(old->kh, w->kh, w->count * sizeof *w->kh) == 0;
}

static void look_at_place(void *ctx, const bsi_layout *layout, const uint8_t *p, size_t n) {
    places *x = ctx;
    bsi_rows *w = &x->rows;
    bsi_image_walk walk = {.image = &x->s->image};
    bsi_block_rows old;
    x->blocks++;
    bsi_parse_block(w, layout, bsi_store_secret(x->s->store), p, n, false);
    for (uint64_t k = x->entry; k < x->end && !w->bad_count; k++) {
        const bsi_image_entry *e = bsi_image_next(&walk, k);
        if (!(e->flags & BSI_IMAGE_EXACT) || e->records != w->count || bsi_store_rows(&old, x->s->store, e->ref, NULL) || !same_keys(&old, w)) continue;
        for (uint32_t i = 0; i < w->count; i++) x->changed += old.rh[i] != w->rh[i];
        x->records += w->count;
        x->in_place++;
        x->entry = k + 1;
        return;
    }
}

/* Of so many records as x saw, so many of all would differ. Of more than half the guard holds what was written in vain. */
static bool many_changed(const places *x, double all) {
    return x->changed * 2 <= x->records && (double)x->changed * 2 * all > (double)BSI_IN_PLACE_ROWS * (double)x->records;
}

/* Do most blocks hold the keys that they held, and do more of their records differ than a difference tells? */
static bomsync_status many_in_place(bool *many, bsi_sync *s, const bsi_scan_probe_options *o, bomsync_error *err) {
    places x = {.s = s, .end = BSI_MIN(s->image.count, (uint64_t)ENTRIES_OF_END)};
    *many = false;
    if (!bsi_amend_possible(s)) return BOMSYNC_OK;
    bomsync_status st = bsi_scan_end(&s->scan, o, false, look_at_place, &x, err);
    x.entry = s->image.count - BSI_MIN(s->image.count, (uint64_t)ENTRIES_OF_END);
    x.end = s->image.count;
    if (!st) st = bsi_scan_end(&s->scan, o, true, look_at_place, &x, err);
    bsi_rows_free(&x.rows);
    *many = x.in_place * 4 >= x.blocks * 3 && many_changed(&x, (double)s->feed->records);
    return st;
}

bomsync_status bsi_reconcile_open(bsi_sync *s, bomsync_error *err) {
    if (!may_reconcile(s)) return BOMSYNC_OK;
    bool known;
    const bsi_scan_probe_options o = {&s->image, bsi_store_secret(s->store), s->o->read.isa, s->feed->block_size, s->workers};
    bomsync_status st = bsi_scan_probe(&known, &s->scan, &o, err);
    if (!st && !known) st = many_in_place(&known, s, &o, err);
    if (st || known) return st;
    bsi_reconcile *r = s->reconcile = bsi_calloc(1, sizeof *r);
    r->s = s;
    r->lanes = s->workers + 1;
    r->most = BSI_RECONCILE_FEW;
    r->fd = -1;
    r->lane = bsi_calloc((size_t)r->lanes, sizeof *r->lane);
    pthread_mutex_init(&r->lock, NULL);
    if (!s->tier_sequence) return BOMSYNC_OK;
    bsi_memory_large();
    st = bsi_sync_base(s, err);
    if (!st) r->claims = bsi_claims_open(s);
    return st;
}

static void close_lanes(bsi_reconcile *r) {
    for (int i = 0; r->lane && i < r->lanes; i++) {
        bsi_rows_free(&r->lane[i].rows);
        bsi_difference_close(r->lane[i].difference);
        for (size_t k = 0; k < r->lane[i].parts; k++) free(r->lane[i].part[k].kh);
        free(r->lane[i].part);
        free(r->lane[i].hit);
        free(r->lane[i].odd);
    }
    free(r->lane);
    r->lane = NULL;
    free(r->dropped);
    r->dropped = NULL;
}

void bsi_reconcile_close(bsi_sync *s) {
    bsi_reconcile *r = s->reconcile;
    if (!r) return;
    close_lanes(r);
    bsi_claims_close(r->claims);
    free(r->hit_state);
    free(r->hit_front);
    if (r->fd >= 0) close(r->fd);
    free(r->added);
    free(r->taken);
    free(r->gone);
    free(r->filter);
    free(r->want);
    free(r->open_state);
    pthread_mutex_destroy(&r->lock);
    free(r);
    s->reconcile = NULL;
}

/* ---- while the snapshot is scanned ---- */

static bsi_difference *difference_of(bsi_reconcile *r, int number) {
    lane *l = &r->lane[number];
    if (!l->difference) l->difference = bsi_difference_open(r->most);
    return l->difference;
}

/* Rows that can be read; others are looked at in any case, with their block. */
static void put_rows(bsi_difference *d, const bsi_rows *w, void put(bsi_difference *, const uint64_t *, const uint64_t *, size_t)) {
    if (!w->bad_count) {
        put(d, w->kh, w->rh, w->count);
        return;
    }
    for (uint32_t i = 0; i < w->count; i++)
        if (!w->bad[i]) put(d, &w->kh[i], &w->rh[i], 1);
}

static int spill_file(bsi_reconcile *r) {
    pthread_mutex_lock(&r->lock);
    if (r->fd < 0) r->fd = bsi_temp_open(r->s->tmp);
    int fd = r->fd;
    pthread_mutex_unlock(&r->lock);
    return fd;
}

/* A part that is full goes to the file, if there are many: then its memory serves for the next one. It is an economy: where
 * there is no room on the device it stays. */
static uint32_t *spill_part(bsi_reconcile *r, key_part *p) {
    const size_t bytes = BSI_RECONCILE_PART * sizeof *p->kh;
    int fd = atomic_load(&r->kept) < r->s->memory_bytes / BSI_RECONCILE_SHARE ? -1 : spill_file(r);
    if (fd < 0) return NULL;
    p->place = atomic_fetch_add(&r->spilled, bytes);
    if (bsi_temp_write(fd, p->kh, bytes, p->place, r->s->tmp, NULL)) return NULL;
    uint32_t *kh = p->kh;
    p->kh = NULL;
    return kh;
}

static void add_part(bsi_reconcile *r, lane *l) {
    uint32_t *kh = l->parts ? spill_part(r, &l->part[l->parts - 1]) : NULL;
    if (!kh) {
        kh = bsi_alloc(BSI_RECONCILE_PART * sizeof *kh);
        atomic_fetch_add(&r->kept, BSI_RECONCILE_PART * sizeof *kh);
    }
    l->part = bsi_realloc(l->part, (l->parts + 1) * sizeof *l->part);
    l->part[l->parts++] = (key_part){.kh = kh};
}

static void list_keys(bsi_reconcile *r, lane *l, const uint64_t *kh, size_t count) {
    for (size_t i = 0; i < count;) {
        size_t at = l->count % BSI_RECONCILE_PART, n = BSI_MIN(count - i, BSI_RECONCILE_PART - at);
        if (!at) add_part(r, l);
        uint32_t *to = l->part[l->parts - 1].kh + at;
        for (size_t k = 0; k < n; k++) to[k] = (uint32_t)kh[i + k];
        l->count += n;
        i += n;
    }
}

static void take_rows(bsi_reconcile *r, const bsi_layout *layout, bsi_scan_block *b, const uint8_t *p, size_t bytes) {
    int number = bsi_lane();
    lane *l = &r->lane[number];
    bsi_rows *w = &l->rows;
    const bsi_secret *secret = bsi_store_secret(r->s->store);
    bsi_parse_block(w, layout, NULL, p, bytes, false);
    if (bsi_claim(r->claims, &l->cursor, w, secret, &b->tag)) {
        b->tag |= TAG_CLAIM;
        return;
    }
    b->tag = (uint64_t)number << LANE_SHIFT | (w->bad_count ? TAG_OPEN : 0) | l->count;
    list_keys(r, l, w->kh, w->count);
    for (uint32_t i = 0; i < w->bad_count; i++) {
        if (!w->bads[i].key_read) continue;
        if (l->odds == l->odd_cap) l->odd = bsi_realloc(l->odd, (l->odd_cap = l->odd_cap ? l->odd_cap * 2 : 16) * sizeof *l->odd);
        l->odd[l->odds++] = (uint32_t)w->kh[w->bads[i].row];
    }
    put_rows(difference_of(r, number), w, bsi_difference_add);
}

static bool take_opened(void *ctx, const bsi_layout *layout, bsi_scan_block *b, const uint8_t *p, bsi_scan_expected x) {
    (void)x;
    take_rows(ctx, layout, b, p, b->bytes);
    return false;
}

/* Blocks that the scan showed to nobody: those behind a guess that came true, and records too long to be held. */
static void take_unseen(void *ctx, size_t index) {
    bsi_reconcile *r = ctx;
    bsi_scan *scan = &r->s->scan;
    bsi_buf buf = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    size_t end = BSI_MIN((index + 1) * UNSEEN_TASK, scan->unseen_count);
    for (size_t i = index * UNSEEN_TASK; i < end && !st; i++) {
        const bsi_scan_unseen *u = &scan->unseen[i];
        bsi_scan_block b = bsi_scan_full(&scan->brief[u->brief], u->file, u->offset);
        bsi_scan_run run = {.file = u->file, .offset = u->offset, .bytes = b.bytes, .spill = BSI_NO_SPILL};
        st = bsi_scan_range(scan, &run, 0, BSI_MIN((size_t)b.bytes, (size_t)BSI_RECORD_BYTES_MAX), &buf, &err);
        if (!st) take_rows(r, scan->file[u->file].layout, &b, buf.data, buf.len);
        scan->brief[u->brief].tag = b.tag;
    }
    bsi_buf_free(&buf);
    if (st) fail(r, st, &err);
}

static void take_dropped(void *ctx, const bsi_scan_block *b) {
    bsi_reconcile *r = ctx;
    if (r->dropped_count == r->dropped_cap)
        r->dropped = bsi_realloc(r->dropped, (r->dropped_cap = r->dropped_cap ? r->dropped_cap * 2 : 16) * sizeof *r->dropped);
    r->dropped[r->dropped_count++] = *b;
}

void bsi_reconcile_scan(bsi_sync *s, bsi_scan_options *o) {
    o->image = NULL;
    o->brief = true;
    o->opened = take_opened;
    o->dropped = take_dropped;
    o->opened_ctx = s->reconcile;
}

/* ---- the difference ---- */

/* What a worker saw behind a wrong guess of where a record starts. */
static bomsync_status take_out_dropped(bsi_reconcile *r, bomsync_error *err) {
    bsi_scan *scan = &r->s->scan;
    lane *l = &r->lane[0];
    bsi_buf buf = {0};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < r->dropped_count && !st; i++) {
        const bsi_scan_block *b = &r->dropped[i];
        if (b->tag & TAG_CLAIM) {
            bsi_claim_undo(r->claims, b->tag & TAG_PLACE);
            continue;
        }
        bsi_scan_run run = {.file = b->file, .offset = b->offset, .bytes = b->bytes, .spill = BSI_NO_SPILL};
        st = bsi_scan_range(scan, &run, 0, b->bytes, &buf, err);
        if (st) break;
        bsi_parse_block(&l->rows, scan->file[b->file].layout, bsi_store_secret(r->s->store), buf.data, buf.len, false);
        put_rows(difference_of(r, 0), &l->rows, bsi_difference_take);
    }
    bsi_buf_free(&buf);
    return st;
}

static void take_state(void *ctx, size_t index) {
    bsi_reconcile *r = ctx;
    bsi_sync *s = r->s;
    bsi_difference *d = difference_of(r, bsi_lane());
    bomsync_error err = BOMSYNC_ERROR_INIT;
    size_t end = BSI_MIN((index + 1) * OLD_BLOCKS, s->base_count);
    for (size_t i = index * OLD_BLOCKS; i < end; i++) {
        if (bsi_is_claimed(r->claims, i)) continue;
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows(&rows, s->store, s->base[i], &err);
        if (st) {
            fail(r, st, &err);
            return;
        }
        bsi_difference_take(d, rows.kh, rows.rh, rows.count);
    }
}

static bool settle(bsi_reconcile *r) {
    bsi_difference *all = difference_of(r, 0);
    for (int i = 1; i < r->lanes; i++)
        if (r->lane[i].difference) bsi_difference_merge(all, r->lane[i].difference);
    return bsi_difference_settle(all, &r->added, &r->added_count, &r->taken, &r->taken_count);
}

/* ---- keys in the lists ---- */

enum { FILTER_BITS_LEAST = 10, FILTER_BITS_MOST = 24 };

static bool in_filter(const bsi_reconcile *r, uint32_t kh) {
    uint32_t h = kh >> (32 - r->filter_bits);
    return r->filter[h >> 6] >> (h & 63) & 1;
}

static bool in_table(const bsi_reconcile *r, uint32_t kh) {
    if (!kh) return r->want_zero;
    size_t h = kh & r->want_mask;
    while (r->want[h] && r->want[h] != kh) h = (h + 1) & r->want_mask;
    return r->want[h];
}

static inline bool wanted(const bsi_reconcile *r, uint32_t kh) { return in_filter(r, kh) && in_table(r, kh); }

/* The filter lets one of 64 pass or less; it is no larger than it must be, to stay in the cache. */
static void want_these(bsi_reconcile *r, const uint32_t *kh, size_t count) {
    r->filter_bits = FILTER_BITS_LEAST;
    while (r->filter_bits < FILTER_BITS_MOST && ((size_t)1 << r->filter_bits) < count * 64) r->filter_bits++;
    r->want_mask = 1;
    while (r->want_mask < count * 2) r->want_mask = r->want_mask * 2 + 1;
    free(r->filter);
    free(r->want);
    r->filter = bsi_calloc((size_t)1 << (r->filter_bits - 6), sizeof *r->filter);
    r->want = bsi_calloc(r->want_mask + 1, sizeof *r->want);
    r->want_count = count;
    r->want_zero = false;
    for (size_t i = 0; i < count; i++) {
        uint32_t bit = kh[i] >> (32 - r->filter_bits);
        size_t h = kh[i] & r->want_mask;
        while (r->want[h] && r->want[h] != kh[i]) h = (h + 1) & r->want_mask;
        r->want[h] = kh[i];
        r->want_zero |= !kh[i];
        r->filter[bit >> 6] |= 1ull << (bit & 63);
    }
}

static void add_hit(lane *l, size_t place) {
    if (l->hits == l->hit_cap) l->hit = bsi_realloc(l->hit, (l->hit_cap = l->hit_cap ? l->hit_cap * 2 : 256) * sizeof *l->hit);
    l->hit[l->hits++] = place;
}

static bomsync_status read_part(uint32_t *kh, int fd, const key_part *p, bomsync_error *err) {
    return bsi_temp_read(fd, kh, BSI_RECONCILE_PART * sizeof *kh, p->place, err);
}

static void find_listed(void *ctx, size_t index) {
    bsi_reconcile *r = ctx;
    lane *l = &r->lane[index];
    uint32_t *read = NULL;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    for (size_t p = 0; r->want_count && p < l->parts; p++) {
        const uint32_t *kh = l->part[p].kh;
        size_t from = p * BSI_RECONCILE_PART, n = BSI_MIN(l->count - from, (size_t)BSI_RECONCILE_PART);
        if (!kh) {
            if (!read) read = bsi_alloc(BSI_RECONCILE_PART * sizeof *read);
            bomsync_status st = read_part(read, r->fd, &l->part[p], &err);
            if (st) fail(r, st, &err);
            if (st) break;
            kh = read;
        }
        for (size_t i = 0; i < n; i++)
            if (wanted(r, kh[i])) add_hit(l, from + i);
    }
    free(read);
}

/* Rows of blocks that claim a state block stand in no list: they are those of the state block. */
static void find_claimed(void *ctx, size_t index) {
    bsi_reconcile *r = ctx;
    bsi_sync *s = r->s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    size_t end = BSI_MIN((index + 1) * OLD_BLOCKS, s->base_count);
    for (size_t i = index * OLD_BLOCKS; i < end; i++) {
        if (!bsi_is_claimed(r->claims, i)) continue;
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows_again(&rows, s->store, s->base[i], &err);
        if (st) fail(r, st, &err);
        if (st) return;
        uint8_t bit = (uint8_t)(1u << (i & 7)); /* OLD_BLOCKS is a multiple of 8: no byte has two writers */
        for (uint32_t k = rows.count; k--;) {
            if (!wanted(r, (uint32_t)rows.kh[k])) continue;
            r->hit_state[i >> 3] |= bit;
            if (!k) r->hit_front[i >> 3] |= bit;
        }
    }
}

/* Keys of rows that only the snapshot has, and of rows that are kept back. fresh: not those of rows that replace one of the state,
 * as no other row of the state has their keys. */
static void want_changed(bsi_reconcile *r, bool fresh) {
    size_t n = r->added_count;
    for (int i = 0; i < r->lanes; i++) n += r->lane[i].odds;
    uint32_t *kh = bsi_alloc((n + 1) * sizeof *kh);
    n = 0;
    for (size_t i = 0; i < r->added_count; i++)
        if (!fresh || !bsi_u64_has(r->gone, r->taken_count, r->added[i].kh)) kh[n++] = (uint32_t)r->added[i].kh;
    for (int i = 0; i < r->lanes; i++)
        for (size_t k = 0; k < r->lane[i].odds; k++) kh[n++] = r->lane[i].odd[k];
    want_these(r, kh, n);
    free(kh);
}

static void find_hits(bsi_reconcile *r) {
    bsi_sync *s = r->s;
    want_changed(r, false);
    bsi_parallel(s->workers, (size_t)r->lanes, find_listed, r);
    size_t states = r->claims ? s->base_count : 0;
    r->hit_state = bsi_calloc(states / 8 + 1, 1);
    r->hit_front = bsi_calloc(states / 8 + 1, 1);
    want_changed(r, true);
    if (r->want_count) bsi_parallel(s->workers, (states + OLD_BLOCKS - 1) / OLD_BLOCKS, find_claimed, r);
}

/* ---- the blocks that stay open ---- */

static bool has_bit(const uint8_t *bits, uint64_t i) { return bits[i >> 3] >> (i & 7) & 1; }

/* The first hit among the rows of a block: its place, or UINT64_MAX. Of blocks with a claim 0 or any other place. */
static uint64_t first_hit(const bsi_reconcile *r, const bsi_scan_brief *b) {
    if (b->tag & TAG_CLAIM) {
        uint64_t state = b->tag & TAG_PLACE;
        return has_bit(r->hit_state, state) ? !has_bit(r->hit_front, state) : UINT64_MAX;
    }
    const lane *l = &r->lane[b->tag >> LANE_SHIFT];
    uint64_t from = b->tag & TAG_PLACE;
    size_t lo = 0, hi = l->hits;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (l->hit[mid] < from) lo = mid + 1;
        else hi = mid;
    }
    return lo < l->hits && l->hit[lo] < from + b->records ? l->hit[lo] - from : UINT64_MAX;
}

/* Bit a block. If its first row may be new, what stands before it must be known: the block before is opened, too. */
static uint8_t *open_blocks(const bsi_reconcile *r, size_t *count) {
    const bsi_scan *scan = &r->s->scan;
    uint8_t *open = bsi_calloc(scan->brief_count / 8 + 1, 1);
    bool before = false; /* of the block behind: wants its neighbour */
    *count = 0;
    for (size_t i = scan->brief_count; i--;) {
        const bsi_scan_brief *b = &scan->brief[i];
        uint64_t hit = b->tag & TAG_OPEN ? 0 : first_hit(r, b);
        if (before || hit != UINT64_MAX) {
            open[i >> 3] |= (uint8_t)(1u << (i & 7));
            ++*count;
            if (b->tag & TAG_CLAIM) r->hit_state[(b->tag & TAG_PLACE) >> 3] |= (uint8_t)(1u << (b->tag & 7));
        }
        before = hit == 0 || (before && !b->records);
    }
    return open;
}

typedef struct open_runs {
    bsi_scan_run *run;
    size_t count, cap;
} open_runs;

static void add_open(open_runs *o, const bsi_scan_block *b, size_t index) {
    bsi_scan_run *last = o->count ? &o->run[o->count - 1] : NULL;
    if (last && last->file == b->file && last->offset + last->bytes == b->offset) {
        last->count++;
        last->bytes += b->bytes;
        last->records += b->records;
        return;
    }
    if (o->count == o->cap) o->run = bsi_vast_realloc(o->run, (o->cap = o->cap ? o->cap * 2 : 64) * sizeof *o->run);
    o->run[o->count++] =
        (bsi_scan_run){.first = index, .count = 1, .offset = b->offset, .bytes = b->bytes, .records = b->records, .spill = BSI_NO_SPILL, .file = b->file};
}

/* The scan is left with the open blocks, each a run with those behind it. */
static void keep_open(bsi_reconcile *r, const uint8_t *open, size_t count) {
    bsi_scan *scan = &r->s->scan;
    open_runs runs = {0};
    bsi_vast_free(scan->block); /* of all blocks, if they were read again */
    scan->block = bsi_vast_alloc((count + 1) * sizeof *scan->block);
    scan->block_count = 0;
    for (size_t i = 0; i < scan->run_count; i++) {
        const bsi_scan_run *run = &scan->run[i];
        uint64_t offset = run->offset;
        for (uint64_t k = run->first; k < run->first + run->count; k++) {
            if (open[k >> 3] >> (k & 7) & 1) {
                bsi_scan_block *b = &scan->block[scan->block_count];
                *b = bsi_scan_full(&scan->brief[k], run->file, offset);
                add_open(&runs, b, scan->block_count++);
            }
            offset += scan->brief[k].bytes;
        }
    }
    r->s->settled = scan->brief_count - count;
    bsi_vast_free(scan->run);
    scan->run = runs.run;
    scan->run_count = runs.count;
}

/* Where nothing is settled the next image may be made of the blocks: what the list in brief lacked. */
static bomsync_status complete(bsi_sync *s, size_t i, bsi_buf *buf, bsi_rows *w, bomsync_error *err) {
    bsi_scan_block *b = &s->scan.block[i];
    const bsi_layout *l = s->scan.file[b->file].layout;
    bomsync_status st = bsi_scan_bytes(&s->scan, i, buf, err);
    if (st) return st;
    bsi_parse_block(w, l, bsi_store_secret(s->store), buf->data, buf->len, false);
    b->fp = bsi_scan_fingerprint(l, bsi_store_secret(s->store), buf->data, buf->len);
    b->blanks = b->flags & BSI_CUT_OVERSIZE ? 0 : w->blanks;
    return BOMSYNC_OK;
}

/* Once more, into larger cells if the rows are not settled: all blocks of the snapshot are read again. */
static void put_again(void *ctx, size_t index) {
    bsi_reconcile *r = ctx;
    bsi_sync *s = r->s;
    lane *l = &r->lane[bsi_lane()];
    bsi_buf buf = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    size_t end = BSI_MIN((index + 1) * OLD_BLOCKS, s->scan.block_count);
    for (size_t i = index * OLD_BLOCKS; i < end && !st; i++) {
        st = complete(s, i, &buf, &l->rows, &err);
        if (!st && !r->settled && !(s->scan.block[i].tag & TAG_CLAIM)) put_rows(difference_of(r, bsi_lane()), &l->rows, bsi_difference_add);
    }
    bsi_buf_free(&buf);
    if (st) fail(r, st, &err);
}

static bomsync_status read_again(bsi_reconcile *r, bomsync_error *err) {
    bsi_parallel(r->s->workers, (r->s->scan.block_count + OLD_BLOCKS - 1) / OLD_BLOCKS, put_again, r);
    return outcome(r, err);
}

static void forget_cells(bsi_reconcile *r) {
    for (int i = 0; i < r->lanes; i++) {
        bsi_difference_close(r->lane[i].difference);
        r->lane[i].difference = NULL;
    }
}

/* What is left when the state is taken out of the snapshot. */
static bomsync_status subtract(bsi_reconcile *r, bomsync_error *err) {
    bsi_sync *s = r->s;
    bsi_parallel(s->workers, (s->base_count + OLD_BLOCKS - 1) / OLD_BLOCKS, take_state, r);
    bomsync_status st = outcome(r, err);
    if (st || (r->settled = settle(r))) return st;
    forget_cells(r);
    if (r->most == BSI_RECONCILE_ROWS) return BOMSYNC_OK;
    r->most = BSI_RECONCILE_ROWS;
    bsi_scan_expand(&s->scan);
    st = read_again(r, err);
    return st ? st : subtract(r, err);
}

/* Blocks without a claim stand otherwise than the state's. */
static void judge_order(bsi_reconcile *r) {
    const bsi_scan *scan = &r->s->scan;
    bsi_order strays = {0}, all = {0};
    uint64_t count = 0;
    for (size_t i = 0; i < scan->brief_count; i++) {
        bsi_order_add(&all, scan->brief[i].plain.lo);
        if (scan->brief[i].tag & TAG_CLAIM) continue;
        bsi_order_add(&strays, scan->brief[i].plain.lo);
        count++;
    }
    bsi_order_judge(r->s, &strays, count);
    if (count * 2 <= scan->brief_count) bsi_order_judge_bytes(r->s, &all);
}

/* The state is put into the order of this snapshot, or the image gets its bytes: for that the place of each record must be known, and the join tells it. */
static bomsync_status open_all(bsi_reconcile *r, bomsync_error *err) {
    bsi_sync_end_digest(r->s);
    bsi_scan_expand(&r->s->scan);
    return read_again(r, err);
}

static bomsync_status cut_down(bsi_reconcile *r, bomsync_error *err) {
    bsi_sync *s = r->s;
    r->gone = bsi_alloc((r->taken_count + 1) * sizeof *r->gone);
    for (size_t i = 0; i < r->taken_count; i++) r->gone[i] = r->taken[i].kh;
    bsi_sort(r->gone, r->taken_count, sizeof *r->gone, bsi_by_u64);
    find_hits(r);
    bomsync_status st = outcome(r, err);
    if (st) return st;
    size_t count;
    uint8_t *open = open_blocks(r, &count);
    bsi_sync_end_digest(s); /* it reads the lists that are cut down now */
    keep_open(r, open, count);
    free(open);
    return s->settled ? BOMSYNC_OK : read_again(r, err);
}

bomsync_status bsi_reconcile_run(bsi_sync *s, bomsync_error *err) {
    bsi_reconcile *r = s->reconcile;
    if (!r) return BOMSYNC_OK;
    bomsync_status st = take_out_dropped(r, err);
    if (!st) bsi_parallel(s->workers, (s->scan.unseen_count + UNSEEN_TASK - 1) / UNSEEN_TASK, take_unseen, r);
    if (!st) st = outcome(r, err);
    if (!st) st = bsi_sync_base(s, err);
    if (!st) st = subtract(r, err);
    if (!st && r->settled && r->claims) judge_order(r);
    if (!st && r->settled) st = s->reorder || s->reimage ? open_all(r, err) : cut_down(r, err);
    bsi_sync_end_digest(s);
    bsi_scan_forget_brief(&s->scan);
    for (size_t i = 0; i < s->scan.block_count; i++) s->scan.block[i].tag = BSI_NO_TAG; /* they spoke of the lists */
    bsi_sync_memory(s);
    close_lanes(r);
    return st;
}

/* ---- the old rows of what is open ---- */

static void add_wanted(void *ctx, size_t index) {
    bsi_reconcile *r = ctx;
    bsi_sync *s = r->s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    size_t end = BSI_MIN((index + 1) * OLD_BLOCKS, s->base_count);
    for (size_t i = index * OLD_BLOCKS; i < end && !st; i++) {
        if (bsi_is_claimed(r->claims, i) && !has_bit(r->hit_state, i)) continue; /* its rows are settled */
        bsi_block_rows rows;
        st = bsi_store_rows(&rows, s->store, s->base[i], &err);
        for (uint32_t k = 0; !st && k < rows.count; k++) {
            if (!wanted(r, (uint32_t)rows.kh[k])) continue;
            st = bsi_row_store_add(r->old, bsi_lane(), &(bsi_row){rows.kh[k], rows.rh[k], (uint64_t)i << 16 | k}, &err);
            r->open_state[i >> 3] |= (uint8_t)(1u << (i & 7)); /* OLD_BLOCKS is a multiple of 8: no byte has two writers */
        }
    }
    if (st) fail(r, st, &err);
}

static bomsync_status keys_of_open(bsi_reconcile *r, bomsync_error *err) {
    bsi_sync *s = r->s;
    uint64_t rows = s->row_base[s->open_count];
    uint32_t *kh = bsi_alloc((rows + r->taken_count + 1) * sizeof *kh);
    size_t n = 0;
    bsi_rows own = {0};
    bsi_buf buf = {0};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < s->open_count && !st; i++) {
        const bsi_rows *w = s->scan.parsed ? s->scan.parsed[i] : NULL;
        if (!w) {
            st = bsi_scan_bytes(&s->scan, i, &buf, err);
            if (!st)
                bsi_parse_block(&own, s->scan.file[s->scan.block[i].file].layout, bsi_store_secret(s->store), buf.data, buf.len, true);
            w = &own;
        }
        for (uint32_t k = 0; !st && k < w->count; k++) kh[n++] = (uint32_t)w->kh[k];
    }
    for (size_t i = 0; i < r->taken_count; i++) kh[n++] = (uint32_t)r->taken[i].kh;
    bsi_rows_free(&own);
    bsi_buf_free(&buf);
    want_these(r, kh, n);
    free(kh);
    return st;
}

bomsync_status bsi_reconcile_old(bsi_sync *s, bsi_row_store *old, bomsync_error *err) {
    bsi_reconcile *r = s->reconcile;
    bomsync_status st = keys_of_open(r, err);
    if (st) return st;
    r->old = old;
    free(r->open_state);
    r->open_state = bsi_calloc(s->base_count / 8 + 1, 1);
    if (r->want_count) bsi_parallel(s->workers, (s->base_count + OLD_BLOCKS - 1) / OLD_BLOCKS, add_wanted, r);
    st = outcome(r, err);
    bsi_vast_free(s->open_state);
    s->open_state = bsi_vast_alloc((s->base_count + 1) * sizeof *s->open_state);
    s->open_state_count = 0;
    for (size_t i = 0; i < s->base_count; i++)
        if (r->open_state[i >> 3] >> (i & 7) & 1) s->open_state[s->open_state_count++] = i;
    return st;
}

/* Old rows were taken by half of their key hash: one whose new row stands in a settled block has found no partner here. */
bomsync_status bsi_reconcile_gone(bsi_sync *s, bsi_join_out *out, bomsync_error *err) {
    bsi_reconcile *r = s->reconcile;
    size_t kept = 0;
    for (size_t i = 0; i < out->gone_count; i++) {
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows(&rows, s->store, s->base[out->gone[i] >> 16], err);
        if (st) return st;
        uint64_t kh = rows.kh[out->gone[i] & 0xffff];
        if (bsi_u64_has(r->gone, r->taken_count, kh)) out->gone[kept++] = out->gone[i];
    }
    out->gone_count = kept;
    return BOMSYNC_OK;
}
