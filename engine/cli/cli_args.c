/* cli_args.c - reads a command line with the table of a command's options.
 *
 *     bomsync sync --store S --key=a,"b,c" -q -- a.csv
 *                  \__________ options _____/    \_words
 *
 * Options and words may stand in any order; `--` ends the options; a single `-` is a word (stdin). Every option has a
 * row in the table with its kind and the member of bsi_cli_args that it fills, so that reading, help, man pages and
 * completion cannot disagree. An option that takes a value may stand once: to let the last one win would hide a slip in
 * a long script. getopt_long was tried first: it accepts shortened names, which a later option can make ambiguous, and
 * it cannot name the nearest option.
 */
#include "cli_args.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 32 /* longer than any option or command: the distance table stays on the stack */

typedef struct reader {
    bsi_cli_args *args;
    const bsi_cli_command *command;
    int argc;
    char **argv;
    int at;
    bool given[BSI_CLI_OPTIONS_MAX];
    bomsync_error *err;
} reader;

bomsync_status bsi_cli_usage(bomsync_error *err, const char *hint, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    if (hint) snprintf(err->hint, sizeof err->hint, "%s", hint);
    err->status = BOMSYNC_E_USAGE;
    return BOMSYNC_E_USAGE;
}

const bsi_cli_command *bsi_cli_command_find(const char *name) {
    for (size_t i = 0; i < bsi_cli_command_count; i++)
        if (strcmp(bsi_cli_commands[i].name, name) == 0) return &bsi_cli_commands[i];
    return NULL;
}

