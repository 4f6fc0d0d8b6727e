#!/usr/bin/env python3
"""Python's csv reader as the judge of cut and parse.

Compiles the two stages into a shared library in a temporary folder, feeds both sides random soups of the bytes that matter,
and compares where records end, how many there are, and every field.

    fuzz_csv.py [--count SOUPS] [--seed N]
"""
import argparse
import csv
import ctypes as C
import glob
import io
import os
import random
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
X86 = os.uname().machine in ("x86_64", "AMD64")
SMALL = ["-mbmi", "-mbmi2", "-mpclmul", "-mlzcnt", "-mpopcnt"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"] + SMALL
FLAGS = {"avx2": ["-mavx2"] + SMALL, "avx512": AVX512, "vbmi2": AVX512 + ["-mavx512vbmi", "-mavx512vbmi2"]}
MARGIN = 64


class Dialect(C.Structure):
    _fields_ = [("delimiter", C.c_char), ("quote", C.c_char), ("lenient", C.c_bool)]


class Options(C.Structure):
    _fields_ = [("dialect", Dialect), ("records", C.c_uint32), ("least", C.c_uint32), ("isa", C.c_int)]


class Cut(C.Structure):
    _fields_ = [("bytes", C.c_size_t), ("records", C.c_uint32), ("blanks", C.c_uint32), ("flags", C.c_uint32)]


class Buf(C.Structure):
    _fields_ = [("data", C.POINTER(C.c_uint8)), ("len", C.c_size_t), ("cap", C.c_size_t)]


U32, U64 = C.POINTER(C.c_uint32), C.POINTER(C.c_uint64)


class Rows(C.Structure):  # bsi_rows of flow/rows.h, member by member
    _fields_ = [("count", C.c_uint32), ("cap", C.c_uint32), ("kh", U64), ("rh", U64), ("raw", U32), ("image", U32), ("body", U32),
                ("key", U32), ("starts", C.c_void_p), ("bad", C.POINTER(C.c_uint8)), ("enc", Buf), ("bads", C.c_void_p), ("bad_count", C.c_uint32),
                ("bad_cap", C.c_uint32), ("blanks", C.c_uint32), ("only", C.c_uint64), ("scratch", C.c_void_p)]


class Slots(C.Structure):
    _fields_ = [("name", C.c_void_p), ("count", C.c_uint32), ("key_count", C.c_uint32), ("partition", C.c_int32), ("order", C.c_void_p)]


class Field(C.Structure):
    _fields_ = [("p", C.c_void_p), ("len", C.c_uint32), ("null", C.c_bool)]


def build(folder):
    objects = []
    for stage in ("core", "cut", "parse"):
        for source in sorted(glob.glob(os.path.join(ROOT, "engine", stage, "*.c"))):
            stem = os.path.basename(source)[:-2]
            isa = stem.rsplit("_", 1)[-1]
            target = os.path.join(folder, stem + ".o")
            subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-fPIC", "-I" + os.path.join(ROOT, "include"),
                            "-I" + os.path.join(ROOT, "engine"), "-c", source, "-o", target] + (FLAGS.get(isa, []) if X86 else []), check=True)
            objects.append(target)
    library = os.path.join(folder, "cut_parse.so")
    subprocess.run(["cc", "-shared", "-o", library] + objects + ["-lcrypto", "-lpthread"], check=True)
    return C.CDLL(library)


def isas(lib):
    for number, name in enumerate((b"scalar", b"avx2", b"avx512")):
        if lib.bsi_isa_choose(C.byref(C.c_int()), name, None) == 0:
            yield number


def padded(data, behind):
    return C.create_string_buffer(data + behind * MARGIN, len(data) + MARGIN)


