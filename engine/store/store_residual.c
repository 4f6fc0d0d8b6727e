/* store/store_residual.c - the rows of a block, each written as what differs from the row before.
 *
 *   row before   1000  ASM-17  0010  CMP-4711  2.5  EA
 *   row          1000  ASM-17  0020  CMP-4711  1    EA
 *   residual     mask: same same  -  same  -  same        "0020" "1"       each with its length, as in the row image
 *
 * Row images (flow/layout.h) are a few fields that repeat and a few that do not. What repeats is said by one bit of a mask,
 * what does not stands there as it is, so that symbols (store_symbols.c) find the same texts over and over. The row before
 * the first one has all its fields empty: a block stands alone.
 *
 *   row:  mask, whole bytes: bit 0: its shape is as expected; bit 1 + i: slot i is as in the row before
 *         for each slot that is not: varint length, bytes
 *         unless the shape is as expected: varint fields, varint bytes of the nulls, the nulls
 *
 * The shape is what an image has beyond its values: how many fields stand in its body (expected: up to the last one that is
 * not empty), and its nulls (expected: those of the row before; of the first row: none).
 *
 * Rows are read and written 16 bytes at a time, up to 16 bytes past where they end: buffers have a margin. A field of at
 * most 15 bytes takes no branch on whether it is the same.
 *
 * Tried and dropped: comparing by words of 8 bytes with masks made of the length (a fifth slower than 16 bytes at once).
 */
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <stdatomic.h>

#include "core/cpu.h"
#include "store/store_inner.h"

enum { AT_ONCE = 16, MASK_WORDS = BSI_RESIDUAL_SLOTS / 64 + 1 };
static_assert(BSI_RESIDUAL_MARGIN >= AT_ONCE * (BSI_RESIDUAL_SLOTS + 1), "a row of short fields may be read past the end");

static const uint8_t empty[AT_ONCE]; /* the field of a row that has none there; also nulls: none */

static size_t mask_bytes(uint32_t slots) { return slots / 8 + 1; }

static inline void copy_16(uint8_t *to, const uint8_t *from) {
    uint8_t at_once[AT_ONCE]; /* they may overlap */
    memcpy(at_once, from, AT_ONCE);
    memcpy(to, at_once, AT_ONCE);
}

/* Bytes of a field with its length, from 17 on; 0: it does not end before `end`. */
static size_t long_field(const uint8_t *p, const uint8_t *end) {
    uint64_t bytes;
    if (p[0] < 128) return p[0] < end - p ? p[0] + 1u : 0;
    const uint8_t *at = bsi_varint_get(p, end, &bytes);
    return !at || bytes > (uint64_t)(end - at) ? 0 : (size_t)(at - p) + (size_t)bytes;
}

/* ---- writing ---- */

typedef struct row_before {
    const uint8_t *field[BSI_RESIDUAL_SLOTS];
    const uint8_t *nulls;
    uint32_t null_bytes, slots;
} row_before;

/* The first n bytes (1 to 16) are the same. */
#ifdef __SSE2__ /* every x86-64 has it */
static inline bool equal_16(const uint8_t *p, const uint8_t *q, uint32_t n) {
    static const uint32_t behind[AT_ONCE + 1] = {~0u,      ~0u << 1, ~0u << 2,  ~0u << 3,  ~0u << 4,  ~0u << 5,  ~0u << 6,  ~0u << 7, ~0u << 8,
                                                 ~0u << 9, ~0u << 10, ~0u << 11, ~0u << 12, ~0u << 13, ~0u << 14, ~0u << 15, ~0u << 16};
    __m128i a = _mm_loadu_si128((const __m128i *)(const void *)p), b = _mm_loadu_si128((const __m128i *)(const void *)q);
    return ((uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(a, b)) | behind[n]) == ~0u;
}
#else
static inline bool equal_16(const uint8_t *p, const uint8_t *q, uint32_t n) {
    uint64_t a, b, c, d;
    memcpy(&a, p, 8);
    memcpy(&b, q, 8);
    memcpy(&c, p + 8, 8);
    memcpy(&d, q + 8, 8);
    uint64_t low = n < 8 ? (1ull << 8 * n) - 1 : UINT64_MAX;
    uint64_t high = n <= 8 ? 0 : UINT64_MAX >> (128 - 8 * n);
    return (((a ^ b) & low) | ((c ^ d) & high)) == 0;
}
#endif

/* Fields of a body that are not those of the row before; *fields: how many it has, *filled: up to the last one that is not
 * empty. NULL: this is no body of so many slots. */
