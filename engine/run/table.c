/* run/table.c - see table.h.
 *
 *   sample    keys from everywhere ──sorted──> every n-th one begins a part
 *   add       row ──> key that memcmp orders, text ──> its part's chunk of this lane ──(full)──> memory, or the file
 *   write     part 0: its chunks, read ──> rows sorted ──> text ──(its turn)──> out
 *             part 1: the same by another worker, while part 0 is written
 *
 *   row       key bytes u32 · text bytes u32 · key · text
 *   key       each field with 00 as 00 FF, then 00 00: so that "a" stands before "a\0" and both before "aa", field by field
 *
 * A part is a few MB, so that all but the file's own pages stays small however many rows there are. A snapshot is mostly in the order of its key, or
 * nearly: then a part's rows come together, and sorting them is little.
 *
 * Tried and dropped: all rows in memory with one array of pointers over them (1.8 GB and 10 s for ten million); sorted runs that are merged (the merge is one
 * thread's, and compares each row with others of the whole table).
 */
#include "run/table.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/csv_out.h"
#include "run/query.h"

enum {
    PART_BYTES = 6 << 20, /* that a part aims at */
    PARTS_MOST = 1024,
    CHUNK_LEAST = 4 << 10,
    CHUNK_MOST = 256 << 10,
    ROW_HEAD = 8
};

/* Rows of one part, one behind the other. */
typedef struct chunk {
    uint8_t *p;       /* NULL: in the file */
    uint64_t offset;
    size_t bytes;
} chunk;

typedef struct part {
    chunk *chunk;
    size_t count, cap;
    uint64_t bytes;
} part;

typedef struct lane {
    bsi_buf *open;    /* [parts] chunk that is being filled; cap 0: none */
    uint32_t last;    /* part of the row before */
    bsi_buf row;
} lane;

struct bsi_table {
    bsi_table_options o;
    bsi_buf sample;       /* rows, one behind the other */
    uint64_t *sample_at;
    size_t samples, sample_cap;
    atomic_bool ready;    /* what follows is there: from the first row on */
    size_t parts, chunk_bytes;
    const uint8_t **begin; /* [parts] the least key of each; of the first: nothing */
    part *part;
    lane *lane;
    pthread_mutex_t lock; /* guards the file and lists of chunks */
    int fd;
    uint64_t end;         /* of the file */
    atomic_ullong held;
};

