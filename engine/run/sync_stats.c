/* run/sync_stats.c - what a run tells of itself: `stats`, --explain.
 *
 * The figures stand in the store with the generation, so they are made inside its transaction: what comes after (the sync
 * of the root's file, the rename of the outbox folder) is not in them. --explain is told later and has all of it.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "run/sync.h"

enum { LOOKED_AT_MAX = 1 << 16 };
enum { SHORT_NS = 200000 }; /* a stage of less takes no memory worth three system calls */

/* ---- seconds and memory ---- */

void bsi_sync_memory(bsi_sync *s) { s->memory_peak = BSI_MAX(s->memory_peak, bsi_private_bytes()); }

uint64_t bsi_sync_room(const bsi_sync *s) {
    uint64_t most = s->memory_bytes / 16 * 13, used = bsi_private_bytes();
    return BSI_MIN(BSI_MAX(s->memory_bytes / 16, used < most ? (most - used) / 3 * 2 : 0), s->memory_bytes / 2);
}

void bsi_sync_trim(const bsi_sync *s) {
    if (bsi_private_bytes() > s->memory_bytes / 4 * 3) bsi_memory_give_back();
}

void bsi_sync_stage_ends(bsi_sync *s, bsi_sync_stage stage, int64_t *start) {
    int64_t now = bsi_now_ns();
    s->seconds[stage] += (double)(now - *start) / 1e9;
    if (now - *start > SHORT_NS) bsi_sync_memory(s);
    *start = now;
}

/* ---- which way the run took, and why ---- */

/* Do the records of the open blocks stand as they did? Looks at some only: a wrong answer costs a word. */
static bool same_order(const bsi_sync *s) {
    uint64_t rows = BSI_MIN(s->row_base[s->open_count], (uint64_t)LOOKED_AT_MAX), pairs = 0, ascending = 0, last = UINT64_MAX;
    for (uint64_t k = 0; s->fate && k < rows; k++) {
        uint64_t f = s->fate[k];
        if (!(f & BSI_FATE_MATCHED) || (f & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE))) continue;
        if (last != UINT64_MAX) pairs++, ascending += BSI_FATE_PLACE(f) > last;
        last = BSI_FATE_PLACE(f);
    }
    return ascending * 4 >= pairs * 3;
}

/* Blocks were opened in great number: what for? */
static const char *why_opened(const bsi_sync *s, uint64_t skipped) {
    if (s->scope && !s->view) return "a snapshot of some partitions is compared record by record";
    if (!s->tier_block) return "blocks were not compared, as --tiers says";
    if (!s->image.count) return "there is no image of the last snapshot to compare blocks with";
    uint64_t changes = 0; /* in blocks of this snapshot: deletes open none of them */
    for (size_t i = 0; i < s->item_count; i++) changes += s->item[i].op != 'd';
    if (changes * 2 >= s->open_count)
        return skipped ? "few blocks matched the last image: most hold changes" : "no block matched the last image: most hold changes";
    if (same_order(s))
        return skipped ? "few blocks matched the last image, but most records are unchanged: an ignored column differs, or quotes or line ends do"
                       : "no block matched the last image, but most records are unchanged: an ignored column differs, or quotes or line ends do";
    return skipped ? "few blocks matched the last image: most records stand in another order"
                   : "no block matched the last image: most records stand in another order";
}

static const char *way(const bsi_sync *s, const char **why) {
    uint64_t skipped = s->scan.blocks - s->open_count - s->settled;
    int64_t base = s->last ? s->last->totals.records : 0, made = 0, gone = s->t.deleted + s->t.deletes_held;
    for (size_t i = 0; i < s->item_count; i++) made += s->item[i].op == 'c';
    *why = "the feed had no records";
    if (!s->last) return "first load";
    if (s->settled) {
        *why = "blocks of the last image were not found again, but most records are unchanged: another order, or an ignored column differs";
        return "reconcile";
    }
    if (s->reorder) {
        *why = "the snapshots before came in this order, too: the state is put into it, so that blocks can be skipped from now on";
        return "reorder";
    }
    if (s->reimage) {
        *why = "the snapshots before had the same bytes, other than the image's: it gets them, so that blocks can be skipped from now on";
        return "reimage";
    }
    const char *path = s->open_count == 0 && !s->item_count && s->t.records_in ? "unchanged" : skipped ? "skip and join" : "join";
    if (!s->t.records_in) *why = "the snapshot has no records";
    else if (!base) return path;
    else if (made * 2 > base && gone * 2 > base) *why = "most records are new and most old ones are gone: the values of the key changed";
    else if (s->open_count == 0 && s->item_count) *why = "every block matched the last image, and others of it are gone";
    else if (s->open_count == 0) *why = "every block matched the last image";
    else if (skipped * 2 >= s->scan.blocks) *why = "most blocks matched the last image";
    else *why = why_opened(s, skipped);
    return path;
}

/* ---- the line ---- */

char *bsi_sync_stats(const bsi_sync *s, const bsi_generation *g) {
    static const char *const stage[BSI_SYNC_STAGES] = {"read", "parse", "join", "classify", "emit", "store", "commit"};
    bsi_buf b = {0};
    uint64_t skipped = s->scan.blocks - s->open_count - s->settled, rows = s->open_count ? s->row_base[s->open_count] : 0;
    rows += s->amended_records; /* compared by their keys, too */
    if (s->settled) rows = (uint64_t)s->t.records_in; /* all of them were hashed */
    const char *why, *path = way(s, &why);
    bsi_buf_addf(&b,
                 "{\"message_type\":\"stats\",\"records\":%" PRId64 ",\"generations\":%" PRId64 ",\"blocks\":%" PRIu64 ",\"skipped\":%" PRIu64
                 ",\"amended\":%zu,\"tiers\":{\"block\":%" PRId64 ",\"sequence\":%" PRIu64 ",\"key\":%" PRIu64 ",\"cell\":%zu},\"seconds\":{",
                 s->t.records, g->number ? g->number : bsi_store_generation(s->store), s->scan.blocks, skipped, s->amended_count, s->t.records_in - (int64_t)rows,
                 skipped, rows, s->item_count);
    for (int i = 0; i < BSI_SYNC_STAGES; i++) bsi_buf_addf(&b, "%s\"%s\":%.6f", i ? "," : "", stage[i], s->seconds[i]);
    bsi_buf_addf(&b, "},\"memory_peak\":%" PRIu64 ",\"io\":\"%s\",\"isa\":\"%s\",\"path\":\"%s\",\"why\":\"%s\"}", s->memory_peak,
                 s->scan.file_count ? bsi_source_io(s->scan.file[0].source) : "pread", s->isa_name, path, why);
    bsi_buf_byte(&b, 0);
    return (char *)b.data;
}
