/* run/key_filter.h - few key hashes among very many: most of these need no look into a table. */
#ifndef BSI_RUN_KEY_FILTER_H
#define BSI_RUN_KEY_FILTER_H

#include "core/base.h"

/** Few of many: a filter of so many bits, as a power of two, says no to most. It is no larger than it must be for that, since it is to stay in the cache. */
static inline unsigned bsi_filter_bits(size_t wanted) {
    enum { LEAST = 20, MOST = 23 };
    unsigned bits = LEAST;
    while (bits < MOST && ((size_t)1 << bits) < wanted * 32) bits++;
    return bits;
}
/** Such a filter of key hashes: of each, two bits of the word that its top bits tell; the lower half of a hash does not count. With one bit it lets pass each 28th where it is as large as it may be and the
 *  keys of a hundred million records are in it; what it lets pass is looked for in tables that are larger than the cache. */
typedef struct bsi_key_filter {
    uint64_t *word; /* free(); NULL: lets all pass */
    unsigned shift;
} bsi_key_filter;
static inline uint64_t bsi_key_bits(uint64_t kh) { return 1ull << (kh >> 32 & 63) | 1ull << (kh >> 38 & 63); }
static inline bsi_key_filter bsi_key_filter_for(size_t wanted) {
    unsigned bits = bsi_filter_bits(wanted);
    return (bsi_key_filter){bsi_calloc((size_t)1 << (bits - 6), sizeof(uint64_t)), 70 - bits};
}
static inline void bsi_key_filter_add(bsi_key_filter *f, uint64_t kh) { f->word[kh >> f->shift] |= bsi_key_bits(kh); }
static inline bool bsi_key_filter_has(const bsi_key_filter *f, uint64_t kh) {
    uint64_t bits = bsi_key_bits(kh);
    return (f->word[kh >> f->shift] & bits) == bits;
}

#endif
