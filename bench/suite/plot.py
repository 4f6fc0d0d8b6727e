"""SVG plots of saved results, with the standard library only.

One Chart draws lines or stacked bars with axes, units and a legend. Colours are one set for light and one for dark pages: the viewer's
preference picks (prefers-color-scheme), and each series has a marker of its own, so that a plot in grey is still read.
"""
import dataclasses
import html
import math
import re

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 58, 96
LIGHT = ("#1f5fbf", "#c2410c", "#15803d", "#7e3ab5", "#a16207", "#0e7490", "#be185d", "#4d5560")
DARK = ("#7db3ff", "#ff9a5c", "#5fd38a", "#c99bff", "#f0c94a", "#5cd0e6", "#ff8fbf", "#b8c0cc")
MARKERS = ("circle", "square", "triangle", "diamond", "cross")
LEGEND_ROW = 20


def style():
    def colours(names):
        return "".join(f".f{i}{{fill:{c}}}.s{i}{{stroke:{c}}}" for i, c in enumerate(names))
    return ("<style>text{font:13px system-ui,sans-serif;fill:#1c2127}.title{font-size:16px;font-weight:600}.small{font-size:12px}"
            ".paper{fill:#fff}.axis{stroke:#5b6470}.grid{stroke:#dde1e6}.line{fill:none;stroke-width:2}.dashed{stroke-dasharray:6 4}" + colours(LIGHT)
            + "@media(prefers-color-scheme:dark){text{fill:#e4e8ee}.paper{fill:#14181d}.axis{stroke:#98a2b0}.grid{stroke:#2d343d}"
            + colours(DARK) + "}</style>")


def short(value):
    """A number for an axis: 20k, 1M, 0.05."""
    for bound, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:g}{suffix}"
    return f"{value:g}"


@dataclasses.dataclass
class Axis:
    """Values to pixels. A log axis takes values above 0 alone; labels, where given, name the places of a linear axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value):
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1)

    def ticks(self):
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def log_ticks(low, high):
    """Powers of ten; where there are few of them, also twice and five times each."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [s * 10.0 ** p for p in powers for s in steps if low * 0.999 <= s * 10.0 ** p <= high * 1.001]


def linear_ticks(low, high):
    step = 10 ** math.floor(math.log10((high - low) / 4 or 1))
    step *= next(s for s in (1, 2, 5, 10) if (high - low) / (step * s) <= 6)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_bounds(values):
    """A little wider than the values, ending at 1, 2 or 5 times a power of ten."""
    nice = [s * 10.0 ** p for p in range(-9, 16) for s in (1, 2, 5)]
    return max(n for n in nice if n <= min(values)), min(n for n in nice if n >= max(values))


