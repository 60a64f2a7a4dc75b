"""Any kind of image array in, the same kind out.

Public functions take NumPy, dask or xarray arrays. Inside, all of them are dask arrays of native byte
order; :func:`like` turns a result back into the kind that the caller gave.
"""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from astropy.units import Quantity, UnitBase

from galprep_dask.errors import ImageShapeError, ParameterError

__all__ = [
    "CHUNK_SIDE", "ImageLike", "as_image", "as_labels", "as_mask", "check_same_shape", "is_finite", "is_number",
    "is_whole", "like", "take_off_unit",
]  # fmt: skip

#: An image in any of the accepted kinds: ``numpy.ndarray``, ``dask.array.Array``, ``xarray.DataArray``.
ImageLike = Any

#: Side in pixels of a chunk that nobody chose: 16 MiB of float32, so that a worker holds a dozen with ease.
CHUNK_SIDE = 2048


def as_image(array: ImageLike, name: str = "data", *, chunks=None, ndim: int = 2) -> da.Array:
    """
    Give ``array`` as a 2-D dask array of native byte order; nothing is computed or copied.

    Parameters
    ----------
    array : (ny, nx) array, NumPy, dask or xarray
        The image. Masked arrays are refused, because their mask would be lost.
    name : str
        What to call it in an error.
    chunks : optional
        Chunks to bring it to, as in ``dask.array.rechunk``; by default those it has, or squares of
        ``CHUNK_SIDE`` pixels for a NumPy array.
    ndim : int
        2, or 3 for a cube.

    Returns
    -------
    (ny, nx) dask array

    Raises
    ------
    ImageShapeError
        The array is not two-dimensional, or has no pixels.
    ParameterError
        It is no numeric array, or the chunks do not fit it.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise ParameterError(f"{name} is a masked array. Pass {name}.data, and its mask as mask=.")
    if hasattr(array, "dims") and hasattr(array, "data"):  # xarray, recognised without importing it
        array = array.data
    if not isinstance(array, da.Array):
        array = np.asarray(array)
        if array.ndim == ndim:
            # name=False: a random name instead of a hash of every pixel.
            array = da.from_array(array, chunks="auto" if ndim == 3 else (CHUNK_SIDE, CHUNK_SIDE), name=False)
    if array.ndim != ndim or 0 in array.shape:
        wanted = "two-dimensional image" if ndim == 2 else "three-dimensional cube"
        raise ImageShapeError(f"{name} has shape {array.shape}; expected a {wanted} with pixels.")
    if np.isnan(array.shape).any():
        raise ImageShapeError(f"{name} has chunks of unknown size. Call its compute_chunk_sizes() first.")
    if array.dtype.kind not in "biuf":
        raise ParameterError(f"{name} has dtype {array.dtype}; expected real numbers.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if chunks is not None:
        try:
            if not isinstance(chunks, dict):  # rechunk drops what is too much in a tuple, without a word
                chunks = da.core.normalize_chunks(chunks, array.shape, dtype=array.dtype)
            array = array.rechunk(chunks)
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise ParameterError(f"chunks={chunks!r} does not fit {name} of shape {array.shape}: {error}") from error
    return array


def as_mask(mask: ImageLike | None, data: da.Array, name: str = "mask") -> da.Array | None:
    """
    Give ``mask`` as a bool dask array with the chunks of ``data``; any non-zero value is True.

    Parameters
    ----------
    mask : (ny, nx) array or None
        True or non-zero marks bad pixels.
    data : (ny, nx) dask array
        The image that it belongs to.
    name : str
        What to call it in an error.

    Returns
    -------
    (ny, nx) bool dask array, or None

    Raises
    ------
    ImageShapeError
        Its shape is not that of ``data``.
    """
    if mask is None:
        return None
    check_same_shape(mask, data.shape, name)
    mask = as_image(mask, name, chunks=data.chunks)
    return mask if mask.dtype == bool else mask != 0


def as_labels(block: np.ndarray) -> np.ndarray:
    """Give a block of whole numbers as int32 labels; ParameterError where one is none."""
    low, high = int(block.min(initial=0)), int(block.max(initial=0))
    if low < 0 or high > np.iinfo(np.int32).max:
        raise ParameterError(f"segmentation has labels from {low} to {high}; expected 0 to 2147483647.")
    return block.astype(np.int32, copy=False)


def is_number(value) -> bool:
    """Tell whether a parameter is one real number, infinity and NaN included: text, None and arrays are not."""
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"


def is_finite(value) -> bool:
    """
    Tell whether a parameter is one finite real number.

    Examples
    --------
    >>> is_finite(np.float32(2.5)), is_finite("2.5"), is_finite(None), is_finite(np.nan)
    (True, False, False, False)
    """
    return is_number(value) and bool(np.isfinite(value))


def is_whole(value) -> bool:
    """Tell whether a parameter is one whole number, of an integer type: 3.0 is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_same_shape(array: ImageLike, shape: tuple[int, ...], name: str, owner: str = "data") -> None:
    """Raise ImageShapeError, naming both shapes, unless ``array`` has shape ``shape``."""
    found = tuple(np.shape(array))
    if found != tuple(shape):
        raise ImageShapeError(
            f"{name} has shape {found}, but {owner} has {tuple(shape)}.\n"
            f"    Cut or pad {name} to the image, or pass {name}=None."
        )


def like(result: da.Array, template: ImageLike) -> ImageLike:
    """
    Give ``result`` as the kind of array that ``template`` is.

    Parameters
    ----------
    result : dask array
        What was built.
    template : array, NumPy, dask or xarray
        What the caller passed in.

    Returns
    -------
    array
        A computed NumPy array for NumPy, ``result`` itself for dask, and a lazy DataArray with the dims and
        coordinates of ``template`` for xarray.
    """
    if isinstance(template, da.Array):
        return result
    if hasattr(template, "dims") and hasattr(template, "coords"):
        import xarray as xr

        return xr.DataArray(result, dims=template.dims, coords=template.coords)
    return result.compute()


def take_off_unit(**values) -> tuple[list, UnitBase | None]:
    """
    Take the unit off values that must have the same one, if they have any.

    Parameters
    ----------
    **values : float, array, Quantity or None
        By the names that errors are to give them; None has no unit and needs none.

    Returns
    -------
    values : list
        The same without unit, in order.
    unit : Unit or None
        The unit; None where no value has one.

    Raises
    ------
    ParameterError
        Units differ, or some values have one and others have none. Nothing is converted, as nothing is by photutils.

    Examples
    --------
    >>> from astropy import units as u
    >>> take_off_unit(data=np.ones(2) * u.Jy, threshold=3 * u.Jy, error=None)
    ([array([1., 1.]), np.float64(3.0), None], Unit("Jy"))
    """
    units = {
        name: value.unit if isinstance(value, Quantity) else None for name, value in values.items() if value is not None
    }
    if len(set(units.values())) > 1:
        each = ", ".join(f"{name} has {'no unit' if unit is None else unit}" for name, unit in units.items())
        raise ParameterError(f"{each}; expected one unit for all. Convert with .to(), or take .value of all.")
    bare = [value.value if isinstance(value, Quantity) else value for value in values.values()]
    return bare, next(iter(units.values()), None)
