/* cli_progress.h - one line on the terminal that says how far the work is. */
#ifndef BSI_CLI_PROGRESS_H
#define BSI_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Shows progress only if stderr is a terminal that can erase a line. */
void bsi_cli_progress_start(bool wanted);

/** The callback for the engine. Threads: any one at a time. */
void bsi_cli_progress_show(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes, uint64_t records);

/** Takes the line away; harmless if there is none. Threads: any. */
void bsi_cli_progress_erase(void);

/** For the supervisor: takes the line of a child away that has died. */
void bsi_cli_progress_abandon(void);

/** Writes to stderr after taking the line away. Threads: any. */
void bsi_cli_progress_write(const void *bytes, size_t n);

#endif
