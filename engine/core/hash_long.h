/* core/hash_long.h - XXH3 of more than 240 bytes, compiled for one instruction set: include with HASH_NAME(x) defined.
 *
 * The result is the same on all of them; wider instructions take a quarter to a half of the time. Below 241 bytes XXH3
 * uses none of them, and a call would cost more than it saves.
 */
#include "core/hash_inner.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* xxhash.h sets optimize pragmas, after which gcc forgets this: what comes next would crawl. */
#ifdef __AVX__
#define LEAVE_WIDE() _mm256_zeroupper()
#else
#define LEAVE_WIDE() ((void)0)
#endif

static uint64_t long64(const void *p, size_t n) {
    uint64_t h = XXH3_64bits(p, n);
    LEAVE_WIDE();
    return h;
}
static uint64_t long64_secret(const void *p, size_t n, const bsi_secret *s) {
    uint64_t h = XXH3_64bits_withSecret(p, n, s->bytes, sizeof s->bytes);
    LEAVE_WIDE();
    return h;
}
static bsi_hash128 long128(const void *p, size_t n) {
    XXH128_hash_t h = XXH3_128bits(p, n);
    LEAVE_WIDE();
    return (bsi_hash128){h.low64, h.high64};
}
static bsi_hash128 long128_secret(const void *p, size_t n, const bsi_secret *s) {
    XXH128_hash_t h = XXH3_128bits_withSecret(p, n, s->bytes, sizeof s->bytes);
    LEAVE_WIDE();
    return (bsi_hash128){h.low64, h.high64};
}

const bsi_hash_long HASH_NAME = {long64, long64_secret, long128, long128_secret};
