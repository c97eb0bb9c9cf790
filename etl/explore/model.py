"""The Model page: a prompt on an image of the dataset or on an uploaded one; truth beside prediction."""

from __future__ import annotations

import io
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from etl.errors import UsageError
from etl.explore import images, security
from etl.explore.site import Missing, page, picture, site
from etl.pixels import png
from etl.quality import samples

Pixels = npt.NDArray[np.uint8]  # (rows, columns) or (rows, columns, 3)
Found = tuple[str, float, tuple[float, float, float, float]]
"""Phrase, score, box [x, y, width, height]."""
UPLOADS = 8  # that are remembered
MOST_PROMPT = 4000


@dataclass(frozen=True, slots=True)
class Expert:
    """A loaded model: its modalities, boxes for a prompt, and the picture of a file that somebody uploads."""

    name: str
    modalities: tuple[str, ...]
    ground: Callable[[Pixels, str, str | None], Sequence[Found]]
    read: Callable[[Path, str | None], Pixels]
    uploads: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def kept(self, content: bytes) -> str:
        """Remember a picture under a name that cannot be guessed."""
        name = secrets.token_urlsafe(12)
        self.uploads[name] = content
        while len(self.uploads) > UPLOADS:
            self.uploads.popitem(last=False)
        return name


def expert(request: Request) -> Expert:
    """The model, if the explorer was started with one."""
    found = site(request).model
    if not isinstance(found, Expert):
        raise Missing("this explorer was started without a model; give --bundle")
    return found


def model(request: Request) -> Response:
    """The form; with an image and a prompt, what is found on it beside what is there."""
    mine, given = expert(request), request.query_params
    number, prompt = given.get("image", ""), given.get("prompt", "").strip()[:MOST_PROMPT]
    if number and not (number.isdecimal() and len(number) < 11):
        raise UsageError(f"image={number}: give the number of an image")
    score = least(given.get("score", "0.25"))
    asked = {"image": number, "prompt": prompt, "modality": given.get("modality", ""), "score": score}
    result = None
    if number:
        _, row = site(request).row(int(number))
        asked["prompt"] = prompt = prompt or ". ".join(dict.fromkeys(r["phrase"] for r in row["regions"]))
        modality = asked["modality"] or row["modality"]
        if modality not in mine.modalities:
            raise UsageError(f"this model has no expert for {modality}; choose one of {', '.join(mine.modalities)}")
        with Image.open(io.BytesIO(row["image"]["bytes"])) as stored:
            pixels = np.asarray(stored)
        truth = images.shapes(row)
        colors = {shape["label"]: shape["color"] for shape in truth}
        result = {"row": row, "truth": truth, "href": f"/image/{number}.png",
                  "found": _found(mine, pixels, prompt, modality, score, colors),
                  "width": row["width"], "height": row["height"]}  # fmt: skip
    return page(request, "model.html", asked=asked, expert=mine, result=result)


def least(text: str) -> float:
    """The least score of a box to be shown."""
    try:
        score = float(text)
    except ValueError:
        score = -1
    if not 0 <= score <= 1:
        raise UsageError(f"score={text}: a number from 0 to 1")
    return score


def _found(
    mine: Expert, pixels: Pixels, prompt: str, modality: str | None, score: float, colors: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The boxes, best first; one prompt at a time. Phrases have the colours given, others the next free ones."""
    with mine.lock:
        boxes = [b for b in mine.ground(pixels, prompt, modality) if b[1] >= score]
    given = dict(colors)
    for phrase in dict.fromkeys(b[0] for b in boxes):
        free = [n for n in range(len(samples.COLORS)) if n not in given.values()]
        given.setdefault(phrase, free[0] if free else len(given) % len(samples.COLORS))
    return [{"phrase": phrase, "score": value, "box": [round(v, 1) for v in box], "color": given[phrase]}
            for phrase, value, box in sorted(boxes, key=lambda b: -b[1])]  # fmt: skip


async def upload(request: Request) -> Response:
    """The same for a picture or volume (its middle slice) that is sent; it is kept in memory, and forgotten soon."""
    mine = expert(request)
    form = await request.form(max_files=1)
    if not security.carries(form, site(request).token):
        return PlainTextResponse("this form is not from this explorer's pages; open the page again", 403)
    sent, prompt = form.get("file"), str(form.get("prompt", "")).strip()[:MOST_PROMPT]
    if not isinstance(sent, UploadFile) or not sent.filename or not prompt:
        raise UsageError("choose a file and write a prompt")
    modality = str(form.get("modality", "")) or None
    if modality is not None and modality not in mine.modalities:
        raise UsageError(f"this model has no expert for {modality}")
    score, content = least(str(form.get("score", "0.25"))), await sent.read()
    return await run_in_threadpool(_answer, request, content, sent.filename, prompt, modality, score)


def _answer(request: Request, content: bytes, name: str, prompt: str, modality: str | None, score: float) -> Response:
    mine = expert(request)
    with tempfile.TemporaryDirectory(prefix="medglip-explore-") as folder:
        suffixes = "".join(s for s in Path(name).suffixes[-2:] if s[1:].isalnum())
        path = Path(folder) / f"upload{suffixes[:16]}"
        path.write_bytes(content)
        pixels = mine.read(path, modality)
    asked = {"image": "", "prompt": prompt, "modality": modality or "", "score": score}
    result = {"row": None, "truth": None, "href": f"/upload/{mine.kept(png.encode(pixels))}.png",
              "found": _found(mine, pixels, prompt, modality, score, {}), "width": pixels.shape[1],
              "height": pixels.shape[0]}  # fmt: skip
    return page(request, "model.html", asked=asked, expert=mine, result=result)


def uploaded(request: Request) -> Response:
    """A picture that was sent a moment ago."""
    content = expert(request).uploads.get(request.path_params["name"])
    if content is None:
        raise Missing("this picture is forgotten; send it again")
    return picture(content, "image/png")
