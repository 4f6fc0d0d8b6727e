/* run/sync_guard.c - is this snapshot to be believed?
 *
 *   before reading   control file, scope, stale by sequence or as_of
 *   after reading    expected counts, trailers, file sizes and digests: wrong means refused (3)
 *   after the join   the guard's two degrees: all held (5, nothing made), deletes held (5, the rest goes on)
 */
#include "run/sync.h"

#include <jansson.h>
#include <stdlib.h>
#include <strings.h>

#include "core/vast.h"

/* ---- evidence ---- */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bomsync_status refuse(bomsync_error *err, const char *file, const char *hint, const char *fmt, const char *a, long long b,
                             long long c) {
    bsi_fail(err, BOMSYNC_E_REFUSED, fmt, a, b, c);
    bsi_at(err, file, -1, -1, NULL, NULL, 0);
    bsi_hint(err, "%s", hint);
    return BOMSYNC_E_REFUSED;
}

static const char ask_again[] = "nothing was changed; ask the source for the snapshot again";

static void add_scope(bsi_sync *s, const char *name, size_t n) {
    s->scope = bsi_realloc(s->scope, (s->scope_count + 1) * sizeof *s->scope);
    s->scope[s->scope_count++] = bsi_strndup(name, n);
}

static bomsync_status parse_scope(bsi_sync *s, const char *text, bomsync_error *err) {
    const char *eq = strchr(text, '=');
    const char *values = eq ? eq + 1 : text;
    if (s->feed->slots.partition < 0 && !(s->new_feed && s->o->partition))
        return bsi_fail(err, BOMSYNC_E_USAGE, "a scope needs a feed with a partition column");
    for (const char *p = values;; p++) {
        if (*p && *p != ',') continue;
        if (p > values) add_scope(s, values, (size_t)(p - values));
        if (!*p) break;
        values = p + 1;
    }
    if (!s->scope_count) return bsi_fail(err, BOMSYNC_E_USAGE, "--scope names no partition");
    return BOMSYNC_OK;
}

static bomsync_status digest_matches(const char *path, const char *sha, const char *xxh, bomsync_error *err) {
    bsi_buf b = {0};
    bomsync_status st = bsi_read_file(&b, path, SIZE_MAX / 2, err);
    char hex[65];
    if (!st && sha) {
        uint8_t d[32];
        bsi_sha_once(b.data, b.len, d);
        bsi_hex(hex, d, 32);
        if (strcasecmp(hex, sha) != 0) st = refuse(err, path, ask_again, "the file's %s differs from its control file", "SHA-256", 0, 0);
    }
    if (!st && xxh) {
        bsi_hash128_hex(hex, bsi_xxh128(b.data, b.len));
        if (strcasecmp(hex, xxh) != 0) st = refuse(err, path, ask_again, "the file's %s differs from its control file", "XXH3-128", 0, 0);
    }
    bsi_buf_free(&b);
    return st;
}

