/* store/store_inner.h - what the files of the store share. Byte layouts: FORMAT.md.
 *
 *   bsi_store ── root (one LMDB environment) ── meta feeds generations state image lists kept holds journal dicts ...
 *             └─ shard[P] (one each)         ── data rows          each with a thread of its own once it is written to
 *
 * Locks: shard.mutex guards that shard's queue, its environment handle and its read transaction; no two are held at
 * once. The root belongs to the thread that calls.
 */
#ifndef BSI_STORE_INNER_H
#define BSI_STORE_INNER_H

#include <assert.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/limits.h"
#include "flow/store.h"

#define BSI_STORE_FORMAT 2
#define BSI_STORE_SHARDS_MAX 64
#define BSI_STORE_DIRTY_BYTES (24u << 20)  /* dirty pages are private memory: this much over all environments */
#define BSI_STORE_QUEUE_BYTES (8u << 20)   /* segments waiting for their shard's thread, over all shards */
#define BSI_STORE_GROUP_BLOCKS 8           /* blocks in one zstd frame: see store_blocks.c */
#define BSI_STORE_GROUP_BYTES (16u << 10)  /* a group of wide blocks ends here */
#define BSI_STORE_SEGMENT_BYTES (1u << 20) /* a segment of wide blocks ends here */
#define BSI_STORE_CODE_BLOCKS 32           /* blocks that are coded side by side: their residuals fit L1 */
#define BSI_STORE_CODE_BYTES (64u << 10)   /* wide ones end here: more than L1, but of a few blocks the last would be coded beside nothing */
#define BSI_STORE_LOCK_BYTES 8192          /* size of LMDB's lock.mdb for 126 readers */
#define BSI_STORE_RECORD_BYTES_MAX (3u << 30)

/* Databases. The index is also the kind byte in the header of their values. */
typedef enum bsi_db {
    BSI_DB_META,
    BSI_DB_FEEDS,
    BSI_DB_GENERATIONS,
    BSI_DB_STATE,
    BSI_DB_IMAGE,
    BSI_DB_LISTS,
    BSI_DB_KEPT,
    BSI_DB_HOLDS,
    BSI_DB_JOURNAL,
    BSI_DB_DICTS,
    BSI_DB_CONTRACTS, /* from here to MULTI: made empty, for later */
    BSI_DB_LAYOUTS,
    BSI_DB_LOOKUP,
    BSI_DB_REFS,
    BSI_DB_MULTI,
    BSI_DB_ROOT_COUNT,
    BSI_DB_DATA = BSI_DB_ROOT_COUNT,
    BSI_DB_ROWS,
    BSI_DB_COUNT
} bsi_db;
typedef struct bsi_db_spec {
    const char *name;
    bool integer; /* key is a u64 */
} bsi_db_spec;
extern const bsi_db_spec bsi_db_specs[BSI_DB_COUNT];

typedef struct bsi_env {
    MDB_env *env; /* NULL: not open */
    MDB_txn *read;
    char *path, *label; /* label: "root", "shard-03" */
    MDB_dbi dbi[BSI_DB_COUNT];
    bool shard, write;
} bsi_env;

/* ---- environments (store_env.c) ---- */
bomsync_status bsi_env_open(bsi_env *e, const char *dir, const char *label, bool shard, bool write, bool make,
                            bomsync_error *err);
void bsi_env_leave(bsi_env *e);   /* no reader is left */
void bsi_env_close(bsi_env *e);
/** The format number of the store in dir, read as every format has it: see store_format.c. */
bomsync_status bsi_env_peek_format(uint32_t *format, const char *dir, bomsync_error *err);
bomsync_status bsi_env_renew(bsi_env *e, bomsync_error *err); /* the read view moves to the newest commit */
bomsync_status bsi_env_begin(MDB_txn **txn, bsi_env *e, bomsync_error *err);
bomsync_status bsi_env_commit(bsi_env *e, MDB_txn *txn, bomsync_error *err);
bomsync_status bsi_env_fail(bomsync_error *err, const bsi_env *e, int rc, const char *what);
uint64_t bsi_env_free_pages(const bsi_env *e, uint64_t from); /* pages >= from on the free list */
bool bsi_env_last(const bsi_env *e, MDB_txn *txn, bsi_db db, uint64_t *id);

