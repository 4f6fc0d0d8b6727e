/* gen_out.c - rows into a file: plain, one zstd frame, zstd frames of whole records, gzip.
 *
 *     row row row .. | buffer full at a row's end | write, or compress and write
 *
 * A buffer is handed on at the end of a row only, so that each zstd frame holds whole records and can be read by
 * itself. gzip goes through ISA-L, several times faster than zlib at the level used here.
 */
#include "gen/gen_inner.h"

#include <errno.h>
#include <fcntl.h>
#include <isa-l/igzip_lib.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

enum { PLAIN, ZSTD, ZSTD_FRAMES, GZIP };

struct bsi_gen_out {
    int fd, kind;
    char *path;
    uint8_t *buffer, *packed;
    size_t len, full, cap, packed_cap;
    uint64_t content, written;
    ZSTD_CCtx *zstd;
    struct isal_zstream *gzip;
    uint8_t *gzip_level;
};

static int kind_of(const char *compress) {
    if (!compress) return PLAIN;
    if (!strcmp(compress, "zstd")) return ZSTD;
    return !strcmp(compress, "gzip") ? GZIP : ZSTD_FRAMES;
}

static void gzip_init(bsi_gen_out *o) {
    o->gzip = bsi_calloc(1, sizeof *o->gzip);
    o->gzip_level = bsi_alloc(ISAL_DEF_LVL1_DEFAULT);
    isal_deflate_init(o->gzip);
    o->gzip->level = 1;
    o->gzip->level_buf = o->gzip_level;
    o->gzip->level_buf_size = ISAL_DEF_LVL1_DEFAULT;
    o->gzip->gzip_flag = IGZIP_GZIP;
}

static void packer_init(bsi_gen_out *o) {
    if (o->kind == PLAIN) return;
    o->packed_cap = BSI_MAX(ZSTD_compressBound(o->cap), BSI_GEN_BUFFER_BYTES);
    o->packed = bsi_alloc(o->packed_cap);
    if (o->kind == GZIP) {
        gzip_init(o);
        return;
    }
    o->zstd = ZSTD_createCCtx();
    if (!o->zstd) return;
    ZSTD_CCtx_setParameter(o->zstd, ZSTD_c_compressionLevel, 1);
    ZSTD_CCtx_setParameter(o->zstd, ZSTD_c_checksumFlag, 1);
}

static void free_out(bsi_gen_out *o) {
    ZSTD_freeCCtx(o->zstd);
    free(o->gzip);
    free(o->gzip_level);
    free(o->packed);
    free(o->buffer);
    free(o->path);
    free(o);
}

bomsync_status bsi_gen_out_open(bsi_gen_out **out, const char *path, const char *compress, size_t row_bytes_max,
                                bomsync_error *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return bsi_fail_errno(err, errno, path, "could not make \"%s\"", path);
    bsi_gen_out *o = bsi_calloc(1, sizeof *o);
    o->fd = fd;
    o->path = bsi_strdup(path);
    o->kind = kind_of(compress);
    o->full = o->kind == ZSTD_FRAMES ? BSI_GEN_FRAME_BYTES : BSI_GEN_BUFFER_BYTES;
    o->cap = o->full + row_bytes_max;
    o->buffer = bsi_alloc(o->cap);
    packer_init(o);
    if ((o->kind == ZSTD || o->kind == ZSTD_FRAMES) && !o->zstd) {
        bsi_gen_out_close(o, NULL, NULL, true, NULL);
        return bsi_fail(err, BOMSYNC_E_SPACE, "could not get memory to compress \"%s\"", path);
    }
    *out = o;
    return BOMSYNC_OK;
}

static bomsync_status write_all(bsi_gen_out *o, const uint8_t *p, size_t n, bomsync_error *err) {
    o->written += n;
    while (n) {
        ssize_t done = write(o->fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return bsi_fail_errno(err, errno, o->path, "could not write \"%s\"", o->path);
        p += done;
        n -= (size_t)done;
    }
    return BOMSYNC_OK;
}

static bomsync_status zstd_flush(bsi_gen_out *o, bool last, bomsync_error *err) {
    ZSTD_inBuffer in = {o->buffer, o->len, 0};
    ZSTD_EndDirective how = last || o->kind == ZSTD_FRAMES ? ZSTD_e_end : ZSTD_e_continue;
    for (;;) {
        ZSTD_outBuffer to = {o->packed, o->packed_cap, 0};
        size_t left = ZSTD_compressStream2(o->zstd, &to, &in, how);
        if (ZSTD_isError(left))
            return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress \"%s\": %s", o->path, ZSTD_getErrorName(left));
        bomsync_status status = write_all(o, o->packed, to.pos, err);
        if (status) return status;
        if (how == ZSTD_e_end ? left == 0 : in.pos == in.size) return BOMSYNC_OK;
    }
}

static bomsync_status gzip_flush(bsi_gen_out *o, bool last, bomsync_error *err) {
    o->gzip->next_in = o->buffer;
    o->gzip->avail_in = (uint32_t)o->len;
    o->gzip->end_of_stream = last;
    do {
        o->gzip->next_out = o->packed;
        o->gzip->avail_out = (uint32_t)o->packed_cap;
        if (isal_deflate(o->gzip) != COMP_OK)
            return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress \"%s\"", o->path);
        bomsync_status status = write_all(o, o->packed, o->packed_cap - o->gzip->avail_out, err);
        if (status) return status;
    } while (o->gzip->avail_out == 0 || (last && o->gzip->internal_state.state != ZSTATE_END));
    return BOMSYNC_OK;
}

static bomsync_status flush(bsi_gen_out *o, bool last, bomsync_error *err) {
    bomsync_status status = BOMSYNC_OK;
    if (o->kind == PLAIN)
        status = write_all(o, o->buffer, o->len, err);
    else if (o->kind == GZIP)
        status = gzip_flush(o, last, err);
    else if (o->len || o->kind == ZSTD)
        status = zstd_flush(o, last, err);
    o->content += o->len;
    o->len = 0;
    return status;
}

uint8_t *bsi_gen_out_row(bsi_gen_out *o) {
    return o->buffer + o->len;
}

bomsync_status bsi_gen_out_commit(bsi_gen_out *o, uint8_t *end, bomsync_error *err) {
    o->len = (size_t)(end - o->buffer);
    return o->len < o->full ? BOMSYNC_OK : flush(o, false, err);
}

uint64_t bsi_gen_out_content(const bsi_gen_out *o) {
    return o->content + o->len;
}

bomsync_status bsi_gen_out_close(bsi_gen_out *o, uint64_t *content, uint64_t *written, bool discard,
                                 bomsync_error *err) {
    bomsync_status status = discard ? BOMSYNC_OK : flush(o, true, err);
    if (content) *content = o->content;
    if (written) *written = o->written;
    if (close(o->fd) != 0 && !status && !discard)
        status = bsi_fail_errno(err, errno, o->path, "could not finish \"%s\"", o->path);
    if (status || discard) unlink(o->path);
    free_out(o);
    return status;
}