static bomsync_status control_file(bsi_sync *s, char *const *paths, size_t path_count, bomsync_error *err) {
    const char *path = s->o->control;
    json_error_t je;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!root || !json_is_object(root)) {
        bsi_fail(err, BOMSYNC_E_USAGE, "could not read control file: %s", root ? "it is not an object" : je.text);
        bsi_at(err, path, je.position, je.line, NULL, NULL, 0);
        json_decref(root);
        return BOMSYNC_E_USAGE;
    }
    bomsync_status st = BOMSYNC_OK;
    json_t *files = json_object_get(root, "files"), *f;
    size_t i;
    if (json_is_array(files)) {
        for (size_t p = 0; p < path_count && !st; p++) {
            bool listed = false;
            json_array_foreach(files, i, f) {
                const char *name = json_string_value(json_object_get(f, "name"));
                if (name && strcmp(base_name(name), base_name(paths[p])) == 0) listed = true;
            }
            if (!listed) st = refuse(err, paths[p], ask_again, "the control file does not list \"%s\"", base_name(paths[p]), 0, 0);
        }
        json_array_foreach(files, i, f) {
            if (st) break;
            const char *name = json_string_value(json_object_get(f, "name"));
            if (!name) {
                st = bsi_fail(err, BOMSYNC_E_USAGE, "a file of the control file has no name");
                break;
            }
            const char *found = NULL;
            for (size_t p = 0; p < path_count; p++)
                if (strcmp(base_name(name), base_name(paths[p])) == 0) found = paths[p];
            if (!found) {
                st = refuse(err, path, ask_again, "\"%s\" is listed in the control file and missing", name, 0, 0);
                break;
            }
            const char *sha = json_string_value(json_object_get(f, "sha256")), *xxh = json_string_value(json_object_get(f, "xxh3_128"));
            if ((sha || xxh) && strcmp(found, "-") != 0) st = digest_matches(found, sha, xxh, err);
        }
    }
    json_t *v;
    if (!s->sequence_given && json_is_integer(v = json_object_get(root, "sequence"))) {
        s->sequence = json_integer_value(v);
        s->sequence_given = true;
    }
    if (!st && !s->as_of_given && json_is_string(v = json_object_get(root, "as_of"))) {
        s->as_of_given = bsi_time_parse(json_string_value(v), &s->as_of);
        if (!s->as_of_given) st = bsi_fail(err, BOMSYNC_E_USAGE, "the control file's as_of is no time: \"%s\"", json_string_value(v));
        s->effective_time = s->as_of;
    }
    v = json_object_get(root, "scope");
    if (!st && json_is_string(v) && !s->scope) st = parse_scope(s, json_string_value(v), err);
    if (!st && json_is_array(v) && !s->scope) {
        json_array_foreach(v, i, f) {
            if (json_is_string(f)) add_scope(s, json_string_value(f), json_string_length(f));
        }
    }
    s->evidence = true;
    json_decref(root);
    return st;
}

bomsync_status bsi_sync_evidence(bsi_sync *s, char *const *paths, size_t path_count, bomsync_error *err) {
    const bomsync_sync_options *o = s->o;
    s->evidence = o->complete || o->expect_records >= 0;
    s->sequence_given = o->sequence >= 0;
    s->sequence = o->sequence;
    if (o->as_of) {
        if (!bsi_time_parse(o->as_of, &s->as_of)) return bsi_fail(err, BOMSYNC_E_USAGE, "--as-of is no time: \"%s\"", o->as_of);
        s->as_of_given = true;
        s->effective_time = s->as_of;
    }
    bomsync_status st = o->scope ? parse_scope(s, o->scope, err) : BOMSYNC_OK;
    if (!st && o->control) st = control_file(s, paths, path_count, err);
    if (st) return st;
    const char hint[] = "nothing was changed; a newer snapshot of this feed was taken before";
    if (s->sequence_given && s->feed->last_sequence >= 0 && s->sequence < s->feed->last_sequence)
        return refuse(err, paths[0], hint, "stale snapshot%s: its sequence is %lld, the feed's last was %lld", "", s->sequence,
                      s->feed->last_sequence);
    if (s->as_of_given && s->feed->last_as_of >= 0 && s->as_of < s->feed->last_as_of)
        return refuse(err, paths[0], hint, "stale snapshot%s: it is %lld s older than the feed's last", "",
                      s->feed->last_as_of - s->as_of, 0);
    return BOMSYNC_OK;
}

static bomsync_status control_counts(bsi_sync *s, bomsync_error *err) {
    json_t *root = json_load_file(s->o->control, 0, NULL), *f, *v;
    size_t i;
    bomsync_status st = BOMSYNC_OK;
    json_array_foreach(json_object_get(root, "files"), i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        for (size_t k = 0; k < s->scan.file_count && name && !st; k++) {
            bsi_scan_file *file = &s->scan.file[k];
            const char *path = bsi_source_path(file->source);
            if (strcmp(base_name(name), base_name(path)) != 0) continue;
            if (json_is_integer(v = json_object_get(f, "bytes")) && (uint64_t)json_integer_value(v) != bsi_source_raw_bytes(file->source))
                st = refuse(err, path, ask_again, "the file has %s%lld bytes, its control file says %lld", "",
                            (long long)bsi_source_raw_bytes(file->source), json_integer_value(v));
            if (!st && json_is_integer(v = json_object_get(f, "records")) && json_integer_value(v) != file->records)
                st = refuse(err, path, ask_again, "the file has %s%lld records, its control file says %lld", "", file->records,
                            json_integer_value(v));
        }
    }
    if (!st && json_is_integer(v = json_object_get(root, "records")) && json_integer_value(v) != s->t.records_in)
        st = refuse(err, s->o->control, ask_again, "the snapshot has %s%lld records, its control file says %lld", "", s->t.records_in,
                    json_integer_value(v));
    json_decref(root);
    return st;
}

