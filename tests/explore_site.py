"""A small built dataset for the explorer's tests: part of the demo, a label to review, and a source that attacks."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from program import PROGRAM

SOURCES = ("demo_ct_abdomen", "demo_skin", "demo_xray_boxes", "hostile")
ATTACK = "<img src=x onerror=hacked=1>"
NAME = "a\"><svg onload=hacked=1>'&"
MAP = """source: demo_ct_abdomen
labels:
  # both kidneys have a side
  left_kidney: {label: left kidney, status: proposed, by: "llm:model", confidence: 0.97, why: spelling}  # easy
  liver: {label: liver, status: approved, by: curator}
  right_kidney: {label: left kidney, status: proposed, by: "offline:names", confidence: 0.40, why: "like <b>it</b>"}
  spleen: {label: spleen, status: proposed, by: "llm:model", confidence: 0.60, why: spelling}
  stent: {label: null, status: rejected, by: "offline:names", confidence: 0.10, why: nothing like it}
"""


def build(folder: Path) -> None:
    """`folder/out` from the raw files, manifests and label maps below `folder`."""
    subprocess.run([PROGRAM, "demo", folder], check=True, capture_output=True)
    hostile(folder)
    more = [argument for slug in SOURCES for argument in ("--source", slug)]
    done = subprocess.run([PROGRAM, "build", "--raw", folder / "raw", "--manifests", folder / "manifests",
                           "--label-maps", folder / "label_maps", "--out", folder / "out", "--workers", "1", *more],
                          check=False, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    to_review(folder)


def to_review(folder: Path) -> Path:
    """The label map of demo_ct_abdomen as programs have proposed it; returns the file."""
    path = folder / "label_maps" / "sources" / "demo_ct_abdomen.yaml"
    path.write_text(MAP)
    return path


def hostile(folder: Path) -> None:
    """A source whose file names, raw labels and facts are HTML."""
    rng = np.random.default_rng(1)
    for n, case in enumerate((ATTACK, NAME)):
        mask = np.zeros((60, 80), np.uint8)
        mask[20:40, 10 + 20 * n : 50] = 255
        for kind, pixels in (("images", rng.integers(0, 255, (60, 80), np.uint8)), ("masks", mask)):
            path = folder / "raw" / "hostile" / kind / f"{case}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    manifest = {
        "slug": "hostile", "title": ATTACK, "year": 2024, "modality": "dermoscopy", "body_regions": ["skin"],
        "homepage": "javascript:hacked=1", "license": {"name": ATTACK, "redistribution": "allowed"}, "access": "open",
        "citation": "none", "evidence": ["made up"], "status": "verified",
        "files": [{"image": "images/{case}.png", "mask": "masks/{case}.png", "kind": "binary"}],
        "labels": {"1": ATTACK},
    }  # fmt: skip
    (folder / "manifests" / "hostile.yaml").write_text(yaml.safe_dump(manifest))
    maps = folder / "label_maps" / "sources"
    (maps / "hostile.yaml").write_text(
        f'source: hostile\nlabels:\n  "{ATTACK}": {{label: skin lesion, status: approved, by: "{ATTACK}"}}\n'
    )


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """The address of an explorer of `folder/out`, started as a person would."""
    command = [PROGRAM, "explore", str(folder / "out"), "--manifests", str(folder / "manifests"), "--label-maps",
               str(folder / "label_maps"), "--port", "0", *options]  # fmt: skip
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        told = ""
        for line in server.stderr:
            told += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                return
        raise AssertionError(told)
    finally:
        server.terminate()
        server.wait(10)
        assert server.stderr is not None
        server.stderr.close()
