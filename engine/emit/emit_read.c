/* emit/emit_read.c - a chunk file back to its lines.
 *
 * Nothing is handed on before all of it was checked: size and SHA-256 of the file, the frame's own checksum, size and
 * XXH3-128 of the content. A chunk is small (4 MiB, or one line), so it is held whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "core/limits.h"
#include "flow/change.h"

/* One record before and after, each byte of it escaped as \u00xx, and the names of its columns. */
#define CONTENT_BYTES_MAX (16ull * BSI_RECORD_BYTES_MAX)

static bomsync_status damaged(const char *path, const char *what, bomsync_error *err) {
    bomsync_status st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "chunk \"%s\" is damaged: %s", path, what);
    bsi_hint(err, "verify --repair writes it again, if the store still has what it was made of");
    return st;
}

static bomsync_status check_file(const bsi_buf *file, const char *path, const bsi_chunk_info *info, bomsync_error *err) {
    uint8_t sha[32];
    if (file->len != info->bytes) return damaged(path, "its size is not that of the manifest", err);
    bsi_sha_once(file->data, file->len, sha);
    return memcmp(sha, info->sha256, 32) ? damaged(path, "its sha256 is not that of the manifest", err) : BOMSYNC_OK;
}

static bomsync_status check_content(const bsi_buf *content, const char *path, const bsi_chunk_info *info, bomsync_error *err) {
    if (content->len != info->content_bytes) return damaged(path, "its content has another size than in the manifest", err);
    bool equal = bsi_hash128_eq(bsi_xxh128(content->data, content->len), info->content_xxh3);
    return equal ? BOMSYNC_OK : damaged(path, "its content has another digest than in the manifest", err);
}

static bomsync_status unpack(bsi_buf *content, const bsi_buf *file, const char *path, bomsync_error *err) {
    unsigned long long bytes = ZSTD_getFrameContentSize(file->data, file->len);
    if (bytes == ZSTD_CONTENTSIZE_ERROR || bytes == ZSTD_CONTENTSIZE_UNKNOWN) return damaged(path, "not a chunk's zstd frame", err);
    if (bytes > CONTENT_BYTES_MAX) return damaged(path, "larger than a chunk can be", err);
    bsi_buf_reserve(content, bytes + 1);
    size_t rc = ZSTD_decompress(content->data, bytes, file->data, file->len);
    if (ZSTD_isError(rc)) return damaged(path, ZSTD_getErrorName(rc), err);
    content->len = rc;
    return BOMSYNC_OK;
}

bomsync_status bsi_chunk_read(const char *path, const bsi_chunk_info *info,
                              bomsync_status (*fn)(void *ctx, const char *line, size_t bytes, bomsync_error *err), void *ctx,
                              bomsync_error *err) {
    bsi_buf file = {0}, content = {0};
    bomsync_status st = access(path, F_OK) == 0 || errno != ENOENT ? BOMSYNC_OK : bsi_fail(err, BOMSYNC_E_INTEGRITY, "chunk \"%s\" is missing", path);
    if (!st) st = bsi_read_file(&file, path, CONTENT_BYTES_MAX, err);
    if (!st && info) st = check_file(&file, path, info, err);
    if (!st) st = unpack(&content, &file, path, err);
    if (!st && info) st = check_content(&content, path, info, err);
    for (size_t at = 0; !st && at < content.len;) {
        const char *line = (const char *)content.data + at, *end = memchr(line, '\n', content.len - at);
        size_t n = end ? (size_t)(end - line) : content.len - at;
        st = fn(ctx, line, n, err);
        at += n + 1;
    }
    bsi_buf_free(&file);
    bsi_buf_free(&content);
    return st;
}
