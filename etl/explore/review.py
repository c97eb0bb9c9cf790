"""The review desk: what is proposed for raw labels, decided by a person, written as `labels approve` writes it."""

from __future__ import annotations

import threading
from collections.abc import Mapping as Map
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from PIL import Image

from etl import store
from etl.errors import UsageError
from etl.explore import images
from etl.labels import file as label_file
from etl.labels.maps import Mapping, Ontology, load_label_map
from etl.labels.suggest import approved, by_program
from etl.manifests.manifest import Manifest

Action = Literal["approve", "change", "reject", "comment"]
ACTIONS: tuple[Action, ...] = ("approve", "change", "reject", "comment")
CROPS = 4
BATCHES = 400  # of a source that are searched for examples


@dataclass(frozen=True, slots=True)
class Entry:
    """One raw label of a source: its mapping (None: nobody has said anything), whether a person has yet to decide."""

    source: str
    raw: str
    mapping: Mapping | None
    open: bool

    @property
    def seen(self) -> str:
        """A digest of the mapping, to find out whether it is still the one that the person saw."""
        return store.digest(self.mapping.model_dump(mode="json") if self.mapping else None)[:16]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person says of an entry. `label` is for a change; `comment` goes into its `why`."""

    action: Action
    by: str
    label: str = ""
    comment: str = ""


def decided(entry: Entry, said: Decision, ontology: Ontology) -> Mapping:
    """The mapping after a decision.

    Raises:
        UsageError: no reviewer, a program as reviewer, no such label, a rejection or comment without a word.
    """
    by, comment, now = said.by.strip(), " ".join(said.comment.split()), entry.mapping
    if not by or by.startswith(("llm:", "offline:")):
        raise UsageError(f"reviewer '{by}': a person decides; give your name")
    if said.action == "approve":
        return _approved(entry, by, comment, ontology)
    if said.action == "change":
        if said.label not in ontology.labels:
            raise UsageError(f"'{said.label}' is no label of the ontology; choose one of the list")
        why = _why(comment, f"was '{now.label}'" if now and now.label not in (None, said.label) else "", _told(now))
        return Mapping(label=said.label, status="approved", by=by, why=why)
    if not comment:
        raise UsageError(f"to {said.action}, write why" if said.action == "reject" else "the comment is empty")
    if said.action == "reject":
        return Mapping(label=None, status="rejected", by=by, why=_why(comment, _told(now)))
    if now is None:
        raise UsageError(f"'{entry.raw}' has no entry to comment on; choose a label or reject it")
    return now.model_copy(update={"why": _why(now.why or "", f"{by}: {comment}")})


def _approved(entry: Entry, by: str, comment: str, ontology: Ontology) -> Mapping:
    if entry.mapping is None:
        raise UsageError(f"'{entry.raw}' has no proposal; choose a label")
    noted = entry.mapping.model_copy(update={"why": _why(comment, entry.mapping.why or "")})
    found = approved({entry.raw: noted}, by, ontology, 0)
    if entry.raw not in found:
        raise UsageError(f"'{entry.raw}' is decided already by {entry.mapping.by}; change or reject it instead")
    return found[entry.raw]


def _told(mapping: Mapping | None) -> str:
    """Who had proposed what a person now decides."""
    return f"proposed by {mapping.by}" if mapping is not None and by_program(mapping) else ""


def _why(*parts: str) -> str | None:
    return "; ".join(part for part in parts if part) or None


class Desk:
    """The label maps of some sources. `folders` are as for `labels approve`: the last one is written to."""

    def __init__(self, folders: tuple[Path, ...], manifests: Map[str, Manifest], ontology: Ontology, *, write: bool,
                 out: Path | None) -> None:  # fmt: skip
        self.ontology, self.write = ontology, write
        self._folders, self._manifests, self._out = folders, manifests, out
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[list[Any], list[Entry]]] = {}
        self._shown: dict[tuple[str, str], bytes | None] = {}

    def sources(self) -> list[str]:
        """The sources that have a label map."""
        return sorted({path.stem for folder in self._folders for path in (folder / "sources").glob("*.yaml")})

    def entries(self, source: str) -> list[Entry]:
        """The raw labels of a source, read again when its files have changed: those to decide first, then by name."""
        if source not in self.sources():
            raise UsageError(f"no label map of '{source}'")
        stamp = [(p.stat().st_mtime_ns, p.stat().st_size) for p in self._paths(source) if p.exists()]
        if source not in self._kept or self._kept[source][0] != stamp:
            mappings: dict[str, Mapping | None] = dict(load_label_map(source, *self._folders))
            manifest = self._manifests.get(source)
            mappings |= dict.fromkeys(set(manifest.raw_labels() if manifest else ()) - set(mappings))
            found = [Entry(source, raw, m, m is None or m.status == "proposed" or by_program(m))
                     for raw, m in mappings.items()]  # fmt: skip
            self._kept[source] = (stamp, sorted(found, key=lambda e: (not e.open, e.raw)))
        return self._kept[source][1]

    def entry(self, source: str, raw: str) -> Entry:
        """One entry, as the file has it now."""
        found = next((e for e in self.entries(source) if e.raw == raw), None)
        if found is None:
            raise UsageError(f"{source}: no raw label '{raw}'")
        return found

    def _paths(self, source: str) -> list[Path]:
        return [folder / "sources" / f"{source}.yaml" for folder in self._folders]

    def decide(self, entry: Entry, said: Decision) -> Entry:
        """Write a decision; the lines of all other entries and all comments stay as they are.

        Raises:
            UsageError: as `decided`; or the entry has changed since the person saw it.
        """
        if not self.write:
            raise UsageError("this explorer only reads; start it with --review to decide")
        with self._lock:
            now = self.entry(entry.source, entry.raw)
            if now.seen != entry.seen:
                raise UsageError(f"'{entry.raw}' has changed in the file since you saw it; look again")
            before = load_label_map(entry.source, *self._folders)
            label_file.save(self._folders[-1], entry.source, {entry.raw: decided(now, said, self.ontology)}, before)
            self._kept.pop(entry.source, None)
            return self.entry(entry.source, entry.raw)

    def crops(self, source: str, raw: str) -> bytes | None:
        """A JPEG of examples of a raw label, whatever it is mapped to, side by side; None where there are none."""
        key = (source, raw)
        if key not in self._shown:
            found = crops(self._out / "stages" / "slice" / source, raw) if self._out is not None else []
            self._shown[key] = images.strip(found, CROPS) if found else None
        return self._shown[key]


def crops(folder: Path, raw: str) -> list[Image.Image]:
    """Small pictures around the largest region of a raw label of some cases, from the slice results in a folder."""
    found: list[Image.Image] = []
    for path in sorted(folder.glob("*.regions.parquet"))[:BATCHES]:
        columns = ["case", "axis", "slice_index", "x", "y", "w", "h", "area"]
        rows = pq.read_table(store.opened(path), columns=columns, filters=[("raw_label", "=", raw)]).to_pylist()
        largest: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda r: -r["area"]):
            largest.setdefault(row["case"], []).append(row)
        pictures = path.with_name(path.name.replace(".regions.", ".images."))
        for members in largest.values():
            picture = next((p for p in (_picture(pictures, row) for row in members[:3]) if p is not None), None)
            if picture is not None:
                found.append(picture)
            if len(found) == CROPS:
                return found
    return found


def _picture(path: Path, row: dict[str, Any]) -> Image.Image | None:
    """The crop around a region, None where its slice was not worth encoding."""
    same = [(name, "=", row[name]) for name in ("case", "axis", "slice_index")]
    found = pq.read_table(store.opened(path), columns=["png"], filters=same)["png"]
    return images.small(found[0].as_py(), [row[name] for name in "xywh"]) if len(found) else None
