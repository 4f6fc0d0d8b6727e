/* run/scan_split.h - where in the image a unit of a snapshot begins. */
#ifndef BSI_RUN_SCAN_SPLIT_H
#define BSI_RUN_SCAN_SPLIT_H

#include "flow/store.h"

/** Borrows image and marks. One thread makes it; any may ask. */
typedef struct bsi_split {
    const bsi_image *image; /* NULL: there is none, nothing is known */
    const bsi_image_mark *mark; /* NULL: what is below */
    size_t marks;
    uint64_t *piece_bytes; /* [piece_count + 1] bytes before each piece, in its file */
    uint8_t *has_end;      /* [piece_count] a file ends in it */
    uint64_t *file_first;  /* entry index at which each file starts */
    size_t file_count;
} bsi_split;

/** Cost: with marks none, else each page of the image is read once, by workers. */
void bsi_split_open(bsi_split *x, const bsi_image *image, const bsi_image_mark *mark, size_t marks, int workers);
/** A guess: the first entry of the file's image that starts at or after `offset` (in the file, whose first record stands at body), or one at
 *  most `late` bytes behind it, and in *start where. UINT64_MAX: not known. What is guessed wrong costs time. */
uint64_t bsi_split_near(const bsi_split *x, uint32_t file, uint64_t body, uint64_t offset, uint64_t late, uint64_t *start);
void bsi_split_close(bsi_split *x);

#endif
