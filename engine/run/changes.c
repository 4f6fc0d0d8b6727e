/* run/changes.c - see changes.h.
 *
 * A change is held as two places (where its record stands now, where it stood) until it is rendered: the records are
 * read again then.
 *
 *   items ──> batches of 512 ──> rendered, in any order ──> taken, in order ──> chunks that are full ──> written
 *             claimed in order   by any worker              by one at a time    wait for a worker        by any worker
 *
 * A worker does what is possible next: take a batch, write a chunk, or render another batch. So all are busy to the end,
 * whatever rendering costs against writing. Batches are used again; how many there are bounds the memory, and so does
 * HELD_BYTES where lines are long.
 */
#include "run/changes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/vast.h"
#include "flow/join.h"

/* ---- a set of refs ---- */

void bsi_ref_add(bsi_ref_set *x, bsi_ref ref) {
    if (x->count * 2 >= x->mask) {
        bsi_ref_set big = {.mask = x->mask ? x->mask * 2 + 1 : 255};
        big.slot = bsi_vast_alloc(sizeof *big.slot * (big.mask + 1));
        memset(big.slot, 0xff, sizeof *big.slot * (big.mask + 1));
        for (uint64_t i = 0; x->slot && i <= x->mask; i++)
            if (x->slot[i] != BSI_REF_NONE) bsi_ref_add(&big, x->slot[i]);
        bsi_vast_free(x->slot);
        *x = big;
    }
    uint64_t h = (ref * 0x9E3779B97F4A7C15ull >> 17) & x->mask;
    while (x->slot[h] != BSI_REF_NONE && x->slot[h] != ref) h = (h + 1) & x->mask;
    if (x->slot[h] == BSI_REF_NONE) x->count++;
    x->slot[h] = ref;
}

bool bsi_ref_has(const bsi_ref_set *x, bsi_ref ref) {
    if (!x->slot) return false;
    uint64_t h = (ref * 0x9E3779B97F4A7C15ull >> 17) & x->mask;
    while (x->slot[h] != BSI_REF_NONE && x->slot[h] != ref) h = (h + 1) & x->mask;
    return x->slot[h] == ref;
}

int bsi_by_ref(const void *a, const void *b) {
    const bsi_ref_at *x = a, *y = b;
    return x->ref < y->ref ? -1 : x->ref > y->ref;
}

/* ---- unpacked state blocks ---- */

enum { CACHE_LOCKS = 16, BSI_BLOCK_SPARSE = UINT32_MAX }; /* as cap: a copy never grows */

typedef struct cached {
    uint64_t block; /* + 1; 0: free */
    bsi_block_data *data;
} cached;

struct bsi_block_cache {
    struct cache_part {
        pthread_mutex_t lock;
        cached *slot;
        size_t mask, count;
    } part[CACHE_LOCKS];
    uint64_t most;
    atomic_ullong bytes;
};

bsi_block_cache *bsi_block_cache_open(uint64_t bytes) {
    bsi_block_cache *c = bsi_calloc(1, sizeof *c);
    c->most = bytes;
    for (size_t i = 0; i < CACHE_LOCKS; i++) pthread_mutex_init(&c->part[i].lock, NULL);
    return c;
}

static size_t cache_slot(const struct cache_part *p, uint64_t block) {
    size_t h = (size_t)((block + 1) * 0x9E3779B97F4A7C15ull >> 20) & p->mask;
    while (p->slot[h].block && p->slot[h].block != block + 1) h = (h + 1) & p->mask;
    return h;
}

const bsi_block_data *bsi_block_cache_get(bsi_block_cache *c, uint64_t block) {
    struct cache_part *p = &c->part[block % CACHE_LOCKS];
    pthread_mutex_lock(&p->lock);
    const bsi_block_data *d = p->slot ? p->slot[cache_slot(p, block)].data : NULL;
    pthread_mutex_unlock(&p->lock);
    return d;
}

static void cache_grow(struct cache_part *p) {
    struct cache_part big = {.mask = p->mask ? p->mask * 2 + 1 : 63};
    big.slot = bsi_calloc(big.mask + 1, sizeof *big.slot);
    for (size_t i = 0; p->slot && i <= p->mask; i++)
        if (p->slot[i].block) big.slot[cache_slot(&big, p->slot[i].block - 1)] = p->slot[i];
    free(p->slot);
    p->slot = big.slot;
    p->mask = big.mask;
}

