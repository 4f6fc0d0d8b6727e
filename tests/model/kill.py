#!/usr/bin/env python3
"""Killed anywhere, the store holds generation g or g+1 whole, and the next run emits the same chunks. A full disk is told.

    strace -f -e inject=CALL:signal=KILL:when=N bomsync sync ...

for each call that writes, by itself, N from 1 until the call is not reached any more. After each death: verify passes, the
newest generation is g or g+1, the repeated sync leaves an outbox that equals that of an undisturbed run byte for byte.
"""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import tables
from harness import NOW, Failed, Skipped, Suite, options, same, tree_of, write

CALLS = ["pwrite64", "write", "writev", "pwritev", "fdatasync", "fsync", "syncfs", "ftruncate", "fallocate", "rename", "renameat", "renameat2",
         "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "msync", "sync_file_range"]


def files_of(folder):
    found = {}
    for d, _, files in os.walk(folder):
        for f in files:
            p = os.path.join(d, f)
            with open(p, "rb") as h:
                found[os.path.relpath(p, folder)] = h.read()
    return found


class Scene:
    """A store with a feed of two partitions at g, a second snapshot, and what an undisturbed sync makes of it."""

    def __init__(self, folder, bom, seed, first=False):
        self.folder, self.bom = folder, bom
        rng = random.Random(seed)
        n = 400
        rows = [["K%04d" % i, rng.choice(["1000", "2000"]), rng.choice("abcdef") * rng.randrange(1, 20), "t%d" % i] for i in range(n)]
        plain = tables.Style(rng, plain=True)
        head = ["k", "plant", "v", "w"]
        self.a = write(folder, "a.csv", tables.render(rng, tables.Rows(head, rows), plain))
        new = [list(r) for r in rows if rng.random() > 0.03]
        for r in rng.sample(new, 20):
            r[2] = "changed"
        new += [["N%04d" % i, "1000", "n", "m"] for i in range(15)]
        self.b = write(folder, "b.csv", tables.render(rng, tables.Rows(head, new), plain))
        self.base = os.path.join(folder, "base")
        bom("init", "--store", self.base, "--shards", "2", expect=0)
        self.args = ["--key", "k,plant", "--partition", "plant"] if first else []
        if not first:
            bom("sync", "--store", self.base, "--key", "k,plant", "--partition", "plant", "--complete", "--now", NOW, self.a, expect=0)
        self.g = 0 if first else 1
        self.old_export = b"" if first else bom("export", "--store", self.base, expect=0).out
        self.store = os.path.join(folder, "store")
        self.fresh()
        self.code = self.sync().code
        if self.code != 0:
            raise Failed("the undisturbed sync gives %d" % self.code)
        self.want = files_of(os.path.join(self.store, "outbox", str(self.g + 1)))
        if not self.want:
            raise Failed("the undisturbed sync made no chunks")
        self.new_export = bom("export", "--store", self.store, expect=0).out

    def fresh(self):
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.base, self.store)

    def command(self):
        return ["sync", "--store", self.store, "--complete", "--io", "pread", "--workers", "2", "--codec", "symbols", "--now", NOW] + self.args + [self.b]

    def sync(self):
        return self.bom(*self.command())

    def killed_at(self, call, when):
        """True: the process died at this call. Its command line is remembered."""
        log = os.path.join(self.folder, "strace.log")
        argv = ["strace", "-f", "-qq", "-o", log, "-e", "trace=" + call, "-e", "inject=%s:signal=KILL:when=%d" % (call, when),
                self.bom.path] + self.command()
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        self.last = " ".join(argv)
        with open(log, "rb") as f:
            died = b"killed by SIGKILL" in f.read()
        if not died and p.returncode != 0:
            raise Failed("not killed, and exit %d: %s" % (p.returncode, self.last))
        return died

    def after(self):
        """Whole at g or g+1, and the next run converges on the same bytes."""
        v = self.bom("verify", "--store", self.store)
        if v.code != 0:
            raise Failed("verify %d after: %s\n%s%s" % (v.code, self.last, v.out.decode("utf-8", "replace"), v.err.decode("utf-8", "replace")))
        log = [o for o in self.bom("log", "--store", self.store, "--json", expect=(0, 4, 5)).json_lines() if o.get("message_type") == "generation"]
        at = log[-1]["generation"] if log else 0
        if at not in (self.g, self.g + 1):
            raise Failed("generation %d after: %s" % (at, self.last))
        if at or self.g:
            exported = self.bom("export", "--store", self.store, expect=0).out
            same("export at generation %d after: %s" % (at, self.last), exported, self.new_export if at == self.g + 1 else self.old_export)
        run = self.sync()
        if run.code != 0:
            raise Failed("the next run gives %d after: %s\n%s" % (run.code, self.last, run.err.decode("utf-8", "replace")))
        got = files_of(os.path.join(self.store, "outbox", str(self.g + 1)))
        same("files of the outbox after: %s" % self.last, sorted(got), sorted(self.want))
        for name in got:
            same("%s after: %s" % (name, self.last), got[name], self.want[name])
        same("folders of the outbox", sorted(os.listdir(os.path.join(self.store, "outbox"))), [str(i + 1) for i in range(self.g + 1)])
        left = os.path.join(self.store, "tmp")
        if os.path.isdir(left) and os.listdir(left):
            raise Failed("left in tmp: %s after: %s" % (os.listdir(left), self.last))
        same("export at the end", self.bom("export", "--store", self.store, expect=0).out, self.new_export)
        v = self.bom("verify", "--store", self.store)
        same("verify at the end after: %s" % self.last, v.code, 0)
        return at


