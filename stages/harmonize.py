"""harmonize: raw label -> label, from reviewed label maps only."""

from collections.abc import Mapping as Map

import pandas as pd

from etl.frames import reject
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


def process(
    regions: pd.DataFrame, mapping: Map[str, Mapping], accept_proposed: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(regions with a `label` column, quarantine rows of those without an approved label)."""
    verdicts = {raw: verdict(raw, mapping, accept_proposed) for raw in sorted(regions["raw_label"].unique())}
    labels = regions["raw_label"].map({raw: v[0] for raw, v in verdicts.items()})
    kept = regions.assign(label=labels)
    out = regions[labels.isna()]
    reason = out["raw_label"].map({raw: v[1] for raw, v in verdicts.items()})
    detail = out["raw_label"].map({raw: v[2] for raw, v in verdicts.items()})
    return kept[labels.notna()], reject(out, "harmonize", reason, detail)
