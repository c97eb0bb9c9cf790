"""`report/index.html`: one page, without network, that shows what is in a dataset and what is not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from etl import store
from etl.errors import Failure
from etl.quality import charts, samples
from etl.quality.charts import bars, number, table
from etl.quality.page import PAGE
from etl.quality.samples import Samples, Shown, samples_in
from etl.release.records import Refused

MANY = 40  # bars of a chart; the others are in a table that opens
SMALL = 24  # labels shown as small charts
PAPER: tuple[tuple[str, str], ...] = (
    ("images", "2 720 979"), ("regions", "5.3 million (11 million elsewhere in the paper)"),
    ("regions per image", "4.13 (5.3 / 2.72 is 1.95)"), ("share of CT images", "61.84 % (78 % elsewhere)"),
    ("labels", "198"), ("categories", "38"), ("body regions", "6"), ("sources", "129"),
)  # fmt: skip


def page(stats: dict[str, Any], chosen: Samples, refused: list[Refused]) -> str:
    """The whole page, the same text for the same dataset."""
    parts = [
        ("Overview", overview(stats)), ("The paper's numbers", paper(stats)), ("What is in it", contents(stats)),
        ("Hierarchy", hierarchy(stats)), ("Sizes", sizes(stats)), ("Where boxes are", places(stats)),
        ("Samples by source", by_source(chosen)), ("Samples by label", by_label(chosen)), ("Checks", flags(stats)),
        ("Copies", copies(stats)), ("Quarantine", quarantine(stats, refused)), ("Books", books(stats)),
        ("Sources", sources(stats)),
    ]  # fmt: skip
    body = [f'<section id="s{n}"><h2>{escape(name)}</h2>{text}</section>' for n, (name, text) in enumerate(parts)]
    links = "".join(f'<a href="#s{n}">{escape(name)}</a>' for n, (name, _) in enumerate(parts))
    return PAGE.replace("{links}", links).replace("{body}", "\n".join(body))


def tile(value: object, name: str) -> str:
    """A number with its name."""
    return f"<div class=tile><b>{escape(str(value))}</b><span>{escape(name)}</span></div>"


def overview(stats: dict[str, Any]) -> str:
    """The main numbers, and images by split."""
    by, per = stats["by"], stats["regions"] / max(1, stats["images"])
    found = sum(row["found"] for row in stats.get("ledger", ()))
    tiles = [
        tile(number(stats["images"]), "images"), tile(number(stats["regions"]), "regions"),
        tile(f"{per:.2f}", "regions per image"), tile(len(by["label"]), "labels"),
        tile(len(by["category"]), "categories"),
        tile(len(by["source"]), "sources"), tile(number(stats["cases"]), "cases"),
        tile(number(sum(stats["subjects"].values())), "subjects"),
    ]  # fmt: skip
    if found:
        tiles.append(tile(f"{stats['regions'] / found:.0%}", "of the annotated regions are used"))
    rows = [(s, n["images"], n["regions"], stats["subjects"][s]) for s, n in by["split"].items()]
    text = "<div class=tiles>" + "".join(tiles) + "</div>" + table(("split", "images", "regions", "subjects"), rows)
    spread = list(stats.get("regions_per_image", {}).items())
    if spread:
        text += "<h3>Regions on an image</h3>" + charts.columns(tail(spread), "regions on an image; bar: images")
    return text


def tail(spread: list[tuple[str, int]], most: int = 30) -> list[tuple[str, int]]:
    """Counts by a growing number, those beyond the 30th together."""
    rows = sorted(((int(n), images) for n, images in spread))
    shown = [(str(n), images) for n, images in rows[:most]]
    rest = sum(images for _, images in rows[most:])
    return [*shown, (f"≥{rows[most][0]}", rest)] if rest else shown


def paper(stats: dict[str, Any]) -> str:
    """This build beside what the paper says of its own dataset."""
    by = stats["by"]
    ct = by["modality"].get("ct", {}).get("images", 0) / max(1, stats["images"])
    ours = (number(stats["images"]), number(stats["regions"]), f"{stats['regions'] / max(1, stats['images']):.2f}",
            f"{ct:.2%}", str(len(by["label"])), str(len(by["category"])), str(len(by["body_region"])),
            str(len(by["source"])))  # fmt: skip
    rows = [(name, own, theirs) for (name, theirs), own in zip(PAPER, ours, strict=True)]
    note = (
        "<p>The paper's figures disagree with each other; here an image is one row of the dataset, a region one "
        "labelled area on it, and labels, categories and sources are those with at least one region.</p>"
    )
    return note + table(("", "this build", "paper"), rows)


def contents(stats: dict[str, Any]) -> str:
    """Bars by modality, body region, axis, category, label and source."""
    names = {"modality": "Modalities", "body_region": "Body regions", "axis": "Axes", "category": "Categories",
             "label": "Labels", "source": "Sources"}  # fmt: skip
    blocks = []
    for key, title in names.items():
        unit = "regions" if key in ("category", "label", "body_region") else "images"
        rows = sorted(((name, n[unit]) for name, n in stats["by"][key].items()), key=lambda r: (-r[1], r[0]))
        text = bars(rows[:MANY], unit)
        if len(rows) > MANY:
            text += f"<details><summary>{len(rows) - MANY} more</summary>{bars(rows[MANY:], unit)}</details>"
        blocks.append(f"<div class=block><h3>{title} <small>{unit}</small></h3>{text}</div>")
    return "<div class=grid2>" + "".join(blocks) + "</div>"


def hierarchy(stats: dict[str, Any]) -> str:
    """Body region → category → label, each with its regions."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    for row in stats.get("hierarchy", ()):
        tree.setdefault(row["body_region"], {}).setdefault(row["category"], {})[row["label"]] = row["regions"]
    parts = []
    for region, categories in sorted(tree.items()):
        inner = "".join(
            f"<details><summary>{escape(category)} <small>{number(sum(labels.values()))}</small></summary>"
            + bars(sorted(labels.items(), key=lambda r: (-r[1], r[0])), "regions") + "</details>"
            for category, labels in sorted(categories.items(), key=lambda c: (-sum(c[1].values()), c[0]))
        )  # fmt: skip
        total = sum(sum(labels.values()) for labels in categories.values())
        parts.append(
            f"<div class=block><h3>{escape(region)} <small>{number(total)} regions</small></h3>{inner}</div>"
        )
    return "<div class=grid2>" + "".join(parts) + "</div>"


