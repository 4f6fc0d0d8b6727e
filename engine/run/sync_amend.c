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
 * The patch that takes its place is written at once, and the images of both rows are kept for the renderer (bsi_amend_at_once). For that the old
 * rows are read, and what was read is compared with the new ones: hashes of rows, which lie elsewhere in the store, are looked at only
 * where nothing is written (a dry run), and made only for rows that are written:
 *
 *   kept       pair pair | now1 old1 now2 old2 | margin       one after the other in memory that is given back as a whole
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

static bool is_whole(const bsi_scan_block *b, const bsi_rows *w) {
    return w->count && w->count <= BSI_AMEND_ROWS_MAX && !w->bad_count && !(b->flags & (BSI_CUT_OVERSIZE | BSI_CUT_NO_LINE_END));
}

static bool is_amended(bsi_amended *a, uint64_t changed, const bsi_rows *w, bsi_ref ref, uint64_t entry) {
    *a = (bsi_amended){.changed = changed, .ref = ref, .made = BSI_REF_NONE, .entry = entry, .ordinal = BSI_AMEND_NOWHERE, .records = w->count};
    return (uint32_t)__builtin_popcountll(changed) * 4 <= w->count; /* a patch takes no more */
}

bool bsi_amend_find(bsi_amended *a, const bsi_scan_block *b, const bsi_rows *w, const bsi_block_rows *old, bsi_ref ref, uint64_t entry) {
    bool same;
    if (!is_whole(b, w)) return false;
    uint64_t changed = rows_changed(w, old, &same);
    return same && is_amended(a, changed, w, ref, entry);
}

/* ---- written with the scan ---- */

struct bsi_amend_writer {
    bsi_sync *s;
    bsi_block_writer *writer;
    const bsi_block_data *old; /* the writer's */
    bsi_field *f, *g;
    bsi_buf enc;
    bsi_arena kept; /* rows, until they are rendered: goes over to the sync */
    uint32_t row[BSI_AMEND_ROWS_MAX / 4], image[BSI_AMEND_ROWS_MAX / 4 + 1], body[BSI_AMEND_ROWS_MAX / 4];
};

bomsync_status bsi_amend_writer_open(bsi_amend_writer **out, bsi_sync *s, bomsync_error *err) {
    bsi_amend_writer *w = bsi_calloc(1, sizeof *w);
    uint32_t slots = s->feed->slots.count;
    w->s = s;
    w->f = bsi_alloc(slots * sizeof *w->f);
    w->g = bsi_alloc(slots * sizeof *w->g);
    *out = w;
    return bsi_block_writer_open(&w->writer, s->store, slots, s->feed->dictionary, err);
}

bomsync_status bsi_amend_writer_close(bsi_amend_writer *w, bomsync_error *err) {
    if (!w) return BOMSYNC_OK;
    bomsync_status st = bsi_block_writer_close(w->writer, err);
    bsi_arena_join(&w->s->amended_kept, &w->kept);
    bsi_buf_free(&w->enc);
    free(w->f);
    free(w->g);
    free(w);
    return st;
}

static bool merge_row(bsi_amend_writer *w, uint32_t at, const bsi_rows *now) {
    uint32_t row = w->row[at];
    const bsi_slots *s = &w->s->feed->slots;
    const bsi_block_data *d = w->old;
    if (!bsi_image_fields(w->f, s->count, d->raw.data + d->image[row], d->body[row], d->image[row + 1] - d->image[row], d->slot_count) ||
        !bsi_image_fields(w->g, s->count, now->enc.data + now->image[row], now->body[row], now->image[row + 1] - now->image[row], s->count))
        return false;
    w->image[at] = (uint32_t)w->enc.len;
    w->body[at] = bsi_edit_merge(&w->enc, w->f, w->g, s);
    return true;
}

static const bsi_kept_pair *keep_pairs(size_t *bytes, bsi_amend_writer *w, uint32_t n, const bsi_rows *now) {
    const bsi_block_data *d = w->old;
    *bytes = n * sizeof(bsi_kept_pair) + BSI_KEPT_MARGIN;
    for (uint32_t i = 0; i < n; i++) *bytes += now->image[w->row[i] + 1] - now->image[w->row[i]] + d->image[w->row[i] + 1] - d->image[w->row[i]];
    bsi_kept_pair *p = bsi_arena_take(&w->kept, *bytes);
    uint8_t *to = (uint8_t *)(p + n);
    for (uint32_t i = 0, row; i < n; i++) {
        row = w->row[i];
        p[i] = (bsi_kept_pair){now->image[row + 1] - now->image[row], now->body[row], d->image[row + 1] - d->image[row], d->body[row]};
        memcpy(to, now->enc.data + now->image[row], p[i].now_bytes);
        memcpy(to += p[i].now_bytes, d->raw.data + d->image[row], p[i].old_bytes);
        to += p[i].old_bytes;
    }
    return p;
}

static bomsync_status write_rows(bsi_amended *a, size_t *bytes, bsi_amend_writer *w, const bsi_block_match *m, bsi_rows *now, bomsync_error *err) {
    uint32_t n = 0;
    w->old = m->old;
    w->enc.len = 0;
    for (uint64_t left = a->changed; left; left &= left - 1, n++) {
        w->row[n] = (uint32_t)__builtin_ctzll(left);
        if (!merge_row(w, n, now)) return bsi_fail(err, BOMSYNC_E_INTEGRITY, "a stored record is damaged");
    }
    w->image[n] = (uint32_t)w->enc.len;
    bsi_rows_hash_some(now, bsi_store_secret(w->s->store), m->written);
    const bsi_kept_pair *kept = keep_pairs(bytes, w, n, now);
    bomsync_status st = bsi_block_writer_amend(&a->made, w->writer, m, w->enc.data, w->image, w->body, now, err);
    if (!st) a->kept = kept;
    return st;
}

