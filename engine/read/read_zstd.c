/* read/read_zstd.c - zstd frames to bytes.
 *
 *     file = ( frame | skippable frame )+        frame = magic, header, blocks, [checksum]
 *
 * Headers are looked at here before libzstd sees them, so that a frame that wants a dictionary or a window above
 * 128 MB is refused before memory is taken, and so that what follows the last frame is told from a frame.
 *
 * A pack says at its front what it is, so that one which was cut off at the end of a frame is not taken for whole: its
 * last frame must be skippable, the index.
 *
 * Small frames that say their size (as `pack` writes them) are decoded in parallel: whole frames are collected up to
 * BATCH_OUT_BYTES of content, each goes to its place in one buffer, the buffer is handed out in order. Every other
 * frame is streamed by one thread.
 *
 *     raw [ f1 | f2 | f3 | f4 ...        batch  [ f1 bytes | f2 bytes | f3 bytes | f4 bytes ]
 *            │    └──worker 2──────────────────────────^
 *            └───────worker 1──────────────^
 */
#include <inttypes.h>
#include <stdlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "core/limits.h"
#include "flow/pack.h"
#include "read/read_decode.h"

#define HEADER_BYTES_MAX 18        /* magic 4, descriptor 1, window 1, dictionary 4, content size 8 */
#define BATCH_RAW_BYTES (4u << 20) /* compressed bytes looked at for one batch */
#define BATCH_OUT_BYTES (8u << 20) /* content of one batch */
#define BATCH_FRAMES_MAX 256

typedef struct zstd_frame {
    const uint8_t *in;
    size_t in_bytes, out_at, out_bytes;
    size_t result; /* what libzstd says */
} zstd_frame;

typedef struct zstd_decoder {
    bsi_decoder base;
    ZSTD_DCtx *ctx; /* made when the first frame is streamed */
    bool inside;    /* a frame */
    bool any;       /* something was read */
    bool pack;      /* it begins as a pack */
    bool indexed;   /* the last frame may be the index of one */
    uint64_t frame_at;
    int workers;
    uint8_t *batch; /* decoded, not yet handed out: [batch_at, batch_len) */
    size_t batch_at, batch_len;
    zstd_frame *frames; /* BATCH_FRAMES_MAX */
    size_t frame_count;
} zstd_decoder;

typedef struct zstd_header {
    bool skippable, sized, dictionary;
    uint64_t window, content;
    size_t bytes;  /* of the header */
    uint64_t skip; /* skippable: bytes after the header */
} zstd_header;

static uint64_t little(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;) v = v << 8 | p[i];
    return v;
}

typedef enum { HEADER_OK, HEADER_SHORT, HEADER_NOT_ZSTD } header_verdict;

/* RFC 8878, 3.1.1.1 */
static header_verdict parse_header(zstd_header *h, const uint8_t *p, size_t n) {
    *h = (zstd_header){0};
    if (n < 4) return n && memcmp(p, "\x28\xB5\x2F\xFD", n) == 0 ? HEADER_SHORT : HEADER_NOT_ZSTD;
    uint32_t magic = (uint32_t)little(p, 4);
    if ((magic & 0xFFFFFFF0u) == 0x184D2A50u) {
        if (n < 8) return HEADER_SHORT;
        h->skippable = true;
        h->bytes = 8;
        h->skip = little(p + 4, 4);
        return HEADER_OK;
    }
    if (magic != 0xFD2FB528u) return HEADER_NOT_ZSTD;
    if (n < 5) return HEADER_SHORT;
    static const uint8_t dictionary_bytes[4] = {0, 1, 2, 4}, size_bytes[4] = {0, 2, 4, 8};
    uint8_t d = p[4];
    bool single = d & 0x20;
    size_t db = dictionary_bytes[d & 3], sb = size_bytes[d >> 6];
    if (!sb && single) sb = 1;
    size_t at = 5;
    h->bytes = at + !single + db + sb;
    if (n < h->bytes) return HEADER_SHORT;
    if (!single) {
        unsigned exponent = p[at] >> 3, mantissa = p[at] & 7;
        uint64_t base = 1ull << (10 + exponent);
        h->window = base + (base >> 3) * mantissa;
        at++;
    }
    h->dictionary = little(p + at, db) != 0;
    at += db;
    h->sized = sb != 0;
    h->content = little(p + at, sb) + (sb == 2 ? 256 : 0);
    if (single) h->window = h->content;
    return HEADER_OK;
}

