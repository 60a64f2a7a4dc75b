"""The sky: source masks to fit it on, and the models that are fitted.

Every model has ``.evaluate(shape, chunks)``, which gives the sky lazily, ``.rms``, the scatter of source-free
pixels about it, and ``.to_header()``, which writes it down.
"""

from galprep_dask.sky.compare import SkyComparison, compare_sky_models
from galprep_dask.sky.constant import ConstantSky, fit_mean_sky, fit_median_sky
from galprep_dask.sky.header import record_sky
from galprep_dask.sky.iterate import fit_sky_between_sources
from galprep_dask.sky.mesh import MeshSky, fit_mesh_sky
from galprep_dask.sky.piecewise import PiecewiseSky, fit_piecewise_sky
from galprep_dask.sky.polynomial import PolynomialSky, fit_polynomial_sky
from galprep_dask.sky.source_mask import source_mask
from galprep_dask.sky.subtract import subtract_sky

__all__ = [
    "ConstantSky",
    "MeshSky",
    "PiecewiseSky",
    "PolynomialSky",
    "SkyComparison",
    "compare_sky_models",
    "fit_mean_sky",
    "fit_median_sky",
    "fit_mesh_sky",
    "fit_piecewise_sky",
    "fit_polynomial_sky",
    "fit_sky_between_sources",
    "record_sky",
    "source_mask",
    "subtract_sky",
]
