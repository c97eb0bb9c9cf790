"""The explorer over HTTP: what it shows is what the dataset holds, and nothing from outside gets in."""

import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from explore_site import ATTACK, PROGRAM, served, to_review
from PIL import Image

pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def folder(explored: Path) -> Path:
    return explored


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder, "--review") as found:
        yield found


@pytest.fixture(scope="module")
def frame(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out" / "dataset" / "shards").sort_values("image_id").set_index("image_id")


Answer = tuple[int, http.client.HTTPMessage, bytes]


def asked(address: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """The answer to a request whose path goes out as it is."""
    connection = http.client.HTTPConnection(str(urlsplit(address).netloc), timeout=60)
    connection.putrequest(method, path, skip_host="host" in headers)
    if body is not None:
        connection.putheader("content-length", str(len(body)))
        connection.putheader("content-type", "application/x-www-form-urlencoded")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def text(address: str, path: str) -> str:
    status, _, content = asked(address, path)
    assert status == 200, content
    return content.decode()


def shown(page: str) -> list[int]:
    return [int(n) for n in re.findall(r'class="card" href="/image/(\d+)', page)]


FILTERS = [
    ("", lambda r: True),
    ("modality=ct&axis=axial", lambda r: r.modality == "ct" and r.axis == "axial"),
    ("modality=xray&modality=dermoscopy", lambda r: r.modality in ("xray", "dermoscopy")),
    ("label=liver&area_from=20", lambda r: any(g["label"] == "liver" and g["area_fraction"] >= 0.2 for g in r.regions)),
    ("category=Abdomen+%28kidney%29", lambda r: any(g["category"] == "Abdomen (kidney)" for g in r.regions)),
    ("body_region=skin&regions_to=1", lambda r: len(r.regions) == 1 and r.regions[0]["body_region"] == "skin"),
    ("flag=cut_by_border", lambda r: "cut_by_border" in r["flags"]),
    ("regions_from=3", lambda r: len(r.regions) >= 3),
    ("text=KIDNEY+s01", lambda r: "s01" in r.case and any("kidney" in g["label"] for g in r.regions)),
    ("text=demo_ct_abdomen/s01-2/axial/20", lambda r: r.key == "demo_ct_abdomen/s01-2/axial/20"),
    ("source=nowhere", lambda r: False), ("split=val", lambda r: False),
]  # fmt: skip


@pytest.mark.parametrize(("query", "fits"), FILTERS, ids=[query for query, _ in FILTERS])
def test_every_filter_shows_what_fits_and_no_more(address: str, frame: pd.DataFrame, query: str, fits: Any) -> None:
    expected = [int(n) for n, row in frame.iterrows() if fits(row)]
    for order in ("key", "mixed"):
        found: list[int] = []
        path = f"/browse?{query}&order={order}"
        while path:
            page = text(address, path)
            found += shown(page)
            more = re.search(r'rel="next" href="([^"]+)"', page)
            path = more[1].replace("&amp;", "&") if more else ""
        assert (found if order == "key" else sorted(found)) == expected
        assert order == "key" or found != expected or len(found) < 20
    assert f"{len(expected)} image" in page.replace("\u202f", "")


def test_figures_are_those_of_the_dataset(address: str, folder: Path) -> None:
    numbers = json.loads((folder / "out" / "dataset" / "stats.json").read_text())
    page = text(address, "/")
    told = re.findall(r'aria-label="Browse ([^"]+): (\d+)"', page)
    wanted = {(name, str(n["images"])) for key in ("modality", "axis", "source") for name, n in
              numbers["by"][key].items()}
    wanted |= {(name, str(n["regions"])) for key in ("label", "category", "body_region") for name, n in
               numbers["by"][key].items()}  # fmt: skip
    wanted |= {("train", str(numbers["by"]["split"]["train"]["images"]))}
    wanted |= {(name, str(sum(f["images"].values()))) for name, f in numbers["flags"].items() if f["images"]}
    assert set(told) == wanted
    assert "DOES NOT BALANCE" not in page
    liver = text(address, "/?label=liver&axis=axial")
    assert re.findall(r'aria-label="Browse ([^"]+): \d+"', liver)[:3] == ["ct", "axial", "train"]


def pixels(address: str, path: str) -> np.ndarray[Any, Any]:
    status, headers, content = asked(address, path)
    assert (status, headers["content-type"]) == (200, "image/png"), content
    return np.asarray(Image.open(BytesIO(content)))


def test_pictures_are_those_of_the_dataset_and_of_its_sources(address: str, frame: pd.DataFrame) -> None:
    for axis in ("axial", "coronal", "sagittal"):
        number = int(frame.index[(frame["axis"] == axis) & (frame["case"] == "s01-2")][3])
        assert asked(address, f"/image/{number}.png")[2] == frame.loc[number, "image"]["bytes"]
        raw = pixels(address, f"/plane/{number}.png?raw=1")
        np.testing.assert_array_equal(raw, pixels(address, f"/image/{number}.png"))
        narrow = pixels(address, f"/plane/{number}.png?center=40&width=1")
        assert {0, 255} <= set(np.unique(narrow)) <= {0, 128, 255}  # whole Hounsfield units
        page = text(address, f"/image/{number}?raw=1&row=5&column=6")
        assert page.count("/plane/") >= 4
    assert asked(address, f"/thumb/{number}.jpg?show=none")[2][:2] == b"\xff\xd8"
    assert asked(address, f"/crop/{number}.jpg?label=nothing")[0] == 404
    assert asked(address, "/plane/1.png?axis=axial&index=99999")[0] == 404
    picture = int(frame.index[frame["source"] == "demo_skin"][0])
    assert b"not a volume" in asked(address, f"/image/{picture}?raw=1")[2]


def test_a_region_is_located_as_the_command_does(address: str, folder: Path, frame: pd.DataFrame) -> None:
    number = int(frame.index[frame["source"] == "demo_ct_abdomen"][0])
    region = frame.loc[number, "regions"][0]["region_id"]
    place = json.loads(text(address, f"/locate/{number}/{region}"))
    done = subprocess.run([PROGRAM, "locate", folder / "out", str(region), "--json"], check=True, capture_output=True)
    assert json.loads(done.stdout).items() >= place.items()
    assert place["patient_box_mm"]
    assert asked(address, f"/locate/{number}/999999")[0] == 404


def test_the_quarantine_is_shown_whole(address: str, folder: Path) -> None:
    rows = pd.concat(pd.read_parquet(f) for f in sorted((folder / "out" / "quarantine").glob("*.parquet")))
    page, found = "/quarantine?stage=filter", 0
    while page:
        content = text(address, page)
        found += content.split('aria-label="Rows of the quarantine"')[1].split("</table>")[0].count("<tr><td>")
        more = re.search(r'rel="next" href="([^"]+)"', content)
        page = more[1].replace("&amp;", "&") if more else ""
    assert found == (rows["stage"] == "filter").sum() > 0
    assert asked(address, "/refused/0.png")[2][:4] == b"\x89PNG"


PATHS = ["/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/../app.py",
         "/..%2f..%2fetc/passwd", "/review/..%2f..%2fontology", "/review/..%5c..%5contology", "//etc/passwd",
         "/image/..%2f1.png", "/upload/..%2fx.png", "/static/%00", "/review/x%00", "/etc/passwd",
         "/thumb/1.jpg/..%2f..", "/image/99999999999999999999999.png", "/refused/9999.png",
         "/review/hostile/examples.jpg?raw=../x", "/image/" + "9" * 3900, "/browse?source=" + "a" * 5000,
         "/browse?from=x", "/browse?from=-1", "/image/1?center=nan&width=1", "/plane/1.png?index=-1",
         "/quarantine?from=-5", "/model?image=1&prompt=x"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_its_own_pages_can_be_had(address: str, path: str) -> None:
    status, headers, content = asked(address, path)
    assert status in (400, 404, 414), content
    assert b"root:" not in content
    assert b"import" not in content
    assert headers["x-content-type-options"] == "nosniff"


def test_answers_forbid_foreign_script(address: str) -> None:
    _, headers, content = asked(address, "/browse")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy
    assert not re.search(rb"<script(?! src=\"/static/)|\son\w+=|style=", content)
    assert "http" not in re.sub(r'xmlns="[^"]+"', "", "".join(
        m for m in re.findall(r'(?:src|href|action)="([^"]+)"', content.decode())))  # fmt: skip


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.nip.io", "", "localhost@evil.example"])
def test_other_names_are_refused(address: str, host: str) -> None:
    assert asked(address, "/", host=host)[0] in (400, 421)
    assert asked(address, "/", host="localhost:123")[0] == 200


def form(page: str, **fields: str) -> bytes:
    from urllib.parse import urlencode

    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token
    seen = re.search(r'name="seen-0" value="([^"]+)"', page)
    assert seen
    given = {"token": token[1], "by": "A. Reader", "decision": "approve:0", "raw-0": "left_kidney", "seen-0": seen[1]}
    return urlencode(given | fields).encode()


def test_writes_need_the_token_and_the_entry_as_seen(address: str, folder: Path) -> None:
    path = to_review(folder)
    before, page = path.read_text(), text(address, "/review/demo_ct_abdomen")
    where = "/review/demo_ct_abdomen"
    for body in (form(page, token=""), form(page, token="x" * 43), b"decision=approve:0"):
        assert asked(address, where, "POST", body)[0] == 403
    origin = {"origin": "http://evil.example"}
    assert asked(address, where, "POST", form(page), **origin)[0] == 403
    assert asked(address, where, "POST", form(page), **{"sec-fetch-site": "cross-site"})[0] == 403
    for wrong in ({"seen-0": "0" * 16}, {"raw-0": "no such"}, {"decision": "delete:0"}, {"by": "llm:me"}):
        assert asked(address, where, "POST", form(page, **wrong))[0] == 400
    assert asked(address, "/review/..%2f..%2fx", "POST", form(page))[0] in (400, 404)
    assert asked(address, "/browse", "POST", form(page))[0] == 405
    assert path.read_text() == before
    assert asked(address, where, "POST", form(page))[0] == 303
    assert path.read_text().replace(
        'approved, by: A. Reader, confidence: 0.97, why: "spelling; proposed by llm:model"',
        'proposed, by: "llm:model", confidence: 0.97, why: spelling') == before  # fmt: skip


def test_without_review_it_only_reads(folder: Path) -> None:
    path = to_review(folder)
    with served(folder) as address:
        page = text(address, "/review/demo_ct_abdomen")
        assert "seen-0" not in page
        assert "--review" in page
        token = re.search(r'name="token" value="([^"]+)"', page)
        assert token
        body = f"token={token[1]}&decision=approve:0&by=me&raw-0=left_kidney&seen-0=x".encode()
        assert asked(address, "/review/demo_ct_abdomen", "POST", body)[0] == 403
    assert path.read_text() == to_review(folder).read_text()


def test_names_that_are_html_stay_text(address: str, frame: pd.DataFrame) -> None:
    pages = ["/", "/browse?source=hostile", "/labels", "/review/hostile?all=1", "/quarantine?source=hostile",
             "/browse?text=%3Cimg+src%3Dx+onerror%3Dhacked%3D1%3E", "/browse?label=%22%3E%3Cscript%3E", "/%3Cscript%3E"]
    pages += [f"/image/{n}" for n in frame.index[frame["source"] == "hostile"]]
    attacks = 0
    for path in pages:
        content = asked(address, path)[2].decode()
        assert not re.search(r"<(img src=x|svg onload|script>)", content), path
        attacks += "&lt;img src=x onerror" in content
        assert 'href="javascript:' not in content
    assert attacks > 4
    assert ATTACK in set(frame["license"])
