/* diff/align.c - two files side by side; see flow/align.h.
 *
 *   OLD  |--- unit 0 ---|--- unit 1 ---|--- ...      split where a line begins, about every 4 MB
 *   NEW  |--- unit 0 ----|-- unit 1 ---|--- ...      where the same line was found near the same place: the anchor
 *
 * A unit is two ranges and one worker. It reads a stretch of each into buffers that stay in the L2 cache, finds the lines of
 * NEW, and goes on as long as bytes are equal. At a difference it looks for the nearest pair of equal lines further on (the
 * next line, a line more, a line less, then a table of a few thousand), and what lies before them are pieces. Where there is
 * none the rest of the unit is pieces.
 *
 * A wrong anchor costs time only. That an anchor is the start of a record is proved by the unit before it: it must end
 * there, on both sides, outside quotes; if it does not, the two become one unit.
 *
 * Given up (aligned false): lines longer than a read, CRs without LF, open quotes, and files of which more than a sixteenth
 * is long pieces: blocks that moved are found by their fingerprints, which costs the same for any number of them. Of lines that changed where
 * they stand half of the files may be, as what lies between them is found at once.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "diff/order.h"
#include "diff/tiling.h"

enum {
    HEAD = 4096, NEEDLE = 256,          /* a split: where its line is looked for in OLD, and how much of it in NEW */
    NEAR = 8 << 10, FAR = 512 << 10,    /* around the place where it should be, and eight times as far, and so on */
    LOOK_MAX = 4096,                    /* lines behind a difference: those of one read */
    PIECE_LINES = 16,                   /* a change is rendered from a piece: a small one is soon parsed */
    ODD_MAX = 16, UNSURE_MAX = 3,       /* units: one or two may have begun inside quotes */
    SLACK = 4 << 20                     /* bytes of pieces that are no sign of anything */
};

/* What one thread works with. */
typedef struct lane {
    bsi_buf old, now;
    bsi_lines lines;
    bsi_order order;
    uint32_t old_end[LOOK_MAX], old_records[LOOK_MAX]; /* of the records of OLD behind a difference */
    uint64_t old_hash[LOOK_MAX], now_hash[LOOK_MAX];
    uint32_t slot[LOOK_MAX * 2];
} lane;

typedef struct unit {
    uint64_t old_from, old_to, now_from, now_to;
    bool done, open;       /* open: it ends inside a record */
    bool odd;              /* these bytes cannot be walked; if it begins with a record at all */
    bsi_tiling t;
    bomsync_status status;
    bomsync_error err;
} unit;

typedef struct align_run {
    const bsi_align_options *o;
    uint64_t old_size, now_size;
    lane *lane; /* [workers] */
    unit *unit;
    size_t count;
    atomic_ullong apart, changed; /* bytes of long pieces, of short ones */
    atomic_ullong done_bytes;
    atomic_uint odd;
    atomic_bool stop; /* compare these another way */
    atomic_uint unsure; /* units whose keys are in no order */
} align_run;

/* A unit on its way. */
typedef struct walk {
    align_run *r;
    const bsi_align_options *o;
    unit *u;
    lane *w;
    bsi_tiling *t;
    uint64_t old_at, now_at;  /* where the next read begins: record starts */
    uint64_t at;              /* in OLD, of old.data[0] */
    size_t op;                /* the byte of it that comes next */
    size_t now_bytes;         /* of NEW at hand */
    bool lost, now_end;
} walk;

static void add_old(walk *k, uint64_t at, uint32_t bytes, uint32_t records) {
    bsi_tiling_add_piece(&k->t->old, &k->t->old_count, &k->t->old_cap, (bsi_piece){at, bytes, records});
}

/* ---- bytes ---- */

/* How many bytes of both are equal, from the front. */
static size_t common(const uint8_t *a, const uint8_t *b, size_t n) {
    size_t i = 0;
    while (n - i >= 1024 && memcmp(a + i, b + i, 1024) == 0) i += 1024;
    for (; n - i >= 8; i += 8) {
        uint64_t x, y;
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y) break;
    }
    while (i < n && a[i] == b[i]) i++;
    return i;
}

static uint32_t records_in(const bsi_lines *l, size_t from, size_t to) {
    uint32_t n = (uint32_t)(to - from);
    for (size_t i = from; l->kind && i < to; i++) n -= l->kind[i] == LINE_BLANK;
    return n;
}

