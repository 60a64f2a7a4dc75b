"""The segment nearest to every pixel: exact squares of Euclidean distances, the lower label on a tie.

The square of a distance is a distance along the row squared plus one along the column squared. The second is the same
for every pixel of a row, so that in a row each column is a parabola, and the nearest segment belongs to the lowest
parabola at the pixel. Parabolas of one curvature cross once: those that are lowest somewhere, and the pixels from which
each of them is, are found in one sweep, whatever the distance [1]_.

Ties do not need a case of their own. Distance and label, compared as a pair, are a single number,
``square * 2**31 + label``, whose parabolas have the curvature ``2**31`` and cross once as well. Where the one on the
right takes over is a division of integers: nothing is rounded.

References
----------
.. [1] Meijster, Roerdink, Hesselink 2000, "A general algorithm for computing distance transforms in linear time"
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["nearest_segment"]

#: Columns 1, 2, 4 and 8 away on either side may show, before the sweep, that a parabola is nowhere the lowest.
_POWERS = 4
_NEAR = 2 ** (_POWERS - 1)

#: Reach up to which int32 holds the eightfold squares.
_FURTHEST_EIGHTFOLD = 2**13


def nearest_segment(window: np.ndarray, halo: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Label of the nearest segment, and the square of its distance, for the pixels of a block.

    Parameters
    ----------
    window : (ny + 2 halo, nx + 2 halo) int32 array
        Labels of the block and its surroundings, 0 = sky.
    halo : int
        Width of the surroundings, ``reach`` or more.
    reach : int
        Distance in pixels at which the search ends, less than 2**15.

    Returns
    -------
    owner : (ny, nx) int32 array
        The nearest label within ``reach``, else 0. A segment's own pixels are its own.
    square : (ny, nx) int32 array
        Square of the distance in pixels; 0 where there is no owner.
    """
    if halo > reach:
        window = window[halo - reach : reach - halo, halo - reach : reach - halo]
    ny, nx = window.shape[0] - 2 * reach, window.shape[1] - 2 * reach
    owner = np.empty((ny, nx), np.int32)
    square = np.empty((ny, nx), np.int32)
    below = np.empty((ny, window.shape[1]), np.uint16)
    _distance_below(window, reach, below)
    _search(window, reach, below, owner, square)
    return owner, square


@njit(nogil=True, cache=True)
def _distance_below(window, reach, below):
    """Distance down the column to the nearest segment pixel, ``reach + 1`` where it is further."""
    ny, nx = below.shape
    distance = np.full(nx, reach + 1, below.dtype)
    for y in range(window.shape[0] - 1, reach - 1, -1):
        for x in range(nx):
            further = min(distance[x] + 1, reach + 1)
            distance[x] = 0 if window[y, x] > 0 else further
        if y < reach + ny:
            below[y - reach] = distance


@njit(nogil=True, cache=True)
def _hide(height, limit, hidden):
    """
    Mark the columns of a row whose parabolas are out of reach, or above one of two others wherever they look.

    Parabolas a to the left and b to the right together hide one that is higher than them by l and by r at their
    apexes if it is overtaken by the right one before it overtakes the left one: if (l/a - a) + (r/b - b) > 0. The two
    sides are apart, so that the greatest of each is all that is wanted. They are taken eightfold, in integers.
    """
    for x in range(len(hidden)):
        mine = height[x + _NEAR]
        left = right = np.int32(-(2**30))
        for power in range(_POWERS):
            step, times = np.int32(1 << power), np.int32(_POWERS - 1 - power)
            less = np.int32(_NEAR << power)
            left = max(left, ((mine - height[x + _NEAR - step]) << times) - less)
            right = max(right, ((mine - height[x + _NEAR + step]) << times) - less)
        hidden[x] = (left + right > 0) | (mine > limit)


@njit(nogil=True, cache=True, error_model="numpy")
def _search(window, reach, below, owner, square):
    ny, nx = owner.shape
    width = window.shape[1]
    above = np.full(width, reach + 1, np.int32)  # distance up the column, and the label there
    above_label = np.zeros(width, np.int32)
    limit = np.int32(reach * reach)
    # Square of the distance along the column, up or down; columns out of reach are higher than any in reach.
    height = np.full(width + 2 * _NEAR, limit + 1, np.int32)
    hidden = np.empty(width, np.bool_)
    column = np.empty(width + 1, np.int64)
    # The parabolas that are lowest somewhere in the row: apex, height there, label, the first pixel that they win.
    apex, base = np.empty(width, np.int64), np.empty(width, np.int64)
    label, start = np.empty(width, np.int32), np.empty(width + 1, np.int64)
    for y in range(reach + ny):
        for x in range(width):
            here = window[y, x]
            further = min(above[x] + np.int32(1), np.int32(reach + 1))
            above[x] = np.int32(0) if here > 0 else further
            above_label[x] = here if here > 0 else above_label[x]
        if y < reach:
            continue
        row = y - reach
        for x in range(width):
            gap = min(above[x], np.int32(below[row, x]))
            height[x + _NEAR] = gap * gap
        if reach <= _FURTHEST_EIGHTFOLD:
            _hide(height, limit, hidden)
        else:
            for x in range(width):
                hidden[x] = height[x + _NEAR] > limit
        n_columns = 0
        for x in range(width):
            column[n_columns] = x
            n_columns += not hidden[x]
        n = 0
        for i in range(n_columns):
            x = column[i]
            up, down = np.int64(above[x]), np.int64(below[row, x])
            # Which of both is nearer is anybody's guess: choosing between values is quicker than a branch.
            mine = above_label[x]
            other = window[y + (down if down <= up else 0), x]
            other = other if down <= up else mine
            mine = other if down < up else min(mine, other)
            along = np.int64(height[x + _NEAR])
            first = np.int64(0)
            while n > 0:
                # It wins from the first pixel where (distance, label) is not above that of the parabola before.
                twice = 2 * (x - apex[n - 1])
                rise = along - base[n - 1] + (x - apex[n - 1]) * (x + apex[n - 1]) + (mine > label[n - 1])
                if rise > twice * start[n - 1]:
                    # Both are positive; unsigned, the division needs no second thought about signs.
                    first = np.int64(np.uint64(rise + twice - 1) // np.uint64(twice))
                    break
                n -= 1
            if first < width:
                apex[n], base[n], label[n], start[n] = x, along, mine, first
                n += 1
        if n == 0:
            owner[row] = 0
            square[row] = 0
            continue
        start[n] = width
        for i in range(n):
            for x in range(max(start[i] - reach, 0), min(start[i + 1] - reach, nx)):
                across = x + reach - apex[i]
                total = across * across + base[i]
                within = total <= limit
                owner[row, x] = label[i] if within else 0
                square[row, x] = total if within else 0
