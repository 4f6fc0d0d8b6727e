/* run/delta.c - see delta.h.
 *
 *   {"op":"u",…,"key":{"id":"7"},"before":{"qty":"2"},"after":{"qty":"3"}}
 *      └ change ──> list of changes of key [1]"7", in the order of the files and lines
 *
 * All texts lie in slabs: memory follows the size of the deltas. Members that a change does not need (seq, id, entity,
 * partition, notes) are passed over, so that lines of `diff`, `cat` and `history` all do.
 */
#include "run/delta.h"

#include <jansson.h>
#include <stdlib.h>

#include "core/limits.h"
#include "flow/source.h"

enum { SLAB_BYTES = 1 << 20 };
#define LINE_BYTES_MAX (16ull * BSI_RECORD_BYTES_MAX) /* a record before and after, every byte escaped, and names */

/* ---- memory ---- */

static void *take(bsi_deltas *d, size_t bytes) {
    bytes = (bytes + 7) & ~(size_t)7;
    if (!d->slabs || d->slab[d->slabs - 1].cap - d->slab[d->slabs - 1].len < bytes) {
        if (d->slabs == d->slab_cap) d->slab = bsi_realloc(d->slab, (d->slab_cap = d->slab_cap ? d->slab_cap * 2 : 16) * sizeof *d->slab);
        d->slab[d->slabs] = (bsi_buf){0};
        bsi_buf_reserve(&d->slab[d->slabs++], BSI_MAX(bytes, (size_t)SLAB_BYTES));
    }
    bsi_buf *s = &d->slab[d->slabs - 1];
    void *p = s->data + s->len;
    s->len += bytes;
    return p;
}

static const void *keep(bsi_deltas *d, const void *p, size_t bytes) {
    void *to = take(d, bytes);
    if (bytes) memcpy(to, p, bytes); /* p may be NULL then */
    return to;
}

void bsi_deltas_free(bsi_deltas *d) {
    for (uint32_t i = 0; i < d->name_count; i++) free(d->name[i]);
    for (uint32_t i = 0; i < d->key_count; i++) free(d->key_name[i]);
    for (size_t i = 0; i < d->slabs; i++) bsi_buf_free(&d->slab[i]);
    free(d->name);
    free(d->key_name);
    free(d->key);
    free(d->slot);
    free(d->slab);
    *d = (bsi_deltas){0};
}

/* ---- keys ---- */

bsi_delta_key *bsi_deltas_find(const bsi_deltas *d, const void *text, size_t bytes) {
    if (!d->count) return NULL;
    uint64_t hash = bsi_xxh64(text, bytes);
    for (size_t h = hash & d->mask; d->slot[h]; h = (h + 1) & d->mask) {
        bsi_delta_key *k = &d->key[d->slot[h] - 1];
        if (k->hash == hash && k->bytes == bytes && memcmp(k->text, text, bytes) == 0) return k;
    }
    return NULL;
}

static void index_key(bsi_deltas *d, size_t i) {
    size_t h = d->key[i].hash & d->mask;
    while (d->slot[h]) h = (h + 1) & d->mask;
    d->slot[h] = (uint32_t)(i + 1);
}

static void grow_index(bsi_deltas *d) {
    size_t size = d->slot ? (d->mask + 1) * 2 : 1024;
    free(d->slot);
    d->slot = bsi_calloc(size, sizeof *d->slot);
    d->mask = size - 1;
    for (size_t i = 0; i < d->count; i++) index_key(d, i);
}

static bsi_delta_key *key_of(bsi_deltas *d, const bsi_buf *text) {
    bsi_delta_key *k = bsi_deltas_find(d, text->data, text->len);
    if (k) return k;
    if (!d->slot || d->count * 2 >= d->mask) grow_index(d);
    if (d->count == d->cap) d->key = bsi_realloc(d->key, (d->cap = d->cap ? d->cap * 2 : 256) * sizeof *d->key);
    k = &d->key[d->count++];
    *k = (bsi_delta_key){.text = keep(d, text->data, text->len), .bytes = (uint32_t)text->len, .hash = bsi_xxh64(text->data, text->len)};
    index_key(d, d->count - 1);
    return k;
}

