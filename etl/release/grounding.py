"""Captions, and the grounding lines (ODVG): one line an image."""

from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl.release.jsontext import arrays, integers, lists, objects, texts, together
from etl.release.records import SPLITS, Page, array
from etl.store import Files, append

BETWEEN = ". "


def with_captions(page: Page) -> Page:
    """The page with the columns `caption`, `start` and `end`.

    A caption is the phrases of an image in order of label id, each once: a phrase belongs to one label.
    """
    phrase = page.regions["phrase"].combine_chunks()
    width = len(phrase.dictionary) or 1
    what = array(page.regions, "label_id").astype(np.int64) * width + phrase.indices.to_numpy()
    span = (int(what.max()) + 1) if len(what) else 1
    shown, place = np.unique(page.image_of * np.int64(span) + what, return_inverse=True)
    first = np.searchsorted(shown // span, np.arange(len(page.images) + 1)).astype(np.int32)
    words = phrase.dictionary.take(pa.array(shown % span % width))
    length = pc.utf8_length(words).to_numpy()
    before = np.r_[0, np.cumsum(length + len(BETWEEN))]
    start = before[:-1] - before[first[shown // span]]
    captions = pc.binary_join(pa.ListArray.from_arrays(pa.array(first), words), BETWEEN)
    regions = page.regions
    for name, values in (("start", start), ("end", start + length)):
        regions = regions.append_column(name, pa.array(values[place].astype(np.int32)))
    return Page(page.images.append_column("caption", captions), regions)


def lines(page: Page) -> pa.Array:
    """The grounding line of each image; boxes are [x1, y1, x2, y2] in pixels."""
    x, y, w, h = (page.regions[name] for name in "xywh")
    box = arrays(*map(integers, (x, y, pc.add(x, w), pc.add(y, h))))
    span = arrays(arrays(integers(page.regions["start"]), integers(page.regions["end"])))
    regions = objects({"phrase": texts(page.regions["phrase"]), "bbox": box, "tokens_positive": span})
    first = np.searchsorted(page.image_of, np.arange(len(page.images) + 1)).astype(np.int32)
    listed = lists(pa.ListArray.from_arrays(pa.array(first), regions))
    images = page.images
    return objects({
        "filename": texts(images["file_name"]),
        "height": integers(images["height"]),
        "width": integers(images["width"]),
        "grounding": objects({"caption": texts(images["caption"]), "regions": listed}),
    })


class GroundingWriter:
    """The grounding lines of one source: a file in `folder` for each split that it has images in."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.files: dict[str, IO[bytes]] = {}

    def add(self, split: str, page: Page) -> None:
        """Takes images of a split."""
        if split not in self.files:
            self.files[split] = (self.folder / f"{split}.jsonl").open("wb")
        self.files[split].write(together(lines(page), "\n"))
        self.files[split].write(b"\n")

    def close(self) -> None:
        """Ends all files."""
        for file in self.files.values():
            file.close()


def compose(parts: Files, folder: Path) -> None:
    """Writes the grounding files of all splits in `folder` from what `GroundingWriter` left of each source."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("wb") as target:
            for part, names in parts.items():
                if f"{split}.jsonl" in names:
                    append(part / f"{split}.jsonl", target)
