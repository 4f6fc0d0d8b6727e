/* store/store_blocks.c - blocks of row images in segments: written once, found by ref. Reading: store_read.c.
 *
 *   ref = segment << 9 | index           a segment: up to 256 blocks of one writer and one kind, two LMDB values under one id
 *
 *   data:  head ─ directory ─ block ─ block ─ ...    each coded for itself with the feed's dictionary
 *       or head ─ directory ─ group ─ group ─ ...    a group: a few blocks in one zstd frame
 *   rows:  head ─ counts ─ checksums ─ block ─ block ...   a block: kh[count] rh[count], 8-aligned, used where it lies
 *
 * Payloads, after the head of every value; little endian, checked: the checksum of the value covers so many bytes:
 *
 *   data   u32 checked   u32 slots   u32 blocks   u32 groups, 0: coded
 *          coded:        u8 kind   varint dictionary; each block: varint records   varint its bytes   u32 check of them
 *          each group:   u8 kind   varint blocks   varint packed bytes   u32 check of the packed bytes
 *                        each of its blocks: varint records   varint bytes of its raw form
 *          (checked ends here) coded blocks, or packed groups, one behind the other
 *   rows   u32 checked   u32 blocks   u32 words of all blocks   u32 kind, its low bit
 *          u16 count[blocks]   u32 check[blocks]   zeros to a multiple of 8
 *          (checked ends here) blocks, in words of 8 bytes
 *
 *   kind 0, whole blocks
 *          raw form      each record: varint body bytes, varint null bytes; then the row images back to back
 *          rows          u64 kh[count]   u64 rh[count]
 *   kind 1, patches: a block that is another one (whole, in another segment) with some rows replaced
 *          raw form      varint base ref   varint n   varint row[n] (from the second on: less the one before)
 *                        each of the n: varint body bytes, varint null bytes; then the n row images back to back
 *                        records in the directory: those of the block as it is read
 *          rows          count: n   u64 base ref   u32 records   u32 n   u64 kh[n]   u64 rh[n]   u16 row[n], zeros to a word
 *
 *   kind 2, whole blocks, coded            their residual (store_residual.c) as symbols (store_symbols.c)
 *   kind 3, patches, coded                 the same of: varint base ref, varint n, varint row[n], residual of the n rows
 *
 * check of packed bytes, or of a block of rows: XXH3-64, exclusive or (segment << 9 | 256 + group, or the block's index)
 * times 0x9E3779B97F4A7C15, folded to 32 bits.
 *
 * Decisions. A feed gets a dictionary once a run writes enough to learn one from (run/sync_symbols.c). What it cannot code
 * (more than 256 slots, rows above 64 kB) goes into groups of zstd beside, as does all of a feed that has none. Of lines of 98
 * bytes coded blocks take 0.245 of the raw bytes and a third of the time, and reading one block reads that block.
 *
 * Groups. Single LMDB values per block cost 110 ms per 10,000; segments 4 ms. Of lines of 98 bytes, groups of 4 blocks
 * at level 1 take 0.349 of the raw bytes, groups of 8 0.319 and a seventh less time, groups of 16 0.310 and no less; single
 * blocks with a 32 kB dictionary were larger than groups of 4 and took twice the time. A reader that wants one block unpacks
 * its group; a sync does so once for each (block cache, run/changes.h). Negative levels take 0.41.
 * Frames have no magic, no size and no checksum of their own: the directory has them.
 *
 * Patches. One row that changes in a block of sixteen would write sixteen. A patch has only the rows that differ from the
 * whole block below it, up to a quarter of them; with more, a whole block is written. A patch is never made over a patch: the
 * two become one over the same whole block, so a reader looks at two blocks at most. Patches are tiny: a group of them
 * ends by its bytes alone, and a writer has a segment of its own for them.
 */
#include "store/store_inner.h"

