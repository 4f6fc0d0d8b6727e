/* core/hash_inner.h - the variants of hash.c. */
#ifndef BSI_CORE_HASH_INNER_H
#define BSI_CORE_HASH_INNER_H

#include "core/base.h"

typedef struct bsi_hash_long {
    uint64_t (*h64)(const void *p, size_t n);
    uint64_t (*h64_secret)(const void *p, size_t n, const bsi_secret *s);
    bsi_hash128 (*h128)(const void *p, size_t n);
    bsi_hash128 (*h128_secret)(const void *p, size_t n, const bsi_secret *s);
} bsi_hash_long;

extern const bsi_hash_long bsi_hash_scalar, bsi_hash_avx2, bsi_hash_avx512;

#endif
