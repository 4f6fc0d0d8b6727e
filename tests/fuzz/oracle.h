/* tests/fuzz/oracle.h - what must hold for any bytes through header, cut and parse. Shared by fuzz_parse.c (libFuzzer) and
 * drive_parse.c (a fixed number of inputs, in every build).
 *
 *   byte 0: dialect and layout, byte 1: records a block, where to split     then the file
 *
 * Looked at:
 *   cut    every instruction set, block size and split gives the record ends of naive_csv.h; a block's own bytes give its end
 *   parse  fields, rules, places of faults, row images and hashes are those made from the naive fields, strict and lenient,
 *          on every instruction set
 *   header its names are the first naive record
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <stdio.h>
#include <stdlib.h>

#include "core/limits.h"
#include "flow/block.h"
#include "flow/rows.h"
#include "naive_csv.h"

enum { ORACLE_MARGIN = 64, ORACLE_COLUMNS = 5, ORACLE_DIALECTS = 8, ORACLE_FORMS = 4, ORACLE_BLOCKS = NAIVE_BYTES_MAX + 2 };

/* What does not hold: NULL, or a sentence. */
static const char *oracle_says;
#define HOLDS(condition, sentence)   \
    do {                             \
        if (!(condition)) {          \
            oracle_says = sentence;  \
            return false;            \
        }                            \
    } while (0)

typedef struct oracle_case {
    bsi_dialect dialect;
    uint32_t form;    /* 0 plain, 1 key of two columns with a partition, 2 null texts and an ignored column, 3 absent slots */
    uint32_t columns, block_records;
    uint8_t split, behind;
    const uint8_t *p; /* padded */
    size_t n;
    naive_csv csv;
} oracle_case;

static const bsi_dialect oracle_dialects[ORACLE_DIALECTS] = {
    {',', '"', false}, {',', '"', true}, {';', '\'', false}, {'\t', 0, false},
    {'\t', '"', true}, {',', '\'', true}, {(char)0xa7, '"', false}, {'|', 0, true},
};

/* Bytes with the margin that cut and parse may read; to size, so that ASan sees what goes beyond. */
static uint8_t *oracle_padded(const uint8_t *p, size_t n, uint8_t behind) {
    uint8_t *q = bsi_alloc(n + ORACLE_MARGIN);
    if (n) memcpy(q, p, n);
    memset(q + n, behind, ORACLE_MARGIN);
    return q;
}

static bool oracle_runs(int isa) {
    static int runs[3]; /* 0 not asked yet, 1 yes, 2 no */
    static const char *const name[] = {"scalar", "avx2", "avx512"};
    bsi_isa got;
    if (!runs[isa]) runs[isa] = bsi_isa_choose(&got, name[isa], NULL) ? 2 : 1;
    return runs[isa] == 1;
}

/* ---- cut ---- */

static bool oracle_same_cut(const bsi_cut *a, const bsi_cut *b) {
    return a->bytes == b->bytes && a->records == b->records && a->blanks == b->blanks && a->flags == b->flags;
}

/* One block, also with fewer bytes in sight and alone. */
static bool oracle_block(const oracle_case *k, const bsi_cut_options *o, size_t at, const bsi_cut *b) {
    size_t rest = k->n - at;
    bool at_end = b->flags & BSI_CUT_AT_END;
    for (size_t seen = k->split % 7u; seen < rest; seen += 1 + k->split % 41u) {
        bsi_cut part;
        int got = bsi_cut_block(&part, o, k->p + at, seen, false);
        HOLDS(got >= 0, "cut: fewer bytes in sight are no fault");
        if (got == 0) HOLDS(at_end || seen < b->bytes || (seen == b->bytes && b->flags & BSI_CUT_LONE_CR), "cut: a block in sight is found");
        else HOLDS(oracle_same_cut(&part, b), "cut: fewer bytes in sight give the same block");
        if (got) break;
    }
    if (at_end || b->flags & BSI_CUT_LONE_CR) return true;
    uint8_t *alone = oracle_padded(k->p + at, b->bytes, k->behind);
    bsi_cut again;
    int got = bsi_cut_block(&again, o, alone, b->bytes, false);
    free(alone);
    HOLDS(got == 1 && oracle_same_cut(&again, b), "cut: a block's own bytes give its end");
    return true;
}

