"""Settings of all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None)  # a busy machine or a first compilation is no failure
settings.load_profile("steady")


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a dataset for the explorer, built once for all its tests; see explore_site."""
    from explore_site import build

    where = tmp_path_factory.mktemp("explore")
    build(where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(where / "cache"))
        yield where


@pytest.fixture(scope="session")
def drawn_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn sources, built."""
    from program import build

    from glip.experiment import drawn

    folder = tmp_path_factory.mktemp("drawn")
    drawn.write(folder, subjects=8)
    named = [word for name in ("ct", "xray", "endoscopy_dim") for word in ("--source", f"drawn_{name}")]
    build(folder, folder / "out", "--profile", "small", *named)
    return folder / "out"
