/* run/apply.c - STATE and deltas to a new state, in the form of export.
 *
 *   deltas ──> changes by key (delta.h)
 *   STATE  ──> record ──> its key has changes?  no:  table (table.h)
 *                                               yes: each in order, must fit ──> table, or gone
 *   keys that STATE does not have: the same, starting from no record
 *   table  ──> sorted, written
 *
 * Nothing is written before everything was found to fit. Changes fit key by key, so STATE is gone through once, its blocks by all workers in any
 * order; of several that do not fit the first in the order of the deltas is told. Memory is that of the deltas, and --memory.
 *
 * Keys that stand twice are found beforehand by their hashes alone. Equal copies count once; copies that differ, and
 * records that cannot be read, are left out and reported: `diff` made the delta in the same way.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/limits.h"
#include "core/vast.h"
#include "flow/twins.h"
#include "run/delta.h"
#include "run/scan.h"
#include "run/table.h"

enum { TASK_BLOCKS = 256, SAMPLED = 4096 };

typedef struct twin {
    bsi_buf image;           /* owned */
    uint32_t body, key, made_with;
    uint64_t at;             /* order in STATE: block << 16 | row */
} twin;

/* Of one worker. */
typedef struct lane {
    bsi_rows rows;
    bsi_scan_window window;
    bsi_field *field;        /* [slots.count] the record at hand */
    uint64_t left_out;
} lane;

typedef struct apply_run {
    const char *const *path; /* of the deltas */
    bsi_deltas deltas;
    uint32_t *slot_of;       /* [deltas.name_count] */
    bsi_slots slots;
    bsi_secret secret;
    bsi_scan scan;
    int workers;
    uint64_t memory_bytes;
    const char *tmp;
    lane *lane;              /* [workers] */
    bsi_twins *hashes;
    uint64_t *twice;         /* hashes that stand more than once, ascending */
    size_t twice_count;
    bsi_table *table;
    atomic_int status;       /* of the workers */
    bomsync_error *err;
    pthread_mutex_t lock;    /* guards what is below */
    twin *twin;
    size_t twin_count, twin_cap;
    uint64_t left_out;
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
    r->lane = bsi_calloc((size_t)r->workers, sizeof *r->lane);
    for (int i = 0; i < r->workers; i++) r->lane[i].field = bsi_alloc((r->slots.count + 1) * sizeof *r->lane->field);
    return BOMSYNC_OK;
}

/* ---- one key ---- */

static bool earlier(const bsi_delta_change *a, const bsi_delta_change *b) {
    return a->file != b->file ? a->file < b->file : a->line < b->line;
}

static void note_misfit(apply_run *r, const bsi_delta_change *c, const char *what, const char *column, const bsi_field *is) {
    if (r->misfit && !earlier(c, r->misfit)) return;
    const char *path = r->path[c->file];
    r->misfit = c;
    r->why = (bomsync_error)BOMSYNC_ERROR_INIT;
    bsi_fail(&r->why, BOMSYNC_E_REFUSED, "line %" PRId64 " of delta \"%.300s\" does not fit the state: %.100s", c->line, path, what);
    bsi_at(&r->why, path, -1, c->line, column, is ? (const char *)is->p : NULL, is ? is->len : 0);
    bsi_hint(&r->why, "deltas fit the state that they were made from, in their order; nothing was written");
}

static void misfit(apply_run *r, const bsi_delta_change *c, const char *what, const char *column, const bsi_field *is) {
    pthread_mutex_lock(&r->lock);
    note_misfit(r, c, what, column, is);
    pthread_mutex_unlock(&r->lock);
}

static bool before_fits(apply_run *r, const lane *l, const bsi_delta_change *c) {
    for (uint32_t i = 0; i < c->before_count; i++) {
        const bsi_delta_value *v = &c->before[i];
        const bsi_field *is = &l->field[r->slot_of[v->name]], was = {(const uint8_t *)v->p, v->bytes, false};
        if (bsi_field_eq(is, &was)) continue;
        misfit(r, c, "a value is not what the change says it was", r->deltas.name[v->name], is->len ? is : NULL);
        return false;
    }
    return true;
}

