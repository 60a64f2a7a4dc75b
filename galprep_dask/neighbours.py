"""Graph building for what looks beyond its block: exchange of halos, and of what blocks are reduced to.

A halo costs two tasks a chunk, neighbours one, whatever the number of chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef

from galprep_dask.blockwise import as_object, block_edges

__all__ = ["gather_neighbours", "map_halo", "map_neighbours", "unite_chunks"]


# Halo exchange -------------------------------------------------------------------------------------------


_SIDES = [side for side in product((-1, 0, 1), repeat=2) if side != (0, 0)]


def map_halo(
    func: Callable, array: da.Array, depth: int, *, dtype, fill=0, mask: da.Array | None = None, trims: bool = False,
    **kwargs,
) -> da.Array:  # fmt: skip
    """
    Apply ``func`` to every block widened by ``depth`` pixels of its surroundings.

    One task copies the eight rims of a block, one joins a block with the rims around it and applies
    ``func``: with the source three tasks a chunk. Blocks thinner than ``depth`` are no special case, a halo
    reaches over as many of them as it needs, and the chunks stay as they are.

    Parameters
    ----------
    func : callable
        ``func(window, **kwargs)`` takes the widened block and gives an array of its shape, which is
        trimmed again. Pixels outside the image are ``fill``.
    array : (ny, nx) dask array
        The image.
    depth : int
        Halo in pixels.
    dtype : dtype
        Of what ``func`` gives.
    fill : scalar
        Value outside the image.
    mask : (ny, nx) bool dask array, optional
        Of the same chunks. Pixels that are ``fill`` too; it takes no task of its own to blank them.
    trims : bool
        Whether ``func`` gives the block alone, without its surroundings.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (ny, nx) dask array
        Same chunks as ``array``. Where ``func`` looks no further than ``depth`` pixels, the result is that
        of ``func`` on the whole padded image.
    """
    meta = np.empty((0, 0), dtype)
    planes = [array] if mask is None else [array, mask]
    if depth == 0:
        return da.map_blocks(partial(_blank_and_apply, func, fill, kwargs), *planes, dtype=dtype, meta=meta)
    token = tokenize(func, [plane.name for plane in planes], depth, fill, trims, kwargs)
    rims, joined = f"rims-{token}", f"halo-{token}"
    copy = partial(_copy_rims, depth, fill)
    apply = partial(_join_and_apply, func, len(planes), depth, fill, trims, kwargs)
    plans = [_axis_plan(axis, depth) for axis in array.chunks]
    # Plans are shared by the tasks of a row or column, and tasks are made as they will be: with 10^4 of them, what
    # there is of small objects is most of the time to build a graph.
    graph = {}
    for i, j in np.ndindex(*array.numblocks):
        blocks = [TaskRef((plane.name, i, j)) for plane in planes]
        around = [TaskRef((rims, ii, jj)) for ii, jj in _around(plans[0][i], plans[1][j])]
        graph[rims, i, j] = Task((rims, i, j), copy, *blocks)
        graph[joined, i, j] = Task((joined, i, j), apply, plans[0][i], plans[1][j], *blocks, *around)
    graph = HighLevelGraph.from_collections(joined, graph, dependencies=planes)
    return da.Array(graph, joined, array.chunks, meta=meta)


def _axis_plan(sizes: tuple[int, ...], depth: int) -> list[list[tuple[int, int, slice, slice]]]:
    """
    List for every block of one axis the blocks that its widened window meets.

    Each entry is (block, its side that faces us, what to take of that side's rim, where it goes).
    """
    edges = block_edges(sizes)
    plan = []
    for i, size in enumerate(sizes):
        first, last = int(edges[i]) - depth, int(edges[i + 1]) + depth
        entries = [(i, 0, slice(0, size), slice(depth, depth + size))]
        nearest = np.searchsorted(edges, [max(first, 0), min(last, int(edges[-1]))], side="right") - 1
        for n in range(int(nearest[0]), min(int(nearest[1]) + 1, len(sizes))):
            low, high = int(edges[n]), int(edges[n + 1])
            start, stop = max(low, first), min(high, last)
            if n == i or start >= stop:
                continue
            side = 1 if n < i else -1  # a block before us gives its far end
            rim_start = high - min(depth, high - low) if side == 1 else low
            take = slice(start - rim_start, stop - rim_start)
            entries.append((n, side, take, slice(start - first, stop - first)))
        plan.append(entries)
    return plan


def _around(rows, columns) -> list[tuple[int, int]]:
    """Blocks whose rims a window takes, in the order in which it takes them."""
    return [(i, j) for (i, side_y, *_), (j, side_x, *_) in product(rows, columns) if (side_y, side_x) != (0, 0)]


def _copy_rims(depth, fill, block, mask=None) -> dict[tuple[int, int], np.ndarray]:
    """Copy the eight rims, so that the block itself need not travel or stay in memory."""
    ny, nx = block.shape
    cut_y = {-1: slice(0, depth), 0: slice(None), 1: slice(max(ny - depth, 0), None)}
    cut_x = {-1: slice(0, depth), 0: slice(None), 1: slice(max(nx - depth, 0), None)}
    rims = {(sy, sx): block[cut_y[sy], cut_x[sx]].copy() for sy, sx in _SIDES}
    if mask is not None:
        for (sy, sx), rim in rims.items():
            rim[mask[cut_y[sy], cut_x[sx]]] = fill
    return rims


def _join_and_apply(func, n_planes, depth, fill, trims, kwargs, rows, columns, block, *mask_and_rims):
    ny, nx = block.shape
    window = np.full((ny + 2 * depth, nx + 2 * depth), fill, dtype=block.dtype)
    inner = window[depth : depth + ny, depth : depth + nx]
    inner[:] = block
    if n_planes == 2:
        inner[mask_and_rims[0]] = fill
    rims = iter(mask_and_rims[n_planes - 1 :])
    for (_, side_y, take_y, into_y), (_, side_x, take_x, into_x) in product(rows, columns):
        if (side_y, side_x) != (0, 0):
            window[into_y, into_x] = next(rims)[side_y, side_x][take_y, take_x]
    if trims:
        return func(window, **kwargs)
    # A copy: a view would keep the whole window in memory for as long as the block is wanted.
    return func(window, **kwargs)[depth : depth + ny, depth : depth + nx].copy()


def _blank_and_apply(func, fill, kwargs, block, mask=None):
    return func(block if mask is None else np.where(mask, block.dtype.type(fill), block), **kwargs)


# What lies around a block, in fewer bytes than pixels ----------------------------------------------------


def map_neighbours(
    func: Callable, objects: da.Array, chunks: tuple, depth: int, *, dtype, own: np.ndarray | None = None, **kwargs
) -> da.Array:
    """
    Apply ``func`` to what every block and its neighbours have been reduced to.

    For images that need few bytes where pixels need many, such as labels. Blocks are given up as soon as they are
    reduced: none waits in memory for its neighbours, and one task a chunk is enough.

    Parameters
    ----------
    func : callable
        ``func(near, shape=(ny, nx), depth=depth, **kwargs)`` gives an array of the shape of the block. ``near`` lists
        the object of the block and of all within ``depth`` pixels of it, each with the place (y, x) of its block's
        first pixel, as seen from the block's own.
    objects : (rows, columns) dask array of objects
        From :func:`objects_of_blocks`.
    chunks : tuple of tuples
        Of the image that they were made of.
    depth : int
        How far a block looks around, in pixels, over as many blocks as it takes.
    dtype : dtype
        Of what ``func`` gives.
    own : (rows, columns) object array, optional
        What belongs to each block, handed to ``func`` as ``own=own[i, j]``; it travels with the task of that block
        alone.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (ny, nx) dask array
    """
    name, graph = _neighbour_graph(func, objects, chunks, depth, own, kwargs)
    return da.Array(graph, name, chunks, meta=np.empty((0, 0), dtype))


def gather_neighbours(func: Callable, objects: da.Array, chunks: tuple, depth: int, **kwargs) -> da.Array:
    """
    Apply ``func`` as :func:`map_neighbours` does, where it gives any object.

    Returns
    -------
    (rows, columns) dask array of objects
        One for every block.
    """
    name, graph = _neighbour_graph(partial(as_object, func), objects, chunks, depth, None, kwargs)
    return da.Array(graph, name, objects.chunks, meta=np.empty((0, 0), object))


def unite_chunks(chunks: tuple[tuple[int, ...], ...], least: int) -> tuple[tuple[int, ...], ...]:
    """
    Unite neighbouring chunks until none is thinner than ``least`` pixels, if the image is not.

    Examples
    --------
    >>> unite_chunks(((3, 3, 3, 3, 1), (9, 2)), 5)
    ((6, 7), (11,))
    >>> unite_chunks(((3, 3, 3, 3, 1), (9, 2)), 0)
    ((3, 3, 3, 3, 1), (9, 2))
    """
    united = []
    for sizes in chunks:
        axis = [sizes[0]]
        for size in sizes[1:]:
            if axis[-1] < least:
                axis[-1] += size
            else:
                axis.append(size)
        if len(axis) > 1 and axis[-1] < least:
            axis[-2:] = [axis[-2] + axis[-1]]
        united.append(tuple(axis))
    return tuple(united)


def _neighbour_graph(func, objects, chunks, depth, own, kwargs) -> tuple[str, HighLevelGraph]:
    name = f"neighbours-{tokenize(func, objects.name, chunks, depth, None if own is None else own.tolist(), kwargs)}"
    near = [_near_blocks(axis, depth) for axis in chunks]
    apply = partial(_call_near, func, kwargs, depth)
    graph = {}
    for i, j in np.ndindex(*objects.numblocks):
        rows, columns = near[0][i], near[1][j]
        blocks = [TaskRef((objects.name, ii, jj)) for ii, _ in rows for jj, _ in columns]
        mine = {} if own is None else {"own": own[i, j]}
        shape = chunks[0][i], chunks[1][j]
        graph[name, i, j] = Task((name, i, j), apply, shape, rows, columns, *blocks, **mine)
    return name, HighLevelGraph.from_collections(name, graph, dependencies=[objects])


def _near_blocks(sizes: tuple[int, ...], depth: int) -> list[list[tuple[int, int]]]:
    """List for every block of one axis those within ``depth`` pixels, itself among them, and how far off they start."""
    edges = block_edges(sizes)
    first = np.searchsorted(edges[1:], edges[:-1] - depth, side="right")
    last = np.searchsorted(edges[:-1], edges[1:] + depth, side="left")
    return [[(n, int(edges[n] - edges[i])) for n in range(first[i], last[i])] for i in range(len(sizes))]


def _call_near(func, kwargs, depth, shape, rows, columns, *objects, **own):
    places = [(y, x) for _, y in rows for _, x in columns]
    near = [(place, boxed[0, 0]) for place, boxed in zip(places, objects, strict=True)]
    return func(near, shape=shape, depth=depth, **kwargs, **own)
