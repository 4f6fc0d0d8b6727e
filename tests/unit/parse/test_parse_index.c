/* test_parse_index.c - every variant of the index gives the same, whatever the bytes. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "parse/parse_inner.h"

enum { BYTES_MAX = 400, ROOM = 1024, ROUNDS = 20000 };

static uint64_t seed = 42;
static uint32_t draw(uint32_t n) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % n;
}

static void give_room(bsi_parse_index *ix) {
    *ix = (bsi_parse_index){.cap = ROOM};
    ix->pos = malloc(ROOM * sizeof *ix->pos);
    ix->end = malloc(ROOM * sizeof *ix->end);
    ix->odd = malloc(ROOM * sizeof *ix->odd);
    ix->quote = malloc(ROOM * sizeof *ix->quote);
    ix->high_at = malloc(ROOM * sizeof *ix->high_at);
}

static void same(const bsi_parse_index *a, const bsi_parse_index *b, const char *name) {
    cr_assert(a->pos_count == b->pos_count && !memcmp(a->pos, b->pos, a->pos_count * 4), "%s: ends of fields", name);
    cr_assert(a->end_count == b->end_count && !memcmp(a->end, b->end, a->end_count * 4), "%s: ends of records", name);
    cr_assert(a->odd_count == b->odd_count && !memcmp(a->odd, b->odd, a->odd_count * 4), "%s: odd bytes", name);
    cr_assert(a->quote_count == b->quote_count && !memcmp(a->quote, b->quote, a->quote_count * 4), "%s: quotes", name);
    cr_assert(a->high_count == b->high_count && !memcmp(a->high_at, b->high_at, a->high_count * 4), "%s: chunks with high bytes", name);
    cr_assert(a->quotes == b->quotes && a->cr == b->cr && a->nul == b->nul && a->high == b->high && a->open == b->open, "%s: flags", name);
}

Test(parse_index, utf8_of_the_chunks_that_need_it_is_utf8_of_all) {
    static const char *const piece[] = {"a", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x94\xa9", "\xc3", "\xa0", "\xed\xa0\x80", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
    bsi_parse_index ix;
    give_room(&ix);
    uint8_t bytes[BYTES_MAX + 128];
    bsi_dialect d = {',', '"', false};
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = 0, most = draw(BYTES_MAX);
        uint32_t kinds = draw(2) ? 4 : 8;
        while (n < most) {
            const char *s = piece[draw(kinds)];
            memcpy(bytes + n, s, strlen(s));
            n += strlen(s);
        }
        if (kinds == 4 && draw(2)) n -= n > 2 ? draw(3) : 0; /* cut inside a character */
        memset(bytes + n, 0xbf, 64); /* what stands behind must not count */
        bsi_parse_index_scalar(&ix, &d, bytes, n);
        cr_assert(eq(int, bsi_parse_utf8_chunks(bytes, n, ix.high_at, ix.high_count), bsi_parse_utf8(bytes, n) == n));
    }
    bsi_parse_index_free(&ix);
}

#if defined(__x86_64__)
typedef void index_fn(bsi_parse_index *, const bsi_dialect *, const uint8_t *, size_t);

static bool runs(const char *name) {
    __builtin_cpu_init();
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("pclmul");
    bool wide = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("pclmul");
    return wide && (!strcmp(name, "avx512") || __builtin_cpu_supports("avx512vbmi2"));
}

Test(parse_index, all_variants_agree_on_random_bytes) {
    static const struct {
        const char *name;
        index_fn *run;
    } variant[] = {{"avx2", bsi_parse_index_avx2}, {"avx512", bsi_parse_index_avx512}, {"vbmi2", bsi_parse_index_vbmi2}};
    static const char alphabet[] = ",,,;\"\"\n\r\tabc\0\xc3";
    bsi_parse_index want, got;
    give_room(&want);
    give_room(&got);
    uint8_t bytes[BYTES_MAX + 64];
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = draw(BYTES_MAX + 1);
        uint32_t plain = draw(4); /* the rest are letters: from crowded to sparse */
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = draw(4) < plain ? 'x' : (uint8_t)alphabet[draw(sizeof alphabet - 1)];
        bsi_dialect d = {draw(2) ? ',' : ';', draw(5) ? '"' : 0, draw(2)};
        bsi_parse_index_scalar(&want, &d, bytes, n);
        for (size_t v = 0; v < sizeof variant / sizeof *variant; v++) {
            if (!runs(variant[v].name)) continue;
            variant[v].run(&got, &d, bytes, n);
            same(&want, &got, variant[v].name);
        }
    }
    bsi_parse_index_free(&want);
    bsi_parse_index_free(&got);
}
#endif
