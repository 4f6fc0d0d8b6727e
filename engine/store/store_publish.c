/* store/store_publish.c - the one commit point, and the journal.
 *
 *   shards commit, side by side ──┬──> root: lists, feed, generation, kept, holds, journal, counters, stats   <── here it counts
 *   root: new pieces, meanwhile ──┘      └──> outbox/.tmp-g becomes outbox/g
 *
 * Pieces get transactions of their own once they are many; these may be committed before the shards are, since nothing names them yet.
 * Until that root transaction nothing refers to what was written; after it, a missing rename is made up for by the next
 * opening. If anything fails before, the handle is used up: close it, and the next writer cuts off what is left.
 *
 * A journal line's hash is the SHA-256 of the line as it is without its member "hash", which includes "prev", the hash of
 * the line before (64 zeros for the first). Changing, dropping or swapping lines breaks the chain.
 */
#include <time.h>

#include "core/beside.h"
#include "store/store_inner.h"

/* ---- journal ---- */

static const char zero_hash[65] = "0000000000000000000000000000000000000000000000000000000000000000";
#define HASH_TAIL 75 /* ,"hash":"<64>"} */

/* hash of a line, and what it says of itself; false if it does not look like one. */
static bool line_hashes(const char *line, size_t n, char computed[65], char said[65], char prev[65]) {
    static const char tail[] = ",\"hash\":\"", before[] = ",\"prev\":\"";
    uint8_t sha[32];
    if (n < HASH_TAIL + 75 || memcmp(line + n - HASH_TAIL, tail, 9) != 0 || memcmp(line + n - 2, "\"}", 2) != 0) return false;
    const char *p = line + n - HASH_TAIL - 74;
    if (memcmp(p, before, 9) != 0 || p[73] != '"') return false;
    bsi_sha *s = bsi_sha_open();
    bsi_sha_add(s, line, n - HASH_TAIL);
    bsi_sha_add(s, "}", 1);
    bsi_sha_close(s, sha);
    bsi_hex(computed, sha, 32);
    computed[64] = said[64] = prev[64] = 0;
    memcpy(said, line + n - HASH_TAIL + 9, 64);
    memcpy(prev, p + 9, 64);
    return true;
}

static bomsync_status last_hash(char out[65], bsi_store *s, MDB_txn *txn, uint64_t n, bomsync_error *err) {
    memcpy(out, zero_hash, 65);
    if (!n) return BOMSYNC_OK;
    bsi_span v;
    char computed[65], prev[65];
    MDB_val key = bsi_key_id(&n);
    bomsync_status st = bsi_value_get(&v, &s->root, txn, BSI_DB_JOURNAL, key, err);
    if (st) return st;
    if (!v.p) return bsi_bad(err, &s->root, BSI_DB_JOURNAL, key, "missing");
    if (!line_hashes((const char *)v.p, v.n, computed, out, prev)) return bsi_bad(err, &s->root, BSI_DB_JOURNAL, key, "cannot be read");
    return BOMSYNC_OK;
}

/* {"n":7,"at":"...","kind":"snapshot",<members>,"prev":"...","hash":"..."} */
static bomsync_status add_journal(bsi_store *s, MDB_txn *txn, bsi_counters *c, const char *kind, const char *json, int64_t at,
                                  bomsync_error *err) {
    char prev[65], hash[65], when[21];
    bomsync_status st = last_hash(prev, s, txn, c->journal, err);
    if (st) return st;
    uint64_t n = c->journal + 1;
    bsi_buf b = {0};
    uint8_t sha[32];
    size_t len = json ? strlen(json) : 0;
    bsi_time_format(when, at);
    bsi_value_start(&b);
    bsi_buf_addf(&b, "{\"n\":%llu,\"at\":\"%s\",\"kind\":", (unsigned long long)n, when);
    bsi_json_string(&b, kind, strlen(kind));
    if (len > 2) { /* the members between its braces */
        bsi_buf_byte(&b, ',');
        bsi_buf_add(&b, json + 1, len - 2);
    }
    bsi_buf_addf(&b, ",\"prev\":\"%s\"", prev);
    bsi_buf_byte(&b, '}');
    bsi_sha_once(b.data + BSI_VALUE_HEAD, b.len - BSI_VALUE_HEAD, sha);
    bsi_hex(hash, sha, 32);
    hash[64] = 0;
    b.len--;
    bsi_buf_addf(&b, ",\"hash\":\"%s\"}", hash);
    st = bsi_value_save(&s->root, txn, BSI_DB_JOURNAL, bsi_key_id(&n), &b, MDB_APPEND, err);
    bsi_buf_free(&b);
    if (!st) c->journal = n;
    return st;
}