bsi_table *bsi_table_open(const bsi_table_options *o) {
    bsi_table *t = bsi_calloc(1, sizeof *t);
    t->o = *o;
    t->o.workers = BSI_MAX(o->workers, 1);
    t->fd = -1;
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

/* ---- rows ---- */

static uint32_t u32_at(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Fields have a few bytes, mostly. */
static inline uint8_t *copy(uint8_t *to, const uint8_t *from, size_t n) {
    if (n > 16) {
        memcpy(to, from, n);
    } else if (n >= 8) {
        memcpy(to, from, 8);
        memcpy(to + n - 8, from + n - 8, 8);
    } else if (n >= 4) {
        memcpy(to, from, 4);
        memcpy(to + n - 4, from + n - 4, 4);
    } else {
        for (size_t i = 0; i < n; i++) to[i] = from[i];
    }
    return to + n;
}

static uint8_t *put_key(uint8_t *to, const bsi_field *f, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *p = f[i].p, *end = p + f[i].len;
        for (const uint8_t *nul; p < end && (nul = memchr(p, 0, (size_t)(end - p))); p = nul + 1) {
            to = copy(to, p, (size_t)(nul + 1 - p));
            *to++ = 0xff;
        }
        to = copy(to, p, (size_t)(end - p));
        *to++ = 0;
        *to++ = 0;
    }
    return to;
}

/* At the end of b. */
static void make_row(const bsi_table *t, bsi_buf *b, const bsi_field *f) {
    const bsi_slots *s = t->o.slots;
    size_t most = ROW_HEAD + 1;
    for (uint32_t i = 0; i < s->count; i++) most += (i < t->o.key_count ? 4 : 2) * (size_t)f[i].len + 5;
    if (b->cap - b->len < most) bsi_buf_reserve(b, most);
    uint8_t *start = b->data + b->len, *key = start + ROW_HEAD, *text = put_key(key, f, t->o.key_count), *to = text;
    for (uint32_t k = 0; k < s->count; k++) {
        const bsi_field *v = &f[s->order[k]];
        if (k) *to++ = ',';
        to = bsi_csv_needs_quotes(v->p, v->len) ? bsi_csv_quoted(to, v->p, v->len) : copy(to, v->p, v->len);
    }
    *to++ = '\n';
    uint32_t head[2] = {(uint32_t)(text - key), (uint32_t)(to - text)};
    memcpy(start, head, sizeof head);
    b->len += (size_t)(to - start);
}

static int compare_keys(const uint8_t *a, const uint8_t *b) {
    uint32_t m = u32_at(a), n = u32_at(b);
    int c = memcmp(a + ROW_HEAD, b + ROW_HEAD, BSI_MIN(m, n));
    return c ? c : (m > n) - (m < n);
}

/* ---- the parts ---- */

void bsi_table_sample(bsi_table *t, const bsi_field *f) {
    if (t->samples == t->sample_cap) t->sample_at = bsi_realloc(t->sample_at, (t->sample_cap = t->sample_cap ? t->sample_cap * 2 : 64) * sizeof *t->sample_at);
    t->sample_at[t->samples++] = t->sample.len;
    make_row(t, &t->sample, f);
}

static int by_key(const void *a, const void *b) { return compare_keys(*(const uint8_t *const *)a, *(const uint8_t *const *)b); }

static void choose_parts(bsi_table *t) {
    uint64_t bytes = t->samples ? t->sample.len / t->samples * t->o.rows : 0;
    t->parts = (size_t)BSI_MIN(BSI_MIN(bytes / PART_BYTES + 1, (uint64_t)t->samples / 4 + 1), (uint64_t)PARTS_MOST);
    const uint8_t **key = bsi_alloc((t->samples + 1) * sizeof *key);
    for (size_t i = 0; i < t->samples; i++) key[i] = t->sample.data + t->sample_at[i];
    bsi_sort(key, t->samples, sizeof *key, by_key);
    t->begin = bsi_calloc(t->parts, sizeof *t->begin);
    for (size_t p = 1; p < t->parts; p++) t->begin[p] = key[p * t->samples / t->parts];
    free(key);
    t->part = bsi_calloc(t->parts, sizeof *t->part);
    t->lane = bsi_calloc((size_t)t->o.workers, sizeof *t->lane);
    for (int i = 0; i < t->o.workers; i++) t->lane[i].open = bsi_calloc(t->parts, sizeof *t->lane[i].open);
    uint64_t chunks = t->parts * (uint64_t)t->o.workers, room = t->o.memory_bytes / 8 / BSI_MAX(chunks, (uint64_t)1);
    t->chunk_bytes = (size_t)BSI_MIN(BSI_MAX(room, (uint64_t)CHUNK_LEAST), (uint64_t)CHUNK_MOST);
}

/* Rows of one part mostly come together. */
static uint32_t part_of(const bsi_table *t, lane *l) {
    const uint8_t *row = l->row.data;
    size_t p = l->last;
    if ((p == 0 || compare_keys(t->begin[p], row) <= 0) && (p + 1 == t->parts || compare_keys(t->begin[p + 1], row) > 0)) return l->last;
    size_t lo = 0, hi = t->parts;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare_keys(t->begin[mid], row) <= 0) lo = mid;
        else hi = mid;
    }
    return l->last = (uint32_t)lo;
}

/* Locked. */
static void list_chunk(part *p, chunk c) {
    if (p->count == p->cap) p->chunk = bsi_realloc(p->chunk, (p->cap = p->cap ? p->cap * 2 : 8) * sizeof *p->chunk);
    p->chunk[p->count++] = c;
    p->bytes += c.bytes;
}

static bomsync_status put_in_file(bsi_table *t, uint64_t *at, const uint8_t *p, size_t n, bomsync_error *err) {
    pthread_mutex_lock(&t->lock);
    if (t->fd < 0) t->fd = bsi_temp_open(t->o.tmp);
    int fd = t->fd, errnum = errno;
    *at = t->end;
    t->end += n;
    pthread_mutex_unlock(&t->lock);
    if (fd < 0) {
        bsi_fail_errno(err, errnum, t->o.tmp, "could not make a temporary file in \"%s\"", t->o.tmp);
        bsi_hint(err, "name another folder with TMPDIR");
        return err->status;
    }
    return bsi_temp_write(fd, p, n, *at, t->o.tmp, err);
}

