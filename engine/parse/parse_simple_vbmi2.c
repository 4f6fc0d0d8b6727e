/* parse/parse_simple_vbmi2.c - records to row images in registers, with AVX512 and VBMI2. The build gives this file its
 * -m flags; it is called only where they run.
 *
 * A row image has a length before each field where a record has a delimiter behind it. A record of some lines of 64
 * bytes is loaded once; quotes are packed away, and the lengths are put over the delimiters, all of a line at once:
 *
 *   bytes     1 0 0 0 , " B o l t , M 8 " , 7 \n
 *   seps      . . . . 1 . . . . . . . . . 1 . .        delimiters outside quotes
 *   packed    1 0 0 0 , B o l t , M 8 , 7              seps of it: 4 and 12, the end: 14
 *   image   4 1 0 0 0 7 B o l t , M 8 1 7              differences of these places
 *
 * Where a record ends is known from its own line ends, so no index of the block is needed. Most records have no quotes:
 * then nothing is packed, and the first line end is that of the record, found before anything else is, so that the next
 * record can be begun while this one is worked on; that takes a third off. A record of more than 3 lines, or with a field
 * above 127 bytes, is left to parse_long_vbmi2.c. What is not simple (doubled or bare quotes, CR, NUL and other control
 * characters, another number of fields) ends it: the rest of the block goes the way of parse_block.c.
 */
#include "parse/parse_inner.h"

#if defined(__x86_64__)
#include "parse/parse_simple_inner.h"

enum { LINES = 3, COPY = 256 };

typedef struct reader {
    bsi_rows *out;
    const bsi_layout *l;
    __m512i delimiter, quote, feed, control, number, next, place[LINES]; /* place: numbers of the bytes of each line */
    uint64_t quotes; /* all ones: there is a quote */
    bool straight;   /* slots are the first columns, in order */
} reader;

/* As 16-bit numbers, in memory. */
INLINE void widen(uint16_t *to, __m512i ends) {
    _mm512_storeu_si512(to, _mm512_cvtepu8_epi16(_mm512_castsi512_si256(ends)));
    _mm512_storeu_si512(to + LINE / 2, _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(ends, 1)));
}

/* Where a field begins in the image: behind a delimiter, one byte further on. seps of a line stand `before` bytes behind the front. */
static void tell_long_starts(bsi_row_starts *starts, const uint64_t *seps, const uint32_t *before, int lines) {
    uint64_t word[BSI_ROW_LINES + 2] = {1};
    for (int k = 0; k < lines; k++) {
        uint32_t at = before[k] + 1;
        word[at / LINE] |= seps[k] << at % LINE;
        word[at / LINE + 1] |= seps[k] >> 1 >> (LINE - 1 - at % LINE);
    }
    memcpy(starts->word, word, sizeof starts->word);
}

INLINE void tell_starts(bsi_row_starts *starts, const reader *r, const uint64_t seps[LINES], const uint32_t before[LINES + 1], int lines) {
    unsigned __int128 all = 0;
    starts->word[0] = 0;
    if (!r->straight) return;
    if (__builtin_expect(before[lines] >= 2 * LINE, 0)) {
        tell_long_starts(starts, seps, before, lines);
        return;
    }
    for (int k = 0; k < lines; k++)
        if (before[k] < 2 * LINE) all |= (unsigned __int128)seps[k] << before[k];
    all = all << 1 | 1;
    starts->word[0] = (uint64_t)all;
    starts->word[1] = (uint64_t)(all >> 64);
}

/* One record of at most `lines` lines. Returns its bytes with the line end; 0: it is not simple, or longer. *high gets
 * a bit for each line that holds a byte >= 0x80. */
