"""The main cases: one job each, with its goals. A case's name, its function's first line, and its rows belong together."""
import shutil

from suite.bench import Against, FLOOR, SELF, Skip
from suite.data import IGNORED, KEY, forget, shuffled, volatile, warm
from suite.goals import Goal, faster, times
from suite.measure import Program, execute

RANDOM, RANDOM1, RANDOM5, CLUSTERED = "b=0.1", "b=1", "b=5", "c=1"
OPTIONS = {"standard": (), "keys last": ("--key-position", "last"), "quoted": ("--quoting", "all"), "50-byte rows": ("--row-bytes", "50"),
           "100-byte rows": ("--row-bytes", "100"), "300-byte rows": ("--row-bytes", "300")}
NOTHING = (0, 0, 0)
NARROW_LINES = 1_000_000


def pair(bench, change, shape="standard", lines=None):
    return bench.data.pair(shape.replace(" ", "-"), change, *OPTIONS[shape], lines=lines)


def old_of(bench, shape="standard", lines=None):
    return bench.data.old(shape.replace(" ", "-"), *OPTIONS[shape], lines=lines)


def base_of(bench, shape="standard"):
    return bench.data.base_store(old_of(bench, shape))


# The snapshot that is stored comes once more, or with changes


def unchanged(bench):
    """Sync, nothing changed."""
    old, p = old_of(bench), bench.peers
    others = [Against(p.wc(old), times(1.0), FLOOR), Against(p.cat(old), kind=FLOOR), Against(p.xxhsum(old), kind=FLOOR)]
    sync = bench.sync(base_of(bench), old)
    bench.compare("unchanged", "sync, nothing changed", sync, NOTHING, others)
    bench.keep_stages("unchanged", sync)


def clustered(bench):
    """Sync, 1 % changed in clusters."""
    old, new, counts = pair(bench, CLUSTERED)
    others = [Against(bench.peers.wc(new), times(1.5), FLOOR), Against(bench.peers.duckdb_stored(old, new))]
    sync = bench.sync(base_of(bench), new)
    bench.compare("clustered", "sync, 1 % changed in clusters", sync, counts, others)
    bench.keep_stages("clustered", sync)


def scattered(bench, case, change, title, goal):
    old, new, counts = pair(bench, change)
    sync = bench.sync(base_of(bench), new)
    bench.compare(case, title, sync, counts, [Against(bench.peers.duckdb_stored(old, new), goal)])
    bench.keep_stages(case, sync)


def random01(bench):
    """Sync, 0.1 % changed anywhere."""
    scattered(bench, "random", RANDOM, "sync, 0.1 % changed at random", faster(40))


def random1(bench):
    """Sync, 1 % changed anywhere."""
    scattered(bench, "random1", RANDOM1, "sync, 1 % changed at random", faster(15))
    bench.data.drop_pair("standard", RANDOM1)


def random5(bench):
    """Sync, 5 % changed anywhere."""
    scattered(bench, "random5", RANDOM5, "sync, 5 % changed at random", None)
    bench.data.drop_pair("standard", RANDOM5)


def shuffle_of(bench):
    """The stored snapshot in random order; kept for the case of two workers."""
    path = bench.folder / "shuffled.csv"
    if not path.exists():
        shuffled(old_of(bench), path)
        warm(path)
    return path


def in_random_order(bench):
    """Sync, records in random order."""
    old, new = old_of(bench), shuffle_of(bench)
    sync = bench.sync(base_of(bench), new)
    bench.compare("shuffled", "sync, records in random order", sync, NOTHING, [Against(bench.peers.duckdb_stored(old, new), faster(10))])
    bench.keep_stages("shuffled", sync)


def volatile_column(bench):
    """Sync, the export time on each line ignored."""
    old, new, counts = pair(bench, RANDOM)
    before, after = bench.folder / "volatile-old.csv", bench.folder / "volatile-new.csv"
    volatile(old, before, "2026-01-02")
    volatile(new, after, "2026-01-03")
    warm(before, after)
    base = bench.data.base_store(before, "--ignore", IGNORED)
    sync = bench.sync(base, after)
    bench.compare("volatile", "sync, 0.1 % changed, a volatile column ignored", sync, counts,
                  [Against(bench.peers.duckdb_stored(before, after), faster(10))])
    bench.keep_stages("volatile", sync)
    bench.data.drop_stores(before)
    bench.data.drop(before, after)


# The first load


def first(bench):
    """First load, --baseline."""
    old = old_of(bench)
    load = bench.first(old, "--baseline")
    bench.compare("first", "first load, `--baseline`", load, (bench.lines, 0, 0),
                  [Against(bench.peers.duckdb_load(old), faster(5))])
    bench.keep_stages("first", load, "first")
    bench.peers.forget_database()


def chunks(bench):
    """First load, all chunks written."""
    old = old_of(bench)
    load = bench.first(old)
    bench.compare("chunks", "first load, all chunks written", load, (bench.lines, 0, 0),
                  [Against(bench.peers.duckdb_chunks(old), faster(3.5))])
    bench.keep_stages("chunks", load, "first")
    bench.peers.forget_database()
    bench.data.drop(bench.folder / "first")


# Two files, no store


