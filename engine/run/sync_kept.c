/* run/sync_kept.c - records that are kept back: what the feed's list of them says after this run.
 *
 *   rows that parse could not read    s->bad      ┐
 *   copies of a key that differ       fates       ├──> s->kept: in the order of the snapshot, each with its place in it
 *   of partitions that were not sent  s->old_kept ┘      since: from the list of before, where it had the same key and rule
 *
 * Most of them come night after night, as the exceptions of before: thousands are usual, so nothing here may look through all for each.
 */
#include <stdlib.h>

#include "flow/join.h"
#include "run/scan_lines.h"
#include "run/sync.h"

/* ---- those of before, by key ---- */

/* Numbers + 1 of the list of before, in open addressing; those of one key in their order. A record without a key that can be read is known by its
 * place in the file. */
typedef struct bsi_kept_index {
    uint64_t mask;
    uint32_t slot[];
} bsi_kept_index;

static uint64_t slot_of(const bsi_kept_index *x, const bsi_kept *k) {
    uint64_t h = (k->key_read ? k->kh : (uint64_t)k->byte) * 0x9e3779b97f4a7c15ull;
    return (h ^ h >> 32) & x->mask;
}

static bsi_kept_index *index_of(const bsi_kept *k, size_t count) {
    uint64_t size = 64;
    while (size < count * 2) size *= 2;
    bsi_kept_index *x = bsi_calloc(1, sizeof *x + size * sizeof *x->slot);
    x->mask = size - 1;
    for (size_t i = 0; i < count; i++) {
        uint64_t h = slot_of(x, &k[i]);
        while (x->slot[h]) h = (h + 1) & x->mask;
        x->slot[h] = (uint32_t)i + 1;
    }
    return x;
}

static bool same_case(const bsi_kept *a, const bsi_kept *b) {
    return a->key_read == b->key_read && a->kh == b->kh && (a->key_read || a->byte == b->byte) && strcmp(a->rule, b->rule) == 0;
}

static const bsi_kept *of_before(bsi_sync *s, const bsi_kept *k) {
    if (!s->old_kept_count) return NULL;
    if (!s->old_kept_index) s->old_kept_index = index_of(s->old_kept, s->old_kept_count);
    const bsi_kept_index *x = s->old_kept_index;
    for (uint64_t h = slot_of(x, k); x->slot[h]; h = (h + 1) & x->mask)
        if (same_case(&s->old_kept[x->slot[h] - 1], k)) return &s->old_kept[x->slot[h] - 1];
    return NULL;
}

void bsi_sync_kept_add(bsi_sync *s, bsi_kept k) {
    const bsi_kept *o = of_before(s, &k);
    if (o) k.since = o->since;
    if (s->kept_count == s->kept_cap) s->kept = bsi_realloc(s->kept, (s->kept_cap = s->kept_cap ? s->kept_cap * 2 : 16) * sizeof *s->kept);
    s->kept[s->kept_count++] = k;
}

/* ---- keys that the state does not have ---- */

/* Of keys that no old row was found for, all that was skipped is searched (sync_twins.c), which takes half as long as reading an unchanged snapshot. A record
 * that is broken night after night and was never published would have that done each time: so it is remembered. What is kept and what is in
 * the state change together. */
static void take_known(const bsi_sync *s, bsi_join_out *out) {
    uint64_t *known = bsi_alloc((s->old_kept_count + 1) * sizeof *known);
    size_t n = 0, left = 0;
    for (size_t i = 0; i < s->old_kept_count; i++)
        if (s->old_kept[i].absent) known[n++] = s->old_kept[i].kh;
    if (n >= out->fresh_count) { /* else there are others, and they are searched together */
        bsi_sort(known, n, sizeof *known, bsi_by_u64);
        for (size_t i = 0; i < out->fresh_count; i++)
            if (!bsi_u64_has(known, n, out->fresh[i])) out->fresh[left++] = out->fresh[i];
        out->fresh_count = left;
    }
    free(known);
}

