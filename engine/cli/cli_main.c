/* cli_main.c - finds the command, reads its arguments, runs it under the supervisor, and ends with its exit code.
 *
 *     argv -> command, arguments -> supervisor -> child: product open -> run -> product kept or dropped
 *                                       |
 *                                       +-> signal or exit code -> --exit-zero-on -> exit
 *
 * Everything about a command is in the table of cli_commands.c; nothing here knows one by name but help and version.
 */
#include "cli_actions.h"
#include "cli_args.h"
#include "cli_output.h"
#include "cli_progress.h"
#include "cli_supervise.h"
#include "exit_codes.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

typedef struct job {
    const bsi_cli_command *command;
    bsi_cli_args args;
    char *temporary; /* name of the product while it is written, NULL: stdout */
} job;

/* jemalloc reads this: huge pages where the kernel lets a program ask for them. A run of seconds that fills hundreds of
 * megabytes spent a third of its time in page faults without. */
extern const char *malloc_conf;
const char *malloc_conf = "thp:always,narenas:4,dirty_decay_ms:10000,muzzy_decay_ms:0";

/* But not for the first page that is touched, in the supervisor and again in its child: 2 MB each were cleared for a few hundred kB,
   a fifth of a run of 4 ms. So the program starts without, before jemalloc does, and work() begins with what it was started with. */
static bool pages_held_small;

__attribute__((constructor(101))) static void hold_pages_small(void) {
    pages_held_small = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0;
}

/* A closed 0, 1 or 2 would be taken by the next file that is opened, and the product would go there. Each gets
   /dev/null, opened the wrong way round so that its use still fails. */
static void hold_standard_files(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        int got = open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        if (got != fd) _exit(BOMSYNC_E_USAGE);
    }
}

static bool made_product(int code) {
    return code == BOMSYNC_OK || code == BOMSYNC_DIFFERENT || code == BOMSYNC_EXCEPTIONS || code == BOMSYNC_HELD;
}

/* Of two codes the one that matters more: 7, 9, 8, 2, 3, 6, 5, 4, 1, 0. */
static bomsync_status graver(bomsync_status a, bomsync_status b) {
    static const int weight[BSI_CLI_EXIT_COUNT] = {0, 1, 6, 5, 2, 3, 4, 9, 7, 8};
    return weight[a] >= weight[b] ? a : b;
}

static void report(bomsync_error *err, bomsync_status status, const bsi_cli_args *args) {
    if (made_product((int)status)) {
        if (*err->message && !args->quiet) bsi_cli_warning_print(err);
        return;
    }
    err->status = status;
    if (!*err->message) snprintf(err->message, sizeof err->message, "%s", bsi_cli_exit_words[status]);
    bsi_cli_error_print(err, args->json);
}

/* The reader of the product has gone, as `head` does. That is no fault; but an exit code that is an answer ("equal")
   must not be given by a run that was stopped. */
static bomsync_status pipe_closed(const bsi_cli_command *command, bomsync_status status) {
    if (made_product((int)status)) return status;
    return command->flags & BSI_CLI_ANSWERS ? BOMSYNC_E_USAGE : BOMSYNC_OK;
}

static bool keeps(const bsi_cli_command *command, bomsync_status status) {
    return made_product((int)status) || (command->flags & BSI_CLI_FAULTS && status == BOMSYNC_E_INTEGRITY);
}

static int work(void *ctx) {
    job *j = ctx;
    bomsync_error err = BOMSYNC_ERROR_INIT, late = BOMSYNC_ERROR_INIT;
    if (pages_held_small) prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    bsi_cli_io io = {.talk = bsi_cli_talk_sink(j->args.quiet), .progress = bsi_cli_progress_show};
    bomsync_status status = bsi_cli_output_open(&io.product, j->args.output, j->temporary, &err);
    if (!status) {
        io.out = bsi_cli_output_sink(&io.product);
        status = j->command->run(&j->args, &io, &err);
    }
    bsi_cli_progress_erase();
    bomsync_status closed = bsi_cli_output_close(&io.product, keeps(j->command, status), &late);
    bool own_fault = status == BOMSYNC_E_USAGE || status == BOMSYNC_E_SPACE || made_product((int)status);
    if (io.product.error == EPIPE && own_fault) return (int)pipe_closed(j->command, status);
    if (!*err.message && *late.message) err = late;
    status = graver(status, closed);
    report(&err, status, &j->args);
    return (int)status;
}

