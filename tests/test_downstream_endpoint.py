"""`downstream vqa` against a real server on the loopback that speaks chat completions with images, well and badly."""

import base64
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_server import answering
from PIL import Image
from test_downstream_data import found_file
from typer.testing import CliRunner

from etl.cli import app
from glip.downstream.items import Question, Region, write_items

COUNT = 8


class Server(ThreadingHTTPServer):
    """Sees the grey value of the picture and answers from it; the troubles of a picture come first, one a request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.troubles: dict[int, list[str]] = {}
        self.asked: Counter[tuple[int, str]] = Counter()
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        *shown, text = body["messages"][1]["content"]
        grey = seen(shown[0])
        server = self.server
        with server.lock:
            server.asked[grey, text["text"] + f" [{len(shown)}]"] += 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            planned = server.troubles.get(grey) or server.troubles.get(-1) or []
            trouble = (planned[0] if planned[0] == "always 503" else planned.pop(0)) if planned else ""
        threading.Event().wait(1.5 if trouble == "slow" else 0.02)
        self.answer(trouble, grey, text["text"], body["model"])
        with server.lock:
            server.at_once -= 1

    def answer(self, trouble: str, grey: int, text: str, model: str) -> None:
        if trouble in ("429", "503", "always 503", "401", "400"):
            status = int(trouble.split()[-1])
            return self.send(status, json.dumps({"error": {"message": trouble}}).encode(), {"Retry-After": "0.05"})
        if trouble == "not http json":
            return self.send(200, b"<html>gateway</html>", {})
        known = "Detected regions: liver" in text
        message: dict[str, Any] = {"role": "assistant", "content": "Yes, it is." if known or grey < 5 else "No."}
        if trouble == "refuse":
            message |= {"content": None, "refusal": "I cannot help with that"}
        elif trouble == "empty":
            message["content"] = ""
        elif trouble == "thinks":
            message["content"] = f"<think>is it no?</think>\n{message['content']}"
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 50, "completion_tokens": 3, "total_tokens": 53}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
        return self.send(200, json.dumps({**reply, "usage": usage}).encode(), {})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client's time-out came first

    def log_message(self, *_: Any) -> None:
        pass


def seen(part: dict[str, Any]) -> int:
    """The grey value in the last corner of the picture that was sent."""
    head, data = part["image_url"]["url"].split(",", 1)
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return int(np.asarray(picture.convert("L"))[-1, -1])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    with answering(server):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        monkeypatch.setenv("NO_PROXY", "*")
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pictures of grey values 1 … 8, each asked about once; the answer is yes; a liver was found in each."""
    names = [f"{n}.png" for n in range(1, COUNT + 1)]
    (tmp_path / "data/images").mkdir(parents=True)
    for n, name in enumerate(names, 1):
        Image.fromarray(np.full((20, 30), n, np.uint8)).save(tmp_path / "data/images" / name)
    write_items(
        tmp_path / "data/questions.jsonl",
        [Question(str(n), name, "Is there a liver?", "yes", "closed", "test") for n, name in enumerate(names)],
    )
    found_file(tmp_path / "found", {n: [Region("liver", (3, 2, 9, 8), 0.9)] for n in names}, (30, 20))
    return tmp_path


def vqa(data: Path, *more: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, [
        "downstream", "vqa", str(data / "data"), "--found", str(data / "found"), "--out", str(data / "out"), "--by",
        "some-model", "--bootstrap", "100", "--json", *more,
    ])  # fmt: skip
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout)) if result.stdout else {"told": result.stderr}


def right(document: dict[str, Any]) -> dict[str, float]:
    return {arm: m["closed_accuracy"]["value"] for arm, m in document["arms"].items()}


def test_every_arm_is_answered_in_parallel_and_nothing_twice(server: Server, data: Path) -> None:
    document = vqa(data)
    assert right(document) == {"none": 0.5, "predicted": 1.0, "shuffled": 1.0}
    assert document["arms"]["predicted"]["closed_accuracy"]["difference_interval"][0] > 0
    # all found boxes are alike, so the shuffled requests are the predicted ones, and are sent once
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 2 * COUNT
    assert 1 < server.most_at_once <= 4
    assert (data / "out/figure6.svg").exists()
    table = (data / "out/table.md").read_bytes()
    assert right(vqa(data)) == right(document)
    assert sum(server.asked.values()) == 2 * COUNT
    assert (data / "out/table.md").read_bytes() == table


