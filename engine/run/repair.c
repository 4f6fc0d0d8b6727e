/* run/repair.c - chunks that are missing or damaged, made again from the states.
 *
 *   state g-1, state g ──> changes ──> tmp/repair-<g>/ ──> is it what the generation's record says? ──> outbox/<g>/
 *
 * The record of a generation has size and digests of each chunk: what is put into the outbox is the same to the byte, or
 * nothing is. It cannot always be had: the order of changes is that of the snapshot, which may differ from that of the
 * state, and gc may have given up a state. Earlier versions let libzstd code all frames: that way is tried second.
 */
#include "run/repair.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/manifest.h"
#include "run/query.h"
#include "run/sync.h"

typedef struct repair {
    bsi_store *store;
    const bsi_generation *g;
    char *outbox, *tmp; /* tmp: of the way at hand */
    void (*told)(void *ctx, const char *line);
    void *ctx;
} repair;

static void tell(const repair *r, const char *what, const char *file) {
    char *line = bsi_format("generation %lld: %s \"%s\"", (long long)r->g->number, what, file);
    r->told(r->ctx, line);
    free(line);
}

static bomsync_status no_line(void *ctx, const char *line, size_t n, bomsync_error *err) {
    (void)ctx, (void)line, (void)n, (void)err;
    return BOMSYNC_OK;
}

static bool good(const char *dir, const bsi_chunk_info *c) {
    bomsync_error ignored = BOMSYNC_ERROR_INIT;
    char *path = bsi_format("%s/%s", dir, c->file);
    bool is = bsi_chunk_read(path, c, no_line, NULL, &ignored) == BOMSYNC_OK;
    free(path);
    return is;
}

static bool there(const char *dir, const char *file) {
    struct stat st;
    char *path = bsi_format("%s/%s", dir, file);
    bool is = stat(path, &st) == 0;
    free(path);
    return is;
}

enum { BY_REPEATS, BY_LIBZSTD, WAYS };

/* All chunks of the generation once more, below tmp. */
static bomsync_status make_chunks(repair *r, int way, bomsync_error *err) {
    const bsi_generation *g = r->g;
    bsi_feed *feed = NULL;
    bsi_ref *a = NULL, *b = NULL;
    size_t a_count = 0, b_count = 0, count = 0;
    bsi_item *item = NULL;
    bsi_parts parts = {0};
    int workers = bsi_usable_cores();
    bomsync_status st = bsi_store_feed(&feed, r->store, g->feed, err);
    if (!st && !feed) st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "there is no feed \"%s\"", g->feed);
    if (!st) feed->slots.count = BSI_MIN(feed->slots.count, g->slot_count);
    if (!st && g->base) st = bsi_state_at(&a, &a_count, r->store, feed, g->base, err);
    if (!st) st = bsi_state_at(&b, &b_count, r->store, feed, g->number, err);
    if (!st) st = bsi_state_diff(&item, &count, r->store, &feed->slots, a, a_count, b, b_count, &parts, workers, err);
    if (!st) {
        bsi_items_sort(item, count, &parts);
        bsi_row_source was = {.store = r->store, .refs = a, .slot_count = feed->slots.count};
        bsi_row_source now = {.store = r->store, .refs = b, .slot_count = feed->slots.count};
        bsi_generation again = {.number = g->number, .feed = g->feed};
        memcpy(again.base_digest, g->base_digest, 32);
        st = bsi_write_chunks(r->tmp, &again, item, count, &parts, &feed->slots, &now, &was, workers, way == BY_LIBZSTD, err);
        bsi_chunk_infos_free(again.chunks, again.chunk_count);
    }
    free(item);
    free(a);
    free(b);
    bsi_parts_free(&parts);
    if (feed) bsi_feed_free(feed);
    return st;
}

