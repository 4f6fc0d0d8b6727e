/* emit/emit_frame_avx2.c - emit_frame_loop.h with AVX2. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define LOOPS_NAME bsi_frame_loops_avx2
#include "emit/emit_frame_loop.h"
#else
typedef int bsi_frame_loops_avx2_unused; /* a translation unit may not be empty */
#endif