@pytest.mark.parametrize("form", ["drawn", "crops"])
def test_regions_as_pictures(server: Server, data: Path, form: str) -> None:
    vqa(data, "--form", form)
    assert {text for _, text in server.asked} == {
        "Is there a liver? [1]", *(["Is there a liver? [2]"] if form == "crops" else []),
    }  # fmt: skip
    assert len(server.asked) == (2 * COUNT if form == "crops" else COUNT)
    assert sum(server.asked.values()) == 2 * COUNT


@pytest.mark.parametrize("trouble", ["429", "503", "not http json", "empty", "thinks"])
def test_one_trouble_each_is_survived(server: Server, data: Path, trouble: str) -> None:
    server.troubles = {n: [trouble] for n in (2, 5, 7)}
    document = vqa(data)
    assert right(document) == {"none": 0.5, "predicted": 1.0, "shuffled": 1.0}
    assert not any(document["open"].values())


def test_a_slow_answer_is_asked_again(server: Server, data: Path) -> None:
    server.troubles = {3: ["slow"]}
    assert right(vqa(data, "--timeout", "0.7"))["none"] == 0.5
    assert max(server.asked.values()) == 2


def test_refusals_are_counted_wrong_and_not_asked_again(server: Server, data: Path) -> None:
    server.troubles = {1: ["refuse"]}
    document = vqa(data)
    assert document["refused"]["none"] == 1
    assert right(document)["none"] == (COUNT / 2 - 1) / COUNT
    sent = sum(server.asked.values())
    assert vqa(data)["refused"]["none"] == 1
    assert sum(server.asked.values()) == sent


def test_lost_answers_fail_the_run_and_the_next_asks_only_those(
    server: Server, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.endpoint.RETRIES", 0)
    server.troubles = {4: ["503"], 6: ["503"]}
    document = vqa(data, code=1)
    assert document["open"] == {"none": 2, "predicted": 0, "shuffled": 0}
    assert right(document)["none"] == 3 / COUNT  # 4 of the grey values would be right, one of them is lost
    assert (data / "out/result.json").exists()
    before = dict(server.asked)
    assert right(vqa(data))["none"] == 0.5
    again = {key: n for key, n in server.asked.items() if n != before.get(key)}
    assert sorted(grey for grey, _ in again) == [4, 6]


def test_a_dead_endpoint_is_left_alone_and_the_run_resumes(
    server: Server, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.endpoint.RETRIES", 0)
    server.troubles = {-1: ["always 503"]}
    document = vqa(data, "--workers", "1", code=1)
    assert document["open"] == {"none": COUNT, "predicted": COUNT, "shuffled": COUNT}
    assert sum(server.asked.values()) == 3
    server.troubles = {}
    assert right(vqa(data)) == {"none": 0.5, "predicted": 1.0, "shuffled": 1.0}


def test_a_broken_memory_loses_one_answer(server: Server, data: Path) -> None:
    vqa(data)
    memory = data / "out/answers.jsonl"
    memory.write_bytes(memory.read_bytes()[:-20])  # killed in the middle of a line
    assert right(vqa(data))["predicted"] == 1.0
    assert sum(server.asked.values()) == 2 * COUNT + 1
    assert all(json.loads(line) for line in memory.read_text().splitlines()[-1:])


@pytest.mark.parametrize(("trouble", "message"), [("401", "OPENAI_API_KEY"), ("400", "does it take images")])
def test_what_is_wrong_with_all_requests_stops_at_once(server: Server, data: Path, trouble: str, message: str) -> None:
    server.troubles = {-1: [trouble] * 100}
    assert message in vqa(data, "--workers", "1", code=1)["told"]
    assert sum(server.asked.values()) == 1