static uint8_t *put_fields(uint8_t *o, uint64_t *mask, uint32_t *fields, uint32_t *filled, row_before *b, const uint8_t *p, const uint8_t *end) {
    uint32_t i = 0, last = 0;
    for (uint32_t word = 0; p < end && i < b->slots; word++) {
        uint32_t stop = BSI_MIN(b->slots, word * 64 + 63);
        uint64_t bits = 0, bit = word ? 1 : 2;
        for (; p < end && i < stop; i++, bit <<= 1) {
            const uint8_t *q = b->field[i];
            size_t n = p[0] + 1u;
            bool same;
            if (n <= AT_ONCE) {
                same = equal_16(p, q, (uint32_t)n);
                copy_16(o, p);
            } else {
                if (!(n = long_field(p, end))) return NULL;
                same = p[0] == q[0] && memcmp(p, q, n) == 0;
                for (size_t k = 0; !same && k < n; k += AT_ONCE) copy_16(o + k, p + k);
            }
            last = p[0] ? i + 1 : last;
            b->field[i] = p;
            p += n;
            uint64_t all = (uint64_t)0 - same; /* no branch: what is the same is as good as random */
            o += n & ~all;
            bits |= bit & all;
        }
        mask[word] |= bits;
    }
    *fields = i;
    *filled = last;
    for (; i < b->slots; i++) {
        bool same = b->field[i][0] == 0;
        *o = 0;
        o += same ? 0 : 1;
        b->field[i] = empty;
        mask[(i + 1) >> 6] |= (uint64_t)same << ((i + 1) & 63);
    }
    return p == end ? o : NULL;
}

/* Most rows have no nulls, which is one byte. */
static inline bool same_bytes(const uint8_t *p, const uint8_t *q, size_t n) { return n == 1 ? *p == *q : memcmp(p, q, n) == 0; }

static uint8_t *put_row(uint8_t *o, row_before *b, const uint8_t *image, uint32_t body, uint32_t bytes) {
    uint64_t mask[MASK_WORDS] = {0};
    uint32_t fields, filled, null_bytes = bytes - body;
    uint8_t *at = o;
    const uint8_t *nulls = image + body;
    if (body > bytes || !(o = put_fields(o + mask_bytes(b->slots), mask, &fields, &filled, b, image, nulls))) return NULL;
    bool same = null_bytes == b->null_bytes && same_bytes(nulls, b->nulls, null_bytes);
    if (same && fields == filled) {
        mask[0] |= 1;
    } else {
        o = bsi_varint_put(o, fields);
        o = bsi_varint_put(o, null_bytes);
        memcpy(o, nulls, null_bytes);
        o += null_bytes;
    }
    b->nulls = nulls;
    b->null_bytes = null_bytes;
    memcpy(at, mask, mask_bytes(b->slots));
    return o;
}

static void make_room(bsi_buf *out, uint32_t slots, uint32_t count, const uint32_t *image_off) {
    bsi_buf_reserve(out, image_off[count] - image_off[0] + (size_t)count * (mask_bytes(slots) + slots + 24) + BSI_RESIDUAL_MARGIN);
}

bool bsi_residual_put(bsi_buf *out, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body) {
    row_before b;
    size_t was = out->len;
    if (slots > BSI_RESIDUAL_SLOTS) return false;
    make_room(out, slots, count, image_off);
    for (uint32_t i = 0; i < slots; i++) b.field[i] = empty;
    b.nulls = empty;
    b.null_bytes = 1;
    b.slots = slots;
    uint8_t *o = out->data + was;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = image_off[i + 1] - image_off[i];
        if (bytes > BSI_RESIDUAL_ROW_BYTES || !(o = put_row(o, &b, images + image_off[i], body[i], bytes))) return false;
    }
    out->len = (size_t)(o - out->data);
    return true;
}

static atomic_int chosen = -1; /* of core/cpu.h */

void bsi_store_use_isa(int isa) { atomic_store(&chosen, bsi_cpu_within(isa)); }

/* NULL: not on this machine, or not that simple. */
static const uint8_t *put_simple(bsi_buf *out, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body,
                                 const bsi_row_starts *starts, uint32_t *ends) {
#if defined(__x86_64__)
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa < 0) atomic_store(&chosen, isa = bsi_cpu_best());
    if (isa != BSI_CPU_VBMI2) return NULL;
    make_room(out, slots, count, image_off);
    return bsi_residual_rows_vbmi2(out->data + out->len, slots, count, images, image_off, body, starts, ends);
