"""Sums over the pixels of sources, taken block by block, and the union of such sums.

They are exact, so that neither blocks nor the order in which they are united can change a bit of what follows. A
stretch of a run is summed in integers of 64 bits, in units of a power of two that suits its pixels, and with
positions counted from its beginning. These few numbers then go into the long sums of the source, in which positions
are those in the image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask._kernels.exact_sums import (
    ExactSums,
    add_pixel,
    add_wide,
    as_floats,
    concatenate,
    float_format,
    packed,
    piece_of,
    pieces_between,
    place_of,
    rounded,
    total_of_parts,
)
from galprep_dask.segmentation._kernels.label import Components, Runs, as_kernel_input

__all__ = ["MOST_PIXELS", "PixelSums", "Sums", "concatenate_sums", "finish", "join_sums", "measure_runs"]

#: Side of the largest image in which positions, and their squares, fit the integers here.
MOST_PIXELS = 2**21
#: Pixels of a stretch, and how many powers of two the first of them may lie above and below any other. With these a
#: sum of value * x**2 has 24 + 10 + 11 + 3 * 6 bits for float32, and fits 64; a float64 is taken in two halves of 27
#: bits at most.
_STRETCH, _BELOW = 64, 10
_SPAN_SINGLE, _SPAN_DOUBLE, _HALF = 21, 18, 27
_LOW = np.int64(0xFFFFFFFF)
_FLUX, _WEIGHT, _X, _Y, _XX, _XY, _YY = range(7)


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


def measure_runs(
    runs: Runs, components: Components, image, shape_image, error, mask, origin, nx_image: int
) -> PixelSums:  # fmt: skip
    """
    Sum over the pixels of each component of a block.

    Parameters
    ----------
    runs, components : Runs, Components
        Which pixels.
    image : (ny, nx) array
        For flux, extremes and numbers of pixels.
    shape_image : (ny, nx) array or None
        For the moments; None takes ``image``.
    error : (ny, nx) array or None
        1-sigma uncertainty; NaN counts.
    mask : (ny, nx) bool array or None
        True marks pixels left out.
    origin : (int, int)
        Row and column of the block's first pixel, below ``MOST_PIXELS``.
    nx_image : int
        Columns of the image.

    Returns
    -------
    PixelSums
    """
    image = as_kernel_input(_compiled_float(image))
    shape_image = image if shape_image is None else as_kernel_input(_compiled_float(shape_image))
    error = as_kernel_input(np.empty((0, 0)) if error is None else np.asarray(error, np.float64))
    mask = as_kernel_input(np.empty((0, 0), np.bool_) if mask is None else mask)
    where = (*runs, components.of_run)
    n = len(components.area)
    counts, extremes = _extremes(*where, n, image, mask, *origin, nx_image)
    planes = [(image, True, shape_image is image)]
    if shape_image is not image:
        planes.append((shape_image, False, True))
    values = _sum_values(where, n, planes, mask, origin)
    squares, wild = ExactSums(np.zeros((n, 1, 1), np.int32), 0), np.zeros(n)
    if error.size:
        least, most = _least_and_most(*where, error, mask, True)
        low, high = (piece_of(place_of(value, np.float64), 0) for value in (least, most))
        pieces = np.zeros((n, 1, pieces_between(low, high, 52) + 1), np.int64)
        _add_squares(*where, image, error, mask, pieces, low, *float_format(np.float64)[1:], wild)
        squares = packed(pieces, low)
    return PixelSums(counts[0], extremes[0], counts[1], extremes[1], counts[2], values, squares, wild)


def _compiled_float(block):
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)


def _sum_values(where, n, planes, mask, origin) -> ExactSums:
    """Take the exact sums of ``planes``: an image each, and whether flux and moments are those of it."""
    (ny, nx), (y0, x0) = planes[0][0].shape, origin
    ranges, tops = [], []
    for plane, _, _ in planes:
        mantissa = float_format(plane.dtype)[1]
        low, high = (place_of(value, plane.dtype) for value in _least_and_most(*where, plane, mask, False))
        ranges += [low - _BELOW, high - _BELOW + (0 if mantissa < 32 else _HALF)]
        tops.append(high + mantissa)
    first = min(ranges) >> 5
    # As far as a stretch is written to, and as far as the sum of all pixels can reach.
    n_bits = 2 * (max(y0 + ny, x0 + nx).bit_length() + 1) + (ny * nx).bit_length()
    last = max((max(ranges) >> 5) + 3, (max(tops) + n_bits >> 5) + 1)
    pieces = np.zeros((n, 7, last + 1 - first), np.int64)
    for plane, of_flux, of_moments in planes:
        integer, *how = float_format(plane.dtype)
        _add_runs(*where, plane.view(integer), mask, y0, x0, of_flux, of_moments, pieces, first, *how)
    return packed(pieces, first)


@njit(nogil=True, cache=True)
def _extremes(first, start, stop, of_run, n, image, mask, y0, x0, nx_image):
    """Give numbers of good pixels, and where in the image lowest and highest lie; and their values."""
    counts = np.zeros((3, n), np.int64)
    counts[1:] = -1
    extremes = np.empty((2, n))
    extremes[0], extremes[1] = np.inf, -np.inf
    has_mask = mask.size > 0
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            c = of_run[run]
            if c < 0:
                continue
            n_good, lowest, highest = 0, extremes[0, c], extremes[1, c]
            lowest_at, highest_at = -1, -1
            for x in range(start[run], stop[run]):
                value = np.float64(image[row, x])
                if not abs(value) < np.inf or (has_mask and mask[row, x]):
                    continue
                n_good += 1
                if value < lowest:
                    lowest, lowest_at = value, x
                if value > highest:
                    highest, highest_at = value, x
            counts[0, c] += n_good
            if lowest_at >= 0:
                extremes[0, c], counts[1, c] = lowest, (y0 + row) * nx_image + x0 + lowest_at
            if highest_at >= 0:
                extremes[1, c], counts[2, c] = highest, (y0 + row) * nx_image + x0 + highest_at
    return counts, extremes


@njit(nogil=True, cache=True)
def _least_and_most(first, start, stop, of_run, plane, mask, is_squared):
    """Give the least and the greatest size of the pixels, or of their squares, that are finite and not zero."""
    least, most = np.inf, 0.0
    has_mask = mask.size > 0
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            if of_run[run] < 0:
                continue
            for x in range(start[run], stop[run]):
                value = abs(np.float64(plane[row, x]))
                if is_squared:
                    value *= value
                if has_mask and mask[row, x]:
                    value = 0.0
                if 0.0 < value < np.inf:
                    least, most = min(least, value), max(most, value)
    return (least, most) if most > 0.0 else (1.0, 1.0)


@njit(nogil=True, cache=True)
def _add_squares(first, start, stop, of_run, image, error, mask, pieces, piece, mantissa, shift, wild):
    has_mask = mask.size > 0
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            c = of_run[run]
            if c < 0:
                continue
            for x in range(start[run], stop[run]):
                if (has_mask and mask[row, x]) or not abs(np.float64(image[row, x])) < np.inf:
                    continue
                square = np.float64(error[row, x] * error[row, x])
                if square < np.inf:
                    add_pixel(pieces[c, 0], piece, square.view(np.int64), mantissa, shift)
                else:
                    wild[c] += square


@njit(nogil=True, cache=True)
def _add_runs(first, start, stop, of_run, bits, mask, y0, x0, of_flux, of_moments, pieces, piece, mantissa, shift):
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            c = of_run[run]
            if c < 0:
                continue
            x = np.int64(start[run])
            while x < stop[run]:
                x = _add_stretch(
                    bits, mask, row, x, np.int64(stop[run]), y0, x0, of_flux, of_moments, pieces[c], piece, mantissa,
                    shift,
                )  # fmt: skip


@njit(nogil=True, cache=True)
def _add_stretch(bits, mask, row, start, stop, y0, x0, of_flux, of_moments, sums, first, mantissa, shift):
    """Add the pixels of a row from ``start`` on, as far as their sums fit; give the first that is left."""
    is_double = mantissa > 31
    infinite = np.int64(0x7FF if is_double else 0xFF)
    implied = np.int64(1) << mantissa
    span = _SPAN_DOUBLE if is_double else _SPAN_SINGLE
    half = (np.int64(1) << _HALF) - 1
    has_mask = mask.size > 0
    unit = np.int64(-1)
    flux, s0, s1, s2 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    flux_high, s0_high, s1_high, s2_high = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    end = min(stop, start + _STRETCH)
    x = start
    while x < end:
        here = np.int64(bits[row, x])
        exponent = (here >> mantissa) & infinite
        number = here & (implied - 1)
        if exponent > 0:
            number |= implied
        if number == 0 or exponent == infinite or (has_mask and mask[row, x]):
            x += 1
            continue
        place = max(exponent, np.int64(1)) + shift
        if unit < 0:
            unit = place - _BELOW
        up = place - unit
        if up < 0 or up > span:
            break
        i = x - start
        if is_double:
            high = (number >> _HALF) << up
            number = (number & half) << up
            if here > 0:
                s0_high += high
                s1_high += high * i
                s2_high += high * (i * i)
                flux_high += high
            else:
                flux_high -= high
        else:
            number <<= up
        if here > 0:
            s0 += number
            s1 += number * i
            s2 += number * (i * i)
            flux += number
        else:
            flux -= number
        x += 1
    if unit >= 0:
        k, up = (unit >> 5) - first, unit & 31
        _add_sums(sums, k, up, flux, s0, s1, s2, y0 + row, x0 + start, of_flux, of_moments)
        if is_double:
            k, up = ((unit + _HALF) >> 5) - first, (unit + _HALF) & 31
            _add_sums(sums, k, up, flux_high, s0_high, s1_high, s2_high, y0 + row, x0 + start, of_flux, of_moments)
    return x


@njit(nogil=True, cache=True)
def _add_sums(sums, k, up, flux, s0, s1, s2, y, x, of_flux, of_moments):
    """Add the sums of a stretch, of value * i**n for the pixels ``x + i`` of row ``y``, in numbers of two words."""
    if of_flux:
        add_wide(sums[_FLUX], k, up, flux >> 32, flux & _LOW)
    if not of_moments or s0 == 0:
        return
    weight, first, second = (s0 >> 32, s0 & _LOW), (s1 >> 32, s1 & _LOW), (s2 >> 32, s2 & _LOW)
    sum_x = _plus(first, _times(weight, x))
    sum_xx = _plus(second, _times(_plus(first, sum_x), x))
    sum_y = _times(weight, y)
    sum_xy, sum_yy = _times(sum_x, y), _times(sum_y, y)
    add_wide(sums[_WEIGHT], k, up, weight[0], weight[1])
    add_wide(sums[_X], k, up, sum_x[0], sum_x[1])
    add_wide(sums[_Y], k, up, sum_y[0], sum_y[1])
    add_wide(sums[_XX], k, up, sum_xx[0], sum_xx[1])
    add_wide(sums[_XY], k, up, sum_xy[0], sum_xy[1])
    add_wide(sums[_YY], k, up, sum_yy[0], sum_yy[1])


@njit(nogil=True, cache=True)
def _plus(one, other):
    low = one[1] + other[1]
    return one[0] + other[0] + (low >> 32), low & _LOW


@njit(nogil=True, cache=True)
def _times(number, factor):
    low = number[1] * factor
    return number[0] * factor + (low >> 32), low & _LOW


# Parts of sources ------------------------------------------------------------------------------------------


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
        moments[0, c] = rounded(pieces[c, _FLUX], first, room)
        moments[1, c] = rounded(pieces[c, _WEIGHT], first, room)
        top = pieces.shape[2] - 1
        while top >= 0 and pieces[c, _WEIGHT, top] == 0:
            top -= 1
        if top < 0:
            moments[2:, c] = 0.0
            continue
        # In a unit in which the weight is about 1, where no quotient over- or underflows.
        near = 34 - top
        _load(weight, pieces[c, _WEIGHT])
        total = rounded(weight, near, room)
        x_near = np.int64(np.floor(rounded(pieces[c, _X], near, room) / total + 0.5))
        y_near = np.int64(np.floor(rounded(pieces[c, _Y], near, room) / total + 0.5))
        _load(x, pieces[c, _X])
        _load(y, pieces[c, _Y])
        _load(xx, pieces[c, _XX])
        _load(xy, pieces[c, _XY])
        _load(yy, pieces[c, _YY])
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
