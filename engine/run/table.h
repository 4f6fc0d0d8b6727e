/* run/table.h - records in any order to CSV in export's form, in bounded memory.
 *
 *   rows of any thread ──by the order of their keys──> parts of some MB ──each sorted──> one part behind the other, as CSV
 *
 * Export's form: a header, columns as slots->order says, rows sorted bytewise key by key, LF, quotes only where they are needed, null and empty
 * as nothing.
 */
#ifndef BSI_RUN_TABLE_H
#define BSI_RUN_TABLE_H

#include "bomsync/bomsync.h"
#include "flow/rows.h"

typedef struct bsi_table bsi_table;
typedef struct bsi_table_options {
    const bsi_slots *slots;   /* flow/layout.h; borrowed. Those that are key stand first */
    uint32_t key_count;       /* slots that are sorted by; those of slots, or all of them */
    int workers;
    uint64_t rows;            /* about so many will come */
    uint64_t memory_bytes;    /* rows above half of it wait in a file without a name in tmp */
    const char *tmp;
} bsi_table_options;
bsi_table *bsi_table_open(const bsi_table_options *o);
/** A row from anywhere, before the first one is added: where the parts end is chosen by these. Without any all rows are one part, which must fit into memory. One thread. */
void bsi_table_sample(bsi_table *t, const bsi_field *f);
/** [slots->count], copied. lane: below workers, one for each thread. E_SPACE where the file finds no room. */
bomsync_status bsi_table_add(bsi_table *t, int lane, const bsi_field *f, bomsync_error *err);
/** Header and rows, by all workers; out is called by one at a time. Rows with the same key stand in the order of their text. */
bomsync_status bsi_table_write(bsi_table *t, bomsync_sink out, bomsync_error *err);
void bsi_table_close(bsi_table *t); /* NULL is fine */

#endif
