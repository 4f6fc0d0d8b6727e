/* core/limits.h - every bound of the engine with its unit and its reason. Test builds shrink some of them. */
#ifndef BSI_CORE_LIMITS_H
#define BSI_CORE_LIMITS_H

#define BSI_FIELD_BYTES_MAX (1u << 20)   /* a longer field keeps its record back */
#define BSI_RECORD_BYTES_MAX (16u << 20) /* a longer record: kept back; inside quotes: the quote was never closed */
#define BSI_COLUMNS_MAX 16384            /* more columns are a wrong delimiter or a transposed file */
#define BSI_BLOCK_RECORDS 16             /* records a block aims at: 0.1 % random changes then touch 1.6 % of blocks */
#define BSI_BLOCK_RECORDS_MOST 10000     /* that it may be told to aim at */
#define BSI_BLOCK_RECORDS_MAX_FACTOR 4   /* no cut found: cut at 4 x; 64 records are what is settled with the scan (run/sync_amend.c) */
#define BSI_BLOCK_BYTES_MAX (64u << 10)  /* wide records: cut here whatever the count */
#define BSI_CHUNK_CHANGES_MAX 10000      /* a chunk is closed before change 10,001 */
#define BSI_CHUNK_BYTES_MAX (4u << 20)   /* NDJSON bytes, before compression */
#ifndef BSI_READ_BYTES
#define BSI_READ_BYTES (1u << 20)        /* one read: measured best with pread on a warm file, 2 workers */
#define BSI_UNIT_BYTES (16u << 20)       /* what a worker takes of a file at once; of small files less, to have enough */
#define BSI_UNIT_BYTES_LEAST (256u << 10)
#define BSI_PAST_BYTES (16u << 10)       /* read past the end of a unit: most blocks that begin in it end there */
#define BSI_PART_BYTES (4u << 20)        /* a unit of a cold file: one read of the device */
#define BSI_PART_PAST_BYTES (16u << 10)  /* read with it, as above */
#define BSI_HEAD_BYTES (64u << 10)       /* first read for the header */
#define BSI_EDIT_INSERTS (16u << 10)     /* records put behind one place: a worker takes so many, and those up to the end of their block */
#define BSI_EDIT_BLOCKS 256              /* state blocks that change side by side: a worker takes so many, and those up to where one may end */
#define BSI_QUIET_BLOCKS 8               /* of a worker's part: two chains of blocks meet after two or three */
#define BSI_RECONCILE_RECORDS 200000     /* fewer records are joined as fast as they are reconciled, and keep the order of their state */
#define BSI_RECONCILE_PART (256u << 10)  /* key hashes that are allocated, or spilled, at once: 1 MB */
#define BSI_RECONCILE_SHARE 4            /* of --memory their list takes so little: 16 million records, then it is spilled */
#define BSI_CLAIM_STEP 16                /* of so many state blocks the first row of one can be found: a worker that is lost is found again behind as many */
#define BSI_DIRECT_SPILL_BYTES (64u << 20) /* open blocks of cold files that are kept; past it the page cache is used */
#define BSI_ALIGN_READ_BYTES (256u << 10) /* two files side by side: one read of each stays in the L2 cache */
#define BSI_ALIGN_COLD_BYTES (512u << 10) /* the same of files that come from a device */
#define BSI_ALIGN_UNIT_BYTES (4u << 20)  /* what a worker takes of both at once */
#define BSI_ALIGN_UNIT_BYTES_LEAST (256u << 10)
#endif
#define BSI_MEMORY_BYTES ((uint64_t)256 << 20) /* --memory without a number */
#define BSI_MEMORY_LEAST (64u << 10)     /* of --memory: shares of less are none */
#define BSI_LISTS_SHARE 8                /* two of so many parts of --memory for lists that grow with the records; three of a first load: 10 million */
#define BSI_ZSTD_WINDOW_LOG_MAX 27       /* 128 MB */
#define BSI_INFLATE_FREE_BYTES (64u << 20) /* past this output, the ratio limit below holds */
#define BSI_INFLATE_RATIO_MAX 1000
#define BSI_SEGMENT_BLOCKS 256           /* blocks in one LMDB value: about 128 kB with its rows */
#define BSI_RECONCILE_FEW (32u << 10)    /* rows that may differ, of both sides: 1.2 MB of cells a worker, which stay in the L2 cache */
#define BSI_RECONCILE_ROWS (180u << 10)  /* where these were too few: 10 MB */
#ifndef BSI_IN_PLACE_ROWS
#define BSI_IN_PLACE_ROWS BSI_RECONCILE_ROWS /* if so many would differ, and keys stand where they stood, blocks are changed in place */
#endif
#ifndef BSI_DIFF_ROWS
#define BSI_DIFF_ROWS (500u << 10)       /* the same for diff, which reads both files for it: 36 MB of cells a worker */
#endif
#ifndef BSI_TRAIN_BYTES
#define BSI_TRAIN_BYTES (256u << 10)     /* a run that writes so much learns a dictionary for its feed: 20 ms, some 10 kB */
#endif
#ifndef BSI_AHEAD_BLOCKS
#define BSI_AHEAD_BLOCKS 10000           /* a first load of so many writes its lists while keys that stand twice are looked for; for less it does not pay */
#endif
#ifndef BSI_BESIDE_BLOCKS
#define BSI_BESIDE_BLOCKS 500            /* so many blocks changed in place: the state list is made, and the manifest synced, by threads of their own, 0.1 ms each */
#endif
#define BSI_TRAIN_AGAIN_BYTES (16u << 20) /* so much: again, since the rows may have become others */
#define BSI_TRAIN_SAMPLE_BYTES (256u << 10) /* twice as much gives 0.3 % less bytes */
#define BSI_TRAIN_PLACES 16              /* from so many places of the snapshot */
#define BSI_TRAIN_ZSTD_PERCENT 15        /* frames that are smaller by so much are worth their time */
#define BSI_EXPECT_ROOT_BYTES (1ull << 30) /* of a cold root that is asked for as a whole: 150 million records */
#define BSI_MAP_BYTES (1ull << 40)       /* address space of one environment; the file grows as needed */

#endif
