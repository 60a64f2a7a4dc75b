"""Files and URLs, opened where they are used; what goes wrong names the file.

No file is shared by two threads: each has its own handles. Errors of file systems, of zlib and of astropy become errors
that say which file it was and what may be done.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any
from urllib.parse import unquote

import fsspec
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from fsspec.compression import compr
from fsspec.implementations.memory import MemoryFileSystem

from galprep_dask.errors import HDUError, ImageFileError, ImageNotFoundError
from galprep_dask.image import WARNINGS_LOCK

__all__ = [
    "clear_errors",
    "comes_from_reading",
    "container_of",
    "identity_of",
    "is_remote",
    "local_path",
    "open_bytes",
    "open_hdus",
    "thread_hdus",
    "without_format_warnings",
]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x1f\x9d": "compress"}


def is_remote(path: str) -> bool:
    """Tell whether a path is a URL that only fsspec can read."""
    return "://" in path and not path.startswith(("file://", "local://"))


def local_path(path: str) -> str:
    """Give the plain path of a ``file://`` URL, as it is or as ``Path.as_uri`` writes it, or of one with ``~``."""
    if "://" not in path:
        return os.path.expanduser(path)
    plain = path.split("://", 1)[1]
    return plain if os.path.exists(plain) else unquote(plain)


@contextmanager
def open_bytes(path: str, options: dict, container: str | None = None) -> Iterator[Any]:
    """Open a file or URL for this thread alone; a remote ``container`` is unpacked on the way."""
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
        file = open(local_path(path), "rb")  # noqa: SIM115 - closed below, like its remote counterpart
    with file:
        yield file


@contextmanager
def open_hdus(path: str, options: dict, container: str | None = None, **kwargs) -> Iterator[fits.HDUList]:
    """Open a file or URL as an HDUList, for this thread alone."""
    with (
        open_bytes(path, options, container) as file,
        fits.open(file, mode="readonly", memmap=False, **kwargs) as hdus,
    ):
        yield hdus


@contextmanager
def without_format_warnings() -> Iterator[None]:
    """Keep astropy from warning of what is mended (keyword formats) or made an error (truncation) here."""
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        warnings.filterwarnings("ignore", message="File may have been truncated", category=AstropyUserWarning)
        yield


class _Handle:
    """An open HDUList that closes its file when it is dropped."""

    def __init__(self, path: str, options: dict):
        self._context = open_hdus(path, options)
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


def thread_hdus(path: str, identity: tuple, storage_options: tuple) -> fits.HDUList:
    """Give an open HDUList that belongs to this thread alone; the last few are kept open."""
    return _handles.get(path, identity, storage_options)


@contextmanager
def clear_errors(path: str, hdu: int | str | None) -> Iterator[None]:
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
        if not comes_from_reading(error):
            raise
        hint = "It may be truncated, damaged or of another format."
        if is_remote(path):
            hint = f"Check the address, the network and storage_options. {hint}"
        message = str(error) or type(error).__name__
        raise ImageFileError(f"{place} cannot be read as FITS: {message}. {hint}") from error


def comes_from_reading(error: Exception) -> bool:
    """
    Tell what the system and libraries raise over a file from what a line of this package raises, which is our mistake.

    Of a damaged file astropy raises KeyError and TypeError as well: the kind of an error does not tell.
    """
    if isinstance(error, OSError | EOFError):
        return True
    rooms = [frame.f_globals.get("__name__", "").split(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    ours = __name__.split(".")[0]
    called = rooms[len(rooms) - rooms[::-1].index(ours) :] if ours in rooms else rooms
    return bool(called) and called[0] != "numpy"


def container_of(path: str, options: dict) -> str | None:
    """Name the compression of the file as a whole, by its first bytes."""
    with clear_errors(path, None), open_bytes(path, options) as file:
        head = file.read(6)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def identity_of(path: str, options: dict) -> tuple:
    """Size and time, or what a remote store gives in their place: another tuple, another image."""
    with clear_errors(path, None):
        if not is_remote(path):
            stat = os.stat(local_path(path))
            return (stat.st_size, stat.st_mtime_ns)
        filesystem, inner = fsspec.core.url_to_fs(path, **options)
        info = filesystem.info(inner)
    marks = [info.get(name) for name in ("ETag", "etag", "mtime", "LastModified", "created")]
    return (info.get("size"), *(str(mark) for mark in marks if mark is not None))