/* ---- the end ---- */

static bool is_crash(int sig) {
    return sig == SIGBUS || sig == SIGSEGV || sig == SIGABRT || sig == SIGFPE;
}

static int crashed(const job *j, int sig) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    const char *store = j->args.store;
    err.status = BOMSYNC_E_INTEGRITY;
    snprintf(err.message, sizeof err.message, "the work ended with signal %d (%s); %s", sig, strsignal(sig),
             store ? "the store may be damaged" : "an input may have been cut short while it was read");
    if (store) {
        snprintf(err.file, sizeof err.file, "%s", store);
        snprintf(err.hint, sizeof err.hint, "run bomsync verify --store %.100s; if it finds damage, restore a backup",
                 store);
    } else {
        snprintf(err.hint, sizeof err.hint, "run it again on files that nobody writes to");
    }
    bsi_cli_error_print(&err, j->args.json);
    return BOMSYNC_E_INTEGRITY;
}

/* Neither a fault of the data nor asked for at the terminal. */
static void killed(const job *j, int sig) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    err.status = (bomsync_status)(BSI_CLI_EXIT_SIGNAL + sig);
    snprintf(err.message, sizeof err.message, "the work was ended by signal %d (%s)", sig, strsignal(sig));
    if (sig == SIGKILL) snprintf(err.hint, sizeof err.hint, "a system that is short of memory does that");
    bsi_cli_error_print(&err, j->args.json);
}

static int exit_code(const job *j, bsi_cli_end end) {
    if (!end.signal) return end.code;
    bsi_cli_progress_abandon();
    if (is_crash(end.signal)) return crashed(j, end.signal);
    if (end.signal != SIGINT && end.signal != SIGTERM && end.signal != SIGHUP) killed(j, end.signal);
    return BSI_CLI_EXIT_SIGNAL + end.signal;
}

static int supervised(job *j) {
    bsi_cli_end end;
    if (bsi_cli_supervise(&end, work, j)) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        err.status = BOMSYNC_E_SPACE;
        snprintf(err.message, sizeof err.message, "could not start the work: %s", strerror(errno));
        bsi_cli_error_print(&err, j->args.json);
        return BOMSYNC_E_SPACE;
    }
    int code = exit_code(j, end);
    if (j->temporary && !made_product(code)) unlink(j->temporary); /* mostly there is none */
    return code;
}

static int run_command(const bsi_cli_command *command, int argc, char **argv) {
    static job j; /* lives until the process ends, in the child too */
    bomsync_error err = BOMSYNC_ERROR_INIT;
    j.command = command;
    bool json = bsi_cli_args_json(argc, argv);
    if (bsi_cli_args_read(&j.args, command, argc, argv, &err)) {
        bsi_cli_error_print(&err, json);
        return BOMSYNC_E_USAGE;
    }
    const char *const topic[] = {command->name};
    if (j.args.help) {
        j = (job){.command = bsi_cli_command_find("help"), .args = {.word = topic, .word_count = 1}};
        return work(&j);
    }
    if (j.args.output && strcmp(j.args.output, "-") == 0) j.args.output = NULL;
    j.temporary = bsi_cli_output_temporary(j.args.output);
    bsi_cli_progress_start(!j.args.quiet && !j.args.json);
    int code = command->flags & BSI_CLI_PLAIN ? work(&j) : supervised(&j);
    return code < BSI_CLI_EXIT_COUNT && (j.args.zero_codes >> code & 1) ? BOMSYNC_OK : code;
}

int main(int argc, char **argv) {
    hold_standard_files();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe and a file size limit are answers of write() */
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2) {
        bsi_cli_short_usage();
        return BOMSYNC_E_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) name = "help";
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) name = "version";
    const bsi_cli_command *command = bsi_cli_command_find(name);
    if (!command) {
        bomsync_error err = BOMSYNC_ERROR_INIT;
        bsi_cli_unknown_command(&err, name);
        bsi_cli_error_print(&err, bsi_cli_args_json(argc - 1, argv + 1));
        return BOMSYNC_E_USAGE;
    }
    return run_command(command, argc - 2, argv + 2);
}
