/* parse against a parser that looks at one byte after the other and knows nothing of masks. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "core/cpu.h"
#include "core/limits.h"
#include "flow/block.h"
#include "flow/rows.h"

enum { MARGIN = 64, COLUMNS = 6, FIELDS = 64, ROWS = 600 };

static uint64_t seed = 88172645463325252ull;
static uint64_t draw(uint64_t n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

/* ---- the plain parser ---- */

typedef struct plain_field {
    uint8_t text[2000];
    size_t len;
    bool bare;
} plain_field;

typedef struct plain_record {
    size_t start;
    size_t fields;
    plain_field f[FIELDS];
} plain_record;

static size_t plain_parse(plain_record *out, const bsi_dialect *d, const uint8_t *p, size_t n, size_t *blanks, bool *open) {
    size_t count = 0, i = 0;
    *blanks = 0;
    *open = false;
    while (i < n) {
        if (p[i] == '\n' || p[i] == '\r') {
            i += p[i] == '\r' && i + 1 < n && p[i + 1] == '\n' ? 2 : 1;
            ++*blanks;
            continue;
        }
        plain_record *r = &out[count++];
        r->start = i;
        r->fields = 0;
        for (bool more = true; more; r->fields++) {
            plain_field *f = &r->f[BSI_MIN(r->fields, (size_t)FIELDS - 1)];
            f->len = 0;
            f->bare = false;
            if (d->quote && i < n && p[i] == (uint8_t)d->quote) {
                *open = true;
                for (i++; i < n && *open;) {
                    if (p[i] != (uint8_t)d->quote) f->text[f->len++] = p[i++];
                    else if (i + 1 < n && p[i + 1] == (uint8_t)d->quote) f->text[f->len++] = p[i], i += 2;
                    else *open = false, i++;
                }
                f->bare = i < n && p[i] != (uint8_t)d->delimiter && p[i] != '\n' && p[i] != '\r';
            }
            for (; i < n && p[i] != (uint8_t)d->delimiter && p[i] != '\n' && p[i] != '\r'; i++) {
                if (d->quote && p[i] == (uint8_t)d->quote) f->bare = true;
                f->text[f->len++] = p[i];
            }
            more = i < n && p[i] == (uint8_t)d->delimiter;
            i += more;
        }
        if (i < n) i += p[i] == '\r' && i + 1 < n && p[i + 1] == '\n' ? 2 : 1;
    }
    return count;
}

/* The definition, letter by letter. */
static bool plain_utf8(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t c = p[i], more = c < 0x80 ? 0 : c < 0xc0 ? 9 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf8 ? 3 : 9;
        if (more == 9 || i + more >= n) return false;
        uint32_t v = more ? c & (0x3fu >> more) : c;
        for (uint32_t k = 1; k <= more; k++) {
            if ((p[i + k] & 0xc0) != 0x80) return false;
            v = v << 6 | (p[i + k] & 0x3f);
        }
        if ((more == 1 && v < 0x80) || (more == 2 && v < 0x800) || (more == 3 && v < 0x10000)) return false;
        if (v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) return false;
        i += more + 1;
    }
    return true;
}

static bool plain_clean(const bsi_layout *l, const plain_field *f) {
    return (l->dialect.lenient || !f->bare) && plain_utf8(f->text, f->len) && !(f->len && memchr(f->text, 0, f->len));
}

static bsi_rule plain_rule(const bsi_layout *l, const plain_record *r) {
    if (r->fields != l->column_count) return BSI_RULE_COLUMNS;
    for (size_t c = 0; c < r->fields; c++)
        if (r->f[c].bare && !l->dialect.lenient) return BSI_RULE_QUOTE;
    for (size_t c = 0; c < r->fields; c++)
        if (!plain_utf8(r->f[c].text, r->f[c].len)) return BSI_RULE_ENCODING;
    for (size_t c = 0; c < r->fields; c++)
        if (r->f[c].len && memchr(r->f[c].text, 0, r->f[c].len)) return BSI_RULE_NUL;
    return BSI_RULE_NONE;
}

static bool plain_null(const bsi_layout *l, const uint8_t *p, size_t n) {
    for (uint32_t i = 0; i < l->null_count; i++)
        if (strlen(l->nulls[i]) == n && memcmp(l->nulls[i], p, n) == 0) return true;
    return false;
}

