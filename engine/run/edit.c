/* run/edit.c - see edit.h.
 *
 *   base list   ... s1 [s2 s3] s4 ... s9 | ins ...      touched blocks in brackets, | creates behind an untouched block
 *   new list    ... s1 n1 n2 n3 s4 ... s9 n4 ...        n: one for each aligned block of the snapshot where that is possible
 *
 * A run is a stretch of touched blocks that stand side by side (or a place between two untouched ones). Its records are
 * streamed in their new order and cut where the snapshot's blocks end, so that the next unchanged block of the snapshot
 * finds one state block with just its records. A long stretch, as when each record changed, is several runs: one ends where a block of the
 * snapshot begins with the first record of a state block, as a new block is begun there in any case.
 */
#include "core/limits.h"
#include "core/vast.h"
#include "run/edit.h"

#include <stdatomic.h>
#include <stdlib.h>

#define NO_TAG UINT64_MAX

typedef struct span { /* one run */
    uint64_t first, end;          /* ordinals of touched blocks [first, end); empty: inserts behind first - 1 */
    size_t insert, insert_end;
    size_t gone, pair;
    size_t ref, ref_count;        /* of the new blocks, in its task's list */
} span;

typedef struct ref_list { /* of the new blocks of a task's spans, one behind the other */
    bsi_ref *v;
    size_t count, cap;
} ref_list;

typedef struct edit_run {
    bsi_edit *e;
    span *span;
    size_t count;
    size_t *from, tasks;          /* [tasks + 1] the first span of each */
    ref_list *ref, *loose;        /* [tasks] all new blocks; those that no block of the snapshot holds whole */
    atomic_int status;
    bomsync_error *err;
} edit_run;

typedef struct piece { /* records of the state block being made */
    bsi_buf enc;
    uint32_t *off, *body;
    uint64_t *kh, *rh;
    uint32_t count, cap;
    uint64_t tag;
    uint32_t next_row;
    bool whole; /* rows 0.. of tag in order so far */
} piece;

typedef struct editor {
    bsi_edit *e;
    span *s;
    ref_list *ref, *loose;
    bsi_block_writer *writer;
    bsi_row_reader now;
    bsi_block_data own;
    const bsi_block_data *old; /* the block being edited: in the cache, or `own` */
    bsi_field *f, *g;
    piece p;
    bsi_buf merged;
    uint32_t *row, row_cap;    /* of old, those to be rendered */
    size_t amended;            /* where the next of e->amended is looked for */
    bsi_edit_pair pair[BSI_AMEND_ROWS_MAX]; /* of an amended block */
} editor;

static void add_to(ref_list *l, bsi_ref ref) {
    if (l->count == l->cap) l->v = bsi_vast_realloc(l->v, (l->cap = l->cap ? l->cap * 2 : 64) * sizeof *l->v);
    l->v[l->count++] = ref;
}

static void add_ref(editor *d, bsi_ref ref) {
    add_to(d->ref, ref);
    d->s->ref_count++;
}

static bomsync_status flush(editor *d, bomsync_error *err) {
    piece *p = &d->p;
    if (!p->count) return BOMSYNC_OK;
    bsi_ref ref;
    bomsync_status st = bsi_block_writer_add(&ref, d->writer, p->count, p->enc.data, p->off, p->body, p->kh, p->rh, err);
    if (st) return st;
    const bsi_scan_block *b = p->tag != NO_TAG && p->whole && d->e->exact ? &d->e->now->scan->block[p->tag] : NULL;
    bool exact = b && p->count == b->records && !(b->flags & BSI_EDIT_NOT_EXACT);
    add_ref(d, ref);
    if (exact) d->e->exact[p->tag] = ref;
    else add_to(d->loose, ref);
    p->count = 0;
    p->enc.len = 0;
    return BOMSYNC_OK;
}

