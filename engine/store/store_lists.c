/* store/store_lists.c - long ordered lists of which little changes: a feed's state and its image.
 *
 *   list:   piece 7 (31 refs) ─ piece 8 (118) ─ piece 31 (40) ─ piece 10 ...      {id, digest, count} each
 *   next:   piece 7           ─ piece 8       ─ piece 44      ─ piece 10 ...      only 44 is written
 *
 * Where a piece ends is decided by the entry itself (a hash of the ref, the low bits of the fingerprint), so a change
 * moves no cut but its own. A piece is found again by the XXH3-128 of its content among the pieces of the feed's list
 * before; nothing else is searched.
 *
 * State refs mostly ascend by one and take a byte each as differences: pieces of about 90, one value each.
 *
 * Image entries have 56 bytes, so pieces are small (about 12): with 1 % of the blocks changed at random an eighth of the
 * image is written again, not four fifths as with 128. Pieces are packed into values of up to 72 entries, which fill a
 * page of their own: dropping one then rewrites no neighbour. A page that is less than half in use is copied out, so
 * dead entries stay below half. (Tried before: each piece a value on shared leaf pages. Dropping the old ones rewrote
 * twice as much as the new ones took.)
 *
 * Pieces may fill many pages: every BSI_STORE_DIRTY_BYTES they are committed, above the counters of the last publish,
 * where the next writer finds and deletes them if this run dies.
 */
#include "store/store_inner.h"

enum { STATE_MIN = 32, STATE_MASK = 63, STATE_MAX = 512, IMAGE_MIN = 6, IMAGE_MASK = 7, IMAGE_MAX = 36, IMAGE_PAGE = 72 };
enum { LIST_HEAD = 32 }; /* u32 database, u32 room, u64 entries, u64 pieces, u64 orphans */
static_assert(sizeof(bsi_image_entry) == 56, "image entries are stored as they are");
static_assert(sizeof(bsi_list_piece) == 32, "pieces of a list are stored as they are");
static_assert(IMAGE_PAGE * sizeof(bsi_image_entry) + BSI_VALUE_HEAD <= 4080, "entries of one value fit a page");

void bsi_list_free(bsi_list *l) {
    free(l->piece);
    free(l->orphan);
    *l = (bsi_list){0};
}

/* ---- reading ---- */

bomsync_status bsi_list_load(bsi_list *out, bsi_store *s, MDB_txn *txn, uint64_t id, bsi_db db, bomsync_error *err) {
    bsi_span v;
    *out = (bsi_list){.db = db, .id = id};
    if (!id) return BOMSYNC_OK;
    MDB_val key = bsi_key_id(&id);
    bomsync_status st = bsi_value_get(&v, &s->root, txn, BSI_DB_LISTS, key, err);
    if (st) return st;
    if (!v.p) return bsi_bad(err, &s->root, BSI_DB_LISTS, key, "missing");
    if (v.n < LIST_HEAD || bsi_get32(v.p) != (uint32_t)db) return bsi_bad(err, &s->root, BSI_DB_LISTS, key, "another kind of list");
    uint64_t pieces = bsi_get64(v.p + 16), orphans = bsi_get64(v.p + 24);
    if (pieces > v.n / 32 || orphans > v.n / 8 || v.n != LIST_HEAD + pieces * 32 + orphans * 8)
        return bsi_bad(err, &s->root, BSI_DB_LISTS, key, "wrong length");
    out->count = bsi_get64(v.p + 8);
    out->piece_count = (size_t)pieces;
    out->orphan_count = (size_t)orphans;
    out->piece = bsi_alloc((size_t)pieces * 32);
    memcpy(out->piece, v.p + LIST_HEAD, (size_t)pieces * 32);
    out->orphan = bsi_alloc((size_t)orphans * 8);
    memcpy(out->orphan, v.p + LIST_HEAD + pieces * 32, (size_t)orphans * 8);
    uint64_t sum = 0;
    for (size_t i = 0; i < out->piece_count; i++) sum += out->piece[i].count;
    if (sum == out->count) return BOMSYNC_OK;
    bsi_list_free(out);
    return bsi_bad(err, &s->root, BSI_DB_LISTS, key, "its pieces do not add up");
}

