/* store/store.c - making, opening and closing a store.
 *
 *   root/ of STORE: data.mdb lock.mdb     the one commit point
 *   STORE/shard-00/ ...                  opened when first needed: an unchanged sync never does
 *   STORE/outbox/ tmp/ ledger/           chunks; spill files; what targets acknowledged (deliver's)
 *   STORE/lock                           flock by the one writer, its pid inside
 *   STORE/readers                        flock, shared by readers, exclusive for gc
 *
 * LMDB's weak moment is creation, so a store is made in a folder beside, synced, and renamed. A store that is not
 * ours, newer, or cut short is told before anything in it is touched: the order is look at the file, take the lock,
 * open, check the format, write the pid.
 *
 * What a killed writer can leave: pieces above the root's counters (cut off here), segments above them (cut off by the
 * shard's thread before it writes), an outbox folder that is committed but lacks its name (renamed here), other .tmp-*
 * folders and files in tmp/ (removed here).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "store/store_inner.h"

#define LOCK_TEXT_BYTES 24
#define READERS_WAIT_SECONDS 10 /* a reader waits this long for gc */

uint64_t bsi_store_new_view(void) {
    static atomic_uint_fast64_t views;
    return atomic_fetch_add(&views, 1) + 1;
}

char *bsi_store_path(const bsi_store *s, const char *fmt, ...) {
    char *below = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&below, fmt, ap);
    va_end(ap);
    char *path = bsi_format("%s/%s", s->dir, n < 0 ? "" : below);
    free(below);
    return path;
}

static char *clean_dir(const char *dir) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    return bsi_strndup(dir, n);
}

/* ---- where a store may be ---- */

static bomsync_status not_on_network(const char *path, bomsync_error *err) {
    static const uint32_t network[] = {0x6969, 0x517B, 0xFF534D42, 0xFE534D42, 0x5346414F, 0x73757245, 0x564c};
    struct statfs fs;
    if (statfs(path, &fs) != 0) return BOMSYNC_OK;
    for (size_t i = 0; i < sizeof network / sizeof *network; i++)
        if ((uint32_t)fs.f_type == network[i]) {
            bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" is on a network file system; locks and mapped files are not safe there", path);
            bsi_hint(err, "put the store on a local disk");
            return BOMSYNC_E_USAGE;
        }
    return BOMSYNC_OK;
}

static char *folder_above(const char *dir) {
    const char *slash = strrchr(dir, '/');
    if (!slash) return bsi_strdup(".");
    return slash == dir ? bsi_strdup("/") : bsi_strndup(dir, (size_t)(slash - dir));
}

static int folder_is_empty(const char *dir) { /* 1 yes, 0 no, -1 errno */
    DIR *d = opendir(dir);
    if (!d) return -1;
    int empty = 1;
    for (struct dirent *e; empty && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) empty = 0;
    closedir(d);
    return empty;
}

bomsync_status bsi_store_target(const char *dir, bomsync_error *err) {
    if (!*dir) return bsi_fail(err, BOMSYNC_E_USAGE, "the store's folder has no name");
    int empty = folder_is_empty(dir);
    if (empty < 0 && errno == ENOTDIR) return bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" exists and is not a folder", dir);
    if (empty < 0 && errno != ENOENT) return bsi_fail_errno(err, errno, NULL, "could not look into \"%s\"", dir);
    if (empty == 0) {
        bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" exists and is not empty", dir);
        bsi_hint(err, "name a folder that does not exist yet, or remove it first");
        return BOMSYNC_E_USAGE;
    }
    char *above = folder_above(dir);
    bomsync_status st = BOMSYNC_OK;
    struct stat info;
    if (stat(above, &info) != 0 || !S_ISDIR(info.st_mode))
        st = bsi_fail(err, BOMSYNC_E_USAGE, "there is no folder \"%s\" to make the store in", above);
    if (!st) st = not_on_network(above, err);
    free(above);
    return st;
}

char *bsi_store_beside(const char *dir, bomsync_error *err) {
    char *tmp = bsi_format("%s.tmp-XXXXXX", dir);
    if (mkdtemp(tmp)) return tmp;
    bsi_fail_errno(err, errno, NULL, "could not make a folder beside \"%s\"", dir);
    free(tmp);
    return NULL;
}

