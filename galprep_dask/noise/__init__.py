"""Sigma images: the 1-sigma uncertainty of every pixel, and how it compares with the noise that is there."""

from galprep_dask.noise.calibration import SigmaCheck, calibrate_sigma, check_sigma, measure_sky_std
from galprep_dask.noise.correlation import correlation_factor
from galprep_dask.noise.gain import effective_gain
from galprep_dask.noise.sigma import sigma_image, sky_exposure, unusable_pixels
from galprep_dask.noise.with_sigma import with_sigma, write_with_sigma

__all__ = [
    "SigmaCheck",
    "calibrate_sigma",
    "check_sigma",
    "correlation_factor",
    "effective_gain",
    "measure_sky_std",
    "sigma_image",
    "sky_exposure",
    "unusable_pixels",
    "with_sigma",
    "write_with_sigma",
]