static void add_length(bsi_buf *b, size_t n) {
    for (; n >= 128; n >>= 7) bsi_buf_byte(b, (uint8_t)(n | 128));
    bsi_buf_byte(b, (uint8_t)n);
}

/* body and nulls of a good record, from flow/layout.h */
static void plain_image(bsi_buf *b, size_t *body, size_t *key, const bsi_layout *l, const plain_record *r) {
    uint32_t nulls[COLUMNS * 2], null_count = 0;
    b->len = *body = 0;
    for (uint32_t s = 0; s < l->slot_count; s++) {
        const plain_field *f = NULL;
        for (uint32_t c = 0; c < l->column_count; c++)
            if (l->slot_of[c] == (int32_t)s) f = &r->f[c];
        bool null = !f || plain_null(l, f->text, f->len);
        size_t len = null ? 0 : f->len;
        if (null) nulls[null_count++] = s;
        add_length(b, len);
        if (len) bsi_buf_add(b, f->text, len);
        if (len || s < l->key_count) *body = b->len;
        if (s + 1 == l->key_count) *key = b->len;
    }
    b->len = *body;
    add_length(b, null_count);
    for (uint32_t i = 0; i < null_count; i++) add_length(b, nulls[i]);
}

/* ---- random layouts and blocks ---- */

static bsi_layout *random_layout(bsi_slots *slots, const bsi_dialect *d) {
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    static const char *const null_texts[] = {"NULL", "x", ""};
    const char *header[COLUMNS], *key[2], *ignore[1];
    uint32_t columns = 2 + (uint32_t)draw(COLUMNS - 1), keys = 1 + (uint32_t)draw(2), shift = (uint32_t)draw(columns);
    for (uint32_t c = 0; c < columns; c++) header[c] = names[(c + shift) % columns];
    for (uint32_t k = 0; k < keys; k++) key[k] = header[columns - 1 - k];
    ignore[0] = columns > 3 ? header[0] : "none";
    *slots = (bsi_slots){.partition = -1};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_layout *l;
    if (draw(3) == 0) { /* an older file knew more columns */
        const char *wide[COLUMNS + 2];
        for (uint32_t c = 0; c < columns; c++) wide[c + 1] = header[c];
        wide[0] = "old";
        wide[columns + 1] = "later";
        cr_assert(zero(int, (int)bsi_layout_open(&l, slots, d, wide, columns + 2, key, keys, key[0], ignore, 1, NULL, 0, &err)));
        bsi_layout_close(l);
    }
    uint32_t nulls = draw(2) ? 0 : 1 + (uint32_t)draw(3);
    cr_assert(zero(int, (int)bsi_layout_open(&l, slots, d, header, columns, key, keys, key[0], ignore, 1, null_texts, nulls, &err)));
    return l;
}

static size_t random_block(uint8_t *p, size_t max, const bsi_layout *l, int dirt) {
    static const char *const words[] = {"", "", "NULL", "x", "1000", "Bolt, hexagon", "M\xc3\xbc\x74ter", "a\nb", "12\" pipe", "ASM-0001-VARIANT"};
    size_t n = 0;
    for (uint32_t rows = 1 + (uint32_t)draw(14); rows && n + 400 < max; rows--) {
        uint32_t columns = l->column_count + (draw(60) == 0) - (draw(60) == 0);
        size_t start = n, wanted = draw(3) ? 0 : (1 + draw(8)) * 64 + draw(5) - 3; /* bytes: around those where one more line of 64 is needed */
        for (uint32_t c = 0; c < columns; c++) {
            const char *w = words[draw(10)];
            size_t len = strlen(w);
            if (c) p[n++] = (uint8_t)l->dialect.delimiter;
            bool quote = l->dialect.quote && (strpbrk(w, ",\n\"") || draw(4) == 0);
            if (quote) p[n++] = (uint8_t)l->dialect.quote;
            for (size_t i = 0; i < len; i++) {
                if (quote && w[i] == l->dialect.quote) p[n++] = (uint8_t)w[i];
                if (quote || w[i] != l->dialect.delimiter) p[n++] = (uint8_t)w[i];
            }
            for (; c + 1 == columns && n + 100 < max && n - start + quote < wanted;) p[n++] = 'z';
            if (quote) p[n++] = (uint8_t)l->dialect.quote;
            if (draw(100) == 0)
                for (size_t run = (size_t)draw(300); run && n + 100 < max; run--) p[n++] = 'z';
        }
        if (rows > 1 || draw(3)) memcpy(p + n, draw(3) ? "\n" : "\r\n", 2), n += p[n] == '\r' ? 2 : 1;
        if (draw(20) == 0) p[n++] = '\n';
    }
    for (int i = 0; i < dirt && n; i++) p[draw(n)] = (uint8_t)"\",\n\r\0\xff\xc3\xed\xa0x"[draw(10)];
    return n;
}

