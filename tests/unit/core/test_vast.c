/* tests/unit/core/test_vast.c - lists that lie in memory or in a file are the same to who uses them. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>

#include "core/vast.h"

TestSuite(vast, .timeout = 60);

enum { SMALL = 1000, KB = 1024 };

static void fill(uint32_t *v, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) v[i] = (uint32_t)(i * 2654435761u);
}

static bool is_filled(const uint32_t *v, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (v[i] != (uint32_t)(i * 2654435761u)) return false;
    return true;
}

Test(vast, without_a_limit_no_list_goes_to_a_file) {
    uint8_t *p = bsi_vast_alloc(64 << 20);
    cr_assert(zero(u64, bsi_vast_mapped()));
    bsi_vast_free(p);
}

Test(vast, above_the_limit_a_list_lies_in_a_file_and_small_ones_do_not) {
    bsi_vast_limit(1 << 20, 0, "/tmp");
    uint32_t *a = bsi_vast_alloc(900 * KB), *b = bsi_vast_alloc(900 * KB), *c = bsi_vast_alloc(SMALL);
    cr_assert(eq(u64, bsi_vast_mapped(), 900 * KB));
    fill(a, 0, 900 * KB / 4);
    fill(b, 0, 900 * KB / 4);
    cr_assert(is_filled(a, 900 * KB / 4));
    cr_assert(is_filled(b, 900 * KB / 4));
    bsi_vast_free(a);
    cr_assert(eq(u64, bsi_vast_mapped(), 900 * KB));
    bsi_vast_free(b);
    cr_assert(zero(u64, bsi_vast_mapped()));
    a = bsi_vast_alloc(900 * KB); /* there is room again */
    cr_assert(zero(u64, bsi_vast_mapped()));
    bsi_vast_free(a);
    bsi_vast_free(c);
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
}

Test(vast, while_the_process_takes_little_lists_may_take_half_as_much_again) {
    bsi_vast_limit(1 << 20, (uint64_t)1 << 40, "/tmp");
    void *a = bsi_vast_alloc(900 * KB), *b = bsi_vast_alloc(500 * KB);
    cr_assert(zero(u64, bsi_vast_mapped()));
    void *c = bsi_vast_alloc(500 * KB);
    cr_assert(eq(u64, bsi_vast_mapped(), 500 * KB));
    bsi_vast_free(a);
    bsi_vast_free(b);
    bsi_vast_free(c);
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
}

Test(vast, a_list_that_grows_moves_into_a_file_and_keeps_what_is_in_it) {
    bsi_vast_limit(256 * KB, 0, "/tmp");
    uint32_t *v = NULL;
    size_t n = 0, cap = 0;
    for (; n < 1 << 20; n++) {
        if (n == cap) v = bsi_vast_realloc(v, (cap = cap ? cap * 2 : 16) * sizeof *v);
        fill(v, n, n + 1);
    }
    cr_assert(eq(u64, bsi_vast_mapped(), (uint64_t)cap * sizeof *v));
    cr_assert(is_filled(v, n));
    v = bsi_vast_realloc(v, 5000 * sizeof *v); /* shorter: it stays there */
    cr_assert(is_filled(v, 5000));
    cr_assert(eq(u64, bsi_vast_mapped(), 20 * KB));
    v = bsi_vast_realloc(v, 100000 * sizeof *v);
    cr_assert(is_filled(v, 5000));
    bsi_vast_free(v);
    cr_assert(zero(u64, bsi_vast_mapped()));
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
}

Test(vast, a_cleared_list_reads_as_zeros) {
    bsi_vast_limit(0, 0, "/tmp");
    uint8_t *p = bsi_vast_calloc(10000, 3);
    cr_assert(gt(u64, bsi_vast_mapped(), 0));
    for (size_t i = 0; i < 30000; i++) cr_assert(zero(u8, p[i]));
    bsi_vast_free(p);
    bsi_vast_free(NULL);
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
}

Test(vast, without_room_for_a_file_a_list_stays_in_memory) {
    bsi_vast_limit(0, 0, "/nowhere/at/all");
    uint32_t *v = bsi_vast_alloc(64 * KB);
    fill(v, 0, 16 * KB);
    cr_assert(zero(u64, bsi_vast_mapped()));
    v = bsi_vast_realloc(v, 1 << 20);
    cr_assert(is_filled(v, 16 * KB));
    cr_assert(zero(u64, bsi_vast_mapped()));
    bsi_vast_free(v);
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
}

static void *grow_and_drop(void *ctx) {
    (void)ctx;
    bool good = true;
    for (int k = 0; k < 50; k++) {
        uint32_t *v = NULL;
        for (size_t n = 1024; n <= 64 * KB; n *= 2) {
            v = bsi_vast_realloc(v, n * sizeof *v);
            fill(v, n / 2, n);
        }
        fill(v, 0, 1024);
        good = good && is_filled(v, 64 * KB);
        bsi_vast_free(v);
    }
    return good ? NULL : (void *)1;
}

Test(vast, threads_have_lists_of_their_own) {
    bsi_vast_limit(128 * KB, 0, "/tmp");
    pthread_t t[4];
    for (int i = 0; i < 4; i++) cr_assert(zero(int, pthread_create(&t[i], NULL, grow_and_drop, NULL)));
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        cr_assert(eq(ptr, bad, NULL));
    }
    cr_assert(zero(u64, bsi_vast_mapped()));
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
}

typedef struct pair {
    uint64_t key, at;
    uint64_t more;
} pair;

static int by_key(const void *a, const void *b) {
    const pair *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}

static pair *pairs(size_t n, uint64_t keys) {
    pair *v = bsi_vast_alloc((n + 1) * sizeof *v);
    uint64_t state = 7;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        v[i] = (pair){(state >> 33) % keys, i, ~i};
    }
    return v;
}

static void check_sorted(size_t n, uint64_t keys) {
    pair *v = pairs(n, keys);
    uint64_t sum = 0, want = 0;
    for (size_t i = 0; i < n; i++) want += v[i].key * (v[i].at + 1);
    bsi_vast_sort(v, n, sizeof *v, by_key);
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        sum += v[i].key * (v[i].at + 1);
        bad += v[i].more != ~v[i].at || (i && (v[i - 1].key > v[i].key || (v[i - 1].key == v[i].key && v[i - 1].at > v[i].at)));
    }
    bsi_vast_free(v);
    cr_assert(eq(u64, sum, want), "%zu", n);
    cr_assert(zero(sz, bad), "%zu", n);
}

Test(vast, long_lists_are_sorted_in_stretches_that_are_merged) {
    bsi_vast_limit(1 << 20, 0, "/tmp");
    const size_t width = (8 << 20) / sizeof(pair);
    const size_t lengths[] = {0, 1, 2, 1000, width, width + 1, width * 2, width * 3 + 5};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) check_sorted(lengths[i], UINT64_MAX);
    check_sorted(width * 5 + 1, 1000); /* equal ones keep their order */
    cr_assert(zero(u64, bsi_vast_mapped()));
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
}
