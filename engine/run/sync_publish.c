/* run/sync_publish.c - from decided changes to a published generation.
 *
 *   new state blocks (shards) -> chunks in outbox/.tmp-g -> root commit -> rename to outbox/g
 *
 * The image that is written beside it says of each block of this snapshot whether one state block holds just its
 * records; only such a block is skipped next time.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/manifest.h"
#include "run/sync.h"

/* ---- chunks ---- */

static bomsync_status send_items(const char *dir, bsi_generation *g, bsi_item_source items, const bsi_parts *parts, const bsi_slots *slots,
                                 const bsi_row_source *now, const bsi_row_source *was, int workers, bool by_libzstd, bomsync_error *err) {
    bomsync_status st = bsi_remove_tree(dir, err);
    if (!st) st = bsi_mkdirs(dir, err);
    if (st || !items.most) return st;
    char id[65];
    bsi_hex(id, g->base_digest, 32);
    id[16] = 0;
    bsi_change_head head = {.entity = g->feed, .id_prefix = id, .generation = -1};
    bsi_render how = {.slots = slots, .now = now, .was = was, .head = &head, .workers = workers, .by_libzstd = by_libzstd};
    return bsi_items_send(items, &how, parts, dir, &g->chunks, &g->chunk_count, err);
}

bomsync_status bsi_write_chunks(const char *dir, bsi_generation *g, const bsi_item *items, size_t count, const bsi_parts *parts,
                                const bsi_slots *slots, const bsi_row_source *now, const bsi_row_source *was, int workers,
                                bool by_libzstd, bomsync_error *err) {
    bsi_item_array array = {.item = items, .count = count};
    return send_items(dir, g, bsi_items_of(&array), parts, slots, now, was, workers, by_libzstd, err);
}

bomsync_status bsi_send_items(bsi_store *store, bsi_generation *g, bsi_item_source items, const bsi_parts *parts, const bsi_slots *slots,
                              const bsi_row_source *now, const bsi_row_source *was, int workers, bomsync_error *err) {
    char *dir = bsi_format("%s/outbox/.tmp-%lld", bsi_store_dir(store), (long long)g->number);
    bomsync_status st = send_items(dir, g, items, parts, slots, now, was, workers, false, err);
    free(dir);
    return st;
}

bomsync_status bsi_send_chunks(bsi_store *store, bsi_generation *g, const bsi_item *items, size_t count, const bsi_parts *parts,
                               const bsi_slots *slots, const bsi_row_source *now, const bsi_row_source *was, int workers,
                               bomsync_error *err) {
    bsi_item_array array = {.item = items, .count = count};
    return bsi_send_items(store, g, bsi_items_of(&array), parts, slots, now, was, workers, err);
}

static bomsync_status put_manifest(bsi_store *store, int64_t number, const char *json, bomsync_error *err) {
    char *dir = bsi_format("%s/outbox/.tmp-%lld", bsi_store_dir(store), (long long)number);
    char *path = bsi_format("%s/manifest.json", dir);
    bomsync_status st = bsi_write_file(path, json, strlen(json), err);
    if (!st) st = bsi_fsync_path(dir, err);
    if (!st) {
        char *outbox = bsi_format("%s/outbox", bsi_store_dir(store));
        st = bsi_fsync_path(outbox, err);
        free(outbox);
    }
    free(path);
    free(dir);
    return st;
}

bomsync_status bsi_write_manifest(bsi_store *store, const bsi_generation *g, bomsync_error *err) {
    char *json = bsi_manifest_json(g, bsi_store_id(store));
    bomsync_status st = put_manifest(store, g->number, json, err);
    free(json);
    return st;
}

/* Where the lists take some milliseconds to write, the disk is waited for beside them. */
typedef struct manifest {
    bsi_store *store;
    int64_t number;
    char *json;
    bsi_beside beside;
    bomsync_status st;
    bomsync_error err;
} manifest;

static bool beside(const bsi_sync *s) { return s->amended_count >= BSI_BESIDE_BLOCKS && s->workers > 1; }

static void *manifest_thread(void *ctx) {
    manifest *m = ctx;
    m->st = put_manifest(m->store, m->number, m->json, &m->err);
    return NULL;
}

/* Any number of times; also if it was never started. */
static bomsync_status end_manifest(void *ctx, bomsync_error *err) {
    manifest *m = ctx;
    bsi_beside_end(&m->beside);
    free(m->json);
    m->json = NULL;
    if (m->st && err) *err = m->err;
    return m->st;
}

static bomsync_status start_manifest(manifest *m, const bsi_sync *s, const bsi_generation *g, bomsync_error *err) {
    *m = (manifest){.store = s->store, .number = g->number, .json = bsi_manifest_json(g, bsi_store_id(s->store)), .err = BOMSYNC_ERROR_INIT};
    if (beside(s) && bsi_beside_start(&m->beside, manifest_thread, m)) return BOMSYNC_OK;
    manifest_thread(m);
    return end_manifest(m, err);
}

/* ---- digests and counts ---- */

void bsi_generation_digest(bsi_generation *g) {
    bsi_sha *h = bsi_sha_open();
    bsi_sha_add(h, g->base_digest, 32);
    bsi_sha_add(h, g->feed, strlen(g->feed) + 1);
    bsi_sha_add(h, g->snapshot_digest, 32);
    bsi_sha_add(h, g->contract_digest, 32);
    const bsi_totals *t = &g->totals;
    int64_t v[] = {t->created, t->updated, t->deleted, t->unchanged, t->schema_only, t->suppressed, t->unowned, t->held,
                   t->deletes_held, t->kept_back, t->duplicates, t->filtered, t->records_in, t->records};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        char text[24];
        int n = snprintf(text, sizeof text, "%lld,", (long long)v[i]);
        bsi_sha_add(h, text, (size_t)n);
    }
    for (size_t i = 0; i < g->chunk_count; i++) {
        char hex[33];
        bsi_hash128_hex(hex, g->chunks[i].content_xxh3);
        bsi_sha_add(h, hex, 32);
    }
    bsi_sha_close(h, g->digest);
}

static int part_order(const void *a, const void *b) {
    return strcmp(((const bsi_partition_count *)a)->name, ((const bsi_partition_count *)b)->name);
}

