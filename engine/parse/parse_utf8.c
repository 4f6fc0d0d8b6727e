/* parse/parse_utf8.c - is it UTF-8, and if not, where does it break?
 *
 *   1st byte   2nd byte   more
 *   00..7f
 *   c2..df     80..bf
 *   e0         a0..bf     1        shorter forms of the same character are refused
 *   e1..ec     80..bf     1
 *   ed         80..9f     1        no surrogates
 *   ee..ef     80..bf     1
 *   f0         90..bf     2
 *   f1..f3     80..bf     2
 *   f4         80..8f     2        nothing above 10ffff
 *
 * Runs of ASCII are passed over 16 bytes at a time; texts of master data are mostly that.
 */
#include "parse/parse_inner.h"

static size_t sequence(const uint8_t *p, size_t n) {
    uint8_t c = p[0];
    if (c < 0xc2 || c > 0xf4 || n < 2) return 0;
    uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high) return 0;
    size_t more = c < 0xe0 ? 0 : c < 0xf0 ? 1 : 2;
    if (n < 2 + more) return 0;
    for (size_t i = 0; i < more; i++)
        if ((p[2 + i] & 0xc0) != 0x80) return 0;
    return 2 + more;
}

/* Bytes of ASCII at the front of 16. */
static size_t ascii(const uint8_t *p) {
    uint64_t a, b;
    memcpy(&a, p, 8);
    memcpy(&b, p + 8, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    a = __builtin_bswap64(a);
    b = __builtin_bswap64(b);
#endif
    a &= 0x8080808080808080ull;
    b &= 0x8080808080808080ull;
    return a ? (size_t)__builtin_ctzll(a) / 8 : b ? 8 + (size_t)__builtin_ctzll(b) / 8 : 16;
}

/* Goes on from *i to `end` or a little behind it, never past n; false: what stands at *i is no UTF-8. */
static bool go_on(const uint8_t *p, size_t *i, size_t end, size_t n) {
    while (*i < end) {
        if (p[*i] < 0x80) {
            *i += n - *i >= 16 ? ascii(p + *i) : 1; /* near the end of a chunk, too */
            continue;
        }
        size_t len = sequence(p + *i, n - *i);
        if (!len) return false;
        *i += len;
    }
    return true;
}

size_t bsi_parse_utf8(const uint8_t *p, size_t n) {
    size_t i = 0;
    return go_on(p, &i, n, n) ? n : i;
}

bool bsi_parse_utf8_chunks(const uint8_t *p, size_t n, const uint32_t *chunk, size_t count) {
    size_t i = 0; /* a character may reach into the next chunk */
    for (size_t k = 0; k < count; k++) {
        i = BSI_MAX(i, (size_t)chunk[k]);
        if (!go_on(p, &i, BSI_MIN((size_t)chunk[k] + 64, n), n)) return false;
    }
    return true;
}