#else
    (void)out, (void)slots, (void)count, (void)images, (void)image_off, (void)body, (void)starts, (void)ends;
    return NULL;
#endif
}

bool bsi_residual_put_simple(bsi_buf *out, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body,
                             const bsi_row_starts *starts) {
    const uint8_t *end = put_simple(out, slots, count, images, image_off, body, starts, NULL);
    if (end) out->len = (size_t)(end - out->data);
    return end != NULL;
}

/* ---- reading ---- */

typedef struct rebuild {
    bsi_buf *out;               /* byte 0 is an empty field, and nulls: none */
    const uint8_t *p, *end;     /* what is left of the residual */
    uint32_t slots;
    uint32_t nulls, null_bytes; /* of the row before: offset in out */
    uint32_t row_bytes;         /* of the row before */
    uint32_t field[BSI_RESIDUAL_SLOTS];
} rebuild;

/* All slots, the empty ones at the end as well. */
static uint8_t *get_fields(rebuild *r, uint8_t *o, const uint8_t *mask, uint32_t *filled) {
    uint8_t *base = r->out->data;
    const uint8_t *in = r->p;
    uint32_t last = 0;
    for (uint32_t i = 0; i < r->slots; i++) {
        bool same = mask[(i + 1) >> 3] >> ((i + 1) & 7) & 1;
        const uint8_t *from = same ? base + r->field[i] : in;
        size_t n = from[0] + 1u;
        if (n <= AT_ONCE) {
            copy_16(o, from);
        } else {
            n = long_field(from, same ? o : r->end);
            if (!n) return NULL;
            for (size_t k = 0; k < n; k += AT_ONCE) copy_16(o + k, from + k);
        }
        last = from[0] ? i + 1 : last;
        r->field[i] = (uint32_t)(o - base);
        o += n;
        in += same ? 0 : n;
    }
    if (in > r->end) return NULL;
    r->p = in;
    *filled = last;
    return o;
}

static bool get_shape(rebuild *r, uint32_t *fields, uint32_t filled) {
    uint64_t n = 0, bytes = 0;
    if (!(r->p = bsi_varint_get(r->p, r->end, &n)) || !(r->p = bsi_varint_get(r->p, r->end, &bytes))) return false;
    if (n < filled || n > r->slots || bytes > (uint64_t)(r->end - r->p)) return false;
    *fields = (uint32_t)n;
    r->null_bytes = (uint32_t)bytes;
    return true;
}

/* What a row can take: the row before, what is left of the residual, and 16 bytes for each field that is read past its end. */
static bool room_for_row(rebuild *r) {
    size_t most = r->out->len + r->row_bytes + (size_t)(r->end - r->p) + BSI_RESIDUAL_MARGIN;
    if (most > UINT32_MAX / 2) return false;
    if (r->out->cap < most) bsi_buf_reserve(r->out, most - r->out->len);
    return true;
}

static bool get_row(rebuild *r, uint32_t *body) {
    size_t masks = mask_bytes(r->slots), start = r->out->len;
    if ((size_t)(r->end - r->p) < masks || !room_for_row(r)) return false;
    const uint8_t *mask = r->p;
    uint8_t *base = r->out->data, *o;
    uint32_t filled;
    r->p += masks;
    if (!(o = get_fields(r, base + start, mask, &filled))) return false;
    uint32_t fields = filled;
    const uint8_t *nulls = base + r->nulls;
    if (!(mask[0] & 1)) {
        if (!get_shape(r, &fields, filled)) return false;
        nulls = r->p;
        r->p += r->null_bytes;
    }
    o -= r->slots - fields; /* they are empty: one byte each */
    for (uint32_t i = fields; i < r->slots; i++) r->field[i] = 0;
    *body = (uint32_t)(o - base - (ptrdiff_t)start);
    r->nulls = (uint32_t)(o - base);
    memmove(o, nulls, r->null_bytes);
    r->out->len = r->nulls + r->null_bytes;
    r->row_bytes = (uint32_t)(r->out->len - start);
    return true;
}

/* *rest: bytes behind the last of them. */
static bool get_rows(size_t *rest, bsi_buf *out, uint32_t *image, uint32_t *body, uint32_t slots, uint32_t count, const uint8_t *p, const uint8_t *end) {
    rebuild r = {.out = out, .p = p, .end = end, .slots = slots, .null_bytes = 1, .row_bytes = slots};
    if (slots > BSI_RESIDUAL_SLOTS) return false;
    out->len = 0;
    bsi_buf_add(out, empty, AT_ONCE);
    for (uint32_t i = 0; i < count; i++) {
        image[i] = (uint32_t)out->len;
        if (!get_row(&r, &body[i])) return false;
    }
    image[count] = (uint32_t)out->len;
    *rest = (size_t)(r.end - r.p);
    return true;
}

