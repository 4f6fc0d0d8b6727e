/* store/store_shard.c - the shards' threads: segments go in, committed values are there to be read.
 *
 *   block writers (any thread) ──job──> queue of shard (segment mod P) ──its thread──> one open transaction ──commit──> ...
 *
 * LMDB ties a write transaction to the thread that began it, so each shard that is written to gets a thread. It commits
 * when it has 24 MB / P of dirty pages, and when a flush is asked for: then all of them commit side by side. That is once all
 * blocks are written, so that the disk is waited for while changes are rendered, and by publish, which waits until it is done. What
 * is committed here counts only once the root refers to it. The queue is bounded; who fills it waits.
 *
 * The thread first deletes what a killed run left above the root's counter. It writes with MDB_APPEND while ids
 * ascend, and as LMDB likes when two writers finish out of order.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/store_inner.h"

bomsync_status bsi_shard_env(bsi_shard *sh, bomsync_error *err) {
    if (sh->env.env) return BOMSYNC_OK;
    char label[24];
    bsi_store *s = sh->store;
    snprintf(label, sizeof label, "shard-%02d", (int)(sh - s->shard));
    return bsi_env_open(&sh->env, s->dir, label, true, s->mode != BSI_STORE_READ, false, err);
}

/* ---- the thread ---- */

static bomsync_status begin(bsi_shard *sh, bomsync_error *err) {
    if (sh->txn) return BOMSYNC_OK;
    bomsync_status st = bsi_env_begin(&sh->txn, &sh->env, err);
    if (st || sh->cut) return st;
    bool any = false;
    uint64_t id = sh->store->counters.segment;
    st = bsi_env_cut(&sh->env, sh->txn, BSI_DB_DATA, id, &any, err);
    if (!st) st = bsi_env_cut(&sh->env, sh->txn, BSI_DB_ROWS, id, &any, err);
    if (!st && !bsi_env_last(&sh->env, sh->txn, BSI_DB_DATA, &sh->last)) sh->last = 0;
    sh->cut = !st;
    return st;
}

static bomsync_status commit(bsi_shard *sh, bomsync_error *err) {
    MDB_txn *txn = sh->txn;
    sh->txn = NULL;
    sh->dirty = 0;
    return txn ? bsi_env_commit(&sh->env, txn, err) : BOMSYNC_OK;
}

static bomsync_status put(bsi_shard *sh, bsi_job *job, bomsync_error *err) {
    bomsync_status st = begin(sh, err);
    if (st) return st;
    unsigned flags = job->id > sh->last ? MDB_APPEND : 0;
    MDB_val key = bsi_key_id(&job->id);
    st = bsi_value_put(&sh->env, sh->txn, BSI_DB_DATA, key, &job->data, flags, err);
    if (!st) st = bsi_value_put(&sh->env, sh->txn, BSI_DB_ROWS, key, &job->rows, flags, err);
    if (st) return st;
    sh->last = BSI_MAX(sh->last, job->id);
    sh->dirty += job->data.len + job->rows.len + 8192;
    return sh->dirty >= BSI_STORE_DIRTY_BYTES / (size_t)sh->store->shard_count ? commit(sh, err) : BOMSYNC_OK;
}

static void free_job(bsi_job *job) {
    bsi_buf_free(&job->data);
    bsi_buf_free(&job->rows);
    free(job);
}

static void run_job(bsi_shard *sh, bsi_job *job) {
    if (job) sh->head = job->next;
    if (!sh->head) sh->tail = NULL;
    bomsync_error error = sh->error;
    uint64_t wanted = sh->wanted; /* one that is asked for during the commit is done after it: jobs may have come before */
    pthread_mutex_unlock(&sh->mutex);
    size_t bytes = job ? job->data.len + job->rows.len : 0;
    if (!error.status && job) put(sh, job, &error);
    if (!error.status && !job) commit(sh, &error);
    if (error.status && sh->txn) {
        mdb_txn_abort(sh->txn);
        sh->txn = NULL;
    }
    if (job) free_job(job);
    pthread_mutex_lock(&sh->mutex);
    sh->error = error;
    sh->queued -= bytes;
    if (!job) sh->flushed = wanted;
    pthread_cond_broadcast(&sh->idle);
}

