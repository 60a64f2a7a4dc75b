"""The level above which a pixel belongs to a source."""

from __future__ import annotations

import math

from galprep_dask.arrays import ImageLike
from galprep_dask.errors import ParameterError
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["detect_threshold"]


def detect_threshold(
    data: ImageLike, n_sigma: float, *, mask: ImageLike | None = None, sigma_clip: float = 3.0, maxiters: int = 10
) -> float:
    """
    Level of ``n_sigma`` clipped standard deviations above the clipped median.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    n_sigma : float
        Standard deviations above the sky.
    mask : (ny, nx) bool array, optional
        True marks pixels left out; non-finite pixels always are.
    sigma_clip, maxiters : float, int
        As for :func:`galprep_dask.stats.sigma_clipped_stats`.

    Returns
    -------
    float
        In the unit of ``data``.

    Raises
    ------
    NoGoodPixelsError
        Every pixel is masked or not finite.
    ParameterError
        ``n_sigma`` is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).normal(100, 1, (200, 200))
    >>> round(detect_threshold(image, 3.0), 1)
    103.0
    """
    if not math.isfinite(n_sigma):
        raise ParameterError(f"n_sigma={n_sigma!r}; expected a finite number.")
    _, median, std = sigma_clipped_stats(data, mask, sigma=sigma_clip, maxiters=maxiters)
    return median + n_sigma * std
