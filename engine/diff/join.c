/* diff/join.c - see flow/join.h.
 *
 * Each adding thread (lane) has one open chunk of rows per partition; full chunks go to the partition's list, or to the spill
 * file once the rows in memory pass the cap. A partition of 10 M rows / 256 is 1 MB: its table stays in the L2 cache.
 *
 * Tried and dropped: sorting both sides (log n passes over memory), one big table (a cache miss for each row).
 */
#include "core/vast.h"
#include "flow/join.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { PARTS = BSI_JOIN_PARTS, CHUNK_ROWS = 256, FIRST_ROWS = 8 }; /* a partition's chunks grow from the one to the other */
enum { FEW_ROWS = 1000 }; /* joined sooner than a thread is started */

typedef struct chunk {
    struct chunk *next;
    uint32_t count, cap;
    bsi_row row[];
} chunk;

typedef struct spilled {
    uint64_t offset;
    uint32_t count;
} spilled;

typedef struct part {
    chunk *open, *full;
    spilled *out;
    size_t out_count, out_cap;
    uint64_t rows;
} part;

struct bsi_row_store {
    int lanes;
    uint64_t memory_bytes;
    char *tmp;
    part *part; /* [lanes][PARTS] */
    chunk **spare; /* [lanes] of before a reset */
    atomic_ullong held, spill_bytes, rows;
    pthread_mutex_t lock;
    int fd;
};

bsi_row_store *bsi_row_store_open(int lanes, uint64_t memory_bytes, const char *tmp) {
    bsi_row_store *s = bsi_calloc(1, sizeof *s);
    s->lanes = lanes < 1 ? 1 : lanes;
    s->memory_bytes = memory_bytes;
    s->tmp = bsi_strdup(tmp);
    s->part = bsi_calloc((size_t)s->lanes * PARTS, sizeof *s->part);
    s->spare = bsi_calloc((size_t)s->lanes, sizeof *s->spare);
    pthread_mutex_init(&s->lock, NULL);
    s->fd = -1;
    return s;
}

static bomsync_status spill_chunk(bsi_row_store *s, part *p, chunk *c, bomsync_error *err) {
    pthread_mutex_lock(&s->lock);
    if (s->fd < 0) s->fd = bsi_temp_open(s->tmp);
    int fd = s->fd, errnum = errno;
    pthread_mutex_unlock(&s->lock);
    if (fd < 0) return bsi_fail_errno(err, errnum, s->tmp, "could not make a temporary file in \"%s\"", s->tmp);
    size_t bytes = c->count * sizeof c->row[0];
    uint64_t at = atomic_fetch_add(&s->spill_bytes, bytes);
    bomsync_status st = bsi_temp_write(fd, c->row, bytes, at, s->tmp, err);
    if (st) return st;
    if (p->out_count == p->out_cap) {
        p->out_cap = p->out_cap ? p->out_cap * 2 : 16;
        p->out = bsi_realloc(p->out, p->out_cap * sizeof *p->out);
    }
    p->out[p->out_count++] = (spilled){at, c->count};
    c->count = 0;
    return BOMSYNC_OK;
}

static chunk *new_chunk(bsi_row_store *s, int lane, uint32_t rows) {
    chunk *c = s->spare[lane];
    if (c) {
        s->spare[lane] = c->next;
    } else {
        c = bsi_alloc(sizeof *c + rows * sizeof *c->row);
        c->cap = rows;
    }
    c->count = 0;
    atomic_fetch_add(&s->held, sizeof *c + c->cap * sizeof *c->row);
    return c;
}

/* The open chunk of p is full, or there is none. Few rows in many partitions take small chunks; above the cap on memory whole ones are written out. */
static bomsync_status open_chunk(bsi_row_store *s, int lane, part *p, bomsync_error *err) {
    chunk *was = p->open;
    uint32_t rows = was ? BSI_MIN(was->cap * 4, (uint32_t)CHUNK_ROWS) : FIRST_ROWS;
    if (was && was->cap == CHUNK_ROWS && atomic_load(&s->held) + sizeof *was + rows * sizeof *was->row > s->memory_bytes)
        return spill_chunk(s, p, was, err);
    if (was) {
        was->next = p->full;
        p->full = was;
    }
    p->open = new_chunk(s, lane, rows);
    return BOMSYNC_OK;
}

