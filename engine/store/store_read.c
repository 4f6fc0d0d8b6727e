/* store/store_read.c - blocks read by ref; byte layouts: store_blocks.c.
 *
 *   rows of a ref ── whole block: two arrays in the mapping, as they lie
 *                 └─ patch: base's arrays copied, the patch's rows laid over; no frame is unpacked
 *   data of a ref ── whole block, coded: its codes to a residual, that to images
 *                 │              packed: its group unpacked, images found in it
 *                 └─ patch: base's images and the patch's in a new buffer
 *
 * The last two segments that a reader looked at stay decoded (thread-local for rows, in bsi_block_data for data), so that
 * going through a state in order checks each directory once; two, since a patch and what it is over take turns.
 */
#include "store/store_inner.h"

#define MAGICLESS 1 /* ZSTD_f_zstd1_magicless */
#define D_FORMAT ZSTD_d_experimentalParam1

static bomsync_status bad_segment(bomsync_error *err, bsi_store *s, bsi_db db, uint64_t id, const char *what) {
    return bsi_bad(err, &s->shard[id % (uint64_t)s->shard_count].env, db, bsi_key_id(&id), what);
}

static bomsync_status segment_value(bsi_span *v, bsi_store *s, bsi_db db, uint64_t id, bomsync_error *err) {
    MDB_val value;
    bomsync_status st = bsi_shard_get(&value, s, db, id, err);
    if (st) return st;
    const bsi_env *e = &s->shard[id % (uint64_t)s->shard_count].env;
    return bsi_value_check(v, e, db, bsi_key_id(&id), value, err);
}

static uint32_t index_of(bsi_ref ref) { return (uint32_t)ref & ((1u << BSI_REF_BITS) - 1); }

/* ---- rows ---- */

static uint32_t patch_words(uint32_t n) { return 2 + 2 * n + (n + 3) / 4; }

static bomsync_status load_rows(bsi_rows_segment *r, bsi_store *s, uint64_t id, uint64_t view, bomsync_error *err) {
    bsi_span v;
    r->view = 0;
    bomsync_status st = segment_value(&v, s, BSI_DB_ROWS, id, err);
    if (st) return st;
    size_t dir = v.n >= BSI_ROWS_HEAD ? bsi_get32(v.p) : 0;
    uint32_t blocks = dir ? bsi_get32(v.p + 4) : 0, words = dir ? bsi_get32(v.p + 8) : 0, kind = dir ? bsi_get32(v.p + 12) : 0;
    if (!blocks || blocks > BSI_SEGMENT_BLOCKS || dir != bsi_pad8(BSI_ROWS_HEAD + blocks * 6u) || v.n != dir + (size_t)words * 8 ||
        kind > BSI_KIND_PATCH || ((uintptr_t)v.p & 7))
        return bad_segment(err, s, BSI_DB_ROWS, id, "wrong directory");
    r->start[0] = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        uint16_t n;
        memcpy(&n, v.p + BSI_ROWS_HEAD + i * 2, 2);
        r->start[i + 1] = r->start[i] + (kind == BSI_KIND_WHOLE ? n * 2u : patch_words(n));
    }
    memcpy(r->check, v.p + BSI_ROWS_HEAD + blocks * 2, blocks * 4);
    if (r->start[blocks] != words) return bad_segment(err, s, BSI_DB_ROWS, id, "its blocks do not add up");
    r->words = v.p + dir;
    r->blocks = blocks;
    r->kind = kind;
    r->segment = id;
    r->view = view;
    return BOMSYNC_OK;
}

/* Where its words are, by the directory, which is checked; the words are not. */
static bomsync_status find_words(const bsi_rows_segment **out, bsi_rows_view *v, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    uint64_t id = ref >> BSI_REF_BITS, view = atomic_load_explicit(&s->view, memory_order_acquire);
    bsi_rows_segment *r = &v->segment[v->last];
    if (r->view != view || r->segment != id) {
        v->last ^= 1;
        r = &v->segment[v->last];
        if (r->view != view || r->segment != id) {
            bomsync_status st = load_rows(r, s, id, view, err);
            if (st) return st;
        }
    }
    if (index_of(ref) >= r->blocks) return bad_segment(err, s, BSI_DB_ROWS, id, "it has no such block");
    *out = r;
    return BOMSYNC_OK;
}

