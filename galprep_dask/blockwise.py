"""Graph building that all rooms share: origins of blocks, sums over blocks, exchange of halos.

Every function here adds a fixed, small number of tasks per chunk, whatever the number of chunks: none for
origins (they travel inside the task that uses them), about one for a sum, two for a halo.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArrayValuesDep

__all__ = [
    "block_bounds",
    "block_edges",
    "collect_by_rows",
    "gather_neighbours",
    "keep_mask",
    "map_blocks_at",
    "map_blocks_each",
    "map_halo",
    "map_neighbours",
    "map_objects",
    "map_regions",
    "merge_blocks",
    "merge_blocks_at",
    "objects_of_blocks",
    "sum_blocks",
    "unite_chunks",
    "whole_image",
]


def block_edges(chunks: tuple[int, ...]) -> np.ndarray:
    """
    Pixel edges of the blocks along one axis: block ``i`` covers ``edges[i]:edges[i + 1]``.

    Examples
    --------
    >>> block_edges((3, 3, 1)).tolist()
    [0, 3, 6, 7]
    """
    return np.concatenate([[0], np.cumsum(chunks, dtype=np.int64)])


def block_bounds(chunks) -> ArrayValuesDep:
    """
    Rows and columns of each block, ``((y0, y1), (x0, x1))``, to be handed to ``dask.array.blockwise`` as an argument.

    They travel inside the tasks. An ``arange`` that all blocks of a row and of a column share would be a root of the
    graph, and whichever is made first would draw in its whole row and column: blocks then wait for each other.
    """
    edges = [block_edges(axis).tolist() for axis in chunks]
    values = np.empty([len(axis) for axis in chunks], dtype=object)
    for i, j in np.ndindex(values.shape):
        values[i, j] = ((edges[0][i], edges[0][i + 1]), (edges[1][j], edges[1][j + 1]))
    return ArrayValuesDep(chunks, values)


def map_blocks_at(func: Callable, *arrays: da.Array, dtype, **kwargs) -> da.Array:
    """
    Apply ``func(*blocks, origin=(y0, x0), **kwargs)`` to every block.

    Parameters
    ----------
    func : callable
        Gives an array of the shape of its blocks. ``y0, x0`` is the block's first pixel in the image.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    dtype : dtype
        Of what ``func`` gives.
    **kwargs
        Handed to ``func`` in every block; keep them small, they are part of the graph.

    Returns
    -------
    (ny, nx) dask array
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    return da.blockwise(
        partial(_call_at, func, len(arrays), **kwargs), "ij", *arguments, _origins(arrays[0].chunks), "ij",
        dtype=dtype, meta=np.empty((0, 0), dtype), align_arrays=False,
    )  # fmt: skip


def map_blocks_each(func: Callable, own: np.ndarray, *arrays: da.Array, dtype) -> da.Array:
    """
    Apply ``func(*blocks, own=own[i, j], origin=(y0, x0))`` to every block.

    Parameters
    ----------
    func : callable
        Gives an array of the shape of its blocks.
    own : (rows, columns) object array
        What belongs to each block; it travels with the task of that block alone.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    dtype : dtype
        Of what ``func`` gives.

    Returns
    -------
    (ny, nx) dask array
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    return da.blockwise(
        partial(_call_each, func, len(arrays)), "ij", *arguments, ArrayValuesDep(arrays[0].chunks, own), "ij",
        _origins(arrays[0].chunks), "ij", dtype=dtype, meta=np.empty((0, 0), dtype), align_arrays=False,
        token=tokenize(func, own, [array.name for array in arrays]),
    )  # fmt: skip


def _call_each(func, n_arrays, *blocks_and_more):
    own, origin = blocks_and_more[n_arrays:]
    return func(*blocks_and_more[:n_arrays], own=own, origin=origin)


def sum_blocks(func: Callable, *arrays: da.Array, shape: tuple[int, ...], **kwargs) -> da.Array:
    """
    Sum ``func(*blocks, origin=(y0, x0), **kwargs)`` over all blocks, lazily, in float64, by a tree.

    Parameters
    ----------
    func : callable
        Gives a float64 array of shape ``shape`` for one block.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    shape : tuple of int
        Of each block's contribution, and so of the result.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    dask array of shape ``shape``
        One chunk. Chunks of the image change the order of summation and nothing else.
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    axes = "abcdefgh"[: len(shape)]
    per_block = da.blockwise(
        partial(_call_at, partial(_as_summand, func), len(arrays), **kwargs), "ij" + axes,
        *arguments, _origins(arrays[0].chunks), "ij",
        new_axes=dict(zip(axes, shape, strict=True)), adjust_chunks={"i": 1, "j": 1},
        dtype=np.float64, meta=np.empty((0,) * (2 + len(shape))), align_arrays=False,
    )  # fmt: skip
    return per_block.sum(axis=(0, 1))


