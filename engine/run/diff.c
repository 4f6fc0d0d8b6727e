/* run/diff.c - two files without a store.
 *
 *   OLD, NEW -> what both hold with the same bytes, and the rest (diff_align.c, diff_blocks.c)
 *   the rest -> rows of either side -> joined by key -> changes in order -> printed
 *
 * Keys with copies that differ, and records that cannot be read, are left out on both sides and reported (exit 4).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/limits.h"
#include "core/vast.h"
#include "flow/join.h"
#include "run/changes.h"
#include "run/csv_out.h"
#include "run/diff_inner.h"
#include "run/query.h"

static bool is_left_out(const bsi_diff_side *s, uint64_t kh) { return bsi_u64_has(s->left_out, s->left_count, kh); }

/* ---- the comparison ---- */

static bomsync_status open_both(bsi_diff_run *d, bomsync_error *err) {
    const bomsync_read_options *ro = &d->o->read;
    bomsync_status st = bsi_isa_choose(&d->isa, ro->isa ? ro->isa : "auto", err);
    d->tiers = ro->tiers ? ro->tiers : "block,sequence,key";
    char *old_path[] = {(char *)(uintptr_t)d->o->old_path}, *new_path[] = {(char *)(uintptr_t)d->o->new_path};
    if (!st) st = bsi_scan_open(&d->old.scan, old_path, 1, &d->slots, ro, d->o->key, (uint32_t)d->o->key_count, NULL, d->o->ignore, (uint32_t)d->o->ignore_count, d->workers, err);
    if (!st) st = bsi_scan_open(&d->now.scan, new_path, 1, &d->slots, ro, d->o->key, (uint32_t)d->o->key_count, NULL, d->o->ignore, (uint32_t)d->o->ignore_count, d->workers, err);
    if (!st && d->old.scan.file[0].layout) bsi_layout_widen(d->old.scan.file[0].layout, &d->slots);
    return st;
}

static bomsync_status join_side(const bsi_diff_run *d, const bsi_diff_rows *n, const bsi_diff_rows *o, const bsi_diff_side *without, bsi_join_out *out, bomsync_error *err) {
    bsi_row_store *a = bsi_row_store_open(1, d->memory_bytes / 8, d->tmp), *b = bsi_row_store_open(1, d->memory_bytes / 8, d->tmp);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < n->n && !st; i++) st = bsi_row_store_add(a, 0, &(bsi_row){n->v[i].kh, n->v[i].rh, i}, err);
    for (size_t i = 0; o && i < o->n && !st; i++)
        if (!without || !is_left_out(without, o->v[i].kh)) st = bsi_row_store_add(b, 0, &(bsi_row){o->v[i].kh, o->v[i].rh, i}, err);
    out->fate = bsi_vast_calloc(n->n + 1, sizeof *out->fate);
    if (!st) st = bsi_join(out, a, b, d->workers, err);
    bsi_row_store_close(a);
    bsi_row_store_close(b);
    return st;
}

static bool drops_or_adds_only(const bsi_diff_run *d, const bsi_layout *a, const bsi_layout *b, const bsi_field *old, const bsi_field *now) {
    for (uint32_t i = d->slots.key_count; i < d->slots.count; i++) {
        if (bsi_field_eq(&old[i], &now[i])) continue;
        bool in_old = i < a->slot_count && a->column_of[i] >= 0, in_new = i < b->slot_count && b->column_of[i] >= 0;
        if (in_old && in_new) return false;
    }
    return true;
}

/* Rows that stand once, or as the first of equal copies, without those that are left out. */
static void thin(bsi_diff_rows *l, const uint64_t *fate, bsi_diff_side *s, int64_t *duplicates) {
    for (size_t i = 0; i < l->n; i++)
        if (fate[i] & BSI_FATE_CONFLICT) bsi_diff_leave_out(s, l->v[i].kh);
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
static bomsync_status refuse_ragged(const bsi_diff_side *s, int64_t records, bomsync_error *err) {
    if (s->ragged <= 20 || (int64_t)s->ragged * 20 <= records) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_REFUSED, "%" PRIu64 " of %" PRId64 " records have too few or too many columns", s->ragged, records);
    bsi_at(err, bsi_source_path(s->scan.file[0].source), -1, -1, NULL, NULL, 0);
    bsi_hint(err, "check --delimiter and --quotes");
    return BOMSYNC_E_REFUSED;
}

