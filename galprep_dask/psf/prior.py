"""What is known of P before the stars are seen: needed when it is finer than the data, or varies over the field."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.prior import Prior
from galprep_dask.psf._kernels.render import box_response
from galprep_dask.psf.solve import Problem, Solution

__all__ = ["TIMES", "first_prior", "held_prior", "information_spectrum", "learned_prior", "noise_factors"]

#: Information of the prior at a frequency where the start has all its light, as a fraction of that of the data.
WEAKEST = 1e-5
#: An oversampled P is fitted so many times, each time drawn to where the one before has got.
TIMES = 3
#: Least transfer of the start that is believed.
FAINTEST = 2e-3
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


def first_prior(start: np.ndarray, problem: Problem) -> Prior:
    """
    Draw an oversampled P to its start at the frequencies that pixels blur away.

    Deviations from the start are expected to have a spectrum like the start's own, so what the data cannot tell, as
    the pattern of one data pixel's period, stays as smooth as the start is.
    """
    count, fine = start.shape[0], start.shape[-1]
    spectrum = information_spectrum(fine, problem.oversampling)
    strength = np.zeros_like(spectrum)
    if problem.oversampling > 1:
        transfer = np.abs(np.fft.rfft2(start[0])) / start[0].sum()
        strength = WEAKEST * problem.oversampling**2 / np.maximum(transfer, FAINTEST) ** 2
    smooth = np.zeros((count, *spectrum.shape) if count > 1 else (1, 1, 1))
    return Prior(start, spectrum, strength, smooth, np.zeros((count, fine, fine)))


def noise_factors(prior: Prior, oversampling: int, fine: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Variance of coefficients over 1 / diagonal of their normal matrix.

    Returns
    -------
    per_fine, per_pixel : (m,) arrays
        Per fine pixel, and of the coefficient integrated over a data pixel.
    """
    fy, fx = _grid(fine)
    response = np.outer(box_response(fy, oversampling), box_response(fx, oversampling)) ** 2
    twice = np.where(np.arange(fine // 2 + 1) == 0, 1.0, 2.0)  # the other half of the transform
    held = prior.spectrum + prior.strength + prior.smooth
    # Every further fit lets through more of the signal, and of the noise; what is never told is as uncertain as before.
    through = 1 - (1 - prior.spectrum / held) ** (TIMES if oversampling > 1 else 1)
    inverse = twice * np.maximum(through**2 / np.maximum(prior.spectrum, 1e-12), 1 / held) / fine**2
    per_fine, per_pixel = inverse.sum((1, 2)), (inverse * response).sum((1, 2))
    return per_fine, per_pixel


def held_prior(prior: Prior, free: int, diagonal: float) -> Prior:
    """Hold all coefficients but the first ``free`` where they start, against this diagonal of the normal matrix."""
    shrink = prior.shrink.copy()
    shrink[free:] = FIRMLY * diagonal
    return prior._replace(shrink=shrink)


def learned_prior(prior: Prior, solution: Solution, oversampling: int, mean: np.ndarray, free: int) -> Prior:
    """
    Learn from a first fit how far every coefficient of the field is from ``mean``, and draw it there accordingly.

    The mean square of the difference at a radius or a frequency, less its noise, is the variance that it is expected to
    have there (empirical Bayes). Where it does not rise above its noise it is held near the mean, so that the corners
    of the field do not pay for polynomials that the wings do not need, nor for detail that the optics do not make. All
    but the first ``free`` coefficients are the mean.
    """
    count, fine = solution.psf.shape[0], solution.psf.shape[-1]
    noise = noise_factors(prior, oversampling, fine)[0][:, None, None] / solution.diagonal
    r = np.hypot(*np.meshgrid(*(np.arange(fine) - (fine - 1) / 2,) * 2))
    ring = np.rint(r / oversampling).astype(int)
    fy, fx = _grid(fine)
    band = np.rint(np.hypot(fy[:, None], fx) * fine).astype(int)
    # In units of its noise at the data's sampling a coefficient has white noise of variance 1.
    rest = solution.psf - mean
    whitened = np.sqrt(solution.diagonal) * rest
    power = np.abs(np.fft.rfft2(whitened)) ** 2 / fine**2
    white = 1 / (prior.spectrum + prior.strength)
    shrink, smooth = np.zeros_like(solution.psf), np.zeros((count, *band.shape))
    for m in range(1, free):
        shrink[m] = 1 / _expected(rest[m] ** 2, noise[m], ring)
        smooth[m] = 1 / _expected(power[m], white, band)
    start = np.concatenate([prior.start[:1], mean[1:]])
    learned = prior._replace(start=start, shrink=shrink, smooth=smooth)
    return held_prior(learned, free, solution.diagonal.max())


def _expected(square, noise, ring):
    """Variance of what is below the noise in every ring, spread over its pixels."""
    pixels = np.bincount(ring.ravel())
    signal, level = (np.bincount(ring.ravel(), values.ravel()) for values in (square - noise, noise))
    # A ring by itself, or with its neighbours, whichever says more: the core must not be held by what is round it.
    wide = np.convolve(signal, np.ones(5), "same") / np.convolve(pixels, np.ones(5), "same")
    variance = np.maximum(np.maximum(CAUTION * wide, CAUTION * signal / pixels), QUIETEST * level / pixels)
    return variance[ring]
