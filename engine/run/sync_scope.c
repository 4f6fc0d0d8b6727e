/* run/sync_scope.c - snapshots of some partitions, beside an image of all of them.
 *
 *   stored image   | 1000 1000 1000 | ? | 2000 2000 2000 2000 | ? | 3000 3000 ..      partition of each entry's records; ?: of several, or not known
 *   view of 2000                        | 2000 2000 2000 2000 |                       what the snapshot is matched with, joined with, edited in
 *   joined, too                      ?                          ?
 *
 * A plant that is sent alone is compared with the blocks of its plant. All others hold no record that it speaks of: they need not be looked at,
 * and stay in the image as they are, for the night when their plant comes, or all plants in one file.
 *
 * Whether an entry is of another partition is told by 24 bits of a hash, so it is certain; that it is of this one is certain if no other partition of
 * the feed has the same bits. Those of entries that are not known, mixed blocks at the border of two partitions mostly, are joined.
 *
 * Tried and dropped: to join all records of the state and leave out what is of other partitions at the end (2.5 s of 10 million records, for a plant
 * that did not change).
 */
#include <stdlib.h>

#include "core/vast.h"
#include "run/sync.h"

/* ---- which entries ---- */

typedef enum where { OTHER, WITHIN, UNKNOWN } where;

typedef struct builder {
    bsi_scope_view *v;
    bsi_image image;  /* the view */
    size_t cap;
    uint32_t *part;   /* of the scope */
    size_t parts;
    bool *certain;    /* [parts] no other partition looks like it */
    uint32_t last;    /* of the entry before: its neighbours mostly are of the same, and the scope may name many */
    where last_is;
} builder;

static bool is_in(const bsi_sync *s, const char *name) {
    for (size_t i = 0; i < s->scope_count; i++)
        if (strcmp(s->scope[i], name) == 0) return true;
    return false;
}

static void list_parts(builder *b, const bsi_sync *s) {
    b->part = bsi_alloc(s->scope_count * sizeof *b->part);
    b->certain = bsi_calloc(s->scope_count, sizeof *b->certain);
    for (size_t i = 0; i < s->scope_count; i++) {
        uint32_t part = b->part[b->parts] = bsi_image_part(s->scope[i], strlen(s->scope[i]));
        b->certain[b->parts] = true;
        for (size_t k = 0; k < s->last->partition_count; k++) {
            const char *name = s->last->partitions[k].name;
            if (bsi_image_part(name, strlen(name)) == part && !is_in(s, name)) b->certain[b->parts] = false;
        }
        b->parts++;
    }
}

static where find_part(const builder *b, uint32_t part) {
    if (!part) return UNKNOWN;
    for (size_t i = 0; i < b->parts; i++)
        if (b->part[i] == part) return b->certain[i] ? WITHIN : UNKNOWN;
    return OTHER;
}

static where where_is(builder *b, const bsi_image_entry *e) {
    uint32_t part = e->flags >> BSI_IMAGE_PART_SHIFT;
    if (part != b->last) b->last_is = find_part(b, part);
    b->last = part;
    return b->last_is;
}

static void add_unknown(bsi_scope_view *v, uint64_t index, const bsi_image_entry *e) {
    if (!(e->flags & BSI_IMAGE_EXACT)) return;
    if (v->unknown_count == v->unknown_cap) v->unknown = bsi_vast_realloc(v->unknown, (v->unknown_cap = v->unknown_cap * 2 + 16) * sizeof *v->unknown);
    v->unknown[v->unknown_count++] = (struct bsi_scope_unknown){index, e->ref};
}

/* Entries of a stored piece from `at` on. */
static void add_piece(builder *b, const bsi_image_piece *p, uint32_t at, uint32_t count) {
    if (b->image.piece_count == b->cap) {
        b->cap = b->cap * 2 + 64;
        b->image.piece = bsi_vast_realloc(b->image.piece, b->cap * sizeof *b->image.piece);
        b->v->from = bsi_vast_realloc(b->v->from, b->cap * sizeof *b->v->from);
    }
    b->v->from[b->image.piece_count] = p->first + at;
    b->image.piece[b->image.piece_count++] =
        (bsi_image_piece){.entry = p->entry + at, .first = b->image.count, .id = p->id, .count = count, .before = p->before + at};
    b->image.count += count;
}

static void take_piece(builder *b, const bsi_image_piece *p) {
    uint32_t from = 0;
    for (uint32_t i = 0; i <= p->count; i++) {
        where w = i < p->count ? where_is(b, &p->entry[i]) : OTHER;
        if (w == WITHIN) continue;
        if (i > from) add_piece(b, p, from, i - from);
        if (w == UNKNOWN) add_unknown(b->v, p->first + i, &p->entry[i]);
        from = i + 1;
    }
}

/* What was orphaned in the stored image, and what is not known of the others. */
static void list_orphans(builder *b) {
    const bsi_scope_view *v = b->v;
    b->image.orphan = bsi_vast_alloc((v->stored.orphan_count + v->unknown_count + 1) * sizeof *b->image.orphan);
    for (size_t i = 0; i < v->stored.orphan_count; i++) b->image.orphan[b->image.orphan_count++] = v->stored.orphan[i];
    for (size_t i = 0; i < v->unknown_count; i++) b->image.orphan[b->image.orphan_count++] = v->unknown[i].ref;
}