static void start_record(const apply_run *r, lane *l, const bsi_delta_key *k) {
    const uint8_t *p = k->text, *end = p + k->bytes;
    for (uint32_t i = 0; i < r->slots.count; i++) l->field[i] = (bsi_field){NULL, 0, true};
    for (uint32_t i = 0; i < r->slots.key_count; i++) {
        uint64_t n = 0;
        p = bsi_varint_get(p, end, &n);
        if (!p) return; /* never: who read the delta made it */
        l->field[i] = (bsi_field){p, (uint32_t)n, false};
        p += n;
    }
}

/* The changes of one key on the record at hand, if there is one; what comes out goes to the table. A key has one record, so nobody else is at it. */
static bomsync_status change_record(apply_run *r, lane *l, bsi_delta_key *k, bool there, bomsync_error *err) {
    k->seen = true;
    for (const bsi_delta_change *c = k->first; c; c = c->next) {
        if (there == (c->op == 'c')) {
            misfit(r, c, there ? "it creates a record that is there" : "there is no record with this key", NULL, NULL);
            return BOMSYNC_OK;
        }
        if (!before_fits(r, l, c)) return BOMSYNC_OK;
        if (c->op == 'c') start_record(r, l, k);
        for (uint32_t i = 0; i < c->after_count; i++)
            l->field[r->slot_of[c->after[i].name]] = (bsi_field){(const uint8_t *)c->after[i].p, c->after[i].bytes, false};
        there = c->op != 'd';
    }
    return there ? bsi_table_add(r->table, (int)(l - r->lane), l->field, err) : BOMSYNC_OK;
}

static bomsync_status read_fields(const apply_run *r, lane *l, const uint8_t *image, uint32_t body, uint32_t bytes, uint32_t made_with, bomsync_error *err) {
    if (bsi_image_fields(l->field, r->slots.count, image, body, bytes, made_with)) return BOMSYNC_OK;
    return bsi_fail(err, BOMSYNC_E_INTEGRITY, "a record could not be read again");
}

static bomsync_status take_record(apply_run *r, lane *l, const uint8_t *image, uint32_t body, uint32_t bytes, uint32_t key, uint32_t made_with,
                                  bomsync_error *err) {
    bomsync_status st = read_fields(r, l, image, body, bytes, made_with, err);
    if (st) return st;
    bsi_delta_key *k = bsi_deltas_find(&r->deltas, image, key);
    return k ? change_record(r, l, k, true, err) : bsi_table_add(r->table, (int)(l - r->lane), l->field, err);
}

/* ---- STATE ---- */

/* Of one block, parsed into l->rows. */
typedef bomsync_status (*block_fn)(apply_run *r, lane *l, size_t block, const bsi_layout *layout, bomsync_error *err);

typedef struct walk {
    apply_run *r;
    block_fn each;
    bool keys_only;
} walk;

static bomsync_status parse(apply_run *r, lane *l, size_t block, bool keys_only, bomsync_error *err) {
    const uint8_t *p;
    size_t n;
    bomsync_status st = bsi_scan_bytes_on(&p, &n, &r->scan, block, &l->window, err);
    if (!st) bsi_parse_block(&l->rows, r->scan.file[r->scan.block[block].file].layout, &r->secret, p, n, keys_only);
    return st;
}

static void walk_task(void *ctx, size_t index) {
    const walk *w = ctx;
    apply_run *r = w->r;
    lane *l = &r->lane[bsi_lane()];
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    size_t end = BSI_MIN((index + 1) * TASK_BLOCKS, r->scan.block_count);
    for (size_t i = index * TASK_BLOCKS; i < end && !st && !atomic_load_explicit(&r->status, memory_order_relaxed); i++) {
        st = parse(r, l, i, w->keys_only, &err);
        if (!st) st = w->each(r, l, i, r->scan.file[r->scan.block[i].file].layout, &err);
    }
    int none = 0;
    if (st && atomic_compare_exchange_strong(&r->status, &none, (int)st)) *r->err = err;
}

