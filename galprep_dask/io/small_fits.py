"""
The bytes of small FITS files, of which there are many alike.

Astropy takes milliseconds under the GIL for each HDU that it lays out, checks and sums up, whatever its pixels. Files
alike differ in a few cards. So astropy lays out the header of each kind of HDU once, as a :class:`Form`: it defines the
order of cards, what is structural, and how text is split. A file then fills in its own cards, its pixels, and the two
sums over both (FITS standard 4.0, appendix J). The bytes are those that astropy would write.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits

__all__ = ["Form", "card_text", "form_of", "hdu_bytes"]

_BLOCK = 2880  # FITS files are made of blocks of this size


class Form(NamedTuple):
    """
    The header of an HDU, to be filled in.

    Attributes
    ----------
    cards : tuple of str
        All cards in their order, each of 80 characters, or of a multiple where a text is long.
    places : dict of str to int
        Where the cards are that are filled in.
    """

    cards: tuple[str, ...]
    places: dict[str, int]


def form_of(hdu: fits.PrimaryHDU | fits.ImageHDU, keywords: Iterable[str]) -> Form:
    """
    Let astropy lay out the header of an HDU of a file with extensions.

    Parameters
    ----------
    hdu : PrimaryHDU or ImageHDU
        With pixels of the dtype and the number of axes that are to be written. It is changed.
    keywords : iterable of str
        Cards that are filled in, besides the lengths of the axes and the sums. Those that astropy does not keep are
        left out.

    Returns
    -------
    Form
    """
    hdus = fits.HDUList([hdu, fits.ImageHDU()] if isinstance(hdu, fits.PrimaryHDU) else [fits.PrimaryHDU(), hdu])
    hdu.add_checksum(when="")  # astropy would put the time into the comment
    hdus.verify("silentfix+ignore")
    axes = [f"NAXIS{n}" for n in range(1, hdu.header["NAXIS"] + 1)]
    wanted = [*axes, *keywords, "CHECKSUM", "DATASUM"]
    places = {keyword: hdu.header.index(keyword) for keyword in wanted if keyword in hdu.header}
    return Form(tuple(str(card) for card in hdu.header.cards), places)


def hdu_bytes(form: Form, own: Mapping[str, str], pixels: np.ndarray) -> bytes:
    """
    Fill in a form.

    Parameters
    ----------
    form : Form
        From :func:`form_of`.
    own : mapping of str to str
        The text of each card that is filled in; those without a place are left out.
    pixels : array
        Of the dtype of the form in any byte order. Not modified.

    Returns
    -------
    bytes
        The HDU with CHECKSUM and DATASUM, in whole blocks.
    """
    cards, places = list(form.cards), form.places
    lengths = {f"NAXIS{n}": length for n, length in enumerate(reversed(pixels.shape), start=1)}
    data = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    data += bytes(-len(data) % _BLOCK)
    datasum = _add_up(data)
    filled = {keyword: card_text(keyword, length, "") for keyword, length in lengths.items()}
    filled |= {**own, "DATASUM": card_text("DATASUM", str(datasum), ""), "CHECKSUM": _checksum_card(0xFFFFFFFF)}
    for keyword, text in filled.items():
        if keyword in places:
            cards[places[keyword]] = text
    header = _header_bytes(cards)
    cards[places["CHECKSUM"]] = _checksum_card(_add_up(header, datasum))
    return _header_bytes(cards) + data


def _header_bytes(cards: list[str]) -> bytes:
    text = "".join(cards) + f"{'END':80}"
    return (text + " " * (-len(text) % _BLOCK)).encode("ascii")


def _add_up(data: bytes, total: int = 0) -> int:
    """Add up big-endian words of 32 bits, each carry at the other end."""
    total += int(np.frombuffer(data, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _checksum_card(total: int) -> str:
    """Write the complement of a sum in 16 letters, which add up to it; that of an empty one is sixteen zeros."""
    letters = [_letters((~total >> shift) & 0xFF) for shift in (24, 16, 8, 0)]
    text = "".join(map("".join, zip(*letters, strict=True)))
    return card_text("CHECKSUM", text[-1] + text[:-1], "")


@cache
def _letters(byte: int) -> str:
    """Share a byte out to four characters that are digits or letters."""
    quarter, rest = divmod(byte, 4)
    codes = [48 + quarter + rest, *[48 + quarter] * 3]
    for j in (0, 2):
        while not all(chr(code).isalnum() for code in codes[j : j + 2]):
            codes[j] += 1
            codes[j + 1] -= 1
    return "".join(map(chr, codes))


# Cards ---------------------------------------------------------------------------------------------------


def card_text(keyword: str, value: Any, comment: str | None, before: fits.Card | None = None) -> str:
    """
    Write a card as astropy does, which looks up its settings at each.

    Parameters
    ----------
    keyword : str
        Up to 8 characters, of which astropy has laid out a card.
    value : str, bool, int, float, ...
        Anything that a card can hold.
    comment : str or None
        Takes the place of that of ``before``.
    before : Card, optional
        What the header had under this keyword. Not modified.

    Returns
    -------
    str
        80 characters, or a multiple where a text is long.

    Raises
    ------
    ValueError
        A card cannot hold that.
    """
    if before is None and _is_plain(value) and (not comment or (comment.isascii() and comment.isprintable())):
        number = f"'{value:8}'".ljust(20) if type(value) is str else f"{str(value).replace('e', 'E'):>20}"
        text = f"{keyword:8}= {number}{f' / {comment}' if comment else ''}"
        if len(text) <= 80 and (len(number) == 20 or type(value) is str):
            return text.ljust(80)
    card = fits.Card(keyword) if before is None else copy.copy(before)
    card.value = value
    card.comment = comment or ""
    return str(card)


def _is_plain(value) -> bool:
    """Tell whether a value is a finite number, or a word that is written as it is."""
    if type(value) is str:
        return value.isascii() and value.isprintable() and "'" not in value and value == value.strip() != ""
    return type(value) is int or (type(value) is float and math.isfinite(value))
