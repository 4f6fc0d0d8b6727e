/* emit/emit_lines.c - many changes as lines, and what each line repeats of the ones before.
 *
 *   piece     constant text     value       the same piece, when it was last written
 *   0         {"seq":           35          34            a new last digit
 *   1         ,"id":"0f…-       35          34
 *   2         ","op":"c",…:"    1000        1000          all of it
 *   …
 *   told      1 new, 15 as 380 before, 1 new, 290 as 380 before, …
 *
 * A line is a row of pieces: a text that is the same each time, and a value behind it. The constant texts are made once,
 * with the quotes and commas around them, so that a value costs two copies, a look for what must be escaped, and a
 * comparison with the value that stood behind the same piece before. What is equal from the piece's start on becomes a
 * repeat; if it stands as far back as the repeat that has just ended, that one grows. This takes the place of a
 * compressor's search for matches (emit_frame.c).
 *
 * A value may be null, without quotes, and in an update any attribute may be missing. So an attribute has a piece for
 * each thing that can stand before it and for null, eight in all.
 *
 * The loop that does it is compiled for each set of instructions (emit_lines_loop.h). bsi_change_render does the same for
 * one line, plainly; tests compare the two.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/cpu.h"
#include "emit/emit_inner.h"
#include "flow/block.h"

/* ---- which instructions ---- */

static atomic_int chosen = -1;

void bsi_emit_use_isa(int isa) { atomic_store(&chosen, isa); }

static int best(void) {
    int isa = BSI_MIN(bsi_cpu_best(), (int)BSI_ISA_AVX512);
    atomic_store(&chosen, isa);
    return isa;
}

int bsi_emit_isa(void) {
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    return isa < 0 ? best() : isa;
}

static void (*add_for(int isa))(bsi_renderer *r, const bsi_change *c) {
#if defined(__x86_64__)
    if (isa == BSI_ISA_AVX512) return bsi_lines_add_avx512;
    if (isa == BSI_ISA_AVX2) return bsi_lines_add_avx2;
#endif
    (void)isa;
    return bsi_lines_add_scalar;
}

/* ---- constant texts ---- */

static bsi_piece made(bsi_renderer *r, bsi_buf b) {
    for (size_t i = 0; i < b.len; i++) r->high |= b.data[i] >= 0x80;
    bsi_piece p = {.len = (uint32_t)b.len};
    bsi_buf_reserve(&b, BSI_LINE_MARGIN);
    memset(b.data + b.len, 0, BSI_LINE_MARGIN);
    p.text = b.data;
    r->text_bytes += b.len;
    if (r->text_count == r->text_cap) r->texts = bsi_realloc(r->texts, (r->text_cap = r->text_cap ? r->text_cap * 2 : 64) * sizeof *r->texts);
    r->texts[r->text_count++] = b;
    return p;
}

static bsi_piece constant(bsi_renderer *r, const char *text) {
    bsi_buf b = {0};
    bsi_buf_str(&b, text);
    return made(r, b);
}

static bsi_piece named(bsi_renderer *r, const char *before, const char *name, const char *behind) {
    bsi_buf b = {0};
    bsi_buf_str(&b, before);
    bsi_json_string(&b, name, strlen(name));
    bsi_buf_str(&b, behind);
    return made(r, b);
}

static void make_side(bsi_renderer *r, bsi_side *s, const char *name) {
    char first[2][32];
    for (int null = 0; null < 2; null++) {
        snprintf(first[null], sizeof first[null], "%s},\"%s\":{", null ? "" : "\"", name);
        s->none[null] = constant(r, first[null]);
    }
    const char *behind[BSI_BEHIND_KINDS] = {first[0], first[1], "\",", ","};
    s->plain = bsi_alloc(sizeof(bsi_piece) * (r->attributes + 1));
    s->attribute = bsi_alloc(sizeof(bsi_piece) * (r->attributes * BSI_BEHIND_KINDS * 2 + 1));
    for (uint32_t i = 0; i < r->attributes; i++) {
        const char *column = r->slots->name[r->attribute[i]];
        s->plain[i] = named(r, behind[i ? BSI_BEHIND_STRING : BSI_FIRST_BEHIND_STRING], column, ":\"");
        for (uint32_t kind = 0; kind < BSI_BEHIND_KINDS * 2; kind++)
            s->attribute[i * BSI_BEHIND_KINDS * 2 + kind] = named(r, behind[kind / 2], column, kind & 1 ? ":null" : ":\"");
    }
}

static void make_front(bsi_renderer *r) {
    const bsi_change_head *h = r->head;
    bool seq = h && h->id_prefix;
    bsi_buf b = {0};
    bsi_buf_byte(&b, '{');
    if (h && h->generation >= 0) bsi_buf_addf(&b, "\"generation\":%lld,", (long long)h->generation);
    if (seq) {
        bsi_buf_str(&b, "\"seq\":");
        r->seq = made(r, b);
        b = (bsi_buf){0};
        bsi_buf_addf(&b, ",\"id\":\"%s-", h->id_prefix);
        r->id = made(r, b);
        b = (bsi_buf){0};
        bsi_buf_str(&b, "\",");
    }
    for (int i = 0; i < 3; i++) {
        bsi_buf op = {0};
        bsi_buf_add(&op, b.data, b.len);
        bsi_buf_addf(&op, "\"op\":\"%c\"", "cud"[i]);
        if (h) {
            bsi_buf_str(&op, ",\"entity\":");
            bsi_json_string(&op, h->entity, strlen(h->entity));
            bsi_buf_str(&op, ",\"partition\":\"");
        }
        r->op[i] = made(r, op);
    }
    bsi_buf_free(&b);
}