INLINE size_t record(const reader *r, const uint8_t *p, size_t n, int lines, uint32_t *high) {
    const bsi_layout *l = r->l;
    bsi_rows *out = r->out;
    __m512i c[LINES], ends = _mm512_setzero_si512();
    uint64_t seps[LINES], kept[LINES], open = 0, past = ~0ull, behind = 1, bad = 0, closing = 0;
    size_t stop = 0;
    *high = 0;
    /* past: all ones until the record has ended; behind: bit 0, a field starts with the line; closing: bit 63, a quote
     * closed with the last byte of the line before */
    for (int k = 0; k < lines; k++) {
        c[k] = load(p, (size_t)k * LINE, n); /* what stands behind the block must not end a record */
        uint64_t lf = _mm512_cmpeq_epi8_mask(c[k], r->feed), sep = _mm512_cmpeq_epi8_mask(c[k], r->delimiter);
        uint64_t quote = _mm512_cmpeq_epi8_mask(c[k], r->quote) & r->quotes;
        uint64_t inside = bsi_prefix_xor(quote) ^ open, end = lf & ~inside, here = up_to(end) & past;
        uint64_t in_text = here & ~(end & here); /* without the line end */
        open = (uint64_t)((int64_t)inside >> 63);
        sep &= ~inside & in_text;
        quote &= in_text;
        uint64_t stops = sep | (end & here), shut = quote & ~inside;
        bad |= quote & inside & ~(sep << 1 | behind);
        bad |= shut & ~(stops >> 1) & ~(1ull << 63);
        bad |= closing & ~(stops << 63);
        closing = shut & (1ull << 63);
        behind = sep >> 63;
        bad |= _mm512_cmplt_epu8_mask(c[k], r->control) & in_text & ~lf & ~sep;
        *high |= (uint32_t)((_mm512_movepi8_mask(c[k]) & in_text) != 0) << k;
        seps[k] = sep;
        kept[k] = in_text & ~quote;
        stop += (size_t)__builtin_popcountll(in_text);
        past = end ? 0 : past;
    }
    if (__builtin_expect(past || bad, 0)) return 0;
    uint32_t before[LINES + 1], fields[LINES + 1]; /* bytes that are kept, delimiters: in front of each line */
    before[0] = fields[0] = 0;
    for (int k = 0; k < lines; k++) {
        c[k] = _mm512_maskz_compress_epi8(kept[k], c[k]);
        seps[k] = _pext_u64(seps[k], kept[k]);
        before[k + 1] = before[k] + (uint32_t)__builtin_popcountll(kept[k]);
        fields[k + 1] = fields[k] + (uint32_t)__builtin_popcountll(seps[k]);
    }
    if (__builtin_expect(fields[lines] + 1 != l->column_count, 0)) return 0;
    for (int k = 0; k < lines; k++) {
        __m512i at = _mm512_add_epi8(_mm512_maskz_compress_epi8(seps[k], r->number), _mm512_set1_epi8((char)before[k]));
        ends = k ? _mm512_mask_expand_epi8(ends, ~0ull << fields[k], at) : at;
    }
    ends = _mm512_mask_expand_epi8(ends, ~0ull << fields[lines], _mm512_set1_epi8((char)before[lines]));
    __m512i length =
        _mm512_sub_epi8(_mm512_permutexvar_epi8(r->next, ends), _mm512_add_epi8(ends, _mm512_set1_epi8(1)));
    uint8_t end[LINE], copy[COPY];
    uint16_t wide[LINE];
    _mm512_storeu_si512(end, ends);
    if (lines > 2 && ((_mm512_movepi8_mask(length) & ((1ull << fields[lines]) - 1)) || end[0] > 127)) return 0;
    uint8_t *begin = out->enc.data + out->enc.len, *to = r->straight ? begin : copy;
    *to = end[0];
    for (int k = 0; k < lines; k++)
        _mm512_storeu_si512(
            to + 1 + before[k],
            _mm512_mask_expand_epi8(c[k], seps[k], _mm512_maskz_compress_epi8(~0ull << fields[k], length)));
    if (!r->straight) widen(wide, ends);
    uint8_t *o = r->straight ? begin + end[l->slot_count - 1] + 1 : copy_stretches(l, begin, copy, wide);
    uint32_t key = r->straight ? (l->key_count ? end[l->key_count - 1] + 1u : 0) : key_of(l, wide), row = out->count;
    if (__builtin_expect(l->key_count && key == l->key_count, 0)) return 0; /* it has no text */
    while (o > begin + key && !o[-1]) o--;
    out->image[row] = (uint32_t)out->enc.len;
    out->key[row] = key;
    out->body[row] = (uint32_t)(o - begin);
    out->bad[row] = 0;
    tell_starts(&out->starts[row], r, seps, before, lines);
    *o++ = 0;
    out->enc.len = (size_t)(o - out->enc.data);
    out->count++;
    return stop + 1;
}

/* Where the rows of a block are put; in registers, as the stores of a row would have them read again. */
typedef struct writer {
    uint8_t *begin, *o; /* of enc */
    uint32_t *image, *key, *body, row;
    bsi_row_starts *starts;
    uint8_t *bad;
} writer;

/* Bits below the lowest one; all if there is none. */
INLINE uint64_t below(uint64_t bits) {
    return (bits - 1) & ~bits;
}

/* The slots end behind the last one that is not empty, or that is a key's. More: bit i, field i + 1 is not empty. */
INLINE uint32_t body_of(const reader *r, const uint8_t *end, uint64_t more, uint32_t key) {
    uint64_t filled = more & ((1ull << (r->l->slot_count - 1)) - 1);
    uint32_t to = end[filled ? 64 - __builtin_clzll(filled) : 0] + 1u;
    return to > key ? to : key;
}

