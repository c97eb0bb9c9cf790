"""`labels suggest` against a real server on the loopback that speaks chat completions, well and badly."""

import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from faulty_server import answering
from typer.testing import CliRunner

from etl.cli import app
from etl.labels.maps import load_label_map, load_ontology

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = """slug: toy_ct
modality: ct
body_regions: [abdomen]
files: [{image: "{case}.nii.gz", mask: "{case}_seg.nii.gz", kind: label_map}]
labels: {1: Leber, 2: Milz, 3: linke Niere, 4: rechte Niere, 5: Stent, 6: Magen, 7: Pankreas, 8: Gallenblase}
"""
RIGHT = {
    "Leber": "liver", "Milz": "spleen", "linke Niere": "left kidney", "rechte Niere": "right kidney",
    "Stent": "none of these", "Magen": "stomach", "Pankreas": "pancreas", "Gallenblase": "gallbladder",
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """Answers every question rightly, after the troubles planned for its raw label (or for `*`)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.troubles: dict[str, list[str]] = {}
        self.dialect = "json_schema"
        self.seen: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.opinions: dict[str, list[str]] = {}
        self.lock = threading.Lock()

    def trouble(self, raw: str) -> str | None:
        with self.lock:
            planned = self.troubles.get(raw) or self.troubles.get("*") or []
            return (planned[0] if planned[0] == "refuse" else planned.pop(0)) if planned else None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        raw = json.loads(re.search(r"Structure: (.*)", body["messages"][1]["content"])[1])  # type: ignore[index]
        with self.server.lock:
            self.server.seen.append(body)
            self.server.asked[raw] += 1
        form = body.get("response_format", {}).get("type", "text")
        if form not in (self.server.dialect, "text"):
            return self.reply(400, {"error": {"message": f"response_format {form} is not supported"}})
        trouble = self.server.trouble(raw)
        if trouble == "429":
            return self.reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"})
        if trouble == "503":
            return self.reply(503, {"error": {"message": "overloaded"}}, {"Retry-After": "0.05"})
        if trouble == "slow":
            threading.Event().wait(1.5)
        if trouble == "not http json":
            return self.send(200, b"<html>gateway</html>", {})
        self.reply(200, self.completion(raw, trouble, body))
        return None

    def completion(self, raw: str, trouble: str | None, body: dict[str, Any]) -> dict[str, Any]:
        opinions = self.server.opinions.get(raw)
        label = opinions.pop(0) if opinions else RIGHT[raw]
        text = json.dumps({"label": label, "confidence": 0.9, "reason": "translation"})
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if trouble == "refuse":
            message |= {"content": None, "refusal": "I cannot help with that"}
        elif trouble == "truncated":
            message["content"] = text[:20]
        elif trouble == "malformed":
            message["content"] = "Sure! The label is " + label
        elif trouble == "invented":
            message["content"] = text.replace(label, "hepar")
        elif trouble == "fenced":
            message["content"] = f"<think>{{hm}}</think>```json\n{text}\n```"
        choice = {"index": 0, "message": message, "finish_reason": "length" if trouble == "truncated" else "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
                "usage": usage}

    def reply(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(body).encode(), headers or {})

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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    with answering(server):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        monkeypatch.setenv("NO_PROXY", "*")
        yield server


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "maps" / "sources").mkdir(parents=True)
    (tmp_path / "manifests" / "toy_ct.yaml").write_text(MANIFEST)
    return tmp_path


def suggest(toy: Path, *more: str, model: str | None = "test-model") -> dict[str, Any]:
    asked = ["--model", model] if model else []
    result = CliRunner().invoke(app, [
        "labels", "suggest", "--source", "toy_ct", *asked, "--manifests", str(toy / "manifests"), "--label-maps",
        str(toy / "maps"), "--cache", str(toy / "cache.jsonl"), "--json", *more,
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def proposed(toy: Path) -> dict[str, str | None]:
    return {raw: m.label for raw, m in load_label_map("toy_ct", toy / "maps").items()}


WANTED = {raw: None if label == "none of these" else label for raw, label in RIGHT.items()}


def test_right_proposals_on_record_and_nothing_asked_twice(server: Server, toy: Path) -> None:
    report = suggest(toy, "--price", "1,2")
    assert proposed(toy) == WANTED
    entry = load_label_map("toy_ct", toy / "maps")["Leber"]
    assert (entry.status, entry.by, entry.confidence) == ("proposed", "llm:test-model", 0.9)
    assert re.fullmatch(r"translation \[prompt 1-[0-9a-f]{6}\]", entry.why or "")
    assert load_label_map("toy_ct", toy / "maps")["Stent"].status == "rejected"
    assert (report["requests"], report["tokens_in"], report["tokens_out"], report["cost"]) == (8, 800, 80, 0.00096)
    text = (toy / "maps/sources/toy_ct.yaml").read_text()
    again = suggest(toy)
    assert (again["requests"], again["cached"], len(server.seen)) == (0, 8, 8)
    assert (toy / "maps/sources/toy_ct.yaml").read_text() == text


def test_a_closed_list_of_labels_and_names_only(server: Server, toy: Path) -> None:
    suggest(toy)
    labels = {*load_ontology(ROOT / "label_maps").labels, "none of these"}
    for body in server.seen:
        choices = body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        assert choices[-1] == "none of these"
        assert 2 < len(choices) <= 199
        assert set(choices) <= labels
        text = body["messages"][1]["content"]
        assert "Modality: ct" in text
        assert "Body region: abdomen" in text
        assert str(toy) not in json.dumps(body)


@pytest.mark.parametrize(
    ("trouble", "dialect"),
    [
        *((t, "json_schema") for t in ("429", "503", "truncated", "malformed", "invented", "fenced", "not http json")),
        ("truncated", "json_object"), ("malformed", "json_object"), ("malformed", "text"), ("fenced", "text"),
    ],
)
def test_one_trouble_each_is_survived(server: Server, toy: Path, trouble: str, dialect: str) -> None:
    server.dialect = dialect
    server.troubles = {raw: [trouble] for raw in ("Leber", "Milz", "Stent")}
    assert suggest(toy)["sources"][0]["problems"] == {}
    assert proposed(toy) == WANTED
    assert all(server.asked[raw] > 1 for raw in server.troubles) or trouble == "fenced"


def test_an_answer_that_never_comes_leaves_the_offline_proposal_and_is_asked_again(server: Server, toy: Path) -> None:
    server.troubles = {"Leber": ["not http json"] * 2}
    report = suggest(toy)
    assert report["sources"][0]["problems"] == {"Leber": "no answer: the reply holds no choice"}
    assert (load_label_map("toy_ct", toy / "maps")["Leber"].by or "").startswith("offline:")
    assert suggest(toy)["requests"] == 1
    assert proposed(toy) == WANTED


def test_a_slow_answer_is_asked_again(server: Server, toy: Path) -> None:
    server.troubles = {"Leber": ["slow"]}
    suggest(toy, "--timeout", "0.7")
    assert proposed(toy) == WANTED
    assert server.asked["Leber"] == 2


def test_a_refusal_loses_no_label_and_is_not_asked_again(server: Server, toy: Path) -> None:
    server.troubles = {"Leber": ["refuse"], "Pankreas": ["refuse"]}
    report = suggest(toy)
    assert report["sources"][0]["problems"] == dict.fromkeys(("Leber", "Pankreas"), "the model refused")
    found = load_label_map("toy_ct", toy / "maps")
    assert set(found) == set(RIGHT)
    assert (found["Leber"].by or "").startswith("offline:")
    assert {k: v for k, v in proposed(toy).items() if k not in ("Leber", "Pankreas")} == {
        k: v for k, v in WANTED.items() if k not in ("Leber", "Pankreas")
    }
    sent = len(server.seen)
    assert suggest(toy)["requests"] == 0
    assert len(server.seen) == sent


@pytest.mark.slow
def test_a_dead_endpoint_loses_no_label(server: Server, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    report = suggest(toy)
    assert set(proposed(toy)) == set(RIGHT)
    assert set(report["sources"][0]["problems"]) == set(RIGHT)


def test_what_a_person_decided_stays_with_its_comment(server: Server, toy: Path) -> None:
    path = toy / "maps/sources/toy_ct.yaml"
    mine = ["  Leber: {label: spleen, status: approved, by: A. Reader}  # odd, but decided",
            "  Milz: {label: null, status: rejected, by: A. Reader, why: not drawn}",
            "  Stent: {label: aorta, status: proposed, by: A. Reader}"]
    path.write_text("\n".join(["# of the toy", "source: toy_ct", "labels:", *mine]) + "\n")
    suggest(toy)
    lines = path.read_text().splitlines()
    assert set(lines) >= {*mine, "# of the toy"}
    assert server.asked.keys() == set(RIGHT) - {"Leber", "Milz", "Stent"}
    assert [line.split(":")[0].strip() for line in lines[3:]] == sorted(RIGHT)


def test_votes_lower_the_confidence_when_they_differ(server: Server, toy: Path) -> None:
    server.opinions = {"Leber": ["liver", "spleen", "liver"]}
    suggest(toy, "--votes", "3")
    found = load_label_map("toy_ct", toy / "maps")
    assert (found["Leber"].label, found["Leber"].confidence) == ("liver", 0.6)
    assert (found["Milz"].label, found["Milz"].confidence) == ("spleen", 0.9)
    assert len(server.seen) == 24
    suggest(toy, "--model", "other-model")
    assert load_label_map("toy_ct", toy / "maps")["Milz"].by == "llm:test-model+other-model"


def test_a_wrong_key_is_told_at_once(server: Server, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    command = ["labels", "suggest", "--source", "toy_ct", "--model", "m", "--manifests", str(toy / "manifests")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "OPENAI_BASE_URL" in result.output


def test_without_an_endpoint_names_are_enough_for_most(toy: Path) -> None:
    shutil.copy(ROOT / "manifests/totalsegmentator_mr.yaml", toy / "manifests/toy_mr.yaml")
    text = (toy / "manifests/toy_mr.yaml").read_text().replace("slug: totalsegmentator_mr", "slug: toy_mr")
    (toy / "manifests/toy_mr.yaml").write_text(text)
    result = CliRunner().invoke(app, [
        "labels", "suggest", "--source", "toy_mr", "--manifests", str(toy / "manifests"),
        "--label-maps", str(toy / "maps"),
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "no endpoint is asked" in result.stderr
    truth = load_label_map("totalsegmentator_mr", ROOT / "label_maps")
    found = load_label_map("toy_mr", toy / "maps")
    assert set(found) == set(truth)
    right = sum(found[raw].label == truth[raw].label for raw in truth)
    assert right / len(truth) > 0.9
    assert all(m.status != "approved" for m in found.values())


def test_approve_puts_the_reviewer_on_record(server: Server, toy: Path) -> None:
    suggest(toy)
    maps = ["--label-maps", str(toy / "maps")]
    approve = ["labels", "approve", "--source", "toy_ct", *maps]
    result = CliRunner().invoke(app, [*approve, "--by", "A. Reader", "Leber", "Stent"])
    assert result.exit_code == 0, result.output
    found = load_label_map("toy_ct", toy / "maps")
    assert (found["Leber"].status, found["Leber"].by) == ("approved", "A. Reader")
    assert "proposed by llm:test-model" in (found["Leber"].why or "")
    assert (found["Stent"].status, found["Stent"].by) == ("rejected", "A. Reader")
    assert found["Milz"].status == "proposed"
    for wrong in (["--by", "llm:x"], ["--by", "A. Reader", "Nabel"]):
        refused = CliRunner().invoke(app, [*approve, *wrong])
        assert refused.exit_code == 2
    rest = CliRunner().invoke(app, [*approve, "--by", "A. Reader", "--json"])
    assert json.loads(rest.stdout)["approved"] == sorted(set(RIGHT) - {"Leber", "Stent"})
    linted = CliRunner().invoke(app, ["labels", "lint", "--manifests", str(toy / "manifests"), *maps])
    assert "toy_ct" not in linted.output, linted.output
    written = yaml.safe_load((toy / "maps/sources/toy_ct.yaml").read_text())
    assert {raw: entry["label"] for raw, entry in written["labels"].items()} == WANTED
