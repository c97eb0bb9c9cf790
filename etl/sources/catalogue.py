"""The known sources as rows: for `sources list` and for the page of all sources. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from etl import markdown
from etl.errors import UsageError
from etl.manifests.manifest import BodyRegion, License, Manifest, Modality

REGIONS: tuple[str, ...] = get_args(BodyRegion)
CHOICES: dict[str, tuple[str, ...]] = {
    "modality": get_args(Modality),
    "body_region": REGIONS,
    "access": get_args(Manifest.model_fields["access"].annotation),
    "redistribution": get_args(License.model_fields["redistribution"].annotation),
    "status": get_args(Manifest.model_fields["status"].annotation),
}
WHOLE_BODY, MANY = "whole body", 4
HEAD = """# The sources

Generated from `manifests/*.yaml` by `make docs`; do not edit. Ordered by body region, then by modality, then
ascending by the documented number of images or volumes: the order in which to build with the least data first.
`status`: `verified` where file layout and label values were both read in public code, documentation or real files,
`documented` where one of them was, `unverified` where neither was.
"""


def summary(manifest: Manifest) -> dict[str, Any]:
    """One row of `sources list`."""
    return {
        "slug": manifest.slug, "group": manifest.group, "title": manifest.title, "year": manifest.year,
        "modality": manifest.modality, "body_regions": list(manifest.body_regions), "access": manifest.access,
        "license": manifest.license.name, "redistribution": manifest.license.redistribution,
        "status": manifest.status, "labels": sorted(set(manifest.raw_labels())),
    }  # fmt: skip


def fitting(manifests: Iterable[Manifest], wanted: Mapping[str, str | None]) -> list[Manifest]:
    """The manifests that have all wanted properties; a license fits by a part of its name.

    Raises:
        UsageError: a property has no such value.
    """
    for name, value in wanted.items():
        if value is not None and name in CHOICES and value not in CHOICES[name]:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {value}: it is one of {', '.join(CHOICES[name])}")
    return [manifest for manifest in manifests if all(_has(manifest, n, v) for n, v in wanted.items() if v is not None)]


def _has(manifest: Manifest, name: str, value: str) -> bool:
    row = summary(manifest)
    if name == "body_region":
        return value in row["body_regions"]
    return value.lower() in row["license"].lower() if name == "license" else bool(row[name] == value)


def page(manifests: Iterable[Manifest]) -> str:
    """`docs/sources.md`: a table for each body region."""
    parts = [HEAD]
    every = list(manifests)
    for section in (*REGIONS, WHOLE_BODY, ""):
        rows = sorted((m for m in every if section_of(m) == section), key=order)
        if rows:
            parts.append(f"## {(section or 'not said').capitalize()}\n\n{_table(rows)}")
    count = len({m.modality for m in every})
    return "\n".join([*parts, f"{len(every)} sources, {count} modalities.\n"])


def section_of(manifest: Manifest) -> str:
    """The body region under which a source is listed: its first, or the whole body where it has many."""
    regions = manifest.body_regions
    return WHOLE_BODY if len(regions) >= MANY else regions[0] if regions else ""


def order(manifest: Manifest) -> tuple[str, int, str]:
    """Modality, then the first number in `size` (unknown last), then slug."""
    number = re.search(r"\d[\d,]*", manifest.size or "")
    return manifest.modality, int(number[0].replace(",", "")) if number else 1 << 62, manifest.slug


def _table(manifests: Iterable[Manifest]) -> str:
    head = ("source", "title", "modality", "body regions", "size", "license", "redistribution", "access", "status")
    rows = []
    for m in manifests:
        name = f"[{m.title}]({m.homepage})" if m.homepage else m.title
        terms = (m.license.name, m.license.redistribution, m.access, m.status)
        rows.append((f"`{m.slug}`", name, m.modality, ", ".join(m.body_regions), m.size or "", *terms))
    return markdown.table(head, rows)
