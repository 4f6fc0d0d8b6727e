/* cli_actions.c - turns the arguments of a command into one call of the public API.
 *
 * Checks here are those that need two arguments at once; what one argument may be stands in the option table, and what
 * the store or the snapshot must say about it is the engine's to judge.
 */
#include "cli_actions.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARDS 8 /* what init makes without --shards */

static bomsync_status put(bsi_cli_io *io, const char *text, size_t n) {
    return n && io->out.write(io->out.ctx, text, n) ? BOMSYNC_E_USAGE : BOMSYNC_OK;
}

/* ---- options that several commands share ---- */

static const char *const *strings(const bsi_cli_list *list) {
    return (const char *const *)list->item;
}

static bomsync_status reading(bomsync_read_options *r, const bsi_cli_args *a, const bsi_cli_io *io,
                              bomsync_error *err) {
    *r = (bomsync_read_options){
        .delimiter = a->delimiter,
        .quote = a->quote,
        .lenient = a->quotes && strcmp(a->quotes, "lenient") == 0,
        .encoding = a->encoding,
        .nulls = strings(&a->nulls),
        .null_count = a->nulls.count,
        .trailer = a->trailer,
        .workers = (int)a->workers,
        .memory_bytes = a->memory_bytes,
        .tmp = a->tmp,
        .block_records = (uint32_t)a->block_records,
        .tiers = a->tiers,
        .io = a->io,
        .isa = a->isa,
        .verify_pack = a->verify_pack,
        .progress = io->progress,
    };
    char quote = a->quote ? a->quote : '"';
    if (a->delimiter == quote)
        return bsi_cli_usage(err, "give another --delimiter or --quote", "delimiter and quote are both \"%c\"", quote);
    return BOMSYNC_OK;
}

/* stdin can be read once. */
static bomsync_status one_stdin(const bsi_cli_args *a, bomsync_error *err) {
    size_t count = 0;
    for (size_t i = 0; i < a->word_count; i++) count += strcmp(a->word[i], "-") == 0;
    return count > 1 ? bsi_cli_usage(err, "put one of them into a file", "\"-\" (stdin) stands twice") : BOMSYNC_OK;
}

static bomsync_status generation_word(int64_t *out, const bsi_cli_args *a, size_t i, bomsync_error *err) {
    *out = -1; /* the newest */
    return i < a->word_count ? bsi_cli_args_generation(out, a->word[i], "generation", err) : BOMSYNC_OK;
}

/* The figures of a run go out whenever it ended well enough to have some; a fault is told by the error alone. */
static bomsync_status print_result(const bsi_cli_args *a, bsi_cli_io *io, bomsync_result *result,
                                   bomsync_status status) {
    bool ended_well = status == BOMSYNC_OK || status == BOMSYNC_EXCEPTIONS || status == BOMSYNC_HELD;
    const char *text = a->json ? result->json : result->text;
    bomsync_status printed = BOMSYNC_OK;
    if (text && *text && ended_well) {
        size_t n = strlen(text);
        printed = put(io, text, n);
        if (!printed && text[n - 1] != '\n') printed = put(io, "\n", 1);
    }
    bomsync_result_free(result);
    return printed ? printed : status;
}

/* ---- snapshots without a store ---- */

bomsync_status bsi_cli_diff(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_diff_options o = {.old_path = a->word[0],
                              .new_path = a->word[1],
                              .key = a->key.given ? strings(&a->key) : NULL,
                              .key_count = a->key.count,
                              .ignore = strings(&a->ignore),
                              .ignore_count = a->ignore.count,
                              .format = a->format};
    bomsync_status status = reading(&o.read, a, io, err);
    if (!status) status = one_stdin(a, err);
    return status ? status : bomsync_diff(&o, io->out, io->talk, a->json, err);
}

bomsync_status bsi_cli_apply(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_read_options read;
    bomsync_status status = reading(&read, a, io, err);
    if (!status) status = one_stdin(a, err);
    return status ? status : bomsync_apply(a->word[0], a->word + 1, a->word_count - 1, &read, io->out, err);
}

bomsync_status bsi_cli_pack(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_pack_options o = {.snapshot = a->word[0], .level = (int)a->level};
    struct stat st;
    if (a->output && !a->force && stat(a->output, &st) == 0 && S_ISREG(st.st_mode))
        return bsi_cli_usage(err, "give another name, or --force", "\"%.200s\" is there already", a->output);
    if (!a->output && isatty(STDOUT_FILENO))
        return bsi_cli_usage(err, "give a file with -o", "a pack is not for a terminal");
    bomsync_status status = reading(&o.read, a, io, err);
    return status ? status : bomsync_pack(&o, io->out, io->talk, a->json, err);
}

bomsync_status bsi_cli_gen(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_gen_options o = {.out = a->out,
                             .preset = a->preset,
                             .lines = a->lines,
                             .plants = (int)a->plants,
                             .depth = (int)a->depth,
                             .change = a->change,
                             .cluster = a->cluster,
                             .seed = (uint64_t)a->seed,
                             .row_bytes = (int)a->row_bytes,
                             .key_position = a->key_position,
                             .quoting = a->quoting,
                             .format = a->format,
                             .compress = a->compress,
                             .entities = a->entities};
    return bomsync_gen(&o, io->progress, NULL, err);
}

bomsync_status bsi_cli_bench(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_bench_options o = {.snapshot = a->word[0],
                               .second = a->word_count > 1 ? a->word[1] : NULL,
                               .key = strings(&a->key),
                               .key_count = a->key.count,
                               .partition = a->partition,
                               .runs = (int)a->runs};
    bomsync_status status = reading(&o.read, a, io, err);
    return status ? status : bomsync_bench(&o, a->json, io->out, err);
}

