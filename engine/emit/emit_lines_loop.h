/* emit/emit_lines_loop.h - the loop of a renderer, once for each set of instructions: see emit_lines.c.
 *
 * Includers set LINES_NAME. Which instructions are used is decided by the flags of the file that includes this; of x86
 * at least SSE2, elsewhere 64-bit words.
 */
#include "emit/emit_inner.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* ---- copies that look ---- */

#define EACH(b) ((uint64_t)(b) * 0x0101010101010101ull)

INLINE uint64_t load8(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}

/* True if one of the eight bytes must be escaped. A borrow may light up a byte above one that is hit, never without. */
INLINE bool must_escape(uint64_t w) {
    uint64_t quote = w ^ EACH('"'), slash = w ^ EACH('\\');
    uint64_t hit = ((w - EACH(0x20)) & ~w) | ((quote - EACH(1)) & ~quote) | ((slash - EACH(1)) & ~slash);
    return (hit & EACH(0x80)) != 0;
}

/* Copies n bytes; false, with anything in out, if one must be escaped. Nothing behind p[n) is read. *high: if one is above 0x7f. */
static bool copy_exact(uint8_t *out, const uint8_t *p, size_t n, uint32_t *high) {
    uint64_t bad = 0, all = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t w = load8(p + i);
        memcpy(out + i, &w, 8);
        bad |= must_escape(w);
        all |= w;
    }
    uint64_t w = EACH(' ');
    memcpy(&w, p + i, n - i);
    memcpy(out + i, &w, 8);
    bad |= must_escape(w);
    *high |= ((all | w) & EACH(0x80)) != 0;
    return !bad;
}

#if defined(__AVX2__)
enum { STEP = 32 };
typedef __m256i vector;
INLINE vector each(char b) { return _mm256_set1_epi8(b); }
/* What must be escaped, for a whole line. */
typedef struct looks {
    vector quote, slash, control;
} looks;
INLINE vector load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
INLINE void store(uint8_t *p, vector v) { _mm256_storeu_si256((__m256i *)(void *)p, v); }
INLINE uint64_t high_bytes(vector v) { return (uint32_t)_mm256_movemask_epi8(v); }
#if defined(__AVX512BW__) && defined(__AVX512VL__)
INLINE uint64_t unequal(vector a, vector b) { return _mm256_cmpneq_epi8_mask(a, b); }
INLINE uint64_t to_escape(looks l, vector v) {
    return _mm256_cmpeq_epi8_mask(v, l.quote) | _mm256_cmpeq_epi8_mask(v, l.slash) | _mm256_cmple_epu8_mask(v, l.control);
}
#else
INLINE uint64_t unequal(vector a, vector b) { return ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)); }
INLINE uint64_t to_escape(looks l, vector v) {
    vector hit = _mm256_or_si256(_mm256_cmpeq_epi8(v, l.quote), _mm256_cmpeq_epi8(v, l.slash));
    return (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(hit, _mm256_cmpeq_epi8(_mm256_min_epu8(v, l.control), v)));
}
#endif
#elif defined(__SSE2__)
enum { STEP = 16 };
typedef __m128i vector;
INLINE vector each(char b) { return _mm_set1_epi8(b); }
/* What must be escaped, for a whole line. */
typedef struct looks {
    vector quote, slash, control;
} looks;
INLINE vector load(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
INLINE void store(uint8_t *p, vector v) { _mm_storeu_si128((__m128i *)(void *)p, v); }
INLINE uint64_t high_bytes(vector v) { return (uint32_t)_mm_movemask_epi8(v); }
INLINE uint64_t unequal(vector a, vector b) { return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(a, b)) ^ 0xffffu; }
INLINE uint64_t to_escape(looks l, vector v) {
    vector hit = _mm_or_si128(_mm_cmpeq_epi8(v, l.quote), _mm_cmpeq_epi8(v, l.slash));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(hit, _mm_cmpeq_epi8(_mm_min_epu8(v, l.control), v)));
}
#endif

#if defined(__SSE2__)
/* The compiler must not know what they are: it would make them anew for each value. */
INLINE looks make_looks(void) {
    looks l = {each('"'), each('\\'), each(0x1f)};
    __asm__("" : "+x"(l.quote), "+x"(l.slash), "+x"(l.control));
    return l;
}

