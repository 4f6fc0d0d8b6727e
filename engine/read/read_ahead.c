/* read/read_ahead.c - keep a device busy while one thread reads a cold file from front to back.
 *
 *     file   ...| chunk k | k+1 | k+2 | ... | k+15 |...
 *                 ^ reader           in flight ──┘
 *     lane   slot = chunk mod DEPTH; chunk k's slot is asked to hold k+16 as soon as the reader is past k
 *
 * A lane is a ring, DEPTH buffers, and a window of chunks. Several workers read one file in several places, each gets
 * a lane by where it reads: the lane whose window holds the offset, else, for a large read, one that nobody uses.
 * Short reads in random places go to pread. Lanes belong to the process, not to a file, so that memory stays the same
 * for a hundred files: at most LANES_MAX x 8 MB, one more than there are workers.
 *
 * Reads are buffered, not O_DIRECT: 2.2 GB/s against 2.4 on the machine of the trials (pread: 0.95), and the blocks
 * that changed are read again from the page cache right after. 512 kB x 16 was as good as any; 256 kB x 32 was not.
 *
 * A chunk that comes back short or with an error is read again with pread: its errno is the one that is reported.
 */
#include "read/read_ahead.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHUNK (512u << 10)
#define DEPTH 16u
#define LANES_MAX 8
#define START_BYTES (256u << 10) /* a read this large, or at byte 0, begins a sequence */
#define SAMPLES 16u              /* looks at the page cache */

typedef struct lane {
    struct io_uring ring;
    uint8_t *buf;         /* DEPTH x CHUNK */
    bsi_ahead *user;      /* whose window this is */
    bool busy;            /* a thread is in it */
    uint64_t used_at;     /* for least recently used */
    uint64_t first, next; /* chunks [first, next) are asked for */
    struct {
        bool pending;
        int32_t result;
    } slot[DEPTH];
} lane;

struct bsi_ahead {
    int fd;
    uint64_t size;
};

static struct {
    pthread_mutex_t lock; /* guards all of this, and of each lane user, busy, used_at; the rest of a lane belongs to
                           * the thread that made it busy */
    lane *lane[LANES_MAX];
    size_t count, most;
    size_t users; /* files open */
    uint64_t clock;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool bsi_ahead_cold(int fd, uint64_t size) {
    unsigned missing = 0;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        char c;
        struct iovec v = {&c, 1};
        uint64_t at = size / SAMPLES * i + size / SAMPLES / 2;
        if (preadv2(fd, &v, 1, (off_t)at, RWF_NOWAIT) < 0 && errno == EAGAIN) missing++;
    }
    return missing > SAMPLES / 8;
}

/* ---- lanes ---- */

static int lane_queue(lane *l, int fd, uint64_t chunk, size_t bytes) {
    struct io_uring_sqe *q = io_uring_get_sqe(&l->ring);
    if (!q) return -EBUSY;
    unsigned s = (unsigned)(chunk % DEPTH);
    io_uring_prep_read(q, fd, l->buf + (size_t)s * CHUNK, (unsigned)bytes, chunk * CHUNK);
    io_uring_sqe_set_data64(q, s);
    l->slot[s].pending = true;
    return 0;
}

static void lane_wait(lane *l, unsigned s) {
    while (l->slot[s].pending) {
        struct io_uring_cqe *e;
        int rc = io_uring_wait_cqe(&l->ring, &e);
        if (rc == -EINTR || rc == -EAGAIN) continue;
        if (rc < 0) abort(); /* the kernel may still write to our buffers: nothing sane is left to do */
        l->slot[e->user_data].pending = false;
        l->slot[e->user_data].result = e->res;
        io_uring_cqe_seen(&l->ring, e);
    }
}

static void lane_drain(lane *l) {
    for (unsigned s = 0; s < DEPTH; s++) lane_wait(l, s);
    l->first = l->next = 0;
}

static void lane_close(lane *l) {
    lane_drain(l);
    io_uring_queue_exit(&l->ring);
    free(l->buf);
    free(l);
}

static lane *lane_open(int *why) {
    lane *l = bsi_calloc(1, sizeof *l);
    *why = io_uring_queue_init(DEPTH, &l->ring, 0);
    if (*why < 0) {
        free(l);
        return NULL;
    }
    l->buf = bsi_alloc((size_t)DEPTH * CHUNK);
    return l;
}

static size_t chunk_bytes(const bsi_ahead *a, uint64_t chunk) {
    uint64_t at = chunk * CHUNK;
    return at >= a->size ? 0 : (size_t)BSI_MIN(a->size - at, (uint64_t)CHUNK);
}

/* Submit all of it, or mark as failed what was not taken: those chunks come from pread. */
static void lane_submit(lane *l, uint64_t from) {
    unsigned want = (unsigned)(l->next - from);
    unsigned sent = 0;
    while (sent < want) {
        int rc = io_uring_submit(&l->ring);
        if (rc == -EINTR) continue;
        if (rc <= 0) break;
        sent += (unsigned)rc;
    }
    if (sent == want) return;
    /* What stays in the queue would be sent with a later submit into a buffer that is in use: begin a new ring. */
    for (uint64_t c = from + sent; c < l->next; c++) {
        l->slot[c % DEPTH].pending = false;
        l->slot[c % DEPTH].result = -EIO;
    }
    for (unsigned s = 0; s < DEPTH; s++) lane_wait(l, s);
    io_uring_queue_exit(&l->ring);
    if (io_uring_queue_init(DEPTH, &l->ring, 0) < 0) abort();
}

