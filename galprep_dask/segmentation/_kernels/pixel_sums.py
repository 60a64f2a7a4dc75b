"""What the pixels of sources add up to: the union of such sums, and the numbers that are made of them at the end."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask._kernels.exact_sums import ExactSums, as_floats, concatenate, rounded, total_of_parts

__all__ = [
    "FLUX", "WEIGHT", "XX", "XY", "YY", "PixelSums", "Sums", "X", "Y", "concatenate_sums", "finish", "join_sums",
]  # fmt: skip

#: Order of the sums of :attr:`PixelSums.values`.
FLUX, WEIGHT, X, Y, XX, XY, YY = range(7)


class PixelSums(NamedTuple):
    """
    What the pixels of sources, or of parts of them, add up to; one entry of each array for each.

    Good pixels are finite and not masked.
    """

    n_good: np.ndarray  # int64
    lowest: np.ndarray  # inf where there is no good pixel
    lowest_at: np.ndarray  # int64, flat index in the image of the first such pixel, -1 where there is none
    highest: np.ndarray  # -inf where there is none
    highest_at: np.ndarray
    values: ExactSums  # flux; then of the positive good pixels value, value * x, y, x**2, x * y, y**2
    squares: ExactSums  # of the errors of the good pixels
    wild: np.ndarray  # sum of those squares that are not finite

    def of(self, which) -> PixelSums:
        """Give the sums of some of the sources."""
        return PixelSums(*(some.of(which) if isinstance(some, ExactSums) else some[which] for some in self))


class Sums(NamedTuple):
    """
    The same as numbers, moments about the mean position of the positive good pixels.

    Each is made of exact sums by few operations, so that it depends on the pixels of the source alone.
    """

    n_good: np.ndarray
    flux: np.ndarray
    lowest: np.ndarray
    lowest_at: np.ndarray
    highest: np.ndarray
    highest_at: np.ndarray
    variance: np.ndarray  # sum of the squared errors of the good pixels
    weight: np.ndarray  # sum of the positive pixels
    x: np.ndarray  # their mean position, in pixels of the image
    y: np.ndarray
    xx: np.ndarray  # sums of value * (x - mean)**2 and so on
    xy: np.ndarray
    yy: np.ndarray


def concatenate_sums(parts: list[PixelSums]) -> PixelSums:
    """Put the sums of several lots of sources one after the other."""
    columns = zip(*parts, strict=True)
    return PixelSums(*(
        concatenate(column) if isinstance(column[0], ExactSums) else np.concatenate(column) for column in columns
    ))  # fmt: skip


def join_sums(sums: PixelSums, begin: np.ndarray) -> PixelSums:
    """
    Unite the sums of the parts of sources: from each number of ``begin`` to the next they are those of one source.

    Parameters
    ----------
    sums : PixelSums
        Of the parts, those of a source side by side.
    begin : (n,) int array
        Ascending, without repeats.

    Returns
    -------
    PixelSums
    """
    if len(begin) == len(sums.n_good):
        return sums
    of_part = np.repeat(np.arange(len(begin)), np.diff(begin, append=len(sums.n_good)))
    lowest, highest = np.minimum.reduceat(sums.lowest, begin), np.maximum.reduceat(sums.highest, begin)
    return PixelSums(
        np.add.reduceat(sums.n_good, begin),
        lowest, _first_at(sums.lowest_at, sums.lowest == lowest[of_part], begin),
        highest, _first_at(sums.highest_at, sums.highest == highest[of_part], begin),
        total_of_parts(sums.values, begin), total_of_parts(sums.squares, begin), np.add.reduceat(sums.wild, begin),
    )  # fmt: skip


def _first_at(at, reached, begin):
    nowhere = np.iinfo(np.int64).max
    first = np.minimum.reduceat(np.where(reached & (at >= 0), at, nowhere), begin)
    return np.where(first == nowhere, -1, first)


def finish(sums: PixelSums) -> Sums:
    """Make numbers of exact sums."""
    moments = np.empty((7, len(sums.n_good)))
    _finish(sums.values.pieces, sums.values.first, moments)
    flux, *moments = moments
    # Adding zero makes 0.0 of -0.0: of two equal values either may have been seen first.
    return Sums(
        sums.n_good, flux, sums.lowest + 0.0, sums.lowest_at, sums.highest + 0.0, sums.highest_at,
        as_floats(sums.squares)[:, 0] + sums.wild, *moments,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _finish(pieces, first, moments):
    """
    Give flux, weight, mean x and y, and the moments about the mean.

    The exact sums are moved to the pixel nearest to the mean, still exact, and only then rounded. About a pixel at most
    half a pixel from the mean, the mean square of whole distances is at most twice the variance, so that no more than
    one bit is lost.
    """
    n = pieces.shape[2] + 2
    room = np.empty(n + 2, np.int64)
    weight, x, y, xx, xy, yy = (
        np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64),
        np.empty(n, np.int64), np.empty(n, np.int64),
    )  # fmt: skip
    for c in range(len(pieces)):
        moments[0, c] = rounded(pieces[c, FLUX], first, room)
        moments[1, c] = rounded(pieces[c, WEIGHT], first, room)
        top = pieces.shape[2] - 1
        while top >= 0 and pieces[c, WEIGHT, top] == 0:
            top -= 1
        if top < 0:
            moments[2:, c] = 0.0
            continue
        # In a unit in which the weight is about 1, where no quotient over- or underflows.
        near = 34 - top
        _load(weight, pieces[c, WEIGHT])
        total = rounded(weight, near, room)
        x_near = np.int64(np.floor(rounded(pieces[c, X], near, room) / total + 0.5))
        y_near = np.int64(np.floor(rounded(pieces[c, Y], near, room) / total + 0.5))
        _load(x, pieces[c, X])
        _load(y, pieces[c, Y])
        _load(xx, pieces[c, XX])
        _load(xy, pieces[c, XY])
        _load(yy, pieces[c, YY])
        _subtract(xy, y, x_near)
        _subtract(xx, x, x_near)
        _subtract(yy, y, y_near)
        _subtract(x, weight, x_near)
        _subtract(y, weight, y_near)
        _subtract(xx, x, x_near)
        _subtract(yy, y, y_near)
        _subtract(xy, x, y_near)
        sum_x, sum_y = rounded(x, near, room), rounded(y, near, room)
        dx, dy = sum_x / total, sum_y / total
        moments[2, c], moments[3, c] = x_near + dx, y_near + dy
        exponent = 32 * (first - near)
        moments[4, c] = math.ldexp(max(rounded(xx, near, room) - dx * sum_x, 0.0), exponent)
        moments[5, c] = math.ldexp(rounded(xy, near, room) - dx * sum_y, exponent)
        moments[6, c] = math.ldexp(max(rounded(yy, near, room) - dy * sum_y, 0.0), exponent)


@njit(nogil=True, cache=True)
def _load(number, pieces):
    number[: len(pieces)] = pieces
    number[len(pieces) :] = 0


@njit(nogil=True, cache=True)
def _subtract(number, other, factor):
    """Subtract ``factor * other``; the pieces of both are from -2**31 to 2**31 - 1, but for the last."""
    carry = np.int64(0)
    for k in range(len(number)):
        total = number[k] - factor * other[k] + carry
        carry = (total + 2**31) >> 32
        number[k] = total - (carry << 32)
