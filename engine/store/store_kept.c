/* store/store_kept.c - the list of what is kept of a feed, as bytes and back.
 *
 *   list   | room for the count | entry | entry | entry | ..       as FORMAT.md has them; stored with the count in front, as one value
 *
 * There may be a million: each delete that waits for a decision is one. So the list stays as it is stored, in memory that may lie in a file
 * (core/vast.h); who wants an entry reads it where it stands.
 *
 * Tried and dropped: an array of structs with strings of their own. A list of 830,000 took 300 MB, and a sync holds two.
 */
#include "core/vast.h"
#include "store/store_inner.h"

enum { COUNT_ROOM = 16 }; /* in front of the entries, for their number */

/* ---- writing ---- */

static void put_entry(bsi_buf *b, const bsi_kept *k) {
    bsi_buf_add(b, &k->kh, 8);
    bsi_buf_byte(b, (uint8_t)(k->key_read | (k->image != NULL) << 1 | k->absent << 2));
    bsi_put_text(b, k->rule);
    if (k->image) bsi_buf_lstr(b, k->image, k->image_bytes);
    bsi_buf_varint(b, k->body_bytes);
    bsi_buf_varint(b, k->slot_count);
    bsi_put_text(b, k->partition);
    bsi_put_text(b, k->file);
    bsi_put_signed(b, k->byte);
    bsi_put_signed(b, k->line);
    bsi_put_text(b, k->column);
    bsi_put_text(b, k->value);
    bsi_put_signed(b, k->since);
    bsi_buf_add(b, k->hold, 32);
}

static void make_room(bsi_kept_list *l, size_t bytes) {
    if (l->bytes && l->len + bytes <= l->cap) return;
    l->cap = BSI_MAX(l->cap * 2, l->len + bytes + 4096);
    l->bytes = bsi_vast_realloc(l->bytes, l->cap);
}

void bsi_kept_put(bsi_kept_list *l, const bsi_kept *k) {
    l->entry.len = 0;
    put_entry(&l->entry, k);
    if (!l->bytes) {
        make_room(l, COUNT_ROOM);
        l->len = COUNT_ROOM;
    }
    make_room(l, l->entry.len);
    memcpy(l->bytes + l->len, l->entry.data, l->entry.len);
    l->len += l->entry.len;
    l->count++;
}

void bsi_kept_free(bsi_kept_list *l) {
    bsi_vast_free(l->bytes);
    bsi_buf_free(&l->entry);
    *l = (bsi_kept_list){0};
}

bool bsi_kept_same(const bsi_kept_list *a, const bsi_kept_list *b) {
    return a->count == b->count && a->len == b->len && (!a->len || memcmp(a->bytes + COUNT_ROOM, b->bytes + COUNT_ROOM, a->len - COUNT_ROOM) == 0);
}

/* ---- reading ---- */

static void read_text(bsi_reader *r, bsi_buf *texts, size_t *at) {
    uint64_t n = bsi_read_varint(r);
    *at = SIZE_MAX;
    if (!r->ok || !n) return;
    if ((uint64_t)(r->end - r->p) < n - 1) {
        r->ok = false;
        return;
    }
    *at = texts->len;
    bsi_buf_add(texts, r->p, (size_t)n - 1);
    bsi_buf_byte(texts, 0);
    r->p += n - 1;
}

/* Texts as C has them: copied, since an entry has no byte behind each. */
static const char *text_at(const bsi_buf *texts, size_t at) { return at == SIZE_MAX ? NULL : (const char *)texts->data + at; }

static void read_entry(bsi_kept *k, bsi_buf *texts, bsi_reader *r) {
    uint8_t flags = 0;
    size_t rule, partition, file, column, value;
    *k = (bsi_kept){0};
    texts->len = 0;
    bsi_read_bytes(r, &k->kh, 8);
    bsi_read_bytes(r, &flags, 1);
    k->key_read = flags & 1;
    k->absent = flags & 4;
    read_text(r, texts, &rule);
    if (flags & 2) {
        k->image_bytes = (uint32_t)bsi_read_count(r, 1);
        k->image = r->p;
        if (r->ok) r->p += k->image_bytes;
    }
    k->body_bytes = (uint32_t)bsi_read_varint(r);
    k->slot_count = (uint32_t)bsi_read_varint(r);
    read_text(r, texts, &partition);
    read_text(r, texts, &file);
    k->byte = bsi_read_signed(r);
    k->line = bsi_read_signed(r);
    read_text(r, texts, &column);
    read_text(r, texts, &value);
    k->since = bsi_read_signed(r);
    bsi_read_bytes(r, k->hold, 32);
    k->rule = text_at(texts, rule);
    k->partition = text_at(texts, partition);
    k->file = text_at(texts, file);
    k->column = text_at(texts, column);
    k->value = text_at(texts, value);
    if (!k->rule || !k->partition || k->body_bytes > BSI_MAX(k->image_bytes, k->image ? 0 : k->body_bytes)) r->ok = false;
}

