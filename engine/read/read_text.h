/* read/read_text.h - decompressed bytes to UTF-8. One thread at a time. */
#ifndef BSI_READ_TEXT_H
#define BSI_READ_TEXT_H

#include "read/read_decode.h"

#define BSI_TEXT_SLACK 16 /* least room that bsi_text_read needs: the longest character in UTF-8, and more */
#define BSI_TEXT_SNIFF_BYTES 64

typedef struct bsi_text bsi_text;

/** Is name another encoding than UTF-8? NULL is UTF-8. */
bool bsi_text_needed(const char *encoding);
/** Takes over d in any case. encoding NULL: bytes pass through. Errors: E_USAGE for a name that iconv does not know. */
bomsync_status bsi_text_open(bsi_text **out, bsi_decoder *d, const char *encoding, bomsync_error *err);
void bsi_text_close(bsi_text *t);
/** UTF-8 bytes (> 0), 0 at the end, -1 on error. n >= BSI_TEXT_SLACK. */
ssize_t bsi_text_read(bsi_text *t, uint8_t *out, size_t n, bomsync_error *err);

/** "UTF-16LE" and the like if the first bytes (BSI_TEXT_SNIFF_BYTES, or all there are) look like it, else NULL. */
const char *bsi_text_wide(const uint8_t *p, size_t n);
/** E_REFUSED if they do. */
bomsync_status bsi_text_check(const uint8_t *p, size_t n, const char *path, bomsync_error *err);
/** 3 if a UTF-8 byte order mark stands at p, else 0. */
size_t bsi_text_mark(const uint8_t *p, size_t n);

#endif
