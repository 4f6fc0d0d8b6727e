/* store/store_symbols.c - bytes coded as symbols of a dictionary that was learned from the feed's own rows.
 *
 *   residual of a block   "....CMP-00012345.EA.."          (store_residual.c)
 *   symbols               [..][CMP-000][1][2345][.EA.]      greedy, the longest that fits
 *   coded                 12 bits a code, two codes in three bytes, little endian
 *
 * The problem: zstd takes 330 ns for a record of 98 bytes, half of a first load, and only pays in groups of some blocks, so
 * that reading one block unpacks eight. A dictionary that all blocks of a feed share lets each block stand alone, is
 * shared by all threads, and needs no entropy coder: a code is looked up, eight bytes are copied, done.
 *
 * A dictionary has up to 4096 symbols of 1 to 8 bytes. Codes 0 to 255 are the single bytes, so anything can be coded and
 * there is no escape. To code, three tables are asked at once, whatever the bytes are: by a hash of four bytes (at most one
 * symbol of 4 to 8 bytes has each slot), by a hash of three, by two bytes as they are. The longest answer that agrees is
 * taken, without a branch; the time is that of the loads, one behind the other, so four blocks are coded side by side.
 * A block is coded in whole pairs: the last may take in up to 15 bytes that stand behind its end, which its reader ignores.
 *
 * Training codes the sample with the symbols so far, counts each symbol and each pair of neighbours, and keeps those that
 * save most: (times seen) x (bytes - 1). Symbols grow from 1 to 2, 4, 8 bytes in three rounds; two more settle them.
 *
 * Tried and dropped, in parts of the raw bytes of BOM lines of 98 bytes (this: 0.245; zstd level 1 of 8 blocks: 0.35): codes
 * of 8 bits with an escape, 255 symbols: 0.346; LZ4: 0.45; zstd with rows cut into columns, for groups only and no faster;
 * zstd of single blocks with a dictionary of 32 kB, larger than groups of 4 and twice their time. A branch for each table
 * that may have the symbol: 2.3 times the time, since which one it is cannot be guessed.
 */
#include "store/store_inner.h"

enum {
    SINGLE = 256,
    LONG_BITS = 12,  /* slots for symbols of 4 to 8 bytes, of which there are half as many: with twice the slots 1.2 % fewer bytes come out, but */
    THREE_BITS = 11, /* tables push each other out of the caches beside all else that a first load does: 0.1 of its 1.5 s of processor time */
    LANES = 4,
    ROUNDS = 5,
    PAIR_BITS = 18,
    PAIR_PROBES = 16,
    PART_BYTES = 4096,
    SEEN_LEAST = 3,  /* a pair that is seen less often is chance */
    SERIAL_VERSION = 1
};

/* What a table says: code in the low 12 bits, bytes above. */
typedef uint32_t answer;
#define ANSWER(code, bytes) ((uint16_t)((code) | (bytes) << 12))

typedef struct long_entry {
    uint64_t value;
    uint16_t is;
    uint8_t shift; /* brings the symbol's bytes to the top of a word, and the others out of it */
} long_entry;
typedef uint64_t three_entry; /* a symbol's bytes in bits 8 to 31, bit 0: none; above them what it is */

struct bsi_symbol_tables {
    long_entry by_four[1 << LONG_BITS];
    three_entry by_three[1 << THREE_BITS];
    uint16_t by_two[1 << 16];
};

static inline uint64_t load8(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}
static inline uint32_t hash_four(uint64_t w) { return (uint32_t)w * 0x9E3779B1u >> (32 - LONG_BITS); }
static inline uint32_t first_three(uint64_t w) { return (uint32_t)w << 8; }
static inline uint32_t hash_three(uint64_t w) { return first_three(w) * 0x9E3779B1u >> (32 - THREE_BITS); }
static inline uint64_t low_bytes(uint64_t v, uint32_t bytes) { return bytes < 8 ? v & ((1ull << 8 * bytes) - 1) : v; }

