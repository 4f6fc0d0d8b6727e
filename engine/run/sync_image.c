/* run/sync_image.c - the image of the next generation: the blocks of this snapshot, each with the state block that holds just its records.
 *
 *   scan       | matched, entries 0..30,999       | 2 open | matched, entries 31,002.. | ...
 *   edits        entries stay where they are      31,000 and 31,001 become two others, each exact if a state block was
 *                                                 written for it, or stood there already
 *   orphans    state blocks that no exact entry stands for: the next sync looks at their rows
 *
 * Only an exact block is skipped next time. The list is made in one of three ways: edited in place where most blocks matched, in
 * order; the old one but for what was written again, where the snapshot is shuffled or volatile; else whole.
 */
#include <assert.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/publish_inner.h"

/* ---- entries ---- */

/* A state block that cannot be read is none: who needs it tells. */
bsi_ref bsi_sync_same_as_state(const bsi_sync *s, size_t open) {
    uint64_t first = s->fate[s->row_base[open]];
    if (!bsi_sync_whole(s, open) || !(first & BSI_FATE_MATCHED) || (BSI_FATE_PLACE(first) & 0xffff)) return BSI_REF_NONE;
    uint64_t place = BSI_FATE_PLACE(first);
    for (uint64_t k = s->row_base[open]; k < s->row_base[open + 1]; k++, place++)
        if (!(s->fate[k] & BSI_FATE_MATCHED) || (s->fate[k] & BSI_FATE_CHANGED) || BSI_FATE_PLACE(s->fate[k]) != place) return BSI_REF_NONE;
    bsi_block_rows rows;
    if (bsi_store_rows(&rows, s->store, s->base[BSI_FATE_PLACE(first) >> 16], NULL)) return BSI_REF_NONE;
    return rows.count == s->row_base[open + 1] - s->row_base[open] ? s->base[BSI_FATE_PLACE(first) >> 16] : BSI_REF_NONE;
}

/* That all records of a block are of, as an entry tells it. */
static uint32_t part_of(const bsi_sync *s, size_t open) {
    uint32_t part = s->block_part && s->feed->slots.partition >= 0 ? s->block_part[open] : UINT32_MAX;
    return part == UINT32_MAX ? 0 : bsi_image_part(s->block_parts.name[part], s->block_parts.len[part]) << BSI_IMAGE_PART_SHIFT;
}

bsi_image_entry bsi_sync_entry(const bsi_sync *s, const bsi_scan_block *b, size_t open, bsi_ref exact) {
    bool skippable = exact != BSI_REF_NONE;
    bsi_image_entry e = {.fp = b->fp, .plain = b->plain, .ref = skippable ? exact : BSI_REF_NONE, .bytes = b->bytes,
                         .records = b->records, .blanks = b->blanks};
    e.flags = (skippable ? BSI_IMAGE_EXACT : 0u) | (b->flags & BSI_CUT_LONE_CR ? BSI_IMAGE_LONE_CR : 0u) |
              (b->flags & BSI_CUT_AT_END ? BSI_IMAGE_AT_END : 0u) | (b->flags & BSI_CUT_LINES ? BSI_IMAGE_LINES : 0u) | part_of(s, open);
    return e;
}

