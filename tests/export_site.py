"""A small built dataset for the tests of exports, and its exports, each made once."""

from collections.abc import Callable, Iterable
from pathlib import Path

from program import medglip

from etl.exports.run import export
from etl.release.records import SPLITS

Make = Callable[..., Path]


def built(folder: Path, sources: Iterable[str]) -> Path:
    """The dataset of some sources of the demo."""
    assert medglip("demo", folder).returncode == 0
    chosen = [part for source in sources for part in ("--source", source)]
    done = medglip("build", "--raw", folder / "raw", "--manifests", folder / "manifests", *chosen, "--min-area", 0.005,
                   "--label-maps", folder / "label_maps", "--out", folder / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out"


def maker(out: Path, folder: Path) -> Make:
    """What makes an export, each only once."""
    cache = dict[tuple[str, str], Path]()

    def make(name: str, level: str = "category") -> Path:
        if (name, level) not in cache:
            cache[name, level] = folder / f"{name}-{level}"
            export(out, name, to=cache[name, level], splits=SPLITS, level=level, images=True)
        return cache[name, level]

    return make
