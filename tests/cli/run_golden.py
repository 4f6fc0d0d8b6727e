#!/usr/bin/env python3
"""Golden files for the program: a command, its stdout, stderr and exit code.

    tests/cli/cases/<name>/cmd      shell text, run by bash in an empty folder; $BOMSYNC is the program, $CASE this folder
                           stdout   what it must print; absent: nothing
                           stderr   the same for stderr
                           exit     its exit code; absent: 0
                           files/   copied into the folder before the run; may be absent
                           filter   lines "regex => text", applied to both streams before they are compared

A name says condition, then outcome: sync_without_evidence_holds_deletes. A cmd that ends with 77 is skipped, for data
that is not there. The path of the temporary folder is shown as $PWD in both streams, so that no golden file holds it.

    run_golden.py --bomsync build/bomsync [--update] [name part ...]
"""
import argparse
import concurrent.futures
import difflib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77
SECONDS_MAX = 120


def filters(case):
    path = case / "filter"
    if not path.exists():
        return []
    pairs = []
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern, arrow, text = line.partition(" => ")
        if not arrow:
            sys.exit(f'{path}: no " => " in "{line}"')
        pairs.append((re.compile(pattern.encode()), text.encode()))
    return pairs


def run(case, bomsync):
    """The streams and the exit code of one case, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bomsync-golden-") as folder:
        if (case / "files").is_dir():
            shutil.copytree(case / "files", folder, dirs_exist_ok=True)
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "BOMSYNC_DATA", "ASAN_OPTIONS", "UBSAN_OPTIONS")}
        env.update(BOMSYNC=str(bomsync), CASE=str(case), HOME=folder, TMPDIR=folder, LC_ALL="C", TZ="UTC")
        try:
            done = subprocess.run(["bash", str(case / "cmd")], cwd=folder, env=env, stdin=subprocess.DEVNULL,
                                  capture_output=True, timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired as late:
            return {"stdout": late.stdout or b"", "stderr": late.stderr or b"", "exit": f"none after {SECONDS_MAX} s\n".encode()}
        out = {"stdout": done.stdout, "stderr": done.stderr}
        for name in out:
            out[name] = out[name].replace(folder.encode(), b"$PWD")
            for pattern, text in filters(case):
                out[name] = pattern.sub(text, out[name])
        out["exit"] = f"{done.returncode}\n".encode()
        return out


def expected(case):
    def text(name, default):
        path = case / name
        return path.read_bytes() if path.exists() else default
    return {"stdout": text("stdout", b""), "stderr": text("stderr", b""), "exit": text("exit", b"0\n")}


def update(case, got):
    for name, empty in (("stdout", b""), ("stderr", b""), ("exit", b"0\n")):
        if got[name] == empty:
            (case / name).unlink(missing_ok=True)
        else:
            (case / name).write_bytes(got[name])


def difference(name, want, got):
    lines = [t.decode("utf-8", "backslashreplace").splitlines(keepends=True) for t in (want, got)]
    text = difflib.unified_diff(*lines, f"{name} wanted", f"{name} got", n=2)
    return "".join(line if line.endswith("\n") else line + "\n" for line in text)


def check(case, bomsync, rewrite):
    got = run(case, bomsync)
    if got["exit"] == f"{SKIPPED}\n".encode():
        return "skip", ""
    want = expected(case)
    if got == want:
        return "ok", ""
    if rewrite:
        update(case, got)
        return "updated", ""
    return "FAIL", "".join(difference(n, want[n], got[n]) for n in want if got[n] != want[n])


def main():
    parser = argparse.ArgumentParser(description="runs the golden cases of the program")
    parser.add_argument("--bomsync", default=os.environ.get("BOMSYNC", "build/bomsync"), type=pathlib.Path)
    parser.add_argument("--cases", default=HERE / "cases", type=pathlib.Path)
    parser.add_argument("--update", action="store_true", help="write what the program says now")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("names", nargs="*", help="parts of case names; default: all")
    args = parser.parse_args()
    bomsync = args.bomsync.resolve()
    if not os.access(bomsync, os.X_OK):
        sys.exit(f"{bomsync}: no program there; give --bomsync")
    cases = sorted(p.parent for p in args.cases.resolve().glob("*/cmd"))
    cases = [c for c in cases if not args.names or any(n in c.name for n in args.names)]
    if not cases:
        sys.exit("no such case")
    count = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for case, (verdict, text) in zip(cases, pool.map(lambda c: check(c, bomsync, args.update), cases)):
            count[verdict] = count.get(verdict, 0) + 1
            if verdict != "ok":
                print(f"{verdict}: {case.name}\n{text}", end="")
    print(", ".join(f"{n} {verdict}" for verdict, n in sorted(count.items())))
    return 1 if "FAIL" in count else 0


if __name__ == "__main__":
    sys.exit(main())
