/* parse/parse_layout.c - a header and the feed's columns to the map "column 4 feeds slot 2".
 *
 *   header   plant, id, exported, qty, note        key id,plant   ignore exported
 *   slot_of      1,  0,       -1,   2,    3        column_of 1, 0, 3, 4
 *
 * Everything is checked before the feed gets its new slots: a refused file leaves it as it was.
 *
 * The digest covers what turns bytes into fields of slots: dialect, null texts, and for each column its slot and name.
 * Of an ignored column only the place counts, so that it can be renamed freely. Slots that no column feeds follow from
 * the rest and are left out: a file keeps its digest when another file brings new columns.
 */
#include <stdio.h>
#include <stdlib.h>

#include "parse/parse_inner.h"

typedef struct request {
    const char *const *header;
    uint32_t column_count;
    const char *const *key;
    uint32_t key_count;
    const char *partition;
    const char *const *ignore;
    uint32_t ignore_count;
} request;

static bool among(const char *name, const char *const *list, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(name, list[i]) == 0) return true;
    return false;
}

/* Names sorted, to look up columns and slots: a transposed file has thousands of columns. */
typedef struct entry {
    const char *name;
    uint32_t index;
} entry;

static int by_name(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int d = strcmp(x->name, y->name);
    return d ? d : x->index < y->index ? -1 : x->index > y->index;
}

static entry *sorted(const char *const *names, uint32_t count) {
    entry *e = bsi_alloc((count + 1) * sizeof *e);
    for (uint32_t i = 0; i < count; i++) e[i] = (entry){names[i], i};
    bsi_sort(e, count, sizeof *e, by_name);
    return e;
}

static int32_t find(const entry *e, uint32_t count, const char *name) {
    uint32_t lo = 0, hi = count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (strcmp(e[mid].name, name) < 0) lo = mid + 1;
        else hi = mid;
    }
    return lo < count && strcmp(e[lo].name, name) == 0 ? (int32_t)e[lo].index : -1;
}

/* ---- what is wrong with a request ---- */

enum { DISTANCE_BYTES = 40, NEAREST = 6 };

static uint32_t distance(const char *a, const char *b) {
    size_t n = strnlen(a, DISTANCE_BYTES), m = strnlen(b, DISTANCE_BYTES);
    uint32_t row[DISTANCE_BYTES + 1];
    for (size_t j = 0; j <= m; j++) row[j] = (uint32_t)j;
    for (size_t i = 1; i <= n; i++) {
        uint32_t corner = row[0];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= m; j++) {
            uint32_t up = row[j], put = corner + ((a[i - 1] | 32) != (b[j - 1] | 32)); /* case hardly counts */
            put = BSI_MIN(put, BSI_MIN(up, row[j - 1]) + 1);
            corner = up;
            row[j] = put;
        }
    }
    return row[m];
}

static bomsync_status key_missing(const request *r, const char *name, bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "key column \"%.200s\" is not in the header", name);
    bsi_at(err, NULL, -1, -1, name, NULL, 0);
    uint8_t *told = bsi_calloc(r->column_count + 1, 1);
    bsi_buf hint = {0};
    bsi_buf_str(&hint, "the header has ");
    for (uint32_t k = 0; k < NEAREST && k < r->column_count; k++) {
        uint32_t best = UINT32_MAX, at = 0;
        for (uint32_t i = 0; i < r->column_count; i++) {
            uint32_t d = told[i] ? UINT32_MAX : distance(name, r->header[i]);
            if (d < best) {
                best = d;
                at = i;
            }
        }
        told[at] = 1;
        bsi_buf_addf(&hint, "%s\"%.30s\"", k ? ", " : "", r->header[at]);
    }
    if (r->column_count > NEAREST) bsi_buf_addf(&hint, " and %u more", (unsigned)(r->column_count - NEAREST));
    bsi_buf_byte(&hint, 0);
    bsi_hint(err, "%s", (const char *)hint.data);
    bsi_buf_free(&hint);
    free(told);
    return BOMSYNC_E_REFUSED;
}

