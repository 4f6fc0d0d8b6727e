/* run/scan_inner.h - what the files of the scan share: a cursor walks, lists take what it found.
 *
 *   scan.c          files and their headers, cold files; the whole scan                bsi_scan_open, bsi_scan_blocks
 *   scan_units.c    stretches of files among workers, joined to one chain      ┐
 *   scan_cursor.c   the chain of one file from a byte on: cut, match           ├ one step: a run of matched blocks, or an open one
 *   scan_found.c    lists of runs and open blocks                              ┘
 *   scan_bytes.c    bytes of blocks that were passed already: parse and changes read them again
 */
#ifndef BSI_RUN_SCAN_INNER_H
#define BSI_RUN_SCAN_INNER_H

#include <pthread.h>
#include <stdatomic.h>

#include "run/scan.h"

enum {
    BSI_SCAN_MARGIN = 64,    /* bytes behind those of a buffer that may be looked at */
    BSI_SCAN_CHECKED = 4096, /* pages of the image that were changed in part take turns with those that have the changes, of each night others */
};

/* ---- cold files, in parts (scan.c) ---- */

struct bsi_scan_ahead {
    bool *cold; /* [files] are read in parts */
    bool any;
    bsi_ahead_part *part; /* of the cold files, in order */
    size_t parts;
    bsi_ahead *queue; /* NULL: there are none, or they are read with pread */
};

/* ---- the chain of blocks of one file (scan_cursor.c) ---- */

/** The exact entries of the image as a hash table: number + 1 of each, by the low half of its fingerprint or, `plain`, of its unseeded digest; 0: free.
 *  *mask: slots - 1. About 45 ns an entry. bsi_vast_free. */
uint32_t *bsi_image_slots(uint64_t *mask, const bsi_image *image, bool plain);
/** All exact entries of the image by fingerprint: made by whoever cannot do without it first. Any thread. */
typedef struct bsi_scan_index {
    pthread_mutex_t lock;
    atomic_bool ready;
    atomic_ullong lost; /* blocks that workers opened while they did not know where they were */
    uint32_t *slot; /* index + 1 */
    uint64_t mask;
} bsi_scan_index;
void bsi_scan_index_init(bsi_scan_index *x);
void bsi_scan_index_release(bsi_scan_index *x);

/** Where the chain of a file stands. One thread. Others read offset, next and trust, and set quiet. */
typedef struct bsi_scan_cursor {
    bsi_scan_file *f;
    uint32_t file;
    const bsi_scan_options *o;
    bsi_cut_options cut;
    bsi_scan_index *index;
    bsi_buf *buf;       /* bytes from the byte at `offset - at` on */
    bsi_buf *own;       /* buf is a view of what read ahead brought: what is read behind it comes here; else NULL */
    uint64_t to;        /* no block that starts here or later is wanted: little is read past it */
    bsi_ahead *ahead;   /* whose */
    bool direct;        /* the bytes of buf are not in the page cache */
    size_t at;          /* next block starts at buf->data[at] */
    uint64_t offset;    /* of that byte in the file */
    bool end;           /* buf reaches the end of the file */
    uint64_t next;      /* image entry expected here */
    bool trust;         /* the last block matched: try the stored length first */
    bool in_step;       /* it did, or stands in the place of its entry */
    unsigned lost;
    unsigned quiet;     /* so many open blocks are shown to nobody: the chain may not reach them */
    bsi_image_walk walk;
    uint64_t checked[BSI_SCAN_CHECKED]; /* ids of pages whose checksums were found right, each at the place that its low bits name */
} bsi_scan_cursor;

/** What one step of the chain found: matched entries first..first+count, or one open block. */
typedef struct bsi_scan_step {
    bsi_scan_run run;
    bsi_scan_block block;
} bsi_scan_step;

/** At byte `offset` of a file, where entry `next` is expected. Borrows all of it while it is used; buf is emptied, and grows. */
void bsi_scan_cursor_open(bsi_scan_cursor *c, bsi_scan *scan, uint32_t file, const bsi_scan_options *o, bsi_scan_index *index, bsi_buf *buf,
                          uint64_t offset, uint64_t to, uint64_t next);
/** It stands in what came for a part of a cold file, which must not be given back before. view: made here, stays as long. */
void bsi_scan_cursor_use(bsi_scan_cursor *c, const bsi_scan_ahead *a, bsi_buf *view, const bsi_arrival *came);
/** To a place close by where a block may start. else_next: the entry that is about there, if the expected one is not. */
bomsync_status bsi_scan_cursor_start(bsi_scan_cursor *c, uint64_t else_next, bomsync_error *err);
/** The next blocks of the chain; *more false at the end of the file. Matched blocks may come many at once, but none that
 *  starts at or after `until`. */
bomsync_status bsi_scan_cursor_step(bsi_scan_cursor *c, uint64_t until, bsi_scan_step *s, bool *more, bomsync_error *err);

/* ---- lists of what was found (scan_found.c) ---- */

/** Of a unit, or of all. Zero-initialise but for vast. One thread at a time. */
typedef struct bsi_scan_found {
    bsi_scan_run *run;
    size_t runs, run_cap;
    bsi_scan_block *block; /* or brief, as the options say */
    bsi_scan_brief *brief;
    size_t blocks, block_cap;
    bsi_scan_unseen *unseen; /* of brief: those without a tag; few */
    size_t unseens, unseen_cap;
    uint64_t listed;       /* blocks of all runs */
    bool vast;             /* it may become long: those of a stretch of a file do not */
} bsi_scan_found;

void bsi_scan_found_add(bsi_scan_found *f, bsi_scan_step *s, bool brief); /* s->run.first of an open block is set */
/** Room for what `next` brings, and for what is still to come: with it `done` of `of` such lists are there. */
void bsi_scan_found_expect(bsi_scan_found *all, const bsi_scan_found *next, size_t done, size_t of, bool brief);
typedef struct bsi_scan_place { /* in a list: block `skip` of run `run`, which starts at `offset` */
    size_t run;
    uint64_t skip, offset, records;
} bsi_scan_place;
/** On to the first block that starts at or after pos. at zero-initialised; at->run == f->runs: there is none. */
void bsi_scan_found_reach(bsi_scan_place *at, const bsi_scan_found *f, const bsi_image *image, uint64_t pos);
/** The rest of a list, from there on, to the end of `all`; *pos: where it ends in the file. */
void bsi_scan_found_adopt(bsi_scan_found *all, const bsi_scan_found *from, bsi_scan_place at, uint64_t *pos);
void bsi_scan_found_free(bsi_scan_found *f);
/** Each entry once, in file order: a second block with the same bytes is looked at. Sets scan->ascending. */
void bsi_scan_settle(bsi_scan *s, const bsi_image *image);

/* ---- units (scan_units.c) ---- */

/** The whole chain of all files, and scan->mark. *all is set, and the caller's, whatever is returned. o->image: NULL, or not empty.
 *  scan->ahead must be there. */
bomsync_status bsi_scan_units(bsi_scan_found *all, bsi_scan *scan, const bsi_scan_options *o, bomsync_error *err);

/* ---- bytes (scan_bytes.c) ---- */

static inline bool bsi_scan_comes_once(const bsi_scan_file *f) { return !bsi_source_random(f->source) && !bsi_source_reopens(f->source); }
/** Bytes of a stream that comes once which are not in its spill file: the end of a record that is passed over. In ascending order. */
void bsi_scan_add_hole(bsi_scan_file *f, uint64_t at, uint64_t bytes, int64_t lines);
void bsi_scan_bytes_close(bsi_scan_file *f); /* its spill file, and what is known of it */

#endif
