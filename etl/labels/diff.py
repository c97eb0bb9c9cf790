"""What a change of the label maps means: raw label → label → category, and the images and regions that move."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from etl.errors import UsageError
from etl.labels.maps import Mapping, Ontology, load_label_map, load_ontology
from etl.markdown import table

CROPS = 3  # examples for each changed raw label


@dataclass(frozen=True, slots=True)
class State:
    """The ontology and all maps at one time."""

    ontology: Ontology
    maps: Map[str, Map[str, Mapping]]


@dataclass(frozen=True, slots=True)
class Change:
    """One raw label that means something else; a label of None means that its regions are not used."""

    source: str
    raw: str
    before: Mapping | None
    after: Mapping | None
    category_before: str | None
    category_after: str | None


@dataclass
class Moved:
    """The regions of one changed raw label in a built dataset: in use, or in quarantine for want of a label."""

    regions: int = 0
    images: int = 0
    quarantined: int = 0
    crops: list[str] = field(default_factory=list)


def state(folder: Path, *below: Path) -> State:
    """The ontology and maps of a `label_maps` folder; without an ontology of its own it lies over that `below`."""
    slugs = sorted(p.stem for p in (folder / "sources").glob("*.yaml"))
    return State(load_ontology(*below, folder), {slug: load_label_map(slug, folder) for slug in slugs})


def checkout(revision: str, repository: Path, into: Path) -> Path:
    """`label_maps/` of a git revision, written below `into`; returns that folder."""
    command = ["git", "-C", str(repository), "archive", "--format=tar", revision, "label_maps"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        cause = done.stderr.decode(errors="replace").strip().splitlines()
        said = cause[-1] if cause else "git failed"
        raise UsageError(f"'{revision}' is neither a folder nor a git revision here: {said}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(into, filter="data")
    return into / "label_maps"


def changes(before: State, after: State) -> Iterator[Change]:
    """Raw labels whose label, category or status changed, by source and name."""
    for slug in sorted({*before.maps, *after.maps}):
        old, new = before.maps.get(slug, {}), after.maps.get(slug, {})
        for raw in sorted({*old, *new}):
            one, other = old.get(raw), new.get(raw)
            categories = (_category(before.ontology, one), _category(after.ontology, other))
            said = [(m.label, m.status) if m else None for m in (one, other)]
            if said[0] != said[1] or categories[0] != categories[1]:
                yield Change(slug, raw, one, other, *categories)


def _category(ontology: Ontology, mapping: Mapping | None) -> str | None:
    """The category under which the regions of a raw label reach the dataset."""
    label = mapping.used() if mapping is not None else None
    return ontology.labels[label].category if label in ontology.labels else None


def moved(found: Sequence[Change], out: Path, crops: Path | None = None) -> dict[tuple[str, str], Moved]:
    """For each change, its regions and images in the dataset below `out`; with `crops`, PNG examples go there."""
    import pyarrow.parquet as pq

    shards = sorted((out / "dataset" / "shards").glob("*/*/*.parquet"))
    if not shards:
        raise UsageError(f"{out}: no dataset there; run `medglip-etl build` first")
    counts = {(c.source, c.raw): Moved() for c in found}
    for shard in shards:
        file = pq.ParquetFile(shard)
        for group in range(file.num_row_groups):
            if _may_hold(file.metadata.row_group(group), {source for source, _ in counts}):
                _count(file, group, counts, crops)
    _count_quarantine(counts, out)
    return counts


def _may_hold(group: Any, sources: set[str]) -> bool:
    """Whether a row group may hold one of these sources, by its statistics."""
    columns = (group.column(n) for n in range(group.num_columns))
    known = next((c.statistics for c in columns if c.path_in_schema == "source"), None)
    return known is None or not known.has_min_max or any(known.min <= source <= known.max for source in sources)


def _count(file: Any, group: int, counts: Map[tuple[str, str], Moved], crops: Path | None) -> None:
    """Add the regions and images of one row group; only sources and raw labels are read, pixels for crops alone."""
    import pandas as pd
    import pyarrow.compute as pc

    table = file.read_row_group(group, columns=["source", "regions.list.element.raw_label"]).combine_chunks()
    lists = table.column("regions").combine_chunks()
    rows = pc.list_parent_indices(lists)
    frame = pd.DataFrame(
        {
            "source": table.column("source").take(rows).to_pandas(),
            "raw": pc.struct_field(pc.list_flatten(lists), "raw_label").to_pandas(),
            "row": rows.to_pandas(),
        }
    )
    frame = frame[frame["source"].isin({source for source, _ in counts})]
    for (source, raw), inside in frame.groupby(["source", "raw"]):
        here = counts.get((str(source), str(raw)))
        if here is None:
            continue
        images = inside["row"].unique()
        here.regions += len(inside)
        here.images += len(images)
        if crops is not None:
            here.crops += [_example(file, group, int(n), str(raw), crops) for n in images[: CROPS - len(here.crops)]]


def _example(file: Any, group: int, row: int, raw: str, folder: Path) -> str:
    """The file name, below a folder, of a crop around the image's largest region of a raw label."""
    table = file.read_row_group(group, columns=["image", "regions"]).slice(row, 1)
    image, regions = table.column("image")[0].as_py(), table.column("regions")[0].as_py()
    region = max((r for r in regions if r["raw_label"] == raw), key=lambda r: r["area"])
    folder.mkdir(parents=True, exist_ok=True)
    name = quote(region["key"], safe="") + ".png"
    cropped(image["bytes"], region["bbox"]).save(folder / name)
    return name


