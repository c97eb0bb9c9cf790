"""Files elsewhere: an http(s) or S3 address opened from a byte on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from etl.errors import Failure, UsageError

CHUNK = 256 * 1024
CONNECT_S, STALL_S = 30.0, 60.0
MAX_REDIRECTS = 10
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers that may be another one next time."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The bytes of a file from `start` on.

    `size` is that of the whole file, None if the server does not say; `mark` is the validator of this version of it
    (a strong ETag or a date, RFC 9110 8.8), None if there is none.
    """

    start: int
    size: int | None
    mark: str | None
    chunks: Iterator[bytes]


class Interrupted(Exception):  # noqa: N818
    """A failure that may pass; `wait_s` is what the server asked for."""

    def __init__(self, cause: str, wait_s: float | None = None) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


class Changed(Exception):  # noqa: N818
    """What was received so far does not fit the file that is there now."""


def open_remote(url: str, start: int = 0, mark: str | None = None, *, stall_s: float = STALL_S) -> Remote:
    """The file at `url` from byte `start` on, or from 0 where the server cannot, or has another version than `mark`.

    Raises:
        Failure: it cannot be had; Interrupted, Changed: as they say; UsageError: the address is of no known kind.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return _http(url, start, mark, stall_s)
    if scheme == "s3":
        return _s3(url, start, mark)
    raise UsageError(f"{url}: an address must begin with https://, http:// or s3://")


def _http(url: str, start: int, mark: str | None, stall_s: float) -> Remote:
    import requests

    headers = {"Accept-Encoding": "identity", "User-Agent": "medglip-etl"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if mark:
            headers["If-Range"] = mark
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    try:
        response = session.get(url, headers=headers, stream=True, timeout=(CONNECT_S, stall_s))
    except requests.TooManyRedirects as error:
        raise Failure(f"{url}: more than {MAX_REDIRECTS} redirects") from error
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
        raise Failure(f"{url}: leads to an address that is not http(s): {error}") from error
    except requests.exceptions.SSLError as error:
        raise Failure(f"{url}: its certificate cannot be trusted: {error}") from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise Interrupted(f"no connection ({type(error).__name__})") from error
    if url.startswith("https:") and any(not r.url.startswith("https:") for r in (*response.history, response)):
        raise Failure(f"{url}: redirects from https to http")
    return _answer(url, start, response)


def _answer(url: str, start: int, response: Any) -> Remote:
    status, headers = response.status_code, response.headers
    mark = _mark(headers)
    if status == 200:
        return Remote(0, _number(headers.get("Content-Length")), mark, _body(response))
    span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip())
    size = _number(span[2]) if span else None
    if status == 206 and span and span[1] is not None:
        return Remote(int(span[1]), size, mark, _body(response))
    if status == 416 and size == start:
        return Remote(start, size, mark, iter(()))
    if status in (206, 416):
        raise Changed(f"HTTP {status}, Content-Range '{headers.get('Content-Range', '')}'; from byte {start} wanted")
    if status in PASSING:
        raise Interrupted(f"HTTP {status}", _retry_after(headers.get("Retry-After")))
    if status in (401, 403, 407):
        raise Failure(f"{url}: HTTP {status}: the server wants a login or an accepted licence")
    raise Failure(f"{url}: HTTP {status}")


def _mark(headers: Any) -> str | None:
    """What If-Range may hold: a weak ETag may not (RFC 9110 13.1.5)."""
    tag = headers.get("ETag")
    text = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    return None if text is None else str(text)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _retry_after(text: str | None) -> float | None:
    """Seconds from now of a Retry-After header: seconds or a date (RFC 9110 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _body(response: Any) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        while chunk := response.raw.read(CHUNK, decode_content=False):
            yield chunk
    except (HTTPError, OSError) as error:
        raise Interrupted(f"the connection broke ({type(error).__name__})") from error
    finally:
        response.close()


def _s3(url: str, start: int, mark: str | None) -> Remote:
    try:
        import s3fs
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise UsageError(f"{url}: s3:// addresses need `pip install 'medglip-etl[s3]'`") from error
    files = s3fs.S3FileSystem(anon=not has_credentials(), use_listings_cache=False)
    try:
        facts = files.info(url)
    except FileNotFoundError as error:
        raise Failure(f"{url}: no such object") from error
    except PermissionError as error:
        raise Failure(f"{url}: no permission; the bucket wants credentials, as AWS tools find them") from error
    except (OSError, BotoCoreError) as error:
        raise Interrupted(f"S3 does not answer ({type(error).__name__})") from error
    if facts["type"] != "file":
        raise Failure(f"{url}: a folder; give the address of one object")
    version = str(facts.get("ETag") or facts.get("LastModified"))
    first = start if mark in (None, version) and start <= facts["size"] else 0
    return Remote(first, int(facts["size"]), version, _object(files, url, first, int(facts["size"])))


def _object(files: Any, url: str, start: int, size: int) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError

    try:
        for at in range(start, size, 32 * CHUNK):
            yield files.cat_file(url, start=at, end=min(size, at + 32 * CHUNK))
    except (OSError, BotoCoreError) as error:
        raise Interrupted(f"S3 broke off ({type(error).__name__})") from error


def has_credentials() -> bool:
    """Whether AWS credentials are at hand; public buckets are read without any."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
             "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")  # fmt: skip
    return any(os.environ.get(name) for name in names) or (Path.home() / ".aws" / "credentials").exists()
