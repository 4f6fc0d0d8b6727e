/* run/bench.c - measured phases on a user's own files, from plain reading up to a sync.
 *
 *   read        the bytes of the file, by all workers         what every other phase is compared with
 *   lines       memchr for line ends, by one thread           the floor of `wc -l`, without starting a program
 *   cut         blocks and fingerprints, nothing remembered
 *   first       a first load with --baseline into an empty store
 *   unchanged   the same snapshot once more                   on the store of `first`
 *   changed     the second snapshot                           on a copy of that store, a fresh one for each run
 *   diff        both files, without a store
 *   export      the state of `first`, thrown away
 *
 * Each phase is called once before it is timed: that warms the page cache and is the run whose memory is looked at,
 * since looking costs time. Then it is timed `runs` times. What prepares a run (an empty store, a copy) is not timed.
 *
 * Everything happens in one process, through the calls that the commands make. So a figure lacks what a process costs
 * to start, about 10 ms; bench/run measures whole processes, and peers.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/limits.h"
#include "run/scan.h"

enum { RUNS = 3, SHARDS = 8, UNIT_BYTES = 16 << 20, WATCH_NS = 2000000 };
static const char feed_name[] = "bench";

typedef struct input {
    const char *path;
    uint64_t bytes; /* on disk */
    int64_t records; /* -1: not counted yet */
    uint64_t lines;
} input;

typedef struct bench {
    const bomsync_bench_options *o;
    bomsync_sink out;
    bool json;
    input old, now; /* now.path NULL: one snapshot */
    int runs, workers;
    char *dir, *base, *copy; /* the temporary folder, the store of `first`, the one of `changed` */
    bsi_secret secret;
    double read_rate;     /* bytes a second, of phase "read" */
    bsi_buf stages;       /* text: where the time of the syncs went */
    uint64_t product;     /* bytes that the last diff or export gave */
} bench;

typedef struct figures {
    double *seconds; /* [runs], sorted when all are there */
    double last;     /* of the last run, whose stages stats has */
    uint64_t bytes, memory, store_bytes; /* store_bytes 0: no store */
    int64_t records;                     /* -1: unknown */
    bomsync_status exit;
    char *stats; /* the JSON of `stats`, NULL: no sync */
} figures;

typedef struct phase {
    const char *name;
    bool both; /* needs the second snapshot */
    bomsync_status (*prepare)(bench *b, bomsync_error *err);
    bomsync_status (*run)(bench *b, bomsync_error *err);
} phase;

/* ---- plain reading ---- */

typedef struct reading {
    int fd;
    uint64_t bytes;
    atomic_bool failed;
} reading;

