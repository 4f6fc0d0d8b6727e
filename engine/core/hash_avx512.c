/* core/hash_avx512.c - hash_long.h with AVX512. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define HASH_NAME bsi_hash_avx512
#include "core/hash_long.h"
#else
typedef int bsi_hash_avx512_unused; /* a translation unit may not be empty */
#endif
