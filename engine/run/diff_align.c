/* run/diff_align.c - two plain files that hold their records in the same order: see flow/align.h.
 *
 *   NEW, OLD -> align -> same | pieces
 *   pieces   -> blocks -> rows        which keys of them may stand in `same`, too?
 *     keys ascend    only those that NEW does not have in its pieces (deleted records, records kept back), and singles: each
 *                    names the one span of NEW that would hold it, and that is looked at
 *     they do not    all keys of `same` are hashed (flow/twins.h)
 *   records found so are opened on both sides, and the rows made again
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/vast.h"
#include "flow/align.h"
#include "flow/twins.h"
#include "run/changes.h"
#include "run/diff_inner.h"

enum { NEARBY = 8, TASK_SAME = 16, PROBES_MAX = 100000 };

typedef struct align_state {
    bsi_diff_run *d;
    bsi_align_options o;
    bsi_tiling t;
    uint32_t *column_key;    /* [key_count] key slots in the order of their columns */
    bsi_rows *rows;          /* [workers] */
    bsi_buf *buf;            /* [workers] */
    uint64_t *want;          /* no order: key hashes to find in `same`, ascending */
    size_t want_count;
    struct probe *probe;     /* order: keys to find in the spans */
    size_t probe_count, probe_cap;
    bsi_buf text;            /* of these keys */
    size_t probed;
    bsi_twins *twins;
    atomic_flag lock;        /* guards what follows */
    bsi_piece *open;
    size_t open_count, open_cap;
    bomsync_status status;
    bomsync_error *err;
} align_state;

typedef struct probe {
    size_t span, text; /* text: offset in align_state.text */
} probe;

/* ---- may they be aligned? ---- */

static int by_column(const void *a, const void *b, void *ctx) {
    const int32_t *column_of = ctx;
    int32_t x = column_of[*(const uint32_t *)a], y = column_of[*(const uint32_t *)b];
    return (x > y) - (x < y);
}

static bool plain_source(const bsi_scan_file *f) { return f->layout && bsi_source_random(f->source) && !bsi_source_pack(f->source); }

static bool plain_dialect(const bsi_layout *l) {
    uint8_t c = (uint8_t)l->dialect.delimiter, q = (uint8_t)l->dialect.quote;
    return l->column_count > 1 && c < 0x80 && q < 0x80 && c && c != '\n' && c != '\r' && q != '\n' && q != '\r' && c != q;
}

/* The shape of a line; false: these files cannot be walked side by side. */
static bool can_align(align_state *s) {
    bsi_diff_run *d = s->d;
    const bsi_scan_file *a = &d->old.scan.file[0], *b = &d->now.scan.file[0];
    if (!strstr(d->tiers, "block") || !strstr(d->tiers, "sequence")) return false;
    if (!plain_source(a) || !plain_source(b) || memcmp(a->layout->digest, b->layout->digest, sizeof a->layout->digest) != 0) return false;
    const bsi_layout *l = b->layout;
    if (!plain_dialect(l)) return false;
    s->column_key = bsi_alloc((l->key_count + 1) * sizeof *s->column_key);
    for (uint32_t i = 0; i < l->key_count; i++) s->column_key[i] = i;
    qsort_r(s->column_key, l->key_count, sizeof *s->column_key, by_column, l->column_of);
    uint32_t first = (uint32_t)l->column_of[s->column_key[0]], last = (uint32_t)l->column_of[s->column_key[l->key_count - 1]];
    s->o.order = last - first + 1 == l->key_count && l->key_count <= 64 && !l->null_count; /* a null text and an empty field are one key */
    s->o.shape = (bsi_line_shape){.delimiter = (uint8_t)l->dialect.delimiter, .quote = (uint8_t)l->dialect.quote, .lenient = l->dialect.lenient,
                                  .key_last = last + 1 == l->column_count, .columns = l->column_count, .key_first = first, .key_count = l->key_count};
    return true;
}

static void progress(void *ctx, uint64_t done, uint64_t total) {
    const bomsync_read_options *ro = &((align_state *)ctx)->d->o->read;
    ro->progress(ro->progress_ctx, "reading", done, total, 0);
}

