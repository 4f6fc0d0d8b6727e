#!/usr/bin/python3
"""A three-level catalogue of devices, given by indentation, out of the packages pci.ids and usb.ids.

usage: make_ids.py OUT [pci.ids|usb.ids]      takes each version of the package that apt offers

    OUT/<version>/catalog_item.csv    vendor, device, subvendor, subdevice, name

In the source a tab more means one level deeper; the parent is the last line with one tab less. Only the vendor part is
taken. Where apt offers one version only, run it again after the next release, or name a second machine's list.
"""
import csv
import os
import subprocess
import sys
import tempfile

PLACES = {"pci.ids": "usr/share/misc/pci.ids", "usb.ids": "var/lib/usbutils/usb.ids"}


def versions_of(package):
    table = subprocess.run(["apt-cache", "madison", package], capture_output=True, encoding="utf-8").stdout
    return sorted({row.split("|")[1].strip() for row in table.splitlines() if row.count("|") == 2 and "Packages" in row})


def unpack(package, version, folder):
    subprocess.run(["apt-get", "-q", "download", f"{package}={version}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    deb = next(f for f in os.listdir(folder) if f.endswith(".deb"))
    subprocess.run(["dpkg-deb", "-x", deb, "."], cwd=folder, check=True)
    for place in (PLACES[package], "usr/share/misc/" + package):
        if os.path.isfile(os.path.join(folder, place)):
            return os.path.join(folder, place)
    sys.exit(f"make_ids: cannot find {package} in its package")


def rows(path):
    vendor = device = ""
    with open(path, encoding="utf-8", errors="replace") as f:
        for text in f:
            text = text.rstrip("\n")
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            depth = len(text) - len(text.lstrip("\t"))
            if depth == 0 and text[1:2] == " ":
                return  # the classes begin: another kind of list
            code, _, name = text.strip().partition("  ")
            if depth == 0:
                vendor, device = code, ""
                yield vendor, "", "", "", name
            elif depth == 1:
                device = code
                yield vendor, device, "", "", name
            else:
                subvendor, _, subdevice = code.partition(" ")
                yield vendor, device, subvendor, subdevice, name


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-") or (len(sys.argv) == 3 and sys.argv[2] not in PLACES):
        sys.exit(__doc__.split("\n\n")[1])
    out, package = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "pci.ids"
    versions = versions_of(package)
    if not versions:
        sys.exit(f"make_ids: apt does not know {package}; run apt-get update")
    for version in versions:
        folder = os.path.join(out, version)
        os.makedirs(folder)
        count = 0
        with tempfile.TemporaryDirectory() as tmp, \
                open(os.path.join(folder, "catalog_item.csv"), "w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(["vendor", "device", "subvendor", "subdevice", "name"])
            for row in rows(unpack(package, version, tmp)):
                writer.writerow(row)
                count += 1
        print(f"{folder}: {count} records")


main()