def merge_blocks(func: Callable, merge: Callable, *arrays: da.Array, **kwargs) -> da.Array:
    """
    Apply ``func(*blocks, **kwargs)`` to every block and merge what it gives, lazily, by a tree.

    Parameters
    ----------
    func : callable
        Gives any object for one block.
    merge : callable
        Takes a list of such objects and gives one. It is called on up to sixteen at a time.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (1, 1) dask array of objects
        Holds the one object that is left.
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    per_block = da.blockwise(
        partial(_as_object, func, **kwargs), "ij", *arguments,
        adjust_chunks={"i": 1, "j": 1}, dtype=object, meta=np.empty((0, 0), object), align_arrays=False,
    )  # fmt: skip
    return _merged(per_block, merge)


def merge_blocks_at(func: Callable, merge: Callable, *arrays: da.Array, **kwargs) -> da.Array:
    """Merge as :func:`merge_blocks`, of what ``func(*blocks, origin=(y0, x0), **kwargs)`` gives."""
    return _merged(objects_of_blocks(func, *arrays, **kwargs), merge)


def objects_of_blocks(func: Callable, *arrays: da.Array, **kwargs) -> da.Array:
    """
    Apply ``func(*blocks, origin=(y0, x0), **kwargs)`` to every block and keep the objects that it gives.

    Parameters
    ----------
    func : callable
        Gives any object for one block.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (rows, columns) dask array of objects
        One for every block, as the blocks lie in the image.
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    return da.blockwise(
        partial(_as_object, partial(_call_at, func, len(arrays)), **kwargs), "ij",
        *arguments, _origins(arrays[0].chunks), "ij",
        adjust_chunks={"i": 1, "j": 1}, dtype=object, meta=np.empty((0, 0), object), align_arrays=False,
    )  # fmt: skip


def collect_by_rows(objects: da.Array) -> da.Array:
    """
    Collect what :func:`objects_of_blocks` gives, in an order of tasks that keeps few blocks.

    Blocks that wait for the rims of their neighbours stay in memory. Left to itself, the scheduler begins in the middle
    and works outwards, with the whole of a growing front waiting. Here each row of blocks waits for that before it, so
    that the front is two rows and no more. One task a row, and one at the end.

    Parameters
    ----------
    objects : (rows, columns) dask array of objects
        One for every block.

    Returns
    -------
    (1,) dask array
        Holds the (rows, columns) NumPy array of objects.
    """
    token = tokenize(objects.name)
    row, collected = f"row-{token}", f"collected-{token}"
    n_rows, n_columns = objects.numblocks
    blocks = [[(objects.name, i, j) for j in range(n_columns)] for i in range(n_rows)]
    graph = {(row, i): (_row_done, blocks[i], *([(row, i - 1)] if i else [])) for i in range(n_rows)}
    graph[collected, 0] = (_collected, blocks, (row, n_rows - 1))
    graph = HighLevelGraph.from_collections(collected, graph, dependencies=[objects])
    return da.Array(graph, collected, ((1,),), meta=np.empty(0, object))


def _row_done(blocks, *before):
    return True


def _collected(blocks, done):
    collected = np.empty(1, object)
    collected[0] = np.empty((len(blocks), len(blocks[0])), object)
    for i, j in np.ndindex(collected[0].shape):
        collected[0][i, j] = blocks[i][j][0, 0]
    return collected


def map_regions(func: Callable, boxes: list, arrays: list[da.Array], own: list, **kwargs) -> da.Array:
    """
    Apply ``func(regions, own[k], box=boxes[k], **kwargs)`` to regions that lie across blocks as they like.

    One task a region, which takes what it needs of all the blocks that it meets.

    Parameters
    ----------
    func : callable
        ``regions`` is a list of arrays, one for each of ``arrays``. Gives any object.
    boxes : list of (y0, y1, x0, x1)
        Rows and columns of each region, inside the image.
    arrays : list of (ny, nx) dask arrays
        Images of the same chunks.
    own : list
        What belongs to each region.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (n,) dask array of objects
        One for every region, a chunk each.
    """
    edges = [block_edges(axis) for axis in arrays[0].chunks]
    name = f"regions-{tokenize(func, boxes, own, [array.name for array in arrays], kwargs)}"
    graph = {}
    for k, (y0, y1, x0, x1) in enumerate(boxes):
        rows, columns = (
            range(*np.searchsorted(axis, [low + 1, high]) + np.array([-1, 0]))
            for axis, (low, high) in zip(edges, ((y0, y1), (x0, x1)), strict=True)
        )
        origins = [(int(edges[0][i]), int(edges[1][j])) for i, j in product(rows, columns)]
        apply = partial(_gather_and_apply, func, own[k], boxes[k], origins, kwargs)
        graph[name, k] = (apply, [[(array.name, i, j) for i, j in product(rows, columns)] for array in arrays])
    graph = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
    return da.Array(graph, name, ((1,) * len(boxes),), meta=np.empty(0, object))


