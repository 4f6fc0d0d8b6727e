/* run/scan.h - a snapshot's files to one ordered list of blocks, each matched with the last image or not.
 *
 * The list is the same for any number of workers: see scan_units.c. What the files of the scan share: scan_inner.h.
 */
#ifndef BSI_RUN_SCAN_H
#define BSI_RUN_SCAN_H

#include "bomsync/bomsync.h"
#include "flow/block.h"
#include "flow/rows.h"
#include "flow/source.h"
#include "flow/store.h"

#define BSI_NO_SPILL UINT64_MAX
#define BSI_NO_TAG UINT64_MAX

/** A block that no exact entry of the image stands for. */
typedef struct bsi_scan_block {
    uint64_t offset;     /* in the decoded file, of its first byte */
    uint64_t spill;      /* offset of its bytes in the spill file (streams, packs, cold files); BSI_NO_SPILL: not there */
    uint64_t tag;        /* what `opened` made of it; BSI_NO_TAG: it was not asked */
    bsi_hash128 fp, plain;
    uint32_t file, bytes, records, blanks, flags;
    uint32_t part;       /* whoever sets the tag may use it */
} bsi_scan_block;

/** The same in few bytes, for who has all blocks open and few of them open for long: where it starts follows from the run. */
typedef struct bsi_scan_brief {
    bsi_hash128 plain;
    uint64_t tag;
    uint32_t bytes;
    uint16_t records, flags; /* a block has no more than 65535 */
} bsi_scan_brief;

/** A block of the brief list that `opened` was not asked about. */
typedef struct bsi_scan_unseen {
    size_t brief;
    uint64_t offset;
    uint32_t file;
} bsi_scan_unseen;

/** Blocks that stand one behind the other in a file: all matched with entries that stand one behind the other in the
 *  image, or all open. */
typedef struct bsi_scan_run {
    uint64_t first;      /* matched: index of the first entry in the image; open: index in bsi_scan.block, or .brief */
    uint64_t count;
    uint64_t offset;     /* in the decoded file, of its first byte */
    uint64_t bytes, records;
    uint64_t spill;      /* matched, streams with keep_stream_bytes: offset of its bytes in the spill file; else BSI_NO_SPILL */
    uint32_t file;
    bool matched;
} bsi_scan_run;

typedef struct bsi_scan_lines bsi_scan_lines;
typedef struct bsi_scan_again bsi_scan_again;
typedef struct bsi_scan_ahead bsi_scan_ahead;

typedef struct bsi_scan_file {
    bsi_source *source;
    bsi_layout *layout;  /* NULL: the file has no header, nothing at all in it */
    uint64_t body;       /* offset of the first record */
    int64_t records;
    int spill_fd;        /* streams, packs, cold files: bytes of unmatched blocks; -1 */
    _Atomic uint64_t spill_bytes;
    bsi_buf head;        /* streams: bytes read while looking for the header */
    bool at_end;         /* streams: head holds the whole file */
    int64_t body_line;   /* lines in front of the first record, and one */
    bsi_scan_lines *lines; /* a stream that comes once: see bsi_scan_line; NULL: nothing to tell yet */
    bsi_scan_again *again; /* blocks of a stream that were read a second time; NULL: none */
} bsi_scan_file;

typedef struct bsi_scan {
    bsi_scan_file *file;
    size_t file_count;
    bsi_scan_run *run;   /* in the order of files and bytes; runs of both kinds */
    size_t run_count;
    bsi_scan_block *block; /* the open ones, in order; "open" is an index here */
    size_t block_count;
    bsi_scan_brief *brief; /* in place of block, where the options asked for it; NULL: they did not */
    size_t brief_count;
    bsi_scan_unseen *unseen; /* with brief: those without a tag, ascending */
    size_t unseen_count;
    bsi_rows **parsed;   /* [block_count] rows of open blocks that are kept in memory, all or some; NULL: parse again; or NULL */
    bsi_image_mark *mark; /* where some of all blocks start (.entry: how many stand before), for the image that is made of them */
    size_t mark_count;
    uint64_t blocks;     /* all: open and matched */
    uint64_t bytes;      /* decoded, all files */
    bsi_scan_ahead *ahead; /* cold files whose reading was started; NULL: not yet, or no more */
    const char *tmp;     /* folder of spill files, as in the options */
    bool ascending;      /* matched runs ascend in the image: nothing moved */
} bsi_scan;

/** What the image has where a block stands that is not it. */
typedef struct bsi_scan_expected {
    uint64_t index;
    const bsi_image_entry *entry; /* NULL: the image is at its end, or there is none */
    bool behind;                  /* the block before this one is that of the entry before, or stands in its place */
} bsi_scan_expected;

typedef struct bsi_scan_options {
    const bomsync_read_options *read;
    bsi_isa isa;
    int workers;
    bsi_block_size block_size;
    bool tier_block, tier_sequence;
    const bsi_secret *secret;
    const bsi_image *image;   /* NULL: none */
    const bsi_image_mark *mark; /* of the image; none: its entries are added up */
    size_t mark_count;
    const uint8_t *image_digest; /* [32] digest of the snapshot that the image was written from, zeros: unknown; NULL: the same */
    const bsi_store *store;   /* whose image it is: its pages are checked before they are used; NULL: made in memory */
    const char *tmp;          /* folder for spills */
    /** Gets matched blocks while their bytes are at hand: entries first..first+count of the image, of this file. Any worker (bsi_lane). It may
     *  get blocks that the chain does not reach in the end. NULL: nobody asks. */
    void (*matched)(void *ctx, const bsi_layout *layout, uint64_t first, uint64_t count, const uint8_t *p);
    void *matched_ctx;
    /** Gets open blocks of plain files while their bytes are at hand, and may set their tag. Not those that a worker sees first, where the
     *  chain may not come along. True: the block stands in the place of the entry that was expected, so that the next one is expected
     *  behind it. Any worker (bsi_lane). NULL: nobody asks. */
    bool (*opened)(void *ctx, const bsi_layout *layout, bsi_scan_block *b, const uint8_t *p, bsi_scan_expected x);
    /** Gets those of them that the chain does not reach in the end, one at a time. Any worker (bsi_lane). Given with opened. */
    void (*dropped)(void *ctx, const bsi_scan_block *b);
    void *opened_ctx;
    bool brief;               /* no image is given, and open blocks are listed in brief: their fingerprints are not taken, nothing is spilled */
    bool no_plain;            /* the unseeded digests of blocks are not wanted */
    bool keep_stream_bytes;   /* every block of a stream may be read again */
    bool streams_twice;       /* few matched blocks are looked at again: of a stream that can be opened again they are not kept */
} bsi_scan_options;

