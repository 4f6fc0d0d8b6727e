/* run/scan_lines.h - line numbers of many places of a snapshot, without reading it again.
 *
 * Who tells which records are wrong names the line of each. bsi_scan_line counts line ends from the top of the file: as long as a look
 * at the whole snapshot takes, for one record near its end. Here the blocks in front are added up.
 */
#ifndef BSI_RUN_SCAN_LINES_H
#define BSI_RUN_SCAN_LINES_H

#include "run/scan.h"

/** Set scan and image (as matched runs name its entries; NULL: there are none), the rest zero. */
typedef struct bsi_scan_lines_walk {
    bsi_scan *scan;
    const bsi_image *image;
    size_t run;        /* to go through next */
    uint64_t block;    /* of it, to go through next */
    uint64_t offset;   /* of it, in its file */
    size_t last;       /* asked for */
    int64_t line;      /* that starts there; -1: it must be counted from the top */
    bsi_buf buf;
} bsi_scan_lines_walk;

/**
 * Shape:   open: an open block; byte: of its file, in that block; before: line ends between the block's start and it, -1 if nobody
 *          counted them. Cheap where the blocks of one call after the other ascend
 * Returns: the number of the line that holds it, from 1, as bsi_scan_line counts; -1 if it cannot be told
 * Cost:    a few ns for each block passed; one whose line ends do not show in its counts is read (line ends in quotes, entries of old images)
 * Threads: one
 */
int64_t bsi_scan_lines_to(bsi_scan_lines_walk *w, size_t open, uint64_t byte, int64_t before);
void bsi_scan_lines_end(bsi_scan_lines_walk *w);

#endif
