/* flow/rendered.h - changes rendered as lines, and the chunks that are made of them.
 *
 *   renderer            lines (some hundred)                    chunks
 *   ┌ constant text ┐   text     {"seq":7,…"qty":"2"}}\n{"s…    whole lines of one or several, in order
 *   └ fields ───────┘   repeats  3 new, 21 as 380 before, …  ─> a zstd frame, without a search for what repeats
 *
 * A line is the same text as the line before, but for some values. The renderer knows where; so it notes while it writes
 * what the compressor would have to find: so many new bytes, then so many that stand so far back.
 */
#ifndef BSI_FLOW_RENDERED_H
#define BSI_FLOW_RENDERED_H

#include "flow/change.h"

/** New bytes (the next of `literal`), then bytes that are those `offset` before. */
typedef struct bsi_repeat {
    uint32_t literals, match, offset; /* match >= 3 */
} bsi_repeat;

/** Lines in the order of seq. Zero-initialise, bsi_lines_release; one thread at a time. */
typedef struct bsi_lines {
    bsi_buf text;               /* LF behind each; 64 bytes behind the last may be read */
    uint64_t *end;              /* [count] where each ends */
    uint8_t *op;                /* [count] */
    bool *nameless;             /* [count] the partition's text is empty: "_" stands for it */
    uint32_t count, cap;
    bool told;                  /* the text is that of the repeats, and then what is left of `literal` */
    bsi_repeat *repeat;         /* [1..repeat_count] */
    uint32_t repeat_count, repeat_cap;
    bsi_buf literal;
    uint32_t left;              /* bytes of it behind the last repeat */
    bool high;                  /* some byte of the text may be above 0x7f */
    int uses;                   /* of who holds them; under the lock of their owner */
} bsi_lines;
void bsi_lines_release(bsi_lines *l);

/**
 * Renders as bsi_change_render does, byte for byte, with the constant text made once.
 *
 * Threads:   one renderer a thread
 * Ownership: borrows slots and head until close
 */
typedef struct bsi_renderer bsi_renderer;
bsi_renderer *bsi_renderer_open(const bsi_slots *slots, const bsi_change_head *head, bool tell_repeats);
void bsi_renderer_close(bsi_renderer *r);
/* Instructions that emit uses from now on, as bsi_isa_choose said (block.h); without a call: the best of this machine.
 * Call it before the first renderer or frame is opened. */
void bsi_emit_use_isa(int isa);
/** Empties lines; the changes that follow are added to them. */
void bsi_renderer_start(bsi_renderer *r, bsi_lines *lines);
void bsi_renderer_add(bsi_renderer *r, const bsi_change *c);
/** After the last: lines are whole. */
void bsi_renderer_end(bsi_renderer *r);

/**
 * The chunks of one generation, written below dir (which the caller made: outbox/.tmp-<generation>).
 *
 * Order:     lines are added in order of seq: rank, partition bytes, place. add_line takes one that the caller rendered;
 *            "_" is no partition there
 * Ownership: lines that were added must stay as they are until `done` gets them: the caller counts as one of their users,
 *            from uses = 1 until bsi_chunks_release, each chunk as one more; the last lets done know, on its thread, no
 *            lock held. add_line copies
 * Threads:   one at a time adds; pack and waiting from any thread. close packs what still waits
 * Durable:   close() has written, compressed and synced all files and folders
 * Errors:    E_SPACE, E_REFUSED never; what was written stays in dir for the caller to remove
 */
typedef struct bsi_chunks bsi_chunks;
typedef struct bsi_line_group {
    uint8_t rank;
    bool nameless;          /* folder _; a partition that is called "_" has %5F */
    const void *partition;  /* its text, of nameless ones "_" or nothing */
    size_t partition_bytes;
} bsi_line_group;
bomsync_status bsi_chunks_open(bsi_chunks **out, const char *dir, void (*done)(void *ctx, bsi_lines *lines), void *ctx, bomsync_error *err);
/** Lines first..first+count-1, which are one group; seq: of the first. */
bomsync_status bsi_chunks_add(bsi_chunks *c, const bsi_line_group *g, bsi_lines *lines, uint32_t first, uint32_t count, uint64_t seq,
                              bomsync_error *err);
bomsync_status bsi_chunks_add_line(bsi_chunks *c, char op, uint8_t rank, const void *partition, size_t partition_bytes,
                                   uint64_t seq, const void *line, size_t bytes, bomsync_error *err);
void bsi_chunks_release(bsi_chunks *c, bsi_lines *lines);
/** No more lines come: the last chunk waits, too. */
void bsi_chunks_end(bsi_chunks *c);
bool bsi_chunks_waiting(bsi_chunks *c);
/** Write one chunk that waits; false if none does. */
bool bsi_chunks_pack(bsi_chunks *c);
bomsync_status bsi_chunks_close(bsi_chunks *c, bsi_chunk_info **infos, size_t *count, bomsync_error *err);

#endif