static bool oracle_chain(const oracle_case *k, int isa, uint32_t block_records, bsi_cut *b, size_t *count) {
    const naive_csv *v = &k->csv;
    bsi_cut_options o = {k->dialect, bsi_block_size_of(block_records), isa};
    size_t at = 0, records = 0, blanks = 0;
    *count = 0;
    do {
        bsi_cut *c = &b[(*count)++];
        HOLDS(bsi_cut_block(c, &o, k->p + at, k->n - at, true) == 1, "cut: with the end in sight there is a block");
        HOLDS((c->bytes || !k->n) && c->bytes <= k->n - at, "cut: blocks cover the file");
        if (!oracle_block(k, &o, at, c)) return false;
        at += c->bytes;
        size_t r = records, l = blanks;
        while (r < v->records && v->record[r].end <= at) r++;
        while (l < v->blanks && v->blank[l] <= at) l++;
        HOLDS(c->records == r - records, "cut: as many records as the naive reader finds");
        HOLDS(c->blanks == l - blanks, "cut: as many blank lines as the naive reader finds");
        bool last = at == k->n, cut = !(c->flags & BSI_CUT_AT_END);
        if (cut) HOLDS(r && v->record[r - 1].end == at, "cut: a block ends where a record ends");
        if (!last) HOLDS(cut, "cut: only the last block ends with the file");
        if (cut && block_records == 1) HOLDS(c->records == 1, "cut: blocks of one record");
        if (cut) HOLDS(c->records * 2 >= block_records && c->records <= 4 * block_records, "cut: half to four times the target");
        HOLDS(!(c->flags & BSI_CUT_OPEN_QUOTE) == !(last && v->open), "cut: OPEN_QUOTE says that the file ends inside quotes");
        HOLDS(!(c->flags & BSI_CUT_NO_LINE_END) == !(last && v->records && v->record[v->records - 1].stop == k->n),
              "cut: NO_LINE_END says that the last record has none");
        HOLDS(!(c->flags & BSI_CUT_LONE_CR) == !(at && k->p[at - 1] == '\r' && !(last && v->open)), "cut: LONE_CR says that a CR ends it");
        HOLDS(!(c->flags & BSI_CUT_OVERSIZE), "cut: nothing is oversize here");
        records = r;
        blanks = l;
    } while (at < k->n);
    HOLDS(records == v->records && blanks == v->blanks, "cut: all records in all blocks");
    return true;
}

/* The machine for records that are too long to hold, in pieces. */
static bool oracle_skip(const oracle_case *k) {
    uint64_t state[2] = {0, 0};
    size_t at = 0, piece = 1 + k->split % 97u;
    int64_t got = -1;
    while (got == -1 && at < k->n) {
        size_t take = BSI_MIN(piece, k->n - at);
        got = bsi_cut_skip(state, &k->dialect, k->p + at, take, at + take == k->n);
        at += got >= 0 ? (size_t)got : take;
    }
    const naive_csv *v = &k->csv;
    if (got >= 0) HOLDS(v->records && at == v->record[0].end, "skip: past the first record");
    else if (got == -2) HOLDS(v->open && v->records == 1, "skip: a quote is open");
    else HOLDS(!v->records || v->record[0].end == k->n, "skip: no end before the end of the file");
    return true;
}

/* ---- parse ---- */

typedef struct oracle_layout {
    bsi_slots slots;
    bsi_layout *layout;
} oracle_layout;

/* The layouts are few, so they are made once. Names are c0, c1, ...; form 3 knows two columns more. */
static const oracle_layout *oracle_layout_of(const oracle_case *k, uint32_t dialect) {
    static oracle_layout made[ORACLE_DIALECTS][ORACLE_FORMS][ORACLE_COLUMNS + 1];
    oracle_layout *m = &made[dialect][k->form][k->columns];
    if (m->layout) return m;
    static const char *const name[] = {"c0", "c1", "c2", "c3", "c4"}, *const more[] = {"c0", "z", "c1", "y"};
    static const char *const key1[] = {"c0"}, *const key2[] = {"c1", "c0"}, *const nulls[] = {"a", "NULL", "\"", "\xc3\xa9"};
    const char *const ignored = name[k->columns - 1];
    bool two = k->form == 1 && k->columns > 1, ignore = k->form == 2 && k->columns > 1;
    m->slots.partition = -1;
    if (k->form == 3) {
        bsi_layout *first;
        if (bsi_layout_open(&first, &m->slots, &k->dialect, more, 4, key1, 1, NULL, NULL, 0, NULL, 0, NULL)) abort();
        bsi_layout_close(first);
    }
    if (bsi_layout_open(&m->layout, &m->slots, &k->dialect, name, k->columns, two ? key2 : key1, two ? 2 : 1, two ? "c0" : NULL,
                        &ignored, ignore, nulls, k->form == 2 ? 4 : 0, NULL))
        abort();
    return m;
}

