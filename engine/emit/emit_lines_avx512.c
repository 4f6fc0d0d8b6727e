/* emit/emit_lines_avx512.c - emit_lines_loop.h with AVX-512. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define LINES_NAME bsi_lines_add_avx512
#include "emit/emit_lines_loop.h"
#else
typedef int bsi_lines_add_avx512_unused; /* a translation unit may not be empty */
#endif
