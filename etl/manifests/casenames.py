"""What a manifest says of single cases: their names, names with `*`, spans of numbers."""

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

from etl.manifests.manifest import Exclude, Manifest

Said = TypeVar("Said")
_SPAN = re.compile(r"(\d+)-(\d+)")


class ByName(Generic[Said]):
    """Something said of cases or labels, by name, by a name in which `*` is any text, by a span ``a-b`` of numbers.

    A name that is written out goes before a span, a span before `*`. A span holds names that are a number.
    """

    def __init__(self, said: Mapping[str, Said]) -> None:
        self._names = {name: what for name, what in said.items() if "*" not in name}
        self._spans = [(range(int(m[1]), int(m[2]) + 1), what) for name, what in said.items()
                       if (m := _SPAN.fullmatch(name))]  # fmt: skip
        self._patterns = [(re.compile(re.escape(name).replace(r"\*", ".*"), re.DOTALL), what)
                          for name, what in said.items() if "*" in name]  # fmt: skip

    def of(self, case: str) -> Said | None:
        """What is said of a case, if something is."""
        if case in self._names:
            return self._names[case]
        spans = (what for span, what in self._spans if case.isdecimal() and int(case) in span)
        return next(spans, None) or next((what for pattern, what in self._patterns if pattern.fullmatch(case)), None)


def excluded(manifest: Manifest) -> ByName[str]:
    """Why a case as a whole is not used."""
    return ByName({item.case: _why(item) for item in manifest.exclude if not item.labels})


def faulty_labels(manifest: Manifest, case: str) -> dict[str, str]:
    """The raw labels that are not used in a case, with the reason; the unions that hold one of them too."""
    found: dict[str, str] = {}
    for item in manifest.exclude:
        if item.labels and ByName({item.case: item}).of(case) is not None:
            faulty = ByName(dict.fromkeys(item.labels, item))
            gone = [name for name in manifest.raw_labels() if name not in manifest.derive and faulty.of(name)]
            found.update(dict.fromkeys(gone, _why(item)))
    for name, parts in manifest.derive.items():
        fault = next((part for part in parts if part in found), None)
        if fault is not None:
            found[name] = f"holds {fault}: {found[fault]}"
    return found


def _why(item: Exclude) -> str:
    return f"{item.why} {item.link or ''}".strip()