static size_t oracle_varint(uint8_t *out, size_t v) {
    size_t n = 0;
    for (; v > 127; v /= 128) out[n++] = (uint8_t)(v % 128 + 128);
    out[n++] = (uint8_t)v;
    return n;
}

/* A record as it should come out of parse, from naive fields. */
typedef struct oracle_row {
    bsi_rule rule;
    size_t byte;
    uint32_t column;
    bool key_read, partition_read;
    uint8_t image[NAIVE_BYTES_MAX * 3 + 64];
    size_t key, body, bytes;
} oracle_row;

static bool oracle_clean(const oracle_case *k, const bsi_layout *l, const naive_field *f) {
    const uint8_t *text = k->csv.text + f->text;
    return !f->unclosed && (l->dialect.lenient || f->bare == SIZE_MAX) && naive_utf8(text, f->bytes) == f->bytes &&
           !(f->bytes && memchr(text, 0, f->bytes));
}

/* rule, byte, column: all records are shorter than any limit. */
static void oracle_rule(oracle_row *w, const oracle_case *k, const bsi_layout *l, const naive_record *r, const naive_field *f) {
    w->rule = BSI_RULE_NONE;
    w->byte = r->start;
    w->column = UINT32_MAX;
    if (r->fields != l->column_count) {
        w->rule = BSI_RULE_COLUMNS;
        return;
    }
    for (bsi_rule rule = BSI_RULE_QUOTE; rule <= BSI_RULE_NUL; rule++)
        for (uint32_t c = 0; c < r->fields; c++) {
            const uint8_t *text = k->csv.text + f[c].text, *raw = k->p + f[c].from;
            size_t bytes = f[c].to - f[c].from;
            bool broken = rule == BSI_RULE_QUOTE      ? f[c].unclosed || (!l->dialect.lenient && f[c].bare != SIZE_MAX)
                          : rule == BSI_RULE_ENCODING ? naive_utf8(text, f[c].bytes) != f[c].bytes
                                                      : f[c].bytes && memchr(text, 0, f[c].bytes);
            if (!broken) continue;
            w->rule = rule;
            w->column = c;
            w->byte = f[c].from;
            if (rule == BSI_RULE_QUOTE && !f[c].unclosed) w->byte = f[c].bare;
            if (rule == BSI_RULE_ENCODING) w->byte += naive_utf8(raw, bytes);
            if (rule == BSI_RULE_NUL) w->byte = (size_t)((const uint8_t *)memchr(raw, 0, bytes) - k->p);
            return;
        }
}

static void oracle_expect(oracle_row *w, const oracle_case *k, const bsi_layout *l, const naive_record *r, bool keys_only) {
    const naive_field *f = k->csv.field + r->field;
    size_t nulls[ORACLE_COLUMNS + 4], null_count = 0, n = 0, key_text = 0;
    uint32_t slots = keys_only ? l->key_count : l->slot_count;
    oracle_rule(w, k, l, r, f);
    w->key_read = true;
    w->body = w->key = 0;
    for (uint32_t s = 0; s < slots; s++) {
        int32_t c = l->column_of[s];
        bool clean = c >= 0 && (size_t)c < r->fields && oracle_clean(k, l, &f[c]), null = !clean;
        const uint8_t *text = clean ? k->csv.text + f[c].text : NULL;
        size_t bytes = clean ? f[c].bytes : 0;
        for (uint32_t i = 0; i < l->null_count && clean && !null; i++)
            null = l->null_bytes[i] == bytes && !memcmp(l->nulls[i], text, bytes);
        if (null) nulls[null_count++] = s;
        if (null) bytes = 0;
        n += oracle_varint(w->image + n, bytes);
        if (bytes) memcpy(w->image + n, text, bytes);
        n += bytes;
        if (bytes || s < l->key_count) w->body = n; /* the empty tail is left off */
        if (s < l->key_count) {
            w->key = n;
            w->key_read &= clean;
            key_text += bytes;
        }
    }
    n = w->body;
    n += oracle_varint(w->image + n, null_count);
    for (size_t i = 0; i < null_count; i++) n += oracle_varint(w->image + n, nulls[i]);
    w->bytes = n;
    if (!w->rule && w->key_read && !key_text) {
        w->rule = BSI_RULE_KEY_EMPTY;
        w->column = (uint32_t)l->column_of[0];
    }
    w->key_read &= key_text > 0;
    int32_t c = l->partition < 0 ? -1 : l->column_of[l->partition];
    w->partition_read = l->partition < 0 || (w->rule != BSI_RULE_KEY_EMPTY && (size_t)c < r->fields && oracle_clean(k, l, &f[c]));
}

