/* run/sync_creates.c - the changes of a first load, told in seq order without a list of them.
 *
 * All are creates, in the order of partitions and then of the snapshot. Ten million of them in a list are 240 MB; but most
 * blocks lie in one partition, and a number for each block says which:
 *
 *   blocks       0   1   2   3   4   5          partition of each: A A B ? B A       ?: several
 *   by partition A: 0 1 5     B: 2 4            the rows of these blocks, as they stand
 *   single       A: 3.0 3.1   B: 3.2            rows of blocks with several partitions, listed one by one
 *
 * Both are gone through side by side, the smaller place first.
 */
#include <stdlib.h>

#include "core/vast.h"
#include "run/sync.h"

struct bsi_creates {
    const bsi_sync *s;
    uint32_t *part;    /* [parts] numbers in s->parts, by name */
    size_t *first;     /* [parts + 1] where the blocks of each begin, by number in s->parts */
    uint32_t *block;   /* by partition, ascending */
    bsi_item *single;  /* in seq order */
    size_t single_count;
    /* where next() stands */
    size_t part_at, block_at, single_at;
    uint32_t row;
};

static bool is_made(const bsi_sync *s, uint64_t index) { return s->all_new || !(s->fate[index] & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE)); }

/* Partitions by name: sorted as items are. */
static void order_parts(bsi_creates *c) {
    uint32_t n = c->s->parts.count;
    bsi_item *one = bsi_calloc(n + 1, sizeof *one);
    for (uint32_t p = 0; p < n; p++) one[p] = (bsi_item){.op = 'c', .part = p};
    bsi_items_sort(one, n, &c->s->parts);
    c->part = bsi_alloc((n + 1) * sizeof *c->part);
    for (uint32_t p = 0; p < n; p++) c->part[p] = one[p].part;
    free(one);
}

/* Blocks of each partition, in file order: counted, then dealt out. */
static void deal_blocks(bsi_creates *c, const uint32_t *number) {
    const bsi_sync *s = c->s;
    uint32_t n = s->parts.count;
    c->first = bsi_calloc(n + 2, sizeof *c->first);
    for (size_t i = 0; i < s->open_count; i++)
        if (s->block_part[i] != UINT32_MAX) c->first[number[s->block_part[i]] + 1]++;
    for (uint32_t p = 0; p < n; p++) c->first[p + 1] += c->first[p];
    c->block = bsi_vast_alloc((c->first[n] + 1) * sizeof *c->block);
    size_t *at = bsi_alloc((n + 1) * sizeof *at);
    memcpy(at, c->first, (n + 1) * sizeof *at);
    for (size_t i = 0; i < s->open_count; i++)
        if (s->block_part[i] != UINT32_MAX) c->block[at[number[s->block_part[i]]]++] = (uint32_t)i;
    free(at);
}

static bomsync_status list_single(bsi_creates *c, bsi_sync *s, bomsync_error *err) {
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_reader r;
    bsi_row_reader_open(&r, &now);
    bsi_field *f = bsi_alloc(sizeof *f * (now.slot_count + 1));
    bomsync_status st = BOMSYNC_OK;
    size_t cap = 0;
    for (size_t i = 0; i < s->open_count && !st; i++)
        for (uint64_t k = s->row_base[i]; s->block_part[i] == UINT32_MAX && k < s->row_base[i + 1] && !st; k++) {
            if (!is_made(s, k)) continue;
            uint64_t place = (uint64_t)i << 16 | (k - s->row_base[i]);
            st = bsi_row_fetch(f, &r, place, err);
            if (st) break;
            bsi_field p = bsi_change_partition(&s->feed->slots, f);
            if (c->single_count == cap) c->single = bsi_vast_realloc(c->single, (cap = cap ? cap * 2 : 64) * sizeof *c->single);
            c->single[c->single_count++] = (bsi_item){.op = 'c', .now = place, .part = bsi_part_of(&s->parts, p.p, p.len)};
        }
    free(f);
    bsi_row_reader_close(&r);
    return st;
}

bomsync_status bsi_creates_open(bsi_creates **out, bsi_sync *s, bomsync_error *err) {
    bsi_creates *c = *out = bsi_calloc(1, sizeof *c);
    c->s = s;
    bomsync_status st = list_single(c, s, err);
    uint32_t *number = bsi_alloc((s->block_parts.count + 1) * sizeof *number);
    for (uint32_t p = 0; p < s->block_parts.count; p++) number[p] = bsi_part_of(&s->parts, s->block_parts.name[p], s->block_parts.len[p]);
    bsi_items_sort(c->single, c->single_count, &s->parts);
    order_parts(c);
    deal_blocks(c, number);
    free(number);
    c->block_at = s->parts.count ? c->first[c->part[0]] : 0;
    return st;
}

void bsi_creates_close(bsi_creates *c) {
    if (!c) return;
    free(c->part);
    free(c->first);
    bsi_vast_free(c->block);
    bsi_vast_free(c->single);
    free(c);
}

/* The next row of the blocks of partition `part` that is made: its place, UINT64_MAX if there is none. */
static uint64_t next_in_blocks(bsi_creates *c, uint32_t part) {
    const bsi_sync *s = c->s;
    for (; c->block_at < c->first[part + 1]; c->block_at++, c->row = 0) {
        size_t i = c->block[c->block_at];
        uint64_t base = s->row_base[i], rows = s->row_base[i + 1] - base;
        for (; c->row < rows; c->row++)
            if (is_made(s, base + c->row)) return (uint64_t)i << 16 | c->row;
    }
    return UINT64_MAX;
}

static bomsync_status next(void *ctx, bsi_item *out, size_t room, size_t *count, bomsync_error *err) {
    (void)err;
    bsi_creates *c = ctx;
    *count = 0;
    while (*count < room && c->part_at < c->s->parts.count) {
        uint32_t part = c->part[c->part_at];
        uint64_t place = next_in_blocks(c, part);
        const bsi_item *one = c->single_at < c->single_count && c->single[c->single_at].part == part ? &c->single[c->single_at] : NULL;
        if (one && one->now < place) {
            out[(*count)++] = *one;
            c->single_at++;
        } else if (place != UINT64_MAX) {
            out[(*count)++] = (bsi_item){.op = 'c', .now = place, .part = part};
            c->row++;
        } else if (++c->part_at < c->s->parts.count) {
            c->block_at = c->first[c->part[c->part_at]];
            c->row = 0;
        }
    }
    return BOMSYNC_OK;
}

bsi_item_source bsi_creates_source(bsi_creates *c) { return (bsi_item_source){next, c, (uint64_t)c->s->t.created}; }
