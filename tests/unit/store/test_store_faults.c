/* What happens to a store: killed writers, flipped bits, truncation, full queues of old generations, copies. */
#include <dirent.h>
#include <fcntl.h>

#include "store_fixture.h"

TestSuite(store_faults, .init = fx_init, .fini = fx_fini, .timeout = 300);

/* ---- killed ---- */

enum stage { WROTE_BLOCKS, FLUSHED_SHARDS, COMMITTED_ROOT };

/* A child does a run up to a point and is killed there. */
static void killed_at(enum stage stage, size_t step) {
    pid_t pid = fork();
    if (pid == 0) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bsi_store *s;
        char dir[128];
        if (bsi_store_open(&s, fx.dir, BSI_STORE_WRITE, 0, &err)) _exit(1);
        snprintf(dir, sizeof dir, "%s/outbox/.tmp-%d", fx.dir, (int)bsi_store_generation(s) + 1);
        if (bsi_mkdirs(dir, &err)) _exit(1);
        for (size_t b = 0; b < fx.count; b += step) {
            fx.version[b]++;
            if (fx_write(s, b, b + 1, &err)) _exit(1);
        }
        if (stage >= FLUSHED_SHARDS && bsi_shards_flush(s, &err)) _exit(1);
        if (stage >= COMMITTED_ROOT) { /* the rename is undone: as if it had not been reached */
            if (fx_publish(s, "default", true, &err)) _exit(1);
            char name[128];
            snprintf(name, sizeof name, "%s/outbox/%d", fx.dir, (int)bsi_store_generation(s));
            if (rename(name, dir) != 0) _exit(1);
        }
        kill(getpid(), SIGKILL);
    }
    int status;
    waitpid(pid, &status, 0);
    cr_assert(ne(int, WIFSIGNALED(status), 0));
}

static bool there(const char *fmt, int n) {
    char name[64], path[160];
    struct stat st;
    snprintf(name, sizeof name, fmt, n);
    snprintf(path, sizeof path, "%s/%s", fx.dir, name);
    return stat(path, &st) == 0;
}

Test(store_faults, killed_before_the_root_leaves_the_generation_before) {
    fx_first(700);
    for (int round = 0; round < 3; round++) {
        killed_at(round == 1 ? WROTE_BLOCKS : FLUSHED_SHARDS, 3);
        cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
        cr_assert(zero(int, fx_judge(BSI_STORE_WRITE)));
        cr_assert(zero(int, there("outbox/.tmp-%d", round + 2)));
        fx_next(11);
        cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    }
}

Test(store_faults, killed_after_the_root_is_rolled_forward) {
    fx_first(100);
    killed_at(COMMITTED_ROOT, 10);
    for (size_t b = 0; b < fx.count; b += 10) fx.version[b]++;
    cr_assert(eq(int, there("outbox/.tmp-%d", 2), 1));
    cr_assert(zero(int, there("outbox/%d", 2)));
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    cr_assert(eq(i64, bsi_store_generation(s), 2));
    cr_assert(zero(int, fx_compare(s, &err)), "%s", err.message);
    bsi_store_close(s);
    cr_assert(eq(int, there("outbox/%d", 2), 1));
    cr_assert(zero(int, there("outbox/.tmp-%d", 2)));
}

Test(store_faults, what_a_killed_run_left_is_cut_off) {
    fx_first(300);
    killed_at(FLUSHED_SHARDS, 1);
    bsi_store *s = fx_open(BSI_STORE_READ);
    bsi_store_figures before, after;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    FX_OK(bsi_store_figures_get(&before, s, &err), err);
    bsi_store_close(s);
    fx_next(1);
    fx_next(1);
    s = fx_open(BSI_STORE_READ);
    FX_OK(bsi_store_figures_get(&after, s, &err), err);
    cr_assert(eq(u64, after.segments, 2 + 300 + 300), "%" PRIu64 " before %" PRIu64, after.segments, before.segments);
    bsi_store_close(s);
}

/* ---- damage ---- */

typedef struct file_bytes {
    char path[160];
    bsi_buf bytes;
} file_bytes;

static size_t load_files(file_bytes *file) {
    static const char *const label[] = {"root", "shard-00", "shard-01", "shard-02", "shard-03"};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    for (size_t i = 0; i < 5; i++) {
        snprintf(file[i].path, sizeof file[i].path, "%s/%s/data.mdb", fx.dir, label[i]);
        FX_OK(bsi_read_file(&file[i].bytes, file[i].path, 1u << 30, &err), err);
    }
    return 5;
}

