/* store/store_blocks.c - blocks of row images in segments: written once, found by ref.
 *
 *   ref = segment << 9 | index           a segment: up to 256 blocks of one writer, two LMDB values under one id
 *
 *   data:  head ─ directory ─ group ─ group ─ ...    a group: a few blocks in one zstd frame
 *   rows:  head ─ counts ─ checksums ─ block ─ block ...   a block: kh[count] rh[count], 8-aligned, used where it lies
 *
 * Decisions. Single LMDB values per block cost 110 ms per 10,000; segments 4 ms. Groups of 4 blocks (about 4 kB) at level 1
 * take 0.276 of the raw bytes, single blocks with a 32 kB dictionary 0.298 and twice the time, groups of 4 with it 0.266
 * and half as much time again: so groups, and no dictionary. Groups of 8 save 6 % more, but a reader that wants one block
 * unpacks them all. Negative levels take 0.41. Frames have no magic, no size and no checksum of their own: the directory
 * has them. A group has a kind byte: 0 is "row images"; room for patches.
 *
 * Reading: the last segment that a thread looked at stays decoded (thread-local for rows, in bsi_block_data for data), so
 * that going through a state in order checks each directory once.
 */
#include "store/store_inner.h"

#define REF_BITS 9
#define ZSTD_LEVEL 1
enum { DATA_HEAD = 16, ROWS_HEAD = 16, GROUP_IMAGES = 0 };
static_assert(BSI_SEGMENT_BLOCKS <= 1 << REF_BITS, "an index fits into a ref");

static uint32_t check32(const void *p, size_t n, uint64_t segment, uint32_t index) {
    uint64_t h = bsi_xxh64(p, n) ^ (segment << REF_BITS | index) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(h ^ h >> 32);
}

/* ---- writing ---- */

struct bsi_block_writer {
    bsi_store *s;
    uint32_t slot_count;
    uint64_t segment;
    ZSTD_CCtx *cctx;
    /* the group being filled, and its part of the directory */
    bsi_buf raw, sizes;
    uint32_t group_blocks;
    /* the segment being filled */
    uint32_t blocks, groups;
    size_t rows;
    bsi_buf dir, packed, counts, checks, hashes;
};

static size_t set(ZSTD_CCtx *c, ZSTD_cParameter p, int v) { return ZSTD_CCtx_setParameter(c, p, v); }
#define MAGICLESS 1 /* ZSTD_f_zstd1_magicless */
#define C_FORMAT ZSTD_c_experimentalParam2
#define D_FORMAT ZSTD_d_experimentalParam1

static bool set_up(ZSTD_CCtx *c) {
    return c && !ZSTD_isError(set(c, ZSTD_c_compressionLevel, ZSTD_LEVEL)) && !ZSTD_isError(set(c, C_FORMAT, MAGICLESS)) &&
           !ZSTD_isError(set(c, ZSTD_c_contentSizeFlag, 0)) && !ZSTD_isError(set(c, ZSTD_c_checksumFlag, 0));
}

static void start_segment(bsi_block_writer *w) {
    w->segment = atomic_fetch_add(&w->s->next_segment, 1);
    w->blocks = w->groups = 0;
    w->rows = 0;
    w->dir.len = w->packed.len = w->counts.len = w->checks.len = w->hashes.len = 0;
}

bomsync_status bsi_block_writer_open(bsi_block_writer **out, bsi_store *s, uint32_t slot_count, bomsync_error *err) {
    *out = NULL;
    bsi_block_writer *w = bsi_calloc(1, sizeof *w);
    w->s = s;
    w->slot_count = slot_count;
    w->cctx = ZSTD_createCCtx();
    if (!set_up(w->cctx)) {
        ZSTD_freeCCtx(w->cctx);
        free(w);
        return bsi_fail(err, BOMSYNC_E_SPACE, "out of memory for compression");
    }
    *out = w;
    return BOMSYNC_OK;
}

