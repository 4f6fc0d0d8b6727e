"""What all cases share: compare bomsync with others, check counts first, keep rows for the table."""
import dataclasses
import json
import sys

from suite.data import Data, feed
from suite.goals import Goal
from suite.measure import Failed, Program, Timing, check_run, timed_run, turns
from suite.peers import Missing, Peers, same_counts

FLOOR, RIVAL, SELF = "floor", "rival", "self"
ERROR = "ERROR"


class Wrong(Exception):
    """Counts differ: what would be timed is not the same job."""


class Skip(Exception):
    """A case that cannot run here, with the reason."""


@dataclasses.dataclass
class Against:
    """One program that bomsync is timed beside, and the goal, if there is one. figure: how the two medians become a figure."""

    program: object
    goal: Goal | None = None
    kind: str = RIVAL
    figure: object = None
    counts: tuple | None = None  # of its own data, where that differs from bomsync's


@dataclasses.dataclass
class Row:
    case: str
    job: str
    against: str
    goal: Goal | None = None
    kind: str = RIVAL
    ours: Timing | None = None
    theirs: Timing | None = None
    figure: float | None = None
    verdict: str = ""
    ours_text: str = ""  # where the row is not about two times
    theirs_text: str = ""

    def as_json(self):
        timing = {k: v.as_json() if v else None for k, v in (("ours", self.ours), ("theirs", self.theirs))}
        return {"case": self.case, "job": self.job, "against": self.against, "kind": self.kind, "goal": str(self.goal) if self.goal else None,
                "figure": self.figure, "verdict": self.verdict, **timing, "ours_text": self.ours_text, "theirs_text": self.theirs_text}


def counts_of_sync(out):
    """(created, updated, deleted); deletes that wait for an approval were found as well. A snapshot held whole tells no counts."""
    found = json.loads(out)
    if found["held"] and not found["deletes_held"]:
        return None
    return found["created"], found["updated"], found["deleted"] + found["deletes_held"]


def counts_of_diff(out):
    found = json.loads(out)
    return found["created"], found["updated"], found["deleted"]


