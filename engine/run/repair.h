/* run/repair.h - the outbox made whole again. */
#ifndef BSI_RUN_REPAIR_H
#define BSI_RUN_REPAIR_H

#include "flow/store.h"

/** Chunks and manifests that are missing or damaged are written again where the result is what the generation's record says.
 *  told gets a line for each that was, or could not be. s is open for writing. Damage elsewhere is left for verify to tell. */
bomsync_status bsi_repair_outbox(bsi_store *s, void (*told)(void *ctx, const char *line), void *ctx, bomsync_error *err);

#endif
