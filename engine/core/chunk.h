/* core/chunk.h - 64 bytes as bit masks, and which of them stand inside quotes.
 *
 *   bytes   a , " x , y " , 1 2 " \n        bit i is byte i of the chunk
 *   quote   . . 1 . . . 1 . . . 1 .
 *   inside  . . 1 1 1 1 . . . . . .         prefix xor of the quotes that count: opening bit in, closing bit out
 *
 * A quote opens a field only as its first byte. The prefix xor is therefore exact as long as each opening quote stands
 * behind a delimiter, a line end, the start, or a quote that closed (a doubled one). The first that does not is data,
 * and so are all quotes up to the end of its field: they are taken out, and the xor is made again. After that nothing
 * is left to a slower machine: the masks are the exact state of Python's csv reader (strict=False).
 *
 * Which instructions are used is decided by the flags of the file that includes this.
 */
#ifndef BSI_CORE_CHUNK_H
#define BSI_CORE_CHUNK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BW__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)
typedef __m512i bsi_chunk;
static inline bsi_chunk bsi_chunk_load(const uint8_t *p) { return _mm512_loadu_si512((const void *)p); }
static inline uint64_t bsi_chunk_eq(bsi_chunk c, uint8_t b) {
    return _mm512_cmpeq_epi8_mask(c, _mm512_set1_epi8((char)b));
}
static inline uint64_t bsi_chunk_ne(bsi_chunk c, bsi_chunk d) { return _mm512_cmpneq_epi8_mask(c, d); }
static inline uint64_t bsi_chunk_high(bsi_chunk c) { return _mm512_movepi8_mask(c); }
#elif defined(__AVX2__)
typedef struct bsi_chunk {
    __m256i a, b;
} bsi_chunk;
static inline bsi_chunk bsi_chunk_load(const uint8_t *p) {
    return (bsi_chunk){_mm256_loadu_si256((const __m256i *)(const void *)p),
                       _mm256_loadu_si256((const __m256i *)(const void *)(p + 32))};
}
static inline uint64_t bsi_chunk_join(__m256i a, __m256i b) {
    return (uint64_t)(uint32_t)_mm256_movemask_epi8(a) | (uint64_t)(uint32_t)_mm256_movemask_epi8(b) << 32;
}
static inline uint64_t bsi_chunk_eq(bsi_chunk c, uint8_t b) {
    __m256i v = _mm256_set1_epi8((char)b);
    return bsi_chunk_join(_mm256_cmpeq_epi8(c.a, v), _mm256_cmpeq_epi8(c.b, v));
}
static inline uint64_t bsi_chunk_ne(bsi_chunk c, bsi_chunk d) {
    return ~bsi_chunk_join(_mm256_cmpeq_epi8(c.a, d.a), _mm256_cmpeq_epi8(c.b, d.b));
}
static inline uint64_t bsi_chunk_high(bsi_chunk c) { return bsi_chunk_join(c.a, c.b); }
#else
typedef struct bsi_chunk {
    uint64_t w[8];
} bsi_chunk;
static inline uint64_t bsi_chunk_word(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap64(w);
#endif
    return w;
}
static inline bsi_chunk bsi_chunk_load(const uint8_t *p) {
    bsi_chunk c;
    for (int i = 0; i < 8; i++) c.w[i] = bsi_chunk_word(p + 8 * i);
    return c;
}
/* 0x80 in each byte of t that counts, to one bit a byte */
static inline uint64_t bsi_chunk_bits(uint64_t t) { return (t >> 7) * 0x0102040810204080ull >> 56; }
static inline uint64_t bsi_chunk_eq(bsi_chunk c, uint8_t b) {
    const uint64_t low = 0x7f7f7f7f7f7f7f7full, each = b * 0x0101010101010101ull;
    uint64_t mask = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t x = c.w[i] ^ each; /* zero where equal */
        uint64_t t = ~(((x & low) + low) | x | low);
        mask |= bsi_chunk_bits(t) << (8 * i);
    }
    return mask;
}
/* bytes of x that are not zero */
static inline uint64_t bsi_chunk_filled(uint64_t x) {
    const uint64_t low = 0x7f7f7f7f7f7f7f7full;
    return bsi_chunk_bits((((x & low) + low) | x) & ~low);
}
static inline uint64_t bsi_chunk_ne(bsi_chunk c, bsi_chunk d) {
    uint64_t mask = 0;
    for (int i = 0; i < 8; i++) mask |= bsi_chunk_filled(c.w[i] ^ d.w[i]) << (8 * i);
    return mask;
}
static inline uint64_t bsi_chunk_high(bsi_chunk c) {
    uint64_t mask = 0;
    for (int i = 0; i < 8; i++) mask |= bsi_chunk_bits(c.w[i] & 0x8080808080808080ull) << (8 * i);
    return mask;
}
#endif

/** Bit i: xor of bits 0..i. */
static inline uint64_t bsi_prefix_xor(uint64_t x) {
#if defined(__PCLMUL__)
    return (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(_mm_set_epi64x(0, (int64_t)x), _mm_set1_epi8(-1), 0));
#else
    for (int s = 1; s < 64; s *= 2) x ^= x << s;
    return x;
#endif
}

/**
 * Which bytes of a chunk are inside quotes: the opening quote is, the closing one is not.
 *
 * quote:  in: all quote bytes; out: those that open or close, bare ones taken out
 * stops:  delimiter, LF, CR, inside quotes or not
 * before: 1 if a field starts with bit 0, or the byte before is a quote that closed (bsi_chunk_before)
 * carry:  all ones if the chunk starts inside quotes, else 0
 */
static inline uint64_t bsi_chunk_inside(uint64_t *quote, uint64_t stops, uint64_t before, uint64_t carry) {
    for (;;) {
        uint64_t inside = bsi_prefix_xor(*quote) ^ carry;
        uint64_t bare = *quote & inside & ~((stops | *quote) << 1 | before);
        if (__builtin_expect(!bare, 1)) return inside;
        uint64_t from = ~((bare & -bare) - 1); /* the first bare quote and all behind it */
        uint64_t stop = stops & from;
        *quote &= ~(stop ? from & ((stop & -stop) - 1) : from);
    }
}

/** The `before` of a chunk that does not start inside quotes: prev is the byte in front of it, closed: prev closed quotes. */
static inline uint64_t bsi_chunk_before(uint8_t prev, uint8_t delimiter, bool closed) {
    return prev == delimiter || prev == '\n' || prev == '\r' || closed;
}

#endif
