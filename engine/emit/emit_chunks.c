/* emit/emit_chunks.c - rendered lines to the chunk files of one generation.
 *
 *   lines, in order      chunks: slices of lines        any thread               close
 *   ┌ 512 ┐┌ 512 ┐ …     ┌────────┐ ┌────────┐          frame, XXH3, SHA-256     sync, infos in order
 *   └─────┘└─────┘   ──> │ 000001 │ │ 000002 │ ───────> 1000/00-000001.ndjson.zst
 *                        └────────┘ └────────┘
 *
 * What stands in which chunk is decided by add alone, from the lines alone; a chunk is one zstd frame made of its slices.
 * So the bytes are the same for any number of workers.
 *
 * Threads are the caller's: add puts a chunk that is full among those that wait, pack takes one from there. Lines are
 * not copied: a chunk holds them until it is written.
 *
 * Lines that tell their repeats are coded by emit_frame.c. Small chunks, where its codes would cost more than they gain,
 * very long lines, and lines of which only the text is known go to libzstd.
 *
 * Few files are synced one by one, many by one syncfs (40 files: 4 ms instead of 18).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "core/limits.h"
#include "emit/emit_inner.h"

enum {
    ZSTD_LEVEL = 1,                 /* small chunks: higher levels gain little */
    FRAME_BYTES_MIN = 16 << 10,     /* content; below, libzstd is as fast and smaller */
    FRAME_LINE_BYTES_MAX = 16 << 10, /* a line, on average; above, values are long texts that repeat inside */
    SYNCED_ONE_BY_ONE = 8           /* files; above, one syncfs costs less */
};

typedef struct job {
    bsi_chunk_info info;
    char *folder;
    bsi_slice *slice;
    size_t slices, slice_cap;
    uint64_t content_bytes;
    bsi_lines own;         /* of add_line */
    int fd;                /* open until close() has synced it, -1 */
    struct job *next;
} job;

/* What one thread needs to write a chunk. */
typedef struct packer {
    ZSTD_CCtx *zstd;
    bsi_frame *frame;
    bsi_buf packed, content;
    struct packer *next;
} packer;

typedef struct folder_name {
    char *text;            /* NULL: not made yet */
    uint32_t number;       /* of its newest chunk in this rank */
} folder_name;

struct bsi_chunks {
    char *dir;
    int dir_fd;
    void (*done)(void *ctx, bsi_lines *lines);
    void *done_ctx;
    /* the adder's: the group of lines that share rank and partition, and the chunk that grows */
    bool any;
    uint8_t rank;
    bsi_buf partition;
    folder_name plain, underscore; /* underscore: of a partition that is called "_" */
    job *open;
    job **jobs;            /* all, in order */
    size_t count, cap;
    /* shared, under lock */
    pthread_mutex_t lock;
    job *first, **last;    /* that wait */
    packer *spare;
    bomsync_error err;
    const job *err_job;    /* the earliest chunk that failed: the message does not depend on who was faster */
};

/* ---- one chunk ---- */

static packer *take_packer(bsi_chunks *c) {
    pthread_mutex_lock(&c->lock);
    packer *p = c->spare;
    if (p) c->spare = p->next;
    pthread_mutex_unlock(&c->lock);
    return p ? p : bsi_calloc(1, sizeof *p);
}

static void give_packer(bsi_chunks *c, packer *p) {
    pthread_mutex_lock(&c->lock);
    p->next = c->spare;
    c->spare = p;
    pthread_mutex_unlock(&c->lock);
}

static void gather(bsi_buf *content, const job *j) {
    content->len = 0;
    bsi_buf_reserve(content, j->content_bytes + 1);
    for (size_t i = 0; i < j->slices; i++)
        bsi_buf_add(content, j->slice[i].lines->text.data + bsi_slice_start(&j->slice[i]), bsi_slice_bytes(&j->slice[i]));
}

