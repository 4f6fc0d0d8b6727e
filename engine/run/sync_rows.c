/* run/sync_rows.c - from matched and unmatched blocks to what happened to each record.
 *
 *   scan blocks   M M M u M u u M ...     M matched an exact image entry: its records are published as they are
 *   open blocks         u   u u           parsed: N rows
 *   open state          the state blocks that no matched entry stands for: O rows
 *
 * The join settles N against O. Then one question is left: does a record that looks new have a twin in a skipped
 * block? One pass over the stored key hashes of skipped blocks with the few candidates answers it; a block with a
 * twin is opened and the join is made again.
 */
#include "run/sync.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "flow/twins.h"

enum { TASK_BLOCKS = 512, SPAN_BYTES = 256 << 10 };

/* ---- which blocks are open ---- */

static int by_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void list_open(bsi_sync *s) {
    free(s->row_base);
    s->open_count = s->scan.block_count;
    s->row_base = bsi_alloc(sizeof *s->row_base * (s->open_count + 1));
    uint64_t rows = 0;
    for (size_t i = 0; i < s->open_count; i++) {
        s->row_base[i] = rows;
        rows += s->scan.block[i].records;
    }
    s->row_base[s->open_count] = rows;
}

static void add_refs(bsi_ref_set *open, bsi_image_walk *w, uint64_t from, uint64_t to) {
    for (; from < to; from++) {
        const bsi_image_entry *e = bsi_image_next(w, from);
        if (e->flags & BSI_IMAGE_EXACT) bsi_ref_add(open, e->ref);
    }
}

/* State blocks whose entry matched no block of this snapshot. */
static void unmatched_refs(const bsi_sync *s, bsi_ref_set *open) {
    bsi_image_walk w = {.image = &s->image};
    if (s->scan.ascending) {
        uint64_t at = 0;
        for (size_t i = 0; i < s->scan.run_count; i++) {
            const bsi_scan_run *r = &s->scan.run[i];
            if (!r->matched) continue;
            add_refs(open, &w, at, r->first);
            at = r->first + r->count;
        }
        add_refs(open, &w, at, s->image.count);
        return;
    }
    uint8_t *used = bsi_calloc(s->image.count / 8 + 1, 1);
    for (size_t i = 0; i < s->scan.run_count; i++) {
        const bsi_scan_run *r = &s->scan.run[i];
        for (uint64_t k = r->first; r->matched && k < r->first + r->count; k++) used[k >> 3] |= (uint8_t)(1u << (k & 7));
    }
    for (uint64_t i = 0; i < s->image.count; i++)
        if (!(used[i >> 3] >> (i & 7) & 1)) add_refs(open, &w, i, i + 1);
    free(used);
}

bomsync_status bsi_sync_open_blocks(bsi_sync *s, bomsync_error *err) {
    list_open(s);
    uint64_t matched = s->scan.blocks - s->open_count;
    free(s->open_state);
    s->open_state_count = 0;
    s->open_state = bsi_alloc(sizeof(uint64_t) * 1);
    if (!s->last) return BOMSYNC_OK;
    if (matched == s->image.count && !s->image.orphan_count && !s->open_count) return BOMSYNC_OK; /* nothing to look at */
    if (s->settled) return BOMSYNC_OK; /* bsi_reconcile_old finds them */
    if (!s->base) {
        bomsync_status st = bsi_store_state_by(&s->base, &s->base_count, s->store, s->last->state_list, s->workers, err);
        if (st) return st;
    }
    free(s->open_state);
    s->open_state = bsi_alloc(sizeof(uint64_t) * (s->base_count + 1));
    if (!matched) {
        for (size_t i = 0; i < s->base_count; i++) s->open_state[s->open_state_count++] = i;
        return BOMSYNC_OK;
    }
    bsi_ref_set open = {0};
    for (size_t i = 0; i < s->image.orphan_count; i++) bsi_ref_add(&open, s->image.orphan[i]);
    unmatched_refs(s, &open);
    for (size_t i = 0; i < s->base_count && open.count; i++)
        if (bsi_ref_has(&open, s->base[i])) s->open_state[s->open_state_count++] = i;
    free(open.slot);
    return BOMSYNC_OK;
}

void bsi_sync_place(bsi_sync *s, uint64_t index, size_t *open, uint32_t *row) {
    size_t lo = 0, hi = s->open_count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->row_base[mid] <= index) lo = mid;
        else hi = mid;
    }
    *open = lo;
    *row = (uint32_t)(index - s->row_base[lo]);
}

/* ---- parsing ---- */

/* Creates by partition, where nothing else is wanted of them. */
typedef struct made {
    bsi_parts parts;
    int64_t *count; /* [cap] by part */
    uint32_t cap;
} made;

typedef struct parse_run {
    bsi_sync *s;
    pthread_mutex_t lock;
    bomsync_status status;
    bomsync_error *err;
    bool first_load;
    atomic_ullong ragged;
    atomic_ullong kept_bytes;
    uint64_t keep_bytes;
    bsi_twins *twins;          /* a first load: keys alone */
    made *made;                /* one a lane: a first load, whose creates are only counted; else NULL */
    bsi_block_writer **writer; /* one a lane */
    bsi_rows *rows;            /* one a lane: of blocks that are parsed with the scan */
} parse_run;

/* The parse that begins with the scan, and goes on with the blocks that were left. */
typedef struct bsi_early {
    parse_run run;
    bomsync_error err;
    bool used;      /* bsi_sync_parse has taken what there was */
} bsi_early;

static bool is_early(const bsi_scan_block *b) { return b->tag != BSI_NO_TAG; }

/* As many blocks as stand one behind the other in the file and fit one read. */
static bomsync_status load_span(bsi_sync *s, size_t open, size_t end, size_t *count, bsi_buf *buf, bomsync_error *err) {
    bsi_scan *scan = &s->scan;
    bsi_scan_block *b = &scan->block[open];
    bsi_scan_file *f = &scan->file[b->file];
    *count = 1;
    if (bsi_scan_alone(scan, open)) return bsi_scan_bytes(scan, open, buf, err);
    uint64_t bytes = b->bytes;
    while (open + *count < end) {
        bsi_scan_block *n = &scan->block[open + *count];
        if (n->file != b->file || n->offset != b->offset + bytes || bytes + n->bytes > SPAN_BYTES || bsi_scan_alone(scan, open + *count)) break;
        if (is_early(n)) break;
        bytes += n->bytes;
        (*count)++;
    }
    buf->len = 0;
    bsi_buf_reserve(buf, bytes + 64);
    ssize_t got = bsi_source_pread(f->source, buf->data, bytes, b->offset, err);
    if (got < 0) return err->status;
    if ((uint64_t)got != bytes) return bsi_fail(err, BOMSYNC_E_REFUSED, "\"%s\" changed while it was read", bsi_source_path(f->source));
    buf->len = bytes;
    return BOMSYNC_OK;
}

