/* run/apply.c - STATE and deltas to a new state, in the form of export.
 *
 *   deltas ──> changes by key (delta.h)
 *   STATE  ──> record ──> its key has changes?  no:  table
 *                                               yes: each in order, must fit ──> table, or gone
 *   keys that STATE does not have: the same, starting from no record
 *   table  ──> sorted, written
 *
 * Nothing is written before everything was found to fit. Changes fit key by key, so STATE is gone through once in its
 * own order; of several that do not fit the first in the order of the deltas is told.
 *
 * Keys that stand twice are found beforehand by their hashes alone. Equal copies count once; copies that differ, and
 * records that cannot be read, are left out and reported: `diff` made the delta in the same way.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/limits.h"
#include "run/csv_out.h"
#include "run/delta.h"
#include "run/scan.h"

typedef struct twin {
    bsi_buf image;           /* owned */
    uint32_t body, key;
    size_t at;               /* order in STATE */
} twin;

typedef struct apply_run {
    const char *const *path; /* of the deltas */
    bsi_deltas deltas;
    uint32_t *slot_of;       /* [deltas.name_count] */
    bsi_slots slots;
    bsi_secret secret;
    bsi_scan scan;
    uint64_t *twice;         /* hashes that stand more than once, ascending */
    size_t twice_count;
    twin *twin;
    size_t twin_count, twin_cap;
    uint64_t left_out;
    bsi_field *field;        /* [slots.count] the record at hand */
    bsi_table *table;
    const bsi_delta_change *misfit; /* the first, in the order of the deltas */
    bomsync_error why;
} apply_run;

/* ---- columns ---- */

static uint32_t slot_add(bsi_slots *s, const char *name) {
    s->name = bsi_realloc(s->name, (s->count + 1) * sizeof *s->name);
    s->order = bsi_realloc(s->order, (s->count + 1) * sizeof *s->order);
    s->name[s->count] = bsi_strdup(name);
    s->order[s->count] = s->count;
    return s->count++;
}

static uint32_t slot_named(bsi_slots *s, const char *name) {
    for (uint32_t i = 0; i < s->count; i++)
        if (strcmp(s->name[i], name) == 0) return i;
    return slot_add(s, name);
}

/* Columns that only the deltas know stand behind those of STATE. A STATE without a header has those of the deltas. */
static bomsync_status map_columns(apply_run *r, bomsync_error *err) {
    const bsi_deltas *d = &r->deltas;
    if (!r->slots.count) {
        for (uint32_t i = 0; i < d->key_count; i++) slot_add(&r->slots, d->key_name[i]);
        r->slots.key_count = d->key_count;
    }
    r->slot_of = bsi_alloc(d->name_count * sizeof *r->slot_of);
    for (uint32_t i = 0; i < d->name_count; i++) {
        r->slot_of[i] = slot_named(&r->slots, d->name[i]);
        if (r->slot_of[i] < r->slots.key_count) {
            bsi_fail(err, BOMSYNC_E_REFUSED, "key column \"%.200s\" is an attribute in a delta", d->name[i]);
            bsi_hint(err, "all deltas must have the same key; nothing was changed");
            return BOMSYNC_E_REFUSED;
        }
        if (r->slots.count > BSI_COLUMNS_MAX) return bsi_fail(err, BOMSYNC_E_REFUSED, "more than %d columns", BSI_COLUMNS_MAX);
    }
    r->field = bsi_alloc((r->slots.count + 1) * sizeof *r->field);
    return BOMSYNC_OK;
}

/* ---- one key ---- */

static bool earlier(const bsi_delta_change *a, const bsi_delta_change *b) {
    return a->file != b->file ? a->file < b->file : a->line < b->line;
}

