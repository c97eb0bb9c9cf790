"""Charts as HTML and SVG text: bars, histograms, heat maps. No script, no network; colours follow the page's."""

import math
from collections.abc import Sequence
from html import escape

PAPER = 0.015  # the paper's least area, drawn in also where another one holds


def number(value: float) -> str:
    """A count with thin spaces between thousands; a fraction with two digits."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.2f}"


def bars(rows: Sequence[tuple[str, int]], unit: str, part: Sequence[int] | None = None) -> str:
    """Horizontal bars, longest 100 %; `part` marks in each a share in the second colour. Read as a list without CSS."""
    most = max((n for _, n in rows), default=0) or 1
    lines = []
    for place, (name, n) in enumerate(rows):
        long, inner, told = 100 * n / most, "", number(n)
        if part is not None:
            inner = f'<rect class="kept" width="{long * part[place] / (n or 1):.2f}" height="1"/>'
            told = f"{number(part[place])} of {told}"
        lines.append(
            f'<li><span class="name" title="{escape(name)}">{escape(name)}</span>'
            '<svg class="track" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="{"kept" if part is None else "cut"}" width="{long:.2f}" height="1"/>{inner}</svg>'
            f'<span class="count">{told}</span></li>'
        )
    return f'<ul class="bars" aria-label="{escape(unit)}">' + "".join(lines) + "</ul>"


def areas(edges: Sequence[float], counts: Sequence[int], mark: float, title: str, *, small: bool = False) -> str:
    """A histogram of shares of the image on a logarithmic axis, what is under `mark` in the second colour."""
    width, height, foot = (190, 84, 16) if small else (760, 250, 46)
    low, high = math.log10(edges[0]), math.log10(edges[-1])
    densities = [n / (math.log10(b) - math.log10(a)) for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)]
    top = max(densities) or 1

    def x(value: float) -> float:
        return 4 + (math.log10(value) - low) / (high - low) * (width - 8)

    parts, base = [_opened(width, height, title)], height - foot
    for n, d, a, b in zip(counts, densities, edges[:-1], edges[1:], strict=True):
        tall = d / top * (height - foot - (8 if small else 26))
        kind = "cut" if b <= mark * (1 + 1e-9) else "kept"
        tip = f"{a:.3g} to {b:.3g}: {n}"
        parts.append(_bar(kind, x(a), base - tall, max(0.5, x(b) - x(a) - 1), tall, tip))
    parts.append(f'<line class="axis" x1="4" x2="{width - 4}" y1="{base}" y2="{base}"/>')
    for value, kind in ((PAPER, "guide"), (mark, "mark")):
        if value > edges[0] and (kind == "mark" or abs(mark / value - 1) > 1e-9):
            at = f'x1="{x(value):.1f}" x2="{x(value):.1f}" y1="6" y2="{base}"'
            parts.append(f'<line class="{kind}" {at}/>')
            if not small:
                told = f"{value * 100:g} % of the image"
                parts.append(f'<text class="{kind}" x="{x(value) + 5:.1f}" y="14">{told}</text>')
    ticks = (1e-4, 1e-2, 1) if small else (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1)
    for tick in ticks:
        anchor = "start" if tick <= edges[0] else "end" if tick >= edges[-1] else "middle"
        down = base + (13 if small else 19)
        parts.append(f'<text x="{x(tick):.1f}" y="{down}" text-anchor="{anchor}">{tick * 100:g} %</text>')
    if not small:
        parts.append(
            f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">area of a region, share of its image</text>'
        )
    return "".join([*parts, "</svg>"])


def columns(rows: Sequence[tuple[str, int]], title: str) -> str:
    """Upright bars with their names below."""
    width, height, foot = 760, 160, 46
    most = max((n for _, n in rows), default=0) or 1
    step = min(64, (width - 8) / max(1, len(rows)))
    parts = [_opened(width, height, title)]
    every = max(1, -(-len(rows) // 20))
    for place, (name, n) in enumerate(rows):
        tall, left = n / most * (height - foot - 8), 4 + place * step
        parts.append(_bar("kept", left + 1, height - foot - tall, max(1, step - 2), tall, f"{name}: {n}"))
        if place % every == 0:
            parts.append(
                f'<text x="{left + step / 2:.1f}" y="{height - foot + 19}" text-anchor="middle">{escape(name)}</text>'
            )
    parts.append(f'<line class="axis" x1="4" x2="{width - 4}" y1="{height - foot}" y2="{height - foot}"/>')
    parts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">{escape(title)}</text>')
    return "".join([*parts, "</svg>"])


def heat(counts: Sequence[int], side: int, title: str) -> str:
    """Box centres on a square image, darker for more."""
    most = max(counts) or 1
    cells = []
    for place, n in enumerate(counts):
        if n:
            row, column = divmod(place, side)
            cells.append(
                f'<rect x="{column}" y="{row}" width="1.02" height="1.02" opacity="{0.08 + 0.92 * n / most:.2f}"/>'
            )
    return (f'<svg class="heat" viewBox="0 0 {side} {side}" role="img" aria-label="{escape(title)}">'
            f"<title>{escape(title)}</title>{''.join(cells)}</svg>")  # fmt: skip


def _bar(kind: str, x: float, y: float, width: float, height: float, tip: str) -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {at}><title>{escape(tip)}</title></rect>'


def _opened(width: int, height: int, title: str) -> str:
    told, kind = escape(title), "large" if width > 400 else "little"
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{told}"><title>{told}</title>'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that scrolls sideways where it is too wide; numbers to the right."""
    cells = ["<tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>"]
    for row in rows:
        cells.append("<tr>" + "".join(_cell(v) for v in row) + "</tr>")
    return '<div class="wide"><table>' + "\n".join(cells) + "</table></div>"


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f'<td class="n">{number(value)}</td>'
    return f"<td>{escape(str(value))}</td>"
