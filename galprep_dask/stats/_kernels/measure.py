"""
Second pass: the values inside the windows, and sums of those between them.

Where the windows hold no more than a chunk does, their values are gathered one by one. Windows that hold more
are cut into groups of neighbours, the finer the more values there are, and for each group are kept their number,
mean and spread, and the least and greatest of them: a group of equal values, or of two, is known as well as if they
had been gathered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.stats._kernels.clip import Ordered, in_order
from galprep_dask.stats._kernels.strips import ANY_ORDER, STRIP, flat_block, load_strip, with_room
from galprep_dask.stats._kernels.windows import SortedCells, power_of_two_unit

__all__ = ["Measured", "Plan", "measure_block", "merge_measured", "ordered_values", "plan_measurement"]

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
    into, 0 where its values are gathered. Gap ``i`` ends where window ``i`` begins; its values are measured from
    ``origin[i]`` in ``unit[i]``, and ``broad`` are the numbers of the gaps that hold many of them.
    """

    windows: np.ndarray
    n_groups: np.ndarray
    broad: np.ndarray
    origin: np.ndarray
    unit: np.ndarray


class Measured(NamedTuple):
    """
    What the second pass knows of a block, or of many.

    ``values`` were gathered, in no order. ``sums`` has a row for each gap and then one for each group of each window:
    number, sum, sum of squares, least and greatest value (of groups only).
    """

    values: np.ndarray
    sums: np.ndarray


# Before the pass -----------------------------------------------------------------------------------------


