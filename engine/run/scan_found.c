/* run/scan_found.c - what a scan found, as lists of runs and of open blocks.
 *
 *   runs    | 8,211 matched, entries 0.. | 2 open, block[0].. | 96 matched, entries 8,213.. | 1 open, block[2].. | ...
 *   block                                  | 0 | 1 |                                          | 2 |
 *
 * Matched blocks side by side take one run of 64 bytes however many they are, so that an unchanged snapshot of any size costs no
 * memory; only open blocks are listed one by one. Units have such lists; the chain of the scan is made of them, as far as each of them proves
 * right. Which entry a block takes is decided in file order when that is done, so two equal blocks never depend on who was faster.
 *
 * Tried and dropped: claiming entries in the workers (order then depends on timing).
 */
#include "run/scan_inner.h"

#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"

enum { SOME_BLOCKS = 500 };

/* ---- one list ---- */

static bool continues(const bsi_scan_run *a, const bsi_scan_run *b) {
    return a->file == b->file && a->matched == b->matched && a->first + a->count == b->first && a->offset + a->bytes == b->offset &&
           (!a->matched || (a->spill == BSI_NO_SPILL ? b->spill == BSI_NO_SPILL : a->spill + a->bytes == b->spill));
}

static void *longer(const bsi_scan_found *f, void *list, size_t bytes) { return f->vast ? bsi_vast_realloc(list, bytes) : bsi_realloc(list, bytes); }

static void add_run(bsi_scan_found *f, const bsi_scan_run *r) {
    f->listed += r->count;
    if (f->runs && continues(&f->run[f->runs - 1], r)) {
        bsi_scan_run *last = &f->run[f->runs - 1];
        last->count += r->count;
        last->bytes += r->bytes;
        last->records += r->records;
        return;
    }
    if (f->runs == f->run_cap) f->run = longer(f, f->run, (f->run_cap = f->run_cap ? f->run_cap * 2 : 16) * sizeof *f->run);
    f->run[f->runs++] = *r;
}

static void set_room(bsi_scan_found *f, size_t cap, bool brief) {
    f->block_cap = cap;
    if (brief) f->brief = longer(f, f->brief, cap * sizeof *f->brief);
    else f->block = longer(f, f->block, cap * sizeof *f->block);
}

static void make_room(bsi_scan_found *f, size_t n, bool brief) {
    if (f->blocks + n <= f->block_cap) return;
    if (f->blocks > SOME_BLOCKS) bsi_memory_large();
    set_room(f, BSI_MAX(f->block_cap * 2, f->blocks + n + 16), brief);
}

/* Blocks of `from`, whose list is of the same kind. */
static void add_blocks(bsi_scan_found *f, const bsi_scan_found *from, uint64_t first, size_t n) {
    if (!n) return; /* there may be no list yet */
    make_room(f, n, from->brief != NULL);
    if (from->brief) memcpy(f->brief + f->blocks, from->brief + first, n * sizeof *f->brief);
    else memcpy(f->block + f->blocks, from->block + first, n * sizeof *f->block);
    f->blocks += n;
}

static bsi_scan_brief in_brief(const bsi_scan_block *b) {
    uint32_t flags = b->blanks ? b->flags & ~(uint32_t)BSI_CUT_LINES : b->flags; /* the number of blank lines is not in it */
    return (bsi_scan_brief){.plain = b->plain, .tag = b->tag, .bytes = b->bytes, .records = (uint16_t)b->records, .flags = (uint16_t)flags};
}

static void add_unseen(bsi_scan_found *f, size_t brief, uint64_t offset, uint32_t file) {
    if (f->unseens == f->unseen_cap)
        f->unseen = bsi_realloc(f->unseen, (f->unseen_cap = f->unseen_cap ? f->unseen_cap * 2 : BSI_QUIET_BLOCKS) * sizeof *f->unseen);
    f->unseen[f->unseens++] = (bsi_scan_unseen){brief, offset, file};
}

void bsi_scan_found_add(bsi_scan_found *f, bsi_scan_step *s, bool brief) {
    if (!s->run.matched) {
        s->run.first = f->blocks;
        make_room(f, 1, brief);
        if (brief && s->block.tag == BSI_NO_TAG) add_unseen(f, f->blocks, s->run.offset, s->run.file);
        if (brief) f->brief[f->blocks++] = in_brief(&s->block);
        else f->block[f->blocks++] = s->block;
    }
    add_run(f, &s->run);
}

