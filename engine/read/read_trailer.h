/* read/read_trailer.h - the last line of a file that is no record but a proof that the file is whole. */
#ifndef BSI_READ_TRAILER_H
#define BSI_READ_TRAILER_H

#include <regex.h>

#include "core/base.h"

#define BSI_TRAILER_BYTES_MAX (64u << 10) /* line and blank lines after it; what a stream holds back */

typedef struct bsi_trailer {
    regex_t re;
    bool wanted, found;
    int64_t count; /* -1: the regex has no group */
} bsi_trailer;

/** regex NULL: none wanted. POSIX extended, and \d for a digit. Errors: E_USAGE. */
bomsync_status bsi_trailer_init(bsi_trailer *t, const char *regex, bomsync_error *err);
void bsi_trailer_release(bsi_trailer *t);
/** p[0, n) is the end of a file, offset where it stands in it. On success *start is the offset of the trailer line.
 *  Errors: E_REFUSED if the last line does not match, or its group is no count. */
bomsync_status bsi_trailer_match(bsi_trailer *t, uint64_t *start, const uint8_t *p, size_t n, uint64_t offset,
                                 const char *path, bomsync_error *err);

#endif
