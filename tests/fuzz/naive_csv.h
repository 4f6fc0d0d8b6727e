/* tests/fuzz/naive_csv.h - a CSV reader without any trick, to judge cut and parse: one byte after the other.
 *
 * Records and fields as Python's csv reader gives them with strict=False: a quote opens only as the first byte of a field;
 * behind the closing quote everything up to delimiter or line end is data; LF, CRLF and a lone CR outside quotes end a
 * record; blank lines are no records. It shares no code with the engine and does not look like it, on purpose.
 */
#ifndef NAIVE_CSV_H
#define NAIVE_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { NAIVE_BYTES_MAX = 4096 }; /* longest input; as many records and fields at most */

typedef struct naive_field {
    size_t from, to;     /* as it stands, quotes included */
    size_t text, bytes;  /* in naive_csv.text */
    size_t bare;         /* first bare quote, or data behind a closing quote; SIZE_MAX: none */
    bool unclosed;
} naive_field;

typedef struct naive_record {
    size_t start, stop, end; /* without and with the line end */
    size_t field, fields;    /* in naive_csv.field */
} naive_record;

typedef struct naive_csv {
    naive_record record[NAIVE_BYTES_MAX + 1];
    naive_field field[NAIVE_BYTES_MAX + 2];
    uint8_t text[NAIVE_BYTES_MAX + 1];
    size_t blank[NAIVE_BYTES_MAX + 1]; /* ends of blank lines */
    size_t records, fields, bytes, blanks;
    bool open; /* the input ends inside quotes */
} naive_csv;

static void naive_read(naive_csv *out, uint8_t delimiter, int quote, const uint8_t *p, size_t n) {
    enum { START, PLAIN, QUOTED, QUOTE_IN_QUOTED } state = START;
    naive_field f = {0, 0, 0, 0, SIZE_MAX, false};
    naive_record r = {0, 0, 0, 0, 0};
    out->records = out->fields = out->bytes = out->blanks = 0;
    out->open = false;
    for (size_t i = 0; i <= n; i++) {
        int c = i < n ? p[i] : -1; /* -1: the end, which ends the record */
        bool line_end = c == '\n' || c == '\r' || c == -1;
        if (c >= 0 && state == QUOTED) {
            if (c == quote) state = QUOTE_IN_QUOTED;
            else out->text[out->bytes++] = (uint8_t)c;
            continue;
        }
        if (state == QUOTE_IN_QUOTED && c == quote) {
            out->text[out->bytes++] = (uint8_t)c;
            state = QUOTED;
            continue;
        }
        if (!line_end && c != delimiter) {
            if (state == START && c == quote) {
                state = QUOTED;
                continue;
            }
            if (f.bare == SIZE_MAX && (state == QUOTE_IN_QUOTED || (state == PLAIN && c == quote && p[f.from] != quote))) f.bare = i;
            out->text[out->bytes++] = (uint8_t)c;
            state = PLAIN;
            continue;
        }
        if (line_end && i == r.start) { /* nothing in it */
            if (c == -1) break;
            if (c == '\r' && i + 1 < n && p[i + 1] == '\n') i++;
            out->blank[out->blanks++] = i + 1;
        } else {
            f.to = i;
            f.bytes = out->bytes - f.text;
            f.unclosed = c == -1 && state == QUOTED;
            out->open = f.unclosed;
            out->field[out->fields++] = f;
            state = START;
            if (!line_end) {
                f = (naive_field){i + 1, 0, out->bytes, 0, SIZE_MAX, false};
                continue;
            }
            if (c == '\r' && i + 1 < n && p[i + 1] == '\n') i++;
            r.stop = f.to;
            r.end = c == -1 ? n : i + 1;
            r.fields = out->fields - r.field;
            out->record[out->records++] = r;
        }
        r = (naive_record){i + 1, 0, 0, out->fields, 0};
        f = (naive_field){i + 1, 0, out->bytes, 0, SIZE_MAX, false};
    }
}

/* Offset of the first sequence that is not UTF-8 (RFC 3629), n if there is none. */
static size_t naive_utf8(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t more = p[i] < 0x80 ? 0 : p[i] >= 0xc2 && p[i] <= 0xdf ? 1 : (p[i] & 0xf0) == 0xe0 ? 2 : p[i] >= 0xf0 && p[i] <= 0xf4 ? 3 : 9;
        if (more > 3 || i + more >= n) return i;
        uint32_t value = more == 0 ? p[i] : p[i] & (0x3fu >> more);
        for (size_t k = 1; k <= more; k++) {
            if ((p[i + k] & 0xc0) != 0x80) return i;
            value = value << 6 | (p[i + k] & 0x3fu);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (value < least[more] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return i;
        i += more + 1;
    }
    return n;
}

#endif
