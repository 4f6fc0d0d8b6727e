/* emit/emit_frame.c - told lines to one zstd frame, without a match finder.
 *
 *   repeats   3 new, 21 as 380 before | 1 new, 15 as 380 before | …     as the renderer noted them (flow/rendered.h)
 *   block     literals by Huffman codes, in four streams
 *             (literal length, match length, offset) by three FSE codes, last one first
 *   frame     28 b5 2f fd  a4  content size  block block … checksum
 *
 * Where lines repeat is known, so all that is left is to code it: this file writes what RFC 8878 says, and nothing that
 * a decoder need not understand. Against libzstd at level 1 it takes a third of the time, and makes a fifth more bytes.
 *
 * Codes are made of the counts of one block and serve the BLOCKS_A_CODE that follow it, so they must have a place for what
 * that block did not hold: each byte and number that can come at all counts as seen a little.
 *
 * All is decided by the slices: no time, no thread, no memory of an earlier frame.
 *
 * Tried and dropped: ZSTD_compressSequences with the same repeats. It works with the shared library of Debian 12, and makes
 * 2 % less, but takes half as long again (it makes its codes anew in each block, copies literals and looks for repeated
 * offsets itself), and is an experimental part of the library.
 */
#include <stdlib.h>

#include "emit/emit_frame_inner.h"
#include "flow/block.h"

enum {
    BLOCK_BYTES = 118 << 10,      /* aimed at; the format has 128 kB, and a repeat that crosses the border must fit in */
    BLOCKS_A_CODE = 16,           /* codes made anew cost a quarter of a block */
    REPEAT_BYTES_MAX = 8 << 10,   /* lines with a wider one take the careful way, */
    LEFT_BYTES_MAX = 64,          /* and those with more new bytes behind the last one */
    HUFFMAN_BITS_MAX = 11,        /* of the format, for literals */
    LL_LOG = 9, ML_LOG = 9, OF_LOG = 8, WEIGHT_LOG = 6, /* the largest that the format has */
    WEIGHT_CODES = 13,
    SEQUENCES_MIN = 4096
};

static void put_le(uint8_t *p, uint64_t v, uint32_t n) {
    for (uint32_t i = 0; i < n; i++, v >>= 8) p[i] = (uint8_t)v;
}

/* ---- FSE ---- */

/* Shares of 1 << log, in proportion to counts; at least one for each symbol that was counted. */
static void fse_share(fse *f, const uint32_t *count, uint32_t symbols, uint32_t log) {
    uint32_t size = 1u << log, given = 0;
    uint64_t total = 0;
    f->log = log;
    f->symbols = symbols;
    for (uint32_t i = 0; i < symbols; i++) total += count[i];
    for (uint32_t i = 0; i < symbols; i++) {
        uint64_t share = (count[i] * (uint64_t)size + total / 2) / total;
        f->norm[i] = (uint16_t)(count[i] && !share ? 1 : share);
        given += f->norm[i];
    }
    while (given != size) { /* the largest pays, or gets, what rounding left */
        uint32_t top = 0;
        for (uint32_t i = 1; i < symbols; i++)
            if (f->norm[i] > f->norm[top]) top = i;
        uint32_t step = given > size ? BSI_MIN(given - size, f->norm[top] / 2u) : 0;
        f->norm[top] = (uint16_t)(given > size ? f->norm[top] - step : f->norm[top] + (size - given));
        given = given > size ? given - step : size;
    }
}

/* What the decoder is told of the shares. */
static uint8_t *fse_write(uint8_t *out, const fse *f) {
    bits b = {.p = out};
    uint32_t threshold = 1u << f->log, width = f->log + 1, i = 0;
    int32_t remaining = (int32_t)threshold + 1;
    put_bits(&b, f->log - 5, 4);
    bool zero = false;
    while (remaining > 1) {
        if (zero) {
            uint32_t from = i;
            while (!f->norm[i]) i++;
            for (; from + 3 <= i; from += 3) {
                put_bits(&b, 3, 2);
                flush_bits(&b);
            }
            put_bits(&b, i - from, 2);
        }
        int32_t n = f->norm[i++], most = 2 * (int32_t)threshold - 1 - remaining;
        remaining -= n;
        zero = !n;
        n++;
        if (n >= (int32_t)threshold) n += most;
        put_bits(&b, (uint64_t)n, width - (n < most));
        flush_bits(&b);
        for (; remaining < (int32_t)threshold; threshold >>= 1) width--;
    }
    return b.p + (b.count != 0);
}