/* Words of a block, checked. */
static bomsync_status block_words(const uint64_t **out, uint32_t *n, uint32_t *kind, bsi_rows_view *v, bsi_store *s, bsi_ref ref,
                                  bomsync_error *err) {
    const bsi_rows_segment *r;
    uint64_t id = ref >> BSI_REF_BITS;
    uint32_t index = index_of(ref);
    bomsync_status st = find_words(&r, v, s, ref, err);
    if (st) return st;
    *n = r->start[index + 1] - r->start[index];
    *out = (const void *)(r->words + (size_t)r->start[index] * 8);
    *kind = r->kind;
    if (!v->known && bsi_block_check(*out, (size_t)*n * 8, id, index) != r->check[index])
        return bad_segment(err, s, BSI_DB_ROWS, id, "a block has a wrong checksum");
    return BOMSYNC_OK;
}

static bool read_patch(bsi_patch *out, const uint64_t *p, uint32_t words) {
    uint32_t n = (uint32_t)(p[1] >> 32);
    *out = (bsi_patch){.base = p[0], .records = (uint32_t)p[1], .count = n};
    if (!n || n > UINT16_MAX || patch_words(n) != words || out->records > BSI_PATCH_RECORDS) return false;
    out->kh = p + 2;
    out->rh = out->kh + n;
    out->row = (const void *)(out->rh + n);
    for (uint32_t i = 0; i < n; i++)
        if (out->row[i] >= out->records || (i && out->row[i] <= out->row[i - 1])) return false;
    return true;
}

bomsync_status bsi_patch_get(bsi_patch *out, bsi_rows_view *v, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    const uint64_t *p;
    uint32_t n, kind;
    const bsi_rows_segment *r;
    bomsync_status st = find_words(&r, v, s, ref, err);
    if (!st && r->kind == BSI_KIND_WHOLE) {
        uint32_t index = index_of(ref);
        *out = (bsi_patch){.base = BSI_REF_NONE, .records = (r->start[index + 1] - r->start[index]) / 2};
        return BOMSYNC_OK;
    }
    if (!st) st = block_words(&p, &n, &kind, v, s, ref, err);
    if (st) return st;
    if (!read_patch(out, p, n)) return bad_segment(err, s, BSI_DB_ROWS, ref >> BSI_REF_BITS, "a patch cannot be read");
    return BOMSYNC_OK;
}

static bomsync_status merge_rows(bsi_block_rows *out, bsi_rows_view *v, bsi_store *s, bsi_ref ref, const bsi_patch *p, bomsync_error *err) {
    const uint64_t *base;
    uint32_t n, kind;
    bomsync_status st = block_words(&base, &n, &kind, v, s, p->base, err);
    if (st) return st;
    if (kind != BSI_KIND_WHOLE || n != p->records * 2u)
        return bad_segment(err, s, BSI_DB_ROWS, ref >> BSI_REF_BITS, "a patch is over another block than it says");
    memcpy(v->merged, base, (size_t)n * 8);
    for (uint32_t i = 0; i < p->count; i++) {
        v->merged[p->row[i]] = p->kh[i];
        v->merged[p->records + p->row[i]] = p->rh[i];
    }
    *out = (bsi_block_rows){p->records, v->merged, v->merged + p->records};
    return BOMSYNC_OK;
}

bomsync_status bsi_rows_get(bsi_block_rows *out, bsi_rows_view *v, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    const uint64_t *p;
    uint32_t n, kind;
    bsi_patch patch;
    *out = (bsi_block_rows){0};
    bomsync_status st = block_words(&p, &n, &kind, v, s, ref, err);
    if (st) return st;
    if (kind == BSI_KIND_WHOLE) *out = (bsi_block_rows){n / 2, p, p + n / 2};
    else if (read_patch(&patch, p, n)) st = merge_rows(out, v, s, ref, &patch, err);
    else st = bad_segment(err, s, BSI_DB_ROWS, ref >> BSI_REF_BITS, "a patch cannot be read");
    return st;
}