#define ZSTD_LEVEL 1
#define ZSTD_MIN_MATCH 6 /* instead of 5: 4 % faster, 3 % larger; compression is more than half of a first load */
static_assert(BSI_SEGMENT_BLOCKS <= 1 << BSI_REF_BITS, "an index fits into a ref");

uint32_t bsi_block_check(const void *p, size_t n, uint64_t segment, uint32_t index) {
    uint64_t h = bsi_xxh64(p, n) ^ (segment << BSI_REF_BITS | index) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(h ^ h >> 32);
}

/* ---- segments being filled ---- */

typedef struct fill { /* a segment of one kind */
    uint32_t kind;
    uint64_t segment;
    /* the group being filled, and its part of the directory; of coded kinds: residuals that wait to be coded side by side */
    bsi_buf raw, sizes;
    uint32_t group_blocks;
    uint32_t start[BSI_STORE_CODE_BLOCKS], end[BSI_STORE_CODE_BLOCKS], records[BSI_STORE_CODE_BLOCKS]; /* in raw */
    uint32_t blocks, groups;
    bsi_buf dir, packed, counts, checks, hashes;
} fill;

struct bsi_block_writer {
    bsi_store *s;
    uint32_t slot_count;
    ZSTD_CCtx *cctx; /* made when it is needed */
    uint64_t dictionary;
    const bsi_symbols *symbols; /* NULL: nothing is coded */
    fill fill[BSI_KINDS];
    bsi_buf copy, codes; /* images with a margin; coded blocks before they are put together */
    bsi_buf head;        /* what stands in a patch before its rows */
    /* of patches: what they are over, and what they are made of */
    uint64_t base_segment; /* what was looked up last, and */
    uint32_t base_slots;   /* its slots */
    bsi_ref matched;       /* what bsi_block_writer_match was asked about last: data holds it */
    bsi_block_data data;
    bsi_buf enc;
    uint32_t *row, *off, *body;
    uint64_t *kh, *rh;
};

static bool is_coded(const fill *f) { return f->kind >= BSI_KIND_CODED; }

static size_t set(ZSTD_CCtx *c, ZSTD_cParameter p, int v) { return ZSTD_CCtx_setParameter(c, p, v); }
#define MAGICLESS 1 /* ZSTD_f_zstd1_magicless */
#define C_FORMAT ZSTD_c_experimentalParam2

bool bsi_frames_set_up(ZSTD_CCtx *c) {
    return c && !ZSTD_isError(set(c, ZSTD_c_compressionLevel, ZSTD_LEVEL)) && !ZSTD_isError(set(c, ZSTD_c_minMatch, ZSTD_MIN_MATCH)) &&
           !ZSTD_isError(set(c, C_FORMAT, MAGICLESS)) && !ZSTD_isError(set(c, ZSTD_c_contentSizeFlag, 0)) && !ZSTD_isError(set(c, ZSTD_c_checksumFlag, 0));
}

static void start_segment(bsi_block_writer *w, fill *f) {
    f->segment = atomic_fetch_add(&w->s->next_segment, 1);
    f->blocks = f->groups = 0;
    f->dir.len = f->packed.len = f->counts.len = f->checks.len = f->hashes.len = 0;
    if (!is_coded(f)) return;
    bsi_buf_byte(&f->dir, (uint8_t)f->kind);
    bsi_buf_varint(&f->dir, w->dictionary);
}

bomsync_status bsi_block_writer_open(bsi_block_writer **out, bsi_store *s, uint32_t slot_count, uint64_t dictionary, bomsync_error *err) {
    const bsi_symbols *symbols = NULL;
    *out = NULL;
    bool coded = dictionary && dictionary != BSI_DICT_FRAMES;
    bomsync_status st = coded ? bsi_dict_get(&symbols, s, dictionary, true, err) : BOMSYNC_OK;
    if (st) return st;
    bsi_block_writer *w = bsi_calloc(1, sizeof *w);
    w->s = s;
    w->slot_count = slot_count;
    w->dictionary = dictionary;
    w->symbols = symbols;
    for (uint32_t k = 0; k < BSI_KINDS; k++) w->fill[k].kind = k;
    *out = w;
    return BOMSYNC_OK;
}

