/* run/query.c - reading a store: log, show, cat, get, history, diff-generations, exceptions, holds, audit, stats, status.
 *
 * All of it reads two things: generation records, and the difference of two state lists (run/changes.h). `cat` prints
 * the chunks as they were sent where they are still in the outbox, and derives them from the states where not.
 */
#include "run/query.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "flow/join.h"
#include "run/csv_out.h"
#include "run/manifest.h"

bomsync_status bsi_put(bomsync_sink out, const void *p, size_t n, bomsync_error *err) {
    int errnum = out.write(out.ctx, p, n);
    return errnum ? bsi_fail_errno(err, errnum, NULL, "could not write the output") : BOMSYNC_OK;
}

static bomsync_status put_text(bomsync_sink out, const char *text, bomsync_error *err) { return bsi_put(out, text, strlen(text), err); }

bomsync_status bsi_open_read(bsi_store **s, const char *dir, bomsync_error *err) { return bsi_store_open(s, dir, BSI_STORE_READ, 0, err); }

/* The feed named, or the only one. */
bomsync_status bsi_pick_feed(bsi_feed **feed, bsi_store *s, const char *name, bomsync_error *err) {
    char **names = NULL;
    size_t count = 0;
    bomsync_status st = bsi_store_feeds(&names, &count, s, err);
    if (!st && name) {
        st = bsi_store_feed(feed, s, name, err);
        if (!st && !*feed) st = bsi_fail(err, BOMSYNC_E_USAGE, "there is no feed \"%s\"", name);
    } else if (!st && count == 1) {
        st = bsi_store_feed(feed, s, names[0], err);
    } else if (!st && count == 0) {
        st = bsi_fail(err, BOMSYNC_E_USAGE, "the store has no feed yet");
        bsi_hint(err, "bomsync sync --store DIR --key a,b SNAPSHOT makes one");
    } else if (!st) {
        bsi_buf b = {0};
        for (size_t i = 0; i < count; i++) bsi_buf_addf(&b, "%s%s", i ? ", " : "", names[i]);
        bsi_buf_byte(&b, 0);
        st = bsi_fail(err, BOMSYNC_E_USAGE, "the store has several feeds: %s", (char *)b.data);
        bsi_hint(err, "name one with --feed");
        bsi_buf_free(&b);
    }
    for (size_t i = 0; i < count; i++) free(names[i]);
    free(names);
    return st;
}

static bomsync_status no_generation(bomsync_error *err, int64_t g) {
    return bsi_fail(err, BOMSYNC_E_USAGE, "there is no generation %" PRId64, g);
}

/* State of a feed at a generation (-1: newest). Generation 0, or before the feed's first: empty. */
bomsync_status bsi_state_at(bsi_ref **refs, size_t *count, bsi_store *s, const bsi_feed *feed, int64_t number, bomsync_error *err) {
    *refs = NULL;
    *count = 0;
    if (number < 0) number = bsi_store_generation(s);
    if (number > bsi_store_generation(s)) return no_generation(err, number);
    bsi_generation *g = NULL;
    bomsync_status st = bsi_store_generation_of_feed(&g, s, feed->name, number, err);
    if (!st && g) {
        if (!g->state_list && g->totals.records) {
            st = bsi_fail(err, BOMSYNC_E_USAGE, "the state of generation %" PRId64 " was given up by gc", g->number);
            bsi_hint(err, "gc --keep N says how many generations keep their state");
        } else {
            st = bsi_store_state(refs, count, s, g->state_list, err);
        }
    }
    bsi_generation_free(g);
    return st;
}

/* ---- log, show ---- */

bomsync_status bomsync_log(const char *store, const char *feed, bool json, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st && !json) st = put_text(out, "  gen feed                 at                       created  updated  deleted    records digest\n", err);
    for (int64_t n = 1; !st && n <= bsi_store_generation(s); n++) {
        bsi_generation *g = NULL;
        st = bsi_store_generation_get(&g, s, n, err);
        if (st || !g || (feed && strcmp(g->feed, feed) != 0)) {
            bsi_generation_free(g);
            continue;
        }
        char *text;
        if (json) {
            char *j = bsi_generation_json(g, false);
            text = bsi_format("%s\n", j);
            free(j);
        } else {
            char at[21], hex[65];
            bsi_time_format(at, g->effective_time);
            bsi_hex(hex, g->digest, 32);
            text = bsi_format("%5" PRId64 " %-20s %s %11" PRId64 " %8" PRId64 " %8" PRId64 " %10" PRId64 " %.16s%s\n", n, g->feed, at, g->totals.created,
                              g->totals.updated, g->totals.deleted, g->totals.records, hex, strcmp(g->kind, "sync") ? bsi_format(" %s", g->kind) : "");
        }
        st = put_text(out, text, err);
        free(text);
        bsi_generation_free(g);
    }
    if (s) bsi_store_close(s);
    return st;
}

