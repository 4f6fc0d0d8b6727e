/* store/store_image.c - a feed's image: the entries of a list (store_lists.c) on pages.
 *
 *   list:   page 5 [0..72) ─ page 6 [0..30) ─ page 91 [0..8) ─ page 6 [38..72) ─ page 7 [0..72) ...     {page, first, count} each
 *
 * A page is a value of up to 72 entries of 56 bytes, as they are, which fills a page of LMDB: dropping one then rewrites no
 * neighbour. (Tried before: small values on shared leaf pages. Dropping the old ones rewrote twice as much as the new
 * ones took.) A piece of the list is a stretch of a page; what an edit replaces goes to a new page, and what stands
 * before and behind it stays where it is. A page that is less than half in use is copied out, so dead entries stay below
 * half, and a page that a small run left nearly empty is filled up by the next one.
 *
 *   given as edits     the entries of the edits are written, and nothing else: of one changed entry in nine, all over the image,
 *                      a ninth of it. That leaves a list of many short pieces. While there are more than one for IMAGE_PIECE
 *                      entries, each edit also has one stretch of the image written anew, where pieces are shortest, of IMAGE_SWEEP
 *                      entries for each of its own. So the stretch goes round, pieces stay as many as they are, each night costs the
 *                      same, and pages that get free lie together. (Tried before: above a piece for four entries, neighbours of all
 *                      edits, 24 together. Then one night in four wrote ten times what the others did, pieces were twice as many, and
 *                      free pages lay scattered, which made each commit slow.)
 *   given as a whole   it is cut where an entry says so (the low bits of its fingerprint), about every 13 entries, and what
 *                      the image before holds, cut in the same way, is found again by its XXH3-128
 */
#include "core/vast.h"
#include "store/store_inner.h"

enum { IMAGE_MIN = 6, IMAGE_MASK = 7, IMAGE_MAX = 36, IMAGE_KEEP = 8 };
enum { IMAGE_PIECE = 8, IMAGE_SWEEP = 8 }; /* entries for each piece, from which on a stretch is swept; entries of it for each that is new. A piece costs
                                               some 100 ns each time, an entry that is written again about as much, once */
static_assert(sizeof(bsi_image_entry) == 56, "image entries are stored as they are");
static_assert(BSI_IMAGE_PAGE * sizeof(bsi_image_entry) + BSI_VALUE_HEAD <= 4080, "entries of one value fit a page");

/* ---- pages ---- */

typedef struct page {
    uint64_t id; /* 0: none */
    const bsi_image_entry *entry; /* where they lie; NULL: not looked up so far */
    uint32_t count, used;         /* entries on it; in use by the list */
} page;

typedef struct pages { /* those of a list, by id: many pieces lie on one page, so the table stays small where lists are long */
    bsi_store *s;
    page *slot;
    size_t mask;
    page *near[2]; /* slots that were looked at last */
    uint64_t *id;  /* as they come in the list */
    size_t count;
} pages;

static page *page_of(const pages *p, uint64_t id) {
    size_t at = bsi_stir(id) & p->mask;
    while (p->slot[at].id && p->slot[at].id != id) at = (at + 1) & p->mask;
    return &p->slot[at];
}

/* The same, and quicker: pieces that stand together mostly lie on two pages, an old one and one with what took the place of parts of it. */
static page *page_near(pages *p, uint64_t id) {
    if (p->near[0]->id == id) return p->near[0];
    if (p->near[1]->id == id) return p->near[1];
    p->near[1] = p->near[0];
    return p->near[0] = page_of(p, id);
}

static void pages_grow(pages *p) {
    page *old = p->slot;
    size_t size = p->mask + 1;
    p->slot = bsi_vast_calloc(size * 2, sizeof *p->slot);
    p->mask = size * 2 - 1;
    p->id = bsi_vast_realloc(p->id, size * 2 * sizeof *p->id);
    for (size_t i = 0; i < size; i++)
        if (old[i].id) *page_of(p, old[i].id) = old[i];
    p->near[0] = p->near[1] = p->slot;
    bsi_vast_free(old);
}

/* False: it was there. */
static bool pages_add(pages *p, uint64_t id) {
    page *q = page_near(p, id);
    if (q->id) return false;
    q->id = p->id[p->count++] = id;
    if (p->count > p->mask / 4 * 3) pages_grow(p);
    return true;
}