const bsi_kept *bsi_kept_at(bsi_kept_walk *w, size_t place) {
    bsi_reader r = {.p = w->list->bytes + place, .end = w->list->bytes + w->list->len, .ok = true};
    read_entry(&w->entry, &w->texts, &r);
    w->next = (size_t)(r.p - w->list->bytes);
    return r.ok ? &w->entry : NULL;
}

const bsi_kept *bsi_kept_next(bsi_kept_walk *w) {
    if (!w->list->count) return NULL;
    w->place = w->next ? w->next : COUNT_ROOM;
    if (w->place < w->list->len) return bsi_kept_at(w, w->place);
    bsi_buf_free(&w->texts);
    return NULL;
}

void bsi_kept_walk_end(bsi_kept_walk *w) { bsi_buf_free(&w->texts); }

bool bsi_kept_exceptions(const bsi_kept_list *l) {
    bsi_kept_walk w = {.list = l};
    bool any = false;
    for (const bsi_kept *k; !any && (k = bsi_kept_next(&w));) any = bsi_kept_is_exception(k);
    bsi_kept_walk_end(&w);
    return any;
}

/* ---- in the store ---- */

/* The number stands right in front of the first entry. */
static bsi_buf with_count(const bsi_kept_list *l) {
    uint8_t number[10];
    size_t n = (size_t)(bsi_varint_put(number, l->count) - number);
    memcpy(l->bytes + COUNT_ROOM - n, number, n);
    return (bsi_buf){.data = l->bytes + COUNT_ROOM - n, .len = l->len - COUNT_ROOM + n};
}

bomsync_status bsi_kept_save(bsi_store *s, MDB_txn *txn, const char *feed, const bsi_kept_list *l, bomsync_error *err) {
    if (!l || !l->count) return bsi_value_drop(&s->root, txn, BSI_DB_KEPT, bsi_key_text(feed), err);
    bsi_buf raw = with_count(l), value = {0};
    if (raw.len > BSI_STORE_RECORD_BYTES_MAX) {
        bsi_fail(err, BOMSYNC_E_SPACE, "%zu records are kept back, or wait for a decision: more than a store can list", l->count);
        bsi_hint(err, "nothing was changed; sync fewer files at a time, or ask for the snapshot again");
        return BOMSYNC_E_SPACE;
    }
    bsi_value_start(&value);
    bsi_put_squeezed(&value, &raw);
    bomsync_status st = bsi_value_save(&s->root, txn, BSI_DB_KEPT, bsi_key_text(feed), &value, 0, err);
    bsi_buf_free(&value);
    return st;
}

static bool unpack(bsi_kept_list *l, bsi_span v) {
    size_t bytes;
    if (!bsi_squeezed_bytes(&bytes, v)) return false;
    make_room(l, COUNT_ROOM + bytes);
    if (!bsi_unsqueeze(l->bytes + COUNT_ROOM, bytes, v)) return false;
    bsi_reader r = {.p = l->bytes + COUNT_ROOM, .end = l->bytes + COUNT_ROOM + bytes, .ok = true};
    size_t count = bsi_read_count(&r, 40);
    memmove(l->bytes + COUNT_ROOM, r.p, (size_t)(r.end - r.p));
    l->len = COUNT_ROOM + (size_t)(r.end - r.p);
    l->count = count;
    return r.ok;
}

/* Each can be read, and behind the last one there is nothing. */
static bool is_sound(const bsi_kept_list *l) {
    bsi_kept_walk w = {.list = l};
    size_t n = 0;
    while (n < l->count && bsi_kept_next(&w)) n++;
    bool sound = n == l->count && (!n || w.next == l->len);
    bsi_kept_walk_end(&w);
    return sound;
}

bomsync_status bsi_store_kept(bsi_kept_list *out, bsi_store *s, const char *feed, bomsync_error *err) {
    bsi_span v;
    *out = (bsi_kept_list){0};
    bomsync_status st = bsi_value_get(&v, &s->root, s->root.read, BSI_DB_KEPT, bsi_key_text(feed), err);
    if (st || !v.p) return st;
    if (unpack(out, v) && is_sound(out)) return BOMSYNC_OK;
    bsi_kept_free(out);
    return bsi_bad(err, &s->root, BSI_DB_KEPT, bsi_key_text(feed), "cannot be read");
}
