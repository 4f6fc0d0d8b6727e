/* gen_shape.c - the shape of a product structure, without holding it.
 *
 *     level 0   A0 A1                 tops             parents are numbered by level, so that a component with a
 *     level 1   A2 A3 A4 A5           assemblies       greater number lies deeper and no cycle can arise
 *     level 2   A6 .. A11
 *     parts     P0 P1 P2 ...          popular ones everywhere, half of them in one place
 *
 * A plant's BOMs are k = 0 .. headers - 1; parent(k) = (k * boms + phase) / headers, which spreads a plant with fewer
 * BOMs over all parents and gives a plant with more of them second and third alternatives, always in sorted order.
 * The number of lines of a BOM is log-normal (median 8, 99 of 100 below 30, one of 1,000 between 60 and 330), the
 * part on a line follows Zipf's law with exponent 1: rank = parts ^ u.
 *
 * Everything is integer arithmetic, logarithm and power included: the same seed gives the same bytes on any machine,
 * which the mathematics library does not promise.
 */
#include "gen/gen_inner.h"

#include <stdlib.h>

#define FAN_MEDIAN 8u
#define FAN_SLOPE 65777     /* ln(30 / 8) / 2.326 / ln 2 per standard deviation (209.02) of a sum of 8 bytes, 24 bits */
#define FAN_MEAN_TENTHS 97u /* measured over many seeds; only a first guess at the number of headers */
#define SUB_PERCENT 12      /* lines that carry an assembly rather than a part */
#define LOCAL_PERCENT 8     /* lines where a plant differs from the others */

/* ---- powers of two ---- */

static uint64_t root(unsigned __int128 v) {
    unsigned __int128 lo = 0, hi = (unsigned __int128)1 << 64;
    while (hi - lo > 1) {
        unsigned __int128 mid = (lo + hi) / 2;
        if (mid * mid <= v)
            lo = mid;
        else
            hi = mid;
    }
    return (uint64_t)lo;
}

static void power_init(bsi_gen_shape *s) {
    uint64_t step = (uint64_t)2 << 61; /* 2.0 with 61 bits after the point */
    for (int i = 0; i < 10; i++) step = root((unsigned __int128)step << 61);
    unsigned __int128 v = (unsigned __int128)1 << 61;
    for (int i = 0; i <= BSI_GEN_LEVEL_TABLE; i++) {
        s->power[i] = (uint32_t)(v >> 31);
        v = (v * step) >> 61;
    }
}

/* 2^x, x with 56 bits after the point and below 32 before it. */
static uint64_t power_of_two(const bsi_gen_shape *s, uint64_t x) {
    unsigned whole = (unsigned)(x >> 56);
    uint64_t i = x >> 46 & 1023, rest = x >> 30 & 0xffff;
    uint64_t v = s->power[i] + (((uint64_t)s->power[i + 1] - s->power[i]) * rest >> 16);
    return whole >= 30 ? v << (whole - 30) : v >> (30 - whole);
}

static uint64_t log_of_two(uint64_t n) {
    unsigned whole = 63u - (unsigned)__builtin_clzll(n);
    uint64_t m = n << (63 - whole), log = whole;
    for (int i = 0; i < 24; i++) {
        unsigned __int128 square = (unsigned __int128)m * m;
        bool over = square >> 127;
        m = (uint64_t)(square >> (over ? 64 : 63));
        log = log << 1 | over;
    }
    return log;
}

/* ---- shuffling: a Feistel network over the next even power of two, walked until it lands inside ---- */

void bsi_gen_order_init(bsi_gen_order *o, uint64_t n, uint64_t key) {
    o->n = n;
    o->key = key;
    o->half_bits = 1;
    while (o->half_bits < 31 && (uint64_t)1 << (2 * o->half_bits) < n) o->half_bits++;
}

static uint64_t feistel(const bsi_gen_order *o, uint64_t v, bool back) {
    uint64_t mask = ((uint64_t)1 << o->half_bits) - 1, l = v >> o->half_bits, r = v & mask;
    for (unsigned i = 0; i < 4; i++) {
        unsigned round = back ? 3 - i : i;
        uint64_t next;
        if (back) {
            next = r ^ (bsi_gen_hash(o->key + round, l) & mask);
            r = l;
            l = next;
        } else {
            next = l ^ (bsi_gen_hash(o->key + round, r) & mask);
            l = r;
            r = next;
        }
    }
    return l << o->half_bits | r;
}

