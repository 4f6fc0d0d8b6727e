/* run/diff_blocks.c - two files of any kind, in any order.
 *
 *   OLD -> cut, fingerprint -> an image in memory        NEW -> cut, fingerprint, matched with that image
 *   blocks that match are equal; their keys are still hashed once, because a key that stands twice must be found
 *   wherever its copies are.
 *   blocks that do not match are joined record by record; if they are most of NEW, what differs in them is found first (diff_reconcile.c).
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/diff_inner.h"
#include "run/scan_probe.h"

enum { PIECE_ENTRIES = 64, SPAN_BYTES = 64 << 10 };

/* ---- keys that stand more than once ---- */

typedef struct stretch { /* of a matched run: what one task looks at */
    const bsi_scan_run *run;
    uint64_t first, count; /* entries, from the run's first */
    uint64_t before, bytes;
} stretch;

typedef struct key_run {
    bsi_diff_run *d;
    bsi_image image;         /* of OLD, in memory */
    bsi_image_entry *entry;
    bsi_image_piece *piece;
    size_t piece_count;
    stretch *stretch;
    size_t count, cap;
    bsi_twins *twins;      /* first pass: where the keys go */
    bsi_diff_keys dup;     /* second pass: keys to find */
    uint8_t *hit;          /* [entries] blocks to look at after all */
    atomic_bool any_hit;
    atomic_flag lock;
    bsi_rows *rows;        /* [workers] */
    bsi_buf *buf;          /* [workers] */
    bomsync_status status;
    bomsync_error *err;
} key_run;

static void plan_stretches(key_run *r) {
    const bsi_scan *scan = &r->d->now.scan;
    bsi_image_walk w = {.image = &r->image};
    for (size_t i = 0; i < scan->run_count; i++) {
        const bsi_scan_run *run = &scan->run[i];
        stretch s = {.run = run};
        for (uint64_t k = 0; run->matched && k < run->count; k++) {
            uint32_t bytes = bsi_image_next(&w, run->first + k)->bytes;
            s.count++;
            s.bytes += bytes;
            if (s.bytes < SPAN_BYTES && k + 1 < run->count) continue;
            if (r->count == r->cap) r->stretch = bsi_realloc(r->stretch, (r->cap = r->cap ? r->cap * 2 : 64) * sizeof *r->stretch);
            r->stretch[r->count++] = s;
            s = (stretch){.run = run, .first = k + 1, .before = s.before + s.bytes};
        }
    }
}

static bool wanted(const key_run *r, const bsi_rows *w) {
    for (uint32_t i = 0; i < w->count; i++)
        if (bsi_diff_keys_has(&r->dup, w->kh[i])) return true;
    return false;
}

/* Block by block: those with a record that cannot be read, or with a key that is looked for. */
static void mark_blocks(key_run *r, const bsi_layout *layout, uint64_t entry, uint64_t count, bsi_rows *w, const uint8_t *p) {
    bsi_image_walk walk = {.image = &r->image};
    for (uint64_t end = entry + count; entry < end; entry++) {
        uint32_t bytes = bsi_image_next(&walk, entry)->bytes;
        bsi_parse_block(w, layout, &r->d->secret, p, bytes, true);
        p += bytes;
        if (!w->bad_count && !(r->dup.count && wanted(r, w))) continue;
        r->hit[entry] = 1;
        atomic_store(&r->any_hit, true);
    }
}

static void note_fault(key_run *r, bomsync_status st, const bomsync_error *err) {
    while (st && atomic_flag_test_and_set(&r->lock)) {}
    if (st && !r->status) {
        r->status = st;
        *r->err = *err;
    }
    if (st) atomic_flag_clear(&r->lock);
}

/* Second pass: the blocks that hold a key that stands twice. */
static void keys_task(void *ctx, size_t index) {
    key_run *r = ctx;
    const stretch *s = &r->stretch[index];
    bsi_buf *buf = &r->buf[bsi_lane()];
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = bsi_scan_range(&r->d->now.scan, s->run, s->before, s->bytes, buf, &err);
    if (!st) mark_blocks(r, r->d->now.scan.file[s->run->file].layout, s->run->first + s->first, s->count, &r->rows[bsi_lane()], buf->data);
    note_fault(r, st, &err);
}

/* First pass, while NEW is scanned: the keys of blocks that OLD has, too. Blocks that the scan drops again only add keys that
 * seem to stand twice: more is looked at then, nothing is missed. */
