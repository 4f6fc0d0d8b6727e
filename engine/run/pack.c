/* run/pack.c - a snapshot as record-aligned zstd frames with the fingerprints of its blocks.
 *
 *   source ──> text [ block | block | ... | block | rest ]      cut by one thread, with the rules of scan_cursor.c
 *                    └── frame 1 ──┘ └ frame 2 ...              a batch of frames is hashed and compressed by all workers,
 *                                                               then written in order
 *
 * Frames depend on the content alone, a batch is only a matter of memory: any number of workers writes the same bytes.
 * Frames are small, since a block that changed is read by decompressing the frame it lies in; smaller ones cost room
 * (each begins without a history). The header has a frame of its own, so that all others hold blocks and nothing else.
 *
 * What sync refuses (an open quote) is refused here too. A record that is too long to hold is refused here and only
 * kept back there: its block has no fingerprint that its bytes alone decide.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/limits.h"
#include "flow/rows.h"
#include "run/scan.h"

enum { MARGIN = 64, HEAD_BYTES = 64 << 10, FRAME_BYTES = 256 << 10, BATCH_FRAMES = 32, LEVEL = 3, CONTEXTS_MAX = 64 };

typedef struct frame {
    size_t from, bytes;  /* in the text */
    size_t first, count; /* blocks of the batch */
    bsi_buf out;
    size_t result;       /* what libzstd says */
} frame;

typedef struct pack_run {
    const bomsync_pack_options *o;
    bomsync_sink sink;
    bsi_source *source;
    bsi_cut_options cut;
    int workers, level;
    bsi_buf text;      /* of the batch, and what was read behind it */
    size_t at;         /* the next block begins at text.data[at] */
    uint64_t offset;   /* of that byte in the content */
    bool end;          /* text reaches the end of the content */
    bsi_pack_block *block;
    size_t block_count, block_cap;
    frame frame[BATCH_FRAMES];
    size_t frame_count;
    bsi_pack_writer index;
    uint64_t written;
    pthread_mutex_t lock; /* guards the contexts that nobody uses */
    ZSTD_CCtx *context[CONTEXTS_MAX];
    size_t context_count;
} pack_run;

/* ---- the text ---- */

static bomsync_status fill(pack_run *r, size_t want, bomsync_error *err) {
    bsi_buf *t = &r->text;
    bsi_buf_reserve(t, want + MARGIN);
    uint64_t at = r->offset + (t->len - r->at);
    ssize_t n = bsi_source_random(r->source) ? bsi_source_pread(r->source, t->data + t->len, want, at, err)
                                             : bsi_source_read(r->source, t->data + t->len, want, err);
    if (n < 0) return err->status;
    t->len += (size_t)n;
    r->end = bsi_source_random(r->source) ? at + (uint64_t)n >= bsi_source_size(r->source) : n == 0;
    return BOMSYNC_OK;
}

static bomsync_status refuse(pack_run *r, uint64_t offset, int64_t line, const char *what, const char *hint, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "%s", what);
    bsi_at(err, bsi_source_path(r->source), (int64_t)offset, line, NULL, NULL, 0);
    bsi_hint(err, "%s", hint);
    return BOMSYNC_E_REFUSED;
}

/* Length of the header with its line end; all of a file that has none. The same steps as when a snapshot is opened. */
static bomsync_status find_header(pack_run *r, size_t *bytes, bomsync_error *err) {
    for (size_t want = HEAD_BYTES;; want *= 4) {
        while (!r->end && r->text.len < want) {
            bomsync_status st = fill(r, want - r->text.len, err);
            if (st) return st;
        }
        bsi_buf_reserve(&r->text, MARGIN);
        char **name = NULL;
        uint32_t count = 0;
        bomsync_error own = BOMSYNC_ERROR_INIT;
        bomsync_status st = bsi_parse_header(&name, &count, bytes, &r->cut.dialect, r->text.data, r->text.len, r->end, &own);
        for (uint32_t i = 0; !st && i < count; i++) free(name[i]);
        free(name);
        bool incomplete = !r->end && (st || *bytes >= r->text.len);
        if (incomplete && want < BSI_RECORD_BYTES_MAX) continue;
        if (st) {
            *err = own;
            bsi_at(err, bsi_source_path(r->source), 0, 1, NULL, NULL, 0);
        }
        return st;
    }
}

/* ---- frames ---- */

static ZSTD_CCtx *context_take(pack_run *r) {
    pthread_mutex_lock(&r->lock);
    ZSTD_CCtx *c = r->context_count ? r->context[--r->context_count] : NULL;
    pthread_mutex_unlock(&r->lock);
    if (c) return c;
    if (!(c = ZSTD_createCCtx())) return NULL;
    ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, r->level);
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 1);
    return c;
}

static void context_give(pack_run *r, ZSTD_CCtx *c) {
    pthread_mutex_lock(&r->lock);
    bool keep = r->context_count < CONTEXTS_MAX;
    if (keep) r->context[r->context_count++] = c;
    pthread_mutex_unlock(&r->lock);
    if (!keep) ZSTD_freeCCtx(c);
}