static void patch(const char *path, size_t at, const void *p, size_t n) {
    int fd = open(path, O_WRONLY);
    cr_assert(eq(sz, (size_t)pwrite(fd, p, n, (off_t)at), n));
    close(fd);
}

/* A flip is either found (7, or a signal that the supervisor turns into 7), or it lies in dead bytes and changes nothing. */
Test(store_faults, a_flipped_bit_is_found_or_dead) {
    fx_first(400);
    fx_next(50);
    file_bytes file[5] = {0};
    size_t files = load_files(file);
    uint64_t seed = 20240229;
    int found = 0, dead = 0, signals = 0;
    for (int round = 0; round < 400; round++) {
        file_bytes *f = &file[fx_random(&seed) % files];
        size_t at = fx_random(&seed) % f->bytes.len;
        uint8_t flipped = (uint8_t)(f->bytes.data[at] ^ 1u << (fx_random(&seed) & 7));
        patch(f->path, at, &flipped, 1);
        int verdict = fx_judge(BSI_STORE_READ);
        cr_assert(ne(int, verdict == 0 || verdict == BOMSYNC_E_INTEGRITY || verdict > 128, 0), "flip at %zu of %s: %d", at, f->path, verdict);
        found += verdict == BOMSYNC_E_INTEGRITY;
        dead += verdict == 0;
        signals += verdict > 128;
        patch(f->path, at, &f->bytes.data[at], 1);
    }
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    cr_log_info("found %d, dead %d, signals %d", found, dead, signals);
    cr_assert(gt(int, found, 60));
    for (size_t i = 0; i < files; i++) bsi_buf_free(&file[i].bytes);
}

Test(store_faults, a_file_cut_short_is_told_before_it_is_read) {
    fx_first(800);
    file_bytes file[5] = {0};
    size_t files = load_files(file);
    uint64_t seed = 7;
    for (int round = 0; round < 60; round++) {
        file_bytes *f = &file[(size_t)round % files];
        size_t pages = f->bytes.len / 4096, cut = round < 10 ? 1 : 1 + fx_random(&seed) % pages;
        cr_assert(zero(int, truncate(f->path, (off_t)((pages - cut) * 4096 + (cut > 1 ? fx_random(&seed) % 4096 : 100)))));
        int verdict = fx_judge(BSI_STORE_WRITE);
        cr_assert(eq(int, verdict, BOMSYNC_E_INTEGRITY), "%zu of %zu pages cut from %s", cut, pages, f->path);
        patch(f->path, 0, f->bytes.data, f->bytes.len);
    }
    cr_assert(zero(int, fx_judge(BSI_STORE_WRITE)));
    for (size_t i = 0; i < files; i++) bsi_buf_free(&file[i].bytes);
}

/* A transaction that takes pages and gives them back leaves a file that is shorter than its last page: no damage. */
Test(store_faults, a_tail_that_was_never_written_is_no_damage) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(300);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    MDB_txn *txn;
    bsi_buf b = {0};
    FX_OK(bsi_env_begin(&txn, &s->root, &err), err);
    for (int i = 0; i < 40000; i++) bsi_buf_byte(&b, 1);
    FX_OK(bsi_store_meta_put(s, txn, "long", b.data, b.len, &err), err);
    FX_OK(bsi_value_drop(&s->root, txn, BSI_DB_META, bsi_key_text("long"), &err), err);
    FX_OK(bsi_store_meta_put(s, txn, "short", b.data, 10, &err), err);
    cr_assert(zero(int, mdb_txn_commit(txn))); /* past bsi_env_commit, which fills the tail */
    MDB_envinfo info;
    struct stat st;
    char path[160];
    snprintf(path, sizeof path, "%s/%s/data.mdb", fx.dir, "root");
    mdb_env_info(s->root.env, &info);
    cr_assert(zero(int, stat(path, &st)));
    bsi_buf_free(&b);
    bsi_store_close(s);
    cr_assert(lt(u64, (uint64_t)st.st_size, (info.me_last_pgno + 1) * 4096));
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    fx_next(3);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store_faults, two_swapped_values_are_found) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(1600);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(bsi_shard_env(&s->shard[1], &err), err);
    bsi_env *e = &s->shard[1].env;
    uint64_t a = 1, b = 5;
    bsi_buf copy[2] = {0};
    MDB_val va, vb, ka = bsi_key_id(&a), kb = bsi_key_id(&b);
    MDB_txn *txn;
    cr_assert(zero(int, mdb_get(e->read, e->dbi[BSI_DB_DATA], &ka, &va) | mdb_get(e->read, e->dbi[BSI_DB_DATA], &kb, &vb)));
    bsi_buf_add(&copy[0], va.mv_data, va.mv_size);
    bsi_buf_add(&copy[1], vb.mv_data, vb.mv_size);
    FX_OK(bsi_env_begin(&txn, e, &err), err);
    FX_OK(bsi_value_put(e, txn, BSI_DB_DATA, ka, &copy[1], 0, &err), err);
    FX_OK(bsi_value_put(e, txn, BSI_DB_DATA, kb, &copy[0], 0, &err), err);
    FX_OK(bsi_env_commit(e, txn, &err), err);
    bsi_buf_free(&copy[0]);
    bsi_buf_free(&copy[1]);
    bsi_store_close(s);
    cr_assert(eq(int, fx_judge(BSI_STORE_READ), BOMSYNC_E_INTEGRITY));
}

