/* read/read_pack.c - bytes at any offset of a pack, one frame at a time.
 *
 *     want      [offset ................. offset + n)
 *     frames  |  k  |   k+1   |   k+2   |   k+3   |
 *               │        └────────┴─ whole: straight into the caller's buffer
 *               └─ in part: through a few frames that are kept
 *
 * Readers go forward, in pieces that do not end where frames end: the frame that a piece ends in is the one that the
 * next begins with. Sixteen frames are kept for all threads; a frame that is in use is not taken away, and two threads
 * that want the same one at the same time both decompress it, which costs less than waiting would.
 *
 * Frames carry zstd's checksum, and their sizes must be those of the index: what is read is what `zstd -d` gives.
 */
#include "read/read_pack.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <unistd.h>
#include <zstd.h>

#include "core/limits.h"

enum { KEPT_MAX = 16, CONTEXTS_MAX = 64 };

typedef struct kept {
    uint8_t *data; /* NULL: free */
    size_t frame;
    unsigned users;
    uint64_t used_at;
} kept;

struct bsi_packed {
    int fd;
    const char *path;
    bsi_pack *index;
    pthread_mutex_t lock; /* guards what follows; data of a kept frame with users is read without it */
    kept kept[KEPT_MAX];
    uint64_t clock;
    ZSTD_DCtx *context[CONTEXTS_MAX]; /* that nobody uses */
    size_t context_count;
};

/* ---- opening ---- */

static bomsync_status read_at(int fd, const char *path, uint8_t *p, size_t n, uint64_t at, bomsync_error *err) {
    for (size_t got = 0; got < n;) {
        ssize_t k = pread(fd, p + got, n - got, (off_t)(at + got));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            bomsync_status st = bsi_fail_errno(err, errno, path, "could not read \"%.200s\"", path);
            bsi_at(err, path, -1, -1, NULL, NULL, 0);
            return st;
        }
        if (k == 0) {
            bsi_fail(err, BOMSYNC_E_REFUSED, "\"%.200s\" became shorter while it was read", path);
            bsi_hint(err, "have it written under another name and renamed when it is whole");
            bsi_at(err, path, -1, -1, NULL, NULL, 0);
            return BOMSYNC_E_REFUSED;
        }
        got += (size_t)k;
    }
    return BOMSYNC_OK;
}

static bomsync_status refuse_end(const char *path, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "\"%.200s\" begins as a pack, but does not end as one", path);
    bsi_hint(err, "the file was cut off or appended to on its way: have it sent again");
    bsi_at(err, path, -1, -1, NULL, NULL, 0);
    return BOMSYNC_E_REFUSED;
}

static bool bomb(const bsi_pack *k, uint64_t file_bytes) {
    return k->content_bytes > BSI_INFLATE_FREE_BYTES && k->content_bytes / BSI_INFLATE_RATIO_MAX > file_bytes;
}

bomsync_status bsi_packed_open(bsi_packed **out, int fd, const char *path, uint64_t file_bytes, bomsync_error *err) {
    *out = NULL;
    uint8_t head[BSI_PACK_HEAD_BYTES], foot[BSI_PACK_FOOTER_BYTES];
    if (file_bytes < sizeof head) return BOMSYNC_OK;
    bomsync_status st = read_at(fd, path, head, sizeof head, 0, err);
    if (st || !bsi_pack_is_head(head, sizeof head)) return st;
    uint64_t index_bytes;
    if (file_bytes < sizeof head + 8 + sizeof foot) return refuse_end(path, err);
    st = read_at(fd, path, foot, sizeof foot, file_bytes - sizeof foot, err);
    if (st) return st;
    if (!bsi_pack_footer(&index_bytes, foot)) return refuse_end(path, err);
    if (index_bytes > file_bytes - sizeof head - 8 - sizeof foot) return BOMSYNC_OK;
    uint64_t at = file_bytes - sizeof foot - index_bytes;
    uint8_t skippable[8];
    st = read_at(fd, path, skippable, sizeof skippable, at - 8, err);
    if (st) return st;
    if (!bsi_pack_is_tail(skippable, index_bytes)) return BOMSYNC_OK;
    uint8_t *bytes = bsi_alloc(index_bytes + sizeof foot);
    st = read_at(fd, path, bytes, index_bytes + sizeof foot, at, err);
    if (st) {
        free(bytes);
        return st;
    }
    bsi_pack *index = bsi_pack_read(bytes, index_bytes, at - 8);
    if (index && bomb(index, file_bytes)) {
        bsi_pack_free(index);
        index = NULL;
    }
    if (!index) return BOMSYNC_OK;
    bsi_packed *p = *out = bsi_calloc(1, sizeof *p);
    p->fd = fd;
    p->path = path;
    p->index = index;
    pthread_mutex_init(&p->lock, NULL);
    return BOMSYNC_OK;
}

void bsi_packed_close(bsi_packed *p) {
    if (!p) return;
    for (size_t i = 0; i < KEPT_MAX; i++) free(p->kept[i].data);
    for (size_t i = 0; i < p->context_count; i++) ZSTD_freeDCtx(p->context[i]);
    pthread_mutex_destroy(&p->lock);
    bsi_pack_free(p->index);
    free(p);
}

