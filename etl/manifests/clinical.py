"""Clinical facts of sources' tables in common words and units. Pure."""

import re

SEX = {"m": "male", "male": "male", "man": "male", "f": "female", "female": "female", "woman": "female",
       "w": "female", "o": "other", "other": "other"}  # fmt: skip
PHASE = {
    "nc": "non-contrast", "native": "non-contrast", "plain": "non-contrast", "non-contrast": "non-contrast",
    "noncontrast": "non-contrast", "unenhanced": "non-contrast", "art": "arterial", "arterial": "arterial",
    "pv": "portal venous", "portal": "portal venous", "portal venous": "portal venous", "venous": "portal venous",
    "delayed": "delayed", "delay": "delayed", "late": "delayed",
}  # fmt: skip
AGE = re.compile(r"0*(\d+(?:\.\d+)?)\s*(y|yr|yrs|year|years|m|mo|month|months|w|week|weeks|d|day|days)?", re.IGNORECASE)
PER_YEAR = {"y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}


def harmonised(fact: str, value: str) -> str:
    """A fact in common words: sex `male`, `female`, `other`; age in years; a contrast phase of PHASE.

    Ages may have a unit (`12Y`, `6M`, `045Y` as in DICOM PS3.5 AS, `3 days`); without one they are years; up to two
    digits after the point. What is not understood, such as a range of ages, stays as it is written.
    """
    plain = " ".join(value.lower().replace("_", " ").split()).removesuffix(" phase")
    if fact == "sex":
        return SEX.get(plain, value)
    if fact == "contrast_phase":
        return PHASE.get(plain, plain)
    if fact == "age" and (match := AGE.fullmatch(plain)):
        years = float(match[1]) / PER_YEAR[(match[2] or "y")[0]]
        return f"{years:.2f}".rstrip("0").rstrip(".")
    return value
