/* run/scan_probe.c - are most blocks of a snapshot in an image? Asked before it is scanned.
 *
 *   snapshot   |######|                                        |######|      both ends, among entries of the image's ends: most need no more
 *              |   ##     ##     ##     ##     ##     ##     ##   ##  |      else some places all over it, among all entries
 *
 * Of some kB the borders of blocks are found as the scan finds them, but for the first. If less than half of what is seen is known, records
 * stand in another order, or a column differs on each line, and looking for each block would take longer than to look at all records.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/vast.h"
#include "run/scan_probe.h"

enum {
    PROBE_BYTES = 24 << 10, /* about 20 usual blocks */
    PROBE_BLOCKS = 20,
    PROBE_MOST = 2 << 20,
    PROBE_PLACES = 48,
    PROBE_ENTRIES = 64      /* of the image's either end */
};

typedef struct probe {
    bsi_scan *scan;
    const bsi_scan_probe_options *o;
    bsi_isa isa;
    size_t bytes; /* that are looked at in one place */
    bsi_buf buf;
    uint64_t fp[PROBE_PLACES * 64]; /* low halves of fingerprints */
    size_t count;
} probe;

/* Bytes of some blocks, as long as the image's first ones. Where rows are wide, blocks are: of a few the borders would not even be found. */
static size_t probe_bytes(const bsi_image *image) {
    uint64_t bytes = 0, count = BSI_MIN(image->count, (uint64_t)PROBE_ENTRIES);
    bsi_image_walk w = {.image = image};
    for (uint64_t i = 0; i < count; i++) bytes += bsi_image_next(&w, i)->bytes;
    if (!count) return PROBE_BYTES;
    return (size_t)BSI_MIN(BSI_MAX(bytes / count * PROBE_BLOCKS, (uint64_t)PROBE_BYTES), (uint64_t)PROBE_MOST);
}

static bomsync_status probe_open(probe **out, bsi_scan *scan, const bsi_scan_probe_options *o, bomsync_error *err) {
    probe *p = *out = bsi_calloc(1, sizeof *p);
    p->scan = scan;
    p->o = o;
    p->bytes = probe_bytes(o->image);
    return bsi_isa_choose(&p->isa, o->isa ? o->isa : "auto", err);
}

static void probe_close(probe *p) {
    bsi_buf_free(&p->buf);
    free(p);
}

typedef struct place { /* in the snapshot */
    uint32_t file;
    uint64_t offset;
    bool sure; /* a block begins there */
} place;

/* Blocks from a line start behind the place on; the first may begin elsewhere than in the scan. */
static bomsync_status blocks_at(probe *p, place at, size_t most, bsi_scan_block_fn *fn, void *ctx, bomsync_error *err) {
    bsi_scan_file *f = &p->scan->file[at.file];
    bsi_buf_reserve(&p->buf, p->bytes + 64);
    ssize_t got = bsi_source_pread(f->source, p->buf.data, p->bytes, at.offset, err);
    if (got < 0) return err->status;
    const uint8_t *from = p->buf.data, *end = from + got;
    if (!at.sure) {
        const uint8_t *lf = memchr(from, '\n', (size_t)got);
        from = lf ? lf + 1 : end;
    }
    bsi_cut_options co = {.dialect = f->layout->dialect, .size = p->o->block_size, .isa = (int)p->isa};
    bool last = at.offset + (uint64_t)got >= bsi_source_size(f->source);
    bsi_cut cut = {0};
    for (size_t n = 0; from < end && n < most; n++, from += cut.bytes) {
        if (bsi_cut_block(&cut, &co, from, (size_t)(end - from), last) != 1 || !cut.bytes) break;
        fn(ctx, f->layout, from, cut.bytes);
    }
    return BOMSYNC_OK;
}

static place front_of(const bsi_scan *scan) { return (place){0, scan->file[0].body, true}; }

static place back_of(const probe *p) {
    uint32_t last = (uint32_t)p->scan->file_count - 1;
    uint64_t size = bsi_source_size(p->scan->file[last].source), body = p->scan->file[last].body;
    return (place){last, size > body + p->bytes ? size - p->bytes : body, size <= body + p->bytes};
}

static void add_fingerprint(void *ctx, const bsi_layout *layout, const uint8_t *p, size_t n) {
    probe *b = ctx;
    if (b->count < sizeof b->fp / sizeof *b->fp) b->fp[b->count++] = bsi_xxh128_secret(p, n, b->o->secret).lo ^ layout->mix.lo;
}