static void pages_init(pages *p, bsi_store *s, uint64_t entries) {
    size_t size = 16;
    while (size < entries / BSI_IMAGE_PAGE * 2) size *= 2;
    *p = (pages){.s = s, .slot = bsi_vast_calloc(size, sizeof *p->slot), .mask = size - 1, .id = bsi_vast_alloc(size * sizeof *p->id)};
    p->near[0] = p->near[1] = p->slot;
}

static void pages_open(pages *p, bsi_store *s, const bsi_list *list) {
    pages_init(p, s, list->count);
    for (size_t i = 0; i < list->piece_count; i++) pages_add(p, list->piece[i].id);
}

static void pages_close(pages *p) {
    bsi_vast_free(p->slot);
    bsi_vast_free(p->id);
}

/* What its length says: the page itself is not looked at (a cache miss for each, before anything else can be done). */
static bomsync_status page_room(pages *p, page *q, MDB_val value, bomsync_error *err) {
    bsi_env *e = &p->s->root;
    MDB_val key = bsi_key_id(&q->id);
    size_t bytes = value.mv_size < BSI_VALUE_HEAD ? 1 : value.mv_size - BSI_VALUE_HEAD;
    if (bytes % sizeof(bsi_image_entry) || bytes > BSI_IMAGE_PAGE * sizeof(bsi_image_entry)) return bsi_bad(err, e, BSI_DB_IMAGE, key, "not whole entries");
    q->entry = (const void *)((const uint8_t *)value.mv_data + BSI_VALUE_HEAD);
    if ((uintptr_t)q->entry & 7) return bsi_bad(err, e, BSI_DB_IMAGE, key, "lies askew on its page");
    q->count = (uint32_t)(bytes / sizeof(bsi_image_entry));
    return BOMSYNC_OK;
}

static bomsync_status page_value(pages *p, page *q, MDB_val value, bomsync_error *err) {
    bsi_span payload;
    bomsync_status st = bsi_value_check(&payload, &p->s->root, BSI_DB_IMAGE, bsi_key_id(&q->id), value, err);
    return st ? st : page_room(p, q, value, err);
}

static bomsync_status too_short(const pages *p, uint64_t id, bomsync_error *err) {
    return bsi_bad(err, &p->s->root, BSI_DB_IMAGE, bsi_key_id(&id), "not as long as its list says");
}

/* Entries of a piece, whose page is read and checked once. */
static bomsync_status piece_entries(const bsi_image_entry **out, pages *p, const bsi_list_piece *piece, bomsync_error *err) {
    page *q = page_near(p, piece->id);
    if (!q->entry) {
        bsi_env *e = &p->s->root;
        MDB_val key = bsi_key_id(&piece->id), value;
        int rc = mdb_get(e->read, e->dbi[BSI_DB_IMAGE], &key, &value);
        if (rc == MDB_NOTFOUND) return bsi_bad(err, e, BSI_DB_IMAGE, bsi_key_id(&piece->id), "missing");
        if (rc) return bsi_env_fail(err, e, rc, "read");
        bomsync_status st = page_value(p, q, value, err);
        if (st) return st;
    }
    if (piece->first > q->count || piece->count > q->count - piece->first) return too_short(p, piece->id, err);
    *out = q->entry + piece->first;
    return BOMSYNC_OK;
}

/* ---- reading ---- */

/* All pages are looked up in the order of their ids: in that of the list, old pages take turns with those that replaced parts of them, and
 * each would be a search. */
static bomsync_status look_up_pages(pages *pg, MDB_cursor *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    uint64_t here = 0;
    qsort(pg->id, pg->count, sizeof *pg->id, bsi_by_u64);
    for (size_t i = 0; !st && i < pg->count; here = pg->id[i++]) {
        MDB_val value;
        st = bsi_list_seek(&value, pg->s, BSI_DB_IMAGE, pg->id[i], c, here, err);
        if (!st) st = page_room(pg, page_of(pg, pg->id[i]), value, err);
    }
    return st;
}

/* Where the entries of each piece lie, once the pages are known. */
static bomsync_status find_entries(bsi_image *image, pages *pg, bomsync_error *err) {
    for (size_t i = 0; i < image->piece_count; i++) {
        bsi_image_piece *p = &image->piece[i];
        const page *q = page_near(pg, p->id);
        if (p->before > q->count || p->count > q->count - p->before) return too_short(pg, p->id, err);
        p->entry = q->entry + p->before;
    }
    return BOMSYNC_OK;
}

/* An image that was written as a whole: each piece has a page of its own, and they ascend. Then there is nothing to sort and no table to make. */
static bool in_order(const bsi_image *image) {
    for (size_t i = 1; i < image->piece_count; i++)
        if (image->piece[i].id <= image->piece[i - 1].id) return false;
    return true;
}