/* The same; up to STEP bytes behind p[n) are read, and behind out written. */
INLINE bool copy_wide(uint8_t *out, const uint8_t *p, uint32_t n, uint32_t *high) {
    looks l = make_looks();
    vector v = load(p);
    store(out, v);
    if (__builtin_expect(n <= STEP, 1)) {
        uint64_t mask = (1ull << n) - 1;
        *high |= (uint32_t)(high_bytes(v) & mask);
        return !(to_escape(l, v) & mask);
    }
    uint64_t bad = to_escape(l, v), all = high_bytes(v);
    uint32_t i = STEP;
    for (; i + STEP < n; i += STEP) {
        v = load(p + i);
        store(out + i, v);
        bad |= to_escape(l, v);
        all |= high_bytes(v);
    }
    uint64_t mask = (1ull << (n - i)) - 1;
    v = load(p + i);
    store(out + i, v);
    *high |= (uint32_t)(all | (high_bytes(v) & mask));
    return !(bad | (to_escape(l, v) & mask));
}

/* How many of the first n bytes are equal; both may be read STEP bytes further. */
INLINE uint32_t equal_bytes(const uint8_t *a, const uint8_t *b, uint32_t n) {
    if (__builtin_expect(n <= STEP, 1)) return (uint32_t)__builtin_ctzll(unequal(load(a), load(b)) | 1ull << n);
    for (uint32_t i = 0; i < n; i += STEP) {
        uint64_t differ = unequal(load(a + i), load(b + i));
        if (differ) return BSI_MIN(i + (uint32_t)__builtin_ctzll(differ), n);
    }
    return n;
}

/* Up to 32 bytes more are copied. */
INLINE void copy_text(uint8_t *out, const uint8_t *p, uint32_t n) {
    for (uint32_t i = 0; i < 32; i += STEP) store(out + i, load(p + i));
    for (uint32_t i = 32; __builtin_expect(i < n, 0); i += STEP) store(out + i, load(p + i));
}
#else
INLINE bool copy_wide(uint8_t *out, const uint8_t *p, uint32_t n, uint32_t *high) { return copy_exact(out, p, n, high); }

INLINE uint32_t equal_bytes(const uint8_t *a, const uint8_t *b, uint32_t n) {
    uint32_t i = 0;
    while (i + 8 <= n && load8(a + i) == load8(b + i)) i += 8;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

INLINE void copy_text(uint8_t *out, const uint8_t *p, uint32_t n) { memcpy(out, p, n); }
#endif

/* The slow way: at most six bytes for one. */
static uint32_t put_escaped(uint8_t *out, const uint8_t *p, uint32_t n) {
    static const char hex[] = "0123456789abcdef", known[] = "\"\\\b\f\n\r\t", as[] = "\"\\bfnrt";
    uint8_t *o = out;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t c = p[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            *o++ = c;
            continue;
        }
        const char *at = c ? strchr(known, c) : NULL;
        *o++ = '\\';
        if (at) {
            *o++ = (uint8_t)as[at - known];
        } else {
            memcpy(o, "u00", 3);
            o[3] = (uint8_t)hex[c >> 4];
            o[4] = (uint8_t)hex[c & 15];
            o += 5;
        }
    }
    return (uint32_t)(o - out);
}

/* ---- pieces ---- */

/* What one line needs again and again: kept in registers, so that no store of text makes it be read again. */
typedef struct pen {
    uint8_t *o;              /* where the next byte goes */
    uint64_t shift;          /* from an address to a position */
    uint64_t base;
    uint8_t *literal;        /* where the next new byte goes */
    bsi_repeat *repeat;      /* the last one, which may still grow; `literals` of the next one: new bytes behind it */
    uint32_t match;          /* of the last one */
    uint32_t goes_on;        /* its offset, if no new byte is behind it; else 0 */
    uint32_t high;           /* not 0: some byte was above 0x7f */
} pen;

#if !defined(__SSE2__)
typedef struct looks {
    char none;
} looks;
INLINE looks make_looks(void) { return (looks){0}; }
#endif

/* A piece that starts at position `at` repeats what stands `offset` before, up to `same` bytes of its value; `rest` are new.
 * No branch depends on what the values are: which of them differ cannot be foretold. */
