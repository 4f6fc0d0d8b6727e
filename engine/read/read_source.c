/* read/read_source.c - one file as the rest of the engine sees it.
 *
 *     regular file, plain UTF-8          random: pread at any offset by any thread
 *     pack                               random: read_pack.c
 *     zstd, gzip, other encoding         stream: read_stream.c
 *     pipe, terminal, stdin              stream
 *
 *     file     [ EF BB BF ][ records ........................ ][ TRAILER;17 ]
 *     decoded              0                                size
 *
 * A random source answers with one pread(2), nothing before and nothing after it but a comparison: warm files come at
 * the speed of memory. Cold ones are read in parts by read_ahead.c, if the caller asks for that.
 */
#include "flow/source.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/limits.h"
#include "read/read_ahead.h"
#include "read/read_decode.h"
#include "read/read_pack.h"
#include "read/read_stream.h"
#include "read/read_text.h"
#include "read/read_trailer.h"

typedef struct line_count {
    int64_t lines;
    uint64_t at; /* decoded bytes that are counted */
    bool cr;     /* the byte before was one */
} line_count;

struct bsi_source {
    char *path;
    bsi_source_options options; /* strings owned */
    int fd;
    struct stat before;
    bool input; /* stdin */
    bsi_trailer trailer;
    uint64_t delivered; /* stream */
    bsi_stream *stream; /* NULL: random */

    uint64_t start, size; /* random: decoded byte 0 in the file, decoded bytes */
    bool ahead;           /* some of it was asked for in parts */
    int direct_fd;        /* -1: not open, -2: cannot be */
    bsi_packed *packed;   /* NULL: a plain file */

    pthread_mutex_t lines_lock; /* guards what follows: lines are asked for in ascending order, mostly */
    line_count lines;
    bsi_source *again; /* a stream read a second time for them */
};

static char *copy(const char *s) {
    return s ? bsi_strdup(s) : NULL;
}

static bsi_source *make(const char *path, const bsi_source_options *o) {
    bsi_source *s = bsi_calloc(1, sizeof *s);
    s->path = bsi_strdup(path);
    s->fd = s->direct_fd = -1;
    s->lines.lines = 1;
    pthread_mutex_init(&s->lines_lock, NULL);
    s->options = (bsi_source_options){.encoding = copy(o->encoding),
                                      .trailer_regex = copy(o->trailer_regex),
                                      .io = bsi_strdup(o->io ? o->io : "auto"),
                                      .workers = o->workers};
    return s;
}

void bsi_source_close(bsi_source *s) {
    if (!s) return;
    bsi_stream_close(s->stream);
    bsi_packed_close(s->packed);
    bsi_trailer_release(&s->trailer);
    bsi_source_close(s->again);
    pthread_mutex_destroy(&s->lines_lock);
    if (s->fd >= 0 && !s->input) close(s->fd);
    if (s->direct_fd >= 0) close(s->direct_fd);
    free((void *)(uintptr_t)s->options.encoding);
    free((void *)(uintptr_t)s->options.trailer_regex);
    free((void *)(uintptr_t)s->options.io);
    free(s->path);
    free(s);
}

/* ---- random access ---- */

static ssize_t fail_read(const bsi_source *s, int errnum, uint64_t offset, bomsync_error *err) {
    if (errnum) {
        bsi_fail_errno(err, errnum, s->path, "could not read \"%.200s\"", s->path);
    } else {
        bsi_fail(err, BOMSYNC_E_REFUSED, "\"%.200s\" became shorter while it was read", s->path);
        bsi_hint(err, "have it written under another name and renamed when it is whole");
    }
    bsi_at(err, s->path, (int64_t)offset, -1, NULL, NULL, 0);
    return -1;
}

/* Exactly n bytes at a place in the file. */
static ssize_t read_exactly(const bsi_source *s, uint8_t *buf, size_t n, uint64_t at, bomsync_error *err) {
    size_t got = 0;
    while (got < n) {
        ssize_t k = pread(s->fd, buf + got, n - got, (off_t)(at + got));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return fail_read(s, k < 0 ? errno : 0, at + got - s->start, err);
        got += (size_t)k;
    }
    return (ssize_t)n;
}

