/* store/store_env.c - LMDB environments and the values in them.
 *
 * The problem: LMDB trusts its file. A byte that flipped comes back as a wrong value, a file that was cut short is a
 * SIGBUS, and a file that is not LMDB's may be written over. So the file is looked at with pread before LMDB sees it,
 * and every value has a header of its own:
 *
 *   byte 0  'B'   1  kind (which database)   2  format   3  0   4  payload bytes (u32)   8  checksum (u64)   16  payload, zeros to 8
 *
 * The checksum takes in the kind, the length and the key: a value that is whole but stands under another key is found.
 * All values are multiples of 8 bytes. Nodes of a leaf page are laid from its end downwards; with 8-byte keys they are
 * then all 8-aligned, as are values on pages of their own, and arrays of u64 can be used where they lie.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store_inner.h"

const bsi_db_spec bsi_db_specs[BSI_DB_COUNT] = {
    [BSI_DB_META] = {"meta", false},       [BSI_DB_FEEDS] = {"feeds", false},
    [BSI_DB_GENERATIONS] = {"generations", true}, [BSI_DB_STATE] = {"state", true},
    [BSI_DB_IMAGE] = {"image", true},      [BSI_DB_LISTS] = {"lists", true},
    [BSI_DB_KEPT] = {"kept", false},       [BSI_DB_HOLDS] = {"holds", false},
    [BSI_DB_JOURNAL] = {"journal", true},  [BSI_DB_DICTS] = {"dicts", true},
    [BSI_DB_CONTRACTS] = {"contracts", false}, [BSI_DB_LAYOUTS] = {"layouts", false},
    [BSI_DB_LOOKUP] = {"lookup", false},   [BSI_DB_REFS] = {"refs", false},
    [BSI_DB_MULTI] = {"multi", false},     [BSI_DB_DATA] = {"data", true},
    [BSI_DB_ROWS] = {"rows", true},
};

/* ---- errors ---- */

bomsync_status (bsi_env_fail)(bomsync_error *err, const bsi_env *e, int rc, const char *what) {
    switch (rc) {
    case MDB_MAP_FULL:
        bsi_fail(err, BOMSYNC_E_SPACE, "could not %s of the store: its address space is used up", what);
        bsi_hint(err, "raise the limit on address space (ulimit -v) and run again; nothing was changed");
        return BOMSYNC_E_SPACE;
    case MDB_READERS_FULL:
        return bsi_fail(err, BOMSYNC_E_BUSY, "could not %s of the store: too many readers", what);
    default:
        break;
    }
    if (rc > 0) return bsi_fail_errno(err, rc, e->path, "could not %s, \"%s\" of the store", what, e->label);
    bsi_fail(err, BOMSYNC_E_INTEGRITY, "could not %s, \"%s\" of the store: %s", what, e->label, mdb_strerror(rc));
    bsi_hint(err, "run bomsync verify; restore from a backup if it finds faults");
    return BOMSYNC_E_INTEGRITY;
}

char *bsi_key_name(bsi_db db, MDB_val key) {
    uint64_t id;
    if (bsi_db_specs[db].integer && key.mv_size == sizeof id) {
        memcpy(&id, key.mv_data, sizeof id);
        return bsi_format("%s %llu", bsi_db_specs[db].name, (unsigned long long)id);
    }
    return bsi_format("%s \"%.*s\"", bsi_db_specs[db].name, (int)BSI_MIN(key.mv_size, (size_t)100), (const char *)key.mv_data);
}

bomsync_status (bsi_bad)(bomsync_error *err, const bsi_env *e, bsi_db db, MDB_val key, const char *what) {
    char *name = bsi_key_name(db, key);
    bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store is damaged: %s in \"%s\": %s", name, e->label, what);
    bsi_hint(err, "nothing was changed; run bomsync verify, restore from a backup");
    free(name);
    return BOMSYNC_E_INTEGRITY;
}

