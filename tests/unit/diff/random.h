/* Numbers that look random, the same each time (splitmix64). */
#ifndef TESTS_UNIT_DIFF_RANDOM_H
#define TESTS_UNIT_DIFF_RANDOM_H

#include <stdint.h>

static inline uint64_t next(uint64_t *seed) {
    *seed += 0x9E3779B97F4A7C15ull;
    uint64_t x = *seed;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

#endif
