/* store/store_residual_vbmi2.c - residuals in registers, with AVX512 and VBMI2. The build gives this file its -m flags; it is
 * called only where they run.
 *
 * What store_residual.c does field by field is done for all fields of a row at once, as long as the row fits two registers, or one:
 *
 *   image     4 1 0 0 0 6 A S M - 1 7 2 2 0          starts: 0, 5, 12     ends: 4, 11, 14
 *   spread    4 1 0 0 0 . . .  | 6 A S M - 1 7 .  | 2 2 0 . . .           16 bytes a field, zeros behind it
 *   differ    0                | 0                | 1                     from the spread row before
 *   kept      . . . . . . . . . . . . 1 1 1           from start to end of each field that differs, by one subtraction
 *
 * Kept bytes are packed together. Fields that a row does not have are taken as empty ones behind its end: zeros are there.
 * A longer field is the same only if the rest of it is, which is looked at if its first 16 bytes are. What is not so simple
 * (nulls, no row at all) sends the block back to store_residual.c, and a row of more than 127 bytes to store_residual_long_vbmi2.c; all
 * write the same bytes.
 */
#include "store/store_inner.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LINE = 64, FIELD = 16, FIELDS = LINE / FIELD, ROW = 2 * LINE, SLOTS = BSI_RESIDUAL_SIMPLE_SLOTS };

typedef struct bits { /* of a row, one a byte */
    uint64_t low, high;
} bits;

INLINE uint64_t below(uint32_t n) { return n < LINE ? (1ull << n) - 1 : ~0ull; }

/* Each field tells where the next one begins: that takes as long as all the rest, so who knows the places says them. */
static __attribute__((noinline)) bool walk(bits *starts, const uint8_t *p, uint32_t n, uint32_t slots) {
    uint32_t at = 0;
    *starts = (bits){0};
    for (uint32_t i = 0; at < n && i < slots; i++) {
        uint64_t bit = 1ull << (at & 63), first = (uint64_t)(at >> 6) - 1;
        starts->low |= bit & first;
        starts->high |= bit & ~first;
        at += p[at] + 1u;
    }
    return at == n;
}

/* Where fields begin, and the end. *fields: how many there are. False: it is no body of so many slots. */
INLINE bool find_starts(bits *starts, uint32_t *fields, const bsi_row_starts *known, const uint8_t *p, uint32_t n, uint32_t slots) {
    bits b = {0};
    if (known && known->word[0]) b = (bits){known->word[0] & below(n), known->word[1] & below(n > LINE ? n - LINE : 0)};
    else if (!walk(&b, p, n, slots)) return false;
    uint32_t i = (uint32_t)(__builtin_popcountll(b.low) + __builtin_popcountll(b.high)), at = n;
    *fields = i;
    if (i > slots || n + (slots - i) >= ROW) return false;
    for (; i <= slots; i++, at++) { /* the last bit is that of the end */
        uint64_t bit = 1ull << (at & 63), first = (uint64_t)(at >> 6) - 1;
        b.low |= bit & first;
        b.high |= bit & ~first;
    }
    *starts = b;
    return true;
}

/* All bytes of the fields that `which` has a bit for. */
INLINE bits bytes_of(bits starts, uint64_t which) {
    typedef unsigned __int128 wide;
    bits ends = {starts.low >> 1 | starts.high << 63, starts.high >> 1};
    wide first = (wide)_pdep_u64(which >> __builtin_popcountll(starts.low), starts.high) << 64 | _pdep_u64(which, starts.low);
    wide last = (wide)_pdep_u64(which >> __builtin_popcountll(ends.low), ends.high) << 64 | _pdep_u64(which, ends.low);
    wide all = (last - first) | last;
    return (bits){(uint64_t)all, (uint64_t)(all >> 64)};
}

/* The same where all of them begin, and end, in one word. */
INLINE uint64_t bytes_of_one(uint64_t starts, uint64_t which) {
    uint64_t first = _pdep_u64(which, starts), last = _pdep_u64(which, starts >> 1);
    return (last - first) | last;
}

/* Fields of more than 16 bytes that begin as those of the row before: which of them differ. */
static __attribute__((noinline)) uint64_t differ_behind(uint64_t some, const uint8_t *p, const uint8_t *at, const uint8_t *was, const uint8_t *was_at) {
    uint64_t out = 0;
    for (; some; some &= some - 1) {
        int i = __builtin_ctzll(some);
        const uint8_t *a = p + at[i], *b = was + was_at[i];
        if (memcmp(a + FIELD, b + FIELD, a[0] + 1u - FIELD) != 0) out |= 1ull << i;
    }
    return out;
}

typedef struct numbers {
    __m512i place, behind, inside, field; /* of the bytes of both lines; in a field of 16, and that field's: 0 sixteen times, 1, 2, 3 */
} numbers;

typedef struct row_before {
    __m512i spread[SLOTS / FIELDS];
    const uint8_t *p;
    uint8_t at[LINE]; /* where its fields begin */
} row_before;

