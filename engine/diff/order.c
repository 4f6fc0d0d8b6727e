/* diff/order.c - keys that ascend stand once.
 *
 *   keys    10  20  30  100010  40  50  50  60        100010 is a single: taken out, the rest ascends
 *   chain   10  20  30          40  50      60        the second 50 is a twin: both are opened
 *
 * Each stretch gives one span for each run of ascending keys, its lowest and highest key. If no span reaches into another,
 * all keys of all chains are different. Singles and twins are opened: they are compared record by record, whatever their
 * bytes. A single must still not be in a chain: the spans of its own stretch are searched at once, others later (probe).
 *
 * The order is field by field, each by its bytes or as numbers are (the shorter one first), whichever a sample of the file
 * speaks for. Where an export has another order, runs are short, and `sure` is given up after a few.
 */
#include "diff/order.h"

#include <stdlib.h>

enum { LOOK = 16, RUNS_MAX = 8 };

typedef struct run {
    size_t from, to; /* of the chain */
} run;

typedef struct job {
    bsi_tiling *t;
    bsi_order *w;
    const bsi_line_shape *s;
    const bsi_lines *l;
    const uint8_t *p;
    uint64_t at;
    uint32_t bytes;
    size_t count;         /* keys */
    const uint32_t *key;  /* [count] */
    const uint32_t *line; /* [count] their lines; NULL: the same numbers */
    uint32_t *chain;      /* keys that ascend, run by run */
    size_t chained, singles;
    run run[RUNS_MAX];
    size_t runs;
} job;

static void make_room(bsi_order *w, size_t n) {
    if (n <= w->cap) return;
    bsi_order_free(w);
    w->cap = n + n / 2;
    w->key = bsi_alloc(w->cap * sizeof *w->key);
    w->line = bsi_alloc(w->cap * sizeof *w->line);
    w->chain = bsi_alloc(w->cap * sizeof *w->chain);
    w->single = bsi_alloc(w->cap * sizeof *w->single);
}

void bsi_order_free(bsi_order *w) {
    free(w->key);
    free(w->line);
    free(w->chain);
    free(w->single);
    *w = (bsi_order){0};
}

static const uint8_t *key_at(const job *j, size_t i) { return j->p + j->key[i]; }
static int compare(const job *j, size_t a, size_t b) { return bsi_keys_compare(j->s, key_at(j, a), key_at(j, b)); }

void bsi_order_open(bsi_tiling *t, const bsi_lines *l, size_t line, uint64_t at) {
    if (t->open_count == t->open_cap) t->open = bsi_realloc(t->open, (t->open_cap = t->open_cap ? t->open_cap * 2 : 16) * sizeof *t->open);
    t->open[t->open_count++] = (bsi_piece){at + l->start[line], l->start[line + 1] - l->start[line], 1};
}

static void open_key(job *j, size_t i) { bsi_order_open(j->t, j->l, j->line ? j->line[i] : i, j->at); }

static size_t keep_key(bsi_tiling *t, const bsi_line_shape *s, const uint8_t *key) {
    size_t at = t->keys.len;
    bsi_buf_add(&t->keys, key, bsi_keys_length(s, key));
    bsi_buf_byte(&t->keys, '\n');
    return at;
}

static void add_probe(bsi_tiling *t, size_t key) {
    if (t->probe_count == t->probe_cap) t->probe = bsi_realloc(t->probe, (t->probe_cap = t->probe_cap ? t->probe_cap * 2 : 16) * sizeof *t->probe);
    t->probe[t->probe_count++] = key;
}

/* With quoted keys: is this one quoted as the others are? Else the same key might stand there in another way. */
static bool as_quoted(job *j, size_t i) {
    if (j->s->key_quoted && !bsi_keys_quoted(j->s, key_at(j, i))) j->t->sure = false;
    return j->t->sure;
}

static void single(job *j, size_t i) { j->w->single[j->singles++] = (uint32_t)i; }

/* Key i is not above the end of the chain. Returns the next key to go on with: it is above the end, or begins a run. */
static size_t mend(job *j, size_t i) {
    while (i < j->count) {
        run *r = &j->run[j->runs - 1];
        size_t end = j->chained;
        if (!as_quoted(j, i)) return j->count;
        int c = compare(j, j->chain[end - 1], i);
        if (c < 0) return i;
        for (size_t back = 1; c > 0 && back < LOOK && back < end - r->from; back++) { /* keys before it stand too early */
            c = compare(j, j->chain[end - 1 - back], i);
            if (c > 0) continue;
            for (size_t k = 0; k < back; k++) single(j, j->chain[end - 1 - k]);
            j->chained -= back;
        }
        if (c < 0) return i;
        if (c == 0) {
            open_key(j, i);
            open_key(j, j->chain[j->chained - 1]);
            i++;
            continue;
        }
        size_t ahead = 1; /* or it stands too late, and some behind it */
        while (ahead < LOOK && i + ahead < j->count && compare(j, j->chain[end - 1], i + ahead) >= 0) ahead++;
        bool later = ahead < LOOK && i + ahead < j->count;
        if (later) {
            for (size_t k = 0; k < ahead && as_quoted(j, i + k); k++) single(j, i + k);
            i += ahead;
            continue;
        }
        r->to = j->chained;
        if (j->runs == RUNS_MAX) {
            j->t->sure = false;
            return j->count;
        }
        j->run[j->runs++] = (run){j->chained, 0};
        return i;
    }
    return i;
}