bomsync_status bomsync_show(const char *store, int64_t generation, bool json, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bsi_generation *g = NULL;
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st && generation < 0) generation = bsi_store_generation(s);
    if (!st) st = bsi_store_generation_get(&g, s, generation, err);
    if (!st && !g) st = no_generation(err, generation);
    if (!st) {
        char *text = json ? bsi_generation_json(g, true) : bsi_generation_text(g, true);
        st = put_text(out, text, err);
        if (!st && json) st = put_text(out, "\n", err);
        free(text);
    }
    bsi_generation_free(g);
    if (s) bsi_store_close(s);
    return st;
}

/* ---- changes between states ---- */

typedef struct line_sink {
    bomsync_sink out;
    bsi_buf buf;
    uint64_t lines;
} line_sink;

static bomsync_status flush_lines(line_sink *l, size_t at_least, bomsync_error *err) {
    if (l->buf.len <= at_least) return BOMSYNC_OK;
    bomsync_status st = bsi_put(l->out, l->buf.data, l->buf.len, err);
    l->buf.len = 0;
    return st;
}

static bomsync_status line_out(void *ctx, const bsi_item *item, uint64_t seq, const char *line, size_t bytes, bomsync_error *err) {
    (void)item, (void)seq;
    line_sink *l = ctx;
    bsi_buf_add(&l->buf, line, bytes);
    l->lines++;
    return flush_lines(l, 1 << 20, err);
}

static bomsync_status chunk_line(void *ctx, const char *line, size_t bytes, bomsync_error *err) {
    line_sink *l = ctx;
    bsi_buf_add(&l->buf, line, bytes);
    bsi_buf_byte(&l->buf, '\n');
    return flush_lines(l, 1 << 20, err);
}

static bomsync_status diff_states(bsi_store *s, const bsi_feed *feed, int64_t from, int64_t to, const bsi_change_head *head, line_sink *l,
                                  bomsync_error *err) {
    bsi_ref *a = NULL, *b = NULL;
    size_t a_count = 0, b_count = 0, count = 0;
    bsi_item *item = NULL;
    bsi_parts parts = {0};
    int workers = bsi_usable_cores();
    bomsync_status st = from ? bsi_state_at(&a, &a_count, s, feed, from, err) : BOMSYNC_OK;
    if (!st && to) st = bsi_state_at(&b, &b_count, s, feed, to, err);
    if (!st) st = bsi_state_diff(&item, &count, s, &feed->slots, a, a_count, b, b_count, &parts, workers, err);
    if (!st) {
        bsi_items_sort(item, count, &parts);
        bsi_row_source was = {.store = s, .refs = a, .slot_count = feed->slots.count}, now = {.store = s, .refs = b, .slot_count = feed->slots.count};
        st = bsi_items_render(item, count, &feed->slots, &now, &was, head, workers, line_out, l, err);
    }
    free(item);
    free(a);
    free(b);
    bsi_parts_free(&parts);
    return st;
}

bomsync_status bomsync_diff_generations(const char *store, const char *feed_name, int64_t from, int64_t to, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bsi_feed *feed = NULL;
    line_sink l = {.out = out};
    bomsync_status st = bsi_open_read(&s, store, err);
    int64_t newest = st ? 0 : bsi_store_generation(s);
    if (!st && (from < 0 || from > newest)) st = no_generation(err, from);
    if (!st && (to < 0 || to > newest)) st = no_generation(err, to);
    if (!st) st = bsi_pick_feed(&feed, s, feed_name, err);
    if (!st) {
        bsi_change_head head = {.entity = feed->name, .generation = -1};
        st = diff_states(s, feed, from, to, &head, &l, err);
    }
    if (!st) st = flush_lines(&l, 0, err);
    if (!st && l.lines) st = BOMSYNC_DIFFERENT;
    bsi_buf_free(&l.buf);
    if (feed) bsi_feed_free(feed);
    if (s) bsi_store_close(s);
    return st;
}

