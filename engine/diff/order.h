/* diff/order.h - do the keys of one stretch ascend, and do the stretches? */
#ifndef BSI_DIFF_ORDER_H
#define BSI_DIFF_ORDER_H

#include "diff/lines.h"

/** One thread's working memory. Zero-initialise, bsi_order_free. */
typedef struct bsi_order {
    uint32_t *key, *line, *chain, *single;
    size_t cap;
} bsi_order;
void bsi_order_free(bsi_order *w);

/** Lines [0, count) of p, which stands at `at` in NEW: adds spans, probes and records to open to t; t->sure false: keys are out of order. */
void bsi_order_take(bsi_tiling *t, bsi_order *w, const bsi_line_shape *s, int isa, const bsi_lines *l, const uint8_t *p, uint64_t at, size_t count);
/** All spans are there: none may reach into another. */
void bsi_order_settle(bsi_tiling *t, const bsi_line_shape *s);
void bsi_order_open(bsi_tiling *t, const bsi_lines *l, size_t line, uint64_t at);

#endif
