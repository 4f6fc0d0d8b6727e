"""Cases about something else than one job beside one peer: disk, age, size, shape, mixes of changes, real data."""
import csv
import json
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile

from suite.bench import Against, Bench, FLOOR, RIVAL, SELF, Skip, Wrong, talk
from suite.cases import CLUSTERED, MAIN, NOTHING, OPTIONS, RANDOM, base_of, old_of, pair, shuffle_of
from suite.data import KEY, disk_bytes, feed, shuffled, touched, warm
from suite.goals import Goal, times
from suite.measure import check_run, execute
from suite.peers import same_counts

GENERATIONS = 10
SERIES, SERIES_QUICK = 200, 12
MIXES = {"a": "nothing", "b": "0.1 % anywhere", "c": "1 % in clusters", "d": "7 % in clusters", "e": "one column on each record",
         "f": "1 % with new keys", "g": "another order", "h": "half of the file"}
RATES = (0, 0.01, 0.1, 1, 5, 20)
DATASETS = pathlib.Path(__file__).resolve().parents[2] / "datasets"
MEGABYTE = 1e6
SCALE_BYTES_PER_LINE = 450  # three snapshots, two stores, and a copy


def in_megabytes(count):
    return f"{count / MEGABYTE:.1f} MB"


def disk(bench):
    """Store on disk against the raw snapshot."""
    for shape, bound in (("100-byte rows", 0.5), ("50-byte rows", 0.75)):
        old = old_of(bench, shape)
        raw, stored = old.stat().st_size, disk_bytes(base_of(bench, shape))
        bench.value("disk", f"store after a baseline, {shape}", times(bound), stored / raw, in_megabytes(stored), "raw snapshot", in_megabytes(raw))
    aged(bench, "100-byte rows")
    bench.data.drop_shape("100-byte-rows", *OPTIONS["100-byte rows"])


def aged(bench, shape):
    """Ten generations of 0.1 %, then gc: once with all of them kept, once with the last alone."""
    old = old_of(bench, shape)
    raw, store = old.stat().st_size, bench.data.fresh(base_of(bench, shape), "aged")
    now, following = bench.folder / "step-0.csv", bench.folder / "step-1.csv"
    shutil.copyfile(old, now)
    for step in range(GENERATIONS):
        changed = touched(now, following, 0.001, step)
        sync_checked(bench, store, following, changed)
        now, following = following, now
    for keep, goal in ((GENERATIONS, None), (1, times(0.6))):
        bench.data.call("gc", "--store", store, "--keep", keep, "-q")
        stored = disk_bytes(store)
        bench.value("disk", f"store after {GENERATIONS} generations of 0.1 % and `gc --keep {keep}`", goal, stored / raw, in_megabytes(stored),
                    "raw snapshot", in_megabytes(raw))
    bench.data.call("verify", "--store", store, "-q")
    bench.data.drop(store, now, following)


def sync_checked(bench, store, snapshot, changed):
    """Seconds of one sync that must find just these updates."""
    argv = [*bench.data.bomsync, "sync", "--json", "-q", "--store", str(store), "--complete", *bench.workers(), str(snapshot)]
    seconds, out, _ = execute(argv, stdout=subprocess.PIPE)
    found = json.loads(out)
    if (found["created"], found["updated"], found["deleted"]) != (0, changed, 0):
        raise Wrong(f"generation {found['generation']}: {found['updated']} updated, {changed} lines were changed")
    return seconds


def nights(bench, store, files, steps):
    """Seconds of one sync after the other, each of the file before with 0.1 % changed."""
    seconds = []
    for step in steps:
        changed = touched(*files, 0.001, step)
        subprocess.run(["sync", "-f", files[1]], check=True)  # its own writing must not fall into the time of the sync
        seconds.append(sync_checked(bench, store, files[1], changed))
        files.reverse()
    return seconds


