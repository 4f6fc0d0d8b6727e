#!/usr/bin/env python3
"""Records that are kept back, night after night: which, where in the snapshot, and since when, against a naive reference.

Tables with records that are broken (too few fields, bytes that are not UTF-8), stand twice, and are mended again, between others that
change, come and go; line ends inside quotes, blank lines, LF, CRLF or CR, one file or several, plain, packed or from a pipe, by any number of workers. Also by
build/tests/bomsync_tiny, whose units of 96 to 1024 bytes put the border of two workers next to every block.
"""
import gzip
import random
import re
import sys

from harness import Suite, options, programs_of, same, with_tiny, write

FEED = ["--key", "p,k", "--partition", "p"]
LINE_END = re.compile(rb"\r\n|\r|\n")
RULES = ("columns", "encoding", "duplicate")


class Record:
    def __init__(self, rng, number):
        self.part, self.key, self.broken = str(rng.randrange(3)), "K%05d" % number, None
        self.change(rng)

    def change(self, rng):
        self.text = rng.choice(["t%d" % rng.randrange(10**6), "", "two\nlines", "x\r\ny\rz", "a,b"]) if rng.random() < 0.3 else "t%d" % rng.randrange(10**6)
        self.last = rng.choice("abc")

    def line(self):
        text = self.text.encode()
        if self.broken == "encoding":
            text = b"\xff" + text
        if any(c in text for c in b",\r\n"):
            text = b'"' + text + b'"'
        fields = [self.part.encode(), self.key.encode(), text] + ([] if self.broken == "columns" else [self.last.encode()])
        return b",".join(fields)


