"""Tile-compressed FITS, written band by band.

A tile-compressed image is a table with one row per tile, whose variable-length columns point into a heap.
Tiles know nothing of each other, so bands of whole tiles are compressed apart, each by astropy, and their tables
and heaps are strung together, with the pointers moved. Only the bands in work are in memory.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import dask
import dask.array as da
import numpy as np
from astropy.io import fits

from galprep_dask.errors import ParameterError

__all__ = ["write_tiled"]

_LOSSLESS = ("GZIP_1", "GZIP_2")
_TYPES = (*_LOSSLESS, "RICE_1")
_BAND_PIXELS = 4 * 2**20
_DITHER_PERIOD = 10000


def write_tiled(
    hdus: list[tuple[fits.Header, da.Array]], path: Path, compression: str, quantize_level: float | None
) -> None:
    """
    Write images as tile-compressed HDUs behind an empty primary.

    Parameters
    ----------
    hdus : list of (Header, (ny, nx) dask array)
        What is to be written.
    path : Path
        The file; parts are kept beside it while it is made.
    compression : str
        A FITS compression type.
    quantize_level : float or None
        Steps per noise for floats; None is 16 for lossy types, and no quantisation for GZIP.

    Raises
    ------
    ParameterError
        The compression type is unknown, or the image is a cube.
    """
    if compression not in _TYPES:
        raise ParameterError(f"compression={compression!r}; expected one of {', '.join(_TYPES)}, or None.")
    if any(pixels.ndim != 2 for _, pixels in hdus):
        raise ParameterError("cubes are written without tile compression. Pass compression=None.")
    if quantize_level is None:
        quantize_level = 0.0 if compression in _LOSSLESS else 16.0
    if quantize_level == 0 and compression not in _LOSSLESS and any(pixels.dtype.kind == "f" for _, pixels in hdus):
        raise ParameterError(
            f"quantize_level=0 keeps floats as they are, which {compression} cannot. Pass compression='GZIP_2'."
        )
    with open(path, "xb") as file:
        file.write(_primary(hdus[0][0]))
        for number, (header, pixels) in enumerate(hdus):
            if number == 0:
                header = header.copy()
                header["EXTNAME"] = "IMAGE"
            _append(file, header, pixels, compression, quantize_level, f"{path}.{number}")
        file.flush()
        os.fsync(file.fileno())


def _primary(header: fits.Header) -> bytes:
    primary = fits.PrimaryHDU().header
    primary["EXTEND"] = True
    primary["GPVERS"] = header["GPVERS"]
    return primary.tostring().encode("ascii")


class _Band(NamedTuple):
    """What became of one band: its table, where its heap lies, and the header astropy made for it."""

    table: np.ndarray
    heap: str
    heap_size: int
    header: str


def _append(file, header, pixels, compression, quantize_level, prefix) -> None:
    ny, nx = pixels.shape
    rows = max(1, _BAND_PIXELS // nx)
    sizes = tuple(min(rows, ny - start) for start in range(0, ny, rows))
    blocks = pixels.rechunk((sizes, (nx,))).to_delayed().ravel()
    work = dask.delayed(_compress_band, pure=False)
    bands = [work(block, compression, quantize_level, n * rows, f"{prefix}.{n}") for n, block in enumerate(blocks)]
    for n in range(len(blocks)):
        Path(f"{prefix}.{n}").touch()
    try:
        done = [_Band(*band) for band in dask.compute(*bands)]
        _string_together(file, header, pixels, done)
    finally:
        for n in range(len(blocks)):
            Path(f"{prefix}.{n}").unlink(missing_ok=True)


def _compress_band(block, compression, quantize_level, first_row, heap_path) -> tuple:
    """
    Compress some rows, a tile each as fpack does.

    The heap is left in a file, and the table that points into it is given back.
    """
    hdu = fits.CompImageHDU(
        np.asarray(block), compression_type=compression, quantize_level=quantize_level,
        tile_shape=(1, block.shape[1]), quantize_method=1,
        # Dithering is seeded by tile number; readers count tiles from the top of the whole image.
        dither_seed=first_row % _DITHER_PERIOD + 1,
    )  # fmt: skip
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    content = buffer.getvalue()
    buffer.seek(0)
    with fits.open(buffer, disable_image_compression=True) as hdus:
        stored = hdus[1]
        header, start = stored.header, stored.fileinfo()["datLoc"]
        width, count = header["NAXIS1"], header["NAXIS2"]
        columns = [_column(header, n) for n in range(1, header["TFIELDS"] + 1)]
    table = np.frombuffer(content, np.dtype(columns), count, start)
    heap = bytearray(content[start + header.get("THEAP", width * count) : start + width * count + header["PCOUNT"]])
    _without_times(heap, table)
    # The file is there already: a task that ends after the others have failed must not leave a new one.
    with open(heap_path, "rb+") as file:
        file.write(heap)
    return table.copy(), heap_path, len(heap), header.tostring()


def _without_times(heap: bytearray, table: np.ndarray) -> None:
    """Clear the time in the head of every gzip stream, so that the same image gives the same file."""
    for name in table.dtype.names:
        if table[name].ndim == 2:
            for start in table[name][table[name][:, 0] > 0, 1].tolist():
                if heap[start : start + 3] == b"\x1f\x8b\x08":
                    heap[start + 4 : start + 8] = bytes(4)


def _column(header: fits.Header, n: int) -> tuple:
    """Give the NumPy field of a table column: a pair (count, offset) for variable length, else a float."""
    form = header[f"TFORM{n}"]
    if form[:2] in ("1P", "1Q"):
        return (header[f"TTYPE{n}"], ">i4" if form[1] == "P" else ">i8", (2,))
    return (header[f"TTYPE{n}"], {"D": ">f8", "E": ">f4", "J": ">i4"}[form[-1]])


def _string_together(file, header: fits.Header, pixels: da.Array, bands: list[_Band]) -> None:
    names = bands[0].table.dtype.names
    first = bands[0].table
    wide = np.dtype([(name, ">i8", (2,)) if first[name].ndim == 2 else (name, first.dtype[name]) for name in names])
    table = np.empty(sum(len(band.table) for band in bands), wide)
    row = heap_size = 0
    for band in bands:
        rows = slice(row, row + len(band.table))
        for name in names:
            table[name][rows] = band.table[name]
            if table[name].ndim == 2:
                # Empty entries keep offset 0, as they had.
                table[name][rows, 1] += np.where(table[name][rows, 0] > 0, heap_size, 0)
        row, heap_size = rows.stop, heap_size + band.heap_size

    file.write(_table_header(header, pixels, bands, table, heap_size).tostring().encode("ascii"))
    file.write(table.tobytes())
    for band in bands:
        with open(band.heap, "rb") as heap:
            shutil.copyfileobj(heap, file, 2**20)
        os.unlink(band.heap)
    file.write(b"\0" * (-(table.nbytes + heap_size) % 2880))


def _table_header(header, pixels, bands, table, heap_size) -> fits.Header:
    made = [fits.Header.fromstring(band.header) for band in bands]
    full = made[0]
    full["NAXIS1"], full["NAXIS2"], full["PCOUNT"] = table.dtype.itemsize, len(table), heap_size
    full["ZNAXIS1"], full["ZNAXIS2"] = pixels.shape[1], pixels.shape[0]
    for keyword in ("THEAP", "EXTNAME"):
        full.remove(keyword, ignore_missing=True)
    for n, name in enumerate(table.dtype.names, start=1):
        form = full[f"TFORM{n}"]
        if form[:2] in ("1P", "1Q"):
            full[f"TFORM{n}"] = f"1Q{form[2]}({int(table[name][:, 0].max())})"
    if "ZDITHER0" in full:
        full["ZDITHER0"] = 1
    blank = next((one["ZBLANK"] for one in made if "ZBLANK" in one), None)
    if blank is not None:
        full["ZBLANK"] = blank  # where only some bands have NaN, the others carry no such pixel
    full.extend(header.cards, strip=False, end=True)
    return full
