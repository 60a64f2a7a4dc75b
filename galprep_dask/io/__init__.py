"""Reading and writing: FITS of every kind, Zarr, and arrays that are in memory already."""

from galprep_dask.io.fits_writer import write_image
from galprep_dask.io.open import open_image

__all__ = ["open_image", "write_image"]
