"""File names for targets: their names are data, and never paths."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

__all__ = ["file_names", "safe_name"]

#: Bytes of a name; what is put behind it (band, extension, temporary marks) stays below the 255 that systems allow.
_LONGEST = 80


def safe_name(name: str) -> str:
    """
    Make a file name of a target's name.

    Parameters
    ----------
    name : str
        Anything.

    Returns
    -------
    str
        Letters, digits, ``+ - _ .`` of ASCII; never empty, hidden, an option or longer than 80. A name that could not
        be kept ends in eight digits that tell it from others which look alike.

    Examples
    --------
    >>> safe_name("NGC_1052"), safe_name("J003515.16+084859.9")
    ('NGC_1052', 'J003515.16+084859.9')
    >>> safe_name("../../etc/passwd")
    'etc_passwd-3754d6cb'
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"_?[^A-Za-z0-9._+-]+_?", "_", plain.strip())
    plain = re.sub(r"\.{2,}", ".", plain).strip("._-")
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain)
    if plain and plain == name and len(plain) <= _LONGEST and not reserved:
        return plain
    kept = (plain[: _LONGEST - 9].rstrip("._-") or "target") + "-"
    return kept + _digits(name)


def file_names(names: Sequence[str], positions: Sequence[tuple[float, float]]) -> list[str]:
    """
    Give every target a file name of its own.

    Parameters
    ----------
    names : sequence of str
        Names of the targets, which may come twice.
    positions : sequence of (ra, dec)
        Their positions in degrees.

    Returns
    -------
    list of str
        Where names look alike, also to a file system that does not tell capitals, all of them get eight digits from
        name and position, so that none depends on the order of the list. Only where the position is the same, too,
        are the later ones numbered.

    Examples
    --------
    >>> file_names(["a", "b", "A"], [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)])
    ['a-0f80f370', 'b', 'A-1b4bd02c']
    """
    plain = [safe_name(name) for name in names]
    count: dict[str, int] = {}
    for name in plain:
        count[name.casefold()] = count.get(name.casefold(), 0) + 1
    unique, taken = [], set()
    for name, original, (ra, dec) in zip(plain, names, positions, strict=True):
        if count[name.casefold()] > 1:
            name = f"{name[: _LONGEST - 9]}-{_digits(f'{original} {ra!r} {dec!r}')}"
        first, number = name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.casefold())
        unique.append(name)
    return unique


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