static void make_frame(void *ctx, size_t index) {
    pack_run *r = ctx;
    frame *f = &r->frame[index];
    const uint8_t *p = r->text.data + f->from;
    for (size_t i = f->first; i < f->first + f->count; i++) {
        r->block[i].plain = bsi_xxh128(p, r->block[i].bytes);
        p += r->block[i].bytes;
    }
    ZSTD_CCtx *c = context_take(r);
    f->result = 0;
    if (!c) return;
    bsi_buf_reserve(&f->out, ZSTD_compressBound(f->bytes));
    f->result = ZSTD_compress2(c, f->out.data, f->out.cap, r->text.data + f->from, f->bytes);
    context_give(r, c);
}

static bomsync_status put(pack_run *r, const void *p, size_t n, bomsync_error *err) {
    int errnum = r->sink.write(r->sink.ctx, p, n);
    r->written += n;
    return errnum ? bsi_fail_errno(err, errnum, NULL, "could not write the output") : BOMSYNC_OK;
}

/* Compress and write the frames at hand; what was read behind them moves to the front. */
static bomsync_status flush(pack_run *r, bomsync_error *err) {
    bsi_parallel(r->workers, r->frame_count, make_frame, r);
    for (size_t i = 0; i < r->frame_count; i++) {
        frame *f = &r->frame[i];
        if (!f->result || ZSTD_isError(f->result))
            return bsi_fail(err, BOMSYNC_E_SPACE, "could not compress (%s)", f->result ? ZSTD_getErrorName(f->result) : "no memory");
        bomsync_status st = put(r, f->out.data, f->result, err);
        if (st) return st;
        bsi_pack_add_frame(&r->index, f->result, f->bytes, f->count);
        for (size_t b = f->first; b < f->first + f->count; b++) bsi_pack_add_block(&r->index, &r->block[b]);
    }
    size_t done = r->frame_count ? r->frame[r->frame_count - 1].from + r->frame[r->frame_count - 1].bytes : 0;
    memmove(r->text.data, r->text.data + done, r->text.len - done);
    r->text.len -= done;
    r->at -= done;
    r->frame_count = r->block_count = 0;
    const bomsync_read_options *ro = &r->o->read;
    if (ro->progress)
        ro->progress(ro->progress_ctx, "packing", r->offset, bsi_source_random(r->source) ? bsi_source_size(r->source) : 0, r->index.records);
    return BOMSYNC_OK;
}

/* The frame that ends at the next block. */
static bomsync_status close_frame(pack_run *r, bomsync_error *err) {
    const frame *last = r->frame_count ? &r->frame[r->frame_count - 1] : NULL;
    frame *f = &r->frame[r->frame_count++];
    f->from = last ? last->from + last->bytes : 0;
    f->bytes = r->at - f->from;
    f->first = last ? last->first + last->count : 0;
    f->count = r->block_count - f->first;
    return r->frame_count == BATCH_FRAMES ? flush(r, err) : BOMSYNC_OK;
}

/* ---- blocks ---- */

static bomsync_status take_block(pack_run *r, const bsi_cut *c, bomsync_error *err) {
    if (r->block_count == r->block_cap) r->block = bsi_realloc(r->block, (r->block_cap = r->block_cap ? r->block_cap * 2 : 1024) * sizeof *r->block);
    r->block[r->block_count++] =
        (bsi_pack_block){.bytes = (uint32_t)c->bytes, .records = c->records, .blanks = c->blanks, .flags = c->flags & ~(uint32_t)BSI_CUT_LINES};
    r->at += c->bytes;
    r->offset += c->bytes;
    const frame *last = r->frame_count ? &r->frame[r->frame_count - 1] : NULL;
    size_t open = r->at - (last ? last->from + last->bytes : 0);
    return open >= FRAME_BYTES ? close_frame(r, err) : BOMSYNC_OK;
}

static bomsync_status refuse_quote(pack_run *r, bomsync_error *err) {
    return refuse(r, r->offset, bsi_source_line(r->source, r->offset), "a quote is never closed",
                  "nothing was written; is the file cut off, or does it use quotes as data (see --quotes, --quote)?", err);
}

