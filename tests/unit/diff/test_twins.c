/* Key hashes that stand twice: those that sorting finds, whatever is spilled, and by both ways of looking. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "flow/twins.h"
#include "unit/diff/random.h"

TestSuite(twins, .timeout = 300);

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static size_t sorted_twins(uint64_t *out, uint64_t *v, size_t n) {
    size_t count = 0;
    qsort(v, n, sizeof *v, by_value);
    for (size_t i = 1; i < n; i++)
        if (v[i] == v[i - 1] && (!count || out[count - 1] != v[i])) out[count++] = v[i];
    return count;
}

/* n hashes, of which about every `rare`th stands twice or more often; those in few partitions lie close. */
static void compare(size_t n, uint64_t rare, bool close, uint64_t memory, int workers, uint64_t seed) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t *v = bsi_alloc((n + 1) * sizeof *v), *want = bsi_alloc((n + 1) * sizeof *want), *dup = NULL;
    size_t count = 0;
    for (size_t i = 0; i < n; i++) v[i] = i && next(&seed) % rare == 0 ? v[next(&seed) % i] : close ? next(&seed) >> 44 << 16 : next(&seed);
    if (n > 4) v[1] = v[3] = 0; /* a free place of a table */
    bsi_twins *t = bsi_twins_open(3, memory, "/tmp");
    for (size_t i = 0; i < n; i += 100)
        cr_assert(eq(int, (int)bsi_twins_add(t, (int)(i / 100 % 3), v + i, BSI_MIN(n - i, (size_t)100), &err), BOMSYNC_OK));
    size_t wanted = sorted_twins(want, v, n);
    for (int round = 0; round < 2; round++) { /* the second: with a probe, which no hash is */
        uint64_t probe = 7;
        while (bsearch(&probe, v, n, sizeof *v, by_value)) probe++;
        cr_assert(eq(int, (int)bsi_twins_find(&dup, &count, t, &probe, (size_t)round, workers, &err), BOMSYNC_OK));
        for (size_t i = 0; i < count && i < wanted; i++) cr_assert(eq(u64, dup[i] + !dup[i], want[i] + !want[i]));
        cr_assert(eq(sz, count, wanted));
        free(dup);
    }
    bsi_twins_close(t);
    free(v);
    free(want);
}

Test(twins, are_those_that_sorting_finds) {
    static const size_t counts[] = {0, 1, 2, 5, 300, 5000, 200000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        compare(counts[i], 1000000, false, 1 << 28, 2, i);
        compare(counts[i], 50, false, 1 << 28, 1, i);
        compare(counts[i], 2, true, 1 << 28, 2, i);
    }
}

Test(twins, are_found_in_what_was_spilled) {
    compare(600000, 100, false, 1 << 20, 2, 1);
    compare(600000, 100000, false, 1 << 20, 1, 2);
    compare(600000, 2, true, 1 << 16, 2, 3);
}