/* The end of line i in the file: the last one may have a line end that is not there. */
static uint32_t end_of(const walk *k, size_t i) { return (uint32_t)BSI_MIN((size_t)k->w->lines.start[i], k->now_bytes); }

static void add_now(walk *k, size_t from, size_t to) {
    const bsi_lines *l = &k->w->lines;
    for (size_t next; from < to; from = next) {
        next = BSI_MIN(from + PIECE_LINES, to);
        bsi_piece p = {k->now_at + l->start[from], end_of(k, next) - l->start[from], records_in(l, from, next)};
        bsi_tiling_add_piece(&k->t->now, &k->t->now_count, &k->t->now_cap, p);
    }
}

/* ---- behind a difference ---- */

/* Record i of OLD behind it: false if its end is not at hand. *n: how many are known. */
static bool old_record(walk *k, size_t i, size_t *n) {
    lane *w = k->w;
    bsi_cut_options co = {.dialect = *k->o->dialect, .size = bsi_block_size_of(1), .isa = k->o->isa};
    while (*n <= i && *n < LOOK_MAX) {
        size_t from = *n ? w->old_end[*n - 1] : k->op;
        bsi_cut c = {0};
        bool at_end = k->at + w->old.len == k->r->old_size;
        if (from == w->old.len || bsi_cut_block(&c, &co, w->old.data + from, w->old.len - from, at_end) != 1) return false;
        if (c.flags & (BSI_CUT_OPEN_QUOTE | BSI_CUT_OVERSIZE)) return false;
        w->old_end[*n] = (uint32_t)(from + c.bytes);
        w->old_records[(*n)++] = c.records;
    }
    return i < *n;
}

static size_t old_from(const walk *k, size_t i) { return i ? k->w->old_end[i - 1] : k->op; }

static bool equal_lines(const walk *k, size_t i, size_t line) {
    const bsi_lines *l = &k->w->lines;
    size_t from = old_from(k, i), n = l->start[line + 1] - l->start[line];
    if (l->start[line + 1] > k->now_bytes) return false; /* its line end is not there */
    return k->w->old_end[i] - from == n && n > 2 && memcmp(k->w->old.data + from, k->w->now.data + l->start[line], n) == 0;
}

typedef struct pair {
    size_t old, now; /* lines to pass over on either side */
} pair;

/* The pair of equal lines with the fewest lines before it, among the next `most`. */
static bool look(walk *k, size_t line, size_t most, size_t *known, pair *best) {
    lane *w = k->w;
    const bsi_lines *l = &w->lines;
    size_t m = BSI_MIN(most, l->count - line), n = 0, mask = most * 2 - 1;
    while (n < most && old_record(k, n, known)) n++;
    memset(w->slot, 0, (mask + 1) * sizeof *w->slot);
    for (size_t i = m; i-- > 0;) { /* the first of equal lines is written last, and found */
        w->now_hash[i] = bsi_xxh64(w->now.data + l->start[line + i], l->start[line + i + 1] - l->start[line + i]);
        size_t h = w->now_hash[i] & mask;
        while (w->slot[h] && w->now_hash[w->slot[h] - 1] != w->now_hash[i]) h = (h + 1) & mask;
        w->slot[h] = (uint32_t)i + 1;
    }
    bool found = false;
    *best = (pair){0, 0};
    for (size_t i = 0; i < n && (!found || i < best->old + best->now); i++) {
        size_t from = old_from(k, i);
        uint64_t hash = bsi_xxh64(w->old.data + from, w->old_end[i] - from);
        size_t h = hash & mask;
        while (w->slot[h] && w->now_hash[w->slot[h] - 1] != hash) h = (h + 1) & mask;
        if (!w->slot[h]) continue;
        size_t j = w->slot[h] - 1u;
        if (!(i + j) || (found && i + j >= best->old + best->now) || !equal_lines(k, i, line + j)) continue;
        *best = (pair){i, j};
        found = true;
    }
    return found;
}

