/* run/sync_order.c - a snapshot that comes in another order than the state, time after time.
 *
 *   night 1..9   A B C D ..    the order of the state: blocks are skipped
 *   night 10     D A C B ..    all is hashed, and found to be the same: nothing is written, in case that it was once
 *   night 11     D A C B ..    the same order as the night before
 *   night 12     D A C B ..    it stays: the state is put into this order
 *   night 13 ..  D A C B ..    blocks are skipped
 *
 * An export that is sorted otherwise from some day on, or that is cut to blocks of another size, would cost ten times as much each night for
 * ever, as records that did not change are not written. One that is in random order each time has nothing to gain: putting the state into
 * its order would write all of it every night. So the feed remembers a few of the blocks of the last snapshot that stood otherwise, if most
 * did: those with the lowest digests. Of two snapshots in the same order these are mostly the same, though records changed in between, and of
 * two in random orders none is. Whether blocks stand as the state's do is told by the records, not by the image, which is a cache: all ways
 * come to the same answer, but for --tiers without "sequence", which does not look at the order.
 *
 * What is done then is an edit like any other (run/sync_state.c): records of a block that stand otherwise in the state leave their place
 * and are put behind the one that precedes them in the snapshot, as if they were created. It is no change, and makes no generation by itself.
 *
 * The same is asked of a snapshot whose records stand as they did, but whose blocks have other bytes than those of the image: an export that got
 * other line ends, quotes or columns from some day on is the same again the next night, and the third one in that form becomes the image's. One with a column
 * that differs each night never is.
 *
 * Tried and dropped: to do so the second time. Who syncs the same shuffled file once more would have its whole state written. And to do so
 * for less than half of the blocks: the few blocks of small feeds that stand otherwise, since records are kept back, are the same each night.
 */
#include "core/limits.h"
#include "run/sync.h"

enum { TIMES = 3 };

/* ---- a few blocks ---- */

void bsi_order_add(bsi_order *o, uint64_t low) {
    if (o->count == BSI_ORDER_BLOCKS && low >= o->low[o->count - 1]) return;
    uint32_t at = o->count < BSI_ORDER_BLOCKS ? o->count++ : o->count - 1;
    for (; at && o->low[at - 1] > low; at--) o->low[at] = o->low[at - 1];
    o->low[at] = low;
}

/* Half of them are the same where about a third of all is. */
static bool alike(const bsi_order *a, const bsi_order *b) {
    uint32_t both = 0;
    for (uint32_t i = 0, k = 0; i < a->count && k < b->count;) {
        if (a->low[i] == b->low[k]) both++, i++, k++;
        else if (a->low[i] < b->low[k]) i++;
        else k++;
    }
    return both && both * 2 >= BSI_MAX(a->count, b->count);
}

/* ---- do most stand otherwise, and did they before? ---- */

bool bsi_order_matters(const bsi_sync *s) { return s->last && !s->scope && !s->o->upsert && s->feed->records >= BSI_RECONCILE_RECORDS; }

static uint32_t times_of(const bsi_sync *s, const bsi_order *now) {
    const bsi_order *before = &s->feed->order;
    return before->times && before->bytes == now->bytes && alike(before, now) ? BSI_MIN(before->times, (uint32_t)TIMES) + 1 : 1;
}

void bsi_order_judge(bsi_sync *s, const bsi_order *strays, uint64_t count) {
    s->order.times = 0;
    s->reorder = false;
    if (!bsi_order_matters(s) || count * 2 <= s->scan.blocks) return;
    s->order = *strays;
    s->order.times = times_of(s, strays);
    s->reorder = s->order.times == TIMES && !s->o->dry_run && !s->all_held; /* once: what stands otherwise still, as records are kept back, does so the next time */
}

void bsi_order_judge_bytes(bsi_sync *s, const bsi_order *some) {
    s->order = *some;
    s->order.bytes = true;
    s->order.times = times_of(s, &s->order);
    s->reimage = s->order.times >= TIMES && !s->o->dry_run;
}

void bsi_order_of_rows(bsi_sync *s) {
    if (s->settled || s->all_new || !bsi_order_matters(s)) return; /* settled: it was judged before */
    bsi_order strays = {0};
    uint64_t count = 0;
    bool few = (s->open_count - s->amended_count) * 2 <= s->scan.blocks; /* whatever they are */
    for (size_t i = bsi_sync_next_joined(s, 0); !few && i < s->open_count; i = bsi_sync_next_joined(s, i + 1)) {
        if (bsi_sync_same_as_state(s, i) != BSI_REF_NONE) continue;
        bsi_order_add(&strays, s->scan.block[i].plain.lo);
        count++;
    }
    bsi_order_judge(s, &strays, count);
}

void bsi_order_keep(bsi_sync *s) {
    bool unknown = s->settled && !s->tier_sequence;
    if (s->all_held || unknown || (s->last && !bsi_order_matters(s))) return; /* it says nothing of the order */
    s->feed->order = s->order;
}
