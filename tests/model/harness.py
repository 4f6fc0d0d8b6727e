"""What the outside tests share: options, running the program, counting, telling a failure so that it can be repeated.

A test is a function that raises Failed (or AssertionError), or Skipped. Every run of the program is remembered until the
test ends, so that a failure prints the command lines that led to it and the folder that holds their files.
"""
import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
NOW = "2026-01-02T03:04:05Z"


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


class Run:
    """One finished run of the program."""

    def __init__(self, argv, code, out, err, seconds, stdin_name=None):
        self.argv, self.code, self.out, self.err, self.seconds = argv, code, out, err, seconds
        self.stdin_name = stdin_name
        self.rss_peak = self.anon_peak = 0

    def line(self):
        text = " ".join(shlex.quote(a) for a in self.argv)
        return text + (" < " + shlex.quote(self.stdin_name) if self.stdin_name else "")

    def json(self):
        """The first object that is a generation, or the first one."""
        objects = []
        for line in self.out.splitlines():
            line = line.strip()
            if line.startswith(b"{"):
                objects.append(json.loads(line))
        for o in objects:
            if o.get("message_type") == "generation":
                return o
        if not objects:
            raise Failed("no JSON object on stdout of: %s\nstdout: %r\nstderr: %r" % (self.line(), self.out[:400], self.err[:400]))
        return objects[0]

    def json_lines(self):
        return [json.loads(l) for l in self.out.splitlines() if l.strip()]


class Bomsync:
    """Runs the program; keeps the command lines of the test that is running."""

    def __init__(self, path, timeout=120):
        self.path, self.timeout = os.path.abspath(path), timeout
        self.runs = []

    def forget(self):
        self.runs = []

    def __call__(self, *args, stdin=None, expect=None, cwd=None, env=None):
        argv = [self.path] + [str(a) for a in args]
        feed = open(stdin, "rb") if isinstance(stdin, str) else subprocess.DEVNULL
        start = time.monotonic()
        try:
            p = subprocess.run(argv, stdin=feed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=self.timeout, cwd=cwd,
                               env=env)
            run = Run(argv, p.returncode, p.stdout, p.stderr, time.monotonic() - start, stdin if isinstance(stdin, str) else None)
        except subprocess.TimeoutExpired as e:
            self.runs.append(Run(argv, -1, e.stdout or b"", e.stderr or b"", time.monotonic() - start))
            raise Failed("no answer within %d s: %s" % (self.timeout, " ".join(map(shlex.quote, argv))))
        finally:
            if feed is not subprocess.DEVNULL:
                feed.close()
        self.runs.append(run)
        if run.code < 0 or run.code >= 128 or b"Sanitizer" in run.err or b"runtime error:" in run.err:
            raise Failed("ended by a fault (%d): %s\nstderr: %s" % (run.code, run.line(), run.err[-1500:].decode("utf-8", "replace")))
        if expect is not None and run.code not in (expect if isinstance(expect, (tuple, list, set)) else (expect,)):
            raise Failed("exit %d, expected %s: %s\nstdout: %s\nstderr: %s"
                         % (run.code, expect, run.line(), run.out[-800:].decode("utf-8", "replace"),
                            run.err[-800:].decode("utf-8", "replace")))
        return run

    def measured(self, *args, stdin=None, limit=20.0):
        """Run and watch: peak of RssAnon over the process tree (sampled), and ru_maxrss of the largest (from the kernel)."""
        argv = [self.path] + [str(a) for a in args]
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        feed = open(stdin, "rb") if isinstance(stdin, str) else subprocess.DEVNULL
        start = time.monotonic()
        p = subprocess.Popen(argv, stdin=feed, stdout=out, stderr=err)
        peak = [0]
        stop = threading.Event()

        def watch():
            while not stop.is_set():
                peak[0] = max(peak[0], sum(anon_of(x) for x in tree_of(p.pid)))
                if time.monotonic() - start > limit:
                    for x in tree_of(p.pid)[::-1]:
                        try:
                            os.kill(x, 9)
                        except OSError:
                            pass
                stop.wait(0.004)

        w = threading.Thread(target=watch)
        w.start()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        stop.set()
        w.join()
        if feed is not subprocess.DEVNULL:
            feed.close()
        out.seek(0)
        err.seek(0)
        run = Run(argv, p.returncode, out.read(), err.read(), seconds, stdin if isinstance(stdin, str) else None)
        run.anon_peak, run.rss_peak = peak[0], usage.ru_maxrss * 1024
        self.runs.append(run)
        if run.code < 0 or run.code >= 128:
            raise Failed("ended by a fault or after %.0f s (%d): %s\nstderr: %s" % (limit, run.code, run.line(), run.err[-1500:].decode("utf-8", "replace")))
        return run


