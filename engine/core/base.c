/* core/base.c - errors, growable bytes, time, threads. See base.h for the contracts.
 *
 * Out of memory ends the process with exit 9 wherever it strikes. The store has one commit point, so that is safe,
 * and every caller is spared a path that no test would ever walk.
 */
#include "core/base.h"
#include "core/vast.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static _Noreturn void out_of_memory(size_t bytes) {
    char text[96];
    int n = snprintf(text, sizeof text, "bomsync: error: out of memory (%zu bytes); nothing was changed\n", bytes);
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0) _exit(BOMSYNC_E_SPACE);
    _exit(BOMSYNC_E_SPACE);
}

static atomic_bool held_small;

void bsi_memory_small(void) {
    if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0) atomic_store(&held_small, true);
}

void bsi_memory_large(void) {
    if (atomic_load_explicit(&held_small, memory_order_relaxed) && atomic_exchange(&held_small, false)) prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

void *bsi_alloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

void *bsi_calloc(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) out_of_memory(count * size);
    return p;
}

void *bsi_realloc(void *old, size_t bytes) {
    void *p = realloc(old, bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

char *bsi_strndup(const char *s, size_t n) {
    char *p = bsi_alloc(n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

struct bsi_arena_chunk {
    struct bsi_arena_chunk *next;
};
enum { ARENA_BYTES = 256 << 10, ARENA_BYTES_MOST = 4 << 20 };

void *bsi_arena_take(bsi_arena *a, size_t bytes) {
    bytes = (bytes + 7) & ~(size_t)7;
    if (bytes > a->left) {
        size_t size = BSI_MAX(bytes + sizeof(struct bsi_arena_chunk), BSI_MIN(BSI_MAX(a->bytes / 4, (size_t)ARENA_BYTES), (size_t)ARENA_BYTES_MOST));
        struct bsi_arena_chunk *c = bsi_vast_alloc(size);
        a->bytes += size;
        c->next = a->chunk;
        a->chunk = c;
        a->at = (uint8_t *)(c + 1);
        a->left = size - sizeof *c;
    }
    void *p = a->at;
    a->at += bytes;
    a->left -= bytes;
    return p;
}

void bsi_arena_join(bsi_arena *to, bsi_arena *from) {
    struct bsi_arena_chunk **end = &from->chunk;
    while (*end) end = &(*end)->next;
    *end = to->chunk;
    to->chunk = from->chunk;
    to->bytes += from->bytes;
    to->left = 0;
    *from = (bsi_arena){0};
}

void bsi_arena_free(bsi_arena *a) {
    for (struct bsi_arena_chunk *c = a->chunk, *next; c; c = next) {
        next = c->next;
        bsi_vast_free(c);
    }
    *a = (bsi_arena){0};
}

char *bsi_strdup(const char *s) { return bsi_strndup(s, strlen(s)); }

char *bsi_format(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *out = NULL;
    if (vasprintf(&out, fmt, ap) < 0) out_of_memory(0);
    va_end(ap);
    return out;
}

/* ---- errors ---- */

static void copy_text(char *out, size_t size, const char *s, size_t n) {
    if (n > size - 1) n = size - 1;
    memcpy(out, s, n);
    out[n] = 0;
}

bomsync_status (bsi_fail)(bomsync_error *err, bomsync_status status, const char *fmt, ...) {
    if (err && err->status == BOMSYNC_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
        err->status = status;
    }
    return status;
}

bomsync_status (bsi_fail_errno)(bomsync_error *err, int errnum, const char *path, const char *fmt, ...) {
    bool space = errnum == ENOSPC || errnum == ENOMEM || errnum == EDQUOT;
    if (errnum == EIO && path) {
        /* a full thin or quota file system answers EIO as well */
        extern bool bsi_disk_full(const char *path);
        space = bsi_disk_full(path);
        if (space) errnum = ENOSPC;
    }
    bomsync_status status = space ? BOMSYNC_E_SPACE : BOMSYNC_E_USAGE;
    if (errnum == EIO) status = BOMSYNC_E_INTEGRITY;
    if (err && err->status == BOMSYNC_OK) {
        char text[400];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        snprintf(err->message, sizeof err->message, "%.380s: %s", text, strerror(errnum));
        err->status = status;
        if (space) bsi_hint(err, "make space and run again; nothing was changed");
    }
    return status;
}

void bsi_hint(bomsync_error *err, const char *fmt, ...) {
    if (!err || err->hint[0]) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->hint, sizeof err->hint, fmt, ap);
    va_end(ap);
}

void bsi_at(bomsync_error *err, const char *file, int64_t byte, int64_t line, const char *column, const char *value,
            size_t value_bytes) {
    if (!err) return;
    if (file && !err->file[0]) copy_text(err->file, sizeof err->file, file, strlen(file));
    if (byte >= 0 && err->byte < 0) err->byte = byte;
    if (line >= 0 && err->line < 0) err->line = line;
    if (column && !err->column[0]) copy_text(err->column, sizeof err->column, column, strlen(column));
    if (value && !err->value[0]) copy_text(err->value, 101, value, value_bytes);
}

/* ---- growable bytes ---- */

void bsi_buf_reserve(bsi_buf *b, size_t extra) {
    if (b->cap - b->len >= extra) return;
    size_t cap = BSI_MAX(b->cap * 2, b->len + extra);
    cap = BSI_MAX(cap, (size_t)64);
    b->data = bsi_realloc(b->data, cap);
    b->cap = cap;
}

void bsi_buf_add(bsi_buf *b, const void *p, size_t n) {
    if (!n) return;
    bsi_buf_reserve(b, n);
    memcpy(b->data + b->len, p, n);
    b->len += n;
}

void bsi_buf_addf(bsi_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n > 0) {
        bsi_buf_reserve(b, (size_t)n + 1);
        vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void bsi_buf_free(bsi_buf *b) {
    free(b->data);
    *b = (bsi_buf){0};
}

void bsi_buf_varint(bsi_buf *b, uint64_t v) {
    bsi_buf_reserve(b, 10);
    b->len = (size_t)(bsi_varint_put(b->data + b->len, v) - b->data);
}

void bsi_buf_lstr(bsi_buf *b, const void *p, size_t n) {
    bsi_buf_varint(b, n);
    bsi_buf_add(b, p, n);
}

void bsi_json_string(bsi_buf *b, const void *p, size_t n) {
    static const char hex[] = "0123456789abcdef";
    const uint8_t *s = p;
    bsi_buf_reserve(b, n + 2);
    bsi_buf_byte(b, '"');
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = s[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        bsi_buf_add(b, s + from, i - from);
        from = i + 1;
        const char *known = "\"\\\b\f\n\r\t", *as = "\"\\bfnrt";
        const char *at = c ? strchr(known, c) : NULL;
        bsi_buf_byte(b, '\\');
        if (at) {
            bsi_buf_byte(b, (uint8_t)as[at - known]);
        } else {
            bsi_buf_add(b, "u00", 3);
            bsi_buf_byte(b, (uint8_t)hex[c >> 4]);
            bsi_buf_byte(b, (uint8_t)hex[c & 15]);
        }
    }
    bsi_buf_add(b, s + from, n - from);
    bsi_buf_byte(b, '"');
}

void bsi_hex(char *out, const uint8_t *p, size_t n) {
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = hex[p[i] >> 4];
        out[2 * i + 1] = hex[p[i] & 15];
    }
    out[2 * n] = 0;
}

/* ---- time ---- */

int64_t bsi_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void bsi_time_format(char out[21], int64_t unix_seconds) {
    time_t t = (time_t)unix_seconds;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || tm.tm_year > 8099 || tm.tm_year < -1900) memset(&tm, 0, sizeof tm);
    unsigned y = (unsigned)(tm.tm_year + 1900) % 10000;
    unsigned part[5] = {(unsigned)(tm.tm_mon + 1) % 100, (unsigned)tm.tm_mday % 100, (unsigned)tm.tm_hour % 100,
                        (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100};
    memcpy(out, "0000-00-00T00:00:00Z", 21);
    for (int i = 3; i >= 0; i--, y /= 10) out[i] = (char)('0' + y % 10);
    for (int i = 0; i < 5; i++) {
        out[5 + 3 * i] = (char)('0' + part[i] / 10);
        out[6 + 3 * i] = (char)('0' + part[i] % 10);
    }
}

static bool two_digits(const char *s, int max, int *v) {
    if (s[0] < '0' || s[0] > '9' || s[1] < '0' || s[1] > '9') return false;
    *v = (s[0] - '0') * 10 + (s[1] - '0');
    return *v <= max;
}

bool bsi_time_parse(const char *s, int64_t *unix_seconds) {
    int y1, y2, mo, d, h = 0, mi = 0, sec = 0, oh = 0, om = 0, sign = 0;
    if (strlen(s) < 10 || !two_digits(s, 99, &y1) || !two_digits(s + 2, 99, &y2) || s[4] != '-' || !two_digits(s + 5, 12, &mo) ||
        s[7] != '-' || !two_digits(s + 8, 31, &d) || mo < 1 || d < 1)
        return false;
    const char *p = s + 10;
    if (*p) {
        if ((*p != 'T' && *p != 't' && *p != ' ') || strlen(p) < 9 || !two_digits(p + 1, 23, &h) || p[3] != ':' ||
            !two_digits(p + 4, 59, &mi) || p[6] != ':' || !two_digits(p + 7, 60, &sec))
            return false;
        p += 9;
        if (*p == '.')
            for (p++; *p >= '0' && *p <= '9';) p++;
        if (*p == 'Z' || *p == 'z') {
            p++;
        } else if (*p == '+' || *p == '-') {
            sign = *p == '+' ? 1 : -1;
            if (strlen(p) < 6 || !two_digits(p + 1, 23, &oh) || p[3] != ':' || !two_digits(p + 4, 59, &om)) return false;
            p += 6;
        } else {
            return false;
        }
        if (*p) return false;
    }
    struct tm tm = {.tm_year = y1 * 100 + y2 - 1900, .tm_mon = mo - 1, .tm_mday = d, .tm_hour = h, .tm_min = mi, .tm_sec = sec};
    struct tm asked = tm;
    time_t t = timegm(&tm);
    if (tm.tm_mday != asked.tm_mday || tm.tm_mon != asked.tm_mon) return false; /* 31 February */
    *unix_seconds = (int64_t)t - sign * (oh * 3600 + om * 60);
    return true;
}

/* ---- threads ---- */

int bsi_usable_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n;
}

enum { LONG_BYTES = 16 << 20 }; /* of lists that qsort would copy */

void bsi_sort(void *base, size_t count, size_t size, int (*order)(const void *, const void *)) {
    const char *p = base;
    for (size_t i = 1; i < count; i++)
        if (order(p + (i - 1) * size, p + i * size) > 0) {
            if (count * size > LONG_BYTES) bsi_vast_sort(base, count, size, order);
            else qsort(base, count, size, order);
            return;
        }
}

int bsi_by_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

bool bsi_u64_has(const uint64_t *sorted, size_t count, uint64_t x) { return count && bsearch(&x, sorted, count, sizeof x, bsi_by_u64) != NULL; }

size_t bsi_u64_first(const uint64_t *sorted, size_t count, uint64_t least) {
    size_t lo = 0;
    while (lo < count) {
        size_t mid = lo + (count - lo) / 2;
        if (sorted[mid] < least) lo = mid + 1;
        else count = mid;
    }
    return lo;
}

/* By memchr: files have one line end in tens of bytes. */
static int64_t count_byte(const uint8_t *p, size_t n, uint8_t byte) {
    int64_t count = 0;
    for (const uint8_t *end = p + n; p < end && (p = memchr(p, byte, (size_t)(end - p))); p++) count++;
    return count;
}

static int64_t count_lone_cr(const uint8_t *p, size_t n) {
    int64_t count = 0;
    for (const uint8_t *end = p + n; p < end && (p = memchr(p, '\r', (size_t)(end - p))); p++) count += p + 1 == end || p[1] != '\n';
    return count;
}

int64_t bsi_line_ends(bool *cr, const uint8_t *p, size_t n) {
    if (!n) return 0;
    int64_t counted = *cr && p[0] == '\n'; /* as the CR in front of it */
    *cr = p[n - 1] == '\r';
    return count_byte(p, n, '\n') + count_lone_cr(p, n) - counted;
}

uint64_t bsi_private_bytes(void) {
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *p = text;
    strtoull(p, &p, 10); /* size resident shared ..., in pages */
    uint64_t resident = strtoull(p, &p, 10), shared = strtoull(p, &p, 10);
    return resident > shared ? (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* jemalloc is linked to the program only, so it may not be there. */
extern int mallctl(const char *name, void *old, size_t *old_bytes, void *value, size_t bytes) __attribute__((weak));

void bsi_memory_give_back(void) {
    if (mallctl) mallctl("arena.4096.purge", NULL, NULL, NULL, 0); /* 4096: all arenas */
    else malloc_trim(0);
}
