"""What pages ask of the index. A dataset does not change, so answers are kept: a filter is worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from etl.explore.filters import OF_IMAGE, Filter, condition, of_region

PAGE = 48
FILTERS = 6  # whose images are remembered, 4 bytes each
BINS = 8  # of an area histogram for each power of ten
CARD = ("image_id, cases.source, modality::VARCHAR AS modality, split::VARCHAR AS split, axis::VARCHAR AS axis, "
        '"case", slice_index, width, height, regions')  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of the images of a filter; regions are those that its conditions on regions name."""

    images: int
    regions: int
    cases: int
    by: dict[str, list[tuple[str, int]]]  # images by modality, source, axis, split, flag; regions by label …
    spread: list[tuple[int, int]]  # (regions on an image, images)
    areas: list[tuple[int, int]]  # (bin: BINS * log10 of the share of the image, regions)


class Index:
    """The index of a dataset, asked by several threads."""

    def __init__(self, base: duckdb.DuckDBPyConnection) -> None:
        self._base = base
        self.known = {name: frozenset(v for v, in self._rows(f"SELECT DISTINCT {name}::VARCHAR FROM images"))
                      for name in OF_IMAGE}  # fmt: skip
        self.figures = lru_cache(64)(self._figures)
        self.ids = lru_cache(FILTERS)(self._ids)
        self.values = lru_cache(16)(self._values)
        self.tree = lru_cache(1)(self._tree)
        self.every_example = lru_cache(2)(self._every_example)

    def _rows(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self._base.cursor().execute(sql, values or []).fetchall()

    def _dicts(self, sql: str, values: list[Any]) -> list[dict[str, Any]]:
        cursor = self._base.cursor().execute(sql, values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _ids(self, f: Filter) -> npt.NDArray[np.int32]:
        """The images of a filter, in its order."""
        sql, values = condition(f, self.known)
        by = "mixed" if f.order == "mixed" else "image_id"
        cursor = self._base.cursor().execute(f"SELECT image_id FROM images WHERE {sql} ORDER BY {by}", values)
        found: npt.NDArray[np.int32] = np.asarray(cursor.fetchnumpy()["image_id"], np.int32)
        return found

    def count(self, f: Filter) -> int:
        """How many images there are."""
        return len(self.ids(_plain(f)))

    def page(self, f: Filter, start: int = 0, size: int = PAGE) -> tuple[list[dict[str, Any]], int | None]:
        """(images of a filter from a place on, the place to go on from, or None)."""
        ids = self.ids(_plain(f))
        chosen = ids[start : start + size].tolist()
        if not chosen:
            return [], None
        marks = ", ".join("?" * len(chosen))
        rows = self._dicts(f"SELECT {CARD} FROM images JOIN cases USING (case_id) WHERE image_id IN ({marks})", chosen)
        names, at = self._labels(chosen), {row["image_id"]: row for row in rows}
        for row in rows:
            row["labels"] = names.get(row["image_id"], [])
        return [at[n] for n in chosen], start + size if start + size < len(ids) else None

    def _labels(self, image_ids: list[int]) -> dict[int, list[str]]:
        """The labels on each of some images."""
        marks = ", ".join("?" * len(image_ids))
        return dict(self._rows(f"SELECT image_id, list_sort(list(DISTINCT label)) FROM regions JOIN names USING "
                               f"(name_id) WHERE image_id IN ({marks}) GROUP BY image_id", image_ids))

    def _figures(self, f: Filter) -> Figures:
        sql, values = condition(f, self.known)
        inner, more = of_region(f)
        chosen = "true" if sql == "true" else f"image_id IN (SELECT image_id FROM images WHERE {sql})"
        by: dict[str, list[tuple[str, int]]] = {}
        sets = ", ".join(f"({name})" for name in (*OF_IMAGE, "regions"))
        spread = []
        for *keys, kind, images in self._rows(
            f"SELECT {', '.join(f'{n}::VARCHAR' for n in OF_IMAGE)}, regions, grouping_id({', '.join(OF_IMAGE)}, "
            f"regions), count(*) FROM images WHERE {sql} GROUP BY GROUPING SETS ({sets})", values):  # fmt: skip
            place = 4 - (31 - kind).bit_length() + 1
            if place == 4:
                spread.append((keys[4], images))
            else:
                by.setdefault(OF_IMAGE[place], []).append((keys[place], images))
        cases = self._rows(f"SELECT count(DISTINCT case_id) FROM images WHERE {sql}", values)[0][0]
        by["flag"] = self._rows(f"SELECT flag, count(*) FROM (SELECT unnest(flags) AS flag FROM images WHERE {sql}) "
                                "GROUP BY flag", values)  # fmt: skip
        totals: dict[str, dict[str, int]] = {"label": {}, "category": {}, "body_region": {}}
        bins: dict[int, int] = {}
        for label, category, body, area, regions in self._rows(
            f"SELECT label, category, body_region, area, sum(n) FROM (SELECT name_id, "
            f"floor(log10(area_fraction) * {BINS})::INTEGER AS area, count(*) AS n FROM regions WHERE {chosen} "
            f"{'AND ' + inner if inner else ''} GROUP BY ALL) JOIN names USING (name_id) GROUP BY ALL",
            [*(values if chosen != "true" else []), *more]):  # fmt: skip
            for name, value in zip(totals, (label, category, body), strict=True):
                totals[name][value] = totals[name].get(value, 0) + int(regions)
            bins[min(area, -1)] = bins.get(min(area, -1), 0) + int(regions)
        by |= {name: list(found.items()) for name, found in totals.items()}
        ordered = {name: sorted(rows, key=lambda row: (-row[1], row[0])) for name, rows in by.items()}
        return Figures(sum(n for _, n in spread), sum(bins.values()), int(cases), ordered, sorted(spread),
                       sorted(bins.items()))  # fmt: skip

    def image(self, image_id: int) -> dict[str, Any] | None:
        """One image, None if there is none of this id."""
        rows = self._dicts(
            f'SELECT {CARD}, case_id, shard, "row", flags FROM images JOIN cases USING (case_id) WHERE image_id = ?',
            [image_id])  # fmt: skip
        return rows[0] if rows else None

    def slices(self, case_id: int) -> dict[str, list[tuple[int, int]]]:
        """The images of a case by axis as (slice index, image id), in order of the slices."""
        found: dict[str, list[tuple[int, int]]] = {}
        for axis, index, image_id in self._rows(
            "SELECT axis::VARCHAR, slice_index, image_id FROM images WHERE case_id = ? ORDER BY ALL", [case_id]
        ):
            found.setdefault(axis, []).append((index, image_id))
        return found

    def sizes(self, case_id: int) -> dict[str, tuple[int, int]]:
        """(width, height) of the images of a case by axis."""
        rows = self._rows("SELECT axis::VARCHAR, any_value(width), any_value(height) FROM images WHERE case_id = ? "
                          "GROUP BY axis", [case_id])  # fmt: skip
        return {axis: (width, height) for axis, width, height in rows}

    def beside(self, f: Filter, image_id: int) -> tuple[int | None, int | None]:
        """The images before and after one in a filter; (None, None) for one that does not fit it."""
        ids = self.ids(_plain(f))
        if f.order == "mixed":
            places = np.flatnonzero(ids == image_id)
            place = int(places[0]) if len(places) else len(ids)
        else:
            place = int(np.searchsorted(ids, image_id))
        if place >= len(ids) or ids[place] != image_id:
            return None, None
        return (int(ids[place - 1]) if place else None), (int(ids[place + 1]) if place + 1 < len(ids) else None)

    def _tree(self) -> dict[str, int]:
        """Regions of each label in the whole dataset."""
        return dict(self._rows("SELECT label, count(*) FROM regions JOIN names USING (name_id) GROUP BY label"))

    def _every_example(self, most: int) -> dict[str, list[int]]:
        """A few images that show each label."""
        found: dict[str, list[int]] = {}
        for label, image_id in self._rows("SELECT label, image_id FROM examples JOIN names USING (name_id) "
                                          "ORDER BY label, place, name_id"):  # fmt: skip
            mine = found.setdefault(label, [])
            if len(mine) < most and image_id not in mine:
                mine.append(image_id)
        return found

    def _values(self, name: str) -> list[str]:
        """All values of a column of names, or all flags, in order."""
        if name == "flag":
            return [flag for flag, in self._rows("SELECT flag FROM flag_names ORDER BY flag")]
        if name in OF_IMAGE:
            return sorted(self.known[name])
        assert name in ("label", "category", "body_region")
        return [value for value, in self._rows(f"SELECT DISTINCT {name} FROM names ORDER BY 1")]


def _plain(f: Filter) -> Filter:
    """The filter without what it draws, which chooses nothing."""
    return f.with_(show="both")
