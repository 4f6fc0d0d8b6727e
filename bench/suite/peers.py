"""The programs that bomsync is held against: how to call them, and whether they are there.

Each function gives a Program, or a Missing that says how to get it. Floors (cat, wc, xxhsum, zstd -dc, the device) do less than
bomsync does: they are marks on a ruler. Rivals (DuckDB, Polars, qsv, diff, comm) answer the same question.
"""
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from suite.data import IGNORED, KEY
from suite.measure import Program

RUN = pathlib.Path(__file__).with_name("peer_run.py")
HOME = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bomsync-bench"
INSTALL = "bench/peers installs it"


@dataclasses.dataclass(frozen=True)
class Missing:
    name: str
    why: str


def counts_of_json(out):
    """(created, updated, deleted) of one of our own jobs."""
    found = json.loads(out)
    return tuple(found) if found else None


def lines_of(less=0):
    """Counts for programs that print differing lines or their number: an update is two of them."""
    def count(out):
        text = out.strip()
        return (int(text) if text.isdigit() else out.count(b"\n")) - less
    return count


def shell(command):
    return ["bash", "-c", "set -o pipefail; " + command]


class Peers:
    def __init__(self, folder, threads, home=HOME, without=()):
        self.folder, self.threads, self.without = folder, threads, set(without)
        own = home / "venv" / "bin" / "python"
        self.python = str(own) if own.exists() else sys.executable
        self.home = home
        self.versions = {name: self.version(name) for name in ("duckdb", "polars")}

    # What is there

    def version(self, module):
        if module in self.without:
            return None
        done = subprocess.run([self.python, RUN, "version", json.dumps({"module": module})], capture_output=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def tool(self, name):
        if name in self.without:
            return None
        own = self.home / "bin" / name
        return str(own) if own.exists() else shutil.which(name)

    def all_versions(self):
        """For the head of a report: a line of each program, or None."""
        found = dict(self.versions)
        for name, option in (("qsv", "--version"), ("fio", "--version"), ("xxhsum", "--version"), ("zstd", "--version"), ("diff", "--version"),
                             ("sort", "--version"), ("wc", "--version"), ("gzip", "--version")):
            tool = self.qsv_tool() if name == "qsv" else self.tool(name)
            done = subprocess.run([tool, option], capture_output=True, text=True) if tool else None
            number = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr) if done else None
            found[name] = number.group() if number else None
        return found

    def start_seconds(self, module, execute):
        """What an import alone costs, since rivals in Python pay it in each run."""
        if not self.versions[module]:
            return None
        argv = [self.python, str(RUN), "none", json.dumps({"module": module})]
        return min(execute(argv)[0] for _ in range(3))

    # Floors

    def cat(self, file):
        return Program("cat", shell(f"cat {quoted(file)} >/dev/null"))

    def wc(self, file):
        return Program("wc -l", ["wc", "-l", file])

    def xxhsum(self, file):
        return Program("xxhsum -H2", ["xxhsum", "-H2", file]) if self.tool("xxhsum") else Missing("xxhsum -H2", f"not there: {INSTALL}")

    def unpack(self, tool, file):
        """zstd -dc or gzip -dc of the same file."""
        name = f"{tool} -dc"
        return Program(name, shell(f"{tool} -dc {quoted(file)} >/dev/null")) if self.tool(tool) else Missing(name, f"not there: {INSTALL}")

    def device(self, file):
        """fio tells the seconds itself: its own start takes longer than the read of a small file."""
        name = "fio, io_uring, depth 32"
        if not self.tool("fio"):
            return Missing(name, f"not there: {INSTALL}")
        argv = ["fio", "--name=cold", f"--filename={file}", "--readonly", "--rw=read", "--bs=1M", "--ioengine=io_uring", "--iodepth=32", "--direct=1",
                "--output-format=json"]

        def seconds(out):
            # Warnings may stand before the JSON. Its clock counts whole milliseconds: too coarse below some 100 MB.
            read = json.loads(out[out.index(b"{"):])["jobs"][0]["read"]
            return read["io_bytes"] / read["bw_bytes"]
        return Program(name, argv, seconds=seconds)

    # Rivals

    def python_job(self, title, module, job, before=None, key=KEY, **options):
        if not self.versions[module]:
            return Missing(title, f"not there: {INSTALL}")
        tmp = self.folder / "peer-tmp"
        tmp.mkdir(exist_ok=True)
        given = {"key": key.split(","), "ignore": [IGNORED], "threads": self.threads, "tmp": str(tmp), **{k: str(v) for k, v in options.items()}}
        argv = [self.python, RUN, job, json.dumps(given)]
        env = {"POLARS_MAX_THREADS": str(self.threads)}
        return Program(title, argv, before=before, counts=counts_of_json, env=env)

    def database(self, name="peer"):
        return self.folder / f"{name}.duckdb"

    def duckdb_on_table(self, title, job, old, **options):
        """The table is loaded here, untimed: it is to DuckDB what the store is to bomsync."""
        program = self.python_job(title, "duckdb", job, old=old, database=self.database(), **options)
        if isinstance(program, Program):
            load = self.python_job("", "duckdb", "duckdb-load", old=old, database=self.database())
            self.database().unlink(missing_ok=True)
            subprocess.run(load.command(), check=True, capture_output=True)
        return program

    def duckdb_stored(self, old, new):
        return self.duckdb_on_table("DuckDB, stored table", "duckdb-stored", old, new=new)

    def duckdb_export(self, old, target):
        return self.duckdb_on_table("DuckDB, COPY in the order of the key", "duckdb-export", old, copy=target)

    def duckdb_join(self, old, new):
        return self.python_job("DuckDB, both files", "duckdb", "duckdb-join", old=old, new=new)

    def duckdb_load(self, old):
        return self.python_job("DuckDB, CREATE TABLE", "duckdb", "duckdb-load", self.forget_database, old=old, database=self.database())

    def duckdb_chunks(self, old):
        return self.python_job("DuckDB, and COPY to zstd JSON", "duckdb", "duckdb-chunks", self.forget_database, old=old, database=self.database(),
                               copy=self.folder / "peer.json.zst")

    def forget_database(self):
        for path in self.folder.glob("peer.duckdb*"):
            path.unlink()
        (self.folder / "peer.json.zst").unlink(missing_ok=True)

    def polars_join(self, old, new):
        return self.python_job("Polars, both files", "polars", "polars-join", old=old, new=new)

    def qsv_tool(self):
        return None if "qsv" in self.without else self.tool("qsv") or self.tool("qsvlite")

    def qsv_diff(self, old, new):
        tool = self.qsv_tool()
        if not tool:
            return Missing("qsv diff", "not there: bench/peers --with qsv")
        with open(old) as f:
            columns = [c.strip('"') for c in f.readline().rstrip("\n").split(",")]
        key = ",".join(str(columns.index(k)) for k in KEY.split(","))
        return Program("qsv diff", [tool, "diff", "--key", key, "--jobs", self.threads, old, new], counts=lines_of(less=1))

    def gnu_diff(self, old, new):
        """Into a pipe: diff ends early where its output goes to /dev/null. It does not promise the fewest lines, so they are not checked."""
        return Program("diff", shell(f"diff {quoted(old)} {quoted(new)} | wc -l"), codes=(0, 1))

    def comm(self, old, new):
        sort = f"sort --parallel={self.threads} -T {quoted(self.folder)}"
        command = f"comm -3 <({sort} {quoted(old)}) <({sort} {quoted(new)}) | wc -l"
        return Program("sort, comm", shell(command), counts=lines_of(), env={"LC_ALL": "C"})


def quoted(path):
    return shlex.quote(str(path))


def same_counts(found, expected):
    """found: (created, updated, deleted), or a number of lines; None tells nothing."""
    if found is None:
        return True
    created, updated, deleted = expected
    return found == created + 2 * updated + deleted if isinstance(found, int) else tuple(found) == tuple(expected)