/* ---- one block, compared ---- */

/* Where fields begin, if it is told: as one finds them going through the image. What stands behind the body does not count. */
static uint64_t told, told_long; /* rows of which it was; those of more than 127 bytes */
static void compare_starts(const bsi_rows *w, uint32_t i) {
    const uint8_t *image = w->enc.data + w->image[i];
    uint64_t word[BSI_ROW_LINES] = {0}, bytes = 0;
    uint32_t n = w->body[i];
    if (w->bad[i] || !w->starts[i].word[0] || n >= sizeof word * 8) return;
    told++;
    told_long += n >= 128;
    for (const uint8_t *p = image; p < image + n; p += bytes) {
        word[(p - image) / 64] |= 1ull << (p - image) % 64;
        p = bsi_varint_get(p, image + n, &bytes);
    }
    for (uint32_t k = 0; k * 64 < n; k++)
        cr_assert(eq(u64, w->starts[i].word[k] & (n - k * 64 < 64 ? (1ull << (n - k * 64)) - 1 : ~0ull), word[k]), "%u", k);
}

static void compare_row(const bsi_rows *w, uint32_t i, const bsi_layout *l, const plain_record *r, const bsi_secret *secret,
                        bool keys_only, const bsi_bad_row *bad) {
    static bsi_buf b;
    size_t body, key = 0;
    bsi_rule rule = plain_rule(l, r);
    plain_image(&b, &body, &key, l, r);
    if (!rule && key == l->key_count) rule = BSI_RULE_KEY_EMPTY;
    cr_assert(eq(int, w->bad[i], (int)rule));
    cr_assert(eq(u32, w->raw[i], (uint32_t)r->start));
    const uint8_t *image = w->enc.data + w->image[i];
    if (rule) {
        bool there = true, text = false;
        for (uint32_t k = 0; k < l->key_count; k++) {
            uint32_t c = (uint32_t)l->column_of[k];
            there = there && c < r->fields && plain_clean(l, &r->f[c]);
            text = text || (c < r->fields && r->f[c].len && !plain_null(l, r->f[c].text, r->f[c].len));
        }
        cr_assert(eq(int, bad->key_read, there && text));
        cr_assert(eq(int, (int)bad->rule, (int)rule));
        cr_assert(eq(u32, bad->row, i));
        uint32_t pc = (uint32_t)l->column_of[l->partition];
        bool read = pc < r->fields && plain_clean(l, &r->f[pc]) && rule != BSI_RULE_KEY_EMPTY;
        cr_assert(eq(int, bad->partition_read, read));
        if (read && !plain_null(l, r->f[pc].text, r->f[pc].len))
            cr_assert(bad->partition.len == r->f[pc].len &&
                      (!r->f[pc].len || memcmp(bad->partition.data, r->f[pc].text, r->f[pc].len) == 0));
        cr_assert(bad->byte >= r->start);
        if (!bad->key_read) return;
        cr_assert(eq(u64, w->kh[i], bsi_xxh64_secret(image, w->key[i], secret)));
        bsi_field f[COLUMNS * 2];
        if (!keys_only) cr_assert(bsi_image_fields(f, l->slot_count, image, w->body[i], w->image[i + 1] - w->image[i], l->slot_count));
        if (keys_only) return;
        for (uint32_t k = 0; k < l->key_count; k++) {
            const plain_field *g = &r->f[l->column_of[k]];
            size_t len = plain_null(l, g->text, g->len) ? 0 : g->len;
            cr_assert(f[k].len == len && (!len || memcmp(f[k].p, g->text, len) == 0));
        }
        return;
    }
    cr_assert(eq(sz, w->key[i], key));
    cr_assert(memcmp(image, b.data, key) == 0);
    cr_assert(eq(u64, w->kh[i], bsi_xxh64_secret(b.data, key, secret)));
    if (keys_only) return;
    cr_assert(eq(sz, w->body[i], body));
    cr_assert(eq(sz, w->image[i + 1] - w->image[i], b.len));
    cr_assert(memcmp(image, b.data, b.len) == 0);
    cr_assert(eq(u64, w->rh[i], bsi_xxh64_secret(b.data, body, secret)));
    compare_starts(w, i);
}