static bomsync_status pack_group(bsi_block_writer *w, fill *f, bomsync_error *err) {
    size_t bound = ZSTD_compressBound(f->raw.len);
    if (!w->cctx && !bsi_frames_set_up(w->cctx = ZSTD_createCCtx())) return bsi_fail(err, BOMSYNC_E_SPACE, "out of memory for compression");
    bsi_buf_reserve(&f->packed, bound);
    uint8_t *to = f->packed.data + f->packed.len;
    size_t n = ZSTD_compress2(w->cctx, to, bound, f->raw.data, f->raw.len);
    if (ZSTD_isError(n)) return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress a block: %s", ZSTD_getErrorName(n));
    uint32_t check = bsi_block_check(to, n, f->segment, BSI_SEGMENT_BLOCKS + f->groups);
    bsi_buf_byte(&f->dir, (uint8_t)f->kind);
    bsi_buf_varint(&f->dir, f->group_blocks);
    bsi_buf_varint(&f->dir, n);
    bsi_buf_add(&f->dir, &check, 4);
    bsi_buf_add(&f->dir, f->sizes.data, f->sizes.len);
    f->packed.len += n;
    f->groups++;
    return BOMSYNC_OK;
}

/* Each is coded to where it has room in any case, then put behind the one before. */
static void code_group(bsi_block_writer *w, fill *f) {
    bsi_symbol_part part[BSI_STORE_CODE_BLOCKS];
    uint8_t *start[BSI_STORE_CODE_BLOCKS] = {0};
    w->codes.len = 0;
    bsi_buf_reserve(&w->codes, 2 * f->raw.len + 16 * BSI_STORE_CODE_BLOCKS);
    uint8_t *to = w->codes.data;
    for (uint32_t i = 0; i < f->group_blocks; i++) {
        part[i] = (bsi_symbol_part){f->raw.data + f->start[i], f->raw.data + f->end[i], start[i] = to};
        to += bsi_symbols_bound(f->end[i] - f->start[i]);
    }
    bsi_symbols_encode(w->symbols, part, f->group_blocks);
    for (uint32_t i = 0; i < f->group_blocks; i++) {
        size_t n = (size_t)(part[i].out - start[i]);
        uint32_t check = bsi_block_check(start[i], n, f->segment, BSI_SEGMENT_BLOCKS + f->groups++);
        bsi_buf_varint(&f->dir, f->records[i]);
        bsi_buf_varint(&f->dir, n);
        bsi_buf_add(&f->dir, &check, 4);
        bsi_buf_add(&f->packed, start[i], n);
    }
}

static bomsync_status end_group(bsi_block_writer *w, fill *f, bomsync_error *err) {
    if (!f->group_blocks) return BOMSYNC_OK;
    bomsync_status st = BOMSYNC_OK;
    if (is_coded(f)) code_group(w, f);
    else st = pack_group(w, f, err);
    f->group_blocks = 0;
    f->raw.len = f->sizes.len = 0;
    return st;
}

static bomsync_status seal_data(bsi_buf *b, const fill *f, uint32_t slot_count, bomsync_error *err) {
    size_t checked = BSI_DATA_HEAD + f->dir.len;
    const uint32_t head[BSI_DATA_HEAD / 4] = {(uint32_t)checked, slot_count, f->blocks, is_coded(f) ? 0 : f->groups};
    bsi_buf_reserve(b, BSI_VALUE_HEAD + checked + f->packed.len + 8);
    bsi_value_start(b);
    bsi_buf_add(b, head, sizeof head);
    bsi_buf_add(b, f->dir.data, f->dir.len);
    bsi_buf_add(b, f->packed.data, f->packed.len);
    return bsi_value_seal(b, BSI_DB_DATA, bsi_key_id(&f->segment), checked, err);
}

