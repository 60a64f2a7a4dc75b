"""Sigma of the pixels of one block."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["is_usable", "pulls_of_block", "sigma_of_block"]

_NONE = np.empty((0, 0))
_NO_MASK = np.empty((0, 0), np.bool_)


def sigma_of_block(block, *planes, names, dtype, gain, exptime, sky_variance, sky_exptime, fac1, fac2) -> np.ndarray:
    """
    Square root of ``fac1 * max(block, 0) / (gain * exptime) + fac2 * variance of the sky``.

    ``names`` says what ``planes`` are: "mask", "exptime", and "weight" or "rms". What they say that is not finite and
    positive is not used: without an exposure there is no term of the source, and without a weight or an rms the
    variance of the sky is ``sky_variance``. Without a map of either the variance of the sky goes with one over
    the exposure, and is ``sky_variance`` at ``sky_exptime``. The result is of ``dtype``, finite and positive.
    """
    given = dict(zip(names, planes, strict=True))
    sky_map = given.get("weight", given.get("rms"))
    sigma = np.empty(block.shape, dtype)
    smallest, largest = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    if not given:
        _fill_plain(block, fac1 / (gain * exptime), fac2 * sky_variance, smallest, largest, sigma)
        return sigma
    _fill(
        block, given.get("mask", _NO_MASK), given.get("exptime", _NONE), _NONE if sky_map is None else sky_map,
        "weight" in given, gain, exptime, sky_variance, sky_exptime, fac1, fac2, smallest, largest, sigma,
    )  # fmt: skip
    return sigma


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_plain(block, per_count, sky, smallest, largest, sigma):
    for y in range(block.shape[0]):
        for x in range(block.shape[1]):
            value = np.float64(block[y, x])
            value = value if (value > 0.0) & (value < np.inf) else 0.0
            # A sigma of zero would be an infinite weight in a fit.
            sigma[y, x] = min(max(np.sqrt(value * per_count + sky), smallest), largest)


@njit(nogil=True, cache=True, error_model="numpy")
def _fill(
    block, mask, exposure, sky_map, is_weight, gain, exptime, sky_variance, sky_exptime, fac1, fac2, smallest,
    largest, sigma,
):  # fmt: skip
    has_mask, has_exposure, has_map = mask.size > 0, exposure.size > 0, sky_map.size > 0
    for y in range(block.shape[0]):
        for x in range(block.shape[1]):
            value = np.float64(block[y, x])
            value = value if (value > 0.0) & (value < np.inf) else 0.0
            time, variance = exptime, sky_variance
            if has_exposure:
                time = np.float64(exposure[y, x])
                if not ((time > 0.0) & (time < np.inf)):
                    time, value = sky_exptime, 0.0
                if not has_map:
                    variance *= sky_exptime / time
            if has_map:
                told = np.float64(sky_map[y, x])
                squared = 1.0 / told if is_weight else told * told
                variance = squared if (told > 0.0) & (squared > 0.0) & (squared < np.inf) else sky_variance
            if has_mask and mask[y, x]:
                value, variance = 0.0, sky_variance
            squared = value * (fac1 / (gain * time)) + fac2 * variance
            sigma[y, x] = min(max(np.sqrt(squared), smallest), largest)


def is_usable(block: np.ndarray) -> np.ndarray:
    """Tell which values are finite and positive."""
    return (block > 0) & (block < np.inf)


def pulls_of_block(data, sigma, mask=None, *, dtype) -> np.ndarray:
    """Give pixels over sigma, NaN where there is none, or where they are masked; float32 or float64."""
    pulls = np.empty(data.shape, dtype)
    data, sigma = (block.astype(dtype, copy=False) for block in (data, sigma))
    _fill_pulls(data, sigma, _NO_MASK if mask is None else mask, pulls)
    return pulls


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_pulls(data, sigma, mask, pulls):
    nan = pulls.dtype.type(np.nan)
    for y in range(data.shape[0]):
        for x in range(data.shape[1]):
            usable = (sigma[y, x] > 0) & (sigma[y, x] < np.inf) & (abs(data[y, x]) < np.inf)
            if mask.size > 0:
                usable &= not mask[y, x]
            pulls[y, x] = data[y, x] / sigma[y, x] if usable else nan
