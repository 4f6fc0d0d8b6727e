/* core/hash_scalar.c - hash_long.h with what every processor of the architecture has (SSE2, NEON). */
#define HASH_NAME bsi_hash_scalar
#include "core/hash_long.h"