Test(store_faults, a_damaged_image_is_dropped_by_repair) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(500);
    bsi_store *s = fx_open(BSI_STORE_READ);
    bsi_feed *f;
    bsi_image image;
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    FX_OK(bsi_store_image(&image, s, f->image_list, &err), err);
    MDB_envinfo info;
    mdb_env_info(s->root.env, &info);
    uint8_t entry[56];
    memcpy(entry, &image.piece[3].entry[1], 56);
    bsi_image_free(&image);
    bsi_feed_free(f);
    bsi_store_close(s);
    file_bytes file[5] = {0};
    load_files(file);
    uint8_t *hit = memmem(file[0].bytes.data, file[0].bytes.len, entry, 56);
    cr_assert(ne(ptr, hit, NULL));
    uint8_t wrong = hit[40] ^ 4;
    patch(file[0].path, (size_t)(hit + 40 - file[0].bytes.data), &wrong, 1);
    for (size_t i = 0; i < 5; i++) bsi_buf_free(&file[i].bytes);
    cr_assert(eq(int, fx_judge(BSI_STORE_READ), BOMSYNC_E_INTEGRITY));
    s = fx_open(BSI_STORE_WRITE);
    FX_OK(bsi_store_verify(s, true, NULL, NULL, &err), err);
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    cr_assert(zero(u64, f->image_list));
    bsi_feed_free(f);
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    fx_next(9);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

typedef struct told {
    char line[4][200];
    size_t count;
} told;

static void note_line(void *ctx, const char *line) {
    told *t = ctx;
    if (t->count < 4) snprintf(t->line[t->count], sizeof t->line[0], "%s", line);
    t->count++;
}

/* An image that does not cover the state is told, with the block, and dropped by repair. */
static void uncovered(const bsi_image_entry *image, const bsi_ref *orphan, size_t orphan_count, const char *want) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(fx_publish_as(s, "default", (bsi_publish){.state = fx.ref, .state_count = fx.count, .image = image, .image_count = fx.count,
                                                    .orphan = orphan, .orphan_count = orphan_count}, &err), err);
    told t = {0};
    cr_assert(eq(int, (int)bsi_store_verify(s, false, note_line, &t, &err), BOMSYNC_E_INTEGRITY));
    cr_assert(eq(sz, t.count, 1));
    cr_assert(ne(ptr, strstr(t.line[0], want), NULL), "%s", t.line[0]);
    cr_assert(ne(ptr, strstr(err.hint, "verify --repair"), NULL));
    t = (told){0};
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    FX_OK(bsi_store_verify(s, true, note_line, &t, &err), err);
    cr_assert(eq(sz, t.count, 2));
    cr_assert(ne(ptr, strstr(t.line[1], "the images are dropped"), NULL), "%s", t.line[1]);
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store_faults, an_image_that_does_not_cover_the_state_is_told) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    static bsi_image_entry image[FX_BLOCKS_MAX];
    fx_first(300);
    bsi_ref old = fx.ref[5], twice = fx.ref[7];
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    fx.version[5]++;
    FX_OK(fx_write(s, 5, 6, &err), err);
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_store_close(s);
    memcpy(image, fx.image, sizeof image);
    image[5].ref = old;
    uncovered(image, &fx.ref[5], 1, "segment 1, block 5 is named, but not in the state");
    image[5] = fx.image[5];
    uncovered(image, &twice, 1, "segment 1, block 7 is named twice");
    image[7].ref = BSI_REF_NONE;
    image[7].flags = 0;
    uncovered(image, NULL, 0, "segment 1, block 7 is in the state, but neither");
    s = fx_open(BSI_STORE_WRITE); /* as an orphan it is */
    FX_OK(fx_publish_as(s, "default", (bsi_publish){.state = fx.ref, .state_count = fx.count, .image = image, .image_count = fx.count,
                                                    .orphan = &twice, .orphan_count = 1}, &err), err);
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