static void compare(const bsi_dialect *d, int rounds, const char *soup) {
    enum { MAX = 2000 };
    static uint8_t room[MAX + 64 + MARGIN];
    static plain_record want[ROWS];
    bsi_secret secret;
    for (size_t i = 0; i < sizeof secret; i++) secret.bytes[i] = (uint8_t)draw(256);
    bsi_rows w = {0};
    for (int round = 0; round < rounds; round++) {
        bsi_slots slots;
        bsi_layout *l = random_layout(&slots, d);
        uint8_t *p = room + draw(64);
        size_t n = draw(500);
        if (soup)
            for (size_t i = 0; i < n; i++) p[i] = (uint8_t)soup[draw(strlen(soup))];
        else n = random_block(p, MAX, l, draw(2) ? 0 : (int)draw(4));
        memset(p + n, "\"\n\r,x"[draw(5)], MARGIN);
        size_t blanks;
        bool open;
        size_t count = plain_parse(want, d, p, n, &blanks, &open);
        for (int isa = 0; isa < 3 && !open; isa++) { /* with an open quote the file is refused before */
            bsi_isa got;
            bomsync_error err = BOMSYNC_ERROR_INIT;
            if (bsi_isa_choose(&got, (const char *const[]){"scalar", "avx2", "avx512"}[isa], &err)) continue;
            bsi_parse_use_isa(isa);
            bool keys_only = draw(3) == 0;
            bsi_parse_block(&w, l, &secret, p, n, keys_only);
            cr_assert(eq(sz, w.count, count));
            cr_assert(eq(sz, w.blanks, blanks));
            cr_assert(eq(u32, w.raw[count], (uint32_t)n));
            uint32_t bad = 0;
            for (uint32_t i = 0; i < count; i++) {
                compare_row(&w, i, l, &want[i], &secret, keys_only, &w.bads[bad]);
                bad += w.bad[i] != 0;
            }
            cr_assert(eq(u32, bad, w.bad_count));
        }
        bsi_layout_close(l);
        bsi_slots_free(&slots);
    }
    bsi_rows_free(&w);
}

Test(parse_block, tables_with_dirt_are_read_as_the_plain_parser_reads_them) {
    compare(&(bsi_dialect){',', '"', false}, 20000, NULL);
    compare(&(bsi_dialect){',', '"', true}, 10000, NULL);
}

Test(parse_block, soup_is_read_as_the_plain_parser_reads_it) {
    compare(&(bsi_dialect){',', '"', false}, 10000, "\",\r\n a\xc3\xa4");
    compare(&(bsi_dialect){',', '"', true}, 10000, "\",,\n a\xff");
    compare(&(bsi_dialect){'\t', '"', true}, 2000, "\"\t\n a");
}

