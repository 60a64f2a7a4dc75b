"""Stars of known PSF: pixel-integrated by summing fine subpixels, with noise, masks and cosmic rays."""

import numpy as np

__all__ = ["cramer_rao", "field_of", "integrated", "moffat", "quadratic", "stars"]


def moffat(fwhm, beta=3.0, e1=0.0, e2=0.0):
    """A sheared Moffat profile of total 1 as a function of (x, y) in px."""
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)

    def profile(x, y):
        u, v = (1 - e1 / 2) * x - e2 / 2 * y, (1 + e1 / 2) * y - e2 / 2 * x
        r2 = (u * u + v * v) / alpha**2
        norm = (1 - (e1**2 + e2**2) / 4) * (beta - 1) / (np.pi * alpha**2)
        return norm * (1 + r2) ** -beta

    return profile


def integrated(profile, dx, dy, size, subpixels=9):
    """A star of flux 1 at (dx, dy) from the middle of ``size`` x ``size`` pixels, integrated over them.

    Gauss-Legendre points in every pixel.
    """
    nodes, weights = np.polynomial.legendre.leggauss(subpixels)
    axis = (np.arange(size) - (size - 1) / 2)[:, None] + nodes / 2
    x, y = axis.ravel() - dx, axis.ravel() - dy
    fine = profile(x[None, :], y[:, None]).reshape(size, subpixels, size, subpixels)
    return np.einsum("iajb,a,b->ij", fine, weights / 2, weights / 2)


def stars(
    profile, count, size, *, snr=(30, 1500), sky_std=1.0, gain=None, seed=0, masks=True, rays=True, sky_scatter=0.0,
    spread=0.5, subpixels=5, noise=True,
):  # fmt: skip
    """Stamps, mask, and the truth as a dict."""
    rng = np.random.default_rng(seed)
    middle = integrated(profile, 0, 0, size, subpixels)
    ratio = np.exp(rng.uniform(*np.log(snr), count)) if np.ndim(snr) else np.full(count, float(snr))
    # S/N of the flux with the profile known; photons of the star count with a gain.
    flux = ratio * sky_std / np.sqrt((middle**2).sum())
    if gain:
        for _ in range(30):
            variance = sky_std**2 + flux[:, None, None] * middle / gain
            flux = ratio / np.sqrt((middle**2 / variance).sum((1, 2)))
    dx, dy = rng.uniform(-spread, spread, (2, count))
    sky = sky_scatter * rng.standard_normal(count)
    light = np.array([f * integrated(profile, a, b, size, subpixels) for f, a, b in zip(flux, dx, dy, strict=True)])
    variance = sky_std**2 + (light / gain if gain else 0)
    data = light + sky[:, None, None] + (np.sqrt(variance) * rng.standard_normal(light.shape) if noise else 0)
    mask = np.zeros(data.shape, bool)
    if masks:
        for k in range(count):
            if rng.random() < 0.3:
                y, x = rng.integers(0, size, 2)
                mask[k, max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = True
        data[mask] += 1000.0
    if rays:
        for k in range(count):
            for _ in range(rng.poisson(2)):
                y, x = rng.integers(0, size, 2)
                data[k, y, x : x + rng.integers(1, 5)] += rng.uniform(20, 200) * sky_std
    return data, mask, {"flux": flux, "dx": dx, "dy": dy, "sky": sky, "psf": middle, "variance": variance}


def cramer_rao(truth, mask, *, of_sum_one=False):
    """
    RMS over pixels of the bound on P: the curvature of the fit is close to diagonal at the data's sampling.

    ``of_sum_one`` is the bound on P divided by its sum, which carries the noise of all pixels into the core.
    """
    bound = 1 / (truth["flux"][:, None, None] ** 2 * ~mask / truth["variance"]).sum(0)
    if of_sum_one:
        psf = truth["psf"] / truth["psf"].sum()
        bound = bound * (1 - 2 * psf) + psf**2 * bound.sum()
    return np.sqrt(np.mean(bound))


def field_of(profile_at, count, size, *, side=2000.0, snr=(30, 1500), gain=5.0, seed=0, subpixels=5):
    """Stars of a PSF that varies: ``profile_at(u, v)`` gives the profile at u, v in [-1, 1]."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side, (2, count))
    data, truth = np.empty((count, size, size)), []
    mask = np.zeros(data.shape, bool)
    for k in range(count):
        one, _, told = stars(
            profile_at(2 * x[k] / side - 1, 2 * y[k] / side - 1), 1, size, snr=snr, gain=gain, seed=[seed, k],
            masks=False, rays=False, subpixels=subpixels,
        )  # fmt: skip
        data[k] = one[0]
        truth.append(told)
    return data, mask, x, y, truth


def quadratic(u, v):
    """A Moffat profile whose width and shape go with the square of the distance from the middle of the field."""
    return moffat(3.4 * (1 + 0.08 * (u * u + v * v)), 3.0, e1=0.06 * u * u - 0.04 * v, e2=0.08 * u * v)