static void take_keys(void *ctx, const bsi_layout *layout, uint64_t first, uint64_t count, const uint8_t *p) {
    key_run *r = ctx;
    bsi_rows *w = &r->rows[bsi_lane()];
    bsi_image_walk walk = {.image = &r->image};
    while (count) {
        uint64_t n = 0, bytes = 0;
        while (n < count && bytes < SPAN_BYTES) bytes += bsi_image_next(&walk, first + n++)->bytes;
        bsi_parse_block(w, layout, &r->d->secret, p, bytes, true);
        uint32_t good = 0;
        for (uint32_t i = 0, bad = 0; i < w->count; i++)
            if (!w->bad[i] || w->bads[bad++].key_read) w->kh[good++] = w->kh[i];
        bomsync_error err = BOMSYNC_ERROR_INIT;
        note_fault(r, bsi_twins_add(r->twins, bsi_lane(), w->kh, good, &err), &err);
        if (w->bad_count) mark_blocks(r, layout, first, n, w, p);
        first += n;
        count -= n;
        p += bytes;
    }
}

static bool is_hit(void *ctx, uint64_t index, const bsi_image_entry *e) {
    (void)e;
    return ((const uint8_t *)ctx)[index];
}

/* Keys that stand more than once in NEW, and those of probe that matched blocks have. */
static bomsync_status find_twins(key_run *r, const uint64_t *probe, size_t probes, bomsync_error *err) {
    uint64_t *dup = NULL;
    size_t dups = 0;
    if (r->status) return r->status;
    bomsync_status st = bsi_twins_find(&dup, &dups, r->twins, probe, probes, r->d->workers, err);
    uint64_t *kh = st ? NULL : bsi_vast_alloc((dups + 1) * sizeof *kh);
    if (kh && dups) memcpy(kh, dup, dups * sizeof *kh);
    if (kh) bsi_diff_keys_make(&r->dup, kh, dups);
    free(dup);
    return st;
}

/* Matched blocks that hold a key that stands elsewhere too, or a record that cannot be read, are compared record by record
 * after all. *opened: there were some. */
static bomsync_status open_twins(key_run *r, bool *opened) {
    bsi_diff_run *d = r->d;
    if (r->dup.count) {
        plan_stretches(r);
        bsi_parallel(d->workers, r->count, keys_task, r);
    }
    *opened = !r->status && atomic_load(&r->any_hit);
    if (!*opened) return r->status;
    for (uint64_t i = 0; i < r->image.count; i++)
        if (r->hit[i]) d->old.scan.block[i].tag = BSI_NO_TAG;
    bsi_scan_forget(&d->now.scan);
    bsi_scan_reopen(&d->now.scan, &r->image, is_hit, r->hit);
    return BOMSYNC_OK;
}

static void key_run_init(key_run *r, bsi_diff_run *d, bomsync_error *err) {
    *r = (key_run){.d = d, .lock = ATOMIC_FLAG_INIT, .err = err};
    r->rows = bsi_calloc((size_t)d->workers, sizeof *r->rows);
    r->buf = bsi_calloc((size_t)d->workers, sizeof *r->buf);
    r->twins = bsi_twins_open(d->workers, d->memory_bytes / 2, d->tmp);
}

static void key_run_release(key_run *r) {
    for (int i = 0; i < r->d->workers; i++) {
        bsi_rows_free(&r->rows[i]);
        bsi_buf_free(&r->buf[i]);
    }
    bsi_twins_close(r->twins);
    free(r->rows);
    free(r->buf);
    free(r->stretch);
    bsi_diff_keys_free(&r->dup);
    free(r->hit);
    bsi_vast_free(r->entry);
    free(r->piece);
}

/* ---- the blocks of both ---- */

static void image_task(void *ctx, size_t index) {
    key_run *r = ctx;
    const bsi_image_piece *p = &r->piece[index];
    for (uint64_t i = p->first; i < p->first + p->count; i++) {
        const bsi_scan_block *b = &r->d->old.scan.block[i];
        bool usable = b->records && !(b->flags & (BSI_CUT_OVERSIZE | BSI_CUT_NO_LINE_END));
        r->entry[i] = (bsi_image_entry){.fp = b->fp, .plain = b->plain, .ref = i, .bytes = b->bytes, .records = b->records, .blanks = b->blanks,
                                        .flags = (usable ? BSI_IMAGE_EXACT : 0u) | (b->flags & BSI_CUT_LONE_CR ? BSI_IMAGE_LONE_CR : 0u) |
                                                 (b->flags & BSI_CUT_AT_END ? BSI_IMAGE_AT_END : 0u)};
    }
}

/* Of OLD. In pieces, which let the scan split the work. */
static void make_image(key_run *r) {
    size_t n = r->d->old.scan.block_count;
    r->entry = bsi_vast_alloc(sizeof *r->entry * (n + 1));
    r->piece_count = (n + PIECE_ENTRIES - 1) / PIECE_ENTRIES;
    r->piece = bsi_alloc(sizeof *r->piece * (r->piece_count + 1));
    for (size_t i = 0; i < r->piece_count; i++)
        r->piece[i] = (bsi_image_piece){.entry = r->entry + i * PIECE_ENTRIES, .first = i * PIECE_ENTRIES,
                                        .count = (uint32_t)BSI_MIN((size_t)PIECE_ENTRIES, n - i * PIECE_ENTRIES)};
    bsi_parallel(r->d->workers, r->piece_count, image_task, r);
    r->image = (bsi_image){.piece = r->piece, .piece_count = r->piece_count, .count = n};
}

