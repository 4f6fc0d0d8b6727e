/* emit/emit_lines.c - many changes as lines, and what each line repeats of the ones before.
 *
 *   piece     constant text     value       the same piece, when it was last written
 *   0         {"seq":           35          34            a new last digit
 *   1         ,"id":"0f…-       35          34
 *   2         ","op":"c",…:"    1000        1000          all of it
 *   …
 *   told      1 new, 15 as 380 before, 1 new, 290 as 380 before, …
 *
 * A line is a row of pieces: a text that is the same each time, and a value behind it. The constant texts are made once,
 * with the quotes and commas around them, so that a value costs two copies, a look for what must be escaped, and a
 * comparison with the value that stood behind the same piece before. What is equal from the piece's start on becomes a
 * repeat; if it stands as far back as the repeat that has just ended, that one grows. This is the whole of the search
 * for matches that a compressor would do, at a tenth of its cost (emit_frame.c).
 *
 * A value may be null, without quotes, and in an update any attribute may be missing. So an attribute has a piece for
 * each thing that can stand before it and for null, eight in all.
 *
 * Tried and dropped: a table of values for each column, to find those that stood further back.
 */
#include <stdio.h>
#include <stdlib.h>

#include "emit/emit_inner.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum {
    MARGIN = 64,                   /* bytes behind a text that copies and comparisons may touch */
    TOLD_BYTES_MAX = 1u << 28      /* of one bsi_lines: above, its text is not told, and numbers stay small */
};

typedef struct piece {
    const uint8_t *text;
    uint32_t len, value_len; /* value_len: of when it was last written */
    uint64_t at;             /* where it was last written, from the renderer's base; below the base: not in these lines */
} piece;

/* What can stand before an attribute, and with one more bit: it is null. */
enum { FIRST_BEHIND_STRING, FIRST_BEHIND_NULL, BEHIND_STRING, BEHIND_NULL, BEHIND_KINDS };

typedef struct side {
    piece *plain;            /* [attributes] none before it is left out, and none of both is null */
    piece *attribute;        /* [attributes][BEHIND_KINDS * 2] all else */
    piece none[2];           /* no attribute; [1]: behind a null */
} side;

struct bsi_renderer {
    const bsi_slots *slots;
    const bsi_change_head *head;
    bool tell, tell_now;     /* tell_now: of the lines at hand */
    piece seq, id, op[3], end[2];
    piece *key;
    side before, after;
    uint32_t *attribute;     /* slots of attributes, in order */
    uint32_t attributes;
    bool high;               /* constant texts */
    bsi_buf *texts;          /* all constant texts */
    size_t text_count, text_cap;
    char digits[64];
    uint8_t filler[MARGIN];
    uint32_t digit_count;
    uint64_t number;
    size_t text_bytes;       /* of constant texts, at most, in one line */
    /* the lines at hand */
    bsi_lines *to;
    uint64_t base;           /* position of the text's first byte */
    uint32_t match, literals, more, goes_on; /* as in pen, between lines */
};

/* What one line needs again and again: kept in registers, so that no store of text makes it be read again. */
typedef struct pen {
    uint8_t *o;              /* where the next byte goes */
    uint64_t shift;          /* from an address to a position */
    uint64_t base;
    uint8_t *literal;        /* where the next new byte goes */
    bsi_repeat *repeat;      /* the last one, which may still grow; its match and literals stand here as well */
    uint32_t match, literals;
    uint32_t more;           /* new bytes behind it */
    uint32_t goes_on;        /* its offset, if there are none; else 0 */
    uint32_t high;           /* not 0: some byte was above 0x7f */
} pen;

/* ---- constant texts ---- */

static piece made(bsi_renderer *r, bsi_buf b) {
    for (size_t i = 0; i < b.len; i++) r->high |= b.data[i] >= 0x80;
    piece p = {.len = (uint32_t)b.len};
    bsi_buf_reserve(&b, MARGIN);
    memset(b.data + b.len, 0, MARGIN);
    p.text = b.data;
    r->text_bytes += b.len;
    if (r->text_count == r->text_cap) r->texts = bsi_realloc(r->texts, (r->text_cap = r->text_cap ? r->text_cap * 2 : 64) * sizeof *r->texts);
    r->texts[r->text_count++] = b;
    return p;
}