static bomsync_status squeeze(packer *p, job *j, bomsync_error *err) {
    gather(&p->content, j);
    if (!p->zstd) p->zstd = ZSTD_createCCtx();
    if (!p->zstd) return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress a chunk: out of memory");
    p->packed.len = 0;
    bsi_buf_reserve(&p->packed, ZSTD_compressBound(p->content.len));
    size_t rc = ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
    if (!ZSTD_isError(rc)) rc = ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_checksumFlag, 1);
    if (!ZSTD_isError(rc)) rc = ZSTD_compress2(p->zstd, p->packed.data, p->packed.cap, p->content.data, p->content.len);
    if (ZSTD_isError(rc)) return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress a chunk: %s", ZSTD_getErrorName(rc));
    p->packed.len = rc;
    j->info.content_xxh3 = bsi_xxh128(p->content.data, p->content.len);
    if (p->content.cap > 2 * BSI_CHUNK_BYTES_MAX) bsi_buf_free(&p->content); /* one giant line is no reason to keep it */
    return BOMSYNC_OK;
}

static bool framed(const job *j) {
    uint64_t lines = j->info.c + j->info.u + j->info.d;
    bool told = true;
    for (size_t i = 0; i < j->slices; i++) told = told && j->slice[i].lines->told;
    return told && j->content_bytes >= FRAME_BYTES_MIN && j->content_bytes <= BSI_CHUNK_BYTES_MAX &&
           j->content_bytes / lines <= FRAME_LINE_BYTES_MAX;
}

static bomsync_status pack(packer *p, job *j, bomsync_error *err) {
    if (!framed(j)) return squeeze(p, j, err);
    if (!p->frame) p->frame = bsi_frame_open();
    bsi_frame_make(&p->packed, &j->info.content_xxh3, p->frame, j->slice, j->slices);
    return BOMSYNC_OK;
}

static bomsync_status write_all(int fd, const bsi_buf *b, const char *dir, const char *file, bomsync_error *err) {
    for (size_t at = 0; at < b->len;) {
        ssize_t w = write(fd, b->data + at, b->len - at);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return bsi_fail_errno(err, errno, dir, "could not write chunk \"%s\"", file);
        at += (size_t)w;
    }
    return BOMSYNC_OK;
}