ssize_t bsi_source_pread(bsi_source *s, void *buf, size_t n, uint64_t offset, bomsync_error *err) {
    if (offset >= s->size) return 0;
    n = BSI_MIN(n, s->size - offset);
    if (s->packed) return bsi_packed_pread(s->packed, buf, n, offset, err);
    return read_exactly(s, buf, n, s->start + offset, err);
}

static bomsync_status check_io(const bsi_source *s, bomsync_error *err) {
    const char *io = s->options.io;
    if (strcmp(io, "uring") == 0 || strcmp(io, "pread") == 0 || strcmp(io, "auto") == 0) return BOMSYNC_OK;
    return bsi_fail(err, BOMSYNC_E_USAGE, "unknown way to read \"%.60s\": auto, uring or pread", io);
}

/* Asked late: who reads a control file's digest has read the file, and it is cold no more. */
bool bsi_source_cold(const bsi_source *s) {
    if (s->stream || s->packed || !s->size || strcmp(s->options.io, "pread") == 0) return false;
    uint64_t bytes = (uint64_t)s->before.st_size;
    return strcmp(s->options.io, "uring") == 0 || (bytes >= BSI_AHEAD_FILE_BYTES_MIN && bsi_file_cold(s->fd, bytes));
}

/* The same file once more, past the page cache. */
static int open_direct(const bsi_source *s) {
    struct stat b;
    int fd = s->input ? -1 : open(s->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_DIRECT | O_NONBLOCK);
    if (fd < 0) return -2;
    if (fstat(fd, &b) == 0 && b.st_ino == s->before.st_ino && b.st_dev == s->before.st_dev) return fd;
    close(fd);
    return -2;
}

bsi_ahead_file bsi_source_ahead_file(bsi_source *s, bool direct) {
    if (direct && s->direct_fd == -1) s->direct_fd = open_direct(s);
    return (bsi_ahead_file){.fd = s->fd, .direct = direct && s->direct_fd >= 0 ? s->direct_fd : -1, .start = s->start};
}
void bsi_source_ahead_used(bsi_source *s) {
    s->ahead = true;
}

static bomsync_status cut_trailer(bsi_source *s, bomsync_error *err) {
    size_t n = (size_t)BSI_MIN(s->size, (uint64_t)BSI_TRAILER_BYTES_MAX);
    uint8_t *tail = bsi_alloc(n);
    uint64_t from = s->size - n;
    bomsync_status st = BOMSYNC_OK;
    if (read_exactly(s, tail, n, s->start + from, err) < 0)
        st = err ? err->status : BOMSYNC_E_USAGE;
    else
        st = bsi_trailer_match(&s->trailer, &s->size, tail, n, from, s->path, err);
    free(tail);
    return st;
}

static bomsync_status open_random(bsi_source *s, const uint8_t *head, size_t head_bytes, bomsync_error *err) {
    bomsync_status st = bsi_text_check(head, head_bytes, s->path, err);
    if (st) return st;
    s->start = bsi_text_mark(head, head_bytes);
    s->size = (uint64_t)s->before.st_size - s->start;
    if (s->trailer.wanted && (st = cut_trailer(s, err))) return st;
    return check_io(s, err);
}

/* ---- opening ---- */