static void note_bad(parse_run *r, const bsi_rows *w, const bsi_bad_row *b, size_t block, uint64_t index, const uint8_t *p, size_t n) {
    bsi_sync *s = r->s;
    bsi_kept_row k = {.place = (uint64_t)block << 16 | b->row, .index = index, .rule = b->rule, .column = b->column,
                      .key_read = b->key_read, .partition_read = b->partition_read};
    k.byte = s->scan.block[block].offset + b->byte;
    if (b->key_read) {
        k.kh = w->kh[b->row];
        k.image_bytes = w->image[b->row + 1] - w->image[b->row];
        k.body_bytes = w->body[b->row];
        k.image = bsi_alloc(k.image_bytes + 1);
        memcpy(k.image, w->enc.data + w->image[b->row], k.image_bytes);
    }
    if (b->partition_read)
        k.partition = b->partition.len ? bsi_strndup((const char *)b->partition.data, b->partition.len) : bsi_strdup("_");
    uint32_t from = w->raw[b->row], to = BSI_MIN(w->raw[b->row + 1], (uint32_t)n);
    uint32_t len = BSI_MIN(to - from, 100u);
    while (len && (p[from + len - 1] == '\n' || p[from + len - 1] == '\r')) len--;
    k.value = bsi_strndup((const char *)p + from, len);
    pthread_mutex_lock(&r->lock);
    if (s->bad_count == s->bad_cap) s->bad = bsi_realloc(s->bad, (s->bad_cap = s->bad_cap ? s->bad_cap * 2 : 16) * sizeof *s->bad);
    s->bad[s->bad_count++] = k;
    pthread_mutex_unlock(&r->lock);
}

static bomsync_status add_rows(bsi_sync *s, int lane, const bsi_rows *w, uint64_t base, bomsync_error *err) {
    for (uint32_t i = 0, bad = 0; i < w->count; i++) {
        bsi_row row = {w->kh[i], w->rh[i], base + i};
        if (w->bad[i] && !w->bads[bad++].key_read) continue;
        bomsync_status st = bsi_row_store_add(s->n_rows, lane, &row, err);
        if (st) return st;
    }
    return BOMSYNC_OK;
}

/* A first load has no old rows: all that the join could find are keys that stand twice. */
static bomsync_status add_keys(parse_run *r, int lane, const bsi_rows *w, bomsync_error *err) {
    if (!w->bad_count) return bsi_twins_add(r->twins, lane, w->kh, w->count, err);
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t i = 0, bad = 0; i < w->count && !st; i++)
        if (!w->bad[i] || w->bads[bad++].key_read) st = bsi_twins_add(r->twins, lane, &w->kh[i], 1, err);
    return st;
}

static bomsync_status take_block(parse_run *r, int lane, bsi_rows *w, size_t open, const uint8_t *p, size_t n, bomsync_error *err) {
    bsi_sync *s = r->s;
    bsi_scan_block *b = &s->scan.block[open];
    if (w->count != b->records)
        return bsi_fail(err, BOMSYNC_E_REFUSED, "\"%s\" changed while it was read", bsi_source_path(s->scan.file[b->file].source));
    uint64_t base = s->row_base[open];
    for (uint32_t i = 0; i < w->bad_count; i++) {
        bsi_bad_row *bad = &w->bads[i];
        note_bad(r, w, bad, open, base + bad->row, p, n);
        s->fate[base + bad->row] = BSI_FATE_BAD | (bad->rule == BSI_RULE_COLUMNS ? BSI_FATE_RAGGED : 0);
        if (bad->rule == BSI_RULE_COLUMNS) atomic_fetch_add(&r->ragged, 1);
    }
    bomsync_status st = r->twins ? add_keys(r, lane, w, err) : add_rows(s, lane, w, base, err);
    if (st) return st;
    if (!r->first_load || !w->count || w->bad_count) return BOMSYNC_OK;
    return bsi_block_writer_add(&s->first_ref[open], r->writer[lane], w->count, w->enc.data, w->image, w->body, w->kh, w->rh, err);
}

static int64_t *made_of(made *m, const void *p, size_t n) {
    uint32_t part = bsi_part_of(&m->parts, p, n);
    if (part >= m->cap) {
        uint32_t cap = BSI_MAX(m->parts.cap, part + 1);
        m->count = bsi_realloc(m->count, cap * sizeof *m->count);
        memset(m->count + m->cap, 0, (cap - m->cap) * sizeof *m->count);
        m->cap = cap;
    }
    return &m->count[part];
}

/* The partition stands among the key slots, at the front of a row image. */
static bsi_field partition_of(const bsi_rows *w, uint32_t row, int32_t slot) {
    const uint8_t *p = w->enc.data + w->image[row], *end = w->enc.data + w->image[row + 1];
    uint64_t n = 0;
    for (int32_t k = 0; k <= slot && p; k++) {
        if (k) p += n;
        p = bsi_varint_get(p, end, &n);
    }
    if (slot < 0 || !p || !n) return (bsi_field){.p = (const uint8_t *)"_", .len = 1};
    return (bsi_field){.p = p, .len = (uint32_t)n};
}

/* Rows that stand together mostly lie in one partition: looked up once for all of them. */
static void count_made(made *m, const bsi_rows *w, int32_t slot, int64_t by) {
    bsi_field last = {0};
    int64_t rows = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->bad[i]) continue;
        bsi_field f = partition_of(w, i, slot);
        if (rows && !bsi_field_eq(&f, &last)) {
            *made_of(m, last.p, last.len) += rows * by;
            rows = 0;
        }
        last = f;
        rows++;
    }
    if (rows) *made_of(m, last.p, last.len) += rows * by;
}