static bomsync_status look_up_in_order(bsi_image *image, pages *pg, MDB_cursor *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    uint64_t here = 0;
    for (size_t i = 0; !st && i < image->piece_count; i++) {
        bsi_image_piece *p = &image->piece[i];
        page q = {.id = p->id};
        MDB_val value;
        st = bsi_list_seek(&value, pg->s, BSI_DB_IMAGE, p->id, c, here, err);
        if (st) break;
        st = page_room(pg, &q, value, err);
        if (!st && (p->before > q.count || p->count > q.count - p->before)) st = too_short(pg, p->id, err);
        if (!st) p->entry = q.entry + p->before;
        here = p->id;
    }
    return st;
}

/* The list is not loaded first: of an image that was edited all over it has hundreds of thousands of pieces, and is read once. */
static bomsync_status image_pieces(bsi_image *out, pages *pg, bsi_store *s, bsi_list_reader *r, bomsync_error *err) {
    bsi_list_piece p;
    uint64_t first = 0;
    while (bsi_list_next(&p, r)) {
        out->piece[out->piece_count++] = (bsi_image_piece){.first = first, .id = p.id, .count = p.count, .before = p.first};
        first += p.count;
    }
    bomsync_status st = bsi_list_end(&out->orphan, s, r, err);
    MDB_cursor *c;
    if (st || !out->piece_count) return st;
    int rc = mdb_cursor_open(s->root.read, s->root.dbi[BSI_DB_IMAGE], &c);
    if (rc) return bsi_env_fail(err, &s->root, rc, "read");
    if (in_order(out)) {
        st = look_up_in_order(out, pg, c, err);
    } else {
        pages_init(pg, s, BSI_MIN(out->count, out->piece_count * BSI_IMAGE_PAGE));
        for (size_t i = 0; i < out->piece_count; i++) pages_add(pg, out->piece[i].id);
        st = look_up_pages(pg, c, err);
        if (!st) st = find_entries(out, pg, err);
    }
    mdb_cursor_close(c);
    return st;
}

bomsync_status bsi_store_image(bsi_image *out, bsi_store *s, uint64_t image_list, bomsync_error *err) {
    bsi_list_reader r;
    pages pg = {.s = s};
    *out = (bsi_image){0};
    if (!image_list) return BOMSYNC_OK;
    bomsync_status st = bsi_list_begin(&r, s, s->root.read, image_list, BSI_DB_IMAGE, err);
    if (st) return st;
    out->piece = bsi_vast_alloc(r.pieces * sizeof *out->piece + 1);
    out->count = r.count;
    out->orphan_count = r.orphans;
    st = image_pieces(out, &pg, s, &r, err);
    pages_close(&pg);
    if (st) bsi_image_free(out);
    return st;
}

void bsi_image_free(bsi_image *i) {
    bsi_vast_free(i->piece);
    bsi_vast_free(i->orphan);
    *i = (bsi_image){0};
}

bomsync_status bsi_store_image_check(const bsi_store *s, const bsi_image_piece *piece, bomsync_error *err) {
    bsi_span payload;
    const uint8_t *head = (const uint8_t *)(piece->entry - piece->before) - BSI_VALUE_HEAD;
    MDB_val value = {BSI_VALUE_HEAD + bsi_pad8(bsi_get32(head + 4)), (void *)(uintptr_t)head};
    MDB_val key = bsi_key_id(&piece->id);
    size_t least = BSI_VALUE_HEAD + (piece->before + piece->count) * sizeof(bsi_image_entry);
    if (value.mv_size < least || value.mv_size > BSI_VALUE_HEAD + BSI_IMAGE_PAGE * sizeof(bsi_image_entry))
        return bsi_bad(err, &s->root, BSI_DB_IMAGE, key, "changed under the reader");
    return bsi_value_check(&payload, &s->root, BSI_DB_IMAGE, key, value, err);
}

/* ---- writing ---- */

typedef struct writer {
    bsi_list *out;
    bsi_lister *l;
    bsi_buf page;  /* being filled */
    bsi_buf run;   /* entries waiting for a page */
    size_t keep;   /* no stretch is shorter, if it can be */
} writer;

