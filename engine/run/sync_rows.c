/* run/sync_rows.c - from matched and unmatched blocks to what happened to each record.
 *
 *   scan blocks   M M M u M u u M ...     M matched an exact image entry: its records are published as they are
 *   open blocks         u   u u           parsed: N rows
 *   open state          the state blocks that no matched entry stands for: O rows
 *
 * Blocks that were changed in place (sync_amend.c) are open, but what happened to their records is known: they are as good
 * as skipped, but for those that came with them. The join settles these and the rows of the others. Then one question is left: does a
 * record that looks new have a twin in a skipped block (sync_twins.c)? If so, the join is made again with its block.
 */
#include "run/sync.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"

/* ---- which blocks are open ---- */

/* Rows of blocks that were changed in place are settled: they have no index, but those that were created have fates behind all others. */
static void list_open(bsi_sync *s) {
    bsi_vast_free(s->row_base);
    s->open_count = s->scan.block_count;
    s->row_base = bsi_vast_alloc(sizeof *s->row_base * (s->open_count + 1));
    uint64_t rows = 0;
    bsi_amend_walk amended = {0};
    for (size_t i = 0; i < s->open_count; i++) {
        s->row_base[i] = rows;
        if (!bsi_amend_next(&amended, s, i)) rows += s->scan.block[i].records;
    }
    s->row_base[s->open_count] = rows;
    for (size_t i = 0, created = 0; i < s->amended_count; i++) {
        s->amended[i].fate = (uint32_t)created;
        created += (size_t)__builtin_popcountll(s->amended[i].created);
    }
}

/* The places of state blocks in base, for entries of the image that are gone through in order. Mostly the state stands in
 * the same order, a few entries more or less: then the place follows from the one before. What is not where it was looked
 * for is searched at the end, in one pass over all refs. */
typedef struct place_finder {
    bsi_sync *s;
    uint64_t entry, ordinal; /* found last; looked for next: as far behind it */
    size_t amended; /* the next one whose entry is not passed yet */
    bsi_ref_set rest;   /* exact entries' blocks that were not found */
    bsi_ref_set orphan; /* blocks without an exact entry: they lie about where entries are that are not exact */
    size_t orphans;     /* of them found */
    uint64_t near_end;  /* places before it were looked at for orphans */
    size_t cap;         /* of s->open_state */
    bool ascending;
} place_finder;
enum { PLACE_NEAR = 24 };

static bool find_near(uint64_t *ordinal, const place_finder *f, bsi_ref ref, uint64_t entry) {
    const bsi_sync *s = f->s;
    uint64_t guess = f->ordinal + (entry - f->entry);
    if (guess < s->base_count && s->base[guess] == ref) return *ordinal = guess, true;
    uint64_t lo = guess > PLACE_NEAR ? guess - PLACE_NEAR : 0, hi = BSI_MIN(guess + PLACE_NEAR, s->base_count);
    for (*ordinal = lo; *ordinal < hi; ++*ordinal)
        if (s->base[*ordinal] == ref) return true;
    return false;
}

static void add_state(place_finder *f, uint64_t ordinal) {
    bsi_sync *s = f->s;
    if (s->open_state_count >= s->base_count) s->open_state_count = bsi_vast_unique(s->open_state, s->open_state_count); /* an image that names a block twice */
    if (s->open_state_count == f->cap)
        s->open_state = bsi_vast_realloc(s->open_state, (f->cap = BSI_MIN(f->cap * 2 + 256, s->base_count + 1)) * sizeof *s->open_state);
    if (s->open_state_count && s->open_state[s->open_state_count - 1] >= ordinal) f->ascending = false;
    s->open_state[s->open_state_count++] = ordinal;
}

static void find_orphans(place_finder *f, uint64_t entry) {
    const bsi_sync *s = f->s;
    uint64_t guess = f->ordinal + (entry - f->entry), lo = guess > PLACE_NEAR ? guess - PLACE_NEAR : 0;
    uint64_t hi = BSI_MIN(guess + PLACE_NEAR, s->base_count);
    for (uint64_t i = BSI_MAX(lo, f->near_end); i < hi; i++) {
        if (!bsi_ref_has(&f->orphan, s->base[i])) continue;
        add_state(f, i);
        f->orphans++;
    }
    f->near_end = BSI_MAX(f->near_end, hi);
}