/* The window moves up to chunk; what is behind it is asked for the chunks ahead. */
static void lane_advance(lane *l, const bsi_ahead *a, uint64_t chunk) {
    if (chunk < l->first || chunk > l->next) {
        lane_drain(l);
        l->next = chunk;
    }
    l->first = chunk;
    uint64_t from = l->next;
    while (l->next < chunk + DEPTH && chunk_bytes(a, l->next)) {
        lane_wait(l, (unsigned)(l->next % DEPTH));
        if (lane_queue(l, a->fd, l->next, chunk_bytes(a, l->next))) break;
        l->next++;
    }
    if (l->next > from) lane_submit(l, from);
}

/* Copy from one chunk; 0 if it could not be read. */
static size_t lane_take(lane *l, const bsi_ahead *a, void *buf, size_t n, uint64_t offset) {
    uint64_t chunk = offset / CHUNK;
    lane_advance(l, a, chunk);
    if (chunk >= l->next) return 0;
    unsigned s = (unsigned)(chunk % DEPTH);
    lane_wait(l, s);
    size_t at = (size_t)(offset % CHUNK);
    if (l->slot[s].result <= 0 || (size_t)l->slot[s].result <= at) return 0;
    n = BSI_MIN(n, (size_t)l->slot[s].result - at);
    memcpy(buf, l->buf + (size_t)s * CHUNK + at, n);
    return n;
}

/* ---- who reads in which lane ---- */

static bool holds(const lane *l, const bsi_ahead *a, uint64_t chunk) {
    return l->user == a && chunk >= l->first && chunk <= l->next && l->next > 0;
}

static lane *choose(bsi_ahead *a, size_t n, uint64_t offset) {
    uint64_t chunk = offset / CHUNK;
    lane *best = NULL, *oldest = NULL;
    for (size_t i = 0; i < pool.count; i++) {
        lane *l = pool.lane[i];
        if (l->busy) continue;
        if (holds(l, a, chunk) && (!best || l->first > best->first)) best = l;
        if (!oldest || l->used_at < oldest->used_at) oldest = l;
    }
    if (best || (n < START_BYTES && offset)) return best;
    if (pool.count < pool.most) {
        int why;
        lane *l = lane_open(&why);
        if (l) return pool.lane[pool.count++] = l;
    }
    return oldest;
}

size_t bsi_ahead_read(bsi_ahead *a, void *buf, size_t n, uint64_t offset) {
    pthread_mutex_lock(&pool.lock);
    lane *l = choose(a, n, offset);
    bool other = l && l->user != a;
    if (l) {
        l->busy = true;
        l->user = a;
        l->used_at = ++pool.clock;
    }
    pthread_mutex_unlock(&pool.lock);
    if (!l) return 0;
    if (other) lane_drain(l);
    size_t got = 0;
    while (got < n) {
        size_t step = lane_take(l, a, (uint8_t *)buf + got, n - got, offset + got);
        if (!step) break;
        got += step;
    }
    pthread_mutex_lock(&pool.lock);
    l->busy = false;
    pthread_mutex_unlock(&pool.lock);
    return got;
}

/* ---- opening ---- */

static void warn_once(int why) {
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&warned))
        fprintf(stderr, "bomsync: warning: io_uring cannot be used here (%s); reading with pread\n", strerror(why));
}

/* A ring that can be made is not yet a ring that may read: seccomp and old kernels show only then. */
static int probe(lane *l, const bsi_ahead *a) {
    lane_queue(l, a->fd, 0, 1);
    int rc;
    while ((rc = io_uring_submit(&l->ring)) == -EINTR) {
    }
    if (rc != 1) {
        l->slot[0].pending = false;
        return rc < 0 ? rc : -EIO;
    }
    lane_wait(l, 0);
    return l->slot[0].result < 0 ? l->slot[0].result : 0;
}

bsi_ahead *bsi_ahead_open(int fd, uint64_t size, int workers) {
    static _Atomic int refused;
    if (atomic_load(&refused)) return NULL;
    bsi_ahead *a = bsi_calloc(1, sizeof *a);
    *a = (bsi_ahead){.fd = fd, .size = size};
    int why = 0;
    pthread_mutex_lock(&pool.lock);
    pool.most = BSI_MIN(BSI_MAX(pool.most, (size_t)BSI_MAX(workers, 1) + 1), (size_t)LANES_MAX);
    if (!pool.count) {
        lane *l = lane_open(&why);
        if (l && (why = probe(l, a)) < 0)
            lane_close(l);
        else if (l)
            pool.lane[pool.count++] = l;
    }
    bool usable = pool.count > 0;
    if (usable) pool.users++;
    pthread_mutex_unlock(&pool.lock);
    if (usable) return a;
    atomic_store(&refused, 1);
    warn_once(-why);
    free(a);
    return NULL;
}

void bsi_ahead_close(bsi_ahead *a) {
    if (!a) return;
    pthread_mutex_lock(&pool.lock);
    for (size_t i = 0; i < pool.count; i++) {
        if (pool.lane[i]->user != a) continue;
        lane_drain(pool.lane[i]);
        pool.lane[i]->user = NULL;
    }
    if (--pool.users == 0) {
        for (size_t i = 0; i < pool.count; i++) lane_close(pool.lane[i]);
        pool.count = 0;
    }
    pthread_mutex_unlock(&pool.lock);
    free(a);
}