/* ---- the nearest name ---- */

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Edits from a to b; a swap of neighbours is one edit, as slips of the fingers are. */
static size_t distance(const char *a, const char *b) {
    size_t d[NAME_MAX_BYTES + 1][NAME_MAX_BYTES + 1];
    size_t m = strlen(a), n = strlen(b);
    if (m > NAME_MAX_BYTES || n > NAME_MAX_BYTES) return SIZE_MAX;
    for (size_t i = 0; i <= m; i++) d[i][0] = i;
    for (size_t j = 0; j <= n; j++) d[0][j] = j;
    for (size_t i = 1; i <= m; i++) {
        for (size_t j = 1; j <= n; j++) {
            size_t change = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            d[i][j] = least(change, least(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
        }
    }
    return d[m][n];
}

/* The candidate nearest to word, NULL if none is near; next gives candidate i, NULL at the end. */
static const char *nearest(const char *word, const char *(*next)(size_t i, const void *ctx), const void *ctx) {
    const char *best = NULL;
    size_t length = strlen(word);
    size_t best_distance = length < 4 ? 2 : length / 3 + 1; /* one below this still counts as near */
    const char *name;
    for (size_t i = 0; (name = next(i, ctx)) != NULL; i++) {
        size_t edits = distance(word, name);
        if (length >= 3 && strncmp(word, name, length) == 0) edits = 0; /* a shortened name */
        if (edits < best_distance) {
            best_distance = edits;
            best = name;
        }
    }
    return best;
}

static const char *command_name(size_t i, const void *ctx) {
    (void)ctx;
    return i < bsi_cli_command_count ? bsi_cli_commands[i].name : NULL;
}

bomsync_status bsi_cli_unknown_command(bomsync_error *err, const char *name) {
    char hint[sizeof err->hint] = "see bomsync help";
    bool option = *name == '-';
    const char *near = nearest(name, command_name, NULL);
    if (near)
        snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    else if (option)
        snprintf(hint, sizeof hint, "options stand after the command: bomsync <command> [options]");
    return bsi_cli_usage(err, hint, "unknown %s \"%.100s\"", option ? "option" : "command", name);
}

/* ---- the table ---- */

/* Option number i of a command over all its sets. */
static const bsi_cli_option *option_at(const bsi_cli_command *command, size_t i) {
    for (size_t s = 0; s < BSI_CLI_OPTION_SETS; s++) {
        const bsi_cli_option *o = command->sets[s];
        for (; o && o->name; o++)
            if (i-- == 0) return o;
    }
    return NULL;
}

/* The option of a name of n bytes; *index gets its number. */
static const bsi_cli_option *option_find(const bsi_cli_command *command, const char *name, size_t n, size_t *index) {
    const bsi_cli_option *o;
    for (size_t i = 0; (o = option_at(command, i)) != NULL; i++) {
        if (strlen(o->name) != n || memcmp(o->name, name, n) != 0) continue;
        *index = i;
        return o;
    }
    return NULL;
}

static const bsi_cli_option *option_by_letter(const bsi_cli_command *command, char letter, size_t *index) {
    const bsi_cli_option *o;
    for (size_t i = 0; (o = option_at(command, i)) != NULL; i++) {
        if (o->letter != letter) continue;
        *index = i;
        return o;
    }
    return NULL;
}

static const char *option_name(size_t i, const void *ctx) {
    const bsi_cli_option *o = option_at(ctx, i);
    return o ? o->name : NULL;
}

/* "--key" given to a command that has none: say whose it is, else what is near. */
static bomsync_status unknown_option(const reader *r, const char *shown, const char *name) {
    char hint[sizeof r->err->hint];
    const char *near = nearest(name, option_name, r->command);
    if (near) {
        snprintf(hint, sizeof hint, "did you mean --%s?", near);
        return bsi_cli_usage(r->err, hint, "unknown option \"%.100s\" of \"%s\"", shown, r->command->name);
    }
    for (size_t c = 0; c < bsi_cli_command_count; c++) {
        size_t index;
        if (option_find(&bsi_cli_commands[c], name, strlen(name), &index)) {
            snprintf(hint, sizeof hint, "--%s is an option of \"%s\"", name, bsi_cli_commands[c].name);
            return bsi_cli_usage(r->err, hint, "unknown option \"%.100s\" of \"%s\"", shown, r->command->name);
        }
    }
    snprintf(hint, sizeof hint, "see bomsync help %s", r->command->name);
    return bsi_cli_usage(r->err, hint, "unknown option \"%.100s\" of \"%s\"", shown, r->command->name);
}

/* ---- values ---- */

static void *must(void *p) {
    if (p) return p;
    static const char text[] = "bomsync: error: out of memory\n";
    fwrite(text, 1, sizeof text - 1, stderr);
    exit(BOMSYNC_E_SPACE);
}

static bomsync_status bad_value(const reader *r, const bsi_cli_option *o, const char *value, const char *wants) {
    char hint[sizeof r->err->hint];
    snprintf(hint, sizeof hint, "see bomsync help %s", r->command->name);
    return bsi_cli_usage(r->err, hint, "option \"--%s\" cannot be \"%.100s\": it wants %s", o->name, value, wants);
}

/* One item of a CSV record from *at on, unquoted into a copy; *at is left on the comma or at the end. */
static char *list_item(const char **at) {
    const char *p = *at;
    char *item = must(malloc(strlen(p) + 1));
    size_t n = 0;
    if (*p == '"') {
        for (p++; *p; p++) {
            if (*p == '"' && p[1] == '"')
                p++;
            else if (*p == '"')
                break;
            item[n++] = *p;
        }
        if (*p != '"' || (p[1] && p[1] != ',')) {
            free(item);
            return NULL;
        }
        p++;
    } else {
        while (*p && *p != ',') item[n++] = *p++;
    }
    item[n] = 0;
    *at = p;
    return item;
}

static bomsync_status read_list(const reader *r, const bsi_cli_option *o, bsi_cli_list *list, const char *value) {
    list->given = true;
    bool empty_items = strcmp(o->name, "nulls") == 0; /* an empty text may be a null; a column has a name */
    if (!*value && strcmp(o->name, "ignore") == 0) return BOMSYNC_OK; /* ignore nothing any more */
    for (const char *p = value;; p++) {
        char *item = list_item(&p);
        if (!item) return bad_value(r, o, value, "names with commas between them, quoted as in CSV where needed");
        if (!*item && !empty_items) {
            free(item);
            return bad_value(r, o, value, "a name at each place between the commas");
        }
        list->item = must(realloc(list->item, (list->count + 1) * sizeof *list->item));
        list->item[list->count++] = item;
        if (*p != ',') return BOMSYNC_OK;
    }
}

static bool read_integer(int64_t *out, const char *text) {
    char *end;
    if (!(*text >= '0' && *text <= '9')) return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end) return false;
    *out = value;
    return true;
}

static bomsync_status read_number(const reader *r, const bsi_cli_option *o, int64_t *out, const char *value) {
    char wants[96];
    int64_t n;
    if (!read_integer(&n, value) || n < o->least || n > o->most) {
        if (o->most == INT64_MAX)
            snprintf(wants, sizeof wants, "a number from %lld on", (long long)o->least);
        else
            snprintf(wants, sizeof wants, "a number from %lld to %lld", (long long)o->least, (long long)o->most);
        return bad_value(r, o, value, wants);
    }
    *out = n;
    return BOMSYNC_OK;
}

static bomsync_status read_bytes(const reader *r, const bsi_cli_option *o, uint64_t *out, const char *value) {
    static const struct {
        const char *unit;
        uint64_t bytes;
    } units[] = {{"", 1},           {"B", 1},           {"K", 1000},      {"KB", 1000},
                 {"KiB", 1u << 10}, {"M", 1000000},     {"MB", 1000000},  {"MiB", 1u << 20},
                 {"G", 1000000000}, {"GB", 1000000000}, {"GiB", 1u << 30}};
    static const char wants[] = "a size such as 256MB, 1G or 512MiB";
    char *end;
    errno = 0;
    if (!(*value >= '0' && *value <= '9')) return bad_value(r, o, value, wants);
    unsigned long long n = strtoull(value, &end, 10);
    if (errno || n == 0) return bad_value(r, o, value, wants);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].unit) != 0) continue;
        if (n > UINT64_MAX / units[i].bytes) return bad_value(r, o, value, wants);
        *out = n * units[i].bytes;
        return BOMSYNC_OK;
    }
    return bad_value(r, o, value, wants);
}

