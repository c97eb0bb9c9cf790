"""The pages under `docs/` that are made from other files: `python -m etl.docs`."""

from pathlib import Path

from etl.manifests.manifest import load_manifests
from etl.sources.listing import page

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, str]:
    """Path → text of each page that is made."""
    return {ROOT / "docs" / "sources.md": page(load_manifests(ROOT / "manifests").values())}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
