/* store/store_residual_long_vbmi2.c - residuals of rows that do not fit two registers, with AVX512 and VBMI2. The build gives this file
 * its -m flags; it is called only where they run.
 *
 * As store_residual_vbmi2.c, which see, for rows of up to 512 bytes, 64 of them at a time:
 *
 *   image     20 k i . . . . . . . . . . . . . . | . . . . . 3 a b c 0          lines of 64 bytes (here: 17)
 *   starts    1  . . . . . . . . . . . . . . . . | . . . . . 1 . . . 1          one word for each line
 *   at        0, 22, 26                                                        the same as numbers
 *   kept      1  1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 | 1 1 1 1 1 . . . . .          by one subtraction over all words
 *
 * The first 16 bytes of fields come from memory, as no permutation reaches so far; a row at the end of the block is copied first,
 * as nothing behind it may be read. Lengths of two bytes need no care: a field goes up to the next start.
 */
#include "store/store_inner.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LINE = 64, LINES = BSI_ROW_LINES, ROW = LINE * LINES, FIELD = 16, FIELDS = LINE / FIELD, SLOTS = BSI_RESIDUAL_SIMPLE_SLOTS };

typedef struct row {
    const uint8_t *p;
    uint32_t bytes, fields, lines;
    uint64_t starts[LINES + 1]; /* bit i of word w: a field begins at byte 64 w + i, or the row ends there */
    uint16_t at[2 * SLOTS];     /* the same; of fields that it does not have: its end */
} row;

INLINE uint64_t below(uint32_t n) { return n < LINE ? (1ull << n) - 1 : ~0ull; }

/* Line w of n bytes, zeros behind them. */
INLINE __m512i line_of(const uint8_t *p, uint32_t n, uint32_t w) {
    return _mm512_maskz_loadu_epi8(below(n > w * LINE ? n - w * LINE : 0), p + w * LINE);
}

/* Each field tells where the next one begins: slow, so who knows the places says them. */
static __attribute__((noinline)) bool walk(row *r, uint32_t slots) {
    uint32_t at = 0;
    for (uint32_t i = 0; at < r->bytes && i < slots; i++) {
        r->starts[at / LINE] |= 1ull << at % LINE;
        uint32_t bytes = r->p[at++];
        if (bytes > 127) {
            if (at >= r->bytes || r->p[at] > 127) return false;
            bytes = (bytes & 127) | (uint32_t)r->p[at++] << 7;
        }
        at += bytes;
    }
    return at == r->bytes;
}

/* The words that are known, without what they say of bytes behind the row. */
INLINE void take_starts(row *r, const bsi_row_starts *known) {
    const __m512i first = _mm512_set_epi64(7 * LINE, 6 * LINE, 5 * LINE, 4 * LINE, 3 * LINE, 2 * LINE, LINE, 0);
    __m512i left = _mm512_max_epi64(_mm512_sub_epi64(_mm512_set1_epi64(r->bytes), first), _mm512_setzero_si512());
    __m512i past = _mm512_sllv_epi64(_mm512_set1_epi64(-1), left);
    _mm512_storeu_si512(r->starts, _mm512_andnot_si512(past, _mm512_loadu_si512(known->word)));
}

/* False: it is no body of so many slots. */
INLINE bool find_starts(row *r, const bsi_row_starts *known, uint32_t slots, __m512i place) {
    _mm512_storeu_si512(r->starts, _mm512_setzero_si512());
    r->starts[LINES] = 0;
    if (known && known->word[0]) take_starts(r, known);
    else if (!walk(r, slots)) return false;
    uint32_t n = r->bytes, fields = 0;
    for (uint32_t w = 0; w * LINE < n; w++) {
        __m256i numbers = _mm512_castsi512_si256(_mm512_maskz_compress_epi8(r->starts[w], place));
        _mm512_storeu_si512(r->at + fields, _mm512_add_epi16(_mm512_cvtepu8_epi16(numbers), _mm512_set1_epi16((short)(w * LINE))));
        fields += (uint32_t)__builtin_popcountll(r->starts[w]);
        if (__builtin_expect(fields > slots, 0)) return false;
    }
    _mm512_storeu_si512(r->at + fields, _mm512_set1_epi16((short)n));
    uint64_t missing = below(slots - fields + 1); /* one byte each, and the end */
    r->starts[n / LINE] |= missing << n % LINE;
    r->starts[n / LINE + 1] |= missing >> 1 >> (LINE - 1 - n % LINE);
    r->fields = fields;
    r->lines = (n + slots - fields) / LINE + 1;
    return true;
}

/* The first 16 bytes of four fields. */
INLINE __m512i four_fields(const uint8_t *p, const uint16_t *at) {
    __m128i a = _mm_loadu_si128((const void *)(p + at[0])), b = _mm_loadu_si128((const void *)(p + at[1]));
    __m128i c = _mm_loadu_si128((const void *)(p + at[2])), d = _mm_loadu_si128((const void *)(p + at[3]));
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(b, a)), _mm256_set_m128i(d, c), 1);
}

