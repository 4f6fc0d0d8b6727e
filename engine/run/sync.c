/* run/sync.c - one sync: read, cut, match, parse, join, judge, publish.
 *
 *   open store and feed -> scan (blocks matched with the image) -> open blocks -> parse -> join -> classify
 *        -> guard -> state blocks, chunks -> one commit
 *
 * Each step is a function that takes the sync; the order of the refusals is the order of the steps, and nothing is
 * written that the commit does not make valid.
 */
#include "run/sync.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/limits.h"
#include "core/vast.h"
#include "run/manifest.h"

/* ---- the feed: as the store knows it, or new ---- */

static bool same_list(const char *const *a, size_t n, char *const *b, size_t m) {
    if (n != m) return false;
    for (size_t i = 0; i < n; i++)
        if (strcmp(a[i], b[i]) != 0) return false;
    return true;
}

static bomsync_status check_words(bsi_sync *s, bomsync_error *err) {
    const bomsync_sync_options *o = s->o;
    const bsi_slots *slots = &s->feed->slots;
    if (o->key_count && !same_list(o->key, o->key_count, slots->name, slots->key_count))
        return bsi_fail(err, BOMSYNC_E_USAGE, "--key differs from what feed \"%s\" was made with", s->feed_name);
    if (o->partition && (slots->partition < 0 || strcmp(slots->name[slots->partition], o->partition) != 0))
        return bsi_fail(err, BOMSYNC_E_USAGE, "--partition differs from what feed \"%s\" was made with", s->feed_name);
    if (o->ignore_given && !same_list(o->ignore, o->ignore_count, s->feed->ignore, s->feed->ignore_count))
        return bsi_fail(err, BOMSYNC_E_USAGE, "--ignore differs from what feed \"%s\" was made with", s->feed_name);
    return BOMSYNC_OK;
}

static bomsync_status open_feed(bsi_sync *s, bomsync_error *err) {
    bomsync_status st = bsi_store_feed(&s->feed, s->store, s->feed_name, err);
    if (st) return st;
    if (!s->feed) {
        if (!s->o->key_count) {
            bsi_fail(err, BOMSYNC_E_USAGE, "feed \"%s\" is new and needs --key", s->feed_name);
            bsi_hint(err, "name the key columns, e.g. --key plant,parent,child,pos");
            return BOMSYNC_E_USAGE;
        }
        s->new_feed = true;
        s->feed = bsi_calloc(1, sizeof *s->feed);
        s->feed->name = bsi_strdup(s->feed_name);
        s->feed->slots.partition = -1;
        s->feed->last_sequence = s->feed->last_as_of = -1;
        s->feed->ignore = bsi_calloc(s->o->ignore_count + 1, sizeof *s->feed->ignore);
        for (size_t i = 0; i < s->o->ignore_count; i++) s->feed->ignore[i] = bsi_strdup(s->o->ignore[i]);
        s->feed->ignore_count = (uint32_t)s->o->ignore_count;
        return BOMSYNC_OK;
    }
    s->slots_before = s->feed->slots.count;
    if (s->feed->slots.count) st = check_words(s, err);
    if (!st && s->feed->generation) st = bsi_store_generation_get(&s->last, s->store, s->feed->generation, err);
    if (!st) st = bsi_store_kept(&s->old_kept, s->store, s->feed_name, err);
    if (!st) st = bsi_store_holds(&s->old_hold, &s->old_hold_count, s->store, s->feed_name, err);
    return st;
}

/* A feed stays with the size that it was loaded with: behind each change, blocks of another one are not found until their cuts meet again. */
static void choose_block_size(bsi_sync *s) {
    bsi_block_size *stored = &s->feed->block_size;
    uint32_t asked = s->o->read.block_records;
    if (s->new_feed || (asked && asked != stored->records)) *stored = bsi_block_size_of(asked);
}

static bomsync_status open_snapshot(bsi_sync *s, char *const *paths, size_t n, bomsync_error *err) {
    const bomsync_sync_options *o = s->o;
    bsi_slots *slots = &s->feed->slots;
    const char **key = bsi_calloc(slots->key_count + o->key_count + 1, sizeof *key);
    uint32_t keys = slots->count ? slots->key_count : (uint32_t)o->key_count;
    for (uint32_t i = 0; i < keys; i++) key[i] = bsi_strdup(slots->count ? slots->name[i] : o->key[i]);
    char *partition = slots->count ? (slots->partition >= 0 ? bsi_strdup(slots->name[slots->partition]) : NULL)
                                   : (o->partition ? bsi_strdup(o->partition) : NULL);
    bomsync_status st = bsi_scan_open(&s->scan, paths, n, slots, &o->read, key, keys, partition, (const char *const *)s->feed->ignore,
                                      s->feed->ignore_count, s->workers, err);
    free(partition);
    for (uint32_t i = 0; i < keys; i++) free((char *)(uintptr_t)key[i]);
    free(key);
    return st;
}

