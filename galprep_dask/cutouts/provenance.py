"""Where a product comes from: version, parameters and their hash, and which file was the input."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits

from galprep_dask._version import __version__
from galprep_dask.errors import ParameterError
from galprep_dask.io.files import is_remote, local_path, open_hdus

__all__ = ["parameter_text", "provenance_cards", "record_provenance"]

Card = tuple[str, Any, str]


def parameter_text(parameters: Mapping[str, Any]) -> str:
    """
    Write parameters down as JSON that is the same for the same parameters, whatever their order.

    Parameters
    ----------
    parameters : mapping of str to value
        Numbers, text, booleans, None, lists, mappings, arrays, paths and quantities.

    Returns
    -------
    str
        ASCII.

    Raises
    ------
    ParameterError
        A value is of another kind.

    Examples
    --------
    >>> parameter_text({"order": np.int64(3), "fwhm": 0.9 * u.arcsec})
    '{"fwhm":"0.9 arcsec","order":3}'
    """
    try:
        return json.dumps(parameters, sort_keys=True, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"parameters cannot be written down: {error}. Give numbers, text, lists.") from None


def _plain(value):
    if isinstance(value, u.Quantity):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} {value!r:.60}")


def provenance_cards(source: tuple[str | None, int | None] | None, parameters: Mapping[str, Any] | None) -> list[Card]:
    """
    Give the keywords that say where a file comes from.

    Parameters
    ----------
    source : (path, hdu) or None
        The image that it was made of.
    parameters : mapping or None
        What the steps were called with.

    Returns
    -------
    list of (keyword, value, comment)
        The same to the bit for the same input, wherever and whenever it lies: the name of the file without its
        folder, its size in bytes, and a hash of the header of its HDU, which holds a checksum of the pixels where
        the file has DATASUM. A URL and a file that is gone are given by name alone.
    """
    cards: list[Card] = [("GPVERS", __version__, "version of galprep-dask that wrote this file")]
    path, hdu = source or (None, None)
    if path is not None:
        name = os.path.basename(str(path).rstrip("/")).encode("ascii", "backslashreplace").decode()
        cards.append(("GPINPUT", name, "file that this was made of"))
        if hdu is not None:
            cards.append(("GPINHDU", int(hdu), "its HDU"))
        cards += _marks(str(path), hdu)
    if parameters is not None:
        text = parameter_text(parameters)
        cards.append(("GPHASH", _hash(text), "SHA-256 of GPPARAM, its first 16 digits"))
        cards.append(("GPPARAM", text, ""))
    return cards


def record_provenance(
    header: fits.Header, source: tuple[str | None, int | None] | None, parameters: Mapping[str, Any]
) -> fits.Header:
    """
    Give a header with the keywords of :func:`provenance_cards`, in place of those of the file that was the input.

    Parameters
    ----------
    header : Header
        Of the file to be written. Not modified.
    source, parameters
        As for :func:`provenance_cards`.

    Returns
    -------
    Header
    """
    header = header.copy()
    for keyword in ("GPVERS", "GPINPUT", "GPINHDU", "GPINSIZE", "GPINHASH", "GPHASH", "GPPARAM"):
        header.remove(keyword, ignore_missing=True, remove_all=True)
    header.extend(provenance_cards(source, parameters), end=True)
    return header


def _marks(path: str, hdu: int | None) -> list[Card]:
    if is_remote(path) or not Path(local_path(path)).is_file():
        return []
    stat = os.stat(local_path(path))
    cards: list[Card] = [("GPINSIZE", stat.st_size, "[byte] its size")]
    digest = _header_hash(local_path(path), hdu or 0, stat.st_size, stat.st_mtime_ns)
    return cards if digest is None else [*cards, ("GPINHASH", digest, "SHA-256 of the header of its HDU")]


@lru_cache(maxsize=256)
def _header_hash(path: str, hdu: int, size: int, mtime_ns: int) -> str | None:
    """Hash a header, once for ten thousand cutouts of one file; ``size`` and ``mtime_ns`` tell that it is still it."""
    try:
        with open_hdus(path, {}, disable_image_compression=True) as hdus:
            return _hash(hdus[hdu].header.tostring())
    except (OSError, LookupError, ValueError, fits.VerifyError):  # no FITS file, or no longer that one
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("ascii", "backslashreplace")).hexdigest()[:16]
