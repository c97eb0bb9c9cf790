"""What all pages share: the dataset, its index, the label maps, templates, and how a page becomes an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from etl.explore import filters, security
from etl.explore.dataset import Dataset, Rows
from etl.explore.filters import Filter
from etl.explore.queries import Index
from etl.explore.review import Desk
from etl.explore.volumes import Volumes
from etl.labels.maps import Ontology
from etl.quality.charts import number

HERE = Path(__file__).parent
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
STATIC = {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in sorted((HERE / "static").iterdir())
          if path.suffix in TYPES}  # fmt: skip
"""The only files that are ever served, by name."""
KEEP = {"Cache-Control": "private, max-age=86400, immutable"}

Locate = Callable[[dict[str, Any], list[int]], dict[str, Any]]
"""Where a box of a row comes from, as `locate` says it."""


class Missing(Exception):  # noqa: N818
    """There is no such page, image or region."""


@dataclass(frozen=True, slots=True)
class Site:
    """One explorer: `locate` and `model` are None where they cannot work."""

    data: Dataset
    version: str
    index: Index
    rows: Rows
    numbers: dict[str, Any]
    ontology: Ontology
    desk: Desk
    volumes: Volumes
    locate: Locate | None
    model: Any
    token: str = field(default_factory=security.token)

    def quarantine_counts(self, name: str) -> list[tuple[tuple[str, str, str], int]]:
        """The rows of a quarantine file by source, stage and reason."""
        return _counted(self.data, name)

    def row(self, image_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what the index says of an image, its shard row)."""
        found = self.index.image(image_id) if image_id < 2**31 else None
        if found is None:
            raise Missing(f"no image {image_id} in this dataset")
        return found, self.rows.row(found["shard"], found["row"])


@lru_cache(512)
def _counted(data: Dataset, name: str) -> list[tuple[tuple[str, str, str], int]]:
    table = data.table(name, ["source", "stage", "reason"])
    assert table is not None
    rows = table.group_by(["source", "stage", "reason"]).aggregate([([], "count_all")]).to_pylist()
    return [((r["source"], r["stage"], r["reason"]), r["count_all"]) for r in rows]


def site(request: Request) -> Site:
    """The explorer that a request is for."""
    found: Site = request.app.state.site
    return found


def wanted(request: Request) -> Filter:
    """The filter of an address."""
    return filters.parse(request.query_params.multi_items())


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page of HTML from a template."""
    here = site(request)
    values |= {"site": here, "path": request.url.path, "version": here.version, "csrf": here.token}
    return HTMLResponse(TEMPLATES.get_template(template).render(values), status)


def picture(content: bytes, kind: str = "image/jpeg") -> Response:
    """A picture that does not change while the dataset does not."""
    return Response(content, media_type=kind, headers=KEEP)


def address(path: str, f: Filter | None = None, **more: Any) -> str:
    """A path with a filter and more parameters; those of None are left out."""
    pairs = urlencode({name: value for name, value in more.items() if value is not None})
    query = "&".join(part for part in (f.query() if f else "", pairs) if part)
    return f"{path}?{query}" if query else path


def share(fraction: float) -> str:
    """A share as percent, with as many digits as tell something."""
    percent = fraction * 100
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shared: Mapping[str, Any] = {"address": address, "number": number, "share": share, "Markup": Markup,
                                 "FIELDS": FIELDS}  # fmt: skip
    found.globals.update(shared)
    return found


FIELDS = {"modality": "Modality", "body_region": "Body region", "category": "Category", "label": "Label",
          "source": "Source", "axis": "Axis", "split": "Split", "flag": "Flag", "raw_label": "Raw label",
          "area_from": "Area from %", "area_to": "Area to %", "regions_from": "Regions from",
          "regions_to": "Regions to", "text": "Text"}  # fmt: skip
TEMPLATES = _environment()
