"""Windows around sources that lie across blocks: cut out of every block, and put together where the source is measured.

Windows lie below one another in one tall image, so that what measures many sources of an image measures them too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["cut_windows", "empty_windows", "paste_windows"]


def empty_windows(n: int, side: int, dtype) -> np.ndarray:
    """Give ``n`` windows that nothing was put into: NaN, or 0 for what is no float. (n * side, side)."""
    dtype = np.dtype(dtype)
    return np.full((n * side, side), np.nan if dtype.kind == "f" else 0, dtype)


def cut_windows(block: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """
    Cut the parts of windows that lie in a block.

    Parameters
    ----------
    block : (ny, nx) array
        Pixels.
    corners : (n, 2) int array
        First row and column of each window, counted from the block's own; negative where a window begins before it.
    side : int
        Of the windows.

    Returns
    -------
    (n * side, side) array
        As :func:`empty_windows` outside of the block.
    """
    windows = empty_windows(len(corners), side, block.dtype)
    _cut(block, corners, side, windows)
    return windows


def paste_windows(pieces: np.ndarray, corners: np.ndarray, rows: np.ndarray, shape, windows: np.ndarray) -> None:
    """
    Put the parts of windows that lie in one block where they belong.

    Parameters
    ----------
    pieces : (n * side, side) array
        From :func:`cut_windows`.
    corners : (n, 2) int array
        As there.
    rows : (n,) int array
        Which window each is a part of.
    shape : (int, int)
        Of the block.
    windows : (m * side, side) array
        From :func:`empty_windows`; changed.
    """
    _paste(pieces, corners, rows, shape[0], shape[1], windows)


@njit(nogil=True, cache=True)
def _cut(block, corners, side, windows):
    ny, nx = block.shape
    for k in range(len(corners)):
        top, left = corners[k, 0], corners[k, 1]
        for i in range(max(0, -top), min(side, ny - top)):
            for j in range(max(0, -left), min(side, nx - left)):
                windows[k * side + i, j] = block[top + i, left + j]


@njit(nogil=True, cache=True)
def _paste(pieces, corners, rows, ny, nx, windows):
    side = pieces.shape[1]
    for k in range(len(corners)):
        top, left = corners[k, 0], corners[k, 1]
        for i in range(max(0, -top), min(side, ny - top)):
            for j in range(max(0, -left), min(side, nx - left)):
                windows[rows[k] * side + i, j] = pieces[k * side + i, j]
