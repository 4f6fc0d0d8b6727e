/* flow/layout.h - how bytes become records, and what a record looks like inside the engine.
 *
 * A feed owns *slots*: slots 0..key_count-1 are the key columns in key order, the rest the non-key columns in the
 * order of the feed's first header, later columns after them. Slots are append-only, so a slot number is good for
 * ever. Ignored columns have no slot.
 *
 * A *row image* is the canonical form of a record: what is hashed, compared and stored.
 *
 *   body:  for slot 0..m-1: varint length, bytes         (null, absent and empty: length 0)
 *          trailing empty non-key slots are left off, so a column that is added empty changes no hash
 *   nulls: varint count, then varint slots (ascending) of slots < slot_count that are null or absent, not empty
 *
 *   kh = XXH3-64(body up to the end of the key slots), rh = XXH3-64(body), both with the store's secret.
 *
 * Slots at or above the slot count at which a row image was made (stored beside it) are absent: null.
 */
#ifndef BSI_FLOW_LAYOUT_H
#define BSI_FLOW_LAYOUT_H

#include "core/base.h"

typedef struct bsi_dialect {
    char delimiter;  /* ',' */
    char quote;      /* '"'; 0: no quoting */
    bool lenient;    /* bare quotes are data */
} bsi_dialect;

/** Columns of a feed. Owned by the feed; names are NUL-terminated UTF-8. */
typedef struct bsi_slots {
    char **name;
    uint32_t count;     /* key columns included */
    uint32_t key_count;
    int32_t partition;  /* slot (< key_count) of the partition column, -1: none, partition "_" */
    uint32_t *order;    /* slots in the order of the feed's first header, later ones after: for export and before/after */
} bsi_slots;

/** Slots side by side that are fed by columns side by side: `count` of them from `slot` and `column` on. */
typedef struct bsi_stretch {
    uint32_t slot, column, count;
} bsi_stretch;

/** One file's way to read records. Built from its header by bsi_layout_open (parse/). */
typedef struct bsi_layout {
    bsi_dialect dialect;
    uint32_t column_count;   /* fields a record must have */
    int32_t *slot_of;        /* [column_count] slot, or -1 for ignored */
    char **column_name;      /* [column_count] header names */
    uint32_t slot_count;     /* slots of the feed when this layout was made */
    uint32_t key_count;
    uint32_t *absent;        /* slots < slot_count that no column feeds, ascending */
    uint32_t absent_count;
    char **nulls;            /* texts that are null */
    uint32_t *null_bytes;    /* [null_count] their lengths */
    uint32_t null_count;
    int32_t *column_of;      /* [slot_count] column that feeds the slot, -1: absent */
    bsi_stretch *stretch;    /* all slots that are not absent, in order; most files have one or two */
    uint32_t stretch_count;
    int32_t partition;       /* slot of the partition column, -1: none */
    uint8_t digest[32];      /* SHA-256 over all of the above that decides how bytes become records */
    bsi_hash128 mix;         /* xored into block fingerprints, so that equal bytes under other layouts differ */
} bsi_layout;

#endif
