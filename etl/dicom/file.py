"""Whether a file is DICOM, by its first bytes; needs no library, so that an inventory stays cheap."""

from pathlib import Path

HEAD_BYTES = 132
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_FIRST_ELEMENTS = 0x0100
"""A data set without the preamble starts with one of the first elements of group 0002 or 0008."""


def is_dicom(head: bytes) -> bool:
    """Whether these first bytes (132 or more) begin a DICOM file, with its preamble (PS3.10, 7.1) or without."""
    if head[128:132] == b"DICM":
        return True
    return any(_starts_data_set(head, order) for order in ("little", "big"))


def _starts_data_set(head: bytes, order: str) -> bool:
    if len(head) < 8:
        return False
    big = order == "big"
    group, element = (int.from_bytes(head[at : at + 2], "big" if big else "little") for at in (0, 2))
    if group not in (0x0002, 0x0008) or element > _FIRST_ELEMENTS:
        return False
    implicit = not big and int.from_bytes(head[4:8], "little") <= 64
    return head[4:6] in _VRS or implicit


def is_dicom_file(path: Path) -> bool:
    """Whether the content of a file is DICOM; False where it cannot be opened."""
    try:
        if not path.is_file():  # a pipe would be waited for without end
            return False
        with path.open("rb") as stream:
            return is_dicom(stream.read(HEAD_BYTES))
    except OSError:
        return False
