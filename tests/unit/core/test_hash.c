/* test_hash.c - the widest registers and the narrowest make the same hashes. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "core/base.h"

enum { LENGTH_MAX = 5000 };

static void fill(uint8_t *p, size_t n, uint64_t x) {
    for (size_t i = 0; i < n; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        p[i] = (uint8_t)(x >> 56);
    }
}

/* Instructions that this machine lacks must not run: the number given is the most that a call may choose. */
static int best_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) return 2;
    if (__builtin_cpu_supports("avx2")) return 1;
#endif
    return 0;
}

Test(hash, every_instruction_set_and_every_length_gives_the_same) {
    uint8_t *p = malloc(LENGTH_MAX + 64);
    bsi_secret secret;
    fill(p, LENGTH_MAX + 64, 1);
    fill(secret.bytes, sizeof secret.bytes, 2);
    int wide = best_isa();
    for (size_t n = 0; n <= LENGTH_MAX; n += n < 1200 ? 1 : 37) {
        const uint8_t *at = p + n % 64;
        bsi_hash_use_isa(0);
        bsi_hash128 plain = bsi_xxh128(at, n), with = bsi_xxh128_secret(at, n, &secret);
        uint64_t h = bsi_xxh64(at, n);
        for (int isa = 1; isa <= wide; isa++) {
            bsi_hash_use_isa(isa);
            bsi_hash128 plain2 = bsi_xxh128(at, n), with2 = bsi_xxh128_secret(at, n, &secret);
            cr_assert(bsi_hash128_eq(plain, plain2), "isa %d, %zu bytes", isa, n);
            cr_assert(bsi_hash128_eq(with, with2), "isa %d, %zu bytes, with secret", isa, n);
            cr_assert(eq(u64, bsi_xxh64(at, n), h), "isa %d, %zu bytes, 64 bits", isa, n);
        }
    }
    free(p);
}

Test(hash, one_changed_bit_of_a_long_input_changes_every_hash) {
    uint8_t p[1500];
    bsi_secret secret;
    fill(p, sizeof p, 3);
    fill(secret.bytes, sizeof secret.bytes, 4);
    bsi_hash128 plain = bsi_xxh128(p, sizeof p), with = bsi_xxh128_secret(p, sizeof p, &secret);
    for (size_t i = 0; i < sizeof p; i += 11) {
        p[i] ^= 4;
        cr_assert(not(bsi_hash128_eq(plain, bsi_xxh128(p, sizeof p))));
        cr_assert(not(bsi_hash128_eq(with, bsi_xxh128_secret(p, sizeof p, &secret))));
        p[i] ^= 4;
    }
}
