/* run/publish_chunks.c - what of a generation leaves the store: chunks, manifest, and the counts and digest that vouch for them.
 *
 *   items ──> outbox/.tmp-g/1000/00-000001.ndjson.zst ... ──> what is in each chunk ──┐
 *        └──> counts by partition                                                      ├──> outbox/.tmp-g/manifest.json
 *                                       totals, digests of base and snapshot ──> digest┘
 *
 * Nothing of it counts before the root is committed. Not for sync alone: approve and revert publish in the same way, and repair makes
 * chunks again that were lost. Layout: emit/FORMAT.md.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/limits.h"
#include "run/manifest.h"
#include "run/sync.h"

/* ---- chunks ---- */

static bomsync_status send_items(const char *dir, bsi_generation *g, bsi_item_source items, const bsi_parts *parts, const bsi_slots *slots,
                                 const bsi_row_source *now, const bsi_row_source *was, int workers, bool by_libzstd, bomsync_error *err) {
    bomsync_status st = bsi_remove_tree(dir, err);
    if (!st) st = bsi_mkdirs(dir, err);
    if (st || !items.most) return st;
    char id[65];
    bsi_hex(id, g->base_digest, 32);
    id[16] = 0;
    bsi_change_head head = {.entity = g->feed, .id_prefix = id, .generation = -1};
    bsi_render how = {.slots = slots, .now = now, .was = was, .head = &head, .workers = workers, .by_libzstd = by_libzstd};
    return bsi_items_send(items, &how, parts, dir, &g->chunks, &g->chunk_count, err);
}

bomsync_status bsi_write_chunks(const char *dir, bsi_generation *g, const bsi_item *items, size_t count, const bsi_parts *parts,
                                const bsi_slots *slots, const bsi_row_source *now, const bsi_row_source *was, int workers,
                                bool by_libzstd, bomsync_error *err) {
    bsi_item_array array = {.item = items, .count = count};
    return send_items(dir, g, bsi_items_of(&array), parts, slots, now, was, workers, by_libzstd, err);
}

bomsync_status bsi_send_items(bsi_store *store, bsi_generation *g, bsi_item_source items, const bsi_parts *parts, const bsi_slots *slots,
                              const bsi_row_source *now, const bsi_row_source *was, int workers, bomsync_error *err) {
    char *dir = bsi_format("%s/outbox/.tmp-%lld", bsi_store_dir(store), (long long)g->number);
    bomsync_status st = send_items(dir, g, items, parts, slots, now, was, workers, false, err);
    free(dir);
    return st;
}

bomsync_status bsi_send_chunks(bsi_store *store, bsi_generation *g, const bsi_item *items, size_t count, const bsi_parts *parts,
                               const bsi_slots *slots, const bsi_row_source *now, const bsi_row_source *was, int workers,
                               bomsync_error *err) {
    bsi_item_array array = {.item = items, .count = count};
    return bsi_send_items(store, g, bsi_items_of(&array), parts, slots, now, was, workers, err);
}

bomsync_status bsi_put_manifest(bsi_store *store, int64_t number, const char *json, bomsync_error *err) {
    char *dir = bsi_format("%s/outbox/.tmp-%lld", bsi_store_dir(store), (long long)number);
    char *path = bsi_format("%s/manifest.json", dir);
    bomsync_status st = bsi_write_file(path, json, strlen(json), err);
    if (!st) st = bsi_fsync_path(dir, err);
    if (!st) {
        char *outbox = bsi_format("%s/outbox", bsi_store_dir(store));
        st = bsi_fsync_path(outbox, err);
        free(outbox);
    }
    free(path);
    free(dir);
    return st;
}

bomsync_status bsi_write_manifest(bsi_store *store, const bsi_generation *g, bomsync_error *err) {
    char *json = bsi_manifest_json(g, bsi_store_id(store));
    bomsync_status st = bsi_put_manifest(store, g->number, json, err);
    free(json);
    return st;
}

/* ---- digests and counts ---- */

void bsi_generation_digest(bsi_generation *g) {
    bsi_sha *h = bsi_sha_open();
    bsi_sha_add(h, g->base_digest, 32);
    bsi_sha_add(h, g->feed, strlen(g->feed) + 1);
    bsi_sha_add(h, g->snapshot_digest, 32);
    bsi_sha_add(h, g->contract_digest, 32);
    const bsi_totals *t = &g->totals;
    int64_t v[] = {t->created, t->updated, t->deleted, t->unchanged, t->schema_only, t->suppressed, t->unowned, t->held,
                   t->deletes_held, t->kept_back, t->duplicates, t->filtered, t->records_in, t->records};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        char text[24];
        int n = snprintf(text, sizeof text, "%lld,", (long long)v[i]);
        bsi_sha_add(h, text, (size_t)n);
    }
    for (size_t i = 0; i < g->chunk_count; i++) {
        char hex[33];
        bsi_hash128_hex(hex, g->chunks[i].content_xxh3);
        bsi_sha_add(h, hex, 32);
    }
    bsi_sha_close(h, g->digest);
}

static int part_order(const void *a, const void *b) {
    return strcmp(((const bsi_partition_count *)a)->name, ((const bsi_partition_count *)b)->name);
}

void bsi_generation_partitions(bsi_generation *g, const bsi_generation *last, const bsi_item *items, size_t count,
                               const bsi_parts *parts, const int64_t *made) {
    size_t from_last = last ? last->partition_count : 0;
    bsi_partition_count *v = bsi_calloc(from_last + parts->count + 1, sizeof *v);
    size_t n = 0;
    for (; n < from_last; n++) v[n] = (bsi_partition_count){.name = bsi_strdup(last->partitions[n].name), .records = last->partitions[n].records};
    size_t *to = bsi_alloc(sizeof *to * (parts->count + 1));
    for (uint32_t p = 0; p < parts->count; p++) {
        size_t k = 0;
        while (k < n && strcmp(v[k].name, parts->name[p]) != 0) k++;
        if (k == n) v[n++].name = bsi_strdup(parts->name[p]);
        to[p] = k;
    }
    for (size_t i = 0; i < count; i++) {
        bsi_partition_count *c = &v[to[items[i].part]];
        if (items[i].op == 'c') c->created++, c->records++;
        if (items[i].op == 'u') c->updated++;
        if (items[i].op == 'd') c->deleted++, c->records--;
    }
    for (uint32_t p = 0; made && p < parts->count; p++) {
        v[to[p]].created += made[p];
        v[to[p]].records += made[p];
    }
    free(to);
    bsi_sort(v, n, sizeof *v, part_order);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i].records || v[i].deleted || v[i].created || v[i].updated) v[kept++] = v[i];
        else free(v[i].name);
    }
    g->partitions = v;
    g->partition_count = kept;
}
