/* bench_parse: how fast do blocks become rows with both hashes? Prints GB/s of one core.
 *
 *   bench_parse [megabytes]
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench_data.h"
#include "flow/block.h"
#include "flow/rows.h"

static bsi_layout *layout(bsi_slots *slots, bool key_last, const char *null_text) {
    const bsi_dialect d = {',', '"', true};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    char **names;
    uint32_t count;
    size_t bytes;
    bsi_layout *l = NULL;
    bsi_parse_header(&names, &count, &bytes, &d, (const uint8_t *)BENCH_HEADER "\n", strlen(BENCH_HEADER) + 1, true, &err);
    const char *front[] = {"plant", "parent", "line"}, *back[] = {"valid_from", "component", "parent"};
    *slots = (bsi_slots){.partition = -1};
    bsi_layout_open(&l, slots, &d, (const char *const *)names, count, key_last ? back : front, 3, NULL, NULL, 0, &null_text,
                    null_text ? 1 : 0, &err);
    for (uint32_t i = 0; i < count; i++) free(names[i]);
    free(names);
    return l;
}

static double run(uint64_t *sum, const bsi_layout *l, const uint8_t *p, const uint32_t *bytes, size_t blocks, bool keys_only) {
    bsi_secret secret;
    for (size_t i = 0; i < sizeof secret; i++) secret.bytes[i] = (uint8_t)(i * 37 + 11);
    bsi_rows w = {0};
    double best = 1e9;
    for (int round = 0; round < 5; round++) {
        *sum = 0;
        const uint8_t *at = p;
        int64_t start = bsi_now_ns();
        for (size_t i = 0; i < blocks; at += bytes[i++]) {
            bsi_parse_block(&w, l, &secret, at, bytes[i], keys_only);
            for (uint32_t k = 0; k < w.count; k++) *sum += w.kh[k] ^ w.rh[k] << 1;
        }
        double s = (double)(bsi_now_ns() - start) / 1e9;
        if (s < best) best = s;
    }
    bsi_rows_free(&w);
    return best;
}

int main(int argc, char **argv) {
    size_t n = (argc > 1 ? strtoul(argv[1], NULL, 10) : 64) << 20;
    uint8_t *p = malloc(n + 4096);
    uint32_t *bytes = malloc((n / 40 + 1) * sizeof *bytes);
    for (int kind = 0; kind < BENCH_KINDS; kind++) {
        size_t have = bench_make(p, n, kind), blocks = 0;
        bsi_cut_options o = {{',', '"', true}, bsi_block_size_of(0), BSI_ISA_SCALAR};
        uint64_t records = 0;
        bsi_cut c;
        for (size_t at = 0; at < have && bsi_cut_block(&c, &o, p + at, have - at, true) == 1; at += c.bytes, records += c.records)
            bytes[blocks++] = (uint32_t)c.bytes;
        static const char *const how[] = {"key first", "key last", "keys only", "with nulls"};
        for (int variant = 0; variant < (kind ? 1 : 4); variant++) {
            bsi_slots slots;
            bsi_layout *l = layout(&slots, variant == 1, variant == 3 ? "NULL" : NULL);
            uint64_t sum;
            double best = run(&sum, l, p, bytes, blocks, variant == 2);
            printf("%-16s %-10s %6.2f GB/s  %6.1f ns/record  sum %016llx\n", bench_kind[kind], how[variant], (double)have / best / 1e9,
                   best * 1e9 / (double)records, (unsigned long long)sum);
            bsi_layout_close(l);
            bsi_slots_free(&slots);
        }
    }
    free(bytes);
    free(p);
    return 0;
}