def diff(bench):
    """Diff of two files, 0.1 % changed."""
    old, new, counts = pair(bench, RANDOM)
    p = bench.peers
    others = [Against(p.duckdb_join(old, new), faster(30)), Against(p.polars_join(old, new)), Against(p.qsv_diff(old, new), faster(10)),
              Against(p.gnu_diff(old, new)), Against(p.comm(old, new))]
    bench.compare("diff", "`diff` of two files, 0.1 % changed", bench.diff(old, new, KEY), counts, others)


def diff_in_random_order(bench):
    """Diff of two files, one of them in another order, as two systems export them."""
    _, changed, counts = pair(bench, RANDOM)  # updates alone: the same in either direction
    shuffle, p = shuffle_of(bench), bench.peers
    others = [Against(p.duckdb_join(changed, shuffle)), Against(p.polars_join(changed, shuffle)), Against(p.qsv_diff(changed, shuffle))]
    bench.compare("diff-shuffled", "`diff` of two files, 0.1 % changed, one in random order", bench.diff(changed, shuffle, KEY), counts, others)


def narrow(bench):
    """Diff of two files of 9 columns."""
    lines = min(bench.lines, NARROW_LINES)
    old, new, counts = pair(bench, RANDOM, "50-byte rows", lines)
    p = bench.peers
    others = [Against(p.duckdb_join(old, new), faster(30)), Against(p.polars_join(old, new)), Against(p.qsv_diff(old, new), faster(10)),
              Against(p.gnu_diff(old, new)), Against(p.comm(old, new))]
    bench.compare("narrow", f"`diff` of two files, {lines:,} lines × 9 columns", bench.diff(old, new, KEY), counts, others)


# Where the snapshot comes from


def cold(bench):
    """Cold cache, nothing changed."""
    old, base = old_of(bench), base_of(bench)
    sync, how = bench.sync(base, old), []
    fresh = sync.before

    def emptied():
        how.append(forget([old, bench.folder / "copy"], not bench.o.quick))  # tests leave the caches of the rest of the machine alone

    def before():
        fresh()
        emptied()
    sync.before = before
    device = bench.peers.device(old)
    if isinstance(device, Program):
        device.before = emptied
    goal = Goal(">=", 0.9, "of its rate")
    emptied()
    bench.compare("cold", f"cold cache ({how[0]}), nothing changed", sync, NOTHING,
                  [Against(device, goal, FLOOR, figure=lambda ours, theirs: theirs / ours)])
    warm(old)


def compressed(bench, tool, argv, suffix):
    old = old_of(bench)
    path = bench.folder / f"old.csv{suffix}"
    if not shutil.which(tool):
        raise Skip(f"{tool} is not there: bench/peers installs it")
    execute([*argv, str(old)], stdout=open(path, "wb"))
    warm(path)
    return path


def zstd(bench):
    """Zstd input, one frame, nothing changed."""
    path = compressed(bench, "zstd", ["zstd", "-q", "-c"], ".zst")
    bench.compare("zstd", "zstd input, one frame, nothing changed", bench.sync(base_of(bench), path), NOTHING,
                  [Against(bench.peers.unpack("zstd", path), times(1.1), FLOOR)])
    bench.data.drop(path)


def gzip(bench):
    """Gzip input, nothing changed."""
    path = compressed(bench, "gzip", ["gzip", "-n", "-c"], ".gz")
    bench.compare("gzip", "gzip input, nothing changed", bench.sync(base_of(bench), path), NOTHING,
                  [Against(bench.peers.unpack("gzip", path), kind=FLOOR)])
    bench.data.drop(path)


def packed(bench):
    """Snapshot packed by bomsync, nothing changed."""
    goal = times(0.2)
    try:
        bench.data.call("help", "pack")
    except RuntimeError:
        bench.not_measured("packed", "snapshot packed by bomsync, nothing changed", "this bomsync has no command pack", goal, "zstd -dc")
        raise Skip("this bomsync has no command pack") from None
    path = bench.folder / "packed.csv.zst"
    bench.data.call("pack", old_of(bench), "-o", path)
    warm(path)
    base = bench.data.base_store(path)
    bench.compare("packed", "snapshot packed by bomsync, nothing changed", bench.sync(base, path), NOTHING,
                  [Against(bench.peers.unpack("zstd", path), goal, FLOOR)])
    bench.data.drop_stores(path)
    bench.data.drop(path)


# More cores


def workers(bench):
    """Two workers against one."""
    if bench.o.cores < 2:
        raise Skip("one core")
    old, new, counts = pair(bench, RANDOM)
    base = base_of(bench)
    jobs = (("first load", 1.8, (bench.lines, 0, 0), lambda n: bench.first(old, "--baseline", workers=n)),
            ("shuffled", 1.8, NOTHING, lambda n: bench.sync(base, shuffle_of(bench), workers=n)),
            ("diff", 1.8, counts, lambda n: bench.diff(old, new, KEY, workers=n)),
            ("unchanged", 1.6, NOTHING, lambda n: bench.sync(base, old, workers=n)))
    for job, bound, found, program in jobs:
        one = program(1)
        one.name = "bomsync, 1 worker"
        bench.compare("workers", f"2 workers, {job}", program(2), found, [Against(one, faster(bound), SELF)])


MAIN = {"unchanged": unchanged, "clustered": clustered, "random": random01, "random1": random1, "random5": random5,
        "shuffled": in_random_order, "volatile": volatile_column, "first": first, "chunks": chunks, "diff": diff, "diff-shuffled": diff_in_random_order,
        "narrow": narrow, "cold": cold, "zstd": zstd, "gzip": gzip, "packed": packed, "workers": workers}