static void fse_build(fse *f) {
    uint32_t size = 1u << f->log, mask = size - 1, step = (size >> 1) + (size >> 3) + 3, at = 0;
    uint8_t spread[1 << 9];
    uint16_t first[64];
    for (uint32_t i = 0, sum = 0; i < f->symbols; sum += f->norm[i++]) {
        first[i] = (uint16_t)sum;
        for (uint32_t n = 0; n < f->norm[i]; n++, at = (at + step) & mask) spread[at] = (uint8_t)i;
    }
    for (uint32_t u = 0; u < size; u++)
        f->state[first[spread[u]]++] = (uint16_t)(size + u); /* NOLINT(clang-analyzer-core.*): shares add up to size, so all of spread is written */
    for (uint32_t i = 0, sum = 0; i < f->symbols; sum += f->norm[i++]) {
        uint32_t n = f->norm[i];
        if (!n) continue;
        uint32_t most = n == 1 ? f->log : f->log - high_bit(n - 1);
        f->symbol[i] = (fse_symbol){(most << 16) - (n << most), (int32_t)sum - (int32_t)n};
    }
}

/* ---- Huffman ---- */

typedef struct leaf {
    uint32_t count;
    uint16_t byte;
} leaf;

static int by_count(const void *a, const void *b) {
    const leaf *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? -1 : 1;
    return x->byte - y->byte;
}

/* Lengths of Huffman codes for n leaves, rarest first. */
static void code_lengths(uint8_t *length, const leaf *v, uint32_t n) {
    uint32_t weight[512];
    uint16_t parent[512];
    uint8_t depth[512];
    uint32_t leaf_at = 0, node_at = n, made = n;
    for (uint32_t i = 0; i < n; i++) weight[i] = v[i].count;
    for (; made < 2 * n - 1; made++) {
        weight[made] = 0;
        for (int k = 0; k < 2; k++) {
            bool take_leaf = leaf_at < n && (node_at == made || weight[leaf_at] <= weight[node_at]);
            uint32_t from = take_leaf ? leaf_at++ : node_at++;
            weight[made] += weight[from]; /* NOLINT(clang-analyzer-core.*): there are two leaves at least (huffman_build) */
            parent[from] = (uint16_t)made;
        }
    }
    depth[made - 1] = 0;
    for (uint32_t i = made - 1; i-- > 0;) depth[i] = (uint8_t)(depth[parent[i]] + 1);
    memcpy(length, depth, n);
}

/* No longer than HUFFMAN_BITS_MAX, and no code left over: rare ones get longer until all fit, then frequent ones shorter. */
static void limit_lengths(uint8_t *length, uint32_t n) {
    const uint32_t all = 1u << HUFFMAN_BITS_MAX;
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (length[i] > HUFFMAN_BITS_MAX) length[i] = HUFFMAN_BITS_MAX;
        used += all >> length[i];
    }
    while (used > all)
        for (uint32_t i = 0; i < n && used > all; i++)
            if (length[i] < HUFFMAN_BITS_MAX) {
                length[i]++;
                used -= all >> length[i];
            }
    while (used < all)
        for (uint32_t i = n; i-- > 0 && used < all;)
            if (length[i] > 1 && all >> length[i] <= all - used) {
                used += all >> length[i];
                length[i]--;
            }
}

static void write_weights(huffman *h, uint32_t most) {
    uint8_t weight[256];
    uint32_t count[WEIGHT_CODES] = {0}, n = h->top; /* the last one's follows from the others */
    for (uint32_t i = 0; i < n; i++) {
        weight[i] = h->bits[i] ? (uint8_t)(most + 1 - h->bits[i]) : 0;
        count[weight[i]]++;
    }
    fse f;
    fse_share(&f, count, WEIGHT_CODES, WEIGHT_LOG);
    fse_build(&f);
    bits b = {.p = fse_write(h->table + 1, &f)};
    uint32_t state[2] = {0};
    for (uint32_t i = n; i-- > 0;) {
        if (i + 2 >= n) state[i & 1] = fse_start(&f, weight[i]);
        else state[i & 1] = fse_next(&b, &f, state[i & 1], weight[i]);
        flush_bits(&b);
    }
    fse_end(&b, &f, state[1]);
    fse_end(&b, &f, state[0]);
    h->table_bytes = (uint32_t)(close_bits(&b) - h->table);
    h->table[0] = (uint8_t)(h->table_bytes - 1);
}

