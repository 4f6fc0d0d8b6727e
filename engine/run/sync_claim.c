/* run/sync_claim.c - blocks of a snapshot that hold just the records of a state block, though other bytes.
 *
 * A column that is ignored and differs on each line leaves no block to skip, but records where they were, and blocks with the
 * same borders. Then most blocks are settled by 8 bytes a record: the row hashes of the block, in order, against those of the
 * state block that is expected next. Who finds one claims it:
 *
 *   snapshot   [a b c] [d e F] [g h i]  ...          rows of a block with a claim go neither into the table of differences nor
 *   state      [a b c] [d e f] [g h i]  ...          into the list of keys; those of the state block are not taken out
 *               claim           claim
 *
 * A state block is claimed once. So what is left on both sides differs by just the rows that all of both differed by: equal rows
 * were left out, one for one. A second block with the same rows finds the claim taken, and its rows stay.
 *
 * The block that is expected is the one behind the last claim, or few behind it. A worker that is lost (each one is where a unit
 * begins) looks for the first row of its block among those of one in BSI_CLAIM_STEP state blocks.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/limits.h"
#include "run/sync.h"

enum {
    SAMPLES_MOST = 64 << 10, /* 1 MB of slots */
    SAMPLE_TASK = 1024,
    LOST = 16,               /* blocks: then the place is not looked for near any more */
    LOST_LONG = 256,         /* then only each 16th block is looked for: the snapshot may stand in another order */
    NEAR = 3,                /* state blocks that may be gone between two claims, and two for each block that was not found */
};

typedef struct slot {
    uint32_t rh, sample; /* low half; number + 1 */
} slot;

struct bsi_claims {
    bsi_sync *s;
    _Atomic uint64_t *claimed; /* bit a state block */
    uint64_t step;
    size_t samples;
    uint64_t *rh; /* while the samples are taken */
    slot *slot;
    size_t mask;
};

static void take_samples(void *ctx, size_t index) {
    bsi_claims *c = ctx;
    bsi_sync *s = c->s;
    for (size_t i = index * SAMPLE_TASK; i < BSI_MIN((index + 1) * SAMPLE_TASK, c->samples); i++) {
        bsi_block_rows rows;
        bool read = !bsi_store_rows(&rows, s->store, s->base[i * c->step], NULL); /* a fault is told by who needs it */
        c->rh[i] = read && rows.count ? rows.rh[0] : 0;
    }
}

static void make_index(bsi_claims *c) {
    c->mask = 63;
    while (c->mask < c->samples * 2) c->mask = c->mask * 2 + 1;
    c->slot = bsi_calloc(c->mask + 1, sizeof *c->slot);
    for (size_t i = 0; i < c->samples; i++) {
        size_t h = (c->rh[i] >> 32) & c->mask;
        while (c->slot[h].sample) h = (h + 1) & c->mask;
        c->slot[h] = (slot){(uint32_t)c->rh[i], (uint32_t)i + 1};
    }
}

bsi_claims *bsi_claims_open(bsi_sync *s) {
    bsi_claims *c = bsi_calloc(1, sizeof *c);
    c->s = s;
    c->claimed = bsi_calloc(s->base_count / 64 + 1, sizeof *c->claimed);
    c->step = BSI_MAX((uint64_t)BSI_CLAIM_STEP, s->base_count / SAMPLES_MOST + 1);
    c->samples = (s->base_count + c->step - 1) / c->step;
    c->rh = bsi_alloc((c->samples + 1) * sizeof *c->rh);
    bsi_parallel(s->workers, (c->samples + SAMPLE_TASK - 1) / SAMPLE_TASK, take_samples, c);
    make_index(c);
    free(c->rh);
    c->rh = NULL;
    return c;
}

void bsi_claims_close(bsi_claims *c) {
    if (!c) return;
    free((void *)c->claimed);
    free(c->slot);
    free(c);
}

bool bsi_is_claimed(const bsi_claims *c, uint64_t state) {
    return c && atomic_load_explicit(&c->claimed[state >> 6], memory_order_relaxed) >> (state & 63) & 1;
}

void bsi_claim_undo(bsi_claims *c, uint64_t state) {
    atomic_fetch_and_explicit(&c->claimed[state >> 6], ~(1ull << (state & 63)), memory_order_relaxed);
}

static bool claim(bsi_claims *c, uint64_t state) {
    uint64_t bit = 1ull << (state & 63);
    return !(atomic_fetch_or_explicit(&c->claimed[state >> 6], bit, memory_order_relaxed) & bit);
}

/* A row hash covers the key, too. */
static bool same_rows(const bsi_claims *c, uint64_t state, const bsi_rows *w) {
    bsi_block_rows old;
    if (bsi_store_rows(&old, c->s->store, c->s->base[state], NULL)) return false;
    return old.count == w->count && memcmp(old.rh, w->rh, w->count * sizeof *w->rh) == 0;
}

static bool find_near(const bsi_claims *c, const bsi_claim_cursor *at, const bsi_rows *w, uint64_t *state) {
    uint64_t end = BSI_MIN(at->next + NEAR + 2 * at->lost, (uint64_t)c->s->base_count);
    for (*state = at->next; *state < end; ++*state)
        if (same_rows(c, *state, w)) return true;
    return false;
}

static bool find_anywhere(const bsi_claims *c, const bsi_rows *w, uint64_t *state) {
    for (size_t h = (w->rh[0] >> 32) & c->mask; c->slot[h].sample; h = (h + 1) & c->mask) {
        *state = (c->slot[h].sample - 1) * c->step;
        if (c->slot[h].rh == (uint32_t)w->rh[0] && same_rows(c, *state, w)) return true;
    }
    return false;
}

/* Of most blocks the key hashes are not wanted; of those of who is lost they are, and both together are cheaper. */
bool bsi_claim(bsi_claims *c, bsi_claim_cursor *at, bsi_rows *w, const bsi_secret *secret, uint64_t *state) {
    bool near = c && at->lost < LOST && !w->bad_count, found = false;
    if (near) {
        bsi_rows_hash(w, secret, BSI_HASH_ROWS);
        found = w->count && (find_near(c, at, w, state) || find_anywhere(c, w, state));
    }
    if (!found) bsi_rows_hash(w, secret, BSI_HASH_BOTH);
    bool anywhere = c && (at->lost < LOST_LONG || at->lost % 16 == 0) && w->count && !w->bad_count;
    if (!near && anywhere) found = find_anywhere(c, w, state);
    if (!found) {
        at->lost++;
        return false;
    }
    *at = (bsi_claim_cursor){.next = *state + 1};
    if (claim(c, *state)) return true;
    if (near) bsi_rows_hash(w, secret, BSI_HASH_BOTH);
    return false;
}