/* ---- digest of what was read ---- */

static void snapshot_digest(bsi_sync *s) {
    static const uint8_t unknown[32];
    bool same = !s->scan.block_count && !s->scan.brief_count && s->scan.ascending && s->scan.run_count == 1 && s->scan.blocks == s->image.count && s->scan.file_count == 1 && !s->view;
    if (same && memcmp(s->feed->image_digest, unknown, 32) != 0) { /* kept only of snapshots in one file */
        memcpy(s->snapshot_digest, s->feed->image_digest, 32);
        return;
    }
    bsi_sha *h = bsi_sha_open();
    bsi_hash128 part[256];
    size_t n = 0;
    for (size_t f = 0; f < s->scan.file_count; f++)
        if (s->scan.file[f].layout) bsi_sha_add(h, s->scan.file[f].layout->digest, 32);
    bsi_image_walk w = {.image = &s->image};
    for (size_t i = 0; i < s->scan.run_count; i++) {
        const bsi_scan_run *r = &s->scan.run[i];
        for (uint64_t k = r->first; k < r->first + r->count; k++) {
            part[n++] = r->matched ? bsi_image_next(&w, k)->plain : s->scan.brief ? s->scan.brief[k].plain : s->scan.block[k].plain;
            if (n < 256) continue;
            bsi_sha_add(h, part, sizeof part);
            n = 0;
        }
    }
    bsi_sha_add(h, part, n * sizeof *part);
    bsi_sha_close(h, s->snapshot_digest);
}

/* It takes one core longer than the steps beside it take two: so it goes on while they do. Only the scan is read:
 * who changes that (opening twins, making entries of blocks) and who needs the digest end it first. */
static void *digest_thread(void *s) {
    snapshot_digest(s);
    return NULL;
}

static void start_digest(bsi_sync *s) {
    bool beside = s->scan.blocks > 10000 && s->workers > 1 && bsi_beside_start(&s->digest, digest_thread, s);
    if (!beside) snapshot_digest(s);
}

void bsi_sync_end_digest(bsi_sync *s) { bsi_beside_end(&s->digest); }

void bsi_sync_note_digest(bsi_sync *s, bsi_generation *g) {
    bsi_sync_end_digest(s);
    memcpy(g->snapshot_digest, s->snapshot_digest, 32);
    if (!s->all_held) memcpy(s->feed->last_snapshot_digest, s->snapshot_digest, 32);
}

/* ---- the report ---- */

static void fill_generation(bsi_sync *s, bsi_generation *g) {
    g->feed = bsi_strdup(s->feed_name);
    g->kind = bsi_strdup(s->o->baseline ? "baseline" : "sync");
    g->effective_time = s->effective_time;
    g->committed_at = s->clock;
    g->totals = s->t;
    g->file_count = s->scan.file_count;
    g->files = bsi_calloc(g->file_count + 1, sizeof *g->files);
    for (size_t i = 0; i < g->file_count; i++) {
        const char *path = bsi_source_path(s->scan.file[i].source), *slash = strrchr(path, '/');
        g->files[i] = (bsi_file_info){bsi_strdup(slash && slash[1] ? slash + 1 : path), bsi_source_raw_bytes(s->scan.file[i].source),
                                      s->scan.file[i].records};
    }
}

static void fill_holds(bsi_sync *s, bsi_generation *g) {
    g->hold_digests = bsi_calloc(s->hold_count + 1, sizeof *g->hold_digests);
    for (size_t i = 0; i < s->hold_count; i++) {
        if (strcmp(s->hold[i].state, "held") != 0) continue;
        char hex[65];
        bsi_hex(hex, s->hold[i].digest, 32);
        g->hold_digests[g->hold_count++] = bsi_strdup(hex);
    }
}

static void say(bomsync_sink talk, const char *text) {
    if (talk.write) talk.write(talk.ctx, text, strlen(text));
}

