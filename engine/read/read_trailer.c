/* read/read_trailer.c - find, match and read the trailer line.
 *
 *     ... last record LF  TRAILER;00012345 LF  [blank lines]  end of file
 *                         ^ start     └ first group = count
 *
 * Blank lines after it are not the last line: they are cut off with it. Line ends are LF, CRLF and CR.
 */
#include "read/read_trailer.h"

#include <ctype.h>
#include <stdlib.h>

/* People write \d; POSIX does not know it, and glibc takes it for the letter. */
static char *translate(const char *regex) {
    bsi_buf b = {0};
    bool bracket = false;
    for (const char *p = regex; *p; p++) {
        if (!bracket && p[0] == '\\' && p[1]) {
            if (p[1] == 'd')
                bsi_buf_str(&b, "[0-9]");
            else
                bsi_buf_add(&b, p, 2);
            p++;
            continue;
        }
        if (!bracket && *p == '[') {
            bracket = true;
            bsi_buf_byte(&b, '[');
            if (p[1] == '^') bsi_buf_byte(&b, (uint8_t) * ++p);
            if (p[1] == ']') bsi_buf_byte(&b, (uint8_t) * ++p); /* stands for itself there */
            continue;
        }
        if (bracket && *p == '[' && p[1] && strchr(":.=", p[1])) { /* [:digit:] has a ] of its own */
            char kind = p[1];
            const char *end = p + 2;
            while (*end && !(end[0] == kind && end[1] == ']')) end++;
            if (*end) {
                bsi_buf_add(&b, p, (size_t)(end + 2 - p));
                p = end + 1;
                continue;
            }
        }
        if (*p == ']') bracket = false;
        bsi_buf_byte(&b, (uint8_t)*p);
    }
    bsi_buf_byte(&b, 0);
    return (char *)b.data;
}

bomsync_status bsi_trailer_init(bsi_trailer *t, const char *regex, bomsync_error *err) {
    *t = (bsi_trailer){.count = -1};
    if (!regex) return BOMSYNC_OK;
    char *text = translate(regex);
    int code = regcomp(&t->re, text, REG_EXTENDED);
    free(text);
    if (code) {
        char why[120];
        regerror(code, &t->re, why, sizeof why);
        bsi_fail(err, BOMSYNC_E_USAGE, "cannot use the trailer \"%.100s\" as a regular expression: %s", regex, why);
        bsi_hint(err, "POSIX extended syntax, for example '^TRAILER;([0-9]+)$'");
        return BOMSYNC_E_USAGE;
    }
    t->wanted = true;
    return BOMSYNC_OK;
}

void bsi_trailer_release(bsi_trailer *t) {
    if (t->wanted) regfree(&t->re);
    t->wanted = false;
}

static bool line_end(uint8_t c) {
    return c == '\n' || c == '\r';
}

static bool parse_count(int64_t *count, const uint8_t *p, size_t n) {
    while (n && isspace(p[0])) p++, n--;
    while (n && isspace(p[n - 1])) n--;
    if (!n) return false;
    int64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') return false;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, p[i] - '0', &v)) return false;
    }
    *count = v;
    return true;
}

static bomsync_status refuse(const char *what, const uint8_t *line, size_t n, uint64_t offset, const char *path,
                             bomsync_error *err) {
    bsi_fail(err, BOMSYNC_E_REFUSED, "%s", what);
    bsi_hint(err, "the file may be cut off: have it sent again, or correct --trailer");
    bsi_at(err, path, (int64_t)offset, -1, NULL, (const char *)line, n);
    return BOMSYNC_E_REFUSED;
}

bomsync_status bsi_trailer_match(bsi_trailer *t, uint64_t *start, const uint8_t *p, size_t n, uint64_t offset,
                                 const char *path, bomsync_error *err) {
    size_t end = n;
    while (end && line_end(p[end - 1])) end--;
    size_t at = end;
    while (at && !line_end(p[at - 1])) at--;
    if (!end || (!at && offset))
        return refuse(n ? "the last line is too long for a trailer" : "there is no trailer: the file is empty", NULL, 0,
                      offset, path, err);
    regmatch_t m[2] = {{.rm_so = 0, .rm_eo = (regoff_t)(end - at)}, {.rm_so = -1, .rm_eo = -1}};
    char *line = bsi_strndup((const char *)p + at, end - at);
    /* REG_STARTEND: a NUL inside the line does not end it */
    int differs = regexec(&t->re, line, t->re.re_nsub ? 2 : 1, m, REG_STARTEND);
    free(line);
    if (differs)
        return refuse("the last line is not the trailer that was announced", p + at, end - at, offset + at, path, err);
    if (t->re.re_nsub && m[1].rm_so >= 0 &&
        !parse_count(&t->count, p + at + m[1].rm_so, (size_t)(m[1].rm_eo - m[1].rm_so)))
        return refuse("the trailer's count is not a number", p + at, end - at, offset + at, path, err);
    t->found = true;
    *start = offset + at;
    return BOMSYNC_OK;
}