def cut(lib, dialect, isa, data, target, behind):
    """(bytes, records) of each block."""
    room, at, out = padded(data, behind), 0, []
    options, c = Options(dialect, target, (target + 1) // 2, isa), Cut()
    while at < len(data):
        got = lib.bsi_cut_block(C.byref(c), C.byref(options), C.byref(room, at), C.c_size_t(len(data) - at), C.c_bool(True))
        assert got == 1 and c.bytes, (got, c.bytes)
        out.append((data[at:at + c.bytes], c.records, c.flags))
        at += c.bytes
    return out


def reader(data, delimiter, quote):
    args = dict(quotechar=quote) if quote else dict(quoting=csv.QUOTE_NONE)
    return [r for r in csv.reader(io.StringIO(data.decode("latin-1"), newline=""), delimiter=delimiter, strict=False, **args) if r]


def soup(random_, letters):
    out = bytearray()
    for _ in range(random_.randrange(0, 260)):
        out.append(random_.choice(letters))
        if random_.random() < 0.02:
            out += b"x" * random_.randrange(0, 80)
    return bytes(out)


def layout(lib, dialect, columns):
    names = (C.c_char_p * columns)(*[b"c%d" % i for i in range(columns)])
    slots, out = Slots(partition=-1), C.c_void_p()
    got = lib.bsi_layout_open(C.byref(out), C.byref(slots), C.byref(dialect), names, C.c_uint32(columns), names, C.c_uint32(1), None, None,
                              C.c_uint32(0), None, C.c_uint32(0), None)
    assert got == 0
    return out


def parse(lib, rows, made, columns, data, behind):
    room, secret = padded(data, behind), bytes(192)
    lib.bsi_parse_block(C.byref(rows), made, secret, room, C.c_size_t(len(data)), C.c_bool(False))
    fields, out = (Field * columns)(), []
    base = C.addressof(rows.enc.data.contents)
    for i in range(rows.count):
        if rows.bad[i]:
            out.append(None)
            continue
        image = base + rows.image[i]
        assert lib.bsi_image_fields(fields, C.c_uint32(columns), C.c_void_p(image), rows.body[i], rows.image[i + 1] - rows.image[i],
                                    C.c_uint32(columns))
        out.append([C.string_at(f.p, f.len).decode("latin-1") if f.len else "" for f in fields])
    return out


def compare(lib, random_, rows, isa):
    """One soup; returns how many records were compared field by field."""
    taken = 0
    delimiter, quote = random_.choice(((",", '"'), (",", '"'), (";", "'"), ("\t", None)))
    letters = (delimiter + (quote or '"') + "\r\n a").encode() + random_.choice((b"", b'"', b"aaaaaaaaaaaaaaaa", b",,,,"))
    data, behind = soup(random_, letters), random_.choice((b'"', b"\n", b",", b"x"))
    want = reader(data, delimiter, quote)
    dialect = Dialect(delimiter.encode(), (quote or "\0").encode(), True)
    single = cut(lib, dialect, isa, data, 1, behind)
    assert sum(r for _, r, _ in single) == len(want), data
    record = [r for block, _, _ in single for r in reader(block, delimiter, quote)]
    assert record == want, (data, single)
    columns = max((len(r) for r in want), default=1)
    columns = random_.choice((columns, 1, 2, 3))
    made = layout(lib, dialect, columns)
    lib.bsi_parse_use_isa(isa)
    at = 0
    for block, count, flags in cut(lib, dialect, isa, data, random_.choice((1, 2, 12)), behind):
        if flags & 8:
            continue                      # the file ends inside quotes: refused before parse
        got = parse(lib, rows, made, columns, block, behind)
        assert len(got) == count, (data, block)
        for i, fields in enumerate(got):
            right = want[at + i]
            assert (fields == right) if len(right) == columns and right[0] else fields is None, (data, fields, right)
            taken += fields is not None
        at += count
    lib.bsi_layout_close(made)
    return taken


def main():
    p = argparse.ArgumentParser(prog="fuzz_csv")
    p.add_argument("--count", type=int, default=10000, help="soups for each instruction set of this machine")
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    taken = passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        lib = build(folder)
        lib.bsi_image_fields.restype = C.c_bool
        rows = Rows()
        for isa in isas(lib):
            random_ = random.Random(o.seed)
            try:
                for n in range(o.count):
                    taken += compare(lib, random_, rows, isa)
                passed += 1
            except AssertionError as e:
                failed += 1
                print("FAIL  %s, soup %d, seed %d: %s" % (("scalar", "avx2", "avx512")[isa], n, o.seed, e))
    print("%d soups for each of %d instruction sets, %d records compared field by field, seed %d" % (o.count, passed + failed, taken, o.seed))
    print("%d passed, %d failed, 0 skipped" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