bomsync_status bsi_list_piece_refs(bsi_ref *out, bsi_store *s, MDB_txn *txn, const bsi_list_piece *p, bomsync_error *err) {
    bsi_span v;
    MDB_val key = bsi_key_id(&p->id);
    bomsync_status st = bsi_value_get(&v, &s->root, txn, BSI_DB_STATE, key, err);
    if (st) return st;
    if (!v.p) return bsi_bad(err, &s->root, BSI_DB_STATE, key, "missing");
    bsi_reader r = {v.p, v.p + v.n, true};
    bsi_ref last = 0;
    for (uint32_t i = 0; i < p->count; i++) out[i] = last += (uint64_t)bsi_read_signed(&r);
    if (!r.ok || r.p != r.end || !bsi_hash128_eq(bsi_xxh128(out, p->count * sizeof *out), p->digest))
        return bsi_bad(err, &s->root, BSI_DB_STATE, key, "not the piece that its list names");
    return BOMSYNC_OK;
}

bomsync_status bsi_store_state(bsi_ref **refs, size_t *count, bsi_store *s, uint64_t state_list, bomsync_error *err) {
    bsi_list list;
    *refs = NULL;
    *count = 0;
    bomsync_status st = bsi_list_load(&list, s, s->root.read, state_list, BSI_DB_STATE, err);
    if (st) return st;
    uint64_t at = 0;
    for (size_t i = 0; !st && i < list.piece_count; i++)
        if (list.piece[i].count > STATE_MAX)
            st = bsi_bad(err, &s->root, BSI_DB_LISTS, bsi_key_id(&state_list), "a piece is too long");
    bsi_ref *out = st ? NULL : bsi_alloc((size_t)list.count * sizeof *out);
    for (size_t i = 0; !st && i < list.piece_count; i++) {
        st = bsi_list_piece_refs(out + at, s, s->root.read, &list.piece[i], err);
        at += list.piece[i].count;
    }
    if (st) {
        free(out);
    } else {
        *refs = out;
        *count = (size_t)list.count;
    }
    bsi_list_free(&list);
    return st;
}

static bomsync_status image_value(const bsi_image_entry **entry, size_t *count, bsi_store *s, uint64_t id, MDB_cursor *c,
                                  uint64_t here, bomsync_error *err) {
    MDB_val key = bsi_key_id(&id), k = {0}, v;
    int rc = MDB_NOTFOUND;
    /* ids mostly ascend by one: the next is tried before a search */
    if (here && id > here && id - here <= 4)
        do rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
        while (!rc && k.mv_size == 8 && bsi_get64(k.mv_data) < id);
    if (rc || k.mv_size != 8 || bsi_get64(k.mv_data) != id) {
        k = key;
        rc = mdb_cursor_get(c, &k, &v, MDB_SET);
    }
    if (rc == MDB_NOTFOUND) return bsi_bad(err, &s->root, BSI_DB_IMAGE, key, "missing");
    if (rc) return bsi_env_fail(err, &s->root, rc, "read");
    bsi_span payload;
    bomsync_status st = bsi_value_check(&payload, &s->root, BSI_DB_IMAGE, key, v, true, err);
    if (st) return st;
    if (payload.n % sizeof **entry) return bsi_bad(err, &s->root, BSI_DB_IMAGE, key, "not whole entries");
    if ((uintptr_t)payload.p & 7) return bsi_bad(err, &s->root, BSI_DB_IMAGE, key, "lies askew on its page");
    *entry = (const void *)payload.p;
    *count = payload.n / sizeof **entry;
    return BOMSYNC_OK;
}

/* Pieces that follow each other on one page are handed out as one. */
static bomsync_status image_pieces(bsi_image *out, bsi_store *s, const bsi_list *list, MDB_cursor *c, bomsync_error *err) {
    uint64_t at = 0, here = 0;
    const bsi_image_entry *entry = NULL;
    size_t count = 0;
    bsi_image_piece *last = NULL;
    for (size_t i = 0; i < list->piece_count; i++) {
        const bsi_list_piece *p = &list->piece[i];
        if (p->id != here) {
            bomsync_status st = image_value(&entry, &count, s, p->id, c, here, err);
            if (st) return st;
            here = p->id;
        }
        if (p->first > count || p->count > count - p->first)
            return bsi_bad(err, &s->root, BSI_DB_IMAGE, bsi_key_id(&p->id), "not as long as its list says");
        if (last && last->id == p->id && last->before + last->count == p->first) {
            last->count += p->count;
        } else {
            last = &out->piece[out->piece_count++];
            *last = (bsi_image_piece){entry + p->first, p->count, at, p->id, p->first};
        }
        at += p->count;
    }
    return BOMSYNC_OK;
}