static void misfit(apply_run *r, const bsi_delta_change *c, const char *what, const char *column, const bsi_field *is) {
    if (r->misfit && !earlier(c, r->misfit)) return;
    const char *path = r->path[c->file];
    r->misfit = c;
    r->why = (bomsync_error)BOMSYNC_ERROR_INIT;
    bsi_fail(&r->why, BOMSYNC_E_REFUSED, "line %" PRId64 " of delta \"%.300s\" does not fit the state: %.100s", c->line, path, what);
    bsi_at(&r->why, path, -1, c->line, column, is ? (const char *)is->p : NULL, is ? is->len : 0);
    bsi_hint(&r->why, "deltas fit the state that they were made from, in their order; nothing was written");
}

static bool before_fits(apply_run *r, const bsi_delta_change *c) {
    for (uint32_t i = 0; i < c->before_count; i++) {
        const bsi_delta_value *v = &c->before[i];
        const bsi_field *is = &r->field[r->slot_of[v->name]], was = {(const uint8_t *)v->p, v->bytes, false};
        if (bsi_field_eq(is, &was)) continue;
        misfit(r, c, "a value is not what the change says it was", r->deltas.name[v->name], is->len ? is : NULL);
        return false;
    }
    return true;
}

static void start_record(apply_run *r, const bsi_delta_key *k) {
    const uint8_t *p = k->text, *end = p + k->bytes;
    for (uint32_t i = 0; i < r->slots.count; i++) r->field[i] = (bsi_field){NULL, 0, true};
    for (uint32_t i = 0; i < r->slots.key_count; i++) {
        uint64_t n = 0;
        p = bsi_varint_get(p, end, &n);
        r->field[i] = (bsi_field){p, (uint32_t)n, false};
        p += n;
    }
}

/* The changes of one key on the record at hand, if there is one; what comes out goes to the table. */
static void change_record(apply_run *r, bsi_delta_key *k, bool there) {
    k->seen = true;
    for (const bsi_delta_change *c = k->first; c; c = c->next) {
        if (there == (c->op == 'c')) {
            misfit(r, c, there ? "it creates a record that is there" : "there is no record with this key", NULL, NULL);
            return;
        }
        if (!before_fits(r, c)) return;
        if (c->op == 'c') start_record(r, k);
        for (uint32_t i = 0; i < c->after_count; i++)
            r->field[r->slot_of[c->after[i].name]] = (bsi_field){(const uint8_t *)c->after[i].p, c->after[i].bytes, false};
        there = c->op != 'd';
    }
    if (there) bsi_table_add(r->table, r->field);
}

static bomsync_status take_record(apply_run *r, const uint8_t *image, uint32_t body, uint32_t bytes, uint32_t key, uint32_t made_with,
                                  bomsync_error *err) {
    if (!bsi_image_fields(r->field, r->slots.count, image, body, bytes, made_with))
        return bsi_fail(err, BOMSYNC_E_INTEGRITY, "a record could not be read again");
    bsi_delta_key *k = bsi_deltas_find(&r->deltas, image, key);
    if (k) change_record(r, k, true);
    else bsi_table_add(r->table, r->field);
    return BOMSYNC_OK;
}

/* ---- STATE ---- */

/* Calls each for every block of STATE, parsed. */
static bomsync_status each_block(apply_run *r, bomsync_status (*each)(apply_run *r, const bsi_rows *w, const bsi_layout *l, bomsync_error *err),
                                 bool keys_only, bomsync_error *err) {
    bsi_rows w = {0};
    bsi_buf bytes = {0};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < r->scan.block_count && !st; i++) {
        const bsi_layout *l = r->scan.file[r->scan.block[i].file].layout;
        st = bsi_scan_bytes(&r->scan, i, &bytes, err);
        if (st) break;
        bsi_parse_block(&w, l, &r->secret, bytes.data, bytes.len, keys_only);
        st = each(r, &w, l, err);
    }
    bsi_rows_free(&w);
    bsi_buf_free(&bytes);
    return st;
}

