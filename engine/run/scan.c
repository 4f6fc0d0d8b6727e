/* run/scan.c - cut, fingerprint and match a whole snapshot with several workers.
 *
 *   file   |hdr|--------- unit 0 ---------|--------- unit 1 ---------|---- ...
 *   chain       [blk][blk][blk]..[blk]~~~~~>|  [blk]..
 *                                      ^ goes on until it meets a block start of the next unit
 *
 * The end of a block is a pure function of its own bytes (flow/block.h). So
 *   - where the last image says that a block of n bytes came next, hashing n bytes settles it: equal fingerprint,
 *     equal cut. An unchanged snapshot is never searched for line ends;
 *   - a unit may start anywhere that looks like a record start. What it found counts only from the byte on at which
 *     the chain of its left neighbour arrives; until then the chain is walked again (stitch).
 *
 * Matching after a miss: look a few entries ahead (sequence), now and then far ahead, then everywhere (an index of all
 * fingerprints, built when workers have been lost for so many blocks that looking at these has cost as much: building
 * takes about 45 ns an entry, an open block costs 5 us). What came and went before a unit has moved its place in the
 * image: the unit before it tells by how much, if it is done. Which entry a block takes is decided in file order when the
 * units are stitched, so two equal blocks never depend on who was faster.
 *
 * What was found is a list of runs: matched blocks side by side take one run of 64 bytes however many they are, so that
 * an unchanged snapshot of any size costs no memory; only open blocks are listed one by one.
 *
 * Tried and dropped: mmap of the input (page faults cost more than the copy of pread into a buffer that stays in
 * cache); claiming entries in the workers (order then depends on timing).
 */
#include "flow/lines.h"
#include "run/scan.h"
#include "run/scan_pack.h"
#include "run/scan_split.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/vast.h"

#define BSI_WORKERS_MAX 64

enum { MARGIN = 64, LOOK_AHEAD = 32, LOOK_FAR = 8192, LOST_AFTER = 8, LOST_MOST = 1024, INDEX_PER_BLOCK = 128, SOME_BLOCKS = 500, MARKS_MOST = 1000 };

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

typedef struct fp_index {
    pthread_mutex_t lock;
    atomic_bool ready;
    atomic_ullong lost; /* blocks that workers opened while they did not know where they were */
    uint32_t *slot; /* index + 1 */
    uint64_t mask;
} fp_index;

static void index_build(fp_index *x, const bsi_image *image) {
    pthread_mutex_lock(&x->lock);
    if (!atomic_load(&x->ready)) {
        uint64_t size = 64;
        while (size < image->count * 2) size *= 2;
        x->mask = size - 1;
        bsi_memory_large();
        x->slot = bsi_vast_calloc(size, sizeof *x->slot);
        for (size_t p = 0; p < image->piece_count; p++)
            for (uint32_t i = 0; i < image->piece[p].count; i++) {
                if (!(image->piece[p].entry[i].flags & BSI_IMAGE_EXACT)) continue;
                uint64_t h = image->piece[p].entry[i].fp.lo & x->mask;
                while (x->slot[h]) h = (h + 1) & x->mask;
                x->slot[h] = (uint32_t)(image->piece[p].first + i) + 1;
            }
        atomic_store(&x->ready, true);
    }
    pthread_mutex_unlock(&x->lock);
}

/* ---- a cursor walks the chain of blocks of one file ---- */

enum { CHECKED = 4096 }; /* pages of the image that were changed in part take turns with those that have the changes, of each night others */

typedef struct cursor {
    bsi_scan_file *f;
    uint32_t file;
    const bsi_scan_options *o;
    bsi_cut_options cut;
    fp_index *index;
    bsi_buf *buf;       /* bytes from the byte at `offset - at` on */
    bsi_buf *own;       /* buf is a view of what read ahead brought: what is read behind it comes here; else NULL */
    uint64_t to;        /* no block that starts here or later is wanted: little is read past it */
    bsi_ahead *ahead;   /* whose */
    bool direct;        /* the bytes of buf are not in the page cache */
    size_t at;          /* next block starts at buf->data[at] */
    uint64_t offset;    /* of that byte in the file */
    bool end;           /* buf reaches the end of the file */
    uint64_t next;      /* image entry expected here */
    bool trust;         /* the last block matched: try the stored length first */
    bool in_step;       /* it did, or stands in the place of its entry */
    unsigned lost;
    unsigned quiet;     /* so many open blocks are shown to nobody: the chain may not reach them */
    bsi_image_walk walk;
    uint64_t checked[CHECKED]; /* ids of pages whose checksums were found right, each at the place that its low bits name */
} cursor;

struct bsi_scan_ahead {
    bool *cold; /* [files] are read in parts */
    bool any;
    bsi_ahead_part *part; /* of the cold files, in order */
    size_t parts;
    bsi_ahead *queue; /* NULL: there are none, or they are read with pread */
};

/* What one step of the chain found: matched entries first..first+count, or one open block. */
typedef struct found_step {
    bsi_scan_run run;
    bsi_scan_block block;
} found_step;

static void cursor_open(cursor *c, bsi_scan *scan, uint32_t file, const bsi_scan_options *o, fp_index *index, bsi_buf *buf, uint64_t offset,
                        uint64_t to, uint64_t next) {
    *c = (cursor){.f = &scan->file[file], .file = file, .o = o, .index = index, .buf = buf, .offset = offset, .to = to, .next = next, .trust = true};
    buf->len = 0;
    c->cut = (bsi_cut_options){.dialect = c->f->layout->dialect, .block_records = o->block_records, .isa = (int)o->isa};
    c->walk.image = o->image;
}

/* How much to read behind `rest` bytes. */
static size_t fill_bytes(const cursor *c, size_t rest) {
    size_t most = rest < BSI_READ_BYTES / 2 ? BSI_READ_BYTES - rest : rest; /* a long record: double */
    uint64_t at = c->offset + rest, left = c->to > at ? c->to - at : 0;
    return left >= most ? most : (size_t)BSI_MIN((uint64_t)most, left + BSI_MAX((size_t)BSI_PAST_BYTES, rest));
}

/* What is not consumed of a view goes to a buffer that may grow. */
static void leave_view(cursor *c) {
    if (!c->own) return;
    c->own->len = 0;
    bsi_buf_add(c->own, c->buf->data + c->at, c->buf->len - c->at);
    c->buf = c->own;
    c->own = NULL;
    c->at = 0;
    c->direct = false; /* but for the first block there */
}

