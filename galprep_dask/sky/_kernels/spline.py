"""The median filter of a mesh, and the spline through it."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["evaluate_spline", "median_filter"]


@njit(nogil=True, cache=True)
def median_filter(mesh, size_y, size_x):
    """Give the median of the window of ``size_y`` x ``size_x`` cells about each cell; at the edges of what exists."""
    ny, nx = mesh.shape
    result = np.empty_like(mesh)
    window = np.empty(size_y * size_x)
    for y in range(ny):
        for x in range(nx):
            n = 0
            for yy in range(max(y - size_y // 2, 0), min(y + size_y // 2 + 1, ny)):
                for xx in range(max(x - size_x // 2, 0), min(x + size_x // 2 + 1, nx)):
                    window[n] = mesh[yy, xx]
                    n += 1
            result[y, x] = np.median(window[:n])
    return result


def evaluate_spline(y, x, coefficients, *, box_size, lowest, highest) -> np.ndarray:
    """
    Values on rows ``y`` and columns ``x`` of the cubic spline that has its knots in the middle of the boxes.

    ``coefficients`` are widened by two cells on every side. Values are kept within ``lowest`` and ``highest``.
    """
    first_y, weights_y = _taps(y, box_size[0], coefficients.shape[0] - 4)
    first_x, weights_x = _taps(x, box_size[1], coefficients.shape[1] - 4)
    return _spline(first_y, weights_y, first_x, weights_x, coefficients, lowest, highest)


def _taps(pixels, size, n_cells):
    """First of the four coefficients that each pixel depends on, and their weights; flat beyond the boxes."""
    position = np.clip((pixels + 0.5) * (1.0 / size) - 0.5, -0.5, n_cells - 0.5)
    cell = np.floor(position)
    t = position - cell
    weights = [(1 - t) ** 3, 4 - 3 * t**2 * (2 - t), 4 - 3 * (1 - t) ** 2 * (1 + t), t**3]
    return cell.astype(np.int64) + 1, np.stack(weights) / 6


@njit(nogil=True, cache=True)
def _spline(first_y, weights_y, first_x, weights_x, coefficients, lowest, highest):
    """Sum four by four coefficients for every pixel; pixels of one row between the same knots make a run."""
    values = np.empty((len(first_y), len(first_x)))
    line = np.empty(coefficients.shape[1])
    low, high = first_x[0], first_x[-1] + 1
    edges = np.searchsorted(first_x, np.arange(low, high + 1))
    for y in range(len(first_y)):
        cell = first_y[y]
        for m in range(low, high + 3):
            line[m] = (
                weights_y[0, y] * coefficients[cell, m]
                + weights_y[1, y] * coefficients[cell + 1, m]
                + weights_y[2, y] * coefficients[cell + 2, m]
                + weights_y[3, y] * coefficients[cell + 3, m]
            )
        for m in range(low, high):
            run = slice(edges[m - low], edges[m - low + 1])
            row, w0, w1 = values[y, run], weights_x[0, run], weights_x[1, run]
            w2, w3 = weights_x[2, run], weights_x[3, run]
            for x in range(len(row)):
                value = w0[x] * line[m] + w1[x] * line[m + 1] + w2[x] * line[m + 2] + w3[x] * line[m + 3]
                value = highest if value > highest else value
                row[x] = lowest if value < lowest else value
    return values
