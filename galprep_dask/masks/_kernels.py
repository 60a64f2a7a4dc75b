"""Growth of segments into the sky around them, on one array."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["grow_labels"]


def grow_labels(labels, data, bad, sky_level, sky_std, max_grow_size, addgrow) -> np.ndarray:
    """
    Label image of the segments and their growth, int32.

    Parameters
    ----------
    labels : (ny, nx) int32 array
        Segments, 0 = sky.
    data : (ny, nx) float array
        Image that decides how far they grow.
    bad : (ny, nx) bool array
        Pixels whose values count for nothing.
    sky_level, sky_std : float
        Growth stops where the mean of a ring of n good pixels is within ``sky_std / sqrt(n)`` of ``sky_level``.
    max_grow_size : int
        Rings at most.
    addgrow : (n_labels + 1,) float array
        Pixels that each label, and index 0 for none, grows further by in any case.
    """
    n_labels = int(labels.max(initial=0))
    reach = int(max_grow_size) + int(np.ceil(addgrow.max(initial=0)))
    if n_labels == 0 or reach == 0:
        return labels.copy()
    gap, nearest = _nearest_in_column(labels, reach)
    distance2, owner = _nearest_segment(labels, gap, nearest, reach)
    total, count = _ring_sums(labels, distance2, owner, data, bad, n_labels, int(max_grow_size))
    radius = _growth_radius(total, count, float(sky_level), float(sky_std))
    return _fill(labels, distance2, owner, radius + addgrow)


@njit(nogil=True, cache=True)
def _nearest_in_column(labels, reach):
    """Distance along the column to the nearest segment pixel (the lower label on a tie), up to ``reach``."""
    ny, nx = labels.shape
    gap = np.full((ny, nx), reach + 1, np.int32)
    nearest = np.zeros((ny, nx), np.int32)
    for y in range(ny):
        for x in range(nx):
            if labels[y, x] > 0:
                gap[y, x], nearest[y, x] = 0, labels[y, x]
            elif y > 0 and gap[y - 1, x] < reach:
                gap[y, x], nearest[y, x] = gap[y - 1, x] + 1, nearest[y - 1, x]
    for y in range(ny - 2, -1, -1):
        for x in range(nx):
            below = gap[y + 1, x] + 1
            if below <= reach:
                if below < gap[y, x]:
                    gap[y, x], nearest[y, x] = below, nearest[y + 1, x]
                elif below == gap[y, x] and nearest[y + 1, x] < nearest[y, x]:
                    nearest[y, x] = nearest[y + 1, x]
    return gap, nearest


@njit(nogil=True, cache=True)
def _nearest_segment(labels, gap, nearest, reach):
    """
    Square of the exact Euclidean distance to the nearest segment, and its label; the lower label on a tie.

    From every sky pixel, columns are searched outwards until none further off can be as near. In integers:
    nothing is rounded, and ties are ties.
    """
    ny, nx = labels.shape
    distance2 = np.zeros((ny, nx), np.int64)
    owner = np.zeros((ny, nx), np.int32)
    limit = np.int64(reach) * reach
    for y in range(ny):
        for x in range(nx):
            if labels[y, x] > 0:
                continue
            best, label = limit + 1, np.int32(0)
            for step in range(reach + 1):
                across = np.int64(step) * step
                if across > best:
                    break
                for side in range(2):
                    column = x - step if side == 0 else x + step
                    if column < 0 or column >= nx or nearest[y, column] == 0:
                        continue
                    along = np.int64(gap[y, column])
                    square = across + along * along
                    if square < best or (square == best and nearest[y, column] < label):
                        best, label = square, nearest[y, column]
            if label > 0:
                distance2[y, x], owner[y, x] = best, label
    return distance2, owner


@njit(nogil=True, cache=True)
def _ring(distance2):
    """Ring r holds the distances in (r - 1, r]: the square root, rounded up, in exact integers."""
    r = np.int64(np.sqrt(np.float64(distance2)))
    while r * r < distance2:
        r += 1
    while (r - 1) * (r - 1) >= distance2:
        r -= 1
    return r


@njit(nogil=True, cache=True)
def _ring_sums(labels, distance2, owner, data, bad, n_labels, max_ring):
    total = np.zeros((n_labels + 1, max_ring + 1), np.float64)
    count = np.zeros((n_labels + 1, max_ring + 1), np.int64)
    ny, nx = labels.shape
    for y in range(ny):
        for x in range(nx):
            if owner[y, x] > 0 and not bad[y, x]:
                ring = _ring(distance2[y, x])
                if ring <= max_ring:
                    total[owner[y, x], ring] += data[y, x]
                    count[owner[y, x], ring] += 1
    return total, count


@njit(nogil=True, cache=True)
def _growth_radius(total, count, sky_level, sky_std):
    """Rings that each label takes: up to the first that is sky, or that has no good pixel."""
    n_labels, n_rings = total.shape
    radius = np.zeros(n_labels, np.float64)
    for label in range(1, n_labels):
        for ring in range(1, n_rings):
            n = count[label, ring]
            if n == 0 or not total[label, ring] / n - sky_level > sky_std / np.sqrt(n):
                break
            radius[label] = ring
    return radius


@njit(nogil=True, cache=True)
def _fill(labels, distance2, owner, radius):
    grown = labels.copy()
    ny, nx = labels.shape
    for y in range(ny):
        for x in range(nx):
            label = owner[y, x]
            if label > 0 and distance2[y, x] <= radius[label] * radius[label]:
                grown[y, x] = label
    return grown
