/* tests/fuzz/fuzz_parse.c - any bytes through header, cut and parse: no fault, and all variants agree.
 *
 *   byte 0: dialect, byte 1: records a block     then the file
 *
 * Looked at: every instruction set finds the same blocks; a block's end does not depend on how many bytes stand behind
 * it; the blocks cover the file; parse finds as many records as cut; each row image reads back.
 */
#include <stdio.h>
#include <stdlib.h>

#include "flow/block.h"
#include "flow/rows.h"

#define MARGIN 64

static void must(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "does not hold: %s\n", what);
    abort();
}

/* Bytes with the margin that cut and parse may read; malloc'ed to size so that ASan sees what goes beyond. */
static uint8_t *padded(const uint8_t *p, size_t n) {
    uint8_t *q = bsi_calloc(n + MARGIN, 1);
    if (n) memcpy(q, p, n);
    return q;
}

static void check_rows(const bsi_rows *rows, const bsi_cut *c, const bsi_slots *slots) {
    must(rows->count == c->records, "parse finds as many records as cut");
    bsi_field *f = bsi_calloc(slots->count, sizeof *f);
    for (uint32_t i = 0; i < rows->count; i++) {
        if (rows->bad[i]) continue;
        const uint8_t *image = rows->enc.data + rows->image[i];
        must(bsi_image_fields(f, slots->count, image, rows->body[i], rows->image[i + 1] - rows->image[i], slots->count),
             "a row image reads back");
    }
    free(f);
}

static void check_block(bsi_cut *c, bsi_cut_options o, const uint8_t *p, size_t n, bool *open_quote) {
    *open_quote = bsi_cut_block(c, &o, p, n, true) < 0;
    for (int isa = BSI_ISA_SCALAR; isa <= BSI_ISA_AVX512; isa++) {
        static const char *const name[] = {"scalar", "avx2", "avx512"};
        bsi_isa got;
        if (bsi_isa_choose(&got, name[isa], NULL)) continue;
        bsi_cut other;
        o.isa = isa;
        int found = bsi_cut_block(&other, &o, p, n, true);
        must(found < 0 ? *open_quote : other.bytes == c->bytes && other.records == c->records && other.flags == c->flags,
             "each instruction set finds the same block");
    }
    if (*open_quote || c->flags & (BSI_CUT_AT_END | BSI_CUT_LONE_CR)) return;
    uint8_t *alone = padded(p, c->bytes);
    bsi_cut again;
    must(bsi_cut_block(&again, &o, alone, c->bytes, false) == 1 && again.bytes == c->bytes, "a block's own bytes give its end");
    free(alone);
}

static void check_file(const bsi_layout *l, const bsi_slots *slots, uint32_t block_records, const uint8_t *p, size_t n) {
    static const bsi_secret secret;
    bsi_rows rows = {0};
    bsi_cut_options o = {.dialect = l->dialect, .block_records = block_records, .isa = BSI_ISA_SCALAR};
    for (size_t at = 0; at < n;) {
        bsi_cut c;
        bool open_quote;
        uint8_t *rest = padded(p + at, n - at);
        check_block(&c, o, rest, n - at, &open_quote);
        if (!open_quote && !(c.flags & BSI_CUT_OVERSIZE)) {
            must(c.bytes > 0 && c.bytes <= n - at, "blocks cover the file");
            uint8_t *block = padded(rest, c.bytes);
            bsi_parse_block(&rows, l, &secret, block, c.bytes, false);
            if (!(c.flags & BSI_CUT_OPEN_QUOTE)) check_rows(&rows, &c, slots);
            free(block);
        }
        free(rest);
        if (open_quote || c.flags & BSI_CUT_OVERSIZE) break;
        at += c.bytes;
    }
    bsi_rows_free(&rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    bsi_dialect d = {.delimiter = data[0] & 1 ? ';' : ',', .quote = '"', .lenient = data[0] & 2};
    uint8_t *file = padded(data + 2, size - 2);
    size_t n = size - 2, head = 0;
    char **names = NULL;
    uint32_t count = 0;
    bsi_slots slots = {.partition = -1};
    bsi_layout *layout = NULL;
    if (!bsi_parse_header(&names, &count, &head, &d, file, n, true, NULL) && count) {
        const char *key = names[0];
        if (!bsi_layout_open(&layout, &slots, &d, (const char *const *)names, count, &key, 1, NULL, NULL, 0, NULL, 0, NULL)) {
            check_file(layout, &slots, 1 + data[1] % 32, file + head, n - head);
            bsi_layout_close(layout);
        }
        bsi_slots_free(&slots);
    }
    for (uint32_t i = 0; i < count; i++) free(names[i]);
    free(names);
    free(file);
    return 0;
}
