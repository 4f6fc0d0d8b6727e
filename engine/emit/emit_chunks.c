/* emit/emit_chunks.c - rendered lines to the chunk files of one generation.
 *
 *   adder            queue (at most one job a worker)      workers                    close
 *   ┌ lines ──┐      ┌────────┐ ┌────────┐                 zstd, XXH3, SHA-256        sync, infos in order
 *   │ a chunk │ ───> │ 000001 │ │ 000002 │ ──────────────> 1000/00-000001.ndjson.zst
 *   └─────────┘      └────────┘ └────────┘
 *
 * What stands in which chunk is decided by the adder alone, from the lines alone; a chunk is one zstd frame made from
 * one buffer. So the bytes are the same for any number of workers.
 *
 * A full queue makes the adder work on a job itself instead of waiting: with one worker there is no thread at all, and
 * with two both cores are busy whatever the lines cost. Threads start when there is a second chunk: most generations
 * have one and never see any.
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
#include "flow/change.h"

enum {
    ZSTD_LEVEL = 1,                 /* a first load of 10 M lines: 3.9 GB to 0.35 GB; level 3 took 3 s of processor time more */
    SYNCED_ONE_BY_ONE = 8,          /* files; above, one syncfs costs less */
    SPARE_BYTES_MAX = 8u << 20      /* a buffer that one giant line made larger is not kept */
};

typedef struct job {
    bsi_chunk_info info;
    char *folder;
    bsi_buf content;
    int fd;                /* open until close() has synced it, -1 */
    struct job *next;
} job;

typedef struct folder_name {
    char *text;            /* NULL: not made yet */
    uint32_t number;       /* of its newest chunk in this rank */
} folder_name;

struct bsi_chunks {
    char *dir;
    int dir_fd;
    int workers;
    const bsi_slots *slots; /* NULL: "_" is no partition's name */
    /* the adder's: the group of lines that share rank and partition, and the chunk that grows */
    bool any;
    uint8_t rank;
    bsi_buf partition;
    folder_name plain, underscore; /* underscore: of a partition that is called "_" */
    job *open;
    job **jobs;            /* all, in order */
    size_t count, cap;
    ZSTD_CCtx *zstd;       /* the adder's */
    bsi_buf packed;
    /* shared, under lock */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    job *first, **last;
    int queued, started;
    bool ended;
    bsi_buf *spare;
    size_t spare_count;
    bomsync_error err;
    const job *err_job;    /* the earliest chunk that failed: the message does not depend on who was faster */
    pthread_t *thread;
};

/* ---- one chunk ---- */

static bomsync_status pack(bsi_buf *packed, ZSTD_CCtx *z, const bsi_buf *content, bomsync_error *err) {
    packed->len = 0;
    bsi_buf_reserve(packed, ZSTD_compressBound(content->len));
    size_t rc = ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, ZSTD_LEVEL);
    if (!ZSTD_isError(rc)) rc = ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
    if (!ZSTD_isError(rc)) rc = ZSTD_compress2(z, packed->data, packed->cap, content->data, content->len);
    if (ZSTD_isError(rc)) return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress a chunk: %s", ZSTD_getErrorName(rc));
    packed->len = rc;
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

static bomsync_status write_chunk(const bsi_chunks *c, job *j, bool keep_open, ZSTD_CCtx *z, bsi_buf *packed, bomsync_error *err) {
    if (!z) return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress a chunk: out of memory");
    bomsync_status st = pack(packed, z, &j->content, err);
    if (st) return st;
    j->info.bytes = packed->len;
    j->info.content_bytes = j->content.len;
    j->info.content_xxh3 = bsi_xxh128(j->content.data, j->content.len);
    bsi_sha_once(packed->data, packed->len, j->info.sha256);
    int fd = create_file(c, j);
    if (fd < 0) return bsi_fail_errno(err, errno, c->dir, "could not make chunk \"%s\"", j->info.file);
    st = write_all(fd, packed, c->dir, j->info.file, err);
    if (!st && keep_open) j->fd = fd;
    else if (close(fd) != 0 && !st) st = bsi_fail_errno(err, errno, c->dir, "could not close chunk \"%s\"", j->info.file);
    return st;
}

/* ---- the queue ---- */

static job *pop(bsi_chunks *c) {
    job *j = c->first;
    c->first = j->next;
    if (!c->first) c->last = &c->first;
    c->queued--;
    return j;
}

