"""Models of the sky: which one a configuration asks for, and files that they are kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields
from functools import partial

import numpy as np
import xarray as xr

from galprep_dask import sky as room
from galprep_dask.errors import ImageFileError
from galprep_dask.pipeline.config import SkySettings
from galprep_dask.pipeline.records import write_arrays

__all__ = ["fit_sky", "read_sky", "write_sky"]

_MODELS = {model.__name__: model for model in (room.ConstantSky, room.MeshSky, room.PiecewiseSky, room.PolynomialSky)}


def fit_sky(image: xr.Dataset, settings: SkySettings, *, fwhm: float):
    """
    Fit the sky of an image, and mask its sources.

    Parameters
    ----------
    image : Dataset
        The image; it is read many times.
    settings : SkySettings
        Which model.
    fwhm : float
        FWHM of the PSF in pixels.

    Returns
    -------
    sky : sky model or None
        None for "none".
    masked : (ny, nx) bool dask array
        Sources, their surroundings and bad pixels.
    """
    data, mask = image["data"].data, None if "mask" not in image else image["mask"].data
    search = {"fwhm": fwhm, "n_sigma": settings.n_sigma, "max_grow_size": settings.max_grow_size}
    if settings.model == "none":
        return None, room.source_mask(data, mask, **search)
    fit = _fit_of(settings)
    if settings.model == "auto":
        _, masked = room.fit_sky_between_sources(data, mask, fit=fit, **search)
        fit = room.compare_sky_models(data, masked).fit
    return room.fit_sky_between_sources(data, mask, fit=fit, **search)


def _fit_of(settings: SkySettings) -> Callable:
    box = settings.box_size
    return {
        # Masks that reach as far as faint light leave few boxes nearly whole.
        "mesh": partial(room.fit_mesh_sky, box_size=box, exclude_percentile=80),
        "piecewise": partial(room.fit_piecewise_sky, piece_size=box),
        "median": room.fit_median_sky,
        "mean": room.fit_mean_sky,
    }.get(settings.model, partial(room.fit_polynomial_sky, order=settings.order))


def write_sky(sky, path: str | os.PathLike) -> None:
    """Write a sky model, to the last bit, or that there is none."""
    arrays, plain = {}, {}
    for field in () if sky is None else fields(sky):
        value = getattr(sky, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        else:
            plain[field.name] = value.item() if isinstance(value, np.generic) else value
    told = {"model": None if sky is None else type(sky).__name__, "values": plain}
    told = json.dumps(told, default=lambda value: value.item())
    write_arrays(path, {**arrays, "json": np.array(told)})


def read_sky(path: str | os.PathLike):
    """
    Read what :func:`write_sky` wrote.

    Raises
    ------
    ImageFileError
        It cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        told = json.loads(str(arrays.pop("json")))
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in told["values"].items()}
        return None if told["model"] is None else _MODELS[told["model"]](**arrays, **values)
    except Exception as error:  # zip, JSON and NumPy have exceptions of their own
        raise ImageFileError(f"{os.fspath(path)!r} cannot be read as a sky model: {error}.") from error
