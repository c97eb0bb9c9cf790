"""decode: the inventory of a source. Which image belongs to which mask, and what has no partner.

Formats that need no conversion (NIfTI, NRRD, MHA, pictures) are passed on by reference: `slice` reads
their pixels, once.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from etl.manifests.manifest import Manifest
from etl.privacy import pseudonym
from etl.sources.inventory import Inventory, inventory


def run(manifest: Manifest, root: Path) -> Inventory:
    """The cases of a source below its folder."""
    return inventory(manifest, root)


def pseudonymized(found: Inventory, key: bytes, family: str) -> Inventory:
    """The inventory with hashed subjects and cases, in the order of the new names."""
    cases = [
        replace(c, case=pseudonym(key, family, "case", c.case), subject=pseudonym(key, family, "subject", c.subject))
        for c in found.cases
    ]
    rows = [replace(r, case=pseudonym(key, family, "case", r.case)) for r in found.rejected]
    cases.sort(key=lambda case: case.case)
    rows.sort(key=lambda row: (row.case, row.reason))
    return replace(found, cases=cases, rejected=rows)


def rejected(found: Inventory) -> list[dict[str, Any]]:
    """Quarantine rows of an inventory."""
    return [
        {"case": r.case, "axis": None, "stage": "decode", "reason": r.reason, "detail": r.detail}
        for r in found.rejected
    ]
