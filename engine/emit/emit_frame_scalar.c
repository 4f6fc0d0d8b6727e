/* emit/emit_frame_scalar.c - emit_frame_loop.h for any machine. */
#define LOOPS_NAME bsi_frame_loops_scalar
#include "emit/emit_frame_loop.h"
