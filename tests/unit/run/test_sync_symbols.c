/* When a feed gets a dictionary, and when it does not. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "bomsync/bomsync.h"
#include "core/limits.h"
#include "flow/store.h"

static char base[64], store[96], path[96];

static void in_folder(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    snprintf(base, sizeof base, "/tmp/bomsync-learn-XXXXXX");
    cr_assert(ne(ptr, mkdtemp(base), NULL));
    snprintf(store, sizeof store, "%s/store", base);
    snprintf(path, sizeof path, "%s/s.csv", base);
    cr_assert(zero(int, (int)bomsync_init(store, 2, &err)), "%s", err.message);
}

static void remove_folder(void) { bsi_remove_tree(base, NULL); }

TestSuite(sync_symbols, .init = in_folder, .fini = remove_folder, .timeout = 120);

/* Lines of about 60 bytes; text: of about 300, the same over and over. */
static void write_lines(int count, const char *tag, bool text) {
    FILE *f = fopen(path, "w");
    fprintf(f, "k,part,qty,unit,text\n");
    uint64_t x = 7;
    for (int i = 0; i < count; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        fprintf(f, "K%08d,CMP-%08" PRIu64 ",%" PRIu64 ",EA,%s", i, x >> 40, x >> 59, i % 50 ? "hexagon bolt" : tag);
        for (int k = 0; text && k < 20; k++) fprintf(f, " more about %" PRIu64, x >> 33);
        fprintf(f, "\n");
    }
    fclose(f);
}

static uint64_t dictionary_after_sync(const char *codec) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    const char *key[] = {"k"}, *files[] = {path};
    bomsync_sync_options o = {.store = store, .key = key, .key_count = 1, .snapshot = files, .snapshot_count = 1, .complete = true,
                              .expect_records = -1, .sequence = -1, .codec = codec};
    bomsync_result r = {0};
    cr_assert(zero(int, (int)bomsync_sync(&o, &r, (bomsync_sink){0}, &err)), "%s", err.message);
    bomsync_result_free(&r);
    bsi_store *s;
    bsi_feed *f;
    cr_assert(zero(int, (int)bsi_store_open(&s, store, BSI_STORE_READ, 0, &err)), "%s", err.message);
    cr_assert(zero(int, (int)bsi_store_verify(s, false, NULL, NULL, &err)), "%s", err.message);
    cr_assert(zero(int, (int)bsi_store_feed(&f, s, "default", &err)), "%s", err.message);
    uint64_t d = f->dictionary;
    bsi_feed_free(f);
    bsi_store_close(s);
    return d;
}

Test(sync_symbols, a_small_feed_gets_none) {
    write_lines(1000, "nut", false);
    cr_assert(eq(u64, dictionary_after_sync(NULL), 0));
    cr_assert(eq(u64, dictionary_after_sync("auto"), 0)); /* unchanged */
}

Test(sync_symbols, a_large_one_does_and_keeps_it) {
    write_lines(20000, "nut", false);
    uint64_t d = dictionary_after_sync(NULL);
    cr_assert(ne(u64, d, 0));
    cr_assert(ne(u64, d, BSI_DICT_FRAMES));
    write_lines(20000, "washer", false);
    cr_assert(eq(u64, dictionary_after_sync(NULL), d));
}

Test(sync_symbols, a_feed_that_grew_learns_then) {
    write_lines(1000, "nut", false);
    cr_assert(eq(u64, dictionary_after_sync(NULL), 0));
    write_lines(20000, "nut", false); /* 19,000 creates */
    cr_assert(ne(u64, dictionary_after_sync(NULL), 0));
}

Test(sync_symbols, long_texts_that_repeat_stay_in_frames) {
    write_lines(4000, "nut", true);
    cr_assert(eq(u64, dictionary_after_sync(NULL), BSI_DICT_FRAMES));
    write_lines(6000, "nut", true); /* not asked again for so little */
    cr_assert(eq(u64, dictionary_after_sync(NULL), BSI_DICT_FRAMES));
}

Test(sync_symbols, the_codec_can_be_given) {
    write_lines(100, "nut", false);
    uint64_t d = dictionary_after_sync("symbols");
    cr_assert(ne(u64, d, 0));
    cr_assert(ne(u64, d, BSI_DICT_FRAMES));
    write_lines(100, "washer", false);
    cr_assert(eq(u64, dictionary_after_sync("symbols"), d));
    write_lines(101, "nail", false);
    cr_assert(eq(u64, dictionary_after_sync("zstd"), BSI_DICT_FRAMES));
    write_lines(102, "screw", false);
    d = dictionary_after_sync("symbols");
    cr_assert(ne(u64, d, BSI_DICT_FRAMES));
}