/* The exit code of the run: it stands in the generation too, so it must be known before the commit. */
static bomsync_status outcome(const bsi_sync *s, const bsi_generation *g) {
    if (g->hold_count) return BOMSYNC_HELD;
    if (s->exceptions || (s->all_held && bsi_kept_exceptions(&s->old_kept))) return BOMSYNC_EXCEPTIONS; /* those of before stay open */
    return (s->all_held || s->o->dry_run) && s->t.kept_back ? BOMSYNC_EXCEPTIONS : BOMSYNC_OK;
}

static bomsync_status finish(bsi_sync *s, bsi_generation *g, bomsync_result *result, bomsync_sink talk) {
    bomsync_status st = outcome(s, g);
    g->exit_code = (int)st;
    result->json = bsi_generation_json(g, false);
    result->text = bsi_generation_text(g, false);
    for (size_t i = 0; i < s->hold_count; i++) {
        if (strcmp(s->hold[i].state, "held") != 0) continue;
        char hex[65];
        bsi_hex(hex, s->hold[i].digest, 32);
        const char *why = strcmp(s->hold[i].rule, "no-evidence") == 0 ? "there is no evidence that the snapshot is complete (give --complete, --expect-records or --control)"
                                                                      : s->hold[i].rule;
        char *text = bsi_format("bomsync: held: %lld changes%s%s: %s\n  digest: %s\n  hint: bomsync approve %s --store %s --by WHO --why TEXT\n",
                                (long long)s->hold[i].changes, s->hold[i].partition[0] ? " of partition " : "", s->hold[i].partition, why, hex, hex,
                                s->o->store);
        say(talk, text);
        free(text);
    }
    if (s->o->explain) {
        char *stats = bsi_sync_stats(s, g);
        say(talk, stats);
        say(talk, "\n");
        free(stats);
    }
    return st;
}

/* ---- the steps ---- */

static bomsync_status options(bsi_sync *s, bomsync_error *err) {
    const bomsync_sync_options *o = s->o;
    const bomsync_read_options *r = &o->read;
    s->feed_name = o->feed ? o->feed : "default";
    s->workers = r->workers > 0 ? r->workers : bsi_usable_cores();
    if (s->workers > 64) s->workers = 64;
    if (r->block_records > BSI_BLOCK_RECORDS_MOST) return bsi_fail(err, BOMSYNC_E_USAGE, "--block-records must be 1 to 10000");
    s->memory_bytes = r->memory_bytes ? BSI_MAX(r->memory_bytes, (uint64_t)BSI_MEMORY_LEAST) : BSI_MEMORY_BYTES;
    const char *tiers = r->tiers ? r->tiers : "block,sequence,key";
    s->tier_block = strstr(tiers, "block") != NULL;
    s->tier_sequence = strstr(tiers, "sequence") != NULL;
    s->clock = (int64_t)time(NULL);
    if (o->now && !bsi_time_parse(o->now, &s->clock)) return bsi_fail(err, BOMSYNC_E_USAGE, "--now is no time: \"%s\"", o->now);
    s->effective_time = s->clock;
    if (o->codec && strcmp(o->codec, "auto") != 0 && strcmp(o->codec, "symbols") != 0 && strcmp(o->codec, "zstd") != 0)
        return bsi_fail(err, BOMSYNC_E_USAGE, "--codec must be auto, symbols or zstd");
    if (o->expect_records < -1) return bsi_fail(err, BOMSYNC_E_USAGE, "--expect-records must not be negative");
    return BOMSYNC_OK;
}

static bomsync_status diff_records(bsi_sync *s, bomsync_error *err) {
    int64_t t = bsi_now_ns();
    bomsync_status st = bsi_sync_open_blocks(s, err);
    if (!st) st = bsi_sync_parse(s, err);
    bsi_sync_stage_ends(s, BSI_SYNC_PARSE, &t);
    if (!st) st = bsi_sync_join(s, err);
    bsi_sync_stage_ends(s, BSI_SYNC_JOIN, &t);
    if (!st) st = bsi_sync_classify(s, err);
    bsi_sync_stage_ends(s, BSI_SYNC_CLASSIFY, &t);
    return st;
}

static bomsync_status guard(bsi_sync *s, bomsync_error *err) {
    bomsync_status st = bsi_sync_guard(s, err);
    return st == BOMSYNC_HELD ? BOMSYNC_OK : st;
}

