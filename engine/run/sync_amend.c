/* run/sync_amend.c - blocks that were changed in place.
 *
 *   image      | e1 | e2 | e3 | e4 |          what stood there
 *   snapshot   | e1 | u  | e3 | e4 |          u was expected to be e2, and is not
 *
 *   u's keys    k1 k2 k3 .. k12   =   k1 k2 k3 .. k12    those of e2's state block, one by one
 *   u's rows    r1 x2 r3 .. r12       r1 r2 r3 .. r12    then only x2 is new
 *
 * Most changes are such: a value of a record is another one, and nothing moved. Keys of a state are unique, so those of such
 * a block stand in no other state block: nothing needs to be joined, and for the records of other blocks it is as good as a
 * skipped one (twins are searched in it as in those; if one is found, this is given up, and all open blocks are joined). The
 * worker that cut the block sees it at once; what is left of it is the place of the state block and the rows that changed.
 *
 * Which blocks are taken this way depends on which entry was expected where, so on how the file was split among workers.
 * What comes out does not: the join would find the same.
 *
 * Tried and dropped: also blocks of which some records came or went (then other blocks have to be looked at, which is what
 * the join does).
 */
#include <stdlib.h>

#include "core/vast.h"
#include "run/sync.h"

bool bsi_amend_possible(const bsi_sync *s) {
    if (!s->last || !s->tier_block || s->slots_before != s->feed->slots.count || s->scope) return false;
    for (size_t f = 0; f < s->scan.file_count; f++) {
        const bsi_layout *l = s->scan.file[f].layout;
        if (l && (l->absent_count || l->slot_count != s->feed->slots.count)) return false;
    }
    return true;
}

/* Rows of a block that the state block `old` does not hold at the same place; *same: their keys are the same, all of them. */
static uint64_t rows_changed(const bsi_rows *w, const bsi_block_rows *old, bool *same) {
    uint64_t changed = 0;
    *same = w->count == old->count;
    for (uint32_t i = 0; *same && i < w->count; i++) {
        *same = w->kh[i] == old->kh[i];
        changed |= (uint64_t)(w->rh[i] != old->rh[i]) << i;
    }
    return changed;
}

bool bsi_amend_find(bsi_amended *a, const bsi_scan_block *b, const bsi_rows *w, const bsi_block_rows *old, bsi_ref ref) {
    if (!w->count || w->count > BSI_AMEND_ROWS_MAX || w->bad_count || (b->flags & (BSI_CUT_OVERSIZE | BSI_CUT_NO_LINE_END))) return false;
    bool same;
    uint64_t changed = rows_changed(w, old, &same);
    if (!same || (uint32_t)__builtin_popcountll(changed) * 4 > w->count) return false; /* a patch takes no more */
    *a = (bsi_amended){.changed = changed, .ref = ref, .records = w->count};
    return true;
}

void bsi_early_free(bsi_early_block *e) {
    if (e) free(e->rows);
    free(e);
}

/* ---- the list ---- */

void bsi_amend_forget(bsi_sync *s) {
    bsi_vast_free(s->amended);
    bsi_vast_free(s->amended_state);
    free(s->is_amended);
    s->amended = NULL;
    s->amended_state = NULL;
    s->is_amended = NULL;
    s->amended_count = 0;
}

static size_t first_from(const bsi_sync *s, size_t lo, size_t open) {
    size_t hi = s->amended_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->amended[mid].open < open) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

const bsi_amended *bsi_amend_next(bsi_amend_walk *w, const bsi_sync *s, size_t open) {
    if (w->at < s->amended_count && s->amended[w->at].open < open) w->at++; /* most often the next one */
    if (w->at < s->amended_count && s->amended[w->at].open < open) w->at = first_from(s, w->at, open);
    return w->at < s->amended_count && s->amended[w->at].open == open ? &s->amended[w->at] : NULL;
}

bool bsi_is_amended(const bsi_sync *s, uint64_t ordinal) { return s->is_amended && (s->is_amended[ordinal >> 3] >> (ordinal & 7) & 1); }

