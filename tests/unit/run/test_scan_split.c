/* Where units of a snapshot begin: by the marks that the scan before left, and by adding up the image's entries. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bomsync/bomsync.h"
#include "run/scan.h"
#include "run/scan_split.h"

static char base[64], store[96], path[96];

static void in_folder(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    snprintf(base, sizeof base, "/tmp/bomsync-split-XXXXXX");
    cr_assert(ne(ptr, mkdtemp(base), NULL));
    snprintf(store, sizeof store, "%s/store", base);
    snprintf(path, sizeof path, "%s/snapshot", base);
    cr_assert(zero(int, (int)bomsync_init(store, 2, &err)), "%s", err.message);
}

static void remove_folder(void) { bsi_remove_tree(base, NULL); }

TestSuite(scan_split, .init = in_folder, .fini = remove_folder, .timeout = 120);

/* Files of the snapshot, lines of many lengths; those of a round differ in a few places, and some are gone. */
static void write_files(int files, int lines, int round) {
    char name[128];
    uint64_t x = 11;
    mkdir(path, 0700);
    for (int f = 0; f < files; f++) {
        snprintf(name, sizeof name, "%s/%d.csv", path, f);
        FILE *out = fopen(name, "w");
        fprintf(out, "k,part,text\n");
        for (int i = 0; i < lines; i++) {
            x = x * 6364136223846793005ull + 1442695040888963407ull;
            if (round && i % 997 == round) continue;
            fprintf(out, "%d-%07d,CMP-%d,%.*s\n", f, i, i % 1009 == round * 3 ? -round : i / 3, (int)(x >> 58), "a text of up to sixty-three bytes which is not the same everywhere");
        }
        fclose(out);
    }
}

static void sync_with(int workers) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    const char *key[] = {"k"}, *files[] = {path};
    bomsync_sync_options o = {.store = store, .key = key, .key_count = 1, .snapshot = files, .snapshot_count = 1, .complete = true,
                              .read.workers = workers, .expect_records = -1, .sequence = -1};
    bomsync_result r = {0};
    cr_assert(zero(int, (int)bomsync_sync(&o, &r, (bomsync_sink){0}, &err)), "%s", err.message);
    bomsync_result_free(&r);
}

typedef struct opened {
    bsi_store *s;
    bsi_feed *f;
    bsi_image image;
} opened;

static void open_image(opened *o) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    cr_assert(zero(int, (int)bsi_store_open(&o->s, store, BSI_STORE_READ, 0, &err)), "%s", err.message);
    cr_assert(zero(int, (int)bsi_store_feed(&o->f, o->s, "default", &err)), "%s", err.message);
    cr_assert(zero(int, (int)bsi_store_image(&o->image, o->s, o->f->image_list, &err)), "%s", err.message);
}

static void close_image(opened *o) {
    bsi_image_free(&o->image);
    bsi_feed_free(o->f);
    bsi_store_close(o->s);
}

/* Each mark names the entry that the sums find at its place. */
static size_t marks_hold(const opened *o) {
    bsi_split sums;
    bsi_split_open(&sums, &o->image, NULL, 0, 2);
    for (size_t i = 0; i < o->f->mark_count; i++) {
        const bsi_image_mark *m = &o->f->mark[i];
        uint64_t start, entry = bsi_split_near(&sums, m->file, 100, 100 + m->offset, 0, &start);
        cr_assert(eq(u64, entry, m->entry), "mark %zu", i);
        cr_assert(eq(u64, start, 100 + m->offset), "mark %zu", i);
    }
    bsi_split_close(&sums);
    return o->f->mark_count;
}

Test(scan_split, marks_name_the_entries_where_they_are) {
    write_files(3, 30000, 0);
    sync_with(4);
    opened o;
    for (int round = 0; round < 4; round++) {
        open_image(&o);
        size_t marks = marks_hold(&o);
        cr_assert(ge(sz, marks, 6), "a snapshot of three files that four workers read has %zu marks", marks);
        cr_assert(zero(u64, o.f->mark[0].entry));
        cr_assert(eq(u32, o.f->mark[marks - 1].file, 2));
        close_image(&o);
        write_files(3, 30000, round + 1);
        sync_with(round == 1 ? 3 : 4);
    }
}

/* Without `late`, marks lead to the same entries as sums do. */
Test(scan_split, marks_and_sums_agree_everywhere) {
    write_files(2, 20000, 0);
    sync_with(4);
    opened o;
    open_image(&o);
    bsi_split sums, marks;
    bsi_split_open(&sums, &o.image, NULL, 0, 1);
    bsi_split_open(&marks, &o.image, o.f->mark, o.f->mark_count, 1);
    for (uint32_t file = 0; file < 4; file++)
        for (uint64_t offset = 12; offset < 1000000; offset += 3001) {
            uint64_t at, also, a = bsi_split_near(&sums, file, 12, offset, 0, &at), b = bsi_split_near(&marks, file, 12, offset, 0, &also);
            cr_assert(eq(u64, a, b), "file %u, offset %llu", file, (unsigned long long)offset);
            cr_assert(a == UINT64_MAX || at == also);
            b = bsi_split_near(&marks, file, 12, offset, 5000, &also);
            cr_assert(a == UINT64_MAX || (b >= a && also >= offset && also <= at + 5000), "late, file %u, offset %llu", file, (unsigned long long)offset);
        }
    bsi_split_close(&sums);
    bsi_split_close(&marks);
    close_image(&o);
}

Test(scan_split, one_worker_leaves_none_and_wrong_ones_do_no_harm) {
    write_files(1, 20000, 0);
    sync_with(1);
    opened o;
    open_image(&o);
    cr_assert(zero(sz, o.f->mark_count));
    bsi_image_mark wrong[] = {{.entry = 5, .offset = 100}, {.entry = o.image.count + 7, .offset = 2000}, {.entry = UINT64_MAX, .offset = 4000, .file = 1}};
    bsi_split x;
    bsi_split_open(&x, &o.image, wrong, 3, 1);
    for (uint32_t file = 0; file < 3; file++)
        for (uint64_t offset = 12; offset < 600000; offset += 701) {
            uint64_t start, entry = bsi_split_near(&x, file, 12, offset, 50, &start);
            cr_assert(entry == UINT64_MAX || entry < o.image.count);
        }
    bsi_split_close(&x);
    close_image(&o);
}
