/* store/store_lists.c - long ordered lists of which little changes: how a list is stored, and a feed's state.
 *
 *   list:   piece 7 (31 refs) ─ piece 8 (118) ─ piece 31 (40) ─ piece 10 ...      {id, count} each
 *   next:   piece 7           ─ piece 8       ─ piece 44      ─ piece 10 ...      only 44 is written
 *
 * A list value, payload after the head of every value:
 *
 *   u32 database (3 state, 4 image)    u32 packed: bytes of the pieces and orphans below
 *   u64 entries    u64 pieces    u64 orphans
 *   piece[]:   signed varint id - id of the piece before (the first: its id), varint count,
 *              state: u32 low half of XXH3-128 of its refs (u64 each)    image: varint first, entries before it on its page
 *   orphan[]:  signed varint ref - ref before
 *
 * A piece takes 3 to 8 bytes: 60 kB for the state of ten million records and 50 kB for the image, 1 MB once it was edited all over. Values have
 * checksums that take in their ids, so a list needs no digests to name them by; the 4 bytes of a state piece tell two
 * values that were written under one id, the first by a run that was killed.
 *
 * State: refs mostly ascend by one and take a byte each as differences. One piece is one value, about 90 refs.
 *
 *   given as a whole   a piece ends where the entry itself says so (a hash of the ref), so a change moves no cut but its
 *                      own; pieces of the feed's list before are found again by the XXH3-128 of their refs
 *   given as edits     pieces that no edit touches are taken over unread. A stretch begins where the first piece that is
 *                      cut into begins, is cut by the same rule, and stops at the next border of an old piece. If less
 *                      than STATE_KEEP refs are left there, the next old piece is pulled in. So all but the last piece
 *                      have half of what a list written anew has, however many edits there were.
 *
 * Pieces may fill many pages: every BSI_STORE_DIRTY_BYTES they are committed, above the counters of the last publish,
 * where the next writer finds and deletes them if this run dies.
 */
#include "core/vast.h"
#include "store/store_inner.h"

enum { STATE_MIN = 32, STATE_MASK = 63, STATE_MAX = 512, STATE_KEEP = 48 };
enum { LIST_HEAD = 32 };
static_assert(STATE_KEEP >= STATE_MIN && STATE_KEEP < STATE_MAX, "what an edit leaves is a piece");

void bsi_list_free(bsi_list *l) {
    bsi_vast_free(l->piece);
    bsi_vast_free(l->orphan);
    *l = (bsi_list){0};
}

/* ---- reading ---- */

void bsi_list_orphans(bsi_list *list, const bsi_ref *orphan, size_t count) {
    list->orphan = bsi_vast_alloc(count * sizeof *orphan);
    list->orphan_count = count;
    if (count) memcpy(list->orphan, orphan, count * sizeof *orphan);
}

bomsync_status bsi_list_begin(bsi_list_reader *out, bsi_store *s, MDB_txn *txn, uint64_t id, bsi_db db, bomsync_error *err) {
    bsi_span v;
    MDB_val key = bsi_key_id(&id);
    bomsync_status st = bsi_value_get(&v, &s->root, txn, BSI_DB_LISTS, key, err);
    if (st) return st;
    if (!v.p) return bsi_bad(err, &s->root, BSI_DB_LISTS, key, "missing");
    if (v.n < LIST_HEAD || bsi_get32(v.p) != (uint32_t)db) return bsi_bad(err, &s->root, BSI_DB_LISTS, key, "another kind of list");
    uint64_t packed = bsi_get32(v.p + 4), pieces = bsi_get64(v.p + 16), orphans = bsi_get64(v.p + 24);
    if (packed != v.n - LIST_HEAD || pieces > packed / 3 || orphans > packed)
        return bsi_bad(err, &s->root, BSI_DB_LISTS, key, "wrong length");
    *out = (bsi_list_reader){.r = {v.p + LIST_HEAD, v.p + v.n, true}, .db = db, .id = id, .count = bsi_get64(v.p + 8),
                             .pieces = (size_t)pieces, .orphans = (size_t)orphans, .left = (size_t)pieces};
    return BOMSYNC_OK;
}

