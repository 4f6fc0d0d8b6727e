/* run/scan_bytes.c - bytes of blocks that the scan has passed already.
 *
 *   plain file                 read again where they stand; those of neighbours with them (bsi_scan_bytes_on)
 *   pack, cold file, stream    the spill file:   [ open block ][ open block ] ...      in the order in which workers came by
 *   stream, matched first      the file is decoded once more, from its front, and all that is wanted of it goes there, too
 *
 * Parse asks for open blocks, rendering for records that changed, messages for the number of a line. What was parsed once is
 * kept in place of its bytes while there is room (bsi_scan_keep).
 */
#include "run/scan_inner.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/vast.h"

/* ---- lines of a stream that comes once: all its bytes are in the spill file, but for the ends of very long records ---- */

typedef struct hole { /* bytes that are not there */
    uint64_t at, bytes;
    int64_t lines; /* that end in them */
} hole;

struct bsi_scan_lines {
    hole *hole;
    size_t count;
    uint64_t at;   /* decoded bytes that are counted */
    int64_t lines; /* the number of the line that stands there */
    bool cr;       /* the byte before was one */
};

static bsi_scan_lines *lines_of(bsi_scan_file *f) {
    if (!f->lines) {
        f->lines = bsi_alloc(sizeof *f->lines);
        *f->lines = (bsi_scan_lines){.at = f->body, .lines = f->body_line};
    }
    return f->lines;
}

int64_t bsi_scan_line(bsi_scan_file *f, uint64_t offset) {
    if (!bsi_scan_comes_once(f) || f->spill_fd < 0 || offset < f->body) return bsi_source_line(f->source, offset);
    bsi_scan_lines *l = lines_of(f);
    if (offset < l->at) l->at = f->body, l->lines = f->body_line, l->cr = false;
    uint64_t gone = 0;
    size_t h = 0;
    for (; h < l->count && l->hole[h].at < l->at; h++) gone += l->hole[h].bytes;
    uint8_t *buf = bsi_alloc(BSI_READ_BYTES);
    while (l->at < offset) {
        uint64_t to = h < l->count ? BSI_MIN(offset, l->hole[h].at) : offset;
        if (l->at == to) { /* at a hole, and past it */
            l->at += l->hole[h].bytes;
            l->lines += l->hole[h].lines;
            gone += l->hole[h++].bytes;
            l->cr = false;
            continue;
        }
        ssize_t n = pread(f->spill_fd, buf, (size_t)BSI_MIN(to - l->at, (uint64_t)BSI_READ_BYTES), (off_t)(l->at - f->body - gone));
        if (n <= 0) break;
        l->lines += bsi_line_ends(&l->cr, buf, (size_t)n);
        l->at += (uint64_t)n;
    }
    free(buf);
    return l->at == offset ? l->lines : -1;
}

void bsi_scan_add_hole(bsi_scan_file *f, uint64_t at, uint64_t bytes, int64_t lines) {
    bsi_scan_lines *l = lines_of(f);
    if (!bytes) return;
    l->hole = bsi_realloc(l->hole, (l->count + 1) * sizeof *l->hole);
    l->hole[l->count++] = (hole){at, bytes, lines};
}

/* ---- the spill file ---- */

bomsync_status bsi_scan_spill(uint64_t *place, bsi_scan_file *f, const uint8_t *p, size_t n, const char *tmp, bomsync_error *err) {
    uint64_t at = *place = atomic_fetch_add(&f->spill_bytes, n);
    return bsi_temp_write(f->spill_fd, p, n, at, tmp, err);
}

static bomsync_status refuse_changed(const bsi_scan_file *f, uint64_t offset, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "the file changed while it was read");
    bsi_at(err, bsi_source_path(f->source), (int64_t)offset, -1, NULL, NULL, 0);
    return BOMSYNC_E_REFUSED;
}

/* ---- blocks of a stream that matched first, and are wanted after all ---- */

struct bsi_scan_again {
    struct place_of {
        uint64_t offset, spill;
    } *place; /* ascending by offset */
    size_t count;
};

static pthread_mutex_t again_lock = PTHREAD_MUTEX_INITIALIZER; /* guards bsi_scan_file.again; inside it only those of the stream that is read */

static const struct place_of *find_place(const bsi_scan_again *a, uint64_t offset) {
    size_t lo = 0, hi = a ? a->count : 0;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (a->place[mid].offset < offset) lo = mid + 1;
        else hi = mid;
    }
    return a && lo < a->count && a->place[lo].offset == offset ? &a->place[lo] : NULL;
}

