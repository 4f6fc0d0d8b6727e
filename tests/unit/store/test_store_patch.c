/* Patches: a block with some rows replaced reads as if it had been written whole, in every way there is to read it. */
#include <fcntl.h>

#include "store_fixture.h"

TestSuite(store_patch, .init = fx_init, .fini = fx_fini, .timeout = 300);

enum { P_BLOCKS = 300, P_ROWS = 16, P_SLOTS = 3 };

typedef struct rows { /* what block i holds: a value for each row */
    bool coded;          /* from the first block on; else groups of zstd */
    bool matched;        /* patches are made by comparing all rows, not by naming those that change */
    uint64_t dictionary;
    uint64_t value[P_BLOCKS][P_ROWS];
    bsi_ref ref[P_BLOCKS];
} rows;
static rows p;

typedef struct made {
    bsi_buf enc;
    uint32_t row[P_ROWS], image[P_ROWS + 1], body[P_ROWS], key[P_ROWS], count;
    uint64_t kh[P_ROWS], rh[P_ROWS];
} made;

static void make_row(made *m, bsi_store *s, size_t block, uint32_t row) {
    char text[P_SLOTS][48];
    snprintf(text[0], 48, "%zu-%u", block, row);
    snprintf(text[1], 48, "%*s", (int)(p.value[block][row] % 40), "x"); /* lengths differ */
    snprintf(text[2], 48, "%" PRIu64, p.value[block][row]);
    bsi_field f[P_SLOTS];
    for (uint32_t k = 0; k < P_SLOTS; k++) f[k] = (bsi_field){(uint8_t *)text[k], (uint32_t)strlen(text[k]), false};
    f[1].null = p.value[block][row] % 7 == 0;
    if (f[1].null) f[1].len = 0;
    uint32_t key, i = m->count++;
    m->row[i] = row;
    m->image[i] = (uint32_t)m->enc.len;
    m->body[i] = bsi_image_build(&m->enc, f, P_SLOTS, 1, &key);
    m->key[i] = key;
    m->kh[i] = bsi_xxh64_secret(m->enc.data + m->image[i], key, bsi_store_secret(s));
    m->rh[i] = bsi_xxh64_secret(m->enc.data + m->image[i], m->body[i], bsi_store_secret(s));
    m->image[i + 1] = (uint32_t)m->enc.len;
}

static bomsync_status put_whole(bsi_store *s, bsi_block_writer *w, size_t b, bomsync_error *err) {
    made m = {.count = 0};
    for (uint32_t i = 0; i < P_ROWS; i++) make_row(&m, s, b, i);
    bomsync_status st = bsi_block_writer_add(&p.ref[b], w, P_ROWS, m.enc.data, m.image, m.body, m.kh, m.rh, err);
    bsi_buf_free(&m.enc);
    return st;
}

static bsi_rows rows_of(made *m) {
    return (bsi_rows){.count = m->count, .kh = m->kh, .rh = m->rh, .image = m->image, .body = m->body, .key = m->key, .enc = m->enc};
}

/* The rows of block b as they are now, in place of those that are stored; hashes that are not asked for are wrong. */
static bomsync_status put_matched(bsi_store *s, bsi_block_writer *w, size_t b, bomsync_error *err) {
    made m = {.count = 0}, changed = {.count = 0};
    for (uint32_t i = 0; i < P_ROWS; i++) make_row(&m, s, b, i);
    bsi_rows now = rows_of(&m);
    bsi_block_match match;
    bomsync_status st = bsi_block_writer_match(&match, w, p.ref[b], &now) ? BOMSYNC_OK : bsi_fail(err, BOMSYNC_E_INTEGRITY, "no match");
    for (uint32_t i = 0; i < P_ROWS; i++)
        if (!(match.written >> i & 1)) m.kh[i] = m.rh[i] = 0;
    for (uint32_t i = 0; !st && i < P_ROWS; i++)
        if (match.changed >> i & 1) make_row(&changed, s, b, i);
    if (!st && match.changed) st = bsi_block_writer_amend(&p.ref[b], w, &match, changed.enc.data, changed.image, changed.body, &now, err);
    bsi_buf_free(&m.enc);
    bsi_buf_free(&changed.enc);
    return st;
}