bool bsi_list_next(bsi_list_piece *p, bsi_list_reader *x) {
    uint64_t first = 0, most = x->db == BSI_DB_STATE ? STATE_MAX : BSI_IMAGE_PAGE;
    if (!x->left || !x->r.ok) return false;
    x->left--;
    p->id = x->last += (uint64_t)bsi_read_signed(&x->r);
    uint64_t count = bsi_read_varint(&x->r);
    if (x->db == BSI_DB_STATE) {
        bsi_read_bytes(&x->r, &p->check, 4);
    } else {
        first = bsi_read_varint(&x->r);
        p->first = (uint32_t)first;
    }
    if (!p->id || p->id >> 63 || !count || count > most || first > most - count) x->r.ok = false;
    p->count = (uint32_t)count;
    x->sum += count;
    return x->r.ok;
}

bomsync_status bsi_list_end(bsi_ref **orphan, bsi_store *s, bsi_list_reader *x, bomsync_error *err) {
    bsi_ref ref = 0;
    *orphan = bsi_vast_alloc(x->orphans * sizeof **orphan);
    for (size_t i = 0; i < x->orphans; i++) (*orphan)[i] = ref += (uint64_t)bsi_read_signed(&x->r);
    if (x->r.ok && x->r.p == x->r.end && !x->left && x->sum == x->count) return BOMSYNC_OK;
    return bsi_bad(err, &s->root, BSI_DB_LISTS, bsi_key_id(&x->id), "its pieces do not add up");
}

bomsync_status bsi_list_load(bsi_list *out, bsi_store *s, MDB_txn *txn, uint64_t id, bsi_db db, bomsync_error *err) {
    bsi_list_reader r;
    *out = (bsi_list){.db = db, .id = id};
    if (!id) return BOMSYNC_OK;
    bomsync_status st = bsi_list_begin(&r, s, txn, id, db, err);
    if (st) return st;
    out->count = r.count;
    out->orphan_count = r.orphans;
    bsi_list_room(out, r.pieces);
    while (bsi_list_next(&out->piece[out->piece_count], &r)) out->piece_count++;
    st = bsi_list_end(&out->orphan, s, &r, err);
    if (st) bsi_list_free(out);
    return st;
}

/* Lists and pieces are long: room is made once for all of one. */
enum { VARINT_MOST = 10 };

/* Short numbers and longer ones take turns where much was edited: a branch for each byte would be guessed wrong as often. */
static inline uint8_t *put_varint(uint8_t *at, uint64_t v) {
    if (v >> 28) return bsi_varint_put(at, v);
    uint32_t x = (uint32_t)v, more = (31 - (uint32_t)__builtin_clz(x | 1)) / 7; /* bytes behind the first */
    x = (x & 0x7f) | (x & 0x3f80) << 1 | (x & 0x1fc000) << 2 | (x & 0xfe00000) << 3 | (0x808080u & ((1u << 8 * more) - 1));
    memcpy(at, &x, sizeof x);
    return at + more + 1;
}

static inline uint8_t *put_signed(uint8_t *at, int64_t v) { return put_varint(at, ((uint64_t)v << 1) ^ (uint64_t)(v >> 63)); }

static uint8_t *put_pieces(uint8_t *at, const bsi_list *list) {
    uint64_t last = 0;
    for (size_t i = 0; i < list->piece_count; last = list->piece[i++].id) {
        const bsi_list_piece *p = &list->piece[i];
        at = put_varint(put_signed(at, (int64_t)(p->id - last)), p->count);
        if (list->db == BSI_DB_STATE) {
            memcpy(at, &p->check, 4);
            at += 4;
        } else {
            at = put_varint(at, p->first);
        }
    }
    last = 0;
    for (size_t i = 0; i < list->orphan_count; last = list->orphan[i++]) at = put_signed(at, (int64_t)(list->orphan[i] - last));
    return at;
}

