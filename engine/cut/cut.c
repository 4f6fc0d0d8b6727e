/* cut/cut.c - which variant runs here, and the records that are too long for it.
 *
 * cut_loop.h finds ends in masks. A record above BSI_RECORD_BYTES_MAX is so rare that it is walked byte by byte with
 * the plain machine below: it must tell a quote that was never closed (the file is refused) from a record that is only
 * long (it is kept back).
 *
 *   START ──"──> QUOTED <──"──> CLOSED ──x──> DATA        delimiter: back to FIELD; line end outside QUOTED: done
 */
#include "core/cpu.h"
#include "cut/cut_inner.h"

enum { START, FIELD, DATA, QUOTED, CLOSED, AFTER_CR };

int64_t bsi_cut_skip(uint64_t state[2], const bsi_dialect *d, const uint8_t *p, size_t n, bool at_end) {
    uint64_t s = state[0], open = state[1];
    const uint8_t quote = (uint8_t)d->quote, delimiter = (uint8_t)d->delimiter;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = p[i];
        if (s == AFTER_CR) return c == '\n' ? (int64_t)i + 1 : (int64_t)i;
        if (s == QUOTED) {
            if (++open > BSI_RECORD_BYTES_MAX) return -2;
            if (c == quote) s = CLOSED;
        } else if (c == '\n' || c == '\r') {
            if (s == START) continue; /* a blank line in front of the record */
            if (c == '\n') return (int64_t)i + 1;
            s = AFTER_CR;
        } else if (c == delimiter) {
            s = FIELD;
        } else if (quote && c == quote && s == CLOSED) {
            s = QUOTED;
        } else if (quote && c == quote && (s == START || s == FIELD)) {
            s = QUOTED;
            open = 0;
        } else {
            s = DATA;
        }
    }
    state[0] = s;
    state[1] = open;
    if (!at_end) return -1;
    if (s == AFTER_CR) return (int64_t)n;
    return s == QUOTED ? -2 : -1;
}

int bsi_cut_oversize(bsi_cut *c, const bsi_cut_options *o, const uint8_t *p, size_t n, size_t end, bool at_end) {
    uint64_t state[2] = {START, 0};
    size_t to = end ? end : n;
    bool unclosed = bsi_cut_skip(state, &o->dialect, p + c->bytes, to - c->bytes, false) == -2;
    if (unclosed) return -1;
    c->flags = BSI_CUT_OVERSIZE;
    if (c->records) { /* what stands before it is a block; where that ends is not to be seen in its own bytes */
        if (p[c->bytes - 1] == '\r') c->flags |= BSI_CUT_LONE_CR;
        return 1;
    }
    if (!end && !at_end) {
        *c = (bsi_cut){.flags = BSI_CUT_OVERSIZE};
        return 0;
    }
    c->records = 1;
    c->bytes = to;
    if (!end) c->flags |= BSI_CUT_AT_END | BSI_CUT_NO_LINE_END | (state[0] == QUOTED ? BSI_CUT_OPEN_QUOTE : 0u);
    else if (p[end - 1] == '\r') c->flags |= BSI_CUT_LONE_CR;
    return 1;
}

int bsi_cut_block(bsi_cut *out, const bsi_cut_options *o, const uint8_t *p, size_t n, bool at_end) {
#if defined(__x86_64__)
    if (o->isa == BSI_ISA_AVX512) return bsi_cut_avx512(out, o, p, n, at_end);
    if (o->isa == BSI_ISA_AVX2) return bsi_cut_avx2(out, o, p, n, at_end);
#endif
    return bsi_cut_scalar(out, o, p, n, at_end);
}

bomsync_status bsi_isa_choose(bsi_isa *out, const char *name, bomsync_error *err) {
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    bool automatic = !name || !*name || strcmp(name, "auto") == 0;
    for (int i = BSI_ISA_AVX512; i >= BSI_ISA_SCALAR; i--) {
        if (!automatic && strcmp(name, names[i]) != 0) continue;
        if (i <= bsi_cpu_best()) {
            *out = (bsi_isa)i;
            return BOMSYNC_OK;
        }
        if (!automatic) {
            bsi_fail(err, BOMSYNC_E_USAGE, "this machine cannot run \"%s\"", name);
            bsi_hint(err, "leave --isa out, or take --isa auto");
            return BOMSYNC_E_USAGE;
        }
    }
    bsi_fail(err, BOMSYNC_E_USAGE, "unknown instruction set \"%s\"", name);
    bsi_hint(err, "--isa takes auto, avx512, avx2 or scalar");
    return BOMSYNC_E_USAGE;
}
