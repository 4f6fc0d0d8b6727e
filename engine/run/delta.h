/* run/delta.h - deltas (NDJSON of `diff` or `cat`) read into memory, by key. */
#ifndef BSI_RUN_DELTA_H
#define BSI_RUN_DELTA_H

#include "core/base.h"

/** One member of "before" or "after". null and empty both have length 0. */
typedef struct bsi_delta_value {
    uint32_t name;           /* index into bsi_deltas.name */
    uint32_t bytes;
    const char *p;           /* in the arena */
} bsi_delta_value;

typedef struct bsi_delta_change {
    char op;                 /* 'c', 'u', 'd' */
    uint32_t file;           /* index of the delta */
    int64_t line;            /* from 1 */
    const bsi_delta_value *before, *after;
    uint32_t before_count, after_count;
    struct bsi_delta_change *next; /* of the same key, in order */
} bsi_delta_change;

typedef struct bsi_delta_key {
    const uint8_t *text;     /* key values in key order, each with its length: as the front of a row image */
    uint32_t bytes;
    bool seen;               /* the caller's */
    uint64_t hash;
    bsi_delta_change *first, *last;
} bsi_delta_key;

/** Zero-initialise; bsi_deltas_free. Its arena holds all texts. */
typedef struct bsi_deltas {
    char **name;             /* of attributes, in order of appearance */
    uint32_t name_count, name_cap;
    char **key_name;         /* key columns in key order: those of the first change */
    uint32_t key_count;
    bsi_delta_key *key;      /* in order of appearance */
    size_t count, cap;
    uint32_t *slot;          /* hash table, index + 1 */
    size_t mask;
    bsi_buf *slab;
    size_t slabs, slab_cap;
} bsi_deltas;

/** Adds one file ("-": stdin), plain or compressed. E_REFUSED names file and line of what is not a change. */
bomsync_status bsi_deltas_read(bsi_deltas *d, const char *path, uint32_t file, bomsync_error *err);
/** The key with this text, or NULL. */
bsi_delta_key *bsi_deltas_find(const bsi_deltas *d, const void *text, size_t bytes);
void bsi_deltas_free(bsi_deltas *d);

#endif
