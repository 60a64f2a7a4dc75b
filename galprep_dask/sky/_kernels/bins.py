"""Means of square bins of pixels, and bins turned back into pixels."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["bin_means", "unite_scales"]


def bin_means(block: np.ndarray, bad: np.ndarray | None, factor: int) -> np.ndarray:
    """
    Means of the good pixels of bins of ``factor`` x ``factor`` pixels, of the dtype of ``block``.

    The first bin begins at the first pixel. A bin with fewer good pixels than bad ones is NaN; bins that the block
    cuts short count the pixels that they have.
    """
    return _bin_means(block, np.empty((0, 0), np.bool_) if bad is None else bad, bad is not None, factor)


@njit(nogil=True, cache=True)
def _bin_means(block, bad, has_bad, factor):
    ny, nx = block.shape
    means = np.empty((-(-ny // factor), -(-nx // factor)), block.dtype)
    total, n_good = np.empty(means.shape[1]), np.empty(means.shape[1], np.int64)
    for row in range(means.shape[0]):
        total[:], n_good[:] = 0.0, 0
        rows = range(row * factor, min((row + 1) * factor, ny))
        for y in rows:
            for x in range(nx):
                value = np.float64(block[y, x])
                if np.isfinite(value) and not (has_bad and bad[y, x]):
                    total[x // factor] += value
                    n_good[x // factor] += 1
        for column in range(means.shape[1]):
            n_pixels = len(rows) * (min((column + 1) * factor, nx) - column * factor)
            enough = 2 * n_good[column] >= n_pixels
            means[row, column] = total[column] / n_good[column] if enough else np.nan
    return means


def unite_scales(first: np.ndarray, *binned: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """Mark the pixels that are set in ``first``, or in a bin of ``binned``."""
    united = first != 0
    for bins, factor in zip(binned, factors, strict=True):
        for row in range(len(bins)):
            if bins[row].any():
                wide = np.repeat(bins[row] != 0, factor)[: united.shape[1]]
                united[row * factor : (row + 1) * factor] |= wide
    return united
