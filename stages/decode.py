"""decode: the inventory of a source. Which image belongs to which mask, and what has no partner.

Formats that need no conversion (NIfTI, NRRD, MHA, pictures) are passed on by reference: `slice` reads
their pixels, once.
"""

from pathlib import Path
from typing import Any

from etl.inventory import Inventory, inventory
from etl.manifest import Manifest


def run(manifest: Manifest, root: Path) -> Inventory:
    """The cases of a source below its folder."""
    return inventory(manifest, root)


def rejected(found: Inventory) -> list[dict[str, Any]]:
    """Quarantine rows of an inventory."""
    return [
        {"case": r.case, "axis": None, "stage": "decode", "reason": r.reason, "detail": r.detail}
        for r in found.rejected
    ]
