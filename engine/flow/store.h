/* flow/store.h - what the store remembers, as the other stages see it. LMDB is behind it (engine/store/).
 *
 *   root/ of STORE   LMDB: meta, feeds, layouts, generations, state, image, kept, holds, journal, dicts, (room: contracts, lookup, refs, multi)
 *   STORE/shard-NN/ LMDB: data, rows                   segment s lives in shard s mod P
 *   STORE/outbox/<g>/, STORE/tmp/, STORE/ledger/, STORE/lock (flock, pid inside), STORE/readers (flock)
 *
 *   state of (generation, feed): ordered list of block refs ──> segment value: 1..256 blocks of row images, or of patches over other blocks,
 *       coded with a dictionary of the feed's, or packed by zstd
 *   image of a feed: ordered list of entries (fingerprint of a snapshot block, ref of the state block that holds
 *   just its records). The image is a cache: dropping it changes no output.
 *
 * Lists are stored in pieces: what did not change is shared, not rewritten. Who knows what changed says so by edits;
 * in a list that is given as a whole, pieces are found again by their digest.
 */
#ifndef BSI_FLOW_STORE_H
#define BSI_FLOW_STORE_H

#include "flow/block.h"
#include "flow/change.h"
#include "flow/rows.h"

typedef struct bsi_store bsi_store;
typedef uint64_t bsi_ref; /* segment << 9 | index of the block in its segment */
#define BSI_REF_NONE UINT64_MAX

typedef enum bsi_store_mode {
    BSI_STORE_READ,  /* shared lock on readers, no lock on the store, writes nothing, works on a read-only mount */
    BSI_STORE_WRITE, /* exclusive lock (E_BUSY at once, or after wait_seconds); rolls the outbox forward; cuts off what a killed run left */
    BSI_STORE_GC     /* WRITE, and the exclusive lock on readers */
} bsi_store_mode;

/** E_USAGE: dir exists and is not empty (a hint says what to do), shards not 1..64, a network file system. Made in a temporary folder beside it, synced, renamed. */
bomsync_status bsi_store_create(const char *dir, int shards, bomsync_error *err);
/** E_USAGE: no store there; READ: an older format. E_INTEGRITY: newer format, foreign, truncated (checked before the first read), checksums.
 *  A store of an older format that is opened for writing is brought forward first: the old one becomes DIR.v<format>. */
bomsync_status bsi_store_open(bsi_store **out, const char *dir, bsi_store_mode mode, int wait_seconds, bomsync_error *err);
void bsi_store_close(bsi_store *s);
/** The same of a process that ends: readers and locks are given up, threads that are idle, mappings and memory stay. */
void bsi_store_leave(bsi_store *s);
/** Before a store is opened whose image is wanted: a cold one is asked for in one piece (up to BSI_EXPECT_ROOT_BYTES). Returns at once; whatever
 *  is wrong there, opening tells. */
void bsi_store_expect(const char *dir);
/** Instructions that the store uses from now on, as bsi_isa_choose said (block.h); without a call: the best of this machine. Call it before the
 *  first worker starts. */
void bsi_store_use_isa(int isa);
const char *bsi_store_dir(const bsi_store *s);
const char *bsi_store_id(const bsi_store *s); /* 32 hex digits, drawn by init and restore */
const bsi_secret *bsi_store_secret(const bsi_store *s);
int bsi_store_shards(const bsi_store *s);
int64_t bsi_store_generation(const bsi_store *s); /* the newest, 0: none */

/* ---- feeds ---- */
#define BSI_DICT_FRAMES UINT64_MAX /* in the place of a dictionary: none was better than frames of zstd */
/** Where an entry of an image starts: so a snapshot can be walked from several places at once without a look at the entries before them. */
typedef struct bsi_image_mark {
    uint64_t entry, offset; /* offset: behind the first record of its file, in bytes */
    uint32_t file;
} bsi_image_mark;

