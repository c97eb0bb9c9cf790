"""A local S3 server, and a proxy before it that throttles, fails and tears connections as a seeded dice says."""

from __future__ import annotations

import http.client
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from faulty_server import answering

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
FAULTS = ("slow down", "internal error", "refused", "torn before", "torn after", "torn body")


@contextmanager
def serving() -> Iterator[int]:
    """The port of an empty S3 server in a process of its own, until the end of the block."""
    code = ("from moto.server import ThreadedMotoServer as S; import sys; s = S(ip_address='127.0.0.1', port=0, "
            "verbose=False); s.start(); print(s.get_host_and_port()[1], flush=True); sys.stdin.read()")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@contextmanager
def faulty(upstream: int, share: float, seed: int = 7) -> Iterator[tuple[int, Counter[str]]]:
    """(port, how often each fault was made) of a proxy that makes a fault of this share of all requests."""
    dice, lock, made = random.Random(seed), threading.Lock(), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            with lock:
                fault = dice.choice(FAULTS) if dice.random() < share else ""
                made[fault or "served"] += 1
            _proxied(self, upstream, fault)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with answering(server):
        yield server.server_port, made


def _proxied(handler: BaseHTTPRequestHandler, upstream: int, fault: str) -> None:
    if fault == "torn before":  # nothing of it arrives
        handler.close_connection = True
        return
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    if fault in ("slow down", "internal error", "refused"):
        status = {"slow down": 503, "internal error": 500, "refused": 503}[fault]
        _send(handler, status, [("Content-Type", "application/xml")], SLOW_DOWN if fault == "slow down" else b"")
        return
    connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
    connection.request(handler.command, handler.path, body, dict(handler.headers.items()))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if fault == "torn after":  # it was done, and the client does not know
        handler.close_connection = True
        return
    headers = [(k, v) for k, v in response.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
    _send(handler, response.status, headers, content, torn=fault == "torn body")


def _send(
    handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes, torn: bool = False
) -> None:
    handler.send_response(status)
    for name, value in headers:
        if name.lower() not in ("content-length", "date", "server"):
            handler.send_header(name, value)
    length = {k.lower(): v for k, v in headers}.get("content-length") if handler.command == "HEAD" else None
    handler.send_header("Content-Length", length or str(len(content)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content[: len(content) // 2] if torn else content)
    handler.close_connection = handler.close_connection or torn


def put_tree(client: Any, folder: Path, bucket: str, prefix: str) -> None:
    """Puts every file below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder).as_posix()}",
                              Body=path.read_bytes())  # fmt: skip


def get_tree(client: Any, bucket: str, prefix: str, parts: tuple[str, ...]) -> dict[str, bytes]:
    """Every object below some folders, by name from the prefix on."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for item in page.get("Contents", ()):
            name = item["Key"].removeprefix(f"{prefix}/")
            if name.split("/", 1)[0] in parts:
                found[name] = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
    return found
