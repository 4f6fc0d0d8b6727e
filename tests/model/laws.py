#!/usr/bin/env python3
"""Laws of bomsync over random small tables, against the naive reference.

    diff          the lines of diff X Y are the reference's; apply(X, lines) is Y
    dialect       any bytes: the records are those of Python's csv reader, strict and lenient
    series        a feed over several snapshots: exit codes, totals, lines of cat, chunks, export, holds and decisions
    twins         duplicates and conflicts far apart, in blocks of 1 to 4 records; exports appended to themselves
    switches      the same bytes for workers, tiers, isa, io, codec; the same lines for any --block-records
    inputs        several files, zstd, gzip, stdin, TSV, quoting and line ends: one delta
    evidence      what may delete; what a missing last line end costs; sequence and as-of
    scope, upsert, baseline, dry-run, revert, history
"""
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys

import reference as ref
import tables
from harness import NOW, Failed, Skipped, Suite, options, same, write

ISAS = ["scalar", "avx2", "avx512"]


# ------------------------------------------------------------------------------------------------------------ helpers

def words(*texts):
    """Latin-1 texts as one argument: a list with commas."""
    return ",".join(texts).encode("latin-1").decode("utf-8")


def switches(rng, isas):
    """Random switches that must not change a byte."""
    out = []
    if rng.random() < 0.7:
        out += ["--workers", rng.choice(["1", "2", "3", "7"])]
    if rng.random() < 0.5:
        out += ["--isa", rng.choice(isas)]
    if rng.random() < 0.5:
        out += ["--tiers", rng.choice(["none", "block", "sequence", "key", "block,key", "block,sequence", "sequence,key"])]
    if rng.random() < 0.3:
        out += ["--io", rng.choice(["pread", "uring", "auto"])]
    return out


def block_switch(rng):
    return ["--block-records", rng.choice(["1", "2", "3", "4", "12", "50"])] if rng.random() < 0.7 else []


def codec_switch(step):
    """Of syncs alone, in turns, so that each meets what the others wrote. Tables this small get no dictionary by themselves."""
    return [["--codec", "symbols"], [], ["--codec", "symbols"], ["--codec", "zstd"]][step % 4]


def usable_isas(bom, folder):
    """Those this machine can run."""
    path = write(folder, "isa.csv", b"k\n1\n")
    found = []
    for isa in ISAS:
        run = bom("diff", path, path, "--key", "k", "--isa", isa)
        if run.code == 0:
            found.append(isa)
        elif run.code != 2:
            raise Failed("--isa %s: exit %d: %s" % (isa, run.code, run.err))
    if "scalar" not in found:
        raise Failed("--isa scalar cannot run")
    return found


def strip_ids(lines, base_digest=None):
    """cat's lines without seq and id; checks both."""
    out = []
    for n, line in enumerate(lines, 1):
        m = re.match(rb'\{"seq":(\d+),"id":"([0-9a-f]{16})-(\d+)",', line)
        if not m:
            raise Failed("no seq and id in front: %r" % line[:200])
        if int(m.group(1)) != n or m.group(3) != m.group(1):
            raise Failed("seq %s in line %d: %r" % (m.group(1), n, line[:200]))
        if base_digest is not None and m.group(2).decode() != base_digest[:16]:
            raise Failed("id %s does not begin with the base's digest %s" % (m.group(2), base_digest))
        out.append(b"{" + line[m.end():])
    return out


def split_lines(out):
    if out and not out.endswith(b"\n"):
        raise Failed("the last line has no line end: %r" % out[-200:])
    return out.split(b"\n")[:-1]


def soft(lines):
    """null and "" as one, for states where the design does not tell which was stored."""
    return [l.replace(b":null", b':""') for l in lines]


def relaxed(lines):
    """Deletes in any order inside their partition."""
    front = [l for l in lines if not l.startswith(b'{"op":"d"')]
    back = [l for l in lines if l.startswith(b'{"op":"d"')]
    parts = [json.loads(l.decode("latin-1")).get("partition") for l in back]
    return front + [l for _, l in sorted(zip(parts, back))], parts


def same_lines(what, got, outcome):
    want = outcome.lines
    if outcome.loose_nulls:
        got, want = soft(got), soft(want)
    if not outcome.order_exact:
        got, got_parts = relaxed(got)
        want, want_parts = relaxed(want)
        same(what + ", partitions of the deletes", got_parts, sorted(want_parts))
    same(what, got, want)


def check_totals(what, got, want):
    for name, value in want.items():
        if value is not None and got.get(name) != value:
            raise Failed("%s: %s %r, expected %r\n  got      %s\n  expected %s"
                         % (what, name, got.get(name), value, {n: got.get(n) for n in want}, want))


def zstd_read(path):
    p = subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        raise Failed("zstd cannot read %s: %s" % (path, p.stderr))
    return p.stdout


FOLDER_SAFE = re.compile(rb"[A-Za-z0-9._-]")


def check_outbox(store, generation, cat_lines, g):
    """Manifest and chunks against cat and the generation object."""
    folder = os.path.join(store, "outbox", str(generation))
    with open(os.path.join(folder, "manifest.json"), "rb") as f:
        m = json.load(f)
    for name in ("format", "store", "feed", "contract", "effective_time", "base", "base_digest", "generation", "digest", "snapshot_digest",
                 "files", "totals", "chunks"):
        if name not in m:
            raise Failed("manifest without %s" % name)
    same("manifest generation", m["generation"], generation)
    same("manifest digest", m["digest"], g["digest"])
    same("manifest base", m["base"], generation - 1)
    content, seq, changes = [], 0, {"c": 0, "u": 0, "d": 0}
    listed = set()
    for c in m["chunks"]:
        path = os.path.join(folder, c["file"])
        if not re.fullmatch(r"(?:[A-Za-z0-9._~%-]+)/\d\d-\d{6}\.ndjson\.zst", c["file"]) or c["file"].startswith((".", "-")):
            raise Failed("chunk name %r" % c["file"])
        listed.add(c["file"])
        with open(path, "rb") as f:
            raw = f.read()
        same("bytes of %s" % c["file"], len(raw), c["bytes"])
        same("sha256 of %s" % c["file"], hashlib.sha256(raw).hexdigest(), c["sha256"])
        text = zstd_read(path)
        same("content_bytes of %s" % c["file"], len(text), c["content_bytes"])
        lines = split_lines(text)
        if len(lines) > 10000 or (len(text) > 4 << 20 and len(lines) > 1):
            raise Failed("chunk %s above its limits" % c["file"])
        same("first_seq of %s" % c["file"], c["first_seq"], seq + 1)
        seq += len(lines)
        same("last_seq of %s" % c["file"], c["last_seq"], seq)
        got = {"c": 0, "u": 0, "d": 0}
        for l in lines:
            o = json.loads(l)
            got[o["op"]] += 1
            same("partition in %s" % c["file"], o["partition"], c["partition"])
            same("rank in %s" % c["file"], (o["op"] == "d") * 90, int(c["rank"]))
        same("changes of %s" % c["file"], c["changes"], got)
        for op in changes:
            changes[op] += got[op]
        content += lines
    same("chunks against cat", content, cat_lines)
    if m["base_digest"] == "0" * 64 and generation != 1:
        raise Failed("base digest of zeros")
    same("ops of the chunks", (changes["c"], changes["u"], changes["d"]), (g["created"], g["updated"], g["deleted"]))
    on_disk = {os.path.relpath(os.path.join(d, f), folder) for d, _, files in os.walk(folder) for f in files}
    same("files of the outbox", sorted(on_disk - {"manifest.json"}), sorted(listed))


