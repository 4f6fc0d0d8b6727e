/* Frames of told lines: what libzstd makes of them is the content, and the bytes depend on the slices alone. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

#include "emit/emit_inner.h"
#include "flow/block.h"

static uint64_t x = 88172645463325252ull;

static uint32_t below(uint32_t n) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)((x >> 20) % n);
}

static char *names[] = {"k", "a", "b", "c"};
static uint32_t order[] = {0, 1, 2, 3};
static const bsi_slots slots = {.name = names, .count = 4, .key_count = 1, .partition = -1, .order = order};
static const bsi_change_head head = {.entity = "e", .id_prefix = "0123456789abcdef", .generation = -1};

/* From now on with the i-th set of instructions, if this machine has it. */
static bool use(int i) {
    static const char *const name[] = {"scalar", "avx2", "avx512"};
    bsi_isa isa;
    if (bsi_isa_choose(&isa, name[i], NULL)) return false;
    bsi_emit_use_isa((int)isa);
    return true;
}

typedef enum kind { SAME, NUMBERS, WORDS, NOISE, BYTES, WIDE, UPDATES, KINDS } kind;

static uint32_t fill(uint8_t *to, kind k) {
    static const char *const words[] = {"bolt", "washer M8", "bearing, left", "EA", "", "2024-01-01", ("\xc3\xbc" "ber"), "a \"quoted\" one"};
    uint32_t n = 0;
    switch (k) {
    case SAME: memcpy(to, "all the same", n = 12); break;
    case NUMBERS: n = (uint32_t)sprintf((char *)to, "%u", below(100000)); break;
    case WORDS:
    case UPDATES: n = (uint32_t)sprintf((char *)to, "%s", words[below(8)]); break;
    case NOISE:
        n = below(60);
        for (uint32_t i = 0; i < n; i++) to[i] = (uint8_t)(' ' + 1 + below(90));
        break;
    case BYTES:
        n = below(40);
        for (uint32_t i = 0; i < n; i++) to[i] = (uint8_t)below(256);
        break;
    default:
        n = below(30000);
        memset(to, 'a' + (int)below(3), n);
    }
    return n;
}

static void make_lines(bsi_lines *l, bsi_renderer *r, kind k, uint32_t count, uint64_t seq) {
    static uint8_t text[2][4][30001];
    bsi_field f[2][4] = {0};
    bsi_renderer_start(r, l);
    for (uint32_t i = 0; i < count; i++) {
        for (int side = 0; side < 2; side++)
            for (int c = 0; c < 4; c++)
                if (!i || below(3)) f[side][c] = (bsi_field){text[side][c], fill(text[side][c], k), false};
        bool update = k == UPDATES && below(2);
        bsi_change c = {.op = update ? 'u' : 'c', .seq = seq + i, .slots = &slots, .before = update ? f[0] : NULL, .after = f[1]};
        bsi_renderer_add(r, &c);
    }
    bsi_renderer_end(r);
}

static void check(bsi_frame *f, const bsi_slice *s, size_t count, bsi_buf *packed) {
    bsi_buf want = {0};
    bsi_hash128 h;
    for (size_t i = 0; i < count; i++) bsi_buf_add(&want, s[i].lines->text.data + bsi_slice_start(&s[i]), bsi_slice_bytes(&s[i]));
    bsi_frame_make(packed, &h, f, s, count);
    cr_assert(eq(u64, ZSTD_getFrameContentSize(packed->data, packed->len), want.len));
    uint8_t *back = malloc(want.len + 1);
    size_t rc = ZSTD_decompress(back, want.len, packed->data, packed->len);
    if (ZSTD_isError(rc)) cr_fatal("%s", ZSTD_getErrorName(rc));
    cr_assert(eq(sz, rc, want.len));
    cr_assert(zero(int, memcmp(back, want.data, want.len)));
    cr_assert(eq(int, bsi_hash128_eq(h, bsi_xxh128(want.data, want.len)), true));
    free(back);
    bsi_buf_free(&want);
}

static void any_lines(void) {
    bsi_frame *f = bsi_frame_open();
    for (int k = 0; k < KINDS; k++) {
        bsi_renderer *r = bsi_renderer_open(&slots, &head, true);
        for (int round = 0; round < 6; round++) {
            bsi_lines l[12] = {0};
            bsi_slice s[12];
            bsi_buf packed = {0};
            uint64_t seq = 1;
            size_t count = 1 + below(12);
            for (size_t i = 0; i < count; i++) {
                make_lines(&l[i], r, (kind)k, k == WIDE ? 1 + below(40) : 1 + below(1200), seq);
                s[i] = (bsi_slice){&l[i], 0, l[i].count};
                seq += l[i].count;
            }
            check(f, s, count, &packed);
            for (int cut = 0; cut < 6; cut++) { /* the first and the last in part only, as chunks do */
                bsi_slice part[12];
                memcpy(part, s, sizeof part);
                part[0].first = below(l[0].count);
                part[0].count = l[0].count - part[0].first;
                part[count - 1].count = 1 + below(part[count - 1].count);
                check(f, part, count, &packed);
            }
            bsi_buf_free(&packed);
            for (size_t i = 0; i < count; i++) bsi_lines_release(&l[i]);
        }
        bsi_renderer_close(r);
    }
    bsi_frame_close(f);
}

Test(emit_frame, whatever_the_lines_a_decoder_gives_them_back) {
    for (int i = 0; i < 3; i++)
        if (use(i)) any_lines();
}

/* Each single line, and each pair that stands side by side: no border is special. */
Test(emit_frame, every_cut_of_a_few_lines) {
    bsi_frame *f = bsi_frame_open();
    bsi_renderer *r = bsi_renderer_open(&slots, &head, true);
    bsi_buf packed = {0};
    for (int k = 0; k < WIDE; k++) {
        bsi_lines l = {0};
        make_lines(&l, r, (kind)k, 30, 95);
        for (uint32_t from = 0; from < l.count; from++)
            for (uint32_t n = 1; from + n <= l.count; n++) {
                bsi_slice s = {&l, from, n};
                check(f, &s, 1, &packed);
            }
        bsi_lines_release(&l);
    }
    bsi_buf_free(&packed);
    bsi_renderer_close(r);
    bsi_frame_close(f);
}

Test(emit_frame, neither_an_earlier_frame_nor_the_instructions_decide) {
    cr_assert(eq(int, use(0), true));
    bsi_frame *used = bsi_frame_open();
    bsi_renderer *r = bsi_renderer_open(&slots, &head, true);
    bsi_buf a = {0}, b = {0};
    for (int k = 0; k < KINDS; k++) {
        bsi_lines l = {0};
        make_lines(&l, r, (kind)k, k == WIDE ? 20 : 3000, 1);
        bsi_slice s = {&l, 0, l.count};
        bsi_frame *fresh = bsi_frame_open();
        check(fresh, &s, 1, &a);
        check(used, &s, 1, &b);
        cr_assert(eq(sz, a.len, b.len));
        cr_assert(zero(int, memcmp(a.data, b.data, a.len)));
        bsi_frame_close(fresh);
        for (int i = 1; i < 3; i++) {
            if (!use(i)) continue;
            fresh = bsi_frame_open();
            check(fresh, &s, 1, &b);
            cr_assert(eq(sz, a.len, b.len));
            cr_assert(zero(int, memcmp(a.data, b.data, a.len)));
            bsi_frame_close(fresh);
        }
        bsi_lines_release(&l);
    }
    bsi_buf_free(&a);
    bsi_buf_free(&b);
    bsi_renderer_close(r);
    bsi_frame_close(used);
}
