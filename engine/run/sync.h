/* run/sync.h - the parts of a sync that its files share: sync.c wires, sync_base.c reads the state's list, sync_parse.c and
 * sync_reconcile.c (with sync_claim.c) read records, sync_ahead.c writes the lists of a first load beside that, sync_amend.c and
 * sync_rows.c with sync_twins.c find, sync_order.c asks whether the state is to stand otherwise, sync_guard.c judges, sync_publish.c writes (with sync_state.c, sync_image.c, publish_chunks.c, sync_creates.c,
 * sync_symbols.c), sync_stats.c tells. What is made of the feed's two lists on the way is in publish_inner.h.
 */
#ifndef BSI_RUN_SYNC_H
#define BSI_RUN_SYNC_H

#include "core/beside.h"
#include "flow/join.h"
#include "run/edit.h"
#include "run/key_filter.h"

/** A record that was kept back, as parse saw it. */
typedef struct bsi_kept_row {
    uint64_t place;      /* open block << 16 | row */
    uint64_t index;      /* N index */
    uint64_t kh;
    bsi_rule rule;
    uint64_t byte;       /* in its file */
    int64_t line_ends;   /* in its block, in front of it; -1: not counted */
    uint32_t column;     /* UINT32_MAX: the record */
    bool key_read, partition_read;
    uint32_t image_bytes, body_bytes;
    const char *partition; /* in bsi_sync.bad_bytes, as what follows; NULL if it cannot be read */
    const uint8_t *image;  /* NULL */
    const char *value;     /* the raw record, clipped */
} bsi_kept_row;

/** What early parsing leaves of an open block for bsi_sync_parse; its tag points to it. Of one that was written it stays, as blocks may be settled again. */
typedef struct bsi_early_block {
    bsi_rows *rows;      /* kept: of an amended block those that changed, NULL: none */
    bool amends, lent;   /* lent: the memory is bsi_amend_keep's */
    bsi_amended amended;
    uint32_t count;      /* hashes of each row, for the join; amends: of those that are created */
    uint64_t hash[];     /* [2 * count] key hashes, then row hashes */
} bsi_early_block;

typedef enum bsi_sync_stage {
    BSI_SYNC_READ,     /* read, cut, match */
    BSI_SYNC_PARSE,    /* of a first load with the writing of its state blocks */
    BSI_SYNC_JOIN,
    BSI_SYNC_CLASSIFY, /* and judge */
    BSI_SYNC_EMIT,     /* chunks and manifest */
    BSI_SYNC_STORE,    /* state blocks, edits of the lists */
    BSI_SYNC_COMMIT,   /* shards, lists, root */
    BSI_SYNC_STAGES
} bsi_sync_stage;

