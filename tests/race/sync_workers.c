/* tests/race/sync_workers.c - everything that runs in several threads, on data small enough for ThreadSanitizer.
 *
 * A first load, a sync with changes all over, one that is unchanged, one in another order, a diff and an export, each
 * with 1, 2 and 7 workers in a store of its own. Exits with 0 if the products are the same for all of them; run under
 * ThreadSanitizer it fails on a data race as well.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bomsync/bomsync.h"
#include "core/base.h"

#ifndef LINES
#define LINES 30000 /* 1.5 MB: several units of the scan */
#endif

static const char *const key[] = {"plant", "parent", "pos"};
static char folder[] = "/tmp/bomsync-race-XXXXXX";

static int take(void *ctx, const void *bytes, size_t n) {
    bsi_buf_add(ctx, bytes, n);
    return 0;
}

static void stop_at(const char *what, const bomsync_error *err) {
    fprintf(stderr, "%s: %d %s (%s)\n", what, err->status, err->message, err->hint);
    exit(1);
}

/* step 0: as it was; 1: every 97th line has another quantity, every 1009th is gone, some are new; 2: step 1 from end to front. */
static char *snapshot(int step) {
    char *path = bsi_format("%s/%d.csv", folder, step);
    FILE *f = fopen(path, "w");
    if (!f) abort();
    fputs("plant,parent,pos,component,qty,text\n", f);
    for (int n = 0; n < LINES; n++) {
        int i = step == 2 ? LINES - 1 - n : n;
        if (step && i % 1009 == 0) continue;
        fprintf(f, "%d,ASM-%06d,%04d,CMP-%05d,%d,\"item, %d \"\"or so\"\"\"\n", 1000 + i % 7, i / 10, i % 10 * 10, i * 7919 % 50000,
                step && i % 97 == 0 ? 9 : 1 + i % 5, i);
        if (step && i % 1511 == 0) fprintf(f, "1000,NEW-%06d,0010,CMP-1,1,\n", i);
    }
    if (fclose(f)) abort();
    return path;
}

static void sync_one(const char *store, const char *path, int workers, bool complete) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_result result = {0};
    bsi_buf talk = {0};
    bomsync_sync_options o = {.store = store, .key = key, .key_count = 3, .partition = "plant", .snapshot = &path,
                              .snapshot_count = 1, .complete = complete, .expect_records = -1, .sequence = -1,
                              .now = "2026-01-02T03:04:05Z"};
    o.read.workers = workers;
    o.read.io = workers == 2 ? "uring" : "auto";
    if (bomsync_sync(&o, &result, (bomsync_sink){take, &talk}, &err)) stop_at(path, &err);
    bomsync_result_free(&result);
    bsi_buf_free(&talk);
}

/* What all of it gives, in one buffer; ids of changes are the store's own and left out. */
static bsi_buf all_of_it(char *const path[3], int workers) {
    bsi_buf out = {0}, talk = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    char *store = bsi_format("%s/store-%d", folder, workers);
    if (bomsync_init(store, 4, &err)) stop_at("init", &err);
    static const int order[] = {0, 0, 1, 1, 2};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) sync_one(store, path[order[i]], workers, true);
    if (bomsync_diff_generations(store, NULL, 1, 2, (bomsync_sink){take, &out}, &err) != BOMSYNC_DIFFERENT)
        stop_at("diff-generations", &err);
    if (bomsync_export(store, NULL, -1, NULL, (bomsync_sink){take, &out}, &err)) stop_at("export", &err);
    if (bomsync_verify(store, false, false, (bomsync_sink){take, &talk}, &err)) stop_at("verify", &err);
    bomsync_diff_options d = {.old_path = path[0], .new_path = path[2], .key = key, .key_count = 3};
    d.read.workers = workers;
    if (bomsync_diff(&d, (bomsync_sink){take, &out}, (bomsync_sink){take, &talk}, false, &err) != BOMSYNC_DIFFERENT)
        stop_at("diff", &err);
    free(store);
    bsi_buf_free(&talk);
    return out;
}

int main(void) {
    if (!mkdtemp(folder)) return 1;
    char *path[3];
    for (int i = 0; i < 3; i++) path[i] = snapshot(i);
    bsi_buf one = all_of_it(path, 1);
    static const int workers[] = {2, 7};
    for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
        bsi_buf many = all_of_it(path, workers[i]);
        if (many.len != one.len || memcmp(many.data, one.data, one.len)) {
            fprintf(stderr, "%d workers give another product than one\n", workers[i]);
            return 1;
        }
        bsi_buf_free(&many);
    }
    bsi_buf_free(&one);
    for (int i = 0; i < 3; i++) free(path[i]);
    return bsi_remove_tree(folder, NULL) ? 1 : 0;
}
