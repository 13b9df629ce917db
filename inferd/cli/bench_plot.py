"""The pictures of `inferd bench`: latency by percentile, with the tail drawn out, and over time.

As one HTML page without scripts or other hosts, or as a PNG by matplotlib.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from inferd._version import __version__
from inferd.cli.latency import Latencies
from inferd.errors import InferdError

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 64, 16, 40
NAMED = (0.5, 0.9, 0.99, 0.999)
# Beyond this a curve of a bucketed histogram is noise.
MAX_NINES = 6

Point = tuple[float, float]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5f6870; --line: #dfe3e6; --page: #ffffff; --card: #f6f8f9;
  --first: #2563c9; --second: #b8500f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9eb; --soft: #9aa4ad; --line: #333a40; --page: #14181b;
  --card: #1c2226; --first: #7aaeff; --second: #f0995a; } }
body { margin: 2rem auto; max-width: 820px; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; } h2 { font-size: 1rem; margin: 2rem 0 .4rem; }
p { margin: 0; color: var(--soft); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem; margin: 1.2rem 0 0; }
dl div { background: var(--card); border-radius: 8px; padding: .55rem .8rem; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; } .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.first { stroke: var(--first); } .second { stroke: var(--second); }
svg text.first { fill: var(--first); stroke: none; } svg text.second { fill: var(--second); stroke: none; }
circle { fill: var(--page); stroke-width: 2; } svg text.name { fill: var(--ink); font-weight: 600; }
footer { margin: 2rem 0 0; color: var(--soft); font-size: .8rem; }
"""


def write_plot(
    path: str, title: str, facts: Sequence[tuple[str, str]], slices: Sequence[Latencies], slice_s: float
) -> None:
    """Writes an .html or a .png file. Raises InferdError."""
    try:
        if path.endswith(".png"):
            _write_png(path, title, slices, slice_s)
        else:
            Path(path).write_text(page(title, facts, slices, slice_s), encoding="utf-8")
    except OSError as error:
        raise InferdError(f"cannot write {path}: {error.strerror}") from error


def check_plot(path: str) -> None:
    """Raises an error if there is no way to make this picture: before a run, not after it."""
    import importlib.util

    if not path.endswith((".html", ".png")):
        raise click.UsageError(f"--plot {path}: write FILE.html or FILE.png")
    if path.endswith(".png") and importlib.util.find_spec("matplotlib") is None:
        raise InferdError("a PNG needs matplotlib: pip install matplotlib, or write FILE.html, which needs nothing")


# ---- what is drawn


def tail_position(q: float) -> float:
    """Where a share lies on an axis on which 0, 90 %, 99 %, 99.9 %, … are equally far apart."""
    return -math.log10(max(1 - q, 10.0**-MAX_NINES))


def percentile_curve(latencies: Latencies) -> list[Point]:
    """(position on the tail's axis, milliseconds)."""
    total = latencies.total
    farthest = min(tail_position(1 - 1 / total), MAX_NINES) if total > 1 else 1.0
    points: list[Point] = []
    for share, seconds in latencies.curve():
        x = min(tail_position(share), farthest)
        if not points or x - points[-1][0] > 0.004 or share == 1:
            points.append((x, seconds * 1000))
    return points


def over_time(slices: Sequence[Latencies], slice_s: float, q: float) -> list[list[Point]]:
    """(seconds, milliseconds) of a percentile, as lines that break where there was no answer."""
    lines: list[list[Point]] = [[]]
    for index, part in enumerate(slices):
        if part.counts:
            lines[-1].append(((index + 0.5) * slice_s, part.quantile(q) * 1000))
        elif lines[-1]:
            lines.append([])
    return [line for line in lines if line]


