"""Files made to hurt: each is refused with a true reason, before it can take memory, time or another file."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import os
import resource
import struct
import subprocess
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from program import PROGRAM
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from etl import formats
from etl.errors import ItemError, UsageError
from etl.manifests.load import load_manifest
from etl.manifests.manifest import Table
from etl.manifests.tables import read_table
from etl.sources.inventory import inventory

NRRD = ("NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: {encoding}\n"
        "space origin: (0,0,0)\n{more}\n")  # fmt: skip
META = ("ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = {sizes}\nElementType = MET_UCHAR\n{more}"
        "ElementDataFile = {file}\n")  # fmt: skip
PACKED = "CompressedData = True\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes, more: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def nifti(shape: tuple[int, ...], offset: float = 352) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    data = bytearray(header.binaryblock)
    struct.pack_into(f"<h{len(shape)}h", data, 40, len(shape), *shape)
    struct.pack_into("<f", data, 108, offset)
    data[344:348] = b"n+1\0"
    return bytes(data) + bytes(4)


def tiff(*entries: tuple[int, int]) -> bytes:
    base = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1} | dict(entries)
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(base.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(base)) + body + bytes(200)


def gif_of(size: int) -> bytes:
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "GIF")
    data = file.getvalue()
    return data[:6] + struct.pack("<HH", size, size) + data[10:]


NOUGHT = bytes(2**20)
HOSTILE = [
    ("lie.png", png(30000, 30000, zlib.compress(b"\0")), "unreadable", "compressed bytes cannot hold"),
    ("huge.png", png(60000, 60000, zlib.compress(b"\0")), "too_large", "the limit"),
    ("absurd.png", png(2**31 - 1, 2**31 - 1, b""), "too_large", "the limit"),
    ("text.png", png(8, 8, zlib.compress(bytes(72)), chunk(b"zTXt", b"a\0\0" + zlib.compress(NOUGHT * 100))),
     "unreadable", "too large"),
    ("huge.gif", gif_of(65535), "too_large", "the limit"),
    ("huge.tif", tiff((256, 2**31), (257, 2**31)), "too_large", "the limit"),
    ("tile.tif", tiff((322, 2**30), (323, 2**30), (324, 8), (325, 8)), "unreadable", ""),
    ("offset.nii.gz", gzip.compress(nifti((4, 4, 4), 3e10) + bytes(64)), "too_large", "its voxels end at byte"),
    ("beyond.nii.gz", gzip.compress(nifti((4, 4, 4), 2e9) + bytes(64)), "unreadable", "cannot hold"),
    ("negative.nii", nifti((4, -4, 4)), "unreadable", "dimensions"),
    ("huge.nii", nifti((32767, 32767, 32767)), "too_large", "the limit"),
    ("cut.nii", nifti((30000, 1000, 100)), "unreadable", "cut off"),
    ("lie.nrrd", NRRD.format(sizes="1500 1500 1500", encoding="gzip", more="").encode() + gzip.compress(NOUGHT[:999]),
     "unreadable", "compressed bytes cannot hold"),
    ("bzip.nrrd", NRRD.format(sizes="900 900 900", encoding="bzip2", more="").encode() + bz2.compress(NOUGHT),
     "unsupported", "bzip2"),
    ("huge.nrrd", NRRD.format(sizes="99999 99999 99999", encoding="raw", more="").encode(), "too_large", "the limit"),
    ("word.nrrd", NRRD.format(sizes="ten 9 9", encoding="raw", more="").encode(), "unreadable", ""),
    ("list.nhdr", NRRD.format(sizes="10 10 1", encoding="raw", more="data file: LIST 2\n../secret.raw").encode(),
     "unreadable", "outside its folder"),
    ("number.nhdr", NRRD.format(sizes="10 10 1", encoding="raw", more="data file: ../secret%d.raw 1 1 1 2").encode(),
     "unreadable", "outside its folder"),
    ("format.nhdr", NRRD.format(sizes="10 10 1", encoding="raw", more="data file: %s%999999999d.raw 1 1 1").encode(),
     "unreadable", "cannot be understood"),
    ("many.nhdr", NRRD.format(sizes="10 10 1", encoding="raw", more="data file: a%d.raw 1 999999999 1").encode(),
     "too_large", "data files"),
    ("list.mhd", META.format(sizes="10 10 1", more="", file="LIST\n../secret.raw").encode(), "unreadable", "outside"),
    ("up.mhd", META.format(sizes="10 10 1", more="", file="../secret.raw").encode(), "unreadable", "outside"),
    ("absolute.mhd", META.format(sizes="10 10 1", more="", file="/etc/passwd").encode(), "unreadable", "outside"),
    ("lie.mha", META.format(sizes="1500 1500 1500", more=PACKED, file="LOCAL").encode() + zlib.compress(NOUGHT[:99]),
     "unreadable", "compressed bytes cannot hold"),
    ("more.mha", META.format(sizes="9 9 9", more=PACKED, file="LOCAL").encode() + zlib.compress(NOUGHT * 200),
     "unreadable", "are not the 729 bytes"),
    ("noise.mha", META.format(sizes="9 9 9", more=PACKED, file="LOCAL").encode() + b"\0" * 90,
     "unreadable", "damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "reason", "cause"), HOSTILE, ids=[h[0] for h in HOSTILE])
def test_is_refused_with_the_reason(tmp_path: Path, name: str, data: bytes, reason: str, cause: str) -> None:
    (tmp_path / "in").mkdir()
    for secret in ("secret.raw", "secret1.raw"):
        (tmp_path / secret).write_bytes(bytes(range(100)))
    (tmp_path / "in" / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ItemError) as caught:
        formats.read(tmp_path / "in" / name)
    assert caught.value.reason == reason
    assert cause in caught.value.detail
    assert str(tmp_path) not in caught.value.detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_what_expands_further_than_declared_is_read_as_declared(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti((4, 4, 4)) + NOUGHT * 300))
    nrrd = NRRD.format(sizes="9 9 9", encoding="gzip", more="").encode()
    (tmp_path / "a.nrrd").write_bytes(nrrd + gzip.compress(NOUGHT * 300))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert formats.read(tmp_path / "a.nii.gz").array.shape == (4, 4, 4)
    assert formats.read(tmp_path / "a.nrrd").array.shape == (9, 9, 9)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_a_ring_of_tiff_pages_ends(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8), 7, np.uint8))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    data[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", first)
    (tmp_path / "a.tif").write_bytes(data)
    assert formats.read_pages(tmp_path / "a.tif")[0].max() == 7


def test_data_files_of_a_header_in_its_folder_are_read(tmp_path: Path) -> None:
    for n in (1, 2, 3):
        (tmp_path / f"s{n}.raw").write_bytes(bytes([n]) * 100)
    (tmp_path / "n.mhd").write_text(META.format(sizes="10 10 3", more="", file="s%d.raw 1 3 1"))
    (tmp_path / "l.mhd").write_text(META.format(sizes="10 10 3", more="", file="LIST\ns1.raw\ns2.raw\ns3.raw"))
    (tmp_path / "l.nhdr").write_text(NRRD.format(sizes="10 10 3", encoding="raw",
                                                 more="data file: LIST\ns1.raw\ns2.raw\ns3.raw"))  # fmt: skip
    for name in ("n.mhd", "l.mhd", "l.nhdr"):
        assert formats.read(tmp_path / name).array[0, 0].tolist() == [1, 2, 3]
        assert [p.name for p in formats.companions(tmp_path / name)] == ["s1.raw", "s2.raw", "s3.raw"]
    packed = META.format(sizes="10 10 3", more=PACKED, file="LOCAL").encode()
    voxels = zlib.compress(bytes(range(250)) + bytes(50))
    (tmp_path / "c.mha").write_bytes(packed + voxels)
    with pytest.raises(ItemError, match="CompressedDataSize"):
        formats.read(tmp_path / "c.mha")
    sized = packed.replace(b"ElementDataFile", b"CompressedDataSize = %d\nElementDataFile" % len(voxels))
    (tmp_path / "c.mha").write_bytes(sized + voxels)
    assert formats.read(tmp_path / "c.mha").array[:, 0, 0].tolist() == list(range(10))


def test_a_directory_of_dicom_files_is_not_followed(tmp_path: Path) -> None:
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", "..", "etc", "passwd"]
    file = FileDataset(str(tmp_path / "DICOMDIR"), Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    file.file_meta.TransferSyntaxUID, file.DirectoryRecordSequence = uid.ExplicitVRLittleEndian, [record]
    file.save_as(tmp_path / "DICOMDIR")
    with pytest.raises(ItemError, match="a directory of files") as caught:
        formats.read(tmp_path / "DICOMDIR")
    assert caught.value.reason == "unsupported"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    with pytest.raises(ItemError, match="no plain file"):
        formats.read(tmp_path / "a.nii.gz")


TABLES = [("a.json", b"[" * 200_000), ("a.csv", b'id,x\n1,"' + b"y" * 200_000 + b'"\n'), ("a.json", b"\xff\xfe")]


@pytest.mark.parametrize(("name", "data"), TABLES)
def test_tables_that_cannot_be_read_are_said(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    csv.field_size_limit(2**30)  # as reading a list of run lengths leaves it
    with pytest.raises(UsageError, match=name):
        read_table(Table(file=name, key="id", columns={"age": "x"}), tmp_path)


MANIFEST = """
slug: mixed
title: mixed
year: 2024
modality: ct
body_regions: [abdomen]
homepage: https://example.org
license: {name: CC0-1.0, redistribution: allowed}
access: open
evidence: [written here]
status: verified
files:
  - {image: "images/{case}.*", mask: "labels/{case}.nii.gz", kind: label_map}
