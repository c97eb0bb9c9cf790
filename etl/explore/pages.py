"""Overview, Browse and Image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from etl.errors import Failure, MedglipError, UsageError
from etl.explore import images
from etl.explore.queries import BINS, Figures
from etl.explore.security import wants_part
from etl.explore.site import STATIC, Missing, Site, page, picture, site, wanted
from etl.explore.volumes import PRESETS, Volume
from etl.pixels import geometry
from etl.quality import charts, report

STRIP = 4  # neighbours shown on each side
CHOICES = ("category", "label", "source", "flag")
BOXES = ("modality", "body_region", "axis", "split")


def overview(request: Request) -> Response:
    """The figures of a filter, live; the balance of the books is of the whole dataset."""
    here, f = site(request), wanted(request)
    found = here.index.figures(f.with_(order="key", show="both"))
    return page(request, "overview.html", filter=f, figures=found, options=options(here), charts=_charts(here, found),
                books=report.books(here.numbers), sources=report.sources(here.numbers))  # fmt: skip


def options(here: Site) -> dict[str, list[str]]:
    """The values that each field of the filter can have."""
    return {name: here.index.values(name) for name in (*BOXES, *CHOICES)}


def _charts(here: Site, found: Figures) -> dict[str, str]:
    """Regions on an image, and areas of regions, as SVG; nothing of nothing."""
    if not found.regions:
        return {}
    spread = report.tail([(str(n), images) for n, images in found.spread])
    low = min(place for place, _ in found.areas)
    counts = dict(found.areas)
    edges = [10 ** (place / BINS) for place in range(low, 1)]
    areas = [counts.get(place, 0) for place in range(low, 0)]
    mark = float(here.numbers.get("min_area", 0.015))
    return {
        "spread": charts.columns(spread, "regions on an image; bar: images"),
        "areas": charts.areas(edges, areas, mark, "areas of the regions"),
    }


def browse(request: Request) -> Response:
    """A page of thumbnails; a script asks for the next ones with `x-part`, and gets the cards alone."""
    here, f = site(request), wanted(request)
    start = place(request.query_params)
    cards, following = here.index.page(f, start)
    if wants_part(request):
        return page(request, "_cards.html", filter=f, cards=cards, following=following)
    return page(request, "browse.html", filter=f, cards=cards, following=following, count=here.index.count(f),
                options=options(here), started=start > 0)  # fmt: skip


def place(given: Mapping[str, str]) -> int:
    """Where in a list a page begins."""
    text = given.get("from", "0")
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"from={text}: a number")
    return int(text)


def thumb(request: Request) -> Response:
    """A small picture of an image: `show` is both, boxes, masks or none."""
    show = request.query_params.get("show", "both")
    _, row = site(request).row(request.path_params["image_id"])
    return picture(images.thumb(row, show))


def crop(request: Request) -> Response:
    """A small picture of a label or raw label on an image."""
    _, row = site(request).row(request.path_params["image_id"])
    for column in ("label", "raw_label"):
        if value := request.query_params.get(column):
            found = images.crop(row, column, value)
            if found is None:
                raise Missing(f"{row['key']} has no region of '{value}'")
            return picture(found)
    raise UsageError("say label= or raw_label=")


def full(request: Request) -> Response:
    """The stored PNG, byte for byte."""
    _, row = site(request).row(request.path_params["image_id"])
    return picture(row["image"]["bytes"], "image/png")


def image(request: Request) -> Response:
    """One image with everything that is known of it; with `center` and `width`, cut anew from its raw volume."""
    here, f = site(request), wanted(request)
    told, row = here.row(request.path_params["image_id"])
    slices, sizes = here.index.slices(told["case_id"]), here.index.sizes(told["case_id"])
    before, after = here.index.beside(f, told["image_id"])
    shapes = images.shapes(row)
    row_at, column_at = point(request.query_params, row, shapes)
    window = grey_window(request.query_params)
    volume = here.volumes.volume(row["source"], row["case"]) if window else None
    if volume and window and window[1] <= 0:
        window = (volume.center, volume.width)
    at_hand = row["axis"] != "native" and here.volumes.root(row["source"]) is not None
    axes = others(row, slices, sizes, (row_at, column_at), volume)
    for other in axes:  # each has two of the three spacings
        other["size"] = images.proportions(here.row(other["image_id"])[1]) if other["image_id"] else (1.0, 1.0)
    return page(
        request, "image.html", filter=f, told=told, row=row, shapes=shapes, before=before, after=after,
        strip=strip(slices[row["axis"]], row["slice_index"]), letters=images.LETTERS.get(row["axis"]),
        size=images.proportions(row), at=(row_at, column_at), at_hand=at_hand, window=window, volume=volume,
        others=axes, presets=PRESETS,
        facts=facts(row), source=here.numbers.get("sources", {}).get(row["source"], {}),
    )  # fmt: skip


def facts(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The metadata of a row, as name and value; what is unknown is left out."""
    named = ("image_id", "key", "subject", "split", "axis", "slice_index", "width", "height", "sex", "age",
             "diagnosis", "scanner", "contrast_phase", "caption", "license", "redistribution")  # fmt: skip
    found = [(name.replace("_", " "), row.get(name)) for name in named]
    if row["spacing"]:
        found.append(("spacing (row, column)", " × ".join(f"{v:.4g}" for v in row["spacing"]) + " mm"))
    return [(name, value) for name, value in found if value not in (None, "")]


