/* store/store_upkeep.c - figures, copies, and forgetting old generations.
 *
 * backup: ledgers first, then the root, then the shards, then the outbox. Shards only gain segments while gc is kept out (by
 * the lock that the reader or writer holds), so shards that are newer than the root hold all that it refers to, and
 * ledgers that are older name generations that it has. What a newer shard holds above the root's counters is cut
 * off by the copy's first writer.
 *
 * gc: mark what the newest generations, every feed's state there and now, and the images need, and what patches stand on;
 * then sweep lists, pieces and segments. The root commits before segments go, and dictionaries that no segment names go as the last:
 * if the sweep is killed, the next one finds the rest.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/vast.h"
#include "store/store_inner.h"

/* ---- figures ---- */

static uint64_t tree_bytes(int at, const char *name, int depth) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0) close(fd);
        return 0;
    }
    uint64_t sum = 0;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW)) continue;
        if (S_ISDIR(st.st_mode) && depth < 8) sum += tree_bytes(fd, e->d_name, depth + 1);
        else if (S_ISREG(st.st_mode)) sum += (uint64_t)st.st_size;
    }
    closedir(d);
    return sum;
}

static uint64_t db_bytes(const bsi_env *e, bsi_db db, uint64_t *entries) {
    MDB_stat t;
    if (mdb_stat(e->read, e->dbi[db], &t)) return 0;
    if (entries) *entries += t.ms_entries;
    return (t.ms_branch_pages + t.ms_leaf_pages + t.ms_overflow_pages) * t.ms_psize;
}

static uint64_t free_bytes(const bsi_env *e) {
    MDB_stat t;
    return mdb_env_stat(e->env, &t) ? 0 : bsi_env_free_pages(e, 0) * t.ms_psize;
}

bomsync_status bsi_store_figures_get(bsi_store_figures *out, bsi_store *s, bomsync_error *err) {
    bsi_store_figures f = {0};
    bomsync_status st = BOMSYNC_OK;
    for (int i = 0; !st && i < s->shard_count; i++) {
        bsi_shard *sh = &s->shard[i];
        pthread_mutex_lock(&sh->mutex);
        st = bsi_shard_env(sh, err);
        if (!st) {
            f.data += db_bytes(&sh->env, BSI_DB_DATA, &f.segments);
            f.rows += db_bytes(&sh->env, BSI_DB_ROWS, NULL);
            f.free_bytes += free_bytes(&sh->env);
        }
        pthread_mutex_unlock(&sh->mutex);
    }
    if (st) return st;
    f.image = db_bytes(&s->root, BSI_DB_IMAGE, NULL);
    f.free_bytes += free_bytes(&s->root);
    char *outbox = bsi_store_path(s, "outbox"), *ledger = bsi_store_path(s, "ledger");
    f.outbox = tree_bytes(AT_FDCWD, outbox, 0);
    f.ledger = tree_bytes(AT_FDCWD, ledger, 0);
    free(outbox);
    free(ledger);
    *out = f;
    return BOMSYNC_OK;
}

/* ---- copying folders ---- */

static bomsync_status copy_bytes(int from, int to, const char *name, bomsync_error *err) {
    char *buf = bsi_alloc(BSI_READ_BYTES);
    bomsync_status st = BOMSYNC_OK;
    while (!st) {
        ssize_t n = read(from, buf, BSI_READ_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = bsi_fail_errno(err, errno, NULL, "could not read \"%s\"", name);
        if (n <= 0) break;
        for (ssize_t done = 0, w; !st && done < n; done += BSI_MAX(w, 0)) {
            w = write(to, buf + done, (size_t)(n - done));
            if (w < 0 && errno != EINTR) st = bsi_fail_errno(err, errno, NULL, "could not write the copy of \"%s\"", name);
        }
    }
    free(buf);
    if (!st && fsync(to) != 0) st = bsi_fail_errno(err, errno, NULL, "could not sync the copy of \"%s\"", name);
    return st;
}

static bomsync_status copy_file(int from_dir, int to_dir, const char *name, bomsync_error *err) {
    int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0) return bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", name);
    int to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bomsync_status st = to < 0 ? bsi_fail_errno(err, errno, NULL, "could not make a copy of \"%s\"", name)
                               : copy_bytes(from, to, name, err);
    if (to >= 0 && close(to) != 0 && !st) st = bsi_fail_errno(err, errno, NULL, "could not close the copy of \"%s\"", name);
    close(from);
    return st;
}

