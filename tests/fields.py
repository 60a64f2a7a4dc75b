"""Small fields with known truth."""

import numpy as np
from astropy.io import fits
from numpy.polynomial.chebyshev import chebval2d
from scipy.signal import fftconvolve
from scipy.special import gamma, gammaincinv

__all__ = ["de_vaucouleurs_field", "gaussian", "polynomial_sky", "tan_header", "two_galaxies"]

SCALE = 0.5  # arcsec per pixel


def tan_header(shape=(200, 240), *, rotation=0.0, scale=SCALE, **keywords):
    """A TAN header with its reference at the middle pixel, ``rotation`` degrees turned."""
    ny, nx = shape
    angle, step = np.radians(rotation), scale / 3600
    header = fits.Header()
    header.update(
        NAXIS=2, NAXIS1=nx, NAXIS2=ny, CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.0, CRVAL2=2.0,
        CRPIX1=(nx + 1) / 2, CRPIX2=(ny + 1) / 2, CUNIT1="deg", CUNIT2="deg",
        CD1_1=-step * np.cos(angle), CD1_2=step * np.sin(angle), CD2_1=step * np.sin(angle), CD2_2=step * np.cos(angle),
    )  # fmt: skip
    header.update(keywords)
    return header


def gaussian(shape, x, y, flux, sigma_x, sigma_y=None, angle=0.0):
    """A Gaussian of ``flux`` at 0-based (x, y), turned by ``angle`` radians."""
    sigma_y = sigma_x if sigma_y is None else sigma_y
    iy, ix = np.mgrid[: shape[0], : shape[1]]
    along = (ix - x) * np.cos(angle) + (iy - y) * np.sin(angle)
    across = (iy - y) * np.cos(angle) - (ix - x) * np.sin(angle)
    profile = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return flux * profile / (2 * np.pi * sigma_x * sigma_y)


def two_galaxies(shape=(200, 240), *, separation=30, noise=1.0, seed=0, sky=0.0):
    """A target in the middle, a neighbour ``separation`` pixels to its right, noise, and a sky."""
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    image = np.random.default_rng(seed).normal(sky, noise, shape)
    image += gaussian(shape, x, y, 20000, 4.0) + gaussian(shape, x + separation, y, 15000, 3.0)
    return image.astype("f4"), (x, y), (x + separation, y)


def sersic(shape, x, y, flux, r_eff, n, axis_ratio, angle):
    """A Sersic profile of total ``flux``, without an end, sampled at pixel centres."""
    b = gammaincinv(2 * n, 0.5)
    iy, ix = np.mgrid[: shape[0], : shape[1]]
    along = (ix - x) * np.cos(angle) + (iy - y) * np.sin(angle)
    across = (iy - y) * np.cos(angle) - (ix - x) * np.sin(angle)
    radius = np.maximum(np.hypot(along, across / axis_ratio), 0.3)
    total = 2 * np.pi * n * r_eff**2 * b ** (-2 * n) * gamma(2 * n) * axis_ratio
    return flux / total * np.exp(-b * (radius / r_eff) ** (1 / n))


def de_vaucouleurs_field(shape=(1024, 1024), *, n_galaxies=40, n_stars=40, fwhm=3.0, seed=0):
    """Light of n = 4 galaxies and of stars with Moffat wings, no noise; the noise to be added is 1."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    light = np.zeros(shape)
    for flux, r_eff in zip(10 ** rng.uniform(2.3, 4, n_galaxies), rng.uniform(2, 8, n_galaxies), strict=True):
        x, y = rng.uniform(0, nx), rng.uniform(0, ny)
        light += sersic(shape, x, y, flux, r_eff, 4, rng.uniform(0.4, 1), rng.uniform(0, np.pi))
    beta, half = 3.5, 12
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    iy, ix = np.mgrid[-half : half + 1, -half : half + 1]
    psf = (1 + (ix**2 + iy**2) / alpha**2) ** -beta
    light = fftconvolve(light, psf / psf.sum(), mode="same")
    iy, ix = np.mgrid[:ny, :nx]
    for flux in 10 ** rng.uniform(2.5, 5, n_stars):
        distance2 = (ix - rng.uniform(0, nx)) ** 2 + (iy - rng.uniform(0, ny)) ** 2
        light += flux * (beta - 1) / (np.pi * alpha**2) * (1 + distance2 / alpha**2) ** -beta
    return np.maximum(light, 0)


def polynomial_sky(shape, order, *, amplitude=20.0, level=100.0, seed=0):
    """A polynomial of total degree ``order``."""
    rng = np.random.default_rng(seed)
    v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    i, j = np.indices((order + 1, order + 1))
    coefficients = np.where(i + j <= order, rng.normal(0, amplitude / (1.0 + i + j) ** 1.5), 0)
    coefficients[0, 0] = level
    return chebval2d(v, u, coefficients)