static ssize_t refuse_cut(const zstd_decoder *z, bomsync_error *err) {
    return bsi_decoder_refuse(&z->base, err, "the file was cut off on its way: have it sent again",
                              "zstd frame that begins at %" PRIu64 " is cut off", z->frame_at);
}

static ssize_t refuse_code(const zstd_decoder *z, size_t code, bomsync_error *err) {
    switch (ZSTD_getErrorCode(code)) {
    case ZSTD_error_checksum_wrong:
        return bsi_decoder_refuse(&z->base, err, "the file was damaged on its way: have it sent again",
                                  "zstd checksum is wrong");
    case ZSTD_error_frameParameter_windowTooLarge:
        return bsi_decoder_refuse(&z->base, err, "compress it with zstd --long=27 or less",
                                  "zstd window is larger than 128 MB");
    case ZSTD_error_memory_allocation:
        bsi_fail(err, BOMSYNC_E_SPACE, "could not get memory to decompress \"%s\"", z->base.raw->path);
        return -1;
    default:
        return bsi_decoder_refuse(&z->base, err, "the file was damaged on its way: have it sent again",
                                  "zstd data is damaged (%s)", ZSTD_getErrorName(code));
    }
}

static ssize_t check_header(const zstd_decoder *z, const zstd_header *h, bomsync_error *err) {
    if (h->dictionary)
        return bsi_decoder_refuse(&z->base, err, "compress it without a dictionary", "zstd frame needs a dictionary");
    if (h->window > 1ull << BSI_ZSTD_WINDOW_LOG_MAX)
        return bsi_decoder_refuse(&z->base, err, "compress it with zstd --long=27 or less",
                                  "zstd window is larger than 128 MB (%" PRIu64 " MB)", h->window >> 20);
    return 0;
}

/* ---- frames in parallel ---- */

static void decode_frame(void *ctx, size_t i) {
    zstd_decoder *z = ctx;
    zstd_frame *f = &z->frames[i];
    ZSTD_DCtx *d = ZSTD_createDCtx();
    if (!d) {
        f->result = (size_t)-ZSTD_error_memory_allocation;
        return;
    }
    f->result = ZSTD_decompressDCtx(d, z->batch + f->out_at, f->out_bytes, f->in, f->in_bytes);
    ZSTD_freeDCtx(d);
}

/* Whole frames at the front of the raw buffer whose headers are fine. Stops at the first that is not; that one is
 * looked at again, and refused if need be, when its turn comes. */
static size_t collect(zstd_decoder *z) {
    bsi_raw *r = z->base.raw;
    size_t at = r->at, out = 0;
    z->frame_count = 0;
    while (z->frame_count < BATCH_FRAMES_MAX) {
        zstd_header h;
        const uint8_t *p = r->buf + at;
        if (parse_header(&h, p, r->len - at) != HEADER_OK || h.skippable || !h.sized || h.dictionary) break;
        if (h.content > BATCH_OUT_BYTES - out) break;
        size_t bytes = ZSTD_findFrameCompressedSize(p, r->len - at);
        if (ZSTD_isError(bytes)) break;
        z->frames[z->frame_count++] =
            (zstd_frame){.in = p, .in_bytes = bytes, .out_at = out, .out_bytes = (size_t)h.content};
        at += bytes;
        out += (size_t)h.content;
    }
    return out;
}

/* 1: a batch is ready, 0: the next frame must be streamed, -1: refused. */
static int decode_batch(zstd_decoder *z, bomsync_error *err) {
    bsi_raw *r = z->base.raw;
    if (bsi_raw_want(r, BATCH_RAW_BYTES, err)) return -1;
    if (!z->frames) z->frames = bsi_alloc(BATCH_FRAMES_MAX * sizeof *z->frames);
    size_t out = collect(z);
    if (z->frame_count < 2) return 0;
    if (!z->batch) z->batch = bsi_alloc(BATCH_OUT_BYTES);
    bsi_parallel(z->workers, z->frame_count, decode_frame, z);
    for (size_t i = 0; i < z->frame_count; i++) {
        const zstd_frame *f = &z->frames[i];
        if (ZSTD_isError(f->result)) return (int)refuse_code(z, f->result, err);
        if (f->result != f->out_bytes) return (int)refuse_code(z, (size_t)-ZSTD_error_corruption_detected, err);
        r->at += f->in_bytes;
    }
    z->batch_at = 0;
    z->batch_len = out;
    return 1;
}