/* True if the n bytes at word are one of "a|b|c". */
static bool is_choice(const char *choices, const char *word, size_t n) {
    for (const char *c = choices;; c++) {
        size_t length = strcspn(c, "|");
        if (length == n && memcmp(c, word, n) == 0) return true;
        c += length;
        if (!*c) return false;
    }
}

static bomsync_status read_choice(const reader *r, const bsi_cli_option *o, const char **out, const char *value) {
    char wants[160];
    const char *p = value;
    for (;;) {
        size_t n = o->kind == BSI_CLI_CHOICES ? strcspn(p, ",") : strlen(p);
        if (!is_choice(o->choices, p, n)) {
            const char *many = o->kind == BSI_CLI_CHOICES ? "a comma list of " : "";
            snprintf(wants, sizeof wants, "%s%s", many, o->choices);
            return bad_value(r, o, value, wants);
        }
        p += n;
        if (!*p++) break;
    }
    *out = value;
    return BOMSYNC_OK;
}

static bomsync_status read_char(const reader *r, const bsi_cli_option *o, char *out, const char *value) {
    char c = value[0];
    bool tab = strcmp(value, "\\t") == 0 || strcmp(value, "tab") == 0;
    if (tab)
        c = '\t';
    else if (strlen(value) != 1)
        return bad_value(r, o, value, "one byte, or \\t or tab");
    if (c == '\n' || c == '\r' || (unsigned char)c >= 0x80)
        return bad_value(r, o, value, "an ASCII character, no line end");
    *out = c;
    return BOMSYNC_OK;
}

static bomsync_status read_codes(const reader *r, const bsi_cli_option *o, uint32_t *out, const char *value) {
    for (const char *p = value;; p += 2) {
        if (p[0] < '0' || p[0] > '9' || (p[1] && p[1] != ','))
            return bad_value(r, o, value, "exit codes 0 to 9, such as 4 or 4,5");
        *out |= 1u << (p[0] - '0');
        if (!p[1]) return BOMSYNC_OK;
    }
}

static bomsync_status read_value(const reader *r, const bsi_cli_option *o, const char *value) {
    void *place = (char *)r->args + o->place;
    switch (o->kind) {
    case BSI_CLI_FLAG:
        *(bool *)place = true;
        return BOMSYNC_OK;
    case BSI_CLI_TEXT:
        if (!*value) return bad_value(r, o, value, "a text that is not empty");
        *(const char **)place = value;
        return BOMSYNC_OK;
    case BSI_CLI_LIST:
        return read_list(r, o, place, value);
    case BSI_CLI_NUMBER:
        return read_number(r, o, place, value);
    case BSI_CLI_BYTES:
        return read_bytes(r, o, place, value);
    case BSI_CLI_CHOICE:
    case BSI_CLI_CHOICES:
        return read_choice(r, o, place, value);
    case BSI_CLI_CHAR:
        return read_char(r, o, place, value);
    case BSI_CLI_CODES:
        return read_codes(r, o, place, value);
    }
    return BOMSYNC_OK;
}

/* ---- the line ---- */

/* "--feed --store S": the value was forgotten. What really begins so is written --feed=--store. */
static bool is_own_option(const bsi_cli_command *command, const char *text) {
    size_t index;
    return strncmp(text, "--", 2) == 0 && option_find(command, text + 2, strcspn(text + 2, "="), &index);
}

