/* run/diff.c - two files without a store.
 *
 *   OLD -> cut, fingerprint -> an image in memory        NEW -> cut, fingerprint, matched with that image
 *   blocks that match are equal; their keys are still hashed once, because a key that stands twice must be found
 *   wherever its copies are. What does not match is parsed on both sides and joined.
 *
 * Keys with copies that differ, and records that cannot be read, are left out on both sides and reported (exit 4).
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/limits.h"
#include "flow/join.h"
#include "flow/twins.h"
#include "run/changes.h"
#include "run/csv_out.h"
#include "run/query.h"

enum { TASK_BLOCKS = 512, PIECE_ENTRIES = 64, SPAN_BYTES = 64 << 10 };

typedef struct old_row {
    uint64_t kh, rh, place;
} old_row;

typedef struct row_list {
    old_row *v;
    size_t n, cap;
} row_list;

typedef struct side {
    bsi_scan scan;
    uint8_t *settled;    /* OLD: [open blocks] a block of NEW has the same bytes */
    row_list rows;       /* of open blocks that are not settled, in file order */
    uint64_t bad, ragged;
    uint64_t *left_out;  /* key hashes that take no part, ascending */
    size_t left_count, left_cap;
} side;

typedef struct diff_run {
    const bomsync_diff_options *o;
    int workers;
    const char *tmp;
    bsi_secret secret;
    bsi_slots slots;
    side old, now;
    uint64_t memory_bytes;
    bsi_image image;         /* of OLD, in memory */
    bsi_image_entry *entry;
    bsi_image_piece *piece;
    size_t piece_count;
    int64_t created, updated, deleted, unchanged, schema_only, duplicates, kept_back, records_old, records_new;
} diff_run;

static int by_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void leave_out(side *s, uint64_t kh) {
    if (s->left_count == s->left_cap) s->left_out = bsi_realloc(s->left_out, (s->left_cap = s->left_cap ? s->left_cap * 2 : 64) * sizeof *s->left_out);
    s->left_out[s->left_count++] = kh;
}

static bool is_left_out(const side *s, uint64_t kh) { return s->left_count && bsearch(&kh, s->left_out, s->left_count, sizeof kh, by_u64); }

/* ---- parsing blocks in parallel, results in file order ---- */

typedef struct left_row {
    uint64_t kh;
    bool ragged;
} left_row;

typedef struct parse_task {
    row_list rows;
    uint64_t bad, ragged;
    left_row *left;
    size_t left_count;
    bomsync_status status;
    bomsync_error err;
} parse_task;

typedef struct parse_run {
    diff_run *d;
    side *s;
    parse_task *task;
} parse_run;

static void row_add(row_list *l, old_row r) {
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
            for (uint32_t row = 0, bad = 0; row < w.count; row++) {
                if (w.bad[row]) {
                    t->bad++;
                    t->ragged += w.bad[row] == BSI_RULE_COLUMNS;
                    if (w.bads[bad++].key_read) {
                        t->left = bsi_realloc(t->left, (t->left_count + 1) * sizeof *t->left);
                        t->left[t->left_count++] = (left_row){w.kh[row], w.bad[row] == BSI_RULE_COLUMNS};
                    }
                    continue;
                }
                row_add(&t->rows, (old_row){w.kh[row], w.rh[row], (uint64_t)(i + k) << 16 | row});
            }
        }
        i += count;
    }
    bsi_rows_free(&w);
    bsi_buf_free(&buf);
}

/* Of a record with too few or too many columns what stands at the key's places is its key only if OLD has such a key. */
static bool in_old(const diff_run *d, uint64_t **sorted, uint64_t kh) {
    const row_list *old = &d->old.rows;
    if (!*sorted) {
        *sorted = bsi_alloc((old->n + 1) * sizeof **sorted);
        for (size_t i = 0; i < old->n; i++) (*sorted)[i] = old->v[i].kh;
        bsi_sort(*sorted, old->n, sizeof **sorted, by_u64);
    }
    return old->n && bsearch(&kh, *sorted, old->n, sizeof kh, by_u64) != NULL;
}

/* The rows of the blocks of one side that are not settled. */
static bomsync_status parse_side(diff_run *d, side *s, bomsync_error *err) {
    size_t tasks = (s->scan.block_count + TASK_BLOCKS - 1) / TASK_BLOCKS;
    row_list *rows = &s->rows;
    rows->n = s->bad = s->ragged = s->left_count = 0;
    parse_run r = {.d = d, .s = s};
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
            if (!t->left[k].ragged || s == &d->old || in_old(d, &sorted, t->left[k].kh)) leave_out(s, t->left[k].kh);
        }
        free(t->rows.v);
        free(t->left);
    }
    free(sorted);
    free(r.task);
    return st;
}

