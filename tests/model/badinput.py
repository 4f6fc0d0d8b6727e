#!/usr/bin/env python3
"""Bad inputs and their verdicts: RELIABILITY's table for CSV and TSV, compression, evidence and the store, a test a row.

Each test has a store whose feed holds the same 300 records; the bad input is synced into it. Looked at: the exit code, that the
state afterwards is what it must be (nothing half applied), private memory up to 256 MB, two seconds at most.
"""
import fcntl
import gzip
import hashlib
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time

import reference as ref
from harness import NOW, Failed, Skipped, Suite, options, same, write

MEMORY = 256 << 20
SECONDS = 2.0
HEAD = b"k,plant,v,w\n"


def base_rows():
    return [[b"K%04d" % i, b"1000" if i % 3 else b"2000", b"v%d" % (i % 17), b"text %d" % i] for i in range(300)]


def csv_of(rows, head=HEAD):
    return head + b"".join(b",".join(r) + b"\n" for r in rows)


def zst(data, *args):
    return subprocess.run(["zstd", "-qc", *args], input=data, stdout=subprocess.PIPE, check=True).stdout


class Case:
    """A copy of the base store, and the verdict on one input."""

    def __init__(self, folder, bom, suite, slow):
        self.folder, self.bom, self.slow = folder, bom, slow
        self.store = os.path.join(folder, "store")
        shutil.copytree(suite.base_store, self.store)
        self.base_export = suite.base_export

    def sync(self, content, code, *args, name="s.csv", evidence=True, state="same", path=None, stdin=None, limits=True):
        """state: "same", "any", or the expected export."""
        if path is None and content is not None:
            path = write(self.folder, name, content)
        argv = ["sync", "--store", self.store, "--json", "--now", NOW] + (["--complete"] if evidence else []) + list(args)
        paths = path if isinstance(path, list) else [path]
        run = self.bom.measured(*argv, *paths, stdin=stdin)
        self.judge(run, code, limits)
        self.check(state)
        return run

    def judge(self, run, code, limits=True):
        codes = code if isinstance(code, tuple) else (code,)
        if run.code not in codes:
            raise Failed("exit %d, expected %s\nstdout %s\nstderr %s" % (run.code, code, run.out[-700:].decode("utf-8", "replace"),
                                                                     run.err[-700:].decode("utf-8", "replace")))
        if run.code in (2, 3, 7, 8) and not run.err.strip() and b"error" not in run.out:
            raise Failed("exit %d without a word" % run.code)
        if limits and run.seconds > SECONDS * self.slow:
            raise Failed("took %.2f s" % run.seconds)
        if limits and run.rss_peak > MEMORY and run.anon_peak > MEMORY:
            raise Failed("private memory %d MB (whole %d MB)" % (run.anon_peak >> 20, run.rss_peak >> 20))

    def check(self, state):
        if state == "any":
            return
        got = self.bom("export", "--store", self.store, expect=0).out
        same("export afterwards", got, self.base_export if state == "same" else state)

    def object(self, run, **want):
        g = run.json()
        for k, v in want.items():
            if g.get(k) != v:
                raise Failed("%s %r, expected %r in %s" % (k, g.get(k), v, run.out.decode("utf-8", "replace")))
        return g

    def exceptions(self):
        run = self.bom("exceptions", "--store", self.store, "--json", expect=(0, 4, 5))
        return [o for o in run.json_lines() if o.get("message_type") == "exception"]


TESTS = []


def row(title):
    def keep(f):
        TESTS.append((title, f))
        return f
    return keep


def exported(rows, head=HEAD):
    return head + b"".join(b",".join(r) + b"\n" for r in sorted(rows))


# ------------------------------------------------------------------------------------------------------ nothing in it

@row("empty file")
def _(c):
    c.object(c.sync(b"", 5), generation=None)


@row("empty file, first sync of a feed")
def _(c):
    c.object(c.sync(b"", 5, "--feed", "new", "--key", "k", state="any"), generation=None)


@row("header only")
def _(c):
    c.object(c.sync(HEAD, 5), generation=None)
    c.object(c.sync(HEAD.rstrip(), 5), generation=None)
    c.object(c.sync(HEAD + b"\n\n", 5, evidence=False), generation=None)


@row("header only, first sync of a feed")
def _(c):
    c.object(c.sync(HEAD, 5, "--feed", "new", "--key", "k", state="any"), generation=None)


@row("zstd with skippable frames only")
def _(c):
    c.object(c.sync(b"\x50\x2a\x4d\x18\x03\0\0\0abc" * 3, 5, name="s.csv.zst"), generation=None)


@row("gzip of nothing")
def _(c):
    c.object(c.sync(gzip.compress(b""), 5, name="s.csv.gz"), generation=None)


# ----------------------------------------------------------------------------------------------------------- the file

@row("missing file")
def _(c):
    c.sync(None, 2, path=os.path.join(c.folder, "none.csv"))
    c.sync(None, 2, path=os.path.join(c.folder, "*.nothing"))


@row("unreadable file")
def _(c):
    path = write(c.folder, "s.csv", csv_of(base_rows()))
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        raise Skipped("this user reads everything")
    c.sync(None, 2, path=path)


@row("folder without files")
def _(c):
    d = os.path.join(c.folder, "empty")
    os.mkdir(d)
    c.sync(None, 2, path=d)


