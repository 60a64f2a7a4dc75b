"""Cutouts around targets, the file that a galaxy-fitting code reads, and checks of such files."""

from galprep_dask.cutouts.batch import cutout_many
from galprep_dask.cutouts.cutout import cut_header, cutout
from galprep_dask.cutouts.product import read_product, write_product
from galprep_dask.cutouts.psf_checks import check_psf
from galprep_dask.cutouts.stamps import extract_stamps, stamp_origins
from galprep_dask.cutouts.validate import validate_files

__all__ = [
    "check_psf", "cut_header", "cutout", "cutout_many", "extract_stamps", "read_product", "stamp_origins",
    "validate_files", "write_product",
]  # fmt: skip
