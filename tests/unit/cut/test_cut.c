/* cut against a machine that looks at one byte after the other, on every instruction set of this machine. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/limits.h"
#include "flow/block.h"

enum { MARGIN = 64 };

static uint64_t seed = 88172645463325252ull;
static uint64_t draw(uint64_t n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

/* Python's csv reader: end[i] is the offset past record i, blank lines left out. Returns the count; *open at the end. */
static size_t naive(size_t *end, const bsi_dialect *d, const uint8_t *p, size_t n, bool *open) {
    size_t count = 0, start = 0;
    enum { FIELD, DATA, QUOTED, CLOSED } s = FIELD;
    for (size_t i = 0; i < n; i++) {
        if (s == QUOTED) {
            if (p[i] == (uint8_t)d->quote) s = CLOSED;
        } else if (p[i] == '\n' || p[i] == '\r') {
            bool blank = i == start;
            if (p[i] == '\r' && i + 1 < n && p[i + 1] == '\n') i++;
            if (!blank) end[count++] = i + 1;
            start = i + 1;
            s = FIELD;
        } else if (p[i] == (uint8_t)d->delimiter) {
            s = FIELD;
        } else if (d->quote && p[i] == (uint8_t)d->quote && (s == FIELD || s == CLOSED)) {
            s = QUOTED;
        } else {
            s = DATA;
        }
    }
    if (start < n) end[count++] = n;
    *open = s == QUOTED;
    return count;
}

static size_t naive_lines(const uint8_t *p, size_t n) {
    size_t lines = 0;
    for (size_t i = 0; i < n; i++) lines += p[i] == '\n' || (p[i] == '\r' && (i + 1 == n || p[i + 1] != '\n'));
    return lines;
}

static size_t soup(uint8_t *p, size_t max, const char *letters) {
    size_t n = (size_t)draw(max + 1), kinds = strlen(letters);
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)letters[draw(kinds)];
        if (draw(40) == 0)
            for (size_t run = (size_t)draw(90); run && i + 1 < n; run--) p[++i] = 'x';
    }
    return n;
}

static const char *const isa_name[] = {"scalar", "avx2", "avx512"};

/* All block ends of p by one instruction set, found with the whole in sight and again with ever more bytes. */
static size_t blocks(bsi_cut *b, size_t max, const bsi_cut_options *o, const uint8_t *p, size_t n) {
    size_t at = 0, count = 0;
    do {
        cr_assert(lt(sz, count, max));
        cr_assert(eq(int, bsi_cut_block(&b[count], o, p + at, n - at, true), 1));
        cr_assert(le(sz, b[count].bytes, n - at));
        bsi_cut part;
        for (size_t seen = draw(8); seen < n - at; seen += 1 + (size_t)draw(40)) {
            int got = bsi_cut_block(&part, o, p + at, seen, false);
            cr_assert(ge(int, got, 0));
            if (got == 0) continue;
            cr_assert(eq(sz, part.bytes, b[count].bytes));
            cr_assert(eq(u32, part.records, b[count].records));
            cr_assert(eq(u32, part.blanks, b[count].blanks));
            cr_assert(eq(u32, part.flags, b[count].flags));
            break;
        }
        at += b[count].bytes;
    } while (b[count++].bytes && at < n);
    return count;
}

static void compare(const bsi_dialect *d, const char *letters, int rounds) {
    enum { MAX = 700 };
    static uint8_t room[MAX + 2 * MARGIN + 64];
    static size_t end[MAX + 1];
    static bsi_cut first[MAX + 2], b[MAX + 2];
    for (int round = 0; round < rounds; round++) {
        uint8_t *p = room + draw(64);
        size_t n = soup(p, MAX, letters);
        memset(p + n, "\"\n\r,x"[draw(5)], MARGIN); /* what lies behind must not matter */
        bool open;
        size_t records = naive(end, d, p, n, &open), first_count = 0;
        uint32_t target = (uint32_t[]){1, 1, 2, 3, 12}[draw(5)];
        for (int isa = 0; isa < 3; isa++) {
            bsi_cut_options o = {*d, bsi_block_size_of(target), isa};
            bsi_isa got;
            bomsync_error err = BOMSYNC_ERROR_INIT;
            if (bsi_isa_choose(&got, isa_name[isa], &err)) continue;
            size_t count = blocks(b, MAX + 2, &o, p, n), seen = 0, at = 0;
            for (size_t i = 0; i < count; i++) {
                at += b[i].bytes;
                seen += b[i].records;
                bool last = i + 1 == count;
                bool right = !b[i].records || end[seen - 1] == at || (b[i].flags & BSI_CUT_AT_END);
                cr_assert(right);
                if (!last) cr_assert(eq(sz, end[seen - 1], at));
                if (!last && target == 1) cr_assert(eq(u32, b[i].records, 1));
                cr_assert(le(u32, b[i].records, target * BSI_BLOCK_RECORDS_MAX_FACTOR));
                cr_assert(eq(int, (b[i].flags & BSI_CUT_LONE_CR) != 0, at && b[i].bytes && p[at - 1] == '\r' && !(last && open)));
                cr_assert(eq(int, (b[i].flags & BSI_CUT_OPEN_QUOTE) != 0, last && open));
                size_t lines = naive_lines(p + at - b[i].bytes, b[i].bytes), ended = b[i].records + b[i].blanks - (b[i].flags & BSI_CUT_NO_LINE_END ? 1 : 0);
                cr_assert(eq(int, (b[i].flags & BSI_CUT_LINES) != 0, lines == ended));
            }
            cr_assert(eq(sz, seen, records));
            cr_assert(eq(sz, at, n));
            if (isa == BSI_ISA_SCALAR) memcpy(first, b, sizeof *b * (first_count = count));
            cr_assert(eq(sz, count, first_count));
            for (size_t i = 0; i < count; i++) cr_assert(eq(sz, b[i].bytes, first[i].bytes));
        }
    }
}

