#!/usr/bin/env python3
"""Packed snapshots: whatever a plain file does, its pack does, and a pack that was damaged is never read wrong.

Two stores are led through the same snapshots, one by plain files, one by packs; exit codes, figures, changes and state
must be the same. Then packs are cut, flipped and mixed up.
"""
import gzip
import json
import os
import random
import re
import subprocess
import sys

from harness import NOW, Failed, Suite, options, same, write

SEPARATORS = {"comma": (",", []), "semicolon": (";", ["--delimiter", ";"]), "pipe": ("|", ["--delimiter", "|"])}


def zstd(path):
    p = subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return p.stdout if p.returncode == 0 else None


def field(text, delimiter, always):
    if always or any(c in text for c in (delimiter, '"', "\n", "\r")):
        return '"' + text.replace('"', '""') + '"'
    return text


class Form:
    """How a table is written down; the same for all snapshots of one case."""

    def __init__(self, rng):
        self.delimiter, self.args = SEPARATORS[rng.choice(["comma"] * 4 + ["semicolon", "pipe"])]
        self.end = rng.choice(["\n"] * 4 + ["\r\n", "\r\n", "\r"])
        self.always = rng.random() < 0.2
        self.blanks = rng.random() < 0.2
        self.last_end = rng.random() < 0.7
        self.block_records = rng.choice([None, None, 1, 3, 40])

    def text(self, rows, rng):
        lines = [self.delimiter.join(field(v, self.delimiter, self.always) for v in row) for row in [["plant", "id", "qty", "note"]] + rows]
        if self.blanks:
            at = random.Random(7)
            lines = [l + self.end * at.choice([0] * 20 + [1, 2]) for l in lines]
        text = self.end.join(lines) + (self.end if self.last_end or not rows else "")
        return text.encode()

    def read(self):
        return self.args + (["--block-records", str(self.block_records)] if self.block_records else [])


def table(rng, count, wide):
    notes = ["", "plain", "two words", "line\nbreak", 'say "hi"', "a,b;c|d", "cr\rhere", "crlf\r\nhere", "ü漢", "x" * 60]
    return [[rng.choice(["1000", "2000"]), "I%06d" % i, str(rng.randrange(100)), rng.choice(notes) + ("w" * rng.randrange(wide) if wide else "")]
            for i in range(count)]


