/* store/store_verify.c - everything is read and checked; the rest of the engine checks what it uses.
 *
 * The problem: LMDB notices hardly any damage. Checks go from the bytes up to what they mean:
 *
 *   pages     every page is either counted by a database or on the free list; entry counts are right
 *   values    header, length, checksum (which takes in the key)
 *   blocks    group or code unpacks, row images are row images, key and row hashes are those of the images; what a patch is over is
 *             there, whole, and of as many records and columns
 *   lists     their pieces are there and are those that the list names; every ref leads to a block
 *   image     its exact entries and the orphans name each block of the feed's state once, and nothing else: a block that none names would
 *             be left out of the next comparison, one that is named twice or is not in the state would stand for records that are not there
 *   records   a generation's total is the sum over its blocks; base and base digest are the generation before
 *   journal   the chain of hashes
 *   outbox    each chunk file of each generation against what was recorded when it was written
 *
 * A fault is told and the check goes on. What derives from the rest can be made again: the image (dropped, the next sync
 * parses everything once), the name of a committed outbox folder (every opening does that); chunks, by run/repair.c.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "store/store_inner.h"

typedef struct verify {
    bsi_store *s;
    void (*found)(void *ctx, const char *line);
    void *ctx;
    uint64_t faults;
    bool image_bad;
    bsi_block_data data;
    bsi_field *field;
    uint32_t field_cap;
    bool space; /* not damage: memory or disk ran out */
    bomsync_error space_error;
} verify;

static void tell(verify *v, const char *line) {
    v->faults++;
    if (v->found) v->found(v->ctx, line);
}

static void tell_free(verify *v, char *line) {
    tell(v, line);
    free(line);
}

/* Turn a failed check into a line; lack of memory or of access is not a fault of the store. */
static bool bad(verify *v, bomsync_status st, bomsync_error *err) {
    if (!st) return false;
    if (st == BOMSYNC_E_INTEGRITY) {
        tell(v, err->message);
    } else if (!v->space) {
        v->space = true;
        v->space_error = *err;
    }
    *err = (bomsync_error)BOMSYNC_ERROR_INIT;
    return true;
}

/* ---- pages ---- */

static uint64_t stat_pages(const MDB_stat *t) { return t->ms_branch_pages + t->ms_leaf_pages + t->ms_overflow_pages; }

static uint64_t free_list(verify *v, const bsi_env *e, uint64_t last) {
    MDB_cursor *c;
    MDB_val k, val;
    uint64_t n = 0;
    if (mdb_cursor_open(e->read, 0, &c)) return 0;
    for (int rc = mdb_cursor_get(c, &k, &val, MDB_FIRST); !rc; rc = mdb_cursor_get(c, &k, &val, MDB_NEXT)) {
        uint64_t count = val.mv_size >= 8 ? bsi_get64(val.mv_data) : UINT64_MAX, before = UINT64_MAX;
        if (count > val.mv_size / 8) {
            tell_free(v, bsi_format("the free list of \"%s\" is damaged", e->label));
            break;
        }
        for (uint64_t i = 1; i <= count; i++) { /* descending page numbers */
            uint64_t page = bsi_get64((const uint8_t *)val.mv_data + i * 8);
            if (page < 2 || page > last || page >= before) {
                tell_free(v, bsi_format("the free list of \"%s\" is damaged", e->label));
                i = count;
            }
            before = page;
        }
        n += count;
    }
    mdb_cursor_close(c);
    return n;
}

static void check_pages(verify *v, const bsi_env *e) {
    MDB_envinfo info;
    MDB_stat t;
    MDB_dbi main_db;
    if (mdb_env_info(e->env, &info)) return;
    uint64_t used = 2;
    if (!mdb_stat(e->read, 0, &t)) used += stat_pages(&t);
    if (!mdb_dbi_open(e->read, NULL, 0, &main_db) && !mdb_stat(e->read, main_db, &t)) used += stat_pages(&t);
    for (int db = e->shard ? BSI_DB_DATA : 0; db < (e->shard ? BSI_DB_COUNT : BSI_DB_ROOT_COUNT); db++)
        if (!mdb_stat(e->read, e->dbi[db], &t)) used += stat_pages(&t);
    uint64_t free_ = free_list(v, e, info.me_last_pgno);
    if (used + free_ != info.me_last_pgno + 1 && info.me_last_txnid == mdb_txn_id(e->read))
        tell_free(v, bsi_format("\"%s\" has %llu pages, but %llu are used and %llu free", e->label,
                                (unsigned long long)info.me_last_pgno + 1, (unsigned long long)used, (unsigned long long)free_));
}

