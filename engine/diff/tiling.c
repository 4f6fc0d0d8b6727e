/* diff/tiling.c - the lists of a tiling: what is added, put together, opened, looked at again. */
#include "diff/tiling.h"

#include <stdlib.h>

#include "core/vast.h"
#include "diff/lines.h"

enum { MARGIN = 64 };

void bsi_tiling_add_piece(bsi_piece **v, size_t *count, size_t *cap, bsi_piece p) {
    if (!p.bytes) return;
    if (*count == *cap) *v = bsi_vast_realloc(*v, (*cap = *cap ? *cap * 2 : 16) * sizeof **v);
    (*v)[(*count)++] = p;
}

void bsi_tiling_add_same(bsi_tiling *t, bsi_same s) {
    if (t->same_count == t->same_cap) t->same = bsi_vast_realloc(t->same, (t->same_cap = t->same_cap ? t->same_cap * 2 : 16) * sizeof *t->same);
    t->same[t->same_count++] = s;
}

void bsi_tiling_release(bsi_tiling *t) {
    bsi_vast_free(t->same);
    bsi_vast_free(t->old);
    bsi_vast_free(t->now);
    free(t->open);
    free(t->span);
    free(t->probe);
    bsi_buf_free(&t->keys);
    *t = (bsi_tiling){0};
}

/* v with n more behind it; where it lies now. */
static void *append(void *v, size_t *count, size_t *cap, const void *from, size_t n, size_t size, void *more(void *, size_t)) {
    if (!n) return v;
    if (*count + n > *cap) v = more(v, (*cap = (*count + n) * 2) * size);
    memcpy((char *)v + *count * size, from, n * size);
    *count += n;
    return v;
}

void bsi_tiling_gather(bsi_tiling *all, bsi_tiling *t) {
    all->same = append(all->same, &all->same_count, &all->same_cap, t->same, t->same_count, sizeof *t->same, bsi_vast_realloc);
    all->old = append(all->old, &all->old_count, &all->old_cap, t->old, t->old_count, sizeof *t->old, bsi_vast_realloc);
    all->now = append(all->now, &all->now_count, &all->now_cap, t->now, t->now_count, sizeof *t->now, bsi_vast_realloc);
    for (size_t i = 0; i < t->span_count; i++) {
        t->span[i].first += all->keys.len;
        t->span[i].last += all->keys.len;
    }
    for (size_t i = 0; i < t->probe_count; i++) t->probe[i] += all->keys.len;
    all->span = append(all->span, &all->span_count, &all->span_cap, t->span, t->span_count, sizeof *t->span, bsi_realloc);
    all->probe = append(all->probe, &all->probe_count, &all->probe_cap, t->probe, t->probe_count, sizeof *t->probe, bsi_realloc);
    bsi_buf_add(&all->keys, t->keys.data, t->keys.len);
    all->same_records += t->same_records;
    all->sure = all->sure && t->sure;
    bsi_tiling_release(t);
}

/* ---- records that are compared whatever their bytes ---- */

