"""
The header of a cutout file: a WCS complete in itself, the target, and nothing of how other files keep pixels.

The cutouts of an image share their headers but for a few numbers: where their pixels begin, the target, and what was
counted. What is shared is read, cleaned and laid out once, and kept by its text; no file changes it.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from galprep_dask.errors import (
    DistortionWarning,
    MissingWCSError,
    NoWCSWarning,
    ParameterError,
    TargetOutsideWarning,
)
from galprep_dask.image import (
    WARNINGS_LOCK,
    build_wcs,
    celestial_wcs,
    parse_header,
    sky_to_pixels,
    split_lookup_tables,
    unannounced_distortion,
)
from galprep_dask.io.fits_writer import STRUCTURE
from galprep_dask.io.small_fits import Form, card_text, form_of

__all__ = ["Primary", "PrimaryForm", "fill_in", "is_inside", "primary_of", "target_cards", "target_pixel"]

Card = tuple[str, Any, str | None]

#: What tile compression and the table that it is kept in add to a header.
_TILES = re.compile(
    r"Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d?|TILE\d+|NAME\d+|VAL\d+|MASKCMP|QUANTIZ|DITHER0|BLANK|SCALE|ZERO|SIMPLE|"
    r"TENSION|EXTEND|BLOCKED|PCOUNT|GCOUNT|HECKSUM|DATASUM)|TFIELDS|THEAP|T(TYPE|FORM|UNIT|NULL|SCAL|ZERO|DIM)\d+"
)
#: WCS keywords of axes beyond the second.
_MORE_AXES = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA|CRDER|CSYER|CNAME)[3-9][A-Z]?|(PV|PS)[3-9]_\d+[A-Z]?|"
    r"(CD|PC)([3-9]_\d|\d_[3-9])[A-Z]?"
)


#: Cards of a cutout's own in the header of an image that it was cut from, if they are numbers of fixed format.
_MOVED = re.compile(r"^(CRPIX[12][A-Z]?|LTV[12]) *= .*$", re.MULTILINE)
_NUMBER = re.compile(r" *-?\d+(\.\d*)?(E[+-]?\d+)?")
#: Stands for the name of a file in what there is to say of a header.
_FILE = "\0"
#: Keywords whose cards are filled in, if they do not say how pixels are stored, nor are commentary.
_FILLED_IN = re.compile(r"(?!(COMMENT|HISTORY|CONTINUE|HIERARCH|END)$)[A-Z][A-Z0-9_-]{0,7}")


class Primary(NamedTuple):
    """
    The header of an image as that of a plain two-dimensional cutout.

    Attributes
    ----------
    text : str or None
        What it was made of, with zeros in place of the numbers of ``moved``; None for no header.
    moved : dict of str to str
        CRPIX and LTV cards as they are.
    header : Header
        Without keywords of structure, compression, further axes and tables that stay behind. Everything else is as it
        was: the WCS is the same to the bit but for ``moved``, alternative ones too. Shared, not to be modified.
    wcs : WCS or None
        Of ``header``. Shared, to be used by one thread at a time.
    complaints : tuple of (category, text)
        What there is to warn of.
    """

    text: str | None
    moved: dict[str, str]
    header: fits.Header
    wcs: WCS | None
    complaints: tuple[tuple[type[Warning], str], ...]

    def warn(self, where: str) -> None:
        """Warn the caller's caller of what is wrong with the header of a file."""
        for category, text in self.complaints:
            warnings.warn(text.replace(_FILE, where), category, stacklevel=3)


def primary_of(text: str | None) -> Primary:
    """
    Clean the header of a cutout, or of a plane of a cube.

    Parameters
    ----------
    text : str or None
        The header, a card a line, or None for no header.

    Returns
    -------
    Primary
        ``complaints`` are NoWCSWarning where it has no celestial WCS, and DistortionWarning as of
        :func:`galprep_dask.image.celestial_wcs`.
    """
    if text is None:
        return Primary(None, {}, fits.Header(), None, ())
    shared, moved = _without_moved(text)
    return Primary(shared, moved, *_cleaned(shared))