static bomsync_status open_file(bsi_source *s, bomsync_error *err) {
    s->input = strcmp(s->path, "-") == 0;
    s->fd = s->input ? STDIN_FILENO : open(s->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int code = s->fd < 0 || fstat(s->fd, &s->before) ? errno : 0;
    if (!code && S_ISDIR(s->before.st_mode)) code = EISDIR;
    if (!code) return BOMSYNC_OK;
    bomsync_status st = bsi_fail_errno(err, code, s->path, "could not open \"%.200s\"", s->path);
    bsi_at(err, s->path, -1, -1, NULL, NULL, 0);
    return st;
}

static bomsync_status open_stream(bsi_source *s, bomsync_error *err) {
    bool regular = S_ISREG(s->before.st_mode);
    if (regular)
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* twice the read-ahead; an error means less speed */
    bsi_stream_options o = {.path = s->path,
                            .encoding = s->options.encoding,
                            .workers = s->options.workers,
                            .may_block = !regular,
                            .trailer = &s->trailer};
    return bsi_stream_open(&s->stream, s->fd, &o, err);
}

/* A pack that can be read at any offset: with an index, and nothing to take off its content. Else s->packed is NULL. */
static bomsync_status open_packed(bsi_source *s, bomsync_error *err) {
    bomsync_status st = bsi_packed_open(&s->packed, s->fd, s->path, (uint64_t)s->before.st_size, err);
    if (!st && s->packed) st = bsi_codec_check(BSI_CODEC_ZSTD, "", s->path, err);
    if (st || !s->packed) return st;
    const bsi_pack *k = bsi_packed_index(s->packed);
    bool other = bsi_text_needed(s->options.encoding);
    if (other && k->transcoded) {
        bsi_fail(err, BOMSYNC_E_USAGE, "\"%.200s\" is UTF-8: pack has converted it", s->path);
        bsi_hint(err, "leave --encoding out");
        return BOMSYNC_E_USAGE;
    }
    uint8_t head[BSI_TEXT_SNIFF_BYTES];
    ssize_t n = bsi_packed_pread(s->packed, head, sizeof head, 0, err);
    if (n < 0) return err->status;
    if (other || s->trailer.wanted || bsi_text_mark(head, (size_t)n)) {
        bsi_packed_close(s->packed);
        s->packed = NULL;
        return BOMSYNC_OK;
    }
    s->size = k->content_bytes;
    return bsi_text_check(head, (size_t)n, s->path, err);
}

static bomsync_status open_kind(bsi_source *s, bomsync_error *err) {
    if (s->input || !S_ISREG(s->before.st_mode)) return open_stream(s, err);
    bomsync_status st = open_packed(s, err);
    if (st || s->packed) return st;
    if (bsi_text_needed(s->options.encoding)) return open_stream(s, err);
    uint8_t head[BSI_TEXT_SNIFF_BYTES];
    size_t n = (size_t)BSI_MIN((uint64_t)s->before.st_size, (uint64_t)sizeof head);
    if (read_exactly(s, head, n, 0, err) < 0) return err ? err->status : BOMSYNC_E_USAGE;
    const char *name;
    bsi_codec codec = bsi_codec_of_bytes(head, n, &name);
    st = bsi_codec_check(codec, name, s->path, err);
    if (st) return st;
    return codec == BSI_CODEC_PLAIN ? open_random(s, head, n, err) : open_stream(s, err);
}

bomsync_status bsi_source_open(bsi_source **out, const char *path, const bsi_source_options *o, bomsync_error *err) {
    *out = NULL;
    bomsync_error own = BOMSYNC_ERROR_INIT;
    if (!err) err = &own;
    bsi_source *s = make(path, o);
    bomsync_status st = bsi_trailer_init(&s->trailer, o->trailer_regex, err);
    if (!st) st = open_file(s, err);
    if (!st) st = open_kind(s, err);
    if (st)
        bsi_source_close(s);
    else
        *out = s;
    return st;
}

/* ---- the rest ---- */

const char *bsi_source_path(const bsi_source *s) {
    return s->path;
}
bool bsi_source_random(const bsi_source *s) {
    return !s->stream;
}
uint64_t bsi_source_size(const bsi_source *s) {
    return s->stream ? s->delivered : s->size;
}

ssize_t bsi_source_read(bsi_source *s, void *buf, size_t n, bomsync_error *err) {
    ssize_t got = bsi_stream_read(s->stream, buf, n, err);
    if (got > 0) s->delivered += (uint64_t)got;
    return got;
}

static bomsync_status changed(const bsi_source *s, const char *how, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "\"%.200s\" %s while it was read", s->path, how);
    bsi_hint(err, "have it written under another name and renamed when it is whole");
    bsi_at(err, s->path, -1, -1, NULL, NULL, 0);
    return BOMSYNC_E_REFUSED;
}