void bsi_generation_partitions(bsi_generation *g, const bsi_generation *last, const bsi_item *items, size_t count,
                               const bsi_parts *parts, const int64_t *made) {
    size_t from_last = last ? last->partition_count : 0;
    bsi_partition_count *v = bsi_calloc(from_last + parts->count + 1, sizeof *v);
    size_t n = 0;
    for (; n < from_last; n++) v[n] = (bsi_partition_count){.name = bsi_strdup(last->partitions[n].name), .records = last->partitions[n].records};
    size_t *to = bsi_alloc(sizeof *to * (parts->count + 1));
    for (uint32_t p = 0; p < parts->count; p++) {
        size_t k = 0;
        while (k < n && strcmp(v[k].name, parts->name[p])) k++;
        if (k == n) v[n++].name = bsi_strdup(parts->name[p]);
        to[p] = k;
    }
    for (size_t i = 0; i < count; i++) {
        bsi_partition_count *c = &v[to[items[i].part]];
        if (items[i].op == 'c') c->created++, c->records++;
        if (items[i].op == 'u') c->updated++;
        if (items[i].op == 'd') c->deleted++, c->records--;
    }
    for (uint32_t p = 0; made && p < parts->count; p++) {
        v[to[p]].created += made[p];
        v[to[p]].records += made[p];
    }
    free(to);
    bsi_sort(v, n, sizeof *v, part_order);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i].records || v[i].deleted || v[i].created || v[i].updated) v[kept++] = v[i];
        else free(v[i].name);
    }
    g->partitions = v;
    g->partition_count = kept;
}

/* ---- the new state ---- */

/* What the generation leaves of the state: a whole list (first load), or edits of the one before. */
typedef struct next_state {
    bsi_ref *exact;       /* [open blocks] the state block that holds just its records, or none */
    bsi_ref *refs;        /* whole, each of one open block */
    uint32_t *open_of;    /* [ref_count] which; NULL: refs are exact, each of its own */
    size_t ref_count;
    bsi_state_edit *edit; /* else */
    size_t edit_count;
    uint64_t *swapped;    /* bits of base: blocks whose place one takes that was written with the scan. They need no edits; NULL: none */
    bsi_ref_set replaced; /* state blocks that the edits took out */
    bsi_ref *loose;       /* new ones that hold not just the records of one open block */
    size_t loose_count;
} next_state;

static bsi_ref *no_refs(const bsi_sync *s) {
    bsi_ref *ref = bsi_vast_alloc((s->open_count + 1) * sizeof *ref);
    memset(ref, 0xff, (s->open_count + 1) * sizeof *ref);
    return ref;
}

static bool whole(const bsi_sync *s, size_t open) {
    for (uint64_t k = s->row_base[open]; !s->all_new && k < s->row_base[open + 1]; k++)
        if (s->fate[k] & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE)) return false;
    return s->row_base[open + 1] > s->row_base[open];
}

/* Mostly the state is just what was written: then one list serves for all, as fresh memory costs more than going through it. */
static bool all_stay(const bsi_sync *s) {
    if (s->all_exact && s->all_new) return true;
    for (size_t i = 0; i < s->open_count; i++)
        if (s->first_ref[i] == BSI_REF_NONE || (s->scan.block[i].flags & BSI_EDIT_NOT_EXACT) || !whole(s, i)) return false;
    return true;
}

/* First load: blocks were written while they were parsed; those with rows that may not stay are written again. */
static bomsync_status first_state(bsi_sync *s, next_state *next, bomsync_error *err) {
    if (all_stay(s)) {
        next->exact = next->refs = s->first_ref;
        next->ref_count = s->open_count;
        return BOMSYNC_OK;
    }
    bsi_ref *exact = no_refs(s), **refs = &next->refs;
    size_t *count = &next->ref_count;
    next->exact = exact;
    *refs = bsi_vast_alloc(sizeof **refs * (s->open_count + 1));
    next->open_of = bsi_vast_alloc(sizeof *next->open_of * (s->open_count + 1));
    *count = 0;
    bsi_block_writer *w = NULL;
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_reader r;
    bsi_row_reader_open(&r, &now);
    bsi_field *f = bsi_alloc(sizeof *f * now.slot_count);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < s->open_count && !st; i++) {
        if (whole(s, i) && s->first_ref[i] != BSI_REF_NONE) {
            next->open_of[*count] = (uint32_t)i;
            (*refs)[(*count)++] = exact[i] = s->first_ref[i];
            continue;
        }
        bsi_buf enc = {0};
        uint32_t rows = s->scan.block[i].records, n = 0, key;
        uint32_t *off = bsi_alloc(sizeof *off * (rows + 1)), *body = bsi_alloc(sizeof *body * (rows + 1));
        uint64_t *kh = bsi_alloc(sizeof *kh * (rows + 1)), *rh = bsi_alloc(sizeof *rh * (rows + 1));
        for (uint32_t k = 0; k < rows && !st; k++) {
            if (s->fate[s->row_base[i] + k] & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE)) continue;
            st = bsi_row_fetch(f, &r, (uint64_t)i << 16 | k, err);
            if (st) break;
            off[n] = (uint32_t)enc.len;
            body[n] = bsi_image_build(&enc, f, now.slot_count, s->feed->slots.key_count, &key);
            kh[n] = r.at->kh[r.row];
            rh[n] = r.at->rh[r.row];
            off[++n] = (uint32_t)enc.len;
        }
        if (n && !st) {
            if (!w) st = bsi_block_writer_open(&w, s->store, now.slot_count, s->feed->dictionary, err);
            if (!st) st = bsi_block_writer_add(&(*refs)[*count], w, n, enc.data, off, body, kh, rh, err);
            if (!st && n == rows) exact[i] = (*refs)[*count];
            next->open_of[(*count)++] = (uint32_t)i;
        }
        bsi_buf_free(&enc);
        free(off);
        free(body);
        free(kh);
        free(rh);
    }
    if (w) {
        bomsync_status closed = bsi_block_writer_close(w, err);
        if (!st) st = closed;
    }
    free(f);
    bsi_row_reader_close(&r);
    return st;
}

static bool is_open_state(const bsi_sync *s, uint64_t ordinal) {
    size_t lo = 0, hi = s->open_state_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->open_state[mid] < ordinal) lo = mid + 1;
        else hi = mid;
    }
    return lo < s->open_state_count && s->open_state[lo] == ordinal;
}

typedef struct wanted { /* refs of matched blocks that a create stands behind, and their place in the list */
    bsi_ref ref;
    uint64_t ordinal;
} wanted;

static int by_ref(const void *a, const void *b) {
    const wanted *x = a, *y = b;
    return x->ref < y->ref ? -1 : x->ref > y->ref;
}

