"""Facts of sources' tables come out in common words."""

import pytest

from etl.manifests.clinical import harmonised


@pytest.mark.parametrize(("given", "years"), [
    ("12Y", "12"), ("045Y", "45"), ("6M", "0.5"), ("3 days", "0.01"), ("63", "63"), ("63.0", "63"), ("26w", "0.5"),
    ("60-65", "60-65"), ("90+", "90+"), ("0", "0"), ("100 years", "100"),
])  # fmt: skip
def test_age_in_years(given: str, years: str) -> None:
    assert harmonised("age", given) == years


@pytest.mark.parametrize(("fact", "given", "value"), [
    ("sex", "F", "female"), ("sex", " Male ", "male"), ("sex", "unclear", "unclear"), ("diagnosis", "M", "M"),
    ("contrast_phase", "PV", "portal venous"), ("contrast_phase", "Arterial phase", "arterial"),
    ("contrast_phase", "Pre_Contrast", "pre contrast"),
])  # fmt: skip
def test_words(fact: str, given: str, value: str) -> None:
    assert harmonised(fact, given) == value
