/* run/scan_split.c - see scan_split.h.
 *
 *   marks   0 ........ 16 MB, entry 13,380 ........ 32 MB, entry 26,802 ...      left by the scan that the image was written of
 *   units   |----- 0 -----|---------- 1 ------------|---------- 2 ------- ...    begin there, whatever came or went before
 *
 * A unit should begin where a block begins, and know which. Lengths of blocks stand in the image, so they can be added up: but that reads all
 * of it before the first byte of the snapshot, 4 ms of 60 for ten million unchanged records. So each scan leaves where its units began.
 * They are guesses: if records came or went before, the entry stands elsewhere, and the unit finds its place (scan_cursor.c).
 */
#include "run/scan_split.h"

#include <stdlib.h>

#include "run/scan.h"

enum { SUM_PIECES = 256 };

/* ---- without marks ---- */

static void sum_pieces(void *ctx, size_t index) {
    bsi_split *x = ctx;
    const bsi_image *im = x->image;
    for (size_t p = index * SUM_PIECES; p < BSI_MIN((index + 1) * SUM_PIECES, im->piece_count); p++) {
        uint64_t bytes = 0;
        uint32_t flags = 0;
        for (uint32_t i = 0; i < im->piece[p].count; i++) {
            bytes += im->piece[p].entry[i].bytes;
            flags |= im->piece[p].entry[i].flags;
        }
        x->piece_bytes[p] = bytes;
        x->has_end[p] = (flags & BSI_IMAGE_AT_END) != 0;
    }
}

static void add_up(bsi_split *x, int workers) {
    const bsi_image *im = x->image;
    size_t cap = 16;
    x->file_first = bsi_alloc(cap * sizeof *x->file_first);
    x->piece_bytes = bsi_alloc((im->piece_count + 1) * sizeof *x->piece_bytes);
    x->has_end = bsi_alloc(im->piece_count + 1);
    bsi_parallel(workers, (im->piece_count + SUM_PIECES - 1) / SUM_PIECES, sum_pieces, x);
    x->file_first[x->file_count++] = 0;
    uint64_t bytes = 0;
    for (size_t p = 0; p < im->piece_count; p++) {
        uint64_t whole = x->piece_bytes[p];
        x->piece_bytes[p] = bytes;
        bytes += whole;
        for (uint32_t i = 0; x->has_end[p] && i < im->piece[p].count; i++) {
            if (!(im->piece[p].entry[i].flags & BSI_IMAGE_AT_END)) continue;
            bytes = 0;
            for (uint32_t k = i + 1; k < im->piece[p].count; k++) bytes += im->piece[p].entry[k].bytes;
            if (x->file_count == cap) x->file_first = bsi_realloc(x->file_first, (cap *= 2) * sizeof *x->file_first);
            x->file_first[x->file_count++] = im->piece[p].first + i + 1;
        }
    }
    x->piece_bytes[im->piece_count] = bytes;
}

/* Entries from i, which starts at `at`, are passed until one starts at or after offset. */
static uint64_t walk_to(const bsi_split *x, uint64_t i, uint64_t last, uint64_t at, uint64_t offset, uint64_t *start) {
    bsi_image_walk w = {.image = x->image};
    for (; i < last && at < offset; i++) at += bsi_image_next(&w, i)->bytes;
    *start = at;
    return i < last ? i : UINT64_MAX;
}

static uint64_t near_by_sums(const bsi_split *x, uint32_t file, uint64_t body, uint64_t offset, uint64_t *start) {
    const bsi_image *im = x->image;
    if (file >= x->file_count) return file == 0 && offset == body ? 0 : UINT64_MAX;
    uint64_t first = x->file_first[file], last = file + 1 < x->file_count ? x->file_first[file + 1] : im->count;
    uint64_t at = body, i = first;
    /* the last piece that starts in this file, not past the offset */
    size_t lo = bsi_image_piece_of(im, first), hi = last ? bsi_image_piece_of(im, last - 1) + 1 : lo + 1;
    if (im->piece[lo].first < first) lo++;
    if (lo < hi && im->piece[lo].first < last) {
        while (hi - lo > 1) {
            size_t mid = lo + (hi - lo) / 2;
            if (body + x->piece_bytes[mid] <= offset) lo = mid;
            else hi = mid;
        }
        if (body + x->piece_bytes[lo] <= offset) {
            i = im->piece[lo].first;
            at = body + x->piece_bytes[lo];
        }
    }
    return walk_to(x, i, last, at, offset, start);
}

/* ---- with them ---- */

/* The first mark that does not stand before the offset; marks ascend. */
static size_t mark_from(const bsi_split *x, uint32_t file, uint64_t offset) {
    size_t lo = 0, hi = x->marks;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const bsi_image_mark *m = &x->mark[mid];
        if (m->file < file || (m->file == file && m->offset < offset)) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static uint64_t near_by_marks(const bsi_split *x, uint32_t file, uint64_t body, uint64_t offset, uint64_t late, uint64_t *start) {
    size_t k = mark_from(x, file, offset - body), end = mark_from(x, file + 1, 0);
    const bsi_image_mark *m = &x->mark[k];
    if (k < end && m->offset - (offset - body) <= late && m->entry < x->image->count) {
        *start = body + m->offset;
        return m->entry;
    }
    if (!k || m[-1].file != file) return UINT64_MAX;
    uint64_t last = end < x->marks ? BSI_MIN(x->mark[end].entry, x->image->count) : x->image->count;
    return walk_to(x, m[-1].entry, last, body + m[-1].offset, offset, start);
}

/* ---- both ---- */

void bsi_split_open(bsi_split *x, const bsi_image *image, const bsi_image_mark *mark, size_t marks, int workers) {
    *x = (bsi_split){.image = image};
    if (!image || !image->count) return;
    if (marks) {
        x->mark = mark;
        x->marks = marks;
    } else {
        add_up(x, workers);
    }
}

uint64_t bsi_split_near(const bsi_split *x, uint32_t file, uint64_t body, uint64_t offset, uint64_t late, uint64_t *start) {
    *start = body;
    return x->marks ? near_by_marks(x, file, body, offset, late, start) : near_by_sums(x, file, body, offset, start);
}

void bsi_split_close(bsi_split *x) {
    free(x->file_first);
    free(x->piece_bytes);
    free(x->has_end);
}
