"""Blocks of FITS images, read where they are used.

A :class:`FitsPlane` knows a path, an HDU and where its pixels lie: a few hundred bytes that pickle to any
worker. Indexing it reads the bytes asked for and little more. The graph therefore holds no open file.

Plain images are read straight from their byte offsets: a map of the region where the file is local, byte
ranges where it is remote. Per row of a block astropy's ``.section`` runs Python code under the GIL, which made
square blocks seven times slower than this. Tile-compressed images go through ``.section``, with a file handle
for every thread: a handle shared by threads gives wrong pixels. HCOMPRESS tiles are read by one thread at a time.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import fsspec
import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from fsspec.compression import compr
from fsspec.implementations.memory import MemoryFileSystem

from galprep_dask.errors import HDUError, ImageFileError, ImageNotFoundError
from galprep_dask.image import WARNINGS_LOCK, header_text, parse_header

__all__ = ["FitsPlane", "find_plane", "is_remote"]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x1f\x9d": "compress"}

#: Gap between the rows of a block above which only its own pages are asked of the disk.
_NARROW_GAP = 16 * 1024

#: astropy's decoder of HCOMPRESS keeps its state in C globals and lets go of the GIL: two threads in it mix
#: up their pixels, with no error as a rule, even if each has a file of its own.
_HCOMPRESS_LOCK = threading.Lock()

_PAGE = mmap.ALLOCATIONGRANULARITY


class _Scaling(NamedTuple):
    """How stored numbers become pixel values (FITS standard 4.0, section 4.4.2.5)."""

    bitpix: int
    bscale: float
    bzero: float
    blank: int | None

    @classmethod
    def of(cls, header: fits.Header) -> _Scaling:
        bitpix = header["BITPIX"]
        blank = header.get("BLANK") if bitpix > 0 else None
        return cls(bitpix, header.get("BSCALE", 1), header.get("BZERO", 0), blank)

    @property
    def stored(self) -> np.dtype:
        kind = "f" if self.bitpix < 0 else "u" if self.bitpix == 8 else "i"
        return np.dtype(f">{kind}{abs(self.bitpix) // 8}")

    @property
    def integer_offset(self) -> np.dtype | None:
        """The integer type that BZERO stands for, if it does: unsigned, or signed bytes."""
        if self.bscale == 1 and self.bitpix > 0:
            if self.bitpix == 8 and self.bzero == -128:
                return np.dtype("i1")
            if self.bitpix > 8 and self.bzero == 1 << (self.bitpix - 1):
                return np.dtype(f"u{self.bitpix // 8}")
        return None

    @property
    def dtype(self) -> np.dtype:
        """Native dtype of the pixel values, the one that astropy gives."""
        if (self.bscale, self.bzero, self.blank) == (1, 0, None):
            return self.stored.newbyteorder("=")
        if self.integer_offset is not None:
            return self.integer_offset
        if self.bitpix > 0:
            return np.dtype("f8" if self.bitpix > 16 else "f4")
        return self.stored.newbyteorder("=")

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """Turn stored big-endian numbers into pixel values; always a new array."""
        values = stored.astype(self.dtype)
        if self.integer_offset is not None:
            if self.integer_offset.kind == "u":
                values -= self.integer_offset.type(1 << (self.bitpix - 1))
            else:
                values = (stored.astype("i2") - 128).astype("i1")
            return values
        if self.bscale != 1:
            np.multiply(values, self.bscale, values)
        if self.bzero != 0:
            values += self.bzero
        if self.blank:  # astropy leaves BLANK = 0 alone, and values are to equal astropy's
            values[stored == self.blank] = np.nan
        return values


@dataclass(frozen=True)
class FitsPlane:
    """
    The image of one HDU as an array that reads what it is indexed with.

    Attributes
    ----------
    path : str
        Local path or URL.
    hdu : int
        Index of the HDU.
    shape : tuple of int
        Axes in NumPy order, leading axes of length 1 left out.
    dtype : dtype
        Native dtype that blocks are given in.
    header, primary : Header
        Headers of the HDU and of the primary; not part of what is pickled into a graph.
    tile : tuple of int or None
        Shape of the tiles of a tile-compressed image.
    compression : str or None
        How the tiles are compressed.
    container : str or None
        "gzip" and the like, where the whole file is compressed and every read takes all of it.
    """

    path: str
    hdu: int
    shape: tuple[int, ...]
    dtype: np.dtype
    scaling: _Scaling
    offset: int
    leading: int
    identity: tuple
    tile: tuple[int, ...] | None = None
    compression: str | None = None
    container: str | None = None
    storage_options: tuple[tuple[str, Any], ...] = ()
    header: fits.Header | None = field(default=None, compare=False, repr=False)
    primary: fits.Header | None = field(default=None, compare=False, repr=False)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def place(self) -> str:
        """The image's name in an error."""
        return f"{self.path!r} [HDU {self.hdu}]"

    def as_dtype(self, dtype) -> FitsPlane:
        """Give the same plane, with its blocks in another dtype and without the headers."""
        return replace(self, dtype=np.dtype(dtype), header=None, primary=None)

    def __dask_tokenize__(self):
        return (type(self).__name__, self.path, self.hdu, str(self.dtype), self.identity)

    def __getitem__(self, index) -> np.ndarray:
        """Read the box around what is wanted; dask hands on slices, integers, one list, and None."""
        index = index if isinstance(index, tuple) else (index,)
        index += (slice(None),) * (self.ndim - sum(axis is not None for axis in index))
        axes = [axis for axis in index if axis is not None]
        spans = [_span(axis, n) for axis, n in zip(axes, self.shape, strict=True)]
        block = self._read(tuple(region for region, _ in spans))
        for n, (_, rest) in enumerate(spans):
            if isinstance(rest, np.ndarray):
                block = block.take(rest, axis=n)
        rests = iter(slice(None) if isinstance(rest, np.ndarray) else rest for _, rest in spans)
        view = tuple(None if axis is None else next(rests) for axis in index)
        # dask copies a result that does not own its pixels.
        return block if all(axis in (slice(None), slice(None, None, 1)) for axis in view) else block[view]

    def _read(self, region: tuple[slice, ...]) -> np.ndarray:
        if any(axis.start == axis.stop for axis in region):
            return np.empty([axis.stop - axis.start for axis in region], self.dtype)
        self._check_unchanged()
        with _clear_errors(self.path, self.hdu):
            if self.tile is not None or self.container is not None:
                values = self._through_astropy(region)
            else:
                values = self._remote_values(region) if is_remote(self.path) else self._local_values(region)
        return np.ascontiguousarray(values, dtype=self.dtype)

    def _check_unchanged(self) -> None:
        if not is_remote(self.path) and _identity(self.path, {}) != self.identity:
            raise ImageFileError(f"{self.path!r} was changed since it was opened. Open it again.")

    def _extent(self, region) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """First and last byte of a region in the file, its shape and its strides."""
        item = self.scaling.stored.itemsize
        strides = tuple(item * int(np.prod(self.shape[n + 1 :])) for n in range(self.ndim))
        shape = tuple(axis.stop - axis.start for axis in region)
        first = self.offset + sum(axis.start * step for axis, step in zip(region, strides, strict=True))
        last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + item
        return first, last, shape, strides

    def _local_values(self, region) -> np.ndarray:
        first, last, shape, strides = self._extent(region)
        base = first - first % _PAGE
        with open(self.path, "rb") as file:
            # No with: closing a map that an array still looks into fails, and would hide a MemoryError.
            mapped = mmap.mmap(file.fileno(), last - base, offset=base, access=mmap.ACCESS_READ)
        _read_ahead(mapped, first - base, shape, strides, self.scaling.stored.itemsize)
        return self.scaling.apply(np.ndarray(shape, self.scaling.stored, mapped, first - base, strides))

    def _remote_values(self, region) -> np.ndarray:
        first, _, shape, strides = self._extent(region)
        rows, length = _contiguous_runs(shape, strides, self.scaling.stored.itemsize)
        starts = [first + row for row in rows]
        stops = [start + length for start in starts]
        filesystem, path = fsspec.core.url_to_fs(self.path, **dict(self.storage_options))
        parts = filesystem.cat_ranges([path] * len(starts), starts, stops, on_error="raise")
        stored = np.frombuffer(b"".join(parts), self.scaling.stored)
        if stored.size != np.prod(shape):
            raise ImageFileError(f"{self.place} gave fewer bytes than its header promises: it is truncated.")
        return self.scaling.apply(stored.reshape(shape))

    def _through_astropy(self, region) -> np.ndarray:
        full = (0,) * self.leading + region
        if self.container is not None:
            with _open_hdus(self.path, dict(self.storage_options), self.container) as hdus:
                return hdus[self.hdu].data[full]
        section = _handles.get(self.path, self.identity, self.storage_options)[self.hdu].section
        with _HCOMPRESS_LOCK if self.compression == "HCOMPRESS_1" else nullcontext():
            return section[full]


