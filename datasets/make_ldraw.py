#!/usr/bin/python3
"""The largest real part structure that Debian ships: toy bricks made of primitives, out of the package ldraw-parts.

usage: make_ldraw.py OUT [FOLDER]     takes each version of the package that apt offers; the package is in non-free.
                                      FOLDER: an unpacked library with parts/ and p/ instead, written to OUT/1

    OUT/<version>/item.csv          item, description, author, kind, release
    OUT/<version>/bom_line.csv      parent, line, component, position, placement

A part file lists lines of type 1: a colour, a place, a rotation, and the file that is used there. The same component
stands in a parent as often as it is placed, so "line" counts the placements of one component.
"""
import csv
import os
import subprocess
import sys
import tempfile


def versions_of(package):
    table = subprocess.run(["apt-cache", "madison", package], capture_output=True, encoding="utf-8").stdout
    return sorted({row.split("|")[1].strip() for row in table.splitlines() if row.count("|") == 2 and "Packages" in row})


def unpack(version, folder):
    subprocess.run(["apt-get", "-q", "download", f"ldraw-parts={version}"], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
    deb = next(f for f in os.listdir(folder) if f.endswith(".deb"))
    subprocess.run(["dpkg-deb", "-x", deb, "."], cwd=folder, check=True)
    return find_library(folder)


def find_library(folder):
    for root, folders, _ in os.walk(folder):
        if "parts" in folders and "p" in folders:
            return root
    sys.exit(f"make_ldraw: cannot find parts/ and p/ in {folder}")


def part_files(root):
    for top in ("parts", "p"):
        base = os.path.join(root, top)
        for folder, folders, files in os.walk(base):
            folders.sort()
            for name in sorted(files):
                if name.lower().endswith(".dat"):
                    path = os.path.join(folder, name)
                    yield os.path.relpath(path, base).replace(os.sep, "/").lower(), path


def convert(root, folder):
    items = lines = 0
    with open(os.path.join(folder, "item.csv"), "w", newline="", encoding="utf-8") as f, \
            open(os.path.join(folder, "bom_line.csv"), "w", newline="", encoding="utf-8") as g:
        item, line = csv.writer(f, lineterminator="\n"), csv.writer(g, lineterminator="\n")
        item.writerow(["item", "description", "author", "kind", "release"])
        line.writerow(["parent", "component", "line", "position", "colour", "placement"])
        for name, path in part_files(root):
            author = kind = title = ""
            uses, position = {}, 0
            with open(path, encoding="utf-8", errors="replace") as part:
                for number, text in enumerate(part):
                    words = text.split()
                    if not words:
                        continue
                    if number == 0:
                        title = text[1:].strip()
                    elif words[0] == "0" and words[1:2] == ["Author:"]:
                        author = " ".join(words[2:])
                    elif words[0] == "0" and words[1:2] == ["!LDRAW_ORG"]:
                        kind = " ".join(words[2:])
                    elif words[0] == "1" and len(words) > 14:
                        component = " ".join(words[14:]).replace("\\", "/").lower()
                        uses[component] = uses.get(component, 0) + 1
                        position += 10
                        line.writerow([name, component, uses[component], position, words[1], " ".join(words[2:14])])
                        lines += 1
            kind, _, release = kind.partition(" UPDATE ")
            item.writerow([name, title, author, kind, release])
            items += 1
    return items, lines


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__.split("\n\n")[1])
    if len(sys.argv) == 3:
        folder = os.path.join(sys.argv[1], "1")
        os.makedirs(folder)
        items, lines = convert(find_library(sys.argv[2]), folder)
        print(f"{folder}: {items} items, {lines} lines")
        return
    versions = versions_of("ldraw-parts")
    if not versions:
        sys.exit("make_ldraw: apt does not know ldraw-parts; add non-free to the sources and run apt-get update")
    for version in versions:
        folder = os.path.join(sys.argv[1], version)
        os.makedirs(folder)
        with tempfile.TemporaryDirectory() as tmp:
            items, lines = convert(unpack(version, tmp), folder)
        print(f"{folder}: {items} items, {lines} lines")


main()
