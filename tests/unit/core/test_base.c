/* tests/unit/core/test_base.c - line ends, counted in pieces as in one go. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "core/base.h"

static uint64_t state = 1;

static size_t draw(size_t n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (size_t)((state >> 33) % n);
}

static int64_t naive(const uint8_t *p, size_t n) {
    int64_t lines = 0;
    for (size_t i = 0; i < n; i++) lines += p[i] == '\r' || (p[i] == '\n' && !(i && p[i - 1] == '\r'));
    return lines;
}

Test(base, line_ends_are_lf_crlf_and_lone_cr) {
    bool cr = false;
    cr_assert(eq(i64, bsi_line_ends(&cr, (const uint8_t *)"a\nb\r\nc\rd\n\n\r\r\n", 13), 7));
    cr_assert(not(cr));
    cr_assert(eq(i64, bsi_line_ends(&cr, NULL, 0), 0));
    cr_assert(eq(i64, bsi_line_ends(&cr, (const uint8_t *)"\r", 1), 1));
    cr_assert(cr);
    cr_assert(eq(i64, bsi_line_ends(&cr, (const uint8_t *)"\nx", 2), 0));
}

Test(base, line_ends_in_pieces) {
    enum { MAX = 300 };
    for (int round = 0; round < 20000; round++) {
        const char *letters = round % 2 ? "\r\na" : "abcdefghijklmnop\n\r";
        size_t n = draw(MAX), kinds = strlen(letters);
        uint8_t p[MAX];
        for (size_t i = 0; i < n; i++) p[i] = (uint8_t)letters[draw(kinds)];
        bool cr = false;
        int64_t lines = 0;
        for (size_t i = 0, some; i < n; i += some) {
            some = 1 + draw(80);
            some = BSI_MIN(n - i, some);
            lines += bsi_line_ends(&cr, p + i, some);
        }
        cr_assert(eq(i64, lines, naive(p, n)));
    }
}