/* ---- opening ---- */

/* Where the fields of LMDB's two first pages lie (0.9, 64 bit): page header 16, then magic, version, address, map size,
 * two database records of 48 bytes (the first is the free list's, it begins with the page size and ends with its root),
 * last page, transaction. */
enum {
    META_AT = 16,
    META_PSIZE = META_AT + 24,
    META_FREE_ROOT = META_AT + 64,
    META_LAST = META_AT + 120,
    META_TXN = META_AT + 128,
    META_END = META_AT + 136
};
#define LMDB_MAGIC 0xBEEFC0DEu

typedef struct raw_file {
    int fd;
    uint32_t psize;
    uint64_t pages;     /* that the file has */
    uint64_t last, free_root; /* as its newest state says */
    uint64_t visited;
} raw_file;

static bool read_metas(raw_file *f) {
    uint8_t head[META_END];
    uint64_t newest = 0;
    f->psize = 4096;
    for (unsigned i = 0; i < 2; i++) {
        if (pread(f->fd, head, sizeof head, (off_t)i * f->psize) != (ssize_t)sizeof head) return false;
        uint32_t size = bsi_get32(head + META_PSIZE);
        if (bsi_get32(head + META_AT) != LMDB_MAGIC || bsi_get32(head + META_AT + 4) != 1) return false;
        if (size < 512 || size > 65536 || (size & (size - 1)) || (i && size != f->psize)) return false;
        f->psize = size;
        if (bsi_get64(head + META_TXN) < newest) continue;
        newest = bsi_get64(head + META_TXN);
        f->last = bsi_get64(head + META_LAST);
        f->free_root = bsi_get64(head + META_FREE_ROOT);
    }
    return f->last < 1ull << 50;
}

/* A page that a transaction took and gave back is counted but never written, so a sound file may end early: then each
 * of those pages is on the free list. It is read by hand here, since LMDB would run off the end of a file that was cut.
 *
 *   page:  number u64, 2 bytes, flags u16 (1 branch, 2 leaf), lower u16, upper u16, then u16 offsets of nodes
 *   node:  low u16, high u16, flags u16 (1: data on pages of its own), key bytes u16, key, data
 *   data:  count u64, page numbers u64 ...
 */
static uint16_t get16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static uint64_t free_numbers(const raw_file *f, const uint8_t *p, size_t n) {
    uint64_t count = n >= 8 ? bsi_get64(p) : 0, found = 0;
    for (uint64_t i = 1; i <= count && i < n / 8; i++) found += bsi_get64(p + i * 8) >= f->pages;
    return found;
}

static uint64_t free_big(const raw_file *f, uint64_t page, size_t n) {
    if (page >= f->pages || n > (f->pages - page) * f->psize) return 0;
    uint8_t *p = bsi_alloc(n);
    uint64_t found = pread(f->fd, p, n, (off_t)(page * f->psize + META_AT)) == (ssize_t)n ? free_numbers(f, p, n) : 0;
    free(p);
    return found;
}

static uint64_t free_beyond(raw_file *f, uint64_t page, int depth) {
    uint64_t found = 0;
    if (page >= f->pages || depth > 16 || f->visited++ > f->pages) return 0;
    uint8_t *p = bsi_alloc(f->psize);
    bool got = pread(f->fd, p, f->psize, (off_t)(page * f->psize)) == (ssize_t)f->psize;
    unsigned flags = got ? get16(p + 10) : 0, nodes = got && get16(p + 12) >= 16 ? (get16(p + 12) - 16u) / 2 : 0;
    for (unsigned i = 0; i < nodes && 16 + i * 2 + 2 <= f->psize; i++) {
        size_t at = get16(p + 16 + i * 2), key;
        if (at + 8 > f->psize || at + 8 + (key = get16(p + at + 6)) + 8 > f->psize) continue;
        const uint8_t *data = p + at + 8 + key;
        size_t bytes = bsi_get32(p + at);
        if (flags & 1) found += free_beyond(f, bytes | (uint64_t)get16(p + at + 4) << 32, depth + 1);
        else if (get16(p + at + 4) & 1) found += free_big(f, bsi_get64(data), bytes);
        else if (bytes <= (size_t)(p + f->psize - data)) found += free_numbers(f, data, bytes);
    }
    free(p);
    return found;
}