class Series:
    """One feed of one store next to its reference."""

    def __init__(self, bom, folder, feed, read=None, feed_name=None, outbox=True):
        self.bom, self.folder, self.feed, self.read = bom, folder, feed, read or {}
        self.store, self.generation, self.digest, self.step = os.path.join(folder, "store"), 0, "0" * 64, 0
        self.feed_args = ["--feed", feed_name] if feed_name else []
        self.outbox = outbox
        bom("init", "--store", self.store, expect=0)

    def dialect_args(self):
        out = []
        if self.read.get("lenient"):
            out += ["--quotes", "lenient"]
        if self.read.get("nulls"):
            out += ["--nulls", ",".join(self.read["nulls"])]
        if self.read.get("delimiter", ",") != ",":
            out += ["--delimiter", self.read["delimiter"]]
        return out

    def first_args(self):
        f = self.feed
        out = ["--key", words(*f.key)]
        if f.partition:
            out += ["--partition", words(f.partition)]
        if f.ignore:
            out += ["--ignore", words(*f.ignore)]
        return out

    def table(self, contents):
        return ref.read_table(contents, self.feed.key, self.feed.partition, self.feed.ignore, check=len(contents[0]) < 200000,
                              **{k: v for k, v in self.read.items()})

    def sync(self, contents, extra=(), evidence=True, paths=None, **how):
        """contents: one per file. Checks everything; returns the outcome."""
        self.step += 1
        if paths is None:
            paths = [write(self.folder, "s%02d_%d.csv" % (self.step, i), c) for i, c in enumerate(contents)]
        args = ["sync", "--store", self.store] + self.feed_args + self.dialect_args() + ["--json", "--now", NOW] + codec_switch(self.step + len(self.store))
        if self.generation == 0 or self.step % 3 == 0:     # said again, it must be the same; left out, it is the feed's
            args += self.first_args()
        if evidence is True:
            args += ["--complete"]
        args += list(extra) + paths
        base_records = len(self.feed.records)
        fingerprint = hashlib.sha256(b"\0".join(contents)).hexdigest() + str(self.generation)
        try:
            table = self.table(contents)
            outcome = self.feed.sync(table, evidence=bool(evidence), fingerprint=fingerprint, **how)
        except ref.Refused as e:
            run = self.bom(*args)
            same("exit (%s)" % e, run.code, 3)
            self.nothing_new()
            return None
        except ref.Ambiguous as e:
            raise Skipped("the design leaves open: %s" % e)
        outcome.fingerprint = fingerprint
        run = self.bom(*args)
        if run.code != outcome.exit:
            raise Failed("exit %d, expected %d (%s)\nstdout %s\nstderr %s" % (run.code, outcome.exit, vars(outcome).get("why", outcome.totals),
                                                                         run.out[-1500:].decode("utf-8", "replace"), run.err[-800:].decode("utf-8", "replace")))
        g = run.json()
        same("exit in the object", g.get("exit"), outcome.exit)
        same("feed in the object", g.get("feed"), self.feed.name)
        problems = ref.accounted(g, base_records)
        if problems:
            raise Failed("does not add up: %s\n%s" % (problems, run.out.decode("utf-8", "replace")))
        check_totals("totals of step %d" % self.step, g, outcome.totals)
        outcome.object = g
        same("hold digests", len(g["hold_digests"]), len(outcome.holds))
        self.after(g, outcome, how.get("dry_run"), "--baseline" in extra)
        return outcome

    def after(self, g, outcome, dry_run=False, baseline=False):
        """Generation number, digest, cat, chunks, export."""
        if outcome.generation and not dry_run:
            same("generation", g["generation"], self.generation + 1)
            same("base", g["base"], self.generation)
            self.generation += 1
            if not re.fullmatch(r"[0-9a-f]{64}", g["digest"]) or g["digest"] == self.digest:
                raise Failed("digest %r after %r" % (g["digest"], self.digest))
            if not baseline:
                lines = split_lines(self.bom("cat", self.generation, "--store", self.store, expect=0).out)
                same_lines("cat %d" % self.generation, strip_ids(lines, self.digest), outcome)
                if self.outbox:
                    check_outbox(self.store, self.generation, lines, g)
            self.digest = g["digest"]
        elif not dry_run:
            same("generation", g["generation"], None)
            self.nothing_new()
        self.check_export()

    def nothing_new(self):
        if os.path.exists(os.path.join(self.store, "outbox", str(self.generation + 1))):
            raise Failed("an outbox folder for a generation that was not made")

    def check_export(self, generation=None, want=None):
        if not self.generation:
            return
        args = ["export", "--store", self.store] + self.feed_args + (["--generation", generation] if generation is not None else [])
        got = self.bom(*args, expect=0).out
        if want is not None or got not in self.feed.exports():
            same("export", got, want if want is not None else self.feed.export())

    def holds(self):
        run = self.bom("holds", "--store", self.store, "--json", *self.feed_args, expect=(0, 4, 5))
        return [h for h in run.json_lines() if h.get("message_type") == "hold"]

    def decide(self, outcome, command="approve"):
        """All that waits."""
        digests = outcome.object["hold_digests"]
        if outcome.all_held:
            run = self.bom(command, digests[0], "--store", self.store, "--by", "tester", "--why", "a test", "--now", NOW)
            if run.code not in (0, 4, 5):
                raise Failed("exit %d: %s\n%s" % (run.code, run.line(), run.err))
            if command == "approve":
                self.feed.approve_all(outcome.fingerprint)
            return
        by_partition = {h["partition"]: h["digest"] for h in self.holds() if h["digest"] in digests}
        same("partitions of the holds", sorted(by_partition), [p.encode("latin-1").decode("utf-8") for p in outcome.holds])
        for n, p in enumerate(outcome.holds):
            digest = by_partition[p.encode("latin-1").decode("utf-8")]
            run = self.bom(command, digest, "--store", self.store, "--by", "tester", "--why", "a test", "--now", NOW, "--json")
            left = len(outcome.holds) - n - 1
            if run.code not in ((5,) if left else (0, 4)):
                raise Failed("exit %d with %d holds left: %s\n%s" % (run.code, left, run.line(), run.err))
            if command == "decline":
                self.feed.decline(p)
                self.nothing_new()
                self.check_export()
                continue
            before = len(self.feed.records)
            o = self.feed.approve(p)
            g = run.json()
            same("deleted by approve", g["deleted"], len(o.lines))
            same("records after approve", g["records"], before - len(o.lines))
            self.after(g, o)

    def settle(self, contents, outcome, **how):
        """Approves until nothing waits; the same snapshot must then be a no-op."""
        for _ in range(4):
            if outcome is None or outcome.exit != 5 or not outcome.holds:
                break
            if outcome.all_held and outcome.totals["records_in"] == 0:
                return outcome
            self.decide(outcome)
            outcome = self.sync(contents, **how)
        return outcome

    def verify(self):
        self.bom("verify", "--store", self.store, expect=0)


