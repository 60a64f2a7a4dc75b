"""Which of the files of an earlier run can be kept: whole, and made with the same parameters."""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path

__all__ = ["product_cards", "remove_leftovers"]

_BLOCK = 2880
_CARD = 80
#: Names that a file has while it is written; a run that was killed leaves some behind.
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.(part|old)")


def product_cards(path: str | os.PathLike) -> dict[str, str] | None:
    """
    Read what the first header of a FITS file says, if the file is whole.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict or None
        Values as text, without quotes. None where there is no such file, or it is shorter or longer than its headers
        say. No pixel is read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first, position = None, 0
            while position < size:
                file.seek(position)
                cards, length = _header(file)
                if cards is None:
                    return None
                first = cards if first is None else first
                position += length + _data_length(cards)
    except (OSError, ValueError, KeyError):
        return None
    return first if position == size else None


def _header(file) -> tuple[dict[str, str] | None, int]:
    cards, length = {}, 0
    while True:
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            return None, length
        length += _BLOCK
        for begin in range(0, _BLOCK, _CARD):
            card = block[begin : begin + _CARD].decode("ascii")
            if card[:8] == "END     ":
                return cards, length
            if card[8:10] == "= ":
                value = card[10:]
                value = value.split("'")[1].rstrip() if value.lstrip()[:1] == "'" else value.split("/")[0].strip()
                cards.setdefault(card[:8].rstrip(), value)


def _data_length(cards: dict[str, str]) -> int:
    axes = [int(cards[f"NAXIS{n}"]) for n in range(1, int(cards["NAXIS"]) + 1)]
    if not axes:
        return 0
    n_bytes = abs(int(cards["BITPIX"])) // 8 * (int(cards.get("PCOUNT", 0)) + math.prod(axes))
    return -(-n_bytes // _BLOCK) * _BLOCK


def remove_leftovers(folder: Path) -> int:
    """Remove what a killed run was writing, in a folder and those below, and nowhere else; say how much it was."""
    count = 0
    for parent, directories, names in os.walk(folder, followlinks=False):
        for name in [*directories, *names]:
            if not _LEFTOVER.fullmatch(name):
                continue
            path = Path(parent, name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
                directories.remove(name)
            else:
                path.unlink(missing_ok=True)
            count += 1
        directories[:] = [name for name in directories if not name.endswith(".zarr")]
    return count