def _gather_and_apply(func, own, box, origins, kwargs, blocks):
    y0, y1, x0, x1 = box
    regions = []
    for parts in blocks:
        region = np.empty((y1 - y0, x1 - x0), parts[0].dtype)
        for part, (top, left) in zip(parts, origins, strict=True):
            bottom, right = top + part.shape[0], left + part.shape[1]
            rows, columns = (max(y0, top), min(y1, bottom)), (max(x0, left), min(x1, right))
            region[rows[0] - y0 : rows[1] - y0, columns[0] - x0 : columns[1] - x0] = part[
                rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left
            ]
        regions.append(region)
    boxed = np.empty(1, object)
    boxed[0] = func(regions, own, box=box, **kwargs)
    return boxed


def _merged(per_block: da.Array, merge: Callable) -> da.Array:
    return da.reduction(
        per_block, _same, partial(_merge_objects, merge), axis=(0, 1), keepdims=True, concatenate=False,
        split_every=4**2, dtype=object, meta=np.empty((0, 0), object),
    )  # fmt: skip


def map_objects(func: Callable, *arrays: da.Array, **kwargs) -> da.Array:
    """
    Apply ``func(*blocks, origin=(y0, x0), **kwargs)`` to every block and keep whatever it gives, one object a block.

    Parameters
    ----------
    func : callable
        Gives any object for one block.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    **kwargs
        Handed to ``func`` in every block.

    Returns
    -------
    (n, m) dask array of objects
        As many of them as there are blocks, each in a chunk of its own.
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    return da.blockwise(
        partial(_as_object, partial(_call_at, func, len(arrays), **kwargs)), "ij",
        *arguments, _origins(arrays[0].chunks), "ij",
        adjust_chunks={"i": 1, "j": 1}, dtype=object, meta=np.empty((0, 0), object), align_arrays=False,
    )  # fmt: skip


def _as_object(func, *blocks, **kwargs):
    boxed = np.empty((1, 1), object)
    boxed[0, 0] = func(*blocks, **kwargs)
    return boxed


def _same(block, axis=None, keepdims=None):
    return block


def _merge_objects(merge, boxes, axis=None, keepdims=None):
    while not isinstance(boxes[0], np.ndarray):
        boxes = [box for row in boxes for box in row]
    return _as_object(merge, [box[0, 0] for box in boxes])


def _origins(chunks) -> ArrayValuesDep:
    edges = [block_edges(axis)[:-1] for axis in chunks]
    values = np.empty([len(axis) for axis in chunks], dtype=object)
    for i, j in np.ndindex(values.shape):
        values[i, j] = (int(edges[0][i]), int(edges[1][j]))
    return ArrayValuesDep(chunks, values)


def _call_at(func, n_arrays, *blocks_and_origin, **kwargs):
    return func(*blocks_and_origin[:n_arrays], origin=blocks_and_origin[n_arrays], **kwargs)


def _as_summand(func, *blocks, **kwargs):
    return np.asarray(func(*blocks, **kwargs), dtype=np.float64)[None, None]


def whole_image(func: Callable, *arrays: da.Array, dtype, **kwargs) -> da.Array:
    """
    Apply ``func`` to whole images in one task and give the result back in chunks.

    For steps whose answer for a pixel may depend on any other pixel. The task holds its images whole.

    Parameters
    ----------
    func : callable
        Takes and gives whole NumPy images. A function of a module: what is defined inside another function
        travels to workers with all that it refers to, and not all of that can.
    *arrays : (ny, nx) dask arrays
        The images.
    dtype : dtype
        Of what ``func`` gives.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (ny, nx) dask array
    """
    shape = arrays[0].shape
    whole = [array.rechunk(shape) for array in arrays]
    result = da.map_blocks(partial(func, **kwargs), *whole, dtype=dtype, meta=np.empty((0, 0), dtype))
    return result.rechunk(arrays[0].chunks)


def keep_mask(mask: da.Array) -> da.Array:
    """
    Compute a mask now, once, and keep it in memory, a bit a pixel.

    Parameters
    ----------
    mask : (ny, nx) bool dask array
        What is needed more than once, and costs more than a look at its bits.

    Returns
    -------
    (ny, nx) bool dask array
        Of the same chunks. On a cluster the workers keep the bits.
    """
    packed = mask.map_blocks(
        np.packbits, axis=1, dtype=np.uint8, meta=np.empty((0, 0), np.uint8),
        chunks=(mask.chunks[0], tuple(-(-width // 8) for width in mask.chunks[1])),
    ).persist()  # fmt: skip
    widths = np.empty(mask.numblocks, object)
    widths[:] = mask.chunks[1]
    return da.blockwise(
        _unpacked, "ij", packed, "ij", ArrayValuesDep(packed.chunks, widths), "ij",
        dtype=bool, meta=np.empty((0, 0), bool), align_arrays=False,
        adjust_chunks={"j": mask.chunks[1]},
    )  # fmt: skip


def _unpacked(bits, width):
    return np.unpackbits(bits, axis=1, count=width).view(bool)


# Halo exchange -------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """What one rim gives to one padded block: ``window[into] = rims[i][take]``."""

    rim: tuple[int, int]  # side of the giving block: -1, 0 or 1 along y and x
    take: tuple[slice, slice]
    into: tuple[slice, slice]


_SIDES = [side for side in product((-1, 0, 1), repeat=2) if side != (0, 0)]


def map_halo(func: Callable, array: da.Array, depth: int, *, dtype, fill=0, trims: bool = False, **kwargs) -> da.Array:
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
    if depth == 0:
        return array.map_blocks(func, dtype=dtype, meta=meta, **kwargs)
    token = tokenize(func, array.name, depth, fill, trims, kwargs)
    rims, joined = f"rims-{token}", f"halo-{token}"
    plans = [_axis_plan(axis, depth) for axis in array.chunks]
    graph = {}
    for i, j in np.ndindex(*array.numblocks):
        graph[rims, i, j] = (partial(_copy_rims, depth=depth), (array.name, i, j))
        sources, pieces = [], []
        for (ii, side_y, take_y, into_y), (jj, side_x, take_x, into_x) in product(plans[0][i], plans[1][j]):
            if (side_y, side_x) != (0, 0):
                sources.append((rims, ii, jj))
                pieces.append(_Piece((side_y, side_x), (take_y, take_x), (into_y, into_x)))
        apply = partial(_join_and_apply, func, pieces, depth, fill, trims, kwargs)
        graph[joined, i, j] = (apply, (array.name, i, j), sources)
    graph = HighLevelGraph.from_collections(joined, graph, dependencies=[array])
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


def _copy_rims(block: np.ndarray, depth: int) -> dict[tuple[int, int], np.ndarray]:
    """Copy the eight rims, so that the block itself need not travel or stay in memory."""
    ny, nx = block.shape
    cut_y = {-1: slice(0, depth), 0: slice(None), 1: slice(max(ny - depth, 0), None)}
    cut_x = {-1: slice(0, depth), 0: slice(None), 1: slice(max(nx - depth, 0), None)}
    return {(sy, sx): block[cut_y[sy], cut_x[sx]].copy() for sy, sx in _SIDES}


def _join_and_apply(func, pieces, depth, fill, trims, kwargs, block, rims):
    ny, nx = block.shape
    window = np.full((ny + 2 * depth, nx + 2 * depth), fill, dtype=block.dtype)
    window[depth : depth + ny, depth : depth + nx] = block
    for piece, source in zip(pieces, rims, strict=True):
        window[piece.into] = source[piece.rim][piece.take]
    if trims:
        return func(window, **kwargs)
    # A copy: a view would keep the whole window in memory for as long as the block is wanted.
    return func(window, **kwargs)[depth : depth + ny, depth : depth + nx].copy()


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
    name, graph = _neighbour_graph(partial(_as_object, func), objects, chunks, depth, None, kwargs)
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
    graph = {}
    for i, j in np.ndindex(*objects.numblocks):
        blocks = list(product(near[0][i], near[1][j]))
        places = [(y, x) for (_, y), (_, x) in blocks]
        keywords = kwargs if own is None else kwargs | {"own": own[i, j]}
        apply = partial(_call_near, func, places, shape=(chunks[0][i], chunks[1][j]), depth=depth, **keywords)
        graph[name, i, j] = (apply, [(objects.name, ii, jj) for (ii, _), (jj, _) in blocks])
    return name, HighLevelGraph.from_collections(name, graph, dependencies=[objects])


def _near_blocks(sizes: tuple[int, ...], depth: int) -> list[list[tuple[int, int]]]:
    """List for every block of one axis those within ``depth`` pixels, itself among them, and how far off they start."""
    edges = block_edges(sizes)
    first = np.searchsorted(edges[1:], edges[:-1] - depth, side="right")
    last = np.searchsorted(edges[:-1], edges[1:] + depth, side="left")
    return [[(n, int(edges[n] - edges[i])) for n in range(first[i], last[i])] for i in range(len(sizes))]


def _call_near(func, places, objects, **kwargs):
    return func([(place, boxed[0, 0]) for place, boxed in zip(places, objects, strict=True)], **kwargs)
