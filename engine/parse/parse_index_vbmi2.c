/* parse/parse_index_vbmi2.c - parse_index_loop.h with AVX512 and VBMI2, which packs bytes by a mask. The build gives this file its -m
 * flags; it is called only where they run. */
#if defined(__x86_64__)
#define INDEX_NAME bsi_parse_index_vbmi2
#include "parse/parse_index_loop.h"
#else
typedef int bsi_parse_index_vbmi2_unused; /* a translation unit may not be empty */
#endif
