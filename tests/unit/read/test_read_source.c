/* tests/unit/read/test_read_source.c - every way a file can come, whole and damaged. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <isa-l/igzip_lib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "core/base.h"
#include "core/limits.h"
#include "flow/source.h"

/* ---- help ---- */

static char folder[64];

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/bomsync-read-XXXXXX");
    if (!mkdtemp(folder)) abort();
}

static void drop(void);
static void remove_folder(void) {
    drop();
    bsi_remove_tree(folder, NULL);
}

TestSuite(read_source, .init = make_folder, .fini = remove_folder, .timeout = 60);

static const char *in_folder(const char *name) {
    static char path[8][256];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static const char *put(const char *name, const void *p, size_t n) {
    const char *path = in_folder(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, p, n) != (ssize_t)n || close(fd)) abort();
    return path;
}

static const char *put_text(const char *name, const char *text) { return put(name, text, strlen(text)); }

/* Buffers of a block end with it; what slurp read ends with the test, or with drop. */
#define BUF __attribute__((cleanup(bsi_buf_free))) bsi_buf

static uint8_t **kept;
static size_t kept_count;

static void keep(uint8_t *p) {
    kept = bsi_realloc(kept, (kept_count + 1) * sizeof *kept);
    kept[kept_count++] = p;
}

static void drop(void) {
    while (kept_count) free(kept[--kept_count]);
    free(kept);
    kept = NULL;
}

typedef struct got {
    bsi_buf bytes;
    bomsync_error err;
    bool random, trailer;
    int64_t count;
    uint64_t size, raw;
    char io[32];
} got;

/* Random sources are read by pread in steps, streams by read; the answer must be the same. */
static got slurp_with(const char *path, const bsi_source_options *o, size_t step) {
    got g = {.err = BOMSYNC_ERROR_INIT, .count = -1};
    bsi_source *s;
    if (bsi_source_open(&s, path, o, &g.err)) return g;
    g.random = bsi_source_random(s);
    uint8_t *buf = bsi_alloc(step);
    for (;;) {
        ssize_t n = g.random ? bsi_source_pread(s, buf, step, g.bytes.len, &g.err) : bsi_source_read(s, buf, step, &g.err);
        if (n <= 0) break;
        bsi_buf_add(&g.bytes, buf, (size_t)n);
    }
    free(buf);
    keep(g.bytes.data);
    g.size = bsi_source_size(s);
    g.raw = bsi_source_raw_bytes(s);
    g.trailer = bsi_source_trailer(s, &g.count);
    snprintf(g.io, sizeof g.io, "%s", bsi_source_io(s));
    bsi_source_close(s);
    return g;
}

static got slurp(const char *path) { return slurp_with(path, &(bsi_source_options){.workers = 2}, 1 << 20); }

static bool is_text(const got *g, const char *text) {
    return !g->err.status && g->bytes.len == strlen(text) && (!g->bytes.len || memcmp(g->bytes.data, text, g->bytes.len) == 0);
}

static bool is_bytes(const got *g, const bsi_buf *b) {
    return !g->err.status && g->bytes.len == b->len && (!b->len || memcmp(g->bytes.data, b->data, b->len) == 0);
}

/* Refused, with file, byte and hint. */
static bool is_refused(const got *g) {
    return g->err.status == BOMSYNC_E_REFUSED && g->err.file[0] && g->err.byte >= 0 && g->err.hint[0] && g->err.message[0];
}

static uint32_t seed = 12345;
static uint32_t draw(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(seed >> 4) * below) >> 28);
}

/* Half text, half noise. */
static void add_sample(bsi_buf *b, size_t n) {
    while (n--) bsi_buf_byte(b, draw(2) ? (uint8_t)draw(256) : (uint8_t)"abc,\n1"[draw(6)]);
}

static void add_zstd(bsi_buf *out, const void *p, size_t n, bool checksum, bool sized) {
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, checksum);
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, sized);
    bsi_buf_reserve(out, ZSTD_compressBound(n));
    size_t k = ZSTD_compress2(c, out->data + out->len, out->cap - out->len, p, n);
    if (ZSTD_isError(k)) abort();
    out->len += k;
    ZSTD_freeCCtx(c);
}

static void add_gzip(bsi_buf *out, const void *p, size_t n) {
    struct isal_zstream z;
    isal_deflate_stateless_init(&z);
    z.gzip_flag = IGZIP_GZIP;
    bsi_buf_reserve(out, n + n / 8 + 4096);
    uint8_t *in = bsi_alloc(n + 1);
    if (n) memcpy(in, p, n);
    z.next_in = in;
    z.avail_in = (uint32_t)n;
    z.next_out = out->data + out->len;
    z.avail_out = (uint32_t)(out->cap - out->len);
    if (isal_deflate_stateless(&z)) abort();
    out->len += z.total_out;
    free(in);
}

static void add_skippable(bsi_buf *out, size_t n) {
    bsi_buf_add(out, "\x5A\x2A\x4D\x18", 4);
    for (int i = 0; i < 4; i++) bsi_buf_byte(out, (uint8_t)(n >> (8 * i)));
    while (n--) bsi_buf_byte(out, 'x');
}

/* ---- plain files ---- */

