/* run/csv_out.h - a table in export's form: sorted bytewise by key, LF, quotes only where they are needed. */
#ifndef BSI_RUN_CSV_OUT_H
#define BSI_RUN_CSV_OUT_H

#include "bomsync/bomsync.h"
#include "flow/rows.h"

void bsi_csv_field(bsi_buf *b, const void *p, size_t n);

/** Rows gathered in memory, then sorted and written. Slots as in flow/layout.h; order says which column stands where. */
typedef struct bsi_table bsi_table;
bsi_table *bsi_table_open(const bsi_slots *slots);
void bsi_table_add(bsi_table *t, const bsi_field *f); /* [slots->count], copied */
/** Header and rows. null and empty are written as nothing. */
bomsync_status bsi_table_write(bsi_table *t, bomsync_sink out, bomsync_error *err);
void bsi_table_close(bsi_table *t);

#endif