static bool resume(walk *k, size_t line, pair *p) {
    const bsi_lines *l = &k->w->lines;
    size_t known = 0;
    bool next = line + 1 < l->count;
    if (!old_record(k, 0, &known)) return false;
    if (next && old_record(k, 1, &known) && equal_lines(k, 1, line + 1)) *p = (pair){1, 1};
    else if (next && equal_lines(k, 0, line + 1)) *p = (pair){0, 1};
    else if (old_record(k, 1, &known) && equal_lines(k, 1, line)) *p = (pair){1, 0};
    else if (!next && k->now_end && k->at + k->w->old_end[0] == k->u->old_to) *p = (pair){1, 1}; /* the last line of both */
    else if (!look(k, line, 16, &known, p) && !look(k, line, 256, &known, p) && !look(k, line, LOOK_MAX, &known, p)) return false;
    return true;
}

static void count_up(atomic_ullong *of, uint64_t bytes) { atomic_fetch_add_explicit(of, bytes, memory_order_relaxed); }

static void pass_over(walk *k, size_t line, pair p) {
    const lane *w = k->w;
    bool here = p.old <= PIECE_LINES && p.now <= PIECE_LINES;
    count_up(here ? &k->r->changed : &k->r->apart, old_from(k, p.old) - k->op + end_of(k, line + p.now) - w->lines.start[line]);
    for (size_t i = 0, next; i < p.old; i = next) {
        next = BSI_MIN(i + PIECE_LINES, p.old);
        uint32_t records = 0;
        size_t from = old_from(k, i);
        for (size_t j = i; j < next; j++) records += w->old_records[j];
        add_old(k, k->at + from, (uint32_t)(w->old_end[next - 1] - from), records);
    }
    add_now(k, line, line + p.now);
    if (p.old) k->op = w->old_end[p.old - 1];
}

/* ---- one read of each ---- */

static size_t last_line_within(const bsi_lines *l, size_t from, size_t byte) {
    size_t lo = from, hi = l->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo + 1) / 2;
        if (l->start[mid] <= byte) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

static bomsync_status read_old(walk *k, bomsync_error *err) {
    k->at = k->old_at;
    k->op = 0;
    return bsi_tiling_fill(&k->w->old, k->o->old, k->at, (size_t)BSI_MIN((uint64_t)k->o->batch_bytes, k->u->old_to - k->at), err);
}

/* Lines of NEW at hand into same and pieces; *used: how many of them. */
static bomsync_status compare(walk *k, size_t *used, bomsync_error *err) {
    lane *w = k->w;
    const bsi_lines *l = &w->lines;
    bomsync_status st = read_old(k, err);
    size_t line = 0;
    while (!st && line < l->count) {
        size_t from = l->start[line], have = w->old.len - k->op;
        size_t n = common(w->now.data + from, w->old.data + k->op, BSI_MIN(end_of(k, l->count) - from, have));
        size_t to = last_line_within(l, line, from + n);
        if (to > line) {
            uint32_t bytes = (uint32_t)(l->start[to] - from);
            bsi_tiling_add_same(k->t, (bsi_same){k->at + k->op, k->now_at + from, bytes});
            k->t->same_records += records_in(l, line, to);
            k->op += bytes;
            line = to;
            continue;
        }
        bool more = k->at + w->old.len < k->u->old_to;
        if (n == have && more && k->op) { /* OLD has more lines here */
            k->old_at = k->at + k->op;
            st = read_old(k, err);
            continue;
        }
        pair p;
        if (!resume(k, line, &p)) {
            if (line || !k->op || !more) break;
            k->old_at = k->at + k->op;
            st = read_old(k, err);
            continue;
        }
        pass_over(k, line, p);
        line += p.now;
    }
    k->old_at = k->at + k->op;
    *used = line;
    return st;
}

/* The first unit begins with a record for certain; and many odd ones are no accident. */
static void be_odd(walk *k) {
    k->u->odd = true;
    if (k->u == k->r->unit || atomic_fetch_add(&k->r->odd, 1) >= ODD_MAX) atomic_store(&k->r->stop, true);
}