/* Only what is wanted of the block: what else was packed with it is left behind. */
static bsi_block_data *copy_block(const bsi_block_data *d, const uint32_t *row, size_t rows, size_t *bytes) {
    size_t n = row ? 0 : d->image[d->count] - d->image[0];
    for (size_t i = 0; row && i < rows; i++) n += d->image[row[i] + 1] - d->image[row[i]];
    *bytes = sizeof *d + (2u * d->count + 1) * sizeof(uint32_t) + n;
    bsi_block_data *k = bsi_alloc(*bytes);
    *k = (bsi_block_data){.count = d->count, .slot_count = d->slot_count, .cap = row ? BSI_BLOCK_SPARSE : 0};
    k->image = (uint32_t *)(void *)(k + 1);
    k->body = k->image + d->count + 1;
    k->raw = (bsi_buf){.data = (uint8_t *)(k->body + d->count)};
    memcpy(k->body, d->body, d->count * sizeof *k->body);
    for (uint32_t i = 0, at = 0; i < d->count; i++) {
        k->image[i] = (uint32_t)k->raw.len;
        if (row && (at == rows || row[at] != i)) continue;
        at++;
        uint32_t length = d->image[i + 1] - d->image[i];
        memcpy(k->raw.data + k->raw.len, d->raw.data + d->image[i], length);
        k->raw.len += length;
    }
    k->image[d->count] = (uint32_t)k->raw.len;
    return k;
}

void bsi_block_cache_put(bsi_block_cache *c, uint64_t block, const bsi_block_data *d, const uint32_t *row, size_t rows) {
    if (atomic_load_explicit(&c->bytes, memory_order_relaxed) >= c->most) return;
    size_t bytes;
    bsi_block_data *copy = copy_block(d, row, rows, &bytes);
    struct cache_part *p = &c->part[block % CACHE_LOCKS];
    pthread_mutex_lock(&p->lock);
    if (p->count * 2 >= p->mask) cache_grow(p);
    cached *slot = &p->slot[cache_slot(p, block)];
    bool known = slot->block != 0;
    if (!known) *slot = (cached){block + 1, copy};
    p->count += !known;
    pthread_mutex_unlock(&p->lock);
    if (known) free(copy);
    else atomic_fetch_add_explicit(&c->bytes, bytes, memory_order_relaxed);
}

void bsi_block_cache_close(bsi_block_cache *c) {
    if (!c) return;
    for (size_t i = 0; i < CACHE_LOCKS; i++) {
        struct cache_part *p = &c->part[i];
        for (size_t k = 0; p->slot && k <= p->mask; k++) free(p->slot[k].data);
        free(p->slot);
        pthread_mutex_destroy(&p->lock);
    }
    free(c);
}

static bool is_sparse(const bsi_block_data *d) { return d->cap == (uint32_t)BSI_BLOCK_SPARSE; }

bomsync_status bsi_block_load(const bsi_block_data **out, bsi_block_data *own, bsi_block_cache *cache, bsi_store *store, const bsi_ref *refs,
                              uint64_t block, bomsync_error *err) {
    *out = cache ? bsi_block_cache_get(cache, block) : NULL;
    if (*out && !is_sparse(*out)) return BOMSYNC_OK;
    bomsync_status st = bsi_store_data(own, store, refs[block], err);
    if (st) return st;
    *out = own;
    return BOMSYNC_OK;
}

/* ---- reading records again ---- */

void bsi_row_reader_open(bsi_row_reader *r, const bsi_row_source *source) {
    *r = (bsi_row_reader){.source = source, .block = UINT64_MAX};
}

static bomsync_status parse_again(bsi_row_reader *r, uint64_t block, bomsync_error *err) {
    const bsi_row_source *s = r->source;
    size_t n;
    bomsync_status st = bsi_scan_bytes_on(&r->raw, &n, s->scan, block, &r->window, err);
    const bsi_secret *secret = r->no_hashes ? NULL : s->secret;
    if (!st) bsi_parse_block(&r->rows, s->scan->file[s->scan->block[block].file].layout, secret, r->raw, n, false);
    r->at = &r->rows;
    return st;
}

static bomsync_status load_old(bsi_row_reader *r, uint64_t block, bomsync_error *err) {
    const bsi_row_source *s = r->source;
    bomsync_status st = bsi_block_load(&r->old, &r->data, s->cache, s->store, s->refs, block, err);
    if (!st && s->cache && r->old == &r->data) bsi_block_cache_put(s->cache, block, r->old, NULL, 0);
    return st;
}

