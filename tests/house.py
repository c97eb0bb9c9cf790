"""Prints how large the files and functions of the tree are, and what lacks a docstring or a return type.

`python tests/house.py` fails where a hard limit is broken: 400 lines a file, 60 code lines a function, a public name
without docstring or return type. The medians are aims, shown for the eye.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

SOURCE, TESTS = ("etl", "stages", "glip"), ("tests",)
MAX_FILE, MAX_FUNCTION = 400, 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Sized(NamedTuple):
    """A function and its lines of code: no docstring, comments or blank lines."""

    at: str
    lines: int
    public: bool
    documented: bool
    returns: bool


def main() -> int:
    """The number of broken limits, after the table."""
    root = Path(__file__).parents[1]
    files = {path.relative_to(root): path.read_text() for top in SOURCE for path in sorted((root / top).rglob("*.py"))}
    tests = [path.read_text() for top in TESTS for path in (root / top).rglob("*.py")]
    sizes = {path: text.count("\n") for path, text in files.items()}
    found = [f for path, text in files.items() for f in functions(str(path), text)]
    code = [f.lines for f in found]
    public = [f for f in found if f.public]
    modules = [path for path, text in files.items() if text.strip() and not ast.get_docstring(ast.parse(text))]
    longest = max(sizes, key=lambda path: sizes[path])
    print(f"files      {len(files)}, median {median(sizes.values()):.0f} lines (aim 150), "
          f"longest {sizes[longest]} {longest}")  # fmt: skip
    print(f"functions  {len(code)}, median {median(code):.0f} code lines (aim 10), "
          f"p90 {quantiles(code, n=10)[-1]:.0f} (aim 30), longest {max(found, key=lambda f: f.lines)[:2]}")  # fmt: skip
    print(f"public     {len(public)} names, {share(public, 'documented')} with docstring, "
          f"{share(public, 'returns')} with return type (of all functions {share(found, 'returns')})")  # fmt: skip
    written, covered = (sum(map(code_lines, texts)) for texts in (tests, list(files.values())))
    print(f"tests      {written / covered:.2f} lines of test for a line of source (aim 0.8)")
    broken = [f"{path}: {lines} lines, more than {MAX_FILE}" for path, lines in sizes.items() if lines > MAX_FILE]
    broken += [f"{f.at}: {f.lines} code lines, more than {MAX_FUNCTION}" for f in found if f.lines > MAX_FUNCTION]
    broken += [f"{f.at}: no docstring" for f in public if not f.documented]
    broken += [f"{f.at}: no return type" for f in public if not f.returns]
    broken += [f"{path}: no docstring" for path in modules]
    print("\n".join(broken) or "no limit broken")
    return len(broken)


def functions(path: str, text: str) -> Iterator[Sized]:
    """Each function and class of a file; what stands within a function is a part of it."""
    lines = text.splitlines()

    def within(node: ast.AST, hidden: bool) -> Iterator[Sized]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                private = hidden or child.name.startswith("_")
                if not private and not ast.get_docstring(child):
                    yield Sized(f"{path}:{child.lineno} {child.name}", 0, True, False, True)
                yield from within(child, private)
            elif isinstance(child, Function):
                public = not hidden and not child.name.startswith("_")
                yield Sized(f"{path}:{child.lineno} {child.name}", size(child, lines), public,
                            ast.get_docstring(child) is not None, child.returns is not None)  # fmt: skip

    return within(ast.parse(text), False)


def size(function: Function, lines: list[str]) -> int:
    """Code lines of a function: signature and body, without docstring, comments and blank lines."""
    doc = function.body[0] if ast.get_docstring(function) else None
    skip = range(doc.lineno, (doc.end_lineno or 0) + 1) if doc else range(0)
    return sum(is_code(lines[n - 1]) for n in range(function.lineno, (function.end_lineno or 0) + 1) if n not in skip)


def code_lines(text: str) -> int:
    """Lines of a text that are neither blank nor a comment."""
    return sum(map(is_code, text.splitlines()))


def is_code(line: str) -> bool:
    """Whether a line says something to the machine."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def share(of: list[Sized], what: str) -> str:
    """The share of functions for which something holds, in percent."""
    return f"{100 * sum(getattr(f, what) for f in of) / len(of):.1f} %"


if __name__ == "__main__":
    sys.exit(min(main(), 1))
