/* cut/cut_loop.h - the end of one block. Included once by each variant, which names CUT_NAME.
 *
 *   p     [record LF][record LF][LF][record LF] ...      LF = LF, CRLF or a lone CR outside quotes; [LF] is a blank line
 *   ends  ..........1..........1..1..........1
 *
 * Walks 64 bytes at a time, and in each chunk from line end to line end. After a record the block is cut if a hash of
 * the record says so: the same records give the same cuts wherever they stand, so that an inserted record moves no cut
 * but the nearest. No cut before the least number, always one at four times the target or at 64 kB: the mean is the
 * target. The least is half of it (bsi_block_size_of): a third gave longer long blocks, and these are what changes at
 * random hit, so that 1 % of them took 6 % more time. Two thirds are no faster, and an inserted record moves more cuts.
 *
 * The hash covers what tells the record from the one before it: all up to the end of the first field that differs.
 *
 *   1000,A00000007,production,1,20,A00014688,0020,24,EA       before
 *   1000,A00000007,production,1,30,P00011279,0030,1,EA        hashed: 1000,A00000007,production,1,30
 *
 * Exports mostly have the key in front, so that is the key, and a changed value moves no cut: the block is then found
 * changed in place (run/sync_amend.c). A hash of both ends and the middle moved the cut of one changed block in seven, and
 * its neighbour's with it. Where the first 64 bytes are those of the record before, or there is none, it is that hash still.
 * Multiply and fold; a whole-record hash cost as much as finding the line end did.
 *
 * A change of this rule is a new BSI_CUT_RULE (flow/block.h): what was cut by another one is not compared.
 */
#include "core/chunk.h"
#include "cut/cut_inner.h"

static inline uint64_t word(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap64(w);
#endif
    return w;
}

static inline uint32_t half(const uint8_t *p) {
    uint32_t w;
    memcpy(&w, p, 4);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap32(w);
#endif
    return w;
}