static bomsync_status check_usage(const request *r, const bsi_slots *slots, bomsync_error *err) {
    for (uint32_t i = 0; i < r->key_count; i++) {
        if (among(r->key[i], r->key, i)) return bsi_fail(err, BOMSYNC_E_USAGE, "key column \"%.200s\" is named twice", r->key[i]);
        if (among(r->key[i], r->ignore, r->ignore_count))
            return bsi_fail(err, BOMSYNC_E_USAGE, "key column \"%.200s\" cannot be ignored", r->key[i]);
    }
    if (slots->count && r->key_count) {
        bool same = r->key_count == slots->key_count;
        for (uint32_t i = 0; same && i < r->key_count; i++) same = strcmp(r->key[i], slots->name[i]) == 0;
        if (!same) return bsi_fail(err, BOMSYNC_E_USAGE, "the key is not the one that the feed was made with");
    }
    if (!r->partition || among(r->partition, r->key, r->key_count)) return BOMSYNC_OK;
    if (slots->count && !r->key_count && among(r->partition, (const char *const *)slots->name, slots->key_count)) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_USAGE, "partition column \"%.200s\" is not a key column", r->partition);
    bsi_hint(err, "add it to --key");
    return BOMSYNC_E_USAGE;
}

static bomsync_status check_header(const request *r, const bsi_slots *slots, const entry *columns, bomsync_error *err) {
    if (r->column_count > BSI_COLUMNS_MAX) {
        bsi_fail(err, BOMSYNC_E_REFUSED, "the header has more than %d columns", BSI_COLUMNS_MAX);
        bsi_hint(err, "nothing was changed; check --delimiter");
        return BOMSYNC_E_REFUSED;
    }
    for (uint32_t i = 1; i < r->column_count; i++)
        if (strcmp(columns[i - 1].name, columns[i].name) == 0) {
            bsi_fail(err, BOMSYNC_E_REFUSED, "column \"%.200s\" stands twice in the header", columns[i].name);
            bsi_at(err, NULL, -1, -1, columns[i].name, NULL, 0);
            bsi_hint(err, "nothing was changed; each column needs a name of its own");
            return BOMSYNC_E_REFUSED;
        }
    uint32_t keys = slots->count ? slots->key_count : r->key_count;
    for (uint32_t i = 0; i < keys; i++) {
        const char *name = slots->count ? slots->name[i] : r->key[i];
        if (find(columns, r->column_count, name) < 0) return key_missing(r, name, err);
    }
    return BOMSYNC_OK;
}

/* ---- slots ---- */

static void slot_add(bsi_slots *s, const char *name) {
    s->name = bsi_realloc(s->name, (s->count + 1) * sizeof *s->name);
    s->name[s->count++] = bsi_strdup(name);
}

static void order_add(bsi_slots *s, uint32_t *used, uint32_t slot) { s->order[(*used)++] = slot; }

/* New slots for columns without one; the order of the first header is the feed's for ever. */
static void grow_slots(bsi_slots *slots, const request *r, int32_t *slot_of) {
    bool first = slots->count == 0;
    uint32_t before = slots->count;
    entry *known = sorted((const char *const *)slots->name, slots->count);
    if (first) {
        slots->partition = -1;
        slots->key_count = r->key_count;
        for (uint32_t k = 0; k < r->key_count; k++) {
            slot_add(slots, r->key[k]);
            if (r->partition && strcmp(r->partition, r->key[k]) == 0) slots->partition = (int32_t)k;
        }
    }
    entry *keys = sorted((const char *const *)slots->name, slots->key_count);
    entry *ignored = sorted(r->ignore, r->ignore_count);
    for (uint32_t c = 0; c < r->column_count; c++) {
        slot_of[c] = -1;
        if (find(ignored, r->ignore_count, r->header[c]) >= 0) continue;
        slot_of[c] = first ? find(keys, slots->key_count, r->header[c]) : find(known, before, r->header[c]);
        if (slot_of[c] >= 0) continue;
        slot_of[c] = (int32_t)slots->count;
        slot_add(slots, r->header[c]);
    }
    free(ignored);
    free(keys);
    free(known);
    slots->order = bsi_realloc(slots->order, (slots->count + 1) * sizeof *slots->order);
    uint32_t used = before;
    for (uint32_t c = 0; c < r->column_count; c++)
        if (slot_of[c] >= 0 && (first || slot_of[c] >= (int32_t)before)) order_add(slots, &used, (uint32_t)slot_of[c]);
}

void bsi_slots_free(bsi_slots *s) {
    for (uint32_t i = 0; i < s->count; i++) free(s->name[i]);
    free(s->name);
    free(s->order);
    *s = (bsi_slots){.partition = -1};
}

/* ---- the layout ---- */

static void sha_number(bsi_sha *s, uint64_t v) {
    uint8_t b[8];
    for (int i = 0; i < 8; i++) b[i] = (uint8_t)(v >> 8 * i);
    bsi_sha_add(s, b, sizeof b);
}

static void sha_text(bsi_sha *s, const char *t) {
    sha_number(s, strlen(t));
    bsi_sha_add(s, t, strlen(t));
}

