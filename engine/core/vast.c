/* core/vast.c - see vast.h.
 *
 * A first load of a hundred million records has a list of eight million blocks, a snapshot that was changed all over lists of
 * blocks, rows, changes and edits; each is made, gone through once or twice, and dropped. They are plain arrays to those who use
 * them. So what spills is not the list but its memory: a mapped file that has no name any more. The system writes its pages
 * out when it needs room, and never if the list is dropped before.
 *
 *   bsi_vast_realloc   memory ──(all lists together would pass the limit)──> file ──fallocate, mremap──> longer file
 *
 * Room in the file is asked for in advance (fallocate): a page for which there is none would be a SIGBUS. Where tmp has no
 * room, or cannot tell, the list stays in memory.
 *
 * Tried and dropped: a list type of its own, in pieces of which some are in the file (each loop that goes through a list would
 * have to ask for pieces, to save page tables).
 */
#include "core/vast.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, LEAST_MOST = 1 << 20, LEAST_SHARE = 32 };

typedef struct mapped {
    uint8_t *p;
    size_t bytes;
    int fd;
} mapped;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards `file`, `count`, `cap`, `tmp`; a leaf */
static mapped *file;
static size_t count, cap;
static char *tmp;
static atomic_ullong limit = BSI_VAST_NO_LIMIT, whole, in_files; /* whole: of the process, see vast.h */
static atomic_llong held;                                       /* bytes of lists in memory that count */
static atomic_size_t least = SIZE_MAX;                          /* smaller ones do not */
static atomic_bool any;                                         /* a list was ever mapped */

void bsi_vast_limit(uint64_t bytes, uint64_t private_bytes, const char *dir) {
    pthread_mutex_lock(&lock);
    free(tmp);
    tmp = dir ? bsi_strdup(dir) : NULL;
    pthread_mutex_unlock(&lock);
    uint64_t some = BSI_MAX(bytes / LEAST_SHARE, (uint64_t)PAGE);
    atomic_store(&held, 0);
    atomic_store(&least, bytes == BSI_VAST_NO_LIMIT ? SIZE_MAX : (size_t)BSI_MIN(some, (uint64_t)LEAST_MOST));
    atomic_store(&limit, bytes);
    atomic_store(&whole, private_bytes);
}

uint64_t bsi_vast_mapped(void) { return atomic_load(&in_files); }

/* ---- the files ---- */

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) & ~(size_t)(PAGE - 1); }

