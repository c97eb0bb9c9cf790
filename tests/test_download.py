"""Downloads from a real server that fails on purpose: what may pass is waited out, what may not is said."""

from __future__ import annotations

import datetime
import hashlib
import os
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from faulty_server import Site, serving

from etl.download import Patience, download
from etl.errors import Failure, UsageError

BODY = os.urandom(900_000)
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = Patience(attempts=4, first_wait_s=0.01, longest_wait_s=0.02, longest_asked_s=2, stall_s=0.3)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        found.files["a.bin"] = BODY
        yield found


def get(site: Site, folder: Path, path: str = "a.bin", sha256: str | None = SHA) -> bytes:
    download(site.url(path), folder / "a.bin", sha256=sha256, patience=QUICK)
    assert sorted(p.name for p in folder.iterdir()) == ["a.bin"]
    return (folder / "a.bin").read_bytes()


def test_a_whole_file_is_not_fetched_twice(site: Site, tmp_path: Path) -> None:
    assert get(site, tmp_path) == BODY
    assert get(site, tmp_path) == BODY
    assert len(site.asked) == 1


def test_unavailable_then_there(site: Site, tmp_path: Path) -> None:
    site.faults.extend([{"status": 503}, {"status": 500}])
    assert get(site, tmp_path) == BODY
    assert len(site.asked) == 3


@pytest.mark.parametrize("date", [False, True])
def test_waits_as_long_as_it_is_asked_to(site: Site, tmp_path: Path, date: bool) -> None:
    asked = formatdate(time.time() + 1.9, usegmt=True) if date else "1"
    site.faults.append({"status": 429, "headers": {"Retry-After": asked}})
    began = time.monotonic()
    assert get(site, tmp_path) == BODY
    assert time.monotonic() - began > 0.5


def test_does_not_wait_for_hours(site: Site, tmp_path: Path) -> None:
    site.faults.append({"status": 429, "headers": {"Retry-After": "7200"}})
    with pytest.raises(Failure, match="7200 s"):
        get(site, tmp_path)


@pytest.mark.parametrize("reset", [False, True])
def test_a_torn_body_goes_on_where_it_broke_off(site: Site, tmp_path: Path, reset: bool) -> None:
    site.faults.extend([{"tear": 600_000, "reset": reset}, {"tear": 100_000}])
    assert get(site, tmp_path) == BODY
    if reset:  # the system may throw away what a reset connection had brought
        return
    assert [span is not None for _, span in site.asked] == [False, True, True]
    assert int(site.asked[2][1].removeprefix("bytes=").rstrip("-")) >= 350_000  # type: ignore[union-attr]


