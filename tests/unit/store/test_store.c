/* The store through its hand-over header: what goes in comes out, who may open it, what publish promises. */
#include "store_fixture.h"

TestSuite(store, .init = fx_init, .fini = fx_fini, .timeout = 60);

Test(store, create_makes_a_store_that_opens_empty) {
    fx_create();
    bsi_store *s = fx_open(BSI_STORE_READ);
    cr_assert(eq(i64, bsi_store_generation(s), 0));
    cr_assert(eq(int, bsi_store_shards(s), 4));
    cr_assert(eq(sz, strlen(bsi_store_id(s)), 32));
    bsi_store_close(s);
    cr_assert(eq(int, fx_judge(BSI_STORE_WRITE), 71)); /* sound, but no feed to compare */
}

Test(store, create_in_a_folder_with_files_is_usage) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_mkdirs(fx.dir, &err);
    char path[128];
    snprintf(path, sizeof path, "%s/file", fx.dir);
    bsi_write_file(path, "x", 1, &err);
    cr_assert(eq(int, (int)bsi_store_create(fx.dir, 8, &err), BOMSYNC_E_USAGE));
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, (int)bsi_store_create(fx.base, 65, &err), BOMSYNC_E_USAGE));
}

Test(store, create_in_an_empty_folder_works) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_mkdirs(fx.dir, &err);
    FX_OK(bsi_store_create(fx.dir, 1, &err), err);
}

Test(store, open_without_store_is_usage_and_half_a_store_is_damage) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store *s = NULL;
    cr_assert(eq(int, (int)bsi_store_open(&s, fx.dir, BSI_STORE_READ, 0, &err), BOMSYNC_E_USAGE));
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, (int)bsi_store_open(&s, fx.base, BSI_STORE_WRITE, 0, &err), BOMSYNC_E_USAGE));
    cr_assert(ne(str, err.hint, ""));
    bsi_mkdirs(fx.dir, &err);
    char path[128];
    snprintf(path, sizeof path, "%s/lock", fx.dir);
    bsi_write_file(path, "x", 1, &err);
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, (int)bsi_store_open(&s, fx.dir, BSI_STORE_WRITE, 0, &err), BOMSYNC_E_INTEGRITY));
    cr_assert(eq(ptr, s, NULL));
}

Test(store, newer_format_is_refused_and_left_alone) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    MDB_txn *txn;
    uint32_t format = BSI_STORE_FORMAT + 1;
    FX_OK(bsi_env_begin(&txn, &s->root, &err), err);
    FX_OK(bsi_store_meta_put(s, txn, "format", &format, 4, &err), err);
    FX_OK(bsi_env_commit(&s->root, txn, &err), err);
    bsi_store_close(s);
    cr_assert(eq(int, (int)bsi_store_open(&s, fx.dir, BSI_STORE_WRITE, 0, &err), BOMSYNC_E_INTEGRITY));
    cr_assert(ne(ptr, strstr(err.message, "format 3"), NULL));
}

Test(store, published_blocks_come_back) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(1500);
    bsi_store *s = fx_open(BSI_STORE_READ);
    cr_assert(eq(i64, bsi_store_generation(s), 1));
    cr_assert(zero(int, fx_compare(s, &err)), "%s", err.message);
    bsi_feed *f;
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    cr_assert(eq(str, f->slots.name[2], "component"));
    cr_assert(eq(i64, f->generation, 1));
    cr_assert(eq(i64, f->last_sequence, -1));
    bsi_image image;
    FX_OK(bsi_store_image(&image, s, f->image_list, &err), err);
    cr_assert(eq(u64, image.count, 1500));
    size_t at = 0;
    for (size_t i = 0; i < image.piece_count; i++) {
        FX_OK(bsi_store_image_check(s, &image.piece[i], &err), err);
        cr_assert(eq(u64, image.piece[i].first, at));
        cr_assert(zero(int, memcmp(image.piece[i].entry, fx.image + at, image.piece[i].count * sizeof *fx.image)));
        at += image.piece[i].count;
    }
    cr_assert(eq(sz, at, 1500));
    bsi_image_free(&image);
    bsi_feed_free(f);
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store, unknown_feed_and_generation_are_null) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(3);
    bsi_store *s = fx_open(BSI_STORE_READ);
    bsi_feed *f;
    bsi_generation *g;
    FX_OK(bsi_store_feed(&f, s, "nobody", &err), err);
    cr_assert(eq(ptr, f, NULL));
    FX_OK(bsi_store_generation_get(&g, s, 2, &err), err);
    cr_assert(eq(ptr, g, NULL));
    FX_OK(bsi_store_generation_of_feed(&g, s, "default", 0, &err), err);
    cr_assert(eq(ptr, g, NULL));
    bsi_store_close(s);
}

