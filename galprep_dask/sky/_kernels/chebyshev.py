"""Polynomials on one block: the sums of a fit, and values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.polynomial.chebyshev import chebvander

__all__ = [
    "ANY_ORDER", "Band", "change_of_sums", "compiled_float", "evaluate_block", "join_bands", "on_domain",
    "subtract_polynomial", "sums_and_band",
]  # fmt: skip

#: Sums may be taken in any order, so that several are added up at a time; NaN and infinity stay what they are.
ANY_ORDER = {"reassoc", "nsz", "contract"}


def on_domain(start: int, stop: int, length: int) -> np.ndarray:
    """Pixel coordinates ``start`` to ``stop`` of an axis of ``length`` pixels, mapped to [-1, 1]."""
    if length == 1:
        return np.zeros(stop - start)
    return (2.0 * np.arange(start, stop) - (length - 1)) / (length - 1)


def evaluate_block(shape, origin, coefficients, image_shape) -> np.ndarray:
    """Values of the polynomial with ``coefficients[i, j]`` of T_i(y) T_j(x) on one block."""
    values = np.empty(shape)
    _values_of_rows(*_terms_of_block(shape, origin, coefficients, image_shape), values)
    return values


def subtract_polynomial(block, origin, coefficients, image_shape, dtype) -> np.ndarray:
    """
    Subtract from a block what :func:`evaluate_block` gives, a row at a time.

    The difference is taken in float64, and rounded once to ``dtype``.
    """
    result = np.empty(block.shape, dtype)
    _subtract(compiled_float(block), *_terms_of_block(block.shape, origin, coefficients, image_shape), result)
    return result


def _terms_of_block(shape, origin, coefficients, image_shape) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of T_j(x) in every row, (ny, n), and T_j(x) in every column, (n, nx)."""
    degree_y, degree_x = coefficients.shape[0] - 1, coefficients.shape[1] - 1
    y = on_domain(origin[0], origin[0] + shape[0], image_shape[0])
    x = on_domain(origin[1], origin[1] + shape[1], image_shape[1])
    by_y = chebvander(y, degree_y)
    # One term after the other: how a product of matrices adds up depends on how many rows they have.
    in_row = sum(by_y[:, i, None] * coefficients[i] for i in range(degree_y + 1))
    return in_row, np.ascontiguousarray(chebvander(x, degree_x).T)


@njit(nogil=True, cache=True)
def _values_of_rows(by_row, by_x, values):
    for y in range(len(by_row)):
        _sum_terms(by_row[y], by_x, values[y])


@njit(nogil=True, cache=True)
def _subtract(block, by_row, by_x, result):
    row = np.empty(by_x.shape[1])
    for y in range(len(by_row)):
        _sum_terms(by_row[y], by_x, row)
        given, taken = block[y], result[y]
        for x in range(len(row)):
            taken[x] = np.float64(given[x]) - row[x]


@njit(nogil=True, cache=True)
def _sum_terms(coefficients, by_x, row):
    """Sum ``coefficients[j] * by_x[j, x]`` over j, always in the same order: the bits of a pixel are its own."""
    row[:] = 0.0
    for j in range(len(coefficients)):
        c, along = coefficients[j], by_x[j]
        for x in range(len(row)):
            row[x] += c * along[x]


class Band(NamedTuple):
    """
    Pixels whose residuals lie near a limit, one by one.

    Attributes
    ----------
    y, x : (n,) int32 arrays
        Where they lie in the image.
    values, weights : (n,) float64 arrays
        What they hold.
    inside : (n,) bool array
        Which lie within the limit.
    largest_weight : float
        Of all pixels that were looked at.
    n_lost : int
        Pixels for which there was no room.
    """

    y: np.ndarray
    x: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    inside: np.ndarray
    largest_weight: float
    n_lost: int


def join_bands(bands: list[Band]) -> Band:
    """Put the bands of blocks together."""
    arrays = (np.concatenate(part) for part in list(zip(*bands, strict=True))[:5])
    return Band(
        *arrays,
        max(band.largest_weight for band in bands), sum(band.n_lost for band in bands),
    )  # fmt: skip


