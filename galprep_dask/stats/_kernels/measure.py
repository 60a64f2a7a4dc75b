"""Second pass: the values inside the windows, one by one or in groups, and sums of those between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask._kernels.exact_sums import ExactSums, add_up, packed
from galprep_dask.stats._kernels.clip import Ordered, in_order
from galprep_dask.stats._kernels.exact import Total, add_strip, add_value, mean_and_std, no_sums, sum_totals, totals_of
from galprep_dask.stats._kernels.plan import Plan
from galprep_dask.stats._kernels.strips import STRIP, flat_block, load_strip, n_up_to, with_room

__all__ = ["Measured", "measure_block", "merge_measured", "ordered_values"]


class Measured(NamedTuple):
    """
    What the second pass knows of a block, or of many.

    ``values`` were gathered, in no order. ``sums`` has a row for each gap and then one for each group of each window:
    number, and of groups sum, sum of squares, least and greatest value. The sums of gaps, and of the squares of their
    values, are exact.
    """

    values: np.ndarray
    sums: np.ndarray
    of_gaps: ExactSums
    of_squares: ExactSums


def measure_block(block, mask, plan: Plan) -> Measured:
    """Gather, group and sum the good values of a block."""
    values, bad = flat_block(block, mask)
    first_row = len(plan.unit) + np.cumsum(plan.n_groups) - plan.n_groups
    sums = np.zeros((len(plan.unit) + int(plan.n_groups.sum()), 5))
    sums[:, 3], sums[:, 4] = np.inf, -np.inf
    gaps, squares = no_sums(len(plan.unit))
    inside = _measure(values, bad, *plan[:4], np.frexp(plan.unit)[1] - 1, first_row, sums, gaps, squares)
    return Measured(inside, sums, packed(gaps[:, None], 0), packed(squares[:, None], 0))


@njit(nogil=True, cache=True)
def _measure(values, bad, windows, n_groups, scales, broad, exponent, first_row, sums, gaps, squares):
    """Fill in the sums, and give the gathered values."""
    strip, rest, taken = np.empty(STRIP), np.empty(STRIP), np.empty(STRIP, np.uint8)
    inside, n_inside = np.empty(STRIP, values.dtype), 0
    for start in range(0, len(values), STRIP):
        size = load_strip(values, bad, start, strip)
        _take_not_finite(strip, size, taken)
        for gap in broad:
            low = windows[gap - 1, 1] if gap > 0 else -np.inf
            high = windows[gap, 0] if gap < len(windows) else np.inf
            sums[gap, 0] += add_strip(
                strip[:size], low, high, exponent[gap], values.itemsize == 4, taken, gaps[gap], squares[gap]
            )
        n_rest = _collect(strip, taken, rest)
        inside = with_room(inside, n_inside, n_rest)
        for value in rest[:n_rest]:
            gap = n_up_to(windows[:, 0], value)
            window = gap - 1
            if gap == 0 or value > windows[window, 1]:
                sums[gap, 0] += 1.0
                add_value(gaps[gap], squares[gap], np.float64(value), 1)
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
    return Measured(
        np.concatenate([part.values for part in parts]), sums, add_up([part.of_gaps for part in parts]),
        add_up([part.of_squares for part in parts]),
    )  # fmt: skip


def ordered_values(measured: Measured, plan: Plan) -> tuple[Ordered, Callable[[int, int], Total] | None]:
    """
    Put values, gaps and groups in ascending order; a gap is taken for as many values at its mean.

    Where there are no groups, the exact sums of gaps come with them, for :func:`clip`.
    """
    n, distance, squares, least, most = measured.sums.T
    distance, squares = distance / np.maximum(n, 1), squares / np.maximum(n, 1)
    spread = np.sqrt(np.maximum(squares - distance**2, 0.0))
    gap = np.arange(len(plan.unit))
    window = np.repeat(gap[:-1], plan.n_groups)
    is_gap, is_group = slice(len(gap)), slice(len(gap), None)

    begins, ends = np.append(-np.inf, plan.windows[:, 1]), np.append(plan.windows[:, 0], np.inf)
    totals = totals_of(measured.of_gaps, measured.of_squares)
    moments = [mean_and_std(int(number), total) for number, total in zip(n[is_gap], totals, strict=True)]
    gap_mean, gap_spread = np.nan_to_num(np.array(moments)).T
    gap_mean = np.clip(gap_mean, begins, ends)

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
    order = in_order(values, n[place], *(np.concatenate(both)[place] for both in rows))
    return order, None if len(window) else partial(_total_of_gaps, [totals[gap] for gap in np.flatnonzero(n > 0)])


def _total_of_gaps(totals, first, last):
    return sum_totals(totals[first:last])
