"""Sums over the pixels of sources, taken block by block, and the union of such sums."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.segmentation._kernels.label import Components, Runs, as_kernel_input

__all__ = ["Sums", "join_sums", "measure_runs"]


class Sums(NamedTuple):
    """
    What the pixels of sources add up to, one entry of each array for a source.

    Good pixels are finite and not masked. Moments are taken of the positive good pixels, and about their own mean, so
    that nothing is lost far from the origin of a large image.
    """

    n_good: np.ndarray  # int64
    flux: np.ndarray
    lowest: np.ndarray  # inf where there is no good pixel
    lowest_at: np.ndarray  # int64, flat index in the image of the first such pixel, -1 where there is none
    highest: np.ndarray  # -inf where there is none
    highest_at: np.ndarray
    variance: np.ndarray  # sum of the squared errors of the good pixels
    weight: np.ndarray  # sum of the positive pixels
    x: np.ndarray  # their mean position, in pixels of the image
    y: np.ndarray
    xx: np.ndarray  # sums of value * (x - mean)**2 and so on
    xy: np.ndarray
    yy: np.ndarray


def measure_runs(runs: Runs, components: Components, image, shape_image, error, mask, origin, nx_image: int) -> Sums:
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
        Row and column of the block's first pixel.
    nx_image : int
        Columns of the image.

    Returns
    -------
    Sums
    """
    image = as_kernel_input(_compiled_float(image))
    shape_image = image if shape_image is None else as_kernel_input(_compiled_float(shape_image))
    error = as_kernel_input(np.empty((0, 0)) if error is None else np.asarray(error, np.float64))
    mask = as_kernel_input(np.empty((0, 0), np.bool_) if mask is None else mask)
    counts, values = _measure_runs(
        *runs, components.of_run, components.first, image, shape_image, error, mask, *origin, nx_image
    )
    weight, sx, sy, sxx, sxy, syy = values[4:]
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (np.where(weight > 0, total / weight, 0.0) for total in (sx, sy))
    corner = components.first.astype(np.float64).T + np.array(origin, np.float64)[:, None]
    return Sums(
        counts[0], values[0], values[1], counts[1], values[2], counts[2], values[3], weight, x + corner[1],
        y + corner[0], np.maximum(sxx - x * sx, 0.0), sxy - x * sy, np.maximum(syy - y * sy, 0.0),
    )  # fmt: skip


def _compiled_float(block):
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)


@njit(nogil=True, cache=True)
def _measure_runs(first, start, stop, of_run, first_pixel, image, shape_image, error, mask, y0, x0, nx_image):
    """Moments here are about the first pixel of each component."""
    n = len(first_pixel)
    counts = np.zeros((3, n), np.int64)
    counts[1:] = -1
    values = np.zeros((10, n))
    values[1], values[2] = np.inf, -np.inf
    has_mask, has_error = mask.size > 0, error.size > 0
    for row in range(len(first) - 1):
        for run in range(first[row], first[row + 1]):
            c = of_run[run]
            if c < 0:
                continue
            n_good, flux, variance, s0, s1, s2 = 0, 0.0, 0.0, 0.0, 0.0, 0.0
            lowest, highest = values[1, c], values[2, c]
            for x in range(start[run], stop[run]):
                if has_mask and mask[row, x]:
                    continue
                value = np.float64(image[row, x])
                if abs(value) < np.inf:
                    n_good += 1
                    flux += value
                    if has_error:
                        variance += error[row, x] * error[row, x]
                    if value < lowest:
                        lowest = value
                        counts[1, c] = (y0 + row) * nx_image + x0 + x
                    if value > highest:
                        highest = value
                        counts[2, c] = (y0 + row) * nx_image + x0 + x
                value = np.float64(shape_image[row, x])
                if 0.0 < value < np.inf:
                    i = x - start[run]
                    s0 += value
                    s1 += value * i
                    s2 += value * (i * i)
            dy, dx = np.float64(row - first_pixel[c, 0]), np.float64(start[run] - first_pixel[c, 1])
            sx = s1 + dx * s0
            counts[0, c] += n_good
            values[0, c] += flux
            values[1, c], values[2, c] = lowest, highest
            values[3, c] += variance
            values[4, c] += s0
            values[5, c] += sx
            values[6, c] += dy * s0
            values[7, c] += s2 + dx * (s1 + sx)
            values[8, c] += dy * sx
            values[9, c] += dy * dy * s0
    return counts, values


def join_sums(sums: Sums, edges: np.ndarray) -> Sums:
    """
    Unite the sums of the parts of sources: parts ``edges[i]:edges[i + 1]`` are those of source ``i``.

    Parameters
    ----------
    sums : Sums
        Of the parts, those of a source side by side.
    edges : (n + 1,) int array
        Ascending, without repeats.

    Returns
    -------
    Sums
    """
    begin = edges[:-1]
    of_part = np.repeat(np.arange(len(begin)), np.diff(edges))

    def total(values):
        return np.add.reduceat(values, begin)

    weight = total(sums.weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (np.where(weight > 0, total(sums.weight * mean) / weight, 0.0) for mean in (sums.x, sums.y))
    dx, dy = sums.x - x[of_part], sums.y - y[of_part]
    lowest, highest = np.minimum.reduceat(sums.lowest, begin), np.maximum.reduceat(sums.highest, begin)
    return Sums(
        total(sums.n_good), total(sums.flux), lowest, _first_at(sums.lowest_at, sums.lowest == lowest[of_part], begin),
        highest, _first_at(sums.highest_at, sums.highest == highest[of_part], begin), total(sums.variance), weight,
        x, y, total(sums.xx + sums.weight * dx * dx), total(sums.xy + sums.weight * dx * dy),
        total(sums.yy + sums.weight * dy * dy),
    )  # fmt: skip


def _first_at(at, reached, begin):
    nowhere = np.iinfo(np.int64).max
    first = np.minimum.reduceat(np.where(reached & (at >= 0), at, nowhere), begin)
    return np.where(first == nowhere, -1, first)
