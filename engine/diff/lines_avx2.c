/* diff/lines_avx2.c - lines_loop.h with AVX2. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define VARIANT avx2
#include "diff/lines_loop.h"
#else
typedef int bsi_lines_avx2_unused; /* a translation unit may not be empty */
#endif