bomsync_status bsi_sync_counts(bsi_sync *s, bomsync_error *err) {
    if (s->o->expect_records >= 0 && s->o->expect_records != s->t.records_in)
        return refuse(err, NULL, ask_again, "the snapshot has %s%lld records, %lld were expected", "", s->t.records_in,
                      s->o->expect_records);
    bool trailers = s->o->read.trailer != NULL;
    for (size_t f = 0; f < s->scan.file_count && s->o->read.trailer; f++) {
        int64_t count;
        if (!bsi_source_trailer(s->scan.file[f].source, &count)) {
            trailers = false;
            continue;
        }
        if (count < 0) continue;
        if (count != s->scan.file[f].records)
            return refuse(err, bsi_source_path(s->scan.file[f].source), ask_again, "the file has %s%lld records, its trailer says %lld",
                          "", s->scan.file[f].records, count);
    }
    if (trailers) s->evidence = true;
    return s->o->control ? control_counts(s, err) : BOMSYNC_OK;
}

/* ---- the guard ---- */

static int64_t base_of_part(const bsi_sync *s, uint32_t part) {
    if (!s->last) return 0;
    for (size_t i = 0; i < s->last->partition_count; i++)
        if (strcmp(s->last->partitions[i].name, s->parts.name[part]) == 0) return s->last->partitions[i].records;
    return 0;
}

static int64_t base_in_scope(const bsi_sync *s) {
    if (!s->scope) return s->feed->records;
    int64_t n = 0;
    for (size_t i = 0; s->last && i < s->last->partition_count; i++)
        for (size_t k = 0; k < s->scope_count; k++)
            if (strcmp(s->scope[k], s->last->partitions[i].name) == 0) n += s->last->partitions[i].records;
    return n;
}

static void hold_add(bsi_sync *s, const uint8_t digest[32], const char *partition, const char *rule, int64_t changes) {
    bsi_hold h = {.feed = bsi_strdup(s->feed_name), .partition = bsi_strdup(partition), .rule = bsi_strdup(rule), .changes = changes,
                  .since = s->effective_time, .state = bsi_strdup("held")};
    memcpy(h.digest, digest, 32);
    for (size_t i = 0; i < s->old_hold_count; i++) {
        const bsi_hold *o = &s->old_hold[i];
        if (memcmp(o->digest, digest, 32) != 0) continue;
        h.since = o->since;
        if (strcmp(o->state, "declined") == 0) {
            free(h.state);
            h.state = bsi_strdup("declined");
            h.by = o->by ? bsi_strdup(o->by) : NULL;
            h.why = o->why ? bsi_strdup(o->why) : NULL;
        }
    }
    s->hold = bsi_realloc(s->hold, (s->hold_count + 1) * sizeof *s->hold);
    s->hold[s->hold_count++] = h;
}

static bomsync_status all_held(bsi_sync *s, const char *rule) {
    uint8_t digest[32];
    bsi_sync_end_digest(s);
    bsi_sha *h = bsi_sha_open();
    bsi_sha_add(h, s->feed_name, strlen(s->feed_name) + 1);
    static const uint8_t none[32];
    bsi_sha_add(h, s->last ? s->last->digest : none, 32);
    bsi_sha_add(h, s->snapshot_digest, 32);
    bsi_sha_close(h, digest);
    if (s->t.records_in && memcmp(digest, s->feed->approved_all, 32) == 0) {
        s->all_held = false;
        return BOMSYNC_OK; /* the caller lets it through */
    }
    s->all_held = true;
    s->t.held = s->t.created + s->t.updated;
    s->t.deletes_held = s->t.deleted;
    hold_add(s, digest, "", rule, s->t.held + s->t.deletes_held);
    s->t.created = s->t.updated = s->t.deleted = s->t.schema_only = 0;
    return BOMSYNC_HELD;
}

