/* cli_output.h - where the product, the talk, the progress and the errors of a command go. */
#ifndef BSI_CLI_OUTPUT_H
#define BSI_CLI_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "bomsync/bomsync.h"

#define BSI_CLI_BUFFER_BYTES (256u << 10) /* few enough writes that their cost is lost beside the copy */

/** The product: stdout, or a file that appears under its name only when the command has succeeded. */
typedef struct bsi_cli_output {
    int fd;
    char *buffer;
    size_t used_bytes;
    int error;        /* errno of the first write that failed, 0: none */
    const char *path; /* NULL: stdout */
    char *target;     /* path after symbolic links; NULL: written in place (a device, a pipe) */
    char *temporary;  /* name beside the target */
    bool nameless;    /* the file has no name until it is kept */
} bsi_cli_output;

/** All that a command may write to. */
typedef struct bsi_cli_io {
    bsi_cli_output product;
    bomsync_sink out, talk;
    bomsync_progress progress; /* NULL: none wanted */
} bsi_cli_io;

/** "FILE.tmp-<pid>", to be made by the supervisor, which removes it if its child dies. NULL for path NULL. */
char *bsi_cli_output_temporary(const char *path);

/** Errors: BOMSYNC_E_USAGE, BOMSYNC_E_SPACE; nothing is left behind. temporary is borrowed. */
bomsync_status bsi_cli_output_open(bsi_cli_output *o, const char *path, char *temporary, bomsync_error *err);

/** Flushes; keep gives the file its name, else it is gone. A closed pipe is no error here: see o->error. */
bomsync_status bsi_cli_output_close(bsi_cli_output *o, bool keep, bomsync_error *err);

bomsync_sink bsi_cli_output_sink(bsi_cli_output *o);

/** Writes to stderr, after taking a progress line away; quiet: drops everything. */
bomsync_sink bsi_cli_talk_sink(bool quiet);

/** Writes all n bytes; returns 0 or errno. */
int bsi_cli_write_all(int fd, const void *bytes, size_t n);

/** The error as text on stderr, or as one object on stdout. */
void bsi_cli_error_print(const bomsync_error *err, bool json);

/** A note on stderr about a call that succeeded. */
void bsi_cli_warning_print(const bomsync_error *err);

#endif