Test(cut, soup_of_quotes_gives_the_ends_of_the_byte_machine) {
    compare(&(bsi_dialect){',', '"', false}, "\",\r\n a", 20000);
    compare(&(bsi_dialect){',', '"', true}, "\"\",,\r\n\na ", 10000);
    compare(&(bsi_dialect){';', '\'', false}, "';\n\"a,b\r", 5000);
}

Test(cut, sparse_quotes_give_the_ends_of_the_byte_machine) {
    compare(&(bsi_dialect){',', '"', false}, "\",\nabcdefghijklmnopqrstuvwxyz,,,\n\n", 10000);
    compare(&(bsi_dialect){',', '"', false}, "abcdefg,\n\r", 5000);
}

Test(cut, without_quoting_quotes_are_data) { compare(&(bsi_dialect){',', 0, false}, "\",\r\n a\"", 5000); }

Test(cut, skip_finds_the_end_of_one_record_in_pieces) {
    static uint8_t p[300 + MARGIN];
    static size_t end[301];
    const bsi_dialect d = {',', '"', false};
    for (int round = 0; round < 20000; round++) {
        size_t n = soup(p, 300, "\",\r\n a");
        bool open;
        size_t count = naive(end, &d, p, n, &open);
        uint64_t state[2] = {0, 0};
        size_t at = 0;
        int64_t got = -1;
        while (got == -1 && at < n) {
            size_t piece = 1 + (size_t)draw(n - at);
            got = bsi_cut_skip(state, &d, p + at, piece, at + piece == n);
            at += got >= 0 ? (size_t)got : piece;
        }
        if (got >= 0) cr_assert(eq(sz, at, end[0]));
        else if (got == -2) cr_assert(all(eq(int, open, 1), eq(sz, count, 1)));
        else cr_assert(count == 0 || end[0] == n);
    }
}

/* ---- sizes ---- */

Test(cut, mean_block_is_near_the_target) {
    size_t n = 0, cap = 8 << 20;
    uint8_t *p = malloc(cap + 200);
    for (unsigned i = 0; n < cap; i++)
        n += (size_t)sprintf((char *)p + n, "1000,PLANT-A,ASM-%07u,CMP-%07u,%u,EA,constant text\n", i / 7, i * 31 % 65521, i % 13);
    for (uint32_t target = 1; target <= 24; target = target * 2 + (target == 1)) {
        bsi_cut_options o = {{',', '"', false}, bsi_block_size_of(target), BSI_ISA_SCALAR};
        size_t at = 0, records = 0, count = 0;
        for (bsi_cut c; at < n; at += c.bytes, records += c.records, count++) bsi_cut_block(&c, &o, p + at, n - at, true);
        double mean = (double)records / (double)count;
        cr_assert(all(gt(dbl, mean, target * 0.9), lt(dbl, mean, target * 1.1 + 0.01)), "target %u mean %f", target, mean);
    }
    free(p);
}

Test(cut, equal_records_are_cut_at_four_times_the_target) {
    static uint8_t p[10000 + MARGIN];
    for (size_t i = 0; i < 10000; i += 10) memcpy(p + i, "abcd,efgh\n", 10);
    bsi_cut c;
    bsi_cut_options o = {{',', '"', false}, bsi_block_size_of(12), BSI_ISA_SCALAR};
    cr_assert(eq(int, bsi_cut_block(&c, &o, p, 10000, false), 1));
    cr_assert(le(u32, c.records, 48));
}

