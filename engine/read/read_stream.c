/* read/read_stream.c - decode in one thread, cut in another.
 *
 *     fd ─> raw ─> decoder ─> text ─> slot 0 │ slot 1 │ slot 2 │ slot 3 ─> bsi_stream_read
 *                                     └──────── ring: made ──────┘
 *          decoder thread                                          reader's thread
 *
 * A slot is 1 MB, a length and nothing else; it has one owner at a time and changes hands under the lock. The thread
 * strips the byte order mark from slot 0 and refuses wide encodings there. With a trailer it keeps the last 64 KB of
 * what it has for the front of the next slot, so that at the end of the file the last line is still in its hands:
 *
 *     slot k     [ held from k-1 | 1 MB new ........ | 64 KB held back ]
 *     slot k+1   [ the same 64 KB | ...
 *
 * An error travels as the last thing in the ring: the slots before it are delivered first.
 */
#include "read/read_stream.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "read/read_decode.h"
#include "read/read_text.h"

#define SLOTS 4u
#define SLOT_NEW (1u << 20)
#define SLOT_BYTES (SLOT_NEW + BSI_TRAILER_BYTES_MAX)

typedef struct slot {
    uint8_t *data; /* SLOT_BYTES, made when first needed */
    size_t at, len;
} slot;

struct bsi_stream {
    bsi_raw raw;
    bsi_text *text;
    bsi_trailer *trailer;
    const char *path, *kind;
    bool declared; /* an encoding was */
    pthread_t thread;
    bool started;

    /* the decoder thread's own */
    uint8_t *held; /* BSI_TRAILER_BYTES_MAX, with a trailer only */
    size_t held_len;
    uint64_t made; /* decoded bytes before the next slot's own, mark not counted */
    bool past_head;

    pthread_mutex_t lock; /* guards what follows; slots [tail, head) are the reader's */
    pthread_cond_t changed;
    slot ring[SLOTS];
    unsigned head, tail;
    bool stop, end;
    bomsync_error err;
};

/* ---- the decoder thread ---- */

/* Up to SLOT_NEW fresh bytes. 1: more may come, 0: that was all, -1: err. */
static int fill(bsi_stream *s, slot *b, bomsync_error *err) {
    size_t limit = b->len + SLOT_NEW;
    while (limit - b->len >= BSI_TEXT_SLACK) {
        ssize_t n = bsi_text_read(s->text, b->data + b->len, limit - b->len, err);
        if (n <= 0) return (int)n;
        b->len += (size_t)n;
    }
    return 1;
}

/* The first slot: no wide encoding, no mark. */
static bomsync_status head_check(bsi_stream *s, slot *b, bomsync_error *err) {
    if (!s->declared && bsi_text_check(b->data, b->len, s->path, err)) return BOMSYNC_E_REFUSED;
    b->at = bsi_text_mark(b->data, b->len);
    s->past_head = true;
    return BOMSYNC_OK;
}

static void hold_back(bsi_stream *s, slot *b) {
    s->held_len = BSI_MIN(b->len - b->at, (size_t)BSI_TRAILER_BYTES_MAX);
    b->len -= s->held_len;
    memcpy(s->held, b->data + b->len, s->held_len);
}

/* The slot holds the end of the file: take the last line off. */
static bomsync_status cut_trailer(bsi_stream *s, slot *b, bomsync_error *err) {
    size_t all = b->len - b->at, n = BSI_MIN(all, (size_t)BSI_TRAILER_BYTES_MAX);
    uint64_t start, from = s->made + (all - n);
    bomsync_status st = bsi_trailer_match(s->trailer, &start, b->data + b->len - n, n, from, s->path, err);
    if (!st) b->len = b->at + (size_t)(start - s->made);
    return st;
}

/* One slot from what was held and what comes. Same answers as fill. */
static int make(bsi_stream *s, slot *b, bomsync_error *err) {
    if (!b->data) b->data = bsi_alloc(SLOT_BYTES);
    b->at = 0;
    b->len = s->held_len;
    if (b->len) memcpy(b->data, s->held, b->len);
    int more = fill(s, b, err);
    if (more < 0) return -1;
    if (!s->past_head && head_check(s, b, err)) return -1;
    if (s->trailer->wanted) {
        if (more)
            hold_back(s, b);
        else if (cut_trailer(s, b, err))
            return -1;
    }
    s->made += b->len - b->at;
    return more;
}

