"""Connected pixels of one block, as runs along its rows.

A run is a row of connected pixels, ``start:stop``. Everything about segments follows from their runs, so that an image
in which sources are sparse is read once and no label image is made unless it is asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = [
    "Components",
    "Runs",
    "SegmentRuns",
    "as_kernel_input",
    "components_of",
    "components_of_labels",
    "paint",
    "runs_above",
    "runs_of_labels",
    "segment_runs",
]

_ALL_ABOVE = np.uint64(0x0101010101010101)
_NONE_ABOVE = np.uint64(0)


class Runs(NamedTuple):
    """Runs of a block in row-major order; those of row ``y`` are ``first[y]:first[y + 1]``."""

    first: np.ndarray  # (ny + 1,) int64
    start: np.ndarray  # int32, columns of the block
    stop: np.ndarray


class Components(NamedTuple):
    """Connected pixels of one block: an array each, in the order of first pixels."""

    of_run: np.ndarray  # number of the component that each run belongs to, -1 where it was dropped
    first: np.ndarray  # (n, 2) int32, row and column of the first pixel
    area: np.ndarray  # int64
    limits: np.ndarray  # (n, 4) int32, x_min, x_max, y_min, y_max, the upper ones exclusive

    def limits_at(self, origin: tuple[int, int]) -> np.ndarray:
        """Limits in the image, of which the block's first pixel is ``origin``."""
        y0, x0 = origin
        return self.limits + np.array([x0, x0, y0, y0], np.int32)


class SegmentRuns(NamedTuple):
    """The runs of a block that belong to a component, and all that is needed to paint it."""

    runs: Runs
    of_run: np.ndarray  # number of the component that each run belongs to
    shape: tuple[int, int]  # of the block

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in (*self.runs, self.of_run))


def as_kernel_input(block: np.ndarray) -> np.ndarray:
    """Give a block as the kernels are compiled for: contiguous, and read-only so that there is one type of it."""
    block = np.ascontiguousarray(block).view()
    block.flags.writeable = False
    return block


# Runs ------------------------------------------------------------------------------------------------------


def runs_above(image: np.ndarray, threshold, mask: np.ndarray | None) -> Runs:
    """
    Find the runs of pixels that are above ``threshold``, finite and not masked.

    ``threshold`` is a number or an array of the shape of ``image``. The comparison is that of ``image > threshold`` in
    NumPy, precision included.
    """
    if image.dtype not in (np.float32, np.float64):
        # In their own type, integers of 64 bits are compared exactly.
        image, threshold = (image > threshold).astype(np.float32), 0.5
    if np.ndim(threshold) == 0:
        if not isinstance(threshold, np.generic):
            with np.errstate(over="ignore"):
                threshold = image.dtype.type(threshold)  # NumPy too gives a Python number the precision of the image
        level, levels = float(threshold), np.empty((0, 0))
    else:
        level, levels = 0.0, np.asarray(threshold, dtype=np.float64)
    masked = np.empty((0, 0), np.bool_) if mask is None else mask
    return Runs(*_runs_above(*map(as_kernel_input, (image, levels, masked)), level))


