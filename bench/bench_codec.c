/* bench_codec: what do stored blocks cost? For each file (or made-up lines, without one): nanoseconds a record on one core
 * for each step of coding and back, and bytes beside those of the file; the same for groups of 8 blocks under zstd.
 *
 *   bench_codec [--key N] [--lines N] [FILE.csv ...]      the first N columns are the key (1); at most so many lines (1,000,000)
 *
 * The best of several rounds counts. The hash is that of the row images, and is checked on the way back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench_data.h"
#include "flow/block.h"
#include "store/store_inner.h"

enum { ROUNDS = 7 };

typedef struct blocks { /* the row images of a file, block by block */
    size_t count, records, file_bytes;
    uint32_t slots;
    bsi_buf images;     /* all, back to back, with a margin */
    size_t *first;      /* [count + 1] row where a block begins */
    size_t *base;       /* [count] offset of its images */
    uint32_t *off, *body; /* of a block's images: first[b] + b .. ; of its bodies: first[b] .. */
} blocks;

static double now(void) { /* this thread's own: others may have the cores */
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void keep(blocks *x, const bsi_rows *w, size_t *cap, size_t *row_cap) {
    if (w->bad_count || !w->count) return;
    if (x->count + 2 > *cap) {
        *cap = *cap * 2 + 1024;
        x->first = bsi_realloc(x->first, *cap * sizeof *x->first);
        x->base = bsi_realloc(x->base, *cap * sizeof *x->base);
    }
    if (x->records + x->count + 2 * w->count + 2 > *row_cap) {
        *row_cap = *row_cap * 2 + 2 * w->count + 1024;
        x->off = bsi_realloc(x->off, *row_cap * sizeof *x->off);
        x->body = bsi_realloc(x->body, *row_cap * sizeof *x->body);
    }
    x->first[x->count] = x->records;
    x->base[x->count] = x->images.len;
    memcpy(x->off + x->records + x->count, w->image, (w->count + 1) * sizeof *w->image);
    memcpy(x->body + x->records, w->body, w->count * sizeof *w->body);
    bsi_buf_add(&x->images, w->enc.data, w->image[w->count]);
    x->records += w->count;
    x->first[++x->count] = x->records;
}

static void parse(blocks *x, const uint8_t *p, size_t n, uint32_t keys, size_t lines) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_dialect dialect = {',', '"', true};
    bsi_secret secret = {{0}};
    char **names;
    uint32_t columns;
    size_t head, cap = 0, row_cap = 0;
    bsi_slots slots = {.partition = -1};
    bsi_layout *layout;
    bsi_rows w = {0};
    bsi_cut c;
    bsi_isa isa;
    bsi_isa_choose(&isa, "auto", &err);
    if (bsi_parse_header(&names, &columns, &head, &dialect, p, n, true, &err) ||
        bsi_layout_open(&layout, &slots, &dialect, (const char *const *)names, columns, (const char *const *)names, keys, NULL, NULL, 0, NULL, 0, &err)) {
        fprintf(stderr, "bench_codec: %s\n", err.message);
        exit(1);
    }
    bsi_cut_options o = {dialect, bsi_block_size_of(0), isa};
    x->slots = slots.count;
    for (size_t at = head; at < n && x->records < lines; at += c.bytes) {
        if (bsi_cut_block(&c, &o, p + at, n - at, true) != 1 || !c.bytes) break;
        bsi_parse_block(&w, layout, &secret, p + at, c.bytes, false);
        keep(x, &w, &cap, &row_cap);
        x->file_bytes += c.bytes;
    }
    bsi_buf_reserve(&x->images, 64);
    bsi_rows_free(&w);
}

static const uint32_t *off_of(const blocks *x, size_t b) { return x->off + x->first[b] + b; }
static uint32_t rows_in(const blocks *x, size_t b) { return (uint32_t)(x->first[b + 1] - x->first[b]); }

static bsi_symbols *learn(const blocks *x, double *ms) {
    bsi_buf sample = {0};
    for (size_t place = 0; place < BSI_TRAIN_PLACES; place++)
        for (size_t b = x->count * place / BSI_TRAIN_PLACES, end = x->count * (place + 1) / BSI_TRAIN_PLACES;
             b < end && sample.len < BSI_TRAIN_SAMPLE_BYTES * (place + 1) / BSI_TRAIN_PLACES; b++)
            bsi_residual_put(&sample, x->slots, rows_in(x, b), x->images.data + x->base[b], off_of(x, b), x->body + x->first[b]);
    bsi_buf_reserve(&sample, 64);
    double start = now();
    bsi_symbols *s = bsi_symbols_train(sample.data, sample.len);
    *ms = (now() - start) / 1e6;
    bsi_buf_free(&sample);
    return s;
}

