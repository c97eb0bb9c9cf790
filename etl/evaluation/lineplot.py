"""A line plot of values from 0 to 1 as SVG text, the same bytes for the same numbers."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 320, 260
LEFT, TOP, RIGHT, BOTTOM = 44, 40, 10, 40
COLORS = ("#0072b2", "#d55e00", "#009e73")
"""Told apart by colour-blind readers as well (Okabe and Ito)."""
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def line_plot(title: str, axes: tuple[str, str], lines: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """SVG of up to three (name, x, y) lines, x and y within 0 and 1; `axes` names x and y."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="10">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 15, title, "middle", ' font-size="12"'),
    ]
    for tick in TICKS:
        x, y = _place(tick, tick)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 13, f"{tick:.1f}", "middle"))
        parts.append(_text(LEFT - 5, y + 3, f"{tick:.1f}", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, axes[0], "middle"))
    turned = f' transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
    parts.append(_text(0, 0, axes[1], "middle", turned))
    for n, (name, xs, ys) in enumerate(lines):
        color = COLORS[n % len(COLORS)]
        points = " ".join("{:.1f},{:.1f}".format(*_place(x, y)) for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        at = LEFT + n * (WIDTH - LEFT - RIGHT) // 3
        parts.append(f'<path d="M{at} {TOP - 10}h14" stroke="{color}" stroke-width="2"/>')
        parts.append(_text(at + 18, TOP - 7, name, "start"))
    return "\n".join([*parts, "</svg>\n"])


def _place(x: float, y: float) -> tuple[float, float]:
    return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