bomsync_status bsi_list_save(bsi_lister *l, bsi_list *list, bomsync_error *err) {
    bsi_buf b = {0};
    uint64_t id = l->counters.list + 1;
    const uint64_t head[LIST_HEAD / 8] = {(uint64_t)list->db, list->count, list->piece_count, list->orphan_count};
    bsi_value_start(&b);
    bsi_buf_add(&b, head, sizeof head);
    bsi_buf_reserve(&b, (list->piece_count * 2 + list->orphan_count) * VARINT_MOST);
    b.len = (size_t)(put_pieces(b.data + b.len, list) - b.data);
    uint32_t packed = (uint32_t)(b.len - BSI_VALUE_HEAD - LIST_HEAD);
    memcpy(b.data + BSI_VALUE_HEAD + 4, &packed, 4);
    bomsync_status st = bsi_lister_room(l, b.len, err);
    if (!st) st = bsi_value_save(&l->s->root, l->txn, BSI_DB_LISTS, bsi_key_id(&id), &b, MDB_APPEND, err);
    bsi_buf_free(&b);
    if (st) return st;
    l->counters.list = list->id = id;
    return BOMSYNC_OK;
}

bomsync_status bsi_list_seek(MDB_val *value, bsi_store *s, bsi_db db, uint64_t id, MDB_cursor *c, uint64_t here, bomsync_error *err) {
    MDB_val key = bsi_key_id(&id), k = {0};
    int rc = MDB_NOTFOUND;
    if (here && id > here && id - here <= 4)
        do rc = mdb_cursor_get(c, &k, value, MDB_NEXT);
        while (!rc && k.mv_size == 8 && bsi_get64(k.mv_data) < id);
    if (rc || k.mv_size != 8 || bsi_get64(k.mv_data) != id) {
        k = key;
        rc = mdb_cursor_get(c, &k, value, MDB_SET);
    }
    if (rc == MDB_NOTFOUND) return bsi_bad(err, &s->root, db, key, "missing");
    return rc ? bsi_env_fail(err, &s->root, rc, "read") : BOMSYNC_OK;
}

/* Refs of a piece from the value that it is. */
static bomsync_status piece_refs(bsi_ref *out, bsi_store *s, const bsi_list_piece *p, bsi_span v, bomsync_error *err) {
    const uint8_t *at = v.p, *end = v.p + v.n;
    bsi_ref last = 0;
    uint32_t i = 0;
    for (; at && i < p->count; i++) {
        uint64_t d = 0;
        if (at < end && *at < 0x80) d = *at++;
        else at = bsi_varint_get(at, end, &d);
        out[i] = last += (d >> 1) ^ -(d & 1);
    }
    if (at != end || (uint32_t)bsi_xxh128(out, p->count * sizeof *out).lo != p->check)
        return bsi_bad(err, &s->root, BSI_DB_STATE, bsi_key_id(&p->id), "not the piece that its list names");
    return BOMSYNC_OK;
}

static bomsync_status read_piece(bsi_ref *out, bsi_store *s, const bsi_list_piece *p, bomsync_error *err) {
    bsi_span v;
    MDB_val key = bsi_key_id(&p->id);
    bomsync_status st = bsi_value_get(&v, &s->root, s->root.read, BSI_DB_STATE, key, err);
    if (st) return st;
    return v.p ? piece_refs(out, s, p, v, err) : bsi_bad(err, &s->root, BSI_DB_STATE, key, "missing");
}

/* Values are found one after the other by a cursor, then checked and decoded side by side. */
typedef struct decode {
    bsi_ref *out;
    bsi_store *s;
    const bsi_list *list;
    MDB_val *value;
    size_t *at; /* refs before each stretch of PIECES_AT_ONCE */
    pthread_mutex_t lock;
    bomsync_status st; /* of the stretch `bad`, the first that is bad: the same for any number of workers */
    size_t bad;
    bomsync_error err;
} decode;
enum { PIECES_AT_ONCE = 512 };

static void decode_pieces(void *ctx, size_t index) {
    decode *d = ctx;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    bsi_ref *out = d->out + d->at[index];
    size_t end = BSI_MIN((index + 1) * PIECES_AT_ONCE, d->list->piece_count);
    for (size_t i = index * PIECES_AT_ONCE; !st && i < end; out += d->list->piece[i++].count) {
        const bsi_list_piece *p = &d->list->piece[i];
        bsi_span v;
        st = bsi_value_check(&v, &d->s->root, BSI_DB_STATE, bsi_key_id(&p->id), d->value[i], &err);
        if (!st) st = piece_refs(out, d->s, p, v, &err);
    }
    if (!st) return;
    pthread_mutex_lock(&d->lock);
    if (!d->st || index < d->bad) {
        d->st = st;
        d->bad = index;
        d->err = err;
    }
    pthread_mutex_unlock(&d->lock);
}

