"""The files of an evaluation: JSON, CSV, Markdown, precision-recall curves, failure sheets, one HTML page."""

import base64
import csv
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from etl.evaluation import failures
from etl.evaluation.detections import Truth
from etl.evaluation.lineplot import line_plot
from etl.evaluation.precision import AT_50, AT_75, METRICS, RECALLS, Floats, curves
from etl.evaluation.scores import Evaluation
from etl.markdown import table as pipes
from etl.store import write_bytes

STYLE = """body{font:14px sans-serif;margin:2em;max-width:1200px}table{border-collapse:collapse;margin:0 0 2em}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}td.n{text-align:right}"""

COLUMNS = ("AP", "AP50", "AP75", "AR@100")
"""The metrics that the pages show; the CSV has all."""
Curve = tuple[str, str, str, Floats]  # by, name, line, precision at RECALLS


def write_report(folder: Path, evaluation: Evaluation, pictures: failures.Pictures | None) -> None:
    """Writes all files below `folder`; those of an earlier evaluation there are replaced.

    Raises UsageError where `pictures` has none of the pictures.
    """
    document = evaluation.document
    sheets = _sheets(evaluation, pictures)
    drawn = _curves(evaluation)
    plots = _plots(drawn)
    for old in (*folder.glob("curves/*.svg"), *folder.glob("failures/*.png")):
        old.unlink()
    files = {
        "evaluation.json": orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n",
        "groups.csv": _groups_csv(document).encode(),
        "curves.csv": _curves_csv(drawn).encode(),
        "report.md": markdown(document).encode(),
        "index.html": _page(document, plots, sheets).encode(),
    }
    files |= {f"curves/{name}.svg": svg.encode() for name, svg in plots.items()}
    files |= {f"failures/{n + 1:02}.png": png for n, (_, png) in enumerate(sheets)}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, content)