static piece constant(bsi_renderer *r, const char *text) {
    bsi_buf b = {0};
    bsi_buf_str(&b, text);
    return made(r, b);
}

static piece named(bsi_renderer *r, const char *before, const char *name, const char *behind) {
    bsi_buf b = {0};
    bsi_buf_str(&b, before);
    bsi_json_string(&b, name, strlen(name));
    bsi_buf_str(&b, behind);
    return made(r, b);
}

static void make_side(bsi_renderer *r, side *s, const char *name) {
    char first[2][32];
    for (int null = 0; null < 2; null++) {
        snprintf(first[null], sizeof first[null], "%s},\"%s\":{", null ? "" : "\"", name);
        s->none[null] = constant(r, first[null]);
    }
    const char *behind[BEHIND_KINDS] = {first[0], first[1], "\",", ","};
    s->plain = bsi_alloc(sizeof(piece) * (r->attributes + 1));
    s->attribute = bsi_alloc(sizeof(piece) * (r->attributes * BEHIND_KINDS * 2 + 1));
    for (uint32_t i = 0; i < r->attributes; i++) {
        const char *column = r->slots->name[r->attribute[i]];
        s->plain[i] = named(r, behind[i ? BEHIND_STRING : FIRST_BEHIND_STRING], column, ":\"");
        for (uint32_t kind = 0; kind < BEHIND_KINDS * 2; kind++)
            s->attribute[i * BEHIND_KINDS * 2 + kind] = named(r, behind[kind / 2], column, kind & 1 ? ":null" : ":\"");
    }
}

static void make_front(bsi_renderer *r) {
    const bsi_change_head *h = r->head;
    bool seq = h && h->id_prefix;
    bsi_buf b = {0};
    bsi_buf_byte(&b, '{');
    if (h && h->generation >= 0) bsi_buf_addf(&b, "\"generation\":%lld,", (long long)h->generation);
    if (seq) {
        bsi_buf_str(&b, "\"seq\":");
        r->seq = made(r, b);
        b = (bsi_buf){0};
        bsi_buf_addf(&b, ",\"id\":\"%s-", h->id_prefix);
        r->id = made(r, b);
        b = (bsi_buf){0};
        bsi_buf_str(&b, "\",");
    }
    for (int i = 0; i < 3; i++) {
        bsi_buf op = {0};
        bsi_buf_add(&op, b.data, b.len);
        bsi_buf_addf(&op, "\"op\":\"%c\"", "cud"[i]);
        if (h) {
            bsi_buf_str(&op, ",\"entity\":");
            bsi_json_string(&op, h->entity, strlen(h->entity));
            bsi_buf_str(&op, ",\"partition\":\"");
        }
        r->op[i] = made(r, op);
    }
    bsi_buf_free(&b);
}

/* Without a head, nothing closes the op's value; there is always a key column, or its object would need a piece of its own. */
static void make_key(bsi_renderer *r) {
    const bsi_slots *s = r->slots;
    r->key = bsi_alloc(sizeof *r->key * (s->key_count + 1));
    const char *first = r->head ? "\",\"key\":{" : ",\"key\":{";
    for (uint32_t i = 0; i < s->key_count; i++) r->key[i] = named(r, i ? "\"," : first, s->name[i], ":\"");
    if (!s->key_count) r->key[0] = constant(r, first);
}

bsi_renderer *bsi_renderer_open(const bsi_slots *slots, const bsi_change_head *head, bool tell_repeats) {
    bsi_renderer *r = bsi_calloc(1, sizeof *r);
    r->slots = slots;
    r->head = head;
    r->tell = tell_repeats;
    r->attribute = bsi_alloc(sizeof *r->attribute * (slots->count + 1));
    for (uint32_t i = 0; i < slots->count; i++)
        if (slots->order[i] >= slots->key_count && slots->order[i] < slots->count) r->attribute[r->attributes++] = slots->order[i];
    make_front(r);
    make_key(r);
    r->end[0] = constant(r, "\"}}\n");
    r->end[1] = constant(r, "}}\n");
    r->base = 1;
    memset(r->filler, '_', sizeof r->filler);
    return r;
}

void bsi_renderer_close(bsi_renderer *r) {
    for (size_t i = 0; i < r->text_count; i++) bsi_buf_free(&r->texts[i]);
    free(r->texts);
    free(r->key);
    free(r->before.plain);
    free(r->before.attribute);
    free(r->after.plain);
    free(r->after.attribute);
    free(r->attribute);
    free(r);
}

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

