"""Squares of pixels that a fit is not shown, and how it does there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["SquareSums", "hold_out", "merge_square_sums", "square_sums"]

#: One square in five is held out, a knight's move from one to the next: no two are neighbours.
_EVERY, _STEP = 5, 2


class SquareSums(NamedTuple):
    """Number of a square in row-major order, and number, sum and sum of squares of the residuals in it."""

    square: np.ndarray
    n: np.ndarray
    total: np.ndarray
    squares: np.ndarray


def hold_out(mask: np.ndarray, *, origin, size: int, fold: int) -> np.ndarray:
    """Give the mask with the squares of a fold in it."""
    y, x = ((np.arange(length) + start) // size for length, start in zip(mask.shape, origin, strict=True))
    return mask | ((_STEP * y[:, None] + x) % _EVERY == fold)


def square_sums(image, sky, mask, *, origin, image_shape, size: int, fold: int | None) -> SquareSums:
    """Sum image - sky over the good pixels of the squares of a fold, or of all, as far as they lie in the block."""
    per_row = -(-image_shape[1] // size)
    first = origin[0] // size, origin[1] // size
    n, total, squares = _sums(image, sky, mask, origin[0], origin[1], size, -1 if fold is None else fold, *first)
    y, x = np.nonzero(n)
    return SquareSums((y + first[0]) * per_row + x + first[1], n[y, x], total[y, x], squares[y, x])


@njit(nogil=True, cache=True)
def _sums(image, sky, mask, y0, x0, size, fold, first_y, first_x):
    ny, nx = image.shape
    shape = ((y0 + ny - 1) // size - first_y + 1, (x0 + nx - 1) // size - first_x + 1)
    n, total, squares = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    for y in range(ny):
        row = (y0 + y) // size
        for x in range(nx):
            column = (x0 + x) // size
            if mask[y, x] or (fold >= 0 and (_STEP * row + column) % _EVERY != fold):
                continue
            residual = np.float64(image[y, x]) - sky[y, x]
            n[row - first_y, column - first_x] += 1
            total[row - first_y, column - first_x] += residual
            squares[row - first_y, column - first_x] += residual * residual
    return n, total, squares


def merge_square_sums(parts: list[SquareSums]) -> SquareSums:
    """Add up the parts of every square."""
    square, inverse = np.unique(np.concatenate([part.square for part in parts]), return_inverse=True)
    n, total, squares = np.zeros(len(square), np.int64), np.zeros(len(square)), np.zeros(len(square))
    np.add.at(n, inverse, np.concatenate([part.n for part in parts]))
    np.add.at(total, inverse, np.concatenate([part.total for part in parts]))
    np.add.at(squares, inverse, np.concatenate([part.squares for part in parts]))
    return SquareSums(square, n, total, squares)