static bomsync_status put(editor *d, uint64_t tag, uint32_t row, const uint8_t *image, size_t bytes, uint32_t body, uint64_t kh,
                          uint64_t rh, bomsync_error *err) {
    piece *p = &d->p;
    uint32_t most = d->e->block_records * 2;
    if (p->count && (tag != p->tag || (tag == NO_TAG && p->count >= most) || p->count >= 60000)) {
        bomsync_status st = flush(d, err);
        if (st) return st;
    }
    if (!p->count) {
        p->tag = tag;
        p->whole = true;
        p->next_row = 0;
    }
    if (p->cap < p->count + 2) {
        p->cap = p->cap ? p->cap * 2 : 64;
        p->off = bsi_realloc(p->off, p->cap * sizeof *p->off);
        p->body = bsi_realloc(p->body, p->cap * sizeof *p->body);
        p->kh = bsi_realloc(p->kh, p->cap * sizeof *p->kh);
        p->rh = bsi_realloc(p->rh, p->cap * sizeof *p->rh);
    }
    if (row != p->next_row++) p->whole = false;
    p->off[p->count] = (uint32_t)p->enc.len;
    p->body[p->count] = body;
    p->kh[p->count] = kh;
    p->rh[p->count] = rh;
    bsi_buf_add(&p->enc, image, bytes);
    p->off[++p->count] = (uint32_t)p->enc.len;
    return BOMSYNC_OK;
}

/* A row image under today's slots: as it is, or built again where columns were added since. */
static bool today(editor *d, const uint8_t **image, size_t *bytes, uint32_t *body, uint32_t made) {
    const bsi_slots *s = d->e->slots;
    if (made == s->count) return true;
    if (!bsi_image_fields(d->f, s->count, *image, *body, (uint32_t)*bytes, made)) return false;
    d->merged.len = 0;
    uint32_t key;
    *body = bsi_image_build(&d->merged, d->f, s->count, s->key_count, &key);
    *image = d->merged.data;
    *bytes = d->merged.len;
    return true;
}

static bomsync_status damaged(bomsync_error *err) { return bsi_fail(err, BOMSYNC_E_INTEGRITY, "a stored record is damaged"); }

static bomsync_status put_new(editor *d, uint64_t now, bool aligned, bomsync_error *err) {
    bomsync_status st = bsi_row_fetch(d->g, &d->now, now, err);
    if (st) return st;
    const bsi_rows *w = d->now.at;
    uint32_t row = d->now.row;
    const uint8_t *image = w->enc.data + w->image[row];
    size_t bytes = w->image[row + 1] - w->image[row];
    uint32_t body = w->body[row];
    bsi_scan *scan = d->now.source->scan;
    if (!today(d, &image, &bytes, &body, scan->file[scan->block[now >> 16].file].layout->slot_count)) return damaged(err);
    return put(d, aligned ? now >> 16 : NO_TAG, now & 0xffff, image, bytes, body, w->kh[row], w->rh[row], err);
}

uint32_t bsi_edit_merge(bsi_buf *out, bsi_field *old, const bsi_field *now, const bsi_slots *slots) {
    uint32_t key;
    for (uint32_t i = 0; i < slots->count; i++)
        if (!bsi_field_eq(&old[i], &now[i])) old[i] = now[i];
    return bsi_image_build(out, old, slots->count, slots->key_count, &key);
}

static bomsync_status put_merged(editor *d, uint32_t old_row, const bsi_edit_pair *p, bomsync_error *err) {
    const bsi_slots *s = d->e->slots;
    bomsync_status st = bsi_row_fetch(d->g, &d->now, p->now, err);
    if (st) return st;
    if (!bsi_image_fields(d->f, s->count, d->old->raw.data + d->old->image[old_row], d->old->body[old_row],
                          d->old->image[old_row + 1] - d->old->image[old_row], d->old->slot_count))
        return damaged(err);
    d->merged.len = 0;
    uint32_t row = p->now & 0xffff, body = bsi_edit_merge(&d->merged, d->f, d->g, s);
    return put(d, p->aligned ? p->now >> 16 : NO_TAG, row, d->merged.data, d->merged.len, body, d->now.at->kh[d->now.row],
               d->now.at->rh[d->now.row], err);
}

static bomsync_status put_inserts(editor *d, size_t *at, uint64_t after, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (; !st && *at < d->s->insert_end && d->e->insert[*at].after <= after; (*at)++)
        st = put_new(d, d->e->insert[*at].now, d->e->insert[*at].aligned, err);
    return st;
}