/* Columns that stand as their slots do, no nulls: what most files are, and where a row's field starts are told. */
Test(parse_block, field_starts_are_those_of_the_image) {
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"};
    static uint8_t room[64000 + MARGIN];
    const bsi_dialect d = {',', '"', false};
    const bsi_secret secret = {{0}};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_rows w = {0};
    bsi_parse_use_isa(BSI_CPU_AVX512);
    for (int round = 0; round < 2000; round++) {
        bsi_slots slots = {.partition = -1};
        bsi_layout *l;
        uint32_t columns = 1 + (uint32_t)draw(12), rows = 1 + (uint32_t)draw(14), most = 1 + (uint32_t)draw(30), wide = (uint32_t)draw(60);
        cr_assert(zero(int, (int)bsi_layout_open(&l, &slots, &d, (const char *const *)names, columns, (const char *const *)names, 1, NULL, NULL, 0, NULL, 0, &err)));
        size_t n = 0;
        for (uint32_t i = 0; i < rows; i++)
            for (uint32_t c = 0; c < columns; c++) {
                for (size_t k = draw(most) + (c == 0) + (draw(60) < wide / 20 ? 100 + draw(250) : 0); k; k--) room[n++] = (uint8_t)('a' + draw(26));
                room[n++] = c + 1 < columns ? ',' : '\n';
            }
        memset(room + n, ",\n"[draw(2)], MARGIN);
        bsi_parse_block(&w, l, &secret, room, n, false);
        cr_assert(eq(u32, w.count, rows));
        for (uint32_t i = 0; i < rows; i++) compare_starts(&w, i);
        bsi_layout_close(l);
        bsi_slots_free(&slots);
    }
    bsi_rows_free(&w);
    bool can = bsi_cpu_best() == BSI_CPU_VBMI2;
    cr_assert(can ? told > 5000 && told_long > 2000 : !told, "starts of %llu rows were told, %llu long ones", (unsigned long long)told,
              (unsigned long long)told_long);
}

Test(parse_block, without_quoting_quotes_are_data) { compare(&(bsi_dialect){';', 0, false}, 5000, "\";\n a"); }

/* ---- examples ---- */

static bsi_layout *abc(bsi_slots *slots, bool lenient) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_layout *l;
    *slots = (bsi_slots){.partition = -1};
    bsi_dialect d = {',', '"', lenient};
    cr_assert(zero(int, (int)bsi_layout_open(&l, slots, &d, (const char *const[]){"a", "b", "c"}, 3, (const char *const[]){"b"}, 1, NULL,
                                             NULL, 0, NULL, 0, &err)));
    return l;
}

static void one(bsi_rows *w, const char *text, bool lenient) {
    uint8_t p[256] = {0};
    memcpy(p, text, strlen(text));
    bsi_slots slots;
    bsi_layout *l = abc(&slots, lenient);
    bsi_parse_block(w, l, &(bsi_secret){0}, p, strlen(text), false);
    bsi_layout_close(l);
    bsi_slots_free(&slots);
}

Test(parse_block, bare_quote_is_kept_back_when_strict_and_data_when_lenient) {
    bsi_rows w = {0};
    one(&w, "1,k,12\" pipe\n", false);
    cr_assert(eq(u32, w.bad_count, 1));
    cr_assert(eq(int, (int)w.bads[0].rule, BSI_RULE_QUOTE));
    cr_assert(eq(u32, w.bads[0].byte, 6));
    cr_assert(eq(u32, w.bads[0].column, 2));
    cr_assert(w.bads[0].key_read);
    one(&w, "1,k,12\" pipe\n\"x\"y\"z,k,\n", true);
    cr_assert(eq(u32, w.bad_count, 0));
    cr_assert(memcmp(w.enc.data, "\1k\1"
                                 "1\10"
                                 "12\" pipe\0",
                     14) == 0);
    cr_assert(memcmp(w.enc.data + w.image[1], "\1k\4xy\"z\0", 8) == 0);
    bsi_rows_free(&w);
}

Test(parse_block, short_record_has_a_key_if_its_column_is_there) {
    bsi_rows w = {0};
    one(&w, "1,k\n1\n1,k,3,4\n,,\n\"\",\"\",x\n", false);
    cr_assert(eq(u32, w.count, 5));
    cr_assert(eq(u32, w.bad_count, 5));
    cr_assert(w.bads[0].key_read && !w.bads[1].key_read && w.bads[2].key_read && !w.bads[3].key_read);
    cr_assert(eq(int, (int)w.bads[3].rule, BSI_RULE_KEY_EMPTY));
    cr_assert(eq(int, (int)w.bads[4].rule, BSI_RULE_KEY_EMPTY));
    bsi_rows_free(&w);
}

