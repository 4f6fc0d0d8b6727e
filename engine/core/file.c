/* core/file.c - the few file operations that must not be got wrong: synced writes, folders, removal without links. */
#include "core/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

bool bsi_disk_full(const char *path);
bool bsi_disk_full(const char *path) {
    struct statvfs v;
    if (statvfs(path, &v) != 0) return false;
    return v.f_bavail * v.f_frsize < (64u << 10) || (v.f_files && v.f_favail == 0);
}

#define SAMPLES 16u /* looks at the page cache */

bool bsi_file_cold(int fd, uint64_t size) {
    unsigned missing = 0;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        char c;
        struct iovec v = {&c, 1};
        uint64_t at = size / SAMPLES * i + size / SAMPLES / 2;
        if (preadv2(fd, &v, 1, (off_t)at, RWF_NOWAIT) < 0 && errno == EAGAIN) missing++;
    }
    return missing > SAMPLES / 8;
}

void bsi_file_expect(const char *path, uint64_t most) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return;
    bool wanted = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size && (uint64_t)st.st_size <= most;
    if (wanted && bsi_file_cold(fd, (uint64_t)st.st_size)) posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
    close(fd);
}

const char *bsi_temp_folder(void) {
    const char *tmp = getenv("TMPDIR");
    return tmp && *tmp ? tmp : "/tmp";
}

int bsi_temp_open(const char *folder) { return open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); }

bomsync_status bsi_temp_write(int fd, const void *p, size_t n, uint64_t at, const char *folder, bomsync_error *err) {
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(fd, (const char *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return bsi_fail_errno(err, errno, folder, "could not write a temporary file in \"%s\"", folder);
        done += (size_t)k;
    }
    return BOMSYNC_OK;
}

bomsync_status bsi_temp_read(int fd, void *p, size_t n, uint64_t at, bomsync_error *err) {
    for (size_t done = 0; done < n;) {
        ssize_t k = pread(fd, (char *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return bsi_fail_errno(err, k ? errno : EIO, NULL, "could not read a temporary file");
        done += (size_t)k;
    }
    return BOMSYNC_OK;
}

bomsync_status bsi_fsync_path(const char *path, bomsync_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return bsi_fail_errno(err, errno, path, "could not open \"%s\" to sync it", path);
    int rc = fsync(fd), errnum = errno;
    close(fd);
    return rc ? bsi_fail_errno(err, errnum, path, "could not sync \"%s\"", path) : BOMSYNC_OK;
}

bomsync_status bsi_mkdirs(const char *path, bomsync_error *err) {
    char *p = bsi_strdup(path);
    bomsync_status st = BOMSYNC_OK;
    for (char *c = p + 1; !st; c++) {
        if (*c && *c != '/') continue;
        char end = *c;
        *c = 0;
        if (mkdir(p, 0700) != 0 && errno != EEXIST) st = bsi_fail_errno(err, errno, NULL, "could not make folder \"%s\"", p);
        *c = end;
        if (!end) break;
    }
    free(p);
    return st;
}

static bomsync_status remove_below(int dir, const char *name, const char *path, bomsync_error *err) {
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return BOMSYNC_OK;
    if (errno != EISDIR && errno != EPERM) return bsi_fail_errno(err, errno, NULL, "could not remove \"%s\"", path);
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        int errnum = errno;
        if (fd >= 0) close(fd);
        return bsi_fail_errno(err, errnum, NULL, "could not open folder \"%s\"", path);
    }
    bomsync_status st = BOMSYNC_OK;
    struct dirent *e;
    while (!st && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) st = remove_below(fd, e->d_name, path, err);
    closedir(d);
    if (!st && unlinkat(dir, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        st = bsi_fail_errno(err, errno, NULL, "could not remove folder \"%s\"", path);
    return st;
}

bomsync_status bsi_remove_tree(const char *path, bomsync_error *err) { return remove_below(AT_FDCWD, path, path, err); }

bomsync_status bsi_write_file(const char *path, const void *p, size_t n, bomsync_error *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return bsi_fail_errno(err, errno, NULL, "could not make \"%s\"", path);
    bomsync_status st = BOMSYNC_OK;
    for (const char *c = p; n && !st;) {
        ssize_t w = write(fd, c, n);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            st = bsi_fail_errno(err, errno, path, "could not write \"%s\"", path);
        } else {
            c += w;
            n -= (size_t)w;
        }
    }
    if (!st && fsync(fd) != 0) st = bsi_fail_errno(err, errno, path, "could not sync \"%s\"", path);
    if (close(fd) != 0 && !st) st = bsi_fail_errno(err, errno, path, "could not close \"%s\"", path);
    return st;
}

bomsync_status bsi_read_file(bsi_buf *out, const char *path, size_t max, bomsync_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", path);
    bomsync_status st = BOMSYNC_OK;
    for (;;) {
        bsi_buf_reserve(out, 64 << 10);
        ssize_t r = read(fd, out->data + out->len, out->cap - out->len);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) st = bsi_fail_errno(err, errno, NULL, "could not read \"%s\"", path);
        if (r <= 0) break;
        out->len += (size_t)r;
        if (out->len > max) {
            st = bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" is larger than %zu bytes", path, max);
            break;
        }
    }
    close(fd);
    return st;
}