static void walk(job *j, int isa) {
    j->run[0] = (run){0, 0};
    j->runs = 1;
    if (j->count) as_quoted(j, 0);
    for (size_t i = 0; i < j->count && j->t->sure;) {
        size_t to = bsi_lines_ascend(j->s, isa, j->p, j->key, i, j->count);
        for (; i < to; i++) j->chain[j->chained++] = (uint32_t)i;
        if (i == j->count || !as_quoted(j, i)) break;
        if (compare(j, i - 1, i) >= 0) i = mend(j, i); /* else it was only not seen at a glance */
    }
    j->run[j->runs - 1].to = j->chained;
}

/* Is it in a chain of this stretch? *inside: it is, or the chain proves that no other holds it. */
static void search(job *j, size_t i, bool *inside) {
    *inside = false;
    for (size_t k = 0; k < j->runs; k++) {
        size_t lo = j->run[k].from, hi = j->run[k].to;
        if (lo == hi || compare(j, j->chain[lo], i) > 0 || compare(j, j->chain[hi - 1], i) < 0) continue;
        *inside = true;
        while (hi - lo > 1) {
            size_t mid = lo + (hi - lo) / 2;
            if (compare(j, j->chain[mid], i) <= 0) lo = mid;
            else hi = mid;
        }
        if (compare(j, j->chain[lo], i) == 0) open_key(j, j->chain[lo]);
    }
}

static void add_spans(job *j) {
    bsi_tiling *t = j->t;
    for (size_t k = 0; k < j->runs; k++) {
        run r = j->run[k];
        if (r.from == r.to) continue;
        if (t->span_count == t->span_cap) t->span = bsi_realloc(t->span, (t->span_cap = t->span_cap ? t->span_cap * 2 : 16) * sizeof *t->span);
        const uint8_t *first = key_at(j, j->chain[r.from]), *last = key_at(j, j->chain[r.to - 1]);
        bsi_key_span s = {.at = j->at, .bytes = j->bytes};
        s.first = keep_key(t, j->s, first);
        s.last = keep_key(t, j->s, last);
        t->span[t->span_count++] = s;
        if (bsi_keys_empty(j->s, first)) open_key(j, j->chain[r.from]); /* kept back by parse; only the lowest key can be empty */
    }
}

/* Does a quote stand in the key of a good line, where none should? */
static bool quoted_key(const bsi_line_shape *s, const bsi_lines *l, const uint8_t *p, size_t count) {
    for (size_t i = 0; i < count && l->key_quote && !s->key_quoted; i++)
        if ((!l->kind || l->kind[i] == LINE_GOOD) && memchr(p + l->key[i], s->quote, bsi_keys_length(s, p + l->key[i]))) return true;
    return false;
}

void bsi_order_take(bsi_tiling *t, bsi_order *w, const bsi_line_shape *s, int isa, const bsi_lines *l, const uint8_t *p, uint64_t at, size_t count) {
    bool mixed_ends = s->key_last && l->crlf && l->crlf != l->count; /* an end of line is an end of key there */
    if (!t->sure || !count) return;
    if (mixed_ends || quoted_key(s, l, p, count) || (l->bad_utf8 && l->quotes && s->lenient)) {
        t->sure = false;
        return;
    }
    make_room(w, count);
    job j = {.t = t, .w = w, .s = s, .l = l, .p = p, .at = at, .bytes = l->start[count], .count = count, .key = l->key, .chain = w->chain};
    if (l->kind) {
        j.count = 0;
        for (size_t i = 0; i < count; i++) {
            if (l->kind[i] != LINE_GOOD) continue;
            w->key[j.count] = l->key[i];
            w->line[j.count++] = (uint32_t)i;
        }
        j.key = w->key;
        j.line = w->line;
    }
    walk(&j, isa);
    if (!t->sure || j.singles > 16 + j.count / 4) {
        t->sure = false;
        return;
    }
    add_spans(&j);
    for (size_t i = 0; i < j.singles; i++) {
        bool inside;
        open_key(&j, w->single[i]);
        search(&j, w->single[i], &inside);
        if (!inside) add_probe(t, keep_key(t, s, key_at(&j, w->single[i])));
    }
}

/* ---- all spans ---- */

typedef struct by_key {
    const bsi_tiling *t;
    const bsi_line_shape *s;
} by_key;

static int span_order(const void *a, const void *b, void *ctx) {
    const by_key *k = ctx;
    const bsi_key_span *x = a, *y = b;
    return bsi_keys_compare(k->s, k->t->keys.data + x->first, k->t->keys.data + y->first);
}

void bsi_order_settle(bsi_tiling *t, const bsi_line_shape *s) {
    if (!t->sure) return;
    by_key k = {t, s};
    bool sorted = true;
    for (size_t i = 1; i < t->span_count && sorted; i++) sorted = span_order(&t->span[i - 1], &t->span[i], &k) <= 0;
    if (!sorted) qsort_r(t->span, t->span_count, sizeof *t->span, span_order, &k);
    for (size_t i = 1; i < t->span_count && t->sure; i++) {
        int c = bsi_keys_compare(s, t->keys.data + t->span[i - 1].last, t->keys.data + t->span[i].first);
        if (c > 0) t->sure = false;
        if (c == 0) { /* twins on either side of a border */
            add_probe(t, t->span[i - 1].last);
            add_probe(t, t->span[i].first);
        }
    }
}