/* ---- tables to code with ---- */

/* A free slot of by_four holds a word whose hash leads elsewhere, and compares all of it: it never agrees. */
static void clear_tables(struct bsi_symbol_tables *t) {
    for (uint32_t i = 0; i < 1 << 16; i++) t->by_two[i] = ANSWER(i & 255, 1);
    for (uint32_t i = 0; i < 1 << THREE_BITS; i++) t->by_three[i] = 1;
    uint32_t other = 1; /* hash_four(0) is 0 */
    while (!hash_four(other)) other++;
    for (uint32_t i = 0; i < 1 << LONG_BITS; i++) t->by_four[i] = (long_entry){i ? 0 : other, 0, 0};
}

static void fill_tables(struct bsi_symbol_tables *t, const bsi_symbols *s) {
    clear_tables(t);
    for (uint32_t c = SINGLE; c < s->count; c++) {
        uint64_t v = s->value[c];
        uint32_t n = s->bytes[c];
        long_entry *e = &t->by_four[hash_four(v)];
        three_entry *f = &t->by_three[hash_three(v)];
        if (n == 2) t->by_two[v] = ANSWER(c, 2);
        else if (n == 3 && (*f & 1)) *f = first_three(v) | (uint64_t)ANSWER(c, 3) << 32;
        else if (n > 3 && !e->is) *e = (long_entry){v, ANSWER(c, n), (uint8_t)(64 - 8 * n)};
    }
}

/* Which table is right is as good as random: so both values at hand, and no branch. */
#define UNSURE(condition) __builtin_expect_with_probability(condition, 1, 0.5)

static inline answer match(const struct bsi_symbol_tables *t, uint64_t w) {
    const long_entry *e = &t->by_four[hash_four(w)];
    three_entry f = t->by_three[hash_three(w)];
    answer is = t->by_two[w & 0xffff], three = (answer)(f >> 32), more = e->is;
    is = UNSURE(first_three(w) == (uint32_t)f) ? three : is;
    return UNSURE((w ^ e->value) << e->shift == 0) ? more : is;
}

/* Two codes. */
static inline void code_pair(const struct bsi_symbol_tables *t, const uint8_t **p, uint8_t *out) {
    answer a = match(t, load8(*p));
    *p += a >> 12;
    answer b = match(t, load8(*p));
    *p += b >> 12;
    uint32_t both = (a & 0xfffu) | b << 12; /* the fourth byte is the next pair's */
    memcpy(out, &both, 4);
}

/* Goes on while all of them have bytes left. */
static void code_lanes(const struct bsi_symbol_tables *t, bsi_symbol_part *const lane[LANES]) {
    const uint8_t *p0 = lane[0]->p, *p1 = lane[1]->p, *p2 = lane[2]->p, *p3 = lane[3]->p;
    const uint8_t *e0 = lane[0]->end, *e1 = lane[1]->end, *e2 = lane[2]->end, *e3 = lane[3]->end;
    uint8_t *o0 = lane[0]->out, *o1 = lane[1]->out, *o2 = lane[2]->out, *o3 = lane[3]->out;
    size_t k = 0;
    for (; ((p0 - e0) & (p1 - e1) & (p2 - e2) & (p3 - e3)) < 0; k += 3) {
        code_pair(t, &p0, o0 + k);
        code_pair(t, &p1, o1 + k);
        code_pair(t, &p2, o2 + k);
        code_pair(t, &p3, o3 + k);
    }
    *lane[0] = (bsi_symbol_part){p0, e0, o0 + k};
    *lane[1] = (bsi_symbol_part){p1, e1, o1 + k};
    *lane[2] = (bsi_symbol_part){p2, e2, o2 + k};
    *lane[3] = (bsi_symbol_part){p3, e3, o3 + k};
}