/* Bytes [*at, at + n) of a stream that is read for the second time; the buffer ends with them. */
static bomsync_status read_to(bsi_source *s, uint64_t *at, uint64_t end, bsi_buf *buf, size_t n, const bsi_scan_file *f, bomsync_error *err) {
    while (*at < end) {
        buf->len = BSI_MIN(buf->len, n); /* only the last n are wanted */
        size_t want = (size_t)BSI_MIN(end - *at, (uint64_t)BSI_READ_BYTES);
        bsi_buf_reserve(buf, want);
        ssize_t got = bsi_source_read(s, buf->data + buf->len, want, err);
        if (got < 0) return err->status;
        if (!got) return refuse_changed(f, *at, err);
        buf->len += (size_t)got;
        *at += (uint64_t)got;
        if (buf->len > n) {
            memmove(buf->data, buf->data + buf->len - n, n);
            buf->len = n;
        }
    }
    return BOMSYNC_OK;
}

/* All open blocks of the file whose bytes are nowhere, in one pass from its front, to the spill file. */
static bomsync_status read_stream_again(bsi_scan *scan, uint32_t file, bomsync_error *err) {
    bsi_scan_file *f = &scan->file[file];
    bsi_scan_again *a = bsi_calloc(1, sizeof *a);
    bsi_source *s = NULL;
    bsi_buf buf = {0};
    uint64_t at = 0;
    bomsync_status st = bsi_source_reopen(&s, f->source, err);
    for (size_t i = 0; i < scan->block_count && !st; i++) {
        const bsi_scan_block *b = &scan->block[i];
        if (b->file != file || b->spill != BSI_NO_SPILL) continue;
        const struct place_of *known = find_place(f->again, b->offset);
        struct place_of p = {b->offset, known ? known->spill : 0};
        buf.len = 0;
        if (!known) st = read_to(s, &at, b->offset, &buf, 0, f, err);
        if (!known && !st) st = read_to(s, &at, b->offset + b->bytes, &buf, b->bytes, f, err);
        if (!known && !st && !bsi_hash128_eq(bsi_xxh128(buf.data, b->bytes), b->plain)) st = refuse_changed(f, b->offset, err);
        if (!known && !st) st = bsi_scan_spill(&p.spill, f, buf.data, b->bytes, scan->tmp, err);
        if ((a->count & (a->count - 1)) == 0) a->place = bsi_realloc(a->place, BSI_MAX(a->count * 2, (size_t)1) * sizeof *a->place);
        a->place[a->count++] = p;
    }
    bsi_buf_free(&buf);
    bsi_source_close(s);
    if (f->again) free(f->again->place);
    free(f->again);
    f->again = a;
    return st;
}

static bomsync_status place_again(uint64_t *spill, bsi_scan *scan, const bsi_scan_block *b, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    pthread_mutex_lock(&again_lock);
    const struct place_of *p = find_place(scan->file[b->file].again, b->offset);
    if (!p && !(st = read_stream_again(scan, b->file, err))) p = find_place(scan->file[b->file].again, b->offset);
    if (p) *spill = p->spill;
    pthread_mutex_unlock(&again_lock);
    return st;
}

/* ---- open blocks and matched runs ---- */

static bomsync_status read_again(bsi_scan_file *f, uint64_t offset, uint64_t spilled, size_t n, bsi_buf *buf, bomsync_error *err) {
    buf->len = 0;
    bsi_buf_reserve(buf, n + BSI_SCAN_MARGIN);
    if (spilled == BSI_NO_SPILL) {
        ssize_t got = bsi_source_pread(f->source, buf->data, n, offset, err);
        if (got < 0) return err->status;
        if ((size_t)got != n) return refuse_changed(f, offset, err);
    } else {
        bomsync_status st = bsi_temp_read(f->spill_fd, buf->data, n, spilled, err);
        if (st) return st;
    }
    buf->len = n;
    return BOMSYNC_OK;
}

bool bsi_scan_alone(const bsi_scan *scan, size_t i) {
    const bsi_scan_block *b = &scan->block[i];
    return b->spill != BSI_NO_SPILL || (b->flags & BSI_CUT_OVERSIZE) || !bsi_source_random(scan->file[b->file].source) ||
           bsi_source_pack(scan->file[b->file].source);
}

bomsync_status bsi_scan_bytes(bsi_scan *scan, size_t i, bsi_buf *buf, bomsync_error *err) {
    const bsi_scan_block *b = &scan->block[i];
    size_t n = BSI_MIN((size_t)b->bytes, (size_t)BSI_RECORD_BYTES_MAX); /* of an oversize record the front is enough */
    uint64_t spilled = b->spill;
    if (spilled == BSI_NO_SPILL && !bsi_source_random(scan->file[b->file].source)) {
        bomsync_status st = place_again(&spilled, scan, b, err);
        if (st) return st;
    }
    return read_again(&scan->file[b->file], b->offset, spilled, n, buf, err);
}

