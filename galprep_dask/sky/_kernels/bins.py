"""
Means over squares of pixels, and squares turned back into pixels.

The squares begin at the first pixel of the image. A block takes the means of those that lie inside it, and hands over
the pixels of those that it cuts: they are laid side by side before anything is added up, so that a mean has the same
bits for every chunking.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["Part", "Squares", "coarsen", "join_parts", "means_of", "mostly_known", "part_of_block", "unite_squares"]


class Squares(NamedTuple):
    """
    Squares of pixels, some rows and columns of them.

    Attributes
    ----------
    means : (n, m) float array
        Of the good pixels of each; NaN where there is none.
    n_good, n_known : (n, m) int arrays
        Good pixels of each, and pixels that belong to sources that are known.
    """

    means: np.ndarray
    n_good: np.ndarray
    n_known: np.ndarray


class Strip(NamedTuple):
    """Pixels of squares that a block cuts: where they begin in the image, NaN for bad ones, and which are known."""

    y: int
    x: int
    values: np.ndarray
    known: np.ndarray


class Part(NamedTuple):
    """What a block has of the squares: those inside it, the first of which is ``first``, and strips at its edges."""

    first: tuple[int, int]
    inside: Squares
    rows: list[Strip]
    columns: list[Strip]


def part_of_block(block, bad, known, origin, image_shape, side: int) -> Part:
    """Take the squares of ``side`` x ``side`` pixels of one block; ``bad`` and ``known`` may be None."""
    bad = np.zeros(block.shape, np.bool_) if bad is None else bad
    known = np.zeros(block.shape, np.bool_) if known is None else known
    (top, bottom), (left, right) = (
        _whole(*axis, side) for axis in zip(origin, block.shape, image_shape, strict=True)
    )  # fmt: skip

    def strips(*places):
        cut = [(y, x) for y, x in places if block[y, x].size]
        return [
            Strip(
                origin[0] + (y.start or 0), origin[1] + (x.start or 0),
                np.where(bad[y, x], block.dtype.type(np.nan), block[y, x]), known[y, x].copy(),
            )
            for y, x in cut
        ]  # fmt: skip

    everything, inside = slice(None), (slice(top, bottom), slice(left, right))
    return Part(
        ((origin[0] + top) // side, (origin[1] + left) // side),
        _squares(block[inside], bad[inside], known[inside], side),
        strips((slice(top), everything), (slice(bottom, None), everything)),
        strips((everything, slice(left)), (everything, slice(right, None))),
    )


def _whole(start: int, size: int, length: int, side: int) -> tuple[int, int]:
    """Pixels of a block, along one axis, between which it has whole squares; the last of the image may be short."""
    stop = start + size
    first = min(-(-start // side) * side, stop)
    last = stop if stop == length else max(stop // side * side, first)
    return first - start, last - start


def join_parts(parts: list[Part], box, side: int) -> Squares:
    """Put together the squares of ``box``, (y0, y1, x0, x1) in pixels, from the parts of all blocks that it meets."""
    y0, y1, x0, x1 = box
    n_rows, n_columns = -(-(y1 - y0) // side), -(-(x1 - x0) // side)
    joined = _nothing(n_rows, n_columns, side, parts[0].inside.means.dtype)
    rows, columns = {}, {}
    for part in parts:
        into, take = zip(
            _overlap(part.first[0], part.inside.means.shape[0], y0 // side, n_rows),
            _overlap(part.first[1], part.inside.means.shape[1], x0 // side, n_columns), strict=True,
        )  # fmt: skip
        for ours, its in zip(joined, part.inside, strict=True):
            ours[into] = its[take]
        for strip in part.rows:
            _lay(rows, strip.y // side, strip, (strip.y // side * side, side, y0, y1), (x0, x1 - x0, x0, x1))
        for strip in part.columns:
            _lay(columns, strip.x // side, strip, (y0, y1 - y0, y0, y1), (strip.x // side * side, side, x0, x1))
    for row, (values, known) in rows.items():
        for ours, its in zip(joined, _squares(values, np.isnan(values), known, side), strict=True):
            ours[row - y0 // side] = its[0]
    for column, (values, known) in columns.items():
        for ours, its in zip(joined, _squares(values, np.isnan(values), known, side), strict=True):
            ours[:, column - x0 // side] = its[:, 0]
    return joined


def _overlap(start: int, size: int, first: int, length: int) -> tuple[slice, slice]:
    """Where ``size`` elements from ``start`` on lie in ``length`` elements from ``first`` on, and which they are."""
    low, high = max(start, first), max(min(start + size, first + length), max(start, first))
    return slice(low - first, high - first), slice(low - start, high - start)


def _lay(bands, number, strip: Strip, along_y, along_x) -> None:
    """Lay the pixels of a strip into the band of squares of that number, if the band is in the box."""
    (first_y, ny, low_y, high_y), (first_x, nx, low_x, high_x) = along_y, along_x
    if not (low_y <= first_y < high_y and low_x <= first_x < high_x):
        return
    shape = min(ny, high_y - first_y), min(nx, high_x - first_x)
    if number not in bands:
        bands[number] = np.full(shape, np.nan, strip.values.dtype), np.zeros(shape, np.bool_)
    into, take = zip(
        _overlap(strip.y, strip.values.shape[0], first_y, shape[0]),
        _overlap(strip.x, strip.values.shape[1], first_x, shape[1]), strict=True,
    )  # fmt: skip
    for ours, its in zip(bands[number], (strip.values, strip.known), strict=True):
        ours[into] = its[take]


def coarsen(squares: Squares, left_out: np.ndarray, by: int, side: int) -> Squares:
    """Unite ``by`` x ``by`` squares each to squares of ``side`` pixels, without the pixels of those ``left_out``."""
    united = _nothing(*(-(-length // by) for length in left_out.shape), side, squares.means.dtype)
    _unite(*squares, left_out, by, *united)
    return united


@njit(nogil=True, cache=True)
def _unite(means, n_good, n_known, left_out, by, united, all_good, all_known):
    ny, nx = means.shape
    for row in range(united.shape[0]):
        for column in range(united.shape[1]):
            total, good, known = 0.0, 0, 0
            for y in range(row * by, min((row + 1) * by, ny)):
                for x in range(column * by, min((column + 1) * by, nx)):
                    known += n_known[y, x]
                    if n_good[y, x] > 0 and not left_out[y, x]:
                        total += np.float64(means[y, x]) * n_good[y, x]
                        good += n_good[y, x]
            united[row, column] = total / good if good > 0 else np.nan
            all_good[row, column], all_known[row, column] = good, known


def means_of(squares: Squares, n_pixels: np.ndarray) -> np.ndarray:
    """Give the means, NaN where a square has fewer good pixels than bad ones."""
    return np.where(2 * squares.n_good >= n_pixels, squares.means, squares.means.dtype.type(np.nan))


def mostly_known(squares: Squares, n_pixels: np.ndarray) -> np.ndarray:
    """Mark the squares of which more than half belongs to sources that are known."""
    return 2 * squares.n_known > n_pixels


def _nothing(n_rows: int, n_columns: int, side: int, dtype) -> Squares:
    count = np.min_scalar_type(side**2)
    shape = n_rows, n_columns
    return Squares(np.full(shape, np.nan, dtype), np.zeros(shape, count), np.zeros(shape, count))


def _squares(block, bad, known, side: int) -> Squares:
    squares = _nothing(-(-block.shape[0] // side), -(-block.shape[1] // side), side, block.dtype)
    _take_squares(block, bad, known, side, *squares)
    return squares


@njit(nogil=True, cache=True)
def _take_squares(block, bad, known, side, means, n_good, n_known):
    ny, nx = block.shape
    n = means.shape[1]
    total, good, sources = np.empty(n), np.empty(n, np.int64), np.empty(n, np.int64)
    for row in range(means.shape[0]):
        total[:], good[:], sources[:] = 0.0, 0, 0
        for y in range(row * side, min((row + 1) * side, ny)):
            for x in range(nx):
                value, column = np.float64(block[y, x]), x // side
                if np.isfinite(value) and not bad[y, x]:
                    total[column] += value
                    good[column] += 1
                if known[y, x]:
                    sources[column] += 1
        for column in range(n):
            n_good[row, column], n_known[row, column] = good[column], sources[column]
            if good[column] > 0:
                means[row, column] = total[column] / good[column]


def unite_squares(pixels, tiles: list, origin, side: int) -> np.ndarray:
    """
    Mark the pixels of a block that are set in ``pixels`` or lie in a marked square.

    ``tiles`` are (first row, first column, marks) of squares of ``side`` pixels, of all parts of the image that the
    block meets.
    """
    united = pixels.copy()
    nx = pixels.shape[1]
    for first_row, first_column, marks in tiles:
        rows, columns = (
            slice(max(start // side - first, 0), max(-(-(start + size) // side) - first, 0))
            for start, size, first in zip(origin, pixels.shape, (first_row, first_column), strict=True)
        )
        near = marks[rows, columns]
        left = (first_column + columns.start) * side - origin[1]  # of the first square in the block, or before it
        for row in np.flatnonzero(near.any(axis=1)):
            top = (first_row + rows.start + row) * side - origin[0]
            wide = np.repeat(near[row], side)[max(-left, 0) :][: nx - max(left, 0)]
            united[max(top, 0) : top + side, max(left, 0) : max(left, 0) + len(wide)] |= wide
    return united
