#!/usr/bin/env python3
"""Snapshots of some partitions, and upserts, between those of all: each against the join of all records.

Tables of four partitions, one behind the other or mixed; nights bring all of it, some partitions in one file or in one each, or some
records to be put in, with changes, moves, copies and broken records. Blocks that are skipped, or never looked at because they are of other
partitions, against `--tiers none`: the same bytes, exceptions, holds and states. Also by build/tests/bomsync_tiny, whose units of 96 to 1024
bytes put the border of two workers next to every block.
"""
import random
import sys

from amend import amended, engineered, spoilt, text
from harness import NOW, Suite, options, programs_of, same, with_tiny, write

FEED = ["--key", "p,k", "--partition", "p", "--now", NOW]
HEAD = ["p", "k", "v", "t"]
PARTS = ["A", "B", "Cc", "D-4"]


def table(rng, count):
    keys = sorted(rng.sample(range(10**5), count))
    rows = [[PARTS[k * len(PARTS) // 10**5], "K%05d" % k, rng.choice(["", "a", "b,c"]), "t%d" % rng.randrange(50)] for k in keys]
    if rng.random() < 0.25:
        rng.shuffle(rows)  # partitions are mixed: hardly a block is of one
    elif rng.random() < 0.3:
        rows.sort(key=lambda r: (r[0] in ("B", "D-4"), r[1]))  # two stand in two places
    return rows


def change(rng, rows):
    rows = amended(rng, rows, rng.choice((0.0, 0.01, 0.1)))
    if rng.random() < 0.5:
        rows = engineered(rng, rows, rng.choice((0.02, 0.1)))
    extra = spoilt(rng, rows) if rng.random() < 0.4 else []
    for r in rows:  # as engineered and spoilt make new ones
        if r[0] not in PARTS:
            r[0] = rng.choice(PARTS)
    return rows, [(place, line) for place, line in extra if line.split(",")[0] in PARTS]


def night(rng, folder, number, rows, extra):
    """The files of a night, and the options that say what they are."""
    kind = rng.choice(("all", "some", "some", "some", "each", "upsert"))
    name = lambda i: "%d-%d.csv" % (number, i)
    if kind == "all":
        return [write(folder, name(0), text(HEAD, rows, extra))], ["--complete"]
    if kind == "upsert":
        few = rng.sample(rows, rng.choice((1, len(rows) // 20 + 1, len(rows) // 2)))
        return [write(folder, name(0), text(HEAD, few))], ["--mode", "upsert"]
    some = rng.sample(PARTS, rng.choice((1, 1, 2)))
    mine = [[r for r in rows if r[0] in some]] if kind == "some" else [[r for r in rows if r[0] == p] for p in some]
    put = [(place, line) for place, line in extra if line.split(",")[0] in some]
    if rng.random() < 0.1:
        some = [p for p in some if rng.random() < 0.5] or ["nowhere"]  # the file has more than the scope says
    return ([write(folder, name(i), text(HEAD, m, put if not i else ())) for i, m in enumerate(mine)],
            ["--scope", "partition=" + ",".join(some), *rng.choice((["--complete"], ["--complete"], []))])


def run_one(folder, bom, programs, seed):
    """By one of the programs; gives records that were skipped in nights of some partitions, and those that they had."""
    rng = random.Random(seed)
    bom.path = rng.choice(programs)
    first = ["--codec", rng.choice(("symbols", "auto")), "--block-records", rng.choice((5, 5, 16))]
    rows, extra, nights = table(rng, rng.choice((60, 300, 1200))), [], []
    files = [write(folder, "first.csv", text(HEAD, rows))]
    if rng.random() < 0.3:  # loaded one by one
        files = [write(folder, "first-%s.csv" % p, text(HEAD, [r for r in rows if r[0] == p])) for p in PARTS]
        loads = [([f], ["--scope", "partition=" + p, "--complete"]) for f, p in zip(files, PARTS)]
    else:
        loads = [(files, ["--complete"])]
    for number in range(7):
        if rng.random() < 0.8:
            rows, extra = change(rng, rows)
        nights.append(night(rng, folder, number, rows, extra))
    nights.append(([write(folder, "last.csv", text(HEAD, rows))], ["--complete"]))
    seen, skipped, of = {}, 0, 0
    for name, switches in (("fast", ["--workers", rng.choice((1, 2, 7))]), ("slow", ["--workers", 1, "--tiers", "none"])):
        store, out = "%s/%s" % (folder, name), []
        bom("init", "--store", store, expect=0)
        for i, (paths, what) in enumerate(loads):
            bom("sync", "--store", store, *FEED, *what, *paths, *switches, *first, "-q", expect=0)
        for paths, what in nights:
            got = bom("sync", "--store", store, "--now", NOW, *what, *paths, "--json", *switches, expect=(0, 3, 4, 5))
            out.append((got.code, got.out if got.code != 3 else got.err))
            if name == "fast" and "--scope" in what and got.code in (0, 4):
                skipped += bom("stats", "--store", store, "--json", expect=0).json()["tiers"]["block"]
                of += got.json()["records_in"]
            for command in ("export", "exceptions", "holds"):
                out.append(bom(command, "--store", store, *(["--json"] if command != "export" else []), expect=(0, 4)).out)
            bom("verify", "--store", store, expect=0)
        for g in range(1, 16):
            cat = bom("cat", "--store", store, g, expect=(0, 2))
            out.append((cat.code, cat.out))
        seen[name] = out
    for i, (fast, slow) in enumerate(zip(seen["fast"], seen["slow"])):
        same("answer %d" % i, fast, slow)
    return skipped, of


def one_plant_again(folder, bom, seed):
    """A plant that is sent again is skipped whole, whatever stands around it; and so is all of it afterwards."""
    rng = random.Random(seed)
    rows = [["P%d" % (k // 500), "K%05d" % k, "v%d" % rng.randrange(9), "t"] for k in range(4000)]
    store = folder + "/store"
    bom("init", "--store", store, expect=0)
    all_of_it = write(folder, "all.csv", text(HEAD, rows))
    bom("sync", "--store", store, *FEED, "--complete", "--baseline", all_of_it, "-q", expect=0)
    for plant in (3, 0, 7):
        path = write(folder, "plant.csv", text(HEAD, [r for r in rows if r[0] == "P%d" % plant]))
        for _ in range(2):
            bom("sync", "--store", store, "--now", NOW, "--scope", "partition=P%d" % plant, "--complete", path, "-q", expect=0)
            tiers = bom("stats", "--store", store, "--json", expect=0).json()["tiers"]
            assert tiers["block"] >= 450 and tiers["key"] <= 50, "of 500 records %d were skipped, %d joined" % (tiers["block"], tiers["key"])
    bom("sync", "--store", store, "--now", NOW, "--complete", all_of_it, "-q", expect=0)
    tiers = bom("stats", "--store", store, "--json", expect=0).json()["tiers"]
    assert tiers["block"] >= 3900, "of 4,000 records %d were skipped" % tiers["block"]
    bom("verify", "--store", store, expect=0)


def main():
    o = options("parts", 60, with_tiny)
    suite = Suite("parts", o)
    programs = programs_of(suite, o)
    found = []
    for i in range(o.count):
        suite.run("nights %d" % i, lambda folder, bom, seed: found.append(run_one(folder, bom, programs, seed)), suite.bom, o.seed + i)
    suite.bom.path = programs[0]
    suite.run("one plant again", one_plant_again, suite.bom, o.seed)

    def way_was_taken(folder):
        skipped, of = sum(s for s, _ in found), sum(n for _, n in found)
        assert skipped * 10 >= of, "of %d records in snapshots of some partitions %d were skipped" % (of, skipped)
    suite.run("blocks were skipped", way_was_taken)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
