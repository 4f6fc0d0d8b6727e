/* Symbols and residuals: any rows come back to the byte, and nothing that is no code of rows is read or written outside. */
#include "core/cpu.h"
#include "store_fixture.h"

TestSuite(store_symbols, .timeout = 300);

enum { S_ROWS = 40 };

typedef struct table { /* rows of a block, as row images */
    uint32_t slots, count;
    bsi_buf images;
    uint32_t off[S_ROWS + 1], body[S_ROWS];
} table;

static void add_text(bsi_buf *b, uint64_t *seed, uint32_t kind) {
    static const char *const words[] = {"", "1000", "EA", "production", "CMP-00012345", "hexagon bolt M8x40 zinc plated", "a", "9999-12-31"};
    uint8_t bytes[700];
    size_t n = 0;
    switch (kind) {
    case 0: break; /* empty */
    case 1: n = (size_t)snprintf((char *)bytes, sizeof bytes, "%s", words[fx_random(seed) % 8]); break;
    case 2: n = (size_t)snprintf((char *)bytes, sizeof bytes, "%" PRIu64, fx_random(seed) % 100000); break;
    case 3: /* any bytes, around the lengths where the code takes another way */
        n = 12 + fx_random(seed) % 8;
        for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)fx_random(seed);
        break;
    default: /* long: two bytes of length */
        n = 100 + fx_random(seed) % 500;
        for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)(fx_random(seed) % (kind == 4 ? 256 : 3));
    }
    bsi_buf_lstr(b, bytes, n);
}

/* kinds: how many kinds of fields may occur. A column often repeats what it had. */
static void make_table(table *t, uint64_t *seed, uint32_t slots, uint32_t kinds) {
    bsi_buf last[BSI_RESIDUAL_SLOTS + 44] = {0};
    t->slots = slots;
    t->count = 1 + (uint32_t)(fx_random(seed) % S_ROWS);
    t->images.len = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        t->off[i] = (uint32_t)t->images.len;
        uint32_t fields = fx_random(seed) % 4 ? slots : (uint32_t)(fx_random(seed) % (slots + 1));
        for (uint32_t k = 0; k < fields; k++) {
            if (!last[k].len || fx_random(seed) % 3 == 0) {
                last[k].len = 0;
                add_text(&last[k], seed, (uint32_t)(fx_random(seed) % kinds));
            }
            bsi_buf_add(&t->images, last[k].data, last[k].len);
        }
        t->body[i] = (uint32_t)t->images.len - t->off[i];
        uint64_t nulls = fx_random(seed) % 8;
        if (nulls < 6) bsi_buf_byte(&t->images, 0);
        else if (nulls == 6) bsi_buf_add(&t->images, "\2\0\1", 3); /* 7: a row without even that */
    }
    t->off[t->count] = (uint32_t)t->images.len;
    for (size_t k = 0; k < sizeof last / sizeof *last; k++) bsi_buf_free(&last[k]);
}

static uint32_t some_slots(uint64_t *seed) {
    static const uint32_t edges[] = {1, 2, 7, 8, 15, 16, 62, 63, 64, 65, 126, 127, 128, 191, 192, 255, 256};
    uint64_t r = fx_random(seed);
    return r % 3 ? 1 + (uint32_t)(r >> 8) % 20 : edges[(r >> 8) % (sizeof edges / sizeof *edges)];
}

/* The residual of a table, with a margin on both sides, as writers have it. */
static bool residual_of(bsi_buf *out, const table *t) {
    bsi_buf copy = {0};
    static const uint8_t zeros[BSI_RESIDUAL_MARGIN];
    bsi_buf_add(&copy, t->images.data, t->images.len);
    bsi_buf_add(&copy, zeros, BSI_RESIDUAL_TAIL);
    out->len = 0;
    bool ok = bsi_residual_put(out, t->slots, t->count, copy.data, t->off, t->body);
    bsi_buf_reserve(out, sizeof zeros);
    memset(out->data + out->len, 0, sizeof zeros);
    bsi_buf_free(&copy);
    return ok;
}

static void same_rows(const table *t, const bsi_buf *raw, const uint32_t *image, const uint32_t *body) {
    for (uint32_t i = 0; i <= t->count; i++) cr_assert(eq(u32, image[i] - image[0], t->off[i]));
    cr_assert(zero(int, memcmp(body, t->body, t->count * sizeof *body)));
    cr_assert(zero(int, t->images.len ? memcmp(raw->data + image[0], t->images.data, t->images.len) : 0));
}

