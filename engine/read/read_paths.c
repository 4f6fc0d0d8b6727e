/* read/read_paths.c - what was named on the command line to the list of files of a snapshot.
 *
 *     a.csv  in/  "2024-*.csv"  -        ->   2024-01.csv  2024-02.csv  a.csv  in/1.csv  in/2.csv  -
 *
 * A file that is there is taken by its name, whatever characters the name has; only a name that is not there is tried
 * as a pattern. Order is that of path bytes, stdin last, so that a snapshot is the same however it was named. A file
 * reached twice (a folder and a file in it, ./a.csv and a.csv, a link) counts once: its records would all be doubled.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow/source.h"

typedef struct found {
    char *path;
    dev_t dev;
    ino_t ino;
} found;

typedef struct found_list {
    found *item;
    size_t count, cap;
    bool input; /* "-" was named */
} found_list;

static void add(found_list *l, char *path, const struct stat *st) {
    if (l->count == l->cap) l->item = bsi_realloc(l->item, (l->cap = l->cap ? l->cap * 2 : 16) * sizeof *l->item);
    l->item[l->count++] = (found){path, st->st_dev, st->st_ino};
}

static void release(found_list *l) {
    for (size_t i = 0; i < l->count; i++) free(l->item[i].path);
    free(l->item);
}

static bool is_control(const char *name) {
    size_t n = strlen(name);
    return n >= 9 && strcmp(name + n - 9, ".ctl.json") == 0;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bomsync_status fail(bomsync_error *err, int errnum, const char *path, const char *what) {
    bomsync_status st = bsi_fail_errno(err, errnum, path, "%s \"%.200s\"", what, path);
    if (errnum == ENOENT)
        bsi_hint(err, "no file, folder or pattern of that name: look at the spelling and at the working folder");
    if (errnum == EACCES) bsi_hint(err, "the user that runs bomsync must be allowed to read it");
    bsi_at(err, path, -1, -1, NULL, NULL, 0);
    return st;
}

static bomsync_status none(bomsync_error *err, const char *path, const char *kind) {
    bsi_fail(err, BOMSYNC_E_USAGE, "there are no files in %s \"%.200s\"", kind, path);
    bsi_hint(err, "an empty list of files is not taken for an empty snapshot");
    bsi_at(err, path, -1, -1, NULL, NULL, 0);
    return BOMSYNC_E_USAGE;
}

static char *join(const char *folder, const char *name) {
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/') n--;
    bool root = n == 1 && folder[0] == '/';
    return bsi_format("%.*s%s%s", (int)n, folder, root ? "" : "/", name);
}

static bomsync_status add_folder(found_list *l, const char *path, bomsync_error *err) {
    DIR *d = opendir(path);
    if (!d) return fail(err, errno, path, "could not open folder");
    size_t before = l->count;
    struct dirent *e;
    while (errno = 0, (e = readdir(d))) {
        struct stat st;
        if (e->d_name[0] == '.' || is_control(e->d_name)) continue;
        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode)) add(l, join(path, e->d_name), &st);
    }
    int code = errno;
    closedir(d);
    if (code) return fail(err, code, path, "could not read folder");
    return l->count > before ? BOMSYNC_OK : none(err, path, "folder");
}

static bomsync_status add_pattern(found_list *l, const char *pattern, bomsync_error *err) {
    glob_t g = {0};
    int code = glob(pattern, GLOB_NOSORT, NULL, &g);
    size_t before = l->count;
    for (size_t i = 0; !code && i < g.gl_pathc; i++) {
        struct stat st;
        const char *p = g.gl_pathv[i];
        if (!is_control(base_name(p)) && stat(p, &st) == 0 && S_ISREG(st.st_mode)) add(l, bsi_strdup(p), &st);
    }
    globfree(&g);
    return l->count > before ? BOMSYNC_OK : none(err, pattern, "pattern");
}

static bomsync_status add_argument(found_list *l, const char *arg, bomsync_error *err) {
    struct stat st;
    if (strcmp(arg, "-") == 0) {
        l->input = true;
        return BOMSYNC_OK;
    }
    if (stat(arg, &st) != 0) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        return absent && strpbrk(arg, "*?[") ? add_pattern(l, arg, err) : fail(err, errno, arg, "could not find");
    }
    if (S_ISDIR(st.st_mode)) return add_folder(l, arg, err);
    add(l, bsi_strdup(arg), &st);
    return BOMSYNC_OK;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const found *)a)->path, ((const found *)b)->path);
}

static int by_file(const void *a, const void *b) {
    const found *x = a, *y = b;
    if (x->dev != y->dev) return x->dev < y->dev ? -1 : 1;
    if (x->ino != y->ino) return x->ino < y->ino ? -1 : 1;
    return by_path(a, b);
}

/* Of several names of one file the first stays. */
static void unique(found_list *l) {
    if (!l->count) return;
    bsi_sort(l->item, l->count, sizeof *l->item, by_file);
    size_t n = 1;
    for (size_t i = 1; i < l->count; i++) {
        if (l->item[i].dev == l->item[n - 1].dev && l->item[i].ino == l->item[n - 1].ino)
            free(l->item[i].path);
        else
            l->item[n++] = l->item[i];
    }
    l->count = n;
    bsi_sort(l->item, l->count, sizeof *l->item, by_path);
}

static bomsync_status readable(const found_list *l, bomsync_error *err) {
    for (size_t i = 0; i < l->count; i++)
        if (faccessat(AT_FDCWD, l->item[i].path, R_OK, AT_EACCESS))
            return fail(err, errno, l->item[i].path, "could not read");
    return BOMSYNC_OK;
}

bomsync_status bsi_source_paths(char ***paths, size_t *count, const char *const *args, size_t arg_count,
                                bomsync_error *err) {
    found_list l = {0};
    bomsync_status st = BOMSYNC_OK;
    *paths = NULL;
    *count = 0;
    for (size_t i = 0; i < arg_count && !st; i++) st = add_argument(&l, args[i], err);
    if (!arg_count) st = bsi_fail(err, BOMSYNC_E_USAGE, "no snapshot was given");
    if (!st) unique(&l);
    if (!st) st = readable(&l, err);
    if (st) {
        release(&l);
        return st;
    }
    char **out = bsi_alloc((l.count + 1) * sizeof *out);
    for (size_t i = 0; i < l.count; i++) out[i] = l.item[i].path;
    if (l.input) out[l.count] = bsi_strdup("-");
    *paths = out;
    *count = l.count + l.input;
    free(l.item);
    return BOMSYNC_OK;
}

void bsi_source_paths_free(char **paths, size_t count) {
    for (size_t i = 0; i < count; i++) free(paths[i]);
    free(paths);
}
