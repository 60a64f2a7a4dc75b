"""The cuts by size and shape: the stellar locus of the sources that are left, and who is not on it."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.shapes import TO_FWHM
from galprep_dask.psf.cuts import Verdicts
from galprep_dask.psf.locus import FEATURES, Locus, find_locus, galaxy_share

__all__ = ["cut_fwhm", "paired", "stellar_locus"]

#: Standard deviations at which ellipticity, concentration or centroid of a star tell of a companion.
_PAIR = 3.5
#: Stars, the brightest, whose profiles say how wide a star is at half of its peak.
_PROFILES = 200


def stellar_locus(measured: dict, rows: np.ndarray, shape, fwhm_median: float | None) -> tuple[Locus | None, float]:
    """
    Find the stellar locus.

    Parameters
    ----------
    measured : dict of (n,) arrays
        From :func:`galprep_dask.psf.measure.measure_sources`.
    rows : (m,) int array
        Sources that it is looked for among; those with bad pixels in the core are passed over.
    shape : (int, int)
        Of the image.
    fwhm_median : float or None
        FWHM in pixels, where it is known.

    Returns
    -------
    Locus or None
        None where there is no source.
    scale : float
        How much wider at half of the peak a star's profile is than a Gaussian of its width.
    """
    measured = {name: values[rows] for name, values in measured.items()}
    features = {name: np.log(measured["width"]) if name == "log_width" else measured[name] for name in FEATURES}
    good = np.all([np.isfinite(values) for values in features.values()], axis=0) & (measured["n_bad_core"] == 0)
    if fwhm_median is not None:
        good &= np.abs(features["log_width"] - np.log(fwhm_median / TO_FWHM)) < 0.3
    features = {name: values[good] for name, values in features.items()}
    x, y, snr = (measured[name][good] for name in ("x", "y", "snr"))
    locus = find_locus(x, y, snr, features, shape)
    if locus is None:
        return None, 1.0
    ratio = (measured["profile_fwhm"] / (TO_FWHM * measured["width"]))[good]
    on = np.isfinite(ratio) & (np.abs(locus.deviation("log_width", features["log_width"], x, y, snr)) < 3)
    best = np.flatnonzero(on)[np.argsort(-snr[on], kind="stable")[:_PROFILES]]
    return locus, float(np.median(ratio[best])) if len(best) else 1.0


def cut_fwhm(measured, fwhms, verdicts: Verdicts, locus: Locus | None, median, n_sigma: float, share: float) -> None:
    """
    Leave out the sources that do not have the FWHM of stars.

    Parameters
    ----------
    measured : dict of (n,) arrays
        Of all sources.
    fwhms : (n,) array
        Their FWHM in pixels.
    verdicts : Verdicts
        What is noted there.
    locus : Locus or None
        Where stars lie.
    median : float or None
        Middle of the accepted range, in place of the locus.
    n_sigma : float
        Half of the range, in standard deviations.
    share : float
        How likely a source on the locus may be a galaxy.
    """
    verdicts.drop(~np.isfinite(fwhms), "FWHM: not measured")
    left = verdicts.left
    if median is not None:
        spread = 1.4826 * np.median(np.abs(fwhms[left] - np.median(fwhms[left])))
        deviation = (fwhms[left] - median) / max(spread, 1e-3 * median)
    elif locus is None:  # all have bad cores, and are left out for that
        return
    else:
        x, y, snr, width = (measured[name][left] for name in ("x", "y", "snr", "width"))
        deviation = locus.deviation("log_width", np.log(width), x, y, snr)
        doubtful = (galaxy_share(deviation, snr) > share) & (deviation <= n_sigma)
        verdicts.drop(left[doubtful], "FWHM: doubtful")
    verdicts.drop(left[deviation < -n_sigma], "FWHM: too small")
    verdicts.drop(left[deviation > n_sigma], "FWHM: too large")


def paired(measured: dict, rows: np.ndarray, locus: Locus | None) -> np.ndarray:
    """Give those of some sources that differ in shape from the stars around them, as pairs do."""
    if locus is None:
        return rows[:0]
    measured = {name: values[rows] for name, values in measured.items()}
    where = measured["x"], measured["y"], measured["snr"]
    z = {name: locus.deviation(name, measured[name], *where) for name in FEATURES if name != "log_width"}
    return rows[
        (np.hypot(z["e1"], z["e2"]) > _PAIR) | (np.hypot(z["offset_x"], z["offset_y"]) > _PAIR)
        | (np.abs(z["concentration"]) > _PAIR)
    ]  # fmt: skip
