"""The pages under `docs/` that are made from other files: `python -m etl.docs`."""

import subprocess
import sys
from pathlib import Path

from etl.manifests.manifest import load_manifests
from etl.sources.listing import page

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, str]:
    """Path → text of each page that is made."""
    docs = ROOT / "docs"
    return {docs / "sources.md": page(load_manifests(ROOT / "manifests").values()), docs / "cli.md": commands()}


def commands() -> str:
    """Every command with its arguments and options, as Typer's own tool writes them."""
    tool = [sys.executable, "-m", "typer", "etl.cli", "utils", "docs", "--name", "medglip-etl", "--title", "Commands"]
    made = subprocess.run(tool, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return "\n".join(line.rstrip() for line in made.splitlines()).rstrip() + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
