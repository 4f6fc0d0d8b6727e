/* parse/parse_block.c - the records of a block in canonical form.
 *
 *   bytes  S-1,1000,"Bolt, M8",\n            columns: id, plant, text, note; key plant,id
 *   index  ends of fields and records, found 64 bytes at a time (parse_index_loop.h)
 *   enc    04 1000 03 S-1 08 Bolt, M8 | 00   slots in order; the body up to "M8", then no nulls
 *
 * Simple records take a way of their own where the machine allows it (parse_simple_vbmi2.c); for the others there is
 * the index, and three ways for a record of the right number of fields. Plain: copy what stands between two ends,
 * without its quotes. Odd: the same, but the few fields with a doubled quote, or a bare one that is data, are unquoted
 * first. Careful: for the rest (NUL, invalid UTF-8, bare quotes when strict, sizes): looks at each field, and knows why
 * a record is kept back.
 *
 * All rows of a block are written before the first is hashed: hashed at once, each load met the stores just made
 * and waited for them.
 */
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "parse/parse_inner.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct bsi_parse_scratch {
    bsi_parse_index ix;
    uint32_t *nulls;         /* slots that are null in the record at hand */
    bsi_parse_field *column; /* careful way: fields as they stand */
    bsi_field *slot;
    uint32_t slot_cap, column_cap;
    bsi_buf text;
} scratch;

/* One block on its way. */
typedef struct job {
    bsi_rows *out;
    const bsi_layout *l;
    const uint8_t *p;
    size_t n;
    uint32_t base; /* p stands so far behind the start of the block */
    scratch *s;
    uint32_t slots;    /* slots to write: all, or the key's */
    uint64_t null_lengths; /* bit n: a null text has n bytes (63: or more) */
    uint64_t null_first;   /* bit b & 63: one starts with byte b */
    bool check_utf8, careful;
} job;

typedef struct record { /* of the block */
    uint32_t row, start, stop; /* bytes without the line end */
    uint32_t *pos;     /* pos[c]: end of column c; pos[-1] + 1 == start */
    uint32_t fields;
    const uint32_t *odd; /* [odd_count] bytes that need care */
    size_t odd_count;
    bool oversize;
} record;

/* ---- room ---- */

void bsi_parse_rows_room(bsi_rows *r, size_t count) {
    if (count < r->cap) return;
    uint32_t cap = (uint32_t)(count + count / 2 + 16);
    r->kh = bsi_realloc(r->kh, cap * sizeof *r->kh);
    r->rh = bsi_realloc(r->rh, cap * sizeof *r->rh);
    r->raw = bsi_realloc(r->raw, ((size_t)cap + 1) * sizeof *r->raw);
    r->image = bsi_realloc(r->image, ((size_t)cap + 1) * sizeof *r->image);
    r->body = bsi_realloc(r->body, cap * sizeof *r->body);
    r->key = bsi_realloc(r->key, cap * sizeof *r->key);
    r->starts = bsi_realloc(r->starts, cap * sizeof *r->starts);
    r->bad = bsi_realloc(r->bad, cap * sizeof *r->bad);
    r->cap = cap;
}

static void make_scratch(bsi_rows *r, const bsi_layout *l) {
    if (!r->scratch) r->scratch = bsi_calloc(1, sizeof *r->scratch);
    scratch *s = r->scratch;
    if (s->slot_cap < l->slot_count + 1) {
        s->slot_cap = l->slot_count + 1;
        s->nulls = bsi_realloc(s->nulls, s->slot_cap * sizeof *s->nulls);
        s->slot = bsi_realloc(s->slot, s->slot_cap * sizeof *s->slot);
    }
    if (s->column_cap < l->column_count + 1) {
        s->column_cap = l->column_count + 1;
        s->column = bsi_realloc(s->column, s->column_cap * sizeof *s->column);
    }
}

