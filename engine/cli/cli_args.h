/* cli_args.h - the command line as data: options, commands, and what was given. */
#ifndef BSI_CLI_ARGS_H
#define BSI_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bomsync/bomsync.h"

#define BSI_CLI_OPTION_SETS 3   /* own, reading, generic */
#define BSI_CLI_OPTIONS_MAX 128 /* options of one command, all sets together */

typedef enum bsi_cli_kind {
    BSI_CLI_FLAG,    /* bool, takes no value */
    BSI_CLI_TEXT,    /* const char *, as given */
    BSI_CLI_LIST,    /* bsi_cli_list, one CSV record: a,"b,c" */
    BSI_CLI_NUMBER,  /* int64_t, least..most */
    BSI_CLI_BYTES,   /* uint64_t, 256MB, 1G, 64KiB */
    BSI_CLI_CHOICE,  /* const char *, one of choices "a|b|c" */
    BSI_CLI_CHOICES, /* const char *, comma list of choices */
    BSI_CLI_CHAR,    /* char: one byte, \t or tab */
    BSI_CLI_CODES    /* uint32_t, bit n for exit code n */
} bsi_cli_kind;

typedef struct bsi_cli_option {
    const char *name; /* without the two dashes; NULL ends an array */
    char letter;      /* one-letter form, 0: none */
    bsi_cli_kind kind;
    bool required;
    const char *argument; /* what the help calls the value, NULL for flags */
    const char *choices;  /* "a|b|c" for CHOICE and CHOICES */
    int64_t least, most;  /* NUMBER */
    size_t place;         /* offsetof(bsi_cli_args, member) */
    const char *help;     /* one or two sentences, wrapped when printed */
} bsi_cli_option;

typedef struct bsi_cli_list {
    char **item; /* owned by the process, never freed */
    size_t count;
    bool given;
} bsi_cli_list;

/** All that a command line can say. Strings point into argv. */
typedef struct bsi_cli_args {
    const char *const *word; /* the arguments that are no options */
    size_t word_count;

    bool json, quiet, help;
    const char *output;
    uint32_t zero_codes;

    char delimiter, quote;
    const char *quotes, *encoding, *trailer, *tmp, *tiers, *io, *isa, *now;
    bsi_cli_list nulls;
    int64_t workers, block_records;
    uint64_t memory_bytes;

    const char *store, *feed, *partition, *control, *scope, *mode, *codec, *as_of, *as, *format, *to, *by, *why;
    bsi_cli_list key, ignore;
    bool complete, baseline, dry_run, explain, repair;
    int64_t expect_records, sequence, wait_seconds, generation, shards, keep;

    const char *out, *preset, *change, *key_position, *quoting, *compress, *entities;
    int64_t lines, plants, depth, seed, row_bytes;
    bool cluster;

    int64_t runs;
    int64_t level;
    bool force, verify_pack;

    bool man;
    const char *completion;
} bsi_cli_args;

struct bsi_cli_io; /* cli_output.h */

typedef struct bsi_cli_example {
    const char *says, *line; /* line NULL ends an array */
} bsi_cli_example;

#define BSI_CLI_PLAIN 1u      /* touches no data: runs without a supervisor */
#define BSI_CLI_NO_PRODUCT 2u /* writes files or a store, nothing to stdout: -o is refused */
#define BSI_CLI_ANSWERS 4u    /* exit 1 is an answer, so a closed pipe may not end with 0 */
#define BSI_CLI_NO_STORE 8u   /* works on snapshots alone */
#define BSI_CLI_FAULTS 16u    /* its product tells what is damaged: given with exit 7 too */

typedef struct bsi_cli_command {
    const char *name;
    const char *summary;  /* one line, no full stop */
    const char *synopsis; /* the words after the options: "OLD NEW" */
    size_t words_least, words_most;
    const bsi_cli_option *sets[BSI_CLI_OPTION_SETS];
    const char *text; /* paragraphs, parted by an empty line */
    const bsi_cli_example *examples;
    uint32_t exits; /* bit n: this command may end with n */
    uint32_t flags;
    bomsync_status (*run)(const bsi_cli_args *args, struct bsi_cli_io *io, bomsync_error *err);
} bsi_cli_command;

extern const bsi_cli_command bsi_cli_commands[];
extern const size_t bsi_cli_command_count;

/** NULL if there is none of that name. */
const bsi_cli_command *bsi_cli_command_find(const char *name);

/** Names of the option sets in the help: "Options", "Reading options", "Generic options". */
extern const char *const bsi_cli_set_titles[BSI_CLI_OPTION_SETS];

/**
 * Reads the arguments after the command's name.
 *
 * Ownership: args borrows argv; argv[] is reordered in place: words first
 * Errors:    BOMSYNC_E_USAGE, err->message names the argument, err->hint the nearest option
 */
bomsync_status bsi_cli_args_read(bsi_cli_args *args, const bsi_cli_command *command, int argc, char **argv,
                                 bomsync_error *err);

/** True if --json stands among the arguments, even of a line that cannot be read. */
bool bsi_cli_args_json(int argc, char **argv);

/** A generation number, 0 or more. what names it in the message. */
bomsync_status bsi_cli_args_generation(int64_t *out, const char *word, const char *what, bomsync_error *err);

/** "bomsync sync --store DIR [options] SNAPSHOT...", cut at size. */
void bsi_cli_usage_line(char *out, size_t size, const bsi_cli_command *command);

/** Fills err with a usage error; hint may be NULL. Returns BOMSYNC_E_USAGE. */
bomsync_status bsi_cli_usage(bomsync_error *err, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/** The error for a command that is not in the table. Returns BOMSYNC_E_USAGE. */
bomsync_status bsi_cli_unknown_command(bomsync_error *err, const char *name);

#endif
