/* gen/gen_inner.h - what the files of the generator share: shape, steps, record states, entities, output.
 *
 * A landscape is never held in memory. Everything about a record is a pure function of (seed, entity, index, step), so
 * that a file of a hundred million lines needs as much memory as one of a thousand, and any record can be computed
 * without its neighbours.
 */
#ifndef BSI_GEN_INNER_H
#define BSI_GEN_INNER_H

#include "bomsync/bomsync.h"
#include "core/base.h"

#define BSI_GEN_STEPS_MAX 1000   /* snapshots after the first; a line number has room for 9,999 */
#define BSI_GEN_LEVEL_TABLE 1024 /* entries of the 2^x table */
#define BSI_GEN_FAN_TABLE 2041   /* sums of eight bytes */
#define BSI_GEN_SAMPLE 8         /* headers per entry of the line index: 100 M lines then need 10 MB */
#define BSI_GEN_CLUSTER 32       /* records of a flat entity that change together */
#define BSI_GEN_COLUMNS_MAX 24
#define BSI_GEN_WORD_STARTS 4096       /* places where a text may begin; a power of two */
#define BSI_GEN_WORD_BYTES 65536       /* the text pool without its overhang */
#define BSI_GEN_DAYS 4096              /* dates from 2015-01-01 */
#define BSI_GEN_FRAME_BYTES (4u << 20) /* content of one frame with zstd-frames */
#define BSI_GEN_BUFFER_BYTES (1u << 20)
#define BSI_GEN_ROW_EXTRA 4096 /* a row's columns besides its text */

/* ---- numbers ---- */

static inline uint64_t bsi_gen_mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}
static inline uint64_t bsi_gen_hash(uint64_t a, uint64_t b) {
    return bsi_gen_mix(a + (b + 1) * 0x9e3779b97f4a7c15u);
}
/** hash spread evenly over [0, n). */
static inline uint64_t bsi_gen_below(uint64_t hash, uint64_t n) {
    return (uint64_t)(((unsigned __int128)hash * n) >> 64);
}

/** A permutation of [0, n) that can be asked for one place at a time. */
typedef struct bsi_gen_order {
    uint64_t n, key;
    unsigned half_bits;
} bsi_gen_order;
void bsi_gen_order_init(bsi_gen_order *o, uint64_t n, uint64_t key);
uint64_t bsi_gen_order_at(const bsi_gen_order *o, uint64_t place);
uint64_t bsi_gen_order_place(const bsi_gen_order *o, uint64_t index);

/* ---- shape ---- */

typedef struct bsi_gen_plant {
    uint64_t headers, phase; /* phase: which parents this plant has, when it has not all */
    uint64_t first_header, first_line;
    uint64_t lines;
    uint32_t last_fan; /* the last BOM is cut so that the total is exact */
} bsi_gen_plant;

typedef struct bsi_gen_header {
    uint64_t index, plant, parent, alternative;
    uint64_t first_line;
    uint32_t fan;
} bsi_gen_header;

typedef struct bsi_gen_shape {
    uint64_t seed;
    uint64_t items, boms, leaves, suppliers, catalog, orders;
    uint64_t lines, headers;
    uint32_t plants, depth;
    uint64_t *level_start; /* depth + 1 entries: assemblies of level l are [level_start[l], level_start[l + 1]) */
    bsi_gen_plant *plant;
    uint64_t *sample; /* first line of each BSI_GEN_SAMPLE-th header, only for shuffled files */
    uint64_t sample_count;
    uint64_t spread;                         /* popularity rank -> leaf */
    uint64_t leaves_log2;                    /* 24 bits after the point */
    uint32_t power[BSI_GEN_LEVEL_TABLE + 1]; /* 2^(i/1024), 30 bits after the point */
    uint16_t fan_of[BSI_GEN_FAN_TABLE];
} bsi_gen_shape;

bomsync_status bsi_gen_shape_init(bsi_gen_shape *s, const bomsync_gen_options *o, bomsync_error *err);
void bsi_gen_shape_release(bsi_gen_shape *s);
void bsi_gen_shape_sample(bsi_gen_shape *s);
bsi_gen_header bsi_gen_header_at(const bsi_gen_shape *s, uint64_t plant, uint64_t k);
bsi_gen_header bsi_gen_header_index(const bsi_gen_shape *s, uint64_t header);
bsi_gen_header bsi_gen_header_of_line(const bsi_gen_shape *s, uint64_t line);
/** Item index of a line's component: below boms an assembly of a deeper level, else a part. id: the line's own hash. */
uint64_t bsi_gen_component(const bsi_gen_shape *s, const bsi_gen_header *h, uint64_t slot, uint32_t born, uint64_t id);

/* ---- changes ---- */

enum { BSI_GEN_AMOUNT, BSI_GEN_TEXT, BSI_GEN_WHEN, BSI_GEN_RELEASE, BSI_GEN_GROUPS };

