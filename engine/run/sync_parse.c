/* run/sync_parse.c - open blocks to rows: with the scan, while their bytes are at hand, or after it.
 *
 *   first load    block ──> rows ──> a state block, written at once; key hashes, to find those that stand twice; creates, counted
 *   later         block ──> rows ──> kept for who renders and writes changes; hashes, for the join
 *
 * With the scan (bsi_sync_early_open) go the blocks of plain files whose records can all be read. What is left, of streams,
 * packs and broken records, is read again (bsi_sync_parse).
 */
#include "run/sync.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/chunk.h"
#include "core/limits.h"
#include "core/vast.h"
#include "flow/twins.h"
#include "run/edit.h"

enum { SPAN_BYTES = 256 << 10 };

typedef struct last_part { /* that a lane saw: blocks of one stand together */
    const char *name;
    uint32_t bytes, part;
} last_part;

typedef struct parse_run {
    bsi_sync *s;
    pthread_mutex_t lock;
    bomsync_status status;
    bomsync_error *err;
    bool first_load;
    atomic_bool inexact; /* a first load: some block has no state block of its own */
    atomic_ullong ragged;
    atomic_ullong kept_bytes;
    uint64_t keep_bytes;
    atomic_ullong opened, amended; /* blocks that were parsed with the scan, and those of them that were changed in place */
    bool may_amend, may_write;
    bsi_amend_writer **amend;  /* one a lane */
    bsi_twins *twins;          /* a first load: keys alone */
    bsi_made *made;                /* one a lane: a first load, whose creates are only counted; else NULL */
    bsi_block_writer **writer; /* one a lane */
    bsi_rows *rows;            /* one a lane: of blocks that are parsed with the scan */
    last_part *part;           /* one a lane */
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
    bool cr = false;
    k.byte = s->scan.block[block].offset + b->byte;
    k.line_ends = bsi_line_ends(&cr, p, BSI_MIN(b->byte, n));
    if (b->key_read) {
        k.kh = w->kh[b->row];
        k.image_bytes = w->image[b->row + 1] - w->image[b->row];
        k.body_bytes = w->body[b->row];
        k.image = w->enc.data + w->image[b->row];
    }
    char *partition = b->partition_read && b->partition.len ? bsi_strndup((const char *)b->partition.data, b->partition.len) : NULL;
    if (b->partition_read) k.partition = partition ? partition : "_";
    uint32_t from = w->raw[b->row], to = BSI_MIN(w->raw[b->row + 1], (uint32_t)n);
    uint32_t len = BSI_MIN(to - from, 100u);
    while (len && (p[from + len - 1] == '\n' || p[from + len - 1] == '\r')) len--;
    char *value = bsi_strndup((const char *)p + from, len);
    k.value = value;
    pthread_mutex_lock(&r->lock);
    bsi_sync_bad_add(s, &k);
    pthread_mutex_unlock(&r->lock);
    free(value);
    free(partition);
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
    return bsi_block_writer_add_rows(&s->first_ref[open], r->writer[lane], w, err);
}

int64_t *bsi_made_of(bsi_made *m, const void *p, size_t n) {
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

/* Do both rows say the same partition in their first field? A short one, as it mostly is, is one word with its length; 64 bytes behind
 * the images may be read. False: it is looked at more closely. */
static inline bool same_first(const bsi_rows *w, uint32_t i, uint32_t k, int32_t slot) {
    const uint8_t *p = w->enc.data + w->image[i], *q = w->enc.data + w->image[k];
    if (slot) return slot < 0; /* without a partition column there is one */
    if (p[0] > 7) return false;
    return (bsi_chunk_word(p) ^ bsi_chunk_word(q)) << (56 - 8 * p[0]) == 0;
}

/* Rows that stand together mostly lie in one partition: looked up once for all of them. */
static void count_made(bsi_made *m, const bsi_rows *w, int32_t slot, int64_t by) {
    bsi_field last = {0};
    int64_t rows = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < w->count; before = i++) {
        if (w->bad[i]) continue;
        if (rows && !w->bad[before] && same_first(w, i, before, slot)) {
            rows++;
            continue;
        }
        bsi_field f = partition_of(w, i, slot);
        if (rows && !bsi_field_eq(&f, &last)) {
            *bsi_made_of(m, last.p, last.len) += rows * by;
            rows = 0;
        }
        last = f;
        rows++;
    }
    if (rows) *bsi_made_of(m, last.p, last.len) += rows * by;
}

