"""Reading the real data sets for the tests: plain and gzip CSV, the made Debian files, what is common to two headers."""
import csv
import gzip
import os
import subprocess
import sys

from harness import Skipped

csv.field_size_limit(1 << 30)


def load(path):
    """(header, rows) as latin-1 text: one character a byte."""
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="latin-1", newline="") as f:
        r = csv.reader(f)
        header = next(r)
        rows = [x for x in r if x]
    if header and header[0].startswith("\xef\xbb\xbf"):
        header[0] = header[0][3:]
    return header, rows


class Groups:
    """Rows of one file by key, as the design counts them: identical copies once, keys with other contents left out."""

    def __init__(self, header, rows, key, compared):
        kp, cp = [header.index(k) for k in key], [header.index(c) for c in compared]
        self.records, self.conflicts, self.copies = {}, set(), 0
        keys_twice = set()
        for r in rows:
            k = tuple([r[p] for p in kp])
            v = [r[p] for p in cp]
            if k not in self.records:
                self.records[k] = v
                continue
            keys_twice.add(k)
            self.copies += 1
            if self.records[k] != v:
                self.conflicts.add(k)
        self.duplicate_keys = len(keys_twice)


def counts(old, new):
    """added, deleted, changed, unchanged without the keys that conflict in either."""
    out = old.conflicts | new.conflicts
    added = sum(k not in old.records and k not in out for k in new.records)
    deleted = sum(k not in new.records and k not in out for k in old.records)
    changed = unchanged = 0
    for k, v in new.records.items():
        if k in out or k not in old.records:
            continue
        if old.records[k] == v:
            unchanged += 1
        else:
            changed += 1
    return added, deleted, changed, unchanged


class Debian:
    """Makes the files below debian-packages/out/ in a folder of the test, each release once."""

    RELEASES = {"bookworm": ["bookworm"], "bookworm-patched": ["bookworm", "bookworm-updates", "bookworm-security"],
                "trixie": ["trixie"], "trixie-patched": ["trixie", "trixie-updates", "trixie-security"]}

    def __init__(self, data, folder):
        self.data, self.folder, self.made = os.path.join(data, "debian-packages"), folder, set()

    def path(self, name):
        """name: RELEASE/FILE.csv"""
        release, file = name.split("/")
        out = os.path.join(self.folder, "debian", release)
        if release not in self.made:
            os.makedirs(out, exist_ok=True)
            inputs = [os.path.join(self.data, n + ".Packages.xz") for n in self.RELEASES[release]]
            subprocess.run([sys.executable, os.path.join(self.data, "deb2bom.py")] + inputs + [out], check=True, stdout=subprocess.DEVNULL)
            self.made.add(release)
        return os.path.join(out, file)


def path_of(o, debian, name):
    if name.startswith("debian-packages/out/"):
        if not o.all:
            raise Skipped("debian-packages only with --all")
        return debian.path(name[len("debian-packages/out/"):])
    path = os.path.join(o.data, name)
    if not os.path.exists(path):
        raise Skipped("no %s" % name)
    return path
