"""Figures: one module each. Every function takes arrays, gives a matplotlib Figure, and saves it where asked.

Large images are averaged down to what a screen shows, block by block, before anything is computed. No figure
is registered with pyplot and no setting of matplotlib is changed.
"""

from galprep_dask.plotting.cutout import plot_cutout
from galprep_dask.plotting.preview import plot_preview_sky, plot_preview_sources, plot_psf_residuals
from galprep_dask.plotting.psf import plot_psf
from galprep_dask.plotting.psf_fit import plot_psf_fit
from galprep_dask.plotting.segments import plot_segments
from galprep_dask.plotting.sky import plot_sky
from galprep_dask.plotting.stamps import plot_star_stamps
from galprep_dask.plotting.stars import plot_star_cuts, plot_stellar_locus
from galprep_dask.plotting.summary import plot_truth

__all__ = [
    "plot_cutout", "plot_preview_sky", "plot_preview_sources", "plot_psf", "plot_psf_fit", "plot_psf_residuals",
    "plot_segments", "plot_sky", "plot_star_cuts", "plot_star_stamps", "plot_stellar_locus", "plot_truth",
]  # fmt: skip