/* ---- values ---- */

typedef void (*check_value)(verify *v, uint64_t id, bsi_span payload);

static bool in_order(bsi_db db, MDB_val key, uint64_t *before) {
    if (!bsi_db_specs[db].integer) return true;
    if (key.mv_size != 8 || bsi_get64(key.mv_data) <= *before) return false;
    *before = bsi_get64(key.mv_data);
    return true;
}

static void check_database(verify *v, const bsi_env *e, bsi_db db, check_value more) {
    MDB_cursor *c;
    MDB_stat t;
    MDB_val k, val;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t n = 0, before = 0;
    if (mdb_stat(e->read, e->dbi[db], &t) || mdb_cursor_open(e->read, e->dbi[db], &c)) return;
    int rc = mdb_cursor_get(c, &k, &val, MDB_FIRST);
    for (; !rc; rc = mdb_cursor_get(c, &k, &val, MDB_NEXT), n++) {
        bsi_span payload;
        if (!in_order(db, k, &before)) {
            tell_free(v, bsi_format("\"%s\": keys of %s are out of order", e->label, bsi_db_specs[db].name));
            break;
        }
        if (bad(v, bsi_value_check(&payload, e, db, k, val, &err), &err)) continue;
        if (more && k.mv_size == 8) more(v, bsi_get64(k.mv_data), payload);
    }
    mdb_cursor_close(c);
    if (rc != MDB_NOTFOUND && rc) bad(v, bsi_env_fail(&err, e, rc, "read"), &err);
    else if (rc && n != t.ms_entries)
        tell_free(v, bsi_format("\"%s\": %s has %llu values, not %llu", e->label, bsi_db_specs[db].name, (unsigned long long)n,
                                (unsigned long long)t.ms_entries));
}

/* ---- blocks ---- */

/* Bytes of the first `slots` slots of a body; 0 if it has not so many. */
static size_t key_bytes(const uint8_t *body, size_t n, uint32_t slots) {
    const uint8_t *p = body, *end = body + n;
    for (uint32_t i = 0; i < slots; i++) {
        uint64_t len;
        if (!(p = bsi_varint_get(p, end, &len)) || len > (uint64_t)(end - p)) return 0;
        p += len;
    }
    return (size_t)(p - body);
}

/* A segment does not say how many slots are the key; all its records have the same number. */
static uint32_t find_key_slots(const verify *v, const bsi_block_data *d, uint64_t kh) {
    const uint8_t *body = d->raw.data + d->image[0];
    for (uint32_t k = 1; k <= d->slot_count; k++) {
        size_t n = key_bytes(body, d->body[0], k);
        if (!n) return 0;
        if (bsi_xxh64_secret(body, n, &v->s->secret) == kh) return k;
    }
    return 0;
}

static const char *check_record(verify *v, const bsi_block_data *d, uint32_t i, uint32_t key_slots, uint64_t kh, uint64_t rh) {
    const uint8_t *image = d->raw.data + d->image[i];
    uint32_t bytes = d->image[i + 1] - d->image[i];
    if (v->field_cap < d->slot_count) {
        v->field_cap = d->slot_count;
        v->field = bsi_realloc(v->field, v->field_cap * sizeof *v->field);
    }
    if (!bsi_image_fields(v->field, d->slot_count, image, d->body[i], bytes, d->slot_count)) return "a record cannot be read";
    if (bsi_xxh64_secret(image, d->body[i], &v->s->secret) != rh) return "a row hash is wrong";
    size_t n = key_bytes(image, d->body[i], key_slots);
    if (!n || bsi_xxh64_secret(image, n, &v->s->secret) != kh) return "a key hash is wrong";
    return NULL;
}

