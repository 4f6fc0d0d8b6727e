/* run/export.c - the published state, or the source, of a feed as CSV. */
#include <stdlib.h>

#include "run/csv_out.h"
#include "run/query.h"

/* The source differs from what is published by what is kept: a held or declined delete is not in it, a record kept
 * back has the value that waits. */
static bomsync_status kept_keys(uint64_t **out, size_t *count, const bsi_kept *k, size_t n) {
    *out = bsi_alloc(sizeof **out * (n + 1));
    *count = 0;
    for (size_t i = 0; i < n; i++)
        if (k[i].key_read) (*out)[(*count)++] = k[i].kh;
    bsi_sort(*out, *count, sizeof **out, bsi_by_u64);
    return BOMSYNC_OK;
}

bomsync_status bomsync_export(const char *store, const char *feed_name, int64_t generation, const char *as, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bsi_feed *feed = NULL;
    bsi_ref *refs = NULL;
    bsi_kept *kept = NULL;
    uint64_t *skip = NULL;
    size_t count = 0, kept_count = 0, skips = 0;
    bool source = as && strcmp(as, "source") == 0;
    if (as && !source && strcmp(as, "published") != 0)
        return bsi_fail(err, BOMSYNC_E_USAGE, "--as is published or source, not \"%s\"", as);
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_pick_feed(&feed, s, feed_name, err);
    if (!st) st = generation == 0 ? BOMSYNC_OK : bsi_state_at(&refs, &count, s, feed, generation, err);
    if (!st && source) st = bsi_store_kept(&kept, &kept_count, s, feed->name, err);
    if (!st && source) st = kept_keys(&skip, &skips, kept, kept_count);
    if (!st) {
        bsi_table *t = bsi_table_open(&feed->slots);
        bsi_row_source src = {.store = s, .refs = refs, .slot_count = feed->slots.count};
        bsi_row_reader r;
        bsi_row_reader_open(&r, &src);
        bsi_field *f = bsi_alloc(sizeof *f * (feed->slots.count + 1));
        for (size_t i = 0; i < count && !st; i++) {
            bsi_block_rows rows;
            st = bsi_store_rows(&rows, s, refs[i], err);
            for (uint32_t k = 0; k < rows.count && !st; k++) {
                if (bsi_u64_has(skip, skips, rows.kh[k])) continue;
                st = bsi_row_fetch(f, &r, (uint64_t)i << 16 | k, err);
                if (!st) bsi_table_add(t, f);
            }
        }
        for (size_t i = 0; i < kept_count && !st; i++) {
            static const uint8_t none[32];
            if (!kept[i].image || memcmp(kept[i].hold, none, 32) != 0) continue;
            if (bsi_image_fields(f, feed->slots.count, kept[i].image, kept[i].body_bytes, kept[i].image_bytes, kept[i].slot_count)) bsi_table_add(t, f);
        }
        if (!st) st = bsi_table_write(t, out, err);
        free(f);
        bsi_row_reader_close(&r);
        bsi_table_close(t);
    }
    free(refs);
    free(skip);
    bsi_kept_free(kept, kept_count);
    if (feed) bsi_feed_free(feed);
    if (s) bsi_store_close(s);
    return st;
}
