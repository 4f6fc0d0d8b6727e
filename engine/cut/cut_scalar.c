/* cut/cut_scalar.c - cut_loop.h with plain 64-bit words, for any machine. */
#define CUT_NAME bsi_cut_scalar
#include "cut/cut_loop.h"