/* Any number of rows from the front; those behind them have length 0. */
static void same_fronts(const table *t, const bsi_buf *residual) {
    bsi_buf raw = {0};
    uint32_t image[S_ROWS + 1], body[S_ROWS];
    for (uint32_t front = 0; front <= t->count + 1; front++) {
        cr_assert(bsi_residual_front(&raw, image, body, t->slots, t->count, front, residual->data, residual->data + residual->len));
        uint32_t there = BSI_MIN(front, t->count);
        for (uint32_t i = 0; i <= t->count; i++) cr_assert(eq(u32, image[i] - image[0], t->off[BSI_MIN(i, there)]));
        cr_assert(zero(int, memcmp(body, t->body, there * sizeof *body)));
        cr_assert(zero(int, t->off[there] ? memcmp(raw.data + image[0], t->images.data, t->off[there]) : 0));
    }
    bsi_buf_free(&raw);
}

Test(store_symbols, residuals_give_the_rows_again) {
    uint64_t seed = 3;
    table t = {0};
    bsi_buf out = {0}, raw = {0};
    uint32_t image[S_ROWS + 1], body[S_ROWS];
    for (int round = 0; round < 3000; round++) {
        make_table(&t, &seed, some_slots(&seed), 1 + round % 6);
        cr_assert(residual_of(&out, &t));
        cr_assert(bsi_residual_get(&raw, image, body, t.slots, t.count, out.data, out.data + out.len));
        same_rows(&t, &raw, image, body);
        same_fronts(&t, &out);
    }
    bsi_buf_free(&t.images);
    bsi_buf_free(&out);
    bsi_buf_free(&raw);
}

/* Rows of some length, mostly short: those that fit registers, and some that just do not. */
static void make_short(table *t, uint64_t *seed, uint32_t slots) {
    make_table(t, seed, slots, 3 + (uint32_t)(fx_random(seed) % 2));
    if (fx_random(seed) % 2) return;
    bsi_buf images = {0}; /* with nulls that are usual, and fields of many lengths */
    for (uint32_t i = 0; i < t->count; i++) {
        t->off[i] = (uint32_t)images.len;
        uint32_t left = (uint32_t)(fx_random(seed) % 140), fields = fx_random(seed) % 4 ? slots : (uint32_t)(fx_random(seed) % (slots + 1));
        for (uint32_t k = 0; k < fields; k++) {
            uint32_t n = fx_random(seed) % 3 ? (uint32_t)(fx_random(seed) % 20) : 0, alike = fx_random(seed) % 2;
            uint8_t text[20];
            n = BSI_MIN(n, left);
            left -= n;
            for (uint32_t j = 0; j < n; j++) text[j] = alike || j + 1 < n ? 'a' : (uint8_t)fx_random(seed);
            bsi_buf_lstr(&images, text, n);
        }
        t->body[i] = (uint32_t)images.len - t->off[i];
        bsi_buf_byte(&images, 0);
    }
    t->off[t->count] = (uint32_t)images.len;
    bsi_buf_free(&t->images);
    t->images = images;
}

/* Bytes of a body: mostly around those where a row needs one more line of 64, or is too long for all. */
static uint32_t some_bytes(uint64_t *seed) {
    uint32_t lines = (uint32_t)(fx_random(seed) % (BSI_ROW_LINES + 1)), near = (uint32_t)(fx_random(seed) % 80);
    return lines * 64 + (near < 5 ? near : near % 3) - (lines ? 2 : 0);
}

/* Rows without nulls of many lengths, whose columns often repeat what they had. The last field takes what is left. */
static void make_long(table *t, uint64_t *seed, uint32_t slots) {
    t->slots = slots;
    t->count = 1 + (uint32_t)(fx_random(seed) % 12);
    t->images.len = 0;
    uint8_t text[BSI_ROW_LINES * 64 + 64];
    for (uint32_t i = 0; i < t->count; i++) {
        t->off[i] = (uint32_t)t->images.len;
        uint32_t left = i && fx_random(seed) % 3 ? t->body[i - 1] : some_bytes(seed), fields = fx_random(seed) % 4 ? slots : (uint32_t)(fx_random(seed) % (slots + 1));
        for (uint32_t k = 0; k < fields && left; k++) {
            uint32_t most = fx_random(seed) % 8 ? 20 : 300, n = fx_random(seed) % 4 ? (uint32_t)(fx_random(seed) % most) : 0;
            if (k + 1 == fields) n = left;
            n = BSI_MIN(n, left - 1);
            if (n > 127) n = BSI_MIN(n, left - 2);
            memset(text, 'a', n);
            if (n && fx_random(seed) % 3 == 0) text[fx_random(seed) % n] = (uint8_t)fx_random(seed);
            bsi_buf_lstr(&t->images, text, n);
            left -= n + (n > 127 ? 2 : 1);
        }
        t->body[i] = (uint32_t)t->images.len - t->off[i];
        bsi_buf_byte(&t->images, 0);
    }
    t->off[t->count] = (uint32_t)t->images.len;
}

