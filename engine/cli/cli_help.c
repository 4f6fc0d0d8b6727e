/* cli_help.c - prints the table of commands: as help, as man pages, as shell completion.
 *
 * Everything is written to a memory stream first and then put out in one piece, so that a full disk or a closed pipe
 * is noticed in one place. Help is wrapped at 80 columns whatever the terminal: golden files and pagers agree on that.
 */
#include "cli_actions.h"
#include "exit_codes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COLUMNS 80
#define HELP_COLUMN 26 /* where the words about an option begin */

static bool has_own_options(const bsi_cli_command *c, size_t set) {
    return c->sets[set] && c->sets[set]->name;
}

/* ---- text for people ---- */

/* Words from column `indent` on, the cursor being at column `at`. One empty line parts paragraphs. */
static void wrap(FILE *f, size_t at, size_t indent, const char *text) {
    bool fresh = true;
    while (*text) {
        size_t n = strcspn(text, " \n");
        if (!fresh && at + 1 + n > COLUMNS) {
            putc('\n', f);
            at = 0;
            fresh = true;
        }
        if (fresh)
            at += (size_t)fprintf(f, "%*s", (int)(indent > at ? indent - at : 0), "");
        else
            at += (size_t)fprintf(f, " ");
        fwrite(text, 1, n, f);
        at += n;
        fresh = false;
        text += n;
        if (*text == '\n') {
            fputs("\n\n", f);
            at = 0;
            fresh = true;
        }
        text += strspn(text, " \n");
    }
    putc('\n', f);
}

static void option_form(char *out, size_t size, const bsi_cli_option *o) {
    char letter[8] = "    ";
    if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
    snprintf(out, size, "  %s--%s%s%s", letter, o->name, o->argument ? " " : "", o->argument ? o->argument : "");
}

static void option_help(FILE *f, const bsi_cli_option *o) {
    char form[128];
    option_form(form, sizeof form, o);
    size_t at = (size_t)fprintf(f, "%s", form);
    if (at + 2 > HELP_COLUMN) {
        putc('\n', f);
        at = 0;
    }
    wrap(f, at, HELP_COLUMN, o->help);
}

static void exit_help(FILE *f, const bsi_cli_command *c) {
    fputs("\nExit codes:\n", f);
    for (unsigned n = 0; n < BSI_CLI_EXIT_COUNT; n++)
        if (c->exits >> n & 1) fprintf(f, "  %u  %s\n", n, bsi_cli_exit_words[n]);
    if (!(c->flags & BSI_CLI_PLAIN)) fputs("  128 + n  ended by signal n\n", f);
}

static void command_help(FILE *f, const bsi_cli_command *c) {
    char usage[200];
    bsi_cli_usage_line(usage, sizeof usage, c);
    fprintf(f, "bomsync %s - %s\n\nUsage: %s\n\n", c->name, c->summary, usage);
    wrap(f, 0, 0, c->text);
    for (size_t s = 0; s < BSI_CLI_OPTION_SETS; s++) {
        if (!has_own_options(c, s)) continue;
        fprintf(f, "\n%s:\n", bsi_cli_set_titles[s]);
        for (const bsi_cli_option *o = c->sets[s]; o->name; o++) option_help(f, o);
    }
    if (c->examples->line) fputs("\nExamples:\n", f);
    for (const bsi_cli_example *e = c->examples; e->line; e++) fprintf(f, "  %s\n      %s\n", e->says, e->line);
    exit_help(f, c);
}

static const char program_text[] = "bomsync keeps an ERP equal to its sources. It reads complete snapshots of "
                                   "manufacturing master data, finds what changed "
                                   "since the last accepted snapshot, checks the changes, and writes the smallest "
                                   "ordered set of them as chunks that a "
                                   "target can import.";
static const char streams_text[] = "The product of a command goes to stdout or to the file of -o; notes and progress "
                                   "go to stderr. Options may stand before "
                                   "or after the other arguments; -- ends them; - as a file is stdin.";