Test(store, a_feed_keeps_its_generation_when_another_feed_moves) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(40);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(fx_publish(s, "other", false, &err), err);
    FX_OK(fx_publish(s, "other", false, &err), err);
    bsi_generation *g;
    FX_OK(bsi_store_generation_of_feed(&g, s, "default", 3, &err), err);
    cr_assert(eq(i64, g->number, 1));
    bsi_generation_free(g);
    FX_OK(bsi_store_generation_of_feed(&g, s, "other", 2, &err), err);
    cr_assert(eq(i64, g->number, 2));
    bsi_generation_free(g);
    char **names;
    size_t n;
    FX_OK(bsi_store_feeds(&names, &n, s, &err), err);
    cr_assert(eq(sz, n, 2));
    cr_assert(eq(str, names[0], "default"));
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store, twelve_generations_share_what_did_not_change) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(FX_BLOCKS_MAX);
    for (size_t i = 0; i < 11; i++) fx_next(i % 3 ? 97 : 500);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
    bsi_store *s = fx_open(BSI_STORE_READ);
    MDB_stat t;
    mdb_stat(s->root.read, s->root.dbi[BSI_DB_IMAGE], &t);
    cr_assert(lt(sz, t.ms_entries, 2 * (FX_BLOCKS_MAX / 60) + 40), "%zu", t.ms_entries); /* old image pages are dropped */
    cr_assert(zero(int, fx_compare(s, &err)), "%s", err.message);
    bsi_store_close(s);
}

Test(store, insertions_and_removals_come_back_in_order) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(900);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    bsi_ref gone = fx.ref[100];
    memmove(fx.ref + 100, fx.ref + 101, 799 * sizeof *fx.ref);
    memmove(fx.image + 100, fx.image + 101, 799 * sizeof *fx.image);
    fx.count = 899;
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_generation *g;
    bsi_ref *ref;
    size_t n;
    FX_OK(bsi_store_generation_get(&g, s, 2, &err), err);
    FX_OK(bsi_store_state(&ref, &n, s, g->state_list, &err), err);
    cr_assert(eq(sz, n, 899));
    cr_assert(zero(int, memcmp(ref, fx.ref, n * sizeof *ref)));
    cr_assert(ne(u64, ref[100], gone));
    free(ref);
    bsi_generation_free(g);
    bsi_store_close(s);
}

static char *stats_of_run(void *ctx) {
    (void)ctx;
    return bsi_strdup("{\"records\":600}");
}

