"""Chebyshev sums and values of one block."""

from __future__ import annotations

import numpy as np
from numpy.polynomial.chebyshev import chebvander

__all__ = ["evaluate_block", "on_domain", "sky_sums"]


def on_domain(start: int, stop: int, length: int) -> np.ndarray:
    """Pixel coordinates ``start`` to ``stop`` of an axis of ``length`` pixels, mapped to [-1, 1]."""
    if length == 1:
        return np.zeros(stop - start)
    return (2.0 * np.arange(start, stop) - (length - 1)) / (length - 1)


def evaluate_block(shape, origin, coefficients, image_shape) -> np.ndarray:
    """Values of the polynomial with ``coefficients[i, j]`` of T_i(y) T_j(x) on one block."""
    degree_y, degree_x = coefficients.shape[0] - 1, coefficients.shape[1] - 1
    y = on_domain(origin[0], origin[0] + shape[0], image_shape[0])
    x = on_domain(origin[1], origin[1] + shape[1], image_shape[1])
    return chebvander(y, degree_y) @ coefficients @ chebvander(x, degree_x).T


def sky_sums(block, *planes, origin, image_shape, order, model, limit, has_mask, has_weight) -> np.ndarray:
    """
    All sums of one block that a fit needs, in one vector.

    In this order: moments of the weights with T_i(y) T_j(x) to degree ``2 * order``, shape (2 order + 1)^2;
    moments of weight * residual to degree ``order``, shape (order + 1)^2; the sum of weight * residual^2; the
    number of pixels. Residuals are taken about ``model``; pixels with sqrt(weight) * |residual| above
    ``limit`` are left out (None: none is).
    """
    planes = list(planes)
    good = np.isfinite(block)
    if has_mask:
        good &= ~planes.pop(0)
    weight = planes.pop(0).astype(np.float64) if has_weight else np.ones(block.shape)
    good &= np.isfinite(weight) & (weight > 0)
    weight = np.where(good, weight, 0.0)

    # What lies under the mask, NaN included, stays out of every sum.
    residual = np.where(good, block, 0.0) - evaluate_block(block.shape, origin, model, image_shape)
    if limit is not None:
        good &= weight * residual**2 <= limit**2
        weight = np.where(good, weight, 0.0)
    weighted = weight * residual

    y = on_domain(origin[0], origin[0] + block.shape[0], image_shape[0])
    x = on_domain(origin[1], origin[1] + block.shape[1], image_shape[1])
    gram = chebvander(y, 2 * order).T @ weight @ chebvander(x, 2 * order)
    rhs = chebvander(y, order).T @ weighted @ chebvander(x, order)
    return np.concatenate([gram.ravel(), rhs.ravel(), [np.sum(weighted * residual), np.count_nonzero(good)]])