/* Calls each for every block of STATE, by all workers. */
static bomsync_status each_block(apply_run *r, block_fn each, bool keys_only) {
    walk w = {r, each, keys_only};
    bsi_parallel(r->workers, (r->scan.block_count + TASK_BLOCKS - 1) / TASK_BLOCKS, walk_task, &w);
    return (bomsync_status)atomic_load(&r->status);
}

/* Without changes no key is known: then records are equal or not, as a whole. */
static uint64_t hash_of(const apply_run *r, const bsi_rows *w, uint32_t i) { return r->slots.key_count ? w->kh[i] : w->rh[i]; }
static uint32_t key_bytes(const apply_run *r, const bsi_rows *w, uint32_t i) { return r->slots.key_count ? w->key[i] : w->body[i]; }

static bomsync_status gather_hashes(apply_run *r, lane *l, size_t block, const bsi_layout *layout, bomsync_error *err) {
    (void)block, (void)layout;
    const bsi_rows *w = &l->rows;
    const uint64_t *hash = r->slots.key_count ? w->kh : w->rh;
    bomsync_status st = BOMSYNC_OK;
    if (!w->bad_count) return bsi_twins_add(r->hashes, (int)(l - r->lane), hash, w->count, err);
    for (uint32_t i = 0; i < w->count && !st; i++)
        if (!w->bad[i]) st = bsi_twins_add(r->hashes, (int)(l - r->lane), &hash[i], 1, err);
    return st;
}

static void keep_twin(apply_run *r, const lane *l, size_t block, uint32_t made_with, uint32_t i) {
    const bsi_rows *w = &l->rows;
    pthread_mutex_lock(&r->lock);
    if (r->twin_count == r->twin_cap) r->twin = bsi_realloc(r->twin, (r->twin_cap = r->twin_cap ? r->twin_cap * 2 : 16) * sizeof *r->twin);
    twin *t = &r->twin[r->twin_count++];
    *t = (twin){.body = w->body[i], .key = key_bytes(r, w, i), .made_with = made_with, .at = (uint64_t)block << 16 | i};
    bsi_buf_add(&t->image, w->enc.data + w->image[i], w->image[i + 1] - w->image[i]);
    pthread_mutex_unlock(&r->lock);
}

static bomsync_status take_rows(apply_run *r, lane *l, size_t block, const bsi_layout *layout, bomsync_error *err) {
    const bsi_rows *w = &l->rows;
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t i = 0; i < w->count && !st; i++) {
        if (w->bad[i]) l->left_out++;
        else if (r->twice_count && bsi_u64_has(r->twice, r->twice_count, hash_of(r, w, i))) keep_twin(r, l, block, layout->slot_count, i);
        else st = take_record(r, l, w->enc.data + w->image[i], w->body[i], w->image[i + 1] - w->image[i], key_bytes(r, w, i), layout->slot_count, err);
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
        else st = take_record(r, r->lane, t->image.data, t->body, (uint32_t)t->image.len, t->key, t->made_with, err);
    }
    return st;
}

static bomsync_status open_state(apply_run *r, const char *state, const bomsync_read_options *read, bomsync_error *err) {
    bsi_isa isa = BSI_ISA_SCALAR;
    bomsync_status st = bsi_isa_choose(&isa, read->isa ? read->isa : "auto", err);
    if (st) return st;
    if (getrandom(r->secret.bytes, sizeof r->secret.bytes, 0) < 0) return bsi_fail(err, BOMSYNC_E_USAGE, "could not draw random bytes");
    bsi_parse_use_isa((int)isa);
    char *path = bsi_strdup(state);
    st = bsi_scan_open(&r->scan, &path, 1, &r->slots, read, (const char *const *)r->deltas.key_name, r->deltas.key_count, NULL, NULL, 0, r->workers, err);
    bsi_scan_options so = {.read = read, .isa = isa, .workers = r->workers, .secret = &r->secret, .tmp = r->tmp, .keep_stream_bytes = true,
                           .no_plain = true, .block_size = bsi_block_size_of(read->block_records)};
    if (!st && r->slots.count) st = bsi_scan_blocks(&r->scan, &so, err);
    free(path);
    return st;
}

