"""The `labels` commands: the ontology, the label maps, proposals and their review."""

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.common import BUNDLED, AsJson, Manifests, Maps, manifests_of, maps_of, named, told
from etl.errors import Failure, UsageError

app = typer.Typer(no_args_is_help=True, help="The ontology and the label maps.")

Models = Annotated[list[str] | None, typer.Option("--model", help="A model of the endpoint; several vote.")]
Votes = Annotated[int, typer.Option(min=1, help="Answers asked of each model for each raw label.")]
CacheFile = Annotated[Path | None, typer.Option("--cache", help="Where answers are remembered.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")]


def _ontology(extra: Path | None) -> Any:
    from etl.labels.maps import load_ontology

    return load_ontology(*maps_of(extra))


def _entries(slugs: Iterable[str], extra: Path | None) -> dict[str, Any]:
    from etl.labels.maps import load_label_map

    return {slug: load_label_map(slug, *maps_of(extra)) for slug in slugs}


@app.command("list")
@told
def labels_list(label_maps: Maps = None, as_json: AsJson = False) -> None:
    """All labels with their category and body region.

    Example: medglip-etl labels list --json
    """
    ontology = _ontology(label_maps)
    rows = [_row(ontology, label) for label in ontology.labels.values()]
    if as_json:
        print(json.dumps({"labels": rows}))
        return
    for row in rows:
        print(f"{row['id']:4} {row['name']:34} {row['category']:30} {row['body_region']}")


def _row(ontology: Any, label: Any) -> dict[str, Any]:
    from etl.labels.phrases import phrases

    row: dict[str, Any] = label.model_dump(mode="json")
    region = ontology.categories[label.category].body_region
    return row | {"body_region": region, "phrases": phrases(ontology)[label.name]}