static bomsync_status align(align_state *s, bool *aligned, bomsync_error *err) {
    bsi_diff_run *d = s->d;
    const bsi_scan_file *a = &d->old.scan.file[0], *b = &d->now.scan.file[0];
    bool ahead = strcmp(bsi_source_io(a->source), "uring") == 0 || strcmp(bsi_source_io(b->source), "uring") == 0;
    bsi_align_options *o = &s->o;
    o->old = a->source, o->now = b->source;
    o->old_body = a->body, o->now_body = b->body;
    o->dialect = &b->layout->dialect;
    o->isa = (int)d->isa, o->workers = d->workers;
    o->batch_bytes = ahead ? BSI_ALIGN_COLD_BYTES : BSI_ALIGN_READ_BYTES;
    o->unit_bytes = BSI_ALIGN_UNIT_BYTES, o->unit_least = BSI_ALIGN_UNIT_BYTES_LEAST;
    o->progress = d->o->read.progress ? progress : NULL;
    o->progress_ctx = s;
    bsi_parse_use_isa((int)d->isa);
    bomsync_status st = bsi_align(&s->t, aligned, o, err);
    if (!st && *aligned) st = bsi_source_settled(a->source, err);
    if (!st && *aligned) st = bsi_source_settled(b->source, err);
    return st;
}

/* ---- pieces to rows ---- */

static void take_pieces(bsi_diff_side *side, const bsi_piece *p, size_t n, uint64_t same_records) {
    bsi_scan *scan = &side->scan;
    bsi_scan_forget(scan);
    scan->block = bsi_vast_realloc(scan->block, (n + 1) * sizeof *scan->block);
    scan->block_count = n;
    uint64_t records = same_records;
    for (size_t i = 0; i < n; i++) {
        scan->block[i] = (bsi_scan_block){.offset = p[i].at, .spill = BSI_NO_SPILL, .bytes = p[i].bytes, .records = p[i].records};
        records += p[i].records;
    }
    scan->file[0].records = (int64_t)records;
}

static bomsync_status make_rows(align_state *s, bomsync_error *err) {
    bsi_diff_run *d = s->d;
    take_pieces(&d->old, s->t.old, s->t.old_count, s->t.same_records);
    take_pieces(&d->now, s->t.now, s->t.now_count, s->t.same_records);
    d->same_records = (int64_t)s->t.same_records;
    d->records_old = d->old.scan.file[0].records;
    d->records_new = d->now.scan.file[0].records;
    bomsync_status st = bsi_diff_parse(d, &d->old, err);
    return st ? st : bsi_diff_parse(d, &d->now, err);
}

/* ---- what is found, by any worker ---- */

static void take_lock(align_state *s) {
    while (atomic_flag_test_and_set(&s->lock)) {}
}

static void note_fault(align_state *s, bomsync_status st, const bomsync_error *err) {
    if (!st) return;
    take_lock(s);
    if (!s->status) {
        s->status = st;
        *s->err = *err;
    }
    atomic_flag_clear(&s->lock);
}

static void add_open(align_state *s, const bsi_piece *p, size_t n) {
    take_lock(s);
    for (size_t i = 0; i < n; i++) {
        if (s->open_count == s->open_cap) s->open = bsi_realloc(s->open, (s->open_cap = s->open_cap ? s->open_cap * 2 : 16) * sizeof *s->open);
        s->open[s->open_count++] = p[i];
    }
    atomic_flag_clear(&s->lock);
}

/* Records of w, which stands at `at` in NEW: those with a key that is wanted are opened, and those that cannot be read. */
static void open_wanted(align_state *s, const bsi_rows *w, uint64_t at) {
    for (uint32_t i = 0; i < w->count; i++)
        if (w->bad[i] || bsi_u64_has(s->want, s->want_count, w->kh[i])) add_open(s, &(bsi_piece){at + w->raw[i], w->raw[i + 1] - w->raw[i], 1}, 1);
}

/* The keys of a stretch of NEW. */
static const bsi_rows *read_keys(align_state *s, uint64_t at, size_t bytes) {
    bsi_scan_file *f = &s->d->now.scan.file[0];
    bsi_buf *buf = &s->buf[bsi_lane()];
    bomsync_error err = BOMSYNC_ERROR_INIT;
    buf->len = 0;
    bsi_buf_reserve(buf, bytes + 64);
    ssize_t got = bsi_source_pread(f->source, buf->data, bytes, at, &err);
    if (got < 0) note_fault(s, err.status, &err);
    bsi_rows *w = &s->rows[bsi_lane()];
    bsi_parse_block(w, f->layout, &s->d->secret, buf->data, got < 0 ? 0 : (size_t)got, true);
    return w;
}