bomsync_status bsi_store_settle(const char *tmp, const char *dir, bomsync_error *err) {
    if (rename(tmp, dir) != 0) {
        if (errno == ENOTEMPTY || errno == EEXIST) return bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" exists and is not empty", dir);
        return bsi_fail_errno(err, errno, dir, "could not rename \"%s\" to \"%s\"", tmp, dir);
    }
    char *above = folder_above(dir);
    bomsync_status st = bsi_fsync_path(above, err);
    free(above);
    return st;
}

/* ---- making ---- */

static bomsync_status draw(void *p, size_t n, bomsync_error *err) {
    for (uint8_t *at = p; n;) {
        ssize_t r = getrandom(at, n, 0);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return bsi_fail_errno(err, errno, NULL, "could not draw random bytes");
        at += r;
        n -= (size_t)r;
    }
    return BOMSYNC_OK;
}

bomsync_status bsi_store_meta_put(bsi_store *s, MDB_txn *txn, const char *key, const void *p, size_t n, bomsync_error *err) {
    bsi_buf b = {0};
    bsi_value_start(&b);
    bsi_buf_add(&b, p, n);
    bomsync_status st = bsi_value_save(&s->root, txn, BSI_DB_META, bsi_key_text(key), &b, 0, err);
    bsi_buf_free(&b);
    return st;
}

bomsync_status bsi_store_counters_put(bsi_store *s, MDB_txn *txn, const bsi_counters *c, bomsync_error *err) {
    uint64_t v[5] = {c->segment, c->piece, c->list, c->journal, c->generation};
    return bsi_store_meta_put(s, txn, "counters", v, sizeof v, err);
}

static bomsync_status fill_meta(bsi_store *s, uint32_t shards, bomsync_error *err) {
    MDB_txn *txn = NULL;
    uint32_t format = BSI_STORE_FORMAT;
    uint8_t id[16];
    bomsync_status st = draw(&s->secret, sizeof s->secret, err);
    if (!st) st = draw(id, sizeof id, err);
    if (st) return st;
    bsi_hex(s->id, id, sizeof id);
    st = bsi_env_begin(&txn, &s->root, err);
    if (st) return st;
    st = bsi_store_meta_put(s, txn, "format", &format, sizeof format, err);
    if (!st) st = bsi_store_meta_put(s, txn, "id", s->id, 32, err);
    if (!st) st = bsi_store_meta_put(s, txn, "secret", &s->secret, sizeof s->secret, err);
    if (!st) st = bsi_store_meta_put(s, txn, "shards", &shards, sizeof shards, err);
    if (!st) st = bsi_store_counters_put(s, txn, &s->counters, err);
    if (!st) return bsi_env_commit(&s->root, txn, err);
    mdb_txn_abort(txn);
    return st;
}

bomsync_status bsi_store_lay_out(const char *dir, bomsync_error *err) {
    static const char *const folders[] = {"outbox", "tmp", "ledger"};
    static const char *const files[] = {"lock", "readers"};
    char text[LOCK_TEXT_BYTES + 1];
    snprintf(text, sizeof text, "%-*lld\n", LOCK_TEXT_BYTES - 1, 0LL);
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; !st && i < 3; i++) {
        char *path = bsi_format("%s/%s", dir, folders[i]);
        if (mkdir(path, 0700) != 0 && errno != EEXIST) st = bsi_fail_errno(err, errno, dir, "could not make folder \"%s\"", path);
        free(path);
    }
    for (size_t i = 0; !st && i < 2; i++) {
        char *path = bsi_format("%s/%s", dir, files[i]);
        st = bsi_write_file(path, text, LOCK_TEXT_BYTES, err);
        free(path);
    }
    return st;
}

static bomsync_status sync_env(const char *dir, const char *label, bomsync_error *err) {
    static const char *const name[] = {"/data.mdb", "/lock.mdb", ""};
    bomsync_status st = BOMSYNC_OK;
    for (size_t i = 0; !st && i < 3; i++) {
        char *path = bsi_format("%s/%s%s", dir, label, name[i]);
        st = bsi_fsync_path(path, err);
        free(path);
    }
    return st;
}

