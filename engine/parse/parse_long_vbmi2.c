/* parse/parse_long_vbmi2.c - records of up to 512 bytes to row images in registers, with AVX512 and VBMI2. The build gives this file
 * its -m flags; it is called only where they run.
 *
 * As parse_simple_vbmi2.c, which see, for records that are longer, or have a field of more than 127 bytes: as many lines of 64 bytes as
 * there are, and 16 bits for each place. A field of more than 127 bytes has a length of two bytes where the record has one delimiter:
 *
 *   record  7 , B o l t ... M 8 , x       the second field has 200 bytes
 *   image   1 7 c8 01 B o l t ... M 8 1 x what follows its delimiter stands one byte further on
 *
 * Of two such fields the second begins at least 128 bytes behind the first, so that there is at most one in a line: it is
 * stored once, and what follows the length once more.
 */
#include "parse/parse_inner.h"

#if defined(__x86_64__)
#include "parse/parse_simple_inner.h"

enum { LINES = 8, COLUMNS = 32, COPY = LINE * (LINES + 2), SHORT_BYTES = 2 * LINE };

typedef struct reader {
    bsi_rows *out;
    const bsi_layout *l;
    __m512i delimiter, quote, feed, control, lead, leads, tail, number, next; /* lead: C2, the first of `leads` that begin two bytes of UTF-8 */
    uint64_t quotes; /* all ones: there is a quote */
    bool straight;
} reader;

typedef struct record { /* without quotes and line end */
    __m512i text[LINES];
    uint64_t seps[LINES];
    uint32_t before[LINES + 1], fields[LINES + 1]; /* bytes, delimiters: in front of each line */
    uint32_t lines, high; /* high: a bit for each line that holds a byte >= 0x80 */
    size_t bytes;         /* with the line end, as it stands in the file */
} record;

/* The line in which the record ends, as bits up to there. */
INLINE bool find_end(record *x, uint64_t *last, const reader *r, const uint8_t *p, size_t n) {
    for (uint32_t k = 0; k < LINES && k * LINE < n; k++) {
        uint64_t end = _mm512_cmpeq_epi8_mask(load(p, (size_t)k * LINE, n), r->feed);
        if (!end) continue;
        *last = up_to(end) >> 1;
        x->lines = k + 1;
        x->bytes = k * LINE + (uint32_t)__builtin_ctzll(end) + 1;
        return true;
    }
    return false;
}

/* Its lines without quotes. False: it is not simple, as when its first line end is in quotes. */
INLINE bool read_lines(record *x, const reader *r, const uint8_t *p, uint64_t last) {
    uint64_t open = 0, behind = 1, bad = 0, closing = 0, cut = 0, odd = 0;
    uint32_t before = 0, fields = 0;
    x->high = 0;
    /* behind: bit 0, a field starts with the line; closing: bit 63, a quote closed with the last byte of the line before; cut: bit 0, a
     * character of two bytes goes on in the line; odd: there is something else that is not ASCII */
    for (uint32_t k = 0; k < x->lines; k++) {
        uint64_t text = k + 1 < x->lines ? ~0ull : last, end = text + 1; /* end: 0 if it is not in this line */
        __m512i c = _mm512_maskz_loadu_epi8(text, p + k * LINE);
        uint64_t quote = _mm512_mask_cmpeq_epi8_mask(text & r->quotes, c, r->quote), inside = bsi_prefix_xor(quote) ^ open;
        uint64_t sep = _mm512_mask_cmpeq_epi8_mask(text, c, r->delimiter) & ~inside, shut = quote & ~inside, kept = text & ~quote;
        bad |= quote & inside & ~(sep << 1 | behind);
        bad |= (shut & ~((sep | end) >> 1) & ~(1ull << 63)) | (closing & ~((sep | end) << 63));
        closing = shut & 1ull << 63;
        open = (uint64_t)((int64_t)inside >> 63);
        behind = sep >> 63;
        bad |= _mm512_mask_cmplt_epu8_mask(text, c, r->control) & ~sep;
        uint64_t high = _mm512_movepi8_mask(c), lead = _mm512_cmplt_epu8_mask(_mm512_sub_epi8(c, r->lead), r->leads);
        uint64_t tail = _mm512_cmplt_epi8_mask(c, r->tail); /* 80 to BF */
        odd |= (tail ^ (lead << 1 | cut)) | (high ^ (lead | tail));
        cut = lead >> 63;
        x->high |= (uint32_t)(high != 0) << k;
        x->text[k] = _mm512_maskz_compress_epi8(kept, c);
        x->seps[k] = _pext_u64(sep, kept);
        x->before[k] = before;
        x->fields[k] = fields;
        before += (uint32_t)__builtin_popcountll(kept);
        fields += (uint32_t)__builtin_popcountll(sep);
    }
    x->before[x->lines] = before;
    x->fields[x->lines] = fields;
    if (!odd) x->high = 0;
    return !(bad | open) && fields + 1 == r->l->column_count;
}

