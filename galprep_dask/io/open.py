"""``open_image``: find out what a source is, and make an image Dataset of it without reading its pixels."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from galprep_dask.arrays import CHUNK_SIDE
from galprep_dask.errors import (
    GalprepWarning,
    HDUError,
    ImageFileError,
    ImageShapeError,
    NotLazyWarning,
    ParameterError,
)
from galprep_dask.image import PLANES, float_dtype, make_image
from galprep_dask.io.files import is_remote
from galprep_dask.io.fits_find import find_plane
from galprep_dask.io.fits_reader import FitsPlane
from galprep_dask.io.header import find_quantity
from galprep_dask.io.zarr import is_zarr, open_zarr_image, open_zarr_plane

__all__ = ["open_image", "open_plane"]

#: Attributes of an image that have a meaning here; others are handed on.
_ATTRS = ("header", "unit", "gain", "exptime", "zeropoint", "path", "hdu")

#: Bytes of a band of rows read from a remote plain image: few, large range requests.
_REMOTE_BAND = 64 * 2**20


def open_image(
    path: Any,
    hdu: int | str | None = None,
    *,
    chunks="auto",
    unit: str | None = None,
    mask: Any = None,
    weight: Any = None,
    sigma: Any = None,
    gain: float | None = None,
    exptime: float | None = None,
    zeropoint: float | None = None,
    storage_options: dict | None = None,
    wcs: WCS | None = None,
    header: fits.Header | None = None,
) -> xr.Dataset:
    """
    Open an image of any size as a lazy Dataset; only headers are read.

    Parameters
    ----------
    path : str, path, CCDData, or array
        A FITS file (plain, tile-compressed, or gzipped as a whole), a Zarr store, a URL of either that fsspec
        knows (``s3://``, ``https://``, ``memory://``), an astropy CCDData, an image Dataset, or a NumPy, dask or
        xarray array.
    hdu : int or str, optional
        HDU index or EXTNAME. By default the first HDU with a 2-D image, or else the first cube.
    chunks : int, tuple, dict or "auto"
        Chunk sizes in pixels, as dask takes them, or ``{"y": ny, "x": nx}``. "auto" gives chunks of about
        2048 x 2048 pixels, aligned to the tiles of a tile-compressed image, and bands of whole rows for
        a remote plain image.
    unit : str, optional
        Unit of the pixels; by default BUNIT.
    mask, weight, sigma : path, (path, hdu), int, or (ny, nx) array, optional
        Bad pixels (True or non-zero = bad), inverse variance, and 1-sigma uncertainty: a file, a file and its
        HDU, an HDU of the same file, or an array.
    gain, exptime, zeropoint : float, optional
        In e-/ADU, s and mag. By default from the header (``GAIN``, ``EGAIN``, ``CELL.GAIN``, ``EXPTIME``,
        ``TEXPTIME``, ``MAGZERO``, ``MAGZP``, ``PHOTZP``, ``ZP`` ...), the primary's where the HDU has none;
        which keyword was used is logged.
    storage_options : dict, optional
        For the fsspec filesystem of a URL, credentials for example.
    wcs : astropy.wcs.WCS, optional
        Sky coordinates of an array; written into the header.
    header : astropy.io.fits.Header, optional
        Header of an array.

    Returns
    -------
    xarray.Dataset
        ``data`` (float32, or float64 for 32-bit integers and doubles; native byte order) with dims
        ``("y", "x")`` or, for a cube, ``("spectral", "y", "x")``, and the planes given.
        Values equal those of ``astropy.io.fits``. The attributes are ``header`` (the FITS header as text), ``unit``,
        ``gain``, ``exptime``, ``zeropoint``, ``path`` and ``hdu``, as far as they are known.

    Raises
    ------
    ImageNotFoundError, ImageFileError
        There is no such file, or it is truncated, damaged, or no image format.
    HDUError
        There is no such HDU, or no image in it.
    ImageShapeError
        A plane has another shape than the image.
    ParameterError
        A parameter makes no sense.

    Warns
    -----
    NotLazyWarning
        The file is compressed as a whole (gzip), so that every read takes all of it.

    Notes
    -----
    A file that :func:`galprep_dask.write_image` wrote gives its mask, sigma, weight and segmentation back
    without being asked.

    Examples
    --------
    >>> import numpy as np
    >>> image = open_image(np.ones((300, 200)), gain=1.5, chunks=100)
    >>> image["data"].chunks, image.attrs["gain"]
    (((100, 100, 100), (100, 100)), 1.5)
    """
    quantities = {"gain": gain, "exptime": exptime, "zeropoint": zeropoint}
    planes = {"mask": mask, "weight": weight, "sigma": sigma}
    if isinstance(path, str | os.PathLike):
        path = os.fspath(path)
        if wcs is not None or header is not None:
            raise ParameterError("wcs= and header= are for arrays; a file has its own header.")
        if is_zarr(path, storage_options):
            return _with_given(open_zarr_image(path, chunks, storage_options), unit, planes, quantities)
        return _open_fits(path, hdu, chunks, unit, planes, quantities, storage_options)
    if hdu is not None:
        raise ParameterError(f"hdu={hdu!r} is for files; got a {type(path).__name__}.")
    if isinstance(path, xr.Dataset):
        return _with_given(path, unit, planes, quantities)
    return _open_array(path, chunks, unit, planes, quantities, wcs, header)


def open_plane(
    path: str | os.PathLike,
    hdu: int | str | None = None,
    *,
    name: str,
    chunks="auto",
    storage_options: dict | None = None,
) -> da.Array:
    """
    Open one plane of a file lazily, in the type that it is stored in: integers stay integers.

    Parameters
    ----------
    path : str or path
        FITS file or Zarr store, or a URL of either.
    hdu : int or str, optional
        HDU of a FITS file. By default the one that is called ``name``, and the first image where none is.
    name : str
        What the plane is called in files of our own: "segmentation" for example.
    chunks : int, tuple, dict or "auto"
        As for :func:`open_image`.
    storage_options : dict, optional
        For the fsspec filesystem of a URL.

    Returns
    -------
    dask array
        Of two dimensions, or of three for a cube. Values equal those of ``astropy.io.fits``.

    Raises
    ------
    ImageNotFoundError, ImageFileError, HDUError, ParameterError
        As for :func:`open_image`.

    Warns
    -----
    NotLazyWarning
        The file is compressed as a whole.
    """
    path = os.fspath(path)
    if is_zarr(path, storage_options):
        if hdu is not None:
            raise ParameterError(f"hdu={hdu!r} is for FITS files; {path!r} is a Zarr store.")
        return open_zarr_plane(path, name, chunks, storage_options)
    if hdu is None:
        try:
            source = find_plane(path, name.upper(), storage_options)
        except HDUError:
            source = find_plane(path, None, storage_options)
    else:
        source = find_plane(path, hdu, storage_options)
    _warn_unless_lazy(source)
    return lazy_plane(source, chunks, dtype=source.dtype)


def _warn_unless_lazy(source: FitsPlane) -> None:
    if source.container is not None:
        warnings.warn(
            f"{source.path!r} is compressed as a whole ({source.container}) and cannot be read in parts: every read "
            f"takes all {math.prod(source.shape) * source.dtype.itemsize / 2**20:.0f} MiB. Unpack it, or compress it "
            "by tiles (fpack, or write_image(..., compression=...)).",
            NotLazyWarning, stacklevel=4,
        )  # fmt: skip


def _open_fits(path, hdu, chunks, unit, planes, quantities, storage_options) -> xr.Dataset:
    source = find_plane(path, hdu, storage_options)
    _warn_unless_lazy(source)
    data = lazy_plane(source, chunks, dtype=float_dtype(source.dtype))
    headers = [source.header, source.primary] if source.hdu else [source.header]
    for name in quantities:
        if quantities[name] is None:
            quantities[name] = find_quantity(name, headers, where=source.place)
    arrays = _own_planes(source, data, storage_options)
    for name, plane in planes.items():
        if plane is not None:
            arrays[name] = _plane(name, plane, source, data, storage_options)
    return make_image(
        data, header=source.header, unit=unit or source.header.get("BUNIT") or None,
        path=source.path, hdu=source.hdu, **arrays, **quantities,
    )  # fmt: skip


def _own_planes(source: FitsPlane, data: da.Array, storage_options) -> dict[str, da.Array]:
    """Give the planes that lie beside the image in a file of our own making."""
    planes = {}
    for name in str(source.header.get("GPPLANES", "")).lower().split():
        if name not in PLANES:
            continue
        try:
            planes[name] = _read_plane(name, source.path, name.upper(), data, storage_options)
        except HDUError:
            warnings.warn(
                f"the header of {source.place} promises the plane {name!r} (GPPLANES), but the file has no HDU "
                f"{name.upper()!r}: opened without it. Pass {name}= where it lies elsewhere.",
                GalprepWarning, stacklevel=4,
            )  # fmt: skip
    return planes


def _plane(name, plane, source: FitsPlane, data: da.Array, storage_options):
    """Resolve what was given for mask, weight or sigma to an array."""
    if isinstance(plane, int | np.integer) and not isinstance(plane, bool):
        return _read_plane(name, source.path, int(plane), data, storage_options)
    if isinstance(plane, str | os.PathLike):
        return _read_plane(name, os.fspath(plane), None, data, storage_options)
    if isinstance(plane, tuple) and len(plane) == 2 and isinstance(plane[0], str | os.PathLike):
        return _read_plane(name, os.fspath(plane[0]), plane[1], data, storage_options)
    return plane


def _read_plane(name, path, hdu, data: da.Array, storage_options) -> da.Array:
    plane = find_plane(path, hdu, storage_options)
    if plane.shape != data.shape[-2:]:
        raise ImageShapeError(
            f"{plane.place} has shape {plane.shape}, but the image it is given for has {data.shape[-2:]}.\n"
            "    Cut or pad it to the image."
        )
    # In the dtype that it has in an image from the start: blocks are then read, and nothing more.
    return lazy_plane(plane, data.chunks[-2:], dtype=PLANES[name] or float_dtype(plane.dtype))


def lazy_plane(source: FitsPlane, chunks, *, dtype) -> da.Array:
    """
    Make a dask array of a FITS image: one task a chunk, which opens, reads and closes the file.

    Parameters
    ----------
    source : FitsPlane
        The image.
    chunks : int, tuple, dict or "auto"
        As for :func:`open_image`.
    dtype : dtype
        That the blocks are given in.

    Returns
    -------
    dask array of the shape of ``source``
    """
    wanted = normalize_chunks(source, chunks)
    reader = source.as_dtype(dtype)
    # What cannot be read in parts is one task, cut into chunks afterwards.
    own = source.shape if source.container is not None else wanted
    array = da.from_array(
        reader, chunks=own, inline_array=True, meta=np.empty((0,) * source.ndim, dtype)
    )  # with the defaults of asarray and fancy, dask hands a slice of the image on to the reader
    return array.rechunk(wanted)


def normalize_chunks(source: FitsPlane, chunks) -> tuple[tuple[int, ...], ...]:
    """Turn what the user asked for into chunk sizes; ParameterError says what is wrong with it."""
    shape = source.shape
    if chunks is None or (isinstance(chunks, str) and chunks == "auto"):
        chunks = _auto_chunks(source)
    elif isinstance(chunks, dict):
        chunks = _chunks_by_name(chunks, _auto_chunks(source))
    try:
        return da.core.normalize_chunks(chunks, shape, dtype=source.dtype)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ParameterError(f"chunks={chunks!r} does not fit an image of shape {shape}: {error}") from error


def _chunks_by_name(chunks: dict, default: tuple) -> tuple:
    """Order chunk sizes that were given by the name or the number of a dim."""
    names = ("spectral", "y", "x")[-len(default) :]
    unknown = set(chunks) - set(names) - set(range(len(default)))
    if unknown:
        raise ParameterError(f"chunks={chunks!r} names {sorted(map(str, unknown))}; the dims are {names}.")
    return tuple(chunks.get(name, chunks.get(n, default[n])) for n, name in enumerate(names))


def _auto_chunks(source: FitsPlane) -> tuple[int, ...]:
    shape = source.shape
    pixels = CHUNK_SIDE * CHUNK_SIDE
    if source.tile is not None:
        return _tile_chunks(shape, source.tile, pixels)
    if source.ndim == 3:
        side = max(64, math.isqrt(pixels // shape[0]))
        return (shape[0], min(side, shape[1]), min(side, shape[2]))
    if is_remote(source.path):
        rows = max(1, _REMOTE_BAND // (shape[1] * source.scaling.stored.itemsize))
        return (min(rows, shape[0]), shape[1])
    return tuple(min(CHUNK_SIDE, n) for n in shape)


def _tile_chunks(shape, tile, pixels: int) -> tuple[int, ...]:
    """Give multiples of the tile with about ``pixels`` pixels, as square as the tiles allow."""
    chunk = list(tile)
    for axis in reversed(range(len(shape))):
        others = math.prod(min(n, length) for n, length in zip(chunk, shape, strict=True)) / chunk[axis]
        side = max(CHUNK_SIDE, pixels / others) if axis < len(shape) - 1 else CHUNK_SIDE
        side = min(side, pixels / others)
        chunk[axis] = min(max(1, round(side / tile[axis])) * tile[axis], shape[axis])
    return tuple(chunk)


def _with_given(image: xr.Dataset, unit, planes, quantities) -> xr.Dataset:
    """Put what the caller gave in place of what an image Dataset has."""
    if "data" not in image or image["data"].dims[-2:] != ("y", "x"):
        raise ImageShapeError(
            f"a Dataset with variables {list(image.data_vars)} and dims {dict(image.sizes)} is no image; "
            "expected a variable 'data' with dims ('y', 'x')."
        )
    given = {name: value for name, value in (quantities | {"unit": unit}).items() if value is not None}
    arrays = {name: image[name].data for name in ("data", *PLANES) if name in image}
    for name, plane in planes.items():
        if plane is None:
            continue
        if isinstance(plane, int | str | os.PathLike | tuple):
            raise ParameterError(f"{name}={plane!r}: pass an array, or open it with open_image first.")
        arrays[name] = plane
    attrs = dict(image.attrs) | given
    made = make_image(arrays.pop("data"), **arrays, **{name: attrs.pop(name) for name in _ATTRS if name in attrs})
    return made.assign_attrs(attrs)


def _open_array(array, chunks, unit, planes, quantities, wcs, header) -> xr.Dataset:
    header = fits.Header() if header is None else header.copy()
    arrays = dict(planes)
    if hasattr(array, "uncertainty") and hasattr(array, "wcs"):  # CCDData and NDData
        ccd, array = array, array.data
        header.update(ccd.meta if isinstance(ccd.meta, fits.Header) else fits.Header(_plain(ccd.meta)))
        wcs = wcs if wcs is not None else ccd.wcs
        unit = unit or (None if ccd.unit is None else ccd.unit.to_string())
        arrays["mask"] = ccd.mask if arrays["mask"] is None else arrays["mask"]
        arrays |= _uncertainty(ccd.uncertainty) if arrays["sigma"] is None and arrays["weight"] is None else {}
    elif type(array).__module__.startswith("zarr"):
        array = da.from_zarr(array)
    elif not hasattr(array, "dtype"):
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":
            raise ImageFileError(
                f"cannot open a {array.dtype} array; expected a path, an image array, CCDData or a Dataset."
            )
    if wcs is not None:
        header.update(wcs.to_header(relax=True))
    for name in quantities:
        if quantities[name] is None:
            quantities[name] = find_quantity(name, [header], where="the array")
    if isinstance(chunks, dict):
        chunks = _chunks_by_name(chunks, (CHUNK_SIDE,) * np.ndim(array))
    elif isinstance(chunks, str) and chunks == "auto":
        chunks = None
    given = {name: plane for name, plane in arrays.items() if plane is not None}
    return make_image(
        array, header=header, unit=unit or header.get("BUNIT") or None, chunks=chunks, **given, **quantities
    )


def _plain(meta) -> list[tuple[str, Any]]:
    """Keep of a dict of metadata what a FITS header can hold."""
    return [
        (key if len(key) <= 8 else f"HIERARCH {key}", value)
        for key, value in dict(meta or {}).items()
        if isinstance(value, str | bool | int | float) and not (isinstance(value, float) and not math.isfinite(value))
    ]


def _uncertainty(uncertainty) -> dict[str, Any]:
    """Turn an NDUncertainty of astropy into sigma or weight."""
    if uncertainty is None:
        return {}
    kind, values = uncertainty.uncertainty_type, uncertainty.array
    if kind == "std":
        return {"sigma": values}
    if kind == "var":
        return {"sigma": np.sqrt(values)}
    if kind == "ivar":
        return {"weight": values}
    raise ParameterError(f"an uncertainty of type {kind!r} is neither std, var nor ivar. Pass sigma= instead.")