static bomsync_status read_now(walk *k, bomsync_error *err) {
    lane *w = k->w;
    size_t n = (size_t)BSI_MIN((uint64_t)k->o->batch_bytes, k->u->now_to - k->now_at);
    bomsync_status st = bsi_tiling_fill(&w->now, k->o->now, k->now_at, n, err);
    if (st) return st;
    k->now_bytes = n;
    k->now_end = k->now_at + n == k->u->now_to;
    bool add = k->now_at + n == k->r->now_size && w->now.data[n - 1] != '\n'; /* the last line of a file may have no end */
    if (add) w->now.data[n] = '\n';
    bsi_lines_read(&w->lines, &k->o->shape, k->o->isa, w->now.data, n + add);
    const bsi_lines *l = &w->lines;
    if (l->lone_cr || (!l->count && !k->now_end)) be_odd(k);
    k->u->open = k->now_end && (l->open || l->start[l->count] != n + add);
    return BOMSYNC_OK;
}

static void take_keys(walk *k, size_t used) {
    const bsi_lines *l = &k->w->lines;
    for (size_t i = 0; l->kind && i < used; i++)
        if (l->kind[i] == LINE_BAD) bsi_order_open(k->t, l, i, k->now_at);
    bool was = k->t->sure;
    if (atomic_load_explicit(&k->r->unsure, memory_order_relaxed) >= UNSURE_MAX) k->t->sure = false;
    bsi_order_take(k->t, &k->w->order, &k->o->shape, k->o->isa, l, k->w->now.data, k->now_at, used);
    if (was && !k->t->sure) atomic_fetch_add_explicit(&k->r->unsure, 1, memory_order_relaxed);
}

/* What is left of OLD in this unit has no partner. */
static bomsync_status rest_of_old(walk *k, bomsync_error *err) {
    bsi_cut_options co = {.dialect = *k->o->dialect, .size = bsi_block_size_of(0), .isa = k->o->isa};
    while (k->old_at < k->u->old_to && !k->u->odd && !atomic_load(&k->r->stop)) {
        bomsync_status st = read_old(k, err);
        if (st) return st;
        const bsi_buf *b = &k->w->old;
        bool last = k->at + b->len == k->u->old_to;
        bsi_cut c;
        size_t done = 0;
        while (done < b->len && bsi_cut_block(&c, &co, b->data + done, b->len - done, last) == 1) {
            bool file_end = k->u->old_to == k->r->old_size;
            if ((c.flags & BSI_CUT_OVERSIZE) || (file_end && (c.flags & BSI_CUT_OPEN_QUOTE))) be_odd(k);
            if (!file_end && (c.flags & BSI_CUT_NO_LINE_END)) k->u->open = true;
            add_old(k, k->at + done, (uint32_t)c.bytes, c.records);
            count_up(&k->r->apart, c.bytes);
            done += c.bytes;
        }
        if (!done) be_odd(k);
        k->old_at += done;
    }
    return BOMSYNC_OK;
}

static bomsync_status walk_unit(walk *k, bomsync_error *err) {
    align_run *r = k->r;
    while (k->now_at < k->u->now_to && !atomic_load(&r->stop)) {
        bomsync_status st = read_now(k, err);
        if (k->u->odd) return st;
        size_t used = k->w->lines.count;
        if (!st && !k->lost) st = compare(k, &used, err);
        if (st) return st;
        if (!used) { /* nothing found in a whole read */
            k->lost = true;
            used = k->w->lines.count;
        }
        if (k->lost) add_now(k, 0, used);
        if (k->lost) count_up(&r->apart, end_of(k, used));
        take_keys(k, used);
        k->now_at += end_of(k, used);
        if (!used) break; /* the unit ends inside a record */
        uint64_t all = r->old_size + r->now_size;
        if (atomic_load(&r->apart) > all / 16 + SLACK || atomic_load(&r->changed) > all / 2 + SLACK) atomic_store(&r->stop, true);
    }
    return rest_of_old(k, err);
}

static void run_unit(void *ctx, size_t index) {
    align_run *r = ctx;
    unit *u = &r->unit[index];
    if (u->done || atomic_load(&r->stop)) return;
    u->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    u->t = (bsi_tiling){.sure = r->o->order};
    walk k = {.r = r, .o = r->o, .u = u, .w = &r->lane[bsi_lane()], .t = &u->t, .old_at = u->old_from, .now_at = u->now_from};
    u->status = walk_unit(&k, &u->err);
    u->done = true;
    bsi_tiling_open(&u->t, u->t.open, u->t.open_count);
    uint64_t done = atomic_fetch_add(&r->done_bytes, u->now_to - u->now_from);
    if (r->o->progress && bsi_lane() == 0) r->o->progress(r->o->progress_ctx, done, r->now_size);
}