/* Of a block that was changed in place the ref is known, and its entry need not be fetched from far away. Both ascend by entries. */
static bsi_amended *amended_of(place_finder *f, uint64_t entry) {
    bsi_sync *s = f->s;
    while (f->amended < s->amended_count && s->amended[f->amended].entry < entry) f->amended++;
    return f->amended < s->amended_count && s->amended[f->amended].entry == entry ? &s->amended[f->amended] : NULL;
}

static void add_refs(place_finder *f, bsi_image_walk *w, uint64_t from, uint64_t to) {
    for (; from < to; from++) {
        bsi_amended *a = amended_of(f, from);
        const bsi_image_entry *e = a ? NULL : bsi_image_next(w, from);
        uint64_t ordinal;
        if (!a && !(e->flags & BSI_IMAGE_EXACT)) {
            if (f->orphans < f->orphan.count) find_orphans(f, from);
            continue;
        }
        if (!find_near(&ordinal, f, a ? a->ref : e->ref, from)) {
            bsi_ref_add(&f->rest, a ? a->ref : e->ref);
            continue;
        }
        f->entry = from;
        f->ordinal = ordinal;
        if (a) a->ordinal = ordinal; /* its rows are settled: it need not be looked at */
        else add_state(f, ordinal);
    }
}

/* State blocks whose entry matched no block of this snapshot. */
static void unmatched_refs(place_finder *f) {
    const bsi_sync *s = f->s;
    bsi_image_walk w = {.image = &s->image};
    if (s->scan.ascending) {
        uint64_t at = 0;
        for (size_t i = 0; i < s->scan.run_count; i++) {
            const bsi_scan_run *r = &s->scan.run[i];
            if (!r->matched) continue;
            add_refs(f, &w, at, r->first);
            at = r->first + r->count;
        }
        add_refs(f, &w, at, s->image.count);
        return;
    }
    uint8_t *used = bsi_calloc(s->image.count / 8 + 1, 1);
    for (size_t i = 0; i < s->scan.run_count; i++) {
        const bsi_scan_run *r = &s->scan.run[i];
        for (uint64_t k = r->first; r->matched && k < r->first + r->count; k++) used[k >> 3] |= (uint8_t)(1u << (k & 7));
    }
    for (uint64_t i = 0; i < s->image.count; i++)
        if (!(used[i >> 3] >> (i & 7) & 1)) add_refs(f, &w, i, i + 1);
    free(used);
}

static uint64_t filter_bit(bsi_ref ref, unsigned bits) { return ref * 0x9E3779B97F4A7C15ull >> (64 - bits); }

static void find_rest(place_finder *f) {
    bsi_sync *s = f->s;
    const bsi_ref_set *open = &f->rest;
    if (!open->count) return;
    unsigned bits = bsi_filter_bits(open->count);
    uint8_t *filter = bsi_calloc((size_t)1 << (bits - 3), 1);
    for (uint64_t i = 0; open->slot && i <= open->mask; i++) {
        if (open->slot[i] == BSI_REF_NONE) continue;
        uint64_t bit = filter_bit(open->slot[i], bits);
        filter[bit >> 3] |= (uint8_t)(1u << (bit & 7));
    }
    for (size_t i = 0; i < s->base_count; i++) {
        uint64_t bit = filter_bit(s->base[i], bits);
        if ((filter[bit >> 3] >> (bit & 7) & 1) && bsi_ref_has(open, s->base[i])) add_state(f, i);
    }
    free(filter);
}

/* State blocks whose entry matched no block of this snapshot, and those that had none. */
static void list_open_state(bsi_sync *s) {
    place_finder f = {.s = s, .ascending = true};
    for (size_t i = 0; i < s->image.orphan_count; i++) bsi_ref_add(&f.orphan, s->image.orphan[i]);
    unmatched_refs(&f);
    for (size_t i = 0; f.orphans < f.orphan.count && i < s->image.orphan_count; i++) bsi_ref_add(&f.rest, s->image.orphan[i]); /* found twice does not matter */
    find_rest(&f);
    bsi_vast_free(f.rest.slot);
    bsi_vast_free(f.orphan.slot);
    if (!f.ascending) s->open_state_count = bsi_vast_unique(s->open_state, s->open_state_count);
}

