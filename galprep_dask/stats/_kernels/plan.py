"""
What the second pass has to do: which values it gathers, and which it takes together.

As a rule the windows hold fewer values than a chunk, and all of them are gathered. Where they hold more, as they can
where dozens of iterations each drop a little, the clipping is tried on the cells first. What lies near the
medians and bounds that come out is gathered, the last iteration first, and the rest of the windows is cut into groups
of neighbours, finer where there are more of them. Of a group are kept number, mean and spread, and the least and the
greatest value, so that one of equal values, or of two, is known as well as if they had been gathered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from galprep_dask.stats._kernels.clip import clip_steps, in_order
from galprep_dask.stats._kernels.windows import SortedCells, find_windows, power_of_two_unit

__all__ = ["Plan", "plan_second_pass"]

#: Values gathered at most, in all blocks together: as many bytes as a chunk of float32 has.
_MAX_VALUES = 2**21
#: Groups of neighbours in all windows together, and pieces of windows in which they have one width.
_MAX_GROUPS = 2**16
_MAX_PIECES = 2**8
#: A gap that holds a larger share of the values is summed many values at a time.
_BROAD = 1 / 64


class Plan(NamedTuple):
    """
    What the second pass does with which values.

    ``windows`` are first and last value of each, in ascending order, and ``n_groups`` how many groups each is cut
    into, 0 where its values are gathered; ``scales`` are a unit, the beginning of the window in it, and groups per
    that unit. Gap ``i`` ends where window ``i`` begins; its values are measured from ``origin[i]`` in ``unit[i]``,
    and ``broad`` are the numbers of the gaps that hold many of them.
    """

    windows: np.ndarray
    n_groups: np.ndarray
    scales: np.ndarray
    broad: np.ndarray
    origin: np.ndarray
    unit: np.ndarray


def plan_second_pass(cells: SortedCells, sigma: float, maxiters: int | None) -> Plan:
    """Find the windows, choose which are gathered and how finely the others are cut, and how gaps are measured."""
    windows = find_windows(cells, sigma, maxiters)
    n_groups = np.zeros(len(windows), np.int64)
    held = cells.n_between(*windows.T)
    if held.sum() > _MAX_VALUES:
        windows, gathered = _divide(cells, windows, held, _near_trial(cells, sigma, maxiters))
        held = np.where(gathered, 0, cells.n_between(*windows.T))
        # Half of the groups by the number of values, half evenly: pieces of few values can be where a bound lies.
        shares = held / max(held.sum(), 1) / 2 + 1 / max(np.count_nonzero(~gathered), 1) / 2
        n_groups = np.where(gathered, 0, 1 + (shares * _MAX_GROUPS).astype(np.int64))
    unit = _units(*windows.T)
    start, width = windows[:, 0] * unit, windows[:, 1] * unit - windows[:, 0] * unit
    scales = np.stack([unit, start, np.divide(n_groups, width, out=np.zeros(len(width)), where=width > 0)], axis=1)
    start, stop = _occupied(cells, np.append(-np.inf, windows[:, 1]), np.append(windows[:, 0], np.inf))
    broad = np.flatnonzero(cells.n_between(start, stop) > _BROAD * cells.n.sum())
    origin = np.clip(0.0, np.minimum(start, stop), np.maximum(start, stop))
    return Plan(windows, n_groups, scales, broad, origin, _units(start, stop))


def _occupied(cells, start, stop):
    """Narrow gaps to where their values are: one that reaches to 1e300 may hold nothing but fluxes of 1e-12."""
    high = cells.high[cells.by_high]
    lowest = np.append(np.minimum.accumulate(cells.low[cells.by_high][::-1])[::-1], high[-1])
    highest = np.append(cells.low[0], np.maximum.accumulate(cells.high))
    return (
        np.maximum(start, lowest[np.searchsorted(high, start, side="left")]),
        np.minimum(stop, highest[np.searchsorted(cells.low, stop, side="right")]),
    )


def _units(start, stop):
    return np.array([power_of_two_unit(largest) for largest in np.maximum(np.abs(start), np.abs(stop))])


def _near_trial(cells, sigma, maxiters):
    """
    Where bounds and medians lie if values lie evenly in their cells: three cells each, and whether they are gathered.

    The last iterations come first: what an earlier one gets wrong matters the less the more follow.
    """
    nothing = np.zeros(len(cells.n))
    spread = (cells.high / 2 - cells.low / 2) / np.sqrt(3)
    middle = cells.low / 2 + cells.high / 2
    order = in_order(nothing[:0], cells.n, middle, spread, cells.low, cells.high, nothing)
    steps = list(clip_steps(order, sigma, maxiters))[::-1]
    ranks = [rank for step in steps for rank in ((step.low + step.high) // 2, step.high - 1, step.low)]
    cell = np.searchsorted(order.rank, ranks, side="right") - 1
    cell = cell[np.sort(np.unique(cell, return_index=True)[1])]
    low, high = cells.low[np.maximum(cell - 1, 0)], cells.high[np.minimum(cell + 1, len(cells.n) - 1)]
    return low, high, np.cumsum(cells.n_between(low, high)) <= _MAX_VALUES // 2


def _divide(cells, windows, held, near):
    """Divide windows of many values into what lies near the trial, and pieces of about as many values each."""
    order = np.argsort(held, kind="stable")
    small = np.empty(len(held), bool)
    small[order] = np.cumsum(held[order]) <= _MAX_VALUES // 2
    # A piece ends and another begins where half of a cell's values lie on either side of a multiple of their share.
    piece = (np.cumsum(cells.n) - cells.n // 2) * _MAX_PIECES // cells.n.sum()
    near_low, near_high, few = near
    cuts = cells.low[np.flatnonzero(np.diff(piece, prepend=piece[0]))], near_low, np.nextafter(near_high, np.inf)
    cuts = np.unique(np.concatenate(cuts))
    divided, gathered = [], []
    for (low, high), whole in zip(windows, small, strict=True):
        inside = cuts[(cuts > low) & (cuts <= high) & ~whole]
        starts, ends = np.append(low, inside), np.append(np.nextafter(inside, -np.inf), high)
        divided.append(np.stack([starts, ends], axis=1))
        gathered.append(whole | ((starts[:, None] >= near_low[few]) & (starts[:, None] <= near_high[few])).any(axis=1))
    return np.concatenate(divided), np.concatenate(gathered)
