#!/usr/bin/env python3
"""The same bytes out, whatever way they are made.

Two series of snapshots (quotes lenient and strict) with what is hard in real exports: line ends in quotes, inch marks, CRLF,
plants, duplicates, a column that is added, another order, ragged rows, a snapshot that is held. Each way (instruction set,
workers, tiers, io, memory, kind of input) syncs each series into a store of its own; exit codes, --json, chunks, manifests,
`cat`, `exceptions`, `holds` and `export` are those of the plainest way: one worker, scalar, no tiers, pread, plain files.

Large files in random order show that memory caps change nothing (--lines; 1,000,000 with --all).
"""
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys

from harness import NOW, Failed, Skipped, Suite, options, same, write
from laws import usable_isas

PLAIN = ["--workers", "1", "--isa", "scalar", "--tiers", "none", "--io", "pread"]
TEXTS = ["Bolt M8", "1/2\" NPT", "12\" monitor", "3\"", "Dichtung ø 8", "轴承", "", "=1+1", " lead", "long " * 30]
QUOTED = ["\"two\nlines\"", "\"say \"\"hi\"\"\"", "\"a,b\"", "\"crlf\r\nin it\"", "\"1/2\"\" NPT\nor so\"", "\"\""]


# ------------------------------------------------------------------------------------------------------------ snapshots

def raw(rng):
    """A field as it stands in the file."""
    return rng.choice(TEXTS) if rng.random() < 0.85 else rng.choice(QUOTED)


