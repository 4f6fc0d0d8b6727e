/* run/decide.c - approve, decline, revert: generations that no snapshot makes; and upkeep of the store.
 *
 * approve publishes held deletes from the store: their keys are found in the state, their blocks are written again
 * without them. revert takes the state list of an older generation as it is: nothing is written but the list and the
 * chunks that say what changed.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "core/vast.h"
#include "run/edit.h"
#include "run/manifest.h"
#include "run/query.h"
#include "run/repair.h"
#include "run/sync.h"

static bomsync_status clock_of(int64_t *t, const char *now, bomsync_error *err) {
    *t = (int64_t)time(NULL);
    if (now && !bsi_time_parse(now, t)) return bsi_fail(err, BOMSYNC_E_USAGE, "--now is no time: \"%s\"", now);
    return BOMSYNC_OK;
}

static bool same_digest(const char *asked, const uint8_t digest[32]) {
    char hex[65];
    bsi_hex(hex, digest, 32);
    size_t n = strlen(asked);
    return n >= 8 && n <= 64 && strncmp(hex, asked, n) == 0;
}

/* The one hold that a digest, or its first 8 or more digits, names. */
static bomsync_status pick_hold(bsi_hold **hold, bsi_hold *all, size_t count, const char *digest, bomsync_error *err) {
    *hold = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!same_digest(digest, all[i].digest)) continue;
        if (*hold && memcmp((*hold)->digest, all[i].digest, 32) != 0)
            return bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" names several holds; give more digits", digest);
        *hold = &all[i];
    }
    if (*hold && strcmp((*hold)->state, "approved") != 0) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_USAGE, *hold ? "the hold \"%s\" is approved already" : "there is no hold \"%s\"", digest);
    bsi_hint(err, "bomsync holds lists what waits");
    return BOMSYNC_E_USAGE;
}

typedef struct decision {
    bsi_store *store;
    bsi_feed *feed;
    bsi_generation *last, *g;
    bsi_kept_list kept;
    bsi_hold *hold;
    size_t hold_count;
    bsi_image image;
    bsi_ref *base;
    size_t base_count;
    int64_t now;
} decision;

static void decision_close(decision *d) {
    bsi_image_free(&d->image);
    bsi_generation_free(d->last);
    bsi_generation_free(d->g);
    bsi_kept_free(&d->kept);
    bsi_holds_free(d->hold, d->hold_count);
    if (d->feed) bsi_feed_free(d->feed);
    free(d->base);
    if (d->store) bsi_store_close(d->store);
}

static bomsync_status decision_open(decision *d, const char *store, const char *digest, const char *now, bsi_hold **hold, bomsync_error *err) {
    *d = (decision){0};
    bsi_hold *all = NULL;
    size_t count = 0;
    bomsync_status st = clock_of(&d->now, now, err);
    if (!st) st = bsi_store_open(&d->store, store, BSI_STORE_WRITE, 0, err);
    if (!st) st = bsi_store_holds(&all, &count, d->store, NULL, err);
    bsi_hold *found = NULL;
    if (!st) st = pick_hold(&found, all, count, digest, err);
    if (!st) st = bsi_store_feed(&d->feed, d->store, found->feed, err);
    if (!st) st = bsi_store_holds(&d->hold, &d->hold_count, d->store, found->feed, err);
    if (!st) st = bsi_store_kept(&d->kept, d->store, found->feed, err);
    for (size_t i = 0; i < d->hold_count && !st; i++)
        if (memcmp(d->hold[i].digest, found->digest, 32) == 0) *hold = &d->hold[i];
    bsi_holds_free(all, count);
    if (!st && !*hold) st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store is damaged: a hold is not among those of its feed");
    if (!st && d->feed->generation) st = bsi_store_generation_get(&d->last, d->store, d->feed->generation, err);
    if (!st && d->feed->image_list) st = bsi_store_image(&d->image, d->store, d->feed->image_list, err);
    if (!st && d->last) st = bsi_store_state(&d->base, &d->base_count, d->store, d->last->state_list, err);
    return st;
}

static void set_text(char **to, const char *text) {
    free(*to);
    *to = text ? bsi_strdup(text) : NULL;
}

