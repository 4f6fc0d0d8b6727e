/* run/sync_kept.c - records that are kept back: what the feed's list of them says after this run.
 *
 *   rows that parse could not read    s->bad      ┐
 *   copies of a key that differ       fates       ├──> s->kept: in the order of the snapshot, each with its place in it
 *   of partitions that were not sent  s->old_kept ┘      since: from the list of before, where it had the same key and rule
 *
 * Most of them come night after night, as the exceptions of before: thousands are usual, so nothing here may look through all for each.
 */
#include <stdlib.h>

#include "core/vast.h"
#include "flow/join.h"
#include "run/scan_lines.h"
#include "run/sync.h"

/* ---- rows that parse could not read ---- */

static void *copy_to(bsi_arena *a, const void *p, size_t n) {
    void *to = bsi_arena_take(a, n);
    if (n) memcpy(to, p, n);
    return to;
}

static const char *copy_text(bsi_arena *a, const char *text) { return text ? copy_to(a, text, strlen(text) + 1) : NULL; }

void bsi_sync_bad_add(bsi_sync *s, const bsi_kept_row *k) {
    if (s->bad_count == s->bad_cap) s->bad = bsi_vast_realloc(s->bad, (s->bad_cap = s->bad_cap ? s->bad_cap * 2 : 16) * sizeof *s->bad);
    bsi_kept_row *b = &s->bad[s->bad_count++];
    *b = *k;
    b->partition = copy_text(&s->bad_bytes, k->partition);
    b->value = copy_text(&s->bad_bytes, k->value);
    if (k->image) b->image = copy_to(&s->bad_bytes, k->image, k->image_bytes);
}

/* ---- those of before, by key ---- */

/* Places in the list of before, in open addressing; those of one key in their order. 0: free. A record without a key that can be read is known by
 * its place in the file. */
typedef struct bsi_kept_index {
    uint64_t mask;
    bsi_kept_walk walk; /* that looks at them */
    uint64_t slot[];
} bsi_kept_index;

static uint64_t slot_of(const bsi_kept_index *x, const bsi_kept *k) {
    uint64_t h = (k->key_read ? k->kh : (uint64_t)k->byte) * 0x9e3779b97f4a7c15ull;
    return (h ^ h >> 32) & x->mask;
}

static bsi_kept_index *index_of(const bsi_kept_list *l) {
    uint64_t size = 64;
    while (size < l->count * 2) size *= 2;
    bsi_kept_index *x = bsi_vast_calloc(1, sizeof *x + size * sizeof *x->slot);
    x->mask = size - 1;
    x->walk.list = l;
    bsi_kept_walk w = {.list = l};
    for (const bsi_kept *k; (k = bsi_kept_next(&w));) {
        uint64_t h = slot_of(x, k);
        while (x->slot[h]) h = (h + 1) & x->mask;
        x->slot[h] = w.place;
    }
    return x;
}

static bool same_case(const bsi_kept *a, const bsi_kept *b) {
    return a->key_read == b->key_read && a->kh == b->kh && (a->key_read || a->byte == b->byte) && strcmp(a->rule, b->rule) == 0;
}

/* Since when it was so before; -1: it was not. */
static int64_t since_before(bsi_sync *s, const bsi_kept *k) {
    if (!s->old_kept.count) return -1;
    if (!s->old_kept_index) s->old_kept_index = index_of(&s->old_kept);
    bsi_kept_index *x = s->old_kept_index;
    for (uint64_t h = slot_of(x, k); x->slot[h]; h = (h + 1) & x->mask) {
        const bsi_kept *o = bsi_kept_at(&x->walk, x->slot[h]);
        if (o && same_case(o, k)) return o->since;
    }
    return -1;
}

void bsi_sync_kept_index_close(bsi_sync *s) {
    if (s->old_kept_index) bsi_kept_walk_end(&s->old_kept_index->walk);
    bsi_vast_free(s->old_kept_index);
}

void bsi_sync_kept_add(bsi_sync *s, bsi_kept *k) {
    int64_t since = since_before(s, k);
    if (since >= 0) k->since = since;
    bsi_kept_put(&s->kept, k);
    s->exceptions += bsi_kept_is_exception(k);
}

/* ---- keys that the state does not have ---- */

/* Of keys that no old row was found for, all that was skipped is searched (sync_twins.c), which takes half as long as reading an unchanged snapshot. A record
 * that is broken night after night and was never published would have that done each time: so it is remembered. What is kept and what is in
 * the state change together. */