/** Snapshots of which most blocks stand otherwise than those of the state. A few of these blocks of the last one say how it was: those with the
 *  lowest digests, so that who looks at another snapshot looks at the same ones. */
enum { BSI_ORDER_BLOCKS = 64 };
typedef struct bsi_order {
    uint32_t times; /* so many came like this, one after the other, 4: or more; 0: the last snapshot stood as the state does, and nothing follows */
    bool bytes;     /* they stand as the state does, in other bytes than those of the image: the blocks are some of all */
    uint32_t count;
    uint64_t low[BSI_ORDER_BLOCKS]; /* ascending: half of the unseeded digest */
} bsi_order;

typedef struct bsi_feed {
    char *name;
    bsi_slots slots;
    char **ignore;
    uint32_t ignore_count;
    int64_t generation;   /* its last generation, 0: none */
    int64_t records;      /* published at it */
    int64_t last_sequence, last_as_of; /* -1: none yet */
    uint8_t last_snapshot_digest[32];  /* of the last accepted snapshot, zeros: none */
    uint8_t approved_all[32];          /* digest of an approved "all held", used up by the next sync; zeros: none */
    uint64_t image_list;  /* id of its image's list, 0: none */
    uint8_t image_digest[32]; /* digest of the snapshot that the image was written from, zeros: unknown */
    uint64_t dictionary;  /* that its new blocks are coded with; 0: none yet, BSI_DICT_FRAMES */
    bsi_image_mark *mark; /* some places of the image, ascending; none: unknown */
    size_t mark_count;
    bsi_block_size block_size; /* that its blocks are cut to */
    bsi_order order;
} bsi_feed;
/** NULL without error if there is no such feed. Owned by the caller, bsi_feed_free. */
bomsync_status bsi_store_feed(bsi_feed **out, bsi_store *s, const char *name, bomsync_error *err);
bomsync_status bsi_store_feeds(char ***names, size_t *count, bsi_store *s, bomsync_error *err); /* sorted bytewise */
void bsi_feed_free(bsi_feed *f);

/* ---- generations ---- */
typedef struct bsi_totals {
    int64_t created, updated, deleted, unchanged, schema_only, suppressed, unowned, held, deletes_held, kept_back, duplicates,
        filtered, records_in, records;
} bsi_totals;
typedef struct bsi_file_info {
    char *name;
    uint64_t bytes;   /* on disk */
    int64_t records;
} bsi_file_info;
typedef struct bsi_partition_count {
    char *name;       /* NUL-terminated partition text */
    int64_t records, created, updated, deleted; /* records: published after this generation */
} bsi_partition_count;
typedef struct bsi_generation {
    int64_t number, base;
    char *feed;
    char *kind;             /* "sync", "approve", "revert", "baseline" */
    uint8_t digest[32], base_digest[32], snapshot_digest[32], contract_digest[32]; /* zeros: none */
    bsi_totals totals;
    int64_t effective_time, committed_at;
    char **hold_digests;    /* hex */
    size_t hold_count;
    bsi_file_info *files;
    size_t file_count;
    bsi_chunk_info *chunks;
    size_t chunk_count;
    bsi_partition_count *partitions; /* of this feed, sorted bytewise */
    size_t partition_count;
    uint64_t state_list;    /* id of the feed's state list */
    uint32_t slot_count;    /* slots of the feed at this generation */
    int exit_code;
    bool outbox;            /* as read: its folder in the outbox is kept. Written as bsi_publish says */
} bsi_generation;
/** number's record; *out NULL if it does not exist (0 too). bsi_generation_free. */
bomsync_status bsi_store_generation_get(bsi_generation **out, bsi_store *s, int64_t number, bomsync_error *err);
/** The feed's last generation <= number: NULL if none. */
bomsync_status bsi_store_generation_of_feed(bsi_generation **out, bsi_store *s, const char *feed, int64_t number,
                                            bomsync_error *err);
