/* Lines by a renderer: the bytes of bsi_change_render, whatever the values, and repeats that give the same text again. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "flow/block.h"
#include "flow/rendered.h"

static uint64_t x = 88172645463325252ull;

static uint32_t below(uint32_t n) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)((x >> 20) % n);
}

/* Values of every length around the widths that copies have, with what must be escaped anywhere, and UTF-8. */
static void value(bsi_field *f, uint8_t *to, bool may_be_null) {
    static const char *const odd[] = {"\"", "\\", "\b", "\f", "\n", "\r", "\t", "\x01", "\x1f", "\x7f", "\xc3\xbc", "\xe2\x82\xac", " ", "!", "#", "[", "]"};
    uint32_t kind = below(12), n = kind < 8 ? below(20) : kind < 10 ? below(70) : kind < 11 ? 0 : below(400);
    for (uint32_t i = 0; i < n; i++) to[i] = (uint8_t)("0123456789abcdefA-.,/"[below(21)]);
    if (below(4) == 0 && n)
        for (uint32_t k = 0; k < 1 + below(3); k++) {
            const char *o = odd[below(17)];
            uint32_t len = (uint32_t)strlen(o), at = below(n);
            if (at + len <= n) memcpy(to + at, o, len);
        }
    bool null = may_be_null && !n && below(2);
    *f = (bsi_field){to, n, null};
}

static void check(const bsi_lines *l, const bsi_buf *want) {
    cr_assert(eq(sz, l->text.len, want->len));
    cr_assert(zero(int, memcmp(l->text.data, want->data, want->len)));
    if (!l->told) return;
    size_t at = 0, literal = 0;
    for (uint32_t i = 1; i <= l->repeat_count; i++) {
        const bsi_repeat *r = &l->repeat[i];
        cr_assert(le(sz, literal + r->literals, l->literal.len));
        cr_assert(zero(int, memcmp(l->text.data + at, l->literal.data + literal, r->literals)));
        at += r->literals;
        literal += r->literals;
        cr_assert(ge(u32, r->match, 3));
        cr_assert(le(sz, r->offset, at));
        cr_assert(ge(u32, r->offset, 1));
        for (uint32_t k = 0; k < r->match; k++, at++) cr_assert(eq(u8, l->text.data[at], l->text.data[at - r->offset]));
    }
    cr_assert(eq(sz, l->literal.len - literal, want->len - at));
    cr_assert(zero(int, memcmp(l->text.data + at, l->literal.data + literal, want->len - at)));
    bool high = false;
    for (size_t i = 0; i < want->len; i++) high |= want->data[i] >= 0x80;
    cr_assert(ge(int, l->high, high));
}

/* From now on with the i-th set of instructions, if this machine has it. */
static bool use(int i) {
    static const char *const name[] = {"scalar", "avx2", "avx512"};
    bsi_isa isa;
    if (bsi_isa_choose(&isa, name[i], NULL)) return false;
    bsi_emit_use_isa((int)isa);
    return true;
}

enum { SLOTS = 7, VALUE_MAX = 512 };
static char *names[] = {"plant", "k\"ey", "a", "b\n", "", "long name with some more words, longer than two copies", "\xc3\xa9"};
static uint32_t order[] = {3, 0, 6, 2, 1, 5, 4};

/* Many series of lines: heads, ops, nulls, few and many columns; fields with room behind them and without. */
static void series(uint32_t keys, uint32_t slot_count, int32_t partition, const bsi_change_head *head, bool wide, const char *ops) {
    const bsi_slots s = {.name = names, .count = slot_count, .key_count = keys, .partition = partition, .order = order};
    bsi_renderer *r = bsi_renderer_open(&s, head, true);
    bsi_lines l = {0};
    for (int round = 0; round < 12; round++) {
        bsi_buf want = {0};
        bsi_renderer_start(r, &l);
        uint64_t seq = round % 3 == 0 ? 1 : round % 3 == 1 ? 995 : 99999999990ull;
        uint8_t *memory[2][SLOTS] = {{0}};
        bsi_field f[2][SLOTS] = {0};
        for (int line = 0; line < 40; line++, seq += below(9) ? 1 : 5) {
            for (int side = 0; side < 2; side++)
                for (uint32_t i = 0; i < slot_count; i++) {
                    if (line && below(3)) continue; /* as in the line before */
                    uint8_t text[VALUE_MAX];
                    value(&f[side][i], text, i >= keys && below(2));
                    free(memory[side][i]);
                    memory[side][i] = malloc(f[side][i].len + (wide ? 32 : !f[side][i].len));
                    memcpy(memory[side][i], text, f[side][i].len);
                    f[side][i].p = memory[side][i];
                }
            char op = ops[below((uint32_t)strlen(ops))];
            bsi_change c = {.op = op, .seq = seq, .slots = &s, .before = op == 'c' ? NULL : f[0], .after = op == 'd' ? NULL : f[1], .before_wide = wide, .after_wide = wide};
            bsi_renderer_add(r, &c);
            bsi_change_render(&want, &c, head);
            cr_assert(eq(u64, l.end[line], want.len));
            cr_assert(eq(chr, l.op[line], op));
            const bsi_field *now = op == 'd' ? f[0] : f[1];
            cr_assert(eq(int, l.nameless[line], partition < 0 || !now[partition].len));
        }
        bsi_renderer_end(r);
        check(&l, &want);
        bsi_buf_free(&want);
        for (int side = 0; side < 2; side++)
            for (uint32_t i = 0; i < slot_count; i++) free(memory[side][i]);
    }
    bsi_lines_release(&l);
    bsi_renderer_close(r);
}