/* The folder must be a folder of ours, the file must be new: links are followed in neither place. */
static int create_file(const bsi_chunks *c, const job *j) {
    int folder = openat(c->dir_fd, j->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0) return -1;
    int fd = openat(folder, j->info.file + strlen(j->folder) + 1, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int errnum = errno;
    close(folder);
    errno = errnum;
    return fd;
}

static bomsync_status write_chunk(const bsi_chunks *c, job *j, bool keep_open, packer *p, bomsync_error *err) {
    bomsync_status st = pack(p, j, err);
    if (st) return st;
    j->info.bytes = p->packed.len;
    j->info.content_bytes = j->content_bytes;
    bsi_sha_once(p->packed.data, p->packed.len, j->info.sha256);
    int fd = create_file(c, j);
    if (fd < 0) return bsi_fail_errno(err, errno, c->dir, "could not make chunk \"%s\"", j->info.file);
    st = write_all(fd, &p->packed, c->dir, j->info.file, err);
    if (!st && !keep_open) sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* only begun: syncfs makes it sure, and finds less to do */
    if (!st && keep_open) j->fd = fd;
    else if (close(fd) != 0 && !st) st = bsi_fail_errno(err, errno, c->dir, "could not close chunk \"%s\"", j->info.file);
    return st;
}

/* ---- chunks that wait ---- */

static void push(bsi_chunks *c) {
    job *j = c->open;
    c->open = NULL;
    if (!j) return;
    pthread_mutex_lock(&c->lock);
    *c->last = j;
    c->last = &j->next;
    pthread_mutex_unlock(&c->lock);
}

void bsi_chunks_release(bsi_chunks *c, bsi_lines *lines) {
    pthread_mutex_lock(&c->lock);
    bool last = --lines->uses == 0;
    pthread_mutex_unlock(&c->lock);
    if (last && c->done) c->done(c->done_ctx, lines);
}

static void drop_slices(bsi_chunks *c, job *j) {
    for (size_t i = 0; i < j->slices; i++)
        if (j->slice[i].lines != &j->own) bsi_chunks_release(c, (bsi_lines *)j->slice[i].lines);
    free(j->slice);
    j->slice = NULL;
    j->slices = 0;
    bsi_lines_release(&j->own);
}

bool bsi_chunks_waiting(bsi_chunks *c) {
    pthread_mutex_lock(&c->lock);
    bool is = c->first != NULL;
    pthread_mutex_unlock(&c->lock);
    return is;
}

bool bsi_chunks_pack(bsi_chunks *c) {
    pthread_mutex_lock(&c->lock);
    job *j = c->first;
    if (j) {
        c->first = j->next;
        if (!c->first) c->last = &c->first;
    }
    bool failed = c->err.status != BOMSYNC_OK, keep_open = c->count <= SYNCED_ONE_BY_ONE; /* if it is so in the end, it was for every chunk */
    pthread_mutex_unlock(&c->lock);
    if (!j) return false;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (!failed) {
        packer *p = take_packer(c);
        write_chunk(c, j, keep_open, p, &err);
        give_packer(c, p);
    }
    drop_slices(c, j);
    pthread_mutex_lock(&c->lock);
    if (err.status && (!c->err_job || j->info.first_seq < c->err_job->info.first_seq)) {
        c->err = err;
        c->err_job = j;
    }
    pthread_mutex_unlock(&c->lock);
    return true;
}

static bomsync_status failed(bsi_chunks *c, bomsync_error *err) {
    pthread_mutex_lock(&c->lock);
    bomsync_status st = c->err.status;
    if (st && err && !err->status) *err = c->err;
    pthread_mutex_unlock(&c->lock);
    return st;
}

/* ---- which line goes where ---- */

static bomsync_status make_folder(bsi_chunks *c, folder_name *f, const void *partition, size_t bytes, bomsync_error *err) {
    f->text = bsi_partition_folder(partition, bytes);
    if (mkdirat(c->dir_fd, f->text, 0700) != 0 && errno != EEXIST)
        return bsi_fail_errno(err, errno, c->dir, "could not make folder \"%s\" in \"%s\"", f->text, c->dir);
    return BOMSYNC_OK;
}

static void forget_group(bsi_chunks *c) {
    free(c->plain.text);
    free(c->underscore.text);
    c->plain = c->underscore = (folder_name){0};
}

static void start_chunk(bsi_chunks *c, folder_name *f, uint64_t seq) {
    job *j = bsi_calloc(1, sizeof *j);
    j->fd = -1;
    j->folder = bsi_strdup(f->text);
    j->info.rank = c->rank;
    j->info.first_seq = seq;
    j->info.partition = bsi_strndup((const char *)c->partition.data, c->partition.len);
    j->info.file = bsi_format("%s/%02u-%06u.ndjson.zst", f->text, c->rank, ++f->number);
    pthread_mutex_lock(&c->lock); /* who packs looks at count */
    if (c->count == c->cap) c->jobs = bsi_realloc(c->jobs, (c->cap = c->cap ? c->cap * 2 : 16) * sizeof(job *));
    c->jobs[c->count++] = j;
    pthread_mutex_unlock(&c->lock);
    c->open = j;
}

static bool chunk_full(const job *j, uint64_t bytes) {
    return j->info.c + j->info.u + j->info.d >= BSI_CHUNK_CHANGES_MAX || j->content_bytes + bytes > BSI_CHUNK_BYTES_MAX;
}

/* The folder of lines with this rank and partition, made if it is the first. */
static bomsync_status enter_group(folder_name **out, bsi_chunks *c, const bsi_line_group *g, bomsync_error *err) {
    const void *partition = g->nameless ? "_" : g->partition;
    size_t bytes = g->nameless ? 1 : g->partition_bytes;
    bool same = c->any && c->rank == g->rank && c->partition.len == bytes && memcmp(c->partition.data, partition, bytes) == 0;
    if (!same) {
        push(c);
        forget_group(c);
        c->any = true;
        c->rank = g->rank;
        c->partition.len = 0;
        bsi_buf_add(&c->partition, partition, bytes);
    }
    bool underscore = !g->nameless && bytes == 1 && *(const char *)partition == '_';
    folder_name *f = *out = underscore ? &c->underscore : &c->plain;
    bomsync_status st = f->text ? BOMSYNC_OK : make_folder(c, f, partition, g->nameless ? 0 : bytes, err);
    if (!st && c->open && strcmp(c->open->folder, f->text) != 0) push(c);
    return st;
}

/* A chunk with room for a line, and what is known of it. */
static job *chunk_for(bsi_chunks *c, folder_name *f, uint64_t seq, uint64_t bytes) {
    if (c->open && chunk_full(c->open, bytes)) push(c);
    if (!c->open) start_chunk(c, f, seq);
    return c->open;
}

static void count_line(job *j, uint8_t op, uint64_t seq, uint64_t bytes) {
    j->content_bytes += bytes;
    j->info.last_seq = seq;
    if (op == 'c') j->info.c++;
    else if (op == 'u') j->info.u++;
    else j->info.d++;
}

static bsi_slice *add_slice(job *j, const bsi_lines *lines, uint32_t first) {
    if (j->slices == j->slice_cap) j->slice = bsi_realloc(j->slice, (j->slice_cap = j->slice_cap ? j->slice_cap * 2 : 24) * sizeof *j->slice);
    j->slice[j->slices] = (bsi_slice){lines, first, 0};
    return &j->slice[j->slices++];
}

bomsync_status bsi_chunks_add(bsi_chunks *c, const bsi_line_group *g, bsi_lines *lines, uint32_t first, uint32_t count, uint64_t seq,
                              bomsync_error *err) {
    folder_name *f;
    bomsync_status st = enter_group(&f, c, g, err);
    job *in = NULL;
    for (uint32_t i = first; i < first + count && !st; i++, seq++) {
        uint64_t bytes = lines->end[i] - (i ? lines->end[i - 1] : 0);
        job *j = chunk_for(c, f, seq, bytes);
        if (j != in) {
            add_slice(j, lines, i);
            pthread_mutex_lock(&c->lock);
            lines->uses++;
            pthread_mutex_unlock(&c->lock);
            in = j;
        }
        j->slice[j->slices - 1].count++;
        count_line(j, lines->op[i], seq, bytes);
    }
    return st ? st : failed(c, err);
}

bomsync_status bsi_chunks_add_line(bsi_chunks *c, char op, uint8_t rank, const void *partition, size_t partition_bytes, uint64_t seq,
                                   const void *line, size_t bytes, bomsync_error *err) {
    bool nameless = !partition_bytes || (partition_bytes == 1 && *(const char *)partition == '_');
    bsi_line_group g = {rank, nameless, partition, partition_bytes};
    folder_name *f;
    bomsync_status st = enter_group(&f, c, &g, err);
    if (st) return st;
    job *j = chunk_for(c, f, seq, bytes);
    bsi_lines *l = &j->own;
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->end = bsi_realloc(l->end, l->cap * sizeof *l->end);
    }
    bsi_buf_add(&l->text, line, bytes);
    l->end[l->count++] = l->text.len;
    if (!j->slices) add_slice(j, l, 0);
    j->slice[0].count = l->count;
    count_line(j, (uint8_t)op, seq, bytes);
    while (bsi_chunks_pack(c)) continue;
    return failed(c, err);
}

