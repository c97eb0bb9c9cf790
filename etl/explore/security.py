"""What keeps the explorer to the person in front of it: loopback names only, no foreign writes, no foreign script."""

from __future__ import annotations

import hmac
import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_BODY = 64 * 2**20
MAX_ADDRESS = 4000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Every request must name this machine, so that no page of elsewhere can reach it under a name of its own
    (DNS rebinding); every answer carries the headers above. Bodies have a known length of at most MAX_BODY."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = refused(scope["method"], Headers(scope=scope), len(scope["path"]) + len(scope["query_string"]))
        await (refusal or self._app)(scope, receive, secured)


def refused(method: str, headers: Headers, length: int) -> PlainTextResponse | None:
    """Why a request, whose address has so many characters, is not even looked at; None if it is."""
    if length > MAX_ADDRESS:
        return PlainTextResponse("the address is too long", 414)
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in NAMES:
        return PlainTextResponse("this server answers to localhost and 127.0.0.1 only", 421)
    if method in ("GET", "HEAD"):
        return None
    if method != "POST":
        return PlainTextResponse("only GET and POST", 405)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != host) or site not in ("same-origin", "none"):
        return PlainTextResponse("a page of elsewhere may not write here", 403)
    size = headers.get("content-length", "")
    if not size.isdecimal() or int(size) > MAX_BODY:
        return PlainTextResponse(f"say the length of the body, at most {MAX_BODY} bytes", 413)
    return None


def token() -> str:
    """A secret of this server's run, which its own pages carry and others cannot read."""
    return secrets.token_urlsafe(32)


def carries(form: Any, secret: str) -> bool:
    """Whether a form carries the secret."""
    given = form.get("token")
    return isinstance(given, str) and hmac.compare_digest(given.encode(), secret.encode())


def wants_part(request: Request) -> bool:
    """Whether a script of these pages asks (for a part of a page), not the person."""
    return request.headers.get("x-part") == "1"
