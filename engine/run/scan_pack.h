/* run/scan_pack.h - matching the index of a pack with the image, without reading the file. */
#ifndef BSI_RUN_SCAN_PACK_H
#define BSI_RUN_SCAN_PACK_H

#include "run/scan.h"

typedef struct bsi_scan_pack_image bsi_scan_pack_image;

/**
 * The blocks of one file of the scan, from its index.
 *
 * Returns: *used false: not a pack, or its index does not fit this run; the file is then cut and hashed like any other.
 *          Else all blocks in order, malloc'ed, and the entries they matched (UINT32_MAX: none; those have fingerprints)
 * Shape:   *image starts at NULL, is made at the first file that needs it, and goes to bsi_scan_pack_image_free
 * Errors:  E_REFUSED where a block that had to be read is not what the index says; faults of reading
 */
bomsync_status bsi_scan_pack(bool *used, bsi_scan_block **block, uint32_t **match, size_t *count, bsi_scan *scan, uint32_t file, const bsi_scan_options *o,
                             bsi_scan_pack_image **image, bomsync_error *err);
void bsi_scan_pack_image_free(bsi_scan_pack_image *image);

#endif