/* Rows of block b that are in the mask change. */
static bomsync_status put_patch(bsi_store *s, bsi_block_writer *w, size_t b, uint32_t mask, uint64_t *seed, bomsync_error *err) {
    made m = {.count = 0};
    for (uint32_t i = 0; i < P_ROWS; i++)
        if (mask >> i & 1) {
            p.value[b][i] = fx_random(seed) % 1000;
            make_row(&m, s, b, i);
        }
    bomsync_status st = p.matched ? put_matched(s, w, b, err) : bsi_block_writer_patch(&p.ref[b], w, p.ref[b], m.count, m.row, m.enc.data, m.image, m.body, m.kh, m.rh, err);
    bsi_buf_free(&m.enc);
    return st;
}

static bomsync_status publish(bsi_store *s, bomsync_error *err) {
    char *names[] = {(char *)"id", (char *)"a", (char *)"b"};
    uint32_t order[] = {0, 1, 2};
    bsi_generation *before = NULL;
    int64_t n = bsi_store_generation(s);
    bsi_feed f = {.name = (char *)"p", .block_size = {12, 6}, .slots = {names, P_SLOTS, 1, -1, order}, .records = P_BLOCKS * P_ROWS, .dictionary = p.dictionary};
    bsi_generation g = {.number = n + 1, .base = n, .feed = f.name, .kind = f.name, .totals = {.records = P_BLOCKS * P_ROWS}, .slot_count = P_SLOTS};
    memset(g.digest, (int)(n + 1), 32);
    bomsync_status st = bsi_store_generation_get(&before, s, n, err);
    if (before) memcpy(g.base_digest, before->digest, 32);
    bsi_generation_free(before);
    return st ? st : bsi_store_publish(s, &(bsi_publish){.feed = &f, .generation = &g, .state = p.ref, .state_count = P_BLOCKS}, err);
}

static bool is_patch(bsi_store *s, bsi_ref ref) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    static bsi_rows_view v;
    bsi_patch patch;
    FX_OK(bsi_patch_get(&patch, &v, s, ref, &err), err);
    return patch.base != BSI_REF_NONE;
}

/* 0: block b reads as it should, else a status or 99. */
static int compare(bsi_store *s, bsi_block_data *d, size_t b, bomsync_error *err) {
    made m = {.count = 0};
    bsi_block_rows r;
    for (uint32_t i = 0; i < P_ROWS; i++) make_row(&m, s, b, i);
    int st = (int)bsi_store_data(d, s, p.ref[b], err);
    if (!st) st = (int)bsi_store_rows(&r, s, p.ref[b], err);
    if (!st && (r.count != P_ROWS || memcmp(r.kh, m.kh, sizeof m.kh) || memcmp(r.rh, m.rh, sizeof m.rh))) st = 99;
    if (!st && (d->count != P_ROWS || d->slot_count != P_SLOTS || memcmp(d->body, m.body, sizeof m.body))) st = 98;
    for (uint32_t i = 0; !st && i <= P_ROWS; i++)
        if (d->image[i] - d->image[0] != m.image[i]) st = 97;
    if (!st && memcmp(d->raw.data + d->image[0], m.enc.data, m.enc.len)) st = 96;
    uint32_t front = (uint32_t)(b % (P_ROWS + 1)); /* of the first rows the same, however many are asked for */
    if (!st) st = (int)bsi_store_front(d, s, p.ref[b], front, err);
    if (!st && d->count != P_ROWS) st = 95;
    for (uint32_t i = 0; !st && i < front; i++)
        if (d->image[i + 1] - d->image[i] != m.image[i + 1] - m.image[i] || d->body[i] != m.body[i] ||
            memcmp(d->raw.data + d->image[i], m.enc.data + m.image[i], m.image[i + 1] - m.image[i]))
            st = 94;
    bsi_buf_free(&m.enc);
    return st;
}

static int compare_all(bsi_store *s, bomsync_error *err) {
    bsi_block_data d = {0};
    int st = 0;
    for (size_t b = 0; !st && b < P_BLOCKS; b++) st = compare(s, &d, b, err);
    for (size_t b = P_BLOCKS; !st && b-- > 0;) st = compare(s, &d, b * 7919 % P_BLOCKS, err);
    bsi_block_data_free(&d);
    return st;
}