Test(read_source, plain_file_is_random_and_reads_back) {
    got g = slurp(put_text("a.csv", "a,b\n1,2\n"));
    cr_assert(is_text(&g, "a,b\n1,2\n"));
    cr_assert(g.random);
    cr_assert(eq(u64, g.size, 8));
    cr_assert(eq(u64, g.raw, 8));
    cr_assert(eq(str, g.io, "pread"));
}

Test(read_source, empty_file_has_no_bytes) {
    got g = slurp(put_text("a.csv", ""));
    cr_assert(is_text(&g, ""));
    cr_assert(g.random);
}

Test(read_source, pread_stops_at_the_end_and_past_it) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_source *s;
    cr_assert(zero(int, (int)bsi_source_open(&s, put_text("a", "0123456789"), &(bsi_source_options){0}, &err)));
    char b[32];
    cr_assert(eq(long, bsi_source_pread(s, b, 32, 4, &err), 6));
    cr_assert(zero(int, memcmp(b, "456789", 6)));
    cr_assert(zero(long, bsi_source_pread(s, b, 32, 10, &err)));
    cr_assert(zero(long, bsi_source_pread(s, b, 32, UINT64_MAX, &err)));
    bsi_source_close(s);
}

Test(read_source, missing_file_is_usage) {
    got g = slurp(in_folder("absent"));
    cr_assert(eq(int, (int)g.err.status, BOMSYNC_E_USAGE));
    cr_assert(g.err.file[0] != 0);
    g = slurp(folder);
    cr_assert(eq(int, (int)g.err.status, BOMSYNC_E_USAGE));
}

Test(read_source, mark_is_stripped_at_byte_0_only) {
    got g = slurp(put_text("a.csv", "\xEF\xBB\xBF" "a\n\xEF\xBB\xBF" "b\n"));
    cr_assert(is_text(&g, "a\n\xEF\xBB\xBF" "b\n"));
    cr_assert(g.random);
    g = slurp(put_text("b.csv", "\xEF\xBB\xBF"));
    cr_assert(is_text(&g, ""));
    g = slurp(put_text("c.csv", "\xEF\xBB"));
    cr_assert(is_text(&g, "\xEF\xBB"));
    BUF z = {0};
    add_zstd(&z, "\xEF\xBB\xBF" "a\n\xEF\xBB\xBF", 8, true, true);
    g = slurp(put("a.zst", z.data, z.len));
    cr_assert(is_text(&g, "a\n\xEF\xBB\xBF"));
    cr_assert(eq(u64, g.size, 5));
}

Test(read_source, line_of_an_offset_counts_all_line_ends) {
    const char *text = "a\nb\r\nc\rd\n";
    BUF z = {0};
    add_zstd(&z, text, strlen(text), true, true);
    const char *paths[2] = {put_text("a.csv", text), put("a.csv.zst", z.data, z.len)};
    for (int i = 0; i < 2; i++) {
        bsi_source *s;
        cr_assert(zero(int, (int)bsi_source_open(&s, paths[i], &(bsi_source_options){0}, NULL)));
        int64_t want[] = {1, 1, 2, 2, 3, 3, 3, 4, 4, 5};
        for (uint64_t at = 0; at < 10; at++) cr_assert(eq(i64, bsi_source_line(s, at), want[at]), "offset %d", (int)at);
        cr_assert(eq(i64, bsi_source_line(s, 99), -1));
        bsi_source_close(s);
    }
}

/* ---- wide encodings ---- */

Test(read_source, wide_encodings_are_refused_unless_declared) {
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"\xFF\xFE" "a\0", 4}, {"\xFE\xFF\0a", 4},        {"\xFF\xFE\0\0a\0\0\0", 8}, {"\0\0\xFE\xFF\0\0\0a", 8},
        {"a\0,\0b\0\n\0", 8},  {"\0a\0,\0b\0\n", 8},      {"a\0\0\0,\0\0\0", 8},      {"\0\0\0a\0\0\0,", 8},
        {"a\0,\0", 4},         {"\x10\x04,\0b\0\n\0", 8},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        got g = slurp(put("a.csv", bad[i].bytes, bad[i].n));
        cr_assert(is_refused(&g), "case %zu", i);
        cr_assert(strstr(g.err.hint, "--encoding") != NULL);
        BUF z = {0};
        add_zstd(&z, bad[i].bytes, bad[i].n, false, true);
        g = slurp(put("a.csv", z.data, z.len));
        cr_assert(is_refused(&g), "compressed, case %zu", i);
    }
}

Test(read_source, a_few_zeros_are_data) {
    static const char some[] = "a,b\n1,\0\0\n2,3\n4,5\n";
    got g = slurp(put("a.csv", some, sizeof some - 1));
    cr_assert(zero(int, (int)g.err.status));
    char zeros[100] = {0};
    g = slurp(put("z.csv", zeros, sizeof zeros));
    cr_assert(zero(int, (int)g.err.status));
    cr_assert(eq(sz, g.bytes.len, sizeof zeros));
}

static got decode(const char *encoding, const void *p, size_t n) {
    return slurp_with(put("e.csv", p, n), &(bsi_source_options){.encoding = encoding, .workers = 1}, 7);
}

