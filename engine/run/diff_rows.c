/* run/diff_rows.c - the rows of open blocks: parsed by several workers, in file order. */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/diff_inner.h"

enum { TASK_BLOCKS = 512 };

void bsi_diff_leave_out(bsi_diff_side *s, uint64_t kh) {
    if (s->left_count == s->left_cap) s->left_out = bsi_realloc(s->left_out, (s->left_cap = s->left_cap ? s->left_cap * 2 : 64) * sizeof *s->left_out);
    s->left_out[s->left_count++] = kh;
}


static void add_left(bsi_diff_side *s, bsi_diff_left l) {
    if (s->left_row_count == s->left_row_cap) s->left = bsi_realloc(s->left, (s->left_row_cap = s->left_row_cap ? s->left_row_cap * 2 : 16) * sizeof *s->left);
    s->left[s->left_row_count++] = l;
}

typedef struct parse_task {
    bsi_diff_rows rows;
    uint64_t bad, ragged;
    bsi_diff_left *left;
    size_t left_count;
    bomsync_status status;
    bomsync_error err;
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
    if (l->n == l->cap) l->v = bsi_realloc(l->v, (l->cap = l->cap ? l->cap * 2 : 1024) * sizeof *l->v);
    l->v[l->n++] = r;
}

static bool wants(const parse_run *r, size_t i) { return !r->s->settled || !r->s->settled[i]; }

/* Wanted blocks that stand one behind the other in the file are read at once. */
static bomsync_status load(parse_run *r, size_t i, size_t end, size_t *count, bsi_buf *buf, bomsync_error *err) {
    bsi_scan *scan = &r->s->scan;
    bsi_scan_block *b = &scan->block[i];
    bsi_source *src = scan->file[b->file].source;
    *count = 1;
    if (bsi_scan_alone(scan, i)) return bsi_scan_bytes(scan, i, buf, err);
    uint64_t bytes = b->bytes;
    for (; i + *count < end && wants(r, i + *count); (*count)++) {
        const bsi_scan_block *n = &scan->block[i + *count];
        if (n->offset != b->offset + bytes || bytes + n->bytes > BSI_READ_BYTES || bsi_scan_alone(scan, i + *count)) break;
        bytes += n->bytes;
    }
    buf->len = 0;
    bsi_buf_reserve(buf, bytes + 64);
    ssize_t got = bsi_source_pread(src, buf->data, bytes, b->offset, err);
    if (got < 0) return err->status;
    if ((uint64_t)got != bytes) return bsi_fail(err, BOMSYNC_E_REFUSED, "\"%s\" changed while it was read", bsi_source_path(src));
    buf->len = bytes;
    return BOMSYNC_OK;
}

static void parse_blocks(void *ctx, size_t index) {
    parse_run *r = ctx;
    parse_task *t = &r->task[index];
    bsi_scan *scan = &r->s->scan;
    bsi_rows w = {0};
    bsi_buf buf = {0};
    t->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    size_t end = BSI_MIN((index + 1) * TASK_BLOCKS, scan->block_count);
    for (size_t i = index * TASK_BLOCKS; i < end && !t->status;) {
        if (!wants(r, i)) {
            i++;
            continue;
        }
        size_t count = 0;
        t->status = load(r, i, end, &count, &buf, &t->err);
        const uint8_t *p = buf.data;
        for (size_t k = 0; k < count && !t->status; k++) {
            bsi_scan_block *b = &scan->block[i + k];
            bsi_parse_block(&w, scan->file[b->file].layout, &r->d->secret, p, BSI_MIN((size_t)b->bytes, buf.len), false);
            p += b->bytes;
            keep(r, i + k, &w);
            for (uint32_t row = 0, bad = 0; row < w.count; row++) {
                if (w.bad[row]) {
                    t->bad++;
                    t->ragged += w.bad[row] == BSI_RULE_COLUMNS;
                    if (w.bads[bad++].key_read) {
                        t->left = bsi_realloc(t->left, (t->left_count + 1) * sizeof *t->left);
                        t->left[t->left_count++] = (bsi_diff_left){w.kh[row], (uint64_t)(i + k) << 16 | row, w.bad[row] == BSI_RULE_COLUMNS};
                    }
                    continue;
                }
                row_add(&t->rows, (bsi_diff_row){w.kh[row], w.rh[row], (uint64_t)(i + k) << 16 | row});
            }
        }
        i += count;
    }
    bsi_rows_free(&w);
    bsi_buf_free(&buf);
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

/* The rows of the blocks of one side that are not settled. */
bomsync_status bsi_diff_parse(bsi_diff_run *d, bsi_diff_side *s, bomsync_error *err) {
    size_t tasks = (s->scan.block_count + TASK_BLOCKS - 1) / TASK_BLOCKS;
    bsi_diff_rows *rows = &s->rows;
    rows->n = s->bad = s->ragged = s->left_count = s->left_row_count = 0;
    parse_run r = {.d = d, .s = s};
    bsi_scan_forget(&s->scan);
    s->scan.parsed = bsi_vast_calloc(s->scan.block_count + 1, sizeof *s->scan.parsed);
    r.task = bsi_calloc(tasks + 1, sizeof *r.task);
    bsi_parallel(d->workers, tasks, parse_blocks, &r);
    size_t total = 0;
    for (size_t i = 0; i < tasks; i++) total += r.task[i].rows.n;
    rows->v = bsi_realloc(rows->v, (total + 1) * sizeof *rows->v);
    rows->cap = total;
    uint64_t *sorted = NULL;
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < tasks; i++) {
        parse_task *t = &r.task[i];
        if (t->status && !st) {
            st = t->status;
            *err = t->err;
        }
        if (t->rows.n) memcpy(rows->v + rows->n, t->rows.v, t->rows.n * sizeof *t->rows.v);
        rows->n += t->rows.n;
        s->bad += t->bad;
        s->ragged += t->ragged;
        for (size_t k = 0; k < t->left_count; k++) {
            add_left(s, t->left[k]);
            if (!t->left[k].ragged || s == &d->old || in_old(d, &sorted, t->left[k].kh)) bsi_diff_leave_out(s, t->left[k].kh);
        }
        free(t->rows.v);
        free(t->left);
    }
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
