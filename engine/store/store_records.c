/* store/store_records.c - feeds, generations and holds as bytes, and back.
 *
 * The problem: records with texts and lists inside, few and read whole. They are written member by member as varints
 * and counted texts (FORMAT.md lists the order), squeezed by zstd where that helps. Reading never trusts a count: it
 * must fit into the bytes that are left.
 */
#include "store/store_inner.h"

/* ---- feeds ---- */

static void put_texts(bsi_buf *b, char *const *text, size_t count) {
    bsi_buf_varint(b, count);
    for (size_t i = 0; i < count; i++) bsi_put_text(b, text[i]);
}

static char **read_texts(bsi_reader *r, size_t *count) {
    size_t n = bsi_read_count(r, 1);
    char **text = bsi_calloc(n, sizeof *text);
    for (size_t i = 0; i < n; i++) {
        text[i] = bsi_read_text(r);
        if (!text[i]) r->ok = false;
    }
    *count = n;
    return text;
}

static void put_slots(bsi_buf *b, const bsi_slots *s) {
    put_texts(b, s->name, s->count);
    bsi_buf_varint(b, s->key_count);
    bsi_put_signed(b, s->partition);
    for (uint32_t i = 0; i < s->count; i++) bsi_buf_varint(b, s->order ? s->order[i] : i);
}

static void read_slots(bsi_slots *s, bsi_reader *r) {
    size_t n;
    s->name = read_texts(r, &n);
    s->count = (uint32_t)n;
    s->key_count = (uint32_t)bsi_read_varint(r);
    s->partition = (int32_t)bsi_read_signed(r);
    s->order = bsi_calloc(n, sizeof *s->order);
    for (size_t i = 0; i < n; i++) {
        s->order[i] = (uint32_t)bsi_read_varint(r);
        if (s->order[i] >= n) r->ok = false;
    }
    if (s->key_count > n || s->partition < -1 || s->partition >= (int32_t)s->key_count) r->ok = false;
}

static void put_marks(bsi_buf *b, const bsi_image_mark *mark, size_t count) {
    bsi_image_mark last = {0};
    bsi_buf_varint(b, count);
    for (size_t i = 0; i < count; last = mark[i++]) {
        bsi_buf_varint(b, mark[i].file - last.file);
        bsi_buf_varint(b, mark[i].file == last.file ? mark[i].offset - last.offset : mark[i].offset);
        bsi_buf_varint(b, mark[i].entry - last.entry);
    }
}

static void read_marks(bsi_feed *f, bsi_reader *r) {
    bsi_image_mark last = {0};
    f->mark_count = bsi_read_count(r, 3);
    f->mark = bsi_calloc(f->mark_count, sizeof *f->mark);
    for (size_t i = 0; i < f->mark_count; last = f->mark[i++]) {
        uint64_t file = bsi_read_varint(r), offset = bsi_read_varint(r), entry = bsi_read_varint(r);
        f->mark[i] = (bsi_image_mark){.file = last.file + (uint32_t)file, .offset = file ? offset : last.offset + offset, .entry = last.entry + entry};
        if (file > UINT32_MAX - last.file || f->mark[i].entry < last.entry || (!file && f->mark[i].offset < last.offset)) r->ok = false;
    }
}

static void read_block_size(bsi_feed *f, bsi_reader *r) {
    uint64_t records = bsi_read_varint(r), least = bsi_read_varint(r);
    if (records > BSI_BLOCK_RECORDS_MOST || least < 1 || least > records) r->ok = false;
    f->block_size = (bsi_block_size){(uint32_t)records, (uint32_t)least};
}

#define ORDER_BYTES 16u /* in the number of times */

static void put_order(bsi_buf *b, const bsi_order *o) {
    if (!o->times) return;
    bsi_buf_varint(b, o->times | (o->bytes ? ORDER_BYTES : 0u));
    bsi_buf_varint(b, o->count);
    bsi_buf_add(b, o->low, o->count * sizeof *o->low);
}

