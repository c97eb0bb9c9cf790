"""`evaluate`: any detector's COCO results held against a built dataset or any COCO ground truth."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.common import AsJson, told
from etl.errors import UsageError

Results = Annotated[Path, typer.Argument(help="COCO results: a list of {image_id, category_id, bbox, score}.")]
Dataset = Annotated[Path | None, typer.Option("--dataset", help="The --out of a build: its split is the ground truth.")]
TruthFile = Annotated[Path | None, typer.Option("--truth", help="Any COCO ground truth instead of --dataset.")]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]
Level = Annotated[str, typer.Option(help="Whose ids the results have: category or label.")]
Protocol = Annotated[str, typer.Option(
    help="coco: not annotated is absent. federated: only where presence or absence is known. auto: federated "
    "where the ground truth has neg_category_ids.")]  # fmt: skip
Against = Annotated[Path | None, typer.Option(help="Other results on the same images, for paired differences.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples of the subjects for the intervals; 0: none.")]
Report = Annotated[Path | None, typer.Option(help="Folder for tables, curves, failure sheets and the page.")]
Images = Annotated[Path | None, typer.Option(help="Where the pictures of --truth lie, for the failure sheets.")]


@told
def evaluate(
    results: Results,
    dataset: Dataset = None,
    truth: TruthFile = None,
    split: Split = "test",
    level: Level = "category",
    protocol: Protocol = "auto",
    against: Against = None,
    bootstrap: Bootstrap = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    report: Report = None,
    images: Images = None,
    as_json: AsJson = False,
) -> None:
    """AP and AR of detections, overall and by group, with 95 % intervals.

    Example: medglip-etl evaluate results.json --dataset out --split test --report scores
    """
    from etl.evaluation import scores as evaluation
    from etl.evaluation.detections import read_results
    from etl.evaluation.provenance import git_commit, versions

    settings = evaluation.Settings(protocol, bootstrap, seed)
    known = _truth(dataset, truth, split, level)
    other = read_results(against, known) if against else None
    done = evaluation.evaluate(known, read_results(results, known), settings, other)
    chosen = {"split": split, "level": level} if dataset else {}
    done.document["settings"] |= chosen
    done.document.update(versions=versions(), git_commit=git_commit())
    if report:
        _write(report, done, dataset, split, images)
    print(json.dumps(done.document) if as_json else _text(done.document))


def _truth(dataset: Path | None, truth: Path | None, split: str, level: str) -> Any:
    from etl.evaluation.detections import read_dataset, read_truth

    if (dataset is None) == (truth is None):
        raise UsageError("give the ground truth: either --dataset OUT of a build or --truth FILE")
    if level not in ("category", "label"):
        raise UsageError(f"--level {level}: it is category or label")
    return read_truth(truth) if truth else read_dataset(dataset, split, level) if dataset else None


def _write(report: Path, done: Any, dataset: Path | None, split: str, images: Path | None) -> None:
    from etl.evaluation.failures import pictures_in, pictures_of
    from etl.evaluation.report import write_report

    pictures = pictures_in(images) if images else pictures_of(dataset, split) if dataset else None
    write_report(report, done, pictures)


def _text(document: dict[str, Any]) -> str:
    from etl.evaluation.report import number, summary

    lines = [f"{name:20} {value}" for name, value in summary(document)]
    for row in document["groups"]:
        if row["boxes"]:
            value = number(row["metrics"]["AP"], row["intervals"]["AP"])
            lines.append(f"{row['by'].replace('_', ' '):12} {row['name']:34} AP {value}")
    return "\n".join(lines)