void bsi_generation_free(bsi_generation *g);

/* ---- lists ---- */
/** All refs of a state list in order, malloc'ed. */
bomsync_status bsi_store_state(bsi_ref **refs, size_t *count, bsi_store *s, uint64_t state_list, bomsync_error *err);
bomsync_status bsi_store_state_by(bsi_ref **refs, size_t *count, bsi_store *s, uint64_t state_list, int workers, bomsync_error *err);

enum { BSI_IMAGE_EXACT = 1, BSI_IMAGE_LONE_CR = 2, BSI_IMAGE_AT_END = 4, BSI_IMAGE_LINES = 8 /* as BSI_CUT_LINES */, BSI_IMAGE_PART_SHIFT = 8 };
typedef struct bsi_image_entry {   /* 56 bytes, stored as it is (little endian) */
    bsi_hash128 fp;       /* with secret, layout mixed in */
    bsi_hash128 plain;    /* unseeded XXH3-128 of its bytes, for the snapshot digest */
    bsi_ref ref;          /* state block with just its records if EXACT, else BSI_REF_NONE */
    uint32_t bytes;       /* length of the block */
    uint32_t records;
    uint32_t flags;       /* above BSI_IMAGE_PART_SHIFT: bsi_image_part of the partition that all its records are of; 0: not known, or of several */
    uint32_t blanks;
} bsi_image_entry;
/** 24 bits that tell most partitions apart, never 0. */
static inline uint32_t bsi_image_part(const void *name, size_t bytes) {
    uint32_t part = (uint32_t)(bsi_xxh64(name, bytes) >> 40);
    return part ? part : 1;
}
/** A read view of an image: entries stay in the mapping until the store is closed or the writer commits. */
typedef struct bsi_image_piece {
    const bsi_image_entry *entry;
    uint64_t first;       /* index of entry[0] in the image */
    uint64_t id;          /* of the value it lies in: of one that was found good, all pieces are */
    uint32_t count;
    uint32_t before;      /* entries before it there: for bsi_store_image_check */
} bsi_image_piece;
typedef struct bsi_image {
    bsi_image_piece *piece;
    size_t piece_count;
    uint64_t count;       /* entries */
    bsi_ref *orphan;      /* state blocks that no exact entry covers */
    size_t orphan_count;
} bsi_image;
bomsync_status bsi_store_image(bsi_image *out, bsi_store *s, uint64_t image_list, bomsync_error *err);
void bsi_image_free(bsi_image *i);
/** bsi_store_image looks at sizes only. This checks the checksum of the 4 kB that a piece lies in (about 0.2 us): call it before its entries are
 *  trusted. Any thread. E_INTEGRITY names the piece. */
bomsync_status bsi_store_image_check(const bsi_store *s, const bsi_image_piece *piece, bomsync_error *err);

/* ---- blocks ---- */
typedef struct bsi_block_rows {   /* borrowed; checksum verified */
    uint32_t count;
    const uint64_t *kh, *rh;      /* unaligned is fine on the machines we run on; stored 8-aligned */
} bsi_block_rows;
/** Any thread, concurrently. A whole block's rows lie in the mapping, until the store is closed or the writer commits; those of a patched
 *  one are put together in memory of the calling thread, until its next call of this function. So hold one block's at a time. */
bomsync_status bsi_store_rows(bsi_block_rows *out, bsi_store *s, bsi_ref ref, bomsync_error *err);
/** The same of a block that this run has read before: its checksum, half of the time, is not looked at again. */
bomsync_status bsi_store_rows_again(bsi_block_rows *out, bsi_store *s, bsi_ref ref, bomsync_error *err);