/* A lane that is done takes the next part. Where there is none, it codes the first one's once more, in the same place: the last
 * parts are coded side by side as well, and not one after the other. */
void bsi_symbols_encode(const bsi_symbols *s, bsi_symbol_part *part, size_t count) {
    bsi_symbol_part *lane[LANES];
    for (size_t next = 0, lanes = 0;;) {
        size_t kept = 0;
        for (size_t i = 0; i < lanes; i++)
            if (lane[i]->p < lane[i]->end) lane[kept++] = lane[i];
        for (lanes = kept; lanes < LANES && next < count; next++)
            if (part[next].p < part[next].end) lane[lanes++] = &part[next];
        if (!lanes) return;
        for (size_t i = lanes; i < LANES; i++) lane[i] = lane[0];
        code_lanes(s->tables, lane);
    }
}

/* ---- back ---- */

static inline uint8_t *put_symbol(uint8_t *o, const bsi_symbols *s, uint32_t code) {
    memcpy(o, &s->value[code], 8);
    return o + s->bytes[code];
}

/* Codes without a symbol have 0 bytes: where there are such, they are looked for first. */
static bool codes_known(const bsi_symbols *s, const uint8_t *p, const uint8_t *end) {
    for (; s->count < BSI_SYMBOLS_MAX && p < end; p += 3)
        if ((p[0] | (p[1] & 15u) << 8) >= s->count || (p[1] >> 4 | (uint32_t)p[2] << 4) >= s->count) return false;
    return true;
}

bool bsi_symbols_decode(bsi_buf *out, const bsi_symbols *s, const uint8_t *p, size_t n) {
    const uint8_t *end = p + n;
    out->len = 0;
    if (n % 3 || !codes_known(s, p, end)) return false;
    bsi_buf_reserve(out, n / 3 * 16 + BSI_RESIDUAL_MARGIN);
    uint8_t *o = out->data;
    for (; end - p >= 8; p += 6) {
        uint64_t w = load8(p);
        o = put_symbol(o, s, w & 0xfff);
        o = put_symbol(o, s, w >> 12 & 0xfff);
        o = put_symbol(o, s, w >> 24 & 0xfff);
        o = put_symbol(o, s, w >> 36 & 0xfff);
    }
    for (; p < end; p += 3) {
        uint32_t w = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
        o = put_symbol(o, s, w & 0xfff);
        o = put_symbol(o, s, w >> 12);
    }
    out->len = (size_t)(o - out->data);
    return true;
}

/* ---- training ---- */

typedef struct candidate {
    uint64_t value;
    uint32_t bytes, gain;
} candidate;

typedef struct trainer {
    bsi_symbols *s;
    uint32_t seen[BSI_SYMBOLS_MAX];
    uint32_t pair[1 << PAIR_BITS], pair_seen[1 << PAIR_BITS]; /* pair: first code << 12 | second, plus 1; 0: free */
    candidate *found;
    size_t found_count;
    uint8_t slot_four[1 << LONG_BITS], slot_three[1 << THREE_BITS], slot_two[1 << 16];
} trainer;

static void count_pair(trainer *t, uint32_t first, uint32_t second) {
    uint32_t pair = first << 12 | second, h = pair * 0x9E3779B1u >> (32 - PAIR_BITS);
    for (int i = 0; i < PAIR_PROBES; i++, h = (h + 1) & ((1 << PAIR_BITS) - 1)) {
        if (t->pair[h] == pair + 1) {
            t->pair_seen[h]++;
            return;
        }
        if (!t->pair[h]) {
            t->pair[h] = pair + 1;
            t->pair_seen[h] = 1;
            return;
        }
    } /* a crowded place: one that is frequent came earlier */
}