static const bsi_amended *amended_at(const bsi_row_source *s, size_t i) { return s->scan ? &s->by_open[i] : s->by_ordinal[i]; }
static uint64_t block_at(const bsi_row_source *s, size_t i) { return s->scan ? s->by_open[i].open : s->by_ordinal[i]->ordinal; }

/* Blocks are mostly asked for in order. */
static const bsi_amended *kept_rows(bsi_row_reader *r, uint64_t block) {
    const bsi_row_source *s = r->source;
    size_t lo = 0, hi = s->amended_count, at = r->amended;
    if (at < hi && block_at(s, at) < block) at++;
    if (at >= hi || block_at(s, at) != block) {
        while (lo < hi) {
            size_t mid = lo + (hi - lo) / 2;
            if (block_at(s, mid) < block) lo = mid + 1;
            else hi = mid;
        }
        at = lo;
    }
    if (at >= s->amended_count || block_at(s, at) != block) return NULL;
    r->amended = at;
    return amended_at(s, at)->kept ? amended_at(s, at) : NULL;
}

/* Which pair has the row; UINT32_MAX: none. */
static uint32_t pair_of(const bsi_amended *a, uint32_t row, bool now) {
    uint64_t here = a->changed | a->created;
    if (row >= BSI_AMEND_ROWS_MAX) return UINT32_MAX;
    if (!now && a->gone >> row & 1) return (uint32_t)__builtin_popcountll(here) + bsi_bits_below(a->gone, row);
    if (!now) row = bsi_amended_now(a, row);
    if (row >= BSI_AMEND_ROWS_MAX || !((now ? here : a->changed) >> row & 1)) return UINT32_MAX;
    return bsi_bits_below(here, row);
}

/* *ok: its fields could be read. False: this row was not kept. */
static bool kept_fields(bool *ok, bsi_field *out, const bsi_amended *a, uint32_t row, bool now, uint32_t slots) {
    uint32_t at = pair_of(a, row, now);
    if (at == UINT32_MAX) return false;
    const bsi_kept_pair *p = a->kept;
    const uint8_t *image = (const uint8_t *)(p + __builtin_popcountll(a->changed | a->created) + __builtin_popcountll(a->gone));
    for (uint32_t i = 0; i < at; i++) image += p[i].now_bytes + p[i].old_bytes;
    *ok = now ? bsi_image_fields(out, slots, image, p[at].now_body, p[at].now_bytes, slots)
              : bsi_image_fields(out, slots, image + p[at].now_bytes, p[at].old_body, p[at].old_bytes, slots);
    return true;
}

static bomsync_status load_block(bsi_row_reader *r, uint64_t block, bomsync_error *err) {
    const bsi_row_source *s = r->source;
    r->block = UINT64_MAX;
    bomsync_status st;
    if ((r->kept = s->amended_count ? kept_rows(r, block) : NULL)) {
        r->block = block;
        return BOMSYNC_OK;
    }
    if (s->scan && s->scan->parsed && s->scan->parsed[block]) {
        r->at = s->scan->parsed[block];
        st = BOMSYNC_OK;
    } else if (s->scan) {
        st = parse_again(r, block, err);
    } else {
        r->old = s->cache ? bsi_block_cache_get(s->cache, block) : NULL;
        st = r->old ? BOMSYNC_OK : load_old(r, block, err);
    }
    if (!st) r->block = block;
    return st;
}

static bomsync_status fetch_new(bool *ok, bsi_field *out, bsi_row_reader *r, uint64_t place, bomsync_error *err) {
    const bsi_row_source *s = r->source;
    uint64_t block = place >> 16;
    const bsi_rows *w = r->at;
    uint32_t row = r->row = w ? bsi_rows_index(w, place & 0xffff) : UINT32_MAX;
    if (row == UINT32_MAX && (!w || w->only)) { /* not kept, as it seemed to be unchanged */
        bomsync_status st = parse_again(r, block, err);
        if (st) {
            r->block = UINT64_MAX;
            return st;
        }
        w = r->at;
        row = r->row = bsi_rows_index(w, place & 0xffff);
    }
    if (row == UINT32_MAX) return bsi_fail(err, BOMSYNC_E_REFUSED, "the file changed while it was read");
    uint32_t made = s->scan->file[s->scan->block[block].file].layout->slot_count;
    *ok = bsi_image_fields(out, s->slot_count, w->enc.data + w->image[row], w->body[row], w->image[row + 1] - w->image[row], made);
    r->wide = w->image[row + 1] + 32u <= w->enc.cap;
    return BOMSYNC_OK;
}

