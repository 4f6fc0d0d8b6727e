/* store/store_dicts.c - dictionaries of symbols: learned, stored, found again by id.
 *
 *   sample ─learn─> id, in memory ──> block writers name it in segments ──> publish: `dicts`, with the root's commit
 *   segment ─id─> in memory, else from `dicts`
 *
 * The problem: segments reach the shards before the root says that they count, so they may name a dictionary that was never
 * stored. Such a segment stands above the root's counter and counts for nothing either: nobody reads it, the next writer
 * cuts it off. Ids are those of pieces: the same counter says which of them are good, and ids that were good are not used
 * again.
 *
 * A handle keeps the dictionaries that it has read until it is closed; they never change, so all threads share them.
 */
#include "store/store_inner.h"

/* ---- by id ---- */

static bsi_dict *find(const bsi_store *s, uint64_t id) {
    for (size_t i = 0; i < s->dict_count; i++)
        if (s->dict[i].id == id) return &s->dict[i];
    return NULL;
}

static bsi_dict *add(bsi_store *s, bsi_dict d) {
    s->dict = bsi_realloc(s->dict, (s->dict_count + 1) * sizeof *s->dict);
    s->dict[s->dict_count] = d;
    return &s->dict[s->dict_count++];
}

static bsi_symbols *read_dict(bsi_span payload) {
    bsi_buf raw = {0};
    bsi_symbols *s = bsi_read_squeezed(&raw, payload) ? bsi_symbols_read(raw.data, raw.len) : NULL;
    bsi_buf_free(&raw);
    return s;
}

/* In a view of its own: the handle's belongs to another thread. A dictionary that a segment of this view names is in any
 * later one too, since gc keeps readers out. */
static bomsync_status load(bsi_dict **out, bsi_store *s, uint64_t id, bomsync_error *err) {
    MDB_txn *txn;
    bsi_span v = {0};
    MDB_val key = bsi_key_id(&id);
    int rc = mdb_txn_begin(s->root.env, NULL, MDB_RDONLY, &txn);
    if (rc) return bsi_env_fail(err, &s->root, rc, "read");
    bomsync_status st = bsi_value_get(&v, &s->root, txn, BSI_DB_DICTS, key, err);
    bsi_symbols *symbols = !st && v.p ? read_dict(v) : NULL;
    if (!st && !symbols) st = bsi_bad(err, &s->root, BSI_DB_DICTS, key, v.p ? "cannot be read" : "missing");
    mdb_txn_abort(txn);
    if (!st) *out = add(s, (bsi_dict){id, symbols, true});
    return st;
}

bomsync_status bsi_dict_get(const bsi_symbols **out, bsi_store *s, uint64_t id, bool tables, bomsync_error *err) {
    pthread_mutex_lock(&s->dict_mutex);
    bsi_dict *d = find(s, id);
    bomsync_status st = d ? BOMSYNC_OK : load(&d, s, id, err);
    if (!st && d && tables) bsi_symbols_prepare(d->symbols);
    *out = !st && d ? d->symbols : NULL;
    pthread_mutex_unlock(&s->dict_mutex);
    return st;
}

bomsync_status bsi_dict_check(bsi_store *s, bsi_span payload, uint64_t id, bomsync_error *err) {
    bsi_symbols *symbols = read_dict(payload);
    if (!symbols) return bsi_bad(err, &s->root, BSI_DB_DICTS, bsi_key_id(&id), "cannot be read");
    bsi_symbols_free(symbols);
    return BOMSYNC_OK;
}

static bomsync_status save(bsi_store *s, MDB_txn *txn, const bsi_dict *d, bomsync_error *err) {
    bsi_buf raw = {0}, value = {0};
    bsi_symbols_put(&raw, d->symbols);
    bsi_value_start(&value);
    bsi_put_squeezed(&value, &raw);
    bomsync_status st = bsi_value_save(&s->root, txn, BSI_DB_DICTS, bsi_key_id(&d->id), &value, 0, err);
    bsi_buf_free(&raw);
    bsi_buf_free(&value);
    return st;
}

bomsync_status bsi_dicts_save(bsi_store *s, MDB_txn *txn, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    pthread_mutex_lock(&s->dict_mutex);
    for (size_t i = 0; !st && i < s->dict_count; i++) {
        if (s->dict[i].stored) continue;
        st = save(s, txn, &s->dict[i], err);
        s->dict[i].stored = !st; /* if the commit fails, the handle is used up */
    }
    pthread_mutex_unlock(&s->dict_mutex);
    return st;
}

void bsi_dicts_close(bsi_store *s) {
    for (size_t i = 0; i < s->dict_count; i++) bsi_symbols_free(s->dict[i].symbols);
    free(s->dict);
    pthread_mutex_destroy(&s->dict_mutex);
}