/* two: it does not fit one register with its missing fields. */
INLINE uint8_t *put_row(uint8_t *o, row_before *was, const numbers *k, uint32_t slots, uint32_t registers, const uint8_t *p, uint32_t n, bits starts,
                        uint32_t fields, bool two) {
    const uint64_t there = below(slots);
    __m512i low = _mm512_maskz_loadu_epi8(below(n), p), high = _mm512_setzero_si512(), start = _mm512_maskz_compress_epi8(starts.low, k->place);
    if (two) {
        high = _mm512_maskz_loadu_epi8(below(n > LINE ? n - LINE : 0), p + (n > LINE ? LINE : 0));
        start = _mm512_mask_expand_epi8(start, ~0ull << __builtin_popcountll(starts.low), _mm512_maskz_compress_epi8(starts.high, k->behind));
    }
    uint64_t halves = 0; /* two bits a field: its first and last 8 bytes differ */
    for (uint32_t v = 0; v < registers; v++) {
        __m512i which = _mm512_add_epi8(k->field, _mm512_set1_epi8((char)(FIELDS * v)));
        __m512i from = _mm512_add_epi8(_mm512_permutexvar_epi8(which, start), k->inside);
        __m512i spread = two ? _mm512_permutex2var_epi8(low, from, high) : _mm512_permutexvar_epi8(from, low);
        __m512i length = _mm512_shuffle_epi8(spread, _mm512_setzero_si512());
        spread = _mm512_maskz_mov_epi8(_mm512_cmple_epu8_mask(k->inside, length), spread);
        halves |= (uint64_t)_mm512_cmpneq_epi64_mask(spread, was->spread[v]) << (8 * v);
        was->spread[v] = spread;
    }
    __m512i lengths = two ? _mm512_permutex2var_epi8(low, start, high) : _mm512_permutexvar_epi8(start, low);
    uint64_t differ = _pext_u64(halves | halves >> 1, 0x5555555555555555ull) & there, filled = _mm512_test_epi8_mask(lengths, lengths) & there;
    uint64_t is_long = _mm512_cmpge_epu8_mask(lengths, _mm512_set1_epi8(FIELD)) & there & ~differ;
    if (__builtin_expect(is_long != 0, 0)) {
        uint8_t at[LINE];
        _mm512_storeu_si512(at, start);
        differ |= differ_behind(is_long, p, at, was->p, was->at);
    }
    _mm512_storeu_si512(was->at, start);
    was->p = p;
    bool usual = fields == (filled ? 64 - (uint32_t)__builtin_clzll(filled) : 0);
    uint64_t mask = (~differ & there) << 1 | usual;
    memcpy(o, &mask, sizeof mask);
    o += slots / 8 + 1;
    bits kept = two ? bytes_of(starts, differ) : (bits){bytes_of_one(starts.low, differ), 0};
    _mm512_storeu_si512(o, _mm512_maskz_compress_epi8(kept.low, low));
    o += __builtin_popcountll(kept.low);
    if (two) {
        _mm512_storeu_si512(o, _mm512_maskz_compress_epi8(kept.high, high));
        o += __builtin_popcountll(kept.high);
    }
    if (usual) return o;
    const uint8_t shape[3] = {(uint8_t)fields, 1, 0}; /* nulls: one byte, 0 */
    memcpy(o, shape, sizeof shape);
    return o + sizeof shape;
}

INLINE uint8_t *put_rows(uint8_t *o, uint32_t slots, uint32_t registers, uint32_t count, const uint8_t *images, const uint32_t *image_off,
                         const uint32_t *body, const bsi_row_starts *known, uint32_t *ends) {
    static const uint8_t number[LINE] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                         22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                         44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    const __m512i place = _mm512_loadu_si512(number);
    const numbers k = {place, _mm512_add_epi8(place, _mm512_set1_epi8(LINE)), _mm512_and_si512(place, _mm512_set1_epi8(FIELD - 1)),
                       _mm512_and_si512(_mm512_srli_epi16(place, 4), _mm512_set1_epi8(FIELDS - 1))};
    row_before was;
    const uint8_t *first = o;
    for (uint32_t v = 0; v < registers; v++) was.spread[v] = _mm512_setzero_si512();
    was.p = images;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *p = images + image_off[i];
        uint32_t n = body[i], fields;
        bits starts;
        if (__builtin_expect(n >= ROW || image_off[i + 1] - image_off[i] != n + 1 || p[n], 0)) return NULL;
        if (__builtin_expect(!find_starts(&starts, &fields, known ? known + i : NULL, p, n, slots), 0)) return NULL;
        if (starts.high) o = put_row(o, &was, &k, slots, registers, p, n, starts, fields, true);
        else o = put_row(o, &was, &k, slots, registers, p, n, starts, fields, false);
        if (ends) ends[i] = (uint32_t)(o - first);
    }
    return o;
}

uint8_t *bsi_residual_rows_vbmi2(uint8_t *o, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body,
                                 const bsi_row_starts *known, uint32_t *ends) {
    uint32_t longest = 0;
    uint8_t *end = NULL;
    for (uint32_t i = 0; i < count; i++) longest = BSI_MAX(longest, body[i]);
    if (longest < ROW && slots <= SLOTS / 2) end = put_rows(o, slots, SLOTS / FIELDS / 2, count, images, image_off, body, known, ends);
    else if (longest < ROW && slots <= SLOTS) end = put_rows(o, slots, SLOTS / FIELDS, count, images, image_off, body, known, ends);
    return end || longest + slots < ROW ? end : bsi_residual_long_vbmi2(o, slots, count, images, image_off, body, known, ends);
}

#else
typedef int bsi_residual_vbmi2_unused; /* a translation unit may not be empty */
#endif
