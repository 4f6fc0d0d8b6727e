/* run/manifest.h - a generation as JSON and as text. */
#ifndef BSI_RUN_MANIFEST_H
#define BSI_RUN_MANIFEST_H

#include "flow/store.h"

/** outbox/<generation>/manifest.json. free(). */
char *bsi_manifest_json(const bsi_generation *g, const char *store_id);
/** The `--json` object of a generation; show adds partitions, chunks, files. number 0: no generation was made. free(). */
char *bsi_generation_json(const bsi_generation *g, bool show);
/** The same without the members that every line of the journal has. free(). */
char *bsi_generation_journal(const bsi_generation *g);
/** The same for people, lines with LF. free(). */
char *bsi_generation_text(const bsi_generation *g, bool show);

#endif