static void free_made(made *m) {
    bsi_parts_free(&m->parts);
    free(m->count);
}

/* Most blocks lie in one partition: knowing it saves looking at their rows again. Its number in block_parts, or UINT32_MAX. */
static uint32_t one_partition(parse_run *r, const bsi_rows *w) {
    bsi_sync *s = r->s;
    if (!w->count || w->bad_count) return UINT32_MAX;
    bsi_field first = partition_of(w, 0, s->feed->slots.partition);
    for (uint32_t i = 1; i < w->count; i++) {
        bsi_field f = partition_of(w, i, s->feed->slots.partition);
        if (!bsi_field_eq(&f, &first)) return UINT32_MAX;
    }
    pthread_mutex_lock(&r->lock);
    uint32_t part = bsi_part_of(&s->block_parts, first.p, first.len);
    pthread_mutex_unlock(&r->lock);
    return part;
}

/* Rows are needed again to find partitions, to write blocks and to render changes: while there is room they stay. */
static void keep_rows(parse_run *r, const bsi_rows *w, size_t open) {
    if (atomic_load_explicit(&r->kept_bytes, memory_order_relaxed) >= r->keep_bytes) return;
    size_t bytes;
    bsi_rows *k = bsi_scan_keep(w, 0, &bytes);
    if (!k) return;
    r->s->scan.parsed[open] = k;
    atomic_fetch_add_explicit(&r->kept_bytes, bytes, memory_order_relaxed);
}

static void fail_parse(parse_run *r, bomsync_status st, const bomsync_error *err) {
    pthread_mutex_lock(&r->lock);
    if (!r->status) {
        r->status = st;
        *r->err = *err;
    }
    pthread_mutex_unlock(&r->lock);
}

static bomsync_status open_writer(parse_run *r, int lane, bomsync_error *err) {
    if (!r->first_load || r->writer[lane]) return BOMSYNC_OK;
    return bsi_block_writer_open(&r->writer[lane], r->s->store, r->s->feed->slots.count, r->s->feed->dictionary, err);
}

/* A block that was parsed with the scan: of a first load its state block is written, else its rows were kept. */
static bomsync_status take_early(parse_run *r, int lane, size_t open, bomsync_error *err) {
    bsi_sync *s = r->s;
    bsi_scan_block *b = &s->scan.block[open];
    uint64_t tag = b->tag;
    b->tag = BSI_NO_TAG;
    if (r->first_load) {
        s->first_ref[open] = tag;
        s->block_part[open] = b->part;
        return BOMSYNC_OK;
    }
    bsi_rows *w = (bsi_rows *)(uintptr_t)tag;
    s->scan.parsed[open] = w;
    s->block_part[open] = b->part;
    return add_rows(s, lane, w, s->row_base[open], err);
}

static void parse_task(void *ctx, size_t index) {
    parse_run *r = ctx;
    bsi_sync *s = r->s;
    if (r->status) return;
    int lane = bsi_lane();
    bsi_rows w = {0};
    bsi_buf buf = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    size_t end = BSI_MIN((index + 1) * TASK_BLOCKS, s->open_count);
    for (size_t i = index * TASK_BLOCKS; i < end && !st;) {
        if (is_early(&s->scan.block[i])) {
            st = take_early(r, lane, i++, &err);
            continue;
        }
        st = open_writer(r, lane, &err);
        if (st) break;
        size_t count;
        st = load_span(s, i, end, &count, &buf, &err);
        const uint8_t *p = buf.data;
        for (size_t k = 0; k < count && !st; k++) {
            bsi_scan_block *b = &s->scan.block[i + k];
            size_t n = BSI_MIN((size_t)b->bytes, buf.len);
            bsi_parse_block(&w, s->scan.file[b->file].layout, bsi_store_secret(s->store), p, n, false);
            st = take_block(r, lane, &w, i + k, p, n, &err);
            if (r->keep_bytes) keep_rows(r, &w, i + k);
            s->block_part[i + k] = s->o->baseline ? UINT32_MAX : one_partition(r, &w);
            if (r->made) count_made(&r->made[lane], &w, s->feed->slots.partition, 1);
            p += b->bytes;
        }
        i += count;
    }
    bsi_rows_free(&w);
    bsi_buf_free(&buf);
    if (st) fail_parse(r, st, &err);
}

/* ---- parsing with the scan ---- */

/* A first load: what can be read goes into the store at once. Blocks with records that cannot are left for later. */
static void early_first(void *ctx, const bsi_layout *layout, bsi_scan_block *b, const uint8_t *p, uint64_t expect) {
    (void)expect;
    bsi_early *e = ctx;
    parse_run *r = &e->run;
    int lane = bsi_lane();
    bsi_rows *w = &r->rows[lane];
    if (b->flags & BSI_CUT_OVERSIZE) return;
    bsi_parse_block(w, layout, bsi_store_secret(r->s->store), p, b->bytes, false);
    if (w->bad_count || !w->count || w->count != b->records) return;
    bsi_ref ref;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = open_writer(r, lane, &err);
    if (!st) st = bsi_twins_add(r->twins, lane, w->kh, w->count, &err);
    if (!st) st = bsi_block_writer_add(&ref, r->writer[lane], w->count, w->enc.data, w->image, w->body, w->kh, w->rh, &err);
    if (st) {
        fail_parse(r, st, &err);
        return;
    }
    b->tag = ref;
    if (r->made) count_made(&r->made[lane], w, r->s->feed->slots.partition, 1);
    if (!r->s->o->baseline) b->part = one_partition(r, w);
}

/* It was written for nothing, and its keys only seem to stand twice; but what was counted must be true. */
static void early_uncount(void *ctx, const bsi_scan_block *b) {
    bsi_early *e = ctx;
    parse_run *r = &e->run;
    if (!r->made || r->status) return;
    bsi_buf buf = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_scan_run run = {.file = b->file, .offset = b->offset, .bytes = b->bytes, .spill = BSI_NO_SPILL};
    bomsync_status st = bsi_scan_range(&r->s->scan, &run, 0, b->bytes, &buf, &err);
    bsi_rows *w = &r->rows[0];
    if (!st) bsi_parse_block(w, r->s->scan.file[b->file].layout, bsi_store_secret(r->s->store), buf.data, buf.len, false);
    if (!st) count_made(&r->made[0], w, r->s->feed->slots.partition, -1);
    else fail_parse(r, st, &err);
    bsi_buf_free(&buf);
}