static bomsync_status flush_page(writer *w, bomsync_error *err) {
    if (w->page.len <= BSI_VALUE_HEAD) return BOMSYNC_OK;
    bsi_lister *l = w->l;
    uint64_t id = l->counters.piece + 1;
    bomsync_status st = bsi_lister_room(l, 4096 + 40, err);
    if (!st) st = bsi_value_save(&l->s->root, l->txn, BSI_DB_IMAGE, bsi_key_id(&id), &w->page, MDB_APPEND, err);
    if (!st) l->counters.piece = id;
    bsi_value_start(&w->page);
    return st;
}

/* Entries go to pages, in stretches that are not shorter than `keep` if they can. */
static bomsync_status write_entries(writer *w, const bsi_image_entry *e, size_t count, bomsync_error *err) {
    size_t at = 0;
    while (at < count) {
        size_t before = (w->page.len - BSI_VALUE_HEAD) / sizeof *e, room = BSI_IMAGE_PAGE - before, left = count - at;
        size_t n = BSI_MIN(left, room);
        if (n < left && left - n < w->keep) n = left > w->keep ? left - w->keep : left;
        if (n < left && n < w->keep) n = 0;
        if (n > room) n = 0;
        if (n) {
            bsi_list_piece p = {.id = w->l->counters.piece + 1, .first = (uint32_t)before, .count = (uint32_t)n};
            bsi_buf_add(&w->page, e + at, n * sizeof *e);
            bsi_list_add(w->out, p); /* the page's id once it is flushed: nothing else draws ids meanwhile */
        }
        at += n;
        if (n && n < room && at == count) break;
        bomsync_status st = flush_page(w, err);
        if (st) return st;
    }
    return BOMSYNC_OK;
}

static bomsync_status write_run(writer *w, bomsync_error *err) {
    size_t count = w->run.len / sizeof(bsi_image_entry);
    w->run.len = 0;
    return write_entries(w, (const void *)w->run.data, count, err);
}

static writer writer_open(bsi_list *out, bsi_lister *l, size_t keep) {
    writer w = {.out = out, .l = l, .keep = keep};
    *out = (bsi_list){.db = BSI_DB_IMAGE};
    bsi_value_start(&w.page);
    return w;
}

static bomsync_status writer_close(writer *w, bomsync_status st, bomsync_error *err) {
    if (!st) st = write_run(w, err);
    if (!st) st = flush_page(w, err);
    bsi_buf_free(&w->run);
    bsi_buf_free(&w->page);
    return st;
}

static bool mostly_in_use(const page *p) { return p->used >= BSI_IMAGE_PAGE / 2; }

/* ---- an image given as a whole ----
 *
 * First a plan: pieces of the old list that stay, and stretches of new entries (PLAN_NEW and where they begin in one array, as id). Then it is
 * carried out, and what lies on a page less than half in use joins the new.
 */
#define PLAN_NEW (1ull << 63)

static void plan_new(bsi_list *plan, uint64_t from, size_t count) {
    bsi_list_piece *last = plan->piece_count ? &plan->piece[plan->piece_count - 1] : NULL;
    if (last && (last->id & PLAN_NEW) && last->count + count <= UINT32_MAX / 2) {
        last->count += (uint32_t)count;
        plan->count += count;
        return;
    }
    bsi_list_add(plan, (bsi_list_piece){.id = PLAN_NEW | from, .count = (uint32_t)count});
}

static bomsync_status carry_out(writer *w, const bsi_list *plan, const bsi_image_entry *fresh, pages *pg, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    bsi_list_room(w->out, plan->piece_count);
    for (size_t i = 0; i < plan->piece_count; i++)
        if (!(plan->piece[i].id & PLAN_NEW)) page_near(pg, plan->piece[i].id)->used += plan->piece[i].count;
    for (size_t i = 0; !st && i < plan->piece_count; i++) {
        const bsi_list_piece *p = &plan->piece[i];
        const bsi_image_entry *e = NULL;
        if (!(p->id & PLAN_NEW) && mostly_in_use(page_near(pg, p->id))) {
            st = write_run(w, err);
            if (!st) bsi_list_add(w->out, *p);
            continue;
        }
        if (p->id & PLAN_NEW) e = fresh + (p->id & ~PLAN_NEW);
        else st = piece_entries(&e, pg, p, err);
        if (!st && p->count >= BSI_IMAGE_PAGE) { /* from where it lies: a copy takes as long as the writing, and as much memory as all of it */
            st = write_run(w, err);
            if (!st) st = write_entries(w, e, p->count, err);
            continue;
        }
        if (!st) bsi_buf_add(&w->run, e, p->count * sizeof *e);
        if (!st && w->run.len >= BSI_STORE_SEGMENT_BYTES) st = write_run(w, err);
    }
    return st;
}