/* Is this a whole LMDB file? Looked at before LMDB sees it. */
static bomsync_status look_at_file(uint64_t *bytes, const bsi_env *e, bomsync_error *err) {
    char *file = bsi_format("%s/data.mdb", e->path);
    raw_file f = {.fd = open(file, O_RDONLY | O_CLOEXEC)};
    bomsync_status st = BOMSYNC_OK;
    struct stat info;
    if (f.fd < 0 && errno == ENOENT) {
        st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store is damaged: \"%s\" is missing", file);
    } else if (f.fd < 0 || fstat(f.fd, &info) != 0) {
        st = bsi_fail_errno(err, errno, NULL, "could not open \"%s\"", file);
    } else if (!read_metas(&f)) {
        st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "\"%s\" is not a bomsync store's, or its head is damaged", file);
    } else {
        f.pages = (uint64_t)info.st_size / f.psize;
        *bytes = (uint64_t)info.st_size;
        if (f.last >= f.pages && free_beyond(&f, f.free_root, 0) < f.last + 1 - f.pages) {
            st = bsi_fail(err, BOMSYNC_E_INTEGRITY, "the store is damaged: \"%s\" is cut short", file);
            bsi_hint(err, "nothing was changed; restore from a backup");
        }
    }
    if (f.fd >= 0) close(f.fd);
    free(file);
    return st;
}

static bomsync_status open_handles(bsi_env *e, bool make, bomsync_error *err) {
    MDB_txn *txn = NULL;
    int rc = mdb_txn_begin(e->env, NULL, make ? 0 : MDB_RDONLY, &txn);
    if (rc) return bsi_env_fail(err, e, rc, "begin reading");
    for (int db = e->shard ? BSI_DB_DATA : 0; !rc && db < (e->shard ? BSI_DB_COUNT : BSI_DB_ROOT_COUNT); db++)
        rc = mdb_dbi_open(txn, bsi_db_specs[db].name,
                          (make ? MDB_CREATE : 0) | (bsi_db_specs[db].integer ? (unsigned)MDB_INTEGERKEY : 0), &e->dbi[db]);
    if (rc) {
        mdb_txn_abort(txn);
        if (rc == MDB_NOTFOUND || rc == MDB_INCOMPATIBLE)
            return bsi_fail(err, BOMSYNC_E_INTEGRITY, "\"%s\" is not a bomsync store's", e->path);
        return bsi_env_fail(err, e, rc, "open the databases");
    }
    rc = mdb_txn_commit(txn);
    return rc ? bsi_env_fail(err, e, rc, "open the databases") : BOMSYNC_OK;
}

/* Readers use the slots of lock.mdb, which is mapped: no call writes. Where it cannot be written (a read-only mount),
 * nobody can write the data either and no slot is needed. */
static unsigned reader_flags(const char *path) {
    char *lock = bsi_format("%s/lock.mdb", path);
    struct stat st;
    bool slots = access(lock, R_OK | W_OK) == 0 && stat(lock, &st) == 0 && st.st_size >= BSI_STORE_LOCK_BYTES;
    free(lock);
    return slots ? MDB_RDONLY : MDB_RDONLY | MDB_NOLOCK;
}