bomsync_status bsi_store_image(bsi_image *out, bsi_store *s, uint64_t image_list, bomsync_error *err) {
    bsi_list list;
    MDB_cursor *c;
    *out = (bsi_image){0};
    bomsync_status st = bsi_list_load(&list, s, s->root.read, image_list, BSI_DB_IMAGE, err);
    if (st) return st;
    int rc = mdb_cursor_open(s->root.read, s->root.dbi[BSI_DB_IMAGE], &c);
    if (rc) {
        bsi_list_free(&list);
        return bsi_env_fail(err, &s->root, rc, "read");
    }
    out->piece = bsi_calloc(list.piece_count, sizeof *out->piece);
    out->count = list.count;
    out->orphan = list.orphan;
    out->orphan_count = list.orphan_count;
    list.orphan = NULL;
    st = image_pieces(out, s, &list, c, err);
    mdb_cursor_close(c);
    bsi_list_free(&list);
    if (st) bsi_image_free(out);
    return st;
}

void bsi_image_free(bsi_image *i) {
    free(i->piece);
    free(i->orphan);
    *i = (bsi_image){0};
}

bomsync_status bsi_store_image_check(const bsi_store *s, const bsi_image_piece *piece, bomsync_error *err) {
    bsi_span payload;
    const uint8_t *head = (const uint8_t *)(piece->entry - piece->before) - BSI_VALUE_HEAD;
    MDB_val value = {BSI_VALUE_HEAD + bsi_pad8(bsi_get32(head + 4)), (void *)(uintptr_t)head};
    MDB_val key = bsi_key_id(&piece->id);
    size_t least = BSI_VALUE_HEAD + (piece->before + piece->count) * sizeof(bsi_image_entry);
    if (value.mv_size < least || value.mv_size > BSI_VALUE_HEAD + IMAGE_PAGE * sizeof(bsi_image_entry))
        return bsi_bad(err, &s->root, BSI_DB_IMAGE, key, "changed under the reader");
    return bsi_value_check(&payload, &s->root, BSI_DB_IMAGE, key, value, false, err);
}

/* ---- finding pieces again ---- */

typedef struct known {
    bsi_list list;
    uint32_t *slot; /* index + 1 of a piece, by the low bits of its digest */
    size_t mask;
} known;

static bomsync_status known_open(known *k, bsi_lister *l, uint64_t previous, bsi_db db, bomsync_error *err) {
    *k = (known){0};
    bomsync_status st = bsi_list_load(&k->list, l->s, l->s->root.read, previous, db, err);
    if (st) return st;
    size_t size = 16;
    while (size < k->list.piece_count * 2) size *= 2;
    k->slot = bsi_calloc(size, sizeof *k->slot);
    k->mask = size - 1;
    for (size_t i = 0; i < k->list.piece_count; i++) {
        size_t at = k->list.piece[i].digest.lo & k->mask;
        while (k->slot[at]) at = (at + 1) & k->mask;
        k->slot[at] = (uint32_t)i + 1;
    }
    return BOMSYNC_OK;
}

static const bsi_list_piece *known_find(const known *k, bsi_hash128 digest, uint32_t count) {
    for (size_t at = digest.lo & k->mask; k->slot[at]; at = (at + 1) & k->mask) {
        const bsi_list_piece *p = &k->list.piece[k->slot[at] - 1];
        if (bsi_hash128_eq(p->digest, digest) && p->count == count) return p;
    }
    return NULL;
}

static void known_close(known *k) {
    bsi_list_free(&k->list);
    free(k->slot);
}

/* ---- writing ---- */

