"""When an image was taken, and where stars were then."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Mapping

import numpy as np
import xarray as xr
from astropy.coordinates import get_body_barycentric
from astropy.io import fits
from astropy.time import Time
from erfa import ErfaWarning

from galprep_dask.errors import GalprepError, MissingEpochError, ParameterError
from galprep_dask.image import WARNINGS_LOCK, describe, image_header, parse_header
from galprep_dask.io.files import open_hdus

__all__ = ["EPOCH_KEYWORDS", "image_epoch", "julian_year", "motion_deg", "positions_at"]

#: Where the epoch of an image is looked for, the middle of the exposure first.
EPOCH_KEYWORDS = ("MJD-AVG", "DATE-AVG", "MJD-OBS", "DATE-OBS", "MJD-BEG", "DATE-BEG", "MJD_OBS", "MJDOBS")

# No star moves faster (Barnard's star: 10.4 arcsec/yr), and none has a larger parallax than Proxima Centauri.
_FASTEST_ARCSEC_PER_YEAR = 10.5
_LARGEST_PARALLAX_ARCSEC = 0.8

_MAS = math.radians(1 / 3.6e6)
# No image is older, and a keyword that says 0 is no date.
_YEARS = (1880.0, 2200.0)

_log = logging.getLogger("galprep_dask.gaia")


def image_epoch(image: xr.Dataset | fits.Header | str, *more: fits.Header) -> float:
    """
    Find when an image was taken, from its header.

    Parameters
    ----------
    image : Dataset, Header or str
        An image, whose file's primary header is looked at too, a header, or its text.
    *more : Header
        Further headers, which are looked at when the first does not say.

    Returns
    -------
    float
        Julian year. The keywords are, in this order, ``MJD-AVG``, ``DATE-AVG``, ``MJD-OBS``, ``DATE-OBS``, ``MJD-BEG``,
        ``DATE-BEG``, ``MJD_OBS``, ``MJDOBS``; which was used is logged.

    Raises
    ------
    MissingEpochError
        No header says it.

    Examples
    --------
    >>> round(image_epoch(fits.Header({"DATE-OBS": "2017-11-13T06:03:40"})), 3)
    2017.867
    """
    where = "the image"
    if isinstance(image, xr.Dataset):
        where = describe(image)
        headers = [image_header(image), *more, *_primary_header(image)]
    else:
        headers = [parse_header(image) if isinstance(image, str) else image, *more]
    for header in headers:
        for keyword in EPOCH_KEYWORDS:
            year = _year_of(header, keyword)
            if year is not None:
                _log.info("epoch of %s: J%.3f, from %s", where, year, keyword)
                return year
    raise MissingEpochError(
        f"no epoch for {where}: looked for {', '.join(EPOCH_KEYWORDS)}. Pass epoch=, a Julian year or an astropy Time."
    )


def _primary_header(image: xr.Dataset):
    """Read the primary header of the image's file, if it still is there: many cameras write the date only there."""
    path = image.attrs.get("path")
    if path is None:
        return
    try:
        with open_hdus(path, {}) as hdus:
            yield hdus[0].header.copy()
    except (OSError, GalprepError):  # the file has moved on, or never was FITS
        return


def _year_of(header: Mapping, keyword: str) -> float | None:
    try:
        value = header.get(keyword)
    except fits.VerifyError:
        return None
    if value is None or isinstance(value, bool):
        return None
    try:
        is_mjd = keyword.startswith("MJD")
        year = 2000 + (float(value) - 51544.5) / 365.25 if is_mjd else _year_of_date(str(value))
    except ValueError:
        _log.warning("%s=%r is no date and was passed over", keyword, value)
        return None
    if not _YEARS[0] <= year <= _YEARS[1]:
        _log.warning("%s=%r is no date of an observation and was passed over", keyword, value)
        return None
    return year