static size_t known_between(const probe *p, uint64_t from, uint64_t to) {
    size_t known = 0;
    for (size_t i = 0; i < p->count; i++) {
        bsi_image_walk w = {.image = p->o->image};
        bool found = false;
        for (uint64_t k = from; k < to && !found; k++) {
            const bsi_image_entry *e = bsi_image_next(&w, k);
            found = e->fp.lo == p->fp[i] && (e->flags & BSI_IMAGE_EXACT);
        }
        known += found;
    }
    return known;
}

/* Both ends of the snapshot at the ends of the image: most snapshots need no more. */
static bomsync_status ends_known(probe *p, bool *known, bomsync_error *err) {
    uint64_t n = p->o->image->count, most = BSI_MIN(n, (uint64_t)PROBE_ENTRIES);
    bomsync_status st = blocks_at(p, front_of(p->scan), 8, add_fingerprint, p, err);
    size_t blocks = p->count, found = st ? 0 : known_between(p, 0, most);
    p->count = 0;
    if (!st) st = blocks_at(p, back_of(p), 64, add_fingerprint, p, err);
    blocks += p->count;
    found += st ? 0 : known_between(p, n - most, n);
    p->count = 0;
    *known = found * 2 >= blocks;
    return st;
}

typedef struct lookup {
    const bsi_image *image;
    const uint64_t *fp;
    size_t count;
    uint8_t filter[1 << 13];
    atomic_ullong known;
} lookup;

static void look_up_pieces(void *ctx, size_t index) {
    lookup *l = ctx;
    uint64_t known = 0;
    for (size_t p = index * 256; p < BSI_MIN((index + 1) * 256, l->image->piece_count); p++)
        for (uint32_t i = 0; i < l->image->piece[p].count; i++) {
            const bsi_image_entry *e = &l->image->piece[p].entry[i];
            uint32_t h = e->fp.lo & 0xffff;
            if (!(l->filter[h >> 3] >> (h & 7) & 1) || !(e->flags & BSI_IMAGE_EXACT)) continue;
            known += bsi_u64_has(l->fp, l->count, e->fp.lo);
        }
    atomic_fetch_add(&l->known, known);
}

/* Blocks from all over the snapshot, anywhere in the image. */
static bomsync_status some_known(probe *p, bool *known, bomsync_error *err) {
    const bsi_scan *scan = p->scan;
    uint64_t total = 0;
    for (size_t f = 0; f < scan->file_count; f++) total += bsi_source_size(scan->file[f].source);
    bomsync_status st = BOMSYNC_OK;
    for (uint64_t i = 0; i < PROBE_PLACES && !st; i++) {
        uint64_t at = total / PROBE_PLACES * i;
        uint32_t f = 0;
        for (; f + 1 < scan->file_count && at >= bsi_source_size(scan->file[f].source); f++) at -= bsi_source_size(scan->file[f].source);
        st = blocks_at(p, (place){f, BSI_MAX(at, scan->file[f].body), false}, 64, add_fingerprint, p, err);
    }
    if (st) return st;
    p->count = bsi_vast_unique(p->fp, p->count); /* of a short file some are seen from several places */
    lookup *l = bsi_calloc(1, sizeof *l);
    l->image = p->o->image;
    l->fp = p->fp;
    l->count = p->count;
    for (size_t i = 0; i < p->count; i++) l->filter[(p->fp[i] & 0xffff) >> 3] |= (uint8_t)(1u << (p->fp[i] & 7));
    bsi_parallel(p->o->workers, (l->image->piece_count + 255) / 256, look_up_pieces, l);
    *known = atomic_load(&l->known) * 2 >= p->count;
    free(l);
    return BOMSYNC_OK;
}

bool bsi_scan_may_probe(const bsi_scan *scan) {
    for (size_t f = 0; f < scan->file_count; f++) {
        const bsi_scan_file *file = &scan->file[f];
        if (!file->layout || !bsi_source_random(file->source) || bsi_source_pack(file->source)) return false;
    }
    return scan->file_count > 0;
}

bomsync_status bsi_scan_probe(bool *known, bsi_scan *scan, const bsi_scan_probe_options *o, bomsync_error *err) {
    probe *p;
    bomsync_status st = probe_open(&p, scan, o, err);
    if (!st) st = ends_known(p, known, err);
    if (!st && !*known) st = some_known(p, known, err);
    probe_close(p);
    return st;
}

bomsync_status bsi_scan_end(bsi_scan *scan, const bsi_scan_probe_options *o, bool back, bsi_scan_block_fn *fn, void *ctx, bomsync_error *err) {
    probe *p;
    bomsync_status st = probe_open(&p, scan, o, err);
    if (!st) st = blocks_at(p, back ? back_of(p) : front_of(scan), 64, fn, ctx, err);
    probe_close(p);
    return st;
}
