/* test_lines - lines of a stretch on each instruction set against a plain reader; keys against the key before. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>

#include "diff/lines.h"

static const bsi_line_shape shape = {.delimiter = ',', .quote = '"', .columns = 3, .key_first = 0, .key_count = 2};

static uint32_t next(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u, *seed >> 8; }

static int isas(bsi_isa *out) {
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    int n = 0;
    for (int i = 0; i < 3; i++) n += bsi_isa_choose(&out[n], names[i], NULL) == BOMSYNC_OK;
    return n;
}

/* Offsets behind line ends outside quotes, and the delimiters before them. Python's csv: a quote opens a field as its first byte only. */
static size_t plain_lines(const uint8_t *p, size_t n, uint32_t *start, uint32_t *seps) {
    enum { FIRST, DATA, QUOTED, CLOSED } s = FIRST;
    size_t count = 0;
    uint32_t total = 0;
    start[0] = seps[0] = 0;
    for (size_t i = 0; i < n; i++) {
        if (s == QUOTED) {
            if (p[i] == '"') s = CLOSED;
        } else if (p[i] == '\n') {
            start[++count] = (uint32_t)i + 1;
            seps[count] = total;
            s = FIRST;
        } else if (p[i] == ',') {
            total++;
            s = FIRST;
        } else if (p[i] == '"' && (s == FIRST || s == CLOSED)) {
            s = QUOTED;
        } else {
            s = DATA;
        }
    }
    return count;
}

Test(lines, random_bytes_are_read_alike_on_each_isa) {
    static const char *const alphabets[] = {"a,\n", "ab,\n\"", "a,\"\n\"\n", "abcdefghijklmnopqrstuvwxyz,\n\"", "\",\"\n"};
    bsi_isa isa[3];
    int count = isas(isa);
    uint32_t seed = 7;
    for (int round = 0; round < 600; round++) {
        uint8_t p[700 + 64] = {0};
        size_t n = next(&seed) % 700;
        const char *of = alphabets[next(&seed) % 5];
        for (size_t i = 0; i < n; i++) p[i] = (uint8_t)of[next(&seed) % strlen(of)];
        uint32_t start[702], seps[702];
        size_t lines = plain_lines(p, n, start, seps);
        for (int v = 0; v < count; v++) {
            bsi_line_shape s = shape;
            s.key_first = round & 1;
            bsi_lines l = {.line_bytes = round & 2 ? 100 : 0};
            bsi_lines_read(&l, &s, isa[v], p, n);
            cr_assert(eq(sz, l.count, lines));
            for (size_t i = 0; i <= lines; i++) {
                cr_assert(eq(u32, l.start[i], start[i]));
                cr_assert(eq(u32, l.seps[i], seps[i]));
            }
            bsi_lines_free(&l);
        }
    }
}

static uint8_t kind_of(const char *text, size_t line, bool lenient) {
    bsi_isa isa[3];
    int count = isas(isa);
    uint8_t kind = 255;
    for (int v = 0; v < count; v++) {
        uint8_t p[512 + 64] = {0};
        size_t n = strlen(text);
        memcpy(p, text, n);
        for (size_t i = 0; i < n; i++) p[i] = p[i] == '0' ? 0 : p[i]; /* 0 stands for NUL */
        bsi_line_shape s = shape;
        s.lenient = lenient;
        bsi_lines l = {0};
        bsi_lines_read(&l, &s, isa[v], p, n);
        uint8_t k = l.kind ? l.kind[line] : LINE_GOOD;
        if (v) cr_assert(eq(u8, k, kind));
        kind = k;
        bsi_lines_free(&l);
    }
    return kind;
}