/* Under lock on the way in and out. */
static void work(bsi_chunks *c, ZSTD_CCtx *z, bsi_buf *packed) {
    job *j = pop(c);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (!c->err.status) {
        bool keep_open = c->count <= SYNCED_ONE_BY_ONE; /* if it is so in the end, it was for every chunk */
        pthread_mutex_unlock(&c->lock);
        write_chunk(c, j, keep_open, z, packed, &err);
        pthread_mutex_lock(&c->lock);
    }
    if (err.status && (!c->err_job || j->info.first_seq < c->err_job->info.first_seq)) {
        c->err = err;
        c->err_job = j;
    }
    if (j->content.cap <= SPARE_BYTES_MAX && c->spare_count < (size_t)c->workers + 1) c->spare[c->spare_count++] = j->content;
    else bsi_buf_free(&j->content);
    j->content = (bsi_buf){0};
}

static void *worker(void *ctx) {
    bsi_chunks *c = ctx;
    ZSTD_CCtx *z = ZSTD_createCCtx();
    bsi_buf packed = {0};
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (!c->first && !c->ended) pthread_cond_wait(&c->wake, &c->lock);
        if (!c->first) break;
        work(c, z, &packed);
    }
    pthread_mutex_unlock(&c->lock);
    ZSTD_freeCCtx(z);
    bsi_buf_free(&packed);
    return NULL;
}

static bomsync_status failed(bsi_chunks *c, bomsync_error *err) {
    if (c->err.status && err && !err->status) *err = c->err;
    return c->err.status;
}

static bomsync_status push(bsi_chunks *c, job *j, bool last, bomsync_error *err) {
    pthread_mutex_lock(&c->lock);
    *c->last = j;
    c->last = &j->next;
    c->queued++;
    if (!last && c->started < c->workers - 1 && pthread_create(&c->thread[c->started], NULL, worker, c) == 0) c->started++;
    pthread_cond_signal(&c->wake);
    while (c->queued > c->started) work(c, c->zstd, &c->packed);
    bomsync_status st = failed(c, err);
    pthread_mutex_unlock(&c->lock);
    return st;
}

static bsi_buf take_spare(bsi_chunks *c) {
    bsi_buf b = {0};
    pthread_mutex_lock(&c->lock);
    if (c->spare_count) b = c->spare[--c->spare_count];
    pthread_mutex_unlock(&c->lock);
    b.len = 0;
    return b;
}

/* ---- which line goes where ---- */

static bomsync_status finish_open(bsi_chunks *c, bool last, bomsync_error *err) {
    job *j = c->open;
    c->open = NULL;
    return j ? push(c, j, last, err) : BOMSYNC_OK;
}

static const uint8_t *behind_string(const uint8_t *p) {
    for (p++; *p != '"'; p++)
        if (*p == '\\') p++;
    return p + 1;
}

/* The line is one that bsi_change_render made: quotes inside of strings are escaped, so `,"key":{` is what it looks like. */
static bool called_underscore(const bsi_chunks *c, const void *line, size_t bytes) {
    if (!c->slots || c->slots->partition < 0) return false;
    static const char key[] = ",\"key\":{", value[] = ":\"_\"";
    const uint8_t *p = memmem(line, bytes, key, sizeof key - 1);
    if (!p) return false;
    p = behind_string(p + sizeof key - 1);
    for (int32_t i = 0; i < c->slots->partition; i++) p = behind_string(behind_string(p + 1) + 1);
    return memcmp(p, value, sizeof value - 1) == 0;
}

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
    j->content = take_spare(c);
    j->info.rank = c->rank;
    j->info.first_seq = seq;
    j->info.partition = bsi_strndup((const char *)c->partition.data, c->partition.len);
    j->info.file = bsi_format("%s/%02u-%06u.ndjson.zst", f->text, c->rank, ++f->number);
    pthread_mutex_lock(&c->lock); /* workers look at count */
    if (c->count == c->cap) c->jobs = bsi_realloc(c->jobs, (c->cap = c->cap ? c->cap * 2 : 16) * sizeof(job *));
    c->jobs[c->count++] = j;
    pthread_mutex_unlock(&c->lock);
    c->open = j;
}

static bool chunk_full(const job *j, size_t bytes) {
    return j->info.c + j->info.u + j->info.d >= BSI_CHUNK_CHANGES_MAX || j->content.len + bytes > BSI_CHUNK_BYTES_MAX;
}

