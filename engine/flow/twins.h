/* flow/twins.h - which keys stand more than once, among many key hashes, within a memory cap.
 *
 *   key hashes, any order ──radix by the top bits──> 256 partitions ──bits, or a table, in the L2 cache──> those seen twice
 */
#ifndef BSI_FLOW_TWINS_H
#define BSI_FLOW_TWINS_H

#include "core/base.h"

/** Key hashes by partition, 8 bytes each, spilled to an unlinked file in tmp above memory_bytes. */
typedef struct bsi_twins bsi_twins;
bsi_twins *bsi_twins_open(int lanes, uint64_t memory_bytes, const char *tmp);
/** One lane for each adding thread. */
bomsync_status bsi_twins_add(bsi_twins *t, int lane, const uint64_t *kh, size_t count, bomsync_error *err);
/** dup: hashes added more than once, and those of probe[0..probes) that were added, ascending, each once; malloc'ed.
 *  probe: ascending. workers threads. */
bomsync_status bsi_twins_find(uint64_t **dup, size_t *count, bsi_twins *t, const uint64_t *probe, size_t probes, int workers,
                              bomsync_error *err);
void bsi_twins_close(bsi_twins *t);

#endif
