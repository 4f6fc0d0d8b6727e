/* Stores of other formats: a step of the test's own from the format before today's stands for those that there are and will be. */
#include "store_fixture.h"

#include <fcntl.h>
#include <sys/file.h>

enum { OLD = BSI_STORE_FORMAT - 1 };

TestSuite(store_format, .init = fx_init, .fini = fx_fini, .timeout = 60);

static void set_format(const char *dir, uint32_t format) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    bsi_store s = {0};
    MDB_txn *txn;
    FX_OK(bsi_env_open(&s.root, dir, "root", false, true, false, &err), err);
    FX_OK(bsi_env_begin(&txn, &s.root, &err), err);
    FX_OK(bsi_store_meta_put(&s, txn, "format", &format, sizeof format, &err), err);
    FX_OK(bsi_env_commit(&s.root, txn, &err), err);
    bsi_env_close(&s.root);
}

static int calls;
static char worked_in[200];

static bomsync_status own_step(const char *dir, bomsync_error *err) {
    (void)err;
    calls++;
    snprintf(worked_in, sizeof worked_in, "%s", dir);
    set_format(dir, BSI_STORE_FORMAT);
    return BOMSYNC_OK;
}

static bomsync_status step_fails(const char *dir, bomsync_error *err) {
    (void)dir;
    return bsi_fail(err, BOMSYNC_E_SPACE, "no room");
}

static bomsync_status step_forgets(const char *dir, bomsync_error *err) {
    (void)dir, (void)err;
    return BOMSYNC_OK;
}

static const bsi_format_step good[] = {{OLD, own_step}, {0, NULL}}, failing[] = {{OLD, step_fails}, {0, NULL}},
                             forgetful[] = {{OLD, step_forgets}, {0, NULL}};

static uint32_t format_of(const char *dir) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    uint32_t format = 99;
    FX_OK(bsi_env_peek_format(&format, dir, &err), err);
    return format;
}

static bool there(const char *suffix) {
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s%s", fx.dir, suffix);
    return stat(path, &st) == 0;
}

static bomsync_status open_as(bsi_store_mode mode, bomsync_error *err) {
    bsi_store *s = NULL;
    bomsync_status st = bsi_store_open(&s, fx.dir, mode, 0, err);
    if (!st) bsi_store_close(s);
    else cr_assert(eq(ptr, s, NULL));
    return st;
}

/* Entries of the folder that the store stands in: nothing temporary may stay. */
static int entries(void) {
    char command[128], answer[16] = "";
    snprintf(command, sizeof command, "ls -A %s | wc -l", fx.base);
    FILE *f = popen(command, "r");
    cr_assert(ne(ptr, fgets(answer, sizeof answer, f), NULL));
    pclose(f);
    return atoi(answer);
}

Test(store_format, an_older_store_without_a_step_is_damage) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    set_format(fx.dir, 0);
    cr_assert(eq(int, (int)open_as(BSI_STORE_WRITE, &err), BOMSYNC_E_INTEGRITY));
    cr_assert(eq(int, entries(), 1));
}

Test(store_format, an_older_store_is_not_read_and_not_touched_by_readers) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    set_format(fx.dir, OLD);
    bsi_format_steps = good;
    cr_assert(eq(int, (int)open_as(BSI_STORE_READ, &err), BOMSYNC_E_USAGE));
    cr_assert(ne(ptr, strstr(err.message, "format 1"), NULL));
    cr_assert(eq(int, calls, 0));
    cr_assert(eq(u32, format_of(fx.dir), OLD));
}

static bomsync_status keep_line(void *ctx, const char *json, size_t n, bomsync_error *err) {
    (void)err;
    snprintf(ctx, 300, "%.*s", (int)n, json);
    return BOMSYNC_OK;
}