static bool creates(const bsi_sync *s, uint64_t k) {
    return !(s->fate[k] & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE | BSI_FATE_MATCHED));
}

/* The first open block from `open` on whose rows were joined: those of blocks that were changed in place were not. They come in long stretches,
 * where as many are passed over each time as so far. open_count: there is none. */
static size_t next_joined(const bsi_sync *s, size_t open) {
    size_t step = 1;
    for (; open + step <= s->open_count && s->row_base[open + step] == s->row_base[open]; step *= 2) open += step;
    for (; step; step /= 2)
        if (open + step <= s->open_count && s->row_base[open + step] == s->row_base[open]) open += step;
    return open;
}

/* A block of the snapshot may become a state block of its own if its good rows stand in the state in the same order,
 * close together, and none was kept back. */
static bool in_order(const bsi_sync *s, size_t open) {
    uint64_t last = 0, first = UINT64_MAX;
    for (uint64_t k = s->row_base[open]; k < s->row_base[open + 1]; k++) {
        uint64_t f = s->fate[k];
        if (f & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE)) return false;
        if (!(f & BSI_FATE_MATCHED)) continue;
        uint64_t place = BSI_FATE_PLACE(f) + 1;
        if (place <= last) return false;
        last = place;
        if (first == UINT64_MAX) first = place;
    }
    return first == UINT64_MAX || (last - first) >> 16 <= 16;
}

typedef struct u64_list {
    uint64_t *v;
    size_t n, cap;
} u64_list;

/* Rows that stand together mostly lie in one block: it is named once. */
static void u64_add(u64_list *l, uint64_t v) {
    if (l->n && l->v[l->n - 1] == v) return;
    if (l->n == l->cap) l->v = bsi_vast_realloc(l->v, (l->cap = l->cap ? l->cap * 2 : 256) * sizeof *l->v);
    l->v[l->n++] = v;
}

/* State blocks that are written again, one bit each. */
typedef struct bit_set {
    uint64_t *word;
    size_t bits;
} bit_set;

static void bits_to_list(u64_list *l, const bit_set *b) {
    for (size_t w = 0; w <= b->bits >> 6; w++)
        for (uint64_t v = b->word[w]; v; v &= v - 1) u64_add(l, (uint64_t)w << 6 | (uint64_t)__builtin_ctzll(v));
}

/* Those that change, and those that share an aligned block with them. */
static void touched_blocks(const bsi_sync *s, bit_set *t) {
    for (size_t i = 0; i < s->gone_count; i++)
        if (!bsi_is_amended(s, s->gone[i] >> 16)) bsi_bit_set(t->word, s->gone[i] >> 16);
    for (size_t i = 0; i < s->amended_count; i++) /* shares its block with none. Most are written already */
        if (s->amended[i].changed && s->amended[i].made == BSI_REF_NONE) bsi_bit_set(t->word, s->amended[i].ordinal);
    for (int pass = 0; pass < 3; pass++) {
        u64_list more = {0};
        for (size_t i = next_joined(s, 0); i < s->open_count; i = next_joined(s, i + 1)) {
            bool touches = false, aligned = pass && in_order(s, i);
            for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1]; k++) {
                uint64_t f = s->fate[k];
                if (creates(s, k)) touches = true;
                if (!(f & BSI_FATE_MATCHED) || (f & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE))) continue;
                if (f & BSI_FATE_CHANGED) {
                    touches = true;
                    if (!pass) u64_add(&more, BSI_FATE_PLACE(f) >> 16);
                } else if (aligned && bsi_bit_has(t->word, BSI_FATE_PLACE(f) >> 16)) {
                    touches = true;
                }
            }
            if (!touches || !aligned) continue;
            for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1]; k++)
                if (s->fate[k] & BSI_FATE_MATCHED) u64_add(&more, BSI_FATE_PLACE(s->fate[k]) >> 16);
        }
        for (size_t i = 0; i < more.n; i++) bsi_bit_set(t->word, more.v[i]);
        bsi_vast_free(more.v);
    }
}

/* Behind which record of the state each create of the snapshot goes. */
typedef struct anchors {
    bsi_edit_insert *insert;
    size_t count, cap;
    wanted *want;        /* matched blocks that creates stand behind: their ordinals are found below */
    size_t wants, want_cap;
    uint64_t after;      /* where the snapshot stands: as in bsi_edit_insert, or MATCHED_ANCHOR and the number of a want, from 1 (0: none yet) */
    bsi_ref matched;     /* the block of `after`, while it is MATCHED_ANCHOR */
    const bsi_scan_run *behind; /* a matched run that was passed, while nobody has asked for its last block; or NULL */
    bsi_image_walk walk;
} anchors;
#define MATCHED_ANCHOR (1ull << 62)

/* A matched run gives its last block that has records. Entries lie far apart, and few are asked for. */
static void find_matched(anchors *x) {
    const bsi_scan_run *run = x->behind;
    x->behind = NULL;
    for (uint64_t k = run->count; k; k--) {
        const bsi_image_entry *e = bsi_image_next(&x->walk, run->first + k - 1);
        if (!e->records) continue;
        x->after = MATCHED_ANCHOR;
        x->matched = e->ref;
        return;
    }
}

static void pass_to(anchors *x, uint64_t after) {
    x->after = after;
    x->behind = NULL;
}

static void add_insert(anchors *x, uint64_t now, bool aligned) {
    if (x->behind) find_matched(x);
    if (x->after == MATCHED_ANCHOR) {
        if (x->wants == x->want_cap) x->want = bsi_vast_realloc(x->want, (x->want_cap = x->want_cap ? x->want_cap * 2 : 64) * sizeof *x->want);
        x->want[x->wants] = (wanted){x->matched, x->wants};
        x->after |= ++x->wants;
    }
    if (x->count == x->cap) x->insert = bsi_vast_realloc(x->insert, (x->cap = x->cap ? x->cap * 2 : 256) * sizeof *x->insert);
    x->insert[x->count++] = (bsi_edit_insert){.after = x->after, .now = now, .aligned = aligned};
}

static bool stays(uint64_t fate) {
    return (fate & BSI_FATE_MATCHED) && !(fate & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE));
}

static void pass_open(anchors *x, const bsi_sync *s, size_t open) {
    bool aligned = in_order(s, open);
    for (uint64_t k = s->row_base[open]; k < s->row_base[open + 1]; k++) {
        if (creates(s, k)) add_insert(x, (uint64_t)open << 16 | (k - s->row_base[open]), aligned);
        else if (stays(s->fate[k])) pass_to(x, BSI_FATE_PLACE(s->fate[k]) + 1);
    }
}