static bomsync_status open_once(bool *again, bsi_sync *s, bomsync_error *err) {
    *again = false;
    bsi_amend_settle(s);
    list_open(s);
    uint64_t matched = s->scan.blocks - s->open_count;
    bsi_vast_free(s->open_state);
    s->open_state_count = 0;
    s->open_state = NULL;
    if (!s->last) return BOMSYNC_OK;
    if (matched == s->image.count && !s->image.orphan_count && !s->open_count) return BOMSYNC_OK; /* nothing to look at */
    if (s->settled) return BOMSYNC_OK; /* bsi_reconcile_old finds them */
    bomsync_status st = bsi_sync_base(s, err);
    if (st) return st;
    if (!matched && !s->view) {
        s->open_state = bsi_vast_alloc(sizeof(uint64_t) * (s->base_count + 1));
        for (size_t i = 0; i < s->base_count; i++) s->open_state[s->open_state_count++] = i;
        return bsi_amend_place(again, s, err);
    }
    list_open_state(s);
    return bsi_amend_place(again, s, err);
}

bomsync_status bsi_sync_open_blocks(bsi_sync *s, bomsync_error *err) {
    bool again = true;
    bomsync_status st = BOMSYNC_OK;
    while (again && !st) st = open_once(&again, s, err);
    return st;
}

void bsi_sync_place(bsi_sync *s, uint64_t index, size_t *open, uint32_t *row) {
    size_t lo = 0, hi = s->open_count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->row_base[mid] <= index) lo = mid;
        else hi = mid;
    }
    *open = lo;
    *row = (uint32_t)(index - s->row_base[lo]);
}

/* ---- joining ---- */

typedef struct old_rows_run {
    bsi_sync *s;
    atomic_int status;
    bomsync_error *err;
    bsi_row_store *rows;      /* of this round */
    unsigned from, to;        /* its partitions */
    bsi_key_filter wanted;    /* only these are asked for */
} old_rows_run;

static void fail_run(old_rows_run *r, bomsync_status st, const bomsync_error *err) {
    int none = 0;
    if (atomic_compare_exchange_strong(&r->status, &none, (int)st)) *r->err = *err;
}

static void add_old_rows(void *ctx, size_t lane) {
    old_rows_run *r = ctx;
    bsi_sync *s = r->s;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    size_t per = s->open_state_count / (size_t)s->workers + 1;
    size_t end = BSI_MIN((lane + 1) * per, s->open_state_count);
    for (size_t i = lane * per; i < end; i++) {
        if (bsi_is_amended(s, s->open_state[i])) continue;
        bsi_block_rows rows;
        bomsync_status st = bsi_store_rows(&rows, s->store, s->base[s->open_state[i]], &err);
        for (uint32_t k = 0; !st && k < rows.count; k++) {
            if (BSI_JOIN_PART(rows.kh[k]) - r->from >= r->to - r->from) continue;
            if (r->wanted.word && !bsi_key_filter_has(&r->wanted, rows.kh[k])) continue;
            bsi_row row = {rows.kh[k], rows.rh[k], s->open_state[i] << 16 | k};
            st = bsi_row_store_add(r->rows, (int)lane, &row, &err);
        }
        if (st) {
            fail_run(r, st, &err);
            return;
        }
    }
}

static void want_rows(void *ctx, const bsi_row *rows, size_t count) {
    for (size_t i = 0; i < count; i++) bsi_key_filter_add(ctx, rows[i].kh);
}

/* An upsert does not ask what is gone: of the state only rows with its keys are joined, which are few mostly. With --tiers none all are. */
static bsi_key_filter wanted_rows(const bsi_sync *s) {
    uint64_t count = bsi_row_store_count(s->n_rows);
    if (!s->o->upsert || !s->tier_sequence || count * 4 > (uint64_t)s->feed->records) return (bsi_key_filter){0};
    bsi_key_filter f = bsi_key_filter_for(count);
    if (bsi_row_store_each(s->n_rows, want_rows, &f)) return f;
    free(f.word);
    return (bsi_key_filter){0};
}

