"""The PSF: fitted to many stars at once, validated on stars that it has not seen.

Nothing here loads JAX before a PSF is fitted.
"""

from galprep_dask.psf.fit import fit_psf
from galprep_dask.psf.gridded import to_gridded, write_stdpsf
from galprep_dask.psf.model import PSFModel
from galprep_dask.psf.psfex import read_psfex, write_psfex
from galprep_dask.psf.stack import stack_psf
from galprep_dask.psf.wings import join_wings

__all__ = ["PSFModel", "fit_psf", "join_wings", "read_psfex", "stack_psf", "to_gridded", "write_psfex", "write_stdpsf"]