static char *decision_json(const char *kind, const bsi_hold *h, const char *by, const char *why, int64_t generation) {
    bsi_buf b = {0};
    char hex[65];
    bsi_hex(hex, h->digest, 32);
    bsi_buf_addf(&b, "{\"decision\":\"%s\",\"digest\":\"%s\",\"feed\":", kind, hex);
    bsi_json_string(&b, h->feed, strlen(h->feed));
    bsi_buf_str(&b, ",\"partition\":");
    bsi_json_string(&b, h->partition, strlen(h->partition));
    bsi_buf_addf(&b, ",\"changes\":%" PRId64 ",\"by\":", h->changes);
    bsi_json_string(&b, by, strlen(by));
    bsi_buf_str(&b, ",\"why\":");
    bsi_json_string(&b, why, strlen(why));
    bsi_buf_addf(&b, ",\"generation\":%" PRId64 "}", generation);
    bsi_buf_byte(&b, 0);
    return (char *)b.data;
}

/* Places of the hold's keys in the state, ascending. */
static bomsync_status held_places(decision *d, const bsi_hold *h, uint64_t **place, size_t *count, bomsync_error *err) {
    uint64_t *kh = bsi_alloc(sizeof *kh * (d->kept.count + 1));
    size_t n = 0;
    bsi_kept_walk w = {.list = &d->kept};
    for (const bsi_kept *k; (k = bsi_kept_next(&w));)
        if (memcmp(k->hold, h->digest, 32) == 0) kh[n++] = k->kh;
    bsi_sort(kh, n, sizeof *kh, bsi_by_u64);
    *place = bsi_alloc(sizeof **place * (n + 1));
    *count = 0;
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < d->base_count && !st; i++) {
        bsi_block_rows r;
        st = bsi_store_rows(&r, d->store, d->base[i], err);
        for (uint32_t k = 0; k < r.count && !st && *count < n; k++)
            if (bsi_u64_has(kh, n, r.kh[k])) (*place)[(*count)++] = (uint64_t)i << 16 | k;
    }
    free(kh);
    return st;
}

static bomsync_status begin_generation(decision *d, const char *kind, bomsync_error *err) {
    bsi_generation *g = d->g = bsi_calloc(1, sizeof *g), *base = NULL;
    g->base = bsi_store_generation(d->store);
    g->number = g->base + 1;
    g->feed = bsi_strdup(d->feed->name);
    g->kind = bsi_strdup(kind);
    g->effective_time = g->committed_at = d->now;
    g->slot_count = d->feed->slots.count;
    memcpy(g->snapshot_digest, d->feed->last_snapshot_digest, 32);
    bomsync_status st = bsi_store_generation_get(&base, d->store, g->base, err);
    if (base) memcpy(g->base_digest, base->digest, 32);
    bsi_generation_free(base);
    return st;
}