static const uint8_t zeros[BSI_RESIDUAL_TAIL];

static bomsync_status seal_rows(bsi_buf *b, const fill *f, bomsync_error *err) {
    size_t checked = bsi_pad8(BSI_ROWS_HEAD + f->counts.len + f->checks.len);
    const uint32_t head[BSI_ROWS_HEAD / 4] = {(uint32_t)checked, f->blocks, (uint32_t)(f->hashes.len / 8), f->kind & BSI_KIND_PATCH};
    bsi_buf_reserve(b, BSI_VALUE_HEAD + checked + f->hashes.len);
    bsi_value_start(b);
    bsi_buf_add(b, head, sizeof head);
    bsi_buf_add(b, f->counts.data, f->counts.len);
    bsi_buf_add(b, f->checks.data, f->checks.len);
    bsi_buf_add(b, zeros, BSI_VALUE_HEAD + checked - b->len);
    bsi_buf_add(b, f->hashes.data, f->hashes.len);
    return bsi_value_seal(b, BSI_DB_ROWS, bsi_key_id(&f->segment), checked, err);
}

static bomsync_status end_segment(bsi_block_writer *w, fill *f, bomsync_error *err) {
    if (!f->blocks) return BOMSYNC_OK;
    bomsync_status st = end_group(w, f, err);
    if (st) return st;
    bsi_job *job = bsi_calloc(1, sizeof *job);
    job->id = f->segment;
    st = seal_data(&job->data, f, w->slot_count, err);
    if (!st) st = seal_rows(&job->rows, f, err);
    f->blocks = 0;
    if (!st) return bsi_shard_put(w->s, job, err);
    bsi_buf_free(&job->data);
    bsi_buf_free(&job->rows);
    free(job);
    return st;
}

/* Sizes of row images as varints, then the images. */
void bsi_raw_images(bsi_buf *raw, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body) {
    size_t bytes = image_off[count] - image_off[0];
    bsi_buf_reserve(raw, bytes + (size_t)count * 20);
    uint8_t *to = raw->data + raw->len;
    for (uint32_t i = 0; i < count; i++) {
        to = bsi_varint_put(to, body[i]);
        to = bsi_varint_put(to, image_off[i + 1] - image_off[i] - body[i]);
    }
    memcpy(to, images + image_off[0], bytes);
    raw->len = (size_t)(to + bytes - raw->data);
}

/* What a group takes in: a few blocks of zstd, so many patches as fill a frame, as many
 * residuals as are coded side by side. */
static bool group_full(const fill *f) {
    if (is_coded(f)) return f->group_blocks == BSI_STORE_CODE_BLOCKS || f->raw.len >= BSI_STORE_CODE_BYTES;
    if (f->raw.len >= BSI_STORE_GROUP_BYTES) return true;
    return f->kind == BSI_KIND_WHOLE && f->group_blocks == BSI_STORE_GROUP_BLOCKS;
}

/* The block whose raw form and words of rows begin at these places is complete. */
static bomsync_status add_block(bsi_ref *ref, bsi_block_writer *w, fill *f, uint32_t records, size_t raw, uint32_t count, size_t hashes,
                                bomsync_error *err) {
    uint16_t n = (uint16_t)count;
    uint32_t check = bsi_block_check(f->hashes.data + hashes, f->hashes.len - hashes, f->segment, f->blocks);
    if (is_coded(f)) {
        f->start[f->group_blocks] = (uint32_t)raw;
        f->end[f->group_blocks] = (uint32_t)f->raw.len;
        f->records[f->group_blocks] = records;
        bsi_buf_add(&f->raw, zeros, BSI_RESIDUAL_TAIL);
    } else {
        bsi_buf_varint(&f->sizes, records);
        bsi_buf_varint(&f->sizes, f->raw.len - raw);
    }
    bsi_buf_add(&f->counts, &n, 2);
    bsi_buf_add(&f->checks, &check, 4);
    bsi_ref made = f->segment << BSI_REF_BITS | f->blocks;
    f->blocks++;
    f->group_blocks++;
    bomsync_status st = group_full(f) ? end_group(w, f, err) : BOMSYNC_OK;
    if (!st && (f->blocks == BSI_SEGMENT_BLOCKS || f->packed.len >= BSI_STORE_SEGMENT_BYTES || f->hashes.len >= BSI_STORE_SEGMENT_BYTES))
        st = end_segment(w, f, err);
    if (!st) *ref = made;
    return st;
}

