/* tests/unit/run/test_table.c - rows in any order come out sorted, in any number of parts, from memory or from the file. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "run/table.h"

TestSuite(table, .timeout = 120);

enum { SLOTS = 4, KEYS = 2, ROWS_MOST = 6000 };

static uint64_t state;

static size_t draw(size_t n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (size_t)((state >> 33) % n);
}

typedef struct row {
    char text[SLOTS][64];
    uint32_t len[SLOTS];
} row;

static void draw_row(row *r, size_t number, bool spread) {
    static const char letters[] = "ab\0,\"\n\r xyz";
    for (int i = 0; i < SLOTS; i++) {
        r->len[i] = (uint32_t)draw(i == 3 ? 60 : 6);
        for (uint32_t k = 0; k < r->len[i]; k++) r->text[i][k] = letters[draw(sizeof letters - 1)];
    }
    if (spread) r->len[0] = (uint32_t)snprintf(r->text[0], sizeof r->text[0], "%06zu", number / 3 + draw(20));
    r->len[1] = (uint32_t)snprintf(r->text[1], sizeof r->text[1], "%zu", number); /* each key once */
}

static int compare(const row *a, const row *b, int slots) {
    for (int i = 0; i < slots; i++) {
        int c = memcmp(a->text[i], b->text[i], BSI_MIN(a->len[i], b->len[i]));
        if (c || a->len[i] != b->len[i]) return c ? c : a->len[i] < b->len[i] ? -1 : 1;
    }
    return 0;
}

static int by_key(const void *a, const void *b) { return compare(a, b, KEYS); }

static void expect_field(bsi_buf *b, const char *p, size_t n) {
    bool quote = false;
    for (size_t i = 0; i < n; i++) quote |= strchr(",\"\n\r", p[i]) && p[i];
    if (quote) bsi_buf_byte(b, '"');
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '"') bsi_buf_byte(b, '"');
        bsi_buf_byte(b, (uint8_t)p[i]);
    }
    if (quote) bsi_buf_byte(b, '"');
}

static const uint32_t order[SLOTS] = {3, 0, 2, 1};

static bsi_buf expected(row *r, size_t n) {
    bsi_buf b = {0};
    bsi_buf_str(&b, "d,a,c,b\n");
    qsort(r, n, sizeof *r, by_key);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < SLOTS; k++) {
            expect_field(&b, r[i].text[order[k]], r[i].len[order[k]]);
            bsi_buf_byte(&b, k + 1 < SLOTS ? ',' : '\n');
        }
    return b;
}

static int take(void *ctx, const void *p, size_t n) {
    bsi_buf_add(ctx, p, n);
    return 0;
}

static void fields(bsi_field *f, const row *r) {
    for (int i = 0; i < SLOTS; i++) f[i] = (bsi_field){(const uint8_t *)r->text[i], r->len[i], false};
}

typedef struct adding {
    bsi_table *t;
    const row *r;
    size_t n;
} adding;

static void add_some(void *ctx, size_t index) {
    const adding *a = ctx;
    bsi_field f[SLOTS];
    for (size_t i = index * 50; i < BSI_MIN(index * 50 + 50, a->n); i++) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        fields(f, &a->r[i]);
        cr_assert(eq(int, bsi_table_add(a->t, bsi_lane(), f, &err), BOMSYNC_OK));
    }
}

static void check(uint64_t seed, size_t n, bool spread, int workers, uint64_t memory_bytes, size_t samples) {
    char *name[SLOTS] = {(char *)(uintptr_t)"a", (char *)(uintptr_t)"b", (char *)(uintptr_t)"c", (char *)(uintptr_t)"d"};
    bsi_slots slots = {.name = name, .count = SLOTS, .key_count = KEYS, .partition = -1, .order = (uint32_t *)(uintptr_t)order};
    static row r[ROWS_MOST];
    bsi_field f[SLOTS];
    state = seed;
    for (size_t i = 0; i < n; i++) draw_row(&r[i], i, spread);
    bsi_table *t = bsi_table_open(&(bsi_table_options){.slots = &slots, .key_count = KEYS, .workers = workers, .rows = samples ? 400000 : n,
                                                       .memory_bytes = memory_bytes, .tmp = bsi_temp_folder()}); /* said to be many: so there are parts */
    for (size_t i = 0; i < samples && n; i++) {
        fields(f, &r[draw(n)]);
        bsi_table_sample(t, f);
    }
    adding a = {t, r, n};
    bsi_parallel(workers, (n + 49) / 50, add_some, &a);
    bsi_buf got = {0};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, bsi_table_write(t, (bomsync_sink){take, &got}, &err), BOMSYNC_OK));
    bsi_table_close(t);
    bsi_buf want = expected(r, n);
    cr_assert(eq(sz, got.len, want.len));
    cr_assert(memcmp(got.data, want.data, want.len) == 0);
    bsi_buf_free(&got);
    bsi_buf_free(&want);
}

Test(table, rows_come_out_sorted) {
    for (uint64_t seed = 1; seed <= 8; seed++)
        for (int workers = 1; workers <= 3; workers++) {
            check(seed, draw(ROWS_MOST), seed & 1, workers, (uint64_t)64 << 20, 0);   /* one part */
            check(seed, draw(ROWS_MOST), seed & 1, workers, (uint64_t)64 << 20, 400); /* parts, in memory */
            check(seed, draw(ROWS_MOST), seed & 1, workers, 64 << 10, 400);            /* parts, some chunks in the file */
            check(seed, draw(ROWS_MOST), seed & 1, workers, 1, 400);                   /* all of them */
        }
}

Test(table, nothing_is_a_header) { check(1, 0, false, 2, 1 << 20, 0); }

Test(table, without_room_for_the_file_it_says_so) {
    char *name[1] = {(char *)(uintptr_t)"a"};
    uint32_t only = 0;
    bsi_slots slots = {.name = name, .count = 1, .key_count = 1, .partition = -1, .order = &only};
    bsi_table *t = bsi_table_open(&(bsi_table_options){.slots = &slots, .key_count = 1, .workers = 1, .rows = 10, .memory_bytes = 1, .tmp = "/nowhere"});
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bomsync_status st = BOMSYNC_OK;
    for (int i = 0; i < 100000 && !st; i++) st = bsi_table_add(t, 0, &(bsi_field){(const uint8_t *)"abc", 3, false}, &err);
    cr_assert(ne(int, st, BOMSYNC_OK));
    cr_assert(strstr(err.message, "/nowhere") != NULL);
    bsi_table_close(t);
}