static void list_inserts(anchors *x, const bsi_sync *s) {
    if (!s->t.created) return;
    bsi_amend_walk amended = {0};
    x->walk.image = &s->image;
    for (size_t at = 0; at < s->scan.run_count; at++) {
        const bsi_scan_run *run = &s->scan.run[at];
        if (run->matched && run->records) x->behind = run;
        for (size_t i = run->first; !run->matched && i < run->first + run->count; i++) {
            const bsi_amended *a = bsi_amend_next(&amended, s, i);
            if (a) pass_to(x, a->ordinal << 16 | bsi_amended_records_before(a)); /* its last row, and one */
            else pass_open(x, s, i);
        }
    }
}

/* Where the blocks that creates stand behind are in the list. Few of its many refs are wanted: a set of these spares the others
 * the search (12 ms for 830,000 refs and 3,000 wants). */
static void place_wants(uint64_t *place, anchors *x, const bsi_sync *s) {
    bsi_ref_set wants = {0};
    for (size_t i = 0; i < x->wants; i++) bsi_ref_add(&wants, x->want[i].ref);
    if (x->wants) bsi_sort(x->want, x->wants, sizeof *x->want, by_ref);
    for (size_t i = 0; x->wants && i < s->base_count; i++) {
        if (!bsi_ref_has(&wants, s->base[i])) continue;
        wanted key = {.ref = s->base[i]}, *w = bsearch(&key, x->want, x->wants, sizeof *x->want, by_ref);
        if (w) place[w->ordinal] = ((uint64_t)i + 1) << 16; /* behind its last row: before the next block */
    }
    bsi_vast_free(wants.slot);
}

/* Number of a want -> ref -> place in the list. A block that was joined and in which a create stands is touched. */
static void place_inserts(anchors *x, const bsi_sync *s, bit_set *touched) {
    uint64_t *place = bsi_vast_calloc(x->wants + 1, sizeof *place);
    place_wants(place, x, s);
    for (size_t i = 0; i < x->count; i++) {
        uint64_t *after = &x->insert[i].after;
        if (*after & MATCHED_ANCHOR) {
            *after = place[(*after & ~MATCHED_ANCHOR) - 1];
        } else if (*after) {
            uint64_t in = (*after - 1) >> 16;
            if (!bsi_is_amended(s, in) && is_open_state(s, in)) bsi_bit_set(touched->word, in); /* behind the last row of an amended one, as of a skipped one */
        }
    }
    bsi_vast_free(place);
}

/* Rows of touched blocks that the snapshot holds, too: once it is known which are touched. */
static bsi_edit_pair *list_pairs(size_t *count, const bsi_sync *s, const bit_set *touched) {
    bsi_edit_pair *pair = bsi_vast_alloc((s->row_base[s->open_count] + 1) * sizeof *pair); /* at most; what is not used is never touched */
    *count = 0;
    for (size_t i = next_joined(s, 0); i < s->open_count; i = next_joined(s, i + 1)) {
        bool aligned = in_order(s, i);
        for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1]; k++) {
            uint64_t f = s->fate[k], was = BSI_FATE_PLACE(f);
            if (!stays(f) || !bsi_bit_has(touched->word, was >> 16)) continue;
            pair[(*count)++] = (bsi_edit_pair){.was = was, .now = (uint64_t)i << 16 | (k - s->row_base[i]),
                                               .changed = (f & BSI_FATE_CHANGED) != 0, .aligned = aligned};
        }
    }
    return pair;
}

static bomsync_status edited_state(bsi_sync *s, next_state *n, bomsync_error *err) {
    bit_set bits = {.word = bsi_calloc((s->base_count >> 6) + 1, sizeof *bits.word), .bits = s->base_count};
    anchors x = {.matched = BSI_REF_NONE};
    size_t pairs;
    u64_list touched = {0};
    touched_blocks(s, &bits);
    list_inserts(&x, s);
    place_inserts(&x, s, &bits);
    bsi_edit_pair *pair = list_pairs(&pairs, s, &bits);
    bits_to_list(&touched, &bits);
    free(bits.word);
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .slot_count = s->feed->slots.count};
    bomsync_status st = bsi_sync_learn(s, (uint64_t)(s->t.created + s->t.updated), err);
    bsi_edit e = {.store = s->store, .slots = &s->feed->slots, .now = &now, .was = &was, .base = s->base, .base_count = s->base_count,
                  .gone = s->gone, .gone_count = s->gone_count, .pair = pair, .pair_count = pairs, .insert = x.insert,
                  .insert_count = x.count, .amended = s->amended_state, .amended_count = s->amended_count, .touched = touched.v,
                  .touched_count = touched.n, .block_records = s->block_records, .dictionary = s->feed->dictionary,
                  .workers = s->workers, .exact = n->exact};
    if (!st) st = bsi_edit_run(&n->edit, &n->edit_count, &e, err);
    n->loose = e.loose;
    n->loose_count = e.loose_count;
    for (size_t i = 0; i < touched.n; i++) bsi_ref_add(&n->replaced, s->base[touched.v[i]]);
    bsi_vast_free(touched.v);
    bsi_vast_free(pair);
    bsi_vast_free(x.insert);
    bsi_vast_free(x.want);
    return st;
}

/* Blocks that were written with the scan take their places in base. Rows are not looked up there any more. */
static void swap_amended(bsi_sync *s, next_state *n) {
    if (s->amended_count) n->swapped = bsi_calloc((s->base_count >> 6) + 1, sizeof *n->swapped);
    for (size_t i = 0; i < s->amended_count; i++) {
        const bsi_amended *a = &s->amended[i];
        if (a->made == BSI_REF_NONE) continue;
        s->base[a->ordinal] = a->made;
        bsi_bit_set(n->swapped, a->ordinal);
    }
}

/* ---- the new image ---- */

/* An open block that changed nothing and whose rows are just one state block, in order, may be skipped from now on. */
static bsi_ref same_as_state(bsi_sync *s, size_t open, bomsync_error *err) {
    uint64_t first = s->fate[s->row_base[open]];
    if (!whole(s, open) || !(first & BSI_FATE_MATCHED) || (BSI_FATE_PLACE(first) & 0xffff)) return BSI_REF_NONE;
    uint64_t place = BSI_FATE_PLACE(first);
    for (uint64_t k = s->row_base[open]; k < s->row_base[open + 1]; k++, place++)
        if (!(s->fate[k] & BSI_FATE_MATCHED) || (s->fate[k] & BSI_FATE_CHANGED) || BSI_FATE_PLACE(s->fate[k]) != place) return BSI_REF_NONE;
    bsi_block_rows rows;
    if (bsi_store_rows(&rows, s->store, s->base[BSI_FATE_PLACE(first) >> 16], err)) return BSI_REF_NONE;
    return rows.count == s->row_base[open + 1] - s->row_base[open] ? s->base[BSI_FATE_PLACE(first) >> 16] : BSI_REF_NONE;
}