/* A chunk stays in memory as it is, or goes to the file and is filled again. */
static bomsync_status let_go(bsi_table *t, part *p, bsi_buf *b, bomsync_error *err) {
    chunk c = {.p = b->data, .bytes = b->len};
    if (!b->len) return BOMSYNC_OK;
    bool stays = atomic_fetch_add(&t->held, b->cap) + b->cap <= t->o.memory_bytes / 8 * 3;
    if (!stays) {
        atomic_fetch_sub(&t->held, b->cap);
        c.p = NULL;
        bomsync_status st = put_in_file(t, &c.offset, b->data, b->len, err);
        if (st) return st;
    }
    pthread_mutex_lock(&t->lock);
    list_chunk(p, c);
    pthread_mutex_unlock(&t->lock);
    if (stays) *b = (bsi_buf){0};
    b->len = 0;
    return BOMSYNC_OK;
}

static void get_ready(bsi_table *t) {
    if (atomic_load_explicit(&t->ready, memory_order_acquire)) return;
    pthread_mutex_lock(&t->lock);
    if (!t->parts) choose_parts(t);
    atomic_store_explicit(&t->ready, true, memory_order_release);
    pthread_mutex_unlock(&t->lock);
}

bomsync_status bsi_table_add(bsi_table *t, int lane_number, const bsi_field *f, bomsync_error *err) {
    get_ready(t);
    lane *l = &t->lane[lane_number];
    l->row.len = 0;
    make_row(t, &l->row, f);
    uint32_t p = part_of(t, l);
    bsi_buf *b = &l->open[p];
    if (b->cap - b->len < l->row.len) {
        bomsync_status st = let_go(t, &t->part[p], b, err);
        if (st) return st;
        if (b->cap < l->row.len) bsi_buf_reserve(b, BSI_MAX(t->chunk_bytes, l->row.len));
    }
    memcpy(b->data + b->len, l->row.data, l->row.len);
    b->len += l->row.len;
    return BOMSYNC_OK;
}

/* ---- writing ---- */

typedef struct row_at {
    uint64_t prefix;  /* of its key, behind what all keys of the part begin with */
    const uint8_t *p;
} row_at;

static int by_row(const void *a, const void *b) {
    const row_at *x = a, *y = b;
    if (x->prefix != y->prefix) return x->prefix < y->prefix ? -1 : 1;
    int c = compare_keys(x->p, y->p);
    if (c) return c;
    uint32_t m = u32_at(x->p + 4), n = u32_at(y->p + 4);
    c = memcmp(x->p + ROW_HEAD + u32_at(x->p), y->p + ROW_HEAD + u32_at(y->p), BSI_MIN(m, n));
    return c ? c : (m > n) - (m < n);
}

typedef struct writing {
    bsi_table *t;
    bomsync_sink out;
    pthread_cond_t wake;
    size_t turn;      /* part that is written next. It and what follows is guarded by the table's lock */
    bomsync_status status;
    bomsync_error *err;
} writing;

static bomsync_status read_chunks(const bsi_table *t, const part *p, uint8_t *to, bomsync_error *err) {
    for (size_t i = 0; i < p->count; i++) {
        const chunk *c = &p->chunk[i];
        bomsync_status st = c->p ? BOMSYNC_OK : bsi_temp_read(t->fd, to, c->bytes, c->offset, err);
        if (st) return st;
        if (c->p) memcpy(to, c->p, c->bytes);
        to += c->bytes;
    }
    return BOMSYNC_OK;
}

/* How many bytes all keys begin with. */
static uint32_t common_bytes(const row_at *row, size_t count) {
    uint32_t common = count ? u32_at(row[0].p) : 0;
    for (size_t i = 1; i < count; i++) {
        uint32_t n = BSI_MIN(common, u32_at(row[i].p)), same = 0;
        while (same < n && row[i].p[ROW_HEAD + same] == row[0].p[ROW_HEAD + same]) same++;
        common = same;
    }
    return common;
}

static row_at *sorted_rows(size_t *count, const uint8_t *p, uint64_t bytes) {
    size_t n = 0;
    for (uint64_t at = 0; at < bytes; at += ROW_HEAD + u32_at(p + at) + u32_at(p + at + 4)) n++;
    row_at *row = bsi_vast_alloc((n + 1) * sizeof *row);
    *count = 0;
    for (uint64_t at = 0; at < bytes; at += ROW_HEAD + u32_at(p + at) + u32_at(p + at + 4)) row[(*count)++].p = p + at;
    uint32_t common = common_bytes(row, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t key = u32_at(row[i].p);
        row[i].prefix = 0;
        for (uint32_t k = 0; k < 8; k++) row[i].prefix = row[i].prefix << 8 | (common + k < key ? row[i].p[ROW_HEAD + common + k] : 0u);
    }
    bsi_sort(row, n, sizeof *row, by_row);
    return row;
}

