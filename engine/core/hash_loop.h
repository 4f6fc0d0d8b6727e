/* core/hash_loop.h - XXH3 over long inputs. Included once by each variant, which names HASH_64, HASH_128 and HASH_128_SECRET.
 *
 * XXH3 takes 64 bytes at a time; how wide the registers are that do so is decided by the flags of the file that includes
 * this. The hashes are the same. A block of a snapshot has 1 to 2 kB: with 16-byte registers hashing it took as long as
 * reading it from the page cache, with 64-byte ones a third of that.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/hash_inner.h"

/* gcc 12 leaves the upper halves of the registers dirty here: the next SSE instruction of the caller then waits for them. */
#if defined(__AVX__)
#define CLEAN_UP() __builtin_ia32_vzeroupper()
#else
#define CLEAN_UP() ((void)0)
#endif

uint64_t HASH_64(const void *p, size_t n) {
    uint64_t h = XXH3_64bits(p, n);
    CLEAN_UP();
    return h;
}

bsi_hash128 HASH_128(const void *p, size_t n) {
    XXH128_hash_t h = XXH3_128bits(p, n);
    CLEAN_UP();
    return (bsi_hash128){h.low64, h.high64};
}

bsi_hash128 HASH_128_SECRET(const void *p, size_t n, const bsi_secret *s) {
    XXH128_hash_t h = XXH3_128bits_withSecret(p, n, s->bytes, sizeof s->bytes);
    CLEAN_UP();
    return (bsi_hash128){h.low64, h.high64};
}
