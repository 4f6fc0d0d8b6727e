/* gen.c - landscapes of manufacturing data: one folder of files for each snapshot, and what is true between two.
 *
 *     OUT/000/bom_line.csv item.csv ..  truth.json        step 0: everything
 *     OUT/001/bom_line.csv item.csv ..  truth.json        step 1: after the first mix of --change
 *
 * A step is generated from nothing but the options: for each record the state before the step and the state after it
 * are computed, the second is written, the two are counted against each other. So truth.json is the exact answer that
 * a comparison of the two folders must find, at no cost.
 *
 *     place --order--> index --> who it is --walk over steps--> old state, new state --> row, counts
 *
 * The order of the records is the natural one, or from the last "g" step on a permutation. A truncated step ("h")
 * keeps the places below a limit; the step after it is whole again. Lines that a step adds stand behind a line that
 * was there at the start, and move with it.
 */
#include "gen/gen_inner.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PROGRESS_NS 250000000
#define PROGRESS_ROWS 4096

typedef struct file {
    bsi_gen *g;
    size_t entity;
    uint64_t step;
    bsi_gen_column columns[BSI_GEN_COLUMNS_MAX];
    size_t column_count;
    unsigned groups;
    uint64_t seed, places, places_before;
    bsi_gen_order order, order_before;
    uint64_t limit, limit_before;
    bsi_gen_out *out;
    uint64_t records, creates, updates, deletes;
    bomsync_error *err;
} file;

typedef struct progress {
    bomsync_progress call;
    void *ctx;
    int64_t last_ns;
    uint64_t bytes, records;
} progress;

/* ---- columns of a file ---- */

static bool has_column(const bsi_gen *g, const bsi_gen_column *c) {
    if (!g->row_bytes) return !c->wide_only;
    return g->row_bytes >= c->min_row_bytes;
}

static void take_columns(file *f, bool key, size_t from, size_t to) {
    size_t at = 0;
    for (const bsi_gen_column *c = bsi_gen_entities[f->entity].columns; c->name; c++) {
        if (!has_column(f->g, c) || c->key != key) continue;
        if (at >= from && at < to) f->columns[f->column_count++] = *c;
        at++;
    }
}

static void columns_init(file *f) {
    const char *where = f->g->o->key_position;
    size_t attributes = 0;
    for (const bsi_gen_column *c = bsi_gen_entities[f->entity].columns; c->name; c++) {
        if (!has_column(f->g, c)) continue;
        attributes += !c->key;
        if (c->group) f->groups |= 1u << (c->group - 1);
    }
    size_t before = where && !strcmp(where, "last")     ? attributes
                    : where && !strcmp(where, "middle") ? attributes / 2
                                                        : 0;
    take_columns(f, false, 0, before);
    take_columns(f, true, 0, SIZE_MAX);
    take_columns(f, false, before, SIZE_MAX);
}

static uint8_t *put_header(const file *f, uint8_t *p) {
    for (size_t i = 0; i < f->column_count; i++) {
        bool quote = f->g->quoting == BSI_GEN_QUOTE_ALL;
        size_t n = strlen(f->columns[i].name);
        if (quote) *p++ = '"';
        memcpy(p, f->columns[i].name, n);
        p += n;
        if (quote) *p++ = '"';
        *p++ = (uint8_t)f->g->delimiter;
    }
    p[-1] = '\n';
    return p;
}

static uint8_t *put_row(const file *f, uint8_t *p, const bsi_gen_row *r) {
    uint8_t delimiter = (uint8_t)f->g->delimiter;
    bool quote = f->g->quoting == BSI_GEN_QUOTE_ALL;
    for (size_t i = 0; i < f->column_count; i++) {
        if (quote) *p++ = '"';
        p = f->columns[i].put(p, r);
        if (quote) *p++ = '"';
        *p++ = delimiter;
    }
    p[-1] = '\n';
    return p;
}

/* ---- records ---- */