static void program_help(FILE *f) {
    fputs("bomsync - keep an ERP equal to its sources\n\nUsage: bomsync <command> [options]\n\n", f);
    wrap(f, 0, 0, program_text);
    fputs("\nCommands:\n", f);
    for (size_t i = 0; i < bsi_cli_command_count; i++)
        fprintf(f, "  %-18s%s\n", bsi_cli_commands[i].name, bsi_cli_commands[i].summary);
    putc('\n', f);
    wrap(f, 0, 0, streams_text);
    fputs("\nExit codes:\n", f);
    for (unsigned n = 0; n < BSI_CLI_EXIT_COUNT; n++) fprintf(f, "  %u  %s\n", n, bsi_cli_exit_words[n]);
    fputs("  128 + n  ended by signal n\n\nbomsync help <command> explains a command.\n", f);
}

void bsi_cli_short_usage(void) {
    static const char text[] = "usage: bomsync <command> [options]\nbomsync help lists the commands.\n";
    bsi_cli_write_all(STDERR_FILENO, text, sizeof text - 1);
}

/* ---- man pages ---- */

/* roff reads a backslash, a dash, and a dot or quote at the start of a line as its own. */
static void roff(FILE *f, const char *text) {
    for (const char *p = text; *p; p++) {
        bool first = p == text || p[-1] == '\n';
        if (first && (*p == '.' || *p == '\'')) fputs("\\&", f);
        if (*p == '\\')
            fputs("\\e", f);
        else if (*p == '-')
            fputs("\\-", f);
        else if (*p == '\n' && p[1] == '\n')
            fputs("\n.PP", f);
        else
            putc(*p, f);
    }
    putc('\n', f);
}

static void roff_word(FILE *f, const char *word) {
    for (; *word; word++) {
        if (*word == '-') putc('\\', f);
        putc(*word, f);
    }
}

static void roff_heading(FILE *f, const char *name) {
    fprintf(f, ".SH %s\n", name);
}

static void roff_option(FILE *f, const bsi_cli_option *o) {
    fputs(".TP\n", f);
    if (o->letter) fprintf(f, "\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB\\-\\-", f);
    roff_word(f, o->name);
    if (o->argument) fprintf(f, "\\fR \\fI%s", o->argument);
    fputs("\\fR\n", f);
    roff(f, o->help);
}

static void roff_title(FILE *f, const char *command, const char *summary) {
    const char *dash = command ? "\\-" : "", *name = command ? command : "";
    fprintf(f, ".TH BOMSYNC%s", dash);
    roff_word(f, name);
    fprintf(f, " 1 \"\" \"bomsync %s\" \"bomsync manual\"\n", bomsync_version());
    roff_heading(f, "NAME");
    fprintf(f, "bomsync%s", dash);
    roff_word(f, name);
    fprintf(f, " \\- %s\n", summary);
    roff_heading(f, "SYNOPSIS");
}

static void roff_exits(FILE *f, uint32_t exits, bool signals) {
    roff_heading(f, "EXIT CODES");
    for (unsigned n = 0; n < BSI_CLI_EXIT_COUNT; n++)
        if (exits >> n & 1) fprintf(f, ".TP\n\\fB%u\\fR\n%s\n", n, bsi_cli_exit_words[n]);
    if (signals) fputs(".TP\n\\fB128 + n\\fR\nended by signal n\n", f);
}

static void roff_examples(FILE *f, const bsi_cli_command *c) {
    if (!c->examples->line) return;
    roff_heading(f, "EXAMPLES");
    for (const bsi_cli_example *e = c->examples; e->line; e++) {
        fputs(".PP\n", f);
        roff(f, e->says);
        fputs(".RS 4\n.nf\n", f);
        roff(f, e->line);
        fputs(".fi\n.RE\n", f);
    }
}

static void command_man(FILE *f, const bsi_cli_command *c) {
    static const char *const headings[BSI_CLI_OPTION_SETS] = {"OPTIONS", "READING OPTIONS", "GENERIC OPTIONS"};
    char usage[200];
    bsi_cli_usage_line(usage, sizeof usage, c);
    roff_title(f, c->name, c->summary);
    roff(f, usage);
    roff_heading(f, "DESCRIPTION");
    roff(f, c->text);
    for (size_t s = 0; s < BSI_CLI_OPTION_SETS; s++) {
        if (!has_own_options(c, s)) continue;
        roff_heading(f, headings[s]);
        for (const bsi_cli_option *o = c->sets[s]; o->name; o++) roff_option(f, o);
    }
    roff_exits(f, c->exits, !(c->flags & BSI_CLI_PLAIN));
    roff_examples(f, c);
    roff_heading(f, "SEE ALSO");
    fputs("\\fBbomsync\\fR(1)\n", f);
}

