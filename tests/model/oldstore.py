#!/usr/bin/env python3
"""Stores that earlier programs wrote (tests/data/store-<format>/): today's program must tell the same of them.

Each sample holds the store as it was, the snapshots it was made of, and in expected/ what the program of its time said.
Three tests for each sample: the answers of the commands that read; the same after gc, backup and restore; and what the
next snapshot, an approval and an unchanged snapshot make of it. tests/data/make_store_sample makes a sample.
"""
import os
import re
import shutil
import subprocess
import sys

from harness import CHECKOUT, Failed, Suite, options, same

SAMPLES = os.path.join(CHECKOUT, "tests", "data")

# name in expected/, exit code, command line without the store
READING = [
    ("log.json", 0, ["log", "--json"]),
    ("show-3.json", 0, ["show", "3", "--json"]),
    ("audit.json", 0, ["audit"]),
    ("exceptions.json", 0, ["exceptions", "--json"]),
    ("holds.json", 0, ["holds", "--json"]),
    ("status.json", 0, ["status", "--json"]),
    ("cat-1.json", 0, ["cat", "1"]),
    ("cat-2.json", 0, ["cat", "2"]),
    ("cat-3.json", 0, ["cat", "3"]),
    ("line-1.csv", 0, ["export", "--feed", "line", "--generation", "1"]),
    ("line-3.csv", 0, ["export", "--feed", "line"]),
    ("line-source.csv", 0, ["export", "--feed", "line", "--as", "source"]),
    ("item.csv", 0, ["export", "--feed", "item"]),
    ("between.json", 1, ["diff-generations", "--feed", "line", "1", "3"]),
    ("get.json", 0, ["get", "--feed", "line", "1000,BIKE-CITY,production,1,50"]),
    ("history.json", 0, ["history", "--feed", "line", "1000,BIKE-CITY,production,1,50"]),
]
# after the next snapshot and an approval
LATER = [
    ("cat-4.json", 0, ["cat", "4"]),
    ("line-4.csv", 0, ["export", "--feed", "line"]),
    ("cat-5.json", 0, ["cat", "5"]),
    ("line-5.csv", 0, ["export", "--feed", "line"]),
]
NOW = ["--now", "2026-01-05T02:00:00Z"]


def unpack(sample, folder):
    subprocess.run("zstd -dc %s | tar -x -C %s" % (os.path.join(sample, "store.tar.zst"), folder), shell=True, check=True)
    return os.path.join(folder, "store")


def expected(sample, name):
    with open(os.path.join(sample, "expected", name), "rb") as f:
        return f.read()


def current_format():
    with open(os.path.join(CHECKOUT, "engine", "store", "store_inner.h")) as f:
        return int(re.search(r"^#define BSI_STORE_FORMAT (\d+)", f.read(), re.M).group(1))


def format_of(sample):
    return int(sample.rsplit("-", 1)[1])


def up_to_date(bom, sample, store):
    """An older store is brought up to date by the first command that writes; until then reading is refused."""
    if format_of(sample) < current_format():
        bom("log", "--store", store, expect=2)
    bom("gc", "--store", store, "--keep", "1000000", expect=0)


def answers(bom, sample, store, commands):
    for name, code, args in commands:
        want, got = expected(sample, name), bom(*args, "--store", store, expect=code).out
        if name == "audit.json": # bringing an older store forward adds a line
            got = got[:len(want)]
        same("%s of %s" % (" ".join(args), os.path.basename(sample)), got, want)


def reads(folder, bom, sample):
    store = unpack(sample, folder)
    if format_of(sample) < current_format():
        up_to_date(bom, sample, store)
    bom("verify", "--store", store, expect=0)
    answers(bom, sample, store, READING)


