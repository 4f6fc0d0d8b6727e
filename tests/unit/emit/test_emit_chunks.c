/* Chunks: where they end, what they are called, the same bytes for any number of workers, read back and verified. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow/rendered.h"

static char dir[64];

static void make_dir(void) {
    snprintf(dir, sizeof dir, "%s/emit-XXXXXX", P_tmpdir);
    if (!mkdtemp(dir)) abort();
}

static void drop_dir(void) { bsi_remove_tree(dir, NULL); }

typedef struct made {
    bsi_chunks *c;
    uint64_t seq;
    bsi_chunk_info *info;
    size_t count;
    bomsync_error err;
} made;

static void start(made *m) {
    *m = (made){.err = BOMSYNC_ERROR_INIT};
    cr_assert(zero(int, (int)bsi_chunks_open(&m->c, dir, NULL, NULL, &m->err)));
}

static bomsync_status add(made *m, char op, const char *partition, const char *line, size_t n) {
    m->seq++;
    return bsi_chunks_add_line(m->c, op, op == 'd' ? 90 : 0, partition, strlen(partition), m->seq, line, n, &m->err);
}

static void finish(made *m) {
    bomsync_status st = bsi_chunks_close(m->c, &m->info, &m->count, &m->err);
    if (st) cr_fatal("%s", m->err.message);
}

static char *path_of(const made *m, size_t i) { return bsi_format("%s/%s", dir, m->info[i].file); }

typedef struct seen {
    size_t lines, bytes;
    bsi_buf text;
} seen;

static bomsync_status see(void *ctx, const char *line, size_t n, bomsync_error *err) {
    (void)err;
    seen *s = ctx;
    s->lines++;
    s->bytes += n + 1;
    bsi_buf_add(&s->text, line, n);
    bsi_buf_byte(&s->text, '\n');
    return BOMSYNC_OK;
}

static bomsync_status read_back(seen *s, const made *m, size_t i, bomsync_error *err) {
    char *path = path_of(m, i);
    bomsync_status st = bsi_chunk_read(path, &m->info[i], see, s, err);
    free(path);
    return st;
}

Test(emit_chunks, a_chunk_is_closed_before_change_10001, .init = make_dir, .fini = drop_dir) {
    made m;
    start(&m);
    for (int i = 0; i < 10000; i++) add(&m, 'c', "1000", "{}\n", 3);
    for (int i = 0; i < 10001; i++) add(&m, 'u', "2000", "{}\n", 3);
    for (int i = 0; i < 3; i++) add(&m, 'd', "1000", "{}\n", 3);
    finish(&m);
    cr_assert(eq(sz, m.count, 4));
    const char *file[] = {"1000/00-000001.ndjson.zst", "2000/00-000001.ndjson.zst", "2000/00-000002.ndjson.zst", "1000/90-000001.ndjson.zst"};
    const uint64_t first[] = {1, 10001, 20001, 20002}, last[] = {10000, 20000, 20001, 20004}, c[] = {10000, 0, 0, 0}, u[] = {0, 10000, 1, 0},
                   d[] = {0, 0, 0, 3};
    for (size_t i = 0; i < 4; i++) {
        cr_assert(eq(str, m.info[i].file, (char *)file[i]));
        cr_assert(eq(u64, m.info[i].first_seq, first[i]));
        cr_assert(eq(u64, m.info[i].last_seq, last[i]));
        cr_assert(eq(u64, m.info[i].c, c[i]));
        cr_assert(eq(u64, m.info[i].u, u[i]));
        cr_assert(eq(u64, m.info[i].d, d[i]));
        cr_assert(eq(u64, m.info[i].content_bytes, (last[i] - first[i] + 1) * 3));
        seen s = {0};
        cr_assert(zero(int, (int)read_back(&s, &m, i, NULL)));
        cr_assert(eq(sz, s.lines, last[i] - first[i] + 1));
        bsi_buf_free(&s.text);
    }
    cr_assert(eq(str, m.info[1].partition, "2000"));
    cr_assert(eq(int, m.info[3].rank, 90));
    bsi_chunk_infos_free(m.info, m.count);
}

Test(emit_chunks, a_chunk_is_closed_before_4_mib_and_a_larger_line_stands_alone, .init = make_dir, .fini = drop_dir) {
    size_t mib = 1 << 20;
    char *line = malloc(5 * mib);
    memset(line, 'x', 5 * mib);
    made m;
    start(&m);
    for (int i = 0; i < 4; i++) add(&m, 'c', "p", line, mib); /* just 4 MiB */
    add(&m, 'c', "p", "{}\n", 3);
    add(&m, 'c', "p", line, 5 * mib);
    add(&m, 'c', "p", "{}\n", 3);
    add(&m, 'c', "p", line, 4 * mib - 3);
    finish(&m);
    const uint64_t bytes[] = {4 * mib, 3, 5 * mib, 4 * mib};
    cr_assert(eq(sz, m.count, 4));
    for (size_t i = 0; i < 4; i++) cr_assert(eq(u64, m.info[i].content_bytes, bytes[i]));
    bsi_chunk_infos_free(m.info, m.count);
    free(line);
}

