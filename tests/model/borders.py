#!/usr/bin/env python3
"""Line ends in quotes, inch marks, CRLF across every border: of a read, of a worker's unit, of a block.

Two programs. build/tests/bomsync_tiny has the engine's code with reads of 256 bytes and units of 96 to 1024, so that a
file of 1.5 kB has borders everywhere; what stands in front is made longer by a byte until each byte of the pattern has
been at each border. The program itself reads a file of a few MB, which has some borders of its real sizes. Judge of both
is Python's csv reader.
"""
import csv
import io
import json
import os
import sys

from harness import NOW, Suite, options, same, with_tiny, write
from laws import usable_isas

HEAD = "k,v,w"
# %s: a counter of fixed width. Each is one record (or a blank line more), its line end included.
PATTERNS = {
    "line end in quotes": '%s,"a\nb\n",z\n',
    "a record in quotes": '%s,"x\n%s,y,z\n",w\n',
    "doubled quotes at line ends": '%s,"""\n""\n"",\n",z\n',
    "only quotes and line ends": '%s,"\n\n""\n",""\n',
    "CRLF in quotes and out": '%s,"a\r\nb\r\n",z\r\n',
    "lone CR in quotes and out": '%s,"a\rb\r",z\r',
    "blank lines, CRLF": '%s,a,"z"\r\n\r\n',
    "inch marks": '%s,1/2" NPT,12"x\n',
    "inch mark at the end": '%s,z,12"\r\n',
    "inch mark, then quotes": '%s,a"b,"c\n"\n',
    "data behind the closing quote": '%s,"a\n"b",z"\n',
    "mixed ends": '%s,"a\r\n",\r%s2,b,"\n"\n',
}


def text(pattern, front, records, tag=""):
    """Header, a record that moves the rest by `front` bytes, then the pattern."""
    out = [HEAD + "\n", "first,%s,%s\n" % ("f" * front, tag)]
    for i in range(records):
        out.append(pattern.replace("%s", "K%06d" % i))
    return "".join(out)


def records_of(content):
    return [r for r in csv.reader(io.StringIO(content, newline=""), strict=False) if r][1:]


def line(op, row, before=None):
    def obj(pairs):
        return json.dumps(dict(pairs), separators=(",", ":"), ensure_ascii=False)
    if op == "c":
        return '{"op":"c","key":%s,"after":%s}' % (obj([("k", row[0])]), obj([("v", row[1]), ("w", row[2])]))
    moved = [(n, a, b) for n, a, b in zip("vw", before[1:], row[1:]) if a != b]
    return '{"op":"u","key":%s,"before":%s,"after":%s}' % (obj([("k", row[0])]), obj([(n, a) for n, a, _ in moved]),
                                                         obj([(n, b) for n, _, b in moved]))


def created(content):
    """The lines of a diff from an empty file."""
    return [line("c", r) for r in records_of(content)]


def changed(old, new):
    was = {r[0]: r for r in records_of(old)}
    return [line("c", r) if r[0] not in was else line("u", r, was[r[0]]) for r in records_of(new) if was.get(r[0]) != r]


def joined(lines):
    return "".join(l + "\n" for l in lines).encode()


