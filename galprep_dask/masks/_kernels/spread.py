"""Growth by a few pixels: each run of a segment offers itself to the pixels around it, and the nearest is taken.

Work goes with the pixels that segments reach, and not with those of the block: where sources are sparse and grow by
little, most of a block is not looked at. Distance and label are compared as one number, ``square * 2**31 + label``, as
in :mod:`galprep_dask.masks._kernels.nearest`. What the pixels of the rings near segments sum up to is found likewise.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from galprep_dask._kernels.exact_sums import add_pixel

__all__ = ["are_few", "spread", "sum_rings"]

#: Offers to a pixel up to which they cost less than to find the nearest segment of every pixel.
_FEW_OFFERS = 4
#: Rows in hand at a time, few enough for them to stay in the cache.
_ROWS = 32
_NOBODY = np.int64(2**62)
_LABEL = np.int64(2**31 - 1)


def are_few(runs: np.ndarray, square: int, n_pixels: int) -> bool:
    """Tell whether to offer pixels to runs, as far as ``square``, is less work than to look at all pixels."""
    reach = math.isqrt(square)
    n_offers = (2 * reach + 1) * float((runs[:, 2] - runs[:, 1] + math.pi / 2 * reach).sum())
    return n_offers < _FEW_OFFERS * n_pixels


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
    _spread(*_offers(runs, ranks, int(limit.max()), grown.shape[1]), label, limit, grown)


def sum_rings(runs, ranks, n_labels, n_rings, bits, mask, n_pieces, first, mantissa, shift):
    """
    Count and sum the good sky pixels of the first rings around the segments of a block.

    Parameters
    ----------
    runs, ranks : arrays
        As for :func:`spread`, as far as the rings reach.
    n_labels, n_rings : int
        How many.
    bits : (ny, nx) int32 or int64 array
        Bits of the floats of the block.
    mask : (ny, nx) bool array
        Pixels that count for nothing, or no pixels at all.
    n_pieces, first, mantissa, shift : int
        Of the sums, as in :mod:`galprep_dask._kernels.exact_sums`.

    Returns
    -------
    count : (n_labels * n_rings,) int64 array
        Good pixels in the rings 1, 2 ... of the first label, then of the second, and so on.
    sums : (n_labels * n_rings, n_pieces) int64 array
        Not yet normalised.
    """
    count = np.zeros(n_labels * n_rings, np.int64)
    sums = np.zeros((len(count), n_pieces), np.int64)
    ring = np.array([0, *(math.isqrt(square - 1) + 1 for square in range(1, n_rings**2 + 1))])
    offers = _offers(runs, ranks, n_rings**2, bits.shape[1])
    _sum_rings(*offers, bits, mask, ring, n_rings, count, sums, first, mantissa, shift)
    return count, sums


def _offers(runs, ranks, square, nx):
    """Put runs in the order of their rows, and make room for some rows of offers."""
    reach = math.isqrt(square)
    across = np.array([math.isqrt(square - y * y) for y in range(reach + 1)])
    order = np.argsort(runs[:, 0], kind="stable")
    y, start, stop = (runs[order, column].astype(np.int64) for column in range(3))
    best = np.full((_ROWS, 8 * (nx // 8 + 1)), _NOBODY)
    return y, start, stop, ranks[order].astype(np.int64), across, best


@njit(nogil=True, cache=True)
def _spread(y, start, stop, rank, across, best, label, limit, grown):
    ny, nx = grown.shape
    offered = np.zeros((len(best), best.shape[1] // 8), np.bool_)  # whether any of eight pixels was
    first = 0
    for top in range(0, ny, len(best)):
        bottom = min(top + len(best), ny)
        first = _offer_rows(y, start, stop, rank, across, first, top, bottom, nx, best, offered)
        for row in range(bottom - top):
            _take(best[row], offered[row], label, limit, grown[top + row])


@njit(nogil=True, cache=True)
def _sum_rings(y, start, stop, rank, across, best, bits, mask, ring, n_rings, count, sums, piece, mantissa, shift):
    ny, nx = bits.shape
    offered = np.zeros((len(best), best.shape[1] // 8), np.bool_)
    infinite = np.int64(0xFF if mantissa < 32 else 0x7FF)
    first = 0
    for top in range(0, ny, len(best)):
        bottom = min(top + len(best), ny)
        first = _offer_rows(y, start, stop, rank, across, first, top, bottom, nx, best, offered)
        for row in range(bottom - top):
            mine = best[row]
            for word in range(offered.shape[1]):
                if not offered[row, word]:
                    continue
                offered[row, word] = False
                for x in range(8 * word, 8 * word + 8):
                    nearest, mine[x] = mine[x], _NOBODY
                    if nearest < _NOBODY and nearest > _LABEL:  # a segment's own pixels have square 0
                        here = bits[top + row, x]
                        counts = (np.int64(here) >> mantissa) & infinite != infinite
                        if mask.size > 0:
                            counts &= not mask[top + row, x]
                        if counts:
                            at = (nearest & _LABEL) * n_rings + ring[nearest >> 31] - 1
                            count[at] += 1
                            add_pixel(sums[at], piece, here, mantissa, shift)


@njit(nogil=True, cache=True)
def _offer_rows(y, start, stop, rank, across, first, top, bottom, nx, best, offered):
    """Offer the pixels of some rows to all runs in reach, from run ``first`` on; give the first for the next rows."""
    reach = len(across) - 1
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
    return first


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