static slot *wait_free(bsi_stream *s) {
    pthread_mutex_lock(&s->lock);
    while (s->head - s->tail == SLOTS && !s->stop) pthread_cond_wait(&s->changed, &s->lock);
    slot *b = s->stop ? NULL : &s->ring[s->head % SLOTS];
    pthread_mutex_unlock(&s->lock);
    return b;
}

static void *decode_all(void *arg) {
    bsi_stream *s = arg;
    bomsync_error err = BOMSYNC_ERROR_INIT;
    int more = 1;
    while (more > 0) {
        slot *b = wait_free(s);
        if (!b) break;
        more = make(s, b, &err);
        pthread_mutex_lock(&s->lock);
        if (more >= 0 && b->len > b->at) s->head++;
        if (more <= 0) s->end = true;
        if (more < 0) s->err = err;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

/* ---- the reader's side ---- */

static ssize_t take(bsi_stream *s, uint8_t *out, size_t n) {
    slot *b = &s->ring[s->tail % SLOTS];
    pthread_mutex_unlock(&s->lock); /* the slot is ours */
    n = BSI_MIN(n, b->len - b->at);
    memcpy(out, b->data + b->at, n);
    b->at += n;
    pthread_mutex_lock(&s->lock);
    if (b->at == b->len) {
        s->tail++;
        pthread_cond_broadcast(&s->changed);
    }
    return (ssize_t)n;
}

ssize_t bsi_stream_read(bsi_stream *s, void *buf, size_t n, bomsync_error *err) {
    ssize_t got = 0;
    pthread_mutex_lock(&s->lock);
    while (s->head == s->tail && !s->end) pthread_cond_wait(&s->changed, &s->lock);
    while ((size_t)got < n && s->head != s->tail) got += take(s, (uint8_t *)buf + got, n - (size_t)got);
    if (!got && n && s->err.status) {
        if (err && !err->status) *err = s->err;
        got = -1;
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

/* ---- opening and closing ---- */

static bomsync_status start(bsi_stream *s, bomsync_error *err) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the thread that expects them */
    int code = pthread_create(&s->thread, NULL, decode_all, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (code) return bsi_fail_errno(err, code, NULL, "could not start a thread");
    s->started = true;
    return BOMSYNC_OK;
}

static bomsync_status open_decoder(bsi_stream *s, const bsi_stream_options *o, bomsync_error *err) {
    static const char *const kinds[] = {"stream:plain", "stream:zstd", "stream:gzip", "stream"};
    bomsync_status st = bsi_raw_want(&s->raw, 8, err);
    if (st) return st;
    const char *name;
    bsi_codec codec = bsi_codec_of_bytes(s->raw.buf + s->raw.at, bsi_raw_left(&s->raw), &name);
    s->kind = kinds[codec];
    if ((st = bsi_codec_check(codec, name, o->path, err))) return st;
    return bsi_text_open(&s->text, bsi_decoder_open(codec, &s->raw, o->workers), o->encoding, err);
}

bomsync_status bsi_stream_open(bsi_stream **out, int fd, const bsi_stream_options *o, bomsync_error *err) {
    *out = NULL;
    bsi_stream *s = bsi_calloc(1, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->err = (bomsync_error)BOMSYNC_ERROR_INIT;
    s->path = o->path;
    s->trailer = o->trailer;
    s->declared = bsi_text_needed(o->encoding);
    if (s->trailer->wanted) s->held = bsi_alloc(BSI_TRAILER_BYTES_MAX);
    bomsync_status st = bsi_raw_init(&s->raw, fd, o->path, o->may_block, err);
    if (!st) st = open_decoder(s, o, err);
    if (!st) st = start(s, err);
    if (st)
        bsi_stream_close(s);
    else
        *out = s;
    return st;
}

void bsi_stream_close(bsi_stream *s) {
    if (!s) return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        bsi_raw_wake(&s->raw);
        pthread_join(s->thread, NULL);
    }
    bsi_text_close(s->text);
    bsi_raw_release(&s->raw);
    for (unsigned i = 0; i < SLOTS; i++) free(s->ring[i].data);
    free(s->held);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}

uint64_t bsi_stream_raw_bytes(const bsi_stream *s) {
    return atomic_load(&s->raw.taken);
}
const char *bsi_stream_kind(const bsi_stream *s) {
    return s->kind;
}