static bomsync_status compare(bsi_diff_run *d, bsi_item **items, size_t *count, bomsync_error *err) {
    bool aligned = false;
    bomsync_status st = open_both(d, err);
    if (!st) st = bsi_diff_align(d, &aligned, err);
    if (!st && !aligned) st = bsi_diff_blocks(d, err);
    if (st) return st;
    st = refuse_ragged(&d->old, d->records_old, err);
    if (!st) st = refuse_ragged(&d->now, d->records_new, err);
    if (st) return st;
    bsi_join_out self = {0};
    int64_t old_duplicates = 0;
    st = join_side(d, &d->old.rows, NULL, NULL, &self, err);
    if (!st) thin(&d->old.rows, self.fate, &d->old, &old_duplicates);
    bsi_vast_free(self.fate);
    bsi_vast_free(self.gone);
    self = (bsi_join_out){0};
    if (!st) st = join_side(d, &d->now.rows, NULL, NULL, &self, err);
    if (!st) thin(&d->now.rows, self.fate, &d->now, &d->duplicates);
    bsi_vast_free(self.fate);
    bsi_vast_free(self.gone);
    if (st) return st;
    for (size_t i = 0; i < d->old.left_count; i++) bsi_diff_leave_out(&d->now, d->old.left_out[i]);
    bsi_sort(d->now.left_out, d->now.left_count, sizeof(uint64_t), bsi_by_u64); /* one list for both sides */
    bsi_join_out out = {0};
    st = join_side(d, &d->now.rows, &d->old.rows, &d->now, &out, err);
    if (st) return st;
    *items = bsi_vast_alloc(sizeof **items * (d->now.rows.n + out.gone_count + 1));
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
    d->unchanged = equal + d->same_records;
    d->kept_back = (int64_t)d->now.bad;
    bsi_vast_free(out.fate);
    bsi_vast_free(out.gone);
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

/* op says which of before and after there are. */
static void csv_change(bsi_buf *b, const bsi_slots *s, char op, const bsi_field *before, const bsi_field *after) {
    const bsi_field *row = op == 'd' ? before : after;
    for (uint32_t k = 0; k < s->count; k++) {
        uint32_t i = s->order[k];
        if (i < s->key_count || (op == 'u' && bsi_field_eq(&before[i], &after[i]))) continue;
        bsi_buf_byte(b, (uint8_t)op);
        for (uint32_t c = 0; c < s->key_count; c++) {
            bsi_buf_byte(b, ',');
            bsi_csv_field(b, row[c].p, row[c].len);
        }
        bsi_buf_byte(b, ',');
        bsi_csv_field(b, s->name[i], strlen(s->name[i]));
        bsi_buf_byte(b, ',');
        if (op != 'c') bsi_csv_field(b, before[i].p, before[i].len);
        bsi_buf_byte(b, ',');
        if (op != 'd') bsi_csv_field(b, after[i].p, after[i].len);
        bsi_buf_byte(b, '\n');
    }
}

/* csv: one line for each attribute of each change. */
static bomsync_status print_csv(bsi_diff_run *d, const bsi_item *item, size_t count, const bsi_row_source *now, const bsi_row_source *was, printer *p, bomsync_error *err) {
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
        char op = item[i].op;
        if (op != 'd') st = bsi_row_fetch(f, &a, item[i].now, err);
        if (op != 'c' && !st) st = bsi_row_fetch(g, &b, item[i].was, err);
        if (!st) csv_change(&p->buf, &d->slots, op, g, f);
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

static bomsync_status count_schema(bsi_diff_run *d, const bsi_item *item, size_t count, const bsi_row_source *now, const bsi_row_source *was, bomsync_error *err) {
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

static void summary(const bsi_diff_run *d, bsi_buf *b, bool json) {
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
    bsi_sort(scratch, rows, sizeof *scratch, bsi_by_u64);
    uint64_t d = 0;
    for (size_t r = 1; r < rows; r++) d += scratch[r] == scratch[r - 1];
    return d;
}

static bomsync_status propose_keys(bsi_diff_run *d, bomsync_sink talk, bomsync_error *err) {
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
        bsi_cut_options co = {.dialect = dialect, .size = bsi_block_size_of(64), .isa = BSI_ISA_SCALAR};
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
    bsi_diff_run d = {.o = o, .workers = o->read.workers > 0 ? o->read.workers : bsi_usable_cores(), .slots = {.partition = -1},
                  .memory_bytes = o->read.memory_bytes ? o->read.memory_bytes : BSI_MEMORY_BYTES};
    d.tmp = o->read.tmp ? o->read.tmp : bsi_temp_folder();
    if (getrandom(d.secret.bytes, sizeof d.secret.bytes, 0) < 0) return bsi_fail(err, BOMSYNC_E_USAGE, "could not draw random bytes");
    bsi_vast_limit(d.memory_bytes / 4, 0, d.tmp);
    bsi_item *item = NULL;
    size_t count = 0;
    bsi_parts parts = {0};
    const char *format = o->format ? o->format : "ndjson";
    bomsync_status st = BOMSYNC_OK;
    if (strcmp(format, "ndjson") != 0 && strcmp(format, "csv") != 0 && strcmp(format, "summary") != 0)
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
    bsi_vast_free(item);
    bsi_parts_free(&parts);
    bsi_diff_side *side_of[] = {&d.old, &d.now};
    for (int i = 0; i < 2; i++) {
        bsi_scan_close(&side_of[i]->scan);
        bsi_vast_free(side_of[i]->rows.v);
        free(side_of[i]->left);
        free(side_of[i]->left_out);
    }
    bsi_diff_keys_free(&d.keys);
    bsi_slots_free(&d.slots);
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
    return st;
}
