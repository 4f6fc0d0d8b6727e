/* cli_actions.h - what each command does: one call of the public API. The table of cli_commands.c points here. */
#ifndef BSI_CLI_ACTIONS_H
#define BSI_CLI_ACTIONS_H

#include "cli_args.h"
#include "cli_output.h"

typedef bomsync_status bsi_cli_action(const bsi_cli_args *a, bsi_cli_io *io, bomsync_error *err);

bsi_cli_action bsi_cli_diff, bsi_cli_apply, bsi_cli_init, bsi_cli_sync, bsi_cli_export, bsi_cli_log, bsi_cli_show;
bsi_cli_action bsi_cli_cat, bsi_cli_get, bsi_cli_history, bsi_cli_diff_generations, bsi_cli_revert;
bsi_cli_action bsi_cli_exceptions, bsi_cli_holds, bsi_cli_approve, bsi_cli_decline, bsi_cli_audit, bsi_cli_verify;
bsi_cli_action bsi_cli_backup, bsi_cli_restore, bsi_cli_gc, bsi_cli_stats, bsi_cli_status, bsi_cli_doctor, bsi_cli_gen;
bsi_cli_action bsi_cli_bench;
bsi_cli_action bsi_cli_pack;
bsi_cli_action bsi_cli_help, bsi_cli_version; /* cli_help.c */

/** What `bomsync` alone says, on stderr. */
void bsi_cli_short_usage(void);

#endif