static bsi_gen_who who_of(const file *f, const bsi_gen_row *r) {
    return (bsi_gen_who){.id = r->id,
                         .cluster = r->cluster,
                         .born = r->born,
                         .can = bsi_gen_entities[f->entity].can,
                         .groups = f->groups};
}

static void count(file *f, bool old_in, bool new_in, const bsi_gen_state *old, const bsi_gen_state *new) {
    f->records += new_in;
    if (old_in && new_in && old->rekeyed == new->rekeyed) {
        f->updates += memcmp(old->n, new->n, sizeof old->n) != 0;
        return;
    }
    f->deletes += old_in;
    f->creates += new_in;
}

/* One record before and after the step: counted, and written if it is there. */
static bomsync_status record(file *f, bsi_gen_row *r, bool in, bool in_before) {
    const bsi_gen_who who = who_of(f, r);
    bsi_gen_state old = {.alive = r->born < f->step || !f->step}, new = {0};
    for (uint64_t t = r->born + 1; t < f->step; t++) bsi_gen_step_apply(&old, &f->g->steps[t], t, &who);
    if (r->born == f->step)
        new.alive = true;
    else
        new = old;
    if (r->born < f->step) bsi_gen_step_apply(&new, &f->g->steps[f->step], f->step, &who);
    bool new_in = in && new.alive;
    count(f, f->step && in_before && old.alive, new_in, &old, &new);
    if (!new_in) return BOMSYNC_OK;
    r->state = new;
    return bsi_gen_out_commit(f->out, put_row(f, bsi_gen_out_row(f->out), r), f->err);
}

/* ---- flat files ---- */

static uint64_t places_after(const bsi_gen *g, size_t entity, uint64_t step) {
    uint64_t n = bsi_gen_base_count(g, entity);
    for (uint64_t t = 1; t <= step; t++) n += bsi_gen_added_count(g, entity, t);
    return n;
}

static uint32_t born_of(const file *f, uint64_t index) {
    uint64_t n = bsi_gen_base_count(f->g, f->entity);
    uint32_t t = 0;
    while (index >= n) n += bsi_gen_added_count(f->g, f->entity, ++t);
    return t;
}

static bomsync_status flat_record(file *f, uint64_t place) {
    uint64_t index = bsi_gen_order_at(&f->order, place);
    bsi_gen_row r = {.g = f->g, .index = index, .id = bsi_gen_hash(f->seed, index)};
    r.cluster = bsi_gen_hash(f->seed ^ 0x636c, index / BSI_GEN_CLUSTER);
    r.born = born_of(f, index);
    if (f->entity == bsi_gen_bom_header()) r.header = bsi_gen_header_index(&f->g->shape, index);
    return record(f, &r, place < f->limit, bsi_gen_order_place(&f->order_before, index) < f->limit_before);
}

/* ---- bom_line ---- */

typedef struct cursor {
    bsi_gen_header header;
    uint64_t plant, line;
} cursor;

/* The header of a line; lines asked for in natural order cost nothing. */
static void seek(const file *f, cursor *c, uint64_t line) {
    const bsi_gen_shape *s = &f->g->shape;
    if (f->order.n) {
        c->header = bsi_gen_header_of_line(s, line);
        return;
    }
    if (line == 0) {
        c->header = bsi_gen_header_at(s, 0, 0);
        return;
    }
    bsi_gen_header *h = &c->header;
    if (line < h->first_line + h->fan) return;
    uint64_t first = h->first_line + h->fan, next = h->index + 1;
    uint64_t plant = next == s->plant[h->plant + 1].first_header ? h->plant + 1 : h->plant;
    *h = bsi_gen_header_at(s, plant, next - s->plant[plant].first_header);
    h->first_line = first;
}