void bsi_rows_free(bsi_rows *r) {
    free(r->kh);
    free(r->rh);
    free(r->raw);
    free(r->image);
    free(r->body);
    free(r->key);
    free(r->starts);
    free(r->bad);
    bsi_buf_free(&r->enc);
    for (uint32_t i = 0; i < r->bad_cap; i++) bsi_buf_free(&r->bads[i].partition);
    free(r->bads);
    if (r->scratch) {
        bsi_parse_index_free(&r->scratch->ix);
        free(r->scratch->nulls);
        free(r->scratch->column);
        free(r->scratch->slot);
        bsi_buf_free(&r->scratch->text);
        free(r->scratch);
    }
    *r = (bsi_rows){0};
}

const char *bsi_rule_name(bsi_rule r) {
    static const char *const names[] = {"",         "columns",     "quote",     "encoding",  "nul",
                                        "field-size", "record-size", "key-empty", "duplicate", "unfinished"};
    return (unsigned)r < sizeof names / sizeof *names ? names[r] : "";
}

static bsi_bad_row *add_bad(bsi_rows *out, uint32_t row, bsi_rule rule, uint32_t byte, uint32_t column) {
    if (out->bad_count == out->bad_cap) {
        uint32_t cap = out->bad_cap ? out->bad_cap * 2 : 8;
        out->bads = bsi_realloc(out->bads, cap * sizeof *out->bads);
        memset(out->bads + out->bad_cap, 0, (cap - out->bad_cap) * sizeof *out->bads);
        out->bad_cap = cap;
    }
    bsi_bad_row *b = &out->bads[out->bad_count++];
    bsi_buf partition = b->partition; /* its memory is used again */
    partition.len = 0;
    *b = (bsi_bad_row){.row = row, .rule = rule, .byte = byte, .column = column, .partition = partition};
    out->bad[row] = (uint8_t)rule;
    return b;
}

static bool is_null(const bsi_layout *l, const uint8_t *p, uint32_t len) {
    for (uint32_t i = 0; i < l->null_count; i++)
        if (l->null_bytes[i] == len && memcmp(l->nulls[i], p, len) == 0) return true;
    return false;
}

/* Two bits tell most fields from all null texts. */
INLINE bool may_be_null(const job *j, const uint8_t *p, uint32_t len) {
    return (j->null_lengths >> BSI_MIN(len, 63u) & 1) && (!len || (j->null_first >> (*p & 63) & 1));
}

/* ---- the fast way ---- */

/* Reads and writes up to 32 bytes past len: both ends have a margin. */
INLINE uint8_t *put_field(uint8_t *o, const uint8_t *p, uint32_t len) {
    if (__builtin_expect(len < 128, 1)) *o++ = (uint8_t)len;
    else o = bsi_varint_put(o, len);
    memcpy(o, p, 16);
    if (__builtin_expect(len > 16, 0)) {
        memcpy(o + 16, p + 16, 16);
        if (len > 32) memcpy(o + 32, p + 32, len - 32);
    }
    return o + len;
}

INLINE uint8_t *put_nulls(uint8_t *o, const uint32_t *nulls, uint32_t count) {
    o = bsi_varint_put(o, count);
    for (uint32_t i = 0; i < count; i++) o = bsi_varint_put(o, nulls[i]);
    return o;
}

enum { ODD_MAX = 16 }; /* a record with more takes the careful way: each field asks them all */

INLINE bool has_odd(const record *r, uint32_t from, uint32_t to) {
    for (size_t i = 0; i < r->odd_count; i++)
        if (r->odd[i] >= from && r->odd[i] < to) return true;
    return false;
}