/* What stays mapped is unmapped when the store is closed, by one core while nothing else is left to do: 4 ms for 400 MB.
 * Its pages only: the mapping stays, and who reads it again finds the same. */
static void let_go(bsi_shard *sh) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    pthread_mutex_lock(&sh->mutex);
    uintptr_t from = sh->read_from & ~(page - 1), to = sh->read_to & ~(page - 1);
    pthread_mutex_unlock(&sh->mutex);
    if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}

/* One thread for all of them: the caller has work to do, for one core, and eight threads would take that as well. */
static void let_all_go(bsi_shard *sh) {
    bsi_store *s = sh->store;
    sh->rest = false;
    pthread_mutex_unlock(&sh->mutex);
    for (int i = 0; i < s->shard_count; i++) let_go(&s->shard[i]);
    pthread_mutex_lock(&sh->mutex);
}

static void *work(void *arg) {
    bsi_shard *sh = arg;
    pthread_mutex_lock(&sh->mutex);
    while (!sh->stop) {
        if (sh->head) run_job(sh, sh->head);
        else if (sh->flushed < sh->wanted) run_job(sh, NULL);
        else if (sh->rest) let_all_go(sh);
        else pthread_cond_wait(&sh->wake, &sh->mutex);
    }
    if (sh->txn) mdb_txn_abort(sh->txn);
    sh->txn = NULL;
    pthread_mutex_unlock(&sh->mutex);
    return NULL;
}

/* ---- the callers' side ---- */

static bomsync_status start(bsi_shard *sh, bomsync_error *err) {
    if (sh->running) return BOMSYNC_OK;
    bomsync_status st = bsi_shard_env(sh, err);
    if (st) return st;
    int rc = pthread_create(&sh->thread, NULL, work, sh);
    if (rc) return bsi_fail_errno(err, rc == EAGAIN ? ENOMEM : rc, NULL, "could not start a thread");
    sh->running = true;
    return BOMSYNC_OK;
}

static bomsync_status pass_on(const bomsync_error *from, bomsync_error *err) {
    if (err && err->status == BOMSYNC_OK) *err = *from;
    return from->status;
}

bomsync_status bsi_shard_put(bsi_store *s, bsi_job *job, bomsync_error *err) {
    bsi_shard *sh = &s->shard[job->id % (uint64_t)s->shard_count];
    size_t bytes = job->data.len + job->rows.len, room = BSI_STORE_QUEUE_BYTES / (size_t)s->shard_count;
    pthread_mutex_lock(&sh->mutex);
    bomsync_status st = start(sh, err);
    while (!st && sh->queued && sh->queued + bytes > room && !sh->error.status) pthread_cond_wait(&sh->idle, &sh->mutex);
    if (!st && sh->error.status) st = pass_on(&sh->error, err);
    if (!st) {
        job->next = NULL;
        if (sh->tail) sh->tail->next = job;
        else sh->head = job;
        sh->tail = job;
        sh->queued += bytes;
        pthread_cond_signal(&sh->wake);
    }
    pthread_mutex_unlock(&sh->mutex);
    if (st) free_job(job);
    return st;
}

void bsi_shards_flush_begin(bsi_store *s) {
    for (int i = 0; i < s->shard_count; i++) {
        bsi_shard *sh = &s->shard[i];
        pthread_mutex_lock(&sh->mutex);
        if (sh->running) sh->wanted++;
        pthread_cond_signal(&sh->wake);
        pthread_mutex_unlock(&sh->mutex);
    }
}