def _span(index, length: int) -> tuple[slice, int | slice | np.ndarray]:
    """Split an index of one axis into the span to be read and what to take of it."""
    if isinstance(index, slice):
        start, stop, step = index.indices(length)
        if step < 1:
            raise IndexError("an image on disk is read forwards: use positive steps")
        return slice(start, max(start, stop)), slice(None, None, step)
    wanted = np.asarray(index)
    if wanted.dtype == bool:
        wanted = np.flatnonzero(wanted)
    elif wanted.size == 0:
        wanted = wanted.astype(int)
    wanted = np.where(wanted < 0, wanted + length, wanted)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < length):
        raise IndexError(f"index {index} is out of bounds for an axis of {length}")
    start = int(wanted.min(initial=length)) if wanted.size else 0
    stop = int(wanted.max(initial=-1)) + 1
    return slice(start, stop), (wanted - start if wanted.ndim else 0)


def _contiguous_runs(shape, strides, item) -> tuple[list[int], int]:
    """Byte offsets, from the first pixel, of the contiguous runs of a region, and their common length."""
    length, axis = item, len(shape)
    while axis and strides[axis - 1] == length:
        axis -= 1
        length *= shape[axis]
    offsets = [0]
    for n, step in zip(shape[:axis], strides[:axis], strict=True):
        offsets = [offset + i * step for offset in offsets for i in range(n)]
    return offsets, length