def sums_and_band(
    block, *planes, origin, image_shape, order, model, limit, edges, room, corner, has_mask, has_weight
) -> tuple[np.ndarray, Band]:  # fmt: skip
    """
    All sums of one block that a fit needs, in one vector, and one by one the pixels that another limit may concern.

    The sums are, in this order: moments of the weights with T_i(y) T_j(x) to degree ``2 * order``, shape
    (2 order + 1)^2; moments of weight * residual to degree ``order``, shape (order + 1)^2; the sum of
    weight * residual^2; the number of pixels. Residuals are taken about ``model``; pixels with
    sqrt(weight) * |residual| above ``limit`` are left out (None: none is). The band has those for which it lies between
    two ``edges``, as far as there is ``room`` for them.

    ``origin`` is where the block begins in the domain of the polynomial, of shape ``image_shape``, and ``corner``
    where that begins in the image.
    """
    planes = list(planes)
    mask = planes.pop(0) if has_mask else np.empty((0, 0), np.bool_)
    weight = compiled_float(planes.pop(0)) if has_weight else np.empty((0, 0))
    y = on_domain(origin[0], origin[0] + block.shape[0], image_shape[0])
    x = on_domain(origin[1], origin[1] + block.shape[1], image_shape[1])
    by_y = chebvander(y, 2 * order)
    by_x = np.ascontiguousarray(chebvander(x, 2 * order).T)
    room = min(room, block.size)
    places, values, inside = np.empty((2, room), np.int32), np.empty((2, room)), np.empty(room, np.bool_)
    gram, rhs, square, n_pixels, n_band, largest = _sums_of_rows(
        compiled_float(block), mask, weight, has_mask, has_weight, by_y, by_x, by_y[:, : order + 1] @ model,
        np.inf if limit is None else float(limit) ** 2, edges[0] ** 2, edges[1] ** 2, places, values, inside,
    )  # fmt: skip
    n = min(n_band, room)
    y, x = (at[:n] + np.int32(first + start) for at, first, start in zip(places, corner, origin, strict=True))
    band = Band(y, x, *(array[:n].copy() for array in (*values, inside)), largest, n_band - n)
    return np.concatenate([gram.ravel(), rhs.ravel(), [square, n_pixels]]), band


def change_of_sums(band: Band, *, image_shape, order, model, shifted, limit) -> np.ndarray:
    """
    By how much the sums of :func:`sums_and_band` change where the limit is another, and is one about another model.

    The sums are taken about ``model`` as before; what counts is now within ``limit`` of ``shifted``. ``band.y`` and
    ``band.x`` are counted from where the domain of the polynomial begins, of shape ``image_shape``.
    """
    v, u = (
        np.zeros(len(at)) if length == 1 else (2.0 * at - (length - 1)) / (length - 1)
        for at, length in zip((band.y, band.x), image_shape, strict=True)
    )
    gram, rhs, square, n_pixels = _change_of_sums(
        v, u, band.values, band.weights, band.inside, model, shifted, limit**2, 2 * order + 1
    )
    return np.concatenate([gram.ravel(), rhs.ravel(), [square, n_pixels]])


@njit(nogil=True, cache=True)
def _change_of_sums(v, u, values, weights, inside, model, shifted, square_limit, wide):
    narrow = model.shape[0]
    gram, rhs = np.zeros((wide, wide)), np.zeros((narrow, narrow))
    square, n_pixels = 0.0, 0
    by_y, by_x = np.ones(wide), np.ones(wide)
    for k in range(len(values)):
        for n in range(1, wide):
            by_y[n] = v[k] if n == 1 else 2 * v[k] * by_y[n - 1] - by_y[n - 2]
            by_x[n] = u[k] if n == 1 else 2 * u[k] * by_x[n - 1] - by_x[n - 2]
        residual, from_shifted = values[k], values[k]
        for i in range(narrow):
            for j in range(narrow):
                residual -= model[i, j] * by_y[i] * by_x[j]
                from_shifted -= shifted[i, j] * by_y[i] * by_x[j]
        counts = weights[k] * from_shifted * from_shifted <= square_limit
        if counts == inside[k]:
            continue
        sign = 1 if counts else -1
        w = sign * weights[k]
        n_pixels += sign
        square += w * residual * residual
        for i in range(wide):
            for j in range(wide):
                gram[i, j] += w * by_y[i] * by_x[j]
        for i in range(narrow):
            for j in range(narrow):
                rhs[i, j] += w * residual * by_y[i] * by_x[j]
    return gram, rhs, square, n_pixels