/* ---- keys that stand more than once ---- */

typedef struct stretch { /* of a matched run: what one task looks at */
    const bsi_scan_run *run;
    uint64_t first, count; /* entries, from the run's first */
    uint64_t before, bytes;
} stretch;

typedef struct key_run {
    diff_run *d;
    stretch *stretch;
    size_t count, cap;
    bsi_twins *twins;      /* first pass: where the keys go */
    const uint64_t *dup;   /* second pass: keys to find, ascending */
    size_t dup_count;
    uint8_t *filter;       /* 2^20 bits of them */
    uint8_t *hit;          /* [entries] blocks to look at after all */
    atomic_bool any_hit;
    atomic_flag lock;
    bsi_rows *rows;        /* [workers] */
    bsi_buf *buf;          /* [workers] */
    bomsync_status status;
    bomsync_error *err;
} key_run;

static bool has(const uint64_t *v, size_t n, uint64_t x) { return n && bsearch(&x, v, n, sizeof x, by_u64) != NULL; }

static void plan_stretches(key_run *r) {
    const bsi_scan *scan = &r->d->now.scan;
    bsi_image_walk w = {.image = &r->d->image};
    for (size_t i = 0; i < scan->run_count; i++) {
        const bsi_scan_run *run = &scan->run[i];
        stretch s = {.run = run};
        for (uint64_t k = 0; run->matched && k < run->count; k++) {
            uint32_t bytes = bsi_image_next(&w, run->first + k)->bytes;
            s.count++;
            s.bytes += bytes;
            if (s.bytes < SPAN_BYTES && k + 1 < run->count) continue;
            if (r->count == r->cap) r->stretch = bsi_realloc(r->stretch, (r->cap = r->cap ? r->cap * 2 : 64) * sizeof *r->stretch);
            r->stretch[r->count++] = s;
            s = (stretch){.run = run, .first = k + 1, .before = s.before + s.bytes};
        }
    }
}

static bool wanted(const key_run *r, const bsi_rows *w) {
    for (uint32_t i = 0; i < w->count; i++) {
        uint32_t h = (uint32_t)(w->kh[i] >> 44);
        if ((r->filter[h >> 3] >> (h & 7) & 1) && has(r->dup, r->dup_count, w->kh[i])) return true;
    }
    return false;
}

/* Block by block: those with a record that cannot be read, or with a key that is looked for. */
static void mark_blocks(key_run *r, const bsi_layout *layout, uint64_t entry, uint64_t count, bsi_rows *w, const uint8_t *p) {
    bsi_image_walk walk = {.image = &r->d->image};
    for (uint64_t end = entry + count; entry < end; entry++) {
        uint32_t bytes = bsi_image_next(&walk, entry)->bytes;
        bsi_parse_block(w, layout, &r->d->secret, p, bytes, true);
        p += bytes;
        if (!w->bad_count && !(r->dup && wanted(r, w))) continue;
        r->hit[entry] = 1;
        atomic_store(&r->any_hit, true);
    }
}

static void note_fault(key_run *r, bomsync_status st, const bomsync_error *err) {
    while (st && atomic_flag_test_and_set(&r->lock)) {}
    if (st && !r->status) {
        r->status = st;
        *r->err = *err;
    }
    if (st) atomic_flag_clear(&r->lock);
}

/* Second pass: the blocks that hold a key that stands twice. */
static void keys_task(void *ctx, size_t index) {
    key_run *r = ctx;
    const stretch *s = &r->stretch[index];
    bsi_buf *buf = &r->buf[bsi_lane()];
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = bsi_scan_range(&r->d->now.scan, s->run, s->before, s->bytes, buf, &err);
    if (!st) mark_blocks(r, r->d->now.scan.file[s->run->file].layout, s->run->first + s->first, s->count, &r->rows[bsi_lane()], buf->data);
    note_fault(r, st, &err);
}

/* First pass, while NEW is scanned: the keys of blocks that OLD has, too. Blocks that the scan drops again only add keys that
 * seem to stand twice: more is looked at then, nothing is missed. */