static size_t image_cut(const bsi_image_entry *e, size_t count) {
    for (size_t n = IMAGE_MIN; n < BSI_MIN(count, (size_t)IMAGE_MAX); n++)
        if ((e[n - 1].fp.lo & IMAGE_MASK) == 0) return n;
    return BSI_MIN(count, (size_t)IMAGE_MAX);
}

static bomsync_status known_image(bsi_known *k, pages *pg, const bsi_list *old, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    bsi_known_open(k, old->piece_count + (size_t)old->count / IMAGE_MIN + 1);
    for (size_t i = 0; !st && i < old->piece_count; i++) {
        const bsi_list_piece *p = &old->piece[i];
        const bsi_image_entry *e;
        st = piece_entries(&e, pg, p, err);
        for (uint32_t at = 0, n; !st && at < p->count; at += n) {
            n = (uint32_t)image_cut(e + at, p->count - at);
            bsi_known_add(k, bsi_xxh128(e + at, n * sizeof *e), (bsi_list_piece){.id = p->id, .first = p->first + at, .count = n});
        }
    }
    return st;
}

bomsync_status bsi_lister_image(bsi_list *out, bsi_lister *l, const bsi_image_entry *e, size_t count, const bsi_list *old,
                                bomsync_error *err) {
    bsi_known k;
    pages pg;
    bsi_list plan = {.db = BSI_DB_IMAGE};
    writer w = writer_open(out, l, IMAGE_KEEP);
    pages_open(&pg, l->s, old);
    bomsync_status st = known_image(&k, &pg, old, err);
    for (size_t at = 0, n; !st && at < count; at += n) {
        n = image_cut(e + at, count - at);
        const bsi_list_piece *p = k.count ? bsi_known_find(&k, bsi_xxh128(e + at, n * sizeof *e), n) : NULL;
        if (p) bsi_list_add(&plan, *p);
        else plan_new(&plan, at, n);
    }
    if (!st) st = carry_out(&w, &plan, e, &pg, err);
    st = writer_close(&w, st, err);
    bsi_list_free(&plan);
    bsi_known_close(&k);
    pages_close(&pg);
    return st;
}

bomsync_status bsi_lister_entries(bsi_list *out, bsi_lister *l, const bsi_ahead *a, bomsync_error *err) {
    enum { AT_ONCE = 16 * BSI_IMAGE_PAGE }; /* whole pages, so that stretches are those of an array */
    writer w = writer_open(out, l, IMAGE_KEEP);
    bsi_image_entry *e = bsi_alloc(2 * AT_ONCE * sizeof *e);
    bomsync_status st = BOMSYNC_OK;
    for (size_t at = 0, n; !st && at < a->image_count; at += n) {
        n = a->image_count - at > 2 * AT_ONCE ? AT_ONCE : a->image_count - at;
        a->entries(a->ctx, e, at, n);
        st = write_entries(&w, e, n, err);
    }
    free(e);
    return writer_close(&w, st, err);
}

/* ---- an image edited ----
 *
 * The old list is gone through twice: which pieces stay where they are is to be known before the first is left on a page less than half in use.
 */
typedef struct image_edit {
    const bsi_list *old;
    pages *pg;
    writer w;
    bool counting;     /* the first time: nothing is written */
    size_t piece;      /* the first old piece that is not passed, */
    uint64_t base, at; /* its first ordinal; ordinals before `at` are done with */
    uint64_t sweep, sweep_end; /* ordinals that are written again, changed or not */
} image_edit;

static void pass(image_edit *x, uint64_t to) {
    x->at = to;
    while (x->piece < x->old->piece_count && x->base + x->old->piece[x->piece].count <= to) x->base += x->old->piece[x->piece++].count;
}

static bomsync_status put_old(image_edit *x, const bsi_list_piece *p, bool moves, bomsync_error *err) {
    page *q = page_near(x->pg, p->id);
    const bsi_image_entry *e = NULL;
    if (x->counting) {
        if (!moves) q->used += p->count;
        return BOMSYNC_OK;
    }
    if (!moves && mostly_in_use(q)) {
        bsi_list_add(x->w.out, *p);
        return BOMSYNC_OK;
    }
    bomsync_status st = piece_entries(&e, x->pg, p, err);
    return st ? st : write_entries(&x->w, e, p->count, err);
}

