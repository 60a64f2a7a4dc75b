"""Small files of plain values, written whole or not at all, the same to the byte for the same values."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from galprep_dask.errors import GalprepError, OutputError
from galprep_dask.io.atomic import atomic_path
from galprep_dask.io.files import identity_of, is_remote, local_path

__all__ = ["input_identity", "make_folder", "read_json", "write_arrays", "write_json", "write_text"]

#: Bytes at the beginning of a file that are part of its identity: its first header, and more.
_HEAD = 1 << 16


def input_identity(path: str) -> dict[str, Any]:
    """
    Tell an input from others of its name: by size, time, and its first bytes.

    Parameters
    ----------
    path : str
        File, Zarr store or URL.

    Returns
    -------
    dict
        ``path``, ``bytes``, ``mtime`` (ns) and ``header`` (SHA-256 of the first 64 KiB, 16 digits); ``mark`` in place
        of the last two for a URL; ``path`` and ``problem`` where it cannot be read.
    """
    try:
        identity = identity_of(path, {})
        if is_remote(path):
            return {"path": path, "bytes": identity[0], "mark": list(identity[1:])}
        file = Path(local_path(path))
        if file.is_dir():  # a Zarr store: its description changes with it, the directory itself need not
            file = next((file / name for name in ("zarr.json", ".zgroup", ".zarray") if (file / name).is_file()), file)
        stat = file.stat()
        head = b""
        if file.is_file():
            with file.open("rb") as opened:
                head = opened.read(_HEAD)
    except (GalprepError, OSError) as error:
        return {"path": path, "problem": str(error)}
    digest = hashlib.sha256(head).hexdigest()[:16]
    return {"path": path, "bytes": stat.st_size, "mtime": stat.st_mtime_ns, "header": digest}


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; OutputError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {str(folder)!r}: {error.strerror}. Mend that, or choose another output."
        ) from error


def read_json(path: str | os.PathLike) -> dict[str, Any] | None:
    """Read a record; None where there is none, or none that can be read."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Write a record; what is not finite becomes null."""
    write_text(path, json.dumps(_plain(values), indent=1, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike, text: str) -> bool:
    """Write a text where the file does not have it already; say whether it was written."""
    path = Path(path)
    content = text.encode("utf-8")
    try:
        if path.read_bytes() == content:
            return False
    except OSError:
        pass
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(content)
    return True


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Write arrays to an ``.npz`` file."""
    with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _plain(value):
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
