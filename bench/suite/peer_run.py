#!/usr/bin/env python3
"""One job of a Python peer, as a process of its own: peer_run.py JOB OPTIONS(json). Prints the counts that the job finds.

    none          imports the module, does nothing: what a process costs before it starts to work
    version       of the module
    duckdb-load   CREATE TABLE from the file, in a database file
    duckdb-chunks the same, and COPY of it to zstd JSON lines
    duckdb-export COPY of the stored table to CSV, in the order of the key
    duckdb-stored the stored table full-joined with the file
    duckdb-join   both files full-joined
    polars-join   the same in Polars

Only the standard library is imported outside of a job, since start-up counts. Values are text, as they are to bomsync.
"""
import json
import sys


def csv_of(path):
    return f"read_csv('{path}', all_varchar=true, header=true)"


def attributes(path, o):
    with open(path) as f:
        columns = [c.strip('"') for c in f.readline().rstrip("\n").split(",")]
    return [c for c in columns if c not in o["key"] and c not in o["ignore"]]


def connect(o):
    import duckdb

    connection = duckdb.connect(o.get("database") or ":memory:")
    connection.execute(f"SET threads={o['threads']}")
    connection.execute("SET preserve_insertion_order=false")  # faster, and no job here asks for an order
    connection.execute(f"SET temp_directory='{o['tmp']}'")
    return connection


def duckdb_join(o, old):
    """Null, absent and empty are equal, as they are to bomsync: read_csv makes null of an empty field, is distinct from compares it."""
    key = o["key"]
    on = " and ".join(f'a."{k}" = b."{k}"' for k in key)
    differs = " or ".join(f'a."{c}" is distinct from b."{c}"' for c in attributes(o["new"], o))
    here, there = f'a."{key[0]}" is not null', f'b."{key[0]}" is not null'
    sql = (f"select count(*) filter (not {here}), count(*) filter ({here} and {there} and ({differs})), count(*) filter (not {there}) "
           f"from {old} a full join {csv_of(o['new'])} b on {on}")
    return connect(o).execute(sql).fetchone()


def duckdb_load(o):
    connection = connect(o)
    connection.execute(f"create or replace table old as select * from {csv_of(o['old'])}")
    return connection


def count_of(connection):
    return connection.execute("select count(*) from old").fetchone()[0], 0, 0


def duckdb_chunks(o):
    connection = duckdb_load(o)
    connection.execute(f"copy old to '{o['copy']}' (format json, compression zstd)")
    return count_of(connection)


def duckdb_export(o):
    connection = connect(o)
    key = ", ".join(f'"{k}"' for k in o["key"])
    connection.execute(f"copy (select * from old order by {key}) to '{o['copy']}' (format csv, header)")
    return count_of(connection)


def polars_join(o):
    import polars

    key = o["key"]

    def scan(path):
        return polars.scan_csv(path, infer_schema=False)

    old = scan(o["old"]).with_columns(polars.lit(True).alias("in_old"))
    new = scan(o["new"]).with_columns(polars.lit(True).alias("in_new"))
    joined = old.join(new, on=key, how="full", suffix=":new")
    here, there = polars.col("in_old").is_not_null(), polars.col("in_new").is_not_null()
    differs = polars.any_horizontal([polars.col(c).ne_missing(polars.col(c + ":new")) for c in attributes(o["new"], o)])
    counts = joined.select((~here).sum().alias("c"), (here & there & differs).sum().alias("u"), (~there).sum().alias("d"))
    return counts.collect(engine="streaming").row(0)


def job(name, o):
    if name == "none":
        __import__(o["module"])
        return None
    if name == "version":
        return __import__(o["module"]).__version__
    if name == "duckdb-load":
        return count_of(duckdb_load(o))
    if name == "duckdb-chunks":
        return duckdb_chunks(o)
    if name == "duckdb-export":
        return duckdb_export(o)
    if name == "duckdb-stored":
        return duckdb_join(o, "old")
    if name == "duckdb-join":
        return duckdb_join(o, csv_of(o["old"]))
    if name == "polars-join":
        return polars_join(o)
    sys.exit(f"no job {name}")


if __name__ == "__main__":
    print(json.dumps(job(sys.argv[1], json.loads(sys.argv[2]))))