Test(read_source, declared_encodings_become_utf8) {
    got g = decode("UTF-16", "\xFF\xFE" "a\0\xE4\0\n\0", 8);
    cr_assert(is_text(&g, "a\xC3\xA4\n"));
    g = decode("UTF-16", "\xFE\xFF\0a\0\xE4\0\n", 8);
    cr_assert(is_text(&g, "a\xC3\xA4\n"));
    g = decode("UTF-16LE", "\xFF\xFE" "a\0\n\0", 6);
    cr_assert(is_text(&g, "a\n"));
    g = decode("latin1", "M\xFCller\n", 7);
    cr_assert(is_text(&g, "M\xC3\xBCller\n"));
    g = decode("CP1252", "\x80\n", 2);
    cr_assert(is_text(&g, "\xE2\x82\xAC\n"));
    g = decode("utf-8", "a\n", 2);
    cr_assert(is_text(&g, "a\n"));
    cr_assert(g.random);
}

Test(read_source, unknown_encoding_is_usage) {
    got g = decode("no-such-thing", "a\n", 2);
    cr_assert(eq(int, (int)g.err.status, BOMSYNC_E_USAGE));
}

Test(read_source, undecodable_byte_is_refused_with_its_place) {
    got g = decode("CP1252", "ab\ncd\x81\n", 7);
    cr_assert(is_refused(&g));
    cr_assert(eq(i64, g.err.byte, 5));
    cr_assert(eq(i64, g.err.line, 2));
    g = decode("UTF-16LE", "a\0\n", 3);
    cr_assert(is_refused(&g));
    cr_assert(eq(i64, g.err.byte, 2));
    BUF b = {0};
    for (int i = 0; i < 300000; i++) bsi_buf_byte(&b, 'x');
    bsi_buf_byte(&b, 0x81);
    g = decode("CP1252", b.data, b.len);
    cr_assert(eq(i64, g.err.byte, 300000));
}

Test(read_source, long_transcoded_files_survive_every_buffer_edge) {
    BUF wide = {0}, want = {0};
    for (int i = 0; i < 200000; i++) {
        bsi_buf_add(&wide, i % 3 ? "\x3D\xD8\x00\xDE" : "a\0", i % 3 ? 4 : 2); /* U+1F600 */
        bsi_buf_add(&want, i % 3 ? "\xF0\x9F\x98\x80" : "a", i % 3 ? 4 : 1);
    }
    got g = slurp_with(put("e.csv", wide.data, wide.len), &(bsi_source_options){.encoding = "UTF-16LE"}, 1 << 20);
    cr_assert(is_bytes(&g, &want));
}

/* ---- name and content ---- */

Test(read_source, name_must_not_contradict_content) {
    BUF z = {0}, y = {0};
    add_zstd(&z, "a\n", 2, true, true);
    add_gzip(&y, "a\n", 2);
    got g = slurp(put("a.zst", y.data, y.len));
    cr_assert(is_refused(&g));
    g = slurp(put("a.csv.gz", z.data, z.len));
    cr_assert(is_refused(&g));
    g = slurp(put_text("b.gz", "a\n"));
    cr_assert(is_refused(&g));
    g = slurp(put_text("b.ZST", "a\n"));
    cr_assert(is_refused(&g));
    g = slurp(put_text("empty.zst", ""));
    cr_assert(is_refused(&g));
    g = slurp(put("a.csv", z.data, z.len));
    cr_assert(is_text(&g, "a\n"));
    cr_assert(eq(str, g.io, "stream:zstd"));
    g = slurp(put("b.csv", y.data, y.len));
    cr_assert(is_text(&g, "a\n"));
    cr_assert(eq(str, g.io, "stream:gzip"));
    g = slurp(put("c.csv", "PK\3\4....", 8));
    cr_assert(is_refused(&g));
}

/* ---- zstd ---- */

Test(read_source, zstd_frames_and_skippable_frames_are_joined) {
    BUF z = {0}, want = {0};
    add_skippable(&z, 0);
    for (int i = 0; i < 40; i++) {
        size_t at = want.len;
        add_sample(&want, draw(100000));
        add_zstd(&z, want.data + at, want.len - at, i & 1, i % 3 != 0);
        if (i % 7 == 0) add_skippable(&z, draw(600000));
        if (i % 5 == 0) add_zstd(&z, "", 0, true, true);
    }
    for (int workers = 1; workers <= 3; workers++) {
        got g = slurp_with(put("a.zst", z.data, z.len), &(bsi_source_options){.workers = workers}, 1 + draw(300000));
        cr_assert(is_bytes(&g, &want), "%s", g.err.message);
        cr_assert(eq(u64, g.raw, z.len));
    }
}

Test(read_source, many_small_frames_are_the_same_for_any_number_of_workers) {
    BUF z = {0}, want = {0};
    for (int i = 0; i < 3000; i++) {
        size_t at = want.len;
        add_sample(&want, draw(8000));
        add_zstd(&z, want.data + at, want.len - at, true, true);
    }
    for (int workers = 1; workers <= 2; workers++) {
        got g = slurp_with(put("a.zst", z.data, z.len), &(bsi_source_options){.workers = workers}, 1 << 20);
        cr_assert(is_bytes(&g, &want), "%s", g.err.message);
    }
}

Test(read_source, skippable_frames_only_is_empty) {
    BUF z = {0};
    add_skippable(&z, 100);
    got g = slurp(put("a.zst", z.data, z.len));
    cr_assert(is_text(&g, ""));
}

