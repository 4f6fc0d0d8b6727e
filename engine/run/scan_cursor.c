/* run/scan_cursor.c - the chain of blocks of one file, from a byte on.
 *
 *   image   | e 41 | e 42 | e 43 | e 44 | ...       an entry says how long its block is
 *   file    [ blk ][ blk ][ blk ][ blk ~~~~ ][ blk ][ blk ] ...
 *            equal: one run       not equal: cut, looked up, listed alone, or with the entry that it has elsewhere
 *
 * The end of a block is a pure function of its own bytes (flow/block.h). So where the last image says that a block of n bytes came
 * next, hashing n bytes settles it: equal fingerprint, equal cut. An unchanged snapshot is never searched for line ends.
 *
 * Matching after a miss: look a few entries ahead (sequence), now and then far ahead, then everywhere (an index of all
 * fingerprints, built when workers have been lost for so many blocks that looking at these has cost as much: building
 * takes about 45 ns an entry, an open block costs 5 us).
 *
 * Bytes that will be wanted again and cannot be read twice go to the spill file while they are at hand.
 *
 * Tried and dropped: mmap of the input (page faults cost more than the copy of pread into a buffer that stays in
 * cache).
 */
#include "run/scan_inner.h"

#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"

enum { LOOK_AHEAD = 32, LOOK_FAR = 8192, LOST_AFTER = 8, LOST_MOST = 1024, INDEX_PER_BLOCK = 128 };

/* ---- the image, by index and by fingerprint ---- */

size_t bsi_image_piece_of(const bsi_image *image, uint64_t index) {
    size_t lo = 0, hi = image->piece_count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (image->piece[mid].first <= index) lo = mid;
        else hi = mid;
    }
    return lo;
}

const bsi_image_entry *bsi_image_at(const bsi_image *image, uint64_t index) {
    const bsi_image_piece *p = &image->piece[bsi_image_piece_of(image, index)];
    return &p->entry[index - p->first];
}

const bsi_image_entry *bsi_image_next(bsi_image_walk *w, uint64_t index) {
    const bsi_image *im = w->image;
    if (index >= im->count) return NULL;
    const bsi_image_piece *p = &im->piece[w->piece];
    if (index - p->first >= p->count) { /* most often the next one */
        if (w->piece + 1 < im->piece_count && index == p[1].first) w->piece++;
        else if (w->piece && index < p->first && index >= p[-1].first) w->piece--; /* who looked ahead comes back */
        else w->piece = bsi_image_piece_of(im, index);
        p = &im->piece[w->piece];
    }
    return &p->entry[index - p->first];
}

void bsi_scan_index_init(bsi_scan_index *x) { pthread_mutex_init(&x->lock, NULL); }

void bsi_scan_index_release(bsi_scan_index *x) {
    bsi_vast_free(x->slot);
    pthread_mutex_destroy(&x->lock);
}

uint32_t *bsi_image_slots(uint64_t *mask, const bsi_image *image, bool plain) {
    uint64_t size = 64;
    while (size < image->count * 2) size *= 2;
    *mask = size - 1;
    uint32_t *slot = bsi_vast_calloc(size, sizeof *slot);
    for (size_t p = 0; p < image->piece_count; p++)
        for (uint32_t i = 0; i < image->piece[p].count; i++) {
            const bsi_image_entry *e = &image->piece[p].entry[i];
            if (!(e->flags & BSI_IMAGE_EXACT)) continue;
            uint64_t h = (plain ? e->plain.lo : e->fp.lo) & *mask;
            while (slot[h]) h = (h + 1) & *mask;
            slot[h] = (uint32_t)(image->piece[p].first + i) + 1;
        }
    return slot;
}

static void index_build(bsi_scan_index *x, const bsi_image *image) {
    pthread_mutex_lock(&x->lock);
    if (!atomic_load(&x->ready)) {
        bsi_memory_large();
        x->slot = bsi_image_slots(&x->mask, image, false);
        atomic_store(&x->ready, true);
    }
    pthread_mutex_unlock(&x->lock);
}

/* ---- a cursor walks the chain of blocks of one file ---- */