INLINE void repeats(pen *w, uint32_t offset, uint32_t same, uint32_t rest) {
    bool other = offset != w->goes_on;
    w->repeat += other;
    w->match = (other ? 0 : w->match) + same;
    w->repeat->match = w->match;
    w->repeat->offset = offset;
    w->repeat[1].literals = rest;
    w->goes_on = rest ? 0 : offset;
    w->literal += rest;
}

/* Any piece and value, told or not. A copy of the pen goes in and comes out, so that the caller's stays in registers. */
static pen __attribute__((noinline)) put_any(pen w, bsi_piece *p, const uint8_t *value, uint32_t n, bool wide, bool told) {
    uint64_t at = w.shift + (uint64_t)w.o;
    uint32_t len = p->len;
    copy_text(w.o, p->text, len);
    uint8_t *o = w.o + len;
    bool plain = wide ? copy_wide(o, value, n, &w.high) : copy_exact(o, value, n, &w.high);
    if (!plain) {
        n = put_escaped(o, value, n);
        w.high = 1;
    }
    if (told && p->at >= w.base) {
        uint32_t offset = (uint32_t)(at - p->at), same = equal_bytes(o, o - offset, BSI_MIN(n, p->value_len));
        memcpy(w.literal, o + same, n - same);
        repeats(&w, offset, len + same, n - same);
    } else if (told) {
        memcpy(w.literal, w.o, len + n);
        w.literal += len + n;
        w.repeat[1].literals += len + n;
        w.goes_on = 0;
    }
    p->at = at;
    p->value_len = n;
    w.o = o + n;
    return w;
}

/* Room was made for the line (start_line). wide: 32 bytes behind the value may be read. */
INLINE void put(pen *w, looks l, bsi_piece *p, const uint8_t *value, uint32_t n, bool wide, bool told) {
#if defined(__SSE2__)
    if (wide && told && __builtin_expect(n <= STEP, 1)) { /* the value as one vector; it is compared without being read again */
        uint32_t len = p->len;
        uint64_t at = w->shift + (uint64_t)w->o, mask = (1ull << n) - 1;
        vector v = load(value);
        if (__builtin_expect(!(to_escape(l, v) & mask) && p->at >= w->base, 1)) {
            uint8_t *o = w->o + len;
            uint32_t offset = (uint32_t)(at - p->at), most = BSI_MIN(n, p->value_len);
            copy_text(w->o, p->text, len);
            store(o, v);
            uint32_t same = (uint32_t)__builtin_ctzll(unequal(v, load(o - offset)) | 1ull << most);
            w->high |= (uint32_t)(high_bytes(v) & mask);
            store(w->literal, load(value + same));
            repeats(w, offset, len + same, n - same);
            p->at = at;
            p->value_len = n;
            w->o = o + n;
            return;
        }
    }
#endif
    (void)l;
    *w = put_any(*w, p, value, n, wide, told);
}

INLINE void put_text(pen *w, looks l, bsi_piece *p, bool told) { put(w, l, p, p->text, 0, true, told); }

/* The attributes of one side; with other, only those that differ from it. Returns whether the last is null, or none. */
INLINE bool put_side(bsi_renderer *r, pen *w, looks l, bsi_side *s, const bsi_field *f, const bsi_field *other, bool wide, bool null, bool told) {
    uint32_t behind = BSI_FIRST_BEHIND_STRING;
    for (uint32_t i = 0; i < r->attributes; i++) {
        uint32_t slot = r->attribute[i];
        if (other && bsi_field_eq(&f[slot], &other[slot])) continue;
        uint32_t kind = (behind + null) * 2 + f[slot].null;
        bsi_piece *p = kind == (i ? BSI_BEHIND_STRING : BSI_FIRST_BEHIND_STRING) * 2 ? &s->plain[i] : &s->attribute[i * BSI_BEHIND_KINDS * 2 + kind];
        null = f[slot].null;
        if (null) put_text(w, l, p, told);
        else put(w, l, p, f[slot].p, f[slot].len, wide, told);
        behind = BSI_BEHIND_STRING;
    }
    if (behind == BSI_BEHIND_STRING) return null;
    put_text(w, l, &s->none[null], told);
    return true;
}

static size_t bytes_of(const bsi_field *f, uint32_t count, bool *null) {
    size_t n = 0;
    bool any = false;
    for (uint32_t i = 0; f && i < count; i++) {
        n += f[i].len;
        any |= f[i].null;
    }
    *null = any;
    return n;
}