/* Every prefix: refused, except where a frame ends. */
Test(read_source, zstd_cut_anywhere_is_refused) {
    BUF z = {0}, want = {0};
    size_t good[4] = {0};
    for (int i = 0; i < 3; i++) {
        size_t at = want.len;
        add_sample(&want, 150);
        if (i == 1) add_skippable(&z, 30);
        add_zstd(&z, want.data + at, want.len - at, true, i != 2);
        good[i] = z.len;
    }
    good[3] = good[0] + 38;
    for (int workers = 1; workers <= 2; workers++)
        for (size_t n = 0; n <= z.len; n++) {
            got g = slurp_with(put("a.zst", z.data, n), &(bsi_source_options){.workers = workers}, 1000);
            bool whole = n == good[0] || n == good[1] || n == good[2] || n == good[3];
            cr_assert(whole ? !g.err.status : is_refused(&g), "%zu of %zu bytes: %s", n, z.len, g.err.message);
            drop();
        }
}

Test(read_source, zstd_damage_is_never_read) {
    BUF z = {0}, want = {0};
    add_sample(&want, 3000);
    add_zstd(&z, want.data, 1000, true, true);
    add_zstd(&z, want.data + 1000, 2000, true, false);
    for (int workers = 1; workers <= 2; workers++)
        for (size_t i = 0; i < z.len; i++) {
            uint8_t bit = (uint8_t)(1u << draw(8));
            z.data[i] ^= bit;
            got g = slurp_with(put("a.csv.zst", z.data, z.len), &(bsi_source_options){.workers = workers}, 5000);
            z.data[i] ^= bit;
            cr_assert(is_refused(&g) || is_bytes(&g, &want), "byte %zu: status %d %s", i, (int)g.err.status, g.err.message);
            drop();
        }
}

Test(read_source, garbage_after_zstd_is_refused) {
    static const char *const tails[] = {"\n", "garbage", "\x28", "\x28\xB5\x2F", "\x1F\x8B\x08"};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        BUF z = {0};
        add_zstd(&z, "a\n1\n", 4, true, true);
        bsi_buf_str(&z, tails[i]);
        got g = slurp(put("a.zst", z.data, z.len));
        cr_assert(is_refused(&g), "case %zu", i);
    }
    BUF z = {0};
    add_zstd(&z, "a\n1\n", 4, true, true);
    bsi_buf_add(&z, "\0\0\0\0\0\0\0\0", 8);
    got g = slurp(put("a.zst", z.data, z.len));
    cr_assert(is_refused(&g));
}

Test(read_source, zstd_window_over_128_mb_is_refused) {
    /* magic; no content size, no checksum; window 2^28; one empty last block */
    got g = slurp(put("a.zst", "\x28\xB5\x2F\xFD\x00\x90\x01\x00\x00", 9));
    cr_assert(is_refused(&g));
    cr_assert(strstr(g.err.message, "window") != NULL);
    /* 2^27 is allowed */
    g = slurp(put("b.zst", "\x28\xB5\x2F\xFD\x00\x88\x01\x00\x00", 9));
    cr_assert(is_text(&g, ""), "%s", g.err.message);
    /* single segment of 1 GB */
    g = slurp(put("c.zst", "\x28\xB5\x2F\xFD\xA0\x00\x00\x00\x40\x01\x00\x00", 12));
    cr_assert(is_refused(&g));
    cr_assert(strstr(g.err.message, "window") != NULL);
}

Test(read_source, zstd_frame_with_dictionary_is_refused) {
    got g = slurp(put("a.zst", "\x28\xB5\x2F\xFD\x01\x50\x07\x01\x00\x00", 10));
    cr_assert(is_refused(&g));
    cr_assert(strstr(g.err.message, "dictionary") != NULL);
}

Test(read_source, bombs_are_refused) {
    size_t n = 200u << 20;
    void *zeros = calloc(1, n);
    BUF z = {0};
    add_zstd(&z, zeros, n, true, true);
    got g = slurp(put("a.zst", z.data, z.len));
    cr_assert(is_refused(&g), "%s", g.err.message);
    cr_assert(g.bytes.len <= BSI_INFLATE_FREE_BYTES + (2u << 20));
    drop();
    z.len = 0;
    for (int i = 0; i < 300; i++) add_zstd(&z, zeros, 1u << 20, true, true);
    g = slurp(put("b.zst", z.data, z.len));
    cr_assert(is_refused(&g), "%s", g.err.message);
    drop();
    z.len = 0;
    add_zstd(&z, zeros, 60u << 20, true, true); /* below the free size */
    g = slurp(put("c.zst", z.data, z.len));
    cr_assert(zero(int, (int)g.err.status), "%s", g.err.message);
    free(zeros);
}

/* ---- gzip ---- */

Test(read_source, gzip_members_are_joined) {
    BUF z = {0}, want = {0};
    for (int i = 0; i < 40; i++) {
        size_t at = want.len, n = i % 4 ? draw(300000) : draw(20);
        add_sample(&want, n);
        add_gzip(&z, want.data + at, want.len - at);
    }
    got g = slurp_with(put("a.gz", z.data, z.len), &(bsi_source_options){0}, 1 << 20);
    cr_assert(is_bytes(&g, &want), "%s", g.err.message);
    cr_assert(eq(u64, g.raw, z.len));
}

