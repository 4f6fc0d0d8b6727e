/* flow/pack.h - the index of a packed snapshot: what `pack` writes, read finds at the end of a file, scan matches.
 *
 * A pack is a zstd file of record-aligned frames whose last, skippable frame lists the blocks of the content with their
 * unseeded fingerprints. Byte layout and validity: engine/read/FORMAT.md.
 */
#ifndef BSI_FLOW_PACK_H
#define BSI_FLOW_PACK_H

#include "flow/block.h"

#define BSI_PACK_VERSION 1u
#define BSI_PACK_HEAD_BYTES 16u            /* the skippable frame at the front that says: this is a pack */
#define BSI_PACK_FOOTER_BYTES 40u
#define BSI_PACK_FRAME_BYTES_MAX (32u << 20) /* content of one frame: a full frame and one record of the longest */

typedef struct bsi_pack_frame {
    uint64_t at, content_at; /* first byte in the file, and in the content */
    uint32_t bytes, content; /* compressed, decompressed */
    uint32_t blocks;
} bsi_pack_frame;

typedef struct bsi_pack_block {
    uint64_t offset;   /* in the content */
    bsi_hash128 plain; /* unseeded XXH3-128 of its bytes */
    uint32_t bytes, records, blanks, flags; /* flags: BSI_CUT_AT_END, _NO_LINE_END, _LONE_CR */
} bsi_pack_block;

/** A checked index. Everything in it is owned by it. */
typedef struct bsi_pack {
    char delimiter, quote;  /* that the blocks were cut with */
    bool transcoded;        /* the content was made UTF-8 from another encoding */
    bsi_block_size block_size; /* that they were cut to */
    uint64_t content_bytes, header_bytes, records, block_count;
    bsi_pack_frame *frame;
    size_t frame_count;
    uint8_t *index;         /* as it lies in the file */
    const uint8_t *digest;  /* [block_count] of 16 bytes, in index */
    const uint8_t *size;    /* varints of the blocks, up to index_end */
    const uint8_t *index_end;
} bsi_pack;

/** Walks the blocks in order: walk.pack set, the rest zero. */
typedef struct bsi_pack_walk {
    const bsi_pack *pack;
    uint64_t next;
    const uint8_t *at;
    uint64_t offset;
} bsi_pack_walk;
/** False at the end. *b is a copy. */
bool bsi_pack_next(bsi_pack_walk *w, bsi_pack_block *b);

/** What a writer knows; blocks and frames are given in order. */
typedef struct bsi_pack_writer {
    char delimiter, quote;
    bool transcoded;
    bsi_block_size block_size; /* that they were cut to */
    uint64_t content_bytes, header_bytes, records, block_count, frame_count;
    bsi_buf digest, size, frame;
} bsi_pack_writer;
void bsi_pack_add_block(bsi_pack_writer *w, const bsi_pack_block *b);
void bsi_pack_add_frame(bsi_pack_writer *w, uint64_t bytes, uint64_t content, uint64_t blocks);
void bsi_pack_writer_release(bsi_pack_writer *w);
/** The skippable frames at the front and at the end. tail: E_REFUSED if the index does not fit into a frame. */
void bsi_pack_head(uint8_t out[BSI_PACK_HEAD_BYTES]);
bomsync_status bsi_pack_tail(bsi_buf *out, const bsi_pack_writer *w, bomsync_error *err);

/** Is p the front of a pack? n: at least BSI_PACK_HEAD_BYTES, else false. */
bool bsi_pack_is_head(const uint8_t *p, size_t n);
/** Is p a footer? Then the bytes of the index before it. */
bool bsi_pack_footer(uint64_t *index_bytes, const uint8_t p[BSI_PACK_FOOTER_BYTES]);
/** Do these 8 bytes begin the skippable frame of an index of that length? */
bool bsi_pack_is_tail(const uint8_t p[8], uint64_t index_bytes);
/** An index with its footer, index[0..index_bytes + footer), which lies at `at` of the file. NULL if anything about it
 *  is wrong or of another version. Takes index over in either case (free). */
bsi_pack *bsi_pack_read(uint8_t *index, size_t index_bytes, uint64_t at);
void bsi_pack_free(bsi_pack *p);

#endif
