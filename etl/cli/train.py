"""The commands of the model: train, ground, onnx."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.common import require_torch, told
from etl.errors import Failure, UsageError

Bundle = Annotated[Path, typer.Option("--bundle", help="Folder of a trained model, as `train` leaves it.")]
Modality = Annotated[str | None, typer.Option("--modality", help="ct, mri, ultrasound, xray, dermoscopy, …")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@told
def train(
    data: Annotated[Path, typer.Argument(help="A built dataset (the --out of `build`).")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run: checkpoint, losses, TensorBoard, bundle.")],
    size: Annotated[str | None, typer.Option(help="nano [default], or glip_t.")] = None,
    preset: Annotated[str | None, typer.Option(help="paper, better or nano [that of the size].")] = None,
    split: Annotated[str, typer.Option(help="Which part of the dataset.")] = "train",
    modality: Annotated[list[str] | None, typer.Option("--modality", help="Train these alone; may repeat.")] = None,
    init: Annotated[Path | None, typer.Option(help="Official GLIP weights, .pth or .safetensors.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Start from this model; new modalities get an expert.")] = None,
    text: Annotated[str | None, typer.Option(help="Folder or hub name of the language encoder.")] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="language, trunk, fpn, head or shared; may repeat.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step and process.")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Steps an update.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the images.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates, instead of epochs.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm.")] = None,
    amp: Annotated[bool | None, typer.Option("--amp/--no-amp", help="bfloat16 products [on CUDA].")] = None,
    temperature: Annotated[float | None, typer.Option(help="Modalities are drawn by images^(1/temperature).")] = None,
    augment: Annotated[bool | None, typer.Option("--augment/--no-augment", help="Change images at random.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="Threads that prepare batches.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Updates between checkpoints.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many images.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
) -> None:
    """Train GLIP on a built dataset: one image encoder per modality, one shared language encoder.

    Example: medglip-etl train out --out run --size nano
    """
    require_torch()
    from glip.experts import bundle_size
    from glip.recipe import RunConfig
    from glip.recipe import preset as recipe
    from glip.train import fit

    if bundle is not None and size is not None:
        raise UsageError("--bundle has its own size: leave out --size")
    size = bundle_size(bundle) if bundle is not None else size or "nano"
    config = recipe(
        preset or ("nano" if size == "nano" else "better"), lr=lr, batch=batch, accumulate=accumulate, epochs=epochs,
        steps=steps, clip=clip, temperature=temperature, amp=amp, augment=augment, seed=seed, threads=threads,
        save_every=save_every, freeze=tuple(freeze) if freeze else None,
    )  # fmt: skip
    where = RunConfig(data, out, size, split, tuple(modality or ()), init, bundle, text, limit, resume)
    bundle_folder = fit(where, config)
    if os.environ.get("RANK", "0") == "0":  # one of the processes that torchrun started
        print(f"the model is in {bundle_folder}")


@told
def ground(
    image: Annotated[Path, typer.Argument(help="A picture, a volume, or a folder of them.")],
    prompt: Annotated[str, typer.Option("--prompt", help="'liver. spleen.' or 'Detect: liver, spleen'.")],
    bundle: Bundle,
    modality: Modality = None,
    out: Annotated[Path | None, typer.Option("--out", help="Pictures and COCO results go here.")] = None,
    axis: Annotated[str, typer.Option(help="How volumes are cut: axial, coronal or sagittal.")] = "axial",
    stride: Annotated[int, typer.Option(min=1, help="Every so many slices of a volume.")] = 1,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Boxes below are left out.")] = 0.25,
    device: Device = "cpu",
) -> None:
    """Boxes for the phrases of a prompt, as one JSON document on stdout.

    Example: medglip-etl ground scan.nii.gz --prompt "liver. spleen." --bundle run/bundle --modality ct --out found
    """
    require_torch()
    from glip.ground import Grounder, coco_results
    from glip.phrases import parse

    if not image.exists():
        raise UsageError(f"{image}: no such file or folder")
    if axis not in ("axial", "coronal", "sagittal"):
        raise UsageError(f"--axis {axis}: it is axial, coronal or sagittal")
    phrases = parse(prompt)
    grounder = Grounder.load(bundle, device=device)
    seen = list(_views(image, modality, axis=axis, stride=stride))
    if not seen:
        raise Failure(f"no image below {image} could be read")
    found: list[Any] = []
    for view in seen:
        boxes = [b for b in grounder.ground(view.image, phrases, modality=modality) if b.score >= min_score]
        found.append((view, boxes))
    if out is not None:
        _written(out, found, coco_results(found, phrases))
    print(json.dumps({"prompt": list(phrases), "images": [_row(view, boxes) for view, boxes in found]}))


@told
def onnx(
    bundle: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    path: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    modality: Annotated[str, typer.Option("--modality", help="Whose expert.")],
    height: Annotated[int, typer.Option(min=32, help="Of the scaled image; rounded up to a multiple of 32.")] = 256,
    width: Annotated[int, typer.Option(min=32, help="Of the scaled image; rounded up to a multiple of 32.")] = 320,
    tokens: Annotated[int, typer.Option(min=3, max=256, help="Tokens of a prompt, padding included.")] = 256,
) -> None:
    """One expert as ONNX, for a fixed image size.

    Example: medglip-etl onnx run/bundle ct.onnx --modality ct --height 128 --width 160
    """
    require_torch()
    from glip.experts import load_bundle
    from glip.onnx import export

    export(path, load_bundle(bundle, only=modality)[0], modality, height=height, width=width, tokens=tokens)
    print(f"written to {path}")


def _views(path: Path, modality: str | None, *, axis: str, stride: int) -> Any:
    from glip.slices import views, views_below

    def tell(message: str) -> None:
        print(message, file=sys.stderr)

    if path.is_dir():
        return views_below(path, modality, axis=axis, stride=stride, tell=tell)
    return views(path, modality, axis=axis, stride=stride)


def _row(view: Any, boxes: list[Any]) -> dict[str, Any]:
    items = [{"phrase": b.phrase, "score": round(b.score, 4), "bbox": [round(v, 1) for v in b.bbox]} for b in boxes]
    return {"image": view.name, "width": view.image.shape[1], "height": view.image.shape[0], "boxes": items}


def _written(out: Path, found: list[Any], results: dict[str, Any]) -> None:
    from glip.slices import drawn

    out.mkdir(parents=True, exist_ok=True)
    for view, boxes in found:
        name = view.name.replace("/", "-").replace(":", "-")
        drawn(view.image, [(b.phrase, b.score, b.bbox) for b in boxes]).save(out / f"{name}.png")
    (out / "results.json").write_text(json.dumps(results) + "\n")
