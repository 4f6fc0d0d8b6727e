/* Headers, layouts and row images. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "core/limits.h"
#include "flow/rows.h"

#define LIST(...) (const char *const[]){__VA_ARGS__}

static const bsi_dialect csv = {',', '"', false};

static bomsync_status open_layout(bsi_layout **l, bsi_slots *s, const char *const *header, uint32_t columns, const char *ignore,
                                  bomsync_error *err) {
    *err = (bomsync_error)BOMSYNC_ERROR_INIT;
    return bsi_layout_open(l, s, &csv, header, columns, LIST("plant", "id"), 2, "plant", &ignore, ignore ? 1 : 0, NULL, 0, err);
}

Test(parse_layout, key_columns_come_first_and_order_is_the_headers) {
    bsi_slots s = {.partition = -1};
    bsi_layout *l;
    bomsync_error err;
    cr_assert(zero(int, (int)open_layout(&l, &s, LIST("qty", "id", "at", "plant", "note"), 5, "at", &err)));
    cr_assert(eq(u32, s.count, 4));
    cr_assert(eq(u32, s.key_count, 2));
    cr_assert(eq(int, s.partition, 0));
    cr_assert(eq(str, s.name[0], "plant"));
    cr_assert(eq(str, s.name[2], "qty"));
    cr_assert(eq(str, s.name[3], "note"));
    uint32_t order[] = {2, 1, 0, 3};
    cr_assert(memcmp(s.order, order, sizeof order) == 0);
    int32_t slot_of[] = {2, 1, -1, 0, 3};
    cr_assert(memcmp(l->slot_of, slot_of, sizeof slot_of) == 0);
    bsi_layout *again;
    cr_assert(zero(int, (int)open_layout(&again, &s, LIST("new", "plant", "id", "qty"), 4, "at", &err)));
    cr_assert(eq(u32, s.count, 5));
    cr_assert(eq(u32, s.order[4], 4));
    cr_assert(all(eq(u32, again->absent_count, 1), eq(u32, again->absent[0], 3), eq(u32, l->absent_count, 0)));
    uint8_t before[32];
    memcpy(before, l->digest, 32);
    bsi_layout_widen(l, &s);
    cr_assert(all(eq(u32, l->absent_count, 1), eq(u32, l->absent[0], 4)));
    bsi_layout_close(again);
    cr_assert(zero(int, (int)open_layout(&again, &s, LIST("qty", "id", "at", "plant", "note"), 5, "at", &err)));
    cr_assert(memcmp(before, again->digest, 32) == 0);
    bsi_layout_close(again);
    cr_assert(zero(int, (int)open_layout(&again, &s, LIST("qty", "id", "AT", "plant", "note"), 5, "AT", &err)));
    cr_assert(memcmp(before, again->digest, 32) == 0, "the name of an ignored column does not count");
    bsi_layout_close(again);
    cr_assert(zero(int, (int)open_layout(&again, &s, LIST("qty", "at", "id", "plant", "note"), 5, "at", &err)));
    cr_assert(memcmp(before, again->digest, 32) != 0);
    bsi_layout_close(again);
    bsi_layout_close(l);
    bsi_slots_free(&s);
}

Test(parse_layout, wrong_headers_are_refused_and_leave_the_feed_alone) {
    bsi_slots s = {.partition = -1};
    bsi_layout *l = NULL;
    bomsync_error err;
    cr_assert(eq(int, (int)open_layout(&l, &s, LIST("id", "plant", "id"), 3, NULL, &err), BOMSYNC_E_REFUSED));
    cr_assert(eq(int, (int)open_layout(&l, &s, LIST("id", "Plant", "qty"), 3, NULL, &err), BOMSYNC_E_REFUSED));
    cr_assert(eq(str, (char *)err.message, "key column \"plant\" is not in the header"));
    cr_assert(eq(str, (char *)err.hint, "the header has \"Plant\", \"id\", \"qty\""));
    cr_assert(eq(int, (int)open_layout(&l, &s, LIST("id", "plant", "", ""), 4, NULL, &err), BOMSYNC_E_REFUSED));
    cr_assert(eq(int, (int)open_layout(&l, &s, LIST("id", "plant"), 2, "plant", &err), BOMSYNC_E_USAGE));
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, (int)bsi_layout_open(&l, &s, &csv, LIST("id", "x"), 2, LIST("id"), 1, "x", NULL, 0, NULL, 0, &err), BOMSYNC_E_USAGE));
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    cr_assert(eq(int, (int)bsi_layout_open(&l, &s, &csv, LIST("id", "x"), 2, LIST("id", "id"), 2, NULL, NULL, 0, NULL, 0, &err),
                 BOMSYNC_E_USAGE));
    cr_assert(l == NULL && s.count == 0 && s.name == NULL);
}

static bomsync_status header(const char *text, size_t n, bool at_end, char ***names, uint32_t *count, size_t *bytes) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    *names = NULL;
    *count = 99;
    return bsi_parse_header(names, count, bytes, &csv, (const uint8_t *)text, n, at_end, &err);
}

static void drop(char **names, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) free(names[i]);
    free(names);
}

Test(parse_layout, header_is_read_with_quotes_blank_lines_and_any_line_end) {
    char **names;
    uint32_t count;
    size_t bytes;
    cr_assert(zero(int, (int)header("\r\n\na,\"b \"\"x\"\"\n\",,c\"d\r\n1,2", 26, true, &names, &count, &bytes)));
    cr_assert(all(eq(u32, count, 4), eq(sz, bytes, 22)));
    cr_assert(eq(str, names[1], "b \"x\"\n"));
    cr_assert(eq(str, names[2], ""));
    cr_assert(eq(str, names[3], "c\"d"));
    drop(names, count);
    cr_assert(zero(int, (int)header("a,b", 3, true, &names, &count, &bytes)));
    cr_assert(all(eq(u32, count, 2), eq(sz, bytes, 3)));
    drop(names, count);
    cr_assert(zero(int, (int)header("a\rb", 3, false, &names, &count, &bytes)));
    cr_assert(all(eq(u32, count, 1), eq(sz, bytes, 2)));
    drop(names, count);
    cr_assert(zero(int, (int)header("\n\n", 2, true, &names, &count, &bytes)));
    cr_assert(all(eq(u32, count, 0), eq(sz, bytes, 2)));
    cr_assert(zero(int, (int)header("", 0, true, &names, &count, &bytes)));
    cr_assert(eq(u32, count, 0));
}

Test(parse_layout, header_that_is_cut_or_wrong_is_refused) {
    char **names;
    uint32_t count;
    size_t bytes;
    cr_assert(eq(int, (int)header("a,b", 3, false, &names, &count, &bytes), BOMSYNC_E_REFUSED));
    cr_assert(eq(int, (int)header("a,b\r", 4, false, &names, &count, &bytes), BOMSYNC_E_REFUSED));
    cr_assert(eq(int, (int)header("a,\"b\n", 5, true, &names, &count, &bytes), BOMSYNC_E_REFUSED));
    cr_assert(eq(int, (int)header("a,\xff\n", 4, true, &names, &count, &bytes), BOMSYNC_E_REFUSED));
    cr_assert(eq(int, (int)header("a,\0\n", 4, true, &names, &count, &bytes), BOMSYNC_E_REFUSED));
    char *wide = malloc(100001);
    memset(wide, ',', 100000);
    wide[100000] = '\n';
    cr_assert(eq(int, (int)header(wide, 100001, true, &names, &count, &bytes), BOMSYNC_E_REFUSED));
    cr_assert(names == NULL && count == 99);
    free(wide);
}

Test(parse_layout, image_gives_back_its_fields) {
    const bsi_field in[] = {{(const uint8_t *)"A", 1, false}, {NULL, 0, false}, {NULL, 0, true}, {(const uint8_t *)"7", 1, false}, {NULL, 0, true}};
    bsi_buf b = {0};
    uint32_t key, body = bsi_image_build(&b, in, 5, 1, &key);
    cr_assert(all(eq(u32, key, 2), eq(u32, body, 6), eq(sz, b.len, 9)));
    cr_assert(memcmp(b.data, "\1A\0\0\1"
                             "7\2\2\4",
                     9) == 0);
    bsi_field out[6];
    cr_assert(bsi_image_fields(out, 6, b.data, body, (uint32_t)b.len, 5));
    for (int i = 0; i < 5; i++) cr_assert(out[i].len == in[i].len && out[i].null == in[i].null);
    cr_assert(out[5].null && out[5].len == 0, "a slot younger than the image is absent");
    for (uint32_t cut = 0; cut < b.len; cut++) cr_assert(not(bsi_image_fields(out, 6, b.data, BSI_MIN(body, cut), cut, 5)));
    bsi_buf_free(&b);
    bsi_field empty[] = {{NULL, 0, false}, {NULL, 0, false}};
    body = bsi_image_build(&b, empty, 2, 1, &key);
    cr_assert(all(eq(u32, key, 1), eq(u32, body, 1), eq(sz, b.len, 2)));
    cr_assert(bsi_image_fields(out, 2, b.data, body, 2, 2));
    bsi_buf_free(&b);
}

Test(parse_layout, random_bytes_are_no_image_or_a_sound_one) {
    uint64_t seed = 1;
    for (int round = 0; round < 200000; round++) {
        uint8_t p[24];
        bsi_field out[8];
        for (size_t i = 0; i < sizeof p; i++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            p[i] = (uint8_t)((seed >> 60) % 4 ? seed >> 33 & 7 : seed >> 33);
        }
        uint32_t n = (uint32_t)(seed >> 40) % 24, body = (uint32_t)(seed >> 50) % 24;
        if (!bsi_image_fields(out, 8, p, body, n, 6)) continue;
        for (int i = 0; i < 8; i++) cr_assert(out[i].len == 0 || (out[i].p >= p && out[i].p + out[i].len <= p + body));
    }
}
