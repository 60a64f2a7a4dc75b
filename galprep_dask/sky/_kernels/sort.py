"""Sorting of the pixels of boxes by counting their digits: three times as quick as by comparing them."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["sort_rows"]

#: Bits of a digit at most, so that its counts stay in the fastest memory.
_DIGIT = 11
#: Rows that are shorter would cost more to count in than to sort by comparing.
_SHORT = 512

_ALL_BUT_SIGN = np.int32(0x7FFFFFFF)
_SIGN = np.int32(31)
_ONE = np.uint32(1)


def sort_rows(rows: np.ndarray, n_good: np.ndarray) -> None:
    """
    Sort the first ``n_good`` values of each row, in place.

    Parameters
    ----------
    rows : (n, m) float32 or float64 array
        Contiguous rows; past the good values there is infinity only.
    n_good : (n,) int64 array
        How many values of each row are good; none of them is NaN.
    """
    if rows.dtype != np.float32 or rows.shape[1] < _SHORT:
        rows[:, : max(n_good.max(), 1)].sort(axis=1)
    else:
        keys, other = np.empty((2, rows.shape[1]), np.uint32)
        _sort_rows(rows.view(np.int32), n_good, keys, other)


@njit(nogil=True, cache=True)
def _sort_rows(rows, n_good, keys, other):
    """
    Sort floats by their bits, least digit first.

    Bits taken for integers have the order of the floats where these are positive, and the opposite one where they are
    negative. Digits are those of the difference to the least: pixels of a sky differ in few of their bits.
    """
    counts = np.empty((3, 1 << _DIGIT), np.uint32)
    for b in range(len(n_good)):
        n = n_good[b]
        row = rows[b, :n]
        low, high = _ALL_BUT_SIGN, ~_ALL_BUT_SIGN
        for i in range(n):
            value = row[i] ^ ((row[i] >> _SIGN) & _ALL_BUT_SIGN)
            low, high = min(low, value), max(high, value)
        span, width = np.int64(high) - np.int64(low), 0
        while span >> width > 0:
            width += 1
        if n < 2 or width == 0:
            continue
        passes = (width + _DIGIT - 1) // _DIGIT
        digit = (width + passes - 1) // passes
        mask = np.uint32((1 << digit) - 1)
        once, twice, least = np.uint32(digit), np.uint32(2 * digit), np.uint32(low)
        counts[:, : mask + 1] = 0
        first, second, third = counts[0], counts[1], counts[2]
        for i in range(n):
            value = row[i] ^ ((row[i] >> _SIGN) & _ALL_BUT_SIGN)
            keys[i] = np.uint32(np.uint32(value) - least)
        for i in range(n):
            key = keys[i]
            first[np.uint32(key & mask)] += _ONE
            if passes > 1:
                second[np.uint32((key >> once) & mask)] += _ONE
            if passes > 2:
                third[np.uint32(key >> twice)] += _ONE
        source, target = keys[:n], other[:n]
        for p in range(passes):
            place, total = counts[p], np.uint32(0)
            for k in range(mask + 1):
                here = place[k]
                place[k] = total
                total += here
            shift = np.uint32(p * digit)
            for i in range(n):
                key = source[i]
                k = np.uint32((key >> shift) & mask)
                target[place[k]] = key
                place[k] += _ONE
            source, target = target, source
        for i in range(n):
            value = np.int32(np.uint32(source[i] + least))
            row[i] = value ^ ((value >> _SIGN) & _ALL_BUT_SIGN)
