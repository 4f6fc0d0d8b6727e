#!/usr/bin/env python3
"""Two files walked side by side against the same two files compared record by record (`--tiers none`): the same bytes.

Random tables, sorted in many ways or not at all, then edited: records changed, added, deleted, doubled, moved, made unreadable;
quotes, line ends in quotes, CRLF, lone CRs, blank lines; keys anywhere; both directions; one of them in another order, or with its columns
in another order. Each table by the program itself and
by build/tests/bomsync_tiny, whose reads of 192 bytes and units of 300 put a border next to every record; by 1, 2 and 7 workers,
each instruction set, and each set of tiers.
"""
import os
import random
import sys

from harness import Suite, options, programs_of, same, with_tiny, write
from laws import usable_isas

WORDS = ["", "a", "b", "steel", "bolt M8", "x" * 30, "pump, 3 m", 'tube 1/2"', "F\u00fchrung", "\u00e9", "\u4e2d\u6587", "\U0001f529", "line\nend", "cr\rlf\r\n", '"q"', "NULL"]


class Shape:
    """A table's columns, its key, how its records are ordered and written."""

    def __init__(self, rng):
        self.rng = rng
        self.keys = rng.choice([1, 1, 2, 2, 3, 5])
        self.others = rng.randint(0 if self.keys > 1 else 1, 5)
        names = ["k%d" % i for i in range(self.keys)] + ["c%d" % i for i in range(self.others)]
        where = rng.random()
        if where < 0.25:                                  # keys last
            names = names[self.keys:] + names[:self.keys]
        elif where < 0.4:                                 # in the middle, or apart
            rng.shuffle(names)
        self.names = names
        self.key = [n for n in names if n[0] == "k"]
        if rng.random() < 0.2:
            rng.shuffle(self.key)
        self.sort = rng.choice(["number", "number", "number", "text", "groups", "down", "none", "last column first"])
        self.plain = rng.random() < 0.5                   # no quotes, no odd words
        self.all_quoted = rng.random() < 0.2
        self.some_bare = rng.random() < 0.3              # a few of them not
        self.bare = not self.plain and rng.random() < 0.3
        self.end = rng.choice(["\n", "\n", "\n", "\r\n"])
        self.ends = rng.random() < 0.15                   # mixed
        self.wide = rng.random() < 0.1                    # keys above 64 bytes
        self.broken = rng.random() < 0.25

    def key_value(self, column, n):
        r = self.rng
        if self.wide and column == 0:
            return "W" * 70 + str(n)
        if self.rng.random() < 0.003:
            return r.choice(["", "odd", "a,b", 'q"', "NULL", "\u00fc"])
        return str(n)

    def make(self, count):
        """Records as lists of texts, in order."""
        rows, seen = [], set()
        top = max(2, int(count ** (1.0 / self.keys)) + 2)
        while len(rows) < count:
            key = tuple(self.rng.randrange(count * 3 if self.keys == 1 else top * 2) for _ in range(self.keys))
            if key in seen and self.rng.random() < 0.995:
                count -= self.rng.random() < 0.1
                continue
            seen.add(key)
            rows.append(key)
        if self.sort == "number":
            rows.sort()
        elif self.sort == "text":
            rows.sort(key=lambda k: [str(x) for x in k])
        elif self.sort == "groups":                       # groups in any order, sorted inside
            order = {}
            rows.sort(key=lambda k: (order.setdefault(k[0] % 7, self.rng.random()), k))
        elif self.sort == "down":
            rows.sort(reverse=True)
        elif self.sort == "last column first":
            rows.sort(key=lambda k: k[::-1])
        else:
            self.rng.shuffle(rows)
        return [self.record(k) for k in rows]

    def record(self, key):
        made = {"k%d" % i: self.key_value(i, k) for i, k in enumerate(key)}
        for i in range(self.others):
            made["c%d" % i] = self.value()
        return [made[n] for n in self.names]

    def value(self):
        return str(self.rng.randrange(1000)) if self.plain or self.rng.random() < 0.7 else self.rng.choice(WORDS)

    def line(self, record):
        fields = []
        for v in record:
            special = any(c in v for c in ',"\r\n')
            if self.bare and '"' in v and not any(c in v for c in ",\r\n") and not v.startswith('"'):
                fields.append(v)                          # 1/2" as it is: odd when strict
            elif special or (self.all_quoted and not (self.some_bare and self.rng.random() < 0.003)):
                fields.append('"' + v.replace('"', '""') + '"')
            else:
                fields.append(v)
        return (",".join(fields)).encode()

    def ending(self):
        return self.rng.choice(["\n", "\r\n", "\n\n", "\r"] if self.rng.random() < 0.1 else ["\n", "\r\n"]).encode() if self.ends else self.end.encode()


BROKEN = [b"x", b"1,2,3,4,5,6,7,8,9,10,11,12", b"\xff\xfe,1", b"nul\x00,2", b'a"b,"c"d', b"", b'"open, quote"x', b"\xc3", b",,,,,,,,,"]


