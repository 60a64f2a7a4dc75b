"""Sigma images: the 1-sigma uncertainty of every pixel."""

from galprep_dask.noise.sigma import sigma_image

__all__ = ["sigma_image"]
