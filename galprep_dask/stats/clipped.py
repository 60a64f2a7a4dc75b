"""Sigma-clipped mean, median and standard deviation of a whole image."""

from __future__ import annotations

import dask
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask
from galprep_dask.errors import ParameterError
from galprep_dask.image import no_good_pixels
from galprep_dask.stats._kernels import clip_sorted, good_values

__all__ = ["sigma_clipped_stats"]


def sigma_clipped_stats(
    data: ImageLike, mask: ImageLike | None = None, *, sigma: float = 3.0, maxiters: int | None = 5
) -> tuple[float, float, float]:
    """
    Mean, median and standard deviation of the good pixels, clipped about the median.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks pixels left out; non-finite pixels always are.
    sigma : float
        Pixels further than this many standard deviations from the median are dropped at each iteration.
    maxiters : int or None
        Iterations at most; None goes on until nothing is dropped, 0 drops nothing (astropy takes 0 for None).

    Returns
    -------
    mean, median, std : float
        In the unit of ``data``, as ``astropy.stats.sigma_clipped_stats`` gives them on the whole array;
        identical to the bit for every chunking.

    Raises
    ------
    NoGoodPixelsError
        Every pixel is masked or not finite.
    ParameterError
        ``sigma`` is not positive, or ``maxiters`` is negative.

    Notes
    -----
    The good pixels are gathered and sorted: the call needs about twice their size in memory.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(10, 2, (200, 200))
    >>> image[50, 50] = 1e9
    >>> [round(value, 1) for value in sigma_clipped_stats(image)]
    [10.0, 10.0, 2.0]
    """
    if not sigma > 0:
        raise ParameterError(f"sigma={sigma!r}; expected a positive number.")
    if maxiters is not None and maxiters < 0:
        raise ParameterError(f"maxiters={maxiters!r}; expected 0 or more, or None.")
    data = as_image(data)
    mask = as_mask(mask, data)
    values = sorted_good_values(data, mask)
    if len(values) == 0:
        raise no_good_pixels("take statistics")
    return clip_sorted(values, sigma, maxiters)


def sorted_good_values(data, mask) -> np.ndarray:
    """Gather the finite, unmasked values of an image, sorted."""
    blocks = data.to_delayed().ravel()
    masks = [None] * len(blocks) if mask is None else mask.to_delayed().ravel()
    pick = dask.delayed(good_values, pure=True)
    parts = dask.compute(*[pick(block, bad) for block, bad in zip(blocks, masks, strict=True)])
    values = np.concatenate(parts)
    values.sort()
    return values
