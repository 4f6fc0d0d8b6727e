/* bench_cut: how fast are blocks found? Prints GB/s of one core for each instruction set and kind of record.
 *
 *   bench_cut [megabytes]
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench_data.h"
#include "flow/block.h"

static uint64_t run(const bsi_cut_options *o, const uint8_t *p, size_t n, uint64_t *blocks, uint64_t *records) {
    uint64_t sum = 0;
    bsi_cut c;
    *blocks = *records = 0;
    for (size_t at = 0; at < n; at += c.bytes) {
        if (bsi_cut_block(&c, o, p + at, n - at, true) != 1 || !c.bytes) break;
        sum = sum * 31 + c.bytes;
        *records += c.records;
        ++*blocks;
    }
    return sum;
}

int main(int argc, char **argv) {
    static const char *const isa_name[] = {"scalar", "avx2", "avx512"};
    size_t n = (argc > 1 ? strtoul(argv[1], NULL, 10) : 64) << 20;
    uint8_t *p = malloc(n + 4096);
    for (int kind = 0; kind < BENCH_KINDS; kind++) {
        size_t have = bench_make(p, n, kind);
        for (int isa = BSI_ISA_AVX512; isa >= BSI_ISA_SCALAR; isa--) {
            bsi_isa got;
            bomsync_error err = BOMSYNC_ERROR_INIT;
            if (bsi_isa_choose(&got, isa_name[isa], &err)) continue;
            bsi_cut_options o = {{',', '"', true}, bsi_block_size_of(0), isa};
            uint64_t blocks = 0, records = 0, sum = 0;
            double best = 1e9;
            for (int round = 0; round < 7; round++) {
                int64_t start = bsi_now_ns();
                sum = run(&o, p, have, &blocks, &records);
                double s = (double)(bsi_now_ns() - start) / 1e9;
                if (s < best) best = s;
            }
            printf("%-16s %-7s %6.2f GB/s  %6.1f ns/block  %.2f records/block  sum %016llx\n", bench_kind[kind], isa_name[isa],
                   (double)have / best / 1e9, best * 1e9 / (double)blocks, (double)records / (double)blocks, (unsigned long long)sum);
        }
    }
    free(p);
    return 0;
}