def kills(folder, suite, call, first):
    if not shutil.which("strace"):
        raise Skipped("no strace")
    try:
        scene = suite.scene(first)
    except Failed as e:
        raise Failed("no scene: %s" % e)
    points, when = 0, 1
    step = 1
    while points < suite.options.count:
        scene.fresh()
        suite.bom.forget()
        if not scene.killed_at(call, when):
            break
        scene.after()
        points += 1
        when += step
        if when > 60:
            step = 7
    suite.points += points
    suite.calls.setdefault(call, 0)
    suite.calls[call] += points
    if suite.options.verbose:
        print("      %s: %d points" % (call, points))


def calls_met(folder, suite):
    """A call that no run makes has no point to die at; if none is made, the trace saw nothing."""
    if not shutil.which("strace"):
        raise Skipped("no strace")
    never = [c for c in CALLS if c in suite.calls and not suite.calls[c]]
    if never:
        print("never called: %s" % ", ".join(never))
    if suite.calls and len(never) == len(suite.calls):
        raise Failed("no call that writes was seen")


def alive(group):
    """Does a process of the group run? One that is dead may not be collected for a while."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid) as f:
                state, _, of = f.read().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(of) == group and state not in "ZX":
            return True
    return False


def wait_for_group(group):
    """The child gets its signal when its supervisor is gone, which on a busy machine is not the moment at which that was waited for."""
    for _ in range(1000):
        if not alive(group):
            return
        time.sleep(0.002)


def random_kills(folder, suite, first):
    scene = suite.scene(first)
    rng = random.Random(suite.options.seed)
    start = time.monotonic()
    scene.fresh()
    scene.sync()
    whole = time.monotonic() - start
    for _ in range(min(60, suite.options.count)):
        scene.fresh()
        suite.bom.forget()
        p = subprocess.Popen([suite.bom.path] + scene.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
        pause = rng.uniform(0, whole * 1.1)
        time.sleep(pause)
        scene.last = "killed after %.4f s: %s" % (pause, " ".join([suite.bom.path] + scene.command()))
        try:
            if rng.random() < 0.5:
                p.kill()                               # the supervisor alone: its child must die with it
            else:
                os.killpg(p.pid, signal.SIGKILL)       # a session of our own
        except ProcessLookupError:
            pass
        p.wait()
        wait_for_group(p.pid)
        scene.after()
        suite.points += 1


def slowed_kills(folder, suite, first):
    """strace counts calls for each thread apart, so when=N meets only the earliest; here each call that writes takes a while, and the
    death comes at a random time between them, in whatever thread."""
    if not shutil.which("strace"):
        raise Skipped("no strace")
    scene = suite.scene(first)
    rng = random.Random(suite.options.seed)
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + ",".join(CALLS), "-e", "inject=%s:delay_exit=4000" % ",".join(CALLS)]
    scene.fresh()
    start = time.monotonic()
    subprocess.run(trace + [suite.bom.path] + scene.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    whole = time.monotonic() - start
    seen = {}
    for _ in range(suite.options.count):
        scene.fresh()
        suite.bom.forget()
        p = subprocess.Popen(trace + [suite.bom.path] + scene.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        pause = rng.uniform(whole * 0.05, whole)
        time.sleep(pause)
        scene.last = "killed after %.4f s of %.4f: %s" % (pause, whole, " ".join(trace + [suite.bom.path] + scene.command()))
        for pid in tree_of(p.pid)[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        p.wait()
        at = scene.after()
        seen[at] = seen.get(at, 0) + 1
        suite.points += 1
    if suite.options.verbose:
        print("      generations found after death: %s" % seen)


class SmallDisk:
    """A tmpfs of so many kB; Skipped where it cannot be had."""

    def __init__(self, folder, kilobytes):
        if os.geteuid() != 0:
            raise Skipped("only root can mount")
        self.path = os.path.join(folder, "small")
        os.mkdir(self.path)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dk" % kilobytes, "tmpfs", self.path], stderr=subprocess.DEVNULL).returncode:
            raise Skipped("cannot mount a tmpfs")

    def grow(self, kilobytes):
        subprocess.run(["mount", "-o", "remount,size=%dk" % kilobytes, self.path], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", self.path])


def large(folder, name, n, tag):
    """Text that does not compress, so that a store of it fills the disk."""
    body = "".join("K%07d,%s,%s\n" % (i, tag, hashlib.sha256(b"%d" % i).hexdigest()[:30]) for i in range(n))
    return write(folder, name, ("k,v,w\n" + body).encode())


def told_of_disk(run):
    same("exit on a full disk", run.code, 9)
    if b"disk" not in run.err and b"space" not in run.err:
        raise Failed("no word of the disk: %r" % run.err)


def disk_full(folder, suite, megabytes):
    """Fill a small file system by syncs; afterwards the store is whole, and goes on when there is room."""
    with SmallDisk(folder, int(megabytes * 1024)) as disk:
        bom, store = suite.bom, os.path.join(disk.path, "store")
        run = bom("init", "--store", store, "--shards", "2")
        if run.code == 9:
            raise Skipped("no room for an empty store")
        same("exit of init", run.code, 0)
        small = large(folder, "small.csv", 500, "a")
        run = bom("sync", "--store", store, "--key", "k", "--complete", "--now", NOW, small)
        if run.code == 9:
            raise Skipped("no room for a small store")
        same("exit of the first sync", run.code, 0)
        before = bom("export", "--store", store, expect=0).out
        big = large(folder, "big.csv", int(megabytes * 20000), "a")
        told_of_disk(bom("sync", "--store", store, "--complete", "--now", NOW, big))
        same("export after the full disk", bom("export", "--store", store, expect=0).out, before)
        bom("verify", "--store", store, expect=0)
        bom("sync", "--store", store, "--complete", "--now", NOW, big, expect=9)
        bom("verify", "--store", store, expect=0)
        disk.grow(int(megabytes * 1024 + 200000))
        bom("sync", "--store", store, "--complete", "--now", NOW, big, expect=0)
        with open(big, "rb") as f:
            same("export when there is room", bom("export", "--store", store, expect=0).out, f.read())
        bom("verify", "--store", store, expect=0)


def output_on_full_disk(folder, suite, command):
    """-o onto a disk that is full: 9, what stood there stays, nothing is left beside it; with room it is written."""
    bom = suite.bom
    old, new = large(folder, "old.csv", 10, "a"), large(folder, "new.csv", 40000, "b")
    if command == "diff":
        args, done = ["diff", old, new, "--key", "k"], 1
    else:
        store = os.path.join(folder, "store")
        bom("init", "--store", store, expect=0)
        bom("sync", "--store", store, "--key", "k", "--complete", "--now", NOW, new, expect=0)
        args, done = {"export": ["export", "--store", store], "cat": ["cat", "1", "--store", store]}[command], 0
    want = bom(*args, expect=done).out
    with SmallDisk(folder, 1024) as disk:
        there = write(disk.path, "out", b"what stood there")
        told_of_disk(bom(*args, "-o", there))
        with open(there, "rb") as f:
            same("the file that stood there", f.read(), b"what stood there")
        same("files on the disk", os.listdir(disk.path), ["out"])
        disk.grow(200000)
        bom(*args, "-o", there, expect=done)
        with open(there, "rb") as f:
            same("the product when there is room", f.read(), want)


def copy_on_full_disk(folder, suite, command):
    """backup and restore onto a full disk: 9, the source is whole, no copy that looks whole is left; with room it is made."""
    bom, store = suite.bom, os.path.join(folder, "store")
    bom("init", "--store", store, expect=0)
    bom("sync", "--store", store, "--key", "k", "--complete", "--now", NOW, large(folder, "new.csv", 40000, "b"), expect=0)
    source = store
    if command == "restore":
        source = os.path.join(folder, "copy")
        bom("backup", "--store", store, source, expect=0)
    want = bom("export", "--store", store, expect=0).out
    with SmallDisk(folder, 1024) as disk:
        target = os.path.join(disk.path, "target")
        args = ["backup", "--store", source, target] if command == "backup" else ["restore", source, "--store", target]
        told_of_disk(bom(*args))
        if os.path.isdir(target) and os.listdir(target) and bom("verify", "--store", target).code == 0:
            raise Failed("half a copy passes verify: %s" % os.listdir(target))
        bom("verify", "--store", store, expect=0)
        disk.grow(400000)
        shutil.rmtree(target, ignore_errors=True)
        bom(*args, expect=0)
        if command == "restore":
            same("export of what was restored", bom("export", "--store", target, expect=0).out, want)


def spill_on_full_disk(folder, suite):
    """--tmp on a full disk: a run that must spill ends with 9 and changes nothing; on a large disk it is done."""
    bom = suite.bom
    old, new = large(folder, "old.csv", 10, "a"), large(folder, "new.csv", 40000, "b")
    want = bom("diff", old, new, "--key", "k", expect=1).out
    with SmallDisk(folder, 256) as disk:
        run = bom("diff", old, "-", "--key", "k", "--tmp", disk.path, stdin=new)
        told_of_disk(run)
        same("files on the disk", os.listdir(disk.path), [])
        disk.grow(200000)
        same("with room", bom("diff", old, "-", "--key", "k", "--tmp", disk.path, stdin=new, expect=1).out, want)


def main():
    o = options("kill", 200, lambda p: p.add_argument("--quick", action="store_true", help="a few points of each call"))
    if not o.bomsync:
        print("skipped: no --bomsync given")
        print("0 passed, 0 failed, %d skipped" % len(CALLS))
        return 0
    if o.quick:
        o.count = min(o.count, 6)
    suite = Suite("kill", o)
    suite.points, suite.calls, scenes = 0, {}, {}

    def scene(first):
        if first not in scenes:
            folder = os.path.join(suite.base, "scene%d" % first)
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
            scenes[first] = Scene(folder, suite.bom, o.seed, first)
        return scenes[first]

    suite.scene = scene
    for first in (False, True):
        for call in CALLS:
            suite.run("killed at each %s of %s" % (call, "the first sync" if first else "a sync"), kills, suite, call, first)
        suite.run("killed between slow writes of %s" % ("the first sync" if first else "a sync"), slowed_kills, suite, first)
        suite.run("killed at random times of %s" % ("the first sync" if first else "a sync"), random_kills, suite, first)
    for size in (1, 2, 4, 16):
        suite.run("disk of %d MB full" % size, disk_full, suite, size)
    for command in ("diff", "export", "cat"):
        suite.run("disk full: %s -o" % command, output_on_full_disk, suite, command)
    for command in ("backup", "restore"):
        suite.run("disk full: %s" % command, copy_on_full_disk, suite, command)
    suite.run("disk full: temporary files", spill_on_full_disk, suite)
    suite.run("calls that write were met", calls_met, suite)
    print("%d points of death" % suite.points)
    for first in scenes:
        shutil.rmtree(os.path.join(suite.base, "scene%d" % first))
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