bomsync_status bsi_row_store_add(bsi_row_store *s, int lane, const bsi_row *row, bomsync_error *err) {
    part *p = &s->part[(size_t)lane * PARTS + (row->kh >> 56)];
    if (!p->open || p->open->count == p->open->cap) {
        bomsync_status st = open_chunk(s, lane, p, err);
        if (st) return st;
    }
    p->open->row[p->open->count++] = *row;
    p->rows++;
    return BOMSYNC_OK;
}

uint64_t bsi_row_store_count(const bsi_row_store *s) {
    uint64_t n = 0;
    for (size_t i = 0; i < (size_t)s->lanes * PARTS; i++) n += s->part[i].rows;
    return n;
}

uint64_t bsi_row_store_spilled(const bsi_row_store *s) { return atomic_load(&s->spill_bytes); }

bool bsi_row_store_each(const bsi_row_store *s, void (*fn)(void *ctx, const bsi_row *rows, size_t count), void *ctx) {
    if (atomic_load(&s->spill_bytes)) return false;
    for (size_t i = 0; i < (size_t)s->lanes * PARTS; i++) {
        const part *p = &s->part[i];
        if (p->open) fn(ctx, p->open->row, p->open->count);
        for (const chunk *c = p->full; c; c = c->next) fn(ctx, c->row, c->count);
    }
    return true;
}

void bsi_row_store_reset(bsi_row_store *s) {
    for (size_t i = 0; i < (size_t)s->lanes * PARTS; i++) {
        part *p = &s->part[i];
        chunk **spare = &s->spare[i / PARTS];
        if (p->open) {
            p->open->next = p->full;
            p->full = p->open;
        }
        for (chunk *c = p->full, *next; c; c = next) {
            next = c->next;
            c->next = *spare;
            *spare = c;
        }
        free(p->out);
        *p = (part){0};
    }
    atomic_store(&s->held, 0);
    atomic_store(&s->spill_bytes, 0);
}

void bsi_row_store_close(bsi_row_store *s) {
    if (!s) return;
    for (size_t i = 0; i < (size_t)s->lanes * PARTS; i++) {
        for (chunk *c = s->part[i].full, *next; c; c = next) {
            next = c->next;
            free(c);
        }
        free(s->part[i].open);
        free(s->part[i].out);
    }
    for (int l = 0; l < s->lanes; l++)
        for (chunk *c = s->spare[l], *next; c; c = next) {
            next = c->next;
            free(c);
        }
    free(s->spare);
    if (s->fd >= 0) close(s->fd);
    pthread_mutex_destroy(&s->lock);
    free(s->part);
    free(s->tmp);
    free(s);
}

/* The rows of one partition, chunk by chunk: those in memory where they lie, spilled ones through a buffer. */
typedef bomsync_status rows_fn(void *ctx, const bsi_row *rows, size_t count);

static bomsync_status each_chunk(bsi_row_store *s, size_t p, rows_fn *fn, void *ctx, bomsync_error *err) {
    bsi_row buf[CHUNK_ROWS];
    bomsync_status st = BOMSYNC_OK;
    for (int l = 0; l < s->lanes && !st; l++) {
        part *q = &s->part[(size_t)l * PARTS + p];
        for (chunk *c = q->full; c && !st; c = c->next) st = fn(ctx, c->row, c->count);
        if (q->open && !st) st = fn(ctx, q->open->row, q->open->count);
        for (size_t i = 0; i < q->out_count && !st; i++) {
            st = bsi_temp_read(s->fd, buf, q->out[i].count * sizeof(bsi_row), q->out[i].offset, err);
            if (!st) st = fn(ctx, buf, q->out[i].count);
        }
    }
    return st;
}

