/* read/read_gzip.c - gzip members to bytes, through ISA-L.
 *
 *     file = member+ zero*        member = header, deflate blocks, CRC-32, size
 *
 * ISA-L reads header and trailer and compares CRC and size. Zeros after the last member are what tape and some
 * mainframe transfers append; anything else there is refused, since it may be the rest of a damaged member.
 */
#include <isa-l/igzip_lib.h>
#include <stdlib.h>

#include "read/read_decode.h"

typedef struct gzip_decoder {
    bsi_decoder base;
    struct inflate_state state;
    bool inside; /* a member */
    bool any;
} gzip_decoder;

static ssize_t refuse_cut(const gzip_decoder *g, bomsync_error *err) {
    return bsi_decoder_refuse(&g->base, err, "the file was cut off on its way: have it sent again",
                              "gzip data is cut off");
}

static ssize_t refuse_code(const gzip_decoder *g, int code, bomsync_error *err) {
    const char *what = "gzip data is damaged";
    if (code == ISAL_INCORRECT_CHECKSUM) what = "gzip checksum is wrong";
    if (code == ISAL_UNSUPPORTED_METHOD || code == ISAL_INVALID_WRAPPER) what = "gzip header is damaged";
    return bsi_decoder_refuse(&g->base, err, "the file was damaged on its way: have it sent again", "%s", what);
}

/* Only zeros up to the end: 0, else -1. */
static ssize_t padding(const gzip_decoder *g, bomsync_error *err) {
    bsi_raw *r = g->base.raw;
    for (;;) {
        if (bsi_raw_want(r, 1, err)) return -1;
        if (!bsi_raw_left(r)) return 0;
        for (; r->at < r->len; r->at++)
            if (r->buf[r->at])
                return bsi_decoder_refuse(&g->base, err, "the file was damaged or appended to: have it sent again",
                                          "something that is not gzip follows the last member");
    }
}

/* At a member's first byte: 1 inside a member now, 0 the end of the file, -1 refused. */
static int next_member(gzip_decoder *g, bomsync_error *err) {
    bsi_raw *r = g->base.raw;
    if (bsi_raw_want(r, 2, err)) return -1;
    if (bsi_raw_left(r) < 2 || r->buf[r->at] != 0x1F || r->buf[r->at + 1] != 0x8B)
        return g->any ? (int)padding(g, err) : (int)refuse_cut(g, err);
    isal_inflate_init(&g->state);
    g->state.crc_flag = ISAL_GZIP;
    g->inside = g->any = true;
    return 1;
}

static ssize_t inflate_some(gzip_decoder *g, uint8_t *out, size_t n, bomsync_error *err) {
    bsi_raw *r = g->base.raw;
    if (bsi_raw_want(r, 1, err)) return -1;
    struct inflate_state *s = &g->state;
    bool last = bsi_raw_left(r) == 0;
    n = BSI_MIN(n, (size_t)1 << 30);
    s->next_in = r->buf + r->at;
    s->avail_in = (uint32_t)bsi_raw_left(r);
    s->next_out = out;
    s->avail_out = (uint32_t)n;
    int code = isal_inflate(s);
    r->at = r->len - s->avail_in;
    size_t got = n - s->avail_out;
    if (code) return refuse_code(g, code, err);
    if (s->block_state == ISAL_BLOCK_FINISH)
        g->inside = false;
    else if (last && !got)
        return refuse_cut(g, err);
    return (ssize_t)got;
}

static ssize_t gzip_read(bsi_decoder *d, uint8_t *out, size_t n, bomsync_error *err) {
    gzip_decoder *g = (gzip_decoder *)d;
    for (;;) {
        if (!g->inside) {
            int member = next_member(g, err);
            if (member <= 0) return member;
        }
        ssize_t got = inflate_some(g, out, n, err);
        if (got) return got;
    }
}

static void gzip_close(bsi_decoder *d) {
    free((gzip_decoder *)d);
}

bsi_decoder *bsi_gzip_open(void) {
    gzip_decoder *g = bsi_calloc(1, sizeof *g);
    g->base.read = gzip_read;
    g->base.close = gzip_close;
    return &g->base;
}
