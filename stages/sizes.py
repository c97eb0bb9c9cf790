"""What became of the regions of each label, source and axis: the ledger that the numbers and the report show."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from etl import store
from etl.release.records import Refused
from etl.results import Result, open_part
from stages.flags import plain
from stages.plan import Options, Work
from stages.records import Naming
from stages.select import Selection
from stages.tables import regions_of

EDGES = np.sort(np.append(np.logspace(-5, 0, 21), 0.015)).round(8)  # of the area histograms, shares of the image
PLACES = 12  # a heat map of boxes is PLACES x PLACES
AXIS_KEY = ["label", "axis"]
PER_REASON = 2  # pictures of a source shown for each reason of its quarantine
SHOWN = 60


@dataclass(slots=True)
class _Label:
    areas: NDArray[np.int64]
    places: NDArray[np.int64]


class Sizes:
    """Adds up all sources; its `result` goes into the numbers of the dataset."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._labels: dict[str, _Label] = {}
        self._per_image: Counter[int] = Counter()
        self._tree: Counter[tuple[str, str, str]] = Counter()
        self._sources: dict[str, Any] = {}
        self._quarantine: dict[str, dict[str, int]] = {}
        self._refused: list[Refused] = []

    def add(
        self, work: Work, results: list[Result], names: Naming, kept: pa.Table, selection: Selection,
        quarantine: pa.Table, options: Options,
    ) -> None:
        """Enters one source: its regions `kept` by the stages, less those `selection` leaves out."""
        found, kept = plain(regions_of("validate", work, options)), plain(kept)
        label_of = names.labels()
        found["label"] = [label_of.get(raw, raw) for raw in found["raw_label"]]
        out = pd.MultiIndex.from_frame(kept[["case", "axis", "slice_index"]]).isin(list(selection.left_out))
        used = kept[~out]
        self._count(work.slug, found, kept, used, options)
        self._measure(found, used)
        self._per_image.update(used.groupby(["case", "axis", "slice_index"]).size().tolist())
        for label, n in used["label"].value_counts().items():
            category = names.ontology.categories[names.ontology.labels[str(label)].category]
            self._tree[category.body_region, category.name, str(label)] += int(n)
        m = work.manifest
        pairs = Counter(row["reason"] for row in work.rejected)
        self._sources[work.slug] = {
            "title": m.title, "year": m.year, "modality": m.modality, "homepage": m.homepage, "license": m.license.name,
            "redistribution": m.license.redistribution, "status": m.status, "pairs": len(work.cases),
            "images_without_mask": pairs["no_mask"], "masks_without_image": pairs["no_image"],
        }  # fmt: skip
        refused: pd.DataFrame = quarantine.to_pandas()
        reasons = refused["reason"].value_counts().sort_index()
        self._quarantine[work.slug] = {str(reason): int(n) for reason, n in reasons.items()}
        self._refused += _pictures(work.slug, results, refused)

    def _count(
        self, slug: str, found: pd.DataFrame, kept: pd.DataFrame, used: pd.DataFrame, options: Options
    ) -> None:
        large = found["area"].astype("float64") >= options.min_area * found["width"].astype("float64") * found["height"]
        counts = pd.DataFrame({
            "found": found.groupby(AXIS_KEY).size(), "large": found[large].groupby(AXIS_KEY).size(),
            "named": kept.groupby(AXIS_KEY).size(), "kept": used.groupby(AXIS_KEY).size(),
        }).fillna(0).astype(int).sort_index()  # fmt: skip
        rows: Any = counts.iterrows()
        for (label, axis), n in rows:
            self._rows.append({
                "source": slug, "label": label, "axis": axis, "found": int(n["found"]),
                "too_small": int(n["found"] - n["large"]), "not_named": int(n["large"] - n["named"]),
                "left_out": int(n["named"] - n["kept"]), "kept": int(n["kept"]),
            })  # fmt: skip

    def _measure(self, found: pd.DataFrame, used: pd.DataFrame) -> None:
        share = found["area"] / (found["width"].astype("float64") * found["height"])
        bins = np.clip(np.searchsorted(EDGES, share, side="right") - 1, 0, EDGES.size - 2)
        for label, members in pd.Series(bins, found.index).groupby(found["label"]):
            self._of(str(label)).areas += np.bincount(members, minlength=EDGES.size - 1)
        row = ((used["y"] + used["h"] / 2) / used["height"] * PLACES).clip(0, PLACES - 1).astype(int)
        column = ((used["x"] + used["w"] / 2) / used["width"] * PLACES).clip(0, PLACES - 1).astype(int)
        for label, members in (row * PLACES + column).groupby(used["label"]):
            self._of(str(label)).places += np.bincount(members, minlength=PLACES**2)

    def _of(self, label: str) -> _Label:
        if label not in self._labels:
            self._labels[label] = _Label(np.zeros(EDGES.size - 1, np.int64), np.zeros(PLACES**2, np.int64))
        return self._labels[label]

    def state(self) -> dict[str, Any]:
        """The sums as plain values, but for the pictures of `pictures`."""
        return {
            "rows": self._rows, "areas": {n: v.areas.tolist() for n, v in self._labels.items()},
            "places": {n: v.places.tolist() for n, v in self._labels.items()},
            "per_image": [[n, count] for n, count in self._per_image.items()],
            "tree": [[*place, count] for place, count in self._tree.items()],
            "sources": self._sources, "quarantine": self._quarantine,
        }  # fmt: skip

    @property
    def pictures(self) -> list[Refused]:
        """Of what is in quarantine."""
        return self._refused

    def join(self, state: dict[str, Any], pictures: list[Refused]) -> None:
        """Enters the sums of another."""
        self._rows += state["rows"]
        for name in state["areas"]:
            label = self._of(name)
            label.areas += np.array(state["areas"][name], np.int64)
            label.places += np.array(state["places"][name], np.int64)
        self._per_image.update(dict(state["per_image"]))
        for *place, count in state["tree"]:
            self._tree[place[0], place[1], place[2]] += count
        self._sources |= state["sources"]
        self._quarantine |= state["quarantine"]
        self._refused += pictures

    def result(self, options: Options) -> dict[str, Any]:
        """The ledger, histograms of areas and of box centres by label, and the sources, plain values for JSON."""
        labels = sorted(self._labels.items())
        return {
            "min_area": options.min_area, "min_regions": options.min_regions, "ledger": self._rows,
            "areas": {"edges": EDGES.tolist(), "labels": {n: v.areas.tolist() for n, v in labels}},
            "places": {n: v.places.tolist() for n, v in labels if v.places.any()},
            "regions_per_image": {str(n): self._per_image[n] for n in sorted(self._per_image)},
            "hierarchy": [{"body_region": b, "category": c, "label": n, "regions": self._tree[b, c, n]}
                          for b, c, n in sorted(self._tree)],
            "sources": self._sources, "quarantine": self._quarantine,
        }  # fmt: skip

    def refused(self, options: Options) -> list[Refused]:
        """A few pictures of what is in quarantine, also written beside the stage results for `report`."""
        chosen = sorted(self._refused, key=lambda r: (r.reason, r.key))[:SHOWN]
        store.write_table(options.out / "stages" / "export" / "refused.parquet", Refused.table(chosen))
        return chosen


