/* diff/difference.c - see flow/difference.h.
 *
 * A snapshot in another order, or with an ignored column that changes on each line, has other bytes everywhere and the same
 * records almost everywhere. Joining ten million rows with ten million to learn that costs 480 MB of rows that are moved
 * twice. Here no row is kept at all: each goes into three cells of a table, one in each third of it, where a row and its
 * equal on the other side cancel out. What is left are the rows that differ:
 *
 *   cells   count   kh    rh    check             a cell whose count is 1 or -1 and whose check fits its kh and rh holds one
 *             0     0     0       0               row. It is listed and taken out of its other two cells, which may leave one
 *             1    K1    R1      C1  <── pure     row in them, and so on until all cells are empty (or the table is too full)
 *             2  K1^K2 R1^R2  C1^C2
 *
 * This is an invertible Bloom lookup table (Goodrich and Mitzenmacher, 2011). With three cells a row it can be emptied with
 * high probability while there are at least 1.23 cells for each row that is left; it is opened with 1.45.
 *
 * A table of ten megabytes does not stay in the L2 cache: rows ask for their cells when they come, and change them when
 * some BEHIND others have come. Most of the time of a row is instructions, so a cell is changed in two steps: kh and rh as one
 * vector, check and count as one sum.
 */
#include "flow/difference.h"

#include <stdlib.h>

enum { THIRDS = 3, BEHIND = 64, BITS_LEAST = 6, BITS_MOST = 17 };

typedef uint64_t pair __attribute__((vector_size(16), aligned(8), may_alias)); /* kh, rh */

typedef struct cell {
    uint64_t kh, rh;  /* xor of all rows */
    uint64_t sum;     /* of marks: a row's is its check and, in the low half, 1; that of a row which was taken counts negative */
} cell;

typedef struct waiting {
    uint64_t kh, rh, bits;
} waiting;

struct bsi_difference {
    cell *cell; /* [THIRDS << bits] */
    unsigned bits, count;
    bool taken; /* those that wait are taken, not added */
    waiting behind[BEHIND];
};

bsi_difference *bsi_difference_open(size_t most) {
    bsi_difference *d = bsi_calloc(1, sizeof *d);
    d->bits = BITS_LEAST;
    while (((size_t)THIRDS << d->bits) < most + most / 20 * 9 && d->bits < BITS_MOST) d->bits++;
    d->cell = bsi_calloc((size_t)THIRDS << d->bits, sizeof *d->cell);
    return d;
}

void bsi_difference_close(bsi_difference *d) {
    if (!d) return;
    free(d->cell);
    free(d);
}

/* kh and rh are hashes with the store's secret: mixing them is enough to spread them. */
static uint64_t place_bits(uint64_t kh, uint64_t rh) {
    uint64_t x = (kh ^ (rh << 32 | rh >> 32)) * 0x9E3779B97F4A7C15ull;
    return x ^ x >> 29;
}

static uint64_t mark_of(uint64_t kh, uint64_t rh) {
    uint64_t x = (kh + 0xD1B54A32D192ED03ull) * 0xAEF17502108EF2D9ull ^ rh * 0x8CB92BA72F3D8DD7ull;
    return (x & ~(uint64_t)UINT32_MAX) + 1;
}

static inline cell *cell_of(const bsi_difference *d, uint64_t bits, unsigned third) {
    return d->cell + (((size_t)third << d->bits) + (bits >> third * BITS_MOST & (((size_t)1 << d->bits) - 1)));
}

static inline void change(cell *c, pair row, uint64_t mark) {
    *(pair *)(void *)c ^= row;
    c->sum += mark;
}

static void catch_up(bsi_difference *d) {
    const uint64_t sign = d->taken ? UINT64_MAX : 0;
    for (const waiting *w = d->behind; w < d->behind + d->count; w++) {
        uint64_t mark = (mark_of(w->kh, w->rh) ^ sign) - sign;
        pair row = {w->kh, w->rh};
        change(cell_of(d, w->bits, 0), row, mark);
        change(cell_of(d, w->bits, 1), row, mark);
        change(cell_of(d, w->bits, 2), row, mark);
    }
    d->count = 0;
}

