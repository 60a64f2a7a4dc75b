"""Cutouts around targets, and the file that a galaxy-fitting code reads."""

from galprep_dask.cutouts.batch import cutout_many
from galprep_dask.cutouts.cutout import cut_header, cutout
from galprep_dask.cutouts.product import write_product
from galprep_dask.cutouts.stamps import extract_stamps, stamp_origins

__all__ = ["cut_header", "cutout", "cutout_many", "extract_stamps", "stamp_origins", "write_product"]