/* Rows from everywhere tell where the parts of the table end. Without changes all columns are key: it is sorted by them. */
static bomsync_status open_table(apply_run *r, bomsync_error *err) {
    uint64_t rows = r->deltas.count;
    size_t every = r->scan.block_count / SAMPLED + 1;
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < r->scan.block_count; i++) rows += r->scan.block[i].records;
    r->table = bsi_table_open(&(bsi_table_options){.slots = &r->slots, .key_count = r->slots.key_count ? r->slots.key_count : r->slots.count, .workers = r->workers,
                                                   .rows = rows, .memory_bytes = r->memory_bytes / 2, .tmp = r->tmp});
    for (size_t i = 0; i < r->scan.block_count && !st; i += every) {
        lane *l = r->lane;
        const bsi_rows *w = &l->rows;
        st = parse(r, l, i, false, err);
        if (st || !w->count) continue;
        uint32_t row = (uint32_t)(i / every) % w->count;
        if (w->bad[row]) continue;
        st = read_fields(r, l, w->enc.data + w->image[row], w->body[row], w->image[row + 1] - w->image[row],
                         r->scan.file[r->scan.block[i].file].layout->slot_count, err);
        if (!st) bsi_table_sample(r->table, l->field);
    }
    return st;
}

static bomsync_status find_twice(apply_run *r, bomsync_error *err) {
    r->hashes = bsi_twins_open(r->workers, r->memory_bytes / 4, r->tmp);
    bomsync_status st = each_block(r, gather_hashes, r->slots.key_count > 0);
    if (!st) st = bsi_twins_find(&r->twice, &r->twice_count, r->hashes, NULL, 0, r->workers, err);
    bsi_twins_close(r->hashes);
    r->hashes = NULL;
    return st;
}

static bomsync_status go_through_state(apply_run *r, bomsync_error *err) {
    r->err = err;
    bomsync_status st = find_twice(r, err);
    if (!st) st = open_table(r, err);
    if (!st) st = each_block(r, take_rows, false);
    for (int i = 0; i < r->workers; i++) r->left_out += r->lane[i].left_out;
    if (!st) st = take_twins(r, err);
    for (size_t i = 0; i < r->deltas.count && !st; i++)
        if (!r->deltas.key[i].seen) st = change_record(r, r->lane, &r->deltas.key[i], false, err);
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
    for (int i = 0; i < r->workers && r->lane; i++) {
        bsi_rows_free(&r->lane[i].rows);
        bsi_buf_free(&r->lane[i].window.buf);
        free(r->lane[i].field);
    }
    free(r->lane);
    free(r->slot_of);
    bsi_table_close(r->table);
    pthread_mutex_destroy(&r->lock);
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
    apply_run r = {.path = deltas, .slots = {.partition = -1}, .workers = read->workers > 0 ? read->workers : bsi_usable_cores(),
                   .memory_bytes = read->memory_bytes ? read->memory_bytes : BSI_MEMORY_BYTES, .tmp = read->tmp ? read->tmp : bsi_temp_folder()};
    bomsync_status st = BOMSYNC_OK;
    pthread_mutex_init(&r.lock, NULL);
    bsi_vast_limit(r.memory_bytes / 4, 0, r.tmp);
    bsi_pool_open();
    for (size_t i = 0; i < delta_count && !st; i++) st = bsi_deltas_read(&r.deltas, deltas[i], (uint32_t)i, err);
    if (!st) st = open_state(&r, state, read, err);
    if (!st) st = map_columns(&r, err);
    if (!st) st = go_through_state(&r, err);
    if (!st) st = bsi_table_write(r.table, out, err);
    if (!st) st = report_left_out(&r, state, err);
    release(&r);
    bsi_pool_close();
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
    return st;
}