Test(store_format, a_writer_brings_it_forward_and_keeps_the_old_one) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    char line[300] = "", kept[80];
    fx_create();
    bsi_store *s = fx_open(BSI_STORE_WRITE);
    char id[33];
    snprintf(id, sizeof id, "%s", bsi_store_id(s));
    bsi_store_close(s);
    set_format(fx.dir, OLD);
    bsi_format_steps = good;
    s = fx_open(BSI_STORE_WRITE);
    cr_assert(eq(int, calls, 1));
    cr_assert(ne(str, worked_in, fx.dir));
    cr_assert(eq(str, (char *)bsi_store_id(s), id)); /* changes keep their ids */
    FX_OK(bsi_store_journal(s, keep_line, line, &err), err);
    cr_assert(ne(ptr, strstr(line, "\"kind\":\"format\",\"from\":1,\"to\":2"), NULL));
    bsi_store_close(s);
    snprintf(kept, sizeof kept, "%s.v1", fx.dir);
    cr_assert(eq(u32, format_of(fx.dir), BSI_STORE_FORMAT));
    cr_assert(eq(u32, format_of(kept), OLD));
    cr_assert(eq(int, entries(), 2));
    cr_assert(eq(int, (int)open_as(BSI_STORE_READ, &err), BOMSYNC_OK));
    cr_assert(eq(int, calls, 1)); /* once is enough */
}

/* The step that there is, on a store whose number alone is old. */
Test(store_format, format_1_is_brought_forward) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_first(40);
    set_format(fx.dir, 1);
    cr_assert(eq(int, (int)open_as(BSI_STORE_WRITE, &err), BOMSYNC_OK), "%s", err.message);
    cr_assert(eq(u32, format_of(fx.dir), BSI_STORE_FORMAT));
    cr_assert(zero(int, fx_judge(BSI_STORE_READ)));
}

Test(store_format, a_step_that_fails_leaves_the_old_store) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    fx_create();
    set_format(fx.dir, OLD);
    bsi_format_steps = failing;
    cr_assert(eq(int, (int)open_as(BSI_STORE_WRITE, &err), BOMSYNC_E_SPACE));
    cr_assert(eq(u32, format_of(fx.dir), OLD));
    cr_assert(eq(int, entries(), 1));
    err = (bomsync_error)BOMSYNC_ERROR_INIT;
    bsi_format_steps = forgetful;
    cr_assert(eq(int, (int)open_as(BSI_STORE_WRITE, &err), BOMSYNC_E_INTEGRITY));
    cr_assert(eq(u32, format_of(fx.dir), OLD));
    cr_assert(eq(int, entries(), 1));
}

Test(store_format, a_kept_store_is_never_written_over) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    char kept[80];
    fx_create();
    set_format(fx.dir, OLD);
    snprintf(kept, sizeof kept, "%s.v1", fx.dir);
    cr_assert(eq(int, mkdir(kept, 0700), 0));
    bsi_format_steps = good;
    cr_assert(eq(int, (int)open_as(BSI_STORE_WRITE, &err), BOMSYNC_E_USAGE));
    cr_assert(eq(u32, format_of(fx.dir), OLD));
    cr_assert(eq(int, calls, 0));
}

Test(store_format, a_store_in_use_is_busy) {
    bomsync_error err = BOMSYNC_ERROR_INIT;
    char path[80];
    fx_create();
    set_format(fx.dir, OLD);
    snprintf(path, sizeof path, "%s/lock", fx.dir);
    int fd = open(path, O_RDWR);
    cr_assert(eq(int, flock(fd, LOCK_EX), 0)); /* another writer, of whatever version */
    snprintf(path, sizeof path, "%d", (int)getpid());
    cr_assert(eq(int, (int)pwrite(fd, path, strlen(path), 0), (int)strlen(path)));
    bsi_format_steps = good;
    cr_assert(eq(int, (int)open_as(BSI_STORE_WRITE, &err), BOMSYNC_E_BUSY));
    close(fd);
    cr_assert(eq(int, calls, 0));
    cr_assert(not(there(".v1")));
}