static void free_made(bsi_made *m) {
    bsi_parts_free(&m->parts);
    free(m->count);
}

/* Most blocks lie in one partition: knowing it saves looking at their rows again. Its number in block_parts, or UINT32_MAX. */
static uint32_t one_partition(parse_run *r, const bsi_rows *w) {
    bsi_sync *s = r->s;
    if (!w->count || w->bad_count) return UINT32_MAX;
    bsi_field first = partition_of(w, 0, s->feed->slots.partition);
    for (uint32_t i = 1; i < w->count; i++) {
        if (same_first(w, i, 0, s->feed->slots.partition)) continue;
        bsi_field f = partition_of(w, i, s->feed->slots.partition);
        if (!bsi_field_eq(&f, &first)) return UINT32_MAX;
    }
    last_part *last = &r->part[bsi_lane()];
    if (last->name && last->bytes == first.len && memcmp(last->name, first.p, first.len) == 0) return last->part;
    pthread_mutex_lock(&r->lock);
    uint32_t part = bsi_part_of(&s->block_parts, first.p, first.len);
    *last = (last_part){s->block_parts.name[part], first.len, part};
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

/* A block that was parsed with the scan: of a first load its state block is written, else its rows were kept. a: it was changed in place. */
static bomsync_status take_early(parse_run *r, int lane, size_t open, const bsi_amended *a, bomsync_error *err) {
    bsi_sync *s = r->s;
    bsi_scan_block *b = &s->scan.block[open];
    uint64_t tag = b->tag;
    if (r->first_load) {
        b->tag = BSI_NO_TAG;
        s->first_ref[open] = tag;
        s->block_part[open] = b->part;
        return BOMSYNC_OK;
    }
    bsi_early_block *e = (bsi_early_block *)(uintptr_t)tag;
    s->scan.parsed[open] = e->rows;
    s->block_part[open] = b->part;
    uint64_t first = a ? s->row_base[s->open_count] + a->fate : s->row_base[open];
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t i = 0; i < e->count && !st; i++)
        st = bsi_row_store_add(s->n_rows, lane, &(bsi_row){e->hash[i], e->hash[e->count + i], first + i}, err);
    e->rows = NULL; /* the scan's now */
    if (!e->lent) b->tag = BSI_NO_TAG;
    bsi_early_free(e);
    return st;
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
    size_t end = BSI_MIN((index + 1) * BSI_SYNC_TASK_BLOCKS, s->open_count);
    bsi_amend_walk amended = {0};
    for (size_t i = index * BSI_SYNC_TASK_BLOCKS; i < end && !st;) {
        if (is_early(&s->scan.block[i])) {
            st = take_early(r, lane, i, bsi_amend_next(&amended, s, i), &err);
            i++;
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
            s->block_part[i + k] = one_partition(r, &w);
            if (r->made) count_made(&r->made[lane], &w, s->feed->slots.partition, 1);
            p += b->bytes;
        }
        i += count;
    }
    for (size_t i = index * BSI_SYNC_TASK_BLOCKS; r->first_load && i < end; i++)
        if (s->first_ref[i] == BSI_REF_NONE || (s->scan.block[i].flags & BSI_EDIT_NOT_EXACT) || !s->scan.block[i].records)
            atomic_store_explicit(&r->inexact, true, memory_order_relaxed);
    bsi_rows_free(&w);
    bsi_buf_free(&buf);
    if (st) fail_parse(r, st, &err);
}

/* ---- parsing with the scan ---- */

