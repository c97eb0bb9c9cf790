"""The pages under `docs/` that are made from other files, whole or between two marks: `python -m etl.docs`."""

import subprocess
import sys
from pathlib import Path

from etl.docs.columns import TABLES
from etl.docs.terms import licenses, redistribution
from etl.manifests.load import load_manifests
from etl.sources.catalogue import page

ROOT = Path(__file__).resolve().parents[2]


def pages() -> dict[Path, str]:
    """Path → text of each page that is made."""
    docs, manifests = ROOT / "docs", load_manifests(ROOT / "manifests").values()
    terms = {"terms": redistribution(manifests), "dependencies": licenses(ROOT / "pyproject.toml")}
    partly = {docs / "data-format.md": TABLES, docs / "governance.md": terms}
    return {
        docs / "sources.md": page(manifests),
        docs / "cli.md": commands(),
        **{path: filled(path.read_text(encoding="utf-8"), parts) for path, parts in partly.items()},
    }


def filled(text: str, parts: dict[str, str]) -> str:
    """A page with each part between its marks, `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the page lacks a mark.
    """
    for name, part in parts.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if start not in text or end not in text:
            raise ValueError(f"the page has no marks {start.strip()} … {end}")
        head, rest = text.split(start, 1)
        text = head + start + "\n" + part + "\n" + end + rest.split(end, 1)[1]
    return text


def commands() -> str:
    """Every command with its arguments and options, as Typer's own tool writes them."""
    tool = [sys.executable, "-m", "typer", "etl.cli", "utils", "docs", "--name", "medglip-etl", "--title", "Commands"]
    made = subprocess.run(tool, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return "\n".join(line.rstrip() for line in made.splitlines()).rstrip() + "\n"
