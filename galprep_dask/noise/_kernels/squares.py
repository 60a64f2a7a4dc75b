"""Means of squares of pixels, against what white noise would give."""

from __future__ import annotations

import numpy as np

__all__ = ["scatter_of_squares"]

#: A square counts if this share of its pixels is good.
_LEAST_GOOD = 0.5
#: Values that are enough to tell their quartiles.
_SAMPLE = 2**15
#: Fewer squares than this are too few to tell which of them are wild.
_ENOUGH = 20


def scatter_of_squares(tile: np.ndarray, bad: np.ndarray, sizes, n_sigma: float) -> np.ndarray:
    """
    Scatter of the sums of squares of ``size`` x ``size`` pixels, in units of what white noise has.

    Gives for each of ``sizes`` the sum over the squares of the squared deviation of ``sum / (sqrt(n) * std)`` from its
    mean, and the degrees of freedom; ``n`` are the good pixels of a square, and ``std`` the standard deviation of
    the good pixels of the tile. Pixels and squares beyond ``n_sigma`` are left out.
    """
    good = np.isfinite(tile) & ~bad
    values = tile[good].astype(np.float64)
    if len(values) < _ENOUGH:
        return np.zeros((len(sizes), 2))
    low, high = _bounds(values, n_sigma)
    keep = (values >= low) & (values <= high)
    good[good] = keep
    values = values[keep]
    mean, std = values.mean(), values.std()
    if not std > 0:
        return np.zeros((len(sizes), 2))
    pixels = np.zeros(tile.shape)
    pixels[good] = (values - mean) / std
    return np.array([_scatter(pixels, good, size, n_sigma) for size in sizes])


def _scatter(pixels, good, size, n_sigma):
    n_good = _sums(good, size)
    used = n_good >= max(_LEAST_GOOD * size**2, 1)
    scaled = _sums(pixels, size)[used] / np.sqrt(n_good[used])
    if len(scaled) >= _ENOUGH:
        low, high = _bounds(scaled, n_sigma)
        scaled = scaled[(scaled >= low) & (scaled <= high)]
    if len(scaled) < 2:
        return 0.0, 0.0
    return ((scaled - scaled.mean()) ** 2).sum(), len(scaled) - 1.0


def _sums(plane, size):
    ny, nx = plane.shape[0] // size, plane.shape[1] // size
    squares = plane[: ny * size, : nx * size].reshape(ny, size, nx, size)
    return squares.sum(axis=3, dtype=np.float64).sum(axis=1)


def _bounds(values, n_sigma):
    """Bounds ``n_sigma`` widths from the median; the width is that of a Gaussian with the quartiles of the values."""
    some = values[:: (len(values) // _SAMPLE) | 1]  # odd, not to stay in a few columns of the image
    lower, median, upper = np.percentile(some, [25, 50, 75])
    width = (upper - lower) / 1.3489795
    width = width if width > 0 else values.std()  # most of the values may be equal
    return median - n_sigma * width, median + n_sigma * width