/* The fill whose raw form ends with these rows from here on, after `head` of a patch: coded, if they can be. *raw: where it begins. */
static fill *add_rows(bsi_block_writer *w, bool patch, const bsi_buf *head, size_t *raw, uint32_t count, const uint8_t *images,
                      const uint32_t *image_off, const uint32_t *body, const bsi_row_starts *starts) {
    fill *f = &w->fill[patch ? BSI_KIND_CODED_PATCH : BSI_KIND_CODED];
    if (w->symbols && image_off[count] <= BSI_RESIDUAL_BLOCK_BYTES) {
        *raw = f->raw.len;
        bsi_buf_add(&f->raw, head->data, head->len);
        if (bsi_residual_put_simple(&f->raw, w->slot_count, count, images, image_off, body, starts)) return f;
        w->copy.len = 0;
        bsi_buf_add(&w->copy, images, image_off[count]);
        bsi_buf_add(&w->copy, zeros, BSI_RESIDUAL_TAIL);
        if (bsi_residual_put(&f->raw, w->slot_count, count, w->copy.data, image_off, body)) return f;
        f->raw.len = *raw;
    }
    f = &w->fill[patch ? BSI_KIND_PATCH : BSI_KIND_WHOLE];
    *raw = f->raw.len;
    bsi_buf_add(&f->raw, head->data, head->len);
    bsi_raw_images(&f->raw, count, images, image_off, body);
    return f;
}

static bomsync_status add_whole(bsi_ref *ref, bsi_block_writer *w, uint32_t count, const uint8_t *images, const uint32_t *image_off,
                                const uint32_t *body, const bsi_row_starts *starts, const uint64_t *kh, const uint64_t *rh, bomsync_error *err) {
    size_t raw;
    *ref = BSI_REF_NONE;
    if (!count || count > UINT16_MAX) return bsi_fail(err, BOMSYNC_E_USAGE, "a block cannot have %u records", count);
    fill *f = add_rows(w, false, &(bsi_buf){0}, &raw, count, images, image_off, body, starts);
    if (!f->blocks) start_segment(w, f);
    size_t hashes = f->hashes.len;
    bsi_buf_add(&f->hashes, kh, count * sizeof *kh);
    bsi_buf_add(&f->hashes, rh, count * sizeof *rh);
    return add_block(ref, w, f, count, raw, count, hashes, err);
}

bomsync_status bsi_block_writer_add(bsi_ref *ref, bsi_block_writer *w, uint32_t count, const uint8_t *images,
                                    const uint32_t *image_off, const uint32_t *body, const uint64_t *kh, const uint64_t *rh,
                                    bomsync_error *err) {
    return add_whole(ref, w, count, images, image_off, body, NULL, kh, rh, err);
}

bomsync_status bsi_block_writer_add_rows(bsi_ref *ref, bsi_block_writer *w, const bsi_rows *r, bomsync_error *err) {
    return add_whole(ref, w, r->count, r->enc.data, r->image, r->body, r->starts, r->kh, r->rh, err);
}

