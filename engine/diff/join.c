/* diff/join.c - see flow/join.h.
 *
 * Each adding thread (lane) has one open chunk of rows per partition; full chunks go to the partition's list, or to the spill
 * file once the rows in memory pass the cap. A partition of 10 M rows / 256 is 1 MB: its table stays in the L2 cache.
 *
 * Tried and dropped: sorting both sides (log n passes over memory), one big table (a cache miss for each row).
 */
#include "flow/join.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { PARTS = 256, CHUNK_ROWS = 256 };

typedef struct chunk {
    struct chunk *next;
    uint32_t count;
    bsi_row row[CHUNK_ROWS];
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
    pthread_mutex_init(&s->lock, NULL);
    s->fd = -1;
    return s;
}

static bomsync_status spill_chunk(bsi_row_store *s, part *p, chunk *c, bomsync_error *err) {
    pthread_mutex_lock(&s->lock);
    if (s->fd < 0) s->fd = open(s->tmp, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int fd = s->fd, errnum = errno;
    pthread_mutex_unlock(&s->lock);
    if (fd < 0) return bsi_fail_errno(err, errnum, s->tmp, "could not make a temporary file in \"%s\"", s->tmp);
    size_t bytes = c->count * sizeof c->row[0];
    uint64_t at = atomic_fetch_add(&s->spill_bytes, bytes);
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(fd, (char *)c->row + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return bsi_fail_errno(err, errno, s->tmp, "could not write a temporary file in \"%s\"", s->tmp);
        done += (size_t)n;
    }
    if (p->out_count == p->out_cap) {
        p->out_cap = p->out_cap ? p->out_cap * 2 : 16;
        p->out = bsi_realloc(p->out, p->out_cap * sizeof *p->out);
    }
    p->out[p->out_count++] = (spilled){at, c->count};
    c->count = 0;
    return BOMSYNC_OK;
}

bomsync_status bsi_row_store_add(bsi_row_store *s, int lane, const bsi_row *row, bomsync_error *err) {
    part *p = &s->part[(size_t)lane * PARTS + (row->kh >> 56)];
    if (!p->open || p->open->count == CHUNK_ROWS) {
        if (p->open && atomic_load(&s->held) + sizeof(chunk) > s->memory_bytes) {
            bomsync_status st = spill_chunk(s, p, p->open, err);
            if (st) return st;
        } else {
            chunk *c = bsi_alloc(sizeof *c);
            c->count = 0;
            c->next = p->full;
            if (p->open) {
                p->open->next = p->full;
                p->full = p->open;
            }
            p->open = c;
            atomic_fetch_add(&s->held, sizeof *c);
        }
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
    if (s->fd >= 0) close(s->fd);
    pthread_mutex_destroy(&s->lock);
    free(s->part);
    free(s->tmp);
    free(s);
}

/* All rows of one partition, of all lanes, into one array. */
static bomsync_status gather(bsi_row **rows, size_t *count, bsi_row_store *s, size_t p, bomsync_error *err) {
    size_t total = 0, at = 0;
    for (int l = 0; l < s->lanes; l++) total += s->part[(size_t)l * PARTS + p].rows;
    *rows = bsi_alloc((total + 1) * sizeof **rows);
    for (int l = 0; l < s->lanes; l++) {
        part *q = &s->part[(size_t)l * PARTS + p];
        for (chunk *c = q->full; c; c = c->next) {
            memcpy(*rows + at, c->row, c->count * sizeof c->row[0]);
            at += c->count;
        }
        if (q->open) {
            memcpy(*rows + at, q->open->row, q->open->count * sizeof(bsi_row));
            at += q->open->count;
        }
        for (size_t i = 0; i < q->out_count; i++) {
            size_t bytes = q->out[i].count * sizeof(bsi_row);
            for (size_t done = 0; done < bytes;) {
                ssize_t n = pread(s->fd, (char *)(*rows + at) + done, bytes - done, (off_t)(q->out[i].offset + done));
                if (n < 0 && errno == EINTR) continue;
                if (n <= 0) return bsi_fail_errno(err, n ? errno : EIO, NULL, "could not read a temporary file");
                done += (size_t)n;
            }
            at += q->out[i].count;
        }
    }
    *count = at;
    return BOMSYNC_OK;
}

typedef struct u64_list {
    uint64_t *v;
    size_t count, cap;
} u64_list;

static void append(u64_list *l, const uint64_t *v, size_t n) {
    if (!n) return;
    if (l->cap < l->count + n) l->v = bsi_realloc(l->v, (l->cap = (l->count + n) * 2) * sizeof *l->v);
    memcpy(l->v + l->count, v, n * sizeof *v);
    l->count += n;
}

typedef struct join_run {
    bsi_join_out *out;
    bsi_row_store *n, *o;
    pthread_mutex_t lock;
    u64_list gone, fresh;
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

static void join_part(void *ctx, size_t p) {
    join_run *r = ctx;
    bsi_row *n = NULL, *o = NULL;
    size_t n_count = 0, o_count = 0;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = gather(&n, &n_count, r->n, p, &err);
    if (!st) st = gather(&o, &o_count, r->o, p, &err);
    uint32_t *head = NULL, *next = NULL;
    uint64_t *gone = NULL;
    uint64_t *fresh = NULL;
    size_t gone_count = 0, fresh_count = 0;
    if (!st && n_count + o_count) {
        size_t mask = 15;
        while (mask < n_count * 2) mask = mask * 2 + 1;
        head = bsi_calloc(mask + 1, sizeof *head);
        next = bsi_calloc(n_count + 1, sizeof *next);
        gone = bsi_alloc((o_count + 1) * sizeof *gone);
        for (size_t i = 0; i < n_count; i++) {
            size_t h = (n[i].kh * 0x9E3779B97F4A7C15ull >> 20) & mask;
            while (head[h] && n[head[h] - 1].kh != n[i].kh) h = (h + 1) & mask;
            next[i] = head[h];
            head[h] = (uint32_t)i + 1;
        }
        for (size_t i = 0; i < o_count; i++) {
            size_t h = (o[i].kh * 0x9E3779B97F4A7C15ull >> 20) & mask;
            while (head[h] && n[head[h] - 1].kh != o[i].kh) h = (h + 1) & mask;
            if (!head[h]) {
                gone[gone_count++] = o[i].at;
                continue;
            }
            uint32_t first = head[h];
            if (!next[first - 1]) { /* the common case: one row, one partner */
                uint64_t *f = &r->out->fate[n[first - 1].at];
                *f = (*f & (BSI_FATE_BAD | BSI_FATE_RAGGED)) | BSI_FATE_MATCHED | o[i].at | (n[first - 1].rh != o[i].rh ? BSI_FATE_CHANGED : 0);
            } else {
                settle_group(r, n, next, first, o[i].at, o[i].rh);
            }
        }
        for (size_t h = 0; h <= mask; h++) { /* groups that no old row touched */
            if (!head[h] || !next[head[h] - 1]) continue;
            uint64_t f = r->out->fate[n[head[h] - 1].at];
            if (!(f & BSI_FATE_MATCHED)) settle_group(r, n, next, head[h], UINT64_MAX, 0);
        }
        if (r->out->want_fresh) {
            fresh = bsi_alloc((n_count + 1) * sizeof *fresh);
            for (size_t i = 0; i < n_count; i++)
                if (!(r->out->fate[n[i].at] & BSI_FATE_MATCHED)) fresh[fresh_count++] = n[i].kh;
        }
    }
    pthread_mutex_lock(&r->lock);
    if (st && !r->status) {
        r->status = st;
        if (r->err) *r->err = err;
    }
    append(&r->gone, gone, gone_count);
    append(&r->fresh, fresh, fresh_count);
    pthread_mutex_unlock(&r->lock);
    free(n);
    free(o);
    free(head);
    free(next);
    free(gone);
    free(fresh);
}

static int by_place(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

bomsync_status bsi_join(bsi_join_out *out, bsi_row_store *n, bsi_row_store *o, int workers, bomsync_error *err) {
    join_run r = {.out = out, .n = n, .o = o, .err = err};
    pthread_mutex_init(&r.lock, NULL);
    bsi_parallel(workers, PARTS, join_part, &r);
    pthread_mutex_destroy(&r.lock);
    bsi_sort(r.gone.v, r.gone.count, sizeof *r.gone.v, by_place);
    out->gone = r.gone.v;
    out->gone_count = r.gone.count;
    out->fresh = r.fresh.v;
    out->fresh_count = r.fresh.count;
    out->conflicts = atomic_load(&r.conflicts);
    out->duplicates = atomic_load(&r.duplicates);
    return r.status;
}
