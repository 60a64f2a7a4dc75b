"""What is known of P before the stars are seen, and what a first fit has to say to that."""

from __future__ import annotations

import numpy as np
from scipy.special import erfc

from galprep_dask.psf._kernels.prior import Prior
from galprep_dask.psf._kernels.render import box_response
from galprep_dask.psf.solve import Problem, Solution

__all__ = ["first_prior", "held_prior", "information_spectrum", "learned_prior", "noise_factors", "released"]

#: Deviations from the start are expected to have its light times this, in the core and beyond, and no less than that
#: fraction of the noise; information of the prior is never less than 1 / MOST of that of the data.
KNOWN, LEAST, MOST = (1.5, 1.0), (0.05, 0.03), 1e4
#: Radius of the core and how fast it ends, FWHM.
CORE, GENTLE = 1.0, 0.4
#: A deviation that a first fit has found counts if it is above so many errors, where more than this fraction of one got
#: through; it may be so many times larger.
SURE, TOLD, LOOSE = 3.0, 0.1, 2.0
#: What is left of a deviation, over what was expected to be left.
BELIEVED = 0.3
#: Variance of a coefficient is not believed below this fraction of its noise.
QUIETEST = 0.1
#: What may not move is held by this times the largest diagonal of the normal matrix.
FIRMLY = 1e6
#: Variances are taken for so many times what they look like: held too loosely costs little, too tightly is a bias.
CAUTION = 2.0