def compiled_float(block: np.ndarray) -> np.ndarray:
    """Give float32 and float64 as they are, anything else as float64."""
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _sums_of_rows(
    block, mask, weight, has_mask, has_weight, by_y, by_x, model, square_limit, lower, upper, places, values, inside
):  # fmt: skip
    """
    Take the sums of :func:`sums_and_band`: moments along x of one row after another, times T_i(y).

    ``by_x[j, x]`` is T_j(x), ``by_y[y, i]`` is T_i(y), ``model[y, j]`` the coefficients of T_j(x) of the model in
    row y. Three rows of float64 are all that is kept, and pixels with squares from ``lower`` to ``upper``, as far as
    there is room for them.
    """
    ny, nx = block.shape
    wide, narrow = by_x.shape[0], model.shape[1]
    gram, rhs = np.zeros((wide, wide)), np.zeros((narrow, narrow))
    square, n_pixels, n_band, largest = 0.0, 0, 0, 0.0 if has_weight else 1.0
    weights, weighted, terms = np.empty(nx), np.empty(nx), np.empty(nx)
    whole = np.zeros(wide)  # moments of a row of which every pixel counts, and counts the same
    for j in range(wide):
        for x in range(nx):
            whole[j] += by_x[j, x]
    for y in range(ny):
        weighted[:] = 0.0
        for j in range(narrow):
            c = model[y, j]
            for x in range(nx):
                weighted[x] += c * by_x[j, x]
        n_good, n_near = 0, 0
        for x in range(nx):
            value = np.float64(block[y, x])
            w = np.float64(weight[y, x]) if has_weight else 1.0
            good = abs(value) < np.inf and w > 0.0 and w < np.inf  # all false for NaN
            if has_mask:
                good = good and not mask[y, x]
            residual = value - weighted[x]
            term = w * residual * residual
            near = good and term > lower and term <= upper
            terms[x] = term if near else -1.0
            n_near += 1 if near else 0
            good = good and term <= square_limit
            # Chosen, not multiplied by zero: what lies under the mask, NaN included, stays out of every sum.
            weights[x] = w if good else 0.0
            weighted[x] = w * residual if good else 0.0
            square += term if good else 0.0
            n_good += 1 if good else 0
        if has_weight:  # apart: the largest of a few numbers is not found in any order
            for x in range(nx):
                if weights[x] > largest:
                    largest = weights[x]
        if n_near > 0:
            for x in range(nx):
                if terms[x] >= 0.0:
                    if n_band < len(inside):
                        places[0, n_band], places[1, n_band] = y, x
                        values[0, n_band] = np.float64(block[y, x])
                        values[1, n_band] = np.float64(weight[y, x]) if has_weight else 1.0
                        inside[n_band] = terms[x] <= square_limit
                        largest = max(largest, values[1, n_band])
                    n_band += 1
        if n_good == 0:
            continue
        n_pixels += n_good
        for j in range(wide):
            if n_good == nx and not has_weight:
                moment = whole[j]
            else:
                moment = 0.0
                for x in range(nx):
                    moment += weights[x] * by_x[j, x]
            for i in range(wide):
                gram[i, j] += by_y[y, i] * moment
        for j in range(narrow):
            moment = 0.0
            for x in range(nx):
                moment += weighted[x] * by_x[j, x]
            for i in range(narrow):
                rhs[i, j] += by_y[y, i] * moment
    return gram, rhs, square, n_pixels, n_band, largest
