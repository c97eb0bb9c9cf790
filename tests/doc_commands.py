"""The commands that the pages show: lines of shell blocks, Python blocks, and commands within the text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MADE = "docs/cli.md"  # by Typer itself: only the examples of its help are read
SHELL = ("", "console", "bash", "sh")
PROGRAMS = ("medglip-etl", "make", "pip", "python", "torchrun")
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"(?<!`)`((?:medglip-etl|make|python|torchrun) [^`]+)`(?!`)")
ASSIGNED = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Command:
    """A command of a page as words, with what is set before it and what the page shows that it prints."""

    page: str
    words: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    code: str = ""  # of a Python block
    shown: str = ""

    @property
    def fails(self) -> bool:
        """Whether the page shows it fail."""
        return self.shown.startswith("error:")

    @property
    def text(self) -> str:
        """One line that names it."""
        return self.code.splitlines()[0] if self.code else shlex.join(self.words)


def pages() -> list[str]:
    """Every page of the repository, by its path."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each fenced block."""
    for found in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        yield found[1].strip(), found[2]


def commands(page: str) -> list[Command]:
    """What a reader is told to run, in order."""
    found: list[Command] = []
    for language, text in blocks(page) if page != MADE else ():
        if language == "python":
            found.append(Command(page, ("python",), code=text))
        elif language in SHELL:
            found += [_command(page, line, shown) for line, shown in _lines(text)]
        elif language == "yaml":
            found += [_command(page, shlex.join(re.split(r",\s*", line)).replace("'", ""))
                      for line in re.findall(r"command: \[(medglip-etl, [^]]*)\]", text)]  # fmt: skip
    return found


def mentioned(page: str) -> list[Command]:
    """Commands within the text of a page; they need not be whole."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == MADE:
        return [_command(page, line) for line in re.findall(r"^Example: (medglip-etl .*)$", text, re.M)]
    spans = SPAN.findall(BLOCK.sub("", text))
    return [_command(page, " ".join(span.split())) for span in spans]


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """The command lines of a shell block, continued ones joined, and what is shown below each."""
    prompted = re.search(r"^\$ ", text, re.M)
    text = re.sub(r"\\\n\s*", " ", text)
    if prompted:
        for entry in re.split(r"^\$ ", text, flags=re.M)[1:]:
            line, _, shown = entry.partition("\n")
            yield line, shown
        return
    for line in text.splitlines():
        program = next((word for word in line.split() if not ASSIGNED.match(word)), "").rsplit("/", 1)[-1]
        if program in PROGRAMS:
            yield line, ""


def _command(page: str, line: str, shown: str = "") -> Command:
    """A line as words: without comment, `…`, and the brackets and choices of a synopsis."""
    line = re.sub(r"\s#.*$", "", line)
    if re.search(r" \[-", line):
        line = re.sub(r"\|[\w-]+", "", re.sub(r"[\[\]]", "", line))
    words = [word for word in shlex.split(line.replace("…", " ")) if word]
    env = {}
    while ASSIGNED.match(words[0]):
        name, env[name] = words.pop(0).split("=", 1)
    return Command(page, tuple(words), env, shown=shown)
