/* tests/unit/store/store_fixture.h - a small feed with a store below it: 4 slots, 2 of them the key, 12 records a block. */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/vast.h"
#include "store/store_inner.h"

enum { FX_ROWS = 12, FX_SLOTS = 4, FX_BLOCKS_MAX = 3000 };

typedef struct fixture {
    char dir[64], base[48];
    size_t count;
    uint64_t version[FX_BLOCKS_MAX]; /* what block i holds is a function of i and this */
    bsi_ref ref[FX_BLOCKS_MAX];
    bsi_image_entry image[FX_BLOCKS_MAX];
} fixture;
static fixture fx;

/* A failed call inside a child process must not run the test's asserts there. */
#define FX_OK(call, err) \
    do { \
        bomsync_status fx_st = (call); \
        cr_assert(eq(int, (int)fx_st, BOMSYNC_OK), "%s", (err).message); \
    } while (0)

static inline void fx_init(void) {
    snprintf(fx.base, sizeof fx.base, "/tmp/bomsync-store-%d-XXXXXX", (int)getpid());
    cr_assert(ne(ptr, mkdtemp(fx.base), NULL));
    snprintf(fx.dir, sizeof fx.dir, "%s/store", fx.base);
}

static inline void fx_fini(void) { bsi_remove_tree(fx.base, NULL); }

static inline bsi_store *fx_open(bsi_store_mode mode) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = NULL;
    FX_OK(bsi_store_open(&s, fx.dir, mode, 0, &err), err);
    return s;
}

static inline void fx_create(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    FX_OK(bsi_store_create(fx.dir, 4, &err), err);
}

static inline void fx_block(bsi_buf *images, uint32_t off[FX_ROWS + 1], uint32_t body[FX_ROWS], uint64_t kh[FX_ROWS], uint64_t rh[FX_ROWS],
                     const bsi_secret *secret, uint64_t block, uint64_t version) {
    images->len = 0;
    for (uint32_t i = 0; i < FX_ROWS; i++) {
        char text[FX_SLOTS][32];
        snprintf(text[0], 32, "ASM-%06" PRIu64, block);
        snprintf(text[1], 32, "%04u", i * 10);
        snprintf(text[2], 32, "CMP-%" PRIu64, block * 7919 + i);
        snprintf(text[3], 32, "%" PRIu64, version);
        bsi_field f[FX_SLOTS];
        for (uint32_t k = 0; k < FX_SLOTS; k++) f[k] = (bsi_field){(uint8_t *)text[k], (uint32_t)strlen(text[k]), false};
        uint32_t key;
        off[i] = (uint32_t)images->len;
        body[i] = bsi_image_build(images, f, FX_SLOTS, 2, &key);
        kh[i] = bsi_xxh64_secret(images->data + off[i], key, secret);
        rh[i] = bsi_xxh64_secret(images->data + off[i], body[i], secret);
    }
    off[FX_ROWS] = (uint32_t)images->len;
}

/* Write blocks [from, to) at their versions. Returns a status: also used in children. */
static inline bomsync_status fx_write(bsi_store *s, size_t from, size_t to, bomsync_error *err) {
    bsi_block_writer *w;
    bsi_buf images = {0};
    uint32_t off[FX_ROWS + 1], body[FX_ROWS];
    uint64_t kh[FX_ROWS], rh[FX_ROWS];
    bomsync_status st = bsi_block_writer_open(&w, s, FX_SLOTS, 0, err);
    for (size_t b = from; !st && b < to; b++) {
        fx_block(&images, off, body, kh, rh, bsi_store_secret(s), b, fx.version[b]);
        st = bsi_block_writer_add(&fx.ref[b], w, FX_ROWS, images.data, off, body, kh, rh, err);
        fx.image[b] = (bsi_image_entry){.fp = bsi_xxh128(images.data, images.len), .plain = {b, 1}, .ref = fx.ref[b],
                                        .bytes = (uint32_t)images.len, .records = FX_ROWS, .flags = BSI_IMAGE_EXACT};
    }
    bsi_buf_free(&images);
    bomsync_status closed = bsi_block_writer_close(w, err);
    return st ? st : closed;
}

static inline bomsync_status fx_publish_as(bsi_store *s, const char *feed, bsi_publish p, bomsync_error *err) {
    char *names[] = {(char *)"parent", (char *)"pos", (char *)"component", (char *)"qty"};
    uint32_t order[] = {0, 1, 2, 3};
    bsi_generation *before = NULL;
    int64_t n = bsi_store_generation(s);
    bomsync_status st = bsi_store_generation_get(&before, s, n, err);
    if (st) return st;
    bsi_feed f = {.name = (char *)(uintptr_t)feed, .block_size = {12, 6}, .slots = {names, FX_SLOTS, 2, 0, order}, .records = (int64_t)fx.count * FX_ROWS,
                  .last_sequence = -1, .last_as_of = 1700000000};
    bsi_generation g = {.number = n + 1, .base = n, .feed = (char *)(uintptr_t)feed, .kind = (char *)"sync", .committed_at = 1700000000 + n,
                        .totals = {.records = (int64_t)fx.count * FX_ROWS}, .slot_count = FX_SLOTS};
    memset(g.digest, (int)(n + 1), 32);
    if (before) memcpy(g.base_digest, before->digest, 32);
    p.feed = &f;
    p.generation = &g;
    p.journal_kind = "snapshot";
    p.journal_json = "{\"sequence\":1}";
    st = bsi_store_publish(s, &p, err);
    bsi_generation_free(before);
    return st;
}