/* Old rows lie in the store: only those of some partitions at a time are taken out, as many as there is memory for. */
enum { ROUNDS_MOST = 4 }; /* each goes through all of them: with more, what is too much costs less in the spill file */
static bomsync_status join_rows(bsi_sync *s, bsi_join_out *out, bomsync_error *err) {
    uint64_t bytes = (uint64_t)s->open_state_count * (s->feed->block_size.records * 3 / 2) * sizeof(bsi_row); /* about */
    uint64_t room = bsi_sync_room(s);
    bsi_key_filter wanted = wanted_rows(s);
    if (wanted.word) bytes = 0;
    unsigned rounds = (unsigned)BSI_MIN(bytes / room + 1, (uint64_t)ROUNDS_MOST), per = (BSI_JOIN_PARTS + rounds - 1) / rounds;
    bsi_row_store *old = bsi_row_store_open(s->workers, room, s->tmp);
    bomsync_status st = BOMSYNC_OK;
    for (unsigned from = 0; from < BSI_JOIN_PARTS && !st; from += per) {
        old_rows_run r = {.s = s, .err = err, .from = from, .to = BSI_MIN(from + per, BSI_JOIN_PARTS), .rows = old, .wanted = wanted};
        if (s->open_state_count) bsi_parallel(s->workers, (size_t)s->workers, add_old_rows, &r);
        st = (bomsync_status)atomic_load(&r.status);
        if (!st) st = bsi_join_range(out, s->n_rows, old, from, r.to, s->workers, err);
        bsi_row_store_reset(old);
    }
    bsi_row_store_close(old);
    free(wanted.word);
    return st;
}

/* Most records are known to be unchanged: few old rows are wanted, from anywhere. */
static bomsync_status join_reconciled(bsi_sync *s, bsi_join_out *out, bomsync_error *err) {
    bsi_row_store *old = bsi_row_store_open(s->workers, bsi_sync_room(s), s->tmp);
    bomsync_status st = bsi_reconcile_old(s, old, err);
    if (!st) st = bsi_join(out, s->n_rows, old, s->workers, err);
    if (!st) st = bsi_reconcile_gone(s, out, err);
    bsi_row_store_close(old);
    return st;
}

/* Records that went with blocks that were changed in place, among those that the join found. */
static void add_gone(bsi_sync *s) {
    if (!s->amended_gone) return;
    s->gone = bsi_vast_realloc(s->gone, (s->gone_count + s->amended_gone) * sizeof *s->gone);
    for (size_t i = 0; i < s->amended_count; i++)
        for (uint64_t left = s->amended[i].gone; left; left &= left - 1)
            s->gone[s->gone_count++] = s->amended[i].ordinal << 16 | (uint64_t)__builtin_ctzll(left);
    bsi_sort(s->gone, s->gone_count, sizeof *s->gone, bsi_by_u64);
}

static bool none_skipped(const bsi_sync *s) { return s->open_count == s->scan.blocks && !s->amended_count; }

static bomsync_status join_once(bsi_sync *s, bsi_join_out *out, bomsync_error *err) {
    *out = (bsi_join_out){.fate = s->fate, .want_fresh = !s->settled && !none_skipped(s)};
    bomsync_status st = s->settled ? join_reconciled(s, out, err) : join_rows(s, out, err);
    s->gone = out->gone;
    s->gone_count = out->gone_count;
    add_gone(s);
    s->conflicts = out->conflicts;
    s->t.duplicates = (int64_t)out->duplicates;
    return st;
}

static void forget_rows(bsi_sync *s) {
    bool many = s->n_rows && bsi_row_store_count(s->n_rows) > (1u << 19);
    bsi_row_store_close(s->n_rows);
    s->n_rows = NULL;
    if (many) bsi_memory_give_back(); /* and the old rows': the edits that come take as much */
}

void bsi_sync_forget_found(bsi_sync *s) {
    bsi_scan_forget(&s->scan);
    forget_rows(s);
    bsi_vast_free(s->fate);
    bsi_vast_free(s->gone);
    bsi_vast_free(s->item);
    s->fate = s->gone = NULL;
    s->item = NULL;
    s->gone_count = s->item_count = 0;
    bsi_arena_free(&s->bad_bytes);
    s->bad_count = 0;
    s->t = (bsi_totals){.records_in = s->t.records_in};
}

/* Did a record come with the block that is not new after all, or stands twice? */
static bool not_new(void *ctx, const bsi_amended *a, const bsi_early_block *e) {
    const bsi_sync *s = ctx;
    const uint64_t *fate = s->fate + s->row_base[s->open_count] + a->fate;
    for (uint32_t i = 0; i < e->count; i++)
        if (fate[i] != BSI_FATE_NEW) return true;
    return false;
}

