"""Values of polynomial pieces with smooth joins: sums of products of B-splines."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.interpolate import BSpline

from galprep_dask.sky._kernels.chebyshev import compiled_float

__all__ = ["evaluate_pieces", "subtract_pieces"]


def evaluate_pieces(shape, origin, coefficients, knots, order) -> np.ndarray:
    """Sum ``coefficients[i, j]`` times the i-th B-spline along y and the j-th along x, on one block."""
    values = np.empty(shape)  # made by NumPy, which asks for huge pages
    _evaluate(*_all_taps(shape, origin, knots, order), coefficients, values)
    return values


def subtract_pieces(block, origin, coefficients, knots, order, dtype) -> np.ndarray:
    """
    Subtract from a block what :func:`evaluate_pieces` gives, a row at a time.

    The difference is taken in float64, and rounded once to ``dtype``.
    """
    result = np.empty(block.shape, dtype)
    _subtract(compiled_float(block), *_all_taps(block.shape, origin, knots, order), coefficients, result)
    return result


def _all_taps(shape, origin, knots, order):
    along_y, along_x = zip(shape, origin, knots, strict=True)
    (first_y, weights_y), (first_x, weights_x) = _taps(*along_y, order), _taps(*along_x, order)
    edges = np.searchsorted(first_x, np.arange(first_x[0], first_x[-1] + 2))  # of the pixels on the same piece
    return first_y, weights_y, first_x[0], np.ascontiguousarray(weights_x.T), edges


def _taps(length, start, knots, order):
    """First of the splines that are not zero at each pixel, and the values of these ``order + 1``."""
    splines = BSpline.design_matrix(np.arange(start, start + length, dtype=float), knots, order)
    return splines.indices.reshape(length, order + 1)[:, 0].astype(np.int64), splines.data.reshape(length, order + 1)


@njit(nogil=True, cache=True)
def _evaluate(first_y, weights_y, low, weights_x, edges, coefficients, values):
    line = np.empty(coefficients.shape[1])
    for y in range(len(first_y)):
        _row_of_pieces(first_y[y], weights_y[y], low, weights_x, edges, coefficients, line, values[y])


@njit(nogil=True, cache=True)
def _subtract(block, first_y, weights_y, low, weights_x, edges, coefficients, result):
    line, row = np.empty(coefficients.shape[1]), np.empty(weights_x.shape[1])
    for y in range(len(first_y)):
        _row_of_pieces(first_y[y], weights_y[y], low, weights_x, edges, coefficients, line, row)
        given, taken = block[y], result[y]
        for x in range(len(row)):
            taken[x] = np.float64(given[x]) - row[x]


@njit(nogil=True, cache=True)
def _row_of_pieces(first, weights_y, low, weights_x, edges, coefficients, line, row):
    """Sum the terms of every pixel of a row, always in the same order: the bits of a pixel are its own."""
    n_terms, n_pieces = len(weights_y), len(edges) - 1
    for m in range(low, low + n_pieces + n_terms - 1):
        line[m] = 0.0
        for i in range(n_terms):
            line[m] += weights_y[i] * coefficients[first + i, m]
    row[:] = 0.0
    for n in range(n_pieces):
        out = row[edges[n] : edges[n + 1]]
        for j in range(n_terms):
            c, weights = line[low + n + j], weights_x[j, edges[n] : edges[n + 1]]
            for x in range(len(out)):
                out[x] += weights[x] * c
