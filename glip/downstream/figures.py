"""The files of an experiment: tables and bar charts of the arms with intervals, published numbers beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from etl.errors import Failure, UsageError
from etl.evaluation.lineplot import COLORS
from etl.markdown import table
from etl.store import write_bytes, write_json
from glip.downstream.arms import ARMS
from glip.downstream.experiment import Outcome

FIGURES = {"vqa": "figure6", "report": "figure7"}
"""The figures of the paper that these are for one's own run."""
PUBLISHED = Path(__file__).with_name("published.csv")
HEAD = ("dataset", "model", "arm", "metric", "value", "source")
FILL = {
    "none": "#999999", "predicted": COLORS[0], "reference": COLORS[2], "shuffled": COLORS[1], "published": "#ffffff",
}  # fmt: skip
WIDTH, HEIGHT, TOP, FOOT, LEFT = 190, 210, 34, 40, 40
Row = dict[str, str]


def published(dataset: str, more: Path | None = None) -> list[Row]:
    """Published numbers of a dataset: the bundled ones, and those of a file with the same columns."""
    rows: list[Row] = []
    for path in (PUBLISHED, *([more] if more else ())):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                found = list(csv.DictReader(file))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        if found and set(HEAD) - set(found[0]):
            raise Failure(f"{path}: its columns are not {', '.join(HEAD)}")
        rows += [row for row in found if row["dataset"] == dataset]
    return rows


def write(out: Path, outcome: Outcome, dataset: str, rows: Sequence[Row]) -> None:
    """`result.json`, `table.csv`, `table.md`, the figure as SVG, and `texts/<arm>.jsonl` below `out`."""
    document = outcome.document
    name = FIGURES[document["task"]]
    write_json(out / "result.json", {**document, "dataset": dataset, "published": list(rows)})
    write_bytes(out / "table.csv", table_csv(document, rows).encode())
    write_bytes(out / "table.md", table_md(document, rows).encode())
    write_bytes(out / f"{name}.svg", chart(f"{dataset}: {document['items']} items", document["arms"], rows).encode())
    for arm, texts in outcome.texts.items():
        lines = [json.dumps({"id": k, "text": v}, ensure_ascii=False) for k, v in texts.items()]
        write_bytes(out / "texts" / f"{arm}.jsonl", "".join(line + "\n" for line in lines).encode())


def number(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """A metric with its interval."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def table_csv(document: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """One line an arm and metric, then the published numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    bounded = [f"{name}{end}" for name in ("value", "difference") for end in ("", "_low", "_high")]
    writer.writerow(("arm", "metric", *bounded, "source"))
    for arm, metrics in document["arms"].items():
        for metric, cell in metrics.items():
            bounds = cell["interval"] or (None, None), cell["difference_interval"] or (None, None)
            writer.writerow((arm, metric, cell["value"], *bounds[0], cell["difference"], *bounds[1], "this run"))
    for row in rows:
        writer.writerow((f"{row['model']}, {row['arm']}", row["metric"], row["value"], *[""] * 5, row["source"]))
    return text.getvalue()


def table_md(document: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Metrics by arms, each with its 95 % interval; differences to `none` below; published numbers last."""
    arms = document["arms"]
    names = list(next(iter(arms.values())))
    by_model = {f"{r['model']} ({r['arm']}, published)": {} for r in rows}  # type: dict[str, dict[str, str]]
    for row in rows:
        by_model[f"{row['model']} ({row['arm']}, published)"][row["metric"]] = row["value"]
    head = ["metric", *arms, *by_model]
    lines = []
    for name in names:
        mine = [number(arms[arm][name]["value"], arms[arm][name]["interval"]) for arm in arms]
        lines.append([name, *mine, *(m.get(name, "–") for m in by_model.values())])
    others = [arm for arm in arms if arm != "none"]
    changes = []
    for name in names:
        cells = [number(arms[a][name]["difference"], arms[a][name]["difference_interval"]) for a in others]
        changes.append([name, *cells])
    return "\n".join([table(head, lines), table(["difference to none", *others], changes), *_notes(document), ""])


def _notes(document: Mapping[str, Any]) -> list[str]:
    notes = [f"- {document['items']} items of {document['units']} {document['unit']}s; 95 % intervals of a paired "
             f"bootstrap over them, {document['bootstrap']['resamples']} resamples"]  # fmt: skip
    for arm, counts in document["regions"].items():
        notes.append(f"- {arm}: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in counts.items()))
    notes += [f"- {arm}: {n} items without an answer, counted as wrong" for arm, n in document["open"].items() if n]
    notes += [f"- {arm}: {n} refused" for arm, n in document.get("refused", {}).items() if n]
    notes += [f"- no {what}: {why}" for what, why in document.get("missing", {}).items()]
    return notes


def chart(title: str, arms: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """A panel a metric: a bar an arm with its interval, and hollow bars for published numbers. SVG text."""
    names = list(next(iter(arms.values())))
    across = min(4, len(names))
    down = -(-len(names) // across)
    width, height = across * WIDTH, down * HEIGHT + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="10">', f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-size="13">{escape(title)}</text>',
    ]  # fmt: skip
    for n, arm in enumerate([a for a in ARMS if a in arms]):
        parts.append(f'<rect x="{8 + 90 * n}" y="24" width="10" height="10" fill="{FILL[arm]}"/>')
        parts.append(f'<text x="{22 + 90 * n}" y="33">{arm}</text>')
    for n, name in enumerate(names):
        cells = [(arm, arms[arm][name]["value"], arms[arm][name]["interval"]) for arm in ARMS if arm in arms]
        cells += [("published", float(r["value"]), None) for r in rows if r["metric"] == name]
        parts.append(f'<g transform="translate({n % across * WIDTH} {44 + n // across * HEIGHT})">')
        parts += [*_panel(name, cells), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _panel(name: str, cells: Sequence[tuple[str, float | None, Sequence[float] | None]]) -> list[str]:
    top = max([1.0, *(v for _, v, _ in cells if v is not None), *(b[1] for _, _, b in cells if b)])
    scale = (HEIGHT - TOP - FOOT) / top
    base = HEIGHT - FOOT
    parts = [f'<text x="{LEFT}" y="{TOP - 10}">{escape(name)}</text>']
    for tick in (0, top / 2, top):
        y = base - tick * scale
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 8}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{tick:.2g}</text>')
    step = (WIDTH - LEFT - 12) / max(1, len(cells))
    for n, (arm, value, bounds) in enumerate(cells):
        if value is None:
            continue
        x, tall = LEFT + 4 + n * step, value * scale
        line = ' stroke="#333" stroke-dasharray="3 2"' if arm == "published" else ""
        parts.append(f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{step - 6:.1f}" height="{tall:.1f}" '
                     f'fill="{FILL[arm]}"{line}><title>{arm} {value:.3f}</title></rect>')  # fmt: skip
        parts.append(f'<text x="{x + step / 2 - 3:.1f}" y="{base + 13}" text-anchor="middle">{value:.2f}</text>')
        if bounds:
            low, high, mid = base - bounds[0] * scale, base - bounds[1] * scale, x + step / 2 - 3
            parts.append(f'<path d="M{mid:.1f} {low:.1f}V{high:.1f}" stroke="black" stroke-width="1.2"/>')
    return parts