typedef struct bsi_sync {
    const bomsync_sync_options *o;
    const char *feed_name;
    int workers;
    uint64_t memory_bytes;
    char *tmp;
    bool tier_block, tier_sequence;
    int64_t effective_time;
    bsi_store *store;
    bsi_feed *feed;             /* as it will be written; made anew for a new feed */
    bool new_feed;
    bool learned;               /* a first load has decided on a dictionary */
    uint32_t slots_before;      /* slots of the feed before this snapshot */
    bsi_generation *last;       /* the feed's last generation, or NULL */
    struct bsi_base_reader *base_reader; /* the thread that reads base while the snapshot is scanned, or NULL */
    bsi_ref *base;              /* bsi_sync_base */
    size_t base_count;
    bsi_image image;
    bsi_scan scan;
    struct bsi_early *early;    /* what was made of open blocks while the scan had their bytes at hand, or NULL */
    struct bsi_reconcile *reconcile; /* every record is hashed in place of skipping blocks, or NULL */
    uint64_t settled;           /* blocks without a change that this found: not in scan.block any more */
    bsi_order order;            /* of this snapshot, if it stands in another one than the state: as the feed gets it; else zeros */
    bool reorder;               /* and so did the last ones: the state is put into it */
    bool reimage;               /* it has other bytes than the image, and so had the last ones: the image gets them */
    bool evidence, sequence_given, as_of_given;
    int64_t sequence, as_of;
    char **scope;               /* partitions, NULL: all */
    size_t scope_count;
    struct bsi_scope_view *view; /* image is a part of the feed's (sync_scope.c); NULL: it is all of it */
    /* rows of the blocks that no image entry settles */
    uint32_t *block_part;       /* [open_count] number in block_parts if all its rows have one partition, else UINT32_MAX; or NULL */
    bsi_parts block_parts;
    uint64_t *row_base;         /* [open_count + 1] N index of the first row of each open block of the scan */
    size_t open_count;
    uint64_t *fate;             /* [row_base[open_count] + amended_created] */
    bsi_amended *amended;       /* blocks that were changed in place, ascending by open */
    size_t amended_count;
    uint64_t amended_records, amended_created, amended_gone;
    const bsi_amended **amended_state; /* the same, ascending by ordinal */
    bsi_arena amended_kept;     /* their rows that changed */
    uint64_t *is_amended;       /* [base_count] bits: state blocks that they stand for; NULL: none */
    bsi_row_store *n_rows;
    uint64_t *open_state;       /* ordinals of state blocks that are looked at, ascending; amended ones are left out, or skipped by who reads it */
    size_t open_state_count;
    uint64_t *gone;             /* O places to delete, ascending */
    size_t gone_count;
    bsi_kept_row *bad;          /* vast */
    size_t bad_count, bad_cap;
    bsi_arena bad_bytes;        /* their texts and images */
    bsi_ref *first_ref;         /* first load: state block written while parsing, [open_count] */
    bool all_exact;             /* first load: each block has such a state block, which may stand for it */
    bool all_new;               /* first load: each record is created, none is bad or stands twice: no fate is set */
    struct bsi_sync_ahead *ahead; /* the lists are being written, or NULL */
    /* what changed */
    bsi_parts parts;
    bsi_item *item;
    size_t item_count;
    bool *part_blocked;         /* deletes of this part are withheld: a key could not be read */
    bool all_blocked;
    bool counted;               /* creates were counted while parsing; part_made has them */
    int64_t *part_made;         /* [part_made_count] creates by part, where items are only counted */
    uint32_t part_made_count;
    bsi_totals t;
    uint64_t conflicts;
    /* what is written */
    bsi_kept_list kept;
    size_t exceptions;          /* of them those that belong to no hold */
    bsi_hold *hold;
    size_t hold_count;
    bsi_kept_list old_kept;
    uint64_t *absent;           /* key hashes of bad rows that no other new record has, ascending; of the state all were looked for that may have them */
    size_t absent_count;
    struct bsi_kept_index *old_kept_index; /* made when it is first asked; NULL */
    bsi_hold *old_hold;
    size_t old_hold_count;
    bool all_held;
    bsi_block_cache *cache;     /* of base */
    bsi_beside digest;          /* makes the snapshot digest: ends in bsi_sync_end_digest */
    uint8_t snapshot_digest[32];
    double seconds[BSI_SYNC_STAGES];
    uint64_t memory_peak;       /* most anonymous memory at the end of a stage */
    int64_t clock;
    char isa_name[16];
} bsi_sync;

/* sync.c */
static inline bool bsi_sync_leaves(const bsi_sync *s) { return s->o->leave && !BSI_LEAKS_ARE_TOLD; } /* nobody wants memory back */
void bsi_sync_end_digest(bsi_sync *s); /* waits for the thread that reads the scan's lists */
void bsi_sync_note_digest(bsi_sync *s, bsi_generation *g); /* as late as it can be: then it goes into the generation and the feed */

#define BSI_SYNC_TASK_BLOCKS 512 /* open blocks that a worker takes at once */

/* sync_base.c */
void bsi_sync_base_open(bsi_sync *s);                                  /* before the scan */
void bsi_sync_base_ahead(bsi_sync *s);                                 /* base will be needed: any thread of the scan, any number of times */
bomsync_status bsi_sync_base(bsi_sync *s, bomsync_error *err);         /* sets base and base_count, if they are not there */
void bsi_sync_base_close(bsi_sync *s);

/* sync_parse.c */
bomsync_status bsi_sync_early_open(bsi_sync *s, bsi_scan_options *o, bomsync_error *err); /* before the scan: open blocks of plain files are parsed with it */
void bsi_sync_early_close(bsi_sync *s);
bomsync_status bsi_sync_parse(bsi_sync *s, bomsync_error *err);        /* the others */
/* Creates by partition, where nothing else is wanted of them. */
typedef struct bsi_made {
    bsi_parts parts;
    int64_t *count; /* [cap] by part */
    uint32_t cap;
} bsi_made;
int64_t *bsi_made_of(bsi_made *m, const void *partition, size_t bytes);
void bsi_made_take(bsi_sync *s, bsi_made *m);                          /* into part_made and the totals; m is used up */
void bsi_sync_add_made(bsi_sync *s, const char *partition, uint32_t bytes, int64_t n);