static void check_segment(verify *v, uint64_t id, bsi_span payload) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_segment *g = bsi_calloc(1, sizeof *g);
    (void)payload;
    if (id > v->s->counters.segment) { /* of a run that was killed, and of a dictionary that may not be there: the next writer cuts it off */
        free(g);
        return;
    }
    uint32_t blocks = bad(v, bsi_segment_load(g, v->s, id, BSI_SEGMENT_BLOCKS, &err), &err) ? 0 : g->block_count, key_slots = 0;
    free(g);
    for (uint32_t i = 0; i < blocks; i++) {
        bsi_block_rows rows;
        bsi_ref ref = id << 9 | i;
        if (bad(v, bsi_store_data(&v->data, v->s, ref, &err), &err) || bad(v, bsi_store_rows(&rows, v->s, ref, &err), &err)) continue;
        const char *what = rows.count == v->data.count ? NULL : "rows and data have different counts";
        if (!what && !key_slots) key_slots = find_key_slots(v, &v->data, rows.kh[0]);
        for (uint32_t r = 0; !what && r < rows.count; r++) what = check_record(v, &v->data, r, key_slots, rows.kh[r], rows.rh[r]);
        if (what) tell_free(v, bsi_format("segment %llu, block %u: %s", (unsigned long long)id, i, what));
    }
}

static void check_shards(verify *v) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    for (int i = 0; i < v->s->shard_count; i++) {
        bsi_shard *sh = &v->s->shard[i];
        pthread_mutex_lock(&sh->mutex);
        bomsync_status st = bsi_shard_env(sh, &err);
        pthread_mutex_unlock(&sh->mutex);
        if (bad(v, st, &err)) continue;
        check_pages(v, &sh->env);
        check_database(v, &sh->env, BSI_DB_DATA, check_segment);
        check_database(v, &sh->env, BSI_DB_ROWS, NULL);
    }
}

/* ---- lists ---- */

static bool check_ref(verify *v, bsi_ref ref, uint64_t *records) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_block_rows rows;
    if (ref >> 9 > v->s->counters.segment) {
        tell_free(v, bsi_format("a list names segment %llu, which was never published", (unsigned long long)(ref >> 9)));
        return false;
    }
    if (bad(v, bsi_store_rows(&rows, v->s, ref, &err), &err)) return false;
    *records += rows.count;
    return true;
}

/* One line for each list is enough: a lost segment would give thousands. */
static bool check_state(verify *v, uint64_t list, uint64_t *records) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_ref *ref;
    size_t n;
    *records = 0;
    if (bad(v, bsi_store_state(&ref, &n, v->s, list, &err), &err)) return false;
    bool good = true;
    for (size_t i = 0; good && i < n; i++) good = check_ref(v, ref[i], records);
    free(ref);
    return good;
}

/* Blocks of a feed's state, and which of them its image has named so far. */
typedef struct cover {
    const char *feed;
    bsi_ref *ref; /* ascending */
    uint8_t *named;
    size_t count;
} cover;

/* False: the state itself cannot be read, which was told where its generation was checked. */
static bool open_cover(cover *c, verify *v, const bsi_feed *f) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_generation *g = NULL;
    *c = (cover){.feed = f->name};
    bomsync_status st = bsi_store_generation_get(&g, v->s, f->generation, &err);
    if (!st) st = bsi_store_state(&c->ref, &c->count, v->s, g ? g->state_list : 0, &err);
    bsi_generation_free(g);
    if (st) return false;
    qsort(c->ref, c->count, sizeof *c->ref, bsi_by_u64);
    c->named = bsi_calloc(c->count + 1, 1);
    return true;
}

static void close_cover(cover *c) {
    free(c->ref);
    free(c->named);
}

static bool fault_of_ref(verify *v, const cover *c, bsi_ref ref, const char *what) {
    tell_free(v, bsi_format("the image of feed \"%s\": segment %llu, block %u %s", c->feed, (unsigned long long)(ref >> BSI_REF_BITS),
                            (unsigned)(ref & ((1u << BSI_REF_BITS) - 1)), what));
    return false;
}

static bool cover_ref(verify *v, cover *c, bsi_ref ref) {
    if (!c->named) return true;
    const bsi_ref *at = bsearch(&ref, c->ref, c->count, sizeof ref, bsi_by_u64);
    if (!at) return fault_of_ref(v, c, ref, "is named, but not in the state");
    return c->named[at - c->ref]++ ? fault_of_ref(v, c, ref, "is named twice") : true;
}

static bool all_covered(verify *v, const cover *c) {
    for (size_t i = 0; c->named && i < c->count; i++)
        if (!c->named[i]) return fault_of_ref(v, c, c->ref[i], "is in the state, but neither an exact entry nor an orphan names it");
    return true;
}

