/* core/parallel.c - loops that several threads share.
 *
 *   caller   run ──push──> [runs] ──────────────── works ──── takes it out, waits for those inside ──>
 *   thread   waits ─────────────> enters, works on its indexes, leaves ─> waits
 *   thread   waits ──────────────────────────────────────────────────(comes too late: finds nothing, holds up nobody)
 *
 * A sync has ten such loops, of which some take a millisecond. A thread that is made for each takes 0.1 ms, flushes its
 * caches of memory when it ends, and if the cores are busy is waited for although there is nothing left for it to do: 3 ms in a
 * sync of 120. So threads stay while anybody holds the pool open, and only those that began are waited for.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/base.h"

typedef struct run {
    struct run *next;
    void (*fn)(void *, size_t);
    void *ctx;
    size_t count;
    int room;   /* threads that may still enter */
    int inside; /* threads that did, and did not leave */
    pthread_cond_t left;
    atomic_size_t at;
    atomic_int lane;
} run;

struct bsi_pool {
    pthread_mutex_t mutex; /* guards all below, and room and inside of the runs */
    pthread_cond_t wake;
    pthread_t *thread;
    int threads, cap, idle;
    run *runs; /* those that may be entered; they lie with their callers */
    bool stop;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards `open_pool` and `users` */
static struct bsi_pool *open_pool;
static int users;

static _Thread_local int this_lane;
int bsi_lane(void) { return this_lane; }

static void work_on(run *r) {
    int before = this_lane;
    this_lane = atomic_fetch_add(&r->lane, 1);
    for (size_t i; (i = atomic_fetch_add(&r->at, 1)) < r->count;) r->fn(r->ctx, i);
    this_lane = before;
}

/* ---- threads ---- */

static run *enter(struct bsi_pool *p) {
    run *r = p->runs;
    while (r && !r->room) r = r->next;
    if (!r) return NULL;
    r->room--;
    r->inside++;
    return r;
}

static void *serve(void *arg) {
    struct bsi_pool *p = arg;
    pthread_mutex_lock(&p->mutex);
    while (!p->stop) {
        run *r = enter(p);
        if (!r) {
            pthread_cond_wait(&p->wake, &p->mutex);
            continue;
        }
        p->idle--;
        pthread_mutex_unlock(&p->mutex);
        work_on(r);
        pthread_mutex_lock(&p->mutex);
        p->idle++;
        if (--r->inside == 0) pthread_cond_signal(&r->left);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

/* Fewer than wanted only mean less speed. */
static void more_threads(struct bsi_pool *p, int wanted) {
    while (p->idle < wanted) {
        if (p->threads == p->cap) p->thread = bsi_realloc(p->thread, (size_t)(p->cap = p->cap ? p->cap * 2 : 4) * sizeof *p->thread);
        if (pthread_create(&p->thread[p->threads], NULL, serve, p)) return;
        p->threads++;
        p->idle++;
    }
}

/* ---- the pool ---- */

static struct bsi_pool *hold(void) {
    pthread_mutex_lock(&lock);
    if (!users++) {
        open_pool = bsi_calloc(1, sizeof *open_pool);
        pthread_mutex_init(&open_pool->mutex, NULL);
        pthread_cond_init(&open_pool->wake, NULL);
    }
    struct bsi_pool *p = open_pool;
    pthread_mutex_unlock(&lock);
    return p;
}

void bsi_pool_open(void) { hold(); }

void bsi_pool_close(void) {
    pthread_mutex_lock(&lock);
    struct bsi_pool *p = --users ? NULL : open_pool;
    if (p) open_pool = NULL;
    pthread_mutex_unlock(&lock);
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 0; i < p->threads; i++) pthread_join(p->thread[i], NULL);
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->wake);
    free(p->thread);
    free(p);
}

static void take_out(struct bsi_pool *p, run *r) {
    run **at = &p->runs;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
}

void bsi_parallel(int workers, size_t count, void (*fn)(void *, size_t), void *ctx) {
    if (workers <= 1 || count <= 1) {
        for (size_t i = 0; i < count; i++) fn(ctx, i);
        return;
    }
    struct bsi_pool *p = hold();
    run r = {.fn = fn, .ctx = ctx, .count = count, .room = (int)BSI_MIN((size_t)workers, count) - 1};
    pthread_cond_init(&r.left, NULL);
    pthread_mutex_lock(&p->mutex);
    more_threads(p, r.room);
    r.next = p->runs;
    p->runs = &r;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
    work_on(&r);
    pthread_mutex_lock(&p->mutex);
    take_out(p, &r);
    while (r.inside) pthread_cond_wait(&r.left, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
    pthread_cond_destroy(&r.left);
    bsi_pool_close();
}
