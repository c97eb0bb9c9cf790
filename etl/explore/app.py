"""The web application and its server."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etl.errors import Failure, MedglipError, UsageError
from etl.explore import dataset, index, model, pages, pages_labels
from etl.explore.queries import Index
from etl.explore.review import Desk
from etl.explore.security import Guard, wants_part
from etl.explore.site import Locate, Missing, Site, page
from etl.explore.volumes import Volumes
from etl.labels.maps import load_ontology
from etl.manifests.manifest import Manifest
from etl.objects import place

ROUTES = [
    Route("/", pages.overview), Route("/browse", pages.browse),
    Route("/image/{image_id:int}", pages.image), Route("/image/{image_id:int}.png", pages.full),
    Route("/thumb/{image_id:int}.jpg", pages.thumb), Route("/crop/{image_id:int}.jpg", pages.crop),
    Route("/plane/{image_id:int}.png", pages.plane), Route("/locate/{image_id:int}/{region_id:int}", pages.located),
    Route("/labels", pages_labels.labels), Route("/review/{source}", pages_labels.desk),
    Route("/review/{source}", pages_labels.decide, methods=["POST"]),
    Route("/review/{source}/examples.jpg", pages_labels.example),
    Route("/quarantine", pages_labels.quarantine), Route("/refused/{n:int}.png", pages_labels.refused),
    Route("/model", model.model), Route("/model", model.upload, methods=["POST"]),
    Route("/upload/{name}.png", model.uploaded), Route("/static/{name}", pages.static),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What an explorer is started with. The last of `label_maps` is the folder that a review writes to."""

    out: str
    manifests: Mapping[str, Manifest]
    label_maps: tuple[Path, ...]
    raw: Path | None = None
    review: bool = False
    locate: Locate | None = None
    expert: Any = None


def application(settings: Settings) -> Starlette:
    """The explorer of a dataset.

    Raises:
        Failure: there is none, or it is of an older version.
    """
    data = dataset.dataset(settings.out)
    base = index.opened(data, lambda text: print(text, file=sys.stderr, flush=True))
    ontology = load_ontology(*settings.label_maps)
    out = place(settings.out)
    stages = out if (out / "stages").is_dir() else None
    volumes = Volumes(settings.manifests, settings.raw, stages)
    found = Site(
        data, index.version(data), Index(base), dataset.Rows(data, data.shards()), data.numbers(), ontology,
        Desk(settings.label_maps, settings.manifests, ontology, write=settings.review, out=stages), volumes,
        settings.locate if stages is not None else None, settings.expert,
    )  # fmt: skip

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        volumes.close()
        base.close()

    app = Starlette(routes=ROUTES, middleware=[Middleware(Guard)], lifespan=life, exception_handlers={
        Missing: _told(404), UsageError: _told(400), MedglipError: _told(500), OSError: _lost, HTTPException: _http,
    })  # fmt: skip
    app.state.site = found
    return app


def _told(status: int) -> Any:
    def handler(request: Request, error: Exception) -> Response:
        return _error(request, status, str(error))

    return handler


def _lost(request: Request, error: Exception) -> Response:
    """A file that was there at the start and is gone, or is no picture."""
    return _error(request, 500, f"{error}; if the dataset was built again, start the explorer again")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(request, error.status_code, error.detail)


def _error(request: Request, status: int, text: str) -> Response:
    if wants_part(request):
        return JSONResponse({"error": text}, status)
    return page(request, "error.html", status, code=status, text=text)


def serve(settings: Settings, port: int) -> None:
    """Answer on the loopback address until interrupted; says on stderr where.

    Raises:
        Failure: the port is taken.
    """
    app = application(settings)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise Failure(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
        listening.listen(128)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/  (ctrl-c ends it)", file=sys.stderr, flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, access_log=False))
        with contextlib.suppress(KeyboardInterrupt):
            server.run([listening])