static int open_mapped(bsi_env *e, unsigned flags, size_t least) {
    int rc = ENOMEM;
    for (size_t map = BSI_MAX((size_t)BSI_MAP_BYTES, least * 4); rc == ENOMEM && map >= BSI_MAX(least, (size_t)64 << 20); map /= 4) {
        rc = mdb_env_create(&e->env);
        if (rc) return rc;
        rc = mdb_env_set_mapsize(e->env, map);
        if (!rc) rc = mdb_env_set_maxdbs(e->env, BSI_DB_COUNT);
        if (!rc) rc = mdb_env_open(e->env, e->path, flags, 0600);
        if (rc) {
            mdb_env_close(e->env);
            e->env = NULL;
        }
    }
    return rc;
}

static bomsync_status start_reading(bsi_env *e, bomsync_error *err) {
    int rc = mdb_txn_begin(e->env, NULL, MDB_RDONLY, &e->read);
    return rc ? bsi_env_fail(err, e, rc, "begin reading") : BOMSYNC_OK;
}

bomsync_status bsi_env_open(bsi_env *e, const char *dir, const char *label, bool shard, bool write, bool make,
                            bomsync_error *err) {
    *e = (bsi_env){.path = bsi_format("%s/%s", dir, label), .label = bsi_strdup(label), .shard = shard, .write = write};
    uint64_t bytes = 0;
    bomsync_status st = make ? BOMSYNC_OK : look_at_file(&bytes, e, err);
    if (!st) {
        int rc = open_mapped(e, MDB_NOTLS | (write ? 0 : reader_flags(e->path)), (size_t)bytes);
        if (rc) st = bsi_env_fail(err, e, rc, "open");
    }
    if (!st && write) {
        int dead = 0;
        mdb_reader_check(e->env, &dead);
    }
    if (!st) st = open_handles(e, make, err);
    if (!st) st = start_reading(e, err);
    if (st) bsi_env_close(e);
    return st;
}

/* Else the next writer must keep the pages that a dead reader may look at. */
void bsi_env_leave(bsi_env *e) {
    if (e->read) mdb_txn_abort(e->read);
    e->read = NULL;
}

void bsi_env_close(bsi_env *e) {
    if (e->read) mdb_txn_abort(e->read);
    if (e->env) mdb_env_close(e->env);
    free(e->path);
    free(e->label);
    *e = (bsi_env){0};
}

/* Opens no database but "meta", and trusts no header: another format may have others. */
static int peek(uint32_t *format, MDB_env *env) {
    MDB_txn *txn = NULL;
    MDB_dbi meta;
    MDB_val key = bsi_key_text("format"), v;
    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc) return rc;
    rc = mdb_dbi_open(txn, "meta", 0, &meta);
    if (!rc) rc = mdb_get(txn, meta, &key, &v);
    if (!rc && v.mv_size < BSI_VALUE_HEAD + 4) rc = MDB_NOTFOUND;
    if (!rc) *format = bsi_get32((const uint8_t *)v.mv_data + BSI_VALUE_HEAD);
    mdb_txn_abort(txn);
    return rc;
}

bomsync_status bsi_env_peek_format(uint32_t *format, const char *dir, bomsync_error *err) {
    uint64_t bytes = 0;
    bsi_env e = {.path = bsi_format("%s/root", dir), .label = bsi_strdup("root")};
    bomsync_status st = look_at_file(&bytes, &e, err);
    if (!st) {
        int rc = open_mapped(&e, MDB_NOTLS | reader_flags(e.path), (size_t)bytes);
        if (!rc) rc = peek(format, e.env);
        if (rc) st = bsi_env_fail(err, &e, rc, "read the format");
    }
    bsi_env_close(&e);
    return st;
}

bomsync_status bsi_env_renew(bsi_env *e, bomsync_error *err) {
    if (!e->env) return BOMSYNC_OK;
    if (!e->read) return start_reading(e, err);
    mdb_txn_reset(e->read);
    int rc = mdb_txn_renew(e->read);
    return rc ? bsi_env_fail(err, e, rc, "begin reading") : BOMSYNC_OK;
}