/* ---- keys that ascend ---- */

static void add_probe(align_state *s, const uint8_t *key) {
    size_t first, count = bsi_tiling_spans(&first, &s->t, &s->o.shape, key);
    if (!count) return;
    size_t text = s->text.len;
    bsi_buf_add(&s->text, key, (size_t)((const uint8_t *)rawmemchr(key, '\n') + 1 - key));
    for (size_t i = 0; i < count; i++) {
        if (s->probe_count == s->probe_cap) s->probe = bsi_realloc(s->probe, (s->probe_cap = s->probe_cap ? s->probe_cap * 2 : 64) * sizeof *s->probe);
        s->probe[s->probe_count++] = (probe){first + i, text};
    }
}

/* A key as it would stand in a span; false: it cannot, so none there is equal to it. */
static bool text_of(const align_state *s, bsi_buf *b, const bsi_field *f) {
    const uint8_t special[] = {'\n', '\r', s->o.shape.delimiter, s->o.shape.quote};
    b->len = 0;
    for (uint32_t i = 0; i < s->o.shape.key_count; i++) {
        const bsi_field *v = &f[s->column_key[i]];
        for (size_t c = 0; c < sizeof special; c++)
            if (v->len && special[c] && memchr(v->p, special[c], v->len)) return false;
        if (s->o.shape.key_quoted) bsi_buf_byte(b, s->o.shape.quote);
        bsi_buf_add(b, v->p, v->len);
        if (s->o.shape.key_quoted) bsi_buf_byte(b, s->o.shape.quote);
        bsi_buf_byte(b, i + 1 < s->o.shape.key_count ? s->o.shape.delimiter : '\n');
    }
    return true;
}

typedef struct prober {
    align_state *s;
    bsi_row_source source;
    bsi_row_reader reader;
    bsi_field *field;
    bsi_buf text;
} prober;

static void prober_open(prober *p, align_state *s, bsi_diff_side *side) {
    *p = (prober){.s = s, .source = {.scan = &side->scan, .secret = &s->d->secret, .slot_count = s->d->slots.count}};
    p->field = bsi_alloc(s->d->slots.count * sizeof *p->field);
    bsi_row_reader_open(&p->reader, &p->source);
}

static bomsync_status probe_row(prober *p, uint64_t place, bomsync_error *err) {
    bomsync_status st = bsi_row_fetch(p->field, &p->reader, place, err);
    if (++p->s->probed > PROBES_MAX) p->s->t.sure = false; /* hashing costs less */
    if (!st && text_of(p->s, &p->text, p->field)) add_probe(p->s, p->text.data);
    return st;
}

static void prober_close(prober *p) {
    bsi_row_reader_close(&p->reader);
    bsi_buf_free(&p->text);
    free(p->field);
}

static bomsync_status probe_left(align_state *s, bsi_diff_side *side, bomsync_error *err) {
    prober p;
    prober_open(&p, s, side);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < side->left_row_count && !st && s->t.sure; i++) st = probe_row(&p, side->left[i].place, err);
    prober_close(&p);
    return st;
}

/* Keys of NEW's pieces are in its chains, or singles. Those of OLD's that NEW's pieces have as well are so, too. */
static bomsync_status probe_old(align_state *s, bomsync_error *err) {
    const bsi_diff_rows *old = &s->d->old.rows, *now = &s->d->now.rows;
    prober p;
    prober_open(&p, s, &s->d->old);
    uint64_t *known = NULL;
    size_t known_count = 0;
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0, j = 0; i < old->n && !st && s->t.sure; i++) {
        uint64_t kh = old->v[i].kh;
        size_t near = j, stop = BSI_MIN(j + NEARBY, now->n);
        while (near < stop && now->v[near].kh != kh) near++;
        if (near < stop) {
            j = near + 1;
            continue;
        }
        if (!known) known = bsi_diff_open_keys(s->d, &known_count, true);
        if (!bsi_u64_has(known, known_count, kh)) st = probe_row(&p, old->v[i].place, err);
        else if (j < now->n) j++;
    }
    free(known);
    prober_close(&p);
    return st;
}