#if defined(__SSE2__)
INLINE __m128i load16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
INLINE void store16(uint8_t *p, __m128i v) { _mm_storeu_si128((__m128i *)(void *)p, v); }

INLINE uint32_t must_escape16(__m128i v) {
    __m128i hit = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(hit, _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v)));
}

/* The same; up to 16 bytes behind p[n) are read, and behind out written. */
INLINE bool copy_wide(uint8_t *out, const uint8_t *p, uint32_t n, uint32_t *high) {
    __m128i v = load16(p);
    store16(out, v);
    if (__builtin_expect(n <= 16, 1)) {
        uint32_t mask = 0xffffu >> (16 - n);
        *high |= (uint32_t)_mm_movemask_epi8(v) & mask;
        return !(must_escape16(v) & mask);
    }
    uint32_t bad = must_escape16(v), all = (uint32_t)_mm_movemask_epi8(v), i = 16;
    for (; i + 16 < n; i += 16) {
        v = load16(p + i);
        store16(out + i, v);
        bad |= must_escape16(v);
        all |= (uint32_t)_mm_movemask_epi8(v);
    }
    uint32_t mask = 0xffffu >> (16 - (n - i));
    v = load16(p + i);
    store16(out + i, v);
    *high |= all | ((uint32_t)_mm_movemask_epi8(v) & mask);
    return !(bad | (must_escape16(v) & mask));
}

/* How many of the first n bytes are equal; both may be read 15 bytes further. */
INLINE uint32_t equal_bytes(const uint8_t *a, const uint8_t *b, uint32_t n) {
    uint32_t differ = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(load16(a), load16(b))) ^ 0xffffu;
    if (__builtin_expect(n <= 16, 1)) return (uint32_t)__builtin_ctz(differ | 1u << n);
    for (uint32_t i = 0; i < n; i += 16) {
        differ = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(load16(a + i), load16(b + i))) ^ 0xffffu;
        if (differ) return BSI_MIN(i + (uint32_t)__builtin_ctz(differ), n);
    }
    return n;
}