def tree_of(pid):
    """The process and its descendants, parents first."""
    found = [pid]
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                for child in f.read().split():
                    found += tree_of(int(child))
    except OSError:
        pass
    return found


def anon_of(pid):
    try:
        with open("/proc/%d/status" % pid) as f:
            for line in f:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Suite:
    """Runs tests one after another, each in a folder of its own, and counts."""

    def __init__(self, name, options):
        self.name, self.options = name, options
        self.passed = self.failed = self.skipped = 0
        self.base = tempfile.mkdtemp(prefix="bomsync-%s-" % name)
        self.bom = Bomsync(options.bomsync) if options.bomsync else None
        self.skip_reasons = {}

    def run(self, title, function, *args):
        if self.options.only and self.options.only not in title:
            return
        folder = tempfile.mkdtemp(dir=self.base)
        if self.bom:
            self.bom.forget()
        keep = False
        try:
            function(folder, *args)
            self.passed += 1
            if self.options.verbose:
                print("ok    %s" % title, flush=True)
        except Skipped as s:
            self.skipped += 1
            self.skip_reasons[str(s)] = self.skip_reasons.get(str(s), 0) + 1
            if self.options.verbose:
                print("skip  %s: %s" % (title, s), flush=True)
        except Exception as e:
            self.failed += 1
            keep = True
            self.tell(title, e, folder)
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)

    def tell(self, title, e, folder):
        lines = ["FAIL  %s   (seed %s)" % (title, self.options.seed)]
        text = str(e) if isinstance(e, (Failed, AssertionError)) and str(e) else traceback.format_exc()
        lines += ["      " + l for l in text.splitlines()[:60]]
        lines.append("      files kept in %s" % folder)
        if self.bom:
            shown = self.bom.runs[-12:]
            if len(self.bom.runs) > len(shown):
                lines.append("      … %d earlier command lines" % (len(self.bom.runs) - len(shown)))
            lines += ["      [exit %d] %s" % (r.code, r.line()) for r in shown]
        print("\n".join(lines), flush=True)

    def end(self):
        for reason, n in sorted(self.skip_reasons.items()):
            print("skipped %d: %s" % (n, reason))
        try:
            os.rmdir(self.base)
        except OSError:
            pass
        print("%d passed, %d failed, %d skipped" % (self.passed, self.failed, self.skipped), flush=True)
        return 1 if self.failed else 0


def with_tiny(p):
    """For options(): --tiny names the program whose units and limits are so small that little tables meet them."""
    p.add_argument("--tiny", default=os.path.join(CHECKOUT, "build", "tests", "bomsync_tiny"))


def programs_of(suite, o):
    """The program, and the tiny one if it is there: a test draws one of them."""
    return [suite.bom.path] + ([os.path.abspath(o.tiny)] if os.path.exists(o.tiny) else [])


def options(name, count=50, extra=None):
    p = argparse.ArgumentParser(prog=name)
    p.add_argument("--bomsync", help="the program under test")
    p.add_argument("--seed", type=int, default=None, help="makes a run repeatable; drawn and printed if not given")
    p.add_argument("--count", type=int, default=count, help="how many random cases of each law")
    p.add_argument("--data", default=os.environ.get("BOMSYNC_DATA", os.path.join(CHECKOUT, "..", "shared", "data")),
                   help="folder of the real data sets")
    p.add_argument("--only", default="", help="only tests whose title holds this text")
    p.add_argument("--all", action="store_true", help="the slow ones too")
    p.add_argument("-v", "--verbose", action="store_true")
    if extra:
        extra(p)
    o = p.parse_args()
    if o.seed is None:
        o.seed = random.SystemRandom().randrange(1 << 31)
    print("%s: seed %d" % (name, o.seed), flush=True)
    return o


def first_difference(got, want):
    """Where two lists of lines part, for people."""
    got = got.split(b"\n") if isinstance(got, bytes) else got
    want = want.split(b"\n") if isinstance(want, bytes) else want
    for i in range(max(len(got), len(want))):
        g = got[i] if i < len(got) else b"(nothing)"
        w = want[i] if i < len(want) else b"(nothing)"
        if g != w:
            return "line %d of %d (expected %d)\n  got      %.700r\n  expected %.700r" % (i + 1, len(got), len(want), g, w)
    return "no difference"


def same(what, got, want):
    if got != want:
        if isinstance(got, (bytes, list)) and isinstance(want, (bytes, list)):
            raise Failed("%s: %s" % (what, first_difference(got, want)))
        raise Failed("%s: got %r, expected %r" % (what, got, want))


def write(folder, name, data):
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.write(data)
    return path
