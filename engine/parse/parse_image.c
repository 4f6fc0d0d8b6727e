/* parse/parse_image.c - row images: fields in, fields out.
 *
 *   fields  "A", "", null, "7", null        key_count 1, 5 slots
 *   body    01 A  00  00  01 7               the empty tail is left off
 *   nulls   02 02 04                         two of them: slots 2 and 4
 */
#include "parse/parse_inner.h"

uint32_t bsi_image_build(bsi_buf *b, const bsi_field *f, uint32_t slot_count, uint32_t key_count, uint32_t *key_bytes) {
    size_t start = b->len, nulls = 0;
    uint32_t last = key_count;
    *key_bytes = 0;
    for (uint32_t i = 0; i < slot_count; i++) {
        if (f[i].len && i >= last) last = i + 1;
        nulls += f[i].null && !f[i].len;
    }
    for (uint32_t i = 0; i < last; i++) {
        if (i == key_count) *key_bytes = (uint32_t)(b->len - start);
        bsi_buf_lstr(b, f[i].p, f[i].len);
    }
    if (last == key_count) *key_bytes = (uint32_t)(b->len - start);
    uint32_t body = (uint32_t)(b->len - start);
    bsi_buf_varint(b, nulls);
    for (uint32_t i = 0; i < slot_count && nulls; i++)
        if (f[i].null && !f[i].len) bsi_buf_varint(b, i);
    return body;
}

/* Most lengths are one byte: the loop is short, since each record that is told anew goes through it. */
static bool read_body(bsi_field *out, uint32_t slot_count, const uint8_t *p, const uint8_t *end, uint32_t made_with) {
    uint32_t slot = 0, wanted = BSI_MIN(slot_count, made_with);
    for (; p < end; slot++) {
        uint64_t len = *p++;
        if (__builtin_expect(len >= 128, 0)) {
            p = bsi_varint_get(p - 1, end, &len);
            if (!p) return false;
        }
        if (__builtin_expect(len > (uint64_t)(end - p), 0)) return false;
        if (__builtin_expect(slot >= wanted, 0)) {
            if (slot >= made_with) return false;
        } else {
            out[slot] = (bsi_field){p, (uint32_t)len, false};
        }
        p += len;
    }
    for (; slot < slot_count; slot++) out[slot] = (bsi_field){end, 0, slot >= made_with};
    return true;
}

bool bsi_image_fields(bsi_field *out, uint32_t slot_count, const uint8_t *image, uint32_t body_bytes, uint32_t image_bytes,
                      uint32_t made_with) {
    if (body_bytes > image_bytes || !read_body(out, slot_count, image, image + body_bytes, made_with)) return false;
    const uint8_t *p = image + body_bytes, *end = image + image_bytes;
    uint64_t count, slot, next = 0;
    p = bsi_varint_get(p, end, &count);
    for (uint64_t i = 0; p && i < count; i++) {
        p = bsi_varint_get(p, end, &slot);
        if (!p || slot < next || slot >= made_with) return false;
        next = slot + 1;
        if (slot >= slot_count) continue;
        if (out[slot].len) return false;
        out[slot].null = true;
    }
    return p == end;
}
