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
 *   given as edits     the entries of the edits are written, and with them neighbours, so that neither a stretch that is
 *                      written nor one that is left is shorter than IMAGE_KEEP: a list has a piece for 8 entries at most
 *   given as a whole   it is cut where an entry says so (the low bits of its fingerprint), about every 13 entries, and what
 *                      the image before holds, cut in the same way, is found again by its XXH3-128
 */
#include "store/store_inner.h"

enum { IMAGE_MIN = 6, IMAGE_MASK = 7, IMAGE_MAX = 36, IMAGE_KEEP = 8 };
static_assert(sizeof(bsi_image_entry) == 56, "image entries are stored as they are");
static_assert(BSI_IMAGE_PAGE * sizeof(bsi_image_entry) + BSI_VALUE_HEAD <= 4080, "entries of one value fit a page");

/* ---- pages ---- */

typedef struct pages { /* of a list, by id: entries in use, and where they lie once they were looked up */
    bsi_store *s;
    uint64_t *id;
    uint32_t *used, *count;
    const bsi_image_entry **entry;
    size_t mask;
} pages;

static size_t page_at(const pages *p, uint64_t id) {
    size_t at = bsi_stir(id) & p->mask;
    while (p->id[at] && p->id[at] != id) at = (at + 1) & p->mask;
    return at;
}

static void pages_open(pages *p, bsi_store *s, const bsi_list *list) {
    size_t size = 16;
    while (size < list->piece_count * 2) size *= 2;
    *p = (pages){s, bsi_calloc(size, sizeof *p->id), bsi_calloc(size, sizeof *p->used), bsi_calloc(size, sizeof *p->count),
                 bsi_calloc(size, sizeof *p->entry), size - 1};
    for (size_t i = 0; i < list->piece_count; i++) p->id[page_at(p, list->piece[i].id)] = list->piece[i].id;
}

static void pages_close(pages *p) {
    free(p->id);
    free(p->used);
    free(p->count);
    free(p->entry);
}

static bomsync_status page_value(pages *p, size_t at, MDB_val value, bool quick, bomsync_error *err) {
    bsi_env *e = &p->s->root;
    MDB_val key = bsi_key_id(&p->id[at]);
    bsi_span payload;
    bomsync_status st = bsi_value_check(&payload, e, BSI_DB_IMAGE, key, value, quick, err);
    if (st) return st;
    if (payload.n % sizeof(bsi_image_entry)) return bsi_bad(err, e, BSI_DB_IMAGE, key, "not whole entries");
    if ((uintptr_t)payload.p & 7) return bsi_bad(err, e, BSI_DB_IMAGE, key, "lies askew on its page");
    p->entry[at] = (const void *)payload.p;
    p->count[at] = (uint32_t)(payload.n / sizeof(bsi_image_entry));
    return BOMSYNC_OK;
}

static bomsync_status too_short(const pages *p, const bsi_list_piece *piece, bomsync_error *err) {
    return bsi_bad(err, &p->s->root, BSI_DB_IMAGE, bsi_key_id(&piece->id), "not as long as its list says");
}

/* Entries of a piece, whose page is read and checked once. */
static bomsync_status piece_entries(const bsi_image_entry **out, pages *p, const bsi_list_piece *piece, bomsync_error *err) {
    size_t at = page_at(p, piece->id);
    if (!p->entry[at]) {
        bsi_env *e = &p->s->root;
        MDB_val key = bsi_key_id(&piece->id), value;
        int rc = mdb_get(e->read, e->dbi[BSI_DB_IMAGE], &key, &value);
        if (rc == MDB_NOTFOUND) return bsi_bad(err, e, BSI_DB_IMAGE, bsi_key_id(&piece->id), "missing");
        if (rc) return bsi_env_fail(err, e, rc, "read");
        bomsync_status st = page_value(p, at, value, false, err);
        if (st) return st;
    }
    if (piece->first > p->count[at] || piece->count > p->count[at] - piece->first) return too_short(p, piece, err);
    *out = p->entry[at] + piece->first;
    return BOMSYNC_OK;
}

