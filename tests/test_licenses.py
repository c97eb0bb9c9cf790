"""Licenses travel: with each image, into the card, and out of a build for what may be shared only."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from etl.manifests.load import load_manifest
from etl.miniature.build import write_miniature

TERMS = {
    "free": ("CC-BY-4.0", "allowed"),
    "research": ("CC-BY-NC-4.0", "noncommercial"),
    "unsaid": ("unknown", "unknown"),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn sources under different terms."""
    folder = tmp_path_factory.mktemp("licenses")
    (folder / "label_maps/sources").mkdir(parents=True)
    (folder / "manifests").mkdir()
    for slug, (name, redistribution) in TERMS.items():
        manifest = {
            "slug": slug, "title": f"The {slug} set", "modality": "endoscopy", "homepage": f"https://example.org/{slug}",
            "license": {"name": name, "redistribution": redistribution}, "access": "registration",
            "files": [{"image": "images/{case}.png", "mask": "masks/{case}.png", "kind": "binary"}],
            "labels": {"1": "polyp"}, **({"citation": "Doe et al. 2022"} if slug != "unsaid" else {}),
        }  # fmt: skip
        (folder / f"manifests/{slug}.yaml").write_text(yaml.safe_dump(manifest))
        entry = {"source": slug, "labels": {"polyp": {"label": "colon", "status": "approved", "by": "test"}}}
        (folder / f"label_maps/sources/{slug}.yaml").write_text(yaml.safe_dump(entry))
        write_miniature(load_manifest(folder / f"manifests/{slug}.yaml"), folder / "raw" / slug)
    return folder


def build(folder: Path, out: str, *more: str) -> tuple[pd.DataFrame, str]:
    """The images and the card of a build."""
    command = [str(Path(sys.executable).with_name("medglip-etl")), "build", "--out", str(folder / out), *more]
    for option in ("raw", "manifests", "label-maps"):
        command += [f"--{option}", str(folder / option.replace("-", "_"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    dataset = folder / out / "dataset"
    return pd.read_parquet(dataset / "shards"), (dataset / "README.md").read_text()


def test_each_image_carries_its_license_and_the_card_tells_the_terms(raw: Path) -> None:
    images, card = build(raw, "all")
    assert {row.source: (row.license, row.redistribution) for row in images.itertuples()} == TERMS
    for slug, (name, redistribution) in TERMS.items():
        assert f"| {slug} | The {slug} set | endoscopy | {name} | {redistribution} | registration |" in card
    assert "- free: Doe et al. 2022" in card
    assert "- unsaid: https://example.org/unsaid" in card


def test_only_what_may_be_shared_is_built(raw: Path) -> None:
    images, card = build(raw, "shared", "--only-redistributable")
    assert set(images["source"]) == {"free"}
    assert "research" not in card
    for slug in ("research", "unsaid"):
        rows = pd.read_parquet(raw / "shared/quarantine" / f"{slug}.parquet")
        withheld = rows[rows["reason"] == "not_redistributable"]
        assert len(withheld) == 3, "one row for each case"
        assert TERMS[slug][1] in withheld["detail"].iloc[0]