Test(read_source, gzip_cut_anywhere_is_refused) {
    BUF z = {0}, want = {0};
    add_sample(&want, 600);
    add_gzip(&z, want.data, 300);
    size_t first = z.len;
    add_gzip(&z, want.data + 300, 300);
    for (size_t n = 0; n <= z.len; n++) {
        got g = slurp_with(put("a.gz", z.data, n), &(bsi_source_options){0}, 1000);
        bool whole = n == first || n == z.len;
        cr_assert(whole ? !g.err.status : is_refused(&g), "%zu of %zu bytes: %s", n, z.len, g.err.message);
        drop();
    }
}

/* Time stamp, flags for text and the like, and OS in the header prove nothing; all else must be noticed. */
Test(read_source, gzip_damage_is_never_read) {
    BUF z = {0}, want = {0};
    add_sample(&want, 2000);
    add_gzip(&z, want.data, want.len);
    for (size_t i = 0; i < z.len; i++) {
        uint8_t bit = (uint8_t)(1u << draw(8));
        z.data[i] ^= bit;
        got g = slurp_with(put("a.csv.gz", z.data, z.len), &(bsi_source_options){0}, 5000);
        z.data[i] ^= bit;
        cr_assert(is_refused(&g) || is_bytes(&g, &want), "byte %zu: status %d %s", i, (int)g.err.status, g.err.message);
        drop();
    }
}

Test(read_source, garbage_after_gzip_is_refused_and_zeros_are_not) {
    BUF z = {0};
    add_gzip(&z, "a\n1\n", 4);
    size_t whole = z.len;
    bsi_buf_str(&z, "x");
    got g = slurp(put("a.gz", z.data, z.len));
    cr_assert(is_refused(&g));
    z.len = whole;
    for (int i = 0; i < 5000; i++) bsi_buf_byte(&z, 0);
    g = slurp(put("a.gz", z.data, z.len));
    cr_assert(is_text(&g, "a\n1\n"));
    bsi_buf_byte(&z, 'x');
    g = slurp(put("a.gz", z.data, z.len));
    cr_assert(is_refused(&g));
}

Test(read_source, gzip_bomb_is_refused) {
    size_t n = 200u << 20;
    void *zeros = calloc(1, n);
    put("z", zeros, n);
    free(zeros);
    char command[256];
    snprintf(command, sizeof command, "gzip -9 <%s/z >%s/z.gz 2>/dev/null", folder, folder);
    if (system(command) != 0) cr_skip_test("there is no gzip program");
    got g = slurp(in_folder("z.gz"));
    cr_assert(is_refused(&g) || g.bytes.len == n); /* gzip's best is 1,030:1, at the limit */
}

Test(read_source, what_the_gzip_program_writes_reads_back) {
    BUF want = {0};
    add_sample(&want, 3000000);
    char command[300];
    put("name of file", want.data, want.len);
    snprintf(command, sizeof command, "cd %s && gzip -k 'name of file' && cat 'name of file.gz' >>two.gz && gzip -1c 'name of file' >>two.gz",
             folder);
    if (system(command) != 0) cr_skip_test("there is no gzip program");
    size_t n = want.len;
    bsi_buf_reserve(&want, n);
    bsi_buf_add(&want, want.data, n);
    got g = slurp(in_folder("two.gz"));
    cr_assert(is_bytes(&g, &want), "%s", g.err.message);
}

Test(read_source, random_bytes_come_through_every_way) {
    for (int round = 0; round < 60; round++) {
        BUF want = {0}, z = {0}, y = {0};
        add_sample(&want, 64);
        memcpy(want.data, "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p\n", 64);
        add_sample(&want, draw(round % 10 ? 200000 : 4000000));
        for (size_t at = 0; at < want.len;) {
            size_t some = 1 + draw((uint32_t)want.len), n = BSI_MIN(want.len - at, some);
            add_zstd(&z, want.data + at, n, true, draw(2));
            add_gzip(&y, want.data + at, n);
            at += n;
        }
        size_t step = 1 + draw(100000);
        bsi_source_options o = {.workers = 1 + (int)draw(3)};
        got g = slurp_with(put("a", want.data, want.len), &o, step);
        cr_assert(is_bytes(&g, &want));
        g = slurp_with(put("b", z.data, z.len), &o, step);
        cr_assert(is_bytes(&g, &want), "%s", g.err.message);
        g = slurp_with(put("c", y.data, y.len), &o, step);
        cr_assert(is_bytes(&g, &want), "%s", g.err.message);
        drop();
    }
}

/* ---- trailer ---- */

static got with_trailer(const char *regex, const char *text, bool stream) {
    bsi_source_options o = {.trailer_regex = regex};
    if (!stream) return slurp_with(put("t.csv", text, strlen(text)), &o, 100);
    BUF z = {0};
    add_zstd(&z, text, strlen(text), true, true);
    return slurp_with(put("t.csv", z.data, z.len), &o, 100);
}

