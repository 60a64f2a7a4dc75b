"""The effective PSF of photutils' ``EPSFBuilder``, as a model of this package."""

from __future__ import annotations

import warnings

import numpy as np
from astropy.nddata import NDData
from astropy.table import Table

from galprep_dask.errors import NoGoodPixelsError, ParameterError, TooFewStarsError
from galprep_dask.psf.model import PSFModel

__all__ = ["build_epsf"]


def build_epsf(stamps, *, mask=None, oversampling: int = 1, maxiters: int = 10) -> PSFModel:
    """
    Build an effective PSF with ``photutils.psf.EPSFBuilder``.

    Parameters
    ----------
    stamps : (k, n, n) array
        Stars near the middle of square stamps with an odd side. Not modified.
    mask : (k, n, n) bool array, optional
        True marks pixels left out; non-finite pixels always are.
    oversampling : int
        Samples of the PSF per pixel.
    maxiters : int
        Iterations of the builder.

    Returns
    -------
    PSFModel
        Sampled ``oversampling`` times as finely as the stamps, or as nearly so as an odd side allows; without a sigma.

    Raises
    ------
    TooFewStarsError
        No star has pixels left, or the builder could not make use of any.
    ParameterError
        ``oversampling`` is below 1.

    Notes
    -----
    The local sky, a median of the outer pixels, is taken off every star first, as photutils asks for.

    Examples
    --------
    >>> iy, ix = np.mgrid[-10:11, -10:11]
    >>> stars = [np.exp(-((ix - a) ** 2 + (iy + a) ** 2) / 5.8) for a in np.linspace(-0.4, 0.4, 12)]
    >>> build_epsf(np.array(stars)).image.shape
    (21, 21)
    """
    from photutils.psf import EPSFBuilder, extract_stars

    if oversampling < 1:
        raise ParameterError(f"oversampling={oversampling!r}; expected 1 or more.")
    data = np.asarray(stamps, float)
    bad = ~np.isfinite(data) if mask is None else ~np.isfinite(data) | np.asarray(mask, bool)
    count, size = data.shape[:2]
    rim = np.ones((size, size), bool)
    rim[2:-2, 2:-2] = False
    images, tables = [], []
    for star, masked in zip(data, bad, strict=True):
        if masked[size // 2, size // 2] or (masked & rim).sum() == rim.sum():
            continue
        sky = np.median(star[rim & ~masked])
        images.append(NDData(np.where(masked, 0.0, star - sky), mask=masked))
        tables.append(Table({"x": [size // 2], "y": [size // 2]}))
    if not images:
        raise TooFewStarsError(f"none of {count} stars has pixels in its middle and at its edge.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stars that it leaves out, iteration by iteration
        stars = extract_stars(images, tables, size=size)
        builder = EPSFBuilder(oversampling=oversampling, maxiters=maxiters, progress_bar=False)
        try:
            epsf = builder(stars)[0]
        except ValueError as error:
            raise NoGoodPixelsError(f"EPSFBuilder gave up: {error}") from error
    fine = np.asarray(epsf.data, float)
    return PSFModel.from_image(fine / fine.sum(), oversampling=oversampling)
