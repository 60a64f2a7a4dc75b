"""Blocks of FITS images, read where they are used.

A :class:`FitsPlane` knows a path, an HDU and where its pixels lie: a few hundred bytes that pickle to any
worker. Indexing it reads the bytes asked for and little more. The graph therefore holds no open file.

Plain images are read straight from their byte offsets: a map of the region where the file is local, byte
ranges where it is remote. Per row of a block astropy's ``.section`` runs Python code under the GIL, which made
square blocks seven times slower than this. Tile-compressed images go through ``.section``, with a file handle
for every thread: a handle shared by threads gives wrong pixels. HCOMPRESS tiles are read by one thread at a time.
What was unpacked is kept a while (:mod:`galprep_dask.io.unpacked`), for the chunks beside and for the next pass.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from dask.array.core import getter

from galprep_dask.errors import ImageFileError
from galprep_dask.io.byte_ranges import read_ranges
from galprep_dask.io.files import clear_errors, identity_of, is_remote, open_hdus, thread_hdus
from galprep_dask.io.page_cache import is_passing
from galprep_dask.io.unpacked import Unpacked

__all__ = ["FitsPlane", "Scaling", "contiguous_runs", "reader_of"]

#: Gap between the rows of a block above which only its own pages are asked of the disk.
_NARROW_GAP = 16 * 1024

#: astropy's decoder of HCOMPRESS keeps its state in C globals and lets go of the GIL: two threads in it mix
#: up their pixels, with no error as a rule, even if each has a file of its own.
_HCOMPRESS_LOCK = threading.Lock()

#: Unpacked pixels that a process keeps.
_unpacked = Unpacked(n_bytes=128 * 2**20)

_PAGE = mmap.ALLOCATIONGRANULARITY

_PIECE = 2**20  # bytes of a run read at a time
_LONGEST_SPAN = 64 * 2**20  # bytes read in one piece for regions that are on most of their pages, at most


class Scaling(NamedTuple):
    """How stored numbers become pixel values (FITS standard 4.0, section 4.4.2.5)."""

    bitpix: int
    bscale: float
    bzero: float
    blank: int | None

    @classmethod
    def of(cls, header: fits.Header) -> Scaling:
        """Read the scaling from a header; OSError, as of a file that cannot be read, where it makes no sense."""
        bitpix, bscale, bzero = header["BITPIX"], header.get("BSCALE", 1), header.get("BZERO", 0)
        if bitpix not in (8, 16, 32, 64, -32, -64):
            raise OSError(f"BITPIX is {bitpix!r}; expected 8, 16, 32, 64, -32 or -64")
        blank = header.get("BLANK") if bitpix > 0 else None
        for keyword, value in {"BSCALE": bscale, "BZERO": bzero, "BLANK": blank}.items():
            if isinstance(value, str):
                raise OSError(f"{keyword} is {value!r}; expected a number")
        return cls(bitpix, bscale, bzero, blank)

    @property
    def stored(self) -> np.dtype:
        """Big-endian dtype of the numbers in the file."""
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
    scaling: Scaling
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
            return np.empty(_shape(region), self.dtype)
        self._check_unchanged()
        with clear_errors(self.path, self.hdu):
            if self.tile is not None or self.container is not None:
                values = self._unpacked_values(region)
            else:
                values = self._remote_values(region) if is_remote(self.path) else self._local_values(region)
        return np.ascontiguousarray(values, dtype=self.dtype)

    @property
    def has_windows(self) -> bool:
        """Whether a part of a block costs little more than its own pixels: the image is plain."""
        return self.tile is None and self.container is None

    def windows(self, regions: list[tuple[slice, ...]]) -> list[np.ndarray]:
        """
        Read several regions, through one map of which only the pages are touched that they are on, or by byte ranges.

        Where they are on most pages from the first to the last, these are read in one piece.

        Parameters
        ----------
        regions : list of tuples of slices
            With start and stop, inside the image; none of them empty.

        Returns
        -------
        list of arrays
            Of the plane's dtype, each with pixels of its own.
        """
        self._check_unchanged()
        if is_remote(self.path):
            with clear_errors(self.path, self.hdu):
                return [np.ascontiguousarray(values, self.dtype) for values in self._remote_windows(regions)]
        hull = tuple(
            slice(min(axis.start for axis in axes), max(axis.stop for axis in axes))
            for axes in zip(*regions, strict=True)
        )
        with clear_errors(self.path, self.hdu):
            stored = self._span(hull) if self._is_dense(regions, hull) else self._mapped(hull)[0]
            values = []
            for region in regions:
                own = tuple(slice(r.start - h.start, r.stop - h.start) for r, h in zip(region, hull, strict=True))
                values.append(np.ascontiguousarray(self.scaling.apply(stored[own]), dtype=self.dtype))
        return values

    def _is_dense(self, regions, hull) -> bool:
        """Whether the bytes from a hull's first to its last are few, mostly its own, and most of their pages wanted."""
        first, last, shape, _ = self._extent(hull)
        n_rows = sum(math.prod(_shape(region)[:-1]) for region in regions)  # each on a page at least
        own = self.scaling.stored.itemsize * math.prod(shape)
        return last - first < min(2 * _PAGE * n_rows, 2 * own, _LONGEST_SPAN)

    def _check_unchanged(self) -> None:
        if not is_remote(self.path) and identity_of(self.path, {}) != self.identity:
            raise ImageFileError(f"{self.path!r} was changed since it was opened. Open it again.")

    def _extent(self, region) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """First and last byte of a region in the file, its shape and its strides."""
        item = self.scaling.stored.itemsize
        strides = tuple(item * int(np.prod(self.shape[n + 1 :])) for n in range(self.ndim))
        shape = tuple(_shape(region))
        first = self.offset + sum(axis.start * step for axis, step in zip(region, strides, strict=True))
        last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + item
        return first, last, shape, strides

    def _local_values(self, region) -> np.ndarray:
        first, last, shape, _ = self._extent(region)
        if last - first == self.scaling.stored.itemsize * math.prod(shape):
            return self._run_of_pixels(first, shape)
        stored, mapped, first = self._mapped(region)
        _read_ahead(mapped, first, stored.shape, stored.strides, stored.itemsize)
        return self.scaling.apply(stored)

    def _run_of_pixels(self, first: int, shape: tuple[int, ...]) -> np.ndarray:
        """
        Read one run of bytes without a map, whose pages would be faulted in one after the other.

        A piece at a time, which is still in the processor's cache when its numbers are made pixels.
        """
        values = np.empty(math.prod(shape), self.scaling.dtype)
        stored = np.empty(min(values.size, _PIECE // self.scaling.stored.itemsize), self.scaling.stored)
        with open(self.path, "rb", buffering=0) as file:
            _ask_for(file, first, values.size * stored.itemsize)
            for start in range(0, values.size, stored.size):
                piece = stored[: values.size - start]
                self._fill(file, memoryview(piece).cast("B"))
                values[start : start + piece.size] = self.scaling.apply(piece)
        return values.reshape(shape)

    def _fill(self, file, wanted: memoryview) -> None:
        while wanted:
            n_bytes = file.readinto(wanted)
            if not n_bytes:
                raise ImageFileError(f"{self.place} has fewer bytes than its header promises: it is truncated.")
            wanted = wanted[n_bytes:]

    def _span(self, region) -> np.ndarray:
        """
        Read all bytes from the first of a region to its last, in one piece: give its stored numbers.

        Of a file that does not stay in memory, they leave room for the next.
        """
        first, last, shape, strides = self._extent(region)
        span = np.empty(last - first, np.uint8)
        with open(self.path, "rb", buffering=0) as file:
            _ask_for(file, first, last - first)
            self._fill(file, memoryview(span))
            if is_passing(os.fstat(file.fileno()).st_size):
                os.posix_fadvise(file.fileno(), first, last - first, os.POSIX_FADV_DONTNEED)
        return np.ndarray(shape, self.scaling.stored, span, 0, strides)

    def _mapped(self, region) -> tuple[np.ndarray, mmap.mmap, int]:
        """Map a region of the file: give its stored numbers, the map, and where in it they begin."""
        first, last, shape, strides = self._extent(region)
        base = first - first % _PAGE
        with open(self.path, "rb") as file:
            # No with: closing a map that an array still looks into fails, and would hide a MemoryError.
            mapped = mmap.mmap(file.fileno(), last - base, offset=base, access=mmap.ACCESS_READ)
        return np.ndarray(shape, self.scaling.stored, mapped, first - base, strides), mapped, first - base

    def _remote_values(self, region) -> np.ndarray:
        return self._remote_windows([region])[0]

    def _remote_windows(self, regions) -> list[np.ndarray]:
        runs = []
        for region in regions:
            first, _, shape, strides = self._extent(region)
            offsets, length = contiguous_runs(shape, strides, self.scaling.stored.itemsize)
            runs.append((first + np.array(offsets), length))
        starts, stops = (np.concatenate([begin + end * length for begin, length in runs]) for end in (0, 1))
        read = read_ranges(self.path, dict(self.storage_options), starts, stops)
        values = []
        for region, (begin, length) in zip(regions, runs, strict=True):
            rows = [read.at(start, start + length) for start in begin.tolist()]
            if any(row is None for row in rows):
                raise ImageFileError(f"{self.place} gave fewer bytes than its header promises: it is truncated.")
            stored = np.frombuffer(rows[0] if len(rows) == 1 else b"".join(rows), self.scaling.stored)
            values.append(self.scaling.apply(stored.reshape(_shape(region))))
        return values

    def _unpacked_values(self, region) -> np.ndarray:
        around = self._unpacked_with(region)
        n_bytes, n_around = (self.dtype.itemsize * math.prod(n) for n in (self.shape, _shape(around)))
        is_exact = around == region and n_bytes > _unpacked.n_bytes  # for nobody beside, and gone by the next pass
        if is_exact or n_around > _unpacked.n_bytes:
            return self._through_astropy(region)
        image = self.path, self.identity, self.hdu
        return _unpacked.read(image, region, around, lambda: self._through_astropy(around)).copy()

    def _unpacked_with(self, region) -> tuple[slice, ...]:
        """Give the region that comes out when ``region`` is unpacked: its tiles, or all of a compressed file."""
        if self.container is not None:
            return tuple(slice(0, n) for n in self.shape)
        return tuple(
            slice(axis.start // side * side, min(-(-axis.stop // side) * side, n))
            for axis, side, n in zip(region, self.tile, self.shape, strict=True)
        )

    def _through_astropy(self, region) -> np.ndarray:
        full = (0,) * self.leading + region
        if self.container is not None:
            with open_hdus(self.path, dict(self.storage_options), self.container) as hdus:
                return hdus[self.hdu].data[full]
        section = thread_hdus(self.path, self.identity, self.storage_options)[self.hdu].section
        with _HCOMPRESS_LOCK if self.compression == "HCOMPRESS_1" else nullcontext():
            return section[full]


def _shape(region) -> list[int]:
    return [axis.stop - axis.start for axis in region]


def reader_of(array) -> FitsPlane | None:
    """
    Give what the blocks of a dask array are read from, where they are that and nothing else.

    Parameters
    ----------
    array : dask array
        Any.

    Returns
    -------
    FitsPlane or None
        None where something is computed, or where parts of a block cost as much as the whole.
    """
    layer = array.dask.layers.get(array.name)
    if getattr(getattr(layer, "task", None), "func", None) is not getter:
        return None
    found = [value for value, axes in layer.indices if axes is None and isinstance(value, FitsPlane)]
    same = len(found) == 1 and (found[0].shape, found[0].dtype) == (array.shape, array.dtype)
    return found[0] if same and found[0].has_windows else None


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


def contiguous_runs(shape, strides, item) -> tuple[list[int], int]:
    """Byte offsets, from the first pixel, of the contiguous runs of a region, and their common length."""
    length, axis = item, len(shape)
    while axis and strides[axis - 1] == length:
        axis -= 1
        length *= shape[axis]
    offsets = [0]
    for n, step in zip(shape[:axis], strides[:axis], strict=True):
        offsets = [offset + i * step for offset in offsets for i in range(n)]
    return offsets, length


def _ask_for(file, first: int, n_bytes: int) -> None:
    """Go to a run of bytes, and ask the disk for all of it at once and for nothing beyond."""
    if hasattr(os, "posix_fadvise"):
        for advice in (os.POSIX_FADV_RANDOM, os.POSIX_FADV_WILLNEED):
            os.posix_fadvise(file.fileno(), first, n_bytes, advice)
    file.seek(first)


def _read_ahead(mapped: mmap.mmap, first: int, shape, strides, item: int) -> None:
    """
    Ask the disk for the pages of a block, all at once, and for no others.

    Left alone, the kernel reads from 128 KiB up to some MiB around each page that is touched: of a wide
    mosaic, many times the block. Not every platform has the call, and nothing but speed depends on it.
    """
    offsets, length = contiguous_runs(shape, strides, item)
    if not hasattr(mmap, "MADV_WILLNEED") or (len(offsets) > 1 and strides[-2] - length < _NARROW_GAP):
        return
    mapped.madvise(mmap.MADV_RANDOM)
    for offset in offsets:
        start = (first + offset) // _PAGE * _PAGE
        mapped.madvise(mmap.MADV_WILLNEED, start, first + offset + length - start)