void bsi_scan_cursor_open(bsi_scan_cursor *c, bsi_scan *scan, uint32_t file, const bsi_scan_options *o, bsi_scan_index *index, bsi_buf *buf,
                          uint64_t offset, uint64_t to, uint64_t next) {
    *c = (bsi_scan_cursor){.f = &scan->file[file], .file = file, .o = o, .index = index, .buf = buf, .offset = offset, .to = to, .next = next, .trust = true};
    buf->len = 0;
    c->cut = (bsi_cut_options){.dialect = c->f->layout->dialect, .size = o->block_size, .isa = (int)o->isa};
    c->walk.image = o->image;
}

void bsi_scan_cursor_use(bsi_scan_cursor *c, const bsi_scan_ahead *a, bsi_buf *view, const bsi_arrival *came) {
    const bsi_ahead_part *p = &a->part[came->part];
    size_t skip = (size_t)(c->offset - p->offset);
    if (came->bytes <= skip) return;
    *view = (bsi_buf){.data = (uint8_t *)(uintptr_t)came->data, .len = came->bytes, .cap = came->bytes};
    c->own = c->buf;
    c->buf = view;
    c->at = skip;
    c->end = p->offset + came->bytes >= bsi_source_size(c->f->source);
    c->ahead = a->queue;
    c->direct = came->direct;
}

/* How much to read behind `rest` bytes. */
static size_t fill_bytes(const bsi_scan_cursor *c, size_t rest) {
    size_t most = rest < BSI_READ_BYTES / 2 ? BSI_READ_BYTES - rest : rest; /* a long record: double */
    uint64_t at = c->offset + rest, left = c->to > at ? c->to - at : 0;
    return left >= most ? most : (size_t)BSI_MIN((uint64_t)most, left + BSI_MAX((size_t)BSI_PAST_BYTES, rest));
}

/* What is not consumed of a view goes to a buffer that may grow. */
static void leave_view(bsi_scan_cursor *c) {
    if (!c->own) return;
    c->own->len = 0;
    bsi_buf_add(c->own, c->buf->data + c->at, c->buf->len - c->at);
    c->buf = c->own;
    c->own = NULL;
    c->at = 0;
    c->direct = false; /* but for the first block there */
}

/* Keep what is not consumed, read more behind it. */
static bomsync_status cursor_fill(bsi_scan_cursor *c, bomsync_error *err) {
    leave_view(c);
    bsi_buf *buf = c->buf;
    size_t rest = buf->len - c->at;
    if (rest && c->at) memmove(buf->data, buf->data + c->at, rest);
    buf->len = rest;
    c->at = 0;
    size_t want = fill_bytes(c, rest);
    bsi_buf_reserve(buf, want + BSI_SCAN_MARGIN);
    bsi_source *s = c->f->source;
    if (bsi_source_random(s)) {
        ssize_t n = bsi_source_pread(s, buf->data + rest, want, c->offset + rest, err);
        if (n < 0) return err->status;
        buf->len += (size_t)n;
        c->end = c->offset + buf->len >= bsi_source_size(s);
        return BOMSYNC_OK;
    }
    if (c->f->head.len) { /* what the header search had read ahead */
        bsi_buf_add(buf, c->f->head.data, c->f->head.len);
        bsi_buf_reserve(buf, BSI_SCAN_MARGIN);
        c->f->head.len = 0;
        c->end = c->f->at_end;
        return BOMSYNC_OK;
    }
    if (c->f->at_end) {
        c->end = true;
        return BOMSYNC_OK;
    }
    ssize_t n = bsi_source_read(s, buf->data + rest, want, err);
    if (n < 0) return err->status;
    buf->len += (size_t)n;
    if (n == 0) c->end = true;
    return BOMSYNC_OK;
}

bsi_hash128 bsi_scan_fingerprint(const bsi_layout *l, const bsi_secret *secret, const uint8_t *p, size_t n) {
    bsi_hash128 fp = bsi_xxh128_secret(p, n, secret);
    return (bsi_hash128){fp.lo ^ l->mix.lo, fp.hi ^ l->mix.hi};
}

static void fingerprint(const bsi_scan_cursor *c, const uint8_t *p, size_t n, bsi_hash128 *fp) {
    if (!c->o->brief) *fp = bsi_scan_fingerprint(c->f->layout, c->o->secret, p, n);
}

