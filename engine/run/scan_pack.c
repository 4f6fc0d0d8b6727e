/* run/scan_pack.c - a packed snapshot against the image: fingerprints against fingerprints.
 *
 *   index of the pack   [ plain, bytes, records | plain, ...      image   [ fp, plain, bytes, records | ...
 *                             └────────────── equal: the block is known, nothing is read ──────┘
 *                               not equal: its frame is decompressed, its digest checked, its fingerprint taken,
 *                               its bytes kept for parse in the spill file, as those of a stream are
 *
 * Matching goes as in scan_cursor.c: the entry behind the last match, a few entries ahead, then all of them.
 *
 * An image entry stands for bytes *under a layout*, and that is mixed into fp, not into plain. Whether the image was
 * made under the layout of this run must be known before plain may be compared: the snapshot digest says it, since it
 * covers the layouts and then the plain digests of all blocks. If the layouts of this run and the plain digests of the
 * image make the digest that the store remembers, the image was made under these layouts; and if all files have the
 * same one, every entry was. Otherwise the index is not used, and no harm is done but to speed.
 *
 * The index is believed as `pack` wrote it (engine/read/FORMAT.md); --verify-pack reads everything instead.
 */
#include "run/scan_pack.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/scan_inner.h"

#define NO_MATCH UINT32_MAX

enum { LOOK_AHEAD = 32, LOST_AFTER = 8 };

struct bsi_scan_pack_image {
    const bsi_image *image;
    bool fits;          /* made under the layout that all files of this scan have */
    uint32_t *slot;     /* index + 1 of exact entries by plain, made when first needed */
    uint64_t mask;
    uint8_t *taken;     /* entries that a pack has matched */
    size_t piece;       /* of the entry looked at last */
    uint64_t next;      /* entry expected next */
    unsigned lost;
};

static const bsi_image_entry *entry_at(bsi_scan_pack_image *m, uint64_t i) {
    const bsi_image *im = m->image;
    if (i >= im->count) return NULL;
    while (i < im->piece[m->piece].first) m->piece--;
    while (i >= im->piece[m->piece].first + im->piece[m->piece].count) m->piece++;
    return &im->piece[m->piece].entry[i - im->piece[m->piece].first];
}

/* ---- may the image be compared by plain? ---- */

static bool one_layout(const bsi_scan *scan, uint32_t file) {
    for (size_t f = 0; f < scan->file_count; f++)
        if (scan->file[f].layout && memcmp(scan->file[f].layout->digest, scan->file[file].layout->digest, 32) != 0) return false;
    return true;
}

static bool made_under(const bsi_scan *scan, const bsi_image *im, const uint8_t want[32]) {
    bsi_sha *h = bsi_sha_open();
    bsi_hash128 part[256];
    size_t n = 0;
    uint8_t got[32];
    for (size_t f = 0; f < scan->file_count; f++)
        if (scan->file[f].layout) bsi_sha_add(h, scan->file[f].layout->digest, 32);
    for (size_t p = 0; p < im->piece_count; p++)
        for (uint32_t i = 0; i < im->piece[p].count; i++) {
            part[n++] = im->piece[p].entry[i].plain;
            if (n < 256) continue;
            bsi_sha_add(h, part, sizeof part);
            n = 0;
        }
    bsi_sha_add(h, part, n * sizeof *part);
    bsi_sha_close(h, got);
    return memcmp(got, want, 32) == 0;
}

static bsi_scan_pack_image *open_image(const bsi_scan *scan, uint32_t file, const bsi_scan_options *o) {
    bsi_scan_pack_image *m = bsi_calloc(1, sizeof *m);
    m->image = o->image;
    m->taken = bsi_calloc(o->image->count / 8 + 1, 1);
    m->fits = o->image_digest && one_layout(scan, file) && made_under(scan, o->image, o->image_digest);
    return m;
}

void bsi_scan_pack_image_free(bsi_scan_pack_image *m) {
    if (!m) return;
    bsi_vast_free(m->slot);
    free(m->taken);
    free(m);
}

