"""Dots with intervals as SVG text, the same bytes for the same numbers; told apart by shape as well as by colour."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito: told apart by colour-blind readers as well."""
LEFT, WIDE, TOP, STEP, GAP = 130, 420, 30, 13, 9
Point = tuple[str, float, float | None, float | None]


def dots(title: str, rows: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """SVG of (row, [(name, value, low, high)]), values from 0 to 1."""
    names = list(dict.fromkeys(point[0] for _, points in rows for point in points))
    height = TOP + sum(len(points) * STEP + GAP for _, points in rows) + 34
    width, legend = LEFT + WIDE + 20, STEP * (len(names) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + legend}" '
        f'viewBox="0 0 {width} {height + legend}" font-family="sans-serif" font-size="10" role="img">',
        f"<title>{escape(title)}</title>", f'<rect width="{width}" height="{height + legend}" fill="white"/>',
        f'<text x="{LEFT}" y="16" font-size="12">{escape(title)}</text>',
    ]  # fmt: skip
    bottom = height - 34
    for tick in range(0, 11, 2):
        x = _x(tick / 10)
        parts.append(f'<path d="M{x:.1f} {TOP - 6}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 13}" text-anchor="middle">{tick * 10}</text>')
    parts.append(f'<text x="{_x(0.5):.1f}" y="{bottom + 27}" text-anchor="middle">AP, %; bars: 95 % interval</text>')
    y = TOP
    for row, points in rows:
        middle = y + (len(points) - 1) * STEP / 2 + 3
        parts.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{escape(row)}</text>')
        for name, value, low, high in points:
            parts.append(_point(names.index(name), value, low, high, y))
            y += STEP
        y += GAP
    for n, name in enumerate(names):
        at = height + n * STEP
        parts.append(_mark(n, LEFT + 6, at))
        parts.append(f'<text x="{LEFT + 16}" y="{at + 3}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _point(number: int, value: float, low: float | None, high: float | None, y: float) -> str:
    color, bar = COLORS[number % len(COLORS)], ""
    if low is not None and high is not None:
        bar = f'<path d="M{_x(low):.1f} {y}H{_x(high):.1f}" stroke="{color}" stroke-width="1.5"/>'
    return bar + _mark(number, _x(value), y)


def _mark(number: int, x: float, y: float) -> str:
    color = COLORS[number % len(COLORS)]
    if number % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{color}"/>'
    if number % 3 == 1:
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5}" width="7" height="7" fill="{color}"/>'
    return f'<path d="M{x:.1f} {y - 4.5}L{x + 4.5:.1f} {y + 4}H{x - 4.5:.1f}Z" fill="{color}"/>'


def _x(value: float) -> float:
    return LEFT + value * WIDE