const bsi_pack *bsi_packed_index(const bsi_packed *p) {
    return p->index;
}

/* ---- frames ---- */

static ZSTD_DCtx *context_take(bsi_packed *p) {
    pthread_mutex_lock(&p->lock);
    ZSTD_DCtx *d = p->context_count ? p->context[--p->context_count] : NULL;
    pthread_mutex_unlock(&p->lock);
    return d ? d : ZSTD_createDCtx();
}

static void context_give(bsi_packed *p, ZSTD_DCtx *d) {
    pthread_mutex_lock(&p->lock);
    bool keep = p->context_count < CONTEXTS_MAX;
    if (keep) p->context[p->context_count++] = d;
    pthread_mutex_unlock(&p->lock);
    if (!keep) ZSTD_freeDCtx(d);
}

static bomsync_status refuse_frame(const bsi_packed *p, size_t frame, const char *what, bomsync_error *err) {
    const bsi_pack_frame *f = &p->index->frame[frame];
    bsi_fail(err, BOMSYNC_E_REFUSED, "frame %zu of the pack, at byte %" PRIu64 " of the compressed file, is damaged (%s)", frame, f->at,
             what);
    bsi_hint(err, "the file was damaged on its way: have it sent again");
    bsi_at(err, p->path, (int64_t)f->content_at, -1, NULL, NULL, 0);
    return BOMSYNC_E_REFUSED;
}

bomsync_status bsi_packed_frame(bsi_packed *p, size_t frame, uint8_t *out, bomsync_error *err) {
    const bsi_pack_frame *f = &p->index->frame[frame];
    uint8_t *in = bsi_alloc(f->bytes);
    bomsync_status st = read_at(p->fd, p->path, in, f->bytes, f->at, err);
    ZSTD_DCtx *d = st ? NULL : context_take(p);
    if (!st && !d) st = bsi_fail(err, BOMSYNC_E_SPACE, "could not get memory to decompress \"%.200s\"", p->path);
    if (!st) {
        size_t n = ZSTD_decompressDCtx(d, out, f->content, in, f->bytes);
        if (ZSTD_isError(n)) st = refuse_frame(p, frame, ZSTD_getErrorName(n), err);
        else if (n != f->content) st = refuse_frame(p, frame, "it is shorter than the index says", err);
        context_give(p, d);
    }
    free(in);
    return st;
}

static kept *find_kept(bsi_packed *p, size_t frame) {
    for (size_t i = 0; i < KEPT_MAX; i++)
        if (p->kept[i].data && p->kept[i].frame == frame) return &p->kept[i];
    return NULL;
}

/* Keep data if there is room for it or an old one nobody uses; returns what must be freed. */
static uint8_t *keep(bsi_packed *p, size_t frame, uint8_t *data) {
    if (find_kept(p, frame)) return data;
    kept *oldest = NULL;
    for (size_t i = 0; i < KEPT_MAX; i++) {
        kept *k = &p->kept[i];
        if (!k->users && (!oldest || !k->data || (oldest->data && k->used_at < oldest->used_at))) oldest = k;
    }
    if (!oldest) return data;
    uint8_t *old = oldest->data;
    *oldest = (kept){.data = data, .frame = frame, .used_at = ++p->clock};
    return old;
}

static bomsync_status copy_part(bsi_packed *p, size_t frame, uint8_t *out, size_t from, size_t n, bomsync_error *err) {
    pthread_mutex_lock(&p->lock);
    kept *k = find_kept(p, frame);
    if (k) {
        k->users++;
        k->used_at = ++p->clock;
    }
    pthread_mutex_unlock(&p->lock);
    if (k) {
        memcpy(out, k->data + from, n);
        pthread_mutex_lock(&p->lock);
        k->users--;
        pthread_mutex_unlock(&p->lock);
        return BOMSYNC_OK;
    }
    uint8_t *data = bsi_alloc(p->index->frame[frame].content);
    bomsync_status st = bsi_packed_frame(p, frame, data, err);
    if (!st) {
        memcpy(out, data + from, n);
        pthread_mutex_lock(&p->lock);
        data = keep(p, frame, data);
        pthread_mutex_unlock(&p->lock);
    }
    free(data);
    return st;
}

ssize_t bsi_packed_pread(bsi_packed *p, uint8_t *buf, size_t n, uint64_t offset, bomsync_error *err) {
    const bsi_pack *k = p->index;
    if (offset >= k->content_bytes) return 0;
    n = (size_t)BSI_MIN((uint64_t)n, k->content_bytes - offset);
    size_t lo = 0, hi = k->frame_count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (k->frame[mid].content_at <= offset) lo = mid;
        else hi = mid;
    }
    for (size_t done = 0, i = lo; done < n; i++) {
        const bsi_pack_frame *f = &k->frame[i];
        size_t from = (size_t)(offset + done - f->content_at), part = BSI_MIN((size_t)f->content - from, n - done);
        bomsync_error own = BOMSYNC_ERROR_INIT;
        bomsync_error *e = err ? err : &own;
        bomsync_status st = part == f->content ? bsi_packed_frame(p, i, buf + done, e) : copy_part(p, i, buf + done, from, part, e);
        if (st) return -1;
        done += part;
    }
    return (ssize_t)n;
}
