"""
Between the passes: where the medians and the bounds of every iteration must lie.

Cells say how many values lie between which limits. The clipping is followed with intervals in place of numbers:
the lower bound is somewhere in ``[low0, low1]``, the upper one in ``[high0, high1]``, so that some cells are
surely kept, and some possibly. From those follow limits of the median and of the standard deviation, and from
these the limits of the next bounds. Nothing is assumed about how values lie inside a cell.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["find_windows", "power_of_two_unit"]

#: Iterations followed; where clipping goes on for longer, all that may still be clipped becomes one window.
_MAX_FOLLOWED = 200
_MAX_WINDOWS = 256
#: Room for the rounding of sums, relative to the standard deviation.
_SLACK = 1e-9


def power_of_two_unit(*values: np.ndarray) -> float:
    """Power of two that brings the largest value to about 1, so that squares neither overflow nor vanish."""
    largest = max(max(abs(float(some.min())), abs(float(some.max()))) for some in values)
    return math.ldexp(1.0, -min(max(math.frexp(largest)[1], -1000), 1000))


def find_windows(low, high, n, sigma: float, maxiters: int | None, unit: float):
    """
    Find disjoint intervals that contain every median and every clip bound.

    Parameters
    ----------
    low, high : (n_cells,) float64 arrays
        Least and greatest value that a cell can hold. Cells may overlap.
    n : (n_cells,) int64 array
        How many values it holds.
    sigma, maxiters : float, int or None
        Of the clipping.
    unit : float
        Squares are taken of values times this.

    Returns
    -------
    windows : (n_windows, 2) float64 array
        First and last value of each, in ascending order.
    centre : float
        About the median of all values.
    span : (float, float)
        Where all but a hundredth of the values are.
    """
    cells = _Cells(low, high, n, unit)
    lows, highs = (-np.inf, -np.inf), (np.inf, np.inf)
    medians = cells.median_limits(lows, highs)
    centre = min(medians, key=abs)  # denormal numbers lie at one end of a cell far wider than they are
    found = [medians]
    followed = _MAX_FOLLOWED if maxiters is None else min(maxiters, _MAX_FOLLOWED)
    for _ in range(followed):
        least, most = cells.std_limits(lows, highs)
        new_lows = _step(lows, medians, -sigma * most, -sigma * least, max)
        new_highs = _step(highs, medians, sigma * least, sigma * most, min)
        if (new_lows, new_highs) == (lows, highs):
            break
        lows, highs = new_lows, new_highs
        medians = cells.median_limits(lows, highs)
        found += [lows, highs, medians]
    else:
        if maxiters is None or maxiters > followed:
            found.append((lows[0], highs[1]))
    return _unite(found), centre, cells.span()


def _step(bounds, medians, least, most, nearer):
    """Limits of the next bound: median plus reach, and never further out than the last bound."""
    slack = _SLACK * abs(most if abs(most) > abs(least) else least)
    slack = slack if math.isfinite(slack) else 0.0
    return nearer(bounds[0], medians[0] + least - slack), nearer(bounds[1], medians[1] + most + slack)


class _Cells:
    """Cells in two orders, for sums from below and from above."""

    def __init__(self, low, high, n, unit):
        self.unit = unit
        order = np.argsort(low, kind="stable")
        self.low, self.high, self.n = low[order], high[order], n[order]
        self.by_high = np.argsort(self.high, kind="stable")

    def _kept(self, lows, highs):
        possible = (self.high >= lows[0]) & (self.low <= highs[1])
        sure = (self.low >= lows[1]) & (self.high <= highs[0])
        return possible, sure

    def span(self):
        share = np.cumsum(self.n) / self.n.sum()
        low, high = np.searchsorted(share, (0.005, 0.995))
        return float(self.low[low]), float(self.high[min(high, len(share) - 1)])

    def median_limits(self, lows, highs):
        """
        Limits of both middle values.

        At the lower middle value x, at least as many kept values are <= x as are > x; the possible ones that
        may be <= x are then no fewer than the sure ones that must be > x. The first x for which that holds
        is the lower limit; the upper one is the same seen from above.
        """
        possible, sure = (np.where(kept, self.n, 0) for kept in self._kept(lows, highs))
        if not possible.any():
            return lows[0], highs[1]
        below, surely = np.cumsum(possible), sure.sum() - np.cumsum(sure)
        first = self.low[int(np.argmax((below >= surely) & (below > 0)))]
        possible, sure = possible[self.by_high][::-1], sure[self.by_high][::-1]
        above, surely = np.cumsum(possible), sure.sum() - np.cumsum(sure)
        last = self.high[self.by_high][::-1][int(np.argmax((above >= surely) & (above > 0)))]
        return max(float(first), lows[0]), min(float(last), highs[1])

    def std_limits(self, lows, highs):
        """
        Limits of the standard deviation.

        The sum of squared distances from the mean only grows with the set, and moving values by h changes its
        root by at most the root of the sum of h^2.
        """
        possible, sure = self._kept(lows, highs)
        n_possible, n_sure = int(self.n[possible].sum()), int(self.n[sure].sum())
        if n_sure == 0:
            return 0.0, math.inf
        about, moved = self._squares(sure, lows, highs)
        least = max(about - moved, 0.0) / math.sqrt(n_possible)
        about, moved = self._squares(possible, lows, highs)
        return least / self.unit, (about + moved) / math.sqrt(n_sure) / self.unit

    def _squares(self, kept, lows, highs):
        low = np.maximum(self.low[kept], lows[0]) * self.unit
        high = np.minimum(self.high[kept], highs[1]) * self.unit
        n, middle = self.n[kept], low / 2 + high / 2
        middle = middle - (n * middle).sum() / n.sum()
        return math.sqrt((n * middle**2).sum()), math.sqrt((n * (high / 2 - low / 2) ** 2).sum())


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
