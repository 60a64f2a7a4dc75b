"""What is known of P before the stars are seen: needed when it is finer than the data, or varies over the field."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.prior import Prior
from galprep_dask.psf._kernels.render import box_response
from galprep_dask.psf.solve import Problem, Solution

__all__ = ["TIMES", "first_prior", "information_spectrum", "learned_prior", "noise_factors"]

#: Information of the prior at a frequency where the start has all its light, as a fraction of that of the data.
WEAKEST = 1e-5
#: An oversampled P is fitted so many times, each time drawn to where the one before has got.
TIMES = 3
SURE, LOOSE, MOVE, TOLD = 3.0, 2.0, False, 0.1
ALWAYS, KNOWN, FLOOR = False, 1.0, 1e-5
#: Least transfer of the start that is believed.
FAINTEST = 2e-3
#: Variance of a coefficient is not believed below this fraction of its noise.
QUIETEST = 0.1
#: Variances are taken for so many times what they look like: held too loosely costs little, too tightly is a bias.
CAUTION = 8.0


def _grid(fine):
    return np.abs(np.fft.fftfreq(fine)), np.arange(fine // 2 + 1) / fine


def information_spectrum(fine: int, oversampling: int) -> np.ndarray:
    """Information of dithered data on every frequency of P, (N, N // 2 + 1); 1 everywhere at the data's sampling."""
    fy, fx = _grid(fine)
    y, x = (box_response(f, oversampling) ** 2 / oversampling for f in (fy, fx))
    return np.outer(y, x)


def first_prior(start: np.ndarray, problem: Problem, flux, usable) -> Prior:
    """
    Draw P to its start at the frequencies that the data do not tell.

    Deviations from the start are expected to have a spectrum like the start's own, so what the data cannot tell, as
    the pattern of one data pixel's period, stays as smooth as the start is.
    """
    count, fine = start.shape[0], start.shape[-1]
    s = problem.oversampling
    spectrum = information_spectrum(fine, s)
    strength = np.zeros_like(spectrum)
    if s > 1 or ALWAYS:
        share = problem.good.mean((1, 2))
        light = np.maximum(start[0], 0) * s**2
        background = np.array([np.median(v[g]) if g.any() else 1.0 for v, g in zip(problem.variance, problem.good)])
        information = np.zeros_like(light)
        for f, b, w in zip(flux[usable], background[usable], share[usable]):
            information += w * f**2 / (b + f * light * problem.inverse_gain)
        expected = np.abs(np.fft.rfft2(np.sqrt(information) * start[0])) ** 2 / fine**2
        fy, fx = _grid(fine)
        band = np.rint(np.hypot(fy[:, None], fx) * fine).astype(int)
        pixels = np.bincount(band.ravel())
        expected = (np.bincount(band.ravel(), expected.ravel()) / pixels)[band]
        expected = np.maximum(expected, FLOOR)
        strength = 1 / (KNOWN**2 * expected)
    smooth = np.zeros((count, *spectrum.shape) if count > 1 else (1, 1, 1))
    return Prior(start, spectrum, strength, smooth, np.zeros((count, fine, fine)))


def released(prior, solution):
    """Let go of the start where the first fit has moved further from it than it was expected to."""
    fine = solution.psf.shape[-1]
    moved = np.sqrt(solution.diagonal[0]) * (solution.psf[0] - prior.start[0])
    power = np.abs(np.fft.rfft2(moved)) ** 2 / fine**2
    through = prior.spectrum / (prior.spectrum + prior.strength)
    fy, fx = _grid(fine)
    band = np.rint(np.hypot(fy[:, None], fx) * fine).astype(int)
    count = np.bincount(band.ravel())
    mean = lambda values: np.bincount(band.ravel(), values.ravel()) / count
    noise = 1 / prior.spectrum
    t2 = mean(through**2 )
    variance = (mean(power) - mean(through**2 * noise)) / np.maximum(t2, 1e-12)
    error = np.sqrt(2 / count) * mean(through**2 * noise) / np.maximum(t2, 1e-12)
    variance = np.where((variance > SURE * error) & (t2 > TOLD**2), variance, 0)
    # between neighbours
    expected = np.maximum(1 / prior.strength, LOOSE * variance[band])
    new = prior._replace(strength=1 / expected)
    return new._replace(start=solution.psf.copy()) if MOVE else new


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
    through = 1 - (1 - prior.spectrum / held) ** (TIMES if MOVE else 1)
    inverse = twice * np.maximum(through**2 / np.maximum(prior.spectrum, 1e-12), 1 / held) / fine**2
    per_fine, per_pixel = inverse.sum((1, 2)), (inverse * response).sum((1, 2))
    return per_fine, per_pixel


def learned_prior(prior: Prior, solution: Solution, oversampling: int) -> Prior:
    """
    Learn from a first fit how much every coefficient of the field varies, and shrink it accordingly.

    The mean square of a coefficient at a radius or a frequency, less its noise, is the variance it is expected to have
    there (empirical Bayes). Where it does not rise above its noise it is held near zero, so that the corners of the
    field do not pay for polynomials that the wings do not need, nor for detail that the optics do not make.
    """
    count, fine = solution.psf.shape[0], solution.psf.shape[-1]
    noise = noise_factors(prior, oversampling, fine)[0][:, None, None] / solution.diagonal
    r = np.hypot(*np.meshgrid(*(np.arange(fine) - (fine - 1) / 2,) * 2))
    ring = np.rint(r / oversampling).astype(int)
    fy, fx = _grid(fine)
    band = np.rint(np.hypot(fy[:, None], fx) * fine).astype(int)
    # In units of its noise at the data's sampling a coefficient has white noise of variance 1.
    whitened = np.sqrt(solution.diagonal) * solution.psf
    power = np.abs(np.fft.rfft2(whitened)) ** 2 / fine**2
    white = 1 / (prior.spectrum + prior.strength)
    shrink, smooth = np.zeros_like(solution.psf), np.zeros((count, *band.shape))
    for m in range(1, count):
        shrink[m] = 1 / _expected(solution.psf[m] ** 2, noise[m], ring)
        smooth[m] = 1 / _expected(power[m], white, band)
    return prior._replace(shrink=shrink, smooth=smooth)


def _expected(square, noise, ring):
    """Variance of what is below the noise in every ring, spread over its pixels."""
    pixels = np.bincount(ring.ravel())
    signal, level = (np.bincount(ring.ravel(), values.ravel()) for values in (square - noise, noise))
    # A ring by itself, or with its neighbours, whichever says more: the core must not be held by what is round it.
    wide = np.convolve(signal, np.ones(5), "same") / np.convolve(pixels, np.ones(5), "same")
    variance = np.maximum(np.maximum(CAUTION * wide, CAUTION * signal / pixels), QUIETEST * level / pixels)
    return variance[ring]
