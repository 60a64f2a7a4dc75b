"""Where a fit starts: centre and flux of every star, and a Moffat profile of their size."""

from __future__ import annotations

import numpy as np
from scipy.special import j1

from galprep_dask.psf._kernels.moments import adaptive_moments
from galprep_dask.psf._kernels.render import shift_matrices

__all__ = ["airy_psf", "choose_oversampling", "moffat_psf", "starting_values"]

#: Fine pixels across the FWHM that an oversampled model is given, and the FWHM below which one is needed.
FINE_PER_FWHM, SHARPEST = 4.0, 2.5
#: Slope of the Moffat profile that a fit starts from.
BETA = 3.0
#: FWHM of an Airy pattern, wavelengths over the aperture.
AIRY = 1.029


def choose_oversampling(fwhm: float) -> int:
    """Give fine pixels per data pixel for stars of ``fwhm``: 1 from 2.5 px on, else enough for 4 to the FWHM."""
    return 1 if fwhm >= SHARPEST else int(np.clip(np.ceil(FINE_PER_FWHM / fwhm), 2, 5))


def starting_values(data, good):
    """
    Sky, centre, flux and size of every stamp, robustly.

    Parameters
    ----------
    data : (k, n, n) array
    good : (k, n, n) bool array

    Returns
    -------
    sky, dx, dy, flux : (k,) arrays
    fwhm : float
        Of the stars as they are sampled, px.
    """
    size = data.shape[-1]
    r = np.hypot(*np.meshgrid(*(np.arange(size) - (size - 1) / 2,) * 2))
    rim = r > 0.4 * size
    rings = [pixels[usable] for pixels, usable in zip(data[:, rim], good[:, rim], strict=True)]
    sky = np.array([np.median(ring) if ring.size else 0.0 for ring in rings])
    with np.errstate(all="ignore"):
        filled = np.where(good, data - sky[:, None, None], 0.0)
        found = adaptive_moments(filled, sigma=min(2.0, size / 8), iterations=60, tolerance=1e-3)
        near = np.isfinite(found.size) & (np.hypot(found.x, found.y) < 0.25 * size)
        core = np.where(r <= 0.25 * size, filled, 0)
        flux = core.sum((1, 2))
        bright = near & (flux > 0)
        fwhm = found.fwhm[bright]
        order = np.argsort(fwhm)
        weight = np.cumsum(np.sqrt(np.maximum(flux[bright][order], 0)))
        typical = fwhm[order][np.searchsorted(weight, 0.5 * weight[-1])] if len(order) else 3.0
    return (
        sky,
        np.where(near, found.x, 0.0),
        np.where(near, found.y, 0.0),
        np.maximum(flux, 0.0),
        float(np.clip(typical, 0.8, 0.5 * size)),
    )


def moffat_psf(fwhm: float, size: int, fine_size: int, oversampling: int, slope: float = BETA) -> np.ndarray:
    """Give a round Moffat profile, (fine_size, fine_size), of adaptive FWHM ``fwhm`` once integrated over pixels."""
    first = fwhm / 2 / np.sqrt(2 ** (1 / slope) - 1)
    return _as_wide(lambda r: (1 + r**2) ** -slope, first, fwhm, size, fine_size, oversampling)[0]


def airy_psf(fwhm: float, size: int, fine_size: int, oversampling: int) -> tuple[np.ndarray, float]:
    """Give a round Airy pattern of that adaptive FWHM, and the wavelength over the aperture that makes it, px."""

    def pattern(r):
        angle = np.pi * np.maximum(r, 1e-9)
        return (2 * j1(angle) / angle) ** 2

    return _as_wide(pattern, fwhm / AIRY, fwhm, size, fine_size, oversampling)


def _as_wide(profile, width, fwhm, size, fine_size, oversampling):
    """Give an image of a profile of r / width, and the width that makes its adaptive FWHM ``fwhm``."""
    r = np.hypot(*np.meshgrid(*(np.arange(fine_size) - (fine_size - 1) / 2,) * 2)) / oversampling
    matrix = shift_matrices(np.zeros(1), size, fine_size, oversampling)[0]

    def of_width(width):
        image = profile(r / width)
        return image / image.sum()

    for _ in range(8):
        sampled = of_width(width)
        if oversampling > 1:
            sampled = matrix @ sampled @ matrix.T
        seen = float(adaptive_moments(sampled[None], sigma=fwhm / 2.35).fwhm[0])
        if not abs(seen / fwhm - 1) > 1e-5:  # near enough, or there is no telling
            break
        # What the pixels add does not shrink with the profile, so the squares are compared.
        width = np.sqrt(max(width**2 * (1 + (fwhm**2 - seen**2) / fwhm**2), (0.3 / oversampling) ** 2))
    return of_width(width), width
