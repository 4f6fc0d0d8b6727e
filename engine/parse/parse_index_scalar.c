/* parse/parse_index_scalar.c - parse_index_loop.h with plain 64-bit words, for any machine. */
#define INDEX_NAME bsi_parse_index_scalar
#include "parse/parse_index_loop.h"