def sizes(stats: dict[str, Any]) -> str:
    """The distribution of areas with the threshold, and what it cost each label, source and axis."""
    if not stats.get("ledger"):
        return "<p>No ledger.</p>"
    edges, labels, mark = stats["areas"]["edges"], stats["areas"]["labels"], stats["min_area"]
    total = [sum(column) for column in zip(*labels.values(), strict=True)]
    lost, found = sum(r["too_small"] for r in stats["ledger"]), sum(r["found"] for r in stats["ledger"])
    text = (f"<p>{number(found)} regions were annotated; {number(lost)} ({lost / max(1, found):.1%}) are under "
            f"{mark * 100:g} % of their image and left out. <span class=key-cut>left out</span> "
            "<span class=key-kept>kept</span></p>")  # fmt: skip
    text += charts.areas(edges, total, mark, "areas of all annotated regions")
    largest = sorted(labels, key=lambda name: (-sum(labels[name]), name))[:SMALL]
    text += "<h3>By label</h3><div class=many>" + "".join(
        f"<figure>{charts.areas(edges, labels[n], mark, n, small=True)}<figcaption>{escape(n)}</figcaption></figure>"
        for n in largest
    ) + "</div>"  # fmt: skip
    for key in ("label", "source", "axis"):
        text += f"<h3>Found and kept by {key}</h3>" + _ledger(stats["ledger"], key)
    return text


