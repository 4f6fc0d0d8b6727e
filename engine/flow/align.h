/* flow/align.h - two files that hold mostly the same bytes in the same order, walked side by side.
 *
 *   OLD  [====== same ======][a'][=========== same ===========]     [=== same ===]
 *   NEW  [====== same ======][a ][=========== same ===========][ b ][=== same ===]
 *
 * What comes out is a tiling: stretches of equal bytes, of whole records on both sides, and the pieces between them, which
 * are all that parse and join have to look at. Along the way the keys of NEW are held against the key before them: keys that
 * ascend stand once, with no table of them. Where that cannot be seen, `sure` is false, and the keys must be hashed.
 */
#ifndef BSI_FLOW_ALIGN_H
#define BSI_FLOW_ALIGN_H

#include "flow/layout.h"
#include "flow/source.h"

/** What a line looks like. Its key must be columns that stand side by side, in any order. */
typedef struct bsi_line_shape {
    uint8_t delimiter, quote; /* quote 0: none */
    bool lenient;
    bool key_last;            /* the key reaches to the end of the line */
    uint32_t columns;         /* > 1: an empty line must not be a record */
    uint32_t key_first, key_count;
    bool key_quoted;          /* each field of the key stands in quotes, with no quote, delimiter or line end between; bsi_align sets it */
    uint64_t by_text;         /* bit f: field f of the key ascends by bytes, else the shorter one first; bsi_align sets it. At most 64 fields */
} bsi_line_shape;

typedef struct bsi_align_options {
    bsi_source *old, *now;    /* plain files: random access */
    uint64_t old_body, now_body;
    const bsi_dialect *dialect;
    bsi_line_shape shape;
    int isa, workers;
    bool order;               /* look whether keys ascend */
    size_t batch_bytes;       /* one read of either file */
    uint64_t unit_bytes, unit_least;
    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *progress_ctx;
} bsi_align_options;

typedef struct bsi_same { /* equal bytes, whole records; none goes on past one read */
    uint64_t old_at, now_at;
    uint32_t bytes;
} bsi_same;

typedef struct bsi_piece { /* whole records of one side */
    uint64_t at;
    uint32_t bytes, records;
} bsi_piece;

typedef struct bsi_key_span { /* a stretch of NEW whose keys ascend, but for those that were opened */
    uint64_t at;
    uint32_t bytes;
    size_t first, last;       /* its lowest and highest key, in `keys` */
} bsi_key_span;

/* Offsets are those of the decoded files, all lists in their order. Free with bsi_tiling_release. */
typedef struct bsi_tiling {
    bsi_same *same;
    size_t same_count, same_cap;
    uint64_t same_records;
    bsi_piece *old, *now;
    size_t old_count, old_cap, now_count, now_cap;
    bsi_piece *open;          /* records of NEW that must be looked at even where OLD has the same bytes */
    size_t open_count, open_cap;
    bool sure;                /* keys of `same` stand once, and those of `probe` are the only other ones that may be among them */
    bsi_key_span *span;
    size_t span_count, span_cap;
    bsi_buf keys;             /* keys as they stand, each with a line end */
    size_t *probe;            /* in keys: keys out of order, to look for in the spans */
    size_t probe_count, probe_cap;
} bsi_tiling;

/** *aligned false: these files are better compared another way (or must be, to be exact); out is empty then.
 *  Errors: those of reading. */
bomsync_status bsi_align(bsi_tiling *out, bool *aligned, bsi_align_options *o, bomsync_error *err);
/** Take records of NEW, ascending, out of `same` on both sides. Those that are not in it stay as they are. */
void bsi_tiling_open(bsi_tiling *t, const bsi_piece *open, size_t count);
/** How many spans may hold this key (as it stands, with a line end), from *first on: none, one, or those that meet in it. Only if sure. */
size_t bsi_tiling_spans(size_t *first, const bsi_tiling *t, const bsi_line_shape *s, const uint8_t *key);
/** Records of a span with one of these keys (as they stand, each with a line end): *found malloc'ed, in their order. Any thread. */
bomsync_status bsi_span_find(bsi_piece **found, size_t *count, const bsi_align_options *o, const bsi_key_span *span, const uint8_t *const *key,
                             size_t key_count, bomsync_error *err);
void bsi_tiling_release(bsi_tiling *t);

#endif