void bsi_chunks_end(bsi_chunks *c) { push(c); }

/* ---- open and close ---- */

bomsync_status bsi_chunks_open(bsi_chunks **out, const char *dir, void (*done)(void *ctx, bsi_lines *lines), void *ctx, bomsync_error *err) {
    *out = NULL;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return bsi_fail_errno(err, errno, dir, "could not open folder \"%s\"", dir);
    bsi_chunks *c = bsi_calloc(1, sizeof *c);
    c->dir = bsi_strdup(dir);
    c->dir_fd = fd;
    c->done = done;
    c->done_ctx = ctx;
    c->last = &c->first;
    c->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    pthread_mutex_init(&c->lock, NULL);
    *out = c;
    return BOMSYNC_OK;
}

static bomsync_status sync_folder(const bsi_chunks *c, const char *name, bomsync_error *err) {
    int fd = openat(c->dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return bsi_fail_errno(err, errno, c->dir, "could not open folder \"%s\" to sync it", name);
    int rc = fsync(fd), errnum = errno;
    close(fd);
    return rc ? bsi_fail_errno(err, errnum, c->dir, "could not sync folder \"%s\"", name) : BOMSYNC_OK;
}

/* Disks are waited for side by side: four files in four folders took 2 ms one after the other. */
enum { SYNCED_AT_ONCE = 4 };
typedef struct sync_run {
    bsi_chunks *c;
    bomsync_error *err; /* [count] what came of each */
} sync_run;

static void sync_one(void *ctx, size_t i) {
    sync_run *r = ctx;
    bsi_chunks *c = r->c;
    job *j = c->jobs[i];
    bool done = i && strcmp(c->jobs[i - 1]->folder, j->folder) == 0;
    r->err[i] = (bomsync_error)BOMSYNC_ERROR_INIT;
    if (fsync(j->fd) != 0) bsi_fail_errno(&r->err[i], errno, c->dir, "could not sync chunk \"%s\"", j->info.file);
    else if (!done) sync_folder(c, j->folder, &r->err[i]);
}

static bomsync_status sync_each(bsi_chunks *c, bomsync_error *err) {
    sync_run r = {.c = c, .err = bsi_alloc(c->count * sizeof *r.err)};
    bsi_parallel(SYNCED_AT_ONCE, c->count, sync_one, &r);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; !st && i < c->count; i++) {
        st = r.err[i].status;
        if (st && err) *err = r.err[i];
    }
    free(r.err);
    return st;
}

