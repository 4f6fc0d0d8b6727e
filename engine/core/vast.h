/* core/vast.h - memory for lists that grow with the records of a snapshot.
 *
 *   list below the limit ──> memory, as from bsi_alloc
 *   list above it        ──> an unlinked file, mapped: pages of the page cache, which the system may write out
 *
 * What comes from here is given back with bsi_vast_free alone, wherever it lies.
 */
#ifndef BSI_CORE_VAST_H
#define BSI_CORE_VAST_H

#include "core/base.h"

/**
 * From now on lists take at most so many bytes of memory together; those that would take more go to files in tmp.
 *
 * Shape:   bytes 0: all go to files, but for those of a few kB. BSI_VAST_NO_LIMIT, as at the start: none does
 * private_bytes: while the process takes less than this, lists may take half as much again
 * Threads: one, while no list is there; what was set ends with BSI_VAST_NO_LIMIT
 * Errors:  none. It is an economy: where there is no room in tmp a list stays in memory
 */
void bsi_vast_limit(uint64_t bytes, uint64_t private_bytes, const char *tmp);
#define BSI_VAST_NO_LIMIT UINT64_MAX

/* Any thread, each list by one at a time. Never NULL. */
void *bsi_vast_alloc(size_t bytes);
void *bsi_vast_calloc(size_t count, size_t size);
void *bsi_vast_realloc(void *old, size_t bytes); /* old: from here, or NULL */
void bsi_vast_free(void *p);                     /* NULL is fine */

/** How long a list of `now` entries gets that `done` of `all` parts have filled, if the others go on like this: room for what it will need, as a list that is
 *  moved while it grows takes its memory several times. At most eight times as long as now. */
static inline size_t bsi_vast_expected(size_t now, size_t done, size_t all) { return BSI_MIN(now * all / done, now * 8) + now / 8; }

/** qsort for long lists, whose second half it would take from memory. Stable where qsort is. */
void bsi_vast_sort(void *base, size_t n, size_t size, int (*order)(const void *, const void *));

/** Numbers in order, each once; returns how many are left. v may be from anywhere. */
size_t bsi_vast_unique(uint64_t *v, size_t n);

/** Bytes of lists that lie in files now. */
uint64_t bsi_vast_mapped(void);

#endif