Test(store, a_publish_without_generation_changes_only_what_it_names) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(50);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    bsi_feed *f;
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    f->last_sequence = 77;
    bsi_kept k[2] = {{.kh = 5, .key_read = true, .rule = (char *)"held-delete", .image = (uint8_t *)"abc", .image_bytes = 3, .body_bytes = 2,
                      .slot_count = 4, .partition = (char *)"1000", .byte = -1, .line = -1, .since = 9},
                     {.rule = (char *)"encoding", .partition = (char *)"", .file = (char *)"a.csv", .byte = 12, .line = 3,
                      .column = (char *)"qty", .value = (char *)"x"}};
    bsi_hold h = {.feed = (char *)"default", .partition = (char *)"1000", .rule = (char *)"delete-guard", .changes = 60, .since = 9,
                  .state = (char *)"held"};
    memset(k[0].hold, 7, 32);
    memset(h.digest, 7, 32);
    bsi_kept_list l = {0};
    for (int i = 0; i < 2; i++) bsi_kept_put(&l, &k[i]);
    bsi_publish p = {.feed = f, .kept = &l, .set_kept = true, .holds = &h, .hold_count = 1, .set_holds = true,
                     .journal_kind = "snapshot", .stats = stats_of_run};
    FX_OK(bsi_store_publish(s, &p, &err), err);
    bsi_feed_free(f);
    bsi_store_close(s);
    s = fx_open(BSI_STORE_READ);
    cr_assert(eq(i64, bsi_store_generation(s), 1));
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    cr_assert(eq(i64, f->last_sequence, 77));
    cr_assert(eq(i64, f->generation, 1));
    cr_assert(ne(u64, f->image_list, 0));
    bsi_hold *hh;
    size_t n;
    bsi_kept_list read;
    FX_OK(bsi_store_kept(&read, s, "default", &err), err);
    cr_assert(bsi_kept_same(&read, &l));
    bsi_kept_walk w = {.list = &read};
    const bsi_kept *one = bsi_kept_next(&w);
    size_t place = w.place;
    cr_assert(eq(u64, one->kh, 5));
    cr_assert(zero(int, memcmp(one->image, "abc", 3)));
    cr_assert(eq(ptr, (void *)(uintptr_t)one->file, NULL));
    one = bsi_kept_next(&w);
    cr_assert(eq(ptr, (void *)(uintptr_t)one->image, NULL));
    cr_assert(eq(str, (char *)(uintptr_t)one->column, "qty"));
    cr_assert(eq(u64, bsi_kept_at(&w, place)->kh, 5));
    cr_assert(not(zero(ptr, (void *)(uintptr_t)bsi_kept_next(&w))));
    cr_assert(zero(ptr, (void *)(uintptr_t)bsi_kept_next(&w)));
    bsi_kept_free(&read);
    bsi_kept_free(&l);
    FX_OK(bsi_store_holds(&hh, &n, s, NULL, &err), err);
    cr_assert(eq(sz, n, 1));
    cr_assert(eq(str, hh->rule, "delete-guard"));
    cr_assert(eq(ptr, hh->by, NULL));
    bsi_holds_free(hh, n);
    FX_OK(bsi_store_holds(&hh, &n, s, "nobody", &err), err);
    cr_assert(zero(sz, n));
    bsi_holds_free(hh, n);
    char *stats;
    FX_OK(bsi_store_stats_get(&stats, s, &err), err);
    cr_assert(eq(str, stats, "{\"records\":600}"));
    free(stats);
    bsi_feed_free(f);
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

static bomsync_status count_line(void *ctx, const char *json, size_t n, bomsync_error *err) {
    (void)err;
    cr_assert(eq(chr, json[0], '{'));
    cr_assert(eq(chr, json[n - 1], '}'));
    ++*(int *)ctx;
    return BOMSYNC_OK;
}

/* The newest state is fx.ref, and each block of it can be read. */
static int is_listed(bsi_store *s, bomsync_error *err) {
    bsi_generation *g;
    bsi_ref *ref = NULL;
    bsi_block_rows r;
    size_t n = 0;
    int st = (int)bsi_store_generation_of_feed(&g, s, "default", INT64_MAX, err);
    if (!st) st = (int)bsi_store_state(&ref, &n, s, g->state_list, err);
    if (!st && (n != fx.count || memcmp(ref, fx.ref, n * sizeof *ref) != 0)) st = 99;
    for (size_t i = 0; !st && i < n; i++) st = (int)bsi_store_rows(&r, s, ref[i], err);
    bsi_vast_free(ref);
    bsi_generation_free(g);
    return st;
}