enum { BATCH = 512, PARTS = 5, ROWS = 23456 };

static void pack_all(void *ctx, size_t i) {
    (void)i;
    while (bsi_chunks_pack(ctx)) continue;
}

static void count_done(void *ctx, bsi_lines *lines) {
    (void)lines;
    __atomic_fetch_add((int *)ctx, 1, __ATOMIC_SEQ_CST);
}

/* A few partitions, several chunks each, values of all lengths; *plain: the lines as they are rendered one by one. */
static void write_some(made *m, int workers, bsi_buf *plain) {
    static char *names[] = {"part", "k", "v"};
    static uint32_t order[] = {0, 1, 2};
    static const bsi_slots slots = {.name = names, .count = 3, .key_count = 2, .partition = 0, .order = order};
    const bsi_change_head head = {.entity = "e", .id_prefix = "0123456789abcdef", .generation = -1};
    enum { BATCHES = PARTS * (ROWS / BATCH + 1) };
    bsi_lines *lines = bsi_calloc(BATCHES, sizeof *lines);
    bsi_renderer *r = bsi_renderer_open(&slots, &head, true);
    int done = 0, made_lines = 0;
    uint64_t x = 88172645463325252ull;
    char key[32], value[700], name[16];
    *m = (made){.err = BOMSYNC_ERROR_INIT};
    cr_assert(zero(int, (int)bsi_chunks_open(&m->c, dir, count_done, &done, &m->err)));
    for (int part = 0; part < PARTS; part++)
        for (int i = 0; i < ROWS; i += BATCH) {
            bsi_lines *l = &lines[made_lines++];
            snprintf(name, sizeof name, "p%d", part);
            bsi_renderer_start(r, l);
            l->uses = 1;
            for (int k = i; k < i + BATCH && k < ROWS; k++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                snprintf(key, sizeof key, "%llu", (unsigned long long)(x % 1000000));
                snprintf(value, sizeof value, "%0*d%s", (int)(x % 600), k, x >> 60 ? "" : "\xc3\xbc");
                bsi_field was[] = {{(uint8_t *)name, strlen(name), false}, {(uint8_t *)key, strlen(key), false}, {NULL, 0, true}};
                bsi_field now[] = {was[0], was[1], {(uint8_t *)value, strlen(value), false}};
                bsi_change c = {.op = "cu"[k & 1], .seq = m->seq + (k - i) + 1, .slots = &slots, .before = k & 1 ? was : NULL, .after = now};
                bsi_renderer_add(r, &c);
                bsi_change_render(plain, &c, &head);
            }
            bsi_renderer_end(r);
            bsi_line_group g = {0, false, name, strlen(name)};
            uint32_t half = l->count / 2; /* in two pieces: nobody has to add all at once */
            cr_assert(zero(int, (int)bsi_chunks_add(m->c, &g, l, 0, half, m->seq + 1, &m->err)));
            cr_assert(zero(int, (int)bsi_chunks_add(m->c, &g, l, half, l->count - half, m->seq + 1 + half, &m->err)));
            m->seq += l->count;
            bsi_chunks_release(m->c, l);
        }
    bsi_chunks_end(m->c);
    bsi_parallel(workers, (size_t)workers, pack_all, m->c);
    cr_assert(not(bsi_chunks_waiting(m->c)));
    finish(m);
    cr_assert(eq(int, done, made_lines));
    for (int i = 0; i < made_lines; i++) bsi_lines_release(&lines[i]);
    free(lines);
    bsi_renderer_close(r);
}