static bomsync_status fetch_old(bool *ok, bsi_field *out, bsi_row_reader *r, uint64_t block, uint32_t row, bomsync_error *err) {
    const bsi_block_data *d = r->old;
    if (!d || (is_sparse(d) && row < d->count && d->image[row] == d->image[row + 1])) {
        bomsync_status st = load_old(r, block, err);
        if (st) {
            r->block = UINT64_MAX;
            return st;
        }
        d = r->old;
    }
    *ok = row < d->count && bsi_image_fields(out, r->source->slot_count, d->raw.data + d->image[row], d->body[row],
                                             d->image[row + 1] - d->image[row], d->slot_count);
    r->wide = *ok && d->image[row + 1] + 32u <= d->raw.len;
    return BOMSYNC_OK;
}

bomsync_status bsi_row_fetch(bsi_field *out, bsi_row_reader *r, uint64_t place, bomsync_error *err) {
    uint64_t block = place >> 16;
    bomsync_status st = r->block == block ? BOMSYNC_OK : load_block(r, block, err);
    if (st) return st;
    const bsi_row_source *s = r->source;
    bool ok = false, kept = r->kept && kept_fields(&ok, out, r->kept, place & 0xffff, s->scan != NULL, s->slot_count);
    if (kept) r->wide = true;
    if (r->kept && !kept) { /* one that did not change */
        r->kept = NULL;
        r->at = NULL;
        r->old = NULL;
    }
    if (!kept) st = s->scan ? fetch_new(&ok, out, r, place, err) : fetch_old(&ok, out, r, block, place & 0xffff, err);
    if (st) return st;
    return ok ? BOMSYNC_OK : bsi_fail(err, BOMSYNC_E_INTEGRITY, "a stored record is damaged");
}

void bsi_row_reader_close(bsi_row_reader *r) {
    bsi_rows_free(&r->rows);
    bsi_block_data_free(&r->data);
    bsi_buf_free(&r->window.buf);
}

/* ---- partitions ---- */

uint32_t bsi_part_of(bsi_parts *p, const void *text, size_t bytes) {
    if (p->count && p->len[p->last] == bytes && memcmp(p->name[p->last], text, bytes) == 0) return p->last;
    if (p->count * 2 >= p->mask) {
        uint32_t size = p->mask ? (p->mask + 1) * 2 : 64;
        free(p->slot);
        p->slot = bsi_calloc(size, sizeof *p->slot);
        p->mask = size - 1;
        for (uint32_t i = 0; i < p->count; i++) {
            uint32_t h = (uint32_t)bsi_xxh64(p->name[i], p->len[i]) & p->mask;
            while (p->slot[h]) h = (h + 1) & p->mask;
            p->slot[h] = i + 1;
        }
    }
    uint32_t h = (uint32_t)bsi_xxh64(text, bytes) & p->mask;
    for (; p->slot[h]; h = (h + 1) & p->mask) {
        uint32_t i = p->slot[h] - 1;
        if (p->len[i] == bytes && memcmp(p->name[i], text, bytes) == 0) return p->last = i;
    }
    if (p->count == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 16;
        p->name = bsi_realloc(p->name, p->cap * sizeof *p->name);
        p->len = bsi_realloc(p->len, p->cap * sizeof *p->len);
    }
    p->name[p->count] = bsi_strndup(text, bytes);
    p->len[p->count] = (uint32_t)bytes;
    p->slot[h] = ++p->count;
    return p->last = p->count - 1;
}

void bsi_parts_free(bsi_parts *p) {
    for (uint32_t i = 0; i < p->count; i++) free(p->name[i]);
    free(p->name);
    free(p->len);
    free(p->slot);
    *p = (bsi_parts){0};
}

/* ---- order ---- */

typedef struct rank_of_part {
    const bsi_parts *parts;
    uint32_t index;
} rank_of_part;

static int by_name(const void *a, const void *b) {
    const rank_of_part *x = a, *y = b;
    uint32_t m = x->parts->len[x->index], n = y->parts->len[y->index];
    int c = memcmp(x->parts->name[x->index], y->parts->name[y->index], BSI_MIN(m, n));
    return c ? c : (m > n) - (m < n);
}


static uint64_t place_of(const bsi_item *i) { return i->op == 'd' ? i->was : i->now; }