typedef struct bsi_block_data {   /* zero-initialise, reuse, bsi_block_data_free */
    uint32_t count, slot_count;   /* records; slots of the feed when it was written */
    bsi_buf raw;                  /* borrowed from the decoder until the next call */
    uint32_t *image, *body;       /* [count + 1] offset of row image i in raw, [count] body bytes */
    uint32_t cap;
    bsi_ref below;                /* a patch: the whole block that it is over; else BSI_REF_NONE */
    uint64_t replaced;            /* bit i: it replaces row i, of the first 64 */
    void *dctx;                   /* the decoder, one per thread */
} bsi_block_data;
bomsync_status bsi_store_data(bsi_block_data *out, bsi_store *s, bsi_ref ref, bomsync_error *err);
/** The same, but only the first `front` rows must be there, and those that a patch replaces: a row is made from the one before, so those
 *  behind cost as much again. Images of others may have length 0. */
bomsync_status bsi_store_front(bsi_block_data *out, bsi_store *s, bsi_ref ref, uint32_t front, bomsync_error *err);
/** What of it is not in rows that are at hand: *unlike, bit i: row i has another image, which is there; of the others none need be. now: at most 64 rows of
 *  `slots` slots. If the block has another count of rows, or of slots, nothing but these two is told. */
bomsync_status bsi_store_unlike(bsi_block_data *out, uint64_t *unlike, bsi_store *s, bsi_ref ref, uint32_t slots, const bsi_rows *now,
                                bomsync_error *err);
void bsi_block_data_free(bsi_block_data *d);

/** Blocks are added by many threads: each has its own bsi_block_writer. Refs are good at once for this run's lists, and
 *  for ever after publish. A writer fills segments of its own; a full one goes to the environment's writer lock. */
typedef struct bsi_block_writer bsi_block_writer;
/** dictionary: of the feed: if it is one, blocks are coded with it, but for those that are too wide. */
bomsync_status bsi_block_writer_open(bsi_block_writer **out, bsi_store *s, uint32_t slot_count, uint64_t dictionary, bomsync_error *err);
/** count records: row images back to back in images, image_off[count+1], body[count], kh, rh. 1 <= count <= 65535. */
bomsync_status bsi_block_writer_add(bsi_ref *ref, bsi_block_writer *w, uint32_t count, const uint8_t *images,
                                    const uint32_t *image_off, const uint32_t *body, const uint64_t *kh, const uint64_t *rh,
                                    bomsync_error *err);
/** All rows of a block, none of them bad. */
bomsync_status bsi_block_writer_add_rows(bsi_ref *ref, bsi_block_writer *w, const bsi_rows *rows, bomsync_error *err);
/** A block that is block `base` (committed before; whole or patched) with count rows replaced: row[i], ascending, gets the image at enc +
 *  image[i] (image has count + 1 offsets), body[i], kh[i], rh[i]. Written as a patch, just these rows, while they and those patched before are
 *  at most a quarter of the block, else as a whole block. The patch of a patch is one patch over the same whole block. count 0: *out is base.
 *  E_USAGE: base was written with another slot_count than the writer's (make the images anew and add them), rows not ascending or outside. */
bomsync_status bsi_block_writer_patch(bsi_ref *out, bsi_block_writer *w, bsi_ref base, uint32_t count, const uint32_t *row,
                                      const uint8_t *enc, const uint32_t *image, const uint32_t *body, const uint64_t *kh,
                                      const uint64_t *rh, bomsync_error *err);
/** Do these rows have the keys of block `base`, one by one? Told by what both hold, so no hashes are looked at; neither are the block's. At most
 *  64 rows, none of them bad. True: bsi_block_writer_amend may follow. False also of what could not be read: no error is told. */
typedef struct bsi_block_match {
    uint64_t changed;             /* bit i: row i has other values */
    uint64_t written;             /* rows whose hashes bsi_block_writer_amend wants, if any changed */
    uint64_t unlike;              /* rows with another image: those that changed, and those whose nulls are empty texts now, or the other way round */
    const bsi_block_data *old;    /* of these rows; good until the writer is used for another block */
} bsi_block_match;
bool bsi_block_writer_match(bsi_block_match *out, bsi_block_writer *w, bsi_ref base, const bsi_rows *now);
/** All rows of block `base`, good until the writer is used for another block; NULL: it could not be read, no error is told. Read here, as who looked at a
 *  block to match it has its segment's directory at hand. */
