#!/usr/bin/env python3
"""Dated snapshots of real data, one after another into one store: after each, export is the source, to the byte.

A column that a later snapshot drops stays in the feed, empty; one that it adds comes last. Where the guard holds a change it is
approved: the point here is that the state is right afterwards, and that each total adds up.
"""
import os
import sys

import real
import reference as ref
from harness import NOW, Failed, Skipped, Suite, options, same


def dated(data, name, file):
    """Paths of one table through the dates of a data set."""
    root = os.path.join(data, name)
    found = []
    for d in sorted(os.listdir(root)):
        p = os.path.join(root, d, file)
        if os.path.isfile(p):
            found.append(p)
    return found


def sources(o):
    """(title, feed, key, ignored columns, paths) of all series."""
    out, data = [], o.data
    asof = os.path.join(data, "adventureworks", "asof")
    if os.path.isdir(asof):
        cuts = [os.path.join(asof, f) for f in sorted(os.listdir(asof))]
        out.append(("adventureworks bom by surrogate id", "aw_id", ["BillOfMaterialsID"], [], cuts))
        out.append(("adventureworks bom by natural key", "aw_natural", ["ProductAssemblyID", "ComponentID"],
                    ["BillOfMaterialsID", "StartDate", "EndDate", "ModifiedDate"], cuts))
    inventree = os.path.join(data, "inventree-demo")
    if os.path.isdir(inventree):
        names = sorted({f for d in os.listdir(inventree) if os.path.isdir(os.path.join(inventree, d))
                        for f in os.listdir(os.path.join(inventree, d)) if f.endswith(".csv")})
        for f in names:
            out.append(("inventree " + f, f[:-4], ["pk"], [], dated(data, "inventree-demo", f)))
    keys = {"parts": ["part_num"], "sets": ["set_num"], "inventories": ["id"], "minifigs": ["fig_num"], "colors": ["id"], "themes": ["id"],
            "part_categories": ["id"]}
    if os.path.isdir(os.path.join(data, "rebrickable-lego")):
        for t, k in keys.items():
            out.append(("rebrickable " + t, t, k, [], dated(data, "rebrickable-lego", t + ".csv.gz")))
    if os.path.isdir(os.path.join(data, "ldraw-parts")):
        out.append(("ldraw items", "items", ["item"], [], dated(data, "ldraw-parts", "items.csv.gz")))
        out.append(("ldraw bom", "bom", ["parent", "child", "colour"], [], dated(data, "ldraw-parts", "bom.csv.gz")))
        out.append(("ldraw placements", "placements", ["parent", "line"], [], dated(data, "ldraw-parts", "placements.csv.gz")))
    if o.all and os.path.isdir(os.path.join(data, "debian-packages")):
        order = ["bookworm", "bookworm-patched", "trixie", "trixie-patched"]
        out.append(("debian items", "items", ["package"], [], ["debian-packages/out/%s/items.csv" % r for r in order]))
        out.append(("debian bom by line", "bom", ["parent", "kind", "line", "alt"], [], ["debian-packages/out/%s/bom.csv" % r for r in order]))
    return out


def source_export(columns, key, ignored, header, rows):
    """The source in export's form and its records by key; None if a key stands twice with different contents."""
    for c in header:
        if c not in columns and c not in ignored:
            columns.append(c)
    at = {c: header.index(c) for c in header}
    records = {}
    for r in rows:
        values = {c: r[at[c]] for c in columns if c in at}
        k = tuple(r[at[c]] for c in key)
        if records.get(k, values) != values:
            return None, None
        records[k] = values
    return ref.export(columns, key, records), records


def series(folder, o, bom, debian, feed, key, ignored, paths):
    if bom is None:
        raise Skipped("no --bomsync")
    store, columns, made, base = os.path.join(folder, "store"), [], [], 0
    bom("init", "--store", store, expect=0)
    for step, name in enumerate(paths):
        path = real.path_of(o, debian, name) if not os.path.isabs(name) else name
        header, rows = real.load(path)
        want, records = source_export(columns, key, ignored, header, rows)
        if want is None:
            raise Skipped("a key stands twice in " + name)
        first = (["--key", ",".join(key)] + (["--ignore", ",".join(ignored)] if ignored else [])) if step == 0 else []
        for attempt in range(6):
            run = bom("sync", "--store", store, "--feed", feed, "--complete", "--json", "--now", NOW, *first, path, expect=(0, 5))
            g = run.json()
            problems = ref.accounted(g, base)
            if problems:
                raise Failed("does not add up: %s\n%s" % (problems, run.out))
            same("records read", g["records_in"], len(rows))
            base = g["records"]
            if g["generation"] is not None:
                made = list(columns)
            if run.code == 0:
                break
            for d in g["hold_digests"]:
                a = bom("approve", d, "--store", store, "--by", "tester", "--why", "real data", "--json", "--now", NOW, expect=(0, 5))
                if a.out.strip():
                    base = a.json().get("records", base)
        else:
            raise Failed("still held after approving")
        same("records after %s" % name, base, len(records))
        exported = bom("export", "--store", store, "--feed", feed, expect=0).out
        if exported != ref.export(made, key, records):      # (a new column that is all empty alone is no generation)
            same("export after %s" % name, exported, want)
        again = bom("sync", "--store", store, "--feed", feed, "--complete", "--json", path, expect=0).json()
        same("the same again", again["generation"], None)
    bom("verify", "--store", store, expect=0)


def main():
    o = options("snapshots")
    o.data = os.path.abspath(o.data)
    if not os.path.isdir(o.data):
        print("skipped: no %s" % o.data)
        print("0 passed, 0 failed, 1 skipped")
        return 0
    suite = Suite("snapshots", o)
    debian = real.Debian(o.data, suite.base)
    for title, feed, key, ignored, paths in sources(o):
        suite.run(title, series, o, suite.bom, debian, feed, key, ignored, paths)
    if debian.made:
        import shutil
        shutil.rmtree(os.path.join(suite.base, "debian"))
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