/* ---- matching ---- */

static bool same(const bsi_image_entry *e, const bsi_pack_block *b) {
    if (!bsi_hash128_eq(e->plain, b->plain) || !(e->flags & BSI_IMAGE_EXACT)) return false;
    uint32_t flags = (e->flags & BSI_IMAGE_AT_END ? BSI_CUT_AT_END : 0u) | (e->flags & BSI_IMAGE_LONE_CR ? BSI_CUT_LONE_CR : 0u);
    return e->bytes == b->bytes && e->records == b->records && e->blanks == b->blanks && flags == b->flags;
}

static bool taken(const bsi_scan_pack_image *m, uint64_t i) {
    return m->taken[i >> 3] >> (i & 7) & 1;
}

/* Each entry once, the first block in order takes it. */
static bool find(bsi_scan_pack_image *m, uint64_t *found, const bsi_pack_block *b, bool sequence) {
    for (uint64_t i = m->next; i < m->next + (sequence ? LOOK_AHEAD : 1); i++) {
        const bsi_image_entry *e = entry_at(m, i);
        if (!e) break;
        if (e->plain.lo != b->plain.lo || !same(e, b) || taken(m, i)) continue;
        *found = i;
        return true;
    }
    if (m->lost++ < LOST_AFTER && sequence) return false;
    if (!m->slot) m->slot = bsi_image_slots(&m->mask, m->image, true);
    for (uint64_t h = b->plain.lo & m->mask; m->slot[h]; h = (h + 1) & m->mask) {
        uint64_t i = m->slot[h] - 1;
        if (taken(m, i) || !same(bsi_image_at(m->image, i), b)) continue;
        *found = i;
        return true;
    }
    return false;
}

static uint32_t match(bsi_scan_pack_image *m, const bsi_pack_block *b, bool sequence) {
    uint64_t i;
    if (!find(m, &i, b, sequence)) return NO_MATCH;
    m->taken[i >> 3] |= (uint8_t)(1u << (i & 7));
    m->next = i + 1;
    m->lost = 0;
    return (uint32_t)i;
}

/* ---- blocks that are not known ---- */

typedef struct read_run {
    bsi_scan_file *f;
    uint32_t file;
    const bsi_scan_options *o;
    const bsi_pack *pack;
    bsi_scan_block *block;
    uint32_t *match;
    size_t *first;       /* [frames + 1] first block of each frame */
    size_t *frame;       /* frames to be read */
    size_t count;
    atomic_size_t fault; /* first of those that could not be */
} read_run;

static bomsync_status refuse_block(const read_run *r, size_t frame, const bsi_scan_block *b, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "a block in frame %zu of the pack is not what the index of the pack says", frame);
    bsi_at(err, bsi_source_path(r->f->source), (int64_t)b->offset, -1, NULL, NULL, 0);
    bsi_hint(err, "nothing was changed; pack the snapshot again, or read it with --verify-pack");
    return BOMSYNC_E_REFUSED;
}

static bomsync_status read_frame(read_run *r, size_t frame, bomsync_error *err) {
    const bsi_pack_frame *f = &r->pack->frame[frame];
    uint8_t *text = bsi_alloc(f->content + 64u);
    size_t kept = 0; /* bytes of unknown blocks, moved together to the front */
    bomsync_status st = bsi_source_pack_frame(r->f->source, frame, text, err);
    for (size_t i = r->first[frame]; i < r->first[frame + 1] && !st; i++) {
        bsi_scan_block *b = &r->block[i];
        if (r->match[i] != NO_MATCH) continue;
        const uint8_t *p = text + (b->offset - f->content_at);
        if (!bsi_hash128_eq(bsi_xxh128(p, b->bytes), b->plain)) {
            st = refuse_block(r, frame, b, err);
            break;
        }
        b->fp = bsi_xxh128_secret(p, b->bytes, r->o->secret);
        b->fp.lo ^= r->f->layout->mix.lo;
        b->fp.hi ^= r->f->layout->mix.hi;
        memmove(text + kept, p, b->bytes);
        kept += b->bytes;
    }
    uint64_t place = 0;
    if (!st) st = bsi_scan_spill(&place, r->f, text, kept, r->o->tmp, err);
    for (size_t i = r->first[frame]; i < r->first[frame + 1] && !st; i++) {
        if (r->match[i] != NO_MATCH) continue;
        r->block[i].spill = place;
        place += r->block[i].bytes;
    }
    free(text);
    return st;
}

