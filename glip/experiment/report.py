"""The files of an experiment's results: tables, plots, and what the amounts of data changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from etl.evaluation.detections import read_results, read_truth
from etl.evaluation.lineplot import line_plot
from etl.evaluation.scores import Settings, evaluate
from etl.store import read_json, write_bytes, write_json
from glip.experiment.plots import dots
from glip.experiment.protocol import Protocol, Study, run_folder
from glip.experiment.tables import OVERALL, Result, Table, as_csv, latex, markdown, results, tables

TEXTS = ("results.csv", "table.md", "table.tex")


def report(protocol: Protocol, out: Path) -> dict[str, Any]:
    """Writes the tables, `plots/*.svg` and `summary.json` below `out`; what the summary holds."""
    lines = results(protocol, out)
    found = tables(protocol, lines)
    for name, text in texts(protocol, lines).items():
        write_bytes(out / name, text.encode())
    for table in found:
        for test in dict.fromkeys(row[0] for row in table.rows):
            title = f"{table.study}: {test}" if test != table.study else test
            write_bytes(out / "plots" / f"{table.study}-{test}.svg", dots(title, _points(table, test)).encode())
            curves = _curves(protocol.studies[table.study], table, test)
            if curves:
                svg = line_plot(title, ("share of the training data", "AP"), curves)
                write_bytes(out / "plots" / f"{table.study}-{test}-by-share.svg", svg.encode())
    summary = {
        "title": protocol.title, "order": [row for table in found for row in order(table)],
        "gains": [row for name, study in protocol.studies.items() for row in gains(protocol, name, study, out)],
        "spent": _spent(out),
    }  # fmt: skip
    write_json(out / "summary.json", summary)
    return summary


def texts(protocol: Protocol, lines: Sequence[Result]) -> dict[str, str]:
    """The tables of these lines as text, by file name."""
    found = tables(protocol, lines)
    return dict(zip(TEXTS, (as_csv(lines), markdown(protocol.title, found), latex(protocol.title, found)), strict=True))


def order(table: Table) -> list[dict[str, Any]]:
    """For each model with several amounts and each row: AP by amount, and whether more data was always better."""
    out = []
    for model in dict.fromkeys(m for m, _ in table.columns):
        amounts = [a for m, a in table.columns if m == model]
        for test, group, _ in table.rows if len(amounts) > 1 else []:
            cells = [table.cells.get((test, group, model, a)) for a in amounts]
            values = [c.AP for c in cells if c is not None and c.AP is not None]
            if len(values) == len(amounts):
                rises = all(a < b for a, b in pairwise(values))
                out.append({"study": table.study, "test": test, "group": group, "model": model,
                            "AP": dict(zip(amounts, values, strict=True)), "rises": rises})  # fmt: skip
    return out


def gains(protocol: Protocol, name: str, study: Study, out: Path) -> list[dict[str, Any]]:
    """AP of each amount minus that of the one before, over all of a test set, paired by subject, with intervals."""
    rows = []
    for model, amounts in study.models.items():
        for seed in study.seeds:
            for less, more in pairwise(amounts):
                folders = [run_folder(out, name, model, amount, seed) for amount in (more, less)]
                if not all((f / "run.json").is_file() for f in folders):
                    continue
                for test in study.tests:
                    row = _difference(out, folders, test, protocol.bootstrap)
                    about = {"study": name, "test": test, "model": model, "seed": seed}
                    rows.append(about | {"from": str(less), "to": str(more)} | row)
    return rows


def _difference(out: Path, folders: Sequence[Path], test: str, bootstrap: int) -> dict[str, Any]:
    selection = read_json(folders[0] / "settings.json")["decides"]["tests"][test]["selection"]
    truth = read_truth(out / "selections" / selection / "dataset" / "annotations" / "test.labels.json")
    first, second = (read_results(f / "predictions" / f"{test}.json", truth) for f in folders)
    overall = evaluate(truth, first, Settings(bootstrap=bootstrap), second).document["overall"]
    return {"AP": overall["difference"]["AP"], "interval": overall["difference_intervals"]["AP"]}


def _points(table: Table, test: str) -> list[tuple[str, list[tuple[str, float, float | None, float | None]]]]:
    """(row, [(column, AP, low, high)]) of a test set, all of it first."""
    out = []
    for _, group, _ in (row for row in table.rows if row[0] == test):
        points = []
        for model, amount in table.columns:
            cell = table.cells.get((test, group, model, amount))
            if cell is not None and cell.AP is not None:
                points.append((f"{model}, {amount}", cell.AP, cell.low, cell.high))
        out.append(("all together" if group == OVERALL else group, points))
    return out


def _curves(study: Study, table: Table, test: str) -> list[tuple[str, list[float], list[float]]]:
    """(model, shares of the data, AP of all of a test set) of the first three models with several shares."""
    out = []
    for model, amounts in study.models.items():
        shown = [(a.share, c.AP) for a in amounts if (c := table.cells.get((test, OVERALL, model, str(a)))) is not None]
        known = [(share, ap) for share, ap in shown if share is not None and ap is not None]
        if len(known) > 1:
            out.append((model, [share for share, _ in known], [ap for _, ap in known]))
    return out[:3]


def _spent(out: Path) -> dict[str, float]:
    """Seconds of all runs together."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("runs/*/*/*/run.json"))]
    return {"runs": len(runs), **{key: round(sum(run[key] for run in runs), 1) for key in ("wall_s", "cpu_s")}}