/* One record of a block that starts at `at` in the file. */
static bool oracle_one(const oracle_case *k, const oracle_layout *m, const bsi_rows *rows, uint32_t i, size_t at, const naive_record *r,
                       const bsi_secret *secret, bool keys_only, uint32_t *bad) {
    static oracle_row w;
    const bsi_layout *l = m->layout;
    oracle_expect(&w, k, l, r, keys_only);
    HOLDS(rows->raw[i] + at == r->start, "parse: a record begins where the naive one does");
    HOLDS(rows->bad[i] == (uint8_t)w.rule, "parse: a record is kept back by the rule that it breaks");
    const uint8_t *image = rows->enc.data + rows->image[i];
    size_t bytes = rows->image[i + 1] - rows->image[i];
    if (!w.rule || w.key_read) {
        HOLDS(rows->key[i] == w.key && !memcmp(image, w.image, w.key), "parse: the key is that of the naive fields");
        HOLDS(rows->kh[i] == bsi_xxh64_secret(w.image, w.key, secret), "parse: kh is the hash of the key");
    }
    if (w.rule) {
        HOLDS(*bad < rows->bad_count && rows->bads[*bad].row == i, "parse: a record that is kept back is told in order");
        const bsi_bad_row *b = &rows->bads[(*bad)++];
        HOLDS(b->rule == w.rule && b->byte + at == w.byte && b->column == w.column, "parse: what is wrong is told with its place");
        HOLDS(b->key_read == w.key_read && (keys_only || b->partition_read == w.partition_read), "parse: key and partition are read or not");
        HOLDS(rows->rh[i] == 0, "parse: a record that is kept back has no row hash");
        return true;
    }
    if (keys_only) return true;
    HOLDS(rows->body[i] == w.body && bytes == w.bytes && !memcmp(image, w.image, bytes), "parse: the row image is that of the naive fields");
    HOLDS(rows->rh[i] == bsi_xxh64_secret(w.image, w.body, secret), "parse: rh is the hash of the body");
    bsi_field out[ORACLE_COLUMNS + 4];
    HOLDS(bsi_image_fields(out, m->slots.count, image, rows->body[i], (uint32_t)bytes, m->slots.count), "parse: a row image reads back");
    const naive_field *f = k->csv.field + r->field;
    for (uint32_t c = 0; c < l->column_count; c++) {
        if (l->slot_of[c] < 0) continue;
        const bsi_field *got = &out[l->slot_of[c]];
        if (!got->null) HOLDS(got->len == f[c].bytes && !memcmp(got->p, k->csv.text + f[c].text, f[c].bytes), "parse: a field is the naive field");
    }
    return true;
}

static bool oracle_parse(const oracle_case *k, const oracle_layout *m, const bsi_cut *b, size_t count, bool keys_only) {
    static bsi_rows rows;
    static bsi_secret secret;
    for (size_t i = 0; i < sizeof secret.bytes; i++) secret.bytes[i] = (uint8_t)(i * 151 + 7);
    const naive_record *r = k->csv.record;
    size_t at = 0;
    for (size_t i = 0; i < count; at += b[i++].bytes) {
        uint8_t *block = oracle_padded(k->p + at, b[i].bytes, k->behind);
        bsi_parse_block(&rows, m->layout, &secret, block, b[i].bytes, keys_only);
        free(block);
        HOLDS(rows.count == b[i].records && rows.blanks == b[i].blanks, "parse: as many records and blank lines as cut");
        HOLDS(rows.raw[rows.count] == b[i].bytes, "parse: the last offset is the block's length");
        uint32_t bad = 0;
        for (uint32_t row = 0; row < rows.count; row++)
            if (!oracle_one(k, m, &rows, row, at, r++, &secret, keys_only, &bad)) return false;
        HOLDS(bad == rows.bad_count, "parse: no more is kept back");
    }
    return true;
}

/* ---- header ---- */