static bool entry_usable(const bsi_image_entry *e) { return e && (e->flags & BSI_IMAGE_EXACT); }

/* Entries are used only from pages whose checksum is right: a flipped bit in a ref would name another state block. */
static bomsync_status check_piece(bsi_scan_cursor *c, size_t piece, bomsync_error *err) {
    if (!c->o->store) return BOMSYNC_OK;
    const bsi_image_piece *p = &c->o->image->piece[piece];
    uint64_t *checked = &c->checked[p->id % BSI_SCAN_CHECKED];
    if (*checked == p->id) return BOMSYNC_OK;
    *checked = p->id;
    return bsi_store_image_check(c->o->store, p, err);
}

/* Entries of one piece, `left` of them from e on, while they are what stands at the cursor. *more: all of them were, and all bytes before `until` are not
 * gone through. */
static bomsync_status match_piece(bsi_scan_cursor *c, const bsi_image_entry *e, size_t left, uint64_t until, bsi_scan_run *run, bool *starved, bool *more,
                                  bomsync_error *err) {
    const bsi_hash128 mix = c->f->layout->mix;
    const uint64_t before = run->count;
    *more = false;
    for (; left && c->offset < until; left--, e++) {
        if (!entry_usable(e)) return BOMSYNC_OK;
        size_t have = c->buf->len - c->at;
        if (e->bytes + 1u > have && !c->end) {
            *starved = true;
            return BOMSYNC_OK;
        }
        if (e->bytes > have) return BOMSYNC_OK;
        bool at_end = c->end && e->bytes == have;
        const uint8_t *p = c->buf->data + c->at;
        if ((e->flags & BSI_IMAGE_AT_END) && !at_end) return BOMSYNC_OK; /* it ended with its file: more bytes, another cut */
        if ((e->flags & BSI_IMAGE_LONE_CR) && !at_end && p[e->bytes] == '\n') return BOMSYNC_OK;
        bsi_hash128 fp = bsi_xxh128_secret(p, e->bytes, c->o->secret);
        if ((fp.lo ^ mix.lo) != e->fp.lo || (fp.hi ^ mix.hi) != e->fp.hi) return BOMSYNC_OK;
        if (run->count == before) { /* the first of the piece */
            bomsync_status st = check_piece(c, c->walk.piece, err);
            if (st) return st;
        }
        run->count++;
        run->bytes += e->bytes;
        run->records += e->records;
        c->next++;
        c->at += e->bytes;
        c->offset += e->bytes;
    }
    *more = c->offset < until;
    return BOMSYNC_OK;
}

/* Are the blocks at the cursor the ones that the image expects? Then no line end needs to be found. Goes on to `until`,
 * and to the end of the bytes at hand; *starved: more bytes may settle the next one. */
static bomsync_status match_ahead(bsi_scan_cursor *c, uint64_t until, bsi_scan_run *run, bool *starved, bomsync_error *err) {
    *starved = false;
    run->first = c->next;
    run->count = run->bytes = run->records = 0;
    bomsync_status st = BOMSYNC_OK;
    for (bool more = c->offset < until; more && !st;) {
        const bsi_image_entry *e = bsi_image_next(&c->walk, c->next);
        if (!e) break;
        const bsi_image_piece *p = &c->o->image->piece[c->walk.piece];
        st = match_piece(c, e, (size_t)(p->count - (c->next - p->first)), until, run, starved, &more, err);
    }
    return st;
}

static bool look_ahead(bsi_scan_cursor *c, const bsi_scan_block *b, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i < to; i++) {
        const bsi_image_entry *e = bsi_image_next(&c->walk, i);
        if (!e) break;
        if (e->fp.lo != b->fp.lo || !entry_usable(e) || !bsi_hash128_eq(e->fp, b->fp)) continue;
        c->next = i;
        return true;
    }
    return false;
}

/* When twice as many blocks were not found as at the last such look. A long stretch may be gone; or a unit begins whose place in the image
 * was guessed by its offset, which what came and went before it has moved either way. */
static bool look_far(bsi_scan_cursor *c, const bsi_scan_block *b, uint64_t near) {
    return look_ahead(c, b, near, c->next + LOOK_FAR) || look_ahead(c, b, c->next - BSI_MIN(c->next, (uint64_t)LOOK_FAR), c->next);
}

