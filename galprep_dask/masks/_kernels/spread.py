"""Growth by a few pixels: each run of a segment offers itself to the pixels around it, and the nearest is taken.

Work goes with the pixels that segments reach, and not with those of the block: where sources are sparse and grow by
little, most of a block is not looked at. Distance and label are compared as one number, ``square * 2**31 + label``, as
in :mod:`galprep_dask.masks._kernels.nearest`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["n_offers", "spread"]

#: Rows in hand at a time, few enough for them to stay in the cache.
_ROWS = 32
_NOBODY = np.int64(2**62)
_LABEL = np.int64(2**31 - 1)


def n_offers(runs: np.ndarray, square: int) -> float:
    """About how many times :func:`spread` offers a pixel to a run."""
    reach = math.isqrt(square)
    return (2 * reach + 1) * float((runs[:, 2] - runs[:, 1] + math.pi / 2 * reach).sum())


def spread(runs: np.ndarray, ranks: np.ndarray, label: np.ndarray, limit: np.ndarray, grown: np.ndarray) -> None:
    """
    Grow the segments of a block, in place.

    Parameters
    ----------
    runs : (n, 4) int32 array
        Segments in sight of the block, as far as any of them grows, as seen from its first pixel.
    ranks : (n,) int array
        For each run the index of its label.
    label, limit : (m,) int arrays
        Sorted labels, and the largest square of a distance at which each has a pixel.
    grown : (ny, nx) int32 or bool array
        Where labels, or True, are written; zero so far.
    """
    # A pixel that goes to a segment has none nearer, so that nobody need look further than the one that grows most.
    square = int(limit.max())
    reach = math.isqrt(square)
    across = np.array([math.isqrt(square - y * y) for y in range(reach + 1)])
    order = np.argsort(runs[:, 0], kind="stable")
    y, start, stop = (runs[order, column].astype(np.int64) for column in range(3))
    best = np.full((_ROWS, 8 * (grown.shape[1] // 8 + 1)), _NOBODY)
    _spread(y, start, stop, ranks[order].astype(np.int64), across, best, label, limit, grown)


@njit(nogil=True, cache=True)
def _spread(y, start, stop, rank, across, best, label, limit, grown):
    ny, nx = grown.shape
    reach = len(across) - 1
    offered = np.zeros((len(best), best.shape[1] // 8), np.bool_)  # whether any of eight pixels was
    first = 0
    for top in range(0, ny, len(best)):
        bottom = min(top + len(best), ny)
        while first < len(y) and y[first] < top - reach:
            first += 1
        i = first
        while i < len(y) and y[i] < bottom + reach:
            for row in range(max(top, y[i] - reach), min(bottom, y[i] + reach + 1)):
                below = row - y[i]
                low, high = max(start[i] - across[abs(below)], 0), min(stop[i] + across[abs(below)], nx)
                if low < high:
                    _offer(best[row - top], rank[i], below * below, start[i], stop[i], low, high)
                    offered[row - top, low >> 3 : ((high - 1) >> 3) + 1] = True
            i += 1
        for row in range(bottom - top):
            _take(best[row], offered[row], label, limit, grown[top + row])


@njit(nogil=True, cache=True)
def _offer(best, rank, square, start, stop, low, high):
    """Offer the pixels ``low:high`` of a row to a run that is ``square`` away along the columns."""
    for x in range(low, min(start, high)):
        best[x] = min(best[x], ((start - x) * (start - x) + square) << 31 | rank)
    for x in range(max(start, low), min(stop, high)):
        best[x] = min(best[x], square << 31 | rank)
    for x in range(max(stop, low), high):
        best[x] = min(best[x], ((x - stop + 1) * (x - stop + 1) + square) << 31 | rank)


@njit(nogil=True, cache=True)
def _take(best, offered, label, limit, grown):
    """Give the pixels of a row to those that grow so far, and forget what was offered."""
    for word in range(len(offered)):
        if offered[word]:
            offered[word] = False
            for x in range(8 * word, 8 * word + 8):
                if best[x] < _NOBODY:
                    rank = best[x] & _LABEL
                    if best[x] >> 31 <= limit[rank]:
                        grown[x] = label[rank]
                    best[x] = _NOBODY