bomsync_status bsi_store_sync_all(const char *dir, int shards, bomsync_error *err) {
    bomsync_status st = sync_env(dir, "root", err);
    for (int i = 0; !st && i < shards; i++) {
        char label[24];
        snprintf(label, sizeof label, "shard-%02d", i);
        st = sync_env(dir, label, err);
    }
    static const char *const folders[] = {"/outbox", "/tmp", "/ledger", ""};
    for (size_t i = 0; !st && i < 4; i++) {
        char *path = bsi_format("%s%s", dir, folders[i]);
        st = bsi_fsync_path(path, err);
        free(path);
    }
    return st;
}

static bomsync_status make_env(bsi_env *e, const char *dir, const char *label, bool shard, bomsync_error *err) {
    char *path = bsi_format("%s/%s", dir, label);
    bomsync_status st = BOMSYNC_OK;
    if (mkdir(path, 0700) != 0) st = bsi_fail_errno(err, errno, dir, "could not make folder \"%s\"", path);
    if (!st) st = bsi_env_open(e, dir, label, shard, true, true, err);
    free(path);
    return st;
}

static bomsync_status make_all(const char *tmp, int shards, bomsync_error *err) {
    bsi_store s = {0};
    bomsync_status st = make_env(&s.root, tmp, "root", false, err);
    if (!st) st = fill_meta(&s, (uint32_t)shards, err);
    bsi_env_close(&s.root);
    for (int i = 0; !st && i < shards; i++) {
        char label[24];
        bsi_env e = {0};
        snprintf(label, sizeof label, "shard-%02d", i);
        st = make_env(&e, tmp, label, true, err);
        if (!st) bsi_env_close(&e);
    }
    if (!st) st = bsi_store_lay_out(tmp, err);
    if (!st) st = bsi_store_sync_all(tmp, shards, err);
    return st;
}

bomsync_status bsi_store_create(const char *dir_given, int shards, bomsync_error *err) {
    if (shards < 1 || shards > BSI_STORE_SHARDS_MAX)
        return bsi_fail(err, BOMSYNC_E_USAGE, "a store has 1 to %d shards, not %d", BSI_STORE_SHARDS_MAX, shards);
    char *dir = clean_dir(dir_given);
    bomsync_status st = bsi_store_target(dir, err);
    char *tmp = st ? NULL : bsi_store_beside(dir, err);
    if (!st && !tmp) st = err ? err->status : BOMSYNC_E_USAGE;
    if (!st) st = make_all(tmp, shards, err);
    if (!st) st = bsi_store_settle(tmp, dir, err);
    if (st && tmp) bsi_remove_tree(tmp, NULL);
    free(tmp);
    free(dir);
    return st;
}

/* ---- locks ---- */

