/* diff/lines_loop.h - line ends, delimiters and what needs care, 64 bytes at a time; keys against the key before.
 * Included once by each variant, which names VARIANT.
 *
 * Most chunks hold neither quotes nor CR nor bytes above 0x7f: they take the short way. A key is compared by its first 64
 * bytes: the first byte in which it differs from the one before tells which field differs; where that field ends in either,
 * which is longer. What 64 bytes do not settle goes to bsi_keys_compare.
 */
#include "core/chunk.h"
#include "diff/lines.h"

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define NAME(x) PASTE(x, VARIANT)

typedef struct carry {
    uint64_t inside; /* all ones: the next chunk starts inside quotes */
    bool closed;     /* the last byte of the last chunk with quotes closed them */
} carry;

typedef struct masks {
    uint64_t lf, cr, sep, quote, nul, high;
} masks;

/* UTF-8 of one chunk: characters of two bytes, most of them, are settled here, others by the table of parse. */
static void check_high(bsi_lines *l, uint64_t high, const uint8_t *p, size_t i, size_t n, size_t *checked) {
    while (high) {
        size_t at = i + (size_t)__builtin_ctzll(high);
        high &= high - 1;
        if (at < *checked) continue;
        size_t left = n - at;
        uint8_t c = p[at];
        size_t len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        bool two = c >= 0xc2 && c < 0xe0 && left >= 2 && (p[at + 1] & 0xc0) == 0x80;
        if (!two && (left < len || bsi_parse_utf8(p + at, len) != len)) {
            bsi_lines_odd(l, at);
            l->bad_utf8 = true;
            len = 1;
        }
        *checked = at + len;
    }
}

/* Opening and bare quotes of a chunk: does one stand in a key column? line: delimiters before the line at hand. */
static void look_for_key_quote(bsi_lines *l, const bsi_line_shape *s, uint64_t opening, uint64_t ends, uint64_t sep, uint32_t total, uint32_t line) {
    for (; opening && !l->key_quote; opening &= opening - 1) {
        uint64_t below = (opening & -opening) - 1, last = ends & below;
        uint32_t rank = total + (uint32_t)__builtin_popcountll(sep & below);
        if (last) {
            uint64_t line_below = (1ull << (63 - __builtin_clzll(last))) - 1;
            line = total + (uint32_t)__builtin_popcountll(sep & line_below);
        }
        l->key_quote = rank - line - s->key_first < s->key_count;
    }
}

/* Takes what stands inside quotes out of lf and sep, CRs apart, and notes the odd bytes. */
static void mask_hard(bsi_lines *l, const bsi_line_shape *s, carry *k, masks *m, uint64_t valid, const uint8_t *p, size_t i, size_t n,
                      uint32_t total, uint32_t line) {
    uint64_t inside = k->inside, odd = m->nul, quote = m->quote;
    if (quote) {
        uint64_t stops = m->lf | m->cr | m->sep, all = quote;
        bool closed = k->closed && i && p[i - 1] == s->quote;
        uint64_t before = i ? bsi_chunk_before(p[i - 1], s->delimiter, closed) : 1;
        inside = bsi_chunk_inside(&quote, stops, before, k->inside);
        uint64_t closing = quote & ~inside, bare = all & ~quote;
        uint8_t next = i + 64 < n ? p[i + 64] : '\n';
        bool fine = next == s->delimiter || next == '\n' || next == '\r' || next == s->quote;
        bare |= closing & ~((stops | all) >> 1 | (uint64_t)fine << 63) & (valid >> 1 | 1ull << 63) & valid;
        if (!s->lenient) odd |= bare;
        k->closed = closing >> 63;
        k->inside = (uint64_t)((int64_t)inside >> 63);
        l->quotes = true;
        if (!l->key_quote) look_for_key_quote(l, s, (quote & inside) | bare, m->lf & ~inside, m->sep & ~inside, total, line);
    }
    m->lf &= ~inside;
    m->sep &= ~inside;
    uint64_t cr = m->cr & ~inside;
    if (cr) {
        uint64_t next_lf = i + 64 < n && p[i + 64] == '\n' ? 1ull << 63 : 0;
        if (n - i <= 64) cr &= ~(1ull << (n - i - 1)); /* its LF is not in sight: the line is not whole */
        l->lone_cr |= (cr & ~(m->lf >> 1 | next_lf)) != 0;
        l->crlf += (size_t)__builtin_popcountll(cr);
    }
    for (; odd; odd &= odd - 1) bsi_lines_odd(l, i + (size_t)__builtin_ctzll(odd));
}

