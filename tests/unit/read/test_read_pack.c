/* tests/unit/read/test_read_pack.c - the index of a pack there and back, every bit of it flipped, and bytes at any offset. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "core/base.h"
#include "flow/block.h"
#include "flow/source.h"

enum { FRAMES = 40, FRAME_BYTES = 5000, HEADER_BYTES = 12 };

typedef struct packed {
    bsi_buf content, file;
    size_t tail; /* where the index frame begins */
    char path[64];
} packed;

static void add_frame(packed *p, bsi_pack_writer *w, size_t bytes, uint64_t blocks) {
    uint8_t out[2 * FRAME_BYTES];
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    size_t n = ZSTD_compress2(c, out, sizeof out, p->content.data + p->content.len - bytes, bytes);
    ZSTD_freeCCtx(c);
    bsi_buf_add(&p->file, out, n);
    bsi_pack_add_frame(w, n, bytes, blocks);
}

static bsi_block_size block_size = {12, 6};

/* A header and frames of lines, one block in four a frame. spoil: a block whose digest is wrong, -1: none. */
static packed make(int64_t spoil) {
    packed p = {0};
    bsi_pack_writer w = {.delimiter = ',', .quote = '"', .block_size = block_size, .header_bytes = HEADER_BYTES};
    uint8_t head[BSI_PACK_HEAD_BYTES];
    bsi_pack_head(head);
    bsi_buf_add(&p.file, head, sizeof head);
    bsi_buf_str(&p.content, "column,more\n");
    add_frame(&p, &w, HEADER_BYTES, 0);
    for (unsigned f = 0; f < FRAMES; f++) {
        size_t frame = p.content.len;
        for (unsigned b = 0; b < 4; b++) {
            size_t from = p.content.len;
            while (p.content.len - from < FRAME_BYTES / 4) bsi_buf_addf(&p.content, "%06zu,%06u\n", p.content.len, f * b);
            bsi_pack_block k = {.bytes = (uint32_t)(p.content.len - from), .records = (uint32_t)(p.content.len - from) / 14,
                                .plain = bsi_xxh128(p.content.data + from, p.content.len - from), .blanks = b == 2};
            if (spoil == (int64_t)(f * 4 + b)) k.plain.lo ^= 1;
            if (f + 1 == FRAMES && b == 3) k.flags = BSI_CUT_AT_END;
            bsi_pack_add_block(&w, &k);
        }
        add_frame(&p, &w, p.content.len - frame, 4);
    }
    p.tail = p.file.len;
    bsi_buf tail = {0};
    if (bsi_pack_tail(&tail, &w, NULL)) abort();
    bsi_buf_add(&p.file, tail.data, tail.len);
    bsi_buf_free(&tail);
    bsi_pack_writer_release(&w);
    snprintf(p.path, sizeof p.path, "/tmp/bomsync-pack-%d.csv.zst", (int)getpid());
    return p;
}

static void drop(packed *p) {
    unlink(p->path);
    bsi_buf_free(&p->content);
    bsi_buf_free(&p->file);
}

static bsi_source *open_it(const packed *p, const bsi_source_options *o, bomsync_error *err) {
    bsi_source *s = NULL;
    unlink(p->path);
    if (bsi_write_file(p->path, p->file.data, p->file.len, NULL)) abort();
    bsi_source_open(&s, p->path, o, err);
    return s;
}

static bsi_pack *read_index(const packed *p, const uint8_t *file) {
    size_t n = p->file.len - p->tail - 8;
    uint8_t *copy = bsi_alloc(n);
    memcpy(copy, file + p->tail + 8, n);
    return bsi_pack_read(copy, n - BSI_PACK_FOOTER_BYTES, p->tail);
}

static const bsi_source_options plain_options = {.io = "auto", .workers = 2};

TestSuite(read_pack, .timeout = 60);

Test(read_pack, size_of_blocks_is_kept_and_was_a_third_before) {
    const bsi_block_size given[] = {{12, 6}, {16, 8}, {5, 5}, {12, 0}, {13, 0}}, want[] = {{12, 6}, {16, 8}, {5, 5}, {12, 4}, {13, 5}};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        block_size = given[i];
        packed p = make(-1);
        bsi_source *s = open_it(&p, &(bsi_source_options){.io = "pread", .workers = 1}, &err);
        const bsi_pack *k = s ? bsi_source_pack(s) : NULL;
        cr_assert(ne(ptr, (void *)(uintptr_t)k, NULL));
        cr_assert(eq(u32, k->block_size.records, want[i].records));
        cr_assert(eq(u32, k->block_size.least, want[i].least));
        bsi_source_close(s);
        drop(&p);
    }
    block_size = (bsi_block_size){12, 6};
}