/* Columns in the order of the slots, of an image below 128 bytes: both of its lines at once, and where fields begin as well. line[k] and
 * seps[k] begin with the second byte of the image of all columns; the first one, and its bit, are taken from the very end. end[c]: where
 * column c ends, less one. Returns the end. */
INLINE uint8_t *permute(const reader *r, uint8_t *o, bsi_row_starts *starts, const __m512i line[2], const uint64_t seps[2], const uint8_t *end) {
    const bsi_layout *l = r->l;
    __m512i low = r->number, high = r->place[1], last = _mm512_mask_set1_epi8(line[1], 1ull << 63, (char)end[0]);
    __m512i begins = _mm512_movm_epi8(seps[0]), begins_last = _mm512_movm_epi8(seps[1] | 1ull << 63);
    uint32_t at = 0;
    for (const bsi_stretch *t = l->stretch; t < l->stretch + l->stretch_count; t++) {
        uint32_t from = t->column ? end[t->column - 1] : UINT32_MAX;
        __m512i by = _mm512_set1_epi8((char)(from - at));
        low = _mm512_mask_add_epi8(low, at < LINE ? ~0ull << at : 0, r->number, by);
        high = _mm512_mask_add_epi8(high, at < LINE ? ~0ull : ~0ull << (at - LINE), r->place[1], by);
        at += end[t->column + t->count - 1] - from;
    }
    _mm512_storeu_si512(o, _mm512_permutex2var_epi8(line[0], low, last));
    _mm512_storeu_si512(o + LINE, _mm512_permutex2var_epi8(line[0], high, last));
    starts->word[0] = _mm512_movepi8_mask(_mm512_permutex2var_epi8(begins, low, begins_last));
    starts->word[1] = _mm512_movepi8_mask(_mm512_permutex2var_epi8(begins, high, begins_last));
    return o + at;
}

/* A record without quotes, whose text is text[k] of each line c[k]. False: it is not so simple. */
INLINE bool bare(const reader *r, writer *w, int lines, const __m512i c[LINES], const uint64_t text[LINES], size_t stop,
                 uint32_t *high) {
    const bsi_layout *l = r->l;
    uint64_t seps[LINES] = {0}, bad = 0;
    uint32_t fields[LINES + 1];
    __m512i ends = _mm512_setzero_si512();
    fields[0] = *high = 0;
    for (int k = 0; k < lines; k++) {
        uint64_t sep = _mm512_mask_cmpeq_epi8_mask(text[k], c[k], r->delimiter);
        bad |= _mm512_mask_cmpeq_epi8_mask(text[k], c[k], r->quote) & r->quotes;
        bad |= _mm512_mask_cmplt_epu8_mask(text[k], c[k], r->control) & ~sep;
        *high |= (uint32_t)((_mm512_movepi8_mask(c[k]) & text[k]) != 0) << k;
        __m512i at = _mm512_maskz_compress_epi8(sep, r->place[k]);
        ends = k ? _mm512_mask_expand_epi8(ends, ~0ull << fields[k], at) : at;
        fields[k + 1] = fields[k] + (uint32_t)__builtin_popcountll(sep);
        seps[k] = sep;
    }
    if (__builtin_expect(bad || fields[lines] + 1 != l->column_count, 0)) return false;
    ends = _mm512_mask_blend_epi8(~0ull << fields[lines], ends, _mm512_set1_epi8((char)stop));
    __m512i length =
        _mm512_sub_epi8(_mm512_permutexvar_epi8(r->next, ends), _mm512_add_epi8(ends, _mm512_set1_epi8(1)));
    uint8_t end[LINE], copy[COPY];
    uint16_t wide[LINE];
    _mm512_storeu_si512(end, ends);
    if (lines > 2 && ((_mm512_movepi8_mask(length) & ((1ull << fields[lines]) - 1)) || end[0] > 127)) return false;
    bsi_row_starts *starts = &w->starts[w->row];
    __m512i image[LINES] = {0}; /* of all columns, but for the first byte */
    for (int k = 0; k < lines; k++)
        image[k] = _mm512_mask_expand_epi8(c[k], seps[k], k ? _mm512_maskz_compress_epi8(~0ull << fields[k], length) : length);
    bool at_once = !r->straight && lines <= 2 && stop < 2 * LINE - 1;
    uint8_t *to = r->straight ? w->o : copy;
    if (!at_once) {
        *to = (uint8_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(ends));
        for (int k = 0; k < lines; k++) _mm512_storeu_si512(to + 1 + LINE * k, image[k]);
        starts->word[0] = r->straight ? seps[0] << 1 | 1 : 0;
        for (int k = 1; k < lines; k++) starts->word[k] = seps[k] << 1 | seps[k - 1] >> 63;
    }
    uint32_t key, body;
    if (r->straight) {
        key = end[l->key_count - 1] + 1u;
        body = body_of(r, end, _mm512_test_epi8_mask(length, length), key);
    } else {
        widen(wide, ends);
        key = key_of(l, wide);
        const uint8_t *last = at_once ? permute(r, w->o, starts, image, seps, end) : copy_stretches(l, w->o, copy, wide);
        while (last > w->o + key && !last[-1]) last--;
        body = (uint32_t)(last - w->o);
    }
    if (__builtin_expect(key == l->key_count, 0)) return false; /* it has no text */
    w->image[w->row] = (uint32_t)(w->o - w->begin);
    w->key[w->row] = key;
    w->body[w->row] = body;
    w->bad[w->row++] = 0;
    w->o[body] = 0;
    w->o += body + 1;
    return true;
}