/* ---- a new generation ---- */

static bomsync_status sync_checks(const bsi_cli_args *a, bomsync_error *err) {
    if (a->scope && (strncmp(a->scope, "partition=", 10) != 0 || !a->scope[10]))
        return bsi_cli_usage(err, "write --scope partition=A,B", "option \"--scope\" cannot be \"%.100s\"", a->scope);
    return one_stdin(a, err);
}

bomsync_status bsi_cli_sync(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_sync_options o = {.store = a->store,
                              .feed = a->feed,
                              .key = a->key.given ? strings(&a->key) : NULL,
                              .key_count = a->key.count,
                              .partition = a->partition,
                              .ignore = strings(&a->ignore),
                              .ignore_count = a->ignore.count,
                              .ignore_given = a->ignore.given,
                              .snapshot = a->word,
                              .snapshot_count = a->word_count,
                              .complete = a->complete,
                              .expect_records = a->expect_records,
                              .control = a->control,
                              .scope = a->scope,
                              .upsert = a->mode && strcmp(a->mode, "upsert") == 0,
                              .baseline = a->baseline,
                              .sequence = a->sequence,
                              .as_of = a->as_of,
                              .now = a->now,
                              .dry_run = a->dry_run,
                              .explain = a->explain,
                              .wait_seconds = (int)a->wait_seconds,
                              .codec = a->codec,
                              .leave = true};
    bomsync_result result = {0};
    bomsync_status status = sync_checks(a, err);
    if (!status) status = reading(&o.read, a, io, err);
    if (status) return status;
    status = bomsync_sync(&o, &result, io->talk, err);
    return print_result(a, io, &result, status);
}

bomsync_status bsi_cli_approve(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_result result = {0};
    bomsync_status status = bomsync_approve(a->store, a->word[0], a->by, a->why, a->now, &result, err);
    return print_result(a, io, &result, status);
}

bomsync_status bsi_cli_decline(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bomsync_result result = {0};
    bomsync_status status = bomsync_decline(a->store, a->word[0], a->by, a->why, a->now, &result, err);
    return print_result(a, io, &result, status);
}

bomsync_status bsi_cli_revert(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    int64_t generation;
    bomsync_result result = {0};
    bomsync_status status = generation_word(&generation, a, 0, err);
    if (status) return status;
    status = bomsync_revert(a->store, a->feed, generation, a->now, &result, err);
    return print_result(a, io, &result, status);
}

/* ---- reading a store ---- */

bomsync_status bsi_cli_export(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_export(a->store, a->feed, a->generation, a->as, io->out, err);
}

bomsync_status bsi_cli_log(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_log(a->store, a->feed, a->json, io->out, err);
}

bomsync_status bsi_cli_show(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    int64_t generation;
    bomsync_status status = generation_word(&generation, a, 0, err);
    return status ? status : bomsync_show(a->store, generation, a->json, io->out, err);
}

bomsync_status bsi_cli_cat(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    int64_t generation;
    bomsync_status status = generation_word(&generation, a, 0, err);
    return status ? status : bomsync_cat(a->store, generation, io->out, err);
}

bomsync_status bsi_cli_diff_generations(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    int64_t from, to;
    bomsync_status status = generation_word(&from, a, 0, err);
    if (!status) status = generation_word(&to, a, 1, err);
    return status ? status : bomsync_diff_generations(a->store, a->feed, from, to, io->out, err);
}

bomsync_status bsi_cli_get(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_get(a->store, a->feed, a->generation, a->word[0], io->out, err);
}

bomsync_status bsi_cli_history(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_history(a->store, a->feed, a->word[0], io->out, err);
}

bomsync_status bsi_cli_exceptions(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    bool csv = a->word_count == 1;
    if (csv && strcmp(a->word[0], "export") != 0)
        return bsi_cli_usage(err, "leave it out, or write export", "unexpected argument \"%.100s\"", a->word[0]);
    return bomsync_exceptions(a->store, a->feed, a->json, csv, io->out, err);
}

bomsync_status bsi_cli_holds(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_holds(a->store, a->feed, a->json, io->out, err);
}

bomsync_status bsi_cli_audit(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_audit(a->store, io->out, err);
}

bomsync_status bsi_cli_stats(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_stats(a->store, a->json, io->out, err);
}

bomsync_status bsi_cli_status(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_store_status(a->store, a->json, io->out, err);
}

bomsync_status bsi_cli_doctor(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_doctor(a->store, a->json, io->out, err);
}

/* ---- keeping a store ---- */

bomsync_status bsi_cli_init(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    (void)io;
    return bomsync_init(a->store, a->shards ? (int)a->shards : SHARDS, err);
}

bomsync_status bsi_cli_verify(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    return bomsync_verify(a->store, a->repair, a->json, io->out, err);
}

bomsync_status bsi_cli_backup(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    (void)io;
    if ((a->to != NULL) == (a->word_count == 1))
        return bsi_cli_usage(err, "write backup --store DIR TO", "\"backup\" needs one place to copy to");
    return bomsync_backup(a->store, a->to ? a->to : a->word[0], err);
}

bomsync_status bsi_cli_restore(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    (void)io;
    return bomsync_restore(a->word[0], a->store, err);
}

bomsync_status bsi_cli_gc(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    (void)io;
    return bomsync_gc(a->store, a->keep, err);
}
