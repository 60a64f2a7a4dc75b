"""Is a PSF image one that a fit can convolve with: its sides, sum, centre, wings."""

from __future__ import annotations

import math

import numpy as np

from galprep_dask.cutouts.findings import Finding

__all__ = ["CENTRE_TOLERANCE", "SUM_TOLERANCE", "check_psf", "psf_centre", "psf_fwhm"]

#: A sum further than this from 1 is said, one further than the second figure makes every flux wrong.
SUM_TOLERANCE, _SUM_WRONG = 1e-6, 1e-3
#: A centroid further than this from the middle pixel (px) is said, one further than the second is a shift.
CENTRE_TOLERANCE, _CENTRE_WRONG = 0.005, 0.5
#: Share of the light in negative pixels that is more than noise in the wings.
_NEGATIVE = 0.01


def psf_centre(psf: np.ndarray) -> tuple[float, float]:
    """
    Centroid of the whole stamp, as an offset (dx, dy) in px from its geometric middle.

    Parameters
    ----------
    psf : (ny, nx) array
        Finite, with a positive sum.

    Returns
    -------
    dx, dy : float

    Examples
    --------
    >>> psf = np.zeros((5, 5))
    >>> psf[2, 3] = 1.0
    >>> psf_centre(psf)
    (1.0, 0.0)
    """
    psf = np.asarray(psf, dtype=np.float64)
    total = psf.sum()
    offsets = [np.arange(n) - (n - 1) / 2 for n in psf.shape]
    return float((psf.sum(axis=0) * offsets[1]).sum() / total), float((psf.sum(axis=1) * offsets[0]).sum() / total)


def psf_fwhm(psf: np.ndarray) -> float:
    """Give the FWHM in px of the area above half of the peak, as that of a circle."""
    psf = np.asarray(psf, dtype=np.float64)
    return 2 * math.sqrt(float((psf >= psf.max() / 2).sum()) / math.pi)


def check_psf(psf: np.ndarray) -> list[Finding]:
    """
    Check a PSF image.

    Parameters
    ----------
    psf : (ny, nx) array
        The PSF, at the sampling of the data. Not modified.

    Returns
    -------
    list of Finding
        One for each of: pixels, sides, sum, centre, wings, edge. Of one that is not finite, or whose sum is not
        positive, the first alone: nothing else can be said of it.

    Examples
    --------
    >>> [finding.check for finding in check_psf(np.full((4, 5), 0.05)) if finding.level != "ok"]
    ['psf sides', 'psf edge']
    """
    psf = np.asarray(psf, dtype=np.float64)
    if psf.ndim != 2 or psf.size == 0:
        return [Finding("error", "psf pixels", f"shape {psf.shape}", "Give a two-dimensional image.")]
    bad = int((~np.isfinite(psf)).sum())
    if bad:
        return [Finding("error", "psf pixels", f"{bad} pixels are not finite", "Make the PSF anew.", bad)]
    total = float(psf.sum())
    if not total > 0:
        return [Finding("error", "psf pixels", f"their sum is {total:.6g}", "Make the PSF anew.", total)]
    return [_sides(psf), _total(total), _centre(psf), _wings(psf, total), _edge(psf)]


def _sides(psf: np.ndarray) -> Finding:
    ny, nx = psf.shape
    if ny % 2 and nx % 2:
        return Finding("ok", "psf sides", f"{nx} x {ny} px")
    return Finding(
        "warning", "psf sides", f"{nx} x {ny} px: no pixel is the middle one",
        "Resample it to odd sides, centred on a pixel; codes differ in where they put the middle of an even side.",
    )  # fmt: skip


def _total(total: float) -> Finding:
    away = abs(total - 1)
    level = "ok" if away < SUM_TOLERANCE else "warning" if away < _SUM_WRONG else "error"
    advice = "" if level == "ok" else "Divide it by its sum: every flux fitted is wrong by this factor."
    return Finding(level, "psf sum", f"{total:.7g}", advice, total)


def _centre(psf: np.ndarray) -> Finding:
    dx, dy = psf_centre(psf)
    away = math.hypot(dx, dy)
    found = f"centroid {dx:+.4f}, {dy:+.4f} px (x, y) from the middle"
    level = "ok" if away < CENTRE_TOLERANCE else "warning" if away < _CENTRE_WRONG else "error"
    advice = "" if level == "ok" else "Shift it by as much: positions fitted are off by this, and bands disagree."
    return Finding(level, "psf centre", found, advice, away)


def _wings(psf: np.ndarray, total: float) -> Finding:
    negative = float(psf[psf < 0].sum()) / total
    if negative == 0:
        return Finding("ok", "psf wings", "no pixel is negative", value=0.0)
    found = f"{(psf < 0).mean():.1%} of the pixels are negative and hold {negative:.3%} of the light"
    if -negative < _NEGATIVE:
        return Finding("note", "psf wings", found, value=negative)
    advice = "The sky under its stars was too high. Subtract it anew, or cut the PSF where its wings cross zero."
    return Finding("warning", "psf wings", found, advice, negative)


def _edge(psf: np.ndarray) -> Finding:
    """Judge where the stamp ends: light that is cut off, and pixels that were never filled."""
    rim = np.concatenate([psf[0], psf[-1], psf[1:-1, 0], psf[1:-1, -1]])
    share = float(np.abs(rim).mean() / np.abs(psf).max())
    zeros = float((psf == 0).mean())
    if share > 0.01:
        advice = "Use a larger PSF image: light beyond its edge is missing from every model."
        return Finding("warning", "psf edge", f"still {share:.1%} of the peak at the edge", advice, share)
    if zeros > 0.01:
        return Finding("note", "psf edge", f"{zeros:.1%} of the pixels are exactly zero: it is cut off", "", zeros)
    return Finding("ok", "psf edge", f"{share:.2g} of the peak at the edge", "", share)