static inline bomsync_status fx_publish(bsi_store *s, const char *feed, bool outbox, bomsync_error *err) {
    return fx_publish_as(s, feed, (bsi_publish){.state = fx.ref, .state_count = fx.count, .image = fx.image, .image_count = fx.count,
                                                .outbox = outbox}, err);
}

static inline bomsync_status fx_publish_edits(bsi_store *s, const char *feed, const bsi_state_edit *state, const bsi_image_edit *image,
                                              size_t count, bomsync_error *err) {
    return fx_publish_as(s, feed, (bsi_publish){.edit_state = true, .state_edit = state, .state_edit_count = count, .edit_image = true,
                                                .image_edit = image, .image_edit_count = count}, err);
}

/* The whole life of a store of `blocks` blocks at generation 1. */
static inline void fx_first(size_t blocks) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    fx.count = blocks;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(fx_write(s, 0, blocks, &err), err);
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_store_close(s);
}

/* Change every step-th block and publish. */
static inline void fx_next(size_t step) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    for (size_t b = 0; b < fx.count; b += step) {
        fx.version[b]++;
        FX_OK(fx_write(s, b, b + 1, &err), err);
    }
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_store_close(s);
}

/* The refs of a feed's newest state, as they are named now: gc may have written its blocks again. count: how many they must be. */
static inline void fx_refs(bsi_ref *out, size_t count, bsi_store *s, const char *feed) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_generation *g;
    bsi_ref *ref;
    size_t n;
    FX_OK(bsi_store_generation_of_feed(&g, s, feed, INT64_MAX, &err), err);
    FX_OK(bsi_store_state(&ref, &n, s, g->state_list, &err), err);
    cr_assert(eq(sz, n, count));
    memcpy(out, ref, n * sizeof *ref);
    bsi_vast_free(ref);
    bsi_generation_free(g);
}

/* Does the newest state hold what fx says? 0 yes, else the status or 99. */
static inline int fx_compare(bsi_store *s, bomsync_error *err) {
    bsi_generation *g = NULL;
    bsi_ref *ref = NULL;
    size_t n = 0;
    bsi_block_data d = {0};
    bsi_buf images = {0};
    uint32_t off[FX_ROWS + 1], body[FX_ROWS];
    uint64_t kh[FX_ROWS], rh[FX_ROWS];
    int st = (int)bsi_store_generation_of_feed(&g, s, "default", INT64_MAX, err);
    if (!st && !g) st = 99;
    if (!st) st = (int)bsi_store_state(&ref, &n, s, g->state_list, err);
    if (!st && n != fx.count) st = 99;
    for (size_t i = 0; !st && i < n; i++) {
        bsi_block_rows r;
        fx_block(&images, off, body, kh, rh, bsi_store_secret(s), i, fx.version[i]);
        st = (int)bsi_store_rows(&r, s, ref[i], err);
        if (!st) st = (int)bsi_store_data(&d, s, ref[i], err);
        if (!st && (r.count != FX_ROWS || memcmp(r.kh, kh, sizeof kh) || memcmp(r.rh, rh, sizeof rh))) st = 99;
        if (!st && (d.count != FX_ROWS || d.image[FX_ROWS] - d.image[0] != images.len ||
                    memcmp(d.raw.data + d.image[0], images.data, images.len) || memcmp(d.body, body, sizeof body)))
            st = 99;
    }
    bsi_buf_free(&images);
    bsi_block_data_free(&d);
    free(ref);
    bsi_generation_free(g);
    return st;
}

/* In a child process: open, verify, compare. 0 sound and equal, 7 damage told, 70 + x otherwise, 128 + signal. */
static inline int fx_judge_by(bsi_store_mode mode, int (*compare)(bsi_store *s, bomsync_error *err)) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        for (int sig = 1; sig < 32; sig++) signal(sig, SIG_DFL);
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bsi_store *s = NULL;
        int st = (int)bsi_store_open(&s, fx.dir, mode, 0, &err);
        if (!st) st = (int)bsi_store_verify(s, false, NULL, NULL, &err);
        if (!st) st = compare(s, &err) ? 71 : 0;
        _exit(st);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static inline int fx_judge(bsi_store_mode mode) { return fx_judge_by(mode, fx_compare); }

static inline uint64_t fx_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