const bsi_block_data *bsi_block_writer_whole(bsi_block_writer *w, bsi_ref base);
/** bsi_block_writer_patch of the block that was matched last, with the rows that changed (at least one). now: the rows of the match, with kh and rh of those
 *  in `written`. */
bomsync_status bsi_block_writer_amend(bsi_ref *out, bsi_block_writer *w, const bsi_block_match *m, const uint8_t *enc, const uint32_t *image,
                                      const uint32_t *body, const bsi_rows *now, bomsync_error *err);
bomsync_status bsi_block_writer_close(bsi_block_writer *w, bomsync_error *err); /* writes the last segments */

/** All blocks of this run are written: their environments begin to commit them, while the caller goes on. bsi_store_publish waits until it is done,
 *  and tells what went wrong. Blocks may still be added; they are committed by publish. */
void bsi_store_flush(bsi_store *s);
/** Blocks are hardly looked at any more: the shards that were written to give back the page tables of what was read, while the caller goes on. */
void bsi_store_rest(bsi_store *s);

/* Dictionaries: what blocks of a feed are coded with, learned from a sample of its rows. */
typedef struct bsi_dict_sample bsi_dict_sample; /* one thread */
bsi_dict_sample *bsi_dict_sample_open(uint32_t slot_count);
/** A block's rows, as bsi_block_writer_add gets them. Blocks that stand together are added one behind the other. */
void bsi_dict_sample_add(bsi_dict_sample *x, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body);
size_t bsi_dict_sample_bytes(const bsi_dict_sample *x); /* what there is to learn from so far */
/** Frees x. *dictionary: the id of one that block writers of this handle may use at once, and that is stored by the next publish;
 *  BSI_DICT_FRAMES: frames of zstd are smaller by more than BSI_TRAIN_ZSTD_PERCENT (not with `always`), or there is nothing to learn from. About
 *  20 ms for 256 kB. */
bomsync_status bsi_dict_learn(uint64_t *dictionary, bsi_store *s, bsi_dict_sample *x, bool always, bomsync_error *err);

/* ---- kept: keys whose published value is not the source's; exceptions ---- */
typedef struct bsi_kept {     /* texts and image are borrowed */
    uint64_t kh;              /* 0 with key_read false */
    bool key_read;
    bool absent;              /* known: no record of the state has this key hash (false: it may, or nobody looked) */
    const char *rule;         /* bsi_rule_name, "held-delete", "declined-delete" */
    const uint8_t *image;     /* row image waiting (kept back: NULL if it has no readable one; held delete: the published row) */
    uint32_t image_bytes, body_bytes, slot_count;
    const char *partition;    /* "" if it cannot be read */
    const char *file;         /* place in the snapshot, NULL if none */
    int64_t byte, line;
    const char *column, *value; /* may be NULL */
    int64_t since;            /* first seen, unix seconds */
    uint8_t hold[32];         /* digest of the hold it belongs to, zeros: an exception */
} bsi_kept;
static inline bool bsi_kept_is_exception(const bsi_kept *k) {
    static const uint8_t none[32];
    return memcmp(k->hold, none, sizeof none) == 0;
}
/** Many of them, packed as they are stored. Zero-initialise; bsi_kept_free. */
typedef struct bsi_kept_list {
    uint8_t *bytes;
    size_t len, cap, count;
    bsi_buf entry;            /* that is being put */
} bsi_kept_list;
void bsi_kept_put(bsi_kept_list *l, const bsi_kept *k); /* copied, at the end */
bool bsi_kept_same(const bsi_kept_list *a, const bsi_kept_list *b);
void bsi_kept_free(bsi_kept_list *l);
/** Through a list that stays as it is: set list, the rest zero; end it unless next gave NULL. One thread; a list may have many walks. */
typedef struct bsi_kept_walk {
    const bsi_kept_list *list;
    size_t place, next;       /* of the entry at hand, of the one behind it */
    bsi_kept entry;
    bsi_buf texts;
} bsi_kept_walk;
const bsi_kept *bsi_kept_next(bsi_kept_walk *w);               /* good until the next call; NULL: that was all */
const bsi_kept *bsi_kept_at(bsi_kept_walk *w, size_t place);   /* that of an earlier step; next goes on behind it */
void bsi_kept_walk_end(bsi_kept_walk *w);
bool bsi_kept_exceptions(const bsi_kept_list *l);              /* is one an exception? */
/** E_INTEGRITY unless all of it can be read. */
bomsync_status bsi_store_kept(bsi_kept_list *out, bsi_store *s, const char *feed, bomsync_error *err);