static void put(bsi_difference *d, const uint64_t *kh, const uint64_t *rh, size_t count, bool taken) {
    if (d->taken != taken) catch_up(d);
    d->taken = taken;
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = place_bits(kh[i], rh[i]);
        __builtin_prefetch(cell_of(d, bits, 0), 1);
        __builtin_prefetch(cell_of(d, bits, 1), 1);
        __builtin_prefetch(cell_of(d, bits, 2), 1);
        d->behind[d->count++] = (waiting){kh[i], rh[i], bits};
        if (d->count == BEHIND) catch_up(d);
    }
}

void bsi_difference_add(bsi_difference *d, const uint64_t *kh, const uint64_t *rh, size_t count) { put(d, kh, rh, count, false); }
void bsi_difference_take(bsi_difference *d, const uint64_t *kh, const uint64_t *rh, size_t count) { put(d, kh, rh, count, true); }

void bsi_difference_merge(bsi_difference *d, bsi_difference *other) {
    catch_up(other);
    size_t n = (size_t)THIRDS << d->bits;
    for (size_t i = 0; i < n; i++) change(&d->cell[i], (pair){other->cell[i].kh, other->cell[i].rh}, other->cell[i].sum);
}

/* Holds one row, and belongs where it lies. */
static bool is_pure(const bsi_difference *d, size_t index) {
    const cell *c = &d->cell[index];
    uint64_t mark = mark_of(c->kh, c->rh);
    if (c->sum != mark && c->sum != 0 - mark) return false;
    return cell_of(d, place_bits(c->kh, c->rh), (unsigned)(index >> d->bits)) == c;
}

typedef struct row_list {
    bsi_difference_row *row;
    size_t count, cap;
} row_list;

static void list_add(row_list *l, uint64_t kh, uint64_t rh) {
    if (l->count == l->cap) l->row = bsi_realloc(l->row, (l->cap = l->cap ? l->cap * 2 : 256) * sizeof *l->row);
    l->row[l->count++] = (bsi_difference_row){kh, rh};
}

/* Empties cells from `index` on: taking a row out may leave one row in another cell, which is looked at next. */
static void peel(bsi_difference *d, size_t index, row_list lists[2], size_t **todo, size_t *cap) {
    size_t n = 0;
    for (;;) {
        if (is_pure(d, index)) {
            cell c = d->cell[index];
            list_add(&lists[c.sum != mark_of(c.kh, c.rh)], c.kh, c.rh);
            uint64_t bits = place_bits(c.kh, c.rh);
            if (n + THIRDS > *cap) *todo = bsi_realloc(*todo, (*cap = *cap * 2 + 64) * sizeof **todo);
            for (unsigned t = 0; t < THIRDS; t++) {
                cell *other = cell_of(d, bits, t);
                change(other, (pair){c.kh, c.rh}, 0 - c.sum);
                if (other->sum) (*todo)[n++] = (size_t)(other - d->cell);
            }
        }
        if (!n) return;
        index = (*todo)[--n];
    }
}

static bool is_empty(const bsi_difference *d) {
    for (size_t i = 0; i < (size_t)THIRDS << d->bits; i++) {
        const cell *c = &d->cell[i];
        if (c->sum || c->kh || c->rh) return false;
    }
    return true;
}

bool bsi_difference_settle(bsi_difference *d, bsi_difference_row **added, size_t *added_count, bsi_difference_row **taken,
                           size_t *taken_count) {
    row_list lists[2] = {{0}};
    catch_up(d);
    size_t *todo = NULL, cap = 0;
    for (size_t i = 0; i < (size_t)THIRDS << d->bits; i++) peel(d, i, lists, &todo, &cap);
    free(todo);
    bool settled = is_empty(d);
    if (!settled) {
        free(lists[0].row);
        free(lists[1].row);
        lists[0] = lists[1] = (row_list){0};
    }
    *added = lists[0].row;
    *added_count = lists[0].count;
    *taken = lists[1].row;
    *taken_count = lists[1].count;
    return settled;
}
