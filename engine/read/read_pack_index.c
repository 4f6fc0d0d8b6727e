/* read/read_pack_index.c - the index of a pack to bytes and back; FORMAT.md says which byte stands where.
 *
 * Digests stand apart from sizes: they are compared in place, sixteen bytes a block, and the varints of the sizes stay
 * small (about three bytes a block). Everything is checked when it is read, so that whoever walks the blocks later
 * needs no checks: sums that must agree, flags that must be known, varints that must end.
 */
#include "flow/block.h"
#include "flow/pack.h"

#define SKIPPABLE "\x5E\x2A\x4D\x18" /* 0x184D2A5E */
#define FIXED_BYTES 56u
#define HEAD_TEXT "bspack"
#define FOOT_TEXT "\nbspack\n"
#define BLOCK_FLAGS (BSI_CUT_AT_END | BSI_CUT_NO_LINE_END | BSI_CUT_LONE_CR)

static void put(uint8_t *p, uint64_t v, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static bsi_hash128 get_hash(const uint8_t *p) {
    return (bsi_hash128){get(p, 8), get(p + 8, 8)};
}

/* ---- writing ---- */

void bsi_pack_add_block(bsi_pack_writer *w, const bsi_pack_block *b) {
    uint8_t hash[16];
    put(hash, b->plain.lo, 8);
    put(hash + 8, b->plain.hi, 8);
    bsi_buf_add(&w->digest, hash, sizeof hash);
    bool more = b->blanks || b->flags;
    bsi_buf_varint(&w->size, b->bytes);
    bsi_buf_varint(&w->size, (uint64_t)b->records << 1 | more);
    if (more) {
        bsi_buf_varint(&w->size, b->blanks);
        bsi_buf_varint(&w->size, b->flags);
    }
    w->records += b->records;
    w->block_count++;
}

void bsi_pack_add_frame(bsi_pack_writer *w, uint64_t bytes, uint64_t content, uint64_t blocks) {
    bsi_buf_varint(&w->frame, bytes);
    bsi_buf_varint(&w->frame, content);
    bsi_buf_varint(&w->frame, blocks);
    w->content_bytes += content;
    w->frame_count++;
}

void bsi_pack_writer_release(bsi_pack_writer *w) {
    bsi_buf_free(&w->digest);
    bsi_buf_free(&w->size);
    bsi_buf_free(&w->frame);
}

void bsi_pack_head(uint8_t out[BSI_PACK_HEAD_BYTES]) {
    memcpy(out, SKIPPABLE, 4);
    put(out + 4, BSI_PACK_HEAD_BYTES - 8, 4);
    memcpy(out + 8, HEAD_TEXT, 6);
    put(out + 14, BSI_PACK_VERSION, 2);
}

bomsync_status bsi_pack_tail(bsi_buf *out, const bsi_pack_writer *w, bomsync_error *err) {
    uint64_t index = FIXED_BYTES + (uint64_t)w->digest.len + w->frame.len + w->size.len;
    if (index + BSI_PACK_FOOTER_BYTES > UINT32_MAX) {
        bsi_fail(err, BOMSYNC_E_REFUSED, "the index of the pack would be larger than 4 GB");
        bsi_hint(err, "pack the snapshot in several files, or with larger --block-records");
        return BOMSYNC_E_REFUSED;
    }
    uint8_t fixed[FIXED_BYTES] = {(uint8_t)w->delimiter, (uint8_t)w->quote, w->transcoded};
    put(fixed + 4, w->block_size.records, 4);
    put(fixed + 8, BSI_CUT_RULE, 4);
    put(fixed + 12, w->block_size.least, 4);
    put(fixed + 16, w->content_bytes, 8);
    put(fixed + 24, w->header_bytes, 8);
    put(fixed + 32, w->records, 8);
    put(fixed + 40, w->frame_count, 8);
    put(fixed + 48, w->block_count, 8);
    out->len = 0;
    uint8_t frame[8];
    memcpy(frame, SKIPPABLE, 4);
    put(frame + 4, index + BSI_PACK_FOOTER_BYTES, 4);
    bsi_buf_add(out, frame, sizeof frame);
    bsi_buf_add(out, fixed, sizeof fixed);
    bsi_buf_add(out, w->digest.data, w->digest.len);
    bsi_buf_add(out, w->frame.data, w->frame.len);
    bsi_buf_add(out, w->size.data, w->size.len);
    bsi_hash128 h = bsi_xxh128(out->data + 8, index);
    uint8_t foot[BSI_PACK_FOOTER_BYTES] = {0};
    put(foot, index, 8);
    put(foot + 8, h.lo, 8);
    put(foot + 16, h.hi, 8);
    put(foot + 24, BSI_PACK_VERSION, 4);
    memcpy(foot + 32, FOOT_TEXT, 8);
    bsi_buf_add(out, foot, sizeof foot);
    return BOMSYNC_OK;
}

/* ---- reading ---- */

bool bsi_pack_is_head(const uint8_t *p, size_t n) {
    return n >= BSI_PACK_HEAD_BYTES && memcmp(p, SKIPPABLE "\x08\0\0\0" HEAD_TEXT, 14) == 0;
}

bool bsi_pack_footer(uint64_t *index_bytes, const uint8_t p[BSI_PACK_FOOTER_BYTES]) {
    *index_bytes = get(p, 8);
    return memcmp(p + 32, FOOT_TEXT, 8) == 0;
}

bool bsi_pack_is_tail(const uint8_t p[8], uint64_t index_bytes) {
    return memcmp(p, SKIPPABLE, 4) == 0 && get(p + 4, 4) == index_bytes + BSI_PACK_FOOTER_BYTES;
}

/* The next block, unchecked but for the end of the index. */
static const uint8_t *get_block(const bsi_pack *k, const uint8_t *p, uint64_t *bytes, uint64_t *records, uint64_t *blanks,
                                uint64_t *flags) {
    *blanks = *flags = 0;
    if (!(p = bsi_varint_get(p, k->index_end, bytes)) || !(p = bsi_varint_get(p, k->index_end, records))) return NULL;
    bool more = *records & 1;
    *records >>= 1;
    if (more && (!(p = bsi_varint_get(p, k->index_end, blanks)) || !(p = bsi_varint_get(p, k->index_end, flags)))) return NULL;
    return p;
}

bool bsi_pack_next(bsi_pack_walk *w, bsi_pack_block *b) {
    const bsi_pack *k = w->pack;
    if (w->next == k->block_count) return false;
    if (!w->at) {
        w->at = k->size;
        w->offset = k->header_bytes;
    }
    uint64_t bytes, records, blanks, flags;
    w->at = get_block(k, w->at, &bytes, &records, &blanks, &flags);
    *b = (bsi_pack_block){.offset = w->offset, .plain = get_hash(k->digest + 16 * w->next), .bytes = (uint32_t)bytes,
                          .records = (uint32_t)records, .blanks = (uint32_t)blanks, .flags = (uint32_t)flags};
    w->offset += bytes;
    w->next++;
    return true;
}

/* The frames tile the file from its head to `at`, and the content. Returns what follows them. */
static const uint8_t *check_frames(bsi_pack *k, const uint8_t *p, uint64_t at) {
    uint64_t place = BSI_PACK_HEAD_BYTES, content_at = 0, blocks_left = k->block_count;
    k->frame = bsi_alloc((k->frame_count + 1) * sizeof *k->frame);
    for (size_t i = 0; i < k->frame_count; i++) {
        uint64_t bytes, content, blocks;
        if (!(p = bsi_varint_get(p, k->index_end, &bytes)) || !(p = bsi_varint_get(p, k->index_end, &content)) ||
            !(p = bsi_varint_get(p, k->index_end, &blocks)))
            return NULL;
        if (!bytes || bytes > at - place || bytes > 2 * BSI_PACK_FRAME_BYTES_MAX || !content || content > BSI_PACK_FRAME_BYTES_MAX || blocks > blocks_left) return NULL;
        bool header = i == 0;
        if (header != (blocks == 0) || (header && content != k->header_bytes)) return NULL;
        k->frame[i] = (bsi_pack_frame){.at = place, .content_at = content_at, .bytes = (uint32_t)bytes, .content = (uint32_t)content,
                                       .blocks = (uint32_t)blocks};
        place += bytes;
        content_at += content;
        blocks_left -= blocks;
    }
    bool whole = place == at && content_at == k->content_bytes && !blocks_left && (k->frame_count || !k->header_bytes);
    return whole ? p : NULL;
}

/* The blocks tile their frames, and make up the totals. */
static bool check_blocks(const bsi_pack *k) {
    const uint8_t *p = k->size;
    uint64_t records_all = 0;
    for (size_t f = 0; f < k->frame_count; f++) {
        uint64_t left = f ? k->frame[f].content : 0;
        for (uint32_t i = 0; i < k->frame[f].blocks; i++) {
            uint64_t bytes, records, blanks, flags;
            if (!(p = get_block(k, p, &bytes, &records, &blanks, &flags))) return false;
            bool last = f + 1 == k->frame_count && i + 1 == k->frame[f].blocks;
            if (!bytes || bytes > left || records > bytes || blanks > bytes || (flags & ~(uint64_t)BLOCK_FLAGS)) return false;
            if ((flags & (BSI_CUT_AT_END | BSI_CUT_NO_LINE_END)) && !last) return false;
            left -= bytes;
            records_all += records;
        }
        if (left) return false;
    }
    return p == k->index_end && records_all == k->records;
}

bsi_pack *bsi_pack_read(uint8_t *index, size_t index_bytes, uint64_t at) {
    bsi_pack *k = bsi_calloc(1, sizeof *k);
    k->index = index;
    const uint8_t *foot = index + index_bytes;
    bool known = index_bytes >= FIXED_BYTES && get(foot, 8) == index_bytes && get(foot + 24, 4) == BSI_PACK_VERSION &&
                 bsi_hash128_eq(get_hash(foot + 8), bsi_xxh128(index, index_bytes)) && get(index + 8, 4) == BSI_CUT_RULE;
    if (!known) {
        bsi_pack_free(k);
        return NULL;
    }
    k->delimiter = (char)index[0];
    k->quote = (char)index[1];
    k->transcoded = index[2] & 1;
    k->block_size = (bsi_block_size){(uint32_t)get(index + 4, 4), (uint32_t)get(index + 12, 4)};
    if (!k->block_size.least) k->block_size = bsi_block_size_unsaid(k->block_size.records);
    k->content_bytes = get(index + 16, 8);
    k->header_bytes = get(index + 24, 8);
    k->records = get(index + 32, 8);
    k->frame_count = get(index + 40, 8);
    k->block_count = get(index + 48, 8);
    k->index_end = foot;
    k->digest = index + FIXED_BYTES;
    uint64_t room = index_bytes - FIXED_BYTES; /* two bytes a block and three a frame at least: bounds both counts */
    bool fits = k->block_count <= room / 18 && k->frame_count <= room / 3;
    if (fits) k->size = check_frames(k, k->digest + 16 * k->block_count, at);
    if (!fits || !k->size || !check_blocks(k)) {
        bsi_pack_free(k);
        return NULL;
    }
    return k;
}

void bsi_pack_free(bsi_pack *p) {
    if (!p) return;
    free(p->index);
    free(p->frame);
    free(p);
}
