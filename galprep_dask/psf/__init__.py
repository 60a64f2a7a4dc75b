"""The PSF: the stars that it is made of, chosen and cut out, and the model that is fitted to them.

Parts are loaded on first use: choosing stars needs none of what fitting does, and JAX is loaded when a PSF is fitted.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galprep_dask.psf.fit import fit_psf
    from galprep_dask.psf.gridded import to_gridded, write_stdpsf
    from galprep_dask.psf.model import PSFModel
    from galprep_dask.psf.psfex import read_psfex, write_psfex
    from galprep_dask.psf.residuals import StarResiduals, star_residuals
    from galprep_dask.psf.select import select_stars
    from galprep_dask.psf.stack import stack_psf
    from galprep_dask.psf.stamps import star_stamps
    from galprep_dask.psf.wings import join_wings

_HOMES = {
    "PSFModel": "model",
    "StarResiduals": "residuals",
    "fit_psf": "fit",
    "join_wings": "wings",
    "read_psfex": "psfex",
    "select_stars": "select",
    "stack_psf": "stack",
    "star_residuals": "residuals",
    "star_stamps": "stamps",
    "to_gridded": "gridded",
    "write_psfex": "psfex",
    "write_stdpsf": "gridded",
}

__all__ = [
    "PSFModel", "StarResiduals", "fit_psf", "join_wings", "read_psfex", "select_stars", "stack_psf", "star_residuals",
    "star_stamps", "to_gridded", "write_psfex", "write_stdpsf",
]  # fmt: skip


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"galprep_dask.psf.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