/* Bit i: row i stands in the old block as it is, in most cases at the same place. It will hardly be asked for again. */
static uint64_t rows_in(const bsi_block_rows *old, const bsi_rows *w) {
    uint64_t in = 0;
    for (uint32_t i = 0; i < BSI_MIN(w->count, 64u); i++) {
        uint32_t k = i < old->count && old->kh[i] == w->kh[i] ? i : 0;
        while (k < old->count && old->kh[k] != w->kh[i]) k++;
        if (k < old->count && old->rh[k] == w->rh[i]) in |= 1ull << i;
    }
    return in;
}

static uint64_t unchanged_rows(const bsi_sync *s, const bsi_rows *w, uint64_t expect) {
    if (expect >= s->image.count) return 0;
    const bsi_image_entry *e = bsi_image_at(&s->image, expect);
    bsi_block_rows old;
    if (!(e->flags & BSI_IMAGE_EXACT) || bsi_store_rows(&old, s->store, e->ref, NULL)) return 0; /* a fault is told by who needs it */
    return rows_in(&old, w);
}

/* Else rows are kept while there is room: a changed block need not be read and parsed again. Of rows that the block which was
 * expected here has, too, the hashes will do: one row in twelve is what changes are made of. */
static void early_keep(void *ctx, const bsi_layout *layout, bsi_scan_block *b, const uint8_t *p, uint64_t expect) {
    bsi_early *e = ctx;
    parse_run *r = &e->run;
    if ((b->flags & BSI_CUT_OVERSIZE) || atomic_load_explicit(&r->kept_bytes, memory_order_relaxed) >= r->keep_bytes) return;
    bsi_rows *w = &r->rows[bsi_lane()];
    bsi_parse_block(w, layout, bsi_store_secret(r->s->store), p, b->bytes, false);
    size_t bytes;
    bsi_rows *k = w->count == b->records ? bsi_scan_keep(w, unchanged_rows(r->s, w, expect), &bytes) : NULL;
    if (!k) return;
    b->tag = (uint64_t)(uintptr_t)k;
    b->part = one_partition(r, w);
    atomic_fetch_add_explicit(&r->kept_bytes, bytes, memory_order_relaxed);
}

static void early_forget(void *ctx, const bsi_scan_block *b) {
    (void)ctx;
    free((void *)(uintptr_t)b->tag);
}

static bool is_first_load(const bsi_sync *s) { return !s->feed->records && !s->o->dry_run && !(s->last && s->base_count); }

static void start_run(parse_run *r, bsi_sync *s, bool first_load) {
    r->s = s;
    r->first_load = first_load;
    pthread_mutex_init(&r->lock, NULL);
    r->writer = bsi_calloc((size_t)s->workers + 1, sizeof *r->writer);
    r->rows = bsi_calloc((size_t)s->workers + 1, sizeof *r->rows);
    if (!first_load) return;
    if (!s->scope) r->made = bsi_calloc((size_t)s->workers + 1, sizeof *r->made);
    r->twins = bsi_twins_open(s->workers + 1, s->memory_bytes / 8, s->tmp);
}

static bomsync_status end_run(parse_run *r, bomsync_error *err) {
    for (int i = 0; i <= r->s->workers; i++) {
        bomsync_status st = r->writer[i] ? bsi_block_writer_close(r->writer[i], err) : BOMSYNC_OK;
        if (st && !r->status) r->status = st;
        bsi_rows_free(&r->rows[i]);
    }
    free(r->writer);
    free(r->rows);
    r->writer = NULL;
    r->rows = NULL;
    pthread_mutex_destroy(&r->lock);
    return r->status;
}

bomsync_status bsi_sync_early_open(bsi_sync *s, bsi_scan_options *o, bomsync_error *err) {
    bsi_early *e = s->early = bsi_calloc(1, sizeof *e);
    bool first_load = !s->last && is_first_load(s);
    start_run(&e->run, s, first_load);
    e->run.err = &e->err;
    e->run.keep_bytes = s->memory_bytes / 8;
    o->opened = first_load ? early_first : early_keep;
    o->dropped = first_load ? early_uncount : early_forget;
    o->opened_ctx = e;
    return first_load ? bsi_sync_learn_ahead(s, err) : BOMSYNC_OK;
}

void bsi_sync_early_close(bsi_sync *s) {
    bsi_early *e = s->early;
    if (!e) return;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (!e->used) {
        for (size_t i = 0; !e->run.first_load && i < s->scan.block_count; i++)
            if (is_early(&s->scan.block[i])) free((void *)(uintptr_t)s->scan.block[i].tag);
        end_run(&e->run, &err);
        bsi_twins_close(e->run.twins);
        for (int i = 0; e->run.made && i <= s->workers; i++) free_made(&e->run.made[i]);
        free(e->run.made);
    }
    free(e);
    s->early = NULL;
}

static int bad_order(const void *a, const void *b) {
    const bsi_kept_row *x = a, *y = b;
    return x->index < y->index ? -1 : x->index > y->index;
}

typedef struct twin_rows { /* the rows of keys that stand twice, for the join */
    bsi_sync *s;
    const uint64_t *kh;
    size_t count;
    const uint8_t *filter; /* 2^20 bits */
    atomic_int status;
    bomsync_error *err;
} twin_rows;

static void twin_rows_task(void *ctx, size_t index) {
    twin_rows *r = ctx;
    bsi_sync *s = r->s;
    bsi_rows w = {0};
    bsi_buf buf = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    size_t end = BSI_MIN((index + 1) * TASK_BLOCKS, s->open_count);
    for (size_t i = index * TASK_BLOCKS; i < end && !st; i++) {
        st = bsi_scan_bytes(&s->scan, i, &buf, &err);
        if (st) break;
        bsi_parse_block(&w, s->scan.file[s->scan.block[i].file].layout, bsi_store_secret(s->store), buf.data, buf.len, false);
        for (uint32_t k = 0, bad = 0; k < w.count && !st; k++) {
            if (w.bad[k] && !w.bads[bad++].key_read) continue;
            uint32_t h = (uint32_t)(w.kh[k] >> 44);
            if (!(r->filter[h >> 3] >> (h & 7) & 1) || !bsearch(&w.kh[k], r->kh, r->count, sizeof *r->kh, by_u64)) continue;
            st = bsi_row_store_add(s->n_rows, bsi_lane(), &(bsi_row){w.kh[k], w.rh[k], s->row_base[i] + k}, &err);
        }
    }
    bsi_rows_free(&w);
    bsi_buf_free(&buf);
    int none = 0;
    if (st && atomic_compare_exchange_strong(&r->status, &none, (int)st)) *r->err = err;
}