/* The last generation keeps its number and its digest; the one before it, its order. */
Test(store, another_order_of_the_state_needs_no_generation) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    enum { BLOCKS = 600 };
    fx_first(BLOCKS);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_feed *f;
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    f->order = (bsi_order){.times = 2, .count = 3, .low = {4, 5, UINT64_MAX}};
    FX_OK(fx_write(s, 0, 300, &err), err); /* their segments count from now on, though there is no generation */
    for (size_t i = 0; i < 300; i++) {
        bsi_ref at = fx.ref[i];
        bsi_image_entry e = fx.image[i];
        fx.ref[i] = fx.ref[BLOCKS - 1 - i];
        fx.image[i] = fx.image[BLOCKS - 1 - i];
        fx.ref[BLOCKS - 1 - i] = at;
        fx.image[BLOCKS - 1 - i] = e;
    }
    bsi_state_edit edit = {.first = 0, .end = BLOCKS, .ref = fx.ref, .count = BLOCKS};
    bsi_publish p = {.feed = f, .edit_state = true, .state_edit = &edit, .state_edit_count = 1, .image = fx.image, .image_count = BLOCKS, .journal_kind = "snapshot"};
    FX_OK(bsi_store_publish(s, &p, &err), err);
    bsi_feed_free(f);
    bsi_store_close(s);
    s = fx_open(BSI_STORE_READ);
    cr_assert(eq(i64, bsi_store_generation(s), 2));
    FX_OK(bsi_store_feed(&f, s, "default", &err), err);
    cr_assert(eq(u32, f->order.times, 2));
    cr_assert(eq(u32, f->order.count, 3));
    cr_assert(eq(u64, f->order.low[1], 5));
    cr_assert(eq(u64, f->order.low[2], UINT64_MAX));
    bsi_feed_free(f);
    for (int64_t n = 1; n <= 2; n++) {
        bsi_generation *g;
        bsi_ref *ref;
        size_t count;
        FX_OK(bsi_store_generation_get(&g, s, n, &err), err);
        cr_assert(eq(u8, g->digest[0], (uint8_t)n));
        FX_OK(bsi_store_state(&ref, &count, s, g->state_list, &err), err);
        cr_assert(eq(sz, count, BLOCKS));
        cr_assert(eq(int, memcmp(ref, fx.ref, count * sizeof *ref) == 0, n == 2), "generation %d", (int)n);
        bsi_vast_free(ref);
        bsi_generation_free(g);
    }
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge_by(BSI_STORE_READ, is_listed)));
    s = fx_open(BSI_STORE_WRITE); /* and its segments are not those of a run that was killed */
    FX_OK(fx_publish(s, "default", false, &err), err);
    bsi_store_close(s);
    cr_assert(zero(int, fx_judge_by(BSI_STORE_READ, is_listed)));
}

Test(store, the_journal_is_a_chain_and_a_changed_line_breaks_it) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(5);
    fx_next(2);
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    FX_OK(bsi_store_publish(s, &(bsi_publish){.journal_kind = "gc", .journal_json = "{}"}, &err), err);
    int lines = 0;
    FX_OK(bsi_store_journal(s, count_line, &lines, &err), err);
    cr_assert(eq(int, lines, 3));
    uint64_t id = 2;
    bsi_span v;
    MDB_txn *txn;
    bsi_buf b = {0};
    FX_OK(bsi_value_get(&v, &s->root, s->root.read, BSI_DB_JOURNAL, bsi_key_id(&id), &err), err);
    bsi_value_start(&b);
    bsi_buf_add(&b, v.p, v.n);
    *(char *)memchr(b.data, 'q', b.len) = 'Q'; /* sealed anew: only the chain can tell */
    FX_OK(bsi_env_begin(&txn, &s->root, &err), err);
    FX_OK(bsi_value_save(&s->root, txn, BSI_DB_JOURNAL, bsi_key_id(&id), &b, 0, &err), err);
    FX_OK(bsi_env_commit(&s->root, txn, &err), err);
    FX_OK(bsi_env_renew(&s->root, &err), err);
    bsi_buf_free(&b);
    cr_assert(eq(int, (int)bsi_store_journal(s, count_line, &lines, &err), BOMSYNC_E_INTEGRITY));
    bsi_store_close(s);
}

Test(store, a_second_writer_is_busy_and_a_dead_ones_lock_is_taken_over) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    int ready[2];
    cr_assert(zero(int, pipe(ready)));
    pid_t pid = fork();
    if (pid == 0) {
        bsi_store *s;
        char c = (char)bsi_store_open(&s, fx.dir, BSI_STORE_WRITE, 0, &err);
        if (write(ready[1], &c, 1) != 1) _exit(1);
        for (;;) pause();
    }
    char c = 1;
    cr_assert(eq(sz, (size_t)read(ready[0], &c, 1), 1));
    cr_assert(zero(chr, c));
    bsi_store *s = NULL;
    int64_t start = bsi_now_ns();
    cr_assert(eq(int, (int)bsi_store_open(&s, fx.dir, BSI_STORE_WRITE, 0, &err), BOMSYNC_E_BUSY));
    cr_assert(lt(i64, bsi_now_ns() - start, 500000000));
    bsi_store *r = fx_open(BSI_STORE_READ); /* readers do not mind */
    bsi_store_close(r);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    s = fx_open(BSI_STORE_WRITE);
    bsi_store_close(s);
}