INLINE void encode(const job *j, const record *r, bool quotes, bool general, bool odd) {
    const bsi_layout *l = j->l;
    const uint8_t *p = j->p;
    const int32_t *column_of = l->column_of;
    const uint32_t slots = j->slots, keys = l->key_count;
    const uint8_t quote = (uint8_t)l->dialect.quote;
    bsi_rows *out = j->out;
    bsi_buf_reserve(&out->enc, (size_t)(r->stop - r->start) + (size_t)slots * 8 + 96);
    uint8_t *begin = out->enc.data + out->enc.len, *o = begin, *used = begin;
    uint32_t nulls = 0;
    for (uint32_t s = 0; s < slots; s++) {
        int32_t c = column_of[s];
        if (general && c < 0) {
            *o++ = 0;
            j->s->nulls[nulls++] = s;
            continue;
        }
        uint32_t from = r->pos[c - 1] + 1, len = r->pos[c] - from;
        const uint8_t *text = p + from;
        if (odd && has_odd(r, from, from + len)) {
            bsi_parse_field f;
            bsi_parse_unquote(&f, &j->s->text, &l->dialect, p, from, from + len);
            text = f.p;
            len = f.len;
        } else if (quotes && len && *text == quote) {
            text++;
            len -= 2;
        }
        if (general && may_be_null(j, text, len) && is_null(l, text, len)) {
            len = 0;
            j->s->nulls[nulls++] = s;
        }
        o = put_field(o, text, len);
        if (len || s < keys) used = o;
        if (s + 1 == keys) out->key[r->row] = (uint32_t)(o - begin);
    }
    out->body[r->row] = (uint32_t)(used - begin);
    if (general) used = put_nulls(used, j->s->nulls, nulls);
    else *used++ = 0;
    out->enc.len = (size_t)(used - out->enc.data);
}

static void encode_fields(const job *j, const record *r) { encode(j, r, false, false, false); }

/* Reads and writes up to 31 bytes past len: both ends have a margin. */
INLINE void copy_over(uint8_t *o, const uint8_t *p, size_t len) {
    for (size_t k = 0; k < len; k += 32) memcpy(o + k, p + k, 32);
}

/* Without quotes a body has as many bytes as the record: a length before each field in place of a delimiter behind it. So
 * columns that stand in the order of their slots are copied as a whole, one byte further on, and the lengths are put over
 * the delimiters. Field by field took three times as long.
 *
 *   record   1 0 0 0 , S - 1 , , E A           body   4 1 0 0 0 3 S - 1 0 2 E A
 */
static void encode_plain(const job *j, const record *r) {
    const bsi_layout *l = j->l;
    const uint32_t slots = j->slots, keys = l->key_count;
    bsi_rows *out = j->out;
    bsi_buf_reserve(&out->enc, (size_t)(r->stop - r->start) + (size_t)slots + 128);
    uint8_t *begin = out->enc.data + out->enc.len, *o = begin;
    uint32_t longest = 0, key = 0;
    for (const bsi_stretch *t = l->stretch; t < l->stretch + l->stretch_count && t->slot < slots; t++) {
        uint32_t count = BSI_MIN(t->count, slots - t->slot);
        const uint32_t *end = r->pos + t->column;
        uint32_t from = end[-1] + 1, last = from - 1;
        copy_over(o + 1, j->p + from, end[count - 1] - from);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t len = end[i] - last - 1;
            o[last + 1 - from] = (uint8_t)len;
            longest |= len;
            last = end[i];
        }
        if (keys - t->slot - 1 < count) key = (uint32_t)(o - begin) + end[keys - t->slot - 1] + 1 - from;
        o += last + 1 - from;
    }
    if (__builtin_expect(longest > 127, 0)) {
        encode_fields(j, r); /* lengths of more than one byte */
        return;
    }
    while (o > begin + key && !o[-1]) o--; /* a plain record has no NUL: these are lengths */
    out->key[r->row] = key;
    out->body[r->row] = (uint32_t)(o - begin);
    *o++ = 0;
    out->enc.len = (size_t)(o - out->enc.data);
}

static void encode_quoted(const job *j, const record *r) { encode(j, r, true, false, false); }
static void encode_general(const job *j, const record *r) { encode(j, r, true, true, false); }

static void encode_odd(const job *j, const record *r) {
    j->s->text.len = 0;
    bsi_buf_reserve(&j->s->text, (size_t)(r->stop - r->start) + 64);
    encode(j, r, true, true, true);
}

/* Strict: nothing but doubled quotes. Of these the index gives the first; of a run of bare ones the last has none behind it. */
static bool odd_is_data(const job *j, const record *r) {
    if (r->odd_count > ODD_MAX || j->s->ix.nul) return false;
    for (size_t i = 0; i < r->odd_count && !j->l->dialect.lenient; i++)
        if (r->odd[i] + 1 >= r->stop || j->p[r->odd[i] + 1] != (uint8_t)j->l->dialect.quote) return false;
    return true;
}