/* Fields of more than 16 bytes that begin as those of the row before: which of them differ. */
INLINE uint64_t differ_behind(uint64_t some, const row *r, const row *was) {
    uint64_t out = 0;
    for (; some; some &= some - 1) {
        int i = __builtin_ctzll(some);
        const uint8_t *a = r->p + r->at[i], *b = was->p + was->at[i];
        if (memcmp(a + FIELD, b + FIELD, r->at[i + 1] - r->at[i] - (size_t)FIELD) != 0) out |= 1ull << i;
    }
    return out;
}

/* The fields that `which` has a bit for. */
INLINE uint8_t *put_kept(uint8_t *o, const row *r, uint64_t which) {
    unsigned char borrow = 0;
    for (uint32_t w = 0, first = 0, last = 0; w < r->lines; w++) { /* first, last: fields that begin, or end, in the lines before */
        uint64_t start = r->starts[w], end = start >> 1 | r->starts[w + 1] << 63;
        uint64_t from = _pdep_u64(which >> first, start), to = _pdep_u64(which >> last, end);
        unsigned long long kept;
        borrow = _subborrow_u64(borrow, to, from, &kept);
        kept |= to;
        first += (uint32_t)__builtin_popcountll(start);
        last += (uint32_t)__builtin_popcountll(end);
        _mm512_storeu_si512(o, _mm512_maskz_compress_epi8(kept, line_of(r->p, r->bytes, w)));
        o += __builtin_popcountll(kept);
    }
    return o;
}

INLINE uint8_t *put_rows(uint8_t *o, uint32_t slots, uint32_t registers, uint32_t count, const uint8_t *images, const uint32_t *image_off,
                         const uint32_t *body, const bsi_row_starts *known, uint32_t *ends) {
    static const uint8_t number[LINE] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                         22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                         44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    const __m512i place = _mm512_loadu_si512(number), inside = _mm512_and_si512(place, _mm512_set1_epi8(FIELD - 1));
    const uint64_t there = below(slots), even = 0x5555555555555555ull;
    const uint8_t *end = images + image_off[count], *first = o;
    __m512i before[SLOTS / FIELDS];
    row rows[2];
    uint8_t copy[ROW + FIELD];
    for (uint32_t v = 0; v < registers; v++) before[v] = _mm512_setzero_si512();
    for (uint32_t i = 0; i < count; i++) {
        row *r = &rows[i & 1];
        r->p = images + image_off[i];
        r->bytes = body[i];
        uint32_t n = r->bytes;
        if (__builtin_expect(n + slots >= ROW || image_off[i + 1] - image_off[i] != n + 1 || r->p[n], 0)) return NULL;
        if (__builtin_expect(!find_starts(r, known ? known + i : NULL, slots, place), 0)) return NULL;
        const uint8_t *p = r->p;
        if (__builtin_expect(end - p < n + FIELD, 0)) {
            for (uint32_t w = 0; w < LINES; w++) _mm512_storeu_si512(copy + w * LINE, line_of(r->p, n, w));
            p = copy;
        }
        uint64_t halves = 0, some = 0, more = 0; /* two bits a field: its first and last 8 bytes differ; it is not empty; it has 17 bytes */
        for (uint32_t v = 0; v < registers; v++) {
            __m512i spread = four_fields(p, r->at + FIELDS * v), length = _mm512_shuffle_epi8(spread, _mm512_setzero_si512());
            spread = _mm512_maskz_mov_epi8(_mm512_cmple_epu8_mask(inside, length), spread);
            halves |= (uint64_t)_mm512_cmpneq_epi64_mask(spread, before[v]) << (8 * v);
            some |= (uint64_t)_mm512_test_epi64_mask(length, length) << (8 * v);
            more |= (uint64_t)_mm512_cmpge_epu64_mask(length, _mm512_set1_epi8(FIELD)) << (8 * v);
            before[v] = spread;
        }
        uint64_t differ = _pext_u64(halves | halves >> 1, even) & there, filled = _pext_u64(some, even) & there;
        uint64_t is_long = _pext_u64(more, even) & there & ~differ;
        if (is_long) differ |= differ_behind(is_long, r, &rows[~i & 1]);
        bool usual = r->fields == (filled ? 64 - (uint32_t)__builtin_clzll(filled) : 0);
        uint64_t mask = (~differ & there) << 1 | usual;
        memcpy(o, &mask, sizeof mask);
        o = put_kept(o + slots / 8 + 1, r, differ);
        const uint8_t shape[3] = {(uint8_t)r->fields, 1, 0}; /* nulls: one byte, 0 */
        if (!usual) {
            memcpy(o, shape, sizeof shape);
            o += sizeof shape;
        }
        if (ends) ends[i] = (uint32_t)(o - first);
    }
    return o;
}

uint8_t *bsi_residual_long_vbmi2(uint8_t *o, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body,
                                 const bsi_row_starts *known, uint32_t *ends) {
    if (slots <= SLOTS / 2) return put_rows(o, slots, SLOTS / FIELDS / 2, count, images, image_off, body, known, ends);
    return slots <= SLOTS ? put_rows(o, slots, SLOTS / FIELDS, count, images, image_off, body, known, ends) : NULL;
}

#else
typedef int bsi_residual_long_vbmi2_unused; /* a translation unit may not be empty */
#endif