bomsync_status bsi_store_journal(bsi_store *s, bomsync_status (*fn)(void *ctx, const char *json, size_t n, bomsync_error *err),
                                 void *ctx, bomsync_error *err) {
    char before[65];
    memcpy(before, zero_hash, 65);
    bomsync_status st = BOMSYNC_OK;
    for (uint64_t n = 1; !st && n <= s->counters.journal; n++) {
        bsi_span v;
        char computed[65], said[65], prev[65];
        MDB_val key = bsi_key_id(&n);
        st = bsi_value_get(&v, &s->root, s->root.read, BSI_DB_JOURNAL, key, err);
        if (st) return st;
        if (!v.p) return bsi_bad(err, &s->root, BSI_DB_JOURNAL, key, "missing");
        if (!line_hashes((const char *)v.p, v.n, computed, said, prev) || strcmp(computed, said) != 0 || strcmp(prev, before) != 0)
            return bsi_bad(err, &s->root, BSI_DB_JOURNAL, key, "the chain is broken");
        memcpy(before, said, 65);
        if (fn) st = fn(ctx, (const char *)v.p, v.n, err);
    }
    return st;
}

/* ---- stats ---- */

bomsync_status bsi_store_stats_get(char **json, bsi_store *s, bomsync_error *err) {
    bsi_span v;
    *json = NULL;
    bomsync_status st = bsi_value_get(&v, &s->root, s->root.read, BSI_DB_META, bsi_key_text("stats"), err);
    if (!st && v.p) *json = bsi_strndup((const char *)v.p, v.n);
    return st;
}

/* ---- lists written ahead ---- */

#define AHEAD_DIRTY_BYTES (BSI_STORE_DIRTY_BYTES / 4) /* the shards have as much of their own at the same time */

bomsync_status bsi_store_lists_ahead(bsi_store *s, const bsi_ahead *a, bomsync_error *err) {
    bsi_ahead_lists *x = s->ahead = bsi_calloc(1, sizeof *x);
    bsi_lister l = {.s = s, .counters = s->counters, .most = AHEAD_DIRTY_BYTES};
    bsi_list none = {.db = BSI_DB_STATE};
    bomsync_status st = bsi_lister_state(&x->state, &l, a->state, a->state_count, &none, err);
    if (!st) st = bsi_lister_entries(&x->image, &l, a, err);
    MDB_txn *txn = l.txn;
    if (!st && txn) st = bsi_env_commit(&s->root, txn, err);
    else if (txn) mdb_txn_abort(txn);
    x->piece = l.counters.piece;
    x->whole = !st;
    return st;
}

void bsi_ahead_forget(bsi_store *s) {
    if (!s->ahead) return;
    bsi_list_free(&s->ahead->state);
    bsi_list_free(&s->ahead->image);
    free(s->ahead);
    s->ahead = NULL;
}

/* ---- publish ---- */

typedef struct publish {
    bsi_store *s;
    const bsi_publish *p;
    bsi_feed feed;      /* shallow copy of the caller's, with what publish sets */
    bsi_image_mark *mark; /* those that were stored before */
    int64_t previous;   /* the feed's generation before */
    bsi_lister l;
    bsi_list state, image; /* db 0: not given. id 0: to be saved */
    bsi_list image_old;    /* id 0: nothing to be dropped */
} publish;

static void forget_image(bsi_feed *f) {
    f->image_list = 0;
    memset(f->image_digest, 0, sizeof f->image_digest);
    f->mark_count = 0;
}

static bomsync_status stored_feed(publish *u, bomsync_error *err) {
    bsi_feed *old;
    const bsi_publish *p = u->p;
    u->feed = *p->feed;
    u->feed.generation = 0;
    forget_image(&u->feed);
    bomsync_status st = bsi_feed_load(&old, u->s, u->s->root.read, p->feed->name, err);
    if (st || !old) return st;
    u->previous = u->feed.generation = old->generation;
    u->feed.image_list = old->image_list;
    memcpy(u->feed.image_digest, old->image_digest, sizeof old->image_digest);
    u->feed.mark = u->mark = old->mark;
    u->feed.mark_count = old->mark_count;
    u->feed.block_size = old->block_size;
    old->mark = NULL;
    bsi_feed_free(old);
    return BOMSYNC_OK;
}

