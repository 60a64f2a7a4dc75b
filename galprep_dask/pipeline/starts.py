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
_BOX = ("bbox_xmin", "bbox_xmax", "bbox_ymin", "bbox_ymax")
_COLUMNS = (
    "x_centroid", "y_centroid", *_BOX, "semimajor_axis", "semiminor_axis", "orientation", "segment_flux",
)  # fmt: skip


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
    table = QTable.read(layout.sources_file(output, band))
    columns = {name: np.asarray(getattr(table[name], "value", table[name]), float) for name in _COLUMNS}
    usable = np.all([np.isfinite(columns[name]) for name in _COLUMNS], axis=0) & (columns["segment_flux"] > 0)
    columns = {name: values[usable] for name, values in columns.items()}
    placed = [n for n, cut in enumerate(cuts) if not cut.reason]
    found: list[Found | None] = [None] * len(cuts)
    if not usable.any() or not placed:
        return found
    tree = cKDTree(np.transpose([columns["x_centroid"], columns["y_centroid"]]))
    at = np.array([(cuts[n].x, cuts[n].y) for n in placed])
    apart, nearest = tree.query(at, k=min(_NEAREST, tree.n))
    apart, nearest = (values.reshape(len(placed), -1) for values in (apart, nearest))
    for n, distance, candidates in zip(placed, apart, nearest, strict=True):
        x, y = cuts[n].x, cuts[n].y
        near = {name: columns[name][candidates] for name in _BOX}
        inside = (near["bbox_xmin"] - 1 <= x) & (x <= near["bbox_xmax"] + 1)
        inside &= (near["bbox_ymin"] - 1 <= y) & (y <= near["bbox_ymax"] + 1)
        chosen = np.flatnonzero(inside | (distance <= radius))
        if len(chosen):
            row = {name: float(values[candidates[chosen[0]]]) for name, values in columns.items()}
            found[n] = _described(row, cuts[n], record)
    return found


def _described(row: dict[str, float], cut: Cut, record: dict) -> Found:
    scale, zeropoint = record["pixel_scale"], record["zeropoint"]
    psf = record["psf"].get("fwhm_pixels", 0.0) / (2 * _HALF_LIGHT)
    # What is left of the width when the PSF is taken off; of a point source next to nothing is.
    major, minor = (
        math.sqrt(max(row[name] ** 2 - psf**2, (0.25 * row[name]) ** 2))
        for name in ("semimajor_axis", "semiminor_axis")
    )
    return Found(
        row["x_centroid"] - cut.x, row["y_centroid"] - cut.y,
        None if zeropoint is None else zeropoint - 2.5 * math.log10(row["segment_flux"]),
        max(_HALF_LIGHT * major * scale, 0.1 * scale), min(max(minor / max(major, 1e-9), 0.05), 1.0),
        row["orientation"] % 180 - 90,  # up is 0 here, and along x there
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
