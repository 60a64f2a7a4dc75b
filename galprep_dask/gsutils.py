"""``normimg``: a signed display scaling that shows faint sky and bright galaxies in one picture."""

from __future__ import annotations

import math

import dask.array as da
import numpy as np
import xarray as xr

from galprep_dask.arrays import ImageLike
from galprep_dask.errors import ParameterError

__all__ = ["normimg"]


def normimg(data: ImageLike, immin: float, immax: float, sky: float = 0, frac: float = 0.5) -> ImageLike:
    r"""
    Scale an image to [-1, 1] for a diverging colour map, linear near the sky and logarithmic beyond.

    Parameters
    ----------
    data : array or number; NumPy, dask or xarray
        Image in any linear unit and of any real dtype. Not modified.
    immin : float
        Distance from the sky where the linear part ends, in the unit of ``data``.
    immax : float
        Distance from the sky that is shown as 1. Where it is not larger than ``immin``, as the brightest pixel
        of a faint cutout may be, there is no logarithmic part: all beyond ``immin`` is shown as 1.
    sky : float
        The value shown as 0.
    frac : float
        Share of the range from 0 to 1 that the linear part takes, between 0 and 1.

    Returns
    -------
    float64 array of the kind of ``data``
        Lazy where ``data`` is. NaN stays NaN, infinities become 1 and -1, and masked arrays keep their mask.

    Raises
    ------
    ParameterError
        Unless ``immin`` and ``immax`` are positive and ``0 < frac < 1``, all of them and ``sky`` finite numbers;
        or the pixels are no real numbers.

    Notes
    -----
    With :math:`d` the distance of a pixel from the sky, its absolute value is

    .. math::
        f \, d / d_{min} \quad (d \le d_{min}), \qquad
        f + (1 - f) \frac{\ln (d / d_{min})}{\ln (d_{max} / d_{min})} \quad (d_{min} < d < d_{max}),

    and 1 beyond. The sign is that of the pixel minus the sky, so that pixels as far above the sky as
    others are below it differ in nothing else.

    Examples
    --------
    >>> normimg(np.array([-np.inf, -10.0, 0.0, 5.0, 10.0, 100.0, 1000.0]), immin=10, immax=1000).tolist()
    [-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]
    """
    immin, immax = _number("immin", immin), _number("immax", immax)
    sky, frac = _number("sky", sky), _number("frac", frac)
    if not (immin > 0 and immax > 0 and math.isfinite(immin) and math.isfinite(immax / immin)):
        raise ParameterError(f"immin={immin!r}, immax={immax!r}; expected positive, finite numbers.")
    if not math.isfinite(sky):
        raise ParameterError(f"sky={sky!r}; expected a finite number.")
    if not 0 < frac < 1:
        raise ParameterError(f"frac={frac!r}; expected a number between 0 and 1, both excluded.")
    return _scale_any_kind(data, immin, immax, sky, frac)


def _number(name: str, value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name}={value!r}; expected a plain number.") from error


def _scale_any_kind(data, *scaling: float):
    if isinstance(data, xr.DataArray):
        return data.copy(data=_scale_any_kind(data.data, *scaling)).drop_attrs()
    if isinstance(data, np.ma.MaskedArray):
        return np.ma.MaskedArray(_scale_any_kind(data.data, *scaling), mask=data.mask.copy())
    if not isinstance(data, da.Array):
        data = np.asarray(data)
    if data.dtype.kind not in "biuf":
        raise ParameterError(f"data has dtype {data.dtype}; expected real numbers.")
    if isinstance(data, da.Array):
        return data.map_blocks(_scale_any_kind, *scaling, dtype=np.float64)
    return _scale(data, *scaling)


def _scale(data: np.ndarray, immin: float, immax: float, sky: float, frac: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # a difference beyond float64 is infinite, which is shown as 1
        offset = data.astype(np.float64) - sky
    distance = np.minimum(np.abs(offset), max(immin, immax))
    if immax <= immin:
        shown = np.where(np.abs(offset) > immin, 1.0, frac * distance / immin)
        return np.copysign(np.where(np.isnan(offset), np.nan, shown), offset)
    linear = np.minimum(distance, immin) / immin
    # Clipped, because the logarithms of an array and of a number may differ in the last bit.
    logarithmic = np.minimum(np.log(np.maximum(distance, immin) / immin) / np.log(immax / immin), 1)
    return np.copysign(frac * linear + (1 - frac) * logarithmic, offset)