def first_contents(rng, t):
    return [tables.render(rng, t)]


# --------------------------------------------------------------------------------------------------------------- laws

def law_diff(folder, bom, seed, isas):
    rng = random.Random(seed)
    shape = tables.Shape(rng)
    x = tables.clean_table(rng, shape)
    y = tables.mutate(rng, shape, x)
    clean = rng.random() < 0.6
    if not clean:
        if rng.random() < 0.7:
            x = tables.duplicate(rng, shape, x, 0.05)
        if rng.random() < 0.7:
            y = tables.duplicate(rng, shape, y, 0.05)
    nulls = rng.choice([(), (), ("NULL", "N/A")])
    lenient = rng.random() < 0.3
    ignore = []
    others = [c for c in x.names + [c for c in y.names if c not in x.names] if c not in shape.key and "," not in c and '"' not in c]
    if others and rng.random() < 0.25:
        ignore = rng.sample(others, 1)
    bx, by = tables.render(rng, x), tables.render(rng, y)
    if lenient or rng.random() < 0.2:
        by = roughen(rng, by)
    args = ["--key", words(*shape.key)]
    if lenient:
        args += ["--quotes", "lenient"]
    if nulls:
        args += ["--nulls", ",".join(nulls)]
    if ignore:
        args += ["--ignore", words(*ignore)]
    args += switches(rng, isas) + block_switch(rng)
    px, py = write(folder, "x.csv", bx), write(folder, "y.csv", by)
    try:
        tx = ref.read_table([bx], shape.key, None, ignore, lenient, nulls)
        ty = ref.read_table([by], shape.key, None, ignore, lenient, nulls)
        d = ref.diff(tx, ty)
    except ref.Refused as e:
        same("exit (%s)" % e, bom("diff", px, py, *args).code, 3)
        return
    except ref.Ambiguous as e:
        raise Skipped("the design leaves open: %s" % e)
    run = bom("diff", px, py, *args)
    same("lines of diff", split_lines(run.out), d.lines)
    same("exit", run.code, d.exit)
    if d.exit == 4 or ignore or nulls or not d.lines:
        return
    delta = write(folder, "delta.ndjson", run.out)
    applied = bom("apply", px, delta, *(["--quotes", "lenient"] if lenient else []), expect=0).out
    want = ref.export(d.columns, shape.key, {r.key: r.values for r in ty.rows})
    same("apply(X, delta)", applied, want)
    if rng.random() < 0.2:
        subprocess.run(["zstd", "-q", delta], check=True)
        same("apply of a zstd delta", bom("apply", px, delta + ".zst", *(["--quotes", "lenient"] if lenient else []), expect=0).out, want)
    if rng.random() < 0.2 and rng.choice(d.lines):
        # What does not fit the state: the same changes once more.
        bom("apply", py, delta, *(["--quotes", "lenient"] if lenient else []), expect=3)


def roughen(rng, content):
    """Bare quotes and stray text in non-header lines, as inch marks stand in catalogs."""
    head, sep, rest = content.partition(b"\n")
    if not sep:
        return content
    out = bytearray()
    for b in rest:
        out.append(b)
        if chr(b).isalnum() and rng.random() < 0.01:
            out += rng.choice([b'"', b'" NPT', b'1/2" x "'])
    return head + sep + bytes(out)


