"""The embedded demo: small drawn sources of all seven modalities, their manifests, label maps and expected regions.

Most pictures are drawn; the photograph of a retina and two DICOM slices are real. What the pipeline must find is
counted from the drawn shapes by `etl.demo.shapes`, which shares no code with the pipeline.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from etl.demo import boxes as demo_boxes
from etl.demo import flat as demo_2d
from etl.demo import real as demo_real
from etl.demo import volumes as demo_3d
from etl.demo.shapes import Expected
from etl.labels import file as label_file
from etl.labels.maps import Mapping
from etl.store import write_bytes, write_table

SCHEMA = pa.schema(
    {
        "source": pa.string(),
        "case": pa.string(),
        "axis": pa.string(),
        "slice_index": pa.int32(),
        "label": pa.string(),
        "bbox": pa.list_(pa.float32()),
        "area": pa.int32(),
    }
)


@dataclass(frozen=True)
class Source:
    """One demo source: how to draw its files, its manifest and its label map (raw label → label, or the entry)."""

    draw: Callable[[Path, Expected, Callable[[str], np.random.Generator]], None]
    manifest: dict[str, Any]
    label_map: dict[str, str | dict[str, Any]] = field(default_factory=dict)


def write_demo(folder: Path) -> None:
    """Write `raw/`, `manifests/`, `label_maps/` and `expected.parquet` below a folder; same bytes every time."""
    expected = Expected()
    for slug, source in sources():
        manifest = {"slug": slug, **_common(slug), **source.manifest}
        source.draw(folder / "raw" / manifest.get("folder", slug), expected, _rng(slug))
        _write_yaml(folder / "manifests" / f"{slug}.yaml", manifest)
        entries = {raw: _entry(value) for raw, value in source.label_map.items()}
        label_map = folder / "label_maps" / "sources" / f"{slug}.yaml"
        write_bytes(label_map, label_file.render(slug, entries).encode())
    write_table(folder / "expected.parquet", pa.Table.from_pylist(_sorted(expected.rows), schema=SCHEMA))


def sources() -> Iterator[tuple[str, Source]]:
    """The demo's sources by slug."""
    for module in (demo_3d, demo_2d, demo_boxes, demo_real):
        for slug, (draw, manifest, label_map) in module.SOURCES.items():
            yield slug, Source(draw, manifest, label_map)


def _common(slug: str) -> dict[str, Any]:
    return {
        "title": f"Demo: {slug.removeprefix('demo_').replace('_', ' ')}",
        "year": 2024,
        "homepage": "https://example.org/medglip-demo",
        "license": {"name": "CC0-1.0", "redistribution": "allowed"},
        "access": "open",
        "citation": "Drawn by medglip-etl",
        "evidence": ["etl/demo/build.py"],
        "status": "verified",
    }


def _entry(value: str | dict[str, Any]) -> Mapping:
    fields = {"label": value, "status": "approved"} if isinstance(value, str) else value
    return Mapping.model_validate({"by": "curator", **fields})


def _rng(slug: str) -> Callable[[str], np.random.Generator]:
    """A generator for each case, so that adding one leaves the others as they are."""
    return lambda case: np.random.default_rng(zlib.crc32(f"{slug}/{case}".encode()))


def _sorted(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(rows, key=lambda r: tuple(r[k] for k in ("source", "case", "axis", "slice_index", "label", "bbox")))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    write_bytes(path, yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True).encode())
