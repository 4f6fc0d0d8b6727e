/* core/hash_scalar.c - hash_loop.h with what every machine of this kind has. */
#define HASH_64 bsi_hash_64_scalar
#define HASH_128 bsi_hash_128_scalar
#define HASH_128_SECRET bsi_hash_128_secret_scalar
#include "core/hash_loop.h"