Test(parse_block, long_field_and_long_record_are_kept_back) {
    for (int k = 0; k < 2; k++) {
        size_t n = k ? BSI_RECORD_BYTES_MAX : BSI_FIELD_BYTES_MAX + 6;
        uint8_t *p = malloc(n + MARGIN);
        memset(p, 'x', n);
        memcpy(p, "1,k,", 4);
        if (!k) p[n - 1] = '\n';
        bsi_slots slots;
        bsi_layout *l = abc(&slots, false);
        bsi_rows w = {0};
        bsi_parse_block(&w, l, &(bsi_secret){0}, p, n, false);
        cr_assert(eq(u32, w.bad_count, 1));
        cr_assert(eq(int, (int)w.bads[0].rule, k ? BSI_RULE_RECORD_SIZE : BSI_RULE_FIELD_SIZE));
        cr_assert(w.bads[0].key_read);
        bsi_rows_free(&w);
        bsi_layout_close(l);
        bsi_slots_free(&slots);
        free(p);
    }
}

enum { BARE, QUOTED, ENDS };
/* A block with the given text at byte `at` of the second field of its second record, whose other bytes are letters. Quoted, and with ENDS in that
 * record up to the text alone. */
static size_t block_with(uint8_t *p, const char *text, size_t at, size_t bytes, int how) {
    size_t n = 0, len = strlen(text);
    for (int i = 0; i < 3; i++) {
        p[n++] = (uint8_t)('1' + i);
        p[n++] = ',';
        if (how) p[n++] = '"';
        memset(p + n, 'a', bytes);
        if (i == 1) memcpy(p + n + at, text, len);
        n += i == 1 && how == ENDS ? at + len : BSI_MAX(bytes, at + len);
        if (how == QUOTED || (how && i != 1)) p[n++] = '"';
        memcpy(p + n, ",x\n", 3);
        n += 3;
    }
    return n;
}

static void same_rows(const bsi_rows *w, const bsi_rows *v, size_t at, const char *text) {
    cr_assert(eq(u32, w->count, v->count), "%s at %zu", text, at);
    cr_assert(eq(sz, w->enc.len, v->enc.len), "%s at %zu", text, at);
    cr_assert(zero(int, memcmp(w->enc.data, v->enc.data, v->enc.len)), "%s at %zu", text, at);
    for (uint32_t i = 0; i < w->count; i++)
        cr_assert(w->kh[i] == v->kh[i] && w->rh[i] == v->rh[i] && w->raw[i] == v->raw[i] && w->bad[i] == v->bad[i], "%s at %zu, row %u", text, at, i);
}

/* Whatever is not plain is seen wherever it stands in a long record: at the end of a line of 64 bytes, and over it. */
Test(parse_block, long_records_parse_alike_wherever_something_stands) {
    static const char *const names[] = {"k", "t", "u"}, *const key[] = {"k"};
    static const char *const texts[] = {"b", "\"\"", "\"z", "\"", "\",", "\",\"", ",", ",,", "\n", "\r\n", "\1", "\xc3\xbc", "\xc3z", "z\xbc", "\xc3", "\xc3\xbc\xbc", "\xc0\x80",
                                        "\xc3\xc3\xbc", "\xe2\x82\xac", "\xe2\x82z", "\xf0\x9f\x98\x80", "\xed\xa0\x80", "\xff", "\xc3\"", "\xc3,"};
    static uint8_t room[4000 + MARGIN];
    const bsi_dialect d = {',', '"', false};
    const bsi_secret secret = {{7}};
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_rows w = {0}, v = {0};
    bsi_slots slots = {.partition = -1};
    bsi_layout *l;
    cr_assert(zero(int, (int)bsi_layout_open(&l, &slots, &d, names, 3, key, 1, NULL, NULL, 0, NULL, 0, &err)));
    for (size_t i = 0; i < sizeof texts / sizeof *texts * 3; i++)
        for (size_t at = 0; at < 260; at++) {
            size_t n = block_with(room, texts[i / 3], at, 260, (int)(i % 3));
            bsi_parse_use_isa(BSI_CPU_SCALAR);
            bsi_parse_block(&v, l, &secret, room, n, false);
            bsi_parse_use_isa(BSI_CPU_AVX512);
            bsi_parse_block(&w, l, &secret, room, n, false);
            same_rows(&w, &v, at, texts[i / 3]);
        }
    bsi_layout_close(l);
    bsi_slots_free(&slots);
    bsi_rows_free(&w);
    bsi_rows_free(&v);
}
