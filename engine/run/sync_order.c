/* run/sync_order.c - a snapshot that comes in another order than the state, time after time.
 *
 *   night 1..9   A B C D ..    the order of the state: blocks are skipped
 *   night 10     D A C B ..    all is hashed, and found to be the same: nothing is written, in case that it was once
 *   night 11     D A C B ..    the same order as the night before
 *   night 12     D A C B ..    it stays: the state is put into this order
 *   night 13 ..  D A C B ..    blocks are skipped
 *
 * An export that is sorted otherwise from some day on, or cut to blocks of another size, would cost ten times as much each night for ever, as
 * records that did not change are not written. One that is in random order each time has nothing to gain: putting the state into its order would
 * write all of it every night. So the feed remembers a few blocks of the last snapshot that stood otherwise, those with the lowest digests:
 * of two snapshots in the same order these are mostly the same, though records changed in between, and of two in random orders none is. Whether
 * blocks stand as the state's do is told by the records, not by the image, which is a cache: all ways come to the same answer.
 *
 * What is done then is an edit like any other (run/sync_state.c): records of a block that stand otherwise in the state leave their place
 * and are put behind the one that precedes them in the snapshot, as if they were created. It is no change, and makes no generation by itself.
 *
 * Tried and dropped: to do so the second time. Who syncs the same shuffled file once more would have its whole state written.
 */
#include "run/sync.h"

enum { TIMES = 3 };

/* ---- a few blocks of a snapshot ---- */

static void add_block(bsi_order *o, uint64_t low) {
    if (o->count == BSI_ORDER_BLOCKS && low >= o->low[o->count - 1]) return;
    uint32_t at = o->count < BSI_ORDER_BLOCKS ? o->count++ : o->count - 1;
    for (; at && o->low[at - 1] > low; at--) o->low[at] = o->low[at - 1];
    o->low[at] = low;
}

static void look(bsi_sync *s) {
    const bsi_scan *scan = &s->scan;
    bsi_image_walk w = {.image = &s->image};
    s->order = (bsi_order){.times = 1};
    for (size_t i = 0; i < scan->run_count; i++) {
        const bsi_scan_run *r = &scan->run[i];
        for (uint64_t k = r->first; k < r->first + r->count; k++)
            add_block(&s->order, r->matched ? bsi_image_next(&w, k)->plain.lo : scan->brief ? scan->brief[k].plain.lo : scan->block[k].plain.lo);
    }
}

/* Half of them are the same where about a third of all blocks is. */
static bool alike(const bsi_order *a, const bsi_order *b) {
    uint32_t both = 0;
    for (uint32_t i = 0, k = 0; i < a->count && k < b->count;) {
        if (a->low[i] == b->low[k]) both++, i++, k++;
        else if (a->low[i] < b->low[k]) i++;
        else k++;
    }
    return both && both * 2 >= BSI_MAX(a->count, b->count);
}

/* ---- does it stand otherwise, and did the last ones stand like it? ---- */

static bool possible(const bsi_sync *s) { return s->last && !s->scope && !s->o->upsert; }

void bsi_order_look(bsi_sync *s, uint64_t as_state) {
    s->order.times = 0;
    s->reorder = false;
    if (!possible(s) || as_state * 2 >= s->scan.blocks) return;
    look(s);
    const bsi_order *before = &s->feed->order;
    if (before->times && alike(before, &s->order)) s->order.times = BSI_MIN(before->times, (uint32_t)TIMES) + 1;
    s->reorder = s->order.times >= TIMES && !s->o->dry_run;
}

/* Its rows are just those of a state block, none changed. A state block that cannot be read is none; who needs it tells. */
static bool is_as_state(const bsi_sync *s, size_t open) {
    uint64_t first = s->row_base[open], end = s->row_base[open + 1], place = first < end ? BSI_FATE_PLACE(s->fate[first]) : 1;
    if (place & 0xffff) return false;
    for (uint64_t k = first; k < end; k++) {
        uint64_t f = s->fate[k];
        if (f & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE | BSI_FATE_CHANGED) || !(f & BSI_FATE_MATCHED)) return false;
        if (BSI_FATE_PLACE(f) != place + (k - first)) return false;
    }
    bsi_block_rows rows;
    return !bsi_store_rows(&rows, s->store, s->base[place >> 16], NULL) && rows.count == end - first;
}

void bsi_order_of_rows(bsi_sync *s) {
    uint64_t as_state = s->scan.blocks - s->open_count + s->amended_count;
    if (s->settled || s->all_new || !possible(s)) return; /* settled: it was looked at before */
    for (size_t i = 0; i < s->open_count && as_state * 2 < s->scan.blocks; i++) as_state += is_as_state(s, i);
    bsi_order_look(s, as_state);
}

void bsi_order_keep(bsi_sync *s) {
    if (s->all_held || (s->last && !possible(s))) return; /* it says nothing of the order */
    if (s->reorder) s->order.times = 0;
    s->feed->order = s->order;
}
