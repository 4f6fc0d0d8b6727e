/* run/diff_inner.h - what the files of `diff` share: two sides, and what is known of each.
 *
 *   diff_align.c      two plain files in the same order: what differs, straight from their bytes      ┐
 *   diff_blocks.c     any other two: blocks cut by content, matched by fingerprint                    ┴> open blocks of either side
 *   diff_reconcile.c  hardly a block of them matches, as records stand in another order: which hold a record that differs?
 *   diff_rows.c       their rows                                                  diff.c joins them, and prints
 */
#ifndef BSI_RUN_DIFF_INNER_H
#define BSI_RUN_DIFF_INNER_H

#include "flow/twins.h"
#include "run/key_filter.h"
#include "run/scan.h"

/** The tag of an open block whose records are known to stand on both sides: nobody looks at it again. */
#define BSI_DIFF_SETTLED (UINT64_MAX - 1)

typedef struct bsi_diff_row {
    uint64_t kh, rh, place;
} bsi_diff_row;

typedef struct bsi_diff_rows {
    bsi_diff_row *v;     /* of a side: bsi_vast_free */
    size_t n, cap;
} bsi_diff_rows;

/** A record that cannot be read, but its key can. */
typedef struct bsi_diff_left {
    uint64_t kh, place;
    bool ragged;         /* what stands at the key's places is its key only if OLD has such a key */
} bsi_diff_left;

/** Some key hashes among many: a filter says no to most. */
typedef struct bsi_diff_keys {
    uint64_t *kh;        /* ascending, each once; bsi_vast_free */
    size_t count;
    bsi_key_filter filter;
} bsi_diff_keys;

typedef struct bsi_diff_side {
    bsi_scan scan;
    bsi_diff_rows rows;  /* of open blocks that are not settled, in file order */
    int64_t same_rows;   /* rows of these that are not among the keys to compare */
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
    bool reconciled;         /* only records with these keys may differ */
    bsi_diff_keys keys;
    int64_t same_records;    /* in both files, not among the rows */
    int64_t created, updated, deleted, unchanged, schema_only, duplicates, kept_back, records_old, records_new;
} bsi_diff_run;

/** Both ways fill scan.block and rows of both sides, left_out, same_records and the counts of records. */
bomsync_status bsi_diff_blocks(bsi_diff_run *d, bomsync_error *err);
/** *done false: these files take the other way; nothing is filled. */
bomsync_status bsi_diff_align(bsi_diff_run *d, bool *done, bomsync_error *err);

/** Calls fn with the rows of each block of a side that is not settled. Tasks of several blocks that stand one behind the other, each by one
 *  worker (bsi_lane); w is good until fn is back. */
enum { BSI_DIFF_TASK_BLOCKS = 512 };
typedef bomsync_status bsi_diff_block_fn(void *ctx, size_t task, size_t block, const bsi_rows *w, bomsync_error *err);
bomsync_status bsi_diff_each(bsi_diff_run *d, bsi_diff_side *s, bsi_diff_block_fn *fn, void *ctx, bomsync_error *err);
/** The same for some tasks, one in `every`. */
bomsync_status bsi_diff_some(bsi_diff_run *d, bsi_diff_side *s, size_t every, bsi_diff_block_fn *fn, void *ctx, bomsync_error *err);
static inline size_t bsi_diff_tasks(const bsi_diff_side *s) { return (s->scan.block_count + BSI_DIFF_TASK_BLOCKS - 1) / BSI_DIFF_TASK_BLOCKS; }

/** The rows of the blocks of one side that are not settled; of OLD first. */
bomsync_status bsi_diff_parse(bsi_diff_run *d, bsi_diff_side *s, bomsync_error *err);
void bsi_diff_leave_out(bsi_diff_side *s, uint64_t kh);
/** Key hashes of all rows and of records that cannot be read, ascending; malloc'ed. new_only: of NEW's rows alone. */
uint64_t *bsi_diff_open_keys(const bsi_diff_run *d, size_t *count, bool new_only);

/** Takes kh[count], from bsi_vast_alloc or NULL, in any order. */
void bsi_diff_keys_make(bsi_diff_keys *k, uint64_t *kh, size_t count);
void bsi_diff_keys_free(bsi_diff_keys *k);
/** kh: a hash, or one with the upper half of it. */
static inline bool bsi_diff_keys_may(const bsi_diff_keys *k, uint64_t kh) { return k->count && bsi_key_filter_has(&k->filter, kh); }
static inline bool bsi_diff_keys_has(const bsi_diff_keys *k, uint64_t kh) { return bsi_diff_keys_may(k, kh) && bsi_u64_has(k->kh, k->count, kh); }

/**
 * Which records of open blocks differ at all? (diff_reconcile.c)
 *
 * open:    reads all open blocks of both sides, and gives d->keys: those of records that only one side has, or that cannot be read. *out NULL:
 *          it does not pay; then nothing is known
 * settle:  d->keys must hold all keys to compare by now; open blocks without any of them are settled
 * Twins:   gets the keys of NEW's open blocks
 */
typedef struct bsi_diff_reconcile bsi_diff_reconcile;
bomsync_status bsi_diff_reconcile_open(bsi_diff_reconcile **out, bsi_diff_run *d, bsi_twins *twins, bomsync_error *err);
void bsi_diff_reconcile_settle(bsi_diff_reconcile *r);
void bsi_diff_reconcile_close(bsi_diff_reconcile *r);

#endif
