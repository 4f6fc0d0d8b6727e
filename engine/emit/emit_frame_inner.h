/* emit/emit_frame_inner.h - what emit_frame.c and its loops share (emit_frame_loop.h). */
#ifndef BSI_EMIT_FRAME_INNER_H
#define BSI_EMIT_FRAME_INNER_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "emit/emit_inner.h"

#define INLINE static inline __attribute__((always_inline))

enum { LL_CODES = 36, ML_CODES = 53, OF_CODES = 29 };

typedef struct fse_symbol {
    uint32_t bits;    /* what is added to a state to know how many of its bits leave */
    int32_t find;
} fse_symbol;

typedef struct fse {
    uint32_t log, symbols;
    uint16_t norm[64];
    uint16_t state[1 << 9];
    fse_symbol symbol[64];
} fse;

typedef struct huffman {
    uint32_t code[256];     /* code << 8 | its bits */
    uint8_t bits[256];      /* 0: never comes */
    uint32_t top;           /* last byte that has a code */
    uint8_t table[160];     /* what the decoder is told */
    uint32_t table_bytes;
} huffman;

typedef struct sequence {
    uint32_t ll, ml, of;      /* of: as the format numbers them, 1 to 3 for those used lately; ml: less 3 */
    uint8_t ll_code, ml_code, of_code;
} sequence;

typedef struct hashes {
    XXH3_state_t xxh3;
    XXH64_state_t xxh64;
} hashes;

typedef struct numbered {
    uint32_t bytes, literals; /* that the sequences stand for; new ones among them */
    uint32_t widest;          /* of all lengths, ored */
} numbered;

/* Loops for one set of instructions. */
typedef struct bsi_frame_loops {
    /* Sequences of repeats until they stand for `bytes`; returns how many. */
    uint32_t (*number)(sequence *out, uint32_t rep[3], const bsi_repeat *r, uint32_t count, uint32_t bytes, numbered *what);
    /* One stream of Huffman codes; returns its end. */
    uint8_t *(*literals)(uint8_t *out, const uint32_t *code, const uint8_t *p, size_t n);
    /* The stream of sequences, count >= 1; returns its end. */
    uint8_t *(*sequences)(uint8_t *out, const fse *ll, const fse *ml, const fse *of, const sequence *s, uint32_t count);
    void (*hash)(hashes *h, const uint8_t *p, size_t n);
} bsi_frame_loops;
extern const bsi_frame_loops bsi_frame_loops_scalar, bsi_frame_loops_avx2, bsi_frame_loops_avx512;

/* ---- bits, first ones lowest ---- */

typedef struct bits {
    uint64_t word;
    uint32_t count;
    uint8_t *p;
} bits;

INLINE void put_bits(bits *b, uint64_t v, uint32_t n) {
    b->word |= v << b->count;
    b->count += n;
}

/* At most 7 bits stay. Writes 8 bytes. */
INLINE void flush_bits(bits *b) {
    uint64_t w = b->word;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap64(w);
#endif
    memcpy(b->p, &w, 8);
    b->p += b->count >> 3;
    b->word >>= b->count & ~7u;
    b->count &= 7;
}

/* A stream that is read from its end starts with a one. */
INLINE uint8_t *close_bits(bits *b) {
    put_bits(b, 1, 1);
    flush_bits(b);
    return b->p + (b->count != 0);
}

INLINE uint32_t high_bit(uint32_t v) { return 31u - (uint32_t)__builtin_clz(v); }


INLINE uint32_t fse_start(const fse *f, uint32_t symbol) {
    fse_symbol s = f->symbol[symbol];
    uint32_t n = (s.bits + (1u << 15)) >> 16, value = (n << 16) - s.bits;
    return f->state[(int32_t)(value >> n) + s.find];
}

INLINE uint32_t fse_next(bits *b, const fse *f, uint32_t state, uint32_t symbol) {
    fse_symbol s = f->symbol[symbol];
    uint32_t n = (state + s.bits) >> 16;
    put_bits(b, state & ((1u << n) - 1), n);
    return f->state[(int32_t)(state >> n) + s.find];
}

INLINE void fse_end(bits *b, const fse *f, uint32_t state) { put_bits(b, state & ((1u << f->log) - 1), f->log); }

#endif