/* ---- the careful way ---- */

static bool field_clean(const job *j, const bsi_parse_field *f) {
    return (j->l->dialect.lenient || f->bare == UINT32_MAX) && !f->unclosed && f->len <= BSI_FIELD_BYTES_MAX &&
           !(j->s->ix.nul && f->len && memchr(f->p, 0, f->len)) && !(j->check_utf8 && bsi_parse_utf8(f->p, f->len) != f->len);
}

/* The first rule that a record breaks, in the order of bsi_rule; *column, *byte say where. */
static bsi_rule broken_rule(const job *j, const record *r, uint32_t have, uint32_t *column, uint32_t *byte) {
    const bsi_parse_field *f = j->s->column;
    *column = UINT32_MAX;
    *byte = r->start;
    if (r->oversize) return BSI_RULE_RECORD_SIZE;
    if (r->fields != j->l->column_count) return BSI_RULE_COLUMNS;
    for (bsi_rule rule = BSI_RULE_QUOTE; rule <= BSI_RULE_FIELD_SIZE; rule++)
        for (uint32_t c = 0; c < have; c++) {
            uint32_t from = r->pos[(int64_t)c - 1] + 1, len = r->pos[c] - from;
            const uint8_t *nul;
            *column = c;
            *byte = from;
            switch (rule) {
            case BSI_RULE_QUOTE:
                if (f[c].unclosed) return rule;
                if (f[c].bare == UINT32_MAX || j->l->dialect.lenient) continue;
                *byte = f[c].bare;
                return rule;
            case BSI_RULE_ENCODING:
                if (!j->check_utf8 || bsi_parse_utf8(f[c].p, f[c].len) == f[c].len) continue;
                *byte = from + (uint32_t)bsi_parse_utf8(j->p + from, len);
                return rule;
            case BSI_RULE_NUL:
                nul = j->s->ix.nul && len ? memchr(j->p + from, 0, len) : NULL;
                if (!nul) continue;
                *byte = (uint32_t)(nul - j->p);
                return rule;
            default:
                if (f[c].len > BSI_FIELD_BYTES_MAX) return rule;
            }
        }
    *column = UINT32_MAX;
    *byte = r->start;
    return BSI_RULE_NONE;
}

static void tell_partition(const job *j, bsi_bad_row *b, uint32_t have) {
    const bsi_layout *l = j->l;
    b->partition_read = l->partition < 0;
    if (l->partition < 0) return;
    int32_t c = l->column_of[l->partition];
    if (c < 0 || (uint32_t)c >= have || !field_clean(j, &j->s->column[c])) return;
    bool empty = b->rule == BSI_RULE_KEY_EMPTY;
    b->partition_read = !empty;
    const bsi_parse_field *f = &j->s->column[c];
    if (!empty && !is_null(l, f->p, f->len)) bsi_buf_add(&b->partition, f->p, f->len);
}

/* Fields as they stand; returns how many of the layout's columns are there. */
static uint32_t read_columns(const job *j, const record *r) {
    scratch *s = j->s;
    uint32_t have = BSI_MIN(r->fields, j->l->column_count);
    if (r->oversize && r->fields <= have) have = r->fields - 1; /* its last field may be cut off */
    s->text.len = 0;
    bsi_buf_reserve(&s->text, (size_t)(r->stop - r->start) + 64);
    for (uint32_t c = 0; c < have; c++)
        bsi_parse_unquote(&s->column[c], &s->text, &j->l->dialect, j->p, r->pos[(int64_t)c - 1] + 1, r->pos[c]);
    return have;
}

