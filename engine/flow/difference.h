/* flow/difference.h - what differs between two sets of records, in memory that follows the difference alone.
 *
 *   records of N ──add──┐                              ┌─> (kh, rh) that only N has
 *                       ├─> cells, equal ones cancel ──┤
 *   records of O ──take─┘                              └─> (kh, rh) that only O has
 */
#ifndef BSI_FLOW_DIFFERENCE_H
#define BSI_FLOW_DIFFERENCE_H

#include "core/base.h"

typedef struct bsi_difference bsi_difference;
typedef struct bsi_difference_row {
    uint64_t kh, rh;
} bsi_difference_row;

/** An empty one. most: rows that may differ; more memory is taken for more (about 35 bytes each). Owned by the caller. */
bsi_difference *bsi_difference_open(size_t most);
void bsi_difference_close(bsi_difference *d);

/**
 * Put rows in, or take them out.
 *
 * Shape:   kh[count], rh[count] in any order; a row that is added and taken leaves no trace
 * Threads: one at a time; each thread fills one of its own, bsi_difference_merge puts them together
 * Cost:    three places in memory a row, about 10 ns
 */
void bsi_difference_add(bsi_difference *d, const uint64_t *kh, const uint64_t *rh, size_t count);
void bsi_difference_take(bsi_difference *d, const uint64_t *kh, const uint64_t *rh, size_t count);
/** d gets all of other, which was opened for as many rows. */
void bsi_difference_merge(bsi_difference *d, bsi_difference *other);

/**
 * The rows that are left: added[0..added_count) and taken[0..taken_count), in no order, malloc'ed.
 *
 * Consumes d. Gives false, and nothing, if more differ than there is room for, or a row was added twice more than it was taken: then
 * the rows must be compared one by one. What it gives is right but for one chance in 2^64.
 */
bool bsi_difference_settle(bsi_difference *d, bsi_difference_row **added, size_t *added_count, bsi_difference_row **taken,
                           size_t *taken_count);

#endif