/* The list of blocks is needed no more once the image is made of it, so their entries take its place: fresh memory costs more than making them. */
static_assert(sizeof(bsi_image_entry) <= sizeof(bsi_scan_block), "entry i ends before block i + 1 begins");
static const bsi_image_entry *entries_of_blocks(bsi_sync *s, const bsi_ref *exact) {
    bsi_image_entry *v = (bsi_image_entry *)(void *)s->scan.block;
    bsi_scan_forget(&s->scan); /* while it is known how many they are */
    for (size_t i = 0; i < s->scan.block_count; i++) {
        bsi_scan_block b = s->scan.block[i];
        v[i] = bsi_sync_entry(s, &b, i, exact[i]);
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
    size_t extra = (s->scope && !s->view) || s->o->upsert ? s->image.count : 0;
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
                *e = bsi_sync_entry(s, &s->scan.block[k], k, exact[k]);
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

/* ---- state blocks without an entry ---- */

/* State blocks that no exact entry stands for; entries whose block is gone from the state lose their ref. */
static bsi_ref *orphans(bsi_image_entry *image, size_t image_count, const bsi_ref *state, size_t state_count, size_t *count) {
    bsi_ref *covered = bsi_vast_alloc(sizeof *covered * (image_count + 1)), *live = bsi_vast_alloc(sizeof *live * (state_count + 1));
    size_t n = 0;
    memcpy(live, state, sizeof *live * state_count);
    bsi_sort(live, state_count, sizeof *live, bsi_by_u64);
    for (size_t i = 0; i < image_count; i++)
        if (image[i].flags & BSI_IMAGE_EXACT) covered[n++] = image[i].ref;
    bsi_sort(covered, n, sizeof *covered, bsi_by_u64);
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
        if (!(image[i].flags & BSI_IMAGE_EXACT) || bsi_u64_has(live, state_count, image[i].ref)) continue;
        image[i].flags &= ~(uint32_t)BSI_IMAGE_EXACT;
        image[i].ref = BSI_REF_NONE;
    }
    bsi_vast_free(covered);
    bsi_vast_free(live);
    return out;
}

static bsi_ref *first_orphans(const bsi_next_state *n, size_t *count) {
    bsi_ref *out = bsi_vast_alloc(sizeof *out * ((n->open_of ? n->ref_count : 0) + 1));
    *count = 0;
    for (size_t i = 0; n->open_of && i < n->ref_count; i++)
        if (n->exact[n->open_of[i]] != n->refs[i]) out[(*count)++] = n->refs[i];
    return out;
}

/* ---- which way ---- */

void bsi_sync_image_note(bsi_sync *s, bsi_next_state *n) {
    if (s->all_exact && s->all_new) return;
    for (size_t i = 0; s->first_ref && i < s->open_count; i++)
        if (s->scan.block[i].flags & BSI_EDIT_NOT_EXACT) n->exact[i] = BSI_REF_NONE;
    if (s->first_ref) return;
    for (size_t i = bsi_sync_next_joined(s, 0); i < s->open_count; i = bsi_sync_next_joined(s, i + 1)) {
        if (n->exact[i] == BSI_REF_NONE) n->exact[i] = bsi_sync_same_as_state(s, i);
        if ((s->scan.block[i].flags & BSI_EDIT_NOT_EXACT) || bsi_ref_has(&n->replaced, n->exact[i]))
            n->exact[i] = BSI_REF_NONE; /* what the edits took out stands for nothing any more */
    }
    for (size_t i = 0; i < s->amended_count; i++) {
        const bsi_amended *a = &s->amended[i];
        if (n->exact[a->open] == BSI_REF_NONE) n->exact[a->open] = a->changed | a->created | a->gone ? a->made : a->ref;
    }
}

/* A first load: each block becomes an entry. */
static const bsi_image_entry *image_of_blocks(bsi_sync *s, const bsi_ref *exact, size_t *count) {
    *count = s->scan.block_count;
    entries_of_blocks(s, exact);
    s->scan.run_count = 0;
    s->scan.block = bsi_vast_realloc(s->scan.block, (*count + 1) * sizeof(bsi_image_entry)); /* a third of it is free now */
    return (const bsi_image_entry *)(const void *)s->scan.block;
}

static bomsync_status whole_image(bsi_sync *s, const bsi_next_state *n, bsi_next_image *x, bsi_publish *p, bomsync_error *err) {
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
static void cover(const bsi_sync *s, const bsi_next_state *n, bsi_ref_set *covered) {
    for (size_t i = bsi_sync_next_joined(s, 0); i < s->open_count; i = bsi_sync_next_joined(s, i + 1))
        if (n->exact[i] != BSI_REF_NONE) bsi_ref_add(covered, n->exact[i]);
}

/* State blocks of before that stay, and that no entry stands for now. */
static void orphans_in_place(const bsi_sync *s, const bsi_next_state *n, const bsi_ref_set *covered, bsi_next_image *x, bsi_publish *p) {
    bsi_ref *open = bsi_vast_alloc(sizeof *open * (s->open_state_count + 1));
    size_t count = 0;
    for (size_t i = 0; i < s->open_state_count; i++) /* those that were changed in place have entries, or are replaced */
        if (!bsi_is_amended(s, s->open_state[i])) open[count++] = s->base[s->open_state[i]];
    x->orphan = bsi_orphans_after(&p->orphan_count, open, count, &n->replaced, n->loose, n->loose_count, covered);
    bsi_vast_free(open);
}

/* Most blocks are in place: only what stands between them is put anew. */
static void image_in_place(bsi_sync *s, const bsi_next_state *n, const bsi_ref_set *covered, bsi_next_image *x, bsi_publish *p) {
    p->image_edit = edited_image(s, n->exact, &p->image_edit_count);
    orphans_in_place(s, n, covered, x, p);
    p->edit_image = true;
}

/* A shuffled or volatile snapshot: the old image stays, but for entries of state blocks that were written again. No new block has one. */
static void image_as_before(bsi_sync *s, bsi_next_state *n, bsi_next_image *x, bsi_publish *p) {
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

/* Blocks moved: all entries of a view are put anew, as one edit. */
static void view_anew(bsi_sync *s, const bsi_next_state *n, const bsi_ref_set *covered, bsi_next_image *x, bsi_publish *p) {
    size_t exacts;
    x->all.end = s->image.count;
    x->all.entry = x->whole = new_image(s, n->exact, &x->all.count, &exacts);
    p->image_edit = &x->all;
    p->image_edit_count = 1;
    orphans_in_place(s, n, covered, x, p);
}

/* Of some partitions: what is made of the view is put into the whole image. */
static void image_of_scope(bsi_sync *s, bsi_next_state *n, bool better, bsi_next_image *x, bsi_publish *p) {
    bsi_ref_set covered = {0};
    if (better) cover(s, n, &covered);
    if (!better) image_as_before(s, n, x, p);
    else if (s->scan.ascending) image_in_place(s, n, &covered, x, p);
    else view_anew(s, n, &covered, x, p);
    bsi_sync_scope_edits(s, &x->stored, p->image_edit, p->image_edit_count, &n->replaced, &covered);
    p->orphan_count = bsi_sync_scope_orphans(s, x->orphan, p->orphan_count, &n->replaced, &covered);
    p->image_edit = x->stored.edit;
    p->image_edit_count = x->stored.count;
    p->edit_image = true;
    bsi_vast_free(covered.slot);
}

/* Of all of the feed, or of what cannot be told from it. */
static bomsync_status image_of_all(bsi_sync *s, bsi_next_state *n, bool edit, bool better, bool whole, bsi_next_image *x, bsi_publish *p, bomsync_error *err) {
    bsi_ref_set covered = {0};
    if (whole || n->refs || !s->image.count || (better && !s->scan.ascending)) return whole_image(s, n, x, p, err);
    if (better) {
        cover(s, n, &covered);
        image_in_place(s, n, &covered, x, p);
        bsi_vast_free(covered.slot);
    } else if (edit) {
        image_as_before(s, n, x, p);
    }
    return BOMSYNC_OK;
}

bomsync_status bsi_sync_image_put(bsi_sync *s, bsi_next_state *n, bool edit, bsi_next_image *x, bsi_publish *p, bomsync_error *err) {
    bool ahead = bsi_sync_ahead_end(s); /* else the list of blocks is used up below */
    bool part = (s->scope && !s->view) || s->o->upsert;
    if (s->all_held || (!s->last && !edit)) return BOMSYNC_OK;
    if (!edit && !part && s->open_count == 0 && s->scan.blocks == s->image.count && s->scan.ascending) return BOMSYNC_OK;
    uint64_t exacts = s->scan.blocks - s->open_count - s->settled;
    for (size_t i = 0; i < s->open_count; i++) exacts += n->exact[i] != BSI_REF_NONE;
    /* else the snapshot is shuffled or volatile; what was settled without the image is not even in the list of blocks */
    bool better = !s->settled && exacts * 2 >= BSI_MIN(s->image.count, s->scan.blocks);
    if (s->o->upsert && s->scan.blocks * 2 < s->image.count) better = part = false; /* some records among many: their blocks do not come again */
    bomsync_status st = BOMSYNC_OK;
    if (ahead && n->refs) p->ahead = true;
    else if (!s->view) st = image_of_all(s, n, edit, better, part, x, p, err);
    else if (edit || better) image_of_scope(s, n, better, x, p);
    p->orphan = x->orphan;
    if ((better || n->refs) && s->scan.file_count == 1 && !s->scope && !s->o->upsert) memcpy(p->image_snapshot_digest, s->snapshot_digest, 32);
    return st;
}

void bsi_sync_image_release(bsi_next_image *x) {
    bsi_image_edits_free(&x->edits);
    bsi_image_edits_free(&x->stored);
    bsi_vast_free(x->whole);
    bsi_vast_free(x->orphan);
}