/* ---- values ---- */
#define BSI_VALUE_HEAD 16
typedef struct bsi_span {
    const uint8_t *p; /* NULL: no such value */
    size_t n;
} bsi_span;
static inline MDB_val bsi_key_id(const uint64_t *id) { return (MDB_val){sizeof *id, (void *)(uintptr_t)id}; }
static inline MDB_val bsi_key_text(const char *s) { return (MDB_val){strlen(s), (void *)(uintptr_t)s}; }
static inline size_t bsi_pad8(size_t n) { return (n + 7) & ~(size_t)7; }
static inline uint32_t bsi_get32(const void *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline uint64_t bsi_get64(const void *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
uint64_t bsi_value_salt(bsi_db db, size_t bytes, MDB_val key);
/** Start a value in b: room for the header. The payload is appended, then bsi_value_seal ends it. */
void bsi_value_start(bsi_buf *b);
/** checked: payload bytes that the checksum covers (all, or a segment's directory). Pads to a multiple of 8. */
bomsync_status bsi_value_seal(bsi_buf *b, bsi_db db, MDB_val key, size_t checked, bomsync_error *err);
/** Header, sizes and checksum of a value as LMDB gave it. */
bomsync_status bsi_value_check(bsi_span *payload, const bsi_env *e, bsi_db db, MDB_val key, MDB_val value, bomsync_error *err);
bomsync_status bsi_value_get(bsi_span *payload, const bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bomsync_error *err);
bomsync_status bsi_value_put(bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bsi_buf *sealed, unsigned flags,
                             bomsync_error *err);
/** Seals and puts b, which bsi_value_start began; all of it checked. */
bomsync_status bsi_value_save(bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bsi_buf *b, unsigned flags,
                              bomsync_error *err);
bomsync_status bsi_value_drop(bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bomsync_error *err); /* absent is fine */
/** Delete every integer key above id. *any: there was one. */
bomsync_status bsi_env_cut(bsi_env *e, MDB_txn *txn, bsi_db db, uint64_t id, bool *any, bomsync_error *err);
bomsync_status bsi_bad(bomsync_error *err, const bsi_env *e, bsi_db db, MDB_val key, const char *what);
char *bsi_key_name(bsi_db db, MDB_val key); /* for messages; free() */
#ifdef __clang_analyzer__ /* as in core/base.h */
#define bsi_env_fail(...) bsi_never_ok(bsi_env_fail(__VA_ARGS__))
#define bsi_bad(...) bsi_never_ok(bsi_bad(__VA_ARGS__))
#endif

/* ---- reading packed records ---- */
typedef struct bsi_reader {
    const uint8_t *p, *end;
    bool ok;
} bsi_reader;
uint64_t bsi_read_varint(bsi_reader *r);
int64_t bsi_read_signed(bsi_reader *r);
void bsi_read_bytes(bsi_reader *r, void *out, size_t n);
char *bsi_read_text(bsi_reader *r); /* malloc'ed; NULL if it was written as NULL */
size_t bsi_read_count(bsi_reader *r, size_t least); /* a count whose elements take at least `least` bytes each */
void bsi_put_signed(bsi_buf *b, int64_t v);
void bsi_put_text(bsi_buf *b, const char *s);
/** Append a codec byte and raw, compressed if that is shorter; and back. */
void bsi_put_squeezed(bsi_buf *b, const bsi_buf *raw);
bool bsi_read_squeezed(bsi_buf *raw, bsi_span payload);
bool bsi_squeezed_bytes(size_t *bytes, bsi_span payload);           /* of what bsi_unsqueeze gives */
bool bsi_unsqueeze(uint8_t *to, size_t bytes, bsi_span payload);

/* ---- residuals (store_residual.c) ---- */
#define BSI_RESIDUAL_SLOTS 256              /* rows of more are not coded */
#define BSI_RESIDUAL_SIMPLE_SLOTS 32        /* rows of more are not made in registers */
#define BSI_RESIDUAL_ROW_BYTES (64u << 10)  /* nor are longer ones */
#define BSI_RESIDUAL_BLOCK_BYTES (8u << 20) /* nor blocks of more */
#define BSI_RESIDUAL_TAIL 16                /* so many bytes, less one, may follow a residual */
#define BSI_RESIDUAL_MARGIN (16 * (BSI_RESIDUAL_SLOTS + 1) + 64) /* bytes behind one that may be read */
/** Appends the residual of count row images, which may be read 16 bytes past their end. False: they are not row images of so many slots, or
 *  too wide; out is as it was. */
bool bsi_residual_put(bsi_buf *out, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body);
/** The same in registers, where they serve. False: they do not, or the rows are not that simple; out is as it was. The images are not read past
 *  their end. starts: as in bsi_rows, or NULL. */
bool bsi_residual_put_simple(bsi_buf *out, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body,
                             const bsi_row_starts *starts);
uint8_t *bsi_residual_rows_vbmi2(uint8_t *o, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body,
                                 const bsi_row_starts *starts, uint32_t *ends); /* where they end; NULL: not that simple. 64 bytes past the end may be
                                                                                   written. ends: offset behind each row; or NULL */
uint8_t *bsi_residual_long_vbmi2(uint8_t *o, uint32_t slots, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body,
                                 const bsi_row_starts *starts, uint32_t *ends); /* the same for longer rows */
/** Rows that are not those of a residual: *unlike, bit i: row i, whose image is in out at image[i], as bsi_residual_get gives it; of the others nothing is
 *  there. now: at most 64 rows. made: memory for this. False: not told this way: bsi_residual_get tells. */
bool bsi_residual_unlike(bsi_buf *out, uint32_t *image, uint32_t *body, uint64_t *unlike, bsi_buf *made, uint32_t slots, const bsi_rows *now,
                         const uint8_t *p, const uint8_t *end);
/** The row images again, in out (used anew) at image[i]. p may be read BSI_RESIDUAL_MARGIN bytes past end. */
bool bsi_residual_get(bsi_buf *out, uint32_t *image, uint32_t *body, uint32_t slots, uint32_t count, const uint8_t *p, const uint8_t *end);
/** The first `front` of count rows, since each is made from the one before; those behind them have images of length 0. */
bool bsi_residual_front(bsi_buf *out, uint32_t *image, uint32_t *body, uint32_t slots, uint32_t count, uint32_t front, const uint8_t *p,
                        const uint8_t *end);

/* ---- symbols (store_symbols.c) ---- */
#define BSI_SYMBOLS_MAX 4096 /* codes of 12 bits */
#define BSI_SYMBOL_BYTES 8u
typedef struct bsi_symbols {
    uint32_t count;
    uint64_t value[BSI_SYMBOLS_MAX]; /* first byte lowest, zeros behind the last */
    uint8_t bytes[BSI_SYMBOLS_MAX];
    struct bsi_symbol_tables *tables; /* to encode with; NULL: bsi_symbols_prepare makes them */
} bsi_symbols;
typedef struct bsi_symbol_part { /* bytes to be coded, and where to; both move on */
    const uint8_t *p, *end;      /* BSI_RESIDUAL_TAIL bytes more may be read, and coded with them */
    uint8_t *out;                /* room for bsi_symbols_bound */
} bsi_symbol_part;
static inline size_t bsi_symbols_bound(size_t bytes) { return (bytes + 1) / 2 * 3 + 1; }
bsi_symbols *bsi_symbols_train(const uint8_t *p, size_t n); /* p may be read 8 bytes past n; with tables */
void bsi_symbols_prepare(bsi_symbols *s);
void bsi_symbols_encode(const bsi_symbols *s, bsi_symbol_part *part, size_t count);
/** False: these are no codes. BSI_RESIDUAL_MARGIN bytes behind out may be read. */
bool bsi_symbols_decode(bsi_buf *out, const bsi_symbols *s, const uint8_t *p, size_t n);
void bsi_symbols_put(bsi_buf *b, const bsi_symbols *s);
bsi_symbols *bsi_symbols_read(const uint8_t *p, size_t n); /* NULL: not a dictionary */
void bsi_symbols_free(bsi_symbols *s);

/* ---- the store ---- */
typedef struct bsi_counters { /* ids used up to the last commit; 0: none yet */
    uint64_t segment, piece, list, journal, generation; /* piece: dictionaries too */
} bsi_counters;

typedef struct bsi_dict {
    uint64_t id;
    bsi_symbols *symbols;
    bool stored; /* false: publish writes it */
} bsi_dict;

typedef struct bsi_job {
    struct bsi_job *next;
    uint64_t id;
    bsi_buf data, rows; /* sealed values */
} bsi_job;

typedef struct bsi_shard {
    bsi_env env;
    pthread_mutex_t mutex;
    pthread_cond_t wake, idle;
    pthread_t thread;
    bool running, stop;
    bool rest;           /* what was read is not looked at any more: */
    uintptr_t read_from, read_to; /* it lies here in the mapping */
    uint64_t wanted, flushed; /* flushes that were asked for, and the last one that is done: all that was queued before it is committed */
    bsi_job *head, *tail;
    size_t queued;
    bomsync_error error; /* the first that struck its thread */
    struct bsi_store *store;
    /* the thread's own: */
    MDB_txn *txn;
    size_t dirty;
    uint64_t last;
    bool cut;
} bsi_shard;

struct bsi_store {
    char *dir;
    char id[33];
    bsi_secret secret;
    int shard_count;
    bsi_store_mode mode;
    int lock_fd, readers_fd;
    bsi_env root;
    bsi_shard *shard;
    bsi_counters counters;
    atomic_uint_fast64_t next_segment;
    pthread_mutex_t dict_mutex; /* guards dict, and the making of tables in it */
    bsi_dict *dict;
    size_t dict_count;
    atomic_uint_fast64_t view; /* changes whenever pointers into the mapping die; unique in the process */
    struct bsi_ahead_lists *ahead; /* written ahead, and not published so far; or NULL */
    bool failed; /* a publish failed half-way: nothing more goes through this handle */
};

uint64_t bsi_store_new_view(void);
bomsync_status bsi_store_meta_put(bsi_store *s, MDB_txn *txn, const char *key, const void *p, size_t n, bomsync_error *err);
bomsync_status bsi_store_counters_put(bsi_store *s, MDB_txn *txn, const bsi_counters *c, bomsync_error *err);
/** After a commit of the root with these counters: readers of this handle move to the new state; ids that were used stay used. */
bomsync_status bsi_store_adopt(bsi_store *s, const bsi_counters *c, bomsync_error *err);
char *bsi_store_path(const bsi_store *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bomsync_status bsi_store_lay_out(const char *dir, bomsync_error *err);      /* lock, readers, outbox, tmp, ledger */
bomsync_status bsi_store_sync_all(const char *dir, int shards, bomsync_error *err);
bomsync_status bsi_store_settle(const char *tmp, const char *dir, bomsync_error *err); /* rename, sync the folder above */
char *bsi_store_beside(const char *dir, bomsync_error *err);                /* makes DIR.tmp-XXXXXX; free() */
bomsync_status bsi_store_target(const char *dir, bomsync_error *err);       /* may a store be made there? */
bomsync_status bsi_store_rename_outbox(bsi_store *s, int64_t generation, bomsync_error *err);
bomsync_status bsi_store_removed_below(const char *dir, const char *prefix, int64_t keep, bomsync_error *err);

bomsync_status bsi_store_copy_tree(const char *from, const char *to, bomsync_error *err); /* synced; to must not exist */

/* ---- older formats (store_format.c) ---- */
typedef struct bsi_format_step {
    uint32_t from;
    /** dir is a private copy of a store of format `from`; leaves one of from + 1, synced. NULL ends the table. */
    bomsync_status (*run)(const char *dir, bomsync_error *err);
} bsi_format_step;
extern const bsi_format_step *bsi_format_steps;
/** Is there a store of an older format that can be brought forward? Looks without locks, whatever else is wrong there. */
bool bsi_format_is_older(uint32_t *format, const char *dir);
/** Puts a copy in the current format in dir's place; the old store becomes DIR.v<format>. The caller holds both locks of the store, exclusive. */
bomsync_status bsi_format_forward(const char *dir, uint32_t format, bomsync_error *err);

/* ---- dictionaries (store_dicts.c) ---- */
/** Good until the store is closed; any thread. tables: to encode with. */
bomsync_status bsi_dict_get(const bsi_symbols **out, bsi_store *s, uint64_t id, bool tables, bomsync_error *err);
bomsync_status bsi_dicts_save(bsi_store *s, MDB_txn *txn, bomsync_error *err); /* those that are new */
bomsync_status bsi_dict_check(bsi_store *s, bsi_span payload, uint64_t id, bomsync_error *err);
void bsi_dicts_close(bsi_store *s);

/* ---- records (store_records.c) ---- */
bomsync_status bsi_feed_save(bsi_store *s, MDB_txn *txn, const bsi_feed *f, bomsync_error *err);
bomsync_status bsi_feed_load(bsi_feed **out, bsi_store *s, MDB_txn *txn, const char *name, bomsync_error *err);
bomsync_status bsi_generation_save(bsi_store *s, MDB_txn *txn, const bsi_generation *g, int64_t previous, bool outbox,
                                   bomsync_error *err);
bomsync_status bsi_generation_load(bsi_generation **out, int64_t *previous, bool *outbox, bsi_store *s, MDB_txn *txn,
                                   int64_t number, bomsync_error *err);
bomsync_status bsi_kept_save(bsi_store *s, MDB_txn *txn, const char *feed, const bsi_kept_list *l, bomsync_error *err);
bomsync_status bsi_holds_save(bsi_store *s, MDB_txn *txn, const char *feed, const bsi_hold *h, size_t count,
                              bomsync_error *err);

/* ---- lists (store_lists.c, store_image.c) ---- */
#define BSI_IMAGE_PAGE 72 /* entries of one value of the image */
typedef struct bsi_list_piece {
    uint64_t id;
    uint32_t count;
    union {
        uint32_t first; /* of an image: entries before it on its page */
        uint32_t check; /* of a state: store_lists.c */
    };
} bsi_list_piece;
typedef struct bsi_list {
    bsi_db db; /* BSI_DB_STATE or BSI_DB_IMAGE */
    uint64_t id, count;
    bsi_list_piece *piece;
    size_t piece_count, piece_cap;
    bsi_ref *orphan;
    size_t orphan_count;
} bsi_list;
void bsi_list_free(bsi_list *l);
typedef struct bsi_ahead_lists {
    bsi_list state, image;
    uint64_t piece; /* the last id that they use */
    bool whole;     /* else something went wrong */
} bsi_ahead_lists;
void bsi_ahead_forget(bsi_store *s);
/** A list, piece by piece, in the mapping: begin, next until it is false, end (which gives the orphans, malloc'ed, and tells what was wrong). Any
 *  piece that next gives has an id from 1 to 2^63 - 1, and is no longer than one may be. */
typedef struct bsi_list_reader {
    bsi_reader r;
    bsi_db db;
    uint64_t id, count; /* of the list; its entries, as its head says */
    size_t pieces, orphans;
    size_t left;
    uint64_t last, sum;
} bsi_list_reader;
bomsync_status bsi_list_begin(bsi_list_reader *out, bsi_store *s, MDB_txn *txn, uint64_t id, bsi_db db, bomsync_error *err);
bool bsi_list_next(bsi_list_piece *p, bsi_list_reader *x);
bomsync_status bsi_list_end(bsi_ref **orphan, bsi_store *s, bsi_list_reader *x, bomsync_error *err);
bomsync_status bsi_list_load(bsi_list *out, bsi_store *s, MDB_txn *txn, uint64_t id, bsi_db db, bomsync_error *err);
void bsi_list_room(bsi_list *list, size_t more); /* at once, where it is known how many will be added */
void bsi_list_add(bsi_list *list, bsi_list_piece p); /* an image's piece that goes on where the last one ends becomes part of it */
/** Value `id` of the root; ids mostly ascend by one, so the one behind `here`, where the cursor stands (0: nowhere), is tried before a search. */
bomsync_status bsi_list_seek(MDB_val *value, bsi_store *s, bsi_db db, uint64_t id, MDB_cursor *c, uint64_t here, bomsync_error *err);

/** Pieces of a list, found again by the digest of what they hold. */
typedef struct bsi_known {
    bsi_list_piece *piece;
    bsi_hash128 *digest;
    uint32_t *slot; /* index + 1 of a piece, by the low bits of its digest */
    size_t mask, count, room;
} bsi_known;
void bsi_known_open(bsi_known *k, size_t room);
void bsi_known_add(bsi_known *k, bsi_hash128 digest, bsi_list_piece p);
const bsi_list_piece *bsi_known_find(const bsi_known *k, bsi_hash128 digest, size_t count);
void bsi_known_close(bsi_known *k);
static inline uint64_t bsi_stir(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15ull;
    return x ^ (x >> 29);
}

/** Writes the pieces that are new, in root transactions of its own once there are many; the list itself is left to the last one. */
typedef struct bsi_lister {
    bsi_store *s;
    MDB_txn *txn; /* NULL: none open */
    size_t dirty, most; /* bytes of a transaction; 0: BSI_STORE_DIRTY_BYTES */
    bool last; /* the transaction that counts: never committed half-way */
    bsi_counters counters;
} bsi_lister;
bomsync_status bsi_lister_room(bsi_lister *l, size_t bytes, bomsync_error *err); /* a transaction that may grow by so much */
bomsync_status bsi_lister_begin_last(bsi_lister *l, bomsync_error *err);
/** old: the feed's list before (may be empty). Edits ascend and do not overlap, all inside old. */
bomsync_status bsi_lister_state(bsi_list *out, bsi_lister *l, const bsi_ref *ref, size_t count, const bsi_list *old,
                                bomsync_error *err);
/** What edits make of a state list: *out, and in `made` what bsi_state_edit_save writes of it.
 *  known: all refs of old, in order, if they are at hand: then the store is not looked at, and any thread may do it; else NULL. swapped: bits of those
 *  that are others than in old; NULL: none is. */
bomsync_status bsi_state_edit_make(bsi_list *out, bsi_buf *made, bsi_store *s, const bsi_list *old, const bsi_ref *known, const uint64_t *swapped,
                                   const bsi_state_edit *edit, size_t count, bomsync_error *err);
bomsync_status bsi_state_edit_save(bsi_list *list, bsi_lister *l, const bsi_buf *made, bomsync_error *err);
/** An image that shares nothing with one before, of entries that are made as they are written. */
bomsync_status bsi_lister_entries(bsi_list *out, bsi_lister *l, const bsi_ahead *a, bomsync_error *err);
bomsync_status bsi_lister_image(bsi_list *out, bsi_lister *l, const bsi_image_entry *e, size_t count, const bsi_list *old,
                                bomsync_error *err);
bomsync_status bsi_lister_edit_image(bsi_list *out, bsi_lister *l, const bsi_list *old, const bsi_image_edit *edit, size_t count,
                                     bomsync_error *err);
void bsi_list_orphans(bsi_list *list, const bsi_ref *orphan, size_t count);
bomsync_status bsi_list_save(bsi_lister *l, bsi_list *list, bomsync_error *err);
/** Drop an image list and those of its pages that `next` does not use. */
bomsync_status bsi_list_drop_image(bsi_lister *l, const bsi_list *old, const bsi_list *next, bomsync_error *err);

/* ---- shards and blocks (store_shard.c, store_blocks.c, store_read.c) ---- */
bomsync_status bsi_shard_env(bsi_shard *sh, bomsync_error *err); /* opens it if needed; under its mutex */
bomsync_status bsi_shard_put(bsi_store *s, bsi_job *job, bomsync_error *err); /* takes job */
void bsi_shards_flush_begin(bsi_store *s);
bomsync_status bsi_shards_flush(bsi_store *s, bomsync_error *err); /* waits; what was begun before is not done again */
bomsync_status bsi_shards_renew(bsi_store *s, bomsync_error *err);
void bsi_shards_leave(bsi_store *s);  /* no reader is left; threads and mappings are */
void bsi_shards_close(bsi_store *s);
bomsync_status bsi_shard_get(MDB_val *value, bsi_store *s, bsi_db db, uint64_t segment, bomsync_error *err);

#define BSI_REF_BITS 9
#define BSI_PATCH_RECORDS 2048 /* a block of more is not patched: readers put merged rows into an array of their own */
enum { BSI_DATA_HEAD = 16, BSI_ROWS_HEAD = 16 };
/* Kinds of segments. The low bit says patches: all that `rows` knows. */
enum { BSI_KIND_WHOLE = 0, BSI_KIND_PATCH = 1, BSI_KIND_CODED = 2, BSI_KIND_CODED_PATCH = 3, BSI_KINDS };
uint32_t bsi_block_check(const void *p, size_t n, uint64_t segment, uint32_t index);
bool bsi_frames_set_up(ZSTD_CCtx *c); /* as groups of blocks are packed. False: out of memory */
/** Sizes of row images as varints, then the images: the raw form of a block, and the end of a patch's. */
void bsi_raw_images(bsi_buf *raw, uint32_t count, const uint8_t *images, const uint32_t *image_off, const uint32_t *body);

/* The two segments whose rows were read last. */
typedef struct bsi_rows_segment {
    uint64_t view, segment;
    const uint8_t *words;
    uint32_t blocks, kind;
    uint32_t start[BSI_SEGMENT_BLOCKS + 1]; /* words before block i */
    uint32_t check[BSI_SEGMENT_BLOCKS];
} bsi_rows_segment;
typedef struct bsi_rows_view {
    bsi_rows_segment segment[2];
    int last;
    bool known; /* blocks were read before: their checksums are not looked at */
    uint64_t merged[BSI_PATCH_RECORDS * 2];
} bsi_rows_view;
typedef struct bsi_patch { /* rows of one, in the mapping */
    bsi_ref base;          /* BSI_REF_NONE: a whole block, records is all that is set */
    uint32_t records, count;
    const uint64_t *kh, *rh;
    const uint16_t *row;
} bsi_patch;
bomsync_status bsi_patch_get(bsi_patch *out, bsi_rows_view *v, bsi_store *s, bsi_ref ref, bomsync_error *err);
bsi_rows_view *bsi_rows_here(void); /* this thread's, as bsi_store_rows uses it */
/** bsi_store_rows with a view of the caller's. */
bomsync_status bsi_rows_get(bsi_block_rows *out, bsi_rows_view *v, bsi_store *s, bsi_ref ref, bomsync_error *err);

/* A segment's data value, decoded and bounds-checked. A coded block is a group of its own; raw and start mean nothing there. */
typedef struct bsi_group {
    uint32_t kind, block_first, block_count, packed, raw, check;
    size_t offset;
} bsi_group;
typedef struct bsi_block_place {
    uint32_t group, start, bytes, records; /* start: in the group's raw form */
} bsi_block_place;
typedef struct bsi_segment {
    uint64_t id, view;
    const uint8_t *payload;
    uint32_t slot_count, block_count, group_count;
    uint64_t dictionary;        /* of coded blocks, else 0 */
    uint32_t kind, known;       /* of coded blocks: kind, and of how many group and block are filled in so far; */
    const uint8_t *next;        /* what the directory says of the next one, */
    size_t next_offset, dir, bytes; /* where that begins; bytes of the directory, and of all */
    const bsi_symbols *symbols; /* the same; NULL */
    bsi_group group[BSI_SEGMENT_BLOCKS];
    bsi_block_place block[BSI_SEGMENT_BLOCKS];
} bsi_segment;
/** What the directory says of the first `blocks` blocks (or of all that there are), at least. */
bomsync_status bsi_segment_load(bsi_segment *out, bsi_store *s, uint64_t id, uint32_t blocks, bomsync_error *err);
/** The dictionary that a segment names, 0: none. */
bomsync_status bsi_segment_dictionary(uint64_t *out, bsi_store *s, uint64_t id, bomsync_error *err);
bomsync_status bsi_segment_slots(uint32_t *out, bsi_store *s, uint64_t id, bomsync_error *err); /* without going through its directory */
uint32_t bsi_segment_records(const bsi_segment *g, uint32_t block);

/* ---- compaction (store_compact.c) ---- */
/** The feed's last state with its patches made whole, where that is worth it: written, listed and committed. oldest: no older generation stays. For gc. */
bomsync_status bsi_store_compact(bsi_store *s, const char *feed, int64_t oldest, bomsync_error *err);

#endif