/* ---- where to split ---- */

static uint64_t unit_size(const align_run *r) {
    const bsi_align_options *o = r->o;
    uint64_t share = (r->old_size - o->old_body) / ((uint64_t)BSI_MAX(o->workers, 1) * 8) + 1;
    return BSI_MAX(BSI_MIN(share, o->unit_bytes), o->unit_least);
}

/* The needle in NEW, within `reach` of where it would stand if all of the file had grown alike. */
static uint64_t find_line(align_run *r, bsi_buf *buf, const uint8_t *needle, size_t n, uint64_t old_at, uint64_t reach) {
    const bsi_align_options *o = r->o;
    double share = (double)(old_at - o->old_body) / (double)(r->old_size - o->old_body);
    uint64_t near = o->now_body + (uint64_t)(share * (double)(r->now_size - o->now_body));
    uint64_t from = near > o->now_body + reach ? near - reach : o->now_body, to = BSI_MIN(near + reach + n, r->now_size);
    bomsync_error err = BOMSYNC_ERROR_INIT; /* whoever reads there next will meet it again */
    if (from >= to || bsi_tiling_fill(buf, o->now, from, (size_t)(to - from), &err)) return 0;
    const uint8_t *at = memmem(buf->data, buf->len, needle, n);
    return at ? from + (uint64_t)(at - buf->data) + 1 : 0;
}

/* The line end in front of the first line that has all its fields: those inside quotes seldom do. */
static const uint8_t *likely_record(const bsi_line_shape *s, const uint8_t *p, size_t n) {
    const uint8_t *first = memchr(p, '\n', n), *end = p + n;
    for (const uint8_t *lf = first, *next; lf; lf = next) {
        next = memchr(lf + 1, '\n', (size_t)(end - lf - 1));
        uint32_t seps = 0;
        for (const uint8_t *c = lf + 1; next && c < next; c++) seps += *c == s->delimiter;
        if (next && seps == s->columns - 1) return lf;
    }
    return first;
}

/* Anchor of split `index` (from 1): where a line of OLD begins, and the same line in NEW. */
static void find_anchor(void *ctx, size_t index) {
    align_run *r = ctx;
    unit *u = &r->unit[index];
    lane *w = &r->lane[bsi_lane()];
    bomsync_error err = BOMSYNC_ERROR_INIT;
    if (!index || bsi_tiling_fill(&w->old, r->o->old, u->old_from, (size_t)BSI_MIN((uint64_t)HEAD, r->old_size - u->old_from), &err)) return;
    const uint8_t *p = w->old.data, *end = p + w->old.len, *lf = likely_record(&r->o->shape, p, w->old.len);
    if (!lf || end - lf < 16) return;
    size_t n = (size_t)BSI_MIN(end - lf, (ptrdiff_t)NEEDLE);
    u->old_from += (uint64_t)(lf + 1 - p);
    for (uint64_t reach = NEAR; reach <= FAR && !u->now_from; reach *= 8) u->now_from = find_line(r, &w->now, lf, n, u->old_from, reach);
}

static void plan(align_run *r) {
    const bsi_align_options *o = r->o;
    uint64_t size = unit_size(r);
    size_t splits = (size_t)((r->old_size - o->old_body) / size) + 1;
    r->unit = bsi_calloc(splits, sizeof *r->unit);
    for (size_t i = 0; i < splits; i++) r->unit[i].old_from = o->old_body + i * size;
    r->unit[0].now_from = o->now_body;
    bsi_parallel(o->workers, splits, find_anchor, r);
    r->count = 1;
    for (size_t i = 1; i < splits; i++) { /* a split without an anchor, or with one that cannot be, is none */
        unit u = r->unit[i], *last = &r->unit[r->count - 1];
        if (u.now_from <= last->now_from || u.old_from <= last->old_from || u.old_from >= r->old_size || u.now_from >= r->now_size) continue;
        r->unit[r->count++] = u;
    }
    for (size_t i = 0; i < r->count; i++) {
        r->unit[i].old_to = i + 1 < r->count ? r->unit[i + 1].old_from : r->old_size;
        r->unit[i].now_to = i + 1 < r->count ? r->unit[i + 1].now_from : r->now_size;
    }
}

/* ---- in which order? ---- */

