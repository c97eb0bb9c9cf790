"""What may leave: names become keyed hashes, messages lose what files say, marked pixels stay behind.

Metadata need no filter: the dataset's columns are a whitelist (`etl/shards.py`), and no header is copied to any.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
from typing import TYPE_CHECKING, Any

from etl.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "MEDGLIP_SUBJECT_KEY"
PSEUDONYM_DIGITS = 32
MESSAGE_LETTERS = 160
LIBRARIES = ("pydicom", "nibabel", "PIL", "tifffile", "imagecodecs", "fsspec", "s3fs", "botocore", "urllib3")

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage; its multi-frame forms append .1 to .4 (PS3.4 B.5)."""
DIGITISED = {"DV": "digitised video", "DF": "digitised film", "SD": "a scanned document", "SI": "a scanned image"}
"""Conversion types (PS3.3 C.8.6.1) that bring along what was written on the original."""
SCANNERS = frozenset({"CT", "MR", "NM", "PT"})
CONTRAST = 0.25
"""Of the image's range: what differs this much from its surroundings can be read."""
LETTER_PIXELS = 20
"""Fewer readable pixels than this are no text."""


def quiet() -> None:
    """Libraries log nothing any more: their warnings quote what stands in headers."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


def message(error: BaseException) -> str:
    """What an error of a library says, without what it quotes: values, names, paths, addresses, long numbers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    text = re.sub(r"""(?<!\w)[bru]?['"“].*['"”]""", "…", text)
    text = re.sub(r"(\s*\()?0x[0-9a-fA-F]+\)?", "", text)
    text = re.sub(r"\S*[/\\^@]\S*", "…", text)
    text = re.sub(r"\d{6,}", "…", text)
    return text[:MESSAGE_LETTERS]


def subject_key() -> bytes:
    """The key of pseudonyms.

    Raises:
        UsageError: there is none; says how to make one.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise UsageError(
            f"a source with `pseudonymize: true` needs a secret key in {KEY}; make one and keep it, another key gives "
            f'other names: export {KEY}=$(python3 -c "import secrets; print(secrets.token_hex(32))")'
        )
    return key.encode()


def pseudonym(key: bytes, family: str, what: str, name: str) -> str:
    """The name of a subject or case (`what`) as HMAC-SHA256, 32 hexadecimal digits; one per family, name and key."""
    text = "\0".join((family, what, name))
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), "sha256").hexdigest()[:PSEUDONYM_DIGITS]


def identifying(dataset: Any) -> str | None:
    """Why the pixels of a DICOM image may show who the patient is, by its header; else None.

    `dataset` is a pydicom data set, or anything whose `get` gives the value of a keyword.

    BurnedInAnnotation (PS3.3 C.7.6.1.1.1) decides where it is there. Without it a screen save does, a secondary capture
    of film, video or paper, and one of a scanner's that has no place in the patient: a dose report or a rendering.
    Ultrasound is judged with its pixels, see `text_outside`.
    """
    burned = _word(dataset, "BurnedInAnnotation")
    if burned == "YES":
        return "annotation is burned into its pixels (BurnedInAnnotation)"
    if burned == "NO":
        return None
    kinds = dataset.get("ImageType") or ()
    words = " ".join(map(str, [kinds] if isinstance(kinds, str) else kinds)).upper()
    if re.search(r"SCREEN[ _]?(SAVE|SHOT|CAPTURE)", words):
        return "a saved screen (ImageType), not marked as free of annotation"
    if not str(dataset.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE):
        return None
    conversion = _word(dataset, "ConversionType")
    if conversion in DIGITISED:
        return f"a secondary capture of {DIGITISED[conversion]}, not marked as free of annotation"
    if _word(dataset, "Modality") in SCANNERS and not dataset.get("ImagePositionPatient"):
        return "a secondary capture without a place in the patient, not marked as free of annotation"
    return None


def text_outside(dataset: Any, frames: NDArray[Any]) -> str | None:
    """Why an ultrasound image (frames, rows, columns[, 3]) may show who the patient is; else None.

    Devices write names above the scan. Where the header says where the scan is (SequenceOfUltrasoundRegions, PS3.3
    C.8.5.5) and does not say that nothing is burned in, everything else must be blank.
    """
    regions = dataset.get("SequenceOfUltrasoundRegions") or ()
    if not regions or _word(dataset, "BurnedInAnnotation") == "NO":
        return None
    import numpy as np  # takes long to import, and every command comes by this module

    seen = frames.max(axis=0) if frames.ndim > 2 else frames
    seen = seen.max(axis=2) if seen.ndim == 3 else seen
    outside = np.ones(seen.shape, bool)
    for region in regions:
        left, top = (int(region.get(f"RegionLocationMin{axis}0", 0)) for axis in "XY")
        right, bottom = (int(region.get(f"RegionLocationMax{axis}1", 0)) for axis in "XY")
        outside[max(0, top) : bottom + 1, max(0, left) : right + 1] = False
    strip = seen[outside].astype(np.float64)
    if not strip.size:
        return None
    extent = float(seen.max()) - float(seen.min())
    readable = np.abs(strip - np.median(strip)) > CONTRAST * extent
    if extent and int(readable.sum()) >= LETTER_PIXELS:
        return "the device wrote something outside of its scan regions, not marked as free of annotation"
    return None


def _word(dataset: Any, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()
