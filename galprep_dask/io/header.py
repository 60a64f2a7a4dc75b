"""Gain, exposure time and zero point from the keywords that observatories use for them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from astropy.io import fits

__all__ = ["EXPTIME_KEYWORDS", "GAIN_KEYWORDS", "KEYWORDS", "ZEROPOINT_KEYWORDS", "find_quantity"]

GAIN_KEYWORDS = ("GAIN", "EGAIN", "CELL.GAIN", "CCDGAIN", "AVGGAIN")
EXPTIME_KEYWORDS = ("EXPTIME", "TEXPTIME", "EXPOSURE", "XPOSURE", "EFFEXPTM")
ZEROPOINT_KEYWORDS = ("MAGZERO", "MAGZP", "MAGZPT", "PHOTZP", "PHOT_ZP", "ZEROPNT", "ZPT", "ZP")

#: The keywords looked for, first to last, for every quantity of an image.
KEYWORDS = {"gain": GAIN_KEYWORDS, "exptime": EXPTIME_KEYWORDS, "zeropoint": ZEROPOINT_KEYWORDS}

_log = logging.getLogger("galprep_dask.io")


def find_quantity(name: str, headers: Iterable[fits.Header], *, where: str) -> float | None:
    """
    Look a quantity up in headers, the image's own first; the keyword that was used is logged.

    Parameters
    ----------
    name : {"gain", "exptime", "zeropoint"}
        Which quantity.
    headers : iterable of Header
        The header of the HDU, then that of the primary.
    where : str
        What to call the image in the log.

    Returns
    -------
    float or None
        None where no keyword has a usable value: a finite number, for gain and exposure time positive.
    """
    for header in headers:
        for keyword in KEYWORDS[name]:
            try:
                value = header.get(keyword)
            except fits.VerifyError as error:  # GAIN = 1,5 for example
                _log.warning("%s of %s: %s cannot be read and was passed over: %s", name, where, keyword, error)
                continue
            if value is None:
                continue
            if _is_usable(value, positive=name != "zeropoint"):
                _log.info("%s of %s: %s=%s", name, where, keyword, value)
                return float(value)
            _log.warning("%s of %s: %s=%r is not usable and was passed over", name, where, keyword, value)
    return None


def _is_usable(value, *, positive: bool) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and (value > 0 or not positive)
