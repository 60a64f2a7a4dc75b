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
    # Made by NumPy, which asks for huge pages: compiled code would spend most of its time on faults of small ones.
    result = np.empty((window.shape[0] - 2 * reach[0], window.shape[1] - 2 * reach[1]))
    _smooth_window(as_kernel_input(window), along, kernel, *reach, max(_STRETCH, 2 * reach[1]), result)
    return result


@njit(nogil=True, cache=True)
def _smooth_window(window, along, kernel, reach_y, reach_x, stretch, result):
    """
    Go down the window with as many rows in hand as the kernel is high.

    Where every pixel that the kernel reaches is good, the sum of weights is the same constant to the last bit, so that
    it is summed only in stretches of a row that have a bad pixel nearby.
    """
    height, wide = 2 * reach_y + 1, window.shape[1]
    nx = result.shape[1]
    n_stretches = (wide + stretch - 1) // stretch
    values, good = np.empty((height, wide)), np.ones((height, wide))
    scratch, share = np.empty(wide), np.empty(nx)
    n_bad = np.zeros(height, np.int64)
    bad = np.zeros((height, n_stretches), np.bool_)
    near = np.zeros(n_stretches + 1, np.int64)  # rows in hand with a bad pixel in the stretch
    order = np.arange(height)
    _weighted_sums(good, order, along, kernel, 0, 1, scratch, share)
    full = 1.0 / share[0]
    for y in range(window.shape[0]):
        slot = y % height
        had_bad = n_bad[slot] > 0
        n_bad[slot] = _take_row(window[y], values[slot])
        if had_bad or n_bad[slot] > 0:
            for s in range(n_stretches):
                near[s] -= bad[slot, s]
                bad[slot, s] = False
            for x in range(wide):
                is_good = abs(window[y, x]) < np.inf
                good[slot, x] = 1.0 if is_good else 0.0
                if not is_good:
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
                _scaled(out[begin:end], out[begin:end], full)
            elif begin < end:
                _weighted_sums(good, order, along, kernel, begin, end, scratch, share)
                for x in range(begin, end):
                    out[x] = out[x] * (1.0 / share[x]) if share[x] > 0.0 else np.nan


@njit(nogil=True, cache=True)
def _take_row(row, values):
    """Copy a row with 0 for bad pixels, and count these."""
    n_bad = 0
    for x in range(len(row)):
        value = np.float64(row[x])
        is_good = abs(value) < np.inf
        values[x] = value if is_good else 0.0
        n_bad += 0 if is_good else 1
    return n_bad


@njit(nogil=True, cache=True)
def _weighted_sums(rows, order, along, kernel, begin, end, scratch, out):
    """Sum for the pixels ``begin:end`` of a row over the rows that the kernel covers."""
    n = len(along)
    if n > 0:
        middle, wide = n // 2, end + n - 1
        here = scratch[begin:wide]
        _scaled(here, rows[order[middle], begin:wide], along[middle])
        for i in range(0, middle - 1, 2):
            one, other = rows[order[i], begin:wide], rows[order[n - 1 - i], begin:wide]
            third, fourth = rows[order[i + 1], begin:wide], rows[order[n - 2 - i], begin:wide]
            _add_two_pairs(here, one, other, along[i], third, fourth, along[i + 1])
        if middle % 2:
            _add_pair(here, rows[order[middle - 1], begin:wide], rows[order[middle + 1], begin:wide], along[middle - 1])
        n_out, here = end - begin, out[begin:end]
        parts = scratch[begin:wide]
        _scaled(here, parts[middle : middle + n_out], along[middle])
        for i in range(0, middle - 1, 2):
            one, other = parts[i : i + n_out], parts[n - 1 - i : n - 1 - i + n_out]
            third, fourth = parts[i + 1 : i + 1 + n_out], parts[n - 2 - i : n - 2 - i + n_out]
            _add_two_pairs(here, one, other, along[i], third, fourth, along[i + 1])
        if middle % 2:
            one, other = parts[middle - 1 : middle - 1 + n_out], parts[middle + 1 : middle + 1 + n_out]
            _add_pair(here, one, other, along[middle - 1])
        return
    out[begin:end] = 0.0
    for i in range(kernel.shape[0]):
        row = rows[order[i]]
        for j in range(kernel.shape[1]):
            weight = kernel[i, j]
            for x in range(begin, end):
                out[x] += weight * row[x + j]


@njit(nogil=True, cache=True)
def _scaled(out, values, weight):
    for x in range(len(out)):
        out[x] = weight * values[x]


@njit(nogil=True, cache=True)
def _add_pair(out, one, other, weight):
    for x in range(len(out)):
        out[x] += weight * (one[x] + other[x])


@njit(nogil=True, cache=True)
def _add_two_pairs(out, one, other, weight, third, fourth, next_weight):
    # Two at a time, in the same order as one after the other: half as often read and written.
    for x in range(len(out)):
        out[x] = (out[x] + weight * (one[x] + other[x])) + next_weight * (third[x] + fourth[x])
