/* run/publish_inner.h - what the files that publish a sync share: what is made of a feed's two lists.
 *
 *   sync_state.c    rows and fates ──> bsi_next_state: new state blocks, edits of the state's list   ┐
 *   sync_image.c    that, and blocks of the scan ──> bsi_next_image: edits of the image, orphans     ┴──> sync_publish.c, one commit
 */
#ifndef BSI_RUN_PUBLISH_INNER_H
#define BSI_RUN_PUBLISH_INNER_H

#include "run/sync.h"

/* ---- the new state (sync_state.c) ---- */

/** What the generation leaves of the state: a whole list (first load), or edits of the one before. */
typedef struct bsi_next_state {
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
} bsi_next_state;

bsi_ref *bsi_sync_no_refs(const bsi_sync *s); /* [open blocks] each BSI_REF_NONE; bsi_vast_free */
/** Of a first load: sets exact, refs, open_of. */
bomsync_status bsi_sync_state_first(bsi_sync *s, bsi_next_state *next, bomsync_error *err);
/** Of another: writes what changed; sets edit, replaced, loose, and of n->exact, which is there, the blocks that were written. */
bomsync_status bsi_sync_state_edit(bsi_sync *s, bsi_next_state *n, bomsync_error *err);
/** Blocks that were written with the scan take their places in base. Rows are not looked up there any more. */
void bsi_sync_state_swap(bsi_sync *s, bsi_next_state *n);
void bsi_sync_state_release(const bsi_sync *s, bsi_next_state *n);

/** Do all rows of an open block stay as the snapshot has them? */
static inline bool bsi_sync_whole(const bsi_sync *s, size_t open) {
    for (uint64_t k = s->row_base[open]; !s->all_new && k < s->row_base[open + 1]; k++)
        if (s->fate[k] & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE)) return false;
    return s->row_base[open + 1] > s->row_base[open];
}

/* ---- the new image (sync_image.c) ---- */

/** What is written of the image; freed after the commit. */
typedef struct bsi_next_image {
    bsi_image_edits edits;
    bsi_image_edits stored; /* of a view: the same of the whole image */
    bsi_image_edit all;     /* of one: it is put anew */
    bsi_image_entry *whole;
    bsi_ref *orphan;
} bsi_next_image;

/** Which open blocks may be skipped from now on: sets n->exact of those that were not written, and takes back what does not hold. */
void bsi_sync_image_note(bsi_sync *s, bsi_next_state *n);
/** Sets what p says of the image. edit: the state changes, or its order. The scan's list of blocks may be used up for it. */
bomsync_status bsi_sync_image_put(bsi_sync *s, bsi_next_state *n, bool edit, bsi_next_image *x, bsi_publish *p, bomsync_error *err);
void bsi_sync_image_release(bsi_next_image *x);

#endif