static bomsync_status previous_state(uint64_t *list, const publish *u, bomsync_error *err) {
    bsi_generation *g;
    *list = 0;
    bomsync_status st = bsi_store_generation_get(&g, u->s, u->previous, err);
    if (!st && g) *list = g->state_list;
    bsi_generation_free(g);
    return st;
}

static bool same_list(const bsi_list *a, const bsi_list *b) {
    if (a->piece_count != b->piece_count || a->count != b->count || a->orphan_count != b->orphan_count) return false;
    if (a->piece_count && memcmp(a->piece, b->piece, a->piece_count * sizeof *a->piece) != 0) return false;
    return !a->orphan_count || memcmp(a->orphan, b->orphan, a->orphan_count * sizeof *a->orphan) == 0;
}

static bomsync_status edit_fits(uint64_t *at, uint64_t first, uint64_t end, uint64_t total, bomsync_error *err) {
    if (first < *at || end < first || end > total)
        return bsi_fail(err, BOMSYNC_E_USAGE, "the edits of a list must ascend inside it: [%llu, %llu) of %llu", (unsigned long long)first,
                        (unsigned long long)end, (unsigned long long)total);
    *at = end;
    return BOMSYNC_OK;
}

static bomsync_status check_state_edits(const bsi_publish *p, uint64_t total, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    uint64_t at = 0;
    if (p->state_swapped && p->state_base_count != total) return bsi_fail(err, BOMSYNC_E_USAGE, "the edited list is another one than the stored");
    for (size_t i = 0; !st && i < p->state_edit_count; i++) st = edit_fits(&at, p->state_edit[i].first, p->state_edit[i].end, total, err);
    return st;
}

static bomsync_status check_image_edits(const bsi_publish *p, uint64_t total, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    uint64_t at = 0;
    for (size_t i = 0; !st && i < p->image_edit_count; i++) st = edit_fits(&at, p->image_edit[i].first, p->image_edit[i].end, total, err);
    return st;
}

/* A state list that is changed all over is made by a thread of its own, while the image is written. */
typedef struct state_run {
    const bsi_publish *p; /* NULL: nothing is made */
    publish *u;
    bsi_list old;
    bsi_buf made;
    bsi_beside beside;
    bomsync_status st;
    bomsync_error err;
} state_run;

static void *make_state(void *ctx) {
    state_run *r = ctx;
    const bsi_publish *p = r->p;
    r->st = bsi_state_edit_make(&r->u->state, &r->made, r->u->s, &r->old, p->state_base_count == r->old.count ? p->state_base : NULL,
                                p->state_swapped, p->state_edit, p->state_edit_count, &r->err);
    return NULL;
}

static bomsync_status begin_state(state_run *r, publish *u, bomsync_error *err) {
    const bsi_publish *p = u->p;
    *r = (state_run){.u = u, .err = BOMSYNC_ERROR_INIT};
    if (!p->edit_state && (!p->generation || (!p->state && p->generation->state_list))) return BOMSYNC_OK;
    uint64_t before;
    bomsync_status st = previous_state(&before, u, err);
    if (!st) st = bsi_list_load(&r->old, u->s, u->s->root.read, before, BSI_DB_STATE, err);
    if (!st && p->edit_state) st = check_state_edits(p, r->old.count, err);
    if (st) return st;
    r->p = p;
    if (!p->edit_state) return BOMSYNC_OK;
    bool beside = p->state_beside && p->state_base && p->state_base_count == r->old.count;
    if (beside) bsi_buf_reserve(&r->made, p->state_base_count * 2); /* here, where memory was used before */
    if (!beside || !bsi_beside_start(&r->beside, make_state, r)) make_state(r);
    return BOMSYNC_OK;
}

/* In any case; st: what came of it so far. */
static bomsync_status end_state(state_run *r, bomsync_status st, bomsync_error *err) {
    publish *u = r->u;
    bsi_beside_end(&r->beside);
    if (!st && r->st) *err = r->err;
    if (!st) st = r->st;
    if (!st && r->p && r->p->edit_state) st = bsi_state_edit_save(&u->state, &u->l, &r->made, err);
    else if (!st && r->p) st = bsi_lister_state(&u->state, &u->l, r->p->state, r->p->state ? r->p->state_count : 0, &r->old, err);
    if (!st && r->p && r->old.id && same_list(&r->old, &u->state)) u->state.id = r->old.id;
    bsi_list_free(&r->old);
    bsi_buf_free(&r->made);
    return st;
}