@njit(nogil=True, cache=True)
def _runs_above(image, levels, mask, level):
    ny, nx = image.shape
    has_levels, has_mask = levels.size > 0, mask.size > 0
    # Ends in zeros, so that every run ends too; read eight pixels at a time.
    above = np.zeros(8 * (nx // 8 + 1), np.uint8)
    words = above.view(np.uint64)
    first = np.empty(ny + 1, np.int64)
    start, stop = np.empty(nx, np.int32), np.empty(nx, np.int32)
    n = 0
    for y in range(ny):
        first[y] = n
        if n + nx // 2 + 1 > len(start):
            start, stop = _longer(start, nx), _longer(stop, nx)
        if has_levels:
            for x in range(nx):
                above[x] = (image[y, x] > levels[y, x]) & (image[y, x] < np.inf)
        else:
            for x in range(nx):
                above[x] = (image[y, x] > level) & (image[y, x] < np.inf)
        if has_mask:
            for x in range(nx):
                above[x] &= ~mask[y, x]
        inside = False
        for w in range(len(words)):
            if words[w] == (_ALL_ABOVE if inside else _NONE_ABOVE):
                continue
            for x in range(8 * w, 8 * w + 8):
                if above[x] and not inside:
                    start[n], inside = x, True
                elif inside and not above[x]:
                    stop[n], inside = x, False
                    n += 1
    first[ny] = n
    return first, start[:n].copy(), stop[:n].copy()


def runs_of_labels(labels: np.ndarray) -> tuple[Runs, np.ndarray]:
    """Find the runs of equal non-zero labels of an int32 label image, and the label of each."""
    first, start, stop, label = _runs_of_labels(as_kernel_input(labels))
    return Runs(first, start, stop), label


@njit(nogil=True, cache=True)
def _runs_of_labels(labels):
    ny, nx = labels.shape
    first = np.empty(ny + 1, np.int64)
    start, stop, label = np.empty(nx, np.int32), np.empty(nx, np.int32), np.empty(nx, np.int32)
    n = 0
    for y in range(ny):
        first[y] = n
        if n + nx > len(start):
            start, stop, label = _longer(start, nx), _longer(stop, nx), _longer(label, nx)
        current = np.int32(0)
        for x in range(nx):
            here = labels[y, x]
            if here == current:
                continue
            if current != 0:
                stop[n] = x
                n += 1
            if here != 0:
                start[n], label[n] = x, here
            current = here
        if current != 0:
            stop[n] = nx
            n += 1
    first[ny] = n
    return first, start[:n].copy(), stop[:n].copy(), label[:n].copy()


@njit(nogil=True, cache=True)
def _longer(values, at_least):
    longer = np.empty(2 * len(values) + at_least, values.dtype)
    longer[: len(values)] = values
    return longer


# Components ------------------------------------------------------------------------------------------------


def components_of(runs: Runs, nx: int, connectivity: int, n_pixels: int, open_sides) -> Components:
    """
    Unite the runs of a block to components, and drop those that are too small whatever lies around the block.

    Parameters
    ----------
    runs : Runs
        From :func:`runs_above`.
    nx : int
        Columns of the block.
    connectivity : {4, 8}
        Whether pixels that share a corner only are connected.
    n_pixels : int
        A component that touches no open side is dropped where it has fewer pixels.
    open_sides : (bool, bool, bool, bool)
        Whether the image goes on above, below, left and right of the block ("above" is the lower row number).

    Returns
    -------
    Components
    """
    reach = 1 if connectivity == 8 else 0
    return Components(*_components_of(*runs, nx, reach, n_pixels, *open_sides))


@njit(nogil=True, cache=True)
def _components_of(first, start, stop, nx, reach, n_pixels, above, below, left, right):
    ny, n = len(first) - 1, len(start)
    parent = np.arange(n).astype(np.int32)
    for y in range(1, ny):
        i = first[y - 1]
        for j in range(first[y], first[y + 1]):
            while i < first[y] and stop[i] + reach <= start[j]:
                i += 1
            k = i
            while k < first[y] and start[k] < stop[j] + reach:
                _unite(parent, j, k)
                k += 1
    # The parent of a run comes before it, so that a component is numbered by its first pixel.
    n_components = 0
    of_run = np.empty(n, np.int32)
    for run in range(n):
        if parent[run] == run:
            of_run[run] = n_components
            n_components += 1
        else:
            of_run[run] = of_run[parent[run]]

    area = np.zeros(n_components, np.int64)
    open_side = np.zeros(n_components, np.bool_)
    for y in range(ny):
        on_open_row = (y == 0 and above) or (y == ny - 1 and below)
        for run in range(first[y], first[y + 1]):
            c = of_run[run]
            area[c] += stop[run] - start[run]
            if on_open_row or (left and start[run] == 0) or (right and stop[run] == nx):
                open_side[c] = True

    number = np.full(n_components, -1, np.int32)
    kept = 0
    for c in range(n_components):
        if open_side[c] or area[c] >= n_pixels:
            number[c] = kept
            area[kept] = area[c]
            kept += 1
    for run in range(n):
        of_run[run] = number[of_run[run]]
    first_pixel, limits = _extent(first, start, stop, of_run, kept)
    return of_run, first_pixel, area[:kept].copy(), limits


@njit(nogil=True, cache=True)
def _unite(parent, i, j):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    while parent[j] != j:
        parent[j] = parent[parent[j]]
        j = parent[j]
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@njit(nogil=True, cache=True)
def _extent(first, start, stop, of_run, n_components):
    """First pixel and limits of every component."""
    first_pixel = np.full((n_components, 2), -1, np.int32)
    limits = np.empty((n_components, 4), np.int32)
    for y in range(len(first) - 1):
        for run in range(first[y], first[y + 1]):
            c = of_run[run]
            if c < 0:
                continue
            if first_pixel[c, 0] < 0:
                first_pixel[c, 0], first_pixel[c, 1] = y, start[run]
                limits[c, 0], limits[c, 1], limits[c, 2] = start[run], stop[run], y
            limits[c, 0] = min(limits[c, 0], start[run])
            limits[c, 1] = max(limits[c, 1], stop[run])
            limits[c, 3] = y + 1
    return first_pixel, limits


def components_of_labels(runs: Runs, label: np.ndarray) -> tuple[np.ndarray, Components]:
    """Give the labels that occur, sorted, and what is known of the pixels of each, connected or not."""
    labels, of_run = np.unique(label, return_inverse=True)
    of_run = of_run.astype(np.int32)
    area = np.bincount(of_run, weights=runs.stop - runs.start, minlength=len(labels)).astype(np.int64)
    first_pixel, limits = _extent(*runs, of_run, len(labels))
    return labels, Components(of_run, first_pixel, area, limits)


def segment_runs(runs: Runs, components: Components, shape: tuple[int, int]) -> SegmentRuns:
    """Keep the runs of a block that were not dropped with their component."""
    kept = components.of_run >= 0
    first = np.concatenate([[0], np.cumsum(kept)])[runs.first]
    return SegmentRuns(Runs(first, runs.start[kept], runs.stop[kept]), components.of_run[kept], shape)


def paint(runs: Runs, of_run: np.ndarray, numbers: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Draw the label image of a block: component ``c`` is given ``numbers[c]``."""
    labels = np.zeros(shape, np.int32)
    _paint(labels, *runs, of_run, numbers)
    return labels


@njit(nogil=True, cache=True)
def _paint(labels, first, start, stop, of_run, numbers):
    for y in range(labels.shape[0]):
        for run in range(first[y], first[y + 1]):
            if of_run[run] >= 0:
                number = numbers[of_run[run]]
                for x in range(start[run], stop[run]):
                    labels[y, x] = number