static void read_order(bsi_feed *f, bsi_reader *r) {
    uint64_t times = bsi_read_varint(r), count = bsi_read_varint(r);
    if (!times || times > UINT32_MAX || count > BSI_ORDER_BLOCKS) {
        r->ok = false;
        return;
    }
    f->order = (bsi_order){.times = (uint32_t)times & ~ORDER_BYTES, .bytes = times & ORDER_BYTES, .count = (uint32_t)count};
    bsi_read_bytes(r, f->order.low, count * sizeof *f->order.low);
}

bomsync_status bsi_feed_save(bsi_store *s, MDB_txn *txn, const bsi_feed *f, bomsync_error *err) {
    bsi_buf raw = {0}, value = {0};
    put_slots(&raw, &f->slots);
    put_texts(&raw, f->ignore, f->ignore_count);
    bsi_put_signed(&raw, f->generation);
    bsi_put_signed(&raw, f->records);
    bsi_put_signed(&raw, f->last_sequence);
    bsi_put_signed(&raw, f->last_as_of);
    bsi_buf_add(&raw, f->last_snapshot_digest, 32);
    bsi_buf_add(&raw, f->approved_all, 32);
    bsi_buf_varint(&raw, f->image_list);
    bsi_buf_add(&raw, f->image_digest, 32);
    bsi_buf_varint(&raw, f->dictionary);
    put_marks(&raw, f->mark, f->mark_count);
    bsi_buf_varint(&raw, f->block_size.records);
    bsi_buf_varint(&raw, f->block_size.least);
    put_order(&raw, &f->order);
    bsi_value_start(&value);
    bsi_put_squeezed(&value, &raw);
    bomsync_status st = bsi_value_save(&s->root, txn, BSI_DB_FEEDS, bsi_key_text(f->name), &value, 0, err);
    bsi_buf_free(&raw);
    bsi_buf_free(&value);
    return st;
}

static bsi_feed *read_feed(bsi_reader *r, const char *name) {
    bsi_feed *f = bsi_calloc(1, sizeof *f);
    f->name = bsi_strdup(name);
    read_slots(&f->slots, r);
    size_t n;
    f->ignore = read_texts(r, &n);
    f->ignore_count = (uint32_t)n;
    f->generation = bsi_read_signed(r);
    f->records = bsi_read_signed(r);
    f->last_sequence = bsi_read_signed(r);
    f->last_as_of = bsi_read_signed(r);
    bsi_read_bytes(r, f->last_snapshot_digest, 32);
    bsi_read_bytes(r, f->approved_all, 32);
    f->image_list = bsi_read_varint(r);
    bsi_read_bytes(r, f->image_digest, 32);
    if (r->p < r->end) f->dictionary = bsi_read_varint(r); /* not there before format 2 */
    if (r->p < r->end) read_marks(f, r);
    f->block_size = bsi_block_size_unsaid(12); /* as most were, before it stood there */
    if (r->p < r->end) read_block_size(f, r);
    if (r->p < r->end) read_order(f, r);
    return f;
}

bomsync_status bsi_feed_load(bsi_feed **out, bsi_store *s, MDB_txn *txn, const char *name, bomsync_error *err) {
    bsi_span v;
    *out = NULL;
    MDB_val key = bsi_key_text(name);
    bomsync_status st = bsi_value_get(&v, &s->root, txn, BSI_DB_FEEDS, key, err);
    if (st || !v.p) return st;
    bsi_buf raw = {0};
    bsi_reader r = {.ok = bsi_read_squeezed(&raw, v)};
    r.p = raw.data;
    r.end = raw.data + raw.len;
    bsi_feed *f = read_feed(&r, name);
    if (r.ok && r.p == r.end) {
        *out = f;
    } else {
        bsi_feed_free(f);
        st = bsi_bad(err, &s->root, BSI_DB_FEEDS, key, "cannot be read");
    }
    bsi_buf_free(&raw);
    return st;
}

