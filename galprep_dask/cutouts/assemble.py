"""Cutouts out of blocks: what is cut of one, put together of several, and handed on, by one task each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from galprep_dask.cluster import computed_here
from galprep_dask.cutouts.cutout import beyond, header_of_cut
from galprep_dask.errors import GalprepError
from galprep_dask.io.fits_reader import FitsPlane

__all__ = ["Recipe", "Refused", "cut_block", "finish_block", "nothing_more", "row_done"]


@dataclass(frozen=True)
class Recipe:
    """
    What all cutouts of an image share: one key of the graph, sent once to every worker.

    Attributes
    ----------
    names, dims, dtypes, leading : tuples
        Of each plane, its name, its dims, its dtype, and its shape before the last two axes.
    shape : (int, int)
        Of the image.
    attrs : dict
        Of the image.
    header : tuple
        From :func:`galprep_dask.cutouts.cutout.header_pattern`.
    sink : callable or None
        What takes the cutouts.
    """

    names: tuple[str, ...]
    dims: tuple[tuple[str, ...], ...]
    dtypes: tuple[np.dtype, ...]
    leading: tuple[tuple[int, ...], ...]
    shape: tuple[int, int]
    attrs: dict
    header: tuple
    sink: Callable | None


@dataclass(frozen=True)
class Refused:
    """Why the sink did not take a cutout."""

    reason: str


def cut_block(whole: list, partly: list, bounds, recipe: Recipe, sources: list) -> tuple[list, dict]:
    """
    Hand on the cutouts that lie in a block, and keep its parts of others.

    Parameters
    ----------
    whole, partly : lists of (target, y0, x0, ny, nx)
        The cutouts that lie in the block, and those that it has a part of.
    bounds : (top, bottom, left, right)
        Rows and columns of the block.
    recipe : Recipe
        What all cutouts share.
    sources : list
        The block of each plane, or a :class:`FitsPlane` to read the parts from.

    Returns
    -------
    results : list of (target, result)
    parts : dict
        For each target of ``partly`` the first row and column of its part, and the pixels plane by plane.
    """
    regions = [_overlap(job, bounds) for job in whole + partly]
    pixels = [_pixels(source, regions, bounds) for source in sources]
    parts = {
        job[0]: (rows.start, columns.start, [plane[n] for plane in pixels])
        for n, (job, (rows, columns)) in enumerate(zip(whole + partly, regions, strict=True))
    }
    results = [(job[0], _hand_on(recipe, job, [parts.pop(job[0])])) for job in whole]
    top, bottom, left, right = bounds
    # Views keep the block, copies themselves: whichever is less.
    if sum(np.prod(pieces[0].shape[-2:]) for _, _, pieces in parts.values()) < (bottom - top) * (right - left):
        parts = {k: (y, x, [_own(piece) for piece in pieces]) for k, (y, x, pieces) in parts.items()}
    return results, parts


def _own(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.base is None else pixels.copy()


def _overlap(job, bounds) -> tuple[slice, slice]:
    _, y0, x0, ny, nx = job
    top, bottom, left, right = bounds
    return slice(max(y0, top), min(y0 + ny, bottom)), slice(max(x0, left), min(x0 + nx, right))


def _pixels(source, regions, bounds) -> list[np.ndarray]:
    """Give what one plane has in each region."""
    if isinstance(source, FitsPlane):
        leading = tuple(slice(0, n) for n in source.shape[:-2])
        return source.windows([(*leading, *region) for region in regions])
    return [source[..., _shifted(rows, bounds[0]), _shifted(columns, bounds[2])] for rows, columns in regions]


def _shifted(span: slice, origin: int) -> slice:
    return slice(span.start - origin, span.stop - origin)


def finish_block(jobs: list, recipe: Recipe, own: tuple, others: list) -> np.ndarray:
    """Put together the cutouts that end in a block, and list all that it handed on."""
    boxed = np.empty(1, object)
    boxed[0] = list(own[0])
    for job in jobs:
        found = [parts[job[0]] for _, parts in (own, *others) if job[0] in parts]
        boxed[0].append((job[0], _hand_on(recipe, job, found)))
    return boxed


def row_done(row, *before) -> bool:
    """Say that a row of blocks is done, and all before it."""
    return True


def nothing_more(*rows) -> np.ndarray:
    """Give the list of a block that handed on nothing."""
    boxed = np.empty(1, object)
    boxed[0] = []
    return boxed


def _hand_on(recipe: Recipe, job, parts: list):
    """Put one cutout together and give it to the sink."""
    k, y0, x0, ny, nx = job
    height, width = recipe.shape
    crosses = y0 < 0 or x0 < 0 or y0 + ny > height or x0 + nx > width
    planes = {
        name: (dims, np.empty((*leading, ny, nx), dtype))
        for name, dims, leading, dtype in zip(recipe.names, recipe.dims, recipe.leading, recipe.dtypes, strict=True)
    }
    if crosses:
        planes.setdefault("mask", (("y", "x"), np.empty((ny, nx), bool)))
        for name, (_, plane) in planes.items():
            plane[...] = beyond(name, plane.dtype)
    for y, x, pieces in parts:
        rows, columns = (slice(a, a + n) for a, n in zip((y - y0, x - x0), pieces[0].shape[-2:], strict=True))
        if "mask" in planes:
            planes["mask"][1][rows, columns] = False
        for name, piece in zip(recipe.names, pieces, strict=True):
            planes[name][1][..., rows, columns] = piece
    cut = xr.Dataset(planes, attrs=recipe.attrs | {"header": header_of_cut(recipe.header, x0, y0, nx, ny)})
    if recipe.sink is None:
        return cut
    try:
        with computed_here:
            return recipe.sink(k, cut)
    except GalprepError as error:
        return Refused(str(error))
