/* exit_codes.h - what each exit code means, in the words that the help and the man pages print.
 *
 * The numbers are those of bomsync/status.h: a status of the library is the exit code of the program.
 */
#ifndef BSI_CLI_EXIT_CODES_H
#define BSI_CLI_EXIT_CODES_H

#include "bomsync/status.h"

#define BSI_CLI_EXIT_COUNT 10
#define BSI_CLI_EXIT_SIGNAL 128 /* 128 + n: ended by signal n */

/** "done", "snapshot refused, nothing changed", ... for 0..9. */
extern const char *const bsi_cli_exit_words[BSI_CLI_EXIT_COUNT];

#endif