bomsync_status bsi_amend_at_once(bool *amends, bsi_amended *a, size_t *bytes, bsi_amend_writer *w, const bsi_scan_block *b, bsi_rows *now,
                                 bsi_scan_expected x, bomsync_error *err) {
    bsi_block_match m;
    *bytes = 0;
    *amends = is_whole(b, now) && bsi_block_writer_match(&m, w->writer, x.entry->ref, now) && is_amended(a, m.changed, now, x.entry->ref, x.index);
    return *amends && a->changed ? write_rows(a, bytes, w, &m, now, err) : BOMSYNC_OK;
}

void bsi_early_free(bsi_early_block *e) {
    if (e) free(e->rows);
    free(e);
}

/* ---- the list ---- */

void bsi_amend_forget_rows(bsi_sync *s) { bsi_arena_free(&s->amended_kept); }

void bsi_amend_rest(bsi_sync *s) {
    bsi_vast_free(s->amended);
    bsi_vast_free(s->amended_state);
    s->amended = NULL;
    s->amended_state = NULL;
}

void bsi_amend_forget(bsi_sync *s) {
    bsi_amend_forget_rows(s);
    bsi_amend_rest(s);
    free(s->is_amended);
    s->is_amended = NULL;
    s->amended_count = 0;
    s->amended_records = 0;
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

/* Room for as many as there will be if they go on like this: a list that is moved while it grows takes its memory several times. But not for
 * all blocks because the first ones are such. */
static void add_amended(bsi_sync *s, size_t *cap, const bsi_amended *a, size_t open) {
    size_t count = s->amended_count;
    if (count == *cap) {
        *cap = BSI_MIN(count * s->scan.block_count / (open + 1) + count / 8, count * 16) + 64;
        s->amended = bsi_vast_realloc(s->amended, *cap * sizeof *s->amended);
    }
    s->amended[count] = *a;
    s->amended_records += a->records;
    s->amended[s->amended_count++].open = (uint32_t)open;
}

/* Open blocks [from, to); no matched block took an entry of the image from `past` on and before `next`. Gives the first
 * entry that is still free behind them. */
static uint64_t settle_run(bsi_sync *s, size_t *cap, uint64_t from, uint64_t to, uint64_t past, uint64_t next) {
    for (uint64_t i = from; i < to; i++) {
        bsi_scan_block *b = &s->scan.block[i];
        bsi_early_block *e = b->tag == BSI_NO_TAG ? NULL : (bsi_early_block *)(uintptr_t)b->tag;
        if (!e || !e->amends) continue;
        if (s->scan.ascending && e->amended.entry >= past && e->amended.entry < next) {
            add_amended(s, cap, &e->amended, i);
            past = e->amended.entry + 1;
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

static int by_ref(const void *a, const void *b) {
    const bsi_amended *x = *(bsi_amended *const *)a, *y = *(bsi_amended *const *)b;
    return x->ref < y->ref ? -1 : x->ref > y->ref;
}

/* Those that did not stand where they were looked for. */
static void find_rest(bsi_sync *s) {
    bsi_ref_set rest = {0};
    bsi_amended **lost = NULL;
    size_t n = 0, cap = 0;
    for (size_t i = 0; i < s->amended_count; i++) {
        if (s->amended[i].ordinal != BSI_AMEND_NOWHERE) continue;
        bsi_ref_add(&rest, s->amended[i].ref);
        if (n == cap) lost = bsi_realloc(lost, (cap = cap ? cap * 2 : 16) * sizeof(bsi_amended *));
        lost[n++] = &s->amended[i];
    }
    bsi_sort(lost, n, sizeof(bsi_amended *), by_ref);
    for (size_t i = 0; i < s->open_state_count && n; i++) {
        bsi_amended key = {.ref = s->base[s->open_state[i]]}, *wanted = &key;
        bsi_amended **found = bsi_ref_has(&rest, key.ref) ? bsearch(&wanted, lost, n, sizeof(bsi_amended *), by_ref) : NULL;
        if (found) (*found)->ordinal = s->open_state[i];
    }
    free(lost);
    bsi_vast_free(rest.slot);
}

static int by_ordinal(const void *a, const void *b) {
    const bsi_amended *x = *(const bsi_amended *const *)a, *y = *(const bsi_amended *const *)b;
    return x->ordinal < y->ordinal ? -1 : x->ordinal > y->ordinal;
}

bomsync_status bsi_amend_place(bsi_sync *s, bomsync_error *err) {
    if (!s->amended_count) return BOMSYNC_OK;
    find_rest(s);
    bool ascending = true;
    s->amended_state = bsi_vast_alloc(s->amended_count * sizeof *s->amended_state);
    s->is_amended = bsi_calloc(s->base_count / 8 + 1, 1);
    for (size_t i = 0; i < s->amended_count; i++) {
        uint64_t ordinal = s->amended[i].ordinal;
        if (ordinal == BSI_AMEND_NOWHERE) {
            bsi_fail(err, BOMSYNC_E_INTEGRITY, "the image of feed \"%s\" names a state block that the state does not hold", s->feed_name);
            bsi_hint(err, "nothing was changed; bomsync verify --repair drops the image, and the next sync makes it anew");
            return BOMSYNC_E_INTEGRITY;
        }
        s->amended_state[i] = &s->amended[i];
        s->is_amended[ordinal >> 3] |= (uint8_t)(1u << (ordinal & 7));
        ascending = ascending && (!i || s->amended[i - 1].ordinal < ordinal);
    }
    if (!ascending) bsi_vast_sort(s->amended_state, s->amended_count, sizeof *s->amended_state, by_ordinal);
    return BOMSYNC_OK;
}