/* From now on blocks are coded. */
static void learn(bsi_store *s) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_dict_sample *x = bsi_dict_sample_open(P_SLOTS);
    for (size_t b = 0; b < P_BLOCKS; b++) {
        made m = {.count = 0};
        for (uint32_t i = 0; i < P_ROWS; i++) make_row(&m, s, b, i);
        bsi_dict_sample_add(x, P_ROWS, m.enc.data, m.image, m.body);
        bsi_buf_free(&m.enc);
    }
    FX_OK(bsi_dict_learn(&p.dictionary, s, x, true, &err), err);
    cr_assert(ne(u64, p.dictionary, 0));
}

static void first(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_block_writer *w;
    uint64_t seed = 7;
    fx_create();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    for (size_t b = 0; b < P_BLOCKS; b++)
        for (size_t i = 0; i < P_ROWS; i++) p.value[b][i] = fx_random(&seed) % 1000;
    if (p.coded) learn(s);
    FX_OK(bsi_block_writer_open(&w, s, P_SLOTS, p.dictionary, &err), err);
    for (size_t b = 0; b < P_BLOCKS; b++) {
        FX_OK(put_whole(s, w, b, &err), err);
    }
    FX_OK(bsi_block_writer_close(w, &err), err);
    FX_OK(publish(s, &err), err);
    bsi_store_close(s);
}

/* A generation in which every step-th block gets `rows` random rows changed. */
static void next(size_t from, size_t step, int count, uint64_t *seed) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_block_writer *w;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(bsi_block_writer_open(&w, s, P_SLOTS, p.dictionary, &err), err);
    for (size_t b = from; b < P_BLOCKS; b += step) {
        uint32_t mask = 0;
        for (int i = 0; i < count; i++) mask |= 1u << fx_random(seed) % P_ROWS;
        FX_OK(put_patch(s, w, b, mask, seed, &err), err);
    }
    FX_OK(bsi_block_writer_close(w, &err), err);
    FX_OK(publish(s, &err), err);
    cr_assert(zero(int, compare_all(s, &err)), "%s", err.message);
    bsi_store_close(s);
}

static int judge(void) { return fx_judge_by(BSI_STORE_READ, compare_all); }

static void patched_blocks_read_as_whole_ones(void) {
    uint64_t seed = 99;
    first();
    next(0, 3, 1, &seed);
    cr_assert(zero(int, judge()));
    bsi_store *s = fx_open(BSI_STORE_READ);
    for (size_t b = 0; b < P_BLOCKS; b++) cr_assert(eq(int, is_patch(s, p.ref[b]), b % 3 == 0));
    bsi_store_close(s);
    for (int i = 0; i < 12; i++) next((size_t)i % 3, 1 + (size_t)i % 4, 1 + i % 5, &seed);
    cr_assert(zero(int, judge()));
}
Test(store_patch, patched_blocks_read_as_whole_ones) { patched_blocks_read_as_whole_ones(); }
Test(store_patch, coded_patched_blocks_read_as_whole_ones) {
    p.coded = true;
    patched_blocks_read_as_whole_ones();
}
Test(store_patch, matched_patched_blocks_read_as_whole_ones) {
    p.matched = true;
    patched_blocks_read_as_whole_ones();
}
Test(store_patch, coded_matched_patched_blocks_read_as_whole_ones) {
    p.coded = p.matched = true;
    patched_blocks_read_as_whole_ones();
}

/* A match says what the hashes would say: which rows differ, if the keys are the same. */
static void a_match_is_of_the_same_keys(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_block_writer *w;
    bsi_block_match match;
    first();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(bsi_block_writer_open(&w, s, P_SLOTS, p.dictionary, &err), err);
    made m = {.count = 0};
    for (uint32_t i = 0; i < P_ROWS; i++) make_row(&m, s, 7, i);
    bsi_rows now = rows_of(&m);
    cr_assert(bsi_block_writer_match(&match, w, p.ref[7], &now));
    cr_assert(zero(u64, match.changed));
    for (uint32_t i = 0; i < P_ROWS; i++) { /* the last byte of each row in turn, then the first of its key */
        uint8_t *row = m.enc.data + m.image[i];
        row[m.body[i] - 1] ^= 1;
        cr_assert(bsi_block_writer_match(&match, w, p.ref[7], &now));
        cr_assert(eq(u64, match.changed, 1ull << i));
        row[m.body[i] - 1] ^= 1;
        row[1] ^= 1;
        cr_assert(not(bsi_block_writer_match(&match, w, p.ref[7], &now)));
        row[1] ^= 1;
    }
    cr_assert(not(bsi_block_writer_match(&match, w, p.ref[8], &now)), "another block");
    now.count--;
    cr_assert(not(bsi_block_writer_match(&match, w, p.ref[7], &now)), "fewer rows");
    now.count++;
    FX_OK(bsi_block_writer_close(w, &err), err);
    bsi_block_writer_open(&w, s, P_SLOTS + 1, 0, &err);
    cr_assert(not(bsi_block_writer_match(&match, w, p.ref[7], &now)), "other columns");
    FX_OK(bsi_block_writer_close(w, &err), err);
    bsi_buf_free(&m.enc);
    bsi_store_close(s);
}
Test(store_patch, a_match_is_of_the_same_keys) { a_match_is_of_the_same_keys(); }
Test(store_patch, coded_a_match_is_of_the_same_keys) {
    p.coded = true;
    a_match_is_of_the_same_keys();
}