INLINE pen start_line(bsi_renderer *r) {
    const bsi_lines *l = r->to;
    return (pen){.o = l->text.data + l->text.len, .shift = r->base - (uint64_t)l->text.data, .base = r->base,
                 .literal = l->literal.data + l->literal.len, .repeat = l->repeat + l->repeat_count, .match = r->match, .goes_on = r->goes_on};
}

INLINE void end_line(bsi_renderer *r, const pen *w, char op, bool nameless) {
    bsi_lines *l = r->to;
    l->text.len = (size_t)(w->o - l->text.data);
    l->literal.len = (size_t)(w->literal - l->literal.data);
    l->repeat_count = (uint32_t)(w->repeat - l->repeat);
    l->high |= w->high != 0;
    r->match = w->match;
    r->goes_on = w->goes_on;
    l->end[l->count] = l->text.len;
    l->op[l->count] = (uint8_t)op;
    l->nameless[l->count++] = nameless;
    if (__builtin_expect(l->text.len > BSI_TOLD_BYTES_MAX, 0)) r->tell_now = l->told = false;
}

INLINE void put_front(bsi_renderer *r, pen *w, looks l, const bsi_change *c, const bsi_field *now, bsi_piece *op, bool wide, bool told) {
    const bsi_slots *s = r->slots;
    const uint8_t *digits = (const uint8_t *)r->digits;
    if (r->seq.text) {
        bsi_lines_count_to(r, c->seq);
        put(w, l, &r->seq, digits, r->digit_count, true, told);
        put(w, l, &r->id, digits, r->digit_count, true, told);
    }
    if (!r->head) put_text(w, l, op, told);
    else if (s->partition < 0 || !now[s->partition].len) put(w, l, op, r->filler, 1, true, told);
    else put(w, l, op, now[s->partition].p, now[s->partition].len, wide, told);
    for (uint32_t i = 0; i < s->key_count; i++) put(w, l, &r->key[i], now[i].p, now[i].len, wide, told);
}

/* Any line. */
static void __attribute__((noinline)) render(bsi_renderer *r, const bsi_change *c) {
    char op = c->op;
    bool now_wide = op == 'd' ? c->before_wide : c->after_wide, null = false, told = r->tell_now;
    const bsi_field *now = op == 'd' ? c->before : c->after;
    pen w = start_line(r);
    looks l = make_looks();
    put_front(r, &w, l, c, now, &r->op[op == 'c' ? 0 : op == 'u' ? 1 : 2], now_wide, told);
    if (!r->slots->key_count) {
        put_text(&w, l, &r->key[0], told);
        null = true;
    }
    if (op != 'c') null = put_side(r, &w, l, &r->before, c->before, op == 'u' ? c->after : NULL, c->before_wide, null, told);
    if (op != 'd') null = put_side(r, &w, l, &r->after, c->after, op == 'u' ? c->before : NULL, c->after_wide, null, told);
    put_text(&w, l, &r->end[null], told);
    end_line(r, &w, op, r->slots->partition < 0 || !now[r->slots->partition].len);
}

/* A create without nulls, told: most lines of large deltas. The same, with all that does not change taken out of the loops. */
static void __attribute__((noinline)) render_create(bsi_renderer *r, const bsi_change *c) {
    const bsi_field *f = c->after;
    const uint32_t *slot = r->attribute, count = r->attributes;
    bsi_piece *p = r->after.plain;
    pen w = start_line(r);
    looks l = make_looks();
    put_front(r, &w, l, c, f, &r->op[0], true, true);
    for (uint32_t i = 0; i < count; i++) put(&w, l, &p[i], f[slot[i]].p, f[slot[i]].len, true, true);
    put_text(&w, l, &r->end[0], true);
    end_line(r, &w, 'c', r->slots->partition < 0 || !f[r->slots->partition].len);
}

void LINES_NAME(bsi_renderer *r, const bsi_change *c) {
    bool null_before, null_after;
    size_t values = bytes_of(c->before, r->slots->count, &null_before) + bytes_of(c->after, r->slots->count, &null_after);
    bsi_lines_room(r, c, values);
    if (c->op == 'c' && !null_after && c->after_wide && r->tell_now && r->attributes && r->slots->key_count) render_create(r, c);
    else render(r, c);
}