/* Rows that must be made in registers: no nulls, and not too long. */
static bool must_serve(const table *t) {
    for (uint32_t i = 0; i < t->count; i++)
        if (t->body[i] + t->slots >= 64 * BSI_ROW_LINES || t->off[i + 1] - t->off[i] != t->body[i] + 1 || t->images.data[t->off[i + 1] - 1]) return false;
    return t->slots <= BSI_RESIDUAL_SIMPLE_SLOTS;
}

/* What parse tells of most rows, and of some not. */
static void starts_of(bsi_row_starts *s, const table *t, uint64_t *seed) {
    for (uint32_t i = 0; i < t->count; i++) {
        s[i] = (bsi_row_starts){0};
        if (fx_random(seed) % 3 == 0) continue;
        const uint8_t *p = t->images.data + t->off[i];
        for (uint32_t at = 0; at < BSI_MIN(t->body[i] + 3, 64u * BSI_ROW_LINES);) { /* empty fields behind the end, too */
            uint64_t bytes = 0;
            s[i].word[at / 64] |= 1ull << at % 64;
            at = at < t->body[i] ? (uint32_t)(bsi_varint_get(p + at, p + t->body[i], &bytes) - p) : at + 1;
            at += (uint32_t)bytes;
        }
    }
}

Test(store_symbols, residuals_made_in_registers_are_the_same) {
    uint64_t seed = 11;
    uint32_t simple = 0, simple_long = 0;
    bool can = bsi_cpu_best() == BSI_CPU_VBMI2;
    table t = {0};
    bsi_row_starts starts[S_ROWS];
    bsi_buf out = {0}, other = {0};
    for (int round = 0; round < 20000; round++) {
        uint32_t slots = 1 + (uint32_t)(fx_random(&seed) % 34);
        if (round % 3) make_long(&t, &seed, slots);
        else make_short(&t, &seed, slots);
        cr_assert(residual_of(&out, &t));
        uint8_t *exact = bsi_alloc(t.images.len + 1); /* nothing behind it is read */
        if (t.images.len) memcpy(exact, t.images.data, t.images.len);
        starts_of(starts, &t, &seed);
        other.len = 0;
        bsi_buf_str(&other, "head");
        if (bsi_residual_put_simple(&other, t.slots, t.count, exact, t.off, t.body, round % 2 ? starts : NULL)) {
            simple++;
            for (uint32_t i = 0; i < t.count; i++) simple_long += t.body[i] > 127;
            cr_assert(eq(sz, other.len, out.len + 4), "%d", round);
            cr_assert(zero(int, memcmp(other.data + 4, out.data, out.len)), "%d", round);
        } else {
            cr_assert(eq(sz, other.len, 4));
            cr_assert(not(can && must_serve(&t)), "%d", round);
        }
        free(exact);
    }
    bsi_store_use_isa(0);
    other.len = 0;
    cr_assert(not(bsi_residual_put_simple(&other, t.slots, t.count, t.images.data, t.off, t.body, NULL)));
    bsi_store_use_isa(2);
    bool here = bsi_residual_put_simple(&other, 1, 1, (const uint8_t *)"\1a", (const uint32_t[]){0, 3}, (const uint32_t[]){2}, NULL);
    cr_assert(eq(int, here, can));
    cr_assert(can ? simple > 5000 && simple_long > 30000 : !simple, "%u, %u", simple, simple_long);
    bsi_buf_free(&t.images);
    bsi_buf_free(&out);
    bsi_buf_free(&other);
}