bomsync_status bsi_store_feed(bsi_feed **out, bsi_store *s, const char *name, bomsync_error *err) {
    return bsi_feed_load(out, s, s->root.read, name, err);
}

bomsync_status bsi_store_feeds(char ***names, size_t *count, bsi_store *s, bomsync_error *err) {
    *names = NULL;
    *count = 0;
    MDB_cursor *c;
    int rc = mdb_cursor_open(s->root.read, s->root.dbi[BSI_DB_FEEDS], &c);
    if (rc) return bsi_env_fail(err, &s->root, rc, "read");
    MDB_val k, v;
    char **list = bsi_alloc(sizeof *list);
    size_t n = 0;
    for (rc = mdb_cursor_get(c, &k, &v, MDB_FIRST); !rc; rc = mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        list = bsi_realloc(list, (n + 1) * sizeof *list);
        list[n++] = bsi_strndup(k.mv_data, k.mv_size);
    }
    mdb_cursor_close(c);
    *names = list;
    *count = n;
    return rc == MDB_NOTFOUND ? BOMSYNC_OK : bsi_env_fail(err, &s->root, rc, "read");
}

void bsi_feed_free(bsi_feed *f) {
    if (!f) return;
    for (uint32_t i = 0; i < f->slots.count; i++) free(f->slots.name[i]);
    for (uint32_t i = 0; i < f->ignore_count; i++) free(f->ignore[i]);
    free(f->slots.name);
    free(f->slots.order);
    free(f->ignore);
    free(f->name);
    free(f->mark);
    free(f);
}

/* ---- generations ---- */

#define TOTALS (sizeof(bsi_totals) / sizeof(int64_t))
static_assert(sizeof(bsi_totals) == 14 * sizeof(int64_t), "totals are written as 14 numbers");

static void put_chunk(bsi_buf *b, const bsi_chunk_info *c) {
    bsi_put_text(b, c->file);
    bsi_put_text(b, c->partition);
    bsi_buf_byte(b, c->rank);
    const uint64_t v[] = {c->first_seq, c->last_seq, c->c, c->u, c->d, c->bytes, c->content_bytes};
    for (size_t i = 0; i < 7; i++) bsi_buf_varint(b, v[i]);
    bsi_buf_add(b, &c->content_xxh3, 16);
    bsi_buf_add(b, c->sha256, 32);
}

static void read_chunk(bsi_chunk_info *c, bsi_reader *r) {
    c->file = bsi_read_text(r);
    c->partition = bsi_read_text(r);
    bsi_read_bytes(r, &c->rank, 1);
    uint64_t *const v[] = {&c->first_seq, &c->last_seq, &c->c, &c->u, &c->d, &c->bytes, &c->content_bytes};
    for (size_t i = 0; i < 7; i++) *v[i] = bsi_read_varint(r);
    bsi_read_bytes(r, &c->content_xxh3, 16);
    bsi_read_bytes(r, c->sha256, 32);
    if (!c->file || !c->partition) r->ok = false;
}