bomsync_status bsi_block_writer_close(bsi_block_writer *w, bomsync_error *err) {
    if (!w) return BOMSYNC_OK;
    bomsync_status st = BOMSYNC_OK;
    for (int k = 0; k < BSI_KINDS; k++) {
        bomsync_status ended = end_segment(w, &w->fill[k], st ? NULL : err);
        if (!st) st = ended;
    }
    ZSTD_freeCCtx(w->cctx);
    for (int k = 0; k < BSI_KINDS; k++) {
        fill *f = &w->fill[k];
        bsi_buf *const bufs[] = {&f->raw, &f->sizes, &f->dir, &f->packed, &f->counts, &f->checks, &f->hashes};
        for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) bsi_buf_free(bufs[i]);
    }
    bsi_block_data_free(&w->data);
    bsi_buf_free(&w->enc);
    bsi_buf_free(&w->copy);
    bsi_buf_free(&w->codes);
    bsi_buf_free(&w->head);
    void *const more[] = {w->row, w->off, w->body, w->kh, w->rh};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) free(more[i]);
    free(w);
    return st;
}

/* ---- patches ---- */

typedef struct rows_of { /* rows as the caller gives them, or as they are put together */
    uint32_t count;
    const uint32_t *row;
    const uint8_t *enc;
    const uint32_t *image, *body;
    const uint64_t *kh, *rh;
} rows_of;

static bomsync_status add_patch(bsi_ref *ref, bsi_block_writer *w, bsi_ref base, uint32_t records, const rows_of *p, bomsync_error *err) {
    size_t raw;
    bsi_buf *top = &w->head;
    top->len = 0;
    bsi_buf_varint(top, base);
    bsi_buf_varint(top, p->count);
    for (uint32_t i = 0, last = 0; i < p->count; last = p->row[i++]) bsi_buf_varint(top, p->row[i] - last);
    fill *f = add_rows(w, true, top, &raw, p->count, p->enc, p->image, p->body, NULL);
    if (!f->blocks) start_segment(w, f);
    size_t hashes = f->hashes.len;
    const uint32_t head[2] = {records, p->count};
    bsi_buf_add(&f->hashes, &base, sizeof base);
    bsi_buf_add(&f->hashes, head, sizeof head);
    bsi_buf_add(&f->hashes, p->kh, p->count * sizeof *p->kh);
    bsi_buf_add(&f->hashes, p->rh, p->count * sizeof *p->rh);
    for (uint32_t i = 0; i < p->count; i++) {
        uint16_t row = (uint16_t)p->row[i];
        bsi_buf_add(&f->hashes, &row, 2);
    }
    bsi_buf_add(&f->hashes, zeros, bsi_pad8(f->hashes.len) - f->hashes.len);
    return add_block(ref, w, f, records, raw, p->count, hashes, err);
}

static void patch_room(bsi_block_writer *w) {
    if (w->row) return;
    w->base_segment = UINT64_MAX;
    w->row = bsi_alloc(UINT16_MAX * sizeof *w->row);
    w->off = bsi_alloc((UINT16_MAX + 1) * sizeof *w->off);
    w->body = bsi_alloc(UINT16_MAX * sizeof *w->body);
    w->kh = bsi_alloc(UINT16_MAX * sizeof *w->kh);
    w->rh = bsi_alloc(UINT16_MAX * sizeof *w->rh);
}

/* Row n of what is put together: row `row` of its block. */
static void take(bsi_block_writer *w, uint32_t n, uint32_t row, const uint8_t *image, uint32_t bytes, uint32_t body, uint64_t kh, uint64_t rh) {
    w->row[n] = row;
    w->off[n] = (uint32_t)w->enc.len;
    w->body[n] = body;
    w->kh[n] = kh;
    w->rh[n] = rh;
    bsi_buf_add(&w->enc, image, bytes);
}

/* A row that stays is taken from the block as it was read. */
static void take_old(bsi_block_writer *w, uint32_t n, uint32_t row, uint64_t kh, uint64_t rh) {
    const bsi_block_data *d = &w->data;
    take(w, n, row, d->raw.data + d->image[row], d->image[row + 1] - d->image[row], d->body[row], kh, rh);
}

static void take_new(bsi_block_writer *w, uint32_t n, const rows_of *p, uint32_t i) {
    take(w, n, p->row[i], p->enc + p->image[i], p->image[i + 1] - p->image[i], p->body[i], p->kh[i], p->rh[i]);
}