uint64_t bsi_gen_order_at(const bsi_gen_order *o, uint64_t place) {
    if (place >= o->n) return place;
    do place = feistel(o, place, false);
    while (place >= o->n);
    return place;
}

uint64_t bsi_gen_order_place(const bsi_gen_order *o, uint64_t index) {
    if (index >= o->n) return index;
    do index = feistel(o, index, true);
    while (index >= o->n);
    return index;
}

/* ---- levels, fans, headers ---- */

static uint32_t level_of(const bsi_gen_shape *s, uint64_t parent) {
    uint32_t lo = 0, hi = s->depth;
    while (hi - lo > 1) {
        uint32_t mid = (lo + hi) / 2;
        if (s->level_start[mid] <= parent)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* Assemblies that a parent must carry so that each of the next level is used somewhere. */
static uint64_t chain_lines(const bsi_gen_shape *s, uint32_t level) {
    if (level + 1 >= s->depth) return 0;
    uint64_t here = s->level_start[level + 1] - s->level_start[level];
    uint64_t below = s->level_start[level + 2] - s->level_start[level + 1];
    return (below + here - 1) / here;
}

static uint32_t byte_sum(uint64_t h) {
    uint64_t pairs = (h & 0x00ff00ff00ff00ffu) + (h >> 8 & 0x00ff00ff00ff00ffu);
    return (uint32_t)(pairs * 0x0001000100010001u >> 48);
}

static uint32_t natural_fan(const bsi_gen_shape *s, uint64_t parent, uint64_t alternative) {
    uint64_t h = bsi_gen_hash(s->seed ^ 0x66616e, parent * 64 + alternative);
    uint64_t rare = bsi_gen_mix(h);
    if (rare >> 54 == 0) { /* one of 1,024 */
        uint64_t u = rare & 0xffff;
        return 60 + (uint32_t)(u * u * 270 >> 32); /* most of them near 60 */
    }
    uint32_t fan = s->fan_of[byte_sum(h)], least = (uint32_t)chain_lines(s, level_of(s, parent)) + 1;
    return BSI_MAX(fan, least);
}

static uint64_t parent_of(const bsi_gen_shape *s, const bsi_gen_plant *p, uint64_t k) {
    return (k * s->boms + p->phase) / p->headers;
}

bsi_gen_header bsi_gen_header_at(const bsi_gen_shape *s, uint64_t plant, uint64_t k) {
    const bsi_gen_plant *p = &s->plant[plant];
    bsi_gen_header h = {.index = p->first_header + k, .plant = plant, .parent = parent_of(s, p, k)};
    uint64_t least = h.parent * p->headers; /* the first k with k * boms + phase >= parent * headers */
    uint64_t first = least > p->phase ? (least - p->phase + s->boms - 1) / s->boms : 0;
    h.alternative = k - first + 1;
    h.fan = p->last_fan && p->first_header + k + 1 == p[1].first_header ? p->last_fan
                                                                        : natural_fan(s, h.parent, h.alternative);
    return h;
}

/* The header with the greatest first_header <= header; plant has one entry past the end. */
bsi_gen_header bsi_gen_header_index(const bsi_gen_shape *s, uint64_t header) {
    uint64_t lo = 0, hi = s->plants;
    while (hi - lo > 1) {
        uint64_t mid = (lo + hi) / 2;
        if (s->plant[mid].first_header <= header)
            lo = mid;
        else
            hi = mid;
    }
    return bsi_gen_header_at(s, lo, header - s->plant[lo].first_header);
}

void bsi_gen_shape_sample(bsi_gen_shape *s) {
    if (s->sample) return;
    s->sample_count = s->headers / BSI_GEN_SAMPLE + 1;
    s->sample = bsi_calloc(s->sample_count, sizeof *s->sample);
    uint64_t line = 0, header = 0;
    for (uint64_t q = 0; q < s->plants; q++)
        for (; header < s->plant[q + 1].first_header; header++) {
            if (header % BSI_GEN_SAMPLE == 0) s->sample[header / BSI_GEN_SAMPLE] = line;
            line += bsi_gen_header_at(s, q, header - s->plant[q].first_header).fan;
        }
    if (header % BSI_GEN_SAMPLE == 0) s->sample[header / BSI_GEN_SAMPLE] = line;
}

bsi_gen_header bsi_gen_header_of_line(const bsi_gen_shape *s, uint64_t line) {
    uint64_t lo = 0, hi = s->sample_count;
    while (hi - lo > 1) {
        uint64_t mid = (lo + hi) / 2;
        if (s->sample[mid] <= line)
            lo = mid;
        else
            hi = mid;
    }
    uint64_t at = s->sample[lo], header = lo * BSI_GEN_SAMPLE;
    bsi_gen_header h = bsi_gen_header_index(s, header);
    while (at + h.fan <= line) {
        at += h.fan;
        h = bsi_gen_header_index(s, ++header);
    }
    h.first_line = at;
    return h;
}

/* ---- components ---- */

static uint64_t popular_part(const bsi_gen_shape *s, uint64_t h) {
    uint64_t rank = power_of_two(s, (h >> 32) * s->leaves_log2) - 1;
    if (rank >= s->leaves) rank = s->leaves - 1;
    return s->boms + rank * s->spread % s->leaves;
}

static uint64_t deeper_assembly(const bsi_gen_shape *s, uint32_t level, uint64_t h) {
    uint64_t from = s->level_start[level + 1], n = s->boms - from;
    uint64_t u = h >> 32;
    u = u * u >> 32; /* shared ones: the first of the range are picked more often */
    return from + (u * n >> 32);
}

uint64_t bsi_gen_component(const bsi_gen_shape *s, const bsi_gen_header *h, uint64_t slot, uint32_t born, uint64_t id) {
    uint32_t level = level_of(s, h->parent);
    uint64_t here = s->level_start[level + 1] - s->level_start[level];
    bool below = level + 1 < s->depth;
    if (!born && below && slot < chain_lines(s, level)) {
        uint64_t n = s->level_start[level + 2] - s->level_start[level + 1];
        return s->level_start[level + 1] + (h->parent - s->level_start[level] + slot * here) % n;
    }
    uint64_t same = bsi_gen_hash(s->seed ^ 0x636d70, (h->parent * 64 + h->alternative) * 4096 + slot);
    uint64_t v = born || bsi_gen_below(bsi_gen_mix(id), 100) < LOCAL_PERCENT ? bsi_gen_mix(id ^ same) : same;
    if (below && (v & 127) < SUB_PERCENT * 128 / 100) return deeper_assembly(s, level, v);
    return popular_part(s, v);
}

/* ---- sizes ---- */

typedef struct preset {
    const char *name;
    uint64_t items, boms, lines, catalog;
    uint32_t plants, depth;
} preset;
static const preset presets[] = {
    {"S", 10000, 2000, 30000, 15000, 1, 6},
    {"M", 200000, 50000, 1000000, 500000, 2, 8},
    {"L", 1000000, 470000, 10000000, 5000000, 4, 10},
};

/* Without a name the preset whose number of lines is nearest in magnitude lends its proportions. */
static const preset *find_preset(const char *name, int64_t lines) {
    if (!name) return &presets[lines >= 3000000 ? 2 : lines >= 200000 ? 1 : 0];
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (!strcmp(presets[i].name, name)) return &presets[i];
    return NULL;
}

static uint64_t scaled(uint64_t n, uint64_t lines, uint64_t of, uint64_t least) {
    uint64_t v = (uint64_t)((unsigned __int128)n * lines / of);
    return BSI_MAX(v, least);
}

static void sizes(bsi_gen_shape *s, const preset *p, const bomsync_gen_options *o) {
    s->lines = o->lines ? (uint64_t)o->lines : p->lines;
    s->items = scaled(p->items, s->lines, p->lines, 20);
    s->boms = scaled(p->boms, s->lines, p->lines, 4);
    if (s->boms > s->lines) s->boms = s->lines;
    s->catalog = scaled(p->catalog, s->lines, p->lines, 10);
    s->plants = o->plants ? (uint32_t)o->plants : p->plants;
    s->depth = o->depth ? (uint32_t)o->depth : p->depth;
    if (!o->depth && s->depth > s->boms) s->depth = (uint32_t)s->boms;
    s->suppliers = BSI_MAX(s->items / 200, 20);
    s->orders = BSI_MAX(s->boms / 50, 20);
    s->leaves = s->items - s->boms;
}

static bomsync_status check_sizes(const bsi_gen_shape *s, bomsync_error *err) {
    if (s->lines > (uint64_t)100000000000)
        return bsi_fail(err, BOMSYNC_E_USAGE, "cannot generate %llu BOM lines: the limit is 100,000,000,000",
                        (unsigned long long)s->lines);
    if (s->plants > s->lines)
        return bsi_fail(err, BOMSYNC_E_USAGE, "cannot share %llu BOM lines among %u plants",
                        (unsigned long long)s->lines, s->plants);
    if (s->depth > s->boms)
        return bsi_fail(err, BOMSYNC_E_USAGE, "cannot make %u levels of %llu BOMs", s->depth,
                        (unsigned long long)s->boms);
    return BOMSYNC_OK;
}

/* Levels grow from the top down: 2, 3, 4, .. up to 10 parts; each has at least one assembly. */
static void levels_init(bsi_gen_shape *s) {
    s->level_start = bsi_calloc(s->depth + 1, sizeof *s->level_start);
    uint64_t weights = 0, before = 0, free = s->boms - s->depth;
    for (uint32_t l = 0; l < s->depth; l++) weights += BSI_MIN(l + 2, 10u);
    for (uint32_t l = 0; l < s->depth; l++) {
        s->level_start[l] = l + (uint64_t)((unsigned __int128)free * before / weights);
        before += BSI_MIN(l + 2, 10u);
    }
    s->level_start[s->depth] = s->boms;
}

static uint64_t lines_with(const bsi_gen_shape *s, uint64_t plant, uint64_t *headers, uint32_t *last) {
    uint64_t sum = 0, want = s->plant[plant].lines;
    for (uint64_t k = 0; k < s->plant[plant].headers; k++) {
        uint32_t fan = bsi_gen_header_at(s, plant, k).fan;
        if (sum + fan >= want) {
            *headers = k + 1;
            *last = (uint32_t)(want - sum);
            return want;
        }
        sum += fan;
    }
    return sum;
}

/* headers stays the divisor of parent_of; first_header of the next plant says where this one really ends. */
static void plant_init(bsi_gen_shape *s, uint64_t q) {
    bsi_gen_plant *p = &s->plant[q];
    uint64_t used = 0;
    p->lines = s->lines / s->plants + (q < s->lines % s->plants);
    p->phase = s->boms * q / s->plants;
    p->headers = BSI_MAX(p->lines * 10 / FAN_MEAN_TENTHS, 1);
    while (lines_with(s, q, &used, &p->last_fan) < p->lines) p->headers += p->headers / 64 + 1;
    p[1].first_header = p->first_header + used;
    p[1].first_line = p->first_line + p->lines;
}

static void tables_init(bsi_gen_shape *s) {
    power_init(s);
    for (int i = 0; i < BSI_GEN_FAN_TABLE; i++) {
        int64_t x = ((int64_t)16 << 24) + (int64_t)(i - 1020) * FAN_SLOPE;
        uint64_t v = FAN_MEDIAN * power_of_two(s, (uint64_t)x << 32);
        s->fan_of[i] = (uint16_t)BSI_MAX((v + (1u << 15)) >> 16, 2u);
    }
    s->leaves_log2 = log_of_two(s->leaves);
    s->spread = 2654435761u % s->leaves;
    for (;; s->spread++) {
        uint64_t a = s->spread, b = s->leaves;
        while (b) {
            uint64_t t = a % b;
            a = b;
            b = t;
        }
        if (a == 1) return;
    }
}

bomsync_status bsi_gen_shape_init(bsi_gen_shape *s, const bomsync_gen_options *o, bomsync_error *err) {
    const preset *p = find_preset(o->preset, o->lines);
    if (!p) return bsi_fail(err, BOMSYNC_E_USAGE, "cannot find preset \"%s\"; there are S, M and L", o->preset);
    if (o->lines < 0 || o->plants < 0 || o->depth < 0)
        return bsi_fail(err, BOMSYNC_E_USAGE, "cannot generate with negative lines, plants or depth");
    s->seed = bsi_gen_hash(o->seed, 0x67656e);
    sizes(s, p, o);
    bomsync_status status = check_sizes(s, err);
    if (status) return status;
    levels_init(s);
    tables_init(s);
    s->plant = bsi_calloc((size_t)s->plants + 1, sizeof *s->plant);
    for (uint64_t q = 0; q < s->plants; q++) plant_init(s, q);
    s->headers = s->plant[s->plants].first_header;
    return BOMSYNC_OK;
}

void bsi_gen_shape_release(bsi_gen_shape *s) {
    free(s->level_start);
    free(s->plant);
    free(s->sample);
}
