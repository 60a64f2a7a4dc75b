"""Gaia's stars in an image, as the selection of stars asks for them."""

from __future__ import annotations

from astropy.table import QTable

from galprep_dask.gaia.epoch import image_epoch
from galprep_dask.gaia.sources import gaia_sources

__all__ = ["stars_in_image"]

#: Seconds within which the archive has to be connected to by who could do without it.
_REACH = 3.0


def stars_in_image(header, shape, *, image=None, catalog: str | None = None, crossmatch: bool | str = True) -> QTable:
    """
    Give the places of Gaia's stars in an image at the time it was taken.

    Parameters
    ----------
    header : Header
        With the WCS.
    shape : (ny, nx)
        Of the image in pixels.
    image : Dataset, Header or None
        What says when it was taken; a Dataset knows its file's primary header, too. By default ``header``.
    catalog : str, optional
        File with Gaia's sources, in place of a query.
    crossmatch : bool or "auto"
        With "auto" a network that is not there is not waited for.

    Returns
    -------
    QTable
        Columns ``x`` and ``y``, 0-based pixels.

    Examples
    --------
    >>> from functools import partial
    >>> gaia = partial(stars_in_image, catalog="gaia.parquet")  # what select_stars(gaia=) calls with header and shape
    """
    query = {"reach_within": _REACH} if catalog is None and crossmatch == "auto" else {}
    epoch = image_epoch(header) if image is None else image_epoch(image, header)
    return gaia_sources(header, shape, epoch, catalog=catalog, **query)["x", "y"]
