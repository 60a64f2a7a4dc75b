"""Segmentations in files, so that one made elsewhere can be used here, and one made here elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from galprep_dask._version import __version__
from galprep_dask.arrays import ImageLike
from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.image import header_text
from galprep_dask.io.fits_writer import STRUCTURE, write_hdus
from galprep_dask.io.open import open_plane
from galprep_dask.io.zarr import write_zarr_image
from galprep_dask.segmentation.segmentation_image import Segmentation, as_segmentation

__all__ = ["read_segmentation", "write_segmentation"]

#: Number below which float32 tells every whole number from the next.
_FLOAT32_WHOLE = 2**24


def read_segmentation(
    path: str | os.PathLike,
    hdu: int | str | None = None,
    *,
    chunks="auto",
    storage_options: dict | None = None,
) -> Segmentation:
    """
    Open a label image of any size as a lazy segmentation.

    Parameters
    ----------
    path : str or path
        A FITS file, plain or compressed by tiles: a SEGMENTATION check image of SExtractor, the ``data`` of a
        photutils ``SegmentationImage`` as astropy writes it, a file of :func:`write_segmentation` or
        :func:`galprep_dask.write_image`. Or a Zarr store, or a URL of either.
    hdu : int or str, optional
        HDU index or EXTNAME. By default the one called SEGMENTATION, or else the first with a 2-D image.
    chunks : int, tuple, dict or "auto"
        Chunk sizes in pixels, as for :func:`galprep_dask.open_image`.
    storage_options : dict, optional
        For the fsspec filesystem of a URL.

    Returns
    -------
    Segmentation
        Labels as they are stored, 0 = sky; int32, whatever type the file has. NaN is sky.

    Raises
    ------
    ImageNotFoundError, ImageFileError, HDUError
        There is no such file or HDU, or it cannot be read.
    ImageShapeError
        It is a cube, or a store of several planes none of which is called ``segmentation``.
    ParameterError
        A parameter makes no sense. Where the pixels are read: labels are negative, no whole numbers, or more
        than int32 holds.

    Warns
    -----
    NotLazyWarning
        The file is compressed as a whole (gzip), so that every read takes all of it.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = write_segmentation(np.array([[0, 7], [7, 2**31 - 1]]), folder.name + "/labels.fits")
    >>> read_segmentation(path).labels.tolist()
    [7, 2147483647]
    >>> folder.cleanup()
    """
    labels = open_plane(path, hdu, name="segmentation", chunks=chunks, storage_options=storage_options)
    place = repr(os.fspath(path)) + ("" if hdu is None else f" [HDU {hdu}]")
    if labels.ndim != 2:
        raise ImageShapeError(f"{place} has shape {labels.shape}; expected a two-dimensional image of labels.")
    if labels.dtype.kind not in "biuf":
        raise ParameterError(f"{place} has pixels of type {labels.dtype}; expected whole numbers.")
    return Segmentation(labels.map_blocks(_as_labels, place=place, dtype=np.int32, meta=np.empty((0, 0), np.int32)))


def _as_labels(block: np.ndarray, place: str) -> np.ndarray:
    """Give a block as int32, or say which of its values are no labels."""
    if block.dtype.kind == "f":
        block = np.where(np.isnan(block), 0, block)
        wrong = block[block != np.floor(block)]
        if wrong.size:
            raise ParameterError(f"{place} has pixels like {wrong[0]}; labels are whole numbers. Is it a label image?")
    low, high = block.min(initial=0), block.max(initial=0)
    if low < 0 or high > np.iinfo(np.int32).max:
        raise ParameterError(f"{place} has labels from {low:.0f} to {high:.0f}; expected 0 to 2147483647.")
    if block.dtype.kind == "f" and block.dtype.itemsize <= 4 and high >= _FLOAT32_WHOLE:
        raise ParameterError(
            f"{place} has labels up to {high:.0f} in float32, which tells whole numbers apart below "
            f"{_FLOAT32_WHOLE} only: others may have become the same. Write it again as integers."
        )
    return block.astype(np.int32)


def write_segmentation(
    segmentation: Segmentation | ImageLike,
    path: str | os.PathLike,
    *,
    header: Any = None,
    overwrite: bool = False,
    compression: str | None = None,
) -> Path:
    """
    Write a label image to a file, block by block.

    Parameters
    ----------
    segmentation : Segmentation or (ny, nx) array
        Integer labels, 0 = sky.
    path : str or path
        The FITS file; a name that ends in ``.zarr`` gives a Zarr store.
    header : astropy.io.fits.Header or astropy.wcs.WCS, optional
        Header of the image that was segmented, or its sky coordinates, to be kept with the labels. BUNIT, the
        unit of other pixels, is left out.
    overwrite : bool
        Whether a file that exists may be replaced.
    compression : {None, "RICE_1", "GZIP_1", "GZIP_2"}
        Tile compression; each of them keeps every label.

    Returns
    -------
    Path
        What was written: 32-bit integers in HDU 0, or in HDU 1 where compressed, as
        ``SegmentationImage(fits.getdata(path))`` of photutils takes them.

    Raises
    ------
    OutputExistsError, OutputError
        The file exists, or cannot be written. Nothing half-written stays, and what was there before is as it was.
    ParameterError
        Labels are no integers from 0 to 2147483647, there is no such compression, or ``path`` is a URL.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = write_segmentation(np.eye(3, dtype=int), folder.name + "/labels.fits", compression="RICE_1")
    >>> fits.getdata(path).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    >>> folder.cleanup()
    """
    labels = as_segmentation(segmentation).data
    cards = _header_of(header)
    if os.fspath(path).rstrip("/").endswith(".zarr"):
        if compression is not None:
            raise ParameterError(f"compression={compression!r} is for FITS; Zarr stores have their own.")
        attrs = {"header": header_text(cards)} if len(cards) else {}
        return write_zarr_image(xr.Dataset({"segmentation": (("y", "x"), labels)}, attrs=attrs), path, overwrite)
    cards["GPVERS"] = (__version__, "version of galprep-dask that wrote this file")
    if compression is None:
        cards["EXTNAME"] = ("SEGMENTATION", "labels of sources, 0 is sky")
    return write_hdus([(cards, labels)], path, overwrite=overwrite, compression=compression)


def _header_of(header) -> fits.Header:
    if header is None:
        return fits.Header()
    if hasattr(header, "to_header"):
        header = header.to_header(relax=True)
    if not isinstance(header, fits.Header):
        raise ParameterError(f"header is a {type(header).__name__}; expected an astropy Header or WCS.")
    cards = header.copy()
    for keyword in (*STRUCTURE, "BUNIT"):
        cards.remove(keyword, ignore_missing=True, remove_all=True)
    return cards
