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
 * skipped one (twins are searched in it as in those; if one is found, this is given up, and it is joined). The
 * worker that cut the block sees it at once; what is left of it is the place of the state block and the rows that changed.
 *
 * The patch that takes its place is written at once, and the images of both rows are kept for the renderer (bsi_amend_at_once). For that the old
 * rows are read, and what was read is compared with the new ones: hashes of rows, which lie elsewhere in the store, are looked at only
 * where nothing is written (a dry run), and made only for rows that are written:
 *
 *   kept       pair pair | now1 old1 now2 old2 | margin       one after the other in memory that is given back as a whole
 *
 * Where some records came or went, as engineering changes make them, the others are found side by side:
 *
 *   u's keys    k1 k2 n1 k3 k4 .. k7 k9 .. k12         n1 came, k8 went; the last one stays: it is
 *   e2's        k1 k2    k3 k4 .. k7 k8 k9 .. k12      what ends the block
 *
 * Only what has no partner is new or gone, and only that can be known elsewhere. So keys that came go into the join, behind the rows of
 * other blocks, and are searched among those of all state blocks that are not joined, these here among them. Is one found, of a record
 * that moved or stands twice, the blocks that it concerns are given up. A block that was changed so is written whole.
 *
 * Which blocks are taken this way depends on which entry was expected where, so on how the file was split among workers.
 * What comes out does not: the join would find the same.
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

/* May records go with a block? Not where it is clear already that none may: then it would be written in vain. */
static bool may_go(const bsi_sync *s) { return s->evidence && !s->o->upsert; }

static void begin(bsi_amended *a, const bsi_rows *w, bsi_ref ref, uint64_t entry) {
    *a = (bsi_amended){.ref = ref, .made = BSI_REF_NONE, .entry = (uint32_t)entry, .ordinal = BSI_AMEND_NOWHERE, .records = w->count};
}