/* Is it worth looking everywhere? Where there is an index already, soon; else it must be built first. */
static bool look_everywhere(bsi_scan_cursor *c) {
    if (!c->o->tier_sequence) return true;
    if (c->lost <= LOST_AFTER) return false;
    if (atomic_load(&c->index->ready)) return true;
    return atomic_fetch_add_explicit(&c->index->lost, 1, memory_order_relaxed) > c->o->image->count / INDEX_PER_BLOCK;
}

/* The exact entry with this fingerprint: a few ahead (sequence), then anywhere. */
static bool look_up(bsi_scan_cursor *c, const bsi_scan_block *b) {
    if (!c->o->image || !c->o->image->count) return false;
    uint64_t near = c->next + LOOK_AHEAD + BSI_MIN(c->lost, (unsigned)LOST_MOST); /* blocks that changed stand for about as many entries */
    if (c->o->tier_sequence && look_ahead(c, b, c->next, near)) return true;
    c->lost++;
    if (!look_everywhere(c)) return c->lost >= LOST_AFTER && (c->lost & (c->lost - 1)) == 0 && look_far(c, b, near);
    if (!atomic_load(&c->index->ready)) index_build(c->index, c->o->image);
    for (uint64_t h = b->fp.lo & c->index->mask; c->index->slot[h]; h = (h + 1) & c->index->mask) {
        uint32_t i = c->index->slot[h] - 1;
        if (!bsi_hash128_eq(bsi_image_at(c->o->image, i)->fp, b->fp)) continue;
        c->next = i;
        return true;
    }
    return false;
}

/* ---- cut, and keep what may be wanted again ---- */

static bomsync_status refuse_quote(bsi_scan_cursor *c, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "a quote is never closed");
    bsi_at(err, bsi_source_path(c->f->source), (int64_t)c->offset, bsi_scan_line(c->f, c->offset), NULL, NULL, 0);
    bsi_hint(err, "nothing was changed; is the file cut off, or does it use quotes as data (see --quotes, --quote)?");
    return BOMSYNC_E_REFUSED;
}

/* Open blocks that came past the page cache. It is an economy: where there is no room they are read from the file again. */
static void spill_direct(bsi_scan_cursor *c, uint64_t *place, const uint8_t *p, size_t n) {
    if (!c->direct) return;
    if (c->o->brief) { /* few are read again, or all: none is worth it */
        bsi_ahead_use_cache(c->ahead);
        return;
    }
    if (atomic_load(&c->f->spill_bytes) > BSI_DIRECT_SPILL_BYTES) bsi_ahead_use_cache(c->ahead);
    if (bsi_scan_spill(place, c->f, p, n, c->o->tmp, NULL)) *place = BSI_NO_SPILL;
}

/* What may be read again and costs more than a pread: a stream cannot go back, a pack would decompress a frame. What matched
 * is wanted again only where a record looks like a copy of one in it: a file is then decoded once more (read_stream_again);
 * of stdin all is kept, as it is: packing it would cost the pipe more than the page cache does. */
static bomsync_status spill(bsi_scan_cursor *c, uint64_t *place, const uint8_t *p, size_t n, bool matched, bomsync_error *err) {
    bsi_scan_file *f = c->f;
    bool random = bsi_source_random(f->source);
    *place = BSI_NO_SPILL;
    if (f->spill_fd < 0 || (matched && (random || !c->o->keep_stream_bytes || (c->o->streams_twice && bsi_source_reopens(f->source))))) return BOMSYNC_OK;
    if (!random || bsi_source_pack(f->source)) return bsi_scan_spill(place, f, p, n, c->o->tmp, err);
    spill_direct(c, place, p, n);
    return BOMSYNC_OK;
}