def _grid(fine):
    return np.abs(np.fft.fftfreq(fine)), np.arange(fine // 2 + 1) / fine


def information_spectrum(fine: int, oversampling: int) -> np.ndarray:
    """Information of dithered data on every frequency of P, (N, N // 2 + 1); 1 everywhere at the data's sampling."""
    fy, fx = _grid(fine)
    y, x = (box_response(f, oversampling) ** 2 / oversampling for f in (fy, fx))
    return np.outer(y, x)


def first_prior(start: np.ndarray, problem: Problem, flux, usable, fwhm) -> Prior:
    """
    Draw P to its start at the frequencies that the data do not tell.

    Deviations from the start are expected to have a spectrum like the start's own, in units of the noise, so what the
    data cannot tell, as the pattern of one data pixel's period, stays as smooth as the start is. The core and what
    lies beyond are held apart: most of a deviation is where the light is, most of the noise is not.
    """
    count, fine = start.shape[0], start.shape[-1]
    s = problem.oversampling
    spectrum = information_spectrum(fine, s)
    window = _zones(fine, s, fwhm)
    strength = np.zeros((2, *spectrum.shape))
    if s > 1 or count == 1:
        whitened = np.sqrt(_information(start[0] * s**2, problem, flux, usable)) * start[0]
        ring = _rings(fine)
        power = _mean_of(np.abs(np.fft.rfft2(whitened)) ** 2, ring)[ring]
        for zone, known, least in zip((0, 1), KNOWN, LEAST, strict=True):
            area = (window[0] ** 2).sum() if zone == 0 else fine**2
            strength[zone] = 1 / np.clip(known**2 * power / area, least, MOST)
    smooth = np.zeros((count, *spectrum.shape) if count > 1 else (1, 1, 1))
    return Prior(start, spectrum, strength, window, smooth, np.zeros((count, fine, fine)))


def _zones(fine, oversampling, fwhm):
    """Roots of what belongs to the core and of what lies beyond it, (2, N, N): their squares add up to 1."""
    r = np.hypot(*np.meshgrid(*(np.arange(fine) - (fine - 1) / 2,) * 2)) / oversampling
    core = 0.5 * erfc((r / fwhm - CORE) / GENTLE)
    return np.sqrt([core, 1 - core])


def _rings(fine):
    """Give the ring that every frequency belongs to."""
    fy, fx = _grid(fine)
    return np.rint(np.hypot(fy[:, None], fx) * fine).astype(int)


def _mean_of(values, ring):
    """Mean of every ring."""
    return np.bincount(ring.ravel(), values.ravel()) / np.bincount(ring.ravel())


def _information(light, problem, flux, usable):
    """Information of all stars on every pixel of P, about: their light is that of a first guess."""
    total = np.zeros_like(light)
    for k in np.flatnonzero(usable):
        good = problem.good[k]
        background = np.median(problem.variance[k][good])
        total += good.mean() * flux[k] ** 2 / (background + flux[k] * light * problem.inverse_gain)
    return total


def released(prior: Prior, solution: Solution) -> Prior:
    """
    Let go of the start where a first fit has moved further from it than was expected.

    The mean square of what it has moved by at a frequency, less its noise, over what the prior has let through, is what
    the deviation is there. Beyond the frequencies of which stars can tell it is expected to be as much larger.
    """
    fine, ring = solution.psf.shape[-1], _rings(solution.psf.shape[-1])
    modes = np.bincount(ring.ravel())
    strength = prior.strength.copy()
    for zone in (0, 1):
        moved = prior.window[zone] * np.sqrt(solution.diagonal[0]) * (solution.psf[0] - prior.start[0])
        area = (prior.window[zone] ** 2).sum()
        power = _mean_of(np.abs(np.fft.rfft2(moved)) ** 2, ring) / area
        through = prior.spectrum / (prior.spectrum + prior.strength[zone])
        passed, noise = _mean_of(through**2, ring), _mean_of(through**2 / prior.spectrum, ring)
        error = np.sqrt(2 * fine**2 / area / modes) * noise
        told = passed > TOLD**2
        variance = np.where(told & (power - noise > SURE * error), (power - noise) / np.maximum(passed, TOLD**2), 0)
        expected = _mean_of(1 / prior.strength[zone], ring)
        larger = np.maximum(LOOSE * variance / expected, 1)
        last = np.flatnonzero(told)[-1] if told.any() else 0
        larger[last + 1 :] = larger[max(last - 2, 0) : last + 1].max()
        strength[zone] = 1 / np.minimum(larger[ring] / prior.strength[zone], MOST)
    return prior._replace(strength=strength)


def noise_factors(prior: Prior, oversampling: int, fine: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Variance of coefficients over 1 / diagonal of their normal matrix.

    Returns
    -------
    per_fine, per_pixel : (m, N, N) arrays
        Per fine pixel, and of the coefficient integrated over a data pixel.
    """
    fy, fx = _grid(fine)
    response = np.outer(box_response(fy, oversampling), box_response(fx, oversampling)) ** 2
    twice = np.where(np.arange(fine // 2 + 1) == 0, 1.0, 2.0)  # the other half of the transform
    per_fine = per_pixel = 0.0
    for strength, window in zip(prior.strength, prior.window, strict=True):
        held = prior.spectrum + strength + prior.smooth
        # What noise does, and what is left of a deviation, of which more was expected than there is.
        inverse = twice * (prior.spectrum + BELIEVED * (strength + prior.smooth)) / held**2 / fine**2
        share = window**2
        per_fine = per_fine + inverse.sum((1, 2))[:, None, None] * share
        per_pixel = per_pixel + (inverse * response).sum((1, 2))[:, None, None] * share
    return per_fine, per_pixel


def held_prior(prior: Prior, free: int, diagonal: float) -> Prior:
    """Hold all coefficients but the first ``free`` where they start, against this diagonal of the normal matrix."""
    shrink = prior.shrink.copy()
    shrink[free:] = FIRMLY * diagonal
    return prior._replace(shrink=shrink)


def learned_prior(prior: Prior, diagonal, oversampling: int, mean, rest, free: int) -> Prior:
    """
    Draw the coefficients of a field to ``mean``, as a first fit tells by ``rest``, by which it differs from it.

    The mean square of the difference at a radius or a frequency, less its noise, is the variance that it is expected to
    have there (empirical Bayes). Where it does not rise above its noise it is held near the mean, so that the corners
    of the field do not pay for polynomials that the wings do not need, nor for detail that the optics do not make. All
    but the first ``free`` coefficients are the mean.
    """
    count, fine = rest.shape[0], rest.shape[-1]
    noise = noise_factors(prior, oversampling, fine)[0] / diagonal
    r = np.hypot(*np.meshgrid(*(np.arange(fine) - (fine - 1) / 2,) * 2))
    ring = np.rint(r / oversampling).astype(int)
    fy, fx = _grid(fine)
    band = np.rint(np.hypot(fy[:, None], fx) * fine).astype(int)
    # In units of its noise at the data's sampling a coefficient has white noise of variance 1.
    whitened = np.sqrt(diagonal) * rest
    power = np.abs(np.fft.rfft2(whitened)) ** 2 / fine**2
    white = 1 / (prior.spectrum + prior.strength[1])
    shrink, smooth = np.zeros_like(rest), np.zeros((count, *band.shape))
    for m in range(1, free):
        shrink[m] = 1 / _expected(rest[m] ** 2, noise[m], ring)
        smooth[m] = 1 / _expected(power[m], white, band)
    start = np.concatenate([prior.start[:1], mean[1:]])
    learned = prior._replace(start=start, shrink=shrink, smooth=smooth)
    return held_prior(learned, free, diagonal.max())


def _expected(square, noise, ring):
    """Variance of what is below the noise in every ring, spread over its pixels."""
    pixels = np.bincount(ring.ravel())
    signal, level = (np.bincount(ring.ravel(), values.ravel()) for values in (square - noise, noise))
    # A ring by itself, or with its neighbours, whichever says more: the core must not be held by what is round it.
    wide = np.convolve(signal, np.ones(5), "same") / np.convolve(pixels, np.ones(5), "same")
    variance = np.maximum(np.maximum(CAUTION * wide, CAUTION * signal / pixels), QUIETEST * level / pixels)
    return variance[ring]