Test(read_source, trailer_is_cut_off_and_counted) {
    for (int stream = 0; stream < 2; stream++) {
        got g = with_trailer("^TRAILER;([0-9]+)$", "a;b\n1;2\nTRAILER;0017\n", stream);
        cr_assert(is_text(&g, "a;b\n1;2\n"), "%s", g.err.message);
        cr_assert(g.trailer);
        cr_assert(eq(i64, g.count, 17));
        g = with_trailer("^TRAILER;(\\d+)$", "a;b\r\n1;2\r\nTRAILER;5\r\n", stream);
        cr_assert(is_text(&g, "a;b\r\n1;2\r\n"), "%s", g.err.message);
        cr_assert(eq(i64, g.count, 5));
        g = with_trailer("[^]\\d[:alpha:]]END", "a\n1\n\x2d" "END", stream);
        cr_assert(is_text(&g, "a\n1\n"), "%s", g.err.message);
        cr_assert(g.trailer);
        cr_assert(eq(i64, g.count, -1));
        g = with_trailer("END", "a\n1\nEND\n\n\n", stream);
        cr_assert(is_text(&g, "a\n1\n"));
        g = with_trailer("END", "\xEF\xBB\xBF" "END\n", stream);
        cr_assert(is_text(&g, ""));
        cr_assert(eq(u64, g.size, 0));
    }
}

Test(read_source, wrong_trailer_is_refused) {
    for (int stream = 0; stream < 2; stream++) {
        got g = with_trailer("^TRAILER", "a\n1\nTRAILER\n2\n", stream);
        cr_assert(is_refused(&g));
        cr_assert(eq(i64, g.err.byte, 12));
        cr_assert(eq(str, g.err.value, "2"));
        g = with_trailer("^TRAILER", "", stream);
        cr_assert(is_refused(&g));
        g = with_trailer("^TRAILER", "\n\n", stream);
        cr_assert(is_refused(&g));
        g = with_trailer("^T(.*)$", "a\nTx\n", stream);
        cr_assert(is_refused(&g));
        g = with_trailer("^T(.*)$", "a\nT99999999999999999999\n", stream);
        cr_assert(is_refused(&g));
    }
    got g = with_trailer("(", "a\n", false);
    cr_assert(eq(int, (int)g.err.status, BOMSYNC_E_USAGE));
}

Test(read_source, trailer_survives_every_buffer_edge) {
    for (int round = 0; round < 12; round++) {
        BUF want = {0}, z = {0};
        size_t n = (size_t)(1 + round / 4) * (1u << 20) - 40 + (size_t)round * 7;
        while (want.len < n) bsi_buf_str(&want, "1,22,333\n");
        size_t records = want.len;
        bsi_buf_str(&want, "TRAILER,42\n");
        add_zstd(&z, want.data, want.len, true, true);
        bsi_source_options o = {.trailer_regex = "^TRAILER,([0-9]+)"};
        got g = slurp_with(put("a", z.data, z.len), &o, 100000);
        got p = slurp_with(put("b", want.data, want.len), &o, 100000);
        want.len = records;
        cr_assert(is_bytes(&g, &want), "%s", g.err.message);
        cr_assert(is_bytes(&p, &want), "%s", p.err.message);
        cr_assert(eq(i64, g.count, 42));
        cr_assert(eq(u64, g.size, records));
    }
}

Test(read_source, a_last_line_too_long_for_a_trailer_is_refused) {
    BUF b = {0}, z = {0};
    bsi_buf_str(&b, "a\n");
    for (int i = 0; i < 100000; i++) bsi_buf_byte(&b, 'x');
    add_zstd(&z, b.data, b.len, true, true);
    bsi_source_options o = {.trailer_regex = "x"};
    got g = slurp_with(put("a", b.data, b.len), &o, 1 << 20);
    cr_assert(is_refused(&g));
    g = slurp_with(put("b", z.data, z.len), &o, 1 << 20);
    cr_assert(is_refused(&g));
}

/* ---- files that change ---- */

static bomsync_status settled_after(void (*change)(const char *path), bool stream) {
    BUF z = {0};
    add_zstd(&z, "a\n1\n", 4, true, true);
    const char *path = stream ? put("s", z.data, z.len) : put_text("s", "a\n1\n");
    bsi_source *s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (bsi_source_open(&s, path, &(bsi_source_options){0}, &err)) abort();
    char b[100];
    if (stream) while (bsi_source_read(s, b, sizeof b, &err) > 0) {}
    if (change) change(path);
    bomsync_status st = bsi_source_settled(s, &err);
    bsi_source_close(s);
    return st;
}

static void grow(const char *path) {
    int fd = open(path, O_WRONLY | O_APPEND);
    if (write(fd, "x", 1) != 1) abort();
    close(fd);
}
static void shrink(const char *path) {
    if (truncate(path, 1)) abort();
}
static void rewrite(const char *path) {
    struct timespec t[2] = {{.tv_sec = 1}, {.tv_sec = 1, .tv_nsec = 1}};
    if (utimensat(AT_FDCWD, path, t, 0)) abort();
}
static void replace(const char *path) {
    char other[300];
    snprintf(other, sizeof other, "%s.new", path);
    int fd = open(other, O_WRONLY | O_CREAT, 0600);
    if (write(fd, "a\n1\n", 4) != 4 || close(fd) || rename(other, path)) abort();
}
static void delete(const char *path) { unlink(path); }