static void take_keys(void *ctx, const bsi_layout *layout, uint64_t first, uint64_t count, const uint8_t *p) {
    key_run *r = ctx;
    bsi_rows *w = &r->rows[bsi_lane()];
    bsi_image_walk walk = {.image = &r->d->image};
    while (count) {
        uint64_t n = 0, bytes = 0;
        while (n < count && bytes < SPAN_BYTES) bytes += bsi_image_next(&walk, first + n++)->bytes;
        bsi_parse_block(w, layout, &r->d->secret, p, bytes, true);
        uint32_t good = 0;
        for (uint32_t i = 0; i < w->count; i++)
            if (!w->bad[i]) w->kh[good++] = w->kh[i];
        bomsync_error err = BOMSYNC_ERROR_INIT;
        note_fault(r, bsi_twins_add(r->twins, bsi_lane(), w->kh, good, &err), &err);
        if (w->bad_count) mark_blocks(r, layout, first, n, w, p);
        first += n;
        count -= n;
        p += bytes;
    }
}

static uint64_t *open_keys(const diff_run *d, size_t *count) {
    uint64_t *kh = bsi_alloc((d->old.rows.n + d->now.rows.n + 1) * sizeof *kh);
    *count = 0;
    for (size_t i = 0; i < d->old.rows.n; i++) kh[(*count)++] = d->old.rows.v[i].kh;
    for (size_t i = 0; i < d->now.rows.n; i++) kh[(*count)++] = d->now.rows.v[i].kh;
    bsi_sort(kh, *count, sizeof *kh, by_u64);
    return kh;
}

static bool is_hit(void *ctx, uint64_t index, const bsi_image_entry *e) {
    (void)e;
    return ((const uint8_t *)ctx)[index];
}

/* Matched blocks that hold a key that stands elsewhere too, or a record that cannot be read, are compared record by record
 * after all. *opened: there were some. */
static bomsync_status open_twins(key_run *r, bool *opened, bomsync_error *err) {
    diff_run *d = r->d;
    *opened = false;
    size_t probes, dups = 0;
    uint64_t *probe = open_keys(d, &probes), *dup = NULL;
    if (!r->status) r->status = bsi_twins_find(&dup, &dups, r->twins, probe, probes, d->workers, err);
    free(probe);
    if (!r->status && dups) {
        plan_stretches(r);
        r->dup = dup;
        r->dup_count = dups;
        r->filter = bsi_calloc(1 << 17, 1);
        for (size_t i = 0; i < dups; i++) r->filter[dup[i] >> 47] |= (uint8_t)(1u << (dup[i] >> 44 & 7));
        bsi_parallel(d->workers, r->count, keys_task, r);
    }
    free(dup);
    if (!r->status && atomic_load(&r->any_hit)) {
        for (uint64_t i = 0; i < d->image.count; i++)
            if (r->hit[i]) d->old.settled[i] = 0;
        bsi_scan_reopen(&d->now.scan, &d->image, is_hit, r->hit);
        *opened = true;
    }
    return r->status;
}

static void key_run_init(key_run *r, diff_run *d, bomsync_error *err) {
    *r = (key_run){.d = d, .lock = ATOMIC_FLAG_INIT, .err = err};
    r->rows = bsi_calloc((size_t)d->workers, sizeof *r->rows);
    r->buf = bsi_calloc((size_t)d->workers, sizeof *r->buf);
    r->twins = bsi_twins_open(d->workers, d->memory_bytes / 2, d->tmp);
}

static void key_run_release(key_run *r) {
    for (int i = 0; i < r->d->workers; i++) {
        bsi_rows_free(&r->rows[i]);
        bsi_buf_free(&r->buf[i]);
    }
    bsi_twins_close(r->twins);
    free(r->rows);
    free(r->buf);
    free(r->stretch);
    free(r->filter);
    free(r->hit);
}

/* ---- the comparison ---- */

