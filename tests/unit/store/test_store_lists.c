/* Lists by edits: whatever is edited, however often, what is loaded is what it should be, and lists stay compact. */
#include "store_fixture.h"

TestSuite(store_lists, .init = fx_init, .fini = fx_fini, .timeout = 300);

enum { LIST_MAX = 60000, EDITS_MAX = 600 };

typedef struct model {
    bsi_image_entry *entry, *next; /* the state is their refs */
    size_t count;
    uint64_t seed, fresh;
    bsi_state_edit state[EDITS_MAX];
    bsi_image_edit image[EDITS_MAX];
    bsi_image_entry *added;
    bsi_ref *refs;
    size_t edits, adds, before; /* before: entries of next, which are those before the last edits */
    bool swap;
} model;
static model m;

static void model_open(size_t count) {
    m = (model){.seed = 88172645463325252ull, .entry = bsi_calloc(LIST_MAX, sizeof *m.entry), .next = bsi_calloc(LIST_MAX, sizeof *m.entry),
                .added = bsi_calloc(LIST_MAX + EDITS_MAX, sizeof *m.added), .refs = bsi_calloc(LIST_MAX + EDITS_MAX, sizeof *m.refs)};
    for (; m.count < count; m.count++) m.entry[m.count] = (bsi_image_entry){.fp = {fx_random(&m.seed), 1}, .ref = ++m.fresh, .records = 1};
}

static void model_close(void) {
    free(m.entry);
    free(m.next);
    free(m.added);
    free(m.refs);
}

/* Up to `most` random edits of up to `wide` entries each; grow and shrink: what an edit may add and take away. */
static void model_edit(size_t most, size_t wide, size_t grow, size_t shrink) {
    size_t at = 0, n = 0;
    bool apart = fx_random(&m.seed) % 2; /* entries of the edits stand apart, else in one array */
    m.edits = m.adds = 0;
    for (size_t i = 0; i < most; i++) {
        size_t step = fx_random(&m.seed) % (2 * m.count / most + 2), first = at + (fx_random(&m.seed) % 8 ? step : step % 3);
        if (first > m.count || (!m.count && i)) break;
        size_t same = fx_random(&m.seed) % (wide + 1), gone = same + fx_random(&m.seed) % (shrink + 1), count = same + fx_random(&m.seed) % (grow + 1);
        gone = BSI_MIN(gone, m.count - first);
        if (n + (first - at) + count + (m.count - first - gone) > LIST_MAX) break;
        memcpy(m.next + n, m.entry + at, (first - at) * sizeof *m.entry);
        n += first - at;
        m.state[m.edits] = (bsi_state_edit){first, first + gone, m.refs + m.adds, count};
        m.image[m.edits++] = (bsi_image_edit){first, first + gone, m.added + m.adds, count};
        for (size_t k = 0; k < count; k++, n++, m.adds++) {
            m.next[n] = (bsi_image_entry){.fp = {fx_random(&m.seed), 2}, .ref = ++m.fresh, .records = 1};
            m.added[m.adds] = m.next[n];
            m.refs[m.adds] = m.next[n].ref;
        }
        m.adds += apart;
        at = first + gone;
    }
    memcpy(m.next + n, m.entry + at, (m.count - at) * sizeof *m.entry);
    m.before = m.count;
    m.count = n + (m.count - at);
    bsi_image_entry *t = m.entry;
    m.entry = m.next;
    m.next = t;
}

/* Edits of one ref to another are left out: these stand in the base already. */
static void swap_refs(bsi_publish *p) {
    bsi_ref *base = bsi_alloc((m.before + 1) * sizeof *base);
    uint64_t *swapped = bsi_calloc(m.before / 64 + 1, sizeof *swapped);
    for (size_t i = 0; i < m.before; i++) base[i] = m.next[i].ref;
    p->state_edit_count = 0;
    for (size_t i = 0; i < m.edits; i++) {
        bsi_state_edit e = m.state[i];
        if (e.end - e.first == 1 && e.count == 1) {
            base[e.first] = e.ref[0];
            swapped[e.first / 64] |= 1ull << e.first % 64;
        } else {
            m.state[p->state_edit_count++] = e;
        }
    }
    p->state_base = base;
    p->state_base_count = m.before;
    p->state_swapped = swapped;
    p->state_beside = m.seed % 2;
}