static bomsync_status find_pieces(decode *d, bomsync_error *err) {
    MDB_cursor *c;
    bsi_env *e = &d->s->root;
    bomsync_status st = BOMSYNC_OK;
    int rc = mdb_cursor_open(e->read, e->dbi[BSI_DB_STATE], &c);
    if (rc) return bsi_env_fail(err, e, rc, "read");
    uint64_t here = 0;
    size_t at = 0;
    for (size_t i = 0; !st && i < d->list->piece_count; at += d->list->piece[i].count, here = d->list->piece[i++].id) {
        if (i % PIECES_AT_ONCE == 0) d->at[i / PIECES_AT_ONCE] = at;
        st = bsi_list_seek(&d->value[i], d->s, BSI_DB_STATE, d->list->piece[i].id, c, here, err);
    }
    mdb_cursor_close(c);
    return st;
}

static bomsync_status all_refs(bsi_ref *out, bsi_store *s, const bsi_list *list, int workers, bomsync_error *err) {
    size_t tasks = (list->piece_count + PIECES_AT_ONCE - 1) / PIECES_AT_ONCE;
    if (!tasks) return BOMSYNC_OK; /* the view is not even looked at: lists that are written ahead have a thread of their own */
    decode d = {.out = out, .s = s, .list = list, .value = bsi_alloc(list->piece_count * sizeof(MDB_val)),
                .at = bsi_alloc(tasks * sizeof(size_t)), .lock = PTHREAD_MUTEX_INITIALIZER, .err = BOMSYNC_ERROR_INIT};
    bomsync_status st = find_pieces(&d, err);
    if (!st) {
        if (workers > 1 && tasks > 1) bsi_parallel(workers, tasks, decode_pieces, &d);
        else
            for (size_t i = 0; i < tasks; i++) decode_pieces(&d, i);
        st = d.st;
        if (st && err && !err->status) *err = d.err;
    }
    free(d.value);
    free(d.at);
    return st;
}

bomsync_status bsi_store_state_by(bsi_ref **refs, size_t *count, bsi_store *s, uint64_t state_list, int workers, bomsync_error *err) {
    bsi_list list;
    *refs = NULL;
    *count = 0;
    bomsync_status st = bsi_list_load(&list, s, s->root.read, state_list, BSI_DB_STATE, err);
    if (st) return st;
    bsi_ref *out = bsi_vast_alloc((size_t)list.count * sizeof *out);
    st = all_refs(out, s, &list, workers, err);
    if (st) {
        bsi_vast_free(out);
    } else {
        *refs = out;
        *count = (size_t)list.count;
    }
    bsi_list_free(&list);
    return st;
}

bomsync_status bsi_store_state(bsi_ref **refs, size_t *count, bsi_store *s, uint64_t state_list, bomsync_error *err) {
    return bsi_store_state_by(refs, count, s, state_list, 1, err);
}

/* ---- writing ---- */

bomsync_status bsi_lister_room(bsi_lister *l, size_t bytes, bomsync_error *err) {
    bsi_env *e = &l->s->root;
    if (l->txn && l->dirty > (l->most ? l->most : BSI_STORE_DIRTY_BYTES) && !l->last) {
        MDB_txn *txn = l->txn;
        l->txn = NULL;
        l->dirty = 0;
        bomsync_status st = bsi_env_commit(e, txn, err);
        if (st) return st;
    }
    l->dirty += bytes;
    return l->txn ? BOMSYNC_OK : bsi_env_begin(&l->txn, e, err);
}

bomsync_status bsi_lister_begin_last(bsi_lister *l, bomsync_error *err) {
    bomsync_status st = bsi_lister_room(l, 0, err);
    l->last = true;
    return st;
}

void bsi_list_room(bsi_list *list, size_t more) {
    if (list->piece_cap - list->piece_count >= more) return;
    list->piece = bsi_vast_realloc(list->piece, (list->piece_cap = list->piece_count + more) * sizeof *list->piece);
}