/* Without changes no key is known: then records are equal or not, as a whole. */
static uint64_t hash_of(const apply_run *r, const bsi_rows *w, uint32_t i) { return r->slots.key_count ? w->kh[i] : w->rh[i]; }
static uint32_t key_bytes(const apply_run *r, const bsi_rows *w, uint32_t i) { return r->slots.key_count ? w->key[i] : w->body[i]; }

static bomsync_status gather_hashes(apply_run *r, const bsi_rows *w, const bsi_layout *l, bomsync_error *err) {
    (void)l, (void)err;
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->bad[i]) continue;
        if ((r->twice_count & (r->twice_count - 1)) == 0) /* at powers of two the room is used up */
            r->twice = bsi_realloc(r->twice, BSI_MAX(r->twice_count * 2, (size_t)1) * sizeof *r->twice);
        r->twice[r->twice_count++] = hash_of(r, w, i);
    }
    return BOMSYNC_OK;
}

static void keep_only_twice(apply_run *r) {
    size_t kept = 0;
    bsi_sort(r->twice, r->twice_count, sizeof *r->twice, bsi_by_u64);
    for (size_t i = 1; i < r->twice_count; i++)
        if (r->twice[i] == r->twice[i - 1] && (!kept || r->twice[kept - 1] != r->twice[i])) r->twice[kept++] = r->twice[i];
    r->twice_count = kept;
}

static void keep_twin(apply_run *r, const bsi_rows *w, uint32_t i) {
    if (r->twin_count == r->twin_cap) r->twin = bsi_realloc(r->twin, (r->twin_cap = r->twin_cap ? r->twin_cap * 2 : 16) * sizeof *r->twin);
    twin *t = &r->twin[r->twin_count];
    *t = (twin){.body = w->body[i], .key = key_bytes(r, w, i), .at = r->twin_count};
    bsi_buf_add(&t->image, w->enc.data + w->image[i], w->image[i + 1] - w->image[i]);
    r->twin_count++;
}

static bomsync_status take_rows(apply_run *r, const bsi_rows *w, const bsi_layout *l, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t i = 0; i < w->count && !st; i++) {
        uint64_t hash = hash_of(r, w, i);
        if (w->bad[i]) r->left_out++;
        else if (bsi_u64_has(r->twice, r->twice_count, hash)) keep_twin(r, w, i);
        else st = take_record(r, w->enc.data + w->image[i], w->body[i], w->image[i + 1] - w->image[i], key_bytes(r, w, i), l->slot_count, err);
    }
    return st;
}

static int by_key(const twin *x, const twin *y) {
    int c = memcmp(x->image.data, y->image.data, BSI_MIN(x->key, y->key));
    return c ? c : (x->key > y->key) - (x->key < y->key);
}

static int by_key_and_place(const void *a, const void *b) {
    const twin *x = a, *y = b;
    int c = by_key(x, y);
    return c ? c : (x->at > y->at) - (x->at < y->at);
}

static bool equal_copies(const twin *t, size_t n) {
    for (size_t i = 1; i < n; i++)
        if (t[i].body != t[0].body || memcmp(t[i].image.data, t[0].image.data, t[0].body) != 0) return false;
    return true;
}

static bomsync_status take_twins(apply_run *r, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    bsi_sort(r->twin, r->twin_count, sizeof *r->twin, by_key_and_place);
    for (size_t i = 0, n; i < r->twin_count && !st; i += n) {
        const twin *t = &r->twin[i];
        for (n = 1; i + n < r->twin_count && by_key(t, &t[n]) == 0;) n++;
        if (!equal_copies(t, n)) r->left_out += n;
        else st = take_record(r, t->image.data, t->body, (uint32_t)t->image.len, t->key, r->scan.file[0].layout->slot_count, err);
    }
    return st;
}

