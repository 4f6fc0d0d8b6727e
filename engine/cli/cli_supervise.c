/* cli_supervise.c - a small parent that outlives whatever a broken store does to its child.
 *
 *     supervisor --fork--> child: opens the store, holds the lock, writes the product
 *        |   <-- SIGCHLD --- exit code, or SIGBUS / SIGSEGV / SIGABRT
 *        +--- INT, TERM, HUP, QUIT passed on
 *
 * A mapped file that was cut short is a SIGBUS, a wrong page number a SIGSEGV; neither can be handled well inside the
 * process. The supervisor holds no lock and no file. Its signals are blocked before the fork and taken one by one with
 * sigwaitinfo, so there is no handler and no race; the child gets the old mask back. A signal that was ignored when the
 * program started (nohup, a background job) stays ignored.
 */
#include "cli_supervise.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define ORPHAN 137 /* as if killed: nobody is left to read it */

static const int passed_on[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

static void choose_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGCHLD);
    for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++) {
        struct sigaction old;
        if (sigaction(passed_on[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaddset(set, passed_on[i]);
    }
}

static _Noreturn void be_child(pid_t supervisor, const sigset_t *mask, int (*work)(void *ctx), void *ctx) {
    /* The supervisor may have died before prctl: then nobody would send the signal. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != supervisor) _exit(ORPHAN);
    sigprocmask(SIG_SETMASK, mask, NULL);
    exit(work(ctx));
}

static bool collect(bsi_cli_end *end, pid_t child) {
    int state;
    pid_t got = waitpid(child, &state, WNOHANG);
    if (got == 0 || (got < 0 && errno == EINTR)) return false; /* stopped or continued, not ended */
    if (got < 0)
        *end = (bsi_cli_end){.signal = SIGKILL};
    else if (WIFSIGNALED(state))
        *end = (bsi_cli_end){.signal = WTERMSIG(state)};
    else
        *end = (bsi_cli_end){.code = WEXITSTATUS(state)};
    return true;
}

int bsi_cli_supervise(bsi_cli_end *end, int (*work)(void *ctx), void *ctx) {
    sigset_t set, old;
    pid_t supervisor = getpid();
    signal(SIGCHLD, SIG_DFL); /* ignored by a careless caller, children would vanish unseen */
    choose_signals(&set);
    sigprocmask(SIG_BLOCK, &set, &old);
    pid_t child = fork();
    if (child == 0) be_child(supervisor, &old, work, ctx);
    if (child < 0) return -1;
    for (;;) {
        siginfo_t info;
        int got = sigwaitinfo(&set, &info);
        if (got < 0) continue;
        if (got != SIGCHLD)
            kill(child, got); /* gone already: its end is collected next */
        else if (collect(end, child))
            return 0;
    }
}