static bomsync_status end_group(bsi_block_writer *w, bomsync_error *err) {
    if (!w->group_blocks) return BOMSYNC_OK;
    size_t bound = ZSTD_compressBound(w->raw.len);
    bsi_buf_reserve(&w->packed, bound);
    uint8_t *to = w->packed.data + w->packed.len;
    size_t n = ZSTD_compress2(w->cctx, to, bound, w->raw.data, w->raw.len);
    if (ZSTD_isError(n)) return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress a block: %s", ZSTD_getErrorName(n));
    uint32_t check = check32(to, n, w->segment, BSI_SEGMENT_BLOCKS + w->groups);
    bsi_buf_byte(&w->dir, GROUP_IMAGES);
    bsi_buf_varint(&w->dir, w->group_blocks);
    bsi_buf_varint(&w->dir, n);
    bsi_buf_add(&w->dir, &check, 4);
    bsi_buf_add(&w->dir, w->sizes.data, w->sizes.len);
    w->packed.len += n;
    w->groups++;
    w->group_blocks = 0;
    w->raw.len = w->sizes.len = 0;
    return BOMSYNC_OK;
}

static bomsync_status seal_data(bsi_buf *b, const bsi_block_writer *w, bomsync_error *err) {
    size_t checked = DATA_HEAD + w->dir.len;
    const uint32_t head[DATA_HEAD / 4] = {(uint32_t)checked, w->slot_count, w->blocks, w->groups};
    bsi_buf_reserve(b, BSI_VALUE_HEAD + checked + w->packed.len + 8);
    bsi_value_start(b);
    bsi_buf_add(b, head, sizeof head);
    bsi_buf_add(b, w->dir.data, w->dir.len);
    bsi_buf_add(b, w->packed.data, w->packed.len);
    return bsi_value_seal(b, BSI_DB_DATA, bsi_key_id(&w->segment), checked, err);
}

static bomsync_status seal_rows(bsi_buf *b, const bsi_block_writer *w, bomsync_error *err) {
    static const uint8_t zeros[8];
    size_t checked = bsi_pad8(ROWS_HEAD + w->counts.len + w->checks.len);
    const uint32_t head[ROWS_HEAD / 4] = {(uint32_t)checked, w->blocks, (uint32_t)w->rows, 0};
    bsi_buf_reserve(b, BSI_VALUE_HEAD + checked + w->hashes.len);
    bsi_value_start(b);
    bsi_buf_add(b, head, sizeof head);
    bsi_buf_add(b, w->counts.data, w->counts.len);
    bsi_buf_add(b, w->checks.data, w->checks.len);
    bsi_buf_add(b, zeros, BSI_VALUE_HEAD + checked - b->len);
    bsi_buf_add(b, w->hashes.data, w->hashes.len);
    return bsi_value_seal(b, BSI_DB_ROWS, bsi_key_id(&w->segment), checked, err);
}

static bomsync_status end_segment(bsi_block_writer *w, bomsync_error *err) {
    if (!w->blocks) return BOMSYNC_OK;
    bomsync_status st = end_group(w, err);
    if (st) return st;
    bsi_job *job = bsi_calloc(1, sizeof *job);
    job->id = w->segment;
    st = seal_data(&job->data, w, err);
    if (!st) st = seal_rows(&job->rows, w, err);
    w->blocks = 0;
    if (!st) return bsi_shard_put(w->s, job, err);
    bsi_buf_free(&job->data);
    bsi_buf_free(&job->rows);
    free(job);
    return st;
}

/* Raw form of a block: for each record its body's and its nulls' bytes as varints, then the images back to back. */
static void add_raw(bsi_block_writer *w, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body) {
    size_t start = w->raw.len, bytes = image_off[count] - image_off[0];
    bsi_buf_reserve(&w->raw, bytes + (size_t)count * 20);
    uint8_t *to = w->raw.data + w->raw.len;
    for (uint32_t i = 0; i < count; i++) {
        to = bsi_varint_put(to, body[i]);
        to = bsi_varint_put(to, image_off[i + 1] - image_off[i] - body[i]);
    }
    memcpy(to, images + image_off[0], bytes);
    w->raw.len = (size_t)(to + bytes - w->raw.data);
    bsi_buf_varint(&w->sizes, count);
    bsi_buf_varint(&w->sizes, w->raw.len - start);
}

