"""``ds.galprep``: an image's coordinates, and the operations of all rooms as methods.

The methods forward to the functions of the rooms, with the planes and the metadata of the image filled in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.table import QTable, Table
    from astropy.wcs import WCS

    from galprep_dask.segmentation import Segmentation

__all__ = ["GalprepAccessor"]


@xr.register_dataset_accessor("galprep")
class GalprepAccessor:
    """
    Coordinates and operations of an image Dataset.

    Parameters
    ----------
    image : Dataset
        From :func:`galprep_dask.open_image`.

    Examples
    --------
    >>> import numpy as np, galprep_dask
    >>> image = galprep_dask.open_image(np.random.default_rng(0).normal(100, 1, (200, 300)))
    >>> sky = image.galprep.fit_polynomial_sky(order=1)
    >>> round(float(image.galprep.subtract_sky(sky)["data"].mean()), 2) + 0.0
    0.0
    """

    def __init__(self, image: xr.Dataset):
        self._image = image

    # What the image is ------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._image.sizes["y"], self._image.sizes["x"]

    @property
    def header(self) -> fits.Header:
        """The FITS header, a copy."""
        from galprep_dask.image import image_header

        return image_header(self._image)

    @property
    def wcs(self) -> WCS:
        """The celestial WCS, built anew at every call: WCS objects are not safe to share between threads."""
        from galprep_dask.image import celestial_wcs, describe

        return celestial_wcs(self.header, where=describe(self._image))

    @property
    def pixel_scale(self) -> float:
        """Side of a pixel in arcsec."""
        from galprep_dask.image import describe, pixel_scale

        return pixel_scale(self.header, where=describe(self._image))

    @property
    def bad_pixels(self) -> xr.DataArray:
        """The mask and every pixel that is not finite, lazily."""
        from galprep_dask.image import bad_pixels

        mask = None if self._mask is None else self._mask.data
        return xr.DataArray(bad_pixels(self._image["data"].data, mask), dims=self._image["data"].dims)

    @property
    def _mask(self) -> xr.DataArray | None:
        return self._image.get("mask")

    # Statistics and sky -----------------------------------------------------------------------------------

    def sigma_clipped_stats(self, mask=None, **kwargs) -> tuple[float, float, float]:
        """Clipped mean, median and std; see :func:`galprep_dask.stats.sigma_clipped_stats`."""
        from galprep_dask.stats import sigma_clipped_stats

        return sigma_clipped_stats(self._image["data"], self._or_own(mask), **kwargs)

    def source_mask(self, *, fwhm: float, **kwargs) -> xr.DataArray:
        """Mask sources and bad pixels; see :func:`galprep_dask.sky.source_mask`."""
        from galprep_dask.sky import source_mask

        return source_mask(self._image["data"], self._mask, fwhm=fwhm, **kwargs)

    def fit_polynomial_sky(self, order: int = 3, *, mask=None, **kwargs):
        """Fit a polynomial sky; see :func:`galprep_dask.sky.fit_polynomial_sky`."""
        from galprep_dask.sky import fit_polynomial_sky

        return fit_polynomial_sky(self._image["data"], self._or_own(mask), order, **kwargs)

    def fit_median_sky(self, *, mask=None, **kwargs):
        """Take the clipped median for the sky; see :func:`galprep_dask.sky.fit_median_sky`."""
        from galprep_dask.sky import fit_median_sky

        return fit_median_sky(self._image["data"], self._or_own(mask), **kwargs)

    def fit_mesh_sky(self, *, box_size: int | tuple[int, int], mask=None, **kwargs):
        """Take the sky from the statistics of boxes; see :func:`galprep_dask.sky.fit_mesh_sky`."""
        from galprep_dask.sky import fit_mesh_sky

        return fit_mesh_sky(self._image["data"], self._or_own(mask), box_size=box_size, **kwargs)

    def compare_sky_models(self, models=None, *, mask=None, **kwargs):
        """Say which sky model to take; see :func:`galprep_dask.sky.compare_sky_models`."""
        from galprep_dask.sky import compare_sky_models

        return compare_sky_models(self._image["data"], self._or_own(mask), models, **kwargs)

    def fit_piecewise_sky(self, *, mask=None, **kwargs):
        """Fit polynomial pieces with smooth joins; see :func:`galprep_dask.sky.fit_piecewise_sky`."""
        from galprep_dask.sky import fit_piecewise_sky

        return fit_piecewise_sky(self._image["data"], self._or_own(mask), **kwargs)

    def subtract_sky(self, sky) -> xr.Dataset:
        """
        Give the image minus a sky model, lazily, with the model in its header.

        Parameters
        ----------
        sky : PolynomialSky, MeshSky, ConstantSky
            What a fit gave.

        Returns
        -------
        Dataset
            Of the dtype of the image. A second subtraction replaces the keywords of the first, which HISTORY keeps.
        """
        from galprep_dask.image import with_header
        from galprep_dask.sky import record_sky, subtract_sky

        data = self._image["data"]
        subtracted = subtract_sky(data.data, sky)
        return with_header(self._image.assign(data=(data.dims, subtracted)), record_sky(self.header, sky))

    # Sources ----------------------------------------------------------------------------------------------

    def smooth(self, fwhm: float | None = None, **kwargs) -> xr.DataArray:
        """Smooth with a Gaussian or another kernel; see :func:`galprep_dask.segmentation.smooth`."""
        from galprep_dask.segmentation import smooth

        return smooth(self._image["data"], fwhm, self._mask, **kwargs)

    def detect_sources(self, threshold, n_pixels: int = 5, **kwargs) -> Segmentation:
        """Find sources above a threshold; see :func:`galprep_dask.segmentation.detect_sources`."""
        from galprep_dask.segmentation import detect_sources

        return detect_sources(self._image["data"], threshold, n_pixels, mask=self._mask, **kwargs)

    def source_catalog(self, segmentation, **kwargs) -> QTable:
        """
        Measure sources, with sky coordinates and errors; see :func:`galprep_dask.segmentation.source_catalog`.

        Parameters
        ----------
        segmentation : Segmentation or (ny, nx) integer array
            What was found.
        **kwargs
            As for the function. ``error`` is by default the ``sigma`` of the image, ``wcs`` that of its header, if
            there is one.

        Returns
        -------
        QTable
        """
        from galprep_dask.errors import MissingWCSError
        from galprep_dask.segmentation import source_catalog

        if "wcs" not in kwargs:
            try:
                kwargs["wcs"] = self.wcs
            except MissingWCSError:
                kwargs["wcs"] = None
        kwargs.setdefault("error", self._image.get("sigma"))
        return source_catalog(self._image["data"], segmentation, mask=self._mask, **kwargs)

    def select_stars(self, segmentation, **kwargs) -> QTable:
        """
        Choose the stars that a PSF can be made of; see :func:`galprep_dask.psf.select_stars`.

        Parameters
        ----------
        segmentation : Segmentation or (ny, nx) integer array
            What was found; the image has to be without its sky.
        **kwargs
            As for the function. ``mask``, ``sigma`` and ``header`` are by default those of the image.

        Returns
        -------
        QTable
        """
        from galprep_dask.psf import select_stars

        kwargs.setdefault("header", self.header)
        kwargs.setdefault("mask", self._mask)
        if "sky_std" not in kwargs:
            kwargs.setdefault("sigma", self._image.get("sigma"))
        return select_stars(self._image["data"], segmentation, **kwargs)

    # Sigma, cutouts, files --------------------------------------------------------------------------------

    def sigma_image(self, *, gain: float | None = None, exptime=None, **kwargs) -> xr.DataArray:
        """
        1-sigma uncertainty of every pixel; see :func:`galprep_dask.noise.sigma_image`.

        Parameters
        ----------
        gain, exptime : float, optional
            By default those of the image; an error says which keywords were looked for.
        **kwargs
            As for the function. ``mask`` and ``weight`` are by default those of the image; ``sky_std`` is needed where
            there is no map. ``image.drop_vars("weight")`` has none.

        Returns
        -------
        DataArray
        """
        from galprep_dask.noise import sigma_image
        from galprep_dask.noise.with_sigma import gain_and_exposure

        gain, exptime = gain_and_exposure(self._image, gain, exptime, kwargs.get("fac1", 1.0))
        if kwargs.get("rms") is None:
            kwargs.setdefault("weight", self._image.get("weight"))
        kwargs.setdefault("mask", self._mask)
        return sigma_image(self._image["data"], gain=gain, exptime=exptime, **kwargs)

    def with_sigma(self, masked=None, **kwargs) -> xr.Dataset:
        """Add a sigma plane that is checked against the noise; see :func:`galprep_dask.noise.with_sigma`."""
        from galprep_dask.noise import with_sigma

        return with_sigma(self._image, masked, **kwargs)

    def write_with_sigma(self, path, masked=None, **kwargs):
        """Write the image with a sigma plane, in one pass; see :func:`galprep_dask.noise.write_with_sigma`."""
        from galprep_dask.noise import write_with_sigma

        return write_with_sigma(self._image, path, masked, **kwargs)

    def check_sigma(self, masked=None, *, sigma=None, **kwargs):
        """
        Compare the sigma plane with the noise; see :func:`galprep_dask.noise.check_sigma`.

        Parameters
        ----------
        masked : (ny, nx) bool array, optional
            Sources and bad pixels; by default the mask of the image.
        sigma : (ny, nx) array, optional
            Another sigma image than that of the image.
        **kwargs
            As for the function.

        Returns
        -------
        SigmaCheck
        """
        from galprep_dask.errors import ParameterError
        from galprep_dask.image import describe
        from galprep_dask.noise import check_sigma

        sigma = self._image.get("sigma") if sigma is None else sigma
        if sigma is None:
            raise ParameterError(f"{describe(self._image)} has no sigma plane. Make one by with_sigma, or pass sigma=.")
        return check_sigma(self._image["data"], sigma, self._or_own(masked), **kwargs)

    def correlation_factor(self, masked=None, **kwargs):
        """Say how correlated the noise is; see :func:`galprep_dask.noise.correlation_factor`."""
        from galprep_dask.noise import correlation_factor

        return correlation_factor(self._image["data"], self._or_own(masked), **kwargs)

    def cutout(self, ra: float, dec: float, size) -> xr.Dataset:
        """Cut around a target, lazily; see :func:`galprep_dask.cutouts.cutout`."""
        from galprep_dask.cutouts import cutout

        return cutout(self._image, ra, dec, size)

    def cutout_many(self, ra, dec, size, *, sink=None) -> tuple[list, Table]:
        """Cut around many targets in one pass; see :func:`galprep_dask.cutouts.cutout_many`."""
        from galprep_dask.cutouts import cutout_many

        return cutout_many(self._image, ra, dec, size, sink=sink)

    def extract_stamps(self, x, y, size: int, *, plane: str = "data", **kwargs):
        """
        Stamps around many positions; see :func:`galprep_dask.cutouts.extract_stamps`.

        Parameters
        ----------
        x, y : (n,) arrays
            0-based positions.
        size : int
            Side in pixels.
        plane : str
            Of which variable of the image: "data", "mask", "sigma", ...
        **kwargs
            As for the function.

        Returns
        -------
        DataArray
            Lazy, with dims ``("stamp", "y", "x")``.

        Raises
        ------
        ParameterError
            The image has no such plane.
        """
        from galprep_dask.cutouts import extract_stamps
        from galprep_dask.errors import ParameterError

        if plane not in self._image:
            raise ParameterError(f"plane={plane!r}; the image has {', '.join(map(str, self._image.data_vars))}.")
        return extract_stamps(self._image[plane], x, y, size, **kwargs)

    def write(self, path: str | os.PathLike, **kwargs) -> Path:
        """Write FITS or Zarr; see :func:`galprep_dask.write_image`."""
        from galprep_dask.io import write_image

        return write_image(self._image, path, **kwargs)

    def write_product(self, path: str | os.PathLike, **kwargs) -> Path:
        """Write a cutout file for a fit; see :func:`galprep_dask.cutouts.write_product`."""
        from galprep_dask.cutouts import write_product

        return write_product(path, self._image, **kwargs)

    def _or_own(self, mask):
        return self._mask if mask is None else mask