/** Open all files and read their headers into layouts (slots grow). scan zero-initialised. */
bomsync_status bsi_scan_open(bsi_scan *scan, char *const *paths, size_t path_count, bsi_slots *slots,
                             const bomsync_read_options *read, const char *const *key, uint32_t key_count,
                             const char *partition, const char *const *ignore, uint32_t ignore_count, int workers,
                             bomsync_error *err);
/** Starts to read files that are cold: the device works while the caller gets the image, say. tmp is that of the options;
 *  direct: most blocks are expected to match, what differs goes to the spill file. Else bsi_scan_blocks does it. */
void bsi_scan_start(bsi_scan *scan, const char *tmp, bool direct);
/** Cut and fingerprint everything, match with the image. Each image entry is matched at most once, first in order. */
bomsync_status bsi_scan_blocks(bsi_scan *scan, const bsi_scan_options *o, bomsync_error *err);
/** Open the matched blocks for which hit() says so; open indexes change. Returns how many. */
size_t bsi_scan_reopen(bsi_scan *scan, const bsi_image *image, bool (*hit)(void *ctx, uint64_t index, const bsi_image_entry *e), void *ctx);
/** Of a scan in brief: the list of all blocks beside it; their fingerprints and blanks are not known. */
void bsi_scan_expand(bsi_scan *scan);
void bsi_scan_forget_brief(bsi_scan *scan);
/** Block i of a run of a scan in brief, which starts at `offset`. */
bsi_scan_block bsi_scan_full(const bsi_scan_brief *b, uint32_t file, uint64_t offset);
/** The fingerprint of a block with these bytes. */
bsi_hash128 bsi_scan_fingerprint(const bsi_layout *l, const bsi_secret *secret, const uint8_t *p, size_t n);
/** The bytes of open block i into buf (reused; 64 bytes of margin). Any thread, own buf. */
bomsync_status bsi_scan_bytes(bsi_scan *scan, size_t i, bsi_buf *buf, bomsync_error *err);
/** The same for who goes through blocks mostly one behind the other: those that follow are read with it. *p is good until the next call
 *  (64 bytes of margin). Zero-initialise; free w->buf. */
typedef struct bsi_scan_window {
    bsi_buf buf;
    uint64_t offset; /* of its bytes in the file */
    size_t block;    /* asked for last */
    uint32_t file;
} bsi_scan_window;
bomsync_status bsi_scan_bytes_on(const uint8_t **p, size_t *n, bsi_scan *scan, size_t i, bsi_scan_window *w, bomsync_error *err);
/** Must the bytes of open block i be fetched one by one? Else they lie in the file as its neighbours do, and may be read
 *  with them at once. */
bool bsi_scan_alone(const bsi_scan *scan, size_t i);
/** May open block k be read with block i and what follows that, `bytes` so far? It stands near enough, and all are no more than `most`. i is not alone. */
bool bsi_scan_joins(const bsi_scan *scan, size_t i, size_t k, size_t bytes, size_t most);
/** Line number (from 1) of a decoded offset in a file of the scan; -1 if it cannot be told. For messages. One thread. */
int64_t bsi_scan_line(bsi_scan_file *f, uint64_t offset);
/** Bytes to the spill file of their file, at *place. Any thread. */
bomsync_status bsi_scan_spill(uint64_t *place, bsi_scan_file *f, const uint8_t *p, size_t n, const char *tmp, bomsync_error *err);
/** `bytes` of a matched run, from `before` bytes behind its start, into buf. */
bomsync_status bsi_scan_range(bsi_scan *scan, const bsi_scan_run *run, uint64_t before, size_t bytes, bsi_buf *buf, bomsync_error *err);
/** A copy of rows of an open block in one allocation, free(); *bytes: what it takes. NULL for rows that cannot all be read. only: as in
 *  bsi_rows. */
bsi_rows *bsi_scan_keep(const bsi_rows *rows, uint64_t only, size_t *bytes);
void bsi_scan_forget(bsi_scan *scan); /* the kept rows */
void bsi_scan_close(bsi_scan *scan);

/** Delimiter, quote and quotes of the options for one path. */
bsi_dialect bsi_scan_dialect(const bomsync_read_options *read, const char *path);
/** Entry of an image by index. */
const bsi_image_entry *bsi_image_at(const bsi_image *image, uint64_t index);
size_t bsi_image_piece_of(const bsi_image *image, uint64_t index); /* which piece it is in */
/** The same for going through many, mostly one after the other. Zero-initialise but for image. NULL past the end. */
typedef struct bsi_image_walk {
    const bsi_image *image;
    size_t piece;
} bsi_image_walk;
const bsi_image_entry *bsi_image_next(bsi_image_walk *w, uint64_t index);

#endif
