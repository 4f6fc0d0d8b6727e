/* emit/emit_frame_loop.h - the loops of emit_frame.c, once for each set of instructions.
 *
 * Includers set LOOPS_NAME. Shifts by any count and hashes of wide words are what the flags of the including file change.
 */
#include "emit/emit_frame_inner.h"

INLINE void put_code(bits *b, const uint32_t *code, uint8_t byte) {
    uint32_t c = code[byte];
    b->word |= (uint64_t)(c >> 8) << (b->count & 63);
    b->count += c & 0xff;
}

/* Last byte first. Five codes are 55 bits at most, and seven may stay. */
static uint8_t *literals(uint8_t *out, const uint32_t *code, const uint8_t *p, size_t n) {
    bits b = {.p = out};
    for (; n % 5; n--) {
        put_code(&b, code, p[n - 1]);
        flush_bits(&b);
    }
    for (const uint8_t *q = p + n; q > p; q -= 5) {
        put_code(&b, code, q[-1]);
        put_code(&b, code, q[-2]);
        put_code(&b, code, q[-3]);
        put_code(&b, code, q[-4]);
        put_code(&b, code, q[-5]);
        flush_bits(&b);
    }
    return close_bits(&b);
}

/* ---- numbers and their codes ---- */

static const uint8_t ll_bits[LL_CODES] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1,
                                          1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const uint8_t ml_bits[ML_CODES] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                          0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const uint8_t ll_small[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 16, 17, 17, 18, 18,
                                     19, 19, 20, 20, 20, 20, 21, 21, 21, 21, 22, 22, 22, 22, 22, 22, 22, 22, 23, 23, 23, 23,
                                     23, 23, 23, 23, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24};
static const uint8_t ml_small[128] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
    32, 32, 33, 33, 34, 34, 35, 35, 36, 36, 36, 36, 37, 37, 37, 37, 38, 38, 38, 38, 38, 38, 38, 38, 39, 39, 39, 39, 39, 39, 39, 39,
    40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41,
    42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42};

INLINE uint8_t ll_code(uint32_t v) { return v < 64 ? ll_small[v] : (uint8_t)(high_bit(v) + 19); }
INLINE uint8_t ml_code(uint32_t v) { return v < 128 ? ml_small[v] : (uint8_t)(high_bit(v) + 36); }

/* The offset as the format numbers it; rep: the three used last. */
INLINE uint32_t number_offset(uint32_t rep[3], uint32_t offset, bool literals) {
    if (literals) {
        if (offset == rep[0]) return 1;
        uint32_t n = offset == rep[1] ? 2 : offset == rep[2] ? 3 : offset + 3;
        if (n != 2) rep[2] = rep[1];
        rep[1] = rep[0];
        rep[0] = offset;
        return n;
    }
    uint32_t n = offset == rep[1] ? 1 : offset == rep[2] ? 2 : offset + 3;
    if (n != 1) rep[2] = rep[1];
    rep[1] = rep[0];
    rep[0] = offset;
    return n;
}

static uint32_t number(sequence *out, uint32_t to[3], const bsi_repeat *r, uint32_t count, uint32_t bytes, numbered *what) {
    uint32_t rep[3] = {to[0], to[1], to[2]}, at = 0, fresh = 0, widest = 0, i = 0;
    for (; i < count && at < bytes; i++) {
        uint32_t ll = r[i].literals, ml = r[i].match - 3, of = number_offset(rep, r[i].offset, ll != 0);
        out[i] = (sequence){ll, ml, of, ll_code(ll), ml_code(ml), (uint8_t)high_bit(of)};
        at += ll + r[i].match;
        fresh += ll;
        widest |= ll | ml;
    }
    memcpy(to, rep, sizeof rep);
    *what = (numbered){at, fresh, widest};
    return i;
}

/* Numbers of the last sequence first. At most 7 bits stay after a flush; the states take 26, lengths up to 32, an offset 28. */
static uint8_t *sequences(uint8_t *o, const fse *ll, const fse *ml, const fse *of, const sequence *s, uint32_t count) {
    const sequence *q = &s[count - 1];
    bits b = {.p = o};
    uint32_t ml_state = fse_start(ml, q->ml_code), of_state = fse_start(of, q->of_code), ll_state = fse_start(ll, q->ll_code);
    for (;; q--) {
        uint32_t ll_n = ll_bits[q->ll_code], ml_n = ml_bits[q->ml_code];
        if (__builtin_expect(ll_n + ml_n > 24, 0)) flush_bits(&b);
        put_bits(&b, q->ll & ((1u << ll_n) - 1), ll_n);
        put_bits(&b, q->ml & ((1u << ml_n) - 1), ml_n);
        if (__builtin_expect(b.count + q->of_code > 63, 0)) flush_bits(&b);
        put_bits(&b, q->of & ((1u << q->of_code) - 1), q->of_code);
        flush_bits(&b);
        if (q == s) break;
        of_state = fse_next(&b, of, of_state, q[-1].of_code);
        ml_state = fse_next(&b, ml, ml_state, q[-1].ml_code);
        ll_state = fse_next(&b, ll, ll_state, q[-1].ll_code);
    }
    fse_end(&b, ml, ml_state);
    fse_end(&b, of, of_state);
    fse_end(&b, ll, ll_state);
    return close_bits(&b);
}

static void hash(hashes *h, const uint8_t *p, size_t n) {
    XXH3_128bits_update(&h->xxh3, p, n);
    XXH64_update(&h->xxh64, p, n);
}

const bsi_frame_loops LOOPS_NAME = {number, literals, sequences, hash};