def next_night(rng, rows, extra, odd):
    """Changes in place, and copies that differ: [(place, line)]."""
    for r in rng.sample(rows, rng.choice((0, 1, len(rows) // 50, len(rows) // 8))):
        r.change(rng)
    for _ in range(rng.choice((0, 0, 2))):
        del rows[rng.randrange(len(rows))]
    for _ in range(rng.choice((0, 0, 3))):
        rows.insert(rng.randrange(len(rows) + 1), Record(rng, rng.randrange(10**5, 10**6)))
    for r in rows:
        if r.broken and rng.random() < 0.15:
            r.broken = None
    for r in rng.sample(rows, rng.choice((0, 1, 4))):
        r.broken = rng.choice(("columns", "encoding"))
    ragged = [r for r in rows if r.broken == "columns"]
    for r in ragged[18:]:  # above twenty a snapshot may be refused
        r.broken = None
    if rng.random() < 0.3:
        extra.clear()
    if len(ragged) < 18 and rng.random() < 0.4:  # what looks like the key of a broken record is that of another one, far from it; both are new
        good, bad = Record(rng, rng.randrange(10**6, 10**7)), Record(rng, 0)
        bad.part, bad.key, bad.broken = good.part, good.key, "columns"
        for r in (good, bad):
            rows.insert(rng.randrange(len(rows) + 1), r)
        odd.add(good.key)
    if rng.random() < 0.3:
        r = rng.choice([r for r in rows if not r.broken and r.key not in odd])
        extra[r.key] = b",".join([r.part.encode(), r.key.encode(), b"another text", b"z"])


def parts_of(rng, rows, extra, odd, end, count):
    """The files of a night, and of each record that is kept back its line in its file and its own bytes: {(key, rule): [(file, line, start, end)]}. But
    for odd ones: what is said of them the join decides."""
    out, found = [], {}
    per = len(rows) // count + 1
    for f in range(count):
        data = b"p,k,v,t" + end
        mine = [(r.line(), r.key, r.broken or ("duplicate" if r.key in extra else None)) for r in rows[f * per:(f + 1) * per]]
        known = {r.key for r in rows if not r.broken}
        if f == count - 1:
            mine += [(line, key, "duplicate") for key, line in extra.items() if key in known]
        for line, key, rule in mine:
            if rng.random() < 0.02:
                data += end * rng.choice((1, 2))
            if rule and key not in odd:
                found.setdefault((key, rule), []).append((f, len(LINE_END.findall(data)) + 1, len(data), len(data) + len(line)))
            data += line + end
        out.append(data)
    return out, found


def check(exceptions, found, odd, since, now, paths, files):
    """What `exceptions` says against what was made."""
    seen = {}
    for e in exceptions:
        key = e["value"].split(",")[1] if e["value"] else None
        if e["rule"] in RULES and key not in odd:
            seen.setdefault((key, e["rule"]), []).append(e)
    same("keys and rules", sorted(seen), sorted(found))
    for what, places in found.items():
        since.setdefault(what, now)
        same("how many of %s %s" % what, len(seen[what]), len(places))
        for e, (f, line, start, end) in zip(seen[what], places):
            same("file of %s %s" % what, e["file"], paths[f])
            assert start <= e["byte"] <= end, "%s %s: byte %d is not of the record at %d to %d" % (*what, e["byte"], start, end)
            inside = e["byte"] - start
            same("line of %s %s" % what, e["line"], line + len(LINE_END.findall(files[f][start:start + inside])))
            same("since when %s %s" % what, e["since"], since[what])
    for what in list(since):
        if what not in found:
            del since[what]


def run_one(folder, bom, programs, seed):
    rng = random.Random(seed)
    bom.path = rng.choice(programs)
    end = rng.choice((b"\n", b"\n", b"\r\n", b"\r"))
    count = rng.choice((1, 1, 3))
    kind = rng.choice(("plain", "plain", "gz", "pack", "pipe"))
    rows = [Record(rng, i) for i in range(rng.choice((60, 300, 1500)))]
    extra, since, odd = {}, {}, set()
    store, slow = folder + "/fast", folder + "/slow"
    for s in (store, slow):
        bom("init", "--store", s, expect=0)
    codec = ["--block-records", rng.choice((5, 16)), "--codec", rng.choice(("symbols", "auto"))]
    for night in range(7):
        if night not in (0, 4):  # in the fifth night nothing changes
            next_night(rng, rows, extra, odd)
        order = random.Random(seed * 31 + (night if night != 4 else 3))  # of blank lines
        files, found = parts_of(order, rows, extra, odd, end, count)
        now = "2026-01-%02dT03:04:05Z" % (night + 1)
        paths = []
        for f, data in enumerate(files):
            paths.append(write(folder, "%d-%d.csv%s" % (night, f, ".gz" if kind == "gz" else ""), gzip.compress(data, mtime=0) if kind == "gz" else data))
        given = list(paths)
        if kind == "pack" and count == 1:
            given = [paths[0] + ".pack"]
            bom("pack", "--output", given[0], *codec[:2], paths[0], expect=0)
        stdin = paths[0] if kind == "pipe" and count == 1 else None
        if stdin:
            given = ["-"]
        first = [*FEED, *codec] if night == 0 else []
        more = ["--now", now, "--complete", *first]
        got = bom("sync", "--store", store, *more, "--workers", rng.choice((1, 2, 7)), "--json", *given, stdin=stdin, expect=(0, 4, 5)).json()
        plain = bom("sync", "--store", slow, *more, "--workers", 1, "--tiers", "none", "--json", *given, stdin=stdin, expect=(0, 4, 5)).json()
        same("what the slow way says", plain, got)
        told = bom("exceptions", "--store", store, "--json", expect=(0, 4, 5)).json_lines()
        same("what the slow way keeps", bom("exceptions", "--store", slow, "--json", expect=(0, 4, 5)).json_lines(), told)
        check(told, found, odd, since, now, given, files)
    bom("verify", "--store", store, expect=0)


def scope_leaves_the_others(folder, bom, seed):
    """A snapshot of one partition keeps what is known of the others: each copy of a record that stands twice there."""
    rng = random.Random(seed)
    rows = [Record(rng, i) for i in range(300)]
    for r in rows:
        r.text = "t"
    rows.sort(key=lambda r: (r.part, r.key))
    there = [r for r in rows if r.part == "1"]
    there[3].broken = "encoding"
    lines = [b"p,k,v,t"] + [r.line() for r in rows] + [b",".join([b"1", there[9].key.encode(), b"other", b"z"])]
    store = folder + "/store"
    bom("init", "--store", store, expect=0)
    bom("sync", "--store", store, *FEED, "--complete", "--now", "2026-01-01T00:00:00Z", write(folder, "all.csv", b"\n".join(lines) + b"\n"), expect=4)
    before = [e for e in bom("exceptions", "--store", store, "--json", expect=(0, 4)).json_lines()]
    same("rules", sorted(e["rule"] for e in before), ["duplicate", "duplicate", "encoding"])
    mine = [r for r in rows if r.part == "0"]
    mine[0].broken = "encoding"
    part = b"\n".join([b"p,k,v,t"] + [r.line() for r in mine]) + b"\n"
    bom("sync", "--store", store, "--scope", "partition=0", "--complete", "--now", "2026-01-02T00:00:00Z", write(folder, "part.csv", part), expect=4)
    after = bom("exceptions", "--store", store, "--json", expect=(0, 4)).json_lines()
    same("of the other partition", [e for e in after if e["file"].endswith("all.csv")], before)
    same("all", len(after), len(before) + 1)


def main():
    o = options("kept", 60, with_tiny)
    suite = Suite("kept", o)
    programs = programs_of(suite, o)
    for i in range(o.count):
        suite.run("nights %d" % i, lambda folder, bom, seed: run_one(folder, bom, programs, seed), suite.bom, o.seed + i)
    suite.bom.path = programs[0]
    suite.run("a scope leaves the others", scope_leaves_the_others, suite.bom, o.seed)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