def strip(slices: list[tuple[int, int]], index: int) -> dict[str, Any]:
    """The neighbours of a slice among those of its case and axis."""
    place = next(n for n, (i, _) in enumerate(slices) if i == index)
    low = max(0, min(place - STRIP, len(slices) - 2 * STRIP - 1))
    return {
        "shown": slices[low : low + 2 * STRIP + 1], "place": place, "count": len(slices), "all": slices,
        "before": slices[place - 1] if place else None,
        "after": slices[place + 1] if place + 1 < len(slices) else None,
    }  # fmt: skip


def point(given: Mapping[str, str], row: Mapping[str, Any], shapes: list[dict[str, Any]]) -> tuple[int, int]:
    """(row, column) of the point that other axes are shown at: the one asked for, else the largest region's centre."""
    texts = (given.get("row", ""), given.get("column", ""))
    if all(text.isdecimal() and len(text) < 7 for text in texts):
        at = (int(texts[0]), int(texts[1]))
    elif shapes:
        x, y, w, h = shapes[0]["box"]
        at = (y + h // 2, x + w // 2)
    else:
        at = (row["height"] // 2, row["width"] // 2)
    return min(at[0], row["height"] - 1), min(at[1], row["width"] - 1)


def grey_window(given: Mapping[str, str]) -> tuple[float, float] | None:
    """(centre, width) asked for; a width of 0 where the raw volume is asked for with the window of its own."""
    if "center" not in given and "raw" not in given:
        return None
    try:
        center, width = float(given.get("center", "0")), float(given.get("width", "0"))
    except ValueError:
        raise UsageError("center and width of the window are numbers") from None
    if not abs(center) < 1e9 or not 0 <= width < 1e9:
        raise UsageError("center and width of the window are finite numbers, the width from 0")
    return center, width


def others(
    row: Mapping[str, Any], slices: Mapping[str, list[tuple[int, int]]], sizes: Mapping[str, tuple[int, int]],
    at: tuple[int, int], volume: Volume | None,
) -> list[dict[str, Any]]:
    """The other axes at a point: the slice of the raw volume there, else the nearest one of the dataset."""
    shape = volume.shape if volume else volume_shape(row, sizes, slices)
    if row["axis"] == "native" or shape is None:
        return []
    voxel = geometry.voxel_of(shape, row["axis"], row["slice_index"], *at)
    found = []
    for axis in geometry.AXES:
        index = voxel[{"axial": 2, "coronal": 1, "sagittal": 0}[axis]]
        members = slices.get(axis, [])
        if axis == row["axis"] or (volume is None and not members):
            continue
        near, image_id = min(members, key=lambda m: (abs(m[0] - index), m[0])) if members else (None, None)
        _, height, width = geometry.plane_size(shape, axis)
        there = next((r, c) for r, c in [at_on(shape, axis, voxel)])
        found.append({"axis": axis, "index": index, "near": near, "image_id": image_id, "row": there[0],
                      "column": there[1], "height": height, "width": width})  # fmt: skip
    return found


def at_on(shape: tuple[int, ...], axis: str, voxel: tuple[int, int, int]) -> tuple[int, int]:
    """(row, column) of a voxel on the slice through it: the inverse of geometry.voxel_of."""
    i, j, k = shape[:3]
    a, b, c = voxel
    if axis == "axial":
        return j - 1 - b, i - 1 - a
    if axis == "coronal":
        return k - 1 - c, i - 1 - a
    return k - 1 - c, j - 1 - b


def volume_shape(
    row: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]], slices: Mapping[str, list[tuple[int, int]]]
) -> tuple[int, int, int] | None:
    """The extents (i, j, k) that the images of a case tell; the last slice there is where no other axis tells more."""
    lengths: dict[str, int] = {}
    for axis, (width, height) in sizes.items():
        across = {"axial": ("i", "j"), "coronal": ("i", "k"), "sagittal": ("j", "k")}.get(axis)
        lengths |= dict(zip(across, (width, height), strict=True)) if across else {}
    for axis, along in (("axial", "k"), ("coronal", "j"), ("sagittal", "i")):
        if along not in lengths and axis in slices:
            lengths[along] = slices[axis][-1][0] + 1
    return (lengths["i"], lengths["j"], lengths["k"]) if len(lengths) == 3 else None


