/* run/scan_probe.h - are most blocks of a snapshot in an image? Asked before it is scanned. */
#ifndef BSI_RUN_SCAN_PROBE_H
#define BSI_RUN_SCAN_PROBE_H

#include "run/scan.h"

typedef struct bsi_scan_probe_options {
    const bsi_image *image;
    const bsi_secret *secret;
    const char *isa;            /* NULL: the best of this machine */
    bsi_block_size block_size;
    int workers;
} bsi_scan_probe_options;

/** Can every file be read anywhere? */
bool bsi_scan_may_probe(const bsi_scan *scan);
/** *known: at least half of the blocks that were looked at are. The files are open, and may be probed; a hundred small reads at most. */
bomsync_status bsi_scan_probe(bool *known, bsi_scan *scan, const bsi_scan_probe_options *o, bomsync_error *err);

/** Gives fn the bytes of some blocks at the front or the back of the snapshot as the scan will cut them, but for the first one at the back. */
typedef void bsi_scan_block_fn(void *ctx, const bsi_layout *layout, const uint8_t *p, size_t n);
bomsync_status bsi_scan_end(bsi_scan *scan, const bsi_scan_probe_options *o, bool back, bsi_scan_block_fn *fn, void *ctx, bomsync_error *err);

#endif