static bomsync_status cut_all(pack_run *r, bomsync_error *err) {
    for (;;) {
        size_t have = r->text.len - r->at;
        if (!have && r->end) return BOMSYNC_OK;
        bsi_cut c = {0};
        int found = have ? bsi_cut_block(&c, &r->cut, r->text.data + r->at, have, r->end) : 0;
        if (found < 0) return refuse_quote(r, err);
        if ((c.flags & BSI_CUT_OVERSIZE) && (found || have > BSI_RECORD_BYTES_MAX)) {
            bool before = found && c.records && c.bytes <= BSI_RECORD_BYTES_MAX; /* the block in front of that record */
            return refuse(r, r->offset + (before ? c.bytes : 0), -1, "a record is longer than 16 MB",
                          "nothing was written; is this a CSV file with this delimiter and these line ends?", err);
        }
        if (found && (c.flags & BSI_CUT_OPEN_QUOTE))
            return refuse(r, r->offset + have, -1, "the file ends inside a quoted field",
                          "nothing was written; the file is cut off: ask for it again", err);
        bomsync_status st = BOMSYNC_OK;
        if (found) st = take_block(r, &c, err);
        else if (r->end) return BOMSYNC_OK;
        else st = fill(r, BSI_MAX((size_t)BSI_READ_BYTES, have), err);
        if (st) return st;
    }
}

static bomsync_status pack_all(pack_run *r, bomsync_error *err) {
    uint8_t head[BSI_PACK_HEAD_BYTES];
    size_t header = 0;
    bsi_pack_head(head);
    bomsync_status st = find_header(r, &header, err);
    if (!st) st = put(r, head, sizeof head, err);
    if (st) return st;
    r->index.header_bytes = r->at = r->offset = header;
    if (header) st = close_frame(r, err);
    if (!st) st = cut_all(r, err);
    const frame *last = r->frame_count ? &r->frame[r->frame_count - 1] : NULL;
    if (!st && r->at > (last ? last->from + last->bytes : 0)) st = close_frame(r, err);
    if (!st) st = flush(r, err);
    if (!st) st = bsi_source_settled(r->source, err);
    bsi_buf tail = {0};
    if (!st) st = bsi_pack_tail(&tail, &r->index, err);
    if (!st) st = put(r, tail.data, tail.len, err);
    bsi_buf_free(&tail);
    return st;
}

/* ---- the call ---- */

static void tell(const pack_run *r, bomsync_sink talk, bool json) {
    const bsi_pack_writer *x = &r->index;
    char *text =
        json ? bsi_format("{\"message_type\":\"pack\",\"records\":%" PRIu64 ",\"blocks\":%" PRIu64 ",\"frames\":%" PRIu64
                          ",\"content_bytes\":%" PRIu64 ",\"bytes\":%" PRIu64 "}\n",
                          x->records, x->block_count, x->frame_count, x->content_bytes, r->written)
             : bsi_format("packed %" PRIu64 " records, %" PRIu64 " bytes, into %" PRIu64 " bytes (blocks: %" PRIu64 ", frames: %" PRIu64 ")\n",
                          x->records, x->content_bytes, r->written, x->block_count, x->frame_count);
    if (talk.write) talk.write(talk.ctx, text, strlen(text));
    free(text);
}

static bomsync_status options(pack_run *r, bomsync_error *err) {
    const bomsync_read_options *ro = &r->o->read;
    bsi_isa isa;
    bomsync_status st = bsi_isa_choose(&isa, ro->isa ? ro->isa : "auto", err);
    if (st) return st;
    bsi_block_size size = bsi_block_size_of(ro->block_records);
    if (size.records > BSI_BLOCK_RECORDS_MOST) return bsi_fail(err, BOMSYNC_E_USAGE, "--block-records must be 1 to 10000");
    r->level = r->o->level ? r->o->level : LEVEL;
    if (r->level < 1 || r->level > 19) return bsi_fail(err, BOMSYNC_E_USAGE, "--level must be 1 to 19");
    r->workers = BSI_MIN(ro->workers > 0 ? ro->workers : bsi_usable_cores(), CONTEXTS_MAX);
    r->cut = (bsi_cut_options){.dialect = bsi_scan_dialect(ro, r->o->snapshot), .size = size, .isa = (int)isa};
    r->index.delimiter = r->cut.dialect.delimiter;
    r->index.quote = r->cut.dialect.quote;
    r->index.block_size = size;
    return BOMSYNC_OK;
}

bomsync_status bomsync_pack(const bomsync_pack_options *o, bomsync_sink out, bomsync_sink talk, bool json, bomsync_error *err) {
    pack_run r = {.o = o, .sink = out};
    pthread_mutex_init(&r.lock, NULL);
    bomsync_status st = options(&r, err);
    bsi_source_options so = {.encoding = o->read.encoding, .io = o->read.io ? o->read.io : "auto", .workers = r.workers};
    if (!st) st = bsi_source_open(&r.source, o->snapshot, &so, err);
    if (!st) {
        r.index.transcoded = bsi_source_transcoded(r.source);
        st = pack_all(&r, err);
    }
    if (!st) tell(&r, talk, json);
    bsi_source_close(r.source);
    for (size_t i = 0; i < BATCH_FRAMES; i++) bsi_buf_free(&r.frame[i].out);
    for (size_t i = 0; i < r.context_count; i++) ZSTD_freeCCtx(r.context[i]);
    bsi_pack_writer_release(&r.index);
    bsi_buf_free(&r.text);
    free(r.block);
    pthread_mutex_destroy(&r.lock);
    return st;
}