static void read_unit(void *ctx, size_t index) {
    reading *r = ctx;
    uint64_t at = (uint64_t)index * UNIT_BYTES, end = BSI_MIN(at + UNIT_BYTES, r->bytes);
    char *buf = bsi_alloc(BSI_READ_BYTES);
    while (at < end) {
        ssize_t n = pread(r->fd, buf, (size_t)BSI_MIN(end - at, (uint64_t)BSI_READ_BYTES), (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        at += (uint64_t)n;
    }
    if (at < end) atomic_store(&r->failed, true);
    free(buf);
}

static bomsync_status run_read(bench *b, bomsync_error *err) {
    reading r = {.fd = open(b->old.path, O_RDONLY | O_CLOEXEC), .bytes = b->old.bytes};
    if (r.fd < 0) return bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", b->old.path);
    bsi_parallel(b->workers, (size_t)((r.bytes + UNIT_BYTES - 1) / UNIT_BYTES), read_unit, &r);
    close(r.fd);
    return atomic_load(&r.failed) ? bsi_fail(err, BOMSYNC_E_REFUSED, "\"%s\" could not be read to its end", b->old.path) : BOMSYNC_OK;
}

static uint64_t count_lines(const char *p, size_t n) {
    uint64_t lines = 0;
    for (const char *end = p + n; (p = memchr(p, '\n', (size_t)(end - p))); p++) lines++;
    return lines;
}

/* Of a compressed file the decoded bytes: those are what the other phases see. */
static bomsync_status run_lines(bench *b, bomsync_error *err) {
    const bomsync_read_options *ro = &b->o->read;
    bsi_source_options so = {.encoding = ro->encoding, .io = ro->io ? ro->io : "auto", .workers = b->workers};
    bsi_source *s;
    bomsync_status st = bsi_source_open(&s, b->old.path, &so, err);
    if (st) return st;
    char *buf = bsi_alloc(BSI_READ_BYTES);
    bool random = bsi_source_random(s);
    ssize_t n;
    b->old.lines = 0;
    for (uint64_t at = 0;; at += (uint64_t)n) {
        n = random ? bsi_source_pread(s, buf, BSI_READ_BYTES, at, err) : bsi_source_read(s, buf, BSI_READ_BYTES, err);
        if (n <= 0) break;
        b->old.lines += count_lines(buf, (size_t)n);
    }
    free(buf);
    bsi_source_close(s);
    return n < 0 ? err->status : BOMSYNC_OK;
}

/* ---- cut ---- */

static bomsync_status cut_one(bench *b, input *in, bomsync_error *err) {
    const bomsync_bench_options *o = b->o;
    bsi_scan scan = {0};
    bsi_slots slots = {.partition = -1};
    bsi_isa isa;
    char *path[] = {(char *)(uintptr_t)in->path};
    bomsync_status st = bsi_isa_choose(&isa, o->read.isa ? o->read.isa : "auto", err);
    if (!st) st = bsi_scan_open(&scan, path, 1, &slots, &o->read, o->key, (uint32_t)o->key_count, o->partition, NULL, 0, b->workers, err);
    bsi_scan_options so = {.read = &o->read, .isa = isa, .workers = b->workers, .secret = &b->secret, .tmp = b->dir,
                           .block_size = bsi_block_size_of(o->read.block_records)};
    if (!st) st = bsi_scan_blocks(&scan, &so, err);
    in->records = 0;
    for (size_t i = 0; i < scan.file_count; i++) in->records += scan.file[i].records;
    bsi_scan_close(&scan);
    bsi_slots_free(&slots);
    return st;
}

static bomsync_status run_cut(bench *b, bomsync_error *err) { return cut_one(b, &b->old, err); }

/* ---- syncs ---- */

/* Exit codes that a run may end with when it did its work. */
static bool ended_well(bomsync_status st) {
    return st == BOMSYNC_OK || st == BOMSYNC_DIFFERENT || st == BOMSYNC_EXCEPTIONS || st == BOMSYNC_HELD;
}

static bomsync_status sync_one(bench *b, const char *store, const input *in, bool baseline, bomsync_error *err) {
    const bomsync_bench_options *o = b->o;
    bomsync_sync_options s = {.read = o->read, .store = store, .feed = feed_name, .key = o->key, .key_count = o->key_count,
                              .partition = o->partition, .snapshot = &in->path, .snapshot_count = 1, .complete = true,
                              .expect_records = -1, .sequence = -1, .baseline = baseline};
    bomsync_result result = {0};
    bomsync_status st = bomsync_sync(&s, &result, (bomsync_sink){0}, err);
    bomsync_result_free(&result);
    return st;
}

static bomsync_status make_empty(bench *b, bomsync_error *err) {
    bomsync_status st = bsi_remove_tree(b->base, err);
    return st ? st : bomsync_init(b->base, SHARDS, err);
}

static bomsync_status make_copy(bench *b, bomsync_error *err) {
    bomsync_status st = bsi_remove_tree(b->copy, err);
    return st ? st : bomsync_backup(b->base, b->copy, err);
}

static bomsync_status run_first(bench *b, bomsync_error *err) { return sync_one(b, b->base, &b->old, true, err); }
static bomsync_status run_unchanged(bench *b, bomsync_error *err) { return sync_one(b, b->base, &b->old, false, err); }
static bomsync_status run_changed(bench *b, bomsync_error *err) { return sync_one(b, b->copy, &b->now, false, err); }

/* ---- diff and export ---- */

static int count_bytes(void *ctx, const void *bytes, size_t n) {
    (void)bytes;
    *(uint64_t *)ctx += n;
    return 0;
}

static bomsync_status run_diff(bench *b, bomsync_error *err) {
    bomsync_diff_options d = {.read = b->o->read, .old_path = b->old.path, .new_path = b->now.path, .key = b->o->key,
                              .key_count = b->o->key_count};
    b->product = 0;
    return bomsync_diff(&d, (bomsync_sink){count_bytes, &b->product}, (bomsync_sink){0}, false, err);
}

static bomsync_status run_export(bench *b, bomsync_error *err) {
    b->product = 0;
    return bomsync_export(b->base, feed_name, -1, NULL, (bomsync_sink){count_bytes, &b->product}, err);
}

static const phase phases[] = {
    {"read", false, NULL, run_read},
    {"lines", false, NULL, run_lines},
    {"cut", false, NULL, run_cut},
    {"first", false, make_empty, run_first},
    {"unchanged", false, NULL, run_unchanged},
    {"changed", true, make_copy, run_changed},
    {"diff", true, NULL, run_diff},
    {"export", false, NULL, run_export},
};

/* ---- memory: anonymous pages of this process, looked at from a thread of its own ---- */

typedef struct watch {
    pthread_t thread;
    atomic_bool stop;
    uint64_t peak;
} watch;

static void *watch_memory(void *ctx) {
    watch *w = ctx;
    while (!atomic_load(&w->stop)) {
        w->peak = BSI_MAX(w->peak, bsi_private_bytes());
        nanosleep(&(struct timespec){0, WATCH_NS}, NULL);
    }
    return NULL;
}

static bomsync_status run_watched(bench *b, const phase *p, uint64_t *peak, bomsync_error *err) {
    watch w = {0};
    bsi_memory_give_back(); /* what an earlier phase freed would count as this one's */
    bool watched = pthread_create(&w.thread, NULL, watch_memory, &w) == 0;
    bomsync_status st = p->run(b, err);
    atomic_store(&w.stop, true);
    if (watched) pthread_join(w.thread, NULL);
    *peak = BSI_MAX(w.peak, bsi_private_bytes());
    return st;
}

/* ---- one phase ---- */

static int by_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *v, int n) { return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2; }

/* Bytes that a tree takes on disk. */
static uint64_t disk_bytes(const char *dir) {
    DIR *d = opendir(dir);
    uint64_t sum = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *path = bsi_format("%s/%s", dir, e->d_name);
        struct stat st;
        if (lstat(path, &st) == 0) sum += S_ISDIR(st.st_mode) ? disk_bytes(path) : (uint64_t)st.st_blocks * 512;
        free(path);
    }
    if (d) closedir(d);
    return sum;
}

