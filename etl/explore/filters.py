"""What is to be shown: a filter as the address of a page holds it, and as SQL over the index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from etl.errors import UsageError

OF_IMAGE = ("modality", "source", "axis", "split")
OF_REGION = ("label", "category", "body_region", "raw_label")
ORDERS = ("key", "mixed")
SHOWS = ("both", "boxes", "masks", "none")
MOST_WORDS = 8


@dataclass(frozen=True, slots=True)
class Filter:
    """All empty: everything. Conditions on regions (label … area, in percent of the image) hold for one region.

    `order` and `show` (what is drawn on the images) choose nothing.
    """

    modality: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    axis: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    body_region: tuple[str, ...] = ()
    raw_label: tuple[str, ...] = ()
    flag: tuple[str, ...] = ()
    area_from: float | None = None
    area_to: float | None = None
    regions_from: int | None = None
    regions_to: int | None = None
    text: str = ""
    order: str = "key"
    show: str = "both"

    def query(self) -> str:
        """The filter in an address, without `?`; the same filter has one spelling."""
        pairs: list[tuple[str, str]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                pairs += [(field.name, item) for item in value]
            elif value not in (None, "", "key", "both"):
                pairs.append((field.name, f"{value:g}" if isinstance(value, float) else str(value)))
        return urlencode(pairs)

    def with_(self, **changes: Any) -> Filter:
        """The filter with other values for some fields."""
        return replace(self, **changes)

    def toggled(self, name: str, value: str) -> Filter:
        """The filter with a value of a field added or, if it is there, taken away."""
        now: tuple[str, ...] = getattr(self, name)
        return self.with_(**{name: tuple(v for v in now if v != value) if value in now else (*now, value)})

    @property
    def chosen(self) -> list[tuple[str, str, Filter]]:
        """Each condition as (field, value, the filter without it)."""
        found: list[tuple[str, str, Filter]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                found += [(field.name, item, self.toggled(field.name, item)) for item in value]
            elif field.name not in ("order", "show") and value not in (None, ""):
                empty: Any = "" if field.name == "text" else None
                found.append((field.name, f"{value:g}" if isinstance(value, float) else str(value),
                              replace(self, **{field.name: empty})))  # fmt: skip
        return found


def parse(given: Iterable[tuple[str, str]]) -> Filter:
    """The filter of an address; keys of other things and empty values are passed over.

    Raises:
        UsageError: a number that is none, an order that is none.
    """
    values: dict[str, list[str]] = {}
    for key, value in given:
        if value.strip() and "\0" not in value:
            values.setdefault(key, []).append(value.strip())
    found: dict[str, Any] = {}
    for field in fields(Filter):
        if field.name not in values:
            continue
        if field.name in (*OF_IMAGE, *OF_REGION, "flag"):
            found[field.name] = tuple(dict.fromkeys(values[field.name]))
        elif field.name in ("text", "order", "show"):
            found[field.name] = values[field.name][-1]
        else:
            found[field.name] = _number(field.name, values[field.name][-1])
    for name, words in (("order", ORDERS), ("show", SHOWS)):
        if found.get(name, words[0]) not in words:
            raise UsageError(f"{name}={found[name]}: it is one of {', '.join(words)}")
    return Filter(**found)


def _number(name: str, text: str) -> float | int:
    kind = float if name.startswith("area") else int
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"{name}={text}: give a number") from None
    if not 0 <= value < 2**31:
        raise UsageError(f"{name}={text}: give a number from 0")
    return value


def condition(f: Filter, known: Mapping[str, frozenset[str]]) -> tuple[str, list[Any]]:
    """(SQL, its parameters): which rows of `images` are meant. `known` are the values of each enumerated column."""
    parts: list[str] = []
    values: list[Any] = []
    for name in OF_IMAGE:
        wanted = [v for v in getattr(f, name) if v in known[name]]
        if getattr(f, name):
            parts.append(f"{name} IN ({', '.join('?' * len(wanted))})" if wanted else "false")
            values += wanted
    for flag in f.flag:
        parts.append("list_contains(flags, ?)")
        values.append(flag)
    for sign, number in ((">=", f.regions_from), ("<=", f.regions_to)):
        if number is not None:
            parts.append(f"regions {sign} ?")
            values.append(number)
    inner, more = of_region(f)
    if inner:
        parts.append(f"image_id IN (SELECT image_id FROM regions WHERE {inner})")
        values += more
    for word in f.text.lower().split()[:MOST_WORDS]:
        sql, more = _word(word)
        parts.append(sql)
        values += more
    return " AND ".join(parts) or "true", values


def of_region(f: Filter) -> tuple[str, list[Any]]:
    """(SQL, its parameters): which rows of `regions` are meant; empty where all are."""
    parts: list[str] = []
    values: list[Any] = []
    names = [name for name in OF_REGION if getattr(f, name)]
    if names:
        inner = " AND ".join(f"{name} IN ({', '.join('?' * len(getattr(f, name)))})" for name in names)
        parts.append(f"name_id IN (SELECT name_id FROM names WHERE {inner})")
        values += [value for name in names for value in getattr(f, name)]
    for sign, percent in ((">=", f.area_from), ("<=", f.area_to)):
        if percent is not None:
            parts.append(f"area_fraction {sign} ?::FLOAT")
            values.append(percent / 100)
    return " AND ".join(parts), values


def _word(word: str) -> tuple[str, list[Any]]:
    """A word is in the case (source, name, subject, facts) or in the names of a region; or it is an image's key."""
    sql = ("(case_id IN (SELECT case_id FROM cases WHERE contains(words, ?)) OR image_id IN (SELECT image_id FROM "
           "regions WHERE name_id IN (SELECT name_id FROM names WHERE contains(words, ?)))")  # fmt: skip
    values: list[Any] = [word, word]
    parts = word.rsplit("/", 2)
    if len(parts) == 3 and parts[2].isdecimal() and len(parts[2]) < 10:
        sql += (" OR (slice_index = ? AND axis::VARCHAR = ? AND case_id IN (SELECT case_id FROM cases WHERE "
                "lower(source || '/' || \"case\") = ?))")  # fmt: skip
        values += [int(parts[2]), parts[1], parts[0]]
    return f"{sql})", values
