"""Second pass: the values inside the windows, one by one or in groups, and sums of those between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.stats._kernels.clip import Ordered, in_order
from galprep_dask.stats._kernels.plan import Plan
from galprep_dask.stats._kernels.strips import ANY_ORDER, STRIP, flat_block, load_strip, n_up_to, with_room

__all__ = ["Measured", "measure_block", "merge_measured", "ordered_values"]


class Measured(NamedTuple):
    """
    What the second pass knows of a block, or of many.

    ``values`` were gathered, in no order. ``sums`` has a row for each gap and then one for each group of each window:
    number, sum, sum of squares, least and greatest value (of groups only).
    """

    values: np.ndarray
    sums: np.ndarray


def measure_block(block, mask, plan: Plan) -> Measured:
    """Gather, group and sum the good values of a block."""
    values, bad = flat_block(block, mask)
    first_row = len(plan.unit) + np.cumsum(plan.n_groups) - plan.n_groups
    sums = np.zeros((len(plan.unit) + int(plan.n_groups.sum()), 5))
    sums[:, 3], sums[:, 4] = np.inf, -np.inf
    return Measured(_measure(values, bad, *plan, first_row, sums), sums)


@njit(nogil=True, cache=True)
def _measure(values, bad, windows, n_groups, scales, broad, origin, unit, first_row, sums):
    """Fill in the sums, and give the gathered values."""
    strip, rest, taken = np.empty(STRIP), np.empty(STRIP), np.empty(STRIP, np.uint8)
    inside, n_inside = np.empty(STRIP, values.dtype), 0
    for start in range(0, len(values), STRIP):
        size = load_strip(values, bad, start, strip)
        _take_not_finite(strip, size, taken)
        for gap in broad:
            low = windows[gap - 1, 1] if gap > 0 else -np.inf
            high = windows[gap, 0] if gap < len(windows) else np.inf
            _add_between(strip[:size], low, high, origin[gap], unit[gap], taken, sums[gap])
        n_rest = _collect(strip, taken, rest)
        inside = with_room(inside, n_inside, n_rest)
        for value in rest[:n_rest]:
            gap = n_up_to(windows[:, 0], value)
            window = gap - 1
            if gap == 0 or value > windows[window, 1]:
                _add(sums[gap], value * unit[gap] - origin[gap] * unit[gap])
            elif n_groups[window] == 0:
                inside[n_inside] = value
                n_inside += 1
            else:
                place = (value * scales[window, 0] - scales[window, 1]) * scales[window, 2]
                group = min(np.int64(place), n_groups[window] - 1)
                row = sums[first_row[window] + group]
                _add(row, place - group)
                row[3], row[4] = min(row[3], value), max(row[4], value)
    return inside[:n_inside]


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
def _take_not_finite(strip, size, taken):
    for i in range(len(strip)):
        taken[i] = np.uint8((strip[i] - strip[i] != 0.0) | (i >= size))


@njit(nogil=True, cache=True)
def _collect(strip, taken, rest):
    """Copy what has not been taken, looking at eight values at a time: most often they all have been."""
    number = 0
    eights = taken.view(np.uint64)
    for j in range(len(eights)):
        if eights[j] != np.uint64(0x0101010101010101):
            for i in range(8 * j, 8 * j + 8):
                rest[number] = strip[i]
                number += 1 - taken[i]
    return number


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


def ordered_values(measured: Measured, plan: Plan) -> Ordered:
    """Put values, gaps and groups in ascending order; a gap is taken for as many values at its mean."""
    n, distance, squares, least, most = measured.sums.T
    distance, squares = distance / np.maximum(n, 1), squares / np.maximum(n, 1)
    spread = np.sqrt(np.maximum(squares - distance**2, 0.0))
    gap = np.arange(len(plan.unit))
    window = np.repeat(gap[:-1], plan.n_groups)
    is_gap, is_group = slice(len(gap)), slice(len(gap), None)

    begins, ends = np.append(-np.inf, plan.windows[:, 1]), np.append(plan.windows[:, 0], np.inf)
    gap_mean = np.clip((distance[is_gap] + plan.origin * plan.unit) / plan.unit, begins, ends)
    gap_spread = spread[is_gap] / plan.unit

    unit, start, per_unit = plan.scales[window].T
    width = np.divide(1.0, per_unit, out=np.zeros(len(window)), where=per_unit > 0)
    number = np.arange(len(window)) - np.repeat(np.cumsum(plan.n_groups) - plan.n_groups, plan.n_groups)
    least, most = least[is_group], most[is_group]
    mean = np.clip((start + (number + distance[is_group]) * width) / unit, least, most)
    spread = np.minimum(spread[is_group] * width / unit, most / 2 - least / 2)  # none at all among equal values

    values = np.sort(measured.values).astype(np.float64)
    before = np.searchsorted(values, ends)
    place = np.argsort(np.concatenate([2 * gap, 2 * window + 1]), kind="stable")
    rows = (gap_mean, mean), (gap_spread, spread), (gap_mean, least), (gap_mean, most), (before, before[window])
    return in_order(values, n[place], *(np.concatenate(both)[place] for both in rows))