def series(seed, count=1200):
    """(name, bytes, evidence) of each step; the same for the same seed."""
    rng = random.Random(seed)
    head = ["plant", "item", "pos", "text", "qty", "note"]
    rows = [[rng.choice(["1000", "2000", "3000"]), "I%05d" % (i // 4), "%04d" % (10 * (i % 4)), raw(rng), str(rng.randrange(99)), raw(rng)]
            for i in range(count)]
    steps = []

    def add(name, these=None, end="\n", complete=True):
        body = "".join(",".join(r) + end for r in [head] + (rows if these is None else these))
        steps.append((name, body.encode("utf-8"), ["--complete"] if complete else []))

    def change(rate):
        for r in rng.sample(rows, max(1, int(len(rows) * rate))):
            r[rng.choice([3, 4, 5])] = raw(rng)
        for _ in range(5):
            rows.pop(rng.randrange(len(rows)))
            rows.insert(rng.randrange(len(rows)), [rng.choice(["1000", "2000"]), "N%06d" % rng.randrange(10**6), "0010", raw(rng), "1", raw(rng)] +
                        [""] * (len(head) - 6))

    add("first")
    change(0.01)
    add("few changes")
    change(0.03)
    rng.shuffle(rows)
    add("another order")
    head.append("added")
    for r in rows:
        r.append(raw(rng) if rng.random() < 0.1 else "")
    add("a column more")
    change(0.01)
    twice = [list(r) for r in rows]
    for n, r in enumerate(rng.sample(rows, 12)):
        copy = list(r)
        if n % 2:
            copy[4] = "conflict"
        twice.insert(rng.randrange(len(twice)), copy)
    add("duplicates", twice)
    ragged = [list(r) for r in rows]
    for n, r in enumerate(rng.sample(ragged, 8)):
        if n % 2:
            r.append("too many")
        else:
            del r[4:]
    add("ragged rows", ragged)
    add("CRLF", end="\r\n")
    add("no evidence", rows[:-20], complete=False)
    add("half of it", rows[:len(rows) // 2])
    change(0.02)
    add("whole again")
    add("the same twice")
    return steps


# ----------------------------------------------------------------------------------------------------------------- ways

def frames(data, size):
    out = b""
    for at in range(0, len(data), size):
        out += subprocess.run(["zstd", "-qc"], input=data[at:at + size], stdout=subprocess.PIPE, check=True).stdout
    return out


def inputs(folder, kind, step, data):
    """Arguments and stdin for a kind of input; all are called s.csv, in folders of their own."""
    name = {"zstd": "s.csv.zst", "zstd frames": "s.csv.zst", "gzip": "s.csv.gz"}.get(kind, "s.csv")
    place = os.path.join(folder, "%d-%s" % (step, kind.replace(" ", "-")))
    if not os.path.isdir(place):
        os.mkdir(place)
        if kind == "split":                       # the second file has a header of its own
            head = data[:data.index(b"\n") + 1]
            middle = data.index(b"\n2000,", len(data) // 2) + 1 if b"\n2000," in data[len(data) // 2:] else len(head)
            write(place, "a.csv", data[:middle])
            write(place, "b.csv", head + data[middle:])
        else:
            write(place, name, {"zstd": lambda: frames(data, len(data)), "zstd frames": lambda: frames(data, 7001), "zstd on stdin": lambda: frames(data, 30011),
                                "gzip": lambda: gzip.compress(data, mtime=0)}.get(kind, lambda: data)())
    if kind == "split":
        return [os.path.join(place, "a.csv"), os.path.join(place, "b.csv")], None
    path = os.path.join(place, name)
    return (["-"], path) if "stdin" in kind else ([path], None)


def without(o, *names):
    return {k: v for k, v in o.items() if k not in names}


def chunks_of(folder):
    """What stands in an outbox folder; of the manifest all but the store's id and what names the input files."""
    found = {}
    for d, _, files in os.walk(folder):
        for f in files:
            with open(os.path.join(d, f), "rb") as h:
                data = h.read()
            if f == "manifest.json":
                m = json.loads(data)
                m = without(m, "store")
                m["files"] = [f["records"] for f in m["files"]]
                data = json.dumps(m, sort_keys=True, indent=0).encode()
            found[os.path.relpath(os.path.join(d, f), folder)] = data
    return found


def take(folder, bom, steps, args, how, kind="plain"):
    """One series by one way. how(step): more switches. Returns what came out, by step."""
    store = os.path.join(folder, "store")
    shutil.rmtree(store, ignore_errors=True)
    bom("init", "--store", store, "--shards", "3", expect=0)
    out = []
    for n, (name, data, evidence) in enumerate(steps):
        bom.forget()
        paths, stdin = inputs(folder, kind, n, data)
        first = ["--key", "plant,item,pos", "--partition", "plant"] if n == 0 else []
        run = bom("sync", "--store", store, "--now", NOW, "--json", "-q", *first, *evidence, *args, *how(n), *paths, stdin=stdin)
        if run.code in (2, 3, 7, 8, 9):
            raise Failed("exit %d at \"%s\": %s" % (run.code, name, run.err + run.out[-600:]))
        objects = [without(o, "file") for o in run.json_lines() if o.get("message_type") != "stats"]
        got = {"exit": run.code, "json": objects}
        g = run.json()["generation"]
        if g is not None:
            got["cat"] = bom("cat", g, "--store", store, expect=0).out
            got["outbox"] = chunks_of(os.path.join(store, "outbox", str(g)))
        got["exceptions"] = [without(o, "file") for o in bom("exceptions", "--store", store, "--json").json_lines()]
        got["holds"] = bom("holds", "--store", store, "--json").out
        out.append(got)
    out.append({"export": bom("export", "--store", store, expect=0).out})
    out.append({"source": bom("export", "--store", store, "--as", "source", expect=0).out})
    bom("verify", "--store", store, expect=0)
    return out


def compare(steps, got, want):
    for n, (g, w) in enumerate(zip(got, want)):
        name = steps[n][0] if n < len(steps) else "the end"
        same("what there is at \"%s\"" % name, sorted(g), sorted(w))
        for k in w:
            if k == "outbox":
                same("files of the outbox at \"%s\"" % name, sorted(g[k]), sorted(w[k]))
                for f in w[k]:
                    same("%s at \"%s\"" % (f, name), g[k][f], w[k][f])
            else:
                same("%s at \"%s\"" % (k, name), g[k], w[k])


def loosely(out):
    """Without what block sizes may change: ids and digests."""
    drop = ("digest", "snapshot_digest", "hold_digests", "base_digest", "outbox", "holds")
    loose = []
    for o in out:
        o = without(o, *drop)
        if "cat" in o:
            o["cat"] = re.sub(rb'"id":"[0-9a-f]{16}-', b'"id":"-', o["cat"])
        if "json" in o:
            o["json"] = [without(j, *drop) for j in o["json"]]
        loose.append(o)
    return loose


def ways(isas):
    """name, switches, kind of input."""
    every = [("--isa %s" % i, ["--isa", i], "plain") for i in isas]
    every += [("--workers %d" % w, ["--workers", w], "plain") for w in (1, 2, 3, 7)]
    every += [("--tiers %s" % t, ["--tiers", t], "plain") for t in ("none", "block", "sequence", "key", "block,sequence", "block,sequence,key")]
    every += [("--io %s" % i, ["--io", i], "plain") for i in ("pread", "uring")]
    every += [("--memory %s" % m, ["--memory", m], "plain") for m in ("64M", "16M", "1M", "64K")]
    every += [(k, ["--workers", w], k) for k in ("zstd", "zstd frames", "gzip", "stdin", "zstd on stdin") for w in (7,)]
    return every


def one_way(folder, suite, quotes, switches, kind):
    want = [dict(step) for step in suite.reference(quotes)]
    got = take(folder, suite.bom, suite.steps, ["--quotes", quotes] + switches, lambda n: [], kind)
    compare(suite.steps, got, want)


def mixed_ways(folder, suite, quotes, seed, isas):
    """Each step by another way."""
    rng = random.Random("%s %s" % (seed, suite.options.seed))

    def how(n):
        return ["--isa", rng.choice(isas), "--workers", rng.choice("1237"), "--tiers", rng.choice(["none", "block", "sequence,key", "block,sequence,key"]),
                "--io", rng.choice(["pread", "uring"]), "--codec", rng.choice(["auto", "symbols", "symbols", "zstd"])]
    compare(suite.steps, take(folder, suite.bom, suite.steps, ["--quotes", quotes], how), suite.reference(quotes))


def two_files(folder, suite, quotes):
    """Several files are one snapshot: the same for any number of workers."""
    want = take(folder, suite.bom, suite.steps, ["--quotes", quotes] + PLAIN, lambda n: [], "split")
    compare(suite.steps, take(folder, suite.bom, suite.steps, ["--quotes", quotes, "--workers", "7"], lambda n: [], "split"), want)
    same("export, one file or two", want[-2], suite.reference(quotes)[-2])


def block_sizes(folder, suite, quotes, records):
    args = ["--quotes", quotes, "--block-records", records]
    want = take(folder, suite.bom, suite.steps, args + PLAIN, lambda n: [])
    compare(suite.steps, take(folder, suite.bom, suite.steps, args + ["--workers", "7"], lambda n: []), want)
    compare(suite.steps, loosely(want), loosely(suite.reference(quotes)))


# --------------------------------------------------------------------------------------------------------------- memory

def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def memory_caps(folder, suite, lines):
    """Two files in random order: all spill paths, the same bytes."""
    bom, rng = suite.bom, random.Random(suite.options.seed)
    bom("gen", "--out", folder, "--lines", lines, "--plants", 3, "--entities", "bom_line", "--change", "b=0.02", "--seed", 5, "-q", expect=0)
    paths = []
    for step in ("000", "001"):
        with open(os.path.join(folder, step, "bom_line.csv"), "rb") as f:
            head, *body = f.read().splitlines(True)
        rng.shuffle(body)
        paths.append(write(folder, step + ".csv", head + b"".join(body)))
        del body
    key = ["--key", "plant,parent,usage,alternative,line"]
    want, out = None, os.path.join(folder, "out")
    for memory in ("2G", "64M", "16M"):
        run = bom("diff", *paths, *key, "-o", out, "--memory", memory, expect=1)
        got = (run.err, digest(out))
        want = want or got
        same("diff with --memory %s" % memory, got, want)
    if not os.path.getsize(out):
        raise Failed("no change at all")
    want = None
    for memory, tiers in (("2G", "key"), ("16M", "key"), ("16M", "block,sequence,key"), ("1M", "key"), ("1M", "block,sequence,key")):  # joined, and reconciled
        store = os.path.join(folder, "store" + memory + tiers)
        bom("init", "--store", store, expect=0)
        for n, path in enumerate(paths):
            run = bom("sync", "--store", store, "--complete", "--now", NOW, "--json", "--memory", memory, "--tiers", tiers, path, *(key if n == 0 else []),
                      expect=(0, 5))
        got = [o for o in run.json_lines() if o["message_type"] == "generation"]
        outbox = os.path.join(store, "outbox", "2")
        got.append(chunks_of(outbox))
        bom("export", "--store", store, "-o", out, expect=0)
        got.append(digest(out))
        want = want or got
        same("sync with --memory %s, --tiers %s" % (memory, tiers), got, want)
    if shutil.which("strace"):
        same("temporary files with --memory 2G", spilled(folder, bom, paths, key, "2G"), False)
        same("temporary files with --memory 16M", spilled(folder, bom, paths, key, "16M"), True)   # else it showed nothing


def spilled(folder, bom, paths, key, memory):
    """Whether a sync of both files wrote rows to a temporary file."""
    store, log = os.path.join(folder, "spill" + memory), os.path.join(folder, "strace.log")
    bom("init", "--store", store, expect=0)
    bom("sync", "--store", store, "--complete", "--now", NOW, paths[0], *key, expect=0)
    subprocess.run(["strace", "-f", "-qq", "-e", "trace=openat", "-o", log, bom.path, "sync", "--store", store, "--complete", "--now", NOW, "-q",
                    "--tiers", "key", "--memory", memory, paths[1]], stdout=subprocess.DEVNULL)
    with open(log, "rb") as f:
        return b"O_TMPFILE" in f.read()


# ---------------------------------------------------------------------------------------------------------------- cold

def forget_pages(path):
    """Out of the page cache, as far as the file system lets go of it."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def cold_files(folder, suite):
    """A first load and changed snapshots with nothing of them in the page cache, and half of one: as read warm with pread."""
    bom, rng = suite.bom, random.Random(suite.options.seed)
    bom("gen", "--out", folder, "--lines", 100000, "--plants", 3, "--entities", "bom_line", "--seed", 6, "-q", expect=0)
    with open(os.path.join(folder, "000", "bom_line.csv"), "rb") as f:
        head, *body = f.read().splitlines(True)
    files = [write(folder, "0.csv", head + b"".join(body))] * 2
    for n, rate in enumerate((0.0005, 0.3), 2):   # a few blocks differ, nearly all do
        body = [l.replace(b",EA,", b",E%d," % n) if rng.random() < rate else l for l in body]
        body.insert(rng.randrange(len(body)), body[77])        # a copy of a record that stands in a block which is skipped
        files.append(write(folder, "%d.csv" % n, head + b"".join(body)))
    key, want, seen = ["--key", "plant,parent,usage,alternative,line", "--partition", "plant"], None, set()
    for way, workers in (("pread", 1), ("auto", 1), ("auto", 2), ("auto", 7), ("uring", 2)):
        store, got = os.path.join(folder, "store"), []
        shutil.rmtree(store, ignore_errors=True)
        bom("init", "--store", store, "--shards", "3", expect=0)
        for n, path in enumerate(files):
            if way == "auto":
                forget_pages(path)
                forget_pages(os.path.join(store, "root", "data.mdb"))
            if n == 3 and workers == 2:
                with open(path, "rb") as f:
                    f.read(os.path.getsize(path) // 2)
            run = bom("sync", "--store", store, "--complete", "--now", NOW, "--json", "--explain", "--workers", workers, "--io", way, path,
                      *(key if n == 0 else []), expect=(0, 4, 5))
            lines = [json.loads(l) for l in run.out.splitlines() + run.err.splitlines() if l.startswith(b"{")]
            seen |= {(way, o["io"]) for o in lines if o["message_type"] == "stats"}
            got.append([o for o in lines if o["message_type"] == "generation"])
        got.append([chunks_of(os.path.join(store, "outbox", str(g))) for g in (1, 2)])
        bom("verify", "--store", store, expect=0)
        want = want or got
        same("%s, %d workers" % (way, workers), got, want)
    if ("uring", "uring") not in seen or ("pread", "pread") not in seen:
        raise Failed("read in other ways than it was told: %s" % seen)
    if ("auto", "uring") not in seen:
        print("    the file system keeps its pages: nothing was cold")


REFUSALS = {   # what the kernel answers, how many warnings
    "io_uring_setup:error=EPERM": 1, "io_uring_enter:error=EPERM": 1, "io_uring_enter:error=EIO:when=2+": 0, "io_uring_enter:error=EIO:when=4": 0,
    "io_uring_enter:error=EINTR:when=2..4": 0, "io_uring_enter:error=EAGAIN:when=2..5": 0}


def failing_ring(folder, suite):
    """An io_uring that may not be used, or fails in the middle: the same, with at most one warning."""
    if not shutil.which("strace"):
        raise Skipped("needs strace")
    bom, store = suite.bom, os.path.join(folder, "store")
    bom("gen", "--out", folder, "--lines", 200000, "--entities", "bom_line", "--seed", 8, "-q", expect=0)
    path = os.path.join(folder, "000", "bom_line.csv")
    bom("init", "--store", store, expect=0)
    bom("sync", "-q", "--store", store, "--key", "plant,parent,usage,alternative,line", "--baseline", "--now", NOW, path, expect=0)
    sync = ["sync", "--json", "--store", store, "--complete", "--now", NOW, path]
    want = bom(*sync, "--io", "pread", expect=0).json()
    for inject, warnings in REFUSALS.items():
        for workers in ("1", "2"):
            run = subprocess.run(["strace", "-f", "-qq", "-o", os.path.join(folder, "log"), "-e", "trace=io_uring_setup,io_uring_enter", "-e", "inject=" + inject,
                                  bom.path, *sync, "--io", "uring", "--workers", workers], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
            got = (run.returncode, json.loads(run.stdout.splitlines()[0]), run.stderr.count(b"warning: io_uring cannot be used here"))
            same("%s, %s workers" % (inject, workers), got, (0, want, warnings))


# ------------------------------------------------------------------------------------------------------------------ all

def main():
    o = options("matrix", extra=lambda p: p.add_argument("--lines", type=int, default=300000, help="of the files for memory caps"))
    if not o.bomsync:
        print("skipped: no --bomsync given")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    suite = Suite("matrix", o)
    isas = usable_isas(suite.bom, suite.base)
    os.remove(os.path.join(suite.base, "isa.csv"))
    suite.steps, references = series(o.seed), {}

    def reference(quotes):
        if quotes not in references:
            folder = os.path.join(suite.base, "reference")
            os.mkdir(folder)
            references[quotes] = take(folder, suite.bom, suite.steps, ["--quotes", quotes] + PLAIN, lambda n: [])
            shutil.rmtree(folder)
        return references[quotes]

    suite.reference = reference
    for quotes in ("lenient", "strict"):
        for name, switches, kind in ways(isas):
            suite.run("%s: %s" % (quotes, name), one_way, suite, quotes, switches, kind)
        for n in range(2):
            suite.run("%s: mixed ways %d" % (quotes, n), mixed_ways, suite, quotes, n, isas)
        suite.run("%s: two files" % quotes, two_files, suite, quotes)
        for records in ("1", "50"):
            suite.run("%s: --block-records %s" % (quotes, records), block_sizes, suite, quotes, records)
    suite.run("cold files", cold_files, suite)
    suite.run("a failing io_uring", failing_ring, suite)
    suite.run("memory caps", memory_caps, suite, 1000000 if o.all else o.lines)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