/* sync_ahead.c */
void bsi_sync_ahead_start(bsi_sync *s);                                /* while it goes on, the list of blocks stays as it is */
bool bsi_sync_ahead_end(bsi_sync *s);                                  /* waits. True: the lists are there, and still right */
/** sync_image.c: the state block of which an open block has just the rows, in order, none changed; or BSI_REF_NONE. Rows were joined. */
bsi_ref bsi_sync_same_as_state(const bsi_sync *s, size_t open);
bsi_image_entry bsi_sync_entry(const bsi_sync *s, const bsi_scan_block *b, size_t open, bsi_ref exact); /* sync_image.c: of a block in the new image; exact or BSI_REF_NONE */

/* sync_amend.c */
bool bsi_amend_possible(const bsi_sync *s);
/** Does a block with these rows stand for the state block `ref`, whose rows are old? Any thread. */
bool bsi_amend_find(bsi_amended *a, const bsi_scan_block *b, const bsi_rows *w, const bsi_block_rows *old, bsi_ref ref, uint64_t entry);
/** Writes the state blocks that stand in the place of theirs, while both rows are at hand. One a thread; close writes the last of them. */
typedef struct bsi_amend_writer bsi_amend_writer;
bomsync_status bsi_amend_writer_open(bsi_amend_writer **out, bsi_sync *s, bomsync_error *err);
/** Does the block stand for that of the expected entry? now: all its rows, without hashes; those of rows that are written are made. Sets all of *a,
 *  made and kept as well if a record changed. */
bomsync_status bsi_amend_at_once(bool *amends, bsi_amended *a, bsi_amend_writer *w, const bsi_scan_block *b, bsi_rows *now, bsi_scan_expected x,
                                 bomsync_error *err);
void *bsi_amend_keep(bsi_amend_writer *w, size_t bytes);               /* memory that stays until bsi_amend_forget_rows: of files, where it becomes much */
bomsync_status bsi_amend_writer_close(bsi_amend_writer *w, bomsync_error *err); /* NULL is fine */
void bsi_amend_settle(bsi_sync *s);                                    /* which early blocks do so in the end, now that the scan is whole */
/** Those of which `which` says so are joined, once blocks are settled again; gives how many. e: what early parsing left of it, with the key hashes of
 *  created records. Blocks that were not written with the scan are not asked: they are joined then in any case. */
size_t bsi_amend_give_up(bsi_sync *s, bool (*which)(void *ctx, const bsi_amended *a, const bsi_early_block *e), void *ctx);
bomsync_status bsi_amend_place(bool *again, bsi_sync *s, bomsync_error *err); /* their state blocks in base, with open_state; *again: settle once more, fewer are left */
/** The amended blocks while open ones are gone through in ascending order. Zero-initialise. */
typedef struct bsi_amend_walk {
    size_t at;
} bsi_amend_walk;
const bsi_amended *bsi_amend_next(bsi_amend_walk *w, const bsi_sync *s, size_t open); /* NULL: it is none */
bool bsi_is_amended(const bsi_sync *s, uint64_t ordinal);              /* a state block that one of them stands for? */
void bsi_amend_forget(bsi_sync *s);
void bsi_amend_rest(bsi_sync *s);                                      /* how many there were is all that is asked from now on */
void bsi_amend_forget_rows(bsi_sync *s);                               /* of their rows what was kept to render them */
void bsi_early_free(bsi_early_block *e);                               /* NULL is fine */

/* sync_rows.c */
bomsync_status bsi_sync_open_blocks(bsi_sync *s, bomsync_error *err);  /* which blocks of snapshot and state are looked at */
bomsync_status bsi_sync_join(bsi_sync *s, bomsync_error *err);         /* and again after twins were found in skipped blocks */
bomsync_status bsi_sync_classify(bsi_sync *s, bomsync_error *err);     /* items, totals, kept rows */
void bsi_sync_forget_found(bsi_sync *s);                               /* all of it, but what the scan found: it is looked for again, and every open block joined */
void bsi_sync_place(bsi_sync *s, uint64_t index, size_t *open, uint32_t *row); /* N index to open block and row */

/* The first open block from `open` on whose rows were joined: those of blocks that were changed in place were not. They come in long stretches,
 * where as many are passed over each time as so far. open_count: there is none. */
static inline size_t bsi_sync_next_joined(const bsi_sync *s, size_t open) {
    size_t step = 1;
    for (; open + step <= s->open_count && s->row_base[open + step] == s->row_base[open]; step *= 2) open += step;
    for (; step; step /= 2)
        if (open + step <= s->open_count && s->row_base[open + step] == s->row_base[open]) open += step;
    return open;
}