static void a_patch_of_a_patch_is_over_the_same_block_until_it_is_too_long(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    first();
    bsi_ref base = p.ref[5];
    uint64_t seed = 3;
    for (uint32_t i = 0; i < 8; i++) {
        bsi_block_writer *w;
        bsi_store *s = fx_open(BSI_STORE_WRITE);
        FX_OK(bsi_block_writer_open(&w, s, P_SLOTS, p.dictionary, &err), err);
        FX_OK(put_patch(s, w, 5, 1u << (15 - i), &seed, &err), err);
        FX_OK(bsi_block_writer_close(w, &err), err);
        FX_OK(publish(s, &err), err);
        static bsi_rows_view v;
        bsi_patch patch;
        FX_OK(bsi_patch_get(&patch, &v, s, p.ref[5], &err), err);
        if (i < 4) {
            cr_assert(eq(u64, patch.base, base));
            cr_assert(eq(u32, patch.count, i + 1));
        } else if (i == 4) {
            cr_assert(eq(u64, patch.base, BSI_REF_NONE));
        }
        cr_assert(zero(int, compare_all(s, &err)));
        bsi_store_close(s);
    }
    cr_assert(zero(int, judge()));
}
Test(store_patch, a_patch_of_a_patch_is_over_the_same_block_until_it_is_too_long) { a_patch_of_a_patch_is_over_the_same_block_until_it_is_too_long(); }
Test(store_patch, coded_a_patch_of_a_patch_is_over_the_same_block_until_it_is_too_long) {
    p.coded = true;
    a_patch_of_a_patch_is_over_the_same_block_until_it_is_too_long();
}

Test(store_patch, nothing_changed_is_the_base_and_wrong_rows_are_usage) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_block_writer *w;
    bsi_ref ref;
    first();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    made m = {.count = 0};
    make_row(&m, s, 0, 3);
    make_row(&m, s, 0, 2);
    FX_OK(bsi_block_writer_open(&w, s, P_SLOTS, p.dictionary, &err), err);
    FX_OK(bsi_block_writer_patch(&ref, w, p.ref[0], 0, m.row, m.enc.data, m.image, m.body, m.kh, m.rh, &err), err);
    cr_assert(eq(u64, ref, p.ref[0]));
    cr_assert(eq(int, (int)bsi_block_writer_patch(&ref, w, p.ref[0], 2, m.row, m.enc.data, m.image, m.body, m.kh, m.rh, &err), BOMSYNC_E_USAGE));
    m.row[0] = P_ROWS;
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, (int)bsi_block_writer_patch(&ref, w, p.ref[0], 1, m.row, m.enc.data, m.image, m.body, m.kh, m.rh, &err), BOMSYNC_E_USAGE));
    FX_OK(bsi_block_writer_close(w, &err), err);
    m.row[0] = 3;
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    bsi_block_writer_open(&w, s, P_SLOTS + 1, 0, &err); /* a column more */
    cr_assert(eq(int, (int)bsi_block_writer_patch(&ref, w, p.ref[0], 1, m.row, m.enc.data, m.image, m.body, m.kh, m.rh, &err), BOMSYNC_E_USAGE));
    FX_OK(bsi_block_writer_close(w, &err), err);
    bsi_buf_free(&m.enc);
    bsi_store_close(s);
}

