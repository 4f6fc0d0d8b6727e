/* diff/lines_loop.h - line ends, delimiters and what needs care, 64 bytes at a time; keys against the key before.
 * Included once by each variant, which names VARIANT.
 *
 * Most chunks hold neither quotes nor CR, and no bytes above 0x7f but characters of two bytes (with AVX-512; else none): they
 * take the short way. A key is compared by its first 64 bytes: the first byte in which it differs from the one before tells which field differs, and where that field ends in either
 * which is longer. What 64 bytes do not settle goes to bsi_keys_compare.
 */
#include "core/chunk.h"
#include "diff/lines.h"

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define NAME(x) PASTE(x, VARIANT)
#define INLINE static inline __attribute__((always_inline))

/* One stretch on its way. */
typedef struct job {
    bsi_lines *l;
    const bsi_line_shape *s;
    const uint8_t *p;
    size_t n, checked; /* checked: UTF-8 up to here */
    uint64_t inside;   /* all ones: the next chunk starts inside quotes */
    bool closed;       /* the last byte of the last chunk with quotes closed them */
} job;

typedef struct masks {
    uint64_t lf, sep, quote, high;
} masks;

typedef struct outside { /* quotes: ends of lines and fields */
    uint64_t lf, sep;
} outside;

/* Bytes above 0x7f of a chunk that are not characters of two bytes, most of those there are. *half: the chunk before ends in the middle of
 * one; then this one does. Where they cannot be told in a few instructions: all. */
INLINE uint64_t not_pairs(bsi_chunk c, uint64_t high, uint64_t *half) {
#if defined(__AVX512BW__)
    uint64_t second = _mm512_cmplt_epi8_mask(c, _mm512_set1_epi8(-64)); /* 80..bf */
    uint64_t first = _mm512_cmplt_epu8_mask(_mm512_sub_epi8(c, _mm512_set1_epi8((char)0xc2)), _mm512_set1_epi8(0xe0 - 0xc2));
    uint64_t wrong = (second ^ (first << 1 | *half)) | (high ^ (first | second));
    *half = first >> 63;
    return wrong;
#else
    (void)c;
    *half = 0;
    return high;
#endif
}

/* UTF-8 of one chunk: characters of two bytes are settled here, others by the table of parse. */
static void check_high(job *j, uint64_t high, size_t i) {
    const uint8_t *p = j->p;
    while (high) {
        size_t at = i + (size_t)__builtin_ctzll(high);
        high &= high - 1;
        if (at < j->checked) continue;
        size_t left = j->n - at;
        uint8_t c = p[at];
        size_t len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        bool two = c >= 0xc2 && c < 0xe0 && left >= 2 && (p[at + 1] & 0xc0) == 0x80;
        if (!two && (left < len || bsi_parse_utf8(p + at, len) != len)) {
            bsi_lines_odd(j->l, at);
            j->l->bad_utf8 = true;
            len = 1;
        }
        j->checked = at + len;
    }
}

/* The chunk before was not checked, and ends with the first byte of a character of two. */
static void end_pair(job *j, size_t i) {
    if (i < j->n && (j->p[i] & 0xc0) == 0x80) {
        j->checked = BSI_MAX(j->checked, i + 1);
    } else {
        bsi_lines_odd(j->l, i - 1);
        j->l->bad_utf8 = true;
    }
}

/* Opening and bare quotes of a chunk: does one stand in a key column? total, line: delimiters before the chunk, before its first line. */
static void look_for_key_quote(job *j, uint64_t opening, uint64_t ends, uint64_t sep, uint32_t total, uint32_t line) {
    for (; opening && !j->l->key_quote; opening &= opening - 1) {
        uint64_t below = (opening & -opening) - 1, last = ends & below;
        uint32_t rank = total + (uint32_t)__builtin_popcountll(sep & below), start = line;
        if (last) start = total + (uint32_t)__builtin_popcountll(sep & ((1ull << (63 - __builtin_clzll(last))) - 1));
        j->l->key_quote = rank - start - j->s->key_first < j->s->key_count;
    }
}

/* A chunk with quotes, CR, NUL, bytes above 0x7f that are no pairs, or inside quotes; half: its first byte ends a pair. Takes
 * what stands inside quotes out of lf and sep, and notes the odd bytes. */
