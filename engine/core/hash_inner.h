/* core/hash_inner.h - the variants of hash_loop.h. */
#ifndef BSI_CORE_HASH_INNER_H
#define BSI_CORE_HASH_INNER_H

#include "core/base.h"

uint64_t bsi_hash_64_scalar(const void *p, size_t n);
bsi_hash128 bsi_hash_128_scalar(const void *p, size_t n);
bsi_hash128 bsi_hash_128_secret_scalar(const void *p, size_t n, const bsi_secret *s);
#if defined(__x86_64__)
uint64_t bsi_hash_64_avx2(const void *p, size_t n);
bsi_hash128 bsi_hash_128_avx2(const void *p, size_t n);
bsi_hash128 bsi_hash_128_secret_avx2(const void *p, size_t n, const bsi_secret *s);
uint64_t bsi_hash_64_avx512(const void *p, size_t n);
bsi_hash128 bsi_hash_128_avx512(const void *p, size_t n);
bsi_hash128 bsi_hash_128_secret_avx512(const void *p, size_t n, const bsi_secret *s);
#endif

#endif