/* Changes of one generation as they were sent; derived from the states if it wrote no chunks or they are gone. */
static bomsync_status cat_generation(bsi_store *s, const bsi_generation *g, line_sink *l, bomsync_error *err) {
    bool there = g->chunk_count > 0;
    for (size_t i = 0; i < g->chunk_count && there; i++) {
        char *path = bsi_format("%s/outbox/%" PRId64 "/%s", bsi_store_dir(s), g->number, g->chunks[i].file);
        there = access(path, R_OK) == 0;
        free(path);
    }
    bomsync_status st = BOMSYNC_OK;
    if (there) {
        for (size_t i = 0; i < g->chunk_count && !st; i++) {
            char *path = bsi_format("%s/outbox/%" PRId64 "/%s", bsi_store_dir(s), g->number, g->chunks[i].file);
            st = bsi_chunk_read(path, &g->chunks[i], chunk_line, l, err);
            free(path);
        }
        return st;
    }
    bsi_feed *feed = NULL;
    st = bsi_store_feed(&feed, s, g->feed, err);
    if (!st && feed) {
        char id[65];
        bsi_hex(id, g->base_digest, 32);
        id[16] = 0;
        bsi_change_head head = {.entity = g->feed, .id_prefix = id, .generation = -1};
        feed->slots.count = BSI_MIN(feed->slots.count, g->slot_count);
        st = diff_states(s, feed, g->base, g->number, &head, l, err);
    }
    if (feed) bsi_feed_free(feed);
    return st;
}

bomsync_status bomsync_cat(const char *store, int64_t generation, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bsi_generation *g = NULL;
    line_sink l = {.out = out};
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st && generation < 0) generation = bsi_store_generation(s);
    if (!st) st = bsi_store_generation_get(&g, s, generation, err);
    if (!st && !g) st = no_generation(err, generation);
    if (!st) st = cat_generation(s, g, &l, err);
    if (!st) st = flush_lines(&l, 0, err);
    bsi_buf_free(&l.buf);
    bsi_generation_free(g);
    if (s) bsi_store_close(s);
    return st;
}

/* ---- one record ---- */

/* KEY: the key values in key order as one CSV record. */
static bomsync_status parse_key(bsi_buf *image, const bsi_feed *feed, const char *text, bomsync_error *err) {
    bsi_dialect d = {.delimiter = ',', .quote = '"', .lenient = true};
    char **v = NULL;
    uint32_t count = 0;
    size_t bytes;
    bomsync_error local = BOMSYNC_ERROR_INIT;
    size_t n = strlen(text);
    uint8_t *copy = bsi_calloc(n + 65, 1); /* parsers may look past the end */
    memcpy(copy, text, n);
    bomsync_status st = bsi_parse_header(&v, &count, &bytes, &d, copy, n, true, &local);
    if (st || count != feed->slots.key_count) {
        bsi_buf names = {0};
        for (uint32_t i = 0; i < feed->slots.key_count; i++) bsi_buf_addf(&names, "%s%s", i ? "," : "", feed->slots.name[i]);
        bsi_buf_byte(&names, 0);
        st = bsi_fail(err, BOMSYNC_E_USAGE, "the key of feed \"%s\" has %u values: %s", feed->name, feed->slots.key_count, (char *)names.data);
        bsi_buf_free(&names);
    } else {
        for (uint32_t i = 0; i < count; i++) bsi_buf_lstr(image, v[i], strlen(v[i]));
    }
    for (uint32_t i = 0; i < count; i++) free(v[i]);
    free(v);
    free(copy);
    return st;
}

typedef struct find_run {
    bsi_store *s;
    const bsi_ref *refs;
    size_t count;
    uint64_t kh;
    uint64_t found; /* place, UINT64_MAX */
    bomsync_status status;
    bomsync_error *err;
} find_run;

static void find_task(void *ctx, size_t index) {
    find_run *r = ctx;
    size_t end = BSI_MIN((index + 1) * 4096, r->count);
    for (size_t i = index * 4096; i < end && __atomic_load_n(&r->found, __ATOMIC_RELAXED) == UINT64_MAX; i++) {
        bsi_block_rows rows;
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bomsync_status st = bsi_store_rows(&rows, r->s, r->refs[i], &err);
        if (st) {
            r->status = st;
            *r->err = err;
            return;
        }
        for (uint32_t k = 0; k < rows.count; k++)
            if (rows.kh[k] == r->kh) __atomic_store_n(&r->found, (uint64_t)i << 16 | k, __ATOMIC_RELAXED);
    }
}

