/* flow/join.h - the key tier: new rows against old rows by key hash, within a memory cap.
 *
 *   rows of N (snapshot) ─┐  radix by the top bits   ┌ per partition: table over N, probe with O
 *   rows of O (state)    ─┴──> 256 partitions ───────┴──> what changed
 *
 * N rows carry a dense index (0..n-1, the order of the snapshot); O rows a place in the state.
 */
#ifndef BSI_FLOW_JOIN_H
#define BSI_FLOW_JOIN_H

#include "core/base.h"

typedef struct bsi_row {
    uint64_t kh, rh;
    uint64_t at; /* N: index of the row; O: block ordinal << 16 | row */
} bsi_row;

/** Rows by partition, spilled to an unlinked file in tmp above memory_bytes. One lane for each adding thread. */
typedef struct bsi_row_store bsi_row_store;
bsi_row_store *bsi_row_store_open(int lanes, uint64_t memory_bytes, const char *tmp);
bomsync_status bsi_row_store_add(bsi_row_store *s, int lane, const bsi_row *row, bomsync_error *err);
uint64_t bsi_row_store_count(const bsi_row_store *s);
uint64_t bsi_row_store_spilled(const bsi_row_store *s); /* bytes */
/** All rows, some at a time, while nobody adds any. False, and none: some were spilled. */
bool bsi_row_store_each(const bsi_row_store *s, void (*fn)(void *ctx, const bsi_row *rows, size_t count), void *ctx);
void bsi_row_store_reset(bsi_row_store *s); /* empty again, its memory kept */
void bsi_row_store_close(bsi_row_store *s);

/* Fate of an N row after the join: one u64 per row. */
#define BSI_JOIN_PARTS 256u
#define BSI_JOIN_PART(kh) ((unsigned)((kh) >> 56))
#define BSI_FATE_NEW 0ull             /* no old row has its key */
#define BSI_FATE_CHANGED (1ull << 63) /* with an old place: same key, other row hash */
#define BSI_FATE_DUPLICATE (1ull << 62) /* a second or later identical copy; the low bits are unused */
#define BSI_FATE_CONFLICT (1ull << 61)  /* one of several copies that differ */
#define BSI_FATE_MATCHED (1ull << 60)   /* the low 58 bits hold an old place */
#define BSI_FATE_BAD (1ull << 59)       /* set by the caller before the join: kept back; MATCHED is added if its key is known */
#define BSI_FATE_RAGGED (1ull << 58)    /* with BAD, set by the caller: what stands at the key's places is its key only if an old row has it */
#define BSI_FATE_PLACE(f) ((f) & ((1ull << 58) - 1))

typedef struct bsi_join_out {
    uint64_t *fate;       /* [N rows], given by the caller, BAD set where it applies */
    uint64_t *gone;       /* O places without an N row, ascending; malloc'ed */
    size_t gone_count;
    uint64_t conflicts;   /* rows with CONFLICT */
    uint64_t duplicates;
    bool want_fresh;      /* given by the caller: list the key hashes of rows that no old row has, too */
    uint64_t *fresh;      /* in no order, one for each row; malloc'ed */
    size_t fresh_count;
} bsi_join_out;
/** Consumes both stores' contents (they stay open, readable again). workers threads. O keys are unique.
 *  Of identical copies the one with the lowest index is not a duplicate. A group with a BAD row and another row is a conflict. */
bomsync_status bsi_join(bsi_join_out *out, bsi_row_store *n, bsi_row_store *o, int workers, bomsync_error *err);
/** The same for the partitions [from, to) alone, adding to out (zeroed but for fate and want_fresh at first): o needs to hold only rows of
 *  these. So old rows that can be had again need not all be in memory at once. */
bomsync_status bsi_join_range(bsi_join_out *out, bsi_row_store *n, bsi_row_store *o, unsigned from, unsigned to, int workers,
                              bomsync_error *err);

/**
 * The keys whose rows are not simply one on either side and the same: those that only one side has, that changed, or that stand more than
 * once. kh[count]: in no order, some several times; bsi_vast_free. at of the rows is not looked at. Neither side needs unique keys.
 */
bomsync_status bsi_join_differ(uint64_t **kh, size_t *count, bsi_row_store *n, bsi_row_store *o, int workers, bomsync_error *err);

#endif
