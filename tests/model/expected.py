#!/usr/bin/env python3
"""Each pair of EXPECTED.csv through `bomsync diff`: added, deleted, changed and unchanged counts of real snapshots.

The table counts a key that stands twice by its last row; bomsync leaves a key with different contents out on both sides. So
the counts are made again here, the naive way, and where no key stands twice they must be the table's own.
"""
import csv
import json
import os
import sys

import real
from harness import Failed, Skipped, Suite, options, same


def pair(folder, o, bom, debian, row):
    old, new = real.path_of(o, debian, row["old"]), real.path_of(o, debian, row["new"])
    key = row["key"].split("+")
    ho, ro = real.load(old)
    hn, rn = real.load(new)
    only = [c for c in ho if c not in hn] + [c for c in hn if c not in ho]
    ignored = [c for c in row["ignored_columns"].split("+") if c] + only
    compared = [c for c in ho if c in hn and c not in ignored and c not in key]
    go, gn = real.Groups(ho, ro, key, compared), real.Groups(hn, rn, key, compared)
    want = real.counts(go, gn)
    table = tuple(int(row[n]) for n in ("added", "deleted", "changed", "unchanged"))
    same("rows", (len(ro), len(rn)), (int(row["rows_old"]), int(row["rows_new"])))
    if not go.duplicate_keys and not gn.duplicate_keys:
        same("added, deleted, changed, unchanged of the naive comparison against EXPECTED.csv", want, table)
    if bom is None:
        raise Skipped("no --bomsync: only the naive comparison was checked")
    args = ["--key", ",".join(key)] + (["--ignore", ",".join(ignored)] if ignored else [])
    run = bom("diff", old, new, *args)
    ops = {"c": 0, "u": 0, "d": 0}
    for line in run.out.splitlines():
        ops[chr(line[7])] += 1                  # {"op":"x",
    same("created, deleted, updated", (ops["c"], ops["d"], ops["u"]), want[:3])
    kept_back = bool(go.conflicts or gn.conflicts)
    same("exit", run.code, 4 if kept_back else 1 if any(want[:3]) else 0)
    run = bom("diff", old, new, "--format", "summary", "--json", *args)
    g = None
    for line in (run.out + run.err).splitlines():
        if line.startswith(b"{"):
            g = json.loads(line)
    if g is None:
        raise Failed("no JSON object of --format summary --json")
    got = tuple(g.get(n, g.get("totals", {}).get(n) if isinstance(g.get("totals"), dict) else None) for n in ("created", "deleted", "updated", "unchanged"))
    if got[3] is None:
        got = got[:3]
    same("created, deleted, updated, unchanged of the summary", got, want[:len(got)])


def main():
    o = options("expected")
    path = os.path.join(o.data, "EXPECTED.csv")
    if not os.path.exists(path):
        print("skipped: no %s" % path)
        print("0 passed, 0 failed, 1 skipped")
        return 0
    suite = Suite("expected", o)
    debian = real.Debian(o.data, suite.base)
    with open(path, newline="") as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        suite.run("%s %s: %s -> %s by %s" % (row["dataset"], row["table"], row["old"], row["new"], row["key"]), pair, o, suite.bom, debian, row)
    if debian.made:
        import shutil
        shutil.rmtree(os.path.join(suite.base, "debian"))
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