Test(lines, odd_lines_are_told) {
    cr_assert(eq(u8, kind_of("a,b,c\nd,e,f\n", 1, false), LINE_GOOD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,e\n", 1, false), LINE_BAD));
    cr_assert(eq(u8, kind_of("a,b,c\n\nd,e,f\n", 1, false), LINE_BLANK));
    cr_assert(eq(u8, kind_of("a,b,c\n\r\nd,e,f\n", 1, false), LINE_BLANK));
    cr_assert(eq(u8, kind_of("a,b,c\nd,e\",f\n", 1, false), LINE_BAD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,e\",f\n", 1, true), LINE_GOOD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,\"e\"x,f\n", 1, false), LINE_BAD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,\"e\"\"x\",f\n", 1, false), LINE_GOOD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,0,f\n", 1, false), LINE_BAD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,\xc3\xa9,f\n", 1, false), LINE_GOOD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,\xe4\xb8\xad\xf0\x9f\x94\xa9,f\n", 1, false), LINE_GOOD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,\xc3,f\n", 1, false), LINE_BAD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,\xa9,f\n", 1, false), LINE_BAD));
    cr_assert(eq(u8, kind_of("a,b,c\nd,\xed\xa0\x80,f\n", 1, false), LINE_BAD));
}

Test(lines, characters_across_a_chunk_are_whole) {
    static const char *const whole[] = {"\xc3\xa9\xc3\xa9", "\xe4\xb8\xad\xc3\xa9", "\xc3\xa9\xf0\x9f\x94\xa9"};
    for (size_t front = 40; front < 70; front++)
        for (size_t w = 0; w < 3; w++) {
            char line[200];
            memset(line, 'x', front);
            sprintf(line + front, "%s,y,z\na,b,c\n", whole[w]);
            cr_assert(eq(u8, kind_of(line, 0, false), LINE_GOOD));
            for (size_t i = 0; i < strlen(whole[w]); i++) { /* any byte of them lost: none is whole */
                char cut[200];
                strcpy(cut, line);
                memmove(cut + front + i, cut + front + i + 1, strlen(cut + front + i));
                cr_assert(eq(u8, kind_of(cut, 0, false), LINE_BAD));
                cr_assert(eq(u8, kind_of(cut, 1, false), LINE_GOOD));
            }
        }
}

static int compare(const char *a, const char *b, uint64_t by_text) {
    bsi_line_shape s = shape;
    s.by_text = by_text;
    return bsi_keys_compare(&s, (const uint8_t *)a, (const uint8_t *)b);
}

Test(lines, keys_have_an_order) {
    cr_assert(lt(int, compare("90,a,", "100,a,", 0), 0));
    cr_assert(gt(int, compare("90,a,", "100,a,", 1), 0));
    cr_assert(lt(int, compare("A,b,", "AB,a,", 1), 0));
    cr_assert(eq(int, compare("A,b,x", "A,b,y", 3), 0));
    cr_assert(lt(int, compare("A,9,", "A,10,", 1), 0));
    cr_assert(gt(int, compare("A,9,", "A,10,", 2), 0));
    cr_assert(lt(int, compare("A,,", "A,0,", 0), 0));
    int vote;
    cr_assert(eq(u32, bsi_keys_vote(&shape, (const uint8_t *)"A,9,", (const uint8_t *)"A,10,", &vote), 1));
    cr_assert(lt(int, vote, 0));
    bsi_keys_vote(&shape, (const uint8_t *)"A,10,", (const uint8_t *)"A,9,", &vote);
    cr_assert(gt(int, vote, 0));
}