def _ledger(rows: list[dict[str, Any]], key: str) -> str:
    sums: dict[str, Counter[str]] = {}
    for row in rows:
        kinds = ("found", "too_small", "not_named", "left_out", "kept")
        sums.setdefault(row[key], Counter()).update({k: row[k] for k in kinds})
    ordered = sorted(sums.items(), key=lambda item: (-item[1]["found"], item[0]))
    shown = bars([(n, c["found"]) for n, c in ordered[:MANY]], "regions kept of those found",
                 [c["kept"] for _, c in ordered[:MANY]])  # fmt: skip
    full = [(n, c["found"], c["too_small"], c["not_named"], c["left_out"], c["kept"],
             f"{c['kept'] / max(1, c['found']):.1%}") for n, c in ordered]  # fmt: skip
    head = (key, "found", "too small", "no approved label", "image left out", "kept", "share kept")
    return shown + f"<details><summary>All numbers</summary>{table(head, full)}</details>"


def places(stats: dict[str, Any]) -> str:
    """Where the centres of boxes are, by label."""
    found = stats.get("places", {})
    largest = sorted(found, key=lambda name: (-sum(found[name]), name))
    side = round(len(next(iter(found.values()), [0])) ** 0.5)
    cells = [f"<figure>{charts.heat(found[n], side, n)}<figcaption>{escape(n)} <small>{number(sum(found[n]))}</small>"
             "</figcaption></figure>" for n in largest]  # fmt: skip
    text = "<p>Centres of the boxes of a label, all its images laid over each other; stronger is more.</p>"
    text += f"<div class='many heat'>{''.join(cells[:SMALL])}</div>"
    if len(cells) > SMALL:
        more = f"<div class='many heat'>{''.join(cells[SMALL:])}</div>"
        text += f"<details><summary>{len(cells) - SMALL} more labels</summary>{more}</details>"
    return text


def figure(why: str, record: Shown, label: str | None = None) -> str:
    """One sample with its legend."""
    shown = [r for r in record.regions if label is None or r["label"] == label]
    places = samples.colors(r["label_id"] for r in record.regions)
    names = {r["label"]: samples.COLORS[places[r["label_id"]]] for r in shown}
    legend = ", ".join(f'<span style="border-bottom:3px solid {c}">{escape(n)}</span>' for n, c in names.items())
    image = f'<img loading=lazy alt="{escape(record.key)}" src="{samples.drawn(record, label)}">'
    return (f"<figure>{image}<figcaption><em>{escape(why)}</em> {legend}<br><code>{escape(record.key)}</code>"
            "</figcaption></figure>")  # fmt: skip


def by_source(chosen: Samples) -> str:
    """Random, largest, smallest and suspicious images of each source."""
    text = ""
    for name in sorted(chosen.sources)[: samples.SOURCES]:
        pictures = "".join(figure(why, record) for why, record in chosen.sources[name].pictures())
        text += f"<details open><summary>{escape(name)}</summary><div class=sheet>{pictures}</div></details>"
    return text


def by_label(chosen: Samples) -> str:
    """The same of each label, without the other labels."""
    text = ""
    for name in sorted(chosen.labels)[: samples.LABELS]:
        pictures = "".join(figure(why, record, name) for why, record in chosen.labels[name].pictures())
        text += f"<details><summary>{escape(name)}</summary><div class=sheet>{pictures}</div></details>"
    return text


def flags(stats: dict[str, Any]) -> str:
    """How many images each check flagged, and its evidence."""
    found = stats.get("flags", {})
    ordered = sorted(
        found.items(), key=lambda i: (i[1]["level"] != "warning", -sum(i[1]["images"].values()), i[1]["tier"])
    )
    rows = [(name, f["tier"], f["level"], sum(f["images"].values()),
             f"{sum(f['images'].values()) / max(1, stats['images']):.2%}") for name, f in ordered]  # fmt: skip
    text = "<p>A flag removes nothing: a warning asks for a look, a note is often so by nature.</p>"
    text += table(("check", "tier", "level", "images", "share"), rows)
    for name, f in ordered:
        if f["examples"]:
            told = table(("where", "evidence"), [(e["where"], e["evidence"]) for e in f["examples"]])
            text += f"<details><summary>{escape(name)}: evidence</summary>{told}</details>"
    return text


