"""Sums of floating-point pixels that are exact, and so do not depend on the order of the pixels.

A finite float is an integer times a power of two. Sums are kept as integers in pieces of 32 bits, each in an int64:
piece k counts multiples of ``2 ** (32 k - OFFSET)``. A pixel goes into two or three pieces, and a carry waits until a
block is done. Only the pieces that the pixels of a block reach are kept, three or four for the usual image; those of
several blocks are added where they overlap. A sum becomes a float64 once, at the end, rounded to nearest: it is what
``math.fsum`` gives.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["add_pixel", "as_float", "float_format", "normalise", "piece_of", "pieces_between"]

#: The least float64 is 2**-1074; a multiple of 32 below it.
OFFSET = 1088

_LOW = np.int64(0xFFFFFFFF)


def float_format(dtype) -> tuple[np.dtype, int, int]:
    """Integer of the size of a float dtype, its bits of mantissa, and its exponent field at 2**-OFFSET."""
    if dtype == np.float32:
        return np.dtype(np.int32), 23, OFFSET - 150
    return np.dtype(np.int64), 52, OFFSET - 1075


def pieces_between(lowest: int, highest: int, mantissa: int) -> int:
    """Pieces that the sums of pixels need whose own lowest bits lie in pieces ``lowest`` to ``highest``."""
    return highest - lowest + (2 if mantissa < 32 else 3)


@njit(nogil=True, cache=True)
def piece_of(exponent, shift):
    """Piece with the lowest bit of a float, given the bits of its exponent."""
    return (max(exponent, np.int64(1)) + shift) >> 5


@njit(nogil=True, cache=True)
def add_pixel(pieces, first, bits, mantissa, shift):
    """Add a finite float, given by its bits, to the pieces of a sum of which number ``first`` comes first."""
    bits = np.int64(bits)
    exponent = (bits >> mantissa) & (0xFF if mantissa < 32 else 0x7FF)
    number = bits & ((np.int64(1) << mantissa) - 1)
    number |= np.int64(exponent > 0) << mantissa
    if number == 0:
        return
    place = max(exponent, np.int64(1)) + shift
    k, up = (place >> 5) - first, place & 31
    sign = np.int64(1) if bits >= 0 else np.int64(-1)
    low = (number & _LOW) << up
    pieces[k] += sign * (low & _LOW)
    if mantissa < 32:
        pieces[k + 1] += sign * (low >> 32)
    else:
        high = (number >> 32) << up
        pieces[k + 1] += sign * ((low >> 32) + (high & _LOW))
        pieces[k + 2] += sign * (high >> 32)


@njit(nogil=True, cache=True)
def normalise(pieces):
    """Carry what is beyond 32 bits of each piece into the next, in place; the last keeps the sign."""
    for k in range(len(pieces) - 1):
        pieces[k + 1] += pieces[k] >> 32
        pieces[k] &= _LOW


@njit(nogil=True, cache=True)
def as_float(pieces, first):
    """Give a sum, normalised, as the nearest float64, the even one on a tie."""
    n = len(pieces) + 2
    digits = np.zeros(n, np.int64)
    negative = pieces[-1] < 0
    for k in range(len(pieces)):
        digits[k] = -pieces[k] if negative else pieces[k]
    normalise(digits)
    top = n - 1
    while top >= 0 and digits[top] == 0:
        top -= 1
    if top < 0:
        return 0.0
    # The 64 bits from the highest that is set, and whether anything is below them.
    lead = 0
    while digits[top] >> lead > 0:
        lead += 1
    word = np.uint64(0)
    for k in range(3):
        digit = np.uint64(digits[top - k]) if top >= k else np.uint64(0)
        if k < 2:
            word = (word << np.uint64(32)) | digit
        else:
            word = (word << np.uint64(32 - lead)) | (digit >> np.uint64(lead))
            below = digit & ((np.uint64(1) << np.uint64(lead)) - np.uint64(1)) != 0
    for k in range(top - 2):
        below = below or digits[k] != 0
    rest = word & np.uint64(0x7FF)
    number = word >> np.uint64(11)
    half = np.uint64(0x400)
    if rest > half or (rest == half and (below or number & np.uint64(1) == np.uint64(1))):
        number += np.uint64(1)
    # The lowest bit of the word is bit ``lead`` of the digit two below the top.
    exponent = 32 * (first + top - 2) + lead + 11 - 1088
    value = math.ldexp(np.float64(number), exponent)
    return -value if negative else value