static bomsync_status add_twins(bsi_sync *s, bsi_twins *t, bomsync_error *err) {
    uint64_t *kh = NULL;
    size_t count = 0;
    bomsync_status st = bsi_twins_find(&kh, &count, t, NULL, 0, s->workers, err);
    if (!st && count) {
        uint8_t *filter = bsi_calloc(1 << 17, 1);
        for (size_t i = 0; i < count; i++) filter[kh[i] >> 47] |= (uint8_t)(1u << (kh[i] >> 44 & 7));
        twin_rows r = {.s = s, .kh = kh, .count = count, .filter = filter, .err = err};
        bsi_parallel(s->workers, (s->open_count + TASK_BLOCKS - 1) / TASK_BLOCKS, twin_rows_task, &r);
        st = (bomsync_status)atomic_load(&r.status);
        free(filter);
    }
    free(kh);
    return st;
}

static void add_made(bsi_sync *s, const char *part, uint32_t len, int64_t n) {
    uint32_t p = bsi_part_of(&s->parts, part, len);
    if (p >= s->part_made_count) {
        s->part_made = bsi_realloc(s->part_made, (p + 1) * sizeof *s->part_made);
        for (; s->part_made_count <= p; s->part_made_count++) s->part_made[s->part_made_count] = 0;
    }
    s->part_made[p] += n;
    s->t.created += n;
}

static void take_made(bsi_sync *s, made *m) {
    for (uint32_t p = 0; p < BSI_MIN(m->parts.count, m->cap); p++) add_made(s, m->parts.name[p], m->parts.len[p], m->count[p]);
    free_made(m);
}

/* Of some rows among many the rows that were kept would be no help. */
static void plan_to_keep(parse_run *r) {
    bsi_sync *s = r->s;
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->open_count; i++) bytes += s->scan.block[i].bytes;
    bool few = bytes + bytes / 2 <= s->memory_bytes / 4;
    if (few || (s->early && !r->first_load)) s->scan.parsed = bsi_calloc(s->open_count + 1, sizeof *s->scan.parsed);
    r->keep_bytes = few ? s->memory_bytes / 4 : 0;
}

bomsync_status bsi_sync_parse(bsi_sync *s, bomsync_error *err) {
    uint64_t rows = s->row_base[s->open_count];
    s->fate = bsi_calloc(rows + 1, sizeof *s->fate);
    s->n_rows = bsi_row_store_open(s->workers, s->memory_bytes / 2, s->tmp);
    parse_run fresh = {0}, *r = s->early && !s->early->used ? &s->early->run : &fresh;
    if (r == &fresh) start_run(r, s, is_first_load(s));
    else s->early->used = true;
    if (r->status) *err = *r->err;
    r->err = err;
    if (r->first_load) {
        s->first_ref = bsi_alloc(sizeof *s->first_ref * (s->open_count + 1));
        memset(s->first_ref, 0xff, sizeof *s->first_ref * (s->open_count + 1));
    }
    plan_to_keep(r);
    free(s->block_part);
    s->block_part = bsi_alloc(sizeof *s->block_part * (s->open_count + 1));
    if (r->first_load && !s->learned && !r->status) r->status = bsi_sync_learn(s, rows, err);
    bsi_parallel(s->workers, (s->open_count + TASK_BLOCKS - 1) / TASK_BLOCKS, parse_task, r);
    end_run(r, err);
    if (r->twins && !r->status) r->status = add_twins(s, r->twins, err);
    bsi_twins_close(r->twins);
    r->twins = NULL;
    for (int i = 0; r->made && i <= s->workers; i++) take_made(s, &r->made[i]);
    s->counted = r->made != NULL;
    free(r->made);
    r->made = NULL;
    bsi_sort(s->bad, s->bad_count, sizeof *s->bad, bad_order);
    uint64_t ragged = atomic_load(&r->ragged), all = 0;
    for (size_t f = 0; f < s->scan.file_count; f++) all += (uint64_t)s->scan.file[f].records;
    if (!r->status && ragged > 20 && ragged * 20 > all) {
        bsi_kept_row *k = s->bad;
        while (k->rule != BSI_RULE_COLUMNS) k++;
        bsi_source *src = s->scan.file[s->scan.block[k->place >> 16].file].source;
        bsi_fail(err, BOMSYNC_E_REFUSED, "%llu of %llu records have too few or too many columns", (unsigned long long)ragged,
                 (unsigned long long)all);
        bsi_at(err, bsi_source_path(src), (int64_t)k->byte, bsi_scan_line(&s->scan.file[s->scan.block[k->place >> 16].file], k->byte), NULL, k->value, strlen(k->value));
        bsi_hint(err, "nothing was changed; check --delimiter and --quotes, or ask for the file again");
        return BOMSYNC_E_REFUSED;
    }
    return r->status;
}

/* ---- joining ---- */

typedef struct old_rows_run {
    bsi_sync *s;
    atomic_int status;
    bomsync_error *err;
    bsi_row_store *rows;      /* of this round */
    unsigned from, to;        /* its partitions */
    /* twin search */
    const uint64_t *kh;    /* candidates, ascending */
    size_t kh_count;
    const uint8_t *filter; /* 2^20 bits */
    const uint8_t *is_open; /* bit a state block */
    pthread_mutex_t lock;
    bsi_ref *hit;
    size_t hit_count, hit_cap;
} old_rows_run;

static void fail_run(old_rows_run *r, bomsync_status st, const bomsync_error *err) {
    int none = 0;
    if (atomic_compare_exchange_strong(&r->status, &none, (int)st)) *r->err = *err;
}

