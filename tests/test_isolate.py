"""Work in a child with limits: what kills it costs one item, and the reason says what happened."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from program import write_source
from test_faults import arguments, volume

from etl import isolate
from etl.errors import Failure

LIMITS = isolate.Limits(seconds=3, memory=2**29)


def behave(how: str) -> Any:
    """What a decoder may do to us."""
    isolate.alive(f"item {how}")
    if how == "crash":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "exit":
        os._exit(0)
    elif how == "sleep":
        time.sleep(60)
    elif how == "spin":
        while True:
            pass
    elif how == "bomb":
        return len(bytearray(2**40))
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "print":
        print("to stdout")
        os.write(1, b"also to stdout\n")
    elif how == "raise":
        raise ValueError("of the work itself")
    return {"pid": os.getpid(), "how": how}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def where(_: str) -> str:
    return os.getcwd()


def test_a_child_is_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path of a later call is no file of an earlier folder."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert isolate.call(where, "", LIMITS) == str(tmp_path / name)


def test_one_child_serves_call_after_call() -> None:
    one, other = (isolate.call(behave, how, LIMITS) for how in ("well", "print"))
    assert one["pid"] == other["pid"] != os.getpid()


@pytest.mark.parametrize(("how", "reason", "word"), [
    ("crash", "unreadable", "SIGSEGV"), ("abort", "unreadable", "SIGABRT"), ("exit", "unreadable", "exit code 0"),
    ("sleep", "unreadable", "hung"), ("spin", "unreadable", "hung"), ("killed", "too_large", "memory"),
])  # fmt: skip
def test_what_ends_a_child(how: str, reason: str, word: str) -> None:
    with pytest.raises(isolate.Died) as caught:
        isolate.call(behave, how, LIMITS)
    assert (caught.value.at, caught.value.error.reason) == (f"item {how}", reason)
    assert word in caught.value.error.detail
    assert isolate.call(behave, "well", LIMITS)["how"] == "well"


@pytest.mark.parametrize(("how", "word"), [("bomb", "MemoryError"), ("raise", "of the work itself")])
def test_what_the_work_raises_is_a_failure(how: str, word: str) -> None:
    with pytest.raises(Failure, match=word):
        isolate.call(behave, how, LIMITS)
    assert isolate.call(behave, "well", LIMITS)["how"] == "well"


def test_a_child_ends_with_its_parent() -> None:
    code = "from etl import isolate; import test_isolate as t; print(isolate.call(t.behave, 'well', t.LIMITS)['pid'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for _ in range(100):
        if not Path(f"/proc/{done.stdout.strip()}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


SABOTAGE = """
import os
from etl.formats import nifti
read = nifti.read
def broken(path, limit, **how):
    if "crash" in path.name:
        os.kill(os.getpid(), 11)
    if "bomb" in path.name:
        bytearray(2**50)
    return read(path, limit, **how)
nifti.read = broken
"""


def test_a_crash_in_a_decoder_costs_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SABOTAGE)
    write_source(tmp_path, "ct", "ct")
    for seed, name in enumerate(("a", "crash", "bomb", "z")):
        volume(tmp_path / "raw" / "ct", name, seed=seed)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    subprocess.run(arguments(tmp_path, tmp_path / "out"), check=True, capture_output=True)
    rows = pd.read_parquet(tmp_path / "out" / "quarantine" / "ct.parquet")
    got = {row.case: (row.reason, row.detail) for row in rows[rows["stage"] == "decode"].itertuples()}
    assert {case: reason for case, (reason, _) in got.items()} == {"crash": "unreadable", "bomb": "too_large"}
    assert "SIGSEGV" in got["crash"][1]
    images = pd.read_parquet(tmp_path / "out" / "dataset" / "shards", columns=["case"])
    assert set(images["case"]) == {"a", "z"}