bsi_image_entry bsi_sync_entry(const bsi_scan_block *b, bsi_ref exact) {
    bool skippable = exact != BSI_REF_NONE;
    bsi_image_entry e = {.fp = b->fp, .plain = b->plain, .ref = skippable ? exact : BSI_REF_NONE, .bytes = b->bytes,
                         .records = b->records, .blanks = b->blanks};
    e.flags = (skippable ? BSI_IMAGE_EXACT : 0u) | (b->flags & BSI_CUT_LONE_CR ? BSI_IMAGE_LONE_CR : 0u) |
              (b->flags & BSI_CUT_AT_END ? BSI_IMAGE_AT_END : 0u);
    return e;
}

/* The list of blocks is needed no more once the image is made of it, so their entries take its place: fresh memory costs more than making them. */
static_assert(sizeof(bsi_image_entry) <= sizeof(bsi_scan_block), "entry i ends before block i + 1 begins");
static const bsi_image_entry *entries_of_blocks(bsi_sync *s, const bsi_ref *exact) {
    bsi_image_entry *v = (bsi_image_entry *)(void *)s->scan.block;
    bsi_scan_forget(&s->scan); /* while it is known how many they are */
    for (size_t i = 0; i < s->scan.block_count; i++) {
        bsi_scan_block b = s->scan.block[i];
        v[i] = bsi_sync_entry(&b, exact[i]);
    }
    s->scan.block_count = 0;
    return v;
}

/* Matched entries stay where they are: the new image is the old one with what stands between them put anew. The list of runs is not needed
 * any more either, so the edits take its place. There may be one more of them than runs, which has room behind two runs. */
static_assert(sizeof(bsi_image_edit) * 3 <= sizeof(bsi_scan_run) * 2, "edit i ends before run i + 1 begins");
static const bsi_image_edit *edited_image(bsi_sync *s, const bsi_ref *exact, size_t *count) {
    const bsi_image_entry *entry = entries_of_blocks(s, exact);
    if (s->scan.run_count < 2) s->scan.run = bsi_vast_realloc(s->scan.run, 2 * sizeof *s->scan.run);
    bsi_image_edit *edit = (bsi_image_edit *)(void *)s->scan.run;
    uint64_t at = 0;
    size_t n = 0;
    *count = 0;
    for (size_t i = 0; i <= s->scan.run_count; i++) {
        bsi_scan_run r = {.first = s->image.count, .matched = true}; /* behind the last */
        if (i < s->scan.run_count) r = s->scan.run[i];
        if (!r.matched) {
            n += (size_t)r.count;
            continue;
        }
        if (n || r.first > at) edit[(*count)++] = (bsi_image_edit){.first = at, .end = r.first, .entry = entry, .count = n};
        entry += n;
        n = 0;
        at = r.first + r.count;
    }
    s->scan.run_count = 0;
    return edit;
}

static bsi_image_entry *new_image(bsi_sync *s, const bsi_ref *exact, size_t *count, size_t *exact_count) {
    size_t extra = s->scope || s->o->upsert ? s->image.count : 0;
    bsi_image_entry *v = bsi_vast_alloc(sizeof *v * (s->scan.blocks + extra + 1));
    uint8_t *used = extra ? bsi_calloc(s->image.count / 8 + 1, 1) : NULL;
    bsi_image_walk w = {.image = &s->image};
    *count = *exact_count = 0;
    for (size_t i = 0; i < s->scan.run_count; i++) {
        const bsi_scan_run *r = &s->scan.run[i];
        for (uint64_t k = r->first; k < r->first + r->count; k++) {
            bsi_image_entry *e = &v[(*count)++];
            if (r->matched) {
                *e = *bsi_image_next(&w, k);
                if (used) used[k >> 3] |= (uint8_t)(1u << (k & 7));
            } else {
                *e = bsi_sync_entry(&s->scan.block[k], exact[k]);
            }
            *exact_count += (e->flags & BSI_IMAGE_EXACT) != 0;
        }
    }
    bsi_ref_set named = {0}; /* by open blocks: other bytes of the same records, say other quotes */
    for (size_t i = 0; extra && i < s->open_count; i++)
        if (exact[i] != BSI_REF_NONE) bsi_ref_add(&named, exact[i]);
    for (size_t i = 0; i < extra; i++) {
        const bsi_image_entry *e = bsi_image_next(&w, i);
        if ((used[i >> 3] >> (i & 7) & 1) || !(e->flags & BSI_IMAGE_EXACT) || bsi_ref_has(&named, e->ref)) continue;
        v[(*count)++] = *e; /* a snapshot of a part says nothing about the rest: it stays skippable */
    }
    bsi_vast_free(named.slot);
    free(used);
    return v;
}

static int ref_order(const void *a, const void *b) {
    bsi_ref x = *(const bsi_ref *)a, y = *(const bsi_ref *)b;
    return x < y ? -1 : x > y;
}

/* State blocks that no exact entry stands for; entries whose block is gone from the state lose their ref. */
static bsi_ref *orphans(bsi_image_entry *image, size_t image_count, const bsi_ref *state, size_t state_count, size_t *count) {
    bsi_ref *covered = bsi_vast_alloc(sizeof *covered * (image_count + 1)), *live = bsi_vast_alloc(sizeof *live * (state_count + 1));
    size_t n = 0;
    memcpy(live, state, sizeof *live * state_count);
    bool sorted = true;
    for (size_t i = 1; i < state_count && sorted; i++) sorted = live[i - 1] <= live[i];
    if (!sorted) bsi_sort(live, state_count, sizeof *live, ref_order);
    sorted = true;
    for (size_t i = 0; i < image_count; i++) {
        if (!(image[i].flags & BSI_IMAGE_EXACT)) continue;
        if (n && covered[n - 1] > image[i].ref) sorted = false;
        covered[n++] = image[i].ref;
    }
    if (!sorted) bsi_sort(covered, n, sizeof *covered, ref_order);
    bsi_ref *out = bsi_vast_alloc(sizeof *out * (state_count + 1));
    *count = 0;
    bool lost = false;
    size_t k = 0;
    for (size_t i = 0; i < state_count; i++) {
        while (k < n && covered[k] < live[i]) k++, lost = true;
        if (k < n && covered[k] == live[i]) k++;
        else out[(*count)++] = live[i];
    }
    lost |= k < n;
    for (size_t i = 0; lost && i < image_count; i++) {
        if (!(image[i].flags & BSI_IMAGE_EXACT) || bsearch(&image[i].ref, live, state_count, sizeof *live, ref_order)) continue;
        image[i].flags &= ~(uint32_t)BSI_IMAGE_EXACT;
        image[i].ref = BSI_REF_NONE;
    }
    bsi_vast_free(covered);
    bsi_vast_free(live);
    return out;
}