/* A first load: what can be read goes into the store at once. Blocks with records that cannot are left for later. */
static bool early_first(void *ctx, const bsi_layout *layout, bsi_scan_block *b, const uint8_t *p, bsi_scan_expected x) {
    (void)x;
    bsi_early *e = ctx;
    parse_run *r = &e->run;
    int lane = bsi_lane();
    bsi_rows *w = &r->rows[lane];
    if (b->flags & BSI_CUT_OVERSIZE) return false;
    bsi_parse_block(w, layout, bsi_store_secret(r->s->store), p, b->bytes, false);
    if (w->bad_count || !w->count || w->count != b->records) return false;
    bsi_ref ref;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = open_writer(r, lane, &err);
    if (!st) st = bsi_twins_add(r->twins, lane, w->kh, w->count, &err);
    if (!st) st = bsi_block_writer_add_rows(&ref, r->writer[lane], w, &err);
    if (st) {
        fail_parse(r, st, &err);
        return false;
    }
    b->tag = ref;
    if (r->made) count_made(&r->made[lane], w, r->s->feed->slots.partition, 1);
    b->part = one_partition(r, w);
    return false;
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
    int lane = bsi_lane();
    bsi_rows *w = &r->rows[lane];
    if (!st) bsi_parse_block(w, r->s->scan.file[b->file].layout, bsi_store_secret(r->s->store), buf.data, buf.len, false);
    if (!st) count_made(&r->made[lane], w, r->s->feed->slots.partition, -1);
    else fail_parse(r, st, &err);
    bsi_buf_free(&buf);
}

/* Bit i: row i is not in the old block as it is, in most cases at the same place. Others will hardly be asked for again. */
static uint64_t rows_not_in(const bsi_block_rows *old, const bsi_rows *w) {
    uint64_t out = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        uint32_t k = i < old->count && old->kh[i] == w->kh[i] ? i : 0;
        while (k < old->count && old->kh[k] != w->kh[i]) k++;
        if (k == old->count || old->rh[k] != w->rh[i]) out |= 1ull << i;
    }
    return out;
}

/* The state block that was expected, if it is known. */
static bsi_ref expected_ref(bsi_scan_expected x) { return x.entry && (x.entry->flags & BSI_IMAGE_EXACT) ? x.entry->ref : BSI_REF_NONE; }

/* Is it worth looking at another block? What is found of blocks that were changed in place is small, or is kept in files where it becomes much, and
 * saves more. */
static bool has_room(const parse_run *r, bool *rows) {
    uint64_t kept = atomic_load_explicit(&r->kept_bytes, memory_order_relaxed);
    *rows = kept < r->keep_bytes;
    uint64_t opened = atomic_load_explicit(&r->opened, memory_order_relaxed), amended = atomic_load_explicit(&r->amended, memory_order_relaxed);
    return *rows || ((r->may_write || kept < r->keep_bytes + r->keep_bytes / 4) && amended * 2 > opened);
}

/* Was it changed in place? Then its state block is written at once: later both rows would have to be found again. w has no hashes so far. */
static bomsync_status amend_at_once(bool *amends, bsi_amended *a, parse_run *r, const bsi_scan_block *b, bsi_rows *w, bsi_scan_expected x,
                                    bomsync_error *err) {
    bsi_amend_writer **writer = &r->amend[bsi_lane()];
    *amends = false;
    if (!r->may_amend || !r->may_write) return BOMSYNC_OK;
    bomsync_status st = *writer ? BOMSYNC_OK : bsi_amend_writer_open(writer, r->s, err);
    return st ? st : bsi_amend_at_once(amends, a, *writer, b, w, x, err);
}

/* a: of a block that amends, else NULL; writer: of one that was written, else NULL. *bytes: what it takes of the room for rows. */
static bsi_early_block *early_block(const bsi_rows *w, const bsi_amended *a, bsi_amend_writer *writer, size_t *bytes) {
    uint32_t hashes = a ? (uint32_t)__builtin_popcountll(a->created) : w->count, n = 0;
    size_t size = sizeof(bsi_early_block) + 16ull * hashes;
    *bytes = writer ? 0 : size;
    bsi_early_block *k = writer ? bsi_amend_keep(writer, size) : bsi_alloc(size);
    *k = (bsi_early_block){.amends = a != NULL, .lent = writer != NULL, .count = hashes};
    if (a) k->amended = *a;
    for (uint32_t i = 0; n < hashes; i++) {
        if (a && !(a->created >> i & 1)) continue;
        k->hash[n] = w->kh[i];
        k->hash[hashes + n++] = w->rh[i];
    }
    return k;
}

/* Else rows are kept while there is room: a changed block need not be read and parsed again. Of rows that the block which was
 * expected here has, too, the hashes will do, and not even those if all its keys stand there one by one (sync_amend.c): one
 * row in sixteen is what changes are made of. */
