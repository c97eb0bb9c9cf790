"""`medglip-etl sources`: the manifests, held against folders, and new ones proposed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.common import BUNDLED, AsJson, Manifests, RawFolder, manifests_of, named, told
from etl.errors import Failure, UsageError

SHOWN = 12

app = typer.Typer(no_args_is_help=True, help="The manifests: which public sources are known.")


@app.command("list")
@told
def list_sources(
    modality: Annotated[str | None, typer.Option(help="ct, mri, ultrasound, xray, …")] = None,
    body_region: Annotated[str | None, typer.Option(help="head and neck, chest, abdomen, …")] = None,
    access: Annotated[str | None, typer.Option(help="open, registration or request.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="A part of the license's name.")] = None,
    redistribution: Annotated[str | None, typer.Option(help="allowed, noncommercial, forbidden or unknown.")] = None,
    status: Annotated[str | None, typer.Option(help="verified, documented or unverified.")] = None,
    manifests: Manifests = None,
    as_json: AsJson = False,
) -> None:
    """All known sources, or those that fit.

    Example: medglip-etl sources list --modality ct --redistribution allowed --json
    """
    from etl.sources.catalogue import fitting, summary

    wanted = {"modality": modality, "body_region": body_region, "access": access, "license": license_,
              "redistribution": redistribution, "status": status}  # fmt: skip
    rows = [summary(m) for m in fitting(manifests_of(manifests).values(), wanted)]
    if as_json:
        print(json.dumps({"sources": rows}))
        return
    for row in rows:
        print(f"{row['slug']:28} {row['modality']:11} {row['status']:11} {row['license'][:24]:24} {row['title']}")
    print(f"{len(rows)} sources", file=sys.stderr)


@app.command("show")
@told
def show(source: str, manifests: Manifests = None, as_json: AsJson = False) -> None:
    """One source, or the sources of a group, in full.

    Example: medglip-etl sources show amos2022_ct
    """
    found = named(manifests_of(manifests), [source])
    if as_json:
        documents = [m.model_dump(mode="json", exclude={"path"}) for m in found]
        print(json.dumps(documents[0] if len(documents) == 1 else {"sources": documents}))
        return
    for m in found:
        print(m.path.read_text())


@app.command("check")
@told
def check(
    source: str,
    raw: RawFolder,
    manifests: Manifests = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Read the pixels of so many cases only [all].")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a PNG with the masks of some cases drawn in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a folder with its manifest: pairs, what has no partner, values without a name, sides.

    Says what to change in the manifest, with its line. Exit 1 when something does not fit.

    Example: medglip-etl sources check amos2022_ct --raw /data --sample 20 --sheet amos.png
    """
    from etl.sources.check import check as checked
    from etl.sources.check import spread
    from etl.sources.contactsheet import CASES, write_sheet
    from etl.sources.inventory import inventory

    if not raw.is_dir():
        raise UsageError(f"--raw {raw}: no such folder")
    reports = []
    found = named(manifests_of(manifests), [source])
    for m in found:
        reports.append(checked(m, raw, sample=sample))
        root = m.root(raw)
        if sheet is not None and root is not None:
            path = sheet if len(found) == 1 else sheet.with_stem(f"{sheet.stem}-{m.slug}")
            if write_sheet(m, root, spread(inventory(m, root).cases, CASES), path):
                print(f"masks drawn in {path}", file=sys.stderr)
    if as_json:
        several = {"sources": reports, "ok": all(r["ok"] for r in reports)}
        print(json.dumps(reports[0] if len(reports) == 1 else several))
    else:
        print("\n\n".join(_told(report) for report in reports))
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


def _told(report: dict[str, Any]) -> str:
    lines = [f"{report['slug']}: {'ok' if report['ok'] else 'NOT OK'}, {report['pairs']} pairs"]
    for key in ("images_without_mask", "masks_without_image", "undefined_values", "labels_not_seen"):
        if report[key]:
            more = f" … {len(report[key])} in all" if len(report[key]) > SHOWN else ""
            lines.append(f"  {key.replace('_', ' ')}: {', '.join(report[key][:SHOWN])}{more}")
    seen = [f"{name} ({n})" for name, n in report["labels_seen"].items()]
    lines.append(f"  labels seen in {report['cases_read']} cases read: {', '.join(seen) or 'none'}")
    return "\n".join([*lines, *(f"  {line}" for line in report["advice"])])


@app.command("add")
@told
def add(
    slug: str,
    raw: RawFolder,
    manifests: Annotated[Path, typer.Option(help="Where the manifest goes.")] = Path("manifests"),
    label_maps: Annotated[Path, typer.Option(help="Where the label map goes.")] = Path("label_maps"),
    folder: Annotated[str | None, typer.Option(help="The folder below --raw [the slug].")] = None,
    modality: Annotated[str | None, typer.Option(help="ct, mri, ultrasound, xray, … if you know it.")] = None,
) -> None:
    """Propose a manifest and a label map for a folder never seen: pairs by their names, label values, formats.

    A person completes both: what only a person can know is marked with a comment.

    Example: medglip-etl sources add my_source --raw /data
    """
    from etl.labels.maps import load_ontology
    from etl.manifests.load import load_manifest
    from etl.sources.proposal import propose

    root = raw / (folder or slug)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give its name below --raw as --folder")
    target, map_target = manifests / f"{slug}.yaml", label_maps / "sources" / f"{slug}.yaml"
    for path in (target, map_target):
        if path.exists():
            raise Failure(f"{path} is there already; remove it first, or choose another name")
    proposed = propose(slug, root, load_ontology(BUNDLED / "label_maps"), folder=folder, modality=modality)
    for path, text in ((target, proposed.manifest), (map_target, proposed.label_map)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    load_manifest(target)
    print(proposed.manifest)
    print(f"{proposed.pairs} pairs; written to {target} and {map_target}; complete the lines with a comment, then\n"
          f"  medglip-etl sources check {slug} --raw {raw} --manifests {manifests}", file=sys.stderr)


@app.command("miniature")
@told
def miniature(source: str, folder: Path, manifests: Manifests = None) -> None:
    """Draw a tiny raw folder of a source from its manifest alone: does the manifest work, without a download?

    FOLDER gets one folder per source and `expected.parquet`: every region that a build must find.

    Example: medglip-etl sources miniature my_source mini --manifests manifests
    """
    import pyarrow as pa

    from etl.demo.build import SCHEMA
    from etl.miniature.build import write_miniature
    from etl.store import write_table

    rows = []
    for m in named(manifests_of(manifests), [source]):
        rows += write_miniature(m, folder / (m.folder or m.slug)).regions
    schema = pa.schema([pa.field("raw_label", f.type) if f.name == "label" else f for f in SCHEMA])
    renamed = [{**{k: v for k, v in row.items() if k != "label"}, "raw_label": row["label"]} for row in rows]
    write_table(folder / "expected.parquet", pa.Table.from_pylist(renamed, schema=schema))
    print(f"{len(rows)} regions to find; `medglip-etl build --source {source} --raw {folder}` must find them all")