static void careful(const job *j, const record *r) {
    const bsi_layout *l = j->l;
    bsi_rows *out = j->out;
    uint32_t have = read_columns(j, r), column, byte;
    bsi_rule rule = broken_rule(j, r, have, &column, &byte);
    bool key_read = true;
    for (uint32_t s = 0; s < j->slots; s++) {
        int32_t c = l->column_of[s];
        bool there = c >= 0 && (uint32_t)c < have;
        const bsi_parse_field *f = there ? &j->s->column[c] : NULL;
        bool clean = there && (rule == BSI_RULE_NONE || field_clean(j, f));
        if (s < l->key_count && !clean) key_read = false;
        bool null = !clean || is_null(l, f->p, f->len); /* of a bad row what cannot be read is null */
        j->s->slot[s] = null ? (bsi_field){j->p, 0, true} : (bsi_field){f->p, f->len, false};
    }
    out->body[r->row] = bsi_image_build(&out->enc, j->s->slot, j->slots, l->key_count, &out->key[r->row]);
    bool empty = l->key_count && key_read && out->key[r->row] == l->key_count;
    if (!rule && empty) {
        rule = BSI_RULE_KEY_EMPTY;
        column = (uint32_t)l->column_of[0];
    }
    if (!rule) return;
    bsi_bad_row *b = add_bad(out, r->row, rule, j->base + byte, column);
    b->key_read = key_read && !empty;
    tell_partition(j, b, have);
}

/* ---- records ---- */

/* A record whose key has no text was copied all the same; now it is kept back. */
static void check_key(const job *j, const record *r) {
    if (!j->l->key_count || j->out->key[r->row] != j->l->key_count) return;
    bsi_bad_row *b = add_bad(j->out, r->row, BSI_RULE_KEY_EMPTY, j->base + r->start, (uint32_t)j->l->column_of[0]);
    b->partition_read = j->l->partition < 0;
}

static uint32_t content_end(const job *j, uint32_t start, uint32_t end) {
    if (!j->s->ix.cr || end >= j->n || end <= start) return end;
    return j->p[end] == '\n' && j->p[end - 1] == '\r' ? end - 1 : end;
}

/* Of an oversize record only the first BSI_RECORD_BYTES_MAX bytes may be given: then they have no end. */
static bool is_oversize(const job *j, uint32_t start, uint32_t end) {
    if (j->n < BSI_RECORD_BYTES_MAX) return false;
    bool front = end >= j->n || (end + 1 == j->n && j->p[end] == '\r');
    return (front && j->n == BSI_RECORD_BYTES_MAX) || BSI_MIN((size_t)end + 1, j->n) - start > BSI_RECORD_BYTES_MAX;
}

/* bare: the way for records without any quote. */
INLINE void walk(const job *j, void (*fast)(const job *, const record *), void (*bare)(const job *, const record *), bool look) {
    bsi_rows *out = j->out;
    bsi_parse_index *ix = &j->s->ix;
    uint32_t first = 1;
    size_t odd = 0, quote = 0;
    for (size_t k = 0; k < ix->end_count; k++) {
        uint32_t last = ix->end[k], end = ix->pos[last], start = ix->pos[first - 1] + 1, stop = content_end(j, start, end);
        uint32_t fields = last - first + 1;
        if (start == stop) {
            out->blanks++;
            first = last + 1;
            continue;
        }
        record r = {.row = out->count++, .start = start, .stop = stop, .pos = ix->pos + first, .fields = fields};
        out->raw[r.row] = j->base + start;
        out->image[r.row] = (uint32_t)out->enc.len;
        out->bad[r.row] = 0;
        out->key[r.row] = 0;
        ix->pos[last] = stop; /* for this record the line end is no data */
        bool care = fields != j->l->column_count;
        if (look) {
            r.oversize = is_oversize(j, start, end);
            for (r.odd = ix->odd + odd; odd < ix->odd_count && ix->odd[odd] < stop; odd++) r.odd_count++;
            while (quote < ix->quote_count && ix->quote[quote] < start) quote++;
            care = care || r.oversize || j->careful || (r.odd_count && !odd_is_data(j, &r));
        }
        if (__builtin_expect(care, 0)) {
            careful(j, &r);
        } else {
            if (look && r.odd_count) encode_odd(j, &r);
            else if (look && (quote == ix->quote_count || ix->quote[quote] >= stop)) bare(j, &r);
            else fast(j, &r);
            check_key(j, &r);
        }
        ix->pos[last] = end;
        first = last + 1;
    }
}

