/* Compaction: gc writes blocks again that lie scattered, and nobody can tell from what the store says. */
#include <time.h>


#include "store_fixture.h"

TestSuite(store_compact, .init = fx_init, .fini = fx_fini, .timeout = 300);

enum { ALONE = 1 };

/* The newest state and image, as they are named now. */
static void reload(bsi_store *s) {
    fx_refs(fx.ref, fx.count, s, "default");
    for (size_t i = 0; i < fx.count; i++)
        if (fx.image[i].flags & BSI_IMAGE_EXACT) fx.image[i].ref = fx.ref[i];
}

/* The stored image holds what fx.image says; its orphans are blocks of the state that it does not name. */
static void check_image(bsi_store *s) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_feed *f;
    bsi_image image;
    size_t at = 0, orphans = 0;
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    FX_OK(bsi_store_image(&image, s, f->image_list, &err), err);
    cr_assert(eq(u64, image.count, fx.count));
    for (size_t p = 0; p < image.piece_count; p++)
        for (uint32_t i = 0; i < image.piece[p].count; i++, at++)
            cr_assert(zero(int, memcmp(&image.piece[p].entry[i], &fx.image[at], sizeof *fx.image)), "entry %zu", at);
    for (size_t i = 0; i < fx.count; i++) {
        if (fx.image[i].flags & BSI_IMAGE_EXACT) continue;
        cr_assert(lt(sz, orphans, image.orphan_count));
        cr_assert(eq(u64, image.orphan[orphans++], fx.ref[i]));
    }
    cr_assert(eq(sz, orphans, image.orphan_count));
    bsi_image_free(&image);
    bsi_feed_free(f);
}

static uint64_t segments(bsi_store *s) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store_figures f;
    FX_OK(bsi_store_figures_get(&f, s, &err), err);
    return f.segments;
}

/* Bytes of the shards' files. */
static uint64_t file_bytes(void) {
    uint64_t sum = 0;
    for (int i = 0; i < 4; i++) {
        char path[128];
        struct stat st;
        snprintf(path, sizeof path, "%s/shard-%02d/data.mdb", fx.dir, i);
        cr_assert(zero(int, stat(path, &st)));
        sum += (uint64_t)st.st_size;
    }
    return sum;
}

static void gc(int64_t keep) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = fx_open(BSI_STORE_GC);
    FX_OK(bsi_store_gc(s, keep, &err), err);
    cr_assert(zero(int, fx_compare(s, &err)), "%s", err.message); /* by the same handle, too */
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store_compact, blocks_of_half_dead_segments_move_together) {
    fx_first(2000);
    uint64_t loaded = file_bytes();
    for (int round = 0; round < 4; round++) {
        fx_next(2);
        bsi_store *s = fx_open(BSI_STORE_READ);
        uint64_t before = segments(s);
        bsi_store_close(s);
        gc(ALONE);
        cr_assert(lt(u64, file_bytes(), loaded + loaded / 4)); /* written twice, and the half that was empty given back */
        s = fx_open(BSI_STORE_READ);
        cr_assert(le(u64, segments(s), 2000 / BSI_SEGMENT_BLOCKS + 1 + (uint64_t)bsi_usable_cores()), "%llu before", (unsigned long long)before);
        bsi_ref was = fx.ref[0];
        reload(s);
        cr_assert(ne(u64, fx.ref[0], was));
        check_image(s);
        bsi_store_close(s);
    }
    fx_next(7); /* and what comes next goes on from there */
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

static void is_left_alone(int64_t keep) {
    bsi_store *s = fx_open(BSI_STORE_READ);
    reload(s);
    bsi_store_close(s);
    static bsi_ref was[FX_BLOCKS_MAX];
    memcpy(was, fx.ref, sizeof was);
    gc(keep);
    s = fx_open(BSI_STORE_READ);
    reload(s);
    cr_assert(zero(int, memcmp(was, fx.ref, sizeof was)));
    bsi_store_close(s);
}

Test(store_compact, nothing_is_moved_for_little) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(2000);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    for (size_t b = 0; b < 400; b++) fx.version[b]++;
    FX_OK(fx_write(s, 0, 400, &err), err);
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_store_close(s);
    is_left_alone(ALONE); /* a sixth of what lies there is dead */
    fx_next(2);
    is_left_alone(2); /* an older generation still needs the old blocks: moving the others would free nothing */
}

