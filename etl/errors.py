"""The exceptions of the project.

MedglipError
├── UsageError   the command line or a settings file is wrong          exit code 2
├── Failure      the work cannot go on or produced nothing             exit code 1
└── ItemError    one case, image or region cannot be used: quarantine
"""

REASONS = frozenset(
    {
        "unreadable", "no_mask", "no_image", "shape_mismatch", "geometry_mismatch", "incomplete_volume",
        "undefined_label", "unapproved_label", "rejected_label", "empty_mask", "too_small", "duplicate",
        "low_quality", "too_large", "identifying", "unsupported", "not_placed", "excluded",
        "not_redistributable", "worker_lost"
    }
)


class MedglipError(Exception):
    """Anything the user should read as a message, not as a traceback."""


class UsageError(MedglipError):
    """A wrong command line, manifest or label map."""


class Failure(MedglipError):  # noqa: N818
    """Work that failed or produced nothing."""


class ItemError(MedglipError):
    """One item that cannot be used, with its quarantine reason and a detail for people."""

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown quarantine reason: {reason}")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
