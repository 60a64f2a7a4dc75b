"""Smoothing and labelling of one array."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["gaussian_weights", "label_sources", "smooth_window"]

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


def gaussian_weights(fwhm: float) -> np.ndarray:
    """One-dimensional Gaussian of ``fwhm`` pixels, out to three sigma, with sum 1."""
    sigma = fwhm / _FWHM_PER_SIGMA
    radius = int(np.ceil(3.0 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def smooth_window(window: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Weighted mean of the finite pixels around each pixel, in float64; NaN where there is none.

    The kernel is the product of ``weights`` along both axes. Sums run directly over the kernel, in an order that
    does not depend on where the window lies, so that blocks and the whole image give the same bits.
    """
    good = np.isfinite(window)
    total = _along_both(np.where(good, window, 0.0), weights)
    share = _along_both(good.astype(np.float64), weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(share > 0, total / share, np.nan)


def _along_both(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        values = ndimage.correlate1d(values, weights, axis=axis, output=np.float64, mode="constant")
    return values


def label_sources(above: np.ndarray, n_pixels: int, connectivity: int) -> np.ndarray:
    """
    Label the connected regions of at least ``n_pixels`` pixels, int32, 0 elsewhere.

    Labels are consecutive, in the row-major order of the regions' first pixels, as photutils numbers them.
    """
    structure = ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1)
    labels, count = ndimage.label(above, structure)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= n_pixels
    kept[0] = False
    numbers = np.cumsum(kept, dtype=np.int32)
    return np.where(kept, numbers, 0).astype(np.int32)[labels]