static bool check_image_piece(verify *v, cover *c, const bsi_image_piece *p) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (bad(v, bsi_store_image_check(v->s, p, &err), &err)) return false;
    for (uint32_t i = 0; i < p->count; i++) {
        uint64_t records = 0;
        const bsi_image_entry *e = &p->entry[i];
        if (e->ref == BSI_REF_NONE) continue;
        if (!check_ref(v, e->ref, &records)) return false;
        if (!(e->flags & BSI_IMAGE_EXACT)) continue;
        if (records != e->records) {
            tell_free(v, bsi_format("an image entry counts %u records, its block has %llu", e->records, (unsigned long long)records));
            return false;
        }
        if (!cover_ref(v, c, e->ref)) return false;
    }
    return true;
}

static bool check_image(verify *v, const bsi_feed *f) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_image image;
    cover c;
    if (bad(v, bsi_store_image(&image, v->s, f->image_list, &err), &err)) return false;
    bool known = open_cover(&c, v, f), good = true;
    for (size_t i = 0; good && i < image.piece_count; i++) good = check_image_piece(v, &c, &image.piece[i]);
    uint64_t records = 0;
    for (size_t i = 0; good && i < image.orphan_count; i++) good = check_ref(v, image.orphan[i], &records) && cover_ref(v, &c, image.orphan[i]);
    if (good && known) good = all_covered(v, &c);
    close_cover(&c);
    bsi_image_free(&image);
    return good;
}

/* ---- generations, feeds ---- */

static bomsync_status no_line(void *ctx, const char *line, size_t n, bomsync_error *err) {
    (void)ctx, (void)line, (void)n, (void)err;
    return BOMSYNC_OK;
}

static void check_outbox(verify *v, const bsi_generation *g) {
    char *dir = bsi_store_path(v->s, "outbox/%lld", (long long)g->number);
    char *waiting = bsi_store_path(v->s, "outbox/.tmp-%lld", (long long)g->number);
    struct stat st;
    if (stat(dir, &st) != 0 && stat(waiting, &st) == 0) {
        free(dir);
        dir = bsi_strdup(waiting);
    }
    char *manifest = bsi_format("%s/manifest.json", dir);
    if (stat(dir, &st) != 0) {
        tell_free(v, bsi_format("generation %lld: its outbox folder is missing", (long long)g->number));
    } else {
        if (stat(manifest, &st) != 0) tell_free(v, bsi_format("generation %lld: manifest.json is missing", (long long)g->number));
        for (size_t i = 0; i < g->chunk_count; i++) {
            bomsync_error err = BOMSYNC_ERROR_INIT;
            char *path = bsi_format("%s/%s", dir, g->chunks[i].file);
            if (bsi_chunk_read(path, &g->chunks[i], no_line, NULL, &err))
                tell_free(v, bsi_format("generation %lld, chunk \"%s\": %s", (long long)g->number, g->chunks[i].file, err.message));
            free(path);
        }
    }
    free(dir);
    free(waiting);
    free(manifest);
}

static void check_generation(verify *v, int64_t number, uint8_t before[32], uint64_t *last_list, uint64_t *last_records) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_generation *g;
    int64_t previous;
    bool outbox;
    if (bad(v, bsi_generation_load(&g, &previous, &outbox, v->s, v->s->root.read, number, &err), &err)) return;
    if (!g) {
        tell_free(v, bsi_format("generation %lld is missing", (long long)number));
        return;
    }
    if (g->base != number - 1 || memcmp(g->base_digest, before, 32) != 0)
        tell_free(v, bsi_format("generation %lld does not follow the one before", (long long)number));
    memcpy(before, g->digest, 32);
    if (g->state_list && g->state_list != *last_list) {
        *last_list = check_state(v, g->state_list, last_records) ? g->state_list : 0;
    }
    if (g->state_list && *last_list == g->state_list && *last_records != (uint64_t)g->totals.records)
        tell_free(v, bsi_format("generation %lld has %llu records, not %lld", (long long)number, (unsigned long long)*last_records,
                                (long long)g->totals.records));
    if (outbox) check_outbox(v, g);
    bsi_generation_free(g);
}