/* ---- kept rows ---- */

static void keep_exceptions(bsi_sync *s) {
    for (size_t i = 0; i < s->bad_count; i++) {
        bsi_kept_row *b = &s->bad[i];
        bsi_scan_file *f = &s->scan.file[s->scan.block[b->place >> 16].file];
        bsi_kept k = {.kh = b->kh, .key_read = b->key_read, .rule = bsi_strdup(bsi_rule_name(b->rule)), .byte = (int64_t)b->byte,
                      .line = bsi_scan_line(f, b->byte), .file = bsi_strdup(bsi_source_path(f->source)),
                      .partition = bsi_strdup(b->partition ? b->partition : ""), .value = b->value ? bsi_strdup(b->value) : NULL,
                      .since = s->effective_time, .slot_count = s->feed->slots.count};
        if (b->column != UINT32_MAX && b->column < f->layout->column_count) k.column = bsi_strdup(f->layout->column_name[b->column]);
        if (b->image) {
            k.image = bsi_alloc(b->image_bytes + 1);
            memcpy(k.image, b->image, b->image_bytes);
            k.image_bytes = b->image_bytes;
            k.body_bytes = b->body_bytes;
        }
        bsi_sync_kept_add(s, k);
    }
}

static bomsync_status keep_conflicts(bsi_sync *s, bomsync_error *err) {
    if (!s->conflicts) return BOMSYNC_OK;
    bsi_rows **parsed = s->scan.parsed;
    s->scan.parsed = NULL; /* the raw text is wanted, too */
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_reader r;
    bsi_row_reader_open(&r, &now);
    bsi_field *f = bsi_alloc(sizeof *f * now.slot_count);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < s->open_count && !st; i++)
        for (uint64_t n = s->row_base[i]; n < s->row_base[i + 1] && !st; n++) {
            if (!(s->fate[n] & BSI_FATE_CONFLICT) || (s->fate[n] & BSI_FATE_BAD)) continue;
            uint32_t row = (uint32_t)(n - s->row_base[i]);
            bsi_scan_block *b = &s->scan.block[i];
            st = bsi_row_fetch(f, &r, (uint64_t)i << 16 | row, err);
            if (st) break;
            bsi_source *src = s->scan.file[b->file].source;
            bsi_field p = bsi_change_partition(&s->feed->slots, f);
            uint32_t raw = r.rows.raw[row], bytes = r.rows.image[row + 1] - r.rows.image[row];
            uint32_t len = BSI_MIN(r.rows.raw[row + 1] - raw, 100u);
            while (len && (r.raw[raw + len - 1] == '\n' || r.raw[raw + len - 1] == '\r')) len--;
            bsi_kept k = {.kh = r.rows.kh[row], .key_read = true, .rule = bsi_strdup(bsi_rule_name(BSI_RULE_DUPLICATE)),
                          .byte = (int64_t)(b->offset + raw), .line = bsi_scan_line(&s->scan.file[b->file], b->offset + raw),
                          .file = bsi_strdup(bsi_source_path(src)), .partition = bsi_strndup((const char *)p.p, p.len),
                          .value = bsi_strndup((const char *)r.raw + raw, len), .since = s->effective_time,
                          .slot_count = s->feed->slots.count, .image = bsi_alloc(bytes + 1), .image_bytes = bytes,
                          .body_bytes = r.rows.body[row]};
            memcpy(k.image, r.rows.enc.data + r.rows.image[row], bytes);
            bsi_sync_kept_add(s, k);
        }
    free(f);
    bsi_row_reader_close(&r);
    s->scan.parsed = parsed;
    return st;
}

static bool kept_in_scope(const bsi_sync *s, const bsi_kept *k) {
    if (!s->scope) return true;
    for (size_t i = 0; i < s->scope_count; i++)
        if (strcmp(s->scope[i], k->partition) == 0) return true;
    return false;
}

static bool speaks_of(const bsi_sync *s, uint64_t kh) {
    for (size_t i = 0; i < s->kept_count; i++)
        if (s->kept[i].key_read && s->kept[i].kh == kh) return true;
    return false;
}

/* A snapshot of a part leaves what it does not speak of as it was: exceptions and holds of other partitions. */
static void keep_unspoken(bsi_sync *s) {
    if (!s->scope) return;
    for (size_t i = 0; i < s->old_kept_count; i++) {
        bsi_kept *o = &s->old_kept[i];
        if (kept_in_scope(s, o) || (o->key_read && speaks_of(s, o->kh))) continue;
        bsi_kept k = *o;
        k.rule = bsi_strdup(o->rule);
        k.partition = bsi_strdup(o->partition);
        k.file = o->file ? bsi_strdup(o->file) : NULL;
        k.column = o->column ? bsi_strdup(o->column) : NULL;
        k.value = o->value ? bsi_strdup(o->value) : NULL;
        k.image = o->image ? bsi_alloc(o->image_bytes + 1) : NULL;
        if (k.image) memcpy(k.image, o->image, o->image_bytes);
        bsi_sync_kept_add(s, k);
    }
    for (size_t i = 0; i < s->old_hold_count; i++) {
        bsi_hold *o = &s->old_hold[i];
        bool mine = !o->partition[0];
        for (size_t k = 0; k < s->scope_count; k++) mine |= strcmp(s->scope[k], o->partition) == 0;
        if (mine) continue;
        s->hold = bsi_realloc(s->hold, (s->hold_count + 1) * sizeof *s->hold);
        s->hold[s->hold_count++] = (bsi_hold){.feed = bsi_strdup(o->feed), .partition = bsi_strdup(o->partition), .rule = bsi_strdup(o->rule),
                                              .changes = o->changes, .since = o->since, .state = bsi_strdup(o->state),
                                              .by = o->by ? bsi_strdup(o->by) : NULL, .why = o->why ? bsi_strdup(o->why) : NULL};
        memcpy(s->hold[s->hold_count - 1].digest, o->digest, 32);
    }
}

