"""What a run found: the head (machine, versions, data), the table as Markdown, everything as JSON."""
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

from suite.bench import ERROR, RIVAL
from suite.data import digest
from suite.goals import NOT_MET

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = ("job", "bomsync", "against", "its time", "ratio", "goal", "verdict", "MB ours / its")


def first_line(argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True).stdout.strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def compiler(bomsync):
    """The one that CMake remembers beside the program; a program from elsewhere tells nothing."""
    cache = bomsync.parent / "CMakeCache.txt"
    path = None
    if cache.exists():
        path = next((line.split("=", 1)[1].strip() for line in open(cache) if line.startswith("CMAKE_C_COMPILER:")), None)
    return first_line([path, "--version"]) if path else None


def cpu():
    names = (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return next(names, platform.machine())


def commit():
    short = first_line(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    changed = short and subprocess.run(["git", "-C", ROOT, "diff", "--quiet", "HEAD", "--", "engine", "include"]).returncode
    return f"{short} with changes" if changed else short


def about(bench, old):
    o = bench.o
    memory = next((int(line.split()[1]) * 1024 for line in open("/proc/meminfo") if line.startswith("MemTotal:")), None)
    return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "cpu": cpu(), "cores": o.cores, "memory": memory,
            "kernel": platform.release(), "compiler": compiler(o.bomsync), "bomsync": first_line([str(o.bomsync), "version"]), "commit": commit(),
            "peers": bench.peers.all_versions(), "workers": o.workers, "runs": o.runs, "lines": bench.lines, "bytes": old.stat().st_size,
            "sha256": digest(old), "temporary_space": shutil.disk_usage(bench.folder).free, "load_before": os.getloadavg()[0],
            "command": " ".join(["bench/run", *sys.argv[1:]])}


def head(facts, starts):
    rate = f"{facts['bytes'] / 1e6:,.1f} MB, SHA-256 `{facts['sha256'][:16]}…`"
    peers = ", ".join(f"{name} {found}" for name, found in facts["peers"].items() if found)
    memory = f"{(facts['memory'] or 0) / 1e9:.0f} GB"
    lines = [f"- {facts['date']}, {facts['bomsync']}, commit {facts['commit']}, {facts['compiler']}",
             f"- {facts['cpu']}, {facts['cores']} cores, {memory}, Linux {facts['kernel']}; load {facts['load_before']:.2f} before",
             f"- data: {facts['lines']:,} lines, {rate}; {facts['workers']} workers, {facts['runs']} runs, median (least..most) in seconds",
             f"- peers: {peers}",
             f"- command: `{facts['command']}`"]
    if starts:
        paid = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in starts.items())
        lines.append(f"- what peers in Python pay for their start, in each run: {paid}")
    if facts["load_before"] > 0.3 * facts["cores"]:
        lines.append("- **The machine was not quiet: others had its cores before the run began.**")
    if facts["lines"] < 1_000_000:
        lines.append("- **This size shows that the cases run. It says little about speed: starting a process is most of it.**")
    return lines


def seconds_text(timing):
    digits = 4 if timing.median < 0.1 else 3
    return f"{timing.median:.{digits}f} ({timing.least:.{digits}f}..{timing.most:.{digits}f})"


def memory_text(row):
    def one(timing):
        return f"{timing.memory / 1e6:.0f}" if timing and timing.memory is not None else "-"
    return "" if not row.ours and not row.theirs else f"{one(row.ours)} / {one(row.theirs)}"


def ratio_text(row):
    if row.figure is None:
        return ""
    if row.goal:
        return row.goal.shown(row.figure)
    if row.kind != RIVAL:
        return f"{row.figure:.3g} ×"
    return f"{row.figure:.3g} × faster" if row.figure >= 1 else f"{1 / row.figure:.3g} × slower"


def cells(row):
    ours = seconds_text(row.ours) if row.ours else row.ours_text
    theirs = seconds_text(row.theirs) if row.theirs else row.theirs_text
    verdict = f"**{row.verdict}**" if row.verdict.startswith((NOT_MET, ERROR)) or "peer wins" in row.verdict else row.verdict
    return [row.job or row.case, ours, row.against, theirs, ratio_text(row), str(row.goal) if row.goal else "", verdict, memory_text(row)]


def table(rows):
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells(row)) + " |" for row in rows]


def summary(rows):
    met = sum(r.verdict.startswith("met") for r in rows)
    missed = [r for r in rows if r.verdict.startswith(NOT_MET)]
    unknown = sum(bool(r.goal) and r.verdict.startswith("not measured") for r in rows)
    wins = [f"{r.job} ({r.against})" for r in rows if "peer wins" in r.verdict]
    lines = [f"Goals: {met} met, {len(missed)} not met, {unknown} not measured."]
    if wins:
        lines.append("A peer is faster in: " + "; ".join(wins) + ".")
    return lines


def markdown(facts, starts, rows):
    return "\n".join(["# bomsync beside its peers", "", *head(facts, starts), "", *table(rows), "", *summary(rows), ""])


def as_json(facts, bench, points):
    return json.dumps({**facts, "rows": [r.as_json() for r in bench.rows], "stages": bench.stages, "series": getattr(bench, "series", None),
                       "rates": getattr(bench, "rate_points", None), "sizes": points}, indent=1, ensure_ascii=False) + "\n"
