/* test_align - two files side by side: what comes out covers both, and `same` is the same. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <unistd.h>

#include "flow/align.h"
#include "flow/block.h"

static uint32_t next(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u, *seed >> 8; }

typedef struct pair {
    bsi_buf text[2];
    bsi_tiling t;
    bool aligned;
    bsi_line_shape shape;
} pair;

static bsi_source *source_of(const bsi_buf *b) {
    char path[] = "/tmp/test_align.XXXXXX";
    int fd = mkstemp(path);
    cr_assert(ge(int, fd, 0));
    cr_assert(eq(i64, write(fd, b->data, b->len), (int64_t)b->len));
    close(fd);
    bsi_source *s = NULL;
    bsi_source_options o = {.io = "pread", .workers = 1};
    cr_assert(zero(int, (int)bsi_source_open(&s, path, &o, NULL)));
    unlink(path);
    return s;
}

static void align(pair *p, size_t batch, uint64_t unit, int workers) {
    bsi_dialect d = {.delimiter = ',', .quote = '"'};
    bsi_source *s[2] = {source_of(&p->text[0]), source_of(&p->text[1])};
    bsi_isa isa;
    bsi_isa_choose(&isa, "auto", NULL);
    bsi_align_options o = {.old = s[0], .now = s[1], .dialect = &d, .isa = (int)isa, .workers = workers, .order = true, .batch_bytes = batch,
                           .unit_bytes = unit, .unit_least = unit};
    o.shape = (bsi_line_shape){.delimiter = ',', .quote = '"', .columns = 2, .key_count = 1};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    cr_assert(zero(int, (int)bsi_align(&p->t, &p->aligned, &o, &err)));
    p->shape = o.shape;
    bsi_source_close(s[0]);
    bsi_source_close(s[1]);
}

static void release(pair *p) {
    bsi_tiling_release(&p->t);
    bsi_buf_free(&p->text[0]);
    bsi_buf_free(&p->text[1]);
}

/* Stretches of one side and its pieces, one behind the other, are the file. */
static void check_cover(const pair *p, int side) {
    const bsi_tiling *t = &p->t;
    const bsi_piece *v = side ? t->now : t->old;
    size_t n = side ? t->now_count : t->old_count, i = 0, k = 0;
    uint64_t at = 0;
    while (i < n || k < t->same_count) {
        uint64_t same_at = k == t->same_count ? UINT64_MAX : side ? t->same[k].now_at : t->same[k].old_at;
        if (i < n && v[i].at < same_at) {
            cr_assert(eq(u64, v[i].at, at));
            at += v[i++].bytes;
        } else {
            cr_assert(eq(u64, same_at, at));
            at += t->same[k++].bytes;
        }
    }
    cr_assert(eq(u64, at, p->text[side].len));
}

static void check(const pair *p) {
    for (size_t i = 0; i < p->t.same_count; i++) {
        const bsi_same *s = &p->t.same[i];
        cr_assert(zero(int, memcmp(p->text[0].data + s->old_at, p->text[1].data + s->now_at, s->bytes)));
        cr_assert(eq(u8, p->text[0].data[s->old_at + s->bytes - 1], '\n'));
    }
    check_cover(p, 0);
    check_cover(p, 1);
}

Test(align, random_edits_are_tiled_exactly) {
    uint32_t seed = 5;
    int aligned = 0;
    for (int round = 0; round < 300; round++) {
        pair p = {0};
        uint32_t rate = next(&seed) % 3 ? 40 : 5;
        for (uint32_t i = 0; i < 20 + next(&seed) % 150; i++) {
            char line[64];
            sprintf(line, round % 4 ? "K%05u,%u\n" : "K%05u,\"%u\nx\"\n", i * 3, next(&seed) % 100);
            uint32_t what = next(&seed) % rate;
            if (what != 1) bsi_buf_str(&p.text[0], line);
            if (what == 2) bsi_buf_addf(&p.text[1], "K%05u,new\n", i * 3 + 1);
            if (what == 3) bsi_buf_addf(&p.text[1], "K%05u,other\n", i * 3);
            else if (what != 4) bsi_buf_str(&p.text[1], line);
        }
        align(&p, 64 + next(&seed) % 400, 200 + next(&seed) % 800, 1 + round % 3);
        aligned += p.aligned;
        if (p.aligned) check(&p);
        release(&p);
    }
    cr_assert(gt(int, aligned, 250));
}