static int new_file(size_t bytes) {
    pthread_mutex_lock(&lock);
    int fd = tmp ? bsi_temp_open(tmp) : -1;
    pthread_mutex_unlock(&lock);
    if (fd >= 0 && fallocate(fd, 0, 0, (off_t)bytes)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* NULL: it must stay in memory. */
static void *map_new(size_t bytes) {
    bytes = whole_pages(bytes);
    int fd = new_file(bytes);
    if (fd < 0) return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        close(fd);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    if (count == cap) file = bsi_realloc(file, (cap = cap ? cap * 2 : 16) * sizeof *file);
    file[count++] = (mapped){p, bytes, fd};
    pthread_mutex_unlock(&lock);
    atomic_store(&any, true);
    atomic_fetch_add(&in_files, bytes);
    return p;
}

/* Takes the file of p out of the table, if it has one. */
static bool take(mapped *out, const void *p) {
    bool found = false;
    if (!p || !atomic_load_explicit(&any, memory_order_relaxed)) return false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count && !found; i++) {
        if (file[i].p != p) continue;
        *out = file[i];
        file[i] = file[--count];
        found = true;
    }
    if (!count) { /* nothing is left behind */
        free(file);
        file = NULL;
        cap = 0;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static void put_back(mapped m) {
    pthread_mutex_lock(&lock);
    if (count == cap) file = bsi_realloc(file, (cap = cap ? cap * 2 : 16) * sizeof *file);
    file[count++] = m;
    pthread_mutex_unlock(&lock);
}

static void drop(mapped m) {
    munmap(m.p, m.bytes);
    close(m.fd);
    atomic_fetch_sub(&in_files, m.bytes);
}

/* What is cut off is not written out any more. */
static bool resize(mapped *m, size_t bytes) {
    bytes = BSI_MAX(whole_pages(bytes), (size_t)PAGE);
    if (bytes > m->bytes && fallocate(m->fd, 0, (off_t)m->bytes, (off_t)(bytes - m->bytes))) return false;
    void *p = mremap(m->p, m->bytes, bytes, MREMAP_MAYMOVE);
    if (p == MAP_FAILED) return false;
    if (bytes < m->bytes && ftruncate(m->fd, (off_t)bytes)) {} /* then it stays longer */
    atomic_fetch_add(&in_files, bytes);
    atomic_fetch_sub(&in_files, m->bytes);
    m->p = p;
    m->bytes = bytes;
    return true;
}

/* ---- memory ---- */

static size_t counts(void *p) {
    size_t bytes = atomic_load_explicit(&limit, memory_order_relaxed) != BSI_VAST_NO_LIMIT ? malloc_usable_size(p) : 0; /* 0 of NULL */
    return bytes >= atomic_load_explicit(&least, memory_order_relaxed) ? bytes : 0;
}

static void *counted(void *p) {
    atomic_fetch_add_explicit(&held, (long long)counts(p), memory_order_relaxed);
    return p;
}

/* Would a list of so many bytes be too much, if `was` bytes of those that are held go? */
static bool too_much(size_t bytes, size_t was) {
    if (bytes < atomic_load_explicit(&least, memory_order_relaxed)) return false;
    long long others = atomic_load_explicit(&held, memory_order_relaxed) - (long long)was;
    uint64_t all = (uint64_t)BSI_MAX(others, 0LL) + bytes, most = atomic_load_explicit(&limit, memory_order_relaxed);
    if (all <= most) return false;
    return all > most + most / 2 || bsi_private_bytes() + bytes - was > atomic_load_explicit(&whole, memory_order_relaxed);
}

void *bsi_vast_alloc(size_t bytes) {
    void *p = too_much(bytes, 0) ? map_new(bytes) : NULL;
    return p ? p : counted(bsi_alloc(bytes));
}

void *bsi_vast_calloc(size_t n, size_t size) {
    void *p = size && n <= SIZE_MAX / size && too_much(n * size, 0) ? map_new(n * size) : NULL; /* a new file reads as zeros */
    return p ? p : counted(bsi_calloc(n, size));
}

static void *resize_mapped(mapped m, size_t bytes) {
    if (resize(&m, bytes)) {
        put_back(m);
        return m.p;
    }
    void *p = counted(bsi_alloc(bytes)); /* no room any more */
    memcpy(p, m.p, BSI_MIN(m.bytes, bytes));
    drop(m);
    return p;
}

void *bsi_vast_realloc(void *old, size_t bytes) {
    mapped m;
    if (take(&m, old)) return resize_mapped(m, bytes);
    size_t was = counts(old);
    void *p = bytes > was && too_much(bytes, was) ? map_new(bytes) : NULL;
    if (p && old) memcpy(p, old, BSI_MIN(malloc_usable_size(old), bytes));
    if (p) free(old);
    else p = counted(bsi_realloc(old, bytes));
    atomic_fetch_sub_explicit(&held, (long long)was, memory_order_relaxed);
    return p;
}

void bsi_vast_free(void *p) {
    mapped m;
    if (take(&m, p)) {
        drop(m);
        return;
    }
    atomic_fetch_sub_explicit(&held, (long long)counts(p), memory_order_relaxed);
    free(p);
}

/* ---- sorting ---- */

enum { SORTED_BYTES = 8 << 20 }; /* of the list at once, by qsort */

typedef struct sorter {
    uint8_t *from, *to;
    size_t size;
    int (*order)(const void *, const void *);
} sorter;

/* Two stretches that stand side by side to one. Of equal ones the left goes first. */
static void merge(const sorter *s, size_t first, size_t middle, size_t end) {
    const uint8_t *a = s->from + first * s->size, *b = s->from + middle * s->size, *a_end = b, *b_end = s->from + end * s->size;
    uint8_t *to = s->to + first * s->size;
    if (a < a_end && b < b_end && s->order(b - s->size, b) > 0) /* else they are in order as they stand */
        while (a < a_end && b < b_end) {
            const uint8_t **next = s->order(a, b) <= 0 ? &a : &b;
            memcpy(to, *next, s->size);
            *next += s->size;
            to += s->size;
        }
    memcpy(to, a, (size_t)(a_end - a));
    memcpy(to + (a_end - a), b, (size_t)(b_end - b));
}

void bsi_vast_sort(void *base, size_t n, size_t size, int (*order)(const void *, const void *)) {
    size_t width = SORTED_BYTES / size;
    for (size_t i = 0; i < n; i += width) qsort((uint8_t *)base + i * size, BSI_MIN(width, n - i), size, order);
    if (n <= width) return;
    void *other = bsi_vast_alloc(n * size);
    sorter s = {base, other, size, order};
    for (; width < n; width *= 2) {
        for (size_t i = 0; i < n; i += 2 * width) merge(&s, i, BSI_MIN(i + width, n), BSI_MIN(i + 2 * width, n));
        uint8_t *sorted = s.to;
        s.to = s.from;
        s.from = sorted;
    }
    if (s.from != base) memcpy(base, s.from, n * size);
    bsi_vast_free(other);
}

size_t bsi_vast_unique(uint64_t *v, size_t n) {
    size_t kept = 0;
    bsi_sort(v, n, sizeof *v, bsi_by_u64);
    for (size_t i = 0; i < n; i++)
        if (!kept || v[kept - 1] != v[i]) v[kept++] = v[i];
    return kept;
}