static size_t rows_of(const bsi_row_store *s, size_t p) {
    size_t n = 0;
    for (int l = 0; l < s->lanes; l++) n += s->part[(size_t)l * PARTS + p].rows;
    return n;
}

typedef struct u64_list {
    uint64_t *v;
    size_t count, cap;
} u64_list;

static void append(u64_list *l, const uint64_t *v, size_t n) {
    if (!n) return;
    if (l->cap < l->count + n) l->v = bsi_vast_realloc(l->v, (l->cap = (l->count + n) * 2) * sizeof *l->v);
    memcpy(l->v + l->count, v, n * sizeof *v);
    l->count += n;
}

/* One worker's memory, used for one partition after the other: fresh pages cost as much as the work on them. */
typedef struct scratch {
    bsi_buf rows, head, next;
    u64_list gone, fresh;
} scratch;

typedef struct join_run {
    bsi_join_out *out;
    scratch *scratch; /* [workers] */
    bsi_row_store *n, *o;
    pthread_mutex_t lock;
    size_t from;
    u64_list gone, fresh;
    u64_list *differ; /* [PARTS], for bsi_join_differ */
    atomic_ullong conflicts, duplicates;
    bomsync_status status;
    bomsync_error *err;
} join_run;

/* head[slot]: 1 + index of the first row of a key in this partition; next[row]: 1 + the next row with the same key hash */
static void settle_group(join_run *r, const bsi_row *rows, const uint32_t *next, uint32_t first, uint64_t old_place, uint64_t old_rh) {
    uint64_t *fate = r->out->fate;
    uint64_t lowest = UINT64_MAX, copies = 0;
    bool differ = false;
    uint64_t outside = old_place == UINT64_MAX ? BSI_FATE_RAGGED : 0, rh = 0; /* rows that do not have this key after all */
    bool bad = false;
    for (uint32_t i = first; i; i = next[i - 1]) {
        const bsi_row *row = &rows[i - 1];
        if (fate[row->at] & outside) continue;
        if (copies++ && row->rh != rh) differ = true;
        rh = row->rh;
        bad |= (fate[row->at] & BSI_FATE_BAD) != 0;
        if (row->at < lowest) lowest = row->at;
    }
    differ = differ || (copies > 1 && bad);
    for (uint32_t i = first; i; i = next[i - 1]) {
        const bsi_row *row = &rows[i - 1];
        if (fate[row->at] & outside) continue;
        uint64_t f = fate[row->at] & (BSI_FATE_BAD | BSI_FATE_RAGGED);
        if (copies > 1 && differ) {
            f |= BSI_FATE_CONFLICT;
            atomic_fetch_add_explicit(&r->conflicts, 1, memory_order_relaxed);
        } else if (copies > 1 && row->at != lowest) {
            f |= BSI_FATE_DUPLICATE;
            atomic_fetch_add_explicit(&r->duplicates, 1, memory_order_relaxed);
        }
        if (old_place != UINT64_MAX) {
            f |= BSI_FATE_MATCHED | old_place;
            if (row->rh != old_rh) f |= BSI_FATE_CHANGED;
        }
        fate[row->at] = f;
    }
}

/* One partition: a table over its new rows. */
typedef struct table {
    join_run *r;
    scratch *s;
    bsi_row *row;
    size_t count, mask;
    uint32_t *head, *next;
} table;

static void *room(bsi_buf *b, size_t bytes) {
    b->len = 0;
    bsi_buf_reserve(b, bytes);
    return b->data;
}

static size_t slot_of(const table *t, uint64_t kh) {
    size_t h = (kh * 0x9E3779B97F4A7C15ull >> 20) & t->mask;
    while (t->head[h] && t->row[t->head[h] - 1].kh != kh) h = (h + 1) & t->mask;
    return h;
}

static bomsync_status take_new(void *ctx, const bsi_row *rows, size_t count) {
    table *t = ctx;
    for (size_t i = 0; i < count; i++) {
        size_t at = t->count++, h;
        t->row[at] = rows[i];
        h = slot_of(t, rows[i].kh);
        t->next[at] = t->head[h];
        t->head[h] = (uint32_t)at + 1;
    }
    return BOMSYNC_OK;
}

