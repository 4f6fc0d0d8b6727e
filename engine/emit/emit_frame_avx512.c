/* emit/emit_frame_avx512.c - emit_frame_loop.h with AVX-512. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define LOOPS_NAME bsi_frame_loops_avx512
#include "emit/emit_frame_loop.h"
#else
typedef int bsi_frame_loops_avx512_unused; /* a translation unit may not be empty */
#endif