static void add_rows(bsi_block_writer *w, uint32_t count, const uint64_t *kh, const uint64_t *rh) {
    uint16_t n = (uint16_t)count;
    size_t start = w->hashes.len;
    bsi_buf_add(&w->hashes, kh, count * sizeof *kh);
    bsi_buf_add(&w->hashes, rh, count * sizeof *rh);
    uint32_t check = check32(w->hashes.data + start, w->hashes.len - start, w->segment, w->blocks);
    bsi_buf_add(&w->counts, &n, 2);
    bsi_buf_add(&w->checks, &check, 4);
    w->rows += count;
}

bomsync_status bsi_block_writer_add(bsi_ref *ref, bsi_block_writer *w, uint32_t count, const uint8_t *images,
                                    const uint32_t *image_off, const uint32_t *body, const uint64_t *kh, const uint64_t *rh,
                                    bomsync_error *err) {
    *ref = BSI_REF_NONE;
    if (!count || count > UINT16_MAX) return bsi_fail(err, BOMSYNC_E_USAGE, "a block cannot have %u records", count);
    bomsync_status st = BOMSYNC_OK;
    if (!w->blocks) start_segment(w);
    add_raw(w, count, images, image_off, body);
    add_rows(w, count, kh, rh);
    bsi_ref made = w->segment << REF_BITS | w->blocks;
    w->blocks++;
    w->group_blocks++;
    if (w->group_blocks == BSI_STORE_GROUP_BLOCKS || w->raw.len >= BSI_STORE_GROUP_BYTES) st = end_group(w, err);
    if (!st && (w->blocks == BSI_SEGMENT_BLOCKS || w->packed.len >= BSI_STORE_SEGMENT_BYTES || w->hashes.len >= BSI_STORE_SEGMENT_BYTES))
        st = end_segment(w, err);
    if (!st) *ref = made;
    return st;
}

bomsync_status bsi_block_writer_close(bsi_block_writer *w, bomsync_error *err) {
    if (!w) return BOMSYNC_OK;
    bomsync_status st = end_segment(w, err);
    ZSTD_freeCCtx(w->cctx);
    bsi_buf *const bufs[] = {&w->raw, &w->sizes, &w->dir, &w->packed, &w->counts, &w->checks, &w->hashes};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) bsi_buf_free(bufs[i]);
    free(w);
    return st;
}

/* ---- reading rows ---- */

typedef struct rows_view { /* the last segment that this thread read rows of */
    uint64_t view, segment;
    const uint8_t *hashes;
    uint32_t blocks;
    uint32_t start[BSI_SEGMENT_BLOCKS + 1]; /* rows before block i */
    uint32_t check[BSI_SEGMENT_BLOCKS];
} rows_view;

static bomsync_status bad_segment(bomsync_error *err, bsi_store *s, bsi_db db, uint64_t id, const char *what) {
    return bsi_bad(err, &s->shard[id % (uint64_t)s->shard_count].env, db, bsi_key_id(&id), what);
}

static bomsync_status segment_value(bsi_span *v, bsi_store *s, bsi_db db, uint64_t id, bomsync_error *err) {
    MDB_val value;
    bomsync_status st = bsi_shard_get(&value, s, db, id, err);
    if (st) return st;
    const bsi_env *e = &s->shard[id % (uint64_t)s->shard_count].env;
    return bsi_value_check(v, e, db, bsi_key_id(&id), value, false, err);
}

static bomsync_status load_rows(rows_view *r, bsi_store *s, uint64_t id, uint64_t view, bomsync_error *err) {
    bsi_span v;
    r->view = 0;
    bomsync_status st = segment_value(&v, s, BSI_DB_ROWS, id, err);
    if (st) return st;
    size_t dir = bsi_get32(v.p), rows = v.n >= ROWS_HEAD ? bsi_get32(v.p + 8) : 0;
    uint32_t blocks = v.n >= ROWS_HEAD ? bsi_get32(v.p + 4) : 0;
    if (!blocks || blocks > BSI_SEGMENT_BLOCKS || dir != bsi_pad8(ROWS_HEAD + blocks * 6u) || v.n != dir + rows * 16 ||
        ((uintptr_t)v.p & 7))
        return bad_segment(err, s, BSI_DB_ROWS, id, "wrong directory");
    r->start[0] = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        uint16_t n;
        memcpy(&n, v.p + ROWS_HEAD + i * 2, 2);
        r->start[i + 1] = r->start[i] + n;
    }
    memcpy(r->check, v.p + ROWS_HEAD + blocks * 2, blocks * 4);
    if (r->start[blocks] != rows) return bad_segment(err, s, BSI_DB_ROWS, id, "its blocks do not add up");
    r->hashes = v.p + dir;
    r->blocks = blocks;
    r->segment = id;
    r->view = view;
    return BOMSYNC_OK;
}

