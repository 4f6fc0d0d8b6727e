/* core/limits.h - every bound of the engine with its unit and its reason. Test builds shrink some of them. */
#ifndef BSI_CORE_LIMITS_H
#define BSI_CORE_LIMITS_H

#define BSI_FIELD_BYTES_MAX (1u << 20)   /* a longer field keeps its record back */
#define BSI_RECORD_BYTES_MAX (16u << 20) /* a longer record: kept back; inside quotes: the quote was never closed */
#define BSI_COLUMNS_MAX 16384            /* more columns are a wrong delimiter or a transposed file */
#define BSI_BLOCK_RECORDS 12             /* records a block aims at: 0.1 % random changes then touch 1.2 % of blocks */
#define BSI_BLOCK_RECORDS_MAX_FACTOR 4   /* no cut found: cut at 4 x */
#define BSI_BLOCK_BYTES_MAX (64u << 10)  /* wide records: cut here whatever the count */
#define BSI_CHUNK_CHANGES_MAX 10000      /* a chunk is closed before change 10,001 */
#define BSI_CHUNK_BYTES_MAX (4u << 20)   /* NDJSON bytes, before compression */
#ifndef BSI_READ_BYTES
#define BSI_READ_BYTES (1u << 20)        /* one read: measured best with pread on a warm file, 2 workers */
#define BSI_UNIT_BYTES (16u << 20)       /* what a worker takes of a file at once; of small files less, to have enough */
#define BSI_UNIT_BYTES_LEAST (256u << 10)
#define BSI_HEAD_BYTES (64u << 10)       /* first read for the header */
#define BSI_ALIGN_READ_BYTES (256u << 10) /* two files side by side: one read of each stays in the L2 cache */
#define BSI_ALIGN_COLD_BYTES (512u << 10) /* the same of files that come from a device */
#define BSI_ALIGN_UNIT_BYTES (4u << 20)  /* what a worker takes of both at once */
#define BSI_ALIGN_UNIT_BYTES_LEAST (256u << 10)
#endif
#define BSI_ZSTD_WINDOW_LOG_MAX 27       /* 128 MB */
#define BSI_INFLATE_FREE_BYTES (64u << 20) /* past this output, the ratio limit below holds */
#define BSI_INFLATE_RATIO_MAX 1000
#define BSI_SEGMENT_BLOCKS 256           /* blocks in one LMDB value: about 128 kB with its rows */
#define BSI_MAP_BYTES (1ull << 40)       /* address space of one environment; the file grows as needed */

#endif