static bool early_keep(void *ctx, const bsi_layout *layout, bsi_scan_block *b, const uint8_t *p, bsi_scan_expected x) {
    bsi_early *e = ctx;
    parse_run *r = &e->run;
    bool room;
    if ((b->flags & BSI_CUT_OVERSIZE) || !has_room(r, &room)) return false;
    bsi_rows *w = &r->rows[bsi_lane()];
    bsi_parse_block(w, layout, NULL, p, b->bytes, false);
    if (w->count != b->records || w->bad_count) return false;
    bsi_ref ref = expected_ref(x);
    bool known = ref != BSI_REF_NONE, amends = false;
    if (known) bsi_sync_base_ahead(r->s);
    bsi_amended a = {0};
    size_t bytes, more = 0;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = known ? amend_at_once(&amends, &a, r, b, w, x, &err) : BOMSYNC_OK;
    bool written = amends;
    if (st) {
        fail_parse(r, st, &err);
        return false;
    }
    bsi_block_rows old = {0};
    if (!amends) {
        bsi_rows_hash(w, bsi_store_secret(r->s->store), BSI_HASH_BOTH);
        known = known && !bsi_store_rows(&old, r->s->store, ref, NULL); /* a fault is told by who needs it */
        amends = known && r->may_amend && bsi_amend_find(&a, b, w, &old, ref, x.index);
    }
    atomic_fetch_add_explicit(&r->opened, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&r->amended, amends, memory_order_relaxed);
    if (!room && !amends) return false;
    bsi_early_block *k = early_block(w, amends ? &a : NULL, written ? r->amend[bsi_lane()] : NULL, &bytes);
    bool some = known && w->count <= 64; /* as many as can be named */
    uint64_t only = amends ? a.changed : some ? rows_not_in(&old, w) : 0;
    if (room && !written && (only || !some)) k->rows = bsi_scan_keep(w, only, &more);
    b->tag = (uint64_t)(uintptr_t)k;
    b->part = one_partition(r, w);
    atomic_fetch_add_explicit(&r->kept_bytes, bytes + more, memory_order_relaxed);
    return amends;
}

static void early_forget(void *ctx, const bsi_scan_block *b) {
    (void)ctx;
    bsi_early_free((bsi_early_block *)(uintptr_t)b->tag);
}

static bool is_first_load(const bsi_sync *s) { return !s->feed->records && !s->o->dry_run && !(s->last && s->base_count); }

static void start_run(parse_run *r, bsi_sync *s, bool first_load) {
    r->s = s;
    r->first_load = first_load;
    pthread_mutex_init(&r->lock, NULL);
    r->writer = bsi_calloc((size_t)s->workers + 1, sizeof *r->writer);
    r->rows = bsi_calloc((size_t)s->workers + 1, sizeof *r->rows);
    r->amend = bsi_calloc((size_t)s->workers + 1, sizeof *r->amend);
    r->part = bsi_calloc((size_t)s->workers + 1, sizeof *r->part);
    if (!first_load) return;
    if (!s->scope) r->made = bsi_calloc((size_t)s->workers + 1, sizeof *r->made);
    r->twins = bsi_twins_open(s->workers + 1, s->memory_bytes / 8, s->tmp);
}

