"""The commands of experiments: `predict`, and `experiment` with what belongs to it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from etl.cli_common import BUNDLED, told
from etl.cli_train import require_torch

Data = Annotated[Path, typer.Argument(help="A built dataset (the --out of `build`).")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(predict)


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
    from etl.labelmap import load_ontology
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