static bomsync_status probe_old(void *ctx, const bsi_row *rows, size_t count) {
    table *t = ctx;
    uint64_t *fate = t->r->out->fate;
    for (size_t i = 0; i < count; i++) {
        const bsi_row *o = &rows[i];
        uint32_t first = t->head[slot_of(t, o->kh)];
        if (!first) {
            append(&t->s->gone, &o->at, 1);
        } else if (!t->next[first - 1]) { /* the common case: one row, one partner */
            const bsi_row *n = &t->row[first - 1];
            uint64_t *f = &fate[n->at];
            *f = (*f & (BSI_FATE_BAD | BSI_FATE_RAGGED)) | BSI_FATE_MATCHED | o->at | (n->rh != o->rh ? BSI_FATE_CHANGED : 0);
        } else {
            settle_group(t->r, t->row, t->next, first, o->at, o->rh);
        }
    }
    return BOMSYNC_OK;
}

static void start_table(table *t, join_run *r, size_t p) {
    size_t most = rows_of(r->n, p);
    scratch *s = &r->scratch[bsi_lane()];
    s->gone.count = s->fresh.count = 0;
    *t = (table){.r = r, .s = s, .mask = 15, .row = room(&s->rows, (most + 1) * sizeof *t->row), .next = room(&s->next, (most + 1) * sizeof *t->next)};
    while (t->mask < most * 2) t->mask = t->mask * 2 + 1;
    t->head = room(&s->head, (t->mask + 1) * sizeof *t->head);
    memset(t->head, 0, (t->mask + 1) * sizeof *t->head);
}

static void end_part(join_run *r, const scratch *s, bomsync_status st, const bomsync_error *err) {
    pthread_mutex_lock(&r->lock);
    if (st && !r->status) {
        r->status = st;
        if (r->err) *r->err = *err;
    }
    append(&r->gone, s->gone.v, s->gone.count);
    append(&r->fresh, s->fresh.v, s->fresh.count);
    pthread_mutex_unlock(&r->lock);
}

static void join_part(void *ctx, size_t index) {
    join_run *r = ctx;
    size_t p = r->from + index;
    if (!rows_of(r->n, p) && !rows_of(r->o, p)) return;
    table t;
    start_table(&t, r, p);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = each_chunk(r->n, p, take_new, &t, &err);
    if (!st) st = each_chunk(r->o, p, probe_old, &t, &err);
    for (size_t i = 0; i < t.count && !st; i++) { /* groups that no old row touched, each once: at its head */
        if (!t.next[i] || t.head[slot_of(&t, t.row[i].kh)] != i + 1) continue;
        if (!(r->out->fate[t.row[i].at] & BSI_FATE_MATCHED)) settle_group(r, t.row, t.next, (uint32_t)i + 1, UINT64_MAX, 0);
    }
    for (size_t i = 0; i < t.count && !st && r->out->want_fresh; i++)
        if (!(r->out->fate[t.row[i].at] & BSI_FATE_MATCHED)) append(&t.s->fresh, &t.row[i].kh, 1);
    end_part(r, t.s, st, &err);
}

static void run_parts(join_run *r, size_t parts, int workers, void (*fn)(void *ctx, size_t index)) {
    if (bsi_row_store_count(r->n) + bsi_row_store_count(r->o) < FEW_ROWS) workers = 1;
    size_t lanes = (size_t)BSI_MAX(workers, 1);
    r->scratch = bsi_calloc(lanes, sizeof *r->scratch);
    pthread_mutex_init(&r->lock, NULL);
    bsi_parallel(workers, parts, fn, r);
    pthread_mutex_destroy(&r->lock);
    for (size_t i = 0; i < lanes; i++) {
        bsi_buf_free(&r->scratch[i].rows);
        bsi_buf_free(&r->scratch[i].head);
        bsi_buf_free(&r->scratch[i].next);
        bsi_vast_free(r->scratch[i].gone.v);
        bsi_vast_free(r->scratch[i].fresh.v);
    }
    free(r->scratch);
}