bsi_rows_view *bsi_rows_here(void) {
    static _Thread_local bsi_rows_view here;
    return &here;
}

bomsync_status bsi_store_rows(bsi_block_rows *out, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    return bsi_rows_get(out, bsi_rows_here(), s, ref, err);
}

bomsync_status bsi_store_rows_again(bsi_block_rows *out, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    bsi_rows_view *here = bsi_rows_here();
    here->known = true;
    bomsync_status st = bsi_rows_get(out, here, s, ref, err);
    here->known = false;
    return st;
}

/* ---- data ---- */

/* The directory as varints; every sum is checked against the value's length. */
static bool read_directory(bsi_segment *g, bsi_span v, size_t dir) {
    bsi_reader r = {v.p + BSI_DATA_HEAD, v.p + dir, true};
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

/* Of coded blocks: kind and dictionary, then each block for itself, up to the one that is wanted: its checksum is right, so the rest can wait.
 * Who wants few blocks reads a directory for each, which took five times as long as the block: so no calls here. */
static bool read_coded_blocks(bsi_segment *g, uint32_t until) {
    const uint8_t *p = g->next, *end = g->payload + g->dir;
    size_t offset = g->next_offset;
    for (uint32_t i = g->known; i < until; i++) {
        uint64_t records = 0, packed = 0;
        if (end - p >= 7 && p[0] < 128 && p[2] < 128) { /* most are such */
            records = p[0];
            packed = p[1] < 128 ? p[1] : (p[1] & 127u) | (uint32_t)p[2] << 7;
            p += 2 + (p[1] >> 7);
        } else if (!(p = bsi_varint_get(p, end, &records)) || !(p = bsi_varint_get(p, end, &packed)) || end - p < 4) {
            return false;
        }
        if (!records || records > UINT16_MAX || packed > g->bytes - offset) return false;
        g->group[i] = (bsi_group){.kind = g->kind, .block_first = i, .block_count = 1, .packed = (uint32_t)packed, .check = bsi_get32(p), .offset = offset};
        g->block[i] = (bsi_block_place){.group = i, .records = (uint32_t)records};
        p += 4;
        offset += packed;
    }
    g->known = BSI_MAX(g->known, until);
    g->next = p;
    g->next_offset = offset;
    return until < g->block_count || (p == end && offset == g->bytes);
}

static bool read_coded_directory(bsi_segment *g, bsi_span v, size_t dir) {
    const uint8_t *p = v.p + BSI_DATA_HEAD, *end = v.p + dir;
    if (p == end) return false;
    g->kind = *p++;
    if (!(p = bsi_varint_get(p, end, &g->dictionary))) return false;
    if ((g->kind != BSI_KIND_CODED && g->kind != BSI_KIND_CODED_PATCH) || !g->dictionary || g->slot_count > BSI_RESIDUAL_SLOTS) return false;
    g->next = p;
    g->next_offset = g->dir = dir;
    g->bytes = v.n;
    g->known = 0;
    return true;
}

static bool read_head(bsi_segment *g, bsi_span v) {
    size_t dir = v.n >= BSI_DATA_HEAD ? bsi_get32(v.p) : 0;
    if (dir < BSI_DATA_HEAD || dir > v.n) return false;
    g->slot_count = bsi_get32(v.p + 4);
    g->block_count = bsi_get32(v.p + 8);
    g->group_count = bsi_get32(v.p + 12);
    g->payload = v.p;
    g->dictionary = 0;
    if (!g->block_count || g->block_count > BSI_SEGMENT_BLOCKS || g->group_count > g->block_count) return false;
    return g->group_count ? read_directory(g, v, dir) : read_coded_directory(g, v, dir);
}

static bomsync_status open_segment(bsi_segment *g, bsi_store *s, uint64_t id, bomsync_error *err) {
    uint64_t view = atomic_load_explicit(&s->view, memory_order_acquire);
    if (g->id == id && g->view == view) return BOMSYNC_OK;
    bsi_span v;
    g->view = 0;
    g->symbols = NULL;
    bomsync_status st = segment_value(&v, s, BSI_DB_DATA, id, err);
    if (!st && !read_head(g, v)) st = bad_segment(err, s, BSI_DB_DATA, id, "wrong directory");
    if (!st && g->dictionary) st = bsi_dict_get(&g->symbols, s, g->dictionary, false, err);
    if (st) return st;
    g->id = id;
    g->view = view;
    return BOMSYNC_OK;
}

bomsync_status bsi_segment_load(bsi_segment *g, bsi_store *s, uint64_t id, uint32_t blocks, bomsync_error *err) {
    bomsync_status st = open_segment(g, s, id, err);
    blocks = st ? 0 : BSI_MIN(blocks, g->block_count);
    if (!g->symbols || g->known >= blocks || read_coded_blocks(g, blocks)) return st;
    g->view = 0;
    return bad_segment(err, s, BSI_DB_DATA, id, "wrong directory");
}

bomsync_status bsi_segment_slots(uint32_t *out, bsi_store *s, uint64_t id, bomsync_error *err) {
    bsi_span v;
    bomsync_status st = segment_value(&v, s, BSI_DB_DATA, id, err);
    if (!st && v.n < BSI_DATA_HEAD) st = bad_segment(err, s, BSI_DB_DATA, id, "wrong directory");
    if (!st) *out = bsi_get32(v.p + 4);
    return st;
}

bomsync_status bsi_segment_dictionary(uint64_t *out, bsi_store *s, uint64_t id, bomsync_error *err) {
    bsi_segment *g = bsi_alloc(sizeof *g);
    bsi_span v;
    bomsync_status st = segment_value(&v, s, BSI_DB_DATA, id, err);
    if (!st && !read_head(g, v)) st = bad_segment(err, s, BSI_DB_DATA, id, "wrong directory");
    *out = st ? 0 : g->dictionary;
    free(g);
    return st;
}

uint32_t bsi_segment_records(const bsi_segment *g, uint32_t block) { return g->block[block].records; }

typedef struct unpacked { /* a segment's directory, and one of its groups */
    bsi_segment segment;
    bsi_buf raw;
    uint64_t view, id; /* what raw holds; of coded blocks nothing stays: they are as quickly made again */
    uint32_t group;
} unpacked;

typedef struct decoder {
    ZSTD_DCtx *dctx; /* made when it is needed */
    unpacked part[2];
    int last;
    bsi_buf residual, merged;
    bsi_buf made; /* the residual that rows would have now */
} decoder;

static decoder *get_decoder(bsi_block_data *d) {
    if (!d->dctx) d->dctx = bsi_calloc(1, sizeof(decoder));
    return d->dctx;
}

static bool unpack(decoder *c, bsi_buf *raw, uint32_t bytes, const uint8_t *p, uint32_t packed) {
    if (!c->dctx) c->dctx = ZSTD_createDCtx();
    if (!c->dctx || ZSTD_isError(ZSTD_DCtx_setParameter(c->dctx, D_FORMAT, MAGICLESS))) return false;
    raw->len = 0;
    bsi_buf_reserve(raw, bytes + 1u);
    size_t n = ZSTD_decompressDCtx(c->dctx, raw->data, bytes, p, packed);
    raw->len = ZSTD_isError(n) ? 0 : n;
    return raw->len == bytes;
}

/* A group's raw form, or the residual of a coded block. */
static bomsync_status load_group(decoder *c, unpacked *u, bsi_store *s, uint32_t index, bomsync_error *err) {
    const bsi_segment *g = &u->segment;
    const bsi_group *group = &g->group[index];
    if (u->view == g->view && u->id == g->id && u->group == index) return BOMSYNC_OK;
    u->view = 0;
    const uint8_t *p = g->payload + group->offset;
    if (bsi_block_check(p, group->packed, g->id, BSI_SEGMENT_BLOCKS + index) != group->check)
        return bad_segment(err, s, BSI_DB_DATA, g->id, "a group of blocks has a wrong checksum");
    if (g->symbols) {
        if (!bsi_symbols_decode(&c->residual, g->symbols, p, group->packed))
            return bad_segment(err, s, BSI_DB_DATA, g->id, "a block has codes that its dictionary does not know");
        return BOMSYNC_OK;
    }
    if (group->kind > BSI_KIND_PATCH) return bad_segment(err, s, BSI_DB_DATA, g->id, "blocks of an unknown kind");
    if (!unpack(c, &u->raw, group->raw, p, group->packed)) return bad_segment(err, s, BSI_DB_DATA, g->id, "a group of blocks cannot be unpacked");
    u->view = g->view;
    u->id = g->id;
    u->group = index;
    return BOMSYNC_OK;
}

/* Where a ref's raw form lies: part of the decoder, and block in it. The part that was used before stays as it is. */
static bomsync_status find_block(unpacked **out, const bsi_block_place **block, decoder *c, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    uint64_t id = ref >> BSI_REF_BITS, view = atomic_load_explicit(&s->view, memory_order_acquire);
    uint32_t index = index_of(ref);
    if (c->part[c->last].segment.id != id || c->part[c->last].segment.view != view) c->last ^= 1;
    unpacked *u = *out = &c->part[c->last];
    bomsync_status st = bsi_segment_load(&u->segment, s, id, index + 1, err);
    if (!st && index >= u->segment.block_count) st = bad_segment(err, s, BSI_DB_DATA, id, "it has no such block");
    if (!st) st = load_group(c, u, s, u->segment.block[index].group, err);
    *block = &u->segment.block[index];
    return st;
}

/* Sizes of n images from p on, and the images, which end where `end` is: offsets from the first. */
static const uint8_t *read_sizes(uint32_t *image, uint32_t *body, uint32_t n, const uint8_t *p, const uint8_t *end) {
    uint64_t sum = 0, most = (uint64_t)(end - p);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t in_body, nulls;
        if (!(p = bsi_varint_get(p, end, &in_body)) || !(p = bsi_varint_get(p, end, &nulls))) return NULL;
        if (in_body > most || nulls > most) return NULL;
        body[i] = (uint32_t)in_body;
        image[i] = (uint32_t)sum;
        sum += in_body + nulls;
        if (sum > most) return NULL;
    }
    image[n] = (uint32_t)sum;
    return sum == (uint64_t)(end - p) ? p : NULL;
}