static bool is_amended(bsi_amended *a, uint64_t changed, const bsi_rows *w, bsi_ref ref, uint64_t entry) {
    begin(a, w, ref, entry);
    a->changed = changed;
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
    uint32_t image[BSI_AMEND_ROWS_MAX + 1], body[BSI_AMEND_ROWS_MAX];
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

/* The fields of new row `now` into those of old row `was`, at the end of enc. *body: of what was made. */
static bool merge(bsi_amend_writer *w, uint32_t *body, uint32_t was, uint32_t now, const bsi_rows *rows) {
    const bsi_slots *s = &w->s->feed->slots;
    const bsi_block_data *d = w->old;
    if (!bsi_image_fields(w->f, s->count, d->raw.data + d->image[was], d->body[was], d->image[was + 1] - d->image[was], d->slot_count) ||
        !bsi_image_fields(w->g, s->count, rows->enc.data + rows->image[now], rows->body[now], rows->image[now + 1] - rows->image[now], s->count))
        return false;
    *body = bsi_edit_merge(&w->enc, w->f, w->g, s);
    return true;
}

static bomsync_status damaged(bomsync_error *err) { return bsi_fail(err, BOMSYNC_E_INTEGRITY, "a stored record is damaged"); }

static uint8_t *keep_image(uint8_t *to, const uint8_t *from, const uint32_t *image, uint32_t row) {
    uint32_t bytes = image[row + 1] - image[row];
    memcpy(to, from + image[row], bytes);
    return to + bytes;
}

/* Both images of rows that changed, those of rows that came, and of rows that went: as bsi_amended.kept says. */
static void keep_pairs(bsi_amended *a, bsi_amend_writer *w, const bsi_rows *now) {
    const bsi_block_data *d = w->old;
    const uint64_t here = a->changed | a->created;
    bsi_kept_pair pair[2 * BSI_AMEND_ROWS_MAX];
    uint32_t n = 0;
    size_t bytes = BSI_KEPT_MARGIN;
    for (uint64_t left = here; left; left &= left - 1, n++) {
        uint32_t row = (uint32_t)__builtin_ctzll(left), was = bsi_amended_was(a, row);
        pair[n] = (bsi_kept_pair){.now_bytes = now->image[row + 1] - now->image[row], .now_body = now->body[row]};
        if (a->changed >> row & 1) pair[n].old_bytes = d->image[was + 1] - d->image[was], pair[n].old_body = d->body[was];
    }
    for (uint64_t left = a->gone; left; left &= left - 1, n++) {
        uint32_t was = (uint32_t)__builtin_ctzll(left);
        pair[n] = (bsi_kept_pair){.old_bytes = d->image[was + 1] - d->image[was], .old_body = d->body[was]};
    }
    for (uint32_t i = 0; i < n; i++) bytes += sizeof *pair + pair[i].now_bytes + pair[i].old_bytes;
    bsi_kept_pair *p = bsi_arena_take(&w->kept, bytes);
    uint8_t *to = (uint8_t *)(p + n);
    memcpy(p, pair, n * sizeof *p);
    for (uint64_t left = here; left; left &= left - 1) {
        uint32_t row = (uint32_t)__builtin_ctzll(left);
        to = keep_image(to, now->enc.data, now->image, row);
        if (a->changed >> row & 1) to = keep_image(to, d->raw.data, d->image, bsi_amended_was(a, row));
    }
    for (uint64_t left = a->gone; left; left &= left - 1) to = keep_image(to, d->raw.data, d->image, (uint32_t)__builtin_ctzll(left));
    a->kept = p;
}

static bomsync_status write_rows(bsi_amended *a, bsi_amend_writer *w, const bsi_block_match *m, bsi_rows *now, bomsync_error *err) {
    uint32_t n = 0;
    w->old = m->old;
    w->enc.len = 0;
    for (uint64_t left = a->changed; left; left &= left - 1, n++) {
        uint32_t row = (uint32_t)__builtin_ctzll(left);
        w->image[n] = (uint32_t)w->enc.len;
        if (!merge(w, &w->body[n], row, row, now)) return damaged(err);
    }
    w->image[n] = (uint32_t)w->enc.len;
    bsi_rows_hash_some(now, bsi_store_secret(w->s->store), m->written);
    keep_pairs(a, w, now);
    return bsi_block_writer_amend(&a->made, w->writer, m, w->enc.data, w->image, w->body, now, err);
}

/* ---- where records came or went ---- */

static bool same_key(const bsi_rows *now, uint32_t row, const bsi_block_data *d, uint32_t was) {
    uint32_t key = now->key[row];
    return d->body[was] >= key && memcmp(now->enc.data + now->image[row], d->raw.data + d->image[was], key) == 0;
}

static bool same_body(const bsi_rows *now, uint32_t row, const bsi_block_data *d, uint32_t was) {
    return now->body[row] == d->body[was] && memcmp(now->enc.data + now->image[row], d->raw.data + d->image[was], now->body[row]) == 0;
}

/* The old row from `was` on with the key of a new one; count: there is none. */
static uint32_t find_key(const bsi_rows *now, uint32_t row, const bsi_block_data *d, uint32_t was) {
    while (was < d->count && !same_key(now, row, d, was)) was++;
    return was;
}

/* Side by side: rows of both in the same order, those that came, and those that went. False: some stand in another order, or it
 * is hardly the same block. */
static bool walk_both(bsi_amended *a, const bsi_rows *now, const bsi_block_data *d) {
    uint32_t was = 0, both = 0;
    if (!same_key(now, now->count - 1, d, d->count - 1)) return false; /* what goes at the end may stand in the next block */
    for (uint32_t i = 0; i < now->count; i++) {
        uint32_t at = find_key(now, i, d, was);
        if (at == d->count) {
            if (was && find_key(now, i, d, 0) < was) return false; /* it stands before, or twice */
            a->created |= 1ull << i;
            continue;
        }
        for (; was < at; was++) a->gone |= 1ull << was;
        if (!same_body(now, i, d, was)) a->changed |= 1ull << i;
        was++;
        both++;
    }
    return both * 2 >= d->count && (a->changed | a->created | a->gone);
}

static bool same_nulls(const bsi_rows *now, uint32_t row, const bsi_block_data *d, uint32_t was) {
    uint32_t n = now->image[row + 1] - now->image[row] - now->body[row], m = d->image[was + 1] - d->image[was] - d->body[was];
    return n == m && memcmp(now->enc.data + now->image[row] + now->body[row], d->raw.data + d->image[was] + d->body[was], n) == 0;
}

/* Is what is to be stored just what was read? But for values that are equal and were null where they are empty texts now. */
static bool as_read(const bsi_amended *a, const bsi_rows *now, const bsi_block_data *d) {
    for (uint32_t i = 0; i < now->count; i++)
        if (!(a->created >> i & 1) && !same_nulls(now, i, d, bsi_amended_was(a, i))) return false;
    return true;
}

static bomsync_status write_merged(bsi_amended *a, bsi_amend_writer *w, const bsi_rows *now, bomsync_error *err) {
    w->enc.len = 0;
    for (uint32_t i = 0; i < now->count; i++) {
        w->image[i] = (uint32_t)w->enc.len;
        w->body[i] = now->body[i];
        if (a->created >> i & 1) bsi_buf_add(&w->enc, now->enc.data + now->image[i], now->image[i + 1] - now->image[i]);
        else if (!merge(w, &w->body[i], bsi_amended_was(a, i), i, now)) return damaged(err);
    }
    w->image[now->count] = (uint32_t)w->enc.len;
    return bsi_block_writer_add(&a->made, w->writer, now->count, w->enc.data, w->image, w->body, now->kh, now->rh, err);
}

/* As a whole block: a patch replaces rows, and says nothing of others. A fault of the old block is told by who needs it. */
static bomsync_status write_block(bool *amends, bsi_amended *a, bsi_amend_writer *w, bsi_rows *now, bsi_scan_expected x, bomsync_error *err) {
    bsi_sync *s = w->s;
    if (x.entry->records > BSI_AMEND_ROWS_MAX) return BOMSYNC_OK;
    const bsi_block_data *d = bsi_block_writer_whole(w->writer, x.entry->ref);
    begin(a, now, x.entry->ref, x.index);
    *amends = d && d->count <= BSI_AMEND_ROWS_MAX && d->slot_count == s->feed->slots.count && walk_both(a, now, d) &&
              (!a->gone || (x.behind && may_go(s))); /* else those that went may stand in the block before */
    if (!*amends) return BOMSYNC_OK;
    w->old = d;
    bsi_rows_hash(now, bsi_store_secret(s->store), BSI_HASH_BOTH);
    keep_pairs(a, w, now);
    return as_read(a, now, d) ? bsi_block_writer_add_rows(&a->made, w->writer, now, err) : write_merged(a, w, now, err);
}

bomsync_status bsi_amend_at_once(bool *amends, bsi_amended *a, bsi_amend_writer *w, const bsi_scan_block *b, bsi_rows *now, bsi_scan_expected x,
                                 bomsync_error *err) {
    bsi_block_match m;
    *amends = false;
    if (!is_whole(b, now)) return BOMSYNC_OK;
    *amends = x.entry->records == now->count && bsi_block_writer_match(&m, w->writer, x.entry->ref, now) && is_amended(a, m.changed, now, x.entry->ref, x.index);
    if (!*amends) return write_block(amends, a, w, now, x, err);
    return a->changed ? write_rows(a, w, &m, now, err) : BOMSYNC_OK;
}

void *bsi_amend_keep(bsi_amend_writer *w, size_t bytes) { return bsi_arena_take(&w->kept, bytes); }

void bsi_early_free(bsi_early_block *e) {
    if (!e || e->lent) return;
    free(e->rows);
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

static void forget_list(bsi_sync *s) {
    bsi_amend_rest(s);
    free(s->is_amended);
    s->is_amended = NULL;
    s->amended_count = 0;
    s->amended_records = s->amended_created = s->amended_gone = 0;
}

void bsi_amend_forget(bsi_sync *s) {
    bsi_amend_forget_rows(s);
    forget_list(s);
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

bool bsi_is_amended(const bsi_sync *s, uint64_t ordinal) { return s->is_amended && bsi_bit_has(s->is_amended, ordinal); }

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
    s->amended_created += (uint64_t)__builtin_popcountll(a->created);
    s->amended_gone += (uint64_t)__builtin_popcountll(a->gone);
    s->amended[s->amended_count++].open = (uint32_t)open;
}

/* It is joined, as a whole. */
static void give_up(bsi_scan_block *b) {
    bsi_early_free((bsi_early_block *)(uintptr_t)b->tag);
    b->tag = BSI_NO_TAG;
}

/* Open blocks [from, to); no matched block took an entry of the image from `past` on and before `next`. in_step: the block before them is that
 * of the entry before `past`. Gives the first entry that is still free behind them. */
static uint64_t settle_run(bsi_sync *s, size_t *cap, uint64_t from, uint64_t to, uint64_t past, uint64_t next, bool in_step) {
    for (uint64_t i = from; i < to; i++) {
        bsi_scan_block *b = &s->scan.block[i];
        const bsi_early_block *e = b->tag == BSI_NO_TAG ? NULL : (bsi_early_block *)(uintptr_t)b->tag;
        const bsi_amended *a = e && e->amends ? &e->amended : NULL;
        bool free_place = a && s->scan.ascending && a->entry >= past && a->entry < next;
        bool may = free_place && (!(a->created & 1) || (in_step && a->entry == past)); /* see stands_behind */
        if (a && !may) give_up(b);
        else if (may) {
            add_amended(s, cap, a, i);
            past = a->entry + 1u;
        }
        in_step = may;
    }
    return past;
}

/* Each entry once, as with matched blocks. */
void bsi_amend_settle(bsi_sync *s) {
    forget_list(s);
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
        past = settle_run(s, &cap, r->first, r->first + r->count, past, k < s->scan.run_count ? s->scan.run[k].first : s->image.count,
                          !i || r[-1].matched);
    }
}

size_t bsi_amend_give_up(bsi_sync *s, bool (*which)(void *ctx, const bsi_amended *a, const bsi_early_block *e), void *ctx) {
    size_t count = 0;
    for (size_t i = 0; i < s->amended_count; i++) {
        bsi_scan_block *b = &s->scan.block[s->amended[i].open];
        if (b->tag == BSI_NO_TAG || !which(ctx, &s->amended[i], (const bsi_early_block *)(uintptr_t)b->tag)) continue;
        give_up(b);
        count++;
    }
    return count;
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

/* A created record stands in the state right behind the one that precedes it in the snapshot. In front of a block that is the last one of the
 * block before: so that one's state block must stand before this one's, as mostly they do. */
static bool stands_behind(bsi_sync *s, bsi_image_walk *w, const bsi_amended *a) {
    if (!(a->created & 1) || a->ordinal == BSI_AMEND_NOWHERE) return true;
    if (!a->entry || !a->ordinal) return !a->entry && !a->ordinal && !a->open;
    const bsi_image_entry *e = bsi_image_next(w, a->entry - 1);
    return (e->flags & BSI_IMAGE_EXACT) && e->records && s->base[a->ordinal - 1] == e->ref;
}

static bool all_stand_behind(bsi_sync *s) {
    bsi_image_walk w = {.image = &s->image};
    bool all = true;
    for (size_t i = 0; i < s->amended_count; i++) {
        if (stands_behind(s, &w, &s->amended[i])) continue;
        give_up(&s->scan.block[s->amended[i].open]);
        all = false;
    }
    return all;
}

bomsync_status bsi_amend_place(bool *again, bsi_sync *s, bomsync_error *err) {
    *again = false;
    if (!s->amended_count) return BOMSYNC_OK;
    find_rest(s);
    if ((*again = !all_stand_behind(s))) return BOMSYNC_OK;
    bool ascending = true;
    s->amended_state = bsi_vast_alloc(s->amended_count * sizeof *s->amended_state);
    s->is_amended = bsi_calloc(s->base_count / 64 + 1, sizeof *s->is_amended);
    for (size_t i = 0; i < s->amended_count; i++) {
        uint64_t ordinal = s->amended[i].ordinal;
        if (ordinal == BSI_AMEND_NOWHERE) {
            bsi_fail(err, BOMSYNC_E_INTEGRITY, "the image of feed \"%s\" names a state block that the state does not hold", s->feed_name);
            bsi_hint(err, "nothing was changed; bomsync verify --repair drops the image, and the next sync makes it anew");
            return BOMSYNC_E_INTEGRITY;
        }
        s->amended_state[i] = &s->amended[i];
        bsi_bit_set(s->is_amended, ordinal);
        ascending = ascending && (!i || s->amended[i - 1].ordinal < ordinal);
    }
    if (!ascending) bsi_vast_sort(s->amended_state, s->amended_count, sizeof *s->amended_state, by_ordinal);
    return BOMSYNC_OK;
}
