"""A plain stack of stars: aligned, weighted, averaged. What a fit is measured against."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.render import coverage_matrices, shift_matrices

__all__ = ["stack_of"]

#: Sigmas beyond which a pixel is left out of the average, and how often that is done.
CLIP, CLIPPINGS = 4.0, 3


def stack_of(data, good, variance, flux, dx, dy, sky) -> np.ndarray:
    """
    Weighted mean of stars shifted to the middle pixel and divided by their flux.

    Parameters
    ----------
    data, good, variance : (k, n, n) arrays
        Stars, pixels that count, variances.
    flux, dx, dy, sky : (k,) arrays
        What is known of each star.

    Returns
    -------
    (n, n) array
        Of sum 1.
    """
    size = data.shape[-1]
    moved, weights = np.empty(data.shape), np.empty(data.shape)
    for k in range(len(data)):
        y, x = (shift_matrices(np.array([-d]), size, size, 1)[0] for d in (dy[k], dx[k]))
        by, bx = (coverage_matrices(np.array([-d]), size, size, 1)[0] for d in (dy[k], dx[k]))
        light = np.where(good[k], data[k] - sky[k], 0.0)
        covered = by @ good[k].astype(float) @ bx.T
        moved[k] = y @ light @ x.T / flux[k]
        noise = by @ variance[k] @ bx.T
        weights[k] = np.where(covered > 0.99, flux[k] ** 2 / np.maximum(noise, 1e-300), 0.0)
    kept = weights.copy()
    for _ in range(CLIPPINGS):
        mean = (kept * moved).sum(0) / np.maximum(kept.sum(0), 1e-300)
        excess = np.abs(moved - mean) * np.sqrt(weights)
        # Interpolation errs by some percent of the star, so that much is never clipped.
        kept = np.where(excess > CLIP * np.sqrt(1 + weights * (0.1 * mean) ** 2), 0.0, weights)
    mean = (kept * moved).sum(0) / np.maximum(kept.sum(0), 1e-300)
    return mean / mean.sum()