/* A folder's entries are synced after the last file was made in it: all files are there when this starts. */
static bomsync_status sync_all(bsi_chunks *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    if (c->count <= SYNCED_ONE_BY_ONE) st = sync_each(c, err);
    else if (syncfs(c->dir_fd) != 0) st = bsi_fail_errno(err, errno, c->dir, "could not sync the chunks in \"%s\"", c->dir);
    if (!st && fsync(c->dir_fd) != 0) st = bsi_fail_errno(err, errno, c->dir, "could not sync folder \"%s\"", c->dir);
    return st;
}

static void release_info(bsi_chunk_info *i) {
    free(i->file);
    free(i->partition);
}

/* With infos the jobs' infos move there. */
static bomsync_status release_jobs(bsi_chunks *c, bsi_chunk_info *infos, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < c->count; i++) {
        job *j = c->jobs[i];
        if (j->fd >= 0 && close(j->fd) != 0 && !st) st = bsi_fail_errno(err, errno, c->dir, "could not close chunk \"%s\"", j->info.file);
        if (infos) infos[i] = j->info;
        else release_info(&j->info);
        drop_slices(c, j);
        free(j->folder);
        free(j);
    }
    return st;
}

static void release(bsi_chunks *c) {
    forget_group(c);
    for (packer *p; (p = c->spare) != NULL;) {
        c->spare = p->next;
        ZSTD_freeCCtx(p->zstd);
        bsi_frame_close(p->frame);
        bsi_buf_free(&p->packed);
        bsi_buf_free(&p->content);
        free(p);
    }
    free(c->jobs);
    bsi_buf_free(&c->partition);
    pthread_mutex_destroy(&c->lock);
    close(c->dir_fd);
    free(c->dir);
    free(c);
}

bomsync_status bsi_chunks_close(bsi_chunks *c, bsi_chunk_info **infos, size_t *count, bomsync_error *err) {
    *infos = NULL;
    *count = 0;
    push(c);
    while (bsi_chunks_pack(c)) continue;
    bomsync_status st = failed(c, err);
    if (!st) st = sync_all(c, err);
    size_t made = c->count;
    bsi_chunk_info *list = st ? NULL : bsi_alloc(made * sizeof *list);
    bomsync_status closed = release_jobs(c, list, err);
    if (!st) st = closed;
    if (st) {
        bsi_chunk_infos_free(list, list ? made : 0);
    } else {
        *infos = list;
        *count = made;
    }
    release(c);
    return st;
}

void bsi_chunk_infos_free(bsi_chunk_info *infos, size_t count) {
    for (size_t i = 0; i < count; i++) release_info(&infos[i]);
    free(infos);
}