static int by_seq(const void *a, const void *b) {
    const bsi_item *x = a, *y = b;
    if (x->part != y->part) return x->part < y->part ? -1 : 1;
    uint64_t p = place_of(x), q = place_of(y);
    return p < q ? -1 : p > q;
}

void bsi_items_sort(bsi_item *items, size_t count, const bsi_parts *parts) {
    if (!count) return;
    /* partitions to their place among the sorted names, deletes behind all others, and back */
    rank_of_part *r = bsi_alloc(sizeof *r * (parts->count + 1));
    uint32_t *to = bsi_alloc(sizeof *to * (parts->count + 1));
    for (uint32_t i = 0; i < parts->count; i++) r[i] = (rank_of_part){parts, i};
    bsi_sort(r, parts->count, sizeof *r, by_name);
    for (uint32_t i = 0; i < parts->count; i++) to[r[i].index] = i;
    bool sorted = true;
    for (size_t i = 0; i < count; i++) {
        items[i].part = to[items[i].part] + (items[i].op == 'd' ? parts->count : 0);
        if (i && by_seq(&items[i - 1], &items[i]) > 0) sorted = false;
    }
    if (!sorted) bsi_sort(items, count, sizeof *items, by_seq);
    for (size_t i = 0; i < count; i++) {
        uint32_t at = items[i].part;
        items[i].part = r[at < parts->count ? at : at - parts->count].index;
    }
    free(r);
    free(to);
}

/* ---- rendering ---- */

static bomsync_status next_of_array(void *ctx, bsi_item *out, size_t room, size_t *count, bomsync_error *err) {
    (void)err;
    bsi_item_array *a = ctx;
    size_t n = BSI_MIN(room, a->count - a->at);
    if (n) memcpy(out, a->item + a->at, n * sizeof *out);
    a->at += n;
    *count = n;
    return BOMSYNC_OK;
}

bsi_item_source bsi_items_of(bsi_item_array *a) { return (bsi_item_source){next_of_array, a, a->count - a->at}; }

enum {
    BATCH = 512,                /* changes: 200 kB of usual lines, which stay in the cache of who renders them */
    BATCHES_OF_A_CHUNK = 22,    /* BSI_CHUNK_CHANGES_MAX / BATCH, cut anywhere: a chunk that grows holds these */
    BATCHES_A_WORKER = 20,      /* beside them: one worker codes a chunk, which holds as many, while another renders the next one */
    HELD_BYTES = 32 << 20       /* of rendered lines; above, only what others wait for is rendered */
};

typedef enum batch_state { FREE, CLAIMED, RENDERED } batch_state;

typedef struct batch {
    bsi_lines lines;            /* first: chunks give it back by this address */
    batch_state state;
    uint64_t number, seq;
    size_t count;
    bsi_item item[BATCH];
    bomsync_status status;
    bomsync_error err;
} batch;

typedef struct pipe_line {
    bsi_item_source source;
    const bsi_render *how;
    bsi_chunks *chunks;         /* or */
    bsi_line_fn fn;
    void *ctx;
    const bsi_parts *parts;
    pthread_t caller;
    /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    batch **batch;
    size_t batches, batches_max;
    uint64_t claimed, taken, seq; /* batches; items */
    uint64_t held;              /* bytes of lines that are rendered */
    int working;                /* workers that render or write */
    bool claiming, taking, source_ended, ended;
    bomsync_status status;
    bomsync_error err;
} pipe_line;

/* What one worker has of its own. */
typedef struct hand {
    bsi_renderer *renderer;
    bsi_row_reader now, was;
    bsi_field *after, *before;
} hand;

static void fail(pipe_line *p, bomsync_status st, const bomsync_error *err) {
    if (p->status) return;
    p->status = st;
    p->err = *err;
}

static bomsync_status render_item(hand *h, const bsi_render *how, const bsi_item *it, uint64_t seq, bomsync_error *err) {
    bsi_change c = {.op = it->op, .seq = seq, .rank = it->op == 'd' ? 90 : 0, .slots = how->slots,
                    .before = it->op == 'c' ? NULL : h->before, .after = it->op == 'd' ? NULL : h->after};
    bomsync_status st = BOMSYNC_OK;
    if (c.op != 'd') st = bsi_row_fetch(h->after, &h->now, it->now, err);
    if (c.op != 'c' && !st) st = bsi_row_fetch(h->before, &h->was, it->was, err);
    if (st) return st;
    c.after_wide = h->now.wide;
    c.before_wide = h->was.wide;
    if (c.op == 'u')
        for (uint32_t k = 0; k < how->slots->key_count; k++)
            if (!bsi_field_eq(&h->before[k], &h->after[k])) return bsi_fail(err, BOMSYNC_E_INTEGRITY, "two keys share a hash; nothing was changed");
    bsi_renderer_add(h->renderer, &c);
    return BOMSYNC_OK;
}