def _read_ahead(mapped: mmap.mmap, first: int, shape, strides, item: int) -> None:
    """
    Ask the disk for the pages of a block, all at once, and for no others.

    Left alone, the kernel reads from 128 KiB up to some MiB around each page that is touched: of a wide
    mosaic, many times the block. Not every platform has the call, and nothing but speed depends on it.
    """
    offsets, length = _contiguous_runs(shape, strides, item)
    if not hasattr(mmap, "MADV_WILLNEED") or (len(offsets) > 1 and strides[-2] - length < _NARROW_GAP):
        return
    mapped.madvise(mmap.MADV_RANDOM)
    for offset in offsets:
        start = (first + offset) // _PAGE * _PAGE
        mapped.madvise(mmap.MADV_WILLNEED, start, first + offset + length - start)


# Finding an HDU -------------------------------------------------------------------------------------------


def is_remote(path: str) -> bool:
    """Tell whether a path is a URL that only fsspec can read."""
    return "://" in path and not path.startswith(("file://", "local://"))


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
    path = path if is_remote(path) else os.path.abspath(_local(path))
    options = dict(storage_options or {})
    container = _container(path, options)
    identity = _identity(path, options)
    with _clear_errors(path, hdu), _without_format_warnings(), _open_hdus(path, options, container) as hdus:
        number = _image_hdu(hdus, path, hdu)
        image = hdus[number]
        leading = _leading_axes(image.shape)
        scaling = _Scaling.of(image.header)
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


def _mended(header: fits.Header) -> fits.Header:
    """Copy a header by way of its text, in which astropy mends what it can, here where its warnings are kept back."""
    return parse_header(header_text(header))


def _check_complete(plane: FitsPlane, options: dict) -> None:
    """Raise ImageFileError where the file ends before the data of its HDU do."""
    with (
        _clear_errors(plane.path, plane.hdu),
        _without_format_warnings(),
        _open_hdus(plane.path, options, disable_image_compression=True) as hdus,
    ):
        stored = hdus[plane.hdu]
        end = stored.fileinfo()["datLoc"] + stored.size
    size = plane.identity[0]
    if size is not None and size < end:
        raise ImageFileError(
            f"{plane.place} is truncated: its header promises {end} bytes, the file has {size}. "
            "Fetch or write it again."
        )


def _container(path: str, options: dict) -> str | None:
    """Name the compression of the file as a whole, by its first bytes."""
    with _clear_errors(path, None), _open_bytes(path, options) as file:
        head = file.read(6)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def _identity(path: str, options: dict) -> tuple:
    """Size and time, or what a remote store gives in their place: another tuple, another image."""
    with _clear_errors(path, None):
        if not is_remote(path):
            stat = os.stat(_local(path))
            return (stat.st_size, stat.st_mtime_ns)
        filesystem, inner = fsspec.core.url_to_fs(path, **options)
        info = filesystem.info(inner)
    marks = [info.get(name) for name in ("ETag", "etag", "mtime", "LastModified", "created")]
    return (info.get("size"), *(str(mark) for mark in marks if mark is not None))


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
    if not hdu.is_image or not hdu.shape or 0 in hdu.shape:
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


