/* read/read_decode.c - which compression a file has, and the limits that hold for all of them.
 *
 *     first bytes        28 B5 2F FD, 5x 2A 4D 18 -> zstd     1F 8B -> gzip     "PK" 3 4, FD "7zXZ" 0 -> refused
 *     name               .zst .zstd -> must be zstd           .gz .gzip .tgz -> must be gzip
 *
 * The bytes decide how a file is read; the name may only contradict them. A name without a promise (.csv) takes
 * whatever the bytes are, since exports are often compressed on their way without being renamed.
 *
 * Offsets in messages: `byte` is the place in the decoded stream where it broke off; the text names the place in the
 * compressed file, which is what a damaged download is looked up by.
 */
#include "read/read_decode.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "core/limits.h"

static bool begins(const uint8_t *p, size_t n, const char *magic, size_t bytes) {
    return n >= bytes && memcmp(p, magic, bytes) == 0;
}

bsi_codec bsi_codec_of_bytes(const uint8_t *p, size_t n, const char **name) {
    *name = "";
    if (begins(p, n, "\x28\xB5\x2F\xFD", 4)) return BSI_CODEC_ZSTD;
    if (n >= 4 && (p[0] & 0xF0) == 0x50 && memcmp(p + 1, "\x2A\x4D\x18", 3) == 0) return BSI_CODEC_ZSTD;
    if (begins(p, n, "\x1F\x8B", 2)) return BSI_CODEC_GZIP;
    if (begins(p, n, "PK\x03\x04", 4)) *name = "zip";
    if (begins(p, n, "\xFD\x37zXZ\0", 6)) *name = "xz";
    return **name ? BSI_CODEC_OTHER : BSI_CODEC_PLAIN;
}

static bool ends_with(const char *s, const char *suffix) {
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcasecmp(s + n - m, suffix) == 0;
}

static const char *promised(const char *path) {
    if (ends_with(path, ".zst") || ends_with(path, ".zstd")) return "zstd";
    if (ends_with(path, ".gz") || ends_with(path, ".gzip") || ends_with(path, ".tgz")) return "gzip";
    return NULL;
}

bomsync_status bsi_codec_check(bsi_codec codec, const char *kind, const char *path, bomsync_error *err) {
    static const char *const names[] = {"not compressed", "zstd", "gzip", NULL};
    const char *is = codec == BSI_CODEC_OTHER ? kind : names[codec];
    const char *want = promised(path);
    if (codec == BSI_CODEC_OTHER) {
        bsi_fail(err, BOMSYNC_E_REFUSED, "cannot read \"%s\": it is %s", path, is);
        bsi_hint(err, "unpack it first, or compress it with zstd or gzip");
    } else if (want && strcmp(want, is) != 0) {
        bsi_fail(err, BOMSYNC_E_REFUSED, "cannot read \"%s\": its name says %s, its content is %s", path, want, is);
        bsi_hint(err, "rename it after its content, or have it sent again");
    } else {
        return BOMSYNC_OK;
    }
    bsi_at(err, path, 0, -1, NULL, NULL, 0);
    return BOMSYNC_E_REFUSED;
}

static ssize_t plain_read(bsi_decoder *d, uint8_t *out, size_t n, bomsync_error *err) {
    bsi_raw *r = d->raw;
    size_t have = bsi_raw_left(r);
    if (!have) return bsi_raw_read(r, out, n, err);
    n = BSI_MIN(n, have);
    memcpy(out, r->buf + r->at, n);
    r->at += n;
    return (ssize_t)n;
}

static void plain_close(bsi_decoder *d) {
    free(d);
}

bsi_decoder *bsi_decoder_open(bsi_codec codec, bsi_raw *raw, int workers) {
    bsi_decoder *d;
    if (codec == BSI_CODEC_ZSTD) {
        d = bsi_zstd_open(workers);
    } else if (codec == BSI_CODEC_GZIP) {
        d = bsi_gzip_open();
    } else {
        d = bsi_calloc(1, sizeof *d);
        d->read = plain_read;
        d->close = plain_close;
    }
    d->raw = raw;
    return d;
}

void bsi_decoder_close(bsi_decoder *d) {
    if (d) d->close(d);
}

ssize_t bsi_decoder_refuse(const bsi_decoder *d, bomsync_error *err, const char *hint, const char *fmt, ...) {
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    bsi_fail(err, BOMSYNC_E_REFUSED, "%s at byte %" PRIu64 " of the compressed file", text, bsi_raw_offset(d->raw));
    bsi_hint(err, "%s", hint);
    bsi_at(err, d->raw->path, (int64_t)d->out_bytes, -1, NULL, NULL, 0);
    return -1;
}

ssize_t bsi_decoder_read(bsi_decoder *d, uint8_t *out, size_t n, bomsync_error *err) {
    ssize_t got = d->read(d, out, n, err);
    if (got <= 0) return got;
    d->out_bytes += (uint64_t)got;
    bool plain = d->read == plain_read;
    if (plain || d->out_bytes <= BSI_INFLATE_FREE_BYTES) return got;
    if (d->out_bytes / BSI_INFLATE_RATIO_MAX <= bsi_raw_offset(d->raw)) return got;
    return bsi_decoder_refuse(d, err, "if this is wanted, decompress the file before it is read",
                              "more than %d bytes come out of each byte that goes in (decompression bomb)",
                              BSI_INFLATE_RATIO_MAX);
}
