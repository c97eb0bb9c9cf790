"""The program as a user has it, the sample data where they are, and sources that a test writes."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MEDGLIP_TEST_DATA", ROOT / "../shared/data"))
PROGRAM = str(Path(sys.executable).with_name("medglip-etl"))
MANIFEST = """
slug: {slug}
title: {slug}
year: 2024
modality: {modality}
body_regions: [abdomen]
homepage: https://example.org
license: {{name: CC0-1.0, redistribution: allowed}}
access: open
evidence: [written here]
status: verified
files:
  - {{image: "{image}", mask: "{mask}", kind: {kind}{rule}}}
labels: {{{labels}}}
{more}
"""


def medglip(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The ended program, whatever it says."""
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)


def build(demo: Path, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """A build, which must end well, of a folder with `raw`, `manifests` and `label_maps`."""
    done = medglip("build", "--raw", demo / "raw", "--manifests", demo / "manifests",
                   "--label-maps", demo / "label_maps", "--out", out, *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def write_source(
    folder: Path, slug: str, modality: str, image: str = "images/{case}.nii.gz", mask: str = "labels/{case}.nii.gz", *,
    kind: str = "label_map", labels: Mapping[object, str] | None = None, rule: str = "", more: str = "",
) -> Path:
    """The folder for the raw files of a source whose manifest and approved label map are written below `folder`.

    `rule` goes on the line of the rule, as `, subject: "{case}"`; `more` are further lines of the manifest.
    """
    names = {1: "liver"} if labels is None else labels
    said = ", ".join(f"{value}: {name}" for value, name in names.items())
    text = MANIFEST.format(slug=slug, modality=modality, image=image, mask=mask, kind=kind, labels=said, rule=rule,
                           more=more)  # fmt: skip
    entries = "".join(f"  {name}: {{label: {name}, status: approved, by: test}}\n" for name in names.values())
    for path, content in ((folder / "manifests" / f"{slug}.yaml", text),
                          (folder / "label_maps" / "sources" / f"{slug}.yaml", f"source: {slug}\nlabels:\n{entries}")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    raw = folder / "raw" / slug
    raw.mkdir(parents=True, exist_ok=True)
    return raw


def tree(out: Path) -> dict[str, bytes]:
    """What a build is judged by: each file of the dataset and the quarantine."""
    return {
        str(p.relative_to(out)): p.read_bytes()
        for part in ("dataset", "quarantine") for p in sorted((out / part).rglob("*")) if p.is_file()
    }
