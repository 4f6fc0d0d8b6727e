/* run/scan_units.c - stretches of the files among workers, joined to one chain of blocks.
 *
 *   file   |hdr|--------- unit 0 ---------|--------- unit 1 ---------|---- ...
 *   chain       [blk][blk][blk]..[blk]~~~~~>|  [blk]..
 *                                      ^ goes on until it meets a block start of the next unit
 *
 * The end of a block is a pure function of its own bytes (flow/block.h). So a unit may start anywhere that looks like a record
 * start. What it found counts only from the byte on at which the chain of its left neighbour arrives; until then the chain is
 * walked again (join_unit).
 *
 * What came and went before a unit has moved its place in the image: the unit before it tells by how much, if it is done.
 */
#include "run/scan_inner.h"

#include <stdlib.h>

#include "core/limits.h"
#include "run/scan_pack.h"
#include "run/scan_split.h"

#define BSI_WORKERS_MAX 64

enum { MARKS_MOST = 1000 };

/* ---- units ---- */

typedef struct unit {
    uint32_t file;
    uint64_t from, to;
    uint64_t next;     /* image entry expected at from */
    bool sure;         /* from is a record start for certain */
    bool done;         /* its blocks are there: a pack's, from the index */
    bool ahead;        /* a part of a cold file: its bytes are asked for */
    atomic_bool walked; /* what is below is settled */
    bsi_scan_found found;
    bomsync_status status;
    bomsync_error *err; /* NULL: none */
} unit;