static int add_bytes(void *ctx, const void *bytes, size_t n) {
    bsi_buf_add(ctx, bytes, n);
    return 0;
}

static char *stats_of(const char *store) {
    bsi_buf b = {0};
    bomsync_error ignored = BOMSYNC_ERROR_INIT;
    if (bomsync_stats(store, true, (bomsync_sink){add_bytes, &b}, &ignored)) b.len = 0;
    bsi_buf_byte(&b, 0);
    return (char *)b.data;
}

/* What a phase worked on, and what it left. */
static void fill_figures(bench *b, const phase *p, figures *f) {
    bool changed = p->run == run_changed, sync = changed || p->run == run_first || p->run == run_unchanged;
    const char *store = changed ? b->copy : b->base;
    f->bytes = changed ? b->now.bytes : p->run == run_diff ? b->old.bytes + b->now.bytes : p->run == run_export ? b->product : b->old.bytes;
    f->records = p->run == run_read ? -1 : p->run == run_lines ? (int64_t)b->old.lines : b->old.records;
    if (sync) {
        f->stats = stats_of(store);
        f->store_bytes = disk_bytes(store);
    }
    if (changed) f->records = b->now.records;
    if (p->run == run_diff) f->records = b->old.records + b->now.records;
}

static bomsync_status measure(bench *b, const phase *p, figures *f, bomsync_error *err) {
    *f = (figures){.seconds = bsi_calloc((size_t)b->runs, sizeof(double)), .records = -1};
    bomsync_status st = BOMSYNC_OK;
    for (int i = -1; i < b->runs; i++) { /* -1: warms, and is watched */
        bomsync_error here = BOMSYNC_ERROR_INIT;
        if (p->prepare && (st = p->prepare(b, err)) != BOMSYNC_OK) return st;
        int64_t start = bsi_now_ns();
        f->exit = i < 0 ? run_watched(b, p, &f->memory, &here) : p->run(b, &here);
        if (i >= 0) f->seconds[i] = (double)(bsi_now_ns() - start) / 1e9;
        if (!ended_well(f->exit)) {
            *err = here;
            return f->exit;
        }
    }
    f->last = f->seconds[b->runs - 1];
    bsi_sort(f->seconds, (size_t)b->runs, sizeof(double), by_seconds);
    fill_figures(b, p, f);
    return BOMSYNC_OK;
}