static bomsync_status open_state(apply_run *r, const char *state, const bomsync_read_options *read, bomsync_error *err) {
    int workers = read->workers > 0 ? read->workers : bsi_usable_cores();
    const char *tmp = read->tmp ? read->tmp : getenv("TMPDIR");
    bsi_isa isa = BSI_ISA_SCALAR;
    bomsync_status st = bsi_isa_choose(&isa, read->isa ? read->isa : "auto", err);
    if (st) return st;
    if (getrandom(r->secret.bytes, sizeof r->secret.bytes, 0) < 0) return bsi_fail(err, BOMSYNC_E_USAGE, "could not draw random bytes");
    bsi_parse_use_isa((int)isa);
    char *path = bsi_strdup(state);
    st = bsi_scan_open(&r->scan, &path, 1, &r->slots, read, (const char *const *)r->deltas.key_name, r->deltas.key_count, NULL, NULL, 0, workers, err);
    bsi_scan_options so = {.read = read, .isa = isa, .workers = workers, .secret = &r->secret, .tmp = tmp ? tmp : "/tmp", .keep_stream_bytes = true,
                           .block_size = bsi_block_size_of(read->block_records)};
    if (!st && r->slots.count) st = bsi_scan_blocks(&r->scan, &so, err);
    free(path);
    return st;
}

static bomsync_status go_through_state(apply_run *r, bomsync_error *err) {
    bomsync_status st = each_block(r, gather_hashes, r->slots.key_count > 0, err);
    keep_only_twice(r);
    if (!st) st = each_block(r, take_rows, false, err);
    if (!st) st = take_twins(r, err);
    for (size_t i = 0; i < r->deltas.count && !st; i++)
        if (!r->deltas.key[i].seen) change_record(r, &r->deltas.key[i], false);
    if (!st && r->misfit) {
        if (err && !err->status) *err = r->why;
        st = BOMSYNC_E_REFUSED;
    }
    return st;
}

/* ---- all of it ---- */

static void release(apply_run *r) {
    for (size_t i = 0; i < r->twin_count; i++) bsi_buf_free(&r->twin[i].image);
    free(r->twin);
    free(r->twice);
    free(r->field);
    free(r->slot_of);
    if (r->table) bsi_table_close(r->table);
    bsi_scan_close(&r->scan);
    bsi_slots_free(&r->slots);
    bsi_deltas_free(&r->deltas);
}

static bomsync_status report_left_out(const apply_run *r, const char *state, bomsync_error *err) {
    if (!r->left_out) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_EXCEPTIONS, "%" PRIu64 " records of \"%.300s\" cannot be read or share a key with other contents; they were left out",
             r->left_out, state);
    return BOMSYNC_EXCEPTIONS;
}

bomsync_status bomsync_apply(const char *state, const char *const *deltas, size_t delta_count, const bomsync_read_options *read,
                             bomsync_sink out, bomsync_error *err) {
    if (!delta_count) {
        bsi_fail(err, BOMSYNC_E_USAGE, "apply needs a delta: its changes say what the key is");
        bsi_hint(err, "bomsync apply STATE DELTA...");
        return BOMSYNC_E_USAGE;
    }
    bomsync_error own = BOMSYNC_ERROR_INIT;
    bomsync_read_options plain = {0};
    if (!err) err = &own;
    if (!read) read = &plain;
    apply_run r = {.path = deltas, .slots = {.partition = -1}};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < delta_count && !st; i++) st = bsi_deltas_read(&r.deltas, deltas[i], (uint32_t)i, err);
    if (!st) st = open_state(&r, state, read, err);
    if (!st) st = map_columns(&r, err);
    if (!st) {
        r.table = bsi_table_open(&r.slots);
        st = go_through_state(&r, err);
    }
    if (!st) {
        if (!r.slots.key_count) r.slots.key_count = r.slots.count; /* no change, no key: sorted by all columns */
        st = bsi_table_write(r.table, out, err);
    }
    if (!st) st = report_left_out(&r, state, err);
    release(&r);
    return st;
}
