/* diff/twins.c - see flow/twins.h.
 *
 * `diff` skips blocks that both files hold, but a key that stands twice must be found wherever its copies are: so each
 * skipped record gives its key hash. Ten million of them take 80 MB; a partition of 40,000 fits a table in the L2 cache.
 *
 * Tried and dropped: one array and a counting sort (two passes over it by one thread took longer than the reading).
 */
#include "flow/twins.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { PARTS = 256, CHUNK = 510 };

typedef struct chunk {
    struct chunk *next;
    uint64_t count;
    uint64_t kh[CHUNK];
} chunk;

typedef struct part {
    chunk *open;        /* and what hangs on it */
    uint64_t *spilled;  /* offsets of whole chunks in the file */
    size_t spilled_count, spilled_cap;
    uint64_t count;
} part;

struct bsi_twins {
    int lanes;
    uint64_t memory_bytes;
    char *tmp;
    part *part; /* [lanes][PARTS] */
    atomic_ullong held, spill_bytes;
    pthread_mutex_t lock;
    int fd;
};

bsi_twins *bsi_twins_open(int lanes, uint64_t memory_bytes, const char *tmp) {
    bsi_twins *t = bsi_calloc(1, sizeof *t);
    t->lanes = BSI_MAX(lanes, 1);
    t->memory_bytes = memory_bytes;
    t->tmp = bsi_strdup(tmp);
    t->part = bsi_calloc((size_t)t->lanes * PARTS, sizeof *t->part);
    t->fd = -1;
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

static bomsync_status spill(bsi_twins *t, part *p, bomsync_error *err) {
    pthread_mutex_lock(&t->lock);
    if (t->fd < 0) t->fd = bsi_temp_open(t->tmp);
    int fd = t->fd, errnum = errno;
    pthread_mutex_unlock(&t->lock);
    if (fd < 0) return bsi_fail_errno(err, errnum, t->tmp, "could not make a temporary file in \"%s\"", t->tmp);
    size_t bytes = sizeof p->open->kh;
    uint64_t at = atomic_fetch_add(&t->spill_bytes, bytes);
    bomsync_status st = bsi_temp_write(fd, p->open->kh, bytes, at, t->tmp, err);
    if (st) return st;
    if (p->spilled_count == p->spilled_cap) {
        p->spilled_cap = p->spilled_cap ? p->spilled_cap * 2 : 16;
        p->spilled = bsi_realloc(p->spilled, p->spilled_cap * sizeof *p->spilled);
    }
    p->spilled[p->spilled_count++] = at;
    p->open->count = 0;
    return BOMSYNC_OK;
}

static bomsync_status make_room(bsi_twins *t, part *p, bomsync_error *err) {
    if (p->open && atomic_load_explicit(&t->held, memory_order_relaxed) + sizeof(chunk) > t->memory_bytes) return spill(t, p, err);
    chunk *c = bsi_alloc(sizeof *c);
    c->count = 0;
    c->next = p->open;
    p->open = c;
    atomic_fetch_add_explicit(&t->held, sizeof *c, memory_order_relaxed);
    return BOMSYNC_OK;
}

bomsync_status bsi_twins_add(bsi_twins *t, int lane, const uint64_t *kh, size_t count, bomsync_error *err) {
    part *mine = &t->part[(size_t)lane * PARTS];
    for (size_t i = 0; i < count; i++) {
        part *p = &mine[kh[i] >> 56];
        chunk *c = p->open;
        if (!c || c->count == CHUNK) {
            bomsync_status st = make_room(t, p, err);
            if (st) return st;
            c = p->open;
        }
        c->kh[c->count++] = kh[i];
        p->count++;
    }
    return BOMSYNC_OK;
}

void bsi_twins_close(bsi_twins *t) {
    if (!t) return;
    for (size_t i = 0; i < (size_t)t->lanes * PARTS; i++) {
        for (chunk *c = t->part[i].open, *next; c; c = next) {
            next = c->next;
            free(c);
        }
        free(t->part[i].spilled);
    }
    if (t->fd >= 0) close(t->fd);
    pthread_mutex_destroy(&t->lock);
    free(t->part);
    free(t->tmp);
    free(t);
}

/* A worker's memory, for one partition after the other: fresh pages cost as much as filling them. */
typedef struct room {
    bsi_buf table, seen, keys, again;
} room;

typedef struct find_run {
    bsi_twins *t;
    const uint64_t *probe;
    size_t probes;
    pthread_mutex_t lock;
    uint64_t *dup;
    size_t count, cap;
    struct room *room; /* [workers] */
    bomsync_status status;
    bomsync_error *err;
} find_run;

/* Distinct hashes of one partition; 0 stands for "empty" and is kept as 1. */
typedef struct table {
    uint64_t *slot, mask;
} table;

static inline bool insert(table *x, uint64_t kh) {
    kh += !kh;
    size_t h = (size_t)(kh >> 8) & x->mask;
    while (x->slot[h] && x->slot[h] != kh) h = (h + 1) & x->mask;
    if (x->slot[h]) return false;
    x->slot[h] = kh;
    return true;
}

static inline bool holds(const table *x, uint64_t kh) {
    kh += !kh;
    size_t h = (size_t)(kh >> 8) & x->mask;
    while (x->slot[h] && x->slot[h] != kh) h = (h + 1) & x->mask;
    return x->slot[h] != 0;
}

static void found(find_run *r, uint64_t kh) {
    pthread_mutex_lock(&r->lock);
    if (r->count == r->cap) r->dup = bsi_realloc(r->dup, (r->cap = r->cap ? r->cap * 2 : 64) * sizeof *r->dup);
    r->dup[r->count++] = kh;
    pthread_mutex_unlock(&r->lock);
}

static void insert_all(find_run *r, table *x, const uint64_t *kh, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (!insert(x, kh[i])) found(r, kh[i]);
}

static bomsync_status read_chunk(uint64_t kh[CHUNK], const find_run *r, const part *p, size_t i, bomsync_error *err) {
    return bsi_temp_read(r->t->fd, kh, CHUNK * sizeof *kh, p->spilled[i], err);
}

static bomsync_status insert_spilled(find_run *r, table *x, const part *p, bomsync_error *err) {
    uint64_t kh[CHUNK];
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < p->spilled_count && !st; i++) {
        st = read_chunk(kh, r, p, i, err);
        if (!st) insert_all(r, x, kh, CHUNK);
    }
    return st;
}

