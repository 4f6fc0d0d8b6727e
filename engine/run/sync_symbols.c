/* run/sync_symbols.c - when a feed gets a dictionary for its stored blocks, and what it is learned from.
 *
 *   open blocks   |########........|########........| ...     16 places, from each a few blocks that stand together
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
    if (*out) return BOMSYNC_OK;
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
    uint64_t bytes = 0, rows = s->row_base[s->open_count];
    for (size_t i = 0; i < s->open_count; i++) bytes += s->scan.block[i].bytes;
    return rows ? (uint64_t)((double)bytes / (double)rows * (double)records) : 0;
}

bomsync_status bsi_sync_learn(bsi_sync *s, uint64_t records, bomsync_error *err) {
    const char *codec = s->o->codec ? s->o->codec : "auto";
    bool always = strcmp(codec, "symbols") == 0;
    if (strcmp(codec, "zstd") == 0) {
        s->feed->dictionary = BSI_DICT_FRAMES;
        return BOMSYNC_OK;
    }
    if (!always && strcmp(codec, "auto") != 0) return bsi_fail(err, BOMSYNC_E_USAGE, "--codec must be auto, symbols or zstd");
    if (always && s->feed->dictionary == BSI_DICT_FRAMES) s->feed->dictionary = 0;
    if (bytes_of(s, records) < (s->feed->dictionary ? BSI_TRAIN_AGAIN_BYTES : always ? 1 : BSI_TRAIN_BYTES)) return BOMSYNC_OK;
    bsi_dict_sample *x = bsi_dict_sample_open(s->feed->slots.count);
    bomsync_status taken = take_sample(s, x, err);
    uint64_t dictionary;
    bomsync_status st = bsi_dict_learn(&dictionary, s->store, x, always, taken ? NULL : err);
    if (taken || st) return taken ? taken : st;
    s->feed->dictionary = dictionary;
    return BOMSYNC_OK;
}