static bomsync_status put(bsi_store *s, bool edit, bomsync_error *err) {
    bsi_feed f = {.name = (char *)"x", .block_size = {12, 6}, .slots = {.partition = -1}, .last_as_of = -1};
    bsi_generation g = {.number = bsi_store_generation(s) + 1, .feed = f.name, .kind = f.name};
    bsi_ref *ref = bsi_alloc(m.count * sizeof *ref + 1);
    for (size_t i = 0; i < m.count; i++) ref[i] = m.entry[i].ref;
    bsi_publish p = {.feed = &f, .generation = &g, .state = ref, .state_count = m.count, .image = m.entry, .image_count = m.count};
    if (edit)
        p = (bsi_publish){.feed = &f, .generation = &g, .edit_state = true, .state_edit = m.state, .state_edit_count = m.edits,
                          .edit_image = true, .image_edit = m.image, .image_edit_count = m.edits, .orphan = ref, .orphan_count = m.count / 2};
    if (edit && m.swap) swap_refs(&p);
    memset(p.image_snapshot_digest, (int)g.number, 32);
    bomsync_status st = bsi_store_publish(s, &p, err);
    free((void *)(uintptr_t)p.state_base);
    free((void *)(uintptr_t)p.state_swapped);
    free(ref);
    return st;
}

static size_t pieces(bsi_store *s, uint64_t id, bsi_db db) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_list l;
    FX_OK(bsi_list_load(&l, s, s->root.read, id, db, &err), err);
    size_t n = l.piece_count;
    bsi_list_free(&l);
    return n;
}

static void check(bsi_store *s) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_feed *f;
    bsi_generation *g;
    bsi_ref *ref;
    bsi_image image;
    size_t n, at = 0;
    FX_OK(bsi_store_feed(&f, s, "x", &err), err);
    FX_OK(bsi_store_generation_get(&g, s, f->generation, &err), err);
    FX_OK(bsi_store_state_by(&ref, &n, s, g->state_list, 1 + (int)g->number % 3, &err), err);
    cr_assert(eq(sz, n, m.count));
    for (size_t i = 0; i < n; i++) cr_assert(ref[i] == m.entry[i].ref, "generation %d, ref %zu of %zu", (int)g->number, i, n);
    FX_OK(bsi_store_image(&image, s, f->image_list, &err), err);
    cr_assert(eq(u64, image.count, m.count));
    for (size_t i = 0; i < image.piece_count; at += image.piece[i++].count) {
        FX_OK(bsi_store_image_check(s, &image.piece[i], &err), err);
        cr_assert(image.piece[i].first == at && !memcmp(image.piece[i].entry, m.entry + at, image.piece[i].count * sizeof *m.entry),
                  "generation %d, entry %zu", (int)g->number, at);
    }
    cr_assert(eq(sz, at, m.count));
    MDB_stat t;
    mdb_stat(s->root.read, s->root.dbi[BSI_DB_IMAGE], &t);
    cr_assert(le(sz, t.ms_entries, m.count / 36 + 2), "%zu pages for %zu entries", t.ms_entries, m.count); /* half of each in use, no page left over */
    cr_assert(le(sz, pieces(s, f->image_list, BSI_DB_IMAGE), m.count / 4 + m.count / 8 + 1));
    cr_assert(le(sz, pieces(s, g->state_list, BSI_DB_STATE), m.count / 48 + 2)); /* written anew: a piece for about 95 */
    cr_assert(eq(int, f->image_digest[31], (int)(uint8_t)g->number));
    free(ref);
    bsi_image_free(&image);
    bsi_generation_free(g);
    bsi_feed_free(f);
}

