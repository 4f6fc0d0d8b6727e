/* read/read_ahead.c - keep a device busy while several threads work on what it gave.
 *
 *     parts    0  1  2  3  4  5  6  7  8  9 ...      of one file after the other, in order
 *              done  │ taken│ arrived │ in flight ────┤ not asked for yet
 *                     worker        SLOTS in all
 *
 * Who wants work asks for the next part that has arrived, uses it where it lies, and gives its slot back, which asks for
 * the next part at once. So the device sees one sequential reader with a deep queue, whatever the number of workers, and
 * nothing is copied or read twice. There is no thread of our own: whoever comes reaps and submits, under the lock.
 *
 * Parts come past the page cache (O_DIRECT) if the caller wants that and the file system can: a page that is made, filled
 * and copied out costs as much as the rest of an unchanged run. The caller keeps what it needs again (run/scan_cursor.c), and
 * asks for the page cache once that gets much. 4 MB at a time, 12 or 13 of them in flight: as fast as 1 MB x 32, and
 * fewer seams for the caller.
 *
 * Whatever goes wrong with a part, it is handed out without bytes: its user reads it with pread, whose errno is the one
 * that is reported.
 *
 * Tried and dropped: one window for each worker (each asked for the front of its neighbour's part as well: a third was
 * read twice); buffered reads only (0.8 of the device's rate); registered buffers (no faster on huge pages, and they
 * count against the limit on locked memory).
 */
#include "read/read_ahead.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/limits.h"

#define ALIGN 4096u  /* of place, length and memory of a direct read */
#define SLOTS 14u
#define MARGIN 64u   /* readable bytes behind what arrived */
#define UNANSWERED INT32_MIN
#define SLOT_BYTES ((BSI_PART_BYTES + BSI_PART_PAST_BYTES + 2 * ALIGN + MARGIN + ALIGN - 1) / ALIGN * (size_t)ALIGN)

static_assert(SLOTS * SLOT_BYTES <= 64u << 20, "all buffers together");

typedef struct slot {
    size_t part;
    uint32_t skew;  /* bytes in front of the part's first */
    int32_t result; /* of the read */
    bool direct;
} slot;

struct bsi_ahead {
    pthread_mutex_t lock; /* guards what follows; a slot that was taken belongs to who took it */
    pthread_cond_t given;
    struct io_uring ring;
    const bsi_ahead_part *part;
    size_t count, next; /* parts from next on are not asked for */
    uint8_t *memory;
    slot slot[SLOTS];
    uint8_t idle[SLOTS], arrived[SLOTS]; /* slot numbers; arrived in order */
    unsigned idle_count, arrived_count;
    unsigned queued, sent; /* reads that the kernel has not taken yet, and has not answered yet */
    bool broken;           /* the ring takes nothing more */
    atomic_bool buffered;  /* no direct reads from here on */
    bool direct;           /* wanted */
};

/* ---- the ring; its lock is held ---- */

static uint8_t *memory_of(const bsi_ahead *a, unsigned s) { return a->memory + s * SLOT_BYTES; }

static void ask_for(bsi_ahead *a, struct io_uring_sqe *q, unsigned s, size_t part) {
    const bsi_ahead_part *p = &a->part[part];
    bsi_ahead_file f = bsi_source_ahead_file(p->source, a->direct && !atomic_load(&a->buffered));
    bsi_source_ahead_used(p->source);
    uint64_t at = f.start + p->offset, from = at;
    size_t bytes = p->bytes;
    if (f.direct >= 0) {
        from = at / ALIGN * ALIGN;
        bytes = (size_t)((at + p->bytes + ALIGN - 1) / ALIGN * ALIGN - from);
    }
    a->slot[s] = (slot){.part = part, .skew = (uint32_t)(at - from), .result = UNANSWERED, .direct = f.direct >= 0};
    io_uring_prep_read(q, f.direct >= 0 ? f.direct : f.fd, memory_of(a, s), (unsigned)bytes, from);
    io_uring_sqe_set_data64(q, s);
}

static void arrive(bsi_ahead *a, unsigned s, int32_t result) {
    a->slot[s].result = result;
    a->arrived[a->arrived_count++] = (uint8_t)s;
    bool refused = result == -EINVAL || result == -EOPNOTSUPP;
    if (a->slot[s].direct && refused) atomic_store(&a->buffered, true); /* a file system that opens but does not read so */
}

static void reap(bsi_ahead *a) {
    struct io_uring_cqe *e;
    while (a->sent && io_uring_peek_cqe(&a->ring, &e) == 0) {
        arrive(a, (unsigned)e->user_data, e->res);
        a->sent--;
        io_uring_cqe_seen(&a->ring, e);
    }
}

static void took(bsi_ahead *a, int rc) {
    if (rc > 0) {
        a->queued -= (unsigned)rc;
        a->sent += (unsigned)rc;
    } else if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
        a->broken = true;
    }
}

/* Every idle slot gets a part. */
static void submit(bsi_ahead *a) {
    struct io_uring_sqe *q;
    while (!a->broken && a->idle_count && a->next < a->count && (q = io_uring_get_sqe(&a->ring))) {
        ask_for(a, q, a->idle[--a->idle_count], a->next++);
        a->queued++;
    }
    if (a->queued && !a->broken) took(a, io_uring_submit(&a->ring));
}

