"""The median filter of a mesh, and the spline through it."""

from __future__ import annotations

import numpy as np
from numba import njit

from galprep_dask.sky._kernels.chebyshev import compiled_float

__all__ = ["evaluate_spline", "median_filter", "subtract_spline"]


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
    values = np.empty((len(y), len(x)))  # made by NumPy, which asks for huge pages
    _evaluate(*_all_taps(y, x, coefficients, box_size), coefficients, lowest, highest, values)
    return values


def subtract_spline(block, y, x, coefficients, dtype, *, box_size, lowest, highest) -> np.ndarray:
    """
    Subtract from a block what :func:`evaluate_spline` gives, a row at a time.

    The difference is taken in float64, and rounded once to ``dtype``.
    """
    result = np.empty(block.shape, dtype)
    taps = _all_taps(y, x, coefficients, box_size)
    _subtract(compiled_float(block), *taps, coefficients, lowest, highest, result)
    return result


def _all_taps(y, x, coefficients, box_size):
    return *_taps(y, box_size[0], coefficients.shape[0] - 4), *_taps(x, box_size[1], coefficients.shape[1] - 4)


def _taps(pixels, size, n_cells):
    """First of the four coefficients that each pixel depends on, and their weights; flat beyond the boxes."""
    position = np.clip((pixels + 0.5) * (1.0 / size) - 0.5, -0.5, n_cells - 0.5)
    cell = np.floor(position)
    t = position - cell
    weights = [(1 - t) ** 3, 4 - 3 * t**2 * (2 - t), 4 - 3 * (1 - t) ** 2 * (1 + t), t**3]
    return cell.astype(np.int64) + 1, np.stack(weights) / 6


@njit(nogil=True, cache=True)
def _evaluate(first_y, weights_y, first_x, weights_x, coefficients, lowest, highest, values):
    line, edges = np.empty(coefficients.shape[1]), _edges_of_cells(first_x)
    for y in range(len(first_y)):
        row = values[y]
        _spline_row(first_y[y], weights_y[:, y], first_x[0], weights_x, coefficients, line, edges, lowest, highest, row)


@njit(nogil=True, cache=True)
def _subtract(block, first_y, weights_y, first_x, weights_x, coefficients, lowest, highest, result):
    line, edges = np.empty(coefficients.shape[1]), _edges_of_cells(first_x)
    row = np.empty(len(first_x))
    for y in range(len(first_y)):
        _spline_row(first_y[y], weights_y[:, y], first_x[0], weights_x, coefficients, line, edges, lowest, highest, row)
        given, taken = block[y], result[y]
        for x in range(len(row)):
            taken[x] = np.float64(given[x]) - row[x]


@njit(nogil=True, cache=True)
def _edges_of_cells(first_x):
    """Give where the pixels of a row that lie between the same knots begin and end."""
    return np.searchsorted(first_x, np.arange(first_x[0], first_x[-1] + 2))


@njit(nogil=True, cache=True)
def _spline_row(cell, weights_y, low, weights_x, coefficients, line, edges, lowest, highest, row):
    """Sum four by four coefficients for every pixel of a row."""
    n_cells = len(edges) - 1
    for m in range(low, low + n_cells + 3):
        line[m] = (
            weights_y[0] * coefficients[cell, m]
            + weights_y[1] * coefficients[cell + 1, m]
            + weights_y[2] * coefficients[cell + 2, m]
            + weights_y[3] * coefficients[cell + 3, m]
        )
    for n in range(n_cells):
        run, m = slice(edges[n], edges[n + 1]), low + n
        out, w0, w1, w2, w3 = row[run], weights_x[0, run], weights_x[1, run], weights_x[2, run], weights_x[3, run]
        for x in range(len(out)):
            value = w0[x] * line[m] + w1[x] * line[m + 1] + w2[x] * line[m + 2] + w3[x] * line[m + 3]
            value = highest if value > highest else value
            out[x] = lowest if value < lowest else value
