"""Weighted means around every pixel of one array."""

from __future__ import annotations

import numpy as np
from numba import njit

from galprep_dask.segmentation._kernels.label import as_kernel_input

__all__ = ["gaussian_weights", "smooth_window"]

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
#: Columns that share the answer to whether a bad pixel is near.
_STRETCH = 64


def gaussian_weights(fwhm: float) -> np.ndarray:
    """One-dimensional Gaussian of ``fwhm`` pixels, out to three sigma, with sum 1."""
    sigma = fwhm / _FWHM_PER_SIGMA
    radius = int(np.ceil(3.0 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def smooth_window(window: np.ndarray, weights: np.ndarray, halo: int) -> np.ndarray:
    """
    Weighted mean of the finite pixels around each pixel, in float64; NaN where there is none.

    Parameters
    ----------
    window : (ny + 2 halo, nx + 2 halo) float array
        A block and its surroundings.
    weights : (n,) or (n, m) float64 array
        Symmetric weights along both axes, whose product is the kernel, or the kernel itself. Odd sizes.
    halo : int
        Rows and columns around the block, at least those that the kernel reaches over.

    Returns
    -------
    (ny, nx) float64 array
        Every pixel is summed in the same order wherever it lies, so that blocks and the whole image give the same bits.
    """
    along, kernel = (weights, np.empty((0, 0))) if weights.ndim == 1 else (np.empty(0), weights)
    reach = [size // 2 for size in (weights.shape if weights.ndim == 2 else weights.shape * 2)]
    if (halo, halo) != tuple(reach):
        window = window[halo - reach[0] : len(window) - halo + reach[0]]
        window = window[:, halo - reach[1] : window.shape[1] - halo + reach[1]]
    return _smooth_window(as_kernel_input(window), along, kernel, *reach, max(_STRETCH, 2 * reach[1]))


@njit(nogil=True, cache=True)
def _smooth_window(window, along, kernel, reach_y, reach_x, stretch):
    """
    Go down the window with as many rows in hand as the kernel is high.

    Where every pixel that the kernel reaches is good, the sum of weights is the same constant to the last bit, so that
    it is summed only in stretches of a row that have a bad pixel nearby.
    """
    height, wide = 2 * reach_y + 1, window.shape[1]
    ny, nx = window.shape[0] - 2 * reach_y, wide - 2 * reach_x
    n_stretches = (wide + stretch - 1) // stretch
    values, good = np.empty((height, wide)), np.ones((height, wide))
    scratch, share = np.empty(wide), np.empty(nx)
    bad = np.zeros((height, n_stretches), np.bool_)
    near = np.zeros(n_stretches + 1, np.int64)  # rows in hand with a bad pixel in the stretch
    order = np.empty(height, np.int64)
    result = np.empty((ny, nx))
    for i in range(height):
        order[i] = i
    _weighted_sums(good, order, along, kernel, 0, 1, scratch, share)
    full = 1.0 / share[0]
    for y in range(window.shape[0]):
        slot = y % height
        any_bad = False
        for x in range(wide):
            value = np.float64(window[y, x])
            is_good = abs(value) < np.inf
            values[slot, x] = value if is_good else 0.0
            good[slot, x] = 1.0 if is_good else 0.0
            any_bad |= not is_good
        for s in range(n_stretches):
            near[s] -= bad[slot, s]
            bad[slot, s] = False
        if any_bad:
            for x in range(wide):
                if good[slot, x] == 0.0:
                    bad[slot, x // stretch] = True
            for s in range(n_stretches):
                near[s] += bad[slot, s]
        row = y - 2 * reach_y
        if row < 0:
            continue
        for i in range(height):
            order[i] = (y + 1 + i) % height
        out = result[row]
        _weighted_sums(values, order, along, kernel, 0, nx, scratch, out)
        for s in range(n_stretches):
            begin, end = s * stretch, min((s + 1) * stretch, nx)
            if near[s] + near[s + 1] == 0:  # columns of the window that these pixels reach
                for x in range(begin, end):
                    out[x] *= full
            elif begin < end:
                _weighted_sums(good, order, along, kernel, begin, end, scratch, share)
                for x in range(begin, end):
                    out[x] = out[x] * (1.0 / share[x]) if share[x] > 0.0 else np.nan
    return result


@njit(nogil=True, cache=True)
def _weighted_sums(rows, order, along, kernel, begin, end, scratch, out):
    """Sum for the pixels ``begin:end`` of a row over the rows that the kernel covers."""
    n = len(along)
    if n == 0:
        out[begin:end] = 0.0
        for i in range(kernel.shape[0]):
            row = rows[order[i]]
            for j in range(kernel.shape[1]):
                weight = kernel[i, j]
                for x in range(begin, end):
                    out[x] += weight * row[x + j]
        return
    middle = n // 2
    weight, row = along[middle], rows[order[middle]]
    for x in range(begin, end + n - 1):
        scratch[x] = weight * row[x]
    for i in range(middle):
        weight, row, mirrored = along[i], rows[order[i]], rows[order[n - 1 - i]]
        for x in range(begin, end + n - 1):
            scratch[x] += weight * (row[x] + mirrored[x])
    weight = along[middle]
    for x in range(begin, end):
        out[x] = weight * scratch[x + middle]
    for i in range(middle):
        weight, last = along[i], n - 1 - i
        for x in range(begin, end):
            out[x] += weight * (scratch[x + i] + scratch[x + last])