/* Bytes that may come have a count; at least two of them, and the last is above 1. */
static void huffman_build(huffman *h, const uint32_t count[256]) {
    leaf v[256];
    uint8_t length[256];
    uint32_t n = 0, per[HUFFMAN_BITS_MAX + 1] = {0}, next[HUFFMAN_BITS_MAX + 1], most = 0;
    for (uint32_t i = 0; i < 256; i++)
        if (count[i]) v[n++] = (leaf){count[i], (uint16_t)i};
    h->top = v[n - 1].byte;
    bsi_sort(v, n, sizeof *v, by_count);
    code_lengths(length, v, n);
    limit_lengths(length, n);
    memset(h->bits, 0, sizeof h->bits);
    for (uint32_t i = 0; i < n; i++) {
        h->bits[v[i].byte] = length[i];
        per[length[i]]++;
        most = BSI_MAX(most, length[i]);
    }
    for (uint32_t b = most, code = 0; b; b--) { /* the longest codes are the lowest */
        next[b] = code;
        code = (code + per[b]) >> 1;
    }
    for (uint32_t i = 0; i < 256; i++) h->code[i] = h->bits[i] ? next[h->bits[i]]++ << 8 | h->bits[i] : 0;
    write_weights(h, most);
}

/* ---- working memory ---- */

struct bsi_frame {
    const bsi_frame_loops *loops;
    fse ll, ml, of;
    huffman literal;
    bool codes;               /* are made, and the decoder has them */
    uint32_t blocks;          /* since they were */
    uint32_t rep[3];
    bool high;
    sequence *sequence;
    bsi_repeat *repeat;       /* of the careful way */
    uint32_t sequence_cap, repeat_cap;
    bsi_buf text, packed;
};

bsi_frame *bsi_frame_open(void) {
    bsi_frame *f = bsi_calloc(1, sizeof *f);
    f->loops = &bsi_frame_loops_scalar;
#if defined(__x86_64__)
    int isa = bsi_emit_isa();
    if (isa == BSI_ISA_AVX2) f->loops = &bsi_frame_loops_avx2;
    if (isa == BSI_ISA_AVX512) f->loops = &bsi_frame_loops_avx512;
#endif
    return f;
}

void bsi_frame_close(bsi_frame *f) {
    if (!f) return;
    free(f->sequence);
    free(f->repeat);
    bsi_buf_free(&f->text);
    bsi_buf_free(&f->packed);
    free(f);
}

/* ---- a block ---- */

static uint32_t number_repeats(bsi_frame *f, const bsi_repeat *r, uint32_t count, uint32_t bytes, numbered *what) {
    if (f->sequence_cap < count) {
        free(f->sequence);
        f->sequence_cap = BSI_MAX(count, (uint32_t)SEQUENCES_MIN);
        f->sequence = bsi_alloc(f->sequence_cap * sizeof *f->sequence);
    }
    return f->loops->number(f->sequence, f->rep, r, count, bytes, what);
}

static void make_codes(bsi_frame *f, const uint8_t *literal, uint32_t literals, const sequence *s, uint32_t count) {
    uint32_t byte[256] = {0}, ll[LL_CODES], ml[ML_CODES], of[OF_CODES];
    for (uint32_t i = 0; i < literals; i++) byte[literal[i]] += 16;
    byte['\n']++;
    for (uint32_t i = ' '; i < (f->high ? 256 : 128); i++) byte[i]++;
    for (uint32_t i = 0; i < LL_CODES; i++) ll[i] = 1;
    for (uint32_t i = 0; i < ML_CODES; i++) ml[i] = 1;
    for (uint32_t i = 0; i < OF_CODES; i++) of[i] = 1;
    for (uint32_t i = 0; i < count; i++) {
        ll[s[i].ll_code] += 16;
        ml[s[i].ml_code] += 16;
        of[s[i].of_code] += 16;
    }
    huffman_build(&f->literal, byte);
    fse_share(&f->ll, ll, LL_CODES, LL_LOG);
    fse_share(&f->ml, ml, ML_CODES, ML_LOG);
    fse_share(&f->of, of, OF_CODES, OF_LOG);
    fse_build(&f->ll);
    fse_build(&f->ml);
    fse_build(&f->of);
    f->blocks = 0;
}

static uint8_t *raw_literals(uint8_t *o, const uint8_t *p, uint32_t n) {
    uint32_t head = n < 32 ? 1 : n < 4096 ? 2 : 3;
    put_le(o, head == 1 ? n << 3 : (uint64_t)n << 4 | (head == 2 ? 4 : 12), head);
    memcpy(o + head, p, n);
    return o + head + n;
}

