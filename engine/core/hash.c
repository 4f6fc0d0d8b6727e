/* core/hash.c - XXH3 for content, SHA-256 for what people and other programs compare.
 *
 * XXH3 is compiled in (header only), so that short row images are hashed without a call through a table. Long inputs go to
 * the widest registers of this machine (hash_loop.h).
 */
#include "core/hash_inner.h"

#include <stdatomic.h>

#define XXH_INLINE_ALL
#include <openssl/evp.h>
#include <stdlib.h>
#include <xxhash.h>

/* Up to this length XXH3 has no vectors: those are hashed here, without a call through the table. */
enum { SHORT_BYTES = 240 };

typedef struct variant {
    uint64_t (*h64)(const void *p, size_t n);
    bsi_hash128 (*h128)(const void *p, size_t n);
    bsi_hash128 (*h128_secret)(const void *p, size_t n, const bsi_secret *s);
} variant;

static const variant variants[] = {
    {bsi_hash_64_scalar, bsi_hash_128_scalar, bsi_hash_128_secret_scalar},
#if defined(__x86_64__)
    {bsi_hash_64_avx2, bsi_hash_128_avx2, bsi_hash_128_secret_avx2},
    {bsi_hash_64_avx512, bsi_hash_128_avx512, bsi_hash_128_secret_avx512},
#endif
};
static _Atomic(const variant *) chosen;

static const variant *best(void) {
    size_t i = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    i = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq")
            ? 2
            : __builtin_cpu_supports("avx2") ? 1 : 0;
#endif
    atomic_store_explicit(&chosen, &variants[i], memory_order_relaxed);
    return &variants[i];
}

static inline const variant *use(void) {
    const variant *v = atomic_load_explicit(&chosen, memory_order_relaxed);
    return v ? v : best();
}

void bsi_hash_use_isa(int isa) {
    size_t most = sizeof variants / sizeof *variants - 1;
    atomic_store_explicit(&chosen, &variants[BSI_MIN((size_t)isa, most)], memory_order_relaxed);
}

uint64_t bsi_xxh64(const void *p, size_t n) { return n <= SHORT_BYTES ? XXH3_64bits(p, n) : use()->h64(p, n); }

bsi_hash128 bsi_xxh128(const void *p, size_t n) {
    if (n > SHORT_BYTES) return use()->h128(p, n);
    XXH128_hash_t h = XXH3_128bits(p, n);
    return (bsi_hash128){h.low64, h.high64};
}

bsi_hash128 bsi_xxh128_secret(const void *p, size_t n, const bsi_secret *s) {
    if (n > SHORT_BYTES) return use()->h128_secret(p, n, s);
    XXH128_hash_t h = XXH3_128bits_withSecret(p, n, s->bytes, sizeof s->bytes);
    return (bsi_hash128){h.low64, h.high64};
}

uint64_t bsi_xxh64_secret(const void *p, size_t n, const bsi_secret *s) {
    return XXH3_64bits_withSecret(p, n, s->bytes, sizeof s->bytes);
}

void bsi_hash128_hex(char out[33], bsi_hash128 h) {
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, (XXH128_hash_t){h.lo, h.hi});
    bsi_hex(out, c.digest, sizeof c.digest);
}

struct bsi_sha {
    EVP_MD_CTX *ctx;
};

bsi_sha *bsi_sha_open(void) {
    bsi_sha *s = bsi_alloc(sizeof *s);
    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) != 1) abort();
    return s;
}

void bsi_sha_add(bsi_sha *s, const void *p, size_t n) {
    if (EVP_DigestUpdate(s->ctx, p, n) != 1) abort();
}

void bsi_sha_close(bsi_sha *s, uint8_t out[32]) {
    if (EVP_DigestFinal_ex(s->ctx, out, NULL) != 1) abort();
    EVP_MD_CTX_free(s->ctx);
    free(s);
}

void bsi_sha_once(const void *p, size_t n, uint8_t out[32]) {
    bsi_sha *s = bsi_sha_open();
    bsi_sha_add(s, p, n);
    bsi_sha_close(s, out);
}