/* Keep what is not consumed, read more behind it. */
static bomsync_status cursor_fill(cursor *c, bomsync_error *err) {
    leave_view(c);
    bsi_buf *buf = c->buf;
    size_t rest = buf->len - c->at;
    if (rest && c->at) memmove(buf->data, buf->data + c->at, rest);
    buf->len = rest;
    c->at = 0;
    size_t want = fill_bytes(c, rest);
    bsi_buf_reserve(buf, want + MARGIN);
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
        bsi_buf_reserve(buf, MARGIN);
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

static void fingerprint(const cursor *c, const uint8_t *p, size_t n, bsi_hash128 *fp) {
    if (!c->o->brief) *fp = bsi_scan_fingerprint(c->f->layout, c->o->secret, p, n);
}

static bool entry_usable(const bsi_image_entry *e) { return e && (e->flags & BSI_IMAGE_EXACT); }

/* Entries are used only from pages whose checksum is right: a flipped bit in a ref would name another state block. */
static bomsync_status check_piece(cursor *c, size_t piece, bomsync_error *err) {
    if (!c->o->store) return BOMSYNC_OK;
    const bsi_image_piece *p = &c->o->image->piece[piece];
    uint64_t *checked = &c->checked[p->id % CHECKED];
    if (*checked == p->id) return BOMSYNC_OK;
    *checked = p->id;
    return bsi_store_image_check(c->o->store, p, err);
}

/* Entries of one piece, `left` of them from e on, while they are what stands at the cursor. *more: all of them were, and all bytes before `until` are not
 * gone through. */
static bomsync_status match_piece(cursor *c, const bsi_image_entry *e, size_t left, uint64_t until, bsi_scan_run *run, bool *starved, bool *more,
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
static bomsync_status match_ahead(cursor *c, uint64_t until, bsi_scan_run *run, bool *starved, bomsync_error *err) {
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

static bool look_ahead(cursor *c, const bsi_scan_block *b, uint64_t from, uint64_t to) {
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
static bool look_far(cursor *c, const bsi_scan_block *b, uint64_t near) {
    return look_ahead(c, b, near, c->next + LOOK_FAR) || look_ahead(c, b, c->next - BSI_MIN(c->next, (uint64_t)LOOK_FAR), c->next);
}

/* Is it worth looking everywhere? Where there is an index already, soon; else it must be built first. */
static bool look_everywhere(cursor *c) {
    if (!c->o->tier_sequence) return true;
    if (c->lost <= LOST_AFTER) return false;
    if (atomic_load(&c->index->ready)) return true;
    return atomic_fetch_add_explicit(&c->index->lost, 1, memory_order_relaxed) > c->o->image->count / INDEX_PER_BLOCK;
}

/* The exact entry with this fingerprint: a few ahead (sequence), then anywhere. */
static bool look_up(cursor *c, const bsi_scan_block *b) {
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

/* ---- lines of a stream that comes once: all its bytes are in the spill file, but for the ends of very long records ---- */

typedef struct hole { /* bytes that are not there */
    uint64_t at, bytes;
    int64_t lines; /* that end in them */
} hole;

struct bsi_scan_lines {
    hole *hole;
    size_t count;
    uint64_t at;   /* decoded bytes that are counted */
    int64_t lines; /* the number of the line that stands there */
    bool cr;       /* the byte before was one */
};

static int64_t line_ends(bool *cr, const uint8_t *p, size_t n) {
    int64_t lines = 0;
    for (size_t i = 0; i < n; i++) {
        lines += p[i] == '\r' || (p[i] == '\n' && !*cr);
        *cr = p[i] == '\r';
    }
    return lines;
}

static bsi_scan_lines *lines_of(bsi_scan_file *f) {
    if (!f->lines) {
        f->lines = bsi_alloc(sizeof *f->lines);
        *f->lines = (bsi_scan_lines){.at = f->body, .lines = f->body_line};
    }
    return f->lines;
}

static bool comes_once(const bsi_scan_file *f) { return !bsi_source_random(f->source) && !bsi_source_reopens(f->source); }

int64_t bsi_scan_line(bsi_scan_file *f, uint64_t offset) {
    if (!comes_once(f) || f->spill_fd < 0 || offset < f->body) return bsi_source_line(f->source, offset);
    bsi_scan_lines *l = lines_of(f);
    if (offset < l->at) l->at = f->body, l->lines = f->body_line, l->cr = false;
    uint64_t gone = 0;
    size_t h = 0;
    for (; h < l->count && l->hole[h].at < l->at; h++) gone += l->hole[h].bytes;
    uint8_t *buf = bsi_alloc(BSI_READ_BYTES);
    while (l->at < offset) {
        uint64_t to = h < l->count ? BSI_MIN(offset, l->hole[h].at) : offset;
        if (l->at == to) { /* at a hole, and past it */
            l->at += l->hole[h].bytes;
            l->lines += l->hole[h].lines;
            gone += l->hole[h++].bytes;
            l->cr = false;
            continue;
        }
        ssize_t n = pread(f->spill_fd, buf, (size_t)BSI_MIN(to - l->at, (uint64_t)BSI_READ_BYTES), (off_t)(l->at - f->body - gone));
        if (n <= 0) break;
        l->lines += line_ends(&l->cr, buf, (size_t)n);
        l->at += (uint64_t)n;
    }
    free(buf);
    return l->at == offset ? l->lines : -1;
}

/* The end of a record that is passed over. */
static void add_hole(bsi_scan_file *f, uint64_t at, uint64_t bytes, int64_t lines) {
    bsi_scan_lines *l = lines_of(f);
    if (!bytes) return;
    l->hole = bsi_realloc(l->hole, (l->count + 1) * sizeof *l->hole);
    l->hole[l->count++] = (hole){at, bytes, lines};
}

static bomsync_status refuse_quote(cursor *c, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "a quote is never closed");
    bsi_at(err, bsi_source_path(c->f->source), (int64_t)c->offset, bsi_scan_line(c->f, c->offset), NULL, NULL, 0);
    bsi_hint(err, "nothing was changed; is the file cut off, or does it use quotes as data (see --quotes, --quote)?");
    return BOMSYNC_E_REFUSED;
}

bomsync_status bsi_scan_spill(uint64_t *place, bsi_scan_file *f, const uint8_t *p, size_t n, const char *tmp, bomsync_error *err) {
    uint64_t at = *place = atomic_fetch_add(&f->spill_bytes, n);
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(f->spill_fd, p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return bsi_fail_errno(err, errno, tmp, "could not write a temporary file in \"%s\"", tmp);
        done += (size_t)k;
    }
    return BOMSYNC_OK;
}

/* Open blocks that came past the page cache. It is an economy: where there is no room they are read from the file again. */
static void spill_direct(cursor *c, uint64_t *place, const uint8_t *p, size_t n) {
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
static bomsync_status spill(cursor *c, uint64_t *place, const uint8_t *p, size_t n, bool matched, bomsync_error *err) {
    bsi_scan_file *f = c->f;
    bool random = bsi_source_random(f->source);
    *place = BSI_NO_SPILL;
    if (f->spill_fd < 0 || (matched && (random || !c->o->keep_stream_bytes || (c->o->streams_twice && bsi_source_reopens(f->source))))) return BOMSYNC_OK;
    if (!random || bsi_source_pack(f->source)) return bsi_scan_spill(place, f, p, n, c->o->tmp, err);
    spill_direct(c, place, p, n);
    return BOMSYNC_OK;
}

/* A record too long to hold: pass over it, fingerprint what was held. */
static bomsync_status oversize(cursor *c, bsi_scan_block *b, bomsync_error *err) {
    uint64_t state[2] = {0, 0};
    uint64_t length = 0;
    bsi_buf *buf = c->buf;
    fingerprint(c, buf->data + c->at, buf->len - c->at, &b->fp);
    b->plain = bsi_xxh128(buf->data + c->at, buf->len - c->at);
    uint64_t start = c->offset;
    bomsync_status st = spill(c, &b->spill, buf->data + c->at, BSI_RECORD_BYTES_MAX, false, err);
    if (st) return st;
    bool once = comes_once(c->f), cr = buf->data[c->at + BSI_RECORD_BYTES_MAX - 1] == '\r';
    int64_t lines = 0;
    for (;;) {
        int64_t got = bsi_cut_skip(state, &c->cut.dialect, buf->data + c->at, buf->len - c->at, c->end);
        if (got == -2) return refuse_quote(c, err);
        size_t used = got >= 0 ? (size_t)got : buf->len - c->at;
        size_t kept = length < BSI_RECORD_BYTES_MAX ? (size_t)BSI_MIN((uint64_t)used, BSI_RECORD_BYTES_MAX - length) : 0;
        if (once) lines += line_ends(&cr, buf->data + c->at + kept, used - kept);
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
    if (once) add_hole(c->f, start + BSI_RECORD_BYTES_MAX, length - BSI_RECORD_BYTES_MAX, lines);
    b->bytes = (uint32_t)length;
    b->records = 1;
    b->flags = BSI_CUT_OVERSIZE | (c->end && c->at == buf->len ? BSI_CUT_AT_END : 0u);
    b->fp.lo ^= length;
    b->plain.lo ^= length;
    return BOMSYNC_OK;
}

/* Cut the block at the cursor. *found false: the file ends here. */
static bomsync_status cut_block(cursor *c, bsi_scan_block *b, bool *found, bomsync_error *err) {
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

static bsi_scan_expected expected(cursor *c) {
    return (bsi_scan_expected){c->next, c->o->image ? bsi_image_next(&c->walk, c->next) : NULL, c->in_step};
}

/* The next blocks of the chain; *more false at the end of the file. Matched blocks may come many at once, but none that
 * starts at or after `until`. */
static bomsync_status cursor_step(cursor *c, uint64_t until, found_step *s, bool *more, bomsync_error *err) {
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

/* ---- lists of what was found ---- */

typedef struct found {
    bsi_scan_run *run;
    size_t runs, run_cap;
    bsi_scan_block *block; /* or brief, as the options say */
    bsi_scan_brief *brief;
    size_t blocks, block_cap;
    bsi_scan_unseen *unseen; /* of brief: those without a tag; few */
    size_t unseens, unseen_cap;
    uint64_t listed;       /* blocks of all runs */
    bool vast;             /* it may become long: those of a stretch of a file do not */
} found;

static bool continues(const bsi_scan_run *a, const bsi_scan_run *b) {
    return a->file == b->file && a->matched == b->matched && a->first + a->count == b->first && a->offset + a->bytes == b->offset &&
           (!a->matched || (a->spill == BSI_NO_SPILL ? b->spill == BSI_NO_SPILL : a->spill + a->bytes == b->spill));
}

static void *longer(const found *f, void *list, size_t bytes) { return f->vast ? bsi_vast_realloc(list, bytes) : bsi_realloc(list, bytes); }

static void add_run(found *f, const bsi_scan_run *r) {
    bsi_scan_run *last = f->runs ? &f->run[f->runs - 1] : NULL;
    f->listed += r->count;
    if (last && continues(last, r)) {
        last->count += r->count;
        last->bytes += r->bytes;
        last->records += r->records;
        return;
    }
    if (f->runs == f->run_cap) f->run = longer(f, f->run, (f->run_cap = f->run_cap ? f->run_cap * 2 : 16) * sizeof *f->run);
    f->run[f->runs++] = *r;
}

static void set_room(found *f, size_t cap, bool brief) {
    f->block_cap = cap;
    if (brief) f->brief = longer(f, f->brief, cap * sizeof *f->brief);
    else f->block = longer(f, f->block, cap * sizeof *f->block);
}

static void make_room(found *f, size_t n, bool brief) {
    if (f->blocks + n <= f->block_cap) return;
    if (f->blocks > SOME_BLOCKS) bsi_memory_large();
    set_room(f, BSI_MAX(f->block_cap * 2, f->blocks + n + 16), brief);
}

/* Blocks of `from`, whose list is of the same kind. */
static void add_blocks(found *f, const found *from, uint64_t first, size_t n) {
    make_room(f, n, from->brief != NULL);
    if (from->brief) memcpy(f->brief + f->blocks, from->brief + first, n * sizeof *f->brief);
    else memcpy(f->block + f->blocks, from->block + first, n * sizeof *f->block);
    f->blocks += n;
}

static bsi_scan_brief in_brief(const bsi_scan_block *b) {
    return (bsi_scan_brief){.plain = b->plain, .tag = b->tag, .bytes = b->bytes, .records = (uint16_t)b->records, .flags = (uint16_t)b->flags};
}

static void add_unseen(found *f, size_t brief, uint64_t offset, uint32_t file) {
    if (f->unseens == f->unseen_cap)
        f->unseen = bsi_realloc(f->unseen, (f->unseen_cap = f->unseen_cap ? f->unseen_cap * 2 : BSI_QUIET_BLOCKS) * sizeof *f->unseen);
    f->unseen[f->unseens++] = (bsi_scan_unseen){brief, offset, file};
}

static void add_step(found *f, found_step *s, bool brief) {
    if (!s->run.matched) {
        s->run.first = f->blocks;
        make_room(f, 1, brief);
        if (brief && s->block.tag == BSI_NO_TAG) add_unseen(f, f->blocks, s->run.offset, s->run.file);
        if (brief) f->brief[f->blocks++] = in_brief(&s->block);
        else f->block[f->blocks++] = s->block;
    }
    add_run(f, &s->run);
}

static void found_free(found *f) {
    void (*drop)(void *) = f->vast ? bsi_vast_free : free;
    drop(f->run);
    drop(f->block);
    drop(f->brief);
    free(f->unseen);
    *f = (found){0};
}

/* ---- units ---- */

typedef struct unit {
    uint32_t file;
    uint64_t from, to;
    uint64_t next;     /* image entry expected at from */
    bool sure;         /* from is a record start for certain */
    bool done;         /* its blocks are there: a pack's, from the index */
    bool ahead;        /* a part of a cold file: its bytes are asked for */
    atomic_bool walked; /* what is below is settled */
    found found;
    bomsync_status status;
    bomsync_error *err; /* NULL: none */
} unit;

typedef struct unit_run {
    bsi_scan *scan;
    const bsi_scan_options *o;
    unit *unit;
    size_t count;
    fp_index index;
    atomic_llong drift; /* entries between the one that was expected at the end of a unit and the one that stood there */
    const bsi_scan_ahead *ahead;
    size_t *part_unit; /* [parts] */
    size_t parts;      /* that have a unit */
    atomic_ullong done_bytes;
    uint64_t total_bytes;
    pthread_mutex_t lock; /* guards the buffers */
    bsi_buf spare[BSI_WORKERS_MAX];
    size_t spares;
    pthread_mutex_t join_lock; /* guards what is below */
    found all;         /* units before `joined`, as one chain */
    bsi_image_mark *mark; /* where the chain went on with a unit's blocks */
    size_t marks, mark_cap;
    size_t joined;
    uint64_t pos;      /* where the chain stands in the file of the unit before */
    bomsync_status status;
    bomsync_error err;
} unit_run;

/* A worker's read buffer goes from unit to unit: fresh pages cost as much as reading into them. */
static bsi_buf take_buffer(unit_run *r) {
    bsi_buf b = {0};
    pthread_mutex_lock(&r->lock);
    if (r->spares) b = r->spare[--r->spares];
    pthread_mutex_unlock(&r->lock);
    return b;
}

static void give_buffer(unit_run *r, bsi_buf b) {
    pthread_mutex_lock(&r->lock);
    if (r->spares < BSI_WORKERS_MAX && b.cap <= 4 * (size_t)BSI_READ_BYTES) {
        r->spare[r->spares++] = b;
        b = (bsi_buf){0};
    }
    pthread_mutex_unlock(&r->lock);
    bsi_buf_free(&b);
}

/* A guess: just after the next line end. */
static bomsync_status to_line_start(cursor *c, bomsync_error *err) {
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

static void tell_progress(unit_run *r, size_t index, uint64_t *told, uint64_t offset) {
    if (offset - *told < (4u << 20)) return;
    atomic_fetch_add(&r->done_bytes, offset - *told);
    *told = offset;
    const bomsync_read_options *ro = r->o->read;
    if (ro && ro->progress && index % (size_t)BSI_MAX(r->o->workers, 1) == 0)
        ro->progress(ro->progress_ctx, "reading", atomic_load(&r->done_bytes), r->total_bytes, 0);
}

/* Where the image says that a block starts, one starts if it is there; else any line start is a guess. */
static bomsync_status find_start(cursor *c, uint64_t else_next, bomsync_error *err) {
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

/* The cursor stands in what came for the unit, from its start on. */
static void use_arrival(cursor *c, unit_run *r, bsi_buf *view, const bsi_arrival *came) {
    const bsi_ahead_part *p = &r->ahead->part[came->part];
    size_t skip = (size_t)(c->offset - p->offset);
    if (came->bytes <= skip) return;
    *view = (bsi_buf){.data = (uint8_t *)(uintptr_t)came->data, .len = came->bytes, .cap = came->bytes};
    c->own = c->buf;
    c->buf = view;
    c->at = skip;
    c->end = p->offset + came->bytes >= bsi_source_size(c->f->source);
    c->ahead = r->ahead->queue;
    c->direct = came->direct;
}

/* The entry that is expected at the start of a unit, if it is not the one that stood there. */
static uint64_t drifted(unit_run *r, const unit *u) {
    int64_t drift = atomic_load_explicit(&r->drift, memory_order_relaxed);
    if (u->next == UINT64_MAX || !r->o->image) return u->next;
    if (drift < 0) return u->next - BSI_MIN(u->next, (uint64_t)-drift);
    return BSI_MIN(u->next + (uint64_t)drift, r->o->image->count);
}

static void tell_drift(unit_run *r, size_t index, const cursor *c) {
    const unit *next = index + 1 < r->count ? &r->unit[index + 1] : NULL;
    if (!next || next->file != c->file || next->next == UINT64_MAX || !c->trust || !r->o->image) return;
    atomic_store_explicit(&r->drift, (int64_t)c->next - (int64_t)next->next, memory_order_relaxed);
}

static void walk_unit(unit_run *r, size_t index, const bsi_arrival *came) {
    unit *u = &r->unit[index];
    cursor c;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_buf buf = take_buffer(r), view;
    cursor_open(&c, r->scan, u->file, r->o, &r->index, &buf, u->from, u->to, u->next);
    if (came) use_arrival(&c, r, &view, came);
    if (!u->sure) u->status = find_start(&c, drifted(r, u), &err);
    c.quiet = u->sure ? 0 : BSI_QUIET_BLOCKS; /* two chains meet after two or three */
    bool more = true;
    uint64_t told = c.offset;
    while (!u->status && c.offset < u->to) {
        found_step s;
        u->status = cursor_step(&c, u->to, &s, &more, &err);
        if (u->status || !more) break;
        add_step(&u->found, &s, r->o->brief);
        tell_progress(r, index, &told, c.offset);
    }
    if (u->status) memcpy(u->err = bsi_alloc(sizeof err), &err, sizeof err);
    else tell_drift(r, index, &c);
    give_buffer(r, buf);
    atomic_store(&u->walked, true);
}

/* ---- where to split ---- */

static void add_unit(unit_run *r, size_t *cap, unit u) {
    if (r->count == *cap) r->unit = bsi_realloc(r->unit, (*cap = *cap ? *cap * 2 : 16) * sizeof *r->unit);
    r->unit[r->count++] = u;
}

/* A pack's blocks as one unit. */
static void packed_unit(unit *u, bsi_scan_block *block, const uint32_t *match, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const bsi_scan_block *b = &block[i];
        found_step s = {.block = *b, .run = {.file = b->file, .offset = b->offset, .count = 1, .bytes = b->bytes, .records = b->records,
                                             .matched = match[i] != UINT32_MAX, .first = match[i], .spill = BSI_NO_SPILL}};
        add_step(&u->found, &s, false);
    }
}

static bomsync_status plan_units(unit_run *r, const bsi_split *x, bomsync_error *err) {
    size_t cap = 0;
    bsi_scan_pack_image *by_plain = NULL;
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t f = 0; f < r->scan->file_count && !st; f++) {
        bsi_scan_file *file = &r->scan->file[f];
        if (!file->layout) continue;
        bool random = bsi_source_random(file->source);
        uint64_t size = random ? bsi_source_size(file->source) : file->body;
        r->total_bytes += size;
        uint64_t step = BSI_UNIT_BYTES;
        if (random && r->o->workers > 1 && size / step < (uint64_t)r->o->workers * 4)
            step = BSI_MAX(size / ((uint64_t)r->o->workers * 2) + 1, (uint64_t)BSI_UNIT_BYTES_LEAST);
        if (!r->o->image) step = BSI_MIN(step, (uint64_t)BSI_MAX(BSI_UNIT_BYTES / 4, BSI_UNIT_BYTES_LEAST)); /* long work: the last ones end together */
        if (r->o->workers <= 1) step = UINT64_MAX / 2;
        if (r->ahead->cold[f]) step = BSI_PART_BYTES;
        unit packed = {.file = f, .from = file->body, .to = size, .sure = true, .found.vast = true};
        bsi_scan_block *block = NULL;
        uint32_t *match = NULL;
        size_t count = 0;
        st = bsi_scan_pack(&packed.done, &block, &match, &count, r->scan, f, r->o, &by_plain, err);
        if (packed.done && !st) {
            packed_unit(&packed, block, match, count);
            add_unit(r, &cap, packed);
        }
        free(block);
        free(match);
        for (uint64_t from = file->body, start = file->body; !packed.done && !st;) {
            unit u = {.file = f, .from = from, .to = random ? BSI_MIN(size, start + step) : UINT64_MAX, .sure = from == file->body, .found.vast = !random || r->o->workers <= 1};
            uint64_t at;
            u.next = bsi_split_near(x, f, file->body, from, step / 8, &at);
            if (!u.sure && u.next != UINT64_MAX && at < u.to) u.from = at;
            u.ahead = r->ahead->cold[f] && r->ahead->queue && from < size;
            if (u.ahead) r->part_unit[r->parts++] = r->count;
            add_unit(r, &cap, u);
            from = start = u.to;
            if (!random || u.to >= size) break;
        }
    }
    bsi_scan_pack_image_free(by_plain);
    return st;
}

/* ---- one chain ---- */

typedef struct place { /* in a unit's list: block `skip` of run `run`, which starts at `offset` */
    size_t run;
    uint64_t skip, offset, records;
} place;

/* The first block of the unit that starts at or after pos. */
static void advance(place *at, const unit *u, const bsi_image *image, uint64_t pos) {
    bsi_image_walk w = {.image = image};
    while (at->run < u->found.runs) {
        const bsi_scan_run *r = &u->found.run[at->run];
        if (r->offset + r->bytes <= pos) {
            at->run++;
            at->skip = 0;
            continue;
        }
        if (at->skip == 0) at->offset = r->offset, at->records = 0;
        if (at->offset >= pos) return;
        if (r->matched) {
            const bsi_image_entry *e = bsi_image_next(&w, r->first + at->skip);
            at->offset += e->bytes;
            at->records += e->records;
        } else {
            uint64_t i = r->first + at->skip;
            at->offset += u->found.brief ? u->found.brief[i].bytes : u->found.block[i].bytes;
            at->records += u->found.brief ? u->found.brief[i].records : u->found.block[i].records;
        }
        if (++at->skip < r->count) continue;
        at->run++; /* the end of a run is no start of a block */
        at->skip = 0;
    }
}

/* Of blocks first..first + n of `from`, which will stand at the end of f. */
static void adopt_unseen(found *f, const found *from, uint64_t first, uint64_t n) {
    for (size_t i = 0; i < from->unseens; i++) {
        const bsi_scan_unseen *b = &from->unseen[i];
        if (b->brief - first < n) add_unseen(f, f->blocks + (b->brief - first), b->offset, b->file);
    }
}

/* The rest of a unit's list, from there on, to the end of the scan's. */
static void adopt(found *all, unit *u, place at, uint64_t *pos) {
    for (size_t i = at.run; i < u->found.runs; i++) {
        bsi_scan_run r = u->found.run[i];
        if (i == at.run && at.skip) {
            r.first += at.skip;
            r.count -= at.skip;
            r.bytes -= at.offset - r.offset;
            if (r.spill != BSI_NO_SPILL) r.spill += at.offset - r.offset;
            r.records -= at.records;
            r.offset = at.offset;
        }
        if (!r.matched) {
            uint64_t from = r.first;
            r.first = all->blocks;
            adopt_unseen(all, &u->found, from, r.count);
            add_blocks(all, &u->found, from, r.count);
        }
        add_run(all, &r);
        *pos = r.offset + r.bytes;
    }
}

/* Open blocks of a unit that stand before `at`: its guess where to start was wrong. */
static void drop_before(const bsi_scan_options *o, const unit *u, const place *at) {
    for (size_t i = 0; o->dropped && i < u->found.runs && i <= at->run; i++) {
        const bsi_scan_run *r = &u->found.run[i];
        uint64_t count = i < at->run ? r->count : at->skip, offset = r->offset;
        for (uint64_t k = r->first; !r->matched && k < r->first + count; k++) {
            bsi_scan_block b = o->brief ? bsi_scan_full(&u->found.brief[k], r->file, offset) : u->found.block[k];
            offset += b.bytes;
            if (b.tag != BSI_NO_TAG) o->dropped(o->opened_ctx, &b);
        }
    }
}

/* The next scan may begin here, too. Cold files have many short units: a thousandth of all is enough. */
static void add_mark(unit_run *r, const unit *u, uint64_t offset) {
    const bsi_image_mark *last = r->marks ? &r->mark[r->marks - 1] : NULL;
    if (last && last->file == u->file && offset - last->offset < r->total_bytes / MARKS_MOST) return;
    if (r->marks == r->mark_cap) r->mark = bsi_realloc(r->mark, (r->mark_cap = r->mark_cap ? r->mark_cap * 2 : 64) * sizeof *r->mark);
    r->mark[r->marks++] = (bsi_image_mark){.entry = r->all.listed, .offset = offset, .file = u->file};
}

/* The chain of the left neighbours stands at *pos: go on block by block until it meets a block start of this unit. */
static bomsync_status join_unit(unit_run *r, found *all, unit *u, bool last, uint64_t *pos, bomsync_error *err) {
    bsi_scan_file *file = &r->scan->file[u->file];
    bool random = bsi_source_random(file->source), open = false, more = true, met = !random;
    bsi_buf buf = {0};
    cursor c;
    place at = {0};
    bomsync_status st = BOMSYNC_OK;
    if (u->status && u->sure) {
        *err = *u->err;
        return u->status;
    }
    while (random && !st) {
        advance(&at, u, r->o->image, *pos);
        met = at.run < u->found.runs && at.offset == *pos;
        if (met) break;
        if ((*pos >= u->to && !last) || *pos >= bsi_source_size(file->source)) break; /* the next unit takes over */
        const bsi_scan_run *before = all->runs ? &all->run[all->runs - 1] : NULL;
        if (!open) cursor_open(&c, r->scan, u->file, r->o, &r->index, &buf, *pos, *pos, before && before->matched ? before->first + before->count : u->next);
        open = true;
        found_step s;
        st = cursor_step(&c, c.offset + 1, &s, &more, err);
        if (st || !more) break;
        add_step(all, &s, r->o->brief);
        *pos = c.offset;
    }
    bsi_buf_free(&buf);
    if (st) return st;
    drop_before(r->o, u, &at);
    if (random && at.run < u->found.runs) add_mark(r, u, *pos - file->body);
    adopt(all, u, at, pos);
    if (!u->status || !met) return BOMSYNC_OK;
    *err = *u->err; /* past the place where its chain proved right a fault is a real one; else it was the guess */
    return u->status;
}

/* Room for what a unit brings, and those behind it. */
static void make_room_for(unit_run *r, const unit *u) {
    found *all = &r->all;
    size_t blocks = all->blocks + u->found.blocks, runs = all->runs + u->found.runs, more = 2 * SOME_BLOCKS;
    if (blocks + SOME_BLOCKS > all->block_cap) set_room(all, bsi_vast_expected(blocks, r->joined + 1, r->count) + more, r->o->brief);
    if (runs + SOME_BLOCKS <= all->run_cap) return;
    all->run_cap = bsi_vast_expected(runs, r->joined + 1, r->count) + more;
    all->run = longer(all, all->run, all->run_cap * sizeof *all->run);
}

static bomsync_status join_next(unit_run *r, bomsync_error *err) {
    unit *u = &r->unit[r->joined];
    bool first = !r->joined || u[-1].file != u->file, last = r->joined + 1 == r->count || u[1].file != u->file;
    if (first) r->pos = r->scan->file[u->file].body;
    make_room_for(r, u);
    bomsync_status st = join_unit(r, &r->all, u, last, &r->pos, err);
    found_free(&u->found);
    r->joined++;
    return st;
}

/* Join units to one chain, as far as they are walked one behind the other; see the head of this file. Workers do so whenever they
 * are done with one: else the others would wait for this at the end, and the lists of all units stand beside that of the chain. */
static void join_walked(unit_run *r) {
    while (!r->status && r->joined < r->count && atomic_load(&r->unit[r->joined].walked)) r->status = join_next(r, &r->err);
}

static bomsync_status stitch(unit_run *r, bomsync_error *err) {
    if (r->count == 1) { /* nothing to join */
        r->all = r->unit[0].found;
        r->unit[0].found = (found){0};
        if (r->unit[0].status) *err = *r->unit[0].err;
        return r->unit[0].status;
    }
    join_walked(r);
    if (r->status) *err = r->err;
    return r->status;
}

/* As many calls with the index of such a unit as there are parts: each takes one, whichever has arrived. */
static void run_unit(void *ctx, size_t index) {
    unit_run *r = ctx;
    bsi_arrival came;
    if (r->unit[index].done) {
        atomic_store(&r->unit[index].walked, true);
    } else if (!r->unit[index].ahead) {
        walk_unit(r, index, NULL);
    } else if (bsi_ahead_take(r->ahead->queue, &came)) {
        walk_unit(r, r->part_unit[came.part], &came);
        bsi_ahead_give(r->ahead->queue, &came);
    }
    if (r->count > 1 && pthread_mutex_trylock(&r->join_lock) == 0) {
        join_walked(r);
        pthread_mutex_unlock(&r->join_lock);
    }
}

/* ---- the list as the others see it ---- */

static void count_up(bsi_scan *s) {
    s->blocks = 0;
    s->bytes = 0;
    for (uint32_t f = 0; f < s->file_count; f++) s->file[f].records = 0;
    for (size_t i = 0; i < s->run_count; i++) {
        s->file[s->run[i].file].records += (int64_t)s->run[i].records;
        s->blocks += s->run[i].count;
        s->bytes += s->run[i].bytes;
    }
}

/* A matched block as an open one. */
static found_step opened(const bsi_scan_run *r, const bsi_image_entry *e, uint64_t before) {
    found_step t = {.run = {.file = r->file, .offset = r->offset + before, .count = 1, .bytes = e->bytes, .records = e->records}};
    t.block = (bsi_scan_block){.file = r->file, .offset = t.run.offset, .tag = BSI_NO_TAG, .fp = e->fp, .plain = e->plain, .bytes = e->bytes,
                               .records = e->records, .blanks = e->blanks};
    t.block.flags = (e->flags & BSI_IMAGE_AT_END ? BSI_CUT_AT_END : 0u) | (e->flags & BSI_IMAGE_LONE_CR ? BSI_CUT_LONE_CR : 0u);
    t.block.spill = r->spill == BSI_NO_SPILL ? BSI_NO_SPILL : r->spill + before;
    return t;
}

bsi_scan_block bsi_scan_full(const bsi_scan_brief *b, uint32_t file, uint64_t offset) {
    return (bsi_scan_block){.offset = offset, .spill = BSI_NO_SPILL, .tag = b->tag, .plain = b->plain, .file = file, .bytes = b->bytes,
                            .records = b->records, .flags = b->flags};
}

void bsi_scan_expand(bsi_scan *s) {
    if (s->block) return;
    s->block = bsi_vast_alloc((s->brief_count + 1) * sizeof *s->block);
    for (size_t i = 0; i < s->run_count; i++) {
        uint64_t offset = s->run[i].offset, end = s->run[i].first + s->run[i].count;
        for (uint64_t k = s->run[i].first; k < end; k++) {
            s->block[k] = bsi_scan_full(&s->brief[k], s->run[i].file, offset);
            offset += s->brief[k].bytes;
        }
    }
    s->block_count = s->brief_count;
}

void bsi_scan_forget_brief(bsi_scan *s) {
    bsi_vast_free(s->brief);
    free(s->unseen);
    s->brief = NULL;
    s->unseen = NULL;
    s->brief_count = s->unseen_count = 0;
}

size_t bsi_scan_reopen(bsi_scan *s, const bsi_image *image, bool (*hit)(void *ctx, uint64_t index, const bsi_image_entry *e), void *ctx) {
    found all = {.vast = true}, before_it = {.block = s->block};
    size_t hits = 0;
    bsi_image_walk w = {.image = image};
    for (size_t i = 0; i < s->run_count; i++) {
        bsi_scan_run r = s->run[i];
        if (!r.matched) {
            uint64_t from = r.first;
            r.first = all.blocks;
            add_blocks(&all, &before_it, from, r.count);
            add_run(&all, &r);
            continue;
        }
        uint64_t before = 0;
        for (uint64_t k = 0; k < r.count; k++) {
            const bsi_image_entry *e = bsi_image_next(&w, r.first + k);
            bool open = hit(ctx, r.first + k, e);
            found_step t = {.run = {.file = r.file, .offset = r.offset + before, .count = 1, .bytes = e->bytes, .records = e->records, .matched = true,
                              .first = r.first + k, .spill = r.spill == BSI_NO_SPILL ? BSI_NO_SPILL : r.spill + before}};
            if (open) t = opened(&r, e, before);
            add_step(&all, &t, false);
            hits += open;
            before += e->bytes;
        }
    }
    bsi_vast_free(s->run);
    bsi_vast_free(s->block);
    s->run = all.run;
    s->run_count = all.runs;
    s->block = all.block;
    s->block_count = all.blocks;
    return hits;
}

static bool taken(void *ctx, uint64_t index, const bsi_image_entry *e) {
    (void)e;
    uint8_t *used = ctx, bit = (uint8_t)(1u << (index & 7));
    bool was = used[index >> 3] & bit;
    used[index >> 3] |= bit;
    return was;
}

/* Each entry once, in file order: a second block with the same bytes is looked at. */
static void settle_matches(bsi_scan *s, const bsi_image *image) {
    uint64_t past = 0;
    bool ascending = true;
    for (size_t i = 0; i < s->run_count; i++) {
        if (!s->run[i].matched) continue;
        if (s->run[i].first < past) ascending = false;
        past = s->run[i].first + s->run[i].count;
    }
    s->ascending = ascending;
    if (ascending) return;
    uint8_t *used = bsi_calloc((image->count + 7) / 8, 1);
    bsi_scan_reopen(s, image, taken, used);
    free(used);
}

/* ---- cold files: which, in which parts ---- */

static void add_parts(bsi_scan_ahead *a, const bsi_scan_file *f) {
    uint64_t size = bsi_source_size(f->source);
    for (uint64_t at = f->body; at < size; at += BSI_PART_BYTES) {
        if ((a->parts & (a->parts - 1)) == 0) a->part = bsi_realloc(a->part, BSI_MAX(a->parts * 2, (size_t)1) * sizeof *a->part);
        size_t bytes = (size_t)BSI_MIN(size - at, (uint64_t)BSI_PART_BYTES + BSI_PART_PAST_BYTES);
        a->part[a->parts++] = (bsi_ahead_part){.source = f->source, .offset = at, .bytes = bytes};
    }
}

void bsi_scan_start(bsi_scan *scan, const char *tmp, bool direct) {
    bsi_scan_ahead *a = scan->ahead = bsi_calloc(1, sizeof *a);
    a->cold = bsi_calloc(scan->file_count + 1, sizeof *a->cold);
    for (size_t i = 0; i < scan->file_count; i++) {
        bsi_scan_file *f = &scan->file[i];
        if (!f->layout || !bsi_source_cold(f->source)) continue;
        a->cold[i] = a->any = true;
        add_parts(a, f);
        if (direct && (f->spill_fd = open(tmp, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) < 0) direct = false;
    }
    if (a->parts) {
        bsi_memory_large(); /* its buffers */
        a->queue = bsi_ahead_open(a->part, a->parts, direct);
    }
}

static void ahead_close(bsi_scan_ahead *a) {
    if (!a) return;
    bsi_ahead_close(a->queue);
    free(a->part);
    free(a->cold);
    free(a);
}

static void unit_run_release(unit_run *r) {
    for (size_t i = 0; i < r->count; i++) {
        found_free(&r->unit[i].found);
        free(r->unit[i].err);
    }
    for (size_t i = 0; i < r->spares; i++) bsi_buf_free(&r->spare[i]);
    free(r->unit);
    free(r->part_unit);
    bsi_vast_free(r->index.slot);
    pthread_mutex_destroy(&r->index.lock);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->join_lock);
}

bomsync_status bsi_scan_blocks(bsi_scan *scan, const bsi_scan_options *o, bomsync_error *err) {
    unit_run r = {.scan = scan, .o = o, .all.vast = true, .err = BOMSYNC_ERROR_INIT};
    scan->tmp = o->tmp;
    for (size_t f = 0; f < scan->file_count; f++) {
        bsi_scan_file *file = &scan->file[f];
        if (!file->layout || (bsi_source_random(file->source) && !bsi_source_pack(file->source))) continue;
        file->spill_fd = open(o->tmp, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (file->spill_fd < 0) return bsi_fail_errno(err, errno, o->tmp, "could not make a temporary file in \"%s\"", o->tmp);
    }
    for (size_t f = 0; f < scan->file_count; f++)
        if (bsi_source_pack(scan->file[f].source)) bsi_memory_large(); /* its blocks are listed one by one */
    pthread_mutex_init(&r.index.lock, NULL);
    pthread_mutex_init(&r.lock, NULL);
    pthread_mutex_init(&r.join_lock, NULL);
    bsi_parse_use_isa((int)o->isa);
    bsi_hash_use((bsi_hash_isa)o->isa);
    bsi_emit_use_isa((int)o->isa);
    bsi_store_use_isa((int)o->isa);
    bsi_scan_options local = *o;
    if (!o->image || !o->image->count) local.image = NULL;
    if (!local.image || !o->tier_block) bsi_memory_large();
    r.o = &local;
    if (!scan->ahead) bsi_scan_start(scan, o->tmp, local.image && o->tier_block);
    r.ahead = scan->ahead;
    r.part_unit = bsi_alloc((r.ahead->parts + 1) * sizeof *r.part_unit);
    bsi_split x;
    bsi_split_open(&x, o->workers > 1 || r.ahead->any ? local.image : NULL, o->mark, o->mark_count, o->workers);
    bomsync_status st = plan_units(&r, &x, err);
    if (r.count == 1) r.unit[0].found.vast = true; /* the list of all */
    if (!st) bsi_parallel(o->workers, r.count, run_unit, &r);
    if (!st) st = stitch(&r, err);
    found all = r.all;
    unit_run_release(&r);
    ahead_close(scan->ahead);
    scan->ahead = NULL;
    bsi_split_close(&x);
    scan->mark = r.mark;
    scan->mark_count = r.marks;
    scan->run = all.run;
    scan->run_count = all.runs;
    scan->block = all.block;
    scan->block_count = o->brief ? 0 : all.blocks;
    scan->brief = all.brief;
    scan->brief_count = o->brief ? all.blocks : 0;
    scan->unseen = all.unseen;
    scan->unseen_count = all.unseens;
    if (all.blocks) bsi_memory_large();
    if (!st) settle_matches(scan, local.image);
    count_up(scan);
    for (size_t f = 0; f < scan->file_count && !st; f++) st = bsi_source_settled(scan->file[f].source, err);
    return st;
}

/* ---- opening, closing, reading again ---- */

static bool has_suffix(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

bsi_dialect bsi_scan_dialect(const bomsync_read_options *read, const char *path) {
    bsi_dialect d = {.delimiter = read->delimiter, .quote = read->quote ? read->quote : '"', .lenient = read->lenient};
    if (!d.delimiter) {
        bool tsv = has_suffix(path, ".tsv") || has_suffix(path, ".tsv.gz") || has_suffix(path, ".tsv.zst");
        d.delimiter = tsv ? '\t' : ',';
    }
    return d;
}

static bomsync_status read_header(bsi_scan_file *f, char ***names, uint32_t *count, const bsi_dialect *d, bomsync_error *err) {
    size_t want = BSI_HEAD_BYTES;
    for (;;) {
        size_t bytes = 0;
        bool end;
        bsi_buf_reserve(&f->head, want + MARGIN);
        if (bsi_source_random(f->source)) {
            f->head.len = 0;
            bsi_buf_reserve(&f->head, want + MARGIN);
            ssize_t n = bsi_source_pread(f->source, f->head.data, want, 0, err);
            if (n < 0) return err->status;
            f->head.len = (size_t)n;
            end = f->head.len >= bsi_source_size(f->source);
        } else {
            ssize_t n = 1;
            while (n > 0 && f->head.len < want) {
                bsi_buf_reserve(&f->head, want - f->head.len + MARGIN);
                n = bsi_source_read(f->source, f->head.data + f->head.len, want - f->head.len, err);
                if (n < 0) return err->status;
                f->head.len += (size_t)n;
            }
            end = f->at_end = n == 0;
        }
        bomsync_error local = BOMSYNC_ERROR_INIT;
        bomsync_status st = bsi_parse_header(names, count, &bytes, d, f->head.data, f->head.len, end, &local);
        bool incomplete = !end && (st || bytes >= f->head.len);
        if (incomplete && want < BSI_RECORD_BYTES_MAX) {
            if (!st) {
                for (uint32_t i = 0; i < *count; i++) free((*names)[i]);
                free(*names);
            }
            want *= 4;
            continue;
        }
        if (st) {
            *err = local;
            bsi_at(err, bsi_source_path(f->source), 0, 1, NULL, NULL, 0);
            return st;
        }
        f->body = bytes;
        if (!bsi_source_random(f->source)) {
            bool cr = false;
            f->body_line = 1 + line_ends(&cr, f->head.data, bytes);
            memmove(f->head.data, f->head.data + bytes, f->head.len - bytes);
            f->head.len -= bytes;
        } else {
            bsi_buf_free(&f->head);
        }
        return BOMSYNC_OK;
    }
}

bomsync_status bsi_scan_open(bsi_scan *scan, char *const *paths, size_t path_count, bsi_slots *slots,
                             const bomsync_read_options *read, const char *const *key, uint32_t key_count,
                             const char *partition, const char *const *ignore, uint32_t ignore_count, int workers,
                             bomsync_error *err) {
    scan->file = bsi_calloc(path_count, sizeof *scan->file);
    for (size_t i = 0; i < path_count; i++) {
        bsi_scan_file *f = &scan->file[i];
        f->spill_fd = -1;
        bsi_source_options so = {.encoding = read->encoding, .trailer_regex = read->trailer, .io = read->io ? read->io : "auto", .workers = workers};
        bomsync_status st = bsi_source_open(&f->source, paths[i], &so, err);
        if (st) return st;
        scan->file_count++;
        bsi_dialect d = bsi_scan_dialect(read, paths[i]);
        char **names = NULL;
        uint32_t count = 0;
        st = read_header(f, &names, &count, &d, err);
        if (st) return st;
        if (!count) continue;
        st = bsi_layout_open(&f->layout, slots, &d, (const char *const *)names, count, key, key_count, partition, ignore, ignore_count,
                             read->nulls, (uint32_t)read->null_count, err);
        for (uint32_t c = 0; c < count; c++) free(names[c]);
        free(names);
        if (st) {
            bsi_at(err, paths[i], 0, 1, NULL, NULL, 0);
            return st;
        }
    }
    for (size_t i = 0; i < scan->file_count; i++) /* columns that only a later file has are absent in the earlier ones */
        if (scan->file[i].layout) bsi_layout_widen(scan->file[i].layout, slots);
    return BOMSYNC_OK;
}

static bomsync_status refuse_changed(const bsi_scan_file *f, uint64_t offset, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "the file changed while it was read");
    bsi_at(err, bsi_source_path(f->source), (int64_t)offset, -1, NULL, NULL, 0);
    return BOMSYNC_E_REFUSED;
}

/* ---- blocks of a stream that matched first, and are wanted after all ---- */

struct bsi_scan_again {
    struct place_of {
        uint64_t offset, spill;
    } *place; /* ascending by offset */
    size_t count;
};

static pthread_mutex_t again_lock = PTHREAD_MUTEX_INITIALIZER; /* guards bsi_scan_file.again; inside it only those of the stream that is read */

static const struct place_of *find_place(const bsi_scan_again *a, uint64_t offset) {
    size_t lo = 0, hi = a ? a->count : 0;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (a->place[mid].offset < offset) lo = mid + 1;
        else hi = mid;
    }
    return a && lo < a->count && a->place[lo].offset == offset ? &a->place[lo] : NULL;
}

/* Bytes [*at, at + n) of a stream that is read for the second time; the buffer ends with them. */
static bomsync_status read_to(bsi_source *s, uint64_t *at, uint64_t end, bsi_buf *buf, size_t n, const bsi_scan_file *f, bomsync_error *err) {
    while (*at < end) {
        buf->len = BSI_MIN(buf->len, n); /* only the last n are wanted */
        size_t want = (size_t)BSI_MIN(end - *at, (uint64_t)BSI_READ_BYTES);
        bsi_buf_reserve(buf, want);
        ssize_t got = bsi_source_read(s, buf->data + buf->len, want, err);
        if (got < 0) return err->status;
        if (!got) return refuse_changed(f, *at, err);
        buf->len += (size_t)got;
        *at += (uint64_t)got;
        if (buf->len > n) {
            memmove(buf->data, buf->data + buf->len - n, n);
            buf->len = n;
        }
    }
    return BOMSYNC_OK;
}

/* All open blocks of the file whose bytes are nowhere, in one pass from its front, to the spill file. */
static bomsync_status read_stream_again(bsi_scan *scan, uint32_t file, bomsync_error *err) {
    bsi_scan_file *f = &scan->file[file];
    bsi_scan_again *a = bsi_calloc(1, sizeof *a);
    bsi_source *s = NULL;
    bsi_buf buf = {0};
    uint64_t at = 0;
    bomsync_status st = bsi_source_reopen(&s, f->source, err);
    for (size_t i = 0; i < scan->block_count && !st; i++) {
        const bsi_scan_block *b = &scan->block[i];
        if (b->file != file || b->spill != BSI_NO_SPILL) continue;
        const struct place_of *known = find_place(f->again, b->offset);
        struct place_of p = {b->offset, known ? known->spill : 0};
        buf.len = 0;
        if (!known) st = read_to(s, &at, b->offset, &buf, 0, f, err);
        if (!known && !st) st = read_to(s, &at, b->offset + b->bytes, &buf, b->bytes, f, err);
        if (!known && !st && !bsi_hash128_eq(bsi_xxh128(buf.data, b->bytes), b->plain)) st = refuse_changed(f, b->offset, err);
        if (!known && !st) st = bsi_scan_spill(&p.spill, f, buf.data, b->bytes, scan->tmp, err);
        if ((a->count & (a->count - 1)) == 0) a->place = bsi_realloc(a->place, BSI_MAX(a->count * 2, (size_t)1) * sizeof *a->place);
        a->place[a->count++] = p;
    }
    bsi_buf_free(&buf);
    bsi_source_close(s);
    if (f->again) free(f->again->place);
    free(f->again);
    f->again = a;
    return st;
}

static bomsync_status place_again(uint64_t *spill, bsi_scan *scan, const bsi_scan_block *b, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    pthread_mutex_lock(&again_lock);
    const struct place_of *p = find_place(scan->file[b->file].again, b->offset);
    if (!p && !(st = read_stream_again(scan, b->file, err))) p = find_place(scan->file[b->file].again, b->offset);
    if (p) *spill = p->spill;
    pthread_mutex_unlock(&again_lock);
    return st;
}

static bomsync_status read_again(bsi_scan_file *f, uint64_t offset, uint64_t spilled, size_t n, bsi_buf *buf, bomsync_error *err) {
    buf->len = 0;
    bsi_buf_reserve(buf, n + MARGIN);
    if (spilled == BSI_NO_SPILL) {
        ssize_t got = bsi_source_pread(f->source, buf->data, n, offset, err);
        if (got < 0) return err->status;
        if ((size_t)got != n) return refuse_changed(f, offset, err);
    } else {
        for (size_t done = 0; done < n;) {
            ssize_t got = pread(f->spill_fd, buf->data + done, n - done, (off_t)(spilled + done));
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return bsi_fail_errno(err, got ? errno : EIO, NULL, "could not read a temporary file");
            done += (size_t)got;
        }
    }
    buf->len = n;
    return BOMSYNC_OK;
}

bool bsi_scan_alone(const bsi_scan *scan, size_t i) {
    const bsi_scan_block *b = &scan->block[i];
    return b->spill != BSI_NO_SPILL || (b->flags & BSI_CUT_OVERSIZE) || !bsi_source_random(scan->file[b->file].source) ||
           bsi_source_pack(scan->file[b->file].source);
}

bomsync_status bsi_scan_bytes(bsi_scan *scan, size_t i, bsi_buf *buf, bomsync_error *err) {
    const bsi_scan_block *b = &scan->block[i];
    size_t n = BSI_MIN((size_t)b->bytes, (size_t)BSI_RECORD_BYTES_MAX); /* of an oversize record the front is enough */
    uint64_t spilled = b->spill;
    if (spilled == BSI_NO_SPILL && !bsi_source_random(scan->file[b->file].source)) {
        bomsync_status st = place_again(&spilled, scan, b, err);
        if (st) return st;
    }
    return read_again(&scan->file[b->file], b->offset, spilled, n, buf, err);
}

/* Blocks from i on that stand one behind the other in the file, while they fit. */
static size_t bytes_from(const bsi_scan *scan, size_t i, size_t most) {
    const bsi_scan_block *b = &scan->block[i];
    size_t bytes = b->bytes;
    for (size_t k = i + 1; k < scan->block_count; k++) {
        const bsi_scan_block *next = &scan->block[k];
        if (next->file != b->file || next->offset != b->offset + bytes || bytes + next->bytes > most || bsi_scan_alone(scan, k)) break;
        bytes += next->bytes;
    }
    return bytes;
}

bomsync_status bsi_scan_bytes_on(const uint8_t **p, size_t *n, bsi_scan *scan, size_t i, bsi_scan_window *w, bomsync_error *err) {
    enum { MOST_BYTES = 32 << 10 }; /* 300 usual records: a batch of changes takes two reads */
    const bsi_scan_block *b = &scan->block[i];
    bool near = i > w->block && i - w->block <= 256, alone = bsi_scan_alone(scan, i); /* others may have taken what is between */
    w->block = i;
    *n = BSI_MIN((size_t)b->bytes, (size_t)BSI_RECORD_BYTES_MAX);
    if (!alone && b->file == w->file && b->offset >= w->offset && b->offset + *n <= w->offset + w->buf.len) {
        *p = w->buf.data + (b->offset - w->offset);
        return BOMSYNC_OK;
    }
    w->file = b->file;
    w->offset = b->offset;
    bomsync_status st = near && !alone ? read_again(&scan->file[b->file], b->offset, BSI_NO_SPILL, bytes_from(scan, i, MOST_BYTES), &w->buf, err)
                                       : bsi_scan_bytes(scan, i, &w->buf, err);
    if (st || alone) w->file = UINT32_MAX; /* nothing else is in it */
    *p = w->buf.data;
    return st;
}

bomsync_status bsi_scan_range(bsi_scan *scan, const bsi_scan_run *run, uint64_t before, size_t bytes, bsi_buf *buf, bomsync_error *err) {
    return read_again(&scan->file[run->file], run->offset + before, run->spill == BSI_NO_SPILL ? BSI_NO_SPILL : run->spill + before, bytes, buf, err);
}

static bool is_kept(uint64_t only, uint32_t row) { return !only || (row < 64 && (only >> row & 1)); }

bsi_rows *bsi_scan_keep(const bsi_rows *w, uint64_t only, size_t *bytes) {
    enum { MARGIN_BYTES = 32 }; /* who renders may look so far past a field */
    if (w->bad_count) return NULL;
    size_t n = 0, images = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        if (!is_kept(only, i)) continue;
        n++;
        images += w->image[i + 1] - w->image[i];
    }
    *bytes = sizeof *w + n * 16 + (n + 1) * 4 + n * 4 + n + images + MARGIN_BYTES;
    uint8_t *p = bsi_alloc(*bytes);
    bsi_rows *k = (bsi_rows *)(void *)p;
    *k = (bsi_rows){.count = (uint32_t)n, .blanks = w->blanks, .only = only};
    p += sizeof *k;
#define PLACE(member, size) k->member = (void *)p, p += (size)
    PLACE(kh, n * 8);
    PLACE(rh, n * 8);
    PLACE(body, n * 4);
    PLACE(image, (n + 1) * 4);
    PLACE(bad, n);
#undef PLACE
    memset(k->bad, 0, n);
    k->enc = (bsi_buf){.data = p, .cap = images + MARGIN_BYTES};
    for (uint32_t i = 0, to = 0; i < w->count; i++) {
        if (!is_kept(only, i)) continue;
        size_t length = w->image[i + 1] - w->image[i];
        k->kh[to] = w->kh[i];
        k->rh[to] = w->rh[i];
        k->body[to] = w->body[i];
        k->image[to++] = (uint32_t)k->enc.len;
        memcpy(p + k->enc.len, w->enc.data + w->image[i], length);
        k->enc.len += length;
    }
    k->image[n] = (uint32_t)k->enc.len;
    return k;
}

void bsi_scan_forget(bsi_scan *scan) {
    for (size_t i = 0; scan->parsed && i < scan->block_count; i++) free(scan->parsed[i]);
    bsi_vast_free(scan->parsed);
    scan->parsed = NULL;
}

void bsi_scan_close(bsi_scan *scan) {
    bsi_scan_forget(scan);
    ahead_close(scan->ahead);
    for (size_t i = 0; i < scan->file_count; i++) {
        bsi_source_close(scan->file[i].source);
        bsi_layout_close(scan->file[i].layout);
        bsi_buf_free(&scan->file[i].head);
        if (scan->file[i].lines) free(scan->file[i].lines->hole);
        free(scan->file[i].lines);
        if (scan->file[i].again) free(scan->file[i].again->place);
        free(scan->file[i].again);
        if (scan->file[i].spill_fd >= 0) close(scan->file[i].spill_fd);
    }
    free(scan->file);
    bsi_vast_free(scan->block);
    bsi_vast_free(scan->brief);
    free(scan->unseen);
    free(scan->mark);
    bsi_vast_free(scan->run);
    *scan = (bsi_scan){0};
}
