/* read/read_stream.h - a source that is read once, in order: decoder thread and hand-over. */
#ifndef BSI_READ_STREAM_H
#define BSI_READ_STREAM_H

#include "read/read_raw.h"
#include "read/read_trailer.h"

typedef struct bsi_stream bsi_stream;

typedef struct bsi_stream_options {
    const char *path;     /* borrowed until close */
    const char *encoding; /* NULL: UTF-8 */
    int workers;
    bool may_block;       /* not a regular file */
    bsi_trailer *trailer; /* borrowed until close; written by the thread, read after the end */
} bsi_stream_options;

/** Looks at the first bytes (waits for them) and starts the thread. fd is borrowed until close. */
bomsync_status bsi_stream_open(bsi_stream **out, int fd, const bsi_stream_options *o, bomsync_error *err);
void bsi_stream_close(bsi_stream *s);
/** Bytes (> 0), 0 at the end, -1 on error; the same again after that. One thread. */
ssize_t bsi_stream_read(bsi_stream *s, void *buf, size_t n, bomsync_error *err);
uint64_t bsi_stream_raw_bytes(const bsi_stream *s);
const char *bsi_stream_kind(const bsi_stream *s); /* "stream:zstd" */

#endif
