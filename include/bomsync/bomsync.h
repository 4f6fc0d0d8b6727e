/* bomsync/bomsync.h - the engine as a library: one call for each command of the program.
 *
 * A call writes its product through a sink and returns a status that is also the program's exit code. Many options come
 * in a struct: zero-initialise it, set what you need. Strings are borrowed until the call returns. Calls on different
 * stores may run in different threads; one store, one call at a time in a process.
 */
#ifndef BOMSYNC_BOMSYNC_H
#define BOMSYNC_BOMSYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bomsync/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BOMSYNC_VERSION "0.1.0"
const char *bomsync_version(void);

/** Where a product goes. write returns 0, or an errno value; the call then ends with E_SPACE or E_USAGE. */
typedef struct bomsync_sink {
    int (*write)(void *ctx, const void *bytes, size_t n);
    void *ctx;
} bomsync_sink;

/** Progress, called a few times a second from one thread; NULL: none. total 0: unknown. */
typedef void (*bomsync_progress)(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes, uint64_t records);

/** How snapshots are read; the same for diff and sync. */
typedef struct bomsync_read_options {
    char delimiter;              /* 0: by name, TAB for .tsv (.tsv.gz, .tsv.zst), else ',' */
    char quote;                  /* 0: '"' */
    bool lenient;                /* --quotes lenient */
    const char *encoding;        /* NULL: UTF-8 */
    const char *const *nulls;    /* texts that are null */
    size_t null_count;
    const char *trailer;         /* regex, NULL: none */
    int workers;                 /* 0: usable cores */
    uint64_t memory_bytes;       /* 0: 256 MB */
    const char *tmp;             /* NULL: STORE/tmp, for diff $TMPDIR or /tmp */
    uint32_t block_records;      /* that a block aims at; 0: as those of the feed, 16 without one */
    const char *tiers;           /* NULL: "block,sequence,key"; "none" */
    const char *io;              /* NULL: "auto"; "uring", "pread" */
    const char *isa;             /* NULL: "auto"; "avx512", "avx2", "scalar" */
    bool verify_pack;            /* packs are read whole, their fingerprints not believed */
    bomsync_progress progress;
    void *progress_ctx;
} bomsync_read_options;

/** The figures of a sync, approve, revert (DESIGN: `--json` generation). Strings are inside or owned: bomsync_result_free. */
typedef struct bomsync_result {
    char *json;      /* the generation object, one line without LF */
    char *text;      /* the same for people, lines with LF */
} bomsync_result;
void bomsync_result_free(bomsync_result *r);

typedef struct bomsync_diff_options {
    bomsync_read_options read;
    const char *old_path, *new_path;
    const char *const *key;      /* NULL: propose keys, E_USAGE */
    size_t key_count;
    const char *const *ignore;
    size_t ignore_count;
    const char *format;          /* "ndjson" (NULL), "csv", "summary" */
} bomsync_diff_options;
/** out gets the changes; talk gets the summary (for people, or one JSON object with json). */
bomsync_status bomsync_diff(const bomsync_diff_options *o, bomsync_sink out, bomsync_sink talk, bool json, bomsync_error *err);

typedef struct bomsync_sync_options {
    bomsync_read_options read;
    const char *store, *feed;    /* feed NULL: "default" */
    const char *const *key;      /* NULL: the feed's */
    size_t key_count;
    const char *partition;       /* NULL: the feed's */
    const char *const *ignore;   /* ignore_given false: the feed's */
    size_t ignore_count;
    bool ignore_given;
    const char *const *snapshot; /* files, globs, folders, "-" */
    size_t snapshot_count;
    bool complete;
    int64_t expect_records;      /* -1: not given; set it to -1 yourself */
    const char *control;         /* control file */
    const char *scope;           /* "partition=A,B" */
    bool upsert;
    bool baseline;
    int64_t sequence;            /* -1: not given */
    const char *as_of;           /* NULL: not given */
    const char *now;             /* NULL: the clock */
    bool dry_run, explain;
    int wait_seconds;
    const char *codec;           /* of stored blocks: NULL: "auto"; "symbols" whatever the size, "zstd". No output depends on it */
    bool leave;                  /* the process ends after this call: memory, mappings and idle threads are left to the kernel; files and locks are not */
} bomsync_sync_options;
bomsync_status bomsync_sync(const bomsync_sync_options *o, bomsync_result *result, bomsync_sink talk, bomsync_error *err);

bomsync_status bomsync_init(const char *store, int shards, bomsync_error *err);

/** state: CSV file in export's form or any snapshot; deltas: NDJSON, plain or zstd. key NULL: taken from the deltas. */
bomsync_status bomsync_apply(const char *state, const char *const *deltas, size_t delta_count, const bomsync_read_options *read,
                             bomsync_sink out, bomsync_error *err);

