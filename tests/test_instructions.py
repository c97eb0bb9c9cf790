"""The compiled kernels need no more processor instructions per pixel than they did when they were measured."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")
LIMITS = {
    "extents": 40, "straight": 9.5, "looked_up": 12, "straight_between": 20, "straight_across": 72, "measured": 27,
    "histogram": 11, "digest": 4.5, "block_sums": 7, "fingerprints": 48, "repeats": 11,
}  # fmt: skip
"""A third above the counts of numba 0.68 for a plain x86-64 processor: far below what a lost vector loop costs."""


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="counted for x86-64 Linux only")
def test_kernels_need_no_more_instructions(tmp_path: Path) -> None:
    script = Path(__file__).parent / "bench" / "instructions.py"
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, script], env={**os.environ, **plain}, capture_output=True, text=True)
    if "cannot be counted here" in run.stderr:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.keys() == LIMITS.keys()
    assert {name: n for name, n in found.items() if n > LIMITS[name]} == {}
