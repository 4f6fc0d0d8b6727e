/* test_gen.c - landscapes: exact sizes, the same bytes for the same seed, and truth.json against the files themselves.
 */
#include "bomsync/bomsync.h"
#include "core/base.h"
#include "gen/gen_inner.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FILE_MAX_BYTES ((size_t)64 << 20)

static char folder[512];

static void make_folder(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bomsync-gen-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    cr_assert(ne(ptr, mkdtemp(folder), NULL));
}

static void remove_folder(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_remove_tree(folder, &err);
}

TestSuite(gen, .init = make_folder, .fini = remove_folder);

static bomsync_status generate(const char *name, bomsync_gen_options o) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    char *out = bsi_format("%s/%s", folder, name);
    o.out = out;
    bomsync_status status = bomsync_gen(&o, NULL, NULL, &err);
    free(out);
    return status;
}

static char *read_text(const char *name, int step, const char *file) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_buf b = {0};
    char *path = bsi_format("%s/%s/%03d/%s", folder, name, step, file);
    cr_assert(zero(int, (int)bsi_read_file(&b, path, FILE_MAX_BYTES, &err)), "%s", err.message);
    bsi_buf_byte(&b, 0);
    free(path);
    return (char *)b.data;
}

static long truth_of(const char *name, int step, const char *file, const char *what) {
    char *text = read_text(name, step, "truth.json"), *mark = bsi_format("\"%s\":{", file);
    char *member = bsi_format("\"%s\":", what), *at = strstr(text, mark);
    cr_assert(ne(ptr, at, NULL));
    at = strstr(at, member);
    cr_assert(ne(ptr, at, NULL));
    long v = strtol(at + strlen(member), NULL, 10);
    free(text);
    free(mark);
    free(member);
    return v;
}

/* ---- the naive comparison: rows by key; fine for files without quotes ---- */

typedef struct row {
    char *text;
    size_t key_len;
} row;
typedef struct table {
    char *text;
    row *rows;
    size_t count;
} table;

static int by_key(const void *a, const void *b) {
    const row *x = a, *y = b;
    int order = memcmp(x->text, y->text, BSI_MIN(x->key_len, y->key_len));
    return order ? order : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static table load(const char *name, int step, const char *file, int key_columns) {
    table t = {.text = read_text(name, step, file)};
    char *rest = t.text, *line = strsep(&rest, "\n");
    while (rest && (line = strsep(&rest, "\n")) && *line) {
        size_t len = 0;
        for (int i = 0; i < key_columns; i++) len += strcspn(line + len, "\t") + 1;
        t.rows = bsi_realloc(t.rows, (t.count + 1) * sizeof *t.rows);
        t.rows[t.count++] = (row){line, len};
    }
    qsort(t.rows, t.count, sizeof *t.rows, by_key);
    return t;
}

static void check_step(const char *name, int step, const char *file, int key_columns) {
    table old = load(name, step - 1, file, key_columns), new = load(name, step, file, key_columns);
    long c = 0, u = 0, d = 0;
    size_t i = 0, j = 0;
    while (i < old.count || j < new.count) {
        int order = i == old.count ? 1 : j == new.count ? -1 : by_key(&old.rows[i], &new.rows[j]);
        d += order < 0;
        c += order > 0;
        u += order == 0 && strcmp(old.rows[i].text, new.rows[j].text) != 0;
        i += order <= 0;
        j += order >= 0;
    }
    for (size_t k = 1; k < new.count; k++) cr_assert(lt(int, by_key(&new.rows[k - 1], &new.rows[k]), 0));
    cr_expect(eq(long, truth_of(name, step, file, "records"), (long)new.count));
    cr_expect(eq(long, truth_of(name, step, file, "creates"), c), "%s step %d", file, step);
    cr_expect(eq(long, truth_of(name, step, file, "updates"), u), "%s step %d", file, step);
    cr_expect(eq(long, truth_of(name, step, file, "deletes"), d), "%s step %d", file, step);
    free(old.text);
    free(old.rows);
    free(new.text);
    free(new.rows);
}

Test(gen, truth_is_what_a_naive_comparison_finds) {
    static const struct {
        const char *file;
        int key_columns;
    } files[] = {
        {"bom_line.tsv", 5},     {"bom_header.tsv", 4},           {"item.tsv", 1},        {"item_plant.tsv", 2},
        {"supplier.tsv", 1},     {"sourcing_rule.tsv", 5},        {"price_break.tsv", 7}, {"catalog_item.tsv", 2},
        {"change_order.tsv", 1}, {"procurement_document.tsv", 3}, {"plant.tsv", 1}};
    bomsync_gen_options o = {
        .lines = 2000, .plants = 2, .format = "tsv", .change = "a,b=2,c=5,d,g,b=3,e,f=2,h,h=30,c,g,b=100"};
    cr_assert(zero(int, (int)generate("t", o)));
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
        for (int step = 1; step <= 13; step++) check_step("t", step, files[f].file, files[f].key_columns);
}

Test(gen, lines_are_exact_and_the_same_for_the_same_seed) {
    bomsync_gen_options o = {.lines = 12345, .plants = 3, .entities = "bom_line", .seed = 5};
    cr_assert(zero(int, (int)generate("a", o)));
    cr_assert(zero(int, (int)generate("b", o)));
    o.seed = 6;
    cr_assert(zero(int, (int)generate("c", o)));
    char *a = read_text("a", 0, "bom_line.csv"), *b = read_text("b", 0, "bom_line.csv"),
         *c = read_text("c", 0, "bom_line.csv");
    cr_assert(eq(long, truth_of("a", 0, "bom_line.csv", "records"), 12345));
    cr_assert(zero(int, strcmp(a, b)));
    cr_assert(ne(int, strcmp(a, c), 0));
    free(a);
    free(b);
    free(c);
}

Test(gen, shuffle_is_a_permutation_and_knows_its_way_back) {
    static const uint64_t sizes[] = {1, 2, 3, 17, 64, 1000, 4097};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        bsi_gen_order o;
        bsi_gen_order_init(&o, sizes[s], 42);
        char *seen = bsi_calloc(sizes[s], 1);
        for (uint64_t i = 0; i < sizes[s]; i++) {
            uint64_t at = bsi_gen_order_at(&o, i);
            cr_assert(lt(u64, at, sizes[s]));
            cr_assert(zero(int, seen[at]++));
            cr_assert(eq(u64, bsi_gen_order_place(&o, at), i));
        }
        free(seen);
    }
}