static bomsync_status bom_lines_at(file *f, cursor *c, uint64_t place) {
    uint64_t line = bsi_gen_order_at(&f->order, place);
    seek(f, c, line);
    bool in = place < f->limit, in_before = bsi_gen_order_place(&f->order_before, line) < f->limit_before;
    bsi_gen_row r = {.g = f->g, .index = line, .header = c->header, .slot = line - c->header.first_line};
    r.cluster = bsi_gen_hash(f->seed ^ 0x636c, c->header.index);
    r.id = bsi_gen_hash(r.cluster, r.slot);
    const bsi_gen_who who = who_of(f, &r);
    bomsync_status status = record(f, &r, in, in_before);
    for (uint64_t t = 1; t <= f->step && !status; t++) {
        if (!bsi_gen_step_adds(&f->g->steps[t], t, &who)) continue;
        bsi_gen_row added = r;
        added.id = bsi_gen_hash(who.id, t);
        added.born = (uint32_t)t;
        status = record(f, &added, in, in_before);
    }
    return status;
}

/* ---- one file ---- */

static bsi_gen_order order_after(const file *f, uint64_t step) {
    bsi_gen_order order = {0};
    for (uint64_t t = step; t > 0; t--) {
        if (f->g->steps[t].mix != 'g') continue;
        bsi_gen_order_init(&order, places_after(f->g, f->entity, t), bsi_gen_hash(f->seed, t));
        break;
    }
    return order;
}

static uint64_t limit_after(const file *f, uint64_t step, uint64_t places) {
    const bsi_gen_step *s = &f->g->steps[step];
    if (s->mix != 'h') return UINT64_MAX;
    return BSI_MAX((uint64_t)((double)places * s->rate / 100), 1u); /* a single record stays */
}

static void order_init(file *f) {
    uint64_t before = f->step ? f->step - 1 : 0;
    f->places = places_after(f->g, f->entity, f->step);
    f->order = order_after(f, f->step);
    f->limit = limit_after(f, f->step, f->places);
    f->limit_before = limit_after(f, before, places_after(f->g, f->entity, before));
    f->order_before = f->limit_before == UINT64_MAX ? (bsi_gen_order){0} : order_after(f, before);
    if (f->entity == bsi_gen_bom_line() && f->order.n) bsi_gen_shape_sample(&f->g->shape);
}

static void tell(progress *p, const file *f, uint64_t place) {
    if (!p->call || place % PROGRESS_ROWS) return;
    int64_t now = bsi_now_ns();
    if (now - p->last_ns < PROGRESS_NS) return;
    p->last_ns = now;
    p->call(p->ctx, "gen", p->bytes + bsi_gen_out_content(f->out), 0, p->records + f->records);
}

static bomsync_status write_rows(file *f, progress *p) {
    cursor c = {0};
    bool lines = f->entity == bsi_gen_bom_line();
    bomsync_status status = bsi_gen_out_commit(f->out, put_header(f, bsi_gen_out_row(f->out)), f->err);
    for (uint64_t place = 0; place < f->places && !status; place++) {
        status = lines ? bom_lines_at(f, &c, place) : flat_record(f, place);
        tell(p, f, place);
    }
    return status;
}

static char *file_name(const bsi_gen *g, size_t entity) {
    const char *pack = g->o->compress;
    return bsi_format("%s.%s%s", bsi_gen_entities[entity].name, g->delimiter == '\t' ? "tsv" : "csv",
                      !pack                   ? ""
                      : !strcmp(pack, "gzip") ? ".gz"
                                              : ".zst");
}

static void add_truth(bsi_buf *truth, const file *f, const char *name, uint64_t content, uint64_t written) {
    bsi_buf_addf(truth, "\"%s\":{\"entity\":\"%s\",\"key\":[", name, bsi_gen_entities[f->entity].name);
    bool first = true;
    for (size_t i = 0; i < f->column_count; i++) {
        if (!f->columns[i].key) continue;
        bsi_buf_addf(truth, "%s\"%s\"", first ? "" : ",", f->columns[i].name);
        first = false;
    }
    bsi_buf_addf(truth, "],\"records\":%llu,\"creates\":%llu,\"updates\":%llu,\"deletes\":%llu",
                 (unsigned long long)f->records, (unsigned long long)f->creates, (unsigned long long)f->updates,
                 (unsigned long long)f->deletes);
    bsi_buf_addf(truth, ",\"bytes\":%llu,\"content_bytes\":%llu}", (unsigned long long)written,
                 (unsigned long long)content);
}