def law_dialect(folder, bom, seed, isas):
    """One key column k<n>, then any bytes."""
    rng = random.Random(seed)
    lenient, quote = rng.random() < 0.5, '"'
    delimiter = rng.choice([",", ",", ";", "\t", "|"])
    alphabet = ['"', '"', delimiter, delimiter, "\n", "\r", "a", "b", " ", "12\" x", '""', "\r\n"] + ["xyz" * 9, "\t", "'", "\0" if rng.random() < 0.1 else "y"]
    head = ["k", "a", "b"][:rng.choice([2, 3])]
    out = [delimiter.join(head), rng.choice(["\n", "\r\n", "\r"])]
    for n in range(rng.choice([1, 5, 30, 200])):
        fields = ["k%d" % n]
        for _ in head[1:]:
            if rng.random() < 0.5:
                v = "".join(rng.choice(alphabet) for _ in range(rng.choice([0, 1, 2, 5, 9])))
                fields.append('"' + v.replace('"', '""') + '"' if rng.random() < 0.7 else v if rng.random() < 0.3 else v.replace("\n", "").replace("\r", ""))
            else:
                fields.append(rng.choice(["", "v", "w w", '"q"', '"', '""', '"a"b', 'a"b"', '"""', '"a""b"']) if rng.random() < 0.2 else "v%d" % rng.randrange(9))
        out += [delimiter.join(fields), rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"])]
    if rng.random() < 0.2:
        out.pop()
    content = "".join(out).encode("latin-1")
    x = write(folder, "x.csv", (delimiter.join(head) + "\n").encode())
    y = write(folder, "y.csv", content)
    args = ["--key", "k", "--quotes", "lenient" if lenient else "strict"] + switches(rng, isas) + block_switch(rng)
    if delimiter != ",":
        args += ["--delimiter", delimiter]
    try:
        tx = ref.read_table([(delimiter.join(head) + "\n").encode()], ["k"], delimiter=delimiter)
        ty = ref.read_table([content], ["k"], None, (), lenient, (), delimiter)
        d = ref.diff(tx, ty)
    except ref.Refused as e:
        same("exit (%s)" % e, bom("diff", x, y, *args).code, 3)
        return
    except ref.Ambiguous as e:
        raise Skipped("the design leaves open: %s" % e)
    run = bom("diff", x, y, *args)
    same("lines of diff", split_lines(run.out), d.lines)
    same("exit", run.code, d.exit)


def law_series(folder, bom, seed, isas):
    """Several snapshots; guard, decisions, evidence; everything compared after each."""
    rng = random.Random(seed)
    shape = tables.Shape(rng, partition=rng.random() < 0.6)
    ignore = [c for c in shape.names if c not in shape.key and "," not in c and '"' not in c][:1] if rng.random() < 0.2 else []
    read = {}
    if rng.random() < 0.15:
        read["nulls"] = ("NULL",)
    if rng.random() < 0.3:
        read["lenient"] = True
    name = rng.choice(["default", "default", "bom.lines"])
    s = Series(bom, folder, ref.Feed(name, shape.key, shape.partition, ignore), read, None if name == "default" else name)
    t = tables.clean_table(rng, shape, least=1)
    if rng.random() < 0.15:
        t = tables.clean_table(rng, shape, least=600)
    fixed = rng.choice([[], [], ["--workers", "1"], ["--workers", "7"]])
    for step in range(rng.choice([2, 3, 5])):
        written = t
        if rng.random() < 0.3:
            written = tables.duplicate(rng, shape, t, rng.choice([0.001, 0.01, 0.05]))
        content = tables.render(rng, written)
        if rng.random() < 0.15:
            content = roughen(rng, content)
        contents = [content]
        if rng.random() < 0.2 and len(written.rows) > 3:
            cut = rng.randrange(len(written.rows))
            contents = [tables.render(rng, tables.Rows(written.names, written.rows[:cut])),
                        tables.render(rng, tables.Rows(written.names, written.rows[cut:]))]
        evidence = rng.random() < 0.75
        blocks = block_switch(rng)            # the snapshot's digest, and so an "all held" one, depends on it
        outcome = s.sync(contents, fixed + blocks + switches(rng, isas), evidence)
        if outcome is None:
            continue
        if outcome.exit != 5:
            again = s.sync(contents, block_switch(rng) + switches(rng, isas), evidence)
            same("the same again makes no generation", again.generation, False)
        elif rng.random() < 0.3:
            again = s.sync(contents, blocks + switches(rng, isas), evidence)
            if again.all_held == outcome.all_held:
                # (Creates of the first run make the base larger: the second may see a count that dropped.)
                same("the same digests while held", sorted(again.object["hold_digests"]), sorted(outcome.object["hold_digests"]))
            outcome = again
        if outcome.exit == 5 and outcome.holds and outcome.totals["records_in"]:
            what = rng.random()
            if what < 0.6:
                outcome = s.settle(contents, outcome, evidence=evidence, extra=blocks)
            elif what < 0.7 and not outcome.all_held:
                s.decide(outcome, "decline")
        t = tables.mutate(rng, shape, t, columns=not ignore)
    s.verify()


def law_twins(folder, bom, seed, isas):
    """Many small blocks, duplicates and conflicts whose twins are far away, in blocks that did not change."""
    rng = random.Random(seed)
    shape = tables.Shape(rng, partition=rng.random() < 0.3, columns=rng.choice([4, 6]))
    shape.values = shape.values[:12]
    s = Series(bom, folder, ref.Feed("default", shape.key, shape.partition), outbox=False)
    n = rng.choice([300, 1000, 2500])
    t = tables.clean_table(rng, shape, least=n, most=n)
    style = tables.Style(rng, plain=True)
    blocks = ["--block-records", rng.choice(["1", "2", "3", "4"])]
    for step in range(4):
        written = t
        kind = rng.choice(["clean", "same", "conflict", "mixed", "doubled", "head-again"])
        rate = rng.choice([0.001, 0.005, 0.01, 0.05])
        if kind == "same":
            written = tables.duplicate(rng, shape, t, rate, 0)
        elif kind == "conflict":
            written = tables.duplicate(rng, shape, t, rate, 1)
        elif kind == "mixed":
            written = tables.duplicate(rng, shape, t, rate)
        elif kind == "doubled":
            written = tables.Rows(t.names, t.rows + t.rows)
        elif kind == "head-again":
            written = tables.Rows(t.names, t.rows + t.rows[:rng.randrange(1, 60)])
        contents = [tables.render(rng, written, style)]
        outcome = s.sync(contents, blocks + switches(rng, isas))
        outcome = s.settle(contents, outcome, extra=blocks)
        if outcome.exit != 5 and rng.random() < 0.5:
            s.sync(contents, switches(rng, isas))
        if rng.random() < 0.8:
            t = tables.mutate(rng, shape, t, rate=rng.choice([0, 0.002, 0.01, 0.04]), columns=False, shuffle=rng.random() < 0.15)
    s.verify()


def law_doubled_export(folder, bom, seed, isas):
    """An export appended to itself: every record counts once as a duplicate, nothing changes."""
    rng = random.Random(seed)
    shape = tables.Shape(rng)
    s = Series(bom, folder, ref.Feed("default", shape.key))
    t = tables.clean_table(rng, shape, least=40, most=400)
    contents = [tables.render(rng, t, tables.Style(rng, plain=True))]
    blocks = ["--block-records", rng.choice(["1", "4", "12"])]
    s.sync(contents, blocks)
    whole = s.bom("export", "--store", s.store, expect=0).out
    body = whole.split(b"\n", 1)
    if body[1]:
        raws, _ = ref.scan(whole.decode("latin-1"))
        rest = whole[raws[0].end:]
        o = s.sync([whole + rest], blocks + switches(rng, isas))
        same("duplicates", o.totals["duplicates"], len(t.rows))
        same("no generation", o.generation, False)


def law_switches(folder, bom, seed, isas):
    """One change of one store, copied and synced with each switch: the same chunks, byte for byte."""
    rng = random.Random(seed)
    shape = tables.Shape(rng, partition=rng.random() < 0.5)
    n = rng.choice([20, 200, 1500])
    x = tables.clean_table(rng, shape, least=n, most=n)
    y = tables.mutate(rng, shape, x, rate=rng.choice([0.01, 0.04]))
    if rng.random() < 0.5:
        x, y = tables.duplicate(rng, shape, x, 0.01), tables.duplicate(rng, shape, y, 0.01)
    px, py = write(folder, "x.csv", tables.render(rng, x)), write(folder, "y.csv", tables.render(rng, y))
    args = ["--key", words(*shape.key)] + (["--partition", words(shape.partition)] if shape.partition else [])
    base = os.path.join(folder, "base")
    bom("init", "--store", base, "--shards", rng.choice(["1", "3", "8"]), expect=0)
    first = bom("sync", "--store", base, px, "--complete", "--json", "--now", NOW, *args, expect=(0, 4))
    if first.json()["generation"] != 1:
        raise Skipped("nothing to start from")
    variants = [["--workers", "1"], ["--workers", "2"], ["--workers", "7"], ["--tiers", "none"], ["--tiers", "block"], ["--tiers", "sequence"],
                ["--tiers", "key"], ["--tiers", "block,key"], ["--tiers", "block,sequence"], ["--io", "pread"], ["--io", "uring"],
                ["--memory", "32MB"], ["--memory", "64K"], ["--codec", "symbols"], ["--codec", "zstd"]]
    variants += [["--isa", i] for i in isas]
    loose = [["--block-records", b] for b in ("1", "4", "12", "50")]
    want = want_lines = want_code = None
    for v in variants + loose:
        store = os.path.join(folder, "copy")
        shutil.copytree(base, store)
        run = bom("sync", "--store", store, py, "--complete", "--json", "--now", NOW, *v)
        g = run.json()
        got, lines = {}, b""
        if g["generation"] is not None:
            out = os.path.join(store, "outbox", str(g["generation"]))
            for d, _, files in os.walk(out):
                for f in sorted(files):
                    with open(os.path.join(d, f), "rb") as h:
                        got[os.path.relpath(os.path.join(d, f), out)] = h.read()
            lines = b"\n".join(re.sub(rb'"id":"[0-9a-f]{16}-', b'"id":"-', l) for l in split_lines(bom("cat", g["generation"], "--store", store, expect=0).out))
        totals = {k: g[k] for k in ("created", "updated", "deleted", "unchanged", "kept_back", "duplicates", "records", "held", "deletes_held",
                                    "schema_only", "hold_digests") if not (v in loose and k == "hold_digests")}
        if want is None:
            want, want_lines, want_code, want_totals = got, lines, run.code, totals
        same("exit with %s" % v, run.code, want_code)
        same("lines with %s" % v, lines, want_lines)
        if v in loose:
            same("totals with %s" % v, totals, {k: want_totals[k] for k in totals})
        else:
            same("totals with %s" % v, totals, want_totals)
            same("files with %s" % v, sorted(got), sorted(want))
            for name in got:
                same("%s with %s" % (name, v), got[name], want[name])
        shutil.rmtree(store)


def law_inputs(folder, bom, seed, isas):
    """The same records through other bytes, files and compressions: the same delta."""
    rng = random.Random(seed)
    shape = tables.Shape(rng)
    x = tables.clean_table(rng, shape, least=5)
    y = tables.mutate(rng, shape, x)
    plain = tables.Style(rng, plain=True)
    px, py = write(folder, "x.csv", tables.render(rng, x, plain)), write(folder, "y.csv", tables.render(rng, y, plain))
    key = ["--key", words(*shape.key)]
    first = bom("diff", px, py, *key, expect=(0, 1))

    def check(what, *args, **more):
        run = bom("diff", *args, *key, **more)
        same("lines with %s" % what, run.out, first.out)
        same("exit with %s" % what, run.code, first.code)

    for i in range(3):
        check("other bytes", write(folder, "x%d.csv" % i, tables.render(rng, x)), write(folder, "y%d.csv" % i, tables.render(rng, y)))
    for v in ([], ["--io", "pread"]):
        subprocess.run(["zstd", "-qf", "-3", "--check", py, "-o", py + ".zst"], check=True)
        check("zstd", px, py + ".zst", *v)
    with open(py, "rb") as f:
        content = f.read()
    frames, at = b"", 0
    while at < len(content) or not frames:
        size = rng.randrange(1, len(content) + 1)
        frames += subprocess.run(["zstd", "-qc"], input=content[at:at + size], stdout=subprocess.PIPE, check=True).stdout
        if rng.random() < 0.3:
            frames += b"\x50\x2a\x4d\x18\x03\0\0\0abc"       # a skippable frame
        at += size
    check("zstd frames", px, write(folder, "f.csv.zst", frames))
    check("zstd by its magic", px, write(folder, "f.csv", frames))
    check("gzip", px, write(folder, "g.csv.gz", subprocess.run(["gzip", "-nc"], input=content, stdout=subprocess.PIPE, check=True).stdout))
    check("stdin", px, "-", stdin=py)
    check("zstd on stdin", px, "-", stdin=py + ".zst")
    tab = tables.Style(rng, delimiter="\t")
    check("tsv", write(folder, "x.tsv", tables.render(rng, x, tab)), write(folder, "y.tsv", tables.render(rng, y, tab)))
    if "\0" not in content.decode("utf-8"):
        with open(px, "rb") as f:
            wide = write(folder, "x16.csv", f.read().decode("utf-8").encode("utf-16-le"))
        check("UTF-16LE", wide, write(folder, "y16.csv", content.decode("utf-8").encode("utf-16-le")), "--encoding", "UTF-16LE")


def law_files(folder, bom, seed, isas):
    """A snapshot in several files, in any split, is the snapshot in one."""
    rng = random.Random(seed)
    shape = tables.Shape(rng, partition=rng.random() < 0.5)
    t = tables.clean_table(rng, shape, least=4)
    u = tables.mutate(rng, shape, t, rate=0.04, columns=False)
    plain = tables.Style(rng, plain=True)
    results = []
    for way in ("one", "files", "folder", "glob", "gz"):
        sub = os.path.join(folder, way)
        os.mkdir(sub)
        store = os.path.join(sub, "store")
        bom("init", "--store", store, expect=0)
        lines = []
        for step, table in enumerate((t, u)):
            pieces = [table.rows]
            if way != "one":
                cuts = sorted(rng.randrange(len(table.rows) + 1) for _ in range(rng.randrange(1, 5)))
                pieces = [table.rows[a:b] for a, b in zip([0] + cuts, cuts + [len(table.rows)])]
            d = os.path.join(sub, "s%d" % step)
            os.mkdir(d)
            paths = []
            for i, p in enumerate(pieces):
                data = tables.render(rng, tables.Rows(table.names, p), plain)
                if way == "gz" and i % 2:
                    paths.append(write(d, "p%02d.csv.gz" % i, subprocess.run(["gzip", "-nc"], input=data, stdout=subprocess.PIPE).stdout))
                else:
                    paths.append(write(d, "p%02d.csv" % i, data))
            rng.shuffle(paths)
            given = [d] if way == "folder" else [os.path.join(d, "*.csv")] if way == "glob" else paths
            args = (["--key", words(*shape.key)] + (["--partition", words(shape.partition)] if shape.partition else [])) if step == 0 else []
            run = bom("sync", "--store", store, "--complete", "--json", "--now", NOW, *args, *given)
            g = run.json()
            if g["generation"] is not None:
                lines += strip_ids(split_lines(bom("cat", g["generation"], "--store", store, expect=0).out))
            lines.append(("%d %s" % (run.code, [g[k] for k in ("created", "updated", "deleted", "unchanged", "records_in", "deletes_held", "held")])).encode())
        results.append((way, lines, bom("export", "--store", store, expect=0).out if len(t.rows) else b""))
    for way, lines, exported in results[1:]:
        same("lines of %s" % way, lines, results[0][1])
        same("export of %s" % way, exported, results[0][2])


def law_evidence(folder, bom, seed, isas):
    """Deletes wait without evidence A or B; a wrong count is refused; a last record without line end."""
    rng = random.Random(seed)
    shape = tables.Shape(rng)
    s = Series(bom, folder, ref.Feed("default", shape.key))
    t = tables.clean_table(rng, shape, least=30, most=200)
    plain = tables.Style(rng, plain=True)
    s.sync([tables.render(rng, t, plain)])
    for step in range(3):
        t = tables.mutate(rng, shape, t, rate=0.03, columns=False)
        data = tables.render(rng, t, plain)
        what = rng.choice(["none", "count", "wrong", "trailer", "bad-trailer", "control", "bad-control", "open-end", "cut"])
        records = len(t.rows)
        if what == "none":
            s.sync([data], evidence=False)
        elif what == "count":
            s.sync([data], ["--expect-records", records], evidence="count")
        elif what == "wrong":
            run = bom("sync", "--store", s.store, "--expect-records", records + rng.choice([-1, 1, 100]), write(folder, "w.csv", data), "--json")
            same("exit on a wrong count", run.code, 3)
            s.check_export()
        elif what in ("trailer", "bad-trailer"):
            n = records + (what == "bad-trailer")
            path = write(folder, "t%d.csv" % step, data + b"#END %d" % n + rng.choice([b"", b"\n"]))
            if what == "trailer":
                s.sync([data], ["--trailer", "^#END ([0-9]+)$"], evidence="trailer", paths=[path])
            else:
                same("exit on a wrong trailer", bom("sync", "--store", s.store, "--trailer", "^#END ([0-9]+)$", path).code, 3)
                same("exit without trailer", bom("sync", "--store", s.store, "--trailer", "^#FIN ([0-9]+)$", path).code, 3)
                s.check_export()
        elif what in ("control", "bad-control"):
            path = write(folder, "c%d.csv" % step, data)
            good = {"files": [{"name": os.path.basename(path), "bytes": len(data), "records": records,
                               "sha256": hashlib.sha256(data).hexdigest()}], "records": records}
            if what == "bad-control":
                where = rng.choice(["bytes", "records", "sha256", "total", "missing", "extra"])
                if where in ("bytes", "records"):
                    good["files"][0][where] += 1
                elif where == "sha256":
                    good["files"][0][where] = "0" * 64
                elif where == "total":
                    good["records"] -= 1
                elif where == "missing":
                    good["files"].append({"name": "other.csv", "bytes": 1})
                else:
                    good["files"] = []
            control = write(folder, "c%d.ctl.json" % step, json.dumps(good).encode())
            if what == "control":
                s.sync([data], ["--control", control], evidence="control", paths=[path])
            else:
                same("exit on a control file that does not fit (%s)" % where, bom("sync", "--store", s.store, "--control", control, path).code, 3)
                s.check_export()
        elif what == "open-end":
            s.sync([data.rstrip(b"\n") if not data.endswith(b"\n\n") else data], evidence=rng.random() < 0.5)
        else:
            # Cut anywhere after the header: never a delete without evidence.
            raws, _ = ref.scan(data.decode("latin-1"))
            at = rng.randrange(raws[0].end, len(data))
            s.sync([data[:at]], evidence=False)


def law_cut_everywhere(folder, bom, seed, isas):
    """A file cut at every byte of its last records, without evidence: no delete is made."""
    rng = random.Random(seed)
    shape = tables.Shape(rng, columns=4)
    s = Series(bom, folder, ref.Feed("default", shape.key), outbox=False)
    t = tables.clean_table(rng, shape, least=60, most=60)
    data = tables.render(rng, t, tables.Style(rng, plain=True))
    s.sync([data])
    for at in sorted(rng.sample(range(len(data) // 2, len(data)), 12), reverse=True):
        s.step += 1
        run = bom("sync", "--store", s.store, write(folder, "cut.csv", data[:at]), "--json", "--now", NOW)
        if run.code not in (0, 3, 4, 5):
            raise Failed("exit %d" % run.code)
        if run.code != 3:
            same("deleted after a cut at %d" % at, run.json()["deleted"], 0)
            if run.json()["generation"] is not None:
                raise Failed("a cut at byte %d of a snapshot that changed nothing made a generation: %s" % (at, run.out))
        s.check_export()


def law_sequence(folder, bom, seed, isas):
    """Older by number or time than the last: refused. Without them nothing is stale."""
    rng = random.Random(seed)
    store = os.path.join(folder, "store")
    bom("init", "--store", store, expect=0)
    a, b = write(folder, "a.csv", b"k,v\n1,a\n2,b\n"), write(folder, "b.csv", b"k,v\n1,a\n2,c\n")
    way = rng.choice(["sequence", "as-of", "control"])

    def args(n, path):
        if way == "sequence":
            return ["--sequence", n]
        if way == "as-of":
            return ["--as-of", "2026-01-%02dT00:00:00Z" % n]
        return ["--control", write(folder, "c%d.ctl.json" % n, json.dumps({"files": [{"name": os.path.basename(path)}], "sequence": n}).encode())]

    bom("sync", "--store", store, "--key", "k", "--complete", a, *args(7, a), expect=0)
    bom("sync", "--store", store, "--complete", b, *args(6, b), expect=3)
    same("export after a stale snapshot", bom("export", "--store", store).out, b"k,v\n1,a\n2,b\n")
    bom("sync", "--store", store, "--complete", b, expect=0)
    same("export", bom("export", "--store", store).out, b"k,v\n1,a\n2,c\n")
    bom("sync", "--store", store, "--complete", a, *args(6, a), expect=3)
    bom("sync", "--store", store, "--complete", a, *args(9, a), expect=0)
    bom("sync", "--store", store, "--complete", b, *args(8, b), expect=3)
    same("export at the end", bom("export", "--store", store).out, b"k,v\n1,a\n2,b\n")


def law_scope(folder, bom, seed, isas):
    """Absence counts inside the scope only; a record outside it is refused. Upsert deletes nothing."""
    rng = random.Random(seed)
    shape = tables.Shape(rng, partition=True)
    shape.partitions = ["1000", "2000", "3000"]
    s = Series(bom, folder, ref.Feed("default", shape.key, shape.partition))
    t = tables.clean_table(rng, shape, least=60, most=250)
    s.sync(first_contents(rng, t))
    place = t.names.index(shape.partition)
    for _ in range(3):
        u = tables.mutate(rng, shape, t, rate=0.03, columns=False)
        inside = rng.sample(shape.partitions, rng.choice([1, 2]))
        if rng.random() < 0.5:
            part = tables.Rows(u.names, [r for r in u.rows if r[place] in inside])
            contents = [tables.render(rng, part)]
            outcome = s.sync(contents, ["--scope", "partition=" + ",".join(inside)], scope=inside)
            if outcome is not None and part.rows:
                # Whatever waited: outside the scope nothing moved. That is in the reference's export.
                t = tables.Rows(t.names, [r for r in t.rows if r[place] not in inside] + part.rows)
                s.settle(contents, outcome, extra=["--scope", "partition=" + ",".join(inside)], scope=inside)
        elif rng.random() < 0.5:
            out = s.sync([tables.render(rng, u)], ["--scope", "partition=" + ",".join(inside)], scope=inside)
            if out is None:
                s.check_export()
        else:
            some = tables.Rows(u.names, rng.sample(u.rows, max(1, len(u.rows) // 3)))
            s.sync([tables.render(rng, some)], ["--mode", "upsert"], upsert=True)


def law_dry_run(folder, bom, seed, isas):
    """--dry-run: the code of the real run, and nothing changes. --baseline: a generation without chunks."""
    rng = random.Random(seed)
    shape = tables.Shape(rng)
    s = Series(bom, folder, ref.Feed("default", shape.key))
    t = tables.clean_table(rng, shape, least=20)
    contents = first_contents(rng, t)
    if rng.random() < 0.5:
        s.sync(contents, ["--baseline"])
        manifest = os.path.join(s.store, "outbox", "1", "manifest.json")
        if os.path.exists(manifest):
            with open(manifest) as f:
                same("chunks of a baseline", json.load(f)["chunks"], [])
    else:
        s.sync(contents)
    for _ in range(3):
        t = tables.mutate(rng, shape, t, columns=False)
        contents = first_contents(rng, t)
        s.sync(contents, ["--dry-run"], dry_run=True)
        same("generations after a dry run", len([o for o in bom("log", "--store", s.store, "--json", expect=(0, 4, 5)).json_lines()
                                                 if o.get("message_type") == "generation"]), s.generation)
        s.sync(contents)


def law_time(folder, bom, seed, isas):
    """export, diff-generations, get, history, revert over generations."""
    rng = random.Random(seed)
    shape = tables.Shape(rng, partition=rng.random() < 0.4)
    s = Series(bom, folder, ref.Feed("default", shape.key, shape.partition))
    t = tables.clean_table(rng, shape, least=10, most=120)
    states = {}
    for step in range(4):
        contents = first_contents(rng, t)
        outcome = s.sync(contents)
        states[s.generation] = (list(s.feed.columns), {k: dict(v) for k, v in s.feed.records.items()})
        outcome = s.settle(contents, outcome)
        if outcome.exit == 5:
            break
        states[s.generation] = (list(s.feed.columns), {k: dict(v) for k, v in s.feed.records.items()})
        t = tables.mutate(rng, shape, t, rate=0.05, columns=False)
    columns = s.feed.columns
    for g, (cols, records) in states.items():
        s.check_export(g, ref.export(cols, shape.key, records))
    bom("export", "--store", s.store, "--generation", s.generation + 1, expect=2)
    bom("show", s.generation + 7, "--store", s.store, expect=2)
    numbers = sorted(states)
    if len(numbers) >= 2:
        g, h = sorted(rng.sample(numbers, 2))
        old, new = states[g][1], states[h][1]
        want = []
        for k in set(old) | set(new):
            if k not in old:
                want.append(s.feed.line("c", k, None, ref.whole(columns, shape.key, new[k])))
            elif k not in new:
                want.append(s.feed.line("d", k, ref.whole(columns, shape.key, old[k]), None))
            else:
                b, a = ref.changed(columns, shape.key, old[k], new[k])
                if b:
                    want.append(s.feed.line("u", k, b, a))
        run = bom("diff-generations", g, h, "--store", s.store)
        same("diff-generations %d %d" % (g, h), sorted(soft(split_lines(run.out))), sorted(soft(want)))
        same("exit", run.code, 1 if want else 0)
    all_keys = sorted(set().union(*[st[1] for st in states.values()]))
    for key in rng.sample(all_keys, min(3, len(all_keys))):
        record = ",".join('"' + v.replace('"', '""') + '"' for v in key).encode("latin-1").decode("utf-8")
        for g in rng.sample(numbers, min(2, len(numbers))) + [None]:
            here = states[g][1] if g else s.feed.records
            run = bom("get", record, "--store", s.store, *(["--generation", g] if g else []))
            same("exit of get at %s" % g, run.code, 0 if key in here else 1)
            if key in here:
                o = json.loads(run.out)
                bytewise = lambda v: (v or "").encode().decode("latin-1")
                same("key of get", {bytewise(c): bytewise(v) for c, v in o["key"].items()}, dict(zip(shape.key, key)))
                same("values of get", {bytewise(c): bytewise(v) for c, v in o["values"].items()},
                     {c: here[key].get(c) or "" for c in columns if c not in shape.key})
            else:
                same("output of get", run.out, b"")
        steps = [json.loads(l)["generation"] for l in split_lines(bom("history", record, "--store", s.store, expect=0).out)]
        if steps != sorted(steps):
            raise Failed("history out of order: %s" % steps)
    back = rng.choice(numbers)
    run = bom("revert", back, "--store", s.store, "--json", "--now", NOW, expect=(0, 4, 5))
    same("export after revert %d" % back, bom("export", "--store", s.store).out, ref.export(columns, shape.key, states[back][1]))
    g = run.json()
    if states[back][1] != s.feed.records:
        same("generation of revert", g["generation"], s.generation + 1)
    s.verify()


def law_many_feeds(folder, bom, seed, isas):
    """Numbers are per store; a feed's state at g is that of its last generation up to g."""
    rng = random.Random(seed)
    store = os.path.join(folder, "store")
    bom("init", "--store", store, expect=0)
    a, b = write(folder, "a.csv", b"k,v\n1,a\n"), write(folder, "b.csv", b"k,v\n9,z\n")
    same("first", bom("sync", "--store", store, "--feed", "a", "--key", "k", "--complete", "--json", a, expect=0).json()["generation"], 1)
    same("second", bom("sync", "--store", store, "--feed", "b", "--key", "k", "--complete", "--json", b, expect=0).json()["generation"], 2)
    same("a at 2", bom("export", "--store", store, "--feed", "a", "--generation", "2", expect=0).out, b"k,v\n1,a\n")
    run = bom("export", "--store", store, expect=2)
    if b"a" not in run.err or b"b" not in run.err:
        raise Failed("the feeds are not named: %r" % run.err)
    bom("sync", "--store", store, "--feed", "a", "--key", "v", a, expect=2)
    bom("sync", "--store", os.path.join(folder, "none"), "--key", "k", a, expect=2)
    bom("sync", "--store", store, "--feed", "c", "--key", "k", "--partition", "v", a, expect=2)
    same("log", [(o["generation"], o["base"], o["feed"]) for o in bom("log", "--store", store, "--json", expect=0).json_lines()],
         [(1, 0, "a"), (2, 1, "b")])


def law_key_proposal(folder, bom, seed, isas):
    a, b = write(folder, "a.csv", b"k,v\n1,a\n2,a\n"), write(folder, "b.csv", b"k,v\n1,a\n2,b\n")
    run = bom("diff", a, b, expect=2)
    if b"k" not in run.out + run.err:
        raise Failed("no key proposed: %r %r" % (run.out, run.err))


LAWS = [(law_diff, 1.0), (law_dialect, 1.0), (law_series, 0.6), (law_twins, 0.2), (law_doubled_export, 0.1), (law_switches, 0.1), (law_inputs, 0.15),
        (law_files, 0.15), (law_evidence, 0.4), (law_cut_everywhere, 0.06), (law_sequence, 0.06), (law_scope, 0.2), (law_dry_run, 0.15),
        (law_time, 0.2), (law_many_feeds, 0), (law_key_proposal, 0)]


def work(o, share):
    """The cases whose number is share modulo the processes."""
    suite = Suite("laws", o)
    isas = usable_isas(suite.bom, suite.base)
    os.remove(os.path.join(suite.base, "isa.csv"))
    number = 0
    for law, part in LAWS:
        for i in range(max(1, int(o.count * part))):
            number += 1
            if number % o.processes != share:
                continue
            title = "%s %d" % (law.__name__[4:].replace("_", " "), i)
            suite.run(title, law, suite.bom, "%d %s %d" % (o.seed, law.__name__, i), isas)
    return suite


def main():
    o = options("laws", 100, lambda p: p.add_argument("--processes", type=int, default=2))
    if not o.bomsync:
        print("skipped: no --bomsync given")
        print("0 passed, 0 failed, %d skipped" % len(LAWS))
        return 0
    o.processes = max(1, min(2, o.processes))
    others = []
    for share in range(1, o.processes):
        read, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            suite = work(o, share)
            sys.stdout.flush()
            os.write(write_end, json.dumps([suite.passed, suite.failed, suite.skipped, suite.skip_reasons]).encode())
            try:
                os.rmdir(suite.base)
            except OSError:
                pass
            os._exit(0)
        os.close(write_end)
        others.append((pid, read))
    suite = work(o, 0)
    for pid, read in others:
        with os.fdopen(read, "rb") as f:
            text = f.read()
        os.waitpid(pid, 0)
        if not text:
            suite.failed += 1
            print("FAIL  a process of the suite ended early")
            continue
        passed, failed, skipped, reasons = json.loads(text)
        suite.passed, suite.failed, suite.skipped = suite.passed + passed, suite.failed + failed, suite.skipped + skipped
        for r, n in reasons.items():
            suite.skip_reasons[r] = suite.skip_reasons.get(r, 0) + n
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
