/* parse/parse_header.c - the first record of a file: the names of its columns.
 *
 * Read once a file, so it takes the plain way: one byte after the other. Bare quotes in a name are data, strict or not:
 * there is no record yet that could be kept back.
 */
#include <stdio.h>
#include <stdlib.h>

#include "parse/parse_inner.h"

typedef struct header {
    char **name;
    uint32_t count, cap;
    bsi_buf text; /* of the field at hand */
} header;

static void drop(header *h) {
    for (uint32_t i = 0; i < h->count; i++) free(h->name[i]);
    free(h->name);
    bsi_buf_free(&h->text);
}

static bomsync_status refuse(header *h, bomsync_error *err, int64_t byte, const char *what, const char *hint) {
    drop(h);
    bsi_fail(err, BOMSYNC_E_REFUSED, "%s", what);
    bsi_at(err, NULL, byte, -1, NULL, NULL, 0);
    bsi_hint(err, "%s", hint);
    return BOMSYNC_E_REFUSED;
}

static void add(header *h) {
    if (h->count == h->cap) h->name = bsi_realloc(h->name, (h->cap = h->cap ? h->cap * 2 : 16) * sizeof *h->name);
    h->name[h->count++] = bsi_strndup((const char *)h->text.data, h->text.len);
}

/* The field at p[from]; returns where it ends, *open if that is inside quotes. */
static size_t field(bsi_buf *text, const bsi_dialect *d, const uint8_t *p, size_t from, size_t n, bool *open) {
    size_t i = from;
    text->len = 0;
    *open = false;
    bsi_buf_reserve(text, 1);
    if (d->quote && i < n && p[i] == (uint8_t)d->quote) {
        *open = true;
        for (i++; i < n && *open; i++) {
            if (p[i] != (uint8_t)d->quote) bsi_buf_byte(text, p[i]);
            else if (i + 1 < n && p[i + 1] == (uint8_t)d->quote) bsi_buf_byte(text, p[i++]);
            else *open = false;
        }
    }
    for (; i < n && p[i] != (uint8_t)d->delimiter && p[i] != '\n' && p[i] != '\r'; i++) bsi_buf_byte(text, p[i]);
    return i;
}

bomsync_status bsi_parse_header(char ***names, uint32_t *count, size_t *bytes, const bsi_dialect *d, const uint8_t *p,
                                size_t n, bool at_end, bomsync_error *err) {
    static const char *const again = "nothing was changed; check --delimiter, --quote and --encoding, or ask for the file again";
    header h = {0};
    size_t i = 0;
    while (i < n && (p[i] == '\n' || p[i] == '\r')) i++;
    if (i == n) {
        if (!at_end) return refuse(&h, err, 0, "there is no header in the first bytes of the file, only blank lines", again);
        *names = NULL;
        *count = 0;
        *bytes = n;
        return BOMSYNC_OK;
    }
    for (;; i++) {
        bool open;
        size_t from = i;
        i = field(&h.text, d, p, from, n, &open);
        if (open) return refuse(&h, err, (int64_t)from, "a quote in the header is never closed", again);
        if (bsi_parse_utf8(h.text.data, h.text.len) != h.text.len)
            return refuse(&h, err, (int64_t)from, "a column name in the header is not UTF-8", again);
        if (h.text.len && memchr(h.text.data, 0, h.text.len))
            return refuse(&h, err, (int64_t)from, "a column name in the header holds a NUL byte", again);
        if (h.count == BSI_COLUMNS_MAX) {
            char text[80];
            snprintf(text, sizeof text, "the header has more than %d columns", BSI_COLUMNS_MAX);
            return refuse(&h, err, (int64_t)from, text, again);
        }
        add(&h);
        if (i == n || p[i] != (uint8_t)d->delimiter) break;
    }
    bool whole = i < n && (p[i] == '\n' || i + 1 < n); /* behind a CR at the end an LF may come */
    if (!whole && !at_end) return refuse(&h, err, (int64_t)i, "the header has no end", again);
    if (i < n) i += p[i] == '\r' && i + 1 < n && p[i + 1] == '\n' ? 2 : 1;
    bsi_buf_free(&h.text);
    *names = h.name;
    *count = h.count;
    *bytes = i;
    return BOMSYNC_OK;
}