static int by_span(const void *a, const void *b) {
    const probe *x = a, *y = b;
    return (x->span > y->span) - (x->span < y->span);
}

/* Probes of one span, from index on, if it is the first of them. */
static void look_at_span(void *ctx, size_t index) {
    align_state *s = ctx;
    const probe *p = &s->probe[index];
    size_t n = 0;
    if (index && p[-1].span == p->span) return;
    while (index + n < s->probe_count && p[n].span == p->span) n++;
    const uint8_t **key = bsi_alloc(n * sizeof *key);
    for (size_t i = 0; i < n; i++) key[i] = s->text.data + p[i].text;
    bsi_piece *found = NULL;
    size_t count = 0;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    note_fault(s, bsi_span_find(&found, &count, &s->o, &s->t.span[p->span], key, n, &err), &err);
    add_open(s, found, count);
    free(found);
    free(key);
}

static bomsync_status probe_spans(align_state *s, bomsync_error *err) {
    for (size_t i = 0; i < s->t.probe_count; i++) add_probe(s, s->t.keys.data + s->t.probe[i]);
    bomsync_status st = probe_old(s, err);
    if (!st) st = probe_left(s, &s->d->old, err);
    if (!st) st = probe_left(s, &s->d->now, err);
    if (st || !s->t.sure) return st;
    bsi_sort(s->probe, s->probe_count, sizeof *s->probe, by_span);
    bsi_parallel(s->d->workers, s->probe_count, look_at_span, s);
    return s->status;
}

/* ---- keys in any order ---- */

/* Stretches of NEW that both files hold, TASK_SAME of them a task. */
static void hash_same(void *ctx, size_t index) {
    align_state *s = ctx;
    for (size_t i = index * TASK_SAME; i < BSI_MIN((index + 1) * TASK_SAME, s->t.same_count); i++) {
        const bsi_same *m = &s->t.same[i];
        const bsi_rows *w = read_keys(s, m->now_at, m->bytes);
        bomsync_error err = BOMSYNC_ERROR_INIT;
        if (!s->want) note_fault(s, bsi_twins_add(s->twins, bsi_lane(), w->kh, w->count, &err), &err);
        if (s->want || w->bad_count) open_wanted(s, w, m->now_at);
    }
}

static bomsync_status hash_keys(align_state *s, bomsync_error *err) {
    bsi_diff_run *d = s->d;
    size_t tasks = (s->t.same_count + TASK_SAME - 1) / TASK_SAME, rest_count;
    s->twins = bsi_twins_open(d->workers, d->memory_bytes / 2, d->tmp);
    bsi_parallel(d->workers, tasks, hash_same, s);
    uint64_t *rest = bsi_diff_open_keys(d, &rest_count, false);
    bomsync_status st = s->status ? s->status : bsi_twins_find(&s->want, &s->want_count, s->twins, rest, rest_count, d->workers, err);
    free(rest);
    bsi_twins_close(s->twins);
    if (!st && s->want_count) bsi_parallel(d->workers, tasks, hash_same, s);
    return st ? st : s->status;
}

/* ---- all of it ---- */

static void release(align_state *s) {
    for (int i = 0; i < s->d->workers; i++) {
        bsi_rows_free(&s->rows[i]);
        bsi_buf_free(&s->buf[i]);
    }
    free(s->rows);
    free(s->buf);
    free(s->column_key);
    free(s->want);
    free(s->probe);
    bsi_buf_free(&s->text);
    free(s->open);
    bsi_tiling_release(&s->t);
}

bomsync_status bsi_diff_align(bsi_diff_run *d, bool *done, bomsync_error *err) {
    align_state s = {.d = d, .lock = ATOMIC_FLAG_INIT, .err = err};
    bomsync_status st = BOMSYNC_OK;
    *done = false;
    s.rows = bsi_calloc((size_t)d->workers, sizeof *s.rows);
    s.buf = bsi_calloc((size_t)d->workers, sizeof *s.buf);
    if (can_align(&s)) st = align(&s, done, err);
    if (!st && *done) st = make_rows(&s, err);
    if (!st && *done && s.t.sure) st = probe_spans(&s, err);
    if (!st && *done && !s.t.sure) st = hash_keys(&s, err);
    if (!st && s.open_count) {
        bsi_tiling_open(&s.t, s.open, s.open_count);
        st = make_rows(&s, err);
    }
    release(&s);
    return st;
}
