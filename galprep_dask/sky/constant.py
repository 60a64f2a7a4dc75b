"""A sky of one level: the clipped median or mean of source-free pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import dask.array as da
import numpy as np
from astropy.io import fits

from galprep_dask.arrays import CHUNK_SIDE, ImageLike
from galprep_dask.sky._kernels.difference import difference
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["ConstantSky", "fit_mean_sky", "fit_median_sky"]


@dataclass(frozen=True)
class ConstantSky:
    """
    A sky of one level.

    Attributes
    ----------
    level : float
        The sky, in the unit of the image.
    rms : float
        Clipped standard deviation of the pixels that it was taken from.
    method : str
        "median" or "mean".
    """

    level: float
    rms: float
    method: str

    def evaluate(self, shape: tuple[int, int], chunks=(CHUNK_SIDE, CHUNK_SIDE)) -> da.Array:
        """Give the sky as a lazy float64 image of ``shape``."""
        return da.full(shape, self.level, chunks=chunks, dtype=np.float64)

    def subtract_from(self, image: da.Array, dtype) -> da.Array:
        """
        Give an image minus the sky, lazily, without an image of the sky in between.

        Parameters
        ----------
        image : (ny, nx) dask array
            In the unit of the sky.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        (ny, nx) dask array of ``dtype``
            The same to the bit as the difference to :meth:`evaluate`, taken in float64 and rounded once.
        """
        of_block = partial(difference, sky=self.level, dtype=dtype)
        return image.map_blocks(of_block, dtype=dtype, meta=image._meta.astype(dtype))

    def to_header(self) -> fits.Header:
        """Write the model down as FITS keywords."""
        return fits.Header(
            [
                ("SKYMODEL", self.method, "sky model that was subtracted"),
                ("SKYLEV", self.level, "sky level [unit of the image]"),
                ("SKYRMS", self.rms, "rms of source-free pixels"),
            ]
        )


def fit_median_sky(
    data: ImageLike, mask: ImageLike | None = None, *, sigma_clip: float = 3.0, maxiters: int | None = 5
) -> ConstantSky:
    """
    Take the sigma-clipped median of the unmasked pixels for the sky.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels; non-finite pixels are always left out.
    sigma_clip, maxiters : float, int
        As for :func:`galprep_dask.stats.sigma_clipped_stats`.

    Returns
    -------
    ConstantSky

    Raises
    ------
    NoGoodPixelsError
        Every pixel is masked or not finite.

    Examples
    --------
    >>> fit_median_sky(np.full((20, 30), 7.0)).level
    7.0
    """
    _, median, std = sigma_clipped_stats(data, mask, sigma=sigma_clip, maxiters=maxiters)
    return ConstantSky(median, std, "median")


def fit_mean_sky(
    data: ImageLike, mask: ImageLike | None = None, *, sigma_clip: float = 3.0, maxiters: int | None = 5
) -> ConstantSky:
    """
    Take the sigma-clipped mean of the unmasked pixels for the sky; parameters as :func:`fit_median_sky`.

    Parameters
    ----------
    data, mask : (ny, nx) array
        As for :func:`fit_median_sky`.
    sigma_clip, maxiters : float, int
        As for :func:`fit_median_sky`.

    Returns
    -------
    ConstantSky
    """
    mean, _, std = sigma_clipped_stats(data, mask, sigma=sigma_clip, maxiters=maxiters)
    return ConstantSky(mean, std, "mean")
