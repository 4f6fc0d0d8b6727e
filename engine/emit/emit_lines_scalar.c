/* emit/emit_lines_scalar.c - emit_lines_loop.h with what any machine has: SSE2 on x86-64, else 64-bit words. */
#define LINES_NAME bsi_lines_add_scalar
#include "emit/emit_lines_loop.h"