/* ---- copies and gc ---- */

Test(store_faults, a_backup_restores_to_the_same_state_under_a_new_id) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(600);
    fx_next(5);
    char to[96], back[96], id[33];
    snprintf(to, sizeof to, "%s/backup", fx.base);
    snprintf(back, sizeof back, "%s/back", fx.base);
    bsi_store *s = fx_open(BSI_STORE_READ);
    memcpy(id, bsi_store_id(s), 33);
    FX_OK(bsi_store_backup(s, to, &err), err);
    cr_assert(eq(int, (int)bsi_store_backup(s, to, &err), BOMSYNC_E_USAGE));
    bsi_store_close(s);
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    FX_OK(bsi_store_restore(to, back, &err), err);
    snprintf(fx.dir, sizeof fx.dir, "%.60s", back);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    s = fx_open(BSI_STORE_READ);
    cr_assert(ne(str, (char *)(uintptr_t)bsi_store_id(s), id));
    cr_assert(eq(i64, bsi_store_generation(s), 2));
    bsi_store_close(s);
    fx_next(4);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store_faults, a_damaged_backup_is_not_restored) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(600);
    char to[96], back[96];
    snprintf(to, sizeof to, "%s/backup", fx.base);
    snprintf(back, sizeof back, "%s/back", fx.base);
    bsi_store *s = fx_open(BSI_STORE_READ);
    FX_OK(bsi_store_backup(s, to, &err), err);
    bsi_store_close(s);
    snprintf(fx.dir, sizeof fx.dir, "%.60s", to);
    file_bytes file[5] = {0};
    load_files(file);
    size_t at = file[2].bytes.len - 6000;
    uint8_t wrong[64];
    memset(wrong, 0x5A, sizeof wrong);
    for (size_t k = 0; k < 4; k++) patch(file[2].path, at - k * 4096, wrong, sizeof wrong);
    for (size_t i = 0; i < 5; i++) bsi_buf_free(&file[i].bytes);
    cr_assert(eq(int, (int)bsi_store_restore(to, back, &err), BOMSYNC_E_INTEGRITY));
    struct stat st;
    cr_assert(ne(int, stat(back, &st), 0));
}

Test(store_faults, gc_keeps_the_newest_and_drops_the_rest) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(1000);
    for (int i = 0; i < 9; i++) fx_next(1 + (size_t)(i % 4));
    bsi_store *s = fx_open(BSI_STORE_GC);
    bsi_store_figures before, after;
    FX_OK(bsi_store_figures_get(&before, s, &err), err);
    FX_OK(bsi_store_gc(s, 3, &err), err);
    FX_OK(bsi_store_figures_get(&after, s, &err), err);
    cr_assert(lt(u64, after.segments, before.segments / 2));
    cr_assert(zero(int, fx_compare(s, &err)), "%s", err.message);
    for (int64_t n = 1; n <= 10; n++) {
        bsi_generation *g;
        FX_OK(bsi_store_generation_get(&g, s, n, &err), err);
        cr_assert(ne(ptr, g, NULL));
        cr_assert(eq(int, g->state_list != 0, n >= 8));
        bsi_generation_free(g);
    }
    FX_OK(bsi_store_gc(s, 3, &err), err); /* again: nothing left to do */
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    fx_next(3);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store_faults, what_is_written_behind_a_flush_is_published_too) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(900);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    for (size_t b = 0; b < fx.count; b += 3) {
        fx.version[b]++;
        FX_OK(fx_write(s, b, b + 1, &err), err);
        if (b % 90 == 0) bsi_store_flush(s); /* some while the one before is still at work */
    }
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_store_flush(s); /* nothing is there to be flushed */
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    s = fx_open(BSI_STORE_WRITE);
    fx.version[4]++;
    FX_OK(fx_write(s, 4, 5, &err), err);
    bsi_store_flush(s);
    bsi_store_close(s); /* not published: it was never there */
    fx.version[4]--;
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    cr_assert(zero(int, fx_judge(BSI_STORE_WRITE)));
}
