"""docs/errors.md is true: each wrong use in its tables ends with that code and that message."""

import contextlib
import re
from pathlib import Path

import pytest
from error_cases import prepare, said
from program import ROOT

PAGE = ROOT / "docs" / "errors.md"
ROWS = re.findall(r"^\| `(.+?)` \| .+? \| (\d) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    prepare(folder)
    return folder


@pytest.mark.parametrize(("command", "code", "message"), ROWS, ids=[row[0] for row in ROWS])
def test_row(folder: Path, command: str, code: str, message: str) -> None:
    with contextlib.chdir(folder):
        assert said(command) == (int(code), message.replace("\\|", "|"))


def test_every_command_that_can_go_wrong_is_there() -> None:
    from etl.cli import app

    assert len(ROWS) >= 80
    names = {c.callback.__name__ for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert {row[0].split()[0] for row in ROWS} >= names - {"nosuch"}