bomsync_status bsi_env_begin(MDB_txn **txn, bsi_env *e, bomsync_error *err) {
    int rc = mdb_txn_begin(e->env, NULL, 0, txn);
    return rc ? bsi_env_fail(err, e, rc, "begin writing") : BOMSYNC_OK;
}

/* The file is made as long as its last page says. If that cannot be done now, the free list tells the next opening. */
static void fill_tail(bsi_env *e) {
    MDB_envinfo info;
    MDB_stat stat_;
    struct stat st;
    int fd = -1;
    if (mdb_env_info(e->env, &info) || mdb_env_stat(e->env, &stat_) || mdb_env_get_fd(e->env, &fd) || fstat(fd, &st)) return;
    off_t want = (off_t)((info.me_last_pgno + 1) * stat_.ms_psize);
    if (st.st_size < want && ftruncate(fd, want) != 0) return;
}

bomsync_status bsi_env_commit(bsi_env *e, MDB_txn *txn, bomsync_error *err) {
    int rc = mdb_txn_commit(txn);
    if (rc) return bsi_env_fail(err, e, rc, "commit");
    fill_tail(e);
    return BOMSYNC_OK;
}

uint64_t bsi_env_free_pages(const bsi_env *e, uint64_t from) {
    MDB_cursor *c;
    uint64_t n = 0;
    if (mdb_cursor_open(e->read, 0, &c)) return 0;
    MDB_val k, v;
    for (int rc = mdb_cursor_get(c, &k, &v, MDB_FIRST); !rc; rc = mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        uint64_t count = v.mv_size >= 8 ? bsi_get64(v.mv_data) : 0;
        count = BSI_MIN(count, v.mv_size / 8 - (v.mv_size >= 8));
        for (uint64_t i = 1; i <= count; i++) n += bsi_get64((const uint8_t *)v.mv_data + i * 8) >= from;
    }
    mdb_cursor_close(c);
    return n;
}

bool bsi_env_last(const bsi_env *e, MDB_txn *txn, bsi_db db, uint64_t *id) {
    MDB_cursor *c;
    if (mdb_cursor_open(txn, e->dbi[db], &c)) return false;
    MDB_val k, v;
    bool found = mdb_cursor_get(c, &k, &v, MDB_LAST) == 0 && k.mv_size == 8;
    if (found) *id = bsi_get64(k.mv_data);
    mdb_cursor_close(c);
    return found;
}

/* ---- values ---- */

uint64_t bsi_value_salt(bsi_db db, size_t bytes, MDB_val key) {
    uint8_t text[5 + 511];
    uint32_t n = (uint32_t)bytes;
    size_t key_bytes = BSI_MIN(key.mv_size, (size_t)511);
    text[0] = (uint8_t)db;
    memcpy(text + 1, &n, 4);
    memcpy(text + 5, key.mv_data, key_bytes);
    return bsi_xxh64(text, 5 + key_bytes);
}

void bsi_value_start(bsi_buf *b) {
    static const uint8_t zeros[BSI_VALUE_HEAD];
    b->len = 0;
    bsi_buf_add(b, zeros, sizeof zeros);
}

bomsync_status bsi_value_seal(bsi_buf *b, bsi_db db, MDB_val key, size_t checked, bomsync_error *err) {
    static const uint8_t zeros[8];
    size_t bytes = b->len - BSI_VALUE_HEAD;
    if (bytes > BSI_STORE_RECORD_BYTES_MAX)
        return bsi_fail(err, BOMSYNC_E_SPACE, "a value of %zu bytes is too large for database \"%s\"", bytes, bsi_db_specs[db].name);
    bsi_buf_add(b, zeros, bsi_pad8(b->len) - b->len);
    uint32_t n = (uint32_t)bytes;
    uint64_t check = bsi_xxh64(b->data + BSI_VALUE_HEAD, checked) ^ bsi_value_salt(db, bytes, key);
    b->data[0] = 'B';
    b->data[1] = (uint8_t)db;
    b->data[2] = BSI_STORE_FORMAT;
    b->data[3] = 0;
    memcpy(b->data + 4, &n, 4);
    memcpy(b->data + 8, &check, 8);
    return BOMSYNC_OK;
}