static void take_digest(bsi_layout *l) {
    bsi_sha *s = bsi_sha_open();
    sha_text(s, "csv 1"); /* the way parse reads: a new number if it ever reads the same bytes otherwise */
    sha_number(s, BSI_CUT_RULE);
    sha_number(s, (uint8_t)l->dialect.delimiter);
    sha_number(s, (uint8_t)l->dialect.quote);
    sha_number(s, l->dialect.lenient);
    sha_number(s, l->key_count);
    sha_number(s, l->null_count);
    for (uint32_t i = 0; i < l->null_count; i++) sha_text(s, l->nulls[i]);
    sha_number(s, l->column_count);
    for (uint32_t c = 0; c < l->column_count; c++) {
        sha_number(s, (uint64_t)(int64_t)l->slot_of[c]);
        if (l->slot_of[c] >= 0) sha_text(s, l->column_name[c]);
    }
    bsi_sha_close(s, l->digest);
    l->mix = bsi_xxh128(l->digest, sizeof l->digest);
}

static void find_stretches(bsi_layout *l) {
    l->stretch = bsi_realloc(l->stretch, (l->slot_count + 1) * sizeof *l->stretch);
    l->stretch_count = 0;
    for (uint32_t s = 0; s < l->slot_count; s++) {
        if (l->column_of[s] < 0) continue;
        uint32_t c = (uint32_t)l->column_of[s];
        bsi_stretch *last = l->stretch_count ? &l->stretch[l->stretch_count - 1] : NULL;
        if (last && last->slot + last->count == s && last->column + last->count == c) last->count++;
        else l->stretch[l->stretch_count++] = (bsi_stretch){s, c, 1};
    }
}

void bsi_layout_widen(bsi_layout *l, const bsi_slots *slots) {
    l->slot_count = slots->count;
    l->column_of = bsi_realloc(l->column_of, (slots->count + 1) * sizeof *l->column_of);
    l->absent = bsi_realloc(l->absent, (slots->count + 1) * sizeof *l->absent);
    l->absent_count = 0;
    for (uint32_t i = 0; i < slots->count; i++) l->column_of[i] = -1;
    for (uint32_t c = 0; c < l->column_count; c++)
        if (l->slot_of[c] >= 0) l->column_of[l->slot_of[c]] = (int32_t)c;
    for (uint32_t i = 0; i < slots->count; i++)
        if (l->column_of[i] < 0) l->absent[l->absent_count++] = i;
    find_stretches(l);
}

bomsync_status bsi_layout_open(bsi_layout **out, bsi_slots *slots, const bsi_dialect *d, const char *const *header,
                               uint32_t column_count, const char *const *key, uint32_t key_count, const char *partition,
                               const char *const *ignore, uint32_t ignore_count, const char *const *nulls,
                               uint32_t null_count, bomsync_error *err) {
    request r = {header, column_count, key, key_count, partition, ignore, ignore_count};
    bomsync_status st = check_usage(&r, slots, err);
    if (st) return st;
    entry *columns = sorted(header, column_count);
    st = check_header(&r, slots, columns, err);
    free(columns);
    if (st) return st;
    bsi_layout *l = bsi_calloc(1, sizeof *l);
    l->dialect = *d;
    l->column_count = column_count;
    l->slot_of = bsi_alloc((column_count + 1) * sizeof *l->slot_of);
    grow_slots(slots, &r, l->slot_of);
    l->key_count = slots->key_count;
    l->partition = slots->partition;
    l->column_name = bsi_alloc((column_count + 1) * sizeof *l->column_name);
    for (uint32_t c = 0; c < column_count; c++) l->column_name[c] = bsi_strdup(header[c]);
    l->null_count = null_count;
    l->nulls = bsi_alloc((null_count + 1) * sizeof *l->nulls);
    l->null_bytes = bsi_alloc((null_count + 1) * sizeof *l->null_bytes);
    for (uint32_t i = 0; i < null_count; i++) {
        l->nulls[i] = bsi_strdup(nulls[i]);
        l->null_bytes[i] = (uint32_t)strlen(nulls[i]);
    }
    bsi_layout_widen(l, slots);
    take_digest(l);
    *out = l;
    return BOMSYNC_OK;
}

void bsi_layout_close(bsi_layout *l) {
    if (!l) return;
    for (uint32_t c = 0; c < l->column_count; c++) free(l->column_name[c]);
    for (uint32_t i = 0; i < l->null_count; i++) free(l->nulls[i]);
    free(l->column_name);
    free(l->slot_of);
    free(l->column_of);
    free(l->stretch);
    free(l->absent);
    free(l->nulls);
    free(l->null_bytes);
    free(l);
}
