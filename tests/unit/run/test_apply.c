/* apply: STATE and deltas to the new state in export's form, or a refusal that names file and line. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "bomsync/bomsync.h"
#include "core/base.h"

static char dir[64];

static void make_dir(void) {
    snprintf(dir, sizeof dir, "%s/apply-XXXXXX", P_tmpdir);
    if (!mkdtemp(dir)) abort();
}

static void drop_dir(void) { bsi_remove_tree(dir, NULL); }

TestSuite(apply, .init = make_dir, .fini = drop_dir);

static char *file(const char *name, const void *bytes, size_t n) {
    char *path = bsi_format("%s/%s", dir, name);
    unlink(path);
    if (bsi_write_file(path, bytes, n, NULL)) abort();
    return path;
}

static int collect(void *ctx, const void *p, size_t n) {
    bsi_buf_add(ctx, p, n);
    return 0;
}

typedef struct answer {
    bomsync_status status;
    char *text;
    bomsync_error err;
} answer;

static answer apply(const char *state, const char *first, const char *second) {
    answer a = {.err = BOMSYNC_ERROR_INIT};
    bsi_buf b = {0};
    char *s = file("state.csv", state, strlen(state));
    char *one = file("1.ndjson", first, strlen(first)), *two = second ? file("2.ndjson", second, strlen(second)) : NULL;
    const char *delta[2] = {one, two};
    a.status = bomsync_apply(s, delta, second ? 2 : 1, NULL, (bomsync_sink){collect, &b}, &a.err);
    free(s);
    free(one);
    free(two);
    bsi_buf_byte(&b, 0);
    a.text = (char *)b.data;
    return a;
}

static void expect(const char *state, const char *first, const char *second, const char *want) {
    answer a = apply(state, first, second);
    if (a.status) cr_fatal("%d: %s", (int)a.status, a.err.message);
    cr_assert(eq(str, a.text, (char *)want));
    free(a.text);
}

static void refuse(const char *state, const char *first, const char *second, const char *delta, int64_t line) {
    answer a = apply(state, first, second);
    cr_assert(eq(int, (int)a.status, BOMSYNC_E_REFUSED));
    cr_assert(eq(str, a.text, ""));
    cr_assert(ne(ptr, strstr(a.err.file, delta), NULL));
    cr_assert(eq(i64, a.err.line, line));
    free(a.text);
}

#define STATE "note,id,qty\nx,7,1\n\"a,b\",10,2\n,2,\"5\"\"\"\n"

Test(apply, changes_apply_and_records_are_sorted_by_key) {
    expect(STATE, "{\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{\"note\":\"l\\nm\",\"qty\":\"=1+1\"}}\n"
                  "{\"op\":\"u\",\"key\":{\"id\":\"7\"},\"before\":{\"qty\":\"1\"},\"after\":{\"qty\":null}}\n"
                  "{\"op\":\"d\",\"key\":{\"id\":\"10\"},\"before\":{\"note\":\"a,b\",\"qty\":\"2\"}}\n",
           NULL, "note,id,qty\n\"l\nm\",1,=1+1\n,2,\"5\"\"\"\nx,7,\n");
}

Test(apply, deltas_follow_each_other_and_lines_of_cat_will_do) {
    expect(STATE, "{\"op\":\"d\",\"key\":{\"id\":\"7\"},\"before\":{\"qty\":\"1\"}}\n",
           "{\"seq\":1,\"id\":\"0-1\",\"op\":\"c\",\"entity\":\"e\",\"partition\":\"_\",\"key\":{\"id\":\"7\"},\"after\":{\"qty\":\"9\"}}\n",
           "note,id,qty\n\"a,b\",10,2\n,2,\"5\"\"\"\n,7,9\n");
}

Test(apply, columns_of_the_deltas_stand_behind_those_of_the_state) {
    expect("id,a\n1,x\n", "{\"op\":\"u\",\"key\":{\"id\":\"1\"},\"before\":{\"z\":null,\"b\":\"\"},\"after\":{\"z\":\"Z\",\"b\":\"B\"}}\n", NULL,
           "id,a,z,b\n1,x,Z,B\n");
}

Test(apply, keys_of_several_columns_sort_field_by_field) {
    expect("k,p\nb,1\na-,2\na,3\n", "{\"op\":\"c\",\"key\":{\"p\":\"1\",\"k\":\"a\"},\"after\":{}}\n", NULL, "k,p\na,1\nb,1\na-,2\na,3\n");
}

Test(apply, an_empty_delta_changes_nothing) { expect("id,a\n2,x\n1,y\n1,y\n", "", NULL, "id,a\n1,y\n2,x\n"); }

Test(apply, a_state_without_anything_takes_the_columns_of_the_delta) {
    expect("", "{\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{\"a\":\"x\"}}\n", NULL, "id,a\n1,x\n");
}

Test(apply, what_does_not_fit_is_refused_with_its_place) {
    const char *fits = "{\"op\":\"u\",\"key\":{\"id\":\"7\"},\"before\":{\"qty\":\"1\"},\"after\":{\"qty\":\"2\"}}\n";
    refuse(STATE, "{\"op\":\"c\",\"key\":{\"id\":\"7\"},\"after\":{}}\n", NULL, "1.ndjson", 1);
    refuse(STATE, "\n{\"op\":\"d\",\"key\":{\"id\":\"8\"},\"before\":{}}\n", NULL, "1.ndjson", 2);
    refuse(STATE, "{\"op\":\"u\",\"key\":{\"id\":\"8\"},\"before\":{},\"after\":{}}\n", NULL, "1.ndjson", 1);
    refuse(STATE, fits, fits, "2.ndjson", 1);
    refuse(STATE, "{\"op\":\"d\",\"key\":{\"id\":\"10\"},\"before\":{\"qty\":null}}\n", NULL, "1.ndjson", 1);
    /* of several the first in the order of the deltas, wherever it stands in the state */
    refuse(STATE, "{\"op\":\"c\",\"key\":{\"id\":\"2\"},\"after\":{}}\n{\"op\":\"c\",\"key\":{\"id\":\"7\"},\"after\":{}}\n", NULL, "1.ndjson", 1);
}

