/* cli_output.c - product to stdout or a file, talk to stderr, errors as text or JSON.
 *
 *     engine -> sink -> 256 KiB buffer -> stdout
 *                                      -> nameless file -> fdatasync -> FILE.tmp-<pid> -> rename -> FILE
 *
 * A product in a file is whole or absent. The file has no name while it is written (O_TMPFILE), so that even SIGKILL
 * leaves nothing behind; file systems without that get FILE.tmp-<pid> from the start, which the supervisor removes. An
 * existing file keeps its mode, a new one is private (0600): products are master data. Devices and pipes are written
 * in place.
 *
 * Text that came from a snapshot may hold escape sequences; on the terminal control characters show as \x1b.
 */
#include "cli_output.h"
#include "cli_progress.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int bsi_cli_write_all(int fd, const void *bytes, size_t n) {
    const char *p = bytes;
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return errno;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

/* ---- product ---- */

char *bsi_cli_output_temporary(const char *path) {
    if (!path) return NULL;
    char *name = NULL;
    char *real = realpath(path, NULL); /* a link stays a link: what it points to is replaced */
    if (asprintf(&name, "%s.tmp-%ld", real ? real : path, (long)getpid()) < 0) name = NULL;
    free(real);
    return name;
}

static bomsync_status fail(bomsync_error *err, const char *what, const char *file, int error) {
    bool full = error == ENOSPC || error == EDQUOT || error == EFBIG || error == ENOMEM || error == EIO;
    err->status = full ? BOMSYNC_E_SPACE : BOMSYNC_E_USAGE;
    snprintf(err->message, sizeof err->message, "could not %s: %s", what, strerror(error));
    snprintf(err->file, sizeof err->file, "%s", file ? file : "stdout");
    return err->status;
}

static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static int open_nameless(const char *target) {
    if (access("/proc/self/fd", X_OK)) return -1; /* the name is given through there */
    char *folder = folder_of(target);
    int fd = folder ? open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600) : -1;
    free(folder);
    return fd;
}

/* -o /dev/stdout with stdout in a file: replacing that file would pull it away from the caller. */
static bool is_stdout(const struct stat *st) {
    struct stat out;
    return fstat(STDOUT_FILENO, &out) == 0 && out.st_dev == st->st_dev && out.st_ino == st->st_ino;
}

static bomsync_status open_file(bsi_cli_output *o, bomsync_error *err) {
    struct stat st;
    bool exists = stat(o->path, &st) == 0;
    if (exists && is_stdout(&st)) {
        o->path = NULL;
        return BOMSYNC_OK;
    }
    if (exists && !S_ISREG(st.st_mode)) {
        o->fd = open(o->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        return o->fd < 0 ? fail(err, "open the file for the product", o->path, errno) : BOMSYNC_OK;
    }
    o->target = exists ? realpath(o->path, NULL) : strdup(o->path);
    if (!o->target) return fail(err, "open the file for the product", o->path, errno);
    o->fd = open_nameless(o->target);
    o->nameless = o->fd >= 0;
    if (o->fd < 0) o->fd = open(o->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (o->fd < 0) return fail(err, "make the file for the product", o->path, errno);
    if (exists && fchmod(o->fd, st.st_mode & 07777)) return fail(err, "set the mode of the product", o->path, errno);
    return BOMSYNC_OK;
}

bomsync_status bsi_cli_output_open(bsi_cli_output *o, const char *path, char *temporary, bomsync_error *err) {
    *o = (bsi_cli_output){.fd = STDOUT_FILENO, .path = path, .temporary = temporary};
    o->buffer = malloc(BSI_CLI_BUFFER_BYTES);
    if (!o->buffer || (path && !temporary)) return fail(err, "make a buffer for the product", path, ENOMEM);
    return path ? open_file(o, err) : BOMSYNC_OK;
}

static int flush(bsi_cli_output *o) {
    if (o->used_bytes && !o->error) {
        if (!o->path) bsi_cli_progress_erase();
        o->error = bsi_cli_write_all(o->fd, o->buffer, o->used_bytes);
    }
    o->used_bytes = 0;
    return o->error;
}

static int product_write(void *ctx, const void *bytes, size_t n) {
    bsi_cli_output *o = ctx;
    if (o->error) return o->error;
    if (n > BSI_CLI_BUFFER_BYTES - o->used_bytes && flush(o)) return o->error;
    if (n > BSI_CLI_BUFFER_BYTES) return o->error = bsi_cli_write_all(o->fd, bytes, n);
    memcpy(o->buffer + o->used_bytes, bytes, n);
    o->used_bytes += n;
    return 0;
}

bomsync_sink bsi_cli_output_sink(bsi_cli_output *o) {
    return (bomsync_sink){product_write, o};
}

/* A nameless file cannot replace another: it gets the temporary name, and that is renamed. */
static int give_name(const bsi_cli_output *o) {
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", o->fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, o->temporary, AT_SYMLINK_FOLLOW) == 0) return 0;
    if (errno != EEXIST || unlink(o->temporary)) return errno; /* left by a killed run that had this pid */
    return linkat(AT_FDCWD, self, AT_FDCWD, o->temporary, AT_SYMLINK_FOLLOW) ? errno : 0;
}

static int keep_file(bsi_cli_output *o) {
    if (fdatasync(o->fd)) return errno;
    if (o->nameless) {
        int error = give_name(o);
        if (error) return error;
    }
    if (close(o->fd)) return errno;
    o->fd = -1;
    return rename(o->temporary, o->target) ? errno : 0;
}

bomsync_status bsi_cli_output_close(bsi_cli_output *o, bool keep, bomsync_error *err) {
    int error = keep ? flush(o) : o->error;
    if (o->target) {
        if (keep && !error) error = keep_file(o);
        if (o->fd >= 0 && close(o->fd) && !error) error = errno;
        if ((!keep || error) && o->temporary) unlink(o->temporary); /* it may not exist: nothing to report */
    } else if (o->path && o->fd >= 0 && close(o->fd) && !error) {
        error = errno;
    }
    free(o->buffer);
    free(o->target);
    o->buffer = o->target = NULL;
    if (!o->error) o->error = error;
    if (!error || error == EPIPE) return BOMSYNC_OK;
    return fail(err, "write the product", o->path, error);
}

/* ---- talk ---- */

static int talk_write(void *ctx, const void *bytes, size_t n) {
    (void)ctx;
    bsi_cli_progress_write(bytes, n);
    return 0; /* work does not stop because nobody listens */
}

static int talk_drop(void *ctx, const void *bytes, size_t n) {
    (void)ctx, (void)bytes, (void)n;
    return 0;
}

bomsync_sink bsi_cli_talk_sink(bool quiet) {
    return (bomsync_sink){quiet ? talk_drop : talk_write, NULL};
}

/* ---- errors ---- */

/* Length of the UTF-8 character at s, 0 if there is none (then one byte is replaced). */
static size_t utf8_length(const unsigned char *s) {
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    bool wrong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
                 (s[0] == 0xf4 && s[1] > 0x8f);
    return wrong ? 0 : n;
}

static void put_plain(FILE *f, const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        size_t n = utf8_length(s);
        bool control = n == 0 || *s < 0x20 || *s == 0x7f || (n == 2 && s[0] == 0xc2 && s[1] < 0xa0);
        if (!n) n = 1;
        for (size_t i = 0; i < n; i++) {
            if (control)
                fprintf(f, "\\x%02x", s[i]);
            else
                putc(s[i], f);
        }
        s += n;
    }
}

static void put_json(FILE *f, const char *text) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    putc('"', f);
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        size_t n = utf8_length(s);
        const char *known = strchr(from, *s);
        if (known)
            fprintf(f, "\\%c", to[known - from]);
        else if (*s < 0x20)
            fprintf(f, "\\u%04x", *s);
        else if (n)
            fwrite(s, 1, n, f);
        else
            fputs("\xef\xbf\xbd", f);
        s += n ? n : 1;
    }
    putc('"', f);
}