static bomsync_status write_file(bsi_gen *g, const char *folder, size_t entity, uint64_t step, bsi_buf *truth,
                                 progress *p, bomsync_error *err) {
    file f = {.g = g, .entity = entity, .step = step, .err = err};
    f.seed = bsi_gen_hash(g->shape.seed, 1000 + entity);
    columns_init(&f);
    order_init(&f);
    char *name = file_name(g, entity), *path = bsi_format("%s/%s", folder, name);
    uint64_t content = 0, written = 0;
    bomsync_status status =
        bsi_gen_out_open(&f.out, path, g->o->compress, (size_t)g->row_bytes + BSI_GEN_ROW_EXTRA, err);
    if (!status) {
        status = write_rows(&f, p);
        bomsync_status closed = bsi_gen_out_close(f.out, &content, &written, status != BOMSYNC_OK, err);
        if (!status) status = closed;
    }
    if (!status) add_truth(truth, &f, name, content, written);
    p->bytes += content;
    p->records += f.records;
    free(name);
    free(path);
    return status;
}

/* ---- one snapshot ---- */

static bool wants(const bomsync_gen_options *o, const char *entity) {
    if (!o->entities) return true;
    size_t n = strlen(entity);
    for (const char *p = o->entities; *p; p += *p == ',') {
        size_t len = strcspn(p, ",");
        if (len == n && !memcmp(p, entity, n)) return true;
        p += len;
    }
    return false;
}

static void truth_begin(bsi_buf *truth, const bsi_gen *g, uint64_t step) {
    const bsi_gen_step *s = &g->steps[step];
    bsi_buf_addf(truth, "{\"step\":%llu,\"change\":", (unsigned long long)step);
    if (step)
        bsi_buf_addf(truth, "\"%c=%g\"", s->mix, s->rate);
    else
        bsi_buf_str(truth, "null");
    bsi_buf_str(truth, ",\"files\":{");
}

static bomsync_status write_step(bsi_gen *g, uint64_t step, progress *p, bomsync_error *err) {
    char *folder = bsi_format("%s/%03llu", g->o->out, (unsigned long long)step);
    bsi_buf truth = {0};
    truth_begin(&truth, g, step);
    bomsync_status status = bsi_mkdirs(folder, err);
    bool first = true;
    for (size_t e = 0; e < bsi_gen_entity_count && !status; e++) {
        if (!wants(g->o, bsi_gen_entities[e].name)) continue;
        if (!first) bsi_buf_byte(&truth, ',');
        first = false;
        status = write_file(g, folder, e, step, &truth, p, err);
    }
    bsi_buf_str(&truth, "}}\n");
    if (!status) {
        char *path = bsi_format("%s/truth.json", folder);
        status = bsi_write_file(path, truth.data, truth.len, err);
        free(path);
    }
    bsi_buf_free(&truth);
    free(folder);
    return status;
}

/* ---- options ---- */

/* index of value in names, 0 for NULL, -1 if it is none of them */
static int choice(const char *value, const char *const *names) {
    if (!value) return 0;
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], value)) return i;
    return -1;
}

static bomsync_status check_choice(const char *option, const char *value, const char *const *names, int *out,
                                   bomsync_error *err) {
    *out = choice(value, names);
    if (*out >= 0) return BOMSYNC_OK;
    return bsi_fail(err, BOMSYNC_E_USAGE, "cannot read --%s \"%.60s\"", option, value);
}

