/* read/read_raw.h - the bytes of a stream as they lie on disk or come down a pipe.
 *
 * One thread at a time. Only `taken` may be looked at from another.
 */
#ifndef BSI_READ_RAW_H
#define BSI_READ_RAW_H

#include <stdatomic.h>
#include <sys/types.h>

#include "core/base.h"

#define BSI_RAW_BYTES (256u << 10) /* one read: two zstd blocks */

typedef struct bsi_raw {
    int fd;           /* borrowed until release */
    int wake;         /* eventfd: readable means give up, -1: a file that never blocks for long */
    const char *path; /* borrowed until release */
    uint8_t *buf;     /* unread bytes are buf[at, len) */
    size_t at, len, cap;
    bool eof;
    _Atomic uint64_t taken; /* bytes that came from fd */
} bsi_raw;

bomsync_status bsi_raw_init(bsi_raw *r, int fd, const char *path, bool may_block, bomsync_error *err);
void bsi_raw_release(bsi_raw *r);
/** Have at least n unread bytes, fewer only at the end of the file. The buffer grows past BSI_RAW_BYTES if n asks. */
bomsync_status bsi_raw_want(bsi_raw *r, size_t n, bomsync_error *err);
/** Straight from the descriptor, past the buffer (which must be empty). Count, 0 at the end, -1 on error. */
ssize_t bsi_raw_read(bsi_raw *r, void *out, size_t n, bomsync_error *err);
/** From another thread: a read that waits gives up and reports the end. */
void bsi_raw_wake(bsi_raw *r);

static inline size_t bsi_raw_left(const bsi_raw *r) {
    return r->len - r->at;
}
static inline uint64_t bsi_raw_offset(const bsi_raw *r) {
    return atomic_load(&r->taken) - bsi_raw_left(r);
}

#endif