static uint8_t *coded_literals(uint8_t *o, const bsi_frame *f, bool fresh, const uint8_t *p, uint32_t n) {
    if (n < 64 && !fresh) return raw_literals(o, p, n);
    const huffman *h = &f->literal;
    bool one = n < 256; /* else four streams, which a decoder reads side by side */
    uint32_t head = n < 256 ? 3 : n < 4096 ? 4 : 5, width = head == 3 ? 10 : head == 4 ? 14 : 18;
    uint8_t *body = o + head, *q = body;
    if (fresh) {
        memcpy(q, h->table, h->table_bytes);
        q += h->table_bytes;
    }
    if (one) {
        q = f->loops->literals(q, h->code, p, n);
    } else {
        uint8_t *sizes = q;
        uint32_t part = (n + 3) / 4;
        q += 6;
        for (uint32_t i = 0; i < 4; i++) {
            uint8_t *end = f->loops->literals(q, h->code, p + i * part, i < 3 ? part : n - 3 * part);
            if (i < 3) put_le(sizes + 2 * i, (uint64_t)(end - q), 2);
            q = end;
        }
    }
    uint64_t size = (uint64_t)(q - body), format = one ? 0 : (uint64_t)(head - 2);
    if (!fresh && size + head >= n) return raw_literals(o, p, n);
    put_le(o, (fresh ? 2 : 3) | format << 2 | (uint64_t)n << 4 | size << (4 + width), head);
    return q;
}

/* text[0..bytes) is what the sequences and the literals behind them stand for. */
static void put_block(bsi_buf *out, bsi_frame *f, const sequence *s, uint32_t count, const uint8_t *literal, uint32_t literals,
                      const uint8_t *text, uint32_t bytes, const uint32_t rep_before[3], bool last) {
    bool fresh = !f->codes || f->blocks >= BLOCKS_A_CODE, poor = fresh && (literals < 64 || !count); /* nothing to make codes of */
    if (poor && f->codes) fresh = poor = false;
    f->packed.len = 0;
    bsi_buf_reserve(&f->packed, (size_t)literals * 2 + (size_t)count * 12 + 2048);
    uint8_t *start = f->packed.data, *o = start;
    if (fresh && !poor) make_codes(f, literal, literals, s, count);
    f->blocks++;
    if (poor) fresh = false;
    else o = coded_literals(o, f, fresh, literal, literals);
    if (poor) {
        o = start + bytes; /* so it goes as it is */
    } else if (count < 128) {
        *o++ = (uint8_t)count;
    } else if (count < 0x7f00) {
        *o++ = (uint8_t)(128 + (count >> 8));
        *o++ = (uint8_t)count;
    } else {
        *o++ = 255;
        put_le(o, count - 0x7f00, 2);
        o += 2;
    }
    if (count && !poor) {
        *o++ = fresh ? 0xa8 : 0xfc; /* three tables, or those of before */
        if (fresh) {
            o = fse_write(o, &f->ll);
            o = fse_write(o, &f->of);
            o = fse_write(o, &f->ml);
        }
        o = f->loops->sequences(o, &f->ll, &f->ml, &f->of, s, count);
    }
    uint32_t size = (uint32_t)(o - start);
    bool raw = size >= bytes;
    bsi_buf_reserve(out, (raw ? bytes : size) + 16);
    put_le(out->data + out->len, (raw ? 0u : 4u) | (uint32_t)last | (raw ? bytes : size) << 3, 3);
    memcpy(out->data + out->len + 3, raw ? text : start, raw ? bytes : size);
    out->len += 3 + (raw ? bytes : size);
    if (raw) memcpy(f->rep, rep_before, 3 * sizeof *rep_before); /* the decoder saw nothing of it */
    if (fresh) f->codes = !raw;
}

/* ---- a slice ---- */

/* The repeats of bytes from..to of the lines as what stands behind `source` alone allows. */
static uint32_t clip_repeats(bsi_frame *f, const bsi_lines *l, uint64_t source, uint64_t from, uint64_t to) {
    uint64_t at = 0;
    uint32_t n = 0, fresh = 0;
    f->text.len = 0;
    for (uint32_t i = 0; i <= l->repeat_count && at < to; i++) {
        const bsi_repeat *r = i < l->repeat_count ? &l->repeat[i + 1] : NULL;
        uint64_t middle = r ? at + r->literals : to, end = r ? middle + r->match : to;
        uint64_t a = BSI_MAX(at, from), b = BSI_MIN(middle, to), c = BSI_MIN(end, to);
        at = end;
        if (end <= from) continue;
        uint64_t m = BSI_MAX(BSI_MAX(a, b), from); /* the match that is left: m..c */
        m = BSI_MAX(m, BSI_MIN(middle, c));
        bool keep = r && c >= m + 3 && m - r->offset >= source && r->offset <= m;
        uint64_t new_end = keep ? m : c;
        if (new_end > a) {
            bsi_buf_add(&f->text, l->text.data + a, new_end - a);
            fresh += (uint32_t)(new_end - a);
        }
        if (!keep) continue;
        if (n == f->repeat_cap) f->repeat = bsi_realloc(f->repeat, (f->repeat_cap = f->repeat_cap ? f->repeat_cap * 2 : 1024) * sizeof *f->repeat);
        f->repeat[n++] = (bsi_repeat){fresh, (uint32_t)(c - m), r->offset};
        fresh = 0;
    }
    return n;
}

