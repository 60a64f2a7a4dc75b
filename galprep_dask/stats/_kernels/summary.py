"""
First pass: how many values of a block lie in which cell, and how such summaries merge.

A cell ``(f, k)`` is the interval ``[k 2^f, (k + 1) 2^f)``. Around the centre of a block cells are about a
thousandth of its spread wide; further out their width doubles with the distance, so that any range takes
a few hundred cells per octave. Cells of different blocks coincide or lie in one another. Scaling by a power of
two and rounding down are exact in floating point: a value is always in the cell that counts it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["Cells", "cell_bounds", "count_cells", "flat_block", "merge_cells"]

#: Cells per spread of a block (two to the power of), and cells on either side of its centre.
_FINENESS = 11
_HALF_BITS = 14
#: Further out: cells per octave of distance (two to the power of), and the columns that takes with a margin.
_FAR_BITS = 8
_FAR_MIDDLE = 2 ** (_FAR_BITS + 1) + 8
#: Cells in a summary at most; merging makes the narrowest wider until they fit.
_MAX_CELLS = 2**17
_SAMPLE = 4096
#: No cell is narrower, so that its inverse is a number.
_LEAST_EXPONENT = -1000


class Cells(NamedTuple):
    """Occupied cells in the order of ``(f, k)``, and how many values each holds."""

    f: np.ndarray
    k: np.ndarray
    n: np.ndarray


def flat_block(block: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Give a block and its mask one-dimensional, the block in float32 or float64 of the same values."""
    if block.dtype not in (np.float32, np.float64):
        block = block.astype(np.float32 if block.dtype.itemsize <= 2 else np.float64)
    return np.ascontiguousarray(block).ravel(), None if mask is None else np.ascontiguousarray(mask).ravel()


def count_cells(block: np.ndarray, mask: np.ndarray | None = None) -> Cells:
    """Count the finite, unmasked values of a block by cells."""
    values, bad = flat_block(block, mask)
    sample = _sample(values, bad)
    if len(sample) == 0:
        return Cells(*np.zeros((3, 0), np.int64))
    centre, exponent = _grid(sample, block.dtype)
    first = math.floor(math.ldexp(centre, -exponent)) - 2**_HALF_BITS
    scale = math.ldexp(1.0, -exponent)
    core, reach = _count_core(values, bad, scale, float(first), centre)
    index = np.flatnonzero(core)
    if reach == 0:
        return Cells(np.full(len(index), exponent), index + first, core[index].astype(np.int64))
    least = exponent + _HALF_BITS
    octaves = np.arange(least, max(least, 1025 if math.isinf(reach) else math.frexp(reach)[1]) + 1)
    widths = octaves - 1 - _FAR_BITS
    far_scale = np.ldexp(1.0, -widths)
    far_first = np.floor(centre * far_scale) - _FAR_MIDDLE
    far = _count_far(values, bad, scale, float(first), centre, least, far_scale, far_first)
    rows, columns = np.nonzero(far)
    return Cells(
        np.concatenate([np.full(len(index), exponent), widths[rows]]),
        np.concatenate([index + first, far_first[rows].astype(np.int64) + columns]),
        np.concatenate([core[index], far[rows, columns]]).astype(np.int64),
    )


