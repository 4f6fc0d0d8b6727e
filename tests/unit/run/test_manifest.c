/* A generation as JSON: names and their order are promised, what is missing is null. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "run/manifest.h"

static bsi_totals totals = {.created = 1, .updated = 2, .deleted = 3, .unchanged = 4, .records_in = 7, .records = 5};
#define TOTALS                                                                                                              \
    "\"created\":1,\"updated\":2,\"deleted\":3,\"unchanged\":4,\"schema_only\":0,\"suppressed\":0,\"unowned\":0,\"held\":0," \
    "\"deletes_held\":0,\"kept_back\":0,\"duplicates\":0,\"filtered\":0,\"records_in\":7,\"records\":5"
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define ABS "abababababababababababababababababababababababababababababababab"

static bsi_chunk_info chunk = {.file = (char *)"_/00-000001.ndjson.zst", .partition = (char *)"_", .first_seq = 1, .last_seq = 6, .c = 1, .u = 2,
                               .d = 3, .bytes = 90, .content_bytes = 400, .content_xxh3 = {.lo = 2, .hi = 1}};
#define CHUNKS                                                                                                              \
    "[{\"file\":\"_/00-000001.ndjson.zst\",\"rank\":0,\"partition\":\"_\",\"first_seq\":1,\"last_seq\":6,\"changes\":{\"c\":1,\"u\":2," \
    "\"d\":3},\"bytes\":90,\"content_bytes\":400,\"content_xxh3_128\":\"00000000000000010000000000000002\",\"sha256\":\"" ABS "\"}]"
static bsi_file_info snapshot = {.name = (char *)"a\"b.csv", .bytes = 77, .records = 7};
#define FILES "[{\"name\":\"a\\\"b.csv\",\"bytes\":77,\"records\":7}]"
static bsi_partition_count partition = {.name = (char *)"1000", .records = 5, .created = 1, .updated = 2, .deleted = 3};

static bsi_generation some(void) {
    memset(chunk.sha256, 0xab, 32);
    bsi_generation g = {.number = 1, .feed = (char *)"bom", .kind = (char *)"sync", .totals = totals, .effective_time = 1795485600,
                        .files = &snapshot, .file_count = 1, .chunks = &chunk, .chunk_count = 1, .partitions = &partition, .partition_count = 1};
    memset(g.digest, 0xab, 32);
    return g;
}

Test(manifest, all_names_in_order) {
    bsi_generation g = some();
    char *got = bsi_manifest_json(&g, "0123");
    cr_assert(eq(str, got,
                 "{\"format\":1,\"store\":\"0123\",\"feed\":\"bom\",\"contract\":null,\"effective_time\":\"2026-11-24T02:00:00Z\",\"base\":0,"
                 "\"base_digest\":\"" ZEROS "\",\"generation\":1,\"digest\":\"" ABS "\",\"snapshot_digest\":null,\"files\":" FILES
                 ",\"totals\":{" TOTALS "},\"chunks\":" CHUNKS "}\n"));
    free(got);
}

#define GENERATION(number, digest)                                                                                        \
    "{\"message_type\":\"generation\",\"generation\":" number ",\"base\":0,\"feed\":\"bom\"," TOTALS ",\"digest\":" digest \
    ",\"snapshot_digest\":null,\"hold_digests\":[],\"contract\":null,\"at\":\"2026-11-24T02:00:00Z\",\"exit\":0"

Test(manifest, generation_of_json_and_show) {
    bsi_generation g = some();
    char *got = bsi_generation_json(&g, false);
    cr_assert(eq(str, got, GENERATION("1", "\"" ABS "\"") "}"));
    free(got);
    got = bsi_generation_json(&g, true);
    cr_assert(eq(str, got,
                 GENERATION("1", "\"" ABS "\"") ",\"partitions\":[{\"partition\":\"1000\",\"records\":5,\"created\":1,\"updated\":2,\"deleted\":3}],"
                                                "\"chunks\":" CHUNKS ",\"files\":" FILES "}"));
    free(got);
}

Test(manifest, no_generation_made_is_null) {
    bsi_generation g = some();
    char *holds[] = {(char *)"aa", (char *)"bb"};
    g.number = 0;
    char *got = bsi_generation_json(&g, false);
    cr_assert(eq(str, got, GENERATION("null", "null") "}"));
    free(got);
    g.hold_digests = holds;
    g.hold_count = 2;
    got = bsi_generation_json(&g, false);
    cr_assert(ne(ptr, strstr(got, "\"hold_digests\":[\"aa\",\"bb\"]"), NULL));
    free(got);
}

Test(manifest, journal_entry_leaves_time_to_its_line) {
    bsi_generation g = some();
    char *got = bsi_generation_journal(&g);
    cr_assert(eq(ptr, strstr(got, "\"at\":"), NULL));
    cr_assert(ne(ptr, strstr(got, "\"contract\":null,\"exit\":0}"), NULL));
    free(got);
}

Test(manifest, text_has_no_controls_of_others) {
    bsi_generation g = some();
    g.feed = (char *)"b\x1b[2J";
    char *got = bsi_generation_text(&g, true);
    cr_assert(zero(ptr, strchr(got, 0x1b)));
    cr_assert(ne(ptr, strstr(got, "b\\x1b[2J"), NULL));
    cr_assert(ne(ptr, strstr(got, "  created                  1\n"), NULL));
    free(got);
}
