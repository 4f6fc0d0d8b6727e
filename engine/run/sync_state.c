/* run/sync_state.c - the state of the next generation: which state blocks are written, and where they stand.
 *
 *   state      | a1 | a2 | a3 | a4 | ...      a2 has a record that changed: it is touched, and written again
 *   snapshot   [ b1 ][ b2 ][ b3 ] ...         b2 has records of a2 and a3, and may become a block of its own: a3 is touched, too
 *   edit       a2, a3: pairs (was, now), inserts (behind which record), records that are gone ──> edit.c
 *
 * A first load has no list before: its blocks were written while they were parsed, and few of them are written again.
 */
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/publish_inner.h"

bsi_ref *bsi_sync_no_refs(const bsi_sync *s) {
    bsi_ref *ref = bsi_vast_alloc((s->open_count + 1) * sizeof *ref);
    memset(ref, 0xff, (s->open_count + 1) * sizeof *ref);
    return ref;
}

/* Mostly the state is just what was written: then one list serves for all, as fresh memory costs more than going through it. */
static bool all_stay(const bsi_sync *s) {
    if (s->all_exact && s->all_new) return true;
    for (size_t i = 0; i < s->open_count; i++)
        if (s->first_ref[i] == BSI_REF_NONE || (s->scan.block[i].flags & BSI_EDIT_NOT_EXACT) || !bsi_sync_whole(s, i)) return false;
    return true;
}

/* First load: blocks were written while they were parsed; those with rows that may not stay are written again. */
bomsync_status bsi_sync_state_first(bsi_sync *s, bsi_next_state *next, bomsync_error *err) {
    if (all_stay(s)) {
        next->exact = next->refs = s->first_ref;
        next->ref_count = s->open_count;
        return BOMSYNC_OK;
    }
    bsi_ref *exact = bsi_sync_no_refs(s), **refs = &next->refs;
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
        if (bsi_sync_whole(s, i) && s->first_ref[i] != BSI_REF_NONE) {
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

static bool creates(const bsi_sync *s, uint64_t k) {
    return !(s->fate[k] & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE | BSI_FATE_MATCHED));
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

static bool stays(uint64_t fate) {
    return (fate & BSI_FATE_MATCHED) && !(fate & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE));
}

/* All of its rows are written again anyway. Then it is known what stands before it, too: a block whose first row changed is never looked at alone
 * (sync_reconcile.c). */
static bool all_written(const bsi_sync *s, size_t open) {
    for (uint64_t k = s->row_base[open]; k < s->row_base[open + 1]; k++)
        if (!creates(s, k) && !(stays(s->fate[k]) && s->fate[k] & BSI_FATE_CHANGED)) return false;
    return true;
}

/* Its good rows are put where the snapshot has them, and they stand otherwise: since the state is to stand in its order (sync_order.c), or since
 * they changed, as in exports that have what changed last in front. Where those stay in the state blocks that they were in, each of these has rows that its
 * block of the snapshot has not, and is joined night after night. */
static bool moves(const bsi_sync *s, size_t open) {
    if (!s->reorder && !(bsi_order_matters(s) && all_written(s, open))) return false;
    return !in_order(s, open);
}

static bool any_moves(const bsi_sync *s) {
    bool any = s->reorder;
    for (size_t i = bsi_sync_next_joined(s, 0); !any && i < s->open_count; i = bsi_sync_next_joined(s, i + 1)) any = moves(s, i);
    return any;
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

/* What the joined blocks of the snapshot hold is written again, each as a block of its own, but for those that are one. */
static void touch_all(const bsi_sync *s, bit_set *t) {
    for (size_t i = bsi_sync_next_joined(s, 0); i < s->open_count; i = bsi_sync_next_joined(s, i + 1)) {
        if (bsi_sync_same_as_state(s, i) != BSI_REF_NONE) continue;
        for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1]; k++)
            if (stays(s->fate[k])) bsi_bit_set(t->word, BSI_FATE_PLACE(s->fate[k]) >> 16);
    }
}

