"""Catalogue and image brought together: which stars are in the image, and where."""

from __future__ import annotations

import numpy as np
from astropy import units as u
from astropy.table import QTable

from galprep_dask.gaia.epoch import positions_at
from galprep_dask.gaia.footprint import Footprint

__all__ = ["seen_in"]


def seen_in(stars: QTable, footprint: Footprint, epoch: float) -> QTable:
    """
    Give the stars that are in an image at its epoch, and their positions there.

    Parameters
    ----------
    stars : QTable
        From :func:`read_gaia_table`.
    footprint : Footprint
        Of the image.
    epoch : float
        Julian year.

    Returns
    -------
    QTable
        With ``ra_obs``, ``dec_obs`` (deg) and ``x``, ``y`` (0-based pixels), ordered by ``source_id`` where there is
        one, and ``meta["epoch"]``.
    """
    ra, dec = positions_at(
        stars["ra"].value, stars["dec"].value, epoch, ref_epoch=stars["ref_epoch"].value, pmra=stars["pmra"].value,
        pmdec=stars["pmdec"].value, parallax=stars["parallax"].value,
    )  # fmt: skip
    x, y = footprint.to_pixels(ra, dec)
    inside = footprint.contains(x, y)
    seen = stars[inside]
    seen["ra_obs"], seen["dec_obs"] = ra[inside] * u.deg, dec[inside] * u.deg
    seen["x"], seen["y"] = x[inside], y[inside]
    seen.meta = {"epoch": epoch}
    return seen[np.argsort(seen["source_id"], kind="stable")] if "source_id" in seen.colnames else seen
