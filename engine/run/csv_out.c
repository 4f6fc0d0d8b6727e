/* run/csv_out.c - see csv_out.h.
 *
 *   row = [key prefix (8 bytes, for the first comparison)] [values of all slots, each with its length]
 *
 * Rows lie one behind the other in large slabs; an array of pointers is sorted. Most comparisons end at the prefix.
 */
#include "run/csv_out.h"

#include <stdlib.h>

enum { SLAB = 4 << 20 };

typedef struct row_at {
    uint64_t prefix;
    const uint8_t *p;
} row_at;

struct bsi_table {
    const bsi_slots *slots;
    bsi_buf *slab;
    size_t slabs, slab_cap;
    row_at *row;
    size_t count, cap;
};

void bsi_csv_field(bsi_buf *b, const void *p, size_t n) {
    const uint8_t *s = p;
    bool quote = false;
    for (size_t i = 0; i < n && !quote; i++) quote = s[i] == ',' || s[i] == '"' || s[i] == '\n' || s[i] == '\r';
    if (!quote) {
        bsi_buf_add(b, p, n);
        return;
    }
    bsi_buf_byte(b, '"');
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"') bsi_buf_byte(b, '"');
        bsi_buf_byte(b, s[i]);
    }
    bsi_buf_byte(b, '"');
}

bsi_table *bsi_table_open(const bsi_slots *slots) {
    bsi_table *t = bsi_calloc(1, sizeof *t);
    t->slots = slots;
    return t;
}

void bsi_table_add(bsi_table *t, const bsi_field *f) {
    size_t need = 0;
    for (uint32_t i = 0; i < t->slots->count; i++) need += f[i].len + 5u;
    if (!t->slabs || t->slab[t->slabs - 1].cap - t->slab[t->slabs - 1].len < need) {
        if (t->slabs == t->slab_cap) t->slab = bsi_realloc(t->slab, (t->slab_cap = t->slab_cap ? t->slab_cap * 2 : 16) * sizeof *t->slab);
        t->slab[t->slabs] = (bsi_buf){0};
        bsi_buf_reserve(&t->slab[t->slabs++], BSI_MAX(need, (size_t)SLAB));
    }
    bsi_buf *s = &t->slab[t->slabs - 1];
    row_at r = {0, s->data + s->len};
    for (uint32_t i = 0; i < 8; i++) r.prefix = r.prefix << 8 | (i < f[0].len ? f[0].p[i] : 0u);
    for (uint32_t i = 0; i < t->slots->count; i++) bsi_buf_lstr(s, f[i].p, f[i].len);
    if (t->count == t->cap) t->row = bsi_realloc(t->row, (t->cap = t->cap ? t->cap * 2 : 1024) * sizeof *t->row);
    t->row[t->count++] = r;
}

static _Thread_local uint32_t sort_keys;

static int by_key(const void *a, const void *b) {
    const row_at *x = a, *y = b;
    if (x->prefix != y->prefix) return x->prefix < y->prefix ? -1 : 1;
    const uint8_t *p = x->p, *q = y->p, *none = (const uint8_t *)UINTPTR_MAX;
    for (uint32_t i = 0; i < sort_keys; i++) {
        uint64_t m = 0, n = 0;
        p = bsi_varint_get(p, none, &m);
        q = bsi_varint_get(q, none, &n);
        int c = memcmp(p, q, BSI_MIN(m, n));
        if (c || m != n) return c ? c : m < n ? -1 : 1;
        p += m;
        q += n;
    }
    return 0;
}

bomsync_status bsi_table_write(bsi_table *t, bomsync_sink out, bomsync_error *err) {
    const bsi_slots *s = t->slots;
    sort_keys = s->key_count;
    bsi_sort(t->row, t->count, sizeof *t->row, by_key);
    bsi_buf b = {0};
    bsi_field *f = bsi_alloc(sizeof *f * (s->count + 1));
    bomsync_status st = BOMSYNC_OK;
    for (size_t r = 0; r <= t->count && !st; r++) {
        if (r) {
            const uint8_t *p = t->row[r - 1].p;
            for (uint32_t i = 0; i < s->count; i++) {
                uint64_t n = 0;
                p = bsi_varint_get(p, (const uint8_t *)UINTPTR_MAX, &n);
                f[i] = (bsi_field){p, (uint32_t)n, false};
                p += n;
            }
        }
        for (uint32_t k = 0; k < s->count; k++) {
            uint32_t i = s->order[k];
            if (k) bsi_buf_byte(&b, ',');
            if (r) bsi_csv_field(&b, f[i].p, f[i].len);
            else bsi_csv_field(&b, s->name[i], strlen(s->name[i]));
        }
        bsi_buf_byte(&b, '\n');
        if (b.len < (1 << 20) && r < t->count) continue;
        int errnum = out.write(out.ctx, b.data, b.len);
        if (errnum) st = bsi_fail_errno(err, errnum, NULL, "could not write the output");
        b.len = 0;
    }
    free(f);
    bsi_buf_free(&b);
    return st;
}

void bsi_table_close(bsi_table *t) {
    for (size_t i = 0; i < t->slabs; i++) bsi_buf_free(&t->slab[i]);
    free(t->slab);
    free(t->row);
    free(t);
}
