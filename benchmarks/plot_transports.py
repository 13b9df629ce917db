"""The picture of transports.py's figures: python benchmarks/plot_transports.py transports.json docs/transports.png.

Needs matplotlib, which is no dependency of the project: any environment that has it will do, nothing of inferd is used.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]
from matplotlib.colors import to_rgb  # type: ignore[import-not-found,unused-ignore]
from PIL import Image  # type: ignore[import-not-found,unused-ignore]

COLOURS = {
    "rest, connecting": "#59b3a5",
    "rest": "#2a8577",
    "websocket": "#7aaeff",
    "tcp": "#2563c9",
    "unix": "#173b7d",
}
WITHOUT, GUIDE, THREADS, INK, GREY = "#9a8fd0", "#d07a35", "#8f4306", "#333d44", "#66717a"
# Typists whose texts were typed from beginning to end, so that all lengths are in their bytes.
WHOLE_TEXTS = 100


def colour(cell: dict[str, Any]) -> str:
    """One for each row, a family for each kind of server."""
    if cell["transport"] == "guide":
        return THREADS if "threads" in cell["server"] else GUIDE
    return COLOURS[cell["transport"]] if cell["supersede"] else WITHOUT


def pale(own: str) -> tuple[float, ...]:
    """The same, lighter."""
    return tuple(0.42 * part + 0.58 for part in to_rgb(own))


def latencies(axes: Any, cells: list[dict[str, Any]], typists: int, limits: tuple[float, float]) -> None:
    """The last key: from p50 to p99, a line for each row; an arrow where there was no answer."""
    for place, cell in enumerate(cells):
        p50, p99 = float(cell["last p50 ms"]), float(cell["last p99 ms"])
        shown = [min(value, limits[1]) for value in (p50, p99)]
        own = colour(cell)
        axes.plot(shown, [place, place], color=pale(own), linewidth=3, solid_capstyle="round")
        axes.plot(shown[1], place, "|" if math.isfinite(p99) else ">", color=own, markersize=9, markeredgewidth=2)
        if math.isfinite(p50):
            axes.plot(p50, place, "o", color=own, markersize=6)
            axes.annotate(
                f"{p50:.1f}" if p50 < 100 else f"{p50:.0f}",
                (p50, place),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=6.5,
                color=GREY,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlim(limits[0], limits[1] * 1.15)
    axes.set_title("1 typist" if typists == 1 else f"{typists} typists", fontsize=9, color=INK)


def costs(axes: Any, document: dict[str, Any], titles: list[str]) -> None:
    """CPU for each key over the number of typists."""
    for title in titles:
        cells = [cell for cell in document["cells"] if cell["title"] == title]
        numbers = [cell["typists"] for cell in cells]
        axes.plot(numbers, [cell["cpu_us"] for cell in cells], color=colour(cells[0]), marker="o", markersize=4)
    numbers = sorted({cell["typists"] for cell in document["cells"]})
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_ylim(0)
    axes.set_xlabel("typists", fontsize=8, color=GREY)
    axes.set_title("server CPU, µs a key (colours as on the left)", fontsize=9, color=INK)


def volumes(axes: Any, cells: list[dict[str, Any]]) -> None:
    """Bytes for each key: out dark, back light."""
    for place, cell in enumerate(cells):
        out, back = cell["sent a key"], cell["received a key"]
        axes.barh(place, out, color=colour(cell), height=0.62)
        axes.barh(place, back, left=out, color=pale(colour(cell)), height=0.62)
        axes.text(out + back + 10, place, f"{out:.0f} + {back:.0f}", va="center", fontsize=7.5, color=GREY)
    axes.set_xlim(0, 1.45 * max(cell["sent a key"] + cell["received a key"] for cell in cells))
    axes.set_title("bytes a key: to the server + back", fontsize=9, color=INK)


def draw(document: dict[str, Any], path: Path) -> None:
    """Latency for each number of typists above, CPU and bytes below."""
    levels = sorted({cell["typists"] for cell in document["cells"]})
    of = {level: [cell for cell in document["cells"] if cell["typists"] == level] for level in levels}
    titles = [cell["title"] for cell in of[levels[0]]]
    finite = [
        float(cell[f"last {name} ms"])
        for cell in document["cells"]
        for name in ("p50", "p99")
        if math.isfinite(float(cell[f"last {name} ms"]))
    ]
    limits = 0.8 * min(finite), 1.3 * max(finite)
    figure = plt.figure(figsize=(10.4, 6.8))
    grid = figure.add_gridspec(2, len(levels) * 2, height_ratios=[1, 0.95], hspace=0.42, wspace=0.22)
    upper = [figure.add_subplot(grid[0, 2 * index : 2 * index + 2]) for index in range(len(levels))]
    for axes, level in zip(upper, levels, strict=True):
        latencies(axes, of[level], level, limits)
    lower = figure.add_subplot(grid[1, : len(levels)])
    volumes(lower, of[WHOLE_TEXTS if WHOLE_TEXTS in of else levels[-1]])
    right = figure.add_subplot(grid[1, len(levels) :])
    costs(right, document, titles)
    for axes in (*upper, lower):
        axes.set_ylim(len(titles) - 0.4, -0.6)
        named = axes in (upper[0], lower)
        axes.set_yticks(range(len(titles)), titles if named else [""] * len(titles))
        axes.tick_params(axis="y", length=0)
        axes.axhline(sum(title[:7] != "FastAPI" for title in titles) - 0.5, color="#c8ced3", linewidth=0.8)
    for axes in upper:
        axes.grid(axis="x", color="#eceff1", linewidth=0.8)
    right.grid(color="#eceff1", linewidth=0.8)
    for axes in figure.axes:
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=GREY)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color("#c8ced3")
        for label in axes.get_yticklabels():
            label.set_color(INK)
    figure.suptitle(
        "How long after a text's last key its answer is there, in ms: p50 ● to p99 |; ▶ some had none",
        fontsize=10.5,
        color=INK,
        x=0.01,
        ha="left",
    )
    figure.subplots_adjust(left=0.205, right=0.985, top=0.89, bottom=0.075)
    figure.savefig(path, dpi=110)
    # A palette takes less than half the bytes.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