static bool oracle_header(const oracle_case *k) {
    const naive_csv *v = &k->csv;
    const naive_record *r = v->record;
    bool refused = false;
    size_t bytes = 0;
    char **name = NULL;
    uint32_t count = 0;
    for (size_t c = 0; v->records && c < r->fields; c++) {
        const naive_field *f = &v->field[r->field + c];
        refused |= f->unclosed || naive_utf8(v->text + f->text, f->bytes) != f->bytes || (f->bytes && memchr(v->text + f->text, 0, f->bytes));
    }
    bomsync_status st = bsi_parse_header(&name, &count, &bytes, &k->dialect, k->p, k->n, true, NULL);
    HOLDS((st != BOMSYNC_OK) == refused, "header: refused only with an open quote, NUL or a name that is not UTF-8");
    if (st) return true;
    bool right = v->records ? bytes == r->end && count == r->fields : bytes == k->n && !count;
    for (uint32_t c = 0; c < count && right; c++) {
        const naive_field *f = &v->field[r->field + c];
        right = strlen(name[c]) == f->bytes && !memcmp(name[c], v->text + f->text, f->bytes);
    }
    for (uint32_t c = 0; c < count; c++) free(name[c]);
    free(name);
    HOLDS(right, "header: its names are the first record");
    size_t some = k->n ? k->split % k->n : 0;
    name = NULL;
    count = 0;
    uint8_t *front = oracle_padded(k->p, some, k->behind);
    st = bsi_parse_header(&name, &count, &bytes, &k->dialect, front, some, false, NULL);
    free(front);
    if (st) return true;
    for (uint32_t c = 0; c < count; c++) free(name[c]);
    free(name);
    HOLDS(v->records && count == r->fields && bytes == r->end, "header: with fewer bytes in sight the same, or none");
    return true;
}

/* ---- all of it ---- */

static bool oracle_all(oracle_case *k, uint32_t dialect) {
    static bsi_cut first[ORACLE_BLOCKS], b[ORACLE_BLOCKS];
    const uint32_t targets[] = {1, k->block_records, 12};
    size_t first_count = 0, count;
    naive_read(&k->csv, (uint8_t)k->dialect.delimiter, k->dialect.quote ? (uint8_t)k->dialect.quote : -2, k->p, k->n);
    for (size_t t = 0; t < 3; t++)
        for (int isa = BSI_ISA_SCALAR; isa <= BSI_ISA_AVX512; isa++) {
            if (!oracle_runs(isa)) continue;
            if (!oracle_chain(k, isa, targets[t], isa ? b : first, isa ? &count : &first_count)) return false;
            if (!isa) continue;
            HOLDS(count == first_count, "cut: each instruction set finds as many blocks");
            for (size_t i = 0; i < count; i++) HOLDS(oracle_same_cut(&b[i], &first[i]), "cut: each instruction set finds the same blocks");
        }
    if (!oracle_skip(k) || !oracle_header(k)) return false;
    size_t chain = 0;
    if (!oracle_chain(k, BSI_ISA_SCALAR, k->block_records, first, &chain)) return false;
    if (k->csv.open) return true; /* the file is refused before it is parsed */
    const oracle_layout *m = oracle_layout_of(k, dialect);
    for (int isa = BSI_ISA_SCALAR; isa <= BSI_ISA_AVX512; isa++) {
        if (!oracle_runs(isa)) continue;
        bsi_parse_use_isa(isa);
        if (!oracle_parse(k, m, first, chain, false) || !oracle_parse(k, m, first, chain, true)) return false;
    }
    return true;
}

/* NULL, or what does not hold for these bytes. */
static const char *oracle(const uint8_t *data, size_t size) {
    static oracle_case k;
    oracle_says = NULL;
    if (size < 2 || size - 2 > NAIVE_BYTES_MAX) return NULL;
    uint32_t dialect = data[0] % ORACLE_DIALECTS;
    k.dialect = oracle_dialects[dialect];
    k.form = data[0] / ORACLE_DIALECTS % ORACLE_FORMS;
    k.block_records = 1 + data[1] % 32u;
    k.split = data[1];
    k.behind = (uint8_t)"\"\n\r,x"[data[1] % 5];
    k.n = size - 2;
    uint8_t *file = oracle_padded(data + 2, k.n, k.behind);
    k.p = file;
    naive_read(&k.csv, (uint8_t)k.dialect.delimiter, k.dialect.quote ? (uint8_t)k.dialect.quote : -2, k.p, k.n);
    /* as many columns as most likely fit: those of a record in the middle */
    size_t fields = k.csv.records ? k.csv.record[k.csv.records / 2].fields : 1;
    k.columns = (uint32_t)BSI_MIN(fields, (size_t)ORACLE_COLUMNS);
    oracle_all(&k, dialect);
    free(file);
    return oracle_says;
}

#endif
