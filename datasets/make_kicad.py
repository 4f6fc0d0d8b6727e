#!/usr/bin/python3
"""An electronic item catalogue out of the package kicad-symbols.

usage: make_kicad.py OUT        takes each version of the package that apt offers

    OUT/<version>/item.csv      library, symbol, extends, and the properties that symbols carry

The libraries are S-expressions. A symbol that extends another has only what differs. A symbol's own units are nested
symbols and are left out.
"""
import csv
import os
import re
import subprocess
import sys
import tempfile

TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([()])|([^\s()"]+)')
PROPERTIES = ("Reference", "Value", "Footprint", "Datasheet", "Description", "ki_description", "ki_keywords", "ki_fp_filters")


def symbols(text):
    """(name, extends, properties) of each symbol at the top level of a library."""
    stack, words, symbol = [], [], None
    for token in TOKEN.finditer(text):
        quoted, bracket, word = token.groups()
        if bracket == "(":
            stack.append(words)
            words = []
        elif bracket == ")":
            depth = len(stack)
            if words[:1] == ["property"] and depth == 3 and symbol is not None and len(words) >= 3:
                symbol[1][words[1]] = words[2]
            elif words[:1] == ["extends"] and depth == 3 and symbol is not None:
                symbol[1]["extends"] = words[1]
            elif words[:1] == ["symbol"] and depth == 2:
                if symbol is not None:
                    yield symbol
                symbol = None
            words = stack.pop()
        else:
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else word
            words.append(value)
            if len(stack) == 2 and len(words) == 2 and words[0] == "symbol":
                symbol = (value, {})


def versions_of(package):
    table = subprocess.run(["apt-cache", "madison", package], capture_output=True, encoding="utf-8").stdout
    return sorted({row.split("|")[1].strip() for row in table.splitlines() if row.count("|") == 2 and "Packages" in row})


def unpack(version, folder):
    subprocess.run(["apt-get", "-q", "download", f"kicad-symbols={version}"], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
    deb = next(f for f in os.listdir(folder) if f.endswith(".deb"))
    subprocess.run(["dpkg-deb", "-x", deb, "."], cwd=folder, check=True)
    return os.path.join(folder, "usr/share/kicad/symbols")


def write_items(path, source):
    count = 0
    with open(path, "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["library", "symbol", "extends"] + [p.lower() for p in PROPERTIES])
        for library in sorted(os.listdir(source)):
            if not library.endswith(".kicad_sym"):
                continue
            with open(os.path.join(source, library), encoding="utf-8") as g:
                for name, properties in symbols(g.read()):
                    out.writerow([library[:-len(".kicad_sym")], name, properties.get("extends", "")]
                                 + [properties.get(p, "") for p in PROPERTIES])
                    count += 1
    return count


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.split("\n\n")[1])
    versions = versions_of("kicad-symbols")
    if not versions:
        sys.exit("make_kicad: apt does not know kicad-symbols; run apt-get update")
    for version in versions:
        folder = os.path.join(sys.argv[1], version)
        os.makedirs(folder)
        with tempfile.TemporaryDirectory() as tmp:
            count = write_items(os.path.join(folder, "item.csv"), unpack(version, tmp))
        print(f"{folder}: {count} records")


main()
