/* gen_words.c - texts and dates that rows are cut from.
 *
 *     pool   hex bolt M8 steel zinc plated bracket left 12" monitor ...
 *                 ^ word_start[i]        a text is a slice from some word on, as long as the row asks for
 *
 * Copying a slice of one long string is as fast as memcpy; making words for each row would cost more than all the
 * other columns together. The pool holds what the quoting mode is about: commas (which need quotes), inch marks or
 * line ends, so that about a tenth of short texts has one.
 */
#include "gen/gen_inner.h"

static const char *const words[] = {
    "hex",
    "bolt",
    "steel",
    "zinc",
    "plated",
    "bracket",
    "left",
    "right",
    "housing",
    "cover",
    "gasket",
    "bearing",
    "shaft",
    "washer",
    "spring",
    "cable",
    "harness",
    "sensor",
    "board",
    "valve",
    "pump",
    "flange",
    "seal",
    "ring",
    "plate",
    "screw",
    "nut",
    "bushing",
    "coupling",
    "motor",
    "filter",
    "hose",
    "clamp",
    "M4",
    "M6x20",
    "M8",
    "DN25",
    "PN16",
    "A2-70",
    "grade",
    "8.8",
    "black",
    "grey",
    "RAL7035",
    "10k",
    "100nF",
    "0603",
    "SOT-23",
    "24V",
    "IP65",
    "assy",
    "upper",
    "lower",
    "front",
    "rear",
    "w/o",
    "coating",
    "stainless",
    "brass",
    "PTFE",
    "NBR",
    "F\xc3\xbchrung",
    ("\xc3\x98" "12"), /* in two, or the digits would belong to the byte */
    ("pi\xc3\xa8" "ce"),
    "kit",
};
static const char *const inch_words[] = {"12\" monitor", "1/2\" NPT", "3/4\" hose", "19\" rack", "2.5\" drive"};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static const char *next_word(const bsi_gen *g, uint64_t h) {
    if (g->quoting == BSI_GEN_QUOTE_INCH && h >> 40 & 1 && (h >> 41 & 15) == 0)
        return inch_words[(h >> 46) % COUNT(inch_words)];
    return words[(h >> 8) % COUNT(words)];
}

static const char *next_gap(const bsi_gen *g, uint64_t h) {
    bool special = (h & 31) == 0;
    if (special && g->quoting == BSI_GEN_QUOTE_MINIMAL) return ", ";
    if (special && g->quoting == BSI_GEN_QUOTE_NEWLINES) return "\n";
    return " ";
}

static void pool_init(bsi_gen *g) {
    size_t want = BSI_GEN_WORD_BYTES + (size_t)g->row_bytes + 512, len = 0, starts = 0;
    g->pool = bsi_alloc(want + 64);
    for (uint64_t i = 0; len < want; i++) {
        uint64_t h = bsi_gen_hash(0x776f7264, i);
        const char *word = next_word(g, h), *gap = next_gap(g, h);
        if (len < BSI_GEN_WORD_BYTES && starts < BSI_GEN_WORD_STARTS) g->word_start[starts++] = (uint32_t)len;
        memcpy(g->pool + len, word, strlen(word));
        len += strlen(word);
        memcpy(g->pool + len, gap, strlen(gap));
        len += strlen(gap);
    }
    for (size_t i = starts; i < BSI_GEN_WORD_STARTS; i++) g->word_start[i] = g->word_start[i - starts];
}

static void two(char *p, unsigned v) {
    p[0] = (char)('0' + v / 10);
    p[1] = (char)('0' + v % 10);
}

void bsi_gen_words_init(bsi_gen *g) {
    static const unsigned month_days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    unsigned year = 2015, month = 0, day = 0;
    pool_init(g);
    for (int i = 0; i < BSI_GEN_DAYS; i++) {
        char *p = g->days[i];
        two(p, year / 100);
        two(p + 2, year % 100);
        p[4] = p[7] = '-';
        two(p + 5, month + 1);
        two(p + 8, day + 1);
        if (++day < month_days[month] + (month == 1 && year % 4 == 0)) continue;
        day = 0;
        month = (month + 1) % 12;
        year += month == 0;
    }
}