static bomsync_status lister_room(bsi_lister *l, size_t bytes, bomsync_error *err) {
    bsi_env *e = &l->s->root;
    if (l->txn && l->dirty > BSI_STORE_DIRTY_BYTES && !l->last) {
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
    bomsync_status st = lister_room(l, 0, err);
    l->last = true;
    return st;
}

static void list_add(bsi_list *list, bsi_list_piece p) {
    if ((list->piece_count & (list->piece_count - 1)) == 0)
        list->piece = bsi_realloc(list->piece, BSI_MAX(list->piece_count * 2, (size_t)1) * sizeof p);
    list->piece[list->piece_count++] = p;
    list->count += p.count;
}

static inline uint64_t stir(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15ull;
    return x ^ (x >> 29);
}

static size_t state_cut(const bsi_ref *ref, size_t count) {
    for (size_t n = 1; n < BSI_MIN(count, (size_t)STATE_MAX); n++)
        if (n >= STATE_MIN && ((stir(ref[n - 1]) >> 40) & STATE_MASK) == 0) return n;
    return BSI_MIN(count, (size_t)STATE_MAX);
}

static size_t image_cut(const bsi_image_entry *e, size_t count) {
    for (size_t n = 1; n < BSI_MIN(count, (size_t)IMAGE_MAX); n++)
        if (n >= IMAGE_MIN && (e[n - 1].fp.lo & IMAGE_MASK) == 0) return n;
    return BSI_MIN(count, (size_t)IMAGE_MAX);
}

static bomsync_status add_state(bsi_list *list, bsi_lister *l, bsi_buf *value, const bsi_ref *ref, size_t count,
                                bsi_hash128 digest, bomsync_error *err) {
    bsi_list_piece p = {.id = l->counters.piece + 1, .digest = digest, .count = (uint32_t)count};
    bsi_ref last = 0;
    bsi_value_start(value);
    for (size_t i = 0; i < count; last = ref[i++]) bsi_put_signed(value, (int64_t)(ref[i] - last));
    bomsync_status st = lister_room(l, value->len + 40, err);
    if (!st) st = bsi_value_save(&l->s->root, l->txn, BSI_DB_STATE, bsi_key_id(&p.id), value, MDB_APPEND, err);
    if (st) return st;
    l->counters.piece = p.id;
    list_add(list, p);
    return BOMSYNC_OK;
}

bomsync_status bsi_lister_state(bsi_list *out, bsi_lister *l, const bsi_ref *ref, size_t count, uint64_t previous,
                                bomsync_error *err) {
    known k;
    bsi_buf value = {0};
    *out = (bsi_list){.db = BSI_DB_STATE};
    bomsync_status st = known_open(&k, l, previous, BSI_DB_STATE, err);
    for (size_t at = 0, n; !st && at < count; at += n) {
        n = state_cut(ref + at, count - at);
        bsi_hash128 digest = bsi_xxh128(ref + at, n * sizeof *ref);
        const bsi_list_piece *old = known_find(&k, digest, (uint32_t)n);
        if (old) list_add(out, *old);
        else st = add_state(out, l, &value, ref + at, n, digest, err);
    }
    known_close(&k);
    bsi_buf_free(&value);
    return st;
}

/* ---- the image's pages ---- */

/* Entries in use on each page of the list before, by page id. */
typedef struct pages {
    uint64_t *id;
    uint32_t *used;
    size_t mask;
} pages;

static size_t page_at(const pages *p, uint64_t id) {
    size_t at = stir(id) & p->mask;
    while (p->id[at] && p->id[at] != id) at = (at + 1) & p->mask;
    return at;
}

static void pages_open(pages *p, const bsi_list *list) {
    size_t size = 16;
    while (size < list->piece_count * 2) size *= 2;
    *p = (pages){bsi_calloc(size, sizeof *p->id), bsi_calloc(size, sizeof *p->used), size - 1};
    for (size_t i = 0; i < list->piece_count; i++) p->id[page_at(p, list->piece[i].id)] = list->piece[i].id;
}

static void pages_close(pages *p) {
    free(p->id);
    free(p->used);
}

static bomsync_status flush_page(bsi_lister *l, bsi_buf *page, bomsync_error *err) {
    if (page->len <= BSI_VALUE_HEAD) return BOMSYNC_OK;
    uint64_t id = l->counters.piece + 1;
    bomsync_status st = lister_room(l, 4096 + 40, err);
    if (!st) st = bsi_value_save(&l->s->root, l->txn, BSI_DB_IMAGE, bsi_key_id(&id), page, MDB_APPEND, err);
    if (!st) l->counters.piece = id;
    bsi_value_start(page);
    return st;
}

static bomsync_status add_image(bsi_list *list, bsi_lister *l, bsi_buf *page, const bsi_image_entry *e, bsi_list_piece p,
                                bomsync_error *err) {
    if (page->len + p.count * sizeof *e > BSI_VALUE_HEAD + IMAGE_PAGE * sizeof *e) {
        bomsync_status st = flush_page(l, page, err);
        if (st) return st;
    }
    p.id = l->counters.piece + 1; /* the page's, when it is flushed: nothing else draws ids meanwhile */
    p.first = (uint32_t)((page->len - BSI_VALUE_HEAD) / sizeof *e);
    bsi_buf_add(page, e, p.count * sizeof *e);
    list_add(list, p);
    return BOMSYNC_OK;
}

/* First the cuts, and what is known of the list before; then pages less than half in use are written anew. */
bomsync_status bsi_lister_image(bsi_list *out, bsi_lister *l, const bsi_image_entry *e, size_t count, const bsi_ref *orphan,
                                size_t orphan_count, uint64_t previous, bomsync_error *err) {
    known k;
    pages pg = {0};
    bsi_buf page = {0};
    bsi_list cut = {0};
    *out = (bsi_list){.db = BSI_DB_IMAGE, .orphan_count = orphan_count, .orphan = bsi_alloc(orphan_count * sizeof *orphan)};
    if (orphan_count) memcpy(out->orphan, orphan, orphan_count * sizeof *orphan);
    bomsync_status st = known_open(&k, l, previous, BSI_DB_IMAGE, err);
    if (!st) pages_open(&pg, &k.list);
    for (size_t at = 0, n; !st && at < count; at += n) {
        n = image_cut(e + at, count - at);
        bsi_list_piece p = {.digest = bsi_xxh128(e + at, n * sizeof *e), .count = (uint32_t)n};
        const bsi_list_piece *old = known_find(&k, p.digest, p.count);
        if (old) pg.used[page_at(&pg, old->id)] += old->count;
        list_add(&cut, old ? *old : p);
    }
    bsi_value_start(&page);
    size_t at = 0;
    for (size_t i = 0; !st && i < cut.piece_count; at += cut.piece[i++].count) {
        const bsi_list_piece *p = &cut.piece[i];
        if (p->id && pg.used[page_at(&pg, p->id)] >= IMAGE_PAGE / 2) list_add(out, *p);
        else st = add_image(out, l, &page, e + at, *p, err);
    }
    if (!st) st = flush_page(l, &page, err);
    bsi_list_free(&cut);
    pages_close(&pg);
    known_close(&k);
    bsi_buf_free(&page);
    return st;
}

bomsync_status bsi_list_save(bsi_lister *l, bsi_list *list, bomsync_error *err) {
    bsi_buf b = {0};
    uint64_t id = l->counters.list + 1;
    const uint64_t head[LIST_HEAD / 8] = {(uint64_t)list->db, list->count, list->piece_count, list->orphan_count};
    bsi_value_start(&b);
    bsi_buf_add(&b, head, sizeof head);
    bsi_buf_add(&b, list->piece, list->piece_count * sizeof *list->piece);
    bsi_buf_add(&b, list->orphan, list->orphan_count * sizeof *list->orphan);
    bomsync_status st = lister_room(l, b.len, err);
    if (!st) st = bsi_value_save(&l->s->root, l->txn, BSI_DB_LISTS, bsi_key_id(&id), &b, MDB_APPEND, err);
    bsi_buf_free(&b);
    if (st) return st;
    l->counters.list = list->id = id;
    return BOMSYNC_OK;
}

/* ---- dropping ---- */

bomsync_status bsi_list_drop_image(bsi_lister *l, uint64_t id, const bsi_list *next, bomsync_error *err) {
    if (!id) return BOMSYNC_OK;
    bsi_list old, none = {0};
    pages used;
    bsi_env *e = &l->s->root;
    bomsync_status st = bsi_list_load(&old, l->s, e->read, id, BSI_DB_IMAGE, err);
    if (st) return st;
    pages_open(&used, next ? next : &none);
    for (size_t i = 0; !st && i < old.piece_count; i++)
        if (!used.id[page_at(&used, old.piece[i].id)])
            st = bsi_value_drop(e, l->txn, BSI_DB_IMAGE, bsi_key_id(&old.piece[i].id), err);
    if (!st) st = bsi_value_drop(e, l->txn, BSI_DB_LISTS, bsi_key_id(&id), err);
    pages_close(&used);
    bsi_list_free(&old);
    return st;
}
