"""Scores of files of generated reports, alone or against the file of another arm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from etl.errors import Failure
from glip.downstream import captions, meteor
from glip.downstream.captions import Metric
from glip.downstream.mlrg import read_results
from glip.downstream.paired import Bootstrap, compare


def rescore(path: Path, against: Path | None, clean: Callable[[str], str], bootstrap: Bootstrap) -> dict[str, Any]:
    """`{reports, missing, arms: {results, none}}`; `none` is the file that differences are to.

    Raises Failure if two files hold different reports: a paired comparison needs the same.
    """
    files = {"results": path} if against is None else {"none": against, "results": path}
    read = {name: read_results(file) for name, file in files.items()}
    ids, truths, _ = next(iter(read.values()))
    for name, (other, wanted, _) in read.items():
        if other != ids or wanted != truths:
            raise Failure(f"{files[name]}: not the same reports in the same order as {next(iter(files.values()))}")
    cleaned = [clean(t) for t in truths]
    answers = {name: [clean(a) for a in texts] for name, (_, _, texts) in read.items()}
    metrics: dict[str, dict[str, Metric]] = {name: captions.scores(a, cleaned) for name, a in answers.items()}
    with meteor.added(metrics, answers, cleaned) as missing:
        return {"reports": len(ids), "missing": missing, "arms": compare(metrics, ids, bootstrap)}