/* Everything that was found out about rows is found out again, with the blocks that are open now. No record that is looked at then for the first
 * time can be new: those that came with a block have been looked for. */
static bomsync_status join_again(bsi_sync *s, bomsync_error *err) {
    bsi_join_out out = {0};
    bsi_sync_forget_found(s);
    bomsync_status st = bsi_sync_open_blocks(s, err);
    if (!st) st = bsi_sync_parse(s, err);
    if (!st) st = join_once(s, &out, err);
    bsi_vast_free(out.fresh);
    return st;
}

bomsync_status bsi_sync_join(bsi_sync *s, bomsync_error *err) {
    bsi_join_out out;
    bomsync_status st = join_once(s, &out, err);
    bool opened = false, again = !st && bsi_amend_give_up(s, not_new, s);
    if (!st && !none_skipped(s)) bsi_sync_kept_find(s, &out);
    if (!st && !none_skipped(s)) st = bsi_sync_twins(&opened, s, out.fresh, out.fresh_count, err);
    bsi_vast_free(out.fresh);
    for (again = again || opened; !st && again;) { /* each time fewer blocks count as changed in place */
        st = join_again(s, err);
        again = !st && bsi_amend_give_up(s, not_new, s);
    }
    bsi_sync_memory(s);
    forget_rows(s);
    return st;
}

/* ---- what it means ---- */

typedef struct class_task {
    bsi_parts parts;
    bsi_made made;
    bsi_item *item;
    size_t count, cap;
    int64_t schema_only, outside;
    uint64_t outside_place;
    bomsync_status status;
    bomsync_error err;
} class_task;

enum { CLASS_AT_ONCE = 128 };
typedef struct class_run {
    bsi_sync *s;
    class_task *task; /* those of this round: their lists are put together before the next one, so that no change is listed twice */
    size_t from;
    bool need_rows;   /* partitions or schema_only must be looked up */
    bool need_schema;
    bool count_only; /* a first load: 10 M creates need no list, they are counted already */
} class_run;

static bool in_scope(const bsi_sync *s, const uint8_t *p, size_t n) {
    if (!s->scope) return true;
    for (size_t i = 0; i < s->scope_count; i++)
        if (strlen(s->scope[i]) == n && memcmp(s->scope[i], p, n) == 0) return true;
    return false;
}

static bool schema_only(const bsi_sync *s, const bsi_layout *l, const bsi_field *old, const bsi_field *now, uint32_t slots) {
    uint32_t a = 0;
    for (uint32_t i = s->feed->slots.key_count; i < slots; i++) {
        while (a < l->absent_count && l->absent[a] < i) a++;
        if (bsi_field_eq(&old[i], &now[i])) continue;
        bool dropped = (a < l->absent_count && l->absent[a] == i) || i >= l->slot_count;
        bool added = i >= s->slots_before; /* one that was dropped and comes back restores values: those are updates */
        if (!dropped && !added) return false;
    }
    return true;
}

static void add_item(class_task *t, const bsi_item *it) {
    if (t->count == t->cap) t->item = bsi_realloc(t->item, (t->cap = t->cap ? t->cap * 2 : 64) * sizeof *t->item);
    t->item[t->count++] = *it;
}

/* Its rows were found with the scan: no column came or went, and all partitions are spoken of. */
static void classify_amended(class_task *t, const bsi_sync *s, const bsi_amended *a, bsi_row_reader *reader, bsi_field *f) {
    uint32_t known = s->block_part ? s->block_part[a->open] : UINT32_MAX;
    for (uint64_t left = a->changed | a->created; left && !t->status; left &= left - 1) {
        uint32_t row = (uint32_t)__builtin_ctzll(left);
        bsi_item it = {.now = (uint64_t)a->open << 16 | row, .op = 'c'};
        if (a->changed >> row & 1) it.was = a->ordinal << 16 | bsi_amended_was(a, row), it.op = 'u';
        if (known != UINT32_MAX) {
            it.part = bsi_part_of(&t->parts, s->block_parts.name[known], s->block_parts.len[known]);
        } else if (s->feed->slots.partition >= 0) {
            if ((t->status = bsi_row_fetch(f, reader, it.now, &t->err))) break;
            bsi_field p = bsi_change_partition(&s->feed->slots, f);
            it.part = bsi_part_of(&t->parts, p.p, p.len);
        } else {
            it.part = bsi_part_of(&t->parts, "_", 1);
        }
        add_item(t, &it);
    }
}