Test(emit_lines, any_values_as_the_plain_renderer_says) {
    const bsi_change_head chunk = {.entity = "bom \"line\"", .id_prefix = "0123456789abcdef", .generation = -1}, history = {.entity = "x", .id_prefix = "aa", .generation = 7},
                          between = {.entity = "x", .generation = -1};
    const bsi_change_head *head[] = {&chunk, NULL, &history, &between};
    const char *ops[] = {"c", "cu", "d", "cud", "u"};
    for (int i = 0; i < 3; i++)
        for (int h = 0; h < 4 && use(i); h++)
            for (int wide = 0; wide < 2; wide++)
                for (int o = 0; o < 5; o++) {
                    series(2, SLOTS, 0, head[h], wide, ops[o]);
                    series(1, 2, -1, head[h], wide, ops[o]);
                    series(3, 3, 2, head[h], wide, ops[o]);
                }
}

/* Each length and each place of each byte: in the line that is new and in one that repeats all but this. */
static void every_byte(void) {
    char *one[] = {"k"};
    uint32_t first[] = {0};
    bsi_slots s = {.name = one, .count = 1, .key_count = 1, .partition = -1, .order = first};
    bsi_renderer *r = bsi_renderer_open(&s, NULL, true);
    bsi_lines l = {0};
    for (int wide = 0; wide < 2; wide++)
        for (size_t n = 0; n <= 70; n += n < 36 ? 1 : 7)
            for (size_t at = 0; at < (n ? n : 1); at++)
                for (unsigned byte = 0; byte < 256; byte++) {
                    uint8_t plain[128], text[128];
                    memset(plain, '0' + (int)n % 10, sizeof plain);
                    memcpy(text, plain, sizeof text);
                    if (n) text[at] = (uint8_t)byte;
                    uint8_t *exact = malloc(n + (wide ? 32 : !n));
                    memcpy(exact, text, n);
                    bsi_field f = {plain, (uint32_t)n, false}, g = {exact, (uint32_t)n, false};
                    bsi_change a = {.op = 'c', .slots = &s, .after = &f, .after_wide = true}, b = {.op = 'c', .slots = &s, .after = &g, .after_wide = wide};
                    bsi_buf want = {0};
                    bsi_change_render(&want, &a, NULL);
                    bsi_change_render(&want, &b, NULL);
                    bsi_renderer_start(r, &l);
                    bsi_renderer_add(r, &a);
                    bsi_renderer_add(r, &b);
                    bsi_renderer_end(r);
                    if (l.text.len != want.len || memcmp(l.text.data, want.data, want.len)) cr_fatal("length %zu, byte %u at %zu", n, byte, at);
                    check(&l, &want);
                    bsi_buf_free(&want);
                    free(exact);
                }
    bsi_lines_release(&l);
    bsi_renderer_close(r);
}

Test(emit_lines, every_byte_at_every_place) {
    for (int i = 0; i < 3; i++)
        if (use(i)) every_byte();
}

Test(emit_lines, lines_of_a_create_repeat_all_but_what_changed) {
    char *n[] = {"k", "v"};
    uint32_t o[] = {0, 1};
    const bsi_slots s = {.name = n, .count = 2, .key_count = 1, .partition = -1, .order = o};
    bsi_renderer *r = bsi_renderer_open(&s, NULL, true);
    bsi_lines l = {0};
    bsi_renderer_start(r, &l);
    for (int i = 0; i < 3; i++) {
        bsi_field f[] = {{(const uint8_t *)"abc", 3, false}, {(const uint8_t *)&"xyz"[i], 1, false}};
        bsi_change c = {.op = 'c', .slots = &s, .after = f};
        bsi_renderer_add(r, &c);
    }
    bsi_renderer_end(r);
    uint32_t line = (uint32_t)l.end[0]; /* {"op":"c","key":{"k":"abc"},"after":{"v":"x"}} */
    cr_assert(eq(u32, l.repeat_count, 3));
    cr_assert(eq(u32, l.repeat[1].literals, line));
    cr_assert(eq(u32, l.repeat[2].literals, 1));
    cr_assert(eq(u32, l.repeat[2].match, line - 1));
    cr_assert(eq(u32, l.repeat[2].offset, line));
    bsi_lines_release(&l);
    bsi_renderer_close(r);
}