static void nap(int64_t ms) {
    struct timespec t = {ms / 1000, (ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static int lock_once(int fd, int how) { /* 0 done, 1 another has it, -1 errno */
    for (;;) {
        if (flock(fd, how | LOCK_NB) == 0) return 0;
        if (errno == EINTR) continue;
        return errno == EWOULDBLOCK ? 1 : -1;
    }
}

/* A process that was killed in the middle of a write to the device is there until that ends: a zombie, or with SIGKILL pending. */
static bool is_dying(long long pid) {
    char path[64], text[4096], pending[] = "SigPnd:";
    snprintf(path, sizeof path, "/proc/%lld/status", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (n <= 0) return false;
    text[n] = 0;
    const char *state = strstr(text, "State:"), *signals = strstr(text, pending);
    char letter = 0;
    if (state && sscanf(state + 6, " %c", &letter) == 1 && (letter == 'Z' || letter == 'X')) return true;
    return signals && (strtoull(signals + sizeof pending - 1, NULL, 16) >> (SIGKILL - 1) & 1);
}

static bool holder_is_dead(int fd) {
    char text[LOCK_TEXT_BYTES + 1] = {0};
    if (pread(fd, text, LOCK_TEXT_BYTES, 0) <= 0) return true;
    long long pid = atoll(text);
    return pid <= 0 || (kill((pid_t)pid, 0) != 0 && errno == ESRCH) || is_dying(pid);
}

/* While a lock was waited for, another store may have taken this one's place (store_format.c): then it is the lock of
 * a store that has gone. */
static bomsync_status still_there(const bsi_store *s, int fd, const char *path, bomsync_error *err) {
    struct stat here, there;
    if (fstat(fd, &here) == 0 && stat(path, &there) == 0 && here.st_ino == there.st_ino && here.st_dev == there.st_dev) return BOMSYNC_OK;
    bsi_fail(err, BOMSYNC_E_BUSY, "the store \"%s\" was replaced while its lock was waited for", s->dir);
    bsi_hint(err, "run it again");
    return BOMSYNC_E_BUSY;
}

/* A killed process may hold its lock for a moment after it is gone: that is waited out, a live one is not. */
static bomsync_status take_lock(bsi_store *s, int wait_seconds, bomsync_error *err) {
    char *path = bsi_store_path(s, "lock");
    s->lock_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (s->lock_fd < 0) {
        bomsync_status st = errno == ENOENT
                                ? bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store is damaged: \"%s\" is missing", path)
                                : bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", path);
        free(path);
        return st;
    }
    int64_t start = bsi_now_ns(), wait_ns = (int64_t)wait_seconds * 1000000000;
    int rc;
    while ((rc = lock_once(s->lock_fd, LOCK_EX)) == 1) {
        int64_t waited = bsi_now_ns() - start;
        bool dead = waited < 1000000000 && holder_is_dead(s->lock_fd);
        if (!dead && waited >= wait_ns) break;
        nap(10);
    }
    bomsync_status st = BOMSYNC_OK;
    if (rc == 1) {
        st = bsi_fail(err, BOMSYNC_E_BUSY, "another run holds the store \"%s\"", s->dir);
        bsi_hint(err, "wait for it to end, or give --wait SECONDS");
    } else if (rc < 0) {
        st = bsi_fail_errno(err, errno, NULL, "could not lock \"%s\"", path);
    } else {
        st = still_there(s, s->lock_fd, path, err);
    }
    free(path);
    return st;
}

static bomsync_status write_pid(bsi_store *s, bomsync_error *err) {
    char text[LOCK_TEXT_BYTES + 1];
    snprintf(text, sizeof text, "%-*lld\n", LOCK_TEXT_BYTES - 1, (long long)getpid());
    ssize_t n;
    do n = pwrite(s->lock_fd, text, LOCK_TEXT_BYTES, 0);
    while (n < 0 && errno == EINTR);
    if (n == LOCK_TEXT_BYTES) return BOMSYNC_OK;
    return bsi_fail_errno(err, n < 0 ? errno : ENOSPC, s->dir, "could not write the lock of \"%s\"", s->dir);
}

static bomsync_status lock_readers(bsi_store *s, int wait_seconds, bomsync_error *err) {
    char *path = bsi_store_path(s, "readers");
    s->readers_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bomsync_status st = BOMSYNC_OK;
    if (s->readers_fd < 0 && errno == ENOENT)
        st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store is damaged: \"%s\" is missing", path);
    else if (s->readers_fd < 0)
        st = bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", path);
    bool alone = s->mode == BSI_STORE_GC;
    int64_t end = bsi_now_ns() + (int64_t)BSI_MAX(wait_seconds, alone ? 0 : READERS_WAIT_SECONDS) * 1000000000;
    int rc = 0;
    while (!st && (rc = lock_once(s->readers_fd, alone ? LOCK_EX : LOCK_SH)) == 1 && bsi_now_ns() < end) nap(10);
    if (rc < 0) st = bsi_fail_errno(err, errno, NULL, "could not lock \"%s\"", s->dir);
    if (rc > 0) st = bsi_fail(err, BOMSYNC_E_BUSY, alone ? "the store \"%s\" is being read" : "the store \"%s\" is being cleaned up", s->dir);
    if (!st) st = still_there(s, s->readers_fd, path, err);
    free(path);
    return st;
}

/* ---- opening ---- */

static bool exists(const bsi_store *s, const char *below) {
    char *path = bsi_store_path(s, "%s", below);
    struct stat st;
    bool yes = lstat(path, &st) == 0;
    free(path);
    return yes;
}

/* Nothing of a store there: usage. Some of it: damage. */
static bomsync_status looks_like_store(const bsi_store *s, bomsync_error *err) {
    if (exists(s, "root/data.mdb")) return BOMSYNC_OK;
    if (exists(s, "root") || exists(s, "lock") || exists(s, "readers") || exists(s, "shard-00")) {
        bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store \"%s\" is damaged: root/data.mdb is missing", s->dir);
        bsi_hint(err, "restore it from a backup");
        return BOMSYNC_E_INTEGRITY;
    }
    bsi_fail(err, BOMSYNC_E_USAGE, "no store at \"%s\"", s->dir);
    bsi_hint(err, "make one with bomsync init --store DIR");
    return BOMSYNC_E_USAGE;
}

static bomsync_status meta_get(bsi_store *s, const char *key, void *out, size_t n, bomsync_error *err) {
    bsi_span v;
    bomsync_status st = bsi_value_get(&v, &s->root, s->root.read, BSI_DB_META, bsi_key_text(key), err);
    if (st) return st;
    if (!v.p || v.n != n) return bsi_bad(err, &s->root, BSI_DB_META, bsi_key_text(key), v.p ? "wrong length" : "missing");
    memcpy(out, v.p, n);
    return BOMSYNC_OK;
}

static bomsync_status load_counters(bsi_store *s, bomsync_error *err) {
    uint64_t v[5];
    bomsync_status st = meta_get(s, "counters", v, sizeof v, err);
    if (st) return st;
    s->counters = (bsi_counters){v[0], v[1], v[2], v[3], v[4]};
    atomic_store(&s->next_segment, v[0] + 1);
    return BOMSYNC_OK;
}

/* The format is read without the checksum's help: a newer format may seal its values in another way. */
static bomsync_status check_format(bsi_store *s, bomsync_error *err) {
    MDB_val key = bsi_key_text("format"), v;
    int rc = mdb_get(s->root.read, s->root.dbi[BSI_DB_META], &key, &v);
    if (rc == MDB_NOTFOUND || (!rc && v.mv_size < BSI_VALUE_HEAD + 4))
        return bsi_fail(err, BOMSYNC_E_INTEGRITY, "\"%s\" is not a bomsync store", s->dir);
    if (rc) return bsi_env_fail(err, &s->root, rc, "read");
    uint32_t format = bsi_get32((const uint8_t *)v.mv_data + BSI_VALUE_HEAD);
    bsi_span payload;
    bomsync_status st = bsi_value_check(&payload, &s->root, BSI_DB_META, key, v, NULL);
    if (format > BSI_STORE_FORMAT && format < 1000) {
        bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store \"%s\" has format %u, this bomsync reads up to %d", s->dir, format, BSI_STORE_FORMAT);
        bsi_hint(err, "use the newer bomsync that wrote it; nothing was changed");
        return BOMSYNC_E_INTEGRITY;
    }
    /* an older format that this program brings forward: store_format.c looks for itself */
    if (st || format != BSI_STORE_FORMAT) return bsi_bad(err, &s->root, BSI_DB_META, key, "wrong format or checksum");
    return BOMSYNC_OK;
}

