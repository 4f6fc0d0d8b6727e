/* A partition's text to its folder: no name leaves the folder, hides, or is that of another. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "flow/change.h"

static void expect(const char *text, const char *want) {
    char *got = bsi_partition_folder(text, strlen(text));
    cr_assert(eq(str, got, (char *)want));
    free(got);
}

Test(emit_folder, safe_names_stay_others_are_escaped) {
    expect("1000", "1000");
    expect("DE_01.a-b", "DE_01.a-b");
    expect("", "_");
    expect("_", "%5F");
    expect("__", "__");
    expect(".", "%2E");
    expect("..", "%2E.");
    expect("-rf", "%2Drf");
    expect("../../etc/x", "%2E.%2F..%2Fetc%2Fx");
    expect("/abs", "%2Fabs");
    expect("a b%~", "a%20b%25%7E");
    expect("W\xc3\xbcrth", "W%C3%BCrth");
    expect("a\nb", "a%0Ab");
}

Test(emit_folder, long_names_end_in_their_hash) {
    char text[301], want[120 + 1];
    memset(text, 'p', 300);
    text[300] = 0;
    snprintf(want, sizeof want, "%.80s~%016llx", text, (unsigned long long)bsi_xxh64(text, 300));
    expect(text, want);
    text[120] = 0;
    expect(text, text); /* 120 bytes are not above 120 */
    text[120] = 'p';
    text[121] = 0;
    snprintf(want, sizeof want, "%.80s~%016llx", text, (unsigned long long)bsi_xxh64(text, 121));
    expect(text, want);
    char *one = bsi_partition_folder(text, 121);
    text[120] = 'q';
    char *other = bsi_partition_folder(text, 121);
    cr_assert(ne(str, one, other));
    free(one);
    free(other);
}

Test(emit_folder, escapes_count_into_the_length) {
    char text[42]; /* 41 times %2F: 123 */
    memset(text, '/', 41);
    text[41] = 0;
    char *got = bsi_partition_folder(text, 41);
    cr_assert(eq(sz, strlen(got), 80 + 1 + 16));
    cr_assert(eq(chr, got[80], '~'));
    free(got);
}