def changing(c, change, tries=1):
    """Syncs a file to which change(path, n) is done all the while. With tries, dry runs until one is hit: a change that takes
    longer than the reading may fall between two runs."""
    path = write(c.folder, "s.csv", csv_of(base_rows()) + b"".join(b"X%07d,1000,v,some more text\n" % i for i in range(400000)))
    stop = threading.Event()
    started = threading.Event()

    def busy():
        n = 0
        while not stop.is_set():
            change(path, n)
            n += 1
            started.set()
            time.sleep(0.0005)

    t = threading.Thread(target=busy)
    t.start()
    started.wait()
    try:
        for _ in range(tries - 1):
            run = c.bom("sync", "--store", c.store, "--complete", "--dry-run", path)
            if run.code == 3:
                return
            if run.code != 0:
                raise Failed("exit %d of a file that is replaced" % run.code)
        c.sync(None, 3, path=path, limits=False)
    finally:
        stop.set()
        t.join()


@row("grows while read")
def _(c):
    def grow(path, n):
        with open(path, "ab") as f:
            f.write(b"Y%07d,1000,v,w\n" % n)
    changing(c, grow)


@row("shrinks while read")
def _(c):
    def shrink(path, n):
        os.truncate(path, os.path.getsize(path) - 29)
    changing(c, shrink)


@row("replaced while read")
def _(c):
    copies = []

    def replace(path, n):
        if not copies:
            with open(path, "rb") as f:
                copies.append(f.read())
        tmp = path + ".other"
        with open(tmp, "wb") as f:
            f.write(copies[0])
        os.replace(tmp, path)
    changing(c, replace, tries=60)


# -------------------------------------------------------------------------------------------------- cut, wrong, garbage

@row("a quote is open at the end of the file")
def _(c):
    data = csv_of(base_rows())
    c.sync(data + b'K9999,1000,v,"never closed\n', 3)
    c.sync(data + b'K9999,1000,v,"', 3, evidence=False)
    c.sync(data.replace(b"text 7\n", b'"text 7\n'), 3)


@row("count given differs")
def _(c):
    c.sync(csv_of(base_rows()), 3, "--expect-records", "299")
    c.sync(csv_of(base_rows()), 3, "--expect-records", "301", evidence=False)


@row("count counts duplicates and records kept back")
def _(c):
    rows = base_rows()
    c.sync(csv_of(rows + rows[:2]) + b"\n\n", 0, "--expect-records", "302")


@row("trailer that does not match, or differs")
def _(c):
    data = csv_of(base_rows())
    c.sync(data, 3, "--trailer", "^EOF ([0-9]+)$")
    c.sync(data + b"EOF 299\n", 3, "--trailer", "^EOF ([0-9]+)$")
    c.sync(data + b"EOF 300\n", 0, "--trailer", "^EOF ([0-9]+)$", evidence=False)
    c.sync(data + b"EOF 300", 0, "--trailer", "^EOF ([0-9]+)$", evidence=False)


