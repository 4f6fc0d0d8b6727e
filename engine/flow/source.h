/* flow/source.h - read hands bytes to cut.
 *
 * A snapshot is an ordered list of sources (path bytes, stdin last). A source gives the *decoded* bytes of one
 * file: decompressed, transcoded to UTF-8, without byte order mark, without the trailer line.
 *
 *   file on disk ──> [zstd | gzip] ──> [iconv] ──> [strip BOM] ──> [cut off trailer] ──> decoded bytes 0..size
 *
 * Two kinds. A *random* source (plain UTF-8 file on disk, or a pack there) can be read at any offset by any number of
 * threads.
 * A *stream* is read once, in order, by one thread.
 */
#ifndef BSI_FLOW_SOURCE_H
#define BSI_FLOW_SOURCE_H

#include <sys/types.h>

#include "core/base.h"
#include "flow/pack.h"

typedef struct bsi_source bsi_source;

typedef struct bsi_source_options {
    const char *encoding;      /* NULL or "UTF-8": no transcoding; else a name iconv knows */
    const char *trailer_regex; /* POSIX extended; NULL: none. Matches the last line (without its line end) */
    const char *io;            /* "auto", "uring", "pread" */
    int workers;               /* for decoding frames in parallel */
} bsi_source_options;

/** Paths, globs, folders and "-" to a sorted, unique list of paths ("-" last). Folders: regular files directly in
 *  it, no dot files, no *.ctl.json. Errors: BOMSYNC_E_USAGE for missing, unreadable, a folder or glob without files.
 *  Ownership: free with bsi_source_paths_free. */
bomsync_status bsi_source_paths(char ***paths, size_t *count, const char *const *args, size_t arg_count,
                                bomsync_error *err);
void bsi_source_paths_free(char **paths, size_t count);

/** Open one path. Detects zstd and gzip by magic (and refuses, E_REFUSED, a ".zst" that is gzip and the like, UTF-16/32 by mark
 *  or NUL pattern when not declared, and on a stream: windows over 128 MB, bombs, dictionaries, cut frames, bad
 *  checksums, trailing garbage - those when they are met). Missing or unreadable: E_USAGE. */
bomsync_status bsi_source_open(bsi_source **out, const char *path, const bsi_source_options *o, bomsync_error *err);
void bsi_source_close(bsi_source *s);

const char *bsi_source_path(const bsi_source *s); /* as given; "-" is stdin */
bool bsi_source_random(const bsi_source *s);
/** Random: decoded size (mark and trailer taken off). Stream: the bytes delivered so far. */
uint64_t bsi_source_size(const bsi_source *s);
/** Random only. Reads exactly min(n, size - offset) bytes; returns the count, -1 on error. Any thread. */
ssize_t bsi_source_pread(bsi_source *s, void *buf, size_t n, uint64_t offset, bomsync_error *err);
/** Stream only. Returns bytes read (> 0), 0 at the end, -1 on error. One thread. */
ssize_t bsi_source_read(bsi_source *s, void *buf, size_t n, bomsync_error *err);
/** After everything was read: E_REFUSED if the file grew, shrank or was replaced meanwhile (size, mtime, ino). */
bomsync_status bsi_source_settled(bsi_source *s, bomsync_error *err);
/** Bytes on disk consumed (compressed size), for the manifest and control files. Stdin: bytes read. */
uint64_t bsi_source_raw_bytes(const bsi_source *s);
/** Trailer found: true and its first group as a count, or -1 if the regex has no group. Valid at the end. */
bool bsi_source_trailer(const bsi_source *s, int64_t *count);
/** Can a stream be opened a second time? Files can, stdin and pipes cannot. */
bool bsi_source_reopens(const bsi_source *s);
/** The same file from its front, without looking for a trailer. */
bomsync_status bsi_source_reopen(bsi_source **out, const bsi_source *s, bomsync_error *err);
/** Line number (from 1) of a decoded offset: counts by reading again, on from the last place that was asked for. -1 if it
 *  cannot be told (stdin: see bsi_scan_line). Slow: for messages only. Any thread. */
int64_t bsi_source_line(bsi_source *s, uint64_t offset);
/** Were the bytes converted from another encoding? */
bool bsi_source_transcoded(const bsi_source *s);
/** The index of a pack that is read at any offset; NULL: not a pack, or one whose index cannot be used (such a file is
 *  an ordinary zstd stream). Also NULL with a trailer or another encoding. Borrowed until close. */
const bsi_pack *bsi_source_pack(const bsi_source *s);
/** One frame of it, out holds frame.content bytes. E_REFUSED names the frame. Any thread. */
bomsync_status bsi_source_pack_frame(bsi_source *s, size_t frame, uint8_t *out, bomsync_error *err);

/* Parts of cold files, many reads in flight. Parts arrive in about the order in which they were given.
 *
 *   open ──> take ──> bytes where they lie ──> give ──> take ... ──> false ──> close        any thread, each its own takes
 */
typedef struct bsi_ahead bsi_ahead;
typedef struct bsi_ahead_part {
    bsi_source *source; /* random, no pack */
    uint64_t offset;    /* decoded */
    size_t bytes;       /* 1 to BSI_PART_BYTES + BSI_PART_PAST_BYTES, all of them in the file */
} bsi_ahead_part;
typedef struct bsi_arrival {
    size_t part;
    const uint8_t *data; /* borrowed until given back, 64 readable bytes behind it; may be changed */
    size_t bytes;        /* may be fewer than asked for, down to 0: read the rest with pread, which says why */
    bool direct;         /* not from the page cache, nor in it now */
    int slot;
} bsi_arrival;

/** Is this a plain file that should be read so? --io uring: yes; pread: no; auto: if it is large and much of it is not in
 *  the page cache. */
bool bsi_source_cold(const bsi_source *s);
/** direct: past the page cache where that can be. NULL if io_uring cannot be used here (says so on stderr, once in a
 *  process), or without parts. part is borrowed until close. */
bsi_ahead *bsi_ahead_open(const bsi_ahead_part *part, size_t count, bool direct);
/** false: there are no more. */
bool bsi_ahead_take(bsi_ahead *a, bsi_arrival *out);
void bsi_ahead_give(bsi_ahead *a, const bsi_arrival *used);
/** What is not asked for yet goes through the page cache. */
void bsi_ahead_use_cache(bsi_ahead *a);
void bsi_ahead_close(bsi_ahead *a);

/** "uring", "pread", "pack" or "stream:zstd" and the like, for stats. */
const char *bsi_source_io(const bsi_source *s);

#endif
