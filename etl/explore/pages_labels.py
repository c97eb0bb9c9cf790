"""Labels, the review desk, Quarantine."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.compute as pc
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from etl.errors import UsageError
from etl.explore import security
from etl.explore.pages import place
from etl.explore.review import ACTIONS, Decision, Entry
from etl.explore.site import Missing, Site, address, page, picture, site
from etl.quality import report

EXAMPLES = 3
NONE = (b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 60" width="240" height="60"><text x="120" y="35" '
        b'fill="#888" font-family="sans-serif" font-size="15" text-anchor="middle">no picture at hand</text></svg>'
)  # fmt: skip
ROWS = 100  # of the quarantine on a page


def labels(request: Request) -> Response:
    """The tree of body regions, categories and labels, with counts and examples of this dataset."""
    here = site(request)
    counts, shown = here.index.tree(), here.index.every_example(EXAMPLES)
    tree: dict[str, dict[str, list[Any]]] = {name: {} for name in here.ontology.body_regions}
    for category in here.ontology.categories.values():
        tree[category.body_region][category.name] = []
    for label in here.ontology.labels.values():
        tree[here.ontology.categories[label.category].body_region][label.category].append(label)
    totals = {name: sum(counts.get(label.name, 0) for label in members)
              for categories in tree.values() for name, members in categories.items()}  # fmt: skip
    bodies = {body: sum(totals[name] for name in categories) for body, categories in tree.items()}
    return page(request, "labels.html", tree=tree, counts=counts, totals=totals, bodies=bodies, shown=shown,
                waiting=waiting(here))  # fmt: skip


def waiting(here: Site) -> list[tuple[str, int, int]]:
    """(source, entries that a person has yet to decide, all entries), those with most first."""
    found = [(source, sum(e.open for e in entries), len(entries))
             for source in here.desk.sources() if (entries := here.desk.entries(source))]  # fmt: skip
    return sorted(found, key=lambda row: (-row[1], row[0]))


def desk(request: Request) -> Response:
    """The entries of a source: what is to decide, or with `all=1` everything."""
    here, source = site(request), request.path_params["source"]
    every = request.query_params.get("all") == "1"
    entries = [entry for entry in here.desk.entries(source) if every or entry.open]
    reasons = refused_regions(here, source)
    return page(request, "review.html", source=source, entries=entries, every=every, reasons=reasons, error=None,
                count=len(here.desk.entries(source)))  # fmt: skip


def refused_regions(here: Site, source: str) -> Counter[str]:
    """Regions of a source by raw label that are in quarantine for want of an approved label."""
    table = here.data.table(f"quarantine/{source}.parquet", ["stage", "raw_label"])
    if table is None:
        return Counter()
    names = table.filter(pc.equal(table["stage"], "harmonize"))["raw_label"]
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(names).to_pylist()})


def example(request: Request) -> Response:
    """Examples of a raw label of a source, side by side; where there are none, a picture that says so."""
    here, given = site(request), request.query_params
    entry = here.desk.entry(request.path_params["source"], given.get("raw", ""))
    found = here.desk.crops(entry.source, entry.raw)
    return picture(found) if found else picture(NONE, "image/svg+xml")


async def decide(request: Request) -> Response:
    """A decision on one entry. The button pressed says `action:raw label`; fields of an entry end on its number."""
    here, source = site(request), request.path_params["source"]
    form = await request.form()
    if not security.carries(form, here.token):
        return PlainTextResponse("this form is not from this explorer's pages; open the page again", 403)
    if not here.desk.write:
        return PlainTextResponse("this explorer only reads; start it with --review to decide", 403)
    action, _, number = str(form.get("decision", "")).partition(":")
    fields = {name: str(form.get(f"{name}-{number}", "")) for name in ("raw", "seen", "label", "comment")}
    if action not in ACTIONS:
        raise UsageError(f"'{action}' is no decision; it is one of {', '.join(ACTIONS)}")
    said = Decision(action, str(form.get("by", "")), fields["label"], fields["comment"])
    entry = await run_in_threadpool(here.desk.entry, source, fields["raw"])
    if entry.seen != fields["seen"]:
        raise UsageError(f"'{entry.raw}' has changed in the file since you saw it; load the page again")
    now = await run_in_threadpool(here.desk.decide, entry, said)
    if security.wants_part(request):
        return await run_in_threadpool(_card, request, now, number)
    every = "1" if form.get("all") == "1" else None
    return RedirectResponse(address(f"/review/{source}", all=every) + f"#entry-{number}", 303)


def _card(request: Request, entry: Entry, number: str) -> Response:
    reasons = refused_regions(site(request), entry.source)
    return page(request, "_entry.html", entry=entry, n=number, source=entry.source, reasons=reasons)


def quarantine(request: Request) -> Response:
    """What was not used: counts by source, stage and reason, the rows of a choice, pictures, the books."""
    here, given = site(request), request.query_params
    choice = {name: given.get(name, "") for name in ("source", "stage", "reason")}
    start = place(given)
    counts, rows, total = quarantined(here, choice, start)
    refused = here.data.table("stages/export/refused.parquet", ["reason", "key", "detail"])
    pictures = [(n, row) for n, row in enumerate(refused.to_pylist() if refused is not None else [])
                if (not choice["reason"] or row["reason"] == choice["reason"])
                and (not choice["source"] or row["key"].startswith(f"{choice['source']}/"))]  # fmt: skip
    return page(request, "quarantine.html", choice=choice, counts=counts, rows=rows, total=total, pictures=pictures,
                following=start + ROWS if start + ROWS < total else None, books=report.books(here.numbers),
                ledger=report.sizes(here.numbers) if here.numbers.get("ledger") else "")  # fmt: skip


def quarantined(here: Site, choice: dict[str, str], start: int) -> tuple[list[Any], list[dict[str, Any]], int]:
    """(counts by source, stage and reason; rows of a choice from a place on; how many the choice has)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    rows: list[dict[str, Any]] = []
    chosen, seen = {name: value for name, value in choice.items() if value}, 0
    for name in here.data.listed("quarantine/*.parquet"):
        found = dict(here.quarantine_counts(name))
        counts.update(found)
        mine = sum(n for key, n in found.items()
                   if all(c in ("", k) for c, k in zip(choice.values(), key, strict=True)))  # fmt: skip
        if seen + mine > start and len(rows) < ROWS:
            rows += here.data.some(name, chosen, max(0, start - seen), ROWS - len(rows))
        seen += mine
    return sorted((*key, n) for key, n in counts.items()), rows, seen


def refused(request: Request) -> Response:
    """The n-th picture of what is in quarantine."""
    table = site(request).data.table("stages/export/refused.parquet", ["png"])
    n = request.path_params["n"]
    if table is None or n >= len(table):
        raise Missing(f"no picture {n}")
    return picture(table["png"][n].as_py(), "image/png")
