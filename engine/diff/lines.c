/* diff/lines.c - which variant runs, and what the loops leave open: kinds of lines, key places, keys compared in full. */
#include "diff/lines.h"

#include <stdlib.h>

void bsi_lines_odd(bsi_lines *l, size_t at) {
    if (l->odd_count == l->odd_cap) l->odd = bsi_realloc(l->odd, (l->odd_cap = l->odd_cap ? l->odd_cap * 2 : 64) * sizeof *l->odd);
    l->odd[l->odd_count++] = (uint32_t)at;
}

static void make_room(bsi_lines *l, size_t n) {
    size_t need = n + 8; /* a line end at every byte, and what the loop writes too much */
    if (need <= l->cap) return;
    bsi_lines_free(l);
    l->start = bsi_alloc(need * sizeof *l->start);
    l->seps = bsi_alloc(need * sizeof *l->seps);
    l->key_own = bsi_alloc(need * sizeof *l->key_own);
    l->kind_own = bsi_alloc(need);
    l->mask = bsi_alloc((need / 64 + 2) * sizeof *l->mask);
    l->before = bsi_alloc((need / 64 + 2) * sizeof *l->before);
    l->cap = need;
}

void bsi_lines_free(bsi_lines *l) {
    free(l->start);
    free(l->seps);
    free(l->key_own);
    free(l->kind_own);
    free(l->mask);
    free(l->before);
    free(l->odd);
    *l = (bsi_lines){0};
}

static size_t line_of(const bsi_lines *l, uint32_t at) {
    size_t lo = 0, hi = l->count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (l->start[mid] <= at) lo = mid;
        else hi = mid;
    }
    return lo;
}

/* Blank lines are no records; those of another width, or with an odd byte, are kept back. */
static void find_kinds(bsi_lines *l, const bsi_line_shape *s, const uint8_t *p) {
    uint32_t wrong = 0;
    for (size_t i = 0; i < l->count; i++) wrong |= (l->seps[i + 1] - l->seps[i]) ^ (s->columns - 1);
    l->kind = NULL;
    if (!wrong && !l->odd_count) return;
    l->kind = l->kind_own;
    for (size_t i = 0; i < l->count; i++) {
        uint32_t bytes = l->start[i + 1] - l->start[i];
        bool blank = bytes == 1 || (bytes == 2 && p[l->start[i]] == '\r');
        l->kind[i] = blank ? LINE_BLANK : l->seps[i + 1] - l->seps[i] == s->columns - 1 ? LINE_GOOD : LINE_BAD;
    }
    for (size_t i = 0; i < l->odd_count && l->count; i++)
        if (l->odd[i] < l->start[l->count]) l->kind[line_of(l, l->odd[i])] = LINE_BAD;
}

/* The key begins behind delimiter number key_first of its line. */
static void find_keys(bsi_lines *l, const bsi_line_shape *s) {
    l->key = l->start;
    if (!s->key_first) return;
    l->key = l->key_own;
    size_t word = 0;
    for (size_t i = 0; i < l->count; i++) {
        uint32_t target = l->seps[i] + s->key_first - 1;
        if (target >= l->seps[i + 1]) { /* too few: such a line is not good */
            l->key[i] = l->start[i];
            continue;
        }
        while (l->before[word + 1] <= target) word++;
        uint64_t mask = l->mask[word];
        for (uint32_t skip = target - l->before[word]; skip; skip--) mask &= mask - 1;
        l->key[i] = (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(mask) + 1;
    }
}

void bsi_lines_read(bsi_lines *l, const bsi_line_shape *s, int isa, const uint8_t *p, size_t n) {
    make_room(l, n);
    l->odd_count = l->crlf = 0;
    l->lone_cr = l->key_quote = l->bad_utf8 = l->quotes = l->open = false;
#if defined(__x86_64__)
    if (isa == BSI_ISA_AVX512) bsi_lines_read_avx512(l, s, p, n);
    else if (isa == BSI_ISA_AVX2) bsi_lines_read_avx2(l, s, p, n);
    else
#endif
        bsi_lines_read_scalar(l, s, p, n);
    (void)isa;
    find_kinds(l, s, p);
    find_keys(l, s);
}

size_t bsi_lines_ascend(const bsi_line_shape *s, int isa, const uint8_t *p, const uint32_t *key, size_t from, size_t count) {
#if defined(__x86_64__)
    if (isa == BSI_ISA_AVX512) return bsi_lines_ascend_avx512(s, p, key, from, count);
    if (isa == BSI_ISA_AVX2) return bsi_lines_ascend_avx2(s, p, key, from, count);
#endif
    (void)isa;
    return bsi_lines_ascend_scalar(s, p, key, from, count);
}

static size_t field_length(const bsi_line_shape *s, const uint8_t *p) {
    size_t n = 0;
    while (p[n] != s->delimiter && p[n] != '\n' && p[n] != '\r') n++;
    return n;
}

int bsi_keys_compare(const bsi_line_shape *s, const uint8_t *a, const uint8_t *b) {
    for (uint32_t f = 0; f < s->key_count; f++) {
        size_t m = field_length(s, a), n = field_length(s, b);
        int c = memcmp(a, b, BSI_MIN(m, n));
        if (m != n && (!c || !(s->by_text >> f & 1))) return m < n ? -1 : 1;
        if (c) return c;
        a += m + 1;
        b += n + 1;
    }
    return 0;
}

uint32_t bsi_keys_vote(const bsi_line_shape *s, const uint8_t *a, const uint8_t *b, int *vote) {
    *vote = 0;
    for (uint32_t f = 0; f < s->key_count; f++) {
        size_t m = field_length(s, a), n = field_length(s, b);
        int c = memcmp(a, b, BSI_MIN(m, n));
        if (m != n && c) *vote = (m > n) - (m < n) + (c < 0 ? 1 : -1);
        if (m != n || c) return f;
        a += m + 1;
        b += n + 1;
    }
    return 0;
}

size_t bsi_keys_length(const bsi_line_shape *s, const uint8_t *p) {
    size_t n = field_length(s, p);
    for (uint32_t f = 1; f < s->key_count; f++) n += 1 + field_length(s, p + n + 1);
    return n;
}

bool bsi_keys_quoted(const bsi_line_shape *s, const uint8_t *p) {
    for (uint32_t f = 0; f < s->key_count; f++) {
        size_t n = field_length(s, p);
        if (n < 2 || p[0] != s->quote || memchr(p + 1, s->quote, n - 1) != p + n - 1) return false;
        p += n + 1;
    }
    return true;
}

bool bsi_keys_empty(const bsi_line_shape *s, const uint8_t *p) {
    return bsi_keys_length(s, p) == s->key_count - 1 + (s->key_quoted ? 2 * s->key_count : 0);
}
