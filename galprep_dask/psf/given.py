"""What a fit is given: stamps and their noise, checked, and the grid that they ask for."""

from __future__ import annotations

import numpy as np

from galprep_dask.arrays import is_finite, is_number, is_whole
from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError, TooFewStarsError
from galprep_dask.psf.profile import lost_to_sampling, needed_oversampling, slope_of

__all__ = ["check_numbers", "checked_stamps", "grid_for", "unusable_stamps", "variances_of"]

SOLVERS = ("newton", "lbfgs", "adam")
#: A star counts as masked when fewer good pixels than this fraction are left within CORE_FWHM of its middle.
LEAST_CORE, CORE_FWHM = 0.35, 1.0
#: So many of the brightest stars say whether the data's sampling is fine enough.
TELLING = 200


def checked_stamps(stamps, mask, x, y, oversampling, degree, solver, reserve, dtype):
    """Arrays of the stamps and of good pixels, after everything that can be wrong was looked at."""
    data = np.asarray(stamps)
    if data.ndim != 3 or data.shape[1] != data.shape[2]:
        raise ImageShapeError(f"stamps have shape {data.shape}: (k, n, n) is expected, k square stamps of one size.")
    if len(data) == 0:
        raise TooFewStarsError("there are no stamps. Select stars first.")
    if data.shape[1] % 2 == 0 or data.shape[1] < 5:
        raise ImageShapeError(
            f"stamps are {data.shape[1]} px wide: the side must be odd, at least 5, so that the PSF has a middle "
            f"pixel. Cut stamps of size={data.shape[1] + 1} or {data.shape[1] - 1}."
        )
    if data.dtype.kind not in "fiu":
        raise ParameterError(f"stamps are {data.dtype}: numbers are expected.")
    if not np.issubdtype(data.dtype, np.floating):
        data = data.astype(np.float64)
    good = np.isfinite(data)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != data.shape:
            raise ImageShapeError(f"mask has shape {mask.shape}, but the stamps have {data.shape}.")
        good &= mask == 0
    if not good.any():
        raise NoGoodPixelsError(f"every pixel of the {len(data)} stamps is masked or not finite.")
    if oversampling != "auto" and not (isinstance(oversampling, (int, np.integer)) and 1 <= oversampling <= 8):
        raise ParameterError(f"oversampling={oversampling!r}: an integer from 1 to 8, or 'auto'.")
    if degree != "auto" and not (isinstance(degree, (int, np.integer)) and 0 <= degree <= 4):
        raise ParameterError(f"degree={degree!r}: an integer from 0 to 4, or 'auto'.")
    if solver not in SOLVERS:
        raise ParameterError(f"solver={solver!r}: one of {', '.join(SOLVERS)}.")
    if not (is_number(reserve) and 0.2 <= reserve <= 0.5):
        raise ParameterError(f"reserve={reserve!r}: a fraction from 0.2 to 0.5; fewer stars would not prove anything.")
    if str(dtype) not in ("float32", "float64"):
        raise ParameterError(f"dtype={dtype!r}: 'float32' or 'float64'.")
    if degree != 0:
        for name, value in (("x", x), ("y", y)):
            if value is None:
                raise ParameterError(f"degree={degree!r} needs the positions of the stars: pass x= and y=.")
            if np.shape(value) != (len(data),) or not np.isfinite(np.asarray(value, float)).all():
                raise ImageShapeError(f"{name} must hold one finite position for each of the {len(data)} stamps.")
    most = 0
    while most < 4 and 0.8 * len(data) >= (most + 2) * (most + 3):
        most += 1
    return np.where(good, data, 0), good, most


def check_numbers(num_steps, penalties, scales):
    """Refuse penalties below 0, and scales and numbers of steps that are not above it."""
    for name, value in penalties.items():
        if not (is_finite(value) and value >= 0):
            raise ParameterError(f"{name}={value!r}: a penalty is 0 or more.")
    for name, value in scales.items():
        if not (is_finite(value) and value > 0):
            raise ParameterError(f"{name}={value!r}: it must be above 0.")
    if num_steps is not None and not (is_whole(num_steps) and num_steps >= 1):
        raise ParameterError(f"num_steps={num_steps!r}: at least 1, or None for the solver's own.")


def variances_of(data, good, sigma, sky_std, gain, sky):
    """Variance of the background of every pixel, and the good pixels that have one."""
    count = len(data)
    if sigma is not None and sky_std is not None:
        raise ParameterError("both sigma and sky_std are given: pass one of them.")
    if sigma is not None:
        sigma = np.asarray(sigma, data.dtype if data.dtype.kind == "f" else float)
        if sigma.ndim and sigma.shape != data.shape:
            raise ImageShapeError(f"sigma has shape {sigma.shape}, but the stamps have {data.shape}.")
        sigma = np.broadcast_to(sigma, data.shape)
        known = np.isfinite(sigma) & (sigma > 0)
        if not (known & good).any():
            raise ParameterError("sigma is not positive and finite at any good pixel.")
        variance = np.where(known, sigma, 1) ** 2
        if gain:
            photons = np.maximum(data - sky[:, None, None], 0) / gain
            # Beyond the star the photons are few, so the background's part is known best there.
            variance = np.maximum(variance - photons, 0.05 * variance)
            for k in range(count):
                here = good[k] & known[k]
                if here.any():
                    variance[k] = np.median(variance[k][here])
        return variance, good & known
    if sky_std is None:
        level = np.full(count, np.nan)
        for k in range(count):
            pixels = data[k][good[k]]
            if pixels.size:
                low = pixels[pixels <= np.median(pixels)]
                level[k] = 1.4826 * np.median(np.median(pixels) - low)
        # One level for all: a median over many stamps is far better known than each.
        sky_std = np.nanmedian(level)
        if not sky_std > 0:
            sky_std = max(1e-6 * float(np.abs(data).max()), 1e-30)
    sky_std = np.asarray(sky_std, float)
    if sky_std.shape not in ((), (count,)) or not (np.isfinite(sky_std) & (sky_std > 0)).all():
        raise ParameterError("sky_std must be positive and finite: one number, or one a stamp.")
    return np.broadcast_to(np.broadcast_to(sky_std, (count,))[:, None, None] ** 2, data.shape), good


def grid_for(data, good, variance, gain, sky, dx, dy, flux, fwhm, usable, oversampling, varies):
    """Fine pixels per data pixel, and the slope of the profile that P starts from."""
    kept = np.nonzero(usable)[0]
    inverse_gain, size = 1 / gain if gain else 0.0, data.shape[-1]
    light = data[kept] - sky[kept, None, None]
    slope, alike, shown = slope_of(
        light, good[kept], variance[kept], inverse_gain, flux[kept], dx[kept], dy[kept], fwhm
    )  # fmt: skip
    if oversampling != "auto":
        return int(oversampling), slope
    if shown:
        return 1, slope
    bright = kept[np.argsort(-flux[kept], kind="stable")[:TELLING]]
    background = np.median(variance[bright], axis=(1, 2))
    lost = lambda: lost_to_sampling(flux[bright], background, inverse_gain, fwhm, slope, size)  # noqa: E731
    return needed_oversampling(fwhm, lost if alike else float, varies), slope


def unusable_stamps(good, fwhm):
    """Reason for every stamp that has too few good pixels."""
    size = good.shape[-1]
    r = np.hypot(*np.meshgrid(*(np.arange(size) - (size - 1) / 2,) * 2))
    core = r <= max(CORE_FWHM * fwhm, 1.5)
    left = good[:, core].mean(1)
    return np.where(left < LEAST_CORE, "masked", "").astype("U20")
