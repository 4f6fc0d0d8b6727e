/* run/scan.c - cut, fingerprint and match a whole snapshot with several workers.
 *
 *   paths ──> files  |hdr|--- unit 0 ---|--- unit 1 ---| ...        headers become layouts here
 *                          │ scan_units.c: which worker has what; how they become one chain
 *                          │ scan_cursor.c: is the next block the one that the image expects? Else it is cut
 *                          v
 *   lists            runs of matched blocks, open blocks            scan_found.c; the same for any number of workers
 *                          └──> bytes of open blocks once more      scan_bytes.c
 *
 * Cold files are asked for in parts, ahead of the workers and, where most is expected to match, past the page cache
 * (read/read_ahead.c). That begins once headers are known, while the caller gets the image.
 */
#include "run/scan_inner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/vast.h"
#include "flow/rendered.h"

/* ---- cold files: which, in which parts ---- */

static void add_parts(bsi_scan_ahead *a, const bsi_scan_file *f) {
    uint64_t size = bsi_source_size(f->source);
    for (uint64_t at = f->body; at < size; at += BSI_PART_BYTES) {
        if ((a->parts & (a->parts - 1)) == 0) a->part = bsi_realloc(a->part, BSI_MAX(a->parts * 2, (size_t)1) * sizeof *a->part);
        size_t bytes = (size_t)BSI_MIN(size - at, (uint64_t)BSI_PART_BYTES + BSI_PART_PAST_BYTES);
        a->part[a->parts++] = (bsi_ahead_part){.source = f->source, .offset = at, .bytes = bytes};
    }
}

void bsi_scan_start(bsi_scan *scan, const char *tmp, bool direct) {
    bsi_scan_ahead *a = scan->ahead = bsi_calloc(1, sizeof *a);
    a->cold = bsi_calloc(scan->file_count + 1, sizeof *a->cold);
    for (size_t i = 0; i < scan->file_count; i++) {
        bsi_scan_file *f = &scan->file[i];
        if (!f->layout || !bsi_source_cold(f->source)) continue;
        a->cold[i] = a->any = true;
        add_parts(a, f);
        if (direct && (f->spill_fd = bsi_temp_open(tmp)) < 0) direct = false;
    }
    if (a->parts) {
        bsi_memory_large(); /* its buffers */
        a->queue = bsi_ahead_open(a->part, a->parts, direct);
    }
}

static void ahead_close(bsi_scan_ahead *a) {
    if (!a) return;
    bsi_ahead_close(a->queue);
    free(a->part);
    free(a->cold);
    free(a);
}

/* ---- the whole scan ---- */

static void count_up(bsi_scan *s) {
    s->blocks = 0;
    s->bytes = 0;
    for (uint32_t f = 0; f < s->file_count; f++) s->file[f].records = 0;
    for (size_t i = 0; i < s->run_count; i++) {
        s->file[s->run[i].file].records += (int64_t)s->run[i].records;
        s->blocks += s->run[i].count;
        s->bytes += s->run[i].bytes;
    }
}

bomsync_status bsi_scan_blocks(bsi_scan *scan, const bsi_scan_options *o, bomsync_error *err) {
    scan->tmp = o->tmp;
    for (size_t f = 0; f < scan->file_count; f++) {
        bsi_scan_file *file = &scan->file[f];
        if (!file->layout || (bsi_source_random(file->source) && !bsi_source_pack(file->source))) continue;
        file->spill_fd = bsi_temp_open(o->tmp);
        if (file->spill_fd < 0) return bsi_fail_errno(err, errno, o->tmp, "could not make a temporary file in \"%s\"", o->tmp);
    }
    for (size_t f = 0; f < scan->file_count; f++)
        if (bsi_source_pack(scan->file[f].source)) bsi_memory_large(); /* its blocks are listed one by one */
    bsi_parse_use_isa((int)o->isa);
    bsi_hash_use((bsi_hash_isa)o->isa);
    bsi_emit_use_isa((int)o->isa);
    bsi_store_use_isa((int)o->isa);
    bsi_scan_options local = *o;
    if (!o->image || !o->image->count) local.image = NULL;
    if (!local.image || !o->tier_block) bsi_memory_large();
    if (!scan->ahead) bsi_scan_start(scan, o->tmp, local.image && o->tier_block);
    bsi_scan_found all;
    bomsync_status st = bsi_scan_units(&all, scan, &local, err);
    ahead_close(scan->ahead);
    scan->ahead = NULL;
    scan->run = all.run;
    scan->run_count = all.runs;
    scan->block = all.block;
    scan->block_count = o->brief ? 0 : all.blocks;
    scan->brief = all.brief;
    scan->brief_count = o->brief ? all.blocks : 0;
    scan->unseen = all.unseen;
    scan->unseen_count = all.unseens;
    if (all.blocks) bsi_memory_large();
    if (!st) bsi_scan_settle(scan, local.image);
    count_up(scan);
    for (size_t f = 0; f < scan->file_count && !st; f++) st = bsi_source_settled(scan->file[f].source, err);
    return st;
}

/* ---- opening, closing ---- */