static __attribute__((noinline)) outside hard_chunk(job *j, masks m, uint64_t valid, size_t i, uint32_t total, uint32_t line, uint64_t half) {
    const bsi_line_shape *s = j->s;
    const uint8_t *p = j->p;
    const bsi_chunk c = bsi_chunk_load(p + i);
    uint64_t inside = j->inside, odd = bsi_chunk_eq(c, 0) & valid, quote = m.quote, cr = bsi_chunk_eq(c, '\r') & valid;
    if (half) end_pair(j, i);
    if (m.high) check_high(j, m.high, i);
    if (!(quote | cr | odd | inside)) return (outside){m.lf, m.sep};
    if (quote) {
        uint64_t stops = m.lf | cr | m.sep, all = quote;
        bool closed = j->closed && i && p[i - 1] == s->quote;
        uint64_t before = i ? bsi_chunk_before(p[i - 1], s->delimiter, closed) : 1;
        inside = bsi_chunk_inside(&quote, stops, before, j->inside);
        uint64_t closing = quote & ~inside, bare = all & ~quote;
        uint8_t next = i + 64 < j->n ? p[i + 64] : '\n';
        bool fine = next == s->delimiter || next == '\n' || next == '\r' || next == s->quote;
        bare |= closing & ~((stops | all) >> 1 | (uint64_t)fine << 63) & (valid >> 1 | 1ull << 63) & valid;
        if (!s->lenient) odd |= bare;
        j->closed = closing >> 63;
        j->inside = (uint64_t)((int64_t)inside >> 63);
        j->l->quotes = true;
        if (!j->l->key_quote) look_for_key_quote(j, (quote & inside) | bare, m.lf & ~inside, m.sep & ~inside, total, line);
    }
    m.lf &= ~inside;
    m.sep &= ~inside;
    cr &= ~inside;
    if (cr) {
        uint64_t next_lf = i + 64 < j->n && p[i + 64] == '\n' ? 1ull << 63 : 0;
        if (j->n - i <= 64) cr &= ~(1ull << (j->n - i - 1)); /* its LF is not in sight: the line is not whole */
        j->l->lone_cr |= (cr & ~(m.lf >> 1 | next_lf)) != 0;
        j->l->crlf += (size_t)__builtin_popcountll(cr);
    }
    for (; odd; odd &= odd - 1) bsi_lines_odd(j->l, i + (size_t)__builtin_ctzll(odd));
    return (outside){m.lf, m.sep};
}

/* Not zero: the chunk takes hard_chunk. control: all ones if the delimiter is a tab or the like. */
static inline uint64_t unusual(bsi_chunk c, const masks *m, uint64_t control) {
#if defined(__AVX512BW__)
    uint64_t low = _mm512_cmplt_epu8_mask(c, _mm512_set1_epi8(14)); /* one question for NUL and CR: LF and the delimiter are all there may be */
    return (low ^ (m->lf | (m->sep & control))) | m->quote | m->high;
#else
    (void)control;
    return bsi_chunk_eq(c, '\r') | bsi_chunk_eq(c, 0) | m->quote | m->high;
#endif
}

static inline masks read_masks(bsi_chunk c, uint8_t delimiter, uint8_t quote, uint64_t quotes) {
    return (masks){bsi_chunk_eq(c, '\n'), bsi_chunk_eq(c, delimiter), bsi_chunk_eq(c, quote) & quotes, bsi_chunk_high(c)};
}

/* Where lines end so far. */
typedef struct out {
    uint32_t *start, *seps; /* of the line at hand */
    uint32_t total;         /* delimiters before the chunk */
} out;

/* Line ends of the chunk at i, the first `free_ends` without asking: what is too much is written over. */
INLINE void put_ends(out *o, outside m, size_t i, int free_ends) {
    uint64_t e = m.lf;
    int k = 1;
    for (; k <= free_ends; k++, e &= e - 1) {
        o->start[k] = (uint32_t)i + 1 + (uint32_t)__builtin_ctzll(e | 1ull << 63);
        o->seps[k] = o->total + (uint32_t)__builtin_popcountll(m.sep & ((e & -e) - 1));
    }
    for (; __builtin_expect(e != 0, 0); e &= e - 1, k++) {
        o->start[k] = (uint32_t)i + 1 + (uint32_t)__builtin_ctzll(e);
        o->seps[k] = o->total + (uint32_t)__builtin_popcountll(m.sep & ((e & -e) - 1));
    }
    size_t n = (size_t)__builtin_popcountll(m.lf);
    o->start += n;
    o->seps += n;
    o->total += (uint32_t)__builtin_popcountll(m.sep);
}

INLINE void keep_masks(bsi_lines *l, const out *o, outside m, size_t i) {
    l->mask[i / 64] = m.sep;
    l->before[i / 64] = o->total;
}

/* keep: the masks are wanted later. free_ends: line ends that most chunks have at most. */
INLINE void read_lines(bsi_lines *l, const bsi_line_shape *s, const uint8_t *p, size_t n, bool keep, int free_ends) {
    job j = {.l = l, .s = s, .p = p, .n = n};
    const uint64_t quotes = s->quote ? ~0ull : 0, control = s->delimiter < 14 ? ~0ull : 0;
    const uint8_t delimiter = s->delimiter, quote = s->quote;
    out o = {l->start, l->seps, 0};
    *o.start = *o.seps = 0;
    size_t i = 0;
    uint64_t half = 0; /* the chunk before ends in the middle of a character */
    for (; i + 64 <= n; i += 64) {
        bsi_chunk c = bsi_chunk_load(p + i);
        masks all = read_masks(c, delimiter, quote, quotes);
        outside m = {all.lf, all.sep};
        uint64_t begun = half;
        all.high = not_pairs(c, all.high, &half) ? all.high : 0;
        if (__builtin_expect((unusual(c, &all, control) | j.inside) != 0, 0)) m = hard_chunk(&j, all, ~0ull, i, o.total, *o.seps, begun);
        if (keep) keep_masks(l, &o, m, i);
        put_ends(&o, m, i, free_ends);
    }
    if (i < n) {
        masks all = read_masks(bsi_chunk_load(p + i), delimiter, quote, quotes);
        uint64_t valid = (1ull << (n - i)) - 1;
        outside m = hard_chunk(&j, (masks){all.lf & valid, all.sep & valid, all.quote & valid, all.high & valid}, valid, i, o.total, *o.seps, half);
        if (keep) keep_masks(l, &o, m, i);
        put_ends(&o, m, i, free_ends);
        i += 64;
    }
    else if (half) end_pair(&j, i);
    if (keep) keep_masks(l, &o, (outside){0, 0}, i);
    l->count = (size_t)(o.start - l->start);
    l->open = j.inside;
}