void bsi_list_add(bsi_list *list, bsi_list_piece p) {
    list->count += p.count;
    if (list->piece_count && list->db == BSI_DB_IMAGE) {
        bsi_list_piece *last = &list->piece[list->piece_count - 1];
        if (last->id == p.id && last->first + last->count == p.first) {
            last->count += p.count;
            return;
        }
    }
    if (list->piece_count == list->piece_cap) bsi_list_room(list, BSI_MAX(list->piece_count, (size_t)1));
    list->piece[list->piece_count++] = p;
}

static size_t state_cut(const bsi_ref *ref, size_t count) {
    for (size_t n = STATE_MIN; n < BSI_MIN(count, (size_t)STATE_MAX); n++)
        if (((bsi_stir(ref[n - 1]) >> 40) & STATE_MASK) == 0) return n;
    return BSI_MIN(count, (size_t)STATE_MAX);
}

static void put_refs(bsi_buf *b, const bsi_ref *ref, size_t count) {
    bsi_ref last = 0;
    bsi_buf_reserve(b, count * VARINT_MOST);
    uint8_t *at = b->data + b->len;
    for (size_t i = 0; i < count; last = ref[i++]) at = put_signed(at, (int64_t)(ref[i] - last));
    b->len = (size_t)(at - b->data);
}

/* The value of a new piece, which gets its id. */
static bomsync_status save_piece(bsi_list_piece *p, bsi_lister *l, bsi_buf *value, bomsync_error *err) {
    p->id = l->counters.piece + 1;
    bomsync_status st = bsi_lister_room(l, value->len + 40, err);
    if (!st) st = bsi_value_save(&l->s->root, l->txn, BSI_DB_STATE, bsi_key_id(&p->id), value, MDB_APPEND, err);
    if (!st) l->counters.piece = p->id;
    return st;
}

static bomsync_status add_state(bsi_list *list, bsi_lister *l, bsi_buf *value, const bsi_ref *ref, size_t count,
                                bsi_hash128 digest, bomsync_error *err) {
    bsi_list_piece p = {.check = (uint32_t)digest.lo, .count = (uint32_t)count};
    bsi_value_start(value);
    put_refs(value, ref, count);
    bomsync_status st = save_piece(&p, l, value, err);
    if (!st) bsi_list_add(list, p);
    return st;
}

void bsi_known_open(bsi_known *k, size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    *k = (bsi_known){.piece = bsi_vast_alloc(count * sizeof *k->piece), .digest = bsi_vast_alloc(count * sizeof *k->digest),
                     .slot = bsi_vast_calloc(size, sizeof *k->slot), .mask = size - 1, .room = count};
}

void bsi_known_add(bsi_known *k, bsi_hash128 digest, bsi_list_piece p) {
    assert(k->count < k->room);
    size_t at = digest.lo & k->mask;
    while (k->slot[at]) at = (at + 1) & k->mask;
    k->piece[k->count] = p;
    k->digest[k->count] = digest;
    k->slot[at] = (uint32_t)++k->count;
}

const bsi_list_piece *bsi_known_find(const bsi_known *k, bsi_hash128 digest, size_t count) {
    for (size_t at = digest.lo & k->mask; k->slot[at]; at = (at + 1) & k->mask) {
        size_t i = k->slot[at] - 1;
        if (bsi_hash128_eq(k->digest[i], digest) && k->piece[i].count == count) return &k->piece[i];
    }
    return NULL;
}

void bsi_known_close(bsi_known *k) {
    bsi_vast_free(k->piece);
    bsi_vast_free(k->digest);
    bsi_vast_free(k->slot);
}

static bomsync_status known_state(bsi_known *k, bsi_store *s, const bsi_list *old, bomsync_error *err) {
    bsi_ref *ref = bsi_vast_alloc((size_t)old->count * sizeof *ref);
    bsi_known_open(k, old->piece_count);
    bomsync_status st = all_refs(ref, s, old, 1, err);
    for (size_t i = 0, at = 0; !st && i < old->piece_count; at += old->piece[i++].count)
        bsi_known_add(k, bsi_xxh128(ref + at, old->piece[i].count * sizeof *ref), old->piece[i]);
    bsi_vast_free(ref);
    return st;
}