static bomsync_status most_known(bool *known, bsi_diff_run *d, const bsi_scan_options *so, bomsync_error *err) {
    const bsi_scan_probe_options o = {so->image, &d->secret, d->o->read.isa, so->block_size, d->workers};
    *known = true;
    if (d->old.scan.file[0].records < BSI_RECONCILE_RECORDS || !bsi_scan_may_probe(&d->now.scan)) return BOMSYNC_OK;
    return bsi_scan_probe(known, &d->now.scan, &o, err);
}

static bomsync_status scan_both(bsi_diff_run *d, key_run *keys, bomsync_error *err) {
    const bomsync_read_options *ro = &d->o->read;
    bsi_scan_options so = {.read = ro, .isa = d->isa, .workers = d->workers, .block_size = bsi_block_size_of(ro->block_records),
                           .tier_block = strstr(d->tiers, "block") != NULL, .tier_sequence = strstr(d->tiers, "sequence") != NULL, .secret = &d->secret,
                           .tmp = d->tmp, .keep_stream_bytes = true, .no_plain = true};
    bomsync_status st = bsi_scan_blocks(&d->old.scan, &so, err);
    if (st) return st;
    make_image(keys);
    so.image = &keys->image;
    keys->hit = bsi_calloc(keys->image.count + 1, 1);
    so.matched = take_keys;
    so.matched_ctx = keys;
    bool known = true;
    if (so.tier_block && keys->image.count) st = most_known(&known, d, &so, err);
    if (!known) so.image = NULL; /* looking for each block would take longer than reading NEW */
    if (!st) st = bsi_scan_blocks(&d->now.scan, &so, err);
    if (!st) st = keys->status;
    for (size_t i = 0; i < d->now.scan.run_count && !st; i++) {
        const bsi_scan_run *r = &d->now.scan.run[i];
        for (uint64_t k = r->first; r->matched && k < r->first + r->count; k++) d->old.scan.block[k].tag = BSI_DIFF_SETTLED;
    }
    return st;
}

static bomsync_status parse_both(bsi_diff_run *d, bomsync_error *err) {
    bomsync_status st = bsi_diff_parse(d, &d->old, err);
    return st ? st : bsi_diff_parse(d, &d->now, err);
}

static bool any_matched(const bsi_scan *scan) {
    for (size_t i = 0; i < scan->run_count; i++)
        if (scan->run[i].matched) return true;
    return false;
}

/* All rows of open blocks. */
static bomsync_status take_open(bsi_diff_run *d, key_run *keys, bomsync_error *err) {
    bomsync_status st = parse_both(d, err);
    if (st || !any_matched(&d->now.scan)) return st;
    size_t probes;
    bool opened = false;
    uint64_t *probe = bsi_diff_open_keys(d, &probes, false);
    st = find_twins(keys, probe, probes, err);
    free(probe);
    if (!st) st = open_twins(keys, &opened);
    return !st && opened ? parse_both(d, err) : st;
}

/* Those that may differ alone. */
static bomsync_status take_left(bsi_diff_run *d, key_run *keys, bsi_diff_reconcile *r, bomsync_error *err) {
    bool opened, matched = any_matched(&d->now.scan);
    bomsync_status st = find_twins(keys, d->keys.kh, matched ? d->keys.count : 0, err); /* else those of NEW are in open blocks in any case */
    if (st) return st;
    size_t n = d->keys.count, more = keys->dup.count;
    uint64_t *kh = bsi_vast_alloc((n + more + 1) * sizeof *kh);
    if (n) memcpy(kh, d->keys.kh, n * sizeof *kh);
    if (more) memcpy(kh + n, keys->dup.kh, more * sizeof *kh);
    bsi_diff_keys_make(&d->keys, kh, n + more);
    bsi_diff_reconcile_settle(r);
    st = matched ? open_twins(keys, &opened) : BOMSYNC_OK;
    return st ? st : parse_both(d, err);
}

bomsync_status bsi_diff_blocks(bsi_diff_run *d, bomsync_error *err) {
    key_run keys;
    bsi_diff_reconcile *left = NULL;
    key_run_init(&keys, d, err);
    bomsync_status st = scan_both(d, &keys, err);
    d->records_old = d->old.scan.file[0].records;
    d->records_new = d->now.scan.file[0].records;
    if (!st) st = bsi_diff_reconcile_open(&left, d, keys.twins, err);
    if (!st) st = left ? take_left(d, &keys, left, err) : take_open(d, &keys, err);
    bsi_diff_reconcile_close(left);
    key_run_release(&keys);
    for (size_t i = 0; i < d->now.scan.run_count; i++)
        if (d->now.scan.run[i].matched) d->same_records += (int64_t)d->now.scan.run[i].records;
    d->same_records += d->now.same_rows;
    return st;
}