static void data_room(bsi_block_data *d, uint32_t records) {
    if (d->cap >= records + 1) return;
    d->cap = records + 1;
    d->image = bsi_realloc(d->image, d->cap * sizeof *d->image);
    d->body = bsi_realloc(d->body, d->cap * sizeof *d->body);
}

/* The images of a whole block: found in its group, or those of its first `front` rows made from its residual. */
static bool find_images(bsi_block_data *d, decoder *c, unpacked *u, const bsi_block_place *b, uint32_t front) {
    data_room(d, b->records);
    d->count = b->records;
    d->slot_count = u->segment.slot_count;
    if (u->segment.symbols) {
        const uint8_t *p = c->residual.data;
        if (!bsi_residual_front(&u->raw, d->image, d->body, d->slot_count, d->count, front, p, p + c->residual.len)) return false;
        d->raw = u->raw;
        return true;
    }
    const uint8_t *start = u->raw.data + b->start, *p = read_sizes(d->image, d->body, b->records, start, start + b->bytes);
    if (!p) return false;
    uint32_t at = (uint32_t)(p - u->raw.data);
    for (uint32_t i = 0; i <= b->records; i++) d->image[i] += at;
    d->raw = u->raw;
    return true;
}

typedef struct patch_data {
    bsi_ref base;
    uint32_t count, row[BSI_PATCH_RECORDS], image[BSI_PATCH_RECORDS + 1], body[BSI_PATCH_RECORDS];
    const uint8_t *images;
} patch_data;

