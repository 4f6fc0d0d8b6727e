/* bench_data.h - BOM lines for benches: 9 columns, the same bytes on every machine. */
#ifndef BENCH_DATA_H
#define BENCH_DATA_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { BENCH_PLAIN, BENCH_QUOTED, BENCH_TEXT_QUOTED, BENCH_DOUBLED, BENCH_BARE, BENCH_SHORT, BENCH_WIDE, BENCH_CRLF, BENCH_UTF8, BENCH_KINDS };
static const char *const bench_kind[] = {"plain 100 B", "all quoted", "text quoted", "doubled quotes", "bare quotes", "50 B", "300 B", "CRLF", "UTF-8"};
#define BENCH_HEADER "plant,parent,line,component,qty,unit,text,valid_from,valid_to"
#define BENCH_COLUMNS 9

/* Fills p[0..n) with whole records, about n bytes of them; p has 4 kB more. Returns the bytes. */
static size_t bench_make(uint8_t *p, size_t n, int kind) {
    static const char *const units[] = {"EA", "KG", "M", "PC"};
    static const char *const texts[] = {"hexagon bolt M8x40 zinc", "washer", "bearing 6204-2RS C3", "bracket left welded, painted RAL7035", "cable"};
    size_t at = 0;
    uint64_t x = 42;
    for (uint32_t i = 0; at + 700 < n; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        uint32_t a = (uint32_t)(x >> 33), b = (uint32_t)(x >> 40);
        char f[BENCH_COLUMNS][400];
        snprintf(f[0], 400, "%u", 1000 + i / 200000);
        snprintf(f[1], 400, "ASM-%08u", i / 17);
        snprintf(f[2], 400, "%04u", i % 17 * 10);
        snprintf(f[3], 400, "CMP-%08u", a % 5000000);
        snprintf(f[4], 400, "%u.%u", b % 40, b % 7);
        snprintf(f[5], 400, "%s", units[b % 4]);
        snprintf(f[6], 400, "%s", texts[a % 5]);
        snprintf(f[7], 400, "2024-%02u-%02u", 1 + a % 12, 1 + b % 28);
        snprintf(f[8], 400, "9999-12-31");
        if (kind == BENCH_SHORT) f[6][0] = f[7][0] = f[8][0] = 0;
        if (kind == BENCH_WIDE)
            for (size_t k = strlen(f[6]); k < 230; k += strlen(f[6] + k)) snprintf(f[6] + k, 60, " more about part %u", a % 99991);
        if (kind == BENCH_DOUBLED) snprintf(f[6] + strlen(f[6]), 100, " 1/2\"\" NPT");
        if (kind == BENCH_UTF8) snprintf(f[6], 100, "Sechskantschraube f\xc3\xbcr T\xc3\xbcr, gro\xc3\x9f \xe2\x82\xac");
        if (kind == BENCH_BARE) snprintf(f[6], 100, "monitor 12\" wide and flat");
        for (int c = 0; c < BENCH_COLUMNS; c++) {
            bool quote = kind == BENCH_QUOTED || (kind == BENCH_DOUBLED && c == 6) || (c == 6 && kind == BENCH_TEXT_QUOTED);
            if (c == 6 && !quote)
                for (char *comma = f[6]; (comma = strchr(comma, ',')) != NULL;) *comma = ';';
            size_t len = strlen(f[c]);
            if (c) p[at++] = ',';
            if (quote) p[at++] = '"';
            memcpy(p + at, f[c], len);
            at += len;
            if (quote) p[at++] = '"';
        }
        if (kind == BENCH_CRLF) p[at++] = '\r';
        p[at++] = '\n';
    }
    memset(p + at, 0, 64);
    return at;
}

#endif
