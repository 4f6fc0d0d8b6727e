/* tests/unit/read/test_read_paths.c - which files a snapshot is made of, and in which order. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow/source.h"

static char folder[64];

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/bomsync-paths-XXXXXX");
    if (!mkdtemp(folder) || chdir(folder)) abort();
}

static char *last; /* one list at a time */

static void remove_folder(void) {
    free(last);
    if (chdir("/") == 0) bsi_remove_tree(folder, NULL);
}

TestSuite(read_paths, .init = make_folder, .fini = remove_folder);

static void touch(const char *name) {
    int fd = open(name, O_WRONLY | O_CREAT, 0600);
    if (fd < 0 || close(fd)) abort();
}

/* The paths joined by blanks, or the status in brackets. */
static char *list(const char *const *args, size_t count) {
    char **paths;
    size_t n;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = bsi_source_paths(&paths, &n, args, count, &err);
    free(last);
    if (st) return last = bsi_format("[%d%s]", (int)st, err.message[0] && (err.file[0] || !count) && err.status == st ? "" : " bare");
    bsi_buf b = {0};
    for (size_t i = 0; i < n; i++) {
        if (i) bsi_buf_byte(&b, ' ');
        bsi_buf_str(&b, paths[i]);
    }
    bsi_buf_byte(&b, 0);
    bsi_source_paths_free(paths, n);
    return last = (char *)b.data;
}

#define LIST(...) list((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void sample(void) {
    static const char *const names[] = {"b.csv", "a.csv", "B.csv", "in/2.csv", "in/10.csv", "in/.hidden", "in/2.ctl.json", "[x].csv"};
    if (mkdir("in", 0700) || mkdir("in/deep", 0700) || mkdir("empty", 0700)) abort();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) touch(names[i]);
    touch("in/deep/no.csv");
    touch("empty/x.ctl.json");
}

Test(read_paths, files_are_sorted_by_bytes_and_stdin_is_last) {
    sample();
    cr_assert(eq(str, LIST("-", "b.csv", "a.csv", "B.csv"), "B.csv a.csv b.csv -"));
    cr_assert(eq(str, LIST("-", "-"), "-"));
}

Test(read_paths, folders_give_their_regular_files) {
    sample();
    cr_assert(eq(str, LIST("in"), "in/10.csv in/2.csv"));
    cr_assert(eq(str, LIST("in//"), "in/10.csv in/2.csv"));
    cr_assert(eq(str, LIST("empty"), "[2]"));
}

Test(read_paths, patterns_are_tried_when_the_name_is_not_there) {
    sample();
    cr_assert(eq(str, LIST("[ab].csv"), "a.csv b.csv"));
    cr_assert(eq(str, LIST("[x].csv"), "[x].csv"));
    cr_assert(eq(str, LIST("in/*"), "in/10.csv in/2.csv"));
    cr_assert(eq(str, LIST("none*"), "[2]"));
    cr_assert(eq(str, LIST("a.csv", "absent.csv"), "[2]"));
    cr_assert(eq(str, list(NULL, 0), "[2]"));
}

Test(read_paths, one_file_by_several_names_counts_once) {
    sample();
    cr_assert(zero(int, symlink("a.csv", "latest.csv")));
    cr_assert(eq(str, LIST("a.csv", "./a.csv", "*.csv", "latest.csv"), "./a.csv B.csv [x].csv b.csv"));
    cr_assert(eq(str, LIST("in", "in/2.csv"), "in/10.csv in/2.csv"));
}
