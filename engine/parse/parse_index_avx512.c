/* parse/parse_index_avx512.c - parse_index_loop.h with AVX512. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define INDEX_NAME bsi_parse_index_avx512
#include "parse/parse_index_loop.h"
#else
typedef int bsi_parse_index_avx512_unused; /* a translation unit may not be empty */
#endif
