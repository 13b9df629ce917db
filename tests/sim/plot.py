"""A line plot as SVG text, with nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = ("#1b6ca8", "#c0392b", "#8a8a8a", "#2e8b57")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 300, 240, 44, 34, 10, 38

Panel = tuple[str, dict[str, Sequence[tuple[float, float]]]]


def panel(at: int, title: str, lines: dict[str, Sequence[tuple[float, float]]], top: float, right: float) -> list[str]:
    """One coordinate system: offered load across, share of λ* up."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return at + LEFT + wide * value / right

    def y(value: float) -> float:
        return TOP + high * (1 - value / top)

    out = [f'<text x="{at + LEFT + wide / 2:.0f}" y="20" text-anchor="middle" font-weight="bold">{title}</text>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25):
        out.append(f'<path d="M{x(0):.1f} {y(tick):.1f}H{x(right):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{at + LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in range(int(right) + 1):
        out.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick}</text>')
    out.append(f'<text x="{x(right / 2):.0f}" y="{HEIGHT - 6}" text-anchor="middle">offered load, in λ*</text>')
    ideal = " ".join(f"{x(a):.1f},{y(min(a, 1.0)):.1f}" for a in (0.0, 1.0, right))
    out.append(f'<polyline points="{ideal}" fill="none" stroke="#bbb" stroke-dasharray="3 3"/>')
    for colour, points in zip(COLOURS, lines.values(), strict=False):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return out


def svg(panels: Sequence[Panel], top: float = 1.25, right: float = 6.0) -> str:
    """Panels side by side, and one legend below."""
    width = WIDTH * len(panels)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT + 26}" '
        f'viewBox="0 0 {width} {HEIGHT + 26}" font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{HEIGHT + 26}" fill="white"/>',
    ]
    for number, (title, lines) in enumerate(panels):
        out += panel(number * WIDTH, title, lines, top, right)
    for number, (colour, name) in enumerate(zip(COLOURS, panels[0][1], strict=False)):
        x = LEFT + number * 230
        out.append(f'<path d="M{x} {HEIGHT + 10}h24" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{x + 30}" y="{HEIGHT + 14}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])
