"""`report/index.html`: plain tables and a contact sheet with the boxes drawn in."""

import base64
import hashlib
import heapq
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image, ImageDraw

from etl.labeltable import LabelTable
from etl.manifest import Manifest
from etl.records import Page

SIDE = 256  # longest side of a thumbnail, pixels
PER_SOURCE = 2
SHOWN = 120
COLORS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#42d4f4", "#f032e6", "#bfef45")
STYLE = """body{font:14px sans-serif;margin:2em;max-width:1200px}table{border-collapse:collapse;margin:0 0 2em}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}td.n{text-align:right}
figure{display:inline-block;vertical-align:top;width:256px;margin:4px}figcaption{font-size:11px;word-wrap:break-word}"""


@dataclass(frozen=True, slots=True)
class Shown:
    """An image of the contact sheet: its row and those of its regions."""

    rank: str
    image: dict[str, Any]
    regions: list[dict[str, Any]]


class ContactSheet:
    """Keeps of each source the few images with the smallest hash of their key: a fixed, spread-out choice."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Shown]] = {}

    def add(self, page: Page) -> None:
        """Looks at one page."""
        ranks = [hashlib.sha256(key.encode()).hexdigest() for key in page.images["key"].to_pylist()]
        best = heapq.nsmallest(PER_SOURCE, range(len(ranks)), key=ranks.__getitem__)
        both = [*self.kept.get(page.source, []), *(Shown(ranks[n], *page.rows(n)) for n in best)]
        self.kept[page.source] = sorted(both, key=lambda shown: shown.rank)[:PER_SOURCE]

    def images(self) -> list[Shown]:
        """The chosen images, by source."""
        return [shown for source in sorted(self.kept) for shown in self.kept[source]][:SHOWN]


def thumbnail(shown: Shown) -> bytes:
    """PNG of the image, at most 256 pixels a side, with its boxes drawn."""
    with Image.open(io.BytesIO(shown.image["png"])) as stored:
        scale = min(1.0, SIDE / max(stored.size))
        size = (max(1, round(stored.width * scale)), max(1, round(stored.height * scale)))
        picture = stored.convert("RGB").resize(size)
    draw = ImageDraw.Draw(picture)
    for region in shown.regions:
        x, y, w, h = (region[name] * scale for name in "xywh")
        draw.rectangle((x, y, max(x, x + w - 1), max(y, y + h - 1)), outline=color(region["label_id"]))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def color(label_id: int) -> str:
    """The colour of a label's boxes."""
    return COLORS[label_id % len(COLORS)]


def figure(shown: Shown, labels: LabelTable) -> str:
    """One thumbnail with its legend."""
    data = base64.b64encode(thumbnail(shown)).decode()
    names = {labels.label[region["label_id"]].as_py(): color(region["label_id"]) for region in shown.regions}
    legend = ", ".join(f'<span style="border-bottom:3px solid {c}">{escape(n)}</span>' for n, c in names.items())
    key = escape(shown.image["key"])
    image = f'<img alt="{key}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{key}<br>{legend}</figcaption></figure>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; numbers to the right."""
    lines = ["<table><tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>"]
    for row in rows:
        cells = (f"<td{' class=n' if isinstance(v, int | float) else ''}>{escape(str(v))}</td>" for v in row)
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def flat(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Nested numbers as (path, value) rows."""
    if not isinstance(value, dict):
        return [(" / ".join(path), value)]
    return [row for key in sorted(value, key=str) for row in flat(value[key], (*path, str(key)))]


def page(
    stats: dict[str, Any], manifests: Sequence[Manifest], sheet: ContactSheet, labels: LabelTable
) -> str:
    """The whole page."""
    parts = [f"<h1>Dataset</h1><p>{stats['images']} images, {stats['regions']} regions.</p>"]
    sources = [(m.slug, m.title, m.modality, m.license.name, m.license.redistribution, m.status) for m in manifests]
    head = ("source", "title", "modality", "license", "redistribution", "status")
    parts.append("<h2>Sources</h2>" + table(head, sources))
    for key, values in stats["by"].items():
        rows = [(name, n["images"], n["regions"]) for name, n in values.items()]
        parts.append(f"<h2>By {escape(key.replace('_', ' '))}</h2>" + table((key, "images", "regions"), rows))
    parts.append("<h2>Books</h2>" + table(("stage", "number"), flat(stats["books"])))
    small = [(label, n.get("kept", 0), n.get("dropped", 0)) for label, n in sorted(stats["too_small"].items())]
    parts.append("<h2>Too small</h2>" + table(("label", "kept", "dropped"), small))
    parts.append("<h2>Contact sheet</h2>" + "\n".join(figure(shown, labels) for shown in sheet.images()))
    top = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Dataset</title><style>{STYLE}</style>'
    return f"{top}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
