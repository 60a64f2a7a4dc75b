"""Saturation that no keyword tells of: cores with a flat top, and peaks that pile up at one level."""

from __future__ import annotations

import numpy as np

__all__ = ["flat_topped", "pile_up"]

#: Share of the highest peak above which peaks count as equal, how many make a pile, and by what factor their light
#: differs: peaks of stars that are not cut off go as their light, but for where in a pixel they lie.
_EQUAL, _PILE, _LIGHT = 0.97, 3, 1.6


def pile_up(peak: np.ndarray, flux: np.ndarray) -> float:
    """
    Give the level at which the brightest peaks pile up.

    Parameters
    ----------
    peak, flux : (n,) arrays
        Brightest pixel and light of each source.

    Returns
    -------
    float
        inf where they do not.
    """
    good = np.isfinite(peak) & np.isfinite(flux) & (flux > 0)
    peak, flux = peak[good], flux[good]
    if len(peak) < _PILE:
        return np.inf
    top = np.sort(peak)[-2]  # the highest may be a cosmic ray
    on = (peak >= _EQUAL * top) & (peak <= top / _EQUAL)
    return float(_EQUAL * top) if on.sum() >= _PILE and flux[on].max() > _LIGHT * flux[on].min() else np.inf


def flat_topped(n_flat: np.ndarray, width: np.ndarray) -> np.ndarray:
    """
    Tell which cores have more pixels within 3 % of the brightest than a Gaussian, and than chance.

    Parameters
    ----------
    n_flat : (n,) array
        Such pixels.
    width : (n,) array
        Standard deviation in pixels.

    Returns
    -------
    (n,) bool array
    """
    return n_flat > 4 + 2 * 2 * np.pi * width**2 * np.log(1 / _EQUAL)
