/* cli_supervise.h - runs the work in a child, so that a damaged store ends with a message and not with a signal. */
#ifndef BSI_CLI_SUPERVISE_H
#define BSI_CLI_SUPERVISE_H

/** How the child ended: signal 0 and its exit code, or the signal. */
typedef struct bsi_cli_end {
    int code;
    int signal;
} bsi_cli_end;

/**
 * Runs work(ctx) in a child and waits for it; what work returns is the child's exit code.
 *
 * INT, TERM, HUP and QUIT that reach the supervisor are passed on. The child dies with its supervisor.
 * Errors: returns -1 with errno if no child could be made
 * Cost:   about 0.2 ms
 */
int bsi_cli_supervise(bsi_cli_end *end, int (*work)(void *ctx), void *ctx);

#endif
