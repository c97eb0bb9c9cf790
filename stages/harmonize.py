"""harmonize: raw label -> label, from reviewed label maps only."""

from collections.abc import Mapping as Map

import pyarrow as pa

from etl.frames import by_name, reject
from etl.labels.maps import Mapping
from etl.release.records import NAME


def verdict(raw: str, mapping: Map[str, Mapping], accept_proposed: bool) -> tuple[str | None, str | None, str]:
    """(label, reason, detail) of a raw label: a label, or the reason why it has none."""
    entry = mapping.get(raw)
    if entry is None:
        return None, "unapproved_label", f"'{raw}' has no entry in the label map"
    label = entry.used(accept_proposed=accept_proposed)
    if label is not None:
        return label, None, ""
    if entry.status == "proposed":
        return None, "unapproved_label", f"'{raw}' -> '{entry.label}' is only proposed"
    return None, "rejected_label", entry.why or "rejected in the label map"


def process(regions: pa.Table, mapping: Map[str, Mapping], accept_proposed: bool) -> tuple[pa.Table, pa.Table]:
    """(regions with a `label` column, quarantine rows of those without an approved label)."""
    names = regions["raw_label"].combine_chunks().dictionary.to_pylist()
    verdicts = {raw: verdict(raw, mapping, accept_proposed) for raw in names}
    label, reason, detail = (
        by_name(regions["raw_label"], {raw: found[part] for raw, found in verdicts.items()}.__getitem__)
        for part in range(3)
    )
    out = label.is_null()
    kept = regions.append_column("label", label.cast(NAME)).filter(label.is_valid())
    return kept, reject(regions.filter(out), "harmonize", reason.filter(out), detail.filter(out))
