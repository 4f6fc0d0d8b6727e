/* parse/parse_index.c - which variant of the index runs, and the text of one quoted field. */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/cpu.h"
#include "parse/parse_inner.h"

static atomic_int chosen = -1; /* of core/cpu.h */

void bsi_parse_use_isa(int isa) { atomic_store(&chosen, bsi_cpu_within(isa)); }

static int best(void) {
    int isa = bsi_cpu_best();
    atomic_store(&chosen, isa);
    return isa;
}

static void make_room(bsi_parse_index *ix, size_t n) {
    size_t need = n + 256; /* an end at every byte, and what put_bits writes too much */
    if (need <= ix->cap) return;
    need += need / 4;
    bsi_parse_index_free(ix);
    ix->pos = bsi_alloc(need * sizeof *ix->pos);
    ix->end = bsi_alloc(need * sizeof *ix->end);
    ix->odd = bsi_alloc(need * sizeof *ix->odd);
    ix->quote = bsi_alloc(need * sizeof *ix->quote);
    ix->high_at = bsi_alloc((need / 64 + 1) * sizeof *ix->high_at);
    ix->cap = need;
}

void bsi_parse_index_build(bsi_parse_index *ix, const bsi_dialect *d, const uint8_t *p, size_t n) {
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa < 0) isa = best();
    make_room(ix, n);
#if defined(__x86_64__)
    if (isa == BSI_CPU_VBMI2) {
        bsi_parse_index_vbmi2(ix, d, p, n);
        return;
    }
    if (isa == BSI_ISA_AVX512) {
        bsi_parse_index_avx512(ix, d, p, n);
        return;
    }
    if (isa == BSI_ISA_AVX2) {
        bsi_parse_index_avx2(ix, d, p, n);
        return;
    }
#endif
    bsi_parse_index_scalar(ix, d, p, n);
}

/* Where nothing is faster than the index, no record is simple. */
size_t bsi_parse_simple(bsi_rows *out, const bsi_layout *l, const uint8_t *p, size_t n, bsi_parse_index *ix) {
    enum { COLUMNS = 63, BYTES = 128 << 10 };
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa < 0) isa = best();
    ix->high_count = 0;
    if (isa != BSI_CPU_VBMI2 || l->null_count || l->absent_count || l->column_count > COLUMNS || !l->slot_count || n > BYTES)
        return 0;
#if defined(__x86_64__)
    make_room(ix, n);
    bsi_buf_reserve(&out->enc, n * 2 + 512);
    return bsi_parse_simple_vbmi2(out, l, p, n, ix->pos, &ix->high_count);
#else
    return 0;
#endif
}

void bsi_parse_index_free(bsi_parse_index *ix) {
    free(ix->pos);
    free(ix->end);
    free(ix->odd);
    free(ix->quote);
    free(ix->high_at);
    *ix = (bsi_parse_index){0};
}

/* As Python's csv reader (strict=False): after the closing quote everything up to the end of the field is data. */
void bsi_parse_unquote(bsi_parse_field *f, bsi_buf *text, const bsi_dialect *d, const uint8_t *p, uint32_t from, uint32_t to) {
    *f = (bsi_parse_field){.p = p + from, .len = to - from, .bare = UINT32_MAX};
    const uint8_t *end = p + to;
    if (!d->quote || from == to) return;
    if (p[from] != (uint8_t)d->quote) {
        const uint8_t *q = memchr(p + from, d->quote, to - from);
        if (q) f->bare = (uint32_t)(q - p);
        return;
    }
    size_t start = text->len;
    for (const uint8_t *at = p + from + 1;;) {
        const uint8_t *q = memchr(at, d->quote, (size_t)(end - at));
        f->unclosed = !q;
        size_t run = (size_t)((q ? q : end) - at);
        memcpy(text->data + text->len, at, run);
        text->len += run;
        if (!q) break;
        at = q + 1;
        if (at == end) break;
        if (*at == (uint8_t)d->quote) {
            text->data[text->len++] = *at++;
            continue;
        }
        f->bare = (uint32_t)(at - p);
        memcpy(text->data + text->len, at, (size_t)(end - at));
        text->len += (size_t)(end - at);
        break;
    }
    f->p = text->data + start;
    f->len = (uint32_t)(text->len - start);
}
