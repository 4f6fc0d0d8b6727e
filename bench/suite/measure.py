"""Processes and their times: one run, its private memory, and runs of several programs in turns."""
import dataclasses
import os
import statistics
import subprocess
import threading
import time

SAMPLE_SECONDS = 0.002  # finer sampling slows down what is watched


class Failed(Exception):
    """A program ended with an exit code that it should not have."""


@dataclasses.dataclass
class Timing:
    """Every single time of one program in one case, and its peak of private memory (None: not watched)."""

    seconds: list
    memory: int | None = None

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def least(self):
        return min(self.seconds)

    @property
    def most(self):
        return max(self.seconds)

    def as_json(self):
        return {"median": self.median, "least": self.least, "most": self.most, "seconds": self.seconds, "private_memory": self.memory}


@dataclasses.dataclass
class Program:
    """Something to time. argv is a list, or a function that makes one; before runs untimed ahead of each run.

    check is the command line of the run that tells counts (default: argv); counts reads its stdout and gives
    (created, updated, deleted), a number of differing lines, or None where the program tells nothing. seconds, if set,
    reads the time out of stdout: for programs that measure better than from the outside, as fio does.
    """

    name: str
    argv: object
    before: object = None
    check: object = None
    counts: object = None
    codes: tuple = (0,)
    seconds: object = None
    env: dict | None = None

    def command(self, check=False):
        argv = self.check if check and self.check else self.argv
        return [str(a) for a in (argv() if callable(argv) else argv)]


def anonymous_bytes(pid):
    """Anonymous pages of a process and of all below it. Mapped files are left out: they belong to the page cache."""
    total = 0
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                total += sum(anonymous_bytes(int(child)) for child in f.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended while we looked
    return total


class Watch:
    """Samples the memory of a process in a thread, until it is stopped."""

    def __init__(self, pid):
        self.pid, self.peak, self.stopped = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()

    def sample(self):
        while not self.stopped.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, anonymous_bytes(self.pid))

    def stop(self):
        self.stopped.set()
        self.thread.join()
        return self.peak


def execute(argv, codes=(0,), stdout=subprocess.DEVNULL, watch=False, env=None):
    """(seconds, stdout, peak of memory) of one process, from its start until it is gone."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **env} if env else None)
    watcher = Watch(process.pid) if watch else None
    out, err = process.communicate()
    seconds = time.perf_counter() - start
    peak = watcher.stop() if watcher else None
    if process.returncode not in codes:
        shown = " ".join(argv)
        raise Failed(f"exit {process.returncode}: {shown[:300]}: {err.decode(errors='replace').strip()[-500:]}")
    return seconds, out, peak


def check_run(program):
    """Runs a program once, untimed, with its caches getting warm; gives the counts that it tells."""
    if program.before:
        program.before()
    _, out, _ = execute(program.command(check=True), program.codes, subprocess.PIPE, env=program.env)
    return program.counts(out) if program.counts else None


def timed_run(program, watch=False):
    """(seconds, peak of memory) of one run."""
    if program.before:
        program.before()
    stdout = subprocess.PIPE if program.seconds else subprocess.DEVNULL
    seconds, out, peak = execute(program.command(), program.codes, stdout, watch, program.env)
    return (program.seconds(out) if program.seconds else seconds), peak


def turns(programs, runs, watched):
    """Times programs in turns, so that a noisy minute hits all of them alike. Gives a Timing for each, or the Failed."""
    times, failed = [[] for _ in programs], {}
    for _ in range(runs):
        for i, program in enumerate(programs):
            try:
                if i not in failed:
                    times[i].append(timed_run(program)[0])
            except Failed as error:
                failed[i] = error
    # Memory has a run of its own: watching costs time.
    return [failed.get(i) or Timing(times[i], timed_run(p, watch=True)[1] if p in watched else None) for i, p in enumerate(programs)]