enum { SHORT_LINE = 72 };

void NAME(bsi_lines_read_)(bsi_lines *l, const bsi_line_shape *s, const uint8_t *p, size_t n) {
    bool wide = l->line_bytes >= SHORT_LINE; /* of the stretch before */
    if (s->key_first) wide ? read_lines(l, s, p, n, true, 1) : read_lines(l, s, p, n, true, 2);
    else wide ? read_lines(l, s, p, n, false, 1) : read_lines(l, s, p, n, false, 2);
    l->line_bytes = n / (l->count + 1);
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

/* 1 if a is lower in the first byte that differs. */
static inline uint64_t lower(bsi_chunk a, bsi_chunk b, uint64_t first, const uint8_t *pa, const uint8_t *pb) {
#if defined(__AVX512BW__)
    (void)pa, (void)pb;
    return (_mm512_cmplt_epu8_mask(a, b) & first) != 0;
#else
    (void)a, (void)b;
    unsigned d = (unsigned)__builtin_ctzll(first | 1ull << 63);
    return pa[d] < pb[d];
#endif
}

static inline uint64_t field_ends(bsi_chunk c, uint8_t delimiter, bool line_ends) {
    uint64_t ends = bsi_chunk_eq(c, delimiter);
    if (line_ends) ends |= bsi_chunk_eq(c, '\n') | bsi_chunk_eq(c, '\r');
    return ends;
}

/* Quotes of the key are the first and last byte of its fields, and there is no line end in it. */
static inline bool quotes_fit(const bsi_line_shape *s, bsi_chunk c, uint64_t ends) {
    uint64_t rest = ends;
    for (uint32_t f = 1; f < s->key_count; f++) rest &= rest - 1;
    uint64_t last = rest & -rest, region = last - 1, fields = ends & (region | last);
    uint64_t quote = ((fields << 1 | 1) & region) | fields >> 1;
    uint64_t other = bsi_chunk_eq(c, '\n') | bsi_chunk_eq(c, '\r');
    return (last != 0) & ((bsi_chunk_eq(c, s->quote) & region) == quote) & !(other & region) &
           ((uint32_t)__builtin_popcountll(quote) == 2 * s->key_count);
}

INLINE size_t ascend(const bsi_line_shape *s, const uint8_t *p, const uint32_t *key, size_t from, size_t count, bool line_ends, bool quoted,
                     uint64_t texts) {
    const uint8_t delimiter = s->delimiter;
    const uint32_t keys = s->key_count;
    bsi_chunk a = bsi_chunk_load(p + key[from]);
    uint64_t ends_a = field_ends(a, delimiter, line_ends);
    for (size_t i = from + 1; i < count; i++) {
        bsi_chunk b = bsi_chunk_load(p + key[i]);
        uint64_t ne = differ(a, b), ends_b = field_ends(b, delimiter, line_ends);
        uint64_t first = ne & -ne, below = first - 1;
        uint64_t less = lower(a, b, first, p + key[i - 1], p + key[i]);
        /* numbers: the lowest end of either from there on (none: 0); the field with the end further right is the longer one, and of
         * two ends in one place the byte decides */
        uint64_t x = ends_a & ~below, y = ends_b & ~below;
        x &= -x;
        y &= -y;
        bool by_number = (x != 0) & (x - less < y);
        /* texts: an end is lower than any byte */
        bool by_text = ((ends_a & first) != 0) | ((less != 0) & !(ends_b & first));
        uint32_t fields = (uint32_t)__builtin_popcountll(ends_b & below);
        bool above = texts >> (fields & 63) & 1 ? by_text : by_number;
        if (quoted) above &= quotes_fit(s, b, ends_b);
        if (__builtin_expect(!(above & (ne != 0) & (fields < keys)), 0)) return i;
        a = b;
        ends_a = ends_b;
    }
    return count;
}

size_t NAME(bsi_lines_ascend_)(const bsi_line_shape *s, const uint8_t *p, const uint32_t *key, size_t from, size_t count) {
    if (from >= count) return count;
    if (s->key_quoted) return ascend(s, p, key, from, count, s->key_last, true, s->by_text);
    if (s->by_text) return ascend(s, p, key, from, count, s->key_last, false, s->by_text);
    return s->key_last ? ascend(s, p, key, from, count, true, false, 0) : ascend(s, p, key, from, count, false, false, 0);
}