typedef struct task {
    bsi_store *s;
    size_t first;
    bomsync_status st;
} task;

static void *patch_many(void *arg) {
    task *t = arg;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_block_writer *w;
    uint64_t seed = t->first + 1;
    t->st = bsi_block_writer_open(&w, t->s, P_SLOTS, p.dictionary, &err);
    bsi_block_data d = {0};
    for (size_t b = t->first; !t->st && b < P_BLOCKS; b += 4) {
        t->st = b % 3 ? put_patch(t->s, w, b, b % 5 ? 1u << b % P_ROWS : 0x5555, &seed, &err) : put_whole(t->s, w, b, &err);
        bsi_block_rows r;
        if (!t->st && b + 4 < P_BLOCKS) t->st = bsi_store_rows(&r, t->s, p.ref[b + 4], &err);
    }
    bsi_block_data_free(&d);
    bomsync_status closed = bsi_block_writer_close(w, &err);
    if (!t->st) t->st = closed;
    return NULL;
}

static void four_writers_at_once(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    first();
    for (int round = 0; round < 3; round++) {
        bsi_store *s = fx_open(BSI_STORE_WRITE);
        pthread_t thread[4];
        task t[4];
        for (size_t i = 0; i < 4; i++) {
            t[i] = (task){s, i, BOMSYNC_OK};
            pthread_create(&thread[i], NULL, patch_many, &t[i]);
        }
        for (size_t i = 0; i < 4; i++) {
            pthread_join(thread[i], NULL);
            cr_assert(zero(int, (int)t[i].st));
        }
        FX_OK(publish(s, &err), err);
        cr_assert(zero(int, compare_all(s, &err)), "%s", err.message);
        bsi_store_close(s);
    }
    cr_assert(zero(int, judge()));
}
Test(store_patch, four_writers_at_once) { four_writers_at_once(); }
Test(store_patch, coded_four_writers_at_once) {
    p.coded = true;
    four_writers_at_once();
}

static void gc_keeps_what_patches_stand_on(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t seed = 11;
    first();
    for (int i = 0; i < 6; i++) next(0, 5, 1, &seed); /* too few patches to be made whole */
    bsi_store *s = fx_open(BSI_STORE_GC);
    bsi_store_figures before, after;
    FX_OK(bsi_store_figures_get(&before, s, &err), err);
    FX_OK(bsi_store_gc(s, 1, &err), err);
    FX_OK(bsi_store_figures_get(&after, s, &err), err);
    cr_assert(lt(u64, after.segments, before.segments));
    cr_assert(zero(int, compare_all(s, &err)), "%s", err.message);
    bsi_store_close(s);
    cr_assert(zero(int, judge()));
    next(0, 3, 2, &seed);
    cr_assert(zero(int, judge()));
}
Test(store_patch, gc_keeps_what_patches_stand_on) { gc_keeps_what_patches_stand_on(); }
Test(store_patch, coded_gc_keeps_what_patches_stand_on) {
    p.coded = true;
    gc_keeps_what_patches_stand_on();
}

static void gc_makes_many_patches_whole(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t seed = 12;
    first();
    next(0, 1, 1, &seed);
    for (int i = 0; i < 6; i++) next(0, 2, 1, &seed);
    for (int64_t keep = 3; keep >= 1; keep -= 2) { /* with what an older generation needs, and without */
        bsi_store *s = fx_open(BSI_STORE_GC);
        FX_OK(bsi_store_gc(s, keep, &err), err);
        fx_refs(p.ref, P_BLOCKS, s, "p");
        for (size_t b = 0; b < P_BLOCKS; b++) cr_assert(not(is_patch(s, p.ref[b])));
        cr_assert(zero(int, compare_all(s, &err)), "%s", err.message);
        bsi_store_close(s);
        cr_assert(zero(int, judge()));
        if (keep == 3) for (int i = 0; i < 2; i++) next(0, 2, 1, &seed);
    }
    bsi_store *s = fx_open(BSI_STORE_READ);
    bsi_store_figures f;
    FX_OK(bsi_store_figures_get(&f, s, &err), err);
    cr_assert(le(u64, f.segments, P_BLOCKS / BSI_SEGMENT_BLOCKS + 1 + (uint64_t)bsi_usable_cores()));
    bsi_store_close(s);
    next(0, 3, 2, &seed);
    cr_assert(zero(int, judge()));
}
Test(store_patch, gc_makes_many_patches_whole) { gc_makes_many_patches_whole(); }
Test(store_patch, coded_gc_makes_many_patches_whole) {
    p.coded = true;
    gc_makes_many_patches_whole();
}