typedef struct bsi_hold {
    uint8_t digest[32];
    char *feed, *partition;   /* partition "" for "all held" */
    char *rule;               /* "no-evidence", "delete-guard", "partition-guard", "key-unreadable", "no-records", "count-drop", "mass-update" */
    int64_t changes, since;
    char *state;              /* "held", "declined", "approved" (all held only: used up by the next sync) */
    char *by, *why;           /* of the decision, or NULL */
} bsi_hold;
void bsi_holds_free(bsi_hold *h, size_t count);
bomsync_status bsi_store_holds(bsi_hold **out, size_t *count, bsi_store *s, const char *feed /* NULL: all */, bomsync_error *err);

/* ---- publish: the one commit point ---- */

/** Entries [first, end) of the feed's list as it is stored become ref[0..count) or entry[0..count); first == end: put in before `first`. A
 *  list's edits ascend and do not overlap; all ordinals are those of the stored list. What no edit touches is neither read nor written. */
typedef struct bsi_state_edit {
    uint64_t first, end;
    const bsi_ref *ref;
    size_t count;
} bsi_state_edit;
typedef struct bsi_image_edit {
    uint64_t first, end;
    const bsi_image_entry *entry;
    size_t count;
} bsi_image_edit;

/** Lists of a feed that has none so far, written before it is known whether they count: their pieces are committed where nothing names them.
 *  bsi_store_publish takes them (ahead), or drops them; if it is not called, the next writer cuts them off. Once; meanwhile nobody else writes
 *  into the root, and the caller may be a thread of its own. */
typedef struct bsi_ahead {
    const bsi_ref *state;
    size_t state_count, image_count;
    void (*entries)(void *ctx, bsi_image_entry *out, size_t first, size_t count); /* called in order */
    void *ctx;
} bsi_ahead;
bomsync_status bsi_store_lists_ahead(bsi_store *s, const bsi_ahead *a, bomsync_error *err);