/* ---- what is told ---- */

static bomsync_status put(bench *b, bsi_buf *text, bomsync_error *err) {
    int rc = text->len ? b->out.write(b->out.ctx, text->data, text->len) : 0;
    bsi_buf_free(text);
    return rc ? bsi_fail_errno(err, rc, NULL, "could not write the figures") : BOMSYNC_OK;
}

static double per_second(double n, double seconds) { return seconds > 0 ? n / seconds : 0; }

/* Seconds of the phase over those of plain reading as many bytes. */
static double ratio(const bench *b, const figures *f, double seconds) {
    return b->read_rate > 0 && f->bytes ? seconds * b->read_rate / (double)f->bytes : 0;
}

static double store_ratio(const bench *b, const phase *p, const figures *f) {
    uint64_t bytes = p->run == run_changed ? b->now.bytes : b->old.bytes;
    return bytes ? (double)f->store_bytes / (double)bytes : 0;
}

static void json_stats(bsi_buf *t, const char *stats) {
    json_t *all = stats ? json_loads(stats, 0, NULL) : NULL;
    static const char *const name[] = {"blocks", "skipped", "path", "stages"};
    for (size_t i = 0; i < 4; i++) {
        json_t *v = json_object_get(all, i == 3 ? "seconds" : name[i]);
        char *text = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
        bsi_buf_addf(t, ",\"%s\":%s", name[i], text ? text : "null");
        free(text);
    }
    json_decref(all);
}

static void put_json(const bench *b, bsi_buf *t, const phase *p, const figures *f) {
    double mid = median(f->seconds, b->runs);
    bsi_buf_addf(t, "{\"message_type\":\"bench\",\"phase\":\"%s\",\"workers\":%d,\"runs\":%d", p->name, b->workers, b->runs);
    bsi_buf_addf(t, ",\"seconds\":{\"median\":%.6f,\"least\":%.6f,\"most\":%.6f}", mid, f->seconds[0], f->seconds[b->runs - 1]);
    bsi_buf_addf(t, ",\"bytes\":%" PRIu64 ",\"records\":", f->bytes);
    if (f->records < 0) bsi_buf_str(t, "null");
    else bsi_buf_addf(t, "%" PRId64, f->records);
    bsi_buf_addf(t, ",\"bytes_per_second\":%.0f,\"records_per_second\":", per_second((double)f->bytes, mid));
    if (f->records < 0) bsi_buf_str(t, "null");
    else bsi_buf_addf(t, "%.0f", per_second((double)f->records, mid));
    bsi_buf_addf(t, ",\"ratio\":%.3f", ratio(b, f, mid));
    if (f->store_bytes) bsi_buf_addf(t, ",\"store_bytes\":%" PRIu64 ",\"store_ratio\":%.4f", f->store_bytes, store_ratio(b, p, f));
    else bsi_buf_str(t, ",\"store_bytes\":null,\"store_ratio\":null");
    bsi_buf_addf(t, ",\"memory_peak\":%" PRIu64, f->memory);
    json_stats(t, f->stats);
    bsi_buf_addf(t, ",\"exit\":%d}\n", (int)f->exit);
}