static void describe_image(publish *u) {
    const bsi_publish *p = u->p;
    u->feed.block_size = p->feed->block_size;
    memcpy(u->feed.image_digest, p->image_snapshot_digest, sizeof p->image_snapshot_digest);
    if (u->image.count != p->mark_entries) return;
    u->feed.mark = (bsi_image_mark *)(uintptr_t)p->mark; /* only read */
    u->feed.mark_count = p->mark_count;
}

static bomsync_status put_image(publish *u, bomsync_error *err) {
    const bsi_publish *p = u->p;
    if (!p->image && !p->edit_image && !p->drop_image) return BOMSYNC_OK;
    bomsync_status st = bsi_list_load(&u->image_old, u->s, u->s->root.read, u->feed.image_list, BSI_DB_IMAGE, err);
    forget_image(&u->feed);
    if (st || p->drop_image) return st;
    if (p->edit_image && (st = check_image_edits(p, u->image_old.count, err)) == BOMSYNC_OK)
        st = bsi_lister_edit_image(&u->image, &u->l, &u->image_old, p->image_edit, p->image_edit_count, err);
    else if (!st) st = bsi_lister_image(&u->image, &u->l, p->image, p->image_count, &u->image_old, err);
    bsi_list_orphans(&u->image, p->orphan, p->orphan_count);
    describe_image(u);
    if (!st && u->image_old.id && same_list(&u->image_old, &u->image)) {
        u->image.id = u->image_old.id;
        u->image_old.id = 0;
    }
    return st;
}

static bomsync_status put_lists(publish *u, bomsync_error *err) {
    state_run r;
    bomsync_status st = begin_state(&r, u, err);
    if (!st) st = put_image(u, err);
    return end_state(&r, st, err);
}

static bomsync_status take_ahead(publish *u, bomsync_error *err) {
    bsi_ahead_lists *x = u->s->ahead;
    if (!x || !x->whole || !u->p->generation || u->feed.image_list || u->previous)
        return bsi_fail(err, BOMSYNC_E_USAGE, "no lists were written ahead for a feed that has none");
    u->l.counters.piece = x->piece;
    u->state = x->state;
    u->image = x->image;
    x->state = x->image = (bsi_list){0};
    describe_image(u);
    return BOMSYNC_OK;
}

/* They were of no use: others are written under the same ids. */
static bomsync_status drop_ahead(publish *u, bomsync_error *err) {
    bsi_store *s = u->s;
    bool any;
    bomsync_status st = bsi_lister_room(&u->l, 0, err);
    if (!st) st = bsi_env_cut(&s->root, u->l.txn, BSI_DB_STATE, s->counters.piece, &any, err);
    if (!st) st = bsi_env_cut(&s->root, u->l.txn, BSI_DB_IMAGE, s->counters.piece, &any, err);
    return st;
}

/* The same records in another order: the feed's last generation gets the list. */
static bomsync_status reorder(publish *u, bomsync_error *err) {
    bsi_generation *g;
    int64_t previous;
    bool outbox;
    bomsync_status st = bsi_generation_load(&g, &previous, &outbox, u->s, u->l.txn, u->previous, err);
    if (!st && !g) return bsi_fail(err, BOMSYNC_E_USAGE, "feed \"%s\" has no state to be put into another order", u->feed.name);
    if (!st) g->state_list = u->state.id;
    if (!st) st = bsi_generation_save(u->s, u->l.txn, g, previous, outbox, err);
    bsi_generation_free(g);
    return st;
}