static bool has_suffix(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

bsi_dialect bsi_scan_dialect(const bomsync_read_options *read, const char *path) {
    bsi_dialect d = {.delimiter = read->delimiter, .quote = read->quote ? read->quote : '"', .lenient = read->lenient};
    if (!d.delimiter) {
        bool tsv = has_suffix(path, ".tsv") || has_suffix(path, ".tsv.gz") || has_suffix(path, ".tsv.zst");
        d.delimiter = tsv ? '\t' : ',';
    }
    return d;
}

static bomsync_status read_header(bsi_scan_file *f, char ***names, uint32_t *count, const bsi_dialect *d, bomsync_error *err) {
    size_t want = BSI_HEAD_BYTES;
    for (;;) {
        size_t bytes = 0;
        bool end;
        bsi_buf_reserve(&f->head, want + BSI_SCAN_MARGIN);
        if (bsi_source_random(f->source)) {
            f->head.len = 0;
            bsi_buf_reserve(&f->head, want + BSI_SCAN_MARGIN);
            ssize_t n = bsi_source_pread(f->source, f->head.data, want, 0, err);
            if (n < 0) return err->status;
            f->head.len = (size_t)n;
            end = f->head.len >= bsi_source_size(f->source);
        } else {
            ssize_t n = 1;
            while (n > 0 && f->head.len < want) {
                bsi_buf_reserve(&f->head, want - f->head.len + BSI_SCAN_MARGIN);
                n = bsi_source_read(f->source, f->head.data + f->head.len, want - f->head.len, err);
                if (n < 0) return err->status;
                f->head.len += (size_t)n;
            }
            end = f->at_end = n == 0;
        }
        bomsync_error local = BOMSYNC_ERROR_INIT;
        bomsync_status st = bsi_parse_header(names, count, &bytes, d, f->head.data, f->head.len, end, &local);
        bool incomplete = !end && (st || bytes >= f->head.len);
        if (incomplete && want < BSI_RECORD_BYTES_MAX) {
            if (!st) {
                for (uint32_t i = 0; i < *count; i++) free((*names)[i]);
                free(*names);
                *names = NULL;
                *count = 0;
            }
            want *= 4;
            continue;
        }
        if (st) {
            *err = local;
            bsi_at(err, bsi_source_path(f->source), 0, 1, NULL, NULL, 0);
            return st;
        }
        bool cr = false;
        f->body = bytes;
        f->body_line = 1 + bsi_line_ends(&cr, f->head.data, bytes);
        if (!bsi_source_random(f->source)) {
            memmove(f->head.data, f->head.data + bytes, f->head.len - bytes);
            f->head.len -= bytes;
        } else {
            bsi_buf_free(&f->head);
        }
        return BOMSYNC_OK;
    }
}

bomsync_status bsi_scan_open(bsi_scan *scan, char *const *paths, size_t path_count, bsi_slots *slots,
                             const bomsync_read_options *read, const char *const *key, uint32_t key_count,
                             const char *partition, const char *const *ignore, uint32_t ignore_count, int workers,
                             bomsync_error *err) {
    scan->file = bsi_calloc(path_count, sizeof *scan->file);
    for (size_t i = 0; i < path_count; i++) {
        bsi_scan_file *f = &scan->file[i];
        f->spill_fd = -1;
        bsi_source_options so = {.encoding = read->encoding, .trailer_regex = read->trailer, .io = read->io ? read->io : "auto", .workers = workers};
        bomsync_status st = bsi_source_open(&f->source, paths[i], &so, err);
        if (st) return st;
        scan->file_count++;
        bsi_dialect d = bsi_scan_dialect(read, paths[i]);
        char **names = NULL;
        uint32_t count = 0;
        st = read_header(f, &names, &count, &d, err);
        if (st) return st;
        if (!count) continue;
        st = bsi_layout_open(&f->layout, slots, &d, (const char *const *)names, count, key, key_count, partition, ignore, ignore_count,
                             read->nulls, (uint32_t)read->null_count, err);
        for (uint32_t c = 0; c < count; c++) free(names[c]);
        free(names);
        if (st) {
            bsi_at(err, paths[i], 0, 1, NULL, NULL, 0);
            return st;
        }
    }
    for (size_t i = 0; i < scan->file_count; i++) /* columns that only a later file has are absent in the earlier ones */
        if (scan->file[i].layout) bsi_layout_widen(scan->file[i].layout, slots);
    return BOMSYNC_OK;
}

void bsi_scan_close(bsi_scan *scan) {
    bsi_scan_forget(scan);
    ahead_close(scan->ahead);
    for (size_t i = 0; i < scan->file_count; i++) {
        bsi_source_close(scan->file[i].source);
        bsi_layout_close(scan->file[i].layout);
        bsi_buf_free(&scan->file[i].head);
        bsi_scan_bytes_close(&scan->file[i]);
    }
    free(scan->file);
    bsi_vast_free(scan->block);
    bsi_vast_free(scan->brief);
    free(scan->unseen);
    free(scan->mark);
    bsi_vast_free(scan->run);
    *scan = (bsi_scan){0};
}