static bomsync_status scan_both(diff_run *d, key_run *keys, bomsync_error *err) {
    const bomsync_read_options *ro = &d->o->read;
    bsi_isa isa;
    bomsync_status st = bsi_isa_choose(&isa, ro->isa ? ro->isa : "auto", err);
    const char *tiers = ro->tiers ? ro->tiers : "block,sequence,key";
    bsi_scan_options so = {.read = ro, .isa = isa, .workers = d->workers, .block_records = ro->block_records ? ro->block_records : BSI_BLOCK_RECORDS,
                           .tier_block = strstr(tiers, "block") != NULL, .tier_sequence = strstr(tiers, "sequence") != NULL, .secret = &d->secret,
                           .tmp = d->tmp, .keep_stream_bytes = true, .no_plain = true};
    char *old_path[] = {(char *)(uintptr_t)d->o->old_path}, *new_path[] = {(char *)(uintptr_t)d->o->new_path};
    if (!st) st = bsi_scan_open(&d->old.scan, old_path, 1, &d->slots, ro, d->o->key, (uint32_t)d->o->key_count, NULL, d->o->ignore, (uint32_t)d->o->ignore_count, d->workers, err);
    if (!st) st = bsi_scan_open(&d->now.scan, new_path, 1, &d->slots, ro, d->o->key, (uint32_t)d->o->key_count, NULL, d->o->ignore, (uint32_t)d->o->ignore_count, d->workers, err);
    for (size_t f = 0; f < d->old.scan.file_count && !st; f++)
        if (d->old.scan.file[f].layout) bsi_layout_widen(d->old.scan.file[f].layout, &d->slots);
    if (!st) st = bsi_scan_blocks(&d->old.scan, &so, err);
    if (st) return st;
    size_t n = d->old.scan.block_count;
    bsi_image_entry *e = bsi_alloc(sizeof *e * (n + 1));
    for (size_t i = 0; i < n; i++) {
        const bsi_scan_block *b = &d->old.scan.block[i];
        bool usable = b->records && !(b->flags & (BSI_CUT_OVERSIZE | BSI_CUT_NO_LINE_END));
        e[i] = (bsi_image_entry){.fp = b->fp, .plain = b->plain, .ref = i, .bytes = b->bytes, .records = b->records, .blanks = b->blanks,
                                 .flags = (usable ? BSI_IMAGE_EXACT : 0u) | (b->flags & BSI_CUT_LONE_CR ? BSI_IMAGE_LONE_CR : 0u) |
                                          (b->flags & BSI_CUT_AT_END ? BSI_IMAGE_AT_END : 0u)};
    }
    d->entry = e;
    d->piece_count = (n + PIECE_ENTRIES - 1) / PIECE_ENTRIES; /* pieces let the scan split the work */
    d->piece = bsi_alloc(sizeof *d->piece * (d->piece_count + 1));
    for (size_t i = 0; i < d->piece_count; i++)
        d->piece[i] = (bsi_image_piece){.entry = e + i * PIECE_ENTRIES, .first = i * PIECE_ENTRIES,
                                        .count = (uint32_t)BSI_MIN((size_t)PIECE_ENTRIES, n - i * PIECE_ENTRIES)};
    d->image = (bsi_image){.piece = d->piece, .piece_count = d->piece_count, .count = n};
    so.image = &d->image;
    keys->hit = bsi_calloc(n + 1, 1);
    so.matched = take_keys;
    so.matched_ctx = keys;
    st = bsi_scan_blocks(&d->now.scan, &so, err);
    if (!st) st = keys->status;
    d->old.settled = bsi_calloc(n + 1, 1);
    for (size_t i = 0; i < d->now.scan.run_count && !st; i++) {
        const bsi_scan_run *r = &d->now.scan.run[i];
        if (r->matched) memset(d->old.settled + r->first, 1, r->count);
    }
    return st;
}

static bomsync_status join_side(const diff_run *d, const row_list *n, const row_list *o, const side *without, bsi_join_out *out, bomsync_error *err) {
    bsi_row_store *a = bsi_row_store_open(1, d->memory_bytes / 4, d->tmp), *b = bsi_row_store_open(1, d->memory_bytes / 4, d->tmp);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < n->n && !st; i++) st = bsi_row_store_add(a, 0, &(bsi_row){n->v[i].kh, n->v[i].rh, i}, err);
    for (size_t i = 0; o && i < o->n && !st; i++)
        if (!without || !is_left_out(without, o->v[i].kh)) st = bsi_row_store_add(b, 0, &(bsi_row){o->v[i].kh, o->v[i].rh, i}, err);
    out->fate = bsi_calloc(n->n + 1, sizeof *out->fate);
    if (!st) st = bsi_join(out, a, b, d->workers, err);
    bsi_row_store_close(a);
    bsi_row_store_close(b);
    return st;
}

static bool drops_or_adds_only(const diff_run *d, const bsi_layout *a, const bsi_layout *b, const bsi_field *old, const bsi_field *now) {
    for (uint32_t i = d->slots.key_count; i < d->slots.count; i++) {
        if (bsi_field_eq(&old[i], &now[i])) continue;
        bool in_old = i < a->slot_count && a->column_of[i] >= 0, in_new = i < b->slot_count && b->column_of[i] >= 0;
        if (in_old && in_new) return false;
    }
    return true;
}