/* Those that change, and those that share an aligned block with them. */
static void touched_blocks(const bsi_sync *s, bit_set *t) {
    for (size_t i = 0; i < s->gone_count; i++)
        if (!bsi_is_amended(s, s->gone[i] >> 16)) bsi_bit_set(t->word, s->gone[i] >> 16);
    for (size_t i = 0; i < s->amended_count; i++) /* shares its block with none. Most are written already */
        if (s->amended[i].changed && s->amended[i].made == BSI_REF_NONE) bsi_bit_set(t->word, s->amended[i].ordinal);
    if (s->reorder) {
        touch_all(s, t);
        return;
    }
    for (int pass = 0; pass < 3; pass++) {
        u64_list more = {0};
        for (size_t i = bsi_sync_next_joined(s, 0); i < s->open_count; i = bsi_sync_next_joined(s, i + 1)) {
            bool touches = false, aligned = pass && in_order(s, i), moved = !pass && moves(s, i);
            for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1]; k++) {
                uint64_t f = s->fate[k];
                if (creates(s, k)) touches = true;
                if (!stays(f)) continue;
                if (moved) {
                    u64_add(&more, BSI_FATE_PLACE(f) >> 16);
                } else if (f & BSI_FATE_CHANGED) {
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
    bsi_ref_at *want;    /* matched blocks that creates stand behind, and the number of each: their ordinals are found below */
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
        x->want[x->wants] = (bsi_ref_at){x->matched, x->wants};
        x->after |= ++x->wants;
    }
    if (x->count == x->cap) x->insert = bsi_vast_realloc(x->insert, (x->cap = x->cap ? x->cap * 2 : 256) * sizeof *x->insert);
    x->insert[x->count++] = (bsi_edit_insert){.after = x->after, .now = now, .aligned = aligned};
}

static void pass_open(anchors *x, const bsi_sync *s, size_t open) {
    bool ordered = in_order(s, open), moved = moves(s, open), aligned = ordered || (moved && bsi_sync_whole(s, open));
    for (uint64_t k = s->row_base[open]; k < s->row_base[open + 1]; k++) {
        if (creates(s, k) || (moved && stays(s->fate[k]))) add_insert(x, (uint64_t)open << 16 | (k - s->row_base[open]), aligned);
        else if (stays(s->fate[k])) pass_to(x, BSI_FATE_PLACE(s->fate[k]) + 1);
    }
}

static void list_inserts(anchors *x, const bsi_sync *s, bool any_moves) {
    if (!s->t.created && !any_moves) return;
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
    if (x->wants) bsi_sort(x->want, x->wants, sizeof *x->want, bsi_by_ref);
    for (size_t i = 0; x->wants && i < s->base_count; i++) {
        if (!bsi_ref_has(&wants, s->base[i])) continue;
        bsi_ref_at key = {.ref = s->base[i]}, *w = bsearch(&key, x->want, x->wants, sizeof *x->want, bsi_by_ref);
        if (w) place[w->at] = ((uint64_t)i + 1) << 16; /* behind its last row: before the next block */
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
    for (size_t i = bsi_sync_next_joined(s, 0); i < s->open_count; i = bsi_sync_next_joined(s, i + 1)) {
        bool aligned = in_order(s, i);
        if (!aligned && moves(s, i)) continue; /* they are put elsewhere */
        for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1]; k++) {
            uint64_t f = s->fate[k], was = BSI_FATE_PLACE(f);
            if (!stays(f) || !bsi_bit_has(touched->word, was >> 16)) continue;
            pair[(*count)++] = (bsi_edit_pair){.was = was, .now = (uint64_t)i << 16 | (k - s->row_base[i]),
                                               .changed = (f & BSI_FATE_CHANGED) != 0, .aligned = aligned};
        }
    }
    return pair;
}

