/* tests/fuzz/drive_parse.c - a fixed number of made-up inputs through oracle.h, the same for the same seed.
 *
 *   drive_parse [--kind NAME] [--count N] [--seed N]       BOMSYNC_FUZZ_COUNT is the count if none is given
 *   drive_parse --hex 00012c0a...                          one input, as a failure prints it
 *
 * The work is done in a child that writes each input down, in shared memory, before it tries it: an assert or a fault in
 * the engine is then known by its input as a broken law is. That input is made smaller, each trial in a child of its own,
 * and printed.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oracle.h"

enum { BYTES_MAX = 202, KEPT = 256 };

typedef struct input {
    size_t n;
    uint8_t byte[BYTES_MAX];
} input;

typedef struct shared {
    input now;
    uint64_t done;
    char says[160];
} shared;

static uint64_t state;
static uint64_t draw(uint64_t n) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * 0x2545f4914f6cdd1dull >> 16) % n;
}

/* ---- inputs ---- */

static void put(input *x, uint8_t c) {
    if (x->n < BYTES_MAX) x->byte[x->n++] = c;
}
static void put_text(input *x, const char *s) {
    for (; *s; s++) put(x, (uint8_t)*s);
}

static void soup(input *x, const char *letters, size_t kinds) {
    for (size_t i = draw(BYTES_MAX); i; i--) {
        put(x, (uint8_t)letters[draw(kinds)]);
        if (!draw(40))
            for (size_t run = draw(90); run; run--) put(x, 'x');
    }
}

/* Words that hold what is hard, for fields of well-made records. */
static const char *const words[] = {"",       "a",           "b1",       "NULL",     "EA",        "1/2\" NPT", "12\" monitor", "\"\"",      "\"x\"\"y\"",
                                    "\"a,b\"", "\"l\n2\"",    "\"c\r\nd\"", "\"\r\"",   "\"q\"z",    " \"s\"",    "\xc3\xa9",     "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                    "\xff",   "\xc3",        "\"\xc3\"\xa9", "\xed\xa0\x80", "\xa7", "';'",       "'it''s'",      "long text of forty bytes, or a bit more",
                                    "\"long text of fifty bytes in quotes, with a comma\"", "\t", "=1+1", "\"", "'"};

static void record_table(input *x, const bsi_dialect *d, bool broken) {
    size_t columns = 1 + draw(5);
    const char *end = ((const char *const[]){"\n", "\r\n", "\r", "\n", "\n\n"})[draw(5)];
    while (x->n + 8 < BYTES_MAX && draw(30)) {
        size_t fields = draw(20) ? columns : draw(7);
        for (size_t c = 0; c < fields; c++) {
            if (c) put(x, (uint8_t)d->delimiter);
            if (!draw(60)) put(x, 0);
            put_text(x, draw(3) ? words[draw(5)] : words[draw(sizeof words / sizeof *words)]);
        }
        put_text(x, draw(12) ? end : "\r");
    }
    if (!broken) return;
    for (size_t i = 1 + draw(4); i && x->n > 3; i--) x->byte[2 + draw(x->n - 2)] = (uint8_t)"\",\n\r'\0\xff;"[draw(8)];
}

/* Long fields, and something hard at the edge of 64 bytes. */
static void edges(input *x, const bsi_dialect *d) {
    size_t shift = draw(8);
    while (x->n < BYTES_MAX && draw(12)) {
        size_t to = (x->n - 2) / 64 * 64 + 58 + shift;
        while (x->n < to + 2 && x->n < BYTES_MAX) put(x, draw(16) ? 'x' : (uint8_t)d->delimiter);
        for (size_t i = 1 + draw(9); i; i--) put(x, (uint8_t)(draw(6) ? "\"\"\n\r,'"[draw(6)] : d->delimiter));
    }
}

/* What came before, changed a little. */
static void mutate(input *x, const input *kept) {
    const input *from = &kept[draw(KEPT)];
    if (from->n > 2) *x = *from;
    for (size_t i = 1 + draw(6); i && x->n > 2; i--) {
        size_t at = 2 + draw(x->n - 2), rest = x->n - at, some = 1 + draw(8);
        switch (draw(5)) {
        case 0: x->byte[at] = (uint8_t)draw(256); break;
        case 1: x->byte[at] = (uint8_t)"\",\n\r';\t\0\xff\xc3"[draw(10)]; break;
        case 2: /* out */
            some = BSI_MIN(some, rest);
            memmove(x->byte + at, x->byte + at + some, rest - some);
            x->n -= some;
            break;
        case 3: /* twice */
            some = BSI_MIN(some, BSI_MIN(rest, (size_t)BYTES_MAX - x->n));
            memmove(x->byte + at + some, x->byte + at, rest);
            x->n += some;
            break;
        default: { /* the tail of another */
            const input *other = &kept[draw(KEPT)];
            size_t cut = other->n > 2 ? 2 + draw(other->n - 2) : other->n;
            x->n = at;
            while (cut < other->n) put(x, other->byte[cut++]);
        }
        }
    }
}