typedef struct times {
    double residual, encode, decode, rebuild, pack, unpack;
    size_t residual_bytes, coded_bytes, packed_bytes;
    bool wrong;
} times;

static void least(double *t, double start) { *t = *t == 0 || now() - start < *t ? now() - start : *t; }

static const uint8_t zeros[BSI_RESIDUAL_TAIL];

/* So many blocks at a time as a writer takes. */
static void code(times *t, const blocks *x, const bsi_symbols *s, bsi_buf *coded, size_t *end_of) {
    bsi_buf raw = {0}, out = {0};
    double residual = 0, encode = 0;
    coded->len = 0;
    t->residual_bytes = 0;
    for (size_t b = 0; b < x->count;) {
        size_t n = BSI_MIN(x->count - b, (size_t)BSI_STORE_CODE_BLOCKS), from[BSI_STORE_CODE_BLOCKS], to[BSI_STORE_CODE_BLOCKS];
        bsi_symbol_part part[BSI_STORE_CODE_BLOCKS];
        uint8_t *first[BSI_STORE_CODE_BLOCKS], *at;
        raw.len = out.len = 0;
        double start = now();
        for (size_t i = 0; i < n; i++) {
            from[i] = raw.len;
            if (!bsi_residual_put(&raw, x->slots, rows_in(x, b + i), x->images.data + x->base[b + i], off_of(x, b + i), x->body + x->first[b + i])) t->wrong = true;
            to[i] = raw.len;
            bsi_buf_add(&raw, zeros, sizeof zeros);
        }
        double middle = now();
        residual += middle - start;
        bsi_buf_reserve(&out, raw.len * 2 + 1024);
        at = out.data;
        for (size_t i = 0; i < n; i++) {
            part[i] = (bsi_symbol_part){raw.data + from[i], raw.data + to[i], first[i] = at};
            at += bsi_symbols_bound(to[i] - from[i]);
            t->residual_bytes += to[i] - from[i];
        }
        bsi_symbols_encode(s, part, n);
        for (size_t i = 0; i < n; i++, b++) {
            bsi_buf_add(coded, first[i], (size_t)(part[i].out - first[i]));
            end_of[b] = coded->len;
        }
        encode += now() - middle;
    }
    t->coded_bytes = coded->len;
    t->residual = t->residual == 0 ? residual : BSI_MIN(t->residual, residual);
    t->encode = t->encode == 0 ? encode : BSI_MIN(t->encode, encode);
    bsi_buf_free(&raw);
    bsi_buf_free(&out);
}

static void back(times *t, const blocks *x, const bsi_symbols *s, const bsi_buf *coded, const size_t *end_of) {
    bsi_buf raw = {0}, out = {0};
    uint32_t *image = bsi_alloc(sizeof *image * (UINT16_MAX + 1)), *body = bsi_alloc(sizeof *body * UINT16_MAX);
    double start = now(), decode;
    for (size_t b = 0; b < x->count; b++)
        if (!bsi_symbols_decode(&raw, s, coded->data + (b ? end_of[b - 1] : 0), end_of[b] - (b ? end_of[b - 1] : 0))) t->wrong = true;
    least(&t->decode, start);
    decode = now() - start;
    start = now();
    for (size_t b = 0; b < x->count; b++) {
        bsi_symbols_decode(&raw, s, coded->data + (b ? end_of[b - 1] : 0), end_of[b] - (b ? end_of[b - 1] : 0));
        if (!bsi_residual_get(&out, image, body, x->slots, rows_in(x, b), raw.data, raw.data + raw.len)) t->wrong = true;
    }
    double both = now() - start - decode;
    t->rebuild = t->rebuild == 0 ? both : BSI_MIN(t->rebuild, both);
    for (size_t b = 0; b < x->count && !t->wrong; b += 97) {
        bsi_symbols_decode(&raw, s, coded->data + (b ? end_of[b - 1] : 0), end_of[b] - (b ? end_of[b - 1] : 0));
        bsi_residual_get(&out, image, body, x->slots, rows_in(x, b), raw.data, raw.data + raw.len);
        size_t n = off_of(x, b)[rows_in(x, b)];
        t->wrong = image[rows_in(x, b)] - image[0] != n || memcmp(out.data + image[0], x->images.data + x->base[b], n) != 0;
    }
    bsi_buf_free(&raw);
    bsi_buf_free(&out);
    free(image);
    free(body);
}

