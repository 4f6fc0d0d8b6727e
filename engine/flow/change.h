/* flow/change.h - diff hands changes to emit, in seq order. */
#ifndef BSI_FLOW_CHANGE_H
#define BSI_FLOW_CHANGE_H

#include "flow/rows.h"

/** One change. Fields borrow from the batch that made them, until the sink returns. */
typedef struct bsi_change {
    char op;                      /* 'c', 'u', 'd' */
    uint64_t seq;                 /* from 1 */
    uint8_t rank;                 /* 00 creates and updates, 90 deletes, without a contract */
    const bsi_slots *slots;
    const bsi_field *before;      /* [slots->count], u and d */
    const bsi_field *after;       /* [slots->count], c and u */
    bool before_wide, after_wide; /* 32 bytes behind each of its fields may be read */
} bsi_change;

/** Two fields are equal if their bytes are: null, absent and empty all have length 0. */
static inline bool bsi_field_eq(const bsi_field *a, const bsi_field *b) {
    return a->len == b->len && (a->len == 0 || memcmp(a->p, b->p, a->len) == 0);
}
static inline bool bsi_field_same(const bsi_field *a, const bsi_field *b) {
    return bsi_field_eq(a, b) && a->null == b->null;
}

/**
 * Append the NDJSON line of a change (with its LF).
 *
 * head:   NULL in `diff`: no seq, id, entity, partition; id_prefix NULL: no seq and id (diff-generations)
 */
typedef struct bsi_change_head {
    const char *entity;      /* the feed's name */
    const char *id_prefix;   /* 16 hex digits of the base generation's digest */
    int64_t generation;      /* history: printed first as "generation"; -1: not printed */
} bsi_change_head;
void bsi_change_render(bsi_buf *out, const bsi_change *c, const bsi_change_head *head);

/** Partition text of a record: the partition slot's field, "_" without one or if it is empty. */
static inline bsi_field bsi_change_partition(const bsi_slots *s, const bsi_field *f) {
    if (s->partition >= 0 && f[s->partition].len) return f[s->partition];
    return (bsi_field){(const uint8_t *)"_", 1, false};
}

/* What emit tells of the chunks it wrote, in order: goes into the manifest, the generation's digest, `show`. */
typedef struct bsi_chunk_info {
    char *file;         /* below the generation's folder; owned */
    char *partition;    /* as text, NUL-terminated; owned */
    uint8_t rank;
    uint64_t first_seq, last_seq;
    uint64_t c, u, d;
    uint64_t bytes, content_bytes;
    bsi_hash128 content_xxh3;
    uint8_t sha256[32];
} bsi_chunk_info;

void bsi_chunk_infos_free(bsi_chunk_info *infos, size_t count);
/** The folder name of a partition (DESIGN: safe bytes, %XX, long names shortened with a hash). bytes 0: "_". free(). */
char *bsi_partition_folder(const void *partition, size_t bytes);
/** Read chunk lines back: calls fn for each line (without LF). Checks content digest and sha256 against info if not NULL. */
bomsync_status bsi_chunk_read(const char *path, const bsi_chunk_info *info,
                              bomsync_status (*fn)(void *ctx, const char *line, size_t bytes, bomsync_error *err), void *ctx,
                              bomsync_error *err);

#endif
