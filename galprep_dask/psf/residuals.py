"""What a fitted PSF leaves of its stars."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from galprep_dask.errors import ImageShapeError, OutsideFieldWarning, ParameterError
from galprep_dask.psf.model import PSFModel

__all__ = ["StarResiduals", "star_residuals"]

#: Fraction of a star's light by which the PSF may be wrong without a pixel being left out as a cosmic ray's.
WRONG = 0.05


@dataclass(frozen=True)
class StarResiduals:
    """
    Stars beside the PSF that was fitted to them; from :func:`~galprep_dask.psf.star_residuals`.

    Attributes
    ----------
    pulls : (k, n, n) array
        (star - flux x PSF - sky) / noise; NaN where masked or clipped, and for stars that the fit says nothing of.
    used, reserved : (k,) bool arrays
        Stars that the PSF was fitted to, and stars that were once kept out of the fit.
    refitted : bool
        Whether those that were kept out have a part in the PSF that is looked at here.
    radius : (r,) array
        Pixels.
    profile, model_profile, profile_error : (r,) arrays
        Mean light in rings around the used stars, of total 1 each, and of the PSF put where they are; 1-sigma error.

    Examples
    --------
    >>> pulls = np.random.default_rng(0).normal(size=(50, 21, 21))
    >>> every, ring = np.ones(50, bool), np.arange(10.0)
    >>> found = StarResiduals(pulls, every, every, True, ring, ring, ring, ring)
    >>> bool(0.9 < found.mean_pull(every).std() < 1.1)
    True
    """

    pulls: np.ndarray
    used: np.ndarray
    reserved: np.ndarray
    refitted: bool
    radius: np.ndarray
    profile: np.ndarray
    model_profile: np.ndarray
    profile_error: np.ndarray

    def mean_pull(self, which) -> np.ndarray:
        """Average pulls of the stars of an index times the root of their number, (n, n): scatter 1 if all is well."""
        chosen = self.pulls[which]
        good = np.isfinite(chosen)
        number = good.sum(0)
        return np.where(number > 0, np.where(good, chosen, 0).sum(0) / np.sqrt(np.maximum(number, 1)), np.nan)


def star_residuals(
    model: PSFModel, stamps, *, mask=None, sigma=None, sky_std=None, gain: float | None = None, x=None, y=None
) -> StarResiduals:
    """
    Compare a fitted PSF with the stamps that it was fitted to.

    Parameters
    ----------
    model : PSFModel
        From :func:`galprep_dask.psf.fit_psf`, whose table of stars has a row for every stamp.
    stamps : (k, n, n) array
        The stamps of that fit. Not modified.
    mask : (k, n, n) bool array, optional
        True marks pixels left out; non-finite pixels always are.
    sigma : (k, n, n) array or float, optional
        1-sigma noise, that of the stars' own photons included.
    sky_std, gain : float, optional
        Instead of ``sigma``: noise of the background, and electrons per unit for the photons, taken from the model.
    x, y : (k,) arrays, optional
        Positions of the stars, for a PSF that varies.

    Returns
    -------
    StarResiduals

    Raises
    ------
    ParameterError
        The model has no stars, a noise is missing, or positions are.
    ImageShapeError
        Stamps are others than those of the fit.

    Examples
    --------
    >>> from galprep_dask.psf import fit_psf
    >>> rng = np.random.default_rng(0)
    >>> iy, ix = np.mgrid[-10:11, -10:11]
    >>> stars = [1e4 * np.exp(-((ix - a) ** 2 + (iy - b) ** 2) / 5.8) for a, b in rng.uniform(-0.5, 0.5, (30, 2))]
    >>> stars = stars + rng.normal(0, 1, (30, 21, 21))
    >>> found = star_residuals(fit_psf(stars, sky_std=1.0), stars, sky_std=1.0)
    >>> bool(0.9 < np.nanstd(found.pulls[found.used]) < 1.1)
    True
    """
    data = np.asarray(stamps, np.float64)
    table = model.stars
    if "flux" not in getattr(table, "colnames", ()):
        raise ParameterError("this PSF comes without a table of stars: only what fit_psf gives has one.")
    if data.shape != (len(table), model.size, model.size):
        raise ImageShapeError(
            f"stamps have shape {data.shape}, but the PSF was fitted to {len(table)} of {model.size} x {model.size} px."
        )
    if (sigma is None) == (sky_std is None):
        raise ParameterError("pass either sigma or sky_std, the noise that residuals are divided by.")
    if model.degree and (x is None or y is None):
        raise ParameterError("this PSF varies over the field: give the positions of the stars, x and y.")
    good = np.isfinite(data)
    if mask is not None:
        if np.shape(mask) != data.shape:
            raise ImageShapeError(f"mask has shape {np.shape(mask)}, but the stamps have {data.shape}.")
        good &= np.asarray(mask) == 0
    flux, sky, dx, dy = (np.asarray(table[name], float) for name in ("flux", "sky", "dx", "dy"))
    known = np.isfinite(flux) & (flux > 0)
    light = np.zeros(data.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideFieldWarning)  # the fit has looked at stars beyond the hull in this way
        for k in np.flatnonzero(known):
            place = (float(x[k]), float(y[k])) if model.degree else ()
            light[k] = flux[k] * model.at(*place, dx=dx[k], dy=dy[k])
    if sigma is None:
        noise = np.sqrt(np.asarray(sky_std, float) ** 2 + (np.maximum(light, 0) / gain if gain else 0))
    else:
        noise = np.asarray(sigma, float)
    noise = np.broadcast_to(noise, data.shape)
    good &= known[:, None, None] & np.isfinite(noise) & (noise > 0)
    above = np.where(good, data - np.where(known, sky, 0)[:, None, None], 0)
    clip = model.parameters.get("clip", np.inf)
    good &= np.abs(above - light) <= clip * np.sqrt(np.where(good, noise, 1) ** 2 + (WRONG * light) ** 2)
    pulls = np.where(good, (above - light) / np.where(good, noise, 1), np.nan)
    used = np.asarray(table["used"], bool)
    rings = _rings(above, light, noise, good, used & known, np.where(known, flux, 1), dx, dy)
    reserved = np.asarray(table["reserved"], bool)
    return StarResiduals(pulls, used, reserved, bool((reserved & used).any()), *rings)


def _rings(above, light, noise, good, used, flux, dx, dy):
    """Mean profiles of stars and of their models, weighted as in the fit, in rings of half a pixel and more."""
    size = above.shape[-1]
    half = size // 2
    edges = np.concatenate([np.arange(0, min(4, half), 0.5), np.arange(min(4, half), half + 0.5)])
    iy, ix = np.mgrid[:size, :size] - half
    sums = np.zeros((4, len(edges) - 1))
    for k in np.flatnonzero(used):
        ring = np.digitize(np.hypot(ix - dx[k], iy - dy[k]), edges) - 1
        inside = good[k] & (ring < len(edges) - 1)
        weight = (flux[k] / noise[k][inside]) ** 2
        for row, values in enumerate((np.ones(inside.sum()), above[k][inside] / flux[k], light[k][inside] / flux[k])):
            sums[row] += np.bincount(ring[inside], weight * values, len(edges) - 1)
        radii = np.hypot(ix - dx[k], iy - dy[k])[inside]
        sums[3] += np.bincount(ring[inside], weight * radii, len(edges) - 1)
    filled = sums[0] > 0
    total = sums[0][filled]
    return sums[3][filled] / total, sums[1][filled] / total, sums[2][filled] / total, 1 / np.sqrt(total)