static void *cleared(bsi_buf *b, size_t bytes) {
    b->len = 0;
    bsi_buf_reserve(b, bytes);
    return memset(b->data, 0, bytes);
}

static table table_for(room *m, uint64_t n) {
    table x = {.mask = 15};
    while (x.mask < n * 3 / 2) x.mask = x.mask * 2 + 1;
    x.slot = cleared(&m->table, (x.mask + 1) * sizeof *x.slot);
    return x;
}

static const part *part_at(const find_run *r, int lane, size_t index) { return &r->t->part[(size_t)lane * PARTS + index]; }

/* Nobody asks for hashes, only for those that stand twice: then most need no place in a table. Each sets a bit; where it was set before,
 * the bit beside it, too. In the second round those whose bit was set twice are few, and they go into a table. No branch is as
 * good as random, as each look into a table was. */
typedef struct seen {
    uint64_t once, again;
} seen;
enum { SEEN_LEAST = 12, SEEN_MOST = 23, SEEN_EACH = 16 }; /* bits: so many for each hash */

static inline uint64_t place_of(uint64_t kh, unsigned bits) { return kh << 8 >> (64 - bits); } /* the top 8 bits are the partition's */

static void see(seen *s, unsigned bits, const uint64_t *kh, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = place_of(kh[i], bits), bit = 1ull << (at & 63);
        seen *w = &s[at >> 6];
        w->again |= w->once & bit;
        w->once |= bit;
    }
}

static void take_again(bsi_buf *out, const seen *s, unsigned bits, const uint64_t *kh, uint64_t n) {
    bsi_buf_reserve(out, n * sizeof *kh);
    uint64_t *to = (void *)(out->data + out->len), *start = to;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = place_of(kh[i], bits);
        *to = kh[i];
        to += s[at >> 6].again >> (at & 63) & 1;
    }
    out->len += (size_t)(to - start) * sizeof *kh;
}