def edit(shape, lines, rows):
    """The next day's file: most lines as they are."""
    r = shape.rng
    out = []
    rate = r.choice([0, 0.002, 0.01, 0.05, 0.3])
    for line, row in zip(lines, rows):
        x = r.random()
        if x >= rate:
            out.append(line)
        elif x < rate * 0.6:
            other = list(row)
            i = r.randrange(len(other))
            if shape.names[i][0] != "k" or r.random() < 0.1:
                other[i] = shape.value()
            out.append(shape.line(other) + shape.ending())
        elif x < rate * 0.75:
            pass
        elif x < rate * 0.9:
            out += [line] + [shape.line(shape.record([r.randrange(5000) for _ in range(shape.keys)])) + shape.ending() for _ in range(r.choice([1, 1, 2, 30]))]
        elif x < rate * 0.95:
            out += [line, line]                           # an identical copy
        else:
            other = list(row)
            other[-1] = shape.value()
            out += [line, shape.line(other) + shape.ending()]
    return out


def disturb(shape, lines):
    r = shape.rng
    lines = list(lines)
    for _ in range(r.choice([0, 0, 1, 2, 6])):
        i = r.randrange(len(lines) + 1)
        kind = r.random()
        if shape.broken and kind < 0.3 and lines:             # a copy that cannot be read, but for its key
            lines.insert(i, r.choice(lines).rstrip(b"\r\n") + r.choice([b"\xff", b"\x00", b",1"]) + shape.ending())
        elif shape.broken and kind < 0.6:
            lines.insert(i, r.choice(BROKEN) + shape.ending())
        elif kind < 0.75 and lines:
            lines.insert(i, r.choice(lines))              # a copy far away
        elif kind < 0.85 and lines:
            j = r.randrange(len(lines))
            n = r.randint(1, 40)
            moved = lines[j:j + n]
            del lines[j:j + n]
            lines[min(i, len(lines)):min(i, len(lines))] = moved
        elif kind < 0.95:
            lines.insert(i, shape.line(shape.record([r.randrange(10 ** 6) for _ in range(shape.keys)])) + shape.ending())
    return lines


def other_order(shape, rows, lines):
    """The same records as another system exports them: in another order, or with other columns in front."""
    r = shape.rng
    kind = r.random()
    if kind < 0.5:
        lines = list(lines)
        r.shuffle(lines)
    elif kind < 0.7:                                      # pieces of it
        n = r.choice([2, 5, 20])
        pieces = [lines[i:i + n] for i in range(0, len(lines), n)]
        r.shuffle(pieces)
        lines = [x for p in pieces for x in p]
    else:
        places = list(range(len(shape.names)))
        r.shuffle(places)
        order = [shape.names[i] for i in places]
        if r.random() < 0.5:
            rows = r.sample(rows, len(rows))
        lines = [shape.line([row[i] for i in places]) + shape.ending() for row in rows]
        return order, lines
    return shape.names, lines


def table(shape, lines, names=None):
    content = (",".join(names or shape.names)).encode() + shape.end.encode() + b"".join(lines)
    return content[:-1] if shape.rng.random() < 0.1 and content.endswith(b"\n") else content


def switches(rng, isas):
    out = []
    if rng.random() < 0.15:
        out += ["--nulls", "NULL"]
    if rng.random() < 0.5:
        out += ["--quotes", "lenient"]
    return out


def one(folder, bom, programs, seed, isas):
    rng = random.Random(seed)
    shape = Shape(rng)
    rows = shape.make(rng.choice([0, 1, 2, 5, 30, 120, 400]))
    lines = [shape.line(r) + shape.ending() for r in rows]
    a = disturb(shape, lines) if rng.random() < 0.5 else lines
    names = shape.names
    if rng.random() < 0.3:
        names, b = other_order(shape, rows, lines)
        if names == shape.names and rng.random() < 0.7:
            b = disturb(shape, b)
    else:
        b = edit(shape, lines, rows)
    if names == shape.names and rng.random() < 0.3:
        names, b = other_order(shape, rows, b) if rng.random() < 0.3 else (names, rng.sample(b, len(b)))
    if rng.random() < 0.5:
        b = disturb(shape, b)
    old, new = write(folder, "old.csv", table(shape, a)), write(folder, "new.csv", table(shape, b, names))
    if rng.random() < 0.2:
        old, new = new, old
    args = ["diff", old, new, "--key", ",".join(shape.key)] + switches(rng, isas)
    if shape.others and rng.random() < 0.1:
        args += ["--ignore", "c0"]
    if rng.random() < 0.1:
        args += ["--format", rng.choice(["csv", "summary"])]
    slow = bom(*args, "--tiers", "none", "--workers", 1)
    for path in programs:
        bom.path = path
        for workers in rng.sample([1, 2, 7], 2):
            more = (["--memory", "16M"] if rng.random() < 0.1 else []) + (["--io", "uring"] if rng.random() < 0.1 else [])
            more += ["--tiers", rng.choice(["block", "block,key", "sequence,key"])] if rng.random() < 0.1 else []
            fast = bom(*args, "--workers", workers, "--isa", rng.choice(isas), *more)
            same("exit, lines, counts of %s" % os.path.basename(path), (fast.code, fast.out, fast.err), (slow.code, slow.out, slow.err))
    bom.path = programs[0]


def batch(folder, bom, programs, seed, isas, count):
    for i in range(count):
        bom.forget()
        one(folder, bom, programs, "%s %d" % (seed, i), isas)


def main():
    o = options("align", 20, with_tiny)
    if not o.bomsync:
        print("skipped: no --bomsync given")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    suite = Suite("align", o)
    isas = usable_isas(suite.bom, suite.base)
    os.remove(os.path.join(suite.base, "isa.csv"))
    programs = programs_of(suite, o)
    for i in range(o.count):
        suite.run("tables %d" % i, batch, suite.bom, programs, "%d %d" % (o.seed, i), isas, 25)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
