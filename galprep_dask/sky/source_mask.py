"""Which pixels hold sky: all but the sources, their faint surroundings, and the bad ones."""

from __future__ import annotations

from galprep_dask.arrays import ImageLike, as_image, as_mask, like
from galprep_dask.image import bad_pixels
from galprep_dask.masks import grow_mask
from galprep_dask.segmentation import smooth
from galprep_dask.segmentation.detect import find_sources
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["source_mask"]


def source_mask(
    data: ImageLike,
    mask: ImageLike | None = None,
    *,
    fwhm: float,
    n_sigma: float = 3.0,
    n_pixels: int = 5,
    connectivity: int = 8,
    max_grow_size: int = 100,
    addgrow: float = 0,
) -> ImageLike:
    """
    Mask sources and bad pixels, so that what is left is sky.

    Sources are detected on the image smoothed by the PSF, above the clipped median by ``n_sigma`` clipped standard
    deviations of the image itself, and grown until they fade (:func:`galprep_dask.masks.grow_mask`).

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks bad pixels; non-finite ones always are.
    fwhm : float
        Full width at half maximum of the PSF in pixels.
    n_sigma : float
        Threshold in standard deviations of the sky.
    n_pixels, connectivity : int
        As for :func:`galprep_dask.segmentation.detect_sources`.
    max_grow_size, addgrow : int, float
        As for :func:`galprep_dask.masks.grow_mask`, in pixels.

    Returns
    -------
    (ny, nx) bool array, of the kind given
        True where there is no sky to be measured.

    Raises
    ------
    NoGoodPixelsError
        Every pixel is masked or not finite.
    ParameterError
        A parameter makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).normal(50, 1, (120, 120))
    >>> image[50:60, 50:60] += 100.0
    >>> masked = source_mask(image, fwhm=2.5, max_grow_size=10)
    >>> bool(masked[50:60, 50:60].all()), bool(masked.mean() < 0.05)
    (True, True)
    """
    image = as_image(data)
    bad = bad_pixels(image, as_mask(mask, image))
    _, median, std = sigma_clipped_stats(image, bad)
    smoothed = smooth(image, fwhm, bad)
    sources = find_sources(smoothed, median + n_sigma * std, n_pixels, connectivity, bad)
    grown = grow_mask(
        sources, image, sky_level=median, sky_std=std, max_grow_size=max_grow_size, addgrow=addgrow, mask=bad
    )
    return like(grown | bad, data)
