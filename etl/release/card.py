"""The dataset card (`README.md`) and its machine-readable twin (`croissant.json`)."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl import markdown
from etl.manifests.manifest import Manifest
from etl.release.coco import LICENSE_URLS
from etl.release.records import SPLITS
from etl.release.shards import COLUMNS
from etl.store import sha256

TITLE = "medglip-etl dataset"
SUMMARY = (
    "2D medical images with labelled regions: boxes, masks, phrases, and what is known to be absent, "
    "brought together from public datasets."
)
LIMITS = (
    "Labels that a source did not annotate are unknown, never absent. Regions below the area threshold are left "
    "out and listed as not exhaustive. Slices are cut at native resolution, so pixels need not be square. "
    "Diseases, devices, ages and regions of the world are represented as the sources chose them. Not for clinical use."
)
PRIVACY = (
    "Images come from datasets published as de-identified. Subject names are the sources' own codes or pseudonyms; "
    "sex, age and diagnosis are kept where a source publishes them."
)
PROTOCOL = (
    "Masks and boxes are the sources' own. Structure names are mapped to labels by reviewed label maps; areas and "
    "boxes are computed from the masks without smoothing or interpolation."
)
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
TYPES = {
    "string": "sc:Text",
    "int16": "sc:Integer",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "float": "sc:Float",
    "bool": "sc:Boolean",
    "binary": "sc:ImageObject",
}


def readme(stats: dict[str, Any], manifests: Sequence[Manifest]) -> str:
    """The dataset card in Markdown, with the front matter that `datasets` reads."""
    parts = [front_matter(stats), f"# {TITLE}\n\n{SUMMARY}\n", contents(stats), sources(stats, manifests)]
    parts += [f"## Annotation\n\n{PROTOCOL}\n", f"## Limits\n\n{LIMITS}\n", f"## Privacy\n\n{PRIVACY}\n"]
    return "\n".join([*parts, reading(), citations(manifests)])


def front_matter(stats: dict[str, Any]) -> str:
    """The YAML head; each value is JSON, which is YAML too."""
    size = next((name for limit, name in SIZES if stats["images"] < limit), "10M<n<100M")
    files = [{"split": split, "path": f"shards/{split}/*/*.parquet"} for split in SPLITS if shown(stats, split)]
    fields: dict[str, Any] = {
        "pretty_name": TITLE,
        "license": "other",
        "license_name": "per-source",
        "task_categories": ["object-detection", "image-segmentation"],
        "tags": ["medical", *sorted(stats["by"]["modality"])],
        "size_categories": [size],
    }
    if files:
        fields["configs"] = [{"config_name": "default", "data_files": files}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def shown(stats: dict[str, Any], split: str) -> bool:
    """Whether a split has images."""
    return bool(stats["by"]["split"].get(split, {}).get("images"))


def contents(stats: dict[str, Any]) -> str:
    """Numbers by split and by modality."""
    text = f"## Contents\n\n{stats['images']} images with {stats['regions']} regions.\n\n"
    for key in ("split", "modality", "status"):
        rows = [(name, n["images"], n["regions"]) for name, n in stats["by"][key].items()]
        text += markdown.table((key, "images", "regions"), rows) + "\n"
    text += cost(stats)
    return text + "A subject is in one split only. Status says how well a source's label values are documented.\n"


def cost(stats: dict[str, Any]) -> str:
    """What the area threshold left out, with the labels that lost most; nothing without a ledger."""
    rows = stats.get("ledger", ())
    found, lost = Counter[str](), Counter[str]()
    for row in rows:
        found[row["label"]] += row["found"]
        lost[row["label"]] += row["too_small"]
    if not lost.total():
        return ""
    share = lost.total() / found.total()
    gone = sorted(name for name in found if lost[name] == found[name])
    text = (
        f"The least area of {stats['min_area'] * 100:g} % of the image left out {lost.total()} of {found.total()} "
        f"annotated regions ({share:.1%})"
    )
    text += f"; of {len(gone)} of {len(found)} labels nothing is left ({', '.join(gone[:10])}). " if gone else ". "
    worst = sorted(found, key=lambda name: (-lost[name], name))[:10]
    table = [(name, found[name], lost[name], f"{lost[name] / found[name]:.1%}") for name in worst if lost[name]]
    return text + "\n\n" + markdown.table(("label", "found", "too small", "share"), table) + "\n"


def sources(stats: dict[str, Any], manifests: Sequence[Manifest]) -> str:
    """The sources with their terms, which hold for what comes from them."""
    head = ("source", "title", "modality", "license", "redistribution", "access", "images", "regions", "homepage")
    rows = []
    for m in manifests:
        n = stats["by"]["source"][m.slug]
        terms = (m.license.name, m.license.redistribution, m.access, n["images"], n["regions"], m.homepage or "")
        rows.append((m.slug, m.title, m.modality, *terms))
    note = (
        "Every image is under its source's license, in the columns `license` and `redistribution`: `allowed` and "
        "`noncommercial` may be passed on (the latter not for profit), `forbidden` and `unknown` not; a dataset built "
        "with `--only-redistributable` holds `allowed` only. Sources whose access is `registration` or `request` ask "
        "their users to agree to terms of their own.\n"
    )
    cases = [(name, n["images"]) for name, n in stats["by"]["license"].items()]
    tables = markdown.table(head, rows), markdown.table(("license", "images"), cases)
    return f"## Sources and licenses\n\n{tables[0]}\n{note}\n{tables[1]}"


def reading() -> str:
    """How to open it."""
    return (
        "## Reading\n\n```python\nfrom datasets import load_dataset\n\n"
        'data = load_dataset("parquet", data_files={"train": "shards/train/*/*.parquet"})\n```\n\n'
        "COCO files are in `annotations/` (`*.json`: categories, `*.labels.json`: labels), grounding lines in "
        "`grounding/`, numbers in `stats.json`, a page to look at in `report/index.html`.\n"
    )


def citations(manifests: Sequence[Manifest]) -> str:
    """What to cite, source by source; one without a citation is named by its page."""
    lines = [f"- {m.slug}: {' '.join(str(m.citation or m.homepage or m.title).split())}" for m in manifests]
    return "\n".join(["## Citation\n", *lines, ""])


def croissant(
    stats: dict[str, Any], manifests: Sequence[Manifest], folder: Path, known: Mapping[str, str]
) -> dict[str, Any]:
    """The Croissant 1.0 description, with the responsible-AI properties, of the dataset in `folder`.

    `known` are the SHA-256 of files by name, where they are at hand.
    """
    names = sorted(stats["by"]["license"])
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": "medglip-etl",
        "description": SUMMARY,
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "version": "1.0.0",
        "license": [LICENSE_URLS.get(name, name) for name in names],
        "keywords": ["medical", *sorted(stats["by"]["modality"])],
        "citeAs": " ".join(f"{m.slug}: {m.citation}" for m in manifests if m.citation),
        "isBasedOn": [based_on(m) for m in manifests],
        "rai:dataCollection": "Collected from the public datasets in isBasedOn, under their own terms.",
        "rai:dataAnnotationProtocol": PROTOCOL,
        "rai:dataLimitations": LIMITS,
        "rai:dataBiases": "Each modality and structure comes from few sources, scanners and hospitals.",
        "rai:personalSensitiveInformation": PRIVACY,
        "rai:dataUseCases": "Training and testing of models that locate structures named in text.",
        "distribution": distribution(folder, known),
        "recordSet": [record_set()],
    }


def based_on(manifest: Manifest) -> dict[str, Any]:
    """One source, for the provenance."""
    return {
        "@type": "sc:Dataset",
        "name": manifest.title,
        "alternateName": manifest.slug,
        "url": manifest.homepage,
        "license": LICENSE_URLS.get(manifest.license.name, manifest.license.name),
        "usageInfo": f"redistribution: {manifest.license.redistribution}",
        "citeAs": manifest.citation,
    }


def distribution(folder: Path, known: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each annotation and shard file with its SHA-256, and the shards as one set."""
    files = [*sorted((folder / "annotations").glob("*.json")), *sorted((folder / "grounding").glob("*.jsonl"))]
    shards = sorted((folder / "shards").rglob("*.parquet"))
    members = [file_object(path, folder, known) for path in shards]
    together = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "containedIn": [{"@id": member["@id"]} for member in members],
        "encodingFormat": "application/vnd.apache.parquet",
        "includes": "shards/*/*/*.parquet",
    }
    return [*(file_object(path, folder, known) for path in files), *members, together]


