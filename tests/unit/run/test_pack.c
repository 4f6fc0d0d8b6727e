/* pack and sync: a block that must be read is compared with the index; equal options give equal bytes. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "bomsync/bomsync.h"
#include "core/base.h"
#include "flow/pack.h"

static char dir[64];

static void make_dir(void) {
    snprintf(dir, sizeof dir, "%s/pack-XXXXXX", P_tmpdir);
    if (!mkdtemp(dir)) abort();
}
static void drop_dir(void) { bsi_remove_tree(dir, NULL); }

TestSuite(pack, .init = make_dir, .fini = drop_dir, .timeout = 60);

static char *place(const char *name) { return bsi_format("%s/%s", dir, name); }

static char *file(const char *name, const bsi_buf *b) {
    char *path = place(name);
    unlink(path);
    if (bsi_write_file(path, b->data, b->len, NULL)) abort();
    return path;
}

static int collect(void *ctx, const void *p, size_t n) {
    bsi_buf_add(ctx, p, n);
    return 0;
}
static int refuse(void *ctx, const void *p, size_t n) {
    (void)ctx, (void)p, (void)n;
    return 28; /* ENOSPC */
}

/* Rows 0..count, every one whose number is changed modulo 1000 with another value. */
static bsi_buf table(unsigned count, unsigned changed) {
    bsi_buf b = {0};
    bsi_buf_str(&b, "id,qty,text\n");
    for (unsigned i = 0; i < count; i++) bsi_buf_addf(&b, "I%06u,%u,some text that fills the row up\n", i, i % 1000 == changed ? 7777 : i % 50);
    return b;
}

static bsi_buf packed(const char *path, int workers, uint32_t block_records) {
    bsi_buf b = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_pack_options o = {.read = {.workers = workers, .block_records = block_records}, .snapshot = path};
    bomsync_status st = bomsync_pack(&o, (bomsync_sink){collect, &b}, (bomsync_sink){0}, false, &err);
    cr_assert(eq(int, (int)st, BOMSYNC_OK), "%s", err.message);
    return b;
}

static bomsync_status sync_file(const char *store, const char *path, bool verify, bomsync_error *err) {
    const char *key[] = {"id"}, *snapshot[] = {path};
    bomsync_sync_options o = {.read = {.workers = 2, .verify_pack = verify}, .store = store, .key = key, .key_count = 1, .snapshot = snapshot,
                              .snapshot_count = 1, .complete = true, .expect_records = -1, .sequence = -1};
    bomsync_result r = {0};
    *err = (bomsync_error)BOMSYNC_ERROR_INIT;
    bomsync_status st = bomsync_sync(&o, &r, (bomsync_sink){0}, err);
    bomsync_result_free(&r);
    return st;
}

/* The pack with the digest of one block changed, and a checksum that agrees. */
static void forge(bsi_buf *pack, uint64_t block) {
    uint64_t n;
    cr_assert(bsi_pack_footer(&n, pack->data + pack->len - BSI_PACK_FOOTER_BYTES));
    uint8_t *foot = pack->data + pack->len - BSI_PACK_FOOTER_BYTES, *index = foot - n;
    index[56 + 16 * block] ^= 1;
    bsi_hash128 h = bsi_xxh128(index, n);
    memcpy(foot + 8, &h, sizeof h);
}

Test(pack, content_is_the_snapshot_for_any_workers) {
    bsi_buf text = table(30000, 5), got = {0};
    char *path = file("a.csv", &text);
    bsi_buf one = packed(path, 1, 0), many = packed(path, 5, 0), other = packed(path, 2, 40);
    cr_assert(eq(sz, one.len, many.len));
    cr_assert(zero(int, memcmp(one.data, many.data, one.len)));
    cr_assert(ne(sz, one.len, other.len));
    bsi_buf_reserve(&got, text.len + 1);
    size_t n = ZSTD_decompress(got.data, got.cap, one.data, one.len);
    cr_assert(eq(sz, n, text.len));
    cr_assert(zero(int, memcmp(got.data, text.data, n)));
    bsi_buf_free(&text), bsi_buf_free(&got), bsi_buf_free(&one), bsi_buf_free(&many), bsi_buf_free(&other);
    free(path);
}

Test(pack, block_that_is_not_what_the_index_says_is_refused) {
    bsi_buf old = table(30000, 5), now = table(30000, 6);
    char *old_path = file("old.csv", &old), *now_path = file("now.csv", &now), *store = place("store");
    bomsync_error err;
    cr_assert(eq(int, (int)bomsync_init(store, 1, NULL), BOMSYNC_OK));
    bsi_buf first = packed(old_path, 2, 0), second = packed(now_path, 2, 0);
    char *path = file("p.csv.zst", &first);
    cr_assert(eq(int, (int)sync_file(store, path, false, &err), BOMSYNC_OK));
    forge(&first, 100); /* a block that is known becomes one that must be read */
    free(path);
    path = file("p.csv.zst", &first);
    cr_assert(eq(int, (int)sync_file(store, path, false, &err), BOMSYNC_E_REFUSED));
    cr_assert(ne(ptr, strstr(err.message, "frame"), NULL));
    cr_assert(eq(str, err.file, path));
    cr_assert(eq(int, (int)sync_file(store, path, true, &err), BOMSYNC_OK)); /* the digests are not looked at */
    free(path);
    path = file("p.csv.zst", &second);
    cr_assert(eq(int, (int)sync_file(store, path, false, &err), BOMSYNC_OK), "%s", err.message);
    bsi_buf_free(&old), bsi_buf_free(&now), bsi_buf_free(&first), bsi_buf_free(&second);
    free(path), free(old_path), free(now_path), free(store);
}

Test(pack, output_that_fails_ends_it) {
    bsi_buf text = table(10, 5);
    char *path = file("a.csv", &text);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_pack_options o = {.snapshot = path};
    cr_assert(eq(int, (int)bomsync_pack(&o, (bomsync_sink){refuse, NULL}, (bomsync_sink){0}, false, &err), BOMSYNC_E_SPACE));
    o.level = 20;
    cr_assert(eq(int, (int)bomsync_pack(&o, (bomsync_sink){refuse, NULL}, (bomsync_sink){0}, false, &err), BOMSYNC_E_USAGE));
    bsi_buf_free(&text);
    free(path);
}