static ssize_t hand_out(zstd_decoder *z, uint8_t *out, size_t n) {
    n = BSI_MIN(n, z->batch_len - z->batch_at);
    memcpy(out, z->batch + z->batch_at, n);
    z->batch_at += n;
    return (ssize_t)n;
}

/* ---- one frame after the other ---- */

static ssize_t skip(zstd_decoder *z, uint64_t n, bomsync_error *err) {
    bsi_raw *r = z->base.raw;
    while (n) {
        if (bsi_raw_want(r, 1, err)) return -1;
        size_t step = BSI_MIN(bsi_raw_left(r), n);
        if (!step) return refuse_cut(z, err);
        r->at += step;
        n -= step;
    }
    return 0;
}

/* At a frame's first byte: 1 inside a frame now, 2 a batch or a skipped frame, 0 the end of the file, -1 refused. */
static int next_frame(zstd_decoder *z, bomsync_error *err) {
    bsi_raw *r = z->base.raw;
    if (bsi_raw_want(r, HEADER_BYTES_MAX, err)) return -1;
    z->frame_at = bsi_raw_offset(r);
    if (!bsi_raw_left(r)) return z->any && (z->indexed || !z->pack) ? 0 : (int)refuse_cut(z, err);
    zstd_header h;
    header_verdict v = parse_header(&h, r->buf + r->at, bsi_raw_left(r));
    if (v == HEADER_SHORT) return (int)refuse_cut(z, err);
    if (v == HEADER_NOT_ZSTD)
        return (int)bsi_decoder_refuse(&z->base, err, "the file was damaged or appended to: have it sent again",
                                       "something that is not zstd follows the last frame");
    if (!z->any) z->pack = bsi_pack_is_head(r->buf + r->at, bsi_raw_left(r));
    z->indexed = z->any && h.skippable;
    z->any = true;
    if (h.skippable) {
        r->at += h.bytes;
        return skip(z, h.skip, err) ? -1 : 2;
    }
    if (check_header(z, &h, err)) return -1;
    if (z->workers > 1 && h.sized && h.content <= BATCH_OUT_BYTES / 2) {
        int done = decode_batch(z, err);
        if (done) return done < 0 ? -1 : 2;
    }
    if (!z->ctx) {
        z->ctx = ZSTD_createDCtx();
        if (!z->ctx) return (int)refuse_code(z, (size_t)-ZSTD_error_memory_allocation, err);
        ZSTD_DCtx_setParameter(z->ctx, ZSTD_d_windowLogMax, BSI_ZSTD_WINDOW_LOG_MAX);
    }
    ZSTD_DCtx_reset(z->ctx, ZSTD_reset_session_only);
    z->inside = true;
    return 1;
}

/* Some bytes of the frame; 0: it ended, or wants more input. */
static ssize_t stream(zstd_decoder *z, uint8_t *out, size_t n, bomsync_error *err) {
    bsi_raw *r = z->base.raw;
    if (bsi_raw_want(r, 1, err)) return -1;
    ZSTD_inBuffer in = {.src = r->buf + r->at, .size = bsi_raw_left(r)};
    ZSTD_outBuffer to = {.dst = out, .size = n};
    bool last = in.size == 0;
    size_t left = ZSTD_decompressStream(z->ctx, &to, &in);
    r->at += in.pos;
    if (ZSTD_isError(left)) return refuse_code(z, left, err);
    if (left == 0)
        z->inside = false;
    else if (last && !to.pos)
        return refuse_cut(z, err);
    return (ssize_t)to.pos;
}

static ssize_t zstd_read(bsi_decoder *d, uint8_t *out, size_t n, bomsync_error *err) {
    zstd_decoder *z = (zstd_decoder *)d;
    for (;;) {
        if (z->batch_at < z->batch_len) return hand_out(z, out, n);
        if (!z->inside) {
            int frame = next_frame(z, err);
            if (frame <= 0) return frame;
            if (frame == 2) continue;
        }
        ssize_t got = stream(z, out, n, err);
        if (got) return got;
    }
}

static void zstd_close(bsi_decoder *d) {
    zstd_decoder *z = (zstd_decoder *)d;
    ZSTD_freeDCtx(z->ctx);
    free(z->batch);
    free(z->frames);
    free(z);
}

bsi_decoder *bsi_zstd_open(int workers) {
    zstd_decoder *z = bsi_calloc(1, sizeof *z);
    z->base.read = zstd_read;
    z->base.close = zstd_close;
    z->workers = workers;
    return &z->base;
}
