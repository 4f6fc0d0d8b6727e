/* cut/cut_avx512.c - cut_loop.h with AVX512. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define CUT_NAME bsi_cut_avx512
#include "cut/cut_loop.h"
#else
typedef int bsi_cut_avx512_unused; /* a translation unit may not be empty */
#endif
