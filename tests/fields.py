"""Small fields with known truth."""

import numpy as np
from astropy.io import fits

__all__ = ["gaussian", "tan_header", "two_galaxies"]

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
