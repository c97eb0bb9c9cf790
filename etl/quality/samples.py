"""The images that a report shows: chosen while the dataset streams by, drawn with masks and boxes."""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from etl.labels.table import LabelTable
from etl.quality.checks import CHECKS
from etl.release.records import Page, array

WARNINGS = frozenset(name for name, check in CHECKS.items() if check.level == "warning")
SIDE = 240  # longest side of a picture, pixels
RANDOM = 3  # images of a source chosen by a hash of their key
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")  # Okabe and Ito
SOURCES = 150
LABELS = 200


@dataclass(frozen=True, slots=True)
class Shown:
    """An image to show: `regions` have label, label_id, x, y, w, h, area and rle (None for a given box)."""

    key: str
    png: bytes
    size: tuple[int, int]  # height, width
    flags: list[str]
    regions: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Neighbouring images of one source: by image their keys and flags, by region its image, label and area share."""

    source: str
    keys: list[str]
    flags: list[list[str]]
    image: npt.NDArray[np.int64]
    label: npt.NDArray[np.object_]
    share: npt.NDArray[np.float32]
    shown: Callable[[int], Shown]


@dataclass(slots=True)
class Chosen:
    """The random, largest, smallest and suspicious images of one source or label, each with its rank; least is best."""

    drawn: list[tuple[bytes, Shown]] = field(default_factory=list)
    largest: tuple[tuple[float, str], Shown] | None = None
    smallest: tuple[tuple[float, str], Shown] | None = None
    suspicious: Shown | None = None

    def look(self, seen: Seen, regions: npt.NDArray[np.int64], ranks: list[bytes], most: int) -> None:
        """Take what is to be shown of these regions (their places) of neighbouring images."""
        here = np.unique(seen.image[regions]).tolist()
        for n in heapq.nsmallest(most, here, key=ranks.__getitem__):
            if len(self.drawn) < most or ranks[n] < self.drawn[-1][0]:
                self.drawn = sorted([*self.drawn, (ranks[n], seen.shown(n))], key=lambda pair: pair[0])[:most]
        shares = seen.share[regions]
        self.largest = self._better(self.largest, -shares, seen, regions)
        self.smallest = self._better(self.smallest, shares, seen, regions)
        warned = next((n for n in here if any(f in WARNINGS for f in seen.flags[n])), None)
        if warned is not None and (self.suspicious is None or seen.keys[warned] < self.suspicious.key):
            self.suspicious = seen.shown(warned)

    @staticmethod
    def _better(
        best: tuple[tuple[float, str], Shown] | None, cost: npt.NDArray[np.float32], seen: Seen,
        regions: npt.NDArray[np.int64],
    ) -> tuple[tuple[float, str], Shown] | None:
        place = int(cost.argmin())
        n = int(seen.image[regions[place]])
        rank = (float(cost[place]), seen.keys[n])
        return (rank, seen.shown(n)) if best is None or rank < best[0] else best

    def join(self, other: Chosen, most: int) -> None:
        """Take the better ones of others."""
        self.drawn = sorted([*self.drawn, *other.drawn], key=lambda pair: pair[0])[:most]
        for name in ("largest", "smallest"):
            both = [best for best in (getattr(self, name), getattr(other, name)) if best is not None]
            setattr(self, name, min(both, key=lambda best: best[0], default=None))
        warned = [shown for shown in (self.suspicious, other.suspicious) if shown is not None]
        self.suspicious = min(warned, key=lambda shown: shown.key, default=None)

    def pictures(self) -> list[tuple[str, Shown]]:
        """(why, image), none twice."""
        named = [("suspicious: " + ", ".join(self.suspicious.flags), self.suspicious)] if self.suspicious else []
        named += [("largest region", self.largest[1])] if self.largest else []
        named += [("smallest region", self.smallest[1])] if self.smallest else []
        named += [("random", shown) for _, shown in self.drawn]
        return list({shown.key: (why, shown) for why, shown in reversed(named)}.values())[::-1]


class Samples:
    """Chooses images by source and by label, the same ones however the dataset is cut into pages."""

    def __init__(self) -> None:
        self.sources: dict[str, Chosen] = {}
        self.labels: dict[str, Chosen] = {}

    def add(self, seen: Seen) -> None:
        """Looks at neighbouring images in key order."""
        ranks = [hashlib.sha256(key.encode()).digest() for key in seen.keys]
        every = np.arange(seen.image.size)
        self.sources.setdefault(seen.source, Chosen()).look(seen, every, ranks, RANDOM)
        for label in sorted(set(seen.label.tolist())):
            self.labels.setdefault(label, Chosen()).look(seen, every[seen.label == label], ranks, 1)

    def join(self, other: Samples) -> None:
        """Take the better ones of others."""
        for mine, theirs, most in ((self.sources, other.sources, RANDOM), (self.labels, other.labels, 1)):
            for name, chosen in theirs.items():
                mine.setdefault(name, Chosen()).join(chosen, most)

    def dump(self) -> bytes:
        """The choice as JSON, bytes in base64."""
        both = {"sources": self.sources, "labels": self.labels}
        return orjson.dumps(both, default=lambda data: base64.b64encode(data).decode())

    @staticmethod
    def load(text: bytes) -> Samples:
        """The choice of `dump`."""
        both, found = orjson.loads(text), Samples()
        found.sources, found.labels = (
            {name: _chosen(told) for name, told in both[level].items()} for level in ("sources", "labels")
        )
        return found


def _chosen(told: dict[str, Any]) -> Chosen:
    def shown(record: dict[str, Any]) -> Shown:
        return Shown(**{**record, "png": base64.b64decode(record["png"]), "size": tuple(record["size"])})

    best = {name: ((pair[0][0], pair[0][1]), shown(pair[1])) if (pair := told[name]) else None
            for name in ("largest", "smallest")}  # fmt: skip
    drawn = [(base64.b64decode(rank), shown(record)) for rank, record in told["drawn"]]
    return Chosen(drawn, **best, suspicious=shown(told["suspicious"]) if told["suspicious"] else None)


def samples_of(page: Page, labels: LabelTable) -> Seen:
    """A page that `export` writes, as `Samples` looks at it."""
    names = np.array(labels.label.to_pylist(), object)
    ids = array(page.regions, "label_id")

    def shown(n: int) -> Shown:
        image, regions = page.rows(n)
        told = [{**r, "label": names[r["label_id"]]} for r in regions]
        return Shown(image["key"], image["png"], (image["height"], image["width"]), image["flags"] or [], told)

    return Seen(page.source, page.images["key"].to_pylist(), [f or [] for f in page.images["flags"].to_pylist()],
                page.image_of.astype(np.int64), names[ids], array(page.regions, "area_fraction").astype(np.float32),
                shown)  # fmt: skip


def samples_in(rows: list[dict[str, Any]]) -> Seen:
    """Neighbouring rows of a shard of one source, as `Samples` looks at them."""
    regions = [(n, region) for n, row in enumerate(rows) for region in row["regions"]]

    return Seen(rows[0]["source"], [row["key"] for row in rows], [row.get("flags") or [] for row in rows],
                np.array([n for n, _ in regions], np.int64), np.array([r["label"] for _, r in regions], object),
                np.array([r["area_fraction"] for _, r in regions], np.float32),
                lambda n: shown_in(rows[n]))  # fmt: skip


def shown_in(row: dict[str, Any]) -> Shown:
    """A row of a shard as it is shown."""
    told = [{**r, **dict(zip("xywh", r["bbox"], strict=True)), "rle": (r["segmentation"] or {}).get("counts")}
            for r in row["regions"]]  # fmt: skip
    return Shown(row["key"], row["image"]["bytes"], (row["height"], row["width"]), row.get("flags") or [], told)


def colors(label_ids: Iterable[int]) -> dict[int, int]:
    """Which of COLORS each label of an image has: its own one, else the next that no other label there has."""
    found: dict[int, int] = {}
    for label_id in sorted(set(label_ids)):
        own = [(label_id + step) % len(COLORS) for step in range(len(COLORS))]
        found[label_id] = next((place for place in own if place not in found.values()), own[0])
    return found


def drawn(record: Shown, label: str | None = None) -> str:
    """A JPEG, as a data address, of an image with masks tinted and boxes drawn; of one label only if given."""
    return address(painted(record, label))


def painted(
    record: Shown, label: str | None = None, *, masks: bool = True, boxes: bool = True, side: int = SIDE
) -> Image.Image:
    """An image, its longest side `side`, with masks tinted and boxes drawn; of one label only if given."""
    with Image.open(io.BytesIO(record.png)) as stored:
        picture = stored.convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    paint = {n: COLORS[place] for n, place in colors(r["label_id"] for r in record.regions).items()}
    regions = [r for r in record.regions if label is None or r["label"] == label]
    for region in sorted(regions, key=lambda r: -r["area"]) if masks else ():
        picture = _tinted(picture, region, record.size, paint[region["label_id"]])
    draw = ImageDraw.Draw(picture)
    for region in regions if boxes else ():
        x, y, w, h = (region[name] * scale for name in "xywh")
        draw.rectangle((x, y, max(x, x + w - 1), max(y, y + h - 1)), outline=paint[region["label_id"]])
    return picture


def _tinted(picture: Image.Image, region: dict[str, Any], size: tuple[int, int], color: str) -> Image.Image:
    """The picture with the region's mask a quarter in a colour and its outline wholly."""
    if region["rle"] is None:
        return picture
    try:
        mask = coco_mask.decode({"size": list(size), "counts": region["rle"].encode()})
    except ValueError:  # a dataset of others with other run lengths: its box is drawn all the same
        return picture
    small = np.asarray(Image.fromarray(mask * 255).resize(picture.size, Image.Resampling.BOX)) > 127
    beside = np.pad(small, 1)
    inside = beside[:-2, 1:-1] & beside[2:, 1:-1] & beside[1:-1, :-2] & beside[1:-1, 2:]
    edge = small & ~inside
    paint = np.array(Image.new("RGB", (1, 1), color)).reshape(3).astype(np.float32)
    values = np.asarray(picture).astype(np.float32)
    values[small] = 0.75 * values[small] + 0.25 * paint
    values[edge] = paint
    return Image.fromarray(np.rint(values).astype(np.uint8))


def plain(png: bytes) -> str:
    """A stored picture, reduced, as a data address."""
    with Image.open(io.BytesIO(png)) as stored:
        picture = stored.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return address(picture)


def address(picture: Image.Image) -> str:
    """A picture as a data address."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(picture)).decode()


def jpeg(picture: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
