"""The terms of sources, as their manifests say, and of the packages it depends on, as they say themselves."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import metadata
from pathlib import Path
from typing import get_args

from etl import markdown
from etl.manifests.manifest import License, Manifest

LETTERS = 80  # a longer first line is a licence text, not its name
NOTHING = ("", "UNKNOWN")
MEANING = {
    "allowed": "the licence lets everybody pass them on, most with credit, some under the same licence only",
    "noncommercial": "as `allowed`, but not for commercial purposes",
    "forbidden": "the terms say that they, or changed versions of them, may not be passed on",
    "unknown": "no terms were found, or they do not say, or they conflict: take it for `forbidden`",
}


def redistribution(manifests: Iterable[Manifest]) -> str:
    """A table of the values of `redistribution`: what each means, and how many sources have it."""
    counts = Counter(manifest.license.redistribution for manifest in manifests)
    names = get_args(License.model_fields["redistribution"].annotation)
    return markdown.table(("redistribution", "means", "sources"), [(f"`{n}`", MEANING[n], counts[n]) for n in names])


def licenses(pyproject: Path) -> str:
    """A table of the direct dependencies: the extra that brings each, and the licence that its own metadata names."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = {"always": project["dependencies"], **project["optional-dependencies"]}
    rows: dict[str, tuple[str, str, str]] = {}
    for extra, requirements in groups.items():
        for requirement in requirements:
            name = re.split(r"[^\w.-]", requirement)[0]
            if name != project["name"]:
                rows.setdefault(name, (name, extra, license_of(name)))
    return markdown.table(("package", "needed", "licence, as the package says"), list(rows.values()))


def license_of(name: str) -> str:
    """The licence of an installed package: its SPDX expression, else its classifiers, else the name in its text."""
    told = metadata(name)
    for expression in told.get_all("License-Expression") or ():
        return str(expression)
    classifiers = [line.split(" :: ")[-1] for line in told.get_all("Classifier") or () if line.startswith("License ::")]
    if classifiers:
        return ", ".join(classifiers)
    line = "".join(told.get_all("License") or ()).strip().split("\n")[0]
    if line in NOTHING:
        return "not said"
    return line if len(line) <= LETTERS else "several, in its files"