static void put_title(const bench *b, bsi_buf *t) {
    bsi_buf_addf(t, "workers: %d; timed runs of each phase: %d, after one that warms; seconds: median, least, most\n", b->workers, b->runs);
    bsi_buf_addf(t, "%-10s %10s %10s %10s %8s %12s %8s %9s %7s %8s\n", "phase", "median", "least", "most", "MB/s", "records/s", "x read",
                 "store MB", "x file", "peak MB");
}

/* A rate of nothing, or of something that has no records, is a dash. */
static void put_row(const bench *b, bsi_buf *t, const phase *p, const figures *f) {
    char records[32] = "-", ratio_text[32] = "-", store[32] = "-", file[32] = "-";
    double mid = median(f->seconds, b->runs);
    if (f->records >= 0) snprintf(records, sizeof records, "%.0f", per_second((double)f->records, mid));
    if (ratio(b, f, mid) > 0) snprintf(ratio_text, sizeof ratio_text, "%.2f", ratio(b, f, mid));
    if (f->store_bytes) {
        snprintf(store, sizeof store, "%.1f", (double)f->store_bytes / 1e6);
        snprintf(file, sizeof file, "%.2f", store_ratio(b, p, f));
    }
    bsi_buf_addf(t, "%-10s %10.4f %10.4f %10.4f %8.0f %12s %8s %9s %7s %8.1f", p->name, mid, f->seconds[0], f->seconds[b->runs - 1],
                 per_second((double)f->bytes, mid) / 1e6, records, ratio_text, store, file, (double)f->memory / 1e6);
    if (f->exit == BOMSYNC_HELD) bsi_buf_str(t, "  held: changes wait, so that less was written");
    if (f->exit == BOMSYNC_EXCEPTIONS) bsi_buf_str(t, "  records were kept back or left out");
    bsi_buf_byte(t, '\n');
}

/* "first      read 0.021  parse 0.110 ..  rest 0.040" of the last timed run. The rest is what no stage counts: opening
 * the store, the sync of its file at the end of the commit, which has the figures in it, closing. */
static void add_stages(bench *b, const phase *p, const figures *f) {
    json_t *all = json_loads(f->stats, 0, NULL), *v;
    const char *name;
    double rest = f->last;
    bsi_buf_addf(&b->stages, "%-10s", p->name);
    json_object_foreach(json_object_get(all, "seconds"), name, v) {
        double seconds = json_number_value(v);
        rest -= seconds;
        if (seconds > 0) bsi_buf_addf(&b->stages, " %s %.4f ", name, seconds);
    }
    bsi_buf_addf(&b->stages, " rest %.4f ", BSI_MAX(rest, 0.0));
    json_t *path = json_object_get(all, "path"), *blocks = json_object_get(all, "blocks"), *skipped = json_object_get(all, "skipped");
    if (path)
        bsi_buf_addf(&b->stages, " %s: %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " blocks skipped", json_string_value(path),
                     json_integer_value(skipped), json_integer_value(blocks));
    bsi_buf_byte(&b->stages, '\n');
    json_decref(all);
}

static bomsync_status tell(bench *b, const phase *p, const figures *f, bomsync_error *err) {
    bsi_buf t = {0};
    if (p->run == run_read && !b->json) put_title(b, &t);
    if (b->json) put_json(b, &t, p, f);
    else put_row(b, &t, p, f);
    if (f->stats && !b->json) add_stages(b, p, f);
    return put(b, &t, err);
}