Test(cut, wide_records_and_blank_runs_are_cut_at_64_kb) {
    size_t n = 1 << 20;
    uint8_t *p = malloc(n + MARGIN);
    memset(p, 'x', n);
    for (size_t i = 30000; i < n; i += 30000) p[i] = '\n';
    bsi_cut c;
    bsi_cut_options o = {{',', '"', false}, bsi_block_size_of(100), BSI_ISA_SCALAR};
    cr_assert(eq(int, bsi_cut_block(&c, &o, p, n, false), 1));
    cr_assert(eq(u32, c.records, 3));
    memset(p, '\n', n);
    cr_assert(eq(int, bsi_cut_block(&c, &o, p, n, false), 1));
    cr_assert(eq(sz, c.bytes, BSI_BLOCK_BYTES_MAX));
    cr_assert(eq(u32, c.records, 0));
    free(p);
}

Test(cut, empty_end_of_file_is_an_empty_block) {
    uint8_t p[MARGIN] = {0};
    bsi_cut c;
    bsi_cut_options o = {{',', '"', false}, bsi_block_size_of(12), BSI_ISA_SCALAR};
    cr_assert(eq(int, bsi_cut_block(&c, &o, p, 0, true), 1));
    cr_assert(all(eq(sz, c.bytes, 0), eq(u32, c.records, 0), eq(u32, c.flags, BSI_CUT_AT_END | BSI_CUT_LINES)));
}

/* ---- records above 16 MB ---- */

typedef struct big {
    uint8_t *p;
    size_t n;
} big;

static big make_big(const char *front, size_t middle, const char *back) {
    size_t f = strlen(front), b = strlen(back);
    big r = {malloc(f + middle + b + MARGIN), f + middle + b};
    memcpy(r.p, front, f);
    memset(r.p + f, 'x', middle);
    memcpy(r.p + f + middle, back, b);
    return r;
}

Test(cut, long_record_alone_is_oversize) {
    big r = make_big("a,", BSI_RECORD_BYTES_MAX, "\nb,c\n");
    for (int isa = 0; isa < 3; isa++) {
        bsi_cut c;
        bsi_isa got;
        bomsync_error err = BOMSYNC_ERROR_INIT;
        if (bsi_isa_choose(&got, isa_name[isa], &err)) continue;
        bsi_cut_options o = {{',', '"', false}, bsi_block_size_of(12), isa};
        cr_assert(eq(int, bsi_cut_block(&c, &o, r.p, r.n, true), 1));
        cr_assert(all(eq(sz, c.bytes, r.n - 4), eq(u32, c.records, 1), eq(u32, c.flags, BSI_CUT_OVERSIZE)));
        cr_assert(eq(int, bsi_cut_block(&c, &o, r.p, r.n - 5, false), 0));
        cr_assert(eq(u32, c.flags, BSI_CUT_OVERSIZE));
        cr_assert(eq(int, bsi_cut_block(&c, &o, r.p, 1000, false), 0));
        cr_assert(eq(u32, c.flags, 0));
    }
    free(r.p);
}

Test(cut, block_ends_before_a_long_record) {
    big r = make_big("k,v\n\na,", BSI_RECORD_BYTES_MAX, "\n");
    bsi_cut c;
    bsi_cut_options o = {{',', '"', false}, bsi_block_size_of(12), BSI_ISA_SCALAR};
    for (size_t less = 0; less < 2; less++) {
        cr_assert(eq(int, bsi_cut_block(&c, &o, r.p, r.n - less, false), 1));
        cr_assert(all(eq(sz, c.bytes, 5), eq(u32, c.records, 1), eq(u32, c.blanks, 1), eq(u32, c.flags, BSI_CUT_OVERSIZE)));
    }
    free(r.p);
}

Test(cut, quote_open_past_the_record_limit_is_a_fault) {
    big r = make_big("k,v\na,\"", BSI_RECORD_BYTES_MAX + 1, "\",b\n");
    bsi_cut c;
    bsi_cut_options o = {{',', '"', false}, bsi_block_size_of(12), BSI_ISA_SCALAR};
    cr_assert(eq(int, bsi_cut_block(&c, &o, r.p, r.n, true), -1));
    cr_assert(eq(int, bsi_cut_block(&c, &o, r.p, r.n - 4, false), -1));
    uint64_t state[2] = {0, 0};
    cr_assert(eq(i64, bsi_cut_skip(state, &o.dialect, r.p + 4, r.n - 4, true), -2));
    o.dialect.quote = 0;
    cr_assert(eq(int, bsi_cut_block(&c, &o, r.p + 4, r.n - 4, true), 1));
    cr_assert(eq(u32, c.flags, BSI_CUT_OVERSIZE));
    free(r.p);
}

Test(cut, unknown_instruction_set_is_a_usage_error) {
    bsi_isa isa;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, bsi_isa_choose(&isa, "mmx", &err), BOMSYNC_E_USAGE));
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, bsi_isa_choose(&isa, NULL, &err), BOMSYNC_OK));
    cr_assert(eq(int, bsi_isa_choose(&isa, "scalar", &err), BOMSYNC_OK));
}