def tiny_borders(folder, bom, pattern, isas):
    """Every byte of the pattern at every border: 1, 2 and 7 workers, instruction sets and ways to read in turn, a stream, a second snapshot."""
    empty = write(folder, "empty.csv", (HEAD + "\n").encode())
    length = len(pattern.replace("%s", "K000000"))
    count = max(12, 1400 // length)
    for front in range(length):
        new = text(pattern, front, count)
        want = joined(created(new))
        path = write(folder, "new.csv", new.encode())
        for n, workers in enumerate((1, 2, 7)):
            isa = isas[(front + n) % len(isas)]
            how = ["--workers", workers, "--isa", isa, "--io", ("auto", "uring")[(front + n) % 2]]
            got = bom("diff", empty, path, "--key", "k", "--quotes", "lenient", *how, "-q", expect=1)
            same("%d bytes in front, %s" % (front, how), got.out, want)
        bom.forget()
        got = bom("diff", empty, "-", "--key", "k", "--quotes", "lenient", "--workers", 7, "-q", stdin=path, expect=1)
        same("%d bytes in front, stdin" % front, got.out, want)
        # strict: bare quotes keep a record back, and move no record end
        strict = [bom("diff", empty, path, "--key", "k", "--workers", w, "--isa", i, "-q", expect=(1, 4)) for w, i in ((1, "scalar"), (7, isas[-1]))]
        same("%d bytes in front, strict" % front, (strict[1].code, strict[1].out), (strict[0].code, strict[0].out))
        # the last snapshot's blocks stand elsewhere; some changed
        middle = "K%06d" % (count // 2)
        old = write(folder, "old.csv", text(pattern, front * 3 % length, count).replace(middle, "G" + middle[1:]).encode())
        want = changed(open(old, newline="").read(), new)
        for workers, way in ((1, "auto"), (7, "auto"), (1, "uring"), (7, "uring")):
            got = bom("diff", old, path, "--key", "k", "--quotes", "lenient", "--workers", workers, "--io", way, "-q", expect=1)
            kept = [l for l in got.out.decode().splitlines(True) if not l.startswith('{"op":"d"')]
            same("%d bytes in front, a second snapshot, %d workers, %s" % (front, workers, way), "".join(kept).encode(), joined(want))


def tiny_store(folder, bom, pattern, isas):
    """Blocks that are coded with a dictionary of the first snapshot, patched and written anew by the next ones."""
    store = os.path.join(folder, "store")
    bom("init", "--store", store, "--shards", "2", expect=0)
    first = True
    for tag, count in (("a", 60), ("b", 60), ("c", 90), ("d", 86)):
        content = text(pattern, 7, count, tag).replace("K000003", "%s000003" % tag.upper())
        path = write(folder, "s.csv", content.encode())
        bom("sync", "--store", store, *(["--key", "k"] if first else []), "--quotes", "lenient", "--complete", "--now", NOW, "--workers", 1 + first * 6, path,
            expect=(0, 5))
        got = bom("export", "--store", store, "--as", "source", expect=0).out
        same("export at \"%s\"" % tag, got, exported(records_of(content)))
        bom("verify", "--store", store, expect=0)
        first = False


def exported(rows):
    def field(v):
        return '"' + v.replace('"', '""') + '"' if any(c in v for c in ',"\r\n') else v
    return (HEAD + "\n" + "".join(",".join(map(field, r)) + "\n" for r in sorted(rows, key=lambda r: [v.encode() for v in r]))).encode()


def real_borders(folder, bom, pattern, isas):
    """The program with its real sizes: 3 MB; export and counts are those of Python's reader."""
    empty = write(folder, "empty.csv", (HEAD + "\n").encode())
    length = len(pattern.replace("%s", "K000000"))
    content = text(pattern, 3, 3000000 // length)
    path = write(folder, "new.csv", content.encode())
    rows = records_of(content)
    want = joined(created(content))
    for workers, isa, way in [(1, "scalar", "auto"), (2, isas[-1], "uring"), (7, isas[len(isas) // 2], "auto")]:
        got = bom("diff", empty, path, "--key", "k", "--quotes", "lenient", "--workers", workers, "--isa", isa, "--io", way, "-q", expect=1)
        same("%d workers, %s, %s" % (workers, isa, way), got.out, want)
    store = os.path.join(folder, "store")
    bom("init", "--store", store, expect=0)
    run = bom("sync", "--store", store, "--key", "k", "--quotes", "lenient", "--complete", "--now", NOW, "--json", "--workers", 7, path, expect=0)
    same("records read", run.json()["records_in"], len(rows))
    same("export", bom("export", "--store", store, expect=0).out, exported(rows))


def main():
    o = options("borders", extra=with_tiny)
    if not o.bomsync:
        print("skipped: no --bomsync given")
        print("0 passed, 0 failed, %d skipped" % (3 * len(PATTERNS)))
        return 0
    suite = Suite("borders", o)
    isas = usable_isas(suite.bom, suite.base)
    os.remove(os.path.join(suite.base, "isa.csv"))
    for name, pattern in PATTERNS.items():
        suite.run("real borders: %s" % name, real_borders, suite.bom, pattern, isas)
    suite.bom.path = os.path.abspath(o.tiny)
    for name, pattern in PATTERNS.items():
        suite.run("tiny borders: %s" % name, tiny_borders, suite.bom, pattern, isas)
        suite.run("tiny store: %s" % name, tiny_store, suite.bom, pattern, isas)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