Test(store_lists, two_hundred_edited_generations_load_as_they_should) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    model_open(20000);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(put(s, false, &err), err);
    check(s);
    for (int g = 0; g < 210; g++) {
        static const size_t kind[7][4] = {{1, 1, 0, 0}, {300, 1, 0, 0}, {40, 0, 3, 0}, {60, 4, 2, 4}, {5, 200, 400, 300}, {2, 0, 1, 0}, {600, 0, 1, 1}};
        const size_t *k = kind[fx_random(&m.seed) % 7];
        if (g % 50 == 49) model_edit(2, 100, 10, 2000);
        else model_edit(k[0], k[1], k[2], k[3]);
        m.swap = g % 2;
        FX_OK(put(s, g % 40 != 39, &err), err);
        check(s);
    }
    bsi_store_close(s);
    s = fx_open(BSI_STORE_READ);
    check(s);
    bsi_store_close(s);
    model_close();
}

Test(store_lists, ends_that_grow_by_one_stay_compact) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    model_open(0);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    for (int g = 0; g < 300; g++) { /* from nothing on */
        m.entry[m.count] = (bsi_image_entry){.fp = {fx_random(&m.seed), 2}, .ref = ++m.fresh};
        m.refs[0] = m.fresh;
        m.state[0] = (bsi_state_edit){m.count, m.count, m.refs, 1};
        m.image[0] = (bsi_image_edit){m.count, m.count, &m.entry[m.count], 1};
        m.edits = 1;
        m.count++;
        FX_OK(put(s, true, &err), err);
        check(s);
    }
    m.state[0] = (bsi_state_edit){0, m.count, NULL, 0}; /* and to nothing again */
    m.image[0] = (bsi_image_edit){0, m.count, NULL, 0};
    m.count = 0;
    FX_OK(put(s, true, &err), err);
    check(s);
    bsi_store_close(s);
    model_close();
}

Test(store_lists, a_small_edit_writes_little) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    model_open(50000);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(put(s, false, &err), err);
    uint64_t before = s->counters.piece;
    m.entry[31000].ref = m.refs[0] = ++m.fresh;
    m.state[0] = (bsi_state_edit){31000, 31001, m.refs, 1};
    m.image[0] = (bsi_image_edit){31000, 31001, &m.entry[31000], 1};
    m.edits = 1;
    FX_OK(put(s, true, &err), err);
    cr_assert(le(u64, s->counters.piece - before, 5));
    check(s);
    m.edits = 0; /* nothing at all */
    before = s->counters.piece;
    uint64_t lists = s->counters.list;
    FX_OK(put(s, true, &err), err);
    cr_assert(eq(u64, s->counters.piece, before));
    cr_assert(eq(u64, s->counters.list, lists));
    check(s);
    bsi_store_close(s);
    model_close();
}

Test(store_lists, edits_that_overlap_or_leave_the_list_are_usage) {
    fx_create();
    model_open(100);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(put(s, false, &err), err);
    bsi_store_close(s);
    for (int i = 0; i < 3; i++) {
        s = fx_open(BSI_STORE_WRITE);
        m.state[0] = (bsi_state_edit){.first = 5, .end = i == 2 ? 3 : 9};
        m.state[1] = (bsi_state_edit){.first = i == 1 ? 95 : 8, .end = i == 1 ? 101 : 10};
        m.edits = 2;
        err = (bomsync_error)BOMSYNC_ERROR_INIT;
        cr_assert(eq(int, (int)put(s, true, &err), BOMSYNC_E_USAGE));
        bsi_store_close(s);
    }
    s = fx_open(BSI_STORE_READ);
    check(s);
    bsi_store_close(s);
    model_close();
}