def copies(stats: dict[str, Any]) -> str:
    """Images left out because another source or case has them."""
    rows = [(slug, how, n) for slug, kinds in stats.get("duplicates", {}).items() for how, n in sorted(kinds.items())]
    return table(("source", "what they are", "images"), rows) if rows else "<p>No copies were found.</p>"


def quarantine(stats: dict[str, Any], refused: list[Refused]) -> str:
    """What was not used, by reason, with pictures."""
    reasons: Counter[str] = Counter()
    for kinds in stats.get("quarantine", {}).values():
        reasons.update(kinds)
    text = bars(reasons.most_common(), "rows") if reasons else "<p>Nothing.</p>"
    rows = [(slug, reason, n) for slug, kinds in stats.get("quarantine", {}).items() for reason, n in kinds.items()]
    text += f"<details><summary>By source</summary>{table(('source', 'reason', 'rows'), rows)}</details>"
    pictures = "".join(
        f'<figure><img loading=lazy alt="{escape(r.key)}" src="{samples.plain(r.png)}"><figcaption>'
        f"<em>{escape(r.reason)}</em> {escape(r.detail)}<br><code>{escape(r.key)}</code></figcaption></figure>"
        for r in refused
    )
    return text + f"<div class=sheet>{pictures}</div>"


def books(stats: dict[str, Any]) -> str:
    """In = out + quarantined (+ background), at each stage."""
    rows = [(level, stage, b["in"], b["out"], b["quarantined"], b.get("background", 0),
             "balances" if b["in"] == b["out"] + b["quarantined"] + b.get("background", 0) else "DOES NOT BALANCE")
            for level, stages in stats["books"].items() for stage, b in stages.items()]  # fmt: skip
    return table(("level", "stage", "in", "out", "quarantined", "background", ""), rows)


def sources(stats: dict[str, Any]) -> str:
    """Each source with its terms and how completely its images and masks pair up."""
    head = ("source", "title", "modality", "license", "redistribution", "status", "pairs", "images without mask",
            "masks without image", "images")  # fmt: skip
    rows = [
        (slug, s["title"], s["modality"], s["license"], s["redistribution"], s["status"], s["pairs"],
         s["images_without_mask"], s["masks_without_image"],
         stats["by"]["source"].get(slug, {}).get("images", 0))
        for slug, s in stats.get("sources", {}).items()
    ]  # fmt: skip
    return table(head, rows)


def rewrite(out: Path) -> Path:
    """The page of a built dataset, written again from its files; returns where it is.

    Raises:
        Failure: there is no dataset.
    """
    path = out / "dataset" / "stats.json"
    numbers = store.read_json(path)
    if numbers is None:
        raise Failure(f"{path} is not there; run `medglip-etl build` first")
    chosen = Samples()
    for rows in _rows(out / "dataset" / "shards"):
        chosen.add(samples_in(rows))
    kept = out / "stages" / "export" / "refused.parquet"
    refused = Refused.read(kept) if kept.exists() else []
    target = out / "dataset" / "report" / "index.html"
    store.write_bytes(target, page(numbers, chosen, refused).encode())
    return target


def _rows(shards: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a dataset, neighbours of one source together."""
    for file in sorted(shards.rglob("*.parquet")):
        shard = pq.ParquetFile(file)
        for group in range(shard.num_row_groups):
            rows = shard.read_row_group(group).to_pylist()
            for _, members in groupby(rows, key=lambda row: row["source"]):
                yield list(members)
