/* run/scan_lines.c - line numbers of many places of a snapshot, without reading it again.
 *
 *   blocks   | 16 records | 12, 1 blank | 14, one with LF in quotes | 15 records | ..x..
 *   lines      16           13            read and counted            15           read up to x
 *
 * Of nearly all blocks cut has seen that each line end ends a record or a blank line (BSI_CUT_LINES), and the image keeps that: their lines
 * are known from their counts. A lone CR ends a line, and a CR that ends a block has no LF behind it, so blocks can be counted one by one.
 *
 * Tried and dropped: counting from the top of the file. That took 0.65 s for one record in ten million, ten times the whole run.
 */
#include "run/scan_lines.h"

enum { AT_ONCE = 1 << 20 };

/* n bytes of a file from `offset` on; they hold whole blocks. False: they cannot be read again like that. */
static bool count_bytes(bsi_scan_lines_walk *w, const bsi_scan_run *r, uint64_t offset, uint64_t n) {
    bsi_source *source = w->scan->file[r->file].source;
    if (!bsi_source_random(source)) return false;
    bool cr = false;
    bsi_buf_reserve(&w->buf, BSI_MIN(n, (uint64_t)AT_ONCE));
    for (uint64_t done = 0; done < n;) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        size_t want = (size_t)BSI_MIN(n - done, (uint64_t)AT_ONCE);
        ssize_t got = bsi_source_pread(source, w->buf.data, want, offset + done, &err);
        if (got <= 0) return false;
        w->line += bsi_line_ends(&cr, w->buf.data, (size_t)got);
        done += (size_t)got;
    }
    return true;
}

/* Blocks of a run from w->block to `to`; those whose lines are not known are read, as many at once as stand side by side. */
static void pass(bsi_scan_lines_walk *w, const bsi_scan_run *r, uint64_t to) {
    bsi_image_walk images = {.image = w->image};
    uint64_t unknown = 0; /* bytes right before w->offset */
    for (; w->block < to && w->line >= 0; w->block++) {
        uint32_t bytes;
        bool known;
        if (r->matched) {
            const bsi_image_entry *e = bsi_image_next(&images, r->first + w->block);
            bytes = e->bytes;
            known = e->flags & BSI_IMAGE_LINES;
            if (known) w->line += e->records + e->blanks;
        } else {
            const bsi_scan_block *b = &w->scan->block[r->first + w->block];
            bytes = b->bytes;
            known = b->flags & BSI_CUT_LINES;
            if (known) w->line += b->records + b->blanks;
        }
        if (known && unknown) {
            if (!count_bytes(w, r, w->offset - unknown, unknown)) w->line = -1;
            unknown = 0;
        }
        if (!known) unknown += bytes;
        w->offset += bytes;
    }
    if (unknown && !count_bytes(w, r, w->offset - unknown, unknown)) w->line = -1;
}

static void begin_run(bsi_scan_lines_walk *w, const bsi_scan_run *r) {
    const bsi_scan_file *f = &w->scan->file[r->file];
    bool first = !w->run || r[-1].file != r->file;
    if (w->block) return;
    if (first) w->line = f->body_line;
    if (r->offset != (first ? f->body : w->offset)) w->line = -1; /* some bytes are in no block */
    w->offset = r->offset;
}

/* To the start of an open block. */
static void go_to(bsi_scan_lines_walk *w, size_t open) {
    const bsi_scan *scan = w->scan;
    if (open < w->last) w->run = w->block = 0;
    w->last = open;
    for (; w->run < scan->run_count; w->run++, w->block = 0) {
        const bsi_scan_run *r = &scan->run[w->run];
        bool here = !r->matched && open >= r->first && open - r->first < r->count;
        begin_run(w, r);
        pass(w, r, here ? open - r->first : r->count);
        if (here) return;
    }
}

/* Line ends of an open block in front of a byte. */
static int64_t ends_before(bsi_scan_lines_walk *w, size_t open, uint64_t byte) {
    const bsi_scan_block *b = &w->scan->block[open];
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bool cr = false;
    if (bsi_scan_bytes(w->scan, open, &w->buf, &err) || byte - b->offset > w->buf.len) return -1;
    return bsi_line_ends(&cr, w->buf.data, (size_t)(byte - b->offset));
}

int64_t bsi_scan_lines_to(bsi_scan_lines_walk *w, size_t open, uint64_t byte, int64_t before) {
    const bsi_scan_block *b = &w->scan->block[open];
    go_to(w, open);
    bool known = w->line >= 0 && w->offset == b->offset;
    if (known && before < 0) before = ends_before(w, open, byte);
    return known && before >= 0 ? w->line + before : bsi_scan_line(&w->scan->file[b->file], byte);
}

void bsi_scan_lines_end(bsi_scan_lines_walk *w) { bsi_buf_free(&w->buf); }
