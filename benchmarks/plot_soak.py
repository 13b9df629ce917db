"""The picture of a soak: python benchmarks/plot_soak.py bench-out/soak.json docs/soak.png.

Needs matplotlib, which is no dependency of the project: any environment that has it will do, nothing of inferd is used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]

COLOURS = {"kill": "#d4483b", "pause": "#e3a877", "freeze": "#8f4306", "storm": "#7d5fc9", "reload": "#4c9e6b"}
ROWS = (
    ("anonymous memory, MiB", {"daemon_mib": "the daemon", "children_mib": "fork server and workers"}),
    ("in use, MiB", {"slab_mib": "slab", "arena_mib": "arenas"}),
    ("number", {"descriptors": "descriptors", "connections": "connections", "children": "processes below it"}),
)
LINES = ("#2563c9", "#8a9299", "#b9a44c")


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    found: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    samples = found["samples"]
    times = [sample["at_s"] for sample in samples]
    figure, rows = plt.subplots(len(ROWS), 1, figsize=(9, 7), sharex=True, layout="constrained")
    for axes, (label, names) in zip(rows, ROWS, strict=True):
        for (name, words), colour in zip(names.items(), LINES, strict=False):
            axes.plot(times, [sample[name] for sample in samples], color=colour, linewidth=1.3, label=words)
        for at, what in found["faults_at"]:
            axes.axvline(at, color=COLOURS[what], linewidth=0.7, alpha=0.6)
        axes.set_ylabel(label, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, loc="upper right")
    done = {what for _, what in found["faults_at"]}
    handles = [plt.Line2D([], [], color=COLOURS[what], label=what) for what in COLOURS if what in done]
    rows[-1].set_xlabel("seconds", fontsize=8)
    figure.legend(handles=handles, fontsize=7, ncols=len(COLOURS), loc="outside lower center")
    slope = found["slope_mib_per_min"]["daemon"]
    title = f"{found['answers']:,} answers, {len(found['wrong'])} wrong, {sum(found['faults'].values())} faults; "
    figure.suptitle(title + f"the daemon grows by {slope:+.2f} MiB a minute in the second half", fontsize=9)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