bomsync_status bsi_value_check(bsi_span *payload, const bsi_env *e, bsi_db db, MDB_val key, MDB_val value, bomsync_error *err) {
    const uint8_t *p = value.mv_data;
    /* byte 2 is the format that wrote it: a layout that did not change since is good as it is */
    if (value.mv_size < BSI_VALUE_HEAD || p[0] != 'B' || p[1] != (uint8_t)db || !p[2] || p[2] > BSI_STORE_FORMAT || p[3] != 0)
        return bsi_bad(err, e, db, key, "not a value of this database");
    size_t bytes = bsi_get32(p + 4), checked = bytes;
    if (value.mv_size != BSI_VALUE_HEAD + bsi_pad8(bytes)) return bsi_bad(err, e, db, key, "wrong length");
    if (db == BSI_DB_DATA || db == BSI_DB_ROWS) {
        checked = bytes >= 8 ? bsi_get32(p + BSI_VALUE_HEAD) : SIZE_MAX;
        if (checked > bytes) return bsi_bad(err, e, db, key, "wrong directory");
    }
    if ((bsi_xxh64(p + BSI_VALUE_HEAD, checked) ^ bsi_value_salt(db, bytes, key)) != bsi_get64(p + 8))
        return bsi_bad(err, e, db, key, "wrong checksum");
    *payload = (bsi_span){p + BSI_VALUE_HEAD, bytes};
    return BOMSYNC_OK;
}

bomsync_status bsi_value_get(bsi_span *payload, const bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bomsync_error *err) {
    MDB_val value;
    *payload = (bsi_span){0};
    if (key.mv_size == 0 || key.mv_size > 511) return BOMSYNC_OK;
    int rc = mdb_get(txn, e->dbi[db], &key, &value);
    if (rc == MDB_NOTFOUND) return BOMSYNC_OK;
    if (rc) return bsi_env_fail(err, e, rc, "read");
    return bsi_value_check(payload, e, db, key, value, err);
}

bomsync_status bsi_value_put(bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bsi_buf *sealed, unsigned flags,
                             bomsync_error *err) {
    if (key.mv_size == 0 || key.mv_size > 511)
        return bsi_fail(err, BOMSYNC_E_USAGE, "a name must have 1 to 511 bytes, this one has %zu", key.mv_size);
    MDB_val value = {sealed->len, sealed->data};
    int rc = mdb_put(txn, e->dbi[db], &key, &value, flags);
    return rc ? bsi_env_fail(err, e, rc, "write") : BOMSYNC_OK;
}

bomsync_status bsi_value_save(bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bsi_buf *b, unsigned flags,
                              bomsync_error *err) {
    bomsync_status st = bsi_value_seal(b, db, key, b->len - BSI_VALUE_HEAD, err);
    return st ? st : bsi_value_put(e, txn, db, key, b, flags, err);
}

bomsync_status bsi_value_drop(bsi_env *e, MDB_txn *txn, bsi_db db, MDB_val key, bomsync_error *err) {
    int rc = mdb_del(txn, e->dbi[db], &key, NULL);
    return rc && rc != MDB_NOTFOUND ? bsi_env_fail(err, e, rc, "delete") : BOMSYNC_OK;
}

bomsync_status bsi_env_cut(bsi_env *e, MDB_txn *txn, bsi_db db, uint64_t id, bool *any, bomsync_error *err) {
    uint64_t last;
    while (bsi_env_last(e, txn, db, &last) && last > id) {
        bomsync_status st = bsi_value_drop(e, txn, db, bsi_key_id(&last), err);
        if (st) return st;
        *any = true;
    }
    return BOMSYNC_OK;
}