/* Reading a store. feed NULL: the only one (E_USAGE names them if there are several). generation -1: the newest. */
bomsync_status bomsync_export(const char *store, const char *feed, int64_t generation, const char *as /* NULL: published; source */,
                              bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_log(const char *store, const char *feed, bool json, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_show(const char *store, int64_t generation, bool json, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_cat(const char *store, int64_t generation, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_diff_generations(const char *store, const char *feed, int64_t from, int64_t to, bomsync_sink out,
                                        bomsync_error *err);
bomsync_status bomsync_get(const char *store, const char *feed, int64_t generation, const char *key_csv, bomsync_sink out,
                           bomsync_error *err);
bomsync_status bomsync_history(const char *store, const char *feed, const char *key_csv, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_exceptions(const char *store, const char *feed, bool json, bool csv, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_holds(const char *store, const char *feed, bool json, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_audit(const char *store, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_stats(const char *store, bool json, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_store_status(const char *store, bool json, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_doctor(const char *store /* may be NULL */, bool json, bomsync_sink out, bomsync_error *err);

/* Changing a store. */
bomsync_status bomsync_approve(const char *store, const char *digest, const char *by, const char *why, const char *now,
                               bomsync_result *result, bomsync_error *err);
bomsync_status bomsync_decline(const char *store, const char *digest, const char *by, const char *why, const char *now,
                               bomsync_result *result, bomsync_error *err);
bomsync_status bomsync_revert(const char *store, const char *feed, int64_t generation, const char *now, bomsync_result *result,
                              bomsync_error *err);
bomsync_status bomsync_verify(const char *store, bool repair, bool json, bomsync_sink out, bomsync_error *err);
bomsync_status bomsync_backup(const char *store, const char *to, bomsync_error *err);
bomsync_status bomsync_restore(const char *from, const char *to, bomsync_error *err);
bomsync_status bomsync_gc(const char *store, int64_t keep, bomsync_error *err);

typedef struct bomsync_bench_options {
    bomsync_read_options read;       /* tmp: where the temporary store is made; NULL: $TMPDIR or /tmp */
    const char *snapshot, *second;   /* one file each; second NULL: no phases "changed" and "diff" */
    const char *const *key;
    size_t key_count;
    const char *partition;           /* NULL: none */
    int runs;                        /* of each phase, after one that warms; 0: 3 */
} bomsync_bench_options;
/**
 * Measure phases on a user's own files: read, lines, cut, first, unchanged, changed, diff, export.
 *
 * Shape:   out gets a table, one row as each phase ends, or with json one object a line ("message_type":"bench")
 * Units:   seconds; bytes of the file, or of the product for export; ratio: to plain reading of as many bytes
 * Leaves:  nothing. The temporary store is removed, unless the process is killed
 * Errors:  E_USAGE, E_REFUSED: a file cannot be read as a snapshot; E_SPACE. Held or kept back records are none: the
 *          object of the phase has the exit code of the run
 * Cost:    (runs + 1) times all phases; on disk two stores
 */
bomsync_status bomsync_bench(const bomsync_bench_options *o, bool json, bomsync_sink out, bomsync_error *err);
/** A snapshot as a pack: zstd frames that end where records end, and an index of fingerprints. */
typedef struct bomsync_pack_options {
    bomsync_read_options read;   /* dialect, encoding, workers, block_records, io, isa; the same for the syncs that read it */
    const char *snapshot;        /* one file, or "-" */
    int level;                   /* 1 to 19, 0: 3 */
} bomsync_pack_options;
/**
 * Write snapshot as a pack.
 *
 * Shape:   out gets the file from front to end: any zstd reader gives the decoded snapshot back, a sync with the same
 *          dialect and block_records compares its index with the store and decompresses only what changed. The same
 *          snapshot and options give the same bytes, for any number of workers. talk gets one line of figures.
 * Errors:  E_REFUSED for what sync refuses, and for a record above 16 MB; what out has got by then is no pack
 */
bomsync_status bomsync_pack(const bomsync_pack_options *o, bomsync_sink out, bomsync_sink talk, bool json, bomsync_error *err);

/** Scenario generator. */
typedef struct bomsync_gen_options {
    const char *out;        /* folder, made if absent */
    const char *preset;     /* "S", "M", "L" or NULL */
    int64_t lines;          /* BOM lines, 0: the preset's */
    int plants, depth;      /* 0: the preset's */
    const char *change;     /* change mix a..h with an optional rate "b=0.1", several steps "c,c,b"; NULL: one snapshot */
    bool cluster;
    uint64_t seed;
    int row_bytes;          /* 0: natural */
    const char *key_position; /* "first" (NULL), "last", "middle" */
    const char *quoting;    /* "minimal" (NULL), "all", "inch", "newlines" */
    const char *format;     /* "csv" (NULL), "tsv" */
    const char *compress;   /* NULL, "zstd", "zstd-frames", "gzip" */
    const char *entities;   /* NULL: all; "bom_line" alone for benches, comma list */
} bomsync_gen_options;
bomsync_status bomsync_gen(const bomsync_gen_options *o, bomsync_progress progress, void *progress_ctx, bomsync_error *err);

#ifdef __cplusplus
}
#endif
#endif