/* Names come in the same order line after line: the one behind the last is tried first. */
static uint32_t name_of(bsi_deltas *d, const char *name, uint32_t guess) {
    for (uint32_t n = 0; n < d->name_count; n++) {
        uint32_t i = (guess + n) % d->name_count;
        if (strcmp(d->name[i], name) == 0) return i;
    }
    if (d->name_count == d->name_cap) d->name = bsi_realloc(d->name, (d->name_cap = d->name_cap ? d->name_cap * 2 : 16) * sizeof *d->name);
    d->name[d->name_count] = bsi_strdup(name);
    return d->name_count++;
}

/* ---- one line ---- */

typedef struct reader {
    bsi_deltas *d;
    const char *path;
    uint32_t file;
    int64_t line;
    bsi_buf key; /* text of the key at hand */
} reader;

static bomsync_status not_a_change(const reader *r, const char *why, const char *column, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "line %lld of delta \"%.300s\" is not a change: %.100s", (long long)r->line, r->path, why);
    bsi_at(err, r->path, -1, r->line, column, NULL, 0);
    bsi_hint(err, "a delta is NDJSON as diff and cat print it; nothing was changed");
    return BOMSYNC_E_REFUSED;
}

static bomsync_status learn_key(reader *r, json_t *key, bomsync_error *err) {
    bsi_deltas *d = r->d;
    size_t n = json_object_size(key);
    if (!n || n > BSI_COLUMNS_MAX) return not_a_change(r, "it has no key", NULL, err);
    d->key_name = bsi_alloc(n * sizeof *d->key_name);
    const char *name;
    json_t *value;
    json_object_foreach(key, name, value) d->key_name[d->key_count++] = bsi_strdup(name);
    return BOMSYNC_OK;
}

static bomsync_status read_key(reader *r, json_t *key, bomsync_error *err) {
    const bsi_deltas *d = r->d;
    if (!json_is_object(key)) return not_a_change(r, "it has no key", NULL, err);
    bomsync_status st = d->key_count ? BOMSYNC_OK : learn_key(r, key, err);
    if (st) return st;
    if (json_object_size(key) != d->key_count) return not_a_change(r, "its key has other columns than those before", NULL, err);
    r->key.len = 0;
    for (uint32_t i = 0; i < d->key_count; i++) {
        json_t *v = json_object_get(key, d->key_name[i]);
        if (!v) return not_a_change(r, "its key has other columns than those before", d->key_name[i], err);
        if (!json_is_string(v) && !json_is_null(v)) return not_a_change(r, "a value is neither text nor null", d->key_name[i], err);
        bsi_buf_lstr(&r->key, json_string_value(v), json_string_length(v));
    }
    return BOMSYNC_OK;
}

static bomsync_status read_side(const bsi_delta_value **out, uint32_t *count, reader *r, json_t *side, bomsync_error *err) {
    if (!json_is_object(side)) return not_a_change(r, "\"before\" or \"after\" is missing", NULL, err);
    if (json_object_size(side) > BSI_COLUMNS_MAX) return not_a_change(r, "it has too many attributes", NULL, err);
    bsi_delta_value *v = take(r->d, json_object_size(side) * sizeof *v);
    uint32_t n = 0;
    const char *name;
    json_t *value;
    json_object_foreach(side, name, value) {
        if (!json_is_string(value) && !json_is_null(value)) return not_a_change(r, "a value is neither text nor null", name, err);
        uint32_t guess = n ? v[n - 1].name + 1 : 0;
        size_t bytes = json_string_length(value);
        v[n++] = (bsi_delta_value){name_of(r->d, name, guess), (uint32_t)bytes, bytes ? keep(r->d, json_string_value(value), bytes) : NULL};
    }
    *out = v;
    *count = n;
    return BOMSYNC_OK;
}

