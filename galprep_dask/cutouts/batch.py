"""Many cutouts of one image in one pass: every chunk is read once, and a cutout is handed on as soon as it is whole."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from astropy.table import Table
from dask.highlevelgraph import HighLevelGraph

from galprep_dask.arrays import as_image
from galprep_dask.blockwise import block_edges
from galprep_dask.cutouts._kernels import boxes_of_blocks
from galprep_dask.cutouts.cutout import beyond, header_of_cut, header_pattern
from galprep_dask.cutouts.targets import place_targets
from galprep_dask.errors import GalprepError
from galprep_dask.image import image_header

__all__ = ["cutout_many"]


def cutout_many(
    image: xr.Dataset, ra, dec, size, *, sink: Callable[[int, xr.Dataset], Any] | None = None
) -> tuple[list, Table]:
    """
    Cut around many targets in one pass over the image, each chunk of which is read once.

    Parameters
    ----------
    image : Dataset
        An image, or a cube, which is cut along its last two axes.
    ra, dec : (n,) arrays, table columns or Quantities
        Positions of the targets, in degrees where there is no unit.
    size : int, tuple, array or Quantity
        For all targets a side in pixels, or a tuple ``(ny, nx)``; for each its own in an array ``(n,)`` or ``(n, 2)``.
        Or the same in angles on the sky.
    sink : callable, optional
        Called as ``sink(k, cutout)`` for target ``k`` as soon as its cutout is whole, in the thread or the worker that
        completed it, in any order. The cutout is a Dataset in memory, which goes when ``sink`` returns. Without one
        all cutouts are kept.

    Returns
    -------
    results : list
        For every target what ``sink`` returned, or without a sink the cutout; None where there is none.
    table : Table
        A row for every target: ``ra`` and ``dec`` in degrees; ``x`` and ``y``, its position in the image; ``x0``,
        ``y0``, ``nx`` and ``ny``, the pixels of the cutout; ``n_padded``, how many of them lie beyond the edge, and are
        masked; ``cut``, whether it was cut; and ``reason``, why it was not.

    Raises
    ------
    ParameterError
        The arrays differ in length, or hold no numbers; a size for all targets makes no sense.
    MissingWCSError
        The image has no celestial WCS.

    Warns
    -----
    NoTargetsWarning
        Not one target could be cut.

    Notes
    -----
    The cutouts are those of :func:`cutout`, pixel by pixel and card by card. A target that is outside the image, has no
    coordinates, or a size of its own that makes no sense, is not cut, and so is one for which ``sink`` raises an
    exception of this package: the table says why. Other exceptions of ``sink`` end the run.

    Chunks are read row by row. A cutout within one chunk is made with it; of others the parts are kept until the last
    is there, which is as much as two rows of chunks at most. On a cluster ``sink`` must pickle, and runs where the
    pixels are, so that products are written by the workers; it is called again for a cutout whose worker died, so let
    it write as :func:`write_product` does, all or nothing.

    Examples
    --------
    >>> from astropy.io import fits
    >>> from galprep_dask import make_image
    >>> header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0,
    ...                       "CRPIX1": 50.0, "CRPIX2": 40.0, "CDELT1": -1e-4, "CDELT2": 1e-4})
    >>> image = make_image(np.arange(8000.0).reshape(80, 100), header=header, chunks=32)
    >>> ra, dec = [150.0, 150.002, 151.0], [2.0, 2.001, 2.0]
    >>> means, table = cutout_many(image, ra, dec, 11, sink=lambda k, cut: float(cut["data"].mean()))
    >>> [None if mean is None else round(mean) for mean in means], table["cut"].tolist()
    ([3949, 4929, None], [True, True, False])
    >>> print(table["reason"][2])
    ra=151.0, dec=2.0 is at pixel x=-9945.9, y=42.0, outside the image, which has 100 x 80 pixels.
    """
    header = image_header(image)
    table = place_targets(image, header, ra, dec, size)
    results = [None] * len(table)
    chosen = np.flatnonzero(table["cut"])
    if len(chosen):
        boxes = np.transpose([table[name][chosen] for name in ("y0", "x0", "ny", "nx")])
        for blockful in _cut_lazily(image, header, chosen, boxes, sink).compute():
            for k, result in blockful:
                if isinstance(result, _Refused):
                    table["cut"][k] = False
                    table["reason"][k] = result.reason
                else:
                    results[k] = result
    table["reason"] = table["reason"].astype(str)
    return results, table


@dataclass(frozen=True)
class _Recipe:
    """What all cutouts share: it is one key of the graph, and sent once to every worker."""

    names: tuple[str, ...]
    dims: tuple[tuple[str, ...], ...]
    dtypes: tuple[np.dtype, ...]
    leading: tuple[tuple[int, ...], ...]
    shape: tuple[int, int]
    attrs: dict
    header: tuple
    sink: Callable | None


@dataclass(frozen=True)
class _Refused:
    """Why ``sink`` did not take a cutout."""

    reason: str


def _cut_lazily(image, header, numbers, boxes, sink) -> da.Array:
    """Give a lazy array of lists of (target, result), one for every block in which a cutout ends."""
    names = tuple(image.data_vars)
    planes = _planes_of_one_chunking(image, names)
    recipe = _Recipe(
        names, tuple(image[name].dims for name in names), tuple(plane.dtype for plane in planes),
        tuple(plane.shape[:-2] for plane in planes), planes[0].shape[-2:], dict(image.attrs), header_pattern(header), sink,
    )  # fmt: skip
    edges = [block_edges(axis) for axis in planes[0].chunks[-2:]]
    which, rows, columns = boxes_of_blocks(*edges, *boxes.T)
    meeting = np.bincount(which, minlength=len(boxes))
    boxes = boxes.tolist()
    # The pass ends for a cutout with the last block that it meets.
    last = dict(zip(which.tolist(), zip(rows.tolist(), columns.tolist(), strict=True), strict=True))
    parts, ends = {}, {}
    for n, i, j in zip(which.tolist(), rows.tolist(), columns.tolist(), strict=True):
        job = (int(numbers[n]), *boxes[n])
        parts.setdefault((i, j), ([], []))[bool(meeting[n] > 1)].append(job)
        end = ends.setdefault(last[n], ([], {(last[n])}))
        if meeting[n] > 1:
            end[1].add((i, j))
            if (i, j) == last[n]:
                end[0].append(job)

    token = uuid.uuid4().hex  # a sink does something: it is never taken for done before
    shared, cut, done, rows_done = (f"{name}-{token}" for name in ("recipe", "cut", "cutouts", "rows"))
    graph: dict = {shared: recipe}
    for (i, j), (whole, partly) in parts.items():
        blocks = [(plane.name, *(0,) * (plane.ndim - 2), i, j) for plane in planes]
        graph[cut, i, j] = (partial(_cut_block, whole, partly, int(edges[0][i]), int(edges[1][j])), shared, blocks)
    ordered: dict = {}
    for n, (end, (jobs, sources)) in enumerate(sorted(ends.items())):
        others = [(cut, i, j) for i, j in sorted(sources - {end})]
        graph[done, n] = (partial(_finish_block, jobs), shared, (cut, *end), others)
        ordered.setdefault(end[0], []).append((done, n))
    # Each row of blocks waits for that before it, so that the scheduler goes through them in this order and few cutouts
    # lie about half finished.
    for before, i in zip([None, *ordered], ordered, strict=False):
        graph[rows_done, i] = (_row_done, ordered[i], *([] if before is None else [(rows_done, before)]))
    graph[done, len(ends)] = (_nothing_more, (rows_done, max(ordered)))
    graph = HighLevelGraph.from_collections(done, graph, dependencies=planes)
    return da.Array(graph, done, ((1,) * (len(ends) + 1),), meta=np.empty(0, object))


def _planes_of_one_chunking(image, names) -> list[da.Array]:
    data = as_image(image["data"], ndim=image["data"].ndim)
    chunks = data.chunks[-2:]
    planes = []
    for name in names:
        plane = as_image(image[name], name, ndim=image[name].ndim)
        planes.append(plane.rechunk((*((n,) for n in plane.shape[:-2]), *chunks)))
    return planes


def _cut_block(whole, partly, top, left, recipe, blocks):
    """Hand on the cutouts that lie in this block, and keep its parts of others."""
    results = [(job[0], _hand_on(recipe, job, [(top, left, blocks)])) for job in whole]
    parts = {job[0]: _part(job, top, left, blocks) for job in partly}
    # Views keep the block, copies themselves: whichever is less.
    if sum(pieces[0].size for _, _, pieces in parts.values()) < blocks[0].size:
        parts = {k: (y, x, [piece.copy() for piece in pieces]) for k, (y, x, pieces) in parts.items()}
    return results, parts


def _part(job, top, left, blocks):
    """Give the part of a block in a cutout: its first pixel in the image, and its pixels plane by plane."""
    _, y0, x0, ny, nx = job
    height, width = blocks[0].shape[-2:]
    rows = slice(max(y0 - top, 0), min(y0 + ny - top, height))
    columns = slice(max(x0 - left, 0), min(x0 + nx - left, width))
    return top + rows.start, left + columns.start, [block[..., rows, columns] for block in blocks]


def _finish_block(jobs, recipe, own, others):
    """Put together the cutouts that end in a block, and list all that it handed on."""
    boxed = np.empty(1, object)
    boxed[0] = list(own[0])
    for job in jobs:
        found = [parts[job[0]] for _, parts in (own, *others) if job[0] in parts]
        boxed[0].append((job[0], _hand_on(recipe, job, found)))
    return boxed


def _row_done(row, *before):
    return True


def _nothing_more(rows_done):
    boxed = np.empty(1, object)
    boxed[0] = []
    return boxed


def _hand_on(recipe, job, parts):
    """Build one cutout of blocks or parts of blocks, each with its first pixel in the image, and give it to the sink."""
    k, y0, x0, ny, nx = job
    height, width = recipe.shape
    crosses = y0 < 0 or x0 < 0 or y0 + ny > height or x0 + nx > width
    planes = {}
    for n, name in enumerate(recipe.names):
        plane = np.empty((*recipe.leading[n], ny, nx), recipe.dtypes[n])
        if crosses:
            plane[...] = beyond(name, recipe.dtypes[n])
        planes[name] = (recipe.dims[n], plane)
    if crosses and "mask" not in planes:
        planes["mask"] = (("y", "x"), np.ones((ny, nx), bool))
    for top, left, blocks in parts:
        y, x, pieces = _part(job, top, left, blocks)
        rows, columns = (slice(a - b, a - b + n) for a, b, n in ((y, y0, pieces[0].shape[-2]), (x, x0, pieces[0].shape[-1])))
        for name, piece in zip(recipe.names, pieces, strict=True):
            planes[name][1][..., rows, columns] = piece
        if "mask" not in recipe.names and crosses:
            planes["mask"][1][rows, columns] = False
    attrs = recipe.attrs | {"header": header_of_cut(recipe.header, x0, y0, nx, ny)}
    cut = xr.Dataset(planes, attrs=attrs)
    if recipe.sink is None:
        return cut
    try:
        return recipe.sink(k, cut)
    except GalprepError as error:
        return _Refused(str(error))
