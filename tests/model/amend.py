#!/usr/bin/env python3
"""Records changed in place, among others that come and go, with everything beside them that may spoil it: copies elsewhere, blocks that
moved, columns that come and go, exceptions, deletes that are withheld. Blocks seen to be changed in place against the join of all records:
the same bytes, the same kept rows, the same state. Also by build/tests/bomsync_tiny, whose units of 96 to 1024 bytes put the border of two workers
next to every block.
"""
import random
import sys

from harness import NOW, Suite, options, programs_of, same, with_tiny, write

FEED = ["--key", "p,k", "--partition", "p", "--now", NOW]


def quoted(v):
    return '"%s"' % v.replace('"', '""') if any(c in v for c in ',"\n') else v


def text(head, rows, extra=()):
    lines = [",".join(map(quoted, r)) for r in rows]
    for place, line in extra:
        lines.insert(place % (len(lines) + 1), line)
    return (",".join(head) + "\n" + "".join(l + "\n" for l in lines)).encode()


def table(rng, count):
    keys = sorted(rng.sample(range(100000), count))
    return [[str(k * 3 // 100000), "K%d" % k, rng.choice(["", "a", "b,c", "ü"]), "t%d" % rng.randrange(50)] for k in keys]


def amended(rng, rows, rate):
    """Other values at the same places; now and then all records of a stretch, or a value that was there before."""
    out, at = [list(r) for r in rows], 0
    while at < len(out):
        if rng.random() < rate:
            for r in out[at:at + rng.choice((1, 1, 1, 2, 9))]:
                r[rng.choice((2, 3))] = rng.choice(["", "a", "x%d" % rng.randrange(10**6)])
        at += 1
    return out


def engineered(rng, rows, rate):
    """Of a stretch some records change, some come, some go, as engineering changes do; now and then one stands elsewhere in it."""
    out = []
    for at in range(0, len(rows), 8):
        stretch = [list(r) for r in rows[at:at + 8]]
        if rng.random() < rate:
            for r in stretch:
                if rng.random() < 0.3:
                    r[rng.choice((2, 3))] = rng.choice(["", "a", "x%d" % rng.randrange(10**6)])
            for _ in range(rng.choice((0, 1, 1, 3))):
                i = rng.randrange(len(stretch) + 1)
                stretch.insert(i, [rows[at][0], "E%d" % rng.randrange(10**9), "", "new"])
            for _ in range(rng.choice((0, 0, 1, 2))):
                if stretch:
                    del stretch[rng.randrange(len(stretch))]
            if rng.random() < 0.1 and len(stretch) > 1:
                stretch.insert(rng.randrange(len(stretch)), stretch.pop())
        out += stretch
    return out


def spoilt(rng, rows):
    """Some of what makes an open block more than changed in place. Gives lines to be put in as they are, too."""
    extra = []
    for _ in range(rng.choice((0, 0, 1, 3))):
        kind, at = rng.randrange(8), rng.randrange(len(rows))
        if kind == 0:  # a copy elsewhere, of a record as it is now
            rows.insert(rng.randrange(len(rows) + 1), list(rows[at]))
        elif kind == 1:  # one that differs
            rows.insert(rng.randrange(len(rows) + 1), rows[at][:3] + ["other"])
        elif kind == 2:  # new ones at a place
            rows[at:at] = [[rows[at][0], "N%d" % rng.randrange(10**9), "", "new"] for _ in range(rng.choice((1, 2, 20)))]
        elif kind == 3 and len(rows) > 30:
            del rows[at:at + rng.choice((1, 2, 12))]
        elif kind == 4:  # a stretch moves, perhaps to the end
            some = rows[at:at + 15]
            del rows[at:at + 15]
            to = rng.choice((len(rows), rng.randrange(len(rows) + 1)))
            rows[to:to] = some
        elif kind == 5:  # it is there twice
            some = [list(r) for r in rows[at:at + 12]]
            rows[len(rows):] = some
        elif kind == 6:
            extra.append((rng.randrange(10**6), "%s,%s" % (rows[at][0], rows[at][1])))
        else:
            extra.append((rng.randrange(10**6), '%s,%s,a"b,t' % (rows[at][0], rows[at][1])))
    return extra


def snapshots(rng, folder):
    """A first snapshot and five that follow, each the one before with changes."""
    head, rows = ["p", "k", "v", "t"], table(rng, rng.choice((40, 200, 900)))
    paths = [write(folder, "0.csv", text(head, rows))]
    for step in range(1, 6):
        rows = amended(rng, rows, rng.choice((0.01, 0.05, 0.2)))
        if rng.random() < 0.6:
            rows = engineered(rng, rows, rng.choice((0.05, 0.2)))
        extra = spoilt(rng, rows) if rng.random() < 0.6 else []
        if rng.random() < 0.15 and len(head) == 4:
            head = head + ["w"]
            rows = [r + [rng.choice(("", "", "w"))] for r in rows]
            extra = []
        paths.append(write(folder, "%d.csv" % step, text(head, rows, extra)))
    return paths


def run_one(folder, bom, programs, seed):
    """By one of the programs; gives the blocks that the fast way took."""
    rng = random.Random(seed)
    bom.path = rng.choice(programs)
    paths = snapshots(rng, folder)
    complete = rng.choice((["--complete"], ["--complete"], ["--complete"], ["--mode", "upsert"], []))
    first = ["--codec", rng.choice(("symbols", "symbols", "symbols", "auto")),  # with a dictionary blocks are written with the scan
             "--block-records", rng.choice((5, 5, 16))]                        # the feed keeps it
    seen, blocks = {}, 0
    for name, switches in (("fast", ["--workers", rng.choice((1, 2, 7))]), ("slow", ["--workers", 1, "--tiers", "none"])):
        store, out = "%s/%s" % (folder, name), []
        bom("init", "--store", store, expect=0)
        bom("sync", "--store", store, *FEED, "--complete", paths[0], *switches, *first, "-q", expect=0)
        for path in paths[1:] + [paths[-1], paths[2]]:
            got = bom("sync", "--store", store, "--now", NOW, *complete, path, "--json", *switches, expect=(0, 3, 4, 5))
            out.append((got.code, got.out if got.code != 3 else got.err))
            if got.code in (0, 4) and name == "fast":
                blocks += bom("stats", "--store", store, "--json", expect=0).json()["amended"]
            for command in ("export", "exceptions", "holds"):
                out.append(bom(command, "--store", store, *(["--json"] if command != "export" else []), expect=(0, 4)).out)
        for g in range(2, 8):
            cat = bom("cat", "--store", store, g, expect=(0, 2))
            out.append((cat.code, cat.out))
        bom("verify", "--store", store, expect=0)
        seen[name] = out
    for i, (fast, slow) in enumerate(zip(seen["fast"], seen["slow"])):
        same("answer %d" % i, fast, slow)
    return blocks


def moved_alone(folder, bom, seed):
    """A record that moved opens the blocks that it concerns. The others stay settled."""
    rng = random.Random(seed)
    head, rows = ["p", "k", "v", "t"], table(rng, 900)
    first = write(folder, "first.csv", text(head, rows))
    for at in range(7, 900, 40):
        rows[at][3] = "other"
    rows.insert(100, rows.pop(700))
    second = write(folder, "second.csv", text(head, rows))
    store = "%s/store" % folder
    bom("init", "--store", store, expect=0)
    bom("sync", "--store", store, *FEED, "--block-records", 5, "--complete", "--codec", "symbols", first, "-q", expect=0)
    found = bom("sync", "--store", store, "--now", NOW, "--complete", second, "--json", expect=0).json()
    same("updates", found["updated"], len(range(7, 900, 40)))
    same("creates and deletes", (found["created"], found["deleted"]), (0, 0))
    amended = bom("stats", "--store", store, "--json", expect=0).json()["amended"]
    assert amended * 2 >= found["updated"], "only %d blocks were settled in place, for %d records" % (amended, found["updated"])
    bom("verify", "--store", store, expect=0)


def size_counts(folder, bom, seed):
    """What is cut anew behind a change has the size of the first load, as if it had been asked for again, and not that of the default."""
    rng = random.Random(seed)
    rows = table(rng, 900)
    first = write(folder, "first.csv", text(["p", "k", "v", "t"], rows))
    for at in range(7, 900, 40):
        rows[at][3] = "other"
    second = write(folder, "second.csv", text(["p", "k", "v", "t"], rows))
    found = {}
    for name, more in (("kept", []), ("asked", ["--block-records", 5]), ("default", ["--block-records", 16])):
        store = "%s/%s" % (folder, name)
        bom("init", "--store", store, expect=0)
        bom("sync", "--store", store, *FEED, "--block-records", 5, "--complete", first, "-q", expect=0)
        bom("sync", "--store", store, "--now", NOW, "--complete", second, "-q", *more, expect=0)
        s = bom("stats", "--store", store, "--json", expect=0).json()
        found[name] = (s["blocks"], s["tiers"])
    same("blocks and tiers", found["kept"], found["asked"])
    assert found["kept"][0] > found["default"][0], "%d blocks, %d where they are larger" % (found["kept"][0], found["default"][0])


def size_is_kept(folder, bom, seed):
    """A feed's blocks stay as large as its first load made them, whatever the default; another size that is asked for stays, too, for
    what is cut anew."""
    rng = random.Random(seed)
    rows = table(rng, 900)
    path = write(folder, "it.csv", text(["p", "k", "v", "t"], rows))
    store = "%s/store" % folder
    bom("init", "--store", store, expect=0)
    bom("sync", "--store", store, *FEED, "--block-records", 5, "--complete", path, "-q", expect=0)

    def night(*more):
        bom("sync", "--store", store, "--now", NOW, "--complete", path, "-q", *more, expect=0)
        s = bom("stats", "--store", store, "--json", expect=0).json()
        return s["tiers"]["block"], s["blocks"]

    first = night()  # nothing differs: the image says where blocks end
    same("records skipped without --block-records", first[0], 900)
    same("blocks of five records", first, night("--block-records", 5))
    rows[450][3] = "other"
    path = write(folder, "it.csv", text(["p", "k", "v", "t"], rows))
    larger = night("--block-records", 40)
    assert larger[1] < first[1], "%d blocks of up to 40 records, %d of 5" % (larger[1], first[1])
    same("blocks stay at 40", night()[1], larger[1])
    bom("verify", "--store", store, expect=0)


def main():
    o = options("amend", 60, with_tiny)
    suite = Suite("amend", o)
    programs = programs_of(suite, o)
    blocks = []
    for i in range(o.count):
        suite.run("table %d" % i, lambda folder, bom, seed: blocks.append(run_one(folder, bom, programs, seed)), suite.bom, o.seed + i)
    suite.bom.path = programs[0]
    for i in range(3):
        suite.run("a record that moved %d" % i, moved_alone, suite.bom, o.seed + i)

    suite.run("the size of blocks stays", size_is_kept, suite.bom, o.seed)
    suite.run("the size of blocks counts", size_counts, suite.bom, o.seed)

    def way_was_taken(folder):
        assert sum(b > 0 for b in blocks) * 4 >= len(blocks), "only %d of %d runs saw blocks changed in place" % (sum(b > 0 for b in blocks), len(blocks))
    suite.run("blocks were changed in place", way_was_taken)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
