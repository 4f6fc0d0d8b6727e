/* run/csv_out.c - see csv_out.h.
 *
 * Eight bytes are looked at at once: x ^ pattern has a byte that is zero where x has the byte of the pattern.
 */
#include "run/csv_out.h"

#define EACH 0x0101010101010101ull

static inline uint64_t zeros(uint64_t x) { return (x - EACH) & ~x & EACH << 7; }

static inline uint64_t specials(uint64_t x) {
    return zeros(x ^ EACH * ',') | zeros(x ^ EACH * '"') | zeros(x ^ EACH * '\n') | zeros(x ^ EACH * '\r');
}

static inline uint64_t word(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

bool bsi_csv_needs_quotes(const uint8_t *p, size_t n) {
    if (n >= 8) {
        uint64_t found = specials(word(p + n - 8));
        for (size_t i = 0; i + 8 <= n && !found; i += 8) found = specials(word(p + i));
        return found != 0;
    }
    uint64_t w = 0;
    for (size_t i = 0; i < n; i++) w = w << 8 | p[i];
    return specials(w) != 0; /* bytes that are not there are 0 */
}

uint8_t *bsi_csv_quoted(uint8_t *to, const uint8_t *p, size_t n) {
    *to++ = '"';
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '"') *to++ = '"';
        *to++ = p[i];
    }
    *to++ = '"';
    return to;
}

void bsi_csv_field(bsi_buf *b, const void *p, size_t n) {
    bsi_buf_reserve(b, 2 * n + 2);
    uint8_t *at = b->data + b->len;
    bool quotes = n && bsi_csv_needs_quotes(p, n);
    if (n && !quotes) memcpy(at, p, n);
    b->len += quotes ? (size_t)(bsi_csv_quoted(at, p, n) - at) : n;
}