Test(emit_chunks, one_two_and_seven_workers_write_the_same_bytes, .init = make_dir, .fini = drop_dir) {
    made m[3];
    bsi_buf first = {0};
    const int workers[] = {1, 2, 7};
    for (int w = 0; w < 3; w++) {
        bsi_remove_tree(dir, NULL);
        cr_assert(zero(int, mkdir(dir, 0700)));
        bsi_buf plain = {0};
        write_some(&m[w], workers[w], &plain);
        seen back = {0};
        for (size_t i = 0; i < m[w].count; i++) cr_assert(zero(int, (int)read_back(&back, &m[w], i, NULL)));
        cr_assert(eq(sz, back.text.len, plain.len));
        cr_assert(zero(int, memcmp(back.text.data, plain.data, plain.len)));
        bsi_buf_free(&back.text);
        bsi_buf_free(&plain);
        bsi_buf all = {0};
        for (size_t i = 0; i < m[w].count; i++) {
            char *path = path_of(&m[w], i);
            struct stat st;
            cr_assert(zero(int, stat(path, &st)));
            cr_assert(eq(int, st.st_mode & 0777, 0600));
            cr_assert(zero(int, (int)bsi_read_file(&all, path, SIZE_MAX, NULL)));
            bsi_buf_str(&all, m[w].info[i].file);
            bsi_buf_add(&all, m[w].info[i].sha256, 32);
            bsi_buf_add(&all, &m[w].info[i].content_xxh3, 16);
            free(path);
        }
        if (!w) first = all;
        cr_assert(gt(sz, m[w].count, 8));
        cr_assert(eq(sz, all.len, first.len));
        cr_assert(zero(int, memcmp(all.data, first.data, all.len)));
        if (w) bsi_buf_free(&all);
        bsi_chunk_infos_free(m[w].info, m[w].count);
    }
    bsi_buf_free(&first);
}

Test(emit_chunks, no_lines_make_no_chunks, .init = make_dir, .fini = drop_dir) {
    made m;
    start(&m);
    finish(&m);
    cr_assert(zero(sz, m.count));
    bsi_chunk_infos_free(m.info, m.count);
}

Test(emit_chunks, nasty_partitions_stay_in_the_folder, .init = make_dir, .fini = drop_dir) {
    const char *part[] = {"-rf", "../../etc/x", "/abs", "_"};
    const char *file[] = {"%2Drf/00-000001.ndjson.zst", "%2E.%2F..%2Fetc%2Fx/00-000001.ndjson.zst", "%2Fabs/00-000001.ndjson.zst",
                          "_/00-000001.ndjson.zst"};
    made m;
    start(&m);
    for (int i = 0; i < 4; i++) add(&m, 'c', part[i], "{}\n", 3);
    finish(&m);
    for (size_t i = 0; i < 4; i++) {
        cr_assert(eq(str, m.info[i].file, (char *)file[i]));
        cr_assert(eq(str, m.info[i].partition, (char *)part[i]));
    }
    bsi_chunk_infos_free(m.info, m.count);
}

Test(emit_chunks, a_partition_called_underscore_is_not_the_one_without_a_name, .init = make_dir, .fini = drop_dir) {
    char *names[] = {"id\"", "plant"};
    uint32_t order[] = {0, 1};
    bsi_slots slots = {.name = names, .count = 2, .key_count = 2, .partition = 1, .order = order};
    bsi_change_head head = {.entity = "\",\"key\":{", .id_prefix = "0123456789abcdef", .generation = -1};
    const char *plant[] = {"_", "", "_", "_"};
    bsi_renderer *r = bsi_renderer_open(&slots, &head, true);
    bsi_lines l = {.uses = 1};
    made m;
    start(&m);
    bsi_renderer_start(r, &l);
    for (int i = 0; i < 4; i++) {
        bsi_field f[] = {{(const uint8_t *)"a\\\"", 3, false}, {(const uint8_t *)plant[i], (uint32_t)strlen(plant[i]), false}};
        bsi_change c = {.op = 'c', .seq = i + 1, .slots = &slots, .after = f};
        bsi_renderer_add(r, &c);
    }
    bsi_renderer_end(r);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert(eq(int, l.nameless[i], i == 1));
        bsi_line_group g = {0, l.nameless[i], "_", 1};
        cr_assert(zero(int, (int)bsi_chunks_add(m.c, &g, &l, i, 1, i + 1, &m.err)));
    }
    finish(&m);
    cr_assert(eq(sz, m.count, 3));
    cr_assert(eq(str, m.info[0].file, "%5F/00-000001.ndjson.zst"));
    cr_assert(eq(str, m.info[1].file, "_/00-000001.ndjson.zst"));
    cr_assert(eq(str, m.info[2].file, "%5F/00-000002.ndjson.zst"));
    cr_assert(eq(u64, m.info[2].c, 2));
    bsi_chunk_infos_free(m.info, m.count);
    bsi_lines_release(&l);
    bsi_renderer_close(r);
}