/* sync_twins.c */
/** Are there rows with these key hashes in state blocks that were not joined? The blocks that hold them are opened, or given up as changed in
 *  place: *opened; then the join is to be made again. */
bomsync_status bsi_sync_twins(bool *opened, bsi_sync *s, const uint64_t *kh, size_t count, bomsync_error *err);

/* sync_reconcile.c */
bomsync_status bsi_reconcile_open(bsi_sync *s, bomsync_error *err);    /* before the scan: is it the cheapest way? Then s->reconcile is there */
void bsi_reconcile_scan(bsi_sync *s, bsi_scan_options *o);             /* what the scan is to do for it */
bomsync_status bsi_reconcile_run(bsi_sync *s, bomsync_error *err);     /* after the scan: leaves blocks with changes alone open. If too much differs: all */
bomsync_status bsi_reconcile_old(bsi_sync *s, bsi_row_store *old, bomsync_error *err); /* the old rows that the open blocks need; open_state */
bomsync_status bsi_reconcile_gone(bsi_sync *s, bsi_join_out *out, bomsync_error *err); /* old rows without a new one: those that are gone */
void bsi_reconcile_close(bsi_sync *s);

/* sync_claim.c */
typedef struct bsi_claims bsi_claims;
typedef struct bsi_claim_cursor { /* of one worker, zero-initialised: where its next block is expected */
    uint64_t next;
    unsigned lost; /* blocks since one was found */
} bsi_claim_cursor;
bsi_claims *bsi_claims_open(bsi_sync *s);                              /* base is there */
void bsi_claims_close(bsi_claims *c);
/** Is there a state block of just these rows, in this order, that no other block has claimed? Then it is claimed: its place in base. w was
 *  parsed without hashes; unless a block is claimed it gets both. c NULL: none is. Any thread. */
bool bsi_claim(bsi_claims *c, bsi_claim_cursor *at, bsi_rows *w, const bsi_secret *secret, uint64_t *state);
void bsi_claim_undo(bsi_claims *c, uint64_t state);
bool bsi_is_claimed(const bsi_claims *c, uint64_t state);              /* c NULL: none is */

/* sync_order.c */
/** How does this snapshot stand? Sets order and reorder. count: so many of its blocks are not, record by record, blocks of the state; strays: some of
 *  them, each given to bsi_order_add. bsi_order_of_rows finds them itself, once it is known what happened to each record. */
bool bsi_order_matters(const bsi_sync *s); /* of few records all are joined as fast as blocks are skipped: their state keeps its order */
void bsi_order_judge(bsi_sync *s, const bsi_order *strays, uint64_t count);
/** The same of a snapshot that was reconciled and stands as the state does, but has other bytes than the image: some of all blocks. Sets order and reimage. */
void bsi_order_judge_bytes(bsi_sync *s, const bsi_order *some);
void bsi_order_add(bsi_order *strays, uint64_t low);                   /* the low half of the unseeded digest */
void bsi_order_of_rows(bsi_sync *s);
void bsi_order_keep(bsi_sync *s);                                      /* in the feed, for the next sync: once it is decided what is published */

/* sync_creates.c */
typedef struct bsi_creates bsi_creates;
bomsync_status bsi_creates_open(bsi_creates **out, bsi_sync *s, bomsync_error *err); /* of a first load whose creates were counted */
bsi_item_source bsi_creates_source(bsi_creates *c);                    /* once; c must stay */
void bsi_creates_close(bsi_creates *c);

/* sync_symbols.c */
bomsync_status bsi_sync_learn_ahead(bsi_sync *s, bomsync_error *err);  /* the same of a first load, before its files are scanned: if all are plain */
bomsync_status bsi_sync_learn(bsi_sync *s, uint64_t records, bomsync_error *err); /* before so many are written: the feed may get a dictionary */

/* sync_guard.c */
bomsync_status bsi_sync_evidence(bsi_sync *s, char *const *paths, size_t path_count, bomsync_error *err); /* before reading: control file, stale */
bomsync_status bsi_sync_counts(bsi_sync *s, bomsync_error *err);       /* after reading: expected counts, trailers, file records */
bomsync_status bsi_sync_guard(bsi_sync *s, bomsync_error *err);        /* both degrees: holds, kept deletes */
void bsi_sync_forget_guard(bsi_sync *s);                               /* what it decided */