Test(read_pack, index_comes_back_as_it_was_written) {
    packed p = make(-1);
    bsi_pack *k = read_index(&p, p.file.data);
    cr_assert(ne(ptr, k, NULL));
    cr_assert(eq(u64, k->content_bytes, p.content.len));
    cr_assert(eq(u64, k->block_count, 4 * FRAMES));
    cr_assert(eq(sz, k->frame_count, FRAMES + 1));
    bsi_pack_walk w = {.pack = k};
    bsi_pack_block b;
    uint64_t at = HEADER_BYTES, n = 0;
    for (; bsi_pack_next(&w, &b); n++) {
        cr_assert(eq(u64, b.offset, at));
        cr_assert(bsi_hash128_eq(b.plain, bsi_xxh128(p.content.data + at, b.bytes)));
        cr_assert(eq(u32, b.records, b.bytes / 14));
        cr_assert(eq(u32, b.blanks, n % 4 == 2));
        cr_assert(eq(u32, b.flags, n + 1 == 4 * FRAMES ? BSI_CUT_AT_END : 0));
        at += b.bytes;
    }
    cr_assert(eq(u64, at, p.content.len));
    bsi_pack_free(k);
    drop(&p);
}

Test(read_pack, index_with_any_bit_flipped_is_none) {
    packed p = make(-1);
    for (size_t bit = (p.tail + 8) * 8; bit < (p.file.len - 8) * 8; bit++) {
        if (bit / 8 >= p.file.len - 12 && bit / 8 < p.file.len - 8) continue; /* the four bytes that mean nothing yet */
        p.file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        bsi_pack *k = read_index(&p, p.file.data);
        cr_assert(eq(ptr, k, NULL), "bit %zu", bit);
        p.file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    drop(&p);
}

/* A wrong index with a right checksum: each byte of sizes changed. Never a crash; what is taken still tiles. */
Test(read_pack, index_with_other_sizes_is_checked) {
    packed p = make(-1);
    size_t n = p.file.len - p.tail - 8 - BSI_PACK_FOOTER_BYTES;
    uint8_t *index = p.file.data + p.tail + 8, *foot = index + n;
    unsigned taken = 0;
    for (size_t i = 0; i < n; i++) {
        if (i >= 57 && i < 56 + 16 * 4 * FRAMES) continue; /* digests may be anything */
        for (unsigned v = 1; v < 256; v += 50) {
            index[i] ^= (uint8_t)v;
            bsi_hash128 h = bsi_xxh128(index, n);
            memcpy(foot + 8, &h, 16);
            bsi_pack *k = read_index(&p, p.file.data);
            if (k) {
                taken++;
                cr_assert(eq(u64, k->content_bytes, p.content.len));
                bsi_pack_walk w = {.pack = k};
                bsi_pack_block b = {0};
                uint64_t at = k->header_bytes;
                while (bsi_pack_next(&w, &b)) at += b.bytes;
                cr_assert(eq(u64, at, p.content.len));
            }
            bsi_pack_free(k);
            index[i] ^= (uint8_t)v;
        }
    }
    cr_assert(lt(uint, taken, 400)); /* dialect, block_records, a digest; blank lines and flags; sums that still agree */
    drop(&p);
}

/* The lines of the example in FORMAT.md are a pack: the page and the reader agree, and old packs stay readable. */
Test(read_pack, example_of_the_format_page_is_read) {
    bsi_buf page = {0};
    packed p = {0};
    snprintf(p.path, sizeof p.path, "/tmp/bomsync-pack-%d.csv.zst", (int)getpid());
    cr_assert(zero(int, (int)bsi_read_file(&page, "engine/read/FORMAT.md", 1 << 20, NULL)));
    bsi_buf_byte(&page, 0);
    char *line = strstr((char *)page.data, "**Example.**");
    for (line = strtok(line, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "    ", 4)) continue;
        unsigned byte;
        int used;
        cr_assert(eq(sz, p.file.len, strtoul(line + 4, &line, 16)));
        for (; strspn(line, " ") < 4 && sscanf(line, "%2x%n", &byte, &used) == 1; line += used) bsi_buf_byte(&p.file, (uint8_t)byte);
    }
    cr_assert(eq(sz, p.file.len, 180));
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_source *s = open_it(&p, &plain_options, &err);
    cr_assert(ne(ptr, s, NULL));
    const bsi_pack *k = bsi_source_pack(s);
    cr_assert(ne(ptr, (void *)k, NULL));
    bsi_pack_walk w = {.pack = k};
    bsi_pack_block b;
    cr_assert(bsi_pack_next(&w, &b));
    cr_assert(bsi_hash128_eq(b.plain, bsi_xxh128("1,2\n", 4)));
    char text[9] = {0};
    cr_assert(eq(i64, bsi_source_pread(s, text, 9, 0, &err), 8));
    cr_assert(eq(str, text, "a,b\n1,2\n"));
    bsi_source_close(s);
    bsi_buf_free(&page);
    drop(&p);
}

typedef struct reader {
    bsi_source *s;
    const packed *p;
    unsigned seed;
    bool good;
} reader;

