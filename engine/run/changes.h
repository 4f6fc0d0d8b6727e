/* run/changes.h - changes found, put in order, and rendered by several workers. */
#ifndef BSI_RUN_CHANGES_H
#define BSI_RUN_CHANGES_H

#include "bomsync/bomsync.h"
#include "flow/rendered.h"
#include "flow/store.h"
#include "run/scan.h"

/** Refs, each once. Zero-initialise; bsi_vast_free(slot). */
typedef struct bsi_ref_set {
    bsi_ref *slot;
    uint64_t mask;
    size_t count;
} bsi_ref_set;
void bsi_ref_add(bsi_ref_set *x, bsi_ref ref);
bool bsi_ref_has(const bsi_ref_set *x, bsi_ref ref);

/** A ref with what its owner says of it, and the order of the refs. */
typedef struct bsi_ref_at {
    bsi_ref ref;
    uint64_t at;
} bsi_ref_at;
int bsi_by_ref(const void *a, const void *b);

/** State blocks that were unpacked, for who needs them again: writing a change and rendering it look at the same block, or at the same rows
 *  of it. Any thread. Blocks stay until close; above its bytes nothing more is kept. */
typedef struct bsi_block_cache bsi_block_cache;
bsi_block_cache *bsi_block_cache_open(uint64_t bytes);
const bsi_block_data *bsi_block_cache_get(bsi_block_cache *c, uint64_t block); /* NULL: not there */
/** row[rows], ascending: only their images are kept, those of the others get length 0. NULL: all. */
void bsi_block_cache_put(bsi_block_cache *c, uint64_t block, const bsi_block_data *d, const uint32_t *row, size_t rows);
void bsi_block_cache_close(bsi_block_cache *c); /* NULL is fine */
/** Block `block` of refs with all its rows, from the cache (may be NULL) or into own; *out borrows the cache or own. */
bomsync_status bsi_block_load(const bsi_block_data **out, bsi_block_data *own, bsi_block_cache *cache, bsi_store *store, const bsi_ref *refs,
                              uint64_t block, bomsync_error *err);

/** A block of the snapshot that stands in the place of one state block: the same records in the same order, but for some that came or went
 *  (sync_amend.c). Row i of it is row bsi_amended_was(i) of the state block, row k of that is bsi_amended_now(k). */
enum { BSI_AMEND_ROWS_MAX = 64 }; /* as many as a word has bits */
typedef struct bsi_amended {
    uint64_t changed;    /* bit i: row i is another one now */
    uint64_t created;    /* bit i: row i is new */
    uint64_t gone;       /* bit k: row k of the state block is gone */
    bsi_ref ref;         /* the state block */
    bsi_ref made;        /* what stands in its place from now on, written with the scan; BSI_REF_NONE: not yet, none is created or gone */
    uint64_t ordinal;    /* where it stands in base; BSI_AMEND_NOWHERE: not known yet */
    const struct bsi_kept_pair *kept; /* [rows changed or created, then rows gone], then their images, now and old of each in turn, and a margin; */
                         /* NULL: nobody kept them */
    uint32_t entry;      /* the image's entry that stood for it */
    uint32_t open;       /* the block of the snapshot */
    uint32_t fate;       /* where those of its created rows begin, behind all fates of joined rows */
    uint32_t records;    /* in the snapshot */
} bsi_amended;
#define BSI_AMEND_NOWHERE UINT64_MAX

static inline uint32_t bsi_bits_below(uint64_t bits, uint32_t i) { return (uint32_t)__builtin_popcountll(bits & ((1ull << i) - 1)); }
/* The place of the k-th bit that is not set. */
static inline uint32_t bsi_nth_unset(uint64_t bits, uint32_t k) {
    if (!bits) return k;
    uint64_t unset = ~bits;
    for (; k; k--) unset &= unset - 1;
    return unset ? (uint32_t)__builtin_ctzll(unset) : 64;
}
static inline uint32_t bsi_amended_was(const bsi_amended *a, uint32_t now) { return bsi_nth_unset(a->gone, now - bsi_bits_below(a->created, now)); }
static inline uint32_t bsi_amended_now(const bsi_amended *a, uint32_t was) { return bsi_nth_unset(a->created, was - bsi_bits_below(a->gone, was)); }
static inline uint32_t bsi_amended_records_before(const bsi_amended *a) { /* of the state block */
    return a->records - (uint32_t)__builtin_popcountll(a->created) + (uint32_t)__builtin_popcountll(a->gone);
}
typedef struct bsi_kept_pair {
    uint32_t now_bytes, now_body, old_bytes, old_body;
} bsi_kept_pair;
enum { BSI_KEPT_MARGIN = 32 }; /* who renders may look so far past a field */