/* Bits flipped in the bytes of segments of patches: found, or in bytes that nothing reads. */
static void a_flipped_bit_in_a_patch_is_found(void) {
    uint64_t seed = 5;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    first();
    next(0, 2, 2, &seed);
    bsi_store *s = fx_open(BSI_STORE_READ);
    uint64_t id = p.ref[0] >> BSI_REF_BITS;
    char path[160];
    snprintf(path, sizeof path, "%s/shard-%02d/data.mdb", fx.dir, (int)(id % 4));
    MDB_val value[2];
    bsi_buf copy[2] = {0};
    for (int k = 0; k < 2; k++) {
        FX_OK(bsi_shard_get(&value[k], s, k ? BSI_DB_ROWS : BSI_DB_DATA, id, &err), err);
        bsi_buf_add(&copy[k], value[k].mv_data, value[k].mv_size);
    }
    bsi_store_close(s);
    bsi_buf file = {0};
    FX_OK(bsi_read_file(&file, path, 1u << 30, &err), err);
    int found = 0, dead = 0;
    for (int round = 0; round < 120; round++) {
        bsi_buf *c = &copy[round % 2];
        const uint8_t *hit = memmem(file.data, file.len, c->data, c->len);
        cr_assert(ne(ptr, (void *)(uintptr_t)hit, NULL));
        size_t at = (size_t)(hit - file.data) + fx_random(&seed) % c->len;
        uint8_t wrong = (uint8_t)(file.data[at] ^ 1u << (fx_random(&seed) & 7));
        int fd = open(path, O_WRONLY);
        cr_assert(eq(sz, (size_t)pwrite(fd, &wrong, 1, (off_t)at), 1));
        int verdict = judge();
        cr_assert(ne(int, verdict == 0 || verdict == BOMSYNC_E_INTEGRITY || verdict > 128, 0), "flip at %zu: %d", at, verdict);
        found += verdict != 0;
        dead += verdict == 0;
        cr_assert(eq(sz, (size_t)pwrite(fd, &file.data[at], 1, (off_t)at), 1));
        close(fd);
    }
    cr_assert(le(int, dead, 2), "%d of %d found", found, found + dead); /* at most the zeros behind a value's end */
    for (int k = 0; k < 2; k++) bsi_buf_free(&copy[k]);
    bsi_buf_free(&file);
    cr_assert(zero(int, judge()));
}
Test(store_patch, a_flipped_bit_in_a_patch_is_found) { a_flipped_bit_in_a_patch_is_found(); }
Test(store_patch, coded_a_flipped_bit_in_a_patch_is_found) {
    p.coded = true;
    a_flipped_bit_in_a_patch_is_found();
}