Test(apply, what_is_no_change_is_refused_with_its_place) {
    const char *bad[] = {"[", "7", "{}", "{\"op\":\"x\",\"key\":{\"id\":\"1\"}}", "{\"op\":\"c\",\"key\":{},\"after\":{}}",
                         "{\"op\":\"c\",\"key\":{\"id\":1},\"after\":{}}", "{\"op\":\"c\",\"key\":{\"id\":\"1\"}}",
                         "{\"op\":\"u\",\"key\":{\"id\":\"1\"},\"after\":{}}", "{\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{\"a\":{}}}",
                         "{\"op\":\"c\",\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{}}", "\xff", "{\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{\"id\":\"\"}}x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(STATE, bad[i], NULL, "1.ndjson", 1);
    refuse(STATE, "{\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{}}\n{\"op\":\"c\",\"key\":{\"qty\":\"1\"},\"after\":{}}\n", NULL, "1.ndjson", 2);
}

Test(apply, unreadable_records_and_keys_with_other_contents_are_left_out) {
    answer a = apply("id,a\n1,x\n2,x\n2,y\n3\n4,z\n", "{\"op\":\"d\",\"key\":{\"id\":\"1\"},\"before\":{\"a\":\"x\"}}\n", NULL);
    cr_assert(eq(int, (int)a.status, BOMSYNC_EXCEPTIONS));
    cr_assert(eq(str, a.text, "id,a\n4,z\n"));
    free(a.text);
}

Test(apply, compressed_deltas_are_read) {
    const char *line = "{\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{\"a\":\"x\"}}\n";
    uint8_t packed[500];
    size_t n = ZSTD_compress(packed, sizeof packed, line, strlen(line), 3);
    char *path = file("d.ndjson.zst", packed, n), *state = file("state.csv", "id,a\n", 5);
    const char *delta = path;
    bsi_buf b = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    cr_assert(zero(int, (int)bomsync_apply(state, &delta, 1, NULL, (bomsync_sink){collect, &b}, &err)));
    bsi_buf_byte(&b, 0);
    cr_assert(eq(str, (char *)b.data, "id,a\n1,x\n"));
    bsi_buf_free(&b);
    free(path);
    free(state);
}

Test(apply, without_deltas_there_is_no_key) {
    cr_assert(eq(int, (int)bomsync_apply("x", NULL, 0, NULL, (bomsync_sink){0}, NULL), BOMSYNC_E_USAGE));
}