/* Rows that stand once, or as the first of equal copies, without those that are left out. */
static void thin(row_list *l, const uint64_t *fate, side *s, int64_t *duplicates) {
    for (size_t i = 0; i < l->n; i++)
        if (fate[i] & BSI_FATE_CONFLICT) leave_out(s, l->v[i].kh);
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (fate[i] & BSI_FATE_DUPLICATE) {
            (*duplicates)++;
            continue;
        }
        if (!(fate[i] & BSI_FATE_CONFLICT)) l->v[n++] = l->v[i];
        else s->bad++;
    }
    l->n = n;
}

/* Many records of another width: the delimiter or the quotes are wrong, or the file is not what it is called. */
static bomsync_status refuse_ragged(const side *s, int64_t records, bomsync_error *err) {
    if (s->ragged <= 20 || (int64_t)s->ragged * 20 <= records) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_REFUSED, "%" PRIu64 " of %" PRId64 " records have too few or too many columns", s->ragged, records);
    bsi_at(err, bsi_source_path(s->scan.file[0].source), -1, -1, NULL, NULL, 0);
    bsi_hint(err, "check --delimiter and --quotes");
    return BOMSYNC_E_REFUSED;
}

static bomsync_status compare(diff_run *d, bsi_item **items, size_t *count, bomsync_error *err) {
    key_run keys;
    key_run_init(&keys, d, err);
    bomsync_status st = scan_both(d, &keys, err);
    for (size_t f = 0; f < d->old.scan.file_count; f++) d->records_old += d->old.scan.file[f].records;
    for (size_t f = 0; f < d->now.scan.file_count; f++) d->records_new += d->now.scan.file[f].records;
    if (!st) st = parse_side(d, &d->old, err);
    if (!st) st = parse_side(d, &d->now, err);
    bool opened = false;
    if (!st) st = open_twins(&keys, &opened, err);
    key_run_release(&keys);
    if (!st && opened) st = parse_side(d, &d->old, err);
    if (!st && opened) st = parse_side(d, &d->now, err);
    if (st) return st;
    st = refuse_ragged(&d->old, d->records_old, err);
    if (!st) st = refuse_ragged(&d->now, d->records_new, err);
    if (st) return st;
    bsi_join_out self = {0};
    int64_t old_duplicates = 0;
    st = join_side(d, &d->old.rows, NULL, NULL, &self, err);
    if (!st) thin(&d->old.rows, self.fate, &d->old, &old_duplicates);
    free(self.fate);
    free(self.gone);
    self = (bsi_join_out){0};
    if (!st) st = join_side(d, &d->now.rows, NULL, NULL, &self, err);
    if (!st) thin(&d->now.rows, self.fate, &d->now, &d->duplicates);
    free(self.fate);
    free(self.gone);
    if (st) return st;
    for (size_t i = 0; i < d->old.left_count; i++) leave_out(&d->now, d->old.left_out[i]);
    bsi_sort(d->now.left_out, d->now.left_count, sizeof(uint64_t), by_u64); /* one list for both sides */
    bsi_join_out out = {0};
    st = join_side(d, &d->now.rows, &d->old.rows, &d->now, &out, err);
    if (st) return st;
    *items = bsi_alloc(sizeof **items * (d->now.rows.n + out.gone_count + 1));
    *count = 0;
    int64_t equal = 0;
    for (size_t i = 0; i < d->now.rows.n; i++) {
        uint64_t f = out.fate[i];
        if (is_left_out(&d->now, d->now.rows.v[i].kh)) continue;
        if ((f & BSI_FATE_MATCHED) && !(f & BSI_FATE_CHANGED)) {
            equal++;
            continue;
        }
        bsi_item it = {.op = f & BSI_FATE_MATCHED ? 'u' : 'c', .now = d->now.rows.v[i].place};
        if (it.op == 'u') it.was = d->old.rows.v[BSI_FATE_PLACE(f)].place;
        if (it.op == 'u') d->updated++;
        else d->created++;
        (*items)[(*count)++] = it;
    }
    for (size_t i = 0; i < out.gone_count; i++) {
        (*items)[(*count)++] = (bsi_item){.op = 'd', .was = d->old.rows.v[out.gone[i]].place};
        d->deleted++;
    }
    d->unchanged = equal;
    for (size_t i = 0; i < d->now.scan.run_count; i++)
        if (d->now.scan.run[i].matched) d->unchanged += (int64_t)d->now.scan.run[i].records;
    d->kept_back = (int64_t)d->now.bad;
    free(out.fate);
    free(out.gone);
    return BOMSYNC_OK;
}

/* ---- what is printed ---- */

typedef struct printer {
    bomsync_sink out;
    bsi_buf buf;
} printer;