/* Where each field ends; the last one does with the record. */
INLINE __m512i ends_of(const record *x, const reader *r) {
    __m512i ends = _mm512_setzero_si512();
    for (uint32_t k = 0; k < x->lines; k++) {
        if (!x->seps[k]) continue; /* inside a long field */
        __m256i places = _mm512_castsi512_si256(_mm512_maskz_compress_epi8(x->seps[k], r->number));
        __m512i at = _mm512_add_epi16(_mm512_cvtepu8_epi16(places), _mm512_set1_epi16((short)x->before[k]));
        ends = _mm512_mask_expand_epi16(ends, ~0u << x->fields[k], at);
    }
    return _mm512_mask_expand_epi16(ends, ~0u << x->fields[x->lines], _mm512_set1_epi16((short)x->before[x->lines]));
}

/* The image of all columns: lengths over the delimiters. big: fields with lengths of two bytes. */
INLINE void put_image(uint8_t *to, bsi_row_starts *starts, const record *x, __m512i ends, __m512i length, uint32_t big) {
    uint64_t *word = starts->word;
    uint16_t bytes[COLUMNS];
    uint32_t first = (uint16_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(ends)), shift = big & 1;
    __m256i low = _mm256_and_si256(_mm512_cvtepi16_epi8(length), _mm256_set1_epi8(127));
    __m512i lengths = _mm512_castsi256_si512(_mm256_or_si256(low, _mm256_maskz_set1_epi8(big >> 1, (char)128)));
    _mm512_storeu_si512(bytes, length);
    _mm512_storeu_si512(word, _mm512_maskz_set1_epi64(1, 1)); /* the first one begins at 0 */
    to[0] = (uint8_t)(first | shift << 7);
    to[1] = (uint8_t)(first >> 7); /* or text, soon */
    for (uint32_t k = 0; k < x->lines; k++) {
        uint32_t at = x->before[k] + 1 + shift;
        uint64_t seps = x->seps[k];
        if (!seps) {
            _mm512_storeu_si512(to + at, x->text[k]);
            continue;
        }
        uint64_t wide = _pdep_u64((uint64_t)(big >> 1) >> x->fields[k], seps);
        __m512i line = _mm512_mask_expand_epi8(x->text[k], seps, _mm512_maskz_compress_epi8(~0ull << x->fields[k], lengths));
        _mm512_storeu_si512(to + at, line);
        word[at / LINE] |= seps << at % LINE;
        if (at / LINE + 1 < BSI_ROW_LINES) word[at / LINE + 1] |= seps >> 1 >> (LINE - 1 - at % LINE);
        if (!wide) continue;
        uint8_t *high = to + at + __builtin_ctzll(wide) + 1;
        _mm512_storeu_si512(high + 1, _mm512_maskz_compress_epi8(~up_to(wide), line));
        *high = (uint8_t)(bytes[x->fields[k] + (uint32_t)__builtin_popcountll(seps & (wide - 1))] >> 7);
        shift++;
    }
}

