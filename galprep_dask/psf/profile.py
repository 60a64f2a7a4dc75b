"""What the stars' profile is like, roughly: where an oversampled fit starts, and whether one is needed."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.render import shift_matrices
from galprep_dask.psf.start import airy_psf, choose_oversampling, moffat_psf

__all__ = ["lost_to_sampling", "needed_oversampling", "slope_of"]

#: Slopes of a Moffat profile that are tried: from broad wings to nearly a Gaussian.
SLOPES = (1.8, 2.3, 3.0, 4.0, 6.0, 12.0)
#: So many of the brightest stars tell the slope, within so many FWHM; their cores may be wrong by ROUGH, and a pixel
#: further off than FAR sigmas counts no more than that, one further off than WILD in a ring.
TELLING, REACH, ROUGH, FAR, WILD = 20, 4.0, 0.02, 10.0, 40.0
#: chi2 that the data's own sampling may cost before twice finer pixels are taken: of one PSF, and where it varies.
LOST, LOST_VARYING = 5.0, 1000.0
#: Stars are unlike a Moffat profile that is wrong by this fraction of itself in a ring, of so many FWHM, out to NEAR.
UNLIKE, RING, NEAR = 0.4, 0.25, 2.0
#: Stars have an Airy pattern where chi2 of that is lower than of all Moffat profiles by so much. It has no frequencies
#: above the aperture over the wavelength: pixels show all of it where there are so many to the inverse of that.
SURELY, PIXELS = 25.0, 2.0


def slope_of(data, good, variance, inverse_gain, flux, dx, dy, fwhm) -> tuple[float, bool, bool]:
    """
    Give the slope, one of SLOPES, of the Moffat profile of ``fwhm`` that is most like the stars, and whether it is.

    And whether they have an Airy pattern instead of which the data's pixels show all.

    Parameters
    ----------
    data, good, variance : (k, n, n) arrays
        Sky-subtracted stars, pixels that count, variances of the background.
    inverse_gain : float
    flux, dx, dy : (k,) arrays
        First values.
    fwhm : float
    """
    size = data.shape[-1]
    half = int(min(np.ceil(REACH * fwhm), size // 2))
    told = np.argsort(-flux, kind="stable")[:TELLING]
    box = slice(size // 2 - half, size // 2 + half + 1)
    data, good, variance = (np.asarray(part[told][:, box, box], float) for part in (data, good, variance))
    flux, s, side = flux[told, None, None], max(choose_oversampling(0.9 * fwhm), 2), 2 * half + 1
    fine = side * s - (side * s + 1) % 2
    across, along = (shift_matrices(shift[told], side, fine, s) for shift in (dx, dy))
    iy, ix = np.mgrid[:side, :side] - half
    r = np.hypot(ix - dx[told, None, None], iy - dy[told, None, None])

    def compared(profile):
        """Compare the stars with a profile: chi2, and the largest fraction by which they differ in a ring."""
        star = along @ profile @ across.swapaxes(1, 2)
        light = np.maximum(flux * star, 0)
        weight = good / (variance + light * inverse_gain + (ROUGH * light) ** 2)
        own = (weight * star * data).sum((1, 2)) / np.maximum((weight * star**2).sum((1, 2)), 1e-300)
        light = own[:, None, None] * star
        pull, light = np.sqrt(weight) * (data - light), np.sqrt(weight) * light
        return np.minimum(pull**2, FAR**2).sum(), _wrong_by(np.clip(pull, -WILD, WILD), light, r / fwhm)

    found = [(*compared(moffat_psf(fwhm, side, fine, s, slope)), slope) for slope in SLOPES]
    chi2, wrong, slope = min(found, key=lambda one: (one[0], one[2]))
    pattern, width = airy_psf(fwhm, side, fine, s)
    return slope, wrong < UNLIKE, bool(width >= PIXELS and compared(pattern)[0] < chi2 - SURELY)


def _wrong_by(pull, light, r):
    """Largest fraction by which a profile is wrong in a ring, more than by its noise; both are over sigma."""
    ring = (r[r < NEAR] / RING).astype(int)
    sums = [np.bincount(ring, values[r < NEAR]) for values in (pull * light, light**2)]
    error = 1 / np.sqrt(np.maximum(sums[1], 1e-30))
    return float((np.abs(sums[0]) * error**2 - 3 * error).max())


def lost_to_sampling(flux, variance, inverse_gain, fwhm, slope, size) -> float:
    """
    Give chi2 of what samples a pixel apart cannot say of a Moffat profile, in stars of these fluxes.

    Stars at all places within a pixel show the profile between the pixels. The band-limited function through
    samples a pixel apart differs from it by the frequencies above half a cycle per pixel. Weights keep that out of
    the wings, where noise is low, and so bring more of it to the core: a bias that bright stars reveal.

    Parameters
    ----------
    flux, variance : (k,) arrays
        Of the stars, and of their background.
    inverse_gain : float
    fwhm, slope : float
        Of the profile.
    size : int
        Side of the stamps.
    """
    fine = 2 * size - 1
    # Pixels of the data whose middles are half a pixel apart.
    halves = shift_matrices(np.array([0.0, -0.5]), size, fine, 2).swapaxes(0, 1).reshape(2 * size, fine)[:-1]
    image = halves @ moffat_psf(fwhm, size, fine, 2, slope) @ halves.T
    high = np.abs(np.fft.fftfreq(fine, 0.5)) > 0.5
    spectrum = np.fft.fft2(image) * (high[:, None] | high)
    lost = np.fft.ifft2(spectrum).real
    chi2 = 0.0
    for star, background in zip(flux, variance, strict=True):
        chi2 += ((star * lost) ** 2 / (background + np.maximum(star * image, 0) * inverse_gain)).mean()
    return float(chi2 * size**2)


def needed_oversampling(fwhm, lost, varies=False) -> int:
    """Give the oversampling for stars of ``fwhm``, of which ``lost()`` is lost to the data's sampling."""
    return max(choose_oversampling(0.9 * fwhm), 1 + (lost() > (LOST_VARYING if varies else LOST)))
