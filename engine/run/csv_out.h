/* run/csv_out.h - a value as CSV: quotes only where it holds a comma, a quote or a line end. */
#ifndef BSI_RUN_CSV_OUT_H
#define BSI_RUN_CSV_OUT_H

#include "core/base.h"

void bsi_csv_field(bsi_buf *b, const void *p, size_t n);
bool bsi_csv_needs_quotes(const uint8_t *p, size_t n);
/** At most 2 n + 2 bytes to `to`; returns the byte behind them. */
uint8_t *bsi_csv_quoted(uint8_t *to, const uint8_t *p, size_t n);

#endif