static inline uint64_t fold(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 wide;
    wide m = (wide)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Odd constants without structure (digits of pi): a word of zeros must not blank out its partner. */
#define K0 0x243f6a8885a308d3ull
#define K1 0x13198a2e03707345ull
#define K2 0xa4093822299f31d1ull
#define K3 0x082efa98ec4e6c89ull
#define K4 0x452821e638d01377ull

static inline uint64_t short_hash(const uint8_t *r, size_t n) {
    uint64_t a, b;
    if (n >= 16) {
        a = fold(word(r) ^ K0, word(r + 8) ^ K1);
        b = fold(word(r + n - 16) ^ K2, word(r + n - 8) ^ K3);
    } else if (n >= 8) {
        a = word(r) ^ K0;
        b = word(r + n - 8) ^ K1;
    } else if (n >= 4) {
        a = half(r) ^ K0;
        b = half(r + n - 4) ^ K1;
    } else {
        a = r[0] ^ K0;
        b = ((uint64_t)r[n / 2] << 8 | r[n - 1]) ^ K1;
    }
    return fold(fold(a ^ n, b ^ K4) ^ K2, K3);
}

/* 1 <= n. 32 bits of it are used. */
static inline uint32_t record_hash(const uint8_t *r, size_t n) {
    uint64_t h;
    if (__builtin_expect(n >= 32, 1)) {
        const uint8_t *e = r + n, *m = r + n / 2;
        uint64_t a = fold(word(r) ^ K0, word(r + 8) ^ K1) ^ fold(word(r + 16) ^ K2, word(r + 24) ^ K3);
        uint64_t b = fold(word(e - 32) ^ K1, word(e - 24) ^ K2) ^ fold(word(e - 16) ^ K3, word(e - 8) ^ K4);
        uint64_t c = fold(word(m - 8) ^ K4, word(m) ^ K0);
        h = fold((a + c) ^ n, (b ^ c) ^ K4);
    } else {
        h = short_hash(r, n);
    }
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

/* As many of the first bytes as tell r[0..n) from the record before it; 0: more than 64. Both may be read up to 64 bytes. */
static inline size_t told_by(const uint8_t *before, const uint8_t *r, size_t n, uint8_t delimiter) {
    bsi_chunk c = bsi_chunk_load(r);
    uint64_t inside = n < 64 ? (1ull << n) - 1 : ~0ull;
    uint64_t differ = bsi_chunk_ne(c, bsi_chunk_load(before)) & inside;
    if (!differ) return n < 64 ? n : 0;
    uint64_t from = ~((differ & -differ) - 1);
    uint64_t stop = bsi_chunk_eq(c, delimiter) & inside & from;
    return stop ? (size_t)__builtin_ctzll(stop) : BSI_MIN(n, (size_t)64);
}

/* n <= 64; r may be read up to r + 64. */
static inline uint32_t front_hash(const uint8_t *r, size_t n) {
    uint64_t a = n ^ K4;
    for (; n >= 16; n -= 16, r += 16) a = fold(a ^ word(r), word(r + 8) ^ K1);
    uint64_t low = n >= 8 ? ~0ull : (1ull << 8 * n) - 1, high = n > 8 ? (1ull << 8 * (n - 8)) - 1 : 0;
    a = fold(fold(a ^ (word(r) & low) ^ K0, (word(r + 8) & high) ^ K1) ^ K2, K3);
    return (uint32_t)(a >> 32) ^ (uint32_t)a;
}

/* before: the record that stands before it in the block, or NULL. */
static inline uint32_t cut_hash(const uint8_t *before, const uint8_t *r, size_t n, uint8_t delimiter) {
    size_t front = before ? told_by(before, r, n, delimiter) : 0;
    return front ? front_hash(r, front) : record_hash(r, n);
}

/* What a chunk that holds quotes, CR or starts inside quotes needs. */
typedef struct carry {
    uint64_t inside; /* all ones: the next chunk starts inside quotes */
    bool closed;     /* the last byte of the last chunk with quotes closed them */
    uint64_t split;  /* line ends inside quotes, of the last chunk that had something to look at */
    size_t split_at; /* that chunk */
    bool was_split;  /* there were such in chunks before it */
} carry;

/* Line ends of the chunk at p[i..): lone CRs count, the CR of CRLF does not, nothing inside quotes does. */
static inline uint64_t hard_ends(carry *k, bsi_chunk c, uint64_t lf, uint64_t cr, uint64_t quote, uint64_t valid,
                                 const bsi_dialect *d, const uint8_t *p, size_t i, size_t n, bool at_end) {
    uint64_t inside = k->inside;
    if (quote) {
        uint64_t stops = lf | cr | (bsi_chunk_eq(c, (uint8_t)d->delimiter) & valid);
        bool closed = k->closed && i && p[i - 1] == (uint8_t)d->quote;
        uint64_t before = i ? bsi_chunk_before(p[i - 1], (uint8_t)d->delimiter, closed) : 1;
        inside = bsi_chunk_inside(&quote, stops, before, k->inside);
        k->closed = (quote & ~inside) >> 63;
        k->inside = (uint64_t)((int64_t)inside >> 63);
    }
    if (cr) {
        uint64_t next_lf = i + 64 < n && p[i + 64] == '\n' ? 1ull << 63 : 0;
        cr &= ~(lf >> 1 | next_lf);
        if (!at_end && n - i <= 64) cr &= ~(1ull << (n - i - 1)); /* its LF may come with the next bytes */
    }
    k->was_split |= k->split != 0;
    k->split = (lf | cr) & inside;
    k->split_at = i;
    return (lf | cr) & ~inside;
}

/* Of a block that ends before the byte `end`: do all line ends in it end records, or blank lines? */
static inline uint32_t line_flag(const carry *k, size_t end) {
    uint64_t before = end - k->split_at < 64 ? (1ull << (end - k->split_at)) - 1 : ~0ull;
    return k->was_split || (k->split & before) ? 0 : BSI_CUT_LINES;
}

int CUT_NAME(bsi_cut *out, const bsi_cut_options *o, const uint8_t *p, size_t n, bool at_end) {
    const uint32_t target = o->size.records, least = o->size.least;
    const uint32_t most = target > 65535 / BSI_BLOCK_RECORDS_MAX_FACTOR ? 65535 : target * BSI_BLOCK_RECORDS_MAX_FACTOR;
    const uint32_t below = UINT32_MAX / (target - least + 1); /* cut if hash <= below */
    const uint64_t quotes = o->dialect.quote ? ~0ull : 0;
    const uint8_t quote_byte = (uint8_t)o->dialect.quote, delimiter = (uint8_t)o->dialect.delimiter;
    uint32_t records = 0, blanks = 0;
    size_t start = 0; /* of the record */
    const uint8_t *before = NULL;
    carry k = {0};
    for (size_t i = 0; i < n; i += 64) {
        bsi_chunk c = bsi_chunk_load(p + i);
        uint64_t lf = bsi_chunk_eq(c, '\n'), cr = bsi_chunk_eq(c, '\r'), quote = bsi_chunk_eq(c, quote_byte) & quotes;
        uint64_t valid = ~0ull;
        if (__builtin_expect(n - i < 64, 0)) {
            valid = (1ull << (n - i)) - 1;
            lf &= valid;
            cr &= valid;
            quote &= valid;
        }
        uint64_t ends = lf;
        if (cr | quote | k.inside) ends = hard_ends(&k, c, lf, cr, quote, valid, &o->dialect, p, i, n, at_end);
        for (; ends; ends &= ends - 1) {
            size_t e = i + (size_t)__builtin_ctzll(ends);
            size_t stop = e > start && p[e] == '\n' && p[e - 1] == '\r' ? e - 1 : e;
            bool blank = stop == start;
            bool cut = e + 1 >= BSI_BLOCK_BYTES_MAX;
            if (blank) {
                blanks++;
            } else if (cut && e + 1 - start > BSI_RECORD_BYTES_MAX) {
                *out = (bsi_cut){.bytes = start, .records = records, .blanks = blanks};
                return bsi_cut_oversize(out, o, p, n, e + 1, at_end);
            } else {
                if (++records >= least && !cut) cut = records >= most || cut_hash(before, p + start, stop - start, delimiter) <= below;
                before = p + start;
            }
            start = e + 1;
            if (!cut) continue;
            *out = (bsi_cut){start, records, blanks, (p[e] == '\r' ? BSI_CUT_LONE_CR : 0u) | line_flag(&k, e + 1)};
            return 1;
        }
    }
    *out = (bsi_cut){.bytes = start, .records = records, .blanks = blanks};
    if (n - start > BSI_RECORD_BYTES_MAX) return bsi_cut_oversize(out, o, p, n, 0, at_end);
    if (!at_end) {
        *out = (bsi_cut){0};
        return 0;
    }
    out->flags = BSI_CUT_AT_END | line_flag(&k, n);
    if (start < n) {
        out->records++;
        out->flags |= BSI_CUT_NO_LINE_END | (k.inside ? BSI_CUT_OPEN_QUOTE : 0);
    } else if (n && p[n - 1] == '\r') {
        out->flags |= BSI_CUT_LONE_CR;
    }
    out->bytes = n;
    return 1;
}
