/* parse/parse_index_loop.h - field and record ends of a block. Included once by each variant, which names INDEX_NAME.
 *
 * One pass in chunks of 64 bytes: masks of delimiter, LF, CR, quote and NUL; what stands inside quotes is taken out
 * (core/chunk.h); the bits left are written down as positions. A quote is plain if it opens a field, or closes one and
 * a delimiter or line end follows: then the field is what stands between the two. All others are `odd`.
 */
#include "core/chunk.h"
#include "parse/parse_inner.h"

typedef struct index_carry {
    uint64_t inside;  /* all ones: inside quotes */
    bool closed;      /* the last byte of the last chunk with quotes closed them */
    bool pending;     /* and what follows is not looked at yet */
} index_carry;

static inline uint32_t *put_bits(uint32_t *w, uint32_t base, uint64_t bits) {
#if defined(__AVX512VBMI2__)
    /* the numbers of the bits as bytes, side by side, and widened, sixteen at a time: two rounds do for most chunks */
    static const uint8_t number[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                       22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                       44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    uint32_t *stop = w + __builtin_popcountll(bits);
    __m512i packed = _mm512_maskz_compress_epi8(bits, _mm512_loadu_si512(number)), first = _mm512_set1_epi32((int)base);
    _mm512_storeu_si512(w, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(_mm512_castsi512_si128(packed))));
    if (stop - w > 16) {
        _mm512_storeu_si512(w + 16, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(packed, 1))));
        _mm512_storeu_si512(w + 32, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(packed, 2))));
        _mm512_storeu_si512(w + 48, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(packed, 3))));
    }
    return stop;
#elif defined(__BMI__)
    /* eight at a time without asking: what is too much is written over */
    uint32_t *stop = w + __builtin_popcountll(bits);
    for (uint32_t *at = w; at < stop; at += 8)
        for (int j = 0; j < 8; j++) {
            at[j] = base + (uint32_t)_tzcnt_u64(bits);
            bits &= bits - 1;
            __asm__("" : "+r"(bits)); /* gcc would put the eight together in a vector, one by one */
        }
    return stop;
#else
    for (; bits; bits &= bits - 1) *w++ = base + (uint32_t)__builtin_ctzll(bits);
    return w;
#endif
}

/* Takes what is inside quotes out of *ends and *seps; returns the odd bytes of this chunk. */
static inline uint64_t mask_quotes(index_carry *k, uint64_t *ends, uint64_t *seps, uint64_t quote, uint64_t cr,
                                   uint64_t valid, const bsi_dialect *d, const uint8_t *p, size_t i) {
    uint64_t stops = *ends | *seps | cr, inside = k->inside, odd = 0;
    if (quote) {
        uint64_t all = quote;
        bool closed = k->closed && i && p[i - 1] == (uint8_t)d->quote;
        uint64_t before = i ? bsi_chunk_before(p[i - 1], (uint8_t)d->delimiter, closed) : 1;
        inside = bsi_chunk_inside(&quote, stops, before, k->inside);
        uint64_t closing = quote & ~inside;
        odd = (all & ~quote) | (closing & ~(stops >> 1) & (valid >> 1)); /* the last byte: see pending */
        k->closed = k->pending = closing >> 63;
        k->inside = (uint64_t)((int64_t)inside >> 63);
    }
    *ends &= ~inside;
    *seps &= ~inside;
    return odd;
}

void INDEX_NAME(bsi_parse_index *ix, const bsi_dialect *d, const uint8_t *p, size_t n) {
    const uint64_t quotes = d->quote ? ~0ull : 0;
    const uint8_t quote_byte = (uint8_t)d->quote, delimiter = (uint8_t)d->delimiter;
    uint32_t *pos = ix->pos, *w = pos, *end = ix->end, *odd = ix->odd, *quotes_at = ix->quote;
    uint32_t *high_at = ix->high_at;
    uint64_t any_quote = 0, any_cr = 0, any_nul = 0;
    index_carry k = {0, false, false};
    *w++ = UINT32_MAX;
    for (size_t i = 0; i < n; i += 64) {
        bsi_chunk c = bsi_chunk_load(p + i);
        uint64_t seps = bsi_chunk_eq(c, delimiter), ends = bsi_chunk_eq(c, '\n'), cr = bsi_chunk_eq(c, '\r');
        uint64_t quote = bsi_chunk_eq(c, quote_byte) & quotes, nul = bsi_chunk_eq(c, 0), high = bsi_chunk_high(c);
        uint64_t valid = ~0ull;
        if (__builtin_expect(n - i < 64, 0)) {
            valid = (1ull << (n - i)) - 1;
            seps &= valid;
            ends &= valid;
            cr &= valid;
            quote &= valid;
            nul &= valid;
            high &= valid;
        }
        *high_at = (uint32_t)i;
        high_at += high != 0;
        if (quote | cr | nul | k.inside | k.pending) {
            uint64_t lf = ends;
            uint64_t next_lf = i + 64 < n && p[i + 64] == '\n' ? 1ull << 63 : 0;
            if (k.pending && !((seps | lf | cr) & 1)) *odd++ = (uint32_t)i - 1;
            k.pending = false;
            ends |= cr & ~(lf >> 1 | next_lf);
            uint64_t care = mask_quotes(&k, &ends, &seps, quote, cr, valid, d, p, i) | nul;
            odd = put_bits(odd, (uint32_t)i, care);
            quotes_at = put_bits(quotes_at, (uint32_t)i, quote);
            any_quote |= quote;
            any_cr |= cr;
            any_nul |= nul;
        }
        uint64_t bits = seps | ends;
        for (uint64_t e = ends; e; e &= e - 1)
            *end++ = (uint32_t)(w - pos) + (uint32_t)__builtin_popcountll(bits & ((e & -e) - 1));
        w = put_bits(w, (uint32_t)i, bits);
    }
    if (n && (end == ix->end || pos[end[-1]] != n - 1)) {
        *end++ = (uint32_t)(w - pos);
        *w++ = (uint32_t)n;
    }
    ix->open = k.inside;
    if (k.inside && n) *odd++ = (uint32_t)n - 1;
    ix->pos_count = (size_t)(w - pos);
    ix->end_count = (size_t)(end - ix->end);
    ix->odd_count = (size_t)(odd - ix->odd);
    ix->quote_count = (size_t)(quotes_at - ix->quote);
    ix->quotes = any_quote;
    ix->cr = any_cr;
    ix->nul = any_nul;
    ix->high_count = (size_t)(high_at - ix->high_at);
    ix->high = ix->high_count != 0;
}
