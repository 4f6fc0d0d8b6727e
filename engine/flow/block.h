/* flow/block.h - cut hands blocks to diff and parse.
 *
 * A block is a record-aligned run of decoded bytes. Where it ends is a pure function of its own bytes (and of the
 * end of the file), starting at a record start: so a stored length plus an equal fingerprint proves an equal cut,
 * and the block list of a file does not depend on who cut it.
 */
#ifndef BSI_FLOW_BLOCK_H
#define BSI_FLOW_BLOCK_H

#include "core/limits.h"
#include "flow/layout.h"

#define BSI_CUT_RULE 2u /* of cut/cut_loop.h: blocks of another rule are neither taken from a pack's index nor from an image */

enum {
    BSI_CUT_AT_END = 1,       /* ended by the end of the file, not by a cut */
    BSI_CUT_NO_LINE_END = 2,  /* its last record has no line end */
    BSI_CUT_LONE_CR = 4,      /* ends with a CR: right only if no LF follows */
    BSI_CUT_OPEN_QUOTE = 8,   /* the file ended inside quotes */
    BSI_CUT_OVERSIZE = 16,    /* one record above BSI_RECORD_BYTES_MAX, outside quotes; or the block ends before such a
                                 record, so that its end is not to be seen in its own bytes: never an exact entry */
    BSI_CUT_LINES = 32        /* each of its line ends ends a record or a blank line; none is inside quotes */
};

/** How many records a block has. A feed keeps what its blocks were cut to first: behind a change, blocks of another size are not found again. */
typedef struct bsi_block_size {
    uint32_t records; /* that it aims at */
    uint32_t least;   /* no cut before; 1..records */
} bsi_block_size;
/** records 0: BSI_BLOCK_RECORDS. */
static inline bsi_block_size bsi_block_size_of(uint32_t records) {
    if (!records) records = BSI_BLOCK_RECORDS;
    return (bsi_block_size){records, records / 2 + records % 2};
}
static inline bool bsi_block_size_eq(bsi_block_size a, bsi_block_size b) { return a.records == b.records && a.least == b.least; }
/** What feeds and packs mean that do not say the least: it was a third then. */
static inline bsi_block_size bsi_block_size_unsaid(uint32_t records) { return (bsi_block_size){records, records / 3 + (records % 3 != 0)}; }

typedef struct bsi_cut_options {
    bsi_dialect dialect;
    bsi_block_size size;
    int isa;                 /* bsi_isa */
} bsi_cut_options;

typedef enum bsi_isa { BSI_ISA_SCALAR, BSI_ISA_AVX2, BSI_ISA_AVX512 } bsi_isa;
/** Best of this machine, or the one named ("auto", "avx512", "avx2", "scalar"); E_USAGE if it cannot run here. */
bomsync_status bsi_isa_choose(bsi_isa *out, const char *name, bomsync_error *err);

typedef struct bsi_cut {
    size_t bytes;      /* length of the block, blank lines included */
    uint32_t records;  /* without blank lines; 0: only blank lines, at the end of a file or 64 kB of them */
    uint32_t blanks;   /* blank lines */
    uint32_t flags;    /* BSI_CUT_* */
} bsi_cut;

/**
 * Find the end of the block that starts at p[0], a record start.
 *
 * Shape:   p[0..n); at_end: the file ends at p + n. n == 0 only with at_end (then bytes 0)
 * Returns: 1 block found; 0 more bytes are needed (call again with a larger n); -1 a quote is open for more than
 *          BSI_RECORD_BYTES_MAX. A record longer than that outside quotes: returns 1 with OVERSIZE once its end is
 *          seen, or 0 with out->flags = OVERSIZE while it is not: the caller may then drop bytes, see bsi_cut_skip
 * Cost:    reads each byte once; p may be read up to 64 bytes past n (keep a margin)
 */
int bsi_cut_block(bsi_cut *out, const bsi_cut_options *o, const uint8_t *p, size_t n, bool at_end);

/** Record end state machine for records too long to hold: feed bytes until it returns the offset just past the record
 *  end, or -1 for "all consumed, go on". *state starts at 0. A quote open across more than BSI_RECORD_BYTES_MAX: -2. */
int64_t bsi_cut_skip(uint64_t state[2], const bsi_dialect *d, const uint8_t *p, size_t n, bool at_end);

#endif