class Bench:
    def __init__(self, options, folder, lines=None):
        self.o, self.folder = options, folder
        self.lines = lines or options.lines
        self.data = Data(folder, options.bomsync, self.lines)
        self.peers = Peers(folder, options.workers, options.peers, options.without)
        self.rows, self.stages, self.figures, self.passed, self.failed, self.skipped = [], {}, {}, 0, 0, 0

    # Programs

    def bomsync(self, *args, **more):
        return Program("bomsync", [*self.data.bomsync, *args], **more)

    def workers(self, count=None):
        return ["--workers", str(count or self.o.workers)]

    def sync(self, base, *snapshot, codes=(0,), workers=None, copy="copy"):
        """A sync into a fresh copy of a store, which before makes."""
        argv = ["sync", "--json", "-q", "--store", self.folder / copy, "--complete", *self.workers(workers), *snapshot]
        return self.bomsync(*argv, before=lambda: self.data.fresh(base, copy), counts=counts_of_sync, codes=codes)

    def first(self, snapshot, *options, workers=None, copy="first"):
        argv = ["sync", "--json", "-q", "--store", self.folder / copy, *feed(*options), *self.workers(workers), snapshot]
        return self.bomsync(*argv, before=lambda: self.data.empty(copy), counts=counts_of_sync)

    def diff(self, old, new, key, workers=None):
        """Timed with its product, which the run that is checked leaves out for a summary."""
        args = ["diff", old, new, "--key", key, "-q", *self.workers(workers)]
        check = [*self.data.bomsync, *args, "--format", "summary", "--json"]
        return self.bomsync(*args, check=check, counts=counts_of_diff, codes=(0, 1))

    # Comparing

    def compare(self, case, job, ours, truth, others, runs=None):
        """Checks counts, times all in turns, and adds a row for each of the others. Gives bomsync's Timing."""
        expected = self.check(ours, truth, "gen's truth")
        there = [a for a in others if isinstance(a.program, Program)]
        broken = {}
        for other in there:
            try:
                self.check(other.program, other.counts or expected, "bomsync")
            except Failed as error:
                broken[id(other)] = error
        there = [a for a in there if id(a) not in broken]
        watched = [ours] + [a.program for a in there if a.kind == RIVAL and not self.o.quick]
        mine, *theirs = turns([ours] + [a.program for a in there], runs or self.o.runs, watched)
        if isinstance(mine, Failed):
            raise mine
        found = {id(a): t for a, t in zip(there, theirs)}
        for other in others:
            result = found.get(id(other)) or broken.get(id(other)) or other.program
            self.add(self.row(case, job, mine, other, result))
        if not others:
            self.add(Row(case, job, "", ours=mine, kind=SELF, verdict="no goal"))
        return mine

    def check(self, program, expected, said_by):
        found = check_run(program)
        if expected is not None and not same_counts(found, expected):
            raise Wrong(f"{program.name} counts {told(found)}, {said_by} says {told(expected)}")
        return expected or found

    def row(self, case, job, mine, other, result):
        row = Row(case, job, other.program.name, other.goal, other.kind, mine)
        if isinstance(result, Missing):
            row.verdict = f"not measured ({result.why})"
        elif isinstance(result, Failed):
            row.verdict = f"not measured (it failed: {str(result)[:200]})"
        else:
            row.theirs = result
            row.figure = self.figure(row, other)
            row.verdict = verdict(row)
            self.figures[case, row.against] = row.figure
        return row

    def figure(self, row, other):
        ours, theirs = row.ours.median, row.theirs.median
        if other.figure:
            return other.figure(ours, theirs)
        if row.goal:
            return row.goal.figure(ours, theirs)
        return theirs / ours if row.kind == RIVAL else ours / theirs

    def value(self, case, job, goal, figure, ours_text, against, theirs_text=""):
        """A row about something else than two times."""
        self.add(Row(case, job, against, goal, SELF, None, None, figure, goal.verdict(figure) if goal else "no goal", ours_text, theirs_text))

    def not_measured(self, case, job, why, goal=None, against=""):
        self.add(Row(case, job, against, goal, verdict=f"not measured ({why})"))

    def add(self, row):
        self.rows.append(row)

    def keep_stages(self, case, program, store="copy"):
        """One more run, for what bomsync says of its stages; what is left of the time is start, commit and end."""
        seconds, _ = timed_run(program)
        stages = json.loads(self.data.call("stats", "--store", self.folder / store, "--json"))["seconds"]
        self.stages[case] = {**stages, "the rest": max(0, seconds - sum(stages.values()))}

    # Running

    def run(self, case, function):
        """One case: it passes if it ran and its counts were right. A failure is told in the table, and the next case runs."""
        talk(f"{case} ...")
        try:
            function(self)
            self.passed += 1
        except Skip as why:
            self.skipped += 1
            talk(f"skipped: {case}: {why}")
            if all(row.case != case for row in self.rows):
                self.not_measured(case, function.__doc__.strip().splitlines()[0].rstrip("."), why)
        except (Wrong, Failed, RuntimeError, OSError) as error:
            self.failed += 1
            self.add(Row(case, function.__doc__.strip().splitlines()[0].rstrip("."), "", verdict=f"{ERROR}: {str(error)[:500].strip()}"))
            talk(f"{case}: {error}")


def told(counts):
    """Counts as text, for messages."""
    return f"{counts[0]} created, {counts[1]} updated, {counts[2]} deleted" if isinstance(counts, (tuple, list)) else f"{counts} lines"


def verdict(row):
    """A rival that is faster is called the winner, with a goal and without."""
    lost = row.kind == RIVAL and row.theirs.median < row.ours.median
    if row.kind == SELF and not row.goal:
        return "no goal"
    if row.goal:
        return row.goal.verdict(row.figure) + (", peer wins" if lost else "")
    if row.kind == FLOOR:
        return "floor"
    return "peer wins" if lost else "bomsync wins"


def talk(text):
    print(text, file=sys.stderr, flush=True)