/** Where the records of a change are read again. A place is block << 16 | row. */
typedef struct bsi_row_source {
    bsi_scan *scan;              /* a snapshot: block = index in the scan, or */
    bsi_store *store;            /* a state: block = index in refs */
    const bsi_ref *refs;
    bsi_block_cache *cache;      /* of the state's blocks, or NULL */
    const bsi_amended *by_open;  /* of a scan: blocks whose changed rows may be kept, or NULL; */
    const bsi_amended *const *by_ordinal; /* of a state: the same */
    size_t amended_count;
    const bsi_secret *secret;
    uint32_t slot_count;         /* of the feed, now */
} bsi_row_source;

/** One thread's reader of a source: remembers the last block. */
typedef struct bsi_row_reader {
    const bsi_row_source *source;
    uint64_t block;              /* held; UINT64_MAX: none */
    const bsi_rows *at;          /* rows of a scan's block: kept by the scan, or `rows`; */
    uint32_t row;                /* and where that of the last fetch stands in them */
    bsi_rows rows;
    const bsi_block_data *old;   /* a state's block: in the cache, or `data` */
    const bsi_amended *kept;     /* the block's rows are kept so; NULL: in at or old */
    size_t amended;              /* where the next block is looked for among the source's */
    bsi_block_data data;
    bsi_scan_window window;      /* bytes of a scan's blocks; */
    const uint8_t *raw;          /* those that `rows` were made of */
    bool no_hashes;              /* set after open: only fields are wanted, so blocks are parsed without */
    bool wide;                   /* of the last fetch: 32 bytes behind each field may be read */
} bsi_row_reader;
void bsi_row_reader_open(bsi_row_reader *r, const bsi_row_source *source);
/** Fields of slot 0..slot_count-1; they borrow the reader until its next fetch of another block. */
bomsync_status bsi_row_fetch(bsi_field *out, bsi_row_reader *r, uint64_t place, bomsync_error *err);
void bsi_row_reader_close(bsi_row_reader *r);

typedef struct bsi_item {
    uint64_t now, was;           /* places: now for c and u, was for u and d */
    uint32_t part;               /* index into parts */
    char op;
} bsi_item;

/** Partition texts, each once. Zero-initialise; bsi_parts_free. One thread. */
typedef struct bsi_parts {
    char **name;
    uint32_t *len;
    uint32_t count, cap;
    uint32_t *slot;              /* hash table, index + 1 */
    uint32_t mask;
    uint32_t last;
} bsi_parts;
uint32_t bsi_part_of(bsi_parts *p, const void *text, size_t bytes);
void bsi_parts_free(bsi_parts *p);

/** Sort to seq order: rank (creates and updates, then deletes), partition bytes, place. */
void bsi_items_sort(bsi_item *items, size_t count, const bsi_parts *parts);

/**
 * Where items come from, in seq order: an array, or whoever knows them without one.
 *
 * next:    puts up to `room` items into out and says how many; 0: there are no more. Called by one thread at a time, not
 *          always the same one, never again after 0 or an error
 * Order:   as bsi_items_sort makes it
 */
typedef struct bsi_item_source {
    bomsync_status (*next)(void *ctx, bsi_item *out, size_t room, size_t *count, bomsync_error *err);
    void *ctx;
    uint64_t most;               /* there are no more than these; UINT64_MAX: not known */
} bsi_item_source;

/** An array as a source. It borrows the array. */
typedef struct bsi_item_array {
    const bsi_item *item;
    size_t count, at;
} bsi_item_array;
bsi_item_source bsi_items_of(bsi_item_array *a);

/** How items become lines. */
typedef struct bsi_render {
    const bsi_slots *slots;
    const bsi_row_source *now, *was; /* NULL: no item needs it */
    const bsi_change_head *head;     /* as in bsi_change_render */
    int workers;
    bool by_libzstd;                 /* chunks: frames as libzstd makes them, slower and smaller */
} bsi_render;

typedef bomsync_status (*bsi_line_fn)(void *ctx, const bsi_item *item, uint64_t seq, const char *line, size_t bytes, bomsync_error *err);
/** Render items in order (seq from 1) through fn, on the calling thread, rendered by workers. head as in bsi_change_render. */
bomsync_status bsi_items_render(const bsi_item *items, size_t count, const bsi_slots *slots, const bsi_row_source *now,
                                const bsi_row_source *was, const bsi_change_head *head, int workers, bsi_line_fn fn, void *ctx,
                                bomsync_error *err);

/** Render items (head with an id_prefix) into chunks below dir, which is there. infos: bsi_chunk_infos_free. */
bomsync_status bsi_items_send(bsi_item_source items, const bsi_render *how, const bsi_parts *parts, const char *dir,
                              bsi_chunk_info **infos, size_t *count, bomsync_error *err);

/**
 * The changes between two states of one feed.
 *
 * Blocks that both lists hold are passed over; the rest is joined by key hash. Items come unsorted: c and u have now =
 * place in b, u and d was = place in a. Ownership: items malloc'ed.
 */
bomsync_status bsi_state_diff(bsi_item **items, size_t *count, bsi_store *s, const bsi_slots *slots, const bsi_ref *a, size_t a_count,
                              const bsi_ref *b, size_t b_count, bsi_parts *parts, int workers, bomsync_error *err);

#endif