bool bsi_scan_joins(const bsi_scan *scan, size_t i, size_t k, size_t bytes, size_t most) {
    enum { GAP_BYTES = 4 << 10 }; /* copied in the time that a read of its own takes */
    const bsi_scan_block *b = &scan->block[i], *next = &scan->block[k];
    uint64_t end = b->offset + bytes;
    return next->file == b->file && next->offset >= end && next->offset - end <= GAP_BYTES && next->offset + next->bytes - b->offset <= most &&
           !bsi_scan_alone(scan, k);
}

/* Blocks from i on that stand near each other in the file, while they fit. */
static size_t bytes_from(const bsi_scan *scan, size_t i, size_t most) {
    size_t bytes = scan->block[i].bytes;
    for (size_t k = i + 1; k < scan->block_count && bsi_scan_joins(scan, i, k, bytes, most); k++)
        bytes = (size_t)(scan->block[k].offset - scan->block[i].offset) + scan->block[k].bytes;
    return bytes;
}

bomsync_status bsi_scan_bytes_on(const uint8_t **p, size_t *n, bsi_scan *scan, size_t i, bsi_scan_window *w, bomsync_error *err) {
    enum { MOST_BYTES = 32 << 10 }; /* 300 usual records: a batch of changes takes two reads */
    const bsi_scan_block *b = &scan->block[i];
    bool near = i > w->block && i - w->block <= 256, alone = bsi_scan_alone(scan, i); /* others may have taken what is between */
    w->block = i;
    *n = BSI_MIN((size_t)b->bytes, (size_t)BSI_RECORD_BYTES_MAX);
    if (!alone && b->file == w->file && b->offset >= w->offset && b->offset + *n <= w->offset + w->buf.len) {
        *p = w->buf.data + (b->offset - w->offset);
        return BOMSYNC_OK;
    }
    w->file = b->file;
    w->offset = b->offset;
    bomsync_status st = near && !alone ? read_again(&scan->file[b->file], b->offset, BSI_NO_SPILL, bytes_from(scan, i, MOST_BYTES), &w->buf, err)
                                       : bsi_scan_bytes(scan, i, &w->buf, err);
    if (st || alone) w->file = UINT32_MAX; /* nothing else is in it */
    *p = w->buf.data;
    return st;
}

bomsync_status bsi_scan_range(bsi_scan *scan, const bsi_scan_run *run, uint64_t before, size_t bytes, bsi_buf *buf, bomsync_error *err) {
    return read_again(&scan->file[run->file], run->offset + before, run->spill == BSI_NO_SPILL ? BSI_NO_SPILL : run->spill + before, bytes, buf, err);
}

/* ---- rows in place of bytes ---- */

static bool is_kept(uint64_t only, uint32_t row) { return !only || (row < 64 && (only >> row & 1)); }

bsi_rows *bsi_scan_keep(const bsi_rows *w, uint64_t only, size_t *bytes) {
    enum { MARGIN_BYTES = 32 }; /* who renders may look so far past a field */
    if (w->bad_count) return NULL;
    size_t n = 0, images = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        if (!is_kept(only, i)) continue;
        n++;
        images += w->image[i + 1] - w->image[i];
    }
    *bytes = sizeof *w + n * 16 + (n + 1) * 4 + n * 4 + n + images + MARGIN_BYTES;
    uint8_t *p = bsi_alloc(*bytes);
    bsi_rows *k = (bsi_rows *)(void *)p;
    *k = (bsi_rows){.count = (uint32_t)n, .blanks = w->blanks, .only = only};
    p += sizeof *k;
#define PLACE(member, size) k->member = (void *)p, p += (size)
    PLACE(kh, n * 8);
    PLACE(rh, n * 8);
    PLACE(body, n * 4);
    PLACE(image, (n + 1) * 4);
    PLACE(bad, n);
#undef PLACE
    memset(k->bad, 0, n);
    k->enc = (bsi_buf){.data = p, .cap = images + MARGIN_BYTES};
    for (uint32_t i = 0, to = 0; i < w->count; i++) {
        if (!is_kept(only, i)) continue;
        size_t length = w->image[i + 1] - w->image[i];
        k->kh[to] = w->kh[i];
        k->rh[to] = w->rh[i];
        k->body[to] = w->body[i];
        k->image[to++] = (uint32_t)k->enc.len;
        memcpy(p + k->enc.len, w->enc.data + w->image[i], length);
        k->enc.len += length;
    }
    k->image[n] = (uint32_t)k->enc.len;
    return k;
}

void bsi_scan_forget(bsi_scan *scan) {
    for (size_t i = 0; scan->parsed && i < scan->block_count; i++) free(scan->parsed[i]);
    bsi_vast_free(scan->parsed);
    scan->parsed = NULL;
}

void bsi_scan_bytes_close(bsi_scan_file *f) {
    if (f->lines) free(f->lines->hole);
    free(f->lines);
    if (f->again) free(f->again->place);
    free(f->again);
    if (f->spill_fd >= 0) close(f->spill_fd);
}