def plane(request: Request) -> Response:
    """A slice of the raw volume of an image's case, along any axis, in any window, as PNG."""
    here, given = site(request), request.query_params
    told, _ = here.row(request.path_params["image_id"])
    window, index = grey_window(given), given.get("index", str(told["slice_index"]))
    axis = given.get("axis", told["axis"])
    if axis not in geometry.AXES or not index.isdecimal() or len(index) > 6:
        raise UsageError("axis is axial, coronal or sagittal, index a number")
    volume = here.volumes.volume(told["source"], told["case"])
    center, width = window if window and window[1] > 0 else (volume.center, volume.width)
    if int(index) >= geometry.plane_size(volume.shape, axis)[0]:
        raise Missing(f"no {axis} slice {index}; there are {geometry.plane_size(volume.shape, axis)[0]}")
    buffer = io.BytesIO()
    Image.fromarray(volume.plane(axis, int(index), center, width)).save(buffer, "PNG", compress_level=1)
    return picture(buffer.getvalue(), "image/png")


def located(request: Request) -> Response:
    """Where a region comes from: file, digest, voxels, patient coordinates."""
    here = site(request)
    if here.locate is None:
        raise Failure("the stage results of this dataset are not here, which say where regions come from")
    _, row = here.row(request.path_params["image_id"])
    found = next((r for r in row["regions"] if r["region_id"] == request.path_params["region_id"]), None)
    if found is None:
        raise Missing(f"{row['key']} has no region {request.path_params['region_id']}")
    try:
        return JSONResponse(here.locate(row, [int(v) for v in found["bbox"]]))
    except MedglipError as error:
        return JSONResponse({"error": str(error)}, 404)


def static(request: Request) -> Response:
    """One of the files that come with the explorer."""
    name = request.path_params["name"]
    if name not in STATIC:
        raise Missing(f"no file {name}")
    content, kind = STATIC[name]
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})
