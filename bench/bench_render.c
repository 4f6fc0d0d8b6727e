/* bench_render: rows to lines to frames of one core, each step beside its slow twin.
 *
 *   bench_render [megabytes]            made-up BOM lines
 *   bench_render FILE KEY,KEY,…         the first 256 MB of a CSV file
 *
 *   fields    row images to fields
 *   line      fields to lines by bsi_change_render, one at a time
 *   lines     by a renderer, which notes what repeats
 *   frame     lines to zstd frames of a chunk's size, with XXH3-128 of the content
 *   zstd      the same content by libzstd at level 1, and XXH3-128
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <zstd.h>

#include "bench_data.h"
#include "emit/emit_inner.h"
#include "flow/block.h"
#include "flow/rows.h"

enum { BATCH = 512, CHUNK = 10000, ROUNDS = 3 };

typedef struct table {
    bsi_slots slots;
    bsi_rows *rows;      /* of blocks */
    size_t blocks;
    uint64_t records;
    bsi_layout *layout;
    bsi_field *field;    /* [records][slots], of the first records */
} table;

static void make_table(table *t, const uint8_t *p, size_t n, const char *const *key, uint32_t key_count) {
    const bsi_dialect d = {',', '"', true};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    char **names;
    uint32_t count;
    size_t head;
    *t = (table){.slots = {.partition = -1}};
    bsi_parse_header(&names, &count, &head, &d, p, n, true, &err);
    if (bsi_layout_open(&t->layout, &t->slots, &d, (const char *const *)names, count, key, key_count, key[0], NULL, 0, NULL, 0, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(2);
    }
    bsi_secret secret = {{0}};
    bsi_cut_options o = {{',', '"', true}, bsi_block_size_of(0), BSI_ISA_SCALAR};
    bsi_cut c;
    size_t cap = 0;
    for (size_t at = head; at < n && bsi_cut_block(&c, &o, p + at, n - at, true) == 1; at += c.bytes) {
        if (t->blocks == cap) t->rows = bsi_realloc(t->rows, (cap = cap ? cap * 2 : 1024) * sizeof *t->rows);
        bsi_rows *w = &t->rows[t->blocks++];
        *w = (bsi_rows){0};
        bsi_parse_block(w, t->layout, &secret, p + at, c.bytes, false);
        t->records += w->count;
    }
    t->records = t->records / CHUNK * CHUNK;
}

/* Of the processor, not of the clock: others may be at work on the machine. */
static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static double since(int64_t start) { return (double)(now() - start) / 1e9; }

static void tell(const char *kind, const char *step, double s, uint64_t records, uint64_t bytes, bsi_hash128 hash) {
    char hex[33];
    bsi_hash128_hex(hex, hash);
    printf("%-16s %-8s %7.1f ns/record %7.3f M records/s %8.1f MB out  %s\n", kind, step, s * 1e9 / (double)records, (double)records / s / 1e6,
           (double)bytes / 1e6, hex);
}

static void run(const char *kind, const uint8_t *p, size_t n, const char *const *key, uint32_t key_count) {
    table t;
    make_table(&t, p, n, key, key_count);
    const uint32_t slots = t.slots.count;
    bsi_field *f = bsi_alloc(sizeof *f * slots);
    bsi_change_head head = {.entity = "bom_line", .id_prefix = "0123456789abcdef", .generation = -1};
    double best[5] = {9e9, 9e9, 9e9, 9e9, 9e9};
    bsi_buf text = {0}, twin = {0}, packed = {0};
    bsi_lines lines[CHUNK / BATCH + 1] = {0};
    bsi_renderer *r = bsi_renderer_open(&t.slots, &head, true);
    bsi_frame *frame = bsi_frame_open();
    ZSTD_CCtx *z = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, 1);
    ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
    uint64_t bytes = 0, frame_bytes = 0, zstd_bytes = 0;
    bsi_hash128 sum[3] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        double took[5] = {0};
        bytes = frame_bytes = zstd_bytes = 0;
        memset(sum, 0, sizeof sum);
        size_t block = 0;
        uint32_t row = 0;
        for (uint64_t done = 0; done < t.records; done += CHUNK) {
            size_t block_at = block;
            uint32_t row_at = row;
            for (int step = 0; step < 3; step++) {
                block = block_at, row = row_at;
                text.len = 0;
                bsi_lines *to = lines;
                int64_t start = now();
                for (uint32_t i = 0; i < CHUNK; i++, row++) {
                    while (row >= t.rows[block].count) block++, row = 0;
                    const bsi_rows *w = &t.rows[block];
                    bsi_image_fields(f, slots, w->enc.data + w->image[row], w->body[row], w->image[row + 1] - w->image[row], t.layout->slot_count);
                    if (!step) {
                        sum[2].lo += f[slots - 1].len;
                        continue;
                    }
                    bsi_change c = {.op = 'c', .seq = done + i + 1, .slots = &t.slots, .after = f, .after_wide = w->image[row + 1] + 32 <= w->enc.cap};
                    if (step == 1) {
                        bsi_change_render(&text, &c, &head);
                        continue;
                    }
                    if (i % BATCH == 0) bsi_renderer_start(r, to);
                    bsi_renderer_add(r, &c);
                    if (i % BATCH == BATCH - 1 || i == CHUNK - 1) {
                        bsi_renderer_end(r);
                        to++;
                    }
                }
                took[step] += since(start);
                if (step == 1) {
                    twin.len = 0;
                    bsi_buf_add(&twin, text.data, text.len);
                }
            }
            bsi_slice slice[CHUNK / BATCH + 1];
            size_t slices = 0;
            uint64_t all = 0;
            for (uint32_t i = 0; i < CHUNK; i += BATCH, slices++) {
                slice[slices] = (bsi_slice){&lines[slices], 0, lines[slices].count};
                if (all + lines[slices].text.len > twin.len || memcmp(twin.data + all, lines[slices].text.data, lines[slices].text.len)) abort();
                all += lines[slices].text.len;
            }
            if (all != twin.len) abort();
            bsi_hash128 h;
            int64_t start = now();
            bsi_frame_make(&packed, &h, frame, slice, slices);
            took[3] += since(start);
            if (!round) {
                bsi_buf back = {0};
                bsi_buf_reserve(&back, all);
                size_t rc = ZSTD_decompress(back.data, all, packed.data, packed.len);
                if (ZSTD_isError(rc) || rc != all || memcmp(back.data, twin.data, all)) {
                    fprintf(stderr, "frame at record %llu: %s\n", (unsigned long long)done, ZSTD_getErrorName(rc));
                    FILE *bad = fopen("/tmp/bad.zst", "wb");
                    fwrite(packed.data, 1, packed.len, bad);
                    fclose(bad);
                    exit(1);
                }
                bsi_buf_free(&back);
            }
            bytes += all;
            frame_bytes += packed.len;
            sum[0].lo ^= h.lo, sum[0].hi ^= h.hi;
            bsi_hash128 file = bsi_xxh128(packed.data, packed.len);
            sum[1].lo ^= file.lo, sum[1].hi ^= file.hi;
            bsi_buf_reserve(&packed, ZSTD_compressBound(all));
            start = now();
            zstd_bytes += ZSTD_compress2(z, packed.data, packed.cap, twin.data, twin.len);
            h = bsi_xxh128(twin.data, twin.len);
            took[4] += since(start);
        }
        for (int i = 0; i < 5; i++) best[i] = BSI_MIN(best[i], took[i]);
    }
    tell(kind, "fields", best[0], t.records, n, (bsi_hash128){0});
    tell(kind, "line", best[1], t.records, bytes, sum[0]);
    tell(kind, "lines", best[2], t.records, bytes, sum[0]);
    tell(kind, "frame", best[3], t.records, frame_bytes, sum[1]);
    tell(kind, "zstd", best[4], t.records, zstd_bytes, (bsi_hash128){0});
    for (size_t i = 0; i < t.blocks; i++) bsi_rows_free(&t.rows[i]);
    free(t.rows);
    for (size_t i = 0; i < CHUNK / BATCH + 1; i++) bsi_lines_release(&lines[i]);
    bsi_renderer_close(r);
    bsi_frame_close(frame);
    ZSTD_freeCCtx(z);
    bsi_buf_free(&text);
    bsi_buf_free(&twin);
    bsi_buf_free(&packed);
    bsi_layout_close(t.layout);
    bsi_slots_free(&t.slots);
    free(f);
}

int main(int argc, char **argv) {
    if (argc > 2) {
        FILE *file = fopen(argv[1], "rb");
        size_t most = 256u << 20;
        uint8_t *p = malloc(most + 4096);
        size_t n = file ? fread(p, 1, most, file) : 0;
        if (!n) return perror(argv[1]), 2;
        while (n && p[n - 1] != '\n') n--;
        memset(p + n, 0, 64);
        const char *key[16];
        uint32_t keys = 0;
        for (char *k = strtok(argv[2], ","); k && keys < 16; k = strtok(NULL, ",")) key[keys++] = k;
        run("file", p, n, key, keys);
        fclose(file);
        free(p);
        return 0;
    }
    size_t n = (argc > 1 ? strtoul(argv[1], NULL, 10) : 32) << 20;
    uint8_t *p = malloc(n + 4096 + 256);
    const char *key[] = {"plant", "parent", "line"};
    for (int kind = 0; kind < BENCH_KINDS; kind++) {
        size_t head = strlen(BENCH_HEADER "\n");
        memcpy(p, BENCH_HEADER "\n", head);
        size_t have = head + bench_make(p + head, n, kind);
        run(bench_kind[kind], p, have, key, 3);
    }
    free(p);
    return 0;
}
