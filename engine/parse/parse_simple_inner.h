/* parse/parse_simple_inner.h - what the fast ways of parse share: lines of 64 bytes, columns in the order of slots. */
#ifndef BSI_PARSE_SIMPLE_INNER_H
#define BSI_PARSE_SIMPLE_INNER_H

#include "core/chunk.h"
#include "parse/parse_inner.h"

#define INLINE static inline __attribute__((always_inline))

enum { LINE = 64, CONTROL = 14 }; /* below CONTROL stand NUL, LF, CR and others that simple text does not have */

/* Bits up to and with the lowest one; all if there is none. */
INLINE uint64_t up_to(uint64_t bits) {
    return bits ^ (bits - 1);
}

/* Bytes [at, at + LINE) of p[0..n) that are there. */
INLINE __m512i load(const uint8_t *p, size_t at, size_t n) {
    size_t left = n > at ? n - at : 0;
    return _mm512_maskz_loadu_epi8(left >= LINE ? ~0ull : (1ull << left) - 1, p + (left ? at : 0));
}

INLINE __m512i numbers(void) {
    static const uint8_t number[LINE] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                         16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                         32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                         48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    return _mm512_loadu_si512(number);
}

/* Slots are the first columns, in order. */
static inline bool is_straight(const bsi_layout *l) {
    return l->stretch_count == 1 && !l->stretch[0].column;
}

/* Where columns of a stretch begin and end in the image of all columns; end[c]: where column c ends, less one. */
INLINE uint32_t from_of(const bsi_stretch *t, const uint16_t *end) {
    return t->column ? end[t->column - 1] + 1u : 0;
}
INLINE uint32_t to_of(const bsi_stretch *t, uint32_t count, const uint16_t *end) {
    return end[t->column + count - 1] + 1u;
}

/* Columns in the order of the slots. Reads and writes up to 31 bytes past them. */
static inline uint8_t *copy_stretches(const bsi_layout *l, uint8_t *o, const uint8_t *all, const uint16_t *end) {
    for (const bsi_stretch *t = l->stretch; t < l->stretch + l->stretch_count; t++) {
        uint32_t from = from_of(t, end), to = to_of(t, t->count, end);
        for (uint32_t k = from; k < to; k += 32) memcpy(o + (k - from), all + k, 32);
        o += to - from;
    }
    return o;
}

/* Bytes of the key slots. */
static inline uint32_t key_of(const bsi_layout *l, const uint16_t *end) {
    uint32_t key = 0, slots = 0;
    for (const bsi_stretch *t = l->stretch; slots < l->key_count; slots += t++->count)
        key += to_of(t, BSI_MIN(t->count, l->key_count - slots), end) - from_of(t, end);
    return key;
}

#endif
