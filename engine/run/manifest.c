/* run/manifest.c - a generation told to machines (manifest.json, --json) and to people.
 *
 *   bsi_generation ──> {"format":1,"store":…,"chunks":[…]}                       manifest.json, for whoever sends chunks
 *                 ──> {"message_type":"generation","generation":7,…}             one line, sync, log, show
 *                 ──> generation 7 of feed "bom" (base 6, 2026-11-24T02:00:00Z)  people
 *                       created    3 …
 *
 * Names and their order are promised: machines read them, so a member is never left out; what is missing is null.
 */
#include "run/manifest.h"

#include <inttypes.h>
#include <stdlib.h>

enum { MANIFEST_FORMAT = 1 };

/* ---- pieces ---- */

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}

static void put_hex(bsi_buf *b, const uint8_t digest[32]) {
    char hex[65];
    bsi_hex(hex, digest, 32);
    bsi_buf_addf(b, "\"%s\"", hex);
}

static void put_digest(bsi_buf *b, const uint8_t digest[32]) {
    if (all_zero(digest, 32)) bsi_buf_str(b, "null");
    else put_hex(b, digest);
}

static void put_text(bsi_buf *b, const char *s) {
    if (s) bsi_json_string(b, s, strlen(s));
    else bsi_buf_str(b, "null");
}

static void put_time(bsi_buf *b, int64_t seconds) {
    char at[21];
    bsi_time_format(at, seconds);
    bsi_buf_addf(b, "\"%s\"", at);
}

