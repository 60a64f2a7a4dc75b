"""Peaks of segments: regions that a threshold can separate."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["count_peaks"]


@njit(nogil=True, cache=True)
def count_peaks(values, ranks, order, n_ranks, n_pixels, with_corners):
    """
    Count the peaks of every segment: the most regions of ``n_pixels`` pixels that thresholds can separate.

    Pixels enter from the brightest down, equal ones together, and regions unite where they touch. A region counts
    as one peak as soon as it has ``n_pixels`` pixels, and with its peaks afterwards. No set of thresholds finds more
    than this, so one peak means that there is nothing to split.
    """
    ny, nx = ranks.shape
    node = np.full(ny * nx, -1, np.int32)
    parent = np.arange(len(order)).astype(np.int32)
    size = np.ones(len(order), np.int32)
    peaks = np.zeros(len(order), np.int32)
    flat_ranks, flat_values = ranks.ravel(), values.ravel()
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and flat_values[order[stop]] == flat_values[order[start]]:
            stop += 1
        for n in range(start, stop):
            pixel = order[n]
            node[pixel] = n
            y, x = pixel // nx, pixel % nx
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if not (0 <= y + dy < ny and 0 <= x + dx < nx) or not (with_corners or dy == 0 or dx == 0):
                        continue
                    other = pixel + dy * nx + dx
                    if node[other] < 0 or flat_ranks[other] != flat_ranks[pixel]:
                        continue
                    one, two = _root(parent, n), _root(parent, node[other])
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
    total = np.zeros(n_ranks, np.int64)
    for n in range(len(order)):
        if parent[n] == n:
            total[flat_ranks[order[n]]] += peaks[n]
    return total


@njit(nogil=True, cache=True)
def _root(parent, n):
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = parent[n]
    return n