static void render_batch(hand *h, const bsi_render *how, batch *b) {
    b->status = BOMSYNC_OK;
    b->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    bsi_renderer_start(h->renderer, &b->lines);
    for (size_t i = 0; i < b->count && !b->status; i++) b->status = render_item(h, how, &b->item[i], b->seq + i, &b->err);
    bsi_renderer_end(h->renderer);
}

static void free_batch(pipe_line *p, batch *b) {
    enum { KEPT_BYTES = 4 << 20 }; /* what very long lines made larger is given back */
    pthread_mutex_lock(&p->lock);
    p->held -= b->lines.text.len;
    pthread_mutex_unlock(&p->lock);
    if (b->lines.text.cap > KEPT_BYTES) bsi_lines_release(&b->lines);
    pthread_mutex_lock(&p->lock);
    b->state = FREE;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void lines_done(void *ctx, bsi_lines *lines) { free_batch(ctx, (batch *)(void *)lines); }

/* To the chunks, a run of equal rank and partition at once. */
static bomsync_status take_to_chunks(pipe_line *p, batch *b, bomsync_error *err) {
    bsi_lines *l = &b->lines;
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t i = 0, end; i < l->count && !st; i = end) {
        const bsi_item *it = &b->item[i];
        uint8_t rank = it->op == 'd' ? 90 : 0;
        for (end = i + 1; end < l->count; end++)
            if (b->item[end].part != it->part || (b->item[end].op == 'd') != (it->op == 'd') || l->nameless[end] != l->nameless[i]) break;
        bsi_line_group g = {rank, l->nameless[i], p->parts->name[it->part], p->parts->len[it->part]};
        st = bsi_chunks_add(p->chunks, &g, l, i, end - i, b->seq + i, err);
    }
    bsi_chunks_release(p->chunks, l);
    return st;
}

static bomsync_status take_to_fn(pipe_line *p, batch *b, bomsync_error *err) {
    const bsi_lines *l = &b->lines;
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t i = 0; i < l->count && !st; i++) {
        uint64_t from = i ? l->end[i - 1] : 0;
        st = p->fn(p->ctx, &b->item[i], b->seq + i, (const char *)l->text.data + from, l->end[i] - from, err);
    }
    free_batch(p, b);
    return st;
}

/* The batch whose turn it is, if it is rendered and nobody is at it. Lines go to fn on the calling thread only. */
static batch *to_take(const pipe_line *p) {
    if (p->taking || (p->fn && !pthread_equal(pthread_self(), p->caller))) return NULL;
    for (size_t i = 0; i < p->batches; i++)
        if (p->batch[i]->state == RENDERED && p->batch[i]->number == p->taken) return p->batch[i];
    return NULL;
}

static void take(pipe_line *p, batch *b) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    p->taking = true;
    pthread_mutex_unlock(&p->lock);
    bomsync_status st = b->status;
    if (st) err = b->err;
    else st = p->chunks ? take_to_chunks(p, b, &err) : take_to_fn(p, b, &err);
    pthread_mutex_lock(&p->lock);
    p->taking = false;
    p->taken++;
    if (st) fail(p, st, &err);
}

/* A batch that may be claimed now. */
static batch *to_claim(pipe_line *p) {
    if (p->source_ended || p->claiming || (p->held > HELD_BYTES && p->working)) return NULL;
    for (size_t i = 0; i < p->batches; i++)
        if (p->batch[i]->state == FREE) return p->batch[i];
    if (p->batches == p->batches_max) return NULL;
    batch *b = bsi_calloc(1, sizeof *b);
    return p->batch[p->batches++] = b;
}

