"""Peaks of a segment: the regions that thresholds can separate."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["count_candidates", "count_peaks"]


def count_peaks(inside: np.ndarray, values: np.ndarray, n_pixels: int, connectivity: int) -> int:
    """
    Count the peaks of a segment: the most regions of ``n_pixels`` pixels that thresholds can separate.

    Parameters
    ----------
    inside : (ny, nx) bool array
        The segment's pixels.
    values : (n,) array
        Their values, row by row.
    n_pixels : int
        Pixels of the smallest region that counts.
    connectivity : {8, 4}
        Whether pixels that share a corner only are connected.

    Returns
    -------
    int
        No set of thresholds finds more, so with one peak there is nothing to split.

    Notes
    -----
    Pixels enter from the brightest down, equal ones together, and regions unite where they touch. A region is one
    peak as soon as it has ``n_pixels`` pixels, and has the peaks of those that it is made of from then on.
    """
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)  # as it is compared with thresholds
    return _flood(np.flatnonzero(inside), values, np.argsort(values)[::-1], inside.shape, n_pixels, connectivity == 8)


def count_candidates(
    inside: np.ndarray, values: np.ndarray, n_pixels: int, connectivity: int, n_levels: int, mode: str
) -> int:
    """
    Count the peaks that ``n_levels`` thresholds separate: about as many as the watershed will start from.

    Parameters
    ----------
    inside, values, n_pixels, connectivity
        As for :func:`count_peaks`.
    n_levels : int
        Thresholds between the faintest and the brightest pixel.
    mode : {"exponential", "linear", "sinh"}
        Their spacing; "exponential" is "sinh" where pixels are not positive.

    Returns
    -------
    int
        At most what :func:`count_peaks` gives.
    """
    low, high = float(values.min()), float(values.max())
    steps = np.arange(1, n_levels + 1) / (n_levels + 1)
    if mode == "exponential" and low > 0:
        levels = low * (high / low) ** steps
    elif mode == "linear":
        levels = low + (high - low) * steps
    else:
        levels = low + (high - low) * np.sinh(4 * steps) / np.sinh(4)
    return count_peaks(inside, np.searchsorted(levels, values).astype(np.float32), n_pixels, connectivity)


@njit(nogil=True, cache=True)
def _flood(pixels, values, order, shape, n_pixels, with_corners):
    ny, nx = shape
    node = np.full(ny * nx, -1, np.int32)  # place of a pixel in the order, once it has entered
    parent = np.arange(len(order)).astype(np.int32)
    size = np.ones(len(order), np.int32)
    peaks = np.zeros(len(order), np.int32)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for n in range(start, stop):
            pixel = pixels[order[n]]
            node[pixel] = n
            y, x = pixel // nx, pixel % nx
            for y1 in range(max(y - 1, 0), min(y + 2, ny)):
                for x1 in range(max(x - 1, 0), min(x + 2, nx)):
                    other = node[y1 * nx + x1]
                    if other < 0 or not (with_corners or y1 == y or x1 == x):
                        continue
                    one, two = _root(parent, n), _root(parent, other)
                    if one != two:
                        if size[one] < size[two]:
                            one, two = two, one
                        parent[two] = one
                        size[one] += size[two]
                        peaks[one] += peaks[two]
        for n in range(start, stop):
            root = _root(parent, n)
            if peaks[root] == 0 and size[root] >= n_pixels:
                peaks[root] = 1
        start = stop
    total = 0
    for n in range(len(order)):
        if parent[n] == n:
            total += peaks[n]
    return total


@njit(nogil=True, cache=True)
def _root(parent, n):
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = parent[n]
    return n