static void put_generation(bsi_buf *b, const bsi_generation *g, int64_t previous, bool outbox) {
    bsi_put_signed(b, previous);
    bsi_buf_byte(b, outbox);
    bsi_put_signed(b, g->number);
    bsi_put_signed(b, g->base);
    bsi_put_text(b, g->feed);
    bsi_put_text(b, g->kind);
    bsi_buf_add(b, g->digest, 32);
    bsi_buf_add(b, g->base_digest, 32);
    bsi_buf_add(b, g->snapshot_digest, 32);
    bsi_buf_add(b, g->contract_digest, 32);
    const int64_t *total = &g->totals.created;
    for (size_t i = 0; i < TOTALS; i++) bsi_put_signed(b, total[i]);
    bsi_put_signed(b, g->effective_time);
    bsi_put_signed(b, g->committed_at);
    put_texts(b, g->hold_digests, g->hold_count);
    bsi_buf_varint(b, g->file_count);
    for (size_t i = 0; i < g->file_count; i++) {
        bsi_put_text(b, g->files[i].name);
        bsi_buf_varint(b, g->files[i].bytes);
        bsi_put_signed(b, g->files[i].records);
    }
    bsi_buf_varint(b, g->chunk_count);
    for (size_t i = 0; i < g->chunk_count; i++) put_chunk(b, &g->chunks[i]);
    bsi_buf_varint(b, g->partition_count);
    for (size_t i = 0; i < g->partition_count; i++) {
        const bsi_partition_count *p = &g->partitions[i];
        bsi_put_text(b, p->name);
        const int64_t v[] = {p->records, p->created, p->updated, p->deleted};
        for (size_t j = 0; j < 4; j++) bsi_put_signed(b, v[j]);
    }
    bsi_buf_varint(b, g->state_list);
    bsi_buf_varint(b, g->slot_count);
    bsi_put_signed(b, g->exit_code);
}

static void read_lists(bsi_generation *g, bsi_reader *r) {
    g->hold_digests = read_texts(r, &g->hold_count);
    g->file_count = bsi_read_count(r, 3);
    g->files = bsi_calloc(g->file_count, sizeof *g->files);
    for (size_t i = 0; i < g->file_count; i++) {
        g->files[i].name = bsi_read_text(r);
        g->files[i].bytes = bsi_read_varint(r);
        g->files[i].records = bsi_read_signed(r);
        if (!g->files[i].name) r->ok = false;
    }
    g->chunk_count = bsi_read_count(r, 58);
    g->chunks = bsi_calloc(g->chunk_count, sizeof *g->chunks);
    for (size_t i = 0; i < g->chunk_count; i++) read_chunk(&g->chunks[i], r);
    g->partition_count = bsi_read_count(r, 5);
    g->partitions = bsi_calloc(g->partition_count, sizeof *g->partitions);
    for (size_t i = 0; i < g->partition_count; i++) {
        bsi_partition_count *p = &g->partitions[i];
        p->name = bsi_read_text(r);
        int64_t *const v[] = {&p->records, &p->created, &p->updated, &p->deleted};
        for (size_t j = 0; j < 4; j++) *v[j] = bsi_read_signed(r);
        if (!p->name) r->ok = false;
    }
}

static bsi_generation *read_generation(bsi_reader *r, int64_t *previous, bool *outbox) {
    bsi_generation *g = bsi_calloc(1, sizeof *g);
    uint8_t flag = 0;
    *previous = bsi_read_signed(r);
    bsi_read_bytes(r, &flag, 1);
    *outbox = flag & 1;
    g->number = bsi_read_signed(r);
    g->base = bsi_read_signed(r);
    g->feed = bsi_read_text(r);
    g->kind = bsi_read_text(r);
    bsi_read_bytes(r, g->digest, 32);
    bsi_read_bytes(r, g->base_digest, 32);
    bsi_read_bytes(r, g->snapshot_digest, 32);
    bsi_read_bytes(r, g->contract_digest, 32);
    int64_t *total = &g->totals.created;
    for (size_t i = 0; i < TOTALS; i++) total[i] = bsi_read_signed(r);
    g->effective_time = bsi_read_signed(r);
    g->committed_at = bsi_read_signed(r);
    read_lists(g, r);
    g->state_list = bsi_read_varint(r);
    g->slot_count = (uint32_t)bsi_read_varint(r);
    g->exit_code = (int)bsi_read_signed(r);
    if (!g->feed || !g->kind) r->ok = false;
    return g;
}

bomsync_status bsi_generation_save(bsi_store *s, MDB_txn *txn, const bsi_generation *g, int64_t previous, bool outbox,
                                   bomsync_error *err) {
    bsi_buf raw = {0}, value = {0};
    uint64_t id = (uint64_t)g->number;
    put_generation(&raw, g, previous, outbox);
    bsi_value_start(&value);
    bsi_put_squeezed(&value, &raw);
    bomsync_status st = bsi_value_save(&s->root, txn, BSI_DB_GENERATIONS, bsi_key_id(&id), &value, 0, err);
    bsi_buf_free(&raw);
    bsi_buf_free(&value);
    return st;
}

