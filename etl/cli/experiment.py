"""The commands of experiments: `predict`, and `experiment` with what belongs to it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from etl.cli.common import BUNDLED, AsJson, require_torch, told
from etl.errors import Failure, UsageError

Data = Annotated[Path, typer.Argument(help="A built dataset (the --out of `build`).")]


@told
def predict(
    bundle: Annotated[Path, typer.Argument(help="Folder of a trained model, as `train` leaves it.")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The COCO results file to write.")],
    split: Annotated[str, typer.Option(help="Which part of the dataset.")] = "test",
    level: Annotated[str, typer.Option(help="Ids of the results: label or category.")] = "label",
    modality: Annotated[list[str] | None, typer.Option("--modality", help="These alone; may repeat.")] = None,
    all_labels: Annotated[bool, typer.Option("--all-labels", help="Ask for all labels, not the annotated.")] = False,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of a phrase.")] = 0.05,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Detections of a whole split as COCO results, with the dataset's own ids.

    Each image is asked for the labels that its source annotated, present or absent, or with --all-labels for all of
    the ontology. `evaluate` scores the file.

    Example: medglip-etl predict run/bundle out --split test --out results.json
    """
    require_torch()
    from etl.labels.maps import load_ontology
    from etl.store import write_bytes
    from glip import predict as prediction
    from glip.data import open_dataset
    from glip.ground import Grounder
    from glip.train import label_names

    ontology = load_ontology(BUNDLED / "label_maps")
    ids, names = prediction.category_ids(ontology, level), label_names(ontology)
    source = open_dataset(data, split, labels=names)
    numbers = prediction.rows_of(source, data, modality or [])
    rows = prediction.predict(
        Grounder.load(bundle, device=device, min_score=min_score), source, ids,
        asked=(lambda _: names) if all_labels else prediction.annotated, numbers=numbers,
        tell=lambda done, count: print(f"{done}/{count} images", file=sys.stderr),
    )  # fmt: skip
    write_bytes(out, json.dumps(rows).encode())
    print(f"{len(rows)} detections in {len(numbers)} images in {out}")


class _Default(typer.core.TyperGroup):
    """`experiment PROTOCOL` is `experiment run PROTOCOL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "--help", "-h"}
        return super().parse_args(ctx, args if not args or args[0] in known else ["run", *args])


app = typer.Typer(cls=_Default, no_args_is_help=True, help="""The paper's experiment: models, trained on
    parts of a dataset, tested and compared. `experiment PROTOCOL --data OUT --out DIR` runs what is missing.

    Example: medglip-etl experiment paper --data out --out results""")  # fmt: skip


@app.command("run")
@told
def run(
    protocol: Annotated[str, typer.Argument(help="A YAML file, or a bundled protocol: paper, drawn, samples.")],
    data: Annotated[Path, typer.Option("--data", help="A built dataset (the --out of `build`).")],
    out: Annotated[Path, typer.Option("--out", help="Where the runs and the tables go.")],
    part: Annotated[str, typer.Option(help="K/N: every N-th run from the K-th on, to share the work.")] = "1/1",
    as_json: AsJson = False,
) -> None:
    """Do the runs of a protocol that are missing, then write the tables. Interrupted, it goes on where it was.

    Example: medglip-etl experiment paper --data out --out results
    """
    require_torch()
    from glip.experiment import protocol as protocols
    from glip.experiment.report import report
    from glip.experiment.runs import run_all

    settings = protocols.load(protocol)
    run_all(settings, data, out, lambda line: print(line, file=sys.stderr, flush=True), _part(part))
    summary = report(settings, out)
    if as_json:
        print(json.dumps(summary))
        return
    rising = sum(row["rises"] for row in summary["order"])
    print(f"more data was better in {rising} of {len(summary['order'])} rows")
    print(f"{summary['spent']['runs']} runs in {summary['spent']['cpu_s']:.0f} CPU s; tables in {out / 'table.md'}")


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part {text}: write K/N, as 1/2 and 2/2 for two processes")
    return int(number), int(count)


@app.command("verify")
@told
def verify(
    out: Annotated[Path, typer.Argument(help="The --out of an experiment.")],
    as_json: AsJson = False,
) -> None:
    """Count all scores again from the predictions, and make the tables again; exit 1 where anything differs.

    Example: medglip-etl experiment verify results
    """
    from glip.experiment.verify import verify as verified

    problems = verified(out)
    if as_json:
        print(json.dumps({"ok": not problems, "problems": [{"file": f, "problem": p} for f, p in problems]}))
    for file, problem in problems:
        print(f"{file}: {problem}", file=sys.stderr)
    if problems:
        raise Failure(f"{out}: {len(problems)} of its files do not agree with its predictions")
    if not as_json:
        print(f"{out}: scores and tables are what the predictions give")


@app.command("draw")
@told
def draw(
    folder: Annotated[Path, typer.Argument(help="Where raw/, manifests/ and label_maps/ go.")],
    subjects: Annotated[int, typer.Option(min=8, help="Of each of the nine sources.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
) -> None:
    """Write raw sources of drawn images of all modalities, for the protocol `drawn`.

    Example: medglip-etl experiment draw drawn --subjects 48
    """
    require_torch()
    from glip.experiment.drawn import write

    count = write(folder, subjects=subjects, seed=seed)
    raw, maps = f"--raw {folder / 'raw'} --manifests {folder / 'manifests'}", f"--label-maps {folder / 'label_maps'}"
    print(f"{count} images in {folder}; now: medglip-etl build {raw} {maps} --profile small --out {folder / 'out'}")
