"""Statistics of whole images, whatever their chunks."""

from galprep_dask.stats.clipped import sigma_clipped_stats

__all__ = ["sigma_clipped_stats"]