def series(bench):
    """Later generations against early ones, and those after gc made whole what all of them had patched."""
    count = SERIES_QUICK if bench.o.quick else SERIES
    lines = max(1000, bench.lines // 10)
    old = old_of(bench, lines=lines)
    store = bench.data.fresh(bench.data.base_store(old), "series")
    files = [bench.folder / "step-0.csv", bench.folder / "step-1.csv"]
    shutil.copyfile(old, files[0])
    seconds = nights(bench, store, files, range(count - 1))  # the baseline is the first generation
    early, late = statistics.median(seconds[:5]), statistics.median(seconds[-5:])
    bench.value("series", f"generation {count} against the 2nd, {lines:,} lines, 0.1 % each", times(1.1), late / early,
                f"{late:.4f} s (last 5)", "generations 2 to 6", f"{early:.4f} s")
    bench.data.call("gc", "--store", store, "--keep", 1, "-q")
    after = statistics.median(nights(bench, store, files, range(count - 1, count + 4)))
    bench.value("series", "five more generations, after `gc --keep 1`", times(1.1), after / early, f"{after:.4f} s", "generations 2 to 6", f"{early:.4f} s")
    bench.series = seconds
    bench.data.drop(store, *files)


def lines_where(source, target, wanted):
    """The header, and the lines (by number, from 1) that wanted() gives back; None leaves one out."""
    with open(source, "rb") as f, open(target, "wb") as out:
        out.write(f.readline())
        for number, line in enumerate(f, 1):
            line = wanted(number, line)
            if line:
                out.write(line)
    return target


def parts(bench):
    """What comes in other ways than as all of it: one plant, some records, some that are broken, what changed in front."""
    old, p = old_of(bench), bench.peers
    base = base_of(bench)
    names = ["plant.csv", "some.csv", "some-changed.csv", "broken.csv", "front.csv"]
    plant, some, changed, broken, front = (bench.folder / name for name in names)
    lines_where(old, plant, lambda n, line: line if line.startswith(b"1000,") else None)
    lines_where(old, some, lambda n, line: line if n % 1000 == 0 else None)
    count = touched(some, changed, 0.5, 1)
    lines_where(old, broken, lambda n, line: line if n % 1000 else line.split(b",", 8)[0] + b",broken\n")
    bad = bench.data.folder / "store-broken"
    bench.data.call("init", "--store", bad)
    bench.data.call("sync", "-q", "--store", bad, *feed(), "--baseline", broken, codes=(0, 4, 5))
    in_front(old, front)
    warm(plant, some, changed, broken, front)
    bench.compare("parts", "sync --scope of one plant of four, nothing changed", bench.sync(base, "--scope", "partition=1000", plant), NOTHING,
                  [Against(p.wc(plant), kind=FLOOR)])
    bench.compare("parts", f"sync --mode upsert of {bench.lines // 1000:,} records, half of them changed",
                  bench.sync(base, "--mode", "upsert", changed), (0, count, 0), [Against(p.wc(old), kind=FLOOR)])
    bench.compare("parts", "sync, nothing changed, 0.1 % broken as the night before", bench.sync(bad, broken, codes=(4, 5)), NOTHING,
                  [Against(p.wc(broken), kind=FLOOR)])
    bench.compare("parts", "sync, 1 % changed, and all of it in front", bench.sync(base, front), (0, bench.lines // 100, 0), [Against(p.wc(front), kind=FLOOR)])
    after = bench.data.fresh(base, "after-front")
    bench.data.call("sync", "-q", "--store", after, "--complete", front)
    bench.compare("parts", "that snapshot once more", bench.sync(after, front), NOTHING, [Against(p.wc(front), kind=FLOOR)])
    bench.data.drop(plant, some, changed, broken, front, bad, after, bench.folder / "copy")


def in_front(source, target):
    """Each hundredth record with another quantity, and in front, as in an export by the last change."""
    def changed(number, line):
        if number % 100:
            return None
        fields = line.split(b",", 8)  # those in front of qty hold no quotes
        return b",".join([*fields[:7], b"4711", fields[8]])

    lines_where(source, target, changed)
    with open(source, "rb") as f, open(target, "ab") as out:
        f.readline()
        out.writelines(line for number, line in enumerate(f, 1) if number % 100)


def export(bench):
    """The state as CSV, sorted by key."""
    old = old_of(bench)
    base, target, copy = base_of(bench), bench.folder / "export.csv", bench.folder / "peer.csv"
    count = f"{shlex.join(bench.data.bomsync)} export --store {shlex.quote(str(base))} | wc -l"
    ours = bench.bomsync("export", "--store", base, "-q", "-o", target, before=lambda: target.unlink(missing_ok=True), check=["sh", "-c", count],
                         counts=lambda out: (int(out) - 1, 0, 0))
    bench.compare("export", "export of all records, sorted by key", ours, (bench.lines, 0, 0), [Against(bench.peers.duckdb_export(old, copy))])
    bench.peers.forget_database()
    bench.data.drop(target, copy)


def mixes(bench):
    """The change mixes a to h of gen, each as a sync."""
    for mix, title in MIXES.items():
        old, new, counts = pair(bench, mix)
        found = check_run(bench.diff(old, new, KEY))  # without a guard: for mixes that a sync holds back
        if not same_counts(found, counts):
            raise Wrong(f"mix {mix}: diff counts {found}, gen's truth says {counts}")
        others = [Against(bench.peers.duckdb_stored(old, new))] if mix == "d" else []
        bench.compare("mixes", f"mix {mix}: {title}", bench.sync(base_of(bench), new, codes=(0, 5)), counts, others)
        bench.data.drop_pair("standard", mix)


def variant(bench, shape):
    """The main cases on another shape of rows, held against their own figures on the standard shape."""
    case = f"shape: {shape}"
    old, new, changed = pair(bench, RANDOM, shape)
    near, near_counts = pair(bench, CLUSTERED, shape)[1:]
    base, p = bench.data.base_store(old), bench.peers
    jobs = (("unchanged", bench.sync(base, old), NOTHING, lambda: p.wc(old), FLOOR),
            ("clustered", bench.sync(base, near), near_counts, lambda: p.wc(near), FLOOR),
            ("random", bench.sync(base, new), changed, lambda: p.duckdb_stored(old, new), RIVAL),
            ("first", bench.first(old, "--baseline"), (bench.lines, 0, 0), lambda: p.duckdb_load(old), RIVAL))
    for job, program, counts, peer, kind in jobs:
        bench.compare(case, f"{shape}: {job}", program, counts, [shape_goal(bench, job, peer(), kind)])
        bench.peers.forget_database()
    bench.data.drop_shape(shape.replace(" ", "-"), *OPTIONS[shape])
    bench.data.drop(bench.folder / "first")


def shape_goal(bench, job, peer, kind):
    """Ours ÷ theirs on this shape, divided by the same on the standard shape: at most 1.3."""
    standard = next((r for r in bench.rows if r.case == job and r.against == peer.name and r.theirs), None)
    if not standard:
        return Against(peer, None, kind)  # case not chosen, or the peer is not there
    usual = standard.ours.median / standard.theirs.median
    return Against(peer, Goal("<=", 1.3, "× the standard's ratio"), kind, figure=lambda ours, theirs: ours / theirs / usual)


def scale(bench):
    """Ten times the lines against ten times the time."""
    lines, space = bench.lines * 10, bench.lines * 10 * SCALE_BYTES_PER_LINE
    if shutil.disk_usage(bench.folder).free < space:
        raise Skip(f"needs {space / 1e9:.0f} GB of temporary space")
    old, new, counts = pair(bench, CLUSTERED)
    large, large_new, large_counts = pair(bench, CLUSTERED, lines=lines)
    base, large_base = base_of(bench), bench.data.base_store(large)

    def small(snapshot):
        return bench.sync(base, snapshot, copy="small")
    linear(bench, "unchanged", 1.1, bench.sync(large_base, large), NOTHING, small(old), NOTHING)
    linear(bench, "clustered", 1.1, bench.sync(large_base, large_new), large_counts, small(new), counts)
    bench.data.drop_pair("standard", CLUSTERED, lines)
    order = bench.folder / "shuffled-large.csv"
    shuffled(large, order)
    warm(order)
    linear(bench, "shuffled", 1.5, bench.sync(large_base, order), NOTHING, small(shuffle_of(bench)), NOTHING)
    bench.data.drop(order)
    linear(bench, "first load", 1.5, bench.first(large, "--baseline"), (lines, 0, 0), bench.first(old, "--baseline", copy="small"), (bench.lines, 0, 0))
    bench.data.drop(bench.folder / "first")
    bench.data.drop_shape("standard", lines=lines)


def linear(bench, title, bound, ours, counts, small, small_counts):
    """Ours works on ten times the lines of small: ten times its time would be linear."""
    small.name = f"10 × {bench.lines:,} lines"
    against = Against(small, Goal("<=", bound, "× linear"), SELF, lambda a, b: a / (10 * b), small_counts)
    bench.compare("scale", f"{bench.lines * 10:,} lines, {title}", ours, counts, [against])


# Real data


def real(bench):
    """Real snapshots: Debian's package lists as a bill of material."""
    out = bench.folder / "debian"
    done = subprocess.run([sys.executable, DATASETS / "make_debian.py", out], capture_output=True, text=True)
    old, new = out / "1" / "bom_line.csv", out / "2" / "bom_line.csv"
    if done.returncode or not new.exists():
        raise Skip(f"make_debian.py: {(done.stderr.strip().splitlines() or ['made no second snapshot'])[-1][:150]}")
    key = "plant,parent,relation,line,alternate"
    counts = plain_counts(old, new, key.split(","))
    title = f"Debian packages, {sum(1 for _ in open(new)):,} lines: `diff`"
    join = bench.peers.python_job("DuckDB, both files", "duckdb", "duckdb-join", old=old, new=new, key=key)
    warm(old, new)
    bench.compare("real", title, bench.diff(old, new, key), counts, [Against(join), Against(bench.peers.gnu_diff(old, new))])
    for other in ("make_ids.py", "make_kicad.py", "make_ldraw.py"):
        bench.not_measured("real", other, "apt offers one version, a pair takes a second one from another day")


def plain_counts(old, new, key):
    """(created, updated, deleted) by a dictionary: slow and easy to trust."""
    def records(path):
        with open(path, newline="", encoding="utf-8") as f:
            return {tuple(r[k] for k in key): {c: v for c, v in r.items() if v} for r in csv.DictReader(f)}
    a, b = records(old), records(new)
    both = a.keys() & b.keys()
    return len(b.keys() - both), sum(a[k] != b[k] for k in both), len(a.keys() - both)


# Series for plots


def rates(bench):
    """Time against change rate, from nothing to a fifth of the records."""
    bench.rate_points = []
    for rate in RATES:
        change = f"b={rate:g}" if rate else "a"
        old, new, counts = pair(bench, change)
        peer = bench.peers.duckdb_stored(old, new)
        mine = bench.compare("rates", f"{rate:g} % changed anywhere", bench.sync(base_of(bench), new), counts, [Against(peer)], min(3, bench.o.runs))
        row = bench.rows[-1]
        bench.rate_points.append({"rate": rate, "bomsync": mine.median, "duckdb": row.theirs.median if row.theirs else None})
        bench.data.drop_pair("standard", change)


def sizes(o, counts):
    """A few cases at each size, each with data of its own. Gives a list of {lines, case: seconds, peers}."""
    points = []
    for lines in o.sizes:
        with tempfile.TemporaryDirectory(prefix="bomsync-bench-", dir=o.tmp) as folder:
            bench = Bench(o, pathlib.Path(folder), lines)
            for case in ("unchanged", "clustered", "random", "diff", "first"):
                talk(f"{lines} lines: {case} ...")
                bench.run(case, MAIN[case])
            counts["failed"] += bench.failed
            points.append({"lines": lines, "rows": [r.as_json() for r in bench.rows]})
    return points


SHAPES = [s for s in OPTIONS if s not in ("standard", "100-byte rows")]


def of_shape(shape):
    def run(bench):
        variant(bench, shape)
    run.__doc__ = f"The main cases with {shape}."
    return run


MORE = {"disk": disk, "series": series, "parts": parts, "export": export, "mixes": mixes, **{s.replace(" ", "-"): of_shape(s) for s in SHAPES},
        "scale": scale, "real": real, "rates": rates}
ONLY_WHEN_ASKED = {"scale", "real", "rates"}