def ticks(largest: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `largest`."""
    if largest <= 0:
        return [0.0, 1.0]
    raw = largest / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    return [step * index for index in range(math.ceil(largest / step - 1e-9) + 1)]


def merged(slices: Sequence[Latencies]) -> Latencies:
    """All slices as one."""
    everything = Latencies()
    for part in slices:
        everything.merge(part)
    return everything


# ---- HTML


def page(title: str, facts: Sequence[tuple[str, str]], slices: Sequence[Latencies], slice_s: float) -> str:
    """The page, whole."""
    tiles = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>inferd bench: {html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>inferd bench</h1>
<p>{html.escape(title)}</p>
<dl>{tiles}</dl>
<h2>Latency by percentile, in milliseconds</h2>
{_percentile_svg(merged(slices))}
<h2>Latency over time, in milliseconds, by the time a request was to be sent</h2>
{_time_svg(slices, slice_s)}
<footer>inferd {__version__}. Latencies are counted in buckets 0.5 % wide.</footer>
</body>
</html>
"""


class _Chart:
    """An SVG with its scales: data in, coordinates out."""

    def __init__(self, label: str, x_max: float, y_max: float) -> None:
        self._y_ticks = ticks(y_max)
        self._x_max, self._y_max = x_max or 1.0, self._y_ticks[-1]
        self._parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">']
        for value in self._y_ticks:
            self._line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value))
            self.text(LEFT - 8, self.y(value) + 4, f"{value:g}", anchor="end")

    def x(self, value: float) -> float:
        return LEFT + value / self._x_max * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self._y_max * (HEIGHT - TOP - BOTTOM)

    def _line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self._parts.append(f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> None:
        self._parts.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def x_tick(self, value: float, text: str) -> None:
        self._line(self.x(value), TOP, self.x(value), HEIGHT - BOTTOM)
        self.text(self.x(value), HEIGHT - BOTTOM + 18, text)

    def curve(self, points: Sequence[Point], style: str) -> None:
        at = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        if len(points) == 1:
            at += f" {self.x(points[0][0]) + 3:.1f},{self.y(points[0][1]):.1f}"
        self._parts.append(f'<polyline class="curve {style}" points="{at}"/>')

    def dot(self, x: float, y: float, tip: str) -> None:
        self._parts.append(
            f'<circle class="first" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4">'
            f"<title>{html.escape(tip)}</title></circle>"
        )

    def done(self) -> str:
        return "".join([*self._parts, "</svg>"])


def _percentile_svg(latencies: Latencies) -> str:
    points = percentile_curve(latencies)
    if not points:
        return "<p>There were no results.</p>"
    chart = _Chart("Latency by percentile", points[-1][0], points[-1][1])
    for position, text in _tail_ticks(points[-1][0]):
        chart.x_tick(position, text)
    chart.curve(points, "first")
    for q in NAMED:
        if tail_position(q) <= points[-1][0]:
            name, ms = f"p{100 * q:g}", latencies.quantile(q) * 1000
            chart.dot(tail_position(q), ms, f"{name} {ms:.3g} ms")
            chart.text(chart.x(tail_position(q)) - 6, chart.y(ms) - 8, f"{name} {ms:.3g}", "end", "name")
    chart.text(chart.x(points[-1][0]) + 6, chart.y(points[-1][1]) + 4, f"max {points[-1][1]:.3g}", "start", "name")
    return chart.done()


def _tail_ticks(farthest: float) -> Iterator[tuple[float, str]]:
    yield 0.0, "0 %"
    yield tail_position(0.5), "50 %"
    for nines in range(1, math.floor(farthest + 1e-9) + 1):
        yield float(nines), f"{100 * (1 - 10.0**-nines):.{max(nines - 2, 0)}f} %"


def _time_svg(slices: Sequence[Latencies], slice_s: float) -> str:
    curves = [("p50", "first", over_time(slices, slice_s, 0.5)), ("p99", "second", over_time(slices, slice_s, 0.99))]
    largest = max((y for _, _, lines in curves for line in lines for _, y in line), default=0.0)
    if not largest:
        return "<p>There were no results.</p>"
    chart = _Chart("Latency over time", len(slices) * slice_s, largest)
    for value in ticks(len(slices) * slice_s, 8):
        if value <= len(slices) * slice_s * 1.001:
            chart.x_tick(value, f"{value:g} s")
    above = None
    for name, style, lines in reversed(curves):
        for line in lines:
            chart.curve(line, style)
        x, y = lines[-1][-1]
        at = chart.y(y) + 4
        if above is not None and at < above + 14:
            at = above + 14  # the names do not overlap when the lines meet
        above = at
        chart.text(chart.x(x) + 6, at, name, "start", style)
    return chart.done()


# ---- PNG


def _write_png(path: str, title: str, slices: Sequence[Latencies], slice_s: float) -> None:
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    points = percentile_curve(merged(slices))
    figure: Any
    figure, (by_percentile, by_time) = pyplot.subplots(2, 1, figsize=(8, 7), layout="constrained")
    figure.suptitle(f"inferd bench: {title}", fontsize=8, wrap=True)
    by_percentile.plot([x for x, _ in points], [y for _, y in points])
    places = list(_tail_ticks(points[-1][0])) if points else []
    by_percentile.set_xticks([place for place, _ in places], [str(text) for _, text in places])
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        for index, line in enumerate(over_time(slices, slice_s, q)):
            by_time.plot(
                [x for x, _ in line], [y for _, y in line], color="C0" if q == 0.5 else "C1",
                label=name if index == 0 else None,
            )  # fmt: skip
    by_time.set_xlabel("seconds")
    by_time.legend()
    for axes in (by_percentile, by_time):
        axes.set_ylabel("latency, ms")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
