/* run/export.c - the published state, or the source, of a feed as CSV.
 *
 *   state   | block | block | block | ..      tasks of some blocks, by all workers ──> table.h, which sorts them in bounded memory
 *   kept    records whose value waits         (of the source)                      ──┘
 *
 * The source differs from what is published by what is kept: a held or declined delete is not in it, a record kept back has the value that
 * waits.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/query.h"
#include "run/table.h"

enum { TASK_BLOCKS = 256, SAMPLED = 4096 };

typedef struct export_run {
    bsi_store *store;
    bsi_feed *feed;
    bsi_ref *refs;
    size_t count;
    bsi_kept_list kept;
    uint64_t *skip; /* key hashes of those, ascending */
    size_t skips;
    int workers;
    bsi_table *table;
    atomic_int status;
    bomsync_error *err;
} export_run;

static void list_kept(export_run *x) {
    bsi_kept_walk w = {.list = &x->kept};
    x->skip = bsi_vast_alloc(sizeof *x->skip * (x->kept.count + 1));
    for (const bsi_kept *k; (k = bsi_kept_next(&w));)
        if (k->key_read) x->skip[x->skips++] = k->kh;
    bsi_sort(x->skip, x->skips, sizeof *x->skip, bsi_by_u64);
}

static bomsync_status fields_of(bsi_field *f, const export_run *x, const bsi_block_data *d, uint32_t row, bomsync_error *err) {
    if (bsi_image_fields(f, x->feed->slots.count, d->raw.data + d->image[row], d->body[row], d->image[row + 1] - d->image[row], d->slot_count)) return BOMSYNC_OK;
    return bsi_fail(err, BOMSYNC_E_INTEGRITY, "a stored record is damaged");
}

/* ---- where parts of the table end ---- */

/* One row of a few thousand blocks, from everywhere: keys, and how long rows are. */
static bomsync_status open_table(export_run *x, bomsync_error *err) {
    size_t every = x->count / SAMPLED + 1, looked = 0;
    uint64_t rows = 0;
    bsi_block_data d = {0};
    bsi_field *f = bsi_alloc(sizeof *f * (x->feed->slots.count + 1));
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < x->count && !st; i += every, looked++) {
        bsi_block_rows r;
        st = bsi_store_rows(&r, x->store, x->refs[i], err);
        rows += st ? 0 : r.count;
    }
    x->table = bsi_table_open(&(bsi_table_options){.slots = &x->feed->slots, .key_count = x->feed->slots.key_count, .workers = x->workers,
                                                   .rows = looked ? rows * x->count / looked : 0, .memory_bytes = BSI_MEMORY_BYTES, .tmp = bsi_temp_folder()});
    for (size_t i = 0; i < x->count && !st; i += every) {
        st = bsi_store_data(&d, x->store, x->refs[i], err);
        if (!st && d.count) st = fields_of(f, x, &d, (uint32_t)(i / every) % d.count, err);
        if (!st && d.count) bsi_table_sample(x->table, f);
    }
    free(f);
    bsi_block_data_free(&d);
    return st;
}

/* ---- rows ---- */

static bomsync_status export_block(export_run *x, bsi_block_data *d, bsi_field *f, bsi_ref ref, bomsync_error *err) {
    bsi_block_rows hashes = {0};
    bomsync_status st = bsi_store_data(d, x->store, ref, err);
    if (!st && x->skips) st = bsi_store_rows(&hashes, x->store, ref, err);
    for (uint32_t i = 0; !st && i < d->count; i++) {
        if (x->skips && bsi_u64_has(x->skip, x->skips, hashes.kh[i])) continue;
        st = fields_of(f, x, d, i, err);
        if (!st) st = bsi_table_add(x->table, bsi_lane(), f, err);
    }
    return st;
}

static void export_task(void *ctx, size_t index) {
    export_run *x = ctx;
    if (atomic_load(&x->status)) return;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    bsi_block_data d = {0};
    bsi_field *f = bsi_alloc(sizeof *f * (x->feed->slots.count + 1));
    size_t end = BSI_MIN((index + 1) * TASK_BLOCKS, x->count);
    for (size_t i = index * TASK_BLOCKS; i < end && !st; i++) st = export_block(x, &d, f, x->refs[i], &err);
    free(f);
    bsi_block_data_free(&d);
    int none = 0;
    if (st && atomic_compare_exchange_strong(&x->status, &none, (int)st)) *x->err = err;
}

static bomsync_status export_kept(export_run *x, bomsync_error *err) {
    bsi_field *f = bsi_alloc(sizeof *f * (x->feed->slots.count + 1));
    bomsync_status st = BOMSYNC_OK;
    bsi_kept_walk w = {.list = &x->kept};
    for (const bsi_kept *k; !st && (k = bsi_kept_next(&w));) {
        if (!k->image || !bsi_kept_is_exception(k)) continue;
        if (bsi_image_fields(f, x->feed->slots.count, k->image, k->body_bytes, k->image_bytes, k->slot_count)) st = bsi_table_add(x->table, 0, f, err);
    }
    bsi_kept_walk_end(&w);
    free(f);
    return st;
}

static bomsync_status go_through(export_run *x, bomsync_error *err) {
    x->err = err;
    bsi_parallel(x->workers, (x->count + TASK_BLOCKS - 1) / TASK_BLOCKS, export_task, x);
    bomsync_status st = (bomsync_status)atomic_load(&x->status);
    return st ? st : export_kept(x, err);
}

bomsync_status bomsync_export(const char *store, const char *feed_name, int64_t generation, const char *as, bomsync_sink out, bomsync_error *err) {
    export_run x = {.workers = bsi_usable_cores()};
    bomsync_error own = BOMSYNC_ERROR_INIT;
    bool source = as && strcmp(as, "source") == 0;
    if (!err) err = &own;
    if (as && !source && strcmp(as, "published") != 0)
        return bsi_fail(err, BOMSYNC_E_USAGE, "--as is published or source, not \"%s\"", as);
    bsi_vast_limit(BSI_MEMORY_BYTES / 4, 0, bsi_temp_folder());
    bomsync_status st = bsi_open_read(&x.store, store, err);
    if (!st) st = bsi_pick_feed(&x.feed, x.store, feed_name, err);
    if (!st) st = generation == 0 ? BOMSYNC_OK : bsi_state_at(&x.refs, &x.count, x.store, x.feed, generation, err);
    if (!st && source) st = bsi_store_kept(&x.kept, x.store, x.feed->name, err);
    if (!st) list_kept(&x);
    bsi_pool_open();
    if (!st) st = open_table(&x, err);
    if (!st) st = go_through(&x, err);
    if (!st) st = bsi_table_write(x.table, out, err);
    bsi_pool_close();
    bsi_table_close(x.table);
    free(x.refs);
    bsi_vast_free(x.skip);
    bsi_kept_free(&x.kept);
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
    if (x.feed) bsi_feed_free(x.feed);
    if (x.store) bsi_store_close(x.store);
    return st;
}