void NAME(bsi_lines_read_)(bsi_lines *l, const bsi_line_shape *s, const uint8_t *p, size_t n) {
    const uint64_t quotes = s->quote ? ~0ull : 0;
    const bool keep = s->key_first != 0;
    uint32_t *start = l->start, *seps = l->seps;
    uint32_t total = 0;
    size_t count = 0, checked = 0;
    carry k = {0, false};
    start[0] = seps[0] = 0;
    for (size_t i = 0; i < n; i += 64) {
        bsi_chunk c = bsi_chunk_load(p + i);
        masks m = {bsi_chunk_eq(c, '\n'), bsi_chunk_eq(c, '\r'), bsi_chunk_eq(c, s->delimiter), bsi_chunk_eq(c, s->quote) & quotes,
                   bsi_chunk_eq(c, 0), bsi_chunk_high(c)};
        uint64_t valid = ~0ull;
        if (__builtin_expect(n - i < 64, 0)) {
            valid = (1ull << (n - i)) - 1;
            m.lf &= valid, m.cr &= valid, m.sep &= valid, m.quote &= valid, m.nul &= valid, m.high &= valid;
        }
        if (m.high) check_high(l, m.high, p, i, n, &checked);
        if (m.quote | m.cr | m.nul | k.inside) mask_hard(l, s, &k, &m, valid, p, i, n, total, seps[count]);
        if (keep) {
            l->mask[i / 64] = m.sep;
            l->before[i / 64] = total;
        }
        uint64_t e = m.lf;
        for (int j = 0; j < 2; j++) { /* two without asking: what is too much is written over */
            uint64_t low = e & -e;
            start[count + 1 + (size_t)j] = (uint32_t)(i + 1) + (uint32_t)__builtin_ctzll(e | 1ull << 63);
            seps[count + 1 + (size_t)j] = total + (uint32_t)__builtin_popcountll(m.sep & (low - 1));
            e ^= low;
        }
        for (size_t at = count + 3; __builtin_expect(e != 0, 0); e &= e - 1, at++) {
            start[at] = (uint32_t)(i + 1) + (uint32_t)__builtin_ctzll(e);
            seps[at] = total + (uint32_t)__builtin_popcountll(m.sep & ((e & -e) - 1));
        }
        count += (size_t)__builtin_popcountll(m.lf);
        total += (uint32_t)__builtin_popcountll(m.sep);
    }
    l->count = count;
    l->open = k.inside;
    if (keep) {
        l->mask[(n + 63) / 64] = 0;
        l->before[(n + 63) / 64] = total;
    }
}

static inline uint64_t differ(bsi_chunk a, bsi_chunk b) {
#if defined(__AVX512BW__)
    return _mm512_cmpneq_epi8_mask(a, b);
#elif defined(__AVX2__)
    return ~bsi_chunk_join(_mm256_cmpeq_epi8(a.a, b.a), _mm256_cmpeq_epi8(a.b, b.b));
#else
    const uint64_t low = 0x7f7f7f7f7f7f7f7full;
    uint64_t mask = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t x = a.w[i] ^ b.w[i];
        mask |= bsi_chunk_bits((((x & low) + low) | x) & ~low) << (8 * i);
    }
    return mask;
#endif
}

static inline uint64_t field_ends(const bsi_line_shape *s, bsi_chunk c) {
    uint64_t ends = bsi_chunk_eq(c, s->delimiter);
    if (s->key_last) ends |= bsi_chunk_eq(c, '\n') | bsi_chunk_eq(c, '\r');
    return ends;
}

size_t NAME(bsi_lines_ascend_)(const bsi_line_shape *s, const uint8_t *p, const uint32_t *key, size_t from, size_t count) {
    if (from >= count) return count;
    const uint8_t *pa = p + key[from];
    bsi_chunk a = bsi_chunk_load(pa);
    uint64_t ends_a = field_ends(s, a);
    for (size_t i = from + 1; i < count; i++) {
        const uint8_t *pb = p + key[i];
        bsi_chunk b = bsi_chunk_load(pb);
        uint64_t ne = differ(a, b), ends_b = field_ends(s, b);
        unsigned d = (unsigned)__builtin_ctzll(ne | 1ull << 63);
        uint64_t from_d = ~0ull << d, x = ends_a & from_d, y = ends_b & from_d;
        /* the lowest end of either: the field with the other's end further right is the longer one */
        uint64_t low_x = x & -x, low_y = y & -y;
        bool seen = ne && x && y && (uint32_t)__builtin_popcountll(ends_b & ~from_d) < s->key_count;
        bool above = low_x < low_y || (low_x == low_y && pa[d] < pb[d]);
        if (__builtin_expect(!(seen & above), 0)) return i;
        a = b;
        ends_a = ends_b;
        pa = pb;
    }
    return count;
}