static bomsync_status put(const repair *r, const char *file, bomsync_error *err) {
    char *from = bsi_format("%s/%s", r->tmp, file), *to = bsi_format("%s/%s", r->outbox, file), *folder = bsi_strdup(to);
    *strrchr(folder, '/') = 0;
    bomsync_status st = bsi_mkdirs(folder, err);
    if (!st) st = bsi_fsync_path(from, err);
    if (!st && rename(from, to) != 0) st = bsi_fail_errno(err, errno, to, "could not rename \"%s\"", from);
    if (!st) st = bsi_fsync_path(folder, err);
    if (!st) st = bsi_fsync_path(r->outbox, err);
    free(from);
    free(to);
    free(folder);
    return st;
}

static bomsync_status put_manifest(const repair *r, bomsync_error *err) {
    bomsync_status st = bsi_mkdirs(r->tmp, err);
    char *path = bsi_format("%s/manifest.json", r->tmp), *json = bsi_manifest_json(r->g, bsi_store_id(r->store));
    if (!st) st = bsi_write_file(path, json, strlen(json), err);
    free(path);
    free(json);
    return st ? st : put(r, "manifest.json", err);
}

/* Whether the chunk can be had in one of the ways; then it stands below r->tmp. */
static bomsync_status make_again(repair *r, const bsi_chunk_info *c, char *const tmp[WAYS], bool made[WAYS], bool *had, bomsync_error *err) {
    *had = false;
    for (int way = 0; way < WAYS && !*had; way++) {
        r->tmp = tmp[way];
        if (!made[way]) {
            bomsync_error why = BOMSYNC_ERROR_INIT;
            bomsync_status st = make_chunks(r, way, &why);
            made[way] = true;
            if (st && st != BOMSYNC_E_INTEGRITY && st != BOMSYNC_E_USAGE) { /* those: a state is damaged or gone, nothing to make it of */
                *err = why;
                return st;
            }
        }
        *had = good(r->tmp, c);
    }
    return BOMSYNC_OK;
}

static bomsync_status repair_one(repair *r, char *const tmp[WAYS], bomsync_error *err) {
    bool manifest = there(r->outbox, "manifest.json"), made[WAYS] = {false}, had;
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; !st && i < r->g->chunk_count; i++) {
        const bsi_chunk_info *c = &r->g->chunks[i];
        if (good(r->outbox, c)) continue;
        st = make_again(r, c, tmp, made, &had, err);
        if (st) break;
        if (!had) {
            tell(r, "cannot make again what was sent in chunk", c->file);
            continue;
        }
        st = put(r, c->file, err);
        if (!st) tell(r, "wrote again chunk", c->file);
    }
    r->tmp = tmp[0];
    if (!st && !manifest) {
        st = put_manifest(r, err);
        if (!st) tell(r, "wrote again", "manifest.json");
    }
    return st;
}

bomsync_status bsi_repair_outbox(bsi_store *s, void (*told)(void *ctx, const char *line), void *ctx, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    char *outbox = bsi_format("%s/outbox", bsi_store_dir(s));
    for (int64_t n = 1; !st && n <= bsi_store_generation(s); n++) {
        bsi_generation *g = NULL;
        bomsync_error ignored = BOMSYNC_ERROR_INIT;
        if (bsi_store_generation_get(&g, s, n, &ignored) || !g || !g->outbox) { /* damaged ones: verify tells */
            bsi_generation_free(g);
            continue;
        }
        repair r = {.store = s, .g = g, .told = told, .ctx = ctx, .outbox = bsi_format("%s/%lld", outbox, (long long)n)};
        char *tmp[WAYS];
        for (int way = 0; way < WAYS; way++) tmp[way] = bsi_format("%s/tmp/repair-%lld-%d", bsi_store_dir(s), (long long)n, way);
        st = repair_one(&r, tmp, err);
        for (int way = 0; way < WAYS; way++) {
            if (!st) st = bsi_remove_tree(tmp[way], err);
            free(tmp[way]);
        }
        free(r.outbox);
        bsi_generation_free(g);
    }
    if (!st) st = bsi_fsync_path(outbox, err);
    free(outbox);
    return st;
}
