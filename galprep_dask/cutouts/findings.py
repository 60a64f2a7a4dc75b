"""What a check found: a level, what it is about, what was found, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LEVELS", "Finding"]

#: From the worst: unusable, likely to spoil a fit, worth knowing, as it should be.
LEVELS = ("error", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """
    What one check found.

    Attributes
    ----------
    level : {"error", "warning", "note", "ok"}
        A fit cannot use it, or would go wrong; it may; it is worth knowing; all is well.
    check : str
        What was looked at: "wcs", "noise", "psf sum" and so on.
    found : str
        In words, with the numbers.
    advice : str
        What to do; empty where there is nothing to be done.
    value : float or None
        The number measured, where there is one.
    file : str
        The file, and the HDU in brackets.
    """

    level: str
    check: str
    found: str
    advice: str = ""
    value: float | None = None
    file: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for JSON."""
        return asdict(self)