static void put_json_member(FILE *f, const char *name, const char *text) {
    fprintf(f, ",\"%s\":", name);
    if (*text)
        put_json(f, text);
    else
        fputs("null", f);
}

static void put_json_number(FILE *f, const char *name, int64_t n) {
    if (n < 0)
        fprintf(f, ",\"%s\":null", name);
    else
        fprintf(f, ",\"%s\":%" PRId64, name, n);
}

static void error_json(FILE *f, const bomsync_error *e) {
    fprintf(f, "{\"message_type\":\"error\",\"exit\":%d", (int)e->status);
    put_json_member(f, "file", e->file);
    put_json_number(f, "byte", e->byte);
    put_json_number(f, "line", e->line);
    put_json_member(f, "column", e->column);
    put_json_member(f, "value", e->value);
    put_json_member(f, "message", e->message);
    put_json_member(f, "hint", e->hint);
    fputs("}\n", f);
}

/* "  in: byte 88213, line 7, column "c", value "v" of "file"", as much of it as is known. */
static void error_place(FILE *f, const bomsync_error *e) {
    const char *before = "";
    if (!*e->file && !*e->column && !*e->value && e->byte < 0 && e->line < 0) return;
    fputs("  in: ", f);
    if (e->byte >= 0) fprintf(f, "byte %" PRId64, e->byte), before = ", ";
    if (e->line >= 0) fprintf(f, "%sline %" PRId64, before, e->line), before = ", ";
    if (*e->column) fprintf(f, "%scolumn \"", before), put_plain(f, e->column), putc('"', f), before = ", ";
    if (*e->value) fprintf(f, "%svalue \"", before), put_plain(f, e->value), putc('"', f), before = ", ";
    if (*e->file) fputs(*before ? " of \"" : "\"", f), put_plain(f, e->file), putc('"', f);
    putc('\n', f);
}

static void error_text(FILE *f, const char *word, const bomsync_error *e) {
    fprintf(f, "bomsync: %s: ", word);
    put_plain(f, e->message);
    putc('\n', f);
    error_place(f, e);
    if (!*e->hint) return;
    fputs("  hint: ", f);
    put_plain(f, e->hint);
    putc('\n', f);
}

static void print(const bomsync_error *e, const char *word, bool json) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n); /* one write, so that lines of two processes do not mix */
    if (!f) return;
    if (json)
        error_json(f, e);
    else
        error_text(f, word, e);
    if (fclose(f) == 0) {
        if (json)
            bsi_cli_write_all(STDOUT_FILENO, text, n); /* the exit code tells the rest */
        else
            bsi_cli_progress_write(text, n);
    }
    free(text);
}

void bsi_cli_error_print(const bomsync_error *err, bool json) {
    print(err, "error", json);
}

void bsi_cli_warning_print(const bomsync_error *err) {
    print(err, "warning", false);
}
