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

from galprep_dask.stats._kernels.strips import STRIP, flat_block, load_strip, with_room

__all__ = ["Cells", "cell_bounds", "count_cells", "merge_cells"]

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


def count_cells(block: np.ndarray, mask: np.ndarray | None = None) -> Cells:
    """Count the finite, unmasked values of a block by cells."""
    values, bad = flat_block(block, mask)
    sample = _sample(values, bad)
    if len(sample) == 0:
        return Cells(*np.zeros((3, 0), np.int64))
    centre, exponent = _grid(sample, block.dtype)
    first = math.floor(math.ldexp(centre, -exponent)) - 2**_HALF_BITS
    core, others = _count_core(values, bad, math.ldexp(1.0, -exponent), float(first))
    index = np.flatnonzero(core)
    near = np.full(len(index), exponent), index + first, core[index].astype(np.int64)
    if len(others) == 0:
        return Cells(*near)
    far = _count_far(others, centre, exponent + _HALF_BITS)
    return Cells(*(np.concatenate(both) for both in zip(near, far, strict=True)))


def _sample(values, bad):
    """Give some good values, sorted: spread over the block, or the first ones where these are all bad."""
    step = (len(values) // _SAMPLE) | 1  # odd, not to stay in a few columns of the image
    some = _good(values[::step], bad[::step])
    return np.sort(some if len(some) else _good(values, bad)[:_SAMPLE]).astype(np.float64)


def _good(values, bad):
    values = values[~bad] if len(bad) else values
    return values[np.isfinite(values)]


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
def _count_core(values, bad, scale, first):
    """Count values near the centre, and give the others."""
    beyond = np.int32(2 ** (_HALF_BITS + 1))
    core = np.zeros(beyond + 2, np.uint32)  # the last two count what is in no cell
    strip, cell = np.empty(STRIP), np.empty(STRIP, np.int32)
    others, n_others = np.empty(STRIP), 0
    for start in range(0, len(values), STRIP):
        size = load_strip(values, bad, start, strip)
        _find_cells(strip[:size], scale, first, beyond, cell)
        others = with_room(others, n_others, size)
        for i in range(size):
            core[np.uint32(cell[i])] += np.uint32(1)
            if cell[i] == beyond:
                others[n_others] = strip[i]
                n_others += 1
    return core[:beyond], others[:n_others]


@njit(nogil=True, cache=True)
def _find_cells(strip, scale, first, beyond, cell):
    """Find the cells of many values at a time: ``beyond`` for what is in none, one more for what is not finite."""
    end = np.float64(beyond)
    for i in range(len(strip)):
        k = np.floor(strip[i] * scale) - first
        k = k if (k >= 0.0) & (k < end) else end
        cell[i] = np.int32(k if strip[i] - strip[i] == 0.0 else end + 1.0)


def _count_far(others, centre, least):
    """Count the values that are ``2^least`` and more from the centre, by a row of cells for each octave of distance."""
    with np.errstate(over="ignore"):
        distance = np.abs(others - centre)
    octave = np.where(np.isinf(distance), 1025, np.frexp(distance)[1])
    widths = np.arange(least, max(least, int(octave.max())) + 1) - 1 - _FAR_BITS
    scale = np.ldexp(1.0, -widths)
    first = np.floor(centre * scale) - _FAR_MIDDLE
    far = _count_rows(others, np.maximum(octave - least, 0), scale, first)
    rows, columns = np.nonzero(far)
    return widths[rows], first[rows].astype(np.int64) + columns, far[rows, columns].astype(np.int64)


@njit(nogil=True, cache=True)
def _count_rows(others, row, scale, first):
    far = np.zeros((len(scale), 2 * _FAR_MIDDLE), np.uint32)
    for i in range(len(others)):
        far[row[i], np.int64(np.floor(others[i] * scale[row[i]]) - first[row[i]])] += np.uint32(1)
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
    with np.errstate(over="ignore", under="ignore"):
        low = np.clip(np.ldexp(cells.k.astype(np.float64), cells.f), -limit, limit)
        end = np.ldexp((cells.k + 1).astype(np.float64), cells.f)
    if dtype.kind in "iub":
        low, high = np.ceil(low), np.ceil(end) - 1
    elif dtype.itemsize >= 8:
        high = np.nextafter(end, -np.inf)
        # Divided by the width of a very wide cell, the smallest negative numbers round to the zero above them.
        low = np.where(cells.k == 0, -np.ldexp(1.0, cells.f - 1075), low)
    else:
        with np.errstate(over="ignore", under="ignore"):
            nearest = end.astype(np.float32)
            high = np.where(nearest < end, nearest, np.nextafter(nearest, np.float32(-np.inf))).astype(np.float64)
            start = low.astype(np.float32)
            low = np.where(start >= low, start, np.nextafter(start, np.float32(np.inf))).astype(np.float64)
    return low, np.maximum(np.minimum(high, limit), low)
