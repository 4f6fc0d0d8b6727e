/* cut/cut_inner.h - what the variants of cut share. */
#ifndef BSI_CUT_INNER_H
#define BSI_CUT_INNER_H

#include "core/limits.h"
#include "flow/block.h"

int bsi_cut_scalar(bsi_cut *out, const bsi_cut_options *o, const uint8_t *p, size_t n, bool at_end);
#if defined(__x86_64__)
int bsi_cut_avx2(bsi_cut *out, const bsi_cut_options *o, const uint8_t *p, size_t n, bool at_end);
int bsi_cut_avx512(bsi_cut *out, const bsi_cut_options *o, const uint8_t *p, size_t n, bool at_end);
#endif

/** Decision on a record above BSI_RECORD_BYTES_MAX that starts at c->bytes of p[0..n); end: past its line end, 0 if that is not
 *  in sight. c holds what stands before it. Returns as bsi_cut_block. */
int bsi_cut_oversize(bsi_cut *c, const bsi_cut_options *o, const uint8_t *p, size_t n, size_t end, bool at_end);

#endif