static bomsync_status find_alone(find_run *r, size_t index, uint64_t n, bomsync_error *err) {
    room *m = &r->room[bsi_lane()];
    unsigned bits = SEEN_LEAST;
    while (bits < SEEN_MOST && 1ull << bits < n * SEEN_EACH) bits++;
    seen *s = cleared(&m->seen, (sizeof *s << bits) / 64);
    bomsync_status st = BOMSYNC_OK;
    m->keys.len = m->again.len = 0;
    for (int l = 0; l < r->t->lanes; l++) {
        const part *p = part_at(r, l, index);
        for (size_t i = 0; i < p->spilled_count && !st; i++, m->keys.len += CHUNK * sizeof(uint64_t)) {
            bsi_buf_reserve(&m->keys, CHUNK * sizeof(uint64_t));
            st = read_chunk((void *)(m->keys.data + m->keys.len), r, p, i, err);
        }
        for (const chunk *c = p->open; c; c = c->next) see(s, bits, c->kh, c->count);
    }
    if (st) return st;
    const uint64_t *keys = (const void *)m->keys.data;
    uint64_t spilled = m->keys.len / sizeof *keys;
    see(s, bits, keys, spilled);
    for (int l = 0; l < r->t->lanes; l++)
        for (const chunk *c = part_at(r, l, index)->open; c; c = c->next) take_again(&m->again, s, bits, c->kh, c->count);
    take_again(&m->again, s, bits, keys, spilled);
    uint64_t some = m->again.len / sizeof *keys;
    table x = table_for(m, some);
    insert_all(r, &x, (const void *)m->again.data, some);
    return BOMSYNC_OK;
}

static bomsync_status find_probes(find_run *r, size_t index, uint64_t n, bomsync_error *err) {
    table x = table_for(&r->room[bsi_lane()], n);
    bomsync_status st = BOMSYNC_OK;
    for (int l = 0; l < r->t->lanes && !st; l++) {
        const part *p = part_at(r, l, index);
        for (const chunk *c = p->open; c; c = c->next) insert_all(r, &x, c->kh, c->count);
        st = insert_spilled(r, &x, p, err);
    }
    size_t from = bsi_u64_first(r->probe, r->probes, (uint64_t)index << 56);
    size_t to = index + 1 < PARTS ? bsi_u64_first(r->probe, r->probes, (uint64_t)(index + 1) << 56) : r->probes;
    for (size_t i = from; i < to; i++)
        if (holds(&x, r->probe[i])) found(r, r->probe[i]);
    return st;
}

static void find_part(void *ctx, size_t index) {
    find_run *r = ctx;
    uint64_t n = 0;
    for (int l = 0; l < r->t->lanes; l++) n += part_at(r, l, index)->count;
    if (!n) return;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = r->probes ? find_probes(r, index, n, &err) : find_alone(r, index, n, &err);
    if (!st) return;
    pthread_mutex_lock(&r->lock);
    if (!r->status) {
        r->status = st;
        if (r->err) *r->err = err;
    }
    pthread_mutex_unlock(&r->lock);
}

bomsync_status bsi_twins_find(uint64_t **dup, size_t *count, bsi_twins *t, const uint64_t *probe, size_t probes, int workers,
                              bomsync_error *err) {
    find_run r = {.t = t, .probe = probe, .probes = probes, .err = err};
    pthread_mutex_init(&r.lock, NULL);
    r.room = bsi_calloc((size_t)BSI_MAX(workers, 1), sizeof *r.room);
    if (t->fd >= 0) posix_fadvise(t->fd, 0, 0, POSIX_FADV_WILLNEED); /* what was written out is read in its order, not in that of partitions */
    bsi_parallel(workers, PARTS, find_part, &r);
    for (int i = 0; i < BSI_MAX(workers, 1); i++) {
        bsi_buf_free(&r.room[i].table);
        bsi_buf_free(&r.room[i].seen);
        bsi_buf_free(&r.room[i].keys);
        bsi_buf_free(&r.room[i].again);
    }
    free(r.room);
    pthread_mutex_destroy(&r.lock);
    bsi_sort(r.dup, r.count, sizeof *r.dup, bsi_by_u64);
    size_t n = 0;
    for (size_t i = 0; i < r.count; i++)
        if (!n || r.dup[n - 1] != r.dup[i]) r.dup[n++] = r.dup[i];
    *dup = r.dup;
    *count = n;
    return r.status;
}