static void add_amended(bsi_sync *s, size_t *cap, const bsi_amended *a, size_t open) {
    if (s->amended_count == *cap) s->amended = bsi_vast_realloc(s->amended, (*cap = *cap ? *cap * 2 : 64) * sizeof *s->amended);
    s->amended[s->amended_count] = *a;
    s->amended[s->amended_count++].open = (uint32_t)open;
}

/* Open blocks [from, to); no matched block took an entry of the image from `past` on and before `next`. Gives the first
 * entry that is still free behind them. */
static uint64_t settle_run(bsi_sync *s, size_t *cap, uint64_t from, uint64_t to, uint64_t past, uint64_t next) {
    for (uint64_t i = from; i < to; i++) {
        bsi_scan_block *b = &s->scan.block[i];
        bsi_early_block *e = b->tag == BSI_NO_TAG ? NULL : (bsi_early_block *)(uintptr_t)b->tag;
        if (!e || !e->amends) continue;
        if (s->scan.ascending && e->expect >= past && e->expect < next) {
            add_amended(s, cap, &e->amended, i);
            past = e->expect + 1;
        } else { /* another block has taken its place: it is joined, as a whole */
            bsi_early_free(e);
            b->tag = BSI_NO_TAG;
        }
    }
    return past;
}

/* Each entry once, as with matched blocks. */
void bsi_amend_settle(bsi_sync *s) {
    bsi_amend_forget(s);
    size_t cap = 0;
    uint64_t past = 0;
    for (size_t i = 0; s->early && s->last && i < s->scan.run_count; i++) {
        const bsi_scan_run *r = &s->scan.run[i];
        if (r->matched) {
            past = r->first + r->count;
            continue;
        }
        size_t k = i + 1;
        while (k < s->scan.run_count && !s->scan.run[k].matched) k++;
        past = settle_run(s, &cap, r->first, r->first + r->count, past, k < s->scan.run_count ? s->scan.run[k].first : s->image.count);
    }
}

/* ---- their state blocks ---- */

static uint64_t slot_of(bsi_ref ref, uint64_t mask) { return (ref * 0x9E3779B97F4A7C15ull >> 17) & mask; }

/* Number + 1 of the amended block of each state block, by its ref. */
static uint32_t *by_ref(const bsi_sync *s, uint64_t *mask) {
    for (*mask = 63; *mask < s->amended_count * 2;) *mask = *mask * 2 + 1;
    uint32_t *slot = bsi_vast_calloc(*mask + 1, sizeof *slot);
    for (size_t i = 0; i < s->amended_count; i++) {
        uint64_t h = slot_of(s->amended[i].ref, *mask);
        while (slot[h]) h = (h + 1) & *mask;
        slot[h] = (uint32_t)i + 1;
    }
    return slot;
}

bomsync_status bsi_amend_place(bsi_sync *s, bomsync_error *err) {
    if (!s->amended_count) return BOMSYNC_OK;
    uint64_t mask;
    uint32_t *slot = by_ref(s, &mask);
    size_t found = 0;
    s->amended_state = bsi_vast_alloc(s->amended_count * sizeof *s->amended_state);
    s->is_amended = bsi_calloc(s->base_count / 8 + 1, 1);
    for (size_t i = 0; i < s->open_state_count && found < s->amended_count; i++) {
        uint64_t ordinal = s->open_state[i], h = slot_of(s->base[ordinal], mask);
        while (slot[h] && s->amended[slot[h] - 1].ref != s->base[ordinal]) h = (h + 1) & mask;
        if (!slot[h]) continue;
        s->amended[slot[h] - 1].ordinal = ordinal;
        s->amended_state[found++] = &s->amended[slot[h] - 1];
        s->is_amended[ordinal >> 3] |= (uint8_t)(1u << (ordinal & 7));
    }
    bsi_vast_free(slot);
    if (found == s->amended_count) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_INTEGRITY, "the image of feed \"%s\" names a state block that the state does not hold", s->feed_name);
    bsi_hint(err, "nothing was changed; bomsync verify --repair drops the image, and the next sync makes it anew");
    return BOMSYNC_E_INTEGRITY;
}