bomsync_status bsi_find_key(uint64_t *place, bsi_store *s, const bsi_ref *refs, size_t count, uint64_t kh, bomsync_error *err) {
    find_run r = {.s = s, .refs = refs, .count = count, .kh = kh, .found = UINT64_MAX, .err = err};
    bsi_parallel(bsi_usable_cores(), (count + 4095) / 4096, find_task, &r);
    *place = r.found;
    return r.status;
}

static void record_json(bsi_buf *b, const bsi_feed *feed, const bsi_field *f) {
    const bsi_slots *s = &feed->slots;
    bsi_field p = bsi_change_partition(s, f);
    bsi_buf_str(b, "{\"entity\":");
    bsi_json_string(b, feed->name, strlen(feed->name));
    bsi_buf_str(b, ",\"partition\":");
    bsi_json_string(b, p.p, p.len);
    bsi_buf_str(b, ",\"key\":{");
    for (uint32_t i = 0; i < s->key_count; i++) {
        if (i) bsi_buf_byte(b, ',');
        bsi_json_string(b, s->name[i], strlen(s->name[i]));
        bsi_buf_byte(b, ':');
        bsi_json_string(b, f[i].p, f[i].len);
    }
    bsi_buf_str(b, "},\"values\":{");
    bool first = true;
    for (uint32_t k = 0; k < s->count; k++) {
        uint32_t i = s->order[k];
        if (i < s->key_count) continue;
        if (!first) bsi_buf_byte(b, ',');
        first = false;
        bsi_json_string(b, s->name[i], strlen(s->name[i]));
        bsi_buf_byte(b, ':');
        if (f[i].null) bsi_buf_str(b, "null");
        else bsi_json_string(b, f[i].p, f[i].len);
    }
    bsi_buf_str(b, "}}\n");
}

bomsync_status bomsync_get(const char *store, const char *feed_name, int64_t generation, const char *key_csv, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bsi_feed *feed = NULL;
    bsi_ref *refs = NULL;
    size_t count = 0;
    bsi_buf key = {0};
    uint64_t place = UINT64_MAX;
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_pick_feed(&feed, s, feed_name, err);
    if (!st && generation == 0) st = BOMSYNC_DIFFERENT; /* generation 0 is empty */
    if (!st) st = bsi_state_at(&refs, &count, s, feed, generation, err);
    if (!st) st = parse_key(&key, feed, key_csv, err);
    if (!st) st = bsi_find_key(&place, s, refs, count, bsi_xxh64_secret(key.data, key.len, bsi_store_secret(s)), err);
    if (!st && place == UINT64_MAX) st = BOMSYNC_DIFFERENT;
    if (!st) {
        bsi_row_source src = {.store = s, .refs = refs, .slot_count = feed->slots.count};
        bsi_row_reader r;
        bsi_row_reader_open(&r, &src);
        bsi_field *f = bsi_alloc(sizeof *f * feed->slots.count);
        st = bsi_row_fetch(f, &r, place, err);
        bsi_buf b = {0};
        if (!st) record_json(&b, feed, f);
        if (!st) st = bsi_put(out, b.data, b.len, err);
        bsi_buf_free(&b);
        free(f);
        bsi_row_reader_close(&r);
    }
    bsi_buf_free(&key);
    free(refs);
    if (feed) bsi_feed_free(feed);
    if (s) bsi_store_close(s);
    return st;
}

typedef struct past { /* the record as it was at the generation before */
    bsi_block_data data;
    bsi_field *f;
    bool there;
    bsi_ref ref;
    uint32_t row;
} past;