static void classify_task(void *ctx, size_t index) {
    class_run *r = ctx;
    bsi_sync *s = r->s;
    class_task *t = &r->task[index];
    t->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    uint32_t slots = s->feed->slots.count;
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = slots,
                          .by_open = s->amended, .amended_count = s->amended_count};
    bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .slot_count = slots};
    bsi_row_reader a, b;
    bsi_row_reader_open(&a, &now);
    bsi_row_reader_open(&b, &was);
    bsi_field *f = bsi_alloc(sizeof *f * slots), *g = bsi_alloc(sizeof *g * slots);
    index += r->from;
    size_t end = BSI_MIN((index + 1) * BSI_SYNC_TASK_BLOCKS, s->open_count);
    bsi_amend_walk amended = {0};
    for (size_t i = index * BSI_SYNC_TASK_BLOCKS; i < end && !t->status; i++) {
        const bsi_amended *changed = bsi_amend_next(&amended, s, i);
        if (changed) classify_amended(t, s, changed, &a, f);
        for (uint64_t k = s->row_base[i]; k < s->row_base[i + 1] && !t->status; k++) {
            uint64_t fate = s->fate[k];
            bool skip = fate & (BSI_FATE_BAD | BSI_FATE_CONFLICT | BSI_FATE_DUPLICATE);
            bool same = (fate & BSI_FATE_MATCHED) && !(fate & BSI_FATE_CHANGED);
            if ((skip || same) && !s->scope && !(r->count_only && skip && !(fate & BSI_FATE_BAD))) continue;
            if (r->count_only && !skip) continue;
            uint64_t place = (uint64_t)i << 16 | (k - s->row_base[i]);
            if (r->count_only && (fate & BSI_FATE_BAD)) continue;
            uint32_t known = s->block_part && !r->need_schema && !s->scope && !r->count_only ? s->block_part[i] : UINT32_MAX;
            bsi_item it = {.now = place, .was = BSI_FATE_PLACE(fate), .op = fate & BSI_FATE_MATCHED ? 'u' : 'c'};
            if (known != UINT32_MAX) {
                it.part = bsi_part_of(&t->parts, s->block_parts.name[known], s->block_parts.len[known]);
            } else if (r->need_rows && !(fate & BSI_FATE_BAD)) {
                t->status = bsi_row_fetch(f, &a, place, &t->err);
                if (t->status) break;
                bsi_field p = bsi_change_partition(&s->feed->slots, f);
                if (!in_scope(s, p.p, p.len)) {
                    t->outside++;
                    t->outside_place = place;
                }
                it.part = bsi_part_of(&t->parts, p.p, p.len);
                if (it.op == 'u' && r->need_schema && !skip && !same) {
                    t->status = bsi_row_fetch(g, &b, it.was, &t->err);
                    if (!t->status) t->schema_only += schema_only(s, s->scan.file[s->scan.block[i].file].layout, g, f, slots);
                }
            } else {
                it.part = bsi_part_of(&t->parts, "_", 1);
            }
            if (r->count_only) bsi_made_of(&t->made, t->parts.name[it.part], t->parts.len[it.part])[0]--; /* counted, but not made */
            if (skip || same) continue;
            add_item(t, &it);
        }
    }
    free(f);
    free(g);
    bsi_row_reader_close(&a);
    bsi_row_reader_close(&b);
}

/* Places to delete, in order: partitions are looked up by several workers. */
typedef struct gone_run {
    bsi_sync *s;
    class_task *task; /* as above */
    size_t from;
} gone_run;
enum { GONE_AT_ONCE = 4096 };