static void numbers(pair *p, const char *old, const char *now) {
    *p = (pair){0};
    bsi_buf_str(&p->text[0], old);
    bsi_buf_str(&p->text[1], now);
    align(p, 4096, 4096, 1);
    cr_assert(p->aligned);
    check(p);
}

Test(align, keys_that_ascend_are_sure) {
    pair p;
    numbers(&p, "8,a\n9,b\n10,c\n", "8,a\n9,x\n10,c\n");
    cr_assert(p.t.sure);
    cr_assert(eq(sz, p.t.old_count, 1));
    cr_assert(eq(u64, p.t.same_records, 2));
    cr_assert(eq(sz, p.t.span_count, 1));
    size_t first;
    cr_assert(eq(sz, bsi_tiling_spans(&first, &p.t, &p.shape, (const uint8_t *)"9\n"), 1));
    cr_assert(eq(sz, bsi_tiling_spans(&first, &p.t, &p.shape, (const uint8_t *)"11\n"), 0));
    release(&p);
}

Test(align, twins_in_equal_bytes_are_opened_on_both_sides) {
    pair p;
    numbers(&p, "1,a\n2,b\n2,b\n3,c\n", "1,a\n2,b\n2,b\n3,c\n");
    cr_assert(p.t.sure);
    cr_assert(eq(sz, p.t.old_count, 2));
    cr_assert(eq(sz, p.t.now_count, 2));
    cr_assert(eq(u64, p.t.same_records, 2));
    release(&p);
}

Test(align, key_out_of_order_is_searched_in_the_chain) {
    pair p;
    numbers(&p, "1,a\n2,b\n900,b\n3,c\n4,d\n900,e\n", "1,a\n2,b\n900,b\n3,c\n4,d\n900,e\n");
    cr_assert(p.t.sure);
    cr_assert(eq(sz, p.t.now_count, 2)); /* the single, and its twin in the chain */
    release(&p);
}

Test(align, keys_in_no_order_are_not_sure) {
    bsi_buf b = {0};
    uint32_t seed = 9;
    for (int i = 0; i < 300; i++) bsi_buf_addf(&b, "%u,x\n", next(&seed) % 100000);
    bsi_buf_byte(&b, 0);
    pair p;
    numbers(&p, (const char *)b.data, (const char *)b.data);
    cr_assert(not(p.t.sure));
    release(&p);
    bsi_buf_free(&b);
}

Test(align, records_that_cannot_be_read_are_opened) {
    pair p;
    numbers(&p, "1,a\n2,b,c\n3,\xff\n4,d\n", "1,a\n2,b,c\n3,\xff\n4,d\n");
    cr_assert(eq(sz, p.t.old_count, 2));
    cr_assert(eq(u64, p.t.same_records, 2));
    release(&p);
}

Test(align, lone_cr_is_another_way) {
    pair p = {0};
    bsi_buf_str(&p.text[0], "1,a\r2,b\n");
    bsi_buf_str(&p.text[1], "1,a\r2,b\n");
    align(&p, 4096, 4096, 1);
    cr_assert(not(p.aligned));
    release(&p);
}

/* A record is told with the blank lines behind it, which may not be in OLD. */
Test(align, opened_record_ends_where_equal_bytes_end) {
    pair p;
    numbers(&p, "1,a\n2,b\n3,c\n4,d\n", "1,a\n2,b\n\n3,c\n4,d\n");
    bsi_tiling_open(&p.t, &(bsi_piece){.at = 4, .bytes = 5, .records = 1}, 1);
    check(&p);
    cr_assert(eq(u64, p.t.same_records, 3));
    release(&p);
}