Test(read_source, a_file_that_changes_is_refused) {
    for (int stream = 0; stream < 2; stream++) {
        cr_assert(zero(int, (int)settled_after(NULL, stream)));
        cr_assert(eq(int, (int)settled_after(grow, stream), BOMSYNC_E_REFUSED));
        cr_assert(eq(int, (int)settled_after(shrink, stream), BOMSYNC_E_REFUSED));
        cr_assert(eq(int, (int)settled_after(rewrite, stream), BOMSYNC_E_REFUSED));
        cr_assert(eq(int, (int)settled_after(replace, stream), BOMSYNC_E_REFUSED));
        cr_assert(eq(int, (int)settled_after(delete, stream), BOMSYNC_E_REFUSED));
    }
}

Test(read_source, reading_past_a_new_end_is_refused) {
    bsi_source *s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    const char *path = put_text("s", "0123456789");
    cr_assert(zero(int, (int)bsi_source_open(&s, path, &(bsi_source_options){0}, &err)));
    shrink(path);
    char b[10];
    cr_assert(eq(long, bsi_source_pread(s, b, 10, 0, &err), -1));
    cr_assert(eq(int, (int)err.status, BOMSYNC_E_REFUSED));
    bsi_source_close(s);
}

/* ---- pipes ---- */

static int pipe_with(const void *p, size_t n) {
    int fd[2];
    if (pipe(fd) || fcntl(fd[1], F_SETPIPE_SZ, 1 << 20) < 0 || write(fd[1], p, n) != (ssize_t)n) abort();
    close(fd[1]);
    return fd[0];
}

static got from_stdin(const void *p, size_t n, const bsi_source_options *o) {
    int fd = pipe_with(p, n);
    dup2(fd, 0);
    close(fd);
    return slurp_with("-", o, 1000);
}

Test(read_source, stdin_is_a_stream_of_any_compression) {
    BUF z = {0}, y = {0};
    add_zstd(&z, "a\n1\n", 4, true, true);
    add_gzip(&y, "a\n1\n", 4);
    got g = from_stdin("a\n1\n", 4, &(bsi_source_options){0});
    cr_assert(is_text(&g, "a\n1\n"));
    cr_assert(not(g.random));
    cr_assert(eq(u64, g.raw, 4));
    g = from_stdin(z.data, z.len, &(bsi_source_options){0});
    cr_assert(is_text(&g, "a\n1\n"));
    g = from_stdin(y.data, y.len, &(bsi_source_options){0});
    cr_assert(is_text(&g, "a\n1\n"));
    g = from_stdin("a\n1\nT,9\n", 8, &(bsi_source_options){.trailer_regex = "T,(.*)"});
    cr_assert(is_text(&g, "a\n1\n"));
    cr_assert(eq(i64, g.count, 9));
    g = from_stdin("", 0, &(bsi_source_options){0});
    cr_assert(is_text(&g, ""));
    g = from_stdin("\xFF\xFE" "a\0", 4, &(bsi_source_options){0});
    cr_assert(is_refused(&g));
}

Test(read_source, a_silent_pipe_does_not_hold_up_the_end, .timeout = 10) {
    int fd[2];
    cr_assert(zero(int, pipe(fd)));
    cr_assert(eq(long, write(fd[1], "a,b,c,d,e\n", 10), 10));
    dup2(fd[0], 0);
    bsi_source *s;
    cr_assert(zero(int, (int)bsi_source_open(&s, "-", &(bsi_source_options){0}, NULL)));
    bsi_source_close(s); /* the writer is still there and says nothing */
    close(fd[1]);
}

Test(read_source, a_stream_may_be_left_early) {
    BUF want = {0}, z = {0};
    for (int i = 0; i < 3000000; i++) bsi_buf_str(&want, "1,2,3,4\n");
    add_zstd(&z, want.data, want.len, true, true);
    bsi_source *s;
    char b[10];
    cr_assert(zero(int, (int)bsi_source_open(&s, put("a", z.data, z.len), &(bsi_source_options){0}, NULL)));
    cr_assert(eq(long, bsi_source_read(s, b, 10, NULL), 10));
    bsi_source_close(s);
}

/* ---- io_uring ---- */

static bsi_buf large_file(size_t bytes) {
    bsi_buf want = {0};
    bsi_buf_reserve(&want, bytes);
    for (size_t i = 0; i < bytes; i += 4) bsi_buf_add(&want, &(uint32_t){draw(1u << 28)}, 4);
    want.data[0] = 'a';
    return want;
}

