"""``write_image``: an image Dataset of any size to one FITS file, in bounded memory.

The file is allocated at its final size, headers in place; then every block is written into its own region by
the task that computed it, from threads, processes or the workers of a cluster alike. The file has a temporary
name until it is complete.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
import xarray as xr
from astropy.io import fits
from dask.layers import ArraySliceDep

from galprep_dask._version import __version__
from galprep_dask.arrays import as_image
from galprep_dask.cluster import computes_on_cluster
from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.image import PLANES, float_dtype, image_header, int32_labels, make_image
from galprep_dask.io.atomic import atomic_path
from galprep_dask.io.files import local_path
from galprep_dask.io.fits_reader import contiguous_runs
from galprep_dask.io.fits_tiles import write_tiled
from galprep_dask.io.header import KEYWORDS
from galprep_dask.io.page_cache import is_passing, let_go_beside
from galprep_dask.io.zarr import write_zarr_image

__all__ = ["STRUCTURE", "image_hdus", "write_hdus", "write_image"]

#: Keywords that describe how pixels are stored; those of the source say nothing about the file written.
STRUCTURE = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS4", "EXTEND", "PCOUNT", "GCOUNT",
    "GROUPS", "BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "ZHECKSUM", "ZDATASUM", "EXTNAME", "EXTVER",
    "INHERIT", "NEXTEND", "GPPLANES",
)  # fmt: skip

_BLOCK = 2880  # FITS files are made of blocks of this size

#: Bytes of a row of a block from which on it is written by a call of its own, and at a time.
_LONG_RUN, _PIECE = 16 * 1024, 2**20


def write_image(
    image: xr.Dataset,
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
    compression: str | None = None,
    quantize_level: float | None = None,
    history: Iterable[str] = (),
) -> Path:
    """
    Write an image and its planes to one file, block by block.

    Parameters
    ----------
    image : Dataset
        From :func:`galprep_dask.open_image`, or a 2-D array.
    path : str or path
        The file; a name that ends in ``.zarr`` gives a Zarr store.
    overwrite : bool
        Whether a file that exists may be replaced.
    compression : {None, "GZIP_1", "GZIP_2", "RICE_1"}
        Tile compression. GZIP_1 and GZIP_2 keep every bit. RICE_1 keeps every bit of integers, and
        quantises floats.
    quantize_level : float, optional
        Steps of the quantisation of floats: this many to the noise of a tile; 16 by default for RICE_1,
        and no quantisation for GZIP.
    history : iterable of str
        Lines for HISTORY.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    OutputExistsError, OutputError
        The file exists, or cannot be written (no such directory, no permission, disk full). Nothing
        half-written stays, and what was there before is as it was.
    ParameterError
        No such compression, or ``path`` is a URL.

    Notes
    -----
    HDU 0 is ``data``, with the header of the image; the planes follow as extensions MASK (uint8, 1 = bad), SIGMA,
    WEIGHT and SEGMENTATION, and ``open_image`` gives them back. Tile compression puts an empty primary HDU
    in front. Only the blocks in work are in memory.

    Examples
    --------
    >>> import tempfile, galprep_dask
    >>> folder = tempfile.TemporaryDirectory()
    >>> image = galprep_dask.open_image(np.arange(12.0).reshape(3, 4))
    >>> path = write_image(image, folder.name + "/image.fits")
    >>> bool((galprep_dask.open_image(path)["data"] == image["data"]).all())
    True
    >>> folder.cleanup()
    """
    if not isinstance(image, xr.Dataset):
        image = make_image(as_image(image))
    if "data" not in image:
        raise ImageShapeError(f"a Dataset with variables {list(image.data_vars)} is no image; expected 'data'.")
    if os.fspath(path).rstrip("/").endswith(".zarr"):
        if compression is not None:
            raise ParameterError(f"compression={compression!r} is for FITS; Zarr stores have their own.")
        return write_zarr_image(image, path, overwrite)
    return write_hdus(
        image_hdus(image, history), path, overwrite=overwrite, compression=compression, quantize_level=quantize_level
    )


def write_hdus(
    hdus: list[tuple[fits.Header, da.Array]],
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
    compression: str | None = None,
    quantize_level: float | None = None,
    along: tuple[da.Array, Callable[[np.ndarray, fits.Header], None]] | None = None,
) -> Path:
    """
    Write headers and pixels to one FITS file, block by block, as they are.

    Parameters
    ----------
    hdus : list of (Header, dask array)
        One for every HDU: keywords but for structural ones, the first with GPVERS, and pixels of the dtype to be
        stored.
    path : str or path
        The file.
    overwrite, compression, quantize_level
        As for :func:`write_image`.
    along : (dask array, callable), optional
        What is computed in the same pass over the pixels, and a function that is given it and the first header, to set
        cards that are there already. Not of compressed files.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    OutputExistsError, OutputError, ParameterError
        As for :func:`write_image`.
    """
    if os.fspath(path).endswith((".gz", ".bz2", ".xz", ".zip")):
        raise ParameterError(
            f"cannot write {os.fspath(path)!r}: files that are compressed as a whole cannot be written in parts. "
            "Leave the ending away, and pass compression= to compress by tiles."
        )
    with atomic_path(path, overwrite) as temporary:
        if compression is None:
            _write_plain(hdus, temporary, along)
        else:
            write_tiled(hdus, temporary, compression, quantize_level)
    return Path(local_path(os.fspath(path)))


def image_hdus(image: xr.Dataset, history: Iterable[str] = ()) -> list[tuple[fits.Header, da.Array]]:
    """
    List the header and the pixels of every HDU that an image is written to.

    Parameters
    ----------
    image : Dataset
        The image.
    history : iterable of str
        Lines for HISTORY.

    Returns
    -------
    list of (Header, dask array)
        Without structural keywords; the arrays have the dtype to be stored.
    """
    planes = [name for name in PLANES if name in image]
    header = image_header(image)
    for keyword in STRUCTURE:
        header.remove(keyword, ignore_missing=True, remove_all=True)
    for name, keywords in KEYWORDS.items():
        value = image.attrs.get(name)
        if value is not None and not any(header.get(key) == value for key in keywords[:1]):
            header[keywords[0]] = value
    if "unit" in image.attrs:
        header["BUNIT"] = (_ascii(image.attrs["unit"], "unit"), "unit of the pixels")
    header["GPVERS"] = (__version__, "version of galprep-dask that wrote this file")
    if planes:
        header["GPPLANES"] = (" ".join(planes), "planes in extensions")
    for line in [history] if isinstance(history, str) else history:
        header.add_history(_ascii(line, "history"))
    hdus = [(header, _storable(image["data"].data))]
    for name in planes:
        plane = _storable(image[name].data, name)
        extension = fits.Header([("EXTNAME", name.upper(), "")])
        if name == "mask":
            extension["EXTNAME"] = ("MASK", "1 marks bad pixels")
        elif name == "sigma" and "unit" in image.attrs:
            extension["BUNIT"] = (image.attrs["unit"], "unit of the pixels")
        hdus.append((extension, plane))
    return hdus


def _ascii(text: str, name: str) -> str:
    """Check that a header can hold a text."""
    if not (text.isascii() and text.isprintable()):
        raise ParameterError(f"{name}={text!r}: a FITS header holds printable ASCII only. Write it without others.")
    return text


def _storable(pixels, name: str = "data") -> da.Array:
    """Give pixels the dtype that they are stored in, whatever the Dataset was made by."""
    pixels = da.asarray(pixels)
    if name == "mask":
        return (pixels != 0).astype("u1")
    return int32_labels(pixels) if name == "segmentation" else pixels.astype(float_dtype(pixels.dtype))


@dataclass(frozen=True)
class _Region:
    """The pixels of one HDU in a file; assigning a block to a slice of it writes the block there."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype  # as stored, big-endian
    shared: bool  # whether other machines write to the file at the same time
    passing: bool = False  # whether the file is too large to stay in memory

    def __setitem__(self, index: tuple[slice, ...], block: np.ndarray) -> None:
        item = self.dtype.itemsize
        strides = tuple(item * math.prod(self.shape[n + 1 :]) for n in range(len(self.shape)))
        starts = [axis.indices(n)[0] for axis, n in zip(index, self.shape, strict=True)]
        first = self.offset + sum(start * step for start, step in zip(starts, strides, strict=True))
        if block.size == 0:
            return
        offsets, length = contiguous_runs(block.shape, strides, item)
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            if self.shared or length >= _LONG_RUN:
                self._write_runs(descriptor, first + np.array(offsets), block)
            else:
                self._write_mapped(descriptor, first, strides, block)
            if self.passing:
                let_go_beside(descriptor, self.offset, self.shape, item, starts, block.shape)
        finally:
            os.close(descriptor)

    def _write_mapped(self, descriptor: int, first: int, strides, block: np.ndarray) -> None:
        """Copy, swap bytes and store in one sweep without the GIL: of short rows, three times faster than by call."""
        span = sum((n - 1) * step for n, step in zip(block.shape, strides, strict=True)) + self.dtype.itemsize
        base = first - first % mmap.ALLOCATIONGRANULARITY
        # No with: closing a map that an array still looks into fails, and would hide what went wrong.
        mapped = mmap.mmap(descriptor, first + span - base, offset=base)
        np.ndarray(block.shape, self.dtype, mapped, first - base, strides)[...] = block

    def _write_runs(self, descriptor: int, positions: np.ndarray, block: np.ndarray) -> None:
        """
        Write run by run, so that no byte outside the block is touched, nor a page read or cleared to be written.

        Machines that map the same page of a network file would write back each other's old pixels.
        """
        runs = np.ascontiguousarray(block).reshape(len(positions), -1)
        swapped = np.empty(min(runs.shape[1], _PIECE // self.dtype.itemsize), self.dtype)
        for position, run in zip(positions.tolist(), runs, strict=True):
            for start in range(0, len(run), len(swapped)):
                piece = swapped[: len(run) - start]
                piece[...] = run[start : start + len(piece)]
                _write_at(descriptor, memoryview(piece).cast("B"), position + start * self.dtype.itemsize)


def _write_at(descriptor: int, piece: memoryview, position: int) -> None:
    while piece:
        written = os.pwrite(descriptor, piece, position)
        piece, position = piece[written:], position + written


def _write_plain(hdus, path: Path, along=None) -> None:
    headers, places, position = [], [], 0
    for number, (header, pixels) in enumerate(hdus):
        card_block = _structured(header, pixels, number, len(hdus)).tostring().encode("ascii")
        headers.append((position, card_block))
        offset = position + len(card_block)
        places.append((offset, pixels.shape, pixels.dtype.newbyteorder(">")))
        position = offset + -(-pixels.nbytes // _BLOCK) * _BLOCK
    shared, passing = computes_on_cluster(), is_passing(position)
    with open(path, "xb") as file:
        _allocate(file.fileno(), position)
        for start, block in headers:
            file.seek(start)
            file.write(block)
    targets = [_Region(str(path), *place, shared, passing) for place in places]
    pixels = [plane for _, plane in hdus]
    measured, record = (None, None) if along is None else along
    _, measured = dask.compute(_written(pixels, targets), measured)
    if along is not None:
        header = hdus[0][0].copy()
        record(measured, header)
        headers[0] = 0, _structured(header, pixels[0], 0, len(hdus)).tostring().encode("ascii")
    with open(path, "rb+") as file:
        if along is not None:
            file.write(headers[0][1])
        os.fsync(file.fileno())
        if passing:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _written(pixels: list[da.Array], targets: list[_Region]) -> list[da.Array]:
    """Write planes when what is given is computed: those of the same chunks together, a task for each block."""
    together: dict[tuple, list[int]] = {}
    for n, plane in enumerate(pixels):
        together.setdefault(plane.chunks, []).append(n)
    written = []
    for chunks, members in together.items():
        axes = tuple(range(len(chunks)))
        written.append(da.blockwise(
            partial(_write_blocks, [targets[n] for n in members]), axes, ArraySliceDep(chunks), axes,
            *[part for n in members for part in (pixels[n], axes)],
            name=f"written-{uuid4().hex}",  # what is done to a file is never taken for done before
            adjust_chunks=dict.fromkeys(axes, 1), dtype=bool, meta=np.empty((0,) * len(axes), bool), align_arrays=False,
        ))  # fmt: skip
    return written


def _write_blocks(targets, index, *blocks):
    for target, block in zip(targets, blocks, strict=True):
        target[index] = np.asarray(block)
    return np.ones((1,) * len(index), bool)


def _structured(header: fits.Header, pixels: da.Array, number: int, count: int) -> fits.Header:
    """Put the mandatory keywords in front of a header."""
    bitpix = pixels.dtype.itemsize * (-8 if pixels.dtype.kind == "f" else 8)
    first = ("SIMPLE", True, "conforms to FITS standard") if number == 0 else ("XTENSION", "IMAGE", "image extension")
    cards = [first, ("BITPIX", bitpix, "array data type"), ("NAXIS", pixels.ndim, "number of array dimensions")]
    cards += [(f"NAXIS{n}", length) for n, length in enumerate(reversed(pixels.shape), start=1)]
    if number:
        cards += [("PCOUNT", 0, "number of parameters"), ("GCOUNT", 1, "number of groups")]
    elif count > 1:
        cards.append(("EXTEND", True, "extensions follow"))
    full = fits.Header(cards)
    full.extend(header.cards, strip=False, end=True)
    return full


def _allocate(descriptor: int, size: int) -> None:
    """Take the space at once, so that a full disk is known before any block is computed."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(descriptor, size)
