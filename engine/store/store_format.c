/* store/store_format.c - a store of an older format is brought forward in a copy, which then takes its place.
 *
 *   S (1)  --copy-->  S.tmp-xxxxxx/store  --step 1 to 2, step 2 to 3-->  (3)  --swap, one rename-->  S (3)
 *                                                                                                    S.v1, as it was
 *
 * Reading an older store is refused with a word on what to do; the first command that writes brings it forward. A step
 * works on a copy that nobody else sees, so it may be killed anywhere and needs no care for readers. What it may count
 * on in every format: root/ is an LMDB environment, its database "meta" has a value "format", and the number stands at
 * byte 16 of that value as u32. A step leaves the number of the next format there, and writes those values anew whose
 * layout changed; the others keep the number of the format that wrote them.
 *
 * To add a format: raise BSI_STORE_FORMAT, write a step, add its row to the table below, change FORMAT.md, and keep a
 * sample of the format before (tests/data/make_store_sample, before anything is changed).
 *
 * Tried and dropped: changing a store in place, commit by commit (every reader would have to know both forms, for ever);
 * restore as the way forward (it draws a new store id, and targets that remember ids would take old changes for new).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store_inner.h"

static bomsync_status set_format(const char *dir, uint32_t format, bomsync_error *err) {
    bsi_store s = {0};
    MDB_txn *txn = NULL;
    bomsync_status st = bsi_env_open(&s.root, dir, "root", false, true, false, err);
    if (st) return st;
    st = bsi_env_begin(&txn, &s.root, err);
    if (!st && (st = bsi_store_meta_put(&s, txn, "format", &format, sizeof format, err)) != BOMSYNC_OK) mdb_txn_abort(txn);
    else if (!st) st = bsi_env_commit(&s.root, txn, err);
    bsi_env_close(&s.root);
    return st;
}

/* Format 2 has more kinds of segments, dictionaries, and one number more at the end of a feed, which may be missing. */
static bomsync_status step_1(const char *dir, bomsync_error *err) { return set_format(dir, 2, err); }

/* One row for each older format that this program brings forward. */
static const bsi_format_step steps[] = {{1, step_1}, {0, NULL}};
const bsi_format_step *bsi_format_steps = steps; /* ends with run NULL; tests put a table of their own here */

static const bsi_format_step *step_from(uint32_t format) {
    for (const bsi_format_step *s = bsi_format_steps; s->run; s++)
        if (s->from == format) return s;
    return NULL;
}

bool bsi_format_is_older(uint32_t *format, const char *dir) {
    bomsync_error ignored = BOMSYNC_ERROR_INIT;
    return !bsi_env_peek_format(format, dir, &ignored) && *format < BSI_STORE_FORMAT && step_from(*format);
}

static bomsync_status run_steps(const char *dir, uint32_t format, bomsync_error *err) {
    for (; format < BSI_STORE_FORMAT; format++) {
        const bsi_format_step *step = step_from(format);
        if (!step) return bsi_fail(err, BOMSYNC_E_INTEGRITY, "there is no way from store format %u to %u", format, format + 1);
        uint32_t got = format;
        bomsync_status st = step->run(dir, err);
        if (!st) st = bsi_env_peek_format(&got, dir, err);
        if (st) return st;
        if (got != format + 1) return bsi_fail(err, BOMSYNC_E_INTEGRITY, "the step from store format %u left format %u", format, got);
    }
    return BOMSYNC_OK;
}

/* One rename: at any moment dir is the old store or the new one, whole. */
static bomsync_status swap(const char *made, const char *dir, bomsync_error *err) {
    if (renameat2(AT_FDCWD, made, AT_FDCWD, dir, RENAME_EXCHANGE) == 0) return BOMSYNC_OK;
    bomsync_status st = bsi_fail_errno(err, errno, dir, "could not put the new store in the place of \"%s\"", dir);
    bsi_hint(err, "its file system may not swap folders: move the store to one that does (ext4, xfs, btrfs)");
    return st;
}

bomsync_status bsi_format_forward(const char *dir, uint32_t format, bomsync_error *err) {
    char *kept = bsi_format("%s.v%u", dir, format), *tmp = NULL, *made = NULL;
    struct stat info;
    bool swapped = false;
    bomsync_status st = BOMSYNC_OK;
    if (lstat(kept, &info) == 0) {
        st = bsi_fail(err, BOMSYNC_E_USAGE, "the old store would be kept as \"%s\", which exists already", kept);
        bsi_hint(err, "move it away");
    }
    if (!st && !(tmp = bsi_store_beside(dir, err))) st = err && err->status ? err->status : BOMSYNC_E_USAGE;
    if (!st) made = bsi_format("%s/store", tmp);
    if (!st) st = bsi_store_copy_tree(dir, made, err);
    if (!st) st = run_steps(made, format, err);
    if (!st) swapped = (st = swap(made, dir, err)) == BOMSYNC_OK;
    if (swapped) st = bsi_store_settle(made, kept, err); /* made is the old store now: it is never removed */
    if (tmp && swapped) rmdir(tmp);
    else if (tmp) bsi_remove_tree(tmp, NULL);
    free(made);
    free(tmp);
    free(kept);
    return st;
}
