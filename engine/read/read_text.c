/* read/read_text.c - other encodings to UTF-8, and the guess that a file is in one without saying so.
 *
 *     in [ .. | unconverted ]  ──iconv──>  out        a character cut by the end of `in` moves to its front
 *
 * A wide encoding (UTF-16, UTF-32) is told by its mark, or without a mark by where its zeros are:
 *
 *     UTF-16LE   a 0 , 0 b 0        UTF-16BE   0 a 0 , 0 b        UTF-32LE   a 0 0 0        UTF-32BE   0 0 0 a
 *
 * A few zeros, or nothing but zeros, prove nothing: those are data, and the records that hold them are kept back.
 */
#include "read/read_text.h"

#include <errno.h>
#include <iconv.h>
#include <inttypes.h>
#include <stdlib.h>
#include <strings.h>

#define IN_BYTES (64u << 10)

struct bsi_text {
    bsi_decoder *d;
    iconv_t cd;
    char *encoding; /* NULL: no conversion */
    char in[IN_BYTES];
    size_t at, len;
    bool in_end, flushed;
    uint64_t in_offset; /* of in[0] in the decompressed file */
    uint64_t lines;     /* line feeds given out, for the one message */
};

bool bsi_text_needed(const char *encoding) {
    return encoding && strcasecmp(encoding, "UTF-8") != 0 && strcasecmp(encoding, "UTF8") != 0;
}

bomsync_status bsi_text_open(bsi_text **out, bsi_decoder *d, const char *encoding, bomsync_error *err) {
    *out = NULL;
    bsi_text *t = bsi_calloc(1, sizeof *t);
    t->d = d;
    t->cd = (iconv_t)-1;
    if (bsi_text_needed(encoding)) {
        t->cd = iconv_open("UTF-8", encoding);
        if (t->cd == (iconv_t)-1) {
            bsi_fail(err, BOMSYNC_E_USAGE, "unknown encoding \"%.60s\"", encoding);
            bsi_hint(err, "iconv --list shows the names that are known");
            bsi_text_close(t);
            return BOMSYNC_E_USAGE;
        }
        t->encoding = bsi_strdup(encoding);
    }
    *out = t;
    return BOMSYNC_OK;
}

void bsi_text_close(bsi_text *t) {
    if (!t) return;
    if (t->cd != (iconv_t)-1) iconv_close(t->cd);
    bsi_decoder_close(t->d);
    free(t->encoding);
    free(t);
}

static ssize_t refuse(const bsi_text *t, const char *what, bomsync_error *err) {
    uint64_t at = t->in_offset + t->at;
    uint8_t c = t->at < t->len ? (uint8_t)t->in[t->at] : 0;
    bsi_fail(err, BOMSYNC_E_REFUSED, "cannot read byte 0x%02X at %" PRIu64 " as %.60s%s", c, at, t->encoding, what);
    bsi_hint(err, "give the encoding that the file was written in with --encoding, or have it sent again");
    bsi_at(err, t->d->raw->path, (int64_t)at, (int64_t)t->lines + 1, NULL, NULL, 0);
    return -1;
}

/* More input behind what is left over. */
static int refill(bsi_text *t, bomsync_error *err) {
    memmove(t->in, t->in + t->at, t->len - t->at);
    t->in_offset += t->at;
    t->len -= t->at;
    t->at = 0;
    ssize_t n = bsi_decoder_read(t->d, (uint8_t *)t->in + t->len, IN_BYTES - t->len, err);
    if (n < 0) return -1;
    if (n == 0) t->in_end = true;
    t->len += (size_t)n;
    return 0;
}

static size_t count_line_feeds(const uint8_t *p, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += p[i] == '\n';
    return count;
}

static ssize_t convert(bsi_text *t, uint8_t *out, size_t n, bomsync_error *err) {
    bool more = false; /* what is in `in` ends inside a character */
    for (;;) {
        if ((more || t->at == t->len) && !t->in_end && refill(t, err)) return -1;
        char *from = t->in + t->at, *to = (char *)out;
        size_t left = t->len - t->at, room = n;
        bool flush = t->in_end && left == 0;
        if (flush && t->flushed) return 0;
        size_t rc = flush ? iconv(t->cd, NULL, NULL, &to, &room) : iconv(t->cd, &from, &left, &to, &room);
        int code = rc == (size_t)-1 ? errno : 0;
        t->at = t->len - left;
        if (flush && code != E2BIG) t->flushed = true;
        size_t got = n - room;
        t->lines += count_line_feeds(out, got);
        if (got) return (ssize_t)got; /* what is wrong comes back with the next call */
        if (code == EILSEQ) return refuse(t, "", err);
        if (code == EINVAL && t->in_end) return refuse(t, " (the file ends inside a character)", err);
        more = code == EINVAL;
        if (flush) return 0;
    }
}

ssize_t bsi_text_read(bsi_text *t, uint8_t *out, size_t n, bomsync_error *err) {
    return t->encoding ? convert(t, out, n, err) : bsi_decoder_read(t->d, out, n, err);
}

/* ---- wide encodings that were not declared ---- */

const char *bsi_text_wide(const uint8_t *p, size_t n) {
    if (n >= 4 && memcmp(p, "\xFF\xFE\0\0", 4) == 0) return "UTF-32";
    if (n >= 4 && memcmp(p, "\0\0\xFE\xFF", 4) == 0) return "UTF-32";
    if (n >= 2 && (memcmp(p, "\xFF\xFE", 2) == 0 || memcmp(p, "\xFE\xFF", 2) == 0)) return "UTF-16";
    n = BSI_MIN(n, (size_t)BSI_TEXT_SNIFF_BYTES) & ~(size_t)3;
    size_t zero[4] = {0}, quads = n / 4;
    for (size_t i = 0; i < n; i++) zero[i & 3] += p[i] == 0;
    if (!quads) return NULL;
    size_t low = zero[0] + zero[2], high = zero[1] + zero[3], most = 6 * quads; /* of 8: some are past U+00FF */
    if (zero[0] == 0 && 8 * zero[1] >= most && zero[2] == quads && zero[3] == quads) return "UTF-32LE";
    if (zero[3] == 0 && 8 * zero[2] >= most && zero[1] == quads && zero[0] == quads) return "UTF-32BE";
    if (low == 0 && 4 * high >= most) return "UTF-16LE";
    if (high == 0 && 4 * low >= most) return "UTF-16BE";
    return NULL;
}

bomsync_status bsi_text_check(const uint8_t *p, size_t n, const char *path, bomsync_error *err) {
    const char *wide = bsi_text_wide(p, n);
    if (!wide) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_REFUSED, "cannot read \"%s\": it looks like %s, and UTF-8 is expected", path, wide);
    bsi_hint(err, "say so with --encoding %s", wide);
    bsi_at(err, path, 0, 1, NULL, NULL, 0);
    return BOMSYNC_E_REFUSED;
}

size_t bsi_text_mark(const uint8_t *p, size_t n) {
    return n >= 3 && memcmp(p, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}
