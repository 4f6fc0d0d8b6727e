/* run/diff_inner.h - what the files of `diff` share: two sides, and what is known of each.
 *
 *   diff_align.c   two plain files in the same order: what differs, straight from their bytes      ┐
 *   diff_blocks.c  any other two: blocks cut by content, matched by fingerprint                    ┴> open blocks of either side
 *   diff_rows.c    their rows                                                  diff.c joins them, and prints
 */
#ifndef BSI_RUN_DIFF_INNER_H
#define BSI_RUN_DIFF_INNER_H

#include "run/scan.h"

typedef struct bsi_diff_row {
    uint64_t kh, rh, place;
} bsi_diff_row;

typedef struct bsi_diff_rows {
    bsi_diff_row *v;
    size_t n, cap;
} bsi_diff_rows;

/** A record that cannot be read, but its key can. */
typedef struct bsi_diff_left {
    uint64_t kh, place;
    bool ragged;         /* what stands at the key's places is its key only if OLD has such a key */
} bsi_diff_left;

typedef struct bsi_diff_side {
    bsi_scan scan;
    uint8_t *settled;    /* OLD: [open blocks] a block of NEW has the same bytes; NULL: none */
    bsi_diff_rows rows;  /* of open blocks that are not settled, in file order */
    bsi_diff_left *left;
    size_t left_row_count, left_row_cap;
    uint64_t bad, ragged;
    uint64_t *left_out;  /* key hashes that take no part, ascending */
    size_t left_count, left_cap;
} bsi_diff_side;

typedef struct bsi_diff_run {
    const bomsync_diff_options *o;
    int workers;
    bsi_isa isa;
    const char *tiers;
    const char *tmp;
    bsi_secret secret;
    bsi_slots slots;
    bsi_diff_side old, now;
    uint64_t memory_bytes;
    int64_t same_records;    /* in both files with the same bytes, not among the rows */
    int64_t created, updated, deleted, unchanged, schema_only, duplicates, kept_back, records_old, records_new;
} bsi_diff_run;

/** Both ways fill scan.block and rows of both sides, left_out, same_records and the counts of records. */
bomsync_status bsi_diff_blocks(bsi_diff_run *d, bomsync_error *err);
/** *done false: these files take the other way; nothing is filled. */
bomsync_status bsi_diff_align(bsi_diff_run *d, bool *done, bomsync_error *err);

/** The rows of the blocks of one side that are not settled; of OLD first. */
bomsync_status bsi_diff_parse(bsi_diff_run *d, bsi_diff_side *s, bomsync_error *err);
void bsi_diff_leave_out(bsi_diff_side *s, uint64_t kh);
/** Key hashes of all rows and of records that cannot be read, ascending; malloc'ed. new_only: of NEW's rows alone. */
uint64_t *bsi_diff_open_keys(const bsi_diff_run *d, size_t *count, bool new_only);

#endif