/* Which fields of the key ascend by bytes rather than as numbers: a few lines of each unit are asked, and units of each other. Is
 * the key in quotes? The first line says so. Wrong answers cost time only. */
static void choose_order(align_run *r, bsi_align_options *o) {
    lane *w = &r->lane[0];
    int votes[64] = {0};
    bsi_buf last = {0};
    for (size_t i = 0; i < r->count; i++) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        size_t n = (size_t)BSI_MIN((uint64_t)HEAD, r->unit[i].now_to - r->unit[i].now_from);
        if (bsi_tiling_fill(&w->now, o->now, r->unit[i].now_from, n, &err)) break;
        bsi_lines_read(&w->lines, &o->shape, o->isa, w->now.data, n);
        const bsi_lines *l = &w->lines;
        const uint8_t *before = last.len ? last.data : NULL;
        for (size_t k = 0; k < l->count; k++) {
            if (l->kind && l->kind[k] != LINE_GOOD) continue;
            const uint8_t *key = w->now.data + l->key[k];
            if (!before) o->shape.key_quoted = l->key_quote && bsi_keys_quoted(&o->shape, key);
            int vote = 0;
            uint32_t field = before ? bsi_keys_vote(&o->shape, before, key, &vote) : 0;
            votes[field] += vote;
            before = key;
        }
        if (!before || before == last.data) continue;
        size_t bytes = bsi_keys_length(&o->shape, before);
        bsi_buf next = {0};
        bsi_buf_add(&next, before, bytes);
        bsi_buf_byte(&next, '\n');
        bsi_buf_free(&last);
        last = next;
    }
    bsi_buf_free(&last);
    for (uint32_t f = 0; f < o->shape.key_count; f++) o->shape.by_text |= (uint64_t)(votes[f] > 0) << f;
}

/* A unit that ends inside a record becomes one with the next, and is walked again. false: nothing is left to do. */
static bool merge_open(align_run *r) {
    size_t n = 0;
    bool sure = true; /* all units so far end well: this one begins with a record */
    for (size_t i = 0; i < r->count; i++, n++) {
        unit u = r->unit[i];
        if (sure && (u.odd || (u.open && i + 1 == r->count))) atomic_store(&r->stop, true);
        if (u.open && i + 1 < r->count) {
            unit next = r->unit[++i];
            bsi_tiling_release(&u.t);
            bsi_tiling_release(&next.t);
            u = (unit){.old_from = u.old_from, .now_from = u.now_from, .old_to = next.old_to, .now_to = next.now_to};
        }
        if (!u.done || u.odd) sure = false;
        r->unit[n] = u;
    }
    r->count = n;
    return !sure && !atomic_load(&r->stop);
}

/* ---- all of it ---- */

bomsync_status bsi_align(bsi_tiling *out, bool *aligned, bsi_align_options *o, bomsync_error *err) {
    align_run r = {.o = o, .old_size = bsi_source_size(o->old), .now_size = bsi_source_size(o->now)};
    size_t lanes = (size_t)BSI_MAX(o->workers, 1);
    *out = (bsi_tiling){.sure = o->order};
    *aligned = false;
    if (o->old_body >= r.old_size || o->now_body >= r.now_size) return BOMSYNC_OK;
    r.lane = bsi_calloc(lanes, sizeof *r.lane);
    plan(&r);
    if (o->order) choose_order(&r, o);
    do bsi_parallel(o->workers, r.count, run_unit, &r);
    while (merge_open(&r));
    bomsync_status st = BOMSYNC_OK;
    *aligned = !atomic_load(&r.stop);
    for (size_t i = 0; i < r.count; i++) {
        unit *u = &r.unit[i];
        if (u->status && !st) {
            st = u->status;
            *err = u->err;
        }
        if (*aligned && !st) bsi_tiling_gather(out, &u->t);
        bsi_tiling_release(&u->t);
    }
    for (size_t i = 0; i < lanes; i++) {
        bsi_buf_free(&r.lane[i].old);
        bsi_buf_free(&r.lane[i].now);
        bsi_lines_free(&r.lane[i].lines);
        bsi_order_free(&r.lane[i].order);
    }
    free(r.lane);
    free(r.unit);
    if (st || !*aligned) bsi_tiling_release(out);
    else bsi_order_settle(out, &o->shape);
    return st;
}