static bool read_patch_data(patch_data *p, decoder *c, unpacked *u, const bsi_block_place *b) {
    bool coded = u->segment.symbols != NULL;
    const uint8_t *at = coded ? c->residual.data : u->raw.data + b->start, *end = at + (coded ? c->residual.len : b->bytes);
    uint64_t n = 0, row = 0;
    if (b->records > BSI_PATCH_RECORDS || !(at = bsi_varint_get(at, end, &p->base)) || !(at = bsi_varint_get(at, end, &n))) return false;
    if (!n || n > b->records) return false;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t step = 0;
        if (!(at = bsi_varint_get(at, end, &step)) || (i && !step) || step >= b->records - row) return false;
        p->row[i] = (uint32_t)(row += step);
    }
    p->count = (uint32_t)n;
    if (!coded) return (p->images = read_sizes(p->image, p->body, p->count, at, end)) != NULL;
    if (!bsi_residual_get(&u->raw, p->image, p->body, u->segment.slot_count, p->count, at, end)) return false;
    p->images = u->raw.data;
    return true;
}

/* Of the first `front` rows and those that the patch replaces; the others get no images. */
static bool merge_images(bsi_block_data *d, bsi_buf *to, const patch_data *p, uint32_t front) {
    uint32_t i = 0, k = 0, end = BSI_MIN(front, d->count);
    to->len = 0;
    while (i < end) {
        uint32_t until = k < p->count ? BSI_MIN(p->row[k], end) : end, from = d->image[i], at = (uint32_t)to->len;
        uint64_t bytes = (uint64_t)d->image[until] - from;
        if (to->len + bytes > UINT32_MAX / 2) return false;
        bsi_buf_add(to, d->raw.data + from, (size_t)bytes);
        for (; i < until; i++) d->image[i] = d->image[i] - from + at;
        if (i == end) break;
        d->image[i] = (uint32_t)to->len;
        d->body[i++] = p->body[k];
        if (to->len + p->image[k + 1] - p->image[k] > UINT32_MAX / 2) return false;
        bsi_buf_add(to, p->images + p->image[k], p->image[k + 1] - p->image[k]);
        k++;
    }
    for (; i < d->count; i++) {
        bool replaced = k < p->count && p->row[k] == i;
        d->image[i] = (uint32_t)to->len;
        d->body[i] = replaced ? p->body[k] : 0;
        if (!replaced) continue;
        if (to->len + p->image[k + 1] - p->image[k] > UINT32_MAX / 2) return false;
        bsi_buf_add(to, p->images + p->image[k], p->image[k + 1] - p->image[k]);
        k++;
    }
    d->image[d->count] = (uint32_t)to->len;
    d->raw = *to;
    return true;
}