def _year_of_date(text: str) -> float:
    old = re.fullmatch(r"\s*(\d\d)/(\d\d)/(\d\d)\s*", text)  # before 2000 FITS wrote DD/MM/YY
    if old:
        day, month, year = old.groups()
        text = f"19{year}-{month}-{day}"
    # UTC and TDB differ by a minute: no star moves in it, and no leap second has to be known.
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", ErfaWarning)  # of such a second
        return float(Time(text.strip().removesuffix("Z"), scale="tdb").jyear)


def julian_year(epoch: Time | float | str) -> float:
    """
    Give an epoch as a Julian year.

    Parameters
    ----------
    epoch : Time, float or str
        A time, a Julian year, or a date such as ``"2017-11-13"`` or ``"J2017.87"``.

    Returns
    -------
    float

    Raises
    ------
    ParameterError
        It is none of these, or not between 1880 and 2200.
    """
    expected = "expected a Julian year such as 2017.87, a date such as '2017-11-13', or an astropy Time"
    try:
        if isinstance(epoch, Time):
            year = float(epoch.jyear)
        elif isinstance(epoch, str):
            year = float(epoch[1:]) if epoch[:1] in "Jj" and epoch[1:2].isdigit() else _year_of_date(epoch)
        else:
            year = float(epoch)
    except (TypeError, ValueError):
        raise ParameterError(f"epoch={epoch!r}; {expected}.") from None
    if not _YEARS[0] <= year <= _YEARS[1]:
        raise ParameterError(f"epoch={epoch!r} is the year {year:.6g}; {expected}. Is it an MJD?")
    return year


def motion_deg(epoch: float, *ref_epochs: float) -> float:
    """Tell how far, in degrees, a star may be at an epoch from where it was at any of the others."""
    years = max(abs(epoch - ref) for ref in ref_epochs)
    return (years * _FASTEST_ARCSEC_PER_YEAR + _LARGEST_PARALLAX_ARCSEC) / 3600


def positions_at(
    ra: np.ndarray, dec: np.ndarray, epoch: float, *, ref_epoch: np.ndarray | float, pmra: np.ndarray,
    pmdec: np.ndarray, parallax: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """
    Directions in which stars are seen from the Earth at an epoch.

    Parameters
    ----------
    ra, dec : (n,) float arrays
        Barycentric positions at ``ref_epoch``, in degrees.
    epoch : float
        Julian year.
    ref_epoch : float or (n,) array
        Julian year of ``ra`` and ``dec``.
    pmra, pmdec, parallax : (n,) float arrays
        In mas/yr (``pmra`` with its cos(dec)) and mas; NaN where unknown: such stars stay where they are.

    Returns
    -------
    ra, dec : (n,) float64 arrays
        Astrometric places in degrees: aberration and the bending of light are left out, as in the astrometry of images.

    Notes
    -----
    The standard model of stellar motion [1]_, with no radial velocity: the direction is that of
    ``u + t (p pmra + q pmdec) - parallax * r``, ``u`` the unit vector at the reference epoch, ``p`` and ``q`` those to
    the east and to the north, ``r`` the Earth's place in au.

    References
    ----------
    .. [1] ESA 1997, The Hipparcos and Tycho Catalogues, SP-1200, volume 1, section 1.2.8.
    """
    alpha, delta = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    zero = np.zeros_like(alpha)
    direction = np.stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)])
    east = np.stack([-np.sin(alpha), np.cos(alpha), zero])
    north = np.stack([-np.sin(delta) * np.cos(alpha), -np.sin(delta) * np.sin(alpha), np.cos(delta)])
    pmra, pmdec, parallax = (np.nan_to_num(np.asarray(values, float)) * _MAS for values in (pmra, pmdec, parallax))
    years = np.nan_to_num(epoch - np.asarray(ref_epoch, float))  # NaN only where nothing moves
    earth = get_body_barycentric("earth", Time(epoch, format="jyear", scale="tdb"), ephemeris="builtin")
    moved = direction + years * (east * pmra + north * pmdec) - parallax * earth.xyz.to_value("au")[:, None]
    x, y, z = moved
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))