/* False: its key has no text. */
INLINE bool put_row(const reader *r, const record *x) {
    const bsi_layout *l = r->l;
    bsi_rows *out = r->out;
    uint32_t row = out->count, valid = (uint32_t)((1ull << x->fields[x->lines]) - 1);
    uint8_t copy[COPY], *begin = out->enc.data + out->enc.len, *o;
    uint16_t end[COLUMNS];
    bsi_row_starts *starts = &out->starts[row];
    __m512i ends = ends_of(x, r), one = _mm512_set1_epi16(1);
    __m512i length = _mm512_sub_epi16(_mm512_permutexvar_epi16(r->next, ends), _mm512_add_epi16(ends, one));
    uint32_t big = (_mm512_cmpgt_epu16_mask(length, _mm512_set1_epi16(127)) & valid) << 1;
    big |= (uint16_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(ends)) > 127;
    put_image(r->straight ? begin : copy, starts, x, ends, length, big);
    for (uint32_t left = big; left; left &= left - 1) ends = _mm512_mask_add_epi16(ends, ~0u << __builtin_ctz(left), ends, one);
    _mm512_storeu_si512(end, ends);
    if (r->straight) {
        o = begin + end[l->slot_count - 1] + 1;
    } else {
        o = copy_stretches(l, begin, copy, end);
        starts->word[0] = 0;
    }
    uint32_t key = key_of(l, end);
    if (__builtin_expect(l->key_count && key == l->key_count, 0)) return false;
    while (o > begin + key && !o[-1]) o--; /* there is no NUL in texts: these are lengths */
    out->image[row] = (uint32_t)out->enc.len;
    out->key[row] = key;
    out->body[row] = (uint32_t)(o - begin);
    out->bad[row] = 0;
    *o++ = 0;
    out->enc.len = (size_t)(o - out->enc.data);
    out->count++;
    return true;
}

size_t bsi_parse_long_vbmi2(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t from, size_t n, uint32_t *high_at, size_t *high_count) {
    static const uint16_t next[COLUMNS] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
                                           17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 31};
    const reader r = {.out = out,
                      .l = l,
                      .delimiter = _mm512_set1_epi8(l->dialect.delimiter),
                      .quote = _mm512_set1_epi8(l->dialect.quote),
                      .feed = _mm512_set1_epi8('\n'),
                      .control = _mm512_set1_epi8(CONTROL),
                      .lead = _mm512_set1_epi8((char)0xc2),
                      .leads = _mm512_set1_epi8(0xe0 - 0xc2),
                      .tail = _mm512_set1_epi8((char)0xc0),
                      .number = numbers(),
                      .next = _mm512_loadu_si512(next),
                      .quotes = l->dialect.quote ? ~0ull : 0,
                      .straight = is_straight(l)};
    size_t at = from;
    uint64_t last;
    record x;
    if (l->column_count > COLUMNS || (((uint8_t)l->dialect.delimiter | (uint8_t)l->dialect.quote) & 0x80)) return from;
    while (at < n && p[at] != '\n' && find_end(&x, &last, &r, p + at, n - at) && read_lines(&x, &r, p + at, last)) {
        if (__builtin_expect(out->count >= out->cap, 0)) bsi_parse_rows_room(out, out->count);
        if (!put_row(&r, &x)) break;
        for (uint32_t k = 0; k < x.lines; k++) {
            high_at[*high_count] = (uint32_t)(at + k * LINE);
            *high_count += x.high >> k & 1;
        }
        out->raw[out->count - 1] = (uint32_t)at;
        at += x.bytes;
        if (x.bytes <= SHORT_BYTES) break; /* parse_simple_vbmi2.c is faster */
    }
    return at;
}

#else
typedef int bsi_parse_long_vbmi2_unused; /* a translation unit may not be empty */
#endif