def file_object(path: Path, folder: Path, known: Mapping[str, str]) -> dict[str, Any]:
    """One file of the dataset."""
    formats = {".json": "application/json", ".jsonl": "application/jsonlines"}
    name = path.relative_to(folder).as_posix()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": formats.get(path.suffix, "application/vnd.apache.parquet"),
        "sha256": known.get(name) or sha256(path),
    }


def record_set() -> dict[str, Any]:
    """The rows of the shards."""
    fields = [field("images", name, kind, [name]) for name, kind in COLUMNS]
    return {"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": fields}


def field(parent: str, name: str, kind: pa.DataType, path: list[str]) -> dict[str, Any]:
    """One column; the members of a list of structs become sub-fields."""
    entry: dict[str, Any] = {"@type": "cr:Field", "@id": f"{parent}/{name}", "name": f"{parent}/{name}"}
    if pa.types.is_list(kind):
        entry["repeated"] = True
        kind = kind.value_type
    if name == "image":
        kind, path = pa.binary(), [*path, "bytes"]
    if pa.types.is_struct(kind):
        entry["subField"] = [field(entry["@id"], f.name, f.type, [*path, f.name]) for f in kind]
        return entry
    extract: dict[str, Any] = {"column": path[0]}
    source: dict[str, Any] = {"fileSet": {"@id": "shards"}, "extract": extract}
    if path[1:]:
        source["transform"] = {"jsonPath": ".".join(path[1:])}
    return entry | {"dataType": TYPES[str(kind)], "source": source}


CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