static int by_at(const void *a, const void *b) {
    const bsi_piece *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

void bsi_tiling_open(bsi_tiling *t, const bsi_piece *open, size_t count) {
    if (!count) return;
    bsi_piece *v = bsi_alloc(count * sizeof *v);
    memcpy(v, open, count * sizeof *v);
    bsi_sort(v, count, sizeof *v, by_at);
    bsi_same *old = t->same;
    size_t n = t->same_count, i = 0, before = t->old_count;
    t->same = NULL;
    t->same_count = t->same_cap = 0;
    for (size_t k = 0; k < n; k++) {
        bsi_same s = old[k];
        for (; i < count && v[i].at < s.now_at + s.bytes; i++) {
            if (v[i].at < s.now_at) continue; /* among the pieces, or taken out a moment ago */
            uint32_t front = (uint32_t)(v[i].at - s.now_at), bytes = BSI_MIN(v[i].bytes, s.bytes - front); /* blank lines behind it may be pieces */
            if (front) bsi_tiling_add_same(t, (bsi_same){s.old_at, s.now_at, front});
            bsi_tiling_add_piece(&t->old, &t->old_count, &t->old_cap, (bsi_piece){s.old_at + front, bytes, 1});
            bsi_tiling_add_piece(&t->now, &t->now_count, &t->now_cap, (bsi_piece){v[i].at, bytes, 1});
            t->same_records--;
            front += bytes;
            s = (bsi_same){s.old_at + front, s.now_at + front, s.bytes - front};
        }
        if (s.bytes) bsi_tiling_add_same(t, s);
    }
    bsi_vast_free(old);
    free(v);
    if (t->old_count == before) return;
    bsi_vast_sort(t->old, t->old_count, sizeof *t->old, by_at);
    bsi_vast_sort(t->now, t->now_count, sizeof *t->now, by_at);
}

/* ---- keys, later ---- */

bomsync_status bsi_tiling_fill(bsi_buf *b, bsi_source *s, uint64_t at, size_t n, bomsync_error *err) {
    b->len = 0;
    bsi_buf_reserve(b, n + MARGIN);
    ssize_t got = bsi_source_pread(s, b->data, n, at, err);
    if (got < 0) return err->status;
    b->len = (size_t)got;
    if (b->len == n) return BOMSYNC_OK;
    return bsi_fail(err, BOMSYNC_E_REFUSED, "\"%.200s\" became shorter while it was read", bsi_source_path(s));
}

size_t bsi_tiling_spans(size_t *first, const bsi_tiling *t, const bsi_line_shape *s, const uint8_t *key) {
    size_t lo = 0, hi = t->span_count;
    while (lo < hi) { /* the last one that begins at or below it */
        size_t mid = lo + (hi - lo) / 2;
        if (bsi_keys_compare(s, t->keys.data + t->span[mid].first, key) <= 0) lo = mid + 1;
        else hi = mid;
    }
    size_t from = lo; /* and those before it that end with it */
    while (from && bsi_keys_compare(s, t->keys.data + t->span[from - 1].last, key) >= 0) from--;
    *first = from;
    return lo - from;
}

bomsync_status bsi_span_find(bsi_piece **found, size_t *count, const bsi_align_options *o, const bsi_key_span *span, const uint8_t *const *key,
                             size_t key_count, bomsync_error *err) {
    const bsi_line_shape *s = &o->shape;
    bsi_buf buf = {0};
    bsi_lines l = {0};
    size_t *bytes = bsi_alloc(key_count * sizeof *bytes);
    for (size_t k = 0; k < key_count; k++) bytes[k] = bsi_keys_length(s, key[k]);
    size_t cap = 0, n = (size_t)BSI_MIN((uint64_t)span->bytes, bsi_source_size(o->now) - span->at);
    *found = NULL;
    *count = 0;
    bomsync_status st = bsi_tiling_fill(&buf, o->now, span->at, n, err);
    if (!st && n < span->bytes) buf.data[n++] = '\n'; /* the last line of the file */
    if (!st) bsi_lines_read(&l, s, o->isa, buf.data, n);
    for (size_t i = 0; i < l.count; i++) {
        const uint8_t *p = buf.data + l.key[i];
        size_t have = l.start[i + 1] - l.key[i];
        if (l.kind && l.kind[i] != LINE_GOOD) continue;
        for (size_t k = 0; k < key_count; k++) {
            if (have <= bytes[k] || memcmp(p, key[k], bytes[k]) != 0) continue;
            if (bsi_keys_length(s, p) != bytes[k]) continue;
            if (*count == cap) *found = bsi_realloc(*found, (cap = cap ? cap * 2 : 4) * sizeof **found);
            (*found)[(*count)++] = (bsi_piece){span->at + l.start[i], l.start[i + 1] - l.start[i], 1};
            break;
        }
    }
    bsi_lines_free(&l);
    bsi_buf_free(&buf);
    free(bytes);
    return st;
}