static void claim_and_render(pipe_line *p, hand *h, batch *b) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    p->claiming = true;
    b->state = CLAIMED;
    b->lines.uses = 1;
    pthread_mutex_unlock(&p->lock);
    bomsync_status st = p->source.next(p->source.ctx, b->item, BATCH, &b->count, &err);
    pthread_mutex_lock(&p->lock);
    p->claiming = false;
    if (st || !b->count) {
        p->source_ended = true;
        b->state = FREE;
        if (st) fail(p, st, &err);
        return;
    }
    b->number = p->claimed++;
    b->seq = p->seq + 1;
    p->seq += b->count;
    p->working++;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    render_batch(h, p->how, b);
    pthread_mutex_lock(&p->lock);
    p->working--;
    p->held += b->lines.text.len;
    b->state = RENDERED;
}

static void write_chunk(pipe_line *p) {
    p->working++;
    pthread_mutex_unlock(&p->lock);
    bsi_chunks_pack(p->chunks);
    pthread_mutex_lock(&p->lock);
    p->working--;
}

static void work(void *ctx, size_t index) {
    (void)index;
    pipe_line *p = ctx;
    const bsi_render *how = p->how;
    hand h = {.renderer = bsi_renderer_open(how->slots, how->head, p->chunks && !how->by_libzstd)};
    h.after = bsi_alloc(sizeof *h.after * 2 * (how->slots->count + 1));
    h.before = h.after + how->slots->count + 1;
    bsi_row_reader_open(&h.now, how->now);
    bsi_row_reader_open(&h.was, how->was);
    h.now.no_hashes = h.was.no_hashes = true;
    pthread_mutex_lock(&p->lock);
    for (batch *b; !p->status && !p->ended;) {
        bool all_taken = p->source_ended && p->taken == p->claimed && !p->taking;
        if ((b = to_take(p)) != NULL) take(p, b);
        else if (p->chunks && bsi_chunks_waiting(p->chunks)) write_chunk(p);
        else if ((b = to_claim(p)) != NULL) claim_and_render(p, &h, b);
        else if (all_taken) {
            if (p->chunks) bsi_chunks_end(p->chunks);
            p->ended = !p->chunks || !bsi_chunks_waiting(p->chunks);
        } else {
            pthread_cond_wait(&p->wake, &p->lock);
            continue;
        }
        pthread_cond_broadcast(&p->wake);
    }
    pthread_mutex_unlock(&p->lock);
    bsi_row_reader_close(&h.now);
    bsi_row_reader_close(&h.was);
    free(h.after);
    bsi_renderer_close(h.renderer);
}

static bomsync_status run_pipe(pipe_line *p, bsi_item_source items, const bsi_render *how, bomsync_error *err) {
    uint64_t lanes = BSI_MIN((items.most + BATCH - 1) / BATCH, (uint64_t)BSI_MAX(how->workers, 1));
    if (items.most == UINT64_MAX) lanes = (uint64_t)BSI_MAX(how->workers, 1);
    p->source = items;
    p->how = how;
    p->caller = pthread_self();
    p->batches_max = BATCHES_OF_A_CHUNK + BATCHES_A_WORKER * lanes;
    p->batch = bsi_calloc(p->batches_max, sizeof *p->batch);
    p->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    bsi_parallel((int)lanes, lanes, work, p);
    if (p->status && !err->status) *err = p->err;
    return p->status;
}

/* After the chunks are closed: they give batches back until then. */
static void close_pipe(pipe_line *p) {
    for (size_t i = 0; i < p->batches; i++) {
        bsi_lines_release(&p->batch[i]->lines);
        free(p->batch[i]);
    }
    free(p->batch);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
}

bomsync_status bsi_items_render(const bsi_item *items, size_t count, const bsi_slots *slots, const bsi_row_source *now,
                                const bsi_row_source *was, const bsi_change_head *head, int workers, bsi_line_fn fn, void *ctx,
                                bomsync_error *err) {
    pipe_line p = {.fn = fn, .ctx = ctx};
    bsi_item_array array = {.item = items, .count = count};
    bsi_render how = {.slots = slots, .now = now, .was = was, .head = head, .workers = workers};
    bomsync_status st = run_pipe(&p, bsi_items_of(&array), &how, err);
    close_pipe(&p);
    return st;
}

bomsync_status bsi_items_send(bsi_item_source items, const bsi_render *how, const bsi_parts *parts, const char *dir,
                              bsi_chunk_info **infos, size_t *count, bomsync_error *err) {
    pipe_line p = {.parts = parts};
    *infos = NULL;
    *count = 0;
    bomsync_status st = bsi_chunks_open(&p.chunks, dir, lines_done, &p, err);
    if (st) return st;
    st = run_pipe(&p, items, how, err);
    bomsync_status closed = bsi_chunks_close(p.chunks, infos, count, err);
    close_pipe(&p);
    if (!st) st = closed;
    if (st && *infos) {
        bsi_chunk_infos_free(*infos, *count);
        *infos = NULL;
        *count = 0;
    }
    return st;
}

