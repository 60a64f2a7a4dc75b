"""Second pass: exact values inside the windows, sums between them, and the clipping itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.stats._kernels.summary import flat_block
from galprep_dask.stats._kernels.windows import power_of_two_unit

__all__ = ["Items", "Measured", "clip_items", "items_from", "measure_windows", "merge_measured"]

#: Different values kept at most; past that, neighbours in floating point are taken together.
_MAX_VALUES = 2**19
_TABLE = 4096


class Measured(NamedTuple):
    """
    What the second pass knows of a block, or of many.

    ``values`` are the different values inside the windows, ascending, and ``n`` how often each occurs; ``gaps``
    are count, sum and sum of squares of the values below, between and above the windows, measured from
    a centre in a unit.
    """

    values: np.ndarray
    n: np.ndarray
    gaps: np.ndarray


class Items(NamedTuple):
    """Groups of values in ascending order: their mean, how many they are, and their own standard deviation."""

    value: np.ndarray
    n: np.ndarray
    spread: np.ndarray


def measure_windows(block, mask, windows: np.ndarray, span, centre: float, unit: float) -> Measured:
    """
    Gather the values of a block that lie in windows, and sum those between them.

    Most values should lie in ``span``, where a table tells at once to which gap a value belongs.
    """
    values, bad = flat_block(block, mask)
    inside, gaps = _measure(values, bad, windows, span[0], span[1], centre, unit)
    inside.sort()
    return _limited(inside, np.ones(len(inside), np.int64), gaps)


@njit(nogil=True, cache=True)
def _measure(values, bad, windows, span_low, span_high, centre, unit):
    middle = centre * unit
    start = span_low * unit - middle
    scale = _TABLE / max(span_high * unit - middle - start, 1e-300)
    # Entry of the table: number of the gap that its values belong to, -1 where they must be looked at.
    table = np.zeros(_TABLE, np.int64)
    for w in range(len(windows)):
        first = ((windows[w, 0] * unit - middle) - start) * scale
        last = ((windows[w, 1] * unit - middle) - start) * scale
        for t in range(_TABLE):
            if t > last:
                table[t] = w + 1
            elif t + 1 > first:
                table[t] = -1
        if 0 <= last < _TABLE:
            table[np.int64(last)] = -1
    sums = np.zeros((_TABLE, 3))
    gaps = np.zeros((len(windows) + 1, 3))
    inside = np.empty(1024)
    found = 0
    for i in range(len(values)):
        if bad is not None and bad[i]:
            continue
        value = np.float64(values[i])
        distance = value * unit - middle
        t = (distance - start) * scale
        if t >= 0 and t < _TABLE:
            entry = np.int64(t)
            if table[entry] >= 0:
                sums[entry, 0] += 1.0
                sums[entry, 1] += distance
                sums[entry, 2] += distance * distance
                continue
        elif not np.isfinite(value):
            continue
        low, high = 0, len(windows)
        while low < high:  # how many windows begin at or below the value
            half = (low + high) // 2
            if windows[half, 0] <= value:
                low = half + 1
            else:
                high = half
        if low > 0 and value <= windows[low - 1, 1]:
            if found == len(inside):
                wider = np.empty(2 * found)
                wider[:found] = inside
                inside = wider
            inside[found] = value
            found += 1
        else:
            gaps[low, 0] += 1.0
            gaps[low, 1] += distance
            gaps[low, 2] += distance * distance
    for entry in range(_TABLE):
        if table[entry] >= 0:
            for moment in range(3):
                gaps[table[entry], moment] += sums[entry, moment]
    return inside[:found], gaps


def merge_measured(parts: list[Measured]) -> Measured:
    """Merge what is known of several blocks."""
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(values, kind="stable")
    n = np.concatenate([part.n for part in parts])
    return _limited(values[order], n[order], np.sum([part.gaps for part in parts], axis=0))


def _limited(values, n, gaps) -> Measured:
    """
    Join equal values, and neighbours where there are more than allowed.

    Neighbours are those that agree but for their last bits. How many bits follows from the set of values alone,
    so that the order of merging does not matter.
    """
    values = values + 0.0  # -0.0 and 0.0 are one value
    if _n_different(values) > _MAX_VALUES:
        keys = _ordered_keys(values)
        few, many = 63, 0  # bits that are enough to leave out, and bits that are not
        while few - many > 1:
            half = (few + many) // 2
            few, many = (half, many) if _n_different(keys >> half) <= _MAX_VALUES else (few, half)
        values = _values_of_keys((keys >> few << few) + (1 << few >> 1))
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else []
    if len(starts) == len(values):
        return Measured(values, n, gaps)
    return Measured(values[starts], np.add.reduceat(n, starts), gaps)


def _n_different(ascending) -> int:
    return int(np.count_nonzero(ascending[1:] != ascending[:-1])) + 1


def _ordered_keys(values):
    """Integers in the order of the floats: the bits themselves, turned round for negative numbers."""
    bits = values.view(np.int64)
    return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)


def _values_of_keys(keys):
    return np.where(keys < 0, keys ^ np.int64(2**63 - 1), keys).view(np.float64)


def items_from(measured: Measured, windows: np.ndarray, centre: float, unit: float) -> Items:
    """Put values and gaps in one ascending row; a gap takes part as a whole."""
    full = np.flatnonzero(measured.gaps[:, 0])
    count, total, squares = measured.gaps[full].T
    middle = (total / count + centre * unit) / unit
    spread = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0)) / unit
    edge = np.concatenate([[-np.inf], windows[:, 1]])[full]  # rounding must not carry a mean into a window
    rank = np.searchsorted(measured.values, edge, side="right")
    return Items(
        np.insert(measured.values, rank, middle),
        np.insert(measured.n, rank, count.astype(np.int64)),
        np.insert(np.zeros(len(measured.n)), rank, spread),
    )


def clip_items(items: Items, sigma: float, maxiters: int | None) -> tuple[float, float, float]:
    """
    Mean, median and standard deviation, clipped about the median until nothing changes.

    What is left after clipping is always a run of the ascending values, so that an iteration is two searches and
    a few sums. A value at a bound is kept, also where the bound was rounded.
    """
    low, high = 0, len(items.n)
    iterations = 0
    while True:
        value, n, spread = (row[low:high] for row in items)
        median = _median(value, n)
        mean, std = _moments(value, n, spread, median)
        if maxiters is not None and iterations >= maxiters:
            break
        iterations += 1
        reach = sigma * std * (1 + 1e-12)
        with np.errstate(over="ignore"):
            distance = value - median
        first = int(np.searchsorted(distance, -reach, side="left"))
        last = int(np.searchsorted(distance, reach, side="right"))
        if (first, last) == (0, len(n)):
            break
        low, high = low + first, low + last
    return mean + 0.0, median + 0.0, std


def _median(value, n):
    """Median in float64: in float32 the mean of two neighbours at 3e7 is one of them."""
    ranks = np.cumsum(n)
    last = int(ranks[-1]) - 1
    low, high = (float(value[np.searchsorted(ranks, rank, side="right")]) for rank in (last // 2, (last + 1) // 2))
    with np.errstate(over="ignore"):
        both = (low + high) / 2
    return both if np.isfinite(both) else low / 2 + high / 2


def _moments(value, n, spread, median):
    unit = power_of_two_unit(value, spread)
    distance = value * unit - median * unit
    total = float(n.sum())
    mean = float((n * distance).sum()) / total
    variance = float((n * ((distance - mean) ** 2 + (spread * unit) ** 2)).sum()) / total
    return median + mean / unit, float(np.sqrt(variance)) / unit