def cropped(content: bytes, box: Sequence[float]) -> Any:
    """The picture of a box with half its size around it and the box drawn."""
    from PIL import Image, ImageDraw

    image = Image.open(io.BytesIO(content)).convert("RGB")
    x, y, w, h = box
    ImageDraw.Draw(image).rectangle([x, y, x + w - 1, y + h - 1], outline=(255, 210, 0))
    edges = (max(0, x - w / 2 - 8), max(0, y - h / 2 - 8), x + 1.5 * w + 8, y + 1.5 * h + 8)
    frame = (int(edges[0]), int(edges[1]), int(min(image.width, edges[2])), int(min(image.height, edges[3])))
    return image.crop(frame)


def _count_quarantine(counts: Map[tuple[str, str], Moved], out: Path) -> None:
    import pandas as pd

    for source in sorted({source for source, _ in counts}):
        path = out / "quarantine" / f"{source}.parquet"
        if path.exists():
            rows = pd.read_parquet(path, columns=["raw_label", "stage"])
            for raw, n in rows[rows["stage"] == "harmonize"].groupby("raw_label").size().items():
                if (source, str(raw)) in counts:
                    counts[source, str(raw)].quarantined += int(n)


def markdown(found: Sequence[Change], numbers: Map[tuple[str, str], Moved], crops: Path | None = None) -> str:
    """A page for the reviewer of a pull request."""
    if not found:
        return "No raw label changes its label, category or status.\n"
    head = ["source", "raw label", "before", "after", "category"] + (["regions", "images"] if numbers else [])
    rows = [_row(change, numbers.get((change.source, change.raw))) for change in found]
    lines = [f"**{len(found)} raw labels change.**", "", table(head, rows).rstrip()]
    if numbers:
        regions, waiting = (sum(getattr(n, what) for n in numbers.values()) for what in ("regions", "quarantined"))
        lines += ["", f"{regions} regions of the dataset have these raw labels; {waiting} more wait for a label."]
    for (source, raw), number in numbers.items():
        if number.crops and crops is not None:
            lines += ["", f"`{source}` / `{raw}`: " + " ".join(f"![{raw}]({crops / name})" for name in number.crops)]
    return "\n".join(lines) + "\n"


def _row(change: Change, number: Moved | None) -> list[str]:
    same = change.category_before == change.category_after
    old, new = change.category_before or "—", change.category_after or "—"
    category = new if same else f"{old} → {new}"
    cells = [f"`{change.source}`", f"`{change.raw}`", _said(change.before), _said(change.after), category]
    if number is not None:
        more = f" (+{number.quarantined} in quarantine)" if number.quarantined else ""
        cells += [f"{number.regions}{more}", str(number.images)]
    return cells


def _said(mapping: Mapping | None) -> str:
    if mapping is None:
        return "—"
    if mapping.status == "approved":
        return f"{mapping.label} ({mapping.by})"
    return f"*{mapping.status}*" + (f": {mapping.label}" if mapping.label else f": {mapping.why or ''}")


def rows(found: Sequence[Change], numbers: Map[tuple[str, str], Moved]) -> list[dict[str, Any]]:
    """The changes and their numbers for `--json`."""
    return [
        {
            "source": c.source, "raw_label": c.raw,
            "before": c.before.model_dump(mode="json") if c.before else None,
            "after": c.after.model_dump(mode="json") if c.after else None,
            "category_before": c.category_before, "category_after": c.category_after,
            **(asdict(numbers[c.source, c.raw]) if numbers else {}),
        }
        for c in found
    ]  # fmt: skip
