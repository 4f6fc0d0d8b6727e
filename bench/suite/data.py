"""Snapshots, stores and caches: what a case needs before a clock runs."""
import csv
import hashlib
import io
import itertools
import json
import os
import pathlib
import random
import shlex
import shutil
import subprocess

KEY = "plant,parent,usage,alternative,line"
SEED = "7"
CHUNK = 1 << 22
SHUFFLE_BYTES = 1 << 30
IGNORED = "exported_at"


def truth(folder):
    """(created, updated, deleted) of a step, as gen wrote them down."""
    file = json.loads((folder / "truth.json").read_text())["files"]["bom_line.csv"]
    return file["creates"], file["updates"], file["deletes"]


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(CHUNK):
            sha.update(block)
    return sha.hexdigest()


def warm(*paths):
    """Reads files, so that they are in the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            buffer = bytearray(CHUNK)
            while f.readinto(buffer):
                pass


def files_below(path):
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def disk_bytes(path):
    """Bytes that a file or folder takes on disk: blocks, not lengths, since the store's files have holes."""
    return sum(p.stat().st_blocks * 512 for p in files_below(path))


def forget(paths, whole_machine):
    """Empties the page cache; gives how. With whole_machine the kernel drops all of it (root only), else only our files."""
    os.sync()
    if whole_machine and os.geteuid() == 0:
        try:
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("1\n")
            return "drop_caches"
        except OSError:
            pass  # a container without that right
    for path in paths:
        for file in files_below(path):
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    return "posix_fadvise"