/* from is a folder's descriptor: renaming the folder meanwhile does no harm. Takes from. */
static bomsync_status copy_folder(int from, const char *to, int depth, bomsync_error *err) {
    DIR *d = fdopendir(from);
    int fd = -1;
    bomsync_status st = BOMSYNC_OK;
    if (!d || mkdir(to, 0700) != 0 || (fd = open(to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        st = bsi_fail_errno(err, errno, NULL, "could not make folder \"%s\"", to);
    for (struct dirent *e; !st && (e = readdir(d));) {
        struct stat info;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || fstatat(from, e->d_name, &info, AT_SYMLINK_NOFOLLOW)) continue;
        if (S_ISREG(info.st_mode)) {
            st = copy_file(from, fd, e->d_name, err);
        } else if (S_ISDIR(info.st_mode) && depth < 8) {
            int below = openat(from, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            char *path = bsi_format("%s/%s", to, e->d_name);
            st = below < 0 ? bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", e->d_name)
                           : copy_folder(below, path, depth + 1, err);
            free(path);
        }
    }
    if (!st && fsync(fd) != 0) st = bsi_fail_errno(err, errno, NULL, "could not sync \"%s\"", to);
    if (fd >= 0) close(fd);
    if (d) closedir(d);
    else close(from);
    return st;
}

bomsync_status bsi_store_copy_tree(const char *from, const char *to, bomsync_error *err) {
    int fd = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", from) : copy_folder(fd, to, 0, err);
}

/* ---- backup ---- */

static bomsync_status copy_env(const bsi_env *e, const char *to, const char *label, bomsync_error *err) {
    char *path = bsi_format("%s/%s", to, label);
    bomsync_status st = BOMSYNC_OK;
    if (mkdir(path, 0700) != 0) st = bsi_fail_errno(err, errno, to, "could not make folder \"%s\"", path);
    if (!st) {
        int rc = mdb_env_copy2(e->env, path, MDB_CP_COMPACT);
        if (rc) st = bsi_env_fail(err, e, rc, "copy");
    }
    free(path);
    return st;
}

/* Each ledger is an environment of its own, of a target's choosing: copied as LMDB copies, then the other files. */
static bomsync_status copy_ledger(const bsi_store *s, const char *to, const char *name, bomsync_error *err) {
    char *label = bsi_format("ledger/%s", name);
    bsi_env e = {.path = bsi_store_path(s, "ledger/%s", name), .label = label};
    bomsync_status st = BOMSYNC_OK;
    int rc = mdb_env_create(&e.env);
    if (!rc) rc = mdb_env_open(e.env, e.path, MDB_RDONLY | MDB_NOTLS, 0600);
    if (rc) st = bsi_env_fail(err, &e, rc, "open");
    if (!st) st = copy_env(&e, to, label, err);
    bsi_env_close(&e); /* frees label */
    return st;
}

static bomsync_status copy_ledgers(const bsi_store *s, const char *to, bomsync_error *err) {
    char *dir = bsi_store_path(s, "ledger");
    DIR *d = opendir(dir);
    bomsync_status st = BOMSYNC_OK;
    for (struct dirent *e; d && !st && (e = readdir(d));) {
        char *file = bsi_format("%s/%s/data.mdb", dir, e->d_name);
        if (e->d_name[0] != '.' && access(file, R_OK) == 0) st = copy_ledger(s, to, e->d_name, err);
        free(file);
    }
    if (d) closedir(d);
    free(dir);
    return st;
}

/* A folder that is committed but not yet renamed is copied as it is: the copy's first writer renames it. */
static bomsync_status copy_generation(const bsi_store *s, const char *to, int64_t number, bomsync_error *err) {
    for (int tries = 0; tries < 50; tries++) {
        for (size_t i = 0; i < 2; i++) {
            char name[48];
            snprintf(name, sizeof name, i ? "outbox/.tmp-%lld" : "outbox/%lld", (long long)number);
            char *from = bsi_store_path(s, "%s", name), *copy = bsi_format("%s/%s", to, name);
            int fd = open(from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            bomsync_status st = fd < 0 ? BOMSYNC_OK : copy_folder(fd, copy, 0, err);
            free(from);
            free(copy);
            if (fd >= 0) return st;
        }
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
    return BOMSYNC_OK; /* it is missing here too: verify tells */
}

/* The copied root says which generations it has, and which of them have an outbox. */
static bomsync_status copy_outbox(const bsi_store *s, bsi_store *copy, const char *to, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (int64_t n = 1; !st && n <= (int64_t)copy->counters.generation; n++) {
        bsi_generation *g;
        int64_t previous;
        bool outbox = false;
        st = bsi_generation_load(&g, &previous, &outbox, copy, copy->root.read, n, err);
        if (!st && g && outbox) st = copy_generation(s, to, n, err);
        bsi_generation_free(g);
    }
    return st;
}

static bomsync_status copy_envs(bsi_store *s, const char *to, bomsync_error *err) {
    bomsync_status st = copy_ledgers(s, to, err);
    if (!st) st = copy_env(&s->root, to, "root", err);
    for (int i = 0; !st && i < s->shard_count; i++) {
        bsi_shard *sh = &s->shard[i];
        pthread_mutex_lock(&sh->mutex);
        st = bsi_shard_env(sh, err);
        if (!st) st = copy_env(&sh->env, to, sh->env.label, err);
        pthread_mutex_unlock(&sh->mutex);
    }
    return st;
}

/* LMDB copies without a lock file: opening for writing makes it, once and for all readers. */
static bomsync_status make_lock_files(const char *dir, int shards, bomsync_error *err) {
    bsi_env e = {0};
    bomsync_status st = bsi_env_open(&e, dir, "root", false, true, false, err);
    if (!st) bsi_env_close(&e);
    for (int i = 0; !st && i < shards; i++) {
        char label[24];
        snprintf(label, sizeof label, "shard-%02d", i);
        st = bsi_env_open(&e, dir, label, true, true, false, err);
        if (!st) bsi_env_close(&e);
    }
    return st;
}

static bomsync_status copy_store(bsi_store *s, const char *to, bomsync_error *err) {
    bsi_store *copy = NULL;
    bomsync_status st = bsi_store_lay_out(to, err);
    if (!st) st = copy_envs(s, to, err);
    if (!st) st = make_lock_files(to, s->shard_count, err);
    if (!st) st = bsi_store_open(&copy, to, BSI_STORE_READ, 0, err);
    if (!st) st = copy_outbox(s, copy, to, err);
    bsi_store_close(copy);
    return st ? st : bsi_store_sync_all(to, s->shard_count, err);
}

static bomsync_status must_not_exist(const char *to, bomsync_error *err) {
    struct stat info;
    if (lstat(to, &info) != 0) return bsi_store_target(to, err);
    bsi_fail(err, BOMSYNC_E_USAGE, "\"%s\" exists already", to);
    bsi_hint(err, "name a folder that does not exist yet");
    return BOMSYNC_E_USAGE;
}

static char *without_slash(const char *dir) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    return bsi_strndup(dir, n);
}

bomsync_status bsi_store_backup(bsi_store *s, const char *to_given, bomsync_error *err) {
    char *to = without_slash(to_given);
    bomsync_status st = must_not_exist(to, err);
    char *tmp = st ? NULL : bsi_store_beside(to, err);
    if (!st && !tmp) st = err && err->status ? err->status : BOMSYNC_E_USAGE;
    if (!st) st = copy_store(s, tmp, err);
    if (!st) st = bsi_store_settle(tmp, to, err);
    if (st && tmp) bsi_remove_tree(tmp, NULL);
    free(tmp);
    free(to);
    return st;
}

/* ---- restore ---- */

static void first_fault(void *ctx, const char *line) {
    char *text = ctx;
    if (!*text) snprintf(text, 256, "%s", line);
}

static bomsync_status renew_id(bsi_store *s, bomsync_error *err) {
    uint8_t id[16];
    MDB_txn *txn = NULL;
    if (getrandom(id, sizeof id, 0) != (ssize_t)sizeof id) return bsi_fail_errno(err, errno, NULL, "could not draw random bytes");
    char *json = bsi_format("{\"from\":\"%s\"}", s->id);
    bsi_hex(s->id, id, sizeof id);
    s->id[32] = 0;
    bomsync_status st = bsi_env_begin(&txn, &s->root, err);
    if (!st && (st = bsi_store_meta_put(s, txn, "id", s->id, 32, err)) != BOMSYNC_OK) mdb_txn_abort(txn);
    else if (!st) st = bsi_env_commit(&s->root, txn, err);
    if (!st) st = bsi_env_renew(&s->root, err);
    if (!st) st = bsi_store_publish(s, &(bsi_publish){.journal_kind = "restore", .journal_json = json}, err);
    free(json);
    return st;
}

static bomsync_status adopt_copy(const char *dir, bomsync_error *err) {
    bsi_store *s;
    char fault[256] = "";
    bomsync_status st = bsi_store_open(&s, dir, BSI_STORE_WRITE, 0, err);
    if (st) return st;
    bomsync_error inner = BOMSYNC_ERROR_INIT;
    st = bsi_store_verify(s, false, first_fault, fault, &inner);
    if (st == BOMSYNC_E_INTEGRITY) {
        bsi_fail(err, st, "the backup is damaged, nothing was restored: %s", fault);
        bsi_hint(err, "restore from another backup");
    } else if (st && err && !err->status) {
        *err = inner;
    }
    if (!st) st = renew_id(s, err);
    int shards = s->shard_count;
    bsi_store_close(s);
    return st ? st : bsi_store_sync_all(dir, shards, err);
}

bomsync_status bsi_store_restore(const char *from, const char *to_given, bomsync_error *err) {
    char *to = without_slash(to_given), *tmp = NULL;
    bsi_store *s = NULL;
    bomsync_status st = bsi_store_open(&s, from, BSI_STORE_READ, 0, err);
    if (!st) st = bsi_store_target(to, err);
    if (!st && !(tmp = bsi_store_beside(to, err))) st = err && err->status ? err->status : BOMSYNC_E_USAGE;
    if (!st) st = copy_store(s, tmp, err);
    bsi_store_close(s);
    if (!st) st = adopt_copy(tmp, err);
    if (!st) st = bsi_store_settle(tmp, to, err);
    if (st && tmp) bsi_remove_tree(tmp, NULL);
    free(tmp);
    free(to);
    return st;
}

/* ---- gc ---- */

typedef struct ids { /* sorted once it is complete */
    uint64_t *id;
    size_t count, cap;
} ids;

static void ids_add(ids *s, uint64_t id) {
    if (s->count && s->id[s->count - 1] == id) return;
    if (s->count == s->cap) {
        s->cap = BSI_MAX(s->cap * 2, (size_t)256);
        s->id = bsi_realloc(s->id, s->cap * sizeof *s->id);
    }
    s->id[s->count++] = id;
}

static void ids_sort(ids *s) { s->count = bsi_vast_unique(s->id, s->count); }

static bool ids_has(const ids *s, uint64_t id) { return bsi_u64_has(s->id, s->count, id); }

typedef struct gc {
    bsi_store *s;
    int64_t oldest; /* generations from here on stay whole */
    ids lists, state, image, dicts;
    uint8_t *segment; /* bit by segment id: in use */
} gc;

static void mark_segment(gc *c, bsi_ref ref) {
    uint64_t id = ref >> 9;
    if (ref != BSI_REF_NONE && id <= c->s->counters.segment) c->segment[id / 8] |= (uint8_t)(1u << (id % 8));
}

static bomsync_status mark_state(gc *c, uint64_t list, bomsync_error *err) {
    bsi_list l;
    ids_add(&c->lists, list);
    bomsync_status st = bsi_list_load(&l, c->s, c->s->root.read, list, BSI_DB_STATE, err);
    for (size_t i = 0; !st && i < l.piece_count; i++) ids_add(&c->state, l.piece[i].id);
    if (!st) bsi_list_free(&l);
    return st;
}

/* Every state piece that stays is read once, however many lists share it. */
static bomsync_status mark_segments(gc *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    ids_sort(&c->state);
    for (size_t i = 0; !st && i < c->state.count; i++) {
        bsi_span p;
        MDB_val key = bsi_key_id(&c->state.id[i]);
        st = bsi_value_get(&p, &c->s->root, c->s->root.read, BSI_DB_STATE, key, err);
        if (!st && !p.p) st = bsi_bad(err, &c->s->root, BSI_DB_STATE, key, "missing");
        bsi_reader r = {p.p, p.p + p.n, !st};
        for (bsi_ref ref = 0; r.ok && r.p < r.end;) mark_segment(c, ref += (uint64_t)bsi_read_signed(&r));
        if (!st && !r.ok) st = bsi_bad(err, &c->s->root, BSI_DB_STATE, key, "cannot be read");
    }
    return st;
}

/* What a segment of patches stands on stays with it: all of it, dead patches too, so that what is there can be read. */
static bomsync_status mark_bases(gc *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    bsi_rows_view *v = bsi_calloc(1, sizeof *v);
    for (uint64_t id = 1; !st && id <= c->s->counters.segment; id++) {
        bsi_patch p = {.base = 0};
        if (!(c->segment[id / 8] >> (id % 8) & 1)) continue;
        for (uint32_t i = 0, blocks = 1; !st && i < blocks && p.base != BSI_REF_NONE; i++) {
            st = bsi_patch_get(&p, v, c->s, id << BSI_REF_BITS | i, err);
            blocks = v->segment[v->last].blocks;
            if (!st) mark_segment(c, p.base);
        }
    }
    free(v);
    return st;
}

/* Dictionaries that segments in use were coded with. */
static bomsync_status mark_dicts(gc *c, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (uint64_t id = 1; !st && id <= c->s->counters.segment; id++) {
        uint64_t dict = 0;
        if (!(c->segment[id / 8] >> (id % 8) & 1)) continue;
        st = bsi_segment_dictionary(&dict, c->s, id, err);
        if (dict) ids_add(&c->dicts, dict);
    }
    ids_sort(&c->dicts);
    return st;
}

static bomsync_status mark_image(gc *c, uint64_t list, bomsync_error *err) {
    bsi_image image;
    if (!list) return BOMSYNC_OK;
    ids_add(&c->lists, list);
    bomsync_status st = bsi_store_image(&image, c->s, list, err);
    if (st) return st;
    for (size_t i = 0; !st && i < image.piece_count; i++) {
        const bsi_image_piece *p = &image.piece[i];
        st = bsi_store_image_check(c->s, p, err);
        ids_add(&c->image, p->id);
        for (uint32_t j = 0; !st && j < p->count; j++) mark_segment(c, p->entry[j].ref);
    }
    for (size_t i = 0; i < image.orphan_count; i++) mark_segment(c, image.orphan[i]);
    bsi_image_free(&image);
    return st;
}

/* A feed's generations from the oldest kept one on, and the one that was valid there. */
static bomsync_status mark_feed(gc *c, const char *name, ids *keep, bomsync_error *err) {
    bsi_feed *f;
    bomsync_status st = bsi_store_feed(&f, c->s, name, err);
    if (st || !f) return st;
    if (f->dictionary) ids_add(&c->dicts, f->dictionary); /* BSI_DICT_FRAMES is no id */
    st = mark_image(c, f->image_list, err);
    for (int64_t at = f->generation; !st && at > 0;) {
        bsi_generation *g;
        int64_t previous = 0;
        bool outbox;
        st = bsi_generation_load(&g, &previous, &outbox, c->s, c->s->root.read, at, err);
        if (!st && g && g->state_list) st = mark_state(c, g->state_list, err);
        bsi_generation_free(g);
        ids_add(keep, (uint64_t)at);
        at = at > c->oldest && previous < at ? previous : 0;
    }
    bsi_feed_free(f);
    return st;
}

static bomsync_status mark(gc *c, ids *keep, bomsync_error *err) {
    char **names;
    size_t count;
    bomsync_status st = bsi_store_feeds(&names, &count, c->s, err);
    for (size_t i = 0; i < count; i++) {
        if (!st) st = mark_feed(c, names[i], keep, err);
        free(names[i]);
    }
    free(names);
    ids_sort(keep);
    ids_sort(&c->lists);
    ids_sort(&c->image);
    if (!st) st = mark_segments(c, err);
    if (!st) st = mark_bases(c, err);
    return st ? st : mark_dicts(c, err);
}

static bomsync_status sweep(bsi_env *e, MDB_txn *txn, bsi_db db, const ids *stay, bomsync_error *err) {
    MDB_cursor *cur;
    MDB_val k, v;
    int rc = mdb_cursor_open(txn, e->dbi[db], &cur);
    if (rc) return bsi_env_fail(err, e, rc, "read");
    for (rc = mdb_cursor_get(cur, &k, &v, MDB_FIRST); !rc; rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) {
        if (ids_has(stay, bsi_get64(k.mv_data))) continue;
        if ((rc = mdb_cursor_del(cur, 0)) != 0) break;
    }
    mdb_cursor_close(cur);
    return rc == MDB_NOTFOUND ? BOMSYNC_OK : bsi_env_fail(err, e, rc, "delete");
}

/* Records of forgotten generations stay, for log and history; their state and outbox do not. */
static bomsync_status forget_generations(gc *c, MDB_txn *txn, const ids *keep, bomsync_error *err) {
    bomsync_status st = BOMSYNC_OK;
    for (int64_t n = 1; !st && n < c->oldest; n++) {
        bsi_generation *g;
        int64_t previous;
        bool outbox;
        st = bsi_generation_load(&g, &previous, &outbox, c->s, txn, n, err);
        if (st || !g) continue;
        bool stays = ids_has(keep, (uint64_t)n);
        if ((g->state_list && !stays) || outbox) {
            if (!stays) g->state_list = 0;
            st = bsi_generation_save(c->s, txn, g, previous, false, err);
        }
        bsi_generation_free(g);
    }
    return st;
}

static bomsync_status sweep_root(gc *c, const ids *keep, bomsync_error *err) {
    MDB_txn *txn = NULL;
    bsi_env *e = &c->s->root;
    bomsync_status st = bsi_env_begin(&txn, e, err);
    if (st) return st;
    st = forget_generations(c, txn, keep, err);
    if (!st) st = sweep(e, txn, BSI_DB_LISTS, &c->lists, err);
    if (!st) st = sweep(e, txn, BSI_DB_STATE, &c->state, err);
    if (!st) st = sweep(e, txn, BSI_DB_IMAGE, &c->image, err);
    if (st) {
        mdb_txn_abort(txn);
        return st;
    }
    return bsi_env_commit(e, txn, err);
}

/* After the segments that name them: whatever is left when gc is killed can be read. */
static bomsync_status sweep_dicts(gc *c, bomsync_error *err) {
    MDB_txn *txn = NULL;
    bsi_env *e = &c->s->root;
    bomsync_status st = bsi_env_begin(&txn, e, err);
    if (st) return st;
    st = sweep(e, txn, BSI_DB_DICTS, &c->dicts, err);
    if (st) {
        mdb_txn_abort(txn);
        return st;
    }
    st = bsi_env_commit(e, txn, err);
    return st ? st : bsi_env_renew(e, err);
}

static bomsync_status sweep_segments(gc *c, bsi_env *e, MDB_txn *txn, bsi_db db, bomsync_error *err) {
    MDB_cursor *cur;
    MDB_val k, v;
    int rc = mdb_cursor_open(txn, e->dbi[db], &cur);
    if (rc) return bsi_env_fail(err, e, rc, "read");
    for (rc = mdb_cursor_get(cur, &k, &v, MDB_FIRST); !rc; rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) {
        uint64_t id = bsi_get64(k.mv_data);
        bool used = id <= c->s->counters.segment && (c->segment[id / 8] >> (id % 8) & 1);
        if (!used && (rc = mdb_cursor_del(cur, 0)) != 0) break;
    }
    mdb_cursor_close(cur);
    return rc == MDB_NOTFOUND ? BOMSYNC_OK : bsi_env_fail(err, e, rc, "delete");
}

static bomsync_status sweep_shard(gc *c, bsi_shard *sh, bomsync_error *err) {
    MDB_txn *txn = NULL;
    bomsync_status st = bsi_shard_env(sh, err);
    if (!st) st = bsi_env_begin(&txn, &sh->env, err);
    if (st) return st;
    st = sweep_segments(c, &sh->env, txn, BSI_DB_DATA, err);
    if (!st) st = sweep_segments(c, &sh->env, txn, BSI_DB_ROWS, err);
    if (st) {
        mdb_txn_abort(txn);
        return st;
    }
    st = bsi_env_commit(&sh->env, txn, err);
    return st ? st : bsi_env_renew(&sh->env, err);
}

static bomsync_status sweep_outbox(gc *c, bomsync_error *err) {
    char *dir = bsi_store_path(c->s, "outbox");
    DIR *d = opendir(dir);
    bomsync_status st = d ? BOMSYNC_OK : bsi_fail_errno(err, errno, NULL, "could not look into \"%s\"", dir);
    for (struct dirent *e; !st && (e = readdir(d));) {
        char *end;
        long long n = strtoll(e->d_name, &end, 10);
        if (*end || end == e->d_name || n <= 0 || n >= c->oldest) continue;
        char *path = bsi_format("%s/%s", dir, e->d_name);
        st = bsi_remove_tree(path, err);
        free(path);
    }
    if (d) closedir(d);
    free(dir);
    return st;
}

/* ---- files that are a third empty ---- */

enum { SHRINK_BYTES = 128 << 10 }; /* shorter ones stay as they are */

static bool much_is_free(const bsi_env *e) {
    MDB_envinfo info;
    MDB_stat t;
    if (mdb_env_info(e->env, &info) || mdb_env_stat(e->env, &t)) return false;
    uint64_t bytes = ((uint64_t)info.me_last_pgno + 1) * t.ms_psize;
    return bytes >= SHRINK_BYTES && free_bytes(e) * 3 >= bytes;
}

/* LMDB's file is as long as it ever was. Nobody else has it open: a copy of what is in use takes its place, at once. Where there is no room for that
 * it stays as it is. */
static bomsync_status shrink(bsi_store *s, bsi_env *e, bomsync_error *err) {
    if (!much_is_free(e)) return BOMSYNC_OK;
    char *tmp = bsi_store_path(s, "tmp"), *folder = bsi_strdup(e->path), *label = bsi_strdup(e->label), *path = bsi_format("%s/data.mdb", folder);
    char *copies = bsi_format("%s/%s", tmp, label), *copy = bsi_format("%s/data.mdb", copies);
    bool shard = e->shard;
    bomsync_status st = BOMSYNC_OK;
    if (!copy_env(e, tmp, label, NULL) && !bsi_fsync_path(copy, NULL)) {
        bsi_env_close(e);
        if (rename(copy, path) != 0) st = bsi_fail_errno(err, errno, path, "could not rename \"%s\"", copy);
        if (!st) st = bsi_fsync_path(folder, err);
        bomsync_status opened = bsi_env_open(e, s->dir, label, shard, true, false, st ? NULL : err);
        if (!st) st = opened;
    }
    bsi_remove_tree(copies, NULL);
    char *const all[] = {tmp, folder, label, path, copies, copy};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return st;
}

static bomsync_status compact_all(bsi_store *s, int64_t oldest, bomsync_error *err) {
    char **names;
    size_t count;
    bomsync_status st = bsi_store_feeds(&names, &count, s, err);
    for (size_t i = 0; i < count; i++) {
        if (!st) st = bsi_store_compact(s, names[i], oldest, err);
        free(names[i]);
    }
    free(names);
    return st;
}

bomsync_status bsi_store_gc(bsi_store *s, int64_t keep, bomsync_error *err) {
    if (s->mode != BSI_STORE_GC) return bsi_fail(err, BOMSYNC_E_USAGE, "the store is not open for gc");
    if (keep < 1) return bsi_fail(err, BOMSYNC_E_USAGE, "gc must keep at least 1 generation, not %lld", (long long)keep);
    int64_t newest = (int64_t)s->counters.generation;
    gc c = {.s = s, .oldest = BSI_MAX(newest - BSI_MIN(keep, newest) + 1, (int64_t)1)};
    ids generations = {0};
    bomsync_status st = bsi_shards_flush(s, err);
    if (!st) st = compact_all(s, c.oldest, err);
    c.segment = bsi_calloc((size_t)(s->counters.segment / 8 + 1), 1);
    if (!st) st = mark(&c, &generations, err);
    if (!st) st = sweep_root(&c, &generations, err);
    if (!st) st = bsi_env_renew(&s->root, err);
    for (int i = 0; !st && i < s->shard_count; i++) st = sweep_shard(&c, &s->shard[i], err);
    if (!st) st = sweep_dicts(&c, err);
    if (!st) st = shrink(s, &s->root, err);
    for (int i = 0; !st && i < s->shard_count; i++) st = shrink(s, &s->shard[i].env, err);
    atomic_store(&s->view, bsi_store_new_view());
    if (!st) st = sweep_outbox(&c, err);
    ids *const all[] = {&c.lists, &c.state, &c.image, &c.dicts, &generations};
    for (size_t i = 0; i < 5; i++) free(all[i]->id);
    free(c.segment);
    return st;
}
