"""Harmonic mean of exposures, summed in whole numbers, so that no order of summation can change it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numba import njit

__all__ = ["add_inverses", "harmonic_mean", "inverses_of_block"]

#: A float64 is a whole number below 2^53 times 2^(exponent - 53); it is summed in two parts, whose sums fit 64 bits.
_BITS, _LOW_BITS = 53, 26
_LEAST_EXPONENT, _N_EXPONENTS = -1080, 2200
#: No float64 with fewer digits, and none of which the inverse is infinite.
_LEAST_INVERSE = float(np.finfo(np.float64).tiny)


def inverses_of_block(block: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Sum the inverses of the finite, positive values, by exponent: number, sum of high and of low parts."""
    sums = np.zeros((_N_EXPONENTS, 3), np.int64)
    _sum(block, np.empty((0, 0), np.bool_) if mask is None else mask, sums)
    return sums


@njit(nogil=True, cache=True, error_model="numpy")
def _sum(block, mask, sums):
    low_bits = np.int64(2**_LOW_BITS - 1)
    for y in range(block.shape[0]):
        for x in range(block.shape[1]):
            inverse = 1.0 / np.float64(block[y, x])
            if inverse >= _LEAST_INVERSE and inverse < np.inf and not (mask.size > 0 and mask[y, x]):
                mantissa, exponent = math.frexp(inverse)
                whole = np.int64(mantissa * 2.0**_BITS)
                row = sums[exponent - _LEAST_EXPONENT]
                row[0] += 1
                row[1] += whole >> _LOW_BITS
                row[2] += whole & low_bits


def add_inverses(parts: list[np.ndarray]) -> np.ndarray:
    """Add what is known of several blocks."""
    return np.sum(parts, axis=0)


def harmonic_mean(sums: np.ndarray) -> float:
    """Give the harmonic mean, correctly rounded; NaN of no values."""
    total = Fraction(0)
    for row in np.flatnonzero(sums[:, 0]):
        whole = (int(sums[row, 1]) << _LOW_BITS) + int(sums[row, 2])
        total += whole * Fraction(2) ** (int(row) + _LEAST_EXPONENT - _BITS)
    return float(int(sums[:, 0].sum()) / total) if total else math.nan