static bomsync_status print_line(void *ctx, const bsi_item *item, uint64_t seq, const char *line, size_t bytes, bomsync_error *err) {
    (void)item, (void)seq;
    printer *p = ctx;
    bsi_buf_add(&p->buf, line, bytes);
    if (p->buf.len < (1 << 20)) return BOMSYNC_OK;
    bomsync_status st = bsi_put(p->out, p->buf.data, p->buf.len, err);
    p->buf.len = 0;
    return st;
}

static void csv_change(bsi_buf *b, const bsi_slots *s, char op, const bsi_field *before, const bsi_field *after) {
    const bsi_field *row = after ? after : before;
    for (uint32_t k = 0; k < s->count; k++) {
        uint32_t i = s->order[k];
        if (i < s->key_count || (before && after && bsi_field_eq(&before[i], &after[i]))) continue;
        bsi_buf_byte(b, (uint8_t)op);
        for (uint32_t c = 0; c < s->key_count; c++) {
            bsi_buf_byte(b, ',');
            bsi_csv_field(b, row[c].p, row[c].len);
        }
        bsi_buf_byte(b, ',');
        bsi_csv_field(b, s->name[i], strlen(s->name[i]));
        bsi_buf_byte(b, ',');
        if (before) bsi_csv_field(b, before[i].p, before[i].len);
        bsi_buf_byte(b, ',');
        if (after) bsi_csv_field(b, after[i].p, after[i].len);
        bsi_buf_byte(b, '\n');
    }
}

/* csv: one line for each attribute of each change. */
static bomsync_status print_csv(diff_run *d, const bsi_item *item, size_t count, const bsi_row_source *now, const bsi_row_source *was, printer *p, bomsync_error *err) {
    bsi_row_reader a, b;
    bsi_row_reader_open(&a, now);
    bsi_row_reader_open(&b, was);
    bsi_field *f = bsi_alloc(sizeof *f * d->slots.count), *g = bsi_alloc(sizeof *g * d->slots.count);
    bsi_buf_str(&p->buf, "op");
    for (uint32_t i = 0; i < d->slots.key_count; i++) {
        bsi_buf_byte(&p->buf, ',');
        bsi_csv_field(&p->buf, d->slots.name[i], strlen(d->slots.name[i]));
    }
    bsi_buf_str(&p->buf, ",attribute,before,after\n");
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < count && !st; i++) {
        if (item[i].op != 'd') st = bsi_row_fetch(f, &a, item[i].now, err);
        if (item[i].op != 'c' && !st) st = bsi_row_fetch(g, &b, item[i].was, err);
        if (!st) csv_change(&p->buf, &d->slots, item[i].op, item[i].op == 'c' ? NULL : g, item[i].op == 'd' ? NULL : f);
        if (!st && p->buf.len >= 1 << 20) {
            st = bsi_put(p->out, p->buf.data, p->buf.len, err);
            p->buf.len = 0;
        }
    }
    free(f);
    free(g);
    bsi_row_reader_close(&a);
    bsi_row_reader_close(&b);
    return st;
}

static bomsync_status count_schema(diff_run *d, const bsi_item *item, size_t count, const bsi_row_source *now, const bsi_row_source *was, bomsync_error *err) {
    const bsi_layout *a = d->old.scan.file[0].layout, *b = d->now.scan.file[0].layout;
    if (!a || !b || (!a->absent_count && !b->absent_count && a->slot_count == d->slots.count && b->slot_count == d->slots.count)) return BOMSYNC_OK;
    bsi_row_reader x, y;
    bsi_row_reader_open(&x, now);
    bsi_row_reader_open(&y, was);
    bsi_field *f = bsi_alloc(sizeof *f * d->slots.count), *g = bsi_alloc(sizeof *g * d->slots.count);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < count && !st; i++) {
        if (item[i].op != 'u') continue;
        st = bsi_row_fetch(f, &x, item[i].now, err);
        if (!st) st = bsi_row_fetch(g, &y, item[i].was, err);
        if (!st) d->schema_only += drops_or_adds_only(d, a, b, g, f);
    }
    free(f);
    free(g);
    bsi_row_reader_close(&x);
    bsi_row_reader_close(&y);
    return st;
}