/* ---- two states ---- */

static bsi_ref_at *sorted_refs(const bsi_ref *v, size_t n) {
    bsi_ref_at *r = bsi_alloc(sizeof *r * (n + 1));
    for (size_t i = 0; i < n; i++) r[i] = (bsi_ref_at){v[i], i};
    bsi_sort(r, n, sizeof *r, bsi_by_ref);
    return r;
}

static bomsync_status add_rows(bsi_row_store *to, bsi_store *s, bsi_ref ref, uint64_t block, uint64_t **places, size_t *count,
                               size_t *cap, bomsync_error *err) {
    bsi_block_rows r;
    bomsync_status st = bsi_store_rows(&r, s, ref, err);
    for (uint32_t i = 0; i < r.count && !st; i++) {
        uint64_t at = block << 16 | i;
        if (places) {
            if (*count == *cap) *places = bsi_realloc(*places, (*cap = *cap ? *cap * 2 : 1024) * sizeof **places);
            (*places)[*count] = at;
            at = (*count)++;
        }
        bsi_row row = {r.kh[i], r.rh[i], at};
        st = bsi_row_store_add(to, 0, &row, err);
    }
    return st;
}

bomsync_status bsi_state_diff(bsi_item **items, size_t *count, bsi_store *s, const bsi_slots *slots, const bsi_ref *a, size_t a_count,
                              const bsi_ref *b, size_t b_count, bsi_parts *parts, int workers, bomsync_error *err) {
    bsi_ref_at *x = sorted_refs(a, a_count), *y = sorted_refs(b, b_count);
    const char *tmp = bsi_store_dir(s);
    bsi_row_store *n = bsi_row_store_open(1, UINT64_MAX, tmp), *o = bsi_row_store_open(1, UINT64_MAX, tmp);
    uint64_t *place = NULL;
    size_t places = 0, cap = 0;
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0, j = 0; (i < a_count || j < b_count) && !st;) {
        if (j == b_count || (i < a_count && x[i].ref < y[j].ref)) {
            st = add_rows(o, s, x[i].ref, x[i].at, NULL, NULL, NULL, err);
            i++;
        } else if (i == a_count || y[j].ref < x[i].ref) {
            st = add_rows(n, s, y[j].ref, y[j].at, &place, &places, &cap, err);
            j++;
        } else {
            i++, j++;
        }
    }
    free(x);
    free(y);
    bsi_join_out out = {.fate = bsi_calloc(places + 1, sizeof(uint64_t))};
    if (!st) st = bsi_join(&out, n, o, workers, err);
    bsi_row_store_close(n);
    bsi_row_store_close(o);
    *items = bsi_alloc(sizeof **items * (places + out.gone_count + 1));
    *count = 0;
    bsi_row_source sa = {.store = s, .refs = a, .slot_count = slots->count}, sb = {.store = s, .refs = b, .slot_count = slots->count};
    bsi_row_reader ra, rb;
    bsi_row_reader_open(&ra, &sa);
    bsi_row_reader_open(&rb, &sb);
    bsi_field *f = bsi_alloc(sizeof *f * slots->count);
    for (size_t i = 0; i < places + out.gone_count && !st; i++) {
        bsi_item it = {0};
        if (i < places) {
            uint64_t fate = out.fate[i];
            if ((fate & BSI_FATE_MATCHED) && !(fate & BSI_FATE_CHANGED)) continue;
            it = (bsi_item){.op = fate & BSI_FATE_MATCHED ? 'u' : 'c', .now = place[i], .was = BSI_FATE_PLACE(fate)};
            st = bsi_row_fetch(f, &rb, it.now, err);
        } else {
            it = (bsi_item){.op = 'd', .was = out.gone[i - places]};
            st = bsi_row_fetch(f, &ra, it.was, err);
        }
        if (st) break;
        bsi_field p = bsi_change_partition(slots, f);
        it.part = bsi_part_of(parts, p.p, p.len);
        (*items)[(*count)++] = it;
    }
    free(f);
    bsi_row_reader_close(&ra);
    bsi_row_reader_close(&rb);
    free(place);
    free(out.fate);
    bsi_vast_free(out.gone);
    return st;
}
