"""The pixels of a band: the image as the run sees it, and copies of what is needed many times."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from galprep_dask.arrays import as_mask, check_same_shape
from galprep_dask.errors import ImageShapeError
from galprep_dask.image import bad_pixels, describe, image_header, pixel_scale
from galprep_dask.io import open_image
from galprep_dask.io.open import open_plane
from galprep_dask.io.zarr import open_zarr_image, open_zarr_plane, write_zarr_image
from galprep_dask.noise import sigma_image
from galprep_dask.noise.sigma import unusable_pixels
from galprep_dask.noise.with_sigma import gain_and_exposure
from galprep_dask.pipeline.config import Band
from galprep_dask.pipeline.records import make_folder
from galprep_dask.sky import subtract_sky

__all__ = [
    "Subtracted", "effective_gain", "fwhm_in_pixels", "keep_plane", "kept_plane", "open_band", "sigma_of",
    "staged_image", "subtracted",
]  # fmt: skip

#: FWHM in pixels where the configuration does not say.
_FWHM = 3.0


def open_band(band: Band) -> xr.Dataset:
    """
    Open the image of a band lazily, with what the configuration says about it.

    Parameters
    ----------
    band : Band
        A band of the configuration.

    Returns
    -------
    Dataset
        ``data``, and of ``mask``, ``weight`` and ``rms`` what there is. Pixels of which a map tells nothing are in the
        mask.

    Raises
    ------
    ImageNotFoundError, ImageFileError, HDUError, ImageShapeError
        A file cannot be read, or is no image of that shape.
    """
    image = open_image(
        band.image, band.hdu, mask=band.mask, weight=band.weight, gain=band.gain, exptime=band.exptime,
        zeropoint=band.zeropoint,
    )  # fmt: skip
    if image["data"].ndim != 2:
        raise ImageShapeError(f"{describe(image)} is a cube of shape {image['data'].shape}; expected an image.")
    if band.rms is not None:
        rms = open_plane(band.rms, None, name="rms", chunks={n: image.chunks[n] for n in ("y", "x")})
        check_same_shape(rms, image["data"].shape, "rms", owner=describe(image))
        image = image.assign(rms=(("y", "x"), rms))
    maps = {name: image[name].data for name in ("weight", "rms") if name in image}
    if maps:
        mask = None if "mask" not in image else image["mask"].data
        image = image.assign(mask=(("y", "x"), unusable_pixels(mask, **maps)))
    return image[[name for name in ("data", "mask", "weight", "rms") if name in image]]


def staged_image(band: Band, folder: Path, digest: str) -> xr.Dataset:
    """
    Give a copy of a band's image that is quick to read; it is made, in one pass over the image, where there is none.

    Parameters
    ----------
    band : Band
        A band of the configuration.
    folder : Path
        Where copies are kept.
    digest : str
        What the copy has to be made of.

    Returns
    -------
    Dataset
        As :func:`open_band`.
    """
    store = folder / "image.zarr"
    original = open_band(band)
    if _digest_of(store) != digest:
        make_folder(folder)
        write_zarr_image(original.assign_attrs(galprep=digest), store, overwrite=True)
    # Chunks of the original, not of the store, which has one size: sums are then taken in the same order.
    chunks = dict(original.chunks)
    staged = open_zarr_image(os.fspath(store), chunks=chunks)
    attrs = {name: value for name, value in original.attrs.items() if name != "galprep"}
    return staged.drop_attrs(deep=False).assign_attrs(attrs)


def keep_plane(name: str, plane: da.Array, folder: Path, digest: str) -> None:
    """Keep a plane that costs more to make than to read."""
    make_folder(folder)
    image = xr.Dataset({name: (("y", "x"), plane)}, attrs={"galprep": digest})
    write_zarr_image(image, folder / f"{name}.zarr", overwrite=True)


def kept_plane(name: str, folder: Path, digest: str, chunks=None) -> da.Array | None:
    """Give a plane that was kept; None where there is none that was made with ``digest``."""
    store = folder / f"{name}.zarr"
    if _digest_of(store) != digest:
        return None
    return open_zarr_plane(os.fspath(store), name, "auto" if chunks is None else chunks)


def _digest_of(store: Path) -> str | None:
    if not store.is_dir():
        return None
    try:
        return xr.open_zarr(store, chunks={}, consolidated=False).attrs.get("galprep")
    except Exception:  # damaged: it is made anew
        shutil.rmtree(store, ignore_errors=True)
        return None


def fwhm_in_pixels(band: Band, image: xr.Dataset) -> float:
    """Give the FWHM of the PSF in pixels as the configuration has it, or what stands in for it."""
    if band.fwhm is None:
        return _FWHM
    return band.fwhm / pixel_scale(image_header(image), where=describe(image))


class Subtracted(NamedTuple):
    """
    An image without its sky.

    Attributes
    ----------
    data : dask array
        The image minus the sky.
    bad : dask array
        Pixels that are masked or not finite.
    """

    data: da.Array
    bad: da.Array


def subtracted(image: xr.Dataset, sky) -> Subtracted:
    """Give an image minus its sky, and its bad pixels, lazily."""
    pixels = image["data"].data
    mask = None if "mask" not in image else as_mask(image["mask"].data, pixels)
    return Subtracted(pixels if sky is None else subtract_sky(pixels, sky), bad_pixels(pixels, mask))


def sigma_of(image: xr.Dataset, without_sky: Subtracted, noise: dict) -> da.Array:
    """
    Make the sigma image anew from what was measured.

    Parameters
    ----------
    image : Dataset
        The image, with its maps.
    without_sky : Subtracted
        The same without its sky.
    noise : dict
        ``sky_std`` and ``scale``, as the record of the band has them.

    Returns
    -------
    dask array
    """
    gain, exptime = gain_and_exposure(image, None, None)
    maps = {name: image[name].data for name in ("weight", "rms") if name in image}
    scale = noise.get("scale")
    return sigma_image(
        without_sky.data, without_sky.bad, gain=gain, exptime=exptime, sky_std=noise["sky_std"],
        fac2=1.0 if scale is None else float(scale) ** 2, **maps,
    )  # fmt: skip


def effective_gain(image: xr.Dataset) -> float:
    """Electrons per unit of the image."""
    gain, exptime = gain_and_exposure(image, None, None)
    return float(np.multiply(gain, exptime))