static bomsync_status load_meta(bsi_store *s, bomsync_error *err) {
    uint32_t shards = 0;
    bomsync_status st = check_format(s, err);
    if (!st) st = meta_get(s, "id", s->id, 32, err);
    if (!st) st = meta_get(s, "secret", &s->secret, sizeof s->secret, err);
    if (!st) st = meta_get(s, "shards", &shards, sizeof shards, err);
    if (!st && (shards < 1 || shards > BSI_STORE_SHARDS_MAX))
        st = bsi_bad(err, &s->root, BSI_DB_META, bsi_key_text("shards"), "impossible number of shards");
    if (!st) st = load_counters(s, err);
    s->shard_count = (int)shards;
    return st;
}

bomsync_status bsi_store_removed_below(const char *dir, const char *prefix, int64_t keep, bomsync_error *err) {
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT) return BOMSYNC_OK;
    if (!d) return bsi_fail_errno(err, errno, NULL, "could not look into \"%s\"", dir);
    bomsync_status st = BOMSYNC_OK;
    size_t n = strlen(prefix);
    for (struct dirent *e; !st && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || strncmp(e->d_name, prefix, n) != 0) continue;
        if (keep >= 0 && atoll(e->d_name + n) == keep) continue;
        char *path = bsi_format("%s/%s", dir, e->d_name);
        st = bsi_remove_tree(path, err);
        free(path);
    }
    closedir(d);
    return st;
}