static bomsync_status take(reader *r, const bsi_cli_option *o, size_t index, const char *value) {
    if (o->kind == BSI_CLI_FLAG) {
        if (value) return bsi_cli_usage(r->err, NULL, "option \"--%s\" takes no value", o->name);
        return read_value(r, o, NULL);
    }
    if (!value) {
        const char *next = r->at < r->argc ? r->argv[r->at] : NULL;
        if (!next || is_own_option(r->command, next)) {
            char hint[sizeof r->err->hint];
            snprintf(hint, sizeof hint, "write --%s %s", o->name, o->argument);
            return bsi_cli_usage(r->err, hint, "option \"--%s\" needs a value", o->name);
        }
        value = next;
        r->at++;
    }
    r->given[index] = true;
    return read_value(r, o, value);
}

static bomsync_status take_long(reader *r, const char *arg) {
    const char *name = arg + 2;
    size_t n = strcspn(name, "="), index;
    const bsi_cli_option *o = option_find(r->command, name, n, &index);
    if (!o) {
        char shown[NAME_MAX_BYTES * 4];
        snprintf(shown, sizeof shown, "%.*s", (int)least(n, sizeof shown - 1), name);
        return unknown_option(r, arg, shown);
    }
    return take(r, o, index, name[n] == '=' ? name + n + 1 : NULL);
}

/* -q, -qo FILE, -oFILE */
static bomsync_status take_letters(reader *r, const char *arg) {
    for (const char *p = arg + 1; *p; p++) {
        size_t index;
        const bsi_cli_option *o = option_by_letter(r->command, *p, &index);
        if (!o) return unknown_option(r, arg, arg + 1);
        bool flag = o->kind == BSI_CLI_FLAG;
        bomsync_status status = take(r, o, index, !flag && p[1] ? p + 1 : NULL);
        if (status || !flag) return status;
    }
    return BOMSYNC_OK;
}

void bsi_cli_usage_line(char *out, size_t size, const bsi_cli_command *c) {
    size_t n = (size_t)snprintf(out, size, "bomsync %s", c->name);
    for (const bsi_cli_option *o = c->sets[0]; o && o->name; o++)
        if (o->required && n < size) n += (size_t)snprintf(out + n, size - n, " --%s %s", o->name, o->argument);
    if (n < size) snprintf(out + n, size - n, " [options]%s%s", *c->synopsis ? " " : "", c->synopsis);
}

static bomsync_status check_complete(const reader *r) {
    const bsi_cli_command *c = r->command;
    char line[200], hint[sizeof r->err->hint];
    bsi_cli_usage_line(line, sizeof line, c);
    snprintf(hint, sizeof hint, "usage: %s", line);
    const bsi_cli_option *o;
    for (size_t i = 0; (o = option_at(c, i)) != NULL; i++) {
        if (o->required && !r->given[i])
            return bsi_cli_usage(r->err, hint, "\"%s\" needs the option \"--%s %s\"", c->name, o->name, o->argument);
    }
    if (r->args->word_count < c->words_least)
        return bsi_cli_usage(r->err, hint, "\"%s\" needs %s", c->name, c->synopsis);
    if (r->args->word_count > c->words_most)
        return bsi_cli_usage(r->err, hint, "unexpected argument \"%.100s\"", r->args->word[c->words_most]);
    if (r->args->output && (c->flags & BSI_CLI_NO_PRODUCT))
        return bsi_cli_usage(r->err, hint, "\"%s\" writes nothing to stdout that \"-o\" could take", c->name);
    return BOMSYNC_OK;
}

bomsync_status bsi_cli_args_read(bsi_cli_args *args, const bsi_cli_command *command, int argc, char **argv,
                                 bomsync_error *err) {
    memset(args, 0, sizeof *args);
    args->expect_records = args->sequence = args->generation = -1;
    args->word = (const char *const *)argv;
    reader r = {.args = args, .command = command, .argc = argc, .argv = argv, .err = err};
    bool words_only = false;
    while (r.at < argc) {
        char *arg = argv[r.at++];
        bomsync_status status = BOMSYNC_OK;
        if (words_only || arg[0] != '-' || !arg[1])
            argv[args->word_count++] = arg;
        else if (strcmp(arg, "--") == 0)
            words_only = true;
        else
            status = arg[1] == '-' ? take_long(&r, arg) : take_letters(&r, arg);
        if (status) return status;
        if (args->help) return BOMSYNC_OK;
    }
    return check_complete(&r);
}

bool bsi_cli_args_json(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0) return true;
    return false;
}

bomsync_status bsi_cli_args_generation(int64_t *out, const char *word, const char *what, bomsync_error *err) {
    if (read_integer(out, word)) return BOMSYNC_OK;
    return bsi_cli_usage(err, "generations are numbers: see bomsync log", "%s cannot be \"%.100s\"", what, word);
}