class Chart:
    """Collects SVG elements; text() is the whole file. legend: how many names are to be told, which decides the height."""

    def __init__(self, title, x_title, y_title, legend):
        self.columns = 3
        self.rows = -(-legend // self.columns)
        self.height = HEIGHT + max(0, self.rows - 2) * LEGEND_ROW
        self.floor = HEIGHT - BOTTOM
        size = f'viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" height="{self.height}"'
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">', f"<title>{html.escape(title)}</title>", style(), f'<rect class="paper" width="{WIDTH}" height="{self.height}"/>']
        self.label(LEFT, 24, title, "start", "title")
        self.label(LEFT, 46, y_title, "start", "small")
        self.label((LEFT + WIDTH - RIGHT) / 2, self.floor + 38, x_title)

    def label(self, x, y, text, anchor="middle", kind="", turn=None):
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{html.escape(text)}</text>')

    def stroke(self, kind, x1, y1, x2, y2):
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def y_axis(self, axis):
        for tick in axis.ticks():
            y = axis.at(tick)
            self.stroke("grid", LEFT, y, WIDTH - RIGHT, y)
            self.label(LEFT - 8, y + 4, short(tick), "end", "small")
        self.stroke("axis", LEFT, TOP, LEFT, self.floor)
        self.stroke("axis", LEFT, self.floor, WIDTH - RIGHT, self.floor)

    def x_axis(self, places):
        """places: (pixel, label)."""
        for x, label in places:
            self.stroke("axis", x, self.floor, x, self.floor + 5)
            self.label(x, self.floor + 19, label, kind="small")

    def marker(self, index, x, y):
        colour, shape, r = f"f{index % len(LIGHT)}", MARKERS[index % len(MARKERS)], 4.5
        if shape == "circle":
            self.parts.append(f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>')
            return
        corners = {"square": ((-1, -1), (1, -1), (1, 1), (-1, 1)), "triangle": ((0, -1.2), (1.2, 1), (-1.2, 1)),
                   "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
                   "cross": ((-.4, -1.2), (.4, -1.2), (.4, -.4), (1.2, -.4), (1.2, .4), (.4, .4), (.4, 1.2), (-.4, 1.2), (-.4, .4), (-1.2, .4),
                             (-1.2, -.4), (-.4, -.4))}[shape]
        points = " ".join(f"{x + a * r:.1f},{y + b * r:.1f}" for a, b in corners)
        self.parts.append(f'<polygon class="{colour}" points="{points}"/>')

    def line(self, index, points, dashed=False, marked=True):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        kind = f"line s{index % len(LIGHT)}" + (" dashed" if dashed else "")
        self.parts.append(f'<polyline class="{kind}" points="{path}"/>')
        for x, y in points if marked else ():
            self.marker(index, x, y)

    def bar(self, index, x, y, width, height, told):
        self.parts.append(f'<rect class="f{index % len(LIGHT)}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}">'
                          f"<title>{html.escape(told)}</title></rect>")

    def legend(self, names, squares=False):
        column = (WIDTH - LEFT - RIGHT) / self.columns
        for i, name in enumerate(names):
            x, y = LEFT + 6 + i % self.columns * column, self.floor + 62 + i // self.columns * LEGEND_ROW
            if squares:
                self.bar(i, x - 5, y - 10, 10, 10, name)
            else:
                self.marker(i, x, y - 4)
            self.label(x + 12, y, name, "start", "small")

    def text(self):
        return "\n".join([*self.parts, "</svg>", ""])


def lines_chart(title, x_title, y_title, series, x_places=None, joined=True):
    """series: {name: [(x, y)]}. Both axes are logarithmic; with x_places ([label]) x is the index of a label, at even steps.

    Rivals have dashed lines. Where x is no quantity (joined is False), points stand alone.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    chart = Chart(title, x_title, y_title, len(series))
    low, high = log_bounds([y for points in series.values() for _, y in points])
    y_axis = Axis(low, high, chart.floor, TOP, log=True)
    chart.y_axis(y_axis)
    if x_places:
        x_axis = Axis(-0.3, len(x_places) - 0.7, LEFT, WIDTH - RIGHT)
        chart.x_axis([(x_axis.at(i), label) for i, label in enumerate(x_places)])
    else:
        xs = sorted({x for points in series.values() for x, _ in points})
        x_axis = Axis(xs[0] / 1.5, xs[-1] * 1.5, LEFT, WIDTH - RIGHT, log=True)
        chart.x_axis([(x_axis.at(x), short(x)) for x in xs])
    for i, (name, points) in enumerate(series.items()):
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
        if joined:
            chart.line(i, places, dashed=not name.startswith("bomsync"))
        for x, y in () if joined else places:
            chart.marker(i, x, y)
    chart.legend(series)
    return chart.text()


def trail_chart(title, x_title, y_title, name, points):
    """One long series on linear axes from zero, without markers."""
    chart = Chart(title, x_title, y_title, 1)
    y_axis = Axis(0, max(y for _, y in points) * 1.08, chart.floor, TOP)
    x_axis = Axis(0, points[-1][0], LEFT, WIDTH - RIGHT)
    chart.y_axis(y_axis)
    chart.x_axis([(x_axis.at(x), short(x)) for x in x_axis.ticks()])
    chart.line(0, [(x_axis.at(x), y_axis.at(y)) for x, y in points], marked=False)
    chart.legend([name])
    return chart.text()


def bars_chart(title, y_title, bars, parts, shares=None):
    """Stacked bars. bars: {name: {part: value}}; shares ({name: text}) stands above each bar."""
    if not bars:
        return None
    chart = Chart(title, "", y_title, len(parts))
    axis = Axis(0, max(sum(b.values()) for b in bars.values()) * 1.08 or 1, chart.floor, TOP)
    chart.y_axis(axis)
    step = (WIDTH - LEFT - RIGHT) / len(bars)
    for i, (name, values) in enumerate(bars.items()):
        left, total = LEFT + step * (i + 0.2), 0
        for k, part in enumerate(parts):
            value = values.get(part, 0)
            chart.bar(k, left, axis.at(total + value), step * 0.6, axis.at(total) - axis.at(total + value), f"{name}, {part}: {value:g}")
            total += value
        if shares:
            chart.label(left + step * 0.3, axis.at(total) - 5, shares[name], kind="small")
    chart.x_axis([(LEFT + step * (i + 0.5), name) for i, name in enumerate(bars)])
    chart.legend(parts, squares=True)
    return chart.text()


# The plots of a run


def sized_rows(results):
    """(lines, rows) of all results: runs of several sizes in one file, or one file for each size."""
    found = {}
    for result in results:
        found.setdefault(result["lines"], result["rows"])
        for point in result.get("sizes") or []:
            found[point["lines"]] = point["rows"]
    return sorted(found.items())


def over_sizes(results, cases=("unchanged", "clustered", "random", "diff", "first")):
    """bomsync's main cases by size, with one rival for scale."""
    series = {f"bomsync {case}": [] for case in cases}
    series.update({"wc -l": [], "DuckDB join of both files": [], "DuckDB CREATE TABLE": []})
    rivals = {("unchanged", "wc -l"): "wc -l", ("diff", "DuckDB, both files"): "DuckDB join of both files",
              ("first", "DuckDB, CREATE TABLE"): "DuckDB CREATE TABLE"}
    for lines, rows in sized_rows(results):
        for case in cases:
            row = next((r for r in rows if r["case"] == case and r["ours"]), None)
            if row:
                series[f"bomsync {case}"].append((lines, row["ours"]["median"]))
        for row in rows:
            name = rivals.get((row["case"], row["against"]))
            if name and row["theirs"]:
                series[name].append((lines, row["theirs"]["median"]))
    return lines_chart("Time against size", "lines of the snapshot (log)", "seconds, median (log)", series)


def over_rates(results):
    points = next((r["rates"] for r in results if r.get("rates")), None)
    if not points:
        return None
    labels = [f"{p['rate']:g} %" for p in points]
    series = {name: [(i, p[key]) for i, p in enumerate(points) if p[key]] for name, key in (("bomsync sync", "bomsync"),
                                                                                            ("DuckDB, stored table against file", "duckdb"))}
    lines = next(r["lines"] for r in results if r.get("rates"))
    return lines_chart(f"Time against change rate, {short(lines)} lines", "records changed, anywhere", "seconds, median (log)", series, labels)


def of_stages(result):
    """Shares, not seconds: a first load would leave nothing to see of an unchanged sync. The seconds stand above the bars."""
    stages = {name: seconds for name, seconds in (result.get("stages") or {}).items() if sum(seconds.values()) > 0}
    parts = [p for p in next(iter(stages.values()), {}) if any(s.get(p, 0) > 0 for s in stages.values())]
    bars, totals = {}, {}
    for name, seconds in stages.items():
        total = sum(seconds.values())
        bars[name] = {part: 100 * value / total for part, value in seconds.items()}
        totals[name] = f"{total:.3g} s"
    title = f"Stages of a sync, {short(result['lines'])} lines"
    return bars_chart(title, "percent of the time of the process; its seconds above", bars, parts, totals)


def of_memory(result):
    """The peak of each case, of bomsync and of the rival that took most."""
    ours, theirs = {}, {}
    for row in result["rows"]:
        for side, found in (("ours", ours), ("theirs", theirs)):
            timing = row[side]
            if timing and timing["private_memory"] and not row["case"].startswith(("shape", "scale", "rates", "mixes", "workers")):
                found[row["case"]] = max(found.get(row["case"], 0), timing["private_memory"] / 1e6)
    if not ours:
        return None
    cases = list(ours)
    series = {name: [(cases.index(c), v) for c, v in found.items() if c in ours] for name, found in (("bomsync", ours), ("rival that took most", theirs))}
    return lines_chart(f"Private memory, {short(result['lines'])} lines", "case", "MB, peak (log)", series, cases, joined=False)


def of_series(result):
    """Each sync of the long series, so that a slow growth is seen."""
    seconds = result.get("series")
    if not seconds:
        return None
    return trail_chart("Syncs of 0.1 % one after another", "generation", "milliseconds", "bomsync sync",
                       [(i + 2, 1000 * s) for i, s in enumerate(seconds)])


def draw(results, folder):
    """Writes the plots that the results hold figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {"sizes": over_sizes(results), "rates": over_rates(results)}
    for result in results:
        suffix = f"-{short(result['lines'])}" if len(results) > 1 else ""
        plots.update({f"stages{suffix}": of_stages(result), f"memory{suffix}": of_memory(result), f"series{suffix}": of_series(result)})
    for name, text in plots.items():
        if text:
            (folder / f"{re.sub('[^a-zA-Z0-9.-]', '_', name)}.svg").write_text(text)