static bool is_without(void *ctx, const bsi_amended *a, const bsi_early_block *e) {
    (void)ctx;
    (void)e;
    return a->gone != 0;
}

/* Blocks that were written with the scan are without all records that went with them. If some of these are withheld, such blocks are joined after
 * all. */
static bomsync_status judge(bsi_sync *s, bomsync_error *err) {
    bomsync_status st = guard(s, err);
    if (st || s->all_held || !s->t.deletes_held || !bsi_amend_give_up(s, is_without, NULL)) return st;
    bsi_sync_forget_guard(s);
    bsi_sync_forget_found(s);
    st = diff_records(s, err);
    return st ? st : guard(s, err);
}

static bomsync_status run(bsi_sync *s, bsi_generation *g, bomsync_error *err) {
    char **paths = NULL;
    size_t path_count = 0;
    bomsync_status st = bsi_source_paths(&paths, &path_count, s->o->snapshot, s->o->snapshot_count, err);
    if (!st) st = open_feed(s, err);
    if (!st) choose_block_size(s);
    /* a first load keeps no rows: its list of blocks may take more */
    bsi_vast_limit(s->memory_bytes / BSI_LISTS_SHARE * (s->last ? 2 : 3), s->last ? s->memory_bytes / 4 * 3 : 0, s->tmp);
    if (!st) st = open_snapshot(s, paths, path_count, err);
    if (!st) st = bsi_sync_evidence(s, paths, path_count, err);
    bsi_source_paths_free(paths, path_count);
    if (st) return st;
    int64_t t = bsi_now_ns();
    bsi_scan_start(&s->scan, s->tmp, s->feed->image_list && s->tier_block && !s->scope);
    if (s->feed->image_list) st = bsi_store_image(&s->image, s->store, s->feed->image_list, err);
    if (!st) st = bsi_sync_scope_open(s, err);
    if (st) return st;
    bsi_isa isa;
    st = bsi_isa_choose(&isa, s->o->read.isa ? s->o->read.isa : "auto", err);
    if (st) return st;
    snprintf(s->isa_name, sizeof s->isa_name, "%s", isa == BSI_ISA_AVX512 ? "avx512" : isa == BSI_ISA_AVX2 ? "avx2" : "scalar");
    bsi_scan_options so = {.read = &s->o->read, .isa = isa, .workers = s->workers, .block_size = s->feed->block_size, .tier_block = s->tier_block && (!s->scope || s->view),
                           .tier_sequence = s->tier_sequence, .secret = bsi_store_secret(s->store), .image = &s->image,
                           .mark = s->feed->mark, .mark_count = s->feed->mark_count, .image_digest = s->feed->image_digest, .store = s->store, .tmp = s->tmp,
                           .keep_stream_bytes = true, .streams_twice = true};
    static const uint8_t unknown[32];
    if (s->view) so.mark_count = 0, so.image_digest = unknown; /* they are of the whole image */
    st = bsi_reconcile_open(s, err);
    if (s->reconcile) {
        bsi_reconcile_scan(s, &so);
    } else if (!st) {
        bsi_sync_base_open(s);
        st = bsi_sync_early_open(s, &so, err);
    }
    if (!st) st = bsi_scan_blocks(&s->scan, &so, err);
    if (st) return st;
    for (size_t f = 0; f < s->scan.file_count; f++) s->t.records_in += s->scan.file[f].records;
    s->cache = bsi_block_cache_open(s->memory_bytes / 8);
    start_digest(s);
    bsi_sync_stage_ends(s, BSI_SYNC_READ, &t);
    st = bsi_sync_counts(s, err);
    if (!st) st = bsi_reconcile_run(s, err);
    bsi_sync_stage_ends(s, BSI_SYNC_JOIN, &t);
    if (!st) st = diff_records(s, err);
    t = bsi_now_ns();
    if (!st) st = judge(s, err);
    if (st) return st;
    bsi_order_of_rows(s);
    s->t.records = s->feed->records + s->t.created - s->t.deleted;
    if (s->all_held) s->t.unchanged = s->t.records_in - s->t.held - s->t.kept_back - s->t.duplicates;
    if (s->t.unchanged + s->t.created + s->t.updated + s->t.held + s->t.kept_back + s->t.duplicates != s->t.records_in || s->t.unchanged < 0)
        return bsi_fail(err, BOMSYNC_E_INTEGRITY, "the totals do not add up; nothing was changed");
    fill_generation(s, g);
    bsi_sync_stage_ends(s, BSI_SYNC_CLASSIFY, &t);
    return BOMSYNC_OK;
}

