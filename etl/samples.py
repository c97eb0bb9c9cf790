"""The images that a report shows: chosen while the dataset streams by, drawn with masks and boxes."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage

from etl.checks import CHECKS
from etl.records import ImageRecord, RegionRecord

SIDE = 240  # longest side of a picture, pixels
RANDOM = 3  # images of a source chosen by a hash of their key
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")  # Okabe and Ito
SOURCES = 150
LABELS = 200


@dataclass(slots=True)
class Chosen:
    """The random, largest, smallest and suspicious images of one source or label."""

    drawn: list[tuple[bytes, ImageRecord]] = field(default_factory=list)
    largest: tuple[tuple[float, str], ImageRecord] | None = None
    smallest: tuple[tuple[float, str], ImageRecord] | None = None
    suspicious: ImageRecord | None = None

    def offer(self, record: ImageRecord, rank: bytes, low: float, high: float, most: int) -> None:
        """Take an image whose regions have areas from `low` to `high` if it is one to show."""
        if len(self.drawn) < most or rank < self.drawn[-1][0]:
            self.drawn = sorted([*self.drawn, (rank, record)], key=lambda pair: pair[0])[:most]
        if self.largest is None or (-high, record.key) < self.largest[0]:
            self.largest = ((-high, record.key), record)
        if self.smallest is None or (low, record.key) < self.smallest[0]:
            self.smallest = ((low, record.key), record)
        warned = any(CHECKS[f].level == "warning" for f in record.flags if f in CHECKS)
        if warned and (self.suspicious is None or record.key < self.suspicious.key):
            self.suspicious = record

    def shown(self) -> list[tuple[str, ImageRecord]]:
        """(why, image), none twice."""
        named = [("suspicious: " + ", ".join(self.suspicious.flags), self.suspicious)] if self.suspicious else []
        named += [("largest region", self.largest[1])] if self.largest else []
        named += [("smallest region", self.smallest[1])] if self.smallest else []
        named += [("random", record) for _, record in self.drawn]
        return list({record.key: (why, record) for why, record in reversed(named)}.values())[::-1]


class Samples:
    """Chooses images by source and by label, the same ones in whatever order they come."""

    def __init__(self) -> None:
        self.sources: dict[str, Chosen] = {}
        self.labels: dict[str, Chosen] = {}

    def add(self, record: ImageRecord) -> None:
        """Looks at one image."""
        rank = hashlib.sha256(record.key.encode()).digest()
        shares = [round(region.area_fraction, 6) for region in record.regions]
        self._of(self.sources, record.source).offer(record, rank, min(shares), max(shares), RANDOM)
        for label in {region.label for region in record.regions}:
            own = [round(r.area_fraction, 6) for r in record.regions if r.label == label]
            self._of(self.labels, label).offer(record, rank, min(own), max(own), 1)

    @staticmethod
    def _of(group: dict[str, Chosen], name: str) -> Chosen:
        return group.setdefault(name, Chosen())


def color(label_id: int) -> str:
    """The colour of a label's regions."""
    return COLORS[label_id % len(COLORS)]


def drawn(record: ImageRecord, label: str | None = None) -> str:
    """A JPEG, as a data address, of an image with masks tinted and boxes drawn; of one label only if given."""
    with Image.open(io.BytesIO(record.image)) as stored:
        picture = stored.convert("RGB")
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    regions = [r for r in record.regions if label is None or r.label == label]
    for region in sorted(regions, key=lambda r: -r.area):
        picture = _tinted(picture, region)
    draw = ImageDraw.Draw(picture)
    for region in regions:
        x, y, w, h = (value * scale for value in region.bbox)
        draw.rectangle((x, y, max(x, x + w - 1), max(y, y + h - 1)), outline=color(region.label_id))
    return address(picture)


def _tinted(picture: Image.Image, region: RegionRecord) -> Image.Image:
    """The picture with the region's mask a quarter in its colour and its outline wholly."""
    if region.segmentation is None:
        return picture
    mask = coco_mask.decode({**region.segmentation, "counts": region.segmentation["counts"].encode()})
    small = np.asarray(Image.fromarray(mask * 255).resize(picture.size, Image.Resampling.BOX)) > 127
    edge = small & ~ndimage.binary_erosion(small)
    paint = np.array(Image.new("RGB", (1, 1), color(region.label_id))).reshape(3).astype(np.float32)
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
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