bomsync_status bsi_lister_state(bsi_list *out, bsi_lister *l, const bsi_ref *ref, size_t count, const bsi_list *old,
                                bomsync_error *err) {
    bsi_known k;
    bsi_buf value = {0};
    *out = (bsi_list){.db = BSI_DB_STATE};
    bomsync_status st = known_state(&k, l->s, old, err);
    for (size_t at = 0, n; !st && at < count; at += n) {
        n = state_cut(ref + at, count - at);
        bsi_hash128 digest = bsi_xxh128(ref + at, n * sizeof *ref);
        const bsi_list_piece *p = bsi_known_find(&k, digest, n);
        if (p) bsi_list_add(out, *p);
        else st = add_state(out, l, &value, ref + at, n, digest, err);
    }
    bsi_known_close(&k);
    bsi_buf_free(&value);
    return st;
}

/* ---- a state list edited ----
 *
 * First what becomes of the list: old pieces, and new ones, whose bytes lie one behind the other until they are saved (MADE and how many they are,
 * as id). That needs no transaction, so a thread of its own may do it.
 */
#define MADE (1ull << 63)

typedef struct stretch { /* refs that are being written again */
    bsi_store *s;
    const bsi_list *old;
    const bsi_ref *known; /* refs of old, but for those that are swapped; NULL: they are read */
    const uint64_t *swapped;
    bsi_list *out;
    bool copied;          /* its refs are put together in `ref`; else they are those of known from `first` up to `at` */
    uint64_t first;
    bsi_buf ref, *made;
    bsi_ref held[STATE_MAX]; /* refs of piece `reading`, read once */
    size_t reading;
    size_t piece;            /* the first old piece that is not passed, */
    uint64_t base, at;       /* its first ordinal; ordinals before `at` are done with */
} stretch;

static uint64_t piece_end(const stretch *x) { return x->base + (x->piece < x->old->piece_count ? x->old->piece[x->piece].count : 0); }

static void pass(stretch *x, uint64_t to) {
    x->at = to;
    while (x->piece < x->old->piece_count && piece_end(x) <= to) x->base += x->old->piece[x->piece++].count;
}

/* Old refs from where the stretch stands up to `to` are taken into it. */
static bomsync_status pull(stretch *x, uint64_t to, bomsync_error *err) {
    if (x->known && x->at < to) {
        if (x->copied) bsi_buf_add(&x->ref, x->known + x->at, (size_t)(to - x->at) * sizeof(bsi_ref));
        pass(x, to);
    }
    while (x->at < to) {
        if (x->reading != x->piece) {
            bomsync_status st = read_piece(x->held, x->s, &x->old->piece[x->piece], err);
            if (st) return st;
            x->reading = x->piece;
        }
        uint64_t end = BSI_MIN(to, piece_end(x));
        bsi_buf_add(&x->ref, x->held + (x->at - x->base), (size_t)(end - x->at) * sizeof(bsi_ref));
        pass(x, end);
    }
    return BOMSYNC_OK;
}

/* Makes pieces of what is cut off; returns how many refs are left: fewer than `keep`, while more could be pulled in. */
static size_t make_pieces(stretch *x, size_t keep) {
    const bsi_ref *ref = x->copied ? (const void *)x->ref.data : x->known + x->first;
    size_t count = x->copied ? x->ref.len / sizeof *ref : (size_t)(x->at - x->first), at = 0;
    while (at < count) {
        size_t n = state_cut(ref + at, count - at), before = x->made->len;
        if (at + n == count && n < keep) break;
        put_refs(x->made, ref + at, n);
        bsi_list_add(x->out, (bsi_list_piece){.id = MADE | (x->made->len - before), .count = (uint32_t)n,
                                              .check = (uint32_t)bsi_xxh128(ref + at, n * sizeof *ref).lo});
        at += n;
    }
    size_t rest = count - at;
    x->first += at;
    if (x->copied && at && rest) memmove(x->ref.data, ref + at, rest * sizeof *ref);
    if (x->copied) x->ref.len = rest * sizeof *ref;
    return rest;
}