/* XXH3 of 17 to 128 bytes without asking how many: keys and records vary in length, and each wrong guess costs as much
 * as the hash. The words that a shorter text does not have are read elsewhere in it and not counted; both hashes begin
 * with the same words. */
INLINE uint64_t word_pair(const uint8_t *p, const uint8_t *secret) {
    return XXH3_mix16B(p, secret, 0);
}

/* most: what n cannot exceed. */
INLINE uint64_t tail(const uint8_t *p, size_t n, const uint8_t *secret, size_t most) {
    uint64_t over32 = n > 32 ? ~0ull : 0, over64 = n > 64 ? ~0ull : 0, over96 = n > 96 ? ~0ull : 0;
    uint64_t sum = n * XXH_PRIME64_1 + word_pair(p + n - 16, secret + 16);
    if (most > 32) sum += word_pair(p + ((n - 32) & over32), secret + 48) & over32;
    if (most > 64) sum += word_pair(p + ((n - 48) & over64), secret + 80) & over64;
    if (most > 96) sum += word_pair(p + ((n - 64) & over96), secret + 112) & over96;
    return sum;
}

INLINE uint64_t front(size_t n, const uint64_t word[4], size_t most) {
    return word[0] + (n > 32 ? word[1] : 0) + (most > 64 && n > 64 ? word[2] : 0) + (most > 96 && n > 96 ? word[3] : 0);
}

INLINE uint64_t finish(const uint8_t *p, size_t n, const uint64_t word[4], const uint8_t *secret, size_t most) {
    return XXH3_avalanche(front(n, word, most) + tail(p, n, secret, most));
}

INLINE bool is_middling(uint32_t n) {
    return n - 17 <= 128 - 17;
}

/* Of enc, which can be read 64 bytes past its end. Short keys are most keys, and rows are mostly all short or all not. */
INLINE void hash_both(uint64_t *kh, uint64_t *rh, const uint8_t *p, uint32_t key, uint32_t body,
                      const uint8_t *secret) {
    uint64_t word[4] = {word_pair(p, secret), word_pair(p + 16, secret + 32)};
    if (key <= 32 && body <= 64) {
        *kh = finish(p, key, word, secret, 32);
        *rh = finish(p, body, word, secret, 64);
        return;
    }
    word[2] = word_pair(p + 32, secret + 64);
    word[3] = word_pair(p + 48, secret + 96);
    *kh = key <= 32 ? finish(p, key, word, secret, 32) : finish(p, key, word, secret, 128);
    *rh = finish(p, body, word, secret, 128);
}

static void hash_rows(bsi_rows *out, const bsi_secret *secret, bool keys_only) {
    bsi_buf_reserve(&out->enc, 64);
    const uint8_t *enc = out->enc.data;
    for (uint32_t i = 0; i < out->count; i++) {
        const uint8_t *p = enc + out->image[i];
        uint32_t key = out->key[i], body = out->body[i];
        if (__builtin_expect(is_middling(key) && is_middling(body), 1)) {
            hash_both(&out->kh[i], &out->rh[i], p, key, body, secret->bytes);
        } else {
            out->kh[i] = bsi_xxh64_secret(p, key, secret);
            out->rh[i] = keys_only || out->bad[i] ? 0 : bsi_xxh64_secret(p, body, secret);
        }
    }
    for (uint32_t i = 0; keys_only && i < out->count; i++) out->rh[i] = 0;
    for (uint32_t i = 0; i < out->bad_count; i++) out->rh[out->bads[i].row] = 0;
}

INLINE uint64_t hash_middling(const uint8_t *p, uint32_t n, const uint8_t *secret) {
    const uint64_t word[4] = {word_pair(p, secret), word_pair(p + 16, secret + 32), word_pair(p + 32, secret + 64),
                              word_pair(p + 48, secret + 96)};
    return finish(p, n, word, secret, 128);
}