static bomsync_status history_step(bsi_store *s, const bsi_feed *feed, const bsi_generation *g, uint64_t kh, past *was, past *now, bsi_buf *b,
                                   bomsync_error *err) {
    bsi_ref *refs = NULL;
    size_t count = 0;
    uint64_t place = UINT64_MAX;
    bomsync_status st = bsi_store_state(&refs, &count, s, g->state_list, err);
    now->there = false;
    if (!st) st = bsi_find_key(&place, s, refs, count, kh, err);
    if (!st && place != UINT64_MAX) {
        now->there = true;
        now->ref = refs[place >> 16];
        now->row = place & 0xffff;
        st = bsi_store_data(&now->data, s, now->ref, err);
        uint32_t i = now->row;
        if (!st && !bsi_image_fields(now->f, feed->slots.count, now->data.raw.data + now->data.image[i], now->data.body[i],
                                     now->data.image[i + 1] - now->data.image[i], now->data.slot_count))
            st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "a stored record is damaged");
    }
    free(refs);
    if (st) return st;
    bool differs = was->there != now->there;
    for (uint32_t i = 0; !differs && now->there && i < feed->slots.count; i++) differs = !bsi_field_eq(&was->f[i], &now->f[i]);
    if (!differs) return BOMSYNC_OK;
    bsi_slots slots = feed->slots; /* as cat shows it: with the columns that there were */
    slots.count = BSI_MIN(slots.count, g->slot_count);
    bsi_change c = {.op = !was->there ? 'c' : now->there ? 'u' : 'd', .slots = &slots, .before = was->there ? was->f : NULL,
                    .after = now->there ? now->f : NULL};
    bsi_change_head head = {.entity = feed->name, .generation = g->number};
    bsi_change_render(b, &c, &head);
    return BOMSYNC_OK;
}

bomsync_status bomsync_history(const char *store, const char *feed_name, const char *key_csv, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bsi_feed *feed = NULL;
    bsi_buf key = {0}, b = {0};
    past a = {0}, c = {0}, *was = &a, *now = &c;
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_pick_feed(&feed, s, feed_name, err);
    if (!st) st = parse_key(&key, feed, key_csv, err);
    if (!st) {
        a.f = bsi_alloc(sizeof *a.f * feed->slots.count);
        c.f = bsi_alloc(sizeof *c.f * feed->slots.count);
    }
    for (int64_t n = 1; !st && n <= bsi_store_generation(s); n++) {
        bsi_generation *g = NULL;
        st = bsi_store_generation_get(&g, s, n, err);
        if (!st && g && strcmp(g->feed, feed->name) == 0 && (g->state_list || !g->totals.records)) {
            st = history_step(s, feed, g, bsi_xxh64_secret(key.data, key.len, bsi_store_secret(s)), was, now, &b, err);
            past *t = was;
            was = now;
            now = t;
        }
        bsi_generation_free(g);
    }
    if (!st && !b.len) st = BOMSYNC_DIFFERENT;
    if (!st) st = bsi_put(out, b.data, b.len, err);
    bsi_block_data_free(&a.data);
    bsi_block_data_free(&c.data);
    free(a.f);
    free(c.f);
    bsi_buf_free(&key);
    bsi_buf_free(&b);
    if (feed) bsi_feed_free(feed);
    if (s) bsi_store_close(s);
    return st;
}

/* ---- queues ---- */

/* Bytes that are not UTF-8 (a value kept back for just that) are shown as U+FFFD: every line we print is UTF-8. */
static void utf8_only(bsi_buf *out, const char *text) {
    const uint8_t *p = (const uint8_t *)text;
    for (size_t n = strlen(text); n;) {
        size_t more = *p < 0x80 ? 0 : *p >= 0xC2 && *p <= 0xDF ? 1 : *p >= 0xE0 && *p <= 0xEF ? 2 : *p >= 0xF0 && *p <= 0xF4 ? 3 : 9;
        bool good = more < n;
        for (size_t i = 1; good && i <= more; i++) good = (p[i] & 0xC0) == 0x80;
        if (good && more > 1) {
            uint32_t low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80, high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
            good = p[1] >= low && p[1] <= high;
        }
        size_t used = good ? more + 1 : 1;
        if (good) bsi_buf_add(out, p, used);
        else bsi_buf_add(out, "\xEF\xBF\xBD", 3);
        p += used;
        n -= used;
    }
}

static void quoted(bsi_buf *b, const char *text) {
    bsi_buf clean = {0};
    utf8_only(&clean, text);
    bsi_json_string(b, clean.data, clean.len);
    bsi_buf_free(&clean);
}

static void json_or_null(bsi_buf *b, const char *name, const char *text) {
    bsi_buf_addf(b, ",\"%s\":", name);
    if (text) quoted(b, text);
    else bsi_buf_str(b, "null");
}

static void number_or_null(bsi_buf *b, const char *name, int64_t v) {
    if (v < 0) bsi_buf_addf(b, ",\"%s\":null", name);
    else bsi_buf_addf(b, ",\"%s\":%" PRId64, name, v);
}

static void time_member(bsi_buf *b, const char *name, int64_t t) {
    char at[21];
    bsi_time_format(at, t);
    bsi_buf_addf(b, ",\"%s\":\"%s\"", name, at);
}

