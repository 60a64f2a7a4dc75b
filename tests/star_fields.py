"""Fields of stars, binaries and many more galaxies, of known truth, rendered quickly as sums of Gaussians."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from scipy.special import gammaincinv

from galprep_dask.segmentation import detect_sources, smooth
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["StarField", "detected", "field_of_density", "score", "simulate_stars"]

#: Pixels respond like a Gaussian of the variance of a square; stars and galaxies are sampled alike.
PIXEL_VARIANCE = 1 / 12


class StarField(NamedTuple):
    """An image with unit noise and what is in it."""

    image: np.ndarray
    sources: np.ndarray  # x, y, flux, snr, kind
    fwhm: float  # of the PSF in the middle of the field, pixels as they respond, px
    saturate: float


STAR, BINARY, GALAXY = range(3)
SOURCE = np.dtype([("x", "f8"), ("y", "f8"), ("flux", "f8"), ("snr", "f8"), ("kind", "i4"), ("saturated", "?")])


def _mixture(radii, light, widths):
    """Non-negative amplitudes of 2-D Gaussians that make up a profile; each pixel of radius weighs as its area."""
    weight = np.sqrt(radii * np.gradient(radii)) / (light + 1e-4 * light.max()) ** 0.5
    gaussians = np.exp(-0.5 * (radii[:, None] / widths) ** 2) / (2 * np.pi * widths**2)
    return nnls(gaussians * weight[:, None], light * weight)[0]


@lru_cache
def moffat_mixture(beta):
    """Amplitudes (sum 1) and widths in units of the FWHM."""
    radii = np.linspace(1e-3, 5, 3000)
    alpha = 1 / (2 * math.sqrt(2 ** (1 / beta) - 1))
    light = (beta - 1) / (math.pi * alpha**2) * (1 + (radii / alpha) ** 2) ** -beta
    widths = np.geomspace(0.25, 2.5, 8)
    amplitudes = _mixture(radii, light, widths)
    used = amplitudes > 1e-5
    return amplitudes[used] / amplitudes[used].sum(), widths[used]


@lru_cache
def sersic_mixture(n):
    """Amplitudes (sum 1) and widths in units of the half-light radius."""
    radii = np.geomspace(1e-3, 10, 3000)
    light = np.exp(-gammaincinv(2 * n, 0.5) * radii ** (1 / n))
    widths = np.geomspace(0.02, 5, 14)
    amplitudes = _mixture(radii, light, widths)
    used = amplitudes > 1e-4 * amplitudes.sum()
    return amplitudes[used] / amplitudes[used].sum(), widths[used]


def field_of_density(area, seed, *, fwhm=None, n_stars=400, **kwargs):
    """A field with a source in every ``area`` FWHM^2; seeds 0 to 19 go through FWHM of 2 to 6 pixels."""
    fwhm = 2 + 4 * (7 * seed % 20) / 19 if fwhm is None else fwhm
    side = math.ceil(math.sqrt(21 * n_stars * area) * fwhm)
    return simulate_stars((side, side), n_stars, seed=seed, fwhm=fwhm, **kwargs)


def detected(image, n_sigma=5.0):
    """Sources above 5 sigma of the image smoothed by 3 pixels, whatever the PSF is; not deblended."""
    smoothed = smooth(image, 3.0)
    _, median, std = sigma_clipped_stats(smoothed)
    return detect_sources(smoothed, median + n_sigma * std, measure=image)


def score(field, stars):
    """
    Purity of a selection, and its completeness among single stars of S/N > 50 that are not cut off.

    A star that was chosen is the brightest source within a FWHM of its position.
    """
    truth, used = field.sources, stars[stars["used"]]
    tree = cKDTree(np.column_stack([truth["x"], truth["y"]]))
    near = tree.query_ball_point(np.column_stack([used["x"], used["y"]]), field.fwhm)
    found = np.array([rows[np.argmax(truth["snr"][rows])] if rows else -1 for rows in near])
    good = (found >= 0) & (truth["kind"][found] == STAR) & ~truth["saturated"][found]
    wanted = (truth["kind"] == STAR) & (truth["snr"] > 50) & ~truth["saturated"]
    return good.mean(), np.isin(np.flatnonzero(wanted), found[good]).mean()


def simulate_stars(
    shape, n_stars, *, seed, fwhm, galaxies_per_star=20, binaries=0.05, gradient=0.0, beta=3.5, saturation=0.97,
    galaxy_radius=0.6, spread=0.5,
):  # fmt: skip
    """
    Stars, 5 % of them binaries, and galaxies, over noise of 1 a pixel.

    Stars have S/N (under the PSF as weight) from 5 to 20000, numbers falling as S/N^-0.4 (0.16 dex a magnitude),
    galaxies from 5 to 1500 as S/N^-0.9 (0.36 dex a magnitude). Galaxies: Sersic n 1 (60 %), 1.5, 2.5, 4; half-light
    radii log-normal about 0.6 FWHM with 0.5 in the log, growing as flux^0.15; axis ratios 0.2 to 1. Binaries have
    separations of 0.4 to 2 FWHM and flux ratios of 0.2 to 1. The PSF is a Moffat of 4 % ellipticity, and ``gradient``
    lets its width grow that much from the middle to the right and upper edges, and twice that with the square of the
    radius. The brightest 3 % of the stars are cut off at one level.
    """
    rng = np.random.default_rng(seed)
    ny, nx = shape
    n_galaxies = int(galaxies_per_star * n_stars)
    is_binary = rng.uniform(size=n_stars) < binaries
    sources = np.zeros(n_stars + n_galaxies, SOURCE)
    sources["x"], sources["y"] = rng.uniform(0, nx, len(sources)), rng.uniform(0, ny, len(sources))
    sources["kind"] = GALAXY
    sources["kind"][:n_stars] = np.where(is_binary, BINARY, STAR)
    sources["snr"][:n_stars] = _falling(rng, n_stars, 0.4, 5, 20000)
    sources["snr"][n_stars:] = _falling(rng, n_galaxies, 0.9, 5, 1500)

    amplitudes, widths = moffat_mixture(beta)
    scale = fwhm * _growth(sources["x"] / nx * 2 - 1, sources["y"] / ny * 2 - 1, gradient)
    cov = scale[:, None] ** 2 * widths**2
    effective = 1 / np.sum(amplitudes * amplitudes[:, None] / (
        2 * np.pi * (widths**2 + widths[:, None] ** 2) * fwhm**2 + 4 * np.pi * PIXEL_VARIANCE))
    sources["flux"] = sources["snr"] * math.sqrt(effective)

    image = np.zeros(shape)
    e = 0.04
    for k in range(n_stars):
        parts = [(0.0, 0.0, 1.0)]
        if is_binary[k]:
            ratio, apart, angle = rng.uniform(0.2, 1), rng.uniform(0.4, 2) * scale[k], rng.uniform(0, 2 * np.pi)
            first = 1 / (1 + ratio)
            parts = [(0, 0, first), (apart * np.cos(angle), apart * np.sin(angle), 1 - first)]
        for dx, dy, share in parts:
            xx, yy = cov[k] * (1 + e) + PIXEL_VARIANCE, cov[k] * (1 - e) + PIXEL_VARIANCE
            _render(image, sources["x"][k] + dx, sources["y"][k] + dy, share * sources["flux"][k] * amplitudes,
                    xx, np.zeros_like(xx), yy, 0.02)  # fmt: skip
    level = np.quantile(sources["flux"][:n_stars], saturation) * np.sum(
        amplitudes / (2 * np.pi * (widths**2 * fwhm**2 + PIXEL_VARIANCE)))
    middle = [np.clip(np.round(sources[name]).astype(int), 1, n - 2) for name, n in (("y", ny), ("x", nx))]
    peaks = np.max([image[middle[0] + i, middle[1] + j] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
    sources["saturated"] = peaks > level

    indices = rng.choice([1.0, 1.5, 2.5, 4.0], n_galaxies, p=[0.6, 0.15, 0.15, 0.1])
    radii = fwhm * galaxy_radius * rng.lognormal(0, spread, n_galaxies) * (sources["snr"][n_stars:] / 30) ** 0.15
    ratios, angles = rng.uniform(0.2, 1, n_galaxies), rng.uniform(0, np.pi, n_galaxies)
    for g in range(n_galaxies):
        k = n_stars + g
        own, own_widths = sersic_mixture(float(indices[g]))
        a2, c, s = (own_widths * radii[g]) ** 2, np.cos(angles[g]), np.sin(angles[g])
        # The half-light radius is that of the circle with the ellipse's area.
        along, across = a2 / ratios[g], a2 * ratios[g]
        xx, yy, xy = along * c * c + across * s * s, along * s * s + across * c * c, (along - across) * c * s
        total = (sources["flux"][k] * own[:, None] * amplitudes).ravel()
        _render(image, sources["x"][k], sources["y"][k], total,
                (xx[:, None] + cov[k] * (1 + e) + PIXEL_VARIANCE).ravel(), np.repeat(xy, len(amplitudes)),
                (yy[:, None] + cov[k] * (1 - e) + PIXEL_VARIANCE).ravel(), 0.02)  # fmt: skip
    image += rng.normal(size=shape)
    np.minimum(image, level, out=image)
    return StarField(image.astype("f4"), sources, fwhm, float(level))


def _growth(u, v, gradient):
    return 1 + gradient * (u + v) / 2 + gradient * (u * u + v * v) / 2


def _falling(rng, n, slope, low, high):
    """Numbers above S/N falling as S/N^-slope, between two bounds."""
    share = rng.uniform(0, 1 - (high / low) ** -slope, n)
    return low * (1 - share) ** (-1 / slope)


@njit(nogil=True, cache=True)
def _render(image, x, y, flux, xx, xy, yy, faint):
    """Add elliptical Gaussians, each out to where it falls below ``faint``."""
    ny, nx = image.shape
    for k in range(len(flux)):
        det = xx[k] * yy[k] - xy[k] * xy[k]
        peak = flux[k] / (2 * math.pi * math.sqrt(det))
        if peak <= faint:
            continue
        cut = 2 * math.log(peak / faint)
        half_y, half_x = math.sqrt(cut * yy[k]), math.sqrt(cut * xx[k])
        a, b, c = yy[k] / det, -xy[k] / det, xx[k] / det
        for i in range(max(0, math.ceil(y - half_y)), min(ny, int(y + half_y) + 1)):
            for j in range(max(0, math.ceil(x - half_x)), min(nx, int(x + half_x) + 1)):
                dy, dx = i - y, j - x
                d = a * dx * dx + 2 * b * dx * dy + c * dy * dy
                if d < cut:
                    image[i, j] += peak * math.exp(-0.5 * d)