/* As record, which it leaves all others to. */
INLINE size_t record_bare(const reader *r, writer *w, const uint8_t *p, size_t n, uint32_t *high) {
    __m512i c[LINES];
    uint64_t text[LINES], feed[LINES];
    c[0] = load(p, 0, n);
    feed[0] = _mm512_cmpeq_epi8_mask(c[0], r->feed);
    text[0] = below(feed[0]);
    if (feed[0]) {
        size_t stop = (size_t)__builtin_ctzll(feed[0]);
        return bare(r, w, 1, c, text, stop, high) ? stop + 1 : 0;
    }
    c[1] = load(p, LINE, n);
    feed[1] = _mm512_cmpeq_epi8_mask(c[1], r->feed);
    text[1] = below(feed[1]);
    if (__builtin_expect(feed[1] != 0, 1)) {
        size_t stop = LINE + (size_t)__builtin_ctzll(feed[1]);
        return bare(r, w, 2, c, text, stop, high) ? stop + 1 : 0;
    }
    c[2] = load(p, 2 * LINE, n);
    feed[2] = _mm512_cmpeq_epi8_mask(c[2], r->feed);
    if (!feed[2]) return 0;
    text[2] = below(feed[2]);
    size_t stop = 2 * LINE + (size_t)__builtin_ctzll(feed[2]);
    return bare(r, w, LINES, c, text, stop, high) ? stop + 1 : 0;
}

static writer writer_of(bsi_rows *out) {
    return (writer){out->enc.data, out->enc.data + out->enc.len, out->image, out->key, out->body, out->count, out->starts, out->bad};
}

size_t bsi_parse_simple_vbmi2(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t n, uint32_t *high_at,
                              size_t *high_count) {
    reader r = {.out = out,
                .l = l,
                .delimiter = _mm512_set1_epi8(l->dialect.delimiter),
                .quote = _mm512_set1_epi8(l->dialect.quote),
                .feed = _mm512_set1_epi8('\n'),
                .control = _mm512_set1_epi8(CONTROL),
                .number = numbers(),
                .quotes = l->dialect.quote ? ~0ull : 0,
                .straight = is_straight(l)};
    r.next = _mm512_add_epi8(r.number, _mm512_set1_epi8(1));
    for (int k = 0; k < LINES; k++) r.place[k] = _mm512_add_epi8(r.number, _mm512_set1_epi8((char)(k * LINE)));
    uint32_t *high = high_at;
    size_t at = 0;
    writer w = writer_of(out);
    while (at < n) {
        if (p[at] == '\n') {
            out->blanks++;
            at++;
            continue;
        }
        if (w.row >= out->cap) {
            bsi_parse_rows_room(out, (size_t)w.row * 2 + 64);
            out->count = w.row;
            out->enc.len = (size_t)(w.o - w.begin);
            w = writer_of(out);
        }
        uint32_t lines;
        size_t bytes = l->key_count ? record_bare(&r, &w, p + at, n - at, &lines) : 0;
        if (__builtin_expect(!bytes, 0)) {
            out->count = w.row;
            out->enc.len = (size_t)(w.o - w.begin);
            bytes = record(&r, p + at, n - at, LINES, &lines);
            if (!bytes) {
                size_t have = (size_t)(high - high_at), to = bsi_parse_long_vbmi2(out, l, p, at, n, high_at, &have);
                if (to == at) break;
                high = high_at + have;
                at = to;
                w = writer_of(out);
                continue;
            }
            w = writer_of(out);
        }
        for (uint32_t k = 0; k < LINES; k++) {
            *high = (uint32_t)(at + k * LINE);
            high += lines >> k & 1;
        }
        out->raw[w.row - 1] = (uint32_t)at;
        at += bytes;
    }
    out->count = w.row;
    out->enc.len = (size_t)(w.o - w.begin);
    *high_count = (size_t)(high - high_at);
    return at;
}

#else
typedef int bsi_parse_simple_vbmi2_unused; /* a translation unit may not be empty */
#endif