static void program_man(FILE *f) {
    roff_title(f, NULL, "keep an ERP equal to its sources");
    fputs("bomsync <command> [options]\n", f);
    roff_heading(f, "DESCRIPTION");
    roff(f, program_text);
    fputs(".PP\n", f);
    roff(f, streams_text);
    roff_heading(f, "COMMANDS");
    for (size_t i = 0; i < bsi_cli_command_count; i++) {
        fputs(".TP\n\\fB", f);
        roff_word(f, bsi_cli_commands[i].name);
        fputs("\\fR\n", f);
        roff(f, bsi_cli_commands[i].summary);
    }
    roff_exits(f, UINT32_MAX, true);
    fputs(".PP\nWhen several apply, the first of 7, 9, 8, 2, 3, 6, 5, 4, 1, 0 is given.\n", f);
    roff_heading(f, "SEE ALSO");
    for (size_t i = 0; i < bsi_cli_command_count; i++) {
        fputs("\\fBbomsync\\-", f);
        roff_word(f, bsi_cli_commands[i].name);
        fprintf(f, "\\fR(1)%s\n", i + 1 < bsi_cli_command_count ? "," : "");
    }
}

/* ---- completion ---- */

static void option_words(FILE *f, const bsi_cli_command *c, bool letters) {
    for (size_t s = 0; s < BSI_CLI_OPTION_SETS; s++) {
        for (const bsi_cli_option *o = c->sets[s]; o && o->name; o++) {
            fprintf(f, " --%s", o->name);
            if (letters && o->letter) fprintf(f, " -%c", o->letter);
        }
    }
}

static void command_words(FILE *f) {
    for (size_t i = 0; i < bsi_cli_command_count; i++) fprintf(f, "%s%s", i ? " " : "", bsi_cli_commands[i].name);
}

static void choice_words(FILE *f, const char *choices) {
    for (const char *p = choices; *p; p++) putc(*p == '|' ? ' ' : *p, f);
}

/* "command:--option) words", for the options whose values are known. */
static void bash_values(FILE *f) {
    for (size_t i = 0; i < bsi_cli_command_count; i++) {
        const bsi_cli_command *c = &bsi_cli_commands[i];
        for (size_t s = 0; s < BSI_CLI_OPTION_SETS; s++) {
            for (const bsi_cli_option *o = c->sets[s]; o && o->name; o++) {
                if (!o->choices) continue;
                fprintf(f, "    %s:--%s) words=\"", c->name, o->name);
                choice_words(f, o->choices);
                fputs("\" ;;\n", f);
            }
        }
    }
}

static void bash_completion(FILE *f) {
    fputs("# bash completion for bomsync, printed by: bomsync help --completion bash\n"
          "_bomsync() {\n"
          "    local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" words=\"\"\n"
          "    COMPREPLY=()\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W \"",
          f);
    command_words(f);
    fputs("\" -- \"$cur\"))\n        return\n    fi\n    case \"${COMP_WORDS[1]}:$prev\" in\n", f);
    bash_values(f);
    fputs("    help:*) words=\"", f);
    command_words(f);
    fputs("\" ;;\n    esac\n    if [ -z \"$words\" ] && [[ \"$cur\" == -* ]]; then\n        case \"${COMP_WORDS[1]}\" "
          "in\n",
          f);
    for (size_t i = 0; i < bsi_cli_command_count; i++) {
        fprintf(f, "        %s) words=\"", bsi_cli_commands[i].name);
        option_words(f, &bsi_cli_commands[i], true);
        fputs("\" ;;\n", f);
    }
    fputs("        esac\n    fi\n"
          "    [ -n \"$words\" ] && COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "}\ncomplete -o default -F _bomsync bomsync\n",
          f);
}

