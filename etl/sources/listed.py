"""Annotation files that list many images: which image each one serves, and which listed images are not there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etl.errors import ItemError, UsageError
from etl.manifests.manifest import Manifest

if TYPE_CHECKING:
    from etl.kinds.listings import Listing

LISTINGS = frozenset({"coco", "csv_boxes", "rle_csv", "json_polygons"})  # the keys of etl.kinds.listings.LISTINGS
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")


class Lists:
    """The annotation files of a source that list images; ``read`` holds those that were asked for, by path."""

    def __init__(self, manifest: Manifest, root: Path) -> None:
        self.manifest, self.root = manifest, root
        self.read: dict[str, Listing] = {}
        self._images: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)

    def serves(self, rule: int, mask: str, image: str, case: str) -> bool:
        """Whether the annotation file ``mask`` of a rule is one of this image.

        A file that cannot be read is: the case then says why.

        Raises:
            UsageError: the file lists one image for two files of the rule.
        """
        kind = self.manifest.files[rule].kind
        if kind not in LISTINGS:
            return True
        from etl.kinds.listings import listing  # brings all readers, half of the time to start

        try:
            found = listing(self.manifest.files[rule], self.root / mask)
            name = found.name_of(image, case)
        except ItemError:
            return True
        self.read[mask] = found
        if name is None:
            return False
        other = self._images[mask, rule].setdefault(name, image)
        if other != image:
            raise UsageError(
                f"{self.manifest.path}: files[{rule}]: {mask} lists '{name}', which is both {other} and {image}; "
                "narrow the image pattern, one rule for each annotation file"
            )
        return True

    def without_image(self, paths: list[str]) -> Iterator[tuple[str, str]]:
        """Each listed name that no file of the source has, with the annotation file."""
        if not self.read:
            return
        ends = {"/".join(parts[start:]) for path in paths for parts in [path.split("/")] for start in range(len(parts))}
        ends |= {_EXTENSION.sub("", end) for end in ends}
        for mask, found in self.read.items():
            used = {name for (path, _), images in self._images.items() if path == mask for name in images}
            for name in found.entries:
                if name not in used and name not in ends and name.rsplit("/", 1)[-1] not in ends:
                    yield name, mask
