#!/usr/bin/python3
"""Two snapshots of a large real multi-level BOM out of the package lists that apt keeps on this machine.

usage: make_debian.py OUT [LISTS]        LISTS: default /var/lib/apt/lists; run "apt-get update" first

    OUT/1/item.csv bom_line.csv     the release alone
    OUT/2/item.csv bom_line.csv     the release with its updates and security fixes: the newer version of a package counts

A package is an item and its version the revision. Each relation is a line: the position in the field is the line
number, "a | b" are alternates of one line. Relations: pre_depends and depends are required, recommends and suggests
optional. An architecture is a plant. Cycles and components that do not exist are in there as they are in reality.
"""
import csv
import os
import re
import subprocess
import sys

RELATIONS = (("Pre-Depends", "pre_depends"), ("Depends", "depends"), ("Recommends", "recommends"), ("Suggests", "suggests"))
COMPONENT = re.compile(r"^\s*([^\s:(]+)(?::\w+)?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*([^)\s]+)\s*\))?")
OVERLAYS = re.compile(r"(updates|security|backports|proposed)")


def read_index(path):
    """Stanzas as dictionaries with only what is used; apt's helper knows each compression that apt uses."""
    helper = subprocess.Popen(["/usr/lib/apt/apt-helper", "cat-file", path], stdout=subprocess.PIPE, encoding="utf-8")
    stanza, name = {}, None
    for text in helper.stdout:
        text = text.rstrip("\n")
        if not text:
            if stanza:
                yield stanza
            stanza, name = {}, None
        elif text[0] in " \t":
            if name:
                stanza[name] += " " + text.strip()
        else:
            name, _, value = text.partition(":")
            stanza[name] = value.strip()
    if stanza:
        yield stanza
    if helper.wait() != 0:
        sys.exit(f"make_debian: could not read {path}")


def order_of(char):
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256


def compare_part(a, b):
    """Debian's order: text and numbers take turns, a tilde sorts before the end."""
    while a or b:
        ta, tb = re.match(r"\D*", a).group(), re.match(r"\D*", b).group()
        for i in range(max(len(ta), len(tb))):
            ca = order_of(ta[i]) if i < len(ta) else 0
            cb = order_of(tb[i]) if i < len(tb) else 0
            if ca != cb:
                return ca - cb
        a, b = a[len(ta):], b[len(tb):]
        na, nb = re.match(r"\d*", a).group(), re.match(r"\d*", b).group()
        if int(na or 0) != int(nb or 0):
            return int(na or 0) - int(nb or 0)
        a, b = a[len(na):], b[len(nb):]
    return 0


def newer(a, b):
    def parts(version):
        epoch, colon, rest = version.partition(":")
        if not colon:
            epoch, rest = "0", version
        upstream, _, revision = rest.rpartition("-")
        return int(epoch), upstream or rest, revision if upstream else "0"
    (ea, ua, ra), (eb, ub, rb) = parts(a), parts(b)
    if ea != eb:
        return ea > eb
    return (compare_part(ua, ub) or compare_part(ra, rb)) > 0


def merge(packages, path):
    for stanza in read_index(path):
        name = stanza.get("Package")
        if not name or "Version" not in stanza:
            continue
        if name not in packages or newer(stanza["Version"], packages[name]["Version"]):
            packages[name] = stanza


def write_items(path, packages, plant):
    with open(path, "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["item", "plant", "revision", "group", "description", "responsible", "weight", "checksum"])
        for name in sorted(packages):
            p = packages[name]
            out.writerow([name, plant, p["Version"], p.get("Section", ""), p.get("Description", ""),
                          p.get("Maintainer", ""), p.get("Installed-Size", ""), p.get("SHA256", "")])


def write_lines(path, packages, plant):
    with open(path, "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["plant", "parent", "relation", "line", "alternate", "component", "condition", "revision", "optional"])
        for name in sorted(packages):
            for field, relation in RELATIONS:
                for line, group in enumerate(filter(None, packages[name].get(field, "").split(",")), 1):
                    for alternate, text in enumerate(group.split("|"), 1):
                        component, op, version = COMPONENT.match(text).groups()
                        optional = "true" if relation in ("recommends", "suggests") else "false"
                        out.writerow([plant, name, relation, line, alternate, component, op or "", version or "", optional])


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__.split("\n\n")[1])
    out, lists = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "/var/lib/apt/lists"
    index = sorted(f for f in os.listdir(lists) if re.search(r"debian.*_main_binary-\w+_Packages(\.\w+)?$", f))
    base = [f for f in index if not OVERLAYS.search(f)]
    if not base:
        sys.exit(f"make_debian: no package list of a release in {lists}; run apt-get update")
    overlays = [f for f in index if OVERLAYS.search(f) and "backports" not in f]
    plant = re.search(r"binary-(\w+?)_", base[0]).group(1)
    packages = {}
    for number, files in ((1, base), (2, overlays)):
        for f in files:
            merge(packages, os.path.join(lists, f))
        folder = os.path.join(out, str(number))
        os.makedirs(folder)
        write_items(os.path.join(folder, "item.csv"), packages, plant)
        write_lines(os.path.join(folder, "bom_line.csv"), packages, plant)
        print(f"{folder}: {len(packages)} items, from {', '.join(files) or 'nothing newer'}")


main()