static bomsync_status put(const writing *w, const uint8_t *p, uint64_t n, bomsync_error *err) {
    enum { AT_ONCE = 1 << 20 };
    for (uint64_t done = 0; done < n;) {
        size_t some = (size_t)BSI_MIN(n - done, (uint64_t)AT_ONCE);
        bomsync_status st = bsi_put(w->out, p + done, some, err);
        if (st) return st;
        done += some;
    }
    return BOMSYNC_OK;
}

/* The text of a part's rows; gives where it ends. */
static uint8_t *gather(uint8_t *to, const row_at *row, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t key = u32_at(row[i].p), text = u32_at(row[i].p + 4);
        memcpy(to, row[i].p + ROW_HEAD + key, text);
        to += text;
    }
    return to;
}

static void drop_chunks(part *p) {
    for (size_t i = 0; i < p->count; i++) free(p->chunk[i].p);
    free(p->chunk);
    *p = (part){0};
}

static void write_part(void *ctx, size_t index) {
    writing *w = ctx;
    bsi_table *t = w->t;
    part *p = &t->part[index];
    uint64_t bytes = p->bytes;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint8_t *rows = bsi_vast_alloc(bytes + 1), *text = bsi_vast_alloc(bytes + 1), *end = text;
    bomsync_status st = read_chunks(t, p, rows, &err);
    drop_chunks(p);
    if (!st) {
        size_t count;
        row_at *row = sorted_rows(&count, rows, bytes);
        end = gather(text, row, count);
        bsi_vast_free(row);
    }
    bsi_vast_free(rows);
    pthread_mutex_lock(&t->lock);
    while (w->turn != index) pthread_cond_wait(&w->wake, &t->lock);
    if (!st && !w->status) {
        pthread_mutex_unlock(&t->lock); /* it is this one's turn still */
        st = put(w, text, (uint64_t)(end - text), &err);
        pthread_mutex_lock(&t->lock);
    }
    if (st && !w->status) {
        w->status = st;
        *w->err = err;
    }
    w->turn++;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&t->lock);
    bsi_vast_free(text);
}

static bomsync_status put_header(const writing *w, bomsync_error *err) {
    const bsi_slots *s = w->t->o.slots;
    bsi_buf b = {0};
    for (uint32_t k = 0; k < s->count; k++) {
        if (k) bsi_buf_byte(&b, ',');
        bsi_csv_field(&b, s->name[s->order[k]], strlen(s->name[s->order[k]]));
    }
    bsi_buf_byte(&b, '\n');
    bomsync_status st = put(w, b.data, b.len, err);
    bsi_buf_free(&b);
    return st;
}

bomsync_status bsi_table_write(bsi_table *t, bomsync_sink out, bomsync_error *err) {
    writing w = {.t = t, .out = out, .err = err};
    bomsync_status st = put_header(&w, err);
    for (int i = 0; i < t->o.workers && t->parts && !st; i++)
        for (size_t p = 0; p < t->parts && !st; p++) {
            bsi_buf *b = &t->lane[i].open[p];
            if (b->len && b->len < b->cap / 2) { /* many are hardly begun: what they hold needs less room elsewhere */
                bsi_buf exact = {0};
                bsi_buf_add(&exact, b->data, b->len);
                bsi_buf_free(b);
                *b = exact;
            }
            st = let_go(t, &t->part[p], b, err);
            bsi_buf_free(b);
        }
    if (st || !t->parts) return st;
    pthread_cond_init(&w.wake, NULL);
    bsi_parallel(t->o.workers, t->parts, write_part, &w);
    pthread_cond_destroy(&w.wake);
    return w.status;
}

void bsi_table_close(bsi_table *t) {
    if (!t) return;
    for (int i = 0; i < t->o.workers && t->lane; i++) {
        for (size_t p = 0; p < t->parts; p++) bsi_buf_free(&t->lane[i].open[p]);
        free(t->lane[i].open);
        bsi_buf_free(&t->lane[i].row);
    }
    for (size_t p = 0; p < t->parts; p++) drop_chunks(&t->part[p]);
    if (t->fd >= 0) close(t->fd);
    pthread_mutex_destroy(&t->lock);
    bsi_buf_free(&t->sample);
    free(t->sample_at);
    free(t->begin);
    free(t->part);
    free(t->lane);
    free(t);
}
