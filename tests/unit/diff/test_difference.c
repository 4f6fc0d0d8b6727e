/* test_difference.c - two sets of rows subtracted, against the sets themselves. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "flow/difference.h"

static uint64_t state = 7;
static uint64_t draw(void) {
    state += 0x9E3779B97F4A7C15ull;
    uint64_t z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static int by_kh(const void *a, const void *b) {
    const bsi_difference_row *x = a, *y = b;
    return x->kh < y->kh ? -1 : x->kh > y->kh;
}

enum { ROWS = 50000 };
static uint64_t kh[ROWS], rh[ROWS];

static void fill(void) {
    for (size_t i = 0; i < ROWS; i++) kh[i] = draw(), rh[i] = draw();
}

static void cr_same(bsi_difference_row *got, size_t count, size_t from, size_t want, const char *side) {
    cr_assert(eq(sz, count, want), "%s", side);
    bsi_difference_row *all = calloc(want + 1, sizeof *all);
    for (size_t i = 0; i < want; i++) all[i] = (bsi_difference_row){kh[from + i], rh[from + i]};
    qsort(all, want, sizeof *all, by_kh);
    if (count) qsort(got, count, sizeof *got, by_kh);
    for (size_t i = 0; i < want; i++) cr_assert(all[i].kh == got[i].kh && all[i].rh == got[i].rh, "%s, row %zu", side, i);
    free(all);
    free(got);
}

/* The first `only` rows are added alone, the last `gone` taken alone, those between both, in the opposite order. */
static void subtract(size_t only, size_t gone, size_t most) {
    fill();
    bsi_difference *a = bsi_difference_open(most), *b = bsi_difference_open(most);
    size_t shared = ROWS - only - gone;
    for (size_t i = 0; i < only + shared; i += 13)
        bsi_difference_add(a, kh + i, rh + i, BSI_MIN((size_t)13, only + shared - i));
    for (size_t i = ROWS; i-- > only;) bsi_difference_take(b, kh + i, rh + i, 1);
    bsi_difference_merge(a, b);
    bsi_difference_row *added, *taken;
    size_t added_count, taken_count;
    cr_assert(bsi_difference_settle(a, &added, &added_count, &taken, &taken_count));
    cr_same(added, added_count, 0, only, "added");
    cr_same(taken, taken_count, ROWS - gone, gone, "taken");
    bsi_difference_close(a);
    bsi_difference_close(b);
}

Test(difference, what_only_one_side_has_is_left) {
    subtract(0, 0, 10);
    subtract(1, 0, 10);
    subtract(0, 1, 10);
    subtract(700, 600, 1300);
    subtract(5000, 1, 5001);
    subtract(10, 20000, 20010);
}

Test(difference, as_many_rows_as_it_was_opened_for_are_settled) {
    for (size_t most = 100; most <= 12800; most *= 2) subtract(most / 2, most / 2, most);
}

Test(difference, too_many_rows_give_nothing) {
    fill();
    bsi_difference *d = bsi_difference_open(100);
    bsi_difference_add(d, kh, rh, ROWS);
    bsi_difference_row *added, *taken;
    size_t added_count, taken_count;
    cr_assert(not(bsi_difference_settle(d, &added, &added_count, &taken, &taken_count)));
    cr_assert(added == NULL && taken == NULL && added_count == 0 && taken_count == 0);
    bsi_difference_close(d);
}

Test(difference, a_row_that_was_added_twice_too_often_gives_nothing) {
    fill();
    bsi_difference *d = bsi_difference_open(100);
    bsi_difference_add(d, kh, rh, 10);
    bsi_difference_add(d, kh, rh, 10);
    bsi_difference_take(d, kh + 1, rh + 1, 9);
    bsi_difference_row *added, *taken;
    size_t added_count, taken_count;
    cr_assert(not(bsi_difference_settle(d, &added, &added_count, &taken, &taken_count)));
    bsi_difference_close(d);
}
