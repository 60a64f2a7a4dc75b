"""Fill what segments grow into."""

from __future__ import annotations

import numpy as np
from numba import njit

from galprep_dask.masks._kernels.nearest import nearest_segment

__all__ = ["fill_growth"]


def fill_growth(window, table, *, halo, default, dtype) -> np.ndarray:
    """
    Grow the segments of a block.

    Parameters
    ----------
    window : (ny + 2 halo, nx + 2 halo) int32 array
        Labels of the block and its surroundings.
    table : tuple of two arrays
        Sorted labels, and the largest square of a distance at which each has a pixel.
    halo : int
        Width of the surroundings, as far as any label grows.
    default : int
        The largest square of the labels that are not in ``table``.
    dtype : dtype
        int32 for labels, bool for a mask.

    Returns
    -------
    (ny, nx) array
    """
    labels, limits = table
    ny, nx = window.shape[0] - 2 * halo, window.shape[1] - 2 * halo
    grown = window[halo : halo + ny, halo : halo + nx].astype(dtype)
    if len(labels) or default:
        owner, square = nearest_segment(window, halo, halo)
        _fill(window, halo, owner, square, labels, limits, default, grown)
    return grown


@njit(nogil=True, cache=True)
def _fill(window, halo, owner, square, labels, limits, default, grown):
    ny, nx = owner.shape
    known, known_limit = np.zeros(nx, np.int32), np.zeros(nx, np.int64)  # of the row above
    for y in range(ny):
        last, limit = np.int32(0), np.int64(0)
        for x in range(nx):
            label = owner[y, x]
            if label != last and label > 0:
                if known[x] == label:
                    limit = known_limit[x]
                else:
                    at = np.searchsorted(labels, label)
                    limit = limits[at] if at < len(labels) and labels[at] == label else default
                last = label
            known[x], known_limit[x] = last, limit
            if square[y, x] > 0 and square[y, x] <= limit:
                grown[y, x] = label
