"""`downstream`: medical VQA and report generation with and without found regions, in four arms."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.common import AsJson, require_torch, told
from etl.errors import Failure, UsageError

app = typer.Typer(no_args_is_help=True, help="VQA and reports with and without found regions.")
Data = Annotated[Path, typer.Argument(help="Folder that the dataset unpacks to (or its annotation file).")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images, where it is not the dataset's usual one.")]
FoundIn = Annotated[Path, typer.Option("--found", help="What `ground IMAGES --out FOLDER` wrote.")]
Bundle = Annotated[Path | None, typer.Option(help="The model that found it: images without an expert go with `none`.")]
OutDir = Annotated[Path, typer.Option("--out", help="Folder for tables, figure and texts.")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Found regions below are left out.")]
Seed = Annotated[int, typer.Option(min=0, help="Of shuffling, training and resamples.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples of the images for the intervals; 0: none.")]
Published = Annotated[Path | None, typer.Option(
    "--published", help="CSV with more published numbers to show beside one's own.")]  # fmt: skip
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many test items.")]
Epochs = Annotated[int, typer.Option(min=1, help="Of the small models.")]
Width = Annotated[int, typer.Option(min=16, help="Of the tokens of the small models; a multiple of 16.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the small models.")]
Budget = Annotated[int, typer.Option(min=8, help="Most tokens of the sentence of regions.")]
Form = Annotated[str, typer.Option(help="How regions are shown: text, drawn or crops.")]
Features = Annotated[bool, typer.Option("--expert-features", help="See the bundle's feature maps, not pixels.")]


@app.command()
@told
def vqa(
    data: Data,
    found: FoundIn,
    out: OutDir,
    dataset: Annotated[str, typer.Option(help="slake, vqa_rad, path_vqa or items.")] = "items",
    by: Annotated[str, typer.Option(help="baseline, alignment, or the name of a model of an endpoint.")] = "baseline",
    images: Images = None,
    bundle: Bundle = None,
    split: Annotated[str, typer.Option(help="The split to answer.")] = "test",
    limit: Limit = None,
    form: Form = "text",
    budget: Budget = 120,
    threshold: Threshold = 0.25,
    expert_features: Features = False,
    epochs: Epochs = 30,
    width: Width = 64,
    threads: Threads = 1,
    workers: Annotated[int, typer.Option(min=1, help="Questions in flight at once.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 60,
    seed: Seed = 0,
    bootstrap: Bootstrap = 1000,
    more: Published = None,
    as_json: AsJson = False,
) -> None:
    """Questions answered in the arms none, predicted, reference and shuffled; Figure 6 of the paper for this run.

    Example: medglip-etl downstream vqa Slake1.0 --dataset slake --found found --out vqa --by llava-med
    """
    from glip.downstream import experiment, figures, run
    from glip.downstream.datasets import read_vqa_dataset
    from glip.downstream.paired import Bootstrap as Resampling

    _form(form)
    published = figures.published(dataset, more)
    items, folder = read_vqa_dataset(dataset, data, images)
    tested = [q for q in items if q.split == split][:limit]
    tested = [q for q in tested if by != "alignment" or q.kind == "closed"]
    train = [q for q in items if by == "baseline" and q.split == "train"]
    used = [*tested, *train]
    if not tested:
        raise Failure(f"{data}: no question of the split {split} to answer")
    sizes, arms = _arms(used, folder, (found, bundle), threshold, seed)
    settings = {"by": by, "split": split, "threshold": threshold, "seed": seed}
    refused: dict[str, int] = {}
    if by == "alignment":
        texts = run.by_alignment(tested, arms)
    elif by == "baseline":
        views = run.views(used, folder, sizes, _features(expert_features, bundle))
        texts = run.by_baseline(train, tested, arms, views, _training(epochs, width, threads, seed), tell=_tell)
        settings |= {"epochs": epochs, "width": width, "expert_features": expert_features}
    else:
        shown = run.Shown(folder, sizes, form, budget)
        asker = _asker(by, out, timeout)
        texts, refused = run.by_endpoint(tested, arms, asker, shown, workers=workers, tell=_tell)
        settings |= {"form": form, "budget": budget}
    resample = Resampling(bootstrap, seed)
    outcome = experiment.vqa(tested, arms, texts, refused=refused, settings=settings, bootstrap=resample)
    figures.write(out, outcome, dataset, published)
    _finish(outcome, published, out, as_json)


@app.command()
@told
def report(
    data: Data,
    found: FoundIn,
    out: OutDir,
    dataset: Annotated[str, typer.Option(help="iu_xray, mimic_cxr, mlrg or items.")] = "items",
    images: Images = None,
    bundle: Bundle = None,
    limit: Limit = None,
    clean: Annotated[str, typer.Option(help="Cleaning before scoring: r2gen, mlrg or none.")] = "r2gen",
    threshold: Threshold = 0.25,
    expert_features: Features = False,
    epochs: Epochs = 12,
    width: Width = 64,
    least: Annotated[int, typer.Option(min=1, help="Rarer words are unknown; R2Gen: 3, MIMIC-CXR 10.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Most words; R2Gen: 60, MIMIC-CXR 100.")] = 60,
    threads: Threads = 1,
    chexbert: Annotated[Path | None, typer.Option(help="Folder with chexbert.pth.")] = None,
    radgraph: Annotated[Path | None, typer.Option(help="Folder with RadGraph's model, unpacked.")] = None,
    seed: Seed = 0,
    bootstrap: Bootstrap = 1000,
    more: Published = None,
    as_json: AsJson = False,
) -> None:
    """Reports by a small R2Gen in the arms none, predicted, reference and shuffled; Figure 7 of the paper for this run.

    Example: medglip-etl downstream report iu_xray --dataset iu_xray --found found --out report
    """
    from dataclasses import replace

    from glip.downstream import experiment, figures, run
    from glip.downstream.captions import CLEANING
    from glip.downstream.datasets import read_report_dataset
    from glip.downstream.paired import Bootstrap as Resampling

    if clean not in CLEANING:
        raise UsageError(f"--clean {clean}: it is {', '.join(CLEANING)}")
    published = figures.published(dataset, more)
    items, folder = read_report_dataset(dataset, data, images)
    tested = [s for s in items if s.split == "test"][:limit]
    train = [s for s in items if s.split == "train"]
    used = [*tested, *train]
    if not tested:
        raise Failure(f"{data}: no study of the split test")
    sizes, arms = _arms(used, folder, (found, bundle), threshold, seed)
    views = run.views(used, folder, sizes, _features(expert_features, bundle))
    how = replace(_training(epochs, width, threads, seed), batch=32, least=least, length=length)
    texts = run.by_r2gen(train, tested, arms, views, CLEANING[clean], how, tell=_tell)
    clinical = _clinical(tested, texts, chexbert, radgraph)
    settings = {"threshold": threshold, "seed": seed, "epochs": epochs, "width": width}
    settings["expert_features"] = expert_features
    outcome = experiment.reports(
        tested, arms, texts, clean=clean, clinical=clinical, settings=settings, bootstrap=Resampling(bootstrap, seed)
    )
    figures.write(out, outcome, dataset, published)
    _finish(outcome, published, out, as_json)


@app.command()
@told
def inject(
    data: Data,
    found: FoundIn,
    out: OutDir,
    dataset: Annotated[str, typer.Option(help="slake, vqa_rad, path_vqa or items.")] = "items",
    images: Images = None,
    bundle: Bundle = None,
    split: Annotated[str, typer.Option(help="The split to write.")] = "test",
    form: Form = "text",
    budget: Budget = 120,
    threshold: Threshold = 0.25,
    seed: Seed = 0,
) -> None:
    """The four arms as files, one line a question as LLaVA-Med's evaluation reads them; pictures where they change.

    Example: medglip-etl downstream inject Slake1.0 --dataset slake --found found --out arms --form drawn
    """
    from etl.store import write_bytes
    from glip.downstream import arms as arm_rules
    from glip.downstream.datasets import read_vqa_dataset
    from glip.downstream.inject import write_arm

    _form(form)
    items, folder = read_vqa_dataset(dataset, data, images)
    kept = [q for q in items if q.split == split]
    sizes, arms = _arms(kept, folder, (found, bundle), threshold, seed)
    for arm in arms:
        write_bytes(out / f"{arm.name}.regions.json", arm_rules.to_json(arm).encode())
        write_arm(out, arm, kept, folder, sizes, form, budget)
    print(json.dumps({"items": len(kept), "arms": arm_rules.summary(arms)}))


@app.command()
@told
def mlrg(
    annotation: Annotated[Path, typer.Argument(help="MLRG's study-level JSON.")],
    found: FoundIn,
    out: OutDir,
    images: Annotated[Path, typer.Option(help="Folder that its image paths begin in.")],
    arm: Annotated[str, typer.Option(help="none, predicted or shuffled.")] = "predicted",
    bundle: Bundle = None,
    expert_features: Features = False,
    threshold: Threshold = 0.25,
    seed: Seed = 0,
) -> None:
    """MLRG's input with the regions of one arm: as a sentence, as boxes and, on wish, as feature vectors.

    Example: medglip-etl downstream mlrg mlrg_annotation.json --images files --found found --out mlrg_predicted
    """
    from glip.downstream import arms as arm_rules
    from glip.downstream import mlrg as mlrg_rules
    from glip.downstream.datasets import read_report_dataset

    items, folder = read_report_dataset("mlrg", annotation, images)
    sizes, made = _arms(items, folder, (found, bundle), threshold, seed)
    arms = {a.name: a for a in made}
    if arm not in arms:
        raise UsageError(f"--arm {arm}: it is {', '.join(arms)}")
    source = _features(expert_features, bundle)
    features = _region_features(source, folder, items, arms[arm], sizes) if source else None
    written = mlrg_rules.export(annotation, arms[arm], out, sizes=sizes, features=features)
    print(json.dumps({"studies_with_regions": written, "regions": arm_rules.summary([arms[arm]])[arm]}))


@app.command()
@told
def score(
    results: Annotated[Path, typer.Argument(help="MLRG's result file: dicom_id, labels, report.")],
    clean: Annotated[str, typer.Option(help="Cleaning before scoring: r2gen, mlrg or none.")] = "mlrg",
    against: Annotated[Path | None, typer.Option(help="The result file of the arm `none`: paired differences.")] = None,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
) -> None:
    """Scores of a file of generated reports, as one JSON document.

    Example: medglip-etl downstream score test_reports.csv --against test_reports_without.csv
    """
    from glip.downstream.captions import CLEANING
    from glip.downstream.paired import Bootstrap as Resampling
    from glip.downstream.rescore import rescore

    if clean not in CLEANING:
        raise UsageError(f"--clean {clean}: it is {', '.join(CLEANING)}")
    print(json.dumps(rescore(results, against, CLEANING[clean], Resampling(bootstrap, seed))))


def _form(form: str) -> None:
    from glip.downstream.inject import FORMS

    if form not in FORMS:
        raise UsageError(f"--form {form}: it is {', '.join(FORMS)}")


def _arms(items: Any, folder: Path, found: tuple[Path, Path | None], threshold: float, seed: int) -> tuple[Any, Any]:
    """(sizes of the images, the arms)."""
    from glip.downstream.arms import build, image_sizes, read_found

    sizes = image_sizes(folder, items)
    known = read_found(found[0], bundle=found[1])
    return sizes, build(items, known, sizes=sizes, threshold=threshold, seed=seed)


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _features(wanted: bool, bundle: Path | None) -> Path | None:
    if wanted and bundle is None:
        raise UsageError("--expert-features needs --bundle")
    return bundle if wanted else None


def _training(epochs: int, width: int, threads: int, seed: int) -> Any:
    if width % 16:
        raise UsageError(f"--width {width}: it is a multiple of 16")
    require_torch()
    from glip.downstream.training import Training

    return Training(epochs=epochs, width=width, threads=threads, seed=seed)


def _asker(model: str, out: Path, timeout: float) -> Any:
    from etl.endpoint import Cache, Endpoint
    from glip.downstream.ask import Asker

    return Asker(Endpoint(Cache(out / "answers.jsonl"), timeout_s=timeout), model)


def _region_features(bundle: Path, folder: Path, items: Any, arm: Any, sizes: Any) -> dict[str, Any]:
    require_torch()
    from glip.downstream.features import expert_maps, region_features

    images = sorted(arm.regions)
    modality = {image: item.modality for item in items for image in item.images}
    maps = expert_maps(bundle, folder, images, modality)
    return {image: region_features(maps[image], arm.regions[image], sizes[image]) for image in images}


def _clinical(tested: Any, texts: Any, chexbert: Path | None, radgraph: Path | None) -> dict[str, dict[str, Any]]:
    """More metrics by arm where weights are given."""
    from glip.downstream import clinical

    out: dict[str, dict[str, Any]] = {arm: {} for arm in texts} if chexbert or radgraph else {}
    truths = [s.report for s in tested]
    truth = clinical.chexbert(truths, chexbert) if chexbert else None
    for arm in out:
        written = [texts[arm].get(s.id, "") for s in tested]
        if chexbert and truth is not None:
            out[arm] |= clinical.efficacy(clinical.chexbert(written, chexbert), truth)
        if radgraph:
            out[arm]["RadGraph F1"] = clinical.radgraph(written, truths, radgraph)
    return out


def _finish(outcome: Any, published: Any, out: Path, as_json: bool) -> None:
    from glip.downstream.figures import table_md

    print(json.dumps(outcome.document) if as_json else table_md(outcome.document, published))
    if not outcome.complete:
        left = {arm: n for arm, n in outcome.document["open"].items() if n}
        raise Failure(f"{sum(left.values())} items got no answer {left}; run again with --out {out} to ask only those")
