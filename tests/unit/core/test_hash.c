/* tests/unit/core/test_hash.c - hashes that identify content are the same on every instruction set. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "core/base.h"

TestSuite(hash, .timeout = 60);

enum { ROOM = 70000 };

static void fill(uint8_t *p, size_t n, uint64_t state) {
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(state >> 56);
    }
}

typedef struct all_hashes {
    uint64_t h64, h64_secret;
    bsi_hash128 h128, h128_secret;
} all_hashes;

static all_hashes hash_all(const uint8_t *p, size_t n, const bsi_secret *s) {
    return (all_hashes){bsi_xxh64(p, n), bsi_xxh64_secret(p, n, s), bsi_xxh128(p, n), bsi_xxh128_secret(p, n, s)};
}

Test(hash, every_instruction_set_gives_the_same_for_any_length_and_place) {
    uint8_t *p = bsi_alloc(ROOM + 64);
    bsi_secret s;
    fill(p, ROOM + 64, 1);
    fill(s.bytes, sizeof s.bytes, 2);
    for (size_t n = 0; n < ROOM; n += n < 3000 ? 1 : 997) {
        const uint8_t *at = p + n % 64;
        bsi_hash_use(BSI_HASH_SCALAR);
        all_hashes want = hash_all(at, n, &s);
        for (int isa = BSI_HASH_AVX2; isa <= BSI_HASH_AVX512; isa++) {
            bsi_hash_use((bsi_hash_isa)isa);
            all_hashes got = hash_all(at, n, &s);
            cr_assert(zero(int, memcmp(&got, &want, sizeof got)), "%zu bytes, %d", n, isa);
        }
    }
    free(p);
}

/* From xxhash's own self test: XXH3 of nothing, and of long inputs through the command line tool. */
Test(hash, unseeded_hashes_are_those_of_xxh3) {
    char hex[33];
    uint8_t zeros[1000] = {0};
    cr_assert(eq(u64, bsi_xxh64("", 0), 0x2D06800538D394C2u));
    bsi_hash128_hex(hex, bsi_xxh128("", 0));
    cr_assert(eq(str, hex, "99aa06d3014798d86001c324468d497f"));
    bsi_hash128_hex(hex, bsi_xxh128(zeros, sizeof zeros));
    cr_assert(eq(str, hex, "3fb94aea6d09b97224c1ea6074dd588c"));
}

static void fips(const char *want, const void *p, size_t n) {
    uint8_t got[32];
    char hex[65];
    bsi_sha_once(p, n, got);
    bsi_hex(hex, got, sizeof got);
    cr_assert(eq(str, hex, (char *)(uintptr_t)want), "%zu bytes", n);
}

/* FIPS 180-4's examples, and those of its test suite. */
Test(hash, sha_256_is_that_of_fips_180_4) {
    char *million = bsi_alloc(1000000);
    memset(million, 'a', 1000000);
    fips("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "", 0);
    fips("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc", 3);
    fips("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    fips("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", million, 1000000);
    free(million);
}

Test(hash, sha_256_of_parts_is_that_of_the_whole_for_any_length) {
    uint8_t p[700], want[32], got[32];
    fill(p, sizeof p, 3);
    for (size_t n = 0; n < sizeof p; n++) {
        bsi_sha_once(p, n, want);
        bsi_sha *s = bsi_sha_open();
        for (size_t at = 0, more; at < n; at += more) {
            more = BSI_MIN(n - at, 1 + (at * 7 + n) % 150);
            bsi_sha_add(s, p + at, more);
        }
        bsi_sha_close(s, got);
        cr_assert(zero(int, memcmp(got, want, sizeof got)), "%zu bytes", n);
    }
}