/* ---- publish ---- */

static void note_exact(bsi_sync *s, next_state *n, bomsync_error *err) {
    if (s->all_exact && s->all_new) return;
    for (size_t i = 0; s->first_ref && i < s->open_count; i++)
        if (s->scan.block[i].flags & BSI_EDIT_NOT_EXACT) n->exact[i] = BSI_REF_NONE;
    if (s->first_ref) return;
    for (size_t i = next_joined(s, 0); i < s->open_count; i = next_joined(s, i + 1)) {
        if (n->exact[i] == BSI_REF_NONE) n->exact[i] = same_as_state(s, i, err);
        if ((s->scan.block[i].flags & BSI_EDIT_NOT_EXACT) || bsi_ref_has(&n->replaced, n->exact[i]))
            n->exact[i] = BSI_REF_NONE; /* what the edits took out stands for nothing any more */
    }
    for (size_t i = 0; i < s->amended_count; i++) {
        const bsi_amended *a = &s->amended[i];
        if (n->exact[a->open] == BSI_REF_NONE) n->exact[a->open] = a->changed | a->created | a->gone ? a->made : a->ref;
    }
}

/* What is written of the image; freed after the commit. */
typedef struct next_image {
    bsi_image_edits edits;
    bsi_image_entry *whole;
    bsi_ref *orphan;
} next_image;

static bsi_ref *first_orphans(const next_state *n, size_t *count) {
    bsi_ref *out = bsi_vast_alloc(sizeof *out * ((n->open_of ? n->ref_count : 0) + 1));
    *count = 0;
    for (size_t i = 0; n->open_of && i < n->ref_count; i++)
        if (n->exact[n->open_of[i]] != n->refs[i]) out[(*count)++] = n->refs[i];
    return out;
}

/* A first load: each block becomes an entry. */
static const bsi_image_entry *image_of_blocks(bsi_sync *s, const bsi_ref *exact, size_t *count) {
    *count = s->scan.block_count;
    const bsi_image_entry *v = entries_of_blocks(s, exact);
    s->scan.run_count = 0;
    s->scan.block = bsi_vast_realloc(s->scan.block, (*count + 1) * sizeof *v); /* a third of it is free now */
    return (const bsi_image_entry *)(const void *)s->scan.block;
}

static bomsync_status whole_image(bsi_sync *s, const next_state *n, next_image *x, bsi_publish *p, bomsync_error *err) {
    size_t exacts, count = n->ref_count;
    bsi_ref *state = n->refs;
    if (!state && s->last) {
        bomsync_status st = bsi_sync_base(s, err);
        if (st) return st;
    }
    if (!state) state = bsi_state_edits_apply(&count, s->base, s->base_count, n->edit, n->edit_count);
    if (n->refs && !s->image.count) {
        x->orphan = first_orphans(n, &p->orphan_count);
        p->image = image_of_blocks(s, n->exact, &p->image_count);
        return BOMSYNC_OK;
    }
    x->whole = new_image(s, n->exact, &p->image_count, &exacts);
    if (n->refs) x->orphan = first_orphans(n, &p->orphan_count);
    else x->orphan = orphans(x->whole, p->image_count, state, count, &p->orphan_count);
    p->image = x->whole;
    if (state != n->refs) bsi_vast_free(state);
    return BOMSYNC_OK;
}

/* State blocks of before that open blocks stand for. Amended ones stand for others than those that are looked at. */
static void cover(const bsi_sync *s, const next_state *n, bsi_ref_set *covered) {
    for (size_t i = next_joined(s, 0); i < s->open_count; i = next_joined(s, i + 1))
        if (n->exact[i] != BSI_REF_NONE) bsi_ref_add(covered, n->exact[i]);
}

/* Most blocks are in place: only what stands between them is put anew. */
static void image_in_place(bsi_sync *s, const next_state *n, next_image *x, bsi_publish *p) {
    bsi_ref_set covered = {0};
    cover(s, n, &covered);
    p->image_edit = edited_image(s, n->exact, &p->image_edit_count);
    bsi_ref *open = bsi_vast_alloc(sizeof *open * (s->open_state_count + 1));
    size_t count = 0;
    for (size_t i = 0; i < s->open_state_count; i++) /* those that were changed in place have entries, or are replaced */
        if (!bsi_is_amended(s, s->open_state[i])) open[count++] = s->base[s->open_state[i]];
    x->orphan = bsi_orphans_after(&p->orphan_count, open, count, &n->replaced, n->loose, n->loose_count, &covered);
    bsi_vast_free(covered.slot);
    bsi_vast_free(open);
    p->edit_image = true;
}

/* A shuffled or volatile snapshot: the old image stays, but for entries of state blocks that were written again. No new block has one. */
static void image_as_before(bsi_sync *s, next_state *n, next_image *x, bsi_publish *p) {
    bsi_ref_set none = {0};
    const bsi_state_edit *all = &n->edit[n->edit_count];
    bsi_ref *made = bsi_vast_alloc((all->count + s->amended_count) * sizeof *made);
    size_t count = all->count;
    if (count) memcpy(made, all->ref, count * sizeof *made);
    for (size_t i = 0; i < s->amended_count; i++) {
        if (s->amended[i].made == BSI_REF_NONE) continue;
        bsi_ref_add(&n->replaced, s->amended[i].ref);
        made[count++] = s->amended[i].made;
    }
    bsi_image_unexact(&x->edits, &s->image, &n->replaced);
    bsi_image_edits_end(&x->edits);
    p->image_edit = x->edits.edit;
    p->image_edit_count = x->edits.count;
    x->orphan = bsi_orphans_after(&p->orphan_count, s->image.orphan, s->image.orphan_count, &n->replaced, made, count, &none);
    bsi_vast_free(made);
    p->edit_image = true;
}

