"""A real HTTP server on the loopback that fails on purpose, as its `faults` say, and remembers what it was asked."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Site:
    """What the server offers: `files` by path; a request takes the next fault, if there is one left."""

    port: int
    files: dict[str, bytes] = field(default_factory=dict)
    faults: deque[dict[str, Any]] = field(default_factory=deque)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    etag: str | None = '"one"'

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Site]:
    """A site until the end of the block; https with a certificate (PEM, its key in it)."""
    site = Site(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            _answer(self, site)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_port
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with answering(server):
        yield site


@contextmanager
def answering(server: ThreadingHTTPServer) -> Iterator[None]:
    """A server that serves from a thread of its own until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    wanted = handler.headers.get("Range")
    site.asked.append((handler.path, wanted))
    fault = site.faults.popleft() if site.faults else {}
    if "status" in fault:
        handler.send_response(fault["status"])
        for name, value in fault.get("headers", {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    body = site.files[handler.path.lstrip("/").split("?")[0]]
    fresh = handler.headers.get("If-Range") in (None, site.etag)
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges and fresh else 0
    if start >= len(body) > 0:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(body)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    if site.etag:
        handler.send_header("ETag", site.etag)
    handler.send_header("Content-Length", str(len(body) - start + fault.get("lie", 0)))
    handler.end_headers()
    time.sleep(fault.get("slow_s", 0))
    handler.wfile.write(body[start : start + fault["tear"]] if "tear" in fault else body[start:])
    if "tear" in fault or "lie" in fault:
        handler.wfile.flush()
        handler.close_connection = True
        if fault.get("reset"):
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
