/* run/diff_rows.c - the rows of open blocks: parsed by several workers, in file order. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/diff_inner.h"

void bsi_diff_leave_out(bsi_diff_side *s, uint64_t kh) {
    if (s->left_count == s->left_cap) s->left_out = bsi_realloc(s->left_out, (s->left_cap = s->left_cap ? s->left_cap * 2 : 64) * sizeof *s->left_out);
    s->left_out[s->left_count++] = kh;
}

static void add_left(bsi_diff_side *s, bsi_diff_left l) {
    if (s->left_row_count == s->left_row_cap) s->left = bsi_realloc(s->left, (s->left_row_cap = s->left_row_cap ? s->left_row_cap * 2 : 16) * sizeof *s->left);
    s->left[s->left_row_count++] = l;
}

/* ---- all blocks that are not settled ---- */

typedef struct walk {
    bsi_diff_run *d;
    bsi_diff_side *s;
    size_t every;
    bsi_diff_block_fn *fn;
    void *ctx;
    struct walk_lane {
        bsi_rows rows;
        bsi_buf buf;
    } *lane;
    pthread_mutex_t lock; /* guards the first fault */
    size_t fault_task;
    bomsync_status status;
    bomsync_error *err;
} walk;

static bool wants(const walk *r, size_t i) { return r->s->scan.block[i].tag != BSI_DIFF_SETTLED; }

/* Wanted blocks that stand near each other in the file are read at once: *count, with others between them. */
static bomsync_status load(walk *r, size_t i, size_t end, size_t *count, bsi_buf *buf, bomsync_error *err) {
    bsi_scan *scan = &r->s->scan;
    bsi_scan_block *b = &scan->block[i];
    bsi_source *src = scan->file[b->file].source;
    size_t bytes = b->bytes;
    *count = 1;
    if (bsi_scan_alone(scan, i)) return bsi_scan_bytes(scan, i, buf, err);
    for (size_t k = i + 1; k < end; k++) {
        if (!wants(r, k)) continue;
        if (!bsi_scan_joins(scan, i, k, bytes, BSI_READ_BYTES)) break;
        bytes = (size_t)(scan->block[k].offset - b->offset) + scan->block[k].bytes;
        *count = k + 1 - i;
    }
    buf->len = 0;
    bsi_buf_reserve(buf, bytes + 64);
    ssize_t got = bsi_source_pread(src, buf->data, bytes, b->offset, err);
    if (got < 0) return err->status;
    if ((size_t)got != bytes) return bsi_fail(err, BOMSYNC_E_REFUSED, "\"%s\" changed while it was read", bsi_source_path(src));
    buf->len = bytes;
    return BOMSYNC_OK;
}

static bomsync_status walk_blocks(walk *r, size_t task, struct walk_lane *l, bomsync_error *err) {
    bsi_scan *scan = &r->s->scan;
    bomsync_status st = BOMSYNC_OK;
    size_t end = BSI_MIN((task + 1) * BSI_DIFF_TASK_BLOCKS, scan->block_count);
    for (size_t i = task * BSI_DIFF_TASK_BLOCKS, count = 1; i < end && !st; i += count, count = 1) {
        if (!wants(r, i)) continue;
        st = load(r, i, end, &count, &l->buf, err);
        for (size_t k = i; k < i + count && !st; k++) {
            const bsi_scan_block *b = &scan->block[k];
            if (!wants(r, k)) continue;
            bsi_parse_block(&l->rows, scan->file[b->file].layout, &r->d->secret, l->buf.data + (b->offset - scan->block[i].offset),
                            BSI_MIN((size_t)b->bytes, l->buf.len), false);
            st = r->fn(r->ctx, task, k, &l->rows, err);
        }
    }
    return st;
}

/* The fault that stands first in the file is told, whoever found one first. */
static void walk_task(void *ctx, size_t index) {
    walk *r = ctx;
    size_t task = index * r->every;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = walk_blocks(r, task, &r->lane[bsi_lane()], &err);
    if (!st) return;
    pthread_mutex_lock(&r->lock);
    if (!r->status || task < r->fault_task) {
        r->status = st;
        r->fault_task = task;
        *r->err = err;
    }
    pthread_mutex_unlock(&r->lock);
}