/* The names of --json in their order, without braces. */
static void put_totals(bsi_buf *b, const bsi_totals *t) {
    const struct {
        const char *name;
        int64_t value;
    } all[] = {{"created", t->created}, {"updated", t->updated}, {"deleted", t->deleted}, {"unchanged", t->unchanged},
               {"schema_only", t->schema_only}, {"suppressed", t->suppressed}, {"unowned", t->unowned}, {"held", t->held},
               {"deletes_held", t->deletes_held}, {"kept_back", t->kept_back}, {"duplicates", t->duplicates},
               {"filtered", t->filtered}, {"records_in", t->records_in}, {"records", t->records}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        bsi_buf_addf(b, "%s\"%s\":%" PRId64, i ? "," : "", all[i].name, all[i].value);
}

static void put_files(bsi_buf *b, const bsi_generation *g) {
    bsi_buf_byte(b, '[');
    for (size_t i = 0; i < g->file_count; i++) {
        bsi_buf_str(b, i ? ",{\"name\":" : "{\"name\":");
        put_text(b, g->files[i].name);
        bsi_buf_addf(b, ",\"bytes\":%" PRIu64 ",\"records\":%" PRId64 "}", g->files[i].bytes, g->files[i].records);
    }
    bsi_buf_byte(b, ']');
}

static void put_chunk(bsi_buf *b, const bsi_chunk_info *c) {
    char xxh[33];
    bsi_hash128_hex(xxh, c->content_xxh3);
    bsi_buf_str(b, "{\"file\":");
    put_text(b, c->file);
    bsi_buf_addf(b, ",\"rank\":%u,\"partition\":", c->rank);
    put_text(b, c->partition);
    bsi_buf_addf(b, ",\"first_seq\":%" PRIu64 ",\"last_seq\":%" PRIu64 ",\"changes\":{\"c\":%" PRIu64 ",\"u\":%" PRIu64 ",\"d\":%" PRIu64 "}",
                 c->first_seq, c->last_seq, c->c, c->u, c->d);
    bsi_buf_addf(b, ",\"bytes\":%" PRIu64 ",\"content_bytes\":%" PRIu64 ",\"content_xxh3_128\":\"%s\",\"sha256\":", c->bytes,
                 c->content_bytes, xxh);
    put_hex(b, c->sha256);
    bsi_buf_byte(b, '}');
}

static void put_chunks(bsi_buf *b, const bsi_generation *g) {
    bsi_buf_byte(b, '[');
    for (size_t i = 0; i < g->chunk_count; i++) {
        if (i) bsi_buf_byte(b, ',');
        put_chunk(b, &g->chunks[i]);
    }
    bsi_buf_byte(b, ']');
}

static void put_partitions(bsi_buf *b, const bsi_generation *g) {
    bsi_buf_byte(b, '[');
    for (size_t i = 0; i < g->partition_count; i++) {
        const bsi_partition_count *p = &g->partitions[i];
        bsi_buf_str(b, i ? ",{\"partition\":" : "{\"partition\":");
        put_text(b, p->name);
        bsi_buf_addf(b, ",\"records\":%" PRId64 ",\"created\":%" PRId64 ",\"updated\":%" PRId64 ",\"deleted\":%" PRId64 "}", p->records,
                     p->created, p->updated, p->deleted);
    }
    bsi_buf_byte(b, ']');
}

static char *finish(bsi_buf *b) {
    bsi_buf_byte(b, 0);
    return (char *)b->data;
}

/* ---- for machines ---- */

char *bsi_manifest_json(const bsi_generation *g, const char *store_id) {
    bsi_buf b = {0};
    bsi_buf_addf(&b, "{\"format\":%d,\"store\":", MANIFEST_FORMAT);
    put_text(&b, store_id);
    bsi_buf_str(&b, ",\"feed\":");
    put_text(&b, g->feed);
    bsi_buf_str(&b, ",\"contract\":");
    put_digest(&b, g->contract_digest);
    bsi_buf_str(&b, ",\"effective_time\":");
    put_time(&b, g->effective_time);
    bsi_buf_addf(&b, ",\"base\":%" PRId64 ",\"base_digest\":", g->base);
    put_hex(&b, g->base_digest); /* of generation 0: 64 zeros */
    bsi_buf_addf(&b, ",\"generation\":%" PRId64 ",\"digest\":", g->number);
    put_digest(&b, g->digest);
    bsi_buf_str(&b, ",\"snapshot_digest\":");
    put_digest(&b, g->snapshot_digest);
    bsi_buf_str(&b, ",\"files\":");
    put_files(&b, g);
    bsi_buf_str(&b, ",\"totals\":{");
    put_totals(&b, &g->totals);
    bsi_buf_str(&b, "},\"chunks\":");
    put_chunks(&b, g);
    bsi_buf_str(&b, "}\n");
    return finish(&b);
}

static void put_generation(bsi_buf *b, const bsi_generation *g, bool at) {
    bsi_buf_str(b, "{\"message_type\":\"generation\",\"generation\":");
    if (g->number) bsi_buf_addf(b, "%" PRId64, g->number);
    else bsi_buf_str(b, "null");
    bsi_buf_addf(b, ",\"base\":%" PRId64 ",\"feed\":", g->base);
    put_text(b, g->feed);
    bsi_buf_byte(b, ',');
    put_totals(b, &g->totals);
    bsi_buf_str(b, ",\"digest\":");
    if (g->number) put_digest(b, g->digest);
    else bsi_buf_str(b, "null");
    bsi_buf_str(b, ",\"snapshot_digest\":");
    put_digest(b, g->snapshot_digest);
    bsi_buf_str(b, ",\"hold_digests\":[");
    for (size_t i = 0; i < g->hold_count; i++) {
        if (i) bsi_buf_byte(b, ',');
        put_text(b, g->hold_digests[i]);
    }
    bsi_buf_str(b, "],\"contract\":");
    put_digest(b, g->contract_digest);
    if (at) {
        bsi_buf_str(b, ",\"at\":");
        put_time(b, g->effective_time);
    }
    bsi_buf_addf(b, ",\"exit\":%d", g->exit_code);
}

char *bsi_generation_json(const bsi_generation *g, bool show) {
    bsi_buf b = {0};
    put_generation(&b, g, true);
    if (show) {
        bsi_buf_str(&b, ",\"partitions\":");
        put_partitions(&b, g);
        bsi_buf_str(&b, ",\"chunks\":");
        put_chunks(&b, g);
        bsi_buf_str(&b, ",\"files\":");
        put_files(&b, g);
    }
    bsi_buf_byte(&b, '}');
    return finish(&b);
}

char *bsi_generation_journal(const bsi_generation *g) {
    bsi_buf b = {0};
    put_generation(&b, g, false);
    bsi_buf_byte(&b, '}');
    return finish(&b);
}

/* ---- for people ---- */

/* Names come from files and sources: a control in one must not steer the terminal. */
static void put_plain(bsi_buf *b, const char *s) {
    for (; s && *s; s++) {
        uint8_t c = (uint8_t)*s;
        if (c < 0x20 || c == 0x7f) bsi_buf_addf(b, "\\x%02x", c);
        else bsi_buf_byte(b, c);
    }
}

static void put_head(bsi_buf *b, const bsi_generation *g) {
    char at[21];
    bsi_time_format(at, g->effective_time);
    if (g->number) bsi_buf_addf(b, "generation %" PRId64 " of feed \"", g->number);
    else bsi_buf_str(b, "no new generation of feed \"");
    put_plain(b, g->feed);
    bsi_buf_addf(b, "\" (base %" PRId64 ", %s", g->base, at);
    if (g->kind && strcmp(g->kind, "sync") != 0) bsi_buf_addf(b, ", %s", g->kind);
    bsi_buf_str(b, ")\n");
}

/* The figures that are always of interest, and the others if there is something to tell. */
static void put_figures(bsi_buf *b, const bsi_totals *t) {
    const struct {
        const char *name;
        int64_t value;
        bool always;
    } all[] = {{"created", t->created, true}, {"updated", t->updated, true}, {"deleted", t->deleted, true},
               {"unchanged", t->unchanged, true}, {"schema only", t->schema_only, false}, {"suppressed", t->suppressed, false},
               {"unowned", t->unowned, false}, {"held", t->held, false}, {"deletes held", t->deletes_held, false},
               {"kept back", t->kept_back, false}, {"duplicates", t->duplicates, false}, {"filtered", t->filtered, false},
               {"records read", t->records_in, true}, {"records now", t->records, true}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].always || all[i].value) bsi_buf_addf(b, "  %-13s %12" PRId64 "\n", all[i].name, all[i].value);
}