bomsync_status bsi_generation_load(bsi_generation **out, int64_t *previous, bool *outbox, bsi_store *s, MDB_txn *txn,
                                   int64_t number, bomsync_error *err) {
    bsi_span v;
    uint64_t id = (uint64_t)number;
    *out = NULL;
    if (number <= 0) return BOMSYNC_OK;
    bomsync_status st = bsi_value_get(&v, &s->root, txn, BSI_DB_GENERATIONS, bsi_key_id(&id), err);
    if (st || !v.p) return st;
    bsi_buf raw = {0};
    bsi_reader r = {.ok = bsi_read_squeezed(&raw, v)};
    r.p = raw.data;
    r.end = raw.data + raw.len;
    bsi_generation *g = read_generation(&r, previous, outbox);
    if (r.ok && r.p == r.end && g->number == number) {
        g->outbox = *outbox;
        *out = g;
    } else {
        bsi_generation_free(g);
        st = bsi_bad(err, &s->root, BSI_DB_GENERATIONS, bsi_key_id(&id), "cannot be read");
    }
    bsi_buf_free(&raw);
    return st;
}

bomsync_status bsi_store_generation_get(bsi_generation **out, bsi_store *s, int64_t number, bomsync_error *err) {
    int64_t previous;
    bool outbox;
    return bsi_generation_load(out, &previous, &outbox, s, s->root.read, number, err);
}

/* Each generation names the one before it of the same feed: a walk back from the feed's last. */
bomsync_status bsi_store_generation_of_feed(bsi_generation **out, bsi_store *s, const char *feed, int64_t number,
                                            bomsync_error *err) {
    bsi_feed *f;
    *out = NULL;
    bomsync_status st = bsi_store_feed(&f, s, feed, err);
    if (st || !f) return st;
    int64_t at = f->generation;
    bsi_feed_free(f);
    while (!st && at > 0) {
        bsi_generation *g;
        int64_t previous = 0, here = at;
        bool outbox;
        st = bsi_generation_load(&g, &previous, &outbox, s, s->root.read, here, err);
        uint64_t id = (uint64_t)here;
        if (!st && (!g || previous >= here)) {
            bsi_generation_free(g);
            return bsi_bad(err, &s->root, BSI_DB_GENERATIONS, bsi_key_id(&id), g ? "wrong order" : "missing");
        }
        if (!st && here <= number) {
            *out = g;
            return BOMSYNC_OK;
        }
        bsi_generation_free(g);
        at = previous;
    }
    return st;
}

void bsi_generation_free(bsi_generation *g) {
    if (!g) return;
    for (size_t i = 0; i < g->hold_count; i++) free(g->hold_digests[i]);
    for (size_t i = 0; i < g->file_count; i++) free(g->files[i].name);
    for (size_t i = 0; i < g->partition_count; i++) free(g->partitions[i].name);
    for (size_t i = 0; i < g->chunk_count; i++) {
        free(g->chunks[i].file);
        free(g->chunks[i].partition);
    }
    free(g->hold_digests);
    free(g->files);
    free(g->partitions);
    free(g->chunks);
    free(g->feed);
    free(g->kind);
    free(g);
}

/* ---- holds ---- */

