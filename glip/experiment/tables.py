"""The results of an experiment as tables: CSV, Markdown, LaTeX, with the paper's numbers beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from etl.evaluation.scores import IMAGE_GROUPINGS
from etl.markdown import table as pipes
from etl.store import read_json
from glip.experiment.protocol import Protocol, Study, run_folder

METRICS = ("AP", "AP50", "AP75", "AR@100")
OVERALL = "all"
Bounds = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the CSV: a model after one training, on one group of a test set; metrics are shares of 1."""

    study: str
    model: str
    amount: str
    seed: int
    test: str
    by: str
    name: str
    images: int
    subjects: int
    boxes: int
    trained_subjects: int
    trained_images: int
    metrics: dict[str, float | None]
    bounds: dict[str, Bounds]


def results(protocol: Protocol, out: Path) -> list[Result]:
    """The lines of all finished runs, in the protocol's order; groups without a box to find are left out."""
    lines = []
    for name, study in protocol.studies.items():
        for model, amounts in study.models.items():
            for amount in amounts:
                for seed in study.seeds:
                    folder = run_folder(out, name, model, amount, seed)
                    if (folder / "run.json").is_file():
                        lines += list(_of_run(folder, study.by))
    return lines


def _of_run(folder: Path, by: str) -> Iterable[Result]:
    decides = read_json(folder / "settings.json")["decides"]
    trained = decides["training"] or {"subjects": 0, "images": 0}
    for test in decides["tests"]:
        document = read_json(folder / "scores" / f"{test}.json")
        wanted = by if by in IMAGE_GROUPINGS else "category"  # labels are the categories of a selection
        rows = [document["overall"], *(row for row in document["groups"] if row["by"] == wanted and row["boxes"])]
        for row in rows:
            bounds = {m: tuple(row["intervals"][m]) if row["intervals"][m] else None for m in METRICS}
            yield Result(
                decides["study"], decides["model"], decides["amount"], decides["seed"], test,
                "overall" if row is rows[0] else by, OVERALL if row is rows[0] else row["name"],
                row["images_with_boxes"], row["units_with_boxes"], row["boxes"],
                trained["subjects"], trained["images"], {m: row["metrics"][m] for m in METRICS}, bounds,
            )  # fmt: skip


def as_csv(lines: Sequence[Result]) -> str:
    """All lines with intervals."""
    plain = [field.name for field in fields(Result) if field.name not in ("metrics", "bounds")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*plain, *(f"{m}{end}" for m in METRICS for end in ("", "_low", "_high"))])
    for line in lines:
        cells: list[Any] = [getattr(line, name) for name in plain]
        for metric in METRICS:
            cells += [line.metrics[metric], *(line.bounds[metric] or (None, None))]
        writer.writerow(cells)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows of one model and amount in one row: means over the seeds."""

    AP: float | None
    AP50: float | None
    low: float | None
    high: float | None
    """The widest bounds of AP's intervals over the seeds."""


@dataclass(frozen=True, slots=True)
class Table:
    """One study as a table: a row for each group of each test set, a column for each model and amount."""

    study: str
    about: str
    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, int]]
    """(test, group, subjects)."""
    cells: dict[tuple[str, str, str, str], Cell]
    """By test, group, model and amount."""
    paper: dict[tuple[str, str, str, str], tuple[float | None, float | None]]
    """The paper's AP and AP50, by the same."""


def tables(protocol: Protocol, lines: Sequence[Result]) -> list[Table]:
    """A table of each study that has a finished run."""
    out = []
    for name, study in protocol.studies.items():
        mine = [line for line in lines if line.study == name]
        if mine:
            out.append(_table(protocol, name, study, mine))
    return out


def _table(protocol: Protocol, name: str, study: Study, lines: Sequence[Result]) -> Table:
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for line in lines:
        groups.setdefault((line.test, line.name, line.model, line.amount), []).append(line)
    paper = {(p.test, p.name, p.model, str(p.amount)): (p.AP, p.AP50) for p in protocol.paper if p.study == name}
    columns = [(m, str(a)) for m, amounts in study.models.items() for a in amounts]
    rows = list(dict.fromkeys((line.test, line.name, line.subjects) for line in lines))
    rows += [(t, n, 0) for t, n in dict.fromkeys(k[:2] for k in paper) if (t, n) not in {r[:2] for r in rows}]
    return Table(name, study.about, columns, rows, {k: _cell(v) for k, v in groups.items()}, paper)


def _cell(lines: Sequence[Result]) -> Cell:
    bounds = [b for line in lines if (b := line.bounds["AP"]) is not None]
    return Cell(
        _mean([line.metrics["AP"] for line in lines]), _mean([line.metrics["AP50"] for line in lines]),
        min((b[0] for b in bounds), default=None), max((b[1] for b in bounds), default=None),
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def percent(value: float | None) -> str:
    """A share of 1 as the paper writes it: 82.7."""
    return "–" if value is None else f"{100 * value:.1f}"


def _shown(table: Table, key: tuple[str, str, str, str]) -> str:
    """AP with its interval, AP50, and the paper's AP where it has one."""
    cell, paper = table.cells.get(key), table.paper.get(key)
    text = "–"
    if cell is not None:
        text = percent(cell.AP)
        text += f" [{percent(cell.low)}, {percent(cell.high)}]" if cell.low is not None else ""
        text += f" / {percent(cell.AP50)}"
    return text + (f"; paper {percent(paper[0])} / {percent(paper[1])}" if paper else "")


def _head(table: Table) -> list[str]:
    return ["test", "group", "subjects", *(f"{model}, {amount}" for model, amount in table.columns)]


def _body(table: Table) -> list[list[str]]:
    return [
        [test, group, str(subjects or "–"), *(_shown(table, (test, group, m, a)) for m, a in table.columns)]
        for test, group, subjects in table.rows
    ]


def markdown(title: str, found: Sequence[Table]) -> str:
    """All tables as Markdown."""
    parts = [f"# {title}\n", "AP [95 % interval] / AP50, in percent; means over the seeds, widest interval of them.\n"]
    for table in found:
        parts += [f"## {table.study}\n", *([f"{table.about}\n"] if table.about else [])]
        parts.append(pipes(_head(table), _body(table)))
    return "\n".join(parts)


def latex(title: str, found: Sequence[Table]) -> str:
    """All tables as LaTeX, for booktabs."""
    parts = [f"% {title}"]
    for table in found:
        columns = "llr" + "l" * len(table.columns)
        parts += ["\\begin{table}", f"\\caption{{{_tex(table.about or table.study)}}}",
                  f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]  # fmt: skip
        parts += [" & ".join(map(_tex, _head(table))) + " \\\\", "\\midrule"]
        parts += [" & ".join(map(_tex, line)) + " \\\\" for line in _body(table)]
        parts += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(parts)


TEX = {"\\": "\\textbackslash{}", "–": "--", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": "\\textasciitilde{}",
       "^": "\\textasciicircum{}"}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)