/* sync_scope.c */
typedef struct bsi_scope_view {
    bsi_image stored;     /* the feed's whole image */
    uint64_t *from;       /* [image.piece_count] where the piece stands in it */
    struct bsi_scope_unknown {
        uint64_t index;   /* in it */
        bsi_ref ref;
    } *unknown;           /* exact entries whose records may be of any partition: they match nothing, their state blocks are joined */
    size_t unknown_count, unknown_cap;
} bsi_scope_view;
bomsync_status bsi_sync_scope_open(bsi_sync *s, bomsync_error *err);   /* before the scan: of a snapshot of some partitions image becomes a view */
/** Edits of the view become edits of the whole image, at the end of x; entries that are not known and whose state block is in `gone` go. */
void bsi_sync_scope_edits(const bsi_sync *s, bsi_image_edits *x, const bsi_image_edit *edit, size_t count, const bsi_ref_set *gone, const bsi_ref_set *named);
/** Orphans without those that have an entry which stays. Returns how many are left. */
size_t bsi_sync_scope_orphans(const bsi_sync *s, bsi_ref *orphan, size_t count, const bsi_ref_set *gone, const bsi_ref_set *named);
void bsi_sync_scope_close(bsi_sync *s);

/* sync_kept.c */
void bsi_sync_bad_add(bsi_sync *s, const bsi_kept_row *k);             /* its texts and image are copied; one thread at a time */
void bsi_sync_kept_find(bsi_sync *s, bsi_join_out *out);               /* takes from out->fresh what is known not to be in the state; sets s->absent */
void bsi_sync_kept_add(bsi_sync *s, bsi_kept *k);                      /* copied; its since is taken over from the last run */
bomsync_status bsi_sync_keep_back(bsi_sync *s, bomsync_error *err);    /* what the guard let through */
void bsi_sync_kept_index_close(bsi_sync *s);

/* sync_publish.c */
bomsync_status bsi_sync_publish(bsi_sync *s, bsi_generation *g, bomsync_error *err);

/* sync_stats.c */
uint64_t bsi_sync_room(const bsi_sync *s);                             /* bytes that rows may take which are joined: what is left of --memory, at most half */
void bsi_sync_trim(const bsi_sync *s);                                 /* memory that is free, but not given back, where much of --memory is used */
void bsi_sync_memory(bsi_sync *s);                                     /* looks at the memory in use: call before much is freed */
void bsi_sync_stage_ends(bsi_sync *s, bsi_sync_stage stage, int64_t *start); /* time since *start is added; *start is now */
char *bsi_sync_stats(const bsi_sync *s, const bsi_generation *g);      /* one JSON object, the caller's to free */

/* publish_chunks.c, for approve, revert and repair too */
/** Chunks of a generation below dir, which is made anew; g (number, feed, base_digest) gets its chunk infos. now may be NULL.
 *  by_libzstd: frames as earlier versions made them. */
bomsync_status bsi_write_chunks(const char *dir, bsi_generation *g, const bsi_item *items, size_t count, const bsi_parts *parts,
                                const bsi_slots *slots, const bsi_row_source *now, const bsi_row_source *was, int workers,
                                bool by_libzstd, bomsync_error *err);
/** The same into outbox/.tmp-<number>. */
bomsync_status bsi_send_chunks(bsi_store *store, bsi_generation *g, const bsi_item *items, size_t count, const bsi_parts *parts,
                               const bsi_slots *slots, const bsi_row_source *now, const bsi_row_source *was, int workers,
                               bomsync_error *err);
/** The same of items that stand in no array; parts: of all of them. */
bomsync_status bsi_send_items(bsi_store *store, bsi_generation *g, bsi_item_source items, const bsi_parts *parts, const bsi_slots *slots,
                              const bsi_row_source *now, const bsi_row_source *was, int workers, bomsync_error *err);
/** The generation's digest from its other members. */
void bsi_generation_digest(bsi_generation *g);
/** Partition counts of g from those of the base (may be NULL) and the items; made: creates by part without items, or NULL. */
void bsi_generation_partitions(bsi_generation *g, const bsi_generation *last, const bsi_item *items, size_t count,
                               const bsi_parts *parts, const int64_t *made);
/** Write manifest.json into outbox/.tmp-<n> and sync the folder. */
bomsync_status bsi_write_manifest(bsi_store *store, const bsi_generation *g, bomsync_error *err);
/** The same of bsi_manifest_json. Any thread. */
bomsync_status bsi_put_manifest(bsi_store *store, int64_t number, const char *json, bomsync_error *err);

#endif