typedef struct unit_run {
    bsi_scan *scan;
    const bsi_scan_options *o;
    unit *unit;
    size_t count;
    bsi_scan_index index;
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
    bsi_scan_found all;         /* units before `joined`, as one chain */
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

static void tell_progress(unit_run *r, size_t index, uint64_t *told, uint64_t offset) {
    if (offset - *told < (4u << 20)) return;
    atomic_fetch_add(&r->done_bytes, offset - *told);
    *told = offset;
    const bomsync_read_options *ro = r->o->read;
    if (ro && ro->progress && index % (size_t)BSI_MAX(r->o->workers, 1) == 0)
        ro->progress(ro->progress_ctx, "reading", atomic_load(&r->done_bytes), r->total_bytes, 0);
}

/* The entry that is expected at the start of a unit, if it is not the one that stood there. */
static uint64_t drifted(unit_run *r, const unit *u) {
    int64_t drift = atomic_load_explicit(&r->drift, memory_order_relaxed);
    if (u->next == UINT64_MAX || !r->o->image) return u->next;
    if (drift < 0) return u->next - BSI_MIN(u->next, (uint64_t)-drift);
    return BSI_MIN(u->next + (uint64_t)drift, r->o->image->count);
}

static void tell_drift(unit_run *r, size_t index, const bsi_scan_cursor *c) {
    const unit *next = index + 1 < r->count ? &r->unit[index + 1] : NULL;
    if (!next || next->file != c->file || next->next == UINT64_MAX || !c->trust || !r->o->image) return;
    atomic_store_explicit(&r->drift, (int64_t)c->next - (int64_t)next->next, memory_order_relaxed);
}

static void walk_unit(unit_run *r, size_t index, const bsi_arrival *came) {
    unit *u = &r->unit[index];
    bsi_scan_cursor c;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_buf buf = take_buffer(r), view;
    bsi_scan_cursor_open(&c, r->scan, u->file, r->o, &r->index, &buf, u->from, u->to, u->next);
    if (came) bsi_scan_cursor_use(&c, r->ahead, &view, came);
    if (!u->sure) u->status = bsi_scan_cursor_start(&c, drifted(r, u), &err);
    c.quiet = u->sure ? 0 : BSI_QUIET_BLOCKS; /* two chains meet after two or three */
    bool more = true;
    uint64_t told = c.offset;
    while (!u->status && c.offset < u->to) {
        bsi_scan_step s;
        u->status = bsi_scan_cursor_step(&c, u->to, &s, &more, &err);
        if (u->status || !more) break;
        bsi_scan_found_add(&u->found, &s, r->o->brief);
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
        bsi_scan_step s = {.block = *b, .run = {.file = b->file, .offset = b->offset, .count = 1, .bytes = b->bytes, .records = b->records,
                                                .matched = match[i] != UINT32_MAX, .first = match[i], .spill = BSI_NO_SPILL}};
        bsi_scan_found_add(&u->found, &s, false);
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

/* Open blocks of a unit that stand before `at`: its guess where to start was wrong. */
static void drop_before(const bsi_scan_options *o, const unit *u, const bsi_scan_place *at) {
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
    if (r->marks) {
        const bsi_image_mark *last = &r->mark[r->marks - 1];
        if (last->file == u->file && offset - last->offset < r->total_bytes / MARKS_MOST) return;
    }
    if (r->marks == r->mark_cap) r->mark = bsi_realloc(r->mark, (r->mark_cap = r->mark_cap ? r->mark_cap * 2 : 64) * sizeof *r->mark);
    r->mark[r->marks++] = (bsi_image_mark){.entry = r->all.listed, .offset = offset, .file = u->file};
}

/* The chain of the left neighbours stands at *pos: go on block by block until it meets a block start of this unit. */
static bomsync_status join_unit(unit_run *r, bsi_scan_found *all, unit *u, bool last, uint64_t *pos, bomsync_error *err) {
    bsi_scan_file *file = &r->scan->file[u->file];
    bool random = bsi_source_random(file->source), open = false, more = true, met = !random;
    bsi_buf buf = {0};
    bsi_scan_cursor c;
    bsi_scan_place at = {0};
    bomsync_status st = BOMSYNC_OK;
    if (u->status && u->sure) {
        *err = *u->err;
        return u->status;
    }
    while (random && !st) {
        bsi_scan_found_reach(&at, &u->found, r->o->image, *pos);
        met = at.run < u->found.runs && at.offset == *pos;
        if (met) break;
        if ((*pos >= u->to && !last) || *pos >= bsi_source_size(file->source)) break; /* the next unit takes over */
        const bsi_scan_run *before = all->runs ? &all->run[all->runs - 1] : NULL;
        if (!open) bsi_scan_cursor_open(&c, r->scan, u->file, r->o, &r->index, &buf, *pos, *pos, before && before->matched ? before->first + before->count : u->next);
        open = true;
        bsi_scan_step s;
        st = bsi_scan_cursor_step(&c, c.offset + 1, &s, &more, err);
        if (st || !more) break;
        bsi_scan_found_add(all, &s, r->o->brief);
        *pos = c.offset;
    }
    bsi_buf_free(&buf);
    if (st) return st;
    drop_before(r->o, u, &at);
    if (random && at.run < u->found.runs) add_mark(r, u, *pos - file->body);
    bsi_scan_found_adopt(all, &u->found, at, pos);
    if (!u->status || !met) return BOMSYNC_OK;
    *err = *u->err; /* past the place where its chain proved right a fault is a real one; else it was the guess */
    return u->status;
}

static bomsync_status join_next(unit_run *r, bomsync_error *err) {
    unit *u = &r->unit[r->joined];
    bool first = !r->joined || u[-1].file != u->file, last = r->joined + 1 == r->count || u[1].file != u->file;
    if (first) r->pos = r->scan->file[u->file].body;
    bsi_scan_found_expect(&r->all, &u->found, r->joined + 1, r->count, r->o->brief);
    bomsync_status st = join_unit(r, &r->all, u, last, &r->pos, err);
    bsi_scan_found_free(&u->found);
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
        r->unit[0].found = (bsi_scan_found){0};
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

static void unit_run_release(unit_run *r) {
    for (size_t i = 0; i < r->count; i++) {
        bsi_scan_found_free(&r->unit[i].found);
        free(r->unit[i].err);
    }
    for (size_t i = 0; i < r->spares; i++) bsi_buf_free(&r->spare[i]);
    free(r->unit);
    free(r->part_unit);
    bsi_scan_index_release(&r->index);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->join_lock);
}

bomsync_status bsi_scan_units(bsi_scan_found *all, bsi_scan *scan, const bsi_scan_options *o, bomsync_error *err) {
    unit_run r = {.scan = scan, .o = o, .ahead = scan->ahead, .all.vast = true, .err = BOMSYNC_ERROR_INIT};
    bsi_scan_index_init(&r.index);
    pthread_mutex_init(&r.lock, NULL);
    pthread_mutex_init(&r.join_lock, NULL);
    r.part_unit = bsi_alloc((r.ahead->parts + 1) * sizeof *r.part_unit);
    bsi_split x;
    bsi_split_open(&x, o->workers > 1 || r.ahead->any ? o->image : NULL, o->mark, o->mark_count, o->workers);
    bomsync_status st = plan_units(&r, &x, err);
    if (r.count == 1) r.unit[0].found.vast = true; /* the list of all */
    if (!st) bsi_parallel(o->workers, r.count, run_unit, &r);
    if (!st) st = stitch(&r, err);
    *all = r.all;
    unit_run_release(&r);
    bsi_split_close(&x);
    scan->mark = r.mark;
    scan->mark_count = r.marks;
    return st;
}