static bomsync_status tell_stages(bench *b, bomsync_error *err) {
    bsi_buf t = {0};
    if (!b->json && b->stages.len) {
        bsi_buf_str(&t, "\nwhere the seconds of the last sync of each phase went\n");
        bsi_buf_add(&t, b->stages.data, b->stages.len);
    }
    return put(b, &t, err);
}

/* ---- all of it ---- */

static bomsync_status look_at(input *in, const char *path, bomsync_error *err) {
    struct stat st;
    bool piped = strcmp(path, "-") == 0;
    *in = (input){.path = path, .records = -1};
    if (!piped && stat(path, &st) != 0)
        return bsi_fail(err, BOMSYNC_E_USAGE, "could not look at \"%s\": %s", path, strerror(errno));
    if (piped || !S_ISREG(st.st_mode)) {
        bsi_fail(err, BOMSYNC_E_USAGE, "bench reads its files many times, and \"%s\" is not a file", path);
        bsi_hint(err, "write the snapshot into one file first");
        return BOMSYNC_E_USAGE;
    }
    in->bytes = (uint64_t)st.st_size;
    return BOMSYNC_OK;
}

static bomsync_status set_up(bench *b, bomsync_error *err) {
    const bomsync_bench_options *o = b->o;
    const char *tmp = o->read.tmp ? o->read.tmp : bsi_temp_folder();
    if (!o->key_count) return bsi_fail(err, BOMSYNC_E_USAGE, "bench needs --key");
    bomsync_status st = look_at(&b->old, o->snapshot, err);
    if (!st && o->second) st = look_at(&b->now, o->second, err);
    if (st) return st;
    if (getrandom(b->secret.bytes, sizeof b->secret.bytes, 0) < 0) return bsi_fail_errno(err, errno, NULL, "could not draw random bytes");
    char *dir = bsi_format("%s/bomsync-bench-XXXXXX", tmp);
    if (!mkdtemp(dir)) {
        st = bsi_fail_errno(err, errno, tmp, "could not make a folder in \"%s\"", tmp);
        free(dir);
        return st;
    }
    b->dir = dir;
    b->base = bsi_format("%s/store", dir);
    b->copy = bsi_format("%s/copy", dir);
    /* the records of both files are known before they are told; a file that cannot be read is refused here */
    st = cut_one(b, &b->old, err);
    if (!st && b->now.path) st = cut_one(b, &b->now, err);
    if (!st && !b->old.records) st = bsi_fail(err, BOMSYNC_E_REFUSED, "\"%s\" has no records to measure", b->old.path);
    return st;
}

static bomsync_status run_phases(bench *b, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; !st && i < sizeof phases / sizeof *phases; i++) {
        const phase *p = &phases[i];
        if (p->both && !b->now.path) continue;
        figures f;
        st = measure(b, p, &f, err);
        if (!st && p->run == run_read) b->read_rate = per_second((double)f.bytes, median(f.seconds, b->runs));
        if (!st) st = tell(b, p, &f, err);
        free(f.seconds);
        free(f.stats);
    }
    return st ? st : tell_stages(b, err);
}

bomsync_status bomsync_bench(const bomsync_bench_options *o, bool json, bomsync_sink out, bomsync_error *err) {
    bench b = {.o = o, .out = out, .json = json, .runs = o->runs > 0 ? o->runs : RUNS,
               .workers = o->read.workers > 0 ? o->read.workers : bsi_usable_cores()};
    bomsync_status st = set_up(&b, err);
    if (!st) st = run_phases(&b, err);
    bomsync_error late = BOMSYNC_ERROR_INIT;
    if (b.dir && bsi_remove_tree(b.dir, &late) && !st) {
        *err = late;
        st = late.status;
    }
    bsi_buf_free(&b.stages);
    free(b.dir);
    free(b.base);
    free(b.copy);
    return st;
}