/* The key slots of a row image as one CSV record. */
static void key_csv(bsi_buf *b, const bsi_kept *k, uint32_t keys) {
    bsi_field f[64];
    if (keys > 64 || !k->image || !bsi_image_fields(f, keys, k->image, k->body_bytes, k->image_bytes, k->slot_count)) return;
    for (uint32_t i = 0; i < keys; i++) {
        if (i) bsi_buf_byte(b, ',');
        bsi_csv_field(b, f[i].p, f[i].len);
    }
}

static void safe_cell(bsi_buf *b, const char *text) { /* a cell that a spreadsheet would run is defused */
    bsi_buf_byte(b, '"');
    if (text && strchr("=+-@\t\r", text[0]) && text[0]) bsi_buf_byte(b, '\'');
    for (const char *c = text ? text : ""; *c; c++) {
        if (*c == '"') bsi_buf_byte(b, '"');
        bsi_buf_byte(b, (uint8_t)*c);
    }
    bsi_buf_byte(b, '"');
}

static void exception_out(bsi_buf *b, const char *feed, const bsi_kept *k, uint32_t keys, bool json, bool csv) {
    bsi_buf key = {0};
    if (k->key_read) key_csv(&key, k, keys);
    bsi_buf_byte(&key, 0);
    const char *key_text = k->key_read ? (char *)key.data : NULL;
    if (json) {
        bsi_buf_str(b, "{\"message_type\":\"exception\"");
        json_or_null(b, "feed", feed);
        json_or_null(b, "partition", k->partition[0] ? k->partition : NULL);
        json_or_null(b, "key", key_text);
        json_or_null(b, "rule", k->rule);
        bsi_buf_str(b, ",\"severity\":\"error\",\"role\":\"data-steward\"");
        json_or_null(b, "file", k->file);
        number_or_null(b, "byte", k->byte);
        number_or_null(b, "line", k->line);
        json_or_null(b, "column", k->column);
        json_or_null(b, "value", k->value);
        time_member(b, "since", k->since);
        bsi_buf_str(b, ",\"due\":null}\n");
    } else if (csv) {
        const char *cell[] = {feed, k->partition, key_text, k->rule, k->file, k->column, k->value};
        for (size_t i = 0; i < sizeof cell / sizeof *cell; i++) {
            if (i) bsi_buf_byte(b, ',');
            safe_cell(b, cell[i]);
        }
        bsi_buf_addf(b, ",%" PRId64 ",%" PRId64 "\n", k->byte, k->line);
    } else {
        bsi_buf_addf(b, "%s: rule %s, key ", feed, k->rule);
        if (key_text) quoted(b, key_text);
        else bsi_buf_str(b, "(cannot be read)");
        bsi_buf_addf(b, "\n  in: line %" PRId64 ", byte %" PRId64 " of \"%s\"", k->line, k->byte, k->file ? k->file : "");
        if (k->column) bsi_buf_addf(b, ", column \"%s\"", k->column);
        bsi_buf_str(b, "\n  value: ");
        quoted(b, k->value ? k->value : "");
        bsi_buf_byte(b, '\n');
    }
    bsi_buf_free(&key);
}

enum { EXCEPTIONS_AT_ONCE = 256 << 10 };

bomsync_status bomsync_exceptions(const char *store, const char *feed_name, bool json, bool csv, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    char **names = NULL;
    size_t count = 0;
    bsi_buf b = {0};
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_store_feeds(&names, &count, s, err);
    if (!st && csv) bsi_buf_str(&b, "feed,partition,key,rule,file,column,value,byte,line\n");
    for (size_t i = 0; i < count && !st; i++) {
        if (feed_name && strcmp(names[i], feed_name) != 0) continue;
        bsi_feed *feed = NULL;
        bsi_kept_list kept = {0};
        bsi_kept_walk w = {.list = &kept};
        st = bsi_store_feed(&feed, s, names[i], err);
        if (!st) st = bsi_store_kept(&kept, s, names[i], err);
        for (const bsi_kept *k; !st && (k = bsi_kept_next(&w));) {
            if (bsi_kept_is_exception(k)) exception_out(&b, names[i], k, feed->slots.key_count, json, csv);
            if (b.len < EXCEPTIONS_AT_ONCE) continue;
            st = bsi_put(out, b.data, b.len, err);
            b.len = 0;
        }
        bsi_kept_walk_end(&w);
        bsi_kept_free(&kept);
        if (feed) bsi_feed_free(feed);
    }
    if (!st && b.len) st = bsi_put(out, b.data, b.len, err);
    for (size_t i = 0; i < count; i++) free(names[i]);
    free(names);
    bsi_buf_free(&b);
    if (s) bsi_store_close(s);
    return st;
}