def _without_moved(text: str) -> tuple[str, dict[str, str]]:
    """Put zeros for the numbers that differ between the cutouts of an image, and give their cards."""
    moved: dict[str, str] = {}

    def zero(match):
        line = match[0].ljust(80)
        if not _NUMBER.fullmatch(line[10:30]) or line[8] != "=" or line[30:].lstrip()[:1] not in ("", "/"):
            return match[0]
        if match[1] in moved:
            raise LookupError
        moved[match[1]] = line
        return f"{line[:10]}{'0.0':>20}{line[30:]}"

    if re.search(r"^CTYPE[3-9]", text, re.MULTILINE):  # which of them are pixels is for the WCS to say
        return text, {}
    try:
        return _MOVED.sub(zero, text), moved
    except LookupError:  # a keyword that is there twice
        return text, {}


@lru_cache(maxsize=64)
def _cleaned(text: str) -> tuple[fits.Header, WCS | None, tuple]:
    header = parse_header(text)
    for keyword in STRUCTURE:
        header.remove(keyword, ignore_missing=True, remove_all=True)
    for keyword in [key for key in header if _TILES.fullmatch(key)]:
        header.remove(keyword, ignore_missing=True, remove_all=True)
    if "RADECSYS" in header and "RADESYS" not in header:
        header.rename_keyword("RADECSYS", "RADESYS")  # the old spelling makes readers of the WCS warn
    _drop_further_axes(header)
    header, said = split_lookup_tables(header, _FILE)
    complaints: list = [(DistortionWarning, said)]
    wcs = None
    try:
        wcs = build_wcs(header, _FILE)
        complaints.append((DistortionWarning, unannounced_distortion(header, _FILE)))
    except MissingWCSError as error:
        advice = "It is written as it is; codes that place models by sky position cannot use it."
        complaints.append((NoWCSWarning, f"{error} {advice}"))
    return header, wcs, tuple((category, text) for category, text in complaints if text)


def _drop_further_axes(header: fits.Header) -> None:
    """Leave the celestial axes of a cube's header, where they are the first two, as in every cube but a few."""
    further = [key for key in header if _MORE_AXES.fullmatch(key)]
    first_two = [str(header.get(f"CTYPE{n}", ""))[:4].rstrip("-") for n in (1, 2)]
    if set(first_two) not in ({"RA", "DEC"}, {"GLON", "GLAT"}, {"ELON", "ELAT"}):
        return
    for keyword in further:
        del header[keyword]
    for keyword in [key for key in header if re.fullmatch("WCSAXES[A-Z]?", key) and header[key] > 2]:
        header[keyword] = 2


class PrimaryForm(NamedTuple):
    """
    The header of the first HDU, but for the cards that are filled in.

    Attributes
    ----------
    form : Form
        The header, laid out.
    before : dict of str to Card
        What the header of the image has under keywords that are filled in.
    unit : tuple
        The unit of the pixels, if it is not filled in; else nothing.
    """

    form: Form
    before: dict[str, fits.Card]
    unit: tuple


def fill_in(primary: Primary, cards: Sequence[Card], history: Iterable[str]) -> tuple[Form, dict[str, str], tuple]:
    """
    Put cards and lines of history into a header.

    Parameters
    ----------
    primary : Primary
        The header.
    cards : sequence of (keyword, value, comment)
        Put in place of what the header has of the same keyword, or at its end.
    history : iterable of str
        Lines for HISTORY.

    Returns
    -------
    form : Form
    own : dict of str to str
        What to fill in.
    unit : tuple
        The unit of the pixels, or nothing.

    Raises
    ------
    ValueError
        A card cannot hold what is given.
    """
    own, entries, unit = dict(primary.moved), [], ()
    for keyword, value, comment in cards:
        is_filled_in = isinstance(keyword, str) and _FILLED_IN.fullmatch(keyword) and keyword not in STRUCTURE
        if not is_filled_in:
            fits.Card(keyword, value, comment)  # whatever it is, a card can hold it
        entries.append(keyword if is_filled_in else (keyword, value, comment, repr(value)))
    form, before, fixed = _primary_form(primary.text, tuple(entries), tuple(own), tuple(history))
    for entry, (keyword, value, comment) in zip(entries, cards, strict=True):
        if entry is keyword:
            own[keyword] = card_text(keyword, value, comment, before.get(keyword))
            unit = (value,) if keyword == "BUNIT" else unit
    return form, own, unit or fixed