static void frames(times *t, const blocks *x) {
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_DCtx *d = ZSTD_createDCtx();
    bsi_buf raw = {0}, packed = {0}, again = {0};
    double pack = 0, unpack = 0;
    bsi_frames_set_up(c);
    ZSTD_DCtx_setParameter(d, ZSTD_d_experimentalParam1, 1);
    t->packed_bytes = 0;
    for (size_t b = 0; b < x->count;) {
        raw.len = 0;
        double start = now();
        for (size_t i = 0; i < BSI_STORE_GROUP_BLOCKS && b < x->count && raw.len < BSI_STORE_GROUP_BYTES; i++, b++)
            bsi_raw_images(&raw, rows_in(x, b), x->images.data + x->base[b], off_of(x, b), x->body + x->first[b]);
        bsi_buf_reserve(&packed, ZSTD_compressBound(raw.len));
        size_t n = ZSTD_compress2(c, packed.data, packed.cap, raw.data, raw.len);
        double middle = now();
        bsi_buf_reserve(&again, raw.len);
        ZSTD_decompressDCtx(d, again.data, raw.len, packed.data, n);
        pack += middle - start;
        unpack += now() - middle;
        t->packed_bytes += n;
    }
    t->pack = t->pack == 0 ? pack : BSI_MIN(t->pack, pack);
    t->unpack = t->unpack == 0 ? unpack : BSI_MIN(t->unpack, unpack);
    bsi_buf *const bufs[] = {&raw, &packed, &again};
    for (size_t i = 0; i < 3; i++) bsi_buf_free(bufs[i]);
    ZSTD_freeCCtx(c);
    ZSTD_freeDCtx(d);
}

static int measure(const char *name, const uint8_t *p, size_t n, uint32_t keys, size_t lines) {
    blocks x = {0};
    times t = {0};
    double ms;
    bsi_buf coded = {0};
    parse(&x, p, n, keys, lines);
    if (!x.records) return 0;
    bsi_symbols *s = learn(&x, &ms);
    size_t *end_of = bsi_alloc(x.count * sizeof *end_of);
    for (int i = 0; i < ROUNDS; i++) {
        code(&t, &x, s, &coded, end_of);
        back(&t, &x, s, &coded, end_of);
        frames(&t, &x);
    }
    double r = (double)x.records, f = (double)x.file_bytes;
    printf("%-28s %8zu records %5.0f B  train %4.1f ms %4u symbols | residual %4.0f encode %4.0f decode %4.0f rebuild %4.0f ns | %.3f coded %.3f | zstd %4.0f, %4.0f ns %.3f | %016llx%s\n",
           name, x.records, f / r, ms, s->count, t.residual / r, t.encode / r, t.decode / r, t.rebuild / r, (double)t.residual_bytes / f, (double)t.coded_bytes / f,
           t.pack / r, t.unpack / r, (double)t.packed_bytes / f, (unsigned long long)bsi_xxh64(x.images.data, x.images.len), t.wrong ? "  WRONG" : "");
    bsi_symbols_free(s);
    bsi_buf_free(&coded);
    bsi_buf_free(&x.images);
    void *const all[] = {end_of, x.first, x.base, x.off, x.body};
    for (size_t i = 0; i < 5; i++) free(all[i]);
    return t.wrong;
}

int main(int argc, char **argv) {
    uint32_t keys = 1;
    size_t lines = 1000000;
    int wrong = 0, files = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--key") && i + 1 < argc) keys = (uint32_t)atoi(argv[++i]);
        else if (!strcmp(argv[i], "--lines") && i + 1 < argc) lines = strtoul(argv[++i], NULL, 10);
        else {
            FILE *f = fopen(argv[i], "rb");
            size_t cap = lines * 400 + (1 << 20), n;
            uint8_t *p = f ? malloc(cap + 64) : NULL;
            const char *slash = strrchr(argv[i], '/');
            if (!p) return fprintf(stderr, "bench_codec: could not read \"%s\"\n", argv[i]), 1;
            n = fread(p, 1, cap, f);
            fclose(f);
            memset(p + n, 0, 64);
            wrong |= measure(slash ? slash + 1 : argv[i], p, n, keys, lines);
            free(p);
            files++;
        }
    }
    size_t n = (size_t)32 << 20, head = strlen(BENCH_HEADER) + 1;
    uint8_t *p = files ? NULL : malloc(n + 8192);
    for (int kind = 0; p && kind < BENCH_KINDS; kind++) {
        memcpy(p, BENCH_HEADER "\n", head);
        wrong |= measure(bench_kind[kind], p, head + bench_make(p + head, n, kind), 3, lines);
    }
    free(p);
    return wrong;
}