INLINE void copy_text(uint8_t *out, const uint8_t *p, uint32_t n) {
    store16(out, load16(p));
    store16(out + 16, load16(p + 16));
    for (uint32_t i = 32; __builtin_expect(i < n, 0); i += 16) store16(out + i, load16(p + i));
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

/* A piece and its value of n bytes stand at w->o. `same_as` has the value, too: where it was copied from, 32 bytes behind
 * which may be read, and it need not wait for the store; or NULL. No branch depends on what the values are: which of them
 * differ cannot be foretold. */
INLINE void tell(pen *w, piece *p, uint32_t n, const uint8_t *same_as) {
    uint64_t at = w->shift + (uint64_t)w->o;
    if (__builtin_expect(p->at >= w->base, 1)) {
        uint32_t offset = (uint32_t)(at - p->at), len = p->len;
        const uint8_t *value = w->o + len, *from = same_as ? same_as : value;
        uint32_t same = equal_bytes(from, value - offset, BSI_MIN(n, p->value_len)), rest = n - same;
        bool other = offset != w->goes_on;
        w->repeat += other;
        w->literals = other ? w->more : w->literals;
        w->match = (other ? 0 : w->match) + len + same;
        *w->repeat = (bsi_repeat){w->literals, w->match, offset};
        w->goes_on = rest ? 0 : offset;
        w->more = rest;
        if (same_as) copy_text(w->literal, from + same, rest);
        else memcpy(w->literal, from + same, rest);
        w->literal += rest;
    } else {
        memcpy(w->literal, w->o, p->len + n);
        w->literal += p->len + n;
        w->more += p->len + n;
        w->goes_on = 0;
    }
    p->at = at;
    p->value_len = n;
}

/* Room was made for the line (start_line). wide: 32 bytes behind the value may be read. */
INLINE void put(pen *w, piece *p, const uint8_t *value, uint32_t n, bool wide, bool told) {
    copy_text(w->o, p->text, p->len);
    uint8_t *o = w->o + p->len;
    bool plain = wide ? copy_wide(o, value, n, &w->high) : copy_exact(o, value, n, &w->high);
    if (__builtin_expect(!plain, 0)) {
        n = put_escaped(o, value, n);
        w->high = 1;
        if (told) tell(w, p, n, NULL);
    } else if (told) {
        tell(w, p, n, wide ? value : NULL);
    }
    w->o = o + n;
}

INLINE void put_text(pen *w, piece *p, bool told) { put(w, p, p->text, 0, true, told); }

/* ---- lines ---- */

static void count_to(bsi_renderer *r, uint64_t v) {
    if (v == r->number + 1 && r->digit_count) { /* most often only the last digit differs */
        uint32_t i = r->digit_count;
        while (i && r->digits[i - 1] == '9') r->digits[--i] = '0';
        if (i) {
            r->digits[i - 1]++;
            r->number = v;
            return;
        }
    }
    r->number = v;
    char text[24];
    uint32_t n = 0;
    do text[n++] = (char)('0' + v % 10);
    while (v /= 10);
    r->digit_count = n;
    for (uint32_t i = 0; i < n; i++) r->digits[i] = text[n - 1 - i];
}

/* The attributes of one side; with other, only those that differ from it. Returns whether the last is null, or none. */
INLINE bool put_side(bsi_renderer *r, pen *w, side *s, const bsi_field *f, const bsi_field *other, bool wide, bool null, bool told) {
    uint32_t behind = FIRST_BEHIND_STRING;
    for (uint32_t i = 0; i < r->attributes; i++) {
        uint32_t slot = r->attribute[i];
        if (other && bsi_field_eq(&f[slot], &other[slot])) continue;
        uint32_t kind = (behind + null) * 2 + f[slot].null;
        piece *p = kind == (i ? BEHIND_STRING : FIRST_BEHIND_STRING) * 2 ? &s->plain[i] : &s->attribute[i * BEHIND_KINDS * 2 + kind];
        null = f[slot].null;
        if (null) put_text(w, p, told);
        else put(w, p, f[slot].p, f[slot].len, wide, told);
        behind = BEHIND_STRING;
    }
    if (behind == BEHIND_STRING) return null;
    put_text(w, &s->none[null], told);
    return true;
}

static void __attribute__((noinline)) more_lines(bsi_lines *l) {
    l->cap = l->cap ? l->cap * 2 : 64;
    l->end = bsi_realloc(l->end, l->cap * sizeof *l->end);
    l->op = bsi_realloc(l->op, l->cap * sizeof *l->op);
    l->nameless = bsi_realloc(l->nameless, l->cap * sizeof *l->nameless);
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

/* Room for the longest that the line can be, of all that put and tell write without looking. */
static void make_room(bsi_renderer *r, const bsi_change *c, size_t values) {
    bsi_lines *l = r->to;
    const bsi_slots *s = r->slots;
    if (c->op != 'c' && !r->before.plain) make_side(r, &r->before, "before");
    if (c->op != 'd' && !r->after.plain) make_side(r, &r->after, "after");
    size_t most = r->text_bytes + 12 * values + 2 * sizeof r->digits + 4 * MARGIN; /* the partition is one of the values */
    uint32_t pieces = 8 + s->key_count + 2 * r->attributes;
    if (l->text.cap - l->text.len < most) bsi_buf_reserve(&l->text, most);
    if (l->literal.cap - l->literal.len < most) bsi_buf_reserve(&l->literal, most);
    if (l->repeat_cap - l->repeat_count < pieces) {
        l->repeat_cap = BSI_MAX(l->repeat_cap * 2, l->repeat_count + pieces + 1024);
        l->repeat = bsi_realloc(l->repeat, l->repeat_cap * sizeof *l->repeat);
    }
    if (l->count == l->cap) more_lines(l);
}

INLINE pen start_line(bsi_renderer *r) {
    const bsi_lines *l = r->to;
    return (pen){.o = l->text.data + l->text.len, .shift = r->base - (uint64_t)l->text.data, .base = r->base,
                 .literal = l->literal.data + l->literal.len, .repeat = l->repeat + l->repeat_count, .match = r->match,
                 .literals = r->literals, .more = r->more, .goes_on = r->goes_on};
}

INLINE void end_line(bsi_renderer *r, const pen *w, char op, bool nameless) {
    bsi_lines *l = r->to;
    l->text.len = (size_t)(w->o - l->text.data);
    l->literal.len = (size_t)(w->literal - l->literal.data);
    l->repeat_count = (uint32_t)(w->repeat - l->repeat);
    l->high |= w->high != 0;
    r->match = w->match;
    r->literals = w->literals;
    r->more = w->more;
    r->goes_on = w->goes_on;
    l->end[l->count] = l->text.len;
    l->op[l->count] = (uint8_t)op;
    l->nameless[l->count++] = nameless;
    if (__builtin_expect(l->text.len > TOLD_BYTES_MAX, 0)) r->tell_now = l->told = false;
}

INLINE void put_front(bsi_renderer *r, pen *w, const bsi_change *c, const bsi_field *now, piece *op, bool wide, bool told) {
    const bsi_slots *s = r->slots;
    const uint8_t *digits = (const uint8_t *)r->digits;
    if (r->seq.text) {
        count_to(r, c->seq);
        put(w, &r->seq, digits, r->digit_count, true, told);
        put(w, &r->id, digits, r->digit_count, true, told);
    }
    if (!r->head) put_text(w, op, told);
    else if (s->partition < 0 || !now[s->partition].len) put(w, op, r->filler, 1, true, told);
    else put(w, op, now[s->partition].p, now[s->partition].len, wide, told);
    for (uint32_t i = 0; i < s->key_count; i++) put(w, &r->key[i], now[i].p, now[i].len, wide, told);
}

/* Any line. */
static void __attribute__((noinline)) render(bsi_renderer *r, const bsi_change *c) {
    char op = c->op;
    bool now_wide = op == 'd' ? c->before_wide : c->after_wide, null = false, told = r->tell_now;
    const bsi_field *now = op == 'd' ? c->before : c->after;
    pen w = start_line(r);
    put_front(r, &w, c, now, &r->op[op == 'c' ? 0 : op == 'u' ? 1 : 2], now_wide, told);
    if (!r->slots->key_count) {
        put_text(&w, &r->key[0], told);
        null = true;
    }
    if (op != 'c') null = put_side(r, &w, &r->before, c->before, op == 'u' ? c->after : NULL, c->before_wide, null, told);
    if (op != 'd') null = put_side(r, &w, &r->after, c->after, op == 'u' ? c->before : NULL, c->after_wide, null, told);
    put_text(&w, &r->end[null], told);
    end_line(r, &w, op, r->slots->partition < 0 || !now[r->slots->partition].len);
}

/* A create without nulls, told: most lines of large deltas. The same, with all that does not change taken out of the loops. */
static void __attribute__((noinline)) render_create(bsi_renderer *r, const bsi_change *c) {
    const bsi_field *f = c->after;
    const uint32_t *slot = r->attribute, count = r->attributes;
    piece *p = r->after.plain;
    pen w = start_line(r);
    put_front(r, &w, c, f, &r->op[0], true, true);
    for (uint32_t i = 0; i < count; i++) put(&w, &p[i], f[slot[i]].p, f[slot[i]].len, true, true);
    put_text(&w, &r->end[0], true);
    end_line(r, &w, 'c', r->slots->partition < 0 || !f[r->slots->partition].len);
}

void bsi_renderer_add(bsi_renderer *r, const bsi_change *c) {
    bool null_before, null_after;
    size_t values = bytes_of(c->before, r->slots->count, &null_before) + bytes_of(c->after, r->slots->count, &null_after);
    make_room(r, c, values);
    if (c->op == 'c' && !null_after && c->after_wide && r->tell_now && r->attributes && r->slots->key_count) render_create(r, c);
    else render(r, c);
}

/* The first place of `repeat` stays empty until the end: the one that may still grow is at repeat_count. */
void bsi_renderer_start(bsi_renderer *r, bsi_lines *lines) {
    lines->text.len = lines->literal.len = 0;
    lines->count = lines->repeat_count = 0;
    lines->told = r->tell;
    lines->high = r->high;
    r->to = lines;
    r->tell_now = r->tell;
    r->literals = r->match = r->more = r->goes_on = 0;
}

void bsi_renderer_end(bsi_renderer *r) {
    r->base += r->to->text.len + 1;
    r->to = NULL;
}

void bsi_lines_free(bsi_lines *l) {
    bsi_buf_free(&l->text);
    free(l->end);
    free(l->op);
    free(l->nameless);
    free(l->repeat);
    bsi_buf_free(&l->literal);
    *l = (bsi_lines){0};
}