static bomsync_status put_edit(stretch *x, const bsi_state_edit *edit, bomsync_error *err) {
    bomsync_status st = pull(x, edit->first, err);
    if (!x->copied) { /* its refs stand side by side no more */
        x->copied = true;
        bsi_buf_add(&x->ref, x->known + x->first, (size_t)(x->at - x->first) * sizeof(bsi_ref));
    }
    if (edit->count) bsi_buf_add(&x->ref, edit->ref, edit->count * sizeof(bsi_ref));
    pass(x, edit->end);
    if (x->ref.len >= 4 * STATE_MAX * sizeof(bsi_ref)) make_pieces(x, STATE_MAX); /* cut whatever comes behind: else a stretch may be as long as the list */
    return st;
}

static bool is_swapped(const stretch *x, uint64_t i) { return x->swapped && i < x->old->count && bsi_bit_has(x->swapped, i); }

static uint64_t next_swapped(const stretch *x) {
    uint64_t words = x->swapped ? (x->old->count >> 6) + 1 : 0, w = x->at >> 6;
    for (uint64_t left = ~0ull << (x->at & 63); w < words; w++, left = ~0ull)
        if (x->swapped[w] & left) return w << 6 | (uint64_t)__builtin_ctzll(x->swapped[w] & left);
    return UINT64_MAX;
}

/* From edit i on, as many as the stretch meets. It ends where an old piece ends, if nothing changes right behind. */
static bomsync_status run_stretch(stretch *x, const bsi_state_edit *edit, size_t *i, size_t count, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    uint64_t border = x->at == x->base ? x->at : piece_end(x);
    for (size_t rest = 1; !st && rest; border = piece_end(x)) {
        while (!st) {
            if (*i < count && edit[*i].first <= border) {
                st = put_edit(x, &edit[(*i)++], err);
                border = BSI_MAX(border, x->at == x->base ? x->at : piece_end(x));
            } else if (is_swapped(x, border)) {
                st = pull(x, border, err);
                border = piece_end(x);
            } else {
                break;
            }
        }
        if (!st) st = pull(x, border, err);
        if (!st) rest = make_pieces(x, x->at < x->old->count ? STATE_KEEP : 0);
    }
    return st;
}

bomsync_status bsi_state_edit_make(bsi_list *out, bsi_buf *made, bsi_store *s, const bsi_list *old, const bsi_ref *known, const uint64_t *swapped,
                                     const bsi_state_edit *edit, size_t count, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    *out = (bsi_list){.db = BSI_DB_STATE};
    stretch *x = bsi_calloc(1, sizeof *x);
    x->s = s;
    x->made = made;
    x->old = old;
    x->known = known;
    x->swapped = swapped;
    x->out = out;
    x->reading = SIZE_MAX;
    for (size_t i = 0; !st;) {
        uint64_t next = BSI_MIN(i < count ? edit[i].first : UINT64_MAX, next_swapped(x));
        bool grows = next == old->count; /* the last piece grows with the list */
        while (x->piece < old->piece_count && piece_end(x) <= next && !(grows && x->piece + 1 == old->piece_count)) {
            bsi_list_add(out, old->piece[x->piece]);
            pass(x, piece_end(x));
        }
        if (next == UINT64_MAX) break;
        x->first = x->at;
        x->copied = !known;
        x->ref.len = 0;
        st = pull(x, next, err);
        if (!st) st = run_stretch(x, edit, &i, count, err);
    }
    bsi_buf_free(&x->ref);
    free(x);
    return st;
}

bomsync_status bsi_state_edit_save(bsi_list *list, bsi_lister *l, const bsi_buf *made, bomsync_error *err) {
    const uint8_t *at = made->data;
    bsi_buf value = {0};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; !st && i < list->piece_count; i++) {
        bsi_list_piece *p = &list->piece[i];
        if (!(p->id & MADE)) continue;
        size_t bytes = (size_t)(p->id & ~MADE);
        bsi_value_start(&value);
        bsi_buf_add(&value, at, bytes);
        at += bytes;
        st = save_piece(p, l, &value, err);
    }
    bsi_buf_free(&value);
    return st;
}
