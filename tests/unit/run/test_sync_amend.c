/* Rows of a block that was changed in place, and those of the state block it stands for: one order, with some that came and some that went. */
#include <criterion/criterion.h>

#include "run/changes.h"

/* Both blocks as lists of record numbers, told record by record. */
static bsi_amended draw(uint64_t seed, uint32_t now[64], uint32_t was[64], uint32_t *old_count) {
    bsi_amended a = {0};
    uint32_t n = 0, o = 0;
    for (uint32_t record = 0; n < 64 && o < 64 && record < 40 + seed % 60; record++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned kind = (unsigned)(seed >> 60);
        if (kind == 0) a.created |= 1ull << n;
        if (kind == 1) a.gone |= 1ull << o;
        if (kind != 1) now[n++] = record;
        if (kind != 0) was[o++] = record;
    }
    a.records = n;
    *old_count = o;
    return a;
}

Test(sync_amend, each_row_has_its_partner) {
    for (uint64_t seed = 1; seed < 3000; seed++) {
        uint32_t now[64], was[64], old_count;
        bsi_amended a = draw(seed, now, was, &old_count);
        cr_assert_eq(bsi_amended_records_before(&a), old_count);
        for (uint32_t i = 0; i < a.records; i++)
            if (!(a.created >> i & 1)) cr_assert_eq(was[bsi_amended_was(&a, i)], now[i]);
        for (uint32_t k = 0; k < old_count; k++)
            if (!(a.gone >> k & 1)) cr_assert_eq(now[bsi_amended_now(&a, k)], was[k]);
    }
}

Test(sync_amend, a_row_that_cannot_be_is_none) {
    bsi_amended a = {.created = UINT64_MAX, .records = 64};
    cr_assert_eq(bsi_amended_now(&a, 3), 64u);
}