/* The pairs of the block being edited, ascending. */
typedef struct pairs {
    const bsi_edit_pair *v;
    size_t n;
} pairs;

/* A block that keeps its records in their order, and that one block of the snapshot holds whole: only rows that changed
 * are written. */
static bool patchable(const editor *d, uint64_t block, size_t insert, size_t gone, pairs pair) {
    const bsi_edit *e = d->e;
    uint32_t count = d->old->count, changed = 0;
    if (!e->now || !e->exact || d->old->slot_count != e->slots->count || pair.n < count) return false;
    if (gone < e->gone_count && e->gone[gone] >> 16 == block) return false;
    if (insert < d->s->insert_end && e->insert[insert].after < (block << 16 | count)) return false;
    uint64_t tag = pair.v[0].now >> 16;
    for (uint32_t i = 0; i < count; i++) {
        const bsi_edit_pair *p = &pair.v[i];
        if (p->was != (block << 16 | i) || p->now != (tag << 16 | i) || !p->aligned) return false;
        changed += p->changed;
    }
    return count == e->now->scan->block[tag].records && changed * 4 <= count;
}

static bomsync_status patch_block(editor *d, uint64_t block, pairs pair, bomsync_error *err) {
    bsi_edit *e = d->e;
    bomsync_status st = flush(d, err);
    uint32_t row[64], n = 0;
    for (uint32_t i = 0; i < d->old->count && !st; i++) {
        if (!pair.v[i].changed) continue;
        if (n < 64) row[n++] = i;
        st = put_merged(d, i, &pair.v[i], err);
    }
    piece *p = &d->p;
    bsi_ref ref;
    if (d->old == &d->own && e->was->cache) bsi_block_cache_put(e->was->cache, block, d->old, row, n); /* to be rendered */
    if (!st) st = bsi_block_writer_patch(&ref, d->writer, e->base[block], n, row, p->enc.data, p->off, p->body, p->kh, p->rh, err);
    p->count = 0;
    p->enc.len = 0;
    if (st) return st;
    add_ref(d, ref);
    if (!n || (e->now->scan->block[pair.v[0].now >> 16].flags & BSI_EDIT_NOT_EXACT)) add_to(d->loose, ref); /* none: it is the block itself, which counts as replaced */
    else e->exact[pair.v[0].now >> 16] = ref;
    return BOMSYNC_OK;
}

/* NULL: it is none. Blocks are asked for in order. */
static const bsi_amended *amended_at(editor *d, uint64_t block) {
    const bsi_edit *e = d->e;
    while (d->amended < e->amended_count && e->amended[d->amended]->ordinal < block) d->amended++;
    return d->amended < e->amended_count && e->amended[d->amended]->ordinal == block ? e->amended[d->amended] : NULL;
}

static bomsync_status load_whole(editor *d, uint64_t block, bomsync_error *err) {
    return bsi_block_load(&d->old, &d->own, d->e->was->cache, d->e->store, d->e->base, block, err);
}

/* The old rows: of an amended block, which mostly is patched, those up to the last one that changed. */
static bomsync_status load_old(editor *d, uint64_t block, const bsi_amended *a, bomsync_error *err) {
    if (!a || !a->changed) return load_whole(d, block, err);
    d->old = &d->own;
    return bsi_store_front(&d->own, d->e->store, d->e->base[block], 64 - (uint32_t)__builtin_clzll(a->changed), err);
}

/* Its pairs: those that the sync lists, or of an amended block all its rows. */
static pairs pairs_of(editor *d, uint64_t block, const bsi_amended *a, size_t *pair) {
    const bsi_edit *e = d->e;
    while (*pair < e->pair_count && e->pair[*pair].was >> 16 < block) (*pair)++;
    if (!a || d->old->count > BSI_AMEND_ROWS_MAX) return (pairs){e->pair + *pair, e->pair_count - *pair};
    for (uint32_t i = 0; i < d->old->count; i++)
        d->pair[i] = (bsi_edit_pair){.was = block << 16 | i, .now = (uint64_t)a->open << 16 | i, .changed = a->changed >> i & 1, .aligned = true};
    return (pairs){d->pair, d->old->count};
}