typedef struct gone_key {
    const uint8_t *key; /* as a row image of the key slots alone */
    uint32_t bytes, part;
    size_t item;
    uint64_t kh;
} gone_key;

static int by_part_and_key(const void *a, const void *b) {
    const gone_key *x = a, *y = b;
    if (x->part != y->part) return x->part < y->part ? -1 : 1;
    int c = memcmp(x->key, y->key, BSI_MIN(x->bytes, y->bytes));
    return c ? c : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Keys of deletes, which may be a million. */
typedef struct gone_keys {
    gone_key *v; /* vast */
    size_t count, cap;
    bsi_arena bytes;
} gone_keys;

/* why: [parts] the rule that holds the deletes of each, NULL: none does. Partitions may be many, so their deletes are listed at once. */
static bomsync_status list_gone(gone_keys *g, bsi_sync *s, const char *const *why, bomsync_error *err) {
    bsi_row_source was = {.store = s->store, .refs = s->base, .slot_count = s->feed->slots.count};
    bsi_row_reader b;
    bsi_row_reader_open(&b, &was);
    uint32_t slots = s->feed->slots.count, keys = s->feed->slots.key_count;
    bsi_field *f = bsi_alloc(sizeof *f * slots);
    bsi_buf key = {0};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < s->item_count && !st; i++) {
        if (s->item[i].op != 'd' || !why[s->item[i].part]) continue;
        bsi_block_rows rows;
        uint32_t key_bytes;
        st = bsi_row_fetch(f, &b, s->item[i].was, err);
        if (!st) st = bsi_store_rows(&rows, s->store, s->base[s->item[i].was >> 16], err);
        if (st) break;
        key.len = 0;
        bsi_image_build(&key, f, keys, keys, &key_bytes);
        uint8_t *copy = bsi_arena_take(&g->bytes, key.len);
        memcpy(copy, key.data, key.len);
        if (g->count == g->cap) g->v = bsi_vast_realloc(g->v, (g->cap = g->cap ? g->cap * 2 : 16) * sizeof *g->v);
        g->v[g->count++] = (gone_key){.key = copy, .bytes = (uint32_t)key.len, .part = s->item[i].part, .item = i, .kh = rows.kh[s->item[i].was & 0xffff]};
    }
    bsi_sort(g->v, g->count, sizeof *g->v, by_part_and_key);
    bsi_buf_free(&key);
    free(f);
    bsi_row_reader_close(&b);
    return st;
}

/* Hold the deletes of one partition: they become kept, their items go. */
static void hold_part(bsi_sync *s, const gone_key *g, size_t count, const char *rule) {
    const char *name = s->parts.name[g->part];
    uint8_t digest[32];
    bsi_sha *h = bsi_sha_open();
    bsi_sha_add(h, s->feed_name, strlen(s->feed_name) + 1);
    bsi_sha_add(h, name, s->parts.len[g->part]);
    for (size_t i = 0; i < count; i++) bsi_sha_add(h, g[i].key, g[i].bytes);
    bsi_sha_close(h, digest);
    hold_add(s, digest, name, rule, (int64_t)count);
    for (size_t i = 0; i < count; i++) {
        bsi_kept k = {.kh = g[i].kh, .key_read = true, .rule = "held-delete", .byte = -1, .line = -1, .partition = name, .since = s->effective_time,
                      .slot_count = s->feed->slots.key_count, .image = g[i].key, .image_bytes = g[i].bytes, .body_bytes = g[i].bytes};
        memcpy(k.hold, digest, 32);
        bsi_sync_kept_add(s, &k);
        s->item[g[i].item].op = 0; /* held */
    }
    s->t.deletes_held += (int64_t)count;
    s->t.deleted -= (int64_t)count;
}