static bomsync_status put_image(bsi_sync *s, next_state *n, bool make, next_image *x, bsi_publish *p, bomsync_error *err) {
    bool ahead = bsi_sync_ahead_end(s); /* else the list of blocks is used up below */
    bool part = s->scope || s->o->upsert;
    if (s->all_held || (!s->last && !make)) return BOMSYNC_OK;
    if (!make && !part && s->open_count == 0 && s->scan.blocks == s->image.count && s->scan.ascending) return BOMSYNC_OK;
    uint64_t exacts = s->scan.blocks - s->open_count - s->settled;
    for (size_t i = 0; i < s->open_count; i++) exacts += n->exact[i] != BSI_REF_NONE;
    /* else the snapshot is shuffled or volatile; what was settled without the image is not even in the list of blocks */
    bool better = !s->settled && exacts * 2 >= BSI_MIN(s->image.count, s->scan.blocks);
    bomsync_status st = BOMSYNC_OK;
    if (ahead && n->refs) p->ahead = true;
    else if (part || n->refs || !s->image.count || (better && !s->scan.ascending)) st = whole_image(s, n, x, p, err);
    else if (better) image_in_place(s, n, x, p);
    else if (make) image_as_before(s, n, x, p);
    p->orphan = x->orphan;
    if ((better || n->refs) && s->scan.file_count == 1 && !part) memcpy(p->image_snapshot_digest, s->snapshot_digest, 32);
    return st;
}

typedef struct teller {
    bsi_sync *s;
    const bsi_generation *g;
    int64_t start;
} teller;

static char *tell_stats(void *ctx) {
    teller *t = ctx;
    bsi_sync_stage_ends(t->s, BSI_SYNC_COMMIT, &t->start);
    return bsi_sync_stats(t->s, t->g);
}

/* No record is looked at any more: what was kept of them makes room for the lists that are written now. */
static void forget_records(bsi_sync *s) {
    bsi_sync_memory(s);
    bool many = s->memory_peak > s->memory_bytes * 5 / 8 && !s->ahead; /* else there is room for both, and fresh pages cost time */
    if (!many && bsi_sync_leaves(s)) return;
    bsi_scan_forget(&s->scan);
    bsi_amend_forget_rows(s);
    bsi_block_cache_close(s->cache);
    s->cache = NULL;
    if (many) bsi_memory_give_back();
}

bomsync_status bsi_sync_publish(bsi_sync *s, bsi_generation *g, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    int64_t at = bsi_now_ns();
    next_state n = {0};
    next_image x = {0};
    manifest m = {0};
    bool make = !s->all_held && s->t.created + s->t.updated + s->t.deleted > 0;
    if (!s->all_held) {
        keep_exceptions(s);
        st = keep_conflicts(s, err);
        keep_unspoken(s);
    }
    if (make && !st) {
        bsi_items_sort(s->item, s->item_count, &s->parts);
        if (s->first_ref) {
            st = first_state(s, &n, err);
        } else {
            n.exact = no_refs(s);
            st = edited_state(s, &n, err);
        }
        bsi_store_flush(s->store);
        bsi_generation_partitions(g, s->last, s->item, s->item_count, &s->parts, s->part_made);
        bsi_sync_stage_ends(s, BSI_SYNC_STORE, &at);
        bsi_sync_trim(s);
        bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count,
                              .by_open = s->amended, .amended_count = s->amended_count};
        bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .by_ordinal = s->amended_state, .amended_count = s->amended_count,
                              .slot_count = s->feed->slots.count};
        bsi_item_array array = {.item = s->item, .count = s->o->baseline ? 0 : s->item_count};
        bsi_item_source items = bsi_items_of(&array);
        bsi_creates *creates = NULL;
        if (!st && s->counted && !s->o->baseline) {
            st = bsi_creates_open(&creates, s, err);
            items = bsi_creates_source(creates);
        }
        if (!st) st = bsi_send_items(s->store, g, items, &s->parts, &s->feed->slots, &now, &was, s->workers, err);
        bsi_creates_close(creates);
        forget_records(s);
        g->slot_count = s->feed->slots.count;
        bsi_sync_note_digest(s, g);
        bsi_store_rest(s->store); /* not sooner: its threads would take the digest's core */
        bsi_generation_digest(g);
        if (!st) st = start_manifest(&m, s, g, err);
        bsi_sync_stage_ends(s, BSI_SYNC_EMIT, &at);
    }
    bsi_sync_note_digest(s, g); /* the image is written anew below */
    if (!n.exact) n.exact = no_refs(s);
    bsi_publish p = {.feed = s->feed, .generation = make ? g : NULL, .outbox = make, .journal_kind = "snapshot", .at = s->clock};
    if (make && !n.refs) swap_amended(s, &n);
    if (!st && !s->all_held) note_exact(s, &n, err);
    if (!st) st = put_image(s, &n, make, &x, &p, err);
    bsi_amend_rest(s); /* the lists that are written now take as much memory */
    p.mark = s->scan.mark;
    p.mark_count = s->scan.mark_count;
    p.mark_entries = s->scan.blocks;
    p.state = n.refs;
    p.state_count = n.ref_count;
    p.edit_state = make && !n.refs;
    p.state_base = s->base;
    p.state_base_count = s->base_count;
    p.state_swapped = n.swapped;
    p.state_beside = beside(s);
    p.state_edit = n.edit;
    p.state_edit_count = n.edit_count;
    p.kept = s->kept;
    p.kept_count = s->kept_count;
    p.set_kept = !s->all_held;
    p.holds = s->hold;
    p.hold_count = s->hold_count;
    p.set_holds = true;
    char *journal = bsi_generation_journal(g);
    p.journal_json = journal;
    bsi_sync_stage_ends(s, BSI_SYNC_STORE, &at);
    teller stats = {.s = s, .g = g, .start = at};
    p.ready = end_manifest;
    p.ready_ctx = &m;
    p.stats = tell_stats;
    p.stats_ctx = &stats;
    uint32_t slot_count = s->feed->slots.count;
    if (s->all_held && !s->new_feed) s->feed->slots.count = s->slots_before; /* nothing is made of it: its new columns are not known either */
    if (!st && !(s->new_feed && !make && s->all_held && !s->feed->slots.count)) st = bsi_store_publish(s->store, &p, err);
    s->feed->slots.count = slot_count;
    bomsync_status ended = end_manifest(&m, st ? NULL : err); /* nobody may have waited for it */
    if (!st) st = ended;
    bsi_sync_stage_ends(s, BSI_SYNC_COMMIT, &stats.start);
    free(journal);
    if (n.exact != s->first_ref) bsi_vast_free(n.exact);
    if (n.refs != s->first_ref) bsi_vast_free(n.refs);
    bsi_vast_free(n.open_of);
    free(n.swapped);
    bsi_vast_free(n.replaced.slot);
    bsi_state_edits_free(n.edit, n.edit_count);
    bsi_image_edits_free(&x.edits);
    bsi_vast_free(x.whole);
    bsi_vast_free(x.orphan);
    bsi_vast_free(n.loose);
    return st;
}