# Opening --------------------------------------------------------------------------------------------------


def _local(path: str) -> str:
    return os.path.expanduser(path.split("://", 1)[1] if "://" in path else path)


@contextmanager
def _open_bytes(path: str, options: dict, container: str | None = None) -> Iterator[Any]:
    if is_remote(path):
        # astropy unpacks local files by itself.
        unpack = {"gzip": "gzip", "bzip2": "bz2", "xz": "xz", "zip": "zip"}.get(container)
        # Small blocks: headers lie far apart in a large file, and what is between them is not wanted.
        filesystem, inner = fsspec.core.url_to_fs(path, **options)
        if isinstance(filesystem, MemoryFileSystem):
            # Its open() gives everyone the same file, with one position for all threads.
            file = io.BytesIO(filesystem.cat_file(inner))
            file = compr[unpack](file, mode="rb") if unpack else file
        else:
            file = filesystem.open(inner, "rb", block_size=256 * 1024, compression=unpack)
    else:
        file = open(_local(path), "rb")  # noqa: SIM115 - closed below, like its remote counterpart
    with file:
        yield file


@contextmanager
def _open_hdus(path: str, options: dict, container: str | None = None, **kwargs) -> Iterator[fits.HDUList]:
    with (
        _open_bytes(path, options, container) as file,
        fits.open(file, mode="readonly", memmap=False, **kwargs) as hdus,
    ):
        yield hdus


@contextmanager
def _without_format_warnings() -> Iterator[None]:
    """Keep astropy from warning of what is mended (keyword formats) or made an error (truncation) here."""
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        warnings.filterwarnings("ignore", message="File may have been truncated", category=AstropyUserWarning)
        yield


class _Handle:
    """An open HDUList that closes its file when it is dropped."""

    def __init__(self, path: str, options: dict):
        self._context = _open_hdus(path, options)
        self.hdus = self._context.__enter__()

    def __del__(self):
        self._context.__exit__(None, None, None)


class _Handles(threading.local):
    """The last few tile-compressed files that this thread has read from."""

    KEPT = 4

    def __init__(self):
        self._open: OrderedDict[tuple, _Handle] = OrderedDict()

    def get(self, path: str, identity: tuple, storage_options: tuple) -> fits.HDUList:
        key = (path, identity)
        if key not in self._open:
            while len(self._open) >= self.KEPT:
                self._open.popitem(last=False)
            self._open[key] = _Handle(path, dict(storage_options))
        self._open.move_to_end(key)
        return self._open[key].hdus


_handles = _Handles()


@contextmanager
def _clear_errors(path: str, hdu: int | str | None) -> Iterator[None]:
    """Turn what a file system or astropy raises into an error that names the file."""
    place = repr(path) if hdu is None else f"{path!r} [HDU {hdu}]"
    try:
        yield
    except (HDUError, ImageFileError, ImageNotFoundError, MemoryError):
        raise
    except FileNotFoundError as error:
        # fsspec says that also of a server that is out of order or out of reach.
        answer = error.__cause__ if type(error.__cause__).__module__.startswith("aiohttp") else None
        if answer is None or getattr(answer, "status", None) == 404:
            raise ImageNotFoundError(f"there is no file {path!r}. Check the path.") from error
        raise ImageFileError(f"{place} cannot be read: {answer}. Check the address and the network.") from error
    except IsADirectoryError as error:
        raise ImageFileError(f"{path!r} is a directory, and no Zarr store. Name a FITS file.") from error
    except PermissionError as error:
        raise ImageFileError(f"{path!r} may not be read: {error.strerror}. Check its permissions.") from error
    except Exception as error:  # astropy, zlib and the file systems of fsspec raise many kinds
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError(f"{place} could not be mapped: {error.strerror}. Use smaller chunks.") from error
        hint = "It may be truncated, damaged or of another format."
        if is_remote(path):
            hint = f"Check the address, the network and storage_options. {hint}"
        message = str(error) or type(error).__name__
        raise ImageFileError(f"{place} cannot be read as FITS: {message}. {hint}") from error
