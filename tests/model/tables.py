"""Small random tables, changes of them, and the many ways to write one down as CSV."""
import random

# Texts as latin-1 (one character a byte), so "ü" of UTF-8 is two.


def u(text):
    return text.encode("utf-8").decode("latin-1")


PLAIN = ["", "a", "b", "0", "1", "1.0", "0.10", "0.1", "x1", "EA", "-", "=1+1", "+2", "@s", "NULL", "null", "N/A", " ", " lead", "trail ",
         "two words", "\t", "a\tb", "'", "|", ";", "\\", "\\n", "{\"", "[", "\x7f", "\x01", "\x1f", "\x1b[31m", "\x0b", "\x0c", "\x08",
         u("ü"), u("é"), u("e\u0301"), u("漢字"), u("😀"), u("\ufeff"), u("\u00a0"), u("\u2028"), u("\u0085"), "<script>", "../../etc/x"]
HARD = ["x,y", ",", "\"", "\"\"", "say \"hi\"", "12\" monitor", "1/2\" NPT", "line\nbreak", "cr\rhere", "crlf\r\nhere", "\n", "\r", "\r\n",
        "\n\n", "end\n", "\"\n\"", ",\n,", "\"a\",\"b\""]
LONG = ["y" * 63, "y" * 64, "z" * 65, "w" * 300, u("ü") * 40, "q\"" * 40, "n\n" * 50]


class Shape:
    """Columns of a table: which are its key, which one is the partition."""

    def __init__(self, rng, partition=None, columns=None):
        keys = rng.choice([1, 1, 2, 3])
        if partition and keys == 1:
            keys = 2
        count = columns or keys + rng.randrange(0, 6)
        names = ["c%d" % i for i in range(count)]
        if rng.random() < 0.2:
            for i in range(count):
                names[i] = rng.choice(["Col %d", "col,%d", "q\"%d", u("spälte%d"), "x%d"]) % i
        place = rng.sample(range(count), keys)
        # No commas or quotes in key columns: --key is a list with commas.
        for n, p in enumerate(place):
            names[p] = "k%d" % n if rng.random() < 0.8 else "Key no %d" % n
        self.names, self.key = names, [names[p] for p in place]
        self.partition = rng.choice(self.key) if partition else None
        self.partitions = rng.sample(["1000", "2000", "3000", "p/q", "..", "-rf", "A B", u("Wörk"), "_", "x" * 130], rng.choice([1, 2, 3, 5]))
        self.skew = rng.random()
        self.values = rng.sample(PLAIN, 12) + rng.sample(HARD, rng.choice([0, 3, 8])) + rng.sample(LONG, rng.choice([0, 0, 2]))
        self.wide_keys = rng.random() < 0.3
        self.next_key = 0


class Rows:
    """names: header; rows: list of lists of text."""

    def __init__(self, names, rows):
        self.names, self.rows = list(names), rows

    def copy(self):
        return Rows(self.names, [list(r) for r in self.rows])


def fresh_key(rng, shape):
    """A key that no table of this shape had: a counter is part of its last or first column."""
    shape.next_key += 1
    n = shape.next_key
    key = []
    for c in shape.key:
        if c == shape.partition:
            key.append(rng.choice(shape.partitions))
        else:
            key.append(rng.choice(["", "A", "B", "a", "10", "9"]))
    free = [i for i, c in enumerate(shape.key) if c != shape.partition]
    i = rng.choice(free)
    key[i] = rng.choice(["%d", "K%05d", "k%d", "%06d"]) % n
    if shape.wide_keys and rng.random() < 0.2:
        key[i] += rng.choice([u("ü"), " ", "\"", ",", "\n", "x" * 200, "y" * 600, "\t"])
    key[i] = key[i] + "#" if rng.random() < 0.05 else key[i]
    if len(free) > 1:
        j = [f for f in free if f != i]
        key[rng.choice(j)] += rng.choice(["", "", "0", "z"])
    return key


def fresh_row(rng, shape, names):
    key = dict(zip(shape.key, fresh_key(rng, shape)))
    return [key[c] if c in key else rng.choice(shape.values) for c in names]


def clean_table(rng, shape, least=0, most=None):
    n = rng.choice([least, least + 1, least + rng.randrange(8), least + rng.randrange(60), least + rng.randrange(300)])
    if most is not None:
        n = min(n, most)
    rows, keys = [], set()
    places = None
    while len(rows) < n:
        r = fresh_row(rng, shape, shape.names)
        places = places or [shape.names.index(k) for k in shape.key]
        k = tuple(r[p] for p in places)
        if k in keys or not any(k):
            continue
        keys.add(k)
        rows.append(r)
    return Rows(shape.names, rows)


def key_of(shape, t, row):
    return tuple(row[t.names.index(k)] for k in shape.key)