def plan_measurement(cells: SortedCells, windows: np.ndarray) -> Plan:
    """Choose which windows are gathered, those of few values first, and how finely the others are cut."""
    held = cells.n_between(*windows.T)
    order = np.argsort(held, kind="stable")
    gathered = np.empty(len(held), bool)
    gathered[order] = np.cumsum(held[order]) <= _MAX_VALUES
    n_groups = np.zeros(len(held), np.int64)
    if not gathered.all():
        windows, gathered = _cut(cells, windows, gathered)
        held = np.where(gathered, 0, cells.n_between(*windows.T))
        n_groups = np.where(gathered, 0, 1 + held * _MAX_GROUPS // held.sum())
    start = np.concatenate([cells.low[:1], windows[:, 1]])
    stop = np.concatenate([windows[:, 0], cells.high[cells.by_high[-1:]]])
    unit = np.array([power_of_two_unit(size) for size in np.maximum(np.abs(start), np.abs(stop))])
    origin = np.clip(0.0, np.minimum(start, stop), np.maximum(start, stop))
    broad = np.flatnonzero(cells.n_between(start, stop) > _BROAD * cells.n.sum())
    return Plan(windows, n_groups, broad, origin, unit)


def _cut(cells, windows, gathered):
    """Cut the windows that are not gathered into pieces of about as many values each, where cells begin."""
    share = max(int(cells.n.sum()) // _MAX_PIECES, 1)
    piece = (np.cumsum(cells.n) - cells.n // 2) // share
    cuts = cells.low[np.flatnonzero(np.diff(piece, prepend=piece[0]))]
    cut_windows, whole = [], []
    for (low, high), gather in zip(windows, gathered, strict=True):
        inside = np.unique(cuts[(cuts > low) & (cuts <= high) & ~gather])
        starts, ends = np.append(low, inside), np.append(np.nextafter(inside, -np.inf), high)
        cut_windows.append(np.stack([starts, ends], axis=1))
        whole.append(np.full(len(starts), gather))
    return np.concatenate(cut_windows), np.concatenate(whole)


# The pass ------------------------------------------------------------------------------------------------


def measure_block(block, mask, plan: Plan) -> Measured:
    """Gather, group and sum the good values of a block."""
    values, bad = flat_block(block, mask)
    return Measured(*_measure(values, bad, *plan))


@njit(nogil=True, cache=True)
def _measure(values, bad, windows, n_groups, broad, origin, unit):
    n_windows = len(windows)
    scales = _group_scales(windows, n_groups)
    first_row = n_windows + 1 + np.cumsum(n_groups) - n_groups
    sums = np.zeros((n_windows + 1 + n_groups.sum(), 5))
    sums[:, 3], sums[:, 4] = np.inf, -np.inf
    strip, rest, taken = np.empty(STRIP), np.empty(STRIP), np.empty(STRIP, np.uint8)
    inside, n_inside = np.empty(STRIP, values.dtype), 0
    for start in range(0, len(values), STRIP):
        size = load_strip(values, bad, start, strip)
        taken[:] = 0
        for gap in broad:
            low = windows[gap - 1, 1] if gap > 0 else -np.inf
            high = windows[gap, 0] if gap < n_windows else np.inf
            _add_between(strip[:size], low, high, origin[gap], unit[gap], taken, sums[gap])
        n_rest = _collect(strip[:size], taken, rest)
        inside = with_room(inside, n_inside, n_rest)
        for value in rest[:n_rest]:
            if not np.isfinite(value):
                continue
            after = _n_begun(windows, value)
            window = after - 1
            if after == 0 or value > windows[window, 1]:
                _add(sums[after], value * unit[after] - origin[after] * unit[after])
            elif n_groups[window] == 0:
                inside[n_inside] = value
                n_inside += 1
            else:
                place = (value * scales[window, 0] - scales[window, 1]) * scales[window, 2]
                group = min(np.int64(place), n_groups[window] - 1)
                row = sums[first_row[window] + group]
                _add(row, place - group)
                row[3], row[4] = min(row[3], value), max(row[4], value)
    return inside[:n_inside], sums


@njit(nogil=True, cache=True)
def _group_scales(windows, n_groups):
    """Unit, beginning in that unit, and groups per that unit, of each window."""
    scales = np.zeros((len(windows), 3))
    for i in range(len(windows)):
        unit = power_of_two_unit(max(abs(windows[i, 0]), abs(windows[i, 1])))
        width = windows[i, 1] * unit - windows[i, 0] * unit
        scales[i] = unit, windows[i, 0] * unit, n_groups[i] / width if width > 0 else 0.0
    return scales


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _add_between(strip, low, high, origin, unit, taken, row):
    """Add the values between two limits to the sums of a gap, and tell which they were."""
    number, total, squares, offset = 0, 0.0, 0.0, origin * unit
    for i in range(len(strip)):
        between = (strip[i] > low) & (strip[i] < high)
        distance = strip[i] * unit - offset if between else 0.0
        number += np.int64(between)
        total += distance
        squares += distance * distance
        taken[i] |= np.uint8(between)
    row[0] += number
    row[1] += total
    row[2] += squares


@njit(nogil=True, cache=True)
def _collect(strip, taken, rest):
    """Copy what has not been taken; without a branch, which would often be guessed wrong."""
    number = 0
    for i in range(len(strip)):
        rest[number] = strip[i]
        number += 1 - taken[i]
    return number


@njit(nogil=True, cache=True)
def _n_begun(windows, value):
    """How many windows begin at or below a value."""
    low, high = 0, len(windows)
    while low < high:
        half = (low + high) // 2
        if windows[half, 0] <= value:
            low = half + 1
        else:
            high = half
    return low


@njit(nogil=True, cache=True)
def _add(row, distance):
    row[0] += 1.0
    row[1] += distance
    row[2] += distance * distance


def merge_measured(parts: list[Measured]) -> Measured:
    """Merge what is known of several blocks."""
    sums = parts[0].sums.copy()
    for part in parts[1:]:
        sums[:, :3] += part.sums[:, :3]
        np.minimum(sums[:, 3], part.sums[:, 3], out=sums[:, 3])
        np.maximum(sums[:, 4], part.sums[:, 4], out=sums[:, 4])
    return Measured(np.concatenate([part.values for part in parts]), sums)


# After the pass ------------------------------------------------------------------------------------------


def ordered_values(measured: Measured, plan: Plan) -> Ordered:
    """Put values, gaps and groups in ascending order; a gap is taken for as many values at its mean."""
    n, distance, squares, least, most = measured.sums.T.copy()
    distance, squares = distance / np.maximum(n, 1), squares / np.maximum(n, 1)
    spread = np.sqrt(np.maximum(squares - distance**2, 0.0))
    gap = np.arange(len(plan.windows) + 1)
    window = np.repeat(gap[:-1], plan.n_groups)
    number = np.arange(len(window)) - np.repeat(np.cumsum(plan.n_groups) - plan.n_groups, plan.n_groups)
    unit, start, per_unit = _group_scales(plan.windows, plan.n_groups)[window].T
    width = np.divide(1.0, per_unit, out=np.zeros(len(window)), where=per_unit > 0)
    begins, ends = np.append(-np.inf, plan.windows[:, 1]), np.append(plan.windows[:, 0], np.inf)
    mean = np.concatenate([
        np.clip((distance[: len(gap)] + plan.origin * plan.unit) / plan.unit, begins, ends),
        np.clip((start + (number + distance[len(gap) :]) * width) / unit, least[len(gap) :], most[len(gap) :]),
    ])  # fmt: skip
    least[: len(gap)] = most[: len(gap)] = mean[: len(gap)]
    spread *= np.concatenate([1 / plan.unit, width / unit])
    values = np.sort(measured.values).astype(np.float64)
    before = np.searchsorted(values, ends)[np.concatenate([gap, window])]
    place = np.argsort(np.concatenate([2 * gap, 2 * window + 1]), kind="stable")
    return in_order(values, *(row[place] for row in (n, mean, spread, least, most, before)))
