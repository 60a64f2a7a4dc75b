"""Smoothing by the PSF, for detection."""

from __future__ import annotations

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, like
from galprep_dask.blockwise import map_halo
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.segmentation._kernels import gaussian_weights, smooth_window

__all__ = ["smooth"]


def smooth(data: ImageLike, fwhm: float, mask: ImageLike | None = None) -> ImageLike:
    """
    Smooth an image with a round Gaussian, leaving bad pixels out of every mean.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    fwhm : float
        Full width at half maximum of the Gaussian in pixels; it ends at three sigma.
    mask : (ny, nx) bool array, optional
        True marks pixels left out; non-finite pixels always are, and so is what lies beyond the edges.

    Returns
    -------
    (ny, nx) float64 array, of the kind given
        The weighted mean of the good pixels around each pixel; NaN where there is none. Identical to
        the bit for every chunking.

    Raises
    ------
    ParameterError
        ``fwhm`` is not positive.
    ImageShapeError
        Shapes differ.

    Examples
    --------
    >>> image = np.full((9, 9), 3.0)
    >>> image[4, 4] = np.nan
    >>> bool(np.allclose(smooth(image, fwhm=2.0), 3.0))
    True
    """
    if not (np.isfinite(fwhm) and fwhm > 0):
        raise ParameterError(f"fwhm={fwhm!r}; expected a positive number of pixels.")
    image = as_image(data)
    image = da.where(bad_pixels(image, as_mask(mask, image)), np.nan, image.astype(np.float64))
    weights = gaussian_weights(fwhm)
    smoothed = map_halo(smooth_window, image, len(weights) // 2, dtype=np.float64, fill=np.nan, weights=weights)
    return like(smoothed, data)