/* ---- reading ---- */

static bomsync_status image_pieces(bsi_image *out, pages *pg, const bsi_list *list, MDB_cursor *c, bomsync_error *err) {
    uint64_t at = 0, here = 0;
    for (size_t i = 0; i < list->piece_count; i++) {
        const bsi_list_piece *p = &list->piece[i];
        size_t page = page_at(pg, p->id);
        if (!pg->entry[page]) {
            MDB_val value;
            bomsync_status st = bsi_list_seek(&value, pg->s, BSI_DB_IMAGE, p->id, c, here, err);
            if (!st) st = page_value(pg, page, value, true, err);
            if (st) return st;
            here = p->id;
        }
        if (p->first > pg->count[page] || p->count > pg->count[page] - p->first) return too_short(pg, p, err);
        out->piece[out->piece_count++] = (bsi_image_piece){pg->entry[page] + p->first, p->count, at, p->id, p->first};
        at += p->count;
    }
    return BOMSYNC_OK;
}

bomsync_status bsi_store_image(bsi_image *out, bsi_store *s, uint64_t image_list, bomsync_error *err) {
    bsi_list list;
    MDB_cursor *c;
    *out = (bsi_image){0};
    bomsync_status st = bsi_list_load(&list, s, s->root.read, image_list, BSI_DB_IMAGE, err);
    if (st) return st;
    int rc = mdb_cursor_open(s->root.read, s->root.dbi[BSI_DB_IMAGE], &c);
    if (rc) {
        bsi_list_free(&list);
        return bsi_env_fail(err, &s->root, rc, "read");
    }
    pages pg;
    pages_open(&pg, s, &list);
    out->piece = bsi_calloc(list.piece_count, sizeof *out->piece);
    out->count = list.count;
    out->orphan = list.orphan;
    out->orphan_count = list.orphan_count;
    list.orphan = NULL;
    st = image_pieces(out, &pg, &list, c, err);
    mdb_cursor_close(c);
    pages_close(&pg);
    bsi_list_free(&list);
    if (st) bsi_image_free(out);
    return st;
}

void bsi_image_free(bsi_image *i) {
    free(i->piece);
    free(i->orphan);
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
    return bsi_value_check(&payload, &s->root, BSI_DB_IMAGE, key, value, false, err);
}

/* ---- writing ----
 *
 * First a plan: pieces of the old list that stay (id), and stretches of new entries (id 0, first and room: the two halves of
 * where they begin in one array). Then it is carried out, and what lies on a page less than half in use joins the new.
 */

typedef struct writer {
    bsi_list *out;
    bsi_lister *l;
    bsi_buf page;  /* being filled */
    bsi_buf run;   /* entries waiting for a page */
} writer;

static void plan_new(bsi_list *plan, uint64_t from, size_t count) {
    bsi_list_piece *last = plan->piece_count ? &plan->piece[plan->piece_count - 1] : NULL;
    if (!count) return;
    if (last && !last->id && last->count + count <= UINT32_MAX / 2) {
        last->count += (uint32_t)count;
        plan->count += count;
        return;
    }
    bsi_list_add(plan, (bsi_list_piece){.first = (uint32_t)from, .room = (uint32_t)(from >> 32), .count = (uint32_t)count});
}

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