static void zsh_completion(FILE *f) {
    fputs("#compdef bomsync\n# zsh completion for bomsync, printed by: bomsync help --completion zsh\n"
          "_bomsync() {\n    local -a commands\n    commands=(\n",
          f);
    for (size_t i = 0; i < bsi_cli_command_count; i++)
        fprintf(f, "        '%s:%s'\n", bsi_cli_commands[i].name, bsi_cli_commands[i].summary);
    fputs("    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n"
          "    if [[ $words[CURRENT] != -* ]]; then\n        _files\n        return\n    fi\n    case $words[2] in\n",
          f);
    for (size_t i = 0; i < bsi_cli_command_count; i++) {
        fprintf(f, "        %s) compadd --", bsi_cli_commands[i].name);
        option_words(f, &bsi_cli_commands[i], false);
        fputs(" ;;\n", f);
    }
    fputs("    esac\n}\n_bomsync \"$@\"\n", f);
}

/* The first sentence ("e.g. " does not end one), with what fish reads inside its quotes escaped. */
static void fish_words(FILE *f, const char *text) {
    for (const char *p = text; *p; p++) {
        if (p[0] == '.' && (!p[1] || (p[1] == ' ' && p[2] >= 'A' && p[2] <= 'Z'))) return;
        if (*p == '\'' || *p == '\\') putc('\\', f);
        putc(*p, f);
    }
}

static void fish_completion(FILE *f) {
    fputs("# fish completion for bomsync, printed by: bomsync help --completion fish\n", f);
    for (size_t i = 0; i < bsi_cli_command_count; i++) {
        const bsi_cli_command *c = &bsi_cli_commands[i];
        fprintf(f, "complete -c bomsync -n __fish_use_subcommand -f -a %s -d '%s'\n", c->name, c->summary);
        for (size_t s = 0; s < BSI_CLI_OPTION_SETS; s++) {
            for (const bsi_cli_option *o = c->sets[s]; o && o->name; o++) {
                fprintf(f, "complete -c bomsync -n '__fish_seen_subcommand_from %s' -l %s", c->name, o->name);
                if (o->letter) fprintf(f, " -s %c", o->letter);
                if (o->argument) fputs(" -r", f);
                if (o->choices) fputs(" -f -a '", f), choice_words(f, o->choices), putc('\'', f);
                fputs(" -d '", f);
                fish_words(f, o->help);
                fputs("'\n", f);
            }
        }
    }
}

/* ---- commands ---- */

static void write_help(FILE *f, const bsi_cli_args *a, const bsi_cli_command *topic) {
    if (a->completion && strcmp(a->completion, "bash") == 0)
        bash_completion(f);
    else if (a->completion && strcmp(a->completion, "zsh") == 0)
        zsh_completion(f);
    else if (a->completion)
        fish_completion(f);
    else if (topic && a->man)
        command_man(f, topic);
    else if (topic)
        command_help(f, topic);
    else if (a->man)
        program_man(f);
    else
        program_help(f);
}

static bomsync_status put_out(bsi_cli_io *io, const char *text, size_t n) {
    return io->out.write(io->out.ctx, text, n) ? BOMSYNC_E_USAGE : BOMSYNC_OK;
}

bomsync_status bsi_cli_help(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    const bsi_cli_command *topic = NULL;
    if (a->word_count && !(topic = bsi_cli_command_find(a->word[0]))) {
        return bsi_cli_unknown_command(err, a->word[0]);
    }
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) return BOMSYNC_E_SPACE;
    write_help(f, a, topic);
    bomsync_status status = fclose(f) ? BOMSYNC_E_SPACE : put_out(io, text, n);
    free(text);
    return status;
}

bomsync_status bsi_cli_version(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err) {
    (void)err;
    char line[128];
    const char *form[2] = {"bomsync ", "\n"};
    if (a->json) form[0] = "{\"message_type\":\"version\",\"version\":\"", form[1] = "\"}\n";
    int n = snprintf(line, sizeof line, "%s%s%s", form[0], bomsync_version(), form[1]);
    return put_out(io, line, (size_t)n);
}