bomsync_status bsi_store_rows(bsi_block_rows *out, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    static _Thread_local rows_view here;
    uint64_t id = ref >> REF_BITS, view = atomic_load_explicit(&s->view, memory_order_acquire);
    uint32_t index = (uint32_t)ref & ((1u << REF_BITS) - 1);
    *out = (bsi_block_rows){0};
    if (here.view != view || here.segment != id) {
        bomsync_status st = load_rows(&here, s, id, view, err);
        if (st) return st;
    }
    if (index >= here.blocks) return bad_segment(err, s, BSI_DB_ROWS, id, "it has no such block");
    uint32_t count = here.start[index + 1] - here.start[index];
    const uint64_t *p = (const void *)(here.hashes + (size_t)here.start[index] * 16);
    if (check32(p, (size_t)count * 16, id, index) != here.check[index])
        return bad_segment(err, s, BSI_DB_ROWS, id, "a block has a wrong checksum");
    *out = (bsi_block_rows){count, p, p + count};
    return BOMSYNC_OK;
}

/* ---- reading data ---- */

/* The directory as varints; every sum is checked against the value's length. */
static bool read_directory(bsi_segment *g, bsi_span v, size_t dir) {
    bsi_reader r = {v.p + DATA_HEAD, v.p + dir, true};
    size_t offset = dir;
    uint32_t block = 0;
    for (uint32_t i = 0; i < g->group_count; i++) {
        bsi_group *group = &g->group[i];
        uint8_t kind = 0;
        bsi_read_bytes(&r, &kind, 1);
        uint64_t blocks = bsi_read_varint(&r), packed = bsi_read_varint(&r), raw = 0;
        bsi_read_bytes(&r, &group->check, 4);
        if (!r.ok || blocks > g->block_count - block || packed > v.n - offset) return false;
        group->kind = kind;
        group->block_first = block;
        group->block_count = (uint32_t)blocks;
        group->packed = (uint32_t)packed;
        group->offset = offset;
        for (uint64_t j = 0; j < blocks; j++, block++) {
            uint64_t records = bsi_read_varint(&r), bytes = bsi_read_varint(&r);
            if (!records || records > UINT16_MAX || bytes > BSI_STORE_RECORD_BYTES_MAX - raw) return false;
            g->block[block] = (bsi_block_place){i, (uint32_t)raw, (uint32_t)bytes, (uint32_t)records};
            raw += bytes;
        }
        group->raw = (uint32_t)raw;
        offset += packed;
    }
    return r.ok && r.p == r.end && block == g->block_count && offset == v.n;
}

bomsync_status bsi_segment_load(bsi_segment *g, bsi_store *s, uint64_t id, bomsync_error *err) {
    uint64_t view = atomic_load_explicit(&s->view, memory_order_acquire);
    if (g->id == id && g->view == view) return BOMSYNC_OK;
    bsi_span v;
    g->view = 0;
    bomsync_status st = segment_value(&v, s, BSI_DB_DATA, id, err);
    if (st) return st;
    size_t dir = bsi_get32(v.p);
    if (v.n >= DATA_HEAD && dir >= DATA_HEAD) {
        g->slot_count = bsi_get32(v.p + 4);
        g->block_count = bsi_get32(v.p + 8);
        g->group_count = bsi_get32(v.p + 12);
        g->payload = v.p;
        if (g->block_count && g->block_count <= BSI_SEGMENT_BLOCKS && g->group_count <= g->block_count &&
            read_directory(g, v, dir)) {
            g->id = id;
            g->view = view;
            return BOMSYNC_OK;
        }
    }
    return bad_segment(err, s, BSI_DB_DATA, id, "wrong directory");
}

uint32_t bsi_segment_records(const bsi_segment *g, uint32_t block) { return g->block[block].records; }

typedef struct decoder {
    ZSTD_DCtx *dctx;
    bsi_segment segment;
    uint64_t view, id; /* what `raw` holds: a group of a segment */
    uint32_t group;
} decoder;

