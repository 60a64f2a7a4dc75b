"""Sky of one block: Chebyshev sums and values, statistics of boxes, values of a spline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.polynomial.chebyshev import chebvander

__all__ = [
    "BoxParts",
    "boxes_of_block",
    "evaluate_block",
    "evaluate_spline",
    "join_boxes",
    "median_filter",
    "on_domain",
    "sky_sums",
]

#: Sums may be taken in any order, so that several are added up at a time; NaN and infinity stay what they are.
_ANY_ORDER = {"reassoc", "nsz", "contract"}


# Polynomial ----------------------------------------------------------------------------------------------


def on_domain(start: int, stop: int, length: int) -> np.ndarray:
    """Pixel coordinates ``start`` to ``stop`` of an axis of ``length`` pixels, mapped to [-1, 1]."""
    if length == 1:
        return np.zeros(stop - start)
    return (2.0 * np.arange(start, stop) - (length - 1)) / (length - 1)


def evaluate_block(shape, origin, coefficients, image_shape) -> np.ndarray:
    """Values of the polynomial with ``coefficients[i, j]`` of T_i(y) T_j(x) on one block."""
    degree_y, degree_x = coefficients.shape[0] - 1, coefficients.shape[1] - 1
    y = on_domain(origin[0], origin[0] + shape[0], image_shape[0])
    x = on_domain(origin[1], origin[1] + shape[1], image_shape[1])
    return chebvander(y, degree_y) @ coefficients @ chebvander(x, degree_x).T


def sky_sums(block, *planes, origin, image_shape, order, model, limit, has_mask, has_weight) -> np.ndarray:
    """
    All sums of one block that a fit needs, in one vector.

    In this order: moments of the weights with T_i(y) T_j(x) to degree ``2 * order``, shape (2 order + 1)^2;
    moments of weight * residual to degree ``order``, shape (order + 1)^2; the sum of weight * residual^2; the
    number of pixels. Residuals are taken about ``model``; pixels with sqrt(weight) * |residual| above
    ``limit`` are left out (None: none is).
    """
    planes = list(planes)
    mask = planes.pop(0) if has_mask else np.empty((0, 0), np.bool_)
    weight = compiled_float(planes.pop(0)) if has_weight else np.empty((0, 0))
    y = on_domain(origin[0], origin[0] + block.shape[0], image_shape[0])
    x = on_domain(origin[1], origin[1] + block.shape[1], image_shape[1])
    by_y = chebvander(y, 2 * order)
    by_x = np.ascontiguousarray(chebvander(x, 2 * order).T)
    gram, rhs, square, n_pixels = _sums_of_rows(
        compiled_float(block), mask, weight, has_mask, has_weight, by_y, by_x, by_y[:, : order + 1] @ model,
        np.inf if limit is None else float(limit) ** 2,
    )  # fmt: skip
    return np.concatenate([gram.ravel(), rhs.ravel(), [square, n_pixels]])


def compiled_float(block: np.ndarray) -> np.ndarray:
    """Give float32 and float64 as they are, anything else as float64."""
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _sums_of_rows(block, mask, weight, has_mask, has_weight, by_y, by_x, model, square_limit):
    """
    Take the sums of :func:`sky_sums`: moments along x of one row after another, times T_i(y).

    ``by_x[j, x]`` is T_j(x), ``by_y[y, i]`` is T_i(y), ``model[y, j]`` the coefficients of T_j(x) of the model in
    row y. Two rows of float64 are all that is kept.
    """
    ny, nx = block.shape
    wide, narrow = by_x.shape[0], model.shape[1]
    gram, rhs = np.zeros((wide, wide)), np.zeros((narrow, narrow))
    square, n_pixels = 0.0, 0
    weights, weighted = np.empty(nx), np.empty(nx)
    whole = np.zeros(wide)  # moments of a row of which every pixel counts, and counts the same
    for j in range(wide):
        for x in range(nx):
            whole[j] += by_x[j, x]
    for y in range(ny):
        weighted[:] = 0.0
        for j in range(narrow):
            c = model[y, j]
            for x in range(nx):
                weighted[x] += c * by_x[j, x]
        n_good = 0
        for x in range(nx):
            value = np.float64(block[y, x])
            w = np.float64(weight[y, x]) if has_weight else 1.0
            good = abs(value) < np.inf and w > 0.0 and w < np.inf  # all false for NaN
            if has_mask:
                good = good and not mask[y, x]
            residual = value - weighted[x]
            term = w * residual * residual
            good = good and term <= square_limit
            # Chosen, not multiplied by zero: what lies under the mask, NaN included, stays out of every sum.
            weights[x] = w if good else 0.0
            weighted[x] = w * residual if good else 0.0
            square += term if good else 0.0
            n_good += 1 if good else 0
        if n_good == 0:
            continue
        n_pixels += n_good
        for j in range(wide):
            if n_good == nx and not has_weight:
                moment = whole[j]
            else:
                moment = 0.0
                for x in range(nx):
                    moment += weights[x] * by_x[j, x]
            for i in range(wide):
                gram[i, j] += by_y[y, i] * moment
        for j in range(narrow):
            moment = 0.0
            for x in range(nx):
                moment += weighted[x] * by_x[j, x]
            for i in range(narrow):
                rhs[i, j] += by_y[y, i] * moment
    return gram, rhs, square, n_pixels


# Boxes ---------------------------------------------------------------------------------------------------


class BoxParts(NamedTuple):
    """What one block knows of the boxes that it meets."""

    first: tuple[int, int]  # index of the first box that lies inside it
    inside: np.ndarray  # statistics of the boxes that lie inside it, (4, boxes along y, boxes along x)
    pieces: dict[tuple[int, int], np.ndarray]  # good pixels of the boxes that cross its border


def boxes_of_block(block, mask=None, *, origin, image_shape, box_size, sigma, maxiters) -> BoxParts:
    """
    Take the statistics of the boxes inside a block, and the good pixels of those that reach beyond it.

    The statistics are the number of pixels that clipping leaves, and their mean, median and standard deviation;
    NaN for an empty box. ``maxiters`` of -1 clips until nothing changes.
    """
    block = compiled_float(block)
    met, inside = zip(*map(_boxes_along, origin, block.shape, image_shape, box_size), strict=True)
    edges = [
        np.clip(np.arange(low, high + 1) * size, start, start + length) - start
        for (low, high), size, start, length in zip(met, box_size, origin, block.shape, strict=True)
    ]
    counts = [len(range(*axis)) for axis in inside]
    statistics = np.empty((4, *counts))
    has_mask = mask is not None
    mask = mask if has_mask else np.empty((0, 0), np.bool_)
    if 0 not in counts:
        rows = np.empty((counts[1], box_size[0] * box_size[1]), block.dtype)
        first_x = inside[1][0] - met[1][0]
        columns = edges[1][first_x : first_x + counts[1] + 1]
        for n in range(counts[0]):
            y = inside[0][0] - met[0][0] + n
            n_good = _gather(block, mask, has_mask, edges[0][y], edges[0][y + 1], columns, rows)
            filled = rows[:, : max(n_good.max(), 1)]
            filled.sort(axis=1)  # what is past the good pixels is infinite, and stays there
            statistics[:, n] = _clipped_statistics(filled, n_good, sigma, maxiters)
    pieces = {}
    for by in range(*met[0]):
        inside_y = inside[0][0] <= by < inside[0][1]
        rows_y = slice(edges[0][by - met[0][0]], edges[0][by - met[0][0] + 1])
        for bx in range(*met[1]):
            if not (inside_y and inside[1][0] <= bx < inside[1][1]):
                window = (rows_y, slice(edges[1][bx - met[1][0]], edges[1][bx - met[1][0] + 1]))
                good = np.isfinite(block[window])
                if has_mask:
                    good &= ~mask[window]
                pieces[by, bx] = block[window][good]
    return BoxParts((inside[0][0], inside[1][0]), statistics, pieces)


def _boxes_along(start, length, image_length, size):
    """Give the boxes, as [first, last), that a block meets along one axis, and those that lie inside it."""
    stop = start + length
    met = start // size, -(-stop // size)
    # The last box may be cut short by the end of the image.
    inside = -(-start // size), met[1] if stop == image_length else stop // size
    return met, inside


def join_boxes(parts, *, first, count, sigma, maxiters) -> np.ndarray:
    """
    Statistics of the boxes ``first`` to ``first + count`` from the parts of all blocks that they meet.

    The boxes begin in the block of ``parts[0]``. In which order pixels come does not matter: they are sorted.
    """
    own = parts[0]
    statistics = np.empty((4, *count))
    y, x = own.first[0] - first[0], own.first[1] - first[1]
    statistics[:, y : y + own.inside.shape[1], x : x + own.inside.shape[2]] = own.inside
    crossing = [index for index in np.ndindex(*count) if (first[0] + index[0], first[1] + index[1]) in own.pieces]
    for y, x in crossing:
        box = (first[0] + y, first[1] + x)
        values = np.concatenate([part.pieces[box] for part in parts if box in part.pieces])
        n_good = np.array([len(values)])
        row = np.sort(values)[None] if len(values) else np.empty((1, 1), values.dtype)
        statistics[:, y, x] = _clipped_statistics(row, n_good, sigma, maxiters)[:, 0]
    return statistics


@njit(nogil=True, cache=True)
def _gather(block, mask, has_mask, y0, y1, columns, rows):
    """Copy the good pixels of the boxes between two image rows, a box to a row, and fill up with infinity."""
    n_boxes = len(columns) - 1
    n_good = np.zeros(n_boxes, np.int64)
    for y in range(y0, y1):
        for b in range(n_boxes):  # along the row of the image: three times as quick as one box after another
            n = n_good[b]
            for x in range(columns[b], columns[b + 1]):
                value = block[y, x]
                rows[b, n] = value  # the next one takes its place unless it is good
                good = abs(value) < np.inf
                if has_mask:
                    good = good and not mask[y, x]
                n += 1 if good else 0
            n_good[b] = n
    for b in range(n_boxes):
        rows[b, n_good[b] :] = np.inf
    return n_good


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _clipped_statistics(rows, n_good, sigma, maxiters):
    """Take number, mean, median and std of the first ``n_good`` of each sorted row, clipped about the median."""
    statistics = np.full((4, len(n_good)), np.nan)
    for b in range(len(n_good)):
        low, high = 0, n_good[b]
        iterations = 0
        n, mean, median, std = 0, np.nan, np.nan, np.nan
        while True:
            n = high - low
            if n == 0:
                mean, median, std = np.nan, np.nan, np.nan
                break
            median = (np.float64(rows[b, low + (n - 1) // 2]) + np.float64(rows[b, low + n // 2])) / 2
            # About the median, less than a standard deviation from the mean: no digits are lost on a high sky.
            total, square = 0.0, 0.0
            for k in range(low, high):
                offset = np.float64(rows[b, k]) - median
                total += offset
                square += offset * offset
            mean = total / n
            variance = square / n - mean * mean
            mean += median
            if not square < np.inf:
                variance = np.inf  # pixels of 1e200, say
            std = np.sqrt(max(variance, 0.0))
            if iterations == maxiters:
                break
            lowest, highest = median - sigma * std, median + sigma * std
            while low < high and rows[b, low] < lowest:
                low += 1
            while low < high and rows[b, high - 1] > highest:
                high -= 1
            if high - low == n:
                break
            iterations += 1
        # Adding zero makes 0.0 of -0.0, two equal values whose order sorting leaves to chance.
        statistics[0, b], statistics[1, b], statistics[2, b], statistics[3, b] = n, mean + 0.0, median + 0.0, std
    return statistics


# Mesh ----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def median_filter(mesh, size_y, size_x):
    """Give the median of the window of ``size_y`` x ``size_x`` cells about each cell; at the edges of what exists."""
    ny, nx = mesh.shape
    result = np.empty_like(mesh)
    window = np.empty(size_y * size_x)
    for y in range(ny):
        for x in range(nx):
            n = 0
            for yy in range(max(y - size_y // 2, 0), min(y + size_y // 2 + 1, ny)):
                for xx in range(max(x - size_x // 2, 0), min(x + size_x // 2 + 1, nx)):
                    window[n] = mesh[yy, xx]
                    n += 1
            result[y, x] = np.median(window[:n])
    return result


def evaluate_spline(y, x, coefficients, *, box_size, lowest, highest) -> np.ndarray:
    """
    Values on rows ``y`` and columns ``x`` of the cubic spline that has its knots in the middle of the boxes.

    ``coefficients`` are widened by two cells on every side. Values are kept within ``lowest`` and ``highest``.
    """
    first_y, weights_y = _taps(y, box_size[0], coefficients.shape[0] - 4)
    first_x, weights_x = _taps(x, box_size[1], coefficients.shape[1] - 4)
    return _spline(first_y, weights_y, first_x, weights_x, coefficients, lowest, highest)


def _taps(pixels, size, n_cells):
    """First of the four coefficients that each pixel depends on, and their weights; flat beyond the boxes."""
    position = np.clip((pixels + 0.5) * (1.0 / size) - 0.5, -0.5, n_cells - 0.5)
    cell = np.floor(position)
    t = position - cell
    weights = [(1 - t) ** 3, 4 - 3 * t**2 * (2 - t), 4 - 3 * (1 - t) ** 2 * (1 + t), t**3]
    return cell.astype(np.int64) + 1, np.stack(weights) / 6


@njit(nogil=True, cache=True)
def _spline(first_y, weights_y, first_x, weights_x, coefficients, lowest, highest):
    """Sum four by four coefficients for every pixel; pixels of one row between the same knots make a run."""
    values = np.empty((len(first_y), len(first_x)))
    line = np.empty(coefficients.shape[1])
    low, high = first_x[0], first_x[-1] + 1
    edges = np.searchsorted(first_x, np.arange(low, high + 1))
    for y in range(len(first_y)):
        cell = first_y[y]
        for m in range(low, high + 3):
            line[m] = (
                weights_y[0, y] * coefficients[cell, m]
                + weights_y[1, y] * coefficients[cell + 1, m]
                + weights_y[2, y] * coefficients[cell + 2, m]
                + weights_y[3, y] * coefficients[cell + 3, m]
            )
        for m in range(low, high):
            run = slice(edges[m - low], edges[m - low + 1])
            row, w0, w1 = values[y, run], weights_x[0, run], weights_x[1, run]
            w2, w3 = weights_x[2, run], weights_x[3, run]
            for x in range(len(row)):
                value = w0[x] * line[m] + w1[x] * line[m + 1] + w2[x] * line[m + 2] + w3[x] * line[m + 3]
                value = highest if value > highest else value
                row[x] = lowest if value < lowest else value
    return values