def mutate(rng, shape, t, rate=None, columns=True, shuffle=None):
    """Another state of the table: rows created, updated, deleted, moved; sometimes columns added, dropped, reordered."""
    t = t.copy()
    if rate is None:
        rate = rng.choice([0, 0.005, 0.02, 0.05, 0.2, 0.6])
    places = [t.names.index(k) for k in shape.key]
    others = [i for i in range(len(t.names)) if i not in places]
    keys = {key_of(shape, t, r) for r in t.rows}
    out = []
    clustered = rng.random() < 0.3
    hot = [rng.random() < 0.5 for _ in range(len(t.rows) // 8 + 1)]
    for i, r in enumerate(t.rows):
        if rng.random() < rate * (2 if clustered and hot[i // 8] else 0 if clustered else 1):
            what = rng.choice("uuudcm")
            if what == "u" and others:
                for c in rng.sample(others, rng.randrange(1, len(others) + 1)):
                    r[c] = rng.choice(shape.values)
                out.append(r)
            elif what == "d":
                continue
            elif what == "m" and out:
                out.insert(rng.randrange(len(out)), r)
            else:
                out.append(r)
                new = fresh_row(rng, shape, t.names)
                k = key_of(shape, t, new)
                if k not in keys and any(k):
                    keys.add(k)
                    out.append(new)
        else:
            out.append(r)
    t.rows = out
    while rate and rng.random() < 0.3:
        new = fresh_row(rng, shape, t.names)
        k = key_of(shape, t, new)
        if k not in keys and any(k):
            keys.add(k)
            t.rows.insert(rng.choice([0, len(t.rows), rng.randrange(len(t.rows) + 1)]), new)
    if shuffle or (shuffle is None and rng.random() < 0.15):
        rng.shuffle(t.rows)
    if columns and rng.random() < 0.25:
        change_columns(rng, shape, t)
    return t


def change_columns(rng, shape, t):
    what = rng.choice(["add", "add-empty", "drop", "order", "order"])
    if what.startswith("add"):
        name = "new%d" % rng.randrange(1000)
        if name not in t.names:
            at = rng.randrange(len(t.names) + 1)
            t.names.insert(at, name)
            full = rng.random() < 0.5
            for r in t.rows:
                r.insert(at, "" if what == "add-empty" or not (full or rng.random() < 0.3) else rng.choice(shape.values))
    elif what == "drop":
        free = [i for i, c in enumerate(t.names) if c not in shape.key]
        if free:
            at = rng.choice(free)
            del t.names[at]
            for r in t.rows:
                del r[at]
    else:
        order = list(range(len(t.names)))
        rng.shuffle(order)
        t.names = [t.names[i] for i in order]
        t.rows = [[r[i] for i in order] for r in t.rows]


def duplicate(rng, shape, t, rate, conflicting=0.3):
    """Copies of rows far from their twins; some with another content."""
    t = t.copy()
    others = [i for i, c in enumerate(t.names) if c not in shape.key]
    count = max(1, int(len(t.rows) * rate)) if t.rows else 0
    for _ in range(count):
        r = list(rng.choice(t.rows))
        if others and rng.random() < conflicting:
            r[rng.choice(others)] = rng.choice(shape.values)
        t.rows.insert(rng.randrange(len(t.rows) + 1), r)
    return t


class Style:
    """How a table is written: the same records, other bytes."""

    def __init__(self, rng, delimiter=",", plain=False):
        self.delimiter = delimiter
        self.end = "\n" if plain else rng.choice(["\n", "\n", "\n", "\r\n", "\r", "mixed"])
        self.quoting = "need" if plain else rng.choice(["need", "need", "need", "all", "random"])
        self.blank = 0 if plain else rng.choice([0, 0, 0, 0.05])
        self.mark = False if plain else rng.random() < 0.1
        self.final = True if plain else rng.random() < 0.9


def render(rng, t, style=None):
    style = style or Style(rng)
    out = []
    d = style.delimiter

    def end():
        return rng.choice(["\n", "\r\n", "\r"]) if style.end == "mixed" else style.end

    def field(v):
        need = any(ch in v for ch in d + "\"\r\n")
        if need or style.quoting == "all" or (style.quoting == "random" and rng.random() < 0.3):
            return '"' + v.replace('"', '""') + '"'
        return v

    def record(r):
        s = d.join(field(v) for v in r)
        return s if s else '""'

    for r in [t.names] + t.rows:
        out.append(record(r))
        out.append(end())
        if style.blank and rng.random() < style.blank:
            out.append(end())
    if not style.final:
        # The last line end goes, and blank lines before it.
        while out and out[-1] in ("\n", "\r", "\r\n"):
            out.pop()
    return (b"\xef\xbb\xbf" if style.mark else b"") + "".join(out).encode("latin-1")