bomsync_status bsi_store_rename_outbox(bsi_store *s, int64_t generation, bomsync_error *err) {
    char *tmp = bsi_store_path(s, "outbox/.tmp-%lld", (long long)generation);
    char *name = bsi_store_path(s, "outbox/%lld", (long long)generation);
    char *outbox = bsi_store_path(s, "outbox");
    bomsync_status st = BOMSYNC_OK;
    if (rename(tmp, name) != 0) st = bsi_fail_errno(err, errno, s->dir, "could not rename \"%s\"", tmp);
    if (!st) st = bsi_fsync_path(outbox, err);
    free(tmp);
    free(name);
    free(outbox);
    return st;
}

/* An outbox folder that was committed gets its name; what was not is removed. */
static bomsync_status roll_outbox(bsi_store *s, bomsync_error *err) {
    bsi_generation *g = NULL;
    bool outbox = false;
    int64_t previous, newest = (int64_t)s->counters.generation;
    bomsync_status st = bsi_generation_load(&g, &previous, &outbox, s, s->root.read, newest, err);
    if (!st && g && outbox) {
        char name[32], tmp[40];
        snprintf(name, sizeof name, "outbox/%lld", (long long)newest);
        snprintf(tmp, sizeof tmp, "outbox/.tmp-%lld", (long long)newest);
        if (!exists(s, name) && exists(s, tmp)) st = bsi_store_rename_outbox(s, newest, err);
    }
    bsi_generation_free(g);
    char *dir = bsi_store_path(s, "outbox");
    if (!st) st = bsi_store_removed_below(dir, ".tmp-", -1, err);
    free(dir);
    return st;
}

static bomsync_status cut_root(bsi_store *s, bomsync_error *err) {
    static const bsi_db pieces[] = {BSI_DB_STATE, BSI_DB_IMAGE, BSI_DB_DICTS};
    uint64_t last;
    bool any = false;
    for (size_t i = 0; i < 3; i++) any |= bsi_env_last(&s->root, s->root.read, pieces[i], &last) && last > s->counters.piece;
    if (!any) return BOMSYNC_OK;
    MDB_txn *txn = NULL;
    bomsync_status st = bsi_env_begin(&txn, &s->root, err);
    if (st) return st;
    for (size_t i = 0; !st && i < 3; i++) st = bsi_env_cut(&s->root, txn, pieces[i], s->counters.piece, &any, err);
    if (st) {
        mdb_txn_abort(txn);
        return st;
    }
    st = bsi_env_commit(&s->root, txn, err);
    return st ? st : bsi_env_renew(&s->root, err);
}

static bomsync_status tidy(bsi_store *s, bomsync_error *err) {
    bomsync_status st = write_pid(s, err);
    if (!st) st = cut_root(s, err);
    if (!st) st = roll_outbox(s, err);
    char *tmp = bsi_store_path(s, "tmp");
    if (!st) st = bsi_store_removed_below(tmp, "", -1, err);
    free(tmp);
    return st;
}

static void make_shards(bsi_store *s) {
    s->shard = bsi_calloc((size_t)s->shard_count, sizeof *s->shard);
    for (int i = 0; i < s->shard_count; i++) {
        s->shard[i].store = s;
        s->shard[i].error = (bomsync_error)BOMSYNC_ERROR_INIT;
        pthread_mutex_init(&s->shard[i].mutex, NULL);
        pthread_cond_init(&s->shard[i].wake, NULL);
        pthread_cond_init(&s->shard[i].idle, NULL);
    }
}

static bomsync_status open_once(bsi_store **out, const char *dir, bsi_store_mode mode, int wait_seconds, bomsync_error *err) {
    struct stat info;
    if (stat(dir, &info) != 0 || !S_ISDIR(info.st_mode)) {
        bsi_fail(err, BOMSYNC_E_USAGE, "no store at \"%s\"", dir);
        bsi_hint(err, "make one with bomsync init --store DIR");
        return BOMSYNC_E_USAGE;
    }
    bsi_store *s = bsi_calloc(1, sizeof *s);
    s->dir = clean_dir(dir);
    s->mode = mode;
    s->lock_fd = s->readers_fd = -1;
    pthread_mutex_init(&s->dict_mutex, NULL);
    atomic_store(&s->view, bsi_store_new_view());
    bomsync_status st = looks_like_store(s, err);
    if (!st) st = not_on_network(dir, err);
    if (!st && mode != BSI_STORE_READ) st = take_lock(s, wait_seconds, err);
    if (!st && mode != BSI_STORE_WRITE) st = lock_readers(s, wait_seconds, err);
    if (!st) st = bsi_env_open(&s->root, s->dir, "root", false, mode != BSI_STORE_READ, false, err);
    if (!st) st = load_meta(s, err);
    if (!st) make_shards(s);
    if (!st && mode != BSI_STORE_READ) st = tidy(s, err);
    if (st) {
        bsi_store_close(s);
        return st;
    }
    *out = s;
    return BOMSYNC_OK;
}

