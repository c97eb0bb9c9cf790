"""What made a result: versions of what was used, and the commit of the code."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("medglip-etl", "numpy", "numba")


def versions() -> dict[str, str]:
    """Version by name, Python's first."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def git_commit() -> str | None:
    """The commit that this code was checked out from, with `+` where files were changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head, changed = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):  # no git here: the versions have to do
        return None
    return head + ("+" if changed else "")


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