static uint32_t rows_of_both(const bsi_patch *old, const rows_of *p) {
    uint32_t n = old->count + p->count;
    for (uint32_t i = 0, k = 0; i < old->count && k < p->count;) {
        if (old->row[i] == p->row[k]) n--, i++, k++;
        else if (old->row[i] < p->row[k]) i++;
        else k++;
    }
    return n;
}

/* Rows of a patch and those that come to it, in order. */
static void join_patches(bsi_block_writer *w, const bsi_patch *old, const rows_of *p) {
    uint32_t n = 0;
    for (uint32_t i = 0, k = 0; i < old->count || k < p->count; n++) {
        uint32_t a = i < old->count ? old->row[i] : UINT32_MAX, b = k < p->count ? p->row[k] : UINT32_MAX;
        if (b <= a) take_new(w, n, p, k++);
        else take_old(w, n, a, old->kh[i], old->rh[i]);
        if (a <= b) i++;
    }
    w->off[n] = (uint32_t)w->enc.len;
}

static void join_whole(bsi_block_writer *w, const bsi_block_rows *rows, const rows_of *p) {
    for (uint32_t i = 0, k = 0; i < rows->count; i++) {
        if (k < p->count && p->row[k] == i) take_new(w, i, p, k++);
        else take_old(w, i, i, rows->kh[i], rows->rh[i]);
    }
    w->off[rows->count] = (uint32_t)w->enc.len;
}

static bomsync_status check_patch(const bsi_block_writer *w, uint32_t records, uint32_t slots, const rows_of *p, bomsync_error *err) {
    if (slots != w->slot_count)
        return bsi_fail(err, BOMSYNC_E_USAGE, "a block of %u columns cannot be patched by rows of %u", slots, w->slot_count);
    for (uint32_t i = 0; i < p->count; i++)
        if (p->row[i] >= records || (i && p->row[i] <= p->row[i - 1]))
            return bsi_fail(err, BOMSYNC_E_USAGE, "the rows of a patch must ascend inside its block of %u", records);
    return BOMSYNC_OK;
}

/* The directory is not wanted: going through it takes longer than writing the patch. */
static bomsync_status base_slots(bsi_block_writer *w, bsi_ref base, bomsync_error *err) {
    uint64_t segment = base >> BSI_REF_BITS;
    if (w->base_segment == segment) return BOMSYNC_OK;
    bomsync_status st = bsi_segment_slots(&w->base_slots, w->s, segment, err);
    w->base_segment = st ? UINT64_MAX : segment;
    return st;
}

static bool stays_small(const bsi_patch *old, const rows_of *p) {
    return old->records <= BSI_PATCH_RECORDS && rows_of_both(old, p) <= old->records / 4;
}

/* Whole, or no more than the rows that a patch below replaces. */
static bomsync_status read_base(bsi_block_writer *w, bsi_ref base, uint32_t records, bool whole, bomsync_error *err) {
    bomsync_status st = bsi_store_front(&w->data, w->s, base, whole ? UINT32_MAX : 0, err);
    if (!st && w->data.count != records) st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "rows and data of a block have different counts");
    return st;
}

/* Its directory, and the block: of a few blocks here and there the hashes are as far away again, and hashes say no more than the rows do. */
bool bsi_block_writer_match(bsi_block_match *out, bsi_block_writer *w, bsi_ref base, const bsi_rows *now) {
    const bsi_block_data *d = &w->data;
    *out = (bsi_block_match){.old = d};
    if (!now->count || now->count > 64 || now->bad_count) return false;
    patch_room(w);
    if (bsi_store_unlike(&w->data, &out->unlike, w->s, base, w->slot_count, now, NULL)) return false;
    if (d->count != now->count || d->slot_count != w->slot_count) return false;
    for (uint64_t left = out->unlike; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(left), body = now->body[i], key = now->key[i];
        const uint8_t *p = now->enc.data + now->image[i], *q = d->raw.data + d->image[i];
        if (body == d->body[i] && memcmp(p, q, body) == 0) continue;
        if (d->body[i] < key || memcmp(p, q, key) != 0) return false;
        out->changed |= 1ull << i;
    }
    w->matched = base;
    uint64_t patched = out->changed | d->replaced, all = UINT64_MAX >> (64 - now->count);
    out->written = (uint32_t)__builtin_popcountll(patched) <= now->count / 4 ? patched : all;
    return true;
}