bomsync_status bsi_chunks_add_line(bsi_chunks *c, char op, uint8_t rank, const void *partition, size_t partition_bytes, uint64_t seq,
                                   const void *line, size_t bytes, bomsync_error *err) {
    bool nameless = !partition_bytes || (partition_bytes == 1 && *(const char *)partition == '_');
    if (!partition_bytes) partition = "_", partition_bytes = 1;
    bool same = c->any && c->rank == rank && c->partition.len == partition_bytes && memcmp(c->partition.data, partition, partition_bytes) == 0;
    bomsync_status st = BOMSYNC_OK;
    if (!same) {
        st = finish_open(c, false, err);
        forget_group(c);
        c->any = true;
        c->rank = rank;
        c->partition.len = 0;
        bsi_buf_add(&c->partition, partition, partition_bytes);
    }
    folder_name *f = &c->plain;
    if (nameless && called_underscore(c, line, bytes)) f = &c->underscore;
    if (!st && !f->text) st = make_folder(c, f, partition, nameless && f == &c->plain ? 0 : partition_bytes, err);
    if (!st && c->open && (chunk_full(c->open, bytes) || strcmp(c->open->folder, f->text) != 0)) st = finish_open(c, false, err);
    if (st) return st;
    if (!c->open) start_chunk(c, f, seq);
    job *j = c->open;
    bsi_buf_add(&j->content, line, bytes);
    j->info.last_seq = seq;
    if (op == 'c') j->info.c++;
    else if (op == 'u') j->info.u++;
    else j->info.d++;
    return BOMSYNC_OK;
}

/* ---- open and close ---- */

bomsync_status bsi_chunks_open(bsi_chunks **out, const char *dir, int workers, bomsync_error *err) {
    *out = NULL;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return bsi_fail_errno(err, errno, dir, "could not open folder \"%s\"", dir);
    bsi_chunks *c = bsi_calloc(1, sizeof *c);
    c->dir = bsi_strdup(dir);
    c->dir_fd = fd;
    c->workers = BSI_MAX(workers, 1);
    c->thread = bsi_calloc((size_t)c->workers, sizeof *c->thread);
    c->spare = bsi_calloc((size_t)c->workers + 1, sizeof *c->spare);
    c->zstd = ZSTD_createCCtx();
    c->last = &c->first;
    c->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);
    *out = c;
    return BOMSYNC_OK;
}

void bsi_chunks_slots(bsi_chunks *c, const bsi_slots *slots) { c->slots = slots; }

/* Works off the queue beside the workers, then waits for what they still hold. */
static bomsync_status drain(bsi_chunks *c, bomsync_error *err) {
    pthread_mutex_lock(&c->lock);
    c->ended = true;
    pthread_cond_broadcast(&c->wake);
    while (c->first) work(c, c->zstd, &c->packed);
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < c->started; i++) pthread_join(c->thread[i], NULL);
    return failed(c, err);
}

static bomsync_status sync_folder(const bsi_chunks *c, const char *name, bomsync_error *err) {
    int fd = openat(c->dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return bsi_fail_errno(err, errno, c->dir, "could not open folder \"%s\" to sync it", name);
    int rc = fsync(fd), errnum = errno;
    close(fd);
    return rc ? bsi_fail_errno(err, errnum, c->dir, "could not sync folder \"%s\"", name) : BOMSYNC_OK;
}

static bomsync_status sync_each(bsi_chunks *c, bomsync_error *err) {
    for (size_t i = 0; i < c->count; i++) {
        job *j = c->jobs[i];
        if (fsync(j->fd) != 0) return bsi_fail_errno(err, errno, c->dir, "could not sync chunk \"%s\"", j->info.file);
        bool done = i && strcmp(c->jobs[i - 1]->folder, j->folder) == 0;
        bomsync_status st = done ? BOMSYNC_OK : sync_folder(c, j->folder, err);
        if (st) return st;
    }
    return BOMSYNC_OK;
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
        bsi_buf_free(&j->content);
        free(j->folder);
        free(j);
    }
    return st;
}

static void release(bsi_chunks *c) {
    forget_group(c);
    for (size_t i = 0; i < c->spare_count; i++) bsi_buf_free(&c->spare[i]);
    free(c->spare);
    free(c->thread);
    free(c->jobs);
    bsi_buf_free(&c->partition);
    bsi_buf_free(&c->packed);
    ZSTD_freeCCtx(c->zstd);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->wake);
    close(c->dir_fd);
    free(c->dir);
    free(c);
}

bomsync_status bsi_chunks_close(bsi_chunks *c, bsi_chunk_info **infos, size_t *count, bomsync_error *err) {
    *infos = NULL;
    *count = 0;
    bomsync_status st = finish_open(c, true, err), drained = drain(c, err);
    if (!st) st = drained;
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
