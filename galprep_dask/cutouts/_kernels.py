"""Which boxes meet which blocks, and rectangles copied from one stack of images to another."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["box_overlaps", "boxes_of_blocks", "copy_rectangles", "near_order"]

#: Side in pixels of the squares that stamps are worked through in: 256 KiB of float32 stay close to a core.
_NEAR = 256


def boxes_of_blocks(edges_y, edges_x, y0, x0, ny, nx) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    List every meeting of a box and a block, block by block.

    Parameters
    ----------
    edges_y, edges_x : (n_blocks + 1,) int arrays
        Pixel edges of the blocks along both axes.
    y0, x0 : (n,) int arrays
        First pixel of each box, which may lie outside the image.
    ny, nx : (n,) int arrays
        Sizes of the boxes.

    Returns
    -------
    box, i, j : int arrays
        Index of the box, and row and column of the block, ordered by block and then by box.
    """
    first_i, n_i = _span(edges_y, y0, ny)
    first_j, n_j = _span(edges_x, x0, nx)
    count = n_i * n_j
    box = np.repeat(np.arange(len(count)), count)
    nth = np.arange(len(box)) - np.repeat(np.cumsum(count) - count, count)
    i, j = first_i[box] + nth // n_j[box], first_j[box] + nth % n_j[box]
    order = np.lexsort((box, j, i))
    return box[order], i[order], j[order]


def _span(edges, start, length):
    low, high = np.clip(start, 0, edges[-1]), np.clip(start + length, 0, edges[-1])
    first = np.searchsorted(edges, low, side="right") - 1
    return first, np.where(high > low, np.searchsorted(edges, high, side="left") - first, 0)


def box_overlaps(y0, x0, size, top, bottom, left, right) -> np.ndarray:
    """
    Overlap of square boxes with one block.

    Returns
    -------
    (n, 4) int64 array
        First row, first column, number of rows and of columns, in pixels of the image; the numbers may be zero.
    """
    overlaps = np.empty((len(y0), 4), np.int64)
    for axis, (start, low, high) in enumerate(((y0, top, bottom), (x0, left, right))):
        overlaps[:, axis] = np.clip(start, low, high)
        overlaps[:, 2 + axis] = np.clip(start.astype(np.int64) + size, low, high) - overlaps[:, axis]
    return overlaps


def near_order(y0, x0) -> np.ndarray:
    """Order in which boxes that share pixels come soon after each other, so that these come from the cache."""
    return np.lexsort((x0 // _NEAR, y0 // _NEAR))


@njit(nogil=True, cache=True)
def copy_rectangles(source, from_where, target, to_where, sizes):  # pragma: no cover - compiled
    """
    Copy rectangles from a stack of images into another.

    Parameters
    ----------
    source, target : (n, ny, nx) arrays of one dtype
        ``target`` is written to.
    from_where, to_where : (m, 3) int64 arrays
        Image, row and column of the first pixel of each rectangle.
    sizes : (m, 2) int64 array
        Rows and columns of each rectangle.
    """
    for n in range(len(sizes)):
        f, fy, fx = from_where[n]
        t, ty, tx = to_where[n]
        ny, nx = sizes[n]
        for y in range(ny):
            # An index that counts from 0 is not looked at for being negative, and the loop becomes one of vectors.
            into, row = target[t, ty + y, tx : tx + nx], source[f, fy + y, fx : fx + nx]
            for x in range(nx):
                into[x] = row[x]