static void read_one(void *ctx, size_t i) {
    read_run *r = ctx;
    size_t fault = atomic_load(&r->fault);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (i > fault || !read_frame(r, r->frame[i], &err)) return;
    while (i < fault && !atomic_compare_exchange_weak(&r->fault, &fault, i)) {}
}

/* The fault that counts is the first in the file: it is found again, alone, so that the message does not depend on timing. */
static bomsync_status read_unknown(read_run *r, bomsync_error *err) {
    atomic_store(&r->fault, SIZE_MAX);
    bsi_parallel(r->o->workers, r->count, read_one, r);
    size_t fault = atomic_load(&r->fault);
    if (fault == SIZE_MAX) return BOMSYNC_OK;
    bomsync_status st = read_frame(r, r->frame[fault], err);
    return st ? st : bsi_fail(err, BOMSYNC_E_REFUSED, "\"%s\" changed while it was read", bsi_source_path(r->f->source));
}

/* ---- one file ---- */

static bool fits(const bsi_pack *k, const bsi_scan_file *f, const bsi_scan_options *o) {
    const bsi_dialect *d = &f->layout->dialect;
    bool verify = o->read && o->read->verify_pack;
    return k && !verify && o->tier_block && o->image && o->image->count && k->delimiter == d->delimiter && k->quote == d->quote &&
           bsi_block_size_eq(k->block_size, o->block_size) && k->header_bytes == f->body && k->block_count < NO_MATCH;
}

bomsync_status bsi_scan_pack(bool *used, bsi_scan_block **block, uint32_t **matches, size_t *count, bsi_scan *scan, uint32_t file, const bsi_scan_options *o,
                             bsi_scan_pack_image **image, bomsync_error *err) {
    bsi_scan_file *f = &scan->file[file];
    const bsi_pack *k = bsi_source_pack(f->source);
    *used = false;
    if (!fits(k, f, o)) return BOMSYNC_OK;
    if (!*image) *image = open_image(scan, file, o);
    bsi_scan_pack_image *m = *image;
    if (!m->fits) return BOMSYNC_OK;
    *used = true;
    read_run r = {.f = f, .file = file, .o = o, .pack = k, .block = bsi_alloc((k->block_count + 1) * sizeof **block)};
    r.match = bsi_alloc((k->block_count + 1) * sizeof *r.match);
    r.first = bsi_alloc((k->frame_count + 1) * sizeof *r.first);
    r.frame = bsi_alloc((k->frame_count + 1) * sizeof *r.frame);
    bsi_pack_walk w = {.pack = k};
    size_t i = 0;
    for (size_t n = 0; n < k->frame_count; n++) {
        bool unknown = false;
        r.first[n] = i;
        for (uint32_t j = 0; j < k->frame[n].blocks; j++, i++) {
            bsi_pack_block b;
            bsi_pack_next(&w, &b);
            r.block[i] = (bsi_scan_block){.offset = b.offset, .plain = b.plain, .file = file, .bytes = b.bytes, .records = b.records,
                                          .blanks = b.blanks, .flags = b.flags, .spill = BSI_NO_SPILL, .tag = BSI_NO_TAG};
            r.match[i] = match(m, &b, o->tier_sequence);
            unknown |= r.match[i] == NO_MATCH;
        }
        if (unknown) r.frame[r.count++] = n;
    }
    r.first[k->frame_count] = i;
    bomsync_status st = read_unknown(&r, err);
    free(r.first);
    free(r.frame);
    if (st) {
        free(r.block);
        free(r.match);
        return st;
    }
    *block = r.block;
    *matches = r.match;
    *count = i;
    return BOMSYNC_OK;
}
