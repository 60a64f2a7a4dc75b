"""Images in Zarr stores, through xarray."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import fsspec
import xarray as xr
from zarr.storage import LocalStore

from galprep_dask.errors import (
    GalprepError,
    ImageFileError,
    ImageNotFoundError,
    ImageShapeError,
    ParameterError,
)
from galprep_dask.image import make_image
from galprep_dask.io.atomic import atomic_path
from galprep_dask.io.files import comes_from_reading

__all__ = ["is_zarr", "open_zarr_image", "open_zarr_plane", "write_zarr_image"]

_MARKERS = ("zarr.json", ".zgroup", ".zarray")


def is_zarr(path: str, storage_options: dict | None = None) -> bool:
    """Tell whether a path is a Zarr store: by its name, or by what lies in the directory."""
    if path.rstrip("/").endswith(".zarr"):
        return True
    return os.path.isdir(path) and any(os.path.exists(os.path.join(path, name)) for name in _MARKERS)


def open_zarr_image(path: str, chunks="auto", storage_options: dict | None = None) -> xr.Dataset:
    """
    Open a Zarr store lazily: a Dataset written by ``to_zarr``, or a bare 2-D array.

    Parameters
    ----------
    path : str
        Store, local or remote.
    chunks : int, tuple, dict or "auto"
        "auto" takes the chunks of the store.
    storage_options : dict, optional
        For the fsspec filesystem of a URL.

    Returns
    -------
    xarray.Dataset
        An image.

    Raises
    ------
    ImageNotFoundError, ImageFileError
        There is no store at the path, or it is no image.
    """
    with _clear_errors(path):
        if _is_bare_array(path, storage_options):
            array = da.from_zarr(path, storage_options=storage_options)
            return make_image(array, path=path, chunks=None if chunks == "auto" else chunks)
        image = xr.open_zarr(path, chunks={}, storage_options=storage_options, consolidated=False)
    if "data" not in image:
        raise ImageShapeError(f"{path!r} has the variables {list(image.data_vars)}, but no 'data'.")
    if chunks != "auto":
        image = image.chunk(_by_name(chunks, image["data"].dims))
    image.attrs.pop("hdu", None)
    return image.assign_attrs(path=path)


def open_zarr_plane(path: str, name: str, chunks="auto", storage_options: dict | None = None) -> da.Array:
    """
    Open one variable of a Zarr store lazily, or a bare array, in the type that it is stored in.

    Parameters
    ----------
    path : str
        Store, local or remote.
    name : str
        The variable; a store that has only one may call it anything.
    chunks : int, tuple, dict or "auto"
        "auto" takes the chunks of the store.
    storage_options : dict, optional
        For the fsspec filesystem of a URL.

    Returns
    -------
    dask array

    Raises
    ------
    ImageNotFoundError, ImageFileError, ImageShapeError
        There is no store at the path, it cannot be read, or it has no such variable.
    """
    with _clear_errors(path):
        if _is_bare_array(path, storage_options):
            plane = xr.DataArray(da.from_zarr(path, storage_options=storage_options))
        else:
            # Integers stay what they are: fill values would make floats of them.
            store = xr.open_zarr(
                path, chunks={}, storage_options=storage_options, consolidated=False, mask_and_scale=False
            )
            names = list(store.data_vars)
            if name not in names and len(names) != 1:
                raise ImageShapeError(f"{path!r} has the variables {names}, but no {name!r}.")
            plane = store[name if name in names else names[0]]
    if plane.ndim == 2:
        plane = plane.rename(dict(zip(plane.dims, ("y", "x"), strict=True)))
    return plane.data if chunks == "auto" else plane.chunk(_by_name(chunks, plane.dims)).data


@contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """Turn what zarr and xarray raise into an error that names the store."""
    try:
        yield
    except GalprepError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not comes_from_reading(error):
            raise
        raise ImageFileError(f"{path!r} cannot be read as Zarr: {error}.") from error


def _by_name(chunks, dims: tuple) -> dict:
    if isinstance(chunks, dict):
        unknown = set(chunks) - set(dims)
    else:
        chunks = dict.fromkeys(dims, chunks) if isinstance(chunks, int) else dict(zip(dims, chunks, strict=False))
        unknown = set()
    if unknown:
        raise ParameterError(f"chunks={chunks!r} names {sorted(map(str, unknown))}; the dims are {dims}.")
    return chunks


def _is_bare_array(path: str, storage_options: dict | None) -> bool:
    """Tell an array from a group; ImageNotFoundError where there is neither."""
    filesystem, inner = fsspec.core.url_to_fs(path, **(storage_options or {}))
    if not filesystem.exists(inner):
        raise ImageNotFoundError(f"there is no Zarr store {path!r}. Check the path.")
    if filesystem.exists(f"{inner}/.zarray"):
        return True
    marker = f"{inner}/zarr.json"
    return filesystem.exists(marker) and json.loads(filesystem.cat_file(marker)).get("node_type") == "array"


def write_zarr_image(image: xr.Dataset, path: str | os.PathLike, overwrite: bool) -> Path:
    """
    Write an image Dataset to a Zarr store, under a temporary name until it is complete.

    Parameters
    ----------
    image : Dataset
        The image.
    path : str or path
        The store, a local directory.
    overwrite : bool
        Whether a store that exists may be replaced.

    Returns
    -------
    Path
    """
    # Zarr knows one chunk size per axis; ragged chunks take their largest.
    image = image.unify_chunks()
    regular = {dim: max(sizes) for dim, sizes in image.chunks.items()}
    image = image.chunk(regular).drop_encoding()
    with atomic_path(path, overwrite) as temporary:
        temporary.mkdir()
        image.to_zarr(_Directory(temporary), mode="w-", consolidated=False)
    return Path(path).expanduser()


class _Directory(LocalStore):
    """
    A directory that is not made anew once it was removed.

    After a failure, threads and workers go on with the blocks that they have in hand. Whoever makes a directory of
    them anew, because the removal came between a look and the writing, removes it.
    """

    def set_sync(self, key, value):
        self._check()
        super().set_sync(key, value)
        self._check_still_there(key)

    async def set(self, key, value):
        self._check()
        await super().set(key, value)
        self._check_still_there(key)

    def _check(self):
        if not self.root.is_dir():
            raise FileNotFoundError(f"{str(self.root)!r} was removed while it was written to.")

    def _check_still_there(self, key):
        # The first that is written is such a file, and no block is written without.
        if key not in _MARKERS and not any((self.root / name).is_file() for name in _MARKERS):
            shutil.rmtree(self.root, ignore_errors=True)
            self._check()