/* Bad rows whose key no other row has that comes into the state now: a row with too few columns may look as if it had that of a good one. */
static void note_absent(bsi_sync *s, const bsi_join_out *out) {
    uint64_t *kh = bsi_alloc((s->bad_count + 1) * sizeof *kh);
    size_t n = 0, single = 0;
    for (size_t i = 0; i < s->bad_count; i++)
        if (s->bad[i].key_read) kh[n++] = s->bad[i].kh;
    bsi_sort(kh, n, sizeof *kh, bsi_by_u64);
    uint8_t *seen = bsi_calloc(n + 1, 1);
    for (size_t i = 0; n && i < out->fresh_count; i++) {
        const uint64_t *at = bsearch(&out->fresh[i], kh, n, sizeof *kh, bsi_by_u64);
        if (at && seen[at - kh] < 2) seen[at - kh]++;
    }
    for (size_t i = 0; i < n; i++)
        if (seen[i] == 1 && (!i || kh[i - 1] != kh[i]) && (i + 1 == n || kh[i + 1] != kh[i])) kh[single++] = kh[i];
    free(seen);
    free(s->absent);
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
        bsi_kept_row *b = &s->bad[i];
        size_t open = (size_t)(b->place >> 16);
        bsi_scan_file *f = &s->scan.file[s->scan.block[open].file];
        bsi_kept k = {.kh = b->kh, .key_read = b->key_read, .rule = bsi_strdup(bsi_rule_name(b->rule)), .byte = (int64_t)b->byte,
                      .line = bsi_scan_lines_to(&w, open, b->byte, b->line_ends), .file = bsi_strdup(bsi_source_path(f->source)),
                      .partition = bsi_strdup(b->partition ? b->partition : ""), .value = b->value, .since = s->effective_time,
                      .slot_count = s->feed->slots.count, .image = b->image, .image_bytes = b->image_bytes, .body_bytes = b->body_bytes};
        k.absent = b->key_read && !(s->fate[b->index] & BSI_FATE_MATCHED) && bsi_u64_has(s->absent, s->absent_count, b->kh);
        b->value = NULL; /* k's */
        b->image = NULL;
        if (b->column != UINT32_MAX && b->column < f->layout->column_count) k.column = bsi_strdup(f->layout->column_name[b->column]);
        bsi_sync_kept_add(s, k);
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
            bsi_kept k = {.kh = r.rows.kh[row], .key_read = true, .rule = bsi_strdup(bsi_rule_name(BSI_RULE_DUPLICATE)),
                          .byte = (int64_t)(b->offset + raw), .line = bsi_scan_lines_to(&w, i, b->offset + raw, before),
                          .file = bsi_strdup(bsi_source_path(src)), .partition = bsi_strndup((const char *)p.p, p.len),
                          .value = bsi_strndup((const char *)r.raw + raw, len), .since = s->effective_time,
                          .slot_count = s->feed->slots.count, .image = bsi_alloc(bytes + 1), .image_bytes = bytes,
                          .body_bytes = r.rows.body[row]};
            memcpy(k.image, r.rows.enc.data + r.rows.image[row], bytes);
            bsi_sync_kept_add(s, k);
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
    uint64_t *spoken = bsi_alloc((s->kept_count + 1) * sizeof *spoken); /* keys of now: not those that are added below, as a key may have several */
    size_t n = 0;
    for (size_t i = 0; i < s->kept_count; i++)
        if (s->kept[i].key_read) spoken[n++] = s->kept[i].kh;
    bsi_sort(spoken, n, sizeof *spoken, bsi_by_u64);
    for (size_t i = 0; i < s->old_kept_count; i++) {
        bsi_kept *o = &s->old_kept[i];
        if (kept_in_scope(s, o) || (o->key_read && bsi_u64_has(spoken, n, o->kh))) continue;
        bsi_kept k = *o;
        k.absent = false; /* nobody looked */
        k.rule = bsi_strdup(o->rule);
        k.partition = bsi_strdup(o->partition);
        k.file = o->file ? bsi_strdup(o->file) : NULL;
        k.column = o->column ? bsi_strdup(o->column) : NULL;
        k.value = o->value ? bsi_strdup(o->value) : NULL;
        k.image = o->image ? bsi_alloc(o->image_bytes + 1) : NULL;
        if (k.image) memcpy(k.image, o->image, o->image_bytes);
        bsi_sync_kept_add(s, k);
    }
    free(spoken);
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

static bool same_text(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

static bool same_bytes(const uint8_t *a, uint32_t a_bytes, const uint8_t *b, uint32_t b_bytes) {
    return !a == !b && a_bytes == b_bytes && (!a || memcmp(a, b, a_bytes) == 0);
}

static bool same(const bsi_kept *a, const bsi_kept *b) {
    return same_case(a, b) && a->byte == b->byte && a->line == b->line && a->absent == b->absent && a->since == b->since && a->slot_count == b->slot_count && a->body_bytes == b->body_bytes &&
           memcmp(a->hold, b->hold, sizeof a->hold) == 0 && same_bytes(a->image, a->image_bytes, b->image, b->image_bytes) &&
           same_text(a->partition, b->partition) && same_text(a->file, b->file) && same_text(a->column, b->column) && same_text(a->value, b->value);
}

bool bsi_sync_kept_changed(const bsi_sync *s) {
    if (s->kept_count != s->old_kept_count) return true;
    for (size_t i = 0; i < s->kept_count; i++)
        if (!same(&s->kept[i], &s->old_kept[i])) return true;
    return false;
}
