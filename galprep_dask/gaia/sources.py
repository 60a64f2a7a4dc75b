"""The stars of Gaia in an image, from a table or from the archive."""

from __future__ import annotations

import logging
import os
import warnings

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.time import Time
from astropy.wcs import WCS

from galprep_dask.errors import NoMatchWarning, ParameterError
from galprep_dask.gaia.epoch import julian_year, motion_deg
from galprep_dask.gaia.footprint import make_footprint
from galprep_dask.gaia.observed import seen_in
from galprep_dask.gaia.point_sources import extended_because
from galprep_dask.gaia.query import query_gaia
from galprep_dask.gaia.table import read_gaia_table

__all__ = ["gaia_sources"]

_log = logging.getLogger("galprep_dask.gaia")

#: The earliest and the latest epoch that positions of Gaia are given for.
_EPOCHS = (2000.0, 2016.0)


def gaia_sources(
    wcs: WCS | fits.Header | str, shape: tuple[int, int], epoch: Time | float | str, *,
    catalog: str | os.PathLike | Table | None = None, ref_epoch: float | None = None, margin_arcsec: float = 0.0,
    max_ruwe: float | None = 1.4, max_excess_noise: float | None = 2.0, max_galaxy_probability: float | None = 0.5,
    max_quasar_probability: float | None = 0.5, keep_extended: bool = False, **query,
) -> QTable:  # fmt: skip
    """
    Give the stars of Gaia in an image, where they were when it was taken.

    Parameters
    ----------
    wcs : WCS, Header or str
        Where the image lies: an astropy WCS, or a FITS header.
    shape : (int, int)
        ``(ny, nx)``.
    epoch : Time, float or str
        When it was taken, see :func:`image_epoch`.
    catalog : str, path or Table, optional
        A Gaia table, see :func:`read_gaia_table`; nothing is contacted then. By default the Gaia archive is asked.
    ref_epoch : float, optional
        Julian year of the positions of ``catalog``, where it does not say.
    margin_arcsec : float
        How far outside the image a star still belongs to it.
    max_ruwe, max_excess_noise, max_galaxy_probability, max_quasar_probability : float, optional
        What is no single star, see :func:`extended_because`.
    keep_extended : bool
        Whether to keep those too.
    **query
        Further arguments of :func:`query_gaia`, when the archive is asked.

    Returns
    -------
    QTable
        As of :func:`query_gaia`, with a column ``extended`` that says why a source is no single star, ``""`` for stars.
        ``meta["counts"]`` has the number of sources in the image (``"in_image"``), how many each cut took, and how many
        are ``"stars"``.

    Raises
    ------
    GaiaUnavailableError
        There is neither a network nor a table.
    CatalogNotFoundError, CatalogError
        The table is not there, or no Gaia table.
    GaiaQueryError, GaiaRowLimitError
        As of :func:`query_gaia`.
    MissingWCSError, ParameterError
        There is no celestial WCS; a parameter makes no sense.

    Warns
    -----
    NoMatchWarning
        No source lies in the image.

    Examples
    --------
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [0.0, 30.0], [50.5, 50.5]
    >>> wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    >>> table = Table({"source_id": [1, 2], "ra": [0.0, 9.0], "dec": [30.0, 30.0], "ruwe": [1.0, 1.0]})
    >>> stars = gaia_sources(wcs, (100, 100), 2017.87, catalog=table)
    >>> [round(float(value), 1) for value in (stars["x"][0], stars["y"][0])], stars.meta["counts"]["stars"]
    ([49.5, 49.5], 1)
    """
    year = julian_year(epoch)
    limits = {
        "max_ruwe": max_ruwe, "max_excess_noise": max_excess_noise, "max_galaxy_probability": max_galaxy_probability,
        "max_quasar_probability": max_quasar_probability,
    }  # fmt: skip
    extended_because(QTable({"ra": []}), **limits)  # what makes no sense is said before anything is asked or read
    if catalog is None:
        if ref_epoch is not None:
            raise ParameterError("ref_epoch= is for a table; pass gaia_catalog= with it.")
        sources = query_gaia(wcs, shape, epoch=year, margin_arcsec=margin_arcsec, **query)
    else:
        if query:
            raise ParameterError(f"{', '.join(query)} are for the archive; with gaia_catalog= nothing is asked.")
        motion = motion_deg(year, *([ref_epoch] if ref_epoch else _EPOCHS))
        footprint = make_footprint(wcs, shape, margin_arcsec=margin_arcsec, motion_deg=motion)
        sources = seen_in(read_gaia_table(catalog, footprint=footprint, ref_epoch=ref_epoch), footprint, year)

    sources["extended"] = extended_because(sources, **limits)
    names, numbers = np.unique(sources["extended"][sources["extended"] != ""], return_counts=True)
    cuts = dict(zip(names.tolist(), numbers.tolist(), strict=True))
    counts = {"in_image": len(sources), **cuts, "stars": int((sources["extended"] == "").sum())}
    _log.info("Gaia: %s", ", ".join(f"{name} {number}" for name, number in counts.items()))
    if not counts["in_image"]:
        hull = make_footprint(wcs, shape).hull()
        warnings.warn(
            f"{'the Gaia archive' if catalog is None else 'the Gaia table'} has no source in the image, ra "
            f"{hull[0].ra_min:.4f} to {hull[-1].ra_max:.4f}, dec {hull[0].dec_min:.4f} to {hull[0].dec_max:.4f}. Check "
            "the WCS, and that the coordinates are degrees.",
            NoMatchWarning, stacklevel=2,
        )  # fmt: skip
    if not keep_extended:
        sources = sources[sources["extended"] == ""]
    sources.meta["counts"] = counts
    return sources
