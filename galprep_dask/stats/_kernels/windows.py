"""
Between the passes: where the medians and the bounds of every iteration must lie.

Cells say how many values lie between which limits. The clipping is followed with intervals in place of numbers:
the lower bound is somewhere in ``[low0, low1]``, the upper one in ``[high0, high1]``, so that some cells are
surely kept, and some possibly. From those follow limits of the median and of the standard deviation, and from
these the limits of the next bounds. Nothing is assumed about how values lie inside a cell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["SortedCells", "find_windows", "power_of_two_unit", "sort_cells"]

#: Iterations followed; where clipping goes on for longer, all that may still be clipped becomes one window.
_MAX_FOLLOWED = 200
_MAX_WINDOWS = 256
#: Room for the rounding of sums, relative to the standard deviation.
_SLACK = 1e-9


class SortedCells(NamedTuple):
    """
    Least and greatest value of each cell, and how many it holds, ordered by the least value.

    Cells may lie in one another: ``by_high`` orders them by their greatest value.
    """

    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    by_high: np.ndarray

    def n_between(self, low, high) -> np.ndarray:
        """How many values at most lie in intervals: all values of the cells that touch them."""
        begun = np.concatenate([[0], np.cumsum(self.n)])[np.searchsorted(self.low, high, side="right")]
        ended = np.concatenate([[0], np.cumsum(self.n[self.by_high])])
        return begun - ended[np.searchsorted(self.high[self.by_high], low, side="left")]


def sort_cells(low: np.ndarray, high: np.ndarray, n: np.ndarray) -> SortedCells:
    """Order cells by their least value."""
    order = np.argsort(low, kind="stable")
    return SortedCells(low[order], high[order], n[order], np.argsort(high[order], kind="stable"))


@njit(nogil=True, cache=True)
def power_of_two_unit(largest):
    """Power of two that brings a number to about 1, so that squares neither overflow nor vanish."""
    return math.ldexp(1.0, -min(max(math.frexp(largest)[1], -1000), 1000))


def find_windows(cells: SortedCells, sigma: float, maxiters: int | None) -> np.ndarray:
    """
    Find disjoint intervals that contain every median and every clip bound.

    Parameters
    ----------
    cells : SortedCells
        Of all good values.
    sigma, maxiters : float, int or None
        Of the clipping.

    Returns
    -------
    (n_windows, 2) float64 array
        First and last value of each, in ascending order.
    """
    lows, highs = (-np.inf, -np.inf), (np.inf, np.inf)
    medians = _median_limits(cells, *lows, *highs)
    found = [medians]
    followed = _MAX_FOLLOWED if maxiters is None else min(maxiters, _MAX_FOLLOWED)
    for _ in range(followed):
        least, most = _std_limits(cells, *lows, *highs)
        new_lows = _step(lows, medians, -sigma * most, -sigma * least, max)
        new_highs = _step(highs, medians, sigma * least, sigma * most, min)
        if (new_lows, new_highs) == (lows, highs):
            break
        lows, highs = new_lows, new_highs
        medians = _median_limits(cells, *lows, *highs)
        found += [lows, highs, medians]
    else:
        if maxiters is None or maxiters > followed:
            found.append((lows[0], highs[1]))
    return _unite(found)


def _step(bounds, medians, least, most, nearer):
    """Limits of the next bound: median plus reach, and never further out than the last bound."""
    slack = _SLACK * abs(most if abs(most) > abs(least) else least)
    slack = slack if math.isfinite(slack) else 0.0
    return nearer(bounds[0], medians[0] + least - slack), nearer(bounds[1], medians[1] + most + slack)


@njit(nogil=True, cache=True)
def _kept(low, high, low0, low1, high0, high1):
    """Whether values of a cell are possibly kept, and whether they surely are."""
    return high >= low0 and low <= high1, low >= low1 and high <= high0


@njit(nogil=True, cache=True)
def _median_limits(cells, low0, low1, high0, high1):
    """
    Limits of both middle values.

    At the lower middle value x, at least as many kept values are <= x as are > x; the possible ones that
    may be <= x are then no fewer than the sure ones that must be > x. The first x for which that holds
    is the lower limit; the upper one is the same seen from above.
    """
    n_sure = 0
    for i in range(len(cells.n)):
        if _kept(cells.low[i], cells.high[i], low0, low1, high0, high1)[1]:
            n_sure += cells.n[i]
    limits = (low0, high1)
    passed, ahead = 0, n_sure
    for i in range(len(cells.n)):
        possible, sure = _kept(cells.low[i], cells.high[i], low0, low1, high0, high1)
        passed += cells.n[i] if possible else 0
        ahead -= cells.n[i] if sure else 0
        if passed > 0 and passed >= ahead:
            limits = (max(cells.low[i], low0), high1)
            break
    passed, ahead = 0, n_sure
    for i in cells.by_high[::-1]:
        possible, sure = _kept(cells.low[i], cells.high[i], low0, low1, high0, high1)
        passed += cells.n[i] if possible else 0
        ahead -= cells.n[i] if sure else 0
        if passed > 0 and passed >= ahead:
            return limits[0], min(cells.high[i], high1)
    return limits


@njit(nogil=True, cache=True)
def _std_limits(cells, low0, low1, high0, high1):
    """
    Limits of the standard deviation over all sets that hold the sure values and any of the possible ones.

    The variance is the least mean square distance from any point. Of the sure values that point is about their
    mean, and moving them inside their cells by h changes the root of the sum of squares by at most the root of the
    sum of h^2. Of the others those are taken that make the mean square largest, or smallest.
    """
    largest = 0.0
    for i in range(len(cells.n)):
        if _kept(cells.low[i], cells.high[i], low0, low1, high0, high1)[0]:
            largest = max(largest, abs(max(cells.low[i], low0)), abs(min(cells.high[i], high1)))
    unit = power_of_two_unit(largest)
    n_sure, total, width = 0, 0.0, 0.0
    for i in range(len(cells.n)):
        if _kept(cells.low[i], cells.high[i], low0, low1, high0, high1)[1]:
            low, high = cells.low[i] * unit, cells.high[i] * unit
            n_sure += cells.n[i]
            total += cells.n[i] * (low / 2 + high / 2)
            width += cells.n[i] * (high / 2 - low / 2)
    if n_sure == 0:
        return 0.0, math.inf
    mean = total / n_sure
    squares, moved, above, below = 0.0, 0.0, width, -width
    near, far = np.empty(len(cells.n)), np.empty(len(cells.n))
    n, n_unsure = np.empty(len(cells.n), np.int64), 0
    for i in range(len(cells.n)):
        possible, sure = _kept(cells.low[i], cells.high[i], low0, low1, high0, high1)
        if sure:
            low, high = cells.low[i] * unit, cells.high[i] * unit
            squares += cells.n[i] * (low / 2 + high / 2 - mean) ** 2
            moved += cells.n[i] * (high / 2 - low / 2) ** 2
        elif possible:
            near[n_unsure] = max(cells.low[i], low0) * unit - mean
            far[n_unsure] = min(cells.high[i], high1) * unit - mean
            n[n_unsure] = cells.n[i]
            above += cells.n[i] * max(far[n_unsure], 0.0)
            below += cells.n[i] * min(near[n_unsure], 0.0)
            n_unsure += 1
    above, below = above / n_sure, below / n_sure  # limits of the mean of any such set, from that of the sure values
    for i in range(n_unsure):
        low, high = near[i], far[i]
        near[i] = max(low - above, below - high, 0.0) ** 2
        far[i] = max(low**2, high**2)
    squares, moved = math.sqrt(squares), math.sqrt(moved)
    least = _extreme_mean(max(squares - moved, 0.0) ** 2, n_sure, near[:n_unsure], n[:n_unsure], -1.0)
    most = _extreme_mean((squares + moved) ** 2, n_sure, far[:n_unsure], n[:n_unsure], 1.0)
    return math.sqrt(least) / unit, math.sqrt(most) / unit


@njit(nogil=True, cache=True)
def _extreme_mean(total, count, others, n, sign):
    """Largest mean (sign 1) or smallest (-1) when any of the others may join: those beyond the mean that results."""
    mean = total / count
    while True:
        joined, number = total, count
        for i in range(len(n)):
            if sign * others[i] > sign * mean:
                joined += n[i] * others[i]
                number += n[i]
        if not sign * (joined / number) > sign * mean:
            return mean
        mean = joined / number


def _unite(found) -> np.ndarray:
    """Join intervals that overlap, and then the nearest ones until there are few."""
    limit = np.finfo(np.float64).max
    found = sorted((max(low, -limit), min(high, limit)) for low, high in found)
    windows = [list(found[0])]
    for low, high in found[1:]:
        if low <= windows[-1][1]:
            windows[-1][1] = max(windows[-1][1], high)
        else:
            windows.append([low, high])
    windows = np.array(windows)
    while len(windows) > _MAX_WINDOWS:
        nearest = int(np.argmin(windows[1:, 0] / 2 - windows[:-1, 1] / 2))
        windows[nearest, 1] = windows[nearest + 1, 1]
        windows = np.delete(windows, nearest + 1, axis=0)
    return windows