/* Entries go to pages, in stretches that are not shorter than IMAGE_KEEP if they can. */
static bomsync_status write_entries(writer *w, const bsi_image_entry *e, size_t count, bomsync_error *err) {
    size_t at = 0;
    while (at < count) {
        size_t before = (w->page.len - BSI_VALUE_HEAD) / sizeof *e, room = BSI_IMAGE_PAGE - before, left = count - at;
        size_t n = BSI_MIN(left, room);
        if (n < left && left - n < IMAGE_KEEP) n = left > IMAGE_KEEP ? left - IMAGE_KEEP : left;
        if (n < left && n < IMAGE_KEEP) n = 0;
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

static bomsync_status carry_out(bsi_list *out, bsi_lister *l, const bsi_list *plan, const bsi_image_entry *fresh, pages *pg,
                                bomsync_error *err) {
    writer w = {.out = out, .l = l};
    bomsync_status st = BOMSYNC_OK;
    *out = (bsi_list){.db = BSI_DB_IMAGE};
    for (size_t i = 0; i < plan->piece_count; i++)
        if (plan->piece[i].id) pg->used[page_at(pg, plan->piece[i].id)] += plan->piece[i].count;
    bsi_value_start(&w.page);
    for (size_t i = 0; !st && i < plan->piece_count; i++) {
        const bsi_list_piece *p = &plan->piece[i];
        const bsi_image_entry *e;
        if (p->id && pg->used[page_at(pg, p->id)] >= BSI_IMAGE_PAGE / 2) {
            st = write_run(&w, err);
            if (!st) bsi_list_add(out, *p);
            continue;
        }
        if (p->id) st = piece_entries(&e, pg, p, err);
        else e = fresh + ((uint64_t)p->room << 32 | p->first);
        bool long_ = p->count * sizeof *e >= BSI_STORE_SEGMENT_BYTES;
        if (!st && long_ && !w.run.len) { /* all of an image: written from where it lies, as a copy takes as long as the writing */
            st = write_entries(&w, e, p->count, err);
            continue;
        }
        if (!st) bsi_buf_add(&w.run, e, p->count * sizeof *e);
        if (!st && w.run.len >= BSI_STORE_SEGMENT_BYTES) st = write_run(&w, err);
    }
    if (!st) st = write_run(&w, err);
    if (!st) st = flush_page(&w, err);
    bsi_buf_free(&w.run);
    bsi_buf_free(&w.page);
    return st;
}

/* ---- an image given as a whole ---- */

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
    pages_open(&pg, l->s, old);
    bomsync_status st = known_image(&k, &pg, old, err);
    for (size_t at = 0, n; !st && at < count; at += n) {
        n = image_cut(e + at, count - at);
        const bsi_list_piece *p = k.count ? bsi_known_find(&k, bsi_xxh128(e + at, n * sizeof *e), n) : NULL;
        if (p) bsi_list_add(&plan, *p);
        else plan_new(&plan, at, n);
    }
    if (!st) st = carry_out(out, l, &plan, e, &pg, err);
    bsi_list_free(&plan);
    bsi_known_close(&k);
    pages_close(&pg);
    return st;
}

/* ---- an image edited ---- */

typedef struct image_edit {
    const bsi_list *old;
    pages *pg;
    bsi_list plan;
    bsi_buf fresh;
    size_t piece;      /* the first old piece that is not passed, */
    uint64_t base, at; /* its first ordinal; ordinals before `at` are done with */
    uint64_t from;     /* entries of fresh that are in the plan */
} image_edit;

static uint64_t left_of_piece(const image_edit *x) {
    return x->piece < x->old->piece_count ? x->base + x->old->piece[x->piece].count - x->at : 0;
}

static void pass(image_edit *x, uint64_t to) {
    x->at = to;
    while (x->piece < x->old->piece_count && x->base + x->old->piece[x->piece].count <= to) x->base += x->old->piece[x->piece++].count;
}

/* Old entries up to `to` stay where they are, */
static void keep(image_edit *x, uint64_t to) {
    while (x->at < to) {
        bsi_list_piece p = x->old->piece[x->piece];
        uint32_t skip = (uint32_t)(x->at - x->base);
        p.count = (uint32_t)BSI_MIN(p.count - skip, to - x->at);
        p.first += skip;
        bsi_list_add(&x->plan, p);
        pass(x, x->at + p.count);
    }
}

/* or are written again. */
static bomsync_status pull(image_edit *x, uint64_t to, bomsync_error *err) {
    while (x->at < to) {
        const bsi_list_piece *p = &x->old->piece[x->piece];
        const bsi_image_entry *e;
        bomsync_status st = piece_entries(&e, x->pg, p, err);
        if (st) return st;
        uint64_t n = BSI_MIN(left_of_piece(x), to - x->at);
        bsi_buf_add(&x->fresh, e + (x->at - x->base), (size_t)n * sizeof *e);
        pass(x, x->at + n);
    }
    return BOMSYNC_OK;
}

static uint64_t in_stretch(const image_edit *x) { return x->fresh.len / sizeof(bsi_image_entry) - x->from; }

/* From edit i on, as many as the stretch meets; then neighbours until it and what is left behind it are long enough. */
static bomsync_status run_stretch(image_edit *x, const bsi_image_edit *edit, size_t *i, size_t count, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    while (!st) {
        uint64_t next = *i < count ? edit[*i].first : UINT64_MAX, left = left_of_piece(x), want = 0;
        if (next != UINT64_MAX && next - x->at < IMAGE_KEEP) {
            st = pull(x, next, err);
            if (edit[*i].count) bsi_buf_add(&x->fresh, edit[*i].entry, edit[*i].count * sizeof(bsi_image_entry));
            pass(x, edit[*i].end);
            ++*i;
            continue;
        }
        bool cut = x->at > x->base;
        if (in_stretch(x) && in_stretch(x) < IMAGE_KEEP) want = BSI_MIN(IMAGE_KEEP - in_stretch(x), left);
        if (want < left && (cut || want) && left - want < IMAGE_KEEP) want = left;
        if (!want) break;
        st = pull(x, BSI_MIN(x->at + want, next), err);
    }
    plan_new(&x->plan, x->from, (size_t)in_stretch(x));
    x->from = x->fresh.len / sizeof(bsi_image_entry);
    return st;
}

bomsync_status bsi_lister_edit_image(bsi_list *out, bsi_lister *l, const bsi_list *old, const bsi_image_edit *edit, size_t count,
                                     bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    pages pg;
    image_edit x = {.old = old, .pg = &pg, .plan = {.db = BSI_DB_IMAGE}};
    pages_open(&pg, l->s, old);
    for (size_t i = 0; !st && i < count;) {
        uint64_t first = edit[i].first, left;
        while ((left = left_of_piece(&x)) != 0 && x.at + left <= first) {
            if (x.at + left == old->count && left < IMAGE_KEEP) break; /* a short end grows with the list */
            keep(&x, x.at + left);
        }
        if (first - x.at >= IMAGE_KEEP) keep(&x, first);
        else st = pull(&x, first, err);
        if (!st) st = run_stretch(&x, edit, &i, count, err);
    }
    if (!st) keep(&x, old->count);
    if (!st) st = carry_out(out, l, &x.plan, (const void *)x.fresh.data, &pg, err);
    bsi_list_free(&x.plan);
    bsi_buf_free(&x.fresh);
    pages_close(&pg);
    return st;
}

/* ---- dropping ---- */

bomsync_status bsi_list_drop_image(bsi_lister *l, const bsi_list *old, const bsi_list *next, bomsync_error *err) {
    pages used, done;
    bsi_env *e = &l->s->root;
    bomsync_status st = BOMSYNC_OK;
    pages_open(&used, l->s, next);
    pages_open(&done, l->s, old);
    for (size_t i = 0; !st && i < old->piece_count; i++) {
        uint64_t id = old->piece[i].id;
        if (used.id[page_at(&used, id)] || done.used[page_at(&done, id)]++) continue;
        st = bsi_value_drop(e, l->txn, BSI_DB_IMAGE, bsi_key_id(&id), err);
    }
    if (!st) st = bsi_value_drop(e, l->txn, BSI_DB_LISTS, bsi_key_id(&old->id), err);
    pages_close(&used);
    pages_close(&done);
    return st;
}