/* Behind a symbol, the next one may follow whole or by its first byte: a symbol may end anywhere. */
static void count(trainer *t, const uint8_t *p, size_t n) {
    uint32_t before = 0, before_bytes = BSI_SYMBOL_BYTES;
    for (const uint8_t *end = p + n; p < end;) {
        answer is = match(t->s->tables, load8(p));
        uint32_t code = is & 0xfff, bytes = is >> 12;
        t->seen[code]++;
        if (before_bytes < BSI_SYMBOL_BYTES) {
            count_pair(t, before, code);
            if (bytes > 1) count_pair(t, before, *p);
        }
        before = code;
        before_bytes = bytes;
        p += bytes;
    }
}

/* While symbols grow, every second part of the sample will do. */
static void count_round(trainer *t, const uint8_t *p, size_t n, int round) {
    size_t step = round < ROUNDS - 2 ? 2 * PART_BYTES : PART_BYTES;
    memset(t->seen, 0, sizeof t->seen);
    memset(t->pair, 0, sizeof t->pair);
    for (size_t at = 0; at < n; at += step) count(t, p + at, BSI_MIN(n - at, (size_t)PART_BYTES));
}

static void add_candidate(trainer *t, uint64_t value, uint32_t bytes, uint32_t seen) {
    t->found[t->found_count++] = (candidate){value, bytes, seen * (bytes - 1)};
}

static void find_candidates(trainer *t) {
    const bsi_symbols *s = t->s;
    t->found_count = 0;
    for (uint32_t c = SINGLE; c < s->count; c++)
        if (t->seen[c]) add_candidate(t, s->value[c], s->bytes[c], t->seen[c]);
    for (uint32_t i = 0; i < 1 << PAIR_BITS; i++) {
        if (!t->pair[i] || t->pair_seen[i] < SEEN_LEAST) continue;
        uint32_t a = (t->pair[i] - 1) >> 12, b = (t->pair[i] - 1) & 0xfff;
        uint32_t bytes = BSI_MIN((uint32_t)s->bytes[a] + s->bytes[b], BSI_SYMBOL_BYTES);
        add_candidate(t, low_bytes(s->value[a] | s->value[b] << 8 * s->bytes[a], bytes), bytes, t->pair_seen[i]);
    }
}

/* Most candidates save next to nothing: they are left out before sorting. */
static void drop_small(trainer *t) {
    enum { CLASSES = 1 << 12 };
    uint32_t class[CLASSES] = {0}, least = CLASSES - 1, enough = 0;
    for (size_t i = 0; i < t->found_count; i++) class[BSI_MIN(t->found[i].gain, CLASSES - 1u)]++;
    for (; least > 0 && enough < 3 * BSI_SYMBOLS_MAX; least--) enough += class[least];
    size_t n = 0;
    for (size_t i = 0; i < t->found_count; i++)
        if (t->found[i].gain > least) t->found[n++] = t->found[i];
    t->found_count = n;
}

static int by_gain(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->gain != y->gain) return x->gain < y->gain ? 1 : -1;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* The table slot that a symbol needs, if it is free. */
static bool take_slot(trainer *t, const candidate *c) {
    uint8_t *slot = &t->slot_four[hash_four(c->value)];
    if (c->bytes == 2) slot = &t->slot_two[c->value];
    if (c->bytes == 3) slot = &t->slot_three[hash_three(c->value)];
    bool free_ = !*slot;
    *slot = 1;
    return free_;
}

static void choose(trainer *t) {
    bsi_symbols *s = t->s;
    memset(t->slot_four, 0, sizeof t->slot_four);
    memset(t->slot_three, 0, sizeof t->slot_three);
    memset(t->slot_two, 0, sizeof t->slot_two);
    drop_small(t);
    bsi_sort(t->found, t->found_count, sizeof *t->found, by_gain);
    s->count = SINGLE;
    for (size_t i = 0; i < t->found_count && s->count < BSI_SYMBOLS_MAX; i++) {
        if (!take_slot(t, &t->found[i])) continue;
        s->value[s->count] = t->found[i].value;
        s->bytes[s->count++] = (uint8_t)t->found[i].bytes;
    }
    fill_tables(s->tables, s);
}