bomsync_status bsi_diff_each(bsi_diff_run *d, bsi_diff_side *s, bsi_diff_block_fn *fn, void *ctx, bomsync_error *err) {
    return bsi_diff_some(d, s, 1, fn, ctx, err);
}

bomsync_status bsi_diff_some(bsi_diff_run *d, bsi_diff_side *s, size_t every, bsi_diff_block_fn *fn, void *ctx, bomsync_error *err) {
    walk r = {.d = d, .s = s, .every = every, .fn = fn, .ctx = ctx, .err = err};
    r.lane = bsi_calloc((size_t)d->workers, sizeof *r.lane);
    pthread_mutex_init(&r.lock, NULL);
    bsi_parallel(d->workers, (bsi_diff_tasks(s) + every - 1) / every, walk_task, &r);
    pthread_mutex_destroy(&r.lock);
    for (int i = 0; i < d->workers; i++) {
        bsi_rows_free(&r.lane[i].rows);
        bsi_buf_free(&r.lane[i].buf);
    }
    free(r.lane);
    return r.status;
}

/* ---- their rows ---- */

typedef struct parse_task {
    bsi_diff_rows rows;
    uint64_t bad, ragged;
    int64_t same;
    bsi_diff_left *left;
    size_t left_count;
} parse_task;

typedef struct parse_run {
    bsi_diff_run *d;
    bsi_diff_side *s;
    parse_task *task;
    atomic_ullong kept_bytes;
} parse_run;

/* Most pieces hold a change, and will be rendered: few of them are not read and parsed once more for that. */
static void keep(parse_run *r, size_t block, const bsi_rows *w) {
    size_t bytes = 0;
    if (atomic_load_explicit(&r->kept_bytes, memory_order_relaxed) >= r->d->memory_bytes / 16) return;
    r->s->scan.parsed[block] = bsi_scan_keep(w, 0, &bytes);
    atomic_fetch_add_explicit(&r->kept_bytes, bytes, memory_order_relaxed);
}

static void row_add(bsi_diff_rows *l, bsi_diff_row r) {
    if (l->n == l->cap) l->v = bsi_realloc(l->v, (l->cap = l->cap ? l->cap * 2 : 128) * sizeof *l->v);
    l->v[l->n++] = r;
}

static void note_bad(parse_task *t, const bsi_rows *w, const bsi_bad_row *bad, uint64_t place) {
    bool ragged = bad->rule == BSI_RULE_COLUMNS;
    t->bad++;
    t->ragged += ragged;
    if (!bad->key_read) return;
    t->left = bsi_realloc(t->left, (t->left_count + 1) * sizeof *t->left);
    t->left[t->left_count++] = (bsi_diff_left){w->kh[bad->row], place, ragged};
}

static bomsync_status take_rows(void *ctx, size_t task, size_t block, const bsi_rows *w, bomsync_error *err) {
    parse_run *r = ctx;
    parse_task *t = &r->task[task];
    const bsi_diff_keys *keys = r->d->reconciled ? &r->d->keys : NULL;
    size_t before = t->rows.n;
    (void)err;
    for (uint32_t row = 0, bad = 0; row < w->count; row++) {
        uint64_t place = (uint64_t)block << 16 | row;
        if (w->bad[row]) note_bad(t, w, &w->bads[bad++], place);
        else if (keys && !bsi_diff_keys_has(keys, w->kh[row])) t->same++;
        else row_add(&t->rows, (bsi_diff_row){w->kh[row], w->rh[row], place});
    }
    if (t->rows.n > before) keep(r, block, w);
    return BOMSYNC_OK;
}

