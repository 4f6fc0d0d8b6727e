/* read/read_ahead.h - cold files through io_uring: a few read-ahead lanes that all sources share. Any thread. */
#ifndef BSI_READ_AHEAD_H
#define BSI_READ_AHEAD_H

#include <sys/types.h>

#include "core/base.h"

#define BSI_AHEAD_FILE_BYTES_MIN (4u << 20) /* smaller files are read before a ring is set up */

typedef struct bsi_ahead bsi_ahead; /* one file's use of the lanes */

/** Is at least an eighth of the file not in the page cache? A few system calls, no reading. */
bool bsi_ahead_cold(int fd, uint64_t size);
/** NULL if io_uring cannot be used here (says so on stderr, once in a process). fd is borrowed until close. */
bsi_ahead *bsi_ahead_open(int fd, uint64_t size, int workers);
void bsi_ahead_close(bsi_ahead *a);
/** Bytes of a sequential reader from a lane. 0: this read is not for a lane, use pread. At most n, may be fewer. */
size_t bsi_ahead_read(bsi_ahead *a, void *buf, size_t n, uint64_t offset);

#endif