void bsi_scan_found_free(bsi_scan_found *f) {
    void (*drop)(void *) = f->vast ? bsi_vast_free : free;
    drop(f->run);
    drop(f->block);
    drop(f->brief);
    free(f->unseen);
    *f = (bsi_scan_found){0};
}

void bsi_scan_found_expect(bsi_scan_found *all, const bsi_scan_found *next, size_t done, size_t of, bool brief) {
    size_t blocks = all->blocks + next->blocks, runs = all->runs + next->runs, more = 2 * SOME_BLOCKS;
    if (blocks + SOME_BLOCKS > all->block_cap) set_room(all, bsi_vast_expected(blocks, done, of) + more, brief);
    if (runs + SOME_BLOCKS <= all->run_cap) return;
    all->run_cap = bsi_vast_expected(runs, done, of) + more;
    all->run = longer(all, all->run, all->run_cap * sizeof *all->run);
}

/* ---- from a list to that of the chain ---- */

void bsi_scan_found_reach(bsi_scan_place *at, const bsi_scan_found *f, const bsi_image *image, uint64_t pos) {
    bsi_image_walk w = {.image = image};
    while (at->run < f->runs) {
        const bsi_scan_run *r = &f->run[at->run];
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
            at->offset += f->brief ? f->brief[i].bytes : f->block[i].bytes;
            at->records += f->brief ? f->brief[i].records : f->block[i].records;
        }
        if (++at->skip < r->count) continue;
        at->run++; /* the end of a run is no start of a block */
        at->skip = 0;
    }
}

/* Of blocks first..first + n of `from`, which will stand at the end of f. */
static void adopt_unseen(bsi_scan_found *f, const bsi_scan_found *from, uint64_t first, uint64_t n) {
    for (size_t i = 0; i < from->unseens; i++) {
        const bsi_scan_unseen *b = &from->unseen[i];
        if (b->brief - first < n) add_unseen(f, f->blocks + (b->brief - first), b->offset, b->file);
    }
}

void bsi_scan_found_adopt(bsi_scan_found *all, const bsi_scan_found *from, bsi_scan_place at, uint64_t *pos) {
    for (size_t i = at.run; i < from->runs; i++) {
        bsi_scan_run r = from->run[i];
        if (i == at.run && at.skip) {
            r.first += at.skip;
            r.count -= at.skip;
            r.bytes -= at.offset - r.offset;
            if (r.spill != BSI_NO_SPILL) r.spill += at.offset - r.offset;
            r.records -= at.records;
            r.offset = at.offset;
        }
        if (!r.matched) {
            uint64_t first = r.first;
            r.first = all->blocks;
            adopt_unseen(all, from, first, r.count);
            add_blocks(all, from, first, r.count);
        }
        add_run(all, &r);
        *pos = r.offset + r.bytes;
    }
}

/* ---- the list as the others see it ---- */

/* A matched block as an open one. */
static bsi_scan_step opened(const bsi_scan_run *r, const bsi_image_entry *e, uint64_t before) {
    bsi_scan_step t = {.run = {.file = r->file, .offset = r->offset + before, .count = 1, .bytes = e->bytes, .records = e->records}};
    t.block = (bsi_scan_block){.file = r->file, .offset = t.run.offset, .tag = BSI_NO_TAG, .fp = e->fp, .plain = e->plain, .bytes = e->bytes,
                               .records = e->records, .blanks = e->blanks};
    t.block.flags = (e->flags & BSI_IMAGE_AT_END ? BSI_CUT_AT_END : 0u) | (e->flags & BSI_IMAGE_LONE_CR ? BSI_CUT_LONE_CR : 0u) |
                    (e->flags & BSI_IMAGE_LINES ? BSI_CUT_LINES : 0u);
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
    bsi_scan_found all = {.vast = true}, before_it = {.block = s->block};
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
            bsi_scan_step t = {.run = {.file = r.file, .offset = r.offset + before, .count = 1, .bytes = e->bytes, .records = e->records, .matched = true,
                              .first = r.first + k, .spill = r.spill == BSI_NO_SPILL ? BSI_NO_SPILL : r.spill + before}};
            if (open) t = opened(&r, e, before);
            bsi_scan_found_add(&all, &t, false);
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

void bsi_scan_settle(bsi_scan *s, const bsi_image *image) {
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