bomsync_status bsi_holds_save(bsi_store *s, MDB_txn *txn, const char *feed, const bsi_hold *h, size_t count,
                              bomsync_error *err) {
    if (!count) return bsi_value_drop(&s->root, txn, BSI_DB_HOLDS, bsi_key_text(feed), err);
    bsi_buf raw = {0}, value = {0};
    bsi_buf_varint(&raw, count);
    for (size_t i = 0; i < count; i++) {
        bsi_buf_add(&raw, h[i].digest, 32);
        bsi_put_text(&raw, h[i].feed);
        bsi_put_text(&raw, h[i].partition);
        bsi_put_text(&raw, h[i].rule);
        bsi_put_signed(&raw, h[i].changes);
        bsi_put_signed(&raw, h[i].since);
        bsi_put_text(&raw, h[i].state);
        bsi_put_text(&raw, h[i].by);
        bsi_put_text(&raw, h[i].why);
    }
    bsi_value_start(&value);
    bsi_put_squeezed(&value, &raw);
    bomsync_status st = bsi_value_save(&s->root, txn, BSI_DB_HOLDS, bsi_key_text(feed), &value, 0, err);
    bsi_buf_free(&raw);
    bsi_buf_free(&value);
    return st;
}

static void read_hold(bsi_hold *h, bsi_reader *r) {
    bsi_read_bytes(r, h->digest, 32);
    h->feed = bsi_read_text(r);
    h->partition = bsi_read_text(r);
    h->rule = bsi_read_text(r);
    h->changes = bsi_read_signed(r);
    h->since = bsi_read_signed(r);
    h->state = bsi_read_text(r);
    h->by = bsi_read_text(r);
    h->why = bsi_read_text(r);
    if (!h->feed || !h->partition || !h->rule || !h->state) r->ok = false;
}

void bsi_holds_free(bsi_hold *h, size_t count) {
    for (size_t i = 0; h && i < count; i++) {
        free(h[i].feed);
        free(h[i].partition);
        free(h[i].rule);
        free(h[i].state);
        free(h[i].by);
        free(h[i].why);
    }
    free(h);
}

static bomsync_status add_holds(bsi_hold **list, size_t *count, bsi_store *s, MDB_val key, bsi_span v, bomsync_error *err) {
    bsi_buf raw = {0};
    bsi_reader r = {.ok = bsi_read_squeezed(&raw, v)};
    r.p = raw.data;
    r.end = raw.data + raw.len;
    size_t n = bsi_read_count(&r, 40);
    *list = bsi_realloc(*list, (*count + n) * sizeof **list);
    memset(*list + *count, 0, n * sizeof **list);
    for (size_t i = 0; i < n; i++) read_hold(&(*list)[*count + i], &r);
    *count += n;
    bool good = r.ok && r.p == r.end;
    bsi_buf_free(&raw);
    return good ? BOMSYNC_OK : bsi_bad(err, &s->root, BSI_DB_HOLDS, key, "cannot be read");
}

bomsync_status bsi_store_holds(bsi_hold **out, size_t *count, bsi_store *s, const char *feed, bomsync_error *err) {
    bsi_hold *list = NULL;
    size_t n = 0;
    bomsync_status st = BOMSYNC_OK;
    *out = NULL;
    *count = 0;
    if (feed && (!*feed || strlen(feed) > 511)) return BOMSYNC_OK; /* no such key can be */
    MDB_cursor *c;
    int rc = mdb_cursor_open(s->root.read, s->root.dbi[BSI_DB_HOLDS], &c);
    if (rc) return bsi_env_fail(err, &s->root, rc, "read");
    MDB_val k = feed ? bsi_key_text(feed) : (MDB_val){0}, v;
    rc = mdb_cursor_get(c, &k, &v, feed ? MDB_SET_KEY : MDB_FIRST);
    for (; !rc && !st; rc = feed ? MDB_NOTFOUND : mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        bsi_span payload;
        st = bsi_value_check(&payload, &s->root, BSI_DB_HOLDS, k, v, err);
        if (!st) st = add_holds(&list, &n, s, k, payload, err);
    }
    mdb_cursor_close(c);
    if (!st && rc && rc != MDB_NOTFOUND) st = bsi_env_fail(err, &s->root, rc, "read");
    if (st) {
        bsi_holds_free(list, n);
        return st;
    }
    *out = list;
    *count = n;
    return BOMSYNC_OK;
}