/* Without a head, nothing closes the op's value; there is always a key column, or its object would need a piece of its own. */
static void make_key(bsi_renderer *r) {
    const bsi_slots *s = r->slots;
    r->key = bsi_alloc(sizeof *r->key * (s->key_count + 1));
    const char *first = r->head ? "\",\"key\":{" : ",\"key\":{";
    for (uint32_t i = 0; i < s->key_count; i++) r->key[i] = named(r, i ? "\"," : first, s->name[i], ":\"");
    if (!s->key_count) r->key[0] = constant(r, first);
}

bsi_renderer *bsi_renderer_open(const bsi_slots *slots, const bsi_change_head *head, bool tell_repeats) {
    bsi_renderer *r = bsi_calloc(1, sizeof *r);
    r->slots = slots;
    r->head = head;
    r->tell = tell_repeats;
    r->add = add_for(bsi_emit_isa());
    r->attribute = bsi_alloc(sizeof *r->attribute * (slots->count + 1));
    for (uint32_t i = 0; i < slots->count; i++)
        if (slots->order[i] >= slots->key_count && slots->order[i] < slots->count) r->attribute[r->attributes++] = slots->order[i];
    make_front(r);
    make_key(r);
    r->end[0] = constant(r, "\"}}\n");
    r->end[1] = constant(r, "}}\n");
    r->base = 1;
    memset(r->filler, '_', sizeof r->filler);
    return r;
}

void bsi_renderer_close(bsi_renderer *r) {
    for (size_t i = 0; i < r->text_count; i++) bsi_buf_free(&r->texts[i]);
    free(r->texts);
    free(r->key);
    free(r->before.plain);
    free(r->before.attribute);
    free(r->after.plain);
    free(r->after.attribute);
    free(r->attribute);
    free(r);
}

/* ---- lines ---- */

void bsi_lines_count_to(bsi_renderer *r, uint64_t v) {
    if (v == r->number + 1 && r->digit_count) { /* most often only the last digit differs */
        uint32_t i = r->digit_count;
        while (i && r->digits[i - 1] == '9') r->digits[--i] = '0';
        if (i) {
            r->digits[i - 1]++;
            r->number = v;
            return;
        }
    }
    r->number = v;
    char text[24];
    uint32_t n = 0;
    do text[n++] = (char)('0' + v % 10);
    while (v /= 10);
    r->digit_count = n;
    for (uint32_t i = 0; i < n; i++) r->digits[i] = text[n - 1 - i];
}

static void __attribute__((noinline)) more_lines(bsi_lines *l) {
    l->cap = l->cap ? l->cap * 2 : 64;
    l->end = bsi_realloc(l->end, l->cap * sizeof *l->end);
    l->op = bsi_realloc(l->op, l->cap * sizeof *l->op);
    l->nameless = bsi_realloc(l->nameless, l->cap * sizeof *l->nameless);
}

void bsi_lines_room(bsi_renderer *r, const bsi_change *c, size_t values) {
    bsi_lines *l = r->to;
    const bsi_slots *s = r->slots;
    if (c->op != 'c' && !r->before.plain) make_side(r, &r->before, "before");
    if (c->op != 'd' && !r->after.plain) make_side(r, &r->after, "after");
    size_t most = r->text_bytes + 12 * values + 2 * sizeof r->digits + 4 * BSI_LINE_MARGIN; /* the partition is one of the values */
    uint32_t pieces = 10 + s->key_count + 2 * r->attributes;
    if (l->text.cap - l->text.len < most) bsi_buf_reserve(&l->text, most);
    if (l->literal.cap - l->literal.len < most) bsi_buf_reserve(&l->literal, most);
    if (l->repeat_cap - l->repeat_count < pieces) {
        l->repeat_cap = BSI_MAX(l->repeat_cap * 2, l->repeat_count + pieces + 1024);
        l->repeat = bsi_realloc(l->repeat, l->repeat_cap * sizeof *l->repeat);
    }
    if (!l->count) l->repeat[1].literals = 0;
    if (l->count == l->cap) more_lines(l);
}

void bsi_renderer_add(bsi_renderer *r, const bsi_change *c) { r->add(r, c); }

/* The first place of `repeat` stays empty: the one that may still grow is at repeat_count. */
void bsi_renderer_start(bsi_renderer *r, bsi_lines *lines) {
    lines->text.len = lines->literal.len = 0;
    lines->count = lines->repeat_count = 0;
    lines->told = r->tell;
    lines->high = r->high;
    r->to = lines;
    r->tell_now = r->tell;
    r->match = r->goes_on = 0;
}

void bsi_renderer_end(bsi_renderer *r) {
    r->base += r->to->text.len + 1;
    r->to->left = r->to->count && r->tell ? r->to->repeat[r->to->repeat_count + 1].literals : 0;
    r->to = NULL;
}

void bsi_lines_release(bsi_lines *l) {
    bsi_buf_free(&l->text);
    free(l->end);
    free(l->op);
    free(l->nameless);
    free(l->repeat);
    bsi_buf_free(&l->literal);
    *l = (bsi_lines){0};
}
