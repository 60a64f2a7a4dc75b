"""The header of a cutout file: a WCS complete in itself, the target, and nothing of how other files keep pixels."""

from __future__ import annotations

import math
import re
import warnings

from astropy.io import fits

from galprep_dask.errors import MissingWCSError, NoWCSWarning, ParameterError, TargetOutsideWarning
from galprep_dask.image import WARNINGS_LOCK, celestial_wcs, without_lookup_tables
from galprep_dask.io.fits_writer import STRUCTURE

__all__ = ["add_target", "clean_header"]

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


def clean_header(header: fits.Header, *, where: str) -> fits.Header:
    """
    Give the header of an image as that of a plain two-dimensional cutout.

    Parameters
    ----------
    header : Header
        Of the cutout, or of a plane of a cube. Not modified.
    where : str
        What to call the file in warnings.

    Returns
    -------
    Header
        Without keywords of structure, compression, further axes and tables that stay behind. Everything else is as it
        was: the WCS is the same to the bit, alternative ones too.

    Warns
    -----
    NoWCSWarning
        It has no celestial WCS.
    DistortionWarning
        As :func:`galprep_dask.image.celestial_wcs`.
    """
    header = header.copy()
    for keyword in STRUCTURE:
        header.remove(keyword, ignore_missing=True, remove_all=True)
    for keyword in [key for key in header if _TILES.fullmatch(key)]:
        header.remove(keyword, ignore_missing=True, remove_all=True)
    if "RADECSYS" in header and "RADESYS" not in header:
        header.rename_keyword("RADECSYS", "RADESYS")  # the old spelling makes readers of the WCS warn
    _drop_further_axes(header)
    header = without_lookup_tables(header, where=where)
    try:
        celestial_wcs(header, where=where)
    except MissingWCSError as error:
        warnings.warn(
            f"{error} It is written as it is; codes that place models by sky position cannot use it.",
            NoWCSWarning, stacklevel=4,
        )  # fmt: skip
    return header


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


def add_target(header: fits.Header, ra: float | None, dec: float | None, shape: tuple[int, int], where: str) -> None:
    """
    Write where the target is: RA_TARG and DEC_TARG, and RA and DEC where the header has none.

    Parameters
    ----------
    header : Header
        Of the cutout; the keywords are added to it.
    ra, dec : float or Quantity or None
        In degrees where there is no unit.
    shape : (int, int)
        (ny, nx) of the cutout.
    where : str
        What to call the file.

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
        return
    if ra is None or dec is None:
        raise ParameterError(f"ra={ra!r}, dec={dec!r} for {where}: give both, in degrees, or neither.")
    ra, dec = (float(getattr(angle, "to_value", lambda _, a=angle: a)("deg")) for angle in (ra, dec))
    if not (math.isfinite(ra) and math.isfinite(dec) and -360 <= ra <= 360 and -90 <= dec <= 90):
        raise ParameterError(
            f"ra={ra!r}, dec={dec!r} for {where} is no position in degrees: expected ra in 0..360 and dec in -90..90. "
            "Are they swapped, or in hours?"
        )
    for name, value, what in (("RA", ra, "right ascension"), ("DEC", dec, "declination")):
        header[f"{name}_TARG"] = (value, f"[deg] {what} of the target")
        if name not in header:
            header[name] = (value, f"[deg] {what} of the target")
    position = target_pixel(header)
    if position is not None and not is_inside(position, shape):
        x, y = position
        warnings.warn(
            f"the target of {where}, ra={ra}, dec={dec}, is at pixel x={x:.1f}, y={y:.1f} of a cutout of "
            f"{shape[1]} x {shape[0]}. Check the position, and that ra and dec are not swapped.",
            TargetOutsideWarning, stacklevel=4,
        )  # fmt: skip


def target_pixel(header: fits.Header) -> tuple[float, float] | None:
    """
    Give the 0-based (x, y) of RA_TARG, DEC_TARG.

    NaN where the projection does not reach, None if the header has no target, or the WCS no right ascension.
    """
    ra, dec = header.get("RA_TARG"), header.get("DEC_TARG")
    if not all(isinstance(angle, int | float) for angle in (ra, dec)):
        return None
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the header was cleaned
        try:
            wcs = celestial_wcs(header)
        except MissingWCSError:
            return None
        if wcs.wcs.lngtyp.strip() != "RA":
            return None
        order = 1 if wcs.wcs.lng == 0 else -1  # a few headers have the declination first
        x, y = (float(value) for value in wcs.all_world2pix(*(ra, dec)[::order], 0, quiet=True))
        back = (math.nan, math.nan)
        if math.isfinite(x) and math.isfinite(y):
            back = wcs.all_pix2world(x, y, 0)[::order]
    apart = abs(math.remainder(float(back[0]) - ra, 360)) * math.cos(math.radians(dec)) + abs(float(back[1]) - dec)
    return (x, y) if apart < 1 / 3600 else (math.nan, math.nan)


def is_inside(position: tuple[float, float], shape: tuple[int, int]) -> bool:
    """Tell whether (x, y) is on a pixel of an image of (ny, nx)."""
    return all(-0.5 <= at < n - 0.5 for at, n in zip(position, reversed(shape), strict=True))