bomsync_status bsi_join_range(bsi_join_out *out, bsi_row_store *n, bsi_row_store *o, unsigned from, unsigned to, int workers, bomsync_error *err) {
    join_run r = {.out = out, .n = n, .o = o, .from = from, .err = err};
    r.gone = (u64_list){out->gone, out->gone_count, out->gone_count};
    r.fresh = (u64_list){out->fresh, out->fresh_count, out->fresh_count};
    run_parts(&r, to - from, workers, join_part);
    bsi_sort(r.gone.v, r.gone.count, sizeof *r.gone.v, bsi_by_u64);
    out->gone = r.gone.v;
    out->gone_count = r.gone.count;
    out->fresh = r.fresh.v;
    out->fresh_count = r.fresh.count;
    out->conflicts += atomic_load(&r.conflicts);
    out->duplicates += atomic_load(&r.duplicates);
    return r.status;
}

bomsync_status bsi_join(bsi_join_out *out, bsi_row_store *n, bsi_row_store *o, int workers, bomsync_error *err) {
    out->gone = out->fresh = NULL;
    out->gone_count = out->fresh_count = 0;
    out->conflicts = out->duplicates = 0;
    return bsi_join_range(out, n, o, 0, PARTS, workers, err);
}

/* ---- only what differs ---- */

static bomsync_status take_unmarked(void *ctx, const bsi_row *rows, size_t count) {
    table *t = ctx;
    size_t first = t->count;
    take_new(ctx, rows, count);
    for (size_t i = first; i < t->count; i++) t->row[i].at = false; /* has met its partner */
    return BOMSYNC_OK;
}

static bomsync_status meet_old(void *ctx, const bsi_row *rows, size_t count) {
    table *t = ctx;
    for (size_t i = 0; i < count; i++) {
        uint32_t first = t->head[slot_of(t, rows[i].kh)];
        bsi_row *n = first ? &t->row[first - 1] : NULL;
        if (n && !t->next[first - 1] && !n->at && n->rh == rows[i].rh) n->at = true;
        else append(&t->s->fresh, &rows[i].kh, 1);
    }
    return BOMSYNC_OK;
}

/* Partitions are by the top bits: one behind the other they ascend. */
static void list_differing(join_run *r, size_t p, u64_list *l) {
    l->count = bsi_vast_unique(l->v, l->count);
    append(&r->differ[p], l->v, l->count);
    l->count = 0;
}

static void differ_part(void *ctx, size_t p) {
    join_run *r = ctx;
    if (!rows_of(r->n, p) && !rows_of(r->o, p)) return;
    table t;
    start_table(&t, r, p);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = each_chunk(r->n, p, take_unmarked, &t, &err);
    if (!st) st = each_chunk(r->o, p, meet_old, &t, &err);
    for (size_t i = 0; i < t.count && !st; i++)
        if (!t.row[i].at) append(&t.s->fresh, &t.row[i].kh, 1);
    list_differing(r, p, &t.s->fresh);
    end_part(r, t.s, st, &err);
}

bomsync_status bsi_join_differ(uint64_t **kh, size_t *count, bsi_row_store *n, bsi_row_store *o, int workers, bomsync_error *err) {
    u64_list differ[PARTS] = {{0}}, all = {0};
    join_run r = {.n = n, .o = o, .differ = differ, .err = err};
    run_parts(&r, PARTS, workers, differ_part);
    for (size_t p = 0; p < PARTS; p++) all.cap += differ[p].count;
    all.v = bsi_vast_alloc((all.cap + 1) * sizeof *all.v);
    for (size_t p = 0; p < PARTS; p++) {
        append(&all, differ[p].v, differ[p].count);
        bsi_vast_free(differ[p].v);
    }
    *kh = all.v;
    *count = all.count;
    return r.status;
}
