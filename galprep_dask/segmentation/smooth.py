"""Smoothing by the PSF, for detection."""

from __future__ import annotations

import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_finite, like, take_off_unit
from galprep_dask.errors import ParameterError
from galprep_dask.image import float_dtype
from galprep_dask.neighbours import map_halo
from galprep_dask.segmentation._kernels.smooth import gaussian_weights, smooth_window

__all__ = ["smooth"]


def smooth(
    data: ImageLike, fwhm: float | None = None, mask: ImageLike | None = None, *, kernel: np.ndarray | None = None
) -> ImageLike:
    """
    Smooth an image with a round Gaussian or another kernel, leaving bad pixels out of every mean.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    fwhm : float, optional
        Full width at half maximum of the Gaussian in pixels; it ends at three sigma.
    mask : (ny, nx) bool array, optional
        True marks pixels left out; non-finite pixels always are, and so is what lies beyond the edges.
    kernel : (n, m) array, optional
        Weights to be used in place of a Gaussian, n and m odd, none negative; of any sum. The image is convolved with
        it: it is turned by 180 degrees before it is laid on the pixels, as in ``astropy.convolution.convolve``.

    Returns
    -------
    (ny, nx) float64 array, of the kind given
        The weighted mean of the good pixels around each pixel; NaN where there is none. Identical to
        the bit for every chunking. A Quantity if ``data`` is one.

    Raises
    ------
    ParameterError
        ``fwhm`` is not positive, or ``kernel`` is no such array; both or neither are given.
    ImageShapeError
        Shapes differ.

    Examples
    --------
    >>> image = np.full((9, 9), 3.0)
    >>> image[4, 4] = np.nan
    >>> bool(np.allclose(smooth(image, fwhm=2.0), 3.0))
    True
    """
    weights = _weights(fwhm, kernel)
    (data,), unit = take_off_unit(data=data)
    image = as_image(data)
    mask = as_mask(mask, image)
    image = image.astype(float_dtype(image.dtype))
    depth = max(weights.shape) // 2
    smoothed = map_halo(
        smooth_window, image, depth, dtype=np.float64, fill=np.nan, mask=mask, trims=True, weights=weights, halo=depth
    )  # fmt: skip
    smoothed = like(smoothed, data)
    return smoothed if unit is None else smoothed << unit


def _weights(fwhm, kernel) -> np.ndarray:
    if (fwhm is None) == (kernel is None):
        raise ParameterError("give either fwhm= or kernel=, to say what to smooth with.")
    if kernel is None:
        if not (is_finite(fwhm) and fwhm > 0):
            raise ParameterError(f"fwhm={fwhm!r}; expected a positive number of pixels.")
        return gaussian_weights(fwhm)
    kernel = np.asarray(kernel)
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ParameterError(f"kernel has shape {kernel.shape}; expected two dimensions of odd size.")
    if not (np.isfinite(kernel).all() and (kernel >= 0).all() and kernel.sum() > 0):
        raise ParameterError("kernel has values that are no weights; expected numbers of 0 or more, not all 0.")
    return np.ascontiguousarray(kernel[::-1, ::-1], dtype=np.float64)