/* Old entries up to `to`; if they move they are written again. */
static bomsync_status take(image_edit *x, uint64_t to, bool moves, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    while (!st && x->at < to) {
        bsi_list_piece p = x->old->piece[x->piece];
        uint32_t skip = (uint32_t)(x->at - x->base);
        p.count = (uint32_t)BSI_MIN(p.count - skip, to - x->at);
        p.first += skip;
        st = put_old(x, &p, moves, err);
        pass(x, x->at + p.count);
    }
    return st;
}

static bomsync_status go_to(image_edit *x, uint64_t to, bomsync_error *err) {
    bomsync_status st = take(x, BSI_MIN(to, x->sweep), false, err);
    if (!st) st = take(x, BSI_MIN(to, x->sweep_end), true, err);
    return st ? st : take(x, to, false, err);
}

static bomsync_status put_edits(image_edit *x, const bsi_image_edit *edit, size_t count, bomsync_error *err) {
    const bsi_list *old = x->old;
    uint64_t last = old->piece_count ? old->piece[old->piece_count - 1].count : 0;
    bomsync_status st = BOMSYNC_OK;
    x->piece = 0;
    x->base = x->at = 0;
    for (size_t i = 0; !st && i < count; i++) {
        bool grows = edit[i].first == old->count && last < IMAGE_KEEP && x->at + last <= old->count; /* a short end grows with the list */
        st = go_to(x, edit[i].first - (grows ? last : 0), err);
        if (!st) st = take(x, edit[i].first, true, err);
        if (!st && !x->counting) st = write_entries(&x->w, edit[i].entry, edit[i].count, err);
        pass(x, edit[i].end);
    }
    return st ? st : go_to(x, old->count, err);
}

static uint64_t entries_of(const bsi_image_edit *edit, size_t count) {
    uint64_t n = 0;
    for (size_t i = 0; i < count; i++) n += edit[i].count;
    return n;
}

/* Once pieces are many, the stretch of so many entries that is in most pieces is made one. It was so longest ago. */
static void find_sweep(image_edit *x, uint64_t entries) {
    const bsi_list *l = x->old;
    uint64_t most = BSI_MAX(entries * IMAGE_SWEEP, (uint64_t)4 * BSI_IMAGE_PAGE), in = 0, first = 0;
    size_t best = 0;
    if (l->piece_count <= l->count / IMAGE_PIECE) return;
    for (size_t from = 0, to = 0; to < l->piece_count; first += l->piece[from].count, in -= l->piece[from++].count) {
        while (to < l->piece_count && in + l->piece[to].count <= most) in += l->piece[to++].count;
        if (to - from <= best) continue;
        best = to - from;
        x->sweep = first;
        x->sweep_end = first + in;
    }
}

bomsync_status bsi_lister_edit_image(bsi_list *out, bsi_lister *l, const bsi_list *old, const bsi_image_edit *edit, size_t count,
                                     bomsync_error *err) {
    pages pg;
    image_edit x = {.old = old, .pg = &pg, .w = writer_open(out, l, 1), .counting = true};
    uint64_t entries = entries_of(edit, count);
    bomsync_status st = BOMSYNC_OK;
    pages_open(&pg, l->s, old);
    if (count) find_sweep(&x, entries);
    bsi_list_room(out, old->piece_count + 2 * count + (size_t)(entries * (1 + IMAGE_SWEEP)) / BSI_IMAGE_PAGE); /* hardly more: what is not used is not touched */
    if (count) st = put_edits(&x, edit, count, err);
    x.counting = false;
    if (!st && count) st = put_edits(&x, edit, count, err);
    for (size_t i = 0; !count && i < old->piece_count; i++) bsi_list_add(out, old->piece[i]); /* a page that is hardly in use waits for the next edit */
    st = writer_close(&x.w, st, err);
    pages_close(&pg);
    return st;
}

/* ---- dropping ---- */

bomsync_status bsi_list_drop_image(bsi_lister *l, const bsi_list *old, const bsi_list *next, bomsync_error *err) {
    pages done; /* in use, or dropped */
    bsi_env *e = &l->s->root;
    bomsync_status st = BOMSYNC_OK;
    pages_open(&done, l->s, next);
    for (size_t i = 0; !st && i < old->piece_count; i++) {
        uint64_t id = old->piece[i].id;
        if (pages_add(&done, id)) st = bsi_value_drop(e, l->txn, BSI_DB_IMAGE, bsi_key_id(&id), err);
    }
    if (!st) st = bsi_value_drop(e, l->txn, BSI_DB_LISTS, bsi_key_id(&old->id), err);
    pages_close(&done);
    return st;
}
