"""Find an image in a FITS file, reading headers only."""

from __future__ import annotations

import os

from astropy.io import fits

from galprep_dask.errors import HDUError, ImageFileError
from galprep_dask.image import header_text, parse_header
from galprep_dask.io.files import (
    clear_errors,
    container_of,
    identity_of,
    is_remote,
    local_path,
    open_hdus,
    without_format_warnings,
)
from galprep_dask.io.fits_reader import FitsPlane, Scaling

__all__ = ["find_plane", "list_hdus"]


def find_plane(path: str, hdu: int | str | None = None, storage_options: dict | None = None) -> FitsPlane:
    """
    Find an image in a FITS file, reading headers only.

    Parameters
    ----------
    path : str
        Local path or URL.
    hdu : int, str or None
        Index or EXTNAME; None takes the first HDU with a 2-D image, or else the first cube.
    storage_options : dict, optional
        For the fsspec filesystem of a URL.

    Returns
    -------
    FitsPlane

    Raises
    ------
    ImageNotFoundError, ImageFileError
        There is no such file, it is no FITS file, or it is truncated.
    HDUError
        There is no such HDU, or it holds no image; the message lists what the file has.
    """
    path = path if is_remote(path) else os.path.abspath(local_path(path))
    options = dict(storage_options or {})
    container = container_of(path, options)
    identity = identity_of(path, options)
    with clear_errors(path, hdu), without_format_warnings(), open_hdus(path, options, container) as hdus:
        number = _image_hdu(hdus, path, hdu)
        image = hdus[number]
        leading = _leading_axes(image.shape)
        scaling = Scaling.of(image.header)
        tiled = isinstance(image, fits.CompImageHDU)
        plane = FitsPlane(
            path=path, hdu=number, shape=tuple(image.shape[leading:]), dtype=scaling.dtype,
            scaling=scaling, offset=0 if tiled else image.fileinfo()["datLoc"], leading=leading,
            identity=identity, tile=tuple(int(n) for n in image.tile_shape[leading:]) if tiled else None,
            compression=image.compression_type if tiled else None, container=container,
            storage_options=tuple(sorted(options.items())),
            header=_mended(image.header), primary=_mended(hdus[0].header),
        )  # fmt: skip
    if container is None:
        _check_complete(plane, options)
    return plane


def list_hdus(path: str, storage_options: dict | None = None) -> list[dict]:
    """
    Say what each HDU of a FITS file is, reading headers only.

    Parameters
    ----------
    path : str
        Local path or URL.
    storage_options : dict, optional
        For the fsspec filesystem of a URL.

    Returns
    -------
    list of dict
        Of every HDU ``number``, ``name`` (EXTNAME, maybe empty), ``kind`` ("image", "table" or "other"), ``shape`` of
        an image or None, ``bitpix`` of an image or None, and ``compression`` and ``tile`` of one compressed by tiles,
        or None.

    Raises
    ------
    ImageNotFoundError, ImageFileError
        There is no such file, or it is no FITS file.
    """
    path = path if is_remote(path) else os.path.abspath(local_path(path))
    options = dict(storage_options or {})
    container = container_of(path, options)
    with clear_errors(path, None), without_format_warnings(), open_hdus(path, options, container) as hdus:
        return [_described(number, hdu) for number, hdu in enumerate(hdus)]


def _described(number: int, hdu) -> dict:
    tiled = isinstance(hdu, fits.CompImageHDU)
    filled = hdu.is_image and bool(hdu.shape)
    table = isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
    return {
        "number": number, "name": hdu.name, "kind": "image" if hdu.is_image else "table" if table else "other",
        "shape": list(hdu.shape) if filled else None, "bitpix": hdu.header.get("BITPIX") if filled else None,
        "compression": hdu.compression_type if tiled else None, "tile": list(hdu.tile_shape) if tiled else None,
    }  # fmt: skip


def _mended(header: fits.Header) -> fits.Header:
    """Copy a header by way of its text, in which astropy mends what it can, here where its warnings are kept back."""
    return parse_header(header_text(header))


def _check_complete(plane: FitsPlane, options: dict) -> None:
    """Raise ImageFileError where the file ends before the data of its HDU do."""
    with (
        clear_errors(plane.path, plane.hdu),
        without_format_warnings(),
        open_hdus(plane.path, options, disable_image_compression=True) as hdus,
    ):
        stored = hdus[plane.hdu]
        end = stored.fileinfo()["datLoc"] + stored.size
    size = plane.identity[0]
    if size is not None and size < end:
        raise ImageFileError(
            f"{plane.place} is truncated: its header promises {end} bytes, the file has {size}. "
            "Fetch or write it again."
        )


def _image_hdu(hdus: fits.HDUList, path: str, hdu: int | str | None) -> int:
    """Give the index of the HDU wanted, or say what the file has instead."""
    if hdu is None:
        found = _first_image(hdus)
        if found is None:
            raise HDUError(f"{path!r} holds no image. It has {_contents(hdus)}.")
        return found
    try:
        number = hdus.index_of(hdu)
        image = hdus[number]
    except (KeyError, IndexError):
        raise HDUError(f"{path!r} has no HDU {hdu!r}. It has {_contents(hdus)}.") from None
    if number < 0:
        number += len(hdus)
    if not _is_image(image):
        raise HDUError(f"HDU {hdu!r} of {path!r} is not a 2-D image or a cube. It has {_contents(hdus)}.")
    return number


def _first_image(hdus: fits.HDUList) -> int | None:
    cube = None
    for number, image in enumerate(hdus):
        if _is_image(image):
            if len(image.shape) - _leading_axes(image.shape) == 2:
                return number
            cube = number if cube is None else cube
    return cube


def _is_image(hdu) -> bool:
    if not hdu.is_image or not hdu.shape or min(hdu.shape) < 1:
        return False
    return len(hdu.shape) - _leading_axes(hdu.shape) in (2, 3)


def _leading_axes(shape: tuple[int, ...]) -> int:
    """Count the axes of length 1 in front of the last two, as radio images have them."""
    count = 0
    while len(shape) - count > 2 and shape[count] == 1:
        count += 1
    return count


def _contents(hdus: fits.HDUList) -> str:
    parts = []
    for number, hdu in enumerate(hdus):
        what = "x".join(map(str, hdu.shape)) if hdu.is_image and hdu.shape else type(hdu).__name__
        parts.append(f"{number}: {hdu.name or '(no name)'} {what if hdu.is_image and hdu.shape else '(no image)'}")
    return "; ".join(parts)