Test(gen, components_lie_deeper_than_their_parents) {
    bomsync_gen_options o = {.lines = 20000, .depth = 7};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_gen_shape s = {0};
    cr_assert(zero(int, (int)bsi_gen_shape_init(&s, &o, &err)));
    uint64_t lines = 0;
    for (uint64_t i = 0; i < s.headers; i++) {
        bsi_gen_header h = bsi_gen_header_index(&s, i);
        for (uint64_t slot = 0; slot < h.fan; slot++, lines++)
            cr_assert(gt(u64, bsi_gen_component(&s, &h, slot, 0, bsi_gen_hash(i, slot)), h.parent));
    }
    cr_assert(eq(u64, lines, s.lines));
    bsi_gen_shape_release(&s);
}

Test(gen, folder_that_holds_something_is_refused) {
    bomsync_gen_options o = {.lines = 100};
    cr_assert(zero(int, (int)generate("twice", o)));
    cr_assert(eq(int, (int)generate("twice", o), BOMSYNC_E_USAGE));
}

Test(gen, bad_options_are_usage_errors_and_make_nothing) {
    static const bomsync_gen_options bad[] = {
        {.change = "x"},    {.change = "b=101"}, {.change = "b,"},          {.change = "b=nan"},
        {.preset = "XL"},   {.entities = "bom"}, {.entities = "bom_line,"}, {.quoting = "some"},
        {.format = "xml"},  {.compress = "zip"}, {.key_position = "x"},     {.row_bytes = 2000000},
        {.depth = 1000000}, {.lines = -1},       {.lines = 3, .plants = 4},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect(eq(int, (int)generate("bad", bad[i]), BOMSYNC_E_USAGE), "case %zu", i);
    char *path = bsi_format("%s/bad", folder);
    cr_assert(ne(int, access(path, F_OK), 0));
    free(path);
}

Test(gen, rows_are_about_as_wide_as_asked) {
    static const int widths[] = {50, 70, 100, 200, 300};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        bomsync_gen_options o = {.lines = 3000, .row_bytes = widths[i], .entities = "bom_line"};
        char *name = bsi_format("w%d", widths[i]);
        cr_assert(zero(int, (int)generate(name, o)));
        long each = truth_of(name, 0, "bom_line.csv", "content_bytes") / 3000;
        cr_expect(lt(long, labs(each - widths[i]), 8), "%d: %ld", widths[i], each);
        free(name);
    }
}

Test(gen, compressed_files_have_the_content_of_plain_ones) {
    bomsync_gen_options o = {.lines = 3000, .quoting = "newlines", .entities = "bom_line,catalog_item"};
    cr_assert(zero(int, (int)generate("plain", o)));
    static const struct {
        const char *pack, *file;
    } packs[] = {
        {"zstd", "catalog_item.csv.zst"}, {"zstd-frames", "catalog_item.csv.zst"}, {"gzip", "catalog_item.csv.gz"}};
    long want = truth_of("plain", 0, "catalog_item.csv", "content_bytes");
    for (size_t i = 0; i < 3; i++) {
        o.compress = packs[i].pack;
        cr_assert(zero(int, (int)generate(packs[i].pack, o)));
        cr_expect(eq(long, truth_of(packs[i].pack, 0, packs[i].file, "content_bytes"), want));
        cr_expect(lt(long, truth_of(packs[i].pack, 0, packs[i].file, "bytes"), want));
    }
}
