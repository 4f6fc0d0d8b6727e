/* What differs between two sets of rows, by partition: what looking at each key finds, spilled or not. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "core/vast.h"
#include "flow/join.h"
#include "unit/diff/random.h"

TestSuite(join, .timeout = 300);

static int by_key(const void *a, const void *b) {
    const bsi_row *x = a, *y = b;
    if (x->kh != y->kh) return x->kh < y->kh ? -1 : 1;
    return (x->rh > y->rh) - (x->rh < y->rh);
}

static bsi_row_store *stored(const bsi_row *v, size_t n, uint64_t memory) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_row_store *s = bsi_row_store_open(2, memory, "/tmp");
    for (size_t i = 0; i < n; i++) cr_assert(eq(int, (int)bsi_row_store_add(s, (int)(i & 1), &v[i], &err), BOMSYNC_OK));
    return s;
}

static size_t end_of_key(const bsi_row *v, size_t n, size_t at, uint64_t kh) {
    while (at < n && v[at].kh == kh) at++;
    return at;
}

/* Keys that do not have one row on either side, the same; both sides sorted. */
static size_t differ(uint64_t *out, const bsi_row *a, size_t n, const bsi_row *b, size_t m) {
    size_t count = 0;
    for (size_t i = 0, k = 0; i < n || k < m;) {
        uint64_t kh = k == m || (i < n && a[i].kh <= b[k].kh) ? a[i].kh : b[k].kh;
        size_t i2 = end_of_key(a, n, i, kh), k2 = end_of_key(b, m, k, kh);
        if (i2 - i != 1 || k2 - k != 1 || a[i].rh != b[k].rh) out[count++] = kh;
        i = i2;
        k = k2;
    }
    return count;
}

/* n rows; of the other side each `rare`th is changed, missing, there twice, or a new one. */
static void compare(size_t n, uint64_t rare, uint64_t memory, int workers, uint64_t seed) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_row *old = bsi_alloc((n + 1) * sizeof *old), *now = bsi_alloc((2 * n + 1) * sizeof *now);
    size_t m = 0, count = 0;
    for (size_t i = 0; i < n; i++) {
        old[i] = (bsi_row){i == 3 ? 0 : next(&seed), next(&seed) & 3, next(&seed)};
        if (i > 3 && next(&seed) % (rare * 5) == 0) old[i].kh = old[next(&seed) % i].kh;
        uint64_t kind = next(&seed) % rare;
        if (kind != 1) now[m++] = old[i];
        if (kind == 2) now[m - 1].rh ^= 4;
        if (kind == 3) now[m] = now[m - 1], m++;
        if (kind == 4) now[m++] = (bsi_row){next(&seed), 1, 0};
    }
    bsi_row_store *o = stored(old, n, memory), *w = stored(now, m, memory);
    cr_assert(eq(int, memory < 100000 && n > 100000, bsi_row_store_spilled(o) > 0));
    qsort(old, n, sizeof *old, by_key);
    qsort(now, m, sizeof *now, by_key);
    uint64_t *want = bsi_alloc((n + m + 1) * sizeof *want), *found = NULL;
    size_t wanted = differ(want, now, m, old, n);
    cr_assert(eq(int, (int)bsi_join_differ(&found, &count, w, o, workers, &err), BOMSYNC_OK));
    cr_assert(eq(sz, count, wanted));
    for (size_t i = 0; i < count; i++) cr_assert(eq(u64, found[i], want[i]));
    bsi_vast_free(found);
    bsi_row_store_close(o);
    bsi_row_store_close(w);
    free(old);
    free(now);
    free(want);
}

Test(join, differ_gives_the_keys_that_are_not_the_same) {
    static const size_t counts[] = {0, 1, 5, 300, 5000, 200000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        compare(counts[i], 1000, 1 << 28, 2, i);
        compare(counts[i], 10, 1 << 28, 1, i);
        compare(counts[i], 100, 0, 2, i);
    }
}