static bool is_patch(const unpacked *u, const bsi_block_place *b) { return u->segment.group[b->group].kind & BSI_KIND_PATCH; }

static bomsync_status patched_data(bsi_block_data *d, decoder *c, bsi_store *s, unpacked *u, const bsi_block_place *b,
                                   bsi_ref ref, uint32_t front, bomsync_error *err) {
    patch_data p;
    unpacked *below;
    const bsi_block_place *base;
    uint64_t id = ref >> BSI_REF_BITS;
    uint32_t records = b->records, slots = u->segment.slot_count;
    if (!read_patch_data(&p, c, u, b)) return bad_segment(err, s, BSI_DB_DATA, id, "a patch cannot be read");
    if (p.base >> BSI_REF_BITS == id) return bad_segment(err, s, BSI_DB_DATA, id, "a patch is over a block beside it");
    bomsync_status st = find_block(&below, &base, c, s, p.base, err);
    if (st) return st;
    if (is_patch(below, base) || base->records != records || below->segment.slot_count != slots)
        return bad_segment(err, s, BSI_DB_DATA, id, "a patch is over another block than it says");
    if (!find_images(d, c, below, base, front)) return bad_segment(err, s, BSI_DB_DATA, p.base >> BSI_REF_BITS, "a block cannot be read");
    d->below = p.base;
    for (uint32_t i = 0; i < p.count && p.row[i] < 64; i++) d->replaced |= 1ull << p.row[i];
    return merge_images(d, &c->merged, &p, front) ? BOMSYNC_OK : bad_segment(err, s, BSI_DB_DATA, id, "a patch is too long");
}