/* What a variant says "ascends" does; what it does not say may still. */
Test(lines, keys_seen_to_ascend_do) {
    bsi_isa isa[3];
    int count = isas(isa);
    uint32_t seed = 3, said = 0, all = 0;
    for (int round = 0; round < 400; round++) {
        uint8_t p[8192] = {0};
        size_t n = 0, lines = 0;
        uint32_t key[128], a = 0, b = 0;
        bool wide = round % 5 == 0, end = round % 3 == 0;
        for (; lines < 100 && n < 7500; lines++) {
            key[lines] = (uint32_t)n;
            a += next(&seed) % 4 == 0 ? next(&seed) % 40 : 0;
            b = next(&seed) % 8 ? b + next(&seed) % 30 : next(&seed) % 3000;
            n += (size_t)sprintf((char *)p + n, "%s%u,%u%s", wide ? "a long word in front of it, without its end, is here" : "", a, b, end ? "\n" : ",z\n");
        }
        for (int v = 0; v < count; v++) {
            bsi_line_shape s = shape;
            s.key_last = end;
            s.key_count = wide ? 3 : 2;
            s.by_text = (uint64_t)(round % 4);
            for (size_t i = 0; i < lines;) {
                size_t to = bsi_lines_ascend(&s, isa[v], p, key, i, lines);
                for (size_t k = i + 1; k < to; k++) cr_assert(lt(int, bsi_keys_compare(&s, p + key[k - 1], p + key[k]), 0));
                if (to < lines && bsi_keys_compare(&s, p + key[to - 1], p + key[to]) < 0) all++;
                said += (uint32_t)(to - i);
                i = to;
            }
        }
    }
    cr_assert(gt(u32, said, 20 * all)); /* and most is seen */
}

Test(lines, keys_in_quotes_are_told_from_others) {
    bsi_isa isa[3];
    int count = isas(isa);
    uint32_t seed = 11, fit = 0;
    for (int round = 0; round < 300; round++) {
        uint8_t p[4096] = {0};
        size_t n = 0;
        uint32_t key[64];
        for (uint32_t i = 0; i < 60; i++) {
            static const char *const second[] = {"\"b\"", "\"\"", "b", "\"b\"\"\"", "\"b,\"", "\"b\nb\"", "\"b\"x"};
            key[i] = (uint32_t)n;
            n += (size_t)sprintf((char *)p + n, "\"%u\",%s%s", i, next(&seed) % 10 ? "\"b\"" : second[next(&seed) % 7], round & 1 ? "\n" : ",z\n");
        }
        for (int v = 0; v < count; v++) {
            bsi_line_shape s = shape;
            s.key_last = round & 1;
            s.key_quoted = true;
            for (size_t i = 0; i < 60;) {
                size_t to = bsi_lines_ascend(&s, isa[v], p, key, i, 60);
                for (size_t k = i + 1; k < to; k++, fit++) cr_assert(bsi_keys_quoted(&s, p + key[k]));
                i = to;
            }
        }
    }
    cr_assert(gt(u32, fit, 10000));
}

/* Pairs, longer characters, and bytes that are none, at any place: each variant finds the same lines good, and says the same of the stretch. */
Test(lines, random_characters_are_read_alike_on_each_isa) {
    static const char *const of[] = {"\xc3\xa9", "\xc3\xa9", "\xc3\xa9", "x", "y", ",", "\n", "\xe4\xb8\xad", "\xf0\x9f\x94\xa9", "\xc3", "\xa9", "\xc1\x81", "\""};
    bsi_isa isa[3];
    int count = isas(isa);
    uint32_t seed = 11;
    for (int round = 0; round < 4000; round++) {
        uint8_t p[330 + 64] = {0};
        size_t n = 0, most = next(&seed) % 320, kinds = round & 1 ? 7 : sizeof of / sizeof *of;
        while (n < most) {
            const char *c = of[next(&seed) % kinds];
            memcpy(p + n, c, strlen(c));
            n += strlen(c);
        }
        if (round & 2) n = BSI_MIN(n, (size_t)64 * (1 + next(&seed) % 4)); /* cut short anywhere, often at the end of a chunk */
        uint8_t kind[330];
        bool bad = false;
        for (int v = 0; v < count; v++) {
            bsi_lines l = {0};
            bsi_lines_read(&l, &shape, isa[v], p, n);
            for (size_t i = 0; i < l.count; i++) {
                uint8_t k = l.kind ? l.kind[i] : LINE_GOOD;
                if (v) cr_assert(eq(u8, k, kind[i]), "round %d, line %zu", round, i);
                kind[i] = k;
            }
            if (v) cr_assert(eq(int, l.bad_utf8, bad), "round %d", round);
            bad = l.bad_utf8;
            bsi_lines_free(&l);
        }
    }
}