/* Of a record with too few or too many columns what stands at the key's places is its key only if OLD has such a key. */
static bool in_old(const bsi_diff_run *d, uint64_t **sorted, uint64_t kh) {
    const bsi_diff_rows *old = &d->old.rows;
    if (!*sorted) {
        *sorted = bsi_alloc((old->n + 1) * sizeof **sorted);
        for (size_t i = 0; i < old->n; i++) (*sorted)[i] = old->v[i].kh;
        bsi_sort(*sorted, old->n, sizeof **sorted, bsi_by_u64);
    }
    return bsi_u64_has(*sorted, old->n, kh);
}

static void join_task(bsi_diff_run *d, bsi_diff_side *s, parse_task *t, uint64_t **sorted) {
    bsi_diff_rows *rows = &s->rows;
    if (t->rows.n) memcpy(rows->v + rows->n, t->rows.v, t->rows.n * sizeof *t->rows.v);
    rows->n += t->rows.n;
    s->bad += t->bad;
    s->ragged += t->ragged;
    s->same_rows += t->same;
    for (size_t k = 0; k < t->left_count; k++) {
        add_left(s, t->left[k]);
        if (!t->left[k].ragged || s == &d->old || in_old(d, sorted, t->left[k].kh)) bsi_diff_leave_out(s, t->left[k].kh);
    }
    free(t->rows.v);
    free(t->left);
}

bomsync_status bsi_diff_parse(bsi_diff_run *d, bsi_diff_side *s, bomsync_error *err) {
    size_t tasks = bsi_diff_tasks(s), total = 0;
    bsi_diff_rows *rows = &s->rows;
    rows->n = s->bad = s->ragged = s->left_count = s->left_row_count = 0;
    s->same_rows = 0;
    parse_run r = {.d = d, .s = s};
    bsi_scan_forget(&s->scan);
    s->scan.parsed = bsi_vast_calloc(s->scan.block_count + 1, sizeof *s->scan.parsed);
    r.task = bsi_calloc(tasks + 1, sizeof *r.task);
    bomsync_status st = bsi_diff_each(d, s, take_rows, &r, err);
    for (size_t i = 0; i < tasks; i++) total += r.task[i].rows.n;
    rows->v = bsi_vast_realloc(rows->v, (total + 1) * sizeof *rows->v);
    rows->cap = total;
    uint64_t *sorted = NULL;
    for (size_t i = 0; i < tasks; i++) join_task(d, s, &r.task[i], &sorted);
    free(sorted);
    free(r.task);
    return st;
}

uint64_t *bsi_diff_open_keys(const bsi_diff_run *d, size_t *count, bool new_only) {
    const bsi_diff_side *a = &d->old, *b = &d->now;
    uint64_t *kh = bsi_alloc((a->rows.n + b->rows.n + a->left_row_count + b->left_row_count + 1) * sizeof *kh);
    *count = 0;
    for (size_t i = 0; i < b->rows.n; i++) kh[(*count)++] = b->rows.v[i].kh;
    for (size_t i = 0; i < a->rows.n && !new_only; i++) kh[(*count)++] = a->rows.v[i].kh;
    for (size_t i = 0; i < a->left_row_count && !new_only; i++) kh[(*count)++] = a->left[i].kh;
    for (size_t i = 0; i < b->left_row_count && !new_only; i++) kh[(*count)++] = b->left[i].kh;
    bsi_sort(kh, *count, sizeof *kh, bsi_by_u64);
    return kh;
}

/* ---- keys to compare ---- */

void bsi_diff_keys_make(bsi_diff_keys *k, uint64_t *kh, size_t count) {
    bsi_diff_keys_free(k);
    *k = (bsi_diff_keys){.kh = kh, .count = bsi_vast_unique(kh, count)};
    if (!k->count) return;
    k->filter = bsi_key_filter_for(k->count);
    for (size_t i = 0; i < k->count; i++) bsi_key_filter_add(&k->filter, kh[i]);
}

void bsi_diff_keys_free(bsi_diff_keys *k) {
    bsi_vast_free(k->kh);
    free(k->filter.word);
    *k = (bsi_diff_keys){0};
}