static bomsync_status read_change(reader *r, json_t *o, bomsync_error *err) {
    const char *op = json_string_value(json_object_get(o, "op"));
    if (!op || strlen(op) != 1 || !strchr("cud", *op)) return not_a_change(r, "\"op\" is not \"c\", \"u\" or \"d\"", NULL, err);
    bomsync_status st = read_key(r, json_object_get(o, "key"), err);
    if (st) return st;
    bsi_delta_change c = {.op = *op, .file = r->file, .line = r->line};
    if (*op != 'c') st = read_side(&c.before, &c.before_count, r, json_object_get(o, "before"), err);
    if (!st && *op != 'd') st = read_side(&c.after, &c.after_count, r, json_object_get(o, "after"), err);
    if (st) return st;
    bsi_delta_change *kept = take(r->d, sizeof *kept);
    *kept = c;
    bsi_delta_key *k = key_of(r->d, &r->key);
    if (k->last) k->last->next = kept;
    else k->first = kept;
    k->last = kept;
    return BOMSYNC_OK;
}

static bomsync_status read_line(reader *r, const uint8_t *p, size_t n, bomsync_error *err) {
    r->line++;
    size_t blank = 0;
    while (blank < n && strchr(" \t\r", p[blank]) && p[blank]) blank++;
    if (blank == n) return BOMSYNC_OK;
    json_error_t why;
    json_t *o = json_loadb((const char *)p, n, JSON_REJECT_DUPLICATES, &why);
    bomsync_status st = json_is_object(o) ? read_change(r, o, err) : not_a_change(r, o ? "it is not an object" : why.text, NULL, err);
    json_decref(o);
    return st;
}

/* ---- one file ---- */

static bomsync_status read_lines(reader *r, bsi_buf *b, bool at_end, bomsync_error *err) {
    size_t at = 0;
    bomsync_status st = BOMSYNC_OK;
    while (!st && at < b->len) {
        const uint8_t *end = memchr(b->data + at, '\n', b->len - at);
        if (!end && !at_end) break;
        size_t n = end ? (size_t)(end - b->data) - at : b->len - at;
        st = read_line(r, b->data + at, n, err);
        at += n + (end ? 1 : 0);
    }
    memmove(b->data, b->data + at, b->len - at);
    b->len -= at;
    if (!st && b->len > LINE_BYTES_MAX) st = not_a_change(r, "the line is too long", NULL, err);
    return st;
}

bomsync_status bsi_deltas_read(bsi_deltas *d, const char *path, uint32_t file, bomsync_error *err) {
    reader r = {.d = d, .path = path, .file = file};
    bsi_source_options so = {.io = "auto", .workers = 1};
    bsi_source *s = NULL;
    bsi_buf b = {0};
    uint64_t offset = 0;
    bomsync_status st = bsi_source_open(&s, path, &so, err);
    for (bool at_end = false; !st && !at_end;) {
        size_t room = BSI_MAX(b.len, (size_t)BSI_READ_BYTES); /* a long line is not looked through again and again */
        bsi_buf_reserve(&b, room);
        ssize_t n = bsi_source_random(s) ? bsi_source_pread(s, b.data + b.len, room, offset, err) : bsi_source_read(s, b.data + b.len, room, err);
        if (n < 0) {
            st = err->status;
            break;
        }
        b.len += (size_t)n;
        offset += (uint64_t)n;
        at_end = n == 0;
        st = read_lines(&r, &b, at_end, err);
    }
    if (!st) st = bsi_source_settled(s, err);
    if (s) bsi_source_close(s);
    bsi_buf_free(&b);
    bsi_buf_free(&r.key);
    return st;
}