Test(emit_chunks, links_are_refused, .init = make_dir, .fini = drop_dir) {
    made m;
    char *link = bsi_format("%s/1000", dir);
    cr_assert(zero(int, symlink(P_tmpdir, link)));
    start(&m);
    add(&m, 'c', "1000", "{}\n", 3);
    cr_assert(ne(int, (int)bsi_chunks_close(m.c, &m.info, &m.count, &m.err), 0));
    cr_assert(zero(ptr, m.info));
    cr_assert(ne(chr, m.err.message[0], 0));
    free(link);
}

Test(emit_chunks, a_file_that_is_there_is_not_written_over, .init = make_dir, .fini = drop_dir) {
    made m;
    char *folder = bsi_format("%s/1000", dir), *file = bsi_format("%s/1000/00-000001.ndjson.zst", dir);
    cr_assert(zero(int, mkdir(folder, 0700)));
    cr_assert(zero(int, (int)bsi_write_file(file, "x", 1, NULL)));
    start(&m);
    add(&m, 'c', "1000", "{}\n", 3);
    cr_assert(ne(int, (int)bsi_chunks_close(m.c, &m.info, &m.count, &m.err), 0));
    free(folder);
    free(file);
}

Test(emit_chunks, each_flipped_bit_and_each_cut_is_found, .init = make_dir, .fini = drop_dir) {
    made m;
    start(&m);
    const char *line = "{\"op\":\"c\",\"key\":{\"id\":\"1\"},\"after\":{}}\n";
    for (int i = 0; i < 20; i++) add(&m, 'c', "1", line, strlen(line));
    finish(&m);
    char *path = path_of(&m, 0);
    bsi_buf good = {0};
    cr_assert(zero(int, (int)bsi_read_file(&good, path, SIZE_MAX, NULL)));
    for (size_t i = 0; i < good.len * 9; i++) {
        size_t n = i < good.len * 8 ? good.len : i - good.len * 8;
        if (n == good.len) good.data[i / 8] ^= (uint8_t)(1 << i % 8);
        int fd = open(path, O_WRONLY | O_TRUNC);
        cr_assert(eq(sz, (size_t)write(fd, good.data, n), n));
        close(fd);
        bomsync_error err = BOMSYNC_ERROR_INIT;
        seen s = {0};
        cr_assert(eq(int, (int)read_back(&s, &m, 0, &err), BOMSYNC_E_INTEGRITY));
        cr_assert(zero(sz, s.lines));
        if (n == good.len) good.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    unlink(path);
    cr_assert(eq(int, (int)bsi_chunk_read(path, &m.info[0], see, NULL, NULL), BOMSYNC_E_INTEGRITY));
    bsi_buf_free(&good);
    free(path);
    bsi_chunk_infos_free(m.info, m.count);
}

Test(emit_chunks, any_zstd_reads_it_and_the_frame_tells_its_size, .init = make_dir, .fini = drop_dir) {
    made m;
    start(&m);
    add(&m, 'c', "1", "{}\n", 3);
    finish(&m);
    char *path = path_of(&m, 0);
    bsi_buf b = {0};
    cr_assert(zero(int, (int)bsi_read_file(&b, path, 1000, NULL)));
    cr_assert(eq(u8, b.data[0], 0x28));
    cr_assert(eq(u8, b.data[4] & 4, 4)); /* checksum flag */
    cr_assert(eq(u8, b.data[5], 3));     /* content size */
    seen s = {0};
    cr_assert(zero(int, (int)bsi_chunk_read(path, NULL, see, &s, NULL)));
    cr_assert(eq(sz, s.lines, 1));
    bsi_buf_free(&s.text);
    bsi_buf_free(&b);
    free(path);
    bsi_chunk_infos_free(m.info, m.count);
}
