/* emit/emit_render.c - one change as one line of JSON, byte for byte as promised.
 *
 *   {"op":"u","key":{"parent":"A","plant":"1000"},"before":{"qty":"2"},"after":{"qty":"3"}}\n
 *    └ head: generation, seq, id in front of op, entity and partition behind it, as far as the caller has them
 *
 * Key members stand in key order, attributes in the order of the feed's first header. A create and a delete tell all
 * attributes; an update only those whose bytes differ. Null and empty are equal, but are told apart here: null, "".
 *
 * First loads render every record of a snapshot, so a value is looked at and copied eight bytes at a time; only one
 * that holds a quote, a backslash or a control is gone through byte by byte.
 */
#include "flow/change.h"

#define EACH(b) ((uint64_t)(b) * 0x0101010101010101ull)

/* True if one of the eight bytes must be escaped. A borrow may light up a byte above one that is hit, never without. */
static inline bool must_escape(uint64_t w) {
    uint64_t quote = w ^ EACH('"'), slash = w ^ EACH('\\');
    uint64_t hit = ((w - EACH(0x20)) & ~w) | ((quote - EACH(1)) & ~quote) | ((slash - EACH(1)) & ~slash);
    return (hit & EACH(0x80)) != 0;
}

static inline uint64_t load(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}

/* Copies n bytes to out, which has room for them. False, with anything in out, if one of them must be escaped. */
static inline bool copy_plain(uint8_t *out, const uint8_t *p, size_t n) {
    if (n >= 8) {
        size_t i = 0;
        for (; i + 8 <= n; i += 8) {
            uint64_t w = load(p + i);
            memcpy(out + i, &w, 8);
            if (must_escape(w)) return false;
        }
        uint64_t w = load(p + n - 8); /* the last eight again, so that there is no tail */
        memcpy(out + n - 8, &w, 8);
        return !must_escape(w);
    }
    if (n >= 4) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + n - 4, 4);
        memcpy(out, &a, 4);
        memcpy(out + n - 4, &b, 4);
        return !must_escape((uint64_t)a << 32 | b);
    }
    uint64_t w = EACH(' ');
    for (size_t i = 0; i < n; i++) {
        out[i] = p[i];
        w = w << 8 | p[i];
    }
    return !must_escape(w);
}

static inline void string(bsi_buf *b, const void *p, size_t n) {
    if (b->cap - b->len < n + 2) bsi_buf_reserve(b, n + 2);
    uint8_t *out = b->data + b->len;
    *out = '"';
    if (copy_plain(out + 1, p, n)) {
        out[n + 1] = '"';
        b->len += n + 2;
    } else {
        bsi_json_string(b, p, n);
    }
}

static inline void text(bsi_buf *b, const char *s, size_t n) {
    if (b->cap - b->len < n) bsi_buf_reserve(b, n);
    memcpy(b->data + b->len, s, n);
    b->len += n;
}
#define TEXT(b, s) text(b, s, sizeof(s) - 1)

static void number(bsi_buf *b, uint64_t v) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + v % 10);
    while (v /= 10);
    text(b, digits + at, sizeof digits - at);
}

static inline void member(bsi_buf *b, const char *name, const bsi_field *f) {
    string(b, name, strlen(name));
    bsi_buf_byte(b, ':');
    if (f->null) TEXT(b, "null");
    else string(b, f->p, f->len);
}

static void key(bsi_buf *b, const bsi_slots *s, const bsi_field *f) {
    TEXT(b, ",\"key\":{");
    for (uint32_t i = 0; i < s->key_count; i++) {
        bsi_field whole = {f[i].p, f[i].len, false}; /* a key has no null: "" */
        if (i) bsi_buf_byte(b, ',');
        member(b, s->name[i], &whole);
    }
    bsi_buf_byte(b, '}');
}

/* The non-key attributes of one side; with other, only those that differ from it. */
static void side(bsi_buf *b, const bsi_slots *s, const bsi_field *f, const bsi_field *other) {
    bool first = true;
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t slot = s->order[i];
        if (slot < s->key_count || slot >= s->count) continue;
        if (other && bsi_field_eq(&f[slot], &other[slot])) continue;
        if (!first) bsi_buf_byte(b, ',');
        first = false;
        member(b, s->name[slot], &f[slot]);
    }
    bsi_buf_byte(b, '}');
}

static void front(bsi_buf *b, const bsi_change *c, const bsi_change_head *head) {
    bsi_buf_byte(b, '{');
    if (head && head->generation >= 0) {
        TEXT(b, "\"generation\":");
        number(b, (uint64_t)head->generation);
        bsi_buf_byte(b, ',');
    }
    if (head && head->id_prefix) {
        TEXT(b, "\"seq\":");
        number(b, c->seq);
        TEXT(b, ",\"id\":\"");
        text(b, head->id_prefix, strlen(head->id_prefix));
        bsi_buf_byte(b, '-');
        number(b, c->seq);
        TEXT(b, "\",");
    }
    TEXT(b, "\"op\":\"");
    bsi_buf_byte(b, (uint8_t)c->op);
    bsi_buf_byte(b, '"');
}

void bsi_change_render(bsi_buf *out, const bsi_change *c, const bsi_change_head *head) {
    const bsi_field *now = c->op == 'd' ? c->before : c->after;
    front(out, c, head);
    if (head) {
        bsi_field p = bsi_change_partition(c->slots, now);
        TEXT(out, ",\"entity\":");
        string(out, head->entity, strlen(head->entity));
        TEXT(out, ",\"partition\":");
        string(out, p.p, p.len);
    }
    key(out, c->slots, now);
    if (c->op != 'c') {
        TEXT(out, ",\"before\":{");
        side(out, c->slots, c->before, c->op == 'u' ? c->after : NULL);
    }
    if (c->op != 'd') {
        TEXT(out, ",\"after\":{");
        side(out, c->slots, c->after, c->op == 'u' ? c->before : NULL);
    }
    TEXT(out, "}\n");
}
