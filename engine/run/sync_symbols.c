/* run/sync_symbols.c - when a feed gets a dictionary for its stored blocks, and what it is learned from.
 *
 *   open blocks   |########........|########........| ...     16 places, from each a few blocks that stand together
 *
 * A first load of plain files takes its sample before they are scanned, since it writes while it scans.
 *
 * Learning takes about 20 ms and the dictionary some 10 kB: worth it for a run that writes much. A feed without one learns
 * from 256 kB on, one that has one from 16 MB on, since its rows may have become others by then. The store compares with
 * frames of zstd, and says so where those are clearly smaller: then they are written, and the feed remembers it, so that it is
 * not asked again each night. --codec decides otherwise.
 */
#include "core/limits.h"
#include "run/sync.h"

/* The rows of an open block: kept from parsing, or parsed again. */
static bomsync_status rows_of(const bsi_rows **out, bsi_sync *s, size_t open, bsi_rows *own, bsi_buf *bytes, bomsync_error *err) {
    bsi_scan *scan = &s->scan;
    *out = scan->parsed ? scan->parsed[open] : NULL;
    if (*out && !(*out)->only) return BOMSYNC_OK;
    bomsync_status st = bsi_scan_bytes(scan, open, bytes, err);
    if (!st) bsi_parse_block(own, scan->file[scan->block[open].file].layout, bsi_store_secret(s->store), bytes->data, bytes->len, false);
    *out = own;
    return st;
}

static bomsync_status take_sample(bsi_sync *s, bsi_dict_sample *x, bomsync_error *err) {
    bsi_rows own = {0};
    bsi_buf bytes = {0};
    bomsync_status st = BOMSYNC_OK;
    for (size_t place = 0; place < BSI_TRAIN_PLACES && !st; place++) {
        size_t i = s->open_count * place / BSI_TRAIN_PLACES, end = s->open_count * (place + 1) / BSI_TRAIN_PLACES;
        size_t until = BSI_TRAIN_SAMPLE_BYTES * (place + 1) / BSI_TRAIN_PLACES;
        for (; i < end && !st && bsi_dict_sample_bytes(x) < until; i++) {
            const bsi_rows *w;
            st = rows_of(&w, s, i, &own, &bytes, err);
            if (!st && !w->bad_count) bsi_dict_sample_add(x, w->count, w->enc.data, w->image, w->body);
        }
    }
    bsi_rows_free(&own);
    bsi_buf_free(&bytes);
    return st;
}

static uint64_t bytes_of(const bsi_sync *s, uint64_t records) {
    uint64_t bytes = 0, rows = 0;
    for (size_t i = 0; i < s->open_count; i++) {
        bytes += s->scan.block[i].bytes;
        rows += s->scan.block[i].records;
    }
    return rows ? (uint64_t)((double)bytes / (double)rows * (double)records) : 0;
}

/* Is it worth it, for so many bytes of rows? Takes what --codec says. */
static bool wants_dictionary(bsi_sync *s, uint64_t bytes, bool *always) {
    const char *codec = s->o->codec ? s->o->codec : "auto";
    *always = strcmp(codec, "symbols") == 0;
    if (strcmp(codec, "zstd") == 0) s->feed->dictionary = BSI_DICT_FRAMES;
    if (strcmp(codec, "zstd") == 0) return false;
    if (*always && s->feed->dictionary == BSI_DICT_FRAMES) s->feed->dictionary = 0;
    return bytes >= (s->feed->dictionary ? BSI_TRAIN_AGAIN_BYTES : *always ? 1 : BSI_TRAIN_BYTES);
}

static bomsync_status learn(bsi_sync *s, bool always, bomsync_status sample(bsi_sync *, bsi_dict_sample *, bomsync_error *), bomsync_error *err) {
    bsi_dict_sample *x = bsi_dict_sample_open(s->feed->slots.count);
    bomsync_status taken = sample(s, x, err);
    uint64_t dictionary;
    bomsync_status st = bsi_dict_learn(&dictionary, s->store, x, always, taken ? NULL : err);
    if (taken || st) return taken ? taken : st;
    s->feed->dictionary = dictionary;
    return BOMSYNC_OK;
}

bomsync_status bsi_sync_learn(bsi_sync *s, uint64_t records, bomsync_error *err) {
    bool always;
    return wants_dictionary(s, bytes_of(s, records), &always) ? learn(s, always, take_sample, err) : BOMSYNC_OK;
}

/* ---- before the scan: nothing is cut yet ---- */

static uint64_t file_bytes(const bsi_scan_file *f) { return f->layout ? bsi_source_size(f->source) - f->body : 0; }

/* Blocks from the first line start behind `offset` on, until the sample has `until` bytes. */
static bomsync_status sample_at(bsi_sync *s, bsi_dict_sample *x, bsi_scan_file *f, uint64_t offset, size_t until, bsi_rows *w, bsi_buf *buf,
                                bomsync_error *err) {
    enum { BYTES = 64 << 10 };
    bsi_buf_reserve(buf, BYTES + 64);
    ssize_t got = bsi_source_pread(f->source, buf->data, BYTES, offset, err);
    if (got < 0) return err->status;
    const uint8_t *at = buf->data, *end = at + got, *lf = offset > f->body ? memchr(at, '\n', (size_t)got) : NULL;
    if (offset > f->body) at = lf ? lf + 1 : end;
    bsi_cut_options o = {.dialect = f->layout->dialect, .size = s->feed->block_size, .isa = BSI_ISA_SCALAR};
    bsi_cut cut = {0};
    bool last = offset + (uint64_t)got >= bsi_source_size(f->source);
    for (; at < end && bsi_dict_sample_bytes(x) < until; at += cut.bytes) {
        if (bsi_cut_block(&cut, &o, at, (size_t)(end - at), last) != 1 || !cut.bytes) break;
        bsi_parse_block(w, f->layout, bsi_store_secret(s->store), at, cut.bytes, false);
        if (!w->bad_count) bsi_dict_sample_add(x, w->count, w->enc.data, w->image, w->body);
    }
    return BOMSYNC_OK;
}

static bomsync_status sample_files(bsi_sync *s, bsi_dict_sample *x, bomsync_error *err) {
    uint64_t total = 0;
    for (size_t f = 0; f < s->scan.file_count; f++) total += file_bytes(&s->scan.file[f]);
    bsi_rows w = {0};
    bsi_buf buf = {0};
    bomsync_status st = BOMSYNC_OK;
    for (size_t place = 0; place < BSI_TRAIN_PLACES && !st; place++) {
        uint64_t at = total * place / BSI_TRAIN_PLACES;
        bsi_scan_file *f = s->scan.file;
        for (; at >= file_bytes(f); f++) at -= file_bytes(f);
        st = sample_at(s, x, f, f->body + at, BSI_TRAIN_SAMPLE_BYTES * (place + 1) / BSI_TRAIN_PLACES, &w, &buf, err);
    }
    bsi_rows_free(&w);
    bsi_buf_free(&buf);
    return st;
}

bomsync_status bsi_sync_learn_ahead(bsi_sync *s, bomsync_error *err) {
    uint64_t total = 0;
    for (size_t f = 0; f < s->scan.file_count; f++) {
        const bsi_scan_file *file = &s->scan.file[f];
        if (!bsi_source_random(file->source) || bsi_source_pack(file->source)) return BOMSYNC_OK;
        total += file_bytes(file);
    }
    s->learned = total > 0;
    bool always;
    return total && wants_dictionary(s, total, &always) ? learn(s, always, sample_files, err) : BOMSYNC_OK;
}
