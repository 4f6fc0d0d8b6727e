/* core/hash_avx2.c - hash_loop.h with AVX2. The build gives this file its -m flags; it is called only where they run. */
#if defined(__x86_64__)
#define HASH_64 bsi_hash_64_avx2
#define HASH_128 bsi_hash_128_avx2
#define HASH_128_SECRET bsi_hash_128_secret_avx2
#include "core/hash_loop.h"
#else
typedef int bsi_hash_avx2_unused; /* a translation unit may not be empty */
#endif