/* The image stays, but entries whose state block was written again are no longer exact, and the new blocks are orphans. */
static bomsync_status publish_deletes(decision *d, const bsi_hold *h, const char *by, const char *why, uint64_t *place, size_t count,
                                      bomsync_error *err) {
    bsi_row_source was = {.store = d->store, .refs = d->base, .slot_count = d->feed->slots.count};
    bsi_row_reader r;
    bsi_row_reader_open(&r, &was);
    bsi_field *f = bsi_alloc(sizeof *f * d->feed->slots.count);
    bsi_parts parts = {0};
    bsi_item *item = bsi_alloc(sizeof *item * (count + 1));
    uint64_t *touched = bsi_alloc(sizeof *touched * (count + 1));
    size_t blocks = 0;
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; i < count && !st; i++) {
        st = bsi_row_fetch(f, &r, place[i], err);
        if (st) break;
        bsi_field p = bsi_change_partition(&d->feed->slots, f);
        item[i] = (bsi_item){.op = 'd', .was = place[i], .part = bsi_part_of(&parts, p.p, p.len)};
        if (!blocks || touched[blocks - 1] != place[i] >> 16) touched[blocks++] = place[i] >> 16;
    }
    bsi_row_reader_close(&r);
    free(f);
    int workers = bsi_usable_cores();
    bsi_generation *g = d->g;
    bsi_edit e = {.store = d->store, .slots = &d->feed->slots, .was = &was, .base = d->base, .base_count = d->base_count, .gone = place,
                  .gone_count = count, .touched = touched, .touched_count = blocks, .block_records = d->feed->block_size.records, .dictionary = d->feed->dictionary, .workers = workers};
    bsi_state_edit *edits = NULL;
    size_t edit_count = 0;
    if (!st) st = bsi_edit_run(&edits, &edit_count, &e, err);
    if (!st) {
        g->totals.deleted = (int64_t)count;
        g->totals.records = d->feed->records - (int64_t)count;
        bsi_items_sort(item, count, &parts);
        bsi_generation_partitions(g, d->last, item, count, &parts, NULL);
        st = bsi_send_chunks(d->store, g, item, count, &parts, &d->feed->slots, NULL, &was, workers, err);
    }
    bsi_generation_digest(g);
    if (!st) st = bsi_write_manifest(d->store, g, err);
    /* what waits is what other holds say, and open exceptions */
    bsi_kept_list kept = {0};
    bsi_kept_walk w = {.list = &d->kept};
    bsi_hold *hold = bsi_alloc(sizeof *hold * (d->hold_count + 1));
    size_t hold_count = 0;
    for (const bsi_kept *k; (k = bsi_kept_next(&w));)
        if (memcmp(k->hold, h->digest, 32) != 0) bsi_kept_put(&kept, k);
    for (size_t i = 0; i < d->hold_count; i++)
        if (memcmp(d->hold[i].digest, h->digest, 32) != 0) hold[hold_count++] = d->hold[i];
    bsi_ref_set replaced = {0}, covered = {0};
    for (size_t b = 0; b < blocks; b++) bsi_ref_add(&replaced, d->base[touched[b]]);
    bsi_image_edits image = {0};
    bsi_image_unexact(&image, &d->image, &replaced);
    bsi_image_edits_end(&image);
    size_t orphan_count;
    bsi_ref *orphan = bsi_orphans_after(&orphan_count, d->image.orphan, d->image.orphan_count, &replaced, e.loose, e.loose_count, &covered);
    d->feed->records = g->totals.records;
    char *journal = decision_json("approve", h, by, why, g->number);
    bsi_publish p = {.feed = d->feed, .generation = g, .state_edit = edits, .state_edit_count = edit_count, .edit_state = true,
                     .image_edit = image.edit, .image_edit_count = image.count, .edit_image = d->image.count > 0, .orphan = orphan, .orphan_count = orphan_count, .kept = &kept,
                     .set_kept = true, .holds = hold, .hold_count = hold_count, .set_holds = true, .journal_kind = "approve",
                     .journal_json = journal, .outbox = true};
    if (!st) st = bsi_store_publish(d->store, &p, err);
    free(journal);
    bsi_vast_free(replaced.slot);
    bsi_image_edits_free(&image);
    bsi_vast_free(orphan);
    bsi_kept_free(&kept);
    free(hold);
    bsi_state_edits_free(edits, edit_count);
    bsi_vast_free(e.loose);
    free(touched);
    free(item);
    bsi_parts_free(&parts);
    return st;
}

/* What is still open in the feed decides the exit code. */
static bomsync_status open_code(decision *d, const uint8_t *without) {
    bomsync_status st = bsi_kept_exceptions(&d->kept) ? BOMSYNC_EXCEPTIONS : BOMSYNC_OK;
    for (size_t i = 0; i < d->hold_count; i++)
        if (strcmp(d->hold[i].state, "held") == 0 && memcmp(d->hold[i].digest, without, 32) != 0) st = BOMSYNC_HELD;
    return st;
}

static void report(decision *d, const uint8_t *without, bomsync_result *result, bomsync_status st) {
    bsi_generation empty = {.feed = d->feed->name, .kind = (char *)(uintptr_t)"approve", .base = bsi_store_generation(d->store),
                            .effective_time = d->now};
    empty.totals.records = d->feed->records;
    bsi_generation *g = d->g ? d->g : &empty;
    g->exit_code = (int)st;
    char **digests = bsi_calloc(d->hold_count + 1, sizeof *digests);
    size_t n = 0;
    for (size_t i = 0; i < d->hold_count; i++) {
        if (strcmp(d->hold[i].state, "held") != 0 || (without && memcmp(d->hold[i].digest, without, 32) == 0)) continue;
        char hex[65];
        bsi_hex(hex, d->hold[i].digest, 32);
        digests[n++] = bsi_strdup(hex);
    }
    g->hold_digests = digests;
    g->hold_count = n;
    result->json = bsi_generation_json(g, false);
    result->text = bsi_generation_text(g, false);
    if (g == &empty) {
        for (size_t i = 0; i < n; i++) free(digests[i]);
        free(digests);
    }
}

static bomsync_status need_words(const char *by, const char *why, bomsync_error *err) {
    if (by && by[0] && why && why[0]) return BOMSYNC_OK;
    return bsi_fail(err, BOMSYNC_E_USAGE, "a decision needs --by WHO and --why TEXT: both go into the journal");
}