/* Places that are left: those of records that are gone, and of those that are put elsewhere. */
static uint64_t *list_left(size_t *count, const bsi_sync *s) {
    uint64_t *left = bsi_vast_alloc((s->gone_count + s->row_base[s->open_count] + 1) * sizeof *left);
    if (s->gone_count) memcpy(left, s->gone, s->gone_count * sizeof *left);
    *count = s->gone_count;
    for (size_t i = bsi_sync_next_joined(s, 0); i < s->open_count; i = bsi_sync_next_joined(s, i + 1)) {
        if (!moves(s, i)) continue;
        for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1]; k++)
            if (stays(s->fate[k])) left[(*count)++] = BSI_FATE_PLACE(s->fate[k]);
    }
    bsi_vast_sort(left, *count, sizeof *left, bsi_by_u64);
    return left;
}

bomsync_status bsi_sync_state_edit(bsi_sync *s, bsi_next_state *n, bomsync_error *err) {
    bit_set bits = {.word = bsi_calloc((s->base_count >> 6) + 1, sizeof *bits.word), .bits = s->base_count};
    anchors x = {.matched = BSI_REF_NONE};
    size_t pairs;
    u64_list touched = {0};
    bool move = any_moves(s);
    touched_blocks(s, &bits);
    list_inserts(&x, s, move);
    place_inserts(&x, s, &bits);
    bsi_edit_pair *pair = list_pairs(&pairs, s, &bits);
    bits_to_list(&touched, &bits);
    free(bits.word);
    size_t gone_count = s->gone_count;
    uint64_t *left = move ? list_left(&gone_count, s) : NULL;
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .slot_count = s->feed->slots.count};
    bomsync_status st = bsi_sync_learn(s, (uint64_t)(s->t.created + s->t.updated), err);
    bsi_edit e = {.store = s->store, .slots = &s->feed->slots, .now = &now, .was = &was, .base = s->base, .base_count = s->base_count,
                  .gone = left ? left : s->gone, .gone_count = gone_count, .pair = pair, .pair_count = pairs, .insert = x.insert,
                  .insert_count = x.count, .amended = s->amended_state, .amended_count = s->amended_count, .touched = touched.v,
                  .touched_count = touched.n, .block_records = s->feed->block_size.records, .dictionary = s->feed->dictionary,
                  .workers = s->workers, .exact = n->exact};
    if (!st) st = bsi_edit_run(&n->edit, &n->edit_count, &e, err);
    n->loose = e.loose;
    n->loose_count = e.loose_count;
    for (size_t i = 0; i < touched.n; i++) bsi_ref_add(&n->replaced, s->base[touched.v[i]]);
    bsi_vast_free(touched.v);
    bsi_vast_free(left);
    bsi_vast_free(pair);
    bsi_vast_free(x.insert);
    bsi_vast_free(x.want);
    return st;
}

void bsi_sync_state_swap(bsi_sync *s, bsi_next_state *n) {
    if (s->amended_count) n->swapped = bsi_calloc((s->base_count >> 6) + 1, sizeof *n->swapped);
    for (size_t i = 0; i < s->amended_count; i++) {
        const bsi_amended *a = &s->amended[i];
        if (a->made == BSI_REF_NONE) continue;
        s->base[a->ordinal] = a->made;
        bsi_bit_set(n->swapped, a->ordinal);
    }
}

void bsi_sync_state_release(const bsi_sync *s, bsi_next_state *n) {
    if (n->exact != s->first_ref) bsi_vast_free(n->exact);
    if (n->refs != s->first_ref) bsi_vast_free(n->refs);
    bsi_vast_free(n->open_of);
    free(n->swapped);
    bsi_vast_free(n->replaced.slot);
    bsi_state_edits_free(n->edit, n->edit_count);
    bsi_vast_free(n->loose);
}
