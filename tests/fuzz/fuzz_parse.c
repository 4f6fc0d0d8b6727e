/* tests/fuzz/fuzz_parse.c - any bytes through header, cut and parse, under libFuzzer: scripts/build --fuzz. What must hold:
 * oracle.h. drive_parse.c asks the same of a fixed number of inputs, in every build. */
#include "oracle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *says = oracle(data, size);
    if (!says) return 0;
    fprintf(stderr, "does not hold: %s\n", says);
    abort();
}