/* A record too long to hold: pass over it, fingerprint what was held. */
static bomsync_status oversize(bsi_scan_cursor *c, bsi_scan_block *b, bomsync_error *err) {
    uint64_t state[2] = {0, 0};
    uint64_t length = 0;
    bsi_buf *buf = c->buf;
    fingerprint(c, buf->data + c->at, buf->len - c->at, &b->fp);
    b->plain = bsi_xxh128(buf->data + c->at, buf->len - c->at);
    uint64_t start = c->offset;
    bomsync_status st = spill(c, &b->spill, buf->data + c->at, BSI_RECORD_BYTES_MAX, false, err);
    if (st) return st;
    bool once = bsi_scan_comes_once(c->f), cr = buf->data[c->at + BSI_RECORD_BYTES_MAX - 1] == '\r';
    int64_t lines = 0;
    for (;;) {
        int64_t got = bsi_cut_skip(state, &c->cut.dialect, buf->data + c->at, buf->len - c->at, c->end);
        if (got == -2) return refuse_quote(c, err);
        size_t used = got >= 0 ? (size_t)got : buf->len - c->at;
        size_t kept = length < BSI_RECORD_BYTES_MAX ? (size_t)BSI_MIN((uint64_t)used, BSI_RECORD_BYTES_MAX - length) : 0;
        if (once) lines += bsi_line_ends(&cr, buf->data + c->at + kept, used - kept);
        length += used;
        c->at += used;
        c->offset += used;
        if (got >= 0 || (c->end && c->at == buf->len)) break;
        st = cursor_fill(c, err);
        if (st) return st;
    }
    if (length > UINT32_MAX) {
        bsi_fail(err, BOMSYNC_E_REFUSED, "a record is longer than 4 GB");
        bsi_at(err, bsi_source_path(c->f->source), (int64_t)start, -1, NULL, NULL, 0);
        bsi_hint(err, "nothing was changed; is this a CSV file with this delimiter and these line ends?");
        return BOMSYNC_E_REFUSED;
    }
    if (once) bsi_scan_add_hole(c->f, start + BSI_RECORD_BYTES_MAX, length - BSI_RECORD_BYTES_MAX, lines);
    b->bytes = (uint32_t)length;
    b->records = 1;
    b->flags = BSI_CUT_OVERSIZE | (c->end && c->at == buf->len ? BSI_CUT_AT_END : 0u);
    b->fp.lo ^= length;
    b->plain.lo ^= length;
    return BOMSYNC_OK;
}

/* Cut the block at the cursor. *found false: the file ends here. */
static bomsync_status cut_block(bsi_scan_cursor *c, bsi_scan_block *b, bool *found, bomsync_error *err) {
    *found = true;
    for (;;) {
        size_t have = c->buf->len - c->at;
        if (!have && c->end) {
            *found = false;
            return BOMSYNC_OK;
        }
        bsi_cut cut = {0};
        const uint8_t *p = c->buf->data + c->at;
        int got = have || c->end ? bsi_cut_block(&cut, &c->cut, p, have, c->end) : 0;
        if (got < 0) return refuse_quote(c, err);
        if (got == 0 && (cut.flags & BSI_CUT_OVERSIZE) && have > BSI_RECORD_BYTES_MAX) return oversize(c, b, err);
        if (got) {
            if (cut.flags & BSI_CUT_OPEN_QUOTE) {
                bsi_fail(err, BOMSYNC_E_REFUSED, "the file ends inside a quoted field");
                bsi_at(err, bsi_source_path(c->f->source), (int64_t)(c->offset + have), -1, NULL, NULL, 0);
                bsi_hint(err, "nothing was changed; the file is cut off: ask for it again");
                return BOMSYNC_E_REFUSED;
            }
            b->bytes = (uint32_t)cut.bytes;
            b->records = cut.records;
            b->blanks = cut.blanks;
            b->flags = cut.flags;
            fingerprint(c, p, cut.bytes, &b->fp);
            return BOMSYNC_OK;
        }
        if (c->end) {
            *found = false;
            return BOMSYNC_OK;
        }
        bomsync_status st = cursor_fill(c, err);
        if (st) return st;
    }
}

static bsi_scan_expected expected(bsi_scan_cursor *c) {
    return (bsi_scan_expected){c->next, c->o->image ? bsi_image_next(&c->walk, c->next) : NULL, c->in_step};
}