def _pictures(slug: str, results: list[Result], quarantine: pd.DataFrame) -> list[Refused]:
    """Encoded slices of quarantine rows, the first few of each reason in the order of a hash of their key."""
    rows = quarantine[quarantine["slice_index"].notna() & quarantine["axis"].notna()]
    wanted: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for reason, group in rows.groupby("reason"):
        records: Any = group.itertuples()
        keyed = {f"{slug}/{r.case}/{r.axis}/{int(r.slice_index)}": r for r in records}
        ordered = sorted(keyed, key=lambda key: hashlib.sha256(key.encode()).digest())
        wanted[str(reason)] = {key: [keyed[key].case, keyed[key].detail, keyed[key].raw_label] for key in ordered[:20]}
    batch_of = {image["case"]: r.batch for r in results for image in r.images}
    found = []
    for reason, members in sorted(wanted.items()):
        shown = 0
        for key, (case, detail, raw) in members.items():
            if shown < PER_REASON and (png := _png(batch_of.get(case), case, key)) is not None:
                text = detail if raw is None or pd.isna(raw) else f"{raw}: {detail}"
                found.append(Refused(reason, key, text, png))
                shown += 1
    return found


def _png(batch: Any, case: str, key: str) -> bytes | None:
    """The encoded slice of a key, if it was encoded."""
    if batch is None:
        return None
    axis, index = key.rsplit("/", 2)[1:]
    rows = open_part(batch, "images").read(["case", "axis", "slice_index", "png"], use_threads=False)
    at = plain(rows.select(["case", "axis", "slice_index"]))
    hit = at.index[(at["case"] == case) & (at["axis"] == axis) & (at["slice_index"] == int(index))]
    return bytes(rows["png"][int(hit[0])].as_py()) if len(hit) else None