bomsync_status bomsync_approve(const char *store, const char *digest, const char *by, const char *why, const char *now, bomsync_result *result,
                               bomsync_error *err) {
    *result = (bomsync_result){0};
    decision d = {0};
    bsi_hold *h = NULL;
    bomsync_status st = need_words(by, why, err);
    if (!st) st = decision_open(&d, store, digest, now, &h, err);
    uint8_t decided[32] = {0};
    if (!st) memcpy(decided, h->digest, 32);
    if (!st && !h->partition[0]) { /* all held: the next sync of the same snapshot passes */
        memcpy(d.feed->approved_all, h->digest, 32);
        set_text(&h->state, "approved");
        set_text(&h->by, by);
        set_text(&h->why, why);
        char *journal = decision_json("approve", h, by, why, 0);
        bsi_publish p = {.feed = d.feed, .holds = d.hold, .hold_count = d.hold_count, .set_holds = true, .journal_kind = "approve", .journal_json = journal,
                         .at = d.now};
        st = bsi_store_publish(d.store, &p, err);
        free(journal);
    } else if (!st) {
        uint64_t *place = NULL;
        size_t count = 0;
        st = held_places(&d, h, &place, &count, err);
        if (!st && !count) st = bsi_fail(err, BOMSYNC_E_USAGE, "none of the held records is published any more");
        if (!st) st = begin_generation(&d, "approve", err);
        if (!st) st = publish_deletes(&d, h, by, why, place, count, err);
        free(place);
    }
    if (!st) {
        st = open_code(&d, decided);
        report(&d, decided, result, st);
    }
    decision_close(&d);
    return st;
}

bomsync_status bomsync_decline(const char *store, const char *digest, const char *by, const char *why, const char *now, bomsync_result *result,
                               bomsync_error *err) {
    *result = (bomsync_result){0};
    decision d = {0};
    bsi_hold *h = NULL;
    bomsync_status st = need_words(by, why, err);
    if (!st) st = decision_open(&d, store, digest, now, &h, err);
    if (!st) {
        set_text(&h->state, "declined");
        set_text(&h->by, by);
        set_text(&h->why, why);
        char *journal = decision_json("decline", h, by, why, 0);
        bsi_publish p = {.feed = d.feed, .holds = d.hold, .hold_count = d.hold_count, .set_holds = true, .journal_kind = "decline", .journal_json = journal,
                         .at = d.now};
        st = bsi_store_publish(d.store, &p, err);
        free(journal);
    }
    if (!st) {
        st = open_code(&d, h->digest);
        report(&d, NULL, result, st);
    }
    decision_close(&d);
    return st;
}

/* ---- revert ---- */

bomsync_status bomsync_revert(const char *store, const char *feed_name, int64_t generation, const char *now, bomsync_result *result,
                              bomsync_error *err) {
    *result = (bomsync_result){0};
    decision d = {0};
    bsi_ref *to = NULL;
    size_t to_count = 0, count = 0;
    bsi_item *item = NULL;
    bsi_parts parts = {0};
    bomsync_status st = clock_of(&d.now, now, err);
    if (!st) st = bsi_store_open(&d.store, store, BSI_STORE_WRITE, 0, err);
    if (!st && (generation < 0 || generation > bsi_store_generation(d.store)))
        st = bsi_fail(err, BOMSYNC_E_USAGE, "there is no generation %" PRId64, generation);
    if (!st) st = bsi_pick_feed(&d.feed, d.store, feed_name, err);
    if (!st) st = bsi_state_at(&d.base, &d.base_count, d.store, d.feed, -1, err);
    if (!st && generation) st = bsi_state_at(&to, &to_count, d.store, d.feed, generation, err);
    if (!st && d.feed->generation) st = bsi_store_generation_get(&d.last, d.store, d.feed->generation, err);
    int workers = bsi_usable_cores();
    if (!st) st = bsi_state_diff(&item, &count, d.store, &d.feed->slots, d.base, d.base_count, to, to_count, &parts, workers, err);
    if (!st && count) {
        st = begin_generation(&d, "revert", err);
        bsi_generation *g = d.g;
        memset(g->snapshot_digest, 0, 32);
        for (size_t i = 0; i < count; i++) {
            if (item[i].op == 'c') g->totals.created++;
            if (item[i].op == 'u') g->totals.updated++;
            if (item[i].op == 'd') g->totals.deleted++;
        }
        g->totals.records = d.feed->records + g->totals.created - g->totals.deleted;
        bsi_items_sort(item, count, &parts);
        bsi_generation_partitions(g, d.last, item, count, &parts, NULL);
        bsi_row_source a = {.store = d.store, .refs = d.base, .slot_count = d.feed->slots.count};
        bsi_row_source b = {.store = d.store, .refs = to, .slot_count = d.feed->slots.count};
        if (!st) st = bsi_send_chunks(d.store, g, item, count, &parts, &d.feed->slots, &b, &a, workers, err);
        bsi_generation_digest(g);
        if (!st) st = bsi_write_manifest(d.store, g, err);
        d.feed->records = g->totals.records;
        char *journal = bsi_format("{\"revert_to\":%" PRId64 ",\"generation\":%" PRId64 "}", generation, g->number);
        bsi_publish p = {.feed = d.feed, .generation = g, .state = to ? to : d.base, .state_count = to_count, .drop_image = true, .set_kept = true,
                         .set_holds = true, .journal_kind = "revert", .journal_json = journal, .outbox = true};
        if (!st) st = bsi_store_publish(d.store, &p, err);
        free(journal);
    }
    if (!st) report(&d, NULL, result, BOMSYNC_OK);
    free(to);
    free(item);
    bsi_parts_free(&parts);
    decision_close(&d);
    return st;
}