static void classify_gone_task(void *ctx, size_t index) {
    gone_run *r = ctx;
    bsi_sync *s = r->s;
    class_task *t = &r->task[index];
    bsi_row_source was = {.store = s->store, .refs = s->base, .cache = s->cache, .by_ordinal = s->amended_state,
                          .amended_count = s->amended_count, .slot_count = s->feed->slots.count};
    bsi_row_reader b;
    bsi_row_reader_open(&b, &was);
    bsi_field *f = bsi_alloc(sizeof *f * s->feed->slots.count);
    index += r->from;
    size_t end = BSI_MIN((index + 1) * GONE_AT_ONCE, s->gone_count);
    t->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    t->item = bsi_alloc(GONE_AT_ONCE * sizeof *t->item);
    for (size_t i = index * GONE_AT_ONCE; i < end && !t->status; i++) {
        bsi_field p = {(const uint8_t *)"_", 1, false};
        if (s->feed->slots.partition >= 0) {
            t->status = bsi_row_fetch(f, &b, s->gone[i], &t->err);
            if (t->status) break;
            p = bsi_change_partition(&s->feed->slots, f);
        }
        if (in_scope(s, p.p, p.len)) t->item[t->count++] = (bsi_item){.op = 'd', .was = s->gone[i], .part = bsi_part_of(&t->parts, p.p, p.len)};
    }
    free(f);
    bsi_row_reader_close(&b);
}

/* Numbers of a task's partitions among those of all. */
static uint32_t *part_map(bsi_sync *s, const bsi_parts *parts) {
    uint32_t *map = bsi_alloc(sizeof *map * (parts->count + 1));
    for (uint32_t p = 0; p < parts->count; p++) map[p] = bsi_part_of(&s->parts, parts->name[p], parts->len[p]);
    return map;
}

static bomsync_status classify_gone(bsi_sync *s, bsi_item *item, size_t *count, bomsync_error *err) {
    size_t tasks = (s->gone_count + GONE_AT_ONCE - 1) / GONE_AT_ONCE, kept = 0;
    gone_run r = {.s = s, .task = bsi_alloc(BSI_MIN(tasks + 1, (size_t)CLASS_AT_ONCE) * sizeof *r.task)};
    bomsync_status st = BOMSYNC_OK;
    for (; r.from < tasks; r.from += CLASS_AT_ONCE) {
        size_t n = BSI_MIN(tasks - r.from, (size_t)CLASS_AT_ONCE);
        memset(r.task, 0, n * sizeof *r.task);
        bsi_parallel(s->workers, n, classify_gone_task, &r);
        for (size_t i = 0; i < n; i++) {
            class_task *t = &r.task[i];
            if (t->status && !st) {
                st = t->status;
                *err = t->err;
            }
            uint32_t *map = part_map(s, &t->parts);
            for (size_t k = 0; k < t->count; k++) {
                s->gone[kept++] = t->item[k].was;
                item[*count] = t->item[k];
                item[(*count)++].part = map[t->item[k].part];
            }
            free(map);
            free(t->item);
            bsi_parts_free(&t->parts);
        }
    }
    s->gone_count = kept;
    free(r.task);
    return st;
}

/* A row that was counted as made is kept back after all. */
static bomsync_status take_back(bsi_sync *s, uint64_t place, bomsync_error *err) {
    bsi_row_source now = {.scan = &s->scan, .secret = bsi_store_secret(s->store), .slot_count = s->feed->slots.count};
    bsi_row_reader r;
    bsi_row_reader_open(&r, &now);
    bsi_field *f = bsi_alloc(sizeof *f * now.slot_count);
    bomsync_status st = bsi_row_fetch(f, &r, place, err);
    if (!st) {
        bsi_field p = bsi_change_partition(&s->feed->slots, f);
        bsi_sync_add_made(s, (const char *)p.p, p.len, -1);
    }
    free(f);
    bsi_row_reader_close(&r);
    return st;
}

/* Without evidence a last record that has no line end passes only if it is what is stored. */
static bomsync_status distrust_unfinished(bsi_sync *s, bomsync_error *err) {
    if (s->evidence) return BOMSYNC_OK;
    for (size_t i = 0; i < s->open_count; i++) {
        bsi_scan_block *b = &s->scan.block[i];
        if (!(b->flags & BSI_CUT_NO_LINE_END) || !b->records) continue;
        uint64_t index = s->row_base[i + 1] - 1, fate = s->fate[index];
        if (fate & (BSI_FATE_BAD | BSI_FATE_DUPLICATE | BSI_FATE_CONFLICT)) continue;
        if ((fate & BSI_FATE_MATCHED) && !(fate & BSI_FATE_CHANGED)) continue;
        s->fate[index] = (fate & ~BSI_FATE_CHANGED) | BSI_FATE_BAD;
        s->all_new = false;
        bsi_sync_bad_add(s, &(bsi_kept_row){.place = (uint64_t)i << 16 | (b->records - 1), .index = index, .rule = BSI_RULE_UNFINISHED,
                                                .byte = b->offset + b->bytes, .line_ends = -1, .column = UINT32_MAX, .value = ""});
        bomsync_status st = s->counted ? take_back(s, (uint64_t)i << 16 | (b->records - 1), err) : BOMSYNC_OK;
        if (st) return st;
    }
    return BOMSYNC_OK;
}