def change(rng, rows):
    rows = [list(r) for r in rows]
    kind = rng.choice(["same", "same", "values", "values", "cluster", "insert", "delete", "shuffle", "twins", "conflict", "all", "front"])
    n = len(rows)
    if kind == "values" and n:
        for i in rng.sample(range(n), max(1, n // 100)):
            rows[i][2] = str(rng.randrange(1000, 2000))
    elif kind == "cluster" and n:
        a = rng.randrange(n)
        for r in rows[a:a + max(1, n // 50)]:
            r[3] = "changed"
    elif kind == "insert":
        a = rng.randrange(n + 1)
        rows[a:a] = [["1000", "N%06d%d" % (i, rng.randrange(9)), "1", "new"] for i in range(rng.choice([1, 5, 40]))]
    elif kind == "delete" and n:
        a = rng.randrange(n)
        del rows[a:a + rng.choice([1, 5, 40])]
    elif kind == "shuffle":
        rng.shuffle(rows)
    elif kind == "twins" and n:
        a = rng.randrange(n)
        rows[a:a] = [list(r) for r in rows[:rng.choice([1, 30, 200])]]
    elif kind == "conflict" and n:
        rows.insert(rng.randrange(n + 1), rows[rng.randrange(n)][:2] + ["9", "other"])
    elif kind == "all":
        for r in rows:
            r[2] = r[2] + ".0"
    elif kind == "front" and n:
        rows.insert(0, ["1000", "A%d" % rng.randrange(99), "1", "first"])
    seen, kept = set(), []  # twins of twins stay twins; keys of "insert" may repeat
    for r in rows:
        if kind != "twins" and kind != "conflict" and (r[0], r[1]) in seen:
            continue
        seen.add((r[0], r[1]))
        kept.append(r)
    return kept


def store(bom, folder, name):
    path = os.path.join(folder, name)
    bom("init", "--store", path, expect=0)
    return path


def sync(bom, path, files, *more, **how):
    return bom("sync", "--store", path, "--json", "--complete", "--now", NOW, "--partition", "plant", "--key", "plant,id", *more, *files, **how)


def published(bom, path):
    """What a store says, the names and sizes of files left out."""
    out = [bom("export", "--store", path).out, bom("exceptions", "--store", path, "--json").out, bom("holds", "--store", path, "--json").out]
    log = bom("log", "--store", path, "--json").out
    for line in log.splitlines():
        out.append(bom("cat", "--store", path, json.loads(line)["generation"]).out)
    return [re.sub(rb'"file":"[^"]*"', b'"file":""', o) for o in out + [log]]


def pack(bom, source, *more):
    target = source + ".zst"
    if os.path.exists(target):
        os.remove(target)
    bom("pack", "-q", source, "-o", target, *more, expect=0)
    return target


def law_same_as_plain(folder, bom, seed):
    rng = random.Random(seed)
    form = Form(rng)
    rows = table(rng, rng.choice([0, 1, 2, 30, 300, 300, 2000]), rng.choice([0, 0, 20, 900]))
    plain, packed = store(bom, folder, "plain"), store(bom, folder, "packed")
    tiers = rng.choice([[], [], [], ["--tiers", "block,key"], ["--tiers", "none"]])
    for step in range(rng.choice([2, 3, 4])):
        name = write(folder, "%d.csv" % step, form.text(rows, rng))
        file = pack(bom, name, "--workers", rng.choice([1, 2, 7]), *form.read())
        same("content of the pack", zstd(file), open(name, "rb").read())
        more = ["--workers", str(rng.choice([1, 2, 7]))] + form.read() + tiers
        a = sync(bom, plain, [name], *more)
        b = sync(bom, packed, [file], *more, *rng.choice([[], [], [], ["--verify-pack"]]))
        same("exit code of step %d" % step, b.code, a.code)
        same("figures of step %d" % step, b.out.replace(b".csv.zst", b".csv"), a.out)
        same("published at step %d" % step, published(bom, packed), published(bom, plain))
        rows = change(rng, rows) if rng.random() < 0.9 else rows
    bom("verify", "--store", packed, expect=0)


def law_any_reader(folder, bom, seed):
    """diff, apply, stdin, an encoding, other block sizes: a pack is a zstd file."""
    rng = random.Random(seed)
    form = Form(rng)
    form.block_records = None
    rows = table(rng, rng.choice([0, 3, 400]), rng.choice([0, 900]))
    old, new = write(folder, "old.csv", form.text(rows, rng)), write(folder, "new.csv", form.text(change(rng, rows), rng))
    packs = [pack(bom, p, *form.args, "--block-records", rng.choice([1, 12, 50])) for p in (old, new)]
    want = bom("diff", old, new, "--key", "plant,id", *form.args)
    for a, b in ((packs[0], packs[1]), (old, packs[1]), (packs[0], new)):
        got = bom("diff", a, b, "--key", "plant,id", *form.args, "--workers", rng.choice([1, 2]))
        same("diff", (got.code, got.out), (want.code, want.out))
    a, b, c = (store(bom, folder, n) for n in "abc")
    want = sync(bom, a, [old], *form.args)
    got = sync(bom, b, ["-"], *form.args, stdin=packs[0])
    same("stdin", (got.code, got.out.replace(b'"-"', b'"old.csv"')), (want.code, want.out))
    sync(bom, c, [packs[0]], *form.args, expect=want.code)
    for one in (a, b, c):
        sync(bom, one, [packs[1] if one is not a else new], *form.args, "--block-records", "5")
    same("state", published(bom, b), published(bom, a))
    same("state", published(bom, c), published(bom, a))


def law_damage(folder, bom, seed):
    """Cut anywhere: refused. Flipped: refused, or read right."""
    rng = random.Random(seed)
    form = Form(rng)
    rows = table(rng, rng.choice([30, 400, 1500]), rng.choice([0, 900]))
    old = write(folder, "old.csv", form.text(rows, rng))
    new = pack(bom, write(folder, "new.csv", form.text(change(rng, rows), rng)), *form.read())
    good = open(new, "rb").read()
    base = store(bom, folder, "base")
    sync(bom, base, [old], *form.read())
    right = os.path.join(folder, "right")
    subprocess.run(["cp", "-r", base, right], check=True)
    want = sync(bom, right, [new], *form.read())
    state = bom("export", "--store", right).out
    before = bom("export", "--store", base).out
    ends = [m.start() for m in re.finditer(rb"\x28\xb5\x2f\xfd|\x5e\x2a\x4d\x18", good)]
    cuts = [1, 15, 16, 17, len(good) - 1, len(good) - 40, len(good) - 41] + ends[1:4] + ends[-1:] + [rng.randrange(1, len(good)) for _ in range(4)]
    for cut in cuts:
        bad = write(folder, "bad.csv.zst", good[:cut])
        sync(bom, base, [bad], *form.read(), expect=3)
        sync(bom, base, ["-"], *form.read(), stdin=bad, expect=3)
    bad = write(folder, "bad.csv.zst", good + b"x")
    sync(bom, base, [bad], *form.read(), expect=3)
    same("state after refusals", bom("export", "--store", base).out, before)
    trial = os.path.join(folder, "trial")
    for _ in range(12):
        place = rng.choice([rng.randrange(len(good)), rng.randrange(20), len(good) - 1 - rng.randrange(min(len(good), 200))])
        bent = bytearray(good)
        bent[place] ^= 1 << rng.randrange(8)
        bad = write(folder, "bad.csv.zst", bytes(bent))
        subprocess.run(["rm", "-rf", trial], check=True)
        subprocess.run(["cp", "-r", base, trial], check=True)
        run = sync(bom, trial, [bad], *form.read(), *rng.choice([[], ["--verify-pack"]]))
        if run.code == 3:
            same("state after a refusal", bom("export", "--store", trial).out, before)
            continue
        same("exit code with byte %d flipped" % place, run.code, want.code)
        same("state with byte %d flipped" % place, bom("export", "--store", trial).out, state)


def test_unchanged_is_not_read(folder, bom, _):
    """The content is damaged and the index is not: an unchanged sync does not see it, --verify-pack does."""
    rng = random.Random(1)
    form = Form(rng)
    name = pack(bom, write(folder, "a.csv", Form(random.Random(3)).text(table(rng, 4000, 200), rng)), "--delimiter", Form(random.Random(3)).delimiter)
    args = Form(random.Random(3)).args
    s = store(bom, folder, "s")
    sync(bom, s, [name], *args, expect=0)
    sync(bom, s, [name], *args, expect=0)
    bent = bytearray(open(name, "rb").read())
    frames = [m.start() for m in re.finditer(rb"\x28\xb5\x2f\xfd", bytes(bent))]
    bent[frames[2] + 5000] ^= 1
    open(name, "wb").write(bytes(bent))
    run = sync(bom, s, [name], *args, expect=0)
    same("generation", run.json()["generation"], None)
    run = sync(bom, s, [name], *args, "--verify-pack", expect=3)
    if b"frame" not in run.out or b"a.csv.zst" not in run.out:
        raise Failed("the refusal names no frame or no file: %r" % run.out)
    stats = bom("stats", "--store", s, "--json").json()
    same("io", stats["io"], "pack")
    same("skipped", stats["skipped"], stats["blocks"])


def test_layout_change_is_seen(folder, bom, _):
    """Equal bytes of records under another header, other nulls, another key order of columns: not the same records."""
    body = b"".join(b"1000,I%d,%d,NULL\n" % (i, i) for i in range(500))
    for more, header in (([], b"plant,id,note,qty\n"), (["--nulls", "NULL"], b"plant,id,qty,note\n"), ([], b"plant,id,qty,extra\n")):
        stores = [store(bom, folder, n + header.decode().strip() + "".join(more)) for n in ("plain", "packed")]
        first, second = write(folder, "1.csv", b"plant,id,qty,note\n" + body), write(folder, "2.csv", header + body)
        for s, files in ((stores[0], [first, second]), (stores[1], [pack(bom, first), pack(bom, second)])):
            sync(bom, s, files[:1], expect=0)
            sync(bom, s, files[1:], *more)
        same("published", published(bom, stores[1]), published(bom, stores[0]))

    bodies = [b"".join(b"1000,%s%d,%d,text\n" % (c, i, i) for i in range(500)) for c in (b"X", b"Y")]
    stores = [store(bom, folder, n) for n in ("plain two", "packed two")]
    for turn in (0, 1):
        names = [write(folder, "t%d.csv" % i, header + bodies[i ^ turn])
                 for i, header in enumerate((b"plant,id,qty,note\n", b"plant,id,note,qty\n"))]
        sync(bom, stores[0], names, expect=0 if not turn else (0, 5))
        sync(bom, stores[1], [pack(bom, n) for n in names], expect=0 if not turn else (0, 5))
        same("published, bodies swapped: %d" % turn, published(bom, stores[1]), published(bom, stores[0]))


def test_many_files(folder, bom, _):
    """Packs beside plain files, with equal and with different headers, one of them dropped."""
    rng = random.Random(5)
    names = []
    for i, header in enumerate(["plant,id,qty,note", "plant,id,qty,note", "id,plant,qty,note,more"]):
        rows = "".join("%s,%s,%d,x\n" % (*(("1000", "F%dI%d" % (i, j)) if i < 2 else ("F%dI%d" % (i, j), "1000")), rng.randrange(9)) for j in range(300))
        names.append(write(folder, "f%d.csv" % i, (header + "\n" + rows.replace("x\n", "x,y\n" if i == 2 else "x\n")).encode()))
    for pick in ([0, 1], [0, 1, 2], [2, 0]):
        for step in ([0, 1, 2], [0], [0, 2]):
            plain, packed = (store(bom, folder, "%s%s%s" % (n, pick, step)) for n in ("plain", "packed"))
            for _ in range(3):
                files = [names[i] for i in pick]
                a = sync(bom, plain, files)
                mixed = []
                for i in pick:
                    mixed.append(pack(bom, names[i]) if i in step else names[i])
                b = sync(bom, packed, mixed)
                same("exit", b.code, a.code)
                same("published", published(bom, packed), published(bom, plain))
                text = open(names[pick[0]], "rb").read()
                with open(names[pick[0]], "wb") as f:
                    f.write(text.replace(b"I7,", b"I7%d," % rng.randrange(10**6), 1))


def test_deterministic(folder, bom, _):
    rng = random.Random(9)
    name = write(folder, "a.csv", Form(random.Random(3)).text(table(rng, 20000, 60), rng))
    want = None
    for workers in (1, 2, 3, 7):
        for feed in (None, name):
            got = bom("pack", "-q", "--workers", workers, "-" if feed else name, stdin=feed, expect=0).out
            want = want or got
            if got != want:
                raise Failed("%d workers, stdin %s: other bytes" % (workers, bool(feed)))
    zipped = write(folder, "z.csv.gz", gzip.compress(open(name, "rb").read()))
    same("from gzip", bom("pack", "-q", zipped, expect=0).out, want)
    packed = write(folder, "p.csv.zst", want)
    same("a pack packed again", bom("pack", "-q", packed, expect=0).out, want)


def test_refused(folder, bom, _):
    """What sync refuses pack refuses, and leaves no file."""
    target = os.path.join(folder, "out.csv.zst")
    cases = {"open.csv": b'a,b\n1,"x\n', "header.csv": b'a,"b\n', "oversize.csv": b"a,b\n1," + b"x" * (17 << 20) + b"\n2,y\n",
             "open long.csv": b'a,b\n1,"' + b"x\n" * (9 << 20), "wide.csv": "a,b\n1,2\n".encode("utf-16")}
    for name, data in cases.items():
        bom("pack", write(folder, name, data), "-o", target, expect=3)
        if os.path.exists(target):
            raise Failed("%s: a file was left" % name)
    good = write(folder, "good.csv", b"a,b\n1,2\n")
    bom("pack", good, "-o", target, expect=0)
    first = open(target, "rb").read()
    bom("pack", write(folder, "other.csv", b"a,b\n1,3\n"), "-o", target, expect=2)
    same("a file that is there", open(target, "rb").read(), first)
    bom("pack", os.path.join(folder, "other.csv"), "-o", target, "--force", expect=0)
    same("replaced", zstd(target), b"a,b\n1,3\n")
    bom("pack", good, good, expect=2)
    bom("pack", os.path.join(folder, "none.csv"), expect=2)


def test_encoding(folder, bom, _):
    text = "plant,id,qty,note\n1000,1,2,Größe\n"
    name = pack(bom, write(folder, "l.csv", text.encode("latin-1")), "--encoding", "latin1")
    same("content", zstd(name), text.encode())
    s = store(bom, folder, "s")
    sync(bom, s, [name], "--encoding", "latin1", expect=2)
    sync(bom, s, [name], expect=0)
    name = pack(bom, write(folder, "m.csv", b"\xef\xbb\xbf" + text.encode()))
    same("without the mark", zstd(name), text.encode())
    name = pack(bom, write(folder, "r.csv", text.encode("latin-1")))  # as it is, to be converted later
    sync(bom, store(bom, folder, "t"), [name], "--encoding", "latin1", expect=0)


def test_trailer(folder, bom, _):
    """A trailer is no part of the records: the pack is read as a stream."""
    body = b"plant,id,qty,note\n" + b"".join(b"1000,I%d,1,x\n" % i for i in range(300)) + b"TRAILER;300\n"
    name = pack(bom, write(folder, "t.csv", body))
    s = store(bom, folder, "s")
    for _ in range(2):
        run = sync(bom, s, [name], "--trailer", "^TRAILER;([0-9]+)$", expect=0)
        same("records", run.json()["records_in"], 300)


def main():
    o = options("pack", 40)
    if not o.bomsync:
        print("skipped: no --bomsync given\n0 passed, 0 failed, 1 skipped")
        return 0
    suite = Suite("pack", o)
    tests = sorted(k for k in globals() if k.startswith("test_"))
    for name in tests:
        suite.run(name[5:].replace("_", " "), globals()[name], suite.bom, None)
    for law, part in ((law_same_as_plain, 1), (law_any_reader, 0.3), (law_damage, 0.3)):
        for i in range(max(1, int(o.count * part))):
            suite.run("%s %d" % (law.__name__[4:].replace("_", " "), i), law, suite.bom, "%d %s %d" % (o.seed, law.__name__, i))
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
