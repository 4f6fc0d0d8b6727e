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
 * Matching after a miss: look a few entries ahead (sequence), then everywhere (an index of all fingerprints, built
 * when the first unit gets lost). Which entry a block takes is decided in file order when the units are stitched,
 * so two equal blocks never depend on who was faster.
 *
 * Tried and dropped: mmap of the input (page faults cost more than the copy of pread into a buffer that stays in
 * cache); claiming entries in the workers (order then depends on timing).
 */
#include "run/scan.h"
#include "run/scan_pack.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/limits.h"

enum { MARGIN = 64, LOOK_AHEAD = 32, LOST_AFTER = 8, UNIT_BYTES = 16 << 20, HEAD_BYTES = 64 << 10 };

/* ---- the image, by index and by fingerprint ---- */

const bsi_image_entry *bsi_image_at(const bsi_image *image, uint64_t index) {
    size_t lo = 0, hi = image->piece_count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (image->piece[mid].first <= index) lo = mid;
        else hi = mid;
    }
    return &image->piece[lo].entry[index - image->piece[lo].first];
}

typedef struct image_walk { /* cheap access to neighbouring entries */
    const bsi_image *image;
    size_t piece;
} image_walk;

static const bsi_image_entry *walk_to(image_walk *w, uint64_t index) {
    const bsi_image *im = w->image;
    if (index >= im->count) return NULL;
    while (index < im->piece[w->piece].first) w->piece--;
    while (index >= im->piece[w->piece].first + im->piece[w->piece].count) w->piece++;
    return &im->piece[w->piece].entry[index - im->piece[w->piece].first];
}

typedef struct fp_index {
    pthread_mutex_t lock;
    atomic_bool ready;
    uint32_t *slot; /* index + 1 */
    uint64_t mask;
} fp_index;