void bsi_rows_hash(bsi_rows *out, const bsi_secret *secret, bsi_hashes which) {
    if (which == BSI_HASH_BOTH) {
        hash_rows(out, secret, false);
        return;
    }
    bsi_buf_reserve(&out->enc, 64);
    const uint8_t *enc = out->enc.data;
    for (uint32_t i = 0; i < out->count; i++) {
        const uint8_t *p = enc + out->image[i];
        uint32_t body = out->body[i];
        out->rh[i] = __builtin_expect(is_middling(body), 1) ? hash_middling(p, body, secret->bytes) : bsi_xxh64_secret(p, body, secret);
    }
    for (uint32_t i = 0; i < out->bad_count; i++) out->rh[out->bads[i].row] = 0;
}

void bsi_rows_hash_some(bsi_rows *out, const bsi_secret *secret, uint64_t rows) {
    for (; rows; rows &= rows - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(rows);
        const uint8_t *p = out->enc.data + out->image[i];
        out->kh[i] = bsi_xxh64_secret(p, out->key[i], secret);
        out->rh[i] = bsi_xxh64_secret(p, out->body[i], secret);
    }
}

static bool is_utf8(const bsi_layout *l, const bsi_parse_index *ix, const uint32_t *high_at, const uint8_t *p,
                    size_t n) {
    bool ascii = !(((uint8_t)l->dialect.delimiter | (uint8_t)l->dialect.quote) & 0x80);
    return !ix->high_count || (ascii && bsi_parse_utf8_chunks(p, n, high_at, ix->high_count));
}

/* Simple records need no index. Of a block that is no UTF-8 none is simple. */
static uint32_t parse_simple(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t n) {
    bsi_parse_index *ix = &out->scratch->ix;
    size_t done = bsi_parse_simple(out, l, p, n, ix);
    if (is_utf8(l, ix, ix->pos, p, n)) return (uint32_t)done;
    out->count = out->blanks = 0;
    out->enc.len = 0;
    return 0;
}

static void parse_rest(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t n, uint32_t base, bool keys_only) {
    uint32_t first = out->count;
    bsi_parse_index *ix = &out->scratch->ix;
    bsi_parse_index_build(ix, &l->dialect, p, n);
    bsi_parse_rows_room(out, out->count + ix->end_count);
    bsi_buf_reserve(&out->enc, n + 64);
    job j = {.out = out,
             .l = l,
             .p = p,
             .n = n,
             .base = base,
             .s = out->scratch,
             .slots = keys_only ? l->key_count : l->slot_count};
    bool general = l->null_count || l->absent_count;
    j.check_utf8 = !is_utf8(l, ix, ix->high_at, p, n);
    j.careful = j.check_utf8 || ix->open || n > BSI_FIELD_BYTES_MAX;
    for (uint32_t i = 0; i < l->null_count; i++) {
        j.null_lengths |= 1ull << BSI_MIN(l->null_bytes[i], 63u);
        j.null_first |= 1ull << ((uint8_t)l->nulls[i][0] & 63);
    }
    if (general)
        walk(&j, encode_general, encode_general, true);
    else if (ix->quotes || ix->odd_count || j.careful)
        walk(&j, encode_quoted, encode_plain, true);
    else
        walk(&j, encode_plain, encode_plain, false);
    for (uint32_t i = first; i < out->count; i++) out->starts[i].word[0] = 0; /* not known */
}

void bsi_parse_block(bsi_rows *out, const bsi_layout *l, const bsi_secret *secret, const uint8_t *p, size_t n,
                     bool keys_only) {
    out->count = out->bad_count = out->blanks = 0;
    out->enc.len = 0;
    make_scratch(out, l);
    bsi_parse_rows_room(out, 0);
    uint32_t done = keys_only ? 0 : parse_simple(out, l, p, n);
    if (done < n) parse_rest(out, l, p + done, n - done, done, keys_only);
    out->raw[out->count] = (uint32_t)n;
    out->image[out->count] = (uint32_t)out->enc.len;
    if (secret) hash_rows(out, secret, keys_only);
}