const bsi_block_data *bsi_block_writer_whole(bsi_block_writer *w, bsi_ref base) {
    w->matched = BSI_REF_NONE;
    return bsi_store_data(&w->data, w->s, base, NULL) ? NULL : &w->data;
}

bomsync_status bsi_block_writer_amend(bsi_ref *out, bsi_block_writer *w, const bsi_block_match *m, const uint8_t *enc, const uint32_t *image,
                                      const uint32_t *body, const bsi_rows *now, bomsync_error *err) {
    const bsi_block_data *d = &w->data;
    uint32_t n = 0, changed = 0;
    w->enc.len = 0;
    for (uint64_t left = m->written; left; left &= left - 1, n++) {
        uint32_t row = (uint32_t)__builtin_ctzll(left);
        uint64_t kh = now->kh[row], rh = now->rh[row];
        if (m->changed >> row & 1) {
            take(w, n, row, enc + image[changed], image[changed + 1] - image[changed], body[changed], kh, rh);
            changed++;
        } else if (m->unlike >> row & 1) {
            take_old(w, n, row, kh, rh);
        } else {
            take(w, n, row, now->enc.data + now->image[row], now->image[row + 1] - now->image[row], now->body[row], kh, rh);
        }
    }
    w->off[n] = (uint32_t)w->enc.len;
    if (n == d->count) return bsi_block_writer_add(out, w, n, w->enc.data, w->off, w->body, w->kh, w->rh, err);
    const rows_of p = {n, w->row, w->enc.data, w->off, w->body, w->kh, w->rh};
    return add_patch(out, w, d->below == BSI_REF_NONE ? w->matched : d->below, d->count, &p, err);
}

bomsync_status bsi_block_writer_patch(bsi_ref *out, bsi_block_writer *w, bsi_ref base, uint32_t count, const uint32_t *row,
                                      const uint8_t *enc, const uint32_t *image, const uint32_t *body, const uint64_t *kh,
                                      const uint64_t *rh, bomsync_error *err) {
    rows_of p = {count, row, enc, image, body, kh, rh};
    bsi_patch old;
    bsi_block_rows rows;
    *out = BSI_REF_NONE;
    patch_room(w);
    bsi_rows_view *view = bsi_rows_here();
    bomsync_status st = bsi_patch_get(&old, view, w->s, base, err);
    if (!st) st = base_slots(w, base, err);
    if (!st) st = check_patch(w, old.records, w->base_slots, &p, err);
    if (st) return st;
    if (!count) {
        *out = base;
        return BOMSYNC_OK;
    }
    bool small = stays_small(&old, &p);
    if (small && !old.count) return add_patch(out, w, base, old.records, &p, err);
    st = read_base(w, base, old.records, !small, err);
    if (st) return st;
    w->enc.len = 0;
    p = (rows_of){rows_of_both(&old, &p), w->row, NULL, w->off, w->body, w->kh, w->rh};
    const rows_of given = {count, row, enc, image, body, kh, rh};
    if (small) {
        join_patches(w, &old, &given);
        p.enc = w->enc.data;
        return add_patch(out, w, old.base, old.records, &p, err);
    }
    st = bsi_rows_get(&rows, view, w->s, base, err);
    if (st) return st;
    join_whole(w, &rows, &given);
    return bsi_block_writer_add(out, w, rows.count, w->enc.data, w->off, w->body, w->kh, w->rh, err);
}