bomsync_status bsi_shards_flush(bsi_store *s, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    bsi_shards_flush_begin(s);
    for (int i = 0; i < s->shard_count; i++) {
        bsi_shard *sh = &s->shard[i];
        pthread_mutex_lock(&sh->mutex);
        while (sh->flushed < sh->wanted) pthread_cond_wait(&sh->idle, &sh->mutex);
        if (!st && sh->error.status) st = pass_on(&sh->error, err);
        pthread_mutex_unlock(&sh->mutex);
    }
    return st;
}

void bsi_store_rest(bsi_store *s) {
    bool asked = false;
    for (int i = 0; i < s->shard_count && !asked; i++) {
        bsi_shard *sh = &s->shard[i];
        pthread_mutex_lock(&sh->mutex);
        asked = sh->rest = sh->running;
        pthread_cond_signal(&sh->wake);
        pthread_mutex_unlock(&sh->mutex);
    }
}

void bsi_store_flush(bsi_store *s) { bsi_shards_flush_begin(s); }

bomsync_status bsi_shards_renew(bsi_store *s, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (int i = 0; i < s->shard_count; i++) {
        pthread_mutex_lock(&s->shard[i].mutex);
        if (!st) st = bsi_env_renew(&s->shard[i].env, err);
        pthread_mutex_unlock(&s->shard[i].mutex);
    }
    return st;
}

static void close_shard(bsi_shard *sh) {
    if (sh->running) {
        pthread_mutex_lock(&sh->mutex);
        sh->stop = true;
        pthread_cond_signal(&sh->wake);
        pthread_mutex_unlock(&sh->mutex);
        pthread_join(sh->thread, NULL);
    }
    for (bsi_job *job = sh->head, *next; job; job = next) {
        next = job->next;
        free_job(job);
    }
    bsi_env_close(&sh->env);
    pthread_mutex_destroy(&sh->mutex);
    pthread_cond_destroy(&sh->wake);
    pthread_cond_destroy(&sh->idle);
}

void bsi_shards_close(bsi_store *s) {
    for (int i = 0; s->shard && i < s->shard_count; i++) close_shard(&s->shard[i]);
    free(s->shard);
    s->shard = NULL;
}

/* A thread with a transaction would take it into its grave: what it wrote counts no more, but it holds LMDB's lock. */
static bool leave_shard(bsi_shard *sh) {
    pthread_mutex_lock(&sh->mutex);
    bool idle = !sh->queued && sh->flushed == sh->wanted && !sh->txn;
    if (idle) bsi_env_leave(&sh->env);
    pthread_mutex_unlock(&sh->mutex);
    return idle;
}

void bsi_shards_leave(bsi_store *s) {
    for (int i = 0; s->shard && i < s->shard_count; i++)
        if (!leave_shard(&s->shard[i])) close_shard(&s->shard[i]);
}

static void note_read(bsi_shard *sh, const MDB_val *value) {
    uintptr_t from = (uintptr_t)value->mv_data, to = from + value->mv_size;
    if (!sh->read_to || from < sh->read_from) sh->read_from = from;
    if (to > sh->read_to) sh->read_to = to;
}

/* One read transaction for each shard, used under its mutex; what it found stays in the mapping until it is renewed. */
bomsync_status bsi_shard_get(MDB_val *value, bsi_store *s, bsi_db db, uint64_t segment, bomsync_error *err) {
    bsi_shard *sh = &s->shard[segment % (uint64_t)s->shard_count];
    MDB_val key = bsi_key_id(&segment);
    pthread_mutex_lock(&sh->mutex);
    bomsync_status st = bsi_shard_env(sh, err);
    if (!st) {
        int rc = mdb_get(sh->env.read, sh->env.dbi[db], &key, value);
        if (rc == MDB_NOTFOUND) st = bsi_bad(err, &sh->env, db, key, "missing");
        else if (rc) st = bsi_env_fail(err, &sh->env, rc, "read");
        else note_read(sh, value);
    }
    pthread_mutex_unlock(&sh->mutex);
    return st;
}