Test(store_compact, orphans_are_named_anew_and_entries_without_a_block_stay) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_ref orphan[FX_BLOCKS_MAX];
    size_t orphans = 0;
    fx_first(900);
    fx_next(2);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    for (size_t i = 0; i < fx.count; i += i < 400 ? 5 : 1) { /* one here and there, and all to the end */
        orphan[orphans++] = fx.ref[i];
        fx.image[i].ref = BSI_REF_NONE;
        fx.image[i].flags = 0;
    }
    FX_OK(fx_publish_as(s, "default", (bsi_publish){.state = fx.ref, .state_count = fx.count, .image = fx.image, .image_count = fx.count,
                                                    .orphan = orphan, .orphan_count = orphans}, &err), err);
    bsi_store_close(s);
    gc(ALONE);
    s = fx_open(BSI_STORE_READ);
    bsi_ref was = fx.ref[0];
    reload(s);
    cr_assert(ne(u64, fx.ref[0], was));
    check_image(s);
    bsi_store_close(s);
}

Test(store_compact, an_image_in_another_order_is_left_as_it_is) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(900);
    fx_next(2);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    bsi_image_entry e = fx.image[10];
    fx.image[10] = fx.image[700];
    fx.image[700] = e;
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_store_close(s);
    static bsi_ref was[FX_BLOCKS_MAX], now[FX_BLOCKS_MAX];
    memcpy(was, fx.ref, sizeof was);
    gc(ALONE);
    s = fx_open(BSI_STORE_READ);
    fx_refs(now, fx.count, s, "default");
    cr_assert(zero(int, memcmp(was, now, fx.count * sizeof *now)));
    bsi_store_close(s);
}

Test(store_compact, each_feed_is_looked_at_for_itself) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(600);
    fx_next(2);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(fx_write(s, 0, 300, &err), err);
    size_t all = fx.count;
    fx.count = 300;
    FX_OK(fx_publish(s, "other", false, &err), err);
    bsi_store_close(s);
    fx.count = all;
    gc(ALONE);
    s = fx_open(BSI_STORE_READ);
    static bsi_ref now[FX_BLOCKS_MAX];
    fx_refs(now, 300, s, "other");
    cr_assert(zero(int, memcmp(now, fx.ref, 300 * sizeof *now)), "nothing of it was dead");
    bsi_store_close(s);
}

/* Killed at any time: the store is what it was, and the next gc does what is left. */
Test(store_compact, killed_it_changes_nothing) {
    uint64_t seed = 17;
    int killed = 0;
    fx_first(1500);
    fx_next(2);
    for (int round = 0; round < 60; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            bomsync_error err = BOMSYNC_ERROR_INIT;
            bsi_store *s = NULL;
            bool good = !bsi_store_open(&s, fx.dir, BSI_STORE_GC, 0, &err) && !bsi_store_gc(s, ALONE, &err);
            _exit(good ? 0 : 1);
        }
        struct timespec wait = {0, (long)(fx_random(&seed) % 25000000)};
        nanosleep(&wait, NULL);
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        bool died = WIFSIGNALED(status);
        killed += died;
        cr_assert(eq(int, died ? 0 : WEXITSTATUS(status), 0));
        cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
        if (died && round % 8) continue;
        bsi_store *s = fx_open(BSI_STORE_READ);
        reload(s);
        bsi_store_close(s);
        fx_next(2); /* there is something to do again */
    }
    cr_assert(gt(int, killed, 5));
    gc(ALONE);
    bsi_store *s = fx_open(BSI_STORE_READ);
    reload(s);
    check_image(s);
    bsi_store_close(s);
}
