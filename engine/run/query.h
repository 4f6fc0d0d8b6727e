/* run/query.h - small things that the commands on a store share. */
#ifndef BSI_RUN_QUERY_H
#define BSI_RUN_QUERY_H

#include "run/changes.h"

bomsync_status bsi_put(bomsync_sink out, const void *p, size_t n, bomsync_error *err);
bomsync_status bsi_open_read(bsi_store **s, const char *dir, bomsync_error *err);
/** The feed named, or the only one; E_USAGE names them if there are several. Owned by the caller. */
bomsync_status bsi_pick_feed(bsi_feed **feed, bsi_store *s, const char *name, bomsync_error *err);
/** State list of a feed at a generation (-1: newest); empty before its first. refs malloc'ed. */
bomsync_status bsi_state_at(bsi_ref **refs, size_t *count, bsi_store *s, const bsi_feed *feed, int64_t number, bomsync_error *err);
/** Place (block << 16 | row) of a key in a state, UINT64_MAX if it is not there. One pass over the stored key hashes. */
bomsync_status bsi_find_key(uint64_t *place, bsi_store *s, const bsi_ref *refs, size_t count, uint64_t kh, bomsync_error *err);

#endif
