/* read/read_ahead.h - what read_ahead.c and read_source.c know of each other; the calls of bsi_ahead are in flow/source.h. */
#ifndef BSI_READ_AHEAD_H
#define BSI_READ_AHEAD_H

#include "flow/source.h"

#define BSI_AHEAD_FILE_BYTES_MIN (4u << 20) /* smaller files are read before a ring is set up */

/** How a part is read: descriptors are the source's. direct -1: only through the page cache. */
typedef struct bsi_ahead_file {
    int fd, direct;
    uint64_t start; /* decoded byte 0 in the file */
} bsi_ahead_file;

/** Of a plain random source. Opens it once more, past the page cache, if that is asked for and can be. */
bsi_ahead_file bsi_source_ahead_file(bsi_source *s, bool direct);
void bsi_source_ahead_used(bsi_source *s);

#endif