/* As far as the file system lets go of it. */
static void make_cold(const char *path) {
    int fd = open(path, O_RDONLY);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

typedef struct taker {
    bsi_ahead *a;
    const bsi_ahead_part *part;
    const bsi_buf *want;
    atomic_size_t *bytes;
    atomic_uint *seen; /* [parts] */
    int cache_after;   /* parts; -1 never */
    bool ok;
} taker;

static void *take_parts(void *arg) {
    taker *t = arg;
    bsi_arrival came;
    t->ok = true;
    for (int n = 0; bsi_ahead_take(t->a, &came); n++) {
        const bsi_ahead_part *p = &t->part[came.part];
        atomic_fetch_add(&t->seen[came.part], 1);
        atomic_fetch_add(t->bytes, came.bytes);
        if (came.bytes > p->bytes || memcmp(came.data, t->want->data + p->offset, came.bytes) != 0) t->ok = false;
        if (n == t->cache_after) bsi_ahead_use_cache(t->a);
        bsi_ahead_give(t->a, &came);
    }
    return NULL;
}

enum { PARTS = 61 };

static void take_all(bsi_source *s, const bsi_buf *want, size_t threads, bool direct, int cache_after) {
    bsi_ahead_part part[PARTS];
    atomic_uint seen[PARTS];
    atomic_size_t bytes = 0;
    size_t all = 0;
    for (size_t i = 0; i < PARTS; i++) { /* at odd places, of odd lengths, some of them over each other */
        uint64_t at = i * (want->len / PARTS) + (i % 5);
        part[i] = (bsi_ahead_part){s, at, (size_t)BSI_MIN(want->len - at, (uint64_t)want->len / PARTS + i * 37)};
        atomic_init(&seen[i], 0);
        all += part[i].bytes;
    }
    bsi_ahead *a = bsi_ahead_open(part, PARTS, direct);
    cr_assert(ne(ptr, a, NULL));
    taker t[20];
    pthread_t id[20];
    for (size_t k = 0; k < threads; k++) {
        t[k] = (taker){a, part, want, &bytes, seen, cache_after, false};
        pthread_create(&id[k], NULL, take_parts, &t[k]);
    }
    for (size_t k = 0; k < threads; k++) {
        pthread_join(id[k], NULL);
        cr_assert(t[k].ok, "%zu threads, reader %zu", threads, k);
    }
    for (size_t i = 0; i < PARTS; i++) cr_assert(eq(uint, atomic_load(&seen[i]), 1));
    cr_assert(eq(sz, atomic_load(&bytes), all));
    bsi_ahead_close(a);
}

static bsi_source *open_io(const char *path, const char *io) {
    bsi_source *s;
    cr_assert(zero(int, (int)bsi_source_open(&s, path, &(bsi_source_options){.io = io, .workers = 2}, NULL)));
    return s;
}

Test(read_source, parts_come_once_and_whole_for_any_number_of_takers) {
    BUF want = large_file(39u << 20);
    const char *path = put("big", want.data, want.len);
    for (int i = 0; i < 6; i++) {
        if (i & 1) make_cold(path);
        bsi_source *s = open_io(path, "uring");
        take_all(s, &want, (size_t[]){1, 2, 20}[i / 2], i != 2, i == 3 ? 4 : -1);
        cr_assert(eq(str, (char *)(uintptr_t)bsi_source_io(s), "uring"));
        bsi_source_close(s);
    }
}

Test(read_source, ahead_that_is_closed_early_lets_go) {
    BUF want = large_file(16u << 20);
    bsi_source *s = open_io(put("big", want.data, want.len), "uring");
    bsi_ahead_part part[8];
    for (size_t i = 0; i < 8; i++) part[i] = (bsi_ahead_part){s, i << 21, 1u << 21};
    bsi_arrival came;
    bsi_ahead *a = bsi_ahead_open(part, 8, true);
    cr_assert(bsi_ahead_take(a, &came));
    bsi_ahead_close(a);
    bsi_source_close(s);
}

Test(read_source, part_of_a_file_that_was_cut_comes_short) {
    BUF want = large_file(8u << 20);
    const char *path = put("big", want.data, want.len);
    bsi_source *s = open_io(path, "uring");
    bsi_ahead_part part[2] = {{s, 0, 4u << 20}, {s, 4u << 20, 4u << 20}};
    cr_assert(zero(int, truncate(path, 3 << 20)));
    bsi_ahead *a = bsi_ahead_open(part, 2, true);
    bsi_arrival came;
    for (int i = 0; i < 2; i++) {
        cr_assert(bsi_ahead_take(a, &came));
        cr_assert(eq(sz, came.bytes, came.part ? 0 : (size_t)3 << 20));
        bsi_ahead_give(a, &came);
    }
    cr_assert(not(bsi_ahead_take(a, &came)));
    bsi_ahead_close(a);
    bsi_source_close(s);
}

Test(read_source, only_what_is_cold_or_forced_is_read_ahead) {
    BUF want = large_file(8u << 20);
    const char *path = put("big", want.data, want.len), *small = put_text("small", "a\n1\n");
    const char *io[] = {"uring", "pread", "auto"};
    for (int i = 0; i < 3; i++) {
        bsi_source *a = open_io(path, io[i]), *b = open_io(small, io[i]);
        uint8_t few[100];
        for (int k = 0; k < 2000; k++) {
            size_t at = draw((uint32_t)want.len - 100);
            cr_assert(eq(long, bsi_source_pread(a, few, 100, at, NULL), 100));
            cr_assert(zero(int, memcmp(few, want.data + at, 100)));
        }
        cr_assert(eq(int, bsi_source_cold(a), i == 0)); /* it was written just now */
        cr_assert(eq(int, bsi_source_cold(b), i == 0));
        cr_assert(eq(str, (char *)(uintptr_t)bsi_source_io(a), "pread"));
        bsi_source_close(a);
        bsi_source_close(b);
    }
}

Test(read_source, unknown_io_is_usage) {
    got g = slurp_with(put_text("a", "a\n"), &(bsi_source_options){.io = "fast"}, 10);
    cr_assert(eq(int, (int)g.err.status, BOMSYNC_E_USAGE));
}