static void refuse_outside(bsi_sync *s, const class_task *t, bomsync_error *err) {
    size_t block = (size_t)(t->outside_place >> 16);
    bsi_source *src = s->scan.file[s->scan.block[block].file].source;
    bsi_fail(err, BOMSYNC_E_REFUSED, "a record lies outside --scope %s", s->o->scope ? s->o->scope : "of the control file");
    bsi_at(err, bsi_source_path(src), (int64_t)s->scan.block[block].offset, -1, NULL, NULL, 0);
    bsi_hint(err, "nothing was changed; name every partition that the snapshot speaks for");
}

/* Room for what a task brings, and those behind it. */
static void make_room_for(bsi_sync *s, size_t more, size_t *room, size_t task, size_t tasks) {
    size_t now = s->item_count + more;
    if (now <= *room) return;
    *room = bsi_vast_expected(now, task + 1, tasks);
    s->item = bsi_vast_realloc(s->item, *room * sizeof *s->item);
}

/* What a task found goes to the lists of all. The first fault in the file counts. */
static void take_class(bsi_sync *s, class_task *t, bomsync_status *st, bomsync_error *err) {
    s->t.schema_only += t->schema_only;
    if (t->status && !*st) {
        *st = t->status;
        *err = t->err;
    }
    if (t->outside && !*st) {
        *st = BOMSYNC_E_REFUSED;
        refuse_outside(s, t, err);
    }
    uint32_t *map = part_map(s, &t->parts);
    bsi_made_take(s, &t->made);
    for (size_t k = 0; k < t->count && !*st; k++) {
        s->item[s->item_count] = t->item[k];
        s->item[s->item_count++].part = map[t->item[k].part];
        if (t->item[k].op == 'u') s->t.updated++;
        else s->t.created++;
    }
    free(map);
    free(t->item);
    bsi_parts_free(&t->parts);
}

bomsync_status bsi_sync_classify(bsi_sync *s, bomsync_error *err) {
    bomsync_status st = distrust_unfinished(s, err);
    if (st) return st;
    if (s->o->upsert) s->gone_count = 0;
    size_t tasks = s->all_new ? 0 : (s->open_count + BSI_SYNC_TASK_BLOCKS - 1) / BSI_SYNC_TASK_BLOCKS;
    class_run r = {.s = s, .task = bsi_alloc(BSI_MIN(tasks + 1, (size_t)CLASS_AT_ONCE) * sizeof *r.task)};
    bool changed_schema = s->slots_before != s->feed->slots.count;
    for (size_t f = 0; f < s->scan.file_count; f++)
        if (s->scan.file[f].layout && s->scan.file[f].layout->absent_count) changed_schema = true;
    r.need_schema = s->last && changed_schema;
    r.need_rows = s->feed->slots.partition >= 0 || r.need_schema;
    r.count_only = s->counted;
    s->item = NULL;
    size_t room = 0;
    for (r.from = 0; r.from < tasks && !st; r.from += CLASS_AT_ONCE) {
        size_t n = BSI_MIN(tasks - r.from, (size_t)CLASS_AT_ONCE);
        memset(r.task, 0, n * sizeof *r.task);
        bsi_parallel(s->workers, n, classify_task, &r);
        for (size_t i = 0; i < n; i++) {
            make_room_for(s, r.task[i].count, &room, r.from + i, tasks);
            take_class(s, &r.task[i], &st, err);
        }
    }
    free(r.task);
    s->item = bsi_vast_realloc(s->item, (s->item_count + s->gone_count + 1) * sizeof *s->item);
    if (!st) st = classify_gone(s, s->item, &s->item_count, err);
    s->t.deleted = (int64_t)s->gone_count;
    s->t.kept_back = (int64_t)s->conflicts;
    for (size_t i = 0; i < s->bad_count; i++) s->t.kept_back += !(s->fate[s->bad[i].index] & BSI_FATE_CONFLICT);
    s->t.unchanged = s->t.records_in - s->t.created - s->t.updated - s->t.kept_back - s->t.duplicates;
    return st;
}
