"""What annotation readers return, and what they are told of the image."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from etl.errors import ItemError
from etl.pixels.raster import STACK_AFFINE, Array, Origin, Raster
from etl.pixels.regions import Found

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule


@dataclass(frozen=True, slots=True)
class Grid:
    """The image that an annotation belongs to.

    ``path`` is below the source's folder; ``shape`` is that of the stored array: (rows, columns) of a
    picture (``affine`` None), else (i, j[, k[, t]]) with the 4x4 ``affine`` to RAS+ mm. ``slices``
    says which DICOM file each slice along k comes from; ``case`` is the case name.
    """

    path: str
    shape: tuple[int, ...]
    affine: NDArray[np.float64] | None = None
    slices: tuple[Origin, ...] = ()
    case: str = ""

    @property
    def rows_first(self) -> bool:
        """Whether the first two axes are rows and columns: of pictures and of arrays without geometry."""
        return self.affine is None or np.array_equal(self.affine, STACK_AFFINE)

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of a picture, or of a stored slice: else i runs to the right and j down."""
        first, second = self.shape[:2]
        return (first, second) if self.rows_first else (second, first)


@dataclass(frozen=True, slots=True)
class Layer:
    """One annotation on the mask file's own grid.

    ``names`` maps values to raw labels. Values of one raw label are instances: each is a region of its
    own. A nonzero value without a name is undefined; ``undefined`` holds its text where it has one.
    A layer that is ``loose`` may have a grid of its own; ``resampled`` says that it had and was brought to the image's.
    """

    array: Array
    names: dict[int, str]
    affine: NDArray[np.float64] | None = None
    undefined: dict[int, str] = field(default_factory=dict)
    loose: bool = False
    resampled: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """One annotated object of a picture; ``name`` is its raw label, or the source's text if not ``defined``."""

    name: str
    defined: bool
    region: Found


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects that may overlap, each a region of its own, on a picture of ``size`` (rows, columns).

    None at all means that the picture was looked at and shows nothing.
    """

    size: tuple[int, int]
    found: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """One annotated object that cannot be a region: its raw label or text, the quarantine reason, the cause."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask file and the text that ``{label}`` captured in its path."""

    path: Path
    label: str | None = None


Annotation: TypeAlias = Layer | Objects | Lost
Reader = Callable[["Rule", Sequence[Mask], dict[str, str], Grid], Sequence[Annotation]]


def unite(groups: Iterable[tuple[str, str | None, Iterable[Raster]]]) -> list[Layer]:
    """Layers of (key, raw label or None, bool rasters): the rasters of one group and grid are united.

    Groups that do not overlap share an array, so a hundred organs of a scan need few of them.
    """
    layers: list[Layer] = []
    for value, (key, name, parts) in enumerate(groups, 1):
        if value > np.iinfo(np.uint16).max:
            raise ItemError("too_large", "more than 65535 labels in one case")
        for part in _union(parts):
            layer = _room(layers, part)
            layer.array[part.array] = value
            if name is None:
                layer.undefined[value] = key
            else:
                layer.names[value] = name
    return layers


def _union(parts: Iterable[Raster]) -> list[Raster]:
    united: list[Raster] = []
    for part in parts:
        same = next((other for other in united if _same_grid(other, part)), None)
        if same is None:
            united.append(part)
        else:
            same.array[part.array] = True
    return united


def _room(layers: list[Layer], part: Raster) -> Layer:
    """A layer on the part's grid with nothing where the part lies; a new one if there is none."""
    for layer in layers:
        if _same_grid(layer, part) and not layer.array[part.array].any():
            return layer
    layers.append(Layer(np.zeros_like(part.array, np.uint16), {}, part.affine))
    return layers[-1]


def _same_grid(layer: Layer | Raster, part: Raster) -> bool:
    if layer.array.shape != part.array.shape or (layer.affine is None) != (part.affine is None):
        return False
    return layer.affine is None or part.affine is None or np.array_equal(layer.affine, part.affine)