static int by_bytes(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    uint64_t v = __builtin_bswap64(x->value), w = __builtin_bswap64(y->value);
    return v != w ? (v < w ? -1 : 1) : x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* In the order of their bytes, symbols that begin alike stand together: stored, they are squeezed better. */
static void settle(trainer *t) {
    bsi_symbols *s = t->s;
    for (uint32_t c = SINGLE; c < s->count; c++) t->found[c - SINGLE] = (candidate){s->value[c], s->bytes[c], 0};
    bsi_sort(t->found, s->count - SINGLE, sizeof *t->found, by_bytes);
    for (uint32_t c = SINGLE; c < s->count; c++) {
        s->value[c] = t->found[c - SINGLE].value;
        s->bytes[c] = (uint8_t)t->found[c - SINGLE].bytes;
    }
    memset(s->value + s->count, 0, (BSI_SYMBOLS_MAX - s->count) * sizeof *s->value);
    memset(s->bytes + s->count, 0, BSI_SYMBOLS_MAX - s->count);
    fill_tables(s->tables, s);
}

static bsi_symbols *singles(void) {
    bsi_symbols *s = bsi_calloc(1, sizeof *s);
    for (; s->count < SINGLE; s->count++) {
        s->value[s->count] = s->count;
        s->bytes[s->count] = 1;
    }
    return s;
}

void bsi_symbols_prepare(bsi_symbols *s) {
    if (s->tables) return;
    s->tables = bsi_alloc(sizeof *s->tables);
    fill_tables(s->tables, s);
}

bsi_symbols *bsi_symbols_train(const uint8_t *p, size_t n) {
    trainer *t = bsi_calloc(1, sizeof *t);
    t->s = singles();
    t->found = bsi_alloc(sizeof *t->found * ((1 << PAIR_BITS) + BSI_SYMBOLS_MAX));
    bsi_symbols_prepare(t->s);
    for (int round = 0; round < ROUNDS; round++) {
        count_round(t, p, n, round);
        find_candidates(t);
        choose(t);
    }
    settle(t);
    bsi_symbols *s = t->s;
    free(t->found);
    free(t);
    return s;
}

void bsi_symbols_free(bsi_symbols *s) {
    if (s) free(s->tables);
    free(s);
}

/* ---- as bytes ---- */

void bsi_symbols_put(bsi_buf *b, const bsi_symbols *s) {
    bsi_buf_byte(b, SERIAL_VERSION);
    bsi_buf_varint(b, s->count - SINGLE);
    bsi_buf_add(b, s->bytes + SINGLE, s->count - SINGLE);
    for (uint32_t c = SINGLE; c < s->count; c++) bsi_buf_add(b, &s->value[c], s->bytes[c]);
}

static bool read_symbols(bsi_symbols *s, bsi_reader *r) {
    uint8_t version = 0;
    bsi_read_bytes(r, &version, 1);
    size_t more = bsi_read_count(r, 1);
    if (!r->ok || version != SERIAL_VERSION || more > BSI_SYMBOLS_MAX - SINGLE) return false;
    bsi_read_bytes(r, s->bytes + SINGLE, more);
    s->count = SINGLE + (uint32_t)more;
    for (uint32_t c = SINGLE; c < s->count; c++) {
        if (s->bytes[c] < 2 || s->bytes[c] > BSI_SYMBOL_BYTES) return false;
        bsi_read_bytes(r, &s->value[c], s->bytes[c]);
    }
    return r->ok && r->p == r->end;
}

bsi_symbols *bsi_symbols_read(const uint8_t *p, size_t n) {
    bsi_reader r = {p, p + n, true};
    bsi_symbols *s = singles();
    if (read_symbols(s, &r)) return s;
    bsi_symbols_free(s);
    return NULL;
}
