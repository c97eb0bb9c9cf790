"""DICOM Segmentation objects: segments, and their frames as masks placed in space.

Source: DICOM PS3.3 A.51 and C.8.20.2 (Segmentation Image Module).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etl.dicom import planes as dicom_planes
from etl.errors import ItemError
from etl.pixels.raster import MAX_BYTES, Array, check_size, unreadable
from etl.privacy import message

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
THRESHOLD = 0.5
"""A fractional segment holds the pixels above this share of its maximum, unless the manifest says otherwise."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its number, its Segment Label, and the indices of its frames."""

    number: int
    label: str
    frames: tuple[int, ...]


class SegFile:
    """A DICOM Segmentation file; frames are decoded when asked for.

    Raises:
        ItemError: `unreadable`, `unsupported` (not a segmentation, frames without a place), `too_large`.
    """

    def __init__(self, path: Path, limit: int = MAX_BYTES) -> None:
        self.name = path.name
        self.dataset = dicom_planes.load(path)
        if self.dataset.get("SOPClassUID") not in (SEGMENTATION, LABELMAP):
            raise ItemError("unsupported", f"{path.name}: not a DICOM Segmentation")
        try:
            self.size = (int(self.dataset.Rows), int(self.dataset.Columns))
            self.count = int(self.dataset.NumberOfFrames)
            self.type = str(self.dataset.SegmentationType)
            self.bits = int(self.dataset.BitsAllocated)
            self.segments = self._segments()
            self.compressed = bool(self.dataset.file_meta.TransferSyntaxUID.is_compressed)
            self.affines = dicom_planes.frame_affines(self.dataset, path.name)
        except ItemError:
            raise
        except Exception as error:  # damaged elements raise anything when they are looked at
            raise unreadable(path, error) from error
        check_size(path, (self.count, *self.size), max(1, self.bits // 8), limit)
        if len(self.affines) != self.count:
            raise unreadable(path, f"{self.count} frames, {len(self.affines)} descriptions of frames")

    def _segments(self) -> tuple[Segment, ...]:
        frames: dict[int, list[int]] = {}
        if self.type != "LABELMAP":
            for index, group in enumerate(self.dataset.PerFrameFunctionalGroupsSequence):
                own = group.get("SegmentIdentificationSequence")
                shared = self.dataset.SharedFunctionalGroupsSequence[0].get("SegmentIdentificationSequence")
                frames.setdefault(int((own or shared)[0].ReferencedSegmentNumber), []).append(index)
        return tuple(
            Segment(int(item.SegmentNumber), str(item.get("SegmentLabel") or "").strip(),
                    tuple(frames.get(int(item.SegmentNumber), ())))
            for item in self.dataset.SegmentSequence
        )  # fmt: skip

    def masks(self, segment: Segment, threshold: float | None) -> Iterator[tuple[NDArray[np.float64], Array]]:
        """Each frame of a segment: its affine, and its pixels (bool, rows, columns)."""
        share = THRESHOLD if threshold is None else threshold
        largest = float(self.dataset.get("MaximumFractionalValue") or 1) if self.type == "FRACTIONAL" else 1.0
        for index in range(self.count) if self.type == "LABELMAP" else segment.frames:
            frame = self.frame(index)
            if self.type == "LABELMAP":
                yield self.affines[index], frame == segment.number
            elif self.type == "FRACTIONAL":
                yield self.affines[index], frame > share * largest
            else:
                yield self.affines[index], frame != 0

    def frame(self, index: int) -> Array:
        """The stored values of one frame (rows, columns)."""
        rows, columns = self.size
        pixels = rows * columns
        if self.compressed:
            return self._decoded(index)
        data = memoryview(self.dataset.PixelData)
        if self.bits == 1:  # frames follow each other bit by bit, without padding
            first, last = index * pixels, (index + 1) * pixels
            bits = np.unpackbits(np.frombuffer(data[first // 8 : -(-last // 8)], np.uint8), bitorder="little")
            flat = bits[first % 8 : first % 8 + pixels]
        else:
            width = self.bits // 8
            raw = data[index * pixels * width : (index + 1) * pixels * width]
            flat = np.frombuffer(raw, np.dtype(f"<u{width}"), count=len(raw) // width)
        if flat.size != pixels:
            raise ItemError("unreadable", f"{self.name}: cut off in frame {index + 1} of {self.count}")
        return flat.reshape(rows, columns)

    def _decoded(self, index: int) -> Array:
        from pydicom.pixels.utils import pixel_array

        try:
            return np.asarray(pixel_array(self.dataset, index=index))
        except Exception as error:  # codecs raise anything
            raise ItemError("unreadable", f"{self.name}: frame {index + 1}: {message(error)}") from error