labels: {1: liver}
"""


def test_a_folder_of_them_costs_only_themselves(tmp_path: Path) -> None:
    for part in ("manifests", "maps/sources", "raw/mixed/images", "raw/mixed/labels"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "manifests" / "mixed.yaml").write_text(MANIFEST)
    labels = "source: mixed\nlabels:\n  liver: {label: liver, status: approved, by: test}\n"
    (tmp_path / "maps" / "sources" / "mixed.yaml").write_text(labels)
    images, masks = tmp_path / "raw" / "mixed" / "images", tmp_path / "raw" / "mixed" / "labels"
    array = np.zeros((40, 44, 36), np.uint8)
    array[8:30, 10:30, 5:25] = 1
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), images / "good.nii.gz")
    nib.save(nib.Nifti1Image(array, np.eye(4)), masks / "good.nii.gz")
    expected = {}
    for name, data, reason, _ in HOSTILE:
        case = name.replace(".", "_")
        suffix = "." + name.split(".", 1)[1]
        (images / f"{case}{suffix}").write_bytes(data)
        os.link(masks / "good.nii.gz", masks / f"{case}.nii.gz")
        expected[case] = reason
    os.mkfifo(images / "pipe.png")
    os.symlink("nowhere", images / "gone.png")
    for case in ("pipe", "gone"):
        os.link(masks / "good.nii.gz", masks / f"{case}.nii.gz")
        expected[case] = "unreadable"
    for folder in (images, masks):
        os.link(images / "good.nii.gz", os.fsencode(folder) + b"/odd\xff.nii.gz")
    expected["odd\\xff"] = "unreadable"
    command = [PROGRAM, "build", "--raw", "raw", "--manifests", "manifests", "--label-maps", "maps"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(tmp_path / "out" / "quarantine" / "mixed.parquet")
    assert dict(zip(rows["case"], rows["reason"], strict=True)) == expected
    assert "Traceback" not in done.stderr


def test_links_of_the_user_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "elsewhere" / "a.png")
    for part in ("images", "labels"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere" / "a.png", tmp_path / "raw" / "images" / "a.png")
    os.symlink(tmp_path / "elsewhere" / "a.png", tmp_path / "raw" / "labels" / "a.nii.gz")
    (tmp_path / "mixed.yaml").write_text(MANIFEST)
    found = inventory(load_manifest(tmp_path / "mixed.yaml"), tmp_path / "raw")
    assert [case.image for case in found.cases] == ["images/a.png"]
