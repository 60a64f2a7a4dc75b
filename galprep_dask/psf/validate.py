"""Reserved stars: who is kept out, how well they are predicted, and what a plain stack would have done."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.moments import adaptive_moments

__all__ = ["folds_of", "predicted", "summarised"]

#: Below this number of stars every star is reserved once, in turn.
FEW = 25
#: Pixels further off than so many sigmas, or this fraction of the star, are replaced before moments are taken.
CLIP, WRONG = 5.0, 0.05
#: Relative change of their size at which moments have settled.
SETTLED = 1e-5


def folds_of(snr, alive, reserve: float, seed: int) -> tuple[np.ndarray, int]:
    """
    Deal the stars out to folds, each with the same share of bright and faint ones.

    Parameters
    ----------
    snr : (k,) array
        Signal-to-noise ratios.
    alive : (k,) bool array
        Stars that may be fitted; the others get fold -1.
    reserve : float
        Fraction that a fold holds at least.
    seed : int

    Returns
    -------
    fold : (k,) int array
    n_used : int
        How many of the folds are reserved in turn: one, all when the stars are few, none for a single star.
    """
    fold = np.full(len(snr), -1)
    index = np.nonzero(alive)[0]
    index = index[np.argsort(-snr[index], kind="stable")]
    count = int(np.clip(np.floor(1 / reserve + 1e-9), 2, max(len(index), 2)))
    rng = np.random.default_rng(seed)
    for first in range(0, len(index), count):
        # The last block may be short; fold 0 has its share all the same.
        block = index[first : first + count]
        fold[block] = rng.permutation(len(block))
    if len(index) < 2:
        return fold, 0
    return fold, count if len(index) < FEW else 1


def predicted(data, good, variance, solution, models) -> dict:
    """
    Compare stars with what a PSF that has not seen them says they are.

    Parameters
    ----------
    data, good, variance : (r, n, n) arrays
        Reserved stars, pixels that count, variances of the background.
    solution : Solution
        Their flux, position and sky under that PSF.
    models : (r, n, n) array
        What they look like under it, of flux 1.

    Returns
    -------
    dict of (r,) arrays
        reduced_chi2, size, e1, e2: the last three observed less predicted, size as a fraction.
    """
    flux, sky = solution.flux[:, None, None], solution.sky[:, None, None]
    light = (data - sky) / flux
    noise = np.sqrt(variance + (flux * WRONG * models) ** 2) / np.abs(flux)
    light = np.where(good & (np.abs(light - models) < CLIP * noise), light, models)
    centre = np.stack([solution.dx, solution.dy], 1)
    expected = adaptive_moments(models, sigma=2.0, centre=centre, tolerance=SETTLED)
    width = np.sqrt(np.nan_to_num(expected.size, nan=8.0) / 2)
    observed = adaptive_moments(light, sigma=width, centre=centre, tolerance=SETTLED)
    freedom = np.maximum(solution.n_good - 4, 1)
    return {
        "reduced_chi2": solution.chi2 / freedom,
        "size": (observed.size - expected.size) / expected.size,
        "e1": observed.e1 - expected.e1,
        "e2": observed.e2 - expected.e2,
    }


def summarised(found: dict, snr, prefix: str = "") -> dict:
    """Median reduced chi2 and weighted means of the residuals, with their errors."""
    out = {}
    if len(snr):
        out[f"{prefix}reduced_chi2"] = float(np.median(found["reduced_chi2"]))
    else:
        out[f"{prefix}reduced_chi2"] = float("nan")
    weight = np.minimum(snr, 300.0) ** 2  # beyond, stars differ by more than their noise
    for name in ("size", "e1", "e2"):
        values, usable = found[name], np.isfinite(found[name])
        w = np.where(usable, weight, 0.0)
        if not w.sum() > 0:
            out[f"{prefix}{name}_residual"] = out[f"{prefix}{name}_error"] = float("nan")
            continue
        mean = float((w * np.where(usable, values, 0)).sum() / w.sum())
        spread = float((w**2 * np.where(usable, values - mean, 0) ** 2).sum())
        out[f"{prefix}{name}_residual"], out[f"{prefix}{name}_error"] = mean, np.sqrt(spread) / w.sum()
    return out