Test(store_symbols, what_is_no_row_of_so_many_slots_is_not_taken) {
    table t = {.slots = 2, .count = 1};
    bsi_buf out = {0};
    static const char *const bad[] = {"\1a\1b\1c", "\5ab", "\200", "\1a\377\377\377\377\377\377\377\377\377\1", "\20123456"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        t.images.len = 0;
        bsi_buf_str(&t.images, bad[i]);
        t.off[1] = t.body[0] = (uint32_t)t.images.len;
        cr_assert(not(residual_of(&out, &t)), "%zu", i);
        cr_assert(eq(sz, out.len, 0));
    }
    t.slots = BSI_RESIDUAL_SLOTS + 1;
    t.off[1] = t.body[0] = 0;
    cr_assert(not(residual_of(&out, &t)));
    bsi_buf_free(&t.images);
    bsi_buf_free(&out);
}

/* Rows of `from`, some of them others: those of `other`, or with a byte changed. */
static void make_other(table *to, const table *from, const table *other, uint64_t *seed) {
    *to = (table){.slots = from->slots, .count = from->count};
    for (uint32_t i = 0; i < from->count; i++) {
        uint64_t how = fx_random(seed) % 8;
        const table *t = how == 0 && i < other->count ? other : from;
        to->off[i] = (uint32_t)to->images.len;
        to->body[i] = t->body[i];
        bsi_buf_add(&to->images, t->images.data + t->off[i], t->off[i + 1] - t->off[i]);
        uint8_t *row = to->images.data + to->off[i];
        if (how == 1 && to->body[i] > 1 && row[0]) row[1] ^= 1; /* a text, not a length */
    }
    to->off[to->count] = (uint32_t)to->images.len;
}

static bool same_row(const table *a, const table *b, uint32_t i) {
    uint32_t n = a->off[i + 1] - a->off[i];
    return a->body[i] == b->body[i] && n == b->off[i + 1] - b->off[i] && memcmp(a->images.data + a->off[i], b->images.data + b->off[i], n) == 0;
}

/* What is told of rows that differ is what reading all of them tells. */
static size_t unlike_as_read(const table *old, const table *now, const bsi_buf *residual) {
    bsi_buf out = {0}, made = {0};
    uint32_t image[S_ROWS + 1], body[S_ROWS];
    uint64_t unlike;
    table copy = *now;
    bsi_rows rows = {.count = now->count, .image = copy.off, .body = copy.body, .enc = now->images};
    bool told = bsi_residual_unlike(&out, image, body, &unlike, &made, now->slots, &rows, residual->data, residual->data + residual->len);
    for (uint32_t i = 0; told && i < now->count; i++) {
        cr_assert(eq(int, (int)(unlike >> i & 1), !same_row(old, now, i)));
        if (!(unlike >> i & 1)) continue;
        cr_assert(eq(u32, image[i + 1] - image[i], old->off[i + 1] - old->off[i]));
        cr_assert(eq(u32, body[i], old->body[i]));
        cr_assert(zero(int, memcmp(out.data + image[i], old->images.data + old->off[i], old->off[i + 1] - old->off[i])));
    }
    bsi_buf_free(&out);
    bsi_buf_free(&made);
    return told;
}

Test(store_symbols, rows_that_differ_are_told_from_the_residual) {
    uint64_t seed = 23;
    size_t told = 0;
    bsi_buf residual = {0};
    for (int round = 0; round < 6000; round++) {
        table old = {0}, other = {0}, now;
        uint32_t slots = some_slots(&seed);
        make_short(&old, &seed, slots);
        make_short(&other, &seed, slots);
        make_other(&now, &old, &other, &seed);
        cr_assert(residual_of(&residual, &old));
        told += unlike_as_read(&old, &now, &residual);
        for (int flips = 0; flips < 4 && residual.len; flips++) { /* it says anything, and stays inside */
            bsi_buf out = {0}, made = {0};
            uint32_t image[S_ROWS + 1], body[S_ROWS];
            uint64_t unlike;
            bsi_rows rows = {.count = now.count, .image = now.off, .body = now.body, .enc = now.images};
            residual.data[fx_random(&seed) % residual.len] ^= (uint8_t)(1u << fx_random(&seed) % 8);
            bsi_residual_unlike(&out, image, body, &unlike, &made, slots, &rows, residual.data, residual.data + residual.len);
            bsi_buf_free(&out);
            bsi_buf_free(&made);
        }
        bsi_buf_free(&old.images);
        bsi_buf_free(&other.images);
        bsi_buf_free(&now.images);
    }
    bsi_buf_free(&residual);
    cr_assert(told > 1000 || bsi_cpu_best() != BSI_CPU_VBMI2);
    bsi_store_use_isa(BSI_CPU_AVX2);
    table one = {.slots = 1, .count = 1, .off = {0, 3}, .body = {2}};
    bsi_buf_add(&one.images, "\1a", 3);
    cr_assert(residual_of(&residual, &one));
    cr_assert(zero(sz, unlike_as_read(&one, &one, &residual)), "these registers are not there");
    bsi_store_use_isa(bsi_cpu_best());
    bsi_buf_free(&one.images);
    bsi_buf_free(&residual);
}