/* ---- upkeep ---- */

typedef struct found_run {
    bomsync_sink out;
    bool json;
    uint64_t count;
} found_run;

static void found(void *ctx, const char *line) {
    found_run *r = ctx;
    bsi_buf b = {0};
    if (r->json) {
        bsi_buf_str(&b, "{\"message_type\":\"fault\",\"message\":");
        bsi_json_string(&b, line, strlen(line));
        bsi_buf_str(&b, "}\n");
    } else {
        bsi_buf_addf(&b, "fault: %s\n", line);
    }
    r->out.write(r->out.ctx, b.data, b.len);
    r->count++;
    bsi_buf_free(&b);
}

/* What was mended is no fault any more; what could not be, verify counts. */
static void repaired(void *ctx, const char *line) {
    found_run *r = ctx;
    bsi_buf b = {0};
    if (r->json) {
        bsi_buf_str(&b, "{\"message_type\":\"repair\",\"message\":");
        bsi_json_string(&b, line, strlen(line));
        bsi_buf_str(&b, "}\n");
    } else {
        bsi_buf_addf(&b, "repair: %s\n", line);
    }
    r->out.write(r->out.ctx, b.data, b.len);
    bsi_buf_free(&b);
}

bomsync_status bomsync_verify(const char *store, bool repair, bool json, bomsync_sink out, bomsync_error *err) {
    bsi_store *s = NULL;
    found_run r = {.out = out, .json = json};
    bomsync_status st = bsi_store_open(&s, store, repair ? BSI_STORE_WRITE : BSI_STORE_READ, 0, err);
    if (!st && repair) st = bsi_repair_outbox(s, repaired, &r, err);
    if (!st) st = bsi_store_verify(s, repair, found, &r, err);
    if (!st) {
        char *text = json ? bsi_format("{\"message_type\":\"verify\",\"faults\":%" PRIu64 ",\"generation\":%" PRId64 "}\n", r.count, bsi_store_generation(s))
                          : bsi_format("%" PRIu64 " faults in %" PRId64 " generations\n", r.count, bsi_store_generation(s));
        st = bsi_put(out, text, strlen(text), err);
        free(text);
    }
    if (s) bsi_store_close(s);
    return st;
}

bomsync_status bomsync_backup(const char *store, const char *to, bomsync_error *err) {
    bsi_store *s = NULL;
    bomsync_status st = bsi_store_open(&s, store, BSI_STORE_READ, 0, err);
    if (!st) st = bsi_store_backup(s, to, err);
    if (s) bsi_store_close(s);
    return st;
}

bomsync_status bomsync_restore(const char *from, const char *to, bomsync_error *err) { return bsi_store_restore(from, to, err); }

bomsync_status bomsync_gc(const char *store, int64_t keep, bomsync_error *err) {
    bsi_store *s = NULL;
    if (keep < 1) return bsi_fail(err, BOMSYNC_E_USAGE, "--keep must be at least 1");
    bomsync_status st = bsi_store_open(&s, store, BSI_STORE_GC, 0, err);
    if (!st) st = bsi_store_gc(s, keep, err);
    if (s) bsi_store_close(s);
    return st;
}
