"""The PSF: fitted to many stars at once, validated on stars that it has not seen.

Nothing here loads JAX before a PSF is fitted.
"""

from galprep_dask.psf.fit import fit_psf
from galprep_dask.psf.gridded import to_gridded, write_stdpsf
from galprep_dask.psf.model import PSFModel
from galprep_dask.psf.psfex import read_psfex, write_psfex

__all__ = ["PSFModel", "fit_psf", "read_psfex", "to_gridded", "write_psfex", "write_stdpsf"]