static void add_old_rows(void *ctx, size_t lane) {
    old_rows_run *r = ctx;
    bsi_sync *s = r->s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    size_t per = s->open_state_count / (size_t)s->workers + 1;
    size_t end = BSI_MIN((lane + 1) * per, s->open_state_count);
    for (size_t i = lane * per; i < end; i++) {
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows(&rows, s->store, s->base[s->open_state[i]], &err);
        for (uint32_t k = 0; !st && k < rows.count; k++) {
            if (BSI_JOIN_PART(rows.kh[k]) - r->from >= r->to - r->from) continue;
            bsi_row row = {rows.kh[k], rows.rh[k], s->open_state[i] << 16 | k};
            st = bsi_row_store_add(r->rows, (int)lane, &row, &err);
        }
        if (st) {
            fail_run(r, st, &err);
            return;
        }
    }
}

static void search_twins(void *ctx, size_t index) {
    old_rows_run *r = ctx;
    bsi_sync *s = r->s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    size_t per = 4096, end = BSI_MIN((index + 1) * per, s->base_count);
    for (size_t i = index * per; i < end; i++) {
        if (r->is_open[i >> 3] >> (i & 7) & 1) continue;
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows(&rows, s->store, s->base[i], &err);
        if (st) {
            fail_run(r, st, &err);
            return;
        }
        for (uint32_t k = 0; k < rows.count; k++) {
            uint32_t h = (uint32_t)(rows.kh[k] >> 44);
            if (!(r->filter[h >> 3] >> (h & 7) & 1)) continue;
            if (!bsearch(&rows.kh[k], r->kh, r->kh_count, sizeof *r->kh, by_u64)) continue;
            pthread_mutex_lock(&r->lock);
            if (r->hit_count == r->hit_cap) r->hit = bsi_realloc(r->hit, (r->hit_cap = r->hit_cap ? r->hit_cap * 2 : 16) * sizeof *r->hit);
            r->hit[r->hit_count++] = s->base[i];
            pthread_mutex_unlock(&r->lock);
            break;
        }
    }
}

/* Scan blocks whose skipped state block holds a twin are opened. *opened: how many. */
static bool stands_for(void *ctx, uint64_t index, const bsi_image_entry *e) {
    (void)index;
    return bsi_ref_has(ctx, e->ref);
}

static bomsync_status open_twins(bsi_sync *s, uint64_t *kh, size_t count, size_t *opened, bomsync_error *err) {
    *opened = 0;
    if (s->open_count == s->scan.blocks || !s->base_count) return BOMSYNC_OK;
    bomsync_status st = BOMSYNC_OK;
    bsi_sort(kh, count, sizeof *kh, by_u64);
    old_rows_run r = {.s = s, .err = err, .kh = kh, .kh_count = count};
    if (!st && count) {
        uint8_t *filter = bsi_calloc(1 << 17, 1), *is_open = bsi_calloc(s->base_count / 8 + 1, 1);
        for (size_t i = 0; i < count; i++) filter[kh[i] >> 47] |= (uint8_t)(1u << (kh[i] >> 44 & 7));
        for (size_t i = 0; i < s->open_state_count; i++) is_open[s->open_state[i] >> 3] |= (uint8_t)(1u << (s->open_state[i] & 7));
        r.filter = filter;
        r.is_open = is_open;
        pthread_mutex_init(&r.lock, NULL);
        bsi_parallel(s->workers, (s->base_count + 4095) / 4096, search_twins, &r);
        pthread_mutex_destroy(&r.lock);
        free(filter);
        free(is_open);
        st = (bomsync_status)atomic_load(&r.status);
    }
    if (!st && r.hit_count) {
        bsi_ref_set hits = {0};
        for (size_t i = 0; i < r.hit_count; i++) bsi_ref_add(&hits, r.hit[i]);
        bsi_sync_end_digest(s);
        bsi_scan_forget(&s->scan);
        *opened = bsi_scan_reopen(&s->scan, &s->image, stands_for, &hits);
        free(hits.slot);
    }
    free(r.hit);
    return st;
}

/* Old rows lie in the store: only those of some partitions at a time are taken out, as many as there is memory for. */
static bomsync_status join_rows(bsi_sync *s, bsi_join_out *out, bomsync_error *err) {
    uint64_t bytes = (uint64_t)s->open_state_count * (s->block_records * 3 / 2) * sizeof(bsi_row); /* about */
    unsigned rounds = (unsigned)BSI_MIN(bytes / (s->memory_bytes / 3) + 1, 16u), per = (BSI_JOIN_PARTS + rounds - 1) / rounds;
    bsi_row_store *old = bsi_row_store_open(s->workers, s->memory_bytes / 2, s->tmp);
    bomsync_status st = BOMSYNC_OK;
    for (unsigned from = 0; from < BSI_JOIN_PARTS && !st; from += per) {
        old_rows_run r = {.s = s, .err = err, .from = from, .to = BSI_MIN(from + per, BSI_JOIN_PARTS), .rows = old};
        bsi_parallel(s->workers, (size_t)s->workers, add_old_rows, &r);
        st = (bomsync_status)atomic_load(&r.status);
        if (!st) st = bsi_join_range(out, s->n_rows, old, from, r.to, s->workers, err);
        bsi_row_store_reset(old);
    }
    bsi_row_store_close(old);
    return st;
}

/* Most records are known to be unchanged: few old rows are wanted, from anywhere. */
static bomsync_status join_reconciled(bsi_sync *s, bsi_join_out *out, bomsync_error *err) {
    bsi_row_store *old = bsi_row_store_open(s->workers, s->memory_bytes / 2, s->tmp);
    bomsync_status st = bsi_reconcile_old(s, old, err);
    if (!st) st = bsi_join(out, s->n_rows, old, s->workers, err);
    if (!st) st = bsi_reconcile_gone(s, out, err);
    bsi_row_store_close(old);
    return st;
}

static bomsync_status join_once(bsi_sync *s, bsi_join_out *out, bomsync_error *err) {
    *out = (bsi_join_out){.fate = s->fate, .want_fresh = !s->settled && s->open_count != s->scan.blocks};
    bomsync_status st = s->settled ? join_reconciled(s, out, err) : join_rows(s, out, err);
    s->gone = out->gone;
    s->gone_count = out->gone_count;
    s->conflicts = out->conflicts;
    s->t.duplicates = (int64_t)out->duplicates;
    return st;
}

