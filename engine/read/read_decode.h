/* read/read_decode.h - one compressed (or plain) stream to decompressed bytes.
 *
 * One thread at a time. Everything that is wrong with the input is E_REFUSED with file, byte and hint.
 */
#ifndef BSI_READ_DECODE_H
#define BSI_READ_DECODE_H

#include <sys/types.h>

#include "core/base.h"
#include "read/read_raw.h"

typedef enum bsi_codec { BSI_CODEC_PLAIN, BSI_CODEC_ZSTD, BSI_CODEC_GZIP, BSI_CODEC_OTHER } bsi_codec;

typedef struct bsi_decoder bsi_decoder;
struct bsi_decoder {
    ssize_t (*read)(bsi_decoder *d, uint8_t *out, size_t n, bomsync_error *err);
    void (*close)(bsi_decoder *d);
    bsi_raw *raw; /* borrowed until close */
    uint64_t out_bytes;
};

/** What the first bytes are. name: what to call it ("zip", "xz"), set for OTHER. 8 bytes are enough. */
bsi_codec bsi_codec_of_bytes(const uint8_t *p, size_t n, const char **name);
/** E_REFUSED if the name promises another content, or the content is of a kind that is not read here. */
bomsync_status bsi_codec_check(bsi_codec codec, const char *kind, const char *path, bomsync_error *err);

/** Never NULL. Ownership: bsi_decoder_close. */
bsi_decoder *bsi_decoder_open(bsi_codec codec, bsi_raw *raw, int workers);
void bsi_decoder_close(bsi_decoder *d);
/** Decoded bytes (> 0), 0 at the end, -1 on error. Refuses what grows past the limits of core/limits.h. */
ssize_t bsi_decoder_read(bsi_decoder *d, uint8_t *out, size_t n, bomsync_error *err);

/* For the decoders. */
bsi_decoder *bsi_zstd_open(int workers);
bsi_decoder *bsi_gzip_open(void);
/** E_REFUSED with place; returns -1 for the caller to return. */
ssize_t bsi_decoder_refuse(const bsi_decoder *d, bomsync_error *err, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
