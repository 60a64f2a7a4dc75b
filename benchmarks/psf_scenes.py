"""Simulated stars for ``bench_psf.py``, and the two measures: error against truth, chi2 of stars that were kept out."""

from typing import Any, NamedTuple

import numpy as np
from psf_peers import Stars
from simulated_stars import field_of, integrated, moffat, quadratic, stars

__all__ = ["SCENES", "Scene", "error", "predict", "scene"]

GAIN = 5.0
#: Places within a pixel at which PSFs are compared with the truth.
PLACES = [(a, b) for a in (-0.4, 0.05, 0.35) for b in (-0.3, 0.0, 0.45)]
SCENES = (
    "well sampled", "FWHM 1.8", "FWHM 1.8 of two parts", "FWHM 1.5", "varying", "neighbours", "neighbours masked",
    "masks and rays",
)  # fmt: skip


class Scene(NamedTuple):
    """Stars to fit, stars to predict with their true profiles, and where in the field errors are looked at."""

    fitted: Stars
    reserved: Stars
    profile_at: Any
    positions: dict


def scene(name: str, count: int, seed: int) -> Scene:
    """Make ``count`` stars of a scene; every fifth is reserved."""
    options = {"gain": GAIN, "seed": seed, "masks": name == "masks and rays", "rays": name == "masks and rays"}
    rng = np.random.default_rng(seed)
    degree, oversampling, size, neighbours = 0, 1, 31, "mask"
    if name == "varying":
        count, degree, fwhm, side = 2 * count, 2, 3.4, 2000.0
        profile_at = lambda x, y: quadratic(2 * x / side - 1, 2 * y / side - 1)  # noqa: E731
        data, mask, x, y, told = field_of(quadratic, count, size, side=side, gain=GAIN, seed=seed)
        variance = np.array([one["variance"][0] for one in told])
        # No program is asked for more than its stars cover: the corner is where the outermost of them is.
        kept = np.flatnonzero(np.arange(count) % 5 != 2)
        outermost = kept[np.argmax((x + y)[kept])]
        positions = {"centre": (1000.0, 1000.0), "corner": (float(x[outermost]), float(y[outermost]))}
        clean = np.array([one["flux"][0] * integrated(profile_at(a, b), one["dx"][0], one["dy"][0], size)
                          for one, a, b in zip(told, x, y, strict=True)])  # fmt: skip
    else:
        fwhm = 1.5 if "1.5" in name else 1.8 if "1.8" in name else 3.5
        oversampling = {1.5: 3, 1.8: 2}.get(fwhm, 1)
        size = 31 if oversampling == 1 else 25
        profile = moffat(fwhm, e1=0.05)
        if "two parts" in name:
            # A core and a halo of other slopes and directions than any program would start from.
            core, halo = moffat(1.7, 4.5, e1=0.08), moffat(3.5, 2.2, e1=-0.05, e2=0.1)
            profile = lambda x, y: 0.75 * core(x, y) + 0.25 * halo(x, y)  # noqa: E731
        profile_at = lambda x, y: profile  # noqa: E731
        data, mask, told = stars(profile, count, size, subpixels=9 if fwhm < 2 else 5, **options)
        x, y = rng.uniform(50, 4000, (2, count))
        variance, positions = told["variance"], {"": (1000.0, 1000.0)}
        each = zip(told["flux"], told["dx"], told["dy"], strict=True)
        clean = np.array([f * integrated(profile, a, b, size) for f, a, b in each])
    reserved = np.arange(count) % 5 == 2
    if name.startswith("neighbours"):
        neighbours = "mask" if "masked" in name else "fit"
        # Three tenths of all that are fitted; those that are predicted are alone, so that nobody pays for theirs.
        for k in np.flatnonzero(~reserved)[: round(0.3 * count)]:
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(6, 14)
            at = distance * np.cos(angle), distance * np.sin(angle)
            data[k] += rng.uniform(0.05, 0.5) * told["flux"][k] * integrated(profile, *at, size)
            if "masked" in name:
                mask[k] |= np.hypot(*(np.mgrid[:size, :size] - size // 2 - np.array(at)[::-1, None, None])) < 5
    all_stars = Stars(
        data, mask, variance, x, y, 1.0, GAIN, fwhm, oversampling=oversampling, degree=degree, neighbours=neighbours
    )
    # Cosmic rays of stars that are predicted are known from the truth: the same pixels for all.
    kept = all_stars.take(reserved)
    hit = np.abs(kept.data - clean[reserved]) > 5 * np.sqrt(kept.variance)
    return Scene(all_stars.take(~reserved), kept._replace(mask=kept.mask | hit), profile_at, positions)


def error(render, profile, size: int, x: float, y: float) -> float:
    """RMS of ``render`` against the truth at PLACES in 1e-4 of the peak, with the flux and the place that fit best."""
    peak, step = integrated(profile, 0, 0, size).max(), 0.02
    offset = np.zeros(2)
    for _ in range(3):  # the centre is whatever a program says it is, the same at all places
        found, shifts = [], []
        for dx, dy in PLACES:
            true, ax, ay = (
                integrated(profile, dx + a, dy + b, size) / (2 * step if a or b else 1)
                for a, b in ((0, 0), (step, 0), (0, step))
            )
            ax -= integrated(profile, dx - step, dy, size) / (2 * step)
            ay -= integrated(profile, dx, dy - step, size) / (2 * step)
            columns = np.stack([true.ravel(), ax.ravel(), ay.ravel()], 1)
            image = render(dx - offset[0], dy - offset[1], x, y).ravel()
            solved = np.linalg.lstsq(columns, image, rcond=None)[0]
            found.append((image - columns @ solved) / solved[0])
            shifts.append(solved[1:] / solved[0])
        offset = offset + np.mean(shifts, 0)
    return 1e4 * np.sqrt(np.mean(np.square(found))) / peak


def predict(render, stars: Stars, *, free_sky: bool = False):
    """
    Fit flux and place, and the sky where it is free, of stars to a PSF that has not seen them.

    Returns
    -------
    chi2 : (k,) array
        Reduced, with the variances that are given.
    pulls : (k, n, n) array
        Residuals over noise, NaN where masked.
    """
    chi2, pulls = [], np.full(stars.data.shape, np.nan)
    for k, (image, bad, variance) in enumerate(zip(stars.data, stars.mask, stars.variance, strict=True)):
        good, x, y = ~bad, stars.x[k], stars.y[k]
        size = image.shape[-1]
        iy, ix = np.mgrid[:size, :size] - size // 2
        core = np.where(good & (np.hypot(ix, iy) < 1.5 * stars.fwhm), np.maximum(image, 0), 0)
        at = np.array([(core * axis).sum() / core.sum() for axis in (ix, iy)])
        root, step = np.sqrt(variance[good]), 0.05
        for number in range(6):
            middle = render(*at, x, y)
            slopes = [
                (render(at[0] + a, at[1] + b, x, y) - render(at[0] - a, at[1] - b, x, y)) / (2 * step)
                for a, b in ((step, 0), (0, step))
            ]
            columns = [middle, *slopes, *([np.ones_like(middle)] if free_sky else [])]
            matrix = np.stack([column[good] / root for column in columns], 1)
            solved = np.linalg.lstsq(matrix, image[good] / root, rcond=None)[0]
            move = np.clip(solved[1:3] / solved[0], -0.5, 0.5)
            if number == 5 or np.abs(move).max() < 2e-3:
                break
            at = at + move
        pulls[k][good] = image[good] / root - matrix @ solved
        chi2.append(np.nansum(pulls[k] ** 2) / (good.sum() - matrix.shape[1]))
    return np.array(chi2), pulls