/* ---- learning ---- */

struct bsi_dict_sample {
    uint32_t slots, blocks;
    bsi_buf copy;            /* a block's images, with a margin */
    bsi_buf residual, starts; /* of all blocks, each with a margin behind it; u32 where each begins and ends */
    bsi_buf raw, groups;     /* raw forms, as zstd would get them; u32 where each group ends */
};

bsi_dict_sample *bsi_dict_sample_open(uint32_t slot_count) {
    bsi_dict_sample *x = bsi_calloc(1, sizeof *x);
    x->slots = slot_count;
    return x;
}

static const uint8_t margin[BSI_RESIDUAL_TAIL];

static void add_u32(bsi_buf *b, size_t v) {
    uint32_t n = (uint32_t)v;
    bsi_buf_add(b, &n, sizeof n);
}

void bsi_dict_sample_add(bsi_dict_sample *x, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body) {
    if (!count) return;
    x->copy.len = 0;
    bsi_buf_add(&x->copy, images, image_off[count]);
    bsi_buf_add(&x->copy, margin, sizeof margin);
    size_t start = x->residual.len;
    if (!bsi_residual_put(&x->residual, x->slots, count, x->copy.data, image_off, body)) return; /* nor will it be coded */
    add_u32(&x->starts, start);
    add_u32(&x->starts, x->residual.len);
    bsi_raw_images(&x->raw, count, images, image_off, body);
    if (++x->blocks % BSI_STORE_GROUP_BLOCKS == 0) add_u32(&x->groups, x->raw.len);
}

size_t bsi_dict_sample_bytes(const bsi_dict_sample *x) { return x->residual.len; }

static size_t coded_bytes(const bsi_dict_sample *x, const bsi_symbols *s) {
    size_t sum = 0;
    bsi_buf out = {0};
    for (uint32_t i = 0; i < x->blocks; i++) {
        uint32_t start = bsi_get32(x->starts.data + i * 8), end = bsi_get32(x->starts.data + i * 8 + 4);
        out.len = 0;
        bsi_buf_reserve(&out, bsi_symbols_bound(end - start));
        bsi_symbol_part part = {x->residual.data + start, x->residual.data + end, out.data};
        bsi_symbols_encode(s, &part, 1);
        sum += (size_t)(part.out - out.data) + 7; /* and its part of the directory */
    }
    bsi_buf_free(&out);
    return sum;
}

/* 0: could not be found out. */
static size_t framed_bytes(const bsi_dict_sample *x) {
    size_t sum = 0, from = 0;
    bsi_buf out = {0};
    ZSTD_CCtx *c = ZSTD_createCCtx();
    bool ok = bsi_frames_set_up(c);
    for (size_t i = 0; ok && i <= x->groups.len / 4; i++) {
        size_t end = i < x->groups.len / 4 ? bsi_get32(x->groups.data + i * 4) : x->raw.len, bound = ZSTD_compressBound(end - from);
        if (end == from) continue;
        out.len = 0;
        bsi_buf_reserve(&out, bound);
        size_t n = ZSTD_compress2(c, out.data, bound, x->raw.data + from, end - from);
        ok = !ZSTD_isError(n);
        sum += n + 8 + 3 * BSI_STORE_GROUP_BLOCKS;
        from = end;
    }
    ZSTD_freeCCtx(c);
    bsi_buf_free(&out);
    return ok ? sum : 0;
}

bomsync_status bsi_dict_learn(uint64_t *dictionary, bsi_store *s, bsi_dict_sample *x, bool always, bomsync_error *err) {
    *dictionary = BSI_DICT_FRAMES;
    bomsync_status st = s->mode == BSI_STORE_READ ? bsi_fail(err, BOMSYNC_E_USAGE, "the store is open for reading only") : BOMSYNC_OK;
    if (!st && x->blocks) {
        bsi_buf_add(&x->residual, margin, sizeof margin);
        bsi_symbols *symbols = bsi_symbols_train(x->residual.data, x->residual.len - sizeof margin);
        size_t coded = always ? 0 : coded_bytes(x, symbols), framed = always ? 0 : framed_bytes(x);
        if (framed && framed * 100 < coded * (100 - BSI_TRAIN_ZSTD_PERCENT)) {
            bsi_symbols_free(symbols);
        } else {
            pthread_mutex_lock(&s->dict_mutex);
            *dictionary = ++s->counters.piece;
            add(s, (bsi_dict){*dictionary, symbols, false});
            pthread_mutex_unlock(&s->dict_mutex);
        }
    }
    bsi_buf *const bufs[] = {&x->copy, &x->residual, &x->starts, &x->raw, &x->groups};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) bsi_buf_free(bufs[i]);
    free(x);
    return st;
}
