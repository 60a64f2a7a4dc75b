"""Gaia: the stars in an image at its epoch, from a table on disk or from the archive.

Nothing is contacted when this is imported, nor when a table is given.
"""

from galprep_dask.gaia.cache import cache_folder
from galprep_dask.gaia.epoch import image_epoch
from galprep_dask.gaia.footprint import Footprint, make_footprint
from galprep_dask.gaia.match import match_pixels, match_sky
from galprep_dask.gaia.point_sources import extended_because
from galprep_dask.gaia.query import query_gaia
from galprep_dask.gaia.sources import gaia_sources
from galprep_dask.gaia.table import read_gaia_table

__all__ = [
    "Footprint",
    "cache_folder",
    "extended_because",
    "gaia_sources",
    "image_epoch",
    "make_footprint",
    "match_pixels",
    "match_sky",
    "query_gaia",
    "read_gaia_table",
]