/* A sample of residuals, and the dictionary that it teaches. */
static bsi_symbols *learned(uint64_t *seed, uint32_t slots, uint32_t kinds, size_t bytes) {
    table t = {0};
    bsi_buf out = {0}, sample = {0};
    while (sample.len < bytes) {
        make_table(&t, seed, slots, kinds);
        residual_of(&out, &t);
        bsi_buf_add(&sample, out.data, out.len);
    }
    bsi_buf_reserve(&sample, 16);
    memset(sample.data + sample.len, 0, 16);
    bsi_symbols *s = bsi_symbols_train(sample.data, sample.len);
    bsi_buf_free(&t.images);
    bsi_buf_free(&out);
    bsi_buf_free(&sample);
    return s;
}

static size_t encode_one(bsi_buf *code, const bsi_symbols *s, const bsi_buf *residual) {
    code->len = 0;
    bsi_buf_reserve(code, bsi_symbols_bound(residual->len));
    bsi_symbol_part part = {residual->data, residual->data + residual->len, code->data};
    bsi_symbols_encode(s, &part, 1);
    cr_assert(le(sz, (size_t)(part.out - code->data) + 1, bsi_symbols_bound(residual->len)));
    return code->len = (size_t)(part.out - code->data);
}

Test(store_symbols, coded_rows_come_back_with_any_dictionary) {
    uint64_t seed = 9;
    table t = {0};
    bsi_buf out = {0}, code = {0}, again = {0}, raw = {0};
    uint32_t image[S_ROWS + 1], body[S_ROWS];
    for (int d = 0; d < 12; d++) {
        bsi_symbols *s = learned(&seed, 1 + d * 3, 1 + d % 6, d % 3 ? 60000 : 500);
        for (int round = 0; round < 200; round++) {
            make_table(&t, &seed, some_slots(&seed), 1 + round % 6);
            cr_assert(residual_of(&out, &t));
            encode_one(&code, s, &out);
            cr_assert(bsi_symbols_decode(&again, s, code.data, code.len));
            cr_assert(ge(sz, again.len, out.len));
            cr_assert(lt(sz, again.len, out.len + BSI_RESIDUAL_TAIL));
            cr_assert(zero(int, out.len ? memcmp(again.data, out.data, out.len) : 0));
            cr_assert(bsi_residual_get(&raw, image, body, t.slots, t.count, again.data, again.data + again.len));
            same_rows(&t, &raw, image, body);
        }
        bsi_symbols_free(s);
    }
    bsi_buf *const bufs[] = {&t.images, &out, &code, &again, &raw};
    for (size_t i = 0; i < 5; i++) bsi_buf_free(bufs[i]);
}

/* Parts of all lengths at once, some empty: the same codes as one by one. */
Test(store_symbols, parts_side_by_side_are_coded_as_each_alone) {
    uint64_t seed = 12;
    bsi_symbols *s = learned(&seed, 6, 3, 40000);
    for (int round = 0; round < 300; round++) {
        enum { N = 16 };
        bsi_buf part[N] = {0}, code[N] = {0}, alone = {0};
        bsi_symbol_part p[N];
        size_t n = fx_random(&seed) % (N + 1);
        for (size_t i = 0; i < n; i++) {
            size_t bytes = fx_random(&seed) % (i % 3 ? 400 : 4);
            for (size_t k = 0; k < bytes; k++) bsi_buf_byte(&part[i], "0123456789CMP-abc\0\3"[fx_random(&seed) % 19]);
            bsi_buf_reserve(&part[i], BSI_RESIDUAL_TAIL);
            memset(part[i].data + bytes, 0, BSI_RESIDUAL_TAIL);
            bsi_buf_reserve(&code[i], bsi_symbols_bound(bytes));
            p[i] = (bsi_symbol_part){part[i].data, part[i].data + bytes, code[i].data};
        }
        bsi_symbols_encode(s, p, n);
        for (size_t i = 0; i < n; i++) {
            size_t bytes = encode_one(&alone, s, &part[i]);
            cr_assert(eq(sz, (size_t)(p[i].out - code[i].data), bytes));
            cr_assert(zero(int, bytes ? memcmp(code[i].data, alone.data, bytes) : 0));
        }
        for (size_t i = 0; i < N; i++) {
            bsi_buf_free(&part[i]);
            bsi_buf_free(&code[i]);
        }
        bsi_buf_free(&alone);
    }
    bsi_symbols_free(s);
}