/* ---- packed records ---- */

uint64_t bsi_read_varint(bsi_reader *r) {
    uint64_t v = 0;
    const uint8_t *p = r->ok ? bsi_varint_get(r->p, r->end, &v) : NULL;
    if (!p) {
        r->ok = false;
        return 0;
    }
    r->p = p;
    return v;
}

int64_t bsi_read_signed(bsi_reader *r) {
    uint64_t v = bsi_read_varint(r);
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

void bsi_put_signed(bsi_buf *b, int64_t v) { bsi_buf_varint(b, ((uint64_t)v << 1) ^ (uint64_t)(v >> 63)); }

void bsi_read_bytes(bsi_reader *r, void *out, size_t n) {
    if (!r->ok || (size_t)(r->end - r->p) < n) {
        r->ok = false;
        memset(out, 0, n);
        return;
    }
    memcpy(out, r->p, n);
    r->p += n;
}

/* NULL is 0, a text of n bytes n + 1. */
void bsi_put_text(bsi_buf *b, const char *s) {
    bsi_buf_varint(b, s ? strlen(s) + 1 : 0);
    if (s) bsi_buf_str(b, s);
}

char *bsi_read_text(bsi_reader *r) {
    uint64_t n = bsi_read_varint(r);
    if (!r->ok || !n) return NULL;
    if ((uint64_t)(r->end - r->p) < n - 1) {
        r->ok = false;
        return NULL;
    }
    char *s = bsi_strndup((const char *)r->p, (size_t)n - 1);
    r->p += n - 1;
    return s;
}

size_t bsi_read_count(bsi_reader *r, size_t least) {
    uint64_t n = bsi_read_varint(r);
    if (n > (uint64_t)(r->end - r->p) / least) r->ok = false;
    return r->ok ? (size_t)n : 0;
}

#define SQUEEZE_FROM 512

void bsi_put_squeezed(bsi_buf *b, const bsi_buf *raw) {
    size_t bound = raw->len >= SQUEEZE_FROM ? ZSTD_compressBound(raw->len) : 0;
    if (bound) {
        size_t at = b->len;
        bsi_buf_byte(b, 1);
        bsi_buf_varint(b, raw->len);
        bsi_buf_reserve(b, bound);
        size_t n = ZSTD_compress(b->data + b->len, bound, raw->data, raw->len, 3);
        if (!ZSTD_isError(n) && n < raw->len) {
            b->len += n;
            return;
        }
        b->len = at;
    }
    bsi_buf_byte(b, 0);
    bsi_buf_add(b, raw->data, raw->len);
}

bool bsi_squeezed_bytes(size_t *bytes, bsi_span payload) {
    uint64_t n = payload.n - 1;
    if (!payload.n || payload.p[0] > 1) return false;
    bool fits = payload.p[0] == 0 || bsi_varint_get(payload.p + 1, payload.p + payload.n, &n);
    *bytes = (size_t)n;
    return fits && n <= BSI_STORE_RECORD_BYTES_MAX;
}

bool bsi_unsqueeze(uint8_t *to, size_t bytes, bsi_span payload) {
    uint64_t n = 0;
    if (payload.p[0] == 0) {
        memcpy(to, payload.p + 1, bytes);
        return true;
    }
    const uint8_t *p = bsi_varint_get(payload.p + 1, payload.p + payload.n, &n);
    size_t got = ZSTD_decompress(to, bytes, p, (size_t)(payload.p + payload.n - p));
    return !ZSTD_isError(got) && got == bytes;
}

bool bsi_read_squeezed(bsi_buf *raw, bsi_span payload) {
    size_t n;
    raw->len = 0;
    if (!bsi_squeezed_bytes(&n, payload)) return false;
    bsi_buf_reserve(raw, n);
    if (!bsi_unsqueeze(raw->data, n, payload)) return false;
    raw->len = n;
    return true;
}