@app.command("show")
@told
def labels_show(label: str, label_maps: Maps = None, as_json: AsJson = False) -> None:
    """One label: its place, its names, its parts, and the raw labels that mean it.

    Example: medglip-etl labels show "inferior vena cava"
    """
    from etl.labels.phrases import by_name
    from etl.labels.text import normal
    from etl.yamlfile import suggestion

    ontology = _ontology(label_maps)
    name = label if label in ontology.labels else by_name(ontology).get(normal(label))
    if name is None:
        near = suggestion(label, ontology.labels)
        raise UsageError(f"no label '{label}'{near}; `medglip-etl labels list` shows them")
    slugs = sorted({p.stem for folder in maps_of(label_maps) for p in (folder / "sources").glob("*.yaml")})
    raws = [
        {"source": slug, "raw_label": raw, "status": entry.status, "by": entry.by}
        for slug, entries in _entries(slugs, label_maps).items()
        for raw, entry in entries.items()
        if entry.label == name
    ]
    parts = [other.name for other in ontology.labels.values() if other.parent == name]
    report = _row(ontology, ontology.labels[name]) | {"parts": parts, "raw_labels": raws}
    if as_json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        if key != "raw_labels":
            print(f"{key}: {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    for raw in raws:
        print(f"  {raw['source']:28} {raw['raw_label']:40} {raw['status']} {raw['by'] or ''}")


@app.command("lint")
@told
def labels_lint(manifests: Manifests = None, label_maps: Maps = None, as_json: AsJson = False) -> None:
    """Check the ontology and all label maps against the manifests; exit 1 on any fault.

    Example: medglip-etl labels lint
    """
    from etl.labels import lint as label_lint

    folders = maps_of(label_maps)
    try:
        maps, problems = label_lint.load(_ontology(label_maps), manifests_of(manifests), folders)
        problems += label_lint.lint(maps)
    except UsageError as error:  # an ontology or a manifest that cannot be read is a fault like any other
        problems = [label_lint.Problem(str(folders[-1]), 1, "unreadable", str(error))]
    if as_json:
        print(json.dumps({"ok": not problems, "problems": [p.as_dict() for p in problems]}))
    else:
        print("\n".join(map(str, problems)) or f"{len(maps.entries)} label maps and the ontology: no fault")
    if problems:
        raise typer.Exit(1)


def _embedder(ontology: Any) -> Any:
    from etl.labels import embed as label_embed

    return label_embed.Embedder(ontology).rank if label_embed.installed() else None


def _panel(models: list[str] | None, votes: int, cache: Path | None, timeout: float) -> Any:
    if not models:
        return None
    from etl.endpoint import Cache
    from etl.labels.choose import Chooser
    from etl.labels.suggest import Panel

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache or home / "medglip-etl" / "labels.jsonl"
    return Panel(Chooser(Cache(path), timeout_s=timeout), tuple(models), votes)


@app.command("suggest")
@told
def labels_suggest(
    source: Annotated[list[str], typer.Option("--source", help="A source or group; may be repeated.")],
    model: Models = None,
    votes: Votes = 1,
    price: Annotated[str | None, typer.Option(help="Price of a million tokens, in and out, as 0.15,0.60.")] = None,
    cache: CacheFile = None,
    timeout: Timeout = 60,
    manifests: Manifests = None,
    label_maps: Maps = None,
    as_json: AsJson = False,
) -> None:
    """Propose a label for each raw label that nobody has decided; people approve.

    With --model, asks the OpenAI-compatible endpoint of OPENAI_BASE_URL and OPENAI_API_KEY: names only, each question
    once. Without it, proposes from names and, where it is installed, a small local embedding model.

    Example: OPENAI_BASE_URL=http://localhost:11434/v1 medglip-etl labels suggest --source btcv_abdomen --model qwen3
    """
    from etl.labels import match as label_match
    from etl.labels import suggest as label_suggest

    prices = _prices(price)
    known, ontology = manifests_of(manifests), _ontology(label_maps)
    panel = _panel(model, votes, cache, timeout)
    embed, reviewed = _embedder(ontology), _entries(known, label_maps)
    if panel is None:
        how = "names and the local embedding model" if embed else "names alone (no embedding model is installed)"
        print(f"no --model, so no endpoint is asked: proposals from {how}", file=sys.stderr)
    report: dict[str, Any] = {"sources": [], "requests": 0, "cached": 0, "tokens_in": 0, "tokens_out": 0}
    for manifest in named(known, source):
        raws = label_suggest.undecided(manifest.raw_labels(), reviewed[manifest.slug])
        others = [entries for slug, entries in reviewed.items() if slug != manifest.slug]
        matcher, about = label_match.matcher(ontology, others), label_match.context(manifest)
        cost = label_suggest.Cost()
        if panel is None:
            found = label_suggest.offline(matcher, raws, about, embed)
        else:
            found, cost = label_suggest.ask(panel, matcher, raws, about, embed)
        path = _write(manifest.slug, found, reviewed[manifest.slug], label_maps)
        _tell(report, manifest.slug, path, found, cost)
    if prices:
        report["cost"] = round((report["tokens_in"] * prices[0] + report["tokens_out"] * prices[1]) / 1e6, 6)
    print(json.dumps(report) if as_json else _summary(report, panel is not None))


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        one, other = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--price {text}: two numbers with a comma between, as 0.15,0.60") from None
    return one, other


def _write(slug: str, found: dict[str, Any], before: dict[str, Any], extra: Path | None) -> Path:
    """Set these entries in the last folder's map; the lines of all others stay as they are."""
    from etl.labels import file as label_file

    return label_file.save(maps_of(extra)[-1], slug, found, before)


def _tell(report: dict[str, Any], slug: str, path: Path, found: dict[str, Any], cost: Any) -> None:
    rows = [{"raw_label": raw, **entry.model_dump(mode="json")} for raw, entry in sorted(found.items())]
    report["sources"].append({"source": slug, "file": str(path), "proposals": rows, "problems": cost.problems})
    for key, value in (("requests", cost.sent), ("cached", cost.cached)):
        report[key] += value
    report["tokens_in"] += cost.tokens_in
    report["tokens_out"] += cost.tokens_out


def _summary(report: dict[str, Any], asked: bool) -> str:
    lines = []
    for source in report["sources"]:
        for row in source["proposals"]:
            said = row["label"] or "nothing fits"
            problem = source["problems"].get(row["raw_label"])
            lines.append(f"{row['raw_label']:40} {said:34} {row['confidence']:.2f} {row['by']}"
                         + (f"  (the model: {problem})" if problem else ""))
        lines.append(f"{len(source['proposals'])} proposals for {source['source']} in {source['file']}")
    if asked:
        cost = f", cost {report['cost']}" if "cost" in report else ""
        lines.append(f"{report['requests']} requests, {report['cached']} answers from the cache, "
                     f"{report['tokens_in']} tokens in, {report['tokens_out']} out{cost}")
    return "\n".join(lines)


@app.command("approve")
@told
def approve(
    source: Annotated[str, typer.Option("--source", help="The source.")],
    by: Annotated[str, typer.Option("--by", help="The reviewer's name.")],
    raw_labels: Annotated[list[str] | None, typer.Argument(help="Raw labels; none: all that are proposed.")] = None,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Leave out proposals below this.")] = 0,
    label_maps: Maps = None,
    as_json: AsJson = False,
) -> None:
    """Approve proposals, on record: `by` is the reviewer, `why` keeps who proposed.

    Example: medglip-etl labels approve --source btcv_abdomen --by "A. Reader" spleen "right kidney"
    """
    from etl.labels.suggest import approved

    ontology, entries = _ontology(label_maps), _entries([source], label_maps)[source]
    unknown = [raw for raw in raw_labels or [] if raw not in entries]
    if unknown:
        raise UsageError(f"{source}: no entry for {', '.join(unknown)}; `labels suggest` proposes one")
    wanted = {raw: m for raw, m in entries.items() if raw in (raw_labels or entries)}
    found = approved(wanted, by, ontology, min_confidence)
    if not found:
        raise Failure(f"{source}: nothing to approve")
    path = _write(source, found, entries, label_maps)
    print(json.dumps({"file": str(path), "approved": sorted(found)}) if as_json else
          f"{len(found)} entries approved by {by} in {path}")


@app.command("diff")
@told
def labels_diff(
    before: Annotated[str, typer.Argument(help="A git revision, BASE..HEAD, or a label_maps folder.")],
    after: Annotated[str | None, typer.Argument(help="The same; default: the files as they are now.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="A built dataset: count what moves.")] = None,
    crops: Annotated[Path | None, typer.Option(help="Write example crops of moved regions here.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a change means, as Markdown: raw label, label, category; with --dataset, the regions and images that move.

    Example: medglip-etl labels diff main..HEAD --dataset out --crops crops
    """
    from etl.labels import diff as label_diff

    if after is None and ".." in before and not Path(before).is_dir():
        before, _, after = before.partition("...") if "..." in before else before.partition("..")
    if crops is not None and dataset is None:
        raise UsageError("--crops needs --dataset, where the pixels are")
    with ExitStack() as stack:
        bundled = BUNDLED / "label_maps"
        one, other = (label_diff.state(_side(side, stack) if side else bundled, bundled) for side in (before, after))
    found = list(label_diff.changes(one, other))
    numbers = label_diff.moved(found, dataset, crops) if dataset else {}
    if as_json:
        print(json.dumps({"changes": label_diff.rows(found, numbers)}))
    else:
        print(label_diff.markdown(found, numbers, crops), end="")


def _side(name: str, stack: ExitStack) -> Path:
    from etl.labels import diff as label_diff

    if Path(name).is_dir():
        inner = Path(name) / "label_maps"
        return inner if inner.is_dir() else Path(name)
    return label_diff.checkout(name, BUNDLED, Path(stack.enter_context(tempfile.TemporaryDirectory())))


@app.command("evaluate")
@told
def labels_evaluate(
    model: Models = None,
    votes: Votes = 1,
    cache: CacheFile = None,
    timeout: Timeout = 60,
    manifests: Manifests = None,
    label_maps: Maps = None,
    as_json: AsJson = False,
) -> None:
    """Measure the proposals on the reviewed maps, each group of sources held out in its turn.

    Example: medglip-etl labels evaluate
    """
    from etl.labels import evaluate as label_eval

    known, ontology = manifests_of(manifests), _ontology(label_maps)
    maps, embed = _entries(known, label_maps), _embedder(ontology)
    if not any(maps.values()):
        raise Failure("no reviewed label map to measure on")
    methods: dict[str, Any] = {"names": label_eval.by_names}
    if embed:
        methods["embeddings"] = label_eval.by_meaning(embed)
    methods["offline"] = label_eval.by_both(embed)
    panel = _panel(model, votes, cache, timeout)
    if panel:
        methods["llm:" + "+".join(panel.models)] = label_eval.by_models(panel, embed)
    report = {
        name: label_eval.score(ontology, list(label_eval.held_out(ontology, known, maps, method)))
        for name, method in methods.items()
    }
    print(json.dumps({"methods": report}) if as_json else "\n".join(_scores(report)))


def _scores(report: dict[str, Any]) -> Iterable[str]:
    for name, r in report.items():
        yield (f"{name:12} {r['raw_labels']} raw labels of {r['sources']} sources: label {r['label_accuracy']:.1%}, "
               f"category {r['category_accuracy']:.1%}, {r['without_proposal']} without a proposal; "
               f"{r['rejected_recognised']:.1%} of {r['rejected']} rejected left alone; "
               f"calibration error {r['calibration_error']:.3f}")
        for b in r["calibration"]:
            yield f"    confidence {b['from']:.2f}-{b['to']:.2f}: {b['n']:4} proposed, mean {b['confidence']:.2f}, " \
                  f"right {b['right']:.2f}"
