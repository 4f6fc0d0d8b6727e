/* read/read_raw.c - undecoded bytes with a small buffer, so that a decoder can look ahead.
 *
 *     fd ──read──> buf [ .. at ───unread─── len .. cap ]
 *
 * A pipe may stay silent for ever while the run wants to end (its snapshot was refused, say): reads of whatever is not
 * a regular file therefore wait in poll(2), together with an eventfd that bsi_raw_wake writes to.
 */
#include "read/read_raw.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

bomsync_status bsi_raw_init(bsi_raw *r, int fd, const char *path, bool may_block, bomsync_error *err) {
    *r = (bsi_raw){.fd = fd, .wake = -1, .path = path};
    if (may_block && (r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        return bsi_fail_errno(err, errno, NULL, "could not make an event descriptor");
    return BOMSYNC_OK;
}

void bsi_raw_release(bsi_raw *r) {
    if (r->wake >= 0) close(r->wake);
    free(r->buf);
    r->buf = NULL;
    r->wake = -1;
    r->at = r->len = r->cap = 0;
}

void bsi_raw_wake(bsi_raw *r) {
    uint64_t one = 1;
    ssize_t n = r->wake >= 0 ? write(r->wake, &one, sizeof one) : 0;
    (void)n; /* full means it is readable already */
}

static bool wait_readable(const bsi_raw *r) {
    if (r->wake < 0) return true;
    struct pollfd p[2] = {{.fd = r->fd, .events = POLLIN}, {.fd = r->wake, .events = POLLIN}};
    while (poll(p, 2, -1) < 0)
        if (errno != EINTR) return true; /* let read(2) say what is wrong */
    return p[1].revents == 0;
}

ssize_t bsi_raw_read(bsi_raw *r, void *out, size_t n, bomsync_error *err) {
    while (!r->eof) {
        if (!wait_readable(r)) break;
        ssize_t got = read(r->fd, out, n);
        if (got > 0) {
            atomic_fetch_add(&r->taken, (uint64_t)got);
            return got;
        }
        if (got == 0) break;
        if (errno == EINTR || errno == EAGAIN) continue;
        bsi_fail_errno(err, errno, r->path, "could not read \"%s\"", r->path);
        bsi_at(err, r->path, (int64_t)atomic_load(&r->taken), -1, NULL, NULL, 0);
        return -1;
    }
    r->eof = true;
    return 0;
}

bomsync_status bsi_raw_want(bsi_raw *r, size_t n, bomsync_error *err) {
    if (bsi_raw_left(r) >= n || r->eof) return BOMSYNC_OK;
    if (r->at) memmove(r->buf, r->buf + r->at, bsi_raw_left(r));
    r->len -= r->at;
    r->at = 0;
    size_t cap = BSI_MAX((size_t)BSI_RAW_BYTES, n);
    if (r->cap < cap) r->buf = bsi_realloc(r->buf, r->cap = cap);
    while (r->len < n) {
        ssize_t got = bsi_raw_read(r, r->buf + r->len, r->cap - r->len, err);
        if (got < 0) return err ? err->status : BOMSYNC_E_USAGE;
        if (got == 0) break;
        r->len += (size_t)got;
    }
    return BOMSYNC_OK;
}