def is_kept(folder, bom, sample):
    store = unpack(sample, folder)
    up_to_date(bom, sample, store)
    answers(bom, sample, store, READING)
    copy, again = os.path.join(folder, "copy"), os.path.join(folder, "again")
    bom("backup", "--store", store, copy, expect=0)
    answers(bom, sample, copy, READING)
    bom("restore", copy, "--store", again, expect=0)
    bom("verify", "--store", again, expect=0)
    answers(bom, sample, again, [c for c in READING if c[0] != "status.json"]) # a restore draws a new id
    bom("gc", "--store", store, "--keep", "1", expect=0)
    bom("verify", "--store", store, expect=0)
    answers(bom, sample, store, [c for c in READING if c[0] in ("line-3.csv", "line-source.csv", "item.csv", "cat-3.json", "holds.json")])


def go_on(bom, sample, store):
    """Unchanged: no generation. The next snapshot: 4. The next without evidence, approved: 5. The commands of LATER in order."""
    snapshot = lambda name: os.path.join(sample, "snapshots", name)
    run = bom("sync", "--store", store, "--feed", "line", "--json", *NOW, snapshot("3-line.csv"), expect=5)
    if run.json()["generation"] is not None:
        raise Failed("the snapshot of generation 3 made another one: %s" % run.out.decode())
    bom("sync", "--store", store, "--feed", "item", "--complete", *NOW, snapshot("2-item.csv"), expect=0)
    bom("sync", "--store", store, "--feed", "line", "--complete", *NOW, snapshot("4-line.csv"), expect=0)
    yield LATER[:2]
    bom("sync", "--store", store, "--feed", "line", *NOW, snapshot("1-line.csv"), expect=5)
    yield LATER[2:] # its creates and updates; the deletes wait
    digest = bom("holds", "--store", store, "--json", expect=0).json_lines()[0]["digest"]
    bom("approve", digest, "--store", store, "--by", "test", "--why", "test", *NOW, expect=(0, 5))
    bom("verify", "--store", store, expect=0)


def without_ids(lines):
    """Ids begin with the digest of the base; that of a generation that today's program made follows the blocks it cut."""
    return re.sub(rb'"id":"[0-9a-f]{16}-', b'"id":"', lines)


def goes_on(folder, bom, sample):
    store = unpack(sample, folder)
    for commands in go_on(bom, sample, store):
        for name, code, args in commands:
            got = bom(*args, "--store", store, expect=code).out
            same("%s of %s" % (" ".join(args), os.path.basename(sample)), without_ids(got), without_ids(expected(sample, name)))
    digest = {g["generation"]: g["digest"] for g in bom("log", "--store", store, "--json", expect=0).json_lines()}
    for number in (4, 5):
        ids = re.findall(rb'"id":"([0-9a-f]{16})-', bom("cat", str(number), "--store", store, expect=0).out)
        if not ids or set(ids) != {digest[number - 1][:16].encode()}:
            raise Failed("ids of generation %d are not of its base" % number)


def write(bom, sample, folder):
    """What the program says now becomes what is expected."""
    def save(store, commands):
        for name, code, args in commands:
            with open(os.path.join(sample, "expected", name), "wb") as f:
                f.write(bom(*args, "--store", store, expect=code).out)
    store = unpack(sample, folder)
    save(store, READING)
    for commands in go_on(bom, sample, store):
        save(store, commands)


def main():
    o = options("oldstore", extra=lambda p: p.add_argument("--write", metavar="SAMPLE", help="write expected/ of a new sample"))
    suite = Suite("oldstore", o)
    if o.write:
        write(suite.bom, os.path.abspath(o.write), suite.base)
        shutil.rmtree(suite.base)
        return 0
    samples = sorted(os.path.join(SAMPLES, d) for d in os.listdir(SAMPLES) if re.fullmatch(r"store-\d+", d))
    if not any(format_of(s) == current_format() for s in samples):
        print("note: there is no sample of format %d yet; tests/data/make_store_sample makes it" % current_format())
    for sample in samples:
        name = os.path.basename(sample)
        suite.run("%s reads as it did" % name, reads, suite.bom, sample)
        suite.run("%s keeps it through gc, backup, restore" % name, is_kept, suite.bom, sample)
        suite.run("%s goes on" % name, goes_on, suite.bom, sample)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