Test(store_lists, edited_lists_are_sound_and_gc_keeps_what_they_need) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(FX_BLOCKS_MAX);
    for (int g = 0; g < 12; g++) {
        bsi_store *s = fx_open(BSI_STORE_WRITE);
        bsi_state_edit se[8];
        bsi_image_edit ie[8];
        for (size_t i = 0; i < 8; i++) {
            size_t b = i * 240 + (size_t)(g % 2) * 7;
            fx.version[b]++;
            FX_OK(fx_write(s, b, b + 1, &err), err);
            se[i] = (bsi_state_edit){b, b + 1, &fx.ref[b], 1};
            ie[i] = (bsi_image_edit){b, b + 1, &fx.image[b], 1};
        }
        FX_OK(fx_publish_edits(s, "default", se, ie, 8, &err), err);
        bsi_store_close(s);
        cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    }
    bsi_store *s = fx_open(BSI_STORE_GC);
    bsi_store_figures before, after;
    FX_OK(bsi_store_figures_get(&before, s, &err), err);
    FX_OK(bsi_store_gc(s, 2, &err), err);
    FX_OK(bsi_store_figures_get(&after, s, &err), err);
    cr_assert(lt(u64, after.segments, before.segments));
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    fx_next(100);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

/* ---- lists written ahead ---- */

static void ahead_entries(void *ctx, bsi_image_entry *out, size_t first, size_t count) {
    (void)ctx;
    memcpy(out, fx.image + first, count * sizeof *out);
}

static bomsync_status write_ahead(bsi_store *s, bomsync_error *err) {
    bsi_ahead a = {.state = fx.ref, .state_count = fx.count, .image_count = fx.count, .entries = ahead_entries};
    return bsi_store_lists_ahead(s, &a, err);
}

static void image_is_as_written(bsi_store *s, size_t count) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_feed *f;
    bsi_image image;
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    FX_OK(bsi_store_image(&image, s, f->image_list, &err), err);
    cr_assert(eq(u64, image.count, count));
    cr_assert(eq(sz, image.orphan_count, 0));
    for (size_t i = 0; i < image.piece_count; i++)
        cr_assert(zero(int, memcmp(image.piece[i].entry, &fx.image[image.piece[i].first], image.piece[i].count * sizeof *fx.image)));
    bsi_image_free(&image);
    bsi_feed_free(f);
}

Test(store_lists, lists_written_ahead_are_those_of_the_generation) {
    static const size_t counts[] = {1, 71, 72, 75, 80, 2303, 2304, 2310, 3000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bsi_remove_tree(fx.dir, NULL);
        memset(fx.version, 0, sizeof fx.version);
        fx_create();
        fx.count = counts[i];
        bsi_store *s = fx_open(BSI_STORE_WRITE);
        FX_OK(fx_write(s, 0, fx.count, &err), err);
        FX_OK(write_ahead(s, &err), err);
        FX_OK(fx_publish_as(s, "default", (bsi_publish){.ahead = true}, &err), err);
        cr_assert(zero(int, fx_compare(s, &err)));
        image_is_as_written(s, fx.count);
        bsi_store_close(s);
        fx_next(3);
        s = fx_open(BSI_STORE_READ);
        cr_assert(zero(int, fx_compare(s, &err)));
        image_is_as_written(s, fx.count);
        bsi_store_close(s);
    }
}

Test(store_lists, lists_written_ahead_for_nothing_are_dropped) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    fx.count = 1000;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(fx_write(s, 0, fx.count, &err), err);
    FX_OK(write_ahead(s, &err), err);
    fx.count = 900; /* the others do not count after all */
    FX_OK(fx_publish(s, "default", false, &err), err);
    cr_assert(zero(int, fx_compare(s, &err)));
    image_is_as_written(s, fx.count);
    bsi_store_close(s);
    s = fx_open(BSI_STORE_WRITE); /* one that is never published */
    FX_OK(fx_write(s, 0, fx.count, &err), err);
    FX_OK(write_ahead(s, &err), err);
    bsi_store_close(s);
    s = fx_open(BSI_STORE_WRITE);
    FX_OK(fx_write(s, 0, 10, &err), err);
    FX_OK(fx_publish(s, "default", false, &err), err);
    cr_assert(eq(int, (int)write_ahead(s, &err), BOMSYNC_OK));
    cr_assert(eq(int, (int)fx_publish_as(s, "default", (bsi_publish){.ahead = true}, &err), BOMSYNC_E_USAGE)); /* the feed has lists */
    bsi_store_close(s);
}
