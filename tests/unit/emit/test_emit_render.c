/* A change to its line: every byte is promised. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "flow/change.h"

#define F(s) {(const uint8_t *)(s), sizeof(s) - 1, false}
#define NONE {NULL, 0, true}

static char *names[] = {"parent", "plant", "component", "qty", "note"};
static uint32_t order[] = {2, 0, 4, 1, 3}; /* header: component,parent,note,plant,qty */
static bsi_slots slots = {.name = names, .count = 5, .key_count = 2, .partition = 1, .order = order};

static char *render(char op, const bsi_field *before, const bsi_field *after, const bsi_change_head *head) {
    bsi_buf b = {0};
    bsi_change c = {.op = op, .seq = 12, .slots = &slots, .before = before, .after = after};
    bsi_change_render(&b, &c, head);
    bsi_buf_byte(&b, 0);
    return (char *)b.data;
}

#define EXPECT(line, ...)                     \
    do {                                      \
        char *got = render(__VA_ARGS__);      \
        cr_assert(eq(str, got, (char *)line)); \
        free(got);                            \
    } while (0)

Test(emit_render, create_tells_all_attributes_in_header_order) {
    bsi_field f[] = {F("ASM-1"), F("1000"), F("CMP-7"), F("2.5"), F("")};
    EXPECT("{\"op\":\"c\",\"key\":{\"parent\":\"ASM-1\",\"plant\":\"1000\"},\"after\":{\"component\":\"CMP-7\",\"note\":\"\",\"qty\":\"2.5\"}}\n", 'c',
           NULL, f, NULL);
}

Test(emit_render, null_is_null_and_empty_is_a_string) {
    bsi_field f[] = {F("A"), NONE, NONE, F(""), NONE};
    EXPECT("{\"op\":\"d\",\"key\":{\"parent\":\"A\",\"plant\":\"\"},\"before\":{\"component\":null,\"note\":null,\"qty\":\"\"}}\n", 'd', f, NULL, NULL);
}

Test(emit_render, update_tells_only_what_differs) {
    bsi_field was[] = {F("A"), F("1"), F("C"), F("2"), NONE}, now[] = {F("A"), F("1"), F("C"), F("3"), F("")};
    EXPECT("{\"op\":\"u\",\"key\":{\"parent\":\"A\",\"plant\":\"1\"},\"before\":{\"qty\":\"2\"},\"after\":{\"qty\":\"3\"}}\n", 'u', was, now, NULL);
    now[4] = (bsi_field)F("x");
    EXPECT("{\"op\":\"u\",\"key\":{\"parent\":\"A\",\"plant\":\"1\"},\"before\":{\"note\":null,\"qty\":\"2\"},\"after\":{\"note\":\"x\",\"qty\":\"3\"}}\n", 'u',
           was, now, NULL);
}

Test(emit_render, head_puts_seq_and_id_first_and_the_partition_behind_op) {
    bsi_field f[] = {F("A"), F("1000"), F("C"), F("2"), F("n")};
    bsi_change_head head = {.entity = "bom_line", .id_prefix = "0123456789abcdef", .generation = -1};
    EXPECT("{\"seq\":12,\"id\":\"0123456789abcdef-12\",\"op\":\"c\",\"entity\":\"bom_line\",\"partition\":\"1000\",\"key\":{\"parent\":\"A\",\"plant\":"
           "\"1000\"},\"after\":{\"component\":\"C\",\"note\":\"n\",\"qty\":\"2\"}}\n",
           'c', NULL, f, &head);
    head.id_prefix = NULL;
    EXPECT("{\"op\":\"d\",\"entity\":\"bom_line\",\"partition\":\"1000\",\"key\":{\"parent\":\"A\",\"plant\":\"1000\"},\"before\":{\"component\":\"C\","
           "\"note\":\"n\",\"qty\":\"2\"}}\n",
           'd', f, NULL, &head);
    head.generation = 7;
    f[1] = (bsi_field)F("");
    EXPECT("{\"generation\":7,\"op\":\"d\",\"entity\":\"bom_line\",\"partition\":\"_\",\"key\":{\"parent\":\"A\",\"plant\":\"\"},\"before\":{"
           "\"component\":\"C\",\"note\":\"n\",\"qty\":\"2\"}}\n",
           'd', f, NULL, &head);
}

Test(emit_render, escapes_are_the_short_ones_or_u00xx) {
    bsi_field f[] = {F("\"\\\b\f\n\r\t"), F("\x01\x1f\x7f/"), F("12\" monitor"), F("gr\xc3\xbc\xc3\x9f"), F("=1+1")};
    EXPECT("{\"op\":\"c\",\"key\":{\"parent\":\"\\\"\\\\\\b\\f\\n\\r\\t\",\"plant\":\"\\u0001\\u001f\x7f/\"},\"after\":{\"component\":\"12\\\" monitor\","
           "\"note\":\"=1+1\",\"qty\":\"gr\xc3\xbc\xc3\x9f\"}}\n",
           'c', NULL, f, NULL);
}

/* Each length and each place of a byte that must be escaped, and of those that look like it: what is copied by eights
 * must be what is copied one by one. */
Test(emit_render, every_byte_at_every_place_as_the_plain_way_says) {
    char *one[] = {"k"};
    uint32_t first[] = {0};
    bsi_slots s = {.name = one, .count = 1, .key_count = 1, .partition = -1, .order = first};
    for (size_t n = 0; n <= 35; n++)
        for (size_t at = 0; at < (n ? n : 1); at++)
            for (unsigned byte = 0; byte < 256; byte++) {
                uint8_t text[35];
                memset(text, 'a' + (int)n, sizeof text);
                if (n) text[at] = (uint8_t)byte;
                uint8_t *exact = malloc(n ? n : 1); /* no byte behind it may be read */
                memcpy(exact, text, n);
                bsi_field f = {exact, (uint32_t)n, false};
                bsi_change c = {.op = 'c', .slots = &s, .after = &f};
                bsi_buf got = {0}, want = {0};
                bsi_change_render(&got, &c, NULL);
                bsi_buf_str(&want, "{\"op\":\"c\",\"key\":{\"k\":");
                bsi_json_string(&want, exact, n);
                bsi_buf_str(&want, "},\"after\":{}}\n");
                if (got.len != want.len || memcmp(got.data, want.data, got.len)) cr_fatal("length %zu, byte %u at %zu", n, byte, at);
                bsi_buf_free(&got);
                bsi_buf_free(&want);
                free(exact);
            }
}