static void a_patch_over_another_patch_or_nothing_is_damage(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t seed = 5;
    first();
    next(0, 1, 1, &seed);
    uint64_t id = p.ref[0] >> BSI_REF_BITS;
    for (int k = 0; k < 2; k++) {
        bsi_store *s = fx_open(BSI_STORE_WRITE);
        MDB_val v;
        MDB_txn *txn;
        bsi_buf b = {0}, was = {0};
        FX_OK(bsi_shard_get(&v, s, BSI_DB_ROWS, id, &err), err);
        bsi_buf_add(&b, v.mv_data, v.mv_size);
        bsi_buf_add(&was, v.mv_data, v.mv_size);
        uint8_t *head = b.data + BSI_VALUE_HEAD;
        uint32_t dir = bsi_get32(head), blocks = bsi_get32(head + 4);
        bsi_ref wrong = k ? 900ull << BSI_REF_BITS : p.ref[0];
        memcpy(head + dir, &wrong, 8); /* of block 0, sealed anew */
        uint16_t n;
        memcpy(&n, head + BSI_ROWS_HEAD, 2);
        uint32_t check = bsi_block_check(head + dir, 8 * (2 + 2u * n + (n + 3u) / 4), id, 0);
        memcpy(head + BSI_ROWS_HEAD + blocks * 2, &check, 4);
        bsi_env *e = &s->shard[id % 4].env;
        FX_OK(bsi_value_seal(&b, BSI_DB_ROWS, bsi_key_id(&id), dir, &err), err);
        FX_OK(bsi_env_begin(&txn, e, &err), err);
        FX_OK(bsi_value_put(e, txn, BSI_DB_ROWS, bsi_key_id(&id), &b, 0, &err), err);
        FX_OK(bsi_env_commit(e, txn, &err), err);
        bsi_store_close(s);
        cr_assert(eq(int, judge(), BOMSYNC_E_INTEGRITY));
        s = fx_open(BSI_STORE_WRITE);
        FX_OK(bsi_shard_get(&v, s, BSI_DB_ROWS, id, &err), err);
        e = &s->shard[id % 4].env;
        FX_OK(bsi_env_begin(&txn, e, &err), err);
        FX_OK(bsi_value_put(e, txn, BSI_DB_ROWS, bsi_key_id(&id), &was, 0, &err), err);
        FX_OK(bsi_env_commit(e, txn, &err), err);
        bsi_store_close(s);
        bsi_buf_free(&b);
        bsi_buf_free(&was);
        cr_assert(zero(int, judge()));
    }
}
Test(store_patch, a_patch_over_another_patch_or_nothing_is_damage) { a_patch_over_another_patch_or_nothing_is_damage(); }
Test(store_patch, coded_a_patch_over_another_patch_or_nothing_is_damage) {
    p.coded = true;
    a_patch_over_another_patch_or_nothing_is_damage();
}

static void a_backup_has_patches_too(void) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t seed = 5;
    first();
    next(0, 2, 1, &seed);
    char to[96], back[96];
    snprintf(to, sizeof to, "%s/backup", fx.base);
    snprintf(back, sizeof back, "%s/back", fx.base);
    bsi_store *s = fx_open(BSI_STORE_READ);
    FX_OK(bsi_store_backup(s, to, &err), err);
    bsi_store_close(s);
    FX_OK(bsi_store_restore(to, back, &err), err);
    snprintf(fx.dir, sizeof fx.dir, "%.60s", back);
    cr_assert(zero(int, judge()));
}
Test(store_patch, a_backup_has_patches_too) { a_backup_has_patches_too(); }
Test(store_patch, coded_a_backup_has_patches_too) {
    p.coded = true;
    a_backup_has_patches_too();
}

/* A store of groups that a later program goes on with: coded patches over groups, then patches of those, then whole blocks. */
Test(store_patch, coded_patches_over_groups) {
    uint64_t seed = 21;
    first();
    next(0, 3, 1, &seed);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    bomsync_error err = BOMSYNC_ERROR_INIT;
    learn(s);
    FX_OK(publish(s, &err), err); /* with the dictionary */
    bsi_store_close(s);
    next(0, 2, 1, &seed); /* over groups, and over patches of groups */
    next(0, 3, 2, &seed);
    next(1, 2, 9, &seed); /* whole ones */
    cr_assert(zero(int, judge()));
    p.dictionary = 0;
    next(0, 1, 1, &seed); /* and back */
    cr_assert(zero(int, judge()));
}

static size_t dictionaries(bsi_store *s) {
    MDB_stat t;
    cr_assert(zero(int, mdb_stat(s->root.read, s->root.dbi[BSI_DB_DICTS], &t)));
    return t.ms_entries;
}

Test(store_patch, gc_drops_a_dictionary_with_the_last_segment_that_names_it) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t seed = 4;
    p.coded = true;
    first();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    learn(s); /* another one */
    FX_OK(publish(s, &err), err);
    bsi_store_close(s);
    next(0, 5, 2, &seed);
    s = fx_open(BSI_STORE_GC);
    FX_OK(bsi_store_gc(s, 1, &err), err);
    cr_assert(eq(sz, dictionaries(s), 2)); /* patches stand on blocks of the first */
    bsi_store_close(s);
    next(0, 1, 16, &seed);
    s = fx_open(BSI_STORE_GC);
    FX_OK(bsi_store_gc(s, 1, &err), err);
    cr_assert(eq(sz, dictionaries(s), 1));
    cr_assert(zero(int, compare_all(s, &err)), "%s", err.message);
    bsi_store_close(s);
    cr_assert(zero(int, judge()));
}

