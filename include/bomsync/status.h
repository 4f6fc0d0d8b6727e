/* bomsync/status.h - what every call of bomsync answers with.
 *
 * A status is also the exit code of the program (man bomsync, EXIT CODES), so that a number in a log,
 * in a script and in the library means one thing.
 */
#ifndef BOMSYNC_STATUS_H
#define BOMSYNC_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bomsync_status {
    BOMSYNC_OK = 0,
    BOMSYNC_DIFFERENT = 1,  /* diff: differences found; get: no such record */
    BOMSYNC_E_USAGE = 2,    /* usage or configuration */
    BOMSYNC_E_REFUSED = 3,  /* snapshot refused, nothing changed */
    BOMSYNC_EXCEPTIONS = 4, /* done, exceptions are open */
    BOMSYNC_HELD = 5,       /* an approval or evidence is needed */
    BOMSYNC_E_TARGET = 6,   /* target unresolved */
    BOMSYNC_E_INTEGRITY = 7,
    BOMSYNC_E_BUSY = 8, /* another run holds the store */
    BOMSYNC_E_SPACE = 9 /* out of disk or memory */
} bomsync_status;

/**
 * What went wrong, where, and what to do about it.
 *
 * Ownership: the caller's, usually on the stack; no pointers inside
 * Threads:   one thread at a time
 * Errors:    the function that fails sets message; whoever knows the place adds file, byte, column once
 */
typedef struct bomsync_error {
    bomsync_status status;
    char message[512];  /* lower case, no full stop */
    char file[512];     /* "" if no file is concerned */
    int64_t byte;       /* offset in the decoded file, -1 unknown */
    int64_t line;       /* from 1, -1 unknown */
    char column[128];   /* "" unknown */
    char value[104];    /* clipped at 100 bytes */
    char hint[256];     /* what to do next */
} bomsync_error;

#define BOMSYNC_ERROR_INIT {BOMSYNC_OK, "", "", -1, -1, "", "", ""}

#ifdef __cplusplus
}
#endif
#endif