static bomsync_status hold_deletes(bsi_sync *s, const char *const *why, bomsync_error *err) {
    gone_keys g = {0};
    bomsync_status st = list_gone(&g, s, why, err);
    for (size_t from = 0, to; from < g.count && !st; from = to) {
        for (to = from + 1; to < g.count && g.v[to].part == g.v[from].part;) to++;
        hold_part(s, &g.v[from], to - from, why[g.v[from].part]);
    }
    bsi_vast_free(g.v);
    bsi_arena_free(&g.bytes);
    return st;
}

/* Keys that could not be read withhold the deletes of their partition, or all. */
static void blocked_parts(bsi_sync *s) {
    for (size_t i = 0; i < s->bad_count; i++) {
        const bsi_kept_row *k = &s->bad[i];
        bool known = k->key_read && ((s->fate[k->index] & BSI_FATE_MATCHED) || k->rule != BSI_RULE_COLUMNS);
        if (known || k->rule == BSI_RULE_UNFINISHED) continue;
        if (!k->partition_read || s->feed->slots.partition < 0) {
            s->all_blocked = true;
            continue;
        }
        uint32_t p = bsi_part_of(&s->parts, k->partition, strlen(k->partition));
        s->part_blocked = s->part_blocked ? s->part_blocked : bsi_calloc(s->parts.cap + s->bad_count + 1, 1);
        s->part_blocked[p] = true;
    }
}

void bsi_sync_forget_guard(bsi_sync *s) {
    bsi_kept_free(&s->kept);
    bsi_holds_free(s->hold, s->hold_count);
    free(s->part_blocked);
    s->hold = NULL;
    s->part_blocked = NULL;
    s->exceptions = s->hold_count = 0;
    s->all_blocked = false;
}

bomsync_status bsi_sync_guard(bsi_sync *s, bomsync_error *err) {
    int64_t base = base_in_scope(s);
    if (!s->t.records_in) return all_held(s, "no-records");
    if (!s->feed->records) return BOMSYNC_OK;
    bool full = !s->o->upsert;
    int64_t after = base + s->t.created - s->t.deleted;
    const char *rule = NULL;
    if (full && after * 10 < base * 9) rule = "count-drop";
    else if ((s->t.updated - s->t.schema_only) * 2 > base) rule = "mass-update";
    if (rule) {
        bomsync_status st = all_held(s, rule);
        return st; /* approved: everything goes */
    }
    if (!s->t.deleted) return BOMSYNC_OK;
    /* part_blocked is indexed by part: size it for all parts there are or will be */
    s->part_blocked = bsi_calloc((size_t)s->parts.count + s->bad_count + 1, 1);
    blocked_parts(s);
    uint32_t parts = s->parts.count;
    int64_t *gone = bsi_calloc(parts + 1, sizeof *gone), *made = bsi_calloc(parts + 1, sizeof *made);
    for (size_t i = 0; i < s->item_count; i++) {
        if (s->item[i].op == 'd') gone[s->item[i].part]++;
        if (s->item[i].op == 'c') made[s->item[i].part]++;
    }
    bool too_many = s->t.deleted > BSI_MAX((int64_t)50, base / 100);
    const char **why = bsi_calloc(parts + 1, sizeof *why);
    bool any = false;
    for (uint32_t p = 0; p < parts; p++) {
        if (!gone[p]) continue;
        int64_t part_base = base_of_part(s, p);
        if (!s->evidence) why[p] = "no-evidence";
        else if (too_many) why[p] = "delete-guard";
        else if (gone[p] > BSI_MAX((int64_t)50, part_base / 100) || (gone[p] >= part_base && !made[p])) why[p] = "partition-guard";
        else if (s->all_blocked || s->part_blocked[p]) why[p] = "key-unreadable";
        any |= why[p] != NULL;
    }
    bomsync_status st = any ? hold_deletes(s, why, err) : BOMSYNC_OK;
    free(why);
    free(gone);
    free(made);
    if (!st && s->t.deletes_held) { /* close ranks */
        size_t n = 0, d = 0;
        for (size_t i = 0; i < s->item_count; i++)
            if (s->item[i].op) s->item[n++] = s->item[i];
        s->item_count = n;
        for (size_t i = 0; i < n; i++)
            if (s->item[i].op == 'd') s->gone[d++] = s->item[i].was;
        s->gone_count = d;
    }
    return st;
}