/* Segments stand in the shards, the root never heard of them, nor of what they are coded with. */
Test(store_patch, a_run_killed_before_it_stored_its_dictionary_leaves_a_sound_store) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint64_t seed = 6;
    static rows before;
    first();
    before = p;
    pid_t pid = fork();
    if (pid == 0) {
        bsi_store *s = fx_open(BSI_STORE_WRITE);
        bsi_block_writer *w;
        learn(s);
        if (bsi_block_writer_open(&w, s, P_SLOTS, p.dictionary, &err)) _exit(1);
        for (size_t b = 0; b < P_BLOCKS; b++) put_patch(s, w, b, 0xffff, &seed, &err);
        if (bsi_block_writer_close(w, &err) || bsi_shards_flush(s, &err)) _exit(1);
        kill(getpid(), SIGKILL);
    }
    int status;
    waitpid(pid, &status, 0);
    cr_assert(eq(int, WIFSIGNALED(status) != 0, 1));
    p = before;
    cr_assert(zero(int, judge()));
    p.coded = true;
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    learn(s); /* the same ids, another dictionary */
    FX_OK(publish(s, &err), err);
    bsi_store_close(s);
    next(0, 2, 1, &seed);
    cr_assert(zero(int, judge()));
}

Test(store_patch, a_lost_or_damaged_dictionary_is_told) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    p.coded = true;
    first();
    for (int k = 0; k < 2; k++) {
        bsi_store *s = fx_open(BSI_STORE_WRITE);
        MDB_txn *txn;
        MDB_val key = bsi_key_id(&p.dictionary);
        bsi_buf b = {0};
        bsi_value_start(&b);
        bsi_buf_str(&b, "\0no dictionary");
        FX_OK(bsi_env_begin(&txn, &s->root, &err), err);
        if (k) FX_OK(bsi_value_drop(&s->root, txn, BSI_DB_DICTS, key, &err), err);
        else FX_OK(bsi_value_save(&s->root, txn, BSI_DB_DICTS, key, &b, 0, &err), err);
        FX_OK(bsi_env_commit(&s->root, txn, &err), err);
        bsi_store_close(s);
        bsi_buf_free(&b);
        cr_assert(eq(int, judge(), BOMSYNC_E_INTEGRITY));
        s = fx_open(BSI_STORE_READ);
        bsi_block_data d = {0};
        cr_assert(eq(int, (int)bsi_store_data(&d, s, p.ref[0], &err), BOMSYNC_E_INTEGRITY));
        cr_assert(ne(ptr, strstr(err.message, "dicts"), NULL));
        err = (bomsync_error)BOMSYNC_ERROR_INIT;
        bsi_block_data_free(&d);
        bsi_store_close(s);
    }
}

/* Rows that cannot be coded stand in the same writer's groups. */
Test(store_patch, rows_that_are_too_wide_are_packed) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_block_writer *w;
    p.coded = true;
    first();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    bsi_buf wide = {0}, text = {0};
    for (int i = 0; i < 70000; i++) bsi_buf_byte(&text, (uint8_t)i);
    bsi_buf_lstr(&wide, "x", 1);
    bsi_buf_lstr(&wide, text.data, text.len);
    bsi_buf_byte(&wide, 0);
    uint32_t off[2] = {0, (uint32_t)wide.len}, body[1] = {(uint32_t)wide.len - 1};
    uint64_t kh[1] = {1}, rh[1] = {2};
    bsi_ref ref;
    FX_OK(bsi_block_writer_open(&w, s, P_SLOTS, p.dictionary, &err), err);
    FX_OK(put_whole(s, w, 0, &err), err);
    FX_OK(bsi_block_writer_add(&ref, w, 1, wide.data, off, body, kh, rh, &err), err);
    FX_OK(put_whole(s, w, 1, &err), err);
    FX_OK(bsi_block_writer_close(w, &err), err);
    FX_OK(publish(s, &err), err);
    bsi_block_data d = {0};
    FX_OK(bsi_store_data(&d, s, ref, &err), err);
    cr_assert(eq(u32, d.image[1] - d.image[0], (uint32_t)wide.len));
    cr_assert(zero(int, memcmp(d.raw.data + d.image[0], wide.data, wide.len)));
    cr_assert(zero(int, compare_all(s, &err)), "%s", err.message);
    bsi_block_data_free(&d);
    bsi_store_close(s);
    bsi_buf_free(&wide);
    bsi_buf_free(&text);
}
