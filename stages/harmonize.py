"""harmonize: raw label -> label, from reviewed label maps only."""

from collections.abc import Mapping as Map

import pyarrow as pa

from etl.frames import NAME, by_name, reject
from etl.labelmap import Mapping


def verdict(raw: str, mapping: Map[str, Mapping], accept_proposed: bool) -> tuple[str | None, str | None, str]:
    """(label, reason, detail) of a raw label: a label, or the reason why it has none."""
    entry = mapping.get(raw)
    if entry is None:
        return None, "unapproved_label", f"'{raw}' has no entry in the label map"
    if entry.status == "rejected" or (entry.status == "approved" and entry.label is None):
        return None, "rejected_label", entry.why or "rejected in the label map"
    if entry.status == "approved" or (accept_proposed and entry.label is not None):
        return entry.label, None, ""
    return None, "unapproved_label", f"'{raw}' -> '{entry.label}' is only proposed"


def process(regions: pa.Table, mapping: Map[str, Mapping], accept_proposed: bool) -> tuple[pa.Table, pa.Table]:
    """(regions with a `label` column, quarantine rows of those without an approved label)."""
    raw = regions["raw_label"].combine_chunks()
    verdicts = {name: verdict(name, mapping, accept_proposed) for name in raw.dictionary.to_pylist()}
    labels = by_name(regions["raw_label"], {name: v[0] for name, v in verdicts.items()})
    out = regions.filter(labels.is_null())
    reason, detail = (by_name(out["raw_label"], {name: v[n] for name, v in verdicts.items()}) for n in (1, 2))
    kept = regions.append_column("label", labels.cast(NAME)).filter(labels.is_valid())
    return kept, reject(out, "harmonize", reason, detail)