def test_goes_on_in_the_next_run(site: Site, tmp_path: Path) -> None:
    site.faults.extend([{"tear": 500_000}, *[{"status": 502}] * 4])
    with pytest.raises(Failure, match=r"HTTP 502; 4 attempts; run it again to go on from byte 500000"):
        get(site, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    site.faults.clear()
    assert get(site, tmp_path) == BODY
    assert site.asked[-1][1] == "bytes=500000-"


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.faults.append({"tear": 500_000})
    assert get(site, tmp_path) == BODY


def test_another_version_is_not_glued_to_the_first(site: Site, tmp_path: Path) -> None:
    site.faults.extend([{"tear": 500_000}, *[{"status": 503}] * 4])
    with pytest.raises(Failure):
        get(site, tmp_path, sha256=None)
    site.faults.clear()
    site.etag, site.files["a.bin"] = '"two"', BODY[::-1]
    assert get(site, tmp_path, sha256=None) == BODY[::-1]


def test_without_a_validator_and_a_checksum_nothing_is_glued(site: Site, tmp_path: Path) -> None:
    site.etag = None
    site.faults.append({"tear": 500_000})
    assert get(site, tmp_path, sha256=None) == BODY
    assert site.asked[-1] == ("/a.bin", None)


def test_pieces_that_do_not_fit_are_fetched_again_whole(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"\0" * 1000)
    assert get(site, tmp_path) == BODY
    assert [span for _, span in site.asked] == ["bytes=1000-", None]


def test_a_wrong_checksum_is_said_and_nothing_is_left(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=f"its SHA-256 is {SHA}, the manifest says {'0' * 64}"):
        get(site, tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_never_comes(site: Site, tmp_path: Path) -> None:
    site.faults.extend([{"lie": 10}] * 20)
    assert get(site, tmp_path) == BODY  # asked for the rest, the server says that there is none
    site.ranges = False
    site.faults.extend([{"lie": 10}] * 20)
    with pytest.raises(Failure, match="4 attempts"):
        get(site, tmp_path / "other")


def test_more_bytes_than_the_length_says_are_no_file(site: Site, tmp_path: Path) -> None:
    site.faults.extend([{"lie": -10}] * 20)
    with pytest.raises(Failure, match="SHA-256"):
        get(site, tmp_path)


def test_a_stalled_server_is_left(site: Site, tmp_path: Path) -> None:
    site.faults.append({"slow_s": 1.0})
    assert get(site, tmp_path) == BODY
    assert len(site.asked) == 2


def test_redirects_are_followed_to_http_only(site: Site, tmp_path: Path) -> None:
    site.faults.append({"status": 302, "headers": {"Location": f"http://localhost:{site.port}/a.bin?x=1"}})
    assert get(site, tmp_path, "moved") == BODY
    site.faults.append({"status": 302, "headers": {"Location": "file:///etc/hostname"}})
    with pytest.raises(Failure, match=r"not http\(s\)"):
        get(site, tmp_path / "other", "moved")
    site.faults.extend([{"status": 302, "headers": {"Location": "/moved"}}] * 30)
    with pytest.raises(Failure, match="more than 10 redirects"):
        get(site, tmp_path / "other", "moved")


def certificate(path: Path) -> Path:
    """A certificate of localhost that signs itself, with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + made.public_bytes(Encoding.PEM))
    return path


def test_https_never_falls_back_to_http(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(certificate(tmp_path / "own.pem")) as safe:
        safe.files["a.bin"] = BODY
        url = f"https://localhost:{safe.port}/a.bin"
        with pytest.raises(Failure, match="certificate cannot be trusted"):
            download(url, tmp_path / "a", sha256=SHA, patience=QUICK)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "own.pem"))
        download(url, tmp_path / "a", sha256=SHA, patience=QUICK)
        assert (tmp_path / "a").read_bytes() == BODY
        safe.faults.append({"status": 302, "headers": {"Location": site.url("a.bin")}})
        with pytest.raises(Failure, match="redirects from https to http"):
            download(url, tmp_path / "b", sha256=SHA, patience=QUICK)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("status", "cause"), [(404, "HTTP 404"), (403, "wants a login"), (410, "HTTP 410")])
def test_what_will_not_change_is_not_tried_again(site: Site, tmp_path: Path, status: int, cause: str) -> None:
    site.faults.append({"status": status})
    with pytest.raises(Failure, match=cause):
        get(site, tmp_path)
    assert len(site.asked) == 1


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no connection"):
        download("http://127.0.0.1:9/a", tmp_path / "a", patience=QUICK)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/a", "/etc/hostname"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="must begin with"):
        download(url, tmp_path / "a")


def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="public")
        client.put_object(Bucket="public", Key="set/a.bin", Body=BODY)
        (tmp_path / "a.bin.part").write_bytes(BODY[:1000])
        download("s3://public/set/a.bin", tmp_path / "a.bin", sha256=SHA, patience=QUICK)
        assert (tmp_path / "a.bin").read_bytes() == BODY
        with pytest.raises(Failure, match="no such object"):
            download("s3://public/set/none.bin", tmp_path / "none", patience=QUICK)
        with pytest.raises(Failure, match="a folder"):
            download("s3://public/set", tmp_path / "folder", patience=QUICK)
    finally:
        moto.stop()