static bomsync_status publish(bsi_sync *s, bsi_generation *g, bomsync_error *err) {
    bool make = !s->all_held && s->t.created + s->t.updated + s->t.deleted > 0;
    g->base = bsi_store_generation(s->store);
    fill_holds(s, g);
    g->exit_code = (int)outcome(s, g);
    if (s->o->dry_run) bsi_sync_note_digest(s, g);
    if (s->o->dry_run) return BOMSYNC_OK;
    if (make) {
        g->number = g->base + 1;
        bsi_generation *base = NULL;
        bomsync_status st = bsi_store_generation_get(&base, s->store, g->base, err);
        if (st) return st;
        if (base) memcpy(g->base_digest, base->digest, 32);
        bsi_generation_free(base);
    }
    bsi_order_keep(s);
    if (!s->all_held) {
        s->feed->records = s->t.records;
        memset(s->feed->approved_all, 0, 32);
        if (s->sequence_given) s->feed->last_sequence = s->sequence;
        if (s->as_of_given) s->feed->last_as_of = s->as_of;
    }
    return bsi_sync_publish(s, g, err);
}

static void release(bsi_sync *s) {
    bsi_sync_end_digest(s); /* it reads what is freed here, */
    bsi_sync_ahead_end(s);  /* and so does this */
    bsi_sync_base_close(s);
    if (bsi_sync_leaves(s)) { /* the kernel frees at once what takes us call by call; what is left are readers and locks */
        bsi_store_leave(s->store);
        return;
    }
    bsi_sync_early_close(s);
    bsi_reconcile_close(s);
    bsi_sync_forget_found(s);
    bsi_sync_forget_guard(s);
    bsi_scan_close(&s->scan);
    bsi_image_free(&s->image);
    bsi_sync_scope_close(s);
    bsi_generation_free(s->last);
    if (s->feed) bsi_feed_free(s->feed);
    bsi_kept_free(&s->old_kept);
    bsi_sync_kept_index_close(s);
    bsi_vast_free(s->absent);
    bsi_holds_free(s->old_hold, s->old_hold_count);
    for (size_t i = 0; i < s->scope_count; i++) free(s->scope[i]);
    bsi_parts_free(&s->parts);
    bsi_parts_free(&s->block_parts);
    bsi_vast_free(s->block_part);
    bsi_block_cache_close(s->cache);
    bsi_vast_free(s->bad);
    free(s->scope);
    bsi_vast_free(s->row_base);
    bsi_amend_forget(s);
    bsi_vast_free(s->open_state);
    bsi_vast_free(s->first_ref);
    free(s->part_made);
    bsi_vast_free(s->base);
    free(s->tmp);
    if (s->store) bsi_store_close(s->store);
}

bomsync_status bomsync_sync(const bomsync_sync_options *o, bomsync_result *result, bomsync_sink talk, bomsync_error *err) {
    *result = (bomsync_result){0};
    bsi_sync s = {.o = o};
    bsi_generation *g = bsi_calloc(1, sizeof *g);
    bomsync_status st = options(&s, err);
    bsi_pool_open();
    bsi_memory_small();
    if (!st) bsi_store_expect(o->store);
    if (!st) st = bsi_store_open(&s.store, o->store, o->dry_run ? BSI_STORE_READ : BSI_STORE_WRITE, o->wait_seconds, err);
    if (!st) {
        s.tmp = o->read.tmp ? bsi_strdup(o->read.tmp) : o->dry_run ? bsi_strdup(bsi_temp_folder()) : bsi_format("%s/tmp", o->store);
        st = run(&s, g, err);
    }
    if (!st) st = publish(&s, g, err);
    if (!st) st = finish(&s, g, result, talk);
    bsi_generation_free(g);
    release(&s);
    if (bsi_sync_leaves(&s)) return st;
    bsi_pool_close();
    bsi_vast_limit(BSI_VAST_NO_LIMIT, 0, NULL);
    bsi_memory_large();
    return st;
}

void bomsync_result_free(bomsync_result *r) {
    free(r->json);
    free(r->text);
    *r = (bomsync_result){0};
}

const char *bomsync_version(void) { return BOMSYNC_VERSION; }
bomsync_status bomsync_init(const char *store, int shards, bomsync_error *err) { return bsi_store_create(store, shards, err); }
