"""
Exact sums of values and of their squares, from which mean and standard deviation follow whatever the order.

Sums are those of :mod:`galprep_dask._kernels.exact_sums`; squares are counted from the square of the least bit there.
Many values of about one size are added many at a time: each is cut into whole numbers of 20 bits, whose sums and
products a float64 holds exactly for a strip of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask._kernels.exact_sums import OFFSET, ExactSums, add_wide
from galprep_dask.stats._kernels.strips import ANY_ORDER

__all__ = ["Total", "add_strip", "add_value", "mean_and_std", "no_sums", "sum_totals", "total_of", "totals_of"]

#: As many pieces as the sums of all float64s can reach, and of their squares.
_PIECES, _SQUARE_PIECES = 72, 140
#: Exponent field of a float64 at the lowest bit of its mantissa, counted from 2**-OFFSET.
_SHIFT = OFFSET - 1075
_LOW = np.int64(0xFFFFFFFF)
_LIMB, _LIMB_BITS = np.int64(2**18 - 1), 18
_STEP = 2.0**20


class Total(NamedTuple):
    """Sum of values in units of 2**-OFFSET, and of their squares in units of the square of that."""

    values: int
    squares: int

    def plus(self, other: Total, sign: int = 1) -> Total:
        """Add another total, or take it away."""
        return Total(self.values + sign * other.values, self.squares + sign * other.squares)


def sum_totals(totals: list[Total]) -> Total:
    """Add up any number of totals."""
    return Total(sum(total.values for total in totals), sum(total.squares for total in totals))


def no_sums(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Give room for the sums of ``n`` lots of values, and of their squares."""
    return np.zeros((n, _PIECES), np.int64), np.zeros((n, _SQUARE_PIECES), np.int64)


def totals_of(values: ExactSums, squares: ExactSums) -> list[Total]:
    """Give the sums of several lots as whole numbers."""
    pairs = zip(values.pieces[:, 0], squares.pieces[:, 0], strict=True)
    return [Total(_whole(one, values.first), _whole(other, squares.first)) for one, other in pairs]


def _whole(pieces, first) -> int:
    return sum(piece << (32 * (first + k)) for k, piece in enumerate(pieces.tolist()))


def total_of(values: np.ndarray, n: np.ndarray | None = None) -> Total:
    """Sum finite values, each ``n`` times where that is given."""
    sums, squares = no_sums(1)
    _add_values(values, np.empty(0, np.int64) if n is None else n, sums[0], squares[0])
    return Total(_whole(sums[0], 0), _whole(squares[0], 0))


@njit(nogil=True, cache=True)
def _add_values(values, n, sums, squares):
    for i in range(len(values)):
        add_value(sums, squares, values[i], n[i] if len(n) else np.int64(1))


@njit(nogil=True, cache=True)
def add_value(sums, squares, value, n):
    """Add a finite value, ``n`` times."""
    bits = np.float64(value).view(np.int64)
    exponent = (bits >> 52) & 0x7FF
    number = bits & 0xFFFFFFFFFFFFF
    if exponent > 0:
        number |= 0x10000000000000
    if number == 0:
        return
    place = max(exponent, np.int64(1)) + _SHIFT
    sign = np.int64(1) if bits >= 0 else np.int64(-1)
    low, middle, high = number & _LIMB, (number >> _LIMB_BITS) & _LIMB, number >> (2 * _LIMB_BITS)
    up = 0
    while n > 0:
        times = n & 0xFFFF
        if times > 0:
            _add(sums, place + up, sign * times * low)
            _add(sums, place + up + _LIMB_BITS, sign * times * middle)
            _add(sums, place + up + 2 * _LIMB_BITS, sign * times * high)
            at = 2 * place + up
            _add(squares, at, times * (low * low))
            _add(squares, at + _LIMB_BITS, times * (2 * low * middle))
            _add(squares, at + 2 * _LIMB_BITS, times * (2 * low * high + middle * middle))
            _add(squares, at + 3 * _LIMB_BITS, times * (2 * middle * high))
            _add(squares, at + 4 * _LIMB_BITS, times * (high * high))
        n >>= 16
        up += 16