/* Bytes start..end of lines, of which what stands before `source` is no part of the frame. */
static void careful_slice(bsi_buf *out, bsi_frame *f, hashes *h, const bsi_lines *l, uint64_t source, uint64_t start, uint64_t end, bool last) {
    uint64_t blocks = (end - start + BLOCK_BYTES - 1) / BLOCK_BYTES, each = (end - start + blocks - 1) / blocks;
    for (uint64_t from = start; from < end; from += each) {
        uint64_t to = BSI_MIN(from + each, end);
        uint32_t rep[3] = {f->rep[0], f->rep[1], f->rep[2]}, n = clip_repeats(f, l, source, from, to);
        numbered what;
        number_repeats(f, f->repeat, n, UINT32_MAX, &what);
        f->loops->hash(h, l->text.data + from, to - from);
        bsi_buf_reserve(&f->text, 64);
        put_block(out, f, f->sequence, n, f->text.data, (uint32_t)f->text.len, l->text.data + from, (uint32_t)(to - from), rep, last && to == end);
    }
}

/* Lines as they are, but for a block in which a repeat is so wide that it could get too large: it and what follows go the
 * careful way. */
static void whole_lines(bsi_buf *out, bsi_frame *f, hashes *h, const bsi_lines *l, bool last) {
    const uint8_t *text = l->text.data, *literal = l->literal.data, *stop = text + l->text.len;
    uint32_t at = 0;
    uint64_t blocks = (l->text.len + BLOCK_BYTES - 1) / BLOCK_BYTES, each = (l->text.len + blocks - 1) / blocks;
    while (text < stop) {
        uint32_t rep[3] = {f->rep[0], f->rep[1], f->rep[2]};
        numbered what;
        uint32_t n = number_repeats(f, l->repeat + 1 + at, l->repeat_count - at, (uint32_t)each, &what);
        if (what.widest >= REPEAT_BYTES_MAX / 2) {
            memcpy(f->rep, rep, sizeof rep);
            careful_slice(out, f, h, l, 0, (uint64_t)(text - l->text.data), l->text.len, last);
            return;
        }
        at += n;
        if (at == l->repeat_count) { /* what is left is new, and fits in */
            what.literals += (uint32_t)(stop - text) - what.bytes;
            what.bytes = (uint32_t)(stop - text);
        }
        f->loops->hash(h, text, what.bytes);
        put_block(out, f, f->sequence, n, literal, what.literals, text, what.bytes, rep, last && text + what.bytes == stop);
        text += what.bytes;
        literal += what.literals;
    }
}

void bsi_frame_make(bsi_buf *out, bsi_hash128 *content, bsi_frame *f, const bsi_slice *slices, size_t count) {
    uint64_t bytes = 0;
    f->high = f->codes = false;
    f->blocks = 0;
    f->rep[0] = 1, f->rep[1] = 4, f->rep[2] = 8;
    for (size_t i = 0; i < count; i++) {
        bytes += bsi_slice_bytes(&slices[i]);
        f->high |= slices[i].lines->high;
    }
    hashes h;
    XXH3_128bits_reset(&h.xxh3);
    XXH64_reset(&h.xxh64, 0);
    out->len = 0;
    bsi_buf_reserve(out, bytes / 8 + 64);
    memcpy(out->data, "\x28\xb5\x2f\xfd\xa4", 5);
    put_le(out->data + 5, bytes, 4);
    out->len = 9;
    for (size_t i = 0; i < count; i++) {
        const bsi_slice *s = &slices[i];
        const bsi_lines *l = s->lines;
        uint64_t start = bsi_slice_start(s);
        if (!s->first && s->count == l->count && l->repeat_count && l->left <= LEFT_BYTES_MAX) whole_lines(out, f, &h, l, i + 1 == count);
        else careful_slice(out, f, &h, l, start, start, start + bsi_slice_bytes(s), i + 1 == count);
    }
    put_le(out->data + out->len, XXH64_digest(&h.xxh64), 4);
    out->len += 4;
    XXH128_hash_t x = XXH3_128bits_digest(&h.xxh3);
    *content = (bsi_hash128){x.low64, x.high64};
}
