/* core/sha.c - SHA-256, from OpenSSL's libcrypto.
 *
 * Its plain functions, not its EVP interface: that one sets up tables of all algorithms first, in each run, for some hundred
 * bytes. OpenSSL 3 calls the plain ones deprecated, and keeps them; where libcrypto.a is there, the program links the few
 * objects that they need (CMakeLists.txt), with the processor's SHA instructions where it has them.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
#include <stdlib.h>

#include "core/base.h"

struct bsi_sha {
    SHA256_CTX ctx;
};

bsi_sha *bsi_sha_open(void) {
    bsi_sha *s = bsi_alloc(sizeof *s);
    SHA256_Init(&s->ctx);
    return s;
}

void bsi_sha_add(bsi_sha *s, const void *p, size_t n) { SHA256_Update(&s->ctx, p, n); }

void bsi_sha_close(bsi_sha *s, uint8_t out[32]) {
    SHA256_Final(out, &s->ctx);
    free(s);
}

void bsi_sha_once(const void *p, size_t n, uint8_t out[32]) { SHA256(p, n, out); }
