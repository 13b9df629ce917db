"""The picture of overload.py's figures: python benchmarks/plot_overload.py overload.json docs/overload.png.

Needs matplotlib, which is no dependency of the project: any environment that has it will do, nothing of inferd is used.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]

COLOURS = {
    "inferd": "#2563c9",
    "inferd, noise 20%": "#7aaeff",
    "first come": "#8a9299",
    "first come, drops what is late": "#5f6870",
    "window of 10 ms": "#b9a44c",
    "mosec": "#e3a877",
    "mosec, timeout = D": "#d07a35",
    "mosec, tuned": "#8f4306",
}
MARKERS = {"inferd": "o", "inferd, noise 20%": "D"}


def goodput(axes: Any, document: dict[str, Any], profile: str) -> None:
    """Goodput over offered load, a line for each system."""
    systems: dict[str, dict[float, list[float]]] = {}
    for cell in document["cells"]:
        if str(cell["profile"]) == profile:
            shares = [window["share"] for window in cell["windows"]]
            systems.setdefault(cell["system"], {})[cell["factor"]] = shares
    for system, points in systems.items():
        factors = sorted(points)
        middle = [statistics.median(points[factor]) for factor in factors]
        bold = system.startswith("inferd")
        axes.plot(
            factors,
            middle,
            color=COLOURS.get(system, "black"),
            marker=MARKERS.get(system, "."),
            linewidth=2.2 if bold else 1.2,
            markersize=5 if bold else 4,
            zorder=3 if bold else 2,
            label=system,
        )
    about = document["profiles"][profile]
    axes.plot([0.5, 1], [0.5, 1], color="#c8ced3", linewidth=1, linestyle="--", zorder=1)
    axes.plot([1, 4], [1, 1], color="#c8ced3", linewidth=1, linestyle="--", zorder=1)
    axes.set_title(f"{about['title']}; λ* = {about['rate']:,.0f}/s", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    axes.set_xlabel("offered load / λ*", fontsize=8)
    axes.set_ylabel("answered in time / λ*", fontsize=8)
    axes.set_ylim(-0.03, 1.25)
    axes.tick_params(labelsize=8)


def spikes(axes: Any, document: dict[str, Any], profile: str) -> None:
    """Goodput over time around a spike of ten times λ*."""
    axes.axvspan(-1, 0, color="#f2e3d5", zorder=0)
    for name, found in document["spikes"].items():
        number, _, system = name.partition(" ")
        if number == profile:
            times, values = zip(*found["line"], strict=True)
            bold = system == "inferd"
            axes.plot(
                times,
                values,
                color=COLOURS.get(system, "black"),
                linewidth=1.8 if bold else 1.1,
                zorder=3 if bold else 2,
            )
    axes.set_xlabel("seconds; shaded: 10 × λ*, around it 0.5 × λ*", fontsize=8)
    axes.set_ylabel("answered in time / λ*, by when asked", fontsize=8)
    axes.set_ylim(-0.03, 2)
    axes.tick_params(labelsize=8)


def draw(document: dict[str, Any], paths: Sequence[str]) -> None:
    """Profiles 1 and 3: load above, the spike below."""
    profiles = [number for number in ("1", "3") if number in document["profiles"]]
    figure, grid = plt.subplots(2, len(profiles), figsize=(4.9 * len(profiles), 6.6), squeeze=False)
    for column, profile in enumerate(profiles):
        goodput(grid[0][column], document, profile)
        spikes(grid[1][column], document, profile)
    for axes in figure.axes:
        axes.grid(color="#eceff1", linewidth=0.8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    for path in paths:
        figure.savefig(path, dpi=84)
        print(f"{path}: {Path(path).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:])
