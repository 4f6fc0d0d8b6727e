/* core/base.h - mechanism every stage uses: errors, growable bytes, varints, hashes, threads, time.
 *
 * Nothing here knows what a record is.
 */
#ifndef BSI_CORE_BASE_H
#define BSI_CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bomsync/status.h"

#define BSI_MIN(a, b) ((a) < (b) ? (a) : (b))
#define BSI_MAX(a, b) ((a) > (b) ? (a) : (b))

/** Fill err (may be NULL) and return status. The first error wins: err that is already set stays. */
bomsync_status bsi_fail(bomsync_error *err, bomsync_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/** The same for a failed system call: adds strerror(errnum); ENOSPC, ENOMEM, EDQUOT become BOMSYNC_E_SPACE.
 *  EIO on a full file system is told from a broken disk by statvfs of path (may be NULL). */
bomsync_status bsi_fail_errno(bomsync_error *err, int errnum, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* What an analyzer cannot see from a call: neither ever returns BOMSYNC_OK. (Where they are defined, the name is in brackets.) */
#ifdef __clang_analyzer__
#define bsi_never_ok(call) ({ /* no function: the analyzer goes into five of them at most */ \
    bomsync_status bsi_status = (call); \
    if (bsi_status == BOMSYNC_OK) __builtin_unreachable(); \
    bsi_status; \
})
#define bsi_fail(...) bsi_never_ok(bsi_fail(__VA_ARGS__))
#define bsi_fail_errno(...) bsi_never_ok(bsi_fail_errno(__VA_ARGS__))
#endif
/** Set the hint, if none is set yet. */
void bsi_hint(bomsync_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** Set place, only the members that are not known yet. file, column, value may be NULL; byte, line -1. */
void bsi_at(bomsync_error *err, const char *file, int64_t byte, int64_t line, const char *column, const char *value,
            size_t value_bytes);

/* A build that tells what was not given back at the end. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BSI_LEAKS_ARE_TOLD true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(leak_sanitizer)
#define BSI_LEAKS_ARE_TOLD true
#endif
#endif
#ifndef BSI_LEAKS_ARE_TOLD
#define BSI_LEAKS_ARE_TOLD false
#endif

/* Out of memory ends the run (exit 9) from wherever it is: the store commits at one point only, so dying is safe. */
/* Huge pages cost a run that touches little more than they save: 2 MB are cleared for the first byte of each. small: none
 * from here on, where the system lets a process say so; large: as the allocator asks for them. Any thread. */
void bsi_memory_small(void);
void bsi_memory_large(void);
void *bsi_alloc(size_t bytes);                 /* never NULL */
void *bsi_calloc(size_t count, size_t size);   /* never NULL */
void *bsi_realloc(void *old, size_t bytes);    /* never NULL */
char *bsi_strdup(const char *s);               /* never NULL; free() */
char *bsi_strndup(const char *s, size_t n);
/** printf into a fresh string; free(). */
char *bsi_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/** Memory that is given back all at once; where it becomes much, in files, as lists are (core/vast.h). Zero-initialise. One thread. */
typedef struct bsi_arena {
    struct bsi_arena_chunk *chunk; /* the one that is being filled; behind it the others */
    uint8_t *at;
    size_t left, bytes; /* in the chunk; of all chunks */
} bsi_arena;
void *bsi_arena_take(bsi_arena *a, size_t bytes);       /* aligned to 8 */
void bsi_arena_join(bsi_arena *to, bsi_arena *from);    /* from is empty then */
void bsi_arena_free(bsi_arena *a);

/** Growable bytes. Zero-initialise; bsi_buf_free ends it. data is owned by the buffer, valid until it grows. */
typedef struct bsi_buf {
    uint8_t *data;
    size_t len, cap;
} bsi_buf;
void bsi_buf_reserve(bsi_buf *b, size_t extra);
void bsi_buf_add(bsi_buf *b, const void *p, size_t n);
void bsi_buf_addf(bsi_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void bsi_buf_free(bsi_buf *b);
static inline void bsi_buf_byte(bsi_buf *b, uint8_t c) {
    if (b->len == b->cap) bsi_buf_reserve(b, 1);
    b->data[b->len++] = c;
}
static inline void bsi_buf_str(bsi_buf *b, const char *s) { bsi_buf_add(b, s, strlen(s)); }

/* LEB128. put: out must have 10 bytes. get: returns the byte after, NULL if cut off by end. */
static inline uint8_t *bsi_varint_put(uint8_t *out, uint64_t v) {
    while (v >= 128) {
        *out++ = (uint8_t)(v | 128);
        v >>= 7;
    }
    *out++ = (uint8_t)v;
    return out;
}
static inline const uint8_t *bsi_varint_get(const uint8_t *p, const uint8_t *end, uint64_t *v) {
    uint64_t r = 0;
    for (unsigned shift = 0; p < end && shift < 64; shift += 7) {
        uint8_t c = *p++;
        r |= (uint64_t)(c & 127) << shift;
        if (c < 128) {
            *v = r;
            return p;
        }
    }
    return NULL;
}
void bsi_buf_varint(bsi_buf *b, uint64_t v);
void bsi_buf_lstr(bsi_buf *b, const void *p, size_t n); /* varint length, bytes */

/* XXH3. low64/high64 are XXH3's own words. */
typedef struct bsi_hash128 {
    uint64_t lo, hi;
} bsi_hash128;
static inline bool bsi_hash128_eq(bsi_hash128 a, bsi_hash128 b) { return a.lo == b.lo && a.hi == b.hi; }
/** The store's own 192 random bytes; all hashes that identify content use them. */
typedef struct bsi_secret {
    uint8_t bytes[192];
} bsi_secret;
uint64_t bsi_xxh64(const void *p, size_t n);                                  /* XXH3-64, unseeded */
bsi_hash128 bsi_xxh128(const void *p, size_t n);                              /* XXH3-128, unseeded */
uint64_t bsi_xxh64_secret(const void *p, size_t n, const bsi_secret *s);
bsi_hash128 bsi_xxh128_secret(const void *p, size_t n, const bsi_secret *s);
/* Instructions for what is longer than a few lines; without a call the best of this machine. The hashes are the same. */
typedef enum bsi_hash_isa { BSI_HASH_SCALAR, BSI_HASH_AVX2, BSI_HASH_AVX512, BSI_HASH_BEST = BSI_HASH_AVX512 } bsi_hash_isa;
void bsi_hash_use(bsi_hash_isa isa); /* what cannot run here is not used. Any thread */
void bsi_hash128_hex(char out[33], bsi_hash128 h);                            /* canonical byte order, lower case */

/* SHA-256, by libcrypto (sha.c). */
typedef struct bsi_sha bsi_sha;
bsi_sha *bsi_sha_open(void);
void bsi_sha_add(bsi_sha *s, const void *p, size_t n);
void bsi_sha_close(bsi_sha *s, uint8_t out[32]); /* frees s */
void bsi_sha_once(const void *p, size_t n, uint8_t out[32]);
void bsi_hex(char *out, const uint8_t *p, size_t n); /* 2n chars and NUL */

/** JSON string with quotes; escapes \" \\ \b \f \n \r \t, other controls \u00xx; the rest as it is. */
void bsi_json_string(bsi_buf *b, const void *p, size_t n);

/* Time. RFC 3339, UTC, seconds: "2026-11-24T02:00:00Z". */
int64_t bsi_now_ns(void);                                  /* monotonic */
void bsi_time_format(char out[21], int64_t unix_seconds);
bool bsi_time_parse(const char *s, int64_t *unix_seconds); /* RFC 3339 with Z or offset, or a date alone */

/* Sets of numbers, one bit each. */
static inline bool bsi_bit_has(const uint64_t *bits, uint64_t i) { return bits[i >> 6] >> (i & 63) & 1; }
static inline void bsi_bit_set(uint64_t *bits, uint64_t i) { bits[i >> 6] |= 1ull << (i & 63); }

/** qsort, which may not be given NULL; what is in order already, as most lists here are, costs one look. */
void bsi_sort(void *base, size_t count, size_t size, int (*order)(const void *, const void *));
/** The order of lists of uint64_t: hashes, places, ids. */
int bsi_by_u64(const void *a, const void *b);
/** Is x in such a list? NULL is fine for an empty one. */
bool bsi_u64_has(const uint64_t *sorted, size_t count, uint64_t x);
size_t bsi_u64_first(const uint64_t *sorted, size_t count, uint64_t least); /* where the first one that is not less stands; count: none */

/** Line ends in p[0..n): LF, CRLF, or a lone CR. *cr: the byte in front of p is a CR; then the same of the last one. */
int64_t bsi_line_ends(bool *cr, const uint8_t *p, size_t n);

/** Run fn(ctx, i) for i in [0, count) on up to workers threads; returns when all are done.
 *  fn must not fail silently: it keeps its status in ctx. workers <= 1 runs inline, in order. */
void bsi_parallel(int workers, size_t count, void (*fn)(void *ctx, size_t index), void *ctx);
/** Threads of bsi_parallel stay until as many calls of close have come, so that the next loop need not make them. Any thread. */
void bsi_pool_open(void);
void bsi_pool_close(void);
/** Inside fn: a number below the run's workers that no other thread of the run has. */
int bsi_lane(void);
int bsi_usable_cores(void);

/** Bytes in anonymous pages now: what the program itself takes. Mapped pages of the store belong to the page cache. 0: not known. */
uint64_t bsi_private_bytes(void);
/** Memory that was freed goes back to the system now. Costs a call for each stretch of it; worth it after tens of megabytes. */
void bsi_memory_give_back(void);

/* Files. All paths are bytes. */
/** Has the kernel bring a file of at most `most` bytes into the page cache, if much of it is not there. Does not wait for it. */
void bsi_file_expect(const char *path, uint64_t most);
/** Is at least an eighth of the file not in the page cache? A few system calls, no reading. */
bool bsi_file_cold(int fd, uint64_t size);
bomsync_status bsi_fsync_path(const char *path, bomsync_error *err); /* file or folder */
bomsync_status bsi_mkdirs(const char *path, bomsync_error *err);      /* mode 0700 */
bomsync_status bsi_remove_tree(const char *path, bomsync_error *err); /* no links followed; absent is fine */
bomsync_status bsi_write_file(const char *path, const void *p, size_t n, bomsync_error *err); /* 0600, O_EXCL, fsynced */
/** Files without a name, for what does not fit into memory. The folder is $TMPDIR or /tmp where nobody names one; -1 and errno: none could be made. */
const char *bsi_temp_folder(void);
int bsi_temp_open(const char *folder);
/** All n bytes at a place. The folder is named where it went wrong. Any thread. */
bomsync_status bsi_temp_write(int fd, const void *p, size_t n, uint64_t at, const char *folder, bomsync_error *err);
bomsync_status bsi_temp_read(int fd, void *p, size_t n, uint64_t at, bomsync_error *err);
bomsync_status bsi_read_file(bsi_buf *out, const char *path, size_t max, bomsync_error *err);

#endif
