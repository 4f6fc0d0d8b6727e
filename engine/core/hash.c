/* core/hash.c - XXH3, for content; SHA-256 stands in sha.c.
 *
 * XXH3 is compiled in (header only), so that short row images are hashed without a call through a table. Blocks and
 * pages are long: they take the widest instructions that this machine has (hash_long.h).
 */
#include "core/cpu.h"
#include "core/hash_inner.h"

#define XXH_INLINE_ALL
#include <stdatomic.h>
#include <xxhash.h>

#define SHORT_BYTES 240 /* XXH3_MIDSIZE_MAX: up to here it uses no vectors */

static _Atomic(const bsi_hash_long *) chosen = &bsi_hash_scalar;

static inline const bsi_hash_long *wide(void) { return atomic_load_explicit(&chosen, memory_order_relaxed); }

void bsi_hash_use(bsi_hash_isa isa) {
    const bsi_hash_long *best = &bsi_hash_scalar;
#if defined(__x86_64__)
    int here = BSI_MIN((int)isa, bsi_cpu_best());
    if (here >= BSI_CPU_AVX512) best = &bsi_hash_avx512;
    else if (here >= BSI_CPU_AVX2) best = &bsi_hash_avx2;
#else
    (void)isa;
#endif
    atomic_store(&chosen, best);
}

/* Before main, and so before any thread. */
__attribute__((constructor)) static void choose(void) { bsi_hash_use(BSI_HASH_BEST); }

uint64_t bsi_xxh64(const void *p, size_t n) { return n > SHORT_BYTES ? wide()->h64(p, n) : XXH3_64bits(p, n); }

bsi_hash128 bsi_xxh128(const void *p, size_t n) {
    if (n > SHORT_BYTES) return wide()->h128(p, n);
    XXH128_hash_t h = XXH3_128bits(p, n);
    return (bsi_hash128){h.low64, h.high64};
}

uint64_t bsi_xxh64_secret(const void *p, size_t n, const bsi_secret *s) {
    return n > SHORT_BYTES ? wide()->h64_secret(p, n, s) : XXH3_64bits_withSecret(p, n, s->bytes, sizeof s->bytes);
}

bsi_hash128 bsi_xxh128_secret(const void *p, size_t n, const bsi_secret *s) {
    if (n > SHORT_BYTES) return wide()->h128_secret(p, n, s);
    XXH128_hash_t h = XXH3_128bits_withSecret(p, n, s->bytes, sizeof s->bytes);
    return (bsi_hash128){h.low64, h.high64};
}

void bsi_hash128_hex(char out[33], bsi_hash128 h) {
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, (XXH128_hash_t){h.lo, h.hi});
    bsi_hex(out, c.digest, sizeof c.digest);
}
