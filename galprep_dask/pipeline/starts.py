"""Where fits start: what the catalogue of a band says about a target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import QTable
from scipy.spatial import cKDTree

from galprep_dask.pipeline import layout
from galprep_dask.pipeline.cutouts import Cut

__all__ = ["Found", "find_in_catalog", "guess"]

#: Half-light radius over the standard deviation of a Gaussian.
_HALF_LIGHT = math.sqrt(2 * math.log(2))
#: Sources near a target that are looked at.
_NEAREST = 12


@dataclass(frozen=True)
class Found:
    """
    A target as its band's catalogue has it.

    Parameters
    ----------
    dx, dy : float
        Centroid minus target in pixels.
    mag : float or None
        Of the segment; None where there is no zero point.
    r_eff : float
        Half-light radius along the major axis in arcsec, the PSF's width taken off.
    axis_ratio : float
        Minor over major axis, likewise.
    position_angle : float
        In degrees, up = 0, left = 90.
    in_catalog : bool
        False where there is no source, so that all of this is a guess.
    """

    dx: float
    dy: float
    mag: float | None
    r_eff: float
    axis_ratio: float
    position_angle: float
    in_catalog: bool = True


def find_in_catalog(output: Path, band: str, record: dict, cuts: list[Cut], radius: float) -> list[Found | None]:
    """
    Find the targets among the sources of a band.

    Parameters
    ----------
    output : Path
        Folder of the run.
    band : str
        Name of the band.
    record : dict
        Its record.
    cuts : list of Cut
        With the positions of the targets in the image.
    radius : float
        In pixels: how far a source may be where the target lies in no source's box.

    Returns
    -------
    list of Found or None
        The source with the nearest centroid of those in whose box the target lies; else the nearest within ``radius``.
    """
    catalog = QTable.read(layout.sources_file(output, band))
    x, y = (np.asarray(catalog[name], float) for name in ("x_centroid", "y_centroid"))
    usable = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & (np.asarray(catalog["segment_flux"]) > 0))
    if not len(usable):
        return [None] * len(cuts)
    boxes = np.transpose([catalog[f"bbox_{side}"][usable] for side in ("xmin", "xmax", "ymin", "ymax")])
    tree = cKDTree(np.transpose([x[usable], y[usable]]))
    at = np.array([[cut.x, cut.y] if math.isfinite(cut.x + cut.y) else [0.0, 0.0] for cut in cuts])
    distance, nearest = tree.query(at, k=min(_NEAREST, len(usable)))
    distance, nearest = (values.reshape(len(cuts), -1) for values in (distance, nearest))
    found: list[Found | None] = []
    for cut, apart, candidates in zip(cuts, distance, nearest, strict=True):
        left, right, bottom, top = boxes[candidates].T
        inside = (left - 1 <= cut.x) & (cut.x <= right + 1) & (bottom - 1 <= cut.y) & (cut.y <= top + 1)
        chosen = np.flatnonzero(inside | (apart <= radius))
        if cut.reason or not len(chosen):
            found.append(None)
            continue
        found.append(_described(catalog[usable[candidates[chosen[0]]]], cut, record))
    return found


def _described(row, cut: Cut, record: dict) -> Found:
    scale, zeropoint = record["pixel_scale"], record["zeropoint"]
    major, minor = (float(getattr(row[name], "value", row[name])) for name in ("semimajor_axis", "semiminor_axis"))
    psf = record["psf"].get("fwhm_pixels", 0.0) / (2 * _HALF_LIGHT)
    # What is left of the width when the PSF is taken off; of a point source next to nothing is.
    major, minor = (math.sqrt(max(axis**2 - psf**2, (0.25 * axis) ** 2)) for axis in (major, minor))
    angle = float(getattr(row["orientation"], "value", row["orientation"])) - 90.0
    flux = float(row["segment_flux"])
    return Found(
        float(row["x_centroid"]) - cut.x, float(row["y_centroid"]) - cut.y,
        None if zeropoint is None else zeropoint - 2.5 * math.log10(flux),
        max(_HALF_LIGHT * major * scale, 0.1 * scale), min(max(minor / major, 0.05), 1.0),
        (angle + 90) % 180 - 90,
    )  # fmt: skip


def guess(record: dict, like: Found | None = None) -> Found:
    """
    Give a start for a target that is not in the catalogue of a band.

    Parameters
    ----------
    record : dict
        The record of the band.
    like : Found, optional
        The target in another band, whose shape is taken.

    Returns
    -------
    Found
        At the position of the target, as bright as would just be seen: five times the noise under the PSF.
    """
    scale, zeropoint = record["pixel_scale"], record["zeropoint"]
    fwhm = record["psf"].get("fwhm_pixels", 3.0)
    flux = 5 * record["sky"]["std"] * math.sqrt(math.pi) * fwhm
    mag = None if zeropoint is None or not flux > 0 else zeropoint - 2.5 * math.log10(flux)
    if like is None:
        return Found(0.0, 0.0, mag, fwhm * scale, 0.7, 0.0, in_catalog=False)
    return Found(0.0, 0.0, mag, like.r_eff, like.axis_ratio, like.position_angle, in_catalog=False)