bomsync_status bsi_store_data(bsi_block_data *out, bsi_store *s, bsi_ref ref, bomsync_error *err) {
    return bsi_store_front(out, s, ref, UINT32_MAX, err);
}

/* The block that was found, or its first `front` rows. */
static bomsync_status read_block(bsi_block_data *out, decoder *c, bsi_store *s, unpacked *u, const bsi_block_place *b, bsi_ref ref, uint32_t front,
                                 bomsync_error *err) {
    if (is_patch(u, b)) return patched_data(out, c, s, u, b, ref, front, err);
    if (find_images(out, c, u, b, front)) return BOMSYNC_OK;
    out->count = 0;
    return bad_segment(err, s, BSI_DB_DATA, ref >> BSI_REF_BITS, "a block cannot be read");
}

static void forget_block(bsi_block_data *out) {
    out->count = 0;
    out->below = BSI_REF_NONE;
    out->replaced = 0;
}

bomsync_status bsi_store_front(bsi_block_data *out, bsi_store *s, bsi_ref ref, uint32_t front, bomsync_error *err) {
    decoder *c = get_decoder(out);
    unpacked *u;
    const bsi_block_place *b;
    forget_block(out);
    bomsync_status st = find_block(&u, &b, c, s, ref, err);
    return st ? st : read_block(out, c, s, u, b, ref, front, err);
}

static uint64_t rows_unlike(const bsi_block_data *d, const bsi_rows *now) {
    uint64_t unlike = 0;
    for (uint32_t i = 0; i < now->count; i++) {
        uint32_t n = now->image[i + 1] - now->image[i];
        bool same = n == d->image[i + 1] - d->image[i] && now->body[i] == d->body[i] &&
                    memcmp(now->enc.data + now->image[i], d->raw.data + d->image[i], n) == 0;
        unlike |= (uint64_t)!same << i;
    }
    return unlike;
}

bomsync_status bsi_store_unlike(bsi_block_data *out, uint64_t *unlike, bsi_store *s, bsi_ref ref, uint32_t slots, const bsi_rows *now,
                                bomsync_error *err) {
    decoder *c = get_decoder(out);
    unpacked *u;
    const bsi_block_place *b;
    *unlike = 0;
    forget_block(out);
    bomsync_status st = find_block(&u, &b, c, s, ref, err);
    if (st) return st;
    out->count = b->records;
    out->slot_count = u->segment.slot_count;
    if (out->count != now->count || out->slot_count != slots) return BOMSYNC_OK;
    data_room(out, out->count);
    const uint8_t *p = c->residual.data;
    bool told = u->segment.symbols && !is_patch(u, b) &&
                bsi_residual_unlike(&u->raw, out->image, out->body, unlike, &c->made, slots, now, p, p + c->residual.len);
    out->raw = u->raw;
    if (told) return BOMSYNC_OK;
    st = read_block(out, c, s, u, b, ref, UINT32_MAX, err);
    *unlike = st ? 0 : rows_unlike(out, now);
    return st;
}

void bsi_block_data_free(bsi_block_data *d) {
    decoder *c = d->dctx;
    if (c) {
        ZSTD_freeDCtx(c->dctx);
        bsi_buf_free(&c->part[0].raw);
        bsi_buf_free(&c->part[1].raw);
        bsi_buf_free(&c->residual);
        bsi_buf_free(&c->merged);
        bsi_buf_free(&c->made);
    }
    free(c);
    free(d->image);
    free(d->body);
    *d = (bsi_block_data){0};
}