static void take_known(const bsi_sync *s, bsi_join_out *out) {
    uint64_t *known = bsi_vast_alloc((s->old_kept.count + 1) * sizeof *known);
    size_t n = 0, left = 0;
    bsi_kept_walk w = {.list = &s->old_kept};
    for (const bsi_kept *k; (k = bsi_kept_next(&w));)
        if (k->absent) known[n++] = k->kh;
    if (n >= out->fresh_count) { /* else there are others, and they are searched together */
        bsi_sort(known, n, sizeof *known, bsi_by_u64);
        for (size_t i = 0; i < out->fresh_count; i++)
            if (!bsi_u64_has(known, n, out->fresh[i])) out->fresh[left++] = out->fresh[i];
        out->fresh_count = left;
    }
    bsi_vast_free(known);
}

/* Bad rows whose key no other row has that comes into the state now: a row with too few columns may look as if it had that of a good one. */
static void note_absent(bsi_sync *s, const bsi_join_out *out) {
    uint64_t *kh = bsi_vast_alloc((s->bad_count + 1) * sizeof *kh);
    size_t n = 0, single = 0;
    for (size_t i = 0; i < s->bad_count; i++)
        if (s->bad[i].key_read) kh[n++] = s->bad[i].kh;
    bsi_sort(kh, n, sizeof *kh, bsi_by_u64);
    uint8_t *seen = bsi_vast_calloc(n + 1, 1);
    for (size_t i = 0; n && i < out->fresh_count; i++) {
        const uint64_t *at = bsearch(&out->fresh[i], kh, n, sizeof *kh, bsi_by_u64);
        if (at && seen[at - kh] < 2) seen[at - kh]++;
    }
    for (size_t i = 0; i < n; i++)
        if (seen[i] == 1 && (!i || kh[i - 1] != kh[i]) && (i + 1 == n || kh[i + 1] != kh[i])) kh[single++] = kh[i];
    bsi_vast_free(seen);
    bsi_vast_free(s->absent);
    s->absent = kh;
    s->absent_count = single;
}

void bsi_sync_kept_find(bsi_sync *s, bsi_join_out *out) {
    if (!s->bad_count) return;
    note_absent(s, out);
    take_known(s, out);
}

/* ---- those of now ---- */

static void keep_exceptions(bsi_sync *s) {
    bsi_scan_lines_walk w = {.scan = &s->scan, .image = &s->image};
    for (size_t i = 0; i < s->bad_count; i++) {
        const bsi_kept_row *b = &s->bad[i];
        size_t open = (size_t)(b->place >> 16);
        bsi_scan_file *f = &s->scan.file[s->scan.block[open].file];
        bsi_kept k = {.kh = b->kh, .key_read = b->key_read, .rule = bsi_rule_name(b->rule), .byte = (int64_t)b->byte,
                      .line = bsi_scan_lines_to(&w, open, b->byte, b->line_ends), .file = bsi_source_path(f->source),
                      .partition = b->partition ? b->partition : "", .value = b->value, .since = s->effective_time,
                      .slot_count = s->feed->slots.count, .image = b->image, .image_bytes = b->image_bytes, .body_bytes = b->body_bytes};
        k.absent = b->key_read && !(s->fate[b->index] & BSI_FATE_MATCHED) && bsi_u64_has(s->absent, s->absent_count, b->kh);
        if (b->column != UINT32_MAX && b->column < f->layout->column_count) k.column = f->layout->column_name[b->column];
        bsi_sync_kept_add(s, &k);
    }
    bsi_scan_lines_end(&w);
}