bomsync_status bomsync_holds(const char *store, const char *feed, bool json, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bsi_hold *h = NULL;
    size_t count = 0;
    bsi_buf b = {0};
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_store_holds(&h, &count, s, feed, err);
    for (size_t i = 0; i < count && !st; i++) {
        char hex[65], at[21];
        if (strcmp(h[i].state, "held") != 0) continue;
        bsi_hex(hex, h[i].digest, 32);
        bsi_time_format(at, h[i].since);
        if (json) {
            bsi_buf_addf(&b, "{\"message_type\":\"hold\",\"digest\":\"%s\"", hex);
            json_or_null(&b, "feed", h[i].feed);
            json_or_null(&b, "partition", h[i].partition[0] ? h[i].partition : NULL);
            json_or_null(&b, "rule", h[i].rule);
            bsi_buf_addf(&b, ",\"changes\":%" PRId64 ",\"since\":\"%s\",\"roles\":[]}\n", h[i].changes, at);
        } else {
            bsi_buf_addf(&b, "%s %s%s%s: %" PRId64 " changes held by %s since %s\n", hex, h[i].feed, h[i].partition[0] ? " partition " : "",
                         h[i].partition, h[i].changes, h[i].rule, at);
        }
    }
    if (!st && b.len) st = bsi_put(out, b.data, b.len, err);
    bsi_holds_free(h, count);
    bsi_buf_free(&b);
    if (s) bsi_store_close(s);
    return st;
}

static bomsync_status journal_line(void *ctx, const char *json, size_t n, bomsync_error *err) {
    bomsync_sink *out = ctx;
    bomsync_status st = bsi_put(*out, json, n, err);
    return st ? st : bsi_put(*out, "\n", 1, err);
}

bomsync_status bomsync_audit(const char *store, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_store_journal(s, journal_line, &out, err);
    if (s) bsi_store_close(s);
    return st;
}

/* ---- figures ---- */

bomsync_status bomsync_stats(const char *store, bool json, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    char *text = NULL;
    bsi_store_figures f;
    bsi_buf b = {0};
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_store_stats_get(&text, s, err);
    if (!st) st = bsi_store_figures_get(&f, s, err);
    if (!st) {
        const char *run = text && text[0] == '{' ? text : "{\"message_type\":\"stats\",\"records\":0,\"generations\":0}";
        /* the store's bytes are put behind the members of the run that are known before the commit */
        const char *at = strstr(run, ",\"blocks\"");
        size_t front = at ? (size_t)(at - run) : strlen(run) - 1;
        bsi_buf_add(&b, run, front);
        bsi_buf_addf(&b, ",\"bytes\":{\"data\":%" PRIu64 ",\"rows\":%" PRIu64 ",\"image\":%" PRIu64 ",\"outbox\":%" PRIu64 ",\"ledger\":%" PRIu64 "}", f.data,
                     f.rows, f.image, f.outbox, f.ledger);
        bsi_buf_add(&b, run + front, strlen(run) - front);
        bsi_buf_byte(&b, '\n');
        if (!json) { /* one member a line */
            bsi_buf t = {0};
            int depth = 0;
            bool text_open = false;
            for (size_t i = 0; i + 1 < b.len; i++) {
                char c = (char)b.data[i];
                if (c == '"') text_open = !text_open;
                else if (!text_open && c == '{') depth++;
                else if (!text_open && c == '}') depth--;
                if (text_open || (c != '"' && c != '{' && c != '}' && c != ',' && c != ':')) {
                    if (c != '"') bsi_buf_byte(&t, (uint8_t)c);
                } else if (c == ',') {
                    bsi_buf_str(&t, depth == 1 ? "\n" : ", ");
                } else if (c == ':') {
                    bsi_buf_str(&t, ": ");
                }
            }
            bsi_buf_byte(&t, '\n');
            st = bsi_put(out, t.data, t.len, err);
            bsi_buf_free(&t);
        } else {
            st = bsi_put(out, b.data, b.len, err);
        }
    }
    free(text);
    bsi_buf_free(&b);
    if (s) bsi_store_close(s);
    return st;
}