static void check_feed(verify *v, const char *name) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_feed *f;
    if (bad(v, bsi_store_feed(&f, v->s, name, &err), &err) || !f) return;
    bsi_kept_list kept;
    bad(v, bsi_store_kept(&kept, v->s, name, &err), &err);
    bsi_kept_free(&kept);
    if (f->image_list && !check_image(v, f)) v->image_bad = true;
    bsi_feed_free(f);
}

static void check_dictionary(verify *v, uint64_t id, bsi_span payload) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bad(v, bsi_dict_check(v->s, payload, id, &err), &err);
}

static void check_root(verify *v) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = v->s;
    check_pages(v, &s->root);
    for (int db = 0; db < BSI_DB_ROOT_COUNT; db++) {
        uint64_t before = v->faults;
        check_database(v, &s->root, (bsi_db)db, db == BSI_DB_DICTS ? check_dictionary : NULL);
        if (db == BSI_DB_IMAGE && v->faults > before) v->image_bad = true;
    }
    uint8_t digest[32] = {0};
    uint64_t list = 0, records = 0;
    for (int64_t n = 1; n <= (int64_t)s->counters.generation; n++) check_generation(v, n, digest, &list, &records);
    char **names;
    size_t count;
    if (!bad(v, bsi_store_feeds(&names, &count, s, &err), &err)) {
        for (size_t i = 0; i < count; i++) {
            check_feed(v, names[i]);
            free(names[i]);
        }
        free(names);
    }
    bsi_hold *h = NULL;
    count = 0;
    bad(v, bsi_store_holds(&h, &count, s, NULL, &err), &err);
    bsi_holds_free(h, count);
    bad(v, bsi_store_journal(s, NULL, NULL, &err), &err);
}

/* ---- repair ---- */

static bomsync_status forget_image(bsi_store *s, MDB_txn *txn, const char *name, bomsync_error *err) {
    bsi_feed *f;
    bomsync_status st = bsi_feed_load(&f, s, txn, name, err);
    if (st || !f) return st;
    uint64_t list = f->image_list;
    f->image_list = 0;
    f->mark_count = 0;
    memset(f->image_digest, 0, sizeof f->image_digest);
    if (list) st = bsi_value_drop(&s->root, txn, BSI_DB_LISTS, bsi_key_id(&list), err);
    if (!st) st = bsi_feed_save(s, txn, f, err);
    bsi_feed_free(f);
    return st;
}

static bomsync_status forget_images(bsi_store *s, bomsync_error *err) {
    MDB_txn *txn = NULL;
    char **names = NULL;
    size_t count = 0;
    bomsync_status st = bsi_store_feeds(&names, &count, s, err);
    if (!st) st = bsi_env_begin(&txn, &s->root, err);
    for (size_t i = 0; i < count; i++) {
        if (!st) st = forget_image(s, txn, names[i], err);
        free(names[i]);
    }
    free(names);
    int rc = st ? 0 : mdb_drop(txn, s->root.dbi[BSI_DB_IMAGE], 0);
    if (rc) st = bsi_env_fail(err, &s->root, rc, "empty the image");
    if (st && txn) mdb_txn_abort(txn);
    if (!st) st = bsi_env_commit(&s->root, txn, err);
    if (!st) st = bsi_env_renew(&s->root, err);
    atomic_store(&s->view, bsi_store_new_view());
    return st;
}

static void check_all(verify *v) {
    check_shards(v);
    check_root(v);
    bsi_block_data_free(&v->data);
    free(v->field);
    v->field = NULL;
    v->field_cap = 0;
}

bomsync_status bsi_store_verify(bsi_store *s, bool repair, void (*found)(void *ctx, const char *line), void *ctx,
                                bomsync_error *err) {
    verify v = {.s = s, .found = found, .ctx = ctx};
    check_all(&v);
    if (v.image_bad && repair && s->mode != BSI_STORE_READ) {
        bomsync_status st = forget_images(s, err);
        if (st) return st;
        if (found) found(ctx, "repaired: the images are dropped, the next sync of each feed makes its own anew");
        v = (verify){.s = s};
        check_all(&v);
    }
    if (v.faults) {
        bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store \"%s\" is damaged: %llu faults", s->dir, (unsigned long long)v.faults);
        bsi_hint(err, repair ? "restore it from a backup" : "verify --repair mends what can be derived; else restore it from a backup");
        return BOMSYNC_E_INTEGRITY;
    }
    if (v.space && err && !err->status) *err = v.space_error;
    return v.space ? v.space_error.status : BOMSYNC_OK;
}
