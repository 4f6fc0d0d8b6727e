/* diff/lines_scalar.c - lines_loop.h with plain 64-bit words, for any machine. */
#define VARIANT scalar
#include "diff/lines_loop.h"