def shuffled(source, target):
    """The same records in random order below the same header; the same order each time.

    shuf holds what it shuffles, so a large file is dealt out into parts first, line by line. Each part then has lines of the
    whole file: no two neighbours stay neighbours, which is all that the case asks for.
    """
    parts = -(-source.stat().st_size // SHUFFLE_BYTES)
    prefix = target.with_suffix(".part-")
    subprocess.run(f"tail -n +2 {shlex.quote(str(source))} | split -n r/{parts} -a 4 -d - {shlex.quote(str(prefix))}", shell=True, check=True)
    seed = target.with_suffix(".seed")
    left, generator = min(SHUFFLE_BYTES, source.stat().st_size) + 4096, random.Random(7) # a line takes less of it than its length
    with open(seed, "wb") as out:
        while left > 0:
            out.write(generator.randbytes(min(left, 1 << 24)))
            left -= 1 << 24
    with open(target, "wb") as out, open(source, "rb") as f:
        out.write(f.readline())
        out.flush()
        for part in sorted(prefix.parent.glob(prefix.name + "*")):
            subprocess.run(["shuf", f"--random-source={seed}", part], stdout=out, check=True)
            part.unlink()
    seed.unlink()


def volatile(source, target, day):
    """The same records with the time of the export on each line; it moves on while the file is written, as it would."""
    with open(target, "wb") as out, open(source, "rb") as f:
        out.write(f.readline().rstrip(b"\n") + b"," + IGNORED.encode() + b"\n")
        second = 0
        while block := f.read(CHUNK):
            second += 1
            stamp = b",%sT02:%02d:%02dZ\n" % (day.encode(), second // 60 % 60, second % 60)
            out.write(block.replace(b"\n", stamp))


def touched(source, target, rate, seed):
    """Changes one field of about rate of the records, anywhere; gives how many. For long series of snapshots that nobody keeps."""
    rng, changed = random.Random(seed), 0
    with open(source, "rb") as f, open(target, "wb") as out:
        header = f.readline()
        out.write(header)
        column = header.decode().strip().split(",").index("qty")
        while block := f.read(CHUNK):
            block += f.readline()
            block, count = touch_block(block, column, rate, rng)
            changed += count
            out.write(block)
    return changed


def touch_block(block, column, rate, rng):
    """Works at byte offsets: splitting each line of a large file would take far longer than the sync that is to be timed."""
    starts = set()
    wanted = max(1, round(block.count(b"\n") * rate))
    while len(starts) < wanted:
        starts.add(block.rfind(b"\n", 0, rng.randrange(len(block))) + 1)
    parts, last = [], 0
    for start in sorted(starts):
        end = block.index(b"\n", start)
        fields = next(csv.reader([block[start:end].decode()]))
        old = fields[column]
        while fields[column] == old:
            fields[column] = str(rng.randint(1, 99999))
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(fields)
        parts += [block[last:start], line.getvalue().encode()]
        last = end
    return b"".join([*parts, block[last:]]), len(starts)


class Data:
    """Makes what cases ask for, below one temporary folder, once."""

    def __init__(self, folder, bomsync, lines):
        self.folder, self.bomsync, self.lines = folder, [str(bomsync)], lines
        self.made, self.stores = {}, itertools.count()

    def call(self, *args, codes=(0,)):
        """An untimed command of bomsync; gives its stdout."""
        done = subprocess.run([*self.bomsync, *map(str, args)], capture_output=True)
        if done.returncode not in codes:
            raise RuntimeError(f"bomsync {args[0]}: exit {done.returncode}: {done.stderr.decode(errors='replace')[-800:]}")
        return done.stdout

    def generate(self, name, change, *options, lines=None):
        """The folder of two snapshots, 000 and 001, that differ by change. The first one is the same for all changes: kept once."""
        out = self.folder / name
        args = ["--change", change] if change else []
        self.call("gen", "-q", "--out", out, "--lines", lines or self.lines, "--entities", "bom_line", "--seed", SEED, *args, *options)
        return out

    def old(self, shape, *options, lines=None):
        """The first snapshot of a shape."""
        lines = lines or self.lines
        path = self.folder / f"{shape}-{lines}.csv"
        if not path.exists():
            out = self.generate(f"{shape}-alone-{lines}", None, *options, lines=lines)
            (out / "000" / "bom_line.csv").rename(path)
            shutil.rmtree(out)
            warm(path)
        return path

    def pair(self, shape, change, *options, lines=None):
        """(old, new, truth): snapshots of one shape before and after a change. All pairs of one shape have one old snapshot."""
        lines = lines or self.lines
        if (shape, change, lines) not in self.made:
            old = self.old(shape, *options, lines=lines)
            out = self.generate(f"{shape}-{change.replace('=', '')}-{lines}", change, *options, lines=lines)
            (out / "000" / "bom_line.csv").unlink()  # the same bytes as old
            new = out / "001" / "bom_line.csv"
            warm(old, new)
            self.made[shape, change, lines] = old, new, truth(out / "001")
        return self.made[shape, change, lines]

    def drop_pair(self, shape, change, lines=None):
        """Frees the disk of a pair that no later case needs; the old snapshot stays for the others."""
        if pair := self.made.pop((shape, change, lines or self.lines), None):
            shutil.rmtree(pair[1].parent.parent)

    def base_store(self, snapshot, *options):
        """A store that took the snapshot as its baseline. Made once for each; cases work on copies."""
        key = ("store", snapshot, options)
        if key not in self.made:
            store = self.folder / f"store-{next(self.stores)}"
            self.call("init", "--store", store)
            self.call("sync", "-q", "--store", store, *feed(*options), "--baseline", snapshot)
            self.made[key] = store
        return self.made[key]

    def drop_shape(self, shape, *options, lines=None):
        """Frees the disk of all that was made of one shape."""
        old = self.old(shape, *options, lines=lines)
        self.drop_stores(old)
        for key in [k for k in self.made if k[0] == shape and k[2] == (lines or self.lines)]:
            self.drop_pair(shape, key[1], lines)
        old.unlink()

    def drop_stores(self, snapshot):
        """Frees the disk of the stores whose baseline this snapshot is."""
        for key in [k for k in self.made if k[:2] == ("store", snapshot)]:
            self.drop(self.made.pop(key))

    def fresh(self, store, name="copy"):
        """A copy of a store to sync into: a sync changes its store. On disk before the clock runs, so that nobody else's writes are timed."""
        copy = self.folder / name
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", store, copy], check=True)
        subprocess.run(["sync", "-f", copy], check=True)
        return copy

    def empty(self, name="first"):
        store = self.folder / name
        shutil.rmtree(store, ignore_errors=True)
        self.call("init", "--store", store)
        return store

    def drop(self, *paths):
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def feed(*options):
    """What the first sync of a feed needs to know."""
    return ["--key", KEY, "--partition", "plant", "--complete", *options]