/* What is rendered of an old block: rows that change or go. */
static void keep_old(editor *d, uint64_t block, size_t gone, pairs p) {
    const bsi_edit *e = d->e;
    uint32_t count = d->old->count, n = 0;
    if (d->row_cap < count) d->row = bsi_realloc(d->row, (d->row_cap = count) * sizeof *d->row);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t place = block << 16 | i;
        while (gone < e->gone_count && e->gone[gone] < place) gone++;
        for (; p.n && p.v->was < place; p.v++) p.n--;
        bool goes = gone < e->gone_count && e->gone[gone] == place, changes = p.n && p.v->was == place && p.v->changed;
        if (goes || changes) d->row[n++] = i;
    }
    bsi_block_cache_put(e->was->cache, block, d->old, d->row, n);
}

/* Does none of its records stay? Then it need not be unpacked. */
static bomsync_status goes_whole(bool *goes, const bsi_edit *e, uint64_t block, size_t gone, bomsync_error *err) {
    bsi_block_rows rows;
    *goes = false;
    if (gone >= e->gone_count || e->gone[gone] != block << 16) return BOMSYNC_OK;
    bomsync_status st = bsi_store_rows(&rows, e->store, e->base[block], err);
    *goes = !st && gone + rows.count <= e->gone_count && e->gone[gone + rows.count - 1] == (block << 16 | (rows.count - 1));
    return st;
}

static bomsync_status edit_block(editor *d, uint64_t block, size_t *insert, size_t *gone, size_t *pair, bomsync_error *err) {
    bsi_edit *e = d->e;
    bsi_block_rows rows;
    const bsi_amended *a = amended_at(d, block);
    bool goes;
    while (*gone < e->gone_count && e->gone[*gone] >> 16 < block) (*gone)++;
    bomsync_status st = goes_whole(&goes, e, block, *gone, err);
    if (!st && goes) return put_inserts(d, insert, block << 16 | 0xffff, err);
    if (!st) st = load_old(d, block, a, err);
    if (st) return st;
    pairs p = pairs_of(d, block, a, pair);
    if (d->old->count <= 256 && patchable(d, block, *insert, *gone, p)) {
        st = patch_block(d, block, p, err);
        return st ? st : put_inserts(d, insert, block << 16 | d->old->count, err);
    }
    if (a) st = load_whole(d, block, err);
    if (st) return st;
    if (d->old == &d->own && e->was->cache) keep_old(d, block, *gone, p);
    st = bsi_store_rows(&rows, e->store, e->base[block], err);
    if (!st && rows.count != d->old->count) st = damaged(err);
    for (uint32_t i = 0; !st && i < d->old->count; i++) {
        uint64_t place = block << 16 | i;
        while (*gone < e->gone_count && e->gone[*gone] < place) (*gone)++;
        for (; p.n && p.v->was < place; p.v++) p.n--;
        bool out = *gone < e->gone_count && e->gone[*gone] == place;
        const bsi_edit_pair *here = p.n && p.v->was == place ? p.v : NULL;
        if (here && here->changed) {
            st = put_merged(d, i, here, err);
        } else if (!out) {
            const uint8_t *image = d->old->raw.data + d->old->image[i];
            size_t bytes = d->old->image[i + 1] - d->old->image[i];
            uint32_t body = d->old->body[i];
            if (!today(d, &image, &bytes, &body, d->old->slot_count)) return damaged(err);
            st = put(d, here && here->aligned ? here->now >> 16 : NO_TAG, here ? (uint32_t)(here->now & 0xffff) : 0, image, bytes, body, rows.kh[i],
                     rows.rh[i], err);
        }
        if (!st) st = put_inserts(d, insert, place + 1, err);
    }
    return st;
}

