"""Nothing that identifies a person leaves: neither what headers say, nor marked pixels, nor names under pseudonyms."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
import tifffile
from dicom_writer import header, series, write
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from program import PROGRAM, write_source

from etl import privacy
from etl.dicom import burned_in
from etl.errors import UsageError

PLANTED = ("Zzyzx", "19511224", "Elmstreet", "ACC0815XY", "QPrivateQ", "555-01234")
NAME = "Zzyzx^Quentin^Dr"


def source(folder: Path, slug: str, modality: str, suffix: str, mask: str | None = None, **more: Any) -> Path:
    raw = write_source(folder, slug, modality, f"images/{{case}}.{suffix}", f"labels/{{case}}.{mask or suffix}", **more)
    (raw / "images").mkdir()
    (raw / "labels").mkdir()
    return raw


def build(folder: Path, out: str = "out", **env: str) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, "build", "--raw", "raw", "--manifests", "manifests", "--label-maps", "label_maps", "--out", out,
               "--workers", "1"]  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if k != privacy.KEY}
    return subprocess.run(command, cwd=folder, env=clean | env, capture_output=True, text=True, check=False)


def volume(path: Path, mask: bool = False, **fields: Any) -> None:
    array = np.zeros((40, 44, 36), np.int16)
    array[8:30, 10:30, 5:25] = 1 if mask else 100
    image = nib.Nifti1Image(array, np.eye(4))
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)


def square(value: int = 255) -> np.ndarray:
    return np.pad(np.full((30, 30), value, np.uint8), 9)


RAMP = (np.arange(48 * 48).reshape(48, 48) % 200).astype(np.uint8)


def planted_dicom(folder: Path) -> None:
    array = np.zeros((40, 44, 36), np.int16)
    array[8:30, 10:30, 5:25] = 100
    array += np.arange(44, dtype=np.int16)[:, None] * 4  # no copy of the other sources' volume
    for name in ("good", "bad", "marked"):
        more = {"BurnedInAnnotation": "YES"} if name == "marked" else {}
        paths = series(folder / "images" / name, array, np.diag([1.0, 1, 2, 1]), PatientName=NAME,
                       PatientBirthDate="19511224", PatientAddress="Elmstreet 13", AccessionNumber="ACC0815XY",
                       InstitutionName="Zzyzx Clinic", PatientTelephoneNumbers="555-01234",
                       StudyDescription="QPrivateQ", PatientComments="QPrivateQ", **more)  # fmt: skip
        mask = np.zeros((40, 44, 36), np.uint8)
        mask[8:30, 10:30, 5:25] = 1
        nib.save(nib.Nifti1Image(mask, np.diag([1.0, 1, 2, 1])), folder / "labels" / f"{name}.nii.gz")
        for path in paths:
            dataset = pydicom.dcmread(path)
            block = dataset.private_block(0x0029, "QPrivateQ", create=True)
            block.add_new(1, "LO", "QPrivateQ Zzyzx")
            if name == "bad":  # numbers that are names: what reads them must not repeat them
                dataset["ImagePositionPatient"]._value = [NAME] * 3
                dataset.add(pydicom.DataElement(0x00280030, "LO", "Elmstreet"))
                dataset["RescaleSlope"] = pydicom.DataElement(0x00281053, "LO", "ACC0815XY")
                dataset["Rows"] = pydicom.DataElement(0x00280010, "LO", NAME)
            dataset.save_as(path)


def planted_files(folder: Path) -> None:
    """Sources of every other format, each with a good and a bad case that name a person."""
    ct = source(folder, "ct", "ct", "nii.gz")
    for name in ("good", "bad"):
        volume(ct / "images" / f"{name}.nii.gz", descrip=NAME, aux_file="Elmstreet", intent_name="QPrivateQ")
        volume(ct / "labels" / f"{name}.nii.gz", mask=True, descrip=NAME)
    bad = nib.load(ct / "images" / "bad.nii.gz")
    raw = bytearray(bytes(bad.header.binaryblock) + bytes(4) + np.asarray(bad.dataobj).tobytes())
    struct.pack_into("<h", raw, 70, 19511)
    (ct / "images" / "bad.nii.gz").write_bytes(raw)
    png = source(folder, "png", "dermoscopy", "png", kind="binary", more=(
        "tables:\n  - {file: people.csv, key: id, case: \"{case}\", columns: {age: age}}"))  # fmt: skip
    (png / "people.csv").write_text(f"id,name,street,age\ngood,{NAME},Elmstreet,44\nbad,{NAME},Elmstreet,45\n")
    text = PngInfo()
    text.add_text("Author", NAME)
    text.add_itxt("Comment", "Elmstreet QPrivateQ")
    jpg = source(folder, "jpg", "fundus", "jpg", kind="binary", mask="png")
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = "Elmstreet", NAME, "QPrivateQ"
    tif = source(folder, "tif", "xray", "tif", kind="binary", mask="png")
    for name in ("good", "bad"):
        Image.fromarray(square()).save(png / "images" / f"{name}.png", pnginfo=text)
        Image.fromarray(square()).save(jpg / "images" / f"{name}.jpg", exif=exif, comment=NAME.encode())
        tifffile.imwrite(tif / "images" / f"{name}.tif", RAMP, description=NAME, software="Zzyzx",
                         extratags=[(50000, 2, 0, "ACC0815XY", True)])  # fmt: skip
        for at in (png, jpg, tif):
            Image.fromarray(square()).save(at / "labels" / f"{name}.png")
    for path in (png / "images" / "bad.png", jpg / "images" / "bad.jpg", tif / "images" / "bad.tif"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
    nrrd = source(folder, "nrrd", "mri", "nrrd")
    plain = np.zeros((40, 44, 36), np.int16)
    plain[8:30, 10:30, 5:25] = 1
    head = (f"NRRD0004\n# {NAME}\ntype: {{type}}\ndimension: 3\nspace: left-posterior-superior\nsizes: 40 44 36\n"
            "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
            f"space origin: (0,0,0)\ncontent: Elmstreet\nPatient:={NAME}\n\n")  # fmt: skip
    body = plain.ravel(order="F").tobytes()
    (nrrd / "images" / "good.nrrd").write_bytes(head.format(type="int16").encode() + body)
    (nrrd / "images" / "bad.nrrd").write_bytes(head.format(type=NAME).encode() + body)
    mha = source(folder, "mha", "mri", "mha")
    meta = (f"ObjectType = Image\nNDims = 3\nComment = {NAME}\nName = Elmstreet\nBinaryData = True\n"
            "BinaryDataByteOrderMSB = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
            "ElementSpacing = 1 1 1\nDimSize = 40 44 36\nElementType = {type}\nElementDataFile = LOCAL\n")  # fmt: skip
    (mha / "images" / "good.mha").write_bytes(meta.format(type="MET_SHORT").encode() + body)
    (mha / "images" / "bad.mha").write_bytes(meta.format(type="Zzyzx").encode() + body)
    for at, suffix in ((nrrd, "nrrd"), (mha, "mha")):
        for name in ("good", "bad"):
            (at / "labels" / f"{name}.{suffix}").write_bytes((at / "images" / f"good.{suffix}").read_bytes())


def every_byte(folder: Path) -> bytes:
    """All files of a built folder, Parquet also unpacked, and their names."""
    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(str(path.relative_to(folder)).encode())
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            parts += [repr(table.to_pylist()).encode(), repr(table.schema.metadata).encode()]
        elif path.is_file():
            parts.append(path.read_bytes())
    return b"\n".join(parts)


def test_nothing_that_files_say_of_a_person_leaves(tmp_path: Path) -> None:
    planted_files(tmp_path)
    planted_dicom(source(tmp_path, "dicom", "ct", "*.dcm", mask="nii.gz"))
    manifest = tmp_path / "manifests" / "dicom.yaml"
    manifest.write_text(manifest.read_text().replace("images/{case}.*.dcm", "images/{case}/*.dcm"))
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    left = b"\n".join([every_byte(tmp_path / "out" / "dataset"), every_byte(tmp_path / "out" / "quarantine"),
                       done.stdout.encode(), done.stderr.encode()])  # fmt: skip
    for word in (*PLANTED, *(w.lower() for w in PLANTED), *NAME.split("^")[:2]):
        assert word.encode() not in left, left[max(0, left.index(word.encode()) - 200) :][:300]
    assert str(tmp_path).encode() not in every_byte(tmp_path / "out" / "dataset")
    images = pq.read_table(tmp_path / "out" / "dataset" / "shards", columns=["source", "case", "age"]).to_pylist()
    assert {(i["source"], i["case"]) for i in images} == {
        (s, "good") for s in ("ct", "png", "jpg", "tif", "nrrd", "mha", "dicom")
    }
    assert {i["age"] for i in images if i["source"] == "png"} == {"44"}
    rows = pd.concat(pd.read_parquet(p) for p in (tmp_path / "out" / "quarantine").iterdir())
    rows = rows[rows["case"].isin(["bad", "marked"])]
    assert set(rows["source"]) == {"ct", "png", "jpg", "tif", "nrrd", "mha", "dicom"}
    assert set(rows[rows["case"] == "marked"]["reason"]) == {"identifying"}
    assert not rows["detail"].str.contains("/" + str(tmp_path).split("/")[1] + "/").any()


@pytest.mark.parametrize("text", [
    f"could not convert string to float: '{NAME}'", f'Invalid value for VR DA: "{NAME}"', f"bad {NAME} here",
    "date 19511224", f"/data/{NAME}/a.dcm: cannot open", f"it's {NAME!r} that isn't a 'number'", f"b'{NAME}' is bad",
    f"fine\nlast line '{NAME}", "C:\\Zzyzx\\a",
])
def test_messages_of_libraries_lose_what_they_quote(text: str) -> None:
    said = privacy.message(ValueError(text))
    assert not any(word in said for word in (*PLANTED, "Quentin"))


def test_messages_keep_their_sense() -> None:
    text = "image file is truncated (12 bytes not processed)"
    assert privacy.message(OSError(text)) == text
    assert privacy.message(ValueError()) == "ValueError"


HEADERS = [
    ({"BurnedInAnnotation": "YES"}, "burned into"),
    ({"BurnedInAnnotation": "yes "}, "burned into"),
    ({"BurnedInAnnotation": "NO", "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, None),
    ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "saved screen"),
    ({"ImageType": "SCREEN_SHOT"}, "saved screen"),
    ({"SOPClassUID": burned_in.SECONDARY_CAPTURE, "ConversionType": "DV"}, "digitised video"),
    ({"SOPClassUID": burned_in.SECONDARY_CAPTURE + ".2", "ConversionType": "SD"}, "scanned document"),
    ({"SOPClassUID": burned_in.SECONDARY_CAPTURE, "ConversionType": "WSD", "Modality": "CT"}, "without a place"),
    ({"SOPClassUID": burned_in.SECONDARY_CAPTURE, "Modality": "CT", "ImagePositionPatient": [0, 0, 0]}, None),
    ({"SOPClassUID": burned_in.SECONDARY_CAPTURE, "ConversionType": "WSD", "Modality": "CR"}, None),
    ({"Modality": "US"}, None), ({}, None),
]  # fmt: skip


@pytest.mark.parametrize(("tags", "why"), HEADERS)
def test_headers_that_mark_pixels(tags: dict[str, Any], why: str | None) -> None:
    found = burned_in.identifying(tags)
    assert (found is None) if why is None else (found is not None and why in found)


def device_image(place: tuple[int, int, int, int], rows: int, columns: int, *, written: bool) -> np.ndarray:
    """A scan in the lower half, below all places where devices write, and letters in one such place if wanted."""
    left, top, width, height = place
    seen = np.zeros((1, rows, columns), np.uint8)
    seen[0, rows // 2 :] = 90
    seen[0, rows // 2 :: 7, ::5] = 255
    if written:
        seen[0, top + 2 : top + height : 3, left + 2 : left + min(width, columns) - 2 : 3] = 240
    return seen


@pytest.mark.parametrize("device", burned_in.devices(), ids=lambda d: f"{d.manufacturer} {d.model} {d.rows}")
def test_where_a_known_device_writes_names(device: burned_in.Device) -> None:
    rows, columns = device.rows or 480, device.columns or 800
    tags = {"Modality": device.modality, "Manufacturer": f"{device.manufacturer} Ltd.",
            "ManufacturerModelName": device.model.lower()}  # fmt: skip
    named, clean = (device_image(device.place, rows, columns, written=w) for w in (True, False))
    assert "devices of this make" in (burned_in.text_outside(tags, named) or "")
    assert burned_in.text_outside(tags | {"BurnedInAnnotation": "NO"}, named) is None
    assert burned_in.text_outside(tags, clean) is None
    assert burned_in.text_outside(tags | {"Manufacturer": "unknown"}, named) is None
    assert burned_in.text_outside(tags | {"Modality": "CR"}, named) is None


def test_ultrasound_with_a_name_above_the_scan(tmp_path: Path) -> None:
    at = source(tmp_path, "us", "ultrasound", "dcm", kind="binary", mask="png")
    region = pydicom.Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 9
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 47, 47
    for name, text, tags in (("clean", False, {}), ("named", True, {}), ("said", True, {"BurnedInAnnotation": "NO"})):
        frames = np.stack([square(), square()])
        frames[:, :9] = 0
        frames[1, 2:8, 4:30:3] = 220 * text
        dataset = header(Modality="US", SOPClassUID=pydicom.uid.UltrasoundMultiFrameImageStorage, **tags)
        dataset.SequenceOfUltrasoundRegions = pydicom.Sequence([region])
        write(at / "images" / f"{name}.dcm", frames[1], dataset)
        Image.fromarray(square()).save(at / "labels" / f"{name}.png")
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    images = pq.read_table(tmp_path / "out" / "dataset" / "shards", columns=["case"])["case"].to_pylist()
    assert sorted(images) == ["clean", "said"]
    rows = pd.read_parquet(tmp_path / "out" / "quarantine" / "us.parquet")
    assert rows[["case", "reason"]].values.tolist() == [["named", "identifying"]]


def test_pseudonyms(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)  # no image is a copy of another
    for slug, hide in (("first", "true"), ("second", "false")):
        at = source(tmp_path, slug, "dermoscopy", "png", kind="binary",
                    more=f"group: both\npseudonymize: {hide}", rule=', subject: "{who}", case: "{who}-{visit}"')
        manifest = tmp_path / "manifests" / f"{slug}.yaml"
        manifest.write_text(manifest.read_text().replace("{case}.png", "{who}_{visit}.png"))
        for name in ("Zzyzx_1", "Zzyzx_2", "Elmstreet_1"):
            Image.fromarray(noise.integers(0, 256, (48, 48), np.uint8)).save(at / "images" / f"{name}.png")
            Image.fromarray(square()).save(at / "labels" / f"{name}.png")
        (at / "images" / "Zzyzx_1.png").write_bytes(b"")
        Image.fromarray(square()).save(at / "images" / "Zzyzx_9.png")
        Image.fromarray(square()).save(at / "labels" / "Zzyzx_7.png")
    done = build(tmp_path)
    assert done.returncode == 2
    assert privacy.KEY in done.stderr
    assert "secrets.token_hex" in done.stderr
    outs = []
    for out, key in (("one", "a-long-key-1"), ("two", "a-long-key-2"), ("one", "a-long-key-1")):
        done = build(tmp_path, out, MEDGLIP_SUBJECT_KEY=key)
        assert done.returncode == 0, done.stderr
        left = every_byte(tmp_path / out / "dataset") + every_byte(tmp_path / out / "quarantine")
        for word in (*PLANTED, key):
            assert word.encode() not in left + done.stdout.encode() + done.stderr.encode()
        outs.append((left, pq.read_table(tmp_path / out / "dataset" / "shards").to_pandas()))
    assert outs[0][0] == outs[2][0]
    images = outs[0][1]
    assert len(images) == 4
    assert images.groupby("source")["subject"].agg(frozenset).nunique() == 1  # one person, one name in both sources
    assert images["subject"].nunique() == 2
    assert not set(images["subject"]) & set(outs[1][1]["subject"])
    assert not set(images["case"]) & set(outs[1][1]["case"])
    assert images["subject"].str.fullmatch("[0-9a-f]{32}").all()
    rows = pd.read_parquet(tmp_path / "one" / "quarantine" / "first.parquet")
    assert sorted(rows["reason"]) == ["no_image", "no_mask", "unreadable"]
    assert rows["case"].str.fullmatch("[0-9a-f]{32}").all()
    assert rows["detail"].isna().all()


def test_a_missing_key_is_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(privacy.KEY, raising=False)
    with pytest.raises(UsageError, match="needs a secret key"):
        privacy.subject_key()


def test_a_pseudonym_depends_on_everything() -> None:
    base = (b"key", "family", "case", "name")
    others = [(b"kex", *base[1:]), (b"key", "famil", "ycase", "name"), (*base[:2], "subject", "name"),
              (*base[:3], "nam")]  # fmt: skip
    assert len({privacy.pseudonym(*arguments) for arguments in [base, *others]}) == 5