static bomsync_status keep_conflicts(bsi_sync *s, bomsync_error *err) {
    if (!s->conflicts) return BOMSYNC_OK;
    bsi_rows **parsed = s->scan.parsed;
    s->scan.parsed = NULL; /* the raw text is wanted, too */
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_reader r;
    bsi_row_reader_open(&r, &now);
    bsi_field *f = bsi_alloc(sizeof *f * now.slot_count);
    bsi_scan_lines_walk w = {.scan = &s->scan, .image = &s->image};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < s->open_count && !st; i++)
        for (uint64_t n = s->row_base[i]; n < s->row_base[i + 1] && !st; n++) {
            if (!(s->fate[n] & BSI_FATE_CONFLICT) || (s->fate[n] & BSI_FATE_BAD)) continue;
            uint32_t row = (uint32_t)(n - s->row_base[i]);
            bsi_scan_block *b = &s->scan.block[i];
            st = bsi_row_fetch(f, &r, (uint64_t)i << 16 | row, err);
            if (st) break;
            bsi_source *src = s->scan.file[b->file].source;
            bsi_field p = bsi_change_partition(&s->feed->slots, f);
            uint32_t raw = r.rows.raw[row], bytes = r.rows.image[row + 1] - r.rows.image[row];
            uint32_t len = BSI_MIN(r.rows.raw[row + 1] - raw, 100u);
            bool cr = false;
            int64_t before = bsi_line_ends(&cr, r.raw, raw);
            while (len && (r.raw[raw + len - 1] == '\n' || r.raw[raw + len - 1] == '\r')) len--;
            char *partition = bsi_strndup((const char *)p.p, p.len), *value = bsi_strndup((const char *)r.raw + raw, len);
            bsi_kept k = {.kh = r.rows.kh[row], .key_read = true, .rule = bsi_rule_name(BSI_RULE_DUPLICATE),
                          .byte = (int64_t)(b->offset + raw), .line = bsi_scan_lines_to(&w, i, b->offset + raw, before),
                          .file = bsi_source_path(src), .partition = partition, .value = value, .since = s->effective_time,
                          .slot_count = s->feed->slots.count, .image = r.rows.enc.data + r.rows.image[row], .image_bytes = bytes,
                          .body_bytes = r.rows.body[row]};
            bsi_sync_kept_add(s, &k);
            free(partition);
            free(value);
        }
    bsi_scan_lines_end(&w);
    free(f);
    bsi_row_reader_close(&r);
    s->scan.parsed = parsed;
    return st;
}

/* ---- those that the snapshot does not speak of ---- */

static bool kept_in_scope(const bsi_sync *s, const bsi_kept *k) {
    if (!s->scope) return true;
    for (size_t i = 0; i < s->scope_count; i++)
        if (strcmp(s->scope[i], k->partition) == 0) return true;
    return false;
}

/* A snapshot of a part leaves what it does not speak of as it was: exceptions and holds of other partitions. */
static void keep_unspoken(bsi_sync *s) {
    if (!s->scope) return;
    uint64_t *spoken = bsi_vast_alloc((s->kept.count + 1) * sizeof *spoken); /* keys of now: not those that are added below, as a key may have several */
    size_t n = 0;
    bsi_kept_walk now = {.list = &s->kept}, before = {.list = &s->old_kept};
    for (const bsi_kept *k; (k = bsi_kept_next(&now));)
        if (k->key_read) spoken[n++] = k->kh;
    bsi_sort(spoken, n, sizeof *spoken, bsi_by_u64);
    for (const bsi_kept *o; (o = bsi_kept_next(&before));) {
        if (kept_in_scope(s, o) || (o->key_read && bsi_u64_has(spoken, n, o->kh))) continue;
        bsi_kept k = *o;
        k.absent = false; /* nobody looked */
        bsi_sync_kept_add(s, &k);
    }
    bsi_vast_free(spoken);
    for (size_t i = 0; i < s->old_hold_count; i++) {
        bsi_hold *o = &s->old_hold[i];
        bool mine = !o->partition[0];
        for (size_t k = 0; k < s->scope_count; k++) mine |= strcmp(s->scope[k], o->partition) == 0;
        if (mine) continue;
        s->hold = bsi_realloc(s->hold, (s->hold_count + 1) * sizeof *s->hold);
        s->hold[s->hold_count++] = (bsi_hold){.feed = bsi_strdup(o->feed), .partition = bsi_strdup(o->partition), .rule = bsi_strdup(o->rule),
                                              .changes = o->changes, .since = o->since, .state = bsi_strdup(o->state),
                                              .by = o->by ? bsi_strdup(o->by) : NULL, .why = o->why ? bsi_strdup(o->why) : NULL};
        memcpy(s->hold[s->hold_count - 1].digest, o->digest, 32);
    }
}

/* ---- the list ---- */

bomsync_status bsi_sync_keep_back(bsi_sync *s, bomsync_error *err) {
    if (s->all_held) return BOMSYNC_OK;
    keep_exceptions(s);
    bomsync_status st = keep_conflicts(s, err);
    keep_unspoken(s);
    return st;
}
