"""Sums over the pixels of sources, taken block by block.

They are exact, so that neither blocks nor the order in which they are united can change a bit of what follows. A
stretch of a run is summed in integers of 64 bits, in units of a power of two that suits its pixels, and with
positions counted from its beginning. These few numbers then go into the long sums of the source, in which positions
are those in the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask._kernels.exact_sums import ExactSums, add_wide, float_format, packed, place_of
from galprep_dask.segmentation._kernels.label import Components, Runs, as_kernel_input
from galprep_dask.segmentation._kernels.pixel_sums import FLUX, WEIGHT, XX, XY, YY, PixelSums, X, Y

__all__ = ["MOST_PIXELS", "measure_runs"]

#: Side of the largest image in which positions, and their squares, fit the integers here.
MOST_PIXELS = 2**21
#: Pixels of a stretch, and how many powers of two the first of them may lie above and below any other. With these a
#: sum of value * x**2 has 24 + 10 + 11 + 3 * 6 bits for float32, and fits 64; a float64 is taken in two halves of 27
#: bits at most.
_STRETCH, _BELOW = 64, 10
_SPAN_SINGLE, _SPAN_DOUBLE, _HALF = 21, 18, 27
_LOW = np.int64(0xFFFFFFFF)


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
    mask = as_kernel_input(np.empty((0, 0), np.bool_) if mask is None else mask)
    where = (*runs, components.of_run)
    n = len(components.area)
    counts, extremes, sizes = _extremes(*where, n, image, mask, *origin, nx_image)
    planes = [_Plane(image, sizes, True, shape_image is image)]
    if shape_image is not image:
        planes.append(_Plane(shape_image, _sizes(*where, shape_image, mask), False, True))
    values = _sum_planes(where, n, planes, mask, origin)
    squares, wild = ExactSums(np.zeros((n, 1, 1), np.int32), 0), np.zeros(n)
    if error is not None:
        squares = np.empty(image.shape)  # few of its pages are ever touched
        wild, sizes = _square(*where, n, image, as_kernel_input(_compiled_float(error)), mask, squares)
        nothing = as_kernel_input(np.empty((0, 0), np.bool_))
        squares = _sum_planes(where, n, [_Plane(as_kernel_input(squares), sizes, True, False)], nothing, origin)
    return PixelSums(counts[0], extremes[0], counts[1], extremes[1], counts[2], values, squares, wild)


def _compiled_float(block):
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)


class _Plane(NamedTuple):
    """An image, its least and greatest size other than zero, and whether flux and moments are those of it."""

    values: np.ndarray
    sizes: tuple[float, float]
    of_flux: bool
    of_moments: bool


def _sum_planes(where, n, planes: list[_Plane], mask, origin) -> ExactSums:
    (ny, nx), (y0, x0) = planes[0].values.shape, origin
    begins, ends, tops = [], [], []
    for plane in planes:
        low, high = (place_of(size, plane.values.dtype) for size in plane.sizes)
        mantissa = float_format(plane.values.dtype)[1]
        begins.append(low - _BELOW)
        ends.append(high - _BELOW + (0 if mantissa < 32 else _HALF))
        tops.append(high + mantissa)
    first = min(begins) >> 5
    # As far as a stretch is written to, and as far as the sum of all pixels can reach.
    n_bits = 2 * (max(y0 + ny, x0 + nx).bit_length() + 1) + (ny * nx).bit_length()
    last = max((max(ends) >> 5) + 3, (max(tops) + n_bits >> 5) + 1)
    pieces = np.zeros((n, 7 if planes[-1].of_moments else 1, last + 1 - first), np.int64)
    for values, _, of_flux, of_moments in planes:
        integer, _, shift = float_format(values.dtype)
        add_runs = _add_runs_single if values.dtype == np.float32 else _add_runs_double
        add_runs(*where, values.view(integer), mask, y0, x0, of_flux, of_moments, pieces, first, shift)
    return packed(pieces, first)


@njit(nogil=True, cache=True)
def _extremes(first, start, stop, of_run, n, image, mask, y0, x0, nx_image):
    """Give numbers of good pixels, and where in the image lowest and highest lie; their values; and :func:`_sizes`."""
    counts = np.zeros((3, n), np.int64)
    counts[1:] = -1
    extremes = np.empty((2, n))
    extremes[0], extremes[1] = np.inf, -np.inf
    least, most = np.inf, 0.0
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
                size = abs(value)
                if not size < np.inf or (has_mask and mask[row, x]):
                    continue
                n_good += 1
                if value < lowest:
                    lowest, lowest_at = value, x
                if value > highest:
                    highest, highest_at = value, x
                if 0.0 < size < least:
                    least = size
                if size > most:
                    most = size
            counts[0, c] += n_good
            if lowest_at >= 0:
                extremes[0, c], counts[1, c] = lowest, (y0 + row) * nx_image + x0 + lowest_at
            if highest_at >= 0:
                extremes[1, c], counts[2, c] = highest, (y0 + row) * nx_image + x0 + highest_at
    return counts, extremes, (least, most) if most > 0.0 else (1.0, 1.0)


@njit(nogil=True, cache=True)
def _sizes(first, start, stop, of_run, plane, mask):
    """Give the least and the greatest size of the good pixels that are not zero."""
    least, most = np.inf, 0.0
    has_mask = mask.size > 0
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            if of_run[run] < 0:
                continue
            for x in range(start[run], stop[run]):
                size = abs(np.float64(plane[row, x]))
                if not size < np.inf or (has_mask and mask[row, x]):
                    continue
                if 0.0 < size < least:
                    least = size
                if size > most:
                    most = size
    return (least, most) if most > 0.0 else (1.0, 1.0)


@njit(nogil=True, cache=True)
def _square(first, start, stop, of_run, n, image, error, mask, squares):
    """Square the errors of good pixels; those that are not finite are summed, and with those of bad pixels become 0."""
    wild = np.zeros(n)
    least, most = np.inf, 0.0
    has_mask = mask.size > 0
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            if of_run[run] < 0:
                continue
            for x in range(start[run], stop[run]):
                squares[row, x] = 0.0
                if not abs(image[row, x]) < np.inf or (has_mask and mask[row, x]):
                    continue
                square = np.float64(error[row, x]) * np.float64(error[row, x])
                if not square < np.inf:
                    wild[of_run[run]] += square
                    continue
                squares[row, x] = square
                if 0.0 < square < least:
                    least = square
                if square > most:
                    most = square
    return wild, (least, most) if most > 0.0 else (1.0, 1.0)


@njit(nogil=True, cache=True)
def _add_runs_single(first, start, stop, of_run, bits, mask, y0, x0, of_flux, of_moments, pieces, piece, shift):
    """Add float32 pixels, given by their bits."""
    has_mask = mask.size > 0
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            c = of_run[run]
            if c < 0:
                continue
            x, stretch = np.int64(start[run]), np.int64(start[run])
            unit = np.int64(-1)
            flux, s0, s1, s2 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
            while x < stop[run]:
                here = np.int64(bits[row, x])
                exponent = (here >> 23) & 0xFF
                number = here & 0x7FFFFF
                if exponent > 0:
                    number |= 0x800000
                if number == 0 or exponent == 0xFF or (has_mask and mask[row, x]):
                    x += 1
                    continue
                place = max(exponent, np.int64(1)) + shift
                if unit < 0:
                    unit, stretch = place - _BELOW, x
                up, i = place - unit, x - stretch
                if up < 0 or up > _SPAN_SINGLE or i >= _STRETCH:
                    k, up = (unit >> 5) - piece, unit & 31
                    _add_sums(pieces[c], k, up, flux, s0, s1, s2, y0 + row, x0 + stretch, of_flux, of_moments)
                    unit = np.int64(-1)
                    flux, s0, s1, s2 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                    continue
                number <<= up
                if here > 0:
                    flux += number
                    s0 += number
                    s1 += number * i
                    s2 += number * (i * i)
                else:
                    flux -= number
                x += 1
            if unit >= 0:
                k, up = (unit >> 5) - piece, unit & 31
                _add_sums(pieces[c], k, up, flux, s0, s1, s2, y0 + row, x0 + stretch, of_flux, of_moments)


@njit(nogil=True, cache=True)
def _add_runs_double(first, start, stop, of_run, bits, mask, y0, x0, of_flux, of_moments, pieces, piece, shift):
    """Add float64 pixels, given by their bits, in two halves."""
    has_mask = mask.size > 0
    half = (np.int64(1) << _HALF) - 1
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            c = of_run[run]
            if c < 0:
                continue
            x, stretch = np.int64(start[run]), np.int64(start[run])
            unit = np.int64(-1)
            flux, s0, s1, s2 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
            flux_high, s0_high, s1_high, s2_high = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
            while True:
                full = x == stop[run]
                if not full:
                    here = np.int64(bits[row, x])
                    exponent = (here >> 52) & 0x7FF
                    number = here & 0xFFFFFFFFFFFFF
                    if exponent > 0:
                        number |= 0x10000000000000
                    if number == 0 or exponent == 0x7FF or (has_mask and mask[row, x]):
                        x += 1
                        continue
                    place = max(exponent, np.int64(1)) + shift
                    if unit < 0:
                        unit, stretch = place - _BELOW, x
                    up, i = place - unit, x - stretch
                    full = up < 0 or up > _SPAN_DOUBLE or i >= _STRETCH
                if full:
                    if unit >= 0:
                        y, at = y0 + row, x0 + stretch
                        k, up = (unit >> 5) - piece, unit & 31
                        _add_sums(pieces[c], k, up, flux, s0, s1, s2, y, at, of_flux, of_moments)
                        k, up = ((unit + _HALF) >> 5) - piece, (unit + _HALF) & 31
                        _add_sums(pieces[c], k, up, flux_high, s0_high, s1_high, s2_high, y, at, of_flux, of_moments)
                        unit = np.int64(-1)
                        flux, s0, s1, s2 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                        flux_high, s0_high, s1_high, s2_high = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                    if x == stop[run]:
                        break
                    continue
                low, high = (number & half) << up, (number >> _HALF) << up
                if here > 0:
                    flux, flux_high = flux + low, flux_high + high
                    if of_moments:
                        s0, s0_high = s0 + low, s0_high + high
                        s1, s1_high = s1 + low * i, s1_high + high * i
                        s2, s2_high = s2 + low * (i * i), s2_high + high * (i * i)
                else:
                    flux, flux_high = flux - low, flux_high - high
                x += 1


@njit(nogil=True, cache=True)
def _add_sums(sums, k, up, flux, s0, s1, s2, y, x, of_flux, of_moments):
    """Add the sums of a stretch, of value * i**n for the pixels ``x + i`` of row ``y``, in numbers of two words."""
    if of_flux:
        add_wide(sums[FLUX], k, up, flux >> 32, flux & _LOW)
    if not of_moments or s0 == 0:
        return
    weight, first, second = (s0 >> 32, s0 & _LOW), (s1 >> 32, s1 & _LOW), (s2 >> 32, s2 & _LOW)
    sum_x = _plus(first, _times(weight, x))
    sum_xx = _plus(second, _times(_plus(first, sum_x), x))
    sum_y = _times(weight, y)
    sum_xy, sum_yy = _times(sum_x, y), _times(sum_y, y)
    add_wide(sums[WEIGHT], k, up, weight[0], weight[1])
    add_wide(sums[X], k, up, sum_x[0], sum_x[1])
    add_wide(sums[Y], k, up, sum_y[0], sum_y[1])
    add_wide(sums[XX], k, up, sum_xx[0], sum_xx[1])
    add_wide(sums[XY], k, up, sum_xy[0], sum_xy[1])
    add_wide(sums[YY], k, up, sum_yy[0], sum_yy[1])


@njit(nogil=True, cache=True)
def _plus(one, other):
    low = one[1] + other[1]
    return one[0] + other[0] + (low >> 32), low & _LOW


@njit(nogil=True, cache=True)
def _times(number, factor):
    low = number[1] * factor
    return number[0] * factor + (low >> 32), low & _LOW