@row("gzip cut, flipped, with trailing garbage")
def _(c):
    data = gzip.compress(csv_of(base_rows()))
    for cut in (1, 8, 9, len(data) // 2):
        c.sync(data[:-cut], 3, name="s.csv.gz")
    bad = bytearray(data)
    bad[-6] ^= 1                                            # its CRC
    c.sync(bytes(bad), 3, name="s.csv.gz")
    c.sync(data + b"garbage", 3, name="s.csv.gz")
    c.sync(data[:14], 3, name="s.csv.gz")


@row("zstd cut, flipped, with trailing garbage")
def _(c):
    data = zst(csv_of(base_rows()), "--check")
    for cut in (1, 4, 5, len(data) // 2):
        c.sync(data[:-cut], 3, name="s.csv.zst")
    bad = bytearray(data)
    bad[-2] ^= 1                                            # its checksum
    c.sync(bytes(bad), 3, name="s.csv.zst")
    c.sync(data + b"garbage", 3, name="s.csv.zst")
    c.sync(data[:7], 3, name="s.csv.zst")


@row("every gzip and zstd prefix is refused")
def _(c):
    rows = [[b"K%04d" % i, b"1000", b"v", b"w"] for i in range(12)]
    for name, data in (("s.csv.gz", gzip.compress(csv_of(rows))), ("s.csv.zst", zst(csv_of(rows), "--check"))):
        for at in range(4, len(data), 5):
            c.sync(data[:at], 3, name=name, state="any")
    c.check("same")


@row("cut at a line end without evidence: creates and updates, deletes wait")
def _(c):
    rows = base_rows()
    rows[0][3] = b"changed"
    rows.insert(5, [b"NEW", b"1000", b"v", b"w"])
    kept = rows[:290]
    run = c.sync(csv_of(kept), 5, evidence=False, state=exported(rows))
    g = c.object(run, created=1, updated=1, deleted=0, deletes_held=11)
    if not g["generation"] or not g["hold_digests"]:
        raise Failed("no generation or no hold: %s" % run.out)


@row("cut at a member or frame boundary without evidence")
def _(c):
    rows = base_rows()
    rows[0][3] = b"changed"
    head, tail = csv_of(rows[:290]), b"".join(b",".join(r) + b"\n" for r in rows[290:])
    c.object(c.sync(gzip.compress(head), 5, name="s.csv.gz", evidence=False, state=exported(rows)), updated=1, deleted=0, deletes_held=10)
    c.object(c.sync(zst(head), 5, name="s.csv.zst", evidence=False, state=exported(rows)), deleted=0, deletes_held=10)
    c.object(c.sync(gzip.compress(head) + gzip.compress(tail), 0, name="s.csv.gz", evidence=False, state=exported(rows)), deletes_held=0)
    c.object(c.sync(zst(head) + zst(tail), 0, name="s.csv.zst", evidence=False, state=exported(rows)), deletes_held=0)


# ------------------------------------------------------------------------------------------------------- compression

@row("bomb")
def _(c):
    zeros = os.path.join(c.folder, "zeros")
    with open(zeros, "wb") as f:
        f.truncate(300 << 20)
    for tool, name in ((["zstd", "-q"], "s.csv.zst"), (["gzip", "-9"], "s.csv.gz")):
        path = os.path.join(c.folder, name)
        with open(zeros, "rb") as i, open(path, "wb") as o:
            subprocess.run(tool + ["-c"], stdin=i, stdout=o, check=True)
        c.sync(None, 3, path=path)
    os.remove(zeros)


@row("bomb of good records")
def _(c):
    line = b"K0001,1000,v1," + b"a" * 900 + b"\n"
    path = os.path.join(c.folder, "s.csv.zst")
    with open(path, "wb") as o:
        p = subprocess.Popen(["zstd", "-q", "-c"], stdin=subprocess.PIPE, stdout=o)
        p.stdin.write(HEAD)
        for _ in range(400):
            p.stdin.write(line * 800)
        p.stdin.close()
        p.wait()
    if 400 * 800 * len(line) < 1000 * os.path.getsize(path):
        raise Skipped("this zstd does not compress it 1,000 to 1")
    c.sync(None, 3, path=path)


def frame(window_exponent=None, dictionary=None, content=b"k,plant,v,w\nK0001,1000,v1,text 1\n"):
    head = b"\x28\xb5\x2f\xfd" + bytes([1 if dictionary is not None else 0]) + bytes([(window_exponent - 10) << 3])
    if dictionary is not None:
        head += bytes([dictionary])
    return head + struct.pack("<I", len(content) << 3 | 1)[:3] + content


@row("zstd window over 128 MB")
def _(c):
    c.sync(frame(28), 3, name="s.csv.zst")
    c.sync(frame(31), 3, name="s.csv.zst")


@row("zstd window of 128 MB is taken")
def _(c):
    c.sync(frame(27, content=csv_of(base_rows())), 0, name="s.csv.zst", limits=False)


@row("zstd frame that needs a dictionary")
def _(c):
    c.sync(frame(20, dictionary=7), 3, name="s.csv.zst")


@row(".zst that is gzip, .gz that is zstd or plain")
def _(c):
    data = csv_of(base_rows())
    c.sync(gzip.compress(data), 3, name="s.csv.zst")
    c.sync(zst(data), 3, name="s.csv.gz")
    c.sync(data, 3, name="t.csv.zst")
    c.sync(data, 3, name="t.csv.gz")


# --------------------------------------------------------------------------------------------------------- encodings

@row("BOM mark at byte 0 is stripped, later it is data")
def _(c):
    c.object(c.sync(b"\xef\xbb\xbf" + csv_of(base_rows()), 0), generation=None)
    rows = base_rows()
    rows[4][2] = b"\xef\xbb\xbfv"
    c.object(c.sync(csv_of(rows), 0, state=exported(rows)), updated=1)


@row("UTF-16 and UTF-32 not declared")
def _(c):
    text = csv_of(base_rows()).decode()
    for e in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        c.sync(text.encode(e), 3, name="s-%s.csv" % e)


@row("UTF-16 declared")
def _(c):
    text = csv_of(base_rows()).decode()
    c.object(c.sync(text.encode("utf-16-le"), 0, "--encoding", "UTF-16LE"), generation=None)


@row("Windows-1252 declared")
def _(c):
    rows = base_rows()
    rows[3][2] = b"caf\xe9"
    want = [list(r) for r in rows]
    want[3][2] = "café".encode()
    c.object(c.sync(csv_of(rows), 0, "--encoding", "WINDOWS-1252", state=exported(want)), updated=1)


@row("invalid UTF-8, NUL: the record is kept back, with its offset")
def _(c):
    for bad in (b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"a\0b"):
        rows = base_rows()
        rows[7][3] = b"x" + bad + b"y"
        rows[9][3] = b"changed"
        data = csv_of(rows)
        want = base_rows()
        want[9][3] = b"changed"
        c.object(c.sync(data, 4, state=exported(want)), kept_back=1, deleted=0)
        found = c.exceptions()
        if len(found) != 1:
            raise Failed("%d exceptions: %s" % (len(found), found))
        start = data.index(b"K0007")
        if not (start <= found[0]["byte"] < data.index(b"\n", start) and found[0]["line"] == 9):
            raise Failed("place of the exception: %s, record at byte %d line 9" % (found[0], start))
    c.sync(csv_of(base_rows()), 0)
    same("exceptions at the end", c.exceptions(), [])


@row("stdin: exceptions name their line, behind a record that is too long to be kept, too")
def _(c):
    rows = base_rows()
    long_record = b"K9999,1000,v," + b"x," * ((17 << 20) // 2) + b"\r\n"   # more columns than fit, on one line
    data = csv_of(rows[:100]) + long_record + b"".join(b",".join(r) + b"\r\n" for r in rows[100:])
    data = data.replace(b"text 50\n", b"\"two\r\nlines\"\n").replace(b"text 40\n", b"x\xffy\n").replace(b"text 200\r\n", b"x\xffy\r\n")
    path = write(c.folder, "s.csv", data)
    packed = write(c.folder, "s.csv.zst", zst(data))
    found = []
    for how, stdin in ((path, None), ("-", path), (packed, None), ("-", packed)):
        c.sync(None, (4, 5), path=how, stdin=stdin, state="any", limits=False)
        found.append(sorted((o["byte"], o["line"], o["rule"]) for o in c.exceptions()))
    for other in found[1:]:
        same("places of the exceptions", other, found[0])
    lines = [line for _, line, _ in found[0]]
    if not {42, 103, 204} <= set(lines):
        raise Failed("lines of the exceptions: %s" % (found[0],))


@row("a copy of a record in a block that is skipped, in a compressed file")
def _(c):
    rows = base_rows()
    data = csv_of(rows) + b",".join(rows[7][:3] + [b"other"]) + b"\n" + b",".join(rows[120]) + b"\n"
    want = None
    for name, content in (("s.csv", data), ("s.csv.zst", zst(data)), ("s.csv.gz", gzip.compress(data, mtime=0))):
        run = c.sync(content, 4, name=name)
        got = (run.json()["kept_back"], run.json()["duplicates"], [(o["byte"], o["line"], o["value"]) for o in c.exceptions()])
        want = want or got
        same("what " + name + " gives", got, want)
    same("kept back, duplicates", want[:2], (2, 1))


@row("CR only and mixed line ends")
def _(c):
    data = csv_of(base_rows())
    c.object(c.sync(data.replace(b"\n", b"\r"), 0), generation=None)
    c.object(c.sync(data.replace(b"\n", b"\r\n"), 0), generation=None)
    lines = data.split(b"\n")[:-1]
    mixed = b"".join(l + [b"\n", b"\r", b"\r\n"][i % 3] for i, l in enumerate(lines))
    c.object(c.sync(mixed, 0), generation=None)


@row("no final line end, or cut in an unquoted field")
def _(c):
    rows = base_rows()
    data = csv_of(rows)
    c.object(c.sync(data[:-1], 0, evidence=False), generation=None, kept_back=0)
    c.object(c.sync(data[:-2], 4, evidence=False), generation=None, kept_back=1)
    rows[-1][3] = rows[-1][3][:-1]
    c.object(c.sync(data[:-2], 0, state=exported(rows)), updated=1, kept_back=0)


# ------------------------------------------------------------------------------------------------------------ records

@row("quote never closed within 16 MB")
def _(c):
    c.sync(csv_of(base_rows()) + b'K9999,1000,v,"' + b"x" * (17 << 20) + b'"\n', 3)
    c.sync(csv_of(base_rows()) + b'K9999,1000,v,"' + b"xyz\n" * (5 << 20), 3)


@row("bare quote, strict and lenient")
def _(c):
    rows = base_rows()
    rows[8][3] = b'12" monitor'
    rows[9][3] = b'1/2" NPT, 3" long'.replace(b",", b"")
    c.object(c.sync(csv_of(rows), 4), kept_back=2, updated=0)
    want = [list(r) for r in rows]
    for i in (8, 9):
        want[i][3] = b'"' + rows[i][3].replace(b'"', b'""') + b'"'
    c.object(c.sync(csv_of(rows), 0, "--quotes", "lenient", state=exported(want)), kept_back=0, updated=2)


@row("too few or many columns, known key")
def _(c):
    rows = base_rows()
    data = csv_of(rows).replace(b"text 10\n", b"text 10,more\n").replace(b",v3,text 20\n", b"\n")
    c.object(c.sync(data, 4), kept_back=2, deleted=0, generation=None)
    same("rules", sorted(e["rule"] for e in c.exceptions()), ["columns", "columns"])


@row("too few or many columns, unknown key: deletes wait")
def _(c):
    rows = [r for r in base_rows() if r[0] not in (b"K0011", b"K0012")]
    rows[3][3] = b"changed"
    data = csv_of(rows) + b"just one field\n"
    want = base_rows()
    want[3][3] = b"changed"
    c.object(c.sync(data, 5, state=exported(want)), kept_back=1, deleted=0, deletes_held=2, updated=1)


@row("ragged above 5 % and 20 records")
def _(c):
    rows = base_rows()
    bad = [b",".join(r) + (b",extra" if i < 30 else b"") + b"\n" for i, r in enumerate(rows)]
    c.sync(HEAD + b"".join(bad), 3)
    ok = [b",".join(r) + (b",extra" if i < 20 else b"") + b"\n" for i, r in enumerate(rows)]
    c.object(c.sync(HEAD + b"".join(ok), 4), kept_back=20)


@row("a column stands twice; a key column is missing or renamed")
def _(c):
    rows = base_rows()
    c.sync(csv_of(rows, b"k,plant,v,v\n"), 3)
    c.sync(csv_of([r[1:] for r in rows], b"plant,v,w\n"), 3)
    run = c.sync(csv_of(rows, b"K,plant,v,w\n"), 3)
    if b"k" not in run.err + run.out:
        raise Failed("the key column is not named: %r" % run.err)


@row("columns in another order")
def _(c):
    c.object(c.sync(csv_of([r[::-1] for r in base_rows()], b"w,v,plant,k\n"), 0), generation=None)


@row("field above 1 MB, record above 16 MB")
def _(c):
    rows = base_rows()
    rows[5][3] = b"x" * ((1 << 20) + 1)
    rows[9][3] = b"changed"
    want = base_rows()
    want[9][3] = b"changed"
    c.object(c.sync(csv_of(rows), 4, state=exported(want)), kept_back=1)
    rows[5][3] = b"x" * (17 << 20)
    c.object(c.sync(csv_of(rows), (4, 5), state="any"), kept_back=1, deleted=0)
    rows[5][3] = b"x," * (9 << 20)
    c.object(c.sync(csv_of(rows), (4, 5), state="any"), kept_back=1, deleted=0)
    c.check(exported(want))


@row("field of 1 MB is taken")
def _(c):
    rows = base_rows()
    rows[5][3] = b"x" * (1 << 20)
    c.object(c.sync(csv_of(rows), 0, state=exported(rows)), updated=1)


@row("100,000 columns")
def _(c):
    c.sync(b",".join(b"c%d" % i for i in range(100000)) + b"\n" + b"," * 99999 + b"\n", 3, "--feed", "wide", "--key", "c0", state="any")
    c.sync(b",".join([b"k", b"plant", b"v", b"w"] + [b"c%d" % i for i in range(100000)]) + b"\n", 3)


@row("duplicate key, same and other content")
def _(c):
    rows = base_rows()
    c.object(c.sync(csv_of(rows + [rows[3], rows[3], rows[200]]), 0), generation=None, duplicates=3)
    other = list(rows[3])
    other[3] = b"other"
    c.object(c.sync(csv_of(rows + [other]), 4), generation=None, kept_back=2, duplicates=0)
    new = [b"NEW", b"1000", b"a", b"b"]
    c.object(c.sync(csv_of(rows + [new, new[:3] + [b"c"]]), 4), generation=None, kept_back=2)
    same("exceptions", {e["rule"] for e in c.exceptions()}, {"duplicate"})
    c.object(c.sync(csv_of(rows), 0), generation=None)


@row("all key columns empty; key above 511 bytes")
def _(c):
    rows = base_rows()
    c.object(c.sync(csv_of(rows + [[b"", b"", b"v", b"w"]]), 4), kept_back=1)
    long = [b"L" * 3000, b"1000", b"v", b"w"]
    twin = [b"L" * 2999 + b"M", b"1000", b"v", b"w"]
    c.object(c.sync(csv_of(rows + [long, twin]), 0, state=exported(rows + [long, twin])), created=2)
    c.object(c.sync(csv_of(rows + [long, twin]), 0, state="any"), generation=None)


@row("keys that differ in case, blanks, NFC and NFD are distinct")
def _(c):
    rows = base_rows()
    more = [[k, b"1000", b"v", b"w"] for k in ("é".encode(), "e\u0301".encode(), b"ab", b"AB", b"Ab", b"ab ", b" ab", b"a b")]
    c.object(c.sync(csv_of(rows + more), 0, state=exported(rows + more)), created=8, duplicates=0)


@row("blank lines are ignored")
def _(c):
    data = csv_of(base_rows())
    c.object(c.sync(b"\n\n" + data.replace(b"\n", b"\n\n\r\n") + b"\n\n", 0), generation=None, records_in=300, kept_back=0)


@row("cells that begin with = + - @ stay as they are")
def _(c):
    rows = base_rows()
    for i, v in enumerate((b"=1+1", b"+2", b"-3", b"@x", b"=cmd|' /C calc'!A0")):
        rows[i][3] = v
    run = c.sync(csv_of(rows), 0, state=exported(rows))
    text = c.bom("cat", run.json()["generation"], "--store", c.store).out
    if b'"after":{"w":"=1+1"}' not in text:
        raise Failed("cat changed a cell: %r" % text[:500])


@row("escape characters are inert in messages")
def _(c):
    data = csv_of(base_rows()) + b"\x1b[31mK,1000\n\x1b]0;x\x07,1000,v,\xff\x1b[2J\n"
    run = c.sync(data, 4)
    said = run.err + run.out + c.bom("exceptions", "--store", c.store).out + c.bom("exceptions", "--store", c.store, "--json").out
    if b"\x1b" in said or b"\x07" in said:
        raise Failed("an escape character came through: %r" % said)


@row("names of partitions stay inside the outbox")
def _(c):
    store = os.path.join(c.folder, "other")
    c.bom("init", "--store", store, expect=0)
    names = [b"../../etc/x", b"/abs", b"-rf", b"..", b".", b".hidden", b"_", b"", b"x" * 300, b"y" * 300 + b"z", b"a b", b"a/b", b"%41", b"\xc3\xbc",
             b"con", b"~", b"a\\b", b"x" * 119, b"x" * 120, b"x" * 121]
    data = b"k,plant,v\n" + b"".join(b"%d,%s,v\n" % (i, n) for i, n in enumerate(names))
    run = c.bom.measured("sync", "--store", store, "--key", "k,plant", "--partition", "plant", "--complete", "--json", write(c.folder, "p.csv", data))
    c.judge(run, 0)
    out = os.path.join(store, "outbox", "1")
    with open(os.path.join(out, "manifest.json")) as f:
        chunks = json.load(f)["chunks"]
    folders = {}
    for ch in chunks:
        part, name = ch["file"].rsplit("/", 1)
        if "/" in part or part.startswith((".", "-")) or len(part) > 255:
            raise Failed("folder %r" % part)
        if not os.path.realpath(os.path.join(out, ch["file"])).startswith(os.path.realpath(out) + os.sep):
            raise Failed("outside: %r" % ch["file"])
        folders.setdefault(part, set()).add(ch["partition"])
    if any(len(v) > 1 and v != {"_"} for v in folders.values()):
        raise Failed("two partitions share a folder: %s" % folders)
    for name, folder in ((b"-rf", "%2Drf"), (b"..", "%2E."), (b"a b", "a%20b"), (b"/abs", "%2Fabs"), (b"../../etc/x", "%2E.%2F..%2Fetc%2Fx"),
                         (b"%41", "%2541"), (b"\xc3\xbc", "%C3%BC"), (b"x" * 120, "x" * 120), (b"~", "%7E")):
        if folder not in folders:
            raise Failed("no folder %r for %r in %s" % (folder, name, sorted(folders)))
    long = [f for f in folders if f.startswith("x" * 80 + "~")]
    if len(long) != 2 or any(len(f) != 80 + 1 + 16 for f in long):
        raise Failed("long names: %s" % long)


@row("symbolic links in the store are not followed")
def _(c):
    victim = os.path.join(c.folder, "victim")
    os.mkdir(victim)
    g = json.loads(c.bom("log", "--store", c.store, "--json").out.splitlines()[-1])["generation"]
    os.symlink(victim, os.path.join(c.store, "outbox", ".tmp-%d" % (g + 1)))
    rows = base_rows()
    rows[0][3] = b"changed"
    run = c.bom("sync", "--store", c.store, "--complete", "--json", write(c.folder, "s.csv", csv_of(rows)))
    if os.listdir(victim):
        raise Failed("wrote through the link: %s (exit %d)" % (os.listdir(victim), run.code))


@row("files of the store are private")
def _(c):
    for d, _, files in os.walk(c.suite_store):
        for f in files:
            mode = stat.S_IMODE(os.stat(os.path.join(d, f)).st_mode)
            if mode & 0o077:
                raise Failed("%s has mode %o" % (os.path.join(d, f), mode))


# ------------------------------------------------------------------------------------------------------------- guard

@row("rows down by 60 %")
def _(c):
    c.object(c.sync(csv_of(base_rows()[:120]), 5), generation=None, deleted=0)


@row("rows down by more than 10 %, with changes: nothing is made")
def _(c):
    rows = base_rows()[:260]
    rows[0][3] = b"changed"
    c.object(c.sync(csv_of(rows), 5), generation=None, updated=0, created=0, deleted=0, held=1, deletes_held=40)


@row("a partition gone")
def _(c):
    store = os.path.join(c.folder, "other")
    c.bom("init", "--store", store, expect=0)
    rows = [[b"A%d" % i, b"1000", b"v", b"w"] for i in range(100)] + [[b"B%d" % i, b"2000", b"v", b"w"] for i in range(5)]
    c.bom("sync", "--store", store, "--key", "k,plant", "--partition", "plant", "--complete", write(c.folder, "a.csv", csv_of(rows)), expect=0)
    rows[0][3] = b"changed"
    run = c.bom("sync", "--store", store, "--complete", "--json", write(c.folder, "b.csv", csv_of(rows[1:2] + rows[:1] + rows[2:99])), expect=5)
    c.object(run, updated=1, deleted=1, deletes_held=5)
    same("export", c.bom("export", "--store", store).out, exported(rows[:99] + rows[100:]))


@row("all rows changed")
def _(c):
    rows = base_rows()
    for r in rows:
        r[3] += b"!"
    run = c.sync(csv_of(rows), 5)
    c.object(run, generation=None, updated=0, held=300)
    half = base_rows()
    for r in half[:150]:
        r[3] += b"!"
    c.object(c.sync(csv_of(half), 0, state=exported(half)), updated=150)


@row("a new column on all rows is no mass change")
def _(c):
    rows = [r + [b"n"] for r in base_rows()]
    c.object(c.sync(csv_of(rows, b"k,plant,v,w,new\n"), 0, state=exported(rows, b"k,plant,v,w,new\n")), updated=300, schema_only=300)
    empty = [r + [b""] for r in base_rows()]
    c.object(c.sync(csv_of(base_rows()), 0, state=exported(empty, b"k,plant,v,w,new\n")), updated=300, schema_only=300)


@row("an older snapshot after a newer one")
def _(c):
    rows = base_rows()
    c.sync(csv_of(rows), 0, "--sequence", "10")
    rows[0][3] = b"changed"
    c.sync(csv_of(rows), 3, "--sequence", "9")
    c.sync(csv_of(rows), 3, "--control", write(c.folder, "c.json", b'{"files":[{"name":"s.csv"}],"sequence":3}'))
    c.sync(csv_of(rows), 0, "--as-of", "2026-02-01T00:00:00Z", state=exported(rows))
    rows[0][3] = b"again"
    run = c.sync(csv_of(rows), 3, "--as-of", "2026-01-31T00:00:00Z", state="any")
    if b"stale" not in run.err + run.out:
        raise Failed("no word of stale: %r" % run.err)


@row("a row whose key cannot be read: its partition's deletes wait")
def _(c):
    store = os.path.join(c.folder, "other")
    c.bom("init", "--store", store, expect=0)
    rows = base_rows()
    c.bom("sync", "--store", store, "--key", "k,plant", "--partition", "plant", "--complete", write(c.folder, "a.csv", csv_of(rows)), expect=0)
    left = [r for i, r in enumerate(rows) if i not in (3, 4)]           # 3 is of 2000, 4 of 1000
    data = csv_of(left) + b"K\xff,1000,v,w\n"
    run = c.bom("sync", "--store", store, "--complete", "--json", write(c.folder, "b.csv", data), expect=5)
    c.object(run, deleted=1, deletes_held=1, kept_back=1)
    same("export", c.bom("export", "--store", store).out, exported([r for i, r in enumerate(rows) if i != 3]))
    data = csv_of([r for i, r in enumerate(left) if r[0] != b"K0006"]) + b"K1,\xff,v,w\n"
    run = c.bom("sync", "--store", store, "--complete", "--json", write(c.folder, "b.csv", data), expect=5)
    c.object(run, deleted=0, deletes_held=2, kept_back=1)


@row("the same snapshot twice")
def _(c):
    c.object(c.sync(csv_of(base_rows()), 0), generation=None, unchanged=300)
    rows = base_rows()
    random.Random(5).shuffle(rows)
    c.object(c.sync(csv_of(rows), 0), generation=None, unchanged=300)


@row("control file: digest, count, size wrong; a file missing or extra; no JSON")
def _(c):
    data = csv_of(base_rows())
    good = {"name": "s.csv", "bytes": len(data), "records": 300, "sha256": hashlib.sha256(data).hexdigest()}

    def control(**change):
        return write(c.folder, "c.json", json.dumps({"files": [dict(good, **change)], "records": 300}).encode())

    c.sync(data, 0, "--control", control(), evidence=False)
    c.sync(data, 3, "--control", control(sha256="1" * 64))
    c.sync(data, 3, "--control", control(bytes=len(data) - 1))
    c.sync(data, 3, "--control", control(records=301))
    c.sync(data, 3, "--control", control(name="t.csv"))
    c.sync(data, 3, "--control", write(c.folder, "c.json", json.dumps({"files": [good, dict(good, name="t.csv")]}).encode()))
    c.sync(data, 3, "--control", write(c.folder, "c.json", json.dumps({"files": [good], "records": 299}).encode()))
    c.sync(None, 3, "--control", control(), path=[os.path.join(c.folder, "s.csv"), write(c.folder, "extra.csv", HEAD)])
    c.sync(data, (2, 3), "--control", write(c.folder, "c.json", b"{not json"))
    c.sync(data, 2, "--control", os.path.join(c.folder, "none.json"))


# ------------------------------------------------------------------------------------------------------------- store

def fingerprints(store):
    found = {}
    for d, _, files in os.walk(store):
        for f in files:
            p = os.path.join(d, f)
            if f in ("lock", "readers", "lock.mdb"):
                continue
            with open(p, "rb") as h:
                found[os.path.relpath(p, store)] = hashlib.sha256(h.read()).hexdigest()
    return found


def on_store(c, code, commands=("sync", "export", "log", "verify")):
    data = write(c.folder, "s.csv", csv_of(base_rows()))
    before = fingerprints(c.store)
    for name in commands:
        args = {"sync": ["sync", "--complete", data], "export": ["export"], "log": ["log"], "verify": ["verify"]}[name]
        run = c.bom.measured(args[0], "--store", c.store, *args[1:])
        c.judge(run, code)
    same("files of the store", fingerprints(c.store), before)


@row("store: a folder that is not there, or is no store")
def _(c):
    shutil.rmtree(c.store)
    on_store(c, 2)
    os.mkdir(c.store)
    on_store(c, (2, 7))
    write(c.store, "notes.txt", b"mine")
    on_store(c, (2, 7))
    run = c.bom("init", "--store", c.store, expect=2)
    same("files", os.listdir(c.store), ["notes.txt"])


@row("store: foreign")
def _(c):
    for name in ("root",):
        write(os.path.join(c.store, name), "data.mdb", os.urandom(40960))
    on_store(c, 7)
    write(os.path.join(c.store, "root"), "data.mdb", b"")
    on_store(c, 7)


@row("store: truncated")
def _(c):
    for sub in sorted(d for d in os.listdir(c.store) if d == "root" or d.startswith("shard")):
        path = os.path.join(c.store, sub, "data.mdb")
        with open(path, "rb") as f:
            whole = f.read()
        if len(whole) <= 3 * 4096:
            continue
        for keep in (0, 100, 4096, 8192, len(whole) // 2 // 4096 * 4096, len(whole) - 4096):
            with open(path, "wb") as f:
                f.write(whole[:keep])
            run = c.bom.measured("verify", "--store", c.store)
            c.judge(run, 7)
            if sub == "root":
                on_store(c, 7, ("sync", "export", "log"))
            else:
                run = c.bom.measured("export", "--store", c.store)
                if run.code == 0:
                    same("export of a store truncated at %d of %s" % (keep, sub), run.out, c.base_export)
                else:
                    c.judge(run, 7)
        with open(path, "wb") as f:
            f.write(whole)
    c.bom("verify", "--store", c.store, expect=0)
    c.check("same")


@row("store: flipped bits")
def _(c):
    rng, found, tried = random.Random(c.seed), 0, 0
    places = [os.path.join(c.store, d, "data.mdb") for d in sorted(os.listdir(c.store)) if d == "root" or d.startswith("shard")]
    for _ in range(c.flips):
        path = rng.choice([p for p in places if os.path.getsize(p) > 8192])
        at, bit = rng.randrange(os.path.getsize(path)), 1 << rng.randrange(8)
        with open(path, "r+b") as f:
            f.seek(at)
            b = f.read(1)
            f.seek(at)
            f.write(bytes([b[0] ^ bit]))
        tried += 1
        v = c.bom("verify", "--store", c.store, expect=(0, 7))
        e = c.bom("export", "--store", c.store, expect=(0, 7))
        if e.code == 0 and e.out != c.base_export:
            raise Failed("bit %d of byte %d of %s: export gave wrong bytes, verify said %d" % (bit, at, path, v.code))
        found += v.code == 7
        with open(path, "r+b") as f:
            f.seek(at)
            f.write(b)
    c.bom("verify", "--store", c.store, expect=0)
    if tried > 50 and not found:
        raise Failed("%d flips and verify found none" % tried)


@row("store: flipped chunk")
def _(c):
    chunks = [os.path.join(d, f) for d, _, files in os.walk(os.path.join(c.store, "outbox")) for f in files if f.endswith(".zst")]
    for path in chunks[:3]:
        with open(path, "rb") as f:
            whole = f.read()
        for at in (5, len(whole) // 2, len(whole) - 1):
            with open(path, "wb") as f:
                f.write(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
            c.bom("verify", "--store", c.store, expect=7)
        os.remove(path)
        c.bom("verify", "--store", c.store, expect=7)
        with open(path, "wb") as f:
            f.write(whole)
    c.bom("verify", "--store", c.store, expect=0)


@row("store: lock file only")
def _(c):
    shutil.rmtree(c.store)
    os.mkdir(c.store)
    write(c.store, "lock", b"")
    on_store(c, 7, ("export", "log", "verify", "sync"))


@row("a second run: 8 at once; it waits with --wait; the successor of a killed run starts within a second")
def _(c):
    data = csv_of(base_rows())
    path = write(c.folder, "s.csv", data)
    holder = lambda: open(os.path.join(c.store, "lock")).read()
    before = holder()
    first = subprocess.Popen([c.bom.path, "sync", "--store", c.store, "--complete", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    try:
        first.stdin.write(data[:1000])
        first.stdin.flush()
        deadline = time.monotonic() + 5 * c.slow
        while holder() == before: # or the second would be the first
            if time.monotonic() > deadline:
                raise Failed("the first run did not take the lock")
            time.sleep(0.01)
        run = c.bom("sync", "--store", c.store, "--complete", path, expect=8)
        if run.seconds > 1:
            raise Failed("8 came after %.1f s" % run.seconds)
        c.bom("export", "--store", c.store, expect=0)          # readers go on
        start = time.monotonic()
        run = c.bom("sync", "--store", c.store, "--complete", "--wait", "1", path, expect=8)
        if not 0.8 <= time.monotonic() - start <= 3:
            raise Failed("--wait 1 took %.2f s" % (time.monotonic() - start))
        first.kill()
        first.wait()
        start = time.monotonic()
        run = c.bom("sync", "--store", c.store, "--complete", path, expect=0)
        if time.monotonic() - start > 1 * c.slow:
            raise Failed("the successor took %.2f s" % (time.monotonic() - start))
    finally:
        if first.poll() is None:
            first.kill()
        first.stdin.close()
        first.wait()
    c.check("same")


@row("racing starts: one winner, the others 8")
def _(c):
    rows = base_rows()
    rows[0][3] = b"changed"
    path = write(c.folder, "s.csv", csv_of(rows))
    for _ in range(5):
        ps = [subprocess.Popen([c.bom.path, "sync", "--store", c.store, "--complete", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
              for _ in range(6)]
        codes = sorted(p.wait() for p in ps)
        if codes[0] != 0 or any(x not in (0, 8) for x in codes):
            raise Failed("exits %s" % codes)
    same("export", c.bom("export", "--store", c.store).out, exported(rows))
    c.bom("verify", "--store", c.store, expect=0)


@row("reading commands write nothing")
def _(c):
    before = {p: os.stat(os.path.join(c.store, p)).st_mtime_ns for p in fingerprints(c.store)}
    prints = fingerprints(c.store)
    for args in (["export"], ["log"], ["show", "1"], ["cat", "1"], ["get", "K0001,1000"], ["history", "K0001,1000"], ["exceptions"], ["holds"],
                 ["audit"], ["stats"], ["status"], ["diff-generations", "0", "1"]):
        c.bom(args[0], *args[1:], "--store", c.store, expect=(0, 1, 4, 5))
    same("files", fingerprints(c.store), prints)
    same("times", {p: os.stat(os.path.join(c.store, p)).st_mtime_ns for p in prints}, before)


@row("usage: unknown command, option, value")
def _(c):
    path, wrong = write(c.folder, "s.csv", csv_of(base_rows())), []
    for args in (["frobnicate"], ["sync", "--store", c.store, "--no-such", path], ["sync", "--store", c.store], ["sync", path],
                 ["sync", "--store", c.store, "--tiers", "x", path], ["sync", "--store", c.store, "--isa", "x", path],
                 ["sync", "--store", c.store, "--workers", "0x", path], ["sync", "--store", c.store, "--expect-records", "-5", path],
                 ["sync", "--store", c.store, "--trailer", "(", path], ["sync", "--store", c.store, "--as-of", "yesterday", path],
                 ["sync", "--store", c.store, "--encoding", "no-such", path], ["sync", "--store", c.store, "--scope", "x", path],
                 ["sync", "--store", c.store, "--mode", "x", path], ["diff", path, path, "--key", "k", "--format", "xml"], ["diff", path], ["cat", "99", "--store", c.store],
                 ["sync", "--store", c.store, "--key", "plant,k", path], ["sync", "--store", c.store, "--ignore", "w", path],
                 ["approve", "0" * 64, "--by", "x", "--why", "y", "--store", c.store], ["init", "--store", c.store]):
        run = c.bom(*args)
        if run.code != 2:
            wrong.append("exit %d, expected 2: %s\n%s" % (run.code, run.line(), run.err.decode("utf-8", "replace")))
    if wrong:
        raise Failed("\n".join(wrong))
    c.check("same")


def main():
    o = options("badinput", 200, lambda p: p.add_argument("--slow", type=float, default=1.0, help="factor on all time limits"))
    if not o.bomsync:
        print("skipped: no --bomsync given")
        print("0 passed, 0 failed, %d skipped" % len(TESTS))
        return 0
    suite = Suite("badinput", o)
    bom = suite.bom
    suite.base_store = os.path.join(suite.base, "base")
    data = csv_of(base_rows())
    bom("init", "--store", suite.base_store, expect=0)
    bom("sync", "--store", suite.base_store, "--key", "k,plant", "--complete", "--now", NOW, "--codec", "symbols",
        write(suite.base, "base.csv", data), expect=0)
    suite.base_export = bom("export", "--store", suite.base_store, expect=0).out
    same("export of the base", suite.base_export, exported(base_rows()))

    def one(folder, function):
        case = Case(folder, bom, suite, o.slow)
        case.seed, case.flips, case.suite_store = o.seed, o.count, suite.base_store
        function(case)

    for title, function in TESTS:
        suite.run(title, one, function)
    shutil.rmtree(suite.base_store)
    os.remove(os.path.join(suite.base, "base.csv"))
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
