"""Commands on real arrays: decode writes what it read, locate finds the voxel again."""

import json
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from program import PROGRAM
from typer.testing import CliRunner

from etl.cli import app


def test_decode_writes_canonical_volumes_and_pictures(tmp_path: Path) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(array, np.diag([-2.0, 3, 4, 1])), tmp_path / "in" / "a.nii.gz")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "c.png").write_bytes(b"")
    done = subprocess.run([PROGRAM, "decode", str(tmp_path / "in"), str(tmp_path / "out")],
                          capture_output=True, text=True, check=True)
    volume, picture, broken = (json.loads(line) for line in done.stdout.splitlines())
    assert (volume["kind"], volume["shape"], volume["spacing"]) == ("volume", [4, 5, 6], [2, 3, 4])
    back = nib.load(tmp_path / "out" / volume["output"])
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), array[::-1])
    assert nib.aff2axcodes(back.affine) == ("R", "A", "S")
    assert np.asarray(Image.open(tmp_path / "out" / picture["output"])).trace() == 8
    assert (broken["output"], broken["reason"]) == (None, "unreadable")


def test_locate_leads_to_the_voxels_of_the_mask(tmp_path: Path) -> None:
    assert subprocess.run([PROGRAM, "demo", str(tmp_path)], check=False, capture_output=True).returncode == 0
    subprocess.run([PROGRAM, "build", "--raw", tmp_path / "raw", "--manifests", tmp_path / "manifests",
                    "--label-maps", tmp_path / "label_maps", "--out", tmp_path / "out",
                    "--source", "demo_ct_abdomen"], check=True, capture_output=True)
    done = subprocess.run([PROGRAM, "locate", str(tmp_path / "out"), "1", "--json"], check=True, capture_output=True)
    place = json.loads(done.stdout)
    assert Path(place["file"]).exists()
    assert len(place["sha256"]) == 64
    image = nib.as_closest_canonical(nib.load(place["file"]))
    low, high = place["voxel_box"]
    assert all(0 <= a <= b < n for a, b, n in zip(low, high, image.shape, strict=True))
    np.testing.assert_allclose(nib.affines.apply_affine(image.affine, low), place["patient_box_mm"][0], atol=1e-3)


def test_answers_and_reports_take_published_numbers_by_the_same_option() -> None:
    for command in ("vqa", "report"):
        told = CliRunner().invoke(app, ["downstream", command, "--help"]).output
        assert "--published" in told
        assert "--more" not in told