bomsync_status bsi_source_settled(bsi_source *s, bomsync_error *err) {
    const struct stat *a = &s->before;
    struct stat b;
    if (!S_ISREG(a->st_mode)) return BOMSYNC_OK;
    if (fstat(s->fd, &b)) return bsi_fail_errno(err, errno, s->path, "could not look at \"%.200s\"", s->path);
    if (b.st_size != a->st_size) return changed(s, b.st_size > a->st_size ? "grew" : "became shorter", err);
    if (b.st_mtim.tv_sec != a->st_mtim.tv_sec || b.st_mtim.tv_nsec != a->st_mtim.tv_nsec)
        return changed(s, "was written to", err);
    if (s->input) return BOMSYNC_OK;
    if (stat(s->path, &b) || b.st_ino != a->st_ino || b.st_dev != a->st_dev) return changed(s, "was replaced", err);
    return BOMSYNC_OK;
}

uint64_t bsi_source_raw_bytes(const bsi_source *s) {
    return s->stream ? bsi_stream_raw_bytes(s->stream) : (uint64_t)s->before.st_size;
}

bool bsi_source_trailer(const bsi_source *s, int64_t *count) {
    *count = s->trailer.count;
    return s->trailer.found;
}

const char *bsi_source_io(const bsi_source *s) {
    if (s->stream) return bsi_stream_kind(s->stream);
    return s->packed ? "pack" : s->ahead ? "uring" : "pread";
}

bool bsi_source_transcoded(const bsi_source *s) {
    return bsi_text_needed(s->options.encoding) || (s->packed && bsi_packed_index(s->packed)->transcoded);
}
const bsi_pack *bsi_source_pack(const bsi_source *s) {
    return s->packed ? bsi_packed_index(s->packed) : NULL;
}
bomsync_status bsi_source_pack_frame(bsi_source *s, size_t frame, uint8_t *out, bomsync_error *err) {
    return bsi_packed_frame(s->packed, frame, out, err);
}

/* ---- line numbers ---- */

/* One read of the way to `offset`, from the file itself or from a second opening of the stream. */
static ssize_t read_on(bsi_source *s, uint8_t *buf, size_t n, uint64_t at) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (s->stream) return bsi_source_read(s, buf, n, &err);
    if (s->packed) return bsi_packed_pread(s->packed, buf, n, at, &err);
    return read_exactly(s, buf, n, s->start + at, &err);
}

static int64_t count_to(bsi_source *s, uint64_t offset) {
    uint8_t *buf = bsi_alloc(BSI_READ_BYTES);
    line_count *c = &s->lines;
    if (c->at > offset) *c = (line_count){.lines = 1};
    while (c->at < offset) {
        ssize_t n = read_on(s, buf, (size_t)BSI_MIN(offset - c->at, (uint64_t)BSI_READ_BYTES), c->at);
        if (n <= 0) break;
        c->lines += bsi_line_ends(&c->cr, buf, (size_t)n);
        c->at += (uint64_t)n;
    }
    free(buf);
    return c->at == offset ? c->lines : -1;
}

bool bsi_source_reopens(const bsi_source *s) {
    return S_ISREG(s->before.st_mode) && !s->input;
}

bomsync_status bsi_source_reopen(bsi_source **out, const bsi_source *s, bomsync_error *err) {
    bsi_source_options o = s->options;
    o.trailer_regex = NULL; /* what is wanted again stands before it; or a line is asked for because of it */
    return bsi_source_open(out, s->path, &o, err);
}

static int64_t line_of_stream(bsi_source *s, uint64_t offset) {
    if (!bsi_source_reopens(s)) return offset ? -1 : 1;
    if (s->again && s->again->lines.at > offset) {
        bsi_source_close(s->again);
        s->again = NULL;
    }
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (!s->again && bsi_source_reopen(&s->again, s, &err)) return -1;
    return s->again->stream ? count_to(s->again, offset) : -1;
}

int64_t bsi_source_line(bsi_source *s, uint64_t offset) {
    pthread_mutex_lock(&s->lines_lock);
    int64_t line = s->stream ? line_of_stream(s, offset) : offset <= s->size ? count_to(s, offset) : -1;
    pthread_mutex_unlock(&s->lines_lock);
    return line;
}