static bomsync_status check_entities(const bomsync_gen_options *o, bomsync_error *err) {
    if (!o->entities) return BOMSYNC_OK;
    for (const char *p = o->entities;;) {
        size_t len = strcspn(p, ",");
        bool known = false;
        for (size_t e = 0; e < bsi_gen_entity_count; e++)
            known |= strlen(bsi_gen_entities[e].name) == len && !memcmp(bsi_gen_entities[e].name, p, len);
        if (!known) {
            bsi_fail(err, BOMSYNC_E_USAGE, "cannot generate entity \"%.*s\"", (int)BSI_MIN(len, (size_t)60), p);
            bsi_hint(err, "plant, item, item_plant, supplier, sourcing_rule, price_break, catalog_item, bom_header, "
                          "bom_line, change_order, procurement_document");
            return BOMSYNC_E_USAGE;
        }
        if (!p[len]) return BOMSYNC_OK;
        p += len + 1;
    }
}

static bomsync_status check_options(bsi_gen *g, const bomsync_gen_options *o, bomsync_error *err) {
    static const char *const positions[] = {"first", "middle", "last", NULL};
    static const char *const quotings[] = {"minimal", "all", "inch", "newlines", NULL};
    static const char *const formats[] = {"csv", "tsv", NULL};
    static const char *const packs[] = {"zstd", "zstd-frames", "gzip", NULL};
    int unused, format = 0;
    if (!o->out || !*o->out) return bsi_fail(err, BOMSYNC_E_USAGE, "cannot generate without a folder; see --out");
    bomsync_status status = check_choice("key-position", o->key_position, positions, &unused, err);
    if (!status) status = check_choice("quoting", o->quoting, quotings, &g->quoting, err);
    if (!status) status = check_choice("format", o->format, formats, &format, err);
    if (!status) status = check_choice("compress", o->compress, packs, &unused, err);
    if (!status) status = check_entities(o, err);
    if (!status && (o->row_bytes < 0 || o->row_bytes > 1000000))
        status =
            bsi_fail(err, BOMSYNC_E_USAGE, "cannot make rows of %d bytes; 1 to 1,000,000 are possible", o->row_bytes);
    g->o = o;
    g->delimiter = format ? '\t' : ',';
    g->row_bytes = o->row_bytes;
    return status;
}

/* A folder that holds anything is refused: a second series among the files of a first would be a mix of both. */
static bomsync_status open_folder(const char *path, bomsync_error *err) {
    DIR *d = opendir(path);
    if (!d && errno != ENOENT)
        return bsi_fail(err, BOMSYNC_E_USAGE, "cannot use \"%.400s\" as a folder: %s", path, strerror(errno));
    if (!d) return bsi_mkdirs(path, err);
    bool empty = true;
    for (struct dirent *e; empty && (e = readdir(d));) empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    closedir(d);
    if (empty) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_USAGE, "cannot generate into \"%.400s\": the folder is not empty", path);
    bsi_hint(err, "name a new folder, or remove this one");
    return BOMSYNC_E_USAGE;
}

bomsync_status bomsync_gen(const bomsync_gen_options *o, bomsync_progress call, void *progress_ctx,
                           bomsync_error *err) {
    bsi_gen *g = bsi_calloc(1, sizeof *g);
    progress p = {.call = call, .ctx = progress_ctx, .last_ns = bsi_now_ns()};
    bomsync_status status = check_options(g, o, err);
    if (!status) status = bsi_gen_steps_parse(g->steps, &g->step_count, o->change, o->cluster, err);
    if (!status) status = bsi_gen_shape_init(&g->shape, o, err);
    if (!status) status = open_folder(o->out, err);
    if (!status) {
        bsi_gen_words_init(g);
        bsi_gen_orders_init(g);
    }
    for (uint64_t step = 0; step <= g->step_count && !status; step++) status = write_step(g, step, &p, err);
    bsi_gen_shape_release(&g->shape);
    free(g->pool);
    free(g);
    return status;
}
