"""Sums of floating-point pixels that are exact, and so do not depend on the order of the pixels.

A finite float is an integer times a power of two. Sums are kept as integers in pieces of 32 bits, each in an int64:
piece k counts multiples of ``2 ** (32 k - OFFSET)``. A pixel goes into two or three pieces, and a carry waits until a
block is done. Only the pieces that the pixels of a block reach are kept, three or four for the usual image; those of
several blocks are added where they overlap. A sum becomes a float64 once, at the end, rounded to nearest: it is what
``math.fsum`` gives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = [
    "OFFSET", "ExactSums", "add_pixel", "add_up", "add_wide", "as_float", "as_floats", "concatenate", "float_format",
    "normalise", "packed", "piece_of", "pieces_between", "place_of", "rounded", "total_of_parts",
]  # fmt: skip

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
def add_wide(pieces, k, up, high, low):
    """Add ``high * 2**32 + low``, with ``0 <= low < 2**32``, times ``2**up``, up to 31, to the pieces from ``k`` on."""
    low <<= up
    middle = (high & _LOW) << up
    high = (high >> 32) << up
    pieces[k] += low & _LOW
    pieces[k + 1] += (low >> 32) + (middle & _LOW)
    pieces[k + 2] += (middle >> 32) + (high & _LOW)
    pieces[k + 3] += high >> 32


@njit(nogil=True, cache=True)
def as_float(pieces, first):
    """Give a sum, of which number ``first`` is the first piece, as the nearest float64, the even one on a tie."""
    return rounded(pieces, first, np.empty(len(pieces) + 2, np.int64))


@njit(nogil=True, cache=True)
def rounded(pieces, first, room):
    """Do the work of :func:`as_float`; ``room`` holds two numbers more than there are pieces, or more still."""
    digits = room[: len(pieces) + 2]
    digits[: len(pieces)] = pieces
    digits[len(pieces) :] = 0
    normalise(digits)
    negative = digits[-1] < 0
    if negative:
        for k in range(len(digits)):
            digits[k] = -digits[k]
        normalise(digits)
    top = len(digits) - 1
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


# Many sums --------------------------------------------------------------------------------------------------


class ExactSums(NamedTuple):
    """
    Some sums of each of many things, exact.

    Between blocks pieces are kept as digits from -2**31 to 2**31 - 1, in half the memory; whether a number is negative
    is seen from its first digit that is not zero, so that zeros on either side may come and go.
    """

    pieces: np.ndarray
    """(things, sums, pieces) int32."""
    first: int
    """Number of the first piece."""

    def of(self, rows) -> ExactSums:
        """Give the sums of some of the things."""
        return ExactSums(self.pieces[rows], self.first)


def place_of(value: float, dtype) -> int:
    """Give the number of the lowest bit of a positive float of some dtype, counted from 2**-OFFSET."""
    integer, mantissa, shift = float_format(dtype)
    return max(int(np.array(value, dtype).view(integer)) >> mantissa, 1) + shift


def packed(pieces: np.ndarray, first: int) -> ExactSums:
    """Pack sums of shape (things, sums, pieces), int64, that have carries to come, and pieces enough for them."""
    _balance(pieces)
    used = np.flatnonzero(pieces.any(axis=(0, 1)))
    low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
    return ExactSums(pieces[:, :, low:high].astype(np.int32), first + int(low))


@njit(nogil=True, cache=True)
def _balance(pieces):
    """Carry, in place, so that every piece is from -2**31 to 2**31 - 1; none is carried out of the last one."""
    half = np.int64(2**31)
    for i in range(pieces.shape[0]):
        for j in range(pieces.shape[1]):
            carry = np.int64(0)
            for k in range(pieces.shape[2]):
                total = pieces[i, j, k] + carry
                carry = (total + half) >> 32
                pieces[i, j, k] = total - (carry << 32)


def concatenate(parts: list[ExactSums]) -> ExactSums:
    """Put the sums of several lots of things one after the other."""
    filled = [part for part in parts if len(part.pieces)] or parts[:1]
    first = min(part.first for part in filled)
    last = max(part.first + part.pieces.shape[2] for part in filled)
    pieces = np.zeros((sum(len(part.pieces) for part in filled), filled[0].pieces.shape[1], last - first), np.int32)
    row = 0
    for part in filled:
        at = part.first - first
        pieces[row : row + len(part.pieces), :, at : at + part.pieces.shape[2]] = part.pieces
        row += len(part.pieces)
    return ExactSums(pieces, first)


def add_up(parts: list[ExactSums]) -> ExactSums:
    """Add the sums that several blocks have of the same things."""
    together = concatenate(parts).pieces
    pieces = together.reshape(len(parts), -1, *together.shape[1:]).sum(axis=0, dtype=np.int64)
    return packed(np.pad(pieces, ((0, 0), (0, 0), (0, 2))), min(part.first for part in parts))


def total_of_parts(parts: ExactSums, begin: np.ndarray) -> ExactSums:
    """Add up the sums of parts: from each number of ``begin``, ascending, to the next they are those of one thing."""
    pieces = np.zeros((len(begin), parts.pieces.shape[1], parts.pieces.shape[2] + 2), np.int64)
    if len(begin):
        pieces[:, :, :-2] = np.add.reduceat(parts.pieces, begin, axis=0, dtype=np.int64)
    return packed(pieces, parts.first)


def as_floats(sums: ExactSums) -> np.ndarray:
    """Give all sums as the nearest float64s, (things, sums)."""
    values = np.empty(sums.pieces.shape[:2])
    _as_floats(sums.pieces, sums.first, values)
    return values


@njit(nogil=True, cache=True)
def _as_floats(pieces, first, values):
    room = np.empty(pieces.shape[2] + 2, np.int64)
    for i in range(pieces.shape[0]):
        for j in range(pieces.shape[1]):
            values[i, j] = rounded(pieces[i, j], first, room)
