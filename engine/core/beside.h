/* core/beside.h - one thing that goes on beside the caller, who waits for it once. */
#ifndef BSI_CORE_BESIDE_H
#define BSI_CORE_BESIDE_H

#include <pthread.h>
#include <stdbool.h>

/** Zero-initialise: nothing goes on. */
typedef struct bsi_beside {
    pthread_t thread;
    bool running;
} bsi_beside;

/** False: no thread could be made, and the caller may call fn itself. What fn finds out it leaves in ctx. */
static inline bool bsi_beside_start(bsi_beside *b, void *(*fn)(void *ctx), void *ctx) {
    return b->running = pthread_create(&b->thread, NULL, fn, ctx) == 0;
}

/** Waits for it; nothing if it was not started, or waited for before. */
static inline void bsi_beside_end(bsi_beside *b) {
    if (b->running) pthread_join(b->thread, NULL);
    b->running = false;
}

#endif