bool bsi_residual_get(bsi_buf *out, uint32_t *image, uint32_t *body, uint32_t slots, uint32_t count, const uint8_t *p, const uint8_t *end) {
    size_t rest;
    return get_rows(&rest, out, image, body, slots, count, p, end) && rest < BSI_RESIDUAL_TAIL;
}

bool bsi_residual_front(bsi_buf *out, uint32_t *image, uint32_t *body, uint32_t slots, uint32_t count, uint32_t front, const uint8_t *p,
                        const uint8_t *end) {
    size_t rest;
    if (front >= count) return bsi_residual_get(out, image, body, slots, count, p, end);
    if (!get_rows(&rest, out, image, body, slots, front, p, end)) return false;
    for (uint32_t i = front; i < count; i++) {
        image[i + 1] = image[front];
        body[i] = 0;
    }
    return true;
}

/* ---- reading what differs ----
 *
 *   residual of a block   | r0 | r1 | r2 | r3 | r4 |
 *   of the rows now       | r0 | r1 | x2 | y3 | r4 |     x2 has other values; y3 says other things since it follows x2
 *
 * What stands there is a function of a row and the one before. So while both are the same, rows are the same and need not be made. r2
 * is made from the row before it, which is that of now; and the rows behind it until one is as it is now. */

/* The rows from i on follow row i - 1 of now. */
static bool follow(rebuild *r, const bsi_rows *now, uint32_t i) {
    memset(r->field, 0, r->slots * sizeof *r->field);
    r->nulls = 0;
    r->null_bytes = 1;
    r->row_bytes = r->slots;
    if (!i) return true;
    const uint8_t *p = now->enc.data + now->image[i - 1];
    uint32_t bytes = now->image[i] - now->image[i - 1], body = now->body[i - 1], n = 0, start = (uint32_t)r->out->len;
    if (start + (uint64_t)bytes > UINT32_MAX / 2) return false;
    bsi_buf_add(r->out, p, bytes);
    for (uint32_t at = 0; at < body && n < r->slots; n++) {
        size_t field = long_field(p + at, p + body);
        if (!field) return false;
        r->field[n] = start + at;
        at += (uint32_t)field;
    }
    r->nulls = start + body;
    r->null_bytes = bytes - body;
    r->row_bytes = bytes;
    return true;
}

static bool is_now(const rebuild *r, uint32_t image, uint32_t body, const bsi_rows *now, uint32_t i) {
    uint32_t bytes = now->image[i + 1] - now->image[i];
    return r->out->len - image == bytes && body == now->body[i] && memcmp(r->out->data + image, now->enc.data + now->image[i], bytes) == 0;
}

bool bsi_residual_unlike(bsi_buf *out, uint32_t *image, uint32_t *body, uint64_t *unlike, bsi_buf *made, uint32_t slots, const bsi_rows *now,
                         const uint8_t *p, const uint8_t *end) {
    enum { MOST = 64 };
    uint32_t ends[MOST], count = now->count;
    made->len = 0;
    if (!count || count > MOST || slots > BSI_RESIDUAL_SLOTS) return false;
    if (!put_simple(made, slots, count, now->enc.data, now->image, now->body, now->starts, ends)) return false;
    rebuild r = {.out = out, .p = p, .end = end, .slots = slots};
    *unlike = 0;
    out->len = 0;
    bsi_buf_add(out, empty, AT_ONCE);
    for (uint32_t i = 0; i < count;) {
        uint32_t from = i ? ends[i - 1] : 0, n = ends[i] - from;
        image[i] = (uint32_t)out->len;
        body[i] = now->body[i];
        if ((size_t)(end - r.p) >= n && memcmp(r.p, made->data + from, n) == 0) {
            r.p += n;
            i++;
            continue;
        }
        if (!follow(&r, now, i)) return false;
        for (bool same = false; i < count && !same; i++) {
            image[i] = (uint32_t)out->len;
            if (!get_row(&r, &body[i])) return false;
            same = is_now(&r, image[i], body[i], now, i);
            *unlike |= (uint64_t)!same << i;
        }
    }
    image[count] = (uint32_t)out->len;
    return (size_t)(r.end - r.p) < BSI_RESIDUAL_TAIL;
}