@lru_cache(maxsize=64)
def _primary_form(text: str | None, entries: tuple, moved: tuple, history: tuple) -> PrimaryForm:
    header = fits.Header() if text is None else _cleaned(text)[0].copy()
    before: dict = {}
    for entry in entries:
        if isinstance(entry, str):
            if entry in header:
                before.setdefault(entry, copy.copy(header.cards[entry]))
            header[entry] = (0, "")
        else:
            header[entry[0]] = entry[1:3]
    for line in history:
        header.add_history(line)
    keywords = [*moved, *(entry for entry in entries if isinstance(entry, str))]
    unit = (header["BUNIT"],) if "BUNIT" in header and "BUNIT" not in keywords else ()
    return PrimaryForm(form_of(fits.PrimaryHDU(np.zeros((1, 1), np.float32), header), keywords), before, unit)


def target_cards(primary: Primary, ra, dec, shape: tuple[int, int], where: str) -> list[Card]:
    """
    Say where the target is: RA_TARG and DEC_TARG, and RA and DEC where the header has none.

    Parameters
    ----------
    primary : Primary
        The header of the cutout.
    ra, dec : float or Quantity or None
        In degrees where there is no unit.
    shape : (int, int)
        (ny, nx) of the cutout.
    where : str
        What to call the file.

    Returns
    -------
    list of (keyword, value, comment)

    Raises
    ------
    ParameterError
        They are no position on the sky, or one is given without the other.

    Warns
    -----
    TargetOutsideWarning
        By the WCS of the header the target is not in the cutout.
    """
    if ra is None and dec is None:
        return []
    if ra is None or dec is None:
        raise ParameterError(f"ra={ra!r}, dec={dec!r} for {where}: give both, in degrees, or neither.")
    ra, dec = (float(getattr(angle, "to_value", lambda _, a=angle: a)("deg")) for angle in (ra, dec))
    if not (math.isfinite(ra) and math.isfinite(dec) and -360 <= ra <= 360 and -90 <= dec <= 90):
        raise ParameterError(
            f"ra={ra!r}, dec={dec!r} for {where} is no position in degrees: expected ra in 0..360 and dec in -90..90. "
            "Are they swapped, or in hours?"
        )
    cards: list[Card] = []
    for name, value, what in (("RA", ra, "right ascension"), ("DEC", dec, "declination")):
        cards.append((f"{name}_TARG", value, f"[deg] {what} of the target"))
        if name not in primary.header:
            cards.append((name, value, f"[deg] {what} of the target"))
    position = None if primary.wcs is None else _pixel_of(primary.wcs, ra, dec)
    if position is not None:
        offsets = (float(primary.moved[key][10:30]) if key in primary.moved else 0.0 for key in ("CRPIX1", "CRPIX2"))
        x, y = (at + offset for at, offset in zip(position, offsets, strict=True))
        if not is_inside((x, y), shape):
            warnings.warn(
                f"the target of {where}, ra={ra}, dec={dec}, is at pixel x={x:.1f}, y={y:.1f} of a cutout of "
                f"{shape[1]} x {shape[0]}. Check the position, and that ra and dec are not swapped.",
                TargetOutsideWarning, stacklevel=3,
            )  # fmt: skip
    return cards


def target_pixel(header: fits.Header) -> tuple[float, float] | None:
    """
    Give the 0-based (x, y) of RA_TARG, DEC_TARG.

    NaN where the projection does not reach, None if the header has no target, or no WCS.
    """
    ra, dec = header.get("RA_TARG"), header.get("DEC_TARG")
    if not all(isinstance(angle, int | float) for angle in (ra, dec)):
        return None
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said where the header is checked
        try:
            wcs = celestial_wcs(header)
        except MissingWCSError:
            return None
    return _pixel_of(wcs, ra, dec)


def _pixel_of(wcs: WCS, ra: float, dec: float) -> tuple[float, float]:
    if abs(dec) > 90:
        return math.nan, math.nan
    with WARNINGS_LOCK, warnings.catch_warnings():  # the lock is also for the WCS, which threads share
        warnings.simplefilter("ignore")  # where a distortion has no inverse
        x, y = (float(value[0]) for value in sky_to_pixels(wcs, [ra], [dec]))
    return x, y


def is_inside(position: tuple[float, float], shape: tuple[int, int]) -> bool:
    """Tell whether (x, y) is on a pixel of an image of (ny, nx)."""
    return all(-0.5 <= at < n - 0.5 for at, n in zip(position, reversed(shape), strict=True))