/* Alone with the store, as gc is: no writer, no reader. */
static bomsync_status bring_forward(const char *dir, int wait_seconds, bomsync_error *err) {
    bsi_store s = {.dir = clean_dir(dir), .mode = BSI_STORE_GC, .lock_fd = -1, .readers_fd = -1};
    uint32_t format;
    bomsync_status st = take_lock(&s, wait_seconds, err);
    if (!st) st = lock_readers(&s, BSI_MAX(wait_seconds, READERS_WAIT_SECONDS), err);
    if (!st && bsi_format_is_older(&format, s.dir)) st = bsi_format_forward(s.dir, format, err);
    if (s.readers_fd >= 0) close(s.readers_fd);
    if (s.lock_fd >= 0) close(s.lock_fd);
    free(s.dir);
    return st;
}

static bomsync_status open_forward(bsi_store **out, const char *dir, uint32_t format, bsi_store_mode mode, int wait_seconds, bomsync_error *err) {
    if (mode == BSI_STORE_READ) {
        bsi_fail(err, BOMSYNC_E_USAGE, "the store \"%s\" has format %u, this bomsync works with %d", dir, format, BSI_STORE_FORMAT);
        bsi_hint(err, "the next command that writes (sync, gc, verify --repair) brings it forward, and keeps the old one beside it");
        return BOMSYNC_E_USAGE;
    }
    bomsync_status st = bring_forward(dir, wait_seconds, err);
    if (!st) st = open_once(out, dir, mode, wait_seconds, err);
    if (st) return st;
    char *json = bsi_format("{\"from\":%u,\"to\":%d}", format, BSI_STORE_FORMAT);
    st = bsi_store_publish(*out, &(bsi_publish){.journal_kind = "format", .journal_json = json}, err);
    free(json);
    if (st) {
        bsi_store_close(*out);
        *out = NULL;
    }
    return st;
}

/* The image is most of the root and is gone through at once: page by page a cold one would take as long as the snapshot. */
void bsi_store_expect(const char *dir) {
    char *path = bsi_format("%s/%s/data.mdb", dir, "root");
    bsi_file_expect(path, BSI_EXPECT_ROOT_BYTES);
    free(path);
}

bomsync_status bsi_store_open(bsi_store **out, const char *dir, bsi_store_mode mode, int wait_seconds, bomsync_error *err) {
    bomsync_error told = BOMSYNC_ERROR_INIT;
    uint32_t format;
    *out = NULL;
    bomsync_status st = open_once(out, dir, mode, wait_seconds, &told);
    if (st == BOMSYNC_E_INTEGRITY && bsi_format_is_older(&format, dir)) return open_forward(out, dir, format, mode, wait_seconds, err);
    if (st && err && !err->status) *err = told;
    return st;
}

void bsi_store_close(bsi_store *s) {
    if (!s) return;
    bsi_shards_close(s);
    bsi_dicts_close(s);
    bsi_ahead_forget(s);
    bsi_env_close(&s->root);
    if (s->readers_fd >= 0) close(s->readers_fd);
    if (s->lock_fd >= 0) close(s->lock_fd);
    free(s->dir);
    free(s);
}

void bsi_store_leave(bsi_store *s) {
    if (!s) return;
    bsi_shards_leave(s);
    bsi_env_leave(&s->root);
    if (s->readers_fd >= 0) close(s->readers_fd);
    if (s->lock_fd >= 0) close(s->lock_fd);
}

const char *bsi_store_dir(const bsi_store *s) { return s->dir; }
const char *bsi_store_id(const bsi_store *s) { return s->id; }
const bsi_secret *bsi_store_secret(const bsi_store *s) { return &s->secret; }
int bsi_store_shards(const bsi_store *s) { return s->shard_count; }
int64_t bsi_store_generation(const bsi_store *s) { return (int64_t)s->counters.generation; }