typedef struct bsi_gen_step {
    char mix;                     /* 'a'..'h' */
    double rate;                  /* percent */
    uint64_t touched, inside;     /* thresholds: of a cluster, of a record in it */
    uint64_t update, remove, add; /* thresholds below `inside` */
    bool clustered;
} bsi_gen_step;

/** steps[1..count]; steps[0] is the first snapshot. */
bomsync_status bsi_gen_steps_parse(bsi_gen_step *steps, size_t *count, const char *text, bool cluster,
                                   bomsync_error *err);

/** How often each group of columns changed; equal states print equal rows. */
typedef struct bsi_gen_state {
    bool alive;
    uint16_t rekeyed;    /* step of the last new key, 0 never */
    uint16_t order_step; /* step of the last change order, 0 never */
    uint16_t n[BSI_GEN_GROUPS];
} bsi_gen_state;

enum { BSI_GEN_CAN_ADD = 1, BSI_GEN_CAN_DELETE = 2, BSI_GEN_CAN_REKEY = 4 };

typedef struct bsi_gen_who {
    uint64_t id, cluster; /* the record's hash and its cluster's */
    uint32_t born;        /* step that made it */
    unsigned can, groups; /* BSI_GEN_CAN_..; bit set of groups that have a column */
} bsi_gen_who;
bool bsi_gen_step_touches(const bsi_gen_step *s, uint64_t step, uint64_t cluster);
bool bsi_gen_step_adds(const bsi_gen_step *s, uint64_t step, const bsi_gen_who *who);
void bsi_gen_step_apply(bsi_gen_state *state, const bsi_gen_step *s, uint64_t step, const bsi_gen_who *who);

/* ---- rows ---- */

typedef struct bsi_gen bsi_gen;

typedef struct bsi_gen_row {
    const bsi_gen *g;
    uint64_t index, id, cluster;
    uint32_t born;
    bsi_gen_header header; /* bom_header, bom_line */
    uint64_t slot;         /* bom_line */
    bsi_gen_state state;
} bsi_gen_row;

typedef uint8_t *(*bsi_gen_put)(uint8_t *p, const bsi_gen_row *r);
typedef struct bsi_gen_column {
    const char *name;
    bsi_gen_put put;
    bool key;
    uint16_t min_row_bytes; /* the column is left out of narrower rows; 0 always there */
    uint8_t group;          /* 1 + BSI_GEN_.., 0: does not change by itself */
    bool wide_only;         /* not in rows of natural width */
} bsi_gen_column;

typedef struct bsi_gen_entity {
    const char *name;
    unsigned can;
    const bsi_gen_column *columns;
} bsi_gen_entity;
extern const bsi_gen_entity bsi_gen_entities[];
extern const size_t bsi_gen_entity_count;

/** Records of the entity at the start, and those that step adds to a flat entity. */
uint64_t bsi_gen_base_count(const bsi_gen *g, size_t entity);
uint64_t bsi_gen_added_count(const bsi_gen *g, size_t entity, uint64_t step);
size_t bsi_gen_bom_line(void);
size_t bsi_gen_bom_header(void);

/* ---- output ---- */

typedef struct bsi_gen_out bsi_gen_out;
bomsync_status bsi_gen_out_open(bsi_gen_out **out, const char *path, const char *compress, size_t row_bytes_max,
                                bomsync_error *err);
/** Room for one row; at most row_bytes_max may be written before commit. */
uint8_t *bsi_gen_out_row(bsi_gen_out *o);
bomsync_status bsi_gen_out_commit(bsi_gen_out *o, uint8_t *end, bomsync_error *err);
/** Also frees it. written (may be NULL): bytes of the file. discard: remove the file instead of ending it well. */
bomsync_status bsi_gen_out_close(bsi_gen_out *o, uint64_t *content, uint64_t *written, bool discard,
                                 bomsync_error *err);
uint64_t bsi_gen_out_content(const bsi_gen_out *o);

/* ---- the whole ---- */

enum { BSI_GEN_QUOTE_MINIMAL, BSI_GEN_QUOTE_ALL, BSI_GEN_QUOTE_INCH, BSI_GEN_QUOTE_NEWLINES };

struct bsi_gen {
    const bomsync_gen_options *o;
    bsi_gen_shape shape;
    bsi_gen_step steps[BSI_GEN_STEPS_MAX + 1];
    size_t step_count;                           /* without the first */
    uint64_t order_start[BSI_GEN_STEPS_MAX + 2]; /* number of the first change order of a step */
    int quoting;
    char delimiter;
    int row_bytes;
    char *pool; /* words, cut anywhere; as long as the widest text */
    uint32_t word_start[BSI_GEN_WORD_STARTS];
    char days[BSI_GEN_DAYS][10];
};
void bsi_gen_words_init(bsi_gen *g);  /* pool, word_start, days */
void bsi_gen_orders_init(bsi_gen *g); /* order_start */

#endif
