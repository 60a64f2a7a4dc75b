"""The clipping itself, on values in ascending order of which some are known one by one and others in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.stats._kernels.exact import Total, mean_and_std, total_of
from galprep_dask.stats._kernels.strips import ANY_ORDER, n_up_to
from galprep_dask.stats._kernels.windows import power_of_two_unit

__all__ = ["Ordered", "Step", "clip", "clip_steps", "in_order"]


class Ordered(NamedTuple):
    """
    Many values in ascending order, none of them between the least and the greatest of a group.

    ``values`` are those known one by one. Of each group the number of its values is known, their mean, standard
    deviation, least and greatest, how many of ``values`` lie below it, and the rank of the first among all.
    """

    values: np.ndarray
    n: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    least: np.ndarray
    most: np.ndarray
    before: np.ndarray
    rank: np.ndarray


def in_order(values, n, mean, spread, least, most, before) -> Ordered:
    """Give ascending values and groups their ranks; groups without values are left out."""
    some = n > 0
    n, before = n[some].astype(np.int64), before[some].astype(np.int64)
    groups = (row[some] + 0.0 for row in (mean, spread, least, most))  # -0.0 and 0.0 are one value
    return Ordered(values + 0.0, n, *groups, before, before + np.cumsum(n) - n)


class Step(NamedTuple):
    """Statistics of the values left after some iterations: those of ranks ``low <= rank < high``."""

    low: int
    high: int
    mean: float
    median: float
    std: float


def clip(
    order: Ordered, sigma: float, maxiters: int | None, of_groups: Callable[[int, int], Total] | None = None
) -> tuple[float, float, float]:
    """Mean, median and standard deviation, clipped about the median until nothing changes."""
    *_, last = clip_steps(order, sigma, maxiters, of_groups)
    return last.mean + 0.0, last.median + 0.0, last.std


def clip_steps(
    order: Ordered, sigma: float, maxiters: int | None, of_groups: Callable[[int, int], Total] | None = None
) -> Iterator[Step]:
    """
    Give the statistics of all values, and then of those left after each iteration that drops any.

    What is left after clipping is always a run of the ascending values, so that an iteration is two searches and a
    few sums. A value at a bound is kept, also where the bound was rounded. Where none of the
    groups can be cut, ``of_groups(first, last)`` may give the exact sums of a few of them; mean and standard deviation
    then are those of exact sums, whatever the groups are.
    """
    low, high = 0, len(order.values) + int(order.n.sum())
    total = None if of_groups is None else _total_between(order, of_groups, low, high)
    for iteration in count():
        if total is None:
            step = Step(low, high, *_statistics(order, low, high))
        else:
            mean, std = mean_and_std(high - low, total)
            step = Step(low, high, mean, _median(order, low, high), std)
        yield step
        if iteration == maxiters:
            return
        low, high = _kept(order, low, high, step.median, sigma * step.std * (1 + 1e-12))
        if (low, high) == (step.low, step.high):
            return
        if total is not None:
            total = total.plus(_total_between(order, of_groups, step.low, low), -1)
            total = total.plus(_total_between(order, of_groups, high, step.high), -1)


def _total_between(order: Ordered, of_groups: Callable[[int, int], Total], low: int, high: int) -> Total:
    """Sum the values and the groups whose ranks are in ``low <= rank < high``."""
    values = order.values[_n_values_below(order, low) : _n_values_below(order, high)]
    return total_of(values).plus(of_groups(*np.searchsorted(order.rank, [low, high])))


@njit(nogil=True, cache=True)
def _kept(order, low, high, median, reach):
    """Ranks of a run whose distance from the median is within the reach."""
    first = _first_beyond(order, low, high, median, -reach, True)
    return first, _first_beyond(order, first, high, median, reach, False)


@njit(nogil=True, cache=True)
def _value(order, rank):
    """Value of a rank; those of a group are taken to lie evenly between its least and its greatest."""
    group = n_up_to(order.rank, rank) - 1
    if group < 0:
        return order.values[rank]
    inside = rank - order.rank[group]
    if inside >= order.n[group]:
        return order.values[order.before[group] + inside - order.n[group]]
    return _value_in_group(order, group, inside)


@njit(nogil=True, cache=True)
def _value_in_group(order, group, inside):
    least, most = order.least[group], order.most[group]
    share = inside / max(order.n[group] - 1, 1)
    return min(max(least * (1 - share) + most * share, least), most)  # no rounding among equal values


@njit(nogil=True, cache=True)
def _n_values_below(order, rank):
    """How many of the values known one by one have a lower rank."""
    group = n_up_to(order.rank, rank) - 1
    if group < 0:
        return rank
    return order.before[group] + max(rank - order.rank[group] - order.n[group], 0)


@njit(nogil=True, cache=True)
def _first_beyond(order, low, high, median, reach, inclusive):
    """First rank from ``low`` on whose distance from the median is above the reach, or, inclusive, at it."""
    while low < high:
        half = (low + high) // 2
        distance = _value(order, half) - median
        if distance > reach or (inclusive and distance == reach):
            high = half
        else:
            low = half + 1
    return low


@njit(nogil=True, cache=True)
def _median(order, low, high):
    if low == high:
        return np.nan
    # In float64: in float32 the mean of two neighbours at 3e7 is one of them.
    below, above = _value(order, (low + high - 1) // 2), _value(order, (low + high) // 2)
    median = (below + above) / 2
    return median if np.isfinite(median) else below / 2 + above / 2


@njit(nogil=True, cache=True)
def _statistics(order, low, high):
    """Mean, median and standard deviation of a run of ranks."""
    if low == high:
        return np.nan, np.nan, np.nan
    median = _median(order, low, high)
    values = order.values[_n_values_below(order, low) : _n_values_below(order, high)]
    group = n_up_to(order.rank, low) - 1
    if group < 0 or low >= order.rank[group] + order.n[group]:
        group += 1
    end = n_up_to(order.rank, high - 1)
    n, mean, spread = np.empty(end - group), np.empty(end - group), np.empty(end - group)
    for i in range(end - group):
        n[i], mean[i], spread[i] = _part_of_group(order, group + i, low, high)
    largest = max(abs(_value(order, low)), abs(_value(order, high - 1)))
    for i in range(len(n)):
        largest = max(largest, abs(mean[i]), spread[i])
    unit = power_of_two_unit(largest)
    middle, total = median * unit, float(high - low)
    mean_distance = _sum_of_distances(values, unit, middle)
    for i in range(len(n)):
        mean_distance += n[i] * (mean[i] * unit - middle)
    mean_distance /= total
    squares = _sum_of_squares(values, unit, middle + mean_distance)
    for i in range(len(n)):
        squares += n[i] * ((mean[i] * unit - middle - mean_distance) ** 2 + (spread[i] * unit) ** 2)
    return median + mean_distance / unit, median, np.sqrt(squares / total) / unit


@njit(nogil=True, cache=True)
def _part_of_group(order, group, low, high):
    """Give number, mean and spread of those values of a group whose ranks lie in a run."""
    n, mean, spread = order.n[group], order.mean[group], order.spread[group]
    first, last = max(low - order.rank[group], 0), min(high - order.rank[group], n)
    if last - first == n:
        return n, mean, spread
    # The mean moves by as much as that of values which lie evenly.
    low_end, high_end = _value_in_group(order, group, first), _value_in_group(order, group, last - 1)
    moved = (low_end / 2 - order.least[group] / 2) + (high_end / 2 - order.most[group] / 2)
    mean = min(max(mean + moved, low_end), high_end)
    return last - first, mean, spread * ((last - first - 1) / (n - 1))


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _sum_of_distances(values, unit, middle):
    total = 0.0
    for i in range(len(values)):
        total += values[i] * unit - middle
    return total


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _sum_of_squares(values, unit, middle):
    total = 0.0
    for i in range(len(values)):
        distance = values[i] * unit - middle
        total += distance * distance
    return total
