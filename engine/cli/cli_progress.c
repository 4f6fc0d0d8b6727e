/* cli_progress.c - stage, bytes, rate, records and the time that is left, on one terminal line.
 *
 *     read  1.25/4.00 GB  2310 MB/s  12.5 M records  1 s left
 *
 * Nothing for the first second: most runs are over by then. Then four times a second, which the eye can follow and no
 * profile notices. The rate is that of the present stage. The engine calls from a thread of its own while others may
 * talk, so one lock guards the line and what is written to stderr.
 */
#include "cli_progress.h"
#include "cli_output.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define FIRST_AFTER_NS 1000000000ull /* shorter runs show nothing */
#define EVERY_NS 250000000ull
#define LINE_BYTES 160

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool enabled, shown;
static uint64_t started_ns, last_ns, stage_ns, stage_from_bytes;
static char stage_now[32];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void bsi_cli_progress_start(bool wanted) {
    const char *terminal = getenv("TERM");
    enabled = wanted && isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
    started_ns = now_ns();
}

static void erase_locked(void) {
    if (!shown) return;
    shown = false;
    bsi_cli_write_all(STDERR_FILENO, "\r\033[K", 4); /* a lost terminal is no reason to stop */
}

void bsi_cli_progress_erase(void) {
    pthread_mutex_lock(&lock);
    erase_locked();
    pthread_mutex_unlock(&lock);
}

void bsi_cli_progress_abandon(void) {
    if (enabled && now_ns() - started_ns >= FIRST_AFTER_NS) bsi_cli_write_all(STDERR_FILENO, "\r\033[K", 4);
}

void bsi_cli_progress_write(const void *bytes, size_t n) {
    pthread_mutex_lock(&lock);
    erase_locked();
    bsi_cli_write_all(STDERR_FILENO, bytes, n);
    pthread_mutex_unlock(&lock);
}

static size_t terminal_columns(void) {
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
}

static size_t add(size_t at, int written) {
    size_t end = at + (written > 0 ? (size_t)written : 0);
    return end < LINE_BYTES ? end : LINE_BYTES - 1;
}

static size_t write_line(char *line, uint64_t done, uint64_t total, uint64_t records, uint64_t ns) {
    double gb = 1e9, seconds = (double)(ns - stage_ns) / 1e9;
    double rate = seconds > 0 && done > stage_from_bytes ? (double)(done - stage_from_bytes) / seconds : 0;
    size_t n = add(0, snprintf(line, LINE_BYTES, "%s  %.2f", stage_now, (double)done / gb));
    if (total) n = add(n, snprintf(line + n, LINE_BYTES - n, "/%.2f", (double)total / gb));
    n = add(n, snprintf(line + n, LINE_BYTES - n, " GB  %.0f MB/s", rate / 1e6));
    if (records) n = add(n, snprintf(line + n, LINE_BYTES - n, "  %.1f M records", (double)records / 1e6));
    if (total > done && rate > 0)
        n = add(n, snprintf(line + n, LINE_BYTES - n, "  %.0f s left", (double)(total - done) / rate));
    return n;
}

static void enter_stage(const char *stage, uint64_t done, uint64_t ns) {
    if (stage_ns && strncmp(stage, stage_now, sizeof stage_now - 1) == 0) return;
    snprintf(stage_now, sizeof stage_now, "%s", stage);
    stage_ns = ns;
    stage_from_bytes = done;
}

void bsi_cli_progress_show(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes, uint64_t records) {
    (void)ctx;
    if (!enabled) return;
    pthread_mutex_lock(&lock);
    uint64_t ns = now_ns();
    enter_stage(stage ? stage : "work", done_bytes, ns);
    if (ns - started_ns >= FIRST_AFTER_NS && ns - last_ns >= EVERY_NS) {
        char line[LINE_BYTES];
        size_t n = write_line(line, done_bytes, total_bytes, records, ns), columns = terminal_columns() - 1;
        bsi_cli_write_all(STDERR_FILENO, "\r\033[K", 4);
        bsi_cli_write_all(STDERR_FILENO, line, n < columns ? n : columns);
        shown = true;
        last_ns = ns;
    }
    pthread_mutex_unlock(&lock);
}