static bomsync_status get_decoder(decoder **out, bsi_block_data *d, bomsync_error *err) {
    if (!d->dctx) {
        decoder *c = bsi_calloc(1, sizeof *c);
        c->dctx = ZSTD_createDCtx();
        d->dctx = c;
        if (!c->dctx || ZSTD_isError(ZSTD_DCtx_setParameter(c->dctx, D_FORMAT, MAGICLESS)))
            return bsi_fail(err, BOMSYNC_E_SPACE, "out of memory for a decoder");
    }
    *out = d->dctx;
    return BOMSYNC_OK;
}

static bomsync_status load_group(bsi_block_data *d, decoder *c, bsi_store *s, uint32_t index, bomsync_error *err) {
    const bsi_segment *g = &c->segment;
    const bsi_group *group = &g->group[index];
    if (c->view == g->view && c->id == g->id && c->group == index) return BOMSYNC_OK;
    c->view = 0;
    const uint8_t *p = g->payload + group->offset;
    if (check32(p, group->packed, g->id, BSI_SEGMENT_BLOCKS + index) != group->check)
        return bad_segment(err, s, BSI_DB_DATA, g->id, "a group of blocks has a wrong checksum");
    if (group->kind != GROUP_IMAGES) return bad_segment(err, s, BSI_DB_DATA, g->id, "blocks of an unknown kind");
    d->raw.len = 0;
    bsi_buf_reserve(&d->raw, group->raw + 1u);
    size_t n = ZSTD_decompressDCtx(c->dctx, d->raw.data, group->raw, p, group->packed);
    if (ZSTD_isError(n) || n != group->raw) return bad_segment(err, s, BSI_DB_DATA, g->id, "a group of blocks cannot be unpacked");
    d->raw.len = n;
    c->view = g->view;
    c->id = g->id;
    c->group = index;
    return BOMSYNC_OK;
}

static bool find_images(bsi_block_data *d, const bsi_block_place *b) {
    if (d->cap < b->records + 1) {
        d->cap = b->records + 1;
        d->image = bsi_realloc(d->image, d->cap * sizeof *d->image);
        d->body = bsi_realloc(d->body, d->cap * sizeof *d->body);
    }
    const uint8_t *start = d->raw.data + b->start, *p = start, *end = start + b->bytes;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < b->records; i++) {
        uint64_t body, nulls;
        if (!(p = bsi_varint_get(p, end, &body)) || !(p = bsi_varint_get(p, end, &nulls))) return false;
        if (body > b->bytes || nulls > b->bytes) return false;
        d->body[i] = (uint32_t)body;
        d->image[i] = (uint32_t)sum;
        sum += body + nulls;
        if (sum > b->bytes) return false;
    }
    if (sum != (uint64_t)(end - p)) return false;
    uint32_t at = (uint32_t)(p - d->raw.data);
    d->image[b->records] = (uint32_t)sum;
    for (uint32_t i = 0; i <= b->records; i++) d->image[i] += at;
    return true;
}

bomsync_status bsi_store_data(bsi_block_data *out, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    decoder *c = NULL;
    uint64_t id = ref >> REF_BITS;
    uint32_t index = (uint32_t)ref & ((1u << REF_BITS) - 1);
    bomsync_status st = get_decoder(&c, out, err);
    if (!st) st = bsi_segment_load(&c->segment, s, id, err);
    if (!st && index >= c->segment.block_count) st = bad_segment(err, s, BSI_DB_DATA, id, "it has no such block");
    if (!st) st = load_group(out, c, s, c->segment.block[index].group, err);
    if (st) return st;
    const bsi_block_place *b = &c->segment.block[index];
    if (!find_images(out, b)) return bad_segment(err, s, BSI_DB_DATA, id, "a block cannot be read");
    out->count = b->records;
    out->slot_count = c->segment.slot_count;
    return BOMSYNC_OK;
}

void bsi_block_data_free(bsi_block_data *d) {
    decoder *c = d->dctx;
    if (c) ZSTD_freeDCtx(c->dctx);
    free(c);
    bsi_buf_free(&d->raw);
    free(d->image);
    free(d->body);
    *d = (bsi_block_data){0};
}
