"""Clipped statistics of the boxes of a mesh: those inside a block, and those that cross its border."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.sky._kernels.chebyshev import ANY_ORDER, compiled_float
from galprep_dask.sky._kernels.sort import sort_rows

__all__ = ["BoxParts", "boxes_of_block", "join_boxes"]


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
            sort_rows(rows, n_good)
            statistics[:, n] = _clipped_statistics(rows, n_good, sigma, maxiters)
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
        row = values[None] if len(values) else np.empty((1, 1), values.dtype)
        sort_rows(row, n_good)
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


@njit(nogil=True, cache=True)
def _clipped_statistics(rows, n_good, sigma, maxiters):
    """
    Take number, mean, median and std of the first ``n_good`` of each sorted row, clipped about the median.

    What is clipped is taken off the sums, as long as it is the lesser part of them; else they are taken anew.
    """
    statistics = np.full((4, len(n_good)), np.nan)
    for b in range(len(n_good)):
        row = rows[b]
        low, high = 0, n_good[b]
        iterations = 0
        n, mean, median, std = 0, np.nan, np.nan, np.nan
        pivot, total, square, least = 0.0, 0.0, 0.0, np.inf
        while True:
            n = high - low
            if n == 0:
                mean, median, std = np.nan, np.nan, np.nan
                break
            median = (np.float64(row[low + (n - 1) // 2]) + np.float64(row[low + n // 2])) / 2
            # About a median, less than a standard deviation or two from the mean: no digits are lost on a high sky.
            if not square > least:
                pivot = median
                total, square = _sums_about(row[low:high], pivot)
                least = 0.5 * square
            offset = total / n
            variance = square / n - offset * offset
            mean = offset + pivot
            if not square < np.inf:
                variance = np.inf  # pixels of 1e200, say
            std = np.sqrt(max(variance, 0.0))
            if iterations == maxiters:
                break
            lowest, highest = median - sigma * std, median + sigma * std
            first, last = low, high
            while low < high and row[low] < lowest:
                low += 1
            while low < high and row[high - 1] > highest:
                high -= 1
            if high - low == n:
                break
            iterations += 1
            below, above = _sums_about(row[first:low], pivot), _sums_about(row[high:last], pivot)
            total -= below[0] + above[0]
            square -= below[1] + above[1]
        # Adding zero makes 0.0 of -0.0, two equal values whose order sorting leaves to chance.
        statistics[0, b], statistics[1, b], statistics[2, b], statistics[3, b] = n, mean + 0.0, median + 0.0, std
    return statistics


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _sums_about(values, pivot):
    """Sum the values and their squares as seen from ``pivot``."""
    total, square = 0.0, 0.0
    for k in range(len(values)):
        offset = np.float64(values[k]) - pivot
        total += offset
        square += offset * offset
    return total, square