static void put_details(bsi_buf *b, const bsi_generation *g) {
    if (g->partition_count) bsi_buf_str(b, "     records    created    updated    deleted  partition\n");
    for (size_t i = 0; i < g->partition_count; i++) {
        const bsi_partition_count *p = &g->partitions[i];
        bsi_buf_addf(b, "%12" PRId64 " %10" PRId64 " %10" PRId64 " %10" PRId64 "  ", p->records, p->created, p->updated, p->deleted);
        put_plain(b, p->name);
        bsi_buf_byte(b, '\n');
    }
    if (g->chunk_count) bsi_buf_str(b, "       bytes    created    updated    deleted  chunk\n");
    for (size_t i = 0; i < g->chunk_count; i++) {
        const bsi_chunk_info *c = &g->chunks[i];
        bsi_buf_addf(b, "%12" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 "  %s\n", c->bytes, c->c, c->u, c->d, c->file);
    }
    if (g->file_count) bsi_buf_str(b, "       bytes    records  file\n");
    for (size_t i = 0; i < g->file_count; i++) {
        bsi_buf_addf(b, "%12" PRIu64 " %10" PRId64 "  ", g->files[i].bytes, g->files[i].records);
        put_plain(b, g->files[i].name);
        bsi_buf_byte(b, '\n');
    }
}

char *bsi_generation_text(const bsi_generation *g, bool show) {
    bsi_buf b = {0};
    put_head(&b, g);
    put_figures(&b, &g->totals);
    if (g->number && !all_zero(g->digest, 32)) {
        char hex[65];
        bsi_hex(hex, g->digest, 32);
        bsi_buf_addf(&b, "  digest        %s\n", hex);
    }
    for (size_t i = 0; i < g->hold_count; i++) {
        bsi_buf_str(&b, "  hold          ");
        put_plain(&b, g->hold_digests[i]);
        bsi_buf_byte(&b, '\n');
    }
    if (show) put_details(&b, g);
    return finish(&b);
}
