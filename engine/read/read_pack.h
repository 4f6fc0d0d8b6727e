/* read/read_pack.h - a pack on disk as bytes at any offset. Any thread. */
#ifndef BSI_READ_PACK_H
#define BSI_READ_PACK_H

#include <sys/types.h>

#include "flow/pack.h"

typedef struct bsi_packed bsi_packed;

/**
 * Look for an index in the file.
 *
 * Returns: *out NULL without error: an ordinary zstd file, or a pack whose index cannot be used (read it as a stream)
 * Errors:  E_REFUSED for the front of a pack without its end: cut off at the end of a frame it would look whole
 * Ownership: fd and path are borrowed until close
 */
bomsync_status bsi_packed_open(bsi_packed **out, int fd, const char *path, uint64_t file_bytes, bomsync_error *err);
void bsi_packed_close(bsi_packed *p);
const bsi_pack *bsi_packed_index(const bsi_packed *p);
/** Content of one frame, all of it: out has frame.content bytes. */
bomsync_status bsi_packed_frame(bsi_packed *p, size_t frame, uint8_t *out, bomsync_error *err);
/** Exactly min(n, content - offset) bytes; the count, -1 on error. */
ssize_t bsi_packed_pread(bsi_packed *p, uint8_t *buf, size_t n, uint64_t offset, bomsync_error *err);

#endif