def _sample(values, bad):
    """Give some good values, sorted: spread over the block, or the first ones where these are all bad."""
    step = (len(values) // _SAMPLE) | 1  # odd, not to stay in a few columns of the image
    some = values[::step] if bad is None else values[::step][~bad[::step]]
    some = some[np.isfinite(some)]
    if len(some) == 0 and step > 1:
        some = values if bad is None else values[~bad]
        some = some[np.isfinite(some)][:_SAMPLE]
    return np.sort(some).astype(np.float64)


def _grid(sample, dtype):
    """Centre and exponent of the cells of a block: fine beside its spread, no finer than its values are."""
    last = len(sample) - 1
    centre = float(sample[last // 2])
    spread = 0.0
    for share in (0.16, 0.02, 0.0):
        low, high = sample[round(share * last)], sample[last - round(share * last)]
        spread = float(high / 2 - low / 2)
        if spread > 0:
            break
    if dtype.kind in "iub":
        finest = max(0, math.frexp(centre)[1] - 53)
    elif centre == 0:
        finest = _LEAST_EXPONENT
    else:
        finest = math.frexp(centre)[1] - (53 if dtype.itemsize >= 8 else 24)
    wanted = math.frexp(spread)[1] - 1 - _FINENESS if spread > 0 else finest
    return centre, max(wanted, finest, _LEAST_EXPONENT)


@njit(nogil=True, cache=True)
def _count_core(values, bad, scale, first, centre):
    """Count values near the centre, and find how far from it the furthest of the others is."""
    core = np.zeros(2 ** (_HALF_BITS + 1), np.uint32)
    end, start = first + len(core), np.int64(first)
    reach = 0.0
    for i in range(len(values)):
        if bad is not None and bad[i]:
            continue
        value = np.float64(values[i])
        t = value * scale
        if t >= first and t < end:  # what is not finite fails both
            core[np.uint64(np.int64(math.floor(t)) - start)] += np.uint32(1)
        elif math.isfinite(value):
            reach = max(reach, abs(value - centre))
    return core, reach


@njit(nogil=True, cache=True)
def _count_far(values, bad, scale, first, centre, least, far_scale, far_first):
    """Count the other values, a row for each octave of the distance."""
    far = np.zeros((len(far_scale), 2 * _FAR_MIDDLE), np.uint32)
    end = first + 2 ** (_HALF_BITS + 1)
    for i in range(len(values)):
        if bad is not None and bad[i]:
            continue
        value = np.float64(values[i])
        t = value * scale
        if (t < first or t >= end) and math.isfinite(value):
            distance = abs(value - centre)
            octave = 1025 if math.isinf(distance) else math.frexp(distance)[1]
            row = max(octave - least, 0)
            far[row, np.int64(np.floor(value * far_scale[row]) - far_first[row])] += np.uint32(1)
    return far


def merge_cells(parts: list[Cells]) -> Cells:
    """Merge summaries: equal cells are added, and the narrowest made wider where there are too many."""
    merged = parts[0]
    for part in parts[1:]:
        merged = Cells(*_merge_two(*merged, *part))
        if len(merged.n) > _MAX_CELLS:
            merged = _coarsen(merged)
    return merged


@njit(nogil=True, cache=True)
def _merge_two(f1, k1, n1, f2, k2, n2):
    size = len(n1) + len(n2)
    f, k, n = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    i = j = m = 0
    while i < len(n1) or j < len(n2):
        if j == len(n2):
            order = -1
        elif i == len(n1):
            order = 1
        elif f1[i] != f2[j]:
            order = -1 if f1[i] < f2[j] else 1
        elif k1[i] != k2[j]:
            order = -1 if k1[i] < k2[j] else 1
        else:
            order = 0
        if order <= 0:
            f[m], k[m], n[m] = f1[i], k1[i], n1[i]
            i += 1
        if order == 1:
            f[m], k[m], n[m] = f2[j], k2[j], n2[j]
            j += 1
        elif order == 0:
            n[m] += n2[j]
            j += 1
        m += 1
    return f[:m].copy(), k[:m].copy(), n[:m].copy()


def _coarsen(cells: Cells) -> Cells:
    """Widen the narrowest cells until half as many as allowed are left."""
    width = int(cells.f.min())
    while len(cells.n) > _MAX_CELLS // 2:
        width += 1
        narrow = cells.f <= width
        k = cells.k[narrow] >> np.minimum(width - cells.f[narrow], 63)
        k, inverse = np.unique(k, return_inverse=True)
        n = np.zeros(len(k), np.int64)
        np.add.at(n, inverse, cells.n[narrow])
        wide = ~narrow
        cells = Cells(
            np.concatenate([np.full(len(k), width), cells.f[wide]]),
            np.concatenate([k, cells.k[wide]]),
            np.concatenate([n, cells.n[wide]]),
        )
    return cells


def cell_bounds(cells: Cells, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value of ``dtype`` in each cell, float64; the same number where there is but one."""
    limit = np.finfo(np.float64).max
    with np.errstate(over="ignore"):
        low = np.clip(np.ldexp(cells.k.astype(np.float64), cells.f), -limit, limit)
        end = np.ldexp((cells.k + 1).astype(np.float64), cells.f)
    if dtype.kind in "iub":
        low, high = np.ceil(low), np.ceil(end) - 1
    elif dtype.itemsize >= 8:
        high = np.nextafter(end, -np.inf)
    else:
        with np.errstate(over="ignore", under="ignore"):
            nearest = end.astype(np.float32)
            high = np.where(nearest < end, nearest, np.nextafter(nearest, np.float32(-np.inf))).astype(np.float64)
            start = low.astype(np.float32)
            low = np.where(start >= low, start, np.nextafter(start, np.float32(np.inf))).astype(np.float64)
    return low, np.maximum(np.minimum(high, limit), low)