bomsync_status bomsync_store_status(const char *store, bool json, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    char **names = NULL;
    size_t count = 0;
    bsi_buf b = {0};
    bomsync_status st = bsi_open_read(&s, store, err);
    if (!st) st = bsi_store_feeds(&names, &count, s, err);
    if (!st && !json) bsi_buf_addf(&b, "store %s\nid    %s\nnewest generation %" PRId64 "\n", store, bsi_store_id(s), bsi_store_generation(s));
    if (!st && json) bsi_buf_addf(&b, "{\"message_type\":\"status\",\"store\":\"%s\",\"generation\":%" PRId64 ",\"feeds\":[", bsi_store_id(s), bsi_store_generation(s));
    bool held = false, open = false;
    for (size_t i = 0; i < count && !st; i++) {
        bsi_feed *feed = NULL;
        bsi_kept_list kept = {0};
        bsi_kept_walk w = {.list = &kept};
        bsi_hold *h = NULL;
        size_t holds = 0, exceptions = 0, waiting = 0;
        st = bsi_store_feed(&feed, s, names[i], err);
        if (!st) st = bsi_store_kept(&kept, s, names[i], err);
        if (!st) st = bsi_store_holds(&h, &holds, s, names[i], err);
        for (const bsi_kept *k; (k = bsi_kept_next(&w));) exceptions += bsi_kept_is_exception(k);
        for (size_t j = 0; j < holds; j++) waiting += strcmp(h[j].state, "held") == 0;
        held |= waiting > 0;
        open |= exceptions > 0;
        if (!st && json) {
            bsi_buf_str(&b, i ? ",{\"feed\":" : "{\"feed\":");
            bsi_json_string(&b, names[i], strlen(names[i]));
            bsi_buf_addf(&b, ",\"generation\":%" PRId64 ",\"records\":%" PRId64 ",\"exceptions\":%zu,\"holds\":%zu}", feed->generation, feed->records, exceptions,
                         waiting);
        } else if (!st) {
            bsi_buf_addf(&b, "feed %-20s generation %" PRId64 ", %" PRId64 " records, %zu exceptions open, %zu holds waiting\n", names[i], feed->generation,
                         feed->records, exceptions, waiting);
        }
        bsi_kept_free(&kept);
        bsi_holds_free(h, holds);
        if (feed) bsi_feed_free(feed);
    }
    if (!st && json) bsi_buf_str(&b, "]}\n");
    if (!st && !json)
        bsi_buf_str(&b, held ? "next: bomsync holds, then approve or decline\n" : open ? "next: bomsync exceptions\n" : "all is well\n");
    if (!st) st = bsi_put(out, b.data, b.len, err);
    for (size_t i = 0; i < count; i++) free(names[i]);
    free(names);
    bsi_buf_free(&b);
    if (s) bsi_store_close(s);
    return st;
}

bomsync_status bomsync_doctor(const char *store, bool json, bomsync_sink out, bomsync_error *err) {
    bsi_buf b = {0};
    bsi_isa isa = BSI_ISA_SCALAR;
    bomsync_status st = bsi_isa_choose(&isa, "auto", err);
    if (st) return st;
    const char *name = isa == BSI_ISA_AVX512 ? "avx512" : isa == BSI_ISA_AVX2 ? "avx2" : "scalar";
    const char *tmp = store ? store : bsi_temp_folder();
    struct statvfs v;
    uint64_t space = statvfs(tmp, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : 0;
    bool uring = access("/proc/sys/kernel/io_uring_disabled", R_OK) != 0;
    if (!uring) {
        bsi_buf f = {0};
        uring = !bsi_read_file(&f, "/proc/sys/kernel/io_uring_disabled", 64, NULL) && f.len && f.data[0] != '2';
        bsi_buf_free(&f);
    }
    if (json)
        bsi_buf_addf(&b, "{\"message_type\":\"doctor\",\"version\":\"%s\",\"cores\":%d,\"isa\":\"%s\",\"io_uring\":%s,\"free_bytes\":%" PRIu64 "}\n", BOMSYNC_VERSION,
                     bsi_usable_cores(), name, uring ? "true" : "false", space);
    else
        bsi_buf_addf(&b, "bomsync %s\nusable cores      %d\ninstruction set   %s\nio_uring          %s\nfree space        %.1f GB in %s\n", BOMSYNC_VERSION,
                     bsi_usable_cores(), name, uring ? "allowed" : "not allowed: pread is used, the output is the same", (double)space / 1e9, tmp);
    st = bsi_put(out, b.data, b.len, err);
    bsi_buf_free(&b);
    return st;
}