static const char *const kinds[] = {"quotes", "ends", "sparse", "bytes", "utf8", "table", "broken", "edges", "mutate"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void make(input *x, unsigned kind, const input *kept) {
    x->n = 0;
    put(x, (uint8_t)draw(256));
    put(x, (uint8_t)draw(256));
    const bsi_dialect *d = &oracle_dialects[x->byte[0] % ORACLE_DIALECTS];
    char all[64];
    switch (kind) {
    case 0:
        memcpy(all, "\"\"\"'',\r\n a;", 12);
        all[12] = all[13] = d->delimiter;
        soup(x, all, 14);
        break;
    case 1: soup(x, "\r\n\r\n\r\n\",a", 9); break;
    case 2:
        memcpy(all, "\",\n\rabcdefghijklmnopqrstuvwxyz'", 31);
        all[31] = all[32] = d->delimiter;
        soup(x, all, 33);
        break;
    case 3:
        for (size_t i = draw(BYTES_MAX); i; i--) put(x, draw(2) ? (uint8_t)draw(256) : (uint8_t)"\",\n\r\0\xff"[draw(6)]);
        break;
    case 4: soup(x, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9\xed\xa0\"\n,a", 18); break;
    case 5: record_table(x, d, false); break;
    case 6: record_table(x, d, true); break;
    case 7: edges(x, d); break;
    default: mutate(x, kept);
    }
}

/* ---- failures ---- */

/* In a child: true if the input breaks a law or the engine. */
static bool fails(shared *s, const input *x) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        s->says[0] = 0;
        const char *says = oracle(x->byte, x->n);
        if (says) snprintf(s->says, sizeof s->says, "%s", says);
        _exit(says != NULL);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    return status != 0;
}

static void shrink(shared *s, input *x) {
    for (size_t piece = 64; piece; piece /= 2)
        for (size_t at = 2; at < x->n;) {
            input smaller = *x;
            size_t out = BSI_MIN(piece, x->n - at);
            memmove(smaller.byte + at, smaller.byte + at + out, x->n - at - out);
            smaller.n -= out;
            if (fails(s, &smaller)) *x = smaller;
            else at += out;
        }
    for (size_t at = 0; at < x->n; at++) { /* plain bytes, where any will do */
        input plainer = *x;
        plainer.byte[at] = at < 2 ? 0 : 'x';
        if (plainer.byte[at] != x->byte[at] && fails(s, &plainer)) *x = plainer;
    }
    fails(s, x);
}

static void print_input(const input *x) {
    printf("  C    \"");
    for (size_t i = 0; i < x->n; i++) {
        uint8_t c = x->byte[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c == '\n') printf("\\n");
        else if (c == '\r') printf("\\r");
        else if (c >= ' ' && c < 127) printf("%c", c);
        else printf("\\%03o", c);
    }
    printf("\"\n  hex  ");
    for (size_t i = 0; i < x->n; i++) printf("%02x", x->byte[i]);
    printf("\n");
}

/* ---- running ---- */

static bool run(shared *s, unsigned kind, uint64_t count, uint64_t seed) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        static input kept[KEPT];
        state = (seed + 1) * 0x9e3779b97f4a7c15ull + kind;
        for (int i = 0; i < 8; i++) draw(2);
        for (unsigned i = 0; i < KEPT; i++) make(&kept[i], (unsigned)draw(KINDS - 1), kept);
        for (uint64_t i = 0; i < count; i++) {
            make(&s->now, kind, kept);
            s->says[0] = 0;
            const char *says = oracle(s->now.byte, s->now.n);
            s->done++;
            if (says) {
                snprintf(s->says, sizeof s->says, "%s", says);
                _exit(1);
            }
            if (!draw(8)) kept[draw(KEPT)] = s->now;
        }
        _exit(0);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    if (!status) return true;
    input x = s->now;
    printf("FAIL  %s, seed %llu, input %llu: %s\n", kinds[kind], (unsigned long long)seed, (unsigned long long)s->done,
           WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : s->says);
    if (fails(s, &x)) shrink(s, &x);
    else printf("  alone it does not fail: what was parsed before it counts\n");
    if (s->says[0]) printf("  made smaller: %s\n", s->says);
    print_input(&x);
    printf("  again: drive_parse --hex, with the digits above\n");
    return false;
}

static int one(const char *hex) {
    input x = {0};
    unsigned byte;
    for (; x.n < BYTES_MAX && sscanf(hex + 2 * x.n, "%2x", &byte) == 1; x.n++) x.byte[x.n] = (uint8_t)byte;
    print_input(&x);
    const char *says = oracle(x.byte, x.n);
    printf("%s\n", says ? says : "all holds");
    return says != NULL;
}

int main(int argc, char **argv) {
    const char *kind = NULL, *count = getenv("BOMSYNC_FUZZ_COUNT"), *seed = getenv("BOMSYNC_FUZZ_SEED");
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--hex")) return one(argv[i + 1]);
        if (!strcmp(argv[i], "--kind")) kind = argv[i + 1];
        if (!strcmp(argv[i], "--count")) count = argv[i + 1];
        if (!strcmp(argv[i], "--seed")) seed = argv[i + 1];
    }
    uint64_t each = count && *count ? strtoull(count, NULL, 10) : 120000, from = seed && *seed ? strtoull(seed, NULL, 10) : 1;
    shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) return 2;
    unsigned passed = 0, failed = 0;
    uint64_t done = 0;
    for (unsigned i = 0; i < KINDS; i++) {
        if (kind && strcmp(kind, kinds[i]) != 0) continue;
        s->done = 0;
        if (run(s, i, each, from)) passed++;
        else failed++;
        done += s->done;
    }
    printf("%llu inputs, seed %llu, instruction sets: scalar%s%s\n", (unsigned long long)done, (unsigned long long)from,
           oracle_runs(BSI_ISA_AVX2) ? " avx2" : "", oracle_runs(BSI_ISA_AVX512) ? " avx512" : "");
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed || !passed;
}