/* A child of its own reads while this process, which has no opening of its own meanwhile, writes six generations. */
Test(store, a_reader_keeps_its_view_while_others_publish) {
    fx_first(600);
    int ready[2], go[2];
    cr_assert(zero(int, pipe(ready) | pipe(go)));
    pid_t pid = fork();
    if (pid == 0) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bsi_store *s;
        char c = (char)bsi_store_open(&s, fx.dir, BSI_STORE_READ, 0, &err);
        if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1) _exit(1);
        bsi_feed *f;
        bsi_image image;
        int st = fx_compare(s, &err);
        if (!st) st = (int)bsi_store_feed(&f, s, "default", &err);
        if (!st) st = (int)bsi_store_image(&image, s, f->image_list, &err);
        for (size_t i = 0, at = 0; !st && i < image.piece_count; at += image.piece[i++].count) {
            st = (int)bsi_store_image_check(s, &image.piece[i], &err);
            if (memcmp(image.piece[i].entry, fx.image + at, image.piece[i].count * sizeof *fx.image)) st = 99;
        }
        _exit(st);
    }
    char c = 1;
    cr_assert(eq(sz, (size_t)read(ready[0], &c, 1), 1));
    cr_assert(zero(chr, c));
    for (int i = 0; i < 6; i++) fx_next(7);
    cr_assert(eq(sz, (size_t)write(go[1], &c, 1), 1));
    int status = 1;
    waitpid(pid, &status, 0);
    cr_assert(zero(int, status));
}

Test(store, gc_waits_for_no_reader) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    int ready[2];
    cr_assert(zero(int, pipe(ready)));
    pid_t pid = fork();
    if (pid == 0) {
        bsi_store *s;
        char c = (char)bsi_store_open(&s, fx.dir, BSI_STORE_READ, 0, &err);
        if (write(ready[1], &c, 1) != 1) _exit(1);
        for (;;) pause();
    }
    char c = 1;
    cr_assert(eq(sz, (size_t)read(ready[0], &c, 1), 1));
    bsi_store *s = NULL;
    cr_assert(eq(int, (int)bsi_store_open(&s, fx.dir, BSI_STORE_GC, 0, &err), BOMSYNC_E_BUSY));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    s = fx_open(BSI_STORE_GC);
    bsi_store_close(s);
}

Test(store, blocks_of_many_writers_and_sizes_come_back) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    enum { N = 40 };
    bsi_ref ref[N];
    bsi_buf image[N] = {0};
    uint64_t kh[3] = {1, 2, 3}, rh[3] = {4, 5, 6}, seed = 42;
    for (int i = 0; i < N; i++) { /* one writer each: blocks from 3 bytes to 2 MB */
        bsi_block_writer *w;
        size_t n = (size_t)3 << (i / 2);
        n = BSI_MIN(n, (size_t)2 << 20);
        for (size_t k = 0; k < n; k++) bsi_buf_byte(&image[i], (uint8_t)(fx_random(&seed) >> 20));
        uint32_t off[4] = {0, 1, (uint32_t)n / 2 + 1, (uint32_t)n}, body[3] = {1, (uint32_t)n / 2 - 1, (uint32_t)n - (uint32_t)n / 2 - 1};
        body[1] = off[2] - off[1];
        FX_OK(bsi_block_writer_open(&w, s, 3, 0, &err), err);
        FX_OK(bsi_block_writer_add(&ref[i], w, 3, image[i].data, off, body, kh, rh, &err), err);
        FX_OK(bsi_block_writer_close(w, &err), err);
    }
    bsi_feed f = {.name = (char *)"x", .block_size = {12, 6}, .slots = {.partition = -1}};
    bsi_generation g = {.number = 1, .feed = f.name, .kind = f.name};
    FX_OK(bsi_store_publish(s, &(bsi_publish){.feed = &f, .generation = &g, .state = ref, .state_count = N}, &err), err);
    bsi_block_data d = {0};
    for (int i = N - 1; i >= 0; i--) {
        FX_OK(bsi_store_data(&d, s, ref[i], &err), err);
        cr_assert(eq(u32, d.count, 3));
        cr_assert(eq(u32, d.image[3] - d.image[0], (uint32_t)image[i].len));
        cr_assert(zero(int, memcmp(d.raw.data + d.image[0], image[i].data, image[i].len)));
        bsi_buf_free(&image[i]);
    }
    bsi_block_rows r;
    cr_assert(eq(int, (int)bsi_store_rows(&r, s, ref[0] + 1, &err), BOMSYNC_E_INTEGRITY));
    bsi_block_data_free(&d);
    bsi_store_close(s);
}
