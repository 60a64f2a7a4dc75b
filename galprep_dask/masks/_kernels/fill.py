"""Fill what segments grow into."""

from __future__ import annotations

import numpy as np
from numba import njit

from galprep_dask.masks._kernels.nearest import nearest_segment
from galprep_dask.masks._kernels.runs import paint_ranks
from galprep_dask.masks._kernels.spread import are_few, spread

__all__ = ["fill_growth"]


def fill_growth(runs, shape, halo, labels, limits, default, dtype) -> np.ndarray:
    """
    Grow the segments of a block.

    Parameters
    ----------
    runs : (n, 4) int32 array
        Segments within ``halo`` pixels of the block (:func:`runs_in_sight`).
    shape : (ny, nx)
        Of the block.
    halo : int
        As far as any label grows.
    labels, limits : (n,) int32 and int64 arrays
        Sorted labels, and the largest square of a distance at which each has a pixel.
    default : int
        The largest square of labels that are not among them.
    dtype : dtype
        int32 for labels, bool for a mask.

    Returns
    -------
    (ny, nx) array
    """
    grown = np.zeros(shape, dtype)
    if len(runs):
        present, ranks = np.unique(runs[:, 3], return_inverse=True)
        limit = np.full(len(present), default, np.int64)
        at = np.minimum(np.searchsorted(labels, present), max(len(labels) - 1, 0))
        listed = labels[at] == present if len(labels) else np.zeros(len(present), bool)
        limit[listed] = limits[at[listed]]
        if are_few(runs, int(limit.max()), grown.size):
            spread(runs, ranks, present, limit, grown)
        else:
            owner, square = nearest_segment(paint_ranks(runs, present, shape, halo), halo, halo)
            _fill(owner, square, np.concatenate([[0], present]), np.concatenate([[0], limit]), grown)
    return grown


@njit(nogil=True, cache=True)
def _fill(owner, square, label, limit, grown):
    ny, nx = owner.shape
    for y in range(ny):
        for x in range(nx):
            # A segment's own pixels have square 0, and so has what nobody owns, whose label is 0.
            if square[y, x] <= limit[owner[y, x]]:
                grown[y, x] = label[owner[y, x]]