static void summary(const diff_run *d, bsi_buf *b, bool json) {
    if (json)
        bsi_buf_addf(b,
                     "{\"message_type\":\"diff\",\"created\":%" PRId64 ",\"updated\":%" PRId64 ",\"deleted\":%" PRId64 ",\"unchanged\":%" PRId64
                     ",\"schema_only\":%" PRId64 ",\"kept_back\":%" PRId64 ",\"duplicates\":%" PRId64 ",\"records_old\":%" PRId64 ",\"records_in\":%" PRId64 "}\n",
                     d->created, d->updated, d->deleted, d->unchanged, d->schema_only, d->kept_back + (int64_t)d->old.bad, d->duplicates, d->records_old, d->records_new);
    else
        bsi_buf_addf(b, "created %" PRId64 ", updated %" PRId64 " (schema only %" PRId64 "), deleted %" PRId64 ", unchanged %" PRId64 ", left out %" PRId64 ", duplicates %" PRId64 "\n",
                     d->created, d->updated, d->schema_only, d->deleted, d->unchanged, d->kept_back + (int64_t)d->old.bad, d->duplicates);
}

/* ---- no key: what could be one? ---- */

static uint64_t duplicates_of(uint64_t *const *hash, const uint32_t *column, uint32_t n, size_t rows, uint64_t *scratch) {
    for (size_t r = 0; r < rows; r++) {
        uint64_t h = 0;
        for (uint32_t c = 0; c < n; c++) h = (h ^ hash[column[c]][r]) * 0x9E3779B97F4A7C15ull + 1;
        scratch[r] = h;
    }
    bsi_sort(scratch, rows, sizeof *scratch, by_u64);
    uint64_t d = 0;
    for (size_t r = 1; r < rows; r++) d += scratch[r] == scratch[r - 1];
    return d;
}

static bomsync_status propose_keys(diff_run *d, bomsync_sink talk, bomsync_error *err) {
    enum { SAMPLE = 100000, COLUMNS = 64 };
    bsi_source_options so = {.encoding = d->o->read.encoding, .trailer_regex = d->o->read.trailer, .io = "auto", .workers = 1};
    bsi_source *src = NULL;
    bsi_buf all = {0};
    bomsync_status st = bsi_source_open(&src, d->o->new_path, &so, err);
    while (!st && all.len < (16u << 20)) {
        bsi_buf_reserve(&all, (1 << 20) + 64);
        ssize_t n = bsi_source_random(src) ? bsi_source_pread(src, all.data + all.len, 1 << 20, all.len, err) : bsi_source_read(src, all.data + all.len, 1 << 20, err);
        if (n < 0) st = err->status;
        if (n <= 0) break;
        all.len += (size_t)n;
    }
    bsi_buf_reserve(&all, 64);
    char **name = NULL;
    uint32_t columns = 0;
    size_t body = 0;
    bsi_dialect dialect = bsi_scan_dialect(&d->o->read, d->o->new_path);
    if (!st) st = bsi_parse_header(&name, &columns, &body, &dialect, all.data, all.len, true, err);
    if (!st && !columns) st = bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" has no header", d->o->new_path);
    bsi_layout *l = NULL;
    if (!st) st = bsi_layout_open(&l, &d->slots, &dialect, (const char *const *)name, columns, (const char *const *)name, 1, NULL, NULL, 0, NULL, 0, err);
    if (!st) {
        uint32_t used = BSI_MIN(columns, (uint32_t)COLUMNS);
        uint64_t *hash[COLUMNS], *scratch = bsi_alloc(SAMPLE * sizeof *scratch);
        for (uint32_t c = 0; c < used; c++) hash[c] = bsi_alloc(SAMPLE * sizeof **hash);
        bsi_rows w = {0};
        bsi_field *f = bsi_alloc(sizeof *f * d->slots.count);
        bsi_cut_options co = {.dialect = dialect, .block_records = 64, .isa = BSI_ISA_SCALAR};
        size_t rows = 0;
        bsi_cut cut;
        for (size_t at = body; at < all.len && rows < SAMPLE && bsi_cut_block(&cut, &co, all.data + at, all.len - at, true) == 1 && cut.bytes; at += cut.bytes) {
            bsi_parse_block(&w, l, &d->secret, all.data + at, cut.bytes, false);
            for (uint32_t r = 0; r < w.count && rows < SAMPLE; r++) {
                if (w.bad[r] || !bsi_image_fields(f, d->slots.count, w.enc.data + w.image[r], w.body[r], w.image[r + 1] - w.image[r], d->slots.count)) continue;
                for (uint32_t c = 0; c < used; c++) hash[c][rows] = bsi_xxh64_secret(f[c].p, f[c].len, &d->secret);
                rows++;
            }
        }
        bsi_buf b = {0};
        bsi_buf_addf(&b, "no --key was given; in the first %zu records of \"%s\":\n", rows, d->o->new_path);
        for (uint32_t c = 0; c < used; c++) {
            uint64_t dup = duplicates_of(hash, &c, 1, rows, scratch);
            if (dup * 2 < rows) bsi_buf_addf(&b, "  --key %-30s %10" PRIu64 " duplicates\n", name[c], dup);
        }
        uint32_t pick[6], n = 0; /* greedy: the column that leaves the fewest duplicates */
        for (uint64_t best = UINT64_MAX; n < 6 && best;) {
            uint32_t add = UINT32_MAX;
            for (uint32_t c = 0; c < used; c++) {
                pick[n] = c;
                uint64_t dup = duplicates_of(hash, pick, n + 1, rows, scratch);
                if (dup < best) best = dup, add = c;
            }
            if (add == UINT32_MAX) break;
            pick[n++] = add;
            bsi_buf_str(&b, "  --key ");
            for (uint32_t i = 0; i < n; i++) bsi_buf_addf(&b, "%s%s", i ? "," : "", name[pick[i]]);
            bsi_buf_addf(&b, "  %" PRIu64 " duplicates\n", best);
        }
        if (talk.write) talk.write(talk.ctx, b.data, b.len);
        bsi_buf_free(&b);
        for (uint32_t c = 0; c < used; c++) free(hash[c]);
        free(scratch);
        free(f);
        bsi_rows_free(&w);
    }
    bsi_layout_close(l);
    for (uint32_t c = 0; c < columns; c++) free(name[c]);
    free(name);
    bsi_buf_free(&all);
    bsi_source_close(src);
    if (st) return st;
    bsi_fail(err, BOMSYNC_E_USAGE, "diff needs --key");
    bsi_hint(err, "take one of the proposals above that has no duplicates");
    return BOMSYNC_E_USAGE;
}

