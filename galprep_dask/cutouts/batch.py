"""Many cutouts of one image in one pass: every chunk is read once, and a cutout is handed on as soon as it is whole."""

from __future__ import annotations

import uuid
from collections.abc import Callable
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
from galprep_dask.cutouts.assemble import Recipe, Refused, cut_block, finish_block, nothing_more, row_done
from galprep_dask.cutouts.cutout import header_pattern
from galprep_dask.cutouts.targets import place_targets
from galprep_dask.fused import compute_now
from galprep_dask.image import image_header
from galprep_dask.io.fits_reader import reader_of

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
        Positions of the targets in ICRS, in degrees where there is no unit.
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
        for blockful in compute_now(_cut_lazily(image, header, chosen, boxes, sink)):
            for k, result in blockful:
                if isinstance(result, Refused):
                    table["cut"][k] = False
                    table["reason"][k] = result.reason
                else:
                    results[k] = result
    table["reason"] = table["reason"].astype(str)
    return results, table


def _cut_lazily(image, header, numbers, boxes, sink) -> da.Array:
    """Give a lazy array of lists of (target, result), one for every block in which a cutout ends."""
    names = tuple(image.data_vars)
    planes = _planes_of_one_chunking(image, names)
    recipe = Recipe(
        names, tuple(image[name].dims for name in names), tuple(plane.dtype for plane in planes),
        tuple(plane.shape[:-2] for plane in planes), planes[0].shape[-2:], dict(image.attrs),
        header_pattern(header), sink,
    )  # fmt: skip
    edges = [block_edges(axis) for axis in planes[0].chunks[-2:]]
    cut_in, ends = _share_out(numbers, boxes, edges)

    token = uuid.uuid4().hex  # a sink does something: it is never taken for done before
    shared, cut, done, rows_done = (f"{name}-{token}" for name in ("recipe", "cut", "cutouts", "rows"))
    readers = {f"reader-{plane.name}": reader_of(plane) for plane in planes}
    graph: dict = {shared: recipe} | {key: reader for key, reader in readers.items() if reader is not None}
    for (i, j), (whole, partly) in cut_in.items():
        bounds = tuple(int(edge[n + m]) for edge, n in zip(edges, (i, j), strict=True) for m in (0, 1))
        # Of a block of which little is wanted no more is read, where its file can be read in parts as small.
        wanted = sum(ny * nx for _, _, _, ny, nx in whole + partly)
        little = 2 * wanted < (bounds[1] - bounds[0]) * (bounds[3] - bounds[2])
        sources = [
            key if little and reader is not None else (plane.name, *(0,) * (plane.ndim - 2), i, j)
            for plane, (key, reader) in zip(planes, readers.items(), strict=True)
        ]
        graph[cut, i, j] = (partial(cut_block, whole, partly, bounds), shared, sources)
    rows: dict = {}
    for n, (end, (jobs, before)) in enumerate(sorted(ends.items())):
        graph[done, n] = (partial(finish_block, jobs), shared, (cut, *end), [(cut, *block) for block in sorted(before)])
        rows.setdefault(end[0], []).append((done, n))
    # Each row of blocks waits for that before it, so that the scheduler goes through them in this order and few cutouts
    # lie about half finished.
    last: list = []
    for i, row in rows.items():
        graph[rows_done, i] = (row_done, row, *last)
        last = [(rows_done, i)]
    graph[done, len(ends)] = (nothing_more, *last)
    graph = HighLevelGraph.from_collections(done, graph, dependencies=planes)
    return da.Array(graph, done, ((1,) * (len(ends) + 1),), meta=np.empty(0, object))


def _share_out(numbers, boxes, edges) -> tuple[dict, dict]:
    """
    Share the cutouts out to the blocks, as jobs ``(target, y0, x0, ny, nx)``.

    Returns
    -------
    cut_in : dict
        For each block the jobs that lie in it, and those that it has a part of.
    ends : dict
        For each block in which any cutout ends, the jobs of several blocks that do, and the other blocks of these.
    """
    which, rows, columns = boxes_of_blocks(*edges, *boxes.T)
    several = np.bincount(which, minlength=len(boxes)) > 1
    jobs = [(int(k), *box) for k, box in zip(numbers, boxes.tolist(), strict=True)]
    meetings = list(zip(which.tolist(), zip(rows.tolist(), columns.tolist(), strict=True), strict=True))
    last = dict(meetings)  # meetings are in the order of the blocks
    cut_in: dict = {}
    ends: dict = {}
    for n, block in meetings:
        cut_in.setdefault(block, ([], []))[int(several[n])].append(jobs[n])
        finished, before = ends.setdefault(last[n], ([], set()))
        if block != last[n]:
            before.add(block)
        elif several[n]:
            finished.append(jobs[n])
    return cut_in, ends


def _planes_of_one_chunking(image, names) -> list[da.Array]:
    data = as_image(image["data"], ndim=image["data"].ndim)
    chunks = data.chunks[-2:]
    planes = []
    for name in names:
        plane = as_image(image[name], name, ndim=image[name].ndim)
        planes.append(plane.rechunk((*((n,) for n in plane.shape[:-2]), *chunks)))
    return planes