static void *read_anywhere(void *arg) {
    reader *r = arg;
    uint8_t *buf = bsi_alloc(4 * FRAME_BYTES);
    r->good = true;
    for (int i = 0; i < 2000; i++) {
        uint64_t at = (uint64_t)rand_r(&r->seed) % (r->p->content.len + 100);
        size_t n = (size_t)rand_r(&r->seed) % (4 * FRAME_BYTES);
        size_t want = at >= r->p->content.len ? 0 : BSI_MIN(n, r->p->content.len - at);
        bomsync_error err = BOMSYNC_ERROR_INIT;
        ssize_t got = bsi_source_pread(r->s, buf, n, at, &err);
        if (got != (ssize_t)want || (want && memcmp(buf, r->p->content.data + at, want))) r->good = false;
    }
    free(buf);
    return NULL;
}

Test(read_pack, bytes_at_any_offset_by_several_threads) {
    packed p = make(-1);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_source *s = open_it(&p, &plain_options, &err);
    cr_assert(ne(ptr, s, NULL));
    cr_assert(bsi_source_random(s));
    cr_assert(eq(u64, bsi_source_size(s), p.content.len));
    cr_assert(eq(u64, bsi_source_raw_bytes(s), p.file.len));
    cr_assert(eq(str, (char *)bsi_source_io(s), "pack"));
    cr_assert(eq(i64, bsi_source_line(s, HEADER_BYTES + 14 * 10), 12));
    reader r[4];
    pthread_t t[4];
    for (unsigned i = 0; i < 4; i++) {
        r[i] = (reader){.s = s, .p = &p, .seed = i};
        pthread_create(&t[i], NULL, read_anywhere, &r[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        cr_assert(r[i].good);
    }
    bsi_source_close(s);
    drop(&p);
}

Test(read_pack, other_encoding_or_trailer_makes_it_a_stream) {
    packed p = make(-1);
    bsi_source_options o[2] = {plain_options, plain_options};
    o[0].encoding = "latin1";
    o[1].trailer_regex = "^x";
    for (int i = 0; i < 2; i++) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bsi_source *s = open_it(&p, &o[i], &err);
        cr_assert(ne(ptr, s, NULL));
        cr_assert(not(bsi_source_random(s)));
        cr_assert(eq(ptr, (void *)bsi_source_pack(s), NULL));
        bsi_source_close(s);
    }
    drop(&p);
}

Test(read_pack, damaged_frame_is_refused_with_its_number) {
    packed p = make(-1);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_source *s = open_it(&p, &plain_options, &err);
    uint64_t at = bsi_source_pack(s)->frame[7].at;
    bsi_source_close(s);
    p.file.data[at + 40] ^= 4;
    s = open_it(&p, &plain_options, &err);
    uint8_t buf[2 * FRAME_BYTES];
    cr_assert(eq(int, (int)bsi_source_pack_frame(s, 6, buf, &err), BOMSYNC_OK));
    cr_assert(eq(int, (int)bsi_source_pack_frame(s, 7, buf, &err), BOMSYNC_E_REFUSED));
    cr_assert(ne(ptr, strstr(err.message, "frame 7"), NULL));
    cr_assert(eq(str, err.file, p.path));
    bsi_source_close(s);
    drop(&p);
}

Test(read_pack, damaged_index_makes_it_a_stream_with_the_same_bytes) {
    packed p = make(-1);
    p.file.data[p.tail + 100] ^= 4;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_source *s = open_it(&p, &plain_options, &err);
    cr_assert(not(bsi_source_random(s)));
    bsi_buf all = {0};
    for (ssize_t n = 1; n > 0; all.len += (size_t)n) {
        bsi_buf_reserve(&all, 1 << 16);
        n = bsi_source_read(s, all.data + all.len, 1 << 16, &err);
        cr_assert(ge(i64, n, 0));
    }
    cr_assert(eq(sz, all.len, p.content.len));
    cr_assert(zero(int, memcmp(all.data, p.content.data, all.len)));
    bsi_buf_free(&all);
    bsi_source_close(s);
    drop(&p);
}

Test(read_pack, cut_or_appended_is_refused) {
    packed p = make(-1);
    size_t whole = p.file.len;
    for (size_t n = 16; n < whole; n += n > p.tail || n < 60 ? 1 : 997) {
        p.file.len = n;
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bsi_source *s = open_it(&p, &plain_options, &err);
        cr_assert(eq(ptr, s, NULL), "cut at %zu", n);
        cr_assert(eq(int, (int)err.status, BOMSYNC_E_REFUSED));
    }
    p.file.len = whole;
    bsi_buf_str(&p.file, "\n");
    bomsync_error err = BOMSYNC_ERROR_INIT;
    cr_assert(eq(ptr, open_it(&p, &plain_options, &err), NULL));
    cr_assert(eq(int, (int)err.status, BOMSYNC_E_REFUSED));
    drop(&p);
}