bomsync_status bomsync_diff(const bomsync_diff_options *o, bomsync_sink out, bomsync_sink talk, bool json, bomsync_error *err) {
    diff_run d = {.o = o, .workers = o->read.workers > 0 ? o->read.workers : bsi_usable_cores(), .slots = {.partition = -1},
                  .memory_bytes = o->read.memory_bytes ? o->read.memory_bytes : (uint64_t)256 << 20};
    d.tmp = o->read.tmp ? o->read.tmp : getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    if (getrandom(d.secret.bytes, sizeof d.secret.bytes, 0) < 0) return bsi_fail(err, BOMSYNC_E_USAGE, "could not draw random bytes");
    bsi_item *item = NULL;
    size_t count = 0;
    bsi_parts parts = {0};
    const char *format = o->format ? o->format : "ndjson";
    bomsync_status st = BOMSYNC_OK;
    if (strcmp(format, "ndjson") && strcmp(format, "csv") && strcmp(format, "summary"))
        st = bsi_fail(err, BOMSYNC_E_USAGE, "--format is ndjson, csv or summary, not \"%s\"", format);
    if (!st && !o->key_count) st = propose_keys(&d, talk, err);
    if (!st) st = compare(&d, &item, &count, err);
    bsi_row_source now = {.scan = &d.now.scan, .secret = &d.secret, .slot_count = d.slots.count};
    bsi_row_source was = {.scan = &d.old.scan, .secret = &d.secret, .slot_count = d.slots.count};
    printer p = {.out = out};
    if (!st) {
        bsi_part_of(&parts, "_", 1);
        bsi_items_sort(item, count, &parts);
        st = count_schema(&d, item, count, &now, &was, err);
    }
    if (!st && strcmp(format, "ndjson") == 0) st = bsi_items_render(item, count, &d.slots, &now, &was, NULL, d.workers, print_line, &p, err);
    if (!st && strcmp(format, "csv") == 0) st = print_csv(&d, item, count, &now, &was, &p, err);
    if (!st) {
        bsi_buf b = {0};
        bool product = strcmp(format, "summary") == 0;
        summary(&d, product ? &p.buf : &b, json);
        if (!product && talk.write) talk.write(talk.ctx, b.data, b.len);
        bsi_buf_free(&b);
        if (p.buf.len) st = bsi_put(out, p.buf.data, p.buf.len, err);
    }
    if (!st) st = d.now.bad + d.old.bad ? BOMSYNC_EXCEPTIONS : count ? BOMSYNC_DIFFERENT : BOMSYNC_OK;
    bsi_buf_free(&p.buf);
    free(item);
    bsi_parts_free(&parts);
    side *side_of[] = {&d.old, &d.now};
    for (int i = 0; i < 2; i++) {
        bsi_scan_close(&side_of[i]->scan);
        free(side_of[i]->settled);
        free(side_of[i]->rows.v);
        free(side_of[i]->left_out);
    }
    free(d.entry);
    free(d.piece);
    bsi_slots_free(&d.slots);
    return st;
}
