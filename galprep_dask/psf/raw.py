"""The raw catalogue of point sources: every source of the segmentation, or those at given coordinates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from astropy.table import QTable

from galprep_dask.errors import NoStarsError, ParameterError
from galprep_dask.psf._kernels.shapes import TO_FWHM
from galprep_dask.psf.locus import find_mode
from galprep_dask.psf.match import nearest_source
from galprep_dask.segmentation import source_catalog

__all__ = ["Raw", "guess_width", "only_at", "raw_sources"]

_COLUMNS = [
    "label", "x_centroid", "y_centroid", "segment_flux", "max_value", "area", "max_value_xindex", "max_value_yindex",
]  # fmt: skip
_NEEDED = _COLUMNS[:5]


class Raw(NamedTuple):
    """Sources, an entry of each array for one; label 0 where there is none."""

    label: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    peak: np.ndarray
    snr: np.ndarray  # of the segment; inf where the noise is not known
    at: np.ndarray  # (n, 2) int: row and column of the brightest pixel


def raw_sources(data, segmentation, catalog: QTable | None, *, mask, sigma, sky_std: float | None) -> Raw:
    """
    Take the sources of a catalogue, which is made where there is none.

    Parameters
    ----------
    data, segmentation, mask, sigma : arrays
        As for :func:`galprep_dask.psf.select_stars`.
    catalog : QTable or None
        From :func:`galprep_dask.segmentation.source_catalog`.
    sky_std : float or None
        Noise of the sky, where ``sigma`` is None.

    Returns
    -------
    Raw
    """
    if catalog is None:
        columns = _COLUMNS if sigma is None else [*_COLUMNS, "segment_flux_err"]
        catalog = source_catalog(data, segmentation, mask=mask, error=sigma, columns=columns)
    missing = [name for name in _NEEDED if name not in catalog.colnames]
    if missing:
        raise ParameterError(f"catalog has no {', '.join(missing)}; expected what source_catalog gives.")
    label, x, y, flux, peak = (_plain(catalog[name]) for name in _NEEDED)
    with np.errstate(divide="ignore", invalid="ignore"):
        if "segment_flux_err" in catalog.colnames and sigma is not None:
            snr = flux / _plain(catalog["segment_flux_err"])
        elif "area" in catalog.colnames and sky_std is not None:
            snr = flux / (sky_std * np.sqrt(_plain(catalog["area"])))
        else:
            snr = np.full(len(label), np.inf)
    if "max_value_xindex" in catalog.colnames:
        at = np.column_stack([_plain(catalog["max_value_yindex"]), _plain(catalog["max_value_xindex"])])
    else:
        at = np.round(np.column_stack([y, x]))
    if len(label) == 0:
        raise NoStarsError("the segmentation has no sources, so that none of them is a star. Detect deeper.")
    ny, nx = np.shape(segmentation.data)
    at = np.clip(np.nan_to_num(at), 0, (ny - 1, nx - 1)).astype(np.int64)
    return Raw(label.astype(np.int64), x, y, flux, peak, snr, at)


def _plain(column) -> np.ndarray:
    return np.asarray(getattr(column, "value", column))


def only_at(raw: Raw, x: np.ndarray, y: np.ndarray, radius: float) -> Raw:
    """
    Take the sources at given positions, in their order; label 0 and NaN stand for one that is not there.

    Parameters
    ----------
    raw : Raw
        All sources.
    x, y : (m,) arrays
        Positions in pixels.
    radius : float
        How far off a source may be.

    Returns
    -------
    Raw
    """
    row = nearest_source(x, y, raw.x, raw.y, radius)
    chosen = Raw(*(values[row] for values in raw))
    lost = row < 0
    chosen.label[lost] = 0
    for values, instead in ((chosen.x, x), (chosen.y, y), (chosen.flux, np.nan), (chosen.peak, np.nan)):
        values[lost] = instead[lost] if np.ndim(instead) else instead
    chosen.snr[lost] = np.nan
    return chosen


def guess_width(raw: Raw, min_snr: float) -> float:
    """
    Guess the standard deviation of stars in pixels from the light of segments and their brightest pixels.

    Parameters
    ----------
    raw : Raw
        Sources.
    min_snr : float
        Fainter ones tell nothing, if there are others.

    Returns
    -------
    float
        From 0.4 pixels.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        size = 0.5 * np.log(raw.flux / (2 * np.pi * raw.peak))  # a Gaussian's light is 2 pi s^2 times its peak
    good = np.isfinite(size) & (raw.peak > 0)
    bright = good & (raw.snr >= min_snr)
    used = bright if bright.any() else good
    if not used.any():
        return 4.0 / TO_FWHM
    # Chunks change the last digits of the light; the windows shall be the same.
    return max(float(f"{np.exp(find_mode(size[used], raw.snr[used])):.3g}"), 0.4)