bomsync_status bsi_scan_cursor_step(bsi_scan_cursor *c, uint64_t until, bsi_scan_step *s, bool *more, bomsync_error *err) {
    s->run = (bsi_scan_run){.file = c->file, .offset = c->offset, .matched = true};
    s->block = (bsi_scan_block){.file = c->file, .offset = c->offset, .tag = BSI_NO_TAG};
    *more = true;
    bool predict = c->trust && c->o->tier_block && c->o->image && c->next < c->o->image->count;
    while (predict) {
        if (c->at == c->buf->len && c->end) break;
        bool starved;
        bomsync_status st = match_ahead(c, until, &s->run, &starved, err);
        if (!st && !s->run.count && starved) st = cursor_fill(c, err);
        if (st) return st;
        if (s->run.count) {
            c->in_step = true;
            const uint8_t *p = c->buf->data + c->at - s->run.bytes;
            if (c->o->matched) c->o->matched(c->o->matched_ctx, c->f->layout, s->run.first, s->run.count, p);
            return spill(c, &s->run.spill, p, s->run.bytes, true, err);
        }
        predict = starved;
    }
    if (c->at == c->buf->len && c->end) {
        *more = false;
        return BOMSYNC_OK;
    }
    bsi_scan_block *b = &s->block;
    bomsync_status st = cut_block(c, b, more, err);
    if (st || !*more) return st;
    bool long_record = (b->flags & BSI_CUT_OVERSIZE) && c->offset != b->offset; /* passed over already */
    c->trust = false;
    if (long_record) c->in_step = false;
    if (!long_record) {
        const uint8_t *p = c->buf->data + c->at;
        if (c->o->tier_block && look_up(c, b)) {
            c->lost = 0;
            c->trust = c->in_step = true;
            st = check_piece(c, bsi_image_piece_of(c->o->image, c->next), err);
            if (c->o->matched && !st) c->o->matched(c->o->matched_ctx, c->f->layout, c->next, 1, p);
        } else {
            if (!c->o->no_plain) b->plain = bsi_xxh128(p, b->bytes);
            if (b->flags & BSI_CUT_AT_END) c->lost = 0;
            bool stands = !c->quiet && c->o->opened && bsi_source_random(c->f->source) && c->o->opened(c->o->opened_ctx, c->f->layout, b, p, expected(c));
            if (c->quiet) c->quiet--;
            c->next += stands;
            c->in_step = stands;
        }
        if (!st) st = spill(c, &b->spill, p, b->bytes, c->trust, err);
        c->at += b->bytes;
        c->offset += b->bytes;
    }
    s->run = (bsi_scan_run){.file = c->file, .offset = b->offset, .count = 1, .bytes = b->bytes, .records = b->records,
                            .matched = c->trust, .first = c->next, .spill = b->spill};
    if (c->trust) c->next++;
    return st;
}

/* ---- where to begin ---- */

/* A guess: just after the next line end. */
static bomsync_status to_line_start(bsi_scan_cursor *c, bomsync_error *err) {
    for (;;) {
        const uint8_t *p = c->buf->data + c->at;
        const uint8_t *lf = c->at < c->buf->len ? memchr(p, '\n', c->buf->len - c->at) : NULL;
        if (lf) {
            size_t used = (size_t)(lf + 1 - p);
            c->at += used;
            c->offset += used;
            return BOMSYNC_OK;
        }
        c->offset += c->buf->len - c->at;
        c->at = c->buf->len;
        if (c->end) return BOMSYNC_OK;
        bomsync_status st = cursor_fill(c, err);
        if (st) return st;
    }
}

/* Where the image says that a block starts, one starts if it is there; else any line start is a guess. */
bomsync_status bsi_scan_cursor_start(bsi_scan_cursor *c, uint64_t else_next, bomsync_error *err) {
    bsi_scan_run probe;
    bool starved = false;
    bomsync_status st = c->buf->len > c->at ? BOMSYNC_OK : cursor_fill(c, err);
    uint64_t next = c->next, offset = c->offset;
    size_t at = c->at;
    if (!st && c->o->tier_block && c->o->image) {
        st = match_ahead(c, offset + 1, &probe, &starved, err);
        c->next = next;
        c->offset = offset;
        c->at = at;
        if (st || probe.count) return st;
        if (next != UINT64_MAX) c->next = else_next - BSI_MIN(else_next, (uint64_t)LOOK_AHEAD / 2); /* it is about there */
    }
    return st ? st : to_line_start(c, err);
}