typedef struct bsi_publish {
    const bsi_feed *feed;              /* written as given (but generation and what is said of the image, which publish sets) */
    bsi_generation *generation;        /* NULL: no generation (journal, kept, holds, image only). number, base, base_digest, digest filled by the caller */
    const bsi_ref *state;              /* with generation: the whole list; NULL: keep that of state_list */
    size_t state_count;
    const bsi_state_edit *state_edit;  /* edit_state: state is not looked at, the list is that of the feed's last generation (empty, if it has none) */
    size_t state_edit_count;           /* with these edits. Without generation the same records in another order: that one gets the list */
    bool edit_state;
    const bsi_ref *state_base;         /* NULL, or the list that is edited as bsi_store_state gave it: it is not read again */
    size_t state_base_count;
    const uint64_t *state_swapped;     /* NULL, or [state_base_count + 1] bits: where state_base already holds the ref that takes the stored one's place.
                                        * Shorter than an edit for each where they are many and lie apart; edits stand elsewhere */
    bool state_beside;                 /* with state_base: the list is worth a thread of its own, beside the image */
    const bsi_image_entry *image;      /* NULL: keep the feed's image; drop_image: forget it */
    size_t image_count;
    const bsi_image_edit *image_edit;  /* edit_image: image is not looked at, the list is feed->image_list as stored with these edits */
    size_t image_edit_count;
    bool edit_image;
    const bsi_ref *orphan;             /* with image or edit_image: all of them */
    size_t orphan_count;
    uint8_t image_snapshot_digest[32]; /* with image, edit_image or ahead: becomes the feed's image_digest */
    const bsi_image_mark *mark;        /* with one of them: become the feed's, if the image has mark_entries entries then */
    size_t mark_count;
    uint64_t mark_entries;
    bool drop_image;
    bool ahead;                        /* with generation: state and image are not looked at, but what bsi_store_lists_ahead has written; no orphans */
    const bsi_kept_list *kept;         /* the feed's whole new list, if set_kept; NULL: nothing is kept */
    bool set_kept;
    const bsi_hold *holds;             /* the feed's whole new set, if set_holds */
    size_t hold_count;
    bool set_holds;
    const char *journal_kind;          /* "snapshot", "approve", "decline", "revert", "gc", ... */
    const char *journal_json;          /* one JSON object, without "n", "at", "kind", "prev" and "hash" */
    int64_t at;                        /* the line's time without a generation (else its committed_at); 0: now */
    bomsync_status (*ready)(void *ctx, bomsync_error *err); /* NULL, or waits until all is on the disk that the generation promises: called once, when */
    void *ready_ctx;                                        /* the lists are written, by the thread that publishes; if it fails nothing is committed */
    char *(*stats)(void *ctx);         /* NULL, or gives what bsi_store_stats_get returns from now on (malloc'ed): called once, as the last */
    void *stats_ctx;                   /* thing before the commit, by the thread that publishes */
    bool outbox;                       /* outbox/.tmp-<number> is complete and synced, or will be when it is ready: rename it after the commit */
} bsi_publish;
/** Syncs the shards, commits the root, renames the outbox folder. E_SPACE and the rest leave generation g as it was. */
bomsync_status bsi_store_publish(bsi_store *s, const bsi_publish *p, bomsync_error *err);

/** Journal lines, oldest first: fn gets the stored JSON object with "n", "at", "kind", "prev", "hash". Verifies the chain. */
bomsync_status bsi_store_journal(bsi_store *s, bomsync_status (*fn)(void *ctx, const char *json, size_t n, bomsync_error *err),
                                 void *ctx, bomsync_error *err);

/* ---- upkeep ---- */
typedef struct bsi_store_figures {
    uint64_t data, rows, image, outbox, ledger; /* bytes in use */
    uint64_t segments, free_bytes;
} bsi_store_figures;
bomsync_status bsi_store_figures_get(bsi_store_figures *out, bsi_store *s, bomsync_error *err);
/** Everything read and checked: checksums, counts, digests, kh/rh against row images, lists, journal chain, chunk files. found() gets
 *  one line for each fault. repair: a damaged image is dropped. */
bomsync_status bsi_store_verify(bsi_store *s, bool repair, void (*found)(void *ctx, const char *line), void *ctx, bomsync_error *err);
bomsync_status bsi_store_backup(bsi_store *s, const char *to, bomsync_error *err);   /* consistent copy; `to` must not exist */
bomsync_status bsi_store_restore(const char *from, const char *to, bomsync_error *err); /* verifies, draws a new store id */
bomsync_status bsi_store_gc(bsi_store *s, int64_t keep, bomsync_error *err); /* keeps the newest `keep` generations (and all they need) */
/** What the last run left for `stats`: one JSON object, the caller's to free; NULL if there is none. */
bomsync_status bsi_store_stats_get(char **json, bsi_store *s, bomsync_error *err);

#endif