/* Behind the checksum anything may stand: bits flipped in codes and residuals, and bytes that were never either. The sanitizers judge. */
Test(store_symbols, damaged_codes_and_residuals_stay_inside) {
    uint64_t seed = 77;
    table t = {0};
    bsi_buf out = {0}, code = {0}, again = {0}, raw = {0};
    uint32_t *image = bsi_alloc(sizeof *image * (UINT16_MAX + 1)), *body = bsi_alloc(sizeof *body * UINT16_MAX);
    int taken = 0;
    bsi_symbols *dict[2] = {learned(&seed, 8, 5, 60000), learned(&seed, 8, 2, 300)}; /* full, and with codes that mean nothing */
    for (int round = 0; round < 8000; round++) {
        const bsi_symbols *s = dict[round % 2];
        make_table(&t, &seed, some_slots(&seed), 1 + round % 5);
        residual_of(&out, &t);
        encode_one(&code, s, &out);
        if (round % 7 == 0) code.len = fx_random(&seed) % (code.len + 1);
        for (int k = 0; code.len && k <= round % 3; k++) code.data[fx_random(&seed) % code.len] ^= (uint8_t)(1u << fx_random(&seed) % 8);
        for (size_t i = 0; round % 11 == 0 && i < code.len; i++) code.data[i] = (uint8_t)fx_random(&seed);
        uint8_t *exact = bsi_alloc(code.len + 1); /* so that a byte too far is one outside */
        memcpy(exact + 1, code.data, code.len);
        uint32_t count = round % 5 ? t.count : 1 + (uint32_t)(fx_random(&seed) % 300), slots = round % 13 ? t.slots : some_slots(&seed);
        if (bsi_symbols_decode(&again, s, exact + 1, code.len))
            taken += bsi_residual_get(&raw, image, body, slots, count, again.data, again.data + again.len);
        free(exact);
    }
    cr_assert(gt(int, taken, 0));
    for (int k = 0; k < 2; k++) bsi_symbols_free(dict[k]);
    bsi_buf *const bufs[] = {&t.images, &out, &code, &again, &raw};
    for (size_t i = 0; i < 5; i++) bsi_buf_free(bufs[i]);
    free(image);
    free(body);
}

Test(store_symbols, a_dictionary_is_stored_and_read) {
    uint64_t seed = 5;
    bsi_symbols *s = learned(&seed, 6, 3, 60000), *same = learned(&(uint64_t){5}, 6, 3, 60000);
    bsi_buf b = {0}, c = {0};
    bsi_symbols_put(&b, s);
    bsi_symbols_put(&c, same);
    cr_assert(eq(sz, b.len, c.len));
    cr_assert(zero(int, memcmp(b.data, c.data, b.len))); /* the same sample, the same symbols */
    bsi_symbols *r = bsi_symbols_read(b.data, b.len);
    cr_assert(ne(ptr, r, NULL));
    cr_assert(eq(u32, r->count, s->count));
    cr_assert(zero(int, memcmp(r->value, s->value, sizeof s->value)));
    cr_assert(zero(int, memcmp(r->bytes, s->bytes, sizeof s->bytes)));
    bsi_symbols_free(r);
    for (size_t n = 0; n < b.len; n += 1 + n / 7) cr_assert(eq(ptr, bsi_symbols_read(b.data, n), NULL)); /* cut short */
    for (int round = 0; round < 2000; round++) {
        c.len = 0;
        bsi_buf_add(&c, b.data, b.len);
        c.data[fx_random(&seed) % (round % 2 ? c.len : 4)] ^= (uint8_t)(1u << fx_random(&seed) % 8);
        r = bsi_symbols_read(c.data, c.len);
        if (r) bsi_symbols_prepare(r);
        bsi_symbols_free(r);
    }
    bsi_symbols_free(s);
    bsi_symbols_free(same);
    bsi_buf_free(&b);
    bsi_buf_free(&c);
}