static void forget_rows(bsi_sync *s) {
    bool many = s->n_rows && bsi_row_store_count(s->n_rows) > (1u << 19);
    bsi_row_store_close(s->n_rows);
    s->n_rows = NULL;
    if (many) bsi_memory_give_back(); /* and the old rows': the edits that come take as much */
}

bomsync_status bsi_sync_join(bsi_sync *s, bomsync_error *err) {
    bsi_join_out out;
    bomsync_status st = join_once(s, &out, err);
    size_t opened = 0;
    if (!st && out.fresh_count) st = open_twins(s, out.fresh, out.fresh_count, &opened, err);
    free(out.fresh);
    if (!st && opened) {
        /* rare: everything that was found out about rows is found out again with the twins' blocks */
        forget_rows(s);
        free(s->fate);
        free(s->gone);
        s->gone = NULL;
        for (size_t i = 0; i < s->bad_count; i++) {
            free(s->bad[i].partition);
            free(s->bad[i].image);
            free(s->bad[i].value);
        }
        s->bad_count = 0;
        st = bsi_sync_open_blocks(s, err);
        if (!st) st = bsi_sync_parse(s, err);
        if (!st) st = join_once(s, &out, err);
        if (!st) free(out.fresh);
    }
    bsi_sync_memory(s);
    forget_rows(s);
    return st;
}

/* ---- what it means ---- */

typedef struct class_task {
    bsi_parts parts;
    made made;
    bsi_item *item;
    size_t count, cap;
    int64_t schema_only, outside;
    uint64_t outside_place;
    bomsync_status status;
    bomsync_error err;
} class_task;

typedef struct class_run {
    bsi_sync *s;
    class_task *task;
    size_t tasks;
    bool need_rows;   /* partitions or schema_only must be looked up */
    bool need_schema;
    bool count_only; /* a first load: 10 M creates need no list, they are counted already */
} class_run;

static bool in_scope(const bsi_sync *s, const uint8_t *p, size_t n) {
    if (!s->scope) return true;
    for (size_t i = 0; i < s->scope_count; i++)
        if (strlen(s->scope[i]) == n && memcmp(s->scope[i], p, n) == 0) return true;
    return false;
}

static bool schema_only(const bsi_sync *s, const bsi_layout *l, const bsi_field *old, const bsi_field *now, uint32_t slots) {
    uint32_t a = 0;
    for (uint32_t i = s->feed->slots.key_count; i < slots; i++) {
        while (a < l->absent_count && l->absent[a] < i) a++;
        if (bsi_field_eq(&old[i], &now[i])) continue;
        bool dropped = (a < l->absent_count && l->absent[a] == i) || i >= l->slot_count;
        bool added = i >= s->slots_before; /* one that was dropped and comes back restores values: those are updates */
        if (!dropped && !added) return false;
    }
    return true;
}

static void classify_task(void *ctx, size_t index) {
    class_run *r = ctx;
    bsi_sync *s = r->s;
    class_task *t = &r->task[index];
    t->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    uint32_t slots = s->feed->slots.count;
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = slots};
    bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .slot_count = slots};
    bsi_row_reader a, b;
    bsi_row_reader_open(&a, &now);
    bsi_row_reader_open(&b, &was);
    bsi_field *f = bsi_alloc(sizeof *f * slots), *g = bsi_alloc(sizeof *g * slots);
    size_t end = BSI_MIN((index + 1) * TASK_BLOCKS, s->open_count);
    for (size_t i = index * TASK_BLOCKS; i < end && !t->status; i++)
        for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1] && !t->status; k++) {
            uint64_t fate = s->fate[k];
            bool skip = fate & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE);
            bool same = (fate & BSI_FATE_MATCHED) && !(fate & BSI_FATE_CHANGED);
            if ((skip || same) && !s->scope && !(r->count_only && skip && !(fate & BSI_FATE_BAD))) continue;
            if (r->count_only && !skip) continue;
            uint64_t place = (uint64_t)i << 16 | (k - s->row_base[i]);
            if (r->count_only && (fate & BSI_FATE_BAD)) continue;
            uint32_t known = s->block_part && !r->need_schema && !s->scope && !r->count_only ? s->block_part[i] : UINT32_MAX;
            bsi_item it = {.now = place, .was = BSI_FATE_PLACE(fate), .op = fate & BSI_FATE_MATCHED ? 'u' : 'c'};
            if (known != UINT32_MAX) {
                it.part = bsi_part_of(&t->parts, s->block_parts.name[known], s->block_parts.len[known]);
            } else if (r->need_rows && !(fate & BSI_FATE_BAD)) {
                t->status = bsi_row_fetch(f, &a, place, &t->err);
                if (t->status) break;
                bsi_field p = bsi_change_partition(&s->feed->slots, f);
                if (!in_scope(s, p.p, p.len)) {
                    t->outside++;
                    t->outside_place = place;
                }
                it.part = bsi_part_of(&t->parts, p.p, p.len);
                if (it.op == 'u' && r->need_schema && !skip && !same) {
                    t->status = bsi_row_fetch(g, &b, it.was, &t->err);
                    if (!t->status) t->schema_only += schema_only(s, s->scan.file[s->scan.block[i].file].layout, g, f, slots);
                }
            } else {
                it.part = bsi_part_of(&t->parts, "_", 1);
            }
            if (r->count_only) made_of(&t->made, t->parts.name[it.part], t->parts.len[it.part])[0]--; /* counted, but not made */
            if (skip || same) continue;
            if (t->count == t->cap) t->item = bsi_realloc(t->item, (t->cap = t->cap ? t->cap * 2 : 64) * sizeof *t->item);
            t->item[t->count++] = it;
        }
    free(f);
    free(g);
    bsi_row_reader_close(&a);
    bsi_row_reader_close(&b);
}