bomsync_status bsi_sync_scope_open(bsi_sync *s, bomsync_error *err) {
    if (!s->scope || !s->tier_block || !s->last || !s->image.count || s->feed->slots.partition < 0) return BOMSYNC_OK;
    builder b = {.v = s->view = bsi_calloc(1, sizeof *s->view), .last_is = UNKNOWN};
    s->view->stored = s->image;
    list_parts(&b, s);
    bomsync_status st = BOMSYNC_OK;
    uint64_t id = 0;
    for (size_t i = 0; i < s->image.piece_count && !st; i++) {
        const bsi_image_piece *p = &s->image.piece[i];
        if (p->id != id) st = bsi_store_image_check(s->store, p, err); /* a flipped bit would hide records */
        id = p->id;
        if (!st) take_piece(&b, p);
    }
    list_orphans(&b);
    s->image = b.image;
    free(b.part);
    free(b.certain);
    return st;
}

void bsi_sync_scope_close(bsi_sync *s) {
    if (!s->view) return;
    bsi_image_free(&s->view->stored);
    bsi_vast_free(s->view->from);
    bsi_vast_free(s->view->unknown);
    free(s->view);
    s->view = NULL;
}

/* ---- back to the whole image ---- */

/* Where an entry of the view is stored. */
static uint64_t stored_at(const bsi_sync *s, uint64_t index) {
    size_t p = bsi_image_piece_of(&s->image, index);
    return s->view->from[p] + (index - s->image.piece[p].first);
}

/* Where something is put in that stands before entry `index` of the view: right behind the one before it. */
static uint64_t stored_before(const bsi_sync *s, uint64_t index) {
    if (!s->image.count) return s->view->stored.count;
    return index ? stored_at(s, index - 1) + 1 : stored_at(s, 0);
}

typedef struct putting {
    const bsi_sync *s;
    bsi_image_edits *x;
    const bsi_ref_set *gone, *named;
    size_t unknown; /* the next one */
} putting;

static bool goes(const struct bsi_scope_unknown *u, const bsi_ref_set *gone, const bsi_ref_set *named) {
    return bsi_ref_has(gone, u->ref) || bsi_ref_has(named, u->ref);
}

/* Those that are stored before `at` and stand for nothing any more. */
static void drop_unknown(putting *p, uint64_t at) {
    const bsi_scope_view *v = p->s->view;
    for (; p->unknown < v->unknown_count && v->unknown[p->unknown].index < at; p->unknown++) {
        const struct bsi_scope_unknown *u = &v->unknown[p->unknown];
        if (goes(u, p->gone, p->named)) bsi_image_edits_add(p->x, u->index, u->index + 1, NULL, 0);
    }
}

static void put_edit(putting *p, uint64_t first, uint64_t end, const bsi_image_entry *entry, size_t count) {
    drop_unknown(p, first);
    bsi_image_edits_add(p->x, first, end, entry, count);
}

/* What stands side by side in the view may be stored in several places: the first one gets what is new. */
static void translate(putting *p, const bsi_image_edit *e) {
    const bsi_sync *s = p->s;
    if (e->first == e->end) {
        uint64_t at = stored_before(s, e->first);
        put_edit(p, at, at, e->entry, e->count);
        return;
    }
    size_t count = e->count;
    for (uint64_t at = e->first; at < e->end;) {
        size_t piece = bsi_image_piece_of(&s->image, at);
        uint64_t first = stored_at(s, at), end = first;
        for (; piece < s->image.piece_count && at < e->end && stored_at(s, at) == end; piece++) {
            uint64_t some = BSI_MIN(e->end, s->image.piece[piece].first + s->image.piece[piece].count) - at;
            at += some;
            end += some;
        }
        put_edit(p, first, end, e->entry, count);
        count = 0;
    }
}

void bsi_sync_scope_edits(const bsi_sync *s, bsi_image_edits *x, const bsi_image_edit *edit, size_t count, const bsi_ref_set *gone, const bsi_ref_set *named) {
    putting p = {.s = s, .x = x, .gone = gone, .named = named};
    for (size_t i = 0; i < count; i++) translate(&p, &edit[i]);
    drop_unknown(&p, UINT64_MAX);
    bsi_image_edits_end(x);
}

size_t bsi_sync_scope_orphans(const bsi_sync *s, bsi_ref *orphan, size_t count, const bsi_ref_set *gone, const bsi_ref_set *named) {
    bsi_ref_set stays = {0};
    size_t left = 0;
    for (size_t i = 0; i < s->view->unknown_count; i++)
        if (!goes(&s->view->unknown[i], gone, named)) bsi_ref_add(&stays, s->view->unknown[i].ref);
    for (size_t i = 0; i < count; i++)
        if (!bsi_ref_has(&stays, orphan[i])) orphan[left++] = orphan[i];
    bsi_vast_free(stays.slot);
    return left;
}