static bomsync_status end_run(parse_run *r, bomsync_error *err) {
    for (int i = 0; i <= r->s->workers; i++) {
        bomsync_status st = r->writer[i] ? bsi_block_writer_close(r->writer[i], err) : BOMSYNC_OK;
        bomsync_status closed = bsi_amend_writer_close(r->amend[i], st ? NULL : err);
        if (!st) st = closed;
        if (st && !r->status) r->status = st;
        bsi_rows_free(&r->rows[i]);
    }
    free(r->amend);
    free(r->part);
    r->amend = NULL;
    r->part = NULL;
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
    e->run.keep_bytes = s->memory_bytes / 5;
    e->run.may_amend = bsi_amend_possible(s);
    e->run.may_write = !s->o->dry_run && s->feed->dictionary; /* without: this run may be the one that learns it */
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
            if (is_early(&s->scan.block[i])) early_forget(NULL, &s->scan.block[i]);
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
    size_t end = BSI_MIN((index + 1) * BSI_SYNC_TASK_BLOCKS, s->open_count);
    for (size_t i = index * BSI_SYNC_TASK_BLOCKS; i < end && !st; i++) {
        st = bsi_scan_bytes(&s->scan, i, &buf, &err);
        if (st) break;
        bsi_parse_block(&w, s->scan.file[s->scan.block[i].file].layout, bsi_store_secret(s->store), buf.data, buf.len, false);
        for (uint32_t k = 0, bad = 0; k < w.count && !st; k++) {
            if (w.bad[k] && !w.bads[bad++].key_read) continue;
            uint32_t h = (uint32_t)(w.kh[k] >> 44);
            if (!(r->filter[h >> 3] >> (h & 7) & 1) || !bsi_u64_has(r->kh, r->count, w.kh[k])) continue;
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
        bsi_parallel(s->workers, (s->open_count + BSI_SYNC_TASK_BLOCKS - 1) / BSI_SYNC_TASK_BLOCKS, twin_rows_task, &r);
        st = (bomsync_status)atomic_load(&r.status);
        free(filter);
    }
    free(kh);
    return st;
}

void bsi_sync_add_made(bsi_sync *s, const char *part, uint32_t len, int64_t n) {
    uint32_t p = bsi_part_of(&s->parts, part, len);
    if (p >= s->part_made_count) {
        s->part_made = bsi_realloc(s->part_made, (p + 1) * sizeof *s->part_made);
        for (; s->part_made_count <= p; s->part_made_count++) s->part_made[s->part_made_count] = 0;
    }
    s->part_made[p] += n;
    s->t.created += n;
}

void bsi_made_take(bsi_sync *s, bsi_made *m) {
    for (uint32_t p = 0; p < BSI_MIN(m->parts.count, m->cap); p++) bsi_sync_add_made(s, m->parts.name[p], m->parts.len[p], m->count[p]);
    free_made(m);
}

/* Of some rows among many the rows that were kept would be no help. */
static void plan_to_keep(parse_run *r) {
    bsi_sync *s = r->s;
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->open_count && bytes <= s->memory_bytes; i++) bytes += s->scan.block[i].bytes;
    bool few = bytes + bytes / 2 <= s->memory_bytes / 4;
    if (few || (s->early && !r->first_load)) s->scan.parsed = bsi_vast_calloc(s->open_count + 1, sizeof *s->scan.parsed);
    r->keep_bytes = few ? s->memory_bytes / 4 : 0;
}

bomsync_status bsi_sync_parse(bsi_sync *s, bomsync_error *err) {
    uint64_t rows = s->row_base[s->open_count];
    s->n_rows = bsi_row_store_open(s->workers, bsi_sync_room(s), s->tmp);
    parse_run fresh = {0}, *r = s->early && !s->early->used ? &s->early->run : &fresh;
    if (r == &fresh) start_run(r, s, is_first_load(s));
    else s->early->used = true;
    if (r->status) *err = *r->err;
    r->err = err;
    s->fate = r->first_load ? bsi_calloc(rows + 1, sizeof *s->fate) : bsi_vast_calloc(rows + s->amended_created + 1, sizeof *s->fate); /* of a first load hardly touched */
    if (r->first_load) {
        s->first_ref = bsi_vast_alloc(sizeof *s->first_ref * (s->open_count + 1));
        memset(s->first_ref, 0xff, sizeof *s->first_ref * (s->open_count + 1));
    }
    plan_to_keep(r);
    bsi_vast_free(s->block_part);
    s->block_part = bsi_vast_alloc(sizeof *s->block_part * (s->open_count + 1));
    if (r->first_load && !s->learned && !r->status) r->status = bsi_sync_learn(s, rows, err);
    bsi_parallel(s->workers, (s->open_count + BSI_SYNC_TASK_BLOCKS - 1) / BSI_SYNC_TASK_BLOCKS, parse_task, r);
    if (end_run(r, err) == BOMSYNC_OK && r->first_load) {
        bsi_store_flush(s->store);
        s->all_exact = !r->inexact;
        s->all_new = r->made && !s->bad_count; /* unless some stand twice */
        bsi_sync_ahead_start(s);
    }
    if (r->twins && !r->status) r->status = add_twins(s, r->twins, err);
    if (bsi_row_store_count(s->n_rows)) s->all_new = false;
    bsi_twins_close(r->twins);
    r->twins = NULL;
    for (int i = 0; r->made && i <= s->workers; i++) bsi_made_take(s, &r->made[i]);
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