static void wait_one(bsi_ahead *a) {
    took(a, a->broken ? 0 : io_uring_submit_and_wait(&a->ring, 1));
    struct io_uring_cqe *e;
    if (a->broken && a->sent && io_uring_wait_cqe(&a->ring, &e) < 0) return;
    reap(a);
}

/* ---- the workers' side ---- */

/* Parts that no read will bring: those in a queue that the kernel does not take, and all after them. */
static bool stranded(bsi_ahead *a, size_t *part) {
    if (!a->broken || a->sent) return false;
    for (unsigned s = 0; a->queued && s < SLOTS; s++) {
        if (a->slot[s].result != UNANSWERED) continue;
        a->slot[s].result = 0;
        a->queued--;
        *part = a->slot[s].part;
        return true;
    }
    if (a->next == a->count) return false;
    *part = a->next++;
    return true;
}

static void hand_out(const bsi_ahead *a, unsigned s, bsi_arrival *out) {
    const slot *t = &a->slot[s];
    size_t got = t->result > (int64_t)t->skew ? (size_t)t->result - t->skew : 0;
    *out = (bsi_arrival){.part = t->part, .slot = (int)s, .data = memory_of(a, s) + t->skew,
                         .bytes = BSI_MIN(got, a->part[t->part].bytes), .direct = t->direct};
}

bool bsi_ahead_take(bsi_ahead *a, bsi_arrival *out) {
    bool any = true;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        reap(a);
        submit(a);
        if (a->arrived_count) {
            unsigned s = a->arrived[0];
            memmove(a->arrived, a->arrived + 1, --a->arrived_count);
            hand_out(a, s, out);
            break;
        }
        *out = (bsi_arrival){.slot = -1};
        if (stranded(a, &out->part)) break;
        if (a->sent || a->queued) {
            wait_one(a);
        } else if (a->next == a->count) {
            any = false;
            break;
        } else {
            pthread_cond_wait(&a->given, &a->lock); /* others have all slots */
        }
    }
    pthread_mutex_unlock(&a->lock);
    return any;
}

void bsi_ahead_give(bsi_ahead *a, const bsi_arrival *used) {
    if (used->slot < 0) return;
    pthread_mutex_lock(&a->lock);
    a->idle[a->idle_count++] = (uint8_t)used->slot;
    submit(a);
    pthread_cond_signal(&a->given);
    pthread_mutex_unlock(&a->lock);
}

void bsi_ahead_use_cache(bsi_ahead *a) { atomic_store(&a->buffered, true); }

/* ---- opening ---- */

static void warn_once(int why) {
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&warned))
        fprintf(stderr, "bomsync: warning: io_uring cannot be used here (%s); reading with pread\n", strerror(why));
}

/* A ring that can be made is not yet a ring that may read: seccomp and old kernels show only then. */
static int probe(bsi_ahead *a) {
    struct io_uring_sqe *q = io_uring_get_sqe(&a->ring);
    struct io_uring_cqe *e;
    bsi_ahead_file f = bsi_source_ahead_file(a->part[0].source, false);
    int rc;
    if (!q) return -EBUSY;
    io_uring_prep_read(q, f.fd, a->memory, 1, 0);
    do rc = io_uring_submit_and_wait(&a->ring, 1);
    while (rc == -EINTR);
    if (rc < 0) return rc;
    do rc = io_uring_wait_cqe(&a->ring, &e);
    while (rc == -EINTR || rc == -EAGAIN);
    if (rc < 0) return rc;
    rc = e->res < 0 ? e->res : 0;
    io_uring_cqe_seen(&a->ring, e);
    return rc;
}

static void release(bsi_ahead *a) {
    if (a->memory) munmap(a->memory, SLOTS * SLOT_BYTES);
    pthread_cond_destroy(&a->given);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

static bsi_ahead *refuse(bsi_ahead *a, int why) {
    release(a);
    warn_once(-why);
    return NULL;
}

bsi_ahead *bsi_ahead_open(const bsi_ahead_part *part, size_t count, bool direct) {
    if (!count) return NULL;
    bsi_ahead *a = bsi_calloc(1, sizeof *a);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->given, NULL);
    a->part = part;
    a->count = count;
    a->direct = direct;
    int rc = io_uring_queue_init(SLOTS, &a->ring, 0);
    if (rc < 0) return refuse(a, rc);
    a->memory = mmap(NULL, SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a->memory == MAP_FAILED) a->memory = NULL;
    else madvise(a->memory, SLOTS * SLOT_BYTES, MADV_HUGEPAGE); /* an error means less speed */
    rc = a->memory ? probe(a) : -ENOMEM;
    if (rc < 0) {
        io_uring_queue_exit(&a->ring);
        return refuse(a, rc);
    }
    for (unsigned s = 0; s < SLOTS; s++) a->idle[s] = (uint8_t)(SLOTS - 1 - s);
    a->idle_count = SLOTS;
    submit(a);
    return a;
}

void bsi_ahead_close(bsi_ahead *a) {
    if (!a) return;
    struct io_uring_cqe *e;
    while (a->sent) { /* the kernel may still write to our buffers */
        if (io_uring_wait_cqe(&a->ring, &e) < 0) continue;
        io_uring_cqe_seen(&a->ring, e);
        a->sent--;
    }
    io_uring_queue_exit(&a->ring);
    release(a);
}
