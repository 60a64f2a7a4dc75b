"""The PSF: fitted to many stars at once, validated on stars that it has not seen."""

from galprep_dask.psf.fit import fit_psf
from galprep_dask.psf.model import PSFModel

__all__ = ["PSFModel", "fit_psf"]
