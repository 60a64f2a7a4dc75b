"""The sigma image: photon noise of the sources on top of the measured noise of the sky."""

from __future__ import annotations

import math

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, check_same_shape, like
from galprep_dask.errors import ParameterError
from galprep_dask.image import float_dtype
from galprep_dask.noise._kernels import sigma_of_block

__all__ = ["sigma_image"]


def sigma_image(
    data: ImageLike,
    *,
    sky_std: float,
    gain: float,
    exptime: float | ImageLike = 1.0,
    fac1: float = 1.0,
    fac2: float = 1.0,
) -> ImageLike:
    r"""
    1-sigma uncertainty of every pixel of a sky-subtracted image.

    .. math:: \sigma = \sqrt{f_1 \max(d, 0) / (g\,t) + f_2\,\sigma_\mathrm{sky}^2}

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image: in counts per second with ``exptime`` the exposure, or in counts with
        ``exptime=1``. Not modified.
    sky_std : float
        Standard deviation of source-free pixels, in the unit of ``data``.
    gain : float
        Electrons per count.
    exptime : float or (ny, nx) array
        Exposure in s. Pixels of a map that are not positive have no source term.
    fac1, fac2 : float
        Factors of the variances of source and sky; ``fac2`` above 1 makes up for the noise that
        resampling has correlated away.

    Returns
    -------
    (ny, nx) array, of the kind given
        In the unit of ``data``, float32 or float64 as it is; finite and positive everywhere, under NaN too.

    Raises
    ------
    ParameterError
        ``sky_std``, ``gain`` or a scalar ``exptime`` is not positive and finite, or a factor is negative or
        the sky's is zero.
    ImageShapeError
        The exposure map has another shape.

    Examples
    --------
    >>> sigma_image(np.array([[0.0, 9.0], [np.nan, -5.0]]), sky_std=4.0, gain=1.0)
    array([[4., 5.],
           [4., 4.]])
    """
    _check_positive("sky_std", sky_std)
    _check_positive("gain", gain)
    _check_positive("fac2", fac2)
    if not (math.isfinite(fac1) and fac1 >= 0):
        raise ParameterError(f"fac1={fac1!r}; expected zero or a positive number.")
    image = as_image(data)
    image = image.astype(float_dtype(image.dtype))
    if np.ndim(exptime) == 0:
        _check_positive("exptime", exptime)
        electrons = float(gain) * float(exptime)
    else:
        check_same_shape(exptime, image.shape, "exptime")
        electrons = as_image(exptime, "exptime", chunks=image.chunks).astype(np.float64) * float(gain)
    sigma = da.map_blocks(
        sigma_of_block, image, electrons, float(sky_std) ** 2, float(fac1), float(fac2),
        dtype=image.dtype, meta=np.empty((0, 0), image.dtype),
    )  # fmt: skip
    return like(sigma, data)


def _check_positive(name: str, value) -> None:
    if not (_is_number(value) and value > 0):
        raise ParameterError(f"{name}={value!r}; expected a positive number.")


def _is_number(value) -> bool:
    try:
        return np.ndim(value) == 0 and math.isfinite(value)
    except TypeError:
        return False