@njit(nogil=True, cache=True)
def _add(pieces, place, number):
    if number != 0:
        add_wide(pieces, place >> 5, place & 31, number >> 32, number & _LOW)


@njit(nogil=True, cache=True)
def add_strip(strip, low, high, exponent, is_single, taken, sums, squares):
    """
    Add the values between two limits, and mark in ``taken`` which they were; give how many.

    ``2.0**exponent`` brings them to no more than 1. Values that are so much smaller that they have bits below the limbs
    are left: two limbs for float32, three for float64.
    """
    if is_single:
        n, h, m, hh, hm, mm = _sum_two_limbs(strip, low, high, math.ldexp(1.0, exponent), taken)
        el, hl, ml, ll = 0.0, 0.0, 0.0, 0.0
    else:
        n, h, m, el, hh, hm, mm, hl, ml, ll = _sum_three_limbs(strip, low, high, math.ldexp(1.0, exponent), taken)
    place = OFFSET - 60 - exponent
    _add(sums, place, np.int64(el))
    _add(sums, place + 20, np.int64(m))
    _add(sums, place + 40, np.int64(h))
    _add(squares, 2 * place, np.int64(ll))
    _add(squares, 2 * place + 20, 2 * np.int64(ml))
    _add(squares, 2 * place + 40, 2 * np.int64(hl) + np.int64(mm))
    _add(squares, 2 * place + 60, 2 * np.int64(hm))
    _add(squares, 2 * place + 80, np.int64(hh))
    return n


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _sum_two_limbs(strip, low, high, unit, taken):
    """Every number here is whole, or cut off exactly, so that no order of additions rounds."""
    n, h_sum, m_sum, hh, hm, mm = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(strip)):
        value = strip[i]
        scaled = value * unit
        h = np.trunc(scaled * _STEP)
        rest = (scaled * _STEP - h) * _STEP
        m = np.trunc(rest)
        inside = (value > low) & (value < high) & (rest == m) & (abs(scaled) <= 1.0)
        inside &= (scaled != 0.0) | (value == 0.0)
        h, m = h if inside else 0.0, m if inside else 0.0
        n += np.int64(inside)
        h_sum += h
        m_sum += m
        hh += h * h
        hm += h * m
        mm += m * m
        taken[i] |= np.uint8(inside)
    return n, h_sum, m_sum, hh, hm, mm


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _sum_three_limbs(strip, low, high, unit, taken):
    n, h_sum, m_sum, l_sum = 0, 0.0, 0.0, 0.0
    hh, hm, mm, hl, ml, ll = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(strip)):
        value = strip[i]
        scaled = value * unit
        h = np.trunc(scaled * _STEP)
        rest = (scaled * _STEP - h) * _STEP
        m = np.trunc(rest)
        rest = (rest - m) * _STEP
        lowest = np.trunc(rest)
        inside = (value > low) & (value < high) & (rest == lowest) & (abs(scaled) <= 1.0)
        inside &= (scaled != 0.0) | (value == 0.0)
        h, m, lowest = h if inside else 0.0, m if inside else 0.0, lowest if inside else 0.0
        n += np.int64(inside)
        h_sum += h
        m_sum += m
        l_sum += lowest
        hh += h * h
        hm += h * m
        mm += m * m
        hl += h * lowest
        ml += m * lowest
        ll += lowest * lowest
        taken[i] |= np.uint8(inside)
    return n, h_sum, m_sum, l_sum, hh, hm, mm, hl, ml, ll


def mean_and_std(n: int, total: Total) -> tuple[float, float]:
    """Give mean and standard deviation of ``n`` values; NaN of none."""
    if n == 0:
        return math.nan, math.nan
    square = n * total.squares - total.values**2
    # The root of a whole number of 128 bits or more, cut off: what is below does not reach a float64 but for a tie.
    up = max(0, 130 - square.bit_length()) // 2
    root = math.isqrt(square << (2 * up))
    return total.values / (n << OFFSET), root / (n << (OFFSET + up))
