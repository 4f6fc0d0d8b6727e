/* run/edit.h - the state list of the next generation: base list, minus deletes, updates in place, creates after
 * the record that precedes them in the snapshot. Only blocks that change are written. */
#ifndef BSI_RUN_EDIT_H
#define BSI_RUN_EDIT_H

#include "run/changes.h"

/** A row of a touched block that the snapshot holds too. */
typedef struct bsi_edit_pair {
    uint64_t was, now;
    bool changed;   /* the row is replaced by the merge of old and new */
    bool aligned;   /* the snapshot's block may become a state block of its own */
} bsi_edit_pair;

typedef struct bsi_edit_insert {
    uint64_t after; /* place + 1 of the record it stands behind, 0: front of the list */
    uint64_t now;
    bool aligned;
} bsi_edit_insert;

/** Blocks that are looked at again however their bytes are: no state block is exact for them. */
enum { BSI_EDIT_NOT_EXACT = BSI_CUT_OVERSIZE | BSI_CUT_NO_LINE_END };

typedef struct bsi_edit {
    bsi_store *store;
    const bsi_slots *slots;
    const bsi_row_source *now, *was;  /* now NULL without pairs and inserts */
    const bsi_ref *base;
    size_t base_count;
    const uint64_t *gone;             /* places, ascending */
    size_t gone_count;
    bsi_edit_pair *pair;              /* sorted by bsi_edit_run */
    size_t pair_count;
    bsi_edit_insert *insert;          /* sorted by bsi_edit_run */
    size_t insert_count;
    const bsi_amended *const *amended; /* ascending by ordinal */
    size_t amended_count;
    const uint64_t *touched;          /* block ordinals, ascending, unique: those with gone, pairs that changed, inserts inside; none that was written with the scan */
    size_t touched_count;
    uint32_t block_records;
    uint64_t dictionary;              /* of the feed */
    int workers;
    bsi_ref *exact;                   /* [open blocks of the scan] set to the new state block that holds just its records; may be NULL */
    bsi_ref *loose;                   /* out: new state blocks that no entry of exact names; free() */
    size_t loose_count;
} bsi_edit;
/** Old and new row of one key to a row image, appended to out; returns the bytes of its body. Attributes that are equal keep the
 *  old text, so that null stays null and empty empty; `old` becomes what was built. */
uint32_t bsi_edit_merge(bsi_buf *out, bsi_field *old, const bsi_field *now, const bsi_slots *slots);
/** edits of the base list, ascending; bsi_state_edits_free. One more stands behind them: ref and count of the list that all of them share. */
bomsync_status bsi_edit_run(bsi_state_edit **edits, size_t *count, bsi_edit *e, bomsync_error *err);
void bsi_state_edits_free(bsi_state_edit *edits, size_t count);
/** The whole list after the edits; bsi_vast_free. */
bsi_ref *bsi_state_edits_apply(size_t *count, const bsi_ref *base, size_t base_count, const bsi_state_edit *edits, size_t edit_count);

/** An image after state blocks were replaced: entries that stood for one of them are no longer exact. */
typedef struct bsi_image_edits {
    bsi_image_edit *edit;
    size_t count, cap;
    bsi_image_entry *entry; /* what the edits point into; moves while they are made */
    size_t entries, entry_cap;
} bsi_image_edits;
void bsi_image_edits_add(bsi_image_edits *x, uint64_t first, uint64_t end, const bsi_image_entry *entry, size_t count);
void bsi_image_edits_end(bsi_image_edits *x); /* sets the edits' pointers */
void bsi_image_edits_free(bsi_image_edits *x);
void bsi_image_unexact(bsi_image_edits *x, const bsi_image *image, const bsi_ref_set *replaced);
/** State blocks that no exact entry stands for: those of before that still stand and are not covered, and the loose ones. bsi_vast_free. */
bsi_ref *bsi_orphans_after(size_t *count, const bsi_ref *before, size_t before_count, const bsi_ref_set *replaced, const bsi_ref *loose,
                           size_t loose_count, const bsi_ref_set *covered);

#endif