static size_t first_amended(const bsi_edit *e, uint64_t block) {
    size_t lo = 0, hi = e->amended_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (e->amended[mid]->ordinal < block) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static void edit_task(void *ctx, size_t index) {
    edit_run *r = ctx;
    bsi_edit *e = r->e;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    editor d = {.e = e, .ref = &r->ref[index], .loose = &r->loose[index]};
    bomsync_status st = bsi_block_writer_open(&d.writer, e->store, e->slots->count, e->dictionary, &err);
    if (e->now) bsi_row_reader_open(&d.now, e->now);
    d.f = bsi_alloc(sizeof *d.f * e->slots->count);
    d.g = bsi_alloc(sizeof *d.g * e->slots->count);
    size_t end = r->from[index + 1];
    d.amended = first_amended(e, r->span[r->from[index]].first);
    for (size_t i = r->from[index]; i < end && !st && !atomic_load(&r->status); i++) {
        span *s = d.s = &r->span[i];
        s->ref = d.ref->count;
        size_t insert = s->insert, gone = s->gone, pair = s->pair;
        st = put_inserts(&d, &insert, s->first << 16, &err); /* those that stand before its first record */
        for (uint64_t b = s->first; b < s->end && !st; b++) st = edit_block(&d, b, &insert, &gone, &pair, &err);
        if (!st) st = put_inserts(&d, &insert, UINT64_MAX, &err);
        if (!st) st = flush(&d, &err);
    }
    if (d.writer) {
        bomsync_status closed = bsi_block_writer_close(d.writer, &err);
        if (!st) st = closed;
    }
    int none = 0;
    if (st && atomic_compare_exchange_strong(&r->status, &none, (int)st) && r->err) *r->err = err;
    if (e->now) bsi_row_reader_close(&d.now);
    bsi_block_data_free(&d.own);
    bsi_buf_free(&d.p.enc);
    bsi_buf_free(&d.merged);
    free(d.row);
    free(d.p.off);
    free(d.p.body);
    free(d.p.kh);
    free(d.p.rh);
    free(d.f);
    free(d.g);
}

static int pair_order(const void *a, const void *b) {
    const bsi_edit_pair *x = a, *y = b;
    return x->was < y->was ? -1 : x->was > y->was;
}
static int insert_order(const void *a, const void *b) {
    const bsi_edit_insert *x = a, *y = b;
    if (x->after != y->after) return x->after < y->after ? -1 : 1;
    return x->now < y->now ? -1 : x->now > y->now;
}

/* The block that an insert stands before, if the one it stands behind is left alone. */
static uint64_t stands_before(const bsi_edit_insert *i) { return i->after == 0 ? 0 : ((i->after - 1) >> 16) + 1; }

/* Past the inserts of one run that stand before block `place`: all of them, or of very many the first ones, up to where a block of the snapshot ends. */
static size_t pass_inserts(const bsi_edit *e, size_t from, uint64_t place) {
    size_t to = from;
    while (to < e->insert_count && stands_before(&e->insert[to]) == place &&
           (to - from < BSI_EDIT_INSERTS || e->insert[to].now >> 16 == e->insert[to - 1].now >> 16))
        to++;
    return to;
}

/* Do more stand in front of a touched block than one run takes? Then other workers take them. */
static bool many_in_front(const bsi_edit *e, size_t from, uint64_t place) {
    size_t last = from + BSI_EDIT_INSERTS;
    return last < e->insert_count && stands_before(&e->insert[last]) == place;
}

/* Does a block of the snapshot begin with the first record of this state block, or is that in none? *pair: pairs before it are passed. */
static bool begins_anew(const bsi_edit *e, uint64_t block, size_t *pair) {
    while (*pair < e->pair_count && e->pair[*pair].was < block << 16) ++*pair;
    const bsi_edit_pair *p = *pair < e->pair_count ? &e->pair[*pair] : NULL;
    return p && p->was == block << 16 && !(p->aligned && p->now & 0xffff);
}

/* Behind the touched blocks of a run that starts with the one at `from`. */
static size_t end_of_run(const bsi_edit *e, size_t from, size_t pair) {
    size_t t = from + 1;
    while (t < e->touched_count && e->touched[t] == e->touched[t - 1] + 1) {
        if (t - from >= BSI_EDIT_BLOCKS && begins_anew(e, e->touched[t], &pair)) break;
        t++;
    }
    return t;
}

/* Runs in list order, each with where its inserts, deletes and pairs begin. */
static void plan(edit_run *r) {
    bsi_edit *e = r->e;
    size_t ins = 0, gone = 0, pair = 0;
    size_t most = e->touched_count + BSI_MIN(e->insert_count, e->base_count + 1) + e->insert_count / BSI_EDIT_INSERTS; /* what is not used is not touched */
    r->span = bsi_vast_alloc((most + 1) * sizeof *r->span);
    for (size_t t = 0; t < e->touched_count || ins < e->insert_count;) {
        uint64_t next = t < e->touched_count ? e->touched[t] : UINT64_MAX;
        span *s = &r->span[r->count++];
        *s = (span){.insert = ins};
        uint64_t place = ins < e->insert_count ? stands_before(&e->insert[ins]) : UINT64_MAX;
        if (place < next || (place == next && many_in_front(e, ins, place))) {
            s->first = s->end = place;
            ins = pass_inserts(e, ins, place);
        } else {
            while (gone < e->gone_count && e->gone[gone] >> 16 < next) gone++;
            while (pair < e->pair_count && e->pair[pair].was >> 16 < next) pair++;
            t = end_of_run(e, t, pair);
            s->first = next;
            s->end = e->touched[t - 1] + 1;
            while (ins < e->insert_count && stands_before(&e->insert[ins]) <= s->end) ins++;
        }
        s->insert_end = ins;
        s->gone = gone;
        s->pair = pair;
    }
}

static size_t work_of(const span *s) { return s->end - s->first + (s->insert_end - s->insert) / 16 + 1; }

/* Runs that stand side by side make a task: about as much work in each, and some for each worker. */
static void plan_tasks(edit_run *r) {
    size_t all = 0, now = 0;
    for (size_t i = 0; i < r->count; i++) all += work_of(&r->span[i]);
    size_t each = BSI_MAX(all / ((size_t)BSI_MAX(r->e->workers, 1) * 4) + 1, (size_t)BSI_EDIT_BLOCKS);
    r->from = bsi_alloc((all / each + 2) * sizeof *r->from);
    for (size_t i = 0; i < r->count; i++) {
        if (!now) r->from[r->tasks++] = i;
        now += work_of(&r->span[i]);
        if (now >= each) now = 0;
    }
    r->from[r->tasks] = r->count;
}

/* The tasks' lists one behind the other; .count becomes what stands before each. */
static bsi_ref *join_refs(ref_list *list, size_t tasks, size_t *total) {
    size_t n = 0;
    for (size_t i = 0; i < tasks; i++) n += list[i].count;
    bsi_ref *all = bsi_vast_alloc((n + 1) * sizeof *all);
    n = 0;
    for (size_t i = 0; i < tasks; i++) {
        size_t count = list[i].count;
        if (count) memcpy(all + n, list[i].v, count * sizeof *all);
        bsi_vast_free(list[i].v);
        list[i].count = n;
        n += count;
    }
    *total = n;
    return all;
}

bomsync_status bsi_edit_run(bsi_state_edit **edits, size_t *count, bsi_edit *e, bomsync_error *err) {
    edit_run r = {.e = e, .err = err};
    bsi_sort(e->pair, e->pair_count, sizeof *e->pair, pair_order);
    bsi_sort(e->insert, e->insert_count, sizeof *e->insert, insert_order);
    plan(&r);
    plan_tasks(&r);
    size_t tasks = r.tasks;
    r.ref = bsi_calloc(tasks + 1, sizeof *r.ref);
    r.loose = bsi_calloc(tasks + 1, sizeof *r.loose);
    bsi_parallel(e->workers, tasks, edit_task, &r);
    size_t made;
    const bsi_ref *ref = join_refs(r.ref, tasks, &made);
    *edits = bsi_vast_alloc(sizeof **edits * (r.count + 1));
    *count = r.count;
    (*edits)[r.count] = (bsi_state_edit){.ref = ref, .count = made}; /* behind the last: the list that all of them share */
    e->loose = join_refs(r.loose, tasks, &e->loose_count);
    for (size_t t = 0; t < tasks; t++)
        for (size_t i = r.from[t]; i < r.from[t + 1]; i++)
            (*edits)[i] = (bsi_state_edit){.first = BSI_MIN(r.span[i].first, e->base_count), .end = BSI_MIN(r.span[i].end, e->base_count),
                                           .ref = ref + r.span[i].ref + r.ref[t].count, .count = r.span[i].ref_count};
    free(r.from);
    free(r.ref);
    free(r.loose);
    bsi_vast_free(r.span);
    return (bomsync_status)atomic_load(&r.status);
}

void bsi_state_edits_free(bsi_state_edit *edits, size_t count) {
    if (edits) bsi_vast_free((bsi_ref *)(uintptr_t)edits[count].ref); /* all of them are in one list */
    bsi_vast_free(edits);
}

bsi_ref *bsi_state_edits_apply(size_t *count, const bsi_ref *base, size_t base_count, const bsi_state_edit *edits, size_t edit_count) {
    size_t most = base_count, n = 0;
    uint64_t at = 0;
    for (size_t i = 0; i < edit_count; i++) most += edits[i].count;
    bsi_ref *out = bsi_vast_alloc(sizeof *out * (most + 1));
    for (size_t i = 0; i < edit_count; i++) {
        const bsi_state_edit *s = &edits[i];
        for (; at < s->first; at++) out[n++] = base[at];
        for (size_t k = 0; k < s->count; k++) out[n++] = s->ref[k];
        at = s->end;
    }
    for (; at < base_count; at++) out[n++] = base[at];
    *count = n;
    return out;
}

/* ---- the image after it ---- */

void bsi_image_edits_add(bsi_image_edits *x, uint64_t first, uint64_t end, const bsi_image_entry *entry, size_t count) {
    if (x->count == x->cap) x->edit = bsi_vast_realloc(x->edit, (x->cap = x->cap ? x->cap * 2 : 64) * sizeof *x->edit);
    if (x->entries + count > x->entry_cap) {
        x->entry_cap = BSI_MAX(x->entry_cap * 2, x->entries + count + 64);
        x->entry = bsi_vast_realloc(x->entry, x->entry_cap * sizeof *x->entry);
    }
    if (count) memcpy(x->entry + x->entries, entry, count * sizeof *entry);
    x->entries += count;
    x->edit[x->count++] = (bsi_image_edit){.first = first, .end = end, .count = count};
}

void bsi_image_edits_end(bsi_image_edits *x) {
    size_t at = 0;
    for (size_t i = 0; i < x->count; i++) {
        x->edit[i].entry = x->entry + at;
        at += x->edit[i].count;
    }
}

void bsi_image_edits_free(bsi_image_edits *x) {
    bsi_vast_free(x->edit);
    bsi_vast_free(x->entry);
    *x = (bsi_image_edits){0};
}

void bsi_image_unexact(bsi_image_edits *x, const bsi_image *image, const bsi_ref_set *replaced) {
    for (size_t p = 0; p < image->piece_count && replaced->count; p++)
        for (uint32_t k = 0; k < image->piece[p].count; k++) {
            bsi_image_entry e = image->piece[p].entry[k];
            if (!(e.flags & BSI_IMAGE_EXACT) || !bsi_ref_has(replaced, e.ref)) continue;
            e.flags &= ~(uint32_t)BSI_IMAGE_EXACT;
            e.ref = BSI_REF_NONE;
            bsi_image_edits_add(x, image->piece[p].first + k, image->piece[p].first + k + 1, &e, 1);
        }
}

bsi_ref *bsi_orphans_after(size_t *count, const bsi_ref *before, size_t before_count, const bsi_ref_set *replaced, const bsi_ref *loose,
                           size_t loose_count, const bsi_ref_set *covered) {
    bsi_ref *out = bsi_vast_alloc(sizeof *out * (before_count + loose_count + 1));
    *count = 0;
    for (size_t i = 0; i < before_count; i++)
        if (!bsi_ref_has(replaced, before[i]) && !bsi_ref_has(covered, before[i])) out[(*count)++] = before[i];
    for (size_t i = 0; i < loose_count; i++) out[(*count)++] = loose[i];
    return out;
}