static bomsync_status classify_gone(bsi_sync *s, bsi_item *item, size_t *count, bomsync_error *err) {
    bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .slot_count = s->feed->slots.count};
    bsi_row_reader b;
    bsi_row_reader_open(&b, &was);
    bsi_field *f = bsi_alloc(sizeof *f * s->feed->slots.count);
    bomsync_status st = BOMSYNC_OK;
    size_t kept = 0;
    for (size_t i = 0; i < s->gone_count && !st; i++) {
        bsi_field p = {(const uint8_t *)"_", 1, false};
        if (s->feed->slots.partition >= 0) {
            st = bsi_row_fetch(f, &b, s->gone[i], err);
            if (st) break;
            p = bsi_change_partition(&s->feed->slots, f);
        }
        if (!in_scope(s, p.p, p.len)) continue;
        s->gone[kept++] = s->gone[i];
        item[(*count)++] = (bsi_item){.op = 'd', .was = s->gone[i], .part = bsi_part_of(&s->parts, p.p, p.len)};
    }
    s->gone_count = kept;
    free(f);
    bsi_row_reader_close(&b);
    return st;
}

/* A row that was counted as made is kept back after all. */
static bomsync_status take_back(bsi_sync *s, uint64_t place, bomsync_error *err) {
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_reader r;
    bsi_row_reader_open(&r, &now);
    bsi_field *f = bsi_alloc(sizeof *f * now.slot_count);
    bomsync_status st = bsi_row_fetch(f, &r, place, err);
    if (!st) {
        bsi_field p = bsi_change_partition(&s->feed->slots, f);
        add_made(s, (const char *)p.p, p.len, -1);
    }
    free(f);
    bsi_row_reader_close(&r);
    return st;
}

/* Without evidence a last record that has no line end passes only if it is what is stored. */
static bomsync_status distrust_unfinished(bsi_sync *s, bomsync_error *err) {
    if (s->evidence) return BOMSYNC_OK;
    for (size_t i = 0; i < s->open_count; i++) {
        bsi_scan_block *b = &s->scan.block[i];
        if (!(b->flags & BSI_CUT_NO_LINE_END) || !b->records) continue;
        uint64_t index = s->row_base[i + 1] - 1, fate = s->fate[index];
        if (fate & (BSI_FATE_BAD | BSI_FATE_DUPLICATE | BSI_FATE_CONFLICT)) continue;
        if ((fate & BSI_FATE_MATCHED) && !(fate & BSI_FATE_CHANGED)) continue;
        s->fate[index] = (fate & ~BSI_FATE_CHANGED) | BSI_FATE_BAD;
        if (s->bad_count == s->bad_cap) s->bad = bsi_realloc(s->bad, (s->bad_cap = s->bad_cap ? s->bad_cap * 2 : 16) * sizeof *s->bad);
        s->bad[s->bad_count++] = (bsi_kept_row){.place = (uint64_t)i << 16 | (b->records - 1), .index = index, .rule = BSI_RULE_UNFINISHED,
                                                .byte = b->offset + b->bytes, .column = UINT32_MAX, .value = bsi_strdup("")};
        bomsync_status st = s->counted ? take_back(s, (uint64_t)i << 16 | (b->records - 1), err) : BOMSYNC_OK;
        if (st) return st;
    }
    return BOMSYNC_OK;
}

bomsync_status bsi_sync_classify(bsi_sync *s, bomsync_error *err) {
    bomsync_status st = distrust_unfinished(s, err);
    if (st) return st;
    if (s->o->upsert) s->gone_count = 0;
    class_run r = {.s = s, .tasks = (s->open_count + TASK_BLOCKS - 1) / TASK_BLOCKS};
    bool changed_schema = s->slots_before != s->feed->slots.count;
    for (size_t f = 0; f < s->scan.file_count; f++)
        if (s->scan.file[f].layout && s->scan.file[f].layout->absent_count) changed_schema = true;
    r.need_schema = s->last && changed_schema;
    r.need_rows = s->feed->slots.partition >= 0 || r.need_schema;
    r.count_only = s->counted;
    r.task = bsi_calloc(r.tasks + 1, sizeof *r.task);
    bsi_parallel(s->workers, r.tasks, classify_task, &r);
    size_t total = s->gone_count;
    for (size_t i = 0; i < r.tasks; i++) {
        total += r.task[i].count;
        s->t.schema_only += r.task[i].schema_only;
        if (r.task[i].status && !st) {
            st = r.task[i].status;
            *err = r.task[i].err;
        }
        if (r.task[i].outside && !st) {
            size_t block = (size_t)(r.task[i].outside_place >> 16);
            bsi_source *src = s->scan.file[s->scan.block[block].file].source;
            st = bsi_fail(err, BOMSYNC_E_REFUSED, "a record lies outside --scope %s", s->o->scope ? s->o->scope : "of the control file");
            bsi_at(err, bsi_source_path(src), (int64_t)s->scan.block[block].offset, -1, NULL, NULL, 0);
            bsi_hint(err, "nothing was changed; name every partition that the snapshot speaks for");
        }
    }
    s->item = NULL;
    size_t room = 0;
    for (size_t i = 0; i < r.tasks; i++) {
        class_task *t = &r.task[i];
        if (room < s->item_count + t->count) /* grows while the tasks' lists shrink: never both whole in memory */
            s->item = bsi_realloc(s->item, (room = BSI_MIN(total, (s->item_count + t->count) * 5 / 4)) * sizeof *s->item);
        uint32_t *map = bsi_alloc(sizeof *map * (t->parts.count + 1));
        for (uint32_t p = 0; p < t->parts.count; p++) map[p] = bsi_part_of(&s->parts, t->parts.name[p], t->parts.len[p]);
        take_made(s, &t->made);
        for (size_t k = 0; k < t->count && !st; k++) {
            s->item[s->item_count] = t->item[k];
            s->item[s->item_count++].part = map[t->item[k].part];
            if (t->item[k].op == 'u') s->t.updated++;
            else s->t.created++;
        }
        free(map);
        free(t->item);
        bsi_parts_free(&t->parts);
    }
    free(r.task);
    s->item = bsi_realloc(s->item, (total + 1) * sizeof *s->item);
    if (!st) st = classify_gone(s, s->item, &s->item_count, err);
    s->t.deleted = (int64_t)s->gone_count;
    s->t.kept_back = (int64_t)s->conflicts;
    for (size_t i = 0; i < s->bad_count; i++) s->t.kept_back += !(s->fate[s->bad[i].index] & BSI_FATE_CONFLICT);
    s->t.unchanged = s->t.records_in - s->t.created - s->t.updated - s->t.kept_back - s->t.duplicates;
    return st;
}