/* What the last transaction must hold. */
static bomsync_status put_rest(publish *u, bomsync_error *err) {
    bsi_store *s = u->s;
    const bsi_publish *p = u->p;
    bsi_generation *g = p->generation;
    bomsync_status st = bsi_lister_begin_last(&u->l, err);
    MDB_txn *txn = u->l.txn;
    if (!st && u->image_old.id) st = bsi_list_drop_image(&u->l, &u->image_old, &u->image, err);
    if (!st && u->image.db && !u->image.id) st = bsi_list_save(&u->l, &u->image, err);
    if (!st && u->state.db && !u->state.id) st = bsi_list_save(&u->l, &u->state, err);
    if (!st && u->image.db) u->feed.image_list = u->image.id;
    if (!st && g) {
        if (u->state.db) g->state_list = u->state.id;
        u->feed.generation = g->number;
        st = bsi_generation_save(s, txn, g, u->previous, p->outbox, err);
        u->l.counters.generation = (uint64_t)g->number;
    }
    if (!st && !g && u->state.db) st = reorder(u, err);
    if (!st) st = bsi_dicts_save(s, txn, err);
    if (!st && p->feed) st = bsi_feed_save(s, txn, &u->feed, err);
    if (!st && p->set_kept && p->feed) st = bsi_kept_save(s, txn, p->feed->name, p->kept, err);
    if (!st && p->set_holds && p->feed) st = bsi_holds_save(s, txn, p->feed->name, p->holds, p->hold_count, err);
    int64_t at = g ? g->committed_at : p->at ? p->at : (int64_t)time(NULL);
    if (!st && p->journal_kind) st = add_journal(s, txn, &u->l.counters, p->journal_kind, p->journal_json, at, err);
    if (g || u->state.db) u->l.counters.segment = atomic_load(&s->next_segment) - 1; /* else no list names what was written: the next writer cuts it off */
    if (!st) st = bsi_store_counters_put(s, txn, &u->l.counters, err);
    if (st || !p->stats) return st;
    char *stats = p->stats(p->stats_ctx);
    st = bsi_store_meta_put(s, txn, "stats", stats, strlen(stats), err);
    free(stats);
    return st;
}

static bomsync_status check_publish(const bsi_store *s, const bsi_publish *p, bomsync_error *err) {
    if (s->mode == BSI_STORE_READ) return bsi_fail(err, BOMSYNC_E_USAGE, "the store is open for reading only");
    if (s->failed) return bsi_fail(err, BOMSYNC_E_USAGE, "the store must be opened again after a failed publish");
    if (!p->feed && (p->generation || p->edit_state || p->image || p->edit_image || p->drop_image || p->ahead || p->set_kept || p->set_holds))
        return bsi_fail(err, BOMSYNC_E_USAGE, "nothing can be published without a feed");
    if (p->generation && p->generation->number != (int64_t)s->counters.generation + 1)
        return bsi_fail(err, BOMSYNC_E_USAGE, "generation %lld does not follow %llu", (long long)p->generation->number,
                        (unsigned long long)s->counters.generation);
    size_t n = p->journal_json ? strlen(p->journal_json) : 0;
    if (p->journal_json && (n < 2 || p->journal_json[0] != '{' || p->journal_json[n - 1] != '}'))
        return bsi_fail(err, BOMSYNC_E_USAGE, "a journal entry must be a JSON object");
    return BOMSYNC_OK;
}

bomsync_status bsi_store_adopt(bsi_store *s, const bsi_counters *c, bomsync_error *err) {
    s->counters = *c;
    bomsync_status st = bsi_env_renew(&s->root, err);
    if (!st) st = bsi_shards_renew(s, err);
    atomic_store(&s->view, bsi_store_new_view());
    return st;
}

bomsync_status bsi_store_publish(bsi_store *s, const bsi_publish *p, bomsync_error *err) {
    bomsync_status st = check_publish(s, p, err);
    if (st) return st;
    publish u = {.s = s, .p = p, .l = {.s = s, .counters = s->counters}};
    bsi_shards_flush_begin(s);
    if (p->feed) st = stored_feed(&u, err);
    if (!st && p->ahead) st = take_ahead(&u, err);
    else if (!st && s->ahead) st = drop_ahead(&u, err);
    bsi_ahead_forget(s);
    if (!st && !p->ahead) st = put_lists(&u, err);
    if (!st) st = bsi_shards_flush(s, err);
    if (!st && p->ready) st = p->ready(p->ready_ctx, err);
    if (!st) st = put_rest(&u, err);
    MDB_txn *txn = u.l.txn;
    if (!st) st = bsi_env_commit(&s->root, txn, err);
    else if (txn) mdb_txn_abort(txn);
    bsi_list_free(&u.state);
    bsi_list_free(&u.image);
    bsi_list_free(&u.image_old);
    free(u.mark);
    if (st) {
        s->failed = true;
        return st;
    }
    st = bsi_store_adopt(s, &u.l.counters, err);
    if (!st && p->outbox && p->generation) {
        st = bsi_store_rename_outbox(s, p->generation->number, err);
        if (st) bsi_hint(err, "generation %lld is made; the next run names its folder", (long long)p->generation->number);
    }
    return st;
}