static void index_build(fp_index *x, const bsi_image *image) {
    pthread_mutex_lock(&x->lock);
    if (!atomic_load(&x->ready)) {
        uint64_t size = 64;
        while (size < image->count * 2) size *= 2;
        x->mask = size - 1;
        x->slot = bsi_calloc(size, sizeof *x->slot);
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

typedef struct cursor {
    bsi_scan_file *f;
    uint32_t file;
    const bsi_scan_options *o;
    bsi_cut_options cut;
    fp_index *index;
    bsi_buf buf;        /* bytes from buf_at on */
    size_t at;          /* next block starts at buf.data[at] */
    uint64_t offset;    /* of that byte in the file */
    bool end;           /* buf reaches the end of the file */
    uint64_t next;      /* image entry expected here */
    bool trust;         /* the last block matched: try the stored length first */
    unsigned lost;
    image_walk walk;
} cursor;

static void cursor_open(cursor *c, bsi_scan *scan, uint32_t file, const bsi_scan_options *o, fp_index *index, uint64_t offset,
                        uint64_t next) {
    *c = (cursor){.f = &scan->file[file], .file = file, .o = o, .index = index, .offset = offset, .next = next, .trust = true};
    c->cut = (bsi_cut_options){.dialect = c->f->layout->dialect, .block_records = o->block_records, .isa = (int)o->isa};
    c->walk.image = o->image;
}

/* Keep what is not consumed, read more behind it. */
static bomsync_status cursor_fill(cursor *c, bomsync_error *err) {
    size_t rest = c->buf.len - c->at;
    if (rest) memmove(c->buf.data, c->buf.data + c->at, rest);
    c->buf.len = rest;
    c->at = 0;
    size_t want = rest < BSI_READ_BYTES / 2 ? BSI_READ_BYTES - rest : rest; /* a long record: double */
    bsi_buf_reserve(&c->buf, want + MARGIN);
    bsi_source *s = c->f->source;
    if (bsi_source_random(s)) {
        ssize_t n = bsi_source_pread(s, c->buf.data + rest, want, c->offset + rest, err);
        if (n < 0) return err->status;
        c->buf.len += (size_t)n;
        c->end = c->offset + c->buf.len >= bsi_source_size(s);
        return BOMSYNC_OK;
    }
    if (c->f->head.len) { /* what the header search had read ahead */
        bsi_buf_add(&c->buf, c->f->head.data, c->f->head.len);
        bsi_buf_reserve(&c->buf, MARGIN);
        c->f->head.len = 0;
        c->end = c->f->at_end;
        return BOMSYNC_OK;
    }
    if (c->f->at_end) {
        c->end = true;
        return BOMSYNC_OK;
    }
    ssize_t n = bsi_source_read(s, c->buf.data + rest, want, err);
    if (n < 0) return err->status;
    c->buf.len += (size_t)n;
    if (n == 0) c->end = true;
    return BOMSYNC_OK;
}

static void fingerprint(const cursor *c, const uint8_t *p, size_t n, bsi_hash128 *fp) {
    *fp = bsi_xxh128_secret(p, n, c->o->secret);
    fp->lo ^= c->f->layout->mix.lo;
    fp->hi ^= c->f->layout->mix.hi;
}

static bool entry_usable(const bsi_image_entry *e) { return e && (e->flags & BSI_IMAGE_EXACT); }

/* Is the block at the cursor the one that the image expects? Then no line end needs to be found. */
static bool expected(cursor *c, bsi_scan_block *b) {
    const bsi_image_entry *e = walk_to(&c->walk, c->next);
    size_t have = c->buf.len - c->at;
    if (!entry_usable(e) || e->bytes > have) return false;
    bool at_end = c->end && e->bytes == have;
    if ((e->flags & BSI_IMAGE_AT_END) && !at_end) return false; /* it ended with its file: more bytes, another cut */
    const uint8_t *p = c->buf.data + c->at;
    if ((e->flags & BSI_IMAGE_LONE_CR) && !at_end && (e->bytes == have || p[e->bytes] == '\n')) return false;
    fingerprint(c, p, e->bytes, &b->fp);
    if (!bsi_hash128_eq(b->fp, e->fp)) return false;
    b->bytes = e->bytes;
    b->records = e->records;
    b->blanks = e->blanks;
    b->flags = (e->flags & BSI_IMAGE_AT_END ? BSI_CUT_AT_END : 0u) | (e->flags & BSI_IMAGE_LONE_CR ? BSI_CUT_LONE_CR : 0u);
    b->plain = e->plain;
    b->match = (uint32_t)c->next++;
    return true;
}

static bool look_up(cursor *c, bsi_scan_block *b) {
    if (!c->o->image || !c->o->image->count) return false;
    if (c->o->tier_sequence) {
        for (uint64_t i = c->next; i < c->next + LOOK_AHEAD; i++) {
            const bsi_image_entry *e = walk_to(&c->walk, i);
            if (!e) break;
            if (e->fp.lo != b->fp.lo || !entry_usable(e) || !bsi_hash128_eq(e->fp, b->fp)) continue;
            b->match = (uint32_t)i;
            c->next = i + 1;
            c->lost = 0;
            return true;
        }
    }
    if (c->lost++ < LOST_AFTER && c->o->tier_sequence) return false;
    if (!atomic_load(&c->index->ready)) index_build(c->index, c->o->image);
    for (uint64_t h = b->fp.lo & c->index->mask; c->index->slot[h]; h = (h + 1) & c->index->mask) {
        uint32_t i = c->index->slot[h] - 1;
        if (!bsi_hash128_eq(bsi_image_at(c->o->image, i)->fp, b->fp)) continue;
        b->match = i;
        c->next = (uint64_t)i + 1;
        c->lost = 0;
        return true;
    }
    return false;
}

static bomsync_status refuse_quote(cursor *c, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "a quote is never closed");
    bsi_at(err, bsi_source_path(c->f->source), (int64_t)c->offset, bsi_source_line(c->f->source, c->offset), NULL, NULL, 0);
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

/* What may be read again and costs more than a pread: a stream cannot go back, a pack would decompress a frame. */
static bomsync_status spill(cursor *c, bsi_scan_block *b, const uint8_t *p, bomsync_error *err) {
    bsi_scan_file *f = c->f;
    b->spill = BSI_NO_SPILL;
    if (f->spill_fd < 0 || (b->match != BSI_NO_MATCH && (bsi_source_random(f->source) || !c->o->keep_stream_bytes))) return BOMSYNC_OK;
    return bsi_scan_spill(&b->spill, f, p, b->bytes, c->o->tmp, err);
}

/* A record too long to hold: pass over it, fingerprint what was held. */
static bomsync_status oversize(cursor *c, bsi_scan_block *b, bomsync_error *err) {
    uint64_t state[2] = {0, 0};
    uint64_t length = 0;
    fingerprint(c, c->buf.data + c->at, c->buf.len - c->at, &b->fp);
    b->plain = bsi_xxh128(c->buf.data + c->at, c->buf.len - c->at);
    uint64_t start = c->offset;
    b->bytes = BSI_RECORD_BYTES_MAX;
    bomsync_status spilled = spill(c, b, c->buf.data + c->at, err);
    if (spilled) return spilled;
    for (;;) {
        int64_t got = bsi_cut_skip(state, &c->cut.dialect, c->buf.data + c->at, c->buf.len - c->at, c->end);
        if (got == -2) return refuse_quote(c, err);
        size_t used = got >= 0 ? (size_t)got : c->buf.len - c->at;
        length += used;
        c->at += used;
        c->offset += used;
        if (got >= 0 || (c->end && c->at == c->buf.len)) break;
        bomsync_status st = cursor_fill(c, err);
        if (st) return st;
    }
    if (length > UINT32_MAX) {
        bsi_fail(err, BOMSYNC_E_REFUSED, "a record is longer than 4 GB");
        bsi_at(err, bsi_source_path(c->f->source), (int64_t)start, -1, NULL, NULL, 0);
        bsi_hint(err, "nothing was changed; is this a CSV file with this delimiter and these line ends?");
        return BOMSYNC_E_REFUSED;
    }
    b->bytes = (uint32_t)length;
    b->records = 1;
    b->flags = BSI_CUT_OVERSIZE | (c->end && c->at == c->buf.len ? BSI_CUT_AT_END : 0u);
    b->fp.lo ^= length;
    b->plain.lo ^= length;
    return BOMSYNC_OK;
}

/* The next block of the chain; *more false at the end of the file. */
static bomsync_status cursor_step(cursor *c, bsi_scan_block *b, bool *more, bomsync_error *err) {
    *b = (bsi_scan_block){.file = c->file, .match = BSI_NO_MATCH};
    *more = true;
    bool predict = c->trust && c->o->tier_block && c->o->image && c->next < c->o->image->count;
    for (;;) {
        size_t have = c->buf.len - c->at;
        if (!have && c->end) {
            *more = false;
            return BOMSYNC_OK;
        }
        b->offset = c->offset;
        if (predict && have) {
            if (expected(c, b)) break;
            const bsi_image_entry *e = walk_to(&c->walk, c->next);
            bool short_of = entry_usable(e) && e->bytes + 1u > have && !c->end;
            if (!short_of) predict = false;
        }
        if (!predict) {
            bsi_cut cut = {0};
            const uint8_t *p = c->buf.data + c->at;
            int found = have || c->end ? bsi_cut_block(&cut, &c->cut, p, have, c->end) : 0;
            if (found < 0) return refuse_quote(c, err);
            if (found == 0 && (cut.flags & BSI_CUT_OVERSIZE) && have > BSI_RECORD_BYTES_MAX) {
                c->trust = false;
                return oversize(c, b, err);
            }
            if (found) {
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
                b->plain = bsi_xxh128(p, cut.bytes);
                if (c->o->tier_block) look_up(c, b);
                if (b->match == BSI_NO_MATCH && (cut.flags & BSI_CUT_AT_END)) c->lost = 0;
                break;
            }
        }
        if (c->end) {
            *more = false;
            return BOMSYNC_OK;
        }
        bomsync_status st = cursor_fill(c, err);
        if (st) return st;
    }
    c->trust = b->match != BSI_NO_MATCH;
    bomsync_status st = spill(c, b, c->buf.data + c->at, err);
    c->at += b->bytes;
    c->offset += b->bytes;
    return st;
}

/* ---- units ---- */

typedef struct unit {
    uint32_t file;
    uint64_t from, to;
    uint64_t next;     /* image entry expected at from */
    bool sure;         /* from is a record start for certain */
    bool done;         /* its blocks are there: a pack's, from the index */
    bsi_scan_block *block;
    size_t count, cap;
    bomsync_status status;
    bomsync_error err;
} unit;

typedef struct unit_run {
    bsi_scan *scan;
    const bsi_scan_options *o;
    unit *unit;
    size_t count;
    fp_index index;
    atomic_ullong done_bytes, done_records;
    uint64_t total_bytes;
} unit_run;

static void push(bsi_scan_block **v, size_t *count, size_t *cap, const bsi_scan_block *b) {
    if (*count == *cap) {
        *cap = *cap ? *cap * 2 : 256;
        *v = bsi_realloc(*v, *cap * sizeof **v);
    }
    (*v)[(*count)++] = *b;
}

/* A guess: just after the next line end. */
static bomsync_status to_line_start(cursor *c, bomsync_error *err) {
    for (;;) {
        const uint8_t *p = c->buf.data + c->at;
        const uint8_t *lf = c->at < c->buf.len ? memchr(p, '\n', c->buf.len - c->at) : NULL;
        if (lf) {
            size_t used = (size_t)(lf + 1 - p);
            c->at += used;
            c->offset += used;
            return BOMSYNC_OK;
        }
        c->offset += c->buf.len - c->at;
        c->at = c->buf.len;
        if (c->end) return BOMSYNC_OK;
        bomsync_status st = cursor_fill(c, err);
        if (st) return st;
    }
}

static void run_unit(void *ctx, size_t index) {
    unit_run *r = ctx;
    unit *u = &r->unit[index];
    cursor c;
    u->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    if (u->done) return;
    cursor_open(&c, r->scan, u->file, r->o, &r->index, u->from, u->next);
    bool random = bsi_source_random(c.f->source);
    if (!u->sure) {
        /* where the image says that a block starts, one starts if it is there; else any line start is a guess */
        bsi_scan_block b = {0};
        u->status = cursor_fill(&c, &u->err);
        if (!u->status && r->o->tier_block && r->o->image && expected(&c, &b)) c.next--;
        else if (!u->status) u->status = to_line_start(&c, &u->err);
    }
    bool more = true;
    uint64_t told = c.offset;
    while (!u->status && (c.offset < u->to || !random)) {
        bsi_scan_block b;
        u->status = cursor_step(&c, &b, &more, &u->err);
        if (u->status || !more) break;
        push(&u->block, &u->count, &u->cap, &b);
        if (c.offset - told >= (4u << 20)) {
            atomic_fetch_add(&r->done_bytes, c.offset - told);
            told = c.offset;
            const bomsync_read_options *ro = r->o->read;
            if (ro && ro->progress && index % (size_t)BSI_MAX(r->o->workers, 1) == 0)
                ro->progress(ro->progress_ctx, "reading", atomic_load(&r->done_bytes), r->total_bytes, 0);
        }
    }
    bsi_buf_free(&c.buf);
}

/* Where the files of the last snapshot ended, to guess where to look for what. */
typedef struct image_offsets {
    uint64_t *piece_bytes; /* [piece_count + 1] bytes before each piece, in its file */
    uint64_t *file_first;  /* entry index at which each file starts */
    size_t file_count;
} image_offsets;

static void plan_offsets(image_offsets *x, const bsi_image *im) {
    *x = (image_offsets){0};
    if (!im || !im->count) return;
    size_t cap = 16;
    x->file_first = bsi_alloc(cap * sizeof *x->file_first);
    x->piece_bytes = bsi_alloc((im->piece_count + 1) * sizeof *x->piece_bytes);
    x->file_first[x->file_count++] = 0;
    uint64_t bytes = 0;
    for (size_t p = 0; p < im->piece_count; p++) {
        x->piece_bytes[p] = bytes;
        for (uint32_t i = 0; i < im->piece[p].count; i++) {
            bytes += im->piece[p].entry[i].bytes;
            if (!(im->piece[p].entry[i].flags & BSI_IMAGE_AT_END)) continue;
            bytes = 0;
            if (x->file_count == cap) x->file_first = bsi_realloc(x->file_first, (cap *= 2) * sizeof *x->file_first);
            x->file_first[x->file_count++] = im->piece[p].first + i + 1;
        }
    }
    x->piece_bytes[im->piece_count] = bytes;
}

/* First entry of the file's image that starts at or after offset; its offset in *start. */
static uint64_t entry_near(const image_offsets *x, const bsi_image *im, uint32_t file, uint64_t body, uint64_t offset,
                           uint64_t *start) {
    *start = body;
    if (!im || !im->count || file >= x->file_count) return UINT64_MAX;
    uint64_t first = x->file_first[file], last = file + 1 < x->file_count ? x->file_first[file + 1] : im->count;
    image_walk w = {.image = im};
    size_t p = 0;
    uint64_t at = body, i = first;
    /* skip whole pieces that lie in this file and before the offset */
    while (p + 1 < im->piece_count && im->piece[p].first < first) p++;
    if (im->piece[p].first >= first) {
        while (p + 1 < im->piece_count && im->piece[p + 1].first < last && im->piece[p + 1].first > first &&
               body + x->piece_bytes[p + 1] <= offset)
            p++;
        if (im->piece[p].first > first) {
            i = im->piece[p].first;
            at = body + x->piece_bytes[p];
        }
    }
    for (; i < last && at < offset; i++) at += walk_to(&w, i)->bytes;
    *start = at;
    return i < last ? i : UINT64_MAX;
}

static bomsync_status plan_units(unit_run *r, const image_offsets *x, bomsync_error *err) {
    size_t cap = 0;
    bsi_scan_pack_image *by_plain = NULL;
    bomsync_status st = BOMSYNC_OK;
    for (uint32_t f = 0; f < r->scan->file_count; f++) {
        bsi_scan_file *file = &r->scan->file[f];
        if (!file->layout) continue;
        bool random = bsi_source_random(file->source);
        uint64_t size = random ? bsi_source_size(file->source) : file->body;
        r->total_bytes += size;
        uint64_t step = UNIT_BYTES;
        if (random && r->o->workers > 1 && size / step < (uint64_t)r->o->workers * 4)
            step = BSI_MAX(size / ((uint64_t)r->o->workers * 2) + 1, (uint64_t)256 << 10);
        if (r->o->workers <= 1) step = UINT64_MAX / 2;
        unit packed = {.file = f, .from = file->body, .to = size, .sure = true};
        st = bsi_scan_pack(&packed.done, &packed.block, &packed.count, r->scan, f, r->o, &by_plain, err);
        if (st) break;
        for (uint64_t from = file->body, start = file->body;;) {
            unit u = packed.done ? packed : (unit) {.file = f, .from = from, .to = random ? BSI_MIN(size, start + step) : UINT64_MAX, .sure = from == file->body};
            uint64_t at;
            u.next = packed.done ? UINT64_MAX : entry_near(x, r->o->image, f, file->body, from, &at);
            if (!u.sure && u.next != UINT64_MAX && at < u.to) u.from = at;
            if (r->count == cap) r->unit = bsi_realloc(r->unit, (cap = cap ? cap * 2 : 16) * sizeof *r->unit);
            r->unit[r->count++] = u;
            from = start = u.to;
            if (!random || u.to >= size) break;
        }
    }
    bsi_scan_pack_image_free(by_plain);
    return st;
}

/* Join the units of each file to one chain; see the head of this file. */
static bomsync_status stitch(unit_run *r, bomsync_error *err) {
    bsi_scan *s = r->scan;
    size_t u = 0, total = 0;
    if (r->count == 1 && r->unit[0].done) { /* a pack alone: its list is the list */
        unit *n = &r->unit[0];
        for (uint32_t f = 0; f < s->file_count; f++) s->file[f].first = f > n->file ? n->count : 0;
        s->file[n->file].count = s->count = s->cap = n->count;
        free(s->block);
        s->block = n->block;
        n->block = NULL;
        return BOMSYNC_OK;
    }
    for (size_t i = 0; i < r->count; i++) total += r->unit[i].count;
    if (s->cap < total) {
        s->cap = total + 16;
        s->block = bsi_realloc(s->block, s->cap * sizeof *s->block);
    }
    for (uint32_t f = 0; f < s->file_count; f++) {
        bsi_scan_file *file = &s->file[f];
        file->first = s->count;
        if (!file->layout) continue;
        uint64_t pos = file->body;
        for (; u < r->count && r->unit[u].file == f; u++) {
            unit *n = &r->unit[u];
            size_t i = 0;
            cursor c = {0};
            bool open = false, more = true;
            if (n->status && n->sure) {
                *err = n->err;
                return n->status;
            }
            for (;;) {
                while (i < n->count && n->block[i].offset < pos) i++;
                if (i < n->count && n->block[i].offset == pos) break;
                bool last = u + 1 == r->count || r->unit[u + 1].file != f;
                if (pos >= n->to && !last && bsi_source_random(file->source)) break; /* the next unit takes over */
                if (bsi_source_random(file->source) && pos >= bsi_source_size(file->source)) break;
                if (!bsi_source_random(file->source)) break;
                if (!open) cursor_open(&c, s, f, r->o, &r->index, pos, s->count && s->block[s->count - 1].match != BSI_NO_MATCH ? s->block[s->count - 1].match + 1u : n->next);
                open = true;
                bsi_scan_block b;
                bomsync_status st = cursor_step(&c, &b, &more, err);
                if (st) {
                    bsi_buf_free(&c.buf);
                    return st;
                }
                if (!more) break;
                push(&s->block, &s->count, &s->cap, &b);
                pos = c.offset;
            }
            bsi_buf_free(&c.buf);
            for (; i < n->count; i++) {
                push(&s->block, &s->count, &s->cap, &n->block[i]);
                pos = n->block[i].offset + n->block[i].bytes;
            }
            if (n->status) { /* a fault past the place where its chain proved right is a real one */
                *err = n->err;
                return n->status;
            }
            free(n->block);
            n->block = NULL;
        }
        file->count = s->count - file->first;
    }
    return BOMSYNC_OK;
}

/* Each entry once, in file order; the plain digests of what matched are the image's. */
static void settle_matches(bsi_scan *s, const bsi_image *image) {
    uint8_t *used = image && image->count ? bsi_calloc((image->count + 7) / 8, 1) : NULL;
    for (uint32_t f = 0; f < s->file_count; f++) s->file[f].records = 0;
    for (size_t i = 0; i < s->count; i++) {
        bsi_scan_block *b = &s->block[i];
        s->file[b->file].records += b->records;
        s->bytes += b->bytes;
        if (b->match == BSI_NO_MATCH) continue;
        uint8_t bit = (uint8_t)(1u << (b->match & 7));
        if (used[b->match >> 3] & bit) b->match = BSI_NO_MATCH;
        else used[b->match >> 3] |= bit;
    }
    free(used);
}

bomsync_status bsi_scan_run(bsi_scan *scan, const bsi_scan_options *o, bomsync_error *err) {
    unit_run r = {.scan = scan, .o = o};
    pthread_mutex_init(&r.index.lock, NULL);
    for (size_t f = 0; f < scan->file_count; f++) {
        bsi_scan_file *file = &scan->file[f];
        if (!file->layout || (bsi_source_random(file->source) && !bsi_source_pack(file->source))) continue;
        file->spill_fd = open(o->tmp, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (file->spill_fd < 0) return bsi_fail_errno(err, errno, o->tmp, "could not make a temporary file in \"%s\"", o->tmp);
    }
    bsi_parse_use_isa(o->isa);
    bsi_scan_options local = *o;
    if (!o->image || !o->image->count) local.image = NULL;
    r.o = &local;
    image_offsets x;
    plan_offsets(&x, local.image);
    bomsync_status st = plan_units(&r, &x, err);
    if (!st) bsi_parallel(o->workers, r.count, run_unit, &r);
    if (!st) st = stitch(&r, err);
    for (size_t i = 0; i < r.count; i++) free(r.unit[i].block);
    free(r.unit);
    free(r.index.slot);
    free(x.file_first);
    free(x.piece_bytes);
    pthread_mutex_destroy(&r.index.lock);
    if (!st) settle_matches(scan, local.image);
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
    size_t want = HEAD_BYTES;
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

bomsync_status bsi_scan_bytes(bsi_scan *scan, size_t i, bsi_buf *buf, bomsync_error *err) {
    bsi_scan_block *b = &scan->block[i];
    bsi_scan_file *f = &scan->file[b->file];
    size_t n = BSI_MIN((size_t)b->bytes, (size_t)BSI_RECORD_BYTES_MAX); /* of an oversize record the front is enough */
    buf->len = 0;
    bsi_buf_reserve(buf, n + MARGIN);
    bool spilled = f->spill_fd >= 0 && b->spill != BSI_NO_SPILL;
    if (bsi_source_random(f->source) && !spilled) {
        ssize_t got = bsi_source_pread(f->source, buf->data, n, b->offset, err);
        if (got < 0) return err->status;
        if ((size_t)got != n) {
            bsi_fail(err, BOMSYNC_E_REFUSED, "the file changed while it was read");
            bsi_at(err, bsi_source_path(f->source), (int64_t)b->offset, -1, NULL, NULL, 0);
            return BOMSYNC_E_REFUSED;
        }
    } else {
        for (size_t done = 0; done < n;) {
            ssize_t got = pread(f->spill_fd, buf->data + done, n - done, (off_t)(b->spill + done));
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return bsi_fail_errno(err, got ? errno : EIO, NULL, "could not read a temporary file");
            done += (size_t)got;
        }
    }
    buf->len = n;
    return BOMSYNC_OK;
}

void bsi_scan_close(bsi_scan *scan) {
    for (size_t i = 0; i < scan->file_count; i++) {
        bsi_source_close(scan->file[i].source);
        bsi_layout_close(scan->file[i].layout);
        bsi_buf_free(&scan->file[i].head);
        if (scan->file[i].spill_fd >= 0) close(scan->file[i].spill_fd);
    }
    free(scan->file);
    free(scan->block);
    *scan = (bsi_scan){0};
}
