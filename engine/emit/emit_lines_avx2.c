/* emit/emit_lines_avx2.c - emit_lines_loop.h with AVX2. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define LINES_NAME bsi_lines_add_avx2
#include "emit/emit_lines_loop.h"
#else
typedef int bsi_lines_add_avx2_unused; /* a translation unit may not be empty */
#endif