def _plots(lines: Sequence[Curve]) -> dict[str, str]:
    """File name without ending → SVG, one for the three lines of a group."""
    plots: dict[str, str] = {}
    for n in range(0, len(lines), 3):
        by, name = lines[n][:2]
        stem = f"{by}-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        stem += f"-{n // 3}" if stem in plots else ""
        drawn = [(line, RECALLS.tolist(), values.tolist()) for _, _, line, values in lines[n : n + 3]]
        plots[stem] = line_plot(f"{by.replace('_', ' ')}: {name}", ("recall", "precision"), drawn)
    return plots


def _curves(evaluation: Evaluation) -> list[Curve]:
    """Three lines for each group that has boxes: overlap 0.5, 0.75, and the mean of all thresholds."""
    lines: list[Curve] = []
    known: dict[int, Floats] = {}
    for group in evaluation.groups:
        if id(group.images) not in known:
            known[id(group.images)] = curves(evaluation.table.within(group.images), group.images.astype(np.int64))
        mine = known[id(group.images)][group.categories]
        mine = mine[~np.isnan(mine[:, 0, 0])]
        if not len(mine):
            continue
        mean = mine.mean(axis=0)
        drawn = (("IoU 0.50", mean[AT_50]), ("IoU 0.75", mean[AT_75]), ("IoU 0.50:0.95", mean.mean(axis=0)))
        lines += [(group.by, group.name, line, values) for line, values in drawn]
    return lines


def _sheets(evaluation: Evaluation, pictures: failures.Pictures | None) -> list[tuple[str, bytes]]:
    """(text, PNG) of each failure sheet."""
    truth, federated = evaluation.truth, evaluation.document["protocol"] == "federated"
    best = failures.at_score(truth, evaluation.matches, failures.operating_score(evaluation.matches), federated)
    chosen = failures.worst(truth, best)
    shown = pictures([truth.images[failing.image] for failing in chosen]) if pictures else {}
    sheets = []
    for failing in chosen:
        drawn = failures.sheet(truth, best, failing, shown.get(truth.images[failing.image]["id"]))
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG")
        sheets.append((_title(truth, failing), buffer.getvalue()))
    return sheets


def _title(truth: Truth, failing: failures.Failing) -> str:
    name = failures.named(truth.images[failing.image])
    return f"{name}: {failing.missed} missed, {failing.wrong} wrong"


def _rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [document["overall"], *document["groups"]]


def _groups_csv(document: dict[str, Any]) -> str:
    """One line a group, all metrics, each with the bounds of its interval; empty where undefined."""
    pairs = [("metrics", "intervals", "")]
    if document["against"]:
        pairs += [("against", "", "against_"), ("difference", "difference_intervals", "difference_")]
    plain = ("by", "name", "images", "images_with_boxes", "units", "units_with_boxes", "boxes", "detections")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = list(plain)
    for _, bounds, before in pairs:
        head += [before + m + end for m in METRICS for end in ("", "_low", "_high")[: 3 if bounds else 1]]
    writer.writerow(head)
    for row in _rows(document):
        cells = [row[key] for key in plain]
        for value, bounds, _ in pairs:
            for metric in METRICS:
                cells += [row[value][metric], *((row[bounds][metric] or (None, None)) if bounds else ())]
        writer.writerow(cells)
    return out.getvalue()


def _curves_csv(lines: Sequence[Curve]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("by", "name", "line", "recall", "precision"))
    for by, name, line, values in lines:
        writer.writerows((by, name, line, f"{r:.2f}", repr(p)) for r, p in zip(RECALLS, values.tolist(), strict=True))
    return out.getvalue()


def number(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """A metric with its interval, as the pages show it."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def summary(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of everything that belongs to the evaluation as a whole."""
    overall, found = document["overall"], document["detections"]
    rows = [(m, number(overall["metrics"][m], overall["intervals"][m])) for m in METRICS]
    if document["against"]:
        difference = overall["difference"], overall["difference_intervals"]
        rows += [(f"{m}, difference", number(difference[0][m], difference[1][m])) for m in METRICS]
    if document["protocol"] == "federated":
        rows += [(f"{m}, plain COCO", number(document["plain_coco"][m])) for m in ("AP", "AP50")]
    return [
        *rows, ("protocol", document["protocol"]),
        ("images", f"{overall['images']}, {overall['images_with_boxes']} with boxes"),
        *_subjects(document),
        ("boxes", str(overall["boxes"])),
        ("detections", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in found.items())),
        *((key, f"{document[key]['name']} {document[key]['sha256'][:12]}")
          for key in ("truth", "results", "against") if document[key]),
    ]  # fmt: skip


def _subjects(document: dict[str, Any]) -> list[tuple[str, str]]:
    if document["bootstrap_unit"] != "subject":
        return [("intervals", "over images: the ground truth names no subjects")]
    return [("subjects", f"{document['overall']['units']}, {document['overall']['units_with_boxes']} with boxes")]


def _tables(document: dict[str, Any]) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """By grouping: head and rows; images and subjects are those with boxes, groups without are left to the CSV."""
    compared = [f"{m}, difference" for m in COLUMNS[:2]] if document["against"] else []
    tables: dict[str, tuple[list[str], list[list[Any]]]] = {}
    for row in document["groups"]:
        if not row["boxes"]:
            continue
        cells = [row["name"], row["images_with_boxes"], row["units_with_boxes"], row["boxes"], row["detections"]]
        cells += [number(row["metrics"][m], row["intervals"][m]) for m in COLUMNS]
        cells += [number(row["difference"][m], row["difference_intervals"][m]) for m in COLUMNS[: len(compared)]]
        head = [row["by"].replace("_", " "), "images", document["bootstrap_unit"] + "s", "boxes", "detections"]
        tables.setdefault(row["by"], ([*head, *COLUMNS, *compared], []))[1].append(cells)
    return tables


def markdown(document: dict[str, Any]) -> str:
    """The report as Markdown."""
    parts = ["# Evaluation\n", pipes(["metric", "value"], summary(document))]
    for head, rows in _tables(document).values():
        parts += [f"## By {head[0]}\n", pipes(head, rows)]
    return "\n".join(parts)


def _page(document: dict[str, Any], plots: dict[str, str], sheets: Sequence[tuple[str, bytes]]) -> str:
    parts = ["<h1>Evaluation</h1>", table(("metric", "value"), summary(document))]
    for head, rows in _tables(document).values():
        parts.append(f"<h2>By {escape(head[0])}</h2>" + table(head, rows))
    parts.append("<h2>Precision and recall</h2>" + "\n".join(plots.values()))
    parts.append(f"<h2>Worst images</h2><p>{failures.KEY}.</p>")
    for title, png in sheets:
        data = base64.b64encode(png).decode()
        parts.append(f'<img alt="{escape(title)}" title="{escape(title)}" src="data:image/png;base64,{data}">')
    style = STYLE + "\nimg{vertical-align:top}"
    top = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title><style>{style}</style>'
    return f"{top}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; numbers to the right."""
    lines = ["<table><tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>"]
    for row in rows:
        cells = (f"<td{' class=n' if isinstance(v, int | float) else ''}>{escape(str(v))}</td>" for v in row)
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
