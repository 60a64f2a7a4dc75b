"""Noise of one block."""

from __future__ import annotations

import numpy as np

__all__ = ["sigma_of_block"]


def sigma_of_block(block, electrons_per_unit, sky_variance, fac1: float, fac2: float) -> np.ndarray:
    """
    Square root of ``fac1 * max(block, 0) / electrons_per_unit + fac2 * sky_variance``.

    ``electrons_per_unit`` (gain times exposure) and ``sky_variance`` are numbers or blocks. Where pixels or
    exposure are not finite and positive the source term is left out, so that the result is always finite.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        source = np.maximum(block, 0).astype(np.float64) / electrons_per_unit
    source = np.where(np.isfinite(source) & (np.asarray(electrons_per_unit) > 0), source, 0.0)
    sigma = np.sqrt(fac1 * source + fac2 * sky_variance).astype(block.dtype)
    # float32 may round a tiny sigma to zero; a zero would be an infinite weight in a fit.
    return np.maximum(sigma, np.finfo(block.dtype).tiny)
