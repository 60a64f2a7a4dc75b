"""Correlated noise: how much less the pixels of a resampled mosaic scatter than their means over squares tell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product

import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_number
from galprep_dask.blockwise import map_regions
from galprep_dask.errors import ParameterError, TooFewPixelsError
from galprep_dask.noise._kernels.squares import scatter_of_squares

__all__ = ["correlation_factor"]

_log = logging.getLogger("galprep_dask.noise")

#: Side of the tiles that are measured by themselves; they lie as they lie in the image, whatever the chunks.
_TILE = 1024
#: Fewer squares than this give no factor that is worth the name.
_LEAST_SQUARES = 10


def correlation_factor(
    data: ImageLike,
    mask: ImageLike | None = None,
    *,
    block_size: int | Sequence[int] = 16,
    sigma_clip: float = 5.0,
) -> float | np.ndarray:
    r"""
    Factor by which the noise of means over squares exceeds what the noise of single pixels makes of them.

    Resampling shares the noise of one pixel among its neighbours. Each then scatters less, but what a fit sees of
    a galaxy, which is the sum of many, does not. The factor is ``block_size`` times the standard deviation of
    the means of squares, over that of pixels: 1 for white noise. Its square is for ``fac2`` of :func:`sigma_image`.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image. Not modified.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels; non-finite pixels are always left out. Sources that are not masked look
        like correlated noise.
    block_size : int or sequence of int
        Side in pixels of the squares: the size of what is to be fitted, or a few times the distance over which noise is
        correlated. Smaller squares give a smaller factor.
    sigma_clip : float
        Pixels, and squares, further than this many standard deviations from the median are left out.

    Returns
    -------
    float, or array of float for a sequence
        1 for white noise, with a relative error of ``1 / sqrt(2 n)`` for ``n`` squares, which is logged.

    Raises
    ------
    TooFewPixelsError
        Fewer than 10 squares have half of their pixels left.
    ParameterError, ImageShapeError
        A parameter makes no sense; the mask has another shape.

    Notes
    -----
    Squares of which at least half of the pixels are good count, with the number that is: for ``n`` pixels the sum is
    compared with ``sqrt(n)`` times the standard deviation. For noise of correlation function :math:`\rho` the factor
    of whole squares of side :math:`b` is
    :math:`\left[\sum_{dy,dx} (1 - |dy|/b)_+ (1 - |dx|/b)_+\, \rho(dy, dx)\right]^{1/2}`.

    Tiles of 1024 x 1024 pixels are measured each against its own pixels and its own mean, so that neither a sky that is
    left nor an exposure that varies over larger distances counts. One pass; the same to the bit for all chunks.

    References
    ----------
    .. [1] Casertano et al. (2000), AJ 120, 2747, appendix A.
    .. [2] Fruchter & Hook (2002), PASP 114, 144.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 1, (400, 400))
    >>> round(correlation_factor(noise, block_size=5), 1)
    1.0
    >>> smoothed = (noise[1:, 1:] + noise[:-1, 1:] + noise[1:, :-1] + noise[:-1, :-1]) / 4
    >>> round(correlation_factor(smoothed, block_size=5), 1)
    1.8
    """
    image = as_image(data)
    masked = as_mask(mask, image)
    sizes = _as_sizes(block_size, image.shape)
    if not (is_number(sigma_clip) and sigma_clip > 0):
        raise ParameterError(f"sigma_clip={sigma_clip!r}; expected a positive number.")
    tiles = [
        (y, min(y + _TILE, image.shape[0]), x, min(x + _TILE, image.shape[1]))
        for y, x in product(*(range(0, length, _TILE) for length in image.shape))
    ]
    scatter = map_regions(
        _scatter_of_tile, tiles, [image] if masked is None else [image, masked], [None] * len(tiles), sizes=sizes,
        sigma_clip=float(sigma_clip),
    ).compute()  # fmt: skip
    squares, freedom = np.sum(list(scatter), axis=0).T
    if freedom.min() < _LEAST_SQUARES:
        size = sizes[int(np.argmin(freedom))]
        raise TooFewPixelsError(
            f"only {int(freedom.min())} squares of {size} x {size} pixels are half free of sources; "
            f"expected {_LEAST_SQUARES} or more. Pass a smaller block_size, or a mask that leaves more."
        )
    factors = np.sqrt(squares / freedom)
    for size, factor, n in zip(sizes, factors, freedom, strict=True):
        error = factor / np.sqrt(2 * n)
        _log.info("noise of means over %d x %d pixels: %.4g +- %.2g times white noise", size, size, factor, error)
    return float(factors[0]) if np.ndim(block_size) == 0 else factors


def _as_sizes(block_size, shape) -> tuple[int, ...]:
    sizes = (block_size,) if np.ndim(block_size) == 0 else tuple(block_size)
    largest = min(*shape, _TILE)
    if not sizes or not all(isinstance(size, int | np.integer) and 1 <= size <= largest for size in sizes):
        raise ParameterError(f"block_size={block_size!r}; expected whole numbers of pixels from 1 to {largest}.")
    return tuple(int(size) for size in sizes)


def _scatter_of_tile(regions, _, *, box, sizes, sigma_clip):
    tile, bad = regions if len(regions) == 2 else (regions[0], np.zeros(regions[0].shape, bool))
    return scatter_of_squares(tile, bad, sizes, sigma_clip)
