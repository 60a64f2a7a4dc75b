"""What the arguments of the GalfitS documentation mean in the words of this package."""

from __future__ import annotations

import os
import warnings

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.nddata import CCDData

from galprep_dask.arrays import as_image
from galprep_dask.cutouts.position import turned_axes
from galprep_dask.errors import HDUError, HDUFallbackWarning, ParameterError
from galprep_dask.io import open_image

__all__ = [
    "LazyCCDData",
    "check_not_negative",
    "check_number",
    "check_positive",
    "half_sizes",
    "open_source",
    "pixel_pair",
    "sky_matrix",
    "told",
    "whole_box",
]


class LazyCCDData(CCDData):
    """CCDData of dask arrays. What is assigned to ``data`` becomes one; masks stay lazy, which astropy computes."""

    @property
    def data(self):
        """Pixels, lazily."""
        return self._data

    @data.setter
    def data(self, value):
        self._data = as_image(value, ndim=max(np.ndim(value), 2))

    @property
    def mask(self):
        """Bad pixels, lazily, or None."""
        return self._mask

    @mask.setter
    def mask(self, value):
        self._mask = value


def open_source(filename, hdu, unit, mask, zero_point) -> xr.Dataset:
    """Open whatever ``open_image`` takes; where HDU 0 is an empty primary, the first image, with a warning."""
    settings = {"unit": unit, "mask": mask, "zeropoint": zero_point}
    if not isinstance(filename, str | os.PathLike):
        return open_image(filename, hdu or None, **settings)  # HDU 0 is what nobody asked for
    try:
        return open_image(filename, hdu, **settings)
    except HDUError:
        if hdu != 0:
            raise
        found = open_image(filename, None, **settings)
        warnings.warn(
            f"HDU 0 of {os.fspath(filename)!r} holds no image; HDU {found.attrs['hdu']} is used. Pass "
            f"hdu={found.attrs['hdu']} to say so.",
            HDUFallbackWarning, stacklevel=3,
        )  # fmt: skip
        return found


def check_number(name: str, value, expected="a finite number", valid=lambda value: True) -> None:
    """Raise ParameterError unless ``value`` is one finite number, and ``valid``."""
    try:
        good = np.ndim(value) == 0 and bool(np.isfinite(value)) and valid(value)
    except TypeError:
        good = False
    if not good:
        raise ParameterError(f"{name}={value!r}; expected {expected}.")


def check_positive(name: str, value, unit: str) -> None:
    """Raise ParameterError unless ``value`` is a number above zero."""
    check_number(name, value, f"a positive number of {unit}", lambda value: value > 0)


def check_not_negative(**values) -> None:
    """Raise ParameterError for the first of ``values`` that is no number, or one below zero."""
    for name, value in values.items():
        check_number(name, value, "zero or a positive number", lambda value: value >= 0)


def pixel_pair(name: str, value) -> tuple[float, float]:
    """Read ``(x, y)`` in pixels."""
    try:
        x, y = (float(coordinate) for coordinate in value)
    except (TypeError, ValueError):
        x = y = np.nan
    if not np.isfinite([x, y]).all():
        raise ParameterError(f"{name}={value!r}; expected (x, y), two finite numbers of pixels.")
    return x, y


def half_sizes(cutsize, scale: float) -> np.ndarray:
    """Read ``cutsize``, one angle or ``[x-, x+, y-, y+]``, arcsec without a unit; give four numbers of pixels."""
    try:
        sizes = u.Quantity(cutsize, dtype=float)  # of quantities in several units, too
        sizes = sizes.to_value(u.arcsec if sizes.unit != u.dimensionless_unscaled else None)
    except (TypeError, ValueError):  # no numbers, or no angles
        sizes = np.array(np.nan)
    if np.shape(sizes) not in ((), (4,)) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ParameterError(
            f"cutsize={cutsize!r}; expected half the side in arcsec, one positive number or [x-, x+, y-, y+]."
        )
    if (sizes < scale / 2).all():
        raise ParameterError(f"cutsize={cutsize!r} is less than half a pixel of {scale:.4g} arcsec. Is it in degrees?")
    return np.broadcast_to(sizes, (4,)) / scale


def whole_box(cutposition) -> tuple[int, int, int, int]:
    """Read ``cutposition``, ``[x0, x1, y0, y1]`` in whole pixels."""
    try:
        box = np.asarray(cutposition, dtype=float)
    except (TypeError, ValueError):
        box = np.array(np.nan)
    if box.shape != (4,) or not np.isfinite(box).all() or (box != np.round(box)).any():
        raise ParameterError(f"cutposition={cutposition!r}; expected whole pixels [x0, x1, y0, y1].")
    x0, x1, y0, y1 = (int(value) for value in box)
    if x0 >= x1 or y0 >= y1:
        raise ParameterError(f"cutposition={cutposition!r}; expected x0 < x1 and y0 < y1.")
    return x0, x1, y0, y1


def sky_matrix(from_wcs: np.ndarray | None, scale: float | None, rotation: float | None) -> np.ndarray | None:
    """
    Give the pixels of one arcsec to the east and to the north, as ``sky_axes`` does, with what the user knows better.

    Parameters
    ----------
    from_wcs : (2, 2) array or None
        The matrix of the WCS.
    scale : float or None
        Arcsec per pixel, in place of that of the WCS.
    rotation : float or None
        Degrees from the y axis to north, towards +x, in place of that of the WCS. East stays on its side.

    Returns
    -------
    (2, 2) array, or None where nothing is known

    Examples
    --------
    >>> sky_matrix(np.array([[-2.0, 0.0], [0.0, 2.0]]), 0.25, None).tolist()
    [[-4.0, 0.0], [0.0, 4.0]]
    """
    if from_wcs is None:
        return None if scale is None else turned_axes(scale, rotation or 0.0)
    matrix = from_wcs
    if scale is not None:
        matrix = matrix / (np.sqrt(abs(np.linalg.det(matrix))) * scale)
    if rotation is not None:
        turn = np.radians(rotation) - np.arctan2(matrix[0, 1], matrix[1, 1])
        matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ matrix
    return matrix


def told(arguments: dict) -> dict:
    """Arguments of a call as a file can tell them: numbers and words as they are, arrays as having been given."""
    outside = ("self", "filepath", "filepaths", "plot", "figurepath", "verbose")  # what changes no pixel
    return {name: _plain(value) for name, value in arguments.items() if name not in outside}


def _plain(value):
    if isinstance(value, u.Quantity):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and len(value) <= 4:
        return [_plain(item) for item in value]
    return "given"
